"""What the peer's mails say of this server's records: what it holds, holds back, lacks, and has lost, too.

Read from the status block of a mail of the peer's present incarnation to ours; docs/sync-mail.md has the format. What
is not as it should be is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.entry import audio_of

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.index import Index
    from vmctl.outbox import Outbox
    from vmctl.parked import Lot
    from vmctl.recordings import Recordings

LOST = "its recording is on neither server"


class Answers:
    """Takes the peer's answers into the index. Call inside a transaction."""

    def __init__(self, index: Index, recordings: Recordings, outbox: Outbox, lot: Lot, clock: Clock) -> None:
        self._index = index
        self._recordings = recordings
        self._outbox = outbox
        self._lot = lot
        self._clock = clock

    def take(self, status: dict[str, Any]) -> list[str]:
        """Take what a status block says; gives the keys of the records that the peer acknowledged."""
        acked = self._acks(status.get("acks"))
        self._held(status.get("held"))
        wants = status.get("wants")
        if isinstance(wants, dict):
            self._wanted_records(wants.get("records"))
            self._wanted_audio(wants.get("audio"))
        self._lost(status.get("lost"))
        return acked

    def _acks(self, acks: Any) -> list[str]:
        acked = []
        for ack in _rows(acks, 2):
            key, version = str(ack[0]), str(ack[1])
            if self._index.acknowledge(key, version):
                self._outbox.acknowledged(key)
                acked.append(key)
        return acked

    def _held(self, held: Any) -> None:
        for row in _rows(held, 3):
            key, version, reason = map(str, row)
            entry = self._index.get(key)
            if entry is not None and entry.pending and entry.record.version == version:
                self._lot.park_held(key, version, reason)

    def _wanted_records(self, keys: Any) -> None:
        for key in keys if isinstance(keys, list) else []:
            entry = self._index.get(str(key))
            if entry is not None:
                self._index.put(replace(entry, base=None), self._clock.wall())
                self._outbox.acknowledged(entry.record.key)

    def _wanted_audio(self, wants: Any) -> None:
        for want in wants if isinstance(wants, list) else []:
            sha256 = str(want.get("sha256")) if isinstance(want, dict) else ""
            entry = next(iter(self._index.with_audio(sha256)), None)
            audio = audio_of(entry.record.document) if entry else None
            for gap in _rows(want.get("missing"), 2) if audio else []:
                if audio and _is_range(gap, audio["size"]):
                    self._index.offers.add(sha256, gap[0], gap[1])

    def _lost(self, lost: Any) -> None:
        """The peer lacks recordings that were asked for: what waits for one is held back, as it may never come."""
        gone = set(map(str, lost)) if isinstance(lost, list) else set()
        for entry in (entry for sha256 in sorted(gone) for entry in self._index.with_audio(sha256)):
            version = self._index.replies.ack_of(entry.record.key)
            if version is not None and not self._recordings.are_here(entry):
                self._index.shelf.hold(entry.record.key, version, LOST)


def _rows(value: Any, length: int) -> list[list[Any]]:
    return [row for row in value if isinstance(row, list) and len(row) == length] if isinstance(value, list) else []


def _is_range(gap: Any, size: int) -> bool:
    """Whether this is `[start, stop]` within a recording of `size` bytes."""
    match gap:
        case [int(start), int(stop)]:
            return 0 <= start < stop <= size
        case _:
            return False
