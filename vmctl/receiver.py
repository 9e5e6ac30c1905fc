"""Takes sync mails in by SMTP; the only door to aiosmtpd.

250 is said after `take` has returned, and `take` returns when the mail is durable. A fault of ours is a 4xx, so that
the peer keeps the mail; a mail that can never be taken is a 5xx. The text of an error that nobody foresaw stays here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from aiosmtpd.smtp import SMTP

from vmctl.errors import AddressInUse, DiskFull, MailError, StoreError
from vmctl.mail_parts import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosmtpd.smtp import Envelope, Session

log = logging.getLogger("vmctl.receiver")
logging.getLogger("mail.log").setLevel(
    logging.WARNING
)  # aiosmtpd's: at DEBUG it prints what callers said, line by line

IDLE = 60.0  # seconds without a byte
CONNECTIONS = 20  # at once
FAULTS = 10  # replies 5xx in a row on one connection
_FAREWELL = 5.0  # seconds that a mail which is being taken in has at `stop`
_REPLY_LINE = 480  # characters, RFC 5321 allows 512 octets


class Receiver:
    """Listens on `listen` (host, port; 0 for any free port) in its own thread.

    `mine` is the only recipient and `peer` the only sender taken, besides the null sender of reports. `take(raw)` is
    called in a thread of its own, for one mail at a time, and returns when the mail is durable. `mail_max` is in bytes.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        hostname: str,
        mail_max: int,
        mine: str,
        peer: str,
        take: Callable[[bytes], None],
        idle: float = IDLE,
        connections: int = CONNECTIONS,
    ) -> None:
        self._listen = listen
        self._hostname = hostname
        self._mail_max = mail_max
        self._addresses = (mine, peer)
        self._take = take
        self._idle = idle
        self._connections = connections
        self._open: set[Conversation] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
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
            return socket.create_server((str(address[0]), port), family=family, backlog=self._connections)
        except (OSError, UnicodeError) as error:
            raise AddressInUse(f"cannot listen on {host}:{port}", why=str(error)) from error

    def _run(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        worker = ThreadPoolExecutor(1, thread_name_prefix="vmctl take")
        try:
            loop.set_exception_handler(_on_loop_fault)
            loop.run_until_complete(self._serve(loop, sock, worker))
        finally:
            worker.shutdown(wait=True, cancel_futures=True)
            loop.run_until_complete(_cancelled())
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, worker: ThreadPoolExecutor) -> None:
        desk = _Desk(*self._addresses, self._take, worker)

        def accept() -> asyncio.Protocol:
            if len(self._open) >= self._connections:
                log.warning("a connection was turned away: %d are open", len(self._open))
                return _Busy()
            return Conversation(
                desk, self._open, loop=loop, hostname=self._hostname, mail_max=self._mail_max, idle=self._idle
            )

        server = await loop.create_server(accept, sock=sock)
        await self._stopping.wait()
        server.close()
        for conversation in list(self._open):
            conversation.leave()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        if talks:
            await asyncio.wait(talks, timeout=_FAREWELL)
        for conversation in list(self._open):
            conversation.abort()


