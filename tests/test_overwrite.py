"""`vmctl sync --overwrite-from`: that side wins, nothing is thrown away, and it can be cut off and run again."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS, Net, until, wav

from vmctl import errors, overwrite
from vmctl import round as rounds
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.model import ABSENT, Tick, created, deleted, edited, restored
from vmctl.replica import Replica
from vmctl.undo import Undo

if TYPE_CHECKING:
    from pathlib import Path

    from wire import Wire

ME, OTHER = "primary-0a", "secondary-0b"


# What is set back, record by record


def box(**document: Any) -> Any:
    """A mailbox as both servers hold it."""
    return created("mailbox/2001", {"name": "Ada"} | document, Tick(10, ME), 10)


def back(then: Any, now: Any) -> Any:
    """What the winner makes of it, as its change 99."""
    return overwrite.as_it_was(then, now, {ME}, Tick(99, ME), 99)


def test_what_the_other_set_is_set_back() -> None:
    """A value, a field that only the other has, and one that it removed: each is as it was."""
    then = box(quota=5)
    now = edited(then, {"name": "Bob", "language": "fr", "quota": ABSENT}, Tick(20, OTHER), 20)
    made = back(then, now)
    assert {"name": "Ada", "quota": 5} == made.document
    assert all(made.fields[name].stamp > now.fields[name].stamp for name in ("name", "language", "quota"))


def test_what_the_other_deleted_is_there_again_and_what_it_made_is_not() -> None:
    """Each as a new change, which the other follows."""
    then = box()
    assert back(then, deleted(then, Tick(20, OTHER))).lives
    assert not back(None, created("mailbox/2002", {}, Tick(20, OTHER), 20)).lives
    dead = deleted(then, Tick(15, ME))
    assert not back(dead, restored(dead, Tick(20, OTHER))).lives


def test_what_the_winner_did_meanwhile_counts() -> None:
    """An edit, a deletion and a new record of the winner's own, made since it is remembered, stay."""
    then = box()
    mine = edited(then, {"quota": 7}, Tick(20, ME), 20)
    assert mine is back(then, mine)
    gone = deleted(then, Tick(20, ME))
    assert gone is back(then, gone)
    new = created("mailbox/2002", {"name": "Eve"}, Tick(20, ME), 20)
    assert new is back(None, new)
    both = edited(mine, {"name": "Bob"}, Tick(21, OTHER), 21)
    assert {"name": "Ada", "quota": 7} == back(then, both).document


def test_equal_values_are_left_as_they_are() -> None:
    """The other set what the winner holds: nothing is to be done."""
    then = box()
    now = edited(then, {"name": "Ada"}, Tick(20, OTHER), 20)
    assert now is back(then, now)


# Over the wire


def run(wire: Wire, winner: str = "primary", *, cut: str | None = None) -> dict[str, str]:
    """An overwrite, its rounds by mails in memory; `cut` ends the process at that moment."""
    overwrite.remember(wire.servers[winner])
    if cut == "before the round":
        return {}
    wire.in_step()
    if cut == "after the round":
        return {}
    changes = overwrite.set_back(wire.servers[winner], "ada")
    if cut != "before the second round":
        wire.in_step()
    return changes


@pytest.fixture
def apart(wire: Wire, recording: Any) -> dict[str, str]:
    """Both servers were in step, and then changed everything that can be changed, each on its own; ids by name."""
    wire.desk().create_mailbox("2001", {"name": "Ada", "quota": 5})
    wire.desk().create_mailbox("2002", {"name": "Both"})
    wire.desk().set_settings({"defaults.quota": 9})
    wire.desk().set_callflow("main", "a: 1\n")
    wire.desk().set_greeting("2001", "busy", recording())
    idents = {name: wire.desk().leave("2001", recording()) for name in ("kept", "deleted", "saved", "marked")}
    wire.in_step()
    other = wire.desk("secondary")
    other.set_mailbox("2001", {"name": "Wrong", "language": "fr"})
    other.set_settings({"defaults.quota": 1, "new.key": 2})
    other.set_callflow("main", "a: wrong\n")
    other.set_greeting("2001", "busy", recording())
    other.delete_mailbox("2002")
    other.create_mailbox("2003", {"name": "Only there"})
    idents["in2003"] = other.leave("2003", recording())
    idents["there"] = other.leave("2001", recording())
    other.delete_message("2001", idents["deleted"])
    other.mark("2001", idents["saved"], "saved")
    wire.desk().delete_message("2001", idents["saved"])
    wire.desk().mark("2001", idents["marked"], "old")
    idents["here"] = wire.desk().leave("2001", recording())
    return idents


