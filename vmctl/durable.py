"""The one place that makes files durable: temp beside the target, fsync, rename, fsync the directory.

Each function promises that after its return a power cut finds the new content, and that before it the old content is
whole: nobody ever reads half of either. Only what `vmctl.together` is made of (`stage`, `take_place`, `replace`, `exchange`, `discard`,
and `make_directory` with `waits`) leaves the waiting to that. Nothing else in vmctl changes a file. Every step goes through a module-level
name (`_open`, `_write`, `_truncate`, `_fsync`, `_rename`, `_rename_free`, `_swap`, `_link`, `_unlink`, `_mkdir`, `_rmdir`, `_sync`, `_syncfs`), so
that a test can make each of them fail, end the process at it, or lose what was not synced. Not promised: what a disk does that lies
about fsync.

A `mode` is what a new file gets, whatever the process's umask is: see `vmctl.rights`. Nothing is reached through a
symbolic link below a store's directory: see `vmctl.beneath`.

Faults of the disk come out as DiskFull (no room: try again) or StoreUnusable (everything else the system refuses).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmctl import beneath, rights
from vmctl.errors import DiskFull, RecordError, StoreBusy, StoreUnusable, SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from vmctl.rights import Rights

TEMP_PREFIX = ".vmctl-tmp-"
_MOUNTS = "/proc/self/mountinfo"  # proc(5)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CANNOT_LINK = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
_CANNOT_SWAP = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_CANNOT_RENAME_FREE = (*_CANNOT_SWAP, errno.EPERM)  # a container may not be let do it
_AT_CWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2  # of renameat2(2)

_CHUNK = 1 << 20
_MOST_SINGLY = 100  # files: more are made durable by their file systems
# Seconds between two tries to get a lock: who does much in many parts gives it free for some milliseconds between two.
_LONGEST_PAUSE = 0.002
_TOLD = 1024  # bytes that a lock holds
_ENDED_WELL = "nobody: the last one ended well"
_ENDED_ILL = "nobody: the last one ended with an error"

_open = beneath.open
_truncate = os.ftruncate
_fsync = os.fsync
_rename = beneath.rename
_link = beneath.link
_unlink = beneath.unlink
_mkdir = beneath.mkdir
_rmdir = beneath.rmdir
_sync = os.sync


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _syncfs(fd: int) -> None:
    import ctypes

    found = _of_libc("syncfs")
    if found is None or found(fd):
        number = errno.ENOSYS if found is None else ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _swap(one: Path | str, other: Path | str) -> None:
    """Two files get each other's names, at one moment. Raises one of `_CANNOT_SWAP` where that cannot be had."""
    _rename_how(one, other, _EXCHANGE)


def _rename_free(source: Path | str, target: Path | str) -> None:
    """As `_rename`; FileExistsError where anything has the name. Raises one of `_CANNOT_SWAP` where that cannot be had."""
    _rename_how(source, target, _NO_REPLACE)


def _rename_how(source: Path | str, target: Path | str, flag: int) -> None:
    import ctypes

    found = _of_libc("renameat2")
    if found is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with beneath.Way(source) as old, beneath.Way(target) as new:
        folders = [_AT_CWD if way.fd is None else way.fd for way in (old, new)]
        if found(folders[0], os.fsencode(old.name), folders[1], os.fsencode(new.name), flag):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@functools.cache
def _of_libc(name: str) -> Callable[..., int] | None:
    import ctypes  # most commands need none of it

    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


class disk_faults:  # noqa: N801 - it is used as a function is; a class, as it stands around each file of thousands
    """For a `with`: turn the operating system's refusals into ours, DiskFull or StoreUnusable, with the path."""

    __slots__ = ("_path",)

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in _FULL:
            raise DiskFull(f"no room on the disk for {self._path}", why=os.strerror(error.errno or 0)) from error
        raise StoreUnusable(f"cannot write {self._path}", why=error.strerror or str(error)) from error


def temp_beside(path: Path) -> Path:
    """A name for a new file in the same directory, which scans leave alone."""
    return path.with_name(_temp_name())


