"""Tells a store that was put back from a backup from edits: much that is older than what was there waits for a word.

Somebody who copies one old file back wants it, and it counts as an edit. Who restores a whole folder under an index
that is newer wants the mailboxes back, not the deletions and the settings of that day on both servers: that is a join,
for which there is `vmctl reindex`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmctl.model import message_key
from vmctl.store.format import look_of

if TYPE_CHECKING:
    import os

    from vmctl.entry import Look
    from vmctl.index import Index
    from vmctl.store.format import Format

_MOST_BACK = 20


class Listing(NamedTuple):
    """A message folder with what lies in it, and its files as the index knows them."""

    folder: str
    there: dict[str, os.stat_result]
    known: dict[str, tuple[Look, str]]


class Regress:
    """Remembers between two looks what was older than what had been there."""

    def __init__(self) -> None:
        self._before: set[str] = set()

    def is_as_before(self, found: dict[str, str]) -> bool:
        """Whether all that this look has found was found by the last one, too."""
        before, self._before = self._before, set(found)
        return self._before <= before


def many(found: dict[str, str]) -> dict[str, str]:
    """What was found to be older, where it is that much that nobody can have meant each of it."""
    return found if len(found) > _MOST_BACK else {}


def older_files(
    index: Index, files: dict[str, tuple[str, Look]], known: dict[str, tuple[Look, str]]
) -> dict[str, str]:  # fmt: skip
    """Path and key of the files outside of message folders that are older than what was there, or than their deletion.

    `files` has key and look by path, `known` what the index has of them.
    """
    return {
        path: key for path, (key, look) in files.items() if _is_older(index, key, look, known.get(path, (None,))[0])
    }


def older(store: Format, index: Index, listing: Listing) -> dict[str, str]:
    """Path and key of the documents in a message folder that are older than what was there, or than their deletion."""
    folder, there, known = listing
    found = {}
    for name, status in there.items():
        path = f"{folder}/{name}"
        part = store.part_of(path)
        if part is not None and part.form is None:
            key = message_key(store.mailbox_of(folder), part.ident)
            if _is_older(index, key, look_of(status), known.get(path, (None,))[0]):
                found[path] = key
    return found


def _is_older(index: Index, key: str, look: Look, before: Look | None) -> bool:
    if before is not None:
        return look.mtime < before.mtime
    entry = index.get(key)
    return entry is not None and not entry.record.lives and look.mtime // 1000 < entry.record.changed_at
