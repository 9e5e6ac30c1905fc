"""What the index remembers of the dead, what it forgets, and what it then still knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmctl.entry import Entry
from vmctl.index import Index
from vmctl.model import Tick, created, deleted, edited, purged, restored

KEY = "message/201/m1"
NOW = 1_000_000


@pytest.fixture
def index(tmp_path):
    """An empty index."""
    opened = Index.open(tmp_path / "index.db", create=True)
    yield opened
    opened.close()


def put(index, record, *, wall=NOW, acked=True):
    """Put a version, acknowledged by the peer unless it is said otherwise."""
    with index.transaction():
        index.put(Entry(record, base=record if acked else None), wall)


def alive(number=10, by="a1", key=KEY):
    """A living message."""
    return created(key, {"status": "new"}, Tick(number, by), number)


def dead(number=10, by="a1", key=KEY):
    """The same one deleted."""
    return deleted(alive(number, by, key), Tick(number + 1, by))


def gone(number=10, by="a1", key=KEY):
    """The same one purged."""
    return purged(dead(number, by, key), Tick(number + 2, by))


def forget(index, number=10):
    """A record came, went, was purged and forgotten."""
    put(index, gone(number))
    with index.transaction():
        index.tombstones.drop(gone(number))


# Since when


def test_a_retention_begins_when_the_deletion_is_noticed(index):
    """Dead since the time of this server's clock, and purgeable when that is before the time that is asked for."""
    put(index, dead(), wall=NOW)
    assert [] == index.tombstones.purgeable(NOW)
    assert [(KEY, NOW, "message", "201")] == index.tombstones.purgeable(NOW + 1)


def test_a_clock_that_is_behind_ends_no_retention(index):
    """A deletion noticed in 1970 by a clock that was wrong counts from its own number, which never is behind."""
    put(index, dead(5_000_000), wall=3)
    assert [] == index.tombstones.purgeable(5_000_000)
    assert [KEY] == [each.key for each in index.tombstones.purgeable(5_000_002)]


def test_a_clock_that_was_ahead_delays_no_purge_for_years(index):
    """What was dated into the future counts from when the clock was right again."""
    put(index, dead(), wall=NOW * 1000)
    with index.transaction():
        index.tombstones.not_after(NOW)
    assert [KEY] == [each.key for each in index.tombstones.purgeable(NOW + 1)]


def test_a_mark_that_comes_late_does_not_lengthen_it(index):
    """Another version of a dead record is dead since the same time."""
    put(index, dead())
    put(index, edited(dead(), {"status": "old"}, Tick(40, "b1"), 40), wall=NOW + 50)
    assert [NOW] == [each.since for each in index.tombstones.purgeable(NOW + 99)]


def test_a_restore_ends_it(index):
    """A record that lives again, and dies again, has a full retention before it."""
    put(index, dead())
    put(index, restored(dead(), Tick(20, "a1")), wall=NOW + 5)
    assert [] == index.tombstones.purgeable(NOW + 99)
    put(index, deleted(restored(dead(), Tick(20, "a1")), Tick(21, "a1")), wall=NOW + 7)
    assert [NOW + 7] == [each.since for each in index.tombstones.purgeable(NOW + 99)]


@pytest.mark.parametrize("how", ["not acknowledged", "its file is still there"])
def test_what_may_not_be_purged_yet(index, how):
    """The last copy is not purged before the peer knows of the deletion, nor while the file is to be taken away."""
    entry = Entry(dead(), base=dead())
    entry = replace(entry, base=None) if how == "not acknowledged" else replace(entry, shown=alive())
    with index.transaction():
        index.put(entry, NOW)
    assert [] == index.tombstones.purgeable(NOW + 99)


# Purged, swept, forgotten


def test_purged_is_swept_and_then_forgotten(index):
    """Its files go once the peer knows of it; the tombstone goes when it is old; then nothing is known of it."""
    put(index, gone(), acked=False)
    assert ([], []) == (index.tombstones.unswept(9), index.tombstones.droppable(NOW + 99, 9))
    put(index, gone())
    assert [(KEY, None)] == index.tombstones.unswept(9)
    assert [] == index.tombstones.droppable(NOW + 99, 9), "its files are still there"
    index.tombstones.swept(KEY)
    assert ([], [KEY]) == (index.tombstones.unswept(9), index.tombstones.droppable(NOW + 99, 9))
    assert [] == index.tombstones.droppable(NOW, 9)
    with index.transaction():
        index.tombstones.drop(gone())
    assert (None, 10) == (index.get(KEY), index.tombstones.dropped_birth)


