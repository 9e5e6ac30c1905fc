"""The sync mail: what a reader sees, what is signed, what is refused."""

import base64
import contextlib
import email
import email.policy
import hashlib
import io
import json
import re
import wave
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl import mail as room
from vmctl import mail_json, mail_parts, mail_sealed, sealing
from vmctl.errors import BadAudio, BadValue, MailError, MailForged, MailGarbage, MailMisdirected, MailNewer
from vmctl.mail import Audio, SyncMail, compose, describe, estimate, parse

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
STAMP = [1_790_000_000_000_000, "p1", 7]


def verify(signature, data, key=KEY):
    """Whether the signature is good, as parse asks."""
    try:
        key.public_key().verify(signature, data)
    except InvalidSignature:
        return False
    return True


def take(raw, network="demo", me="secondary", peer="primary", check=verify):
    """The mail as the secondary parses it."""
    return parse(raw, network=network, me=me, peer=peer, verify=check)


def signed_by(key):
    """What compose asks for a signature."""
    return lambda data: [("ed25519:abc", key.sign(data))]


def write(mail, key=KEY, **words):
    """The mail as the primary composes it."""
    subject, summary = describe(mail)
    said = {
        "sender_address": "vmctl@primary.example",
        "recipient_address": "vmctl@[192.0.2.1]",
        "message_id": "<1.a@primary.example>",
        "summary": summary,
        "subject": subject,
    }
    return compose(mail, sign=signed_by(key), **{**said, **words})


def recording(seconds=1.0):
    """A WAV file of about so many seconds."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(range(256)) * int(seconds * 62.5))
    return sound.getvalue()


def sound(data, filename="2001-m1.wav", seconds=1.0):
    """A whole recording, ready to attach."""
    digest = hashlib.sha256(data).hexdigest()
    return Audio(sha256=digest, size=len(data), offset=0, data=data, format="wav", filename=filename, seconds=seconds)


def record(key, base=None, deleted=None, **fields):
    """A record as JSON."""
    return {
        "key": key,
        "fields": {name: {"is": value, "at": STAMP} for name, value in fields.items()},
        "born": [1, "p1"],
        "vector": {"p1": 7},
        "kept": {"p1": 1},
        "deleted": deleted or {},
        "base": base,
    }


def sample(**words):
    """A mail with messages, a mailbox and a recording."""
    said = {
        "packet": "p-1",
        "network": "demo",
        "sender": "primary",
        "recipient": "secondary",
        "sent": 1_790_000_000_123_000,
        "incarnation": "p1",
        "peer_incarnation": "s1",
        "checkpoint": {"incarnation": "p1", "number": 7, "bits": "00ff"},
        "echo_checkpoint": None,
        "challenge": "c1",
        "echo": "c0",
        "config": "abcd",
        "journal": (3, "ff"),
        "records": [
            record("message/2001/m1", status="new", caller="Zoë <0123>"),
            record("message/2001/m2", status="new"),
            record("mailbox/2002", base={"version": "x"}, quota=50, pin="$scrypt$secret-hash"),
        ],
        "status": {"acks": [1, 2.5, None, "ä"]},
        "request": {},
        "audio": [sound(recording())],
    }
    return SyncMail(**{**said, **words})


SAMPLE = sample()
RAW = write(SAMPLE)


def resigned(changes):
    """A mail whose JSON is these very bytes, under a good signature."""
    signature = KEY.sign(room.SIGNED_PREFIX + changes)
    proof = {"algorithm": "Ed25519", "key": "k", "signature": base64.b64encode(signature).decode()}
    parts = [
        mail_parts.data_part("application/json", "changes.json", changes),
        mail_parts.data_part("application/json", "signature.json", json.dumps(proof).encode()),
    ]
    return mail_parts.multipart([], "=_test", parts)


def changed(**members):
    """The sample's JSON with other members."""
    value = mail_json.loads(email.message_from_bytes(write(sample(audio=[]))).get_payload()[1].get_payload(decode=True))
    return json.dumps({**value, **members}).encode()


# What a mail reader sees


