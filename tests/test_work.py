"""How much is done for how much there is: work is counted, and twice as much to do is at most twice the work."""

import contextlib
import errno
import os
import re
from dataclasses import replace

import pytest
from wire import Wire

from vmctl import asking, database, durable
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.errors import DiskFull
from vmctl.model import purged
from vmctl.replica import Replica
from vmctl.store import native


class Work:
    """What was done: folders listed, files looked at, statements of SQL run."""

    def __init__(self):
        self.listings = self.looks = self.statements = 0

    def __repr__(self):
        return f"{self.listings} listings, {self.looks} looks, {self.statements} statements"


@pytest.fixture
def counted(monkeypatch):
    """Gives a block whose work is counted."""
    listed, lstat, execute = native._listed, os.lstat, database.Connection.execute
    under_way = []

    def count(name, real):
        def counting(*args):
            for work in under_way:
                setattr(work, name, getattr(work, name) + 1)
            return real(*args)

        return counting

    monkeypatch.setattr(native, "_listed", count("listings", listed))
    monkeypatch.setattr(native, "_lstat", count("looks", lstat))
    monkeypatch.setattr(database.Connection, "execute", count("statements", execute))

    @contextlib.contextmanager
    def counting():
        work = Work()
        under_way.append(work)
        try:
            yield work
        finally:
            under_way.remove(work)

    return counting


@pytest.fixture
def serving(tmp_path, no_fsync):
    """Two servers of which the primary serves."""
    made = Wire(tmp_path / "net", {"failover.start_wait": "1s"})
    made.start_roles()
    yield made
    made.close()


def leave(wire, box, number, recording):
    """A new mailbox with so many messages, known to the index; their ids."""
    wire.desk().create_mailbox(box, {"name": "Ada"})
    found = [wire.desk().leave(box, recording()) for _ in range(number)]
    wire.scan()
    return found


def at_most_twice(one, two, *, more=0):
    """Twice as much to do was at most twice the work, and `more` besides."""
    for name in ("listings", "looks", "statements"):
        assert getattr(two, name) <= 2 * getattr(one, name) + more, (name, one, two)


def test_a_renumber_looks_at_each_message_alone(wire, recording, counted):
    """A mailbox with twice as many messages is twice the work, and no folder of messages is listed for it."""
    done = []
    for box, number in (("2001", 4), ("2002", 8)):
        leave(wire, box, number, recording)
        with counted() as work:
            MailboxDesk(wire.a).renumber(box, f"{box}9")
        done.append(work)
    assert [0, 0] == [work.listings for work in done]
    at_most_twice(*done)


def test_housekeeping_looks_at_each_message_alone(serving, recording, counted):
    """Messages that are deleted for their age are looked at one by one, without a listing of their folder."""
    wire, done = serving, []
    for box, number in (("2001", 4), ("2002", 8)):
        leave(wire, box, number, recording)
        wire.desk().set_mailbox(box, {"timers": {"new": 24}})
        wire.exchange()
        wire.clock.advance(2 * 86_400)
        wire.exchange()
        with counted() as work:
            kept = wire.keep()
        assert number == len(kept.deleted)
        done.append(work)
        wire.exchange()
    assert [0, 0] == [work.listings for work in done]
    at_most_twice(*done)


@pytest.mark.parametrize("full", [False, True])
def test_a_scan_lists_a_folder_once(wire, recording, counted, full):
    """Whether files were put back from a backup is seen in the same listing in which the messages are found."""
    boxes = ["2001", "2002"]
    for box in boxes:
        ident = leave(wire, box, 3, recording)[0]
    wire.scan(full=True)
    wire.scan()
    document = wire.root() / f"mailboxes/2002/messages/{ident}.json"
    text = re.sub(r'"status": ?"new"', '"status": "saved"', document.read_text())
    beside = document.with_suffix(".tmp")
    beside.write_text(text)
    os.utime(beside, ns=(1, 1))  # older than what was there
    beside.rename(document)
    wire.tick()
    wire.clock.advance(60)
    listed = []
    folders = native.NativeStore.messages
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native.NativeStore, "messages", lambda self, path: [listed.append(path), folders(self, path)][1])
        report = wire.a.scan(full=full)
    assert [f"mailboxes/{box}/messages" for box in boxes[0 if full else 1 :]] == sorted(listed)
    assert [f"message/2002/{ident}"] == report.changed


