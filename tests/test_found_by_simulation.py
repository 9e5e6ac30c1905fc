"""Faults that the simulation found, each told again in a few steps."""

import json

import pytest
from simulation.acts.common import tone
from simulation.acts.memory import back_up, lose_index, put_back
from simulation.files import read_store
from simulation.invariants import come_to_rest
from simulation.schedule import Profile
from simulation.world import NAMES, SETTLE, World

from vmctl import outbox
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.errors import AlreadyExists, StoreBusy
from vmctl.model import ABSENT, message_key
from vmctl.overwrite import remember, set_back
from vmctl.together import Together

A, B = NAMES


class Told(World):
    """A world in which a test tells what happens."""

    def look(self, name, *, accept=False):
        """Two scans, the second after everything stood still."""
        for _ in range(2):
            self.now += int((SETTLE + 0.1) * 1_000_000)
            assert "ok" == self.turn(name, send=False, accept=accept)

    def exchange(self):
        """Both speak until they have heard each other."""
        for _ in range(4):
            for name in NAMES:
                assert "ok" == self.turn(name, scan=False, always=True, anew=True)
            self.now += 3_000_000

    def message(self, box, name=A):
        """A caller leaves a message."""
        path = self.directory / "source.wav"
        path.write_bytes(tone(self.number(), 400))
        return self.desk(name).leave(box, path)

    def at(self, name, path):
        """A path in a store."""
        return self.machines[name].root / path

    def cut(self, name):
        """The power of a server is cut, nothing unsynced survives, and it starts again."""
        self.end(self.machines[name])
        self.disk.power_cut(self.machines[name].side, Unlucky())
        self.machines[name].clock.reboot()
        assert self.start(name)


class Unlucky:
    """Chance at its worst: whatever may be lost is."""

    def choice(self, _values):
        return 0.0

    def random(self):
        return 1.0

    def choices(self, values, _weights):
        return values[:1]

    def randrange(self, _below):
        return 0


@pytest.fixture
def strangers(tmp_path):
    """Two servers that run and have not heard of each other."""
    made = Told(tmp_path / "net", "told", Profile((), power=0.0))
    with made.running():
        for name in NAMES:
            assert made.start(name)
            made.look(name)
        yield made


@pytest.fixture
def world(strangers):
    """Two servers that run, with mailbox 2001 on both."""
    strangers.desk(A).create_mailbox("2001", {"name": "Ada"})
    strangers.exchange()
    return strangers


def test_a_message_that_came_after_rm_of_its_mailbox_stays(world):
    """Somebody removes a mailbox's folder, a message from the peer comes into it: only what he saw is deleted."""
    seen = world.message("2001")
    world.exchange()
    for path in (f"messages/{seen}.json", f"messages/{seen}.wav", "mailbox.yaml"):
        world.disk.take_away(world.at(A, f"mailboxes/2001/{path}"))
    unseen = world.message("2001", B)
    world.exchange()
    world.look(A, accept=True)
    come_to_rest(world)
    assert [[unseen], [unseen]] == [
        sorted(path.stem for path in world.at(name, "mailboxes/2001/messages").glob("*.json")) for name in NAMES
    ]
    assert [True, True] == [world.at(name, "mailboxes/2001/mailbox.yaml").exists() for name in NAMES]


@pytest.mark.parametrize("key", ["message", "callflow"])
def test_a_power_cut_brings_no_removed_file_back(world, key):
    """`rm`, the deletion is taken and shipped, then the power is cut before the disk heard of the rm: it stays gone."""
    world.desk(A).set_callflow("day", "steps: 1\n")
    ident = world.message("2001")
    world.exchange()
    stem = f"mailboxes/2001/messages/{ident}" if key == "message" else "callflows/day"
    for path in sorted(world.at(A, stem).parent.glob(f"{world.at(A, stem).name}.*")):
        world.disk.take_away(path)
    world.look(A, accept=True)
    world.exchange()
    world.cut(A)
    world.look(A)
    come_to_rest(world)
    for name in NAMES:
        assert [] == sorted(world.at(name, stem).parent.glob(f"{world.at(name, stem).name}.*"))


