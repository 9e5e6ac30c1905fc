"""Listens for the peer's mails, in a thread of its own, and decides who may talk: `conversation` is one connection.

Strangers cannot keep the peer out: they have a few seconds to prove who they are, and when there are too many of them one
of the address that has the most goes, whichever. What the peer has open does not count among them. TLS costs more
than a line of text, so nobody off this host may begin it faster than a person could.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from vmctl.conversation import Conversation, Rules, on_loop_fault
from vmctl.errors import AddressInUse
from vmctl.pace import Pace

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from vmctl.errors import MailError

log = logging.getLogger("vmctl.receiver")

IDLE = 60.0  # seconds without a byte
PROOF = 10.0  # seconds in which a caller has to prove that it is the peer
CONNECTIONS = 20  # of the peer at once
STRANGERS = 300  # at once
_BACKLOG = 1024
_FAREWELL = 5.0  # seconds that a mail which is being taken in has at `stop`
_LONGEST_LOOK = 1.0
_LOOK_UP_AGAIN = 600.0


class Receiver:
    """Listens on `listen` (host, port; 0 for any free port) in its own thread.

    `mine` is the only recipient and `peer` the only sender taken, besides the null sender of reports. `take(raw, sender)`
    is called in a thread of its own, for one mail at a time, and returns when the mail is durable. `stray(error, host)`
    is called in the receiver's thread for all that is turned away. Without `tls` the link is plain. `mail_max` is in bytes.
    `peer_host` is where the peer is likely to call from.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        hostname: str,
        mail_max: int,
        mine: str,
        peer: str,
        take: Callable[[bytes, str], None],
        tls: ssl.SSLContext | None,
        stray: Callable[[MailError, str], None] = lambda _error, _host: None,
        idle: float = IDLE,
        proof: float = PROOF,
        peer_host: str = "",
        connections: int = CONNECTIONS,
        strangers: int = STRANGERS,
    ) -> None:
        self._listen = listen
        self._words: dict[str, Any] = {
            "hostname": hostname, "mail_max": mail_max, "mine": mine, "peer": peer, "take": take, "tls": tls,
            "stray": stray, "idle": idle, "proof": proof,
        }  # fmt: skip
        self._look_every = min(_LONGEST_LOOK, idle / 4, proof / 4)
        self._connections = connections
        self._strangers = strangers
        self._peer_host = peer_host
        self._familiar: set[str] = set()
        self._open: set[Conversation] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._rules: Rules | None = None
        self._stopping = asyncio.Event()
        self.port = listen[1]

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Listen from now on; `port` tells where. Raises AddressInUse."""
        sock = self._bound()
        self.port = sock.getsockname()[1]
        self._stopping = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, sock), name="vmctl receiver", daemon=True)
        self._thread.start()
        log.info("listening on %s:%d", self._listen[0], self.port)

    def stop(self) -> None:
        """Stop listening. A mail that is being taken in is finished first; afterwards `take` is not called any more."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()

    def _bound(self) -> socket.socket:
        host, port = self._listen
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            sock = socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
        except (OSError, UnicodeError) as error:
            raise AddressInUse(f"cannot listen on {host}:{port}", why=str(error)) from error
        # asyncio does so itself only where the socket names its protocol; without it each reply of several lines waits
        # for the caller's delayed acknowledgement, 40 ms
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _run(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        worker = ThreadPoolExecutor(1, thread_name_prefix="vmctl take")
        try:
            loop.set_exception_handler(on_loop_fault)
            self._rules = Rules(worker=worker, pace=Pace(), connected=self._make_room, **self._words)
            loop.run_until_complete(self._serve(loop, sock, self._rules))
        finally:
            worker.shutdown(wait=True, cancel_futures=True)
            loop.run_until_complete(_cancelled())
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, rules: Rules) -> None:
        def accept() -> asyncio.Protocol:
            if self._is_full():
                log.warning("a connection was turned away: %d are open", len(self._open))
                return _Busy()
            return Conversation(rules, self._open, loop)

        server = await loop.create_server(accept, sock=sock, backlog=_BACKLOG)
        stopping = loop.create_task(self._stopping.wait())
        looking_up = loop.create_task(self._look_up(loop))
        while not stopping.done():
            await asyncio.wait([stopping], timeout=self._look_every)
            for conversation in list(self._open):
                conversation.look(loop.time())
        server.close()
        looking_up.cancel()
        for conversation in list(self._open):
            conversation.leave()
        talks = asyncio.all_tasks() - {asyncio.current_task(), looking_up}
        if talks:
            await asyncio.wait(talks, timeout=_FAREWELL)
        for conversation in list(self._open):
            conversation.abort()

    def trust(self, tls: ssl.SSLContext | None) -> None:
        """Check callers with this from now on; who was let in before has to come again."""
        if self._loop is None or self._rules is None:
            return
        rules = self._rules

        def change() -> None:
            rules.tls = tls
            for conversation in list(self._open):
                conversation.leave()

        self._loop.call_soon_threadsafe(change)

    def _is_full(self) -> bool:
        """Whether the peer has as many connections as it may have."""
        return sum(one.trusted or one.taking for one in self._open) >= self._connections

    def _make_room(self) -> None:
        """Send one away where too many strangers are connected, by chance: nobody can tell how long the peer may stay.

        Of the address that has the most, of those that have not begun TLS, and of the peer's own address last of all.
        """
        strangers = [one for one in self._open if one.host and not one.trusted and not one.taking]
        if len(strangers) > self._strangers:
            crowd = Counter(one.host for one in strangers)

            def last(one: Conversation) -> tuple[bool, bool, int]:
                return one.host in self._familiar, one.shaking, -crowd[one.host]

            first = min(map(last, strangers))
            secrets.choice([one for one in strangers if last(one) == first]).abort()

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn the addresses from which the peer is likely to call; again now and then, as names may move."""
        while True:
            with contextlib.suppress(OSError, UnicodeError):
                found = await loop.getaddrinfo(self._peer_host, None, type=socket.SOCK_STREAM)
                self._familiar = {str(address[0]) for *_, address in found}
            await asyncio.sleep(_LOOK_UP_AGAIN)


class _Busy(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(b"421 4.3.2 too many connections, try again later\r\n")
            transport.close()


async def _cancelled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