def _temp_name() -> str:
    return TEMP_PREFIX + os.urandom(8).hex()


def temporary(root: Path) -> Iterator[list[Path]]:
    """The files in each folder under `root` that have such a name: being written at this moment, or left by a killed process."""
    for folder, _, names in os.walk(root):  # follows no links, and who removes a file looks again
        yield [root / folder / name for name in names if name.startswith(TEMP_PREFIX)]


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path`, in place of what was there. The directory must exist."""
    with disk_faults(path):
        temp = _new_file(path, data, rights.for_file(path, mode))
        try:
            _rename(temp, path)
        except BaseException:
            _discard(temp)
            raise
        fsync_directory(path.parent)


def create(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Put `data` at `path` unless something is there already; tells whether it did."""
    with disk_faults(path):
        temp = _new_file(path, data, rights.for_file(path, mode))
        try:
            _link(temp, path)
        except FileExistsError:
            return False
        finally:
            _discard(temp)
        fsync_directory(path.parent)
        return True


def stage(folder: str, data: bytes, whose: Rights, kept: list[int] | None = None) -> str:
    """Put `data` into a new file in a folder, for which nobody has waited yet; its path, and `kept` gets its descriptor.

    See `vmctl.together`.
    """
    path = f"{folder}/{_temp_name()}"
    with disk_faults(path):
        _fill_new(path, data, whose, waits=False, kept=kept)
    return path


def take_place(staged: str, path: str, *, edited: bool = False) -> bool:
    """Give a file that is durable by now its name, unless something has that already; tells whether it did.

    The name is not durable yet. Where the file system cannot do that in one step, a file that people edit (`edited`) gets a
    second name and then loses the first one; any other is renamed after a look, as it must never have both.
    """
    with disk_faults(path):
        try:
            _rename_free(staged, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_RENAME_FREE:
                raise
            return _take_free_place(staged, path, edited=edited)
        return True


def _take_free_place(staged: str, path: str, *, edited: bool) -> bool:
    if edited:
        try:
            _link(staged, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            _unlink(staged)
            return True
    with contextlib.suppress(FileNotFoundError):
        beneath.status(path)
        return False
    _rename(staged, path)
    return True


def replace(source: str, path: str) -> None:
    """Give a file that is durable by now its name, in place of what has it; the name is not durable yet."""
    with disk_faults(path):
        _rename(source, path)


def exchange(staged: str, path: str, aside: str) -> bool:
    """Give a file that is durable by now its name, and keep what has that under `aside`; tells whether there was anything.

    The new file waits under `aside`, and the two change places at one moment: what lies there tells of a killed process
    whether it came so far. A person may save into the old file, or rename another over it, until that very moment:
    whoever looks at `aside` afterwards sees that too. No name is durable yet.
    """
    with disk_faults(path):
        _rename(staged, aside)
        return _change_places(aside, path)


def keep_open(fd: int, path: Path | str) -> None:
    """Make the bytes of an open file durable; `path` is for words."""
    with disk_faults(path):
        _fsync(fd)


def keep_file(path: Path | str) -> None:
    """Make the bytes of a file durable."""
    with disk_faults(path):
        _sync_one(path, os.O_RDONLY | os.O_NOFOLLOW)


def keep_names(folder: Path | str) -> None:
    """Make the names in a folder durable, if it is there still."""
    with disk_faults(folder), contextlib.suppress(FileNotFoundError):
        fsync_directory(folder)


def keep_disk(fd: int, path: Path | str) -> None:
    """Make all of a file system durable; `fd` was opened there before anything was written that counts.

    Of a fault in between only such a descriptor is sure to be told (syncfs(2)). `path` is for words.
    """
    with disk_faults(path):
        _syncfs(fd)


def keep_disks(disks: Mapping[int, tuple[int, Path | str]]) -> bool:
    """The same for each of some, by device; False, and nothing done, where that would not tell of faults."""
    if not all(map(can_keep_disk, disks)):
        return False
    for fd, path in disks.values():
        keep_disk(fd, path)
    return True


@functools.cache
def can_keep_disk(device: int) -> bool:
    """Whether one call makes all of a file system durable and tells of every fault: on Linux since 5.8, but not by FUSE."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is None or (int(release[1]), int(release[2])) < (5, 8) or _of_libc("syncfs") is None:
        return False
    number = f" {os.major(device)}:{os.minor(device)} "
    with contextlib.suppress(OSError, UnicodeDecodeError), open(_MOUNTS, encoding="utf-8") as mounts:  # noqa: PTH123 - no file of a store
        return not any(number in line and " - fuse" in line for line in mounts)
    return False


def move(source: Path, target: Path, *, mode: int | None = None) -> None:
    """Rename on one file system; both directories are durable afterwards. Without `mode` the file keeps what it has."""
    with disk_faults(target):
        if mode is not None:
            rights.set_on(source, rights.for_file(target, mode))
        _rename(source, target)
        fsync_directory(target.parent)
        if source.parent != target.parent:
            fsync_directory(source.parent)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, unless something has that already; the name is durable afterwards."""
    with disk_faults(target):
        with contextlib.suppress(FileExistsError):
            _link(source, target)
        fsync_directory(target.parent)


def copy(source: Path, target: Path, *, check: Callable[[Path], None] | None = None, mode: int = 0o600) -> None:
    """Put a copy of `source` at `target`, in place of what was there; `check` looks at the copy before that."""
    with disk_faults(target):
        temp = temp_beside(target)
        try:
            with beneath.file(source) as file:
                fd = _new(temp, rights.for_file(target, mode))
                try:
                    while data := file.read(_CHUNK):
                        _write(fd, data)
                    _fsync(fd)
                finally:
                    os.close(fd)
            if check is not None:
                check(temp)
            _rename(temp, target)
        except BaseException:
            _discard(temp)
            raise
        fsync_directory(target.parent)


def write_at(path: Path, offset: int, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` into `path` from `offset` on; the file is made if it is missing, and read by nobody before it is whole."""
    with disk_faults(path):
        fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode)
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            _write(fd, data)
            _fsync(fd)
        finally:
            os.close(fd)
        fsync_directory(path.parent)


def append(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Add `data` at the end of `path`, which is made if it is missing."""
    with disk_faults(path):
        made = not beneath.is_there(path)
        fd = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, mode)
        try:
            before = os.fstat(fd).st_size
            try:
                _write(fd, data)
                _fsync(fd)
            except BaseException:
                _truncate(fd, before)
                raise
        finally:
            os.close(fd)
        if made:
            fsync_directory(path.parent)


