"""A message is left whole or not at all: what was written of it goes when that fails, or when its process was killed.

Its recording is placed before the document that makes it a message, and the index knows it last. So what is being left
is noted in the index first: a recording without its document would otherwise lie in the store for ever.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from vmctl import beneath, durable
from vmctl.audio import digest_of
from vmctl.errors import VmctlError
from vmctl.model import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.index import Index
    from vmctl.store.format import Format
    from vmctl.store.pool import Pool

_NOTE = "leaving"


@contextlib.contextmanager
def all_or_nothing(store: Format, index: Index, pool: Pool, key: str, audio: dict[str, Any]) -> Iterator[None]:
    """Write a new message's files within, in a transaction of the index; `audio` is the field that names its recording."""
    index.set_note(_NOTE, {"key": key, "audio": audio})
    try:
        with index.transaction():
            yield
            index.set_note(_NOTE, None)
    except BaseException:
        with contextlib.suppress(VmctlError):
            durable.remove(store.root / store.path(key))
        with contextlib.suppress(VmctlError):
            take_back(store, index, pool)
        raise


def take_back(store: Format, index: Index, pool: Pool) -> None:
    """Remove the recording of a message that was being left: it was never accepted. The caller holds the store's lock.

    With its document in place the message is whole, and the next scan finds it.
    """
    left = index.note(_NOTE)
    if left is None:
        return
    key, sha256 = left["key"], left["audio"]["sha256"]
    place = store.root / store.audio_path(key, left["audio"]["format"])
    if store.look(store.path(key)) is None:
        if beneath.is_file(place) and digest_of(place)[0] == sha256:
            durable.remove(place)
        durable.remove_empty(store.root / store.folder(str(parse_key(key).mailbox)))
        if not index.needs_audio(sha256):
            pool.drop(sha256)
    index.set_note(_NOTE, None)
