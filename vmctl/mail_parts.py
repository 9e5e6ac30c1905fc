"""The MIME below a sync mail: parts are written and found here as bytes, headers go through the email package.

The email package rewrites line ends and holds every line as a string, so it never sees a body: a recording of some
megabytes is encoded in one call and found again by its boundary. Nothing here knows what the parts mean.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from email.header import Header
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, NamedTuple

from vmctl.errors import BadValue, MailGarbage
from vmctl.lines import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message

BASE64_LINE = 76  # characters, RFC 2045
BASE64_GROWTH = (BASE64_LINE + 2) / (BASE64_LINE // 4 * 3)  # bytes on the wire for each byte of data
MAX_HEAD = 256 * 1024  # bytes of one header block; relays add a few Received lines
MAX_HEADS = 4 * MAX_HEAD  # bytes of all of them in one mail: a header takes a microsecond or two
MAX_VALUE = 500  # characters of one Content-Type or Content-Disposition
MAX_READABLE = 8 * 1024  # bytes of the text for people
MAX_PARTS = 1200
MAX_DEPTH = 4  # a mailing list may wrap the whole mail once or twice
_MAX_BOUNDARY = 200  # RFC 2046 allows 70

_ENCODING = "Content-Transfer-Encoding"
_BINARY, _ENCODED = (f"{_ENCODING}: {way}\r\n".encode("ascii") for way in ("binary", "base64"))
_PLAIN = re.compile(r"[ -~]{0,900}", re.ASCII)
_AFTER_DELIMITER = re.compile(rb"(--)?[ \t]{0,80}(?:\r?\n|\r?\Z)")
# The headers of an attachment in the form in which `data_part` writes them: for thousands the email package takes long.
_OURS = re.compile(
    rb'Content-Type: ([a-z]+/[a-z0-9-]+);\r\n name="([A-Za-z0-9._-]+)"\r\n'
    rb"Content-Transfer-Encoding: (binary|base64)\r\n"
    rb'Content-Disposition: attachment;\r\n filename="\2"\r\n'
    rb"(?:Content-(?:ID|Duration): [!-~]{1,200}\r\n){0,2}\r\n"
)
_LONGEST_OURS = 1200  # bytes
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_NOT_IN_A_FILENAME = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


class Head(NamedTuple):
    """What the headers of a part say: such as `audio/wav`, and how its body is encoded, both in lower case.

    The name under which it is attached comes from outside and is never a path. `boundary` is None where none can be read.
    """

    content_type: str
    filename: str
    encoding: str
    boundary: str | None = ""


class Part(NamedTuple):
    """One leaf of a mail: its headers, and where its body lies in the mail."""

    head: Head
    raw: bytes
    start: int
    end: int

    def content(self) -> bytes:
        """The body, decoded. Raises MailGarbage."""
        body = memoryview(self.raw)[self.start : self.end]
        try:
            if self.head.encoding == "base64":
                return binascii.a2b_base64(body)
            if self.head.encoding == "quoted-printable":
                return binascii.a2b_qp(body)
        except binascii.Error as error:
            raise garbage(f"the base64 of a part is broken: {error}") from error
        return bytes(body)


def garbage(why: str) -> MailGarbage:
    """The error for a mail that cannot be read."""
    return MailGarbage("this is not a whole sync mail", why=why)


def safe_filename(text: str) -> str:
    """A name of ASCII letters, digits, `.`, `_` and `-` that is no path and not hidden."""
    return _NOT_IN_A_FILENAME.sub("_", text).lstrip(".")[:120] or "recording"


def header(name: str, value: str, /, **parameters: str) -> bytes:
    """One header, each parameter on a line of its own. Raises BadValue for what is not plain ASCII: nothing can smuggle a second line in."""
    if not all(map(_PLAIN.fullmatch, (value, *parameters.values()))):
        raise BadValue(
            f"the mail header {name} cannot be {value[:60]!r}",
            why="it has other characters than printable ASCII, or too many",
            hint="correct the value in vmctl.yaml",
        )
    folded = "".join(f';\r\n {key}="{text}"' for key, text in parameters.items())
    return f"{name}: {value}{folded}\r\n".encode("ascii")


def subject(text: str) -> bytes:
    """The Subject line, folded, encoded where it is not ASCII (RFC 2047)."""
    line = one_line(text)
    charset = "us-ascii" if line.isascii() else "utf-8"
    folded = Header(line, charset, maxlinelen=BASE64_LINE, header_name="Subject").encode(linesep="\r\n")
    return f"Subject: {folded}\r\n".encode("ascii")


def text_part(text: str) -> bytes:
    """A readable part: UTF-8 in quoted-printable (RFC 2045), cut to MAX_READABLE bytes."""
    lines = "\n".join(text.splitlines()).encode("utf-8", "replace")
    if len(lines) > MAX_READABLE:
        lines = lines[:MAX_READABLE].decode("utf-8", "ignore").encode("utf-8") + b"\n..."
    body = binascii.b2a_qp(lines, istext=True).replace(b"\n", b"\r\n")
    head = header("Content-Type", "text/plain", charset="utf-8") + header(
        "Content-Transfer-Encoding", "quoted-printable"
    )
    return head + b"\r\n" + body


def data_part(
    content_type: str, filename: str, data: bytes, extra: Iterable[tuple[str, str]] = (), *, binary: bool = False
) -> bytes:
    """An attachment in base64, or as it is."""
    head = [
        header("Content-Type", content_type, name=filename),
        header("Content-Transfer-Encoding", "binary" if binary else "base64"),
        header("Content-Disposition", "attachment", filename=filename),
        *(header(name, value) for name, value in extra),
    ]
    return b"".join(head) + b"\r\n" + (data if binary else _base64(data))


def multipart(head: Iterable[bytes], boundary: str, parts: Iterable[bytes]) -> bytes:
    """The whole mail.

    Parts in base64 or quoted-printable cannot hold a boundary that begins with `=_`; into binary ones nobody can put one
    that is made of a signature over them.
    """
    delimiter = f"\r\n--{boundary}".encode("ascii")
    pieces = [
        *head,
        header("MIME-Version", "1.0"),
        header("Content-Type", "multipart/mixed", boundary=boundary),
        b"\r\nThis mail has several parts. A reader that knows MIME shows them.\r\n",
    ]
    for part in parts:
        pieces += (delimiter, b"\r\n", part)
    return b"".join([*pieces, delimiter, b"--\r\n"])


def leaves(raw: bytes) -> list[Part]:
    """Every part that is no multipart itself, in order; line ends may be CRLF or LF. Raises MailGarbage."""
    walk = _Walk(raw)
    walk.into(0, len(raw), 0)
    return walk.found


def in_base64(raw: bytes) -> bytes:
    """A mail that `multipart` made, its binary parts in base64: for a server that takes lines only. Raises MailGarbage."""
    pieces, at = [], 0
    for part in leaves(raw):
        if part.head.encoding == "binary":
            mark = raw.rindex(_BINARY, at, part.start)
            pieces += [
                raw[at:mark],
                _ENCODED,
                raw[mark + len(_BINARY) : part.start],
                _base64(raw[part.start : part.end]),
            ]
            at = part.end
    return b"".join([*pieces, raw[at:]])


class _Walk:
    """The way through a mail, from part to part."""

    def __init__(self, raw: bytes) -> None:
        self.found: list[Part] = []
        self._raw = raw
        self._heads = 0  # bytes of all header blocks up to here

    def into(self, start: int, end: int, depth: int) -> None:
        """Find the leaves of what lies between two places."""
        head, body = _head(self._raw, start, end)
        self._heads += body - start
        if self._heads > MAX_HEADS:
            raise garbage(f"its header blocks are longer than {MAX_HEADS} bytes")
        if not head.content_type.startswith("multipart/"):
            if depth == 0:
                raise garbage("it has no parts")
            self.found.append(Part(head, self._raw, body, end))
            return
        if depth >= MAX_DEPTH:
            raise garbage(f"its parts are nested more than {MAX_DEPTH} deep")
        for part_start, part_end in _pieces(self._raw, body, end, _boundary(head)):
            if len(self.found) >= MAX_PARTS:
                raise garbage(f"it has more than {MAX_PARTS} parts")
            self.into(part_start, part_end, depth + 1)


def _head(raw: bytes, start: int, end: int) -> tuple[Head, int]:
    """The headers at a place, and where what they are of begins."""
    ours = _OURS.match(raw, start, min(end, start + _LONGEST_OURS))
    if ours is not None:
        content_type, filename, encoding = (text.decode("ascii") for text in ours.groups())
        return Head(content_type, filename, encoding), ours.end()
    for empty in (b"\r\n", b"\n"):
        if raw.startswith(empty, start, end):
            return Head("text/plain", "", "7bit"), start + len(empty)
    mark = _HEAD_END.search(raw, start, min(end, start + MAX_HEAD))
    if mark is None and end - start > MAX_HEAD:
        raise garbage(f"a header block is longer than {MAX_HEAD} bytes")
    head_end, body = (end, end) if mark is None else mark.span()
    headers = BytesHeaderParser().parsebytes(raw[start:head_end])
    # the email package takes quadratic time over the parameters of a long value
    if any(len(str(headers.get(name, ""))) > MAX_VALUE for name in ("Content-Type", "Content-Disposition")):
        raise garbage(f"a Content header is longer than {MAX_VALUE} characters")
    return _said(headers), body


def _said(headers: Message) -> Head:
    content_type, filename, boundary = "application/octet-stream", "", None
    # the email package raises what it likes on a hostile header
    with contextlib.suppress(Exception):
        content_type = headers.get_content_type()
    with contextlib.suppress(Exception):
        filename = headers.get_filename() or ""
    with contextlib.suppress(Exception):
        boundary = headers.get_boundary() or ""
    return Head(content_type, filename, str(headers.get(_ENCODING, "7bit")).strip().lower(), boundary)


def _boundary(head: Head) -> bytes:
    try:
        if head.boundary is None:
            raise garbage("its boundary cannot be read")
        boundary = head.boundary.encode("ascii")
    except UnicodeEncodeError as error:
        raise garbage("its boundary cannot be read") from error
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise garbage("it names no boundary between its parts")
    return boundary


def _pieces(raw: bytes, start: int, end: int, boundary: bytes) -> list[tuple[int, int]]:
    delimiter = b"\n--" + boundary
    pieces: list[tuple[int, int]] = []
    begun: int | None = None
    at = raw.find(delimiter, start - 1, end)
    while at >= 0:
        tail = _AFTER_DELIMITER.match(raw, at + len(delimiter), end)
        if tail is None:  # another boundary that begins like ours
            at = raw.find(delimiter, at + 1, end)
            continue
        if begun is not None:
            cut = at - 1 if at > begun and raw.startswith(b"\r", at - 1) else at
            pieces.append((begun, max(begun, cut)))
            if len(pieces) > MAX_PARTS:
                raise garbage(f"it has more than {MAX_PARTS} parts")
        if tail[1]:
            return pieces
        begun = tail.end()
        at = raw.find(delimiter, begun - 1, end)
    raise garbage("it was cut off: the end of its last part is missing")


def _base64(data: bytes) -> bytes:
    text = binascii.b2a_base64(data, newline=False)
    return b"\r\n".join([text[at : at + BASE64_LINE] for at in range(0, len(text), BASE64_LINE)])
