"""`vmctl housekeeping`: what the daemon and `vmctl sync` do by themselves in idle periods, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmctl.cli.output import emit
from vmctl.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmctl.purge import Kept


def housekeeping(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="This server's clock is right, although it was set.")
    ] = False,
) -> None:
    """Delete messages for their age and purge what was deleted long ago, in the mailboxes that this server serves.

    A message that is deleted so can be restored like any other; what is purged cannot. docs/deletion.md has the rules.

    Example: vmctl housekeeping --server primary --dry-run
    """
    from vmctl.purge import Housekeeper

    session = Session.of(context)
    with session.replica() as replica:
        keeper = Housekeeper(replica)
        if dry_run:
            value = _value([keeper.run(dry_run=True, trust_clock=trust_clock)])
        else:
            value = _value(keeper.runs(trust_clock=trust_clock))
    emit(session, value, "\n".join(_words(session.server, value, dry_run=dry_run)))


def _value(runs: Iterable[Kept]) -> dict[str, Any]:
    value: dict[str, Any] = {"deleted": [], "purged": [], "dropped": 0, "recordings": 0}
    for kept in runs:
        value = {name: value[name] + getattr(kept, name) for name in ("deleted", "purged", "dropped", "recordings")}
        value |= {name: getattr(kept, name) for name in ("held", "stopped", "services", "more")}
    return value


def _words(server: str, value: dict[str, Any], *, dry_run: bool) -> list[str]:
    was = "would be" if dry_run else "were"
    lines = [
        f"{server}: {len(value['deleted'])} messages {was} deleted for their age, {len(value['purged'])} records purged"
    ]
    lines += [f"  {key}" for key in value["deleted"][:100]]
    if value["more"]:
        lines.append("  there is more than one run does at once")
    if value["recordings"] or value["dropped"]:
        lines.append(f"{value['recordings']} recordings removed, {value['dropped']} tombstones dropped")
    if value["held"]:
        lines.append(f"{value['held']} more are due at once: they wait for 'vmctl sync --accept-deletions'")
    if value["stopped"]:
        lines.append(f"nothing is deleted for its age: {value['stopped']}")
    elif not value["services"]:
        lines.append(f"{server} serves no service in normal operation: nothing is for it to do")
    return lines
