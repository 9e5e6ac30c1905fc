"""What waits for a person: records and pieces that the peer does not take, and mails of the peer that cannot be taken in.

The first are rows in the index (`shelf`), each with the refused mail beside it in `.vmctl/parked` as long as there is
room; the second are files in `.vmctl/refused`. Neither keeps anything else back.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from vmctl.clock import rfc3339
from vmctl.errors import NotFound, StoreError
from vmctl.fault_list import NO_FILE
from vmctl.model import canonical
from vmctl.refusals import Piece, Version
from vmctl.shelf import Parked

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.entry import Entry
    from vmctl.index import Index
    from vmctl.refusals import Group, Thing
    from vmctl.spool import Spool

log = logging.getLogger("vmctl.parked")

OUT, IN = "out", "in"
LARGEST_MAIL = "largest_mail"  # the note of how large a mail may be that leaves
_LONGEST_REPLY = 400


class Lot:
    """What is parked at one server. Call inside a transaction where something is set."""

    def __init__(self, index: Index, spool: Spool, clock: Clock) -> None:
        self._index = index
        self._shelf = index.shelf
        self._spool = spool
        self._clock = clock
        self._looked = False

    def versions(self) -> set[Version]:
        """The versions of records that are not to be sent. What is of no use any more goes first."""
        stale = self._shelf.stale()
        if not self._looked:  # what was too large need not be any more
            stale += [parked for parked in self._shelf.all() if not parked.tries and not parked.given_up]
            self._looked = True
        if stale:
            with self._index.transaction():
                for parked in stale:
                    self._forget(parked)
        return {Version(parked.key, parked.version) for parked in self._shelf.all()}

    def look_again(self) -> None:
        """Larger mails may leave than before."""
        self._looked = False

    def pieces(self) -> set[Piece]:
        """The pieces of recordings that are not to be sent."""
        return {thing for parked in self._shelf.all() if isinstance(thing := parked.thing, Piece)}

    def keep(self, raw: bytes, packet: str) -> None:
        """Keep a refused mail for a person to look at, if there is room."""
        try:
            self._spool.park(raw, packet, self._clock.wall())
        except StoreError as error:
            log.warning("the refused mail %s is not kept: %s", packet, error.what)

    def park(self, thing: Thing, packet: str, reply: str, tries: int, *, put_off: bool = False) -> None:
        """Set aside what was refused alone, so often, in the mail `packet`, while other mails were taken."""
        if isinstance(thing, Version):
            self._put(Parked(packet, *thing, reply, self._clock.wall(), tries, put_off=put_off))
            return
        entries = self._index.with_audio(thing.sha256)
        entry = next((entry for entry in entries if entry.pending), next(iter(entries), None))
        if entry is not None:
            record, now = entry.record, self._clock.wall()
            piece = (thing.sha256, thing.start, thing.stop)
            acked = not entry.pending
            self._put(Parked(packet, record.key, record.version, reply, now, tries, piece, acked, put_off=put_off))

    def put_off(self, thing: Thing, raw: bytes, packet: str, reply: str, tries: int) -> None:
        """Name what was put off alone, so often, while other mails were taken; it is tried again by itself."""
        known = next((one for one in self._shelf.all() if one.thing == thing), None)
        if known is None:
            self.keep(raw, packet)
            self.park(thing, packet, reply, tries, put_off=True)
        elif known.put_off:
            self._shelf.put(known._replace(reply=reply[:_LONGEST_REPLY], tries=tries))

    def those_put_off(self) -> list[Parked]:
        """What is put off, and to be tried again now and then."""
        return [parked for parked in self._shelf.all() if parked.put_off and not parked.given_up]

    def no_longer_put_off(self, things: Group) -> None:
        """These things were taken."""
        taken = set(things)
        for parked in self.those_put_off():
            if parked.thing in taken:
                self._forget(parked)

    def park_held(self, key: str, version: str, reason: str) -> None:
        """Set aside what the peer has in a mail that it took, and cannot take."""
        reply = f"the other server holds it back: {reason}"
        self._put(Parked(_mark(key, version), key, version, reply, self._clock.wall()))

    def park_too_large(self, entry: Entry, size: int, bound: int) -> None:
        """Set aside a record that fits no mail of `bound` bytes, and name it as a fault."""
        key, now = entry.record.key, self._clock.wall()
        why = f"it needs a mail of up to {size} bytes, the largest that can leave has {bound}"
        mend = "raise 'mail.max' in vmctl.yaml on both servers, or what a mail server between them takes, or make it shorter"
        with self._index.transaction():
            self._index.faults.set(NO_FILE + key, why, mend, now)
            self._put(Parked(_mark(key, entry.record.version), key, entry.record.version, why, now, tries=0))

    def _put(self, parked: Parked) -> None:
        if parked.thing not in {
            one.thing for one in self._shelf.all()
        }:  # another piece of its recording is another thing
            self._shelf.put(parked._replace(reply=parked.reply[:_LONGEST_REPLY]))
            how = "put off each time, and tried again now and then" if parked.put_off else "not sent any more"
            log.error("%s is %s: %s; see 'vmctl parked list'", parked.key, how, parked.reply)

    def _forget(self, parked: Parked) -> None:
        self._shelf.drop(parked.packet)
        self._index.faults.drop(NO_FILE + parked.key)
        self._spool.unpark(parked.packet)

    # What a person orders

    def retry(self, ident: str) -> None:
        """Send it, or take it in, again. Raises NotFound."""
        parked = self._find(ident)
        if parked is None:
            self._spool.take_up(ident)
            return
        with self._index.transaction():
            self._forget(parked)
            if not parked.tries:
                self._index.set_note(LARGEST_MAIL, None)  # whoever retries it believes that a larger mail goes
            if parked.piece is not None:
                self._index.offers.add(*parked.piece)

    def drop(self, ident: str) -> None:
        """Give it up: it is not offered at this version any more, a mail that came in is removed. Raises NotFound."""
        parked = self._find(ident)
        if parked is None:
            self._spool.drop_refused(ident)
            return
        with self._index.transaction():
            self._shelf.put(parked._replace(given_up=True))
        self._spool.unpark(parked.packet)

    def _find(self, ident: str) -> Parked | None:
        return next((parked for parked in self._shelf.all() if parked.packet == ident), None)


def listing(index: Index | None, spool: Spool) -> list[dict[str, Any]]:
    """What is parked at a server, as `vmctl parked list --json` prints it: the oldest first, first what should go out."""
    found = [_out(parked, spool) for parked in (index.shelf.all() if index else ())]
    for path in spool.refused():
        at = path.stem.partition("-")[0]
        found.append(
            _value(path.stem, IN, spool.why(path), int(at) if at.isdecimal() else 0) | {"mail": str(path), "tries": 1}
        )
    return found


def matching(ident: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The one whose id begins so. Raises NotFound."""
    fits = [one for one in found if one["id"].startswith(ident)] if ident else []
    if len(fits) != 1:
        why = f"{len(fits)} ids begin so" if fits else ""
        raise NotFound(f"nothing is parked as {ident[:60]!r}", why=why, hint="'vmctl parked list' shows what is")
    return fits[0]


def _out(parked: Parked, spool: Spool) -> dict[str, Any]:
    mail = spool.parked(parked.packet)
    return _value(parked.packet, OUT, parked.reply, parked.since) | {
        "record": parked.key,
        "bytes": list(parked.piece[1:]) if parked.piece else None,
        "tries": parked.tries,
        "given_up": parked.given_up,
        "put_off": parked.put_off,
        "mail": str(mail) if mail else None,
    }


def _value(ident: str, direction: str, reply: str | None, since: int) -> dict[str, Any]:
    value = {
        "id": ident,
        "direction": direction,
        "record": None,
        "bytes": None,
        "reply": reply,
        "since": rfc3339(since),
    }
    return value | {"tries": 0, "given_up": False, "put_off": False, "mail": None}


def _mark(key: str, version: str) -> str:
    """The id of what no mail of its own brought."""
    return hashlib.sha256(canonical([key, version])).hexdigest()[:24]
