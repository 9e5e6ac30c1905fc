"""What a store keeps of the records that died in it: the files by which a new index knows them, below `.vmctl/deleted`.

Of a message it is its document, which holds its stamps and who deleted it. Of all else it is a file beside the place
where the document was moved to, `<path>.tomb.json`, which names its record: no file of a store has such a name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vmctl import beneath, durable
from vmctl.errors import BrokenFile, StoreUnusable
from vmctl.model import MESSAGE, Record, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmctl.store.format import Format

_FOLDER, _SUFFIX = "deleted", ".tomb.json"


class Graves:
    """The tombs of one store."""

    def __init__(self, store: Format) -> None:
        self._store = store
        self._folder = store.state / _FOLDER

    def document(self, key: str) -> Path:
        """Where the document of a deleted record is moved to."""
        return self._folder / self._store.path(key)

    def tomb(self, key: str) -> Path:
        """The file that says that a record is dead."""
        place = self.document(key)
        return place if parse_key(key).kind == MESSAGE else place.with_name(place.name + _SUFFIX)

    def dig(self, record: Record) -> None:
        """Say durably that a record is dead."""
        tomb = self.tomb(record.key)
        durable.make_directory(tomb.parent, needs=self._store.state)
        durable.write(tomb, self.text(record))

    def text(self, record: Record) -> bytes:
        """What the tomb of a record holds."""
        if record.kind == MESSAGE:
            return self._store.text(record)
        return (json.dumps({"key": record.key} | record.as_json(), indent=1) + "\n").encode()

    def fill(self, key: str) -> None:
        """The record lives again, or nothing of it is to be kept: remove its tomb."""
        tomb = self.tomb(key)
        if beneath.is_there(tomb):
            durable.remove(tomb)

    def tombs(self) -> Iterator[tuple[str, str]]:
        """The path of each tomb, relative to the store, with the key of a message; that of all else is in the file."""
        yield from self._store.tombs()
        for path in sorted(self._folder.rglob(f"*{_SUFFIX}")):
            yield path.relative_to(self._store.root).as_posix(), ""

    def read(self, path: str, key: str) -> Record | None:
        """The dead record of a tomb; None for a message's document that holds no more. Raises RecordError, StoreUnusable."""
        if key:
            return self._store.parse(key, self._store.read(path), path)[1]
        try:
            value = json.loads(beneath.read(self._store.root / path))
            record = Record.from_json(str(value["key"]), value)
            fits = self.tomb(record.key) == self._store.root / path and not record.lives
        except OSError as error:
            raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BrokenFile(f"{path} is no tombstone", why=str(error)) from error
        if not fits:
            raise BrokenFile(f"{path} is no tombstone", why="it holds a record of another place, or a living one")
        return record
