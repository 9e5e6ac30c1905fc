"""Whole mailboxes: brought back with what went with them, and given another extension."""

import shutil

import pytest
from wire import Wire

from vmctl.desk_mailboxes import MailboxDesk
from vmctl.errors import AlreadyExists, BadName, BadValue, NotFound


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada", "pin": "73914"})
    wire.in_step()
    return "2001"


def desk(wire, name="primary"):
    """The desk for whole mailboxes of a server."""
    return MailboxDesk(wire.servers[name])


def both(wire, what):
    """What each server says."""
    return [what(replica) for replica in wire.servers.values()]


def holdings(wire, extension):
    """The messages and greetings of a mailbox, on each server."""
    return both(
        wire, lambda replica: (replica.store.names("message", extension), replica.store.names("greeting", extension))
    )


# Restored


@pytest.mark.parametrize("by", ["primary", "secondary"])
@pytest.mark.parametrize("how", ["command", "rm"])
def test_a_mailbox_comes_back_with_what_went_with_it(wire, box, recording, by, how):
    """Its fields, greetings and messages are what they were, on both; what was deleted before stays deleted."""
    before, kept = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.desk().mark(box, kept, "saved")
    wire.desk().set_greeting(box, "busy", recording())
    wire.desk().delete_message(box, before)
    wire.in_step()
    document, message = (wire.a.store.document(key) for key in (f"mailbox/{box}", f"message/{box}/{kept}"))
    if how == "command":
        wire.desk().delete_mailbox(box)
    else:
        shutil.rmtree(wire.root() / f"mailboxes/{box}")
        wire.scan(accept_deletions=True)
    wire.in_step()
    assert [[], []] == both(wire, lambda replica: replica.store.names("mailbox"))
    whole = desk(wire, by).restore_mailbox(box)
    taken = (how, by) == ("rm", "primary")  # the recordings, too: they come from the other server
    assert (2, 2 if taken else 0) == (whole.inside, whole.waiting)
    wire.in_step()
    assert [([kept], ["busy"])] * 2 == holdings(wire, box)
    assert [document, document] == both(wire, lambda replica: replica.store.document(f"mailbox/{box}"))
    was, now = message, wire.b.store.document(f"message/{box}/{kept}")
    assert (was["status"], was["audio"]) == (now["status"], now["audio"])


