"""Attacks by mail, each under its name: forged, altered, played again, sent on, cut, blown up, and what a relay may read."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
import tracemalloc
from email import message_from_bytes, policy

import pytest
from pair import Roles
from running import Commands

from vmctl import keys, reports, strays
from vmctl.clock import Clock, rfc3339
from vmctl.errors import (
    BadValue,
    MailError,
    MailForged,
    MailGarbage,
    MailMisdirected,
    MailReport,
    SpoolFull,
    StoreUnusable,
)
from vmctl.mail import Audio, SyncMail, compose, describe
from vmctl.mail_parts import header, leaves
from vmctl.mail_sealed import unwrap, wrap
from vmctl.status import gather

DAY = 86_400.0


@pytest.fixture
def pair(tmp_path, no_fsync):
    """Two servers in normal operation, with mailbox 2001."""
    made = Roles(tmp_path / "net")
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.turns(6)
    made.in_step()
    yield made
    made.close()


def state(pair, name="secondary"):
    """What a mail could change at a server: its files, its memory, its roles."""
    replica = pair.servers[name]
    files = {
        str(path): path.read_bytes() for path in sorted(replica.store.root.rglob("*"))
        if path.is_file() and ".vmctl" not in path.parts
    }  # fmt: skip
    return files, replica.index.digest, replica.index.note("heard"), pair.serving(name), pair.roles[name].views()


def counted(pair, name="secondary"):
    """How many mails of each kind a server has turned away."""
    pair.servers[name].strays.flush()
    return {kind: each["count"] for kind, each in strays.read(pair.root(name) / ".vmctl").items()}


def turned_away(pair, raw, name="secondary"):
    """Give a server a mail that it must refuse, as its receiver does; the error."""
    replica = pair.servers[name]
    with pytest.raises(MailError) as caught:
        replica.receive(raw)
    replica.strays.note(caught.value, "192.0.2.1")
    assert [] == replica.spool.waiting()
    return caught.value


def sealed_for(pair, raw, name="secondary"):
    """A mail as it leaves through a relay."""
    to = pair.config.servers[name].seal_key
    return wrap(
        raw, sender_address="a@primary.example", recipient_address="b@secondary.example", message_id="<1@primary.example>",
        sent=pair.clock.wall(), seal=lambda content: keys.seal(content, to),
    )  # fmt: skip


# Who wrote it


def test_a_forged_mail(pair, recording, tmp_path):
    """The peer's mail under somebody else's signature changes nothing, is not heard, is counted, and is named in the status."""
    pair.desk().leave("2001", recording())
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    keys.generate(tmp_path / "eve.pem", "primary")
    eve = keys.load_private(tmp_path / "eve.pem")
    changes = next(part.content() for part in leaves(raw) if part.head.filename == "changes.json")
    before = state(pair)
    proof = json.dumps({
        "algorithm": "Ed25519", "key": pair.config.servers["primary"].public_key,
        "signature": base64.b64encode(eve.sign(b"vmctl sync mail 1\n" + changes)).decode(),
    })  # fmt: skip
    for forged in (replaced(raw, "signature.json", proof.encode()), replaced(raw, "signature.json", b"{}")):
        assert isinstance(turned_away(pair, forged), MailForged)
    pair.b.take()
    assert before == state(pair)
    assert {"forged": 2} == counted(pair)
    status = gather(pair.config, pair.clock)["servers"]["secondary"]["strays"]["forged"]
    assert (2, "192.0.2.1") == (status["count"], status["from"])
    shown = Commands(pair.directory)("status").stdout
    assert "turned away: 2 mails that the other server did not sign, or that were altered" in shown


def replaced(raw, name, content):
    """A mail with other bytes in one of its parts."""
    message = message_from_bytes(raw)
    part = next(part for part in message.walk() if part.get_filename() == name)
    part.set_payload(base64.encodebytes(content).decode())
    return message.as_bytes(policy=policy.SMTP)


def test_an_altered_mail(pair, recording):
    """A bit of the JSON, of the recording or of the signature, anywhere: the mail is refused, or reads as it was."""
    pair.desk().leave("2001", recording())
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    good, chance = pair.b.door.read(raw), random.Random(5)
    start = raw.index(b"changes.json")
    for _ in range(200):
        at = chance.randrange(start, len(raw))
        altered = raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :]
        try:
            read = pair.b.door.read(altered)
        except MailError:
            continue
        assert read == good


def test_a_truncated_mail(pair, recording):
    """Cut anywhere, it is no mail: not half of it is taken."""
    pair.desk().leave("2001", recording())
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    for end in range(0, len(raw) - 4, len(raw) // 97):
        with pytest.raises((MailGarbage, MailForged)):
            pair.b.door.read(raw[:end])


def test_a_valid_signature_by_the_wrong_server(pair, recording):
    """This server's own mail sent back to it, and the peer's sent to somebody else, are refused and counted."""
    pair.desk().leave("2001", recording())
    mine = pair.send("secondary", always=True)[0]
    theirs = pair.send("primary", always=True)[0]
    pair.lose()
    before = state(pair), state(pair, "primary")
    assert isinstance(turned_away(pair, mine), MailForged)
    assert isinstance(turned_away(pair, theirs, "primary"), MailForged)
    assert before == (state(pair), state(pair, "primary"))
    assert {"forged": 1} == counted(pair)


@pytest.mark.parametrize("change", [{"network": "other"}, {"recipient": "primary"}, {"sender": "secondary"}])
def test_a_readdressed_mail(pair, change):
    """Signed by the peer, but for another network, recipient or sender: nobody can send it on to here."""
    writer = pair.a.outbox._writer
    config = pair.config

    class Elsewhere:
        """A config of which one name is another."""

        def __getattr__(self, name):
            return change.get(name, getattr(config, name))

    writer._config = Elsewhere()
    writer._me = writer._me._replace(name=change.get("sender", "primary"))
    writer._peer = writer._peer._replace(name=change.get("recipient", "secondary"))
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    before = state(pair)
    assert isinstance(turned_away(pair, raw), MailMisdirected)
    assert before == state(pair)
    assert {"misdirected": 1} == counted(pair)


# When it was written


def test_a_replay_of_yesterday_s_failover(pair):
    """Every mail of yesterday's order, signed as it was, comes again today: no role moves, and a person can see it."""
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    record = []
    for _ in range(20):
        for name in pair.roles:
            pair.tick_roles(name)
            record += [(pair.other(name), raw) for raw in pair.send(name, always=True)]
        pair.deliver()
        pair.clock.advance(2.5)
    assert ["secondary"] == pair.serve()
    pair.roles["primary"].order("voicemail", "failback", "ada")
    pair.turns(40)
    assert ["primary"] == pair.serve()
    pair.clock.advance(DAY)
    for _ in range(60):  # nobody spoke for a day: each took the other for dead
        pair.turn()
        pair.clock.advance(10.0)
    assert ["primary"] == pair.serve()
    before = state(pair), state(pair, "primary")
    for order in (record, record[::-1]):
        for to, raw in order:
            pair.servers[to].receive(raw)
        for name in pair.servers:
            pair.servers[name].take()
            pair.tick_roles(name)
        assert before == (state(pair), state(pair, "primary"))
    pair.turns(4)
    assert ["primary"] == pair.serve()
    assert 2 * len(record) == sum(counted(pair, name)["repeated"] for name in pair.servers)
    why = gather(pair.config, pair.clock)["servers"]["primary"]["strays"]["repeated"]["why"]
    assert rfc3339(pair.clock.wall() - int(2 * DAY) * 1_000_000)[:4] in why


