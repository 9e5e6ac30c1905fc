"""Two edits at once: nothing that lost is lost, on either server, and one command takes it back on both."""

import pytest
from running import Commands, Net, wav

from vmctl import network, pin
from vmctl.errors import NotFound, StoreBusy
from vmctl.merge import DELETED, KEPT
from vmctl.model import ABSENT
from vmctl.undo import Undo

USAGE = 2
SERVERS = ("primary", "secondary")


def undo(wire, name="primary"):
    """What takes back, at a server."""
    return Undo(wire.servers[name], wire.desk(name))


def listed(wire, name="primary"):
    """The conflicts at a server: record, field, what won and what lost."""
    return [
        (one["record"], one["field"], one["won"].get("is", ABSENT), one["lost"].get("is", ABSENT))
        for one in (record.document for record in undo(wire, name).listed())
    ]


def idents(wire, name="primary"):
    """The ids of the conflicts at a server."""
    return [record.key.partition("/")[2] for record in undo(wire, name).listed()]


def at_both(wire, read):
    """What `read` gives for the primary and for the secondary, which must be the same."""
    one, other = (read(name) for name in SERVERS)
    assert one == other
    return one


def field(wire, name="name", key="mailbox/2001"):
    """The value of a field on both servers."""
    return at_both(wire, lambda server: wire.servers[server].store.document(key)[name])


def sound(wire, path="mailboxes/2001/greetings/busy.wav"):
    """The bytes of a recording that are in both stores."""
    return at_both(wire, lambda name: (wire.root(name) / path).read_bytes())


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


@pytest.fixture
def two_names(wire, box):
    """The mailbox was given two names at once; that of the secondary is the later one."""
    wire.desk().set_mailbox(box, {"name": "First"})
    wire.clock.advance(1)
    wire.desk("secondary").set_mailbox(box, {"name": "Second"})
    wire.in_step()
    return idents(wire)[0]


# Values


@pytest.mark.parametrize("where", SERVERS)
def test_a_value_that_lost_is_taken_back_on_both(wire, box, two_names, where):
    """One order at either server: both hold what lost, both are done with the conflict, and nothing new is listed."""
    assert "Second" == field(wire)
    assert "mailbox/2001" == undo(wire, where).take(two_names)
    wire.in_step()
    assert "First" == field(wire)
    assert [] == at_both(wire, lambda name: listed(wire, name))


@pytest.mark.parametrize("where", SERVERS)
def test_a_conflict_is_done_with_once(wire, two_names, where):
    """A second take, and a drop after it, say so, on either server."""
    undo(wire).take(two_names)
    wire.in_step()
    for again in (undo(wire, where).take, undo(wire, where).drop):
        with pytest.raises(NotFound, match="is done with"):
            again(two_names)
    with pytest.raises(NotFound, match="no conflict"):
        undo(wire, where).take("0123")


def test_a_dropped_conflict_leaves_what_won(wire, two_names):
    """Seen, and well so: no server lists it any more, also not when old mails come again."""
    mails = [(name, wire.send(name, always=True, anew=True)) for name in SERVERS]
    undo(wire, "secondary").drop(two_names)
    wire.in_step()
    for name, raws in mails:
        wire.under_way += [(wire.other(name), raw) for raw in raws]
    wire.deliver()
    wire.in_step()
    assert "Second" == field(wire)
    assert [] == at_both(wire, lambda name: listed(wire, name))


def test_taken_on_both_at_once(wire, two_names):
    """Two people take the same conflict back before they hear of each other: no new conflict comes of it."""
    for name in SERVERS:
        undo(wire, name).take(two_names)
    wire.in_step()
    assert "First" == field(wire)
    assert [] == at_both(wire, lambda name: listed(wire, name))