def test_a_standard_reader_lists_summary_json_and_audio():
    """Python's own mail reader finds the words, the changes as JSON and a recording that plays."""
    message = email.message_from_bytes(RAW, policy=email.policy.default)
    parts = list(message.walk())[1:]
    assert [p.get_content_type() for p in parts] == ["text/plain", "application/json", "application/json", "audio/wav"]
    assert "message 2001/m1: status = new, caller = Zoë <0123>" in parts[0].get_content()
    assert json.loads(parts[1].get_content())["network"] == "demo"
    assert parts[3].get_filename() == "2001-m1.wav"
    assert parts[3].get_content_disposition() == "attachment"
    with wave.open(io.BytesIO(parts[3].get_content())) as played:
        assert played.getframerate() == 8000
    assert message.defects + [defect for part in parts for defect in part.defects] == []


def test_headers_say_what_it_is():
    """The headers carry what RFC 5322, 3834, 3458 and 3803 ask for, and the packet id."""
    message = email.message_from_bytes(RAW, policy=email.policy.default)
    assert message["Subject"] == "vmctl primary to secondary: 2 messages for 2001, mailbox 2002 changed"
    assert message["Message-ID"] == "<1.a@primary.example>"
    assert message["Date"].datetime.isoformat() == "2026-09-21T14:13:20+00:00"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-Context"] == "voice-message"
    assert message["X-Vmctl-Packet"] == "p-1"
    assert list(message.walk())[4]["Content-Duration"] == "1"


def test_a_mail_without_messages_is_no_voice_message():
    """Marks, deletions and heartbeats do not claim to bring voice."""
    for records in (
        [],
        [record("message/2001/m", base={}, status="old")],
        [record("message/2001/m", deleted={"p1": 7})],
    ):
        assert "Message-Context" not in email.message_from_bytes(write(sample(records=records, audio=[])))


def test_lines_are_short_and_end_in_crlf():
    """Every line is short (RFC 5322 wants 78, a SHA-256 in Content-ID takes 84) and no CR or LF stands alone, whatever the summary holds."""
    raw = write(sample(), summary="x" * 3000 + "\r\n.\rdot\x0bäöü €" * 500, subject="ä" * 300)
    assert max(map(len, raw.split(b"\r\n"))) <= 84
    assert raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r")


@pytest.mark.parametrize("text", ["a\r\nBcc: x@y", "a\nb", "\ud800", "é\x00\u2028z", ""])
def test_a_subject_cannot_bring_headers(text):
    """Line ends and broken characters in a subject become spaces."""
    message = email.message_from_bytes(write(SAMPLE, subject=text))
    assert message["Bcc"] is None
    assert take(write(SAMPLE, subject=text)) == SAMPLE


@pytest.mark.parametrize(
    "words",
    [
        {"sender_address": "a@b\r\nX: y"},
        {"recipient_address": "nobody"},
        {"recipient_address": "a@b>, <c@d"},
        {"message_id": "<a@b>\n"},
        {"message_id": "a@b"},
    ],
)
def test_addresses_and_ids_are_checked(words):
    """An address or id that could break a header is refused with BadValue."""
    with pytest.raises(BadValue):
        write(SAMPLE, **words)


def test_a_packet_or_format_that_is_no_name_is_refused():
    """Packet ids and formats may become names of files, so compose refuses others."""
    with pytest.raises(BadValue):
        write(sample(packet="../x"))
    with pytest.raises(BadValue):
        write(sample(audio=[replace(sound(b"x"), format="a/b")]))


def test_a_recording_that_changed_since_its_digest_is_not_sent():
    """Bytes that are not those of the digest raise BadAudio: the peer would refuse them."""
    with pytest.raises(BadAudio):
        write(sample(audio=[replace(sound(b"one"), data=b"two")]))


# Words


def test_the_summary_never_tells_a_pin():
    """PINs, also nested ones, are only said to have changed."""
    records = [record("mailbox/2001", pin="1234", old_pin="1234", settings={"pin": "1234"}, name="Ann")]
    subject, summary = describe(sample(records=records))
    assert "1234" not in subject + summary
    assert "pin (changed)" in summary
    assert "name = Ann" in summary


def test_the_summary_is_capped():
    """Of many changes the first fifty are told and the rest counted."""
    _, summary = describe(sample(records=[record(f"message/2001/m{n}") for n in range(70)], audio=[]))
    assert summary.count("- message") == 50
    assert "and 20 more" in summary


