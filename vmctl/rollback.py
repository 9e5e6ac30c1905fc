"""Finds out that a server was rolled back to an earlier state: this one, or the peer. By the checkpoints in the mails.

Each mail carries a checkpoint of its sender and echoes those of its recipient: who does not know one was rolled back, and
has to hear of it whatever else is lost or late. So each is echoed until a mail of the peer says that it is known, or one
comes that was given right after it; the newest is echoed for ever. docs/sync-mail.md has the fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vmctl.checkpoints import Mark

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.rollback")

_ECHO: Final = "echo_checkpoint"
_KNOWN: Final = "known_checkpoints"  # those of this server that the peer has echoed last
_STRAYED: Final = "strayed_checkpoint"  # the newest that a peer has given since it forgot one that is echoed
_FORGOTTEN: Final = "forgotten"  # the nonce of a checkpoint that nobody gave
_MOST: Final = 16  # marks in a mail: more are there only where mail after mail is lost, and nothing comes back
_END: Final = 2**63  # numbers in an index are below that


class Rollback:
    """What the index of one server knows of its own checkpoints and of the peer's. Call it inside a transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def forget_peer(self) -> None:
        """The peer has a new incarnation, and begins anew."""
        self._index.set_note(_ECHO, None)
        self._index.set_note(_STRAYED, None)

    def forget_own(self) -> None:
        """This server has a new incarnation, and begins anew."""
        self._index.checkpoints.drop_all()
        self._index.set_note(_KNOWN, None)

    # What the next mail says

    def to_echo(self) -> dict[str, Any] | None:
        """The checkpoints of the peer that the next mail echoes."""
        echoed: dict[str, Any] | None = self._index.note(_ECHO)
        return echoed

    def next(self, wall: int, nonce: str) -> dict[str, Any]:
        """A new checkpoint of this server, for a mail that leaves once this is committed."""
        # a number of its own: two mails with one number could not be told apart when one is echoed
        number, after = self._index.next_number(wall), self._index.checkpoints.last()
        self._index.checkpoints.add(number, nonce)
        return {
            "incarnation": self._index.meta("incarnation"),
            "number": number,
            "nonce": nonce,
            "after": after and list(after),
            "known": self._index.note(_KNOWN) or [],
        }

    # What a mail says of this server

    def forgotten(self, mail: SyncMail) -> int | None:
        """A number above which every change was made since this server was rolled back; None where it was not.

        It was where the peer echoes a checkpoint that is not known here any more.
        """
        echoed = mail.echo_checkpoint or {}
        if echoed.get("incarnation") != self._index.meta("incarnation"):
            return None
        marks = _marks(echoed.get("marks"))
        for mark in sorted(marks):
            if not self._index.checkpoints.confirm(mark):
                above = echoed.get("above", mark.number)
                return above if isinstance(above, int) else mark.number
        self._note(_KNOWN, [list(mark) for mark in sorted(marks)])
        return None

    @staticmethod
    def is_refuted(mail: SyncMail) -> bool:
        """Whether the peer takes this server for one of its past lives.

        It counts also in a mail of what looks like a past life of the peer. When both have lost their indexes, mails of
        the lives before can make each take the other's present one for past.
        """
        return any(nonce == _FORGOTTEN for _, nonce in _marks((mail.echo_checkpoint or {}).get("marks")))

    # What it says of the peer

    def is_the_peers(self, mail: SyncMail) -> bool:
        """Whether the peer has forgotten a checkpoint that it is echoed; else notes the one of this mail to be echoed.

        What it says until it finds that out is left: it says it again under its next incarnation, and its present
        numbers mean other changes here.
        """
        theirs = mail.checkpoint or {}
        mark = _mark([theirs.get("number"), theirs.get("nonce")])
        if mark is None:
            return False
        after = _mark(theirs.get("after")) or Mark(0, "")
        echoed = self._echoed(mail.incarnation)
        if after == _mark(self._index.note(_STRAYED)) or any(after < one < mark for one in echoed - {after}):
            self._index.set_note(_STRAYED, list(mark))
            log.warning("the peer has forgotten what it said before: it was rolled back")
            return True
        newest = max(echoed | {mark})
        rest = (echoed | {mark}) - {after, *_marks(theirs.get("known"))}
        marks = sorted(rest | {newest})
        if len(marks) > _MOST:
            marks = [*marks[: _MOST - 1], newest]
        self._note(_ECHO, {"incarnation": mail.incarnation, "marks": [list(one) for one in marks]})
        return False

    def refute(self, mail: SyncMail) -> None:
        """A mail of a past incarnation that is younger than all of the present one: the peer was rolled back to it.

        It finds that out by the echo of a checkpoint that it never gave, and issues again what it did above all that
        is known here of that incarnation.
        """
        mark = _mark([(mail.checkpoint or {}).get("number"), _FORGOTTEN])
        newest = max((number for number, _ in _marks((self.to_echo() or {}).get("marks"))), default=0)
        if mark is not None and mark.number > newest:
            above = self._index.newest_by(mail.incarnation)
            self._index.set_note(_ECHO, {"incarnation": mail.incarnation, "marks": [list(mark)], "above": above})

    def _note(self, name: str, value: Any) -> None:
        if value != self._index.note(name):  # most mails say nothing new
            self._index.set_note(name, value)

    def _echoed(self, incarnation: str) -> set[Mark]:
        echoed = self.to_echo() or {}
        return _marks(echoed.get("marks")) if echoed.get("incarnation") == incarnation else set()


def _marks(value: Any) -> set[Mark]:
    return {mark for one in value if (mark := _mark(one)) is not None} if isinstance(value, list) else set()


def _mark(value: Any) -> Mark | None:
    match value:
        case [int() as number, str() as nonce] if 0 <= number < _END:
            return Mark(number, nonce)
    return None
