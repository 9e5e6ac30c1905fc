"""What becomes of files that are gone and wait for a person's word when the peer overwrites this server: it tells so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.errors import StoreError
from vmctl.gone import is_elsewhere, is_gone

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.store.format import Format

OVERWRITTEN = "overwritten"
_OBEYED = "obeyed"
_TOLD_FOR = 86_400_000_000  # microseconds


def overwritten(index: Index, wall: int) -> int | None:
    """The change by which this server overwrote the peer, to be told it for a day; None without one."""
    number = index.note(OVERWRITTEN)
    return number if number and 0 <= wall - number < _TOLD_FOR else None


def obey(store: Format, index: Index, number: Any, wall: int) -> None:
    """The peer overwrote this server by its change `number`: what is gone and waits is to be written again, once."""
    if type(number) is not int or number <= (index.note(_OBEYED) or 0):
        return
    with index.transaction():
        index.set_note(_OBEYED, number)
        stay = waiting_on(store, index)
        for key in set(index.note("held") or []) - stay:
            entry = index.get(key)
            if entry is not None and entry.shown is not None:
                index.put(replace(entry, shown=None), wall)
        index.set_note("held", sorted(stay))


def waiting_on(store: Format, index: Index) -> set[str]:
    """The records that wait for a person's word also when the peer overwrites this server.

    These are files that look put back from a backup, and what is gone from another file system than before.
    """
    return {key for key in index.note("held") or [] if not _is_to_come_back(store, index, key)}


def _is_to_come_back(store: Format, index: Index, key: str) -> bool:
    try:
        return is_gone(store, index, key) and not is_elsewhere(store, index, key)
    except StoreError:
        return False
