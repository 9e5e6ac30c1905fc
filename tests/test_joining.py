"""A server that is new, was replaced, or has lost its memory joins the other without loss, doubles or undone edits."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS, Net, run, until, wav
from wire import Wire, tone

from vmctl import errors, identity
from vmctl.join import carry_out, plan
from vmctl.reindex import rebuild
from vmctl.undo import Undo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTE = {"from": "+441", "received": "2026-01-31T08:15:00Z", "status": "new"}
DAY = 86_400


# Two stores that were both in use before


class Before(Wire):
    """Two directories that an application used without vmctl; `join` makes them stores."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for name in SERVERS:
            self.servers[name].close()
            shutil.rmtree(self.root(name))
            self.root(name).mkdir()

    def join(self, name: str) -> None:
        """`vmctl join`, and the start of what works on the store."""
        carry_out(plan(self.config, name, self.clock.wall()))
        self.open(name)

    def both_join(self) -> None:
        """Both join, and come in step."""
        for name in SERVERS:
            self.join(name)
        self.in_step()

    def put(self, path: str, text: str, *names: str, age: float = DAY) -> None:
        """A file that was last written `age` seconds ago, in each store that is named."""
        for name in names or SERVERS:
            target = self.root(name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            then = self.clock.wall() / 1e6 - age
            os.utime(target, (then, then))

    def message(self, ident: str, *names: str, seed: str | None = None, age: float = DAY, **fields: Any) -> None:
        """A message as an application writes it, in each store that is named."""
        for name in names or SERVERS:
            self.put(f"mailboxes/2001/messages/{ident}.json", json.dumps(NOTE | fields), name, age=age)
            tone(self.root(name) / f"mailboxes/2001/messages/{ident}.wav", seed=seed or ident)

    def conflicts(self, name: str = "primary") -> list[dict[str, Any]]:
        """What a server lists as lost."""
        return [entry.record.document for entry in self.servers[name].index.entries("kind = 'conflict' AND lives")]


@pytest.fixture
def before(tmp_path: Path, no_fsync: None) -> Iterator[Before]:
    """Two empty directories, named by one vmctl.yaml."""
    made = Before(tmp_path / "net")
    made.put("mailboxes/2001/mailbox.yaml", "name: Ada\n")
    yield made
    made.close()


def test_equal_files_are_joined_without_conflicts_and_doubles(before: Before) -> None:
    """Copied with rsync once: what is equal on both is one record, whatever the files' times, and nothing is listed."""
    before.message("msg0001")
    before.put("settings.yaml", "defaults:\n  quota: 50\n", "primary")
    before.put("settings.yaml", "defaults: {quota: 50}\n", "secondary", age=3 * DAY)
    before.both_join()
    assert [["msg0001"]] * 2 == [before.messages("2001", name) for name in SERVERS]
    assert [[], []] == [before.conflicts(name) for name in SERVERS]


@pytest.mark.parametrize("newer", SERVERS)
def test_of_two_files_that_differ_the_later_counts_and_the_other_is_listed(before: Before, newer: str) -> None:
    """By the files' times, whoever joins first; what lost is listed on both with both values."""
    older = before.other(newer)
    before.put("mailboxes/2001/mailbox.yaml", f"name: of {newer}\n", newer, age=DAY)
    before.put("mailboxes/2001/mailbox.yaml", f"name: of {older}\nlanguage: fr\n", older, age=2 * DAY)
    before.both_join()
    wanted = {"name": f"of {newer}", "language": "fr"}
    assert [wanted, wanted] == [replica.store.document("mailbox/2001") for replica in before.servers.values()]
    for name in SERVERS:
        lost = [(one["field"], one["won"]["is"], one["lost"]["is"]) for one in before.conflicts(name)]
        assert [("name", f"of {newer}", f"of {older}")] == lost


def test_messages_of_one_side_come_over(before: Before) -> None:
    """What only one side has is on both afterwards, in both directions."""
    before.message("of-primary", "primary")
    before.message("of-secondary", "secondary")
    before.both_join()
    assert [["of-primary", "of-secondary"]] * 2 == [before.messages("2001", name) for name in SERVERS]


@pytest.mark.parametrize("newer", SERVERS)
def test_two_messages_of_one_id_stay_two(before: Before, newer: str) -> None:
    """Both applications counted from msg0001: each recording is in a message of its own, on both, and it is listed."""
    older = before.other(newer)
    before.message("msg0001", newer, seed="one", age=DAY, **{"from": "+1"})
    before.message("msg0001", older, seed="two", age=2 * DAY, **{"from": "+2"})
    before.both_join()
    found = [
        {
            (document["from"], document["audio"]["sha256"])
            for ident in before.messages("2001", name)
            if (document := before.servers[name].store.document(f"message/2001/{ident}"))
        }
        for name in SERVERS
    ]
    assert found[0] == found[1]
    assert {"+1", "+2"} == {caller for caller, _ in found[0]}
    assert 2 == len({sha256 for _, sha256 in found[0]})
    assert "msg0001" in before.messages("2001")
    assert [["audio"]] * 2 == [[one["field"] for one in before.conflicts(name)] for name in SERVERS]
    undo = Undo(before.a, before.desk())
    with pytest.raises(errors.AlreadyExists, match="the other recording is the message message/2001/msg0001-"):
        undo.take(undo.listed()[0].key.partition("/")[2])
    for name in SERVERS:  # and again, with nothing left to do
        before.scan(name, full=True)
    before.exchange()
    assert [2, 2] == [len(before.messages("2001", name)) for name in SERVERS]


def test_what_was_deleted_on_one_side_before_comes_back(before: Before) -> None:
    """Nobody remembers a deletion from before vmctl: the copy that is left counts."""
    before.message("deleted-at-secondary", "primary")
    before.both_join()
    assert ["deleted-at-secondary"] == before.messages("2001", "secondary")


# vmctl join


def test_a_second_store_joins_a_first_that_works_already(wire: Wire, recording: Any) -> None:
    """A new disk: the server's directory is empty, joins, and gets everything; what it had shipped is not lost."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    kept, gone = wire.desk("secondary").leave("2001", recording()), wire.desk().leave("2001", recording())
    wire.in_step()
    wire.desk().delete_message("2001", gone)
    wire.in_step()
    wire.b.close()
    shutil.rmtree(wire.root("secondary"))
    planned = plan(wire.config, "secondary", wire.clock.wall())
    assert planned.made
    assert {0} == set(planned.found.values())
    carry_out(planned)
    wire.open("secondary")
    wire.in_step()
    assert [[kept], [kept]] == [wire.messages("2001", name) for name in SERVERS]
    assert 0 == wire.a.index.count("kind = 'conflict'")


def test_a_copy_of_the_other_store_joins(wire: Wire, recording: Any) -> None:
    """Copied by rsync with its `.vmctl`: that is set aside, and what happened on both since is on both."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    old = wire.desk().leave("2001", recording())
    gone = wire.desk().leave("2001", recording())
    wire.scan()
    for replica in wire.servers.values():
        replica.close()
    shutil.rmtree(wire.root("secondary"))
    shutil.copytree(wire.root(), wire.root("secondary"), symlinks=True)
    wire.open("primary")
    wire.desk().delete_message("2001", gone)
    planned = plan(wire.config, "secondary", wire.clock.wall())
    assert "primary" == planned.former
    assert {"mailboxes": 1, "messages": 2} == {name: count for name, count in planned.found.items() if count}
    carry_out(planned)
    assert planned.aside is not None
    assert (planned.aside / "index.db").exists()
    wire.open("secondary")
    wire.desk("secondary").set_mailbox("2001", {"language": "fr"})
    new = wire.desk("secondary").leave("2001", recording())
    wire.in_step()
    assert [[old, new]] * 2 == [wire.messages("2001", name) for name in SERVERS]
    assert "fr" == wire.a.store.document("mailbox/2001")["language"]
    assert 0 == wire.a.index.count("kind = 'conflict'")


@pytest.mark.parametrize("left", ["identity.json", "index.db"])
def test_an_index_of_the_other_server_is_never_used(wire: Wire, left: str) -> None:
    """Only the index was copied, or all but the identity: what the other has shown is no news of what is here."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    wire.desk().create_mailbox("2002", {"name": "Bob"})
    for replica in wire.servers.values():
        replica.close()
    state = wire.root("secondary") / ".vmctl"
    for path in state.glob("index.db*"):
        path.unlink()
    shutil.copy2(wire.root() / ".vmctl/index.db", state)
    if left == "index.db":
        with pytest.raises(errors.IndexDamaged, match="is that of primary"):
            wire.open("secondary")
        rebuild(wire.config, "secondary", wire.clock, wire.clock.advance)
    else:
        (state / "identity.json").unlink()
        planned = plan(wire.config, "secondary", wire.clock.wall())
        assert "primary" == planned.former
        carry_out(planned)
    for name in SERVERS:
        wire.open(name)
    wire.in_step()
    assert [["2001", "2002"]] * 2 == [replica.store.names("mailbox") for replica in wire.servers.values()]


def test_a_store_of_this_server_is_not_joined_again(wire: Wire) -> None:
    """It is refused, with what to type instead; that of another network is refused as well."""
    with pytest.raises(errors.AlreadyExists) as caught:
        plan(wire.config, "primary", 0)
    assert "vmctl reindex" in caught.value.hint
    path = wire.root() / ".vmctl/identity.json"
    path.write_text(path.read_text().replace(f'"{wire.config.network}"', '"other"'))
    with pytest.raises(errors.StoreForeign, match="network other"):
        plan(wire.config, "primary", 0)


def test_a_join_that_is_cut_off_is_done_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash after the `.vmctl` was set aside leaves no store; another join makes one."""
    wire.b.close()
    path = wire.root("secondary") / ".vmctl/identity.json"
    path.write_text(path.read_text().replace("secondary", "primary"))

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(identity, "create", crash)
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan(wire.config, "secondary", 1))
    assert plan(wire.config, "secondary", 2).former is None
    carry_out(plan(wire.config, "secondary", 2))
    wire.open("secondary")
    wire.in_step()


