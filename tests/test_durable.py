"""Durable writes: each step is made to fail in turn, and nobody ever finds half of anything."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmctl import beneath, durable
from vmctl.errors import DiskFull, NotFound, StoreBusy, StoreUnusable
from vmctl.rights import Rights

OLD, NEW = b"the old content\n", b"what is to be there now\n"
FAULTS = [
    pytest.param(errno.ENOSPC, DiskFull, id="ENOSPC"),
    pytest.param(errno.EDQUOT, DiskFull, id="EDQUOT"),
    pytest.param(errno.EIO, StoreUnusable, id="EIO"),
]
HELD = """
import sys
from pathlib import Path
from vmctl import durable
with durable.lock(Path(sys.argv[1]), timeout=0, what="it", shared_text="serve, process 7"):
    print("held", flush=True)
    sys.stdin.read()
"""


def fail(monkeypatch, step, error, *, at=1):
    """Make the `at`-th call of a step fail; a write that fails has written half."""
    whole = getattr(durable, step)
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) != at:
            return whole(*arguments)
        if step == "_write":
            fd, data = arguments
            os.write(fd, data[: len(data) // 2])
        raise error

    monkeypatch.setattr(durable, step, failing)
    return calls


def names(folder):
    """What lies in a directory."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path):
    """A file with the old content."""
    path = tmp_path / "target"
    path.write_bytes(OLD)
    return path


def exchange(path, data):
    """`exchange` of a file that is staged in the same directory, with its aside there, too."""
    staged = path.with_name("staged")
    staged.write_bytes(data)
    return durable.exchange(str(staged), str(path), str(path.with_name("aside")))


# Each step fails


@pytest.mark.parametrize(("number", "ours"), FAULTS)
@pytest.mark.parametrize("there", [True, False], ids=["over an old file", "where nothing was"])
@pytest.mark.parametrize(
    ("function", "step"),
    [
        (durable.write, "_write"), (durable.write, "_fsync"), (durable.write, "_rename"),
        (exchange, "_rename"), (exchange, "_swap"),
        (durable.create, "_write"), (durable.create, "_fsync"), (durable.create, "_link"),
    ],
)  # fmt: skip
def test_a_fault_before_the_end_leaves_the_target_as_it_was(tmp_path, monkeypatch, function, step, there, number, ours):
    """The old content is whole or still nothing is there, no temp is left, and the error has the right class."""
    target = tmp_path / "target"
    if there:
        target.write_bytes(OLD)
    calls = fail(monkeypatch, step, OSError(number, os.strerror(number)))
    with pytest.raises(ours) as caught:
        function(target, NEW)
    assert len(calls) == 1
    assert str(target) in caught.value.what
    assert caught.value.why == os.strerror(number)
    assert caught.value.retry
    # one that was staged goes later, and one aside tells that nothing was replaced
    kept = {"staged" if step == "_rename" else "aside": NEW} if function is exchange else {}
    assert kept | ({"target": OLD} if there else {}) == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("function", [durable.write, durable.create])
def test_a_directory_that_cannot_be_synced_is_an_error_over_a_whole_file(tmp_path, monkeypatch, function):
    """The last step fails: the new content may be lost by a power cut, so nobody is told that it is durable."""
    fail(monkeypatch, "_fsync", OSError(errno.EIO, "I/O error"), at=2)
    with pytest.raises(StoreUnusable):
        function(tmp_path / "target", NEW)
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_bytes() == NEW


@pytest.mark.parametrize("function", [durable.write, durable.create])
@pytest.mark.parametrize("step", ["_write", "_fsync"])
def test_an_interrupted_write_leaves_nothing(target, monkeypatch, function, step):
    """Ctrl-C in the middle is a fault like any other."""
    fail(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        function(target, NEW)
    assert names(target.parent) == ["target"]
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "interrupted"])
@pytest.mark.parametrize("step", ["_write", "_fsync"])
def test_an_append_that_fails_leaves_whole_lines(target, monkeypatch, step, error):
    """Half a line is taken back, so that the next append begins a line of its own."""
    with monkeypatch.context() as patch:
        fail(patch, step, error)
        with pytest.raises((DiskFull, KeyboardInterrupt)):
            durable.append(target, NEW)
    assert target.read_bytes() == OLD
    durable.append(target, NEW)
    assert target.read_bytes() == OLD + NEW


