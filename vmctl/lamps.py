"""Message-waiting lamps: how many messages wait in each mailbox, told to `hooks.on_waiting` by the server that serves it.

What is told is what is so when it is told: after a failure, or a restart, the counts of that moment. They are told when
they differ from what was told last, and of every mailbox of a service that begins to be served here, as the other
server may have told something else meanwhile. The loop's thread alone touches the index; another runs the program, one
run after the other, so that of each mailbox the newer counts come later.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl import program
from vmctl.backoff import backoff
from vmctl.clock import Deadline
from vmctl.lamp_list import NONE, Count, Lamp
from vmctl.view import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmctl.replica import Replica
    from vmctl.routing import Answer

log = logging.getLogger("vmctl.lamps")

MOST: Final = 250  # mailboxes in one run: the loop counts their messages in less than a tenth of a second
_NOTE: Final = "lamps"
_FAULT: Final = "vmctl:lamps"
_SHORTEST, _LONGEST = 1.0, 60.0  # seconds between two runs of a program that fails
_NEVER: Final = float("inf")
_PATIENCE: Final = 5.0  # seconds for a run to end when vmctl stops


class Told(NamedTuple):
    """What one run tells of a mailbox: as it was looked at, the line for the program, and what is told then."""

    lamp: Lamp
    line: bytes
    now: str


class Lamps:
    """The lamps of the mailboxes that one server serves. `stop` it at the end."""

    def __init__(self, replica: Replica, wake: Callable[[], object]) -> None:
        """`wake` is called, in another thread, when a run has ended: then a turn is due."""
        self._replica = replica
        self._index = replica.index
        self._config = replica.config
        self._clock = replica.clock
        self._me = replica.server.name
        self._command = replica.config.hooks.on_waiting
        self._wake = wake
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._batch: list[Told] = []
        self._ended: program.Ended | None = None
        self._failures = 0
        self._not_before = 0.0
        self._named = self._index.faults.has(_FAULT)
        self._here: set[str] = set()
        self._all_told = False
        note = self._index.note(_NOTE) or {}
        self._number: int = note.get("number", 0)  # up to which changes are marked
        self._served: dict[str, Any] = note.get("served", {})  # the epochs of which all mailboxes are marked

    @property
    def due(self) -> float:
        """When (steady seconds) a failed run is to be made again."""
        return self._not_before if self._failures and self._thread is None else _NEVER

    def turn(self, answers: Mapping[str, Answer]) -> None:
        """Tell what is to be told, by who serves now."""
        if self._command is None:
            self._name(None)  # it was taken out of vmctl.yaml
            return
        self._settle()
        self._take_in(answers)
        if self._thread is not None or self._all_told or self._clock.steady() < self._not_before:
            return
        self._batch = self._next(answers)
        if self._batch:
            self._start(self._command)
        else:
            self._well()  # until something changes, or who serves does
            self._all_told = True

    def stop(self) -> None:
        """Kill the program if it runs; what it was to tell is told at the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    # What may have changed

    def _take_in(self, answers: Mapping[str, Answer]) -> None:
        """Mark what may have to be told: the changes since the last turn, and all of a service that is new here."""
        here = {name: answer for name, answer in answers.items() if answer.server == self._me}
        if here.keys() != self._here:
            self._here, self._all_told = set(here), False
        served = {
            name: epoch
            for name, epoch in self._served.items()
            if name in answers and answers[name].server in {None, self._me}
        }
        gained = []
        for name, answer in here.items():
            if self._peer_tells(name):  # a split: what it tells now is made good when it has ended
                served.pop(name, None)
            else:
                if not _goes_on(served.get(name), answer.epoch, self._me):
                    gained.append(name)
                served[name] = list(answer.epoch)
        number = self._index.last_number if here else self._number
        changed = number != self._number and self._index.lamps.any_changed(self._number)
        if changed or served != self._served:
            self._mark(gained, number, served)
            self._all_told = False
        self._number, self._served = number, served

    def _mark(self, gained: list[str], number: int, served: dict[str, Any]) -> None:
        with self._index.transaction():
            self._index.lamps.mark_changed(self._number)
            if gained:
                service_of = self._config.service_of
                boxes = (box for box, _, named in self._index.mailbox_services() if service_of(box, named) in gained)
                self._index.lamps.mark(boxes, self._clock.wall())
            self._index.set_note(_NOTE, {"number": number, "served": served})

    def _peer_tells(self, service: str) -> bool:
        """Whether the peer says, in a mail that counts, that it serves too."""
        contact = self._replica.contact
        views = contact.facts().get("views") if contact.heard else None
        view = views.get(service) if isinstance(views, dict) else None
        return isinstance(view, dict) and view.get("serving") == self._replica.peer.name

    # What is to be told

    def _next(self, answers: Mapping[str, Answer]) -> list[Told]:
        """What the next run tells; what need not be told is done with."""
        after = ""
        while lamps := self._index.lamps.due(after, MOST):
            batch = self._look([(lamp, self._service(lamp)) for lamp in lamps], answers)
            if batch:
                return batch
            after = lamps[-1].mailbox
        return []

    def _look(self, lamps: list[tuple[Lamp, str]], answers: Mapping[str, Answer]) -> list[Told]:
        mine = [lamp.mailbox for lamp, service in lamps if lamp.lives and answers[service].server == self._me]
        counts = self._index.lamps.counts(mine) if mine else {}
        found: list[Told] = []
        same, gone, left = [], [], []
        for lamp, service in lamps:
            server = answers[service].server
            count = counts.get(lamp.mailbox, NONE)
            now = json.dumps([service, *count])
            if not lamp.lives and lamp.told in {None, now}:
                gone.append(lamp.mailbox)
            elif server == self._me and lamp.told == now:
                same.append(lamp.mailbox)
            elif server == self._me:
                found.append(Told(lamp, self._line(lamp.mailbox, answers[service], count), now))
            elif server is not None:  # while nobody serves it stays due
                left.append(lamp.mailbox)
        self._done_with(same, gone, left)
        return found

    def _done_with(self, same: list[str], gone: list[str], left: list[str]) -> None:
        if same or gone or left:
            with self._index.transaction():
                self._index.lamps.looked_at(same)
                self._index.lamps.forget(gone)
                self._index.lamps.left_to_the_peer(left)

    def _service(self, lamp: Lamp) -> str:
        """The service of a mailbox; of one that is forgotten the one of which it was told last."""
        named = lamp.named or (None if lamp.lives else lamp.told_service)
        return self._config.service_of(lamp.mailbox, named)

    def _line(self, mailbox: str, answer: Answer, count: Count) -> bytes:
        domain = self._config.servers[answer.home].mail.rpartition("@")[2]
        value = {
            "mailbox": mailbox, "service": answer.service, "waiting": count.new > 0, **count._asdict(),
            "body": body(f"{mailbox}@{domain}", count),
        }  # fmt: skip
        return json.dumps(value).encode() + b"\n"

    # The program

    def _start(self, command: tuple[str, ...]) -> None:
        lines = b"".join(told.line for told in self._batch)
        facts = {"hook": "on_waiting", "network": self._config.network, "server": self._me}

        def tell(ended: program.Ended) -> None:
            self._ended = ended
            self._wake()

        def work() -> None:
            deadline = Deadline(self._clock, self._config.hooks.timeout, self._stop.is_set)
            try:
                program.run(command, tell, config=self._config.path, facts=facts, deadline=deadline, given=lines)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop must hear of it
                tell(program.Ended(f"{type(error).__name__}: {error}"))

        self._ended = None
        thread = threading.Thread(target=work, name="vmctl lamps", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            self._failed(str(error))
        else:
            self._thread = thread

    def _settle(self) -> None:
        """Keep what a run has told, or when to try again."""
        if self._thread is None or self._ended is None:
            return
        self._thread = None  # it ends by itself, if its program can be killed
        failed = self._ended.why
        if failed:
            self._failed(failed)
            return
        with self._index.transaction():
            for told in self._batch:
                self._index.lamps.told(told.lamp, told.now)
        self._well()

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._not_before = self._clock.steady() + backoff(_SHORTEST, self._failures, _LONGEST)
        self._name(f"hooks.on_waiting: {why}; the lamps of {self._index.lamps.waiting()} mailboxes wait for it")

    def _well(self) -> None:
        self._failures, self._not_before = 0, 0.0
        self._name(None)

    def _name(self, why: str | None) -> None:
        """Name in `vmctl status` why the lamps are not told of, or that they are again."""
        if why is None and not self._named:
            return
        if why is None:
            self._index.faults.drop(_FAULT)
            log.info("hooks.on_waiting is well again")
        else:
            mend = "mend the program; it is run again by itself, with what is so then"
            if self._index.faults.set(_FAULT, why, mend, self._clock.wall()) and not self._named:
                log.error("%s", why)
        self._named = why is not None


def body(account: str, count: Count) -> str:
    """The message summary of RFC 3842, section 5.2, with the line ends that it has in a NOTIFY.

    `account` is the address of the mailbox; the urgent ones are among the others, as there.
    """
    lines = (
        f"Messages-Waiting: {'yes' if count.new else 'no'}",
        f"Message-Account: sip:{account}",
        f"Voice-Message: {count.new}/{count.old} ({count.urgent_new}/{count.urgent_old})",
    )
    return "".join(f"{line}\r\n" for line in lines)


def _goes_on(known: Any, epoch: Epoch, me: str) -> bool:
    """Whether this server has served since an epoch: it is the same, or the next one and this server's own.

    So it is after a restart in which nobody else served. Whoever did raised the epoch.
    """
    if not isinstance(known, list):
        return False
    before = Epoch(*known)
    return before == epoch or (epoch.server == me and epoch.number == before.number + 1)