# vmctl reindex


def damage(path: Path, how: str) -> None:
    """Hurt an index as disks and people do."""
    match how:
        case "garbage":
            path.write_bytes(b"this is no database" * 999)
        case "cut short":
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        case "a page lost":
            with path.open("r+b") as file:
                for at in range(4096, path.stat().st_size, 4096):
                    file.seek(at)
                    file.write(b"\xff" * 4096)
        case "another program's":
            path.unlink()
            db = sqlite3.connect(path)
            db.execute("CREATE TABLE moz_places (url)")
            db.commit()
            db.close()
        case "gone":
            path.unlink()


def use(wire: Wire) -> None:
    """Open the primary's store and look at all that its index holds."""
    replica = wire.open("primary")
    try:
        list(replica.index.entries())
        replica.index.faults.all()
        replica.index.looks.files(["settings.yaml"])
        list(replica.index.looks.folders())
    finally:
        replica.close()


@pytest.mark.parametrize("how", ["garbage", "cut short", "a page lost", "another program's", "gone", "well"])
def test_whatever_the_index_is_reindex_builds_a_new_one(wire: Wire, recording: Any, how: str) -> None:
    """The old one is set aside, the store joins again, and everything is there once."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    kept, gone = (wire.desk().leave("2001", recording()) for _ in range(2))
    wire.in_step()
    wire.desk().delete_message("2001", gone)
    wire.desk("secondary").set_mailbox("2001", {"language": "fr"})
    before = wire.a.index.meta("incarnation")
    wire.a.index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wire.a.close()
    index = wire.root() / ".vmctl/index.db"
    damage(index, how)
    if how not in {"gone", "well"}:
        with pytest.raises(errors.IndexDamaged) as caught:
            use(wire)
        assert "vmctl reindex" in caught.value.hint
    made = rebuild(wire.config, "primary", wire.clock, wire.clock.advance)
    assert (2, 1, []) == (made.records, made.messages, made.faults)
    assert before != made.incarnation
    assert (how != "gone") == (made.aside is not None and made.aside.exists())
    wire.open("primary")
    wire.in_step()
    assert [[kept], [kept]] == [wire.messages("2001", name) for name in SERVERS]
    assert "fr" == wire.a.store.document("mailbox/2001")["language"]
    assert 0 == wire.a.index.count("kind = 'conflict'")


@pytest.mark.parametrize("newer", SERVERS)
def test_an_edit_on_each_side_of_a_lost_index(wire: Wire, newer: str) -> None:
    """The file's time counts, not the time of the join: the later edit is not undone, and the other is listed."""
    wire.desk().create_mailbox("2001", {"name": "Ada", "quota": 5})
    wire.in_step()
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text(path.read_text().replace("Ada", "By hand at primary"))
    wire.desk("secondary").set_mailbox("2001", {"name": "At secondary"})
    then = wire.clock.wall() / 1e6 + (-60 if newer == "secondary" else 60)
    os.utime(path, (then, then))
    wire.a.close()
    wire.clock.advance(120)
    rebuild(wire.config, "primary", wire.clock, wire.clock.advance)
    wire.open("primary")
    wire.in_step()
    won, lost = ("By hand at primary", "At secondary")[:: 1 if newer == "primary" else -1]
    assert [won, won] == [replica.store.document("mailbox/2001")["name"] for replica in wire.servers.values()]
    for replica in wire.servers.values():
        listed = [entry.record.document for entry in replica.index.entries("kind = 'conflict'")]
        assert [(won, lost)] == [(one["won"]["is"], one["lost"]["is"]) for one in listed]


