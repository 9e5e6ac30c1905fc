"""What this server knows of its peer: when it was last heard, what it holds, what it said of the roles.

To hear the peer is to hold a mail that echoes a challenge of mine: its age is the age of the challenge, not of the
mail's arrival, so an old or replayed mail never makes a dead peer live. Ages run on the steady clock and count only
within one boot. All of it is notes in the index, so that commands see what the daemon knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.index import Index
    from vmctl.mail import SyncMail

_MOST_CHALLENGES = 200
_HOURS = 24  # for which the slowest way is remembered


class Contact:
    """The peer as its mails show it. Call inside a transaction of the index where something is set."""

    def __init__(self, index: Index, clock: Clock, after: float) -> None:
        self._index = index
        self._clock = clock
        self._after = after

    def forget(self) -> None:
        """A new start: only an answer to a challenge of this start counts from now on."""
        for name in ("challenges", "heard", "peer", "peer_challenge"):
            self._index.set_note(name, None)

    def challenge(self) -> str:
        """The challenge for the next mail: a new one, or one that is hardly older, as many mails may leave at once.

        Those older than `failover.after` are void.
        """
        now, boot = self._clock.steady(), self._clock.boot()
        kept = [
            one for one in self._index.note("challenges") or [] if one[2] == boot and 0 <= now - one[1] < self._after
        ]
        if kept and now - kept[-1][1] < self._after / _MOST_CHALLENGES:
            return str(kept[-1][0])
        nonce = os.urandom(8).hex()
        self._index.set_note("challenges", [*kept[-_MOST_CHALLENGES:], [nonce, now, boot]])
        return nonce

    def echo(self) -> str | None:
        """The peer's newest challenge, to be echoed."""
        return (self._index.note("peer_challenge") or {}).get("nonce")

    def asked(self, mail: SyncMail) -> bool:
        """Note the challenge of a mail, to be echoed; tells whether it is the newest of its incarnation."""
        last = self._index.note("peer_challenge") or {}
        number = (mail.checkpoint or {}).get("number")  # not the time: the peer's clock may be set back
        number = number if type(number) is int else 0
        if number < last.get("number", 0) and mail.incarnation == last.get("incarnation"):
            return False
        value = {"nonce": mail.challenge, "number": number, "incarnation": mail.incarnation}
        self._index.set_note("peer_challenge", value)
        return True

    def take(self, mail: SyncMail) -> bool:
        """Note what a mail says of the peer; tells whether it is fresh: it echoes a challenge that still counts."""
        newest = self.asked(mail)
        issued = self._issued(mail.echo)
        if issued is None:
            return False
        heard = self._index.note("heard")
        boot = self._clock.boot()
        self._note_way(self._clock.steady() - issued)
        if not heard or heard["boot"] != boot or issued > heard["steady"]:
            self._index.set_note("heard", {"steady": issued, "boot": boot, "wall": self._clock.wall()})
        if newest:
            facts = {**mail.status, "sent": mail.sent, "config": mail.config, "echoed": issued}
            now = self._clock.wall()
            facts["skew"] = skew_of(mail.sent, now - int((self._clock.steady() - issued) * 1_000_000), now)
            for name in ("acks", "held", "wants", "lost", "proof", "groups"):
                facts.pop(name, None)
            for name in (
                "last",
                "settled",
                "passed",
                "pending",
                "parked",
            ):  # what is no number here was not written by vmctl
                facts[name] = facts[name] if type(facts.get(name)) is int else 0
            for name in ("asks", "moves"):  # likewise what is no list
                facts[name] = facts[name] if isinstance(facts.get(name), list) else []
            self._index.set_note("peer", facts)
        return True

    def _issued(self, echo: str | None) -> float | None:
        now, boot = self._clock.steady(), self._clock.boot()
        for nonce, steady, of_boot in self._index.note("challenges") or []:
            if nonce == echo and of_boot == boot and 0 <= now - steady < self._after:
                return float(steady)
        return None

    def _note_way(self, seconds: float) -> None:
        """Keep how slow the slowest way there and back was, by the hour, for a day: late mail must not look like silence."""
        hour, boot = int(self._clock.steady() // 3600), self._clock.boot()
        ways = [way for way in self._index.note("ways") or [] if way[2] == boot and hour - way[0] < _HOURS]
        if ways and ways[-1][0] == hour:
            if seconds <= ways[-1][1]:
                return
            ways.pop()
        self._index.set_note("ways", [*ways, [hour, round(seconds, 1), boot]])

    def slowest_way(self) -> float:
        """Seconds that the slowest answer of the last day took, from the challenge to its echo; 0 where there was none."""
        boot = self._clock.boot()
        return max((float(way[1]) for way in self._index.note("ways") or [] if way[2] == boot), default=0.0)

    def answers_since(self, mail: SyncMail, since: list[Any] | None) -> bool:
        """Whether a mail echoes a challenge that was issued since a moment: its steady time, and of which boot."""
        issued = self._issued(mail.echo)
        return issued is not None and (since is None or since[1] != self._clock.boot() or issued > since[0])

    def silent_for(self) -> float | None:
        """Seconds since the challenge was issued that the peer echoed last; None if it was not heard in this start."""
        heard = self._index.note("heard")
        if not heard or heard["boot"] != self._clock.boot():
            return None
        return max(0.0, self._clock.steady() - float(heard["steady"]))

    def skew(self) -> float | None:
        """By how many seconds at least the peer's clock is ahead of this one (behind: below 0); None if unknown."""
        skew = self.facts().get("skew")
        return skew if isinstance(skew, float) else None

    def last_heard(self) -> int | None:
        """The wall time (microseconds) at which the peer was last heard, for showing."""
        heard = self._index.note("heard")
        return int(heard["wall"]) if heard else None

    @property
    def heard(self) -> bool:
        """Whether the peer was heard within `failover.after`."""
        silent = self.silent_for()
        return silent is not None and silent < self._after

    def facts(self) -> dict[str, Any]:
        """What the peer said of itself in its newest fresh mail."""
        return self._index.note("peer") or {}


def skew_of(sent: int, asked: int, now: int) -> float:
    """How far a clock is off at least, in seconds; above 0 where it is ahead, 0.0 where nothing tells that it is off.

    It read `sent` at some moment between `asked` and `now` by this clock (all microseconds).
    """
    return (sent - min(max(sent, asked), now)) / 1_000_000
