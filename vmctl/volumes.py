"""The files of a journal: the one that grows, and the older ones, each named for the number of its last entry.

`journal.jsonl` is always the one that grows. `journal-000001234.jsonl` ends with entry 1234 and is not written to any
more; the file after it goes on with entry 1235. A file gets its second name before another one takes its first, so
both may be names of one file while a new one is begun, or after a crash in that moment: then the older does not count.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from vmctl import beneath
from vmctl.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST: Final = 1 << 20  # bytes; a longer line was not written by vmctl
_BLOCK: Final = 1 << 14


def older_path(path: Path, last: int) -> Path:
    """What the file that grows at `path` is called once it ends for good, with the entry `last`."""
    return path.with_name(f"{path.stem}-{last:09d}{path.suffix}")


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same, be they one or not. Raises StoreUnusable."""
    with _opened(one) as first, _opened(other) as second:
        return first.read() == second.read()


class Volume(NamedTuple):
    """One file, open for reading; `last` is the number of its last entry by its name, None for the one that grows."""

    name: str
    last: int | None
    file: BinaryIO


class Volumes:
    """The files of the journal that grows at `path`, as they are when they are asked for. Raises StoreUnusable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def growing(self) -> Iterator[BinaryIO]:
        """The file that grows; an empty one where it is not there."""
        with _opened(self._path) as file:
            yield file

    def older(self) -> list[tuple[int, Path]]:
        """The older files with the numbers of their last entries, in order."""
        with self.growing() as file:
            return self._older(file)

    def forward(self) -> Iterator[Volume]:
        """Each file in order; it is open until the next one is asked for."""
        with self.growing() as file:
            for last, path in self._older(file):
                with _opened(path) as old:
                    yield Volume(path.name, last, old)
            yield Volume(self._path.name, None, file)

    def backward(self) -> Iterator[Volume]:
        """Each file from the one that grows to the oldest; an older one is opened when it is asked for."""
        with self.growing() as file:
            yield Volume(self._path.name, None, file)
            for last, path in reversed(self._older(file)):
                with _opened(path) as old:
                    yield Volume(path.name, last, old)

    def _older(self, growing: BinaryIO) -> list[tuple[int, Path]]:
        """Those that were there when `growing` was opened: it may have become one of them meanwhile."""
        name = re.compile(rf"{re.escape(self._path.stem)}-(\d{{9,15}}){re.escape(self._path.suffix)}")
        try:
            names = [name for name, _ in beneath.entries(self._path.parent)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._path.parent, error) from error
        found = sorted((int(match[1]), self._path.with_name(match[0])) for match in map(name.fullmatch, names) if match)
        twin = next((number for number, path in found if _is(path, growing)), None)
        return [one for one in found if twin is None or one[0] < twin]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file: BinaryIO = beneath.file(path)
    except FileNotFoundError:
        file = io.BytesIO()
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield file


def _unreadable(path: Path, error: OSError) -> StoreUnusable:
    return StoreUnusable(f"cannot read {path}", why=error.strerror or str(error))


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(beneath.status(path), os.fstat(file.fileno()))
    except OSError:  # it is gone, or nothing is open
        return False


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
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


def lines_back(file: BinaryIO) -> Iterator[bytes]:
    """The complete lines without their ends, from the last to the first. A line that is too long comes cut off."""
    position = file.seek(0, os.SEEK_END)
    tail, complete = b"", False  # what stands after the last line end seen; whether it ends with one
    while position:
        position, block = _block_before(file, position)
        *ended, tail_end = (block + tail).split(b"\n")[::-1]
        for line in ended:
            if complete:
                yield line[-LONGEST:]
            complete = True
        tail = tail_end[-LONGEST:]
    if complete:
        yield tail


def torn(file: BinaryIO) -> bytes:
    """What stands after the last line end: a line that a crash left incomplete."""
    position = file.seek(0, os.SEEK_END)
    found = -1
    while position and found < 0:
        position, block = _block_before(file, position)
        found = block.rfind(b"\n")
    file.seek(position + found + 1)
    return file.read()


def _block_before(file: BinaryIO, position: int) -> tuple[int, bytes]:
    start = max(0, position - _BLOCK)
    file.seek(start)
    return start, file.read(position - start)
