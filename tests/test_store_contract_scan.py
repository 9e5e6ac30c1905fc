"""The contract of a store's format, on what a scan makes of what people and the application did to the files."""

import functools
import os
import sys

import pytest
from contract import shown, there
from hands import WAYS_TO_SAVE
from wire import SETTLE

from vmctl import beneath
from vmctl.model import (
    CALLFLOW,
)  # fmt: skip
from vmctl.store.format import STATE

_touched = None


def _watch(event, args):
    if _touched is not None and event in {"open", "os.scandir", "os.listdir"} and not isinstance(args[0], int):
        _touched.append(os.fsdecode(args[0]))


@functools.cache
def _watching():
    sys.addaudithook(_watch)  # for good: Python has no way to take one out


@pytest.fixture
def touched(monkeypatch):
    """Tells what a piece of work opens and lists under a folder, vmctl's own files left out."""

    def watch(act, root):
        global _touched  # noqa: PLW0603 - an audit hook has no other place
        _watching()
        _touched = []
        opened = beneath.open

        def seen(path, *words, **more):
            _touched.append(str(path))  # the audit hook sees no more of it than its last name
            return opened(path, *words, **more)

        try:
            with monkeypatch.context() as patch:
                patch.setattr(beneath, "open", seen)
                act()
        finally:
            paths, _touched = _touched, None
        below = [path.removeprefix(f"{root}/") for path in paths if path.startswith(f"{root}/")]
        return [path for path in below if not path.startswith(STATE)]

    return watch


def test_a_scan_of_an_untouched_store_opens_nothing(pair, recording, touched):
    """No file is opened, and no message folder listed, when nothing changed since the last scan."""
    desk = pair.desk()
    desk.set_callflow("main", "greet: hello\n")
    desk.set_prompt("welcome", recording())
    desk.set_greeting("2001", "busy", recording())
    desk.leave("2001", recording())
    pair.in_step()
    pair.clock.advance(5)
    pair.scan()
    root, store = pair.root(), pair.store
    paths = touched(pair.a.scan, root)
    assert [] == [path for path in paths if (root / path).is_file()]
    assert store.folder("2001") not in paths
    pair.tick()
    pair.hand.leave("2001", "m1", recording().read_bytes())
    pair.clock.advance(SETTLE + 0.01)
    paths = touched(pair.a.scan, root)
    assert {store.path("message/2001/m1"), store.folder("2001")} <= set(paths)  # so it would have been seen
    assert store.path("mailbox/2001") not in paths


@pytest.mark.parametrize("save", WAYS_TO_SAVE)
def test_an_edit_is_seen_however_it_is_saved(pair, save):
    """Of the same size and with the same times, or bit by bit: what a person saved is at the peer."""
    path = pair.hand.mailbox_file("2001")
    before = pair.hand.mailbox_text(name="Ada", service="voicemail")
    path.write_bytes(before)
    pair.in_step()
    after = before.replace(b"Ada", b"Eve")
    assert len(before) == len(after)
    save(path, after)
    pair.in_step()
    assert "Eve" == pair.b.store.document("mailbox/2001")["name"]


def test_a_half_written_document_is_no_edit(pair):
    """Whatever part of a file is on disk when a scan comes, only what stood still is taken."""
    path = pair.hand.mailbox_file("2001")
    whole = pair.hand.mailbox_text(name="Augusta", language="en-GB", quota=40)
    pair.clock.as_files()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        assert [] == pair.a.scan().changed
    path.write_bytes(whole)
    pair.in_step()
    assert "Augusta" == pair.b.store.document("mailbox/2001")["name"]
    assert 0 == pair.a.index.count("kind = 'conflict'")


def test_a_broken_document_is_named_stays_and_ships_nothing(pair):
    """A file that is none is a fault with its path, stays as it is byte for byte, and its cure is taken."""
    path = pair.hand.mailbox_file("2001")
    for text in pair.hand.broken_texts():
        path.write_bytes(text)
        pair.scan()
        assert {pair.store.path("mailbox/2001")} == pair.faults(), text
        assert text == path.read_bytes()
        assert 0 == pair.a.index.pending_count()
    path.write_bytes(pair.hand.mailbox_text(name="Bob"))
    pair.in_step()
    assert set() == pair.faults()
    assert "Bob" == pair.b.store.document("mailbox/2001")["name"]


def test_a_huge_document_is_named_and_not_read(pair, touched):
    """A file beyond the limit is a fault: it is not taken, and the memory that it would need is not asked for."""
    path = pair.hand.mailbox_file("2001")
    with path.open("ab") as file:
        file.truncate(1 << 40)
    pair.scan()
    assert {pair.store.path("mailbox/2001")} == pair.faults()
    assert 0 == pair.a.index.pending_count()
    with path.open("ab") as file:
        file.truncate(0)
    path.write_bytes(pair.hand.mailbox_text(name="Bob"))
    pair.in_step()


def test_a_document_absent_for_a_moment_is_not_deleted(pair):
    """Gone at one look and there at the next: nothing happened. Gone at both: deleted, on both servers."""
    path = pair.hand.callflow_file("main")
    path.parent.mkdir(exist_ok=True)
    path.write_text("greet: hello\n")
    pair.in_step()
    away = pair.directory / "away"
    path.rename(away)
    assert [] == pair.a.scan().changed
    away.rename(path)
    pair.in_step()
    assert ["main"] == pair.b.store.names(CALLFLOW)
    path.unlink()
    pair.in_step()
    assert [] == pair.b.store.names(CALLFLOW)