def test_a_heartbeat_says_so():
    """A mail that brings nothing has a subject that says so."""
    assert describe(sample(records=[], audio=[]))[0] == "vmctl primary to secondary: heartbeat, nothing new"


def test_words_for_deletions_removals_and_many_things():
    """The subject names a few things and counts the rest; the summary tells deletions and removed fields."""
    records = [
        record("message/2001/a", deleted={"p1": 7}),
        record("message/2001/b", base={}, status="old"),
        record("settings", base={}),
        record("callflow/main", base={}),
        record("greeting/2001/busy", base={}),
        {**record("prompt/hello"), "fields": {"title": {"absent": True, "at": STAMP}}},
    ]
    subject, summary = describe(sample(records=records, audio=[]))
    expected = "deleted message, message of 2001 changed, settings changed, callflow main changed and 2 more"
    assert f"vmctl primary to secondary: {expected}" == subject
    assert "- message 2001/a: deleted" in summary
    assert "- prompt hello: title removed" in summary


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"key": st.text()},
            optional={name: st.none() | st.dictionaries(st.text(), st.integers() | st.text())
                      for name in ("fields", "kept", "deleted", "base")},
        )
    )
)  # fmt: skip
def test_words_stand_any_record(records):
    """A record of a later version does not break the summary."""
    subject, summary = describe(sample(records=records))
    assert "\n" not in subject
    assert "changes.json" in summary


# Round trip

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=3)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
TEXT = st.text(max_size=40)


@st.composite
def recordings(draw):
    """A recording or a piece of one."""
    whole = draw(st.binary(max_size=300))
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, len(whole)))
    if draw(st.booleans()):
        start, end = 0, len(whole)
    return Audio(
        sha256=hashlib.sha256(whole).hexdigest(),
        size=len(whole),
        offset=start,
        data=whole[start:end],
        format=draw(NAME),
        filename=mail_parts.safe_filename(draw(st.text(max_size=200))),
        seconds=draw(st.none() | st.floats(0, 1e6)),
    )


