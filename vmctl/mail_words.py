"""A sync mail in words: its subject, and the summary that every mail reader shows. Never read by vmctl, never a PIN."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from vmctl.clock import duration, rfc3339
from vmctl.lines import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.mail_content import Audio, SyncMail

MAX_LINES = 50
_MAX_PHRASES = 4
_MAX_VALUE = 40  # characters of one value
_MAX_LINE = 140
_SECRET = re.compile(r"(?:^|[._-])(?:pin|password|passcode|secret|token|key)(?:$|[._-])", re.IGNORECASE)


def describe(mail: SyncMail) -> tuple[str, str]:
    """The subject and the summary of a mail, made from its records."""
    phrases = _phrases(mail)
    more = len(phrases) - _MAX_PHRASES
    brings = ", ".join(phrases[:_MAX_PHRASES]) + (f" and {more} more" if more > 0 else "")
    subject = one_line(f"vmctl {mail.sender} to {mail.recipient}: {brings or 'heartbeat, nothing new'}")
    lines = [
        f"A sync mail of vmctl from {mail.sender} to {mail.recipient}, network {mail.network}.",
        f"Sent {rfc3339(mail.sent)}, packet {mail.packet}.",
        "",
        f"It brings {_count(len(mail.records), 'change')} and {_count(len(mail.audio), 'recording')}.",
        *_capped(len(mail.records), map(_record_line, mail.records)),
        *_capped(len(mail.audio), map(_audio_line, mail.audio)),
        "",
        "This text is for people. What counts is in changes.json.",
    ]
    return subject, "\n".join(one_line(line, _MAX_LINE) for line in lines)


def brings_messages(mail: SyncMail) -> bool:
    """Whether some record is a living message that travels whole, not only a mark on one or its deletion."""
    return any(
        _key(record)[0] == "message" and record.get("base") is None and _lives(record) for record in mail.records
    )


def _phrases(mail: SyncMail) -> list[str]:
    messages: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for record in mail.records:
        kind, mailbox, name = _key(record)
        if not _lives(record):
            others[f"deleted {kind}"] += 1
        elif kind == "message" and record.get("base") is None:
            messages[mailbox] += 1
        elif kind == "message":
            others[f"message of {mailbox} changed"] += 1
        else:
            others[f"{' '.join((kind, '/'.join(filter(None, (mailbox, name))))).strip()} changed"] += 1
    phrases = [f"{_count(number, 'message')} for {mailbox}" for mailbox, number in messages.items()]
    phrases += [words if number == 1 else f"{number} times {words}" for words, number in others.items()]
    if not phrases and mail.audio:
        phrases = [_count(len(mail.audio), "recording")]
    return phrases


def _record_line(record: dict[str, Any]) -> str:
    kind, mailbox, name = _key(record)
    what = " ".join((kind, "/".join(filter(None, (mailbox, name))))).strip()
    if not _lives(record):
        return f"- {what}: deleted"
    fields = record.get("fields")
    changes = [_field(str(field), value) for field, value in fields.items()] if isinstance(fields, dict) else []
    return f"- {what}: {', '.join(changes) or 'no field changed'}"


def _field(name: str, value: Any) -> str:
    if not isinstance(value, dict) or value.get("absent") is True:
        return f"{name} removed"
    now = value.get("is")
    if _SECRET.search(name) or isinstance(now, dict | list):  # a list or mapping may hold a PIN further down
        return f"{name} (changed)"
    text = one_line(str(now), _MAX_VALUE)
    return f"{name} = {text}"


def _audio_line(audio: Audio) -> str:
    share = "" if audio.whole else f" of {audio.size}, the rest in other mails"
    lasts = "" if audio.seconds is None else f", {duration(audio.seconds)}"
    return f"- recording {audio.filename}{lasts}, {len(audio.data)} bytes{share}"


def _capped(count: int, lines: Iterator[str]) -> list[str]:
    """So many lines, of which only those are made that are shown."""
    if not count:
        return []
    more = [f"  and {count - MAX_LINES} more"] if count > MAX_LINES else []
    return ["", *islice(lines, MAX_LINES), *more]


def _key(record: dict[str, Any]) -> tuple[str, str, str]:
    kind, _, rest = str(record.get("key")).partition("/")
    mailbox, _, name = rest.partition("/")
    return kind, mailbox, name


def _lives(record: dict[str, Any]) -> bool:
    kept, gone = record.get("kept"), record.get("deleted")
    if not isinstance(kept, dict) or not isinstance(gone, dict):
        return True  # of a later version, perhaps
    return any(_number(number) > _number(gone.get(by)) for by, number in kept.items())


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
