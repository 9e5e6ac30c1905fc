"""Earlier versions: each server keeps the last ones, and a mistake that is on both servers is undone on both at once."""

import dataclasses
import json

import pytest
from running import Commands, Net
from wire import Wire

from vmctl import network, pin
from vmctl.entry import Entry
from vmctl.errors import AlreadyExists, BadName, BadValue, BrokenFile, CallflowFaults, NotFound
from vmctl.history import KINDS
from vmctl.index import Index
from vmctl.model import ABSENT, Tick, created, deleted, edited, purged
from vmctl.undo import Undo

USAGE = 2
SERVERS = ("primary", "secondary")


def undo(wire, name="primary"):
    """What takes back, at a server."""
    return Undo(wire.servers[name], wire.desk(name))


def documents(wire, key, name="primary"):
    """The documents of a record's versions at a server, the first one first."""
    return [version.document for version in reversed(wire.servers[name].index.history.of(key))]


def greeting(wire, name="primary"):
    """The bytes of greeting busy of mailbox 2001 at a server; None without one."""
    path = wire.root(name) / "mailboxes/2001/greetings/busy.wav"
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada", "quota": 5})
    wire.in_step()
    return "2001"


# What is kept


def test_both_servers_keep_each_version(wire, box):
    """Made here or come from the peer, each document is a version; who set it and when is the same on both."""
    wire.desk().set_mailbox(box, {"name": "Ada L.", "quota": ABSENT})
    wire.in_step()
    wire.desk("secondary").delete_mailbox(box)
    wire.in_step()
    first = {"name": "Ada", "quota": 5, "service": "voicemail"}
    expected = [first, {"name": "Ada L.", "service": "voicemail"}, None]
    assert [expected, expected] == [documents(wire, "mailbox/2001", name) for name in SERVERS]
    one, other = (wire.servers[name].index.history.of("mailbox/2001") for name in SERVERS)
    assert [(version.at, version.by) for version in one] == [(version.at, version.by) for version in other]
    assert ["secondary", "primary", "primary"] == [version.by.partition("-")[0] for version in one]
    assert [3, 2, 1] == [version.number for version in one]


def test_a_hand_edit_is_a_version_of_its_own_time(wire, box):
    """A file saved in an editor is a version; its time is that of the file."""
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text(path.read_text().replace("Ada", "Bob"))
    saved = path.stat().st_mtime_ns // 1000
    wire.scan()
    newest = wire.a.index.history.of("mailbox/2001")[0]
    assert ("Bob", saved) == (newest.document["name"], newest.at)


def test_so_many_versions_are_kept(tmp_path, no_fsync):
    """`history.versions` earlier ones and the present one; their numbers go on."""
    wire = Wire(tmp_path / "net", {"history.versions": 2})
    for quota in range(1, 7):
        wire.desk().set_settings({"defaults.quota": quota})
    assert [(6, 6), (5, 5), (4, 4)] == [
        (version.number, version.document["defaults.quota"]) for version in wire.a.index.history.of("settings")
    ]
    wire.close()


def test_messages_have_no_history(wire, box, recording):
    """What machines write thousands of is not kept twice."""
    ident = wire.desk().leave(box, recording())
    wire.desk().mark(box, ident, "saved")
    assert [] == wire.a.index.history.of(f"message/{box}/{ident}")
    assert {"mailbox/2001"} == {version.key for version in wire.a.index.history.all()}
    assert "message" not in KINDS


def test_versions_of_all_records_come_newest_first(wire, box):
    """The order is that in which this server took them."""
    wire.desk().set_settings({"a.b": 1})
    wire.desk().set_mailbox(box, {"quota": 6})
    wire.desk().set_settings({"a.b": 2})
    keys = [version.key for version in wire.a.index.history.all()]
    assert ["settings", "mailbox/2001", "settings", "mailbox/2001"] == keys