def state(wire: Wire, name: str) -> dict[str, Any]:
    """What a store holds, but for times and stamps."""
    store = wire.servers[name].store
    return {
        "boxes": {extension: store.document(f"mailbox/{extension}") for extension in store.names("mailbox")},
        "messages": {
            ident: (store.document(f"message/{extension}/{ident}") or {})["status"]
            for extension in store.names("mailbox")
            for ident in store.names("message", extension)
        },
        "settings": store.document("settings"),
        "callflow": store.document("callflow/main"),
        "greeting": (wire.root(name) / "mailboxes/2001/greetings/busy.wav").read_bytes(),
    }


@pytest.mark.parametrize("winner", SERVERS)
def test_both_hold_what_the_winner_held(wire: Wire, apart: dict[str, str], winner: str) -> None:
    """Values, deletions, new mailboxes, messages and greetings: all is as at the winner before, on both."""
    assert apart
    wire.scan(winner)
    before = state(wire, winner)
    assert run(wire, winner)
    assert [before, before] == [state(wire, name) for name in SERVERS]


def test_nothing_is_thrown_away(wire: Wire, apart: dict[str, str]) -> None:
    """Messages that only the loser had can be restored, its values are in the history, and it is journalled."""
    changes = run(wire)
    assert overwrite.DELETED == changes[f"message/2001/{apart['there']}"]
    assert overwrite.RESTORED == changes[f"message/2001/{apart['deleted']}"]
    assert overwrite.SET == changes["settings"]
    wire.desk("secondary").restore_message("2001", apart["there"])
    wire.desk().restore_message("2003", apart["in2003"])
    wire.in_step()
    assert apart["there"] in wire.messages("2001")
    assert [apart["in2003"]] == wire.messages("2003", "secondary")
    versions = wire.a.index.history.of("callflow/main")
    wrong = next(version for version in versions if version.document == {"text": "a: wrong\n"})
    Undo(wire.a, wire.desk()).restore("callflow/main", wrong.number)
    wire.in_step()
    assert {"text": "a: wrong\n"} == wire.b.store.document("callflow/main")
    last = [entry for entry in wire.a.journal.entries() if entry["event"].startswith("overwritten")]
    assert [("overwritten from primary", len(changes), "operator ada")] == [
        (entry["event"], entry["records"], entry["by"]) for entry in last
    ]


@pytest.mark.parametrize("where", SERVERS)
def test_a_mailbox_that_it_deleted_comes_back_whole(wire: Wire, recording: Any, where: str) -> None:
    """The loser's mailbox with its messages and its greeting: one 'mailbox restore' brings all of it back."""
    there = wire.desk("secondary")
    there.create_mailbox("2003", {"name": "Only there"})
    there.set_greeting("2003", "busy", recording())
    idents = sorted(there.leave("2003", recording()) for _ in range(3))
    there.delete_message("2003", gone := there.leave("2003", recording()))
    run(wire)
    assert [[], []] == [replica.store.names("mailbox") for replica in wire.servers.values()]
    assert 4 == MailboxDesk(wire.servers[where]).restore_mailbox("2003").inside
    wire.in_step()
    for name, replica in wire.servers.items():
        assert idents == wire.messages("2003", name)
        assert ["busy"] == replica.store.names("greeting", "2003")
        assert gone not in wire.messages("2003", name)


