"""The journal of role transitions: append-only JSON lines, each holding the hash of the line before it.

`chain` tells how a line looks, `volumes` in which files they are, `tampering` how it shows that somebody touched them.
The kinds of lines:

- `transition`: `from` and `to` (views), `reason`, `by` (`vmctl`, `peer` or `operator NAME`), `evidence`;
- `agreed`: `name`, `value` (a mapping), `by`: a small value that both servers agree on;
- `start`: `views` and `agreed`, from which this server started: all of them, so that no line before it is needed;
- `rotation`: the same, as they are: the first line of a file that goes on with another one;
- `event`: whatever else is worth a line, in `event`.

The caller holds the store's lock while it appends; reading needs no lock. A last line without its line end was never
promised to anybody: readers leave it out, and the next append sets it aside and says so. What a chain cannot show is
a cut tail or a whole rewrite: for that the peer keeps what `length_and_hash` gave.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from vmctl import beneath, durable
from vmctl.chain import OURS, ROTATION, Entry, begins, line, made, parsed, shown, was_edited
from vmctl.clock import parse_rfc3339
from vmctl.errors import JournalBroken, JournalError
from vmctl.model import canonical
from vmctl.names import is_name
from vmctl.tampering import faults
from vmctl.view import View, fresh_view
from vmctl.volumes import LONGEST, Volumes, lines, lines_back, older_path, same, torn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from vmctl.evidence import Evidence
    from vmctl.roles import Transition

log = logging.getLogger("vmctl.journal")

BOUND: Final = 16_000_000  # bytes, where no config says it
LONGEST_VALUE: Final = 4096  # bytes of an agreed value: every start and every new file repeats it


class State(NamedTuple):
    """What the journal says of the present."""

    views: dict[str, View]
    agreed: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """What a `start` and a `rotation` carry."""
        return {"views": {name: view.as_json() for name, view in self.views.items()}, "agreed": self.agreed}


class Journal:
    """The journal that grows at `path`, which need not exist yet. A new file is begun when it is longer than `bound` bytes.

    Of what it says of the present the last reading is kept, for as long as nobody has touched the file since.
    """

    def __init__(self, path: Path, bound: int = BOUND) -> None:
        self.path = path
        self._bound = bound
        self._volumes = Volumes(path)
        self._read: tuple[tuple[int, ...], State] | None = None

    # What is written

    def append(self, kind: str, *, at: int, server: str, service: str | None = None, **facts: Any) -> Entry:
        """Add a line, durable on return, and give it back; `at` is the wall time in microseconds.

        Raises JournalBroken when the end of the journal is not as vmctl left it: nothing is added to it then.
        """
        if taken := OURS & facts.keys():
            raise ValueError(f"{sorted(taken)} are the journal's own")
        last = self._ready(at, server)
        entry = made(kind, last, at=at, server=server, service=service, **facts)
        written = line(entry)
        if len(written) > LONGEST:
            raise ValueError(f"an entry of {len(written)} bytes is too long for the journal")
        durable.append(self.path, written)
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

    def agree(self, name: str, value: Mapping[str, Any], *, at: int, server: str, by: str) -> Entry:
        """Add a value that both servers agree on from now on, in place of the one of this name; `by` as in a transition.

        Raises ValueError for a value that is no small mapping of JSON values.
        """
        if not is_name(name):
            raise ValueError(f"{name[:80]!r} is no name")
        if len(canonical(dict(value))) > LONGEST_VALUE:
            raise ValueError(f"the value of {name} is longer than {LONGEST_VALUE} bytes")
        return self.append("agreed", at=at, server=server, name=name, value=dict(value), by=by)

    def start(self, services: Mapping[str, str], *, at: int, server: str) -> dict[str, View]:
        """Add the line of a start of this server, and give the views after it; `services` maps names to homes.

        The line also carries views of services that the config no longer names: one that returns keeps its epoch.
        """
        known = self._state()
        fresh = {name: fresh_view(name, home) for name, home in services.items()}
        self.append("start", at=at, server=server, **known._replace(views=fresh | known.views).as_json())
        return self.views(services)

    # What is read

    def views(self, services: Mapping[str, str]) -> dict[str, View]:
        """The present view of each service, by name; `services` maps names to homes. Raises JournalBroken."""
        known = self._state().views
        return {name: known.get(name) or fresh_view(name, home) for name, home in services.items()}

    def agreed(self) -> dict[str, dict[str, Any]]:
        """The newest of the values that both servers agree on, by name. Raises JournalBroken."""
        return dict(self._state().agreed)

    def entries(self, since: int | None = None, limit: int | None = None) -> Iterator[Entry]:
        """The lines in order, for showing: those numbered above `since`, of these the newest `limit`.

        A line that cannot be read comes as an entry of the kind `unreadable` with its `text`. What an entry says is
        not checked here: that is for `verify`.
        """
        if since is None and limit is None:
            yield from (shown(raw) for volume in self._volumes.forward() for _, raw in lines(volume.file))
            return
        found: list[Entry] = []
        for raw in self._backward():
            entry = shown(raw)
            if len(found) == limit or (since is not None and entry.get("seq", since + 1) <= since):
                break
            found.append(entry)
        yield from reversed(found)

    def entries_from(self, time: int, limit: int | None = None) -> Iterable[Entry]:
        """The lines that are of `time` (wall time, microseconds) or later by what they say, of these the newest `limit`.

        All lines are looked at, as a clock may have been set back. One that tells no time goes with the line before it.
        """
        chosen = _from(self.entries(), time)
        return chosen if limit is None else deque(chosen, maxlen=limit)

    def find(self, seq: int) -> Entry | None:
        """The entry of this number, if it is there."""
        for volume in self._volumes.backward():
            for raw in lines_back(volume.file):
                entry = parsed(raw)
                if entry is not None and entry["seq"] <= seq:
                    return entry if entry["seq"] == seq else None
        return None

    def newest(self) -> int:
        """The number of the last line that can be read, 0 where there is none."""
        entry = next(filter(None, map(parsed, self._backward())), None)
        return 0 if entry is None else entry["seq"]

    def mark(self) -> tuple[int, int]:
        """What is another one whenever a line was added: the identity and the length of the file that grows."""
        with self._volumes.growing() as file:
            size = file.seek(0, os.SEEK_END)
            return (os.fstat(file.fileno()).st_ino, size) if size else (0, 0)

    def verify(self) -> list[str]:
        """What is wrong with the journal, a sentence for each line that does not fit; empty when nothing is."""
        return list(faults(self.path))

    def length_and_hash(self) -> tuple[int, str]:
        """The number and the hash of the last line, (0, "") of an empty journal. Raises JournalBroken."""
        with self._volumes.growing() as file:
            last = self._last(file)
        return (0, "") if last is None else (last["seq"], last["hash"])

    def _backward(self) -> Iterator[bytes]:
        for volume in self._volumes.backward():
            yield from lines_back(volume.file)

    def _last(self, file: BinaryIO) -> Entry | None:
        """The last line, after a look at how it hangs on the one before it."""
        newest = self._checked(file)
        last = next(newest, None)
        next(newest, None)
        return last

    def _state(self) -> State:
        """The newest views and agreed values."""
        with self._volumes.growing() as file:
            touched = _touched(file)
            if self._read is None or self._read[0] != touched or not touched:
                self._read = touched, self._state_in(file)
            return self._read[1]

    def _state_in(self, file: BinaryIO) -> State:
        """The same, back to the latest line that carries all others.

        No older file is read: one that goes on with another begins with such a line.
        """
        views: dict[str, View] = {}
        agreed: dict[str, dict[str, Any]] = {}
        for entry in self._checked(file):
            try:
                if entry["kind"] == "transition":
                    views.setdefault(_name(entry["service"]), View.from_json(entry["to"]))
                elif entry["kind"] == "agreed":
                    agreed.setdefault(_name(entry["name"]), _mapping(entry["value"]))
                elif entry["kind"] in {"start", ROTATION}:
                    before = _carried(entry)
                    return State(before.views | views, before.agreed | agreed)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                words = f"entry {entry['seq']} of {self.path} holds no view, or no value"
                raise JournalBroken(words, why=str(error)) from error
        return State(views, agreed)

    def _checked(self, file: BinaryIO) -> Iterator[Entry]:
        """The lines of the file that grows from the last to the first, each whole and hanging on the one before."""
        after: Entry | None = None
        for raw in lines_back(file):
            entry = parsed(raw)
            if entry is None or was_edited(raw, entry):
                raise self._broken()
            if after is not None and (after["prev"], after["seq"]) != (entry["hash"], entry["seq"] + 1):
                raise self._broken()
            yield entry
            after = entry
        if self._volumes.older() if after is None else not begins(after):
            raise self._broken()

    def _broken(self) -> JournalBroken:
        problems = self.verify() or ["it changed while it was read"]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return JournalBroken(f"the journal {self.path} is damaged: {problems[0]}{more}")

    # What is mended, and begun anew

    def _ready(self, at: int, server: str) -> Entry | None:
        """Make the end of the journal fit to be appended to; the last line."""
        with self._volumes.growing() as file:
            last, left, full = self._last(file), torn(file), self._is_full(file)
        if left:
            last = self._set_aside(left, last, at, server)
        if last is None:
            return None
        begun = beneath.is_there(older_path(self.path, last["seq"]))  # and cut off before the new file was there
        return self._rotate(last, at, server) if full or begun else last

    def _is_full(self, file: BinaryIO) -> bool:
        """Whether it is longer than it may be, and not only because of all that its first line carries."""
        size = file.seek(0, os.SEEK_END)
        return size > self._bound and size > 2 * len(next(lines(file), (1, b""))[1])

    def _rotate(self, last: Entry, at: int, server: str) -> Entry:
        """Begin a new file; its first line. Cut off at any step the journal is what it was, and the next append does it again."""
        entry = made(ROTATION, last, at=at, server=server, **self._state().as_json())
        older = older_path(self.path, last["seq"])
        if beneath.is_there(older) and not same(older, self.path):  # it is, where this was cut off
            raise JournalBroken(
                f"the journal {self.path} cannot go on in a new file", why=f"{older.name} is there already"
            )
        durable.link(self.path, older)
        durable.write(self.path, line(entry))
        return entry

    def _set_aside(self, left: bytes, last: Entry | None, at: int, server: str) -> Entry:
        """Move an incomplete last line into a file of its own; the line that says so takes its place at once."""
        aside = self.path.with_name(f"{self.path.name}.torn-{1 if last is None else last['seq'] + 1}")
        durable.write(aside, left)
        event = "an incomplete last line was set aside"
        entry = made("event", last, at=at, server=server, event=event, bytes=len(left), file=aside.name)
        with self._volumes.growing() as file:
            whole = file.read()
        durable.write(self.path, whole.removesuffix(left) + line(entry))
        return entry


def _touched(file: BinaryIO) -> tuple[int, ...]:
    """What is another one whenever somebody has written to a file, or put another in its place; () where there is none."""
    try:
        seen = os.fstat(file.fileno())
    except OSError:  # io.UnsupportedOperation: there is no file yet
        return ()
    return (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _carried(entry: Entry) -> State:
    """What a `start` or a `rotation` says; a server that starts does not assume that it serves."""
    views = {name: View.from_json(view) for name, view in entry["views"].items()}
    if entry["kind"] == "start":
        at = parse_rfc3339(entry["at"])
        views = {name: view.started(at) for name, view in views.items()}
    return State(views, {name: _mapping(value) for name, value in entry.get("agreed", {}).items()})


def _name(value: Any) -> str:
    if not is_name(value):
        raise ValueError("what should be a name is none")
    return str(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a value is not a mapping")  # noqa: TRY004 - one error for every fault of data
    return value


def _from(entries: Iterable[Entry], time: int) -> Iterator[Entry]:
    wanted = False
    for entry in entries:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            wanted = parse_rfc3339(entry["at"]) >= time
        if wanted:
            yield entry