def test_a_second_name_is_given_only_where_it_is_free(target, tmp_path):
    """What has the name already stays; both names are those of one file."""
    other = tmp_path / "other"
    durable.link(target, other)
    assert target.samefile(other)
    target.unlink()
    target.write_bytes(NEW)
    durable.link(target, other)
    assert OLD == other.read_bytes()


@pytest.mark.parametrize("step", ["_rename", "_fsync"])
def test_a_move_that_fails_loses_nothing(target, tmp_path, monkeypatch, step):
    """The file is at the one place or at the other, whole."""
    fail(monkeypatch, step, OSError(errno.EIO, "I/O error"))
    with pytest.raises(StoreUnusable):
        durable.move(target, tmp_path / "moved")
    assert names(tmp_path) == (["target"] if step == "_rename" else ["moved"])
    assert (tmp_path / names(tmp_path)[0]).read_bytes() == OLD


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """A system that takes a few bytes at a time still gets all of them."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, bytes(data[:3])))
    durable.write(tmp_path / "target", NEW)
    assert (tmp_path / "target").read_bytes() == NEW


# The order of steps


@pytest.mark.parametrize(
    ("act", "steps"),
    [
        (lambda path: durable.write(path, NEW), ["write", "fsync file", "rename", "fsync directory"]),
        (lambda path: durable.create(path, NEW), ["write", "fsync file", "link", "fsync directory"]),
        (lambda path: durable.append(path, NEW), ["write", "fsync file", "fsync directory"]),
    ],
    ids=["write", "create", "append"],
)
def test_what_is_named_is_synced_before(tmp_path, monkeypatch, act, steps):
    """The bytes are on the disk before the name, and the name before the function returns."""
    seen = []

    def watched(step):
        whole = getattr(durable, f"_{step}")

        def call(*arguments):
            if step == "fsync":
                seen.append("fsync " + ("directory" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "file"))
            else:
                seen.append(step)
            return whole(*arguments)

        monkeypatch.setattr(durable, f"_{step}", call)

    for step in ("write", "fsync", "rename", "swap", "link"):
        watched(step)
    act(tmp_path / "target")
    assert steps == seen


# What each function does


def test_write_replaces_and_keeps_to_itself(target):
    """The new content is there, readable by its owner only, and a link elsewhere still shows the old one."""
    target.with_name("other").hardlink_to(target)
    durable.write(target, NEW)
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.with_name("other").read_bytes() == OLD


def test_nothing_is_written_through_a_symbolic_link(target):
    """A link planted in the store leads no write and no lock out of it."""
    for act in (durable.append, lambda path, _: durable.take_lock(path, timeout=0, what="it")):
        link = target.with_name("link")
        link.symlink_to(target)
        with pytest.raises(StoreUnusable):
            act(link, NEW)
        link.unlink()
    link.symlink_to(target)
    durable.write(link, NEW)
    assert target.read_bytes() == OLD
    assert not link.is_symlink()


def test_create_leaves_what_is_there(target, tmp_path):
    """The first one wins; the second is told so."""
    assert durable.create(target, NEW) is False
    assert target.read_bytes() == OLD
    assert durable.create(tmp_path / "other", NEW) is True
    assert (tmp_path / "other").read_bytes() == NEW
    assert names(tmp_path) == ["other", "target"]


@pytest.fixture(params=[None, errno.ENOSYS, errno.EINVAL], ids=["at one moment", "old system", "in steps"])
def swap(request, monkeypatch):
    """A system that can exchange two names, and others that cannot."""
    if request.param is not None:
        fail(monkeypatch, "_swap", OSError(request.param, "it cannot"))


@pytest.mark.usefixtures("swap")
def test_exchange_keeps_the_very_file_that_was_there(target):
    """What is kept aside is the file itself, so that a save into it until the last moment shows."""
    with target.open("ab") as editor:
        assert exchange(target, NEW) is True
        editor.write(b"saved late\n")
    assert target.with_name("aside").read_bytes() == OLD + b"saved late\n"
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["aside", "target"]


@pytest.mark.usefixtures("swap")
def test_exchange_tells_that_nothing_was_there(tmp_path):
    """Where nothing was, nothing is kept."""
    assert exchange(tmp_path / "target", NEW) is False
    assert names(tmp_path) == ["target"]


def test_exchange_overwrites_nothing_that_came_this_very_moment(tmp_path, monkeypatch):
    """Nothing is there at the first look, then somebody puts a file there: that is kept aside."""
    target, link = tmp_path / "target", durable._link

    def late(source, place):
        monkeypatch.undo()
        target.write_bytes(OLD)
        link(source, place)

    monkeypatch.setattr(durable, "_link", late)
    assert exchange(target, NEW) is True
    assert [OLD, NEW] == [(tmp_path / name).read_bytes() for name in names(tmp_path)]


def test_a_system_that_cannot_exchange_names_says_so(target, monkeypatch):
    """A C library without the call is one that cannot."""
    monkeypatch.setattr(durable, "_of_libc", lambda _name: None)
    with pytest.raises(OSError, match="not implemented"):
        durable._swap(target, target)
    assert exchange(target, NEW) is True
    assert names(target.parent) == ["aside", "target"]


def test_exchange_replaces_nothing_that_it_cannot_keep(target):
    """The place for the old file is missing: the old file stays where it is."""
    staged = target.with_name("staged")
    staged.write_bytes(NEW)
    with pytest.raises(StoreUnusable):
        durable.exchange(str(staged), str(target), str(target.parent / "missing" / "aside"))
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["staged", "target"]


def test_move_goes_from_directory_to_directory(target, tmp_path):
    """The file is at its new place only."""
    durable.make_directory(tmp_path / "a" / "b")
    durable.move(target, tmp_path / "a" / "b" / "target")
    assert not target.exists()
    assert (tmp_path / "a" / "b" / "target").read_bytes() == OLD


def test_append_makes_the_file(tmp_path):
    """The first line makes the file, for its owner only."""
    durable.append(tmp_path / "log", b"one\n")
    durable.append(tmp_path / "log", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_directories_are_made_for_their_owner(tmp_path):
    """Each missing one is made, and again is no fault."""
    for _ in range(2):
        durable.make_directory(tmp_path / "a" / "b" / "c")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_nothing_is_made_in_place_of_a_store_that_is_gone(tmp_path):
    """A directory that has to be there already is not made again: what is mounted there later would hide it."""
    with pytest.raises(StoreUnusable):
        durable.make_directory(tmp_path / "store" / ".vmctl" / "spool", needs=tmp_path / "store" / ".vmctl")
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()  # an empty mount point
    with pytest.raises(StoreUnusable):
        durable.make_directory(tmp_path / "store" / "callflows", needs=tmp_path / "store" / ".vmctl")
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "store" / ".vmctl").mkdir()
    durable.make_directory(tmp_path / "store" / ".vmctl" / "spool", needs=tmp_path / "store" / ".vmctl")
    assert (tmp_path / "store" / ".vmctl" / "spool").is_dir()


@pytest.mark.parametrize("path", ["target", "target/inner"])
def test_a_file_in_the_way_of_a_directory_is_named(target, path):
    """Nobody is told that a directory is there when it is a file."""
    with pytest.raises(StoreUnusable):
        durable.make_directory(target.parent / path)
    assert target.read_bytes() == OLD


def test_remove_tells_whether_it_was_there(target):
    """Gone is gone, and again is no fault."""
    assert durable.remove(target) is True
    assert durable.remove(target) is False


def test_a_temp_lies_beside_its_target(tmp_path):
    """Same directory, a name that scans know, never the same twice."""
    temps = {durable.temp_beside(tmp_path / "target") for _ in range(20)}
    assert len(temps) == 20
    assert all(temp.parent == tmp_path and temp.name.startswith(durable.TEMP_PREFIX) for temp in temps)


def test_a_missing_directory_is_a_fault_of_the_store(tmp_path):
    """The system's refusal comes out as ours, with the path."""
    for act in (durable.write, durable.create, durable.append):
        with pytest.raises(StoreUnusable, match="missing/target"):
            act(tmp_path / "missing" / "target", NEW)


