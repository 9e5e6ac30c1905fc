"""A store, or a part of one, that is put back from a backup: it joins the other server, and neither loses anything."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS
from wire import Wire, back_up, lose_index, put_back

from vmctl.errors import BrokenFile

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


@pytest.fixture
def box(wire: Wire) -> str:
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def documents(wire: Wire, key: str) -> list[Any]:
    """The document of a record as each store holds it."""
    return [replica.store.document(key) for replica in wire.servers.values()]


def copy_part(wire: Wire, name: str, to: Path, *parts: str) -> None:
    """A copy of some files and folders of a server's store."""
    shutil.rmtree(to, ignore_errors=True)
    for part in parts:
        source = wire.root(name) / part
        (to / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, to / part)


def put_part_back(wire: Wire, name: str, backup: Path, *parts: str) -> None:
    """Those files and folders are again as they were, while nothing runs there."""
    wire.servers[name].close()
    for part in parts:
        target = wire.root(name) / part
        if target.is_dir():
            shutil.rmtree(target)
            shutil.copytree(backup / part, target)
        else:
            shutil.copy2(backup / part, target)
    wire.open(name)


def test_only_the_index_restored(wire: Wire, box: str, recording: Any, tmp_path: Path) -> None:
    """The files are newer than what the index knows: nothing is undone, doubled, lost or brought back."""
    early, gone = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    wire.a.index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy_part(wire, "primary", tmp_path / "backup", ".vmctl/index.db")
    late = [wire.desk(name).leave(box, recording()) for name in SERVERS]
    wire.desk().delete_message(box, gone)
    wire.desk().mark(box, early, "saved")
    wire.desk("secondary").set_mailbox(box, {"name": "Bob"})
    wire.in_step()
    wire.desk("secondary").set_mailbox(box, {"quota": 7})
    put_part_back(wire, "primary", tmp_path / "backup", ".vmctl/index.db")
    wire.in_step()
    assert [sorted([early, *late])] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]
    assert {"saved"} == {document["status"] for document in documents(wire, f"message/{box}/{early}")}
    assert [{"name": "Bob", "quota": 7, "service": "voicemail"}] * 2 == documents(wire, f"mailbox/{box}")


def test_only_an_index_of_a_former_life_restored(wire: Wire, box: str, recording: Any, tmp_path: Path) -> None:
    """The index is older than the incarnation: the server starts over, and all is there once."""
    early = wire.desk().leave(box, recording())
    wire.in_step()
    wire.a.index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy_part(wire, "primary", tmp_path / "backup", ".vmctl/index.db")
    lose_index(wire, "primary")
    late = [wire.desk(name).leave(box, recording()) for name in SERVERS]
    wire.in_step()
    lives = wire.a.index.meta("incarnation")
    put_part_back(wire, "primary", tmp_path / "backup", ".vmctl/index.db")
    assert lives != wire.a.index.meta("incarnation")
    wire.in_step()
    assert [sorted([early, *late])] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]


@pytest.mark.parametrize("changes", [0, 3])
def test_restored_twice_to_the_same_backup(wire: Wire, box: str, recording: Any, tmp_path: Path, changes: int) -> None:
    """Each time it is found, and what was made after each of them and reached the peer is there."""
    early = wire.desk().leave(box, recording())
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    expected, lives = {early}, {wire.a.index.meta("incarnation")}
    for _ in range(2):
        expected |= {wire.desk(name).leave(box, recording()) for name in SERVERS}
        wire.in_step()
        put_back(wire, "primary", tmp_path / "backup")
        expected |= {wire.desk().leave(box, recording()) for _ in range(changes)}
        wire.in_step()
        assert wire.a.index.meta("incarnation") not in lives
        lives.add(wire.a.index.meta("incarnation"))
        assert [sorted(expected)] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]


def test_snapshots_of_both_taken_at_different_times(wire: Wire, box: str, recording: Any, tmp_path: Path) -> None:
    """Both virtual machines go back, one further: what either still holds is on both, and what was deleted stays so."""
    early, gone = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    back_up(wire, "primary", tmp_path / "one")
    between = wire.desk().leave(box, recording())
    wire.desk("secondary").delete_message(box, gone)
    wire.desk("secondary").set_mailbox(box, {"name": "Bob"})
    wire.in_step()
    back_up(wire, "secondary", tmp_path / "other")
    wire.desk().leave(box, recording())  # is on neither snapshot
    wire.desk("secondary").delete_message(box, early)
    wire.in_step()
    put_back(wire, "primary", tmp_path / "one")
    put_back(wire, "secondary", tmp_path / "other")
    new = [wire.desk(name).leave(box, recording()) for name in SERVERS]
    wire.in_step()
    assert [sorted([early, between, *new])] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]
    assert ["Bob", "Bob"] == [document["name"] for document in documents(wire, f"mailbox/{box}")]


