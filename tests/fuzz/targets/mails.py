"""Mails: whatever comes as one is parsed or refused; what was parsed can be written, and parses to the same again."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import replace
from email.utils import quote
from typing import TYPE_CHECKING

from fuzz import grounds, mutate
from fuzz.target import Target
from vmctl.conversation import refusal
from vmctl.errors import BadAudio, BadValue, MailError, MailForged, MailGarbage
from vmctl.mail_content import as_json

if TYPE_CHECKING:
    from random import Random

    from vmctl.mail import SyncMail

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n.\r\n", b"--", b"\r\n--", b"--\r\n", b"=_vmctl_", b"Content-Type: ", b"Content-Type: multipart/mixed; boundary=x\r\n",
    b"Content-Type: message/rfc822\r\n", b"Content-Transfer-Encoding: ", b"base64", b"quoted-printable", b"8bit", b"binary", b"x-uuencode", b"application/json",
    b"changes.json", b"signature.json", b"filename=", b"filename*=utf-8''changes.json", b"filename*0=changes; filename*1=.json", b"name=", b"boundary=", b"boundary*0=", b"charset=",
    b"=?utf-8?b?", b"=?=", b";", b'"', b"\\", b"(", b")", b"<", b">", b"text/plain", b"audio/wav", b"\xff", b"\0", b"=\r\n", b"=00", b"====",
)  # fmt: skip
WORDS = (
    "v", "packet", "network", "sender", "recipient", "sent", "incarnation", "peer_incarnation", "checkpoint", "echo_checkpoint", "challenge", "echo", "config", "journal",
    "records", "status", "request", "audio", "key", "fields", "base", "version", "vector", "kept", "deleted", "purged", "born", "is", "at", "absent",
    "sha256", "size", "offset", "length", "part_sha256", "format", "filename", "seconds", "algorithm", "signature",
)  # fmt: skip
_BOUNDARY = re.compile(rb'boundary="([^"]+)"')


def seeds() -> list[bytes]:
    """Some mails of a network in use, the smallest and the largest, and one as a relay and a reader might leave it."""
    raw = sorted(grounds.network().raw, key=len)
    chosen = [raw[0], raw[len(raw) // 2], raw[-1]]
    return [*chosen, chosen[0].replace(b"\r\n", b"\n"), b"Received: from relay\r\n\tby other\r\n" + chosen[0]]


def change(data: bytes, chance: Random, longest: int) -> bytes:
    """Another mail: by its parts, by the JSON in one of them, or blindly."""
    found = _BOUNDARY.search(data)
    if found is None or chance.random() < 0.25:
        return mutate.of_bytes(data, chance, longest, TOKENS)
    mark = b"\r\n--" + found[1] if b"\r\n" in data else b"\n--" + found[1]
    head, *pieces = data.split(mark)
    if not pieces:
        return mutate.of_bytes(data, chance, longest, TOKENS)
    at = chance.randrange(len(pieces))
    match chance.randrange(6):
        case 0:
            pieces = mutate.of_pieces(pieces, chance)
        case 1:
            head = mutate.of_bytes(head, chance, longest, TOKENS)
        case 2:
            top, gap, body = pieces[at].partition(mark[:-2] * 0 + (b"\r\n\r\n" if b"\r\n" in data else b"\n\n"))
            pieces[at] = mutate.of_bytes(top, chance, longest, TOKENS) + gap + body
        case 3 if chance.random() < 0.3:  # the whole mail as a part of itself
            pieces.insert(at, b"\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n" + data + b"\r\n--in--")
        case _:
            pieces[at] = _with_other_content(pieces[at], chance, longest)
    return (head + b"".join(mark + piece for piece in pieces))[:longest]


def _with_other_content(piece: bytes, chance: Random, longest: int) -> bytes:
    end = b"\r\n" if b"\r\n" in piece else b"\n"
    top, gap, body = piece.partition(end * 2)
    if b"json" not in top:
        return top + gap + mutate.of_bytes(body, chance, longest, TOKENS)
    try:
        content = binascii.a2b_base64(body) if b"base64" in top else binascii.a2b_qp(body)
    except binascii.Error:
        content = body
    content = mutate.of_json_bytes(content, chance, longest, TOKENS, WORDS)
    if b"base64" in top:
        text = base64.b64encode(content)
        return top + gap + end.join(text[at : at + 76] for at in range(0, len(text), 76))
    return top + gap + binascii.b2a_qp(content)


def run_believed(data: bytes) -> None:
    """What is behind the signature: only MailErrors come out, with words that fit into one SMTP reply."""
    try:
        mail = grounds.parse(data, believed=True)
    except MailError as error:
        _check_reply(error)
        return
    assert (mail.network, mail.sender, mail.recipient) == (grounds.network().config.network, "primary", "secondary")
    for audio in mail.audio:
        assert audio.offset + len(audio.data) <= audio.size
        assert "/" not in audio.filename, audio.filename
    json.dumps({**as_json(mail), "records": []}, ensure_ascii=False).encode()  # as the index and the journal hold it
    _check_round_trip(mail)


def _check_round_trip(mail: SyncMail) -> None:
    mail = replace(mail, sent=mail.sent // 1000 * 1000)  # as much of it as a mail keeps
    try:
        raw = grounds.compose(mail)
    except (BadValue, BadAudio):  # said of what no mail of ours can hold
        return
    assert grounds.parse(raw, believed=True) == mail, "a mail that was parsed is another one when it is written"


def run_forged(data: bytes) -> None:
    """Where the signature is another's nothing is taken, and nothing is said but that."""
    try:
        grounds.parse(data, believed=False)
    except (MailForged, MailGarbage) as error:
        _check_reply(error)
    else:
        raise AssertionError("a forged mail was taken")


def _check_reply(error: MailError) -> None:
    reply = refusal(error)
    assert str(grounds.scratch()) not in reply, reply
    assert quote(error.smtp_reply) in reply
    assert len(error.what) < 200, error.what
    assert len(error.why) < 400, error.why


MAIL = Target(
    "mail", "a mail whose signature is believed: MIME, JSON, recordings", run_believed, seeds, change, TOKENS, 1 << 16
)
FORGED = Target("forged", "a mail whose signature is another's", run_forged, seeds, change, TOKENS, 1 << 16)
