"""What looks like a fault of the disk deletes nothing on the other server: it waits, it is named, all else goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS

from vmctl.errors import StoreUnusable
from vmctl.store import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from wire import Wire


@pytest.fixture
def box(wire: Wire, recording: Any) -> str:
    """Mailbox 2001 with six messages, and three prompts: the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    for number in range(6):
        wire.desk().leave("2001", recording())
        if number < 3:
            wire.desk().set_prompt(f"p{number}", recording())
    wire.in_step()
    return "2001"


def other_file_system(monkeypatch: pytest.MonkeyPatch, root: Any) -> None:
    """Another file system is mounted at `root`, as stat tells it."""

    def lstat(path: Any) -> os.stat_result:
        status = os.lstat(path)
        if not str(path).startswith(str(root)):
            return status
        values = list(status)
        values[2] += 1  # st_dev
        return os.stat_result(values, {name: getattr(status, name) for name in dir(status) if name.startswith("st_")})

    monkeypatch.setattr(native, "_lstat", lstat)


def prompts(wire: Wire, name: str) -> list[str]:
    """The prompts in a server's store."""
    return wire.servers[name].store.names("prompt")


@pytest.mark.parametrize("mounted", [".", "prompts"])
def test_an_absence_on_another_file_system_waits(
    wire: Wire, box: str, monkeypatch: pytest.MonkeyPatch, mounted: str
) -> None:
    """One prompt is gone, and the store or its folder is another file system than before: nothing is deleted."""
    assert box
    (wire.root() / "prompts/p0.wav").unlink()
    with monkeypatch.context() as patch:
        other_file_system(patch, wire.root() if mounted == "." else f"{wire.root()}/{mounted}")
        report = wire.scan()
        assert ["prompt/p0"] == report.held
        wire.exchange()
        assert ["p0", "p1", "p2"] == prompts(wire, "secondary")
        wire.desk().set_mailbox(box, {"quota": 9})  # all else goes on
        wire.exchange()
        assert 9 == wire.b.store.document("mailbox/2001")["quota"]
    assert [] == wire.scan().held  # the old one is back, and the prompt is still gone: somebody deleted it
    wire.in_step()
    assert ["p1", "p2"] == prompts(wire, "secondary")


def test_another_file_system_with_all_files_is_no_fault(wire: Wire, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved to a new disk with everything: it is taken as it is, and a later deletion is one."""
    assert box
    other_file_system(monkeypatch, wire.root())
    assert [] == wire.scan().held
    (wire.root() / "prompts/p0.wav").unlink()
    assert [] == wire.scan().held
    wire.in_step()
    assert ["p1", "p2"] == prompts(wire, "secondary")


@pytest.mark.parametrize("folder", ["prompts", "mailboxes", "mailboxes/2001", "mailboxes/2001/messages"])
def test_a_folder_that_is_gone_with_all_that_was_in_it_waits(wire: Wire, box: str, folder: str) -> None:
    """Held and named; put back, all is as it was; let go by a person, it is deleted on both."""
    away = wire.directory / "away"
    (wire.root() / folder).rename(away)
    report = wire.scan()
    assert report.held
    wire.exchange()
    assert 6 == len(wire.messages(box, "secondary"))
    assert 3 == len(prompts(wire, "secondary"))
    assert any("waits for a person's word" in fault["why"] for fault in wire.a.index.faults.all())
    away.rename(wire.root() / folder)
    assert [] == wire.scan().held
    wire.in_step()
    assert [] == wire.a.index.faults.all()
    shutil.rmtree(wire.root() / folder)
    assert wire.scan().held
    wire.scan(accept_deletions=True)
    wire.in_step()
    assert (prompts(wire, "secondary") == []) == (folder == "prompts")
    assert (wire.messages(box, "secondary") == []) == folder.startswith("mailboxes")


def test_what_comes_while_a_disk_is_not_mounted_is_put_there_when_it_is(
    wire: Wire, box: str, recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the empty folder it would be hidden by the mount, and count as deleted on both servers."""
    root, away = wire.root("secondary"), wire.directory / "away"
    (root / "mailboxes").rename(away)
    (root / "mailboxes").mkdir()
    with monkeypatch.context() as patch:
        other_file_system(patch, root / "mailboxes")
        left = wire.desk().leave(box, recording())
        wire.desk().create_mailbox("2002", {"name": "Bob"})
        wire.exchange()  # the mails come before any scan has missed the files
        wire.scan("secondary")
        wire.exchange()
        assert [] == list((root / "mailboxes").iterdir())
        with pytest.raises(StoreUnusable, match="another file system"):
            wire.desk("secondary").create_mailbox("2003", {"name": "Eve"})
    (root / "mailboxes").rmdir()
    away.rename(root / "mailboxes")
    wire.in_step()
    for name, replica in wire.servers.items():
        assert left in wire.messages(box, name)
        assert ["2001", "2002", "2003"] == replica.store.names("mailbox")


@pytest.mark.parametrize("folder", ["", "mailboxes", "mailboxes/2001", "mailboxes/2001/messages", "prompts"])
def test_a_folder_that_cannot_be_read_is_not_empty(
    wire: Wire, box: str, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Permissions, or a bad block: it is named, nothing in it is deleted, and it is well when it can be read again."""

    def refusing(look: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
        def refused(path: Any) -> list[Any]:
            if Path(path) == (wire.root() / folder if folder else wire.root()):
                raise PermissionError(13, "Permission denied")
            return look(path)

        return refused

    with monkeypatch.context() as patch:
        for name in ("_listed", "_names_in"):
            patch.setattr(native, name, refusing(getattr(native, name)))
        wire.tick()
        wire.scan(full=True)
        wire.scan(full=True)
        assert {folder or "."} == {fault["path"] for fault in wire.a.index.faults.all()}
        wire.exchange()
    assert 6 == len(wire.messages(box, "secondary"))
    assert 3 == len(prompts(wire, "secondary"))
    wire.in_step()
    assert [] == wire.a.index.faults.all()
    assert [6, 6] == [len(wire.messages(box, name)) for name in SERVERS]
