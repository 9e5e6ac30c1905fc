"""The rows of `vmctl sync`: a first copy, nothing to do, one message, a hundredth of everything changed; and of start-up."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

from running import environment

from benchmarks.measure import US, Ran, Row, timed
from benchmarks.peers import RSYNC, UNISON, Rsync, Unison, missing
from benchmarks.stores import Site, put_aside, write_message
from vmctl import config
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DURABLE = "rsync --fsync"
TYPER = "import typer"
_FIRST_OF_OTHERS = 50_000_000  # numbers of messages that are added


def vmctl(site: Site, *words: str) -> Ran:
    """Run vmctl on a network as a process."""
    command = [sys.executable, "-m", "vmctl", "--config", str(site.root), *words]
    return timed(command, cwd=site.root.parent, environment=environment())


def bring_in_step(site: Site) -> None:
    """Make a first copy where there is none."""
    if not site.in_step:
        site.begin()
        vmctl(site, "sync")
        site.in_step = True


def first(site: Site, runs: int, *, durable: bool) -> list[Row]:
    """From an empty secondary to both in step; of A against a durable rsync, of B against a plain one and unison."""
    what = f"first sync of {site.shape.name}"
    row = Row(what, goals={DURABLE: 0.5} if durable else {RSYNC: 0.7, UNISON: 0.2})
    memory = Row(f"{what}: peak memory", unit="MB")
    with _copies(site) as copies:
        for _ in range(runs):
            site.begin()
            ran = vmctl(site, "sync")
            site.in_step = True
            row.add(US, ran.seconds)
            memory.add(US, ran.memory)
            for who, command, before in copies.firsts(durable=durable):
                before()
                ran = timed(command, cwd=site.root.parent, environment=copies.environment)
                row.add(who, ran.seconds)
                memory.add(who, ran.memory)
    return [row, memory]


def later(site: Site, runs: int) -> list[Row]:
    """The daily work, of stores that are in step: nothing to do, one new message, a hundredth changed on both sides."""
    name = site.shape.name
    nothing = Row(f"sync with nothing to do, {name}", goals={RSYNC: 0.5, UNISON: 0.15})
    one = Row(f"one new message, {name}", goals={RSYNC: 0.6})
    some = Row(f"1 % of {name} changed on both sides", goals={UNISON: 1.0})
    bring_in_step(site)
    with _copies(site) as copies:
        copies.settle()
        for run in range(runs):
            # what was written a moment ago may change again without a new time, so it is listed once more, untimed
            vmctl(site, "sync")
            nothing.add(US, vmctl(site, "sync").seconds)
            copies.measure(nothing)
            _leave(site, site.primary, _FIRST_OF_OTHERS + run, 1)
            one.add(US, vmctl(site, "sync").seconds)
            copies.measure(one, [RSYNC])
            copies.settle()
            _change(site, run, copies)
            some.add(US, vmctl(site, "sync").seconds)
            copies.measure(some, [UNISON])
            copies.settle()
    return [nothing, one, some]


def start(site: Site, runs: int) -> list[Row]:
    """What only reads, against a Python that loads Typer and does nothing."""
    rows = [Row("vmctl status", goals={TYPER: 1.5}), Row("vmctl route 20000", goals={TYPER: 1.5})]
    for row in rows:
        for _ in range(4 * runs):
            row.add(US, vmctl(site, *row.work.split()[1:]).seconds)
            bare = [sys.executable, "-c", TYPER]
            row.add(TYPER, timed(bare, cwd=site.root.parent, environment=environment()).seconds)
    return rows


class _Copies:
    """The same store as the other programs copy it: rsync to a target of its own, unison between two roots of its own."""

    def __init__(self, site: Site, rsync: Rsync | None, unison: Unison | None) -> None:
        self._site = site
        self._rsync = rsync
        self._unison = unison
        self.target = site.root.with_name("rsync.target")
        self.root = site.root.with_name("unison.root") if unison else site.secondary
        self.environment = None if unison is None else unison.environment

    def firsts(self, *, durable: bool) -> Iterator[tuple[str, list[str], Callable[[], None]]]:
        """Each program's first copy: its name, its command, and what makes the target empty before."""
        if self._rsync is not None:
            yield RSYNC, self._rsync.command(self._site.primary), lambda: _emptied(self.target)
            if durable:
                yield DURABLE, self._rsync.command(self._site.primary, "--fsync"), lambda: _emptied(self.target)
        if self._unison is not None and not durable:
            yield UNISON, self._unison.command(self._site.primary, self.root), self._forget

    def _forget(self) -> None:
        assert self._unison is not None
        self._unison.forget()
        _emptied(self.root)

    def settle(self) -> None:
        """Bring every copy in step."""
        for command in self._commands().values():
            timed(command, cwd=self._site.root.parent, environment=self.environment)

    def measure(self, row: Row, whom: list[str] | None = None) -> None:
        """Time each program at what there is to do now."""
        for who, command in self._commands().items():
            if whom is None or who in whom:
                row.add(who, timed(command, cwd=self._site.root.parent, environment=self.environment).seconds)

    def _commands(self) -> dict[str, list[str]]:
        found = {}
        if self._rsync is not None:
            found[RSYNC] = self._rsync.command(self._site.primary)
        if self._unison is not None:
            found[UNISON] = self._unison.command(self._site.primary, self.root)
        return found


