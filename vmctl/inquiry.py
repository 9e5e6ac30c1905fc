"""Asks the peer for a reading of its whole store, when that is on another host; for `vmctl verify`."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

from vmctl.at_work import DAEMON, ROUND, who_serves
from vmctl.clock import duration
from vmctl.errors import PeerUnreachable
from vmctl.index import Index
from vmctl.post import ASK_PROOF, PROOF, Post
from vmctl.round import nudge

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.config import Config, Server

_POLL = 0.1


def ask_peer(config: Config, server: Server, clock: Clock, timeout: float) -> dict[str, Any]:
    """What the peer's daemon read: `files`, `bytes`, `groups` (digests), `faults`. Raises PeerUnreachable."""
    nonce = secrets.token_hex(8)
    deadline = clock.steady() + timeout
    assert server.store is not None  # noqa: S101 - it is here
    runs = who_serves(server.store)
    if runs is not None and runs[0] == DAEMON:
        return _through_daemon(server, clock, nonce, deadline)
    came = threading.Event()
    with Post(config, server.name, clock, role=ROUND, wake=came.set, patience=timeout) as post:
        post.listen()
        post.connect()
        for parcel in post.parcels(always=True, request={"verify": nonce}):
            post.deliver(parcel)
        while clock.steady() < deadline:
            came.wait(_POLL)
            came.clear()
            post.take()
            for parcel in post.parcels():  # what is due meanwhile: acknowledgements, and the echo that the peer awaits
                post.deliver(parcel)
            proof = post.replica.index.note(PROOF)
            if proof and proof.get("nonce") == nonce:
                return dict(proof)
    raise _no_answer(config.peer_of(server.name).name, timeout)


def _through_daemon(server: Server, clock: Clock, nonce: str, deadline: float) -> dict[str, Any]:
    assert server.store is not None  # noqa: S101 - it is here
    index = Index.open(server.store / ".vmctl" / "index.db")
    try:
        began = clock.steady()
        with index.transaction():
            index.set_note(ASK_PROOF, nonce)
        nudge(server)
        while clock.steady() < deadline:
            proof = index.note(PROOF)
            if proof and proof.get("nonce") == nonce:
                return dict(proof)
            threading.Event().wait(_POLL)
    finally:
        index.close()
    raise _no_answer("the peer", clock.steady() - began)


def _no_answer(peer: str, seconds: float) -> PeerUnreachable:
    return PeerUnreachable(
        f"{peer} sent no reading of its store within {duration(seconds)}",
        why="only 'vmctl serve' there answers, and a large store takes its time to read",
        hint="look at 'vmctl status', then try again with a longer --timeout",
    )
