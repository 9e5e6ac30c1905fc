"""What the commands say where something of a store is gone or damaged: the same everywhere, and what to type."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from running import Commands

from vmctl import errors, network
from vmctl.clock import Clock
from vmctl.config import load
from vmctl.model import ABSENT
from vmctl.replica import Replica

if TYPE_CHECKING:
    from pathlib import Path

    from wire import Wire


@pytest.fixture
def vmctl(tmp_path: Path) -> Commands:
    """Commands in a new network with mailbox 2001, whose files settle at once."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    made = Commands(tmp_path / "net")
    made("mailbox", "create", "2001", "--name", "Ada")
    return made


def lose_index(vmctl: Commands) -> None:
    """The index of the primary is gone."""
    for path in (vmctl.store / ".vmctl").glob("index.db*"):
        path.unlink()


# The index is gone

ASKING = [
    ("history", "list", "--all"),
    ("history", "list", "mailbox/2001"),
    ("history", "show", "mailbox/2001", "1"),
    ("history", "diff", "mailbox/2001"),
    ("history", "restore", "mailbox/2001", "1"),
    ("conflicts", "list"),
    ("conflicts", "drop", "--all"),
    ("conflicts", "show", "3f2a9c0d1b7e4a5566778899"),
    ("parked", "list"),
    ("parked", "show", "3f2a"),
]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_a_command_that_asks_a_lost_index_says_that_it_is_gone(vmctl: Commands, words: tuple[str, ...]) -> None:
    """Not that there is nothing: history, conflicts and parked name the loss and what to type."""
    lose_index(vmctl)
    done = vmctl(*words, code=errors.IndexDamaged.exit_code)
    assert "the index of primary is gone" in done.stderr
    assert "'vmctl sync'" in done.stderr
    for wrong in ("no history", "no two edits", "nothing is parked", "no conflict"):
        assert wrong not in done.output


def test_an_empty_index_is_a_lost_one(vmctl: Commands) -> None:
    """An index file of no bytes, or one that a killed process had only begun, is gone for those who read, and the status."""
    lose_index(vmctl)
    (vmctl.store / ".vmctl/index.db").touch()
    for words in (("history", "list", "--all"), ("conflicts", "list"), ("status",)):  # the first begins an index in it
        assert "the index of primary is gone" in vmctl(*words, code=errors.IndexDamaged.exit_code).output
    vmctl("mailbox", "set", "2001", "--name", "Grace")
    vmctl("history", "list", "--all")


def test_a_mail_that_came_in_is_listed_without_an_index(vmctl: Commands) -> None:
    """It lies in a file: `parked list` shows it, and says that of what went out nothing is known; it can be dropped."""
    refused = vmctl.store / ".vmctl/refused"
    refused.mkdir()
    (refused / "1795531278191562-9ee9ec6ae7ad.eml").write_bytes(b"no mail")
    lose_index(vmctl)
    done = vmctl("parked", "list", "--json", code=errors.IndexDamaged.exit_code)
    assert ["in"] == [one["direction"] for one in json.loads(done.stdout)]
    assert "IndexDamaged" == json.loads(done.stderr)["error"]
    vmctl("parked", "drop", "1795531278191562")
    assert [] == list(refused.iterdir())


def test_a_store_that_never_had_an_index_has_nothing(tmp_path: Path) -> None:
    """Right after `vmctl init` there is no history and no conflict, and that is no fault."""
    network.make(tmp_path / "net")
    vmctl = Commands(tmp_path / "net")
    for words in (("history", "list", "--all"), ("conflicts", "list"), ("parked", "list")):
        assert [] == vmctl.json(*words)


def test_a_journal_is_checked_without_an_index(vmctl: Commands) -> None:
    """The chain needs no index: what the other server has seen of it is said not to be known."""
    lose_index(vmctl)
    done = vmctl("journal", "--verify")
    assert "the chain is whole" in done.stdout
    assert "is not known here" in done.stderr


# One name for a value and a section


def test_a_value_and_a_section_of_one_name_are_both_kept_and_named(wire: Wire) -> None:
    """Set at two servers at once: both files show both, it is a fault with a mend, and an edit of the file loses none."""
    wire.desk().set_settings({"site": "Main house"})
    wire.desk("secondary").set_settings({"site.name": "Annex"})
    wire.in_step()
    for replica in wire.servers.values():
        assert {"site": "Main house", "site.name": "Annex"} == replica.store.document("settings")
        fault = next(fault for fault in replica.index.faults.all() if fault["path"] == "settings: site")
        assert "'vmctl settings unset site'" in fault["mend"]
    path = wire.root() / "settings.yaml"
    path.write_text(path.read_text().replace("Main house", "Main building"))
    wire.in_step()
    assert {"site": "Main building", "site.name": "Annex"} == wire.b.store.document("settings")
    wire.desk().set_settings({"site": ABSENT})
    wire.in_step()
    for replica in wire.servers.values():
        assert {"site.name": "Annex"} == replica.store.document("settings")
        assert [] == replica.index.faults.all()
    assert "#" not in (wire.root("secondary") / "settings.yaml").read_text().partition("\n")[2]


