"""The sync mail: a summary for people, the changes as signed JSON, the recordings as attachments that play.

    multipart/mixed
    +-- text/plain                              the summary; never read by vmctl
    +-- application/json  changes.json          everything that counts, one JSON object
    +-- application/json  signature.json        Ed25519 over `SIGNED_PREFIX` and the bytes of changes.json
    +-- audio/wav ...                           recordings, or pieces of long ones, named by SHA-256 in the JSON

Nothing is believed for its address, its headers or the order of its parts: the signature covers the JSON, the JSON
covers the audio. Relays may fold headers, change line ends, and add parts and headers. docs/sync-mail.md gives the
format for others. Nothing here reads a clock, a disk or a key: times and `sign` / `verify` are arguments.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from vmctl.errors import BadValue, MailForged, MailGarbage, MailMisdirected, MailNewer
from vmctl.mail_content import MAX_AUDIO, VERSION, Audio, SyncMail, as_json, from_json
from vmctl.mail_json import dumps, is_count, loads, shown
from vmctl.mail_parts import BASE64_GROWTH, data_part, garbage, header, leaves, multipart, safe_filename, text_part
from vmctl.mail_parts import subject as subject_line
from vmctl.mail_words import brings_messages, describe
from vmctl.names import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vmctl.mail_parts import Part

__all__ = [
    "BASE64_GROWTH", "MAX_AUDIO", "Audio", "SyncMail", "brings_messages", "compose", "describe", "estimate", "parse",
    "size_of_audio", "size_of_text",
]  # fmt: skip

SIGNED_PREFIX = b"vmctl sync mail 1\n"  # of the signature's scheme; a higher `v` keeps it
CHANGES, SIGNATURE = "changes.json", "signature.json"
FRAME = 48 * 1024  # bytes at most of everything but records, status, request and audio: summary, headers, names
AUDIO_FRAME = 1600  # bytes at most around one recording: its headers, and its line in the JSON

_SIGNATURE_BYTES = 64
_MAX_SIGNATURE_PART = 16 * 1024
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9.-]{1,253}|\[[A-Za-z0-9.:]{1,60}\])", re.ASCII
)
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,200}@[A-Za-z0-9.-]{1,253}>", re.ASCII)
_FIRST_VERSION = re.compile(rb'\s*\{\s*"v"\s*:\s*(\d{1,9})\s*[,}]')


def compose(
    mail: SyncMail,
    *,
    sender_address: str,
    recipient_address: str,
    message_id: str,
    sign: Callable[[bytes], Sequence[tuple[str, bytes]]],
    summary: str,
    subject: str,
    binary: bool = False,
    records: Sequence[bytes] | None = None,
) -> bytes:
    """The mail as bytes with CRLF line ends, ready for DATA; `binary` ones to be sealed, or for BDAT (RFC 3030).

    `message_id` (with its angle brackets) is new for every attempt, `mail.packet` is not. `sign` gives the names of
    keys and their Ed25519 signatures of what it is given: one, and while keys are exchanged that of the former key, too.
    Raises BadValue for an address, id or count that no mail can have, BadAudio for a recording whose bytes are not those
    of its digest. `records` is the JSON of each of the mail's, where the caller has it.
    """
    _check_names(mail, sender_address, recipient_address, message_id)
    value = as_json(mail)
    del value["records"]
    texts = list(map(dumps, mail.records)) if records is None else records
    assert len(texts) == len(mail.records), "a text for each record"  # noqa: S101
    changes = dumps(value)[:-1] + b',"records":[' + b",".join(texts) + b"]}"
    proof, *former = (_proof(key, signature) for key, signature in sign(SIGNED_PREFIX + changes))
    proof |= {"former": former[0]} if former else {}
    head = [
        header("From", f"<{sender_address}>"),
        header("To", f"<{recipient_address}>"),
        subject_line(subject),
        header("Date", format_datetime(datetime.fromtimestamp(mail.sent // 1_000_000, UTC))),
        header("Message-ID", message_id),
        header("Auto-Submitted", "auto-generated"),  # RFC 3834: no vacation replies
        *([header("Message-Context", "voice-message")] if brings_messages(mail) else []),  # RFC 3458
        header("X-Vmctl-Packet", mail.packet),
    ]
    boundary = "=_vmctl_" + hashlib.sha256(proof["signature"].encode()).hexdigest()[:32]
    parts = [
        text_part(summary),
        data_part("application/json", CHANGES, changes, binary=binary),
        data_part("application/json", SIGNATURE, dumps(proof)),
        *(_audio_part(audio, binary=binary) for audio in mail.audio),
    ]
    return multipart(head, boundary, parts)


def parse(raw: bytes, *, network: str, me: str, peer: str, verify: Callable[[bytes, bytes], bool]) -> SyncMail:
    """The sync mail in `raw`, whole and from the peer; `verify(signature, data)` answers for the peer's key.

    Raises MailGarbage for what is no sync mail, was cut off or misses audio; MailForged when the signature is not the
    peer's over exactly this JSON; MailNewer for a later format; MailMisdirected when it is not from `peer` to `me` in
    `network`. Nothing of the JSON is looked at before the signature holds.
    """
    parts = leaves(raw)
    changes = _named(parts, CHANGES).content()
    _check_signature(parts, changes, verify)
    value = _changes(changes)
    for name, mine, words in (
        ("network", network, "another network"),
        ("recipient", me, "another server"),
        ("sender", peer, "another sender than the peer"),
    ):
        if value.get(name) != mine:
            raise MailMisdirected(
                f"a mail came for or from {words}", why=f"{name} is {shown(value.get(name))}, here it must be {mine!r}"
            )
    return from_json(value, _contents(parts))


def estimate(records: Iterable[Any], audio: Iterable[int] = ()) -> int:
    """Bytes at most of a mail with these JSON values (records, status, request) and audio pieces of these lengths.

    It grows by parts: `estimate(a + b)` is not above `estimate(a) + estimate(b)`, so a caller may add up.
    """
    return FRAME + sum(map(size_of_value, records)) + sum(map(size_of_audio, audio))


def size_of_value(value: Any) -> int:
    """Bytes at most that a JSON value adds to a mail."""
    return size_of_text(dumps(value))


def size_of_text(text: bytes) -> int:
    """Bytes at most that a JSON value, written already, adds to a mail."""
    return math.ceil((len(text) + 1) * BASE64_GROWTH)


def size_of_audio(length: int) -> int:
    """Bytes at most that a recording, or a piece of one, of so many bytes adds to a mail."""
    return AUDIO_FRAME + math.ceil(length * BASE64_GROWTH)


def _check_names(mail: SyncMail, sender_address: str, recipient_address: str, message_id: str) -> None:
    for address in (sender_address, recipient_address):
        if not _ADDRESS.fullmatch(address):
            raise BadValue(
                f"{address[:80]!r} is no mail address",
                why="a server's address is plain ASCII with one @ and without spaces or quotes",
                hint="correct 'mail' of that server in vmctl.yaml",
            )
    if not _MESSAGE_ID.fullmatch(message_id):
        raise BadValue(f"{message_id[:80]!r} is no Message-ID", hint="correct the host name in vmctl.yaml")
    if not is_name(mail.packet):
        raise BadValue(f"{mail.packet[:80]!r} is no packet id", hint="this is a bug: please report it")
    for audio in mail.audio:
        if not is_name(audio.format):
            raise BadValue(f"{audio.format[:80]!r} is no audio format", hint="correct 'audio.formats' in vmctl.yaml")
    if len(mail.audio) > MAX_AUDIO:
        raise BadValue(f"{len(mail.audio)} recordings are too many for one mail", why=f"allowed are {MAX_AUDIO}")


def _proof(key: str, signature: bytes) -> dict[str, Any]:
    return {"algorithm": "Ed25519", "key": key, "signature": base64.b64encode(signature).decode("ascii")}


def _audio_part(audio: Audio, *, binary: bool) -> bytes:
    name = safe_filename(audio.filename)
    if not audio.whole:
        extra = [("Content-ID", f"<{audio.sha256}.{audio.offset}@vmctl>")]
        return data_part("application/octet-stream", f"{name}.from-{audio.offset}", audio.data, extra, binary=binary)
    extra = [("Content-ID", f"<{audio.sha256}@vmctl>")]
    if audio.seconds is not None:
        extra.append(("Content-Duration", str(math.ceil(audio.seconds))))  # RFC 3803, whole seconds
    return data_part(f"audio/{audio.format.lower()}", name, audio.data, extra, binary=binary)


def _named(parts: list[Part], name: str) -> Part:
    found = [part for part in parts if part.head.content_type == "application/json" and part.head.filename == name]
    if len(found) != 1:
        raise garbage(f"it has {len(found) or 'no'} parts named {name}")
    return found[0]


def _check_signature(parts: list[Part], changes: bytes, verify: Callable[[bytes, bytes], bool]) -> None:
    try:
        part = _named(parts, SIGNATURE)
        if part.end - part.start > _MAX_SIGNATURE_PART:
            raise garbage("its signature is too long")
        proof = loads(part.content())
        former = proof.get("former")
        signatures = [
            base64.b64decode(one["signature"], validate=True)
            for one in (proof, *([former] if former is not None else []))
        ]
    except (MailGarbage, ValueError, LookupError, TypeError) as error:
        why = error.why if isinstance(error, MailGarbage) else "its signature cannot be read"
        raise MailForged("a mail came without a signature that can be checked", why=why) from error
    signed = SIGNED_PREFIX + changes
    if not any(len(signature) == _SIGNATURE_BYTES and verify(signature, signed) for signature in signatures):
        raise MailForged(
            "a mail came that the peer did not sign, or that was altered",
            why=f"it names the key {shown(proof.get('key'))}",
        )


def _changes(changes: bytes) -> dict[str, Any]:
    first = _FIRST_VERSION.match(changes)
    if first and int(first[1]) > VERSION:
        raise _newer(int(first[1]))
    try:
        value = loads(changes)
    except ValueError as error:
        raise garbage(f"its {CHANGES} is broken: {error}") from error
    version: Any = value.get("v")
    if not is_count(version) or version < 1:
        raise garbage(f"its version is {shown(version)}")
    if version > VERSION:
        raise _newer(version)
    return value


def _newer(version: int) -> MailNewer:
    return MailNewer(f"a mail came in format {version}", why=f"this vmctl knows format {VERSION}")


def _contents(parts: list[Part]) -> dict[str, bytes]:
    """What is attached, by SHA-256: neither the order of the parts nor their headers have to survive a relay."""
    found = {}
    for part in parts:
        try:
            content = part.content()
        except MailGarbage:
            continue  # if it counts, it is missed below
        found[hashlib.sha256(content).hexdigest()] = content
    return found
