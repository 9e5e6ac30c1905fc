"""Attacks on the link, each under its name: on the dialogue, on TLS, by crowds and by patience."""

from __future__ import annotations

import contextlib
import resource
import smtplib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from running import until

from vmctl import keys, link
from vmctl.errors import MailError, MailStranger, PeerUnreachable, PeerUntrusted
from vmctl.pace import Pace
from vmctl.receiver import STRANGERS, Receiver
from vmctl.sender import Courier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MINE, PEER = "vmctl@secondary.example", "vmctl@primary.example"
MAIL = b"Subject: hello\r\n\r\ntext\r\n"
SERVERS = ("primary", "secondary", "eve")


class Keys(NamedTuple):
    """The key files of the two servers, and of somebody else, with their identities."""

    file: dict[str, Path]
    identity: dict[str, str]

    def called(self, server: str, *pinned: str) -> ssl.SSLContext:
        """What a server is called with by who is pinned."""
        return link.receiving(self.file[server], [self.identity[name] for name in pinned])

    def calls(self, server: str, *pinned: str) -> ssl.SSLContext:
        """What a server calls with."""
        return link.calling(self.file[server], [self.identity[name] for name in pinned])


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys of three servers."""
    folder = tmp_path_factory.mktemp("keys")
    files = {name: folder / f"{name}.pem" for name in SERVERS}
    return Keys(files, {name: keys.generate(path, name).identity for name, path in files.items()})


class Desk:
    """What came in, and what was turned away."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.strays: list[MailError] = []
        self.turned_away = threading.Event()

    def take(self, raw: bytes, _sender: str) -> None:
        self.taken.append(raw)

    def stray(self, error: MailError, _host: str) -> None:
        self.strays.append(error)
        self.turned_away.set()


@contextlib.contextmanager
def receiving(desk: Desk, tls: ssl.SSLContext | None, **words: Any) -> Iterator[Receiver]:
    """The secondary's receiver, on a free port."""
    settings = {"hostname": "secondary.example", "mail_max": 1_000_000, "mine": MINE, "peer": PEER, **words}
    with Receiver(("127.0.0.1", 0), take=desk.take, stray=desk.stray, tls=tls, **settings) as receiver:
        yield receiver


def courier(port: int, tls: ssl.SSLContext | None) -> Courier:
    """The primary's courier to that port."""
    return Courier(("127.0.0.1", port), helo="primary.example", timeout=10, mail_max=1_000_000, tls=tls)


@contextlib.contextmanager
def dialogue(port: int) -> Iterator[tuple[socket.socket, Callable[[bytes], bytes]]]:
    """A socket and a way to say a line and hear the answer; the greeting is read."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rb") as reading:

        def say(line: bytes) -> bytes:
            sock.sendall(line + b"\r\n")
            while (answer := reading.readline())[3:4] == b"-":
                pass
            return answer

        reading.readline()
        yield sock, say


@contextlib.contextmanager
def impostor(*answers: bytes, hang_up: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers one line after the other, and keeps what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def talk() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as reading:
                connection.settimeout(10)
                for answer in answers:
                    connection.sendall(answer)
                    heard.append(reading.readline())
                if hang_up:
                    return
                while line := reading.readline():
                    heard.append(line)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# TLS


def test_the_two_servers_talk_and_nobody_else_does(held: Keys) -> None:
    """The peer's mail is taken over TLS 1.3; who has another key is turned away by either end, and is counted."""
    desk = Desk()
    with receiving(desk, held.called("secondary", "primary")) as receiver:
        with courier(receiver.port, held.calls("primary", "secondary")) as one:
            one.send(MAIL, PEER, MINE)
            assert one._smtp is not None
            assert isinstance(one._smtp.sock, ssl.SSLSocket)
            assert one._smtp.sock.version() == "TLSv1.3"
        for stranger in (held.calls("eve", "secondary"), held.calls("secondary", "secondary")):
            with (
                courier(receiver.port, stranger) as other,
                pytest.raises(PeerUntrusted, match="do not trust each other"),
            ):
                other.send(MAIL, PEER, MINE)
        with courier(receiver.port, held.calls("primary", "eve")) as wary, pytest.raises(PeerUntrusted):
            wary.send(MAIL, PEER, MINE)
    assert [MAIL] == desk.taken
    assert [MailStranger] * 3 == [type(error) for error in desk.strays]


