"""A sealed sync mail: what servers on the way, and whoever has their disks, may see of a sync mail.

    multipart/mixed
    +-- text/plain                               the same words in each
    +-- application/octet-stream  sealed.bin     HPKE over the whole signed mail, headers and all

That is the addresses, when it left, and how long it is. Subject, summary, changes and recordings are inside. Inside they
need no transfer encoding, so a sealed mail is no longer than one that is not.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

from vmctl.mail_parts import data_part, garbage, header, leaves, multipart, text_part

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECT = "vmctl: a sealed sync mail"
_NAME, _TYPE = "sealed.bin", "application/octet-stream"
_TEXT = "This mail is from one voicemail server to the other, and sealed: nobody else can read it.\n"


def wrap(
    content: bytes,
    *,
    sender_address: str,
    recipient_address: str,
    message_id: str,
    sent: int,
    seal: Callable[[bytes], bytes],
) -> bytes:
    """The mail that carries `content` sealed; `sent` in microseconds. The names have been checked by `mail.compose`."""
    sealed = seal(content)
    head = [
        header("From", f"<{sender_address}>"),
        header("To", f"<{recipient_address}>"),
        header("Subject", SUBJECT),
        header("Date", format_datetime(datetime.fromtimestamp(sent // 1_000_000, UTC))),
        header("Message-ID", message_id),
        header("Auto-Submitted", "auto-generated"),  # RFC 3834: no vacation replies
    ]
    boundary = "=_vmctl_" + hashlib.sha256(sealed).hexdigest()[:32]
    return multipart(head, boundary, [text_part(_TEXT), data_part(_TYPE, _NAME, sealed)])


def unwrap(raw: bytes) -> bytes | None:
    """What is sealed in a mail; None where it is not a sealed one. Raises MailGarbage."""
    found = [part for part in leaves(raw) if part.head.content_type == _TYPE and part.head.filename == _NAME]
    if not found:
        return None
    if len(found) > 1:
        raise garbage(f"it has {len(found)} parts named {_NAME}")
    return found[0].content()
