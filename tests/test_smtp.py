"""Sender and receiver on real sockets: what is delivered, what is refused, what is tried again."""

import contextlib
import email
import logging
import smtplib
import socket
import threading
from pathlib import Path

import pytest

from vmctl import conversation as room
from vmctl.errors import (
    AddressInUse,
    DiskFull,
    MailError,
    MailForged,
    MailGarbage,
    MailNewer,
    MailPutOff,
    MailRefused,
    MailTooLarge,
    PeerUnreachable,
    StoreMissing,
    VmctlError,
)
from vmctl.receiver import Receiver
from vmctl.sender import Courier

MINE, PEER = "vmctl@secondary.example", "vmctl@primary.example"
MAIL = b"Subject: hello\r\n\r\n.one\r\n..\r\ntext\r\n"


def whoever(take):
    """What a receiver calls, for a `take` that does not ask who sent the mail."""
    return lambda raw, _sender: take(raw)


@pytest.fixture
def taken():
    """The mails that were taken in."""
    return []


@contextlib.contextmanager
def receiving(take, **words):
    """A receiver on a free port."""
    settings = {"hostname": "secondary.example", "mail_max": 100_000, "mine": MINE, "peer": PEER, "tls": None, **words}
    with Receiver(("127.0.0.1", 0), take=whoever(take), **settings) as receiver:
        yield receiver


def courier(port, **words):
    """A courier to that port."""
    return Courier(
        ("127.0.0.1", port), **{"helo": "primary.example", "timeout": 5, "mail_max": 1_000_000, "tls": None, **words}
    )


def client(receiver):
    """Python's own SMTP client."""
    return smtplib.SMTP("127.0.0.1", receiver.port, local_hostname="primary.example", timeout=5)


