"""Both servers have shipped everything and differ: it is found by digests, named, mended where it is, and journalled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS

from vmctl import doubt
from vmctl.index import Index

if TYPE_CHECKING:
    from wire import Wire

MINUTE = 61


def believe(wire: Wire, name: str, key: str) -> None:
    """A server believes of a record that its peer holds it, and the peer does not."""
    index = wire.servers[name].index
    entry = index.get(key)
    assert entry is not None
    with index.transaction():
        index.put(replace(entry, base=entry.record), wire.clock.wall())


def events(wire: Wire, name: str) -> list[tuple[str, list[str]]]:
    """What the journal of a server tells of differences."""
    found = wire.servers[name].journal.entries()
    return [(entry["event"], entry["groups"]) for entry in found if "groups" in entry]


def beats(wire: Wire, number: int = 4) -> set[str]:
    """Heartbeats both ways; the keys of the records that were shipped."""
    shipped = set()
    for _ in range(number):
        for name, replica in wire.servers.items():
            for parcel in replica.outbox.parcels(always=True):
                shipped |= set(parcel.versions)
                replica.outbox.left(parcel)
                wire.under_way.append((wire.other(name), parcel.raw))
            wire.deliver()
    return shipped


def fault(wire: Wire, name: str) -> dict[str, Any] | None:
    """The fault that tells of a difference."""
    return next((one for one in wire.servers[name].index.faults.all() if one["path"] == doubt.FAULT), None)


@pytest.fixture
def boxes(wire: Wire, recording: Any) -> list[str]:
    """Five mailboxes with a message each, the same on both servers, and settings."""
    names = [f"200{number}" for number in range(5)]
    for name in names:
        wire.desk().create_mailbox(name, {"name": name})
        wire.desk().leave(name, recording())
    wire.desk().set_settings({"defaults.quota": 9})
    wire.in_step()
    beats(wire, 2)
    return names


@pytest.mark.parametrize("name", SERVERS)
def test_only_what_differs_is_offered_again(wire: Wire, boxes: list[str], recording: Any, name: str) -> None:
    """A message that was never shipped is found in its mailbox: that is named where it is found, mended, and both agree again."""
    ident = wire.desk(name).leave(boxes[3], recording())
    believe(wire, name, f"message/{boxes[3]}/{ident}")
    shipped = beats(wire)
    assert {f"mailbox/{boxes[3]}"} == {
        key if key.startswith("mailbox") else f"mailbox/{key.split('/')[1]}" for key in shipped
    }
    assert [] == wire.apart()
    assert ident in wire.messages(boxes[3], wire.other(name))
    told = [("the stores differ", [f"mailbox/{boxes[3]}"]), ("the stores agree again", [f"mailbox/{boxes[3]}"])]
    assert told in [events(wire, each) for each in SERVERS]
    assert not any(events(wire, each) not in (told, []) for each in SERVERS)
    assert [None, None] == [fault(wire, each) for each in SERVERS]


def test_a_difference_outside_of_mailboxes_is_named_by_its_kind(wire: Wire, boxes: list[str]) -> None:
    """Settings that differ are offered again, and no mailbox is."""
    assert boxes
    wire.desk().set_settings({"defaults.quota": 5})
    believe(wire, "primary", "settings")
    assert {"settings"} == beats(wire)
    assert [] == wire.apart()
    assert ("the stores differ", ["settings"]) in events(wire, "primary")


def test_while_they_differ_status_names_it(wire: Wire, boxes: list[str]) -> None:
    """From the comparison to the mending there is a fault that names the groups, on the server that knows."""
    wire.desk().set_settings({"defaults.quota": 5})
    believe(wire, "primary", "settings")
    for name in ("primary", "secondary", "primary"):
        wire.send(name, always=True)
        wire.deliver()
    finder = next(name for name in SERVERS if fault(wire, name))
    found = fault(wire, finder)
    assert found is not None
    assert "settings" in found["why"]
    assert boxes[0] not in found["why"]
    wire.scan(finder)
    assert fault(wire, finder) == found
    beats(wire)
    assert fault(wire, finder) is None


def test_many_groups_go_in_several_mails(narrow: Wire) -> None:
    """Digests that do not fit into one mail go in the next ones, and the last mailbox is found as the first is."""
    for number in range(400):
        narrow.desk().create_mailbox(f"{3000 + number}", {"name": "Ada"})
    narrow.in_step()
    for extension in ("3000", "3399"):
        narrow.desk().set_mailbox(extension, {"quota": 7})
        believe(narrow, "primary", f"mailbox/{extension}")
    assert {"mailbox/3000", "mailbox/3399"} == beats(narrow, 8)
    assert [] == narrow.apart()


def test_digests_that_were_lost_on_the_way_are_told_again(wire: Wire, boxes: list[str]) -> None:
    """The first that are told get lost, in both directions; they are told again later."""
    wire.desk().set_mailbox(boxes[0], {"quota": 7})
    believe(wire, "primary", f"mailbox/{boxes[0]}")
    beats(wire, 1)
    for _ in range(2):
        for name in SERVERS:
            wire.send(name, always=True)
        wire.lose()
    wire.clock.advance(wire.config.sync.resend)
    beats(wire)
    assert [] == wire.apart()


def test_digests_count_as_told_when_their_mail_has_left(narrow: Wire) -> None:
    """One that the peer's server put off is said again, with the same digests, and not the next ones."""
    for number in range(400):
        narrow.desk().create_mailbox(f"2{number:04}", {"name": "Ada"})
    narrow.in_step()
    narrow.desk().set_mailbox("20007", {"name": "Eve"})
    believe(narrow, "primary", "mailbox/20007")
    for name in SERVERS:
        narrow.send(name, always=True)
        narrow.deliver()
    outbox = narrow.a.outbox
    put_off = [parcel.word.groups["groups"] for _ in range(2) for parcel in outbox.parcels(always=True)]
    assert len(put_off) <= 4
    assert [""] * len(put_off) == [page["after"] for page in put_off]
    assert put_off[0]["upto"]
    left = []
    for parcel in outbox.parcels(always=True):
        outbox.left(parcel)
        left.append(parcel.word.groups["groups"]["after"])
    assert ["", put_off[0]["upto"]] == left[:2]