def test_a_removed_field_that_lost_is_removed(wire, box):
    """What lost may be that there is nothing."""
    wire.desk().set_mailbox(box, {"name": ABSENT})
    wire.clock.advance(1)
    wire.desk("secondary").set_mailbox(box, {"name": "Bob"})
    wire.in_step()
    assert [("mailbox/2001", "name", "Bob", ABSENT)] == at_both(wire, lambda name: listed(wire, name))
    undo(wire).take(idents(wire)[0])
    wire.in_step()
    assert ["service"] == at_both(wire, lambda name: list(wire.servers[name].store.document("mailbox/2001")))


def test_two_pins_at_once(wire, box):
    """The later one opens the mailbox, and after a take the other one does."""
    for name, digits in zip(SERVERS, ("1111", "2222"), strict=True):
        wire.desk(name).set_mailbox(box, {"pin": pin.hashed(digits)})
        wire.clock.advance(1)
    wire.in_step()
    assert pin.matches(field(wire, "pin"), "2222")
    undo(wire).take(idents(wire)[0])
    wire.in_step()
    assert pin.matches(field(wire, "pin"), "1111")


def test_two_callflows_at_once(wire):
    """A callflow is one value: the text that lost comes back whole."""
    for number, name in enumerate(SERVERS):
        wire.desk(name).set_callflow("main", f"# {name}\na: {number}\n")
        wire.clock.advance(1)
    wire.in_step()
    assert "# secondary\na: 1\n" == field(wire, "text", "callflow/main")
    undo(wire).take(idents(wire)[0])
    wire.in_step()
    assert "# primary\na: 0\n" == field(wire, "text", "callflow/main")


def test_what_was_deleted_since_is_not_half_made_again(wire, box, two_names):
    """A field of a mailbox that is not there any more is refused, and the conflict stays; a drop is done with it."""
    wire.desk().delete_mailbox(box)
    with pytest.raises(NotFound, match="was deleted"):
        undo(wire).take(two_names)
    assert [two_names] == idents(wire)
    undo(wire).drop(two_names)
    assert [] == idents(wire)


def test_an_edit_on_a_base_that_is_not_here_is_listed(wire, box):
    """A delta that this server cannot build on may win over a value of here: that one is listed all the same."""
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.send("primary")
    wire.deliver()
    wire.send("secondary")
    wire.deliver()  # the primary knows that the secondary holds quota 5
    entry = wire.b.index.get("mailbox/2001")
    with wire.b.index.transaction():  # which has forgotten it, and was told another name
        older = wire.b.index.history.of("mailbox/2001")[1].document
        assert "quota" not in older
        vector = {by: number - 1 for by, number in entry.record.vector.items()}
        fields = {name: one for name, one in entry.record.fields.items() if name != "quota"}
        lost = type(entry.record)(entry.record.key, entry.record.born, fields, vector, vector, {})
        wire.b.index.put(type(entry)(lost, lost), wire.clock.wall())
    wire.desk("secondary").set_mailbox(box, {"name": "Bob"})
    wire.clock.advance(1)
    wire.desk().set_mailbox(box, {"name": "Eve"})
    wire.send("primary")
    wire.deliver()
    assert ("mailbox/2001", "name", "Eve", "Bob") in listed(wire, "secondary")


# Recordings


@pytest.mark.parametrize("later", SERVERS)
@pytest.mark.parametrize("where", SERVERS)
def test_two_greetings_at_once(wire, box, recording, later, where):
    """Both recordings are on both servers; what lost comes back byte for byte on both, and what won can be restored."""
    sounds = {}
    for name in (wire.other(later), later):
        sounds[name] = recording()
        wire.desk(name).set_greeting(box, "busy", sounds[name])
        wire.clock.advance(1)
    wire.in_step()
    assert sounds[later].read_bytes() == sound(wire)
    (ident,) = at_both(wire, lambda name: idents(wire, name))
    undo(wire, where).take(ident)
    wire.in_step()
    assert sounds[wire.other(later)].read_bytes() == sound(wire)
    versions = wire.servers[where].index.history.of("greeting/2001/busy")
    won = next(version.number for version in versions[1:] if version.document["audio"] != versions[0].document["audio"])
    undo(wire, where).restore("greeting/2001/busy", won)
    wire.in_step()
    assert sounds[later].read_bytes() == sound(wire)


