"""Writing the store: a person's edit at any moment is merged, a crash at any moment leaves nothing but work to do."""

import contextlib
import errno
import json
import os

import pytest
from wire import SETTLE, Wire

from vmctl import durable, strays
from vmctl.errors import DiskFull
from vmctl.graves import Graves
from vmctl.replacing import Replacing

EXCHANGE = durable.exchange


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return wire.root() / "mailboxes/2001/mailbox.yaml"


class Crash(BaseException):
    """The process ends here."""


def peer_change(wire):
    """A change of the peer that is in the spool of the primary."""
    wire.desk("secondary").set_mailbox("2001", {"language": "en-GB"})
    wire.send("secondary")
    wire.deliver(take=False)


def in_place(box, text):
    """A person's editor writes into the file that is there."""
    box.write_text(text)


def by_rename(box, text):
    """A person's editor writes a file beside it and renames that over it."""
    box.with_name(".box").write_text(text)
    box.with_name(".box").rename(box)


@pytest.mark.parametrize("save", [in_place, by_rename])
@pytest.mark.parametrize("broken", [False, True])
def test_a_save_at_the_very_rename_is_not_lost(wire, box, monkeypatch, broken, save):
    """A person saves while the file is replaced: the edit is merged, or named and kept if it is broken."""
    peer_change(wire)
    edit = "name: [" if broken else box.read_text().replace("Ada", "Eve")
    swap, late = durable._swap, [edit]

    def at_the_last_moment(aside, target):
        if target == str(box) and late:
            save(box, late.pop())
        swap(aside, target)

    monkeypatch.setattr(durable, "_swap", at_the_last_moment)
    wire.a.take()
    monkeypatch.undo()
    wire.in_step()
    document = wire.b.store.document("mailbox/2001")
    assert "en-GB" == document["language"]
    assert ("Ada" if broken else "Eve") == document["name"]
    asides = list((wire.root() / ".vmctl/replaced").iterdir())
    assert [edit] * broken == [path.read_text() for path in asides]
    wire.scan(full=True)
    assert [f".vmctl/replaced/{path.name}" for path in asides] == [fault["path"] for fault in wire.a.index.faults.all()]


@pytest.mark.parametrize("saved", [False, True])
def test_what_a_killed_process_did_not_replace_says_nothing_of_what_a_person_did_to_it(wire, box, monkeypatch, saved):
    """Killed right before the exchange; then a person saves by rename, or removes the file: what the peer set counts."""
    peer_change(wire)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_swap", die)
        with pytest.raises(Crash):
            wire.a.take()
    if saved:
        by_rename(box, box.read_text().replace("Ada", "Eve"))
    else:
        box.unlink()
    wire.crash("primary")
    if not saved:
        wire.scan()
        wire.scan(accept_deletions=True)
    wire.in_step()
    expected = {"language": "en-GB", "name": "Eve" if saved else "Ada", "service": "voicemail"}
    assert [expected] * 2 == [replica.store.document("mailbox/2001") for replica in wire.servers.values()]
    assert [] == list((wire.root() / ".vmctl/replaced").iterdir())