def test_reordered_mails(pair, recording):
    """Whatever the order in which they come, all of them once, both servers hold the same in the end."""
    for turn in range(6):
        ident = pair.desk().leave("2001", recording())
        if turn % 2:
            pair.desk().mark("2001", ident, "saved")
        pair.send("primary", anew=True)
    random.Random(3).shuffle(pair.under_way)
    pair.deliver()
    pair.settle()


# What it may do to a reader


@pytest.mark.parametrize("depth", [5, 50, 3000])
def test_nested_mime(pair, depth):
    """Parts in parts without end are refused at a fixed depth, in no time."""
    body = b"Content-Type: text/plain\r\n\r\nx"
    for number in range(depth):
        mark = f"b{number}".encode()
        body = (
            b"Content-Type: multipart/mixed; boundary=" + mark + b"\r\n\r\n--" + mark + b"\r\n" + body
            + b"\r\n--" + mark + b"--\r\n"
        )  # fmt: skip
    assert isinstance(turned_away(pair, body), MailGarbage)


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 400_000 + b"--b--\r\n",
        b"X: " + b"y" * 5_000_000 + b"\r\n\r\n",
        b"X: y\r\n" * 500_000 + b"\r\n",
        b"Content-Type: multipart/mixed; " + b"a*0=b; " * 100_000 + b"boundary=b\r\n\r\n--b\r\n\r\n--b--\r\n",
        b"Content-Type: multipart/report" + b";x" * 500_000 + b"\r\n\r\n",
        b"\n" * 3_000_000,
        b"--" * 3_000_000,
        b"",
    ],
    ids=["parts", "line", "headers", "parameters", "report", "newlines", "dashes", "nothing"],
)
def test_oversized_mime(pair, raw):
    """Millions of parts, headers, parameters or line ends are refused with an amount of work that their length explains."""
    began = time.process_time()
    turned_away(pair, raw)
    assert time.process_time() - began < 20.0  # quadratic work would take hours


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"v":1,"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b'{"v":1,"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"v":' + b"9" * 1_000_000 + b"}",
        b'{"v":1,"x":1e999999}',
        b'{"v":1,"v":1}',
        b'{"v":NaN}',
        b'{"v":1,"x":"\\ud800"}',
        b"\xff\xfe{",
    ],
    ids=["lists", "objects", "digits", "infinity", "doubled", "nan", "surrogate", "encoding"],
)
def test_json_bombs(pair, bomb):
    """JSON that is too deep, too great or ambiguous is refused, even under the peer's own signature."""
    key = keys.load_private(pair.config.servers["primary"].key)
    raw = pair.send("primary", always=True)[0]
    pair.lose()
    signature = base64.b64encode(key.sign(b"vmctl sync mail 1\n" + bomb)).decode()
    raw = replaced(replaced(raw, "changes.json", bomb), "signature.json", json.dumps({"signature": signature}).encode())
    assert isinstance(turned_away(pair, raw), MailError)