MAILS = st.builds(
    SyncMail,
    packet=NAME,
    network=st.just("demo"),
    sender=st.just("primary"),
    recipient=st.just("secondary"),
    sent=st.integers(0, 2**52 // 1000).map(lambda milli: milli * 1000),
    incarnation=TEXT,
    peer_incarnation=st.none() | TEXT,
    checkpoint=st.none() | OBJECT,
    echo_checkpoint=st.none() | OBJECT,
    challenge=TEXT,
    echo=st.none() | TEXT,
    config=TEXT,
    journal=st.none() | st.tuples(st.integers(0, 2**52), TEXT),
    records=st.lists(OBJECT.flatmap(lambda value: st.text().map(lambda key: {**value, "key": key})), max_size=3),
    status=OBJECT,
    request=OBJECT,
    audio=st.lists(recordings(), max_size=3),
)


@settings(deadline=None, max_examples=100)
@given(MAILS)
def test_round_trip(mail):
    """What was composed is parsed as the same value, and the estimate is not below the mail's size."""
    raw = write(mail)
    assert mail == take(raw)
    assert len(raw) <= estimate([*mail.records, mail.status, mail.request], [len(audio.data) for audio in mail.audio])


def bound(mail):
    """What the packer takes a mail for, in bytes."""
    return estimate([*mail.records, mail.status, mail.request], [len(audio.data) for audio in mail.audio])


def sealed(raw):
    """A mail as it leaves through others; a seal adds as much as the real one, and turns every byte."""
    return mail_sealed.wrap(
        raw, sender_address="a@primary.example", recipient_address="b@secondary.example", message_id="<1@primary.example>",
        sent=0, seal=lambda content: bytes(sealing.OVERHEAD) + bytes(255 - byte for byte in content),
    )  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(MAILS)
def test_sealed_round_trip(mail):
    """What is sealed has its recordings as they are, not in base64, and is parsed as the same value; the estimate holds for it."""
    inside = write(mail, binary=True)
    outside = sealed(inside)
    assert len(outside) <= bound(mail)
    content = mail_sealed.unwrap(outside)[sealing.OVERHEAD :]
    assert inside == bytes(255 - byte for byte in content)
    assert mail == take(inside)


def test_the_estimate_holds_for_the_most_recordings_and_the_longest_names():
    """A thousand recordings with names as long as they may be, and a summary of letters that are long in quoted-printable."""
    audio = [
        replace(
            sound(bytes([number % 256]) * 7, filename="n" * 200, seconds=12345.678),
            sha256=f"{number:064x}",
            size=9,
            offset=1,
        )
        for number in range(room.MAX_AUDIO)
    ]
    records = [{"key": f"mailbox/{number}", "fields": {"name": {"is": "ä" * 40, "at": STAMP}}} for number in range(60)]
    mail = sample(audio=audio, records=records)
    assert len(write(mail)) <= bound(mail)
    assert len(sealed(write(mail, binary=True))) <= bound(mail)


def test_sealing_makes_a_mail_no_longer():
    """Base64 once, not twice: a sealed mail with a long recording is as long as the open one, to a hundredth."""
    mail = sample(audio=[sound(bytes(1_000_000))])
    assert len(sealed(write(mail, binary=True))) < len(write(mail)) * 1.01


def test_the_estimate_is_close_for_big_mails():
    """The estimate is above the size, but not by more than its constants."""
    mail = sample(audio=[sound(bytes(3_000_000)), sound(b"x" * 1_000_001)])
    size = len(write(mail))
    guess = estimate([*mail.records, mail.status, mail.request], [len(audio.data) for audio in mail.audio])
    assert size <= guess <= size + room.FRAME + 2 * room.AUDIO_FRAME


def test_half_a_character_in_a_record_survives():
    """A lone surrogate in a record travels as JSON's escape: who takes it can name that record and take all others."""
    mail = sample(records=[record("mailbox/2002", name="\ud800")])
    assert mail == take(write(mail))


def test_equal_recordings_travel_once_each_and_arrive():
    """The same recording listed twice, and two pieces of one, are all found by their digests."""
    whole = recording(2.0)
    cut = len(whole) // 2
    pieces = [
        replace(sound(whole), data=whole[:cut]),
        replace(sound(whole), data=whole[cut:], offset=cut),
        sound(whole),
        sound(whole, filename="again.wav"),
    ]
    raw = write(sample(audio=pieces))
    assert pieces == take(raw).audio
    kinds = [part.get_content_type() for part in email.message_from_bytes(raw).get_payload()][3:]
    assert kinds == ["application/octet-stream", "application/octet-stream", "audio/wav", "audio/wav"]


# What relays do


def lf(raw):
    """Line ends of Unix."""
    return raw.replace(b"\r\n", b"\n")


def refolded(raw):
    """Headers folded elsewhere."""
    return raw.replace(b";\r\n ", b"; ").replace(b"mixed; ", b"mixed;\r\n\t").replace(b"To: ", b"to:\r\n\t")


def received(raw):
    """Trace headers in front."""
    return b"Received: from a by b;\r\n\tMon, 1 Jan 2026 00:00:00 +0000\r\n" * 30 + raw


def footer(raw):
    """A footer as one more part."""
    boundary = re.search(rb'boundary="([^"]+)"', raw)[1]
    extra = b"--" + boundary + b"\r\nContent-Type: text/plain\r\n\r\nScanned for viruses\r\n--" + boundary + b"--\r\n"
    return raw.removesuffix(b"--" + boundary + b"--\r\n") + extra + b"\r\nepilogue"


def extra_parts(raw):
    """Parts that nobody knows, one of them broken."""
    boundary = re.search(rb'boundary="([^"]+)"', raw)[1]
    bad = b"\r\n--" + boundary + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!a\r\n--" + boundary + b"\r\n\r\nbare"
    return raw.replace(b"\r\n--" + boundary, bad + b"\r\n--" + boundary, 1)


def wrapped(raw):
    """The whole mail as a part of another."""
    return b'Content-Type: multipart/mixed; boundary="=_vmctl"\r\n\r\n--=_vmctl\r\n' + raw + b"\r\n--=_vmctl--"


def reordered(raw):
    """Parts in another order."""
    boundary = re.search(rb'boundary="([^"]+)"', raw)[1]
    head, *parts, tail = raw.split(b"\r\n--" + boundary)
    return (b"\r\n--" + boundary).join([head, *reversed(parts), tail])


def reencoded(raw):
    """By Python's own generator: quoted strings, folding and base64 lines are its choice."""
    return email.message_from_bytes(raw, policy=email.policy.default).as_bytes()


def as_binary(raw):
    """The JSON unpacked, as a gateway with 8BITMIME or BINARYMIME might."""
    message = email.message_from_bytes(raw)
    part = message.get_payload()[1]
    text = part.get_payload(decode=True)
    packed = part.as_bytes().split(b"\n\n", 1)[1].replace(b"\n", b"\r\n")
    return raw.replace(packed, text).replace(b"Encoding: base64", b"Encoding: binary", 1)


@pytest.mark.parametrize(
    "change", [lf, refolded, received, footer, extra_parts, wrapped, reordered, reencoded, as_binary]
)
def test_what_relays_do_is_tolerated(change):
    """Line ends, folding, trace headers, footers, wrapping, order and encodings may change on the way."""
    assert change(RAW) != RAW
    assert take(change(RAW)) == SAMPLE


# What is refused


def test_a_mail_of_another_key_is_forged():
    """A good mail under another key is MailForged, and the error names the key it claims."""
    with pytest.raises(MailForged) as caught:
        take(write(SAMPLE, OTHER_KEY))
    assert "ed25519:abc" in caught.value.why


def test_an_altered_json_is_forged():
    """A JSON part whose bytes were changed does not match the signature."""
    at = RAW.index(b"\r\n\r\n", RAW.index(b"changes.json")) + 40
    with pytest.raises(MailForged):
        take(RAW[:at] + (b"A" if RAW[at : at + 1] != b"A" else b"B") + RAW[at + 1 :])


def test_a_missing_or_doubled_part():
    """Without changes.json it is garbage, without its signature forged; two of one name count as neither."""
    with pytest.raises(MailGarbage):
        take(RAW.replace(b"changes.json", b"chances.json"))
    with pytest.raises(MailForged):
        take(RAW.replace(b"signature.json", b"signalling.json"))
    with pytest.raises(MailGarbage):
        take(RAW.replace(b"signature.json", b"changes.json"))
    with pytest.raises(MailForged):
        take(RAW.replace(b"2001-m1.wav", b"signature.json").replace(b"audio/wav", b"application/json"))


@pytest.mark.parametrize("signature", ['{"signature": 5}', "{}", "[]", '{"signature": "AAAA"}', "nonsense", "\xff"])
def test_a_broken_signature_part_is_forged(signature):
    """Whatever stands in place of the signature, the mail is MailForged."""
    proof = mail_parts.data_part("application/json", "signature.json", signature.encode("latin-1"))
    parts = [mail_parts.data_part("application/json", "changes.json", changed()), proof]
    with pytest.raises(MailForged):
        take(mail_parts.multipart([], "=_test", parts))


def test_a_missing_or_altered_recording_is_garbage():
    """Audio that the JSON lists must be there with its bytes."""
    name = RAW.index(b"audio/wav")
    for raw in (
        RAW[:name] + RAW[name:].replace(b"AAEC", b"AAED", 1),
        RAW[: RAW.rindex(b"\r\n--", 0, name)] + RAW[-43:],
    ):
        assert raw != RAW
        with pytest.raises(MailGarbage):
            take(raw)


@pytest.mark.parametrize("words", [{"network": "other"}, {"me": "primary"}, {"peer": "tertiary"}])
def test_another_network_or_server_is_misdirected(words):
    """A mail that is not from the peer to this server in this network is named as such."""
    with pytest.raises(MailMisdirected):
        take(RAW, **words)


@pytest.mark.parametrize(
    "changes",
    [
        changed(v=2),
        changed(v=2, packet=[], records=None, network="elsewhere"),
        b'{"v":2,"new":NaN}',
        b' {"v" : 3, half of a new thing',
        b'{"first":1,"v":2}',
    ],
)
def test_a_later_format_is_tried_again(changes):
    """A higher v under a good signature is MailNewer, however strange the rest is to this version."""
    with pytest.raises(MailNewer):
        take(resigned(changes))


def test_a_later_format_needs_a_signature_too():
    """A higher v without the peer's signature is forged, not a reason to keep the mail."""
    with pytest.raises(MailForged):
        take(resigned(changed(v=2)), check=lambda _signature, _data: False)


def test_header_blocks_that_go_on_and_on_are_garbage():
    """Each is short enough, all of them together are not: a few megabytes of headers would cost seconds."""

    def parts(count):
        head = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"
        return head + (b"--x\r\n" + b"A: b\r\n" * 30_000 + b"\r\n\r\n") * count + b"--x--\r\n"

    assert len(mail_parts.leaves(parts(5))) == 5
    with pytest.raises(MailGarbage) as caught:
        mail_parts.leaves(parts(6))
    assert "header blocks" in caught.value.why


BROKEN = [
    b"",
    b"[]",
    b"{",
    b"\xff",
    b'{"v":1,"v":1}',
    b'{"v":1,"x":NaN}',
    b'{"v":1,"x":1e999}',
    b'{"v":1,"x":' + b"9" * 5000 + b"}",
    b'{"v":1,"x":' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"v":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    *(changed(v=v) for v in (0, -1, True, "1", None, 1.0)),
    *(changed(packet=packet) for packet in ("", "../x", "a" * 65, 1, None)),
    *(changed(records=records) for records in (None, {}, [1], [{}], [{"key": 1}])),
    *(changed(sent=sent) for sent in (5, "now", "2026-01-01T00:00:00", "x" * 999, "9999-12-31T23:59:59-01:00")),
    *(changed(**{name: "\ud800"}) for name in ("incarnation", "challenge", "echo", "config")),
    *(changed(**{name: {"x": ["\ud800"]}}) for name in ("status", "request", "checkpoint", "echo_checkpoint")),
    *(changed(journal=journal) for journal in (5, [], [1], [1, 2], [-1, "x"], ["1", "x"])),
    *(changed(audio=audio) for audio in (None, {}, [1], [{}], [{}] * 1001)),
    *(changed(status=value) for value in (None, [], "x")),
    changed(challenge="x" * 257),
    changed(checkpoint=[]),
    changed(echo=5),
]


@pytest.mark.parametrize("changes", BROKEN, ids=range(len(BROKEN)))
def test_broken_json_is_garbage(changes):
    """JSON that two readers could take differently, or of other types than documented, is MailGarbage."""
    with pytest.raises(MailGarbage):
        take(resigned(changes))


def test_the_test_of_broken_json_is_itself_sound():
    """The same mail with nothing broken is taken, also with keys that this version does not know."""
    assert sample(audio=[]) == take(resigned(changed(unknown={"a": [1]})))


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": "x"},
        {"part_sha256": "0" * 64},
        {"size": -1},
        {"size": 3},
        {"offset": 1},
        {"length": 1},
        {"format": "../wav"},
        {"seconds": -1},
        {"sha256": "0" * 64},
    ],
)
def test_audio_entries_must_agree_with_the_audio(entry):
    """Sizes, offsets and digests in the JSON are checked against each other and the bytes."""
    good = room.as_json(sample(audio=[sound(b"RIFF")]))
    good["audio"][0].update(entry)
    raw = resigned(mail_json.dumps(good)).replace(
        b"\r\n--=_test--", b"\r\n--=_test\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--=_test--"
    )
    with pytest.raises(MailGarbage):
        take(raw)