def test_a_mailbox_deleted_while_the_index_was_lost_comes_back_and_is_listed(wire: Wire, recording: Any) -> None:
    """The deletion had not seen that the file would be taken for new: both are kept in sight, and its message is gone."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.desk().leave("2001", recording())
    wire.in_step()
    wire.desk("secondary").delete_mailbox("2001")
    wire.a.close()
    rebuild(wire.config, "primary", wire.clock, wire.clock.advance)
    wire.open("primary")
    wire.in_step()
    assert [["2001"], ["2001"]] == [replica.store.names("mailbox") for replica in wire.servers.values()]
    assert [[], []] == [wire.messages("2001", name) for name in SERVERS]
    assert [1, 1] == [replica.index.count("kind = 'conflict'") for replica in wire.servers.values()]


# As people type it


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network with one mailbox, in step."""
    made = Net.make(tmp_path / "net")
    made.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    made.do("sync")
    return made


def test_a_damaged_index_is_named_and_mended_as_it_says(net: Net, tmp_path: Path) -> None:
    """`status` and `sync` name the mend; `reindex` does it; then all is as it was."""
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    damage(net.path("primary", ".vmctl/index.db"), "garbage")
    for words in (("status",), ("sync",)):
        done = net.run(*words)
        assert errors.IndexDamaged.exit_code == done.returncode
        assert "try: run 'vmctl reindex'" in done.stderr
    made = net.read("reindex", "--server", "primary")
    assert (2, 1, 0) == (made["records"], made["messages"], made["faults"])
    assert (net.root / made["set_aside"]).read_bytes().startswith(b"this is no database")
    net.do("sync")
    assert net.read("verify")["equal"]
    assert net.path("primary", f"mailboxes/2001/messages/{ident}.json").exists()


