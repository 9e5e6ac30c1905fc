"""The journal of role transitions: append-only JSON lines, each holding the hash of the line before it.

A line is canonical JSON with `v`, `seq` (1, 2, 3, ...), `at` (RFC 3339), `server`, `kind`, `service` where it is about
one, what the kind adds, `prev` (the hash of the line before, "" in the first) and `hash` (SHA-256 in hex of the line
without `hash`). Kinds:

- `transition`: `from` and `to` (views), `reason`, `by` (`vmctl`, `peer` or `operator NAME`), `evidence`;
- `start`: `views`, the views from which this server started: all of them, so that no line before it is needed;
- `event`: whatever else is worth a line, in `event`.

The caller holds the store's lock while it appends; reading needs no lock. A last line without its line end was never
promised to anybody: readers leave it out, and the next append sets it aside and says so. What a chain cannot show is
a cut tail or a whole rewrite: for that the peer keeps what `length_and_hash` gave.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from vmctl import durable
from vmctl.clock import parse_rfc3339, rfc3339
from vmctl.errors import JournalBroken, JournalError, StoreUnusable
from vmctl.model import canonical
from vmctl.view import View, fresh_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vmctl.evidence import Evidence
    from vmctl.roles import Transition

log = logging.getLogger("vmctl.journal")

VERSION: Final = 1
LONGEST: Final = 1 << 20  # a longer line was not written by vmctl
_BLOCK: Final = 1 << 14
_OURS: Final = frozenset({"v", "seq", "at", "server", "kind", "service", "prev", "hash"})

Entry = dict[str, Any]


class Journal:
    """The journal in one file, which need not exist yet. Nothing is kept in memory between calls."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: str, *, at: int, server: str, service: str | None = None, **facts: Any) -> Entry:
        """Add a line, durable on return, and give it back; `at` is the wall time in microseconds.

        Raises JournalBroken when the end of the journal is not as vmctl left it: nothing is added to it then.
        """
        if taken := _OURS & facts.keys():
            raise ValueError(f"{sorted(taken)} are the journal's own")
        with self._open() as file:
            last, torn = self._last(file), _torn(file)
        if torn:
            last = self._set_aside(torn, last, at, server)
        entry = _chained({**_head(kind, at, server, service), **facts}, last)
        line = _line(entry)
        if len(line) > LONGEST:
            raise ValueError(f"an entry of {len(line)} bytes is too long for the journal")
        durable.append(self.path, line)
        return entry

    def tell(self, event: str, *, at: int, server: str, **facts: Any) -> Entry | None:
        """Add an event. A journal that cannot be trusted any more is left as it is, and keeps nobody from his work: None."""
        try:
            return self.append("event", at=at, server=server, event=event, **facts)
        except JournalError as error:  # the roles stand still, and say why; the stores are kept in step all the same
            log.error("%s could not be journalled: %s", event, error)
            return None

    def transition(
        self, move: Transition, evidence: Evidence, *, at: int, server: str, operator: str | None = None
    ) -> Entry:
        """Add a transition with what it was decided on; `operator` is who gave the order, where one did."""
        by = f"operator {operator}" if move.by == "operator" and operator else move.by
        facts = {"from": move.before.as_json(), "to": move.after.as_json(), "reason": move.reason, "by": by}
        return self.append(
            "transition", at=at, server=server, service=move.after.service, evidence=evidence.as_json(), **facts
        )

    def start(self, services: Mapping[str, str], *, at: int, server: str) -> dict[str, View]:
        """Add the line of a start of this server, and give the views after it; `services` maps names to homes.

        The line also carries views of services that the config no longer names: one that returns keeps its epoch.
        """
        before = {name: fresh_view(name, home) for name, home in services.items()} | self._known()
        self.append("start", at=at, server=server, views={name: view.as_json() for name, view in before.items()})
        return self.views(services)

    def views(self, services: Mapping[str, str]) -> dict[str, View]:
        """The present view of each service, by name; `services` maps names to homes. Raises JournalBroken."""
        known = self._known()
        return {name: known.get(name) or fresh_view(name, home) for name, home in services.items()}

    def entries(self, since: int | None = None, limit: int | None = None) -> Iterator[Entry]:
        """The lines in order, for showing: those numbered above `since`, of these the newest `limit`.

        A line that cannot be read comes as an entry of the kind `unreadable` with its `text`. What an entry says is
        not checked here: that is for `verify`.
        """
        with self._open() as file:
            if since is None and limit is None:
                yield from (_shown(raw) for _, raw in _forward(file))
                return
            found: list[Entry] = []
            for raw in _backward(file):
                entry = _shown(raw)
                if len(found) == limit or (since is not None and entry.get("seq", since + 1) <= since):
                    break
                found.append(entry)
        yield from reversed(found)

    def verify(self) -> list[str]:
        """What is wrong with the journal, a sentence for each line that does not fit; empty when nothing is."""
        problems: list[str] = []
        seq, prev = 0, ""
        with self._open() as file:
            for number, raw in _forward(file):
                entry = _parsed(raw)
                if entry is None:
                    problems.append(f"line {number} cannot be read")
                    seq, prev = seq + 1, "?"  # the next line's `prev` cannot be compared
                    continue
                problems.extend(_faults(number, raw, entry, seq, prev))
                seq, prev = entry["seq"], entry["hash"]
            if torn := _torn(file):
                problems.append(f"the last line is incomplete ({len(torn)} bytes): the next entry sets it aside")
        return problems

    def length_and_hash(self) -> tuple[int, str]:
        """The number and the hash of the last line, (0, "") of an empty journal. Raises JournalBroken."""
        with self._open() as file:
            last = self._last(file)
        return (0, "") if last is None else (last["seq"], last["hash"])

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return io.BytesIO()
        except OSError as error:
            raise StoreUnusable(f"cannot read {self.path}", why=error.strerror or str(error)) from error

    def _last(self, file: BinaryIO) -> Entry | None:
        """The last line, after a look at how it hangs on the one before it."""
        newest = self._checked(file)
        last = next(newest, None)
        next(newest, None)
        return last

    def _known(self) -> dict[str, View]:
        """The views of all services back to the latest start, which carries the others."""
        known: dict[str, View] = {}
        with self._open() as file:
            for entry in self._checked(file):
                try:
                    if entry["kind"] == "transition":
                        known.setdefault(entry["service"], View.from_json(entry["to"]))
                    elif entry["kind"] == "start":
                        before = {name: View.from_json(view) for name, view in entry["views"].items()}
                        at = parse_rfc3339(entry["at"])
                        return {name: view.started(at) for name, view in before.items()} | known
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    raise JournalBroken(f"entry {entry['seq']} of {self.path} holds no view", why=str(error)) from error
        return known

    def _checked(self, file: BinaryIO) -> Iterator[Entry]:
        """The lines from the last to the first, each whole and hanging on the one before."""
        after: Entry | None = None
        for raw in _backward(file):
            entry = _parsed(raw)
            if entry is None or _line(entry) != raw + b"\n" or _hash(entry) != entry["hash"]:
                raise self._broken()
            if after is not None and (after["prev"], after["seq"]) != (entry["hash"], entry["seq"] + 1):
                raise self._broken()
            yield entry
            after = entry
        if after is not None and (after["prev"], after["seq"]) != ("", 1):
            raise self._broken()

    def _broken(self) -> JournalBroken:
        problems = self.verify() or ["it changed while it was read"]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return JournalBroken(f"the journal {self.path} is damaged: {problems[0]}{more}")

    def _set_aside(self, torn: bytes, last: Entry | None, at: int, server: str) -> Entry:
        """Move an incomplete last line into a file of its own; the line that says so takes its place at once."""
        seq = 1 if last is None else last["seq"] + 1
        aside = self.path.with_name(f"{self.path.name}.torn-{seq}")
        durable.write(aside, torn)
        facts = {"event": "an incomplete last line was set aside", "bytes": len(torn), "file": aside.name}
        entry = _chained({**_head("event", at, server, None), **facts}, last)
        with self._open() as file:
            whole = file.read()
        durable.write(self.path, whole.removesuffix(torn) + _line(entry))
        return entry