def test_a_mail_of_more_than_all_memory(pair):
    """What is longer than any sync mail is not even looked into, and takes no more memory than its own."""
    raw = b"x" * (pair.b.door.largest + 1)
    tracemalloc.start()
    try:
        assert "it is longer than" in turned_away(pair, raw).why
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: x@y", "a\nX: y", "a\x00b", "a\u2028b", "a" * 5000, "\r\n.\r\nMAIL FROM:<x@y>"]
)
def test_command_injection_through_headers(pair, text):
    """Whatever a record is called and a recording's file: no header line more, and nothing of it ends the mail."""
    sound = b"RIFF" + text.encode()
    digest = hashlib.sha256(sound).hexdigest()
    told = {"name": {"is": text, "at": [1, "p", 1]}, text: {"is": text, "at": [1, "p", 1]}}
    record = {"key": f"mailbox/{text}", "fields": told, "kept": {"p": 1}, "deleted": {}}
    mail = SyncMail(
        packet="p-1", network=text, sender="primary", recipient="secondary", sent=0, incarnation="p", challenge="c", config="d",
        records=[record], audio=[Audio(sha256=digest, size=len(sound), offset=0, data=sound, format="wav", filename=text)],
    )  # fmt: skip
    key = keys.load_private(pair.config.servers["primary"].key)
    subject, summary = describe(mail)
    raw = compose(
        mail, sender_address="a@b.example", recipient_address="b@a.example", message_id="<1@b.example>",
        sign=lambda data: key.signatures(data, former=False), subject=subject, summary=summary,
    )  # fmt: skip
    delimiter = raw.partition(b'boundary="')[2].partition(b'"')[0]
    heads = [part.partition(b"\r\n\r\n")[0] for part in raw.split(b"\r\n--" + delimiter)]
    assert len(heads) == 6  # of the mail, of its four parts, and what ends it
    for lines in heads[:-1]:
        names = {
            line.partition(b":")[0] for line in lines.splitlines() if line.strip() and line[:1] not in {b" ", b"\t"}
        }
        assert names <= {
            b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Auto-Submitted", b"Message-Context", b"X-Vmctl-Packet",
            b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding", b"Content-Disposition", b"Content-ID",
        }  # fmt: skip
    assert b"\n.\r\n" not in raw
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")


