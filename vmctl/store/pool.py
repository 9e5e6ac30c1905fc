"""Recordings by their SHA-256 that are in no place of the store: just come, deleted, or replaced.

What has just come is held in memory first: most of it is put into its place at once, and the mail that brought it lies
in the spool until then. What is left is written here by `put_down`.
"""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - used in annotations that tests resolve
from pathlib import Path  # noqa: TC003

from vmctl import beneath, durable
from vmctl.audio import digest_of
from vmctl.errors import BadAudio, StoreUnusable
from vmctl.rights import AS_BESIDE
from vmctl.together import Together

_DIGEST = 64  # characters of a SHA-256 in hex
_PART = ".part"


class Pool:
    """The folder `.vmctl/audio`: a file for each recording, and `<digest>.part` for one that has not all come."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "audio"
        self._hand: dict[str, bytes] = {}
        self._placed: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Where a recording is, if it is here."""
        return self._folder / sha256

    def holds(self, sha256: str) -> bool:
        """Whether it is here."""
        return sha256 in self._hand or beneath.is_file(self.path(sha256))

    def those_of(self, recordings: set[str]) -> set[str]:
        """Of these those that are here."""
        return recordings & (self._hand.keys() | set(beneath.names(self._folder)))

    # What has just come

    def hold(self, data: bytes, sha256: str) -> None:
        """Keep a whole recording in memory until `put_down`; the caller has checked its digest, and has it in a mail."""
        self._hand[sha256] = data

    def in_hand(self, sha256: str) -> bytes | None:
        """The bytes of one that is held in memory."""
        return self._hand.get(sha256)

    def placed(self, sha256: str) -> None:
        """One lies in its place in the store now, and will be durable there before anything else is done."""
        self._placed.add(sha256)

    def put_down(self) -> None:
        """Write what was held and lies in no place; afterwards nothing is held."""
        left = {sha256: data for sha256, data in self._hand.items() if sha256 not in self._placed}
        if left:
            with Together(self._folder.parent) as together:
                staged = {sha256: together.write(str(self.path(sha256)), data) for sha256, data in left.items()}
                together.settle()
                for sha256, waiting in staged.items():
                    together.replace(waiting, str(self.path(sha256)))
                together.close()
        self.let_go()

    def let_go(self) -> None:
        """Hold nothing any more: the mails that brought it are taken again."""
        self._hand.clear()
        self._placed.clear()

    # What is here for longer

    def copy_in(self, source: Path, sha256: str) -> None:
        """Copy a file in, durably. Raises BadAudio if it changed since its digest was taken."""
        if self.holds(sha256):
            return
        durable.make_directory(self._folder, needs=self._folder.parent)

        def check(copied: Path) -> None:
            if digest_of(copied)[0] != sha256:
                raise BadAudio(f"{source} changed while it was read", hint="try again when it is complete")

        durable.copy(source, self.path(sha256), check=check)

    def put_part(self, sha256: str, offset: int, data: bytes) -> None:
        """Put a part of a recording in, durably."""
        durable.make_directory(self._folder, needs=self._folder.parent)
        durable.write_at(self._part(sha256), offset, data)

    def finish(self, sha256: str) -> bool:
        """Every part has come: make it whole. Tells whether the bytes have the digest; if not they are dropped."""
        part = self._part(sha256)
        if not beneath.is_there(part):
            return self.holds(sha256)
        good = digest_of(part)[0] == sha256
        if good:
            durable.move(part, self.path(sha256))
        else:
            durable.remove(part)
        return good

    def take_in(self, source: Path, sha256: str) -> None:
        """Move a file of the store in."""
        durable.make_directory(self._folder, needs=self._folder.parent)
        durable.move(source, self.path(sha256))

    def keep(self, source: Path, sha256: str) -> None:
        """Keep a file of the store that is about to be replaced: until then it stays in its place, too."""
        durable.make_directory(self._folder, needs=self._folder.parent)
        try:
            durable.link(source, self.path(sha256))
        except StoreUnusable:  # of somebody else's file, where the system lets only its owner link it
            self.copy_in(source, sha256)

    def place(self, sha256: str, target: Path, *, last: bool) -> None:
        """Put a recording of the pool at `target` by rename; `last` moves it, else it is copied."""
        data = self.in_hand(sha256)
        if data is not None:
            durable.write(target, data, mode=AS_BESIDE)
            self.placed(sha256)
            return
        (durable.move if last else durable.copy)(self.path(sha256), target, mode=AS_BESIDE)

    def drop(self, sha256: str) -> None:
        """Remove a recording that lies in its place in the store now."""
        self._hand.pop(sha256, None)
        durable.remove(self.path(sha256))

    def lying(self) -> Iterator[tuple[str, int]]:
        """The recordings that are here whole, and since when each has lain here (microseconds)."""
        for name, since in self._names():
            if len(name) == _DIGEST:
                yield name, since

    def unfinished(self) -> Iterator[tuple[str, int]]:
        """The recordings of which a part is here, and when the newest of it came (microseconds)."""
        for name, since in self._names():
            if name.endswith(_PART):
                yield name.removesuffix(_PART), since

    def drop_part(self, sha256: str) -> None:
        """Remove what has come of a recording, if anything has."""
        durable.discard(self._part(sha256))

    def _part(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_PART}"

    def _names(self) -> list[tuple[str, int]]:
        """What lies here, and since when (microseconds)."""
        if not beneath.is_folder(self._folder):
            return []
        return sorted((name, there.st_ctime_ns // 1000) for name, there in beneath.entries(self._folder))
