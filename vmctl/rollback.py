"""Finds out that a server was rolled back to an earlier state: this one, or the peer. By the checkpoints in the mails.

Each mail carries a checkpoint of its sender and echoes those of its recipient: who does not know one was rolled back, and
has to hear of it whatever else is lost or late. So each is echoed until a mail of the peer says that it is known, or one
comes that was given right after it; the newest is echoed for ever. docs/sync-mail.md has the fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vmctl.checkpoints import Checkpoint

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.rollback")

_ECHO: Final = "echo_checkpoint"
_REFUTED: Final = "refuted_life"  # the echo for a peer that was rolled back to a past incarnation
_KNOWN: Final = "known_checkpoints"  # those of this server that the peer has echoed last
_STRAYED: Final = "strayed_checkpoint"  # the newest that a peer has given since it forgot one that is echoed
_NOBODYS: Final = "forgotten"  # a nonce that no checkpoint has
_MOST: Final = 16  # in an echo: more are there only where mail after mail is lost, and nothing comes back
_END: Final = 2**63  # numbers in an index are below that


class Rollback:
    """What the index of one server knows of its own checkpoints and of the peer's. Call it inside a transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    # What the next mail says

    def next_checkpoint(self, wall: int, nonce: str) -> dict[str, Any]:
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

    def to_echo(self) -> dict[str, Any] | None:
        """The checkpoints of the peer that the next mail echoes."""
        echo: dict[str, Any] | None = self._index.note(_REFUTED) or self._index.note(_ECHO)
        return echo

    # What a mail says of this server

    def rolled_back_here(self, mail: SyncMail) -> int | None:
        """Whether the peer echoes a checkpoint that is not known here any more: a number, or None where it is not so.

        Every change above that number was made since this server was rolled back.
        """
        echo = mail.echo_checkpoint or {}
        if echo.get("incarnation") != self._index.meta("incarnation"):
            return None
        echoed = _checkpoints(echo.get("checkpoints"))
        for one in sorted(echoed):
            if not self._index.checkpoints.confirm(one):
                self._index.checkpoints.doubt(one.number)
                above = echo.get("above")
                return above if type(above) is int else one.number
        self._index.set_note(_KNOWN, sorted(echoed))
        return None

    @staticmethod
    def is_refuted(mail: SyncMail) -> bool:
        """Whether the peer takes this server for one of its past lives.

        It counts also in a mail of what looks like a past life of the peer. When both have lost their indexes, mails of
        the lives before can make each take the other's present one for past.
        """
        return "above" in (mail.echo_checkpoint or {})

    # What it says of the peer

    def rolled_back_there(self, mail: SyncMail) -> bool:
        """Whether the peer has forgotten a checkpoint that it is echoed.

        What it says until it finds that out is left: it says it again under its next incarnation, and its present
        numbers mean other changes here.
        """
        theirs, after = _theirs(mail)
        if theirs is None or after is None:
            return False
        strayed = after == _checkpoint(self._index.note(_STRAYED))
        if strayed or any(after < one < theirs for one in self._echoed(mail.incarnation)):
            self._index.set_note(_STRAYED, theirs)
            log.warning("the peer has forgotten what it said before: it was rolled back")
            return True
        return False

    def take(self, mail: SyncMail) -> None:
        """Note the checkpoint of a mail of the peer's present life, to be echoed, and which of the others are known."""
        theirs, after = _theirs(mail)
        if theirs is None:
            return
        all_ = self._echoed(mail.incarnation) | {theirs}
        newest = max(all_)
        rest = sorted((all_ - {after, *_checkpoints((mail.checkpoint or {}).get("known"))}) | {newest})
        if len(rest) > _MOST:
            rest = [*rest[: _MOST - 1], newest]
        self._index.set_note(_ECHO, {"incarnation": mail.incarnation, "checkpoints": rest})
        self._index.set_note(_REFUTED, None)

    def refute(self, mail: SyncMail) -> None:
        """A mail of a past incarnation that is younger than all of the present one: the peer was rolled back to it.

        It finds that out by the echo of a checkpoint that it never gave, and issues again what it did above all that
        is known here of that incarnation.
        """
        number, echo = (mail.checkpoint or {}).get("number"), self._index.note(_ECHO) or {}
        theirs = _checkpoint([number, _NOBODYS])
        if theirs is not None and all(theirs.number > one.number for one in _checkpoints(echo.get("checkpoints"))):
            above = self._index.newest_by(mail.incarnation)
            self._index.set_note(_REFUTED, {"incarnation": mail.incarnation, "checkpoints": [theirs], "above": above})

    def forget_peer(self) -> None:
        """The peer has a new incarnation: nothing that it gave before is echoed any more."""
        self._index.set_note(_ECHO, None)
        self._index.set_note(_REFUTED, None)

    def _echoed(self, incarnation: str) -> set[Checkpoint]:
        echo = self._index.note(_ECHO) or {}
        return _checkpoints(echo.get("checkpoints")) if echo.get("incarnation") == incarnation else set()


def _theirs(mail: SyncMail) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The checkpoint of a mail and the one before it, which is below all others for the first; None for what is none."""
    theirs = mail.checkpoint or {}
    after = theirs.get("after")
    before = Checkpoint(0, "") if after is None else _checkpoint(after)
    return _checkpoint([theirs.get("number"), theirs.get("nonce")]), before


def _checkpoints(value: Any) -> set[Checkpoint]:
    return {one for each in value if (one := _checkpoint(each)) is not None} if isinstance(value, list) else set()


def _checkpoint(value: Any) -> Checkpoint | None:
    match value:
        case [int() as number, str() as nonce] if 0 <= number < _END:
            return Checkpoint(number, nonce)
    return None
