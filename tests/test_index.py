"""The index: what is put in is found again, numbers only go up, and a crash leaves all or nothing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
from dataclasses import replace

import pytest

from vmctl.checkpoints import Checkpoint
from vmctl.entry import Entry, Look, audio_of
from vmctl.errors import DiskFull, IndexDamaged, StoreBusy, StoreNewer, StoreUnusable
from vmctl.index import FORMAT, Index
from vmctl.model import ABSENT, Field, Stamp, Tick, created, deleted, edited

WALL = 1_000_000
SHA = "ab" * 32
AUDIO = {"sha256": SHA, "size": 3, "format": "wav"}


@pytest.fixture
def index(tmp_path):
    """An empty index."""
    opened = Index.open(tmp_path / "index.db", create=True)
    yield opened
    opened.close()


def message(name="m1", box="201", **document):
    """A message's record."""
    return created(f"message/{box}/{name}", {"status": "new"} | document, Tick(1, "p1"), 1)


def put(index, *entries, wall=WALL):
    """Put entries in one transaction."""
    with index.transaction():
        for entry in entries:
            index.put(entry if isinstance(entry, Entry) else Entry(entry), wall)


# Records


@pytest.mark.parametrize(
    "value", [None, 1, True, 2**80, "é\U0001f600", "half \ud800", {"a": [1, {"b": None}]}, ABSENT, ""]
)
def test_an_entry_is_found_again(index, value):
    """Record, what is shown and what the peer holds come back equal, whatever the values."""
    record = replace(message(), fields={"x": Field(value, Stamp(1, "p1", 1))})
    for entry in (
        Entry(record),
        Entry(record, shown=record),
        Entry(record, message(), record),
        Entry(message(), record),
    ):
        put(index, entry)
        found = index.get(record.key)
        assert entry == found
        assert entry.record.version == found.record.version
        assert (entry.pending, entry.todo) == (found.pending, found.todo)
    assert index.get("message/201/other") is None


def test_numbers_go_up_and_outlive_the_process(tmp_path):
    """A change gets a number above all before, the wall's where it is ahead; the same version gets none."""
    index = Index.open(tmp_path / "index.db", create=True)
    put(index, message(), wall=500)
    assert index.last_number == 500
    put(index, message(), wall=900)
    assert index.last_number == 500
    put(index, message("m2"), wall=100)
    assert index.last_number == 501
    with index.transaction():
        index.witness(9000)
        assert index.next_number(100) == 9001
    index.close()
    index = Index.open(tmp_path / "index.db")
    assert index.last_number == 9001
    index.close()


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
def test_the_digest_tells_what_is_held_and_not_how_it_came(index, tmp_path, order):
    """Equal records give equal digests in whatever order; one changed gives another; changed back, the first."""
    other = Index.open(tmp_path / "other.db", create=True)
    assert index.digest == other.digest == "0" * 32
    put(index, *map(message, "abcd"))
    put(other, *map(message, order))
    assert index.digest == other.digest != "0" * 32
    put(other, edited(message("c"), {"status": "old"}, Tick(2, "s1"), 2))
    assert index.digest != other.digest
    put(other, message("c"))
    assert index.digest == other.digest
    other.close()


def test_what_the_peer_lacks_is_listed_by_need(index):
    """Settings, callflows and mailboxes first, then what they play, then the newest message; what it holds is not listed."""
    keys = ["message/201/old", "greeting/201/busy", "mailbox/201", "settings", "message/201/new", "fax/201/x"]
    records = [created(key, {"x": 1}, Tick(1, "p1"), 1) for key in keys]
    put(index, *records)
    listed = [key for key, _, _ in index.pending()]
    assert set(listed[:2]) == {"settings", "mailbox/201"}
    assert listed[2:] == ["greeting/201/busy", "fax/201/x", "message/201/new", "message/201/old"]
    assert index.oldest_pending() == WALL
    put(index, *[Entry(record, base=record) for record in records])
    assert (list(index.pending()), index.pending_count(), index.oldest_pending()) == ([], 0, None)
    index.forget_bases()
    assert index.pending_count() == len(keys)


@pytest.mark.parametrize(
    ("entry", "todo"),
    [
        (Entry(message()), True),
        (Entry(message(), shown=message()), False),
        (Entry(edited(message(), {}, Tick(2, "s1"), 2), shown=message()), True),
        (Entry(deleted(message(), Tick(2, "s1")), shown=message()), True),
        (Entry(deleted(message(), Tick(2, "s1"))), False),
        (Entry(created("fax/201/x", {"x": 1}, Tick(1, "p1"), 1)), False),
    ],
    ids=["not written", "written", "stamps not written", "not removed", "removed", "of a later version"],
)
def test_files_to_be_written_or_removed_are_listed(index, entry, todo):
    """A file lags behind when it shows another version, is missing, or should be gone."""
    put(index, entry)
    assert entry.todo is todo
    assert index.todo() == ([entry.record.key] if todo else [])


