"""How `vmctl demo` tells a story on loopback, every step checked: nothing is told that is not true.

Two real daemons, real mails, a real SIGKILL. The commands shown are the ones that run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmctl import network
from vmctl.audio import digest_of
from vmctl.clock import Clock
from vmctl.config import Address
from vmctl.errors import DemoFailed
from vmctl.status import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.config import Config

AUDIO = Path(__file__).parent / "demo_audio"
_PATIENCE = 15.0
_POLL = 0.02
# As in real life, but fifty times as fast.
_TIMERS = {
    "sync.heartbeat": "400ms",
    "failover.after": "2500ms",
    "failover.start_wait": "2s",
    "failback.hold": "1500ms",
    "scan.settle": "300ms",
    "scan.debounce": "20ms",
}


@dataclass
class Demo:
    """One run in `directory`. `say(kind, text)` tells the story: `chapter`, `command`, `output`, `good`."""

    directory: Path
    say: Callable[[str, str], None]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self) -> None:
        """Tell the story. Raises DemoFailed at the first step that does not come true; leaves nothing running."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _ended)
        try:
            self._story()
        finally:
            self._stop_all()

    def _story(self) -> None:
        raise NotImplementedError

    def _made(self, mode: str, boxes: dict[str, tuple[str, str]]) -> Config:
        """Make the network; `boxes` maps an extension to the name of its owner and the server where it is made."""
        self.say("chapter", "A network of two voicemail servers")
        addresses = {name: Address("127.0.0.1", port) for name, port in zip(network.ADDRESSES, _ports(), strict=True)}
        config = network.make(self.directory, mode=mode, addresses=addresses, settings=_TIMERS)
        self.say(
            "output",
            f"{self.directory}: vmctl.yaml, two empty stores, a key for each server; timers fifty times as fast",
        )
        for extension, (name, server) in boxes.items():
            self._vmctl("mailbox", "create", extension, "--name", name, "--server", server)
        return config

    def _prove(self, config: Config, extension: str, left: dict[str, Path]) -> None:
        """Both servers hold these messages of a mailbox, and the recordings that were left."""
        for server in config.servers:
            shown = json.loads(self._vmctl("message", "list", extension, "--server", server, "--json", quiet=True))
            if sorted(message["id"] for message in shown) != sorted(left):
                raise DemoFailed(f"{server} does not show the messages of {extension}", why=f"it shows {shown}")
            for ident, audio in left.items():
                place = self.directory / server / f"mailboxes/{extension}/messages" / f"{ident}.wav"
                if digest_of(place)[0] != digest_of(audio)[0]:
                    raise DemoFailed(f"the recording {place} is not the one that was left")

    # The means

    def _leave(self, server: str, audio: str, caller: str, name: str, extension: str = "2001") -> str:
        words = ("message", "leave", extension, "--from", caller, "--name", name, "--audio", str(AUDIO / audio))
        return self._vmctl(*words, "--server", server).strip()

    def _vmctl(self, *words: str, quiet: bool = False) -> str:
        """Run a command in the network's directory and show it with what it printed. Raises DemoFailed."""
        if not quiet:
            self.say("command", "vmctl " + shlex.join(word.replace(f"{AUDIO}/", "") for word in words))
        done = subprocess.run(  # noqa: S603 - our own interpreter, a list of words
            [sys.executable, "-m", "vmctl", *words],
            cwd=self.directory, env=_environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if not quiet:
            self.say("output", (done.stdout + done.stderr).rstrip())
        if done.returncode:
            raise DemoFailed(f"'vmctl {shlex.join(words)}' exited with {done.returncode}", why=done.stderr.strip())
        return done.stdout

    def _start(self, name: str) -> None:
        self.say("command", f"vmctl serve --server {name} &")
        with (self.directory / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(  # noqa: S603 - our own interpreter, a list of words
                [sys.executable, "-m", "vmctl", "serve", "--server", name],
                cwd=self.directory, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _stop(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(timeout=_PATIENCE) != 0:
            raise DemoFailed(f"the daemon of {name} exited with {daemon.returncode}", why=self._log(name))

    def _kill(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _stop_all(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
            daemon.wait()
        self.daemons.clear()

    def _until(self, config: Config, what: str, at: int = 0, **wanted: str) -> float:
        """Wait until the status says so of a service, the first one by default; the seconds that it took."""

        def so() -> bool:
            service = gather(config, Clock())["services"][at]
            return all(service[name] == value for name, value in wanted.items())

        return self._wait(what, so)

    def _wait(self, what: str, so: Callable[[], Any]) -> float:
        began = time.monotonic()
        pause = threading.Event()
        while not so():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise DemoFailed(f"the daemon of {name} exited with {daemon.returncode}", why=self._log(name))
            if time.monotonic() - began > _PATIENCE:
                logs = "\n".join(self._log(name) for name in ("primary", "secondary"))
                raise DemoFailed(f"it did not come true within {_PATIENCE:.0f} s that {what}", why=logs)
            pause.wait(_POLL)
        return time.monotonic() - began

    def _log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-1500:] if path.exists() else ""


def _ended(number: int, _frame: object) -> None:
    """Who ends the demo ends its daemons: the exit goes through every `finally`."""
    sys.exit(128 + number)


@contextlib.contextmanager
def place(keep: Path | None) -> Iterator[Path]:
    """The directory of a demo: one to keep, or a temporary one that is gone afterwards."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="vmctl-demo-") as name:
        yield Path(name) / "net"


def shows(config: Config, server: str, key: str) -> bool:
    """Whether a server's store has the file of a record."""
    from vmctl.store.native import NativeStore

    root = config.servers[server].store
    assert root is not None  # noqa: S101 - both are here
    store = NativeStore(root, config.audio.formats, config.limits.document)
    return store.look(store.path(key)) is not None


def _ports() -> list[int]:
    """Two ports that are free now."""
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in (one, other)]


def _environment() -> dict[str, str]:
    """The environment without what would point a command at another network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VMCTL_")}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
