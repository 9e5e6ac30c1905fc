"""To hear the peer is to hold an answer to a challenge of this start; nothing else makes a peer live or keeps it so."""

import pytest

from vmctl.clock import Clock
from vmctl.contact import Contact
from vmctl.index import Index
from vmctl.mail import SyncMail

AFTER = 10.0
HOUR = 3600 * 1_000_000
PEER = "secondary-1"


class SetClock(Clock):
    """A clock that shows what it is told to."""

    def __init__(self):
        self.now = 1000.0
        self.wall_now = 1_800_000_000_000_000
        self.boot_now = "boot-1"

    def wall(self):
        return self.wall_now

    def steady(self):
        return self.now

    def boot(self):
        return self.boot_now


@pytest.fixture
def clock():
    """This server's clock."""
    return SetClock()


@pytest.fixture
def index(tmp_path):
    """An empty index."""
    opened = Index.open(tmp_path / "index.db", create=True)
    yield opened
    opened.close()


@pytest.fixture
def contact(index, clock):
    """What this server knows of its peer: nothing yet."""
    return Contact(index, clock, AFTER)


def answer(echo, number, *, challenge="theirs", incarnation=PEER, sent=None, **status):
    """A mail of the peer that echoes a challenge."""
    return SyncMail(
        packet=f"p-{number}", network="net", sender="secondary", recipient="primary",
        sent=number if sent is None else sent, incarnation=incarnation, config="config", challenge=challenge, echo=echo,
        checkpoint={"incarnation": incarnation, "number": number, "nonce": f"n-{number}", "after": number - 1},
        status=status,
    )  # fmt: skip


def test_an_answer_is_as_old_as_its_challenge(contact, clock):
    """Silence counts from when the challenge was issued, however late the mail that echoes it comes in."""
    nonce = contact.challenge()
    assert (None, False) == (contact.silent_for(), contact.heard)
    clock.now += 6
    assert contact.take(answer(nonce, 1))
    assert (6.0, True) == (contact.silent_for(), contact.heard)
    clock.now += 3.9
    assert contact.heard
    clock.now += 0.1
    assert (10.0, False) == (contact.silent_for(), contact.heard)


def test_a_challenge_is_void_after_failover_after(contact, clock):
    """An answer that took failover.after to come is none: the peer is not heard, and what it says of itself is not taken."""
    late, newer = contact.challenge(), contact.challenge()
    clock.now += AFTER
    assert not contact.take(answer(late, 1, pending=1))
    assert (None, {}) == (contact.silent_for(), contact.facts())
    clock.now -= 0.001
    assert contact.take(answer(newer, 2, pending=2))
    assert 2 == contact.facts()["pending"]


@pytest.mark.parametrize("echo", [None, "", "made-up"])
def test_only_an_echo_is_an_answer(contact, echo):
    """A mail that echoes nothing, or what was never asked, makes nobody live."""
    contact.challenge()
    assert not contact.take(answer(echo, 1, pending=0))
    assert (None, False, {}) == (contact.silent_for(), contact.heard, contact.facts())


def test_a_replay_keeps_nobody_alive(contact, clock):
    """The same mail again and again is as old as its challenge each time."""
    mail = answer(contact.challenge(), 1)
    for _ in range(12):
        contact.take(mail)
        contact.challenge()
        clock.now += 1
    assert not contact.heard


def test_an_earlier_answer_that_comes_later_takes_nothing_back(contact, clock):
    """Out of order, the newest challenge counts as heard, and the newest mail's words stay."""
    first = contact.challenge()
    clock.now += 5
    second = contact.challenge()
    clock.now += 1
    assert contact.take(answer(second, 7, challenge="newest", pending=0))
    assert contact.take(answer(first, 6, challenge="older", pending=9))
    assert 1.0 == contact.silent_for()
    assert 0 == contact.facts()["pending"]
    assert "newest" == contact.echo()


