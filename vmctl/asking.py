"""What every mail says besides what it brings: what is acknowledged, held back, asked for, and not here either.

What does not come is asked for again, after longer and longer: a recording may be lost on both servers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.backoff import backoff
from vmctl.entry import audio_of
from vmctl.ranges import without
from vmctl.replies import WAITS

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.doubt import Doubt
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.ranges import Span
    from vmctl.recordings import Recordings

# The most of each in one mail, and the bytes of one there at most: none may have more than an eighth of a mail.
_MOST_ACKS, _ACK_BYTES = 2000, 200
_MOST_HOLDS, _HOLD_BYTES = 50, 400
_MOST_LOST, _LOST_BYTES = 100, 80
_MOST_WANTS, _WANT_BYTES = 100, 120
_MOST_GAPS, _GAP_BYTES = 100, 24
_ASK_AFTER, _ASK_AT_LEAST = 2.0, 600.0


@dataclass(slots=True)
class Word:
    """What one mail says; it is settled when the mail left."""

    acks: list[tuple[str, str]] = field(default_factory=list)
    holds: list[tuple[str, str, str]] = field(default_factory=list)
    wants: dict[str, Any] = field(default_factory=lambda: {"records": [], "audio": []})
    lost: list[str] = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)
    is_full: bool = False  # with acknowledgements: there may be more

    def __bool__(self) -> bool:
        return self.answers or any(self.wants.values())

    @property
    def answers(self) -> bool:
        """Whether it says more than what is asked for."""
        return bool(self.acks or self.holds or self.lost or self.groups)

    def as_json(self) -> dict[str, Any]:
        """The word as the status block has it."""
        value: dict[str, Any] = {"acks": [list(ack) for ack in self.acks], "wants": self.wants}
        value |= {"held": [list(one) for one in self.holds]} if self.holds else {}
        return value | ({"lost": self.lost} if self.lost else {}) | self.groups


class _Asked(NamedTuple):
    """What was missing of something when that last changed, or when it was last asked for; how often it was since."""

    gaps: tuple[Span, ...]
    at: float
    times: int
    wait: float


class Asker:
    """Knows what one server has to say to its peer, and when it asked for what."""

    def __init__(self, index: Index, recordings: Recordings, doubt: Doubt, clock: Clock) -> None:
        self._index = index
        self._recordings = recordings
        self._doubt = doubt
        self._clock = clock
        self._records: dict[str, _Asked] = {}
        self._audio: dict[str, _Asked] = {}
        self._here: set[str] = set()
        self._settled: Word | None = None

    def look(self) -> None:
        """Before a row of mails, look for what anything may have happened to: recordings of conflicts, and those on offer.

        A conflict has no file, and both servers may have made it themselves, with the recording at one of them.
        """
        self._here.clear()
        lost = self._index.entries(
            f"mailbox IS NULL AND kind = 'conflict' AND audio IS NOT NULL AND lives AND NOT {WAITS}"
        )
        self._await([entry for entry in lost if not self._recordings.are_here(entry)])

    def word(self, bound: int, *, eager: bool) -> Word:
        """What there is to say now, in a mail of at most `bound` bytes.

        `eager` asks for everything that is missing, however lately it was asked for.
        """
        share = bound // 8
        most = min(_MOST_ACKS, share // _ACK_BYTES)
        acks = self._acks(most)
        wants = {
            "records": self._wanted_records(min(_MOST_WANTS, share // _WANT_BYTES), eager=eager),
            "audio": self._wanted_audio(share, eager=eager),
        }
        holds = self._index.shelf.holds(min(_MOST_HOLDS, share // _HOLD_BYTES))
        lost = self._lost(min(_MOST_LOST, share // _LOST_BYTES))
        return Word(acks, holds, wants, lost, self._doubt.page(), is_full=len(acks) == most)

    def unfinished(self, word: Word) -> bool:
        """Whether the mail with this word left, and there is more to say than it had room for."""
        return self._settled is word and (self._doubt.due or word.is_full)

    def forget(self) -> None:
        """Whatever is missing may be asked for again at once."""
        self._records.clear()
        self._audio.clear()

    def settle(self, word: Word) -> None:
        """The mail that said it left. Call inside a transaction."""
        for key, version in word.acks:
            self._index.replies.drop_ack(key, version)
        for key, version, _ in word.holds:
            self._index.shelf.told(key, version)
        for sha256 in word.lost:
            self._index.offers.drop(sha256)
        self._index.replies.tidy()
        self._doubt.told(word.groups)
        self._settled = word

    def _acks(self, most: int) -> list[tuple[str, str]]:
        """The versions to acknowledge, a record with its recording once that is durable here."""
        while True:
            acks, waiting = [], []
            for key, version, audio, shown in self._index.replies.acks(most):  # the others when these have left
                here = audio is None or (shown and self._recordings.is_in_place(key, audio))  # as nearly all are
                entry = None if here else self._index.get(key)
                if entry is not None and not self._recordings.are_here(entry):
                    waiting.append(entry)
                else:
                    acks.append((key, version))
            self._await(waiting)
            if acks or not waiting:
                return acks

    def _await(self, entries: list[Entry]) -> None:
        """The recordings of these are not here: until one comes they are not looked at again."""
        if entries:
            with self._index.transaction():
                for audio in filter(None, (audio_of(entry.record.document) for entry in entries)):
                    self._index.replies.awaits(audio["sha256"])

    def _lost(self, most: int) -> list[str]:
        """The recordings that the peer waits for and that are not here either; each is looked for once in a row of mails."""
        lost: list[str] = []
        for sha256 in self._index.offers.recordings():
            if len(lost) >= most:
                break
            if sha256 not in self._here:
                (lost.append if self._recordings.find(sha256) is None else self._here.add)(sha256)
        return lost

    def _wanted_audio(self, share: int, *, eager: bool) -> list[dict[str, Any]]:
        """Ranges of recordings that are missing: of records to be acknowledged, of files to be written, of conflicts.

        A recording is asked for only when nothing of it came for a moment: its pieces may be on their way.
        """
        came = self._index.parts.all()
        missing = {
            sha256: tuple(without([(0, size)], came.get(sha256, [])))
            for sha256, size in self._index.replies.awaited().items()
        }
        self._audio = {sha256: asked for sha256, asked in self._audio.items() if sha256 in missing}
        most_gaps = min(_MOST_GAPS, share // 10 // _GAP_BYTES)
        most = min(_MOST_WANTS, share // (_WANT_BYTES + most_gaps * _GAP_BYTES))
        due = self._due(self._audio, missing, most, eager=eager, at_once=False)
        here = [sha256 for sha256 in due if self._recordings.find(sha256) is not None]
        if here:  # it did not come in a mail
            with self._index.transaction():
                self._index.replies.came(here)
        return [
            {"sha256": one, "missing": [list(gap) for gap in missing[one][:most_gaps]]}
            for one in due
            if one not in here
        ]

    def _wanted_records(self, most: int, *, eager: bool) -> list[str]:
        """Records to be sent whole: at once, then now and again, as the peer may not have them any more."""
        missing: dict[str, tuple[Span, ...]] = dict.fromkeys(self._index.replies.wants(), ())
        self._records = {key: asked for key, asked in self._records.items() if key in missing}
        return self._due(self._records, missing, most, eager=eager, at_once=True)

    def _due(
        self, asked: dict[str, _Asked], missing: dict[str, tuple[Span, ...]], most: int, *, eager: bool, at_once: bool
    ) -> list[str]:
        now = self._clock.steady()
        due: list[str] = []
        for name, gaps in missing.items():
            known = asked.get(name)
            if known is None or known.gaps != gaps:
                known = asked[name] = _Asked(gaps, now, 0, 0.0 if at_once else _ASK_AFTER)
            if len(due) < most and (eager or now - known.at >= known.wait):
                times = known.times + 1
                asked[name] = _Asked(gaps, now, times, backoff(_ASK_AFTER, times, _ASK_AT_LEAST))
                due.append(name)
        return due
