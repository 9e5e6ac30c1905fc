"""`vmctl serve`: one loop that scans when something changed, sends what is due, takes in what came, and ticks the roles.

The loop is the only one that touches the index. Two threads feed it through one event: the receiver puts mails into
the spool, the watcher hints at changes on disk. A third carries one mail at a time, so that a peer that hangs never
stops the roles.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import threading
from typing import TYPE_CHECKING, Any

from vmctl import supervisor
from vmctl.at_work import DAEMON
from vmctl.backoff import backoff
from vmctl.bell import Bell
from vmctl.carrier import Carrier
from vmctl.errors import JournalError, StoreError, StoreExchanged, SyncError, VmctlError
from vmctl.lamps import Lamps
from vmctl.leases import Leases
from vmctl.lookout import Lookout
from vmctl.permits import margin
from vmctl.post import ASK_PROOF, ASK_SCAN, Post
from vmctl.probes import Probes
from vmctl.proof import read_store
from vmctl.purge import Housekeeper
from vmctl.trouble import Trouble
from vmctl.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.outbox import Parcel

log = logging.getLogger("vmctl.daemon")

_SHORTEST_RETRY, _LONGEST_WAIT = 0.5, 1.0
_ANSWER_TO_A_START = 0.05
_ANSWERS_A_BEAT = 4  # to a peer that asks for a promise
_QUESTIONS = 6  # to the arbiter in the time of one lease
_ASK_FOR, _ASK_AGAIN = 60.0, 0.5
_SHORTEST_PAUSE = 0.05
_MOST_DOUBLINGS = 20
_LONGEST_BEAT = 600.0  # seconds, through mail servers to a peer that is not heard
_LONGEST_INTAKE = 1.0  # seconds: the roles wait meanwhile, and so does the peer for its heartbeat


class Daemon:
    """One server at work until it is told to stop."""

    def __init__(self, config: Config, name: str, clock: Clock) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._wake, self._stop, self._round = Bell(), Bell(), Bell()  # rung by signals, too
        self._lookout = Lookout(config.scan, clock, self._wake.set)
        self._carrier = Carrier(self._wake.set)
        self._mails: Iterator[Parcel] | None = None
        self._on_its_way: Parcel | None = None
        self._next_beat = self._last_beat = 0.0
        self._next_housekeeping = 0.0
        self._not_before = 0.0
        self._failures = self._in_vain = 0
        self._asking: str | None = None
        self._asked_look = 0  # the request that it waits for
        self._owed: dict[str, int] = {}  # what the peer has asked, and the request that the answer waits for
        self._drained: set[str] = set()
        self._trouble: Trouble | None = None
        self._unreached: str | None = None
        self._deaf_at: float | None = None  # when this server last could not hear, or not have been heard
        self._turned_at: float | None = None
        self._ask_until = 0.0
        self._reader: threading.Thread | None = None
        self._reading: dict[str, Any] | None = None
        self._read: dict[str, Any] | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises AlreadyServing, AddressInUse, StoreMissing, ... before it begins."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_round)
        signal.signal(signal.SIGUSR2, self._on_mail)
        self._serve()
        while not self._stop.is_set():
            try:
                self._serve()
            except VmctlError as error:  # it was served a moment ago: the store, or its address, may come back
                self._well(Trouble.of(error))
                supervisor.notify(supervisor.ALIVE)
                self._stop.wait(_LONGEST_WAIT)
        supervisor.notify(supervisor.STOPPING)
        log.info("%s stopped", self._name)

    def _serve(self) -> None:
        """Serve with the store as it is now, until told to stop or until the store is another one."""
        self._carrier, self._mails, self._on_its_way = Carrier(self._wake.set), None, None
        self._next_beat = 0.0  # a store that was opened again is told of, and looked at, at once
        self._lookout.begin()
        with (
            contextlib.closing(Probes(self._config, self._name, self._clock, wake=self._wake.set)) as self._probes,
            self._borrowing() as leases,
            Post(
                self._config, self._name, self._clock, role=DAEMON, wake=self._wake.set, probes=self._probes, leases=leases
            ) as post,
        ):  # fmt: skip
            post.tell(self._trouble)
            self._lamps = Lamps(post.replica, self._wake.set)
            post.start()  # before all that may take long: until then its journal says what was
            post.replica.take()  # the spool before the first scan: what came is older than what is on disk
            post.replica.patience = _LONGEST_INTAKE
            post.listen()
            post.connect()
            post.failover.ask_from_now()
            self._carrier.start(post.carry)
            try:
                folder_of = post.replica.store.folder_of

                def hint(path: str | None, done: bool) -> None:
                    self._lookout.hint(None if path is None else folder_of(path), done=done)

                with Watcher(post.replica.store.root, hint) as watcher:
                    log.info(
                        "%s serves %s%s", self._name, post.replica.store.root, "" if watcher.watching else ", unwatched"
                    )
                    self._loop(post)
            finally:
                self._carrier.stop()
                self._lamps.stop()

    @contextlib.contextmanager
    def _borrowing(self) -> Iterator[Leases | None]:
        """What is lent by the arbiter, and given back at the end; None where there is no arbiter."""
        if not self._config.arbiter.endpoints:
            yield None
            return
        from vmctl.arbiter import Arbiter

        lease = self._config.lease
        arbiter = Arbiter(self._config.arbiter, self._config.network, timeout=lease.ttl / _QUESTIONS)
        leases = Leases(
            arbiter, self._name, self._clock, ttl=lease.ttl, margin=margin(self._config), wake=self._wake.set
        )
        with contextlib.closing(leases):
            yield leases

    def stop(self) -> None:
        """End the loop; for any thread."""
        self._stop.set()
        self._wake.set()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _on_round(self, _number: int, _frame: FrameType | None) -> None:
        self._round.set()
        self._wake.set()

    def _on_mail(self, _number: int, _frame: FrameType | None) -> None:
        self._wake.set()

    def _loop(self, post: Post) -> None:
        supervisor.notify(supervisor.READY)
        while not self._stop.is_set():
            supervisor.notify(supervisor.ALIVE)
            post.turned()
            post.replica.strays.flush()
            try:
                self._well(self._turn(post), post)
            except StoreExchanged as error:
                log.error("%s: it is opened again", error.what)
                return
            except StoreError as error:
                self._deaf_at = self._clock.steady()
                # a full or unreachable disk, say: the peer is told to try again, and so do we
                self._well(Trouble.of(error), post)
                self._lookout.put_off()
                self._stop.wait(_LONGEST_WAIT)
                continue
            self._wake.wait(self._pause(post))
            self._wake.clear()

    def _turn(self, post: Post) -> Trouble | None:
        """One turn of the loop; what was not well all the same."""
        now = self._clock.steady()
        intake = post.take()
        if intake.more:
            self._wake.set()
        if any(taken.fresh for taken in intake.taken):
            self._not_before = 0.0  # it has just been heard: it may take mail again, too
        drains = not post.failover.draining <= self._drained  # a handover waits for all that is here to be there
        if self._round.is_set() or drains:
            self._round.clear()
            self._drained = set(post.failover.draining)
            self._asking, self._ask_until = secrets.token_hex(8), now + _ASK_FOR
            self._asked_look = self._lookout.request(post.replica.index.note(ASK_SCAN), urgent=drains)
            post.replica.index.set_note(ASK_SCAN, None)
        news = [taken for taken in intake.taken if not taken.again]  # what is played again makes no work
        for nonce in post.asked - self._owed.keys():
            self._owed[nonce] = self._lookout.request()
        if any(_starting(taken.status) for taken in news):
            self._next_beat = min(self._next_beat, now + _ANSWER_TO_A_START)
        if any(taken.status.get("asks") for taken in news):  # both may ask: no faster than this
            self._next_beat = min(self._next_beat, self._last_beat + self._config.sync.heartbeat / _ANSWERS_A_BEAT)
        if self._lookout.turn(post.replica, now):
            self._next_beat = 0.0  # the answer
        self._probes.tick(post.failover.recovering)
        post.failover.awaits_look = not self._lookout.is_granted(self._asked_look)
        moved = post.tick(automatic=self._may_take_over(post))
        post.teller.tick(post.serving())
        self._tell(post)
        if moved is not None:  # else nothing new can be told, so a lease that is held has to run out by itself
            post.failover.ask_arbiter()
        self._answered(post, intake.taken)
        self._verify(post)
        self._delivered(post)
        self._send(post, urgent=bool(moved))
        self._keep_house(post)
        post.note_step()
        return post.journal_trouble if moved is None else post.refusal

    def _may_take_over(self, post: Post) -> bool:
        """Whether silence may be the peer's.

        Not while this server could not write, and not before it had time to hear since, nor since it stood still or was
        cut off.
        """
        now, after = self._clock.steady(), self._config.failover.after
        stood_still = self._turned_at is not None and now - self._turned_at > max(after / 2, 2 * _LONGEST_WAIT)
        if self._probes.cut_off or stood_still:
            self._deaf_at = now
        self._turned_at = now
        deaf = [at for at in (self._deaf_at, post.refused_at) if at is not None]
        return not deaf or now - max(deaf) >= after

    def _tell(self, post: Post) -> None:
        """Tell other programs who serves, and what waits for whom; where nothing tells who serves, nothing new."""
        with contextlib.suppress(JournalError):
            answers = post.answers()
            post.routes.tell(answers)
            self._lamps.turn(answers)

    def _keep_house(self, post: Post) -> None:
        """Delete and purge what is due for its age, when there is nothing else to do; what is more waits for a turn."""
        now = self._clock.steady()
        busy = self._mails is not None or self._on_its_way is not None or self._lookout.is_busy(now)
        if self._lookout.goes_on:
            return
        accept = self._lookout.take_accepted()
        if not accept and (busy or now < self._next_housekeeping):
            return
        kept = Housekeeper(post.replica).run(accept=accept)
        self._next_housekeeping = now + (_SHORTEST_RETRY if kept.more else self._config.housekeeping.every)
        if kept.changed:
            self._wake.set()

    def _pause(self, post: Post) -> float:
        now = self._clock.steady()
        moments = [
            *self._lookout.due(),
            now + _LONGEST_WAIT,
            post.failover.due,
            max(min(post.routes.due, self._lamps.due), now + _SHORTEST_PAUSE),
        ]
        if (due := post.failover.permits.due()) is not None:
            moments.append(now + due)
        if self._on_its_way is None:  # else the carrier wakes the loop
            moments.append(max(self._next_beat, self._not_before))
            resend = post.replica.outbox.next_resend()
            if resend is not None:
                moments.append(max(now + resend, self._not_before))
        return max(0.0, min(moments) - now)

    # Sending: one mail on its way at a time

    def _send(self, post: Post, *, urgent: bool) -> None:
        now = self._clock.steady()
        beat = now >= self._next_beat or urgent
        if beat:
            self._mails = None  # what is left of a backlog is built again, behind what is urgent now
        if self._on_its_way is not None or now < self._not_before:
            if urgent:
                self._next_beat = 0.0
            return
        begun = self._mails is None
        if self._mails is None:
            # what is asked and answered comes after what the look that it waits for has found
            asking = {"round": self._asking} if self._asking and self._lookout.is_granted(self._asked_look) else {}
            answers = {nonce for nonce, request in self._owed.items() if self._lookout.is_granted(request)}
            self._owed = {nonce: request for nonce, request in self._owed.items() if nonce not in answers}
            proof = post.replica.index.note(ASK_PROOF)
            if proof and beat:
                asking["verify"] = proof  # with each heartbeat until the peer has answered
            if beat:
                self._next_beat, self._last_beat = now + self._beat(post), now
            self._mails = post.parcels(always=beat, request=asking, answers=answers)
        self._on_its_way = next(self._mails, None)
        if self._on_its_way is None:
            self._mails = None
            if not begun:
                self._wake.set()  # what has come since these were begun is not among them
        else:
            self._carrier.carry(self._on_its_way)

    def _beat(self, post: Post) -> float:
        """Seconds until the next heartbeat."""
        in_vain = self._config.relayed(self._name) and not post.replica.contact.heard
        self._in_vain = self._in_vain + 1 if in_vain else 0
        return until_next_beat(self._config.sync.heartbeat, self._in_vain)

    def _delivered(self, post: Post) -> None:
        """Settle the mail that the carrier came back from."""
        done = self._carrier.result()
        if done is None:
            return
        parcel, error = done
        self._on_its_way = None
        again = post.settle(parcel, error)
        if again:
            self._failures = 0
            self._wake.set()
        if error is None:
            self._peer_trouble(None)
            return
        self._mails = None
        if again:  # less in a mail, or another one, may get through
            log.warning("%s", _words(error))
            return
        self._failures += 1
        self._peer_trouble(_words(error))
        longest = max(self._config.sync.heartbeat, _SHORTEST_RETRY)
        self._not_before = self._clock.steady() + backoff(_SHORTEST_RETRY, self._failures, longest)

    def _answered(self, post: Post, taken: list[Any]) -> None:
        """Keep the time of a round that a command asked for, once the peer has answered it."""
        if self._asking is None:
            return
        if not any(self._asking in one.answers for one in taken):
            return
        if post.in_step:
            self._asking = None
            with post.replica.index.transaction():
                post.replica.index.set_meta("round_at", str(self._clock.wall()))
        elif self._clock.steady() < self._ask_until:  # not for ever: what keeps the two apart may be beyond both
            self._asking = secrets.token_hex(8)
            self._next_beat = min(self._next_beat, self._clock.steady() + _ASK_AGAIN)
        else:
            self._asking = None

    def _verify(self, post: Post) -> None:
        """Read the whole store again for a peer that asks, in a thread: it may take minutes, and roles must not wait."""
        nonce, post.to_verify = post.to_verify, None
        if nonce is not None and self._read is not None and self._read["nonce"] == nonce:
            self._reading = self._read  # its answer was lost on the way, or crossed the question
        elif nonce is not None and (self._reader is None or not self._reader.is_alive()):

            def read() -> None:
                self._reading = read_store(post.replica.store).as_answer(nonce)
                self._wake.set()

            self._reader = threading.Thread(target=read, name="vmctl reader", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread is left: the peer asks again with each heartbeat
                self._reader.start()
        if self._reading is not None:
            post.proof, self._read, self._reading = self._reading, self._reading, None
            self._next_beat = 0.0

    def _peer_trouble(self, trouble: str | None) -> None:
        """Say once that the peer cannot be reached, and once that it can be again."""
        if (trouble is None) != (self._unreached is None):
            log.warning("%s", trouble or f"{self._config.peer_of(self._name).name} takes mail again")
        self._unreached = trouble

    def _well(self, trouble: Trouble | None, post: Post | None = None) -> None:
        """Say once what keeps this server from its work, and once that nothing does any more."""
        before, self._trouble = self._trouble, trouble
        if trouble is not None:  # its words may name another file each time
            self._trouble = trouble._replace(since=before.since if before else self._clock.wall())
        if (trouble and trouble.error) == (before and before.error):
            return
        (log.error if trouble else log.info)("%s", trouble.words if trouble else "well again")
        if post is not None:
            post.tell(self._trouble)


def until_next_beat(usual: float, in_vain: int) -> float:
    """Seconds between heartbeats of which so many went through mail servers to a peer that is not heard.

    Mail servers keep them while it is away, and bring all of them at once: twice as long each time, up to ten minutes.
    """
    return max(usual, min(usual * 2.0 ** min(in_vain, _MOST_DOUBLINGS), _LONGEST_BEAT)) if in_vain else usual


def _words(error: SyncError) -> str:
    return " - ".join(filter(None, (error.what, error.why)))


def _starting(status: dict[str, Any]) -> bool:
    """Whether a mail is from a server that starts: it must hear of us before its wait is over."""
    views = status.get("views")
    return isinstance(views, dict) and any(isinstance(v, dict) and v.get("state") == "starting" for v in views.values())
