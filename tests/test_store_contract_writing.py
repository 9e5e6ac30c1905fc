"""The contract of a store's format, on writing: what is there is whole at every step, and an edit is never written over."""

from dataclasses import replace

import pytest
from contract import there
from steps import STEPS

from vmctl import durable
from vmctl.audio import digest_of
from vmctl.entry import audio_of
from vmctl.model import (
    CALLFLOW,
    GREETING,
    MAILBOX,
    MESSAGE,
    SETTINGS_KEY,
    greeting_key,
    mailbox_key,
    message_key,
)  # fmt: skip
from vmctl.store.format import STATE


def busy(pair, recording):
    """Both servers hold a record of each kind; gives the id of the message."""
    desk = pair.desk()
    desk.set_settings({"defaults.quota": 20})
    desk.set_callflow("main", "greet: hello\n")
    desk.set_prompt("welcome", recording())
    desk.set_greeting("2001", "busy", recording())
    ident = desk.leave("2001", recording())
    pair.in_step()
    return ident


def from_the_peer(pair, act):
    """What the peer did is in the spool."""
    act(pair.desk("secondary"))
    pair.send("secondary")
    pair.deliver(take=False)


def inodes(root):
    """Each file of a store by its inode: a file written anew has another."""
    return {
        path: path.stat().st_ino
        for path in root.rglob("*")
        if path.is_file() and STATE not in path.relative_to(root).parts
    }


def test_writing_again_writes_nothing(pair, recording, monkeypatch):
    """A second application finds nothing to do, and takes no step that changes a file."""
    busy(pair, recording)
    before = inodes(pair.root())
    steps = []
    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, lambda *_words, name=name: steps.append(name))
        with pair.b.index.transaction():
            assert [] == pair.b.applier.apply_all().written
        assert [] == pair.a.applier.apply_all().written
    assert [] == steps
    assert before == inodes(pair.root())


def test_what_was_written_before_a_crash_is_not_written_again(pair, recording):
    """The index forgets that the files show its records: they are found as meant, none is touched, none is an edit."""
    busy(pair, recording)
    before, number = inodes(pair.root()), pair.a.index.last_number
    with pair.a.index.transaction():
        for entry in list(pair.a.index.entries("lives")):
            pair.a.index.put(replace(entry, shown=None), pair.clock.wall())
    assert 6 == len(pair.a.index.todo())
    pair.crash("primary")
    assert [] == pair.a.index.todo()
    assert before == inodes(pair.root())
    assert [] == pair.scan(full=True).changed
    assert number == pair.a.index.last_number


def test_an_edit_in_between_is_merged_and_not_written_over(pair):
    """Saved by a person before the peer's change is written: both are there, on both servers."""
    pair.hand.mailbox_file("2001").write_bytes(pair.hand.mailbox_text(name="Eve", service="voicemail"))
    from_the_peer(pair, lambda desk: desk.set_mailbox("2001", {"language": "en-GB"}))
    pair.a.take()
    pair.in_step()
    expected = {"name": "Eve", "language": "en-GB", "service": "voicemail"}
    assert [expected, expected] == [replica.store.document("mailbox/2001") for replica in pair.servers.values()]


