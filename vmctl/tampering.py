"""What was done to the lines of a journal: the sentences of `vmctl journal --verify`.

A person may take the oldest files away: then the chain is there from the first line of the oldest that is left. Whatever
else is missing, or is not as vmctl wrote it, is named by file and line. A cut end cannot show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.chain import ROTATION, Entry, parsed, was_edited
from vmctl.volumes import Volume, Volumes, lines, older_path, torn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def faults(path: Path) -> Iterator[str]:
    """A sentence for each thing that is wrong with the journal that grows at `path`, its older files among it."""
    chain = _Chain(path)
    for volume in Volumes(path).forward():
        for number, raw in lines(volume.file):
            yield from chain.line(volume.name, number, raw)
        yield from chain.end(volume)


class _Chain:
    """What the lines up to now lead to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False  # whether there is any line, or file, before
        self._seq: int | None = None  # the number of the line before; None where it cannot be told
        self._prev: str | None = None  # its hash

    def line(self, name: str, number: int, raw: bytes) -> Iterator[str]:
        """What is wrong with line `number` of the file `name`."""
        where, entry = f"line {number} of {name}", parsed(raw)
        if entry is None:
            yield f"{where} cannot be read"
            self._seq, self._prev = None if self._seq is None else self._seq + 1, None
        else:
            if not self._begun and entry["kind"] != ROTATION:
                self._seq, self._prev = 0, ""  # else whatever was before it was taken away with its file
            if was_edited(raw, entry):
                yield f"{where} was edited: its hash does not fit what it says"
            yield from self._order(where, number, entry)
            self._seq, self._prev = entry["seq"], entry["hash"]
        self._begun = True

    def _order(self, where: str, number: int, entry: Entry) -> Iterator[str]:
        seq, before = entry["seq"], self._seq
        if before is not None:
            yield from self._gap(where, number, entry, before)
        if before != 0 and (number == 1) != (entry["kind"] == ROTATION):
            yield f"{where} was moved: a file that goes on with another begins with a {ROTATION}, and holds no second one"
        if before is not None and seq == before + 1 and self._prev not in (None, entry["prev"]):
            yield f"{where} does not follow the line before it: that line, or the one that stood there, was replaced"

    def _gap(self, where: str, number: int, entry: Entry, before: int) -> Iterator[str]:
        seq = entry["seq"]
        if seq == before:
            yield f"{where} is doubled: it has the number {seq}, as the line before"
        elif seq < before:
            yield f"{where} was moved: it has the number {seq} after {before}"
        elif seq > before + 1 and number == 1 and entry["kind"] == ROTATION:
            gone = older_path(self._path, seq - 1).name
            yield f"{gone} is missing: the entries {before + 1} to {seq - 1} are not there"
        elif seq > before + 1:
            gone = "1 entry is" if seq == before + 2 else f"{seq - before - 1} entries are"
            yield f"{gone} missing before {where}: it has the number {seq}, not {before + 1}"

    def end(self, volume: Volume) -> Iterator[str]:
        """What is wrong with the end of a file."""
        left, there = len(torn(volume.file)), next(lines(volume.file), None) is not None
        if volume.last is None:
            if self._begun and not there:
                yield f"{volume.name} holds no entry, although there are older files: it was removed or emptied"
            if left:
                yield f"the last line of {volume.name} is incomplete ({left} bytes): the next entry sets it aside"
            return
        if left:
            yield f"the last line of {volume.name} is incomplete ({left} bytes): it was cut"
        if not there:
            yield f"{volume.name} holds no entry: it was emptied"
        elif self._seq not in (None, volume.last):
            yield f"{volume.name} ends with the entry {self._seq}: by its name it ended with {volume.last}"
        if self._seq != volume.last:  # so that the next file is held against what should be there
            self._seq, self._prev = volume.last, None
        self._begun = True
