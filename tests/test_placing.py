"""What a killed process wrote and did not note: a message that the application deleted before the next start stays deleted."""

import json

import pytest

from vmctl import durable
from vmctl.apply import Applier
from vmctl.clock import Clock
from vmctl.placing import Placing


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def folder(wire):
    """The folder of the secondary's messages, and that of its marks."""
    root = wire.root("secondary")
    return root / "mailboxes/2001/messages", root / ".vmctl/placing"


def killed_before_the_commit(wire, monkeypatch, after=1):
    """The secondary takes what has come; its process is killed when so many files were written, before that is noted."""
    take_place, written = Applier._place_document, []

    def then_killed(applier, new, together):
        written.append(take_place(applier, new, together))
        if len(written) == after:
            raise KeyboardInterrupt
        return written[-1]

    monkeypatch.setattr(Applier, "_place_document", then_killed)
    with pytest.raises(KeyboardInterrupt):
        wire.b.take()
    monkeypatch.undo()


def left(wire, recording, count=1):
    """So many messages are on their way to the secondary, the oldest first."""
    idents = [wire.desk().leave("2001", recording()) for _ in range(count)]
    wire.send("primary")
    wire.deliver(take=False)
    return idents


def take_away(wire, ident):
    """The application deletes a message."""
    for suffix in ("json", "wav"):
        (folder(wire)[0] / f"{ident}.{suffix}").unlink()


def looks(wire):
    """Which file has which name in the folder, and when it was written: reading it changes only other times."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder(wire)[0].iterdir()}


def test_what_was_deleted_before_the_next_start_stays_deleted(wire, box, recording, monkeypatch):
    """The one that was there is deleted at both servers and can be restored; those that had not been written come."""
    idents = left(wire, recording, 3)
    killed_before_the_commit(wire, monkeypatch)
    (there,) = wire.messages(box, "secondary")
    take_away(wire, there)
    wire.crash("secondary")
    wire.in_step()
    rest = sorted({*idents} - {there})
    assert [rest, rest] == [sorted(wire.messages(box, name)) for name in wire.servers]
    assert [] == list(folder(wire)[1].iterdir())
    wire.desk().restore_message(box, there)
    wire.in_step()
    assert sorted(idents) == sorted(wire.messages(box, "secondary"))


def test_what_is_still_there_is_noted(wire, box, recording, monkeypatch):
    """Nothing was deleted: all is there, no file is written twice, and no mark is left."""
    idents = left(wire, recording, 2)
    killed_before_the_commit(wire, monkeypatch, after=2)
    before = looks(wire)
    wire.crash("secondary")
    wire.b.take()
    assert before == looks(wire)
    assert ([], []) == (wire.b.index.todo(), list(folder(wire)[1].iterdir()))
    wire.in_step()
    assert sorted(idents) == sorted(wire.messages(box, "secondary"))


def test_what_the_application_marked_before_the_next_start_is_an_edit(wire, box, recording, monkeypatch):
    """It may even be deleted after that, while vmctl runs: it is neither taken back nor written again."""
    (ident,) = left(wire, recording)
    killed_before_the_commit(wire, monkeypatch)
    document = folder(wire)[0] / f"{ident}.json"
    document.with_suffix(".new").write_text(json.dumps(json.loads(document.read_bytes()) | {"status": "old"}))
    document.with_suffix(".new").rename(document)
    wire.crash("secondary")
    wire.in_step()
    assert "old" == wire.a.store.document(f"message/{box}/{ident}")["status"]
    take_away(wire, ident)
    wire.in_step()
    assert [] == wire.messages(box)


def test_a_mark_from_before_a_reboot_means_nothing(wire, box, recording, monkeypatch):
    """Nobody knows what a power cut has left of the file: the message is written again, and none is lost."""
    (ident,) = left(wire, recording)
    killed_before_the_commit(wire, monkeypatch)
    take_away(wire, ident)
    monkeypatch.setattr(Clock, "boot", lambda _self: "another")
    wire.crash("secondary")
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


def test_a_restore_by_command_has_its_mark_too(wire, box, recording, monkeypatch):
    """Killed before its file is noted, and deleted by the application: it is deleted, as that came last."""
    ident = wire.desk("secondary").leave(box, recording())
    wire.in_step()
    wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    monkeypatch.setattr(Applier, "_shown", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        wire.desk("secondary").restore_message(box, ident)
    monkeypatch.undo()
    take_away(wire, ident)
    wire.crash("secondary")
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def test_a_mark_waits_for_no_disk(wire, box, recording, monkeypatch):
    """New messages wait for the disk as often as where the boot has no id, so that there are no marks."""
    counts = []
    left(wire, recording)
    wire.b.take()
    for boot in ("known", "unknown"):
        wire.exchange()
        with monkeypatch.context() as patch:
            patch.setattr(Clock, "boot", lambda _self, boot=boot: boot)
            wire.crash("secondary")
            left(wire, recording, 10)
            waits = []
            patch.setattr(durable, "_fsync", waits.append)
            wire.b.take()
            counts.append(len(waits))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("step", range(1, 8))
def test_a_mark_never_says_more_than_was_done(wire, box, recording, monkeypatch, step):
    """Whichever step is the last: the document is at its place, or no mark says that it was."""
    (ident,) = left(wire, recording)
    document = folder(wire)[0] / f"{ident}.json"
    done = []

    class Killed(BaseException):
        pass

    for name in ("_open", "_rename", "_rename_free", "_unlink"):
        real = getattr(durable, name)

        def counted(*values, real=real):
            if len(done) == step:
                raise Killed
            done.append(real)
            return real(*values)

        monkeypatch.setattr(durable, name, counted)
    with pytest.raises(Killed):
        wire.b.take()
    placing = Placing(wire.b.store, wire.clock)
    assert bool(placing.left()[0]) <= document.exists()
    monkeypatch.undo()
    placing.clear()
    assert not any(folder(wire)[1].glob("*"))
