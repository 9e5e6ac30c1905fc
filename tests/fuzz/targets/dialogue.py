"""The SMTP dialogue: whatever a client says to the receiver, and whatever a server answers to the sender."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import io
import logging
import re
import socket
import ssl
import zlib
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from fuzz import grounds, mutate
from fuzz.target import Target
from vmctl import conversation as conversation_room
from vmctl.errors import DiskFull, MailPutOff, MailRefused, MailTooLarge, PeerUnreachable, StoreUnusable
from vmctl.pace import Pace
from vmctl.sender import Courier

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

MINE, PEER = "vmctl@secondary.example", "vmctl@primary.example"
SECRET = "/srv/secret/store"  # stands in what faults say, and never in a reply
MOST = 4000  # bytes of a mail
AGAIN = b"\r\n..."  # at the end of an input: what was said last is said again, for ever or nearly so
_FLOOD, _CHUNK, _LAST = 300 << 20, 1 << 16, 60  # bytes
_REPLY = re.compile(rb"[2-5][0-9][0-9][ -][^\r\n]{0,506}\r\n")

# The receiver

COMMANDS = (
    b"EHLO primary.example\r\n", b"HELO x\r\n", b"MAIL FROM:<vmctl@primary.example>\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<eve@example.org> SIZE=10\r\n",
    b"RCPT TO:<vmctl@secondary.example>\r\n", b"RCPT TO:<eve@example.org>\r\n", b"DATA\r\n", b"BDAT 10 LAST\r\n", b"BDAT 3\r\nabc", b"BDAT 0 LAST\r\n", b"BDAT 99999999999999999999\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n",
    b"EXPN x\r\n", b"HELP\r\n", b"HELP DATA\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"AUTH LOGIN\r\n", b"STARTTLS\r\n", b"QUIT\r\n", b"\r\n.\r\n", b".\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n",
    b"..\r\n", b"\r\n", b"\n", b"\r", b" SIZE=", b" SIZE=999999999999999999999999", b" BODY=8BITMIME", b" BODY=BINARYMIME", b" SMTPUTF8", b" AUTH=<>", b" RET=FULL", b"<@a,@b:c@d>", b"\0", b"\xff",
    b"Subject: disk full\r\n", b"Subject: no store\r\n", b"Subject: a bug\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
)  # fmt: skip


class _AtOnce:
    """In the place of the receiver's own thread."""

    def submit(self, act: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            done.set_result(act(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)
        return done


class _Line(asyncio.Transport):
    """In the place of a connection: what is written is kept, and a close is heard in the loop's next turn."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.said = bytearray()
        self.closed = False
        self.protocol: conversation_room.Conversation | None = None

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.said += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed and self.protocol is not None:
            _loop().call_soon(self.protocol.connection_lost, None)
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    logging.getLogger("vmctl").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    return asyncio.new_event_loop()


def _conversation(take: Callable[[bytes], None], tls: ssl.SSLContext | None) -> conversation_room.Conversation:
    """The one place that knows how the receiver builds its side of a connection."""
    rules = conversation_room.Rules(
        hostname="secondary.example",
        mail_max=MOST,
        mine=MINE,
        peer=PEER,
        take=lambda raw, _sender: take(raw),
        stray=lambda _error, _host: None,
        worker=_AtOnce(),
        pace=Pace(),
        connected=lambda: None,
        tls=tls,
        idle=3600.0,
        proof=3600.0,
    )
    return conversation_room.Conversation(rules, set(), _loop())


def _until_still(most: int = 20_000) -> None:
    loop: Any = _loop()
    for _ in range(most):
        loop.call_soon(loop.stop)
        loop.run_forever()
        if not loop._ready:
            return
    raise AssertionError("the receiver turns round and round")


def talk(data: bytes, take: Callable[[bytes], None], tls: ssl.SSLContext | None = None) -> bytes:
    """What the receiver answers to a client that says all of this, in pieces; after AGAIN its last words over and over."""
    line, faults = _Line(), []
    loop = _loop()
    loop.set_exception_handler(lambda _loop, context: faults.append(context))
    asyncio.set_event_loop(loop)
    conversation = _conversation(take, tls)
    line.protocol = conversation
    conversation.connection_made(line)
    _until_still()
    data, more = (data.removesuffix(AGAIN), _FLOOD) if data.endswith(AGAIN) else (data, 0)
    step = 1 + len(data) // 30 + zlib.crc32(data) % 2048
    for at in range(0, len(data), step):
        if line.closed:
            break
        conversation.data_received(data[at : at + step])
        _until_still()
    flood = (data[-_LAST:] or b"x") * (1 + _CHUNK // max(1, len(data[-_LAST:])))
    while more > 0 and not line.closed:
        conversation.data_received(flood)
        more -= len(flood)
        _until_still()
    if not line.closed:
        conversation.eof_received()
        _until_still()
    line.close()
    _until_still()
    assert not faults, faults
    return bytes(line.said)


def run_receiver(data: bytes) -> None:
    """Every reply is one of SMTP, tells no path, and `250 taken` stands for exactly a mail that the client ended well."""
    taken: list[bytes] = []

    def take(raw: bytes) -> None:
        if b"Subject: disk full" in raw:
            raise DiskFull(f"no room at {SECRET}", why=SECRET)
        if b"Subject: no store" in raw:
            raise StoreUnusable(f"cannot write {SECRET}", why=SECRET)
        if b"Subject: a bug" in raw:
            raise RuntimeError(SECRET)
        if b"Subject: parse" in raw:
            grounds.parse(raw, believed=True)
        taken.append(raw)

    said = talk(data, take)
    _check_replies(said, data)
    assert said.count(b"250 2.0.0 taken") == len(taken)
    assert all(len(raw) <= MOST for raw in taken)
    if taken:
        chunks = _chunks(data)
        unknown = [raw for raw in taken if raw not in _ended(data) and not _is_of(raw, chunks)]
        assert not unknown, "a mail was taken that no client has ended"
        assert re.search(rb"(?i)mail\s", data)
        assert re.search(rb"(?i)rcpt\s", data)


def _check_replies(said: bytes, data: bytes) -> None:
    for one in said.split(b"\r\n")[:-1]:
        assert _REPLY.fullmatch(one + b"\r\n"), one
    assert said.endswith(b"\r\n")
    for secret in (SECRET.encode(), b"Traceback", b"Error(", str(grounds.scratch()).encode(), b".py"):
        assert secret not in said or secret in data, secret


def run_stranger(data: bytes) -> None:
    """Who has not shown with TLS who he is brings no mail, and hears nothing but that he should."""
    taken: list[bytes] = []
    said = talk(data, taken.append, _tls())
    _check_replies(said, data)
    assert not taken, "a mail was taken in clear text"
    for reply in (b"354 ", b"250 2.1", b"235 ", b"334 "):
        assert reply not in said, reply


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _ended(data: bytes) -> set[bytes]:
    """Every mail that may stand in what a client said: from DATA, which LF alone may end, to a line that is a dot (RFC 5321, 4.5.2)."""
    found = set()
    for begin in re.finditer(rb"(?i)data[^\n]*\n", data):
        if data.startswith(b".\r\n", begin.end()):
            found.add(b"")
        if (end := data.find(b"\r\n.\r\n", begin.end())) >= 0:
            found.add(b"".join(one.removeprefix(b".") for one in _lines(data[begin.end() : end + 2])))
    return found


def _chunks(data: bytes) -> list[tuple[bytes, bool]]:
    """Every chunk that may stand in what a client said, and whether it is the last of a mail (RFC 3030)."""
    found = re.finditer(rb"(?i)bdat\s+(\d{1,15})(\s+last)?[^\n]*\n", data)
    return [(data[one.end() : one.end() + int(one[1])], one[2] is not None) for one in found]


def _is_of(raw: bytes, chunks: list[tuple[bytes, bool]]) -> bool:
    """Whether a mail is made of chunks in their order, of which some may have been refused, up to a last one."""
    begun = {0}  # how much of it the chunks so far may have brought
    for chunk, last in chunks:
        reached = {at + len(chunk) for at in begun if raw.startswith(chunk, at)}
        if last and len(raw) in reached:
            return True
        begun |= reached
    return False


def _lines(raw: bytes) -> list[bytes]:
    return re.findall(rb"(?:(?!\r\n).)*\r\n|.+", raw, re.DOTALL)


def said_by_clients() -> list[bytes]:
    """Conversations as the sender holds them, and some that go wrong."""
    begin = COMMANDS[0] + COMMANDS[2] + COMMANDS[5] + COMMANDS[7]
    small = min(grounds.network().raw, key=len)
    return [
        begin + b"Subject: hello\r\n\r\n..one\r\n...\r\ntext\r\n.\r\nQUIT\r\n",
        begin + b"Subject: a bug\r\n\r\n.\r\nRSET\r\n" + begin + b"Subject: disk full\r\n\r\n.\r\n" + begin,
        begin + b"Subject: parse\r\n" + small[:3000] + b"\r\n.\r\nQUIT\r\n",
        COMMANDS[1]
        + COMMANDS[4]
        + COMMANDS[6]
        + b"VRFY root\r\nEXPN all\r\nHELP\r\nNOOP\r\nSTARTTLS\r\nAUTH PLAIN\r\n",
        COMMANDS[0]
        + COMMANDS[2]
        + COMMANDS[5]
        + b"BDAT 3\r\nabcBDAT 0 LAST\r\n"
        + COMMANDS[2]
        + COMMANDS[5]
        + b"BDAT 6 LAST\r\nQUIT\r\n",
        begin + b"Subject: smuggled\r\n\r\n\n.\r\n" + begin + b"x\r\n.\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ]


def change_lines(data: bytes, chance: Random, longest: int) -> bytes:
    """Another conversation: by its lines, or blindly."""
    if chance.random() < 0.5:
        return mutate.of_bytes(data, chance, longest, COMMANDS)
    lines = _lines(data)
    if lines and chance.random() < 0.5:
        lines[chance.randrange(len(lines))] = chance.choice(COMMANDS)
    return b"".join(mutate.of_pieces(lines, chance))[:longest]


# The sender

REPLIES = (
    b"220 secondary.example vmctl\r\n", b"250-secondary.example\r\n", b"250-SIZE 1000000\r\n", b"250-SIZE\r\n", b"250-SIZE 0\r\n", b"250-SIZE -1\r\n", b"250-SIZE 99999999999999999999\r\n", b"250-8BITMIME\r\n",
    b"250-STARTTLS\r\n", b"250-AUTH PLAIN LOGIN\r\n", b"250-AUTH=LOGIN\r\n", b"250-SMTPUTF8\r\n", b"250-PIPELINING\r\n", b"250-CHUNKING\r\n", b"250 HELP\r\n", b"250 ok\r\n", b"251 forwarded\r\n", b"252 x\r\n",
    b"354 go on\r\n", b"421 4.3.2 bye\r\n", b"450 4.2.0 later\r\n", b"451 4.7.1 greylisted\r\n", b"452 4.3.1 full\r\n", b"500 what\r\n", b"501 5.5.4 x\r\n", b"502 no\r\n", b"530 5.7.0 tls\r\n",
    b"550 5.1.1 unknown\r\n", b"552 5.3.4 too large\r\n", b"552 5.2.2 mailbox full\r\n", b"554 5.7.1 no\r\n", b"\r\n", b"\n", b"-1 x\r\n", b"25\r\n", b"2500\r\n", b"999 x\r\n", b"abc\r\n", b"\xff\xfe\r\n", b"250-\r\n", b"250\r\n", b"\0",
)  # fmt: skip


class _Server:
    """In the place of a socket to a server that says all it ever says, and hears what is said.

    After AGAIN it says its last line for ever.
    """

    def __init__(self, says: bytes) -> None:
        says, self._for_ever = (says.removesuffix(AGAIN), True) if says.endswith(AGAIN) else (says, False)
        self._last = says.removesuffix(b"\n").rpartition(b"\n")[2] + b"\n"
        self._says = io.BytesIO(says)
        self.heard = bytearray()

    def makefile(self, _mode: str) -> Self:
        return self

    def readline(self, most: int = -1) -> bytes:
        return self._says.readline(most) or (self._last[:most] if self._for_ever else b"")

    def sendall(self, data: bytes) -> None:
        self.heard += data

    def close(self) -> None: ...

    def settimeout(self, _seconds: float) -> None: ...

    def setsockopt(self, *_: int) -> None: ...


def _courier() -> Courier:
    """The one place that knows how a courier is built."""
    return Courier(("peer.example", 25), helo="primary.example", timeout=5, mail_max=1_000_000, tls=None)


def run_sender(data: bytes) -> None:
    """Only what `send` tells comes out; a mail counts as taken after 354 and 250, and as refused for good after a 5xx."""
    server = _Server(data)
    mail = b"Subject: x\r\n\r\n.text\r\n"
    with mock.patch.object(socket, "create_connection", lambda *_a, **_k: server), _courier() as courier:
        try:
            for _ in range(2):
                courier.send(mail, PEER, MINE)
        except (PeerUnreachable, MailRefused, MailTooLarge) as error:
            assert "\n" not in error.words, error.words
            assert "\r" not in error.words, error.words
            assert len(error.words) < 600, error.words
            if isinstance(error, MailRefused):
                assert re.search(rb"(?m)^\s*\+?5", data), "refused for good, which no reply says"
            if isinstance(error, MailPutOff):
                assert re.search(rb"(?m)^\s*\+?4", data), "put off, which no reply says"
            if isinstance(error, MailTooLarge):
                assert b"552" in data or re.search(rb"(?i)size", data), "too large, which no reply says"
    ended = bytes(server.heard).count(b"\r\n.\r\n")
    assert ended <= data.count(b"354"), "a mail was sent that no server asked for"


def said_by_servers() -> list[bytes]:
    """What servers answer to a mail, and to one that they do not take."""
    hello = b"".join(REPLIES[at] for at in (0, 1, 2, 7, 14))
    good = b"".join(REPLIES[at] for at in (15, 15, 18, 15))
    return [
        hello + good + REPLIES[15] + good + b"221 bye\r\n",
        hello + REPLIES[27] + REPLIES[15],
        hello + REPLIES[15] + REPLIES[21],
        REPLIES[0] + b"502 no EHLO\r\n250 hello\r\n" + good,
        hello + REPLIES[15] * 2 + REPLIES[28],
        hello + REPLIES[15] * 2 + REPLIES[18] + b"552-5.2.2 the mailbox\r\n552 5.2.2 is full\r\n",
        REPLIES[19],
    ]


def change_replies(data: bytes, chance: Random, longest: int) -> bytes:
    """Other answers: by their lines, or blindly."""
    if chance.random() < 0.5:
        return mutate.of_bytes(data, chance, longest, REPLIES)
    lines = data.splitlines(keepends=True)
    if lines and chance.random() < 0.6:
        lines[chance.randrange(len(lines))] = chance.choice(REPLIES)
    return b"".join(mutate.of_pieces(lines, chance))[:longest]


RECEIVER = Target(
    "receiver", "what a client says to the receiver", run_receiver, said_by_clients, change_lines, COMMANDS
)
STRANGER = Target(
    "stranger", "what a client says that does not speak TLS", run_stranger, said_by_clients, change_lines, COMMANDS
)
SENDER = Target("sender", "what a server answers to the sender", run_sender, said_by_servers, change_replies, REPLIES)
