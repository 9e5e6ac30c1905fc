"""Mail from a mail server: by a pipe and from a Maildir; what is durable, what is tried again, what is dropped or returned."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pair import Roles
from running import Net, environment, until
from test_attacks_in_mails import report, sealed_for

from vmctl import door, keys, strays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DONE, BOUNCE, LATER = 0, 65, 75  # sysexits.h


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network with both stores on this host."""
    made = Net.make(tmp_path / "net", relay__address="127.0.0.1:9")
    made.here("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    return made


@pytest.fixture
def pair(net: Net, no_fsync: None) -> Iterator[Roles]:
    """The same network, open in this process."""
    made = Roles(net.root)
    yield made
    made.close()


def pipe(net: Net, raw: bytes, *words: str, sender: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """Give the secondary a mail as a mail server's pipe does."""
    env = environment() | ({} if sender is None else {"SENDER": sender})
    return subprocess.run(
        [sys.executable, "-m", "vmctl", "receive", "--config", str(net.root), "--server", "secondary", *words],
        input=raw, env=env, cwd="/", capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def as_relays_make_it(raw: bytes) -> bytes:
    """What mail servers do to a mail on its way: LF, trace headers, refolded headers, a footer around it."""
    folded = raw.replace(b"\r\n", b"\n").replace(
        b"Content-Type: multipart/mixed;\n boundary", b"Content-Type: multipart/mixed; boundary"
    )
    head, _, rest = folded.partition(b"\n\n")
    kind = next(line for line in head.split(b"\n") if line.startswith(b"Content-Type"))
    rest_of_head = head.replace(kind + b"\n", b"").replace(kind, b"").replace(b"MIME-Version: 1.0\n", b"")
    return (
        b"From a@b Mon Sep 21 14:13:29 2026\nReturn-Path: <x@y>\nReceived: from a by b;\n\tMon, 21 Sep 2026 14:13:29 +0000\n"
        + rest_of_head.rstrip(b"\n")
        + b"\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=list\n\n--list\n"
        + kind
        + b"\n\n"
        + rest
        + b"\n--list\nContent-Type: text/plain\n\nTo leave this list write to nobody.\n--list--\n"
    )


def test_a_mail_comes_by_a_pipe(net: Net, pair: Roles) -> None:
    """The peer's mail, sealed or not, as relays make it, is in the spool when the pipe has exited 0, and is taken from there."""
    (raw,) = pair.send("primary", always=True)
    for mail in (raw, sealed_for(pair, raw), as_relays_make_it(raw), as_relays_make_it(sealed_for(pair, raw))):
        done = pipe(net, mail)
        assert (DONE, b"", b"") == (done.returncode, done.stdout, done.stderr)
        assert len(pair.b.spool.waiting()) == 1
        pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")


def test_the_spool_holds_no_sealed_mail(net: Net, pair: Roles) -> None:
    """It is unsealed at the door, so that no later exchange of keys makes what was accepted unreadable."""
    (raw,) = pair.send("primary", always=True)
    assert pipe(net, sealed_for(pair, raw)).returncode == DONE
    keys.rotate(pair.config.servers["secondary"].key, "secondary")
    keys.retire(pair.config.servers["secondary"].key, "secondary")
    pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")


def test_what_is_not_the_peers(net: Net, pair: Roles) -> None:
    """A stranger's mail is dropped, not returned to an address that may be forged; one in the peer's name is returned. Both are counted."""
    peer = pair.config.servers["primary"].mail
    spam = b"Subject: win\n\nA prize.\n"
    assert pipe(net, spam, sender="someone@example.org").returncode == DONE
    assert pipe(net, spam).returncode == DONE
    assert pipe(net, spam, sender=peer).returncode == BOUNCE
    assert pipe(net, spam, "--sender", f"<{peer.upper()}>").returncode == BOUNCE
    assert pipe(net, spam, sender="").returncode == DONE  # the null sender: never an answer to it
    assert [] == pair.b.spool.waiting()
    counts = strays.read(pair.root("secondary") / ".vmctl")
    assert {"garbage": 4, "report": 1} == {kind: each["count"] for kind, each in counts.items()}


def test_a_report_comes_by_a_pipe(net: Net, pair: Roles) -> None:
    """With the null sender, or none that is known, a report is kept for who knows what left."""
    for words in (("--sender", ""), ("--sender", "<>"), ("--sender", "MAILER-DAEMON"), ()):
        assert pipe(net, report("<1@secondary.example>"), *words).returncode == DONE
    assert len(pair.b.spool.waiting()) == 4


def test_what_cannot_be_kept_is_tried_again(net: Net, pair: Roles) -> None:
    """Without the store, its key or a good vmctl.yaml the mail server keeps the mail; when all is there it is taken."""
    (raw,) = pair.send("primary", always=True)
    sealed = sealed_for(pair, raw)
    state, key, config = net.path("secondary", ".vmctl"), net.root / "keys/secondary.pem", net.root / "vmctl.yaml"
    for path in (state, key, config):
        away = path.with_name("away")
        path.rename(away)
        done = pipe(net, sealed, sender=pair.config.servers["primary"].mail)
        assert LATER == done.returncode, done.stderr
        away.rename(path)
    key.chmod(0o644)
    assert pipe(net, sealed).returncode == LATER
    key.chmod(0o600)
    assert pipe(net, sealed).returncode == DONE


def test_a_mail_of_a_newer_vmctl_is_tried_again(net: Net, pair: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until this host is updated, too."""
    from vmctl import mail_content

    with monkeypatch.context() as patch:
        patch.setattr(mail_content, "VERSION", 99)
        (raw,) = pair.send("primary", always=True)
    assert pipe(net, raw).returncode == LATER


def test_a_slip_in_the_mail_servers_config(net: Net, pair: Roles) -> None:
    """With words that vmctl does not know the mail is kept, and tried again when they are mended."""
    (raw,) = pair.send("primary", always=True)
    for words in (("--no-such",), ("and more",), ("--server", "nosuch")):
        assert pipe(net, raw, *words).returncode == LATER


def test_the_same_mail_again_and_again(net: Net, pair: Roles) -> None:
    """Who plays one mail a hundred times while nobody reads fills the disk with one; and a report with what it says."""
    (raw,) = pair.send("primary", always=True)
    for _ in range(100):
        pair.b.receive(raw)
    pair.b.receive(report("<1@secondary.example>").replace(b"Sorry.", b"Sorry. " * 100_000), "")
    assert len(pair.b.spool.waiting()) == 2
    assert sum(path.stat().st_size for path in pair.b.spool.waiting()) < len(raw) + 1000


def test_an_endless_mail(net: Net) -> None:
    """More than any sync mail may be long is read to its bound and dropped."""
    raw = b"x" * (2 * net.config.mail.max + (1 << 20) + 10)
    assert pipe(net, raw).returncode == DONE


def test_a_daemon_takes_it_at_once(net: Net, pair: Roles) -> None:
    """The pipe wakes the daemon, which takes the mail in; and a signal for nothing does it no harm."""
    (raw,) = pair.send("primary", always=True)
    with net.daemon("secondary") as daemon:
        until(lambda: " serves " in net.log("secondary"), what="the daemon")
        os.kill(daemon.pid, signal.SIGUSR2)
        assert pipe(net, sealed_for(pair, raw)).returncode == DONE
        until(net.path("secondary", "mailboxes/2001/mailbox.yaml").exists, what="the mailbox")
        assert daemon.poll() is None


@pytest.fixture
def boxed(tmp_path: Path, no_fsync: None) -> Iterator[tuple[Roles, Path]]:
    """Two servers, of which the secondary's mail comes into a Maildir."""
    folder = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True)
    made = Roles(tmp_path / "net", {"servers.secondary.maildir": str(folder)})
    made.desk().create_mailbox("2001", {"name": "Ada"})
    yield made, folder
    made.close()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_maildir_is_picked_up(boxed: tuple[Roles, Path]) -> None:
    """What is new is taken and gone; what cannot be taken stays as seen, is counted, and is not looked at again."""
    pair, folder = boxed
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    (folder / "new" / "1.a.host").write_bytes(sealed_for(pair, raw).replace(b"\r\n", b"\n"))
    (folder / "new" / "2.b.host:2,").write_bytes(b"Subject: spam\n\nbuy\n")
    (folder / "tmp" / "3.c.host").write_bytes(raw)  # being written
    pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")
    assert ([], ["2.b.host:2,S"], ["3.c.host"]) == tuple(names(folder / part) for part in ("new", "cur", "tmp"))
    pair.b.take()
    pair.b.strays.flush()
    assert strays.read(pair.root("secondary") / ".vmctl")["garbage"]["count"] == 1


def test_links_and_pipes_in_a_maildir(boxed: tuple[Roles, Path], tmp_path: Path) -> None:
    """A link is not followed, a pipe is not waited for, a directory is no mail: each goes aside and is counted."""
    pair, folder = boxed
    secret = tmp_path / "secret"
    secret.write_bytes(pair.send("primary", always=True)[0])
    (folder / "new" / "link").symlink_to(secret)
    os.mkfifo(folder / "new" / "pipe")
    (folder / "new" / "directory").mkdir()
    pair.b.take()
    assert ([], ["directory:2,S", "link:2,S", "pipe:2,S"]) == (names(folder / "new"), names(folder / "cur"))
    assert not pair.lives("mailbox/2001", "secondary")
    assert secret.exists()
    pair.b.strays.flush()
    assert strays.read(pair.root("secondary") / ".vmctl")["garbage"]["count"] == 3


def test_a_flood_in_a_maildir(boxed: tuple[Roles, Path]) -> None:
    """Of a thousand made-up reports a hundred are read at a time; the peer's mail behind them is taken, and all go in the end."""
    pair, folder = boxed
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    for number in range(250):
        (folder / "new" / f"{number:04d}").write_bytes(report(f"<{number}@primary.example>"))
    (folder / "new" / "9999").write_bytes(sealed_for(pair, raw))
    pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")
    assert len(names(folder / "new")) == 150
    for _ in range(2):
        pair.clock.advance(61)
        pair.b.take()
    assert [] == names(folder / "new")


def test_a_maildir_with_more_than_there_is_time_for(boxed: tuple[Roles, Path]) -> None:
    """An intake that is to be short takes some of it, says that there is more, and goes on with the next."""
    pair, folder = boxed
    for number in range(5):
        (folder / "new" / str(number)).write_bytes(b"Subject: spam\n\nbuy\n")
    pair.b.patience = 0.0
    assert pair.b.take().more
    assert len(names(folder / "new")) == 4
    pair.b.patience = None
    assert not pair.b.take().more
    assert [] == names(folder / "new")


def test_what_cannot_be_set_aside_keeps_nothing_behind_it(boxed: tuple[Roles, Path]) -> None:
    """Spam whose name leaves no room for a mark, or without a `cur`: the peer's mail behind it is taken all the same."""
    pair, folder = boxed
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    (folder / "new" / ("0" * 255)).write_bytes(b"Subject: spam\n\nbuy\n")
    (folder / "new" / "1").write_bytes(raw)
    pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")
    assert ["0" * 255] == names(folder / "new")


def test_what_this_host_cannot_do_now_is_no_fault_of_a_mail(
    boxed: tuple[Roles, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail that cannot be read or kept at this moment stays where it is, and is taken later."""
    pair, folder = boxed
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    (folder / "new" / "1").write_bytes(raw)
    with monkeypatch.context() as patch:

        def no_descriptor(*_: object) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        patch.setattr(door.os, "open", no_descriptor)
        assert not pair.b.door.pick_up(lambda error: pytest.fail(str(error)), None)
    assert ["1"] == names(folder / "new")
    pair.clock.advance(61)
    pair.b.take()
    assert pair.lives("mailbox/2001", "secondary")


def test_a_maildir_that_cannot_be_read(boxed: tuple[Roles, Path]) -> None:
    """It is named, with what to do, stops nothing else, and is well again by itself. One that is not there yet is empty."""
    pair, folder = boxed
    (folder / "new").rename(folder / "away")
    pair.b.take()
    assert set() == pair.faults("secondary")
    (folder / "new").write_text("a file")
    pair.b.take()
    assert {"vmctl:maildir"} == pair.faults("secondary")
    assert "maildir" in pair.b.index.faults.all()[0]["mend"]
    pair.send("primary", always=True)
    pair.deliver()
    assert pair.lives("mailbox/2001", "secondary")
    (folder / "new").unlink()
    pair.b.take()
    assert set() == pair.faults("secondary")
