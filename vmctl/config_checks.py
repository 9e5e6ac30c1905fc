"""All faults of a vmctl.yaml at once: first each key by itself, then what the keys say together.

Reading gives a flat mapping from concrete paths (`servers.primary.store`) to values; a key with a fault is not in it,
so that a check of several keys leaves out what is reported already. Under `servers` and `services` it has their names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl.config_keys import KEYS, REQUIRED, SERVERS, Key
from vmctl.names import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.config_values import Address

MEMBERS: Final = ("extensions", "trunks", "expansions", "applications")
_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound
_NAME_MEND = "use 1 to 64 letters, digits, '-' or '_', the first a letter or digit"
_HEARTBEATS = 3
_MAIL_TO_DOCUMENT = 16

Values = dict[str, Any]


class Fault(NamedTuple):
    """One fault: the dotted path of the key (empty for the file as a whole), what is wrong, what to do."""

    key: str
    why: str
    mend: str


def _tree() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key in KEYS:
        *above, last = key.path.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = key
    return tree


_TREE: Final = _tree()


def read_values(document: Any, base: Path) -> tuple[Values, list[Fault]]:
    """The values that are well by themselves, and the faults of the others. Relative paths are taken from `base`."""
    reading = _Reading(base)
    reading.section({} if document is None else document, _TREE, "")
    return reading.values, reading.faults


def check_together(values: Values, faulty: set[str]) -> list[Fault]:
    """The faults of values that are well by themselves but do not fit one another.

    `faulty` are the keys that are given but not in `values`.
    """
    here = _here({*values, *faulty}) if "servers" in values else ()
    return [*here, *(fault for check in _CHECKS for fault in check(values))]


class _Reading:
    """One walk through the document and the table side by side."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.values: Values = {}
        self.faults: list[Fault] = []

    def section(self, node: Any, tree: dict[str, Any], path: str) -> None:
        if not isinstance(node, dict):
            what = f"{type(node).__name__.replace('str', 'text')} stands where keys are expected"
            self.faults.append(Fault(path, what, "write its keys below it, each on a line of its own, indented"))
        elif "*" in tree:
            self._named(node, tree["*"], path)
        else:
            self._unknown(node, tree, path)
            for name, below in tree.items():
                here = f"{path}.{name}" if path else name
                if isinstance(below, Key):
                    self._value(node.get(name), below, here)
                else:
                    self.section({} if node.get(name) is None else node[name], below, here)

    def _named(self, node: dict[str, Any], tree: dict[str, Any], path: str) -> None:
        self.values[path] = tuple(name for name in node if is_name(name))
        for name, below in node.items():
            if is_name(name):
                self.section({} if below is None else below, tree, f"{path}.{name}")
            else:
                self.faults.append(Fault(path, f"{name[:80]!r} is no name", _NAME_MEND))

    def _unknown(self, node: dict[str, Any], tree: dict[str, Any], path: str) -> None:
        for name in node:
            if name not in tree:
                from difflib import get_close_matches

                close = get_close_matches(name[:80], tree, n=1)
                mend = f"did you mean '{close[0]}'?" if close else "remove it; known here are " + ", ".join(tree)
                self.faults.append(Fault(f"{path}.{name[:80]}".lstrip("."), "there is no such key", mend))

    def _value(self, value: Any, key: Key, path: str) -> None:
        if value is None:
            value = key.default
        if value is REQUIRED:
            self.faults.append(Fault(path, "it is missing", f"write {key.kind.words}"))
        elif value is not None:
            try:
                read = key.kind.read(value)
            except ValueError as error:
                self.faults.append(Fault(path, str(error), f"write {key.kind.words}"))
            else:
                self.values[path] = self.base / read if isinstance(read, Path) else read


def _servers(values: Values) -> Iterator[Fault]:
    names = values.get("servers")
    if names is None:
        return
    for name in SERVERS:
        if name not in names:
            yield Fault(f"servers.{name}", "it is missing", "describe both servers, primary and secondary")
    for name in names:
        if name not in SERVERS:
            yield Fault(f"servers.{name}", "a network has two servers, primary and secondary", "rename or remove it")


def _here(given: set[str]) -> Iterator[Fault]:
    for name in SERVERS:
        store, key = f"servers.{name}.store" in given, f"servers.{name}.key" in given
        if store != key:
            there, lacking = ("store", "key") if store else ("key", "store")
            yield Fault(
                f"servers.{name}.{lacking}",
                f"it is missing, but '{there}' is given",
                "give both for a server of this host, neither for one on another host",
            )
    if not any(f"servers.{name}.{part}" in given for name in SERVERS for part in ("store", "key")):
        yield Fault(
            "servers", "no server has a store on this host", "give 'store' and 'key' to the server of this host"
        )


