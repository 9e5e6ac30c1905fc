"""The index: what is put in is found again, numbers only go up, and a crash leaves all or nothing."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import DiskFull, IndexDamaged, StoreBusy, StoreNewer, StoreUnusable
from vmctl.index import Entry, Index, Look, audio_of
from vmctl.model import ABSENT, Field, Record, Stamp, Tick, created, deleted, edited

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


@pytest.mark.parametrize("value", [None, 1, True, 2**80, "é\U0001f600", "half \ud800", {"a": [1, {"b": None}]}, ABSENT, ""])
def test_an_entry_is_found_again(index, value):
    """Record, what is shown and what the peer holds come back equal, whatever the values."""
    record = replace(message(), fields={"x": Field(value, Stamp(1, "p1", 1))})
    for entry in (Entry(record), Entry(record, shown=record), Entry(record, message(), record), Entry(message(), record)):
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


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 3))
def test_the_digest_tells_what_is_held_and_not_how_it_came(order, changed):
    """Equal records give equal digests in whatever order; one changed record gives another; changed back, the first."""
    one, other = Index(sqlite3.connect(":memory:", isolation_level=None)), None
    try:
        one, other = (Index.open(Memory(), create=True) for _ in range(2))
        put(one, *map(message, "abcd"))
        put(other, *map(message, order))
        assert one.digest == other.digest != "0" * 32
        name = order[changed]
        put(other, edited(message(name), {"status": "old"}, Tick(2, "s1"), 2))
        assert one.digest != other.digest
        put(other, message(name))
        assert one.digest == other.digest
    finally:
        for index in (one, other):
            if index is not None:
                index.close()
