"""What mail servers and mailing lists do to the text of a mail that they pass on."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

_FOOTER = "\n_______________________________________________\nlist mailing list\nlist@lists.example\n"


def rewrapped(raw: bytes) -> bytes:
    """Headers folded at other places, renamed in case, and some added, as by a spam filter."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = []
    for line in re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n"):
        name, _, value = line.partition(b":")
        words = value.split()
        lines.append(name.lower() + b":" + b"".join(b"\r\n\t" + word for word in words))
    added = b"X-Spam-Status: No, score=-1.9\r\nX-Virus-Scanned: yes"
    return b"\r\n".join([added, *lines]) + b"\r\n\r\n" + body


def with_footer(raw: bytes) -> bytes:
    """The mail as a part of another one, with the footer of a mailing list behind it, a tag in the subject and a new sender."""
    inner = email.message_from_bytes(raw)
    outer = MIMEMultipart("mixed")
    body = Message()
    for name in ("Content-Type", "Content-Transfer-Encoding", "Content-Disposition"):
        if name in inner:
            body[name] = inner[name]
            del inner[name]
    body.set_payload(inner.get_payload())
    for name, value in inner.items():
        if name.lower() != "mime-version":
            outer[name] = f"[list] {value}" if name.lower() == "subject" else value
    outer["List-Id"] = "<list.lists.example>"
    outer.attach(body)
    outer.attach(MIMEText(_FOOTER))
    return outer.as_bytes(policy=email.policy.SMTP)


def with_text_behind(raw: bytes) -> bytes:
    """A footer behind the end of the last part, where it belongs to no part."""
    return raw + _FOOTER.replace("\n", "\r\n").encode()


def quoted(raw: bytes) -> bytes:
    """Every part of text or JSON in quoted-printable, as after a downgrade to 7 bits (RFC 6152)."""
    made = email.message_from_bytes(raw)
    for part in made.walk():
        if part.get_content_type() in {"text/plain", "application/json"}:
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            del part["Content-Transfer-Encoding"]
            part["Content-Transfer-Encoding"] = "quoted-printable"
            part.set_payload(_quoted_printable(data))
    return made.as_bytes(policy=email.policy.SMTP)


def _quoted_printable(data: bytes) -> str:
    import quopri

    return quopri.encodestring(data).decode("ascii")
