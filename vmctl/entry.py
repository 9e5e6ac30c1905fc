"""A record as one server has it: as it is here, as its file shows it, and as the peer is known to hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.model import KINDS, MESSAGE

if TYPE_CHECKING:
    from vmctl.model import Record

_LONGEST_FORMAT = 16  # characters: it becomes a file's suffix


class Look(NamedTuple):
    """How a file looked to stat: equal looks are taken for an unchanged file (sizes in bytes, times in ns)."""

    size: int
    mtime: int
    ctime: int
    inode: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it is here, as its file shows it (None: no file), and as the peer is known to hold it."""

    record: Record
    shown: Record | None = None
    base: Record | None = None

    @property
    def pending(self) -> bool:
        """Whether the peer lacks this version."""
        return self.base is None or self.base.version != self.record.version

    @property
    def todo(self) -> bool:
        """Whether the store's file is not known to show this version: it may have to be written, or removed."""
        record, shown = self.record, self.shown
        if record.kind not in KINDS:
            return False
        if not record.lives or shown is None:
            return record.lives != (shown is not None)
        return shown.version != record.version


def audio_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The `audio` field of a document if it is one: `sha256`, `size` in bytes, `format`."""
    audio = document.get("audio")
    if not isinstance(audio, dict):
        return None
    digest, size, form = audio.get("sha256"), audio.get("size"), audio.get("format")
    if not (isinstance(digest, str) and len(digest) == 64 and not digest.strip("0123456789abcdef")):  # noqa: PLR2004
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**53:
        return None
    if not (isinstance(form, str) and form.isascii() and form.isalnum() and len(form) <= _LONGEST_FORMAT):
        return None
    return audio


def as_in_file(record: Record) -> Record:
    """What a file shows that a person wrote: of a message the values, not the stamps, so it is to be written again."""
    return replace(record, kept={}) if record.kind == MESSAGE else record
