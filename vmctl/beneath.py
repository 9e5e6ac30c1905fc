"""What lies beneath a store's directory is reached by its own names: no symbolic link below that directory is followed.

Other users may write into a store: the voicemail application, people. A link that one of them puts in the place of a
file or a folder would have vmctl read, ship, overwrite or remove what it leads to. So whoever opens a store says so once
(`fence`), and every path beneath it is walked folder by folder (openat(2) with O_NOFOLLOW) and used in the folder that was
reached: what is exchanged for a link between a look and a write is found out, too. The directory itself, and what is above it,
belongs to whoever wrote vmctl.yaml: links there are followed.

A link in the way of a path is an OSError (ELOOP), never FileNotFoundError: it must not look like a deletion. A path
beneath no fence is used as it is. `vmctl.durable` writes through this room; nothing else in vmctl does.

A process that looks at thousands of files asks Linux to walk the whole way at once (openat2(2) with RESOLVE_NO_SYMLINKS,
since 5.6). What that refuses, and where it cannot be had, is walked step by step, which also finds out what is wrong.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator
    from pathlib import Path

_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WORDS: Final = "a symbolic link is in its way"
_HERE: Final = -1  # in the place of a descriptor: a path beneath no fence is used as it is
_OPENAT2, _AT_CWD, _NO_SYMLINKS = 437, -100, 4  # the first one has this number on every architecture
_FEW = 100  # paths: to load what calls openat2 takes as long as to walk some hundreds step by step
_MOST_KNOWN, _MOST_HELD = 4096, 8  # folders
_BLOCK = 1 << 24  # bytes
_BEGINNING = 1 << 16  # bytes; the rest the system reads ahead by itself, once this is read
_AT_ONCE = 128  # files
_ONE_MESSAGE = 2  # files: its document and its recording


class _Mine(threading.local):
    """What one thread holds open: folders, by path."""

    held: dict[str, int] | None = None


_mine = _Mine()
_roots: set[str] = set()
_known: dict[str, tuple[str, str] | None] = {}  # folders, each cut at the fence above it
_step = os.open  # into the next folder: tests exchange what is there before it is taken
_walks = 0
_at_once: Callable[[bytes], int] | None = None  # opens a folder; -1 where it cannot


def fence(root: Path) -> None:
    """From now on no path below `root` is reached through a symbolic link, for as long as this process lives."""
    _roots.add(os.fspath(root))
    _known.clear()


def open(path: Path | str, flags: int, mode: int = 0o600) -> int:  # noqa: A001 - as os.open
    """As `os.open`; never through a link, be it the last part of the path, and not kept over an exec. Raises OSError."""
    fd, name = reach(path)
    if fd == _HERE:
        return os.open(name, flags | os.O_CLOEXEC, mode)
    try:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=fd)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            _name_link(fd, name, path)
        raise
    finally:
        os.close(fd)


def file(path: Path) -> BinaryIO:
    """A plain file, open for reading. Raises OSError."""
    return os.fdopen(_plain(path)[0], "rb")


def read(path: Path | str, most: int | None = None) -> bytes:
    """The bytes of a plain file; once there are `most` of them, no more is read. Raises OSError."""
    pieces, size = [], 0
    for block in blocks(path, _BLOCK if most is None else most):
        pieces.append(block)
        size += len(block)
        if most is not None and size >= most:
            break
    return b"".join(pieces)


def in_turn(folder: Path | str, names: Iterable[str], known: Container[str] = ()) -> Iterator[str]:
    """The names of files in a folder, in order, to be read in that order, unless they are `known`.

    The disk is asked for some at once before the first of them is read: of a store that is not in memory it brings them
    sooner than each in its turn.
    """
    waiting = iter(sorted(names))
    while some := list(islice(waiting, _AT_ONCE)):
        new = [name for name in some if name not in known]
        if len(new) > _ONE_MESSAGE:
            for name in new:
                _expect(f"{folder}/{name}")
        yield from some


def _expect(path: str) -> None:
    """Ask the disk for the beginning of a file, and wait for nothing (posix_fadvise(2))."""
    with contextlib.suppress(OSError):  # who reads it will say what is wrong with it
        fd = open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.posix_fadvise(fd, 0, _BEGINNING, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)


def blocks(path: Path | str, most: int) -> Iterator[bytes]:
    """The bytes of a plain file, block after block, none larger than `most`. Raises OSError."""
    fd, size = _plain(path)
    left = size + 1  # it ends where a byte more than there are is asked for in vain
    try:
        while block := os.read(fd, min(left if left > 0 else _BLOCK, most)):
            yield block
            left -= len(block)
            if left == 1:
                return
    finally:
        os.close(fd)


def _plain(path: Path | str) -> tuple[int, int]:
    """A plain file, open for reading, and its size; a pipe does not make us wait for its writer. Raises OSError."""
    fd = open(path, os.O_RDONLY | os.O_NONBLOCK)
    there = os.fstat(fd)
    if not stat.S_ISREG(there.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
    return fd, there.st_size


def status(path: Path | str) -> os.stat_result:
    """As `os.lstat`: of a link, that of the link. Raises OSError."""
    fd, name = reach(path)
    if fd == _HERE:
        return os.lstat(name)
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def entries(folder: Path | str) -> list[tuple[str, os.stat_result]]:
    """The names in a folder, each with what lstat says of it. Raises OSError."""
    there: list[tuple[str, os.stat_result]] = []
    fd = open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as found:
            for each in found:
                with contextlib.suppress(FileNotFoundError):  # it went this very moment
                    there.append((each.name, each.stat(follow_symlinks=False)))
    finally:
        os.close(fd)
    return there


def listing(folder: Path | str) -> list[str]:
    """The names in a folder, in any order. Raises OSError."""
    fd = open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(fd)  # noqa: PTH208 - of a descriptor
    finally:
        os.close(fd)


def names(folder: Path) -> list[str]:
    """The names in a folder, in order; none where it is no folder that can be read."""
    try:
        return sorted(listing(folder))
    except OSError:
        return []


def is_file(path: Path | str) -> bool:
    """Whether a plain file is there, and no link in its way."""
    return _is(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether a folder is there, and no link in its way. Above a fence, and at it, a link to a folder is one."""
    if os.fspath(path) in _roots or _cut_folder(os.fspath(path)) is None:
        return os.path.isdir(path)  # noqa: PTH112 - of a store's directory, and above it
    return _is(path, stat.S_ISDIR)


