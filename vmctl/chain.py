"""The lines of a journal: canonical JSON, each with its number and the hash of the line before it.

A line has `v`, `seq` (1, 2, 3, ...), `at` (RFC 3339), `server`, `kind`, `service` where it is about one, what the kind
adds, `prev` (the hash of the line before, "" in the first) and `hash` (SHA-256 in hex of the line without `hash`).
Nothing here reads a clock or a disk.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from vmctl.clock import rfc3339
from vmctl.model import canonical

VERSION: Final = 1
OURS: Final = frozenset({"v", "seq", "at", "server", "kind", "service", "prev", "hash"})
ROTATION: Final = "rotation"  # the kind of the first line of a file that goes on with another one

Entry = dict[str, Any]


def made(kind: str, last: Entry | None, *, at: int, server: str, service: str | None = None, **facts: Any) -> Entry:
    """An entry that follows `last` (None: the first there is); `at` is the wall time in microseconds."""
    seq, prev = (1, "") if last is None else (last["seq"] + 1, last["hash"])
    about = {} if service is None else {"service": service}
    entry = {
        "v": VERSION,
        "at": rfc3339(at),
        "server": server,
        "kind": kind,
        **about,
        **facts,
        "seq": seq,
        "prev": prev,
    }
    return {**entry, "hash": hash_of(entry)}


def line(entry: Entry) -> bytes:
    """The line of an entry, with its end."""
    return canonical(entry) + b"\n"


def hash_of(entry: Entry) -> str:
    """What `hash` has to be."""
    return hashlib.sha256(canonical({name: value for name, value in entry.items() if name != "hash"})).hexdigest()


def parsed(raw: bytes) -> Entry | None:
    """The entry of a line without its end, or None for anything that cannot be one."""
    try:
        entry = json.loads(raw)
        canonical(entry)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not {"seq", "prev", "hash", "kind"} <= entry.keys():
        return None
    return entry if type(entry["seq"]) is int and isinstance(entry["hash"], str) else None


def shown(raw: bytes) -> Entry:
    """The entry of a line for showing: of the kind `unreadable` with its `text` where it is none."""
    return parsed(raw) or {"kind": "unreadable", "text": raw[:200].decode("utf-8", "replace")}


def was_edited(raw: bytes, entry: Entry) -> bool:
    """Whether a line is not as vmctl wrote it."""
    return line(entry) != raw + b"\n" or hash_of(entry) != entry["hash"]


def begins(entry: Entry) -> bool:
    """Whether a file may begin with an entry: it is the first of all, or carries what the files before it hold."""
    return (entry["prev"], entry["seq"]) == ("", 1) or entry["kind"] == ROTATION