def test_a_message_of_the_application_is_taken_marked_and_deleted(pair, sound):
    """Left, marked and removed by the application alone: each is at the peer after a scan."""
    audio = sound()
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    assert audio == pair.hands["secondary"].recording("2001", "m1")
    pair.hand.mark("2001", "m1", "saved")
    pair.in_step()
    assert "saved" == pair.b.store.document("message/2001/m1")["status"]
    pair.hand.remove("2001", "m1")
    pair.in_step()
    assert [] == there(pair)
    assert [] == there(pair, "primary")


def test_a_message_is_taken_when_all_of_it_is_there(pair, sound):
    """Its recording alone, or its document alone, is nothing yet, and nothing wrong at once."""
    audio = sound()
    for ident, halves in {
        "m1": (lambda: pair.hand.begin("2001", "m1", audio), lambda: pair.hand.finish("2001", "m1")),
        "m2": (lambda: pair.hand.finish("2001", "m2"), lambda: pair.hand.begin("2001", "m2", audio)),
    }.items():
        pair.clock.as_files()
        halves[0]()
        assert [] == pair.a.scan().changed
        assert set() == pair.faults()
        assert not pair.lives(f"message/2001/{ident}")
        halves[1]()
        pair.in_step()
        assert ident in there(pair)


def test_a_half_written_message_loses_and_changes_nothing(pair, sound):
    """Half of a document that was whole is a fault: the message stays at the peer, and its cure is no change."""
    pair.hand.leave("2001", "m1", sound())
    pair.in_step()
    whole = pair.hand.cut_off("2001", "m1")
    pair.scan()
    pair.exchange()
    assert {pair.store.path("message/2001/m1")} == pair.faults()
    assert ["m1"] == there(pair)
    pair.hand.mend("2001", "m1", whole)
    pair.in_step()
    assert set() == pair.faults()


@pytest.mark.parametrize("harm", ["lose_recording", "spoil_recording"])
def test_a_harmed_recording_is_damage_and_comes_back(pair, sound, harm):
    """Gone, or with other bytes under the same size and times: no deletion and no edit, and the peer's is fetched."""
    audio = sound()
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    number = pair.a.index.last_number
    getattr(pair.hand, harm)("2001", "m1")
    assert ["message/2001/m1"] == pair.scan(full=True).damaged
    assert 1 == len(pair.faults())
    assert number == pair.a.index.last_number
    pair.in_step()
    assert [audio, audio] == [hand.recording("2001", "m1") for hand in pair.hands.values()]
    assert set() == pair.faults()


def test_a_copied_message_harms_neither(pair, sound):
    """Files copied to another mailbox are a message of their own or named; the first stays what it was."""
    audio = sound()
    pair.desk().create_mailbox("2002", {})
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    pair.hand.copy("2001", "m1", "2002")
    pair.scan()
    pair.exchange()
    assert ["m1"] == there(pair)
    assert audio == pair.hands["secondary"].recording("2001", "m1")
    copied = pair.messages("2002", "secondary")
    assert bool(copied) != bool(pair.faults())


def test_litter_is_named_and_left_alone(pair):
    """What belongs to nothing is named, whatever it is called, and neither shipped, changed nor removed."""
    paths = pair.hand.litter()
    before = {path: (pair.root() / path).lstat() for path in paths}
    pair.scan()
    pair.clock.advance(61)
    pair.scan(full=True)
    assert {shown(path) for path in paths} == pair.faults()
    assert 0 == pair.a.index.pending_count()
    pair.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    pair.exchange()
    pair.scan()
    after = {path: (pair.root() / path).lstat() for path in paths}
    assert [(one.st_ino, one.st_size, one.st_mtime_ns) for one in before.values()] == [
        (one.st_ino, one.st_size, one.st_mtime_ns) for one in after.values()
    ]


def test_links_pipes_and_folders_are_named_and_never_followed(pair):
    """What is no plain file is neither read, waited for nor written through."""
    secret = pair.directory / "secret"
    secret.mkdir()
    (secret / "mailbox.yaml").write_text("name: secret\n")
    paths = pair.hand.no_plain_files(secret)
    pair.scan()
    assert paths == pair.faults()
    assert 0 == pair.a.index.pending_count()
    for name in ("linked", "pipe", "folder"):
        pair.desk("secondary").set_callflow(name, "greet: hello\n")
    pair.exchange()
    pair.scan()
    assert ["mailbox.yaml"] == [path.name for path in secret.iterdir()]
    assert paths <= pair.faults()


@pytest.mark.parametrize("which", ["messages", "all"])
def test_a_folder_that_cannot_be_read_deletes_nothing(pair, sound, monkeypatch, which):
    """Its records count as there, it is named, all else goes on, and when it can be read again all is well."""
    pair.desk().create_mailbox("2002", {})
    pair.hand.leave("2001", "m1", sound())
    pair.in_step()
    closed = str(pair.hand.message_folder("2001") if which == "messages" else pair.root())

    def refusing(act):
        def listing(path):
            if str(path) == closed:
                raise PermissionError(13, "Permission denied")
            return act(path)

        return listing

    with monkeypatch.context() as patch:
        for name in ("entries", "names"):
            patch.setattr(beneath, name, refusing(getattr(beneath, name)))
        pair.hand.mailbox_file("2002").write_bytes(pair.hand.mailbox_text(name="Bob"))
        report = pair.scan(full=True)
        assert ([], []) == (report.held, sorted(report.absent))
        assert ["mailbox/2002"] == report.changed
        assert 1 == len(pair.faults())
    pair.in_step()
    assert ["m1"] == there(pair)
    assert set() == pair.faults()
