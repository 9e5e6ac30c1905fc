"""What lies beneath a store's directory is reached by its own names: no symbolic link below that directory is followed.

Other users may write into a store: the voicemail application, people. A link that one of them puts in the place of a
file or a folder would have vmctl read, ship, overwrite or remove what it leads to. So whoever opens a store says so once
(`fence`), and every path beneath it is walked folder by folder (openat(2) with O_NOFOLLOW) and used in the folder that was
reached: what is exchanged for a link between a look and a write is found out, too. The directory itself, and what is above it,
belongs to whoever wrote vmctl.yaml: links there are followed.

A link in the way of a path is an OSError (ELOOP), never FileNotFoundError: it must not look like a deletion. A path
beneath no fence is used as it is. `vmctl.durable` writes through this room; nothing else in vmctl does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WORDS: Final = "a symbolic link is in its way"

_roots: set[str] = set()
_step = os.open  # into the next folder: tests exchange what is there before it is taken


def fence(root: Path) -> None:
    """From now on no path below `root` is reached through a symbolic link, for as long as this process lives."""
    _roots.add(os.fspath(root))


def open(path: Path | str, flags: int, mode: int = 0o600) -> int:  # noqa: A001 - as os.open
    """As `os.open`; never through a link, be it the last part of the path, and not kept over an exec. Raises OSError."""
    with holding(path) as (fd, name):
        try:
            return os.open(name, flags | os.O_CLOEXEC | (0 if fd is None else os.O_NOFOLLOW), mode, dir_fd=fd)
        except OSError as error:
            if fd is not None and error.errno in {errno.ELOOP, errno.ENOTDIR}:
                _name_link(fd, name, path)
            raise


def file(path: Path) -> BinaryIO:
    """A plain file, open for reading; a pipe does not make us wait for its writer. Raises OSError."""
    fd = open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
    return os.fdopen(fd, "rb")


def read(path: Path) -> bytes:
    """The bytes of a plain file. Raises OSError."""
    with file(path) as opened:
        return opened.read()


def status(path: Path | str) -> os.stat_result:
    """As `os.lstat`: of a link, that of the link. Raises OSError."""
    with holding(path) as (fd, name):
        return os.stat(name, dir_fd=fd, follow_symlinks=False)


def entries(folder: Path | str) -> list[tuple[str, os.stat_result]]:
    """The names in a folder, each with what lstat says of it. Raises OSError."""
    fd = open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as found:
            return [(each.name, each.stat(follow_symlinks=False)) for each in found]
    finally:
        os.close(fd)


def names(folder: Path) -> list[str]:
    """The names in a folder, in order; none where it is no folder that can be read."""
    try:
        fd = open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))  # noqa: PTH208 - of a descriptor
    finally:
        os.close(fd)


def is_file(path: Path) -> bool:
    """Whether a plain file is there, and no link in its way."""
    return _is(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether a folder is there, and no link in its way. Above a fence, and at it, a link to a folder is one."""
    return os.path.isdir(path) if _cut(path) is None else _is(path, stat.S_ISDIR)  # noqa: PTH112


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link too; False where a link is in its way."""
    return _is(path, bool)


def rename(source: Path, target: Path) -> None:
    """As `os.rename`."""
    with holding(source) as (here, old), holding(target) as (there, new):
        os.rename(old, new, src_dir_fd=here, dst_dir_fd=there)


def link(source: Path, target: Path) -> None:
    """As `os.link`; of a link, the link itself gets a second name."""
    with holding(source) as (here, old), holding(target) as (there, new):
        os.link(old, new, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def unlink(path: Path) -> None:
    """As `os.unlink`."""
    with holding(path) as (fd, name):
        os.unlink(name, dir_fd=fd)


def mkdir(path: Path, mode: int = 0o777) -> None:
    """As `os.mkdir`."""
    with holding(path) as (fd, name):
        os.mkdir(name, mode, dir_fd=fd)


def rmdir(path: Path) -> None:
    """As `os.rmdir`."""
    with holding(path) as (fd, name):
        os.rmdir(name, dir_fd=fd)


@contextlib.contextmanager
def holding(path: Path | str) -> Iterator[tuple[int | None, str]]:
    """The folder that holds `path`, as a descriptor (None: the working directory), and its name there. Raises OSError."""
    cut = _cut(path)
    if cut is None:
        yield None, os.fspath(path)
        return
    root, parts = cut
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            try:
                inner = _step(part, os.O_PATH | _FOLDER, dir_fd=fd)
            except NotADirectoryError:
                _name_link(fd, part, path)
                raise
            os.close(fd)
            fd = inner
        yield fd, parts[-1]
    finally:
        os.close(fd)


def _cut(path: Path | str) -> tuple[str, list[str]] | None:
    """A path beneath a fence, cut there; None for any other. Raises OSError for one that climbs up again."""
    text = os.fspath(path)
    end = len(text)
    while (end := text.rfind("/", 0, end)) > 0:
        if text[:end] in _roots:
            parts = text[end + 1 :].split("/")
            if parts in ([""], ["."]):
                return None  # the store's directory itself
            if not {"", ".", ".."}.isdisjoint(parts):
                raise OSError(errno.EINVAL, "it does not stay beneath its store", text)
            return text[:end], parts
    return None


def _name_link(fd: int, name: str, path: Path | str) -> None:
    """Raise OSError (ELOOP) if a link has this name: the system may have told of it as of a file, or of many links."""
    with contextlib.suppress(FileNotFoundError):  # it went this very moment
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, _WORDS, os.fspath(path))


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(status(path).st_mode)
    except OSError:
        return False
