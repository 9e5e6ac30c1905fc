"""What the commands say where something of a store is gone or damaged: the same everywhere, and what to type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from running import Commands

from vmctl import errors, network
from vmctl.model import ABSENT

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
    ("conflicts", "list"),
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
        fault = next(fault for fault in replica.index.faults() if fault["path"] == "settings: site")
        assert "'vmctl settings unset site'" in fault["mend"]
    path = wire.root() / "settings.yaml"
    path.write_text(path.read_text().replace("Main house", "Main building"))
    wire.in_step()
    assert {"site": "Main building", "site.name": "Annex"} == wire.b.store.document("settings")
    wire.desk().set_settings({"site": ABSENT})
    wire.in_step()
    for replica in wire.servers.values():
        assert {"site.name": "Annex"} == replica.store.document("settings")
        assert [] == replica.index.faults()
    assert "#" not in (wire.root("secondary") / "settings.yaml").read_text().partition("\n")[2]