def test_a_broken_save_that_is_kept_aside_says_nothing_of_a_later_change(wire, box, monkeypatch):
    """A person's broken save is kept; the next change is committed when the process is killed: it is written all the same."""
    swap, late = durable._swap, ["name: ["]

    def at_the_last_moment(aside, target):
        if target == str(box) and late:
            box.write_text(late.pop())
        swap(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_swap", at_the_last_moment)
        wire.desk().set_mailbox("2001", {"name": "Bob"})
    with monkeypatch.context() as patch:
        patch.setattr(durable, "exchange", die)
        with pytest.raises(Crash):
            wire.desk().set_mailbox("2001", {"name": "Cleo"})
    wire.crash("primary")
    wire.in_step()
    assert ["Cleo"] * 2 == [wire.servers[name].store.document("mailbox/2001")["name"] for name in wire.servers]
    assert ["name: ["] == [path.read_text() for path in (wire.root() / ".vmctl/replaced").iterdir()]
    assert 1 == len(wire.a.index.faults.all())


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("edited", [False, True])
def test_a_crash_at_the_rename_does_not_turn_the_peers_change_into_ours(wire, box, monkeypatch, moment, edited):
    """Whether the file was replaced or not, after a restart both edits count and nothing of the peer's is undone."""
    peer_change(wire)
    swap = durable._swap

    def crash(aside, target):
        if target != str(box):
            return swap(aside, target)
        if edited:
            box.write_text(box.read_text().replace("Ada", "Eve"))
        if moment == "after":
            swap(aside, target)
        raise Crash

    monkeypatch.setattr(durable, "_swap", crash)
    with pytest.raises(Crash):
        wire.a.take()
    monkeypatch.undo()
    wire.crash("primary")
    wire.a.take()
    wire.in_step()
    document = wire.b.store.document("mailbox/2001")
    assert {"language": "en-GB", "name": "Eve" if edited else "Ada", "service": "voicemail"} == document
    assert [] == list((wire.root() / ".vmctl/replaced").iterdir())
    if not edited:
        assert {"primary"} == {field.stamp.by.split("-")[0] for name, field in
                               wire.a.index.get("mailbox/2001").record.fields.items() if name != "language"}  # fmt: skip


def test_what_vmctl_wrote_is_not_an_edit(wire, box):
    """After a crash between the file and its note in the index the file is found as it was meant: no new change."""
    peer_change(wire)
    wire.a.take()
    number = wire.a.index.last_number
    wire.a.index.looks.drop_file("mailboxes/2001/mailbox.yaml")
    wire.crash("primary")
    assert [] == wire.scan().changed
    assert number == wire.a.index.last_number


def test_an_edit_before_the_peers_change_is_merged_first(wire, box):
    """Saved by a person and not scanned yet when the peer's change comes: both are there."""
    box.write_text(box.read_text().replace("Ada", "Eve"))
    peer_change(wire)
    wire.a.take()
    wire.in_step()
    assert {"language": "en-GB", "name": "Eve", "service": "voicemail"} == wire.b.store.document("mailbox/2001")


def test_a_file_being_edited_waits(wire, box):
    """A file that has not stood still is neither read nor replaced; the peer's change is written later."""
    peer_change(wire)
    wire.clock.as_files()
    box.write_text("name: Ev")
    assert ["mailbox/2001"] == wire.a.take().applied.waiting
    assert "name: Ev" == box.read_text()


def test_every_crash_in_taking_a_mail_leaves_only_work(wire, box, recording, monkeypatch):
    """The process ends at each durable step in turn, and the mail comes once more: the store is the peer's in the end."""
    desk = wire.desk("secondary")
    for number in range(1, 40):
        left = number
        desk.set_mailbox("2001", {"quota": number})
        idents = wire.messages("2001", "secondary")
        if idents:
            desk.delete_message("2001", idents[0])
        desk.leave("2001", recording(seed=number))
        wire.send("secondary", anew=True)
        wire.deliver(take=False)

        def failing(act):
            def step(*values):
                nonlocal left
                left -= 1
                if not left:
                    raise Crash
                return act(*values)

            return step

        with monkeypatch.context() as patch:
            for name in ("_rename", "_swap", "_link", "_fsync"):
                patch.setattr(durable, name, failing(getattr(durable, name)))
            try:
                wire.a.take()
                done = True
            except Crash:
                done = False
        wire.crash("primary")
        wire.a.take()
        if done:
            break
    assert done
    wire.in_step()


def test_a_full_disk_while_taking_a_mail_is_only_a_delay(wire, box, recording, monkeypatch):
    """No room at each write in turn: DiskFull, then, with room again, everything is there."""
    ident = wire.desk("secondary").leave("2001", recording())
    wire.send("secondary")
    wire.deliver(take=False)

    def full(*_values):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_write", full)
        with pytest.raises(DiskFull):
            wire.a.take()
    wire.a.take()
    wire.in_step()
    assert [ident] == wire.messages("2001")


@pytest.mark.parametrize(
    "save", [in_place, by_rename, lambda path, _text: path.unlink()], ids=["write", "rename", "remove"]
)
def test_what_a_person_does_to_a_file_that_was_just_replaced_counts(wire, box, monkeypatch, save):
    """While others are replaced, and before the index says so: it is an edit, or a deletion, of what stands there."""
    files = [box]
    for number in range(2002, 2008):
        wire.desk().create_mailbox(str(number), {"name": "Ada"})
        files.append(wire.root() / f"mailboxes/{number}/mailbox.yaml")
    wire.in_step()
    for number in range(2001, 2008):
        wire.desk("secondary").set_mailbox(str(number), {"language": "en-GB"})
    wire.send("secondary")
    wire.deliver(take=False)
    swap, swapped = durable._swap, []

    def and_then_saved(aside, target):
        swap(aside, target)
        swapped.append(target)
        if len(swapped) == 4:
            assert str(box) in swapped
            save(box, box.read_text().replace("Ada", "Eve"))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_swap", and_then_saved)
        wire.a.take()
    assert len(swapped) == len(files)
    assert [] == list((wire.root() / ".vmctl/replaced").iterdir())
    assert set() == wire.faults()
    wire.scan(accept_deletions=True)
    wire.in_step()
    if box.exists():
        assert "Eve" == wire.b.store.document("mailbox/2001")["name"]
    else:
        assert not wire.lives("mailbox/2001", "secondary")


def test_what_there_is_room_for_takes_its_place(wire, box, recording, monkeypatch):
    """A greeting that does not fit keeps no mailbox from being written, nor one mailbox another."""
    peer = wire.desk("secondary")
    for number in range(2002, 2006):
        peer.create_mailbox(str(number), {"name": "Ada"})
    peer.set_greeting("2001", "busy", recording())
    wire.in_step()
    for number in range(2001, 2006):
        peer.set_mailbox(str(number), {"name": "Eve"})
    peer.set_greeting("2001", "busy", recording())
    wire.send("secondary")
    wire.deliver(take=False)
    stage, room = durable.stage, [2]

    def until_it_is_full(*values, **words):
        if not room[0]:
            raise DiskFull("no room")
        room[0] -= 1
        return stage(*values, **words)

    def full(*_values, **_words):
        raise DiskFull("no room")

    def written():
        names = [wire.a.store.document(f"mailbox/{number}")["name"] for number in range(2001, 2006)]
        return names.count("Eve")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "stage", until_it_is_full)
        patch.setattr(wire.a.recordings, "place", full)
        with pytest.raises(DiskFull):
            wire.a.take()
        assert 2 == written()
        room[0] = 10
        with pytest.raises(DiskFull):
            wire.a.take()
        assert 5 == written()
    wire.a.take()
    wire.in_step()