def test_a_header_holds_one_line():
    """Nothing can be put into a header that would begin another."""
    for value in ("a\r\nBcc: x", "a\nb", "a\x00", "ä", "x" * 1000):
        with pytest.raises(BadValue, match="the mail header Subject cannot be"):
            header("Subject", value)


# Sealed mail


def in_base64(secret):
    """What base64 makes of bytes that stand among others, by where they begin: the characters that are theirs alone."""
    return [base64.b64encode(bytes(pad) + secret)[-(-pad * 8 // 6) : (pad + len(secret)) * 8 // 6] for pad in range(3)]


def test_what_a_relay_sees(pair, recording):
    """Of a sealed mail nothing is left but addresses, times and its length: no word of it, in whatever encoding."""
    pair.desk().set_mailbox("2001", {"name": "Ada Byron"})
    ident = pair.desk().leave("2001", recording(), caller="+442079460123", name="Grace Hopper")
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    captured = sealed_for(pair, raw)
    sealed = unwrap(captured)
    audio = next(part.content() for part in leaves(raw) if part.head.content_type == "audio/wav")
    secrets = [
        b"2001", b"Ada", b"Byron", b"Grace", b"Hopper", b"442079460123", ident.encode(), b"RIFF", b"WAVE", b"changes", b"records",
        b"voicemail", b"message", b"signature", b"ed25519", b"packet", b"mailbox", audio[44:60],
        pair.config.network.encode() + b'"', pair.a.index.meta("incarnation").encode(),
    ]  # fmt: skip
    constant = (b"vmctl: a sealed sync mail", b"from one voicemail server to the other")  # in every one of them
    wire_text = captured.replace(b"\r\n", b"")
    for words in constant:
        assert words in wire_text
        wire_text = wire_text.replace(words, b"")
    for secret in secrets:
        assert secret not in sealed  # the bytes that base64 stands for
        for coded in (secret, secret.hex().encode(), *in_base64(secret)):
            if len(coded) > 4:  # shorter ones are somewhere in so much base64, by chance
                assert coded not in wire_text
    for secret in (ident.encode(), b"442079460123", audio[44:60]):  # long enough for every form that they could have
        assert all(len(coded) > 8 for coded in in_base64(secret))
    names = [line.partition(b":")[0] for line in captured.partition(b"\r\n\r\n")[0].split(b"\r\n") if line[:1] != b" "]
    assert names == [
        b"From",
        b"To",
        b"Subject",
        b"Date",
        b"Message-ID",
        b"Auto-Submitted",
        b"MIME-Version",
        b"Content-Type",
    ]
    pair.b.receive(captured)
    pair.b.take()
    assert [ident] == pair.messages("2001", "secondary")


def test_two_mails_of_the_same_look_different(pair):
    """The same mail sealed twice has no byte of its content in common: nobody can tell that it is sent again."""
    (raw,) = pair.send("primary", always=True)
    one, other = (unwrap(sealed_for(pair, raw)) for _ in range(2))
    assert len(one) == len(other)
    assert one[:32] != other[:32]
    assert sum(a == b for a, b in zip(one, other, strict=True)) < len(one) / 16


def test_sealed_for_somebody_else(pair):
    """A mail that is sealed for another key, or whose seal was broken, is refused as forged."""
    (raw,) = pair.send("primary", always=True)
    pair.lose()
    captured = sealed_for(pair, raw)
    assert isinstance(turned_away(pair, captured, "primary"), MailForged)
    sealed = bytearray(unwrap(captured))
    sealed[len(sealed) // 2] ^= 1
    assert isinstance(turned_away(pair, replaced(captured, "sealed.bin", bytes(sealed))), MailForged)
    assert isinstance(turned_away(pair, replaced(captured, "sealed.bin", b"")), MailForged)


def test_sealing_proves_nothing(pair, tmp_path, no_fsync):
    """Anybody can seal, as the key for that is public: what is inside counts only with the peer's signature."""
    (raw,) = pair.send("secondary", always=True)
    pair.lose()
    before = state(pair)
    assert isinstance(turned_away(pair, sealed_for(pair, raw)), MailForged)
    assert isinstance(turned_away(pair, sealed_for(pair, b"")), MailForged | MailGarbage)
    twice = sealed_for(pair, sealed_for(pair, pair.send("primary", always=True)[0]))
    pair.lose()
    turned_away(pair, twice)
    assert before == state(pair)


# Reports


def report(about, action="failed", status="5.7.1"):
    """A report of a mail server (RFC 3464) on a mail, with that mail in it."""
    lines = (
        "From: MAILER-DAEMON@relay.example", "To: <a@primary.example>", "Subject: Undelivered Mail", "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="=_r"', "",
        "--=_r", "Content-Type: text/plain", "", "Sorry.",
        "--=_r", "Content-Type: message/delivery-status", "", "Reporting-MTA: dns; relay.example", "",
        "Final-Recipient: rfc822; b@secondary.example", f"Action: {action}", f"Status: {status}",
        "Diagnostic-Code: smtp; 550 5.7.1 no", "",
        "--=_r", "Content-Type: message/rfc822", "", f"Message-ID: {about}", "", "text", "--=_r--", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


@pytest.fixture
def relayed(tmp_path, no_fsync):
    """Two servers whose mails go through relays."""
    made = Roles(tmp_path / "relayed", {"relay.address": "127.0.0.1:25"})
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.turns(6)
    made.in_step()
    yield made
    made.close()


def test_a_report_on_a_mail_that_left_is_shown_and_acknowledges_nothing(relayed, recording):
    """It marks the mail that it names in the status; the record stays pending, and is gone from there once both are in step."""
    ident = relayed.desk().leave("2001", recording())
    raw = relayed.send("primary")[0]
    relayed.lose()
    relayed.a.receive(report(message_from_bytes(raw)["Message-ID"]), "")
    relayed.a.take()
    (told,) = gather(relayed.config, relayed.clock)["servers"]["primary"]["bounces"]
    assert ("failed", "550 5.7.1 no") == (told["action"], told["why"])
    assert "1 message for 2001" in told["subject"]
    assert relayed.a.index.get(f"message/2001/{ident}").pending
    assert {} == counted(relayed, "primary")
    relayed.settle()
    with relayed.a.index.transaction():
        relayed.a.index.set_meta("in_step_at", str(relayed.clock.wall()))
    assert [] == gather(relayed.config, relayed.clock)["servers"]["primary"]["bounces"]


def test_a_report_that_a_mail_was_too_large_makes_the_next_ones_smaller(relayed, recording):
    """A relay takes a mail and finds out later that the next one does not take it: for a day none as large is sent."""
    relayed.desk().leave("2001", recording(frames=80_000))
    raw = relayed.send("primary")[0]
    relayed.lose()
    before = relayed.a.outbox._packer.bound
    relayed.a.receive(report(message_from_bytes(raw)["Message-ID"], status="5.3.4"), "")
    relayed.a.take()
    assert relayed.a.outbox._packer.bound < min(before, len(raw))
    relayed.clock.advance(3600)
    relayed.settle()


def test_forged_reports(relayed, recording):
    """One on a mail that never left, from anybody, changes nothing and is counted; what is none is refused."""
    relayed.desk().leave("2001", recording())
    relayed.send("primary")
    relayed.lose()
    before = state(relayed, "primary"), relayed.a.index.pending_count()
    relayed.a.receive(report("<1@primary.example>"), "")
    relayed.a.take()
    for none in (b"Subject: hello\r\n\r\nI am away.\r\n", report("nothing"), b""):
        with pytest.raises(MailReport):
            relayed.a.receive(none, "")
    assert before == (state(relayed, "primary"), relayed.a.index.pending_count())
    assert {"report": 1} == counted(relayed, "primary")
    assert [] == gather(relayed.config, relayed.clock)["servers"]["primary"]["bounces"]


def test_a_flood_of_reports(relayed):
    """More than a hundred that nobody has read yet are put off: they cannot fill the disk."""
    for number in range(100):
        relayed.a.receive(report(f"<{number}@primary.example>"), "")
    with pytest.raises(SpoolFull, match="100 reports"):
        relayed.a.receive(report("<100@primary.example>"), "")
    assert len(relayed.a.spool.waiting()) == 100
    relayed.a.take()
    assert [] == relayed.a.spool.waiting()


def test_a_replay_makes_no_work(pair):
    """A mail that asked for a round and for a reading of the whole store asks for it once, however often it comes."""
    (raw,) = [parcel.raw for parcel in pair.a.outbox.parcels(always=True, request={"round": "n-1", "verify": "n-2"})]
    for count in range(3):
        pair.b.receive(raw)
        (taken,) = pair.b.take().taken
        assert taken.again == bool(count)


def test_counting_loses_and_doubles_nothing(tmp_path, monkeypatch):
    """What could not be written is written later, once; another process' counts are added to, and who counts never waits."""
    here = strays.Strays(tmp_path, Clock())
    with monkeypatch.context() as patch:

        def full(*_args, **_words):
            here.count(MailForged("meanwhile"), "d")  # nobody holds what a counter needs
            raise StoreUnusable("full")

        patch.setattr(strays.durable, "write", full)
        for _ in range(3):
            here.count(MailForged("f"), "a")
            here.flush()
    other = strays.Strays(tmp_path, Clock())
    other.count(MailGarbage("g", why="w"), "b")
    other.count(MailForged("f"), "c")
    other.flush()
    here.flush()
    assert {"forged": 7, "garbage": 1} == {kind: each["count"] for kind, each in strays.read(tmp_path).items()}


def test_no_mail_answers_a_report_or_an_automatic_answer(relayed):
    """Nothing is ever sent for them, so there is no loop; and our own mails say that nobody shall answer (RFC 3834)."""
    (raw,) = relayed.send("primary", always=True)
    relayed.lose()
    assert message_from_bytes(raw)["Auto-Submitted"] == "auto-generated"
    assert message_from_bytes(sealed_for(relayed, raw))["Auto-Submitted"] == "auto-generated"
    relayed.a.receive(report("<1@primary.example>"), "")
    relayed.a.take()
    assert [] == relayed.send("primary")


def test_the_reader_of_reports_reads_what_servers_write():
    """Action, status and reason of the first recipient, whatever the case and order of the fields; delays, too."""
    assert reports.read(report("<a@b>")) == reports.Report("<a@b>", "failed", "5.7.1", "550 5.7.1 no")
    assert reports.read(report("<a@b>", "delayed", "4.4.1").replace(b"\r\n", b"\n")).action == "delayed"
    assert reports.is_report(report("<a@b>"))
    assert not reports.is_report(b"Subject: multipart/report\r\n\r\n")
    assert not reports.is_report(b"Subject: x\r\n\r\nContent-Type: multipart/report\r\n\n")
    assert not reports.read(report("<a@b>", "relayed", "2.0.0")).is_bad


# What silence means behind relays


def test_late_mail_is_no_failover(relayed):
    """Behind mail servers silence moves no role by itself; a person's order does."""
    relayed.clock.advance(relayed.config.failover.after + 1)
    relayed.turns(4, mail=False)
    assert "secondary" != relayed.serving("secondary")
    assert "a person's 'vmctl failover'" in "; ".join(relayed.b.index.note("waiting")["voicemail"])
    relayed.roles["secondary"].order("voicemail", "failover", "ada", now=True)
    relayed.turns(2, mail=False)
    assert "secondary" == relayed.serving("secondary")


@pytest.mark.parametrize(("slowest", "moves"), [(20.0, True), (100.0, False)])
def test_failover_through_relays(tmp_path, no_fsync, slowest, moves):
    """Where it is asked for, it takes over only if the wait is three times the slowest way there and back of the day."""
    made = Roles(tmp_path / "net", {"relay.address": "127.0.0.1:25", "failover.through_relays": True})
    try:
        made.turns(6)
        made.send("secondary", always=True)
        made.deliver()
        made.clock.advance(slowest)
        made.send("primary", always=True)
        made.deliver()
        made.turns(6)
        assert slowest <= made.b.contact.slowest_way() < slowest + 10
        made.clock.advance(made.config.failover.after + 1)
        made.turns(4, mail=False)
        assert moves == (made.serving("secondary") == "secondary")
    finally:
        made.close()


def test_the_peer_says_that_it_sends_through_relays(tmp_path, no_fsync):
    """A server whose own way is direct knows from the peer's mails that they may be late."""
    made = Roles(tmp_path / "net", {"relay.address": "127.0.0.1:25"})
    try:
        made.turns(4)
        assert made.b.contact.facts()["relayed"] is True
    finally:
        made.close()
