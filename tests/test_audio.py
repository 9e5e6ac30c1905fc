"""Recordings: what plays is measured, what does not is refused with the reason, and no bytes end in another error."""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.audio import Recording, digest_of, inspect, wav_seconds
from vmctl.errors import BadAudio, StoreUnusable

LONG = 3600.0


def sound(frames=8000, *, rate=8000, channels=1, width=2):
    """The bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate)
        wav.writeframes(bytes(frames * channels * width))
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    """Where the recording of a test lies."""
    return tmp_path / "x.wav"


def test_a_recording_is_known_by_its_bytes(path):
    """Digest, size, format and length; the document's field holds the first three."""
    data = sound(4000)
    path.write_bytes(data)
    found = inspect(path, formats=("wav",), longest=LONG)
    assert found == Recording(hashlib.sha256(data).hexdigest(), len(data), "wav", 0.5)
    assert found.as_field() == {"sha256": found.sha256, "size": len(data), "format": "wav"}
    assert digest_of(path) == (found.sha256, found.size)


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [
        ({"frames": 1}, 0.0), ({"frames": 8000, "channels": 2}, 1.0), ({"frames": 44100, "rate": 44100, "width": 1}, 1.0),
        ({"frames": 1000, "width": 3}, 0.125), ({"frames": 700_000}, 87.5),
    ],
)  # fmt: skip
def test_the_length_is_counted_in_frames(path, shape, seconds):
    """Channels, sample widths and rates do not matter, nor whether it is read in one piece."""
    path.write_bytes(sound(**shape))
    assert seconds == wav_seconds(path, LONG)


def test_other_formats_are_taken_as_they_are(tmp_path):
    """A format that the config allows is known by its suffix, in small letters, and its length is not."""
    path = tmp_path / "x.GSM"
    path.write_bytes(b"gsm")
    assert inspect(path, formats=("wav", "gsm"), longest=LONG).seconds is None
    assert inspect(path, formats=("wav", "gsm"), longest=LONG).format == "gsm"


@pytest.mark.parametrize("name", ["x.mp3", "x", "wav", ".wav", "x.wav.exe", "x.wav "])
def test_a_format_that_is_not_allowed_is_refused(tmp_path, name):
    """The suffix decides; the allowed ones are named."""
    path = tmp_path / name
    path.write_bytes(sound())
    with pytest.raises(BadAudio, match="not of an allowed format") as caught:
        inspect(path, formats=("wav",), longest=LONG)
    assert "wav" in caught.value.why


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"not audio at all", "no WAV file that can be played"),
        (sound()[:20], "no WAV file that can be played"),
        (b"RIFX" + sound()[4:], "no WAV file that can be played"),
        (sound(0), "without a single frame"),
        (sound()[:44], "without a single frame"),
        (sound()[:45], "without a single frame"),
        (sound()[:-2], "is cut off"),
        (sound()[:-1], "is cut off"),
        (sound(8000 * 61), "is too long"),
    ],
)
def test_what_does_not_play_is_refused(path, data, words):
    """Empty, foreign, cut off, silent in its header or too long: each is named."""
    path.write_bytes(data)
    with pytest.raises(BadAudio, match=words):
        inspect(path, formats=("wav",), longest=60.0)


def test_a_missing_file_is_no_bad_recording(tmp_path):
    """What cannot be read is the store's fault, not the caller's."""
    for path in (tmp_path / "gone.wav", tmp_path):
        with pytest.raises(StoreUnusable, match="cannot read"):
            digest_of(path)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=80)
    | st.tuples(st.lists(st.tuples(st.integers(0, 43), st.integers(0, 255)), max_size=4), st.integers(0, 64)).map(
        lambda change: _mangled(sound(10), *change)
    )
)
def test_no_bytes_end_in_another_error(data):
    """Whatever the header says, the file plays for a length in bounds or is refused."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.wav"
        path.write_bytes(data)
        try:
            seconds = wav_seconds(path, LONG)
        except BadAudio:
            return
    assert 0 <= seconds <= LONG


def _mangled(data, changes, length):
    mangled = bytearray(data)
    for place, value in changes:
        mangled[place] = value
    return bytes(mangled[:length] if length > 44 else mangled)