def test_a_filename_from_outside_is_made_harmless():
    """A name with slashes, dots in front or line ends comes out as a plain one."""
    good = room.as_json(sample(audio=[sound(b"RIFF")]))
    good["audio"][0]["filename"] = "../../etc/\r\npasswd"
    raw = resigned(mail_json.dumps(good)).replace(
        b"\r\n--=_test--", b"\r\n--=_test\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--=_test--"
    )
    assert take(raw).audio[0].filename == "_.._etc_passwd"


@pytest.mark.parametrize("end", [*range(0, len(RAW), 997), len(RAW) - 5])
def test_a_cut_off_mail_is_garbage(end):
    """A mail that lost its end anywhere is garbage: nothing of it is taken."""
    with pytest.raises(MailGarbage):
        take(RAW[:end])


def test_tampering_never_changes_what_is_taken():
    """Any byte of the mail flipped: it is refused, or what comes out is exactly what was signed."""
    for at in range(0, len(RAW), 67):
        for bit in (1, 0x20, 0x80):
            raw = bytearray(RAW)
            raw[at] ^= bit
            with contextlib.suppress(MailError):
                assert take(bytes(raw)) == SAMPLE


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_garbage_raises_only_mail_errors(data):
    """Whatever comes in, the only exceptions are MailErrors."""
    pieces = [
        b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: application/json; name*=x''changes.json\r\n",
        b'Content-Disposition: attachment; filename*0*="a; filename=\r\n', b"Content-Transfer-Encoding: base64\r\n",
        b"\r\n", b"\n", b"--b\r\n", b"--b--\r\n", b"\r\n--b", b"=", b"\xff", b" ", b":", b"\x00", b";", b'"', b"a" * 90,
        b"Content-Type: application/json; name=changes.json\r\n", b'Content-Type: multipart/"; boundary="\xe4"\r\n',
    ]  # fmt: skip
    raw = b"".join(data.draw(st.lists(st.sampled_from(pieces) | st.binary(max_size=8), max_size=40)))
    with pytest.raises(MailError):
        take(raw)


