"""What commands do: each change is whole or not at all, and a caller's message is taken whenever it can be."""

import errno
import hashlib
import shutil

import pytest
from wire import tone

from vmctl import durable
from vmctl.errors import (
    AlreadyExists,
    BadAudio,
    BadName,
    BadValue,
    BrokenFile,
    DiskFull,
    MailboxFull,
    NotFound,
    StoreBusy,
)
from vmctl.model import ABSENT


@pytest.fixture
def box(wire):
    """Mailbox 2001 on the primary."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    return "2001"


def files(wire):
    """Everything in the store but vmctl's own files."""
    root = wire.root()
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".vmctl" not in path.parts
    )


def test_a_message_is_left_and_can_be_read(wire, box, recording):
    """Its recording and its JSON lie in the mailbox when the id is given back."""
    source = recording()
    ident = wire.desk().leave(box, source, caller="+4420", urgent=True)
    assert source.read_bytes() == (wire.root() / f"mailboxes/2001/messages/{ident}.wav").read_bytes()
    document = wire.a.store.document(f"message/2001/{ident}")
    assert ("+4420", True, "new") == (document["from"], document["urgent"], document["status"])


def test_a_full_mailbox_refuses(wire, box, recording):
    """The mailbox's own quota binds before the store's, and the store's before the config's."""
    desk = wire.desk()
    desk.set_settings({"defaults.quota": 1})
    desk.leave(box, recording())
    with pytest.raises(MailboxFull):
        desk.leave(box, recording())
    desk.set_mailbox(box, {"quota": 2})
    desk.leave(box, recording())
    with pytest.raises(MailboxFull):
        desk.leave(box, recording())


def test_a_quota_does_not_bind_the_peers_messages(wire, box, recording):
    """Messages left on both servers during a split are all kept, above the quota, too."""
    wire.desk().set_mailbox(box, {"quota": 1})
    wire.in_step()
    for name in wire.servers:
        wire.desk(name).leave(box, recording())
    wire.in_step()
    assert 2 == len(wire.messages(box))


def test_an_id_is_used_once(wire, box, recording):
    """An id that is there, in any mailbox, or was deleted, is refused."""
    desk = wire.desk()
    desk.create_mailbox("2002", {})
    desk.leave(box, recording(), ident="m1")
    for extension in (box, "2002"):
        with pytest.raises(AlreadyExists):
            desk.leave(extension, recording(), ident="m1")
    desk.delete_message(box, "m1")
    with pytest.raises(AlreadyExists):
        desk.leave(box, recording(), ident="m1")


@pytest.mark.parametrize("name", ["../2001", "", "a/b", ".", "x" * 65, "m\n1", "m1.json", "ä"])
def test_a_name_never_becomes_a_path(wire, box, recording, name):
    """Extensions, ids and names of prompts and callflows are checked before anything is touched."""
    desk, before = wire.desk(), files(wire)
    acts = [
        lambda: desk.create_mailbox(name, {}),
        lambda: desk.leave(name, recording()),
        lambda: desk.leave(box, recording(), ident=name),
        lambda: desk.set_prompt(name, recording()),
        lambda: desk.set_callflow(name, "a: b\n"),
        lambda: desk.set_greeting(box, name, recording()),
    ]
    for act in acts:
        with pytest.raises(BadName):
            act()
    assert before == files(wire)


def test_a_recording_that_does_not_play_is_refused(wire, box, tmp_path):
    """A cut-off or empty WAV, or something else, is no message."""
    whole = tone(tmp_path / "whole.wav").read_bytes()
    for number, data in enumerate((b"", b"RIFF", whole[:-10], b"hello" * 100)):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(data)
        with pytest.raises(BadAudio):
            wire.desk().leave(box, path)
    assert ["mailboxes/2001/mailbox.yaml"] == files(wire)


@pytest.mark.parametrize("step", ["_write", "_fsync", "_rename"])
def test_a_full_disk_leaves_nothing_behind(wire, box, recording, monkeypatch, step):
    """No room at each step in turn: DiskFull, no record, no file; with room again the message is taken."""
    before, pending, digest = files(wire), wire.a.index.pending_count(), wire.a.index.digest
    act = getattr(durable, step)
    for number in range(1, 40):
        left = number

        def full(*values, act=act):
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return act(*values)

        with monkeypatch.context() as patch:
            patch.setattr(durable, step, full)
            try:
                wire.desk().leave(box, recording())
                break
            except DiskFull:
                pass
        assert before == files(wire)
        assert (pending, digest) == (wire.a.index.pending_count(), wire.a.index.digest)
        wire.crash("primary")
    assert number > 1
    wire.in_step()
    assert 1 == len(wire.messages(box, "secondary"))