@pytest.mark.parametrize("first", SERVERS)
def test_both_recordings_are_on_both_servers_when_the_conflict_is_acknowledged(narrow, recording, first):
    """Long ones in pieces, from whichever server speaks first: a conflict is held where its recording is."""
    narrow.desk().create_mailbox("2001", {})
    narrow.in_step()
    sounds = [recording(frames=60_000) for _ in SERVERS]
    for name, one in zip(SERVERS, sounds, strict=True):
        narrow.desk(name).set_greeting("2001", "busy", one)
        narrow.clock.advance(1)
    narrow.send(first)
    narrow.deliver()
    narrow.in_step()
    (conflict,) = undo(narrow).listed()
    for replica in narrow.servers.values():
        path = replica.recordings.find(conflict.document["audio"]["sha256"])
        assert sounds[0].read_bytes() == (replica.store.root / path).read_bytes()


def test_a_recording_that_has_not_come_is_waited_for(wire, box, recording):
    """A take before it is here changes nothing and says that it may be tried again."""
    for name in SERVERS:
        wire.desk(name).set_prompt("hello", recording())
        wire.clock.advance(1)
    wire.in_step()
    (conflict,) = undo(wire).listed()
    path = wire.root() / ".vmctl/audio" / conflict.document["audio"]["sha256"]
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreBusy, match="has not come yet"):
        undo(wire).take(conflict.key.partition("/")[2])
    path.with_suffix(".away").rename(path)
    undo(wire).take(conflict.key.partition("/")[2])
    wire.in_step()
    assert path.name == at_both(wire, lambda name: wire.servers[name].index.get("prompt/hello").record.document)["audio"]["sha256"]  # fmt: skip


# Deletions that lost


@pytest.mark.parametrize("deleter", SERVERS)
def test_an_edit_of_a_mailbox_outlives_its_deletion_which_is_listed(wire, box, recording, deleter):
    """The mailbox is there on both; both list the deletion; taken back, it deletes the mailbox and what is in it."""
    wire.desk(deleter).delete_mailbox(box)
    wire.desk(wire.other(deleter)).set_mailbox(box, {"quota": 3})
    wire.in_step()
    assert 3 == field(wire, "quota")
    assert [("mailbox/2001", None, KEPT, DELETED)] == at_both(wire, lambda name: listed(wire, name))
    wire.desk().leave(box, recording())
    undo(wire).take(idents(wire)[0])
    wire.in_step()
    assert [] == at_both(wire, lambda name: wire.servers[name].store.names("mailbox"))
    assert [] == at_both(wire, lambda name: wire.messages(box, name))
    assert [] == at_both(wire, lambda name: listed(wire, name))


@pytest.mark.parametrize("first", SERVERS)
@pytest.mark.parametrize("deleter", SERVERS)
def test_a_message_left_meanwhile_brings_its_mailbox_back_and_is_listed(wire, box, recording, deleter, first):
    """Both list one conflict, which names the message, whoever hears of the other first."""
    wire.desk(deleter).delete_mailbox(box)
    ident = wire.desk(wire.other(deleter)).leave(box, recording())
    wire.send(first)
    wire.deliver()
    wire.in_step()
    assert [ident] == at_both(wire, lambda name: wire.messages(box, name))
    expected = [("mailbox/2001", None, f"message/2001/{ident}", DELETED)]
    assert expected == at_both(wire, lambda name: listed(wire, name))


