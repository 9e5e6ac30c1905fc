"""Whether a clock may be trusted with the age of things."""

import pytest

from vmctl.clocks import Reading, why_untrusted, words
from vmctl.contact import skew_of

HOUR = 3600
DAY = 24 * HOUR
LAST = Reading(1_800_000_000_000_000, 5000.0, "boot-1")


def later(wall, steady=0.0, boot="boot-1"):
    """The clocks after so many seconds by each."""
    return Reading(LAST.wall + int(wall * 1_000_000), LAST.steady + steady, boot)


@pytest.mark.parametrize(("sent", "skew"), [(50, -50.0), (99, -1.0), (100, 0.0), (107, 0.0), (110, 0.0), (113, 3.0)])
def test_an_echo_bounds_the_peers_clock(sent, skew):
    """A mail was written after what it answers was asked, and before it came: a time outside that is the clock's fault."""
    assert skew == skew_of(sent * 1_000_000, 100 * 1_000_000, 110 * 1_000_000)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (later(DAY, DAY), None),
        (later(DAY + 299, DAY), None),
        (later(3 * 365 * DAY, 60), "set 1095 days forward"),
        (later(-HOUR, 60), "back"),
        (later(DAY, -4000, "boot-2"), None),
        (later(-HOUR, -4000, "boot-2"), "before the last run"),
        (later(40 * DAY, -4000, "boot-2"), "nobody confirms"),
    ],
)
def test_a_clock_that_jumps_is_not_trusted(now, why):
    """Within a boot it is held against the clock that never jumps; over a reboot only the implausible is refused."""
    found = why_untrusted(LAST, now, limit=300, skew=None, witnessed=False)
    assert (why is None) == (found is None), found
    assert why is None or why in found


@pytest.mark.parametrize("now", [later(3 * 365 * DAY, 60), later(-HOUR, 60), later(40 * DAY, -4000, "boot-2")])
def test_a_witness_ends_the_doubt(now):
    """A peer on another machine whose clock shows the same says that the jump was the mend, or the pause was real."""
    assert why_untrusted(LAST, now, limit=300, skew=12.0, witnessed=True) is None
    assert why_untrusted(LAST, now, limit=300, skew=12.0, witnessed=False)
    assert why_untrusted(LAST, now, limit=300, skew=None, witnessed=True)


@pytest.mark.parametrize("skew", [-301.0, 301.0])
def test_two_clocks_that_differ_are_both_not_trusted(skew):
    """Nobody knows which one is right."""
    assert "the peer's clock" in why_untrusted(None, LAST, limit=300, skew=skew, witnessed=True)
    assert why_untrusted(None, LAST, limit=300, skew=skew / 2, witnessed=True) is None


def test_how_far_in_words():
    """As people say it."""
    assert ["3 h ahead of", "5 min behind"] == [words(3 * HOUR), words(-300)]


def test_a_clock_that_is_off_is_named_once(wire):
    """A fault, a line in the journal when it begins and one when it ends; signed seconds for `status`."""
    clocks = wire.own_clocks()
    wire.exchange()
    assert [0.0, 0.0] == [replica.contact.skew() for replica in wire.servers.values()]
    clocks["secondary"].off = 5 * HOUR
    wire.exchange()
    wire.exchange()
    assert 5 * HOUR == pytest.approx(wire.a.contact.skew(), abs=5)
    assert -5 * HOUR == pytest.approx(wire.b.contact.skew(), abs=5)
    assert ["the clock of secondary is 5 h ahead of this server's: nothing is deleted for its age"] == [
        fault["why"] for fault in wire.a.index.faults.all()
    ]
    wire.scan()
    assert ["vmctl:clock"] == [fault["path"] for fault in wire.a.index.faults.all()], "a scan mends no clock"
    clocks["secondary"].off = 0
    wire.exchange()
    assert [] == wire.a.index.faults.all()
    said = [entry["event"] for entry in wire.a.journal.entries() if "clock" in str(entry.get("event"))]
    assert ["the clock of secondary is off", "the clock of secondary is right again"] == said
