"""Housekeeping as people meet it: by command, with `vmctl sync` from cron, and by the daemons in idle periods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import running
from running import Commands, Net, until, wav

from vmctl import network
from vmctl.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400.0
LATER = """
import vmctl.clock
wall, steady = vmctl.clock.Clock.wall, vmctl.clock.Clock.steady
vmctl.clock.Clock.wall = lambda self: wall(self) + {seconds} * 1_000_000
vmctl.clock.Clock.steady = lambda self: steady(self) + {seconds}
"""


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass for all commands that run in this process."""
    wall, steady = Clock.wall, Clock.steady

    def by(seconds: float) -> None:
        monkeypatch.setattr(Clock, "wall", lambda self: wall(self) + int(seconds * 1_000_000))
        monkeypatch.setattr(Clock, "steady", lambda self: steady(self) + seconds)

    return by


@pytest.fixture
def vmctl(tmp_path: Path) -> Commands:
    """Commands in a network whose messages are kept for a day, new or deleted, with two messages in mailbox 2001."""
    settings = {"scan.settle": "10ms", "housekeeping.new": 24, "housekeeping.deleted": 24}
    network.make(tmp_path / "net", settings=settings)
    commands = Commands(tmp_path / "net")
    commands("mailbox", "create", "2001", "--name", "Ada")
    return commands


def leave(vmctl: Commands, tmp_path: Path, level: int = 1000) -> str:
    """Leave a message; its id."""
    return str(vmctl("message", "leave", "2001", "--audio", str(wav(tmp_path / "a.wav", level=level))).stdout.strip())


def listed(vmctl: Commands, *more: str) -> list[str]:
    """The ids of the messages in the mailbox."""
    return [each["id"] for each in vmctl.json("message", "list", "2001", *more)]


def test_by_hand(vmctl: Commands, tmp_path: Path, pass_time: Callable[[float], None]) -> None:
    """It says what it would do and does it; and why nothing is for it to do while nobody serves."""
    ident = leave(vmctl, tmp_path)
    assert "serves no service" in vmctl("housekeeping").stdout
    vmctl("sync")
    pass_time(1.1 * DAY)
    assert [f"message/2001/{ident}"] == vmctl.json("housekeeping", "--dry-run")["deleted"]
    assert [ident] == listed(vmctl)
    said = vmctl("housekeeping").stdout
    assert f"1 messages were deleted for their age, 0 records purged\n  message/2001/{ident}" in said
    assert ([], [ident]) == (listed(vmctl), listed(vmctl, "--deleted"))
    vmctl("message", "restore", "2001", ident)
    assert [ident] == listed(vmctl)


def test_with_a_sync_from_cron(vmctl: Commands, tmp_path: Path, pass_time: Callable[[float], None]) -> None:
    """One round deletes, ships the deletion and ends in step; a day later one purges on both servers."""
    ident = leave(vmctl, tmp_path)
    vmctl("sync")
    pass_time(1.1 * DAY)
    assert 1 == vmctl.json("sync")["servers"]["primary"]["deleted"]
    for server in ("primary", "secondary"):
        assert [] == list((vmctl.directory / server / "mailboxes/2001").rglob("*.wav"))
        assert 1 == len(list((vmctl.directory / server / ".vmctl/audio").iterdir()))
    pass_time(2.3 * DAY)
    assert 1 == vmctl.json("sync")["servers"]["primary"]["purged"]
    vmctl("sync")
    for server in ("primary", "secondary"):
        assert [] == list((vmctl.directory / server / ".vmctl/audio").iterdir())
    result = vmctl("message", "restore", "2001", ident, code=30)
    assert "cannot be restored any more" in result.stderr
    assert vmctl.json("verify")["equal"]


def test_a_great_part_waits_for_the_word_of_a_sync(
    vmctl: Commands, tmp_path: Path, pass_time: Callable[[float], None]
) -> None:
    """`status` names what waits, and `sync --accept-deletions` lets it go."""
    for number in range(22):
        leave(vmctl, tmp_path, level=number)
    vmctl("sync")
    pass_time(1.1 * DAY)
    assert "22 messages at once are due" in vmctl("sync").stderr
    assert 22 == len(listed(vmctl))
    assert "vmctl:housekeeping" in vmctl("status").stdout
    assert 22 == vmctl.json("housekeeping")["held"]
    assert 22 == vmctl.json("sync", "--accept-deletions")["servers"]["primary"]["deleted"]
    assert "vmctl:housekeeping" not in vmctl("status").stdout


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets processes that are started from now on live so many seconds later."""
    before = running.environment

    def by(seconds: float) -> None:
        folder = tmp_path / "later"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(LATER.format(seconds=int(seconds)))
        env = before()
        monkeypatch.setattr(running, "environment", lambda: env | {"PYTHONPATH": f"{folder}:{env['PYTHONPATH']}"})

    return by


def test_by_the_daemons(tmp_path: Path, later: Callable[[float], None]) -> None:
    """Two days after a message was left the daemon of the server that serves deletes it, and both stores show it."""
    net = Net.make(tmp_path / "net", housekeeping__new=24, housekeeping__every="200ms")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    there = net.path("secondary", f"mailboxes/2001/messages/{ident}.json")
    assert there.exists()
    later(2 * DAY)
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: not there.exists(), what="the deletion on the secondary")
        assert "1 messages deleted for their age" in net.log("primary")
    assert "messages deleted" not in net.log("secondary")
    assert (
        json.loads(net.do("message", "list", "2001", "--deleted", "--server", "secondary", "--json"))[0]["id"] == ident
    )


def test_with_a_sync_beside_the_daemon_of_the_peer(tmp_path: Path, later: Callable[[float], None]) -> None:
    """The round ends in step, with the deletion at the server whose daemon runs."""
    net = Net.make(tmp_path / "net", housekeeping__new=24, failover__after="60s")  # nobody takes over meanwhile
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    later(2 * DAY)
    with net.daemon("secondary"):
        until(lambda: " serves " in net.log("secondary"), what="the daemon")
        assert 1 == json.loads(net.do("sync", "--json"))["servers"]["primary"]["deleted"]
        assert not net.path("secondary", f"mailboxes/2001/messages/{ident}.json").exists()
