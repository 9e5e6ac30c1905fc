"""What died in a store is known by its files: a new index brings nothing back, of whatever kind it was."""

import json
import shutil
from pathlib import Path

import pytest
from wire import Wire, lose_index

from vmctl.model import KINDS, SETTINGS

FLOW = "greet: hello\n"
MAKE = {
    "mailbox/2002": lambda desk, _sound: desk.create_mailbox("2002", {"name": "Eve"}),
    "greeting/2001/busy": lambda desk, sound: desk.set_greeting("2001", "busy", sound),
    "prompt/welcome": lambda desk, sound: desk.set_prompt("welcome", sound),
    "callflow/main": lambda desk, _sound: desk.set_callflow("main", FLOW),
    "message/2001/m1": lambda desk, sound: desk.leave("2001", sound, ident="m1"),
}


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def path(wire, key, name="primary"):
    """The file whose being there makes a record."""
    return wire.root(name) / wire.servers[name].store.path(key)


def there(wire, key):
    """At which servers a record has its file."""
    return [name for name in wire.servers if path(wire, key, name).exists()]


def delete(wire, key, how="rm", name="primary"):
    """Delete a record's file as a person or an application does, or the record by command."""
    if how == "rm":
        path(wire, key, name).unlink()
        wire.scan(name)
    else:
        desk = wire.desk(name)
        kind, *names = key.split("/")
        act = {"mailbox": desk.delete_mailbox, "greeting": desk.delete_greeting, "prompt": desk.delete_prompt,
               "callflow": desk.delete_callflow, "message": desk.delete_message}[kind]  # fmt: skip
        act(*names)


def tombs(wire, name="primary"):
    """The tombs in a server's store, by name."""
    return sorted(one.name for one in (wire.root(name) / ".vmctl/deleted").rglob("*.json"))


def test_each_kind_that_has_files_is_tested():
    """A kind of records that were added has its line here; settings are never deleted by command."""
    assert set(KINDS) - {SETTINGS} == {key.partition("/")[0] for key in MAKE}


@pytest.mark.parametrize("how", ["rm", "desk"])
@pytest.mark.parametrize("key", MAKE)
def test_a_deletion_that_was_not_shipped_outlives_the_index(wire, box, recording, key, how):
    """The index is lost before the other server has heard of the deletion: the record goes there, too, and stays away here."""
    MAKE[key](wire.desk(), recording())
    wire.in_step()
    if how == "rm" and key.startswith("mailbox"):
        path(wire, key).unlink()
        wire.scan(accept_deletions=True)
    else:
        delete(wire, key, how)
    lose_index(wire, "primary")
    wire.in_step()
    assert [] == there(wire, key)
    assert [] == wire.a.index.faults.all()


@pytest.mark.parametrize("key", MAKE)
def test_a_deletion_that_was_not_shipped_outlives_an_index_that_is_put_back(wire, box, recording, tmp_path, key):
    """An index that is older than the record and its tomb is found out by the peer, and the tomb still counts."""
    index = wire.root("primary") / ".vmctl/index.db"
    wire.servers["primary"].close()
    shutil.copy2(index, tmp_path)
    wire.open("primary")
    MAKE[key](wire.desk(), recording())
    wire.in_step()
    delete(wire, key, "command")
    wire.servers["primary"].close()
    shutil.copy2(tmp_path / index.name, index)
    wire.open("primary")
    wire.in_step()
    assert [] == there(wire, key)


@pytest.mark.parametrize("key", MAKE)
def test_what_lives_again_has_no_tomb(wire, box, recording, key):
    """Deleted and put back by hand or command: a new index finds it alive, on both servers."""
    MAKE[key](wire.desk(), recording())
    wire.in_step()
    delete(wire, key, "desk")
    wire.in_step()
    assert [1, 1] == [len(tombs(wire, name)) for name in wire.servers]
    if key.startswith("message"):
        wire.desk().restore_message("2001", "m1")
    else:
        MAKE[key](wire.desk(), recording())
    wire.in_step()
    assert [[], []] == [tombs(wire, name) for name in wire.servers]
    lose_index(wire, "primary")
    wire.in_step()
    assert ["primary", "secondary"] == there(wire, key)


