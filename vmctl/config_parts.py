"""The parts of a vmctl.yaml as they are read: a named tuple for each section. Durations are float seconds, sizes int bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config_values import Address

# The parts are named tuples, as a frozen dataclass takes more than a millisecond to make, and every command makes them.


class Server(NamedTuple):
    """One server; without `store` and `key` it runs on another host."""

    name: str
    store: Path | None
    format: str
    listen: Address | None
    address: Address
    mail: str
    key: Path | None
    public_key: str | None
    seal_key: str | None
    former_key: str | None
    former_until: int
    maildir: Path | None
    licensed: bool

    @property
    def here(self) -> bool:
        """Whether its store is on this host."""
        return self.store is not None

    def identities(self, wall: int) -> tuple[str, ...]:
        """The public keys that are its own at a wall time (microseconds): the present one, and the former for a while."""
        former = self.former_key if wall < self.former_until else None
        return tuple(key for key in (self.public_key, former) if key is not None)


class Service(NamedTuple):
    """Callers and the server that serves them in normal operation."""

    name: str
    home: str
    extensions: tuple[str, ...]
    trunks: tuple[str, ...]
    expansions: tuple[str, ...]
    applications: tuple[str, ...]


class Failover(NamedTuple):
    """When the other server takes over; seconds, and moves in an hour."""

    after: float
    automatic: bool
    through_relays: bool
    start_wait: float
    most_moves: int


class Handover(NamedTuple):
    """How long an ordered handover may take; seconds."""

    drain: float


class Lease(NamedTuple):
    """How long a server may serve on one word of the arbiter; seconds."""

    ttl: float


class Arbiter(NamedTuple):
    """The etcd cluster; without endpoints there is none."""

    endpoints: tuple[str, ...]
    prefix: str
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None


class Health(NamedTuple):
    """How the voicemail application is asked whether it is well; seconds."""

    every: float
    timeout: float
    failures: int
    command: tuple[str, ...] | None = None


class Reachability(NamedTuple):
    """What a server that is not cut off can reach; seconds."""

    targets: tuple[Address, ...]
    every: float
    timeout: float


class Calls(NamedTuple):
    """How the calls in progress are counted; seconds."""

    every: float
    timeout: float
    command: tuple[str, ...] | None = None


class Hooks(NamedTuple):
    """The programs that are told who serves; seconds."""

    timeout: float
    tries: int
    on_active: tuple[str, ...] | None = None
    on_standby: tuple[str, ...] | None = None
    on_transition: tuple[str, ...] | None = None
    on_waiting: tuple[str, ...] | None = None


class Webhook(NamedTuple):
    """Where transitions are posted, and the file with the secret that signs them."""

    url: str
    secret: Path | None = None


class Routes(NamedTuple):
    """Where routes.json is written; None for its place in the store."""

    file: Path | None = None


class Journal(NamedTuple):
    """Bytes after which a new file is begun."""

    max: int


class Failback(NamedTuple):
    """When a service goes home again; seconds."""

    policy: str
    gate: str
    hold: float
    timeout: float


class Sync(NamedTuple):
    """The traffic between the servers; seconds."""

    heartbeat: float
    lag: float
    resend: float


class Scan(NamedTuple):
    """How changes on disk are found; seconds."""

    settle: float
    every: float
    full: float
    debounce: float
    debounce_max: float


class Link(NamedTuple):
    """The direct link between the servers."""

    plain: bool


class Relay(NamedTuple):
    """The mail server that takes mail to the peer; without an address there is none."""

    tls: str
    address: Address | None = None
    ca: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    password_env: str | None = None


class Mail(NamedTuple):
    """The largest sync mail in bytes, and when mails are sealed."""

    max: int
    seal: str


class Audio(NamedTuple):
    """Formats by file name ending, and the longest recording in seconds."""

    formats: tuple[str, ...]
    longest: float


class Housekeeping(NamedTuple):
    """Hours (0 is never) after which messages of a status are deleted, or deleted ones purged; `every` in seconds."""

    new: int
    unopened: int
    old: int
    saved: int
    deleted: int
    every: float


class History(NamedTuple):
    """How many earlier versions are kept."""

    versions: int


class Tombstones(NamedTuple):
    """How long the memory of what was purged is kept; seconds."""

    keep: float


class Clock(NamedTuple):
    """How far the servers' clocks may be apart; seconds."""

    skew: float


class Limits(NamedTuple):
    """Messages a mailbox, mailboxes a store, bytes a YAML file."""

    quota: int
    mailboxes: int
    document: int
