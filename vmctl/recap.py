"""What a server moved while the other one was away: each mail tells it, and the other one's journal tells it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vmctl.view import View, newer

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.contact import Contact
    from vmctl.journal import Journal
    from vmctl.roles import Transition

_MOST_MOVES: Final = 12
_LONGEST_REASON, _LONGEST_TIME = 400, 40  # characters


class Recap:
    """The last transitions of both servers, as one server tells and hears them."""

    def __init__(self, journal: Journal, contact: Contact, clock: Clock, me: str) -> None:
        self._journal = journal
        self._contact = contact
        self._clock = clock
        self._me = me

    def told(self) -> list[dict[str, Any]]:
        """The last transitions that this server made. Raises JournalError."""
        entries = self._journal.entries(limit=_MOST_MOVES)
        made = [entry for entry in entries if entry.get("kind") == "transition" and entry.get("by") != "peer"]
        return [{name: entry.get(name) for name in ("service", "from", "to", "reason", "at")} for entry in made]

    def hear(self, move: Transition) -> str:
        """Journal what the peer did before a transition of its that is adopted now, and give that one's reason."""
        reason = move.reason
        for made in self._contact.facts().get("moves", []):
            try:
                before, after = View.from_json(made["from"]), View.from_json(made["to"])
                why, at = str(made["reason"])[:_LONGEST_REASON], str(made["at"])[:_LONGEST_TIME]
            except (ValueError, KeyError, TypeError):
                continue
            if after.service != move.after.service:
                continue
            if after.epoch == move.after.epoch:
                reason = f"{move.reason}: {why}"
            elif newer(after.epoch, move.before.epoch, after.home) and newer(move.after.epoch, after.epoch, after.home):
                self._journal.append(
                    "transition", at=self._clock.wall(), server=self._me, service=after.service, reason=why, by="peer",
                    evidence={"made": at}, **{"from": before.as_json(), "to": after.as_json()},
                )  # fmt: skip
        return reason