# The files of a mailbox are gone

HELD = errors.DeletionsHeld.exit_code


@pytest.fixture
def vanished(vmctl: Commands, recording: Any) -> list[str]:
    """The files of mailbox 2001, with two messages, are gone from the primary, by accident; the ids of the messages."""
    idents = [vmctl("message", "leave", "2001", "--audio", str(recording())).stdout.strip() for _ in range(2)]
    vmctl("sync")
    shutil.rmtree(vmctl.store / "mailboxes/2001")
    return idents


@pytest.mark.parametrize("scanned", [True, False], ids=["named by a scan", "a moment ago"])
def test_every_command_says_the_same_of_a_mailbox_whose_files_are_gone(
    vmctl: Commands, vanished: list[str], recording: Any, *, scanned: bool
) -> None:
    """Neither that there is none, nor that it is there, nor that it is being edited: what is gone, and what to type."""
    if scanned:
        vmctl("sync", code=HELD)
    for words in (
        ("mailbox", "create", "2001", "--name", "Eve"),
        ("mailbox", "set", "2001", "--quota", "5"),
        ("mailbox", "set", "2001", "--unset", "email"),
        ("mailbox", "show", "2001"),
        ("mailbox", "restore", "2001"),
        ("mailbox", "renumber", "2001", "3001"),
        ("greeting", "set", "2001", "busy", "--audio", str(recording())),
        ("greeting", "list", "2001"),
        ("message", "list", "2001"),
        ("message", "show", "2001", vanished[0]),
        ("message", "mark", "2001", vanished[0], "--as", "saved"),
    ):
        done = vmctl(*words, code=HELD)
        assert "the files of mailbox 2001 are gone: its deletion waits for your word" in done.stderr
        for mend in ("put the files back", "'vmctl reindex'", "'vmctl sync --accept-deletions'"):
            assert mend in done.stderr
    done = vmctl("mailbox", "list", "--json")
    assert [] == json.loads(done.stdout)
    assert "the files of mailbox 2001 are gone" in done.stderr
    assert ["2001"] == [one["extension"] for one in vmctl.json("mailbox", "list", "--server", "secondary")]


def left_in_it(vmctl: Commands, vanished: list[str], recording: Any) -> str:
    """A message that was left in the mailbox whose files are gone; its id. The peer has it, and nothing is deleted."""
    left = vmctl("message", "leave", "2001", "--audio", str(recording())).stdout.strip()
    vmctl("sync", code=HELD)
    done = vmctl("message", "list", "2001", "--json")
    assert [left] == [one["id"] for one in json.loads(done.stdout)]
    assert "the files of mailbox 2001 are gone" in done.stderr
    assert {*vanished, left} == messages(vmctl, "secondary")
    return left


def messages(vmctl: Commands, server: str) -> set[str]:
    """The ids of the messages in a server's mailbox 2001."""
    return {one["id"] for one in vmctl.json("message", "list", "2001", "--server", server)}


def test_a_message_is_taken_for_a_mailbox_whose_files_are_gone_and_outlives_the_deletion(
    vmctl: Commands, vanished: list[str], recording: Any
) -> None:
    """A recording is not refused for that. Whoever lets the deletion go had not seen it: it brings the mailbox back."""
    left = left_in_it(vmctl, vanished, recording)
    vmctl("sync", "--accept-deletions")
    vmctl("sync")
    assert [{left}, {left}] == [messages(vmctl, server) for server in ("primary", "secondary")]
    assert "Ada" == vmctl.json("mailbox", "show", "2001")["name"]
    assert ["mailbox/2001"] == [one["record"] for one in vmctl.json("conflicts", "list")]
    assert vmctl.json("verify")["equal"]


def test_a_message_that_was_taken_meanwhile_is_there_when_the_files_are_back(
    vmctl: Commands, vanished: list[str], recording: Any
) -> None:
    """By `vmctl reindex` and the other server: it, and all that was in the mailbox."""
    left = left_in_it(vmctl, vanished, recording)
    vmctl("reindex")
    vmctl("sync")
    assert {*vanished, left} == messages(vmctl, "primary")
    assert [] == vmctl.json("conflicts", "list")
    assert vmctl.json("verify")["equal"]


