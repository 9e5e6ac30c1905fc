"""`vmctl sync` for two servers of one host: a process for each, which fail, are interrupted and are killed as one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import Net, environment, until

from vmctl.errors import NotInStep, PeerUnreachable, StoreForeign, StoreMissing
from vmctl.model import Tick, created, message_key
from vmctl.store import documents

MESSAGES = 600


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network whose primary has so many messages to ship that a round takes a while."""
    made = Net.make(tmp_path / "net")
    made.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    folder = made.path("primary", "mailboxes/2001/messages")
    folder.mkdir(exist_ok=True)
    for number in range(MESSAGES):
        write(folder, f"m{number:04}", number)
    return made


def write(folder: Path, ident: str, number: int) -> None:
    """A message as vmctl leaves it, with a recording like no other."""
    sound = (
        b"RIFF" + (40).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex("1000000001000100401f0000803e000002001000")
    )
    sound += b"data" + (4).to_bytes(4, "little") + number.to_bytes(4, "little")
    audio = {"sha256": hashlib.sha256(sound).hexdigest(), "size": len(sound), "format": "wav"}
    words = {"from": "+49301", "received": "2026-06-01T12:00:00Z", "seconds": 0.0, "status": "new", "audio": audio}
    record = created(message_key("2001", ident), words, Tick(1_760_000_000_000_000 + number, "of-an-application"), 1)
    (folder / f"{ident}.wav").write_bytes(sound)
    (folder / f"{ident}.json").write_bytes(documents.write_message(record))


def begin(net: Net, *before: str) -> tuple[subprocess.Popen[str], int]:
    """A round that has begun, behind these words: its process, and the one that it has forked."""
    command = [*before, sys.executable, "-m", "vmctl", "sync"]
    process = subprocess.Popen(
        command, cwd=net.root, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    path = f"/proc/{process.pid}/task/{process.pid}/children"

    def children() -> list[str]:
        assert process.poll() is None, process.communicate()
        return Path(path).read_text().split()

    return process, int(until(children, what="the other process")[0])


def is_there(process: int) -> bool:
    """Whether a process lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def goes_on(net: Net) -> None:
    """The next round brings all that was left."""
    net.do("sync")
    assert len(list(net.path("secondary", "mailboxes/2001/messages").glob("*.json"))) == MESSAGES
    assert net.run("verify").returncode == 0


def test_both_are_at_work(net: Net) -> None:
    """Two processes bring the two in step, and none is left."""
    process, other = begin(net)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"{MESSAGES + 1} taken in" in out
    assert not is_there(other)
    assert net.read("verify")["equal"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_is_killed_takes_the_other_with_it(net: Net, number: signal.Signals) -> None:
    """Who kills the command has killed all of it; nothing is lost."""
    process, other = begin(net)
    process.send_signal(number)
    process.communicate(timeout=20)
    until(lambda: not is_there(other), what="the end of the other process")
    goes_on(net)


def test_an_interrupt_ends_both(net: Net) -> None:
    """As Ctrl-C does at a terminal, and as `kill -INT` does of the one that was typed."""
    process, other = begin(net)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not is_there(other)
    goes_on(net)


def test_an_interrupt_from_a_terminal_ends_both(net: Net) -> None:
    """There it comes to both at once."""
    process, other = begin(net)
    for one in (other, process.pid):
        os.kill(one, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in {130, NotInStep.exit_code, PeerUnreachable.exit_code}
    assert "Traceback" not in err
    assert not is_there(other)
    goes_on(net)


def test_the_other_one_that_is_killed_is_named(net: Net) -> None:
    """The command says whose process has ended, or that it is not reached any more, and that it may be run again."""
    process, other = begin(net)
    os.kill(other, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode in {NotInStep.exit_code, PeerUnreachable.exit_code}, err
    assert "Traceback" not in err
    assert "bug" not in err
    goes_on(net)


@pytest.mark.parametrize("ignored", ["INT", "CHLD"])
def test_signals_that_whoever_started_it_ignores_are_nothing_to_both(net: Net, ignored: str) -> None:
    """A shell has its jobs in the background ignore Ctrl-C, some supervisors the end of processes: that is inherited."""
    process, other = begin(net, "sh", "-c", f"trap '' {ignored}; exec \"$@\"", "sh")
    if ignored == "INT":
        for one in (other, process.pid):
            os.kill(one, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert net.read("verify")["equal"]


@pytest.mark.parametrize(("change", "error"), [("missing", StoreMissing), ("foreign", StoreForeign)])
def test_what_goes_wrong_at_the_other_one_is_told_as_ever(
    net: Net, change: str, error: type[StoreMissing | StoreForeign]
) -> None:
    """With its words, its hint and its exit code."""
    identity = net.path("secondary", ".vmctl/identity.json")
    text = identity.read_text()
    identity.unlink()
    if change == "foreign":
        identity.write_text(text.replace('"server": "secondary"', '"server": "primary"'))
    done = net.run("sync")
    assert done.returncode == error.exit_code
    assert "secondary" in done.stderr
    assert "Traceback" not in done.stderr
    identity.write_text(text)
    goes_on(net)
