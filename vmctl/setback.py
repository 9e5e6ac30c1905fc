"""Tells a store that was put back from a backup from edits: much that is older than what was there waits for a word.

Somebody who copies one old file back wants it, and it counts as an edit. Who restores a whole folder under an index
that is newer wants the mailboxes back, not the deletions and the settings of that day on both servers: that is a join,
for which there is `vmctl reindex`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.errors import StoreUnusable
from vmctl.model import message_key
from vmctl.store.format import look_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmctl.entry import Look
    from vmctl.index import Index
    from vmctl.store.format import Format, Walk

_MOST_BACK = 20


def set_back(store: Format, index: Index, walk: Walk, folders: Iterable[str]) -> dict[str, str]:
    """Path and key of the files that are older than what was in their place, or than their deletion, where they are many.

    `folders` are the message folders to look into. A new index knows of nothing that was there before.
    """
    if index.is_new:
        return {}
    known = index.hand_files()
    found = {
        path: key
        for path, (key, look) in walk.files.items()
        if _is_older(index, key, look, known.get(path, (None,))[0])
    }
    for folder in folders:
        found |= _messages(store, index, folder)
    return found if len(found) > _MOST_BACK else {}


def _messages(store: Format, index: Index, folder: str) -> dict[str, str]:
    try:
        there = store.messages(folder)
    except StoreUnusable:  # the scan will name it
        return {}
    known = index.files_in(folder)
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
