"""`vmctl status`, `journal`, `serve`, `failover`, `failback`: who serves whom, and the orders that move it."""

from __future__ import annotations

import getpass
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vmctl.cli.output import emit, note, report, table
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.failover import Failover
    from vmctl.journal import Journal
    from vmctl.post import Post

_POLL = 0.05
_WATCH_EVERY = 2.0
_WHY = {
    "start": "it started there",
    "silence": "the other server was silent",
    "order": "ordered by a person",
    "forced": "ordered while the other server was silent",
    "return": "the home is back, the stores come in step",
    "failback": "failback was ordered",
    "gate": "home again, the stores were in step",
    "timeout": "home again, failback.timeout was over",
}


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show who serves whom, since when and why, what is pending, and whether the stores are in step.

    Example: vmctl status --json
    """
    from vmctl.clock import Clock
    from vmctl.status import gather

    session = Session.of(context)
    while True:
        value = gather(session.config, Clock())
        emit(session, value, _status_words(value))
        if not watch:
            _refuse_damage(value)
            return
        threading.Event().wait(_WATCH_EVERY)
        if not session.json:
            typer.echo("\033[2J\033[H", nl=False)


def _refuse_damage(value: dict[str, Any]) -> None:
    """Raise the first error of what is damaged, after all that can be known was shown: its exit code tells a script."""
    from vmctl import errors

    for server in value["servers"].values():
        for one in server["damaged"]:
            raise getattr(errors, one["error"])(one["what"], why=one["why"], hint=one["hint"])


def journal(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain of hashes instead of showing it.")] = False,
    limit: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N entries.")] = None,
) -> None:
    """Show what moved the roles, and when.

    Example: vmctl journal --server secondary --last 10
    """
    from vmctl.errors import JournalBroken
    from vmctl.journal import Journal, words

    session = Session.of(context)
    book = Journal(session.store.state / "journal.jsonl")
    if verify:
        problems = book.verify() or _against_peer(session, book)
        length, digest = (0, "") if problems else book.length_and_hash()
        value = {"whole": not problems, "problems": problems, "length": length, "hash": digest}
        emit(session, value, "\n".join(problems) or f"{length} entries, the chain is whole")
        if problems:
            raise JournalBroken(f"the journal {book.path} has {len(problems)} faults", why=problems[0])
        return
    entries = list(book.entries(limit=limit))
    emit(session, entries, "\n".join(map(words, entries)))


def _against_peer(session: Session, book: Journal) -> list[str]:
    """What the peer has seen of this journal and is not there any more: a chain alone cannot show that."""
    from vmctl.errors import IndexDamaged

    try:
        with session.index() as index:
            seen = ((index.note("peer") if index else None) or {}).get("journal_seen") or [0, ""]
    except IndexDamaged as error:
        note(f"what the other server has seen of the journal is not known here: {error.what}")
        return []
    length, _ = book.length_and_hash()
    if seen[0] > length:
        return [f"the other server has seen {seen[0]} entries, {seen[0] - length} are missing at the end"]
    same = next((entry for entry in book.entries(limit=length - seen[0] + 1)), None) if seen[0] else None
    if same is not None and same.get("hash") != seen[1]:
        return [f"entry {seen[0]} is not the one that the other server has seen: the journal was written anew"]
    return []


def serve(context: typer.Context) -> None:
    """Serve: receive, watch the store, ship what changes, mind the roles. Until SIGTERM or SIGINT.

    Example: vmctl serve --server primary
    """
    import logging

    from vmctl.clock import Clock
    from vmctl.daemon import Daemon

    session = Session.of(context)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # at DEBUG it would print the mails
    Daemon(session.config, session.server, Clock()).run()


Service = Annotated[str | None, typer.Option(metavar="NAME", help="The service; not needed where there is one.")]
Every = Annotated[bool, typer.Option("--all", help="All services.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="How long to wait for the role to move.")]


def failover(context: typer.Context, service: Service = None, every: Every = False, timeout: Timeout = 30.0) -> None:
    """Let the backup serve. Where both servers are well, the one that serves gives the role away.

    Example: vmctl failover --service voicemail
    """
    _order(Session.of(context), "failover", service, timeout, every=every)


def failback(context: typer.Context, service: Service = None, every: Every = False, timeout: Timeout = 30.0) -> None:
    """Let the home serve again, as soon as the stores are in step.

    Example: vmctl failback
    """
    _order(Session.of(context), "failback", service, timeout, every=every)


def _order(
    session: Session, verb: Literal["failover", "failback"], service: str | None, timeout: float, *, every: bool
) -> None:
    from vmctl.clock import Clock
    from vmctl.post import DAEMON, ROUND, Post, who_serves

    services = _services(session, service, every=every)
    server = session.config.servers[_orderer(session)]
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    moved = threading.Event()
    if runs is not None and runs[0] == DAEMON:
        _through_daemon(session, server.name, verb, services, timeout)
        return
    with Post(session.config, server.name, Clock(), role=ROUND, wake=moved.set, patience=timeout) as post:
        _alone(session, post, verb, services, timeout)


def _services(session: Session, name: str | None, *, every: bool) -> list[str]:
    from vmctl.errors import NoSuchService, ServiceNotNamed

    services = list(session.config.services)
    if name is not None and name not in services:
        raise NoSuchService(f"there is no service {name[:80]!r}", why=f"vmctl.yaml names {' and '.join(services)}")
    if name is not None:
        return [name]
    if len(services) > 1 and not every:
        raise ServiceNotNamed(f"there are {len(services)} services: {' and '.join(services)}")
    return services


def _orderer(session: Session) -> str:
    """The server at which the order is given: the one that is named, or one that is here, with a daemon if any has."""
    from vmctl.post import who_serves

    if session.server_name is not None or len(session.config.here()) == 1:
        return session.server
    served = [server.name for server in session.config.here() if server.store and who_serves(server.store)]
    return (served or [server.name for server in session.config.here()])[0]


def _through_daemon(session: Session, name: str, verb: Any, services: list[str], timeout: float) -> None:
    """Leave the order for the daemon, and watch its journal."""
    from vmctl.clock import Clock
    from vmctl.failover import Failover
    from vmctl.replica import Replica
    from vmctl.round import nudge

    clock = Clock()
    with Replica.open(session.config, name, clock) as replica:
        roles = Failover(replica)
        taken = _give(roles, verb, services)
        if taken:
            nudge(session.config.servers[name])
        _wait_for(session, roles, verb, services, taken, clock.steady() + timeout, lambda: None)


def _alone(session: Session, post: Post, verb: Any, services: list[str], timeout: float) -> None:
    """No daemon runs here: this process speaks to the peer itself, as far as there is one."""
    from vmctl.clock import Clock
    from vmctl.errors import PeerUnreachable

    clock = Clock()
    post.listen()
    post.connect()

    def turn() -> None:
        post.take()
        moved = post.failover.tick(automatic=False)
        try:
            for parcel in post.parcels(always=moved or not post.replica.contact.heard):
                post.deliver(parcel)
        except PeerUnreachable:
            return  # an order may be given because the peer is dead

    turn()
    for _ in range(20):  # the peer's answer to the challenge, if it is there at all
        if post.replica.contact.heard:
            break
        threading.Event().wait(_POLL)
        post.take()
    turn()
    taken = _give(post.failover, verb, services)
    _wait_for(session, post.failover, verb, services, taken, clock.steady() + timeout, turn)


def _give(roles: Failover, verb: Any, services: list[str]) -> list[str]:
    """Give the order for each service; those for which there is something to do.

    Raises NothingToFailBack only when that is so for all of them.
    """
    from vmctl.errors import NothingToFailBack

    taken, idle = [], []
    for service in services:
        try:
            if roles.order(service, verb, getpass.getuser()) == "taken":
                taken.append(service)
        except NothingToFailBack as error:
            idle.append(error)
    if idle and len(idle) == len(services):
        raise idle[0]
    return taken


def _wait_for(
    session: Session, roles: Any, verb: str, services: list[str], taken: list[str], deadline: float, turn: Any
) -> None:
    from vmctl.clock import Clock
    from vmctl.errors import NotYet
    from vmctl.status import gather
    from vmctl.view import FAILBACK

    clock = Clock()
    while True:
        turn()
        views = roles.views()
        left = [name for name in taken if not _done(views[name], verb)]
        if not left:
            break
        if clock.steady() >= deadline:
            waits = [
                words for each in gather(session.config, clock)["services"] if each["name"] in left
                for words in each["waiting_for"]
            ]  # fmt: skip
            kept = all(views[name].cause == FAILBACK for name in left)
            if not kept:
                for name in left:
                    roles.withdraw(name)
            raise NotYet(
                f"{verb} of {' and '.join(left)} is not done yet",
                why="; ".join(waits),
                hint="it is carried out when that is met: see 'vmctl status'"
                if kept
                else "the order was withdrawn: try again",
            )
        threading.Event().wait(_POLL)
    value = {"services": [{"name": name, "serving": views[name].serving, "moved": name in taken} for name in services]}
    words = [
        f"{name} is served by {views[name].serving}{'' if name in taken else ' already: nothing to do'}"
        for name in services
    ]
    report(session, value, "\n".join(words))


def _done(view: Any, verb: str) -> bool:
    return view.serving is not None and (view.serving != view.home if verb == "failover" else view.serving == view.home)


def _status_words(value: dict[str, Any]) -> str:
    step = "in step" if value["in_step"] else "NOT in step"
    lines = [f"network {value['network']}, {value['mode']}: the stores are {step}", ""]
    rows = [
        (
            one["name"],
            one["home"],
            *_service_cells(one),
        )
        for one in value["services"]
    ]
    lines.append(table(rows, ("SERVICE", "HOME", "SERVED BY", "STATE", "SINCE", "WHY")))
    lines += [
        f"  {one['name']} is SPLIT: both servers serve it until they hear each other"
        for one in value["services"]
        if one["split"]
    ]
    lines += [f"  {one['name']} waits for {words}" for one in value["services"] for words in one["waiting_for"]]
    lines.append("")
    known = all(one["known"] for one in value["services"])
    servers = [
        (
            name, one["role"] if known else "not known", "yes" if one["reachable"] else "NO",
            {None: "elsewhere", True: "runs", False: "none"}[one["daemon"]], one["pending"], one["last_sync"], one["conflicts"],
        )
        for name, one in value["servers"].items()
    ]  # fmt: skip
    lines.append(table(servers, ("SERVER", "ROLE", "HEARD", "DAEMON", "PENDING", "LAST IN STEP", "CONFLICTS")))
    for name, one in value["servers"].items():
        if one["trouble"]:
            lines += _trouble_words(name, one["trouble"])
        for damage in one["damaged"]:
            why = f" ({damage['why']})" if damage["why"] else ""
            lines += [f"  {name} IS DAMAGED: {damage['what']}{why}", f"    try: {damage['hint']}"]
        for fault in one["faults"]:
            lines.append(f"  {name}: {fault['path']}: {fault['why']}")
            lines.append(f"    try: {fault['mend']}")
        lines += _mail_words(name, one)
    if value["config_differs"]:
        lines.append("  vmctl.yaml is not the same on both servers: compare the two")
    return "\n".join(lines)


def _service_cells(one: dict[str, Any]) -> tuple[str | None, ...]:
    """Who serves it, in which state, since when and why."""
    if not one["known"]:
        return ("not known", "not known", None, "no journal can be read: see below")
    why = _WHY.get(one["cause"], one["cause"]) if one["since"] else "never served: start 'vmctl serve', or 'vmctl sync'"
    return (one["serving"] or "nobody", one["state"], one["since"], why)


def _trouble_words(name: str, trouble: dict[str, Any]) -> list[str]:
    why = f" ({trouble['why']})" if trouble["why"] else ""
    since = f", since {trouble['since']}" if trouble["since"] else ""
    return [f"  {name} CANNOT WORK{since}: {trouble['what']}{why}", f"    try: {trouble['hint']}"]


def _mail_words(name: str, one: dict[str, Any]) -> list[str]:
    """What keeps the mails of a server from the other one, and what of them waits for a person."""
    lines = []
    if (link := one["link"]) is not None:
        how = "refuses every mail" if link["refused"] else "takes no mail"
        lines.append(f"  {name}: the other server {how} since {link['since']}: {link['what']}: {link['why']}")
    waiting = [each for each in one["parked"] if not each["given_up"]]
    for what, found in (
        ("parked", [each for each in waiting if not each["put_off"]]),
        ("put off", [each for each in waiting if each["put_off"]]),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            lines.append(f"  {name}: {what}: {found[0]['record'] or 'a mail that came in'}{more}: {found[0]['reply']}")
    if waiting:
        lines.append("    try: 'vmctl parked list' shows them all; 'vmctl parked retry --all' when the cause has gone")
    return lines