def test_who_shows_no_certificate_is_nobody(held: Keys) -> None:
    """A caller that encrypts and does not say who it is gets no further than the handshake."""
    desk = Desk()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with receiving(desk, held.called("secondary", "primary")) as receiver:
        smtp = smtplib.SMTP("127.0.0.1", receiver.port, timeout=10)
        with contextlib.suppress(ssl.SSLError):
            smtp.starttls(context=context)
        with pytest.raises((ssl.SSLError, smtplib.SMTPServerDisconnected)):
            smtp.ehlo()
        smtp.close()
    assert [MailStranger] == [type(error) for error in desk.strays]


def test_tls_downgrade(held: Keys) -> None:
    """Neither end speaks TLS 1.2, whoever asks for it."""
    desk = Desk()
    old = held.calls("primary", "secondary")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        receiving(desk, held.called("secondary", "primary")) as receiver,
        courier(receiver.port, old) as one,
        pytest.raises(PeerUntrusted),
    ):
        one.send(MAIL, PEER, MINE)
    served = held.called("secondary", "primary")
    served.minimum_version = served.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        receiving(desk, served) as receiver,
        courier(receiver.port, held.calls("primary", "secondary")) as one,
        pytest.raises(PeerUntrusted),
    ):
        one.send(MAIL, PEER, MINE)
    assert [] == desk.taken


def test_starttls_stripping(held: Keys) -> None:
    """A server that does not offer TLS hears EHLO and nothing more: no address, no subject, no mail."""
    with (
        impostor(b"220 secondary.example\r\n", b"250-secondary.example\r\n250 SIZE 1000000\r\n") as (port, heard),
        courier(port, held.calls("primary", "secondary")) as one,
        pytest.raises(PeerUntrusted, match="does not offer TLS"),
    ):
        one.send(MAIL, PEER, MINE)
    assert [b"ehlo primary.example\r\n"] == [line for line in heard if line]


def test_starttls_refused(held: Keys) -> None:
    """A server that offers TLS and then does not go on with it hears nothing more either."""
    with (
        impostor(b"220 s\r\n", b"250-s\r\n250 STARTTLS\r\n", b"454 not now\r\n") as (port, heard),
        courier(port, held.calls("primary", "secondary")) as one,
        pytest.raises(PeerUntrusted, match="offers TLS and does not speak it"),
    ):
        one.send(MAIL, PEER, MINE)
    assert [b"ehlo primary.example\r\n", b"STARTTLS\r\n"] == [line for line in heard if line]


def test_starttls_command_injection(held: Keys) -> None:
    """Commands that come in clear text behind STARTTLS end the connection; none of them is carried out in the TLS session."""
    desk = Desk()
    injected = b"STARTTLS\r\nMAIL FROM:<" + PEER.encode() + b">\r\nRCPT TO:<" + MINE.encode() + b">\r\nDATA\r\n"
    with receiving(desk, held.called("secondary", "primary")) as receiver, dialogue(receiver.port) as (sock, say):
        assert say(b"EHLO primary.example").startswith(b"250 ")
        sock.sendall(injected)
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(4096):
                answers += piece
        assert answers in {b"", b"220 2.0.0 ready for TLS\r\n"}
        assert desk.turned_away.wait(10)
    assert ["commands came in clear text behind STARTTLS"] == [error.why for error in desk.strays]
    assert [] == desk.taken