@pytest.mark.parametrize("greeted", [False, True])
def test_a_recording_of_which_a_kill_left_no_message_goes_at_the_next_start(wire, box, recording, greeted):
    """No fault is named for it, and no copy stays, but for one that a greeting has."""
    source = recording()
    if greeted:
        wire.desk().set_greeting(box, "busy", source)
    wire.in_step()
    audio = {"sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "size": source.stat().st_size, "format": "wav"}
    before = files(wire)
    wire.a.index.set_note("leaving", {"key": "message/2001/killed", "audio": audio})
    folder = wire.root() / "mailboxes/2001/messages"
    folder.mkdir()
    shutil.copyfile(source, folder / "killed.wav")
    wire.a.pool.copy_in(source, audio["sha256"])
    wire.crash("primary")
    wire.in_step()
    assert [] == wire.a.index.faults.all()
    assert before == files(wire)
    assert greeted == wire.a.pool.holds(audio["sha256"])
    assert not folder.exists()


def test_a_message_for_a_mailbox_with_a_broken_file_is_taken(wire, box, recording):
    """A person's mistake in mailbox.yaml must not cost a caller's message; commands on the mailbox are refused."""
    wire.in_step()
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text("name: [")
    wire.scan()
    ident = wire.desk().leave(box, recording())
    with pytest.raises(BrokenFile):
        wire.desk().set_mailbox(box, {"name": "Eve"})
    assert "name: [" == path.read_text()
    wire.exchange()
    assert [ident] == wire.messages(box, "secondary")


def test_a_command_takes_in_what_a_person_saved(wire, box):
    """An edit of the file just before a command is merged with it, not overwritten."""
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    path.write_text(path.read_text().replace("Ada", "Eve"))
    wire.clock.advance(1)
    wire.desk().set_mailbox(box, {"quota": 5})
    assert {"name": "Eve", "quota": 5, "service": "voicemail"} == wire.a.store.document("mailbox/2001")


def test_a_deleted_mailbox_is_gone_with_all_of_it(wire, box, recording):
    """Its messages and greetings are deleted one by one, its folder is gone, on both servers; messages come back."""
    desk = wire.desk()
    ident = desk.leave(box, recording())
    desk.set_greeting(box, "busy", recording())
    wire.in_step()
    assert 2 == desk.delete_mailbox(box)
    wire.in_step()
    for name in wire.servers:
        assert not (wire.root(name) / "mailboxes/2001").exists()
    desk.restore_message(box, ident)
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")
    assert "Ada" == wire.b.store.document("mailbox/2001")["name"]


def test_what_is_not_there_is_not_found(wire, box, recording):
    """Each command on something that is missing says so and changes nothing."""
    desk, before = wire.desk(), wire.a.index.digest
    acts = [
        lambda: desk.leave("9999", recording()),
        lambda: desk.mark(box, "m1", "old"),
        lambda: desk.delete_message(box, "m1"),
        lambda: desk.restore_message(box, "m1"),
        lambda: desk.set_mailbox("9999", {"quota": 1}),
        lambda: desk.delete_mailbox("9999"),
        lambda: desk.set_greeting("9999", "busy", recording()),
        lambda: desk.delete_greeting(box, "busy"),
        lambda: desk.delete_prompt("hello"),
        lambda: desk.delete_callflow("main"),
    ]
    for act in acts:
        with pytest.raises(NotFound):
            act()
    assert before == wire.a.index.digest


@pytest.mark.parametrize(
    "document", [{"quota": 0}, {"name": "a\nb"}, {"pin": "12"}, {"service": "none"}, {"language": 5}]
)
def test_a_bad_value_changes_nothing(wire, box, document):
    """A value of the wrong type, range or form is refused for new and existing mailboxes."""
    before = files(wire)
    with pytest.raises(BadValue):
        wire.desk().create_mailbox("2002", document)
    with pytest.raises(BadValue):
        wire.desk().set_mailbox(box, document)
    assert before == files(wire)


def test_settings_and_fields_are_removed(wire, box):
    """ABSENT removes a key, in the file and on the peer."""
    wire.desk().set_settings({"defaults.quota": 5, "site": "London"})
    wire.desk().set_settings({"defaults.quota": ABSENT})
    wire.desk().set_mailbox(box, {"name": ABSENT})
    wire.in_step()
    assert {"site": "London"} == wire.b.store.document("settings")
    assert {"service": "voicemail"} == wire.b.store.document("mailbox/2001")


def test_a_file_that_a_person_writes_at_this_moment_is_left_alone(wire, box, monkeypatch):
    """A command waits a little for a file to stand still, then says who is in the way."""
    monkeypatch.setattr("vmctl.desk._PATIENCE", 0.0)
    path = wire.root() / "mailboxes/2001/mailbox.yaml"
    wire.clock.as_files()
    wire.clock.wall_ahead = -0.03
    path.write_text("name: Ev")
    monkeypatch.setattr(wire.a.scanner, "_settle", 3600)
    with pytest.raises(StoreBusy):
        wire.desk().set_mailbox(box, {"quota": 5})
    assert "name: Ev" == path.read_text()
