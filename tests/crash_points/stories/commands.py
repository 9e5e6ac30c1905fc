"""What commands do to a store."""

from crash_points.stories.registry import furnished, story
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.model import message_key
from vmctl.undo import Undo


@story
def a_message_is_left(it):
    """In a mailbox that has none yet, then a second one with the same recording."""
    it.desk().create_mailbox("2001", {"name": "Ada"})
    it.in_step()
    yield
    said = it.recording()
    it.leave(audio=said)
    it.leave(audio=said)


@story
def a_message_is_marked_deleted_and_restored(it):
    """One is saved, another goes and comes back, a third goes for good."""
    one, other = furnished(it)
    third = it.leave()
    yield
    it.mark(one, "saved")
    it.delete(other)
    it.restore(other)
    it.delete(third)


@story
def a_mailbox_is_deleted(it):
    """With a greeting and messages; it is made anew and begins empty."""
    idents = furnished(it)
    it.desk().set_greeting("2001", "busy", it.recording())
    it.in_step()
    keys = [message_key("2001", ident) for ident in idents]
    yield
    it.begins("mailbox/2001", "greeting/2001/busy", *keys)
    for field in ("name", "sha256"):
        it.begins("mailbox/2001", *keys, field=field)
    it.desk().delete_mailbox("2001")
    for key in ("mailbox/2001", "greeting/2001/busy", *keys):
        it.holds(key, None, False)
    it.begins("mailbox/2001")
    it.desk().create_mailbox("2001", {"name": "Eve"})
    it.holds("mailbox/2001", "name", "Eve")


@story
def a_mailbox_comes_back_with_a_message(it):
    """A message of a deleted mailbox is restored, and brings the mailbox back."""
    one, other = furnished(it)
    it.desk().delete_mailbox("2001")
    it.in_step()
    for key in ("mailbox/2001", message_key("2001", one), message_key("2001", other)):
        it.begins(key)
        it.begins(key, field="sha256")
    it.holds(message_key("2001", other), None, False)
    yield
    it.restore(one)
    it.holds("mailbox/2001", "name", "Ada")


@story
def a_greeting_is_replaced_and_deleted(it):
    """A prompt, too."""
    furnished(it)
    it.desk().set_prompt("welcome", it.recording())
    it.in_step()
    yield
    for _ in range(2):
        it.greet("2001", "busy")
    it.begins("greeting/2001/busy", "prompt/welcome")
    it.begins("greeting/2001/busy", field="sha256")
    it.desk().delete_greeting("2001", "busy")
    it.holds("greeting/2001/busy", None, False)
    it.desk().delete_prompt("welcome")
    it.holds("prompt/welcome", None, False)


@story
def settings_and_callflows_are_set(it):
    """Each twice, and then the callflow is deleted and comes back from its history."""
    it.desk().set_settings({"defaults.quota": 7})
    it.in_step()
    it.holds("settings", "defaults.quota", 7)
    yield
    it.begins("settings", field="defaults.quota")
    it.desk().set_settings({"defaults.quota": 9})
    it.holds("settings", "defaults.quota", 9)
    for text in ("greet: hello\n", "# in the morning\ngreet: hello\n"):
        it.begins("callflow/main", field="text")
        it.desk().set_callflow("main", text)
        it.holds("callflow/main", "text", text)
    it.begins("callflow/main")
    it.begins("callflow/main", field="text")
    it.desk().delete_callflow("main")
    it.holds("callflow/main", None, False)
    it.begins("callflow/main")
    Undo(it.a, it.desk()).restore("callflow/main", 1)
    it.holds("callflow/main", "text", "greet: hello\n")


@story
def a_value_that_lost_is_taken_back(it):
    """Two names were given at once; the one that lost is taken."""
    furnished(it)
    it.rename("First")
    it.clock.advance(1)
    it.rename("Second", "secondary")
    it.in_step()
    undo = Undo(it.a, it.desk())
    conflict = undo.listed()[0].key.partition("/")[2]
    yield
    it.begins("mailbox/2001", field="name")
    undo.take(conflict)
    it.holds("mailbox/2001", "name", "First")


@story
def a_mailbox_is_brought_back_and_renumbered(it):
    """With all that went with it; what it holds moves along under the new extension."""
    idents = furnished(it)
    it.greet("2001", "busy")
    it.in_step()
    it.desk().delete_mailbox("2001")
    it.in_step()
    keys = ["mailbox/2001", "greeting/2001/busy", *(message_key("2001", ident) for ident in idents)]
    for key in keys:
        it.begins(key, field="sha256")
        it.holds(key, None, False)
    it.begins("mailbox/2001", field="name")
    desk = MailboxDesk(it.a)
    yield
    it.begins(*keys)
    desk.restore_mailbox("2001")
    for key in keys:
        it.holds(key)
    it.begins(*keys)
    desk.renumber("2001", "3001")
    for key in keys:
        it.holds(key, None, False)
        it.holds(key.replace("/2001", "/3001"))


@story
def a_greeting_comes_back_from_its_history(it):
    """The recording of an earlier version is put into its place again."""
    furnished(it)
    first = it.greet("2001", "busy")
    it.greet("2001", "busy")
    it.in_step()
    yield
    it.begins("greeting/2001/busy", field="sha256")
    Undo(it.a, it.desk()).restore("greeting/2001/busy", 1)
    it.holds("greeting/2001/busy", "sha256", first)
