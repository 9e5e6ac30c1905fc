"""Stores of realistic size, made as vmctl would leave them, and a network around them that can be put back to its beginning."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import shutil
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from running import run

from vmctl import identity
from vmctl.model import Tick, created, message_key
from vmctl.store import documents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIRST = 1_760_000_000_000_000  # microseconds: the birth of the first message
_BLOCK = 1 << 24  # bytes of noise at once
_RATE = 8000  # samples of two bytes in a second


class Shape(NamedTuple):
    """How large a store is: mailboxes, messages in each, bytes of each recording; `alone` with no other program beside."""

    name: str
    boxes: int
    messages: int
    size: int
    alone: bool = False

    @property
    def total(self) -> int:
        """Messages in all."""
        return self.boxes * self.messages


A = Shape("A", 10, 100, 240_000)
B = Shape("B", 5_000, 20, 2_000)
C = Shape("C", 50_000, 20, 2_000, alone=True)


def smaller(shape: Shape, part: float) -> Shape:
    """The same with fewer mailboxes, or, where there are few, with fewer messages in each."""
    if shape.boxes * part >= 10:
        return shape._replace(boxes=int(shape.boxes * part))
    return shape._replace(messages=max(1, int(shape.messages * part)))


@dataclass
class Site:
    """A network of two servers whose primary holds a store of this shape, and whose secondary is empty."""

    root: Path
    shape: Shape
    in_step: bool = False  # whether a first copy was made since it was put back to its beginning

    @classmethod
    def build(cls, root: Path, shape: Shape) -> Site:
        """Make it."""
        made = cls(root, shape)
        made._call("init", str(root))
        shutil.copytree(root, made._pristine)
        incarnation = identity.read(root / "primary", root.name, "primary").incarnation
        for number in range(shape.boxes):
            made._mailbox(f"{20_000 + number}", number, incarnation)
        return made

    @property
    def primary(self) -> Path:
        """Its store."""
        return self.root / "primary"

    @property
    def secondary(self) -> Path:
        """Its store."""
        return self.root / "secondary"

    @property
    def _pristine(self) -> Path:
        return self.root.with_name(f"{self.root.name}.pristine")

    def begin(self) -> None:
        """As if nothing had been synchronized yet."""
        self.in_step = False
        gone = self.root.with_name(f"{self.root.name}.gone")
        put_aside(self.secondary, gone)
        shutil.copytree(self._pristine / "secondary", self.secondary)
        put_aside(self.primary / ".vmctl", gone)
        shutil.copytree(self._pristine / "primary/.vmctl", self.primary / ".vmctl")
        os.sync()

    def _call(self, *words: str) -> None:
        done = run(*words, cwd=self.root.parent)
        assert done.returncode == 0, done.stderr

    def _mailbox(self, extension: str, number: int, incarnation: str) -> None:
        box = self.primary / "mailboxes" / extension
        (box / "messages").mkdir(parents=True)
        (box / "mailbox.yaml").write_text(f"name: Subscriber {extension}\nquota: 1000\n")
        for at in range(self.shape.messages):
            write_message(box / "messages", extension, number * self.shape.messages + at, self.shape.size, incarnation)


def put_aside(folder: Path, gone: Path) -> None:
    """Take a folder out of the way, into `gone`, until all is measured.

    It is not removed: for a while ext4 goes around the inodes of what was, which makes new files slow for whoever is next.
    """
    if folder.exists():
        gone.mkdir(exist_ok=True)
        folder.rename(gone / f"{folder.name}-{secrets.token_hex(4)}")


def write_message(folder: Path, extension: str, number: int, size: int, incarnation: str) -> str:
    """A message with both its files; its id. The same number is the same message."""
    ident = f"{_FIRST // 1_000_000 + number}-{number:08x}"
    digest = hashlib.sha256()
    with (folder / f"{ident}.wav").open("wb") as file:
        for part in recording(number, size):
            file.write(part)
            digest.update(part)
    tick = Tick(_FIRST + number, incarnation)
    document = {
        "status": "new", "from": f"+4930{number % 10_000_000:07d}", "received": "2026-06-01T12:00:00Z",
        "seconds": (size - 44) / (2 * _RATE),
        "audio": {"sha256": digest.hexdigest(), "size": size, "format": "wav"},
    }  # fmt: skip
    record = created(message_key(extension, ident), document, tick, tick.number)
    (folder / f"{ident}.json").write_bytes(documents.write_message(record))
    return ident


def recording(number: int, size: int) -> Iterator[bytes]:
    """A WAV file of so many bytes of noise, in parts; other numbers are other noise, which nothing compresses.

    Never all of it at once: what this process has needed counts as the need of each that it starts (getrusage(2)).
    """
    noise = random.Random(number)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    yield struct.pack("<4sI4s", b"RIFF", size - 8, b"WAVE") + form + struct.pack("<4sI", b"data", size - 44)
    for at in range(0, size - 44, _BLOCK):
        yield noise.randbytes(min(_BLOCK, size - 44 - at))
