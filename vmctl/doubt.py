"""Both servers have shipped everything, and still do not hold the same: what differs is found, named, and mended.

It comes from a mail of a life that was rolled back, from a fault of vmctl, or worse. The two tell each other a digest
for each mailbox and each kind of record outside of them, and offer again what differs, group by group. When that does
not help everything is offered again, and then a fault stays that sends for `vmctl verify`. What was found, and that
both agree again, stands in the journal. All that is known of a doubt is a note in the index, so that rounds of cron
and a daemon go on with the same one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vmctl.fault_list import NO_FILE
from vmctl.model import MAILBOX

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.contact import Contact
    from vmctl.index import Index
    from vmctl.journal import Journal
    from vmctl.mail import SyncMail

log = logging.getLogger("vmctl.doubt")

FAULT: Final = NO_FILE + "stores"
_NOTE = "doubt"
_ASKING, _OFFERED, _EVERYTHING, _STUCK = "asking", "offered", "everything", "stuck"
_ASK_AGAIN, _PATIENCE, _EVERYTHING_AGAIN = 5.0, 60.0, 3600.0  # seconds
_ENTRY_BYTES = 48  # of a digest in a mail, with its quotes, besides the group's name
_MOST_NAMED = 20

Note = dict[str, Any]


class Doubt:
    """What one server thinks of a difference to its peer. `room` is how many bytes of a mail digests may take."""

    def __init__(self, index: Index, contact: Contact, journal: Journal, clock: Clock, server: str, room: int) -> None:
        self._index = index
        self._contact = contact
        self._journal = journal
        self._clock = clock
        self._server = server
        self._room = room

    # What a mail of the peer says of it

    def take(self, mail: SyncMail) -> None:
        """Compare what a fresh mail tells with what is here; call inside the transaction that took the mail."""
        if self._contact.facts().get("sent") != mail.sent:
            return
        doubt: Note | None = self._index.note(_NOTE)
        idle = mail.status.get("pending") == 0 and not self._index.pending_count()
        same = mail.status.get("digest") == self._index.digest
        groups = mail.status.get("groups")
        if idle and same:
            self._agree(doubt)
        elif groups is not None and _is_page(groups) and (doubt is not None or idle):
            self._compare(doubt or self._begun(), groups)
        elif idle:
            self._go_on(doubt)

    def _begun(self) -> Note:
        log.warning("both servers have shipped everything and still differ: they compare digests")
        return {"stage": _ASKING, "since": self._clock.wall(), "groups": [], "told": None, "after": ""} | self._now()

    def _go_on(self, doubt: Note | None) -> None:
        """Both are idle and differ: ask for digests, and when that did not help offer everything."""
        if doubt is None:
            self._keep(self._begun())
            return
        if self._passed(doubt["at"], doubt) < (_EVERYTHING_AGAIN if doubt["stage"] == _STUCK else _PATIENCE):
            return
        if doubt["stage"] == _EVERYTHING:
            self._tell_fault(
                doubt, "'vmctl verify' names the records; take the right ones as edits, or 'vmctl reindex'"
            )
            self._event("the stores still differ", doubt["groups"])
        else:
            self._index.forget_bases()
            log.error("the stores still differ: everything is offered again")
        stage = _STUCK if doubt["stage"] in {_EVERYTHING, _STUCK} else _EVERYTHING
        self._keep(doubt | {"stage": stage} | self._now())

    def _compare(self, doubt: Note, page: Note) -> None:
        """Offer again what differs in the groups that the peer tells, and tell it ours if it asks."""
        mine, theirs = group_digests(self._index), page["of"]
        known = {
            name for name in {*mine, *theirs} if page["after"] < name and not (page["upto"] and name > page["upto"])
        }
        different = sorted(name for name in known if mine.get(name) != theirs.get(name))
        new = [name for name in different if name not in doubt["groups"]]
        if not different and not page["after"] and page["upto"] is None and self._index.recount_digest():
            log.error("the digest of this server's index was wrong, and is counted again")
        if page["asks"]:
            doubt |= {"told": None}
        if new:
            for name in new:
                self._index.offer_again(name)
            doubt |= {"groups": sorted([*doubt["groups"], *new])} | self._now()
            doubt["stage"] = _OFFERED if doubt["stage"] == _ASKING else doubt["stage"]
            log.error("the stores differ in %s: its records are offered again", _named(new))
            self._event("the stores differ", new)
            self._tell_fault(doubt, "it is being mended: what differs is offered again")
        self._keep(doubt)

    def _agree(self, doubt: Note | None) -> None:
        if doubt is None:
            return
        self._index.set_note(_NOTE, None)
        self._index.faults.drop(FAULT)
        log.warning("both servers hold the same again")
        if doubt["groups"]:
            self._event("the stores agree again", doubt["groups"])

    # What is told to the peer

    @property
    def due(self) -> bool:
        """Whether digests are to be told with the next mail."""
        doubt = self._index.note(_NOTE)
        if doubt is None:
            return False
        if doubt["told"] is None:
            return True
        return doubt["stage"] == _ASKING and self._passed(doubt["told"], doubt) >= _ASK_AGAIN

    def page(self) -> dict[str, Any]:
        """The member `groups` of a mail's status, if it is due: as many digests as there is room for, from where the last ended."""
        doubt = self._index.note(_NOTE)
        if doubt is None or not self.due:
            return {}
        digests = group_digests(self._index)
        page: dict[str, str] = {}
        size, upto = 0, None
        for name in sorted(name for name in digests if name > doubt["after"]):
            size += len(name) + _ENTRY_BYTES
            if page and size > self._room:
                upto = max(page)
                break
            page[name] = digests[name]
        return {"groups": {"after": doubt["after"], "upto": upto, "of": page, "asks": doubt["stage"] == _ASKING}}

    def told(self, page: dict[str, Any]) -> None:
        """The mail with this page left. Call inside a transaction."""
        doubt = self._index.note(_NOTE)
        groups = page.get("groups")
        if doubt is not None and groups is not None and groups["after"] == doubt["after"]:
            upto = groups["upto"]
            self._keep(doubt | {"after": upto or "", "told": None if upto else self._clock.steady()})

    # Notes, words and events

    def _keep(self, doubt: Note) -> None:
        self._index.set_note(_NOTE, doubt)

    def _now(self) -> Note:
        return {"at": self._clock.steady(), "boot": self._clock.boot()}

    def _passed(self, at: float, doubt: Note) -> float:
        """Seconds since then; of another start of the machine as many as anybody waits for."""
        return self._clock.steady() - at if doubt["boot"] == self._clock.boot() else _EVERYTHING_AGAIN

    def _tell_fault(self, doubt: Note, mend: str) -> None:
        where = f" in {_named(doubt['groups'])}" if doubt["groups"] else ""
        why = f"both servers have shipped everything and hold different records{where}"
        self._index.faults.drop(FAULT)
        self._index.faults.set(FAULT, why, mend, doubt["since"])

    def _event(self, event: str, groups: list[str]) -> None:
        facts: Note = {"groups": groups[:_MOST_NAMED], "count": len(groups)}
        self._journal.tell(event, at=self._clock.wall(), server=self._server, **facts)


def group_digests(index: Index) -> dict[str, str]:
    """A digest for each `mailbox/EXT` and each kind outside of mailboxes: the exclusive or of the records' versions."""
    found: dict[str, int] = {}
    for kind, mailbox, version in index.versions():
        name = kind if mailbox is None else f"{MAILBOX}/{mailbox}"
        found[name] = found.get(name, 0) ^ int(version, 16)
    return {name: f"{digest:032x}" for name, digest in found.items()}


def _is_page(value: Any) -> bool:
    """Whether it is what `told` gives: it comes from the wire."""
    if not isinstance(value, dict) or not isinstance(value.get("of"), dict):
        return False
    after, upto, asks = (value.get(name) for name in ("after", "upto", "asks"))
    return isinstance(after, str) and (upto is None or isinstance(upto, str)) and isinstance(asks, bool)


def _named(groups: list[str]) -> str:
    more = f" and {len(groups) - _MOST_NAMED} more" if len(groups) > _MOST_NAMED else ""
    return ", ".join(groups[:_MOST_NAMED]) + more