def test_no_version_where_nothing_changed(wire, box):
    """Merging, acknowledging, starting over: the same document is no new version."""
    wire.in_step()
    with wire.a.index.transaction():
        entry = wire.a.index.get("mailbox/2001")
        again = edited(entry.record, {"quota": 5}, Tick(entry.record.changed_at + 1, "primary-x"), 1)
        wire.a.index.put(dataclasses.replace(entry, record=again), wire.clock.wall())
    assert 1 == len(documents(wire, "mailbox/2001"))


def test_a_purged_record_has_no_history(tmp_path):
    """What is gone for good is not to be restored from its history either."""
    index = Index.open(tmp_path / "index.db", create=True)
    record = created("callflow/main", {"text": "a: 1\n"}, Tick(1, "p1"), 1)
    for each in (record, dead := deleted(record, Tick(2, "p1")), purged(dead, Tick(3, "p1"))):
        assert [] != index.history.of("callflow/main") or each is record
        with index.transaction():
            index.put(Entry(each), 10)
    assert [] == index.history.of("callflow/main")
    index.close()


def test_an_index_without_versions_begins_with_what_is_there(tmp_path):
    """The first change after an update keeps what was there before it."""
    index = Index.open(tmp_path / "index.db", create=True)
    record = created("settings", {"a.b": 1}, Tick(1, "p1"), 1)
    with index.transaction():
        index.put(Entry(record), 10)
        index._run("DELETE FROM history")
        index.put(Entry(edited(record, {"a.b": 2}, Tick(2, "p1"), 2)), 10)
    assert [{"a.b": 2}, {"a.b": 1}] == [version.document for version in index.history.of("settings")]
    index.close()