def test_one_place_that_cannot_be_written_does_not_stop_the_others(wire, box):
    """A plain file where a mailbox's folder belongs is named, and all other records are written."""
    (wire.root() / "mailboxes/2000").write_text("litter")
    for extension in ("2000", "2002"):
        wire.desk("secondary").create_mailbox(extension, {})
    wire.exchange()
    assert (wire.root() / "mailboxes/2002/mailbox.yaml").exists()
    assert "mailboxes/2000/mailbox.yaml" in [fault["path"] for fault in wire.a.index.faults.all()]
    (wire.root() / "mailboxes/2000").unlink()
    wire.in_step()


def test_a_touched_recording_is_still_the_same(wire, box, recording):
    """`touch` of a recording changes no byte: a mark of the peer is written at once, and the audio can be shipped."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    os.utime(wire.root() / f"mailboxes/2001/messages/{ident}.wav")
    wire.desk("secondary").mark("2001", ident, "saved")
    wire.send("secondary")
    wire.deliver()
    path = wire.root() / f"mailboxes/2001/messages/{ident}.json"
    assert "saved" == json.loads(path.read_text())["status"]


def test_a_doubled_mail_leaves_no_second_copy_of_its_audio(wire, box, recording):
    """The recording of a mail that comes again lies in its place already and not in the pool, too."""
    wire.desk("secondary").leave("2001", recording())
    mails = wire.send("secondary")
    wire.deliver()
    for mail in mails:
        wire.a.receive(mail)
    wire.a.take()
    assert [] == list((wire.root() / ".vmctl").glob("audio/*"))


def test_a_greeting_is_replaced_and_the_old_one_kept(wire, box, recording):
    """A new greeting is on both servers; the old recording is in the pool and not in the store."""
    old, new = recording(), recording()
    wire.desk().set_greeting("2001", "busy", old)
    wire.in_step()
    wire.desk("secondary").set_greeting("2001", "busy", new)
    wire.in_step()
    assert new.read_bytes() == (wire.root() / "mailboxes/2001/greetings/busy.wav").read_bytes()
    assert [old.read_bytes()] == [path.read_bytes() for path in (wire.root() / ".vmctl/audio").iterdir()]
    wire.desk().delete_greeting("2001", "busy")
    wire.in_step()
    assert [] == wire.b.store.names("greeting", "2001")


@pytest.mark.parametrize("form", ["wav", "gsm"])
def test_a_crash_while_a_greeting_is_replaced_deletes_none(tmp_path, no_fsync, monkeypatch, recording, form):
    """Whichever rename is the last, callers have a greeting, and nobody's deletion is listed afterwards."""
    wire = Wire(tmp_path / "net", {"audio.formats": ["wav", "gsm"]})
    wire.desk().create_mailbox("2001", {})
    renamed, steps = durable._rename, 0
    greetings = wire.root() / "mailboxes/2001/greetings"
    done = False
    while not done:
        steps += 1
        old, new = recording(), recording().rename(tmp_path / f"new-{steps}.{form}")
        if (greetings / "busy.gsm").exists():
            wire.desk().delete_greeting("2001", "busy")
        wire.desk().set_greeting("2001", "busy", old)
        wire.in_step()
        wire.desk("secondary").set_greeting("2001", "busy", new)
        wire.send("secondary")
        wire.deliver(take=False)
        left = [steps]

        def rename_and_die(*paths, left=left):
            renamed(*paths)
            left[0] -= 1
            if not left[0]:
                raise Crash

        with monkeypatch.context() as patch, contextlib.suppress(Crash):
            patch.setattr(durable, "_rename", rename_and_die)
            wire.a.take()
            done = True
        assert [] != list(greetings.iterdir())
        wire.crash("primary")
        wire.in_step()
        assert [f"busy.{form}"] == [path.name for path in greetings.iterdir()]
        assert new.read_bytes() == (greetings / f"busy.{form}").read_bytes()
        assert [] == wire.a.index.keys("kind = 'conflict'")
    assert steps > 1
    wire.close()