def keep_owner(path: Path, before: os.stat_result) -> None:
    """Give a file the owner and group of the one whose place it took, where this process may: root's command is not root's file."""
    with disk_faults(path), contextlib.suppress(PermissionError):
        now = path.lstat()
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)


def make_directory(path: Path, *, mode: int = 0o700, needs: Path | None = None, waits: set[str] | None = None) -> None:
    """Make `path` and what is missing above it; each new name is durable in its parent.

    AS_BESIDE lets the group do in a new folder what it may do in the one that holds it. Nothing is made where `needs`, a
    folder, is not there: a store that is unmounted this moment must not be made again in its place. With `waits` nobody
    waits for the disk: the parents are added to it.
    """
    with disk_faults(path):
        missing = []
        while not beneath.is_folder(path):
            missing.append(path)
            path = path.parent
        if missing and needs is not None and not beneath.is_folder(needs):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(needs))
        for folder in reversed(missing):
            try:
                _mkdir(folder, 0o700)
                if mode != 0o700:  # noqa: PLR2004 - as it was made
                    rights.set_on(folder, rights.for_folder(folder, mode))
            except FileExistsError:
                if not beneath.is_folder(folder):  # not another process that made it meanwhile: a file is in the way
                    raise
            if waits is None:
                fsync_directory(folder.parent)
            else:
                waits.add(str(folder.parent))