def words(entry: Entry) -> str:
    """One readable line for an entry: when, at which server, what and why."""
    match entry.get("kind"):
        case "transition":
            said = _transition_words(entry)
        case "start":
            said = f"{entry.get('server')} was started"
        case "event":
            rest = [f"{name} {value}" for name, value in sorted(entry.items()) if name not in {*_OURS, "event"}]
            said = ", ".join([str(entry.get("event")), *rest])
        case "unreadable":
            said = f"this line cannot be read: {entry.get('text')}"
        case other:
            said = f"{other} (written by another version of vmctl)"
    about = f"{entry['service']}: " if "service" in entry else ""
    line = f"{entry.get('seq', '?')!s:>5}  {entry.get('at', '?')!s:<24}  {about}{said}"
    return "".join(char if char.isprintable() else "?" for char in line)


def _transition_words(entry: Entry) -> str:
    try:
        before, after = View.from_json(entry.get("from")), View.from_json(entry.get("to"))
    except ValueError as error:
        return f"a transition that cannot be read: {error}"
    one, two = (f"{view.state} ({view.serving or 'nobody'})" for view in (before, after))
    return f"{one} -> {two}, epoch {after.epoch.number}: {entry.get('reason')} [by {entry.get('by')}]"


def _head(kind: str, at: int, server: str, service: str | None) -> Entry:
    about = {} if service is None else {"service": service}
    return {"v": VERSION, "at": rfc3339(at), "server": server, "kind": kind, **about}


