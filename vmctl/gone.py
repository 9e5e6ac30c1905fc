"""What commands say and may write where the files of what lives are gone, and that waits for a person's word.

It waits where too much is gone at once, or another file system lies in the store's place than before: see `absence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.entry import audio_of
from vmctl.errors import DeletionsHeld, NotFound, StoreUnusable
from vmctl.model import MAILBOX, mailbox_key, parse_key

if TYPE_CHECKING:
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.store.format import Format


def is_gone(store: Format, index: Index, key: str) -> bool:
    """Whether the file of a living record that was there is not. Raises StoreUnusable."""
    entry = index.get(key)
    if entry is None or entry.shown is None or not entry.record.lives:
        return False
    return store.look(file_of(store, key, entry)) is None


def refuse_gone(store: Format, index: Index, key: str) -> None:
    """Raises DeletionsHeld where the file of a living record is gone and its deletion waits for a person's word."""
    if not is_gone(store, index, key):
        return
    parts = parse_key(key)
    if parts.kind == MAILBOX:
        raise DeletionsHeld(f"the files of mailbox {parts.name} are gone: its deletion waits for your word")
    if parts.mailbox is not None:
        refuse_gone(store, index, mailbox_key(parts.mailbox))
    if key in (index.note("held") or []):
        raise DeletionsHeld(f"the file of {key} is gone, with others: its deletion waits for your word")


def check_mailbox(store: Format, index: Index, extension: str) -> None:
    """Raises NotFound unless the mailbox has its file, DeletionsHeld where that is gone, and BadName."""
    try:
        store.check_mailbox(extension)
    except NotFound:
        refuse_gone(store, index, mailbox_key(extension))
        raise


def check_takes(store: Format, index: Index, extension: str) -> None:
    """As `check_mailbox`, but a mailbox that lives and whose files are gone takes a message all the same.

    Not where another file system lies there than before: what is put into it is hidden when the right one is mounted.
    """
    try:
        check_mailbox(store, index, extension)
    except (NotFound, DeletionsHeld):
        key = mailbox_key(extension)
        entry = index.get(key)
        if entry is None or not entry.record.lives or is_elsewhere(store, index, key):
            raise


def is_elsewhere(store: Format, index: Index, key: str) -> bool:
    """Whether a new file would lie on another file system than the last scan without a doubt found there.

    It would be hidden when the right one is mounted again, and taken for deleted. A mailbox that has its file is there.
    """
    box = parse_key(key).mailbox
    if box is not None and store.look(store.path(mailbox_key(box))) is not None:
        return False
    path, before, found = store.path(key), index.note("file_systems") or {}, store.file_systems()
    folder = max((name for name in before if path.startswith(f"{name}/")), key=len, default=".")
    return folder in before and found.get(folder, found["."]) != before[folder]


def refuse_elsewhere(store: Format, index: Index, key: str) -> None:
    """Raises StoreUnusable for a change whose file is not written for that."""
    if is_elsewhere(store, index, key):
        raise StoreUnusable(
            f"another file system lies in the place of {key} than before",
            hint="the change is kept: mount the right one, or let 'vmctl sync --accept-deletions' take it as it is",
        )


def file_of(store: Format, key: str, entry: Entry | None) -> str:
    """The path of the file that shows a record, or would."""
    shown = audio_of(entry.shown.document) if entry and entry.shown else None
    return store.path(key, shown["format"] if shown else "wav")
