"""Two stores and the mails between them, whatever happens on the way: they converge and lose nothing."""

import contextlib
import errno
import os
import random
from dataclasses import replace

import pytest
from wire import Wire, back_up, lose_index, put_back, tone

from vmctl import durable, removing, replica
from vmctl.errors import NotFound, RecordError, VmctlError
from vmctl.model import ABSENT
from vmctl.replica import Replica
from vmctl.scan import Scanner


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


# Mailboxes deleted on one side


def test_a_message_left_while_its_mailbox_is_deleted_brings_it_back(wire, box, recording):
    """The new message is there on both servers, in its mailbox; the old one, which the deleter had seen, is not."""
    old = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_mailbox(box)
    new = wire.desk("secondary").leave(box, recording())
    wire.in_step()
    assert [[new], [new]] == [wire.messages(box, name) for name in wire.servers]
    assert [["2001"], ["2001"]] == [replica.store.names("mailbox") for replica in wire.servers.values()]
    assert not wire.lives(f"message/{box}/{old}")


def test_a_mailbox_made_anew_does_not_show_the_old_messages(wire, box, recording):
    """A second life of a mailbox begins empty, on both servers."""
    wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_mailbox(box)
    wire.desk().create_mailbox(box, {"name": "Bob"})
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]
    assert "Bob" == wire.b.store.document("mailbox/2001")["name"]
    assert "Ada" not in (wire.root("secondary") / "mailboxes/2001/mailbox.yaml").read_text()


def test_a_save_outlives_a_concurrent_delete_and_a_mark_does_not(wire, box, recording):
    """Saved here and deleted there: kept, on both. Marked old here and deleted there: gone, on both."""
    saved, marked = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    wire.desk().mark(box, saved, "saved")
    wire.desk().mark(box, marked, "old")
    for ident in (saved, marked):
        wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    assert [[saved], [saved]] == [wire.messages(box, name) for name in wire.servers]


def test_both_servers_list_the_same_conflict(wire, box):
    """One field set to two values while the mail was down: the later wins on both, and both list what lost."""
    wire.desk().set_mailbox(box, {"name": "First"})
    wire.clock.advance(1)
    wire.desk("secondary").set_mailbox(box, {"name": "Second"})
    wire.in_step()
    assert ["Second", "Second"] == [replica.store.document("mailbox/2001")["name"] for replica in wire.servers.values()]
    one, other = (list(replica.index.entries("kind = 'conflict'")) for replica in wire.servers.values())
    assert ["First"] == [entry.record.document["lost"]["is"] for entry in one]
    assert [entry.record for entry in one] == [entry.record for entry in other]


def test_fields_set_on_both_sides_are_both_kept(wire, box):
    """Two people edit other fields of one mailbox: neither edit is lost, and nothing is listed."""
    wire.desk().set_mailbox(box, {"language": "en-GB"})
    wire.desk("secondary").set_mailbox(box, {"quota": 7, "name": ABSENT})
    wire.in_step()
    expected = {"language": "en-GB", "quota": 7, "service": "voicemail"}
    assert [expected, expected] == [replica.store.document("mailbox/2001") for replica in wire.servers.values()]
    assert 0 == wire.a.index.count("kind = 'conflict'")


# The index lost


def test_a_lost_index_doubles_nothing_and_brings_nothing_back(wire, box, recording):
    """With a new index the server takes a new incarnation; what is there stays, what was deleted stays deleted."""
    kept, gone = (wire.desk().leave(box, recording()) for _ in range(2))
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    before = wire.a.index.meta("incarnation")
    lose_index(wire, "primary")
    assert before != wire.a.index.meta("incarnation")
    wire.in_step()
    assert [[kept], [kept]] == [wire.messages(box, name) for name in wire.servers]
    assert 0 == wire.a.index.count("kind = 'conflict'")