def test_mails_about_a_deleted_mailbox_do_not_look_at_all_of_it_each_time(wire, recording):
    """What becomes of its messages comes mail by mail, and each costs what is in it, however many lay in the mailbox."""
    done = []
    for box, number in (("2001", 3), ("2002", 6)):
        left = leave(wire, box, number, recording)
        wire.exchange()
        wire.desk().delete_mailbox(box)
        wire.exchange()
        read = []
        entries = wire.b.index.entries

        def counting(*where, entries=entries, read=read):
            found = list(entries(*where))
            read.extend(found)
            return iter(found)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire.b.index, "entries", counting)
            for ident in left:
                with wire.a.index.transaction():
                    entry = wire.a.index.get(f"message/{box}/{ident}")
                    tick = wire.a.index.next_tick(wire.clock.wall())
                    wire.a.index.put(replace(entry, record=purged(entry.record, tick)), wire.clock.wall())
                wire.send("primary")
                wire.deliver()
                assert wire.b.index.get(entry.record.key).record.is_purged
        done.append(len(read) / number)
    assert done[0] == done[1]


def waiting_for_audio(narrow, box, number, recording):
    """So many messages more at the secondary whose recordings have not come; their keys."""
    narrow.desk().create_mailbox(box, {"name": "Ada"})
    left = [narrow.desk().leave(box, recording(frames=60_000)) for _ in range(number)]
    for parcel in narrow.a.outbox.parcels():
        if not parcel.load.records:
            break  # the pieces of the recordings
        narrow.a.outbox.left(parcel)
        narrow.b.receive(parcel.raw)
    narrow.b.take()
    keys = [f"message/{box}/{ident}" for ident in left]
    assert set(keys) <= set(narrow.b.index.todo())
    return keys


def test_the_lock_costs_the_same_however_many_messages_wait(narrow, recording, counted):
    """Who takes the store's lock after one who ended well looks at nothing that waits for its recording."""
    done = []
    for box, number in (("2001", 3), ("2002", 6)):
        waiting_for_audio(narrow, box, number, recording)
        with counted() as work, narrow.b.locked():
            pass
        done.append((work.listings, work.looks, work.statements))
    assert done[0] == done[1]


def test_a_start_looks_once_at_each_message_that_waits(narrow, recording, counted):
    """Whatever was killed before may have written its document: one look tells that it did not."""
    done = []
    for box, number in (("2001", 3), ("2002", 3)):
        waiting_for_audio(narrow, box, number, recording)
        with counted() as work:
            narrow.crash("secondary")
        done.append(work)
    at_most_twice(*done)
    assert done[1].looks - done[0].looks == 3


@pytest.mark.parametrize("how", ["killed", "fault"])
def test_what_another_process_wrote_and_did_not_note_is_noted_under_the_next_lock(wire, recording, monkeypatch, how):
    """It was killed, or its disk was full, before the commit: what it wrote is no edit of a person for those who go on."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    wire.desk("secondary").mark("2001", ident, "saved")
    wire.desk("secondary").set_mailbox("2001", {"quota": 7})
    wire.send("secondary")
    wire.deliver(take=False)
    error = KeyboardInterrupt if how == "killed" else DiskFull("no room")
    with Replica.open(wire.config, "primary", wire.clock) as other:
        run = other.index._run

        def failing(query, values=()):
            if query == "COMMIT" and not other.index.todo():
                raise error
            return run(query, values)

        monkeypatch.setattr(other.index, "_run", failing)
        with pytest.raises((KeyboardInterrupt, DiskFull)):
            other.take()
    assert {"mailbox/2001", f"message/2001/{ident}"} == set(wire.a.index.todo())
    with wire.a.locked():
        assert [] == wire.a.index.todo()
    wire.in_step()


def test_a_file_that_can_never_be_written_makes_nobody_wait_for_the_whole_machine(wire, monkeypatch):
    """What may be half done is looked at anew each time, and only those files are made durable for it."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    synced = []
    monkeypatch.setattr(durable, "_sync", lambda: synced.append(True))
    swap, box = durable._swap, wire.root() / "mailboxes/2001/mailbox.yaml"

    def refuse(aside, target):
        if target == str(box):
            raise OSError(errno.EPERM, "no")
        swap(aside, target)

    wire.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    wire.send("secondary")
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_swap", refuse)
        wire.deliver()
        for _ in range(3):
            wire.a.scan()
        assert ["mailbox/2001"] == wire.a.index.todo()
    wire.in_step()
    assert "Eve" == wire.a.store.document("mailbox/2001")["name"]
    assert [] == synced