def test_a_mailbox_that_the_loser_deleted_comes_back_whole(wire: Wire, recording: Any) -> None:
    """With the messages that were in it, and without those that had been deleted before."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    idents = sorted(wire.desk().leave("2001", recording()) for _ in range(3))
    wire.in_step()
    wire.desk().delete_message("2001", idents[0])
    wire.in_step()
    wire.desk("secondary").delete_mailbox("2001")
    changes = run(wire)
    assert {"mailbox/2001", *(f"message/2001/{ident}" for ident in idents[1:])} == changes.keys()
    assert [idents[1:]] * 2 == [wire.messages("2001", name) for name in SERVERS]


@pytest.mark.parametrize("cut", ["before the round", "after the round", "before the second round"])
def test_cut_off_and_run_again(wire: Wire, apart: dict[str, str], cut: str) -> None:
    """Whatever was done before the crash: another run ends where one run does, and both are in step between."""
    assert apart
    before = state(wire, "primary")
    run(wire, cut=cut)
    for name in SERVERS:
        wire.crash(name)
    wire.in_step()
    run(wire)
    assert [before, before] == [state(wire, name) for name in SERVERS]
    assert overwrite.unfinished(wire.a.index, wire.clock.wall()) is None


def test_what_was_remembered_yesterday_is_not_used(wire: Wire, apart: dict[str, str]) -> None:
    """An overwrite that was cut off and forgotten does not undo what was done since."""
    assert apart
    run(wire, cut="after the round")
    wire.desk("secondary").set_mailbox("2001", {"quota": 77})
    wire.in_step()
    wire.clock.advance(90_000)
    assert {} == run(wire)
    assert 77 == wire.a.store.document("mailbox/2001")["quota"]


def test_two_messages_of_one_id_are_not_mixed(wire: Wire, recording: Any) -> None:
    """The winner's message lost its id to the loser's: it stays, under another, and the loser's goes."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    wire.desk().leave("2001", recording(), ident="m1", caller="winner")
    wire.clock.advance(5)
    wire.desk("secondary").leave("2001", recording(), ident="m1", caller="loser")
    run(wire)
    for replica in wire.servers.values():
        found = [replica.store.document(f"message/2001/{ident}") for ident in replica.store.names("message", "2001")]
        assert ["winner"] == [document["from"] for document in found if document]