def test_a_missing_index_is_built_and_said(net: Net) -> None:
    """Whatever command comes first builds it, and says so on stderr."""
    net.path("primary", ".vmctl/index.db").unlink()
    done = net.run("sync")
    assert 0 == done.returncode
    assert "primary had no index and builds a new one" in done.stderr
    assert net.read("verify")["equal"]


def test_a_daemon_goes_on_with_the_new_index(net: Net, tmp_path: Path) -> None:
    """Reindexed under a running daemon: it opens the store again, and the next message travels."""
    with net.daemon("primary"), net.daemon("secondary"):
        for name in SERVERS:
            until(lambda name=name: " serves " in net.log(name), what="the daemon")
        done = net.run("reindex", "--server", "primary")
        assert 0 == done.returncode, done.stderr
        assert "its daemon goes on" in done.stderr
        ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
        until(net.path("secondary", f"mailboxes/2001/messages/{ident}.json").exists, what="the message")
        until(lambda: net.status()["in_step"], what="in step again")
    assert net.read("verify")["equal"]


def test_join_says_what_it_would_do_and_does_it(net: Net, tmp_path: Path) -> None:
    """A new disk at the secondary: refused without `join`, shown by `--dry-run`, made, filled by `sync`."""
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    shutil.rmtree(net.root / "secondary")
    done = net.run("sync")
    assert errors.StoreMissing.exit_code == done.returncode
    assert "vmctl join" in done.stderr
    assert "nothing was changed" in net.do("join", "--server", "secondary", "--dry-run")
    assert not (net.root / "secondary").exists()
    assert "next: vmctl serve, or vmctl sync" in net.do("join", "--server", "secondary")
    net.do("sync")
    assert net.read("verify")["equal"]
    assert net.path("secondary", f"mailboxes/2001/messages/{ident}.wav").exists()
    assert errors.AlreadyExists.exit_code == net.run("join", "--server", "secondary").returncode


def test_a_second_host_joins(tmp_path: Path) -> None:
    """vmctl.yaml and one key are brought to another host; there the directory is made by `join`."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    host = tmp_path / "host"
    host.mkdir()
    text = (net.root / "vmctl.yaml").read_text()
    for word in ("store: primary", "key: keys/primary.pem"):
        text = "\n".join(line for line in text.splitlines() if line.strip() != word)
    (host / "vmctl.yaml").write_text(text + "\n")
    (host / "keys").mkdir()
    assert errors.KeyMissing.exit_code == run("join", cwd=host).returncode
    assert not (host / "secondary").exists()
    shutil.copy2(net.root / "keys/secondary.pem", host / "keys")
    assert 0 == run("join", cwd=host).returncode
    assert "secondary" == json.loads((host / "secondary/.vmctl/identity.json").read_text())["server"]