def test_starttls_response_injection(held: Keys) -> None:
    """Answers that come in clear text behind 220 are not taken for answers inside TLS: after STARTTLS no command is heard."""
    answers = (b"220 s\r\n", b"250-s\r\n250 STARTTLS\r\n", b"220 go\r\n250-s\r\n250 SIZE 99\r\n250 ok\r\n")
    with (
        impostor(*answers, hang_up=True) as (port, heard),
        courier(port, held.calls("primary", "secondary")) as one,
        pytest.raises(PeerUnreachable),
    ):
        one.send(MAIL, PEER, MINE)
    assert [b"ehlo primary.example\r\n", b"STARTTLS\r\n"] == heard[:2]
    assert b"mail" not in b"".join(heard[2:]).lower()


def test_nothing_is_answered_before_tls(held: Keys) -> None:
    """Before STARTTLS only EHLO, NOOP and QUIT are: every other command, known or not, gets 530."""
    desk = Desk()
    with receiving(desk, held.called("secondary", "primary")) as receiver, dialogue(receiver.port) as (_, say):
        assert say(b"EHLO x").startswith(b"250 ")
        assert say(b"NOOP").startswith(b"250 ")
        for command in (
            b"MAIL FROM:<" + PEER.encode() + b">",
            b"VRFY root",
            b"EXPN all",
            b"HELP",
            b"RSET",
            b"DATA",
            b"X",
        ):
            assert say(command).startswith(b"530 ")
        assert say(b"QUIT").startswith(b"221 ")


# The dialogue


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\n.\r", b"\r\n\x00.\r\n", b"\r\n..\r\n"]
)
def test_smtp_smuggling(end: bytes) -> None:
    """Only CR LF dot CR LF ends a mail: what another server may take for its end does not let a second one in."""
    desk = Desk()
    second = b"MAIL FROM:<" + PEER.encode() + b">\r\nRCPT TO:<" + MINE.encode() + b">\r\nDATA\r\nsmuggled\r\n.\r\n"
    with receiving(desk, None) as receiver, dialogue(receiver.port) as (sock, say):
        say(b"EHLO x")
        say(b"MAIL FROM:<" + PEER.encode() + b">")
        say(b"RCPT TO:<" + MINE.encode() + b">")
        assert say(b"DATA").startswith(b"354 ")
        sock.sendall(b"Subject: one\r\n\r\ntext" + end + second + b"QUIT\r\n")
        with sock.makefile("rb") as reading:
            answers = [line[:3] for line in reading]  # until the receiver hangs up: then all of it has been heard
    assert answers == [b"250", b"221"]
    assert [b"Subject: one"] == [mail.splitlines()[0] for mail in desk.taken]