def test_a_file_that_a_person_puts_back_fills_the_grave(wire, box):
    """The scan takes it as alive, and writes no file; the tomb goes all the same."""
    wire.desk().set_callflow("main", FLOW)
    wire.in_step()
    delete(wire, "callflow/main")
    assert ["main.yaml.tomb.json"] == tombs(wire)
    path(wire, "callflow/main").write_text(FLOW)
    wire.scan()
    assert [] == tombs(wire)


@pytest.mark.parametrize("key", MAKE)
def test_what_was_never_shown_here_has_a_tomb_too(wire, box, recording, key):
    """It was deleted before it came: an old mail that comes after the index was lost brings nothing back."""
    MAKE[key](wire.desk(), recording())
    old = wire.send("primary")
    wire.lose()
    delete(wire, key, "desk")
    wire.in_step()
    (tomb,) = tombs(wire, "secondary")
    assert "m1.json" == tomb if key.startswith("message") else tomb.endswith(".tomb.json")
    lose_index(wire, "secondary")
    for raw in old:
        wire.b.receive(raw)
    wire.b.take()
    assert not path(wire, key, "secondary").exists()
    wire.in_step()
    assert [] == there(wire, key)


def test_one_deletion_is_one_small_write(wire, box, recording, monkeypatch):
    """A tomb is written once at each server, however often the two talk and scan, also by a new index."""
    from vmctl import durable

    MAKE["greeting/2001/busy"](wire.desk(), recording())
    wire.in_step()
    written = []

    def counting(act, place):
        def counted(*values, **how):
            if "/.vmctl/deleted/" in str(values[place]):
                written.append(Path(values[place]).name)
            act(*values, **how)

        return counted

    monkeypatch.setattr(durable, "write", counting(durable.write, 0))
    monkeypatch.setattr(durable, "replace", counting(durable.replace, 1))
    delete(wire, "greeting/2001/busy", "desk")
    for _ in range(3):
        wire.in_step()
    assert 2 * ["busy.wav.tomb.json"] == written
    lose_index(wire, "primary")
    wire.in_step()
    assert 2 == len(written)


def test_a_broken_tomb_is_named_and_harms_nothing(wire, box):
    """Half a file, that of another place, or one of a living record: all else is recalled."""
    for name in ("main", "other", "third", "moved"):
        wire.desk().set_callflow(name, f"name: {name}\n")
    wire.in_step()
    for name in ("main", "other", "third", "moved"):
        wire.desk().delete_callflow(name)
    folder = wire.root() / ".vmctl/deleted/callflows"
    (folder / "main.yaml.tomb.json").write_text("{")
    (folder / "moved.yaml.tomb.json").rename(folder / "elsewhere.yaml.tomb.json")
    value = json.loads((folder / "third.yaml.tomb.json").read_text())
    (folder / "third.yaml.tomb.json").write_text(json.dumps(value | {"deleted": {}}))
    lose_index(wire, "primary")
    broken = {fault["path"].rpartition("/")[2] for fault in wire.a.index.faults.all()}
    assert {"main.yaml.tomb.json", "elsewhere.yaml.tomb.json", "third.yaml.tomb.json"} == broken
    assert not wire.lives("callflow/other")


def test_what_is_purged_keeps_no_tomb(tmp_path, no_fsync, recording):
    """When nothing is to be restored any more its tomb goes with what is left of it."""
    wire = Wire(tmp_path / "net", {"housekeeping.deleted": 48, "failover.start_wait": "1s"})
    wire.start_roles()
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    for key, make in MAKE.items():
        make(wire.desk(), recording())
        wire.in_step()
        delete(wire, key, "desk")
        wire.in_step()
    assert [len(MAKE)] * 2 == [len(tombs(wire, name)) for name in wire.servers]
    wire.night(3)
    left = [one for name in wire.servers for one in (wire.root(name) / ".vmctl/deleted").rglob("*") if one.is_file()]
    assert [] == left
    wire.close()
