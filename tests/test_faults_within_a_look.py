"""What goes wrong while a look is made in parts: it sees one and the same fault in portions, and must not take them for edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from looking import put_back, stand_still, through, turn, until_settled
from wire import Wire, tone

from vmctl import lookout
from vmctl.lookout import Lookout

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def looking(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Lookout:
    """The lookout of the primary; a part is the least that there is."""
    monkeypatch.setattr(lookout, "_PART", 0.0)
    return Lookout(wire.config.scan, wire.clock, lambda: None)


def mailboxes(wire: Wire, number: int, messages: int = 0) -> list[str]:
    """So many mailboxes, with so many messages each, known to both servers."""
    made = [str(3001 + each) for each in range(number)]
    for box in made:
        wire.desk().create_mailbox(box, {"name": "former"})
    wire.in_step()
    for box in made:
        for each in range(messages):
            wire.drop(box, f"m{box}{each}")
    wire.in_step()
    return made


def begin(wire: Wire, looking: Lookout, changed: Sequence[str] = ()) -> None:
    """A look begins at a store of which all is known but a new message in each of these mailboxes: their folders are listed."""
    until_settled(wire, looking)
    for box in changed:
        wire.drop(box, f"n{box}")
    stand_still(wire)
    looking.begin()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("at", [1, 5, 16, 20, 25, 30, 34, 40, 60, 80])
def test_mailboxes_that_are_put_back_from_a_backup_wait_for_a_word(
    wire: Wire, looking: Lookout, at: int, full: bool
) -> None:  # fmt: skip
    """Also where the look had been at some of them before."""
    boxes = mailboxes(wire, 30)
    saved = {box: (wire.root() / f"mailboxes/{box}/mailbox.yaml").read_bytes() for box in boxes}
    for box in boxes:
        wire.desk("secondary").set_mailbox(box, {"name": "of today"})
    wire.in_step()
    begin(wire, looking)
    looking.request({"full": full, "until": wire.clock.wall() + 10**9})

    def act(part: int) -> None:
        if part == at:
            for box in boxes:
                put_back(wire.root() / f"mailboxes/{box}/mailbox.yaml", saved[box])
            stand_still(wire)

    assert through(wire, looking, act) > at
    until_settled(wire, looking)
    wire.exchange()
    assert {"of today"} == {wire.b.store.document(f"mailbox/{box}")["name"] for box in boxes}
    assert len(boxes) == len(wire.a.report.held)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("at", [1, 12, 20, 30, 48, 54, 60, 75, 90])
def test_messages_that_are_put_back_from_a_backup_wait_for_a_word(
    wire: Wire, looking: Lookout, at: int, listed: bool
) -> None:  # fmt: skip
    """Whether their folders are listed by that look, or by the next one only."""
    boxes = mailboxes(wire, 30, messages=1)
    saved = {box: (wire.root() / f"mailboxes/{box}/messages/m{box}0.json").read_bytes() for box in boxes}
    for box in boxes:
        wire.desk("secondary").mark(box, f"m{box}0", "saved")
    wire.in_step()
    begin(wire, looking, boxes if listed else ())

    def act(part: int) -> None:
        if part == at:
            for box in boxes:
                put_back(wire.root() / f"mailboxes/{box}/messages/m{box}0.json", saved[box])
            stand_still(wire)

    through(wire, looking, act)
    if not listed:
        act(at)  # it may be over by then
    until_settled(wire, looking)
    wire.exchange()
    assert {"saved"} == {wire.b.store.document(f"message/{box}/m{box}0")["status"] for box in boxes}
    assert len(boxes) == len(wire.a.report.held)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("at", [1, 5, 8, 13, 18, 20, 22, 30, 40, 60])
def test_many_messages_that_vanish_wait_for_a_word(wire: Wire, looking: Lookout, at: int, listed: bool) -> None:
    """Also where one look sees less of it than is too much, and the next one the rest."""
    boxes = mailboxes(wire, 20, messages=8)
    begin(wire, looking, boxes[10:] if listed else ())

    def act(part: int) -> None:
        if part == at:
            for box in boxes:
                for name in (f"m{box}{each}.{form}" for each in (0, 1) for form in ("json", "wav")):
                    (wire.root() / f"mailboxes/{box}/messages/{name}").unlink()

    assert through(wire, looking, act) > at
    until_settled(wire, looking)
    wire.exchange()
    assert all(wire.lives(f"message/{box}/m{box}{each}") for box in boxes for each in (0, 1))
    assert 2 * len(boxes) == len(wire.a.report.held)


@pytest.mark.parametrize("how", ["hastened", "crashed", "linked"])
@pytest.mark.parametrize("at", range(1, 24))
def test_a_deletion_is_found_though_a_look_has_no_end(wire: Wire, looking: Lookout, at: int, how: str) -> None:
    """It is dropped for a more urgent one, or a crash; or the mailbox is away when the look would judge what is gone."""
    box = mailboxes(wire, 3, messages=6)[1]
    until_settled(wire, looking)
    until_settled(wire, looking)
    folder, away = wire.root() / f"mailboxes/{box}", wire.directory / "away"
    for form in ("json", "wav"):
        (folder / f"messages/m{box}0.{form}").unlink()
    stand_still(wire)
    looking.begin()

    def act(part: int) -> None:
        if part == at:
            folder.rename(away)
            folder.symlink_to(away)

    if how == "linked":
        through(wire, looking, act)
        if away.exists():
            folder.unlink()
            away.rename(folder)
    else:
        for _ in range(at):
            turn(wire, looking)
        if how == "crashed":
            wire.crash("primary")
            looking = Lookout(wire.config.scan, wire.clock, lambda: None)
        elif looking.goes_on:
            looking.request(urgent=True)
    for _ in range(4):
        stand_still(wire)
        looking.begin()
        through(wire, looking)
    wire.exchange()
    assert f"m{box}0" not in wire.messages(box, "secondary")
    assert f"m{box}1" in wire.messages(box, "secondary")


def test_what_was_gone_and_is_back_is_no_fault_any_more(wire: Wire, looking: Lookout) -> None:
    """Though its folder is looked into by itself, as somebody hints at it, before the next look at all."""
    (box,) = mailboxes(wire, 1, messages=8)
    until_settled(wire, looking)
    folder, away = wire.root() / f"mailboxes/{box}/messages", wire.directory / "away"
    away.mkdir()
    names = [f"m{box}{each}.{form}" for each in range(5) for form in ("json", "wav")]
    for name in names:
        (folder / name).rename(away / name)
    until_settled(wire, looking)
    assert 5 == len(wire.faults())
    for name in names:
        (away / name).rename(folder / name)
    stand_still(wire)
    looking.hint(f"mailboxes/{box}/messages", done=True)
    turn(wire, looking)
    assert set() == wire.faults()
    until_settled(wire, looking)
    assert [] == wire.a.report.held


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("what", ["set", "mark", "leave", "delete"])
def test_a_look_is_granted_while_the_peer_changes_something_at_every_part(
    wire: Wire, looking: Lookout, what: str, full: bool
) -> None:  # fmt: skip
    """The first or the second one: who asks for it waits for no quiet."""
    boxes = mailboxes(wire, 10, messages=6)
    until_settled(wire, looking)
    peer, sound = wire.desk("secondary"), tone(wire.directory / "one.wav", seed=1)
    changed: list[str] = []

    def act(part: int) -> None:
        box = boxes[part % len(boxes)]
        ident = f"m{box}{part // len(boxes)}"
        changed.append(box)
        if what == "set":
            peer.set_mailbox(box, {"name": f"the {part}th"})
        elif what == "leave":
            peer.leave(box, sound)
        elif ident in wire.messages(box, "secondary"):
            peer.mark(box, ident, "saved") if what == "mark" else peer.delete_message(box, ident)
        wire.send("secondary")
        wire.deliver(take=False)
        wire.clock.advance(0.05)

    request = looking.request({"full": full, "until": wire.clock.wall() + 10**9})
    for _ in range(2):
        through(wire, looking, act)
        stand_still(wire)
    assert len(changed) > len(boxes)
    assert looking.is_granted(request)