def test_only_what_was_purged_is_forgotten(index):
    """A record that can still be restored is not dropped by mistake."""
    put(index, dead())
    with pytest.raises(AssertionError), index.transaction():
        index.tombstones.drop(dead())
    assert index.get(KEY) is not None


def test_the_digest_does_not_tell_when_a_tombstone_was_dropped(index):
    """Equal on a server that still has the tombstone, one that dropped it, and one that never had it."""
    empty = index.digest
    put(index, alive())
    lively = index.digest
    put(index, dead())
    assert 3 == len({empty, lively, index.digest})
    put(index, gone())
    assert empty == index.digest
    with index.transaction():
        index.tombstones.drop(gone())
    assert empty == index.digest
    put(index, gone())
    put(index, restored(gone(), Tick(90, "b1")))
    assert empty != index.digest


# What was deleted here, and forgotten


def test_an_old_copy_of_what_was_forgotten_is_known_by_its_birth(index):
    """Born by this server up to now, or by the peer up to its bound, and not after the newest that was ever dropped."""
    forget(index, 50)
    with index.transaction():
        index.tombstones.set_bound("b1", 40)
        index.tombstones.set_bound("b1", 30)
    verdicts = {
        (number, by): index.tombstones.was_dropped(alive(number, by), "a1", 1000)
        for number, by in ((10, "a1"), (50, "a1"), (51, "a1"), (40, "b1"), (41, "b1"), (10, "c1"))
    }
    assert {
        (10, "a1"): True, (50, "a1"): True, (51, "a1"): False, (40, "b1"): True, (41, "b1"): False, (10, "c1"): False,
    } == verdicts  # fmt: skip


def test_where_nothing_was_forgotten_nothing_is_held_against_anybody(index):
    """A new index knows nothing, so what comes in is taken as it is."""
    with index.transaction():
        index.tombstones.set_bound("b1", 10**15)
    assert not index.tombstones.was_dropped(alive(10, "b1"), "a1", 10**15)


def test_a_save_that_was_never_here_outlives_what_was_forgotten(index):
    """An old copy that somebody has saved or restored since is no old copy."""
    forget(index, 50)
    saved = edited(alive(10, "a1"), {"status": "saved"}, Tick(60, "b2"), 60)
    assert not index.tombstones.was_dropped(saved, "a1", 1000)
    assert not index.tombstones.was_dropped(restored(dead(10), Tick(60, "b2")), "a1", 1000)
    assert not index.tombstones.was_dropped(dead(10), "a1", 1000), "a dead one is taken as it is"


# The bound that the peer is told


def settle(index):
    """Up to which number the peer has acknowledged everything."""
    return index.settled


def test_no_bound_is_above_a_birth_that_the_peer_does_not_know(index):
    """A record that was born, marked and marked again without an acknowledgement counts from its birth."""
    for wall, key in ((100, "message/201/m0"), (200, KEY)):
        with index.transaction():
            tick = Tick(index.next_number(wall), "a1")
            record = created(key, {"status": "new"}, tick, wall)
            index.put(Entry(record, base=record if key != KEY else None), wall)
    for wall in (300, 400):
        with index.transaction():
            entry = index.get(KEY)
            marked = edited(entry.record, {"status": f"s{wall}"}, Tick(index.next_number(wall), "a1"), wall)
            index.put(replace(entry, record=marked), wall)
        assert entry.record.born.number > settle(index) >= 100
        assert 201 == index.oldest_pending(), "and its age is that of its first change"
        assert (1, 201) == index.shelf.owed(), "also for the gate, which waits for all that was pending at its mark"
    put(index, index.get(KEY).record)
    assert index.last_number == settle(index)


def test_a_peer_that_lost_its_memory_is_told_no_bound(index):
    """When everything is offered anew, nothing is settled until all of it is acknowledged."""
    put(index, alive(10))
    put(index, alive(20, key="message/201/m2"))
    index.forget_bases()
    assert 0 == settle(index)
    for key in (KEY, "message/201/m2"):
        put(index, index.get(key).record)
    assert index.last_number == settle(index)


def test_a_record_that_the_peer_asks_for_again_unsettles(index):
    """It may lack any of its changes, the birth too."""
    put(index, alive(10))
    put(index, alive(10), acked=False)
    assert 0 == settle(index)
