"""Finds out that a server was rolled back to an earlier state: this one, or the peer. By the checkpoints in the mails.

Each mail carries a checkpoint of its sender, names those that he gave before it, and echoes those of its recipient. Who
does not know one was rolled back, and has to hear of it whatever else is lost or late: so each is echoed until a mail of
the peer shows that it is known, and the newest for ever. docs/sync-mail.md has the fields.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vmctl.checkpoints import Checkpoint

if TYPE_CHECKING:
    from vmctl.index import Index
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.rollback")

_ECHO: Final = "echo_checkpoints"  # of the last lives of the peer: it may be put back to each of them
_REFUTED: Final = "refuted_life"  # the echo for a peer that was rolled back to a past incarnation
_KNOWN: Final = "known_checkpoints"  # those of this server that the peer has echoed last
_ABOVE: Final = "refuted_above"  # a start over is due, and the peer has told the number above which to issue again
_NOBODYS: Final = "forgotten"  # a nonce that no checkpoint has
_MOST_BEFORE: Final = 32  # are named in a mail: more are there only where nothing comes back for long
_MOST_ECHOED: Final = 16  # in a mail
_MOST_LIVES: Final = 4
_END: Final = 2**63  # numbers in an index are below that


class Rollback:
    """What the index of one server knows of its own checkpoints and of the peer's. Call it inside a transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    # What the next mail says

    def next_checkpoint(self, wall: int, nonce: str) -> dict[str, Any]:
        """A new checkpoint of this server, for a mail that leaves once this is committed."""
        # a number of its own: two mails with one number could not be told apart when one is echoed
        number = self._index.next_number(wall)
        before, since = self._index.checkpoints.unconfirmed(_MOST_BEFORE)
        self._index.checkpoints.add(number, nonce)
        return {
            "incarnation": self._index.meta("incarnation"),
            "number": number,
            "nonce": nonce,
            "before": before,
            "since": since,
            "known": self._index.note(_KNOWN) or [],
        }

    def to_echo(self) -> dict[str, Any] | None:
        """The checkpoints of the peer that the next mail echoes."""
        refuted: dict[str, Any] | None = self._index.note(_REFUTED)
        life = self._index.meta("peer_incarnation")
        echoed = sorted([*one, since] for one, since in self._echoed(life).items())
        return refuted or ({"incarnation": life, "checkpoints": echoed} if life else None)

    # What a mail says of this server

    def rolled_back_here(self, mail: SyncMail) -> bool:
        """Whether the peer echoes a checkpoint that is not known here any more; then a start over is due."""
        echo = mail.echo_checkpoint or {}
        if echo.get("incarnation") != self._index.meta("incarnation"):
            return False
        # what this very echo confirms may be of this life, and what it does not of the other
        confirmed, echoed = self._index.checkpoints.confirmed, _with_since(echo.get("checkpoints"))
        for one in sorted(echoed):
            if not self._index.checkpoints.confirm(one):
                self._index.checkpoints.doubt(min(confirmed, echoed[one]))
                self._index.set_note(_ABOVE, echo.get("above"))
                return True
        self._index.set_note(_KNOWN, sorted(echoed))
        return False

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
        theirs, before, since = _read(mail)
        if theirs is None or since is None:
            return False
        forgotten = {one for one in self._echoed(mail.incarnation) if since < one.number and one < theirs} - before
        if forgotten:
            log.warning("the peer has forgotten what it said before: it was rolled back")
            self._index.set_note(_REFUTED, None)  # it is its present life that has to hear of it
        return bool(forgotten)

    def take(self, mail: SyncMail) -> None:
        """Note the checkpoint of a mail of the peer's present life, to be echoed, and which of the others are known."""
        theirs, before, since = _read(mail)
        if theirs is None:
            return
        found = self._echoed(mail.incarnation) | {theirs: since or 0}
        done = (before | _checkpoints((mail.checkpoint or {}).get("known"))) - {max(found)}
        rest = sorted([*one, number] for one, number in found.items() if one not in done)
        lives = [life for life in self._index.note(_ECHO) or [] if life[0] != mail.incarnation]
        lives.append([mail.incarnation, rest[-_MOST_ECHOED:]])
        self._index.set_note(_ECHO, lives[-_MOST_LIVES:])
        self._index.set_note(_REFUTED, None)

    def refute(self, mail: SyncMail) -> None:
        """A mail of a past incarnation that is younger than all of the present one: the peer was rolled back to it.

        It finds that out by the echo of a checkpoint that it never gave, and issues again what it did above all that
        is known here of that incarnation.
        """
        theirs = _checkpoint([(mail.checkpoint or {}).get("number"), _NOBODYS])
        present = self._echoed(self._index.meta("peer_incarnation"))
        if theirs is not None and all(theirs.number > one.number for one in present):
            above, echoed = self._index.newest_by(mail.incarnation), [[*theirs, theirs.number]]
            self._index.set_note(_REFUTED, {"incarnation": mail.incarnation, "checkpoints": echoed, "above": above})

    def _echoed(self, incarnation: str) -> dict[Checkpoint, int]:
        """The checkpoints to be echoed of a life of the peer, each with the number that its `since` was."""
        return next((_with_since(found) for life, found in self._index.note(_ECHO) or [] if life == incarnation), {})


def issue_again_above(index: Index) -> int:
    """The number above which changes may have been made since this server was rolled back, if it was."""
    told = index.note(_ABOVE)
    return max(index.checkpoints.confirmed, told if type(told) is int else 0)


def begun_anew(index: Index) -> None:
    """This server has a new incarnation, and has given no checkpoint in it."""
    index.checkpoints.drop_all()
    index.set_note(_ABOVE, None)


def _read(mail: SyncMail) -> tuple[Checkpoint | None, set[Checkpoint], int | None]:
    """The checkpoint of a mail, those that were given before it, and the number above which these are all."""
    theirs = mail.checkpoint or {}
    since = theirs.get("since")
    own = _checkpoint([theirs.get("number"), theirs.get("nonce")])
    return own, _checkpoints(theirs.get("before")), since if type(since) is int else None


def _checkpoints(value: Any) -> set[Checkpoint]:
    return {one for each in value if (one := _checkpoint(each)) is not None} if isinstance(value, list) else set()


def _with_since(value: Any) -> dict[Checkpoint, int]:
    found = {}
    for each in value if isinstance(value, list) else ():
        match each:
            case [number, nonce, int() as since] if (
                one := _checkpoint([number, nonce])
            ) is not None and 0 <= since < _END:
                found[one] = since
    return found


def _checkpoint(value: Any) -> Checkpoint | None:
    match value:
        case [int() as number, str() as nonce] if 0 <= number < _END and type(number) is int:
            return Checkpoint(number, nonce)
    return None
