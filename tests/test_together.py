"""Many new files at a time: what is left of a batch that failed or was killed, and who is told of a fault of the disk."""

import contextlib
import errno
import hashlib
import os

import pytest

from vmctl import durable
from vmctl.errors import DiskFull, StoreUnusable
from vmctl.placing import Placing
from vmctl.together import Together


@pytest.fixture
def under_way(wire, recording):
    """Thirty messages in two mailboxes, in the spool of the secondary."""
    idents = {}
    for box in ("2001", "2002"):
        wire.desk().create_mailbox(box, {"name": "Ada"})
    wire.in_step()
    for box in ("2001", "2002"):
        idents[box] = [wire.desk().leave(box, recording()) for _ in range(15)]
    wire.send("primary")
    wire.deliver(take=False)
    return idents


def litter(wire):
    """Whatever waits for a place anywhere in the store of the secondary."""
    return [path for path in wire.root("secondary").rglob(".vmctl-tmp-*") if "lock" not in path.name]


def killed(wire, monkeypatch):
    """The secondary is killed when recordings have their places, and no document has."""
    with monkeypatch.context() as patch:
        patch.setattr("vmctl.apply.Applier._place_document", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            wire.b.take()


def refuse(patch, name, number, *, after=0):
    """A step fails from its `after`-th call on."""
    real, calls = getattr(durable, name), []

    def refusing(*values, **words):
        calls.append(values)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return real(*values, **words)

    patch.setattr(durable, name, refusing)


@pytest.mark.parametrize(("name", "number"), [("_write", errno.ENOSPC), ("_syncfs", errno.EIO), ("_rename", errno.EIO)])
def test_what_failed_leaves_no_more_than_one_batch_and_then_nothing(wire, under_way, monkeypatch, name, number):
    """However often it is tried again; when the disk is well all is written, and what waited in vain is gone."""
    most = 0
    for _ in range(4):
        with monkeypatch.context() as patch, contextlib.suppress(DiskFull, StoreUnusable):
            refuse(patch, name, number, after=20)
            wire.b.take()
        most = max(most, len(litter(wire)))
    assert most <= 60
    wire.b.take()
    assert {box: sorted(idents) for box, idents in under_way.items()} == {
        box: sorted(wire.messages(box, "secondary")) for box in under_way
    }
    assert [] == litter(wire)


def test_a_full_disk_keeps_what_fitted(wire, under_way, monkeypatch):
    """What was written before there was no room takes its place, so that each try brings some."""
    with monkeypatch.context() as patch:
        real, room = durable._write, [20]

        def write(fd, data):
            room[0] -= 1
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data)

        patch.setattr(durable, "_write", write)
        with pytest.raises(DiskFull):
            wire.b.take()
    assert 0 < sum(len(wire.messages(box, "secondary")) for box in under_way) < 30
    assert 1 <= len(wire.b.spool.waiting())


@pytest.mark.parametrize("who", ["cleaner", "application"])
def test_what_is_removed_from_a_mailbox_after_a_kill_deletes_nothing_that_nobody_saw(wire, under_way, monkeypatch, who):
    """A killed process had told which documents it was about to place: whatever becomes of the mailbox, they come."""
    killed(wire, monkeypatch)
    folder = wire.root("secondary") / "mailboxes/2001/messages"
    for path in folder.glob(".vmctl-tmp-*" if who == "cleaner" else "*"):
        path.unlink()
    wire.crash("secondary")
    wire.in_step()
    for box, idents in under_way.items():
        assert sorted(idents) == sorted(wire.messages(box)) == sorted(wire.messages(box, "secondary"))


def test_the_recording_of_a_message_that_never_came_to_be_does_not_stay(wire, under_way, monkeypatch):
    """Recordings that had their places when a batch failed go back into the pool, and from there with their messages."""
    killed(wire, monkeypatch)
    for box, idents in under_way.items():
        for ident in idents:
            wire.desk().delete_message(box, ident)
    wire.in_step()
    assert [] == list(wire.root("secondary").glob("mailboxes/*/messages/*.wav"))


