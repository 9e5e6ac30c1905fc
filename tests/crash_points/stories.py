"""The stories: what is under way when a process is killed.

Each is a generator. What it does before its `yield` makes the scene; every step after it is a point. It says what is
promised when it is promised: `holds`, `begins`, or the acts of `Story` that say so themselves.
"""

import functools
import json
import shutil
from collections.abc import Callable
from typing import NamedTuple

from wire import tone

from crash_points.story import NARROW
from vmctl import config, durable, network
from vmctl.audio import digest_of
from vmctl.clock import Clock
from vmctl.errors import NotEmpty
from vmctl.failover import Failover
from vmctl.model import message_key
from vmctl.replica import Replica
from vmctl.undo import Undo


class Plot(NamedTuple):
    """A story by its name; `also` looks at the directory after the start and says what does not hold."""

    name: str
    tell: Callable
    settings: dict | None = None
    also: Callable | None = None


STORIES = {}


def story(tell=None, **how):
    """Enter a generator function as a story."""
    if tell is None:
        return functools.partial(story, **how)
    STORIES[tell.__name__] = Plot(tell.__name__, tell, **how)
    return tell


def furnished(it):
    """Mailbox 2001 with two messages, the same on both servers; their ids."""
    it.desk().create_mailbox("2001", {"name": "Ada"})
    idents = [it.leave(), it.leave()]
    it.in_step()
    return idents


# Commands


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


# People and applications


@story
def people_edit_files(it):
    """A mailbox with a plain PIN, settings, a callflow, a greeting; one callflow is removed. One scan finds it all."""
    furnished(it)
    for name in ("main", "old"):
        it.desk().set_callflow(name, "greet: hello\n")
    it.in_step()
    root = it.root()
    box = root / "mailboxes/2001/mailbox.yaml"
    box.write_text(box.read_text().replace("Ada", "Eve") + "pin: '1234'\n")
    (root / "settings.yaml").write_text("defaults:\n  quota: 5\n")
    (root / "callflows/main.yaml").write_text("# mine\ngreet: hello\n")
    (root / "callflows/old.yaml").unlink()
    (root / "mailboxes/2001/greetings").mkdir()
    said = tone(root / "mailboxes/2001/greetings/busy.wav")
    it.holds("mailbox/2001", "name", "Eve")
    it.holds("settings", "defaults.quota", 5)
    it.holds("callflow/main", "text", "# mine\ngreet: hello\n")
    it.holds("greeting/2001/busy", "sha256", digest_of(said)[0])
    yield
    it.scan()
    it.holds("callflow/old", None, False)


@story
def an_application_drops_messages_in(it):
    """Two new ones without what vmctl keeps in them; one that was there is removed, one is marked in its file."""
    first, *_, last = [*furnished(it), it.leave(), it.leave(), it.leave()]
    it.in_step()
    folder = it.root() / "mailboxes/2001/messages"
    note = {"from": "+441", "received": "2026-01-31T08:15:00Z", "status": "new"}
    for ident in ("dropped-1", "dropped-2"):
        said = tone(folder / f"{ident}.wav")
        (folder / f"{ident}.json").write_text(json.dumps(note))
        it.holds(message_key("2001", ident), "sha256", digest_of(said)[0])
    marked = json.loads((folder / f"{last}.json").read_text()) | {"status": "saved"}
    (folder / f"{last}.new").write_text(json.dumps(marked))
    (folder / f"{last}.new").rename(folder / f"{last}.json")
    it.holds(message_key("2001", last), "status", "saved")
    for suffix in ("json", "wav"):
        (folder / f"{first}.{suffix}").unlink()
    it.begins(message_key("2001", first), field="sha256")
    yield
    it.scan()
    it.holds(message_key("2001", first), None, False)


@story
def a_recording_is_damaged(it):
    """One has other bytes, another is gone: both are found and fetched again."""
    one, other = furnished(it)
    folder = it.root() / "mailboxes/2001/messages"
    for ident in (one, other):
        it.holds(message_key("2001", ident), "sha256", digest_of(folder / f"{ident}.wav")[0], "secondary")
    yield
    (folder / f"{one}.wav").write_bytes(b"noise")
    (folder / f"{other}.wav").unlink()
    it.scan(full=True)
    it.exchange()


# The way of the data


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
    """Right before the peer's edit is renamed over the file."""
    furnished(it)
    box = it.root() / "mailboxes/2001/mailbox.yaml"
    it.desk("secondary").set_mailbox("2001", {"language": "en-GB"})
    it.holds("mailbox/2001", "language", "en-GB", "secondary")
    it.ship("secondary")
    rename, late = durable._rename, [box.read_text().replace("Ada", "Eve")]

    def at_the_last_moment(source, target):
        if target == box and late:
            it.begins("mailbox/2001", field="name")
            box.write_text(late.pop())
            it.holds("mailbox/2001", "name", "Eve")
        rename(source, target)

    durable._rename = at_the_last_moment
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


# Memory that was lost


@story
def a_server_was_rolled_back(it):
    """To a snapshot; it made a change before it heard from its peer."""
    furnished(it)
    snapshot = it.directory / "snapshot"
    shutil.copytree(it.root(), snapshot, symlinks=True)
    it.leave("secondary")
    it.delete(it.leave("secondary"), "secondary")
    it.in_step()
    it.a.close()
    shutil.rmtree(it.root())
    snapshot.rename(it.root())
    it.open("primary")
    it.scan()
    it.leave()
    it.ship("secondary", always=True, anew=True)
    yield
    it.a.take()
    it.exchange()


@story
def an_index_is_lost(it):
    """And built again from the files and the tombstones."""
    one, _ = furnished(it)
    it.delete(one)
    it.greet("2001", "busy")
    it.a.close()
    for path in (it.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    yield
    it.open("primary")
    it.scan()
    it.exchange()


# Roles


@story
def roles_move(it):
    """A start, the first to serve, a failover by order; each line of the journal that was written stays."""
    it.in_step()
    yield
    roles = {name: Failover(replica) for name, replica in it.servers.items()}
    for name, role in roles.items():
        role.start()
        it.holds(f"journal/{name}", "length", it.servers[name].journal.length_and_hash()[0], name)
    for turn in range(4):
        if turn == 2:
            roles["primary"].order("voicemail", "failover", "somebody")
        for name, role in roles.items():
            for parcel in it.servers[name].outbox.parcels(always=True, status=role.facts):
                it.servers[it.other(name)].receive(parcel.raw)
                it.servers[name].outbox.left(parcel)
            for taken in it.servers[it.other(name)].take().taken:
                roles[it.other(name)].hear_orders(taken.status.get("orders"))
        for name, role in roles.items():
            role.tick()
            it.holds(f"journal/{name}", "length", it.servers[name].journal.length_and_hash()[0], name)


def made_whole_or_not_at_all(directory):
    """A directory where `vmctl init` was killed: it is a network, or it is refused until somebody has cleared it."""
    new = directory / "new"
    for _ in range(2):
        try:
            made = network.make(new)
        except NotEmpty:
            if not (new / config.FILE).exists():
                shutil.rmtree(new)
                continue
            made = config.load(new / config.FILE)
        for name in made.servers:
            Replica.open(made, name, Clock()).close()
        return []
    return ["no network can be made there"]


@story(also=made_whole_or_not_at_all)
def a_network_is_made(it):
    """With its keys and two stores."""
    yield
    network.make(it.directory.parent / "new")
    it.holds("network/new", None, True, "nobody")