def test_a_new_index_begins_a_new_history(wire, box):
    """The other server still has the earlier versions."""
    wire.desk().set_mailbox(box, {"name": "Bob"})
    wire.in_step()
    wire.a.close()
    for path in (wire.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("primary")
    wire.in_step()
    assert ["Bob"] == [document["name"] for document in documents(wire, "mailbox/2001")]
    assert ["Ada", "Bob"] == [document["name"] for document in documents(wire, "mailbox/2001", "secondary")]


# What comes back


@pytest.mark.parametrize("where", SERVERS)
def test_a_mistake_that_is_on_both_servers_is_undone_on_both(wire, box, where):
    """Restored at either server: the values are as then, what was not there is absent, and both follow."""
    wire.desk().set_settings({"a.b": 1, "a.c": [1, 2]})
    wire.in_step()
    wire.desk().set_settings({"a.b": 99, "d.e": True, "a.c": ABSENT})
    wire.in_step()
    done = undo(wire, where).restore("settings", 1)
    assert ({"a.b": 99, "d.e": True}, {"a.b": 1, "a.c": [1, 2]}) == (done.before, done.after)
    wire.in_step()
    assert [{"a.b": 1, "a.c": [1, 2]}] * 2 == [wire.servers[name].store.document("settings") for name in SERVERS]
    assert [3, 3] == [len(documents(wire, "settings", name)) for name in SERVERS]


def test_a_deleted_mailbox_comes_back(wire, box):
    """Its settings are as they were, on both servers."""
    wire.desk().delete_mailbox(box)
    wire.in_step()
    assert undo(wire, "secondary").restore("mailbox/2001", 1).before is None
    wire.in_step()
    assert [5, 5] == [wire.servers[name].store.document("mailbox/2001")["quota"] for name in SERVERS]


def test_a_deleted_callflow_comes_back_as_its_text(wire):
    """Comments included."""
    text = "# mine\nname: main\n"
    wire.desk().set_callflow("main", text)
    wire.in_step()
    (wire.root() / "callflows/main.yaml").unlink()
    wire.in_step()
    assert not (wire.root("secondary") / "callflows/main.yaml").exists()
    undo(wire).restore("callflow/main", 1)
    wire.in_step()
    assert [text, text] == [(wire.root(name) / "callflows/main.yaml").read_text() for name in SERVERS]


def test_a_callflow_that_would_not_do_any_more_is_refused(wire, recording):
    """Its prompt was deleted since: restored it would lead callers nowhere; the prompt comes first."""
    text = "schema: vmctl/1\nstart: {default: hi}\nnodes:\n  hi: {type: play, prompt: hi, next: bye}\n  bye: {type: hangup}\n"
    wire.desk().set_prompt("hi", recording())
    wire.desk().set_callflow("main", text)
    wire.desk().set_callflow("main", "a: 1\n")
    wire.desk().delete_prompt("hi")
    with pytest.raises(CallflowFaults, match="callflow main has"):
        undo(wire).restore("callflow/main", 1)
    undo(wire).restore("prompt/hi", 1)
    undo(wire).restore("callflow/main", 1)
    assert text == (wire.root() / "callflows/main.yaml").read_text()


@pytest.mark.parametrize("where", SERVERS)
@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_greeting_comes_back_byte_for_byte(wire, box, recording, where, how):
    """Replaced or deleted, its recording stays on both servers, so it can be restored at either."""
    sound = recording()
    wire.desk().set_greeting(box, "busy", sound)
    wire.in_step()
    if how == "replaced":
        wire.desk().set_greeting(box, "busy", recording())
    else:
        wire.desk().delete_greeting(box, "busy")
    wire.in_step()
    assert sound.read_bytes() != greeting(wire, "secondary")
    undo(wire, where).restore("greeting/2001/busy", 1)
    assert sound.read_bytes() == greeting(wire, where)
    wire.in_step()
    assert [sound.read_bytes()] * 2 == [greeting(wire, name) for name in SERVERS]


def test_a_recording_that_is_gone_is_refused_where_it_is_gone(wire, box, recording):
    """A file that was overwritten by hand: this server has no copy and says who may have; the other one restores it."""
    sound = recording()
    wire.desk().set_greeting(box, "busy", sound)
    wire.in_step()
    (wire.root() / "mailboxes/2001/greetings/busy.wav").write_bytes(recording().read_bytes())
    wire.in_step()
    before = greeting(wire)
    with pytest.raises(NotFound, match="not on this server any more") as refused:
        undo(wire).restore("greeting/2001/busy", 1)
    assert "secondary" in refused.value.hint
    assert before == greeting(wire)
    undo(wire, "secondary").restore("greeting/2001/busy", 1)
    wire.in_step()
    assert [sound.read_bytes()] * 2 == [greeting(wire, name) for name in SERVERS]


def test_a_greeting_of_a_deleted_mailbox_waits_for_its_mailbox(wire, box, recording):
    """No greeting lies in a mailbox that is not there."""
    wire.desk().set_greeting(box, "busy", recording())
    wire.desk().delete_mailbox(box)
    with pytest.raises(NotFound, match="no mailbox 2001"):
        undo(wire).restore("greeting/2001/busy", 1)
    undo(wire).restore("mailbox/2001", 1)
    undo(wire).restore("greeting/2001/busy", 1)
    wire.in_step()
    assert greeting(wire) == greeting(wire, "secondary") is not None


def test_a_pin_comes_back_as_its_hash(wire, box):
    """The former PIN opens the mailbox again."""
    for digits in ("1111", "2222"):
        wire.desk().set_mailbox(box, {"pin": pin.hashed(digits)})
    undo(wire).restore("mailbox/2001", 2)
    wire.in_step()
    stored = [wire.servers[name].store.document("mailbox/2001")["pin"] for name in SERVERS]
    assert [True, True] == [pin.matches(each, "1111") for each in stored]


def test_a_file_that_was_saved_a_moment_ago_is_a_version_first(wire, box):
    """A mistake in an editor can be undone before any scan has seen it, and be brought back."""
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text(path.read_text().replace("Ada", "Eve"))
    wire.clock.advance(1)
    undo(wire).restore("mailbox/2001", 1)
    assert ["Ada", "Eve", "Ada"] == [document["name"] for document in documents(wire, "mailbox/2001")]
    assert "name: Ada" in path.read_text()


def test_a_broken_file_is_not_restored_over(wire, box):
    """Somebody is at it: it is named and stays."""
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text("name: [")
    wire.clock.advance(1)
    with pytest.raises(BrokenFile):
        undo(wire).restore("mailbox/2001", 1)
    assert path.read_text() == "name: ["


def test_what_cannot_be_restored(wire, box):
    """No such record, no such version, the version of a deletion, what is so already: each is said."""
    wire.desk().delete_mailbox(box)
    for key, number, error, words in (
        ("mailbox/9999", 1, NotFound, "no history of mailbox/9999"),
        ("mailbox/2001", 7, NotFound, "no version 7"),
        ("mailbox/2001", 2, BadValue, "was deleted"),
    ):
        with pytest.raises(error, match=words):
            undo(wire).restore(key, number)
    undo(wire).restore("mailbox/2001", 1)
    with pytest.raises(AlreadyExists, match="as it was in version 1"):
        undo(wire).restore("mailbox/2001", 1)


def test_a_dry_run_restores_nothing(wire, box):
    """It tells what would change; neither a number nor a version is used."""
    wire.desk().set_mailbox(box, {"quota": 9})
    before = wire.a.index.last_number, wire.a.index.digest
    done = undo(wire).restore("mailbox/2001", 1, dry_run=True)
    assert (9, 5) == (done.before["quota"], done.after["quota"])
    assert before == (wire.a.index.last_number, wire.a.index.digest)
    assert 9 == wire.a.store.document("mailbox/2001")["quota"]


def test_an_edit_elsewhere_at_once_is_not_undone(wire, box):
    """Only what differs is set: a field that the other server sets meanwhile keeps its new value."""
    wire.desk().set_mailbox(box, {"quota": 9})
    wire.in_step()
    wire.desk("secondary").set_mailbox(box, {"name": "Ada L."})
    undo(wire).restore("mailbox/2001", 1)
    wire.in_step()
    expected = {"name": "Ada L.", "quota": 5, "service": "voicemail"}
    assert [expected] * 2 == [wire.servers[name].store.document("mailbox/2001") for name in SERVERS]


# The commands


@pytest.fixture
def vmctl(tmp_path):
    """Commands in a new network with a mailbox of two versions and a callflow of two."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    commands = Commands(tmp_path / "net")
    commands("mailbox", "create", "2001", "--name", "Ada", "--pin-stdin", stdin="4711\n")
    commands("mailbox", "set", "2001", "--name", "Bob", "--pin-stdin", stdin="4712\n")
    for number in (1, 2):
        commands("callflow", "set", "main", "-", stdin=f"# kept\na: {number}\nb: 1\n")
    return commands


def test_the_list_tells_what_and_when_and_who(vmctl):
    """The newest first: the number to restore it by, the change, the fields."""
    found = vmctl.json("history", "list", "mailbox/2001")
    told = [(one["version"], one["change"], one["by"], one["fields"]) for one in found]
    expected = [(2, "changed", "primary", ["name", "pin"]), (1, "new", "primary", ["name", "pin", "service"])]
    assert expected == told
    assert {"callflow/main", "mailbox/2001"} == {one["record"] for one in vmctl.json("history", "list", "--all")}
    assert "changed" in vmctl("history", "list", "mailbox/2001").stdout


def test_a_pin_is_never_shown(vmctl):
    """Neither itself nor its hash, by whatever command."""
    for words in (
        ("history", "list", "--all"),
        ("history", "show", "mailbox/2001", "1"),
        ("history", "diff", "mailbox/2001"),
        ("history", "restore", "mailbox/2001", "1", "--dry-run"),
        ("history", "restore", "mailbox/2001", "1"),
    ):
        for more in ((), ("--json",)) if "restore" not in words or "--dry-run" in words else ((),):
            result = vmctl(*words, *more)
            assert "scrypt" not in result.stdout + result.stderr
            assert "471" not in result.stdout + result.stderr
    assert "pin: (hidden) -> (hidden)" in vmctl("history", "diff", "mailbox/2001").stdout


def test_the_diff_of_a_callflow_is_that_of_its_text(vmctl):
    """Line by line, as a diff; under --json the two texts."""
    shown = vmctl("history", "diff", "callflow/main").stdout.splitlines()
    assert ["--- callflow/main 1", "+++ callflow/main 2"] == shown[:2]
    assert ["-a: 1", "+a: 2"] == [line for line in shown[2:] if line.startswith(("-", "+"))]
    value = vmctl.json("history", "diff", "callflow/main", "1", "2")
    assert (1, 2, ["text"]) == (value["from"], value["to"], value["changes"][0]["path"])
    assert "# kept\na: 1\nb: 1\n" == vmctl("history", "show", "callflow/main", "1").stdout


def test_the_diff_goes_either_way(vmctl):
    """From any version to any other; with one number, from that one to the present; without, the last change."""
    assert ["'Ada' -> 'Bob'", "'Ada' -> 'Bob'", "'Bob' -> 'Ada'"] == [
        vmctl("history", "diff", "mailbox/2001", *numbers).stdout.splitlines()[0].partition(": ")[2]
        for numbers in ((), ("1",), ("2", "1"))
    ]
    assert "no difference" in vmctl("history", "diff", "mailbox/2001", "2").stderr


def test_a_version_is_restored_by_command(vmctl):
    """The words say what changed; the dry run says it before."""
    assert "name: 'Bob' -> 'Ada'" in vmctl("history", "restore", "mailbox/2001", "1", "--dry-run").stdout
    assert "Bob" == vmctl.json("mailbox", "show", "2001")["name"]
    value = vmctl.json("history", "restore", "mailbox/2001", "1")
    assert (1, False, False) == (value["version"], value["revived"], value["dry_run"])
    assert "Ada" == vmctl.json("mailbox", "show", "2001")["name"]


@pytest.mark.parametrize("key", ["", "2001", "message/2001/m1", "greeting/2001", "../x", "conflict/a", "fax/1"])
def test_what_has_no_history_is_refused_with_what_has(vmctl, key):
    """A key that is none, and one of a kind without versions."""
    assert "mailbox/EXT" in vmctl("history", "list", key, code=BadName.exit_code).stderr


def test_the_list_wants_one_record_or_all(vmctl):
    """Neither, or both, is a usage error; a record without versions is an empty list."""
    vmctl("history", "list", code=USAGE)
    vmctl("history", "list", "settings", "--all", code=USAGE)
    assert [] == vmctl.json("history", "list", "settings")
    vmctl("history", "show", "settings", "1", code=NotFound.exit_code)
    vmctl("history", "show", "mailbox/2001", "9", code=NotFound.exit_code)


def test_a_mistake_is_undone_on_both_by_typing_it_once(tmp_path):
    """Real processes and real mail: set, sync, a mistake, sync, restore, sync; both files are as before."""
    net = Net.make(tmp_path / "net")
    net.do("settings", "set", "defaults.quota=50", "--server", "primary")
    net.do("sync")
    good = net.path("secondary", "settings.yaml").read_bytes()
    net.do("settings", "set", "defaults.quota=0", "--server", "primary")
    net.do("sync")
    assert good != net.path("secondary", "settings.yaml").read_bytes()
    (newest, former) = net.read("history", "list", "settings", "--server", "secondary")
    assert (["defaults.quota"], "changed") == (newest["fields"], newest["change"])
    net.do("history", "restore", "settings", str(former["version"]), "--server", "secondary")
    net.do("sync")
    assert [good, good] == [net.path(name, "settings.yaml").read_bytes() for name in SERVERS]
    assert json.loads(net.do("verify", "--json"))["equal"]
