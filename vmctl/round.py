"""One round of synchronization: scan, ship, take in, until both stores are in step or the time is over.

For each server on this host that no daemon serves, this process does the work: it listens, sends and takes in. A
daemon on this host is told to do a round at once, and watched. A peer elsewhere is asked for an answer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl.at_work import DAEMON, ROUND, who_serves
from vmctl.clock import duration, rfc3339
from vmctl.errors import AlreadyServing, DeletionsHeld, NotInStep, StoreUnusable
from vmctl.index import Index
from vmctl.post import ASK_SCAN, Post
from vmctl.purge import Housekeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.clock import Clock
    from vmctl.config import Config, Server

_LOOPBACK = ("127.0.0.1", 0)
_POLL = 0.05
_ASK_AGAIN = 5.0
_MOST_TURNS = 12  # in which nothing comes any more
_GREETINGS = 2  # turns in which each server speaks whatever there is: a challenge, and its echo


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
        self._mail_came = threading.Event()
        self._answers: set[str] = set()  # what the peer has answered, in whatever mail it came
        self._heard = False  # whether the peer was, by a mail that echoes a challenge of late
        self._came = 0  # mails that changed anything
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Do it. Raises NotInStep, PeerUnreachable (try again), AlreadyServing, and what a store may raise."""
        began_wall = self._clock.wall()
        daemons = [server for server in self._config.here() if self._daemon(server)]
        for server in daemons:
            self._outcome.by[server.name] = DAEMON
        with contextlib.ExitStack() as stack:
            posts = [stack.enter_context(self._post(server)) for server in self._config.here() if server not in daemons]
            for post in posts:
                stack.callback(post.tell_others)  # however the round ends
                self._outcome.by[post.server.name] = ROUND
                self._outcome.servers[post.server.name] = Tally()
            for post in posts:
                self._scan(post)
            for server in daemons:
                self._order_scan(server)
            if len(posts) == len(self._config.servers):
                self._between(posts)
            elif posts:
                self._with_peer(posts[0])
            else:
                self._by_daemons(daemons, began_wall)
            for server in daemons:
                with _index_of(server) as index:
                    self._outcome.servers[server.name] = Tally(held=index.note("held") or [], faults=_faults(index))
            for post in posts:
                self._outcome.servers[post.server.name].faults = _faults(post.replica.index)
        self._outcome.seconds = round(self._clock.steady() - self._began, 3)
        return self._outcome

    def _post(self, server: Server) -> Post:
        patience = max(0.0, self._deadline - self._clock.steady())
        return Post(self._config, server.name, self._clock, role=ROUND, wake=self._mail_came.set, patience=patience)

    @staticmethod
    def _daemon(server: Server) -> bool:
        assert server.store is not None  # noqa: S101 - it is here
        runs = who_serves(server.store)
        return runs is not None and runs[0] == DAEMON

    def _scan(self, post: Post) -> None:
        self._progress(f"scanning {post.server.name}", 0, 0)
        tally = self._outcome.servers[post.server.name]
        post.replica.take()  # what came before the last stop is older than what is on disk
        report = post.replica.scan_settled(self._wait, full=self._full, accept_deletions=self._accept)
        self._deadline = self._clock.steady() + self._timeout
        tally.scanned = len(set(report.changed))
        tally.held = report.held

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    # Both servers in this process, over SMTP on loopback all the same

    def _between(self, posts: list[Post]) -> None:
        one, other = posts
        ports = {post.server.name: post.listen(_LOOPBACK) for post in posts}
        one.connect((_LOOPBACK[0], ports[other.server.name]))
        other.connect((_LOOPBACK[0], ports[one.server.name]))
        greeted = _GREETINGS  # the turn from which on nobody speaks who has nothing to say
        idle = 0  # turns in which nothing came
        for turn in itertools.count():
            before = self._came
            said = [
                self._ship(post, to, always=turn < greeted, anew=turn == 0) for post, to in ((one, other), (other, one))
            ]
            moved = [bool(post.tick(automatic=False)) for post in posts]
            in_step = one.note_step() and other.note_step()
            idle = 0 if self._came != before else idle + 1
            if idle > _MOST_TURNS:
                break
            if not any(moved) and ((turn >= greeted - 1 and not any(said)) or (turn >= greeted and in_step)):
                if in_step and not self._kept_house(posts):
                    break
                if not in_step and (idle > _MOST_TURNS // 2 or all(post.stuck for post in posts)):
                    break
                greeted = turn + 1 + _GREETINGS  # what each knows of the other may be of before the last mail
            if any(moved):
                for post, to in ((one, other), (other, one)):
                    self._ship(post, to, always=True)
                    to.tick(automatic=False)
            self._check_time(posts)
        for post in posts:
            post.hang_up()  # both before either receiver stops, which would have to wait for the other's goodbye
        self._outcome.in_step = one.note_step() and other.note_step()
        if not self._outcome.in_step:
            raise self._not_in_step(posts)

    def _ship(self, post: Post, to: Post, *, always: bool, anew: bool = False) -> bool:
        """Send what is due, and let the other take each mail in at once; tells whether records went."""
        tally = self._outcome.servers[post.server.name]
        total = post.replica.index.pending_count()
        records = False
        for parcel in post.parcels(always=always, anew=anew):
            if not post.deliver(parcel):
                continue  # the next ones find out what of it is refused
            self._count(tally, parcel)
            records = records or parcel.moves
            self._took(to)
            if total:
                self._progress(f"{post.server.name} to {to.server.name}", min(tally.shipped, total), total)
        return records

    def _kept_house(self, posts: list[Post]) -> bool:
        """Delete and purge what is due for its age, once both are in step; tells whether there is news for the peer."""
        changed = False
        for post in posts:
            tally = self._outcome.servers[post.server.name]
            for kept in Housekeeper(post.replica).runs(accept=self._accept):
                tally.deleted += len(kept.deleted)
                tally.purged += len(kept.purged)
                changed = changed or kept.changed
        return changed

    # The peer is served by somebody else

    def _with_peer(self, post: Post) -> None:
        post.listen()
        post.connect()
        nonce = secrets.token_hex(8)
        self._send(post, nonce, anew=True)
        nonces = {nonce}  # mail servers on the way may be slower than the next question
        answered, asked = False, self._clock.steady()
        scanned = False  # whether the peer has looked at its store since this round began
        while True:
            self._mail_came.wait(min(0.5, max(0.0, self._deadline - self._clock.steady())))
            self._mail_came.clear()
            self._took(post)
            answered = answered or not nonces.isdisjoint(self._answers)
            scanned = scanned or answered
            moved = bool(post.tick(automatic=False))
            self._send(post, None, always=moved)
            if scanned and self._is_done(post):
                if self._kept_house([post]):
                    continue
                self._send(post, None, always=True)  # a peer that does its own round, and nothing more, must hear of it
                self._outcome.in_step = True
                return
            if answered and post.stuck:
                raise self._not_in_step([post])
            if answered or self._clock.steady() - asked > _ASK_AGAIN:
                nonce, asked = secrets.token_hex(8), self._clock.steady()
                nonces = {nonce} if answered else {*nonces, nonce}
                answered = False
                self._send(post, nonce)
            if self._clock.steady() >= self._deadline and self._is_done(post):
                self._check_heard(post)
                self._outcome.in_step = True
                return
            self._check_time([post])

    def _check_heard(self, post: Post) -> None:
        """Raises NotInStep where both were in step when the peer was last heard, which was before this round."""
        if not self._heard:
            raise NotInStep(
                f"{post.peer.name} did not answer within {duration(self._clock.steady() - self._began)}",
                why="both were in step when it was last heard; what was left there since is not known here",
            )

    def _send(self, post: Post, nonce: str | None, *, always: bool = False, anew: bool = False) -> None:
        request = {"round": nonce} if nonce else {}
        tally = self._outcome.servers[post.server.name]
        for parcel in post.parcels(always=always or nonce is not None, anew=anew, request=request):
            if post.deliver(parcel):
                self._count(tally, parcel)
            self._took(post)

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
            self._wait(_POLL)
        self._outcome.in_step = True

    @staticmethod
    def _in_step_since(server: Server, asked: int) -> bool:
        with _index_of(server) as index:
            return int(index.meta("round_at", "0")) >= asked

    # Counting and giving up

    def _took(self, post: Post) -> None:
        intake = post.take()
        self._answers |= {answer for taken in intake.taken for answer in taken.answers if isinstance(answer, str)}
        tally = self._outcome.servers[post.server.name]
        self._heard = self._heard or any(taken.fresh for taken in intake.taken)
        for taken in intake.taken:
            if taken.changed or taken.acked:  # it is over when nothing moves any more
                self._deadline = self._clock.steady() + self._timeout
                self._came += 1
            tally.taken += len(taken.changed)
            tally.conflicts += taken.conflicts

    @staticmethod
    def _count(tally: Tally, parcel: Any) -> None:
        tally.mails += 1
        tally.bytes += len(parcel.raw)
        tally.shipped += len(parcel.versions)

    def _check_time(self, posts: list[Post]) -> None:
        if self._clock.steady() >= self._deadline and not all(map(self._is_done, posts)):
            raise self._not_in_step(posts)

    def _is_done(self, post: Post) -> bool:
        return post.note_step() and not (self._written and post.peer_todo)

    def _not_in_step(self, posts: list[Post]) -> NotInStep:
        parts, hint = [], None
        what = f"not in step after {duration(self._clock.steady() - self._began)}"
        for post in posts:
            index = post.replica.index
            pending = index.pending_count()
            words = f"{post.server.name}: {pending} pending, {index.unwritten()} not yet written"
            if parked := pending - index.shelf.owed()[0]:
                words += f", {parked} parked"
                what = "not in step: what the other server does not take is parked"
                hint = "'vmctl parked list' shows what is refused or put off, and why; all else has been sent"
            if self._written and post.peer_todo:
                words += f"; {post.peer.name}: {post.peer_todo} not yet written"
            parts.append(words)
        if held := sum(len(tally.held) for tally in self._outcome.servers.values()):
            parts.append(f"{held} records that are gone, or older than before, wait for your word")
            hint = DeletionsHeld.hint
        return NotInStep(what, why="; ".join(parts), hint=hint)


@contextlib.contextmanager
def _index_of(server: Server) -> Iterator[Index]:
    assert server.store is not None  # noqa: S101 - it is here
    index = Index.open(server.store / ".vmctl" / "index.db")
    try:
        yield index
    finally:
        index.close()


def _faults(index: Index) -> list[dict[str, Any]]:
    return [{**fault, "since": rfc3339(fault["since"])} for fault in index.faults.all()]


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
