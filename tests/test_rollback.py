"""A server that was put back to an earlier state is found out, whatever mail is lost or late, and loses nothing."""

import random
from types import SimpleNamespace

import pytest
from wire import back_up, lose_index, put_back

from vmctl import identity
from vmctl.rollback import Rollback


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def life(wire, name="primary"):
    """The incarnation of a server."""
    return wire.servers[name].index.meta("incarnation")


def say(wire, *, arrives=True):
    """The primary sends a mail."""
    wire.send("primary", always=True, anew=True)
    if arrives:
        wire.deliver()
    else:
        wire.lose()


@pytest.mark.parametrize("first", ["primary", "secondary"])
def test_a_rolled_back_store_is_found_and_loses_nothing(wire, box, recording, tmp_path, first):
    """Restored from a backup, then changed before the first contact: both sides' changes are there, whoever speaks."""
    early = wire.desk().leave(box, recording())
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    lost = [wire.desk().leave(box, recording()) for _ in range(3)]
    wire.desk().mark(box, early, "old")
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    before = life(wire)
    new = [wire.desk().leave(box, recording()) for _ in range(4)]
    wire.desk().set_mailbox(box, {"quota": 9})
    wire.send(first, always=True)
    wire.deliver()
    wire.in_step()
    assert before != life(wire)
    assert [sorted([early, *lost, *new])] * 2 == [wire.messages(box, name) for name in wire.servers]
    assert "old" == wire.a.store.document(f"message/{box}/{early}")["status"]
    assert 9 == wire.b.store.document("mailbox/2001")["quota"]


def test_a_mail_of_the_forgotten_life_that_comes_late_shows_the_rollback(wire, box, recording, tmp_path):
    """The peer and the rolled-back server have exchanged mails since: nothing of them tells of it, that mail does."""
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    ident = wire.desk().leave(box, recording())
    (late,) = wire.send("primary")
    wire.lose()
    put_back(wire, "primary", tmp_path / "backup")
    for name in ("primary", "secondary") * 3:
        wire.send(name, always=True, anew=True)
        wire.deliver()
    before = life(wire)
    wire.b.receive(late)
    wire.in_step()
    assert before != life(wire)
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


