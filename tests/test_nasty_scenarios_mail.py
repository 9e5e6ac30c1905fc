"""Nasty scenarios of mail: lost answers and late bounces, a week of mail in the wrong order, relays with small limits."""

import contextlib
import random

import pytest
from aiosmtpd.controller import Controller
from wire import Wire, tone

from vmctl.errors import MailError, MailRefused, MailTooLarge, PeerUnreachable
from vmctl.mail_parts import in_base64
from vmctl.parked import listing
from vmctl.receiver import Receiver
from vmctl.sender import Courier

MEGABYTE = 1_000_000


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


# Scenario 1: the answer 250 is lost after DATA; the same mail comes twice, and one copy bounces days later


class Deaf:
    """A server that takes a mail whole and hangs up without an answer, as often as `times`; then it answers."""

    def __init__(self, take, times):
        self._take = take
        self._times = times

    async def handle_DATA(self, server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        """The end of a mail."""
        self._take(envelope.original_content)
        if self._times > 0:
            self._times -= 1
            server.transport.abort()
        return "250 taken"


@contextlib.contextmanager
def sink(handler, **words):
    """A real SMTP server that is not ours, on a free port."""
    from running import free_ports

    controller = Controller(handler, hostname="127.0.0.1", port=free_ports(1)[0], **words)
    controller.start()
    try:
        yield Courier(
            ("127.0.0.1", controller.port), helo="primary.example", timeout=5, mail_max=16 * MEGABYTE, tls=None
        )
    finally:
        controller.stop()


def carry(wire, courier, name="primary", **how):
    """Send what is due as a daemon does, and settle each mail by what became of it; the errors that there were."""
    outbox, servers = wire.servers[name].outbox, wire.config.servers
    errors = []
    for parcel in outbox.parcels(**how):
        again = True
        try:
            sender, recipient = servers[name].mail, servers[wire.other(name)].mail
            courier.send(parcel.raw, sender, recipient, as_text=in_base64)
            outbox.left(parcel)
        except PeerUnreachable as error:
            errors.append(error)
            break
        except MailTooLarge as error:
            errors.append(error)
            again = outbox.too_large(parcel, error.limit, error.why)
        except MailRefused as error:
            errors.append(error)
            again = outbox.refused(parcel, error.why)
        if not again:
            break
    return errors


def bounce(wire, raw, to="primary"):
    """A report of a mail server that a mail could not be delivered, with the mail in it (RFC 3464)."""
    lines = (
        "From: MAILER-DAEMON@relay.example", f"To: {wire.config.servers[to].mail}",
        "Subject: Undelivered Mail Returned to Sender", "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="=_report"', "",
        "--=_report", "Content-Type: text/plain", "", "I gave up after five days.",
        "--=_report", "Content-Type: message/delivery-status", "", "Action: failed", "Status: 4.4.7", "",
        "--=_report", "Content-Type: message/rfc822", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + raw + b"\r\n--=_report--\r\n"


def test_scenario_1_a_lost_250_and_a_bounce_days_later(wire, box, recording):
    """The mail that was taken without our hearing so is sent again; the doubled record is one; the bounce is no ack."""
    ident = wire.desk().leave(box, recording())
    came = []
    with sink(Deaf(came.append, times=2)) as courier, courier:
        for _ in range(3):
            carry(wire, courier)
    assert 3 == len(came)
    for raw in came:
        wire.b.receive(raw)
    wire.b.take()
    assert [ident] == wire.messages(box, "secondary")
    wire.send("secondary")
    wire.lose()
    wire.clock.advance(5 * 86_400)
    pending = wire.a.index.pending_count()
    wire.a.receive(bounce(wire, came[0]), "")
    assert [] == wire.a.take().taken
    wire.a.take()
    assert (1, pending, []) == (pending, wire.a.index.pending_count(), wire.a.spool.waiting())
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


def test_scenario_1_a_bounce_is_taken_and_the_line_stays_open(wire, box):
    """Our receiver takes a report from the null sender, and nothing else from it, and takes the peer's next mail."""
    import smtplib

    (raw,) = map(in_base64, wire.send("secondary", always=True))
    mine, peer = wire.config.servers["primary"].mail, wire.config.servers["secondary"].mail
    with (
        Receiver(
            ("127.0.0.1", 0), hostname="p", mail_max=MEGABYTE, mine=mine, peer=peer, take=wire.a.receive, tls=None
        ) as receiver,
        smtplib.SMTP("127.0.0.1", receiver.port, local_hostname="relay.example", timeout=5) as smtp,
    ):
        smtp.ehlo()
        assert 250 == smtp.mail("<>")[0]
        assert 250 == smtp.rcpt(mine)[0]
        assert 250 == smtp.data(bounce(wire, raw))[0]
        assert 250 == smtp.mail("<>")[0]
        assert 250 == smtp.rcpt(mine)[0]
        assert 550 == smtp.data(raw)[0]
        assert 250 == smtp.mail(peer)[0]
        assert 250 == smtp.rcpt(mine)[0]
        assert 250 == smtp.data(raw)[0]
    assert 2 == len(wire.a.spool.waiting())


# Scenario 2: held for days, then a week of mail comes, the newest first


def test_scenario_2_a_week_of_mail_comes_newest_first(wire, box, recording):
    """Mails of a week, doubled and from the newest to the oldest, end in the newest state on both, and none comes back."""
    desk, held, idents = wire.desk(), [], []
    for day in range(7):
        idents.append(desk.leave(box, recording()))
        desk.set_mailbox(box, {"name": f"day {day}"})
        if day > 1:
            desk.delete_message(box, idents[day - 2])
        desk.mark(box, idents[day], "old")
        wire.clock.advance(86_400)
        held += wire.send("primary", always=True, anew=True)
    wire.lose()
    wire.under_way = [("secondary", raw) for raw in reversed(held) for _ in range(2)]
    wire.deliver()
    assert sorted(idents[-2:]) == sorted(wire.messages(box, "secondary"))
    assert "day 6" == wire.b.store.document("mailbox/2001")["name"]
    wire.in_step()
    assert sorted(idents[-2:]) == sorted(wire.messages(box))


def test_scenario_2_old_mail_makes_no_peer_heard(wire, box):
    """Mail that was held for days says nothing of the present: the peer is not heard, its facts stay the newest."""
    old = [wire.send("primary", always=True)[0] for _ in range(5)]
    wire.lose()
    wire.clock.advance(5 * 86_400)
    wire.exchange()
    wire.clock.advance(wire.config.failover.after + 1)
    before = wire.b.contact.facts()
    wire.under_way = [("secondary", raw) for raw in reversed(old)]
    wire.deliver()
    assert (before, False) == (wire.b.contact.facts(), wire.b.contact.heard)


def test_mails_cut_off_half_way_are_refused_and_come_again(wire, box, recording):
    """A mail that a relay cut off anywhere is refused for good, never taken in part; what it brought is sent again."""
    ident = wire.desk().leave(box, recording())
    (raw,) = wire.send("primary")
    wire.lose()
    chance = random.Random(5)
    for _ in range(60):
        with pytest.raises(MailError):
            wire.b.receive(raw[: chance.randrange(len(raw) - 100)])
    assert ([], []) == (wire.b.spool.waiting(), wire.messages(box, "secondary"))
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


# Scenario 13: a long recording through a relay with a small limit; one piece always rejected


class Relay:
    """Takes mails of at most `limit` bytes, 552 after the end of what is larger; hands them on."""

    def __init__(self, take, limit):
        self._take = take
        self._limit = limit
        self.largest = 0

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        """The end of a mail."""
        raw = envelope.original_content
        if len(raw) > self._limit:
            return "552 5.3.4 Message size exceeds fixed limit"
        self.largest = max(self.largest, len(raw))
        self._take(raw)
        return "250 taken"


@pytest.mark.parametrize(
    ("size", "limit", "says", "refused"),
    [(40, 10, True, False), (8, 2, True, True), (8, 2, False, True)],
    ids=["40 by 10, SIZE", "8 by 2, SIZE", "8 by 2, 552"],
)
def test_scenario_13_a_long_recording_through_a_small_limit(tmp_path, no_fsync, size, limit, says, refused):
    """A recording of 40 MB arrives byte for byte through a server that takes 10 MB, or 2, whether it says so before or after."""
    wire = Wire(tmp_path / "net")
    try:
        wire.desk().create_mailbox("2001", {})
        source = tone(tmp_path / "long.wav", frames=1000)
        source = _stretched(source, size * MEGABYTE)
        place = wire.root() / "mailboxes/2001/greetings/busy.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(source.read_bytes())
        wire.scan()
        relay = Relay(wire.b.receive, limit * MEGABYTE)
        words = {"data_size_limit": limit * MEGABYTE if says else None}
        with sink(relay, **words) as courier, courier:
            errors = carry(wire, courier)
        assert ({MailTooLarge} if refused else set()) == {type(error) for error in errors}
        assert relay.largest <= limit * MEGABYTE
        wire.b.take()
        assert source.read_bytes() == (wire.root("secondary") / "mailboxes/2001/greetings/busy.wav").read_bytes()
        wire.in_step()
    finally:
        wire.close()


def _stretched(path, size):
    """The same recording, long: its frames over and over, which differ from one repetition to the next."""
    import wave

    chance = random.Random(3)
    with wave.open(str(path), "rb") as file:
        parameters = file.getparams()
    with wave.open(str(path), "wb") as file:
        file.setparams(parameters)
        for _ in range(size // MEGABYTE):
            file.writeframes(chance.randbytes(MEGABYTE))
    return path


def test_scenario_13_one_piece_is_always_rejected_as_spam(tmp_path, no_fsync, recording):
    """The piece is parked with the relay's words, every other piece and every other record arrives, over real SMTP."""
    wire = Wire(tmp_path / "net", {"mail.max": "200kB", "limits.document": "4kB"})

    class Filter(Relay):
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            if b".from-0" not in envelope.original_content:
                return await super().handle_DATA(server, session, envelope)
            return "554 5.7.1 Message rejected as spam"

    try:
        desk = wire.desk()
        desk.create_mailbox("2001", {})
        source = recording(frames=300_000)
        long = desk.leave("2001", source)
        short = desk.leave("2001", recording())
        with sink(Filter(wire.b.receive, MEGABYTE)) as courier, courier:
            for _ in range(8):
                carry(wire, courier, always=True)
                wire.b.take()
                wire.send("secondary", always=True)
                wire.deliver()
                wire.clock.advance(3)
        (one,) = listing(wire.a.index, wire.a.spool)
        assert (f"message/2001/{long}", 0) == (one["record"], one["bytes"][0])
        assert "spam" in one["reply"]
        assert [short] == wire.messages("2001", "secondary")
        (sha256,) = wire.b.index.parts.recordings()
        assert [(one["bytes"][1], source.stat().st_size)] == wire.b.index.parts.of(sha256)
        wire.a.lot.retry(one["id"])
        wire.in_step()
        there = wire.root("secondary") / f"mailboxes/2001/messages/{long}.wav"
        assert source.read_bytes() == there.read_bytes()
    finally:
        wire.close()


def test_scenario_13_every_piece_is_rejected(tmp_path, no_fsync, recording):
    """Each piece is parked, none is offered without end, and what is not part of it arrives."""
    wire = Wire(tmp_path / "net", {"mail.max": "200kB", "limits.document": "4kB"})

    class Filter(Relay):
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            if b".from-" not in envelope.original_content:
                return await super().handle_DATA(server, session, envelope)
            return "554 5.7.1 Message rejected as spam"

    try:
        wire.desk().create_mailbox("2001", {})
        wire.desk().leave("2001", recording(frames=300_000))
        short = wire.desk().leave("2001", recording())
        with sink(Filter(wire.b.receive, MEGABYTE)) as courier, courier:
            for _ in range(12):
                carry(wire, courier, always=True)
                wire.b.take()
                wire.send("secondary", always=True)
                wire.deliver()
                wire.clock.advance(3)
        parked = [one["bytes"] for one in listing(wire.a.index, wire.a.spool) if one["bytes"]]
        assert len(parked) > 1
        assert len(parked) == len({tuple(piece) for piece in parked})
        assert [short] == wire.messages("2001", "secondary")
    finally:
        wire.close()


def test_scenario_13_what_a_gateway_altered_is_refused(wire, box, recording):
    """Altered text, JSON or audio is caught by the signature or a digest; folded headers and added parts are not."""
    wire.desk().leave(box, recording())
    (raw,) = wire.send("primary")
    wire.lose()
    head, _, rest = raw.partition(b"\r\n\r\n")
    start = rest.index(b"changes.json")
    chance = random.Random(9)
    for _ in range(40):
        at = start + chance.randrange(len(rest) - start - 200)
        while not rest[at : at + 1].isalnum():
            at += 1
        other = b"A" if rest[at : at + 1] != b"A" else b"B"
        altered = head + b"\r\n\r\n" + rest[:at] + other + rest[at + 1 :]
        try:
            wire.b.receive(altered)
        except MailError:
            continue
        assert wire.b.door.read(altered).records == wire.b.door.read(raw).records
    wire.b.take()
    assert [] == wire.apart() or wire.a.index.pending_count()
    wire.in_step()
