"""Mails on disk: those that came in, durable before the sender is told 250, removed when what they brought is durable.

Beside them those that a person should look at: what came in and cannot be taken, and what was refused for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl import beneath, durable
from vmctl.errors import NotFound, StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX, _WHY = ".eml", ".why"
_MOST_PARKED = 20  # files; each is no larger than `mail.max`


class Spool:
    """The folders `.vmctl/spool`, `.vmctl/refused` and `.vmctl/parked`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._folder = state / "spool"
        self._refused = state / "refused"
        self._parked = state / "parked"

    def put(self, raw: bytes, packet: str, wall: int) -> Path:
        """Keep a mail; when this returns, no power cut loses it. `packet` becomes a part of its name."""
        durable.make_directory(self._folder, needs=self._state)
        path = self._folder / f"{wall:016d}-{packet}{_SUFFIX}"
        durable.write(path, raw)
        return path

    def holds(self, raw: bytes, packet: str) -> bool:
        """Whether the very mail lies there already: who plays it again and again does not fill the disk."""
        same = (path for path in self.waiting() if path.stem.endswith(f"-{packet}"))
        return any(self.read(path) == raw for path in same)

    def waiting(self) -> list[Path]:
        """The mails that are not taken yet, in the order in which they came."""
        return _mails(self._folder)

    def read(self, path: Path) -> bytes:
        """The bytes of a mail. Raises StoreUnusable."""
        try:
            return beneath.read(path)
        except OSError as error:
            raise StoreUnusable(f"cannot read the mail {path}", why=error.strerror or str(error)) from error

    def size(self, path: Path) -> int:
        """The bytes of a mail. Raises StoreUnusable."""
        try:
            return beneath.status(path).st_size
        except OSError as error:
            raise StoreUnusable(f"cannot read the mail {path}", why=error.strerror or str(error)) from error

    def done(self, path: Path) -> None:
        """What the mail brought is durable elsewhere."""
        durable.remove(path)

    def let_go(self, paths: list[Path]) -> None:
        """What these mails brought is durable elsewhere."""
        durable.remove_all(paths)

    # What came in and cannot be taken

    def refuse(self, path: Path, why: str) -> Path:
        """Set a mail aside that cannot be taken, and why, for a person to look at."""
        durable.make_directory(self._refused, needs=self._state)
        target = self._refused / path.name
        durable.write(target.with_suffix(_WHY), why.encode("utf-8", "replace"))
        durable.move(path, target)
        return target

    def refused(self) -> list[Path]:
        """The mails that were set aside, in the order in which they came."""
        return _mails(self._refused)

    def why(self, path: Path) -> str | None:
        """Why a mail was set aside; None where that is not known any more."""
        try:
            return beneath.read(path.with_suffix(_WHY)).decode("utf-8", "replace")
        except OSError:
            return None

    def take_up(self, ident: str) -> None:
        """Put a mail that was set aside back among those that wait. `ident` is its file's stem. Raises NotFound."""
        path = self._one_refused(ident)
        durable.make_directory(self._folder, needs=self._state)
        durable.move(path, self._folder / path.name)
        durable.discard(path.with_suffix(_WHY))

    def drop_refused(self, ident: str) -> None:
        """Remove a mail that was set aside. Raises NotFound."""
        path = self._one_refused(ident)
        durable.remove(path)
        durable.discard(path.with_suffix(_WHY))

    def _one_refused(self, ident: str) -> Path:
        for path in self.refused():
            if path.stem == ident:
                return path
        raise NotFound(f"nothing is parked as {ident[:60]!r}", hint="'vmctl parked list' shows what is")

    # What was refused for good

    def park(self, raw: bytes, packet: str, wall: int) -> None:
        """Keep a mail that the peer does not take; the oldest goes when there are too many."""
        durable.make_directory(self._parked, needs=self._state)
        self.unpark(packet)
        for path in _mails(self._parked)[: -(_MOST_PARKED - 1)]:
            durable.discard(path)
        durable.write(self._parked / f"{wall:016d}-{packet}{_SUFFIX}", raw)

    def parked(self, packet: str) -> Path | None:
        """The file of a mail that was refused for good, if it is still kept."""
        return next((path for path in _mails(self._parked) if path.stem.endswith(f"-{packet}")), None)

    def unpark(self, packet: str) -> None:
        """A mail that was refused for good is of no use any more."""
        path = self.parked(packet)
        if path is not None:
            durable.discard(path)


def _mails(folder: Path) -> list[Path]:
    return [folder / name for name in beneath.names(folder) if name.endswith(_SUFFIX)]
