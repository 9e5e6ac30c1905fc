"""`vmctl journal` as people use it: what it shows and since when, how it follows, and what it finds over several files."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS, Commands, Net, environment, until

from vmctl import network
from vmctl.clock import Clock, rfc3339
from vmctl.errors import JournalBroken, OutputClosed
from vmctl.journal import Journal
from vmctl.volumes import older_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USAGE = 2
SMALL = 4000
HOUR = 3_600_000_000


@pytest.fixture
def vmctl(tmp_path: Path) -> Commands:
    """The commands of the primary of a network whose journals are short."""
    network.make(tmp_path / "net", settings={"scan.settle": "50ms", "journal.max": "4kB"})
    return Commands(tmp_path / "net")


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """The same, for processes."""
    return Net.make(tmp_path / "net", journal__max="4kB")


def book_of(directory: Path, server: str = "primary") -> Journal:
    """The journal of a server, short enough that some events fill a file."""
    return Journal(directory / server / ".vmctl/journal.jsonl", SMALL)


def add(book: Journal, count: int, since: int = 0, ago: int = 0) -> list[str]:
    """Add events, `ago` microseconds ago; what they say."""
    said = [f"thing {number} {'x' * 200}" for number in range(since, since + count)]
    for event in said:
        book.append("event", at=Clock().wall() - ago, server="primary", event=event)
    return said


def events(entries: list[dict[str, Any]]) -> list[str]:
    """What the events of a list of entries say."""
    return [entry["event"] for entry in entries if entry["kind"] == "event"]


# What is shown


def test_all_entries_of_all_files_are_shown_in_order(vmctl: Commands) -> None:
    """A line for each, or a JSON array with each as it stands in its file; an empty journal is an empty array."""
    assert [] == vmctl.json("journal")
    book = book_of(vmctl.directory)
    said = add(book, 40)
    assert len(book._volumes.older()) > 1
    shown = vmctl.json("journal")
    assert said == events(shown)
    assert list(book.entries()) == shown
    lines = vmctl("journal").stdout.splitlines()
    assert [f"{entry['seq']:>5}" for entry in shown] == [line[:5] for line in lines]
    assert len(book._volumes.older()) == sum("a new file was begun" in line for line in lines)


def test_since_a_time_or_for_so_long(vmctl: Commands) -> None:
    """By the lines' own times, over all files; --last then chooses the newest of them."""
    book = book_of(vmctl.directory)
    add(book, 20, ago=5 * HOUR)
    some = add(book, 20, since=20, ago=2 * HOUR)
    late = add(book, 5, since=40)
    assert some + late == events(vmctl.json("journal", "--since", "3h"))
    assert late == events(vmctl.json("journal", "--since", rfc3339(Clock().wall() - HOUR)))
    assert late[-2:] == events(vmctl.json("journal", "--since", "3h", "--last", "2"))
    assert late == events(vmctl.json("journal", "--last", "100", "--since", "60m"))
    assert [] == vmctl.json("journal", "--since", "2099-01-31T08:15:00+02:00")
    assert "" == vmctl("journal", "--since", "0s").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--verify", "--last", "3"), "leave out --last"),
        (("--verify", "--since", "2h"), "leave out --last, --since"),
        (("--verify", "--follow"), "--follow"),
        (("--since", "yesterday"), "such as 2h"),
        (("--since", "2026-01-31"), "with its zone"),
        (("--since", "2026-13-31T08:15:00Z"), "neither a time"),
        (("--since", ""), "neither a time"),
        (("--last", "0"), "--last"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(vmctl: Commands, words: tuple[str, ...], said: str) -> None:
    """It is said what is wrong, and nothing is shown."""
    add(book_of(vmctl.directory), 1)
    done = vmctl("journal", *words, code=USAGE)
    assert "" == done.stdout
    assert said in " ".join(done.stderr.split())


# What is found


def test_verify_reads_all_files(vmctl: Commands) -> None:
    """It tells how many entries there are; from which on where older files were taken away; and names what is missing."""
    book = book_of(vmctl.directory)
    assert "0 entries, the chain is whole\n" == vmctl("journal", "--verify").stdout
    add(book, 60)
    length, digest = book.length_and_hash()
    value = {"whole": True, "problems": [], "first": 1, "length": length, "hash": digest}
    assert value == vmctl.json("journal", "--verify")
    (one, first), (_, second), *_ = book._volumes.older()
    first.unlink()
    assert value | {"first": one + 1} == vmctl.json("journal", "--verify")
    words = f"entries {one + 1} to {length}, the chain is whole; older files were taken away\n"
    assert words == vmctl("journal", "--verify").stdout
    data = second.read_bytes()
    second.write_bytes(data.replace(b"thing", b"think", 1))
    done = vmctl("journal", "--verify", "--json", code=JournalBroken.exit_code)
    assert [f"line 2 of {second.name} was edited: its hash does not fit what it says"] == json.loads(done.stdout)[
        "problems"
    ]
    assert "JournalBroken" == json.loads(done.stderr)["error"]
    second.unlink()
    assert 0 == vmctl("journal", "--verify").exit_code
    add(book, 20)
    book._volumes.older()[1][1].unlink()
    assert "is missing: the entries" in vmctl("journal", "--verify", code=JournalBroken.exit_code).stdout


def test_a_cut_end_is_found_by_what_the_other_server_has_seen(vmctl: Commands) -> None:
    """However many files were begun since it saw one, and also when it is the newest files that are gone."""
    for _ in range(3):
        vmctl("sync")
    book = book_of(vmctl.directory)
    seen = book.length_and_hash()[0]
    whole = book.path.read_bytes()
    add(book, 40)
    assert book._volumes.older()[0][0] > seen
    assert vmctl.json("journal", "--verify")["whole"]
    for _ in range(3):
        vmctl("sync")
    assert vmctl.json("journal", "--verify")["whole"]
    for _, path in book._volumes.older():
        path.unlink()
    assert vmctl.json("journal", "--verify")["whole"]
    book.path.write_bytes(whole)
    done = vmctl("journal", "--verify", code=JournalBroken.exit_code)
    assert "are missing at the end" in done.stdout


def test_a_journal_that_was_written_anew_is_found_in_an_older_file_too(vmctl: Commands) -> None:
    """The entry that the other server saw is looked up wherever it is; one that was taken away cannot be."""
    for _ in range(3):
        vmctl("sync")
    book = book_of(vmctl.directory)
    book.path.unlink()
    add(book, 60)
    done = vmctl("journal", "--verify", code=JournalBroken.exit_code)
    assert "the journal was written anew" in done.stdout
    book._volumes.older()[0][1].unlink()
    assert vmctl.json("journal", "--verify")["first"] > 1


# What is added


class Follower:
    """`vmctl journal --follow` as a process, and the lines that it prints."""

    def __init__(self, net: Net, *words: str) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a test run in the background ignores
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vmctl", "journal", "--server", "primary", "--follow", *words],
                cwd=net.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(line.rstrip("\n") for line in self._out)

    def has(self, count: int) -> list[str]:
        """Wait for so many lines; them."""
        until(lambda: len(self.lines) >= count or self.process.poll() is not None, what=f"{count} lines")
        assert len(self.lines) == count
        return self.lines

    def end(self) -> tuple[int, str]:
        """Press Ctrl-C; the exit code and what stood on stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for its end."""
        assert self.process.stderr is not None
        code = self.process.wait(20)
        self._reader.join()
        with self._out, self.process.stderr as said:
            return code, said.read()


@pytest.fixture
def following(net: Net) -> Iterator[Callable[..., Follower]]:
    """Starts followers; kills those that are left."""
    started: list[Follower] = []

    def follow(*words: str) -> Follower:
        started.append(Follower(net, *words))
        return started[-1]

    yield follow
    for follower in started:
        if follower.process.poll() is None:
            follower.process.kill()
            follower.ended()


def test_new_lines_come_over_new_files_until_ctrl_c(net: Net, following: Callable[..., Follower]) -> None:
    """First what is asked for, then each line once, in order, whatever file it is in; Ctrl-C is no error."""
    book = book_of(net.root)
    add(book, 3)
    text, values = following("--last", "2"), following("--json")
    text.has(2)
    values.has(3)
    for number in range(3, 43):
        add(book, 1, since=number)
    assert len(book._volumes.older()) > 1
    entries = list(book.entries())
    assert entries == [json.loads(line) for line in values.has(len(entries))]
    assert [f"{entry['seq']:>5}" for entry in entries[1:]] == [line[:5] for line in text.has(len(entries) - 1)]
    assert ((0, ""), (0, "")) == (text.end(), values.end())


def test_who_follows_an_empty_journal_sees_its_first_line(net: Net, following: Callable[..., Follower]) -> None:
    """A line that was not asked for is not shown later either, and half a line not before it is whole, or set aside."""
    book = book_of(net.root)
    one = following("--json")
    add(book, 1, ago=3 * HOUR)
    add(book, 1)
    one.has(2)
    late = following("--json", "--since", "1h")
    late.has(1)
    with book.path.open("ab") as file:
        file.write(b'{"half')
    add(book, 1, since=2)
    entries = list(book.entries())
    assert "an incomplete last line was set aside" == entries[2]["event"]
    assert entries == [json.loads(line) for line in one.has(4)]
    assert entries[1:] == [json.loads(line) for line in late.has(3)]
    assert (0, 0) == (one.end()[0], late.end()[0])


def test_a_journal_that_is_put_back_is_followed_from_there(net: Net, following: Callable[..., Follower]) -> None:
    """It is said on stderr, and what is added from then on is shown."""
    book = book_of(net.root)
    add(book, 2)
    data = book.path.read_bytes()
    add(book, 2)
    follower = following("--json")
    follower.has(4)
    book.path.write_bytes(data)
    until(lambda: _said(follower), what="the word on stderr")
    add(book, 1, since=9)
    assert 3 == json.loads(follower.has(5)[-1])["seq"]
    assert (0, "the journal was put back: it ends with entry 2, and ended with 4\n") == follower.end()


def _said(follower: Follower) -> bool:
    """Whether a follower has said something on stderr."""
    assert follower.process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(follower.process.stderr, selectors.EVENT_READ)
        return bool(selector.select(0))


def test_a_follower_ends_when_its_reader_leaves(net: Net) -> None:
    """At once, with nothing to be printed, quietly, as any command whose output is closed."""
    add(book_of(net.root), 1)
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "vmctl", "journal", "--server", "primary", "--follow"],
        cwd=net.root, env=environment(), stdout=write, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    assert b"thing 0" in os.read(read, 1000)
    os.close(read)
    _, said = process.communicate(timeout=20)
    assert (OutputClosed.exit_code, b"") == (process.returncode, said)


