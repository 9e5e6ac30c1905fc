"""Takes sync mails to the peer, or to a mail server on the way, by SMTP; the only door to smtplib.

The replies to a mail are read here, by their codes: 5xx is for good, everything else is tried again. So whatever smtplib
raises (all of it is an OSError) is a fault of the connection, and also tried again. A mail that is only too large is to
be built again smaller.

With `tls` nothing but EHLO is said before STARTTLS (RFC 3207), and a server that does not offer it, or cannot show who it
is, hears nothing more: there is no way down to plain text.

A mail is delivered when the peer's 250 after the final dot was read. A connection that breaks before that may still
have delivered it (RFC 1047), so a mail is sent again until it is acknowledged, and the peer merges it again.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
from typing import TYPE_CHECKING, BinaryIO, Self

from vmctl.errors import LoginRefused, MailPutOff, MailRefused, MailTooLarge, PeerUnreachable, PeerUntrusted
from vmctl.lines import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OK, _OK_FORWARD, _GO_AHEAD = 250, 251, 354
_TOO_LARGE = 552
_CLOSING = 421
_FULL_MAILBOX = re.compile(r"^5\.2\.2\b")  # also 552, and nothing that a smaller mail would mend
_BARE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_SIZE = re.compile(r"[0-9]{1,20}", re.ASCII)  # RFC 1870, 3
_LINE_END = re.compile(r"[\r\n]")
_SENT_AHEAD = 64 * 1024  # bytes of a mail that is sent before the server has said that it takes its envelope
_LONGEST_REPLY = 200  # lines; EHLO's is the longest that any server gives


class Courier:
    """One SMTP connection to `address` (host, port), kept open between mails and opened again when it dropped.

    `helo` is this server's host name, `timeout` seconds for each answer, `mail_max` bytes of the largest mail. Without
    `tls` it talks in plain text. `login` gives a name and a password when they are needed. For one thread at a time. Use
    it with `with`, or call `close`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        helo: str,
        timeout: float,
        mail_max: int,
        tls: ssl.SSLContext | None,
        login: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        self.address = address
        self._tls = tls
        self._login = login
        self._helo = helo
        self._timeout = timeout
        self._mail_max = mail_max
        self._smtp: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        """The courier; it connects with the first mail."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def send(
        self, raw: bytes, sender: str, recipient: str, *, as_text: Callable[[bytes], bytes] | None = None
    ) -> None:  # fmt: skip
        """Deliver one mail with this envelope; on return the peer has answered 250.

        With `as_text` the mail is binary MIME: it goes as it is to a server that takes that (RFC 3030), and as what
        `as_text` makes of it to any other.

        Raises PeerUnreachable (try again; a mail that got as far as its end may have arrived), which is MailPutOff
        where the server answered that it does not take it now, MailTooLarge or
        MailRefused (the peer will never take this one); `why` has the peer's reply.
        """
        with self._faults():
            smtp = self._connected()
            binary = as_text is not None and smtp.has_extn("chunking") and smtp.has_extn("binarymime")
            if as_text is not None and not binary:
                raw = as_text(raw)
            if len(raw) > self._limit(smtp):
                raise MailTooLarge(
                    f"a mail of {len(raw)} bytes is too large for {self._where}",
                    self._limit(smtp),
                    why=f"it takes {self._limit(smtp)} bytes",
                )
            options = [f"size={len(raw)}"] if smtp.has_extn("size") else []
            if binary:
                self._send_binary(smtp, raw, sender, recipient, options)
                return
            self._expect({_OK}, smtp.mail(sender, options), "the sender")
            self._expect({_OK, _OK_FORWARD}, smtp.rcpt(recipient), "the recipient")
            self._expect({_GO_AHEAD}, smtp.docmd("DATA"), "the command DATA")
            smtp.send(_on_the_wire(raw))
            self._expect({_OK}, smtp.getreply(), "the mail")

    def _send_binary(
        self, smtp: smtplib.SMTP, raw: bytes, sender: str, recipient: str, options: list[str]
    ) -> None:  # fmt: skip
        """One BDAT; behind the envelope at once where the server reads ahead (RFC 2920) and the mail is no burden."""
        if _LINE_END.search(sender + recipient):
            raise ValueError("an address holds a line end")
        options = ["body=binarymime", *options]
        envelope = [
            f"MAIL FROM:{smtplib.quoteaddr(sender)} {' '.join(options)}\r\n",
            f"RCPT TO:{smtplib.quoteaddr(recipient)}\r\n",
        ]
        ahead = smtp.has_extn("pipelining")
        together = ahead and len(raw) <= _SENT_AHEAD
        body = f"BDAT {len(raw)} LAST\r\n".encode("ascii")
        if together:
            smtp.send("".join(envelope).encode("ascii") + body + raw)
        elif ahead:
            smtp.send("".join(envelope))
        for line, codes, what in zip(
            envelope, ({_OK}, {_OK, _OK_FORWARD}), ("the sender", "the recipient"), strict=True
        ):
            if not ahead:
                smtp.send(line)
            self._expect(codes, smtp.getreply(), what)
        if not together:
            smtp.send(body)
            smtp.send(raw)
        self._expect({_OK}, smtp.getreply(), "the mail")

    def close(self) -> None:
        """Say goodbye and close; a connection that is broken already is no fault."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with contextlib.suppress(OSError):  # smtplib's exceptions are OSErrors too
                smtp.quit()
            smtp.close()

    @property
    def _where(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def _connected(self) -> smtplib.SMTP:
        if self._smtp is not None and not _answers(self._smtp):
            self._drop()
        if self._smtp is None:
            host, port = self.address
            smtp = _Client(local_hostname=self._helo, timeout=self._timeout)
            smtp._host = host  # type: ignore[attr-defined]  # noqa: SLF001 - starttls asks for it, connect forgets it
            self._smtp = smtp
            code, reply = smtp.connect(host, port)
            if code != 220:  # noqa: PLR2004 - "ready", RFC 5321
                raise smtplib.SMTPConnectError(code, reply)
            assert smtp.sock is not None  # noqa: S101 - for the type checker
            # else the end of each mail waits for the server's delayed acknowledgement, 40 ms
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            smtp.ehlo_or_helo_if_needed()
            if self._tls is not None:
                self._secure(smtp, self._tls)
            if self._login is not None:
                self._log_in(smtp, *self._login())
        return self._smtp

    def _secure(self, smtp: smtplib.SMTP, tls: ssl.SSLContext) -> None:
        if not smtp.has_extn("starttls"):
            raise PeerUntrusted(
                f"{self._where} does not offer TLS", why="somebody on the way may have taken the offer out"
            )
        try:
            smtp.starttls(context=tls)
        except smtplib.SMTPResponseException as error:
            raise PeerUntrusted(f"{self._where} offers TLS and does not speak it", why=_words(error)) from error
        try:
            smtp.ehlo()  # all that it said before counts no more
        except smtplib.SMTPServerDisconnected as error:  # who does not accept our certificate says so only now
            why = _tls_fault(error) or "it hung up when it saw the certificate of this server"
            raise PeerUntrusted(f"{self._where} and this server do not trust each other", why=why) from error

    def _log_in(self, smtp: smtplib.SMTP, user: str, password: str) -> None:
        try:
            smtp.login(user, password)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPNotSupportedError) as error:
            raise LoginRefused(f"{self._where} does not let {user} log in", why=_words(error)) from error

    def _limit(self, smtp: smtplib.SMTP) -> int:
        theirs = smtp.esmtp_features.get("size", "")
        size = int(theirs) if _SIZE.fullmatch(theirs) else 0  # none or 0 is "no fixed limit"
        return min(self._mail_max, size or self._mail_max)

    def _drop(self) -> None:
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            smtp.close()

    def _expect(self, codes: set[int], answer: tuple[int, bytes], what: str) -> None:
        code, reply = answer
        if code in codes:
            return
        why = one_line(f"it answered: {code} {_text(reply)}", 400)
        if code == _TOO_LARGE and not _FULL_MAILBOX.match(_text(reply)):
            raise MailTooLarge(f"{self._where} does not take {what}: it is too large", why=why)
        if 500 <= code <= 599:  # noqa: PLR2004 - permanent, RFC 5321
            raise MailRefused(f"{self._where} refused {what}", why=why)
        # 421 is the end of the connection, whatever was said before
        kind = MailPutOff if 400 <= code <= 499 and code != _CLOSING else PeerUnreachable  # noqa: PLR2004
        raise kind(f"{self._where} does not take {what} now", why=why)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Foreign exceptions become ours here; a connection that saw a fault is not used again."""
        try:
            yield
        except (PeerUnreachable, MailRefused, MailTooLarge):
            self._drop()
            raise
        except OSError as error:  # refused, timed out, no such host, and everything of smtplib
            self._drop()
            if (refusal := _tls_fault(error)) is not None:
                raise PeerUntrusted(f"{self._where} and this server do not trust each other", why=refusal) from error
            raise PeerUnreachable(f"{self._where} does not answer", why=_words(error)) from error
        except ValueError as error:  # a line end or a foreign letter in an address
            self._drop()
            raise MailRefused("an address cannot be used in SMTP", why=one_line(str(error))) from error
        except BaseException:
            self._drop()  # interrupted in the middle of a dialogue
            raise


class _Client(smtplib.SMTP):
    """Python's client, which would read a reply without end for ever, and hold all of it."""

    def getreply(self) -> tuple[int, bytes]:
        """The next reply. Raises SMTPServerDisconnected where it has no end."""
        if self.file is None:
            assert self.sock is not None  # noqa: S101 - for the type checker: there is one once it is connected
            self.file = _Lines(self.sock.makefile("rb"))
        self.file.left = _LONGEST_REPLY
        return super().getreply()


