"""`vmctl verify`: re-reads every file of both stores and proves that they hold the same, or names what differs.

It trusts no index, no date and no digest that was taken before: documents are parsed, recordings are hashed.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl import beneath
from vmctl.audio import digest_of
from vmctl.errors import RecordError, StoreError
from vmctl.model import MAILBOX, MESSAGE, canonical, message_key, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.store.format import Format

_MOST_FAULTS = 200


@dataclass(slots=True)
class Reading:
    """What one store holds, read afresh: a digest for each record, and the files that could not be read."""

    digests: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    files: int = 0

    def groups(self) -> dict[str, str]:
        """A digest for each mailbox, and one for each kind of what lies outside of them: what a mail can carry."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for key, digest in sorted(self.digests.items()):
            parts = parse_key(key)
            name = f"{MAILBOX}/{parts.mailbox or parts.name}" if parts.mailbox or parts.kind == MAILBOX else parts.kind
            groups.setdefault(name, []).append((key, digest))
        return {name: hashlib.sha256(canonical(members)).hexdigest()[:32] for name, members in groups.items()}

    def as_answer(self, nonce: str) -> dict[str, Any]:
        """What is told to the peer that asked with `nonce`."""
        faults = dict(sorted(self.faults.items())[:_MOST_FAULTS])
        return {"nonce": nonce, "files": self.files, "bytes": self.bytes, "groups": self.groups(), "faults": faults}


@dataclass(frozen=True, slots=True)
class Difference:
    """A record, or a group of records, that is not the same on both servers: the digest of each (None: nothing)."""

    key: str
    one: str | None
    other: str | None


def read_store(store: Format, progress: Callable[[int], None] | None = None) -> Reading:
    """Read every file of a store. Files that belong to nothing are left out, broken ones are named."""
    reading = Reading()
    walk = store.walk()
    reading.faults |= walk.unread
    for path, (key, _) in walk.files.items():
        _read(reading, store, path, key)
        if progress:
            progress(reading.files)
    for folder, (extension, _) in walk.folders.items():
        with beneath.holding():
            _read_messages(reading, store, folder, extension, progress)
    return reading


def _read_messages(
    reading: Reading, store: Format, folder: str, extension: str, progress: Callable[[int], None] | None
) -> None:  # fmt: skip
    try:
        there = store.messages(folder)
    except StoreError as error:
        reading.faults[folder] = error.what
        return
    no_files = {name for name, status in there.items() if not stat.S_ISREG(status.st_mode)}
    parts = {name: part for name in there if (part := store.part_of(name)) is not None}
    for name in beneath.in_turn(f"{store.root}/{folder}", parts, no_files):
        if parts[name].form is None:
            _read(reading, store, f"{folder}/{name}", message_key(extension, parts[name].ident))
            if progress:
                progress(reading.files)


def _read(reading: Reading, store: Format, path: str, key: str) -> None:
    reading.files += 1
    kind = parse_key(key).kind
    try:
        document: dict[str, Any] = {}
        data = b""
        if kind == MESSAGE or store.is_edited(kind):
            data = store.read(path)
            document = store.parse(key, data, path)[0]
        if not store.is_edited(kind):
            form = (document.get("audio") or {}).get("format", "wav")
            document["audio"] = _hash(reading, store, store.audio_path(key, form) if kind == MESSAGE else path)
    except (RecordError, StoreError) as error:
        reading.faults[path] = f"{error.what}{f' ({error.why})' if error.why else ''}"
        return
    reading.bytes += len(data)
    reading.digests[key] = hashlib.sha256(canonical(document)).hexdigest()


def _hash(reading: Reading, store: Format, path: str) -> str:
    digest, size = digest_of(store.root / path)
    reading.bytes += size
    reading.files += 1
    return digest


def compare(one: dict[str, str], other: dict[str, str]) -> list[Difference]:
    """What is not the same in the digests of two readings, by key."""
    keys = sorted(one.keys() | other.keys())
    return [Difference(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
