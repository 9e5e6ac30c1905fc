"""What was told last of the messages that wait in each mailbox, and of which mailboxes it may not be so any more.

A row says what this server told last (`told`): NULL for a mailbox that it never told of, '?' and a number where another
server may have told something else since, else JSON of the service and the counts. `due` counts how often it was marked since it was looked at.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TABLE: Final = """
CREATE TABLE IF NOT EXISTS lamps (mailbox TEXT PRIMARY KEY, told TEXT, due INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lamps_due ON lamps (mailbox) WHERE due;
"""
_UNSURE: Final = "?"
_NEW: Final = {"new", "unopened"}  # what nobody has heard
_STATUS = "CASE WHEN json_valid(state) THEN json_extract(state, '$.fields.status.is') END"
_URGENT = "CASE WHEN json_valid(state) THEN json_extract(state, '$.fields.urgent.is') END"


class Count(NamedTuple):
    """The messages of a mailbox: not heard, heard (also the saved ones), and how many of each are urgent."""

    new: int = 0
    old: int = 0
    urgent_new: int = 0
    urgent_old: int = 0


NONE: Final = Count()


class Lamp(NamedTuple):
    """A mailbox to be looked at: whether it lives, the service that it names, what was told of it last, how often marked."""

    mailbox: str
    lives: bool
    named: str | None
    told: str | None
    due: int

    @property
    def told_service(self) -> str | None:
        """The service of which it was told last; None where it was not, or that is not sure any more."""
        return None if self.told is None or self.told.startswith(_UNSURE) else str(json.loads(self.told)[0])


class Lamps:
    """The rows in the index of one server; `run` executes SQL in the index's transaction.

    `service` is the SQL for the service that a mailbox's record names.
    """

    def __init__(self, run: Callable[..., Any], service: str) -> None:
        self._run = run
        self._service = service

    def any_changed(self, above: int) -> bool:
        """Whether a mailbox or a message was changed above a number."""
        query = "SELECT 1 FROM records WHERE kind IN ('mailbox', 'message') AND number > ? LIMIT 1"
        return self._run(query, (above,)).fetchone() is not None

    def mark_changed(self, above: int) -> None:
        """Every mailbox is due that, or a message of which, was changed above a number."""
        self._run(
            """INSERT INTO lamps SELECT DISTINCT mailbox, NULL, 1 FROM records
            WHERE kind IN ('mailbox', 'message') AND number > ? ON CONFLICT (mailbox) DO UPDATE SET due = due + 1""",
            (above,),
        )

    def mark(self, mailboxes: Iterable[str], at: int) -> None:
        """These are due whatever was told: another server may have told something else since.

        `at` (the wall time in microseconds) tells this marking from others, should a run be telling of them just now.
        """
        self._run(
            """INSERT INTO lamps SELECT value, NULL, 1 FROM json_each(?) WHERE true
            ON CONFLICT (mailbox) DO UPDATE SET due = due + 1, told = ?""",
            (_list(mailboxes), f"{_UNSURE}{at}"),
        )

    def due(self, after: str, most: int) -> list[Lamp]:
        """The mailboxes that are due, by their names, from behind one of them."""
        rows = self._run(
            f"""SELECT lamps.mailbox, ifnull(box.lives, 0), CASE WHEN box.key IS NOT NULL THEN {self._service} END, told, due
            FROM lamps LEFT JOIN records AS box ON box.key = 'mailbox/' || lamps.mailbox
            WHERE due AND lamps.mailbox > ? ORDER BY lamps.mailbox LIMIT ?""",  # noqa: S608 - our own words; values are parameters
            (after, most),
        )
        return [Lamp(mailbox, bool(lives), *rest) for mailbox, lives, *rest in rows]

    def counts(self, mailboxes: Sequence[str]) -> dict[str, Count]:
        """The messages that live in these mailboxes; one without any is left out."""
        rows = self._run(
            f"""SELECT mailbox, {_STATUS} AS status, {_URGENT} = 1 AS urgent, count(*) FROM records
            WHERE kind = 'message' AND lives AND mailbox IN (SELECT value FROM json_each(?))
            GROUP BY mailbox, status, urgent""",  # noqa: S608 - our own words; values are parameters
            (_list(mailboxes),),
        )
        found: dict[str, list[int]] = {}
        for mailbox, status, urgent, number in rows:
            count = found.setdefault(mailbox, [0, 0, 0, 0])
            place = 0 if status in _NEW else 1
            count[place] += number
            count[place + 2] += number if urgent else 0
        return {mailbox: Count(*count) for mailbox, count in found.items()}

    def told(self, lamp: Lamp, now: str) -> None:
        """This was told of a mailbox as it was looked at; what was marked meanwhile stays due, what is unsure unsure."""
        as_it_was = (lamp.mailbox, lamp.told)
        if lamp.lives:
            query = "UPDATE lamps SET told = ?, due = due - ? WHERE mailbox = ? AND told IS ?"
            self._run(query, (now, lamp.due, *as_it_was))
        else:  # its lamp is out, for good
            self._run("DELETE FROM lamps WHERE mailbox = ? AND told IS ? AND due = ?", (*as_it_was, lamp.due))

    def looked_at(self, mailboxes: Iterable[str]) -> None:
        """What was told of these is so."""
        self._run("UPDATE lamps SET due = 0 WHERE mailbox IN (SELECT value FROM json_each(?))", (_list(mailboxes),))

    def left_to_the_peer(self, mailboxes: Iterable[str]) -> None:
        """The peer tells of these: what this server told need not be so any more."""
        self._run(
            f"""UPDATE lamps SET due = 0, told = CASE WHEN told IS NOT NULL THEN '{_UNSURE}' END
            WHERE mailbox IN (SELECT value FROM json_each(?))""",  # noqa: S608 - our own words; values are parameters
            (_list(mailboxes),),
        )

    def forget(self, mailboxes: Iterable[str]) -> None:
        """Of these there is nothing more to be told."""
        self._run("DELETE FROM lamps WHERE mailbox IN (SELECT value FROM json_each(?))", (_list(mailboxes),))

    def waiting(self) -> int:
        """How many mailboxes are due."""
        return int(self._run("SELECT count(*) FROM lamps WHERE due").fetchone()[0])


def _list(mailboxes: Iterable[str]) -> str:
    return json.dumps(list(mailboxes))
