"""A scan that finds much: what it has found is committed and leaves while it goes on, and others may act in between."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest
from wire import SETTLE, Wire, tone

from vmctl import end, outbox, replica
from vmctl.bell import Bell
from vmctl.end import End
from vmctl.entry import Entry
from vmctl.errors import MailTooLarge
from vmctl.index import Index
from vmctl.model import Tick, created
from vmctl.packing import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.errors import SyncError
    from vmctl.outbox import Parcel
    from vmctl.replica import Intake

BOXES = ("2001", "2002", "2003", "2004", "2005", "2006")
EACH = 3  # messages


@pytest.fixture
def dropped(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Six mailboxes that are known, into each of which an application has put three messages; a part is four records."""
    monkeypatch.setattr(replica, "PART", 4)
    for box in BOXES:
        wire.desk().create_mailbox(box, {"name": box})
    wire.in_step()
    for box in BOXES:
        for number in range(EACH):
            wire.drop(box, f"m{box}{number}")
    wire.tick()
    wire.clock.advance(SETTLE + 0.1)
    return wire


def known(wire: Wire) -> int:
    """How many messages another process finds in the primary's index."""
    with contextlib.closing(Index.open(wire.root() / ".vmctl/index.db")) as index:
        return index.count("kind = 'message'")


def pausing(wire: Wire, act: Callable[[int], object]) -> list[int]:
    """Scan in parts, and act in each pause; how many messages were known in each."""
    found: list[int] = []

    def pause() -> None:
        found.append(known(wire))
        act(len(found))

    wire.a.scan(pause=pause)
    return found


def test_each_part_is_committed(dropped: Wire) -> None:
    """Another process sees in each pause what was found so far; at the end all is."""
    found = pausing(dropped, lambda _: None)
    assert found == [6, 12, 18]
    assert known(dropped) == len(BOXES) * EACH
    dropped.in_step()
    assert dropped.b.store.names("message", "2004") == [f"m2004{number}" for number in range(EACH)]


def test_what_a_second_look_finds_comes_to_what_the_first_has_found(dropped: Wire) -> None:
    """Of a message that brings its whole record nobody waits until it has stood still, as of all others."""
    ident = dropped.desk("secondary").leave("2001", tone(dropped.directory / "one.wav", seed=1))
    for suffix in (".wav", ".json"):
        name = f"mailboxes/2001/messages/{ident}{suffix}"
        shutil.copy(dropped.root("secondary") / name, dropped.root() / name)
    dropped.clock.as_files()
    report = dropped.a.scan_settled(dropped.clock.advance)
    assert len(set(report.changed)) == len(BOXES) * EACH + 1