def test_a_mark_that_cannot_be_read_stops_nothing(wire, under_way):
    """Nor one of an older vmctl: it is removed."""
    folder = wire.root("secondary") / ".vmctl/placing"
    folder.mkdir(exist_ok=True)
    suffix = Placing(wire.b.store, wire.clock)._suffix
    for name, text in ((f"0{suffix}", "no JSON"), (f"1{suffix}", "[1]"), (suffix.removesuffix(".marks"), "0f3a")):
        (folder / name).write_text(text)
    wire.crash("secondary")
    wire.in_step()
    assert [] == list(folder.iterdir())


def test_a_mailbox_that_goes_while_its_messages_are_written_keeps_no_other_one_from_coming(
    wire, under_way, monkeypatch
):
    """One odd file does not keep all others from being written."""
    settle = Together.settle
    folder = wire.root("secondary") / "mailboxes/2002"

    def gone(self):
        settle(self)
        if folder.exists():
            folder.rename(wire.directory / "taken away")

    with monkeypatch.context() as patch:
        patch.setattr(Together, "settle", gone)
        wire.b.take()
    assert sorted(under_way["2001"]) == sorted(wire.messages("2001", "secondary"))


@pytest.mark.parametrize("whole", [True, False])
def test_where_a_file_system_does_not_tell_of_faults_each_file_is_waited_for(wire, under_way, monkeypatch, whole):
    """FUSE, and Linux before 5.8."""
    monkeypatch.setattr(durable, "can_keep_disk", lambda _device: whole)
    waits = []
    monkeypatch.setattr(durable, "_fsync", waits.append)
    monkeypatch.setattr(durable, "_syncfs", lambda _fd: None)
    wire.b.take()
    assert (len(waits) >= 60) is not whole


@pytest.mark.parametrize(
    ("kind", "release", "can"),
    [("ext4", "6.1.0", True), ("fuse.sshfs", "6.1.0", False), ("ext4", "5.7.19", False), ("btrfs", "5.8.0-1", True), ("ext4", "x", False)],
)  # fmt: skip
def test_what_cannot_be_kept_as_a_whole_is_known(tmp_path, monkeypatch, kind, release, can):
    """By the kind of the file system, and by the kernel."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 1 0:7 / / rw - ext4 /dev/a rw\n36 25 0:99 / /mnt rw,noatime - {kind} host rw\n")
    monkeypatch.setattr(durable, "_MOUNTS", str(mounts))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "#1", "x86_64")))
    assert durable.can_keep_disk.__wrapped__(os.makedev(0, 99)) is can


@pytest.fixture
def deleted(wire, under_way):
    """The same messages are at both servers, and their deletion, all at once, is in the spool of the secondary."""
    wire.in_step()
    for box, idents in under_way.items():
        for ident in idents:
            wire.desk().delete_message(box, ident)
    wire.send("primary")
    wire.deliver(take=False)
    return under_way


def waits_for(wire, monkeypatch):
    """How often the secondary waits for the disk while it takes in what has come."""
    waits = []
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_fsync", waits.append)
        patch.setattr(durable, "_syncfs", waits.append)
        wire.b.take()
    return len(waits)


def test_many_deletions_wait_for_the_disk_a_few_times(wire, deleted, monkeypatch):
    """For the bytes of all tombs, for the few folders with their names, for those of what went; not for each of thirty."""
    assert waits_for(wire, monkeypatch) <= 16
    assert [[], []] == [wire.messages(box, "secondary") for box in deleted]
    state = wire.root("secondary") / ".vmctl"
    assert 30 == len(list(state.glob("deleted/mailboxes/*/messages/*.json")))
    assert 30 == len(list((state / "audio").iterdir()))
    wire.in_step()


def test_a_tomb_that_cannot_be_written_keeps_no_other_deletion_from_being_done(wire, deleted):
    """That one waits and is named; when what is in its way is gone it is done."""
    one = deleted["2001"][0]
    in_the_way = wire.root("secondary") / f".vmctl/deleted/mailboxes/2001/messages/{one}.json"
    in_the_way.mkdir(parents=True)
    wire.b.take()
    assert [[one], []] == [wire.messages(box, "secondary") for box in deleted]
    assert wire.b.index.faults.all()
    in_the_way.rmdir()
    wire.in_step()
    assert [[], []] == [wire.messages(box, "secondary") for box in deleted]
    assert [] == wire.b.index.faults.all()


@pytest.mark.parametrize("step", range(1, 121, 17))
def test_a_kill_in_the_middle_of_many_deletions_leaves_work_and_no_loss(wire, deleted, monkeypatch, step):
    """Wherever it was: the next start goes on, each is deleted, and each can be restored."""
    left = [step]

    def counted(real):
        def act(*values, **words):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return real(*values, **words)

        return act

    with monkeypatch.context() as patch:
        for name in ("stage", "replace", "discard"):
            patch.setattr(durable, name, counted(getattr(durable, name)))
        with pytest.raises(KeyboardInterrupt):
            wire.b.take()
    wire.crash("secondary")
    wire.in_step()
    assert [[], []] == [wire.messages(box, "secondary") for box in deleted]
    for box, idents in deleted.items():
        for ident in idents:
            wire.desk("secondary").restore_message(box, ident)
    wire.in_step()
    assert list(deleted.values()) == [sorted(wire.messages(box, "secondary")) for box in deleted]


@pytest.fixture
def edit_and_message(wire, recording):
    """An edit of a mailbox and a message in it are in the spool of the secondary; the message's id."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    wire.desk().set_mailbox("2001", {"language": "en-GB"})
    ident = wire.desk().leave("2001", recording())
    wire.send("primary")
    wire.deliver(take=False)
    return ident


