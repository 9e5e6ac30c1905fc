"""Many files take their places together: one wait for the disk for the bytes of all of them, and one for their names.

Each is written into a folder of vmctl's own, `.vmctl/placing`. Once the bytes of all are durable, each gets its name by a
rename: so nobody ever reads half of one, and a power cut at any moment leaves each whole or not there. Names are durable
when `close` returns. What has taken no place goes with `drop`, or, where that is not come to, with the next `recover`.

A few files are waited for one by one; many by their whole file system, where that tells of faults.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vmctl import beneath, durable, rights
from vmctl.errors import StoreError
from vmctl.rights import AS_BESIDE

if TYPE_CHECKING:
    from vmctl.rights import Rights

FOLDER = "placing"  # in the store's `.vmctl`
_FEW = 16  # files, or folders: more of them cost more than all of their file system


class Together:
    """The files of one store that are written now; for a `with`. Each method raises DiskFull or StoreUnusable.

    Paths are texts: they are put together for each file of thousands.
    """

    def __init__(self, state: Path) -> None:
        """`state` is the store's `.vmctl`."""
        self._state = state
        self._waiting = str(state / FOLDER)
        self._staged: set[str] = set()
        self._open: list[int] = []  # of the files staged since the last wait, while they are few
        self._fresh: list[str] = []  # the same
        self._folders: set[str] = set()  # in which names were given that are not durable yet
        self._left: set[str] = set()  # out of which names went
        self._known: dict[str, Rights] = {}
        self._disks: dict[int, tuple[int, Path | str]] = {}  # by device: open since before anything was written there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Let go of what is open."""
        for fd in (*self._open, *(fd for fd, _ in self._disks.values())):
            os.close(fd)
        self._open.clear()
        self._disks.clear()

    def write(self, path: str, data: bytes, *, instead: bool = False) -> str:
        """Write a file that is to be at `path`, in a folder that is made where it is missing; where it waits.

        It gets what the folder says, or, `instead` of what is there now, the mode and the group of that.
        """
        whose = self._rights(path.rpartition("/")[0])
        if instead:
            with durable.disk_faults(path):
                whose = rights.for_file(Path(path), AS_BESIDE)
        self._rights(self._waiting)
        few = len(self._fresh) < _FEW
        staged = durable.stage(self._waiting, data, whose, self._open if few else None)
        self._staged.add(staged)
        self._fresh.append(staged)
        return staged

    def bring(self, source: str, path: str) -> str:
        """Have a file that is durable already wait for its place at `path` where it lies."""
        whose = self._rights(path.rpartition("/")[0])
        with durable.disk_faults(path):
            rights.set_on(source, whose)
        return source

    def _rights(self, folder: str) -> Rights:
        """What a file in a folder is to get, which is made where it is missing."""
        return self._known.get(folder) or self._look_at(folder)

    def _look_at(self, folder: str) -> Rights:
        place = Path(folder)
        mode = 0o700 if place.is_relative_to(self._state) else AS_BESIDE
        durable.make_directory(place, mode=mode, needs=self._state, waits=self._folders)
        with durable.disk_faults(folder):
            fd = beneath.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            there = os.fstat(fd)
            if there.st_dev in self._disks:
                os.close(fd)
            else:
                self._disks[there.st_dev] = fd, folder
        whose = self._known[folder] = rights.in_folder(there)
        return whose

    def settle(self) -> None:
        """Wait until the bytes of all are durable."""
        if len(self._fresh) == len(self._open):
            for fd, path in zip(self._open, self._fresh, strict=True):
                durable.keep_open(fd, path)
        elif not durable.keep_disks(self._disks):
            for path in self._fresh:
                durable.keep_file(path)
        for fd in self._open:
            os.close(fd)
        self._open.clear()
        self._fresh.clear()

    def take_place(self, staged: str, path: str, *, edited: bool = False) -> bool:
        """Give a file its name, unless something has that already; tells whether it did. `edited`: as `durable.take_place`."""
        taken = durable.take_place(staged, path, edited=edited)
        if taken:
            self._named(staged, path)
        return taken

    def replace(self, source: str, path: str) -> None:
        """Give a file its name, in place of what has it: one that was staged, or that lies elsewhere in the store."""
        self._rights(path.rpartition("/")[0])
        durable.replace(source, path)
        self._named(source, path)

    def exchange(self, staged: str, path: str, aside: str) -> bool:
        """Give a file its name, and keep what has that at `aside`; as `durable.exchange`."""
        self._rights(aside.rpartition("/")[0])
        there = durable.exchange(staged, path, aside)
        self._named(staged, path)
        return there

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        durable.discard(path)
        self._left.add(path.rpartition("/")[0])

    def _named(self, source: str, path: str) -> None:
        self._staged.discard(source)
        self._folders.add(path.rpartition("/")[0])
        if (left := source.rpartition("/")[0]) != self._waiting:
            self._left.add(left)

    def close(self) -> None:
        """Wait until all names are durable; what was moved is so in its new place before it is gone from the old one."""
        if len(self._folders | self._left) <= _FEW or not durable.keep_disks(self._disks):
            for folder in (*sorted(self._folders, reverse=True), *sorted(self._left - self._folders, reverse=True)):
                durable.keep_names(folder)
        self._folders.clear()
        self._left.clear()

    def drop(self) -> None:
        """Remove what has taken no place, as far as that can be done."""
        for staged in self._staged:
            with contextlib.suppress(StoreError):  # the next `recover` does it
                durable.discard(staged)
        self._staged.clear()