def test_a_follower_waits_between_looks_and_reads_only_what_is_new(
    vmctl: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing comes it does nothing but ask how long the file is, some times a second."""
    book = book_of(vmctl.directory)
    add(book, 1)
    waits: list[float] = []
    reads: list[int | None] = []
    entries = Journal.entries

    def linger(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            add(book, 1, since=1)
        if len(waits) == 9:
            raise KeyboardInterrupt

    def read(journal: Journal, since: int | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        reads.append(since)
        return entries(journal, since, limit)

    monkeypatch.setattr("vmctl.cli.journal.linger", linger)
    monkeypatch.setattr(Journal, "entries", read)
    assert ["thing 0", "thing 1"] == [line[33:40] for line in vmctl("journal", "--follow").stdout.splitlines()]
    assert [None, 1] == reads
    assert all(0.1 <= seconds <= 1 for seconds in waits)


# Two servers at work


def test_roles_move_over_several_files_of_both_journals(net: Net) -> None:
    """Failover and failback as ever; nobody misses an older file, a new start goes on, and both chains are whole."""
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: net.service()["serving"] == "primary", what="the primary")
        for _ in range(3):
            net.do("failover")
            until(lambda: net.service()["serving"] == "secondary", what="the secondary")
            net.do("failback", "--timeout", "50")
            until(lambda: net.service()["state"] == "normal", what="normal operation")
        until(lambda: net.status()["in_step"], what="in step")
    books = {server: book_of(net.root, server) for server in SERVERS}
    epoch = net.service()["epoch"][0]
    for server, book in books.items():
        older = book._volumes.older()
        assert len(older) > 1, server
        assert net.read("journal", "--verify", "--server", server)["whole"]
        for _, path in older:
            path.unlink()
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: net.service()["serving"] == "primary" and net.service()["epoch"][0] > epoch, what="the primary")
        net.do("failover")
        until(lambda: net.service()["serving"] == "secondary", what="the secondary")
    for server, book in books.items():
        value = net.read("journal", "--verify", "--server", server)
        assert value["whole"], server
        assert value["first"] > 1
        assert not older_path(book.path, value["first"] - 1).exists()
