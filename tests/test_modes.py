"""What the files of a network let others do: nothing, whatever the umask is, but what an operator lets a group do."""

import os
import stat
import subprocess
import sys

import pytest
from running import until
from wire import SETTLE, Wire

from vmctl import durable, rights
from vmctl.store.pool import Pool

GROUP = 4711
ROUTES = {f"{name}/.vmctl/routes.json" for name in ("primary", "secondary")}


@pytest.fixture
def open_umask():
    """A process in which everybody may do everything with what it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root):
    """The mode of each file and folder below, by relative path."""
    return {path.relative_to(root).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}


def too_open(root, but=()):
    """What lets others than its owner do anything."""
    return sorted(path for path, mode in modes(root).items() if mode & 0o077 and path not in but)


def group_in(root):
    """Let a group into a store, as docs/store.md says."""
    for folder in ("mailboxes", "callflows", "prompts"):
        for path in (root / folder, *(root / folder).rglob("*")):
            os.chown(path, -1, GROUP)
            path.chmod(0o2770 if path.is_dir() else 0o640)


def test_what_commands_and_daemons_write_is_for_their_user_alone(tmp_path, recording, open_umask):
    """init, mailbox create, message leave, sync and serve, each started with the widest umask there is."""
    net = tmp_path / "net"

    def do(*words, given=None):
        done = subprocess.run(
            [sys.executable, "-m", "vmctl", *words], check=True, cwd=tmp_path, input=given, capture_output=True
        )
        return done.stdout.decode()

    do("init", str(net))
    assert [] == too_open(net)
    config = ("--config", str(net / "vmctl.yaml"))
    do("mailbox", "create", "2001", "--name", "Ada", "--pin-stdin", "--server", "primary", *config, given=b"4711\n")
    do(
        "message",
        "leave",
        "2001",
        "--from",
        "+442079460123",
        "--audio",
        str(recording()),
        "--server",
        "primary",
        *config,
    )
    do("greeting", "set", "2001", "busy", "--audio", str(recording()), "--server", "primary", *config)
    do("sync", *config)
    assert [] == too_open(net, but=ROUTES)
    with subprocess.Popen(
        [sys.executable, "-m", "vmctl", "serve", "--server", "primary", *config], stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            until((net / "primary/.vmctl/routes.json").exists, what="routes.json")
        finally:
            daemon.terminate()
    assert [] == too_open(net, but=ROUTES)
    assert 0o644 == modes(net)["primary/.vmctl/routes.json"]  # everybody may read it, where `routes.file` puts it


def test_the_umask_opens_nothing_either_where_vmctl_is_used_as_a_library(tmp_path, recording, open_umask):
    """Each file gets its mode by itself: nobody relies on a mask that somebody else has set."""
    wire = Wire(tmp_path / "net")
    wire.desk().create_mailbox("2001", {"name": "Ada", "pin": "4711"})
    ident = wire.desk().leave("2001", recording())
    wire.desk().set_callflow("main", "greet: hello\n")
    wire.in_step()
    wire.desk("secondary").delete_message("2001", ident)
    wire.in_step()
    wire.close()
    assert [] == too_open(tmp_path / "net", but={"probe"})  # the test's own


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to any group")
def test_a_group_that_was_let_into_a_store_stays_in_it(tmp_path, recording):
    """New files and folders let it do what their folder does; `.vmctl` lets it do nothing."""
    wire = Wire(tmp_path / "net")
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.desk().set_greeting("2001", "busy", recording())
    old = wire.desk().leave("2001", recording())
    wire.in_step()
    root = wire.root("secondary")
    group_in(root)
    wire.clock.advance(SETTLE + 0.1)
    wire.scan("secondary")
    box = "mailboxes/2001"
    kept = {f"{box}/mailbox.yaml": 0o604, f"{box}/messages/{old}.json": 0o644, f"{box}/greetings/busy.wav": 0o660}
    for path, mode in kept.items():
        (root / path).chmod(mode)
    wire.clock.advance(SETTLE + 0.1)
    wire.scan("secondary")
    desk = wire.desk()
    desk.set_mailbox("2001", {"name": "Eve"})
    desk.mark("2001", old, "old")
    desk.set_greeting("2001", "busy", recording())
    desk.set_greeting("2001", "name", recording())
    new = desk.leave("2001", recording())
    desk.create_mailbox("2002", {"name": "Bob"})
    desk.leave("2002", recording())
    wire.in_step()
    found = modes(root)
    assert kept == {path: found[path] for path in kept}
    made = [f"messages/{new}.json", f"messages/{new}.wav", "greetings/name.wav"]
    assert [0o660] * 3 == [found[f"{box}/{path}"] for path in made]
    assert 0o660 == found["mailboxes/2002/mailbox.yaml"]
    assert 0o640 == found[f"{box}/messages/{old}.wav"]
    assert [0o2770] * 2 == [found[path] for path in ("mailboxes/2002", "mailboxes/2002/messages")]
    below = [path for path in (root / "mailboxes").rglob("*") if path.stat().st_gid != GROUP]
    assert [] == below
    own = {path: mode for path, mode in modes(root / ".vmctl").items() if "/" not in path}
    assert [] == sorted(path for path, mode in own.items() if mode & 0o077 and path != "routes.json")
    desk.delete_message("2001", old)
    wire.in_step()
    assert 0o700 == stat.S_IMODE((root / ".vmctl/audio").stat().st_mode)


def test_a_group_that_cannot_be_had_gets_nothing_under_another_name(tmp_path, monkeypatch):
    """A file of vmctl's own group must not be readable by that because the folder's group may read its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o770)
    durable.write(folder / "mine", b"x", mode=rights.AS_BESIDE)
    assert 0o660 == stat.S_IMODE((folder / "mine").stat().st_mode)

    def refused(*_words):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    monkeypatch.setattr(
        rights, "_folder", lambda path: os.stat_result([*path.stat()[:5], path.stat().st_gid + 1, *path.stat()[6:]])
    )
    durable.write(folder / "other", b"x", mode=rights.AS_BESIDE)
    assert 0o600 == stat.S_IMODE((folder / "other").stat().st_mode)


def test_a_recording_that_somebody_else_owns_is_kept_before_it_is_replaced(tmp_path, recording, monkeypatch):
    """Where the system lets only the owner give a file a second name (fs.protected_hardlinks), it is copied."""
    from vmctl.audio import digest_of

    source = recording()

    def refused(*_words):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(durable, "_link", refused)
    pool, digest = Pool(tmp_path), digest_of(source)[0]
    pool.keep(source, digest)
    assert source.read_bytes() == pool.path(digest).read_bytes()
