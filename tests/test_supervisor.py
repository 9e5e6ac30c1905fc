"""What the service manager is told: real daemons, and a socket in the place of systemd's."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from running import Net

from vmctl import supervisor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The socket on which a service manager listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(20.0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with sock:
        yield sock


def test_a_daemon_says_when_it_is_ready_and_that_it_is_alive(tmp_path: Path, manager: socket.socket) -> None:
    """Ready first, then alive again and again, and stopping last; one that stands still says nothing."""
    net = Net.make(tmp_path / "net")
    with net.daemon("primary") as daemon:
        assert manager.recv(99) == b"READY=1"
        assert [manager.recv(99) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.pid, os.WSTOPPED | os.WNOWAIT)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):  # what it said before is all there is
            drain(manager)
        manager.settimeout(20.0)
        daemon.send_signal(signal.SIGCONT)
        assert manager.recv(99) == b"WATCHDOG=1"
        daemon.send_signal(signal.SIGTERM)
        said = b""
        while said != b"STOPPING=1":
            said = manager.recv(99)
        assert daemon.wait(20) == 0


def drain(manager: socket.socket) -> None:
    """Read until there is nothing more."""
    while True:
        manager.recv(99)


@pytest.mark.parametrize("name", ["", "nowhere", "/none/such", "@vmctl-none-such"])
def test_nobody_listens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manager, or with one that is gone, nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    supervisor.notify(supervisor.READY)


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with '@' is one without a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0vmctl-test-manager")
        monkeypatch.setenv("NOTIFY_SOCKET", "@vmctl-test-manager")
        supervisor.notify(supervisor.ALIVE)
        assert sock.recv(99) == b"WATCHDOG=1"