def test_hostile_mail_takes_no_time():
    """Thousands of parts, endless headers and deep nesting are refused before they cost anything."""
    top = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    for raw in (
        top + b"\r\n--b" * 100_000,
        top + b"\r\n--b\r\n\r\n" * 50_000 + b"\r\n--b--",
        b"Content-Type: a/b; " + b";" * 200_000 + b"\r\n\r\n",
        b"X: " + b"a" * 10_000_000,
        (top + b"--b\r\n") * 50 + b"\r\n--b--" * 50,
        top + b"--b" + b" " * 1_000_000,
    ):
        with pytest.raises(MailGarbage):
            take(raw)


# The page for others

PAGE = (Path(__file__).parent.parent / "docs" / "sync-mail.md").read_text(encoding="utf-8")


def test_the_page_names_every_key_header_and_limit():
    """Each key of the JSON, each header and the limits stand on the page."""
    value = room.as_json(SAMPLE)
    headers = [name for name in email.message_from_bytes(RAW) if name not in {"MIME-Version", "Content-Type"}]
    for word in [*value, *value["audio"][0], *value["records"][0], *headers]:
        assert f"`{word}`" in PAGE
    for limit in (mail_json.MAX_DEPTH, mail_json.MAX_TEXT, room.MAX_AUDIO):
        assert str(limit) in PAGE


