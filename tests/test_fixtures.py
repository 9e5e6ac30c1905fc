"""The fixtures: stores that pass every check, and recordings that every player takes."""

from __future__ import annotations

import array
import re
import runpy
import shutil
import sys
import wave
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from vmctl import callflow, yamltext
from vmctl.fields import check_mailbox
from vmctl.names import GREETINGS, is_extension, is_name

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
STORES = {
    "active-standby/store": "active-standby/messages.yaml",
    "dual-active/primary": "dual-active/messages.yaml",
    "dual-active/secondary": "dual-active/messages.yaml",
}
RECORDINGS = sorted([*FIXTURES.rglob("*.wav"), *(ROOT / "vmctl" / "demo_audio").glob("*.wav")])
DRAMA = re.compile(r"\+44(20 ?7946 ?0|161 ?496 ?0)\d{3}|\d{4}|unknown")


def read(path: Path) -> Any:
    """The value of a YAML file, as vmctl reads it."""
    return yamltext.load(path.read_bytes(), path.name)


def names(folder: Path) -> set[str]:
    """The names of the files or directories in a folder, without their suffix."""
    return {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_recording_is_short_telephone_audio_that_can_be_heard(path: Path) -> None:
    """8 kHz, one channel, 16 bit, 1.5 to 4 seconds, under 64 kB, and neither silent nor clipped all over."""
    assert path.stat().st_size < 64_000
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (8000, 1, 2)
        assert 1.5 <= recording.getnframes() / recording.getframerate() <= 4
        samples = array.array("h", recording.readframes(recording.getnframes()))
    if sys.byteorder == "big":
        samples.byteswap()
    loudness = (sum(sample * sample for sample in samples) / len(samples)) ** 0.5
    assert 500 < loudness < 15_000


def test_all_recordings_together_are_small() -> None:
    """A clone stays quick."""
    assert sum(path.stat().st_size for path in RECORDINGS) < 1_000_000


def test_make_py_lists_exactly_the_recordings_there_are() -> None:
    """Nothing is there that cannot be made again, and nothing is missing."""
    made = runpy.run_path(str(FIXTURES / "make.py"))["RECORDINGS"]
    assert {str(path.relative_to(ROOT)) for path in RECORDINGS} == set(made)


@pytest.mark.skipif(not (shutil.which("espeak-ng") and shutil.which("sox")), reason="needs espeak-ng and sox")
def test_make_py_makes_a_recording(tmp_path: Path) -> None:
    """One recording made anew has the form of the others."""
    make = runpy.run_path(str(FIXTURES / "make.py"))
    make["speak"](make["ADA"], "This is a test.", tmp_path / "deep" / "test.wav")
    with wave.open(str(tmp_path / "deep" / "test.wav")) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (8000, 1, 2)


@pytest.mark.parametrize("path", sorted(FIXTURES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FIXTURES)))
def test_every_reader_of_yaml_reads_the_same(path: Path) -> None:
    """Numbers, times and dates that are text are quoted, so a reader of YAML 1.1 finds the same values."""
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == read(path)


@pytest.mark.parametrize("store", STORES)
def test_callflows_are_faultless(store: str) -> None:
    """Each store has a checked callflow by day and night, and every checked one passes."""
    root = FIXTURES / store
    documents = [read(path) for path in sorted((root / "callflows").iterdir())]
    checked = [document for document in documents if callflow.is_checked(document)]
    known = {"prompts": names(root / "prompts"), "mailboxes": names(root / "mailboxes")}
    assert any(node["type"] == "schedule" for document in checked for node in document["nodes"].values())
    for document in checked:
        assert not callflow.check(document, **known)


@pytest.mark.parametrize("store", STORES)
def test_every_prompt_is_heard_in_a_callflow(store: str) -> None:
    """No prompt lies there unused."""
    root = FIXTURES / store
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "callflows").iterdir())
    assert names(root / "prompts") == set(re.findall(r"prompt: ([\w-]+)", text))


@pytest.mark.parametrize("store", STORES)
def test_mailboxes_are_whole(store: str) -> None:
    """Fields hold what they may, lists name mailboxes, the greeting in use is recorded, and names can be paths."""
    root = FIXTURES / store / "mailboxes"
    there = names(root)
    for folder in sorted(root.iterdir()):
        mailbox = read(folder / "mailbox.yaml")
        greetings = names(folder / "greetings") if (folder / "greetings").exists() else set()
        assert is_extension(folder.name)
        assert check_mailbox(mailbox)["name"]
        assert greetings <= set(GREETINGS)
        assert {mailbox["greeting"]} <= greetings if "greeting" in mailbox else greetings <= {"name"}
        assert {member for members in mailbox.get("lists", {}).values() for member in members} <= there
        if store.startswith("dual"):
            assert mailbox["service"] == Path(store).name


def test_each_mode_has_about_six_mailboxes_and_no_extension_twice() -> None:
    """The two sites of dual-active join without a conflict."""
    boxes = {store: names(FIXTURES / store / "mailboxes") for store in STORES}
    assert len(boxes["active-standby/store"]) >= 6
    assert len(boxes["dual-active/primary"] | boxes["dual-active/secondary"]) >= 6
    assert not boxes["dual-active/primary"] & boxes["dual-active/secondary"]


@pytest.mark.parametrize("store", STORES)
def test_settings_are_sections_of_scalars_or_lists(store: str) -> None:
    """The unit of replication is section.key, so a section is a mapping and a value is flat."""
    for section, keys in read(FIXTURES / store / "settings.yaml").items():
        assert is_name(section)
        assert not [key for key, value in keys.items() if isinstance(value, dict)]


@pytest.mark.parametrize("calls", sorted(set(STORES.values())))
def test_calls_can_be_left(calls: str) -> None:
    """Each call names a mailbox and a recording that are there, a number kept for drama, and a time with its zone."""
    boxes = {name for store, file in STORES.items() if file == calls for name in names(FIXTURES / store / "mailboxes")}
    for call in read(FIXTURES / calls):
        assert {"mailbox", "from", "name", "audio", "received"} == set(call)
        assert call["mailbox"] in boxes
        assert (FIXTURES / "audio" / call["audio"]).is_file()
        assert DRAMA.fullmatch(call["from"])
        assert datetime.fromisoformat(call["received"]).tzinfo


def test_every_recording_of_a_call_is_used() -> None:
    """No audio lies there unused."""
    used = {call["audio"] for calls in set(STORES.values()) for call in read(FIXTURES / calls)}
    assert {path.name for path in (FIXTURES / "audio").iterdir()} == used