class Conversation(SMTP):
    """One connection. aiosmtpd finds commands by their names: a method `smtp_BDAT` here would speak CHUNKING."""

    def __init__(
        self,
        desk: _Desk,
        opened: set[Conversation],
        *,
        loop: asyncio.AbstractEventLoop,
        hostname: str,
        mail_max: int,
        idle: float,
    ) -> None:
        super().__init__(
            desk,
            data_size_limit=mail_max,
            enable_SMTPUTF8=False,
            hostname=hostname,
            ident="vmctl",
            timeout=idle,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            loop=loop,
        )
        self.taking = False
        self._opened = opened
        self._heard = loop.time()
        self._faults = 0
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it among the open ones."""
        self._opened.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        self._opened.discard(self)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Note that the line is alive: aiosmtpd's own timer runs on through a long mail."""
        self._heard = self.loop.time()
        super().data_received(data)

    def _timeout_cb(self) -> None:
        left = self._heard + self._timeout_duration - self.loop.time()
        if self.taking or left > 0:
            self._reset_timeout(max(left, 1.0))
            return
        log.info("a connection was closed: nothing came for %g s", self._timeout_duration)
        self.abort()

    async def push(self, status: str | bytes) -> None:
        """Answer, and hang up on one who only makes mistakes."""
        text = status.decode("ascii", "replace") if isinstance(status, bytes) else status
        await super().push(_reply_line(text))
        self._faults = self._faults + 1 if text.startswith("5") else self._faults
        if self._leaving:
            self._hang_up("421 4.3.2 shutting down, try again later")
        elif self._faults >= FAULTS:
            log.warning("a connection was closed after %d faults", self._faults)
            self._hang_up("421 4.7.0 too many faults")

    def taken(self) -> None:
        """A mail was accepted: the faults before it are forgiven."""
        self._faults = 0

    def leave(self) -> None:
        """Hang up: at once, or after the answer to the mail that is being taken in."""
        self._leaving = True
        if not self.taking:
            self._hang_up("421 4.3.2 shutting down, try again later")

    def abort(self) -> None:
        """Hang up without a word."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def _hang_up(self, farewell: str) -> None:
        if isinstance(self.transport, asyncio.Transport) and not self.transport.is_closing():
            self.transport.write(farewell.encode("ascii") + b"\r\n")
            self.transport.close()


class _Desk:
    """The answers to MAIL, RCPT and the end of DATA, by the names that aiosmtpd looks for; every path is a reply."""

    def __init__(self, mine: str, peer: str, take: Callable[[bytes], None], worker: ThreadPoolExecutor) -> None:
        self._mine = mine.casefold()
        self._peer = peer.casefold()
        self._take = take
        self._worker = worker

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: Conversation, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.casefold() not in {self._peer, "", "<>"}:
            log.warning("refused: sender %s, from %s", one_line(ascii(address)), _host(session))
            return "550 5.7.1 this receiver takes mail from its peer only"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: Conversation, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.casefold() != self._mine:
            log.warning("refused: recipient %s, from %s", one_line(ascii(address)), _host(session))
            return "550 5.1.1 this receiver takes mail for one server only"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Conversation, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        raw = envelope.original_content or b""
        server.taking = True
        try:
            await server.loop.run_in_executor(self._worker, self._take, raw)
        except Exception as error:  # noqa: BLE001 - whatever it is, the peer must hear a reply that keeps the mail
            return refusal(error)
        finally:
            server.taking = False
        server.taken()
        return "250 2.0.0 taken"

    async def handle_exception(self, error: Exception) -> str:
        """Instead of aiosmtpd's 500, which would end the mail for good and tell the error's text."""
        return refusal(error)


def refusal(error: Exception) -> str:
    """The SMTP reply for what `take` raised, which is also logged."""
    if isinstance(error, MailError):
        log.warning("refused: %s", one_line(f"{error.what}: {error.why}", 400))
        return f"{error.smtp_reply} {error.what}" + (f": {error.why}" if error.why else "")
    if isinstance(error, StoreError):
        log.error("not taken: %s", one_line(f"{error.what}: {error.why}", 400))
        if isinstance(error, DiskFull):
            return "452 4.3.1 no room on the disk, try again later"
        return "451 4.3.0 the store cannot be used now, try again later"
    log.error("not taken: a bug in vmctl", exc_info=error)
    return "451 4.3.0 an error of this server, try again later"


class _Busy(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(b"421 4.3.2 too many connections, try again later\r\n")
            transport.close()


def _reply_line(text: str) -> str:
    return one_line(text.encode("ascii", "backslashreplace").decode("ascii"), _REPLY_LINE)


def _host(session: Session) -> str:
    return ascii(session.peer[0]) if isinstance(session.peer, tuple) else "unknown"


def _on_loop_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, ConnectionError):
        log.debug("a connection broke: %s", error)
    else:
        log.error("%s", one_line(str(context.get("message"))), exc_info=error)


async def _cancelled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
