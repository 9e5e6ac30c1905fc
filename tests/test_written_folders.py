"""What is put into a message folder is found there at once, by a look at that folder alone; all else takes a whole scan."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from running import until
from wire import Wire, tone

from vmctl.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER = "mailboxes/2001/messages"


@pytest.fixture
def box(wire: Wire) -> Path:
    """The folder of messages of mailbox 2001, which is known and holds one."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.desk().leave("2001", tone(wire.directory / "first.wav"))
    wire.in_step()
    return wire.root() / FOLDER


def never_still(wire: Wire) -> None:
    """No file has stood still for as long as it has to."""
    wire.a.scanner._settle = 1e12


def document(sound: bytes) -> dict[str, Any]:
    """What an application writes that names its recording."""
    audio = {"sha256": hashlib.sha256(sound).hexdigest(), "size": len(sound), "format": "wav"}
    return {"from": "+4930123", "received": "2026-06-01T12:00:00Z", "status": "new", "audio": audio}


def drop(box: Path, ident: str, sound: bytes, words: dict[str, Any]) -> None:
    """Both files of a message."""
    (box / f"{ident}.wav").write_bytes(sound)
    (box / f"{ident}.json").write_text(json.dumps(words))


def test_a_message_that_names_its_recording_is_taken_at_once(wire: Wire, box: Path) -> None:
    """It is complete, so nobody waits for it to stand still; in the same moment it is on its way."""
    never_still(wire)
    sound = tone(wire.directory / "new.wav", seed=7).read_bytes()
    drop(box, "m1", sound, document(sound))
    report = wire.a.scan_folders({FOLDER})
    assert report is not None
    assert report.changed == ["message/2001/m1"]
    wire.send("primary")
    wire.deliver()
    assert (wire.root("secondary") / FOLDER / "m1.wav").read_bytes() == sound


def test_a_document_that_was_taken_at_once_is_not_replaced_while_it_may_be_open(wire: Wire, box: Path) -> None:
    """What its writer writes next, into the same file, is an edit as any other, and is at both servers in the end."""
    never_still(wire)
    sound = tone(wire.directory / "new.wav", seed=7).read_bytes()
    (box / "m1.wav").write_bytes(sound)
    with (box / "m1.json").open("w") as file:
        file.write(json.dumps(document(sound)))
        file.flush()
        report = wire.a.scan_folders({FOLDER})
        assert report is not None
        assert report.unsettled == {f"{FOLDER}/m1.json"}
        wire.a.take()
        file.seek(0)
        file.truncate()
        file.write(json.dumps(document(sound) | {"transcript": "call me back"}))
    wire.a.scanner._settle = 0.0
    wire.in_step()
    for name in wire.servers:
        assert wire.servers[name].store.document("message/2001/m1")["transcript"] == "call me back"


def test_a_folder_that_a_link_leads_to_is_left_to_a_scan(wire: Wire, box: Path) -> None:
    """Nothing is raised for it, and nothing done."""
    box.parent.rename(wire.directory / "elsewhere")
    box.parent.symlink_to(wire.directory / "elsewhere")
    assert wire.a.scan_folders({FOLDER}) is None


@pytest.mark.parametrize("whole", [True, False])
def test_one_that_is_not_complete_is_looked_at_again(wire: Wire, box: Path, *, whole: bool) -> None:
    """Without a digest, or while its recording is still being written, it has to stand still first."""
    never_still(wire)
    sound = tone(wire.directory / "new.wav", seed=7).read_bytes()
    words = document(sound)
    if whole:
        del words["audio"]
    drop(box, "m1", sound if whole else sound[:50], words)
    report = wire.a.scan_folders({FOLDER})
    assert report is not None
    assert report.unsettled == {f"{FOLDER}/m1.json"}
    assert report.changed == []
    assert wire.faults() == set()


@pytest.mark.parametrize("act", ["removed", "older", "folder removed"])
def test_what_takes_more_than_a_look_at_a_folder_is_left_to_a_scan(wire: Wire, box: Path, act: str) -> None:
    """Something is gone, or was put back from a backup: nothing is done by such a look."""
    (path,) = box.glob("*.json")
    if act == "removed":
        path.unlink()
    elif act == "older":
        os.utime(path, (1, 1))
    else:
        for each in box.iterdir():
            each.unlink()
        box.rmdir()
    before = wire.a.index.last_number
    assert wire.a.scan_folders({FOLDER}) is None
    assert wire.a.index.last_number == before


def test_a_whole_scan_finds_no_more_than_that_look(wire: Wire, box: Path) -> None:
    """What it took in is known, and the folder is left alone."""
    sound = tone(wire.directory / "new.wav", seed=7).read_bytes()
    drop(box, "m1", sound, document(sound))
    wire.a.scan_folders({FOLDER})
    assert wire.scan().changed == []
    wire.exchange()
    assert wire.apart() == []


@pytest.fixture
def hints(tmp_path: Path) -> Any:
    """What a watcher tells of a store, from now on."""
    root = tmp_path / "store"
    (root / FOLDER).mkdir(parents=True)
    told: list[str | None] = []

    def hint(path: str | None, done: bool) -> None:
        if path is None or done:
            told.append(path)

    with Watcher(root, hint) as watcher:
        assert watcher.watching
        yield root, told


def come_by_rename(folder: Path) -> None:
    (folder / ".new").write_text("x")
    (folder / ".new").rename(folder / "m.json")


def written_in_place(folder: Path) -> None:
    (folder / "m.json").write_text("x")


def moved_in(folder: Path) -> None:
    (folder.parents[3] / "outside").write_text("x")
    (folder.parents[3] / "outside").rename(folder / "m.json")


def linked(folder: Path) -> None:
    (folder / ".new").write_text("x")
    (folder / "m.json").hardlink_to(folder / ".new")


@pytest.mark.parametrize("act", [come_by_rename, written_in_place, moved_in, linked])
def test_a_file_that_is_written_is_told_by_its_path(hints: Any, act: Callable[[Path], None]) -> None:
    """However that is done, and nothing else is told: not that somebody's work in progress came and went."""
    root, told = hints
    act(root / FOLDER)
    until(lambda: told, what="a hint")
    (root / "callflows/last.yaml").write_text("x")
    until(lambda: "callflows/last.yaml" in told, what="the last hint")
    assert set(told) == {f"{FOLDER}/m.json", "callflows/last.yaml"}


def test_a_writer_is_done_when_it_closes(hints: Any) -> None:
    """While a call is recorded nobody is told to look: it would be looked at with each word."""
    root, told = hints
    with (root / FOLDER / "m.wav").open("wb", buffering=0) as file:
        until(lambda: f"{FOLDER}/m.wav" in told, what="its beginning")
        told.clear()
        for _ in range(20):
            file.write(b"x" * 100)
        (root / "callflows/now.yaml").write_text("x")
        until(lambda: "callflows/now.yaml" in told, what="another hint")
        assert f"{FOLDER}/m.wav" not in told
    until(lambda: f"{FOLDER}/m.wav" in told, what="the end")


@pytest.mark.parametrize("act", ["removed", "renamed away", "a folder"])
def test_what_is_no_writing_is_told_without_a_path(hints: Any, act: str) -> None:
    """It takes a look at the whole store to tell what that means."""
    root, told = hints
    written_in_place(root / FOLDER)
    until(lambda: told, what="a hint")
    if act == "removed":
        (root / FOLDER / "m.json").unlink()
    elif act == "renamed away":
        (root / FOLDER / "m.json").rename(root / FOLDER / ".m")
    else:
        (root / "mailboxes/2002").mkdir()
    until(lambda: None in told, what="the hint")
