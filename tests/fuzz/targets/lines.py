"""The journal: whatever stands in its files, it is read or refused, and `verify` names whatever vmctl did not write."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

from fuzz import grounds, mutate
from fuzz.target import Target
from vmctl.chain import line, made
from vmctl.errors import JournalBroken
from vmctl.journal import Journal
from vmctl.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

_MARK = b"=== "  # begins the line that names the file in which the lines after it stand
_HOMES = {"main": "primary"}
_NAME = re.compile(r"journal(?:-\d+)?\.jsonl")
WORDS = (
    "v", "seq", "at", "server", "kind", "service", "prev", "hash", "from", "to", "reason", "by", "evidence", "views", "agreed", "name", "value", "event", "transition",
    "start", "rotation", "main", "home", "serving", "state", "epoch", "since", "cause", "last", "normal", "resilience", "recovering", "starting",
)  # fmt: skip


def seeds() -> list[bytes]:
    """The journal of a server in use; a longer one in three files; a torn one."""
    used = (grounds.network().snapshot / "primary/.vmctl/journal.jsonl").read_bytes()
    folder = grounds.scratch() / "journal-seed"
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl", 700)
    journal.start(_HOMES, at=10**15, server="primary")
    for number in range(6):
        journal.agree(
            "mode", {"mode": "active-standby", "number": number}, at=10**15 + number, server="primary", by="vmctl"
        )
    parts = [_MARK + path.name.encode() + b"\n" + path.read_bytes() for path in sorted(folder.iterdir())]
    return [b"=== journal.jsonl\n" + used, b"".join(parts), b"=== journal.jsonl\n" + used[:-40]]


def change(data: bytes, chance: Random, longest: int) -> bytes:
    """Another journal: by its lines, by what a line says, with its hashes mended or not, or blindly."""
    lines = data.splitlines(keepends=True)
    if not lines or chance.random() < 0.15:
        return mutate.of_bytes(data, chance, longest, (b"\n", b"\n\n", b"{}\n", _MARK + b"journal-000000003.jsonl\n"))
    if chance.random() < 0.3:
        lines = mutate.of_pieces(lines, chance)
    else:
        at = chance.randrange(len(lines))
        lines[at] = mutate.of_json_bytes(lines[at].rstrip(b"\n"), chance, longest, (), WORDS) + b"\n"
    if chance.random() < 0.6:
        lines = list(_chained(lines))
    return b"".join(lines)[:longest]


def _chained(lines: list[bytes]) -> Iterator[bytes]:
    """The lines with numbers and hashes as they have to be, so that what they say is looked at."""
    last: Any = None
    for raw in lines:
        try:
            entry = json.loads(raw)
            kept = {
                name: value
                for name, value in entry.items()
                if name not in {"v", "seq", "at", "server", "kind", "prev", "hash"}
            }
            entry = {**made(entry["kind"], last, at=10**15, server="primary"), "at": entry.get("at"), **kept}
            entry.pop("hash")
            entry["hash"] = hashlib.sha256(_canonical(entry)).hexdigest()
            yield line(entry)
            last = entry
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield raw


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def run(data: bytes) -> None:
    """Every reading gives an answer or JournalBroken; `verify` agrees with a second reader; an append changes nothing else."""
    folder = grounds.scratch() / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = _files(data)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    journal = Journal(folder / "journal.jsonl", 4000)
    _read(journal)
    faults = journal.verify()
    assert all("\n" not in one and len(one) < 400 for one in faults), faults
    if not faults and len(files) == 1:
        assert _is_whole(files.get("journal.jsonl", b"")), "a journal was found whole that is not"
    _append(journal, faults)


def _files(data: bytes) -> dict[str, bytes]:
    """Up to six files, by their names; only names that a journal has."""
    found: dict[str, bytes] = {}
    name = "journal.jsonl"
    for raw in data.splitlines(keepends=True) if b"\n" in data else [data]:
        told = raw[4:].rstrip(b"\n")
        if (
            raw.startswith(_MARK)
            and told.replace(b"-", b"").replace(b".", b"").isalnum()
            and len(told) < 40
            and len(found) < 6
        ):
            name = told.decode()
        else:
            found[name] = found.get(name, b"") + raw
    return found


def _read(journal: Journal) -> None:
    json.dumps(list(journal.entries())).encode("utf-8", "surrogatepass")
    list(journal.entries(since=1, limit=2))
    list(journal.entries_from(10**15))
    list(journal.entries_from(10**15, limit=1))
    journal.find(2)
    journal.newest()
    journal.mark()
    asked: tuple[Callable[[], Any], ...] = (journal.length_and_hash, journal.agreed, lambda: journal.views(_HOMES))
    for ask in asked:
        try:
            ask()
        except JournalBroken as error:
            json.dumps(error.as_json()).encode()


def _append(journal: Journal, faults: list[str]) -> None:
    before = len(list(journal.entries()))
    try:
        entry = journal.append("event", at=10**15, server="primary", event="fuzzed")
    except JournalBroken:
        return
    entries = list(journal.entries())
    assert entries[-1] == entry
    assert 1 <= len(entries) - before <= 3
    left = _nameless(journal.verify()) - _nameless(faults)
    assert not left, f"an append did damage: {left}"
    try:
        views = journal.start(_HOMES, at=10**15, server="primary")
    except JournalBroken:
        return
    assert all(isinstance(view, View) for view in views.values())
    assert not _nameless(journal.verify()) - _nameless(faults)


def _nameless(faults: list[str]) -> set[str]:
    """Without the names of files: an append may have begun a new one."""
    return {_NAME.sub("a file", one) for one in faults}


def _is_whole(content: bytes) -> bool:
    """A second reader of one file, which knows nothing of the first one."""
    seq, prev = None, None
    for number, raw in enumerate(content.split(b"\n")[:-1]):
        entry = json.loads(raw)
        said = entry.pop("hash")
        if number == 0 and entry["kind"] != "rotation" and (entry["seq"], entry["prev"]) != (1, ""):
            return False
        if number and (entry["seq"], entry["prev"]) != (seq + 1, prev):
            return False
        if hashlib.sha256(_canonical(entry)).hexdigest() != said or _canonical({**entry, "hash": said}) != raw:
            return False
        seq, prev = entry["seq"], said
    return content.endswith(b"\n") or not content


JOURNAL = Target("journal", "the files of the journal", run, seeds, change)
