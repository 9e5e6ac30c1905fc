"""What is sent, received, taken in and acknowledged."""

from crash_points.stories.registry import furnished, story
from crash_points.story import NARROW, try_parked_again
from vmctl import durable
from vmctl.model import message_key


@story
def changes_are_sent(it):
    """The mails are built; nothing of them arrives."""
    furnished(it)
    it.leave()
    it.rename("Eve")
    it.greet("2001", "busy")
    yield
    it.send("primary")
    it.lose()


@story
def mails_are_received(it):
    """What was answered with 250 holds at the receiver, whatever becomes of the sender."""
    furnished(it)
    contents = [[it.leave(), it.leave()]]
    it.send("primary")
    contents.append([it.leave()])
    it.send("primary")
    mails, it.under_way = it.under_way, []
    yield
    for (_, raw), idents in zip(mails, contents, strict=True):
        it.b.receive(raw)
        for ident in idents:
            it.holds(message_key("2001", ident), None, True, "secondary")
    it.b.take()


@story
def new_records_are_taken(it):
    """One of each kind, and all that was said before in a second mail."""
    it.desk().set_settings({"defaults.quota": 7})
    it.desk().set_prompt("welcome", it.recording())
    it.desk().set_callflow("main", "greet: hello\n")
    it.desk().create_mailbox("2001", {"name": "Ada"})
    it.greet("2001", "busy")
    it.leave()
    it.leave()
    it.ship()
    it.ship(anew=True)
    yield
    it.b.take()


def deleted_by_the_application(directory):
    """The application at the secondary deletes each message that it finds, before vmctl starts again."""
    folder = directory / "net/secondary/mailboxes/2001/messages"
    for document in folder.glob("*.json"):
        with (directory / "deleted").open("a") as told:
            told.write(f"{document.stem}\n")
        document.unlink()
        document.with_suffix(".wav").unlink()


def nothing_is_back(directory):
    """What the application deleted is in neither store."""
    told = directory / "deleted"
    idents = set(told.read_text().split()) if told.exists() else set()
    found = {path.stem: path for path in (directory / "net").glob("*/mailboxes/2001/messages/*.json")}
    return [f"{found[ident].relative_to(directory)} is back" for ident in sorted(idents & found.keys())]


@story(first=deleted_by_the_application, also=nothing_is_back)
def messages_are_written_and_deleted_before_the_next_start(it):
    """Of some the files are written and not committed; the application deletes them while vmctl is down."""
    it.desk().create_mailbox("2001", {"name": "Ada"})
    it.in_step()
    for _ in range(3):
        it.desk().leave("2001", it.recording())
    it.ship()
    yield
    it.b.take()


@story
def edits_are_taken(it):
    """A name that was changed on both, a mark, a deletion and a callflow's new text."""
    one, other = furnished(it)
    it.desk().set_callflow("main", "greet: hello\n")
    it.in_step()
    it.rename("First")
    it.clock.advance(1)
    it.rename("Second", "secondary")
    it.mark(one, "old", "secondary")
    it.delete(other, "secondary")
    it.desk("secondary").set_callflow("main", "greet: goodbye\n")
    it.holds("callflow/main", "text", "greet: goodbye\n", "secondary")
    it.holds("conflict/mailbox/2001", "name", ["First", "Second"], "nobody")
    it.begins("mailbox/2001", field="name")
    it.ship("secondary")
    yield
    it.a.take()
    it.holds("mailbox/2001", "name", "Second")


@story
def a_person_saves_at_the_last_moment(it):
    """Right before the peer's edit takes the place of the file."""
    furnished(it)
    box = it.root() / "mailboxes/2001/mailbox.yaml"
    it.desk("secondary").set_mailbox("2001", {"language": "en-GB"})
    it.holds("mailbox/2001", "language", "en-GB", "secondary")
    it.ship("secondary")
    swap, late = durable._swap, [box.read_text().replace("Ada", "Eve")]

    def at_the_last_moment(aside, target):
        if target == str(box) and late:
            it.begins("mailbox/2001", field="name")
            box.write_text(late.pop())
            it.holds("mailbox/2001", "name", "Eve")
        swap(aside, target)

    durable._swap = at_the_last_moment
    yield
    it.a.take()


@story(settings=NARROW)
def a_recording_is_taken_in_pieces(it):
    """A message of which no mail can carry the whole, among short ones."""
    it.desk().create_mailbox("2001", {"name": "Ada"})
    it.in_step()
    it.leave()
    it.leave(frames=9_000)
    yield
    it.ship()
    it.b.take()
    it.exchange(2)


@story
def a_mailbox_is_deleted_by_the_peer(it):
    """A message that its deleter had not seen brings it back; the others go."""
    idents = furnished(it)
    it.desk("secondary").delete_mailbox("2001")
    for ident in idents:
        it.holds(message_key("2001", ident), "sha256", None)
        it.holds(message_key("2001", ident), None, False, "secondary")
    it.leave()
    it.ship("secondary")
    it.ship()
    yield
    it.a.take()
    it.b.take()


@story
def everything_is_acknowledged(it):
    """Both have changes; rounds until nothing is left to say."""
    one, other = furnished(it)
    it.mark(one, "old")
    it.leave("secondary")
    it.delete(other, "secondary")
    yield
    it.exchange()


@story
def a_mail_cannot_be_taken(it):
    """A spool file that is no mail of the peer's is put aside, and what is behind it goes on."""
    furnished(it)
    it.leave()
    it.ship()
    (it.root("secondary") / ".vmctl/spool/0000000000000001-bad.eml").write_bytes(b"no mail")
    yield
    it.b.take()


@story
def a_record_is_refused_for_good(it):
    """It is found out, parked, and a person has it tried again."""
    furnished(it)
    ident = it.leave()
    it.rename("Eve")
    yield
    for _ in range(4):
        for parcel in it.a.outbox.parcels(always=True):
            if message_key("2001", ident) in str(parcel.load.things):
                if not it.a.outbox.refused(parcel, "554 no"):
                    break
            else:
                it.b.receive(parcel.raw)
                it.a.outbox.left(parcel)
        it.b.take()
        it.ship("secondary", always=True)
        it.a.take()
        it.clock.advance(2.5)
    assert 1 == try_parked_again(it)
    it.exchange()