def test_a_file_of_equal_values_is_to_be_looked_at():
    """A mailbox's file holds no stamps: what it shows is noted anew with each version, whatever its values are."""
    base = created("mailbox/201", {"x": 1}, Tick(1, "p1"), 1)
    assert Entry(edited(base, {"x": 1}, Tick(2, "s1"), 2), shown=base).todo
    assert Entry(edited(base, {"x": True}, Tick(2, "s1"), 2), shown=base).todo


def test_records_are_found_by_mailbox_and_by_audio(index):
    """Messages and greetings of a mailbox, and whatever names a recording."""
    put(index, message(audio=AUDIO), message(box="202"), created("greeting/201/busy", {"audio": AUDIO}, Tick(1, "p1"), 1),
        created("mailbox/201", {}, Tick(1, "p1"), 1))  # fmt: skip
    assert [one.record.key for one in index.in_mailbox("201")] == ["greeting/201/busy", "message/201/m1"]
    assert [one.record.key for one in index.with_audio(SHA)] == ["greeting/201/busy", "message/201/m1"]
    assert index.count("kind = 'mailbox'") == 1
    assert index.keys("mailbox = ?", ("202",)) == ["message/202/m1"]


@pytest.mark.parametrize(
    "audio",
    [
        None, [], "x", {}, AUDIO | {"sha256": "AB" * 32}, AUDIO | {"sha256": "ab" * 31}, AUDIO | {"sha256": "../" + "a" * 61},
        AUDIO | {"sha256": 5}, AUDIO | {"size": -1}, AUDIO | {"size": True}, AUDIO | {"size": 3.0}, AUDIO | {"size": None},
        AUDIO | {"format": "../x"}, AUDIO | {"format": ""}, AUDIO | {"format": "w.v"}, AUDIO | {"format": "wäv"},
        AUDIO | {"format": 1}, AUDIO | {"format": "a" * 300},
    ],
)  # fmt: skip
def test_only_a_sound_audio_field_names_a_file(audio):
    """Digest and format become a path: hex and a short plain suffix, or nothing."""
    assert audio_of({"audio": audio}) is None
    assert audio_of({"audio": AUDIO}) == AUDIO


# Transactions


def test_a_fault_inside_leaves_nothing(index):
    """Records, numbers and the digest are as before."""
    put(index, message())
    before = (index.last_number, index.digest, index.keys())
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), index.transaction():
            index.put(Entry(message("m2")), WALL)
            raise ZeroDivisionError
        assert before == (index.last_number, index.digest, index.keys())
    put(index, message("m3"))
    assert index.keys() == ["message/201/m1", "message/201/m3"]


def test_a_dry_run_leaves_nothing(index):
    """Inside everything is seen, afterwards nothing."""
    with index.transaction(rollback=True):
        index.put(Entry(message()), WALL)
        assert index.count() == 1
        assert index.digest != "0" * 32
    assert (index.count(), index.digest, index.last_number) == (0, "0" * 32, 0)


def test_a_transaction_inside_another_is_part_of_it(index):
    """The outer one decides."""
    with contextlib.suppress(ZeroDivisionError), index.transaction():
        with index.transaction():
            index.put(Entry(message()), WALL)
        raise ZeroDivisionError
    assert index.count() == 0


# The file


def test_the_index_is_for_its_owner_and_durable(index, tmp_path):
    """Nobody else reads it, and a commit is synced: write-ahead log with synchronous=FULL."""
    assert stat.S_IMODE((tmp_path / "index.db").stat().st_mode) == 0o600
    assert index._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert index._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_missing_index_is_not_made_by_reading(tmp_path):
    """Only who says so makes one."""
    with pytest.raises(StoreUnusable, match="there is no index"):
        Index.open(tmp_path / "index.db")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_named(tmp_path):
    """Other bytes are a damaged index, not a bug."""
    (tmp_path / "index.db").write_bytes(b"no database " * 1000)
    with pytest.raises(IndexDamaged):
        Index.open(tmp_path / "index.db")