def test_what_a_scan_has_taken_survives_a_power_cut(world):
    """An application drops a message in and a person saves a file, neither syncs; scanned is accepted."""
    data = tone(1, 400)
    world.disk.make_folder(world.at(A, "mailboxes/2001/messages"))
    world.disk.put(world.at(A, "mailboxes/2001/messages/d1.wav"), data, "inplace", sync=False)
    text = json.dumps({"received": "2026-01-31T08:15:00Z", "status": "new"})
    world.disk.put(world.at(A, "mailboxes/2001/messages/d1.json"), text.encode(), "inplace", sync=False)
    world.disk.put(world.at(A, "mailboxes/2001/mailbox.yaml"), b"name: Bob\n", sync=False)
    world.look(A)
    world.cut(A)
    assert data == world.at(A, "mailboxes/2001/messages/d1.wav").read_bytes()
    assert "Bob" in world.at(A, "mailboxes/2001/mailbox.yaml").read_text()
    world.look(A)
    come_to_rest(world)
    assert data == world.at(B, "mailboxes/2001/messages/d1.wav").read_bytes()


def test_a_mailbox_whose_last_edit_changed_no_value_can_be_deleted(world):
    """A field is unset that was not there: the deletion after it covers that, too."""
    world.desk(A).set_mailbox("2001", {"email": ABSENT})
    world.desk(A).delete_mailbox("2001")
    assert not world.at(A, "mailboxes/2001").exists()
    come_to_rest(world)
    assert not world.at(B, "mailboxes/2001").exists()


def test_a_message_whose_folder_goes_before_its_first_scan_is_missed(world):
    """The peer's message is written, and its folder removed before any scan has seen it: that is its deletion."""
    ident = world.message("2001", B)
    world.exchange()
    for path in sorted(world.at(A, "mailboxes/2001/messages").iterdir()):
        world.disk.take_away(path)
    with world.disk.by_hand():
        world.disk.rmdir(world.at(A, "mailboxes/2001/messages"))
    world.look(A, accept=True)
    come_to_rest(world)
    assert not world.at(B, f"mailboxes/2001/messages/{ident}.json").exists()


def test_mails_of_the_lives_before_do_not_part_two_that_lost_their_indexes(strangers):
    """Both indexes are lost, and a mail of the life before comes to each after one of the present: they agree again.

    Neither takes itself for rolled back: who starts over for nothing would bring back what the other one has deleted.
    """
    strangers.desk(A).create_mailbox("2001", {"name": "Ada"})
    for name in NAMES:
        for parcel in strangers.machines[name].post.parcels(always=True):
            strangers.network.put(strangers.other(name), parcel.raw, ({}, True, ""), 20_000_000)
    for name in NAMES:
        lose_index(strangers, name)
    for name in NAMES:
        assert "ok" == strangers.turn(name, always=True)
    lives = [strangers.machines[name].index.meta("incarnation") for name in NAMES]
    strangers.now += 20_000_000
    assert 2 == strangers.network.deliver_due()
    come_to_rest(strangers)
    assert lives == [strangers.machines[name].index.meta("incarnation") for name in NAMES]


def test_a_file_that_cannot_be_looked_at_after_it_was_written_is_named(world, monkeypatch):
    """The disk fails between the writing of a file and the look at it: the work is done again when it is well."""
    ident = world.message("2001", B)
    assert "ok" == world.turn(B, scan=False)
    take_place = Together.take_place

    def then_it_fails(*values):
        take_place(*values)
        world.machines[A].side.unreadable[str(world.at(A, "mailboxes/2001/messages"))] = ("stat",)

    with monkeypatch.context() as patch:
        patch.setattr(Together, "take_place", then_it_fails)
        assert "ok" == world.turn(A)
    path = f"mailboxes/2001/messages/{ident}.json"
    assert path in [fault["path"] for fault in world.machines[A].index.faults.all()]
    world.machines[A].side.unreadable.clear()
    come_to_rest(world)
    assert world.at(A, f"mailboxes/2001/messages/{ident}.json").exists()


