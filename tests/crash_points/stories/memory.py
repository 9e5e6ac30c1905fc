"""Memory that is lost, rolled back, joined, set back by a person, or given up for its age."""

import contextlib
import json
import shutil

from wire import tone

from crash_points.stories.registry import furnished, story
from vmctl import config, join, overwrite, reindex
from vmctl.audio import digest_of
from vmctl.clock import Clock
from vmctl.errors import AlreadyExists
from vmctl.model import message_key

# A retention of two days, and tombstones that are kept for ten.
SHORT = {"housekeeping.deleted": 48, "tombstones.keep": "10d", "failover.start_wait": "1s"}


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


@story
def an_index_is_lost_after_deletions_of_every_kind(it):
    """None of them was shipped yet; of one the deletion came before the record."""
    furnished(it)
    it.desk().set_callflow("main", "greet: hello\n")
    it.desk().set_prompt("welcome", it.recording())
    it.greet("2001", "busy")
    it.in_step()
    it.desk("secondary").set_callflow("night", "greet: goodbye\n")
    it.send("secondary")
    late, it.under_way = it.under_way, []
    it.desk("secondary").delete_callflow("night")
    it.ship("secondary")
    it.holds("callflow/night", None, False, "secondary")
    yield
    it.a.take()
    for key, act in (
        ("callflow/main", lambda: it.desk().delete_callflow("main")),
        ("prompt/welcome", lambda: it.desk().delete_prompt("welcome")),
        ("greeting/2001/busy", lambda: it.desk().delete_greeting("2001", "busy")),
    ):
        it.begins(key)
        it.begins(key, field="sha256")
        act()
        it.holds(key, None, False)
    it.a.close()
    for path in (it.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    it.open("primary")
    for _, raw in late:
        it.a.receive(raw)
    it.a.take()
    it.scan()
    it.exchange()


@story
def an_index_is_built_anew_by_command(it):
    """What it was is set aside; a deletion that was not shipped yet stays one."""
    one, _ = furnished(it)
    it.delete(one)
    it.greet("2001", "busy")
    it.a.close()
    yield
    reindex.rebuild(it.config, "primary", it.clock, it.clock.advance)
    it.open("primary")
    it.exchange()


def joined(directory):
    """A person has the primary join, unless it did."""
    made = config.load(directory / "net" / config.FILE)
    with contextlib.suppress(AlreadyExists):
        join.carry_out(join.plan(made, "primary", Clock().wall()))


@story(first=joined)
def a_store_in_use_joins(it):
    """A directory with a mailbox and messages becomes the primary's store; some of it the secondary has, too."""
    furnished(it)
    folder = it.root() / "mailboxes/2001/messages"
    it.a.close()
    shutil.rmtree(it.root() / ".vmctl")
    said = tone(folder / "dropped.wav")
    note = {"from": "+441", "received": "2026-01-31T08:15:00Z", "status": "new"}
    (folder / "dropped.json").write_text(json.dumps(note))
    it.holds(message_key("2001", "dropped"), "sha256", digest_of(said)[0], "nobody")
    yield
    joined(it.directory.parent)
    it.open("primary")
    it.scan()
    it.exchange()


@story
def one_side_wins(it):
    """Both changed everything; what the primary holds is set back as changes of its own, and all of it can be undone."""
    one, _ = furnished(it)
    it.rename("First")
    it.clock.advance(1)
    it.rename("Second", "secondary")
    it.delete(one, "secondary")
    left = it.leave("secondary")
    it.leave()
    for key in (message_key("2001", one), message_key("2001", left)):
        it.begins(key)
        it.begins(key, field="sha256")
    it.begins("mailbox/2001", field="name")
    yield
    overwrite.remember(it.a)
    it.scan("secondary")
    it.exchange()
    assert overwrite.set_back(it.a, "somebody")
    it.holds("mailbox/2001", "name", "First")
    it.holds(message_key("2001", one), None, True)
    it.holds(message_key("2001", left), None, False)
    it.exchange()


@story(settings=SHORT)
def messages_go_for_their_age(it):
    """One is deleted for its age; one that was deleted long ago is purged, with its recording; then it is forgotten."""
    one, _ = furnished(it)
    it.start_roles()
    it.desk().set_mailbox("2001", {"timers": {"old": 24}})
    it.mark(one, "old")
    it.delete(it.leave())
    gone = it.leave()
    it.in_step()
    it.delete(gone)
    it.in_step()
    it.clock.advance(3 * 86_400.0)
    it.exchange()
    it.begins(message_key("2001", one))
    for field in ("sha256", "status"):
        it.begins(message_key("2001", one), field=field)
    yield
    it.night()
    it.holds(message_key("2001", one), None, False)
    it.night(3)
    assert it.a.index.get(message_key("2001", gone)).record.is_purged
    it.night(11)
    assert it.a.index.get(message_key("2001", gone)) is None