def marked_by_hand(wire, ident, status):
    """The application rewrites a message's document with another status, and leaves out what it cannot change."""
    path = wire.root() / f"mailboxes/2001/messages/{ident}.json"
    value = json.loads(path.read_bytes()) | {"status": status}
    del value["audio"], value["seconds"]
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("killed", [False, True])
def test_a_save_of_the_application_at_the_very_rename_is_not_lost(wire, box, recording, monkeypatch, killed):
    """The peer marks a message while the application saves it: the save is merged, also by the next process."""
    wire.clock.as_files()
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    wire.clock.as_files()
    wire.desk("secondary").mark("2001", ident, "old")
    wire.send("secondary")
    wire.deliver(take=False)

    def save_and_exchange(*words, **more):
        marked_by_hand(wire, ident, "saved")
        replaced = EXCHANGE(*words, **more)
        if killed:
            raise Crash
        return replaced

    with monkeypatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(durable, "exchange", save_and_exchange)
        wire.a.take()
    if killed:
        wire.crash("primary")
    wire.in_step()
    documents = [wire.servers[name].store.document(f"message/2001/{ident}") for name in wire.servers]
    assert ["saved"] * 2 == [document["status"] for document in documents]
    assert documents[0] == documents[1]
    assert [] == list((wire.root() / ".vmctl/replaced").iterdir())


def test_a_message_that_is_deleted_after_a_killed_process_marked_it_stays_deleted(wire, box, recording, monkeypatch):
    """Its former document is aside, and nothing is in its place."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    wire.desk("secondary").mark("2001", ident, "old")
    wire.send("secondary")
    deliver_and_die(wire, monkeypatch)
    for path in (wire.root() / "mailboxes/2001/messages").iterdir():
        path.unlink()
    wire.crash("primary")
    wire.in_step()
    assert [[], []] == [wire.messages("2001", name) for name in wire.servers]
    assert ([], []) == (list((wire.root() / ".vmctl/replaced").iterdir()), wire.a.index.faults.all())


def test_a_save_while_a_tomb_is_written_outlives_the_peers_delete(wire, box, recording, monkeypatch):
    """The application saves a message in the moment in which the peer's deletion is carried out."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    wire.desk("secondary").delete_message("2001", ident)
    wire.send("secondary")
    wire.deliver(take=False)
    text = Graves.text

    def text_and_save(graves, record):
        marked_by_hand(wire, ident, "saved")
        return text(graves, record)

    with monkeypatch.context() as patch:
        patch.setattr(Graves, "text", text_and_save)
        wire.a.take()
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages("2001", name) for name in wire.servers]
    assert not (wire.root() / f".vmctl/deleted/mailboxes/2001/messages/{ident}.json").exists()


def test_a_crash_before_the_file_aside_is_dropped_makes_no_edit_of_it(wire, box, monkeypatch):
    """The process ends after the commit of a replaced file, with the old one still aside: the new value stays."""
    monkeypatch.setattr(Replacing, "noted", lambda _self: None)
    wire.desk("secondary").set_mailbox("2001", {"name": "Augusta"})
    wire.send("secondary")
    wire.deliver()
    assert [path.read_text() for path in (wire.root() / ".vmctl/replaced").iterdir()]
    monkeypatch.undo()
    wire.crash("primary")
    wire.in_step()
    assert ["Augusta"] * 2 == [wire.servers[name].store.document("mailbox/2001")["name"] for name in wire.servers]
    assert [] == list((wire.root() / ".vmctl/replaced").iterdir())


