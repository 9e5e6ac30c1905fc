"""A network in a directory, and vmctl run on it as people run it: as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from typer.testing import CliRunner

from vmctl import config, link, network
from vmctl.cli.app import app
from vmctl.clock import Clock
from vmctl.config import Address, Config
from vmctl.journal import Journal
from vmctl.mail import parse
from vmctl.status import gather

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
SERVERS = ("primary", "secondary")
QUICK = {
    "scan.settle": "50ms",
    "scan.debounce": "10ms",
    "sync.heartbeat": "200ms",
    "failover.after": "2500ms",
    "failover.start_wait": "1500ms",
    "failback.hold": "300ms",
}


def environment() -> dict[str, str]:
    """The environment of a process that imports this checkout and is pointed at no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VMCTL_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # every command would compile its modules again
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


def run(*words: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run vmctl to its end."""
    return subprocess.run(
        [sys.executable, "-m", "vmctl", *words],
        cwd=cwd, env=more.pop("env", environment()), capture_output=True, text=True, timeout=60, check=False, **more,
    )  # fmt: skip


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(number)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


def wav(path: Path, frames: int = 800, level: int = 1000) -> Path:
    """A short recording; other levels are other bytes."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(((level + n) % 30000).to_bytes(2, "little") for n in range(frames)))
    return path


def until(so: Callable[[], Any], *, within: float = 20.0, what: str = "it") -> Any:
    """Wait until something is so; its value. It fails when that takes too long, with what was waited for."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not (value := so()):
        assert time.monotonic() < deadline, f"{what} did not come true within {within} s"
        pause.wait(0.02)
    return value


class Commands:
    """`vmctl` at the primary of the network in a directory, run in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "primary"

    def __call__(self, *words: str, code: int = 0, stdin: str | None = None) -> Any:
        """Run a command, which must exit with `code`; its result."""
        env = {"VMCTL_CONFIG": str(self.directory), "VMCTL_SERVER": "primary"}
        result = CliRunner(env=env).invoke(app, words, input=stdin)
        assert code == result.exit_code, result.output
        return result

    def json(self, *words: str, stdin: str | None = None) -> Any:
        """Run a command with --json; the value."""
        return json.loads(self(*words, "--json", stdin=stdin).stdout)


@dataclass
class Net:
    """One network with both stores in `root`."""

    root: Path
    config: Config

    @classmethod
    def make(cls, root: Path, mode: str = "active-standby", **settings: Any) -> Net:
        """A new network on free ports, with quick timers."""
        addresses = {name: Address("127.0.0.1", port) for name, port in zip(SERVERS, free_ports(2), strict=True)}
        values = QUICK | {name.replace("__", "."): value for name, value in settings.items()}
        return cls(root, network.make(root, mode=mode, addresses=addresses, settings=values))

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run vmctl in the network's directory."""
        return run(*words, cwd=self.root, **more)

    def do(self, *words: str, **more: Any) -> str:
        """Run vmctl, which must exit 0; its output."""
        done = self.run(*words, **more)
        assert done.returncode == 0, f"vmctl {' '.join(words)} exited {done.returncode}: {done.stderr}"
        return done.stdout

    def here(self, *words: str) -> str:
        """Run vmctl in this process, which takes a tenth of the time; it must exit 0; its output. For one thread."""
        done = CliRunner(env={"VMCTL_CONFIG": str(self.root)}).invoke(app, words)
        assert done.exit_code == 0, f"vmctl {' '.join(words)} exited {done.exit_code}: {done.output}"
        return done.stdout

    def read(self, *words: str) -> Any:
        """Run vmctl with --json, in this process; the value."""
        return json.loads(self.here(*words, "--json"))

    def path(self, server: str, path: str) -> Path:
        """A file of a store."""
        return self.root / server / path

    def leave(self, server: str, extension: str, audio: Path) -> str:
        """Leave a message, in this process; its id."""
        return self.here("message", "leave", extension, "--audio", str(audio), "--server", server).strip()

    def calling(self, server: str) -> ssl.SSLContext:
        """What a server, or one that has its key, calls its peer with."""
        me, peer = self.config.servers[server], self.config.peer_of(server)
        return link.calling(me.key, peer.identities(0))

    def receiving(self, server: str) -> ssl.SSLContext:
        """What a server, or one that has its key, is called with."""
        me, peer = self.config.servers[server], self.config.peer_of(server)
        return link.receiving(me.key, peer.identities(0))

    def status(self) -> dict[str, Any]:
        """The status, without starting a process."""
        return gather(config.load(self.root / "vmctl.yaml"), Clock())

    def service(self) -> dict[str, Any]:
        """The first service's status."""
        value: dict[str, Any] = self.status()["services"][0]
        return value

    def moves(self, server: str) -> list[str]:
        """The states that the journal of a server says a service went to, in order."""
        journal = Journal(self.path(server, ".vmctl/journal.jsonl"))
        return [entry["to"]["state"] for entry in journal.entries() if entry["kind"] == "transition"]

    @contextlib.contextmanager
    def daemon(self, server: str, first: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """`vmctl serve` for a server; killed at the end if it still runs. `first` is Python that its process runs first."""
        words = ["serve", "--server", server]
        begin = (
            ["-c", f"{first}\nimport sys, vmctl.__main__ as vmctl\nsys.exit(vmctl.main())"]
            if first
            else ["-m", "vmctl"]
        )
        with (self.root / f"{server}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *begin, *words],
                cwd=self.root, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def log(self, server: str) -> str:
        """What a daemon wrote."""
        return (self.root / f"{server}.log").read_text()


class Judge:
    """The peer's mail server: it says `reply` to every mail with a record whose key has `unwanted` in it, or to all mails."""

    def __init__(self, net: Net, reply: str) -> None:
        self._net = net
        self._reply = reply
        self.unwanted = "none such"
        self.everything = False
        self.taken: list[str] = []  # keys
        self.mails = 0  # whatever became of them

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """The end of a mail."""
        mail = parse(
            envelope.original_content, network=self._net.config.network, me="secondary", peer="primary",
            verify=lambda _signature, _data: True,
        )  # fmt: skip
        keys = [str(record["key"]) for record in mail.records]
        self.mails += 1
        if self.everything or any(self.unwanted in key for key in keys):
            return self._reply
        self.taken += keys
        return "250 taken"


@contextlib.contextmanager
def judging(net: Net, reply: str) -> Iterator[Judge]:
    """A server at the address of the secondary that says `reply` to what it does not take."""
    judge = Judge(net, reply)
    address = net.config.servers["secondary"].address
    controller = Controller(
        judge, hostname=address.host, port=address.port, tls_context=net.receiving("secondary"), require_starttls=True
    )
    controller.start()
    try:
        yield judge
    finally:
        controller.stop()
