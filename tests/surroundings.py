"""What tests of probes share: commands written by the test, places on loopback that answer or do not, a clock by hand."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from running import until

from vmctl import network
from vmctl.clock import Clock
from vmctl.probes import Probes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator


class HandClock(Clock):
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.passed = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds

    def wall(self) -> int:
        return 1_790_000_000_000_000 + int(self.passed * 1_000_000)

    def steady(self) -> float:
        return 5000.0 + self.passed


def script(path: Path, *lines: str) -> Path:
    """A program: these lines of sh."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def gone(pid: int) -> bool:
    """Whether a process has ended; that its parent has not asked for it yet is no matter."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def no_trace(pid: int) -> bool:
    """Whether nothing at all is left of a process, no zombie either."""
    return not Path(f"/proc/{pid}").exists()


def pid_in(path: Path) -> int:
    """The number that a script has written, as soon as it has."""
    return int(until(lambda: path.exists() and path.read_text().strip(), what=f"a number in {path.name}"))


@contextlib.contextmanager
def listener() -> Iterator[str]:
    """A place that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A place that refuses connections, and stays so: the port is taken, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


class Silent:
    """A place that never answers: what listens there takes nobody in, and its queue is full."""

    def __init__(self) -> None:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        self._queue = [socket.socket() for _ in range(8)]
        for sock in self._queue:
            sock.setblocking(False)
            sock.connect_ex(self._server.getsockname())
        full = select.poll()
        full.register(self._server, select.POLLIN)
        assert full.poll(20_000)  # a busy machine may be slow to let the first one in
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def close(self) -> None:
        """From now on it refuses."""
        for sock in (self._server, *self._queue):
            sock.close()


class Around:
    """The probes of the primary of a new network, and what a test looks at."""

    def __init__(self, root: Path, clock: Clock | None = None, mode: str = "active-standby", **settings: Any) -> None:
        values = {name.replace("__", "."): value for name, value in settings.items()}
        self.config = network.make(root, mode=mode, settings=values)
        self.root = root
        self.clock = clock or Clock()
        self.woken = 0
        self.probes = Probes(self.config, "primary", self.clock, wake=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def ticking(self, so: Callable[[Probes], Any], waiting: Collection[str] = (), *, what: str = "it") -> Any:
        """Tick until something is so; its value."""

        def look() -> Any:
            self.probes.tick(waiting)
            return so(self.probes)

        return until(look, what=what)

    def asked(self, name: str = "asked") -> int:
        """How many lines the scripts have written into a file: each writes one."""
        path = self.root / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def answer(self, text: str) -> None:
        """What `answering` scripts do from now on: lines of sh."""
        beside = self.root / "answer.new"
        beside.write_text(text)
        beside.rename(self.root / "answer")

    def idle(self) -> None:
        """Wait until no question is open."""
        until(lambda: not probing(), what="the end of all questions")


def probing() -> list[threading.Thread]:
    """The threads that ask something now."""
    return [thread for thread in threading.enumerate() if thread.name == "vmctl probe"]


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


ANSWERING = ("sh", "-c", "echo >> asked; . ./answer")