def test_a_mailbox_is_brought_back_by_whoever_knows_that_all_of_its_deletion_is_here(wire, box, recording):
    """Their mails cross: the deleter knows at once, the other server only when nothing of the deleter is under way."""
    wire.desk().delete_mailbox(box)
    wire.desk("secondary").leave(box, recording())
    for name in SERVERS:
        wire.send(name)
    wire.deliver()
    assert [1, 0] == [len(listed(wire, name)) for name in SERVERS]
    wire.in_step()
    assert 1 == len(at_both(wire, lambda name: listed(wire, name)))
    assert ["2001"] == at_both(wire, lambda name: wire.servers[name].store.names("mailbox"))


def test_a_greeting_set_meanwhile_brings_its_mailbox_back(wire, box, recording):
    """No greeting lies in a mailbox that is not there."""
    wire.desk().delete_mailbox(box)
    greeting = recording()
    wire.desk("secondary").set_greeting(box, "busy", greeting)
    wire.in_step()
    assert ["2001"] == at_both(wire, lambda name: wire.servers[name].store.names("mailbox"))
    assert greeting.read_bytes() == sound(wire)
    assert [("mailbox/2001", None, "greeting/2001/busy", DELETED)] == at_both(wire, lambda name: listed(wire, name))


def test_a_deletion_that_lost_against_a_save_is_listed_and_one_that_won_against_a_mark_is_not(wire, box, recording):
    """Who deleted a message and finds it again is told why, and can delete it again."""
    saved, marked = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    wire.desk().mark(box, saved, "saved")
    wire.desk().mark(box, marked, "old")
    for ident in (saved, marked):
        wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    assert [(f"message/2001/{saved}", None, KEPT, DELETED)] == at_both(wire, lambda name: listed(wire, name))
    undo(wire, "secondary").take(idents(wire)[0])
    wire.in_step()
    assert [] == at_both(wire, lambda name: wire.messages(box, name))


def test_a_deletion_by_hand_that_lost_is_listed(wire):
    """`rm` at one server, an editor at the other: the edit stays, and the deletion is in the list."""
    wire.desk().set_callflow("main", "a: 1\n")
    wire.in_step()
    (wire.root() / "callflows/main.yaml").unlink()
    (wire.root("secondary") / "callflows/main.yaml").write_text("a: 2\n")
    wire.in_step()
    assert "a: 2\n" == field(wire, "text", "callflow/main")
    assert [("callflow/main", None, KEPT, DELETED)] == at_both(wire, lambda name: listed(wire, name))
    undo(wire).take(idents(wire)[0])
    wire.in_step()
    assert [] == at_both(wire, lambda name: wire.servers[name].store.names("callflow"))


def test_a_deletion_by_hand_that_was_not_looked_at_twice_yet_is_listed(wire):
    """The other server's edit comes between the two looks: the callflow comes back, and both list why."""
    wire.desk().set_callflow("main", "a: 1\n")
    wire.in_step()
    (wire.root() / "callflows/main.yaml").unlink()
    wire.desk("secondary").set_callflow("main", "a: 2\n")
    wire.send("secondary")
    wire.deliver()
    wire.in_step()
    assert "a: 2\n" == field(wire, "text", "callflow/main")
    assert [("callflow/main", None, KEPT, DELETED)] == at_both(wire, lambda name: listed(wire, name))


def test_no_conflict_where_the_deletion_came_after(wire, box, recording):
    """Deleted by somebody who had seen the save, restored by somebody who had seen the deletion, made anew: no conflict."""
    ident = wire.desk().leave(box, recording())
    wire.desk().mark(box, ident, "saved")
    wire.in_step()
    wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    wire.desk().restore_message(box, ident)
    wire.in_step()
    wire.desk("secondary").delete_mailbox(box)
    wire.in_step()
    wire.desk().create_mailbox(box, {"name": "Bob"})
    wire.in_step()
    assert [] == at_both(wire, lambda name: listed(wire, name))


def test_deleted_here_and_made_anew_there_is_no_conflict(wire, box):
    """Both wanted the former mailbox gone, and so it is; the new one stays."""
    wire.desk().delete_mailbox(box)
    wire.desk("secondary").delete_mailbox(box)
    wire.desk("secondary").create_mailbox(box, {"name": "Bob"})
    wire.in_step()
    assert "Bob" == field(wire)
    assert [] == at_both(wire, lambda name: listed(wire, name))


