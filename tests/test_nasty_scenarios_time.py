"""The nasty scenarios in which time plays the villain: clocks that are wrong, and memory that is older than its tombstones.

The numbers are those of the fifteen scenarios that the suite must cover.
"""

import shutil

import pytest
from wire import Wire

from vmctl.model import ABSENT
from vmctl.replica import Replica

DAY = 86_400.0
YEARS = 3 * 365 * DAY
FORGETFUL = {"housekeeping.deleted": 24, "tombstones.keep": "2d", "failover.start_wait": "1s"}


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


@pytest.fixture
def forgetful(tmp_path, no_fsync):
    """Two servers that purge after a day and forget two days later; the primary serves, and mailbox 2001 is there."""
    made = Wire(tmp_path / "net", FORGETFUL)
    made.start_roles()
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.in_step()
    yield made
    made.close()


def everywhere(wire, what):
    """What each server says."""
    return [what(replica) for replica in wire.servers.values()]


def back_up(wire, name, to):
    """A copy of a server's whole store."""
    wire.servers[name].close()
    shutil.copytree(wire.root(name), to, symlinks=True)
    wire.open(name)


def put_back(wire, name, backup):
    """The store of a server is again what it was at the backup."""
    wire.servers[name].close()
    shutil.rmtree(wire.root(name))
    shutil.copytree(backup, wire.root(name), symlinks=True)
    wire.open(name)