def test_a_mailbox_stays_deleted_while_the_deletions_of_its_messages_are_still_on_their_way(world, monkeypatch):
    """What went with a mailbox comes in many mails, the mailbox's own deletion first: none of it brings it back."""
    idents = [world.message("2001") for _ in range(3)]
    world.exchange()
    monkeypatch.setattr(outbox, "MOST_RECORDS", 1)
    world.desk(A).delete_mailbox("2001")
    for parcel in world.machines[A].post.parcels(always=True):
        world.machines[A].post.deliver(parcel)
        world.take(world.machines[B])
        assert not world.at(B, "mailboxes/2001/mailbox.yaml").exists()
    come_to_rest(world)
    for name in NAMES:
        assert not world.at(name, "mailboxes/2001").exists()
        assert [] == world.machines[name].index.keys("kind = 'conflict'")
        assert {False} == {world.machines[name].index.get(message_key("2001", one)).record.lives for one in idents}


def test_what_was_left_in_a_mailbox_that_a_dead_server_deleted_brings_it_back(world):
    """The server that deleted it has started over since: the other one does not wait for its word for ever."""
    world.desk(A).delete_mailbox("2001")
    for parcel in world.machines[A].post.parcels(always=True):
        world.machines[A].post.deliver(parcel)
    ident = world.message("2001", B)
    lose_index(world, A)
    world.take(world.machines[B])
    come_to_rest(world)
    assert [True, True] == [world.at(name, f"mailboxes/2001/messages/{ident}.json").exists() for name in NAMES]
    assert [True, True] == [world.at(name, "mailboxes/2001/mailbox.yaml").exists() for name in NAMES]


def test_what_a_person_saves_over_a_change_that_no_file_showed_yet_is_listed(world):
    """A command is killed between its commit and its file, a person edits the old file: what lost is in the conflicts."""
    machine = world.machines[A]
    path = world.at(A, "mailboxes/2001/mailbox.yaml")
    text = path.read_bytes()
    machine.side.crash_at = machine.side.steps + 3
    assert "crash" == world.product(A, lambda: world.desk(A).set_mailbox("2001", {"name": "Bob"}))
    assert text == path.read_bytes()
    world.now += 1_000_000
    world.disk.put(path, text.replace(b"Ada", b"Cleo"))
    world.look(A)
    come_to_rest(world)
    for name in NAMES:
        listed = [entry.record.document for entry in world.machines[name].index.entries("kind = 'conflict'")]
        assert [("Cleo", "Bob")] == [(one["won"]["is"], one["lost"]["is"]) for one in listed]


@pytest.mark.parametrize("steps", range(1, 16))
def test_a_file_that_a_killed_process_wrote_is_durable_before_it_is_noted(world, steps):
    """A command is killed at some step, the next process finds its file, the power is cut: the file is there, or written."""
    machine = world.machines[A]
    machine.side.crash_at = machine.side.steps + steps
    world.product(A, lambda: world.desk(A).create_mailbox("2002", {"name": "Bob"}))
    machine.side.crash_at = None
    assert "ok" == world.turn(A, scan=False, send=False)
    known = world.documents(A, ["mailbox/2002"])
    world.cut(A)
    assert bool(known) == world.at(A, "mailboxes/2002/mailbox.yaml").exists()


def test_a_mailbox_made_again_leaves_no_tomb_to_a_new_index(world):
    """It is deleted, made again, and the index is lost before the next turn: nothing remembers that it was dead."""
    world.desk(A).delete_mailbox("2001")
    world.desk(A).create_mailbox("2001", {"name": "Cleo"})
    lose_index(world, A)
    world.look(A)
    come_to_rest(world)
    for name in NAMES:
        assert "Cleo" == world.documents(name, ["mailbox/2001"])["mailbox/2001"]["name"]


def test_a_message_whose_folder_went_while_the_mailbox_could_not_be_read_is_missed_later(world):
    """Its absence is no deletion then, and is not forgotten either: when the folder can be read again it counts."""
    ident = world.message("2001", B)
    world.exchange()
    world.look(A)
    for path in sorted(world.at(A, "mailboxes/2001/messages").iterdir()):
        world.disk.take_away(path)
    with world.disk.by_hand():
        world.disk.rmdir(world.at(A, "mailboxes/2001/messages"))
    world.machines[A].side.unreadable[str(world.at(A, "mailboxes/2001"))] = ("list",)
    world.look(A, accept=True)
    assert world.documents(A, [f"message/2001/{ident}"])
    world.machines[A].side.unreadable.clear()
    world.look(A, accept=True)
    assert not world.documents(A, [f"message/2001/{ident}"])
    come_to_rest(world)