@pytest.mark.parametrize("how", ["desk", "rm"])
def test_a_delete_that_was_not_shipped_outlives_the_index(wire, box, recording, how):
    """Deleted, then the index lost before the peer heard of it: the peer's copy goes, too, and does not come back."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    if how == "desk":
        wire.desk().delete_message(box, gone)
    else:
        for path in (wire.root() / f"mailboxes/{box}/messages").iterdir():
            path.unlink()
        wire.scan()
    lose_index(wire, "primary")
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]
    wire.desk().restore_message(box, gone)
    wire.in_step()
    assert [[gone], [gone]] == [wire.messages(box, name) for name in wire.servers]


def test_a_crash_while_an_index_is_made_anew_brings_nothing_back(wire, box, recording, monkeypatch):
    """The first start ends before it has read the tombstones: the next one reads them, and what was deleted stays so."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, ident)
    monkeypatch.setattr(Scanner, "recall", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lose_index(wire, "primary")
    monkeypatch.undo()
    wire.open("primary")
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def interrupt(*_):
    """A person ends the process."""
    raise KeyboardInterrupt


def test_a_new_index_beside_a_damaged_journal(wire, box, recording):
    """The journal stops the roles and nothing else: the store is opened, and all messages are there."""
    ident = wire.desk().leave(box, recording())
    wire.a.journal.path.write_bytes(b"no journal\n")
    lose_index(wire, "primary")
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]
    assert [] != wire.a.journal.verify()


