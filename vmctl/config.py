"""vmctl.yaml: the network, its servers and services, and every timer and bound, checked as a whole before use.

Durations are float seconds and sizes int bytes. `config_keys` holds the table of keys, `config_values` how a value is
written, `config_checks` what is refused.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vmctl import yamltext
from vmctl.config_checks import MEMBERS, Fault, Values, check_together, read_values
from vmctl.config_keys import MODES, SERVERS
from vmctl.config_parts import (
    Arbiter,
    Audio,
    Calls,
    Clock,
    Failback,
    Failover,
    Handover,
    Health,
    History,
    Hooks,
    Housekeeping,
    Journal,
    Lease,
    Limits,
    Link,
    Mail,
    Reachability,
    Relay,
    Routes,
    Scan,
    Server,
    Service,
    Sync,
    Tombstones,
    Webhook,
)
from vmctl.config_text import reference, template
from vmctl.config_values import Address, parse_address
from vmctl.errors import BrokenFile, ConfigFaults, ConfigMissing
from vmctl.model import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "FILE", "MODES", "SERVERS", "Address", "Arbiter", "Audio", "Calls", "Clock", "Config", "Failback", "Failover", "Handover",
    "Health", "History", "Hooks", "Housekeeping", "Journal", "Lease", "Limits", "Link", "Mail", "Reachability", "Relay", "Routes",
    "Scan", "Server", "Service", "Sync", "Tombstones", "Webhook", "find", "load", "parse", "parse_address", "reference", "template",
]  # fmt: skip

FILE: Final = "vmctl.yaml"
VARIABLE: Final = "VMCTL_CONFIG"

_SHARED: Final = (
    "failover", "failback", "handover", "lease", "sync", "mail", "audio", "housekeeping", "history", "tombstones", "clock", "limits",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """One vmctl.yaml without a fault."""

    path: Path
    network: str
    mode: str
    servers: dict[str, Server]
    services: dict[str, Service]
    failover: Failover
    failback: Failback
    handover: Handover
    lease: Lease
    arbiter: Arbiter
    health: Health
    reachability: Reachability
    calls: Calls
    hooks: Hooks
    webhooks: dict[str, Webhook]
    routes: Routes
    journal: Journal
    sync: Sync
    scan: Scan
    link: Link
    relay: Relay
    mail: Mail
    audio: Audio
    housekeeping: Housekeeping
    history: History
    tombstones: Tombstones
    clock: Clock
    limits: Limits

    def peer_of(self, name: str) -> Server:
        """The other server."""
        return self.servers["secondary" if name == "primary" else "primary"]

    def here(self) -> list[Server]:
        """The servers whose stores are on this host: one or two."""
        return [server for server in self.servers.values() if server.here]

    def homes(self, mode: str) -> dict[str, str]:
        """The home of each service in a mode: in active-standby the primary's for all of them."""
        alone = mode == "active-standby"
        return {name: SERVERS[0] if alone else service.home for name, service in self.services.items()}

    def service_of_extension(self, extension: str) -> Service | None:
        """The service that lists the extension; None when the mailbox itself says it."""
        return self._service_by_extension.get(extension)

    def service_of(self, extension: str | None, named: str | None) -> str:
        """The service of a mailbox: the one that lists its extension, else the one that it names, else the first."""
        listed = self._service_by_extension.get(extension or "")
        return listed.name if listed else named if named in self.services else next(iter(self.services))

    @property
    def sealed(self) -> bool:
        """Whether mails are sealed: by default wherever they do not go over the pinned direct link."""
        direct = self.relay.address is None and not self.link.plain
        return self.mail.seal == "always" or (self.mail.seal == "auto" and not direct)

    def relayed(self, name: str) -> bool:
        """Whether mail servers stand between a server that is here and its peer, as far as this vmctl.yaml tells."""
        me = self.servers[name]
        return self.relay.address is not None or me.listen is None or me.maildir is not None

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What must be the same on both servers, as JSON values: all but stores, keys, addresses and scan timers."""
        services = {
            name: {"home": service.home} | {part: sorted(getattr(service, part)) for part in MEMBERS}
            for name, service in self.services.items()
        }
        sections = {name: getattr(self, name)._asdict() for name in _SHARED}
        sections["audio"]["formats"] = sorted(self.audio.formats)
        sections["mail"] = {"max": self.mail.max}  # how it leaves is each server's own
        licensed = {name: server.licensed for name, server in self.servers.items()}
        arbiter = {"endpoints": sorted(self.arbiter.endpoints), "prefix": self.arbiter.prefix}
        return {
            "network": self.network, "mode": self.mode, "services": services, "licensed": licensed, "arbiter": arbiter, **sections,
        }  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of what must be the same on both servers."""
        return hashlib.sha256(canonical(self.shared)).hexdigest()[:16]

    @cached_property
    def digests(self) -> dict[str, str]:
        """The same key by key: by dotted path 8 hex digits of the SHA-256 of the value. To find what differs."""
        return {path: hashlib.sha256(canonical(value)).hexdigest()[:8] for path, value in _flat("", self.shared)}

    def differing(self, theirs: Any) -> list[str]:
        """The keys that are not the same as in the peer's `digests`."""
        told = theirs if isinstance(theirs, dict) else {}
        return sorted(path for path in {*self.digests, *map(str, told)} if self.digests.get(path) != told.get(path))

    @cached_property
    def _service_by_extension(self) -> dict[str, Service]:
        return {extension: service for service in self.services.values() for extension in service.extensions}


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The vmctl.yaml to use: the one named, else VMCTL_CONFIG, else the one of this directory or the nearest above.

    A directory stands for the vmctl.yaml in it. Raises ConfigMissing.
    """
    named = explicit or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        path = named / FILE if os.path.isdir(named) else named  # noqa: PTH112 - False also where it may not look
        try:
            path.stat()
        except OSError as error:
            raise _missing(path, error, "" if explicit else f", which {VARIABLE} names") from error
        return path
    try:
        here = Path.cwd()
    except OSError as error:
        raise ConfigMissing("the working directory is gone", why=error.strerror or str(error)) from error
    for directory in (here, *here.parents):
        if os.path.isfile(directory / FILE):  # noqa: PTH113
            return directory / FILE
    raise ConfigMissing(f"there is no {FILE} in {here} or a directory above it")


def load(path: Path) -> Config:
    """The config in the file. Raises ConfigMissing, or ConfigFaults with all that is wrong in it."""
    try:
        with path.open("rb") as file:
            text = file.read(yamltext.SIZE + 1)
    except OSError as error:
        raise _missing(path, error) from error
    return parse(text, path)


def parse(text: str | bytes, path: Path) -> Config:
    """The config that `text` holds, as if it stood in `path`. Raises ConfigFaults."""
    try:
        document = yamltext.load(text, path.name)
    except BrokenFile as error:
        fault = Fault("", f"{error.what}: {error.why}", "mend the line; docs/config.md shows how a file looks")
        raise _faults(path, [fault]) from error
    values, faults = read_values(document, path.absolute().parent)
    faults += check_together(values, {fault.key for fault in faults})
    if faults:
        raise _faults(path, faults)
    return _built(values, path)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _flat(f"{path}.{name}" if path else name, below)
    else:
        yield path, value


def _missing(path: Path, error: OSError, words: str = "") -> ConfigMissing:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ConfigMissing(f"there is no {path}{words}")
    return ConfigMissing(
        f"cannot read {path}{words}",
        why=error.strerror or str(error),
        hint="name the file, and let the user who runs vmctl read it",
    )


def _faults(path: Path, faults: list[Fault]) -> ConfigFaults:
    what = f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {path}"
    return ConfigFaults(what, [{"file": str(path), **fault._asdict()} for fault in faults])


def _built(values: Values, path: Path) -> Config:
    return Config(
        path=path.absolute(),
        network=values["network"],
        mode=values["mode"],
        servers={name: _server(name, _section(values, f"servers.{name}")) for name in SERVERS},
        services={name: Service(name, **_section(values, f"services.{name}")) for name in values["services"]},
        failover=Failover(**_section(values, "failover")),
        failback=Failback(**_section(values, "failback")),
        handover=Handover(**_section(values, "handover")),
        lease=Lease(**_section(values, "lease")),
        arbiter=Arbiter(**_section(values, "arbiter")),
        health=Health(**_section(values, "health")),
        reachability=Reachability(**_section(values, "reachability")),
        calls=Calls(**_section(values, "calls")),
        hooks=Hooks(**_section(values, "hooks")),
        webhooks={name: Webhook(**_section(values, f"webhooks.{name}")) for name in values["webhooks"]},
        routes=Routes(**_section(values, "routes")),
        journal=Journal(**_section(values, "journal")),
        sync=Sync(**_section(values, "sync")),
        scan=Scan(**_section(values, "scan")),
        link=Link(**_section(values, "link")),
        relay=Relay(**_section(values, "relay")),
        mail=Mail(**_section(values, "mail")),
        audio=Audio(**_section(values, "audio")),
        housekeeping=Housekeeping(**_section(values, "housekeeping")),
        history=History(**_section(values, "history")),
        tombstones=Tombstones(**_section(values, "tombstones")),
        clock=Clock(**_section(values, "clock")),
        limits=Limits(**_section(values, "limits")),
    )


def _server(name: str, part: Values) -> Server:
    absent = dict.fromkeys(("store", "key", "public_key", "seal_key", "former_key", "maildir"))
    return Server(name, **{**absent, "former_until": 0, "listen": part["address"], **part})


def _section(values: Values, path: str) -> Values:
    start = path + "."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
