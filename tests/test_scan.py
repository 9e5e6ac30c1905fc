"""What a scan finds: edits by hand, half-written files, absences, damage, litter. Each test is named for its fault."""

import json
import os
import shutil
from pathlib import Path

import pytest
from wire import SETTLE

from vmctl import durable, pin
from vmctl.errors import StoreForeign, StoreMissing, StoreUnusable


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada Byron"})
    wire.in_step()
    return wire.root() / "mailboxes/2001/mailbox.yaml"


def fault_paths(wire, name="primary"):
    return [fault["path"] for fault in wire.servers[name].index.faults.all()]


def test_a_half_written_file_is_not_an_edit(wire, box):
    """A truncated YAML that still parses is left alone until it has stood still, then the whole one is taken."""
    whole = box.read_text().replace("Ada Byron", "Ada Lovelace") + "language: en-GB\n"
    wire.clock.as_files()
    box.write_text("name: Ada\n")
    report = wire.a.scan()
    assert ({"mailboxes/2001/mailbox.yaml"}, []) == (report.unsettled, report.changed)
    box.write_text(whole)
    wire.scan()
    assert "Ada Lovelace" == wire.a.index.get("mailbox/2001").record.document["name"]
    assert 0 == wire.b.index.pending_count()
    assert ["Ada Byron"] == [wire.b.store.document("mailbox/2001")["name"]]


@pytest.mark.parametrize(
    "text", ["name: [", "name: 0123\nname: 5\n", "- a list\n", "quota: many\n", "\x00", "a: &a [*a]\n"]
)
def test_a_broken_file_is_named_stays_and_is_not_shipped(wire, box, text):
    """A YAML that cannot be read is a fault with a path; it stays as it is, nothing leaves, and a cure is taken."""
    good = box.read_text()
    box.write_text(text)
    wire.scan()
    assert ["mailboxes/2001/mailbox.yaml"] == fault_paths(wire)
    assert 0 == wire.a.index.pending_count()
    wire.desk("secondary").set_mailbox("2001", {"language": "en-GB"})
    wire.exchange()
    wire.scan()
    assert text == box.read_text()
    box.write_text(good.replace("Ada Byron", "Ada Lovelace"))
    wire.in_step()
    assert [] == fault_paths(wire)
    assert {"name": "Ada Lovelace", "language": "en-GB", "service": "voicemail"} == wire.b.store.document(
        "mailbox/2001"
    )


def test_a_plain_pin_is_hashed_in_place_and_never_leaves(wire, box):
    """A PIN that a person wrote is hashed in the file; no index, mail or leftover under .vmctl shows it."""
    box.write_text(box.read_text() + 'pin: "730519"\n')
    wire.scan()
    assert "730519" not in box.read_text()
    mails = wire.send("primary")
    wire.deliver()
    wire.in_step()
    assert pin.matches(wire.b.store.document("mailbox/2001")["pin"], "730519")
    assert not any(b"730519" in mail for mail in mails)
    for replica in wire.servers.values():
        for path in replica.store.root.rglob("*"):
            assert path.is_dir() or b"730519" not in path.read_bytes(), path


