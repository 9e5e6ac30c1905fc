"""One end of a round: a server that is here and that no daemon serves, with what it does when it is its turn.

Each method is one step, so that the end may as well be in a process of its own (`apart`): what goes in and comes out are
plain values, and between two steps nothing happens.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from vmctl.at_work import ROUND
from vmctl.bell import Bell
from vmctl.carrier import Carrier
from vmctl.clock import rfc3339
from vmctl.errors import SyncError
from vmctl.post import Post
from vmctl.purge import Housekeeper
from vmctl.spool import Spool
from vmctl.store.format import STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.index import Index
    from vmctl.outbox import Parcel

LOOPBACK = "127.0.0.1"
_MOST_WAITING = 32  # mails
_MOST_OWED = 2000  # acknowledgements: until they leave the other end remembers of each that it has sent it


@dataclass(slots=True)
class Tally:
    """What a round did at one server."""

    mails: int = 0
    bytes: int = 0
    shipped: int = 0
    taken: int = 0
    scanned: int = 0
    deleted: int = 0
    purged: int = 0
    conflicts: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)


class Stand(NamedTuple):
    """How far a server is; `stuck`: what the two still lack of each other is parked."""

    in_step: bool
    stuck: bool
    pending: int
    parked: int
    unwritten: int
    peer_todo: int
    held: int


class End:
    """One server at work in this process, from `open` to `close`. Each method raises what its store may."""

    def __init__(self, config: Config, name: str, clock: Clock, progress: Callable[[str, int, int], object]) -> None:
        self._config = config
        self._clock = clock
        self._progress = progress
        self.name = name
        self.tally = Tally()
        self.came = 0  # mails that changed anything
        self.heard = False  # whether the peer was, by a mail that echoes a challenge of late
        self.answers: set[str] = set()  # what the peer has answered, in whatever mail it came
        self._bell: Bell | None = None
        self._post: Post | None = None
        self._ships = self._has_shipped = False
        self._carrier = Carrier(lambda: None)
        self._is_under_way = False  # a mail, while a scan goes on
        self._newest = 0  # the number of the newest change that has left, or was there before the scan
        self._step: Callable[[], Any] = self.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def begin(self, step: str, *words: Any, **how: Any) -> None:
        """Say what the next step is: a method of this class. It is done by `finish`."""
        self._step = functools.partial(getattr(self, step), *words, **how)

    def finish(self) -> Any:
        """Do the step that was begun."""
        return self._step()

    def do(self, step: str, *words: Any, **how: Any) -> Any:
        """One step from its begin to its end."""
        self.begin(step, *words, **how)
        return self.finish()

    @property
    def post(self) -> Post:
        """The open one."""
        assert self._post is not None, "open it first"  # noqa: S101
        return self._post

    @property
    def mail_came(self) -> Bell:
        """Rings when mail has come."""
        assert self._bell is not None, "open it first"  # noqa: S101
        return self._bell

    def open(self, patience: float) -> None:
        """Take the store; another process is waited for so many seconds. Raises AlreadyServing, StoreMissing, ..."""
        self._bell = Bell()
        post = Post(self._config, self.name, self._clock, role=ROUND, wake=self._bell.set, patience=max(0.0, patience))
        self._post = post.__enter__()

    def close(self) -> None:
        """Tell others what is new, and give the store free."""
        self._carrier.stop()
        post, self._post = self._post, None
        if post is not None:
            try:
                post.tell_others()
            finally:
                post.__exit__(None, None, None)

    def scan(
        self, *, full: bool, accept_deletions: bool, ships: bool = False, over: Callable[[Bell], bool] | None = None
    ) -> int:  # fmt: skip
        """Take in what came before the last stop, as it is older than what is on disk; then look at the store.

        Where it `ships`, what much is found of leaves meanwhile. With `over` it goes on as `take_until` does.
        """
        self._progress(f"scanning {self.name}", 0, 0)
        self.take()
        self.heard = False  # by what has come before this round
        self._newest = self.post.replica.index.last_number
        self._ships = ships
        report = self.post.replica.scan_settled(
            wait, full=full, accept_deletions=accept_deletions, pause=self._between_parts
        )
        self._arrived()
        self.post.replica.outbox.left_now()
        self.tally.scanned = len(set(report.changed))
        self.tally.held = report.held
        came = self.came if over is None else self.take_until(over)
        self._ships = False
        return came

    def _between_parts(self) -> None:
        """Take in what has come while a scan goes on, which are acknowledgements, and send what it has found since the last time."""
        if self.mail_came.is_set():
            self.mail_came.clear()
            self.take()
        self._ship_found()

    def _ship_found(self) -> None:
        """Send what a scan that goes on has found. A peer that does not take it gets it afterwards.

        One that is still at its own scan has its spool filled to a bound, and no more.
        """
        peer = self.post.peer.store
        if not self._ships or (peer and len(Spool(peer / STATE).waiting()) >= _MOST_WAITING):
            return
        try:
            if not self._carrier.is_started:
                self._carrier.start(self.post.carry)
        except RuntimeError:  # there can be no further thread: all leaves when the scan is over
            self._ships = False
            return
        above, self._newest = self._newest, self.post.replica.index.last_number
        for parcel in self.post.found(above):
            if not self._arrived():
                return  # this one was built as if that had been taken: it is built anew when the scan is over
            self._carrier.carry(parcel)
            self._is_under_way = True

    def _arrived(self) -> bool:
        """Wait for the mail that is under way while the scan goes on, if there is one, and settle it; whether it was taken."""
        carried = self._carrier.result(wait=True) if self._is_under_way else None
        self._is_under_way = False
        if carried is None:
            return True
        try:
            taken = self.post.settled(*carried)
        except SyncError:
            taken = self._ships = False
        if taken:
            self.count(carried[0])
            self._has_shipped = True
        self._progress(f"scanning {self.name}", self.tally.shipped, 0)
        return taken

    def listen(self) -> int:
        """Receive on loopback from now on; the port."""
        return self.post.listen((LOOPBACK, 0))

    def connect(self, port: int) -> None:
        """Send to a port on loopback from now on."""
        self.post.connect((LOOPBACK, port))

    def ship(self, *, always: bool, anew: bool, between: Callable[[], object] | None = None) -> bool:
        """Send what is due, and do something after each mail; tells whether records went."""
        total = self.post.replica.index.pending_count()
        records = False
        for parcel in self.post.parcels(always=always, anew=anew and not self._has_shipped, eager=anew):
            if not self.post.deliver(parcel):
                continue  # the next ones find out what of it is refused
            self.count(parcel)
            records = records or parcel.moves
            if between is not None:
                between()
            if total:
                words = f"{self.name} to {self.post.peer.name}"
                self._progress(words, min(self.tally.shipped, total), total)
        return records

    def count(self, parcel: Parcel) -> None:
        """A mail has left."""
        self.tally.mails += 1
        self.tally.bytes += len(parcel.raw)
        self.tally.shipped += len(parcel.versions)

    def take(self) -> int:
        """Take in what has come; how many mails have changed anything since the round began."""
        intake = self.post.take()
        self.answers |= {answer for taken in intake.taken for answer in taken.answers if isinstance(answer, str)}
        self.heard = self.heard or any(taken.fresh for taken in intake.taken)
        for taken in intake.taken:
            self.came += bool(taken.changed or taken.acked)
            self.tally.taken += len(taken.changed)
            self.tally.conflicts += taken.conflicts
        return self.came

    def take_until(self, over: Callable[[Bell], bool]) -> int:
        """Take in whatever comes until it is over, and then all that has; as `take`.

        `over` waits until mail comes or it is over, and tells whether it is.
        """
        while not over(self.mail_came):
            self.mail_came.clear()
            self.take()
            self._acknowledge()
        return self.take()

    def _acknowledge(self) -> None:
        """Say what is here by now, where the other end may be long before its end and waits for nothing."""
        if self._ships and self.post.replica.index.replies.are_more_than(_MOST_OWED):
            try:
                self.ship(always=False, anew=False)
            except SyncError:
                self._ships = False  # it is said when the other one listens

    def tick(self) -> bool:
        """Let the roles move; tells whether one did."""
        return bool(self.post.tick(automatic=False))

    def stand(self) -> Stand:
        """How far this server is; the time is kept if both are in step."""
        in_step, index = self.post.note_step(), self.post.replica.index
        pending = index.pending_count()
        parked = pending - index.shelf.owed()[0]
        return Stand(
            in_step, self.post.stuck, pending, parked, index.unwritten(), self.post.peer_todo, len(self.tally.held)
        )

    def keep_house(self, *, accept: bool) -> bool:
        """Delete and purge what is due for its age; tells whether there is news for the peer."""
        changed = False
        for kept in Housekeeper(self.post.replica).runs(accept=accept):
            self.tally.deleted += len(kept.deleted)
            self.tally.purged += len(kept.purged)
            changed = changed or kept.changed
        return changed

    def hang_up(self) -> None:
        """Close the connection to the peer."""
        self.post.hang_up()

    def result(self) -> dict[str, Any]:
        """What was done here, and what is wrong with the store: the fields of a `Tally`."""
        self.tally.faults = faults(self.post.replica.index)
        return asdict(self.tally)


def faults(index: Index) -> list[dict[str, Any]]:
    """What is wrong with a store, as it is told."""
    return [{**fault, "since": rfc3339(fault["since"])} for fault in index.faults.all()]


def wait(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)