def test_an_edit_at_the_very_rename_is_merged(pair, monkeypatch):
    """Saved into the old file while it is being replaced: both are there, on both servers."""
    path = pair.hand.mailbox_file("2001")
    from_the_peer(pair, lambda desk: desk.set_mailbox("2001", {"language": "en-GB"}))
    late, swap = [pair.hand.mailbox_text(name="Eve", service="voicemail")], durable._swap

    def at_the_last_moment(aside, target):
        if late and target == str(path):
            path.write_bytes(late.pop())
        swap(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_swap", at_the_last_moment)
        pair.a.take()
    assert [] == late
    pair.in_step()
    expected = {"name": "Eve", "language": "en-GB", "service": "voicemail"}
    assert [expected, expected] == [replica.store.document("mailbox/2001") for replica in pair.servers.values()]


def test_a_file_of_equal_values_is_left_as_it_is(pair):
    """The peer came to the same values by itself: what a person wrote stays, byte for byte and in its place."""
    path = pair.hand.mailbox_file("2001")
    path.write_bytes(pair.hand.mailbox_text(name="Eve", service="voicemail") + pair.hand.comment())
    before = (path.read_bytes(), path.stat().st_ino)
    pair.scan()
    version = pair.a.index.get("mailbox/2001").record.version
    pair.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    pair.in_step()
    assert version != pair.a.index.get("mailbox/2001").record.version
    assert before == (path.read_bytes(), path.stat().st_ino)


def test_a_deletion_keeps_what_can_be_restored(pair, recording):
    """The peer's deletion empties the store of the message; restored, it is what it was, byte for byte, on both."""
    ident = busy(pair, recording)
    audio, document = pair.hand.recording("2001", ident), pair.store.document(message_key("2001", ident))
    pair.desk("secondary").delete_message("2001", ident)
    pair.in_step()
    assert [[], []] == [there(pair, name) for name in pair.servers]
    assert not [path for path in pair.root().rglob(f"*{ident}*") if STATE not in path.relative_to(pair.root()).parts]
    assert [message_key("2001", ident)] == [key for _, key in pair.store.tombs()]
    pair.desk().restore_message("2001", ident)
    pair.in_step()
    assert [audio, audio] == [hand.recording("2001", ident) for hand in pair.hands.values()]
    assert document == pair.b.store.document(message_key("2001", ident))
    assert [] == list(pair.store.tombs())


def test_a_deleted_mailbox_leaves_nothing_but_litter(pair, recording):
    """The folders of a deleted mailbox go with it, unless they hold what vmctl never knew."""
    pair.desk().create_mailbox("2002", {})
    for box in ("2001", "2002"):
        pair.desk().leave(box, recording())
    pair.in_step()
    keepsake = pair.hand.message_folder("2002") / "keepsake"
    keepsake.write_text("mine")
    for box in ("2001", "2002"):
        pair.desk("secondary").delete_mailbox(box)
    pair.exchange()
    assert [] == pair.store.names(MAILBOX)
    assert not pair.hand.message_folder("2001").parent.exists()
    assert "mine" == keepsake.read_text()


def whole(store):
    """Read every record of a store as an application that comes by does: what is there must be whole. Gives the keys."""
    keys = []
    for box in store.names(MAILBOX):
        store.document(mailbox_key(box))
        for ident in store.names(MESSAGE, box):
            key = message_key(box, ident)
            audio = audio_of(store.document(key))
            assert audio is not None, f"{key} is there without its recording"
            path = store.root / store.audio_path(key, audio["format"])
            assert path.exists(), f"{key} is there before its recording"
            assert audio["sha256"] == digest_of(path)[0], f"{key} is there with a recording that is not all there"
            keys.append(key)
        keys += [greeting_key(box, name) for name in store.names(GREETING, box)]
    for name in store.names(CALLFLOW):
        store.check_callflow(store.read(store.path(f"callflow/{name}")), name)
    store.document(SETTINGS_KEY)
    return keys


ACTS = {
    "a message comes": lambda desk, ident, new: desk.leave("2001", new),
    "a message is marked": lambda desk, ident, new: desk.mark("2001", ident, "saved"),
    "a message is deleted": lambda desk, ident, new: desk.delete_message("2001", ident),
    "a greeting is replaced": lambda desk, ident, new: desk.set_greeting("2001", "busy", new),
    "a greeting is deleted": lambda desk, ident, new: desk.delete_greeting("2001", "busy"),
    "a callflow is replaced": lambda desk, ident, new: desk.set_callflow("main", "greet: hello\nthen: goodbye\n"),
    "settings are changed": lambda desk, ident, new: desk.set_settings({"defaults.quota": 21, "a.b": "c" * 900}),
    "a mailbox is changed": lambda desk, ident, new: desk.set_mailbox("2001", {"name": "Eve"}),
    "a mailbox is deleted": lambda desk, ident, new: desk.delete_mailbox("2001"),
}


@pytest.mark.parametrize("act", ACTS)
def test_at_every_step_what_is_there_is_whole(pair, recording, monkeypatch, act):
    """Whoever reads the store before or after any step of writing finds whole records only."""
    ident = busy(pair, recording)
    from_the_peer(pair, lambda desk: ACTS[act](desk, ident, recording(frames=3000)))
    seen = []

    def watched(step, name):
        def take(*values, **words):
            whole(pair.store)
            done = step(*values, **words)
            seen.append((name, whole(pair.store)))
            return done

        return take

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, watched(getattr(durable, name), name))
        pair.a.take()
    assert {"_rename_free" if act == "a message comes" else "_rename", "_fsync"} <= {name for name, _ in seen}
    pair.in_step()


def test_a_restored_message_is_whole_at_every_step(pair, recording, monkeypatch):
    """A message comes back in one step: it is not there, or there with its recording."""
    ident = busy(pair, recording)
    pair.desk().delete_message("2001", ident)
    pair.in_step()
    seen = []

    def watched(step):
        def take(*values, **words):
            done = step(*values, **words)
            seen.append(message_key("2001", ident) in whole(pair.store))
            return done

        return take

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, watched(getattr(durable, name)))
        pair.desk().restore_message("2001", ident)
    assert seen == sorted(seen)
    assert {False, True} == set(seen)