def test_an_edit_that_keeps_size_and_mtime_is_seen(wire, box):
    """`cp -p` and `touch -r` keep a file's mtime: the change is seen all the same."""
    before = box.stat()
    box.write_text(box.read_text().replace("Ada Byron", "Eve Byron"))
    os.utime(box, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (before.st_size, before.st_mtime_ns) == (box.stat().st_size, box.stat().st_mtime_ns)
    wire.in_step()
    assert "Eve Byron" == wire.b.store.document("mailbox/2001")["name"]


def test_an_old_edit_does_not_beat_a_newer_one(wire, box):
    """A hand edit is stamped with its file's mtime: found a week late, it loses against the peer's of yesterday."""
    old = box.read_text().replace("Ada Byron", "Old Edit")
    wire.clock.advance(7 * 86400)
    wire.desk("secondary").set_mailbox("2001", {"name": "New Edit"})
    box.write_text(old)
    wire.in_step()
    assert "New Edit" == wire.a.store.document("mailbox/2001")["name"]
    assert 1 == wire.a.index.count("kind = 'conflict'")


def test_a_file_absent_for_a_moment_is_no_deletion(wire, box):
    """An editor that renames away first deletes nothing, not even for a whole scan."""
    callflow = wire.root() / "callflows/main.yaml"
    callflow.write_text("greet: hello\n")
    wire.in_step()
    away = wire.directory / "away"
    callflow.rename(away)
    report = wire.a.scan()
    assert ({"callflow/main"}, []) == (report.absent, report.changed)
    away.rename(callflow)
    wire.in_step()
    assert "greet: hello\n" == (wire.root("secondary") / "callflows/main.yaml").read_text()


def test_a_deletion_takes_two_looks(wire, box):
    """A file that is gone counts as deleted only when it is gone `settle` later, too."""
    callflow = wire.root() / "callflows/main.yaml"
    callflow.write_text("greet: hello\n")
    wire.in_step()
    callflow.unlink()
    assert [] == wire.a.scan().changed
    assert [] == wire.a.scan().changed
    wire.clock.advance(SETTLE + 0.01)
    assert ["callflow/main"] == wire.a.scan().changed
    wire.in_step()
    assert not (wire.root("secondary") / "callflows/main.yaml").exists()


def test_a_restart_between_two_looks_starts_over(wire, box):
    """A first look of another process does not count."""
    callflow = wire.root() / "callflows/main.yaml"
    callflow.write_text("greet: hello\n")
    wire.in_step()
    callflow.unlink()
    wire.a.scan()
    wire.crash("primary")
    wire.clock.advance(1)
    assert [] == wire.a.scan().changed


def test_a_mailbox_that_vanished_is_held_until_a_person_says_so(wire, box, recording):
    """`rm -r` of a mailbox deletes nothing by itself, all else goes on, and --accept-deletions lets it go."""
    desk = wire.desk()
    desk.leave("2001", recording())
    desk.create_mailbox("2002", {})
    wire.in_step()
    shutil.rmtree(box.parent)
    (wire.root() / "mailboxes/2002/mailbox.yaml").write_text("name: Bob\n")
    assert 2 == len(wire.scan().held)
    wire.exchange()
    assert {"name": "Bob"} == wire.b.store.document("mailbox/2002")
    assert 1 == len(wire.messages("2001", "secondary"))
    wire.scan(accept_deletions=True)
    wire.exchange()
    assert ["2002"] == wire.b.store.names("mailbox")
    wire.in_step()
    assert not (wire.root("secondary") / "mailboxes/2001").exists()


def test_a_great_part_of_a_mailbox_is_held(wire, box, recording):
    """More than a quarter of a mailbox of four or more messages waits; one of four is a deletion."""
    ids = [wire.desk().leave("2001", recording()) for _ in range(8)]
    wire.in_step()
    for ident in ids[:3]:
        (box.parent / f"messages/{ident}.json").unlink()
        (box.parent / f"messages/{ident}.wav").unlink()
    assert 3 == len(wire.scan().held)
    wire.crash("primary")
    assert 3 == len(wire.scan().held)
    assert 3 == len([path for path in fault_paths(wire) if path.endswith(".json")])


def test_more_than_twenty_records_at_once_are_held(wire):
    """Twenty-one callflows gone at once look like a fault."""
    for number in range(21):
        (wire.root() / f"callflows/c{number}.yaml").write_text("greet: hello\n")
    wire.in_step()
    for path in (wire.root() / "callflows").iterdir():
        path.unlink()
    assert 21 == len(wire.scan().held)
    assert 0 == wire.a.index.pending_count()


def test_an_unmounted_store_is_missing_not_empty(wire, box):
    """Without its identity nothing is scanned, taken in or made, by a running or a starting process."""
    identity = wire.root() / ".vmctl/identity.json"
    wire.send("secondary", always=True)
    away = wire.directory / "away"
    identity.rename(away)
    with pytest.raises(StoreMissing):
        wire.a.scan()
    with pytest.raises(StoreMissing):
        wire.deliver()
    with pytest.raises(StoreMissing):
        wire.open("primary")
    assert not (wire.root() / ".vmctl/spool").exists() or not list((wire.root() / ".vmctl/spool").iterdir())
    shutil.copy(wire.root("secondary") / ".vmctl/identity.json", identity)
    with pytest.raises(StoreForeign):
        wire.a.scan()
    away.rename(identity)
    wire.in_step()


def test_lost_audio_is_fetched_again_and_never_a_deletion(wire, box, recording):
    """A recording that is gone is damage: it is named, fetched from the peer, and its message stays on both."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    audio = box.parent / f"messages/{ident}.wav"
    whole = audio.read_bytes()
    audio.unlink()
    report = wire.scan()
    assert [f"message/2001/{ident}"] == report.damaged
    wire.in_step()
    assert whole == audio.read_bytes()
    assert [] == fault_paths(wire)


def test_damaged_audio_is_set_aside_and_fetched_again(wire, box, recording):
    """Other bytes under a message's name are no edit: the peer's copy stays as it is and comes back."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    audio = box.parent / f"messages/{ident}.wav"
    whole = audio.read_bytes()
    audio.write_bytes(whole[:-2] + b"??")
    assert [f"message/2001/{ident}"] == wire.scan(full=True).damaged
    wire.in_step()
    assert [whole, whole] == [
        (wire.root(name) / f"mailboxes/2001/messages/{ident}.wav").read_bytes() for name in wire.servers
    ]


def test_a_damaged_message_can_be_deleted(wire, box, recording):
    """The peer's delete of a message whose recording is damaged here leaves nothing of it in the store."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    (box.parent / f"messages/{ident}.wav").write_bytes(b"rotten")
    wire.scan(full=True)
    wire.desk("secondary").delete_message("2001", ident)
    wire.in_step()
    assert [] == list((box.parent / "messages").iterdir()) if (box.parent / "messages").exists() else True
    assert [] == fault_paths(wire)


def test_a_message_without_audio_can_be_deleted_by_hand(wire, box, recording):
    """`rm` of the recording and, a scan later, of the JSON is a delete: the message does not come back."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    (box.parent / f"messages/{ident}.wav").unlink()
    wire.scan()
    (box.parent / f"messages/{ident}.json").unlink()
    wire.in_step()
    assert [[], []] == [wire.messages("2001", name) for name in wire.servers]


def test_a_mark_on_a_damaged_message_is_taken(wire, box, recording):
    """The application's rewrite of the JSON counts although the recording is gone, and the recording comes back."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    path = box.parent / f"messages/{ident}.json"
    (box.parent / f"messages/{ident}.wav").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "old"}))
    wire.in_step()
    assert "old" == wire.b.store.document(f"message/2001/{ident}")["status"]
    assert (box.parent / f"messages/{ident}.wav").exists()


def test_a_message_of_the_application_is_taken(wire, box, recording):
    """A pair of files that the voicemail application wrote is a message on both servers."""
    folder = box.parent / "messages"
    folder.mkdir()
    shutil.copy(recording(), folder / "m1.wav")
    (folder / "m1.json").write_text('{"from": "4711", "received": "2026-01-31T08:15:00Z", "status": "new"}')
    wire.in_step()
    assert ["m1"] == wire.messages("2001", "secondary")
    assert "sync" in json.loads((folder / "m1.json").read_text())


def test_a_message_whose_recording_is_still_being_written_waits(wire, box, recording):
    """A JSON before its recording is no fault at once, and a message when both are there."""
    folder = box.parent / "messages"
    folder.mkdir()
    wire.clock.as_files()
    (folder / "m1.json").write_text('{"from": "4711", "received": "2026-01-31T08:15:00Z", "status": "new"}')
    assert ["mailboxes/2001/messages/m1.json"] == list(wire.a.scan().unsettled)
    wire.scan()
    assert ["mailboxes/2001/messages/m1.json"] == fault_paths(wire)
    shutil.copy(recording(), folder / "m1.wav")
    wire.in_step()
    assert [] == fault_paths(wire)
    assert ["m1"] == wire.messages("2001", "secondary")


def test_one_id_in_two_mailboxes_is_named(wire, box, recording):
    """A copied message keeps its id: the copy is named and not taken."""
    wire.desk().create_mailbox("2002", {})
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    shutil.copytree(box.parent / "messages", wire.root() / "mailboxes/2002/messages")
    wire.scan()
    assert [f"mailboxes/2002/messages/{ident}.json"] == fault_paths(wire)
    assert wire.a.index.get(f"message/2002/{ident}") is None


def test_litter_is_named_and_left_alone(wire, box, recording):
    """Files and folders that vmctl never knew are named and neither shipped nor removed."""
    root = wire.root()
    (root / "notes.txt").write_text("hi")
    (root / "mailboxes/README").write_text("hi")
    (root / "mailboxes/2001/messages").mkdir()
    lone = shutil.copy(recording(), root / "mailboxes/2001/messages/lone.wav")
    (root / "callflows/.main.yaml.swp").write_text("an editor's")
    wire.scan()
    wire.clock.advance(61)
    wire.scan()
    expected = ["mailboxes/2001/messages/lone.wav", "mailboxes/README", "notes.txt"]
    assert expected == fault_paths(wire)
    assert 0 == wire.a.index.pending_count()
    Path(lone).unlink()
    wire.scan()
    assert expected[1:] == fault_paths(wire)


def test_a_symbolic_link_is_named_and_not_followed(wire, box):
    """A link may point anywhere: what it points to is neither read nor written, and it deletes nothing."""
    secret = wire.directory / "secret"
    secret.write_text("name: secret\n")
    (wire.root() / "callflows/link.yaml").symlink_to(secret)
    box.unlink()
    box.symlink_to(secret)
    wire.scan()
    assert ["callflows/link.yaml", "mailboxes/2001/mailbox.yaml"] == fault_paths(wire)
    wire.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    wire.exchange()
    wire.scan()
    assert "name: secret\n" == secret.read_text()
    assert wire.lives("mailbox/2001", "secondary")


def test_one_folder_that_cannot_be_read_does_not_stop_the_scan(wire, box, recording, monkeypatch):
    """Its messages count as there, it is named, and all else goes on."""
    wire.desk().create_mailbox("2002", {})
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    listing = wire.a.store.messages

    def refused(folder):
        if "2001" in folder:
            raise StoreUnusable(f"cannot read {folder}", why="Permission denied")
        return listing(folder)

    monkeypatch.setattr(wire.a.store, "messages", refused)
    (wire.root() / "mailboxes/2002/mailbox.yaml").write_text("name: Bob\n")
    assert ["mailbox/2002"] == wire.scan(full=True).changed
    assert ["mailboxes/2001/messages"] == fault_paths(wire)
    monkeypatch.undo()
    wire.in_step()
    assert [ident] == wire.messages("2001")


def test_a_folder_that_did_not_change_is_not_opened(wire, box, recording):
    """A message folder as it was at the last scan is not listed again, until the hourly full scan."""
    wire.desk().leave("2001", recording())
    wire.in_step()
    wire.clock.advance(5)
    wire.scan()
    seen = []
    listing = wire.a.store.messages
    wire.a.store.messages = lambda folder: seen.append(folder) or listing(folder)
    wire.scan()
    assert [] == seen
    wire.clock.advance(3601)
    wire.scan()
    assert {"mailboxes/2001/messages"} == set(seen)


def test_a_deletion_by_hand_leaves_a_tombstone_and_no_litter(wire, box, recording):
    """`rm` of a message's JSON alone is a delete: the recording leaves the store, and the message can be restored."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    whole = (box.parent / f"messages/{ident}.wav").read_bytes()
    (box.parent / f"messages/{ident}.json").unlink()
    wire.in_step()
    assert (wire.root() / f".vmctl/deleted/mailboxes/2001/messages/{ident}.json").exists()
    assert [[], []] == [wire.messages("2001", name) for name in wire.servers]
    assert not (box.parent / f"messages/{ident}.wav").exists()
    assert wire.desk().restore_message("2001", ident)
    wire.in_step()
    assert [ident] == wire.messages("2001", "secondary")
    assert whole == (wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav").read_bytes()


def test_a_mailbox_moved_away_and_back_is_there_again(wire, box, recording):
    """Files that come back with the looks that they had are seen: a rename of a folder touches none of them."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    away = wire.directory / "away"
    box.parent.rename(away)
    wire.scan(accept_deletions=True)
    wire.exchange()
    assert [] == wire.b.store.names("mailbox")
    (wire.root() / "mailboxes").mkdir(exist_ok=True)
    away.rename(box.parent)
    wire.in_step()
    assert ["2001"] == wire.b.store.names("mailbox")
    assert [ident] == wire.messages("2001", "secondary")


def test_an_older_copy_written_back_is_no_restore(wire, box, recording):
    """An application puts its JSON of a deleted message back without the recording: the message stays deleted."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    path = box.parent / f"messages/{ident}.json"
    copy = path.read_text()
    wire.desk("secondary").delete_message("2001", ident)
    wire.in_step()
    path.parent.mkdir(exist_ok=True)
    path.write_text(copy.replace('"new"', '"old"'))
    wire.scan()
    wire.in_step()
    assert ([], []) == (wire.messages("2001", "primary"), wire.messages("2001", "secondary"))
    assert not path.exists()


def test_what_a_killed_process_left_half_written_goes_with_a_full_scan(wire):
    """In the store and beside the index, once nobody can be writing it any more; what is being written stays."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.scan()
    root = wire.root()
    left = [folder / f"{durable.TEMP_PREFIX}0" for folder in (root, root / "mailboxes/2001", root / ".vmctl")]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    young = root / f"mailboxes/2001/{durable.TEMP_PREFIX}1"
    young.write_bytes(b"half")
    wire.scan()
    assert all(path.exists() for path in left)
    wire.scan(full=True)
    assert not any(path.exists() for path in left)
    assert young.exists()
