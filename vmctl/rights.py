"""What the files of a store let others do: nothing, unless an operator lets a group into the store.

An application that plays what vmctl wrote often runs as another user. Whoever gives a folder of the store to a group
(`chgrp`, `chmod g+rwxs`) says so once: new files and folders let the group do what their folder does, and what takes the
place of a file has the mode and the group of that. What others than the group may do in a folder is no wish for a
recording: they get nothing that they did not have. docs/store.md is what users are told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from vmctl import beneath

if TYPE_CHECKING:
    from pathlib import Path

AS_BESIDE: Final = -1  # in the place of a mode: as what is replaced, or as the folder says
_ALL, _GROUP = 0o777, 0o070
# By whom a group is refused: the system, a user namespace that does not know it, a file system without groups.
_REFUSED = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP)


class Rights(NamedTuple):
    """The mode of a file, and the group that it is for; None: that of whoever makes it."""

    mode: int
    group: int | None = None


def for_file(path: Path, mode: int) -> Rights:
    """What the file at `path` is to get. Raises OSError."""
    if mode != AS_BESIDE:
        return Rights(mode)
    with contextlib.suppress(FileNotFoundError):
        there = beneath.status(path)
        if stat.S_ISREG(there.st_mode):
            return Rights(there.st_mode & _ALL, there.st_gid)
    return in_folder(_folder(path.parent))


def in_folder(there: os.stat_result) -> Rights:
    """What a new file in a folder is to get, AS_BESIDE."""
    return Rights(0o600 | there.st_mode & _GROUP & ~stat.S_IXGRP, there.st_gid)


def for_folder(path: Path, mode: int) -> Rights:
    """What the folder at `path` is to get. Raises OSError."""
    if mode != AS_BESIDE:
        return Rights(mode)
    above = _folder(path.parent)
    return Rights(0o700 | above.st_mode & _GROUP, above.st_gid)


def give(fd: int, rights: Rights) -> None:
    """Set the rights of an open file or folder, whatever the umask was. Raises OSError.

    A group that cannot be had is not replaced by another one: then none gets anything.
    """
    mode, has = rights.mode, os.fstat(fd)
    if rights.group not in {None, has.st_gid}:
        try:
            os.fchown(fd, -1, rights.group)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            mode &= ~_GROUP
    if has.st_mode & _ALL != mode:
        keeps = stat.S_ISGID if stat.S_ISDIR(has.st_mode) else 0  # what is made in it goes on having its group
        os.fchmod(fd, mode | has.st_mode & keeps)


def set_on(path: Path | str, rights: Rights) -> None:
    """Set the rights of a file or folder that is there; one that is somebody else's keeps them. Raises OSError."""
    fd = beneath.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        with contextlib.suppress(PermissionError):
            give(fd, rights)
    finally:
        os.close(fd)


def _folder(path: Path) -> os.stat_result:
    fd = beneath.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
