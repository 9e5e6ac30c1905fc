"""Binary mails in chunks (RFC 3030): both ends speak it, and who does not gets the same mail in base64."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from typing import TYPE_CHECKING

import pytest

from vmctl.errors import MailRefused, MailTooLarge
from vmctl.mail_parts import in_base64, leaves
from vmctl.receiver import Receiver
from vmctl.sender import Courier

if TYPE_CHECKING:
    from collections.abc import Iterator

MINE, PEER = "vmsync@primary.net.invalid", "vmsync@secondary.net.invalid"
BINARY = bytes(range(256)) * 10 + b"\r\n.\r\n\r\nMAIL FROM:<x@y>\r\n\n\r."
MAX = 100_000


@pytest.fixture
def taken() -> list[bytes]:
    return []


@pytest.fixture
def receiver(taken: list[bytes]) -> Iterator[Receiver]:
    """A receiver on a plain link."""
    words = {"hostname": "primary.net.invalid", "mail_max": MAX, "mine": MINE, "peer": PEER, "tls": None}
    with Receiver(("127.0.0.1", 0), take=lambda raw, _sender: taken.append(raw), **words) as made:
        yield made


@pytest.fixture
def courier(receiver: Receiver) -> Iterator[Courier]:
    with Courier(("127.0.0.1", receiver.port), helo="x.invalid", timeout=10, mail_max=10 * MAX, tls=None) as made:
        yield made


@pytest.fixture
def line(receiver: Receiver) -> Iterator[smtplib.SMTP]:
    """A conversation by hand, greeted."""
    with smtplib.SMTP("127.0.0.1", receiver.port, timeout=10) as smtp:
        smtp.ehlo("x.invalid")
        yield smtp


def begin(line: smtplib.SMTP) -> None:
    assert line.docmd(f"MAIL FROM:<{PEER}> BODY=BINARYMIME")[0] == 250
    assert line.docmd(f"RCPT TO:<{MINE}>")[0] == 250


def never(_raw: bytes) -> bytes:
    raise AssertionError("the mail is not to be turned into text")


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, MAX])
def test_a_binary_mail_arrives_byte_for_byte(courier: Courier, taken: list[bytes], size: int) -> None:
    """Whatever its bytes are, and however long it is: also where it goes behind its envelope at once."""
    raw = (BINARY * (size // len(BINARY) + 1))[:size]
    for _ in range(2):
        courier.send(raw, PEER, MINE, as_text=never)
    assert taken == [raw, raw]


def test_a_binary_mail_takes_one_flight_there_and_back(
    courier: Courier, taken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envelope and mail leave in one write, once it is known that the connection is alive."""
    courier.send(BINARY, PEER, MINE, as_text=never)
    sent: list[bytes] = []
    send = smtplib.SMTP.send

    def noted(smtp: smtplib.SMTP, what: str | bytes) -> None:
        sent.append(what if isinstance(what, bytes) else what.encode())
        send(smtp, what)

    monkeypatch.setattr(smtplib.SMTP, "send", noted)
    courier.send(BINARY, PEER, MINE, as_text=never)
    assert [words[:4] for words in sent] == [b"rset", b"MAIL"]
    assert len(taken) == 2