def test_a_message_is_not_put_under_a_file_system_that_is_not_mounted(wire: Wire, recording: Any) -> None:
    """There it would be hidden when the right one is mounted again: it is refused with the word of what is gone."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    away = wire.directory / "mounted"
    (wire.root() / "mailboxes").rename(away)
    (wire.root() / "mailboxes").mkdir()
    before = wire.a.index.note("file_systems")
    with wire.a.index.transaction():  # as if the folder had lain on a disk of its own
        wire.a.index.set_note("file_systems", {**before, "mailboxes": before["mailboxes"] + 1})
    with pytest.raises(errors.DeletionsHeld, match="the files of mailbox 2001 are gone"):
        wire.desk().leave("2001", recording())
    assert [] == list((wire.root() / "mailboxes").iterdir())


def test_a_mailbox_whose_files_are_gone_is_deleted_by_the_command_for_it(vmctl: Commands, vanished: list[str]) -> None:
    """That is a person's word for this mailbox alone, and `mailbox restore` takes it back with its messages."""
    vmctl("mailbox", "delete", "2001", "--yes")
    vmctl("sync")
    assert [] == vmctl.json("mailbox", "list", "--server", "secondary")
    vmctl("mailbox", "restore", "2001")
    vmctl("sync")
    assert set(vanished) == messages(vmctl, "primary")
    assert vmctl.json("verify")["equal"]


# The status of what is damaged


def garble(vmctl: Commands, name: str) -> None:
    """What no program wrote, in place of a file of the primary's."""
    if name == "index.db":
        lose_index(vmctl)
    (vmctl.store / ".vmctl" / name).write_bytes(b"this is none of ours\n" * 999)


def status(vmctl: Commands, code: int) -> tuple[dict[str, Any], Any]:
    """The status as JSON, which must exit with a code; and the command's result as people see it."""
    done = vmctl("status", "--json", code=code)
    assert {25: "IndexDamaged", 70: "JournalBroken"}[code] == json.loads(done.stderr)["error"]
    return json.loads(done.stdout), vmctl("status", code=code)


@pytest.mark.parametrize("how", ["garbage", "gone", "a page lost"])
def test_the_status_of_a_damaged_index_still_tells_who_serves(vmctl: Commands, how: str) -> None:
    """The roles are in the journal: they are shown, with the other server's numbers; then it exits as the table says."""
    vmctl("sync")
    before = vmctl.json("status")
    if how == "garbage":
        garble(vmctl, "index.db")
    elif how == "gone":
        lose_index(vmctl)
    else:
        index = vmctl.store / ".vmctl/index.db"
        index.write_bytes(index.read_bytes()[:4096] + b"\xff" * (index.stat().st_size - 4096))
    value, done = status(vmctl, errors.IndexDamaged.exit_code)
    assert before["services"] == value["services"]
    for name in ("records", "pending", "conflicts", "faults", "damaged", "role"):
        assert before["servers"]["secondary"][name] == value["servers"]["secondary"][name]
    mine = value["servers"]["primary"]
    assert before["servers"]["primary"].keys() == mine.keys()
    assert [None, None, "active"] == [mine["records"], mine["pending"], mine["role"]]
    assert ["IndexDamaged"] == [one["error"] for one in mine["damaged"]]
    assert "vmctl reindex" in mine["damaged"][0]["hint"]
    assert value["in_step"] is False
    assert "primary IS DAMAGED: the index" in done.stdout
    assert "voicemail  primary  primary" in done.stdout
    vmctl("reindex")
    vmctl("sync")
    assert [] == vmctl.json("status")["servers"]["primary"]["damaged"]


def test_the_status_of_a_damaged_journal_still_tells_what_the_index_knows(vmctl: Commands) -> None:
    """Numbers from the index, roles from the other server's journal; once both are damaged, roles are not known."""
    vmctl("sync")
    before = vmctl.json("status")
    garble(vmctl, "journal.jsonl")
    value, done = status(vmctl, errors.JournalBroken.exit_code)
    assert [("primary", True)] == [(one["serving"], one["known"]) for one in value["services"]]
    for name in ("records", "pending", "last_sync", "conflicts", "faults"):
        assert before["servers"]["primary"][name] == value["servers"]["primary"][name]
    assert "primary IS DAMAGED: the journal" in done.stdout
    assert "vmctl journal --verify" in done.stdout
    (vmctl.directory / "secondary/.vmctl/journal.jsonl").write_bytes(b"nor this\n")
    for name in (
        "primary",
        "secondary",
    ):  # what each was told in mails counts while it is fresh; a new start forgets it
        with Replica.open(load(vmctl.directory / "vmctl.yaml"), name, Clock()) as replica:
            replica.contact.forget()
    value, done = status(vmctl, errors.JournalBroken.exit_code)
    assert [False] == [one["known"] for one in value["services"]]
    assert 2 == done.stdout.count("IS DAMAGED: the journal")
    assert "not known" in done.stdout
    assert "starting" not in done.stdout


def test_the_status_of_a_store_of_which_nothing_can_be_read(vmctl: Commands) -> None:
    """Index and journal: both are named, each with its mend, and the index's code is the one it exits with."""
    vmctl("sync")
    garble(vmctl, "index.db")
    garble(vmctl, "journal.jsonl")
    value, _ = status(vmctl, errors.IndexDamaged.exit_code)
    assert ["IndexDamaged", "JournalBroken"] == [one["error"] for one in value["servers"]["primary"]["damaged"]]
    assert ["primary"] == [one["serving"] for one in value["services"]]