def test_a_deletion_that_is_gone_already_is_only_done_with(wire, box, recording):
    """Somebody deleted the message by hand since: the take has nothing else to do."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().mark(box, ident, "saved")
    wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    wire.desk().delete_message(box, ident)
    undo(wire).take(idents(wire)[0])
    assert [] == listed(wire)


# The commands


@pytest.fixture
def conflicting(tmp_path):
    """Commands at the primary of a network in which three edits met: the primary's name and PIN and the secondary's quota lost."""
    net = Net.make(tmp_path / "net")
    at = {name: ("--server", name) for name in SERVERS}
    net.do("mailbox", "create", "2001", "--name", "Ada", *at["primary"])
    net.do("sync")
    net.do("mailbox", "set", "2001", "--quota", "7", *at["secondary"])
    net.do("mailbox", "set", "2001", "--name", "First", "--pin-stdin", "--quota", "5", *at["primary"], input="4711\n")
    net.do("mailbox", "set", "2001", "--name", "Second", "--pin-stdin", *at["secondary"], input="4712\n")
    net.do("sync")
    return net


def test_conflicts_from_the_command_line(conflicting):
    """Listed alike on both servers without any PIN; taken in bulk by server; both follow, and nothing is left."""
    net = conflicting
    found = net.read("conflicts", "list", "--server", "primary")
    assert found == net.read("conflicts", "list", "--server", "secondary")
    assert {"name": "primary", "pin": "primary", "quota": "secondary"} == {
        one["field"]: one["lost_by"] for one in found
    }
    assert {"(hidden)"} == {one[side] for one in found if one["field"] == "pin" for side in ("won", "lost")}
    done = net.read("conflicts", "take", "--all", "--by", "primary", "--server", "secondary")
    assert ["mailbox/2001", "mailbox/2001"] == [one["record"] for one in done]
    net.do("sync")
    for name in SERVERS:
        shown = net.read("mailbox", "show", "2001", "--server", name)
        assert ("First", 5) == (shown["name"], shown["quota"])
        assert ["quota"] == [one["field"] for one in net.read("conflicts", "list", "--server", name)]
    assert "stays as it is" in net.run("conflicts", "drop", "--all", "--server", "primary").stderr
    net.do("sync")
    assert [[], []] == [net.read("conflicts", "list", "--server", name) for name in SERVERS]
    assert "done with" in net.run("conflicts", "take", found[0]["id"], "--server", "secondary").stderr


def test_greetings_from_the_command_line(tmp_path):
    """Two greetings at once in real stores: the one that lost is back on both, byte for byte."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    sounds = [wav(tmp_path / f"{level}.wav", level=level) for level in (1, 2)]
    for name, one in zip(SERVERS, sounds, strict=True):
        net.do("greeting", "set", "2001", "busy", "--audio", str(one), "--server", name)
    net.do("sync")
    (found,) = net.read("conflicts", "list", "--server", "secondary")
    net.do("conflicts", "take", found["id"], "--server", "secondary")
    net.do("sync")
    path = "mailboxes/2001/greetings/busy.wav"
    assert [sounds[0].read_bytes()] * 2 == [net.path(name, path).read_bytes() for name in SERVERS]


def test_take_and_drop_want_ids_or_all(tmp_path):
    """Neither, both, or --by without --all are usage errors; all of none is done at once."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    vmctl = Commands(tmp_path / "net")
    for verb in ("take", "drop"):
        for words in ((), ("a1", "--all"), ("a1", "--by", "primary")):
            vmctl("conflicts", verb, *words, code=USAGE)
        assert [] == vmctl.json("conflicts", verb, "--all")
        vmctl("conflicts", verb, "a1", code=NotFound.exit_code)