def test_who_takes_lines_only_gets_base64(
    receiver: Receiver, courier: Courier, taken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not offer both extensions gets what `as_text` makes of the mail, by DATA."""
    has = smtplib.SMTP.has_extn
    monkeypatch.setattr(smtplib.SMTP, "has_extn", lambda smtp, name: name != "binarymime" and has(smtp, name))
    courier.send(BINARY, PEER, MINE, as_text=lambda _raw: b"Subject: x\r\n\r\n.text\r\n")
    assert taken == [b"Subject: x\r\n\r\n.text\r\n"]


def test_a_mail_in_base64_says_the_same(wire, recording) -> None:
    """Every part has the content that it had, and no byte is outside of ASCII."""
    wire.desk().create_mailbox("2001", {"name": "Content-Transfer-Encoding: binary"})
    wire.desk().leave("2001", recording(), name="Content-Transfer-Encoding: binary")
    raw = b"".join(parcel.raw for parcel in wire.a.outbox.parcels())
    text = in_base64(raw)
    assert not raw.isascii()
    assert text.isascii()
    assert [part.content() for part in leaves(text)] == [part.content() for part in leaves(raw)]
    assert wire.a.door is not None
    assert wire.b.door.read(text) == wire.b.door.read(raw)


def test_chunks_are_one_mail(line: smtplib.SMTP, taken: list[bytes]) -> None:
    """Each chunk is answered; the last one, which may be empty, ends the mail."""
    begin(line)
    for chunk in (b"one\n.\n", b"", b"\r\n"):
        line.send(f"BDAT {len(chunk)}\r\n".encode() + chunk)
        assert line.getreply()[0] == 250
    line.send(b"BDAT 0 LAST\r\n")
    assert line.getreply() == (250, b"2.0.0 taken")
    assert taken == [b"one\n.\n\r\n"]


def test_a_chunk_without_a_recipient_is_read_and_refused(line: smtplib.SMTP, taken: list[bytes]) -> None:
    """What is in it is never taken for commands, and the conversation goes on behind it."""
    words = b"MAIL FROM:<x@y>\r\nQUIT\r\n\r\n"
    line.send(f"BDAT {len(words)} LAST\r\n".encode() + words)
    assert line.getreply()[0] == 503
    begin(line)
    line.send(b"BDAT 1 LAST\r\nx")
    assert line.getreply()[0] == 250
    assert taken == [b"x"]


def test_a_mail_that_grows_too_large_is_refused(line: smtplib.SMTP, taken: list[bytes]) -> None:
    """The limit is that of all chunks together; nothing of them is kept."""
    begin(line)
    for size, code in ((MAX, 250), (1, 552), (1, 503)):
        line.send(f"BDAT {size}\r\n".encode() + bytes(size))
        assert line.getreply()[0] == code
    begin(line)
    line.send(b"BDAT 1 LAST\r\nx")
    assert line.getreply()[0] == 250
    assert taken == [b"x"]


@pytest.mark.parametrize(
    "words", ["", "x", "-1", "1 2", "1 LAST 2", "9999999999", "99999999999999999999", "0x10", "\u0661"]
)
def test_a_chunk_whose_end_nobody_knows_ends_the_conversation(
    line: smtplib.SMTP, taken: list[bytes], words: str
) -> None:
    """Its bytes would be taken for commands."""
    begin(line)
    line.send(f"BDAT {words}\r\nQUIT\r\n".encode())
    assert line.getreply()[0] in {500, 501}
    if words.isascii():
        with pytest.raises(smtplib.SMTPServerDisconnected):
            line.getreply()
    assert taken == []


def test_what_was_begun_by_chunks_does_not_end_by_data(line: smtplib.SMTP, taken: list[bytes]) -> None:
    """Nor a binary mail: DATA knows lines only."""
    begin(line)
    assert line.docmd("DATA")[0] == 503
    line.docmd("RSET")
    assert line.docmd(f"MAIL FROM:<{PEER}>")[0] == 250
    assert line.docmd(f"RCPT TO:<{MINE}>")[0] == 250
    line.send(b"BDAT 1\r\nx")
    assert line.getreply()[0] == 250
    assert line.docmd("DATA")[0] == 503
    assert taken == []


def test_a_reset_forgets_the_chunks(line: smtplib.SMTP, taken: list[bytes]) -> None:
    """What comes after RSET is another mail."""
    begin(line)
    line.send(b"BDAT 3\r\nold")
    assert line.getreply()[0] == 250
    line.docmd("RSET")
    begin(line)
    line.send(b"BDAT 3 LAST\r\nnew")
    assert line.getreply()[0] == 250
    assert taken == [b"new"]


def test_a_line_that_breaks_in_a_chunk_leaves_nothing(receiver: Receiver, taken: list[bytes]) -> None:
    """Half a mail is none, and the next caller is served."""
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", receiver.port)) as sock:
            words = f"EHLO x\r\nMAIL FROM:<{PEER}> BODY=BINARYMIME\r\nRCPT TO:<{MINE}>\r\nBDAT 100 LAST\r\nhalf"
            sock.sendall(words.encode())
    with Courier(("127.0.0.1", receiver.port), helo="x.invalid", timeout=10, mail_max=MAX, tls=None) as courier:
        courier.send(b"whole", PEER, MINE, as_text=never)
    assert taken == [b"whole"]


def test_commands_may_be_sent_ahead(receiver: Receiver, taken: list[bytes]) -> None:
    """All in one write, two mails behind each other: each command is answered in its turn."""
    mail = f"MAIL FROM:<{PEER}> BODY=BINARYMIME\r\nRCPT TO:<{MINE}>\r\nBDAT 3 LAST\r\n\r\n.".encode()
    with socket.create_connection(("127.0.0.1", receiver.port)) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"EHLO x\r\n" + mail + mail + b"QUIT\r\n")
        codes = [reply[:3] for reply in replies if reply[3:4] == b" "]
    assert codes == [b"220", b"250", *([b"250"] * 6), b"221"]
    assert taken == [b"\r\n."] * 2


def test_faults_of_a_binary_mail_are_told_apart(courier: Courier, taken: list[bytes]) -> None:
    """A stranger's mail is refused for good, one that is too large may come smaller, whatever was sent ahead."""
    with pytest.raises(MailRefused):
        courier.send(b"x", "stranger@x.invalid", MINE, as_text=never)
    with pytest.raises(MailTooLarge):
        courier.send(bytes(MAX + 1), PEER, MINE, as_text=never)
    with pytest.raises(MailRefused):
        courier.send(b"x", f"{PEER}>\r\nRSET\r\n<", MINE, as_text=never)
    courier.send(b"x", PEER, MINE, as_text=never)
    assert taken == [b"x"]


@pytest.mark.parametrize("farewell", ["QUIT", "BDAT x"])
def test_nothing_is_taken_behind_a_farewell(receiver: Receiver, taken: list[bytes], farewell: str) -> None:
    """Whether the client said it or the server: what was sent ahead, behind it, is no mail, as nobody would hear of it."""
    envelope = f"MAIL FROM:<{PEER}> BODY=BINARYMIME\r\nRCPT TO:<{MINE}>\r\n"
    mails = f"BDAT 3 LAST\r\nabc{envelope}BDAT 3 LAST\r\nabc"
    with socket.create_connection(("127.0.0.1", receiver.port)) as sock, sock.makefile("rb") as replies:
        sock.sendall(f"EHLO x\r\n{envelope}{farewell}\r\n{mails}{envelope}DATA\r\nabc\r\n.\r\n".encode())
        with contextlib.suppress(ConnectionError):
            assert replies.read().count(b"\r\n") == 11
    with Courier(("127.0.0.1", receiver.port), helo="x.invalid", timeout=10, mail_max=MAX, tls=None) as courier:
        courier.send(b"whole", PEER, MINE, as_text=never)
    assert taken == [b"whole"]