def _stores(values: Values) -> Iterator[Fault]:
    one, other = (values.get(f"servers.{name}.store") for name in SERVERS)
    if one is None or other is None:
        return
    mend = "give each server a directory of its own, none inside the other"
    here, there = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if here == there or _same_file(here, there):
        yield Fault("servers.secondary.store", "it is the same directory as the primary's store", mend)
    elif here in there.parents:
        yield Fault("servers.secondary.store", "it lies inside the primary's store", mend)
    elif there in here.parents:
        yield Fault("servers.primary.store", "it lies inside the secondary's store", mend)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)  # also when one is mounted twice
    except OSError:
        return False


def _routes(values: Values) -> Iterator[Fault]:
    if "routes.file" in values and all(f"servers.{name}.store" in values for name in SERVERS):
        why = "the stores of both servers are on this host, and each would write over what the other wrote"
        yield Fault("routes.file", why, "leave it out: each server then writes '.vmctl/routes.json' in its store")


def _addresses(values: Values) -> Iterator[Fault]:
    one, other = (values.get(f"servers.{name}.address") for name in SERVERS)
    for name, address in zip(SERVERS, (one, other), strict=True):
        if address is not None and address.host in _ANY_HOST:
            yield Fault(f"servers.{name}.address", f"{address} is no place to send to", "name the host's own address")
    if one is not None and other is not None and _same_place(one, other):
        yield Fault("servers.secondary.address", "it is the primary's address too", "give each server its own")


def _listens(values: Values) -> Iterator[Fault]:
    if any(f"servers.{name}.store" not in values for name in SERVERS):
        return  # on two hosts both may listen on the same port
    given = any(f"servers.{name}.listen" in values for name in SERVERS)
    one, other = (values.get(f"servers.{name}.listen", values.get(f"servers.{name}.address")) for name in SERVERS)
    if given and one is not None and other is not None and _same_place(one, other, bound=True):
        yield Fault(
            "servers.secondary.listen",
            f"the primary listens on {one}, which takes this port",
            "give each server of this host a port of its own",
        )


def _same_place(one: Address, other: Address, *, bound: bool = False) -> bool:
    hosts = [address.host.lower().rstrip(".").replace("localhost", "127.0.0.1") for address in (one, other)]
    anywhere = bound and any(host in _ANY_HOST for host in hosts)
    return one.port == other.port and (anywhere or hosts[0] == hosts[1])


def _identities(values: Values) -> Iterator[Fault]:
    for part, words in (("mail", "mail address"), ("public_key", "key"), ("seal_key", "key")):
        one, other = (values.get(f"servers.{name}.{part}") for name in SERVERS)
        if (
            one is not None
            and other is not None
            and (one == other or (part == "mail" and one.lower() == other.lower()))
        ):
            yield Fault(f"servers.secondary.{part}", f"it is the primary's {words} too", "give each server its own")


def _former_keys(values: Values) -> Iterator[Fault]:
    for name in SERVERS:
        key, until = f"servers.{name}.former_key" in values, f"servers.{name}.former_until" in values
        if key != until:
            lacking = "former_until" if key else "former_key"
            yield Fault(
                f"servers.{name}.{lacking}", "it is missing, but the other of the two is given", "give both, or neither"
            )
        present, former = (values.get(f"servers.{name}.{part}") for part in ("public_key", "former_key"))
        if former is not None and former == present:
            yield Fault(f"servers.{name}.former_key", "it is the present key", "take it out, with former_until")


def _link(values: Values) -> Iterator[Fault]:
    if not values.get("link.plain"):
        return
    for name in SERVERS:
        for part in ("address", "listen"):
            address = values.get(f"servers.{name}.{part}")
            if address is not None and not is_loopback(address):
                why = f"servers.{name}.{part} is {address}, and plain text is for loopback only"
                yield Fault("link.plain", why, "take it out: the servers then talk TLS, with the keys that they have")
                return


