"""A real etcd on loopback for tests: one node or three, which can be stopped, frozen and started again; and a slow wire."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest
from running import free_ports, until

from vmctl import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REQUIRED = "VMCTL_REQUIRE_ETCD"
_BEAT, _ELECTION = 50, 500  # milliseconds; the least lease is one and a half elections, in whole seconds: 1 s
_TRIES = 3


def program() -> str:
    """The etcd to run; without one the test is skipped, or fails where the environment says VMCTL_REQUIRE_ETCD."""
    found = shutil.which("etcd")
    if found is None and os.environ.get(REQUIRED):
        pytest.fail(f"etcd is not installed, and {REQUIRED} is set")
    if found is None:
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    return found


def healthy(url: str) -> bool:
    """Whether the etcd there answers, and belongs to a majority."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
        return bool(json.load(answer)["health"] == "true")
    return False


class Node:
    """One etcd process with its data."""

    def __init__(self, name: str, directory: Path, ports: tuple[int, int]) -> None:
        self.name = name
        self.directory = directory
        self.port, self.peer_port = ports
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        """Where the other nodes reach it."""
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, cluster: str, *more: str, scheme: str = "http") -> None:
        """Start it, without waiting for it."""
        clients = f"{scheme}://127.0.0.1:{self.port}"
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    program(), "--name", self.name, "--data-dir", str(self.directory / "data"),
                    "--listen-client-urls", clients, "--advertise-client-urls", clients,
                    "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
                    "--initial-cluster", cluster, "--heartbeat-interval", str(_BEAT),
                    "--election-timeout", str(_ELECTION), "--logger", "zap", "--log-level", "warn", *more,
                ],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def healthy(self) -> bool:
        """Whether it answers, and belongs to a majority."""
        with (
            contextlib.suppress(OSError, ValueError),
            urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer,
        ):
            return bool(json.load(answer)["health"] == "true")
        return False

    @property
    def leads(self) -> bool:
        """Whether it says that it is the leader."""
        request = urllib.request.Request(f"{self.url}/v3/maintenance/status", b"{}")
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=1) as answer:
            value = json.load(answer)
            return bool(value.get("leader") == value["header"]["member_id"])
        return False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, also where it is frozen."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still: it takes connections and answers nothing."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            if self.process is not None:
                self.send(signal.SIGCONT)


class Cluster:
    """One etcd of some nodes."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        ports = free_ports(2 * size)
        pairs = zip(ports[::2], ports[1::2], strict=True)
        self.nodes = [Node(f"n{at}", directory / f"n{at}", pair) for at, pair in enumerate(pairs)]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is asked."""
        return tuple(node.url for node in self.nodes)

    def arbiter(self, *urls: str, **more: Path) -> config.Arbiter:
        """The config of a server that asks it, at its own URLs unless others are given."""
        return config.Arbiter(urls or self.urls, "/vmctl", **more)

    def start(self, *names: str) -> None:
        """Start the nodes that are named, or all that do not run, and wait until they are well."""
        cluster = ",".join(f"{node.name}={node.peer_url}" for node in self.nodes)
        for node in self.nodes:
            if node.process is None and (not names or node.name in names):
                node.start(cluster)
        self.wait()

    def wait(self) -> None:
        """Wait until the nodes that run are well. Raises ChildProcessError when one has ended."""

        def well() -> bool:
            running = [node for node in self.nodes if node.process is not None]
            for node in running:
                if node.process is not None and node.process.poll() is not None:
                    raise ChildProcessError((node.directory / "log").read_text()[-2000:])
            return all(node.healthy for node in running)

        until(well, within=30, what="a healthy etcd")

    def leader(self) -> Node:
        """The node that leads."""
        return until(lambda: next((node for node in self.nodes if node.leads), None), what="a leader")  # type: ignore[no-any-return]

    def kill(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.kill()


@contextlib.contextmanager
def running(directory: Path, size: int = 1) -> Iterator[Cluster]:
    """A cluster that is well. A port that somebody else took meanwhile is no fault of a test: then others are tried."""
    for at in range(_TRIES):
        cluster = Cluster(directory / str(at), size)
        try:
            cluster.start()
            break
        except ChildProcessError:
            cluster.kill()
            if at + 1 == _TRIES:
                raise
    try:
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def shared_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node for all tests of a process."""
    with running(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, likewise."""
    with running(tmp_path_factory.mktemp("etcd"), 3) as cluster:
        yield cluster


@pytest.fixture
def one(shared_one: Cluster) -> Cluster:
    """One node that is well. Others use it before and after: a test takes a network of its own there."""
    shared_one.start()
    return shared_one


@pytest.fixture
def three(shared_three: Cluster) -> Cluster:
    """Three nodes that are well, likewise."""
    shared_three.start()
    return shared_three


class Wire:
    """A TCP proxy before one node. What goes up waits for `delay` seconds, and as long as `holds(data)` says so."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.holds: Callable[[bytes], bool] = lambda _data: False
        self.held = threading.Event()  # something was held back
        self.idle = True  # whether all that came up was answered
        self._pause = threading.Event()
        self._port = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._ends = [self._socket]
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._run(self._accept)

    def _run(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                self._run(self._carry, near, far, True)
                self._run(self._carry, far, near, False)

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        # whoever asked may have gone away meanwhile: what was sent arrives all the same, as in a network
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.idle = not up
                if up:
                    self._pause.wait(self.delay)
                    while self.holds(data):
                        self.held.set()
                        self._pause.wait(0.01)
                sink.sendall(data)

    def close(self) -> None:
        """Cut all connections."""
        self._pause.set()
        self.holds = lambda _data: False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for end in self._ends:
            end.close()


@contextlib.contextmanager
def wire(node: Node) -> Iterator[Wire]:
    """A proxy before a node."""
    made = Wire(node.port)
    try:
        yield made
    finally:
        made.close()
