"""`vmctl failover` and `failback`: a person's orders that move who serves."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.acting import acting
from vmctl.cli.output import report
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from vmctl.cli.acting import Acting
    from vmctl.evidence import Evidence, Order
    from vmctl.view import View

_LONGEST_REASON = 200
_ASKING = 5.0

Service = Annotated[str | None, typer.Option(metavar="NAME", help="The service; not needed where there is one.")]
Every = Annotated[bool, typer.Option("--all", help="All services.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="How long to wait for the role to move.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the journal.")]
Now = Annotated[bool, typer.Option("--now", help="Do not wait until a silent server counts as lost: it is dead.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and exit as it would.")]


def failover(
    context: typer.Context, service: Service = None, every: Every = False, reason: Reason = "", now: Now = False,
    dry_run: DryRun = False, timeout: Timeout = 30.0,
) -> None:  # fmt: skip
    """Let the backup serve. Where both servers are well, the one that serves gives the role away.

    Example: vmctl failover --service voicemail --reason 'new disk'
    """
    _order(Session.of(context), "failover", service, timeout, every=every, reason=reason, now=now, dry_run=dry_run)


def failback(
    context: typer.Context, service: Service = None, every: Every = False, reason: Reason = "", now: Now = False,
    dry_run: DryRun = False, timeout: Timeout = 30.0,
) -> None:  # fmt: skip
    """Let the home serve again, as soon as the stores are in step.

    Example: vmctl failback
    """
    _order(Session.of(context), "failback", service, timeout, every=every, reason=reason, now=now, dry_run=dry_run)


def _order(
    session: Session, verb: Order, service: str | None, timeout: float, *, every: bool, reason: str, now: bool, dry_run: bool
) -> None:  # fmt: skip
    services = _services(session, service, every=every)
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise typer.BadParameter(f"a reason is one line of at most {_LONGEST_REASON} characters", param_hint="--reason")
    with acting(session, timeout) as at:
        if dry_run:
            _rehearse(session, at, verb, services, now=now)
            return
        taken = _give(at, verb, services, reason=reason, now=now)
        if taken:
            at.nudge()
        at.wait(lambda: not set(_left(at, verb, taken)) - set(_void(at, verb, taken)), timeout)
        _finish(session, at, verb, services, taken)


def _services(session: Session, name: str | None, *, every: bool) -> list[str]:
    from vmctl.errors import NoSuchService, ServiceNotNamed

    services = list(session.config.services)
    if name is not None and every:
        raise typer.BadParameter("say either --service or --all", param_hint="--all")
    if name is not None and name not in services:
        raise NoSuchService(f"there is no service {name[:80]!r}", why=f"vmctl.yaml names {' and '.join(services)}")
    if name is not None:
        return [name]
    if len(services) > 1 and not every:
        raise ServiceNotNamed(f"there are {len(services)} services: {' and '.join(services)}")
    return services


def _give(at: Acting, verb: Order, services: list[str], *, reason: str, now: bool) -> list[str]:
    """Give the order for each service for which there is something to do; those.

    None is given where one of them is refused.
    """
    due = [name for name, (_, _, already) in _looks(at, verb, services).items() if not already]
    by = getpass.getuser()
    return [name for name in due if at.roles.order(name, verb, by, reason=reason, now=now) == "taken"]


def _looks(at: Acting, verb: Order, services: list[str]) -> dict[str, tuple[View, Evidence, bool]]:
    """By service what is known of it, and whether there is nothing to do.

    Raises what `check_order` raises; NothingToFailBack only when that is so for all of them, and NotYet where that is no
    more than what an old journal says.
    """
    from vmctl.errors import NothingToFailBack, NotYet
    from vmctl.roles import check_order

    found, idle = {}, []
    for service in services:
        view, evidence = at.roles.look(service)
        try:
            already = check_order(view, evidence, verb) == "already"
        except NothingToFailBack as error:
            idle.append(error)
            already = True
        if already and not at.daemon and not evidence.heard:
            raise NotYet(
                f"it is not known who serves {service}: no daemon runs on {at.server}, and {evidence.peer} is not heard",
                hint=f"start 'vmctl serve' on {at.server}: it serves, or hears who does",
            )
        found[service] = view, evidence, already
    if idle and len(idle) == len(services):
        raise idle[0]
    return found


def _left(at: Acting, verb: Order, taken: list[str]) -> list[str]:
    views = at.roles.views()
    return [name for name in taken if not _done(views[name], verb)]


def _void(at: Acting, verb: Order, taken: list[str]) -> list[str]:
    """Those whose order is gone without having moved anything: called off, or too old."""
    gone = [name for name in taken if not at.roles.is_ordered(name)]  # before the views: an order ends after the move
    views = at.roles.views()
    return [name for name in gone if not (_done(views[name], verb) or _kept(views[name], verb))]


def _finish(session: Session, at: Acting, verb: Order, services: list[str], taken: list[str]) -> None:
    """Say what came of it. Raises NotYet, and withdraws the order, for what did not move."""
    from vmctl.errors import NotYet
    from vmctl.evidence import receiver

    void = _void(at, verb, taken)
    views = at.roles.views()
    if left := _left(at, verb, taken):
        kept = all(_kept(views[name], verb) for name in left)
        hint = (
            "it is carried out when that is met: see 'vmctl status'" if kept else "the order was withdrawn: try again"
        )
        if not kept and any(name not in void and views[name].serving not in {None, at.server} for name in left):
            hint = "the order was withdrawn here; the other server may have it already, and carry it out: see 'vmctl status'"
        for name in left:
            if not kept:
                at.roles.withdraw(name)
            _, evidence = at.roles.look(name)
            silent = evidence.silent_for
            to_here = evidence.me == receiver(verb, views[name], evidence)
            if to_here and silent is not None and at.roles.misses_heartbeats(silent):
                hint = (
                    f"'vmctl {verb} --now' takes the service at once; do that when the other server is certainly dead"
                )
        waits = "; ".join(filter(None, [*map(at.roles.last_event, void), _waiting(session, left)]))
        raise NotYet(f"{verb} of {' and '.join(left)} is not done yet", why=waits, hint=hint)
    value = {"services": [{"name": name, "serving": views[name].serving, "moved": name in taken} for name in services]}
    words = [
        f"{name} is served by {views[name].serving}{'' if name in taken else ' already: nothing to do'}"
        for name in services
    ]
    report(session, value, "\n".join(words))


def _waiting(session: Session, services: list[str]) -> str:
    from vmctl.clock import Clock
    from vmctl.status import gather

    each = [one for one in gather(session.config, Clock())["services"] if one["name"] in services]
    return "; ".join(words for one in each for words in one["waiting_for"])


def _kept(view: View, verb: Order) -> bool:
    """Whether the service itself remembers the order, and goes home when it may."""
    from vmctl.view import FAILBACK

    return verb == "failback" and view.cause == FAILBACK


def _done(view: View, verb: Order) -> bool:
    return view.serving is not None and (view.serving != view.home if verb == "failover" else view.serving == view.home)


# A rehearsal


def _rehearse(session: Session, at: Acting, verb: Order, services: list[str], *, now: bool) -> None:
    """Ask the peer afresh, and say for each service what the order would do and leave behind.

    Raises what the order itself would raise.
    """
    at.nudge()
    at.wait(at.fresh, _ASKING)
    found, words = [], []
    for view, evidence, already in _looks(at, verb, services).values():
        one = _rehearsed(session, at, view, evidence, verb, already=already, now=now)
        found.append(one)
        words += _rehearsal_words(one)
    report(session, {"dry_run": True, "services": found}, "\n".join(words))


def _rehearsed(
    session: Session, at: Acting, view: View, evidence: Evidence, verb: Order, *, already: bool, now: bool
) -> dict[str, Any]:
    from vmctl.clock import rfc3339
    from vmctl.evidence import receiver

    index = at.roles.index
    to = receiver(verb, view, evidence)
    silent = not evidence.heard or (
        now and evidence.silent_for is not None and at.roles.misses_heartbeats(evidence.silent_for)
    )
    forced = to == evidence.me and view.serving != evidence.me and silent
    oldest = index.oldest_pending()
    return {
        "name": view.service,
        "from": view.serving,
        "to": to,
        "how": "nothing" if already else "forced" if forced else "planned",
        "calls": _calls(session, at, view.service) if view.serving == evidence.me else None,
        "pending": {evidence.me: index.pending_count(), evidence.peer: at.roles.peer_pending},
        "oldest_pending": rfc3339(oldest) if oldest else None,
        "peer_silent_for": evidence.silent_for,
        "peer_fit": evidence.peer_fit,
        "permit": evidence.permit,
    }


def _calls(session: Session, at: Acting, service: str) -> int | None:
    """The calls in progress at this server, asked now."""
    import threading

    from vmctl.clock import Clock
    from vmctl.probes import Probes

    answered = threading.Event()
    probes = Probes(session.config, at.server, Clock(), wake=answered.set)
    try:
        if session.config.calls.command is None:
            return None
        probes.tick([service])
        answered.wait(session.config.calls.timeout + 1.0)
        return probes.calls(service)
    finally:
        probes.close()


def _rehearsal_words(one: dict[str, Any]) -> list[str]:
    name, before, after = one["name"], one["from"] or "nobody", one["to"]
    if one["how"] == "nothing":
        return [f"{name} is served by {before} already: nothing would be done"]
    if one["how"] == "forced":
        quiet = one["peer_silent_for"]
        since = "was not heard since this server started" if quiet is None else f"has been silent for {quiet:.0f} s"
        when = "at once" if one["permit"] is None or one["permit"] > 0 else "when the arbiter lends it"
        lines = [f"{name}: {after} would take the service {when}, as the other server {since}"]
        lines += ["  what that one took and did not send comes when it is back, by merge"]
    else:
        lines = [f"{name}: {before} would give the service to {after} when that holds everything"]
    lines += [
        f"  {count} records of {server} are still to be sent" for server, count in one["pending"].items() if count
    ]
    if one["calls"]:
        lines.append(f"  {one['calls']} calls in progress end where they began; their messages follow")
    if not one["peer_fit"]:
        lines.append("  the other server says that it is NOT fit to serve: see 'vmctl status'")
    return lines
