"""How a command acts on the roles of a server: through its daemon, or in this process where none runs."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, NamedTuple

from vmctl.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.cli.session import Session
    from vmctl.failover import Failover

_POLL = 0.05
_TRIES = 20


class Acting(NamedTuple):
    """The roles of one server, and how time passes for them."""

    server: str
    roles: Failover
    turn: Callable[[], None]  # take what came, decide, speak: nothing where a daemon does it
    nudge: Callable[[], None]  # let the daemon do that at once
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
    from vmctl.post import DAEMON, who_serves

    server = session.config.servers[orderer(session)]
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    by = _through_daemon if runs is not None and runs[0] == DAEMON else _alone
    with by(session, server.name, timeout) as found:
        yield found


def orderer(session: Session) -> str:
    """The server at which a person acts: the one that is named, or one that is here, with a daemon if any has."""
    from vmctl.post import who_serves

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

        yield Acting(name, Failover(replica), lambda: None, lambda: nudge(session.config.servers[name]), fresh)


@contextlib.contextmanager
def _alone(session: Session, name: str, timeout: float) -> Iterator[Acting]:
    """No daemon runs here: this process speaks to the peer itself, as far as there is one."""
    from vmctl.errors import PeerUnreachable
    from vmctl.post import ROUND, Post

    came = threading.Event()
    with Post(session.config, name, Clock(), role=ROUND, wake=came.set, patience=timeout) as post:
        post.listen()
        post.connect()
        heard = post.replica.contact

        def turn() -> None:
            post.take()
            moved = post.failover.tick(automatic=False)
            with contextlib.suppress(PeerUnreachable):  # an order may be given because the peer is dead
                for parcel in post.parcels(always=moved or not heard.heard):
                    post.deliver(parcel)

        turn()
        for _ in range(_TRIES):  # the peer's answer to the challenge, if it is there at all
            if heard.heard:
                break
            came.wait(_POLL)
            post.take()
        turn()
        try:
            yield Acting(name, post.failover, turn, lambda: None, lambda: heard.heard)
        finally:
            post.tell_others()