def test_two_deletions_at_once_are_one_for_the_restore(wire, box, recording):
    """Deleted on both servers before they heard of each other: it comes back with what either took."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    for name in wire.servers:
        wire.desk(name).delete_mailbox(box)
    wire.in_step()
    assert 1 == desk(wire, "secondary").restore_mailbox(box).inside
    wire.in_step()
    assert [([ident], [])] * 2 == holdings(wire, box)


def test_a_second_life_comes_back_without_the_first(wire, box, recording):
    """Made anew and deleted again: what comes back is the newer mailbox with its own messages."""
    wire.desk().leave(box, recording())
    wire.desk().delete_mailbox(box)
    wire.desk().create_mailbox(box, {"name": "Bob"})
    new = wire.desk().leave(box, recording())
    wire.desk().delete_mailbox(box)
    wire.in_step()
    desk(wire).restore_mailbox(box)
    wire.in_step()
    assert [([new], [])] * 2 == holdings(wire, box)
    assert "Bob" == wire.b.store.document(f"mailbox/{box}")["name"]


def test_what_cannot_be_brought_back(tmp_path, no_fsync, recording):
    """What was never there, what is there, what was made anew, and what was purged: each is said."""
    wire = Wire(tmp_path / "net", {"housekeeping.deleted": 1, "failover.start_wait": "1s"})
    wire.start_roles()
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    for extension, error, words in (
        ("2009", NotFound, "there never was"), ("2001", AlreadyExists, "is there"), ("../1", BadName, "extension"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            desk(wire).restore_mailbox(extension)
    wire.desk().delete_mailbox("2001")
    wire.desk().create_mailbox("2001", {"name": "Bob"})
    with pytest.raises(AlreadyExists) as caught:
        desk(wire).restore_mailbox("2001")
    assert "made anew" in caught.value.why
    wire.desk().delete_mailbox("2001")
    wire.in_step()
    wire.night(1)
    with pytest.raises(NotFound, match="cannot be restored any more"):
        desk(wire, "secondary").restore_mailbox("2001")
    wire.close()


# Renumbered


def test_a_mailbox_moves_with_all_that_is_in_it(wire, box, recording):
    """Fields, greetings and messages are what they were, under the new extension, on both; no recording travels again."""
    sound = recording(frames=4000)
    kept, gone = wire.desk().leave(box, sound), wire.desk().leave(box, recording())
    wire.desk().mark(box, kept, "saved")
    wire.desk().set_greeting(box, "busy", recording(frames=4000))
    wire.desk().delete_message(box, gone)
    wire.in_step()
    document, message = (wire.a.store.document(key) for key in (f"mailbox/{box}", f"message/{box}/{kept}"))
    whole = desk(wire).renumber(box, "3001")
    assert (2, 0) == (whole.inside, whole.waiting)
    assert all(len(mail) < 8000 for mail in wire.send("primary"))
    wire.deliver()
    wire.in_step()
    assert [["3001"], ["3001"]] == both(wire, lambda replica: replica.store.names("mailbox"))
    assert [([kept], ["busy"])] * 2 == holdings(wire, "3001")
    assert [([], [])] * 2 == holdings(wire, box)
    assert [document, document] == both(wire, lambda replica: replica.store.document("mailbox/3001"))
    assert [message, message] == both(wire, lambda replica: replica.store.document(f"message/3001/{kept}"))
    assert sound.read_bytes() == (wire.root("secondary") / f"mailboxes/3001/messages/{kept}.wav").read_bytes()


def test_a_message_left_meanwhile_brings_the_old_one_back(wire, box, recording):
    """Whoever left it did not know of the new extension: it is not lost, and the mailbox is listed."""
    wire.desk().leave(box, recording())
    wire.in_step()
    desk(wire).renumber(box, "3001")
    ident = wire.desk("secondary").leave(box, recording())
    wire.in_step()
    assert [([ident], [])] * 2 == holdings(wire, box)
    assert [1, 1] == both(wire, lambda replica: replica.index.count("kind = 'conflict' AND lives"))


def test_there_and_back(wire, box, recording):
    """An extension that a mailbox had before can be given to it again."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    desk(wire).renumber(box, "3001")
    wire.in_step()
    wire.desk("secondary").mark("3001", ident, "old")
    desk(wire, "secondary").renumber("3001", box)
    wire.in_step()
    assert [([ident], [])] * 2 == holdings(wire, box)
    assert ["old"] * 2 == both(wire, lambda replica: replica.store.document(f"message/{box}/{ident}")["status"])


def test_a_crash_in_the_middle_is_finished(wire, box, recording, monkeypatch):
    """The index knew all of it before the first file was touched."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    monkeypatch.setattr(wire.a.applier, "apply", lambda _key: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        desk(wire).renumber(box, "3001")
    wire.crash("primary")
    wire.in_step()
    assert [([ident], [])] * 2 == holdings(wire, "3001")
    assert [["3001"]] * 2 == both(wire, lambda replica: replica.store.names("mailbox"))


def test_what_names_the_old_extension_is_told(wire, box):
    """Distribution lists and callflows are people's text: they are named, and stay."""
    wire.desk().create_mailbox("2002", {"name": "Bob", "lists": {"all": ["2001", "2002"]}})
    wire.desk().create_mailbox("2003", {"name": "Eve", "lists": {"all": ["20011"]}})
    wire.desk().set_callflow("main", "to: 2001\n")
    wire.desk().set_callflow("other", "to: 12001\n")
    assert ["callflow/main", "mailbox/2002"] == desk(wire).renumber(box, "3001").named


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [("2001", "2001", BadValue), ("2009", "3001", NotFound), ("2001", "2002", AlreadyExists), ("2001", "a/b", BadName)],
)
def test_what_cannot_be_renumbered(wire, box, old, new, error):
    """Nothing is changed then."""
    wire.desk().create_mailbox("2002", {"name": "Bob"})
    with pytest.raises(error):
        desk(wire).renumber(old, new)
    assert ["2001", "2002"] == wire.a.store.names("mailbox")


def test_what_was_renumbered_is_not_brought_back_under_the_old_number(wire, recording):
    """An id belongs to one message: restoring the former mailbox, or a message in it, names the new place instead."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    ident = wire.desk().leave("2001", recording())
    desk = MailboxDesk(wire.a)
    desk.renumber("2001", "3001")
    with pytest.raises(AlreadyExists, match="3001"):
        desk.restore_mailbox("2001")
    with pytest.raises(AlreadyExists, match="3001"):
        desk.restore_message("2001", ident)
    wire.in_step()
    assert [[ident], []] == [wire.messages(box, "secondary") for box in ("3001", "2001")]