def remove(path: Path) -> bool:
    """Remove a file for good; tells whether it was there. One that somebody else removed is then gone for good, too."""
    with disk_faults(path):
        try:
            _unlink(path)
            there = True
        except FileNotFoundError:
            there = False
        folder = path.parent
        while not beneath.is_folder(folder):  # it went with its folder
            folder = folder.parent
        fsync_directory(folder)
        return there


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files for good, if they are there, with one fsync for each directory."""
    folders = set()
    for path in paths:
        with disk_faults(path):
            _discard(path)
        folders.add(path.parent)
    for folder in sorted(folders):
        with disk_faults(folder):
            fsync_directory(folder)


def discard(path: Path | str) -> None:
    """Remove a file that nobody needs, if it is there; a power cut may bring it back."""
    with disk_faults(path):
        _discard(path)


def keep_all() -> None:
    """Make everything durable that anybody has written: a process may have been killed before it waited for that."""
    _sync()


def keep(paths: Iterable[str], root: Path) -> None:
    """Make files durable that somebody else wrote, with their names and those of the folders that hold them.

    Paths are relative to `root`. One that is gone meanwhile is left out.
    """
    files = [root / name for name in paths]
    if len(files) > _MOST_SINGLY:
        _keep_disks({path.parent for path in files})
        return
    folders = {folder for path in files for folder in path.parents if folder.is_relative_to(root)}
    for path in [*files, *sorted(folders, reverse=True)]:
        try:
            fd = beneath.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # the next look at it will tell
        with disk_faults(path):
            try:
                _fsync(fd)
            finally:
                os.close(fd)


def _keep_disks(folders: Iterable[Path]) -> None:
    """Make all of the file systems durable in which folders are; all of the machine's, where that cannot be had."""
    disks: dict[int, tuple[int, Path | str]] = {}
    try:
        for folder in folders:
            with contextlib.suppress(OSError):  # it went with all that was in it
                fd = beneath.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                device = os.fstat(fd).st_dev
                if device in disks:
                    os.close(fd)
                else:
                    disks[device] = fd, folder
        if not keep_disks(disks):
            keep_all()
    finally:
        for fd, _ in disks.values():
            os.close(fd)


def remove_empty(folder: Path) -> bool:
    """Remove a folder if it is empty; tells whether it did. A power cut may bring it back."""
    try:
        _rmdir(folder)
    except OSError:
        return False
    return True


