"""Finding out what it is that is refused: pure decisions about groups of things."""

import itertools
import random

from vmctl.backoff import backoff
from vmctl.ranges import united, without
from vmctl.refusals import BARE, Piece, Refusals, Version


def things(count):
    """So many records."""
    return tuple(Version(f"message/2001/{number:03}", "v") for number in range(count))


def find(refusals, guilty, group, *, most):
    """Send mails until nobody is under suspicion; gives what was found guilty and what was taken."""
    found, taken = [], []
    refusals.refused(group)
    for _ in range(most):
        now = refusals.next(others=False)
        if now is None:
            return set(found), set(taken)
        if set(now) & guilty:
            refusals.refused(now)
        else:
            found += refusals.taken(now)
            taken += now
    raise AssertionError(f"not found out after {most} mails")


def test_the_one_that_is_refused_is_found_and_all_others_go():
    """Of 500 things in a refused mail the one is named after a few mails, and each other one was taken."""
    group = things(500)
    guilty = {group[333]}
    found, taken = find(Refusals(), guilty, group, most=60)
    assert (guilty, set(group) - guilty) == (found, taken)


def test_several_are_found_among_many():
    """Any number of guilty ones is found, and never an innocent one."""
    chance = random.Random(7)
    for _ in range(30):
        group = things(chance.randrange(1, 40))
        guilty = set(chance.sample(group, chance.randrange(len(group) + 1)))
        found, taken = find(Refusals(), guilty, group, most=400)
        assert (guilty, set(group) - guilty) == (found, taken)


def test_nobody_is_guilty_while_even_a_bare_mail_is_refused():
    """With a wrong key everything is refused: all are tried again when the link is mended, and none was accused."""
    refusals, group = Refusals(), things(8)
    assert refusals.refused(group)
    assert not refusals.refused(BARE)
    for _ in range(5):
        assert BARE == refusals.next(others=True)
        assert not refusals.refused(BARE)
    assert refusals.every_mail
    assert [] == refusals.taken(BARE)
    assert group == refusals.next(others=True)
    assert [] == refusals.taken(group)
    assert (None, set()) == (refusals.next(others=True), refusals.suspects())


def test_one_refusal_alone_accuses_nobody():
    """A link that is mended between two mails makes nothing guilty: the thing is tried once more."""
    refusals, (one,) = Refusals(), things(1)
    refusals.refused((one,))
    assert [] == refusals.taken(BARE)
    assert (one,) == refusals.next(others=False)
    assert [] == refusals.taken((one,))
    refusals.refused((one,))
    assert [] == refusals.taken(BARE)


def test_an_ordinary_mail_serves_as_a_witness():
    """What else is due need not wait for the verdict; two refusals in a row ask for a bare mail."""
    refusals, (one, other) = Refusals(), things(2)
    refusals.refused((one,))
    assert refusals.next(others=True) is None
    refusals.refused((other,))
    assert BARE == refusals.next(others=True)
    assert [] == refusals.taken(BARE)
    assert {one, other} == refusals.suspects()
    for thing in (one, other):
        assert (thing,) == refusals.next(others=False)
        refusals.refused((thing,))
        assert [thing] == refusals.taken(BARE)


def test_what_fits_no_mail_any_more_is_not_under_suspicion():
    """Of a group only what is in the mail stays under suspicion."""
    refusals, group = Refusals(), things(4)
    refusals.refused(group)
    refusals.taken(BARE)
    half = refusals.next(others=False)
    refusals.loaded(half, half[:1])
    assert half[:1] == refusals.next(others=False)
    assert half[1] not in refusals.suspects()
    refusals.loaded(half[:1], ())
    assert group[2:] == refusals.next(others=False)


def test_pieces_and_records_are_told_apart():
    """Of a record and pieces of a recording, the piece is found."""
    piece = Piece("a" * 64, 0, 100)
    group = (*things(3), piece, Piece("a" * 64, 100, 200))
    found, taken = find(Refusals(), {piece}, group, most=30)
    assert ({piece}, set(group) - {piece}) == (found, taken)


def test_waits_grow_and_are_never_the_same_for_all():
    """Each wait is at most twice the last, up to the longest, and a part of it is left to chance."""
    for tries, whole in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (1000, 10.0)):
        waits = {backoff(2.0, tries, 10.0) for _ in range(50)}
        assert 0.75 * whole < min(waits) <= max(waits) <= whole
        assert len(waits) > 1


def test_ranges_of_any_sizes_fit_together():
    """Uniting and cutting ranges agrees with sets of bytes."""
    chance = random.Random(11)

    def some():
        starts = [chance.randrange(40) for _ in range(chance.randrange(6))]
        return [(start, start + chance.randrange(1, 12)) for start in starts]

    def as_bytes(spans):
        return {at for start, stop in spans for at in range(start, stop)}

    for _ in range(300):
        one, other = some(), some()
        assert as_bytes(one) == as_bytes(united(one))
        assert as_bytes(one) - as_bytes(other) == as_bytes(without(one, other))
        for spans in (united(one), without(one, other)):
            assert all(left[1] < right[0] for left, right in itertools.pairwise(spans))
