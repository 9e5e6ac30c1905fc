"""How a command acts on the roles of a server: through its daemon, or in this process where none runs."""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

from vmctl.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.cli.session import Session
    from vmctl.failover import Failover
    from vmctl.post import Post

_POLL = 0.05
_MOMENT = 1.0  # seconds for a peer that takes no mail
_HEARTBEATS = 2  # within which a peer that takes mail has to answer


class Acting(NamedTuple):
    """The roles of one server, and how time passes for them."""

    server: str
    daemon: bool
    roles: Failover
    turn: Callable[[], None]  # take what came, decide, speak: nothing where a daemon does it
    nudge: Callable[[], None]  # let the daemon do that at once, and speak
    fresh: Callable[[], bool]  # whether the peer was heard since this began

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Let time pass until it is done; False when `timeout` seconds are over before."""
        clock = Clock()
        deadline = clock.steady() + timeout
        while True:
            self.turn()
            if done():
                return True
            if clock.steady() >= deadline:
                return False
            threading.Event().wait(_POLL)


@contextlib.contextmanager
def acting(session: Session, timeout: float) -> Iterator[Acting]:
    """The roles at the server at which a person acts. Raises AlreadyServing while a round runs for longer than that."""
    from vmctl.at_work import DAEMON, who_serves

    server = session.config.servers[orderer(session)]
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    by = _through_daemon if runs is not None and runs[0] == DAEMON else _alone
    with by(session, server.name, timeout) as found:
        yield found


def orderer(session: Session) -> str:
    """The server at which a person acts: the one that is named, or one that is here, with a daemon if any has."""
    from vmctl.at_work import who_serves

    if session.server_name is not None or len(session.config.here()) == 1:
        return session.server
    served = [server.name for server in session.config.here() if server.store and who_serves(server.store)]
    return (served or [server.name for server in session.config.here()])[0]


@contextlib.contextmanager
def _through_daemon(session: Session, name: str, _timeout: float) -> Iterator[Acting]:
    from vmctl.failover import Failover
    from vmctl.replica import Replica
    from vmctl.round import nudge

    with Replica.open(session.config, name, Clock()) as replica:
        began = Clock().steady()

        def fresh() -> bool:
            silent = replica.contact.silent_for()
            return silent is not None and Clock().steady() - silent >= began

        yield Acting(name, True, Failover(replica), lambda: None, lambda: nudge(session.config.servers[name]), fresh)


@contextlib.contextmanager
def _alone(session: Session, name: str, timeout: float) -> Iterator[Acting]:
    """No daemon runs here: this process speaks to the peer itself, as far as there is one."""
    from vmctl.at_work import ROUND
    from vmctl.post import Post

    came = threading.Event()
    with Post(session.config, name, Clock(), role=ROUND, wake=came.set, patience=timeout) as post:
        post.listen()
        post.connect()
        alone = _Alone(post)
        alone.turn()
        _greet(post, came)
        alone.turn()
        try:
            yield Acting(name, False, post.failover, alone.turn, alone.nudge, lambda: post.replica.contact.heard)
        finally:
            post.tell_others()


class _Alone:
    """What a daemon would do in its turns: to the peer it speaks with each heartbeat, and when there is news."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._clock = Clock()
        self._next_beat = 0.0

    def nudge(self) -> None:
        """There is news for the peer: an order, say."""
        self._next_beat = 0.0

    def turn(self) -> None:
        from vmctl.errors import PeerUnreachable

        self._post.take()
        moved = self._post.failover.tick(automatic=False)
        now = self._clock.steady()
        beat = moved or now >= self._next_beat
        if beat:
            self._next_beat = now + self._post.config.sync.heartbeat
        with contextlib.suppress(PeerUnreachable):  # an order may be given because the peer is dead
            for parcel in self._post.parcels(always=beat):
                self._post.deliver(parcel)


def _greet(post: Post, came: threading.Event) -> None:
    """Wait for the peer's answer, if it is there at all: from a server that is well nothing is taken by force."""
    from vmctl.errors import PeerUnreachable

    heard, clock, taken = post.replica.contact, Clock(), False
    if not heard.heard:
        with contextlib.suppress(PeerUnreachable):
            for parcel in post.parcels(always=True, request={"round": secrets.token_hex(8)}):  # it answers that at once
                taken = post.deliver(parcel) or taken
    deadline = clock.steady() + (_HEARTBEATS * post.config.sync.heartbeat if taken else _MOMENT)
    while not heard.heard and clock.steady() < deadline:
        came.wait(_POLL)
        came.clear()
        post.take()
