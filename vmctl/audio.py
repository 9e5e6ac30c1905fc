"""Recordings: what one holds, and whether it can be played."""

from __future__ import annotations

import hashlib
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmctl import beneath
from vmctl.clock import duration
from vmctl.errors import BadAudio, StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path

WAV = "wav"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of a recording: digest, size in bytes, format, and for a WAV its length in seconds."""

    sha256: str
    size: int
    format: str
    seconds: float | None

    def as_field(self) -> dict[str, Any]:
        """The `audio` field of a document."""
        return {"sha256": self.sha256, "size": self.size, "format": self.format}


def inspect(path: Path, *, formats: tuple[str, ...], longest: float) -> Recording:
    """What the file holds. Raises BadAudio unless it is a WAV that plays, or another format that is allowed.

    `longest` is in seconds. A format other than WAV is known by its file's suffix and taken as it is.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in formats:
        raise BadAudio(f"{path} is not of an allowed format", why=f"allowed are: {', '.join(formats)}")
    if not beneath.is_there(path):
        raise BadAudio(f"there is no file {path}", hint="name a WAV file (PCM) that is there")
    if path.is_dir():
        raise BadAudio(f"{path} is a directory", hint="name a WAV file (PCM)")
    digest, size = digest_of(path)
    if size == 0:
        raise BadAudio(f"{path} is empty")
    return Recording(digest, size, form, wav_seconds(path, longest) if form == WAV else None)


def digest_of(path: Path | str) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a file. Raises StoreUnusable."""
    sha, size = hashlib.sha256(), 0
    try:
        for block in beneath.blocks(path, _BLOCK):
            sha.update(block)
            size += len(block)
    except OSError as error:
        raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error
    return sha.hexdigest(), size


def wav_seconds(path: Path, longest: float) -> float:
    """How long a PCM WAV plays, counted from the frames that are really there. Raises BadAudio."""
    try:
        with beneath.file(path) as plain, wave.open(plain, "rb") as file:
            rate, said, width = file.getframerate(), file.getnframes(), file.getnchannels() * file.getsampwidth()
            there = 0
            while block := file.readframes(max(1, _BLOCK // max(width, 1))):
                there += len(block)
    except (OSError, EOFError, wave.Error, ValueError, ZeroDivisionError, RuntimeError) as error:  # all are wave's own
        raise BadAudio(f"{path} is no WAV file that can be played", why=str(error) or type(error).__name__) from error
    if rate <= 0 or width <= 0 or there < width:
        raise BadAudio(f"{path} is a WAV file without a single frame of sound")
    if there != said * width:
        raise BadAudio(f"{path} is cut off", why=f"its header says {said} frames, {there // width} are there")
    if said / rate > longest:
        words = f"it plays {duration(said / rate)}, audio.longest is {duration(longest)}"
        raise BadAudio(f"{path} is too long", why=words, hint="shorten it, or raise 'audio.longest' in vmctl.yaml")
    return round(said / rate, 3)