def lose_index(wire, name):
    """The index of a server is gone; its process starts anew."""
    wire.servers[name].close()
    for path in (wire.root(name) / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open(name)


def delete_and_forget(wire, ident):
    """A message is deleted, purged, and its tombstone dropped on both servers."""
    wire.desk().delete_message("2001", ident)
    wire.in_step()
    wire.night(1.5)
    assert all(everywhere(wire, lambda replica: replica.index.get(f"message/2001/{ident}").record.is_purged))
    wire.night(2.5)
    assert [None, None] == everywhere(wire, lambda replica: replica.index.get(f"message/2001/{ident}"))


# 3. Delete on one side while the other saves or marks


@pytest.mark.parametrize("ahead", ["primary", "secondary", None])
@pytest.mark.parametrize(("status", "stays"), [("saved", True), ("old", False)])
def test_3_a_save_outlives_a_concurrent_delete_and_a_mark_does_not(wire, box, recording, ahead, status, stays):
    """Whoever's clock is years ahead: what counts is what each had seen."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    clocks = wire.own_clocks()
    if ahead:
        clocks[ahead].off = YEARS
    wire.desk().delete_message(box, ident)
    wire.desk("secondary").mark(box, ident, status)
    wire.in_step()
    expected = [ident] if stays else []
    assert [expected, expected] == [wire.messages(box, name) for name in wire.servers]


# 4. Two edits of one setting on both sides of a partition, one clock years ahead


@pytest.mark.parametrize("ahead", ["primary", "secondary"])
def test_4_two_edits_on_each_side_with_a_clock_years_ahead(wire, ahead):
    """Both hold one value and list the other; and the next edit wins although its clock is the right one."""
    wire.desk().set_settings({"mail.subject": "before"})
    wire.in_step()
    clocks = wire.own_clocks()
    clocks[ahead].off = YEARS
    for number in (1, 2):
        for name in wire.servers:
            wire.clock.advance(60)
            wire.desk(name).set_settings({"mail.subject": f"{name} {number}"})
    wire.in_step()
    value = lambda replica: replica.store.document("settings")["mail.subject"]  # noqa: E731
    assert [f"{ahead} 2"] * 2 == everywhere(wire, value)
    lost = everywhere(wire, lambda replica: [
        entry.record.document["lost"]["is"] for entry in replica.index.entries("kind = 'conflict'")
    ])  # fmt: skip
    assert [[f"{wire.other(ahead)} 2"]] * 2 == lost
    clocks[ahead].off = 0.0
    for name in (wire.other(ahead), ahead):
        wire.desk(name).set_settings({"mail.subject": f"after, by {name}"})
        wire.in_step()
        assert [f"after, by {name}"] * 2 == everywhere(wire, value)
    wire.desk(wire.other(ahead)).set_settings({"mail.subject": ABSENT})
    wire.in_step()
    assert [None, None] == everywhere(
        wire, lambda replica: (replica.store.document("settings") or {}).get("mail.subject")
    )


@pytest.mark.parametrize("ahead", ["primary", "secondary"])
def test_a_delete_with_a_clock_years_ahead(forgetful, recording, ahead):
    """It deletes what its author had seen and nothing else; it can be restored for its full time, and not for years."""
    wire = forgetful
    seen = wire.desk().leave("2001", recording())
    wire.in_step()
    clocks = wire.own_clocks()
    clocks[ahead].off = YEARS
    wire.desk(ahead).delete_message("2001", seen)
    later = wire.desk(wire.other(ahead)).leave("2001", recording())
    wire.in_step()
    for name in wire.servers:
        assert wire.keep(name).stopped
    clocks[ahead].off = 0.0
    wire.in_step()
    for name in wire.servers:
        wire.keep(name, trust_clock=True)
    wire.night(0.9)
    wire.desk(wire.other(ahead)).restore_message("2001", seen)
    wire.in_step()
    assert [sorted([seen, later])] * 2 == [wire.messages("2001", name) for name in wire.servers]
    wire.desk(wire.other(ahead)).delete_message("2001", seen)
    wire.in_step()
    wire.night(0.1)
    wire.night(1.1)
    assert all(everywhere(wire, lambda replica: replica.index.get(f"message/2001/{seen}").record.is_purged))
    wire.in_step()
    assert [[later]] * 2 == [wire.messages("2001", name) for name in wire.servers]


# 15. What the log does not hold any more, and a peer that comes back after that


@pytest.mark.parametrize("by", ["primary", "secondary"])
def test_15_a_backup_older_than_the_tombstones_brings_nothing_back(forgetful, recording, tmp_path, by):
    """A server restored from before the deletion offers the message again: it stays deleted, and can be restored."""
    wire = forgetful
    gone = wire.desk(by).leave("2001", recording())
    kept = wire.desk().leave("2001", recording())
    wire.in_step()
    back_up(wire, "secondary", tmp_path / "backup")
    delete_and_forget(wire, gone)
    new = wire.desk().leave("2001", recording())
    wire.in_step()
    put_back(wire, "secondary", tmp_path / "backup")
    assert [gone, kept] == wire.messages("2001", "secondary")
    wire.in_step()
    assert [[kept, new]] * 2 == [wire.messages("2001", name) for name in wire.servers]
    said = [entry.get("record") for entry in wire.a.journal.entries() if "old copy" in str(entry.get("event"))]
    assert [f"message/2001/{gone}"] == said
    wire.desk("secondary").restore_message("2001", gone)
    wire.in_step()
    assert [[gone, kept, new]] * 2 == [wire.messages("2001", name) for name in wire.servers]


def test_15_two_old_backups_bring_nothing_back(forgetful, recording, tmp_path):
    """Who forgot it was rolled back itself since, and knows what it once held under its former incarnation."""
    wire = forgetful
    gone = wire.desk().leave("2001", recording())
    wire.in_step()
    back_up(wire, "secondary", tmp_path / "old")
    delete_and_forget(wire, gone)
    back_up(wire, "primary", tmp_path / "newer")
    new = wire.desk().leave("2001", recording())
    wire.in_step()
    put_back(wire, "primary", tmp_path / "newer")
    wire.in_step()
    put_back(wire, "secondary", tmp_path / "old")
    wire.in_step()
    assert [[new]] * 2 == [wire.messages("2001", name) for name in wire.servers]


def test_15_a_save_after_such_a_restore_wins(forgetful, recording, tmp_path):
    """A person who finds the message in the restored store and saves it means it."""
    wire = forgetful
    gone = wire.desk().leave("2001", recording())
    wire.in_step()
    back_up(wire, "secondary", tmp_path / "backup")
    delete_and_forget(wire, gone)
    put_back(wire, "secondary", tmp_path / "backup")
    wire.desk("secondary").mark("2001", gone, "saved")
    wire.in_step()
    assert [[gone]] * 2 == [wire.messages("2001", name) for name in wire.servers]


def test_15_a_peer_that_was_away_for_a_year(forgetful, recording):
    """What each did alone is merged; what was deleted on one side only waits with its tombstone as long as it takes."""
    wire = forgetful
    gone, kept = (wire.desk().leave("2001", recording()) for _ in range(2))
    wire.in_step()
    wire.desk().delete_message("2001", gone)
    here, there = wire.desk().leave("2001", recording()), wire.desk("secondary").leave("2001", recording())
    for _ in range(12):
        wire.clock.advance(31 * DAY)
        for name in wire.servers:
            wire.keep(name)
            wire.send(name, always=True)
        wire.lose()
    assert wire.a.index.get(f"message/2001/{gone}") is not None
    wire.in_step()
    assert [sorted([kept, here, there])] * 2 == [wire.messages("2001", name) for name in wire.servers]
    wire.night(1.5)
    wire.night(2.5)
    assert [None, None] == everywhere(wire, lambda replica: replica.index.get(f"message/2001/{gone}"))
    wire.in_step()


def test_15_a_mail_from_before_the_tombstones(forgetful, recording):
    """A mail that was under way for longer than anybody remembers what it brings changes nothing."""
    wire = forgetful
    gone = wire.desk("secondary").leave("2001", recording())
    old = wire.send("secondary")
    wire.in_step()
    delete_and_forget(wire, gone)
    wire.under_way = [("primary", raw) for raw in old]
    wire.deliver()
    wire.in_step()
    assert [[], []] == [wire.messages("2001", name) for name in wire.servers]


@pytest.mark.parametrize("who", ["primary", "secondary", "both"])
def test_15_a_new_index_after_tombstones_were_dropped_loses_nothing(forgetful, recording, who):
    """What was forgotten is held against nobody's living messages, old or new."""
    wire = forgetful
    old = wire.desk().leave("2001", recording())
    gone = wire.desk("secondary").leave("2001", recording())
    wire.in_step()
    delete_and_forget(wire, gone)
    new = wire.desk("secondary").leave("2001", recording())
    wire.in_step()
    for name in wire.servers if who == "both" else [who]:
        lose_index(wire, name)
    last = wire.desk("secondary").leave("2001", recording())
    wire.in_step()
    assert [[old, new, last]] * 2 == [wire.messages("2001", name) for name in wire.servers]


def test_15_an_empty_disk_after_tombstones_were_dropped_loses_nothing(forgetful, recording):
    """A server replaced by an empty one gets all of it, births below every bound included."""
    wire = forgetful
    old = wire.desk("secondary").leave("2001", recording())
    gone = wire.desk("secondary").leave("2001", recording())
    wire.in_step()
    delete_and_forget(wire, gone)
    wire.a.close()
    for path in wire.root().iterdir():
        if path.name == "mailboxes":
            shutil.rmtree(path)
    for path in (wire.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("primary")
    assert isinstance(wire.a, Replica)
    wire.in_step()
    assert [[old]] * 2 == [wire.messages("2001", name) for name in wire.servers]


def test_15_a_file_out_of_an_old_backup_is_a_wish(forgetful, recording, tmp_path):
    """Files of a forgotten message that a person puts back into the folder are the message again, on both servers."""
    wire = forgetful
    gone = wire.desk().leave("2001", recording())
    wire.in_step()
    folder = wire.root() / "mailboxes/2001/messages"
    shutil.copytree(folder, tmp_path / "files")
    delete_and_forget(wire, gone)
    shutil.copytree(tmp_path / "files", folder, dirs_exist_ok=True)
    wire.in_step()
    assert [[gone]] * 2 == [wire.messages("2001", name) for name in wire.servers]
