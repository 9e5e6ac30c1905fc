"""Finds out that a server was rolled back to an earlier state: this one, or the peer. By the checkpoints in the mails.

Each mail carries a checkpoint of its sender and echoes one of its recipient: who does not know it was rolled back, and
has to hear of that whatever else is lost or late. So one is echoed until a mail of the peer shows that it is known.
docs/sync-mail.md has the fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vmctl.checkpoints import Mark

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.rollback")

_NOTE = "peer_checkpoint"
_STRAYED = "peer_strayed"  # the newest checkpoint that a peer has given since it forgot the one that is echoed
_END = 2**63  # numbers in an index are below that
_FORGOTTEN = "forgotten"  # the nonce of a checkpoint that nobody gave


class Rollback:
    """What the index of one server knows of its own checkpoints and of the peer's. Call it inside a transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def forget_peer(self) -> None:
        """The peer has a new incarnation, and begins anew."""
        self._index.set_note(_NOTE, None)
        self._index.set_note(_STRAYED, None)

    def to_echo(self) -> dict[str, Any] | None:
        """The checkpoint of the peer that the next mail echoes."""
        echoed: dict[str, Any] | None = self._index.note(_NOTE)
        return echoed

    # This server

    def is_ours(self, mail: SyncMail) -> bool:
        """Whether the peer echoes a checkpoint that this server does not know any more."""
        echoed = mail.echo_checkpoint
        if not echoed or echoed.get("incarnation") != self._index.meta("incarnation"):
            return False
        mark = _mark([echoed.get("number"), echoed.get("nonce")])
        return mark is not None and not self._index.checkpoints.confirm(*mark)

    @staticmethod
    def is_refuted(mail: SyncMail) -> bool:
        """Whether the peer takes this server for one of its past lives.

        It counts also in a mail of what looks like a past life of the peer. When both have lost their indexes, mails of
        the lives before can make each take the other's present one for past.
        """
        return (mail.echo_checkpoint or {}).get("nonce") == _FORGOTTEN

    @staticmethod
    def above(mail: SyncMail) -> int:
        """The number above which every change was made since this server was rolled back."""
        echoed = mail.echo_checkpoint or {}
        above = echoed.get("above", echoed.get("number"))
        return above if isinstance(above, int) else 0

    # The peer

    def is_the_peers(self, mail: SyncMail) -> bool:
        """Whether the peer has forgotten the checkpoint that it is echoed; else notes the one of this mail to be echoed.

        What it says until it finds that out is left: it says it again under its next incarnation, and its present
        numbers mean other changes here.
        """
        theirs = mail.checkpoint or {}
        mark = _mark([theirs.get("number"), theirs.get("nonce")])
        if mark is None:
            return False
        after, known = _mark(theirs.get("after")) or Mark(0, ""), _mark(theirs.get("known"))
        echoed = self._index.note(_NOTE)
        if echoed is None or echoed.get("incarnation") != mail.incarnation or _goes_on(echoed, after, known):
            self._index.set_note(_NOTE, {"incarnation": mail.incarnation, **mark._asdict()})
            return False
        strayed = after.number < echoed["number"] < mark.number or after == _mark(self._index.note(_STRAYED))
        if strayed:
            self._index.set_note(_STRAYED, list(mark))
            log.warning("the peer has forgotten what it said before: it was rolled back")
        return strayed

    def refute(self, mail: SyncMail) -> None:
        """A mail of a past incarnation that is younger than all of the present one: the peer was rolled back to it.

        It finds that out by the echo of a checkpoint that it never gave, and issues again what it did above all that
        is known here of that incarnation.
        """
        mark = _mark([(mail.checkpoint or {}).get("number"), _FORGOTTEN])
        if mark is not None and mark.number > (self._index.note(_NOTE) or {}).get("number", 0):
            above = self._index.newest_by(mail.incarnation)
            self._index.set_note(_NOTE, {"incarnation": mail.incarnation, **mark._asdict(), "above": above})


def _goes_on(echoed: dict[str, Any], after: Mark, known: Mark | None) -> bool:
    """Whether a checkpoint was given by a peer that knows the echoed one, as it follows that, or says so.

    One that knows a later one has been echoed that, so it is this server that has forgotten it.
    """
    mark = Mark(echoed["number"], echoed["nonce"])
    return after == mark or (known is not None and (known == mark or known.number > mark.number))


def _mark(value: Any) -> Mark | None:
    match value:
        case [int() as number, str() as nonce] if 0 <= number < _END:
            return Mark(number, nonce)
    return None