def test_a_small_scan_has_one_part(wire: Wire) -> None:
    """Where little is found nobody pauses: it is one transaction."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    assert pausing(wire, lambda _: None) == []


def test_what_is_found_leaves_meanwhile(dropped: Wire) -> None:
    """In each pause the newest leave, and nothing else; they do not leave again before an answer may have come."""
    above, left = [dropped.a.index.last_number], []

    def act(_: int) -> None:
        before, above[0] = above[0], dropped.a.index.last_number
        for parcel in dropped.a.outbox.found(before, dict):
            left.append(sorted(parcel.versions))
            assert not parcel.word
            dropped.a.outbox.left(parcel)
            dropped.under_way.append(("secondary", parcel.raw))

    pausing(dropped, act)
    assert [len(keys) for keys in left] == [6, 6, 6]
    assert [parcel for parcel in dropped.a.outbox.parcels(eager=True) if parcel.versions] == []
    assert len({key for keys in left for key in keys}) == len(BOXES) * EACH
    dropped.deliver()
    assert len(dropped.b.store.names("message", "2001")) == EACH
    dropped.in_step()


def test_what_has_left_in_a_long_scan_is_not_due_again_at_its_end(dropped: Wire) -> None:
    """Nobody was listened to meanwhile, so its silence tells nothing; after `sync.resend` it does."""
    above = dropped.a.index.last_number
    dropped.scan()
    for parcel in dropped.a.outbox.found(above, dict):
        dropped.a.outbox.left(parcel)
    dropped.clock.advance(2 * dropped.config.sync.resend)
    dropped.a.outbox.left_now()
    assert [parcel for parcel in dropped.a.outbox.parcels() if parcel.versions] == []
    dropped.clock.advance(2 * dropped.config.sync.resend)
    assert [parcel for parcel in dropped.a.outbox.parcels() if parcel.versions] != []


def test_what_is_put_back_from_a_backup_in_between_is_held(dropped: Wire) -> None:
    """It is older than what was there, as at any other time: the folder is not read before all is judged together."""
    dropped.in_step()
    box = dropped.root() / "mailboxes/2006/messages"
    for number in range(EACH, 25):
        dropped.drop("2006", f"m2006{number}")
    dropped.in_step()
    backup = dropped.directory / "backup"
    shutil.copytree(box, backup, copy_function=shutil.copy2)
    for path in box.glob("*.json"):
        dropped.desk().mark("2006", path.stem, "saved")
    dropped.in_step()
    dropped.drop("2006", "new")
    for number in range(EACH, 3 * EACH):
        dropped.drop("2001", f"m2001{number}")
    dropped.tick()
    dropped.clock.advance(SETTLE + 0.1)

    def act(pause: int) -> None:
        for path in backup.glob("*.json") if pause == 1 else ():
            shutil.copy2(path, box / f"{path.name}.tmp")
            (box / f"{path.name}.tmp").rename(box / path.name)

    assert pausing(dropped, act)
    report = dropped.scan()
    assert len(report.held) == 25
    kept = [dropped.a.index.get(f"message/2006/{path.stem}") for path in backup.glob("*.json")]
    assert {entry.record.document["status"] for entry in kept if entry} == {"saved"}


def test_a_server_that_puts_mails_off_is_left_alone(dropped: Wire) -> None:
    """One mail is put off, and no other becomes a suspect for that: a mail that brings nothing goes first."""
    above = dropped.a.index.last_number
    dropped.scan()
    dropped.desk().set_settings({"a.b": "1"})
    tries = 0
    for parcel in dropped.a.outbox.found(above, dict):
        dropped.a.outbox.put_off(parcel, "452 later")
        tries += 1
    assert tries == 1
    assert list(dropped.a.outbox.found(above, dict)) == []


def test_others_may_act_in_between(dropped: Wire) -> None:
    """A message that is left, one that is deleted, and a mailbox that goes: none of it becomes a fault, and all of it counts."""
    desk = dropped.desk()
    left: list[str] = []

    def act(pause: int) -> None:
        if pause == 1:
            left.append(desk.leave("2001", tone(dropped.directory / "left.wav", seed=99)))
            desk.delete_message("2006", "m20061")
            desk.delete_mailbox("2002")  # of which all is known

    pausing(dropped, act)
    assert dropped.faults() == set()
    dropped.in_step()
    assert dropped.faults() == set()
    for server in (dropped.a, dropped.b):
        assert server.store.names("message", "2001") == sorted([*left, *(f"m2001{number}" for number in range(EACH))])
        assert server.store.names("message", "2006") == ["m20060", "m20062"]
        assert "2002" not in server.store.names("mailbox")


def test_a_fault_that_others_name_in_between_stays(dropped: Wire) -> None:
    """The scan has not seen it, so it cannot know that it is mended."""
    faults = dropped.a.index.faults
    pausing(dropped, lambda _: faults.set("mailboxes/2001/mailbox.yaml", "it is odd", "mend it", 1))
    assert dropped.faults() == {"mailboxes/2001/mailbox.yaml"}
    dropped.scan()
    assert dropped.faults() == set()


def test_the_next_one_goes_on_where_one_was_cut_off(dropped: Wire) -> None:
    """What had been found stays found, what had not is found then, and what is gone is judged by a whole look only."""
    dropped.in_step()
    gone = dropped.root() / "mailboxes/2004/messages"
    (gone / "m20041.json").unlink()
    (gone / "m20041.wav").unlink()
    for box in BOXES:
        for number in range(EACH, 2 * EACH):
            dropped.drop(box, f"m{box}{number}")
    dropped.tick()
    dropped.clock.advance(SETTLE + 0.1)

    def act(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pausing(dropped, act)
    assert len(BOXES) * EACH < known(dropped) < 2 * len(BOXES) * EACH
    entry = dropped.a.index.get("message/2004/m20041")
    assert entry is not None
    assert entry.record.lives
    dropped.crash("primary")
    dropped.in_step()
    assert len(dropped.b.store.names("message", "2001")) == 2 * EACH
    assert dropped.b.store.names("message", "2004") == [f"m2004{number}" for number in (0, 2, 3, 4, 5)]


def test_a_new_index_has_not_seen_all_before_the_last_part(dropped: Wire) -> None:
    """Until all was looked at, a file that it does not know may have been there for ever."""
    dropped.in_step()
    dropped.servers["primary"].close()
    for path in (dropped.root() / ".vmctl").glob("index.db*"):
        path.unlink()
    dropped.open("primary")
    seen: list[bool] = []
    pausing(dropped, lambda _: seen.append(dropped.a.index.is_new))
    assert seen
    assert all(seen)
    assert not dropped.a.index.is_new


def test_a_record_that_is_not_ascii_takes_no_more_room_than_in_utf_8(wire: Wire) -> None:
    """A callflow of 60 kB of Cyrillic fits a mail of 256 kB."""
    wire.a.outbox._packer.bound = 256_000
    flow = created("callflow/main", {"text": "\N{CYRILLIC SMALL LETTER PE}" * 30_000}, Tick(5, "p"), 5)
    assert wire.a.outbox._packer.add(Load(), Entry(flow))


def test_a_mail_that_was_built_before_the_one_under_way_was_refused_is_not_sent(dropped: Wire) -> None:
    """It is as large as that one: a server that takes only smaller mails is not asked again, and nothing is suspected."""
    one = End(dropped.config, "primary", dropped.clock, lambda *_: None)
    sent: list[Parcel] = []

    class Refusing:
        peer = dropped.config.servers["secondary"]._replace(store=None)
        replica = dropped.a

        def found(self, above: int) -> Iterator[Parcel]:
            yield from dropped.a.outbox.found(above, dict)

        def carry(self, parcel: Parcel) -> None:
            sent.append(parcel)
            raise MailTooLarge("too large", limit=64_000)

        def settled(self, parcel: Parcel, error: MailTooLarge) -> bool:
            assert dropped.a.outbox.too_large(parcel, error.limit, "552")
            return False

    one._post, one._ships, one._bell = Refusing(), True, Bell()  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "MOST_RECORDS", 2)
        pausing(dropped, lambda _number: one._ship_found() if not sent else None)
    assert 1 == len(sent)
    assert not dropped.a.outbox._refusals.suspects()
    dropped.in_step()


class InMemory:
    """A post whose mails go into the other server's spool at once."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.replica = wire.servers[name]
        self.peer = wire.config.servers[wire.other(name)]._replace(store=None)
        self._wire = wire

    def take(self) -> Intake:
        return self.replica.take()

    def found(self, above: int) -> Iterator[Parcel]:
        yield from self.replica.outbox.found(above, dict)

    def parcels(self, *, always: bool, anew: bool, eager: bool) -> Iterator[Parcel]:
        yield from self.replica.outbox.parcels(always=always, anew=anew, eager=eager)

    def carry(self, parcel: Parcel) -> None:
        self._wire.under_way.append((self.peer.name, parcel.raw))
        self._wire.deliver(take=False)

    def settled(self, parcel: Parcel, error: SyncError | None) -> bool:
        self.replica.outbox.left(parcel)
        return error is None

    def deliver(self, parcel: Parcel) -> bool:
        self.carry(parcel)
        return self.settled(parcel, None)


def test_what_has_come_is_acknowledged_while_the_other_end_goes_on(
    dropped: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an end that finds much need not remember all of it that it has sent, but what is under way."""
    monkeypatch.setattr(end, "_MOST_OWED", 2 * EACH - 1)
    ends = {name: End(dropped.config, name, dropped.clock, lambda *_: None) for name in dropped.servers}
    for name, one in ends.items():
        one._post, one._ships, one._bell = InMemory(dropped, name), True, Bell()  # type: ignore[assignment]
    finder, taker = ends["primary"], ends["secondary"]
    remembered: list[int] = []

    def pause(_number: int) -> None:
        finder._between_parts()
        finder._arrived()
        moments = iter([False, True])
        taker.take_until(lambda _bell: next(moments))
        finder.mail_came.set()
        remembered.append(len(dropped.a.outbox._sent))

    try:
        pausing(dropped, pause)
    finally:
        finder._carrier.stop()
    assert remembered == 3 * [2 * EACH]
    dropped.in_step()
