"""Two hosts, what lies between them, and the verbs with which a row does something to them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from etcd import Cluster
from running import SERVERS, free_ports, wav
from typer.testing import CliRunner

from matrix.hosts import HEARTBEAT, LONG, MAILBOX, TTL, Host, Kind, divide, wait
from matrix.seen import Pulse, Sampler
from matrix.wires import Gateway, Way
from vmctl.cli.app import app
from vmctl.clock import Clock
from vmctl.config import Address
from vmctl.errors import NotYet, VmctlError
from vmctl.routes_file import read

if TYPE_CHECKING:
    from pathlib import Path

_TRICKLE = 0.2  # seconds between the messages of a stream


class Stage:
    """The network. The methods below `Verbs` are the words of the rows."""

    def __init__(self, root: Path, kind: Kind) -> None:
        self.root = root
        self.kind = kind
        self.clock = Clock()
        self.calls: list[int] = []  # the wall times at which the last call ended
        self._count = 0
        self._stream: threading.Thread | None = None
        self._streaming = threading.Event()
        self._troubles: list[str] = []
        self.isolated: set[str] = set()
        self.etcd = Cluster(root / "etcd", kind.etcd) if kind.etcd else None
        self._lost_at = 0.0
        self.pulse = Pulse(root / "pulse")
        self._build()

    def _build(self) -> None:
        ports = free_ports(2)
        self.receivers = {name: Address("127.0.0.1", port) for name, port in zip(SERVERS, ports, strict=True)}
        self.ways = {name: Way(tuple(self.receivers[name])) for name in SERVERS}
        self.gateways = {name: Gateway() for name in SERVERS}
        addresses = {name: Address(*self.ways[name].address) for name in SERVERS}
        targets = {name: str(Address(*self.gateways[name].address)) for name in SERVERS}
        self._divide(addresses, targets, dict.fromkeys(SERVERS, ()))

    def _divide(
        self, addresses: dict[str, Address], targets: dict[str, str], prefixes: dict[str, tuple[str, ...]]
    ) -> None:
        values: dict[str, Any] = {"mode": self.kind.mode, "servers.secondary.licensed": True}
        values |= {f"servers.{name}.listen": str(self.receivers[name]) for name in SERVERS}
        if self.etcd is not None:
            values["arbiter.endpoints"] = self._endpoints()
        roots = divide(self.root, addresses, values, targets)
        self.hosts = {name: Host(root, name, prefixes[name]) for name, root in roots.items()}

    def _endpoints(self) -> list[str]:
        assert self.etcd is not None
        return list(self.etcd.urls)

    def open(self) -> None:
        """Start everything, and wait for normal operation."""
        if self.etcd is not None:
            self.etcd.start()
        for name, extension in MAILBOX.items():
            self.hosts[name].net.do("mailbox", "create", extension, "--name", f"Box {extension}")
        for host in self.hosts.values():
            host.start()
        self.normal()
        for host in self.hosts.values():
            host.book.mark()

    def close(self) -> None:
        """End everything."""
        self._streaming.clear()
        for host in self.hosts.values():
            host.kill()
        if self.etcd is not None:
            self.etcd.kill()
        for each in (*self.ways.values(), *self.gateways.values(), self.pulse):
            each.close()

    def sampler(self) -> Sampler:
        """Looks at what both tell others."""
        return Sampler({name: host.net.path(name, ".vmctl/routes.json") for name, host in self.hosts.items()})

    @property
    def mode(self) -> str:
        """The present mode."""
        return str(self.hosts[SERVERS[0]].status().get("mode", self.kind.mode))

    def is_normal(self) -> bool:
        """Whether both say that every service is served by its home, and hold the same."""
        status = [host.status() for host in self.hosts.values()]
        homes = self.hosts[SERVERS[0]].net.config.homes(self.mode)
        return all(
            each["in_step"]
            and {one["name"]: one["serving"] for one in each["services"]} == homes
            and all(one["state"] == "normal" and not one["waiting_for"] for one in each["services"])
            for each in status
        )

    def normal(self) -> None:
        """Wait for normal operation."""
        wait(self.is_normal, "normal operation", self.told)

    def told(self) -> str:
        """What both say of the services, and the last words of a daemon that has ended by itself, for a failure."""
        words = ("name", "serving", "state", "cause", "waiting_for")
        return "; ".join(
            f"{name}: {[tuple(one[word] for word in words) for one in host.status()['services']]}{host.last_words()}"
            for name, host in self.hosts.items()
        )

    # Messages

    @property
    def streams(self) -> bool:
        """Whether messages are left all the time."""
        return self._streaming.is_set()

    def leave(self) -> None:
        """Leave a message at each server where a command can; those that are taken must never be lost."""
        for host in self.hosts.values():
            if host.awake:
                self._count += 1
                audio = wav(host.net.root / f"{self._count}.wav", level=self._count % 30_000)
                done = CliRunner(env={"VMCTL_CONFIG": str(host.net.root)}).invoke(
                    app, ["message", "leave", MAILBOX[host.server], "--audio", str(audio)]
                )
                assert done.exit_code == 0, f"no message could be left at the {host.server}: {done.output}"
                host.left[done.stdout.strip()] = audio.read_bytes()
                audio.unlink()

    def lost(self) -> list[str]:
        """The messages that were left anywhere and are not on both servers as they were left."""
        found = []
        for host in self.hosts.values():
            for ident, sound in host.left.items():
                for there in self.hosts.values():
                    path = there.net.path(there.server, f"mailboxes/{MAILBOX[host.server]}/messages/{ident}.wav")
                    if not (path.exists() and path.with_suffix(".json").exists() and path.read_bytes() == sound):
                        found.append(f"{ident}, left at {host.server}, is not at {there.server}")
        return found

    # Verbs: what is done to whom

    def do(self, action: str) -> None:
        """Do what a row says: a verb of this class, and its words."""
        verb, *words = action.split()
        getattr(self, f"do_{verb}")(*words)

    def do_isolate(self, *servers: str) -> None:
        """Nothing reaches a server, and it reaches nothing; several at once.

        On a machine that is slow it may take long until a server knows: until then the other one is still heard.
        """
        self.isolated |= set(servers)
        for name in servers:
            self.gateways[name].down()
        for name in servers:
            wait(lambda name=name: self._is_cut_off(name), f"{name} knows that it is cut off")
        self._wires()

    def do_rejoin(self, *servers: str) -> None:
        """It is back on the network."""
        self.isolated -= set(servers)
        self._wires()

    def _is_cut_off(self, server: str) -> bool:
        around = self.hosts[server].status()["servers"][server]["surroundings"] or {}
        return around.get("reachability", {}).get("cut_off") is True

    def _wires(self) -> None:
        for name in SERVERS:
            (self.gateways[name].down if name in self.isolated else self.gateways[name].up)()
            (self.ways[name].hole if self.isolated else self.ways[name].open)()

    def do_cut(self, server: str | None = None) -> None:
        """Connections to a server are reset; to both."""
        for name in SERVERS:
            if server in {None, name}:
                self.ways[name].cut()

    def do_swallow(self, server: str) -> None:
        """What is sent to a server gets nowhere, and nobody is told."""
        self.ways[server].hole()

    def do_mend(self) -> None:
        """All ways are open again."""
        for way in self.ways.values():
            way.open()

    def do_kill(self, *servers: str) -> None:
        """Daemons are killed."""
        for name in servers:
            self.hosts[name].kill()

    def do_start(self, *servers: str) -> None:
        """Daemons are started."""
        for name in servers:
            self.hosts[name].start()

    def do_freeze(self, server: str) -> None:
        """A daemon stands still, between two turns: a command may have to wait for the lock of one that does not."""
        self.hosts[server].send(signal.SIGSTOP)
        self.hosts[server].away()

    def do_thaw(self, server: str) -> None:
        """It goes on."""
        self.hosts[server].back()
        self.hosts[server].send(signal.SIGCONT)

    def do_unmount(self, server: str) -> None:
        """A store is not there."""
        store = self.hosts[server].net.root / server
        self.hosts[server].away()
        store.rename(store.with_name("elsewhere"))

    def do_mount(self, server: str) -> None:
        """It is there again, as it was."""
        store = self.hosts[server].net.root / server
        store.with_name("elsewhere").rename(store)
        self.hosts[server].back()

    def do_sicken(self, server: str) -> None:
        """A server's application does not answer any more, and the server knows."""
        (self.hosts[server].net.root / "unwell").touch()
        self._well(server, so=False)

    def do_cure(self, server: str) -> None:
        """It answers again."""
        (self.hosts[server].net.root / "unwell").unlink()
        self._well(server, so=True)

    def _well(self, server: str, *, so: bool) -> None:
        def look() -> bool:
            around = self.hosts[server].status()["servers"][server]["surroundings"] or {}
            return around.get("health", {}).get("well") is so

        wait(look, f"the health of {server}", self.told)

    def do_call(self, server: str) -> None:
        """A call is in progress at a server."""
        self._calls(server, 1)

    def do_hangup(self, server: str) -> None:
        """It ends."""
        self.calls.append(self.clock.wall())
        self._calls(server, 0)

    def _calls(self, server: str, number: int) -> None:
        path = self.hosts[server].net.root / "in-progress"
        beside = path.with_name("in-progress.new")
        beside.write_text(f"{number}\n")
        beside.rename(path)

    def do_command(self, server: str, *words: str) -> None:
        """A person types a command; where the other server is away it may say that this one alone knows."""
        done = self.hosts[server].net.run(*words)
        away = any(host.process is None for host in self.hosts.values())
        fine = {0, NotYet.exit_code} if away else {0}
        assert done.returncode in fine, f"vmctl {' '.join(words)} exited {done.returncode}: {done.stderr}"

    def do_stream(self) -> None:
        """From now on messages are left all the time."""

        def run() -> None:
            try:
                while self._streaming.is_set():
                    self.leave()
                    time.sleep(_TRICKLE)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the row is to show it
                self._troubles.append(f"{type(error).__name__}: {error}")

        self._streaming.set()
        self._stream = threading.Thread(target=run)
        self._stream.start()

    def do_dam(self) -> None:
        """The stream ends; nothing that it left may have been refused."""
        self._streaming.clear()
        assert self._stream is not None
        self._stream.join(timeout=2 * LONG)
        self._stream = None
        assert self._troubles == []

    # Verbs: what is waited for

    def do_unheard(self, server: str) -> None:
        """A server does not hear the other one any more."""
        other = next(name for name in SERVERS if name != server)
        wait(lambda: self.hosts[server].status()["servers"][other]["reachable"] is False, f"{server} hears nobody")

    def do_awaited(self, server: str, *words: str) -> None:
        """The status at a server says that this is what a service waits for."""

        def look() -> bool:
            services = self.hosts[server].status()["services"]
            return any(" ".join(words) in each for one in services for each in one["waiting_for"])

        wait(look, f"{' '.join(words)!r} in what {server} waits for", self.told)

    # Verbs: the arbiter

    def do_lose(self, what: str) -> None:
        """The node of etcd that leads is lost, or all of them."""
        assert self.etcd is not None
        self._lost_at = self.clock.steady()
        if what == "leader":
            self.etcd.leader().kill()
        else:
            self.etcd.kill()

    def do_outlive(self, server: str) -> None:
        """A server still tells others that it serves when all that the lost arbiter lent is over."""

        def look() -> bool:
            with contextlib.suppress(VmctlError):
                document = read(self.hosts[server].net.path(server, ".vmctl/routes.json"))
                served = server in {each["serving"] for each in document["services"].values()}
                return bool(served and document["valid_until"]["steady"] > self._lost_at + TTL + HEARTBEAT)
            return False

        wait(look, f"{server} serves on without the arbiter", self.told)
        wait(lambda: self.clock.steady() > self._lost_at + TTL, "the end of all leases")

    def do_restore(self, what: str) -> None:
        """Etcd is whole again."""
        assert self.etcd is not None, what
        self.etcd.start()