# As people type it


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network whose servers were in step, and then changed one mailbox each, and left a message."""
    made = Net.make(tmp_path / "net")
    made.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    made.do("sync")
    made.do("mailbox", "set", "2001", "--name", "Wrong", "--server", "secondary")
    made.leave("secondary", "2001", wav(tmp_path / "a.wav"))
    made.do("mailbox", "create", "2002", "--name", "Bob", "--server", "primary")
    return made


def test_a_dry_run_names_the_records_and_changes_nothing(net: Net) -> None:
    """Each record with what would become of it; the stores stay as they are."""
    before = net.run("verify").stdout
    value = net.read("sync", "--overwrite-from", "primary", "--dry-run")
    message = next(key for key in value["changes"] if key.startswith("message"))
    assert {"mailbox/2001": "set", "mailbox/2002": "restored", message: "deleted"} == value["changes"]
    assert "mailbox/2001: would be set to what primary holds" in net.do(
        "sync", "--overwrite-from", "primary", "--dry-run"
    )
    assert before == net.run("verify").stdout


def test_a_script_must_say_yes(net: Net) -> None:
    """Without a terminal nobody can be asked: nothing happens without --yes."""
    done = net.run("sync", "--overwrite-from", "primary")
    assert 2 == done.returncode
    assert "--yes" in done.stderr
    assert "Wrong" in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()


@pytest.mark.parametrize("daemons", [(), ("secondary",), SERVERS])
def test_that_side_wins(net: Net, daemons: tuple[str, ...]) -> None:
    """With daemons and without: both hold what the winner held, and it says what was set back."""
    with contextlib.ExitStack() as stack:
        for name in daemons:
            stack.enter_context(net.daemon(name))
        if not daemons:
            wanted, winner = ("Ada", "primary")
        else:
            for name in daemons:
                until(lambda name=name: " serves " in net.log(name), what="the daemon")
            net.do("sync")
            wanted, winner = ("Wrong", "primary")
        said = net.do("sync", "--overwrite-from", winner, "--yes")
        assert "overwritten with what primary held" in said
        for name in SERVERS:
            assert f"name: {wanted}" in net.path(name, "mailboxes/2001/mailbox.yaml").read_text()
        assert net.read("verify")["equal"]


def test_a_winner_elsewhere_is_refused(net: Net) -> None:
    """It is run where the winner is."""
    text = (net.root / "vmctl.yaml").read_text()
    for word in ("store: primary", "key: keys/primary.pem"):
        text = "\n".join(line for line in text.splitlines() if line.strip() != word)
    (net.root / "vmctl.yaml").write_text(text + "\n")
    done = net.run("sync", "--overwrite-from", "primary", "--yes")
    assert errors.StoreMissing.exit_code == done.returncode
    assert "run it where primary is" in done.stderr


def test_a_peer_that_cannot_be_reached(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round fails: what the winner held is remembered, and the next run goes on with it."""

    class Unreachable:
        """A round that reaches nobody."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def run(self) -> rounds.Outcome:
            raise errors.PeerUnreachable("secondary does not answer")

    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(overwrite, "Round", Unreachable)
        with pytest.raises(errors.PeerUnreachable):
            overwrite.overwrite(net.config, "primary", clock, by="ada", timeout=5, wait=lambda _: None)
    with Replica.open(net.config, "primary", clock) as replica:
        Desk(replica).set_mailbox("2002", {"quota": 3})  # the winner's own, since
    done = net.run("sync", "--overwrite-from", "primary", "--yes")
    assert 0 == done.returncode, done.stderr
    assert "an overwrite was cut off: this one goes on with it" in done.stderr
    assert "name: Ada" in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()
    assert "quota: 3" in net.path("secondary", "mailboxes/2002/mailbox.yaml").read_text()


def test_the_dry_run_tells_what_a_run_that_was_cut_off_sets_back(net: Net, tmp_path: Path) -> None:
    """Also what both servers hold alike by now, as it came after that which is remembered: the run does what was told."""
    net.do("sync")
    with Replica.open(net.config, "primary", Clock()) as replica:
        overwrite.remember(replica)
    ident = net.leave("secondary", "2001", wav(tmp_path / "new.wav", level=900))
    net.do("sync")
    done = net.run("sync", "--overwrite-from", "primary", "--dry-run", "--json")
    assert "an overwrite was cut off: this one goes on with it" in done.stderr
    promised = json.loads(done.stdout)["changes"]
    assert overwrite.DELETED == promised[f"message/2001/{ident}"]
    assert promised == json.loads(net.do("sync", "--overwrite-from", "primary", "--yes", "--json"))["changes"]
    assert {} == net.read("sync", "--overwrite-from", "primary", "--dry-run")["changes"]


# Where files are gone, and their deletion waits for a word


def vanish(net: Net, server: str, tmp_path: Path) -> list[str]:
    """Both in step with three messages in 2001; then its files are gone from a server, which has seen it."""
    net.do("sync")
    idents = [net.leave("primary", "2001", wav(tmp_path / f"{n}.wav", level=n * 100)) for n in range(1, 4)]
    net.do("sync")
    shutil.rmtree(net.path(server, "mailboxes/2001"))
    assert errors.DeletionsHeld.exit_code == net.run("sync").returncode
    return idents


@pytest.mark.parametrize("daemons", [(), ("secondary",), SERVERS], ids=str)
def test_what_is_gone_at_the_loser_is_written_again(net: Net, tmp_path: Path, daemons: tuple[str, ...]) -> None:
    """As the dry run says: the winner's mailbox, its messages and their recordings, and nothing of it is deleted."""
    idents = vanish(net, "secondary", tmp_path)
    promised = net.read("sync", "--overwrite-from", "primary", "--dry-run")["changes"]
    there = [path.stem for path in net.path("primary", "mailboxes/2001/messages").glob("*.json")]
    assert set(idents) < set(there)
    assert {"mailbox/2001", *(f"message/2001/{ident}" for ident in there)} == promised.keys()
    assert {"restored"} == set(promised.values())
    with contextlib.ExitStack() as stack:
        for name in daemons:
            stack.enter_context(net.daemon(name))
        for name in daemons:
            until(lambda name=name: " serves " in net.log(name), what="the daemon")
        done = net.run("sync", "--overwrite-from", "primary", "--yes", "--json")
        assert 0 == done.returncode, done.stderr
        assert promised == json.loads(done.stdout)["changes"]
        assert net.read("verify")["equal"]
    assert sorted(there) == sorted(path.stem for path in net.path("secondary", "mailboxes/2001/messages").glob("*.wav"))
    net.do("sync")
    assert [] == net.status()["servers"]["secondary"]["faults"]


