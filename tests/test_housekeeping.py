"""What is due for its age, and what is too much to believe: decided without a disk and without a clock."""

import pytest

from vmctl.fields import TIMERS
from vmctl.housekeeping import AT_ONCE, Aged, Due, Timers, due, latest, plan

HOUR = 3_600_000_000
NOW = 1_000_000 * HOUR
CONFIG = dict.fromkeys(TIMERS, 0) | {"deleted": 720, "every": 60.0}


def dues(count, at=NOW, name="m"):
    """So many messages that are due."""
    return [Due(f"message/2001/{name}{number}", at) for number in range(count)]


# Hours


def test_the_nearest_word_counts():
    """A mailbox's own timer comes before the setting, that before vmctl.yaml; 0 is a word, too: never."""
    own = {"2001": {"new": 5, "deleted": 0}, "2002": {}}
    timers = Timers(CONFIG | {"saved": 9}, {"housekeeping.new": 7, "housekeeping.old": 8}, own)
    assert [5, 7, 7, 7] == [timers.hours("new", box) for box in ("2001", "2002", "2999", None)]
    assert [0, 720, 8, 9, 0] == [
        timers.hours("deleted", "2001"), timers.hours("deleted", "2002"), timers.hours("old", "2001"),
        timers.hours("saved", "2001"), timers.hours("unopened", "2001"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["24", -1, 1.5, True, None, [], 876_001])
def test_a_setting_that_is_no_number_of_hours_is_none(value):
    """Settings are anybody's text: what means no hours deletes nothing and stops nothing."""
    assert 0 == Timers(CONFIG, {"housekeeping.new": value}, {"1": {"new": value}}).hours("new", "1")


def test_the_shortest_of_all_tells_what_need_not_be_looked_at():
    """0 is never, so it is no bound; where nobody has any there is none."""
    timers = Timers(CONFIG | {"old": 9}, {}, {"1": {"new": 5, "old": 4}, "2": {"new": 3, "old": 0}})
    assert [3, 4, 0, 720] == [timers.shortest(name) for name in ("new", "old", "saved", "deleted")]


# Due


@pytest.mark.parametrize(
    ("age", "hours", "is_due"), [(HOUR, 1, True), (HOUR - 1, 1, False), (99 * HOUR, 0, False), (-HOUR, 1, False)]
)
def test_a_thing_is_due_when_its_hours_are_over(age, hours, is_due):
    """To the microsecond; what has no hours never is, nor what comes from the future."""
    assert is_due == bool(due([Aged("message/1/m", NOW - age, hours)], NOW))
    assert not hours or (NOW - age < latest(hours, NOW)) == is_due


def test_what_was_due_first_goes_first():
    """By when the hours were over, not by when they began."""
    found = due([Aged("b", NOW - 9 * HOUR, 8), Aged("a", NOW - 9 * HOUR, 2), Aged("c", NOW - 9 * HOUR, 8)], NOW)
    assert [("a", NOW - 7 * HOUR), ("b", NOW - HOUR), ("c", NOW - HOUR)] == [(one.key, one.at) for one in found]


# Too much to believe


@pytest.mark.parametrize(
    ("count", "living", "held"), [(20, 20, 0), (21, 84, 0), (21, 83, 21), (400, 1600, 0), (401, 1600, 401)]
)
def test_a_great_part_of_all_messages_waits(count, living, held):
    """More than 20 that are more than a quarter look like the fault of a clock."""
    made = plan(dues(count), [], living=living, accepted=0)
    assert held == made.held
    assert (0 if held else min(count, AT_ONCE)) == len(made.delete)


def test_what_a_person_let_go_goes_to_its_end():
    """All that was due at that word, in as many runs as it takes; what has become due since is measured anew."""
    old, new = dues(500, NOW - 2), dues(30, NOW, "n")
    runs, left = 0, old + new
    while (made := plan(left, [], living=100, accepted=NOW - 1)).delete:
        gone = set(made.delete)
        left = [one for one in left if one.key not in gone]
        runs += 1
    assert (3, 30, new) == (runs, made.held, left)


def test_a_run_is_bounded():
    """Roles and mails wait for it: at most 200 are deleted and 200 purged, and more is said to be due."""
    made = plan(dues(201), dues(900), living=10_000, accepted=0)
    assert (AT_ONCE, AT_ONCE, 0, True) == (len(made.delete), len(made.purge), made.held, made.more)
    assert not plan(dues(200), dues(200), living=10_000, accepted=0).more


def test_purges_are_no_deletions():
    """A mailbox deleted as a whole is purged as a whole, a retention later: that is no fault."""
    made = plan([], dues(150), living=0, accepted=0)
    assert (150, 0) == (len(made.purge), made.held)