def test_restored_while_the_peer_was_away_and_both_changed(
    wire: Wire, box: str, recording: Any, tmp_path: Path
) -> None:
    """Weeks without a mail, a restore in their midst: both sides' changes are there, and the deleted stay deleted."""
    early, gone = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    reached = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().set_mailbox(box, {"name": "Lost"})  # no mail leaves any more
    wire.clock.advance(10 * DAY)
    put_back(wire, "primary", tmp_path / "backup")
    wire.clock.advance(10 * DAY)
    wire.clock.as_files()
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.desk("secondary").set_mailbox(box, {"language": "fr"})
    wire.desk("secondary").delete_message(box, gone)
    wire.desk("secondary").mark(box, early, "saved")
    wire.desk().mark(box, early, "old")
    wire.desk().delete_message(box, early)
    new = [wire.desk(name).leave(box, recording()) for name in SERVERS]
    wire.in_step()
    assert [sorted([early, reached, *new])] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]
    assert [{"name": "Ada", "quota": 5, "language": "fr", "service": "voicemail"}] * 2 == documents(
        wire, "mailbox/2001"
    )


def test_both_indexes_lost_after_deletes_and_saves(wire: Wire, box: str, recording: Any) -> None:
    """Nothing but the files is left: what was deleted here or there stays deleted, what was saved stays saved."""
    idents = [wire.desk().leave(box, recording()) for _ in range(6)]
    wire.in_step()
    kept, gone_here, gone_there, saved_here, marked, restored = idents
    wire.desk().delete_message(box, gone_here)
    wire.desk("secondary").delete_message(box, gone_there)
    wire.desk().mark(box, saved_here, "saved")
    wire.desk("secondary").delete_message(box, saved_here)  # had not seen the save
    wire.desk("secondary").mark(box, marked, "old")
    wire.desk().delete_message(box, restored)
    wire.desk().restore_message(box, restored)
    for name in SERVERS:
        lose_index(wire, name)
    new = [wire.desk(name).leave(box, recording()) for name in SERVERS]
    wire.in_step()
    assert [sorted([kept, saved_here, marked, restored, *new])] * 2 == [
        sorted(wire.messages(box, name)) for name in SERVERS
    ]
    assert {"old"} == {document["status"] for document in documents(wire, f"message/{box}/{marked}")}
    assert {"saved"} == {document["status"] for document in documents(wire, f"message/{box}/{saved_here}")}


def test_only_the_mailboxes_restored(wire: Wire, box: str, recording: Any, tmp_path: Path) -> None:
    """Files older than the index are named and held: no setting is set back, nothing is deleted or brought back."""
    wire.desk().set_prompt("welcome", recording())
    for number in range(30):
        wire.desk().create_mailbox(f"30{number:02}", {"name": "Early"})
    kept, gone = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    copy_part(wire, "primary", tmp_path / "backup", "mailboxes")
    for number in range(30):
        wire.desk().set_mailbox(f"30{number:02}", {"name": "Late"})
    wire.desk().delete_message(box, gone)
    wire.desk().mark(box, kept, "old")
    late = wire.desk().leave(box, recording())
    wire.in_step()
    put_part_back(wire, "primary", tmp_path / "backup", "mailboxes")
    for _ in range(3):
        assert 33 == len(wire.scan().held)
    wire.desk("secondary").set_mailbox("3000", {"quota": 3})
    wire.exchange()
    wire.crash("primary")
    with pytest.raises(BrokenFile, match="older than what was here"):
        wire.desk().set_mailbox("3001", {"quota": 4})
    wire.scan()
    wire.exchange()
    assert sorted([kept, late]) == wire.messages(box, "secondary")
    assert "Late" == wire.b.store.document("mailbox/3000")["name"]
    assert any("vmctl reindex" in fault["mend"] for fault in wire.a.index.faults.all())
    lose_index(wire, "primary")  # as `vmctl reindex` does it
    wire.in_step()
    assert [sorted([kept, late])] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]
    assert ["Late", "Late"] == [document["name"] for document in documents(wire, "mailbox/3000")]
    assert {"old"} == {document["status"] for document in documents(wire, f"message/{box}/{kept}")}
    assert 3 == wire.a.store.document("mailbox/3000")["quota"]
    assert [] == wire.a.index.faults.all()


def test_a_few_old_files_are_edits(wire: Wire, box: str, recording: Any, tmp_path: Path) -> None:
    """Somebody copies one mailbox and one deleted message back: both are as they were then, on both servers."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    copy_part(wire, "primary", tmp_path / "backup", "mailboxes")
    wire.desk().delete_message(box, ident)
    wire.desk().set_mailbox(box, {"name": "Bob"})
    wire.in_step()
    put_part_back(wire, "primary", tmp_path / "backup", "mailboxes")
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in SERVERS]
    assert ["Ada", "Ada"] == [document["name"] for document in documents(wire, "mailbox/2001")]


def test_old_files_that_a_person_takes_for_edits_are_edits(wire: Wire, tmp_path: Path) -> None:
    """`sync --accept-deletions` lets them count: all mailboxes are as they were then, on both servers."""
    for number in range(30):
        wire.desk().create_mailbox(f"30{number:02}", {"name": "Early"})
    wire.in_step()
    copy_part(wire, "primary", tmp_path / "backup", "mailboxes")
    for number in range(30):
        wire.desk().set_mailbox(f"30{number:02}", {"name": "Late"})
    wire.in_step()
    put_part_back(wire, "primary", tmp_path / "backup", "mailboxes")
    assert 30 == len(wire.scan().held)
    assert [] == wire.scan(accept_deletions=True).held
    wire.in_step()
    assert [{"Early"}] * 2 == [
        {replica.store.document(f"mailbox/30{number:02}")["name"] for number in range(30)}
        for replica in wire.servers.values()
    ]