def _relay(values: Values) -> Iterator[Fault]:
    given = {part for part in ("address", "ca", "user", "password_file", "password_env") if f"relay.{part}" in values}
    passwords = given & {"password_file", "password_env"}
    if given and "address" not in given:
        yield Fault("relay.address", "it is missing, but other keys of the relay are given", "name the mail server")
    if len(passwords) > 1:
        yield Fault(
            "relay.password_env", "a password is named in two ways", "give one of password_file and password_env"
        )
    if ("user" in given) != bool(passwords):
        lacking = "password_file" if "user" in given else "user"
        yield Fault(f"relay.{lacking}", "it is missing: a name goes with a password", "give both, or neither")
    address = values.get("relay.address")
    if passwords and values.get("relay.tls") != "verified" and address is not None and not is_loopback(address):
        why = "a password would go to a server of which nobody knows that it is the right one"
        yield Fault("relay.tls", why, "write 'tls: verified', with relay.ca where its certificate is your own")


def is_loopback(address: Address) -> bool:
    """Whether what goes to an address stays on this host."""
    import ipaddress

    if address.host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def _services(values: Values) -> Iterator[Fault]:
    names, mode = values.get("services"), values.get("mode")
    if names is None or mode is None:
        return
    homes = tuple(values.get(f"services.{name}.home") for name in names)
    if len(names) not in {1, len(SERVERS)} or (mode == "dual-active" and len(names) == 1):
        most = "one, or two" if mode == "active-standby" else "two"
        yield Fault(
            "services", f"{len(names)} stand here, {mode} has {most}", "name one for each server that is to serve"
        )
    elif homes == ("secondary",):
        yield Fault(f"services.{names[0]}.home", "the home of the one service is primary", "write 'home: primary'")
    elif len(names) == len(SERVERS) and None not in homes and set(homes) != set(SERVERS):
        yield Fault(
            f"services.{names[1]}.home",
            f"both services are at home on the {homes[0]}",
            "of two services each server is the home of one",
        )


def _licence(values: Values) -> Iterator[Fault]:
    if values.get("mode") == "dual-active" and values.get("servers.secondary.licensed") is False:
        yield Fault(
            "mode",
            "in dual-active the secondary serves callers of its own, and it is not licensed to",
            "write 'licensed: true' for servers.secondary, or choose active-standby",
        )


def _arbiter(values: Values) -> Iterator[Fault]:
    cert, key = "arbiter.cert" in values, "arbiter.cert_key" in values
    if cert != key:
        lacking = "cert_key" if cert else "cert"
        yield Fault(f"arbiter.{lacking}", "it is missing, but the other of the two is given", "give both, or neither")


def _members(values: Values) -> Iterator[Fault]:
    for part in MEMBERS:
        owners: dict[str, str] = {}
        for name in values.get("services", ()):
            for member in values.get(f"services.{name}.{part}", ()):
                if (owner := owners.setdefault(member, name)) != name:
                    yield Fault(
                        f"services.{name}.{part}", f"{member!r} belongs to service {owner} already", "leave it in one"
                    )


def _timers(values: Values) -> Iterator[Fault]:
    """What must be shorter than what; equal is allowed only where the table says so."""
    rules: tuple[tuple[str, str, Callable[[float, float], bool], str], ...] = (
        ("failover.after", "sync.heartbeat", lambda after, beat: after >= _HEARTBEATS * beat, "at least three times"),
        ("failover.start_wait", "failover.after", lambda wait, after: wait < after, "shorter than"),
        ("scan.debounce", "scan.debounce_max", lambda quiet, most: quiet <= most, "at most"),
    )
    leases: tuple[tuple[str, str, Callable[[float, float], bool], str], ...] = (
        ("lease.ttl", "failover.after", lambda ttl, after: ttl <= after, "at most"),
        ("lease.ttl", "sync.heartbeat", lambda ttl, beat: ttl >= _HEARTBEATS * beat, "at least three times"),
    )
    for key, other, holds, words in (*rules, *(leases if values.get("arbiter.endpoints") else ())):
        if key in values and other in values and not holds(values[key], values[other]):
            why = f"it is {values[key]:g} s, and must be {words} {other}, which is {values[other]:g} s"
            yield Fault(key, why, "change one of the two")


def _sizes(values: Values) -> Iterator[Fault]:
    """A document travels in one mail: as JSON, in base64, and twice where two edits met."""
    most, document = values.get("mail.max"), values.get("limits.document")
    if most is not None and document is not None and most < _MAIL_TO_DOCUMENT * document:
        why = f"it is {document} bytes, and mail.max must be at least {_MAIL_TO_DOCUMENT} times that, which is {most}"
        yield Fault("limits.document", why, "change one of the two")


_CHECKS = (
    _servers,
    _stores,
    _routes,
    _addresses,
    _listens,
    _identities,
    _former_keys,
    _link,
    _relay,
    _services,
    _licence,
    _arbiter,
    _members,
    _timers,
    _sizes,
)
