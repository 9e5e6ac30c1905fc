"""Two of the fifteen nasty scenarios: a server restored from a snapshot (6), a store unmounted or emptied (8)."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS, Net, until, wav
from wire import back_up, put_back

from vmctl import errors

if TYPE_CHECKING:
    from pathlib import Path

    from wire import Wire


@pytest.mark.parametrize("speaks_first", SERVERS)
@pytest.mark.parametrize("restored", SERVERS)
def test_scenario_6_restored_from_yesterdays_snapshot_with_new_changes_before_the_first_contact(
    wire: Wire, recording: Any, tmp_path: Path, restored: str, speaks_first: str
) -> None:
    """As many new changes as were lost, and more: no number looks wrong, and yet nothing of either side is lost or back."""
    peer = wire.other(restored)
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    old = wire.desk(restored).leave("2001", recording())
    gone = wire.desk(restored).leave("2001", recording())
    wire.in_step()
    back_up(wire, restored, tmp_path / "snapshot")
    forgotten = [wire.desk(restored).leave("2001", recording()) for _ in range(20)]
    wire.desk(restored).set_mailbox("2001", {"name": "Forgotten here, known there"})
    wire.desk(peer).delete_message("2001", gone)
    wire.in_step()
    life = wire.servers[restored].index.meta("incarnation")
    put_back(wire, restored, tmp_path / "snapshot")
    new = [wire.desk(restored).leave("2001", recording()) for _ in range(30)]
    wire.desk(restored).set_mailbox("2001", {"quota": 99})
    wire.desk(restored).mark("2001", old, "saved")
    wire.send(speaks_first, always=True)
    wire.deliver()
    wire.in_step()
    assert life != wire.servers[restored].index.meta("incarnation")
    assert [sorted([old, *forgotten, *new])] * 2 == [sorted(wire.messages("2001", name)) for name in SERVERS]
    wanted = {"name": "Forgotten here, known there", "quota": 99, "service": "voicemail"}
    assert [wanted, wanted] == [replica.store.document("mailbox/2001") for replica in wire.servers.values()]
    assert "saved" == (wire.servers[peer].store.document(f"message/2001/{old}") or {})["status"]
    told = [entry for entry in wire.servers[restored].journal.entries() if entry.get("event") == "new incarnation"]
    assert life == told[-1]["before"]


@pytest.mark.parametrize("folder", ["mailboxes", "mailboxes/2001", "mailboxes/2001/messages"])
def test_scenario_8_a_store_that_was_emptied_under_an_intact_index_deletes_nothing(
    wire: Wire, recording: Any, folder: str
) -> None:
    """`rm -rf` of the mailboxes, the identity still there: it waits for a word, and the files can be had back."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    idents = sorted(wire.desk().leave("2001", recording()) for _ in range(5))
    wire.in_step()
    shutil.rmtree(wire.root() / folder)
    for _ in range(3):
        assert set(idents) <= {key.rpartition("/")[2] for key in wire.scan().held}
        wire.exchange()
        assert idents == wire.messages("2001", "secondary")
    faults = wire.a.index.faults.all()
    assert faults
    assert all("vmctl sync --accept-deletions" in fault["mend"] for fault in faults if "waits" in fault["why"])


@pytest.mark.parametrize("left", ["nothing", "an empty mount point", "another store"])
def test_scenario_8_a_store_that_was_unmounted_under_a_running_daemon(tmp_path: Path, left: str) -> None:
    """Whatever is at its path: nothing is deleted, taken or made there, and all goes on by itself when it is back."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    store, away = net.root / "secondary", net.root / "away"
    with net.daemon("primary"), net.daemon("secondary"):
        for name in SERVERS:
            until(lambda name=name: " serves " in net.log(name), what="the daemon")
        store.rename(away)
        if left == "an empty mount point":
            store.mkdir()
        if left == "another store":
            shutil.copytree(net.root / "primary", store, ignore=shutil.ignore_patterns("*lock"))
        said = {"another store": "belongs to server primary"}.get(left, "is not")
        until(lambda: said in net.log("secondary").partition(" serves ")[2], what="the complaint")
        before = sorted(store.rglob("*")) if store.exists() else None
        while_away = net.leave("primary", "2001", wav(tmp_path / "b.wav", level=2))
        refusal = errors.StoreForeign if left == "another store" else errors.StoreMissing
        assert refusal.exit_code == net.run("sync").returncode
        assert before == (sorted(store.rglob("*")) if store.exists() else None)
        if store.exists():
            shutil.rmtree(store)
        away.rename(store)
        until(net.path("secondary", f"mailboxes/2001/messages/{while_away}.json").exists, what="the next message")
        until(lambda: net.status()["in_step"], what="in step again")
    assert net.path("primary", f"mailboxes/2001/messages/{ident}.json").exists()
    assert net.read("verify")["equal"]