@contextlib.contextmanager
def scripted(*conversations):
    """A server that says prepared lines: the first of each conversation at once, each next one after a line came.

    After DATA's 354 it reads to the final dot first. None as the last line closes without an answer.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    heard = []

    def talk(connection, lines):
        with connection, connection.makefile("rb") as reading:
            for number, line in enumerate(lines):
                if number:
                    data = reading.readline()
                    while lines[number - 1].startswith("354") and data not in {b".\r\n", b""}:
                        data = reading.readline()
                    heard.append(data)
                if line is None:
                    return
                connection.sendall(line.encode() + b"\r\n")
            reading.readline()

    def run():
        with contextlib.suppress(OSError):
            for lines in conversations:
                talk(listener.accept()[0], lines)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


GREETED = ["220 hello", "250 hello"]  # greeting, EHLO


# The two together


def test_a_mail_arrives_byte_for_byte(taken):
    """What the courier sends is what take gets, dots at line starts included."""
    with receiving(taken.append) as receiver, courier(receiver.port) as one:
        one.send(MAIL, PEER, MINE)
    assert taken == [MAIL]
    assert email.message_from_bytes(taken[0])["Subject"] == "hello"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", b"\r\n"),
        (b".", b".\r\n"),
        (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
        (b"a\r.\rb\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"),
        (b"a\r\n.\nQUIT\n", b"a\r\n.\r\nQUIT\r\n"),
    ],
)
def test_odd_line_ends_cannot_smuggle_a_second_mail(taken, raw, expected):
    """Bare CR and LF become CRLF, so a lone dot inside never ends the mail."""
    with receiving(taken.append) as receiver, courier(receiver.port) as one:
        one.send(raw, PEER, MINE)
    assert [expected] == taken


def test_many_mails_over_one_connection(taken):
    """The courier keeps its connection, and opens a new one after the receiver was restarted."""
    with receiving(taken.append) as receiver:
        one = courier(receiver.port)
        one.send(MAIL, PEER, MINE)
        kept = one._smtp
        one.send(MAIL, PEER, MINE)
        assert kept is one._smtp
        port = receiver.port
    with pytest.raises(PeerUnreachable):
        one.send(MAIL, PEER, MINE)
    with (
        Receiver(
            ("127.0.0.1", port), hostname="s", mail_max=1000, mine=MINE, peer=PEER, take=whoever(taken.append), tls=None
        ),
        one,
    ):
        one.send(MAIL, PEER, MINE)
    assert taken == [MAIL] * 3


def test_a_large_mail_arrives(taken):
    """A mail of the full size that is allowed goes through; one byte more is not even begun."""
    raw = b"x" * 76 + b"\r\n"
    full = raw * 1000
    with receiving(taken.append, mail_max=len(full)) as receiver, courier(receiver.port) as one:
        one.send(full, PEER, MINE)
        with pytest.raises(MailTooLarge) as caught:
            one.send(full + raw, PEER, MINE)
    assert len(full) == caught.value.limit
    assert [full] == taken


# The receiver's replies


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (MailForged("forged", why="no signature"), (550, b"5.7.1 forged: no signature")),
        (MailGarbage("garbage\r\n250 OK \u2028\xe4"), (554, b"5.6.0 garbage 250 OK \\u2028\\xe4")),
        (MailNewer("newer"), (451, b"4.3.5 newer")),
        (DiskFull("no room for /secret/path"), (452, b"4.3.1 no room on the disk, try again later")),
        (StoreMissing("/secret/path"), (451, b"4.3.0 the store cannot be used now, try again later")),
        (ValueError("/secret/path"), (451, b"4.3.0 an error of this server, try again later")),
        (VmctlError("/secret/path"), (451, b"4.3.0 an error of this server, try again later")),
    ],
)
def test_what_take_raises_becomes_a_reply(error, reply, caplog):
    """Faults of ours are 4xx without a path in the text, mails that can never be taken 5xx; each is logged."""

    def take(_raw):
        raise error

    with caplog.at_level(logging.INFO, "vmctl.receiver"), receiving(take) as receiver, client(receiver) as smtp:
        smtp.ehlo()
        smtp.mail(PEER)
        smtp.rcpt(MINE)
        assert reply == smtp.data(MAIL)
        smtp.mail(PEER)  # the connection goes on
        assert smtp.rcpt(MINE)[0] == 250
    assert [len(r.getMessage().splitlines()) for r in caplog.records if "taken" in r.msg or "refused" in r.msg] == [1]


def test_every_mail_error_has_a_reply_of_the_right_kind():
    """An error that may be tried again answers 4xx, another 5xx."""
    for kind in MailError.__subclasses__():
        assert room.refusal(kind("x")).startswith("4" if kind.retry else "5")


def test_the_page_tells_every_reply():
    """Each reply that an error of a mail gives stands in the table of docs/sync-mail.md."""
    page = (Path(__file__).parent.parent / "docs" / "sync-mail.md").read_text(encoding="utf-8")
    for kind in MailError.__subclasses__():
        code, status = kind.smtp_reply.split()
        assert f"`{code} {status}`" in page or f"`{code}`" in page


def test_the_courier_tells_refused_from_unreachable(taken):
    """5xx raises MailRefused, 4xx PeerUnreachable; the reply is in why."""
    replies = iter([MailForged("forged"), DiskFull("full"), None])

    def take(raw):
        error = next(replies)
        if error is not None:
            raise error
        taken.append(raw)

    with receiving(take) as receiver, courier(receiver.port) as one:
        with pytest.raises(MailRefused) as refused:
            one.send(MAIL, PEER, MINE)
        with pytest.raises(PeerUnreachable) as full:
            one.send(MAIL, PEER, MINE)
        one.send(MAIL, PEER, MINE)
    assert refused.value.why == "it answered: 550 5.7.1 forged"
    assert "452 4.3.1" in full.value.why
    assert taken == [MAIL]


def test_only_the_peer_and_only_to_this_server(taken):
    """Other senders and recipients get 550; the null sender of reports is let in, and case does not matter."""
    with receiving(taken.append) as receiver, client(receiver) as smtp:
        smtp.ehlo()
        assert smtp.mail("someone@example.org")[0] == 550
        assert smtp.mail("")[0] == 250
        assert smtp.rcpt("other@secondary.example")[0] == 550
        assert smtp.docmd("DATA")[0] == 503
        smtp.rset()
        assert smtp.mail(PEER.upper())[0] == 250
        assert smtp.rcpt(MINE.upper())[0] == 250
        assert smtp.data(MAIL)[0] == 250
    assert taken == [MAIL]


def test_what_the_receiver_says_of_itself(taken):
    """SIZE is advertised; versions, SMTPUTF8, AUTH and user names are not."""
    with receiving(taken.append) as receiver, client(receiver) as smtp:
        greeting = smtp.ehlo()[1].decode()
        assert smtp.esmtp_features["size"] == "100000"
        assert not {"smtputf8", "auth"} & smtp.esmtp_features.keys()
        assert "aiosmtpd" not in greeting
        assert smtp.verify("anybody@example.org")[0] == 252
        assert smtp.expn("staff")[0] in {502, 550}
        assert smtp.docmd("AUTH PLAIN AGEAYg==")[0] >= 500


def test_too_large_mails_are_refused(taken):
    """A declared SIZE above the limit is refused at MAIL, an undeclared one after its end; the connection goes on."""
    with receiving(taken.append) as receiver, client(receiver) as smtp:
        smtp.ehlo()
        assert smtp.mail(PEER, ["size=100001"])[0] == 552
        smtp.mail(PEER)
        smtp.rcpt(MINE)
        assert smtp.data(b"x" * 70 + b"\r\n" * 51_000)[0] == 552
        smtp.mail(PEER)
        smtp.rcpt(MINE)
        assert smtp.data(MAIL)[0] == 250
    assert taken == [MAIL]


def test_one_who_only_makes_mistakes_is_hung_up_on(taken):
    """After ten faults the connection ends with 421."""
    with receiving(taken.append) as receiver, client(receiver) as smtp:
        smtp.ehlo()
        codes = [smtp.mail("x@example.org")[0] for _ in range(room.FAULTS)]
        assert codes == [550] * room.FAULTS
        assert smtp.getreply()[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtp.noop()


def test_too_many_connections_are_turned_away(taken):
    """A connection too many hears 421, which the courier takes as try again."""
    with receiving(taken.append, connections=1) as receiver, client(receiver) as smtp:
        smtp.sendmail(PEER, [MINE], MAIL)  # what the peer has signed is the peer's connection
        with pytest.raises(PeerUnreachable) as caught, courier(receiver.port) as one:
            one.send(MAIL, PEER, MINE)
        assert "421" in caught.value.why
    assert len(taken) == 1


def test_an_idle_connection_is_closed(taken):
    """One who says nothing is cut off, but not one whose mail is being taken in meanwhile."""
    said = []

    def take(raw):
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as silent, silent.makefile("rb") as line:
            said.append(line.read())
        taken.append(raw)

    with receiving(take, idle=0.1) as receiver, courier(receiver.port) as one:
        one.send(MAIL, PEER, MINE)
    assert [line.startswith(b"220 ") for line in said] == [True]
    assert taken == [MAIL]


def test_no_250_before_take_returned():
    """The 250 comes after take, one mail at a time."""
    order = []
    inside = threading.Lock()

    def take(raw):
        assert inside.acquire(blocking=False)
        order.append("take")
        inside.release()

    def send(port):
        with courier(port) as one:
            one.send(MAIL, PEER, MINE)
            order.append("250")

    with receiving(take) as receiver:
        senders = [threading.Thread(target=send, args=(receiver.port,)) for _ in range(8)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join()
    assert 8 == order.count("250") == order.count("take")
    for at in range(len(order)):
        assert order[:at].count("250") <= order[:at].count("take")


def test_stop_lets_a_mail_in_hand_finish():
    """Stopping waits for the mail that is being taken in, answers it, and takes no other."""
    begun, go_on, result = threading.Event(), threading.Event(), []

    def take(raw):
        begun.set()
        go_on.wait(5)
        result.append("taken")

    def send(port):
        with courier(port) as one:
            one.send(MAIL, PEER, MINE)
            result.append("250")

    receiver = Receiver(
        ("127.0.0.1", 0), hostname="s", mail_max=10_000, mine=MINE, peer=PEER, take=whoever(take), tls=None
    )
    receiver.start()
    sender = threading.Thread(target=send, args=(receiver.port,))
    sender.start()
    assert begun.wait(5)
    stopper = threading.Thread(target=receiver.stop)
    stopper.start()
    go_on.set()
    stopper.join()
    sender.join()
    assert result == ["taken", "250"]
    receiver.stop()  # a second time is no fault


def test_stop_does_not_wait_for_silent_connections(taken):
    """A connection without a mail in hand is closed with 421 at once."""
    receiver = Receiver(
        ("127.0.0.1", 0), hostname="s", mail_max=10_000, mine=MINE, peer=PEER, take=whoever(taken.append), tls=None
    )
    receiver.start()
    with client(receiver) as smtp:
        smtp.ehlo()
        receiver.stop()
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            assert smtp.getreply()[0] == 421
    with pytest.raises(PeerUnreachable), courier(receiver.port) as one:
        one.send(MAIL, PEER, MINE)


def test_a_connection_cut_in_the_middle_of_a_mail_takes_nothing(taken):
    """Without the final dot there is no mail, and the receiver lives on."""
    with receiving(taken.append) as receiver:
        with client(receiver) as smtp:
            smtp.ehlo()
            smtp.mail(PEER)
            smtp.rcpt(MINE)
            smtp.docmd("DATA")
            smtp.send(MAIL)
            smtp.close()
        with courier(receiver.port) as one:
            one.send(b"whole\r\n", PEER, MINE)
    assert taken == [b"whole\r\n"]


def test_a_taken_port_is_address_in_use(taken):
    """A second receiver on a port, or one on an address that is not here, says AddressInUse."""
    with receiving(taken.append) as receiver:
        for listen in (("127.0.0.1", receiver.port), ("192.0.2.1", 0), ("no.such.host.invalid", 0), ("\ud800", 0)):
            with pytest.raises(AddressInUse) as caught:
                Receiver(
                    listen, hostname="s", mail_max=1, mine=MINE, peer=PEER, take=whoever(taken.append), tls=None
                ).start()
            assert str(listen[1]) in caught.value.what


def test_the_wire_is_never_logged(taken, caplog):
    """Even where everything is logged, no line of a mail is."""
    with caplog.at_level(logging.DEBUG), receiving(taken.append) as receiver, courier(receiver.port) as one:
        one.send(b"Subject: x\r\n\r\nprivate words\r\n", PEER, MINE)
    assert "private words" not in caplog.text
    assert len(taken) == 1


# The courier against other servers


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (["554 no service"], PeerUnreachable, "554"),
        (["nonsense"], PeerUnreachable, ""),
        (["220 hello", "550 no", "550 no"], PeerUnreachable, "550"),
        ([*GREETED, "451 later"], MailPutOff, "451"),
        ([*GREETED, "550 not you"], MailRefused, "550 not you"),
        ([*GREETED, "250 ok", "450 greylisted"], MailPutOff, "450"),
        ([*GREETED, "250 ok", "550 nobody"], MailRefused, "550"),
        ([*GREETED, "250 ok", "250 ok", "452 full"], MailPutOff, "452"),
        ([*GREETED, "250 ok", "250 ok", "554 no"], MailRefused, "554"),
        ([*GREETED, "250 ok", "250 ok", "354 go", "451 later"], MailPutOff, "451"),
        ([*GREETED, "250 ok", "250 ok", "354 go", "554 never"], MailRefused, "554 never"),
        ([*GREETED, "250 ok", "250 ok", "354 go", "999 what"], PeerUnreachable, "999"),
        ([*GREETED, "250 ok", "250 ok", "354 go", None], PeerUnreachable, "closed"),
        (["220 hello", None], PeerUnreachable, "closed"),
        ([*GREETED, None], PeerUnreachable, "closed"),
        ([*GREETED, "250 " + "x" * 10_000], PeerUnreachable, "too long"),
        (["220 hello", "250-hello\r\n250 SIZE 10"], MailTooLarge, "10 bytes"),
        ([*GREETED, "552 too much"], MailTooLarge, "552"),
        ([*GREETED, "250 ok", "250 ok", "354 go", "552 5.3.4 too big"], MailTooLarge, "5.3.4"),
        ([*GREETED, "250 ok", "250 ok", "354 go", "552 5.2.2 mailbox full"], MailRefused, "5.2.2"),
    ],
)
def test_each_reply_is_told_apart(lines, kind, said):
    """5xx to a mail is for good; refused connections, 4xx, nonsense and broken connections are tried again."""
    with scripted(lines) as (port, _), courier(port) as one:
        with pytest.raises(kind) as caught:
            one.send(MAIL, PEER, MINE)
        assert said.lower() in caught.value.why.lower()
        assert one._smtp is None


def test_a_kept_connection_that_dropped_is_opened_again():
    """The peer closing an idle connection costs no mail and no error."""
    once = [*GREETED, "250 ok", "250 ok", "354 go", "250 taken"]
    with scripted([*once, None], once) as (port, heard), courier(port) as one:
        one.send(MAIL, PEER, MINE)
        one.send(MAIL, PEER, MINE)
    assert heard.count(b".\r\n") == 2


def test_a_silent_peer_is_unreachable():
    """A peer that takes the connection and says nothing is unreachable after the timeout."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        courier(listener.getsockname()[1], timeout=0.05) as one,
        pytest.raises(PeerUnreachable) as caught,
    ):
        one.send(MAIL, PEER, MINE)
    assert "timed out" in caught.value.why


