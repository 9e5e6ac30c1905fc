"""The keys of vmctl.yaml, in one table: it drives the reading, the text of a new file and the page of the docs (`config_text`).

A row is the dotted path (`*` for the name of a server or a service), how the value is written, its default in the form
that the file holds, and what it means.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vmctl.config_values import (
    ADDRESS,
    ADDRESSES,
    AUDIO_FORMATS,
    BOOL,
    COMMAND,
    EXTENSIONS,
    LISTEN,
    MAIL,
    NAME,
    NAMES,
    PATH,
    PREFIX,
    PUBLIC_KEY,
    SEAL_KEY,
    TIME,
    URL,
    URLS,
    USER,
    VARIABLE,
    Kind,
    duration,
    one_of,
    size,
    whole,
)

SERVERS: Final = ("primary", "secondary")
MODES: Final = ("active-standby", "dual-active")
REQUIRED: Final = object()
OPTIONAL: Final = None


class Key(NamedTuple):
    """One row of the table."""

    path: str
    kind: Kind
    default: Any
    meaning: str


KEYS: Final = (
    Key("network", NAME, REQUIRED, "The network's name; the same on both servers. Every mail and store carries it."),
    Key(
        "mode",
        one_of(*MODES),
        "active-standby",
        "Whether one server serves all callers (active-standby) or each serves its own (dual-active). "
        "It is the mode in which a new network begins.",
    ),
    Key(
        "servers.*.store",
        PATH,
        OPTIONAL,
        "The directory with this server's mailboxes. Left out when the server runs on another host.",
    ),
    Key("servers.*.format", one_of("native", "asterisk"), "native", "How the files in the store are laid out."),
    Key(
        "servers.*.listen",
        LISTEN,
        OPTIONAL,
        "Where this server's receiver listens for mail of its peer. Left out, it is 'address'; none: it does not listen, "
        "and its mail comes through 'vmctl receive' or a Maildir.",
    ),
    Key("servers.*.address", ADDRESS, REQUIRED, "Where the peer reaches this server's receiver."),
    Key("servers.*.mail", MAIL, REQUIRED, "The address that sync mails to and from this server carry."),
    Key(
        "servers.*.key",
        PATH,
        OPTIONAL,
        "This server's private keys, mode 0600; they never leave its host. Left out together with 'store'.",
    ),
    Key(
        "servers.*.public_key",
        PUBLIC_KEY,
        OPTIONAL,
        "Who this server is: the peer checks its mails and connections with it. Left out until it has joined.",
    ),
    Key("servers.*.seal_key", SEAL_KEY, OPTIONAL, "What mails to this server are sealed with where others carry them."),
    Key(
        "servers.*.former_key",
        PUBLIC_KEY,
        OPTIONAL,
        "Its 'public_key' before the last rotation, which counts as well until 'former_until'.",
    ),
    Key("servers.*.former_until", TIME, OPTIONAL, "When the former key counts no more."),
    Key(
        "servers.*.maildir",
        PATH,
        OPTIONAL,
        "A Maildir into which a mail server puts this server's mail: what is new in it is taken.",
    ),
    Key(
        "servers.*.licensed",
        BOOL,
        False,
        "Whether this server may serve callers in normal operation, too, and not only in the place of the other one. "
        "Mode dual-active needs it of the secondary.",
    ),
    Key(
        "services.*.home",
        one_of(*SERVERS),
        REQUIRED,
        "The server that serves these callers in normal operation; the other one is their backup. "
        "While the mode is active-standby that is the primary for all of them, whatever stands here.",
    ),
    Key(
        "services.*.extensions",
        EXTENSIONS,
        [],
        "Extensions of this service. One that is listed nowhere belongs to the service that its mailbox.yaml names.",
    ),
    Key(
        "services.*.trunks",
        NAMES,
        [],
        "Trunks of this service: what comes in on them is for the server that serves it.",
    ),
    Key("services.*.expansions", NAMES, [], "Expansion systems of this service, likewise."),
    Key("services.*.applications", NAMES, [], "Applications of this service, likewise."),
    Key(
        "failover.after",
        duration("100ms", "7d"),
        "180s",
        "How long the peer is silent before the other server takes its services over; a reboot should be shorter. "
        "At least three heartbeats.",
    ),
    Key("failover.automatic", BOOL, True, "Whether that happens by itself. If not, 'vmctl failover' does it."),
    Key(
        "failover.through_relays",
        BOOL,
        False,
        "Whether it does so where mail goes through mail servers, which may be late without anybody being dead. "
        "Then 'after' must be three times as long as the slowest way there and back of late, or it waits.",
    ),
    Key(
        "failover.start_wait",
        duration("0s", "1h"),
        "60s",
        "How long a server that starts asks its peer who serves, before it goes by its own journal. "
        "Shorter than 'after'.",
    ),
    Key(
        "failover.most_moves",
        whole(2, 1000),
        3,
        "How often in an hour a service may move by itself. A move home leaves one more for a failover after it.",
    ),
    Key(
        "handover.drain",
        duration("0s", "10m"),
        "10s",
        "How long an ordered handover waits until the other server holds everything, before it is called off.",
    ),
    Key(
        "failback.policy",
        one_of("graceful", "automatic", "manual"),
        "graceful",
        "When a service goes home again: graceful when the gate is met and 'hold' is over, automatic also after "
        "'timeout', manual when the gate is met and 'vmctl failback' was typed. "
        "Graceful also waits for the end of the calls in progress, where 'calls.command' counts them.",
    ),
    Key(
        "failback.gate",
        one_of("completed", "restarted"),
        "completed",
        "How far the stores must be in step before that: synchronization has completed, or has only restarted.",
    ),
    Key("failback.hold", duration("0s", "24h"), "60s", "How long home must have been back before its services return."),
    Key(
        "failback.timeout",
        duration("0s", "60m"),
        "60m",
        "How long policy automatic waits for the gate and for calls to end.",
    ),
    Key(
        "lease.ttl",
        duration("1s", "1h"),
        "60s",
        "How long a server may serve after the arbiter, or the other server, last said so. At most 'failover.after'.",
    ),
    Key(
        "arbiter.endpoints",
        URLS,
        [],
        "The etcd servers that lend each service to one server at a time. None: there is no arbiter, and both servers "
        "serve while they cannot hear each other.",
    ),
    Key("arbiter.prefix", PREFIX, "/vmctl", "What the names of our keys there begin with."),
    Key("arbiter.ca", PATH, OPTIONAL, "Certificates that the arbiter's is checked with; the system's if left out."),
    Key("arbiter.cert", PATH, OPTIONAL, "This server's certificate for the arbiter, with 'arbiter.cert_key'."),
    Key("arbiter.cert_key", PATH, OPTIONAL, "The private key of that certificate."),
    Key(
        "health.command",
        COMMAND,
        OPTIONAL,
        "Asks whether the voicemail application of this server is well: exit code 0 says so.",
    ),
    Key("health.every", duration("100ms", "1h"), "10s", "How often it is asked."),
    Key("health.timeout", duration("100ms", "10m"), "5s", "How long an answer may take."),
    Key(
        "health.failures", whole(1, 100), 3, "How many bad answers in a row make it unwell; one good one makes it well."
    ),
    Key(
        "reachability.targets",
        ADDRESSES,
        [],
        "Places in this server's own network, such as its gateway. A server that reaches none of them is cut off, and "
        "takes nothing over. A connection that is refused is reached, too.",
    ),
    Key("reachability.every", duration("100ms", "1h"), "10s", "How often they are tried."),
    Key("reachability.timeout", duration("100ms", "1m"), "3s", "How long a connection may take."),
    Key(
        "calls.command",
        COMMAND,
        OPTIONAL,
        "Prints how many calls are in progress here, of the service in VMCTL_SERVICE.",
    ),
    Key("calls.every", duration("100ms", "1h"), "5s", "How often it is asked, while a service waits to go home."),
    Key("calls.timeout", duration("100ms", "10m"), "5s", "How long an answer may take."),
    Key("hooks.on_active", COMMAND, OPTIONAL, "Run when this server begins to serve a service."),
    Key("hooks.on_standby", COMMAND, OPTIONAL, "Run when it does not serve it any more."),
    Key("hooks.on_transition", COMMAND, OPTIONAL, "Run for each transition, in order."),
    Key(
        "hooks.on_waiting", COMMAND, OPTIONAL, "Run when the message counts of mailboxes change, where they are served."
    ),
    Key("hooks.timeout", duration("100ms", "1h"), "30s", "How long a hook may run."),
    Key("hooks.tries", whole(1, 1000), 10, "How often a hook that fails is run for one transition."),
    Key("webhooks.*.url", URL, REQUIRED, "Where each transition is posted as JSON, in order."),
    Key("webhooks.*.secret", PATH, OPTIONAL, "A file with the secret that signs what is posted."),
    Key(
        "routes.file",
        PATH,
        OPTIONAL,
        "Where routes.json is written for other programs. Left out, it is '.vmctl/routes.json' in the store.",
    ),
    Key("journal.max", size("4kB", "1GB"), "16MB", "How long the journal grows before a new file is begun."),
    Key("sync.heartbeat", duration("50ms", "1h"), "10s", "How often each server tells the other that it is there."),
    Key("sync.lag", duration("50ms", "24h"), "10s", "How old a change may be that is not yet on the peer, in step."),
    Key("sync.resend", duration("50ms", "24h"), "30s", "How long a mail goes unanswered before its changes go again."),
    Key(
        "scan.settle",
        duration("10ms", "1h"),
        "2s",
        "How long a file that a person edits must stand still before it is read, or be gone before it counts as such.",
    ),
    Key("scan.every", duration("50ms", "24h"), "60s", "How often the store is scanned without any event."),
    Key("scan.full", duration("1s", "30d"), "1h", "How often a scan opens every directory, as events are hints."),
    Key("scan.debounce", duration("1ms", "1m"), "200ms", "How long a store must be quiet after an event, for a scan."),
    Key("scan.debounce_max", duration("1ms", "10m"), "2s", "How long a store that is never quiet waits for its scan."),
    Key(
        "link.plain",
        BOOL,
        False,
        "Whether the servers talk without TLS. It gives up that nobody on the way can read along or pretend to be there; "
        "only where both are on loopback.",
    ),
    Key(
        "relay.address",
        ADDRESS,
        OPTIONAL,
        "The mail server that takes this server's mail to its peer. Left out, mail goes to the peer's 'address' directly.",
    ),
    Key(
        "relay.tls",
        one_of("verified", "unverified", "off"),
        "verified",
        "Whether STARTTLS is required there and its certificate is checked, is required only, or is not used. "
        "Without a check a password goes to a relay on loopback only.",
    ),
    Key("relay.ca", PATH, OPTIONAL, "Certificates that the relay's is checked with; the system's if left out."),
    Key("relay.user", USER, OPTIONAL, "The name to log in with (AUTH), with one of the next two."),
    Key("relay.password_file", PATH, OPTIONAL, "A file with the password, mode 0600."),
    Key(
        "relay.password_env",
        VARIABLE,
        OPTIONAL,
        "The environment variable with the password. Programs that vmctl runs do not get it.",
    ),
    Key("mail.max", size("64kB", "512MB"), "16MB", "The largest sync mail; audio of some MB is split. Same on both."),
    Key(
        "mail.seal",
        one_of("auto", "always", "never"),
        "auto",
        "When mails are sealed, so that only the peer can read them: where they do not go over the direct link (auto). "
        "never gives up that the mail servers on the way, and who has their disks, cannot read voicemail.",
    ),
    Key("audio.formats", AUDIO_FORMATS, ["wav"], "Formats, by file name ending, that recordings may have."),
    Key("audio.longest", duration("1s", "24h"), "20m", "The longest recording."),
    *(
        Key(
            f"housekeeping.{name}",
            whole(0, 876_000),
            hours,
            f"Hours after which {words}; 0 is never. The setting 'housekeeping.{name}' and a mailbox's own 'timers' "
            "come before it.",
        )
        for name, hours, words in (
            ("new", 0, "a message that nobody was told of is deleted"),
            ("unopened", 0, "a message that was announced and not heard is deleted"),
            ("old", 0, "a message that was heard is deleted"),
            ("saved", 0, "a saved message is deleted"),
            ("deleted", 720, "a deleted message cannot be restored any more"),
        )
    ),
    Key(
        "housekeeping.every", duration("100ms", "30d"), "1m", "How often housekeeping looks for what is due, when idle."
    ),
    Key(
        "history.versions",
        whole(1, 1000),
        20,
        "Versions of settings, callflows, prompts, mailboxes and greetings that are kept, besides the present one.",
    ),
    Key(
        "tombstones.keep",
        duration("1h", "3650d"),
        "400d",
        "How long the memory of what was purged is kept, so that an old copy of it does not come back.",
    ),
    Key(
        "clock.skew",
        duration("1s", "30d"),
        "5m",
        "How far the two servers' clocks may be apart. Beyond it both say so, and nothing is deleted for its age.",
    ),
    Key(
        "limits.quota", whole(1, 100_000), 100, "Messages a mailbox holds unless its mailbox.yaml says another number."
    ),
    Key("limits.mailboxes", whole(1, 10_000_000), 100_000, "Mailboxes that a store may hold."),
    Key("limits.document", size("1kB", "1MiB"), "64kB", "The largest YAML file in a store that is read and shipped."),
)

SECTIONS: Final = {
    "servers": "The two servers, primary and secondary.",
    "services": "The callers, by the server that serves them in normal operation.",
    "failover": "When the other server takes over.",
    "failback": "When services go home again.",
    "handover": "What is moved by order.",
    "lease": "For how long a server may serve, where an arbiter is asked.",
    "arbiter": "etcd, which lends each service to one server at a time.",
    "health": "Whether this server's voicemail application is well. Each server may have its own values.",
    "reachability": "Whether this server is cut off itself. Each server may have its own values.",
    "calls": "The calls in progress. Each server may have its own values.",
    "hooks": "Programs that are told who serves. Each server may have its own values.",
    "webhooks": "Other applications that are told who serves, each under a name. Each server may have its own values.",
    "routes": "The file that tells other programs who serves. Each server may have its own values.",
    "journal": "The journal of role transitions.",
    "sync": "The traffic between the servers.",
    "scan": "How changes on disk are found. Each server may have its own values.",
    "link": "The direct link between the servers: TLS 1.3, each end pinned to the other one's key.",
    "relay": "A mail server between the two, for what this server sends. Each server may have its own values.",
    "mail": "Sync mails. 'max' is the same on both.",
    "audio": "Recordings.",
    "housekeeping": "What is deleted for its age, by the server that serves the mailbox.",
    "history": "Earlier versions.",
    "tombstones": "The memory of what was deleted.",
    "clock": "The clocks of the two servers.",
    "limits": "Bounds.",
}
