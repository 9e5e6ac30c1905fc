"""`vmctl join`: makes the directory that vmctl.yaml names for a server a store of that server, whatever lay there before.

It may be a second host, a new disk, a directory with mailboxes that were in use without vmctl, or a copy of the other
server's store. No file of a mailbox is touched. What is there is joined with the other server's store by the next round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmctl import beneath, durable, identity
from vmctl.at_work import who_serves
from vmctl.errors import AlreadyExists, AlreadyServing, StoreForeign, StoreMissing, StoreUnusable
from vmctl.index import Index
from vmctl.model import CALLFLOW, MAILBOX, MESSAGE, PROMPT, SETTINGS_KEY, server_of
from vmctl.reindex import INDEX, stamp
from vmctl.rights import AS_BESIDE
from vmctl.store.native import FOLDERS, NativeStore

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Config


class Plan(NamedTuple):
    """What there is to do: `aside` is where the `.vmctl` of the server `former` goes; `found` counts what is there."""

    root: Path
    network: str
    server: str
    made: bool
    former: str | None
    aside: Path | None
    found: dict[str, int]


def plan(config: Config, name: str, wall: int) -> Plan:
    """Look at the directory of a server that is here; `wall` (microseconds) names what is set aside. Changes nothing.

    Raises AlreadyExists for a store of this server, StoreForeign for that of another network, AlreadyServing for one
    that is in use, KeyMissing, StoreDamaged, StoreUnusable.
    """
    from vmctl import keys

    server = config.servers[name]
    assert server.store is not None, "a server that is here has a store"  # noqa: S101
    assert server.key is not None, "the config has a key for every server that is here"  # noqa: S101
    keys.load_private(server.key)
    root = server.store
    if root.exists() and not root.is_dir():
        raise StoreUnusable(f"{root} is a file", hint="correct 'store' in vmctl.yaml, or move the file away")
    former = _former(config, name, root)
    aside = None if former is None else root / f"{identity.DIRECTORY}.of-{former}-{stamp(wall)}"
    return Plan(root, config.network, name, not root.exists(), former, aside, _found(config, root))


def carry_out(plan: Plan) -> identity.Identity:
    """Make the store. Cut off at any moment, it is done again by another `vmctl join`."""
    durable.make_directory(plan.root)
    beneath.fence(plan.root)
    for folder in FOLDERS:
        durable.make_directory(plan.root / folder, mode=AS_BESIDE)
    if plan.aside is not None:
        durable.move(plan.root / identity.DIRECTORY, plan.aside)
    return identity.create(plan.root, plan.network, plan.server)


def _former(config: Config, name: str, root: Path) -> str | None:
    """The other server whose `.vmctl` is there; None without any, or where it is of no server that can be told."""
    try:
        whose = identity.read(root, config.network, name)
    except StoreMissing:
        return _of_index(root, name)
    except StoreForeign as error:
        whose = identity.look(root)
        if whose.network != config.network:
            error.hint = f"if nobody needs it any more, move {root / identity.DIRECTORY} away; nothing was changed"
            raise
        runs = who_serves(root)
        if runs is not None:
            raise AlreadyServing(
                f"{root} is the store of {whose.server}, and {runs[0]} runs on it",
                hint="correct 'store' in vmctl.yaml; nothing was changed",
            ) from error
        return whose.server
    raise AlreadyExists(
        f"{root} is the store of {whose.server} already",
        hint="'vmctl sync' brings it in step with the other server, 'vmctl keys show --code' prints the code for that one's "
        "host; for a lost or damaged index there is 'vmctl reindex'",
    )


def _of_index(root: Path, name: str) -> str | None:
    """The other server, where an index of it lies without an identity."""
    path = root / identity.DIRECTORY / INDEX
    if not beneath.is_there(path):
        return None
    index = Index.open(path)
    try:
        of = server_of(index.meta("incarnation"))
    finally:
        index.close()
    return of if of and of != name else None


def _found(config: Config, root: Path) -> dict[str, int]:
    store = NativeStore(root, config.audio.formats, config.limits.document)
    walk = store.walk()
    boxes = store.names(MAILBOX)
    return {
        "mailboxes": len(boxes),
        "messages": sum(len(store.names(MESSAGE, extension)) for extension, _ in walk.folders.values()),
        "callflows": len(store.names(CALLFLOW)),
        "prompts": len(store.names(PROMPT)),
        "settings": int(store.look(store.path(SETTINGS_KEY)) is not None),
        "odd": len(walk.odd) + len(walk.unread),
    }
