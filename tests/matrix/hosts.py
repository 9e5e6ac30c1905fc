"""The two hosts: a store, a vmctl.yaml with quick timers and a daemon each, and programs that stand for telephony."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from running import SERVERS, Net, environment

from matrix.seen import Notebook
from vmctl import config, network
from vmctl.clock import Clock
from vmctl.errors import StoreError

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vmctl.config import Address

PACE = float(os.environ.get("VMCTL_MATRIX_PACE", "1"))  # times as slow, for a machine that is busy with other things
LONG = 90.0 * PACE  # seconds for anything that must come: a busy machine is no fault
HEARTBEAT, START_WAIT, AFTER, HOLD, TTL = (seconds * PACE for seconds in (0.3, 3.0, 4.0, 1.0, 4.0))
_LOOK = 0.1  # seconds
TIMERS = {
    "scan.settle": "50ms",
    "scan.debounce": "10ms",
    "sync.heartbeat": f"{HEARTBEAT}s",
    "sync.resend": "2s",
    "failover.after": f"{AFTER}s",
    "failover.start_wait": f"{START_WAIT}s",
    "failover.most_moves": 1000,
    "failback.hold": f"{HOLD}s",
    "handover.drain": "60s",
    "lease.ttl": f"{TTL}s",
    "health.command": ["./health"],
    "health.every": "300ms",
    "health.failures": 2,
    "calls.command": ["./calls"],
    "calls.every": "300ms",
    "reachability.every": "300ms",
    "reachability.timeout": "1s",
    "limits.quota": 100_000,
}
SCRIPTS = {
    "health": "#!/bin/sh\ntest ! -e unwell || { echo it does not answer; exit 1; }\n",
    "calls": "#!/bin/sh\ncat in-progress\n",
}
_NOWHERE = "127.0.0.1:1"  # stands for the gateway of each host
MAILBOX = {"primary": "2001", "secondary": "3001"}


def wait(so: Callable[[], Any], what: str, more: Callable[[], str] = str) -> None:
    """Wait until something is so. Raises AssertionError with what was waited for; `more` is asked only then."""
    deadline = time.monotonic() + LONG
    while not so():
        assert time.monotonic() < deadline, f"{what} did not come true within {LONG:g} s; {more()}"
        time.sleep(_LOOK)


class Kind(NamedTuple):
    """Which network a row is played on: its mode, the nodes of its arbiter (0: none), whether hosts are namespaces."""

    mode: str = "active-standby"
    etcd: int = 0
    spaces: bool = False

    def __str__(self) -> str:
        """In words."""
        arbiter = f", etcd of {self.etcd}" if self.etcd else ""
        return f"{self.mode}{arbiter}{', network namespaces' if self.spaces else ''}"


TESTED = (Kind(), Kind(etcd=3))  # those of `make test`: without an arbiter, and with one


class Host:
    """One server's host: its store, its vmctl.yaml, its daemon."""

    def __init__(self, root: Path, server: str, prefix: tuple[str, ...]) -> None:
        """`prefix` is what stands before the command that runs its daemon."""
        self.net = net = Net(root, config.load(root / "vmctl.yaml"))
        self.server = server
        self.prefix = prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.gone: list[list[int | None]] = []  # from when until when it stood still, or its store was not there
        self.ends: list[int] = []  # when its daemon was killed
        self.left: dict[str, bytes] = {}
        self.book = Notebook(net.path(server, ".vmctl/journal.jsonl"), server, net.config.homes("dual-active"))

    @property
    def awake(self) -> bool:
        """Whether a command can act on its store."""
        return not self.gone or self.gone[-1][1] is not None

    def away(self) -> None:
        """From now on it cannot serve."""
        self.gone.append([Clock().wall(), None])

    def back(self) -> None:
        """From now on it can."""
        self.gone[-1][1] = Clock().wall()

    def start(self) -> None:
        """Start its daemon."""
        with (self.net.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "vmctl", "serve"],
                cwd=self.net.root, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send its daemon a signal."""
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon of {self.server} has ended: {self.log()[-2000:]}"
        self.process.send_signal(number)

    def kill(self) -> None:
        """End its daemon at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.ends.append(Clock().wall())

    def status(self) -> dict[str, Any]:
        """Its status; without services while its store cannot be read."""
        with contextlib.suppress(StoreError):
            return self.net.status()
        return {"services": [], "in_step": False, "servers": {}}

    def last_words(self) -> str:
        """What its daemon wrote last, if it has ended by itself."""
        ended = self.process is not None and self.process.poll() is not None
        return f", and its daemon ended: {self.log()[-2000:]}" if ended else ""

    def log(self) -> str:
        """What its daemon wrote."""
        return (self.net.root / "log").read_text()


def divide(
    root: Path, addresses: Mapping[str, Address], values: Mapping[str, Any], gateways: Mapping[str, str]
) -> dict[str, Path]:
    """Make a network in one place, and divide it: a directory for each host, with its own store and vmctl.yaml."""
    whole = root / "whole"
    values = TIMERS | dict(values) | {"reachability.targets": [_NOWHERE]}
    network.make(whole, network="matrix", mode="dual-active", addresses=addresses, settings=values)
    text = (whole / "vmctl.yaml").read_text()
    roots = {}
    for mine, other in zip(SERVERS, reversed(SERVERS), strict=True):
        host = roots[mine] = root / f"host-of-{mine}"
        (host / "keys").mkdir(parents=True)
        shutil.move(whole / mine, host / mine)
        shutil.copy2(whole / "keys" / f"{mine}.pem", host / "keys")
        own = re.sub(rf"^ +store: {other}\n| +key: keys/{other}.pem\n", "", text, flags=re.MULTILINE)
        (host / "vmctl.yaml").write_text(own.replace(_NOWHERE, gateways[mine]))
        for name, script in SCRIPTS.items():
            (host / name).write_text(script)
            (host / name).chmod(0o755)
        (host / "in-progress").write_text("0\n")
    return roots