def test_what_is_gone_at_the_loser_and_was_edited_since_is_written_again(net: Net, tmp_path: Path) -> None:
    """An edit that waits with the file that is gone keeps neither a round nor the overwrite from its end."""
    vanish(net, "secondary", tmp_path)
    net.do("mailbox", "set", "2001", "--name", "Grace", "--server", "primary")
    done = net.run("sync")
    assert errors.DeletionsHeld.exit_code == done.returncode, done.stderr
    assert "in step" in done.stdout
    net.do("sync", "--overwrite-from", "primary", "--yes")
    assert net.read("verify")["equal"]
    assert "Grace" in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()


def test_what_is_gone_at_the_winner_goes_on_waiting(net: Net, tmp_path: Path) -> None:
    """That its files are gone is not what the winner holds before a person says so: the dry run and the run name it."""
    vanish(net, "primary", tmp_path)
    done = net.run("sync", "--overwrite-from", "primary", "--dry-run", "--json")
    assert {} == json.loads(done.stdout)["changes"]
    assert "records wait for your word there" in done.stderr
    done = net.run("sync", "--overwrite-from", "primary", "--yes")
    assert errors.DeletionsHeld.exit_code == done.returncode
    assert net.path("secondary", "mailboxes/2001/mailbox.yaml").exists()
    assert not net.path("primary", "mailboxes/2001").exists()


def test_what_vanishes_after_an_overwrite_waits_as_before(net: Net, tmp_path: Path) -> None:
    """It is written again once: what is gone later is no part of it, although mails go on telling of the overwrite."""
    vanish(net, "secondary", tmp_path)
    net.do("sync", "--overwrite-from", "primary", "--yes")
    shutil.rmtree(net.path("secondary", "mailboxes/2001"))
    for _ in range(2):
        assert errors.DeletionsHeld.exit_code == net.run("sync").returncode
    assert not net.path("secondary", "mailboxes/2001").exists()
    assert net.path("primary", "mailboxes/2001/mailbox.yaml").exists()


def test_nothing_is_written_again_under_another_file_system(wire: Wire) -> None:
    """There it would be hidden when the right one is mounted again: it goes on waiting."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    shutil.rmtree(wire.root("secondary") / "mailboxes")
    (wire.root("secondary") / "mailboxes").mkdir()
    known = wire.b.index.note("file_systems")
    with wire.b.index.transaction():  # as if the folder had lain on a disk of its own
        wire.b.index.set_note("file_systems", {**known, "mailboxes": known["mailboxes"] + 1})
    assert ["mailbox/2001"] == wire.scan("secondary").held
    overwrite.remember(wire.a)
    overwrite.set_back(wire.a, "ada")
    wire.exchange()
    assert [] == list((wire.root("secondary") / "mailboxes").iterdir())
    assert ["mailbox/2001"] == wire.scan("secondary").held