class Until(Unlucky):
    """Of what was not synced so many changes survive, the oldest."""

    def __init__(self, survive):
        self.survive = survive

    def choice(self, _values):
        return 0.5

    def random(self):
        self.survive -= 1
        return 0.0 if self.survive >= 0 else 1.0


@pytest.mark.parametrize("survive", range(5))
def test_what_a_power_cut_brings_back_of_an_earlier_exchange_stands_for_no_later_one(world, survive):
    """A file was replaced, the next change is committed and not written; the file put aside is there again: no edit."""
    world.desk(A).set_mailbox("2001", {"name": "Bob"})
    machine = world.machines[A]
    machine.side.crash_at = machine.side.steps + 3
    assert "crash" == world.product(A, lambda: world.desk(A).set_mailbox("2001", {"quota": 7}))
    assert 7 == world.documents(A, ["mailbox/2001"])["mailbox/2001"]["quota"]
    world.disk.power_cut(machine.side, Until(survive))
    world.look(A)
    come_to_rest(world)
    for name in NAMES:
        assert 7 == world.documents(name, ["mailbox/2001"])["mailbox/2001"]["quota"]


@pytest.mark.parametrize("survive", range(6))
def test_a_restored_message_is_written_although_a_power_cut_brought_its_former_self_back(world, survive):
    """Marked, deleted, restored, and no file written yet: what was put aside when it was marked says nothing of that."""
    ident = world.message("2001")
    world.desk(A).mark("2001", ident, "saved")
    world.desk(A).delete_message("2001", ident)
    machine = world.machines[A]
    machine.side.crash_at = machine.side.steps + 3
    assert "crash" == world.product(A, lambda: world.desk(A).restore_message("2001", ident))
    assert world.documents(A, [f"message/2001/{ident}"])
    world.disk.power_cut(machine.side, Until(survive))
    world.look(A)
    come_to_rest(world)
    for name in NAMES:
        assert world.at(name, f"mailboxes/2001/messages/{ident}.json").exists()


def test_two_renumbers_at_once_survive_the_loss_of_both_indexes(world):
    """One mailbox got two extensions; each new index hears of the other's message before it looks: both have both."""
    ident = world.message("2001")
    world.exchange()
    world.look(B)
    for name, new in zip(NAMES, ("2002", "2003"), strict=True):
        MailboxDesk(world.machines[name].post.replica).renumber("2001", new)
    for name in NAMES:
        lose_index(world, name)
    world.exchange()
    come_to_rest(world)
    for name in NAMES:
        assert [f"message/{box}/{ident}" for box in ("2002", "2003")] == sorted(
            key for key in read_store(world.machines[name].root)[0] if key.startswith("message/")
        )


@pytest.mark.parametrize("box", ["2001", "2002"])
def test_what_a_former_life_of_the_peer_sent_is_offered_to_the_present_one(world, box):
    """A mail arrives late, and its sender has lost its index since: it is not taken for what the peer knows."""
    if box == "2001":
        world.desk(B).set_mailbox(box, {"name": "Cleo"})
    else:
        world.desk(B).create_mailbox(box, {"name": "Cleo"})
    late = list(world.machines[B].post.parcels(always=True))
    lose_index(world, B)
    world.exchange()
    for parcel in late:
        world.machines[A].post._receive(parcel.raw)
    assert "ok" == world.turn(A, scan=False, send=False)
    assert [f"mailbox/{box}"] == [key for key, _, _ in world.machines[A].index.pending()]


