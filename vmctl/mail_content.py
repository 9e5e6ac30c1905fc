"""What one sync mail says, and its form as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any

from vmctl.clock import parse_rfc3339, rfc3339
from vmctl.errors import BadAudio
from vmctl.mail_json import (
    expect,
    is_count,
    is_digest,
    is_journal,
    is_mapping,
    is_records,
    is_seconds,
    is_text,
    maybe,
)
from vmctl.mail_parts import garbage, safe_filename
from vmctl.names import is_name

VERSION = 1
MAX_AUDIO = 1000  # recordings, or pieces of them, in one mail
LARGEST_AUDIO = 2**32  # bytes, as a WAV file has at most: no disk refuses a piece for lying too far out


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """A recording, or the piece of it that begins at `offset`.

    `sha256` (hex) and `size` (bytes) are the whole recording's; `seconds` its length if known. `filename` is for
    the reader of the mail, reduced to harmless characters; it names nothing here. `digest` is the SHA-256 of `data`, where
    whoever made this has counted it.
    """

    sha256: str
    size: int
    offset: int
    data: bytes
    format: str
    filename: str
    seconds: float | None = None
    digest: str = dataclasses.field(default="", compare=False)

    @property
    def counted(self) -> str:
        """The SHA-256 of `data`."""
        return self.digest or hashlib.sha256(self.data).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether this is all of the recording."""
        return self.offset == 0 and len(self.data) == self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncMail:
    """What one sync mail says.

    `sent` is a wall reading in microseconds (the mail keeps its milliseconds). `config` is the digest of the
    network's part of vmctl.yaml. `journal` is the length and the hash of the sender's journal. `records`, `status`,
    `request` and the checkpoints are JSON values that this module carries without looking into them, save that each
    record is a mapping with a text `key`.
    """

    packet: str
    network: str
    sender: str
    recipient: str
    sent: int
    incarnation: str
    peer_incarnation: str | None = None
    checkpoint: dict[str, Any] | None = None
    echo_checkpoint: dict[str, Any] | None = None
    challenge: str
    echo: str | None = None
    config: str
    journal: tuple[int, str] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    audio: list[Audio] = field(default_factory=list)


def as_json(mail: SyncMail) -> dict[str, Any]:
    """The mail as the JSON object that is signed. Raises BadAudio for bytes that are not those of their digest."""
    return {
        "v": VERSION,  # stays the first member, so that a later format can be told even where the rest is strange
        "packet": mail.packet,
        "network": mail.network,
        "sender": mail.sender,
        "recipient": mail.recipient,
        "sent": rfc3339(mail.sent),
        "incarnation": mail.incarnation,
        "peer_incarnation": mail.peer_incarnation,
        "checkpoint": mail.checkpoint,
        "echo_checkpoint": mail.echo_checkpoint,
        "challenge": mail.challenge,
        "echo": mail.echo,
        "config": mail.config,
        "journal": None if mail.journal is None else list(mail.journal),
        "records": mail.records,
        "status": mail.status,
        "request": mail.request,
        "audio": [_audio_as_json(audio) for audio in mail.audio],
    }


def _audio_as_json(audio: Audio) -> dict[str, Any]:
    part = audio.counted
    if audio.whole and part != audio.sha256:
        raise BadAudio(
            f"the recording {safe_filename(audio.filename)} has other bytes than its digest says",
            why=f"SHA-256 is {part}, expected {audio.sha256}",
            hint="'vmctl verify' looks at every recording",
        )
    return {
        "sha256": audio.sha256,
        "size": audio.size,
        "offset": audio.offset,
        "length": len(audio.data),
        "part_sha256": part,
        "format": audio.format,
        "filename": safe_filename(audio.filename),
        "seconds": audio.seconds,
    }


def from_json(value: dict[str, Any], contents: dict[str, bytes]) -> SyncMail:
    """The mail that `as_json` gave, with its audio out of `contents` (by SHA-256). Raises MailGarbage."""
    return SyncMail(
        packet=expect(is_name, value, "packet"),
        network=expect(is_text, value, "network"),
        sender=expect(is_text, value, "sender"),
        recipient=expect(is_text, value, "recipient"),
        sent=_sent(value),
        incarnation=expect(is_text, value, "incarnation"),
        peer_incarnation=maybe(is_text, value, "peer_incarnation"),
        checkpoint=maybe(is_mapping, value, "checkpoint"),
        echo_checkpoint=maybe(is_mapping, value, "echo_checkpoint"),
        challenge=expect(is_text, value, "challenge"),
        echo=maybe(is_text, value, "echo"),
        config=expect(is_text, value, "config"),
        journal=_journal(value),
        records=expect(is_records, value, "records"),
        status=expect(is_mapping, value, "status"),
        request=expect(is_mapping, value, "request"),
        audio=[_audio_from_json(entry, contents) for entry in expect(_is_audio_list, value, "audio")],
    )


def _audio_from_json(entry: Any, contents: dict[str, bytes]) -> Audio:
    if not isinstance(entry, dict):
        raise garbage("an entry of its 'audio' is no mapping")
    sha256, part = (expect(is_digest, entry, name) for name in ("sha256", "part_sha256"))
    size, offset, length = (expect(is_count, entry, name) for name in ("size", "offset", "length"))
    data = contents.get(part)
    if data is None:
        raise garbage(f"the recording {sha256} is missing or was altered on the way")
    audio = Audio(
        sha256=sha256,
        size=size,
        offset=offset,
        data=data,
        format=expect(is_name, entry, "format"),
        filename=safe_filename(str(entry.get("filename"))),
        seconds=maybe(is_seconds, entry, "seconds"),
        digest=part,  # by which it was found
    )
    if len(data) != length or offset + length > size or size > LARGEST_AUDIO or (audio.whole and part != sha256):
        raise garbage(f"the sizes or digests of the recording {sha256} contradict each other")
    return audio


def _sent(value: dict[str, Any]) -> int:
    try:
        return parse_rfc3339(expect(is_text, value, "sent"))
    except (ValueError, OverflowError) as error:
        raise garbage("its 'sent' is no time in RFC 3339") from error


def _journal(value: dict[str, Any]) -> tuple[int, str] | None:
    pair = maybe(is_journal, value, "journal")
    return None if pair is None else (pair[0], pair[1])


def _is_audio_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_AUDIO