def is_there(path: Path | str) -> bool:
    """Whether anything has this name, a link too; False where a link is in its way."""
    return _is(path, bool)


def rename(source: Path | str, target: Path | str) -> None:
    """As `os.rename`."""
    with Way(source) as old, Way(target) as new:
        os.rename(old.name, new.name, src_dir_fd=old.fd, dst_dir_fd=new.fd)


def link(source: Path | str, target: Path | str) -> None:
    """As `os.link`; of a link, the link itself gets a second name."""
    with Way(source) as old, Way(target) as new:
        os.link(old.name, new.name, src_dir_fd=old.fd, dst_dir_fd=new.fd, follow_symlinks=False)


def unlink(path: Path | str) -> None:
    """As `os.unlink`."""
    with Way(path) as way:
        os.unlink(way.name, dir_fd=way.fd)


def mkdir(path: Path, mode: int = 0o777) -> None:
    """As `os.mkdir`."""
    with Way(path) as way:
        os.mkdir(way.name, mode, dir_fd=way.fd)


def rmdir(path: Path) -> None:
    """As `os.rmdir`."""
    with Way(path) as way:
        os.rmdir(way.name, dir_fd=way.fd)


class holding:  # noqa: N801 - it is used as a function is
    """For a `with`: folders that this thread reaches stay open, so that the way to the next file is no way.

    For as long as this lasts a folder that was reached is used, be it moved elsewhere or not: so it is for a moment, and who has
    to know that a file lies at its path looks at that outside of it.
    """

    __slots__ = ("_outer",)

    def __enter__(self) -> None:
        self._outer, _mine.held = _mine.held, {}

    def __exit__(self, *exc: object) -> None:
        held, _mine.held = _mine.held, self._outer
        for fd in (held or {}).values():
            os.close(fd)


