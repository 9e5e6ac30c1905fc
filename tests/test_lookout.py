"""A daemon's look at its whole store is made in parts, and all else that it does goes on between them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from looking import put_back, stand_still, through, turn, until_settled
from wire import SETTLE, Wire, tone

from vmctl import lookout
from vmctl.gate import Gate
from vmctl.lookout import Lookout
from vmctl.status import gather
from vmctl.store.native import NativeStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.store.format import Walk

BOXES = ("2001", "2002", "2003", "2004")
EACH = 3  # messages


@pytest.fixture
def looking(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Lookout:
    """The lookout of the primary, whose store holds what it does not know yet; a part is the least that there is."""
    monkeypatch.setattr(lookout, "_PART", 0.0)
    for box in BOXES:
        wire.desk().create_mailbox(box, {"name": box})
    wire.in_step()
    for box in BOXES:
        for number in range(EACH):
            wire.drop(box, f"m{box}{number}")
    stand_still(wire)
    return Lookout(wire.config.scan, wire.clock, lambda: None)


def test_a_look_has_parts_and_finds_all(wire: Wire, looking: Lookout) -> None:
    """Each mailbox is one of the walk, and its folder one in which something is looked for, is found, and may be gone."""
    assert through(wire, looking) >= 6 * len(BOXES)
    assert not wire.a.report.again
    assert len(BOXES) * EACH == wire.a.index.count("kind = 'message'")
    wire.in_step()


@pytest.mark.parametrize("at", range(1, 25))
def test_what_comes_from_the_peer_between_two_parts_is_taken_in_and_stays(
    wire: Wire, looking: Lookout, at: int
) -> None:  # fmt: skip
    """A message, an edit, a mark and a deletion: none of it is undone by the look that began before it."""
    wire.desk().leave("2004", tone(wire.directory / "first.wav", seed=1))
    wire.in_step()
    (known,) = (ident for ident in wire.messages("2004") if not ident.startswith("m"))
    for box in BOXES:
        wire.drop(box, f"late{box}")
    stand_still(wire)
    looking.begin()
    left: list[str] = []

    def act(part: int) -> None:
        peer = wire.desk("secondary")
        if part == at:
            left.append(peer.leave("2003", tone(wire.directory / "second.wav", seed=2)))
            peer.set_mailbox("2002", {"name": "Eve"})
            peer.mark("2004", known, "saved")
        elif part == at + 1:
            peer.delete_message("2001", "m20010")
        wire.send("secondary")
        wire.deliver(take=False)

    assert through(wire, looking, act) > at + 1
    assert set() == wire.faults()
    wire.in_step()
    for name in wire.servers:
        assert left[0] in wire.messages("2003", name)
        assert "m20010" not in wire.messages("2001", name)
        assert "late2004" in wire.messages("2004", name)
        assert "saved" == wire.servers[name].store.document(f"message/2004/{known}")["status"]
        assert "Eve" == wire.servers[name].store.document("mailbox/2002")["name"]


def test_others_get_at_the_store_while_it_is_walked(
    wire: Wire, looking: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """When one mailbox of all was walked, a message of the peer is put into its place."""
    walked: list[str] = []
    mailbox = NativeStore._mailbox

    def noted(store: NativeStore, walk: Walk, extension: str, *how: Any) -> None:
        walked.append(extension)
        mailbox(store, walk, extension, *how)

    monkeypatch.setattr(NativeStore, "_mailbox", noted)
    ident = wire.desk("secondary").leave("2003", tone(wire.directory / "one.wav", seed=3))
    while not walked:
        turn(wire, looking)
    wire.send("secondary")
    wire.deliver()
    assert walked == [BOXES[0]]
    assert looking.goes_on
    assert ident in wire.messages("2003")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("act", ["edit", "delete"])
@pytest.mark.parametrize("at", [1, 12, 24, 30, 45, 60])
def test_much_that_comes_from_the_peer_since_the_walk_was_not_put_back_from_a_backup(
    wire: Wire, looking: Lookout, at: int, act: str, full: bool
) -> None:  # fmt: skip
    """What the walk saw is older than what is known by now, for good reasons; nor has anything to stand still again."""
    many = [str(number) for number in range(3001, 3026)]
    for box in many:
        wire.desk().create_mailbox(box, {"name": box})
    wire.in_step()
    peer = wire.desk("secondary")
    for box in many:
        if act == "edit":
            peer.set_mailbox(box, {"name": f"other {box}"})
        else:
            peer.delete_mailbox(box)
    stand_still(wire)
    looking.begin()
    looking.request({"full": full, "until": wire.clock.wall() + 10**9})

    def come(part: int) -> None:
        if part == at:
            wire.send("secondary")
            wire.deliver(take=False)

    assert through(wire, looking, come) > at
    assert [] == wire.a.report.held
    assert set() == wire.faults()
    assert not wire.a.report.unsettled
    wire.in_step()
    for box in many:
        for name in wire.servers:
            document = wire.servers[name].store.document(f"mailbox/{box}")
            assert (None if document is None else document["name"]) == (f"other {box}" if act == "edit" else None)


def test_a_file_that_cannot_be_looked_at_any_more_stops_no_look(wire: Wire, looking: Lookout) -> None:
    """A mailbox that is exchanged for a link since the walk is named, and all else is found."""
    wire.in_step()
    for box in BOXES:
        (wire.root() / f"mailboxes/{box}/mailbox.yaml").write_text(f"name: other {box}\n")
    stand_still(wire)
    looking.begin()
    box, aside = wire.root() / "mailboxes/2003", wire.directory / "aside"

    def act(part: int) -> None:
        if part == 1 + 1 + len(BOXES):
            box.rename(aside)
            box.symlink_to(aside)

    assert through(wire, looking, act) > 2 * len(BOXES)
    assert set() < wire.faults() <= {f"mailboxes/2003{inner}" for inner in ("", "/mailbox.yaml", "/messages")}
    assert "other 2004" == wire.a.index.get("mailbox/2004").record.document["name"]
    assert "2003" == wire.a.index.get("mailbox/2003").record.document["name"]
    box.unlink()
    aside.rename(box)
    wire.in_step()
    assert "other 2003" == wire.b.store.document("mailbox/2003")["name"]


def test_what_is_odd_and_taken_away_before_the_walk_is_over_is_no_fault(wire: Wire, looking: Lookout) -> None:
    """What is still there then is named."""
    for name in ("2001", "2002"):
        (wire.root() / f"mailboxes/{name}/odd.txt").touch()

    def act(part: int) -> None:
        if part == 5:
            (wire.root() / "mailboxes/2001/odd.txt").unlink()

    assert through(wire, looking, act) > 2 * 5
    assert {"mailboxes/2002/odd.txt"} == wire.faults()


def test_what_is_dropped_in_between_two_parts_is_looked_at_at_once(wire: Wire, looking: Lookout) -> None:
    """It need not wait for the end of a look that takes minutes, and that goes on as if nothing had been."""
    turn(wire, looking)
    assert looking.goes_on
    ident = wire.desk("secondary").leave("2001", tone(wire.directory / "one.wav", seed=3))
    whole = (wire.root("secondary") / f"mailboxes/2001/messages/{ident}.json").read_bytes()
    folder = wire.root() / "mailboxes/2001/messages"
    shutil.copy(wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav", folder)
    (folder / f"{ident}.json").write_bytes(whole)
    looking.hint("mailboxes/2001/messages", done=True)
    turn(wire, looking)
    assert wire.a.index.get(f"message/2001/{ident}") is not None
    while looking.goes_on:
        turn(wire, looking)
    wire.in_step()
    assert ident in wire.messages("2001", "secondary")


@pytest.mark.parametrize("at", range(1, 21))
def test_what_vanishes_between_two_parts_is_gone_at_a_second_look_only(
    wire: Wire, looking: Lookout, at: int
) -> None:  # fmt: skip
    """As at any other time: a look during which it goes, before the folder is looked into, owes another one."""
    wire.in_step()
    folder = wire.drop("2004", "new")
    stand_still(wire)
    looking.begin()

    def act(part: int) -> None:
        if part == at:
            for suffix in (".json", ".wav"):
                (folder / f"m20040{suffix}").unlink()

    wire.drop("2003", "other")
    after_all_were_looked_into = 20
    assert through(wire, looking, act) > at
    assert wire.a.report.again == (at != after_all_were_looked_into)
    assert wire.lives("message/2004/m20040")
    wire.in_step()
    assert "m20040" not in wire.messages("2004", "secondary")


@pytest.mark.parametrize("at", range(1, 17))
def test_a_file_that_goes_before_it_is_read_is_no_fault(wire: Wire, looking: Lookout, at: int) -> None:
    """It may have been there when the walk came by; a second look, or two, see that it is gone for good.

    That a mailbox is gone waits for a word, as always.
    """
    wire.in_step()
    for box in BOXES:
        path = wire.root() / f"mailboxes/{box}/mailbox.yaml"
        path.write_text(f"name: other {box}\n")
    wire.desk().set_callflow("main", "greet: hello\n")
    wire.in_step()
    flow = wire.root() / "callflows/main.yaml"
    for path in (flow, *(wire.root() / f"mailboxes/{box}/mailbox.yaml" for box in BOXES)):
        path.write_text(path.read_text() + "# other\n")
    stand_still(wire)
    looking.begin()

    def act(part: int) -> None:
        if part == at:
            flow.unlink()
            (wire.root() / "mailboxes/2004/mailbox.yaml").unlink()

    assert through(wire, looking, act) > at
    assert set() == wire.faults()
    for _ in range(3):
        wire.clock.advance(SETTLE + 0.1)
        looking.begin()
        through(wire, looking)
    assert not wire.lives("callflow/main")
    assert ["mailbox/2004"] == wire.a.report.held


def test_a_look_does_not_answer_what_was_asked_after_it_began(wire: Wire, looking: Lookout) -> None:
    """What a person changed before asking may lie where it has looked already: the next look answers."""
    first = looking.request()
    assert not turn(wire, looking)
    second = looking.request({"full": True, "until": wire.clock.wall() + 10**9})
    while looking.goes_on:
        granted = turn(wire, looking)
    assert granted
    assert looking.is_granted(first)
    assert not looking.is_granted(second)
    while not looking.is_granted(second):
        turn(wire, looking)
    assert not turn(wire, looking)


def test_what_a_person_wants_is_not_lost_by_what_another_one_wants(
    wire: Wire, looking: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither `--full` nor `--accept-deletions`, which come while a look goes on, and then one without either."""
    how: list[tuple[bool, bool]] = []
    parts = wire.a.parts

    def noted(**words: Any) -> Iterator[None]:
        how.append((words["full"], words["accept_deletions"]))
        return parts(**words)

    monkeypatch.setattr(wire.a, "parts", noted)
    until = wire.clock.wall() + 10**9
    turn(wire, looking)
    looking.request({"full": True, "accept": True, "until": until})
    looking.request({"full": False, "accept": False, "until": until})
    while looking.goes_on or looking.is_awaited:
        turn(wire, looking)
    assert how == [(False, False), (True, True)]
    assert looking.take_accepted()
    assert not looking.take_accepted()
    looking.begin()
    through(wire, looking)
    assert how[2:] == [(False, False)]