def _chained(entry: Entry, last: Entry | None) -> Entry:
    seq, prev = (1, "") if last is None else (last["seq"] + 1, last["hash"])
    entry = {**entry, "seq": seq, "prev": prev}
    return {**entry, "hash": _hash(entry)}


def _line(entry: Entry) -> bytes:
    return canonical(entry) + b"\n"


def _hash(entry: Entry) -> str:
    return hashlib.sha256(canonical({name: value for name, value in entry.items() if name != "hash"})).hexdigest()


def _parsed(raw: bytes) -> Entry | None:
    """The entry of a line, or None for anything that cannot be one."""
    try:
        entry = json.loads(raw)
        canonical(entry)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not {"seq", "prev", "hash", "kind"} <= entry.keys():
        return None
    return entry if type(entry["seq"]) is int and isinstance(entry["hash"], str) else None


def _shown(raw: bytes) -> Entry:
    return _parsed(raw) or {"kind": "unreadable", "text": raw[:200].decode("utf-8", "replace")}


def _faults(number: int, raw: bytes, entry: Entry, seq: int, prev: str) -> Iterator[str]:
    """What is wrong with one line, `seq` and `prev` being number and hash of the line before it."""
    if _line(entry) != raw + b"\n" or _hash(entry) != entry["hash"]:
        yield f"line {number} was edited: its hash does not fit what it says"
    if entry["seq"] == seq:
        yield f"line {number} is doubled: it has the number {seq}, as the line before"
    elif entry["seq"] < seq:
        yield f"line {number} was moved: it has the number {entry['seq']} after {seq}"
    elif entry["seq"] > seq + 1:
        gone = entry["seq"] - seq - 1
        lack = "1 entry is" if gone == 1 else f"{gone} entries are"
        yield f"{lack} missing before line {number}: it has the number {entry['seq']}, not {seq + 1}"
    elif prev not in ("?", entry["prev"]):
        yield f"line {number} does not follow the line before it: that line, or the one that stood there, was replaced"


def _torn(file: BinaryIO) -> bytes:
    """What stands after the last line end."""
    position = file.seek(0, os.SEEK_END)
    found = -1
    while position and found < 0:
        position, block = _block_before(file, position)
        found = block.rfind(b"\n")
    file.seek(position + found + 1)
    return file.read()


def _forward(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The complete lines without their ends, numbered from 1. A line that is too long comes cut off."""
    file.seek(0)
    number = 0
    while raw := file.readline(LONGEST):
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST)
        if not rest:
            return
        number += 1
        yield number, raw.removesuffix(b"\n")


def _backward(file: BinaryIO) -> Iterator[bytes]:
    """The complete lines without their ends, from the last to the first. A line that is too long comes cut off."""
    position = file.seek(0, os.SEEK_END)
    tail, complete = b"", False  # what stands after the last line end seen; whether it ends with one
    while position:
        position, block = _block_before(file, position)
        *lines, tail_end = (block + tail).split(b"\n")[::-1]
        for line in lines:
            if complete:
                yield line[-LONGEST:]
            complete = True
        tail = tail_end[-LONGEST:]
    if complete:
        yield tail


def _block_before(file: BinaryIO, position: int) -> tuple[int, bytes]:
    start = max(0, position - _BLOCK)
    file.seek(start)
    return start, file.read(position - start)