@pytest.mark.parametrize("more", [False, True])
def test_a_save_in_a_late_mail_of_the_forgotten_life_outlives_a_delete_that_did_not_know_it(
    wire, box, recording, tmp_path, more
):
    """Later checkpoints of the rolled-back life were confirmed before: what it did since is issued again all the same."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().mark(box, ident, "saved")
    late = wire.send("primary")
    wire.lose()
    if more:
        late += wire.send("primary", always=True, anew=True)
        wire.lose()
    put_back(wire, "primary", tmp_path / "backup")
    wire.desk().mark(box, ident, "old")
    wire.desk().delete_message(box, ident)
    wire.send("primary")
    wire.lose()
    for name in ("primary", "secondary") * 2:
        wire.send(name, always=True)
        wire.deliver()
    for mail in late:
        wire.b.receive(mail)
    wire.b.take()
    wire.send("secondary", always=True)
    wire.deliver()
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


def test_a_mail_that_names_what_was_given_before_leaves_little_to_echo(wire):
    """Every second mail of a server is lost, and nothing comes back: the newest is echoed, as it names all others."""
    newest = []
    for turn in range(60):
        say(wire, arrives=not turn % 2)
        newest = newest if turn % 2 else wire.a.index.checkpoints.unconfirmed(1)[0]
    assert [list(map(list, newest))] == [
        [one[:2] for one in echoed] for _, echoed in wire.b.index.note("echo_checkpoints")
    ]


def test_what_is_told_of_checkpoints_is_bounded(wire):
    """Of those before a mail the 32 newest, with the number above which they are all; of echoes 16, of four lives."""
    rollback, index = Rollback(wire.a.index), wire.a.index
    with index.transaction():
        given = [rollback.next_checkpoint(0, f"bits{turn}") for turn in range(40)]
        for number in (1, 2, 3, 4, 5):
            for turn in range(1, 21):
                mark = {"number": turn, "nonce": "bits", "before": [], "since": turn - 1, "known": []}
                rollback.take(SimpleNamespace(incarnation=f"life-{number}", checkpoint=mark))
    before = [[one["number"], one["nonce"]] for one in given[7:39]]
    assert (before, before[0][0] - 1) == ([list(one) for one in given[39]["before"]], given[39]["since"])
    echoes = index.note("echo_checkpoints")
    assert ["life-2", "life-3", "life-4", "life-5"] == [name for name, _ in echoes]
    assert [list(range(5, 21))] * 4 == [[number for number, _, _ in marks] for _, marks in echoes]


@pytest.mark.parametrize("arrive", ["yes", "yes yes", "yes no yes", "no yes", "no yes yes", "no no yes no yes"])
def test_a_rollback_between_two_echoes_is_found(wire, box, recording, tmp_path, arrive):
    """The forgotten mail was never answered: the peer echoes it until it is, whatever came or was lost since."""
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    lost = wire.desk().leave(box, recording())
    wire.send("primary")
    wire.deliver()
    put_back(wire, "primary", tmp_path / "backup")
    before = life(wire)
    for fate in arrive.split():
        say(wire, arrives=fate == "yes")
    wire.in_step()
    assert before != life(wire)
    assert [[lost], [lost]] == [wire.messages(box, name) for name in wire.servers]


def test_lost_mails_make_no_rollback_and_do_not_stop_the_echo(wire, box):
    """Every second mail is lost each way: nobody starts over, and what is echoed goes on all the same."""
    wire.in_step()
    lives = [life(wire, name) for name in wire.servers]
    echoed = []
    for turn in range(8):
        for name in wire.servers:
            wire.desk(name).set_mailbox(box, {"quota": 5 + turn})
            wire.send(name, always=True, anew=True)
            if turn % 2:
                wire.lose()
            else:
                wire.deliver()
        echoed.append(wire.b.index.note("echo_checkpoints")[-1][1])
    assert echoed == sorted(echoed)
    assert [1, 1, 1, 1] == [len(marks) for marks in echoed[::2]]
    assert lives == [life(wire, name) for name in wire.servers]


def test_a_delete_after_a_rollback_stays_one(wire, box, recording, tmp_path):
    """A message born above the last confirmed checkpoint and deleted before the contact is not reborn by starting over."""
    gone = wire.desk().leave(box, recording())
    wire.send("primary")
    wire.deliver()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().set_mailbox(box, {"quota": 8})
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    wire.desk().delete_message(box, gone)
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def test_starting_over_does_not_bring_back_what_the_peer_deleted(wire, box, recording, tmp_path):
    """A message that was here before the backup and was deleted by the peer after it stays deleted."""
    gone = wire.desk().leave(box, recording())
    wire.send("primary")
    wire.deliver()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk("secondary").delete_message(box, gone)
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    new = wire.desk().leave(box, recording())
    wire.in_step()
    assert [[new], [new]] == [wire.messages(box, name) for name in wire.servers]


def test_a_save_that_was_rolled_back_outlives_a_delete_that_did_not_know_it(wire, box, recording, tmp_path):
    """Saved, rolled back, marked and deleted: the deleter had not seen the save, so the message is kept."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().mark(box, ident, "saved")
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    wire.desk().mark(box, ident, "old")
    wire.desk().delete_message(box, ident)
    wire.in_step()
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


def test_a_rollback_to_a_past_incarnation_is_found(wire, box, recording, tmp_path):
    """Backup, lost index, backup put back: the peer knows that life as over, and says so."""
    back_up(wire, "primary", tmp_path / "backup")
    lose_index(wire, "primary")
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


def test_lost_mails_alone_are_no_rollback(wire, box, recording):
    """Mails that are lost, late or doubled never make a server start over."""
    before = [life(wire, name) for name in wire.servers]
    chance = random.Random(5)
    for _ in range(12):
        wire.desk().set_mailbox(box, {"quota": chance.randrange(1, 99)})
        for name in wire.servers:
            wire.send(name, always=True, anew=True)
        wire.disturb(chance)
    wire.in_step()
    assert before == [life(wire, name) for name in wire.servers]


