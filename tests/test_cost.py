"""What a fixed small job costs: waits for the disk, statements, files opened and bytes sent, which no machine makes faster.

The numbers are those of today and a little more: who makes something dearer is to know it. Seconds are for `make bench`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from wire import SETTLE, Wire, tone

from vmctl import asking, beneath, database, durable
from vmctl.clock import Clock
from vmctl.model import Tick, created, message_key
from vmctl.round import Round
from vmctl.store import documents, native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FRAMES = 100  # of each recording
RECORDING = 44 + 2 * FRAMES  # bytes


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[Counter[str]]]:
    """Gives a block in which work is counted."""
    under_way: list[Counter[str]] = []

    def count(room: Any, name: str, what: str) -> None:
        real = getattr(room, name)

        def counted(*values: Any, **words: Any) -> Any:
            for work in under_way:
                work[what] += 1
            return real(*values, **words)

        monkeypatch.setattr(room, name, counted)

    monkeypatch.setattr(durable, "_fsync", lambda _fd: None)
    monkeypatch.setattr(durable, "_syncfs", lambda _folder: None)
    for name in ("_fsync", "_syncfs", "_sync"):
        count(durable, name, "waits")
    count(database.Connection, "execute", "statements")
    count(native, "_listed", "listings")
    count(native, "_names_in", "listings")
    count(beneath, "reach", "paths")
    count(beneath, "_into", "walks")

    @contextlib.contextmanager
    def block() -> Iterator[Counter[str]]:
        work: Counter[str] = Counter()
        under_way.append(work)
        try:
            yield work
        finally:
            under_way.remove(work)

    return block


@pytest.fixture
def dropped(wire: Wire, tmp_path: Path) -> Callable[[str, int], None]:
    """Puts so many messages into a mailbox that is made for them, as an application does."""

    def put(box: str, number: int) -> None:
        wire.desk().create_mailbox(box, {"name": "Ada"})
        for each in range(number):
            wire.desk().leave(box, tone(tmp_path / "one.wav", frames=FRAMES, seed=int(box) * 1000 + each))

    return put


def first_copy(wire: Wire, counting: Any) -> tuple[Counter[str], Counter[str], int]:
    """What it costs to send all that is there, and to take it in; and the bytes on the wire."""
    with counting() as sending:
        mails = wire.send("primary")
    with counting() as taking:
        wire.deliver()
    return sending, taking, sum(map(len, mails))


def test_a_first_copy(wire: Wire, dropped: Any, counting: Any) -> None:
    """Of forty messages: the disk is waited for as often as of twenty, all else is counted by the message."""
    wire.in_step()
    found = []
    for box, number in (("2001", 20), ("2002", 40)):
        dropped(box, number)
        found.append(first_copy(wire, counting))
        wire.exchange()
    (_, taken, _), (sent, more, size) = found
    assert max(more["waits"], taken["waits"]) <= 12
    assert more["statements"] - taken["statements"] <= 20 * 8
    assert more["paths"] - taken["paths"] <= 20 * 10
    assert more["walks"] <= 45
    assert sent["statements"] <= 40 * 3 + 40
    assert sent["walks"] <= 5
    assert size <= 40 * (RECORDING + 1700) + 6000


@pytest.mark.parametrize("act", ["marked", "deleted"])
def test_many_messages_that_are_marked_or_deleted(wire: Wire, dropped: Any, counting: Any, act: str) -> None:
    """The disk is not waited for more often for forty of them than for twenty; both come at once."""
    found = []
    for box, number in (("2001", 20), ("2002", 40)):
        dropped(box, number)
        wire.in_step()
        for ident in wire.messages(box):
            wire.desk().mark(box, ident, "saved") if act == "marked" else wire.desk().delete_message(box, ident)
        _, taking, _ = first_copy(wire, counting)
        found.append(taking["waits"])
        assert wire.scan("secondary", full=True).opened <= 2  # the mailboxes: what was just written is known
        wire.in_step()
    assert found[1] <= found[0] <= 14


def test_a_scan_that_finds_much(wire: Wire, counting: Any) -> None:
    """Of messages that are whole, as after a store was copied: the statements and the paths of each, and no walk for each.

    Both files of one are opened to have the disk bring them, and to be read.
    """
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.scan()
    folder = wire.root() / "mailboxes/2001/messages"
    folder.mkdir(exist_ok=True)
    found = []
    for numbers in (range(60), range(60, 180)):
        for number in numbers:
            sound = b"RIFF" + number.to_bytes(2, "big") * 100
            audio = {"sha256": hashlib.sha256(sound).hexdigest(), "size": len(sound), "format": "wav"}
            words = {"received": "2026-06-01T12:00:00Z", "status": "new", "audio": audio}
            record = created(
                message_key("2001", f"m{number}"), words, Tick(1_760_000_000_000_000 + number, "elsewhere"), 1
            )
            (folder / f"m{number}.wav").write_bytes(sound)
            (folder / f"m{number}.json").write_bytes(documents.write_message(record))
        wire.clock.advance(10)
        with counting() as work:
            report = wire.a.scan()
        assert len(report.changed) == len(numbers)
        found.append(work)
    assert found[1]["statements"] - found[0]["statements"] <= 60 * 6
    assert found[1]["paths"] - found[0]["paths"] <= 60 * 4
    assert abs(found[1]["walks"] - found[0]["walks"]) <= 3


def test_the_files_of_new_messages_are_brought_from_the_disk_together(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Some at once, each one time and before it is read; none that is known, nor those of one message alone."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    done: list[tuple[str, str]] = []
    advise, read = os.posix_fadvise, native.NativeStore.read

    def expected(fd: int, *how: int) -> None:
        done.append(("expected", Path(f"/proc/self/fd/{fd}").readlink().name))
        advise(fd, *how)

    def noted(store: native.NativeStore, path: str) -> bytes:
        done.append(("read", path.rpartition("/")[2]))
        return read(store, path)

    monkeypatch.setattr(os, "posix_fadvise", expected)
    monkeypatch.setattr(native.NativeStore, "read", noted)
    monkeypatch.setattr(beneath, "_AT_ONCE", 6)
    for number in (5, 1):
        for each in range(number):
            wire.drop("2001", f"m{number}{each}")
        wire.tick()
        wire.clock.advance(SETTLE + 0.1)
        wire.scan()
    some, more = ("m50", "m51", "m52"), ("m53", "m54")
    assert done == [
        (what, f"{ident}.{form}")
        for idents in (some, more)
        for what, forms in (("expected", ("json", "wav")), ("read", ("json",)))
        for ident in idents
        for form in forms
    ] + [("read", "m10.json")]


def test_a_scan_where_nothing_has_changed(wire: Wire, dropped: Any, counting: Any) -> None:
    """No folder of a mailbox is listed, and twice as many mailboxes, of few, are no more statements."""
    found = []
    for boxes in (("2001", "2002"), ("2003", "2004")):
        for box in boxes:
            dropped(box, 2)
        wire.in_step()
        for path in [*wire.root().rglob("*"), wire.root()]:
            if path.is_dir() and ".vmctl" not in path.parts:
                os.utime(path, (1, 1))
        wire.clock.advance(10)
        wire.scan()
        wire.clock.advance(10)
        wire.scan()
        with counting() as work:
            report = wire.a.scan()
        assert not report.changed
        found.append(work)
    assert found[0]["statements"] == found[1]["statements"] <= 40
    assert found[0]["listings"] == found[1]["listings"] == 4  # the store, callflows, prompts, mailboxes


def test_a_message_that_is_dropped_in(wire: Wire, dropped: Any, counting: Any) -> None:
    """Its folder is looked into and no other, however many mailboxes there are."""
    found = []
    for boxes in (("2001", "2002"), ("2003", "2004", "2005", "2006")):
        for box in boxes:
            dropped(box, 3)
        wire.in_step()
        ident = wire.messages("2001")[0]
        document = wire.root() / f"mailboxes/2001/messages/{ident}.json"
        beside = document.with_name(".aside")
        old, new = (b'"new"', b'"old"') if len(boxes) == 2 else (b'"old"', b'"saved"')
        beside.write_bytes(document.read_bytes().replace(old, new, 1))
        beside.rename(document)
        wire.clock.advance(1)
        with counting() as work:
            report = wire.a.scan_folders({"mailboxes/2001/messages"})
        assert report is not None
        found.append(work)
    assert found[0]["listings"] == found[1]["listings"] == 1
    assert abs(found[1]["statements"] - found[0]["statements"]) <= 6
    assert found[1]["statements"] <= 90


def test_a_heartbeat(wire: Wire, dropped: Any, counting: Any) -> None:
    """Where nothing is to be said it costs the same in a store that is twice as large."""
    found = []
    for box, number in (("2001", 5), ("2002", 20)):
        dropped(box, number)
        wire.in_step()
        with counting() as work:
            mails = wire.send("primary", always=True)
            wire.deliver()
        found.append((work["waits"], work["paths"], len(mails)))
        assert work["statements"] <= 200
    assert found[0] == found[1]


def test_all_acknowledgements_leave_in_a_row(wire: Wire, dropped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few fit a mail: the peer need not wait for a turn for each mail of them."""
    monkeypatch.setattr(asking, "_MOST_ACKS", 2)
    wire.in_step()
    dropped("2001", 9)
    wire.send("primary")
    wire.deliver()
    wire.send("secondary")
    assert wire.b.index.replies.acks() == []