def test_a_lock_tells_whether_the_one_before_ended_well(tmp_path, monkeypatch):
    """One that was killed, or raised, or could not say that it held the lock did not; a new lock has none before it."""
    path = tmp_path / "lock"

    def follows_well(**how):
        with durable.lock(path, timeout=0, what="it", shared_text="me") as turn:
            turn.ends_well = how.get("ends_well", True)
            return turn.follows_well

    assert [False, True, True] == [follows_well() for _ in range(3)]
    assert [True, False] == [follows_well(ends_well=False), follows_well()]
    with pytest.raises(ZeroDivisionError), durable.lock(path, timeout=0, what="it", shared_text="me"):
        _ = 1 // 0
    assert [False, True] == [follows_well(), follows_well()]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert follows_well()
    assert [False, True] == [follows_well(), follows_well()]


def test_a_mail_costs_the_same_however_many_recordings_are_awaited(narrow, recording, counted):
    """What waits for its recording is looked at when that comes: not for each mail that leaves, nor for each that comes."""
    narrow.desk().set_settings({"a.b": "c"})
    narrow.in_step()
    done = []
    for box, number in (("2001", 3), ("2002", 6)):
        waiting_for_audio(narrow, box, number, recording)
        mail = next(narrow.b.outbox.parcels(always=True))
        narrow.b.outbox.left(mail)
        narrow.desk().set_settings({"a.b": box})
        change = next(narrow.a.outbox.parcels())
        with counted() as work:
            narrow.b.receive(change.raw)
            narrow.b.take()
            narrow.b.outbox.left(next(narrow.b.outbox.parcels(always=True)))
        narrow.a.outbox.left(change)
        done.append((work.listings, work.looks, work.statements))
    assert done[0] == done[1]


def test_offers_are_looked_for_once_in_a_row_of_mails(narrow, recording, counted):
    """Whether a recording that the peer waits for is here is not asked again for each mail that brings a piece."""
    done = []
    for number in (2, 4):
        waiting_for_audio(narrow, f"200{number}", number, recording)
        looked = []
        find = narrow.a.recordings.find
        with pytest.MonkeyPatch.context() as patch:

            def finding(one, *named, find=find, looked=looked):
                looked.append(one)
                return find(one, *named)

            patch.setattr(narrow.a.recordings, "find", finding)
            mails = [[narrow.a.outbox.left(parcel), parcel][1] for parcel in narrow.a.outbox.parcels()]
        assert len(mails) >= number
        pieces = sum(len(mail.load.pieces) for mail in mails)
        done.append(len(looked) - pieces)
        for mail in mails:
            narrow.b.receive(mail.raw)
        narrow.b.take()
        narrow.exchange()
    assert done == [2, 4]


def test_a_recording_that_came_by_itself_is_found_when_it_is_due_to_be_asked_for(narrow, recording):
    """It was put into the pool by hand: nobody said so, and still nothing waits for it for long, nor is it asked for."""
    key = waiting_for_audio(narrow, "2001", 1, recording)[0]
    audio = narrow.b.index.get(key).record.document["audio"]
    narrow.b.pool.copy_in(narrow.root() / narrow.a.store.audio_path(key, "wav"), audio["sha256"])
    assert [(key, narrow.a.index.get(key).record.version)] != [ack[:2] for ack in narrow.b.index.replies.acks()]
    for _ in range(2):
        words = [parcel.word for parcel in narrow.b.outbox.parcels(always=True)]
        narrow.clock.advance(3)
    assert [[]] == [word.wants["audio"] for word in words]
    assert (key, narrow.a.index.get(key).record.version) in [ack[:2] for ack in narrow.b.index.replies.acks()]
    narrow.b.take()
    assert [] == narrow.b.index.todo()
    narrow.in_step()


def test_nothing_is_remembered_of_recordings_that_nobody_waits_for(narrow, recording):
    """What waited was deleted: its recording is forgotten, not asked for any more."""
    key = waiting_for_audio(narrow, "2001", 1, recording)[0]
    assert 1 == len(narrow.b.index.replies.awaited())
    narrow.desk().delete_message(*key.split("/")[1:])
    narrow.in_step()
    assert 0 == narrow.b.index._run("SELECT count(*) FROM awaited").fetchone()[0]


def test_acknowledgements_that_wait_hold_up_no_other(narrow, recording, monkeypatch):
    """However few fit into a mail, and however many wait before it: what can be acknowledged is, in the next mail."""
    monkeypatch.setattr(asking, "_MOST_ACKS", 1)
    narrow.desk().set_settings({"a.b": "c"})
    waiting_for_audio(narrow, "2001", 3, recording)
    acked = []
    for _ in range(3):
        parcel = next(narrow.b.outbox.parcels(always=True))
        narrow.b.outbox.left(parcel)
        acked.append([key for key, _ in parcel.word.acks])
    assert [["mailbox/2001"], ["settings"], []] == acked