def test_a_delete_of_the_peer_reaches_a_new_index_before_its_first_scan(wire, box, recording):
    """The peer's delete waits in the spool while the index is lost: the old file is no wish to have it back."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk("secondary").delete_message(box, gone)
    wire.send("secondary")
    wire.deliver(take=False)
    lose_index(wire, "primary")
    wire.a.take()
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def test_a_restored_message_outlives_the_index(wire, box, recording):
    """Deleted, restored, then the index lost: it is there."""
    ident = wire.desk().leave(box, recording())
    wire.desk().delete_message(box, ident)
    tomb = wire.root() / f".vmctl/deleted/mailboxes/{box}/messages/{ident}.json"
    text = tomb.read_bytes()
    wire.desk().restore_message(box, ident)
    assert not tomb.exists()
    tomb.write_bytes(text)  # as a crash before its removal leaves it
    lose_index(wire, "primary")
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


def test_both_indexes_lost(wire, box, recording):
    """Files are enough: both servers start over and come in step."""
    ident = wire.desk().leave(box, recording())
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    for name in wire.servers:
        lose_index(wire, name)
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


# What is believed of the peer


def test_a_record_that_the_peer_has_lost_is_not_asked_for_without_end(wire, box):
    """A want that nobody can fulfil makes a mail now and again, not one after the other."""
    with wire.a.index.transaction():
        wire.a.index.replies.add_want("mailbox/9999")
    assert [1, 0, 0] == [len(wire.send("primary")) for _ in range(3)]
    wire.clock.advance(2.5)
    assert 1 == len(wire.send("primary"))


def test_a_wrong_belief_about_the_peer_is_found(wire, box, recording):
    """Nothing is pending and the digests differ: everything is offered again, and both come in step."""
    ident = wire.desk().leave(box, recording())
    entry = wire.a.index.get(f"message/{box}/{ident}")
    with wire.a.index.transaction():
        wire.a.index.put(replace(entry, base=entry.record), wire.clock.wall())
    assert (0, 0) == (wire.a.index.pending_count(), wire.b.index.pending_count())
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


# Everything at once


class Crash(BaseException):
    """The process ends here."""


class Story:
    """Random acts of people, callers, mail and machines; remembers what must be there at the end.

    VMCTL_SEEDS="1 2 3" runs others than the ones that once found something.
    """

    def __init__(self, wire, chance, directory):
        self.wire = wire
        self.chance = chance
        self.directory = directory
        self.accepted = set()
        self.deleted = set()
        self.kept = set()  # saved or restored: a delete may not have seen that
        self.unsure = set()
        self.backups = {}

    def run(self, acts):
        """So many acts, then enough mail."""
        names = [name for name in dir(self) if name.startswith("do_")]
        for _ in range(acts):
            act = getattr(self, self.chance.choice(names))
            try:
                act(self.chance.choice(("primary", "secondary")))
            except VmctlError as error:
                if not (error.retry or isinstance(error, RecordError)):
                    raise
        self.wire.lose()

    def check(self):
        """Both hold the same; what was accepted is there unless a delete saw it; what was deleted is not."""
        self.wire.in_step()
        there = {ident for box in self.boxes() for ident in self.wire.messages(box)}
        assert set() == self.accepted - self.deleted - self.unsure - there
        assert set() == (self.deleted - self.kept - self.unsure) & there

    def boxes(self, name="primary"):
        return self.wire.servers[name].store.names("mailbox")

    def some(self, name):
        boxes = [box for box in self.boxes(name) if self.wire.messages(box, name)]
        if not boxes:
            raise NotFound("no message is there")
        box = self.chance.choice(boxes)
        return box, self.chance.choice(self.wire.messages(box, name))

    def box(self, name):
        boxes = self.boxes(name)
        if not boxes:
            raise NotFound("no mailbox is there")
        return self.chance.choice(boxes)

    def do_create(self, name):
        self.wire.desk(name).create_mailbox(f"20{self.chance.randrange(3)}", {"name": f"n{self.chance.randrange(99)}"})

    def do_set(self, name):
        self.wire.desk(name).set_mailbox(self.box(name), {"quota": self.chance.randrange(50, 99)})

    def do_leave(self, name):
        source = tone(self.directory / "r.wav", frames=self.chance.choice((40, 60_000)), seed=self.chance.random())
        ident = self.wire.desk(name).leave(self.box(name), source)
        self.accepted.add(ident)

    do_leave_another = do_leave

    def do_mark(self, name):
        box, ident = self.some(name)
        status = self.chance.choice(("new", "old", "saved"))
        if status == "saved":  # also where it is refused as busy: then it is kept, and written later
            self.kept.add(ident)
        self.wire.desk(name).mark(box, ident, status)

    def do_delete(self, name):
        box, ident = self.some(name)
        self.deleted.add(ident)
        self.wire.desk(name).delete_message(box, ident)

    def do_delete_box(self, name):
        if self.chance.random() < 0.3:
            box = self.box(name)
            index = self.wire.servers[name].index
            self.deleted |= {
                entry.record.key.split("/")[2]
                for entry in index.in_mailbox(box)
                if "message/" in entry.record.key and entry.shown is not None  # what nobody saw outlives its mailbox
            }
            self.wire.desk(name).delete_mailbox(box)

    def do_edit(self, name):
        path = self.wire.root(name) / f"mailboxes/{self.box(name)}/mailbox.yaml"
        path.write_text(
            f"name: e{self.chance.randrange(99)}\n" + self.chance.choice(("", "language: fr\n", "pin: [\n"))
        )
        if self.chance.random() < 0.5:
            self.wire.scan(name)
        path.write_text(f"name: e{self.chance.randrange(99)}\nquota: 77\n")

    def do_drop_in(self, name):
        box = self.box(name)
        ident = f"m{self.chance.randrange(10**9)}"
        folder = self.wire.root(name) / f"mailboxes/{box}/messages"
        folder.mkdir(exist_ok=True)
        tone(folder / f"{ident}.wav", seed=ident)
        (folder / f"{ident}.json").write_text('{"received": "2026-01-31T08:15:00Z", "status": "new"}')
        self.wire.scan(name)
        assert self.wire.lives(f"message/{box}/{ident}", name)
        self.accepted.add(ident)

    def do_rm(self, name):
        box, ident = self.some(name)
        for path in (self.wire.root(name) / f"mailboxes/{box}/messages").glob(f"{ident}.*"):
            path.unlink()
        self.deleted.add(ident)
        self.unsure.add(ident)  # it may be held back
        self.wire.scan(name, accept_deletions=self.chance.random() < 0.5)

    def do_rm_audio(self, name):
        box, ident = self.some(name)
        mine, other = (
            root / f"mailboxes/{box}/messages/{ident}.wav"
            for root in (self.wire.root(name), self.wire.root(self.wire.other(name)))
        )
        if mine.exists() and other.exists():  # the last copy of all cannot be fetched again
            mine.unlink()
            self.backups.clear()  # nor may the other copy be rolled back

    def do_scan(self, name):
        self.wire.scan(name, full=self.chance.random() < 0.2)

    def do_mail(self, name):
        self.wire.send(name, always=True, anew=self.chance.random() < 0.5)
        self.wire.disturb(self.chance)

    do_mail_again = do_mail_thrice = do_mail

    def do_crash(self, name):
        self.wire.crash(name)

    def do_crash_within(self, name):
        left = self.chance.randrange(12)

        def failing(act):
            def step(*values, **words):
                nonlocal left
                left -= 1
                if left == 0:
                    raise Crash
                if left == -3:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return act(*values, **words)

            return step

        steps = {step: getattr(durable, step) for step in ("_rename", "_swap", "_link", "_write", "_fsync")}
        try:
            for step, act in steps.items():
                setattr(durable, step, failing(act))
            self.do_mail(name)
            self.do_scan(name)
        except Crash:
            pass
        except VmctlError as error:
            if not error.retry:
                raise
        finally:
            for step, act in steps.items():
                setattr(durable, step, act)
        for each in tuple(self.wire.servers):
            self.wire.crash(each)

    def do_lose_index(self, name):
        if self.chance.random() < 0.3:
            lose_index(self.wire, name)

    def do_back_up(self, name):
        back_up(self.wire, name, self.directory / f"backup-{name}")
        self.backups[name] = (set(self.accepted), set(self.deleted))

    def do_put_back(self, name):
        if name in self.backups and self.chance.random() < 0.5:
            accepted, deleted = self.backups.pop(name)
            self.unsure |= (self.accepted - accepted) | (self.deleted - deleted)
            put_back(self.wire, name, self.directory / f"backup-{name}")


@pytest.mark.parametrize("seed", [int(seed) for seed in os.environ.get("VMCTL_SEEDS", "1 47 80 214 314").split()])
def test_whatever_happens_the_stores_converge(tmp_path, no_fsync, seed):
    """After any acts of people, callers, mail and machines, enough mail makes both stores equal, and nothing is lost."""
    wire = Wire(tmp_path / "net", {"mail.max": "64kB", "limits.document": "4kB"})
    story = Story(wire, random.Random(seed), tmp_path)
    try:
        wire.desk().create_mailbox("200", {})
        wire.in_step()
        story.run(40)
        story.check()
    finally:
        wire.close()


def test_two_opened_replicas_of_one_store_share_it(wire, box):
    """A command beside a running daemon sees and makes the same changes."""
    with Replica.open(wire.config, "primary", wire.clock) as second:
        wire.desk().set_mailbox(box, {"quota": 5})
        assert 5 == second.index.get("mailbox/2001").record.document["quota"]


def test_two_processes_that_open_a_store_without_its_index_begin_one_life(wire, monkeypatch):
    """The second, which looked at the store before the first was done, goes on with the incarnation of the first."""
    real = replica.store_lock

    @contextlib.contextmanager
    def locked_second(root):
        monkeypatch.setattr(replica, "store_lock", real)
        Replica.open(wire.config, "primary", wire.clock).close()
        with real(root) as turn:
            yield turn

    monkeypatch.setattr(replica, "store_lock", locked_second)
    lose_index(wire, "primary")
    lives = [entry["now"] for entry in wire.a.journal.entries() if entry["kind"] == "event"]
    assert 2 == len(lives)
    assert lives[-1] == wire.a.index.meta("incarnation")


# A backlog


def backlog(wire, box, recording, mails=3):
    """Mails that wait at the secondary, each with a message; nothing of them is taken."""
    for _ in range(mails):
        wire.desk().leave(box, recording())
        wire.send("primary", always=True)
        wire.clock.advance(1.0)
    wire.deliver(take=False)
    return len(wire.b.spool.waiting())


def test_an_intake_ends_when_patience_does_and_the_next_goes_on(wire, box, recording):
    """One mail at least is taken each time, and the last says that there is no more."""
    wire.b.patience = 0.0
    waiting = backlog(wire, box, recording)
    intakes = [wire.b.take() for _ in range(waiting)]
    assert [1] * waiting == [len(intake.taken) for intake in intakes]
    assert [True] * (waiting - 1) + [False] == [intake.more for intake in intakes]
    wire.in_step()


def test_a_peer_whose_mails_wait_is_heard(wire, box, recording):
    """What the newest says of the peer counts at once: its age, the challenge to be echoed, and what it says of the roles."""
    wire.exchange()
    wire.b.patience = 0.0
    wire.clock.advance(100.0)
    wire.send("secondary", always=True)
    wire.deliver()
    assert backlog(wire, box, recording) > 2
    assert wire.b.contact.silent_for() > 90
    wire.b.take()
    assert wire.b.contact.silent_for() < 10
    assert wire.b.contact.echo() == wire.a.index.note("challenges")[-1][0]
    assert wire.b.index.count("kind = 'message'") == 1


def test_files_that_lag_behind_are_written_in_several_goes(wire, box, recording):
    """Each go writes one at least, and says that there is more, until all are there."""
    for _ in range(3):
        wire.desk().leave(box, recording())
    wire.send("primary", always=True)
    wire.deliver(take=False)
    wire.b.patience = 0.0
    goes = [wire.b.take() for _ in range(3)]
    assert [True, True, False] == [go.more for go in goes]
    assert [1, 1, 1] == [len(go.applied.written) for go in goes]
    wire.in_step()


def test_many_mails_at_once_bear_one_challenge(wire, box):
    """So the answer to the first of them still counts when the last has left; a later mail bears another."""
    first = wire.a.contact.challenge()
    assert {first} == {wire.a.contact.challenge() for _ in range(500)}
    wire.clock.advance(wire.config.failover.after / 100)
    assert first != wire.a.contact.challenge()


def takes_five_in_three_goes(wire):
    """Five changes that take a second each, and patience for one and a half."""
    wire.b.patience = 1.5
    goes = [wire.b.take() for _ in range(3)]
    assert [2, 2, 1] == [len(go.applied.written) for go in goes]
    assert [True, True, False] == [go.more for go in goes]
    wire.b.patience = None
    wire.in_step()


def test_an_intake_of_many_edits_ends_when_patience_does(wire, box, recording, monkeypatch):
    """What there was time to write takes its place, and the peer is not kept waiting for the rest."""
    idents = [wire.desk().leave("2001", recording()) for _ in range(5)]
    wire.in_step()
    for ident in idents:
        wire.desk().mark("2001", ident, "saved")
    wire.send("primary")
    wire.deliver(take=False)
    stage = durable.stage

    def slowly(*values, **words):
        wire.clock.advance(1.0)
        return stage(*values, **words)

    monkeypatch.setattr(durable, "stage", slowly)
    takes_five_in_three_goes(wire)
    assert 5 * ["saved"] == [wire.b.store.document(f"message/2001/{ident}")["status"] for ident in idents]


def test_an_intake_of_many_deletions_ends_when_patience_does(wire, box, recording, monkeypatch):
    """What goes is hashed once more, which takes a while where it is long; the rest goes with the next ones."""
    for _ in range(5):
        wire.desk().leave("2001", recording())
    wire.in_step()
    for ident in wire.messages("2001"):
        wire.desk().delete_message("2001", ident)
    wire.send("primary")
    wire.deliver(take=False)
    count = removing.digest_of

    def slowly(path):
        wire.clock.advance(1.0)
        return count(path)

    monkeypatch.setattr(removing, "digest_of", slowly)
    takes_five_in_three_goes(wire)
    assert [] == wire.messages("2001", "secondary")