def test_what_is_urgent_waits_for_no_full_look(wire: Wire, looking: Lookout) -> None:
    """A handover has some seconds: a look at what has changed does, and the full one that was due comes after it."""
    through(wire, looking)
    wire.clock.advance(wire.config.scan.full + 1)
    looking.begin()
    turn(wire, looking)
    assert looking.goes_on
    folder = wire.drop("2002", "late")
    stand_still(wire)
    before = int(wire.a.index.meta("full_scan"))
    request = looking.request(urgent=True)
    while not looking.is_granted(request):
        turn(wire, looking)
    assert before == int(wire.a.index.meta("full_scan"))
    assert (folder / "late.json").exists()
    assert wire.a.index.get("message/2002/late") is not None
    looking.begin()
    through(wire, looking)
    assert before < int(wire.a.index.meta("full_scan"))


def test_a_look_that_was_to_be_a_full_one_is_one_also_where_the_first_was_cut_off(
    wire: Wire, looking: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went wrong in the middle grants nothing; what went wrong elsewhere does not even cut it off."""
    looked: list[bool] = []
    parts = wire.a.parts

    def noted(**how: Any) -> Iterator[None]:
        looked.append(how["full"])
        return parts(**how)

    monkeypatch.setattr(wire.a, "parts", noted)
    through(wire, looking)
    looking.request({"full": True, "until": wire.clock.wall() + 10**9})
    turn(wire, looking)
    looking.put_off()
    assert looking.goes_on
    with monkeypatch.context() as patch:
        patch.setattr(wire.a.store, "messages", lambda _folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            through(wire, looking)
    looking.put_off()
    wire.clock.advance(SETTLE + 0.1)
    through(wire, looking)
    assert looked == [False, True, True]
    assert not looking.is_awaited


def test_one_file_that_is_put_back_counts_as_an_edit(wire: Wire, looking: Lookout) -> None:
    """It is older than what was there, as nobody can mean of many: a second look finds that it is the only one."""
    wire.in_step()
    path = wire.root() / "mailboxes/2003/messages/m20031.json"
    former = path.read_bytes()
    wire.desk().mark("2003", "m20031", "saved")
    wire.in_step()
    put_back(path, former)
    stand_still(wire)
    looking.begin()
    assert through(wire, looking) > 1
    assert {"mailboxes/2003/messages/m20031.json"} == wire.a.report.unsettled
    until_settled(wire, looking)
    wire.in_step()
    assert "new" == wire.b.store.document("message/2003/m20031")["status"]


def test_a_look_that_fails_is_begun_again(wire: Wire, looking: Lookout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk that fails in the middle nothing is left but what was found by then."""
    turn(wire, looking)
    with monkeypatch.context() as patch:
        patch.setattr(wire.a.store, "messages", lambda _folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            through(wire, looking)
    assert not looking.goes_on
    looking.put_off()
    wire.clock.advance(SETTLE + 0.1)
    through(wire, looking)
    assert len(BOXES) * EACH == wire.a.index.count("kind = 'message'")


def test_nobody_is_in_step_with_a_store_that_was_never_looked_at_as_a_whole(wire: Wire, looking: Lookout) -> None:
    """What lies in it may be anything: its server says so to the other one until the first look is over."""
    wire.servers["primary"].close()
    for path in (wire.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("primary")
    looking.begin()
    gate = Gate(wire.a.index, wire.a.contact, wire.clock, me="primary", peer="secondary", lag=10.0)
    seen: list[tuple[bool, list[str], bool]] = []

    def look(_: int) -> None:
        told = gather(wire.config, wire.clock)["in_step"]
        seen.append((wire.a.behind, gate._own({"mine": 0}), told))

    through(wire, looking, look)
    assert seen[0] == (True, ["a look at all of the store of primary"], False)
    assert all(one == seen[0] for one in seen if one[0])
    assert not wire.a.behind
    assert gate._own({"mine": 0}) != seen[0][1]