def test_a_save_that_was_not_in_the_file_yet_outlives_who_deletes_what_the_file_shows(world):
    """The save waits for a lost recording, somebody else edits the file, the mailbox is deleted: he saw no save."""
    ident = world.message("2001")
    world.exchange()
    world.look(B)
    folder = "mailboxes/2001/messages"
    world.disk.take_away(world.at(B, f"{folder}/{ident}.wav"))
    with pytest.raises(StoreBusy):
        world.desk(B).mark("2001", ident, "saved")
    path = world.at(B, f"{folder}/{ident}.json")
    world.disk.put(path, path.read_bytes().replace(b'"from": "unknown"', b'"from": "Ada"'))
    world.look(B)
    world.desk(B).delete_mailbox("2001")
    come_to_rest(world)
    for name in NAMES:
        document = world.documents(name, [f"message/2001/{ident}"])[f"message/2001/{ident}"]
        assert ("saved", "Ada") == (document["status"], document["from"])


def test_a_message_that_waits_for_its_recording_and_a_change_is_no_new_edit_at_each_look(world):
    """The recording is lost on both, a change waits in the index for it: no look at the file makes another version."""
    ident = world.message("2001")
    world.exchange()
    world.look(B)
    for name in NAMES:
        world.disk.take_away(world.at(name, f"mailboxes/2001/messages/{ident}.wav"))
        world.look(name)
    with pytest.raises(StoreBusy):
        world.desk(B).mark("2001", ident, "saved")
    world.exchange()
    world.look(B)
    versions = [world.versions(name, [f"message/2001/{ident}"]) for name in NAMES]
    for _ in range(3):
        world.look(B)
        world.exchange()
    assert versions == [world.versions(name, [f"message/2001/{ident}"]) for name in NAMES]


def test_a_file_that_had_not_stood_still_at_the_first_scan_of_a_new_index_was_there_all_the_same(world):
    """A change is written, the index is lost, the peer tells of a deletion: nobody has made the mailbox anew."""
    world.machines[A].clock.offset = world.machines[B].clock.offset
    world.desk(A).set_mailbox("2001", {"email": "ada@example.com"})
    world.now += 1_000_000
    world.desk(B).set_mailbox("2001", {"quota": 7})
    world.now += 100_000
    world.desk(A).delete_mailbox("2001")
    lose_index(world, B)
    assert "ok" == world.turn(B, send=False)
    world.exchange()
    world.look(B)
    world.exchange()
    assert [{}, {}] == [world.documents(name, ["mailbox/2001"]) for name in NAMES]
    MailboxDesk(world.machines[A].post.replica).restore_mailbox("2001")
    come_to_rest(world)
    for name in NAMES:
        (found,) = world.documents(name, ["mailbox/2001"]).values()
        assert ("ada@example.com", 7) == (found["email"], found["quota"])


def test_a_file_that_was_made_after_the_loss_of_an_index_is_no_former_one(world):
    """The peer has made and deleted a callflow of its name meanwhile: somebody has made this one anew."""
    world.machines[A].clock.offset = world.machines[B].clock.offset
    world.desk(A).set_callflow("night", "greet: hello\n")
    lose_index(world, B)
    world.now += 100_000
    world.disk.make_folder(world.at(B, "callflows"))
    world.disk.put(world.at(B, "callflows/night.yaml"), b"greet: bye\n")
    world.now += 100_000
    world.desk(A).delete_callflow("night")
    assert "ok" == world.turn(B, send=False)
    world.exchange()
    world.look(B)
    come_to_rest(world)
    for name in NAMES:
        assert b"greet: bye\n" == world.at(name, "callflows/night.yaml").read_bytes()


def test_a_busy_store_does_not_keep_an_index_new(world):
    """There is a file at each look that had not stood still: what is younger than the index is not waited for."""
    lose_index(world, B)
    for turn in range(3):
        world.now += 1_500_000
        world.disk.put(world.at(B, "mailboxes/2001/mailbox.yaml"), f"name: n{turn}\n".encode())
        assert "ok" == world.turn(B, send=False)
    assert not world.machines[B].index.is_new