def test_a_delayed_mail_freezes_nothing(contact):
    """After a mail from earlier the next new one is taken as ever: its challenge is echoed, its words are known."""
    for number in (5, 3, 6):
        assert contact.take(answer(contact.challenge(), number, challenge=f"c-{number}", pending=number))
    assert ("c-6", 6) == (contact.echo(), contact.facts()["pending"])


def test_a_peer_whose_clock_is_set_back_is_heard_as_before(contact, clock):
    """The order of mails is that of their numbers: an hour less on the peer's clock makes its newest word no older."""
    contact.take(answer(contact.challenge(), 10, challenge="before", sent=clock.wall_now, pending=1))
    contact.take(answer(contact.challenge(), 11, challenge="after", sent=clock.wall_now - HOUR, pending=0))
    assert ("after", 0, True) == (contact.echo(), contact.facts()["pending"], contact.heard)


def test_the_own_clock_set_back_changes_no_age(contact, clock):
    """Ages run on the steady clock: a wall clock that jumps either way makes nobody silent or live."""
    nonce = contact.challenge()
    clock.wall_now -= HOUR
    clock.now += 1
    assert contact.take(answer(nonce, 1))
    clock.wall_now += 24 * HOUR
    assert (1.0, True) == (contact.silent_for(), contact.heard)


def test_a_new_incarnation_of_the_peer_counts_from_its_own_beginning(contact):
    """A peer that lost its index may number lower than before: its words are the newest all the same."""
    contact.take(answer(contact.challenge(), 90, challenge="former"))
    contact.take(answer(contact.challenge(), 2, incarnation="secondary-2", challenge="present", pending=4))
    assert ("present", 4) == (contact.echo(), contact.facts()["pending"])


def test_a_start_forgets_all_answers(contact):
    """After a start nobody was heard, and an answer to a challenge from before it is none."""
    before = contact.challenge()
    contact.take(answer(contact.challenge(), 1, pending=0))
    assert contact.heard
    contact.forget()
    assert (None, False, {}, None) == (contact.silent_for(), contact.heard, contact.facts(), contact.echo())
    assert not contact.take(answer(before, 2))
    assert not contact.heard
    assert contact.take(answer(contact.challenge(), 3))
    assert contact.heard


def test_readings_of_another_boot_do_not_count(contact, clock):
    """The steady clock begins anew with each boot: neither what was heard nor what was asked before it counts."""
    asked = contact.challenge()
    contact.take(answer(contact.challenge(), 1))
    clock.boot_now = "boot-2"
    assert (None, False) == (contact.silent_for(), contact.heard)
    assert clock.wall_now == contact.last_heard()
    assert not contact.take(answer(asked, 2))
    clock.now = 5.0
    assert contact.take(answer(contact.challenge(), 3))
    assert (0.0, True) == (contact.silent_for(), contact.heard)


def test_another_process_knows_what_the_daemon_heard(contact, index, clock):
    """All of it is on disk: a command that opens the index sees the same."""
    contact.take(answer(contact.challenge(), 1, challenge="theirs", pending=3))
    clock.now += 2
    other = Contact(index, clock, AFTER)
    assert (2.0, True, "theirs", 3) == (other.silent_for(), other.heard, other.echo(), other.facts()["pending"])


@pytest.mark.parametrize(("sent", "skew"), [(-7 * HOUR, -25_200.0 + 4.0), (-2_000_000, 0.0), (HOUR, 3600.0)])
def test_the_peers_clock_is_known_by_its_echo(contact, clock, sent, skew):
    """What it says it is, against when it was asked and when it answered; a mail that is no answer tells nothing."""
    assert contact.skew() is None
    nonce = contact.challenge()
    clock.now += 4
    clock.wall_now += 4_000_000
    contact.take(answer("made-up", 1, sent=clock.wall_now + HOUR))
    assert contact.skew() is None
    contact.take(answer(nonce, 2, sent=clock.wall_now + sent, skew="a lie"))
    assert skew == contact.skew()
