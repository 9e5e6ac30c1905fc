"""A mail server between two others that does what mail servers do to mail: it changes, delays, doubles, puts off, refuses."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from running import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Passed(NamedTuple):
    """A mail as it came here."""

    sender: str
    recipient: str
    raw: bytes


@dataclass
class Hop:
    """What it does to a mail, all of which may be set at any time; `to` is the port of the next server, or nobody."""

    to: int | None = None
    changes: list[Callable[[bytes], bytes]] = field(default_factory=list)
    copies: int = 1
    greylist: int = 0  # how often each sender and recipient is put off at first
    reply: str | None = None  # what is said to every mail
    passed: list[Passed] = field(default_factory=list)
    taken: int = 0
    port: int = 0
    _open: threading.Event = field(default_factory=threading.Event)
    _seen: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._open.set()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Mails that come now are answered afterwards."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        """Greylisting is done here."""
        key = (envelope.mail_from, address)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= self.greylist:
            return "450 4.2.0 greylisted, come again"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """The end of a mail."""
        return await asyncio.get_running_loop().run_in_executor(None, self._pass, envelope)

    async def handle_EHLO(  # noqa: N802
        self, _server: Any, session: Any, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """It takes 7 bits only, so that who has more has to encode it (RFC 6152)."""
        session.host_name = hostname
        return [line for line in responses if "8BITMIME" not in line and "SMTPUTF8" not in line]

    def _pass(self, envelope: Any) -> str:
        raw = bytes(envelope.original_content or b"")
        self._open.wait()
        with self._lock:
            self.passed += [Passed(envelope.mail_from, recipient, raw) for recipient in envelope.rcpt_tos]
            if self.reply is not None:
                return self.reply
            for change in self.changes:
                raw = change(raw)
            answer = "250 2.0.0 passed on"
            for _ in range(self.copies if self.to is not None else 0):
                answer = _hand_over(self.to or 0, envelope.mail_from, envelope.rcpt_tos, raw)
            self.taken += answer.startswith("250")
            return answer


def _hand_over(port: int, sender: str, recipients: list[str], raw: bytes) -> str:
    try:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="hop.example", timeout=20) as smtp:
            smtp.sendmail(sender, recipients, raw)
    except smtplib.SMTPRecipientsRefused as error:
        code, reply = next(iter(error.recipients.values()))
        return f"{code} {reply.decode()}"
    except smtplib.SMTPResponseException as error:
        return f"{error.smtp_code} {bytes(error.smtp_error).decode()}"
    except OSError as error:
        return f"451 4.4.1 the next server: {error}"
    return "250 2.0.0 passed on"


class _Controller(Controller):
    def factory(self) -> SMTP:
        return SMTP(self.handler, hostname="hop.example", enable_SMTPUTF8=False, data_size_limit=2**26)


@contextlib.contextmanager
def hop(to: int | None = None) -> Iterator[Hop]:
    """One that passes mails on to a port, or keeps them."""
    made = Hop(to, port=free_ports(1)[0])
    controller = _Controller(made, hostname="127.0.0.1", port=made.port)
    controller.start()
    try:
        yield made
    finally:
        made._open.set()
        controller.stop()