@pytest.mark.parametrize("arrives", [True, False])
def test_what_a_rolled_back_server_says_before_it_knows_is_not_believed(wire, box, recording, tmp_path, arrives):
    """A save is forgotten, then its message deleted; the first mail after that arrives or not: the save counts."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().mark(box, ident, "saved")
    say(wire)
    put_back(wire, "primary", tmp_path / "backup")
    before = life(wire)
    say(wire, arrives=arrives)
    wire.desk().mark(box, ident, "old")
    wire.desk().delete_message(box, ident)
    say(wire)
    wire.in_step()
    assert before != life(wire)
    assert [[ident], [ident]] == [wire.messages(box, name) for name in wire.servers]


def test_an_edit_that_a_rolled_back_server_forgot_and_made_otherwise_is_listed(wire, box, tmp_path):
    """It was a conflict of two that did not know each other."""
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().set_mailbox(box, {"name": "One"})
    say(wire)
    put_back(wire, "primary", tmp_path / "backup")
    say(wire, arrives=False)
    wire.desk().set_mailbox(box, {"name": "Two"})
    say(wire)
    wire.in_step()
    listed = [entry.record.document for entry in wire.b.index.entries("kind = 'conflict'")]
    assert [("Two", "One")] == [(one["won"]["is"], one["lost"]["is"]) for one in listed]


def test_a_start_over_that_is_killed_knows_what_the_peer_holds_all_the_same(
    wire, box, recording, tmp_path, monkeypatch
):
    """The new identity is written, its commit is not: what the backup knew is not issued again, and stays deleted."""
    ident = wire.desk().leave(box, recording())
    wire.send("primary")
    wire.deliver()
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    put_back(wire, "primary", tmp_path / "backup")
    renew = identity.renew

    def renew_and_die(*words):
        renew(*words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(identity, "renew", renew_and_die)
        wire.send("secondary", always=True, anew=True)
        with pytest.raises(KeyboardInterrupt):
            wire.deliver()
    wire.crash("primary")
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def test_a_server_that_is_put_back_twice_is_found_out_twice(wire, box, tmp_path):
    """The second time the peer has nothing from its new life that proves that: it goes back to the one before."""
    back_up(wire, "primary", tmp_path / "backup")
    wire.desk().set_mailbox(box, {"name": "One"})
    say(wire)
    lives = [life(wire)]
    for value in ("Two", "Three"):
        put_back(wire, "primary", tmp_path / "backup")
        wire.send("secondary", always=True, anew=True)
        wire.deliver()
        lives.append(life(wire))
        wire.desk().set_mailbox(box, {"name": value})
        say(wire)
    wire.in_step()
    assert 3 == len({*lives, life(wire)})
    listed = [entry.record.document["lost"]["is"] for entry in wire.b.index.entries("kind = 'conflict'")]
    assert "One" in listed


def test_a_late_mail_of_a_past_life_hides_no_rollback_of_the_present_one(wire, box, tmp_path):
    """Its number is above all of the present life, as its clock was ahead; both are told."""
    clocks = wire.own_clocks()
    wire.in_step()
    clocks["primary"].off = 3600
    (late,) = wire.send("primary", always=True, anew=True)
    wire.lose()
    clocks["primary"].off = 0
    lose_index(wire, "primary")
    wire.in_step()
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    before = life(wire)
    wire.desk().set_mailbox(box, {"name": "One"})
    say(wire)
    put_back(wire, "primary", tmp_path / "backup")
    wire.b.receive(late)
    wire.b.take()
    wire.desk().set_mailbox(box, {"name": "Two"})
    say(wire)
    wire.in_step()
    assert before != life(wire)


@pytest.mark.parametrize("answers", [0, 2])
def test_what_the_peer_deleted_of_a_rolled_back_life_stays_deleted(wire, box, recording, tmp_path, answers):
    """It is issued again when a late mail shows the rollback; nobody wants it back, confirmed or not."""
    back_up(wire, "primary", tmp_path / "backup")
    (late,) = wire.send("primary", always=True, anew=True)
    wire.lose()
    put_back(wire, "primary", tmp_path / "backup")
    ident = wire.desk().leave(box, recording())
    say(wire)
    for name in ("secondary", "primary") * answers:
        wire.send(name, always=True, anew=True)
        wire.deliver()
    assert [ident] == wire.messages(box, "secondary")
    wire.b.receive(late)
    wire.b.take()
    wire.desk("secondary").delete_message(box, ident)
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]


def test_a_file_that_is_removed_after_a_start_over_is_deleted_as_it_was_issued_again(wire, box, recording, tmp_path):
    """Whoever removes it has seen it, though the file was written under the number of the life before."""
    wire.in_step()
    back_up(wire, "primary", tmp_path / "backup")
    say(wire)
    put_back(wire, "primary", tmp_path / "backup")
    before, ident = life(wire), wire.desk().leave(box, recording())
    wire.send("secondary", always=True, anew=True)
    wire.deliver()
    assert before != life(wire)
    for path in (wire.root() / f"mailboxes/{box}/messages").iterdir():
        path.unlink()
    wire.scan(accept_deletions=True)
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in wire.servers]
    assert not wire.lives(f"message/{box}/{ident}")
