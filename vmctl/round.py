"""One round of synchronization: scan, ship, take in, until both stores are in step or the time is over.

For each server on this host that no daemon serves, this command does the work, in two processes where there are two: it
listens, sends and takes in. A daemon on this host is told to do a round at once, and watched. A peer elsewhere is asked for an answer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl.apart import Apart, can_fork
from vmctl.at_work import DAEMON, ROUND, who_serves
from vmctl.clock import duration
from vmctl.end import End, Stand, Tally, faults, wait
from vmctl.errors import AlreadyServing, DeletionsHeld, NotInStep, StoreUnusable
from vmctl.index import Index
from vmctl.post import ASK_SCAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.clock import Clock
    from vmctl.config import Config, Server

_POLL = 0.05
_ASK_AGAIN = 5.0
_MOST_TURNS = 12  # in which nothing comes any more
_GREETINGS = 2  # turns in which each server speaks whatever there is: a challenge, and its echo


@dataclass(slots=True)
class Outcome:
    """What a round came to; `by` says who did the work for each server that is here."""

    in_step: bool = False
    servers: dict[str, Tally] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Round:
    """One round over the servers that are on this host."""

    def __init__(
        self, config: Config, clock: Clock, *, timeout: float, full: bool = False, accept_deletions: bool = False,
        written: bool = False, progress: Callable[[str, int, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`written`: it is not over before a peer elsewhere has written its files, which may lack recordings again."""
        self._config = config
        self._clock = clock
        self._timeout = timeout
        self._began = clock.steady()
        self._deadline = self._began + timeout
        self._full = full
        self._accept = accept_deletions
        self._written = written
        self._progress = progress or (lambda _what, _done, _all: None)
        self._came: dict[str, int] = {}  # by server, mails that changed anything
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Do it. Raises NotInStep, PeerUnreachable (try again), AlreadyServing, and what a store may raise."""
        began_wall = self._clock.wall()
        daemons = [server for server in self._config.here() if self._daemon(server)]
        for server in daemons:
            self._outcome.by[server.name] = DAEMON
        with contextlib.ExitStack() as stack:
            ends = self._ends([server.name for server in self._config.here() if server not in daemons], stack)
            self._scan(ends)
            self._deadline = self._clock.steady() + self._timeout
            for server in daemons:
                self._order_scan(server)
            if len(ends) == len(self._config.servers):
                self._between(*ends)
            elif ends and isinstance(ends[0], End):
                self._with_peer(ends[0])
            else:
                self._by_daemons(daemons, began_wall)
            for end in ends:
                self._outcome.servers[end.name] = Tally(**end.do("result"))
            for server in daemons:
                with _index_of(server) as index:
                    self._outcome.servers[server.name] = Tally(held=index.note("held") or [], faults=faults(index))
        self._outcome.seconds = round(self._clock.steady() - self._began, 3)
        return self._outcome

    def _ends(self, names: list[str], stack: contextlib.ExitStack) -> list[End | Apart]:
        """Those that this command is at work for, open; of two the second has a process of its own, where that may be."""
        ends: list[End | Apart] = []
        for name in names:
            words = self._config, name, self._clock, self._progress
            end: End | Apart | None = None
            if ends and can_fork():
                with contextlib.suppress(OSError):  # there can be no further process
                    end = stack.enter_context(Apart(*words))
            ends.append(stack.enter_context(End(*words)) if end is None else end)
        for end in ends:  # one after the other: two rounds that each have one of them would wait for each other
            end.do("open", self._deadline - self._clock.steady())
        self._outcome.by |= dict.fromkeys(names, ROUND)
        return ends

    def _scan(self, ends: list[End | Apart]) -> None:
        """Look at the stores. Two that are here are connected first; in two processes each takes what the other finds."""
        if len(ends) == len(self._config.servers):
            ports = self._each(ends, "listen")
            for end, port in zip(ends, reversed(ports), strict=True):
                end.do("connect", port)
        how: dict[str, Any] = {"full": self._full, "accept_deletions": self._accept}
        match ends:
            case [End() as one, Apart() as other]:
                with _meanwhile(other, "scan", **how, ships=True):
                    one.scan(**how, ships=True)
                one.take_until(other.has_finished)
                other.finish()
            case _:
                self._each(ends, "scan", **how)

    @staticmethod
    def _each(ends: list[End | Apart], step: str, *words: Any, **how: Any) -> list[Any]:
        """The same step at each end, at once where they are two processes. Each comes to its end, however the other does."""
        for end in ends:
            end.begin(step, *words, **how)
        found: list[Any] = []
        failed: list[Exception] = []
        for end in ends:
            try:
                found.append(end.finish())
            except Exception as error:  # noqa: BLE001 - raised below
                failed.append(error)
        if failed:
            raise failed[0]
        return found

    def _stands(self, ends: list[End | Apart]) -> dict[str, Stand]:
        return {end.name: Stand(*stand) for end, stand in zip(ends, self._each(ends, "stand"), strict=True)}

    @staticmethod
    def _daemon(server: Server) -> bool:
        assert server.store is not None  # noqa: S101 - it is here
        runs = who_serves(server.store)
        return runs is not None and runs[0] == DAEMON

    # Both servers by this command, over SMTP on loopback all the same

    def _between(self, one: End | Apart, other: End | Apart) -> None:
        ends = [one, other]
        greeted = _GREETINGS  # the turn from which on nobody speaks who has nothing to say
        idle = 0  # turns in which nothing came
        for turn in itertools.count():
            before, how = dict(self._came), {"always": turn < greeted, "anew": turn == 0}
            said = [self._ship(one, other, **how), self._ship(other, one, **how)]
            moved = self._each(ends, "tick")
            stands = self._stands(ends)
            in_step = all(stand.in_step for stand in stands.values())
            idle = 0 if self._came != before else idle + 1
            if idle > _MOST_TURNS:
                break
            if not any(moved) and ((turn >= greeted - 1 and not any(said)) or (turn >= greeted and in_step)):
                if in_step and not any(self._each(ends, "keep_house", accept=self._accept)):
                    break
                if not in_step and (idle > _MOST_TURNS // 2 or all(stand.stuck for stand in stands.values())):
                    break
                greeted = turn + 1 + _GREETINGS  # what each knows of the other may be of before the last mail
            if any(moved):
                for end, to in ((one, other), (other, one)):
                    self._ship(end, to, always=True, anew=False)
                    to.do("tick")
            self._check_time(stands)
        # both before either receiver stops, which would have to wait for the other's goodbye
        self._each(ends, "hang_up")
        stands = self._stands(ends)
        self._outcome.in_step = all(stand.in_step for stand in stands.values())
        if not self._outcome.in_step:
            raise self._not_in_step(stands)

    def _ship(self, end: End | Apart, to: End | Apart, *, always: bool, anew: bool) -> bool:
        """Send what is due, and let the other take it in meanwhile; tells whether records went."""
        if isinstance(to, Apart):
            with _meanwhile(to, "take_until"):
                records = end.do("ship", always=always, anew=anew)
            came = to.finish()
        elif isinstance(end, Apart):
            end.begin("ship", always=always, anew=anew)
            came = to.take_until(end.has_finished)
            records = end.finish()
        else:
            records = end.ship(always=always, anew=anew, between=to.take)
            came = to.came
        self._note(to.name, came)
        return bool(records)

    def _note(self, name: str, came: int) -> None:
        """So many mails have changed anything at a server: it is over when nothing moves any more."""
        if self._came.get(name, 0) != came:
            self._came[name] = came
            self._deadline = self._clock.steady() + self._timeout

    # The peer is served by somebody else

    def _with_peer(self, end: End) -> None:
        post = end.post
        post.listen()
        post.connect()
        nonce = secrets.token_hex(8)
        self._send(end, nonce, anew=True)
        nonces = {nonce}  # mail servers on the way may be slower than the next question
        answered, asked = False, self._clock.steady()
        scanned = False  # whether the peer has looked at its store since this round began
        while True:
            end.mail_came.wait(min(0.5, max(0.0, self._deadline - self._clock.steady())))
            end.mail_came.clear()
            self._note(end.name, end.take())
            answered = answered or not nonces.isdisjoint(end.answers)
            scanned = scanned or answered
            moved = end.tick()
            self._send(end, None, always=moved)
            if scanned and self._is_done(end.stand()):
                if end.keep_house(accept=self._accept):
                    continue
                self._send(end, None, always=True)  # a peer that does its own round, and nothing more, must hear of it
                self._outcome.in_step = True
                return
            if answered and post.stuck:
                raise self._not_in_step({end.name: end.stand()})
            if answered or self._clock.steady() - asked > _ASK_AGAIN:
                nonce, asked = secrets.token_hex(8), self._clock.steady()
                nonces = {nonce} if answered else {*nonces, nonce}
                answered = False
                self._send(end, nonce)
            if self._clock.steady() >= self._deadline and self._is_done(end.stand()):
                self._check_heard(end)
                self._outcome.in_step = True
                return
            self._check_time({end.name: end.stand()})

    def _check_heard(self, end: End) -> None:
        """Raises NotInStep where both were in step when the peer was last heard, which was before this round."""
        if not end.heard:
            raise NotInStep(
                f"{end.post.peer.name} did not answer within {duration(self._clock.steady() - self._began)}",
                why="both were in step when it was last heard; what was left there since is not known here",
            )

    def _send(self, end: End, nonce: str | None, *, always: bool = False, anew: bool = False) -> None:
        request = {"round": nonce} if nonce else {}
        for parcel in end.post.parcels(always=always or nonce is not None, anew=anew, request=request):
            if end.post.deliver(parcel):
                end.count(parcel)
            self._note(end.name, end.take())

    # Daemons do the work

    def _order_scan(self, server: Server) -> None:
        """Tell the daemon of a server that is here to scan and do a round at once."""
        with _index_of(server) as index, index.transaction():
            until = self._clock.wall() + int(self._timeout * 1_000_000)  # what nobody waits for any more is void
            index.set_note(ASK_SCAN, {"full": self._full, "accept": self._accept, "until": until})
        nudge(server)

    def _by_daemons(self, servers: list[Server], asked: int) -> None:
        waiting = {server.name: server for server in servers}
        while waiting:
            for name, server in list(waiting.items()):
                if self._in_step_since(server, asked):
                    del waiting[name]
            if waiting and self._clock.steady() >= self._deadline:
                names = " and ".join(sorted(waiting))
                raise NotInStep(
                    f"the daemon of {names} did not report both stores in step within {duration(self._timeout)}",
                    why="it may still be waiting for the peer, or for files to stand still",
                )
            wait(_POLL)
        self._outcome.in_step = True

    @staticmethod
    def _in_step_since(server: Server, asked: int) -> bool:
        with _index_of(server) as index:
            return int(index.meta("round_at", "0")) >= asked

    # Giving up

    def _check_time(self, stands: dict[str, Stand]) -> None:
        if self._clock.steady() >= self._deadline and not all(map(self._is_done, stands.values())):
            raise self._not_in_step(stands)

    def _is_done(self, stand: Stand) -> bool:
        return stand.in_step and not (self._written and stand.peer_todo)

    def _not_in_step(self, stands: dict[str, Stand]) -> NotInStep:
        parts, hint = [], None
        what = f"not in step after {duration(self._clock.steady() - self._began)}"
        for name, stand in stands.items():
            words = f"{name}: {stand.pending} pending, {stand.unwritten} not yet written"
            if stand.parked:
                words += f", {stand.parked} parked"
                what = "not in step: what the other server does not take is parked"
                hint = "'vmctl parked list' shows what is refused or put off, and why; all else has been sent"
            if self._written and stand.peer_todo:
                words += f"; {self._config.peer_of(name).name}: {stand.peer_todo} not yet written"
            parts.append(words)
        if held := sum(stand.held for stand in stands.values()):
            parts.append(f"{held} records that are gone, or older than before, wait for your word")
            hint = DeletionsHeld.hint
        return NotInStep(what, why="; ".join(parts), hint=hint)


@contextlib.contextmanager
def _meanwhile(other: Apart, step: str, **how: Any) -> Iterator[None]:
    """Have the other one take what comes until this is over; `finish` it then. Where this fails it is interrupted."""
    other.begin(step, **how)
    yield
    other.enough()


@contextlib.contextmanager
def _index_of(server: Server) -> Iterator[Index]:
    assert server.store is not None  # noqa: S101 - it is here
    index = Index.open(server.store / ".vmctl" / "index.db")
    try:
        yield index
    finally:
        index.close()


def nudge(server: Server) -> None:
    """Tell the daemon of a server that is here to do a round now. Raises AlreadyServing, StoreUnusable."""
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    if runs is None or runs[0] != DAEMON:
        raise AlreadyServing(f"the daemon of {server.name} stopped at this moment", hint="run the command again")
    try:
        os.kill(runs[1], signal.SIGUSR1)
    except (OSError, OverflowError) as error:
        raise StoreUnusable(
            f"cannot reach the daemon of {server.name}, process {runs[1]}", why=str(error),
            hint="run the command as the user that runs the daemon",
        ) from error  # fmt: skip
