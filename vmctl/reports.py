"""Reports of mail servers on mails that did not arrive (RFC 3464, in a multipart/report of RFC 6522).

A report is a hint, never an acknowledgement: anybody can write one. It counts only where it names a mail that left here,
by its Message-ID, which nobody can guess; then it says why the peer has not got it. Nothing is ever sent for a report.
"""

from __future__ import annotations

import re
from email.parser import BytesParser
from typing import TYPE_CHECKING, NamedTuple

from vmctl.errors import MailGarbage, MailReport
from vmctl.lines import one_line
from vmctl.mail_parts import leaves

if TYPE_CHECKING:
    from email.message import Message

    from vmctl.mail_parts import Part

_MESSAGE_ID = re.compile(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,200}@[A-Za-z0-9.-]{1,253}>", re.ASCII)
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_LARGEST = 64 * 1024  # bytes of one part that is read
_RETURNED = {"message/rfc822", "text/rfc822-headers", "message/rfc822-headers"}
TOO_LARGE = frozenset({"5.2.3", "5.3.4"})  # RFC 3463


class Report(NamedTuple):
    """What became of one mail: `action` is failed, delayed, ...; `status` is a code of RFC 3463 or empty."""

    message_id: str
    action: str
    status: str
    why: str

    @property
    def is_bad(self) -> bool:
        """Whether it says that the mail has not arrived, or not yet; others say how far it came."""
        return self.action in {"failed", "delayed"}


def is_report(raw: bytes) -> bool:
    """Whether a mail says of itself that it is such a report."""
    head = re.split(rb"\r?\n\r?\n", raw[:_LARGEST], maxsplit=1)[0]
    return re.search(rb"(?im)^content-type:\s*multipart/report\b", head) is not None


def read(raw: bytes) -> Report:
    """The report in a mail. Raises MailReport for anything else."""
    try:
        parts = leaves(raw)
    except MailGarbage as error:
        raise _no_report(error.why) from error
    status = next((part for part in parts if part.head.content_type == "message/delivery-status"), None)
    returned = next((part for part in parts if part.head.content_type in _RETURNED), None)
    if status is None or returned is None:
        raise _no_report("it tells no mail and what became of it")
    about = _MESSAGE_ID.search(str(_headers(returned)[0].get("Message-ID", ""))[:1000])
    if about is None:
        raise _no_report("the mail that it returns has no Message-ID")
    fields = next((one for one in _headers(status) if one.get("Action")), None)
    if fields is None:
        raise _no_report("it tells no recipient")
    code = _STATUS.search(str(fields.get("Status", "")))
    why = str(fields.get("Diagnostic-Code", "")).partition(";")[2] or str(fields.get("Status", ""))
    action = one_line(str(fields.get("Action", "")), 20).lower()
    return Report(about[0], action, code[0] if code else "", one_line(why, 200))


def written(report: Report) -> bytes:
    """The report as `read` reads it, and nothing else of the mail that it came in."""
    lines = (
        "MIME-Version: 1.0", 'Content-Type: multipart/report; report-type=delivery-status; boundary="=_report"', "",
        "--=_report", "Content-Type: message/delivery-status", "", f"Action: {report.action}", f"Status: {report.status}",
        f"Diagnostic-Code: smtp; {report.why}", "",
        "--=_report", "Content-Type: text/rfc822-headers", "", f"Message-ID: {report.message_id}", "", "--=_report--", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode("utf-8", "replace")


def _headers(part: Part) -> list[Message]:
    """The blocks of headers in a part, divided by empty lines."""
    text = bytes(memoryview(part.raw)[part.start : min(part.end, part.start + _LARGEST)])
    blocks = [block for block in re.split(rb"\r?\n\r?\n", text) if block.strip()]
    return [BytesParser().parsebytes(block.lstrip() + b"\n\n", headersonly=True) for block in blocks[:20]] or [
        BytesParser().parsebytes(b"")
    ]


def _no_report(why: str) -> MailReport:
    return MailReport("a mail came without a sender that is no report on a mail of this server", why=why)