def test_what_another_server_would_smuggle_is_one_mail() -> None:
    """Our own mails hold no end of a mail in whatever line ends: what leaves with one inside arrives as one mail."""
    desk = Desk()
    with receiving(desk, None) as receiver, courier(receiver.port, None) as one:
        for end in (b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r\n"):
            one.send(b"Subject: one\r\n\r\ntext" + end + b"MAIL FROM:<x@y>\r\n", PEER, MINE)
    assert len(desk.taken) == 5
    assert all(b"\n.\r\n" not in mail or b"\r\n.\r\n" in mail for mail in desk.taken)


@pytest.mark.parametrize(
    "verb", [b"VRFY root", b"EXPN staff", b"HELP", b"ETRN x", b"TURN", b"SEND FROM:<a@b>", b"\x00\xff", b"X" * 600]
)
def test_commands_that_tell_or_relay(verb: bytes) -> None:
    """Such commands tell nothing of what is here, and the connection goes on (RFC 5321, 3.5 and 4.2)."""
    with receiving(Desk(), None) as receiver, dialogue(receiver.port) as (_, say):
        say(b"EHLO x")
        answer = say(verb)
        assert answer[:1] in {b"2", b"5"}
        assert MINE.encode() not in answer
        assert say(b"NOOP").startswith(b"250 ")


def test_pipelining_strangers_wait_for_nothing() -> None:
    """Commands that come all at once are answered one by one, and a refused sender's mail is not taken."""
    desk = Desk()
    with receiving(desk, None) as receiver, dialogue(receiver.port) as (sock, _):
        sock.sendall(
            b"EHLO x\r\nMAIL FROM:<eve@x.example>\r\nRCPT TO:<" + MINE.encode() + b">\r\nDATA\r\nSubject: x\r\n.\r\n"
        )
        with sock.makefile("rb") as reading:
            lines = iter(lambda: reading.readline()[:4], b"")
            answers = [next(line for line in lines if line[3:] == b" ") for _ in range(5)]
    assert answers == [b"250 ", b"550 ", b"503 ", b"503 ", b"500 "]
    assert [] == desk.taken


def test_a_thousand_recipients() -> None:
    """The same recipient over and over is no way to eat memory: the hundred and first is put off."""
    with receiving(Desk(), None) as receiver, dialogue(receiver.port) as (_, say):
        say(b"EHLO x")
        say(b"MAIL FROM:<" + PEER.encode() + b">")
        answers = [say(b"RCPT TO:<" + MINE.encode() + b">")[:3] for _ in range(102)]
    assert [b"250"] * 100 + [b"452"] * 2 == answers


def test_an_endless_line(held: Keys) -> None:
    """A line without an end is thrown away as it comes, before and inside a mail."""
    desk = Desk()
    with receiving(desk, None, mail_max=10_000) as receiver, dialogue(receiver.port) as (sock, say):
        assert say(b"A" * 3_000_000).startswith(b"500 ")
        say(b"EHLO x")
        say(b"MAIL FROM:<" + PEER.encode() + b">")
        say(b"RCPT TO:<" + MINE.encode() + b">")
        say(b"DATA")
        with contextlib.suppress(ConnectionError):  # it may be hung up on in the middle
            sock.sendall(b"B" * 3_000_000)
            assert say(b"\r\n.")[:3] in {b"500", b"552", b""}
    assert [] == desk.taken


# Crowds, and patience


def test_a_thousand_connections_at_once(held: Keys) -> None:
    """While a thousand callers hold the line and say nothing, the peer's mail gets through."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    desk = Desk()
    try:
        with receiving(desk, held.called("secondary", "primary")) as receiver, contextlib.ExitStack() as crowd:
            for number in range(1000):
                sock = crowd.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=10))
                if number % 3 == 0:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"EHLO x\r\nSTARTTLS\r\n")
            with courier(receiver.port, held.calls("primary", "secondary")) as one:
                for _ in range(3):
                    one.send(MAIL, PEER, MINE)
            assert len(receiver._open) <= STRANGERS + 1 + 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [MAIL] * 3 == desk.taken


def test_a_crowd_does_not_push_out_the_peer(held: Keys) -> None:
    """The connection that the peer has open stays while strangers come and go, however quiet it is."""
    desk = Desk()
    with (
        receiving(desk, held.called("secondary", "primary"), strangers=3) as receiver,
        courier(receiver.port, held.calls("primary", "secondary")) as one,
        contextlib.ExitStack() as crowd,
    ):
        one.send(MAIL, PEER, MINE)
        kept = one._smtp
        for _ in range(20):
            crowd.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=10)).recv(3)
        one.send(MAIL, PEER, MINE)
        assert kept is one._smtp
    assert [MAIL] * 2 == desk.taken


def test_a_caller_that_never_says_who_it_is(held: Keys) -> None:
    """Whoever talks on without proving to be the peer is hung up on, although it is never silent, and is counted."""
    desk = Desk()
    with (
        receiving(desk, held.called("secondary", "primary"), proof=0.3) as receiver,
        dialogue(receiver.port) as (sock, _),
    ):
        pause = threading.Event()
        with contextlib.suppress(ConnectionError):
            for _ in range(20):  # fewer than are answered
                sock.sendall(b"NOOP\r\n")
                if not sock.recv(100):
                    break
                pause.wait(0.05)
        assert desk.turned_away.wait(10)
    assert ["it did not say who it is for 0.3 s"] == [error.why for error in desk.strays]


def test_a_caller_that_talks_on(held: Keys) -> None:
    """Before TLS a caller is answered thirty times and no more."""
    with (
        receiving(Desk(), held.called("secondary", "primary")) as receiver,
        dialogue(receiver.port) as (sock, _),
        sock.makefile("rb") as reading,
    ):
        sock.sendall(b"NOOP\r\n" * 100)
        answers = [line[:3] for line in reading]
    assert answers == [b"250"] * 30 + [b"421"] or answers == [b"250"] * 29 + [b"250", b"421"]


def test_words_without_a_mail() -> None:
    """Whoever goes on to talk and brings no mail is hung up on after five hundred answers, however good its words are."""
    with receiving(Desk(), None) as receiver, dialogue(receiver.port) as (sock, _), sock.makefile("rb") as reading:
        sock.sendall(b"NOOP\r\n" * 600)
        answers = [line[:3] for line in reading]
    assert answers[-1] == b"421"
    assert len(answers) <= 502


def test_a_crowd_that_talks(held: Keys) -> None:
    """Callers that never fall silent, and come again as soon as they are sent away, do not keep the peer out either."""
    desk, enough = Desk(), threading.Event()

    def from_elsewhere(port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=5, source_address=("127.0.0.2", 0))

    def talk(port: int) -> None:
        while not enough.is_set():
            with contextlib.suppress(OSError), from_elsewhere(port) as sock:
                while not enough.is_set():
                    sock.sendall(b"NOOP\r\n")
                    if not sock.recv(100):
                        break
                    enough.wait(0.02)

    with receiving(desk, held.called("secondary", "primary"), strangers=10) as receiver:
        crowd = [threading.Thread(target=talk, args=(receiver.port,)) for _ in range(30)]
        for one in crowd:
            one.start()
        try:
            for _ in range(20):
                with courier(receiver.port, held.calls("primary", "secondary")) as peer:
                    peer.send(MAIL, PEER, MINE)
        finally:
            enough.set()
            for one in crowd:
                one.join()
    assert [MAIL] * 20 == desk.taken


def test_of_a_crowd_the_busiest_address_goes_first(held: Keys) -> None:
    """A hundred callers from one address cost a caller from another one nothing, however quiet that is."""
    with (
        receiving(Desk(), held.called("secondary", "primary"), strangers=5) as receiver,
        contextlib.ExitStack() as crowd,
    ):
        quiet = crowd.enter_context(
            socket.create_connection(("127.0.0.1", receiver.port), timeout=10, source_address=("127.0.0.2", 0))
        )
        assert quiet.recv(3) == b"220"
        for _ in range(50):
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=10))
            with contextlib.suppress(ConnectionError):
                one.recv(3)
        quiet.recv(1000)
        quiet.sendall(b"NOOP\r\n")
        assert quiet.recv(3) == b"250"


def test_a_slow_handshake_among_silent_callers(held: Keys) -> None:
    """Who has begun TLS, over a line that is slow, is not pushed out by hundreds from its own address that say nothing."""
    with (
        receiving(Desk(), held.called("secondary", "primary"), strangers=5) as receiver,
        dialogue(receiver.port) as (sock, say),
        contextlib.ExitStack() as crowd,
    ):
        say(b"EHLO primary.example")
        assert say(b"STARTTLS").startswith(b"220 ")
        for _ in range(200):
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=10))
            with contextlib.suppress(ConnectionError):
                one.recv(3)
        with held.calls("primary", "secondary").wrap_socket(sock, server_hostname="x") as secure:
            secure.sendall(b"EHLO primary.example\r\n")
            assert secure.recv(4) == b"250-"


def test_the_peers_own_address_goes_last(held: Keys) -> None:
    """Callers from where the peer is likely to call are not pushed out by others, even by as many addresses."""
    with (
        receiving(Desk(), held.called("secondary", "primary"), strangers=5, peer_host="127.0.0.2") as receiver,
        contextlib.ExitStack() as crowd,
    ):

        def call(host: str) -> socket.socket:
            return crowd.enter_context(
                socket.create_connection(("127.0.0.1", receiver.port), timeout=10, source_address=(host, 0))
            )

        until(lambda: receiver._familiar, what="the address")
        peers = [call("127.0.0.2") for _ in range(4)]
        for number in range(3, 60):
            with contextlib.suppress(ConnectionError):
                call(f"127.0.0.{number}").recv(3)
        for one in peers:
            one.recv(1000)
            one.sendall(b"NOOP\r\n")
            assert one.recv(3) == b"250"


def test_the_pace_of_handshakes() -> None:
    """An address may begin so many at once and then so many a second; others, and this host, are not its affair."""
    pace = Pace()
    assert [True] * 50 + [False] * 10 == [pace.allows("192.0.2.1", 0.0) for _ in range(60)]
    assert [True] * 5 + [False] == [pace.allows("192.0.2.1", 1.0) for _ in range(6)]
    assert pace.allows("192.0.2.2", 1.0)
    assert all(
        pace.allows(host, 1.0) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "unknown") for _ in range(100)
    )
    assert [True] * 50 + [False] == [pace.allows(f"2001:db8::{number:x}", 1.0) for number in range(51)]
    for number in range(5000):
        pace.allows(f"10.{number // 256}.{number % 256}.1", 2.0)
    assert len(pace._left) <= 4096


def test_who_is_trusted_no_more_is_sent_away(held: Keys) -> None:
    """When a key counts no more its open connections end, and who has it does not come in again; others do."""
    desk = Desk()
    with (
        receiving(desk, held.called("secondary", "primary", "eve")) as receiver,
        courier(receiver.port, held.calls("eve", "secondary")) as former,
        courier(receiver.port, held.calls("primary", "secondary")) as present,
    ):
        former.send(MAIL, PEER, MINE)
        receiver.trust(held.called("secondary", "primary"))
        with pytest.raises(PeerUnreachable):
            former.send(MAIL, PEER, MINE)
        with pytest.raises(PeerUntrusted):
            former.send(MAIL, PEER, MINE)
        present.send(MAIL, PEER, MINE)
    assert [MAIL] * 2 == desk.taken


def test_a_handshake_that_never_ends(held: Keys) -> None:
    """A caller that begins TLS and stops in the middle is hung up on, and counted."""
    desk = Desk()
    with (
        receiving(desk, held.called("secondary", "primary"), proof=0.3) as receiver,
        dialogue(receiver.port) as (sock, say),
    ):
        say(b"EHLO x")
        assert say(b"STARTTLS").startswith(b"220 ")
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        assert desk.turned_away.wait(10)
    assert [MailStranger] == [type(error) for error in desk.strays]


def test_slow_senders() -> None:
    """A mail that comes one byte at a time, never silent for long, is cut off; the receiver holds nothing of it."""
    desk = Desk()
    with receiving(desk, None, idle=0.5) as receiver, dialogue(receiver.port) as (sock, say):
        say(b"EHLO x")
        say(b"MAIL FROM:<" + PEER.encode() + b">")
        say(b"RCPT TO:<" + MINE.encode() + b">")
        say(b"DATA")
        pause = threading.Event()
        with pytest.raises(ConnectionError):  # noqa: PT012 - one of the bytes is one too many
            for _ in range(400):
                sock.sendall(b"x")
                pause.wait(0.05)
    assert [] == desk.taken