def test_a_crash_before_the_commit_makes_no_edit_of_what_was_written(wire, box, monkeypatch):
    """A file is replaced and the commit lost; a person edits another field meanwhile: the peer's later value wins."""
    wire.desk("secondary").set_mailbox("2001", {"name": "ONE"})
    wire.send("secondary")
    deliver_and_die(wire, monkeypatch)
    wire.crash("primary")
    wire.desk("secondary").set_mailbox("2001", {"name": "TWO"})
    assert "ONE" in box.read_text()
    box.write_text(box.read_text() + "language: de\n")
    wire.scan()
    wire.in_step()
    document = wire.b.store.document("mailbox/2001")
    assert ("TWO", "de") == (document["name"], document["language"])


def test_an_edit_that_was_merged_in_the_lost_commit_is_merged_again(wire, box, monkeypatch):
    """A person's save is taken in with the peer's later one and replaced, all in one commit that is lost: both are known."""
    box.write_text(box.read_text().replace("Ada", "Eve"))
    wire.tick()
    wire.clock.advance(SETTLE + 0.01)
    wire.desk("secondary").set_mailbox("2001", {"name": "Bob"})
    wire.send("secondary")
    deliver_and_die(wire, monkeypatch)
    wire.crash("primary")
    wire.in_step()
    assert ["Bob"] * 2 == [wire.servers[name].store.document("mailbox/2001")["name"] for name in wire.servers]
    listed = [entry.record.document for entry in wire.b.index.entries("kind = 'conflict'")]
    assert [("Bob", "Eve")] == [(one["won"]["is"], one["lost"]["is"]) for one in listed]


def test_a_merge_of_what_was_put_aside_is_not_done_twice(wire, box, monkeypatch):
    """Killed at the rename, and again when the first recovery is committed: the peer's value and the person's are there."""
    peer_change(wire)
    swap = durable._swap

    def save_and_die(aside, target):
        if target == str(box):
            box.write_text(box.read_text().replace("Ada", "Eve"))
        swap(aside, target)
        if target == str(box):
            raise Crash

    for name, fault in (("_swap", save_and_die), ("remove_all", die)):
        with monkeypatch.context() as patch:
            patch.setattr(durable, name, fault)
            with pytest.raises(Crash):
                wire.a.take() if name == "_swap" else wire.crash("primary")
    wire.open("primary")
    wire.in_step()
    document = wire.b.store.document("mailbox/2001")
    assert ("en-GB", "Eve") == (document["language"], document["name"])


def die(*_words, **_more):
    """Nothing happens any more."""
    raise Crash


def deliver_and_die(wire, monkeypatch):
    """The primary takes a mail, and its process ends when a file was replaced."""
    with monkeypatch.context() as patch:
        patch.setattr(durable, "exchange", exchange_and_die)
        with pytest.raises(Crash):
            wire.deliver()


def exchange_and_die(*words, **more):
    """The file is replaced, and nothing after that happens."""
    EXCHANGE(*words, **more)
    raise Crash


def test_a_recording_that_is_not_placed_yet_is_durable_before_its_mail_goes(wire, box, recording):
    """Where the time for an intake is over before all files are written, the recordings wait in the pool, and the mails go."""
    for _ in range(3):
        wire.desk().leave("2001", recording())
    wire.send("primary")
    wire.deliver(take=False)
    wire.b.patience = 0.0
    assert wire.b.take().more
    assert [] == wire.b.spool.waiting()
    assert (1, 2) == (
        len(wire.messages("2001", "secondary")),
        len(list((wire.root("secondary") / ".vmctl/audio").iterdir())),
    )
    wire.crash("secondary")
    wire.b.patience = None
    wire.b.take()
    assert wire.messages("2001") == wire.messages("2001", "secondary")
    assert [] == list((wire.root("secondary") / ".vmctl/audio").iterdir())


def test_mails_whose_files_cannot_be_written_are_taken_again_and_not_named(wire, box, recording, monkeypatch):
    """A full disk at the first file leaves the mails in the spool: when there is room all comes, and nothing counts as repeated."""
    wire.desk().leave("2001", recording())
    wire.send("primary")
    wire.deliver(take=False)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(DiskFull):
                wire.b.take()
    assert 1 == len(wire.b.spool.waiting())
    wire.b.take()
    assert [] == wire.b.spool.waiting()
    assert wire.messages("2001") == wire.messages("2001", "secondary")
    wire.b.strays.flush()
    assert {} == strays.read(wire.b.store.state)