@contextlib.contextmanager
def _copies(site: Site) -> Iterator[_Copies]:
    absent = [RSYNC, UNISON] if site.shape.alone else missing()
    with contextlib.ExitStack() as stack:
        rsync = unison = None
        for name, target in ((RSYNC, "rsync.target"), (UNISON, "unison.root")):
            if name not in absent:
                _emptied(site.root.with_name(target))
        if RSYNC not in absent:
            rsync = stack.enter_context(Rsync.serving(site.root.with_name("rsync.target")))
        if UNISON not in absent:
            unison = Unison(site.root.with_name("unison.home"))
            unison.forget()
        yield _Copies(site, rsync, unison)


def _emptied(folder: Path) -> None:
    put_aside(folder, folder.with_name(f"{folder.name}.gone"))
    folder.mkdir()
    os.sync()


def _boxes(site: Site, store: Path) -> list[Path]:
    return [store / "mailboxes" / str(20_000 + number) for number in range(site.shape.boxes)]


def _leave(site: Site, store: Path, first_number: int, count: int) -> None:
    boxes = _boxes(site, store)
    whose = json.loads((site.primary / ".vmctl/identity.json").read_text())["incarnation"]
    for number in range(first_number, first_number + count):
        box = boxes[number * 7919 % len(boxes)]
        write_message(box / "messages", box.name, number, site.shape.size, whose)


def _change(site: Site, run: int, copies: _Copies) -> None:
    """At both servers, and alike at both roots of unison, of each hundred messages a sixth marked, deleted, and new.

    What is deleted at vmctl's servers is deleted by vmctl: it lets many files that vanish wait for a word.
    """
    sixth = max(1, site.shape.total // 600)
    for at, (server, root) in enumerate(((site.primary, site.primary), (site.secondary, copies.root))):
        boxes = _boxes(site, server)
        chosen = [boxes[(run * 2 + at + 62 * number) % len(boxes)] for number in range(sixth)]
        dead = []
        for box in chosen:
            marked, gone = sorted((box / "messages").glob("*.json"))[at * 2 : at * 2 + 2]
            for store in {server, root}:
                _mark(store / marked.relative_to(server))
            dead.append((box.name, gone.stem))
            if root != server:
                for path in (gone, gone.with_suffix(".wav")):
                    (root / path.relative_to(server)).unlink()
        with Replica.open(config.load(site.root / "vmctl.yaml"), server.name, Clock()) as replica:
            for extension, ident in dead:
                Desk(replica).delete_message(extension, ident)
        for store in {server, root}:
            _leave(site, store, _FIRST_OF_OTHERS + 1_000_000 * (1 + 2 * run + at), sixth)


def _mark(document: Path) -> None:
    text = document.read_text().replace('"status": "new"', '"status": "old"')
    beside = document.with_suffix(".tmp")
    beside.write_text(text)
    beside.rename(document)
