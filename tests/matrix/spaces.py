"""The stage in network namespaces: each host has its own, with a veth to a bridge that is taken down. For root on Linux.

The process that makes it is in a namespace of its own (`unshare -n`), in which the bridge and etcd are: whatever is made
here is gone when it ends, and the machine's own network is not touched.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from running import SERVERS

from matrix.stage import Stage
from matrix.wires import Way
from vmctl.config import Address

if TYPE_CHECKING:
    from pathlib import Path

    from matrix.hosts import Kind

HUB = "10.77.0.254"
HOSTS = {"primary": "10.77.0.1", "secondary": "10.77.0.2"}
_PORT = 2525
_NOBODY = 9  # on the hub, which refuses: so it is reached


class Spaces(Stage):
    """Two hosts that can be unplugged."""

    def __init__(self, root: Path, kind: Kind) -> None:
        self._holders: list[subprocess.Popen[str]] = []
        self._doors: list[Way] = []
        super().__init__(root, kind)

    def _build(self) -> None:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        _ip("address", "add", f"{HUB}/24", "dev", "hub")
        _ip("link", "set", "hub", "up")
        self.ways, self.gateways = {}, {}
        self.receivers = {name: Address(address, _PORT) for name, address in HOSTS.items()}
        prefixes = {name: self._space(name) for name in SERVERS}
        targets = {name: str(Address(HUB, _NOBODY)) for name in SERVERS}
        self._divide(self.receivers, targets, prefixes)

    def _space(self, name: str) -> tuple[str, ...]:
        """Make a host's namespace; what to put before a command to run it there."""
        holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo made; exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "made\n"
        self._holders.append(holder)
        inside = ("nsenter", "-t", str(holder.pid), "-n")
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("link", "set", name, "master", "hub", "up")
        _ip("link", "set", "lo", "up", inside=inside)
        _ip("address", "add", f"{HOSTS[name]}/24", "dev", "eth0", inside=inside)
        _ip("link", "set", "eth0", "up", inside=inside)
        return inside

    def _endpoints(self) -> list[str]:
        assert self.etcd is not None
        self._doors = [Way(("127.0.0.1", node.port), (HUB, 0)) for node in self.etcd.nodes]
        return [f"http://{Address(*door.address)}" for door in self._doors]

    def do_isolate(self, *servers: str) -> None:
        """Their cables are pulled."""
        self.isolated |= set(servers)
        self._wires()

    def _wires(self) -> None:
        for name in SERVERS:
            _ip("link", "set", name, "down" if name in self.isolated else "up")

    def close(self) -> None:
        """End everything."""
        super().close()
        for door in self._doors:
            door.close()
        for holder in self._holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()
        for link in (*SERVERS[: len(self._holders)], "hub"):
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)


def _ip(*words: str, inside: tuple[str, ...] = ()) -> None:
    subprocess.run([*inside, "ip", *words], check=True)