# Locks


def test_a_lock_excludes_another_process_and_ends_with_it(tmp_path):
    """While the other holds it nobody else gets it, and everybody can ask who has it; killed, it holds no more, and the next learns that."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HELD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert durable.lock_holder(path) == "serve, process 7"
        with pytest.raises(StoreBusy, match="the store is in use by serve, process 7") as caught:
            durable.take_lock(path, timeout=0, what="the store")
        assert caught.value.retry
        other.kill()
    assert durable.lock_holder(path) is None
    for follows_well in (False, True):
        with durable.lock(path, timeout=0, what="the store") as turn:
            assert follows_well == turn.follows_well


def test_a_lock_waits_for_its_turn(tmp_path):
    """Who comes second gets it when the first lets go, within the timeout."""
    path = tmp_path / "lock"
    fd = durable.take_lock(path, timeout=0, what="it")
    got = []
    second = threading.Thread(target=lambda: got.append(durable.take_lock(path, timeout=30, what="it")))
    second.start()
    os.close(fd)
    second.join(timeout=30)
    assert len(got) == 1
    os.close(got[0])


def test_nobody_holds_a_lock_that_is_free_or_not_there(tmp_path):
    """Asking makes no file, and what a former holder wrote does not count."""
    assert durable.lock_holder(tmp_path / "lock") is None
    assert names(tmp_path) == []
    with durable.lock(tmp_path / "lock", timeout=0, what="it", shared_text="serve, process 7"):
        assert durable.lock_holder(tmp_path / "lock") == "serve, process 7"
    assert durable.lock_holder(tmp_path / "lock") is None


def test_a_lock_is_had_on_a_full_disk(tmp_path, monkeypatch):
    """Somebody has to be able to delete something: who holds the lock is then not said."""

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with durable.lock(tmp_path / "lock", timeout=0, what="it", shared_text="serve"):
        assert durable.lock_holder(tmp_path / "lock") == "another process"


def test_a_lock_that_the_system_refuses_is_a_fault_of_the_store(tmp_path, monkeypatch):
    """A file system without locks is named, and the descriptor is closed."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(durable.fcntl, "flock", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StoreUnusable):
        durable.take_lock(tmp_path / "lock", timeout=0, what="it")
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_what_an_application_made_with_its_folders_is_durable(tmp_path, monkeypatch):
    """A file that somebody else put there is synced, and every folder up to the root: their names may be new, too."""
    file = tmp_path / "root/mailboxes/2001/messages/one.wav"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"RIFF")
    synced = []
    monkeypatch.setattr(durable, "_fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    durable.keep([str(file.relative_to(tmp_path / "root"))], tmp_path / "root")
    folders = ["root/mailboxes/2001/messages", "root/mailboxes/2001", "root/mailboxes", "root"]
    assert [str(file), *(str(tmp_path / folder) for folder in folders)] == synced


def test_a_lock_after_a_refusal_is_no_lock_after_a_kill(tmp_path):
    """A command that is refused leaves nothing in the air; what is raised by a fault of the disk may."""
    path = tmp_path / "lock"
    for error, killed in ((NotFound("no"), False), (StoreUnusable("broken"), True), (SystemExit(), True)):
        with pytest.raises(type(error)), durable.lock(path, timeout=1, what="it", shared_text="me"):
            raise error
        with durable.lock(path, timeout=1, what="it", shared_text="me") as turn:
            assert (False, killed) == (turn.follows_well, turn.follows_kill)


@pytest.mark.parametrize("knows", [True, False])
def test_a_new_file_takes_no_name_that_is_taken(target, monkeypatch, knows):
    """Neither where the file system renames only onto a free name, nor where it does not know how."""
    if not knows:
        monkeypatch.setattr(durable, "_rename_free", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "no")))
    folder, before = str(target.parent), target.read_bytes()
    staged = durable.stage(folder, b"new", Rights(0o600))
    assert not durable.take_place(staged, str(target))
    assert (before, b"new") == (target.read_bytes(), Path(staged).read_bytes())
    free = target.with_name("free")
    assert durable.take_place(staged, str(free))
    assert b"new" == free.read_bytes()
    assert not Path(staged).exists()


