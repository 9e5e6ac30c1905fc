"""Mails that came in: one file each, durable before the sender is told 250, removed when what they brought is durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl import durable
from vmctl.errors import StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".eml"


class Spool:
    """The folders `.vmctl/spool` and `.vmctl/refused`."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "spool"
        self._refused = state / "refused"

    def put(self, raw: bytes, packet: str, wall: int) -> Path:
        """Keep a mail; when this returns, no power cut loses it. `packet` is a checked name."""
        durable.make_directory(self._folder)
        path = self._folder / f"{wall:016d}-{packet}{_SUFFIX}"
        durable.write(path, raw)
        return path

    def waiting(self) -> list[Path]:
        """The mails that are not taken yet, in the order in which they came."""
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.suffix == _SUFFIX)

    def read(self, path: Path) -> bytes:
        """The bytes of a mail. Raises StoreUnusable."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreUnusable(f"cannot read the mail {path}", why=error.strerror or str(error)) from error

    def done(self, path: Path) -> None:
        """What the mail brought is durable elsewhere."""
        durable.remove(path)

    def refuse(self, path: Path) -> Path:
        """Set a mail aside that cannot be taken, for a person to look at."""
        durable.make_directory(self._refused)
        target = self._refused / path.name
        durable.move(path, target)
        return target

    def tidy(self) -> None:
        """Remove what a killed receiver left half-written: it was never answered with 250."""
        for path in self._folder.glob(f"{durable.TEMP_PREFIX}*"):
            durable.discard(path)

    def refused(self) -> int:
        """How many mails were set aside."""
        return len(list(self._refused.iterdir())) if self._refused.is_dir() else 0