class _Lines:
    """What a server says, line by line, for as long as there are some `left`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = 0

    def readline(self, most: int) -> bytes:
        """The next line, or `most` bytes of it. Raises OSError where none is left."""
        if self.left == 0:
            raise OSError("its reply has no end")
        self.left -= 1
        return self._file.readline(most)

    def close(self) -> None:
        """Close it."""
        self._file.close()


def _tls_fault(error: BaseException) -> str | None:
    """What TLS says is wrong with either end: smtplib hides a late refusal of our certificate in a lost connection."""
    for each in (error, error.__context__):
        if isinstance(each, ssl.SSLError):
            return one_line(getattr(each, "verify_message", None) or each.reason or str(each), 200)
    return None


def _words(error: OSError) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return one_line(f"it answered: {error.smtp_code} {_text(error.smtp_error)}", 400)
    return one_line(str(error), 400) or type(error).__name__


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply


def _answers(smtp: smtplib.SMTP) -> bool:
    # RSET rather than MAIL at once: a kept connection that the peer closed meanwhile is found before anything is sent
    try:
        return smtp.rset()[0] == _OK
    except OSError:
        return False


def _on_the_wire(raw: bytes) -> bytes:
    """The mail with its dots doubled (RFC 5321, 4.5.2) and its end. A bare CR or LF could smuggle a second mail in."""
    if not raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r"):
        raw = _BARE_END.sub(b"\r\n", raw)
    if b"\n." in raw:
        raw = raw.replace(b"\n.", b"\n..")
    if raw.startswith(b"."):
        raw = b"." + raw
    return raw + (b".\r\n" if raw.endswith(b"\r\n") else b"\r\n.\r\n")