def test_a_newer_index_is_left_alone(tmp_path):
    """A format of a later version is refused."""
    Index.open(tmp_path / "index.db", create=True).close()
    db = sqlite3.connect(tmp_path / "index.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreNewer, match="has format 99"):
        Index.open(tmp_path / "index.db")


def test_a_damaged_record_is_a_damaged_index(index):
    """A row that no version of vmctl wrote is named with its key."""
    put(index, message())
    for state in ("", "[]", "{}", "{"):
        index._run("UPDATE records SET state = ?", (state,))
        with pytest.raises(IndexDamaged, match="message/201/m1"):
            index.get("message/201/m1")


@pytest.mark.parametrize(
    ("words", "ours"),
    [("database or disk is full", DiskFull), ("database is locked", StoreBusy), ("disk I/O error", StoreUnusable)],
)
def test_sqlites_faults_come_out_as_ours(tmp_path, words, ours):
    """What the disk refuses is told as for any other file."""

    class Refusing:
        """A connection on a bad disk."""

        def execute(self, *_):
            raise sqlite3.OperationalError(words)

    with pytest.raises(ours) as caught:
        Index(Refusing(), tmp_path).get("settings")
    assert caught.value.why == words


# Notes on files, faults and the conversation


def test_files_and_folders_are_remembered(index):
    """Looks and digests come back, one by one, by what is asked for, and by their folder."""
    look = Look(1, 2**62, 3, 4)
    index.looks.set_file("mailboxes/201/mailbox.yaml", look, "d1")
    index.looks.set_file("mailboxes/201/messages/m1.json", look, "d2")
    assert index.looks.file("mailboxes/201/mailbox.yaml") == (look, "d1")
    index.looks.set_folder("mailboxes/201/messages", 1, 2, 3, 4)
    asked = ("mailboxes/201/mailbox.yaml", "mailboxes/202/mailbox.yaml")
    assert index.looks.files(asked) == {"mailboxes/201/mailbox.yaml": (look, "d1")}
    assert index.looks.files_in("mailboxes/201/messages") == {"mailboxes/201/messages/m1.json": (look, "d2")}
    index.looks.drop_file("mailboxes/201/mailbox.yaml")
    assert index.looks.file("mailboxes/201/mailbox.yaml") is None
    assert index.looks.folders() == {"mailboxes/201/messages": (1, 2, 3, 4)}
    index.looks.drop_folder("mailboxes/201/messages")
    assert index.looks.folders() == {}


def test_a_fault_is_new_once(index):
    """The same fault again keeps its first time; another reason is news."""
    assert index.faults.set("x", "why", "mend", 1) is True
    assert index.faults.set("x", "why", "mend", 2) is False
    assert index.faults.all() == [{"path": "x", "why": "why", "mend": "mend", "since": 1}]
    assert index.faults.set("x", "other", "mend", 3) is True
    index.faults.drop("x")
    assert index.faults.all() == []


def test_an_echoed_checkpoint_tells_a_rollback(index):
    """Ours is well; one that we never made, or with other bits, is a rollback."""
    for number in (10, 20, 30):
        index.checkpoints.add(number, f"bits{number}")
    assert index.checkpoints.confirm(Checkpoint(20, "bits20"))
    assert index.checkpoints.confirm(Checkpoint(10, "bits10"))
    assert not index.checkpoints.confirm(Checkpoint(15, "bits15"))
    assert not index.checkpoints.confirm(Checkpoint(25, "bits25"))
    assert not index.checkpoints.confirm(Checkpoint(30, "bits20"))
    assert index.checkpoints.confirm(Checkpoint(30, "bits30"))
    assert 30 == index.checkpoints.confirmed
    index.checkpoints.drop_all()
    assert not index.checkpoints.confirm(Checkpoint(30, "bits30"))


def test_checkpoints_that_are_long_confirmed_are_forgotten_and_taken_for_ours(index):
    """They are kept for five days below the newest confirmed one; what was not confirmed stays, however old it is."""
    day = 86_400_000_000
    for number in range(20):
        index.checkpoints.add(number * day, f"bits{number}")
    assert index.checkpoints.confirm(Checkpoint(12 * day, "bits12"))
    assert index.checkpoints.confirm(Checkpoint(6 * day, "bits of no use"))
    assert not index.checkpoints.confirm(Checkpoint(7 * day, "bits of no use"))
    assert index.checkpoints.confirm(Checkpoint(7 * day, "bits7"))
    assert index.checkpoints.confirm(Checkpoint(19 * day, "bits19"))


def test_of_the_checkpoints_since_the_confirmed_one_the_newest_are_told(index):
    """With the number above which they are all: that of the confirmed one, or below the oldest that is told."""
    assert ([], 0) == index.checkpoints.unconfirmed(3)
    for number in (10, 20, 30, 40):
        index.checkpoints.add(number, f"bits{number}")
    assert ([20, 30, 40], 19) == (
        [one.number for one in index.checkpoints.unconfirmed(3)[0]],
        index.checkpoints.unconfirmed(3)[1],
    )
    assert index.checkpoints.confirm(Checkpoint(20, "bits20"))
    assert ([Checkpoint(30, "bits30"), Checkpoint(40, "bits40")], 20) == index.checkpoints.unconfirmed(3)


def test_what_was_confirmed_since_a_forgotten_checkpoint_is_so_in_another_life(index):
    """What is confirmed falls back below it, for what is issued again by that."""
    for number in (10, 20, 30):
        index.checkpoints.add(number, f"bits{number}")
    assert index.checkpoints.confirm(Checkpoint(30, "bits30"))
    index.checkpoints.doubt(15)
    assert 10 == index.checkpoints.confirmed
    index.checkpoints.doubt(5)
    assert 0 == index.checkpoints.confirmed


def test_acks_wants_and_ranges_are_kept_until_dropped(index):
    """Each is there once, in order, and goes when it is told to."""
    index.replies.add_ack("settings", "v1")
    index.replies.add_ack("settings", "v2")
    assert index.replies.acks() == [("settings", "v2", None, False)]
    index.replies.drop_ack("settings", "v1")
    assert index.replies.acks() == [("settings", "v2", None, False)]
    index.replies.add_want("settings")
    assert index.replies.wants() == ["settings"]
    index.replies.drop_want("settings")
    assert index.replies.wants() == []
    for ranges in (index.parts, index.offers):
        ranges.add(SHA, 10, 20)
        ranges.add(SHA, 0, 5)
        assert ranges.of(SHA) == [(0, 5), (10, 20)]
    assert index.offers.recordings() == [SHA]
    index.parts.cut(SHA, 0, 12)
    assert index.parts.of(SHA) == [(12, 20)]
    index.offers.drop(SHA)
    assert index.offers.recordings() == []


def test_an_index_of_the_first_format_is_taken_over(tmp_path):
    """What an older vmctl wrote is all there, and what it did not have is made."""
    path = tmp_path / "index.db"
    old = Index.open(path, create=True)
    put(old, message())
    old.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE history; DROP TABLE parked; PRAGMA user_version = 1")
    new = Index.open(path)
    try:
        tables = {row[0] for row in new._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert message() == new.get(message().key).record
        assert {"history", "parked"} <= tables
        assert FORMAT == new._db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        new.close()


def test_looks_that_are_not_written_yet_are_known(index):
    """In a transaction they are found one by one and by their folder; what is dropped is gone."""
    look = Look(1, 2, 3, 4)
    with index.transaction():
        for name in ("a", "b", "c"):
            index.looks.set_file(f"box/{name}", look, SHA)
        index.looks.set_file("box.d/x", look, SHA)
        assert (look, SHA) == index.looks.file("box/a")
        index.looks.drop_file("box/b")
        assert index.looks.file("box/b") is None
        assert {"box/a", "box/c"} == index.looks.files_in("box").keys()
        assert {"box/a", "box.d/x"} == index.looks.files(["box.d/x", "box/a", "box/b", "box/d"]).keys()
    assert {"box/a", "box/c"} == index.looks.files_in("box").keys()


def test_looks_and_notes_of_a_transaction_that_failed_are_forgotten(index):
    """Nothing of it is known afterwards, neither on the disk nor in memory."""
    index.set_meta("note", "before")
    with contextlib.suppress(RuntimeError), index.transaction():
        index.looks.set_file("box/a", Look(1, 2, 3, 4), SHA)
        index.looks.expect_folder("box")
        index.set_meta("note", "within")
        assert "within" == index.meta("note")
        raise RuntimeError
    assert (None, "before", {}) == (index.looks.file("box/a"), index.meta("note"), index.looks.folders())
    with index.transaction():
        index.looks.expect_folder("box")
        assert (None, "before") == (index.looks.file("box/a"), index.meta("note"))
    assert ["box"] == list(index.looks.folders())


def test_a_note_that_another_process_sets_is_seen(index, tmp_path):
    """What is remembered lasts no longer than the transaction that keeps others from writing."""
    with index.transaction():
        assert "" == index.meta("note")
    with contextlib.closing(Index.open(tmp_path / "index.db")) as other:
        other.set_meta("note", "theirs")
    assert "theirs" == index.meta("note")
    with index.transaction():
        assert "theirs" == index.meta("note")


def test_the_text_of_a_record_holds_all_of_it(index):
    """For the wire: what the index keeps, and beside that what is said of it."""
    record = message(caller="Ünïcode")
    put(index, record)
    value = record.as_json() | {"key": record.key, "version": record.version, "base": None}
    for known in (record, index.get(record.key).record):
        assert value == json.loads(index.text(known, value))


def test_looks_that_could_not_be_written_are_written_later(index, monkeypatch):
    """A fault that somebody goes on after loses none of them."""
    real, left = index._run_many, [1]

    def refused(query, rows):
        if left[0]:
            left[0] -= 1
            raise StoreUnusable("the disk")
        real(query, rows)

    monkeypatch.setattr(index.looks, "_run_many", refused)
    with index.transaction():
        index.looks.set_file("box/a", Look(1, 2, 3, 4), SHA)
        with contextlib.suppress(StoreUnusable):
            index.looks.files_in("box")
    assert ["box/a"] == list(index.looks.files_in("box"))