def test_a_name_that_is_taken_in_the_very_moment_is_not_replaced(target):
    """The look and the rename are one step."""
    staged = durable.stage(str(target.parent), b"new", Rights(0o600))
    other = target.with_name("other")
    other.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        durable._rename_free(staged, str(other))
    assert not durable.take_place(staged, str(other))
    assert other.is_symlink()


@pytest.mark.parametrize("edited", [True, False])
def test_where_names_cannot_be_given_in_one_step(target, monkeypatch, edited):
    """What people edit is never replaced, be it saved in that very moment; a fault of the disk is none of a free name."""
    monkeypatch.setattr(durable, "_rename_free", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    staged, free = durable.stage(str(target.parent), b"new", Rights(0o600)), target.with_name("free")
    look, link = beneath.status, durable._link

    def save(*values, real):
        if not free.exists():
            free.write_bytes(b"somebody's")
        return real(*values)

    if edited:
        monkeypatch.setattr(durable, "_link", lambda *values: save(*values, real=link))
        assert not durable.take_place(staged, str(free), edited=True)
        assert b"somebody's" == free.read_bytes()
    else:
        monkeypatch.setattr(beneath, "status", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(StoreUnusable):
            durable.take_place(staged, str(free))
        monkeypatch.setattr(beneath, "status", look)
        assert durable.take_place(staged, str(free))