def test_a_host_that_is_not_there_is_unreachable():
    """No name, or nobody who listens: PeerUnreachable."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (("127.0.0.1", port), ("no.such.host.invalid", 25)):
        with Courier(address, helo="x", timeout=5, mail_max=10, tls=None) as one, pytest.raises(PeerUnreachable):
            one.send(MAIL, PEER, MINE)


@pytest.mark.parametrize("address", ["a@b\r\nRCPT TO:<x@y>", "ä@b.example"])
def test_an_address_cannot_bring_commands(address, taken):
    """Line ends and foreign letters in an address are refused before they reach the wire."""
    with receiving(taken.append) as receiver, courier(receiver.port) as one, pytest.raises(MailRefused):
        one.send(MAIL, address, MINE)
    assert taken == []


def test_every_exception_of_smtplib_is_known():
    """A new exception in smtplib must be thought about; all of them are OSErrors, which the courier turns into ours."""
    names = {
        "SMTPException", "SMTPNotSupportedError", "SMTPServerDisconnected", "SMTPResponseException",
        "SMTPSenderRefused", "SMTPRecipientsRefused", "SMTPDataError", "SMTPConnectError", "SMTPHeloError",
        "SMTPAuthenticationError",
    }  # fmt: skip
    found = {
        name: kind for name, kind in vars(smtplib).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert names == found.keys()
    arguments = {"SMTPSenderRefused": (550, b"no", "a@b"), "SMTPRecipientsRefused": ({"a@b": (550, b"no")},)}
    for name, kind in found.items():
        one = courier(1)
        plain = (550, b"no") if issubclass(kind, smtplib.SMTPResponseException) else ("why",)
        error = kind(*arguments.get(name, plain))
        with pytest.raises(PeerUnreachable), one._faults():
            raise error