@pytest.mark.parametrize("steps", range(3, 15))
def test_a_file_that_says_what_is_known_makes_it_no_younger(world, steps):
    """A file was written, and perhaps not noted; a person edits one value in it: the others are as old as they were."""
    machine = world.machines[B]
    world.desk(A).create_mailbox("2002", {"name": "Bob", "quota": 5})
    for parcel in world.machines[A].post.parcels(always=True):
        world.machines[A].post.deliver(parcel)
    path = world.at(B, "mailboxes/2002/mailbox.yaml")
    machine.side.crash_at = machine.side.steps + steps
    world.turn(B, scan=False, send=False)
    machine.side.crash_at = None
    world.now += 60_000_000
    world.machines[A].clock.offset -= 55_000_000
    world.desk(A).set_mailbox("2002", {"quota": 6})
    name = "Cleo" if path.exists() else "Bob"
    if path.exists():
        world.disk.put(path, path.read_bytes().replace(b"Bob", b"Cleo"))
    world.look(B)
    come_to_rest(world)
    for server in NAMES:
        (found,) = world.documents(server, ["mailbox/2002"]).values()
        assert (name, 6) == (found["name"], found["quota"])


def test_a_message_that_the_first_scan_could_not_reach_is_not_put_back_by_anybody(world):
    """A new index could not look into a mailbox; the peer has deleted a message in it meanwhile: it stays deleted."""
    ident = world.message("2001")
    world.exchange()
    world.desk(A).delete_message("2001", ident)
    world.machines[B].side.unreadable[str(world.at(B, "mailboxes/2001"))] = ("list",)
    lose_index(world, B)
    world.look(B)
    world.exchange()
    world.machines[B].side.unreadable.clear()
    world.look(B)
    come_to_rest(world)
    for name in NAMES:
        assert not world.documents(name, [f"message/2001/{ident}"])


def test_a_new_index_brings_no_message_back_that_was_moved_away(world):
    """A mailbox was renumbered, then the index is lost: the message is found under its new extension before it is restored."""
    ident = world.message("2001")
    with world.command(A) as desk:
        MailboxDesk(desk._replica).renumber("2001", "2002")
    world.exchange()
    lose_index(world, A)
    with pytest.raises(AlreadyExists, match="is in mailbox 2002 now"):
        world.desk(A).restore_message("2001", ident)
    come_to_rest(world)
    for name in NAMES:
        assert world.documents(name, [f"message/2002/{ident}"])
        assert not world.documents(name, [f"message/2001/{ident}"])


def test_what_an_overwrite_restores_and_marks_stays(world):
    """The loser had saved and deleted a message, the winner's is new: overwritten from the winner, it is there and new."""
    ident = world.message("2001")
    world.exchange()
    world.desk(B).mark("2001", ident, "saved")
    world.desk(B).delete_message("2001", ident)
    remember(world.machines[A].post.replica)
    world.exchange()
    set_back(world.machines[A].post.replica, "operator")
    come_to_rest(world)
    key = f"message/2001/{ident}"
    for name in NAMES:
        assert "new" == world.documents(name, [key])[key]["status"]


def test_what_moved_to_where_the_other_had_moved_away_from_stays(world):
    """Both indexes are lost, one server moves a mailbox away, and one whose clock is behind its copy there: it is new."""
    world.machines[B].clock.offset -= 3_600_000_000
    ident = world.message("2001")
    world.exchange()
    world.look(B)
    desks = [MailboxDesk(world.machines[name].post.replica) for name in NAMES]
    desks[0].renumber("2001", "2002")
    for name in NAMES:
        lose_index(world, name)
    desks = [MailboxDesk(world.machines[name].post.replica) for name in NAMES]
    desks[0].renumber("2002", "2001")
    desks[1].renumber("2001", "2002")
    come_to_rest(world)
    for name in NAMES:
        assert world.documents(name, [f"message/2002/{ident}"])


def test_a_save_at_a_rolled_back_server_outlives_who_had_saved_and_deleted_with_a_clock_that_is_ahead(world):
    """The other's save is the later one by its clock, and it had not seen this one when it deleted the message."""
    world.machines[B].clock.offset += 3_600_000_000
    ident = world.message("2001")
    back_up(world, A)
    world.exchange()
    world.desk(B).mark("2001", ident, "saved")
    put_back(world, A)
    world.start(A)
    world.desk(B).delete_message("2001", ident)
    world.desk(A).mark("2001", ident, "saved")
    come_to_rest(world)
    for name in NAMES:
        assert world.documents(name, [f"message/2001/{ident}"])