def test_a_round_goes_on_as_long_as_something_comes(
    wire: Wire, dropped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A store whose acknowledgements take more turns than a round waits in vain is in step after one round all the same."""
    dropped("2001", 30)
    wire.close()
    monkeypatch.setattr(asking, "_MOST_ACKS", 1)
    monkeypatch.setattr(asking.Asker, "unfinished", lambda _self, _word: False)
    outcome = Round(wire.config, Clock(), timeout=20.0).run()
    assert outcome.in_step
    assert outcome.servers["secondary"].mails > 30


def test_no_statement_of_a_round_reads_a_whole_table(wire: Wire, dropped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of records and files there are as many as messages: what a round asks has an index, or the keys of what it asks for."""
    dropped("2001", 3)
    wire.in_step()
    asked: dict[str, Any] = {}
    execute = database.Connection.execute

    def noted(connection: Any, query: str, values: Any = ()) -> Any:
        asked.setdefault(query, values)
        return execute(connection, query, values)

    monkeypatch.setattr(database.Connection, "execute", noted)
    wire.clock.advance(10)
    for server in wire.servers:
        wire.scan(server)
    wire.exchange()
    monkeypatch.undo()
    selects = [(query, values) for query, values in asked.items() if query.lstrip().startswith("SELECT")]
    assert len(selects) > 20
    for query, values in selects:
        for *_, plan in wire.a.index._run(f"EXPLAIN QUERY PLAN {query}", values):
            assert plan not in {"SCAN records", "SCAN files"}, query
