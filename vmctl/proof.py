"""`vmctl verify`: re-reads every file of both stores and proves that they hold the same, or names what differs.

It trusts no index, no date and no digest that was taken before: documents are parsed, recordings are hashed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl.audio import digest_of
from vmctl.errors import RecordError, StoreError
from vmctl.model import MAILBOX, canonical, message_key, parse_key
from vmctl.names import is_name
from vmctl.store import documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.store.native import NativeStore

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


def read_store(store: NativeStore, progress: Callable[[int], None] | None = None) -> Reading:
    """Read every file of a store. Files that belong to nothing are left out, broken ones are named."""
    reading = Reading()
    walk = store.walk()
    reading.faults |= walk.unread
    for path, (key, _) in walk.files.items():
        _read(reading, store, path, key)
        if progress:
            progress(reading.files)
    for folder, (extension, _) in walk.folders.items():
        try:
            names = sorted(
                name for name in store.messages(folder) if name.endswith(".json")
            )  # odd ones are named below
        except StoreError as error:
            reading.faults[folder] = error.what
            continue
        for name in names:
            ident = name.removesuffix(".json")
            if is_name(ident):
                _read(reading, store, f"{folder}/{name}", message_key(extension, ident))
                if progress:
                    progress(reading.files)
    return reading


def _read(reading: Reading, store: NativeStore, path: str, key: str) -> None:
    reading.files += 1
    kind = parse_key(key).kind
    try:
        if kind in documents.YAML_KINDS:
            data = store.read(path)
            document: dict[str, Any] = documents.read_yaml(kind, data, path)
        elif path.endswith(".json"):
            data = store.read(path)
            document = documents.read_message(key, data, path)[0]
            form = (document.get("audio") or {}).get("format", "wav")
            document["audio"] = _hash(reading, store, store.audio_path(key, form))
        else:
            data = b""
            document = {"audio": _hash(reading, store, path)}
    except (RecordError, StoreError) as error:
        reading.faults[path] = f"{error.what}{f' ({error.why})' if error.why else ''}"
        return
    reading.bytes += len(data)
    reading.digests[key] = hashlib.sha256(canonical(document)).hexdigest()


def _hash(reading: Reading, store: NativeStore, path: str) -> str:
    digest, size = digest_of(store.root / path)
    reading.bytes += size
    reading.files += 1
    return digest


def compare(one: dict[str, str], other: dict[str, str]) -> list[Difference]:
    """What is not the same in the digests of two readings, by key."""
    keys = sorted(one.keys() | other.keys())
    return [Difference(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
