"""`vmctl status` and `serve`: who serves whom, and the daemon."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import typer

from vmctl.cli.output import emit, table
from vmctl.cli.session import Session

_POLL = 0.05
_WATCH_EVERY = 2.0
_FILES = 8192  # open at once
_WHY = {
    "start": "it started there",
    "silence": "the other server was silent",
    "order": "ordered by a person",
    "forced": "ordered while the other server was silent",
    "return": "the home is back, the stores come in step",
    "failback": "failback was ordered",
    "gate": "home again, the stores were in step",
    "timeout": "home again, failback.timeout was over",
    "unwell": "the other server was not fit to serve",
    "lease": "the lease of the server that served it ran out",
    "mode": "the mode was changed",
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


def serve(context: typer.Context) -> None:
    """Serve: receive, watch the store, ship what changes, mind the roles. Until SIGTERM or SIGINT.

    Example: vmctl serve --server primary
    """
    import logging

    from vmctl.clock import Clock
    from vmctl.daemon import Daemon

    session = Session.of(context)
    _many_files()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # at DEBUG it would print the mails
    Daemon(session.config, session.server, Clock()).run()


def _many_files() -> None:
    """A crowd of callers must not use up the files that the store needs."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


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
    if pause := value["paused"]:
        until = f"until {pause['until']}, or " if pause["until"] else "until "
        lines[1:1] = [f"  PAUSED by {pause['by']}: no role moves by itself {until}'vmctl resume'"]
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
            _daemon_word(one), one["pending"], one["last_sync"], one["conflicts"],
        )
        for name, one in value["servers"].items()
    ]  # fmt: skip
    lines.append(table(servers, ("SERVER", "ROLE", "HEARD", "DAEMON", "PENDING", "LAST IN STEP", "CONFLICTS")))
    for name, one in value["servers"].items():
        if one["still_since"]:
            lines.append(
                f"  {name}: its daemon STANDS STILL since {one['still_since']}: it serves nobody, and takes no order"
            )
            lines.append("    try: start it again, unless it is just reading a large store")
        if one["trouble"]:
            lines += _trouble_words(name, one["trouble"])
        for damage in one["damaged"]:
            why = f" ({damage['why']})" if damage["why"] else ""
            lines += [f"  {name} IS DAMAGED: {damage['what']}{why}", f"    try: {damage['hint']}"]
        for fault in one["faults"]:
            lines.append(f"  {name}: {fault['path']}: {fault['why']}")
            lines.append(f"    try: {fault['mend']}")
        lines += _mail_words(name, one)
        lines += _stray_words(name, one)
        lines += _surroundings_words(name, one)
        lines += _calls_words(name, one, value["services"])
        lines += [f"  {name}: {_untold_words(each)}" for each in one["untold"]]
    if value["config_differs"]:
        keys = f": {', '.join(value['config_keys'])}" if value["config_keys"] else ""
        lines.append(
            f"  vmctl.yaml is NOT THE SAME on both servers{keys}; until it is, only a person's order moves a role"
        )
    return "\n".join(lines)


def _daemon_word(one: dict[str, Any]) -> str:
    if one["daemon"] is None:
        return "elsewhere"
    return "STILL" if one["still_since"] else "runs" if one["daemon"] else "none"


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


def _surroundings_words(name: str, one: dict[str, Any]) -> list[str]:
    """What of a server's surroundings keeps it from serving, or from taking over."""
    around = one["surroundings"] or {}
    lines = []
    if not (health := around.get("health") or {"well": True})["well"]:
        lines.append(f"  {name}: its voicemail application is UNWELL since {health['since']}: {health['why']}")
    if (reach := around.get("reachability") or {}).get("cut_off"):
        lines.append(
            f"  {name} is CUT OFF since {reach['since']}: it reaches none of its own targets, and takes nothing over"
        )
    if one["arbiter"]:
        lines.append(f"  {name}: the arbiter cannot be asked: {one['arbiter']}")
    return lines


def _calls_words(name: str, one: dict[str, Any], services: list[dict[str, Any]]) -> list[str]:
    """Why it is not known how many calls are in progress, where a service waits for that."""
    from vmctl.waiting import COUNT

    calls = (one["surroundings"] or {}).get("calls") or {}
    waiting = [each["name"] for each in services if each["serving"] == name and COUNT in each["waiting_for"]]
    return [
        f"  {name}: calls.command does not tell the calls of {service}: {calls[service]['why']}"
        for service in waiting
        if calls.get(service) and calls[service]["why"]
    ]


def _untold_words(each: dict[str, Any]) -> str:
    """Which hook or webhook could not be told, and what becomes of it."""
    what = f"the {'webhook' if each['webhook'] else 'hook'} {each['hook']} of {each['service']}"
    becomes = "given up" if each["given_up"] else "tried again"
    return f"{what} FAILED {each['tries']} times since {each['since']}, and is {becomes}: {each['why']}"


_STRAYS = {
    "forged": "mails that the other server did not sign, or that were altered",
    "misdirected": "mails for another network or server",
    "garbage": "mails that are no whole sync mails",
    "newer": "mails of a newer vmctl, which are tried again",
    "repeated": "mails that had come before, which changed nothing",
    "stranger": "callers, senders or recipients that do not belong here",
    "report": "reports on mails that did not leave here",
}


def _stray_words(name: str, one: dict[str, Any]) -> list[str]:
    """What came to a server and was not taken, by kind."""
    return [
        f"  {name}: turned away: {each['count']} {_STRAYS.get(kind, kind)}, the last {each.get('last')} "
        f"from {each.get('from')}: {each.get('why')}"
        for kind, each in sorted(one["strays"].items())
    ]


def _mail_words(name: str, one: dict[str, Any]) -> list[str]:
    """What keeps the mails of a server from the other one, and what of them waits for a person."""
    lines = []
    if one["bounces"]:
        told = one["bounces"][0]
        others = f", and {len(one['bounces']) - 1} more" if len(one["bounces"]) > 1 else ""
        lines.append(
            f"  {name}: a mail server reported {told['told']} that a mail of {told['left']} {told['action']}"
            f"{others}: {told['why']} ({told['subject']})"
        )
        lines.append("    try: look after the mail servers on the way; what was in it is sent again by itself")
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
