"""One SMTP connection of the receiver (RFC 5321), from the greeting to the end; the only door to aiosmtpd.

Before STARTTLS (RFC 3207) nothing but EHLO, NOOP and QUIT is answered. Who then shows a certificate of the peer's identity
is trusted; nobody else gets further. Where the link is plain, on loopback, a connection is trusted that has brought a mail
with the peer's signature. 250 is said after `take` has returned; a fault of ours is a 4xx, so that the peer keeps the mail;
a mail that can never be taken is a 5xx. The text of an error that nobody foresaw stays here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, TLSSetupException

from vmctl.errors import DiskFull, MailError, MailStranger, SpoolFull, StoreError
from vmctl.lines import one_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from aiosmtpd.smtp import Envelope, Session

    from vmctl.pace import Pace

log = logging.getLogger("vmctl.receiver")
logging.getLogger("mail.log").setLevel(
    logging.WARNING
)  # aiosmtpd's: at DEBUG it prints what callers said, line by line

FAULTS = 10  # replies 5xx on one connection, since its last mail
STRANGERS_WORDS = 30  # replies, before TLS
WORDS = 500  # replies since the last mail: four belong to each
RECIPIENTS = 100  # of one mail, RFC 5321, 4.5.3.1.8; all of them are the same
GRACE = 60.0  # seconds in which a mail may be as slow as it likes
SLOWEST = 1000.0  # bytes a second of a mail that takes longer
MUCH = 4  # times `mail_max`: who goes on so far past it will not stop, and aiosmtpd holds a line until it ends
_LINGER = 0.2  # seconds
_REPLY_LINE = 480  # characters, RFC 5321 allows 512 octets
_SKIPPED = 1 << 20  # bytes of a chunk that are read at once where nobody wants it
_BINARYMIME = re.compile(r" BODY=BINARYMIME(?=\s|$)", re.IGNORECASE)
_CHUNK = re.compile(r"([0-9]{1,15})( +LAST)?", re.IGNORECASE | re.ASCII)
_SHUTTING_DOWN = "421 4.3.2 shutting down, try again later"


@dataclass
class Rules:
    """What holds for every connection; times in seconds, sizes in bytes.

    `mine` is the only recipient and `peer` the only sender taken, besides the null sender of reports. `take(raw,
    sender)` is called in `worker`, for one mail at a time, and returns when the mail is durable. `stray(error, host)`
    hears of everything that is turned away, `connected()` of each new connection. Without `tls` the link is plain.
    """

    hostname: str
    mail_max: int
    mine: str
    peer: str
    take: Callable[[bytes, str], None]
    stray: Callable[[MailError, str], None]
    worker: ThreadPoolExecutor
    pace: Pace
    connected: Callable[[], None]
    tls: ssl.SSLContext | None
    idle: float
    proof: float


class Conversation(SMTP):
    """One connection. aiosmtpd finds commands by their names."""

    def __init__(self, rules: Rules, opened: set[Conversation], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            _Desk(rules),
            data_size_limit=rules.mail_max,
            enable_SMTPUTF8=False,
            hostname=rules.hostname,
            ident="vmctl",
            timeout=rules.idle,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            loop=loop,
        )
        self.tls_context = rules.tls  # not by the constructor, which warns of checking who calls
        self.require_starttls = rules.tls is not None
        self.trusted = False
        self.taking = False
        self._rules = rules
        self._opened = opened
        self.began = self._heard = loop.time()
        self._mail_began: float | None = None
        self._mail_bytes = 0
        self._faults = self._said = 0
        self._chunks: list[bytes] = []
        self._is_binary = False
        self._leaving = False
        self.shaking = False  # hands: that has an end of its own
        opened.add(self)  # now: a crowd is accepted at once, before any of it is connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; somebody may have to go for it."""
        super().connection_made(transport)
        self._rules.connected()

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no longer."""
        self._opened.discard(self)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Note that the line is alive."""
        self._heard = self.loop.time()
        self._mail_bytes += len(data)
        if self._mail_began is not None and self._mail_bytes > MUCH * self._rules.mail_max:
            log.warning("a connection was closed: a mail has no end, from %s", self.host)
            self._hang_up("552 5.3.4 too much mail data")
            return
        super().data_received(data)

    def look(self, now: float) -> None:
        """End it where nothing comes, where a mail comes too slowly, or where it is still a stranger's after a while."""
        if self.taking or self.shaking:
            return
        if now - self._heard > self._rules.idle:
            log.info("a connection was closed: nothing came for %g s", self._rules.idle)
        elif self._is_slow(now):
            log.warning("a connection was closed: a mail came too slowly, from %s", self.host)
        elif self._rules.tls is not None and not self.trusted and now - self.began > self._rules.proof:
            why = f"it did not say who it is for {self._rules.proof:g} s"  # counted, not logged: there may be thousands
            self._rules.stray(MailStranger("a caller did not prove to be the peer", why=why), self.host)
        else:
            return
        self.abort()

    def _is_slow(self, now: float) -> bool:
        lasts = 0.0 if self._mail_began is None else now - self._mail_began
        return lasts > min(GRACE, self._rules.idle) and self._mail_bytes < SLOWEST * lasts

    def _timeout_cb(self) -> None:
        self._reset_timeout()  # the receiver looks after all of them; aiosmtpd's timer runs on through a long mail

    @property
    def host(self) -> str:
        """The address of who calls; empty before it is connected."""
        peer = self.session.peer if self.session else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    # TLS

    async def smtp_STARTTLS(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """RFC 3207. What came in clear text behind the command is an attack: nothing of it is ever looked at."""
        if arg:
            await self.push("501 5.5.4 STARTTLS takes no argument")
            return
        if self.tls_context is None or self._tls_protocol:
            await self.push("503 5.5.1 TLS is not to be had now")
            return
        if not self._rules.pace.allows(self.host, self.loop.time()):
            self._hang_up("421 4.7.0 too fast, try again later")
            return
        await self.push("220 2.0.0 ready for TLS")
        assert isinstance(self.transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self.shaking = True
        try:
            if self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - nobody else tells
                raise ConnectionAbortedError("commands came in clear text behind STARTTLS")
            secure = await self.loop.start_tls(
                self.transport, self, self.tls_context, server_side=True, ssl_handshake_timeout=self._rules.proof
            )
            if secure is None:  # it was hung up meanwhile
                raise ConnectionAbortedError("the handshake came to no end")
        except OSError as error:  # ssl's errors are, too
            self.transport.abort()
            why = one_line(getattr(error, "reason", None) or str(error) or type(error).__name__)
            self._rules.stray(MailStranger("a caller did not prove to be the peer", why=why), self.host)
            raise TLSSetupException from error
        self._now_secure(secure)

    def _now_secure(self, transport: asyncio.Transport) -> None:
        """All goes over `transport` from now on, and nothing counts that was said before."""
        self.transport = self._transport = transport
        self._reader._transport = self._writer._transport = transport  # type: ignore[attr-defined]  # noqa: SLF001
        self._over_ssl = True
        self._tls_protocol = transport.get_protocol()  # type: ignore[assignment]  # only whether there is one counts
        assert self.session is not None  # noqa: S101
        self.session.ssl = {"cipher": transport.get_extra_info("cipher")}
        self.session.host_name = None
        self.session.extended_smtp = False
        self._set_rset_state()  # type: ignore[no-untyped-call]
        self.trusted = True
        self.shaking = False

    # Answers

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        """Begin a mail; BINARYMIME (RFC 3030, 3) says that it has no lines, and comes in chunks."""
        known = None if arg is None else _BINARYMIME.sub(" BODY=8BITMIME", arg)
        under_way = self.envelope is not None and self.envelope.mail_from is not None
        await super().smtp_MAIL(known)
        if not under_way and self.envelope is not None and self.envelope.mail_from is not None:
            self._is_binary = known != arg

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802
        """Take a mail, and count how fast it comes."""
        if self._is_over:
            return
        if self._is_binary or self._chunks:
            await self.push("503 5.5.1 this mail comes by BDAT")
            return
        self._mail_began, self._mail_bytes = self.loop.time(), 0
        try:
            await super().smtp_DATA(arg)
        finally:
            self._mail_began = None

    async def smtp_BDAT(self, arg: str | None) -> None:  # noqa: N802
        """Take a chunk of a mail (RFC 3030, 2). What is not wanted is read all the same: commands come behind it."""
        found = _CHUNK.fullmatch(arg or "")
        if self._is_over:
            return
        if found is None or int(found[1]) > MUCH * self._rules.mail_max:
            self._hang_up("501 5.5.4 BDAT takes a size and LAST")  # nobody knows where the chunk ends
            return
        size, last = int(found[1]), found[2] is not None
        if self._mail_began is None:  # how fast it comes counts from the first chunk on
            self._mail_began, self._mail_bytes = self.loop.time(), 0
        try:
            await self._take_chunk(size, last=last)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error

    @property
    def _is_over(self) -> bool:
        """Whether goodbye was said: aiosmtpd goes on with what was sent behind that, and nobody would hear of a mail in it."""
        return not isinstance(self.transport, asyncio.Transport) or self.transport.is_closing()

    async def _take_chunk(self, size: int, *, last: bool) -> None:
        before = sum(map(len, self._chunks))
        if not self.envelope or not self.envelope.rcpt_tos or before + size > self._rules.mail_max:
            wanted = self.envelope is not None and bool(self.envelope.rcpt_tos)
            while size:
                size -= len(await self._reader.readexactly(min(size, _SKIPPED)))
            self._set_post_data_state()
            await self.push("552 5.3.4 too much mail data" if wanted else "503 5.5.1 need RCPT command")
            return
        self._chunks.append(await self._reader.readexactly(size))
        if not last:
            await self.push(f"250 2.0.0 {size} octets")
            return
        self.envelope.original_content = self.envelope.content = b"".join(self._chunks)
        self._chunks.clear()
        status = await self._call_handler_hook("DATA")
        self._set_post_data_state()
        await self.push(status)

    def _set_post_data_state(self) -> None:
        """No mail is under way any more."""
        super()._set_post_data_state()  # type: ignore[no-untyped-call]
        self._mail_began = None
        self._chunks = []
        self._is_binary = False

    async def push(self, status: str | bytes) -> None:
        """Answer, and hang up on one who only makes mistakes."""
        text = status.decode("ascii", "replace") if isinstance(status, bytes) else status
        self._said += 1
        await super().push(_reply_line(text))
        self._faults = self._faults + 1 if text.startswith("5") else self._faults
        if self._leaving:
            self._hang_up(_SHUTTING_DOWN)
        elif self._said > (WORDS if self.trusted or self._rules.tls is None else STRANGERS_WORDS):
            self._hang_up("421 4.7.0 too many words without a mail")
        elif self._faults >= FAULTS:
            if not self.trusted:  # counted, not logged: there may be thousands
                why = f"it made {self._faults} faults"
                self._rules.stray(MailStranger("a caller did not speak as a mail server does", why=why), self.host)
            self._hang_up("421 4.7.0 too many faults")

    def taken(self) -> None:
        """A mail was accepted: the faults before it are forgiven, and who signed it is known."""
        self._faults = self._said = 0
        self.trusted = True

    def leave(self) -> None:
        """Hang up: at once, or after the answer to the mail that is being taken in."""
        self._leaving = True
        if not self.taking:
            self._hang_up(_SHUTTING_DOWN)

    def abort(self) -> None:
        """Hang up without a word; it counts no longer."""
        self._opened.discard(self)
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def _hang_up(self, farewell: str) -> None:
        if isinstance(self.transport, asyncio.Transport) and not self.transport.is_closing():
            self.transport.write(farewell.encode("ascii") + b"\r\n")
            self.transport.close()
            self.loop.call_later(_LINGER, self.abort)  # TLS would wait for the other end to say goodbye, too


class _Desk:
    """The answers to EHLO, MAIL, RCPT and the end of DATA, by the names that aiosmtpd looks for; every path is a reply."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, server: Conversation, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        told = [line for line in responses if not line[4:].startswith("AUTH")]  # nobody logs in here
        if server.tls_context is None or session.ssl is not None:  # what is no secret is of no use before
            told[-1:-1] = ["250-PIPELINING", "250-CHUNKING", "250-BINARYMIME"]  # RFC 2920, RFC 3030
        return told

    async def handle_MAIL(  # noqa: N802
        self, server: Conversation, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.casefold() not in {self._rules.peer.casefold(), "", "<>"}:
            return self._turned_away(server, f"the sender is {one_line(ascii(address))}", "5.7.1", "from its peer only")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: Conversation, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.casefold() != self._rules.mine.casefold():
            return self._turned_away(
                server, f"the recipient is {one_line(ascii(address))}", "5.1.1", "for one server only"
            )
        if len(envelope.rcpt_tos) >= RECIPIENTS:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Conversation, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        raw = envelope.original_content or b""
        sender = (envelope.mail_from or "").strip("<>")
        server.taking = True
        try:
            await server.loop.run_in_executor(self._rules.worker, self._rules.take, raw, sender)
        except Exception as error:  # noqa: BLE001 - whatever it is, the peer must hear a reply that keeps the mail
            if isinstance(error, MailError):
                self._rules.stray(error, server.host)
            return refusal(error)
        finally:
            server.taking = False
        if sender:
            server.taken()
        return "250 2.0.0 taken"

    async def handle_exception(self, error: Exception) -> str:
        """Instead of aiosmtpd's 500, which would end the mail for good and tell the error's text."""
        if isinstance(error, TLSSetupException):
            return ""  # the connection is gone already
        return refusal(error)

    def _turned_away(self, server: Conversation, why: str, status: str, words: str) -> str:
        log.warning("refused: %s, from %s", why, server.host)
        self._rules.stray(MailStranger("a mail was not between the two servers", why=why), server.host)
        return f"550 {status} this receiver takes mail {words}"


def refusal(error: Exception) -> str:
    """The SMTP reply for what `take` raised, which is also logged."""
    if isinstance(error, MailError):
        log.warning("refused: %s", one_line(f"{error.what}: {error.why}", 400))
        return f"{error.smtp_reply} {error.what}" + (f": {error.why}" if error.why else "")
    if isinstance(error, StoreError):
        log.error("not taken: %s", one_line(f"{error.what}: {error.why}", 400))
        if isinstance(error, DiskFull):
            return "452 4.3.1 no room on the disk, try again later"
        if isinstance(error, SpoolFull):
            return "452 4.3.1 too much waits to be read, try again later"
        return "451 4.3.0 the store cannot be used now, try again later"
    log.error("not taken: a bug in vmctl", exc_info=error)
    return "451 4.3.0 an error of this server, try again later"


def _reply_line(text: str) -> str:
    return one_line(text.encode("ascii", "backslashreplace").decode("ascii"), _REPLY_LINE)


def on_loop_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What becomes of an error that no connection caught."""
    error = context.get("exception")
    if isinstance(error, OSError):  # the other end went away, or TLS came to nothing
        log.debug("a connection broke: %s", error)
    else:
        log.error("%s", one_line(str(context.get("message"))), exc_info=error)
