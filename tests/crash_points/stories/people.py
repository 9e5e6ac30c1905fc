"""What people and applications do to the files, and a scan that finds it."""

import json

from wire import tone

from crash_points.stories.registry import furnished, story
from vmctl.audio import digest_of
from vmctl.model import message_key


@story
def people_edit_files(it):
    """A mailbox with a plain PIN, settings, a callflow, a greeting; one callflow is removed. One scan finds it all."""
    furnished(it)
    for name in ("main", "old"):
        it.desk().set_callflow(name, "greet: hello\n")
    it.in_step()
    root = it.root()
    box = root / "mailboxes/2001/mailbox.yaml"
    box.write_text(box.read_text().replace("Ada", "Eve") + "pin: '1234'\n")
    (root / "settings.yaml").write_text("defaults:\n  quota: 5\n")
    (root / "callflows/main.yaml").write_text("# mine\ngreet: hello\n")
    (root / "callflows/old.yaml").unlink()
    (root / "mailboxes/2001/greetings").mkdir()
    said = tone(root / "mailboxes/2001/greetings/busy.wav")
    it.holds("mailbox/2001", "name", "Eve")
    it.holds("settings", "defaults.quota", 5)
    it.holds("callflow/main", "text", "# mine\ngreet: hello\n")
    it.holds("greeting/2001/busy", "sha256", digest_of(said)[0])
    yield
    it.scan()
    it.holds("callflow/old", None, False)


@story
def an_application_drops_messages_in(it):
    """Two new ones without what vmctl keeps in them; one that was there is removed, one is marked in its file."""
    first, *_, last = [*furnished(it), it.leave(), it.leave(), it.leave()]
    it.in_step()
    folder = it.root() / "mailboxes/2001/messages"
    note = {"from": "+441", "received": "2026-01-31T08:15:00Z", "status": "new"}
    for ident in ("dropped-1", "dropped-2"):
        said = tone(folder / f"{ident}.wav")
        (folder / f"{ident}.json").write_text(json.dumps(note))
        it.holds(message_key("2001", ident), "sha256", digest_of(said)[0])
    marked = json.loads((folder / f"{last}.json").read_text()) | {"status": "saved"}
    (folder / f"{last}.new").write_text(json.dumps(marked))
    (folder / f"{last}.new").rename(folder / f"{last}.json")
    it.holds(message_key("2001", last), "status", "saved")
    for suffix in ("json", "wav"):
        (folder / f"{first}.{suffix}").unlink()
    it.begins(message_key("2001", first), field="sha256")
    yield
    it.scan()
    it.holds(message_key("2001", first), None, False)


@story
def a_recording_is_damaged(it):
    """One has other bytes, another is gone: both are found and fetched again."""
    one, other = furnished(it)
    folder = it.root() / "mailboxes/2001/messages"
    for ident in (one, other):
        it.holds(message_key("2001", ident), "sha256", digest_of(folder / f"{ident}.wav")[0], "secondary")
    yield
    (folder / f"{one}.wav").write_bytes(b"noise")
    (folder / f"{other}.wav").unlink()
    it.scan(full=True)
    it.exchange()
