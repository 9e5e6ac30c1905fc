"""`vmctl demo`: the whole story on loopback in under a minute, every step checked: nothing is told that is not true.

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
        config = self._network()
        self._normal_operation(config)
        first = self._message_at_primary(config)
        self._primary_dies(config)
        second = self._message_at_secondary(config)
        self._primary_returns(config)
        self._proof(config, {first: AUDIO / "before.wav", second: AUDIO / "during.wav"})

    def _network(self) -> Config:
        self.say("chapter", "A network of two voicemail servers")
        addresses = {name: Address("127.0.0.1", port) for name, port in zip(network.ADDRESSES, _ports(), strict=True)}
        config = network.make(self.directory, addresses=addresses, settings=_TIMERS)
        self.say(
            "output",
            f"{self.directory}: vmctl.yaml, two empty stores, a key for each server; timers fifty times as fast",
        )
        self._vmctl("mailbox", "create", "2001", "--name", "Ada Byron", "--server", "primary")
        self._vmctl(
            "greeting", "set", "2001", "unavailable", "--audio", str(AUDIO / "greeting.wav"), "--server", "primary"
        )
        return config

    def _normal_operation(self, config: Config) -> None:
        self.say("chapter", "Normal operation: the primary is active, the secondary stands by")
        self._start("primary")
        self._start("secondary")
        self._until(config, "the primary serves", serving="primary", state="normal")
        took = self._wait("the mailbox is at the secondary", lambda: _shows(config, "secondary", "mailbox/2001"))
        self.say("good", f"the mailbox and its greeting came to the secondary over SMTP ({took:.2f} s)")
        self._vmctl("status")

    def _message_at_primary(self, config: Config) -> str:
        self.say("chapter", "A caller leaves a message at the primary")
        ident = self._leave("primary", "before.wav", "+442079460123", "Charles Babbage")
        took = self._wait(
            "the message is at the secondary", lambda: _shows(config, "secondary", f"message/2001/{ident}")
        )
        self.say("good", f"the secondary has it {took:.2f} s later")
        self._vmctl("message", "list", "2001", "--server", "secondary")
        return ident

    def _primary_dies(self, config: Config) -> None:
        self.say("chapter", "The primary is killed (SIGKILL)")
        daemon = self.daemons.pop("primary")
        daemon.kill()
        daemon.wait()
        took = self._until(config, "the secondary serves", serving="secondary", state="resilience")
        self.say("good", f"the secondary heard nothing for failover.after and took over ({took:.1f} s)")
        self._vmctl("status", "--server", "secondary")

    def _message_at_secondary(self, config: Config) -> str:
        self.say("chapter", "Resilience: a caller leaves a message at the secondary")
        ident = self._leave("secondary", "during.wav", "+442079460456", "Mary Somerville")
        if _shows(config, "primary", f"message/2001/{ident}"):
            raise DemoFailed("the dead primary holds the message that was left at the secondary")
        self.say("good", "the primary knows nothing of it yet")
        return ident

    def _primary_returns(self, config: Config) -> None:
        self.say("chapter", "The primary comes back: first the stores, then the role")
        self._start("primary")
        took = self._until(config, "the servers re-synchronize", serving="secondary", state="recovering")
        self.say("good", f"the secondary goes on serving while the two re-synchronize ({took:.1f} s)")
        took = self._until(config, "the primary serves again", serving="primary", state="normal")
        self.say("good", f"everything is acknowledged in both directions: the role went home ({took:.1f} s)")
        self._wait("both are in step", lambda: gather(config, Clock())["in_step"])
        self._vmctl("status")

    def _proof(self, config: Config, left: dict[str, Path]) -> None:
        self.say("chapter", "Nothing was lost")
        for server in config.servers:
            shown = json.loads(self._vmctl("message", "list", "2001", "--server", server, "--json", quiet=True))
            if sorted(message["id"] for message in shown) != sorted(left):
                raise DemoFailed(f"{server} does not show both messages", why=f"it shows {shown}")
            for ident, audio in left.items():
                place = self.directory / server / "mailboxes/2001/messages" / f"{ident}.wav"
                if digest_of(place)[0] != digest_of(audio)[0]:
                    raise DemoFailed(f"the recording {place} is not the one that was left")
        self.say("good", "both servers hold both messages, and the recordings are the same to the byte")
        self._vmctl("message", "list", "2001", "--server", "primary")
        self._vmctl("verify")
        self._vmctl("journal", "--server", "secondary")
        self._vmctl("journal", "--server", "secondary", "--verify")
        for name in list(self.daemons):
            self._stop(name)
        self.say("good", "both daemons stopped when they were told to")

    # The means

    def _leave(self, server: str, audio: str, caller: str, name: str) -> str:
        words = ("message", "leave", "2001", "--from", caller, "--name", name, "--audio", str(AUDIO / audio))
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

    def _stop_all(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
            daemon.wait()
        self.daemons.clear()

    def _until(self, config: Config, what: str, **wanted: str) -> float:
        """Wait until the status says so; the seconds that it took."""

        def so() -> bool:
            service = gather(config, Clock())["services"][0]
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


def _shows(config: Config, server: str, key: str) -> bool:
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