def fsync_directory(path: Path | str) -> None:
    """Make the names in a directory durable."""
    _sync_one(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync_one(path: Path | str, flags: int) -> None:
    fd = beneath.open(path, flags)
    try:
        _fsync(fd)
    finally:
        os.close(fd)


@dataclass(slots=True)
class Turn:
    """One holding of a lock: how the holder before ended, and whether this one does well.

    Of one that ended well nothing is left to be done. What one has written that was killed may be in the page cache only,
    wherever it is: nobody waited for it. One that met a fault of the disk and went on may have left such a file, too.
    """

    follows_well: bool
    follows_kill: bool
    ends_well: bool = True


@contextlib.contextmanager
def lock(path: Path, *, timeout: float, what: str, shared_text: str = "") -> Iterator[Turn]:
    """Hold `path` locked against other processes and threads. Raises StoreBusy after `timeout` seconds.

    `shared_text` is written into the file, so that a refused process can say who holds it. What is there when the lock
    is had tells how the last holder ended: killed, by an exception, or well. A power cut may hide that, and ends
    every process: so who opens something anew asks nothing of it.
    """
    fd = take_lock(path, timeout=timeout, what=what)
    try:
        before = _all_told(fd)
        turn = Turn(before == _ENDED_WELL, before not in {_ENDED_WELL, _ENDED_ILL})
        if not tell(fd, shared_text):
            with contextlib.suppress(OSError):
                _truncate(fd, 0)  # that takes no room: should this holder be killed, the next must not find a good end
        yield turn
        tell(fd, _ENDED_WELL if turn.ends_well else _ENDED_ILL)
    except (RecordError, SyncError):  # nothing of the disk
        tell(fd, _ENDED_ILL)
        raise
    finally:
        os.close(fd)


def take_lock(path: Path, *, timeout: float, what: str, shared_text: str = "") -> int:
    """Lock `path` until the returned file descriptor is closed or the process ends. Raises StoreBusy."""
    with disk_faults(path):
        fd = beneath.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + timeout
    pause = 0.001
    try:
        while not _try_lock(fd, path):
            if time.monotonic() >= deadline:
                raise StoreBusy(f"{what} is in use by {_told(fd).partition(chr(10))[0]}")  # noqa: TRY301 - the descriptor is closed below
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        if shared_text:
            tell(fd, shared_text)
    except BaseException:
        os.close(fd)
        raise
    return fd


def tell(fd: int, text: str) -> bool:
    """Put `text` into a lock that is held, in place of what was there; tells whether it could.

    It has always the same length, so that on most disks it needs no room: what a holder has to say may be just that
    there is none. Nobody waits for it to be durable, as it means nothing once the lock is free.
    """
    try:
        os.pwrite(fd, text.encode()[:_TOLD].ljust(_TOLD), 0)
    except OSError:  # who holds it is a courtesy: on a full disk the lock must still be had
        return False
    return True


def touch(fd: int) -> None:
    """Show by the time of a lock's file that its holder is at work."""
    with contextlib.suppress(OSError):  # a courtesy, too
        os.utime(fd)


def lock_holder(path: Path) -> str | None:
    """Who holds a lock: the first line of what the holder wrote into it, or None when nobody holds it."""
    told = lock_told(path)
    return None if told is None else told.partition("\n")[0]


def lock_told(path: Path) -> str | None:
    """All that the holder of a lock wrote into it, or None when nobody holds it."""
    fd = _opened(path)
    if fd is None:
        return None
    try:
        if _try_lock(fd, path):
            return None
        return _told(fd)
    finally:
        os.close(fd)


def _opened(path: Path) -> int | None:
    for mode in (os.O_RDWR, os.O_RDONLY):  # not every file system locks what is open for reading; a read-only one must
        with contextlib.suppress(OSError):
            return beneath.open(path, mode | os.O_NOFOLLOW)
    return None


def _told(fd: int) -> str:
    told = _all_told(fd)
    return "another process" if told in {"", _ENDED_WELL, _ENDED_ILL} else told


def _all_told(fd: int) -> str:
    return os.pread(fd, _TOLD, 0).decode("utf-8", "replace").strip("\0 \n")


def _try_lock(fd: int, path: Path) -> bool:
    with disk_faults(path):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _new(path: Path | str, whose: Rights) -> int:
    """Make a file, which nobody else may open before it has its rights; open for writing."""
    fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        rights.give(fd, whose)
    except BaseException:
        os.close(fd)
        _discard(path)
        raise
    return fd


def _new_file(path: Path, data: bytes, whose: Rights) -> Path:
    temp = temp_beside(path)
    _fill_new(temp, data, whose)
    return temp


def _fill_new(
    path: Path | str, data: bytes, whose: Rights, *, waits: bool = True, kept: list[int] | None = None
) -> None:  # fmt: skip
    fd = _new(path, whose)
    try:
        try:
            _write(fd, data)
            if waits:
                _fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        if kept is None:
            os.close(fd)
        else:
            kept.append(fd)
    except BaseException:
        _discard(path)
        raise


def _discard(path: Path | str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _unlink(path)


def _change_places(aside: str, path: str) -> bool:
    while True:
        try:
            _swap(aside, path)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # else somebody put a file there this very moment
                _link(aside, path)
                _unlink(aside)
                return False
        except OSError as error:
            if error.errno not in _CANNOT_SWAP:
                raise
            return _replace_slowly(aside, path)
        else:
            return True


def _replace_slowly(aside: str, path: str) -> bool:
    """The same in steps, where the file system knows no better: who renames a file over `path` in between is not seen."""
    temp = f"{path.rpartition('/')[0]}/{_temp_name()}"
    _rename(aside, temp)
    try:
        with contextlib.suppress(FileNotFoundError):
            _link(path, aside)
        _rename(temp, path)
    except BaseException:
        _discard(temp)
        raise
    return beneath.is_there(aside)