NAMES = st.text("abcXYZ019._-", min_size=1, max_size=20)


@given(
    kind=st.sampled_from(["audio/wav", "application/json", "application/octet-stream", "Audio/WAV", "audio/x.y"]),
    name=NAMES, other=NAMES, binary=st.booleans(), extra=st.lists(st.sampled_from(
        [("Content-ID", "<a@vmctl>"), ("Content-Duration", "3"), ("X-Other", "x"), ("Content-Description", "a b")]), max_size=3),
    ends=st.sampled_from([b"\r\n", b"\n"]),
)  # fmt: skip
def test_headers_of_our_own_say_what_the_email_package_reads_in_them(kind, name, other, binary, extra, ends):
    """Whether a block of headers is in the form in which vmctl writes it, or nearly so: the same is read from it."""
    block = mail_parts.data_part(kind, name, b"", extra, binary=binary).replace(b"\r\n", ends)
    for text in (block, block.replace(b'filename="' + name.encode(), b'filename="' + other.encode())):
        said, body = mail_parts._head(text + b"body", 0, len(text) + 4)
        assert mail_parts._said(email.message_from_bytes(text)) == said
        assert body == len(text)


def test_an_attachment_of_our_own_needs_no_email_package(monkeypatch):
    """There are thousands of them in a first copy."""
    raw = write(sample(audio=[sound(bytes([number]) * 9) for number in range(20)]))
    parsed = []
    monkeypatch.setattr(mail_parts, "_said", lambda headers, real=mail_parts._said: parsed.append(1) or real(headers))
    assert 23 == len(mail_parts.leaves(raw))
    assert len(parsed) <= 2  # the mail, and the text for people