def test_a_recording_that_does_not_fit_keeps_no_edit_from_its_file(wire, edit_and_message, monkeypatch):
    """A full disk has room for little things: they are not made to wait for a large one that came with them."""
    real = durable._write

    def write(fd, data):
        if bytes(data[:4]) == b"RIFF":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_write", write)
        with pytest.raises(DiskFull):
            wire.b.take()
    assert "en-GB" in (wire.root("secondary") / "mailboxes/2001/mailbox.yaml").read_text()
    wire.in_step()
    assert [edit_and_message] == wire.messages("2001", "secondary")


def test_an_edit_that_does_not_fit_keeps_no_new_message_from_its_place(wire, edit_and_message, monkeypatch):
    """What was written by then takes its place, and is noted."""
    with monkeypatch.context() as patch:
        refuse(patch, "_swap", errno.ENOSPC)
        with pytest.raises(DiskFull):
            wire.b.take()
    assert [edit_and_message] == wire.messages("2001", "secondary")
    assert not wire.b.index.get(f"message/2001/{edit_and_message}").todo
    wire.in_step()


@pytest.mark.parametrize("kind", ["link", "folder", "rotten"])
def test_what_lies_in_the_place_of_a_recording_in_the_pool_never_counts_as_it(wire, kind):
    """It is replaced, or the recording is not said to be put down: its mail would go."""
    data, pool = b"RIFF, or so", wire.a.pool
    sha256 = hashlib.sha256(data).hexdigest()
    place = pool.path(sha256)
    place.parent.mkdir(exist_ok=True)
    pool.hold(data, sha256)
    {"link": lambda: place.symlink_to("/etc/hostname"), "folder": place.mkdir, "rotten": place.touch}[kind]()
    if kind == "folder":
        with pytest.raises(StoreUnusable):
            pool.put_down()
        assert pool.holds(sha256)
    else:
        pool.put_down()
        assert data == place.read_bytes()
        assert not place.is_symlink()