class Way:
    """The folder that holds a path, open in `fd` (None: the working directory), and its name there; for a `with`."""

    __slots__ = ("fd", "name")

    def __init__(self, path: Path | str) -> None:
        """Raises OSError."""
        fd, self.name = reach(path)
        self.fd = None if fd == _HERE else fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.fd is not None:
            os.close(self.fd)


def reach(path: Path | str) -> tuple[int, str]:
    """The folder that holds a path, as a descriptor that the caller closes, and its name there. Raises OSError.

    -1 and the path where it is beneath no fence.
    """
    text = os.fspath(path)
    folder, _, name = text.rpartition("/")
    cut = _known[folder] if folder in _known else _cut_folder(folder)
    if cut is None or (not cut[1] and name in {"", "."}):  # the store's directory itself is no part of what is fenced
        return _HERE, text
    if name in {"", ".", ".."}:
        raise OSError(errno.EINVAL, "it does not stay beneath its store", text)
    held = _mine.held
    if held is None:
        return _into(folder, cut, path), name
    if folder not in held:
        if len(held) >= _MOST_HELD:
            os.close(held.pop(next(iter(held))))
        held[folder] = _into(folder, cut, path)
    return os.dup(held[folder]), name


def _into(folder: str, cut: tuple[str, str], path: Path | str) -> int:
    """Open a folder beneath a fence. Raises OSError."""
    if _at_once is not None:
        fd = _at_once(os.fsencode(folder))
        if fd >= 0:
            return fd
    return _walk(cut[0], cut[1], path)


def _cut_folder(folder: str) -> tuple[str, str] | None:
    """The fence at or above a folder, and the way from there to it; None where there is none."""
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    end, found = len(folder), None
    while end > 0:
        if folder[:end] in _roots:
            inner = folder[end + 1 :]
            if inner and not {"", ".", ".."}.isdisjoint(inner.split("/")):
                raise OSError(errno.EINVAL, "it does not stay beneath its store", folder)
            found = folder[:end], inner
            break
        end = folder.rfind("/", 0, end)
    _known[folder] = found
    return found


def _walk(root: str, inner: str, path: Path | str) -> int:
    """Open a folder beneath a fence, step by step. Raises OSError."""
    global _walks  # noqa: PLW0603 - of this process, as its files are
    _walks += 1
    if _walks == _FEW:
        _walk_at_once()
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in inner.split("/") if inner else ():
            try:
                further = _step(part, os.O_PATH | _FOLDER, dir_fd=fd)
            except NotADirectoryError:
                _name_link(fd, part, path)
                raise
            os.close(fd)
            fd = further
    except BaseException:
        os.close(fd)
        raise
    return fd


def _walk_at_once() -> None:
    """Have Linux walk from now on, where it can."""
    global _at_once  # noqa: PLW0603
    import ctypes

    class How(ctypes.Structure):
        """What openat2 is to do: struct open_how."""

        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    call = getattr(ctypes.CDLL(None), "syscall", None)
    if call is None:
        return
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
    how = How(os.O_PATH | _FOLDER, 0, _NO_SYMLINKS)
    words, size = ctypes.byref(how), ctypes.sizeof(how)
    fd = call(_OPENAT2, _AT_CWD, b"/", words, size)
    if fd < 0:  # an older kernel, or one that is not let do it
        return
    os.close(fd)

    def at_once(folder: bytes) -> int:
        return int(call(_OPENAT2, _AT_CWD, folder, words, size))

    _at_once = at_once


def _name_link(fd: int, name: str, path: Path | str) -> None:
    """Raise OSError (ELOOP) if a link has this name: the system may have told of it as of a file, or of many links."""
    with contextlib.suppress(FileNotFoundError):  # it went this very moment
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, _WORDS, os.fspath(path))


def _is(path: Path | str, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(status(path).st_mode)
    except OSError:
        return False