def test_a_process_that_starts_goes_on_with_the_doubt(wire: Wire, boxes: list[str]) -> None:
    """Rounds of cron are processes of their own: what one asked the next one compares."""
    wire.desk().set_mailbox(boxes[0], {"quota": 7})
    believe(wire, "primary", f"mailbox/{boxes[0]}")
    for _ in range(4):
        beats(wire, 1)
        for name in SERVERS:
            wire.crash(name)
    assert [] == wire.apart()


def test_a_digest_that_was_counted_wrong_is_counted_again(wire: Wire, boxes: list[str]) -> None:
    """All groups are equal, only the sum is not: it is corrected, and nothing is shipped for it."""
    assert boxes
    wire.a.index.set_meta("digest", "f" * 32)
    assert set() == beats(wire)
    assert [] == wire.apart()
    beats(wire, 1)
    assert [None, None] == [replica.index.note("doubt") for replica in wire.servers.values()]


def test_what_cannot_be_mended_is_a_fault_that_stays(
    wire: Wire, boxes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offering the group does not help, nor does offering everything: `vmctl verify` is named, until both agree."""
    wire.desk().set_mailbox(boxes[0], {"quota": 7})
    believe(wire, "primary", f"mailbox/{boxes[0]}")
    everything: list[Index] = []
    with monkeypatch.context() as patch:
        patch.setattr(Index, "offer_again", lambda *_: None)
        patch.setattr(Index, "forget_bases", lambda index: everything.append(index))  # noqa: PLW0108 - it is bound
        beats(wire)
        assert [] == everything
        wire.clock.advance(MINUTE)
        beats(wire)
        assert {wire.a.index, wire.b.index} == set(everything)
        assert 2 == len(everything)
        wire.clock.advance(MINUTE)
        beats(wire)
        for name in SERVERS:
            found = fault(wire, name)
            assert found is not None
            assert "vmctl verify" in found["mend"]
            assert f"mailbox/{boxes[0]}" in found["why"]
            assert ("the stores still differ", [f"mailbox/{boxes[0]}"]) == events(wire, name)[-1]
        wire.clock.advance(MINUTE)
        beats(wire)
        assert 2 == len(everything)
    wire.clock.advance(3601)
    beats(wire)
    assert [] == wire.apart()
    assert [None, None] == [fault(wire, name) for name in SERVERS]
    assert ("the stores agree again", [f"mailbox/{boxes[0]}"]) == events(wire, "primary")[-1]


def test_what_is_still_on_its_way_is_no_difference(wire: Wire, boxes: list[str], recording: Any) -> None:
    """Work in both directions, with lost mails: no doubt arises while anything is pending."""
    for turn in range(6):
        for name in SERVERS:
            wire.desk(name).leave(boxes[turn % 5], recording())
            wire.send(name, always=True)
        if turn % 2:
            wire.lose()
        wire.deliver()
    wire.in_step()
    assert [[], []] == [events(wire, name) for name in SERVERS]


@pytest.mark.parametrize(
    "groups",
    [1, [], {}, {"of": 1}, {"of": {}}, {"of": {}, "after": 1, "upto": None, "asks": True}, {"of": {"x": 1}, "after": "", "upto": "", "asks": 0}],
)  # fmt: skip
def test_digests_that_are_none_are_left_alone(groups: Any) -> None:
    """Whatever stands in the status: it is no page of digests, and no fault of ours."""
    assert not doubt._is_page(groups)
