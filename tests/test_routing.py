"""The answer to who serves: of a view, a permit and a moment, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.routing import Answer, Moment, answer, moment_of
from vmctl.view import Epoch, Last, View, fresh_view

if TYPE_CHECKING:
    from vmctl.view import State

BOOT = "3f2a9c10"
NOW = Moment(1000.0, BOOT)
TTL = 60.0
SERVERS = ("primary", "secondary")
STATES: dict[State, str | None] = {
    "starting": None, "normal": "primary", "resilience": "secondary", "recovering": "secondary",
}  # fmt: skip

moments = st.builds(
    Moment, st.floats(0, 2000, allow_nan=False) | st.just(NOW.steady), st.sampled_from([BOOT, "another"])
)
states = st.sampled_from(sorted(STATES))


def view(state: State = "normal") -> View:
    """The view of a service with the home `primary`."""
    last = Last("primary", "start") if state == "starting" else None
    return View("voicemail", "primary", STATES[state], state, Epoch(4, "primary"), 17, "start", last)


@given(states, moments)
def test_without_an_arbiter_the_view_answers(state: State, now: Moment) -> None:
    """Who serves is whom the view names, at its epoch and since its time, until something else is told."""
    expected = Answer("voicemail", STATES[state], "primary", state, Epoch(4, "primary"), 17, None, ("a word",))
    assert expected == answer(view(state), now, waiting_for=("a word",))


@given(states, st.dictionaries(st.sampled_from(SERVERS), st.none() | moments), moments)
def test_with_an_arbiter_a_server_answers_for_itself_while_its_permit_counts(
    state: State, permits: dict[str, Moment | None], now: Moment
) -> None:
    """Whatever the view says: a server whose own word is known here serves only until its permit ends, of this boot."""
    got = answer(view(state), now, permits=permits, ttl=TTL)
    permit = permits.get(got.server or "")
    if got.server in permits:
        assert permit is not None
        assert (permit.boot, True) == (now.boot, permit.steady > now.steady)
        assert got.until == permit
    else:
        assert got.until == Moment(now.steady + TTL, now.boot)
    assert got.server in {None, STATES[state]}
    lapsed = STATES[state] in permits and got.server is None
    assert lapsed == bool(got.waiting_for)


@given(moments, moments)
def test_of_two_servers_with_one_permit_one_answers(now: Moment, permit: Moment) -> None:
    """Both name themselves in their views, as in a split: only the one that has the permit is told of by its own store."""
    mine = answer(view("normal"), now, permits={"primary": permit}, ttl=TTL)
    theirs = answer(view("resilience"), now, permits={"secondary": None}, ttl=TTL)
    assert theirs.server is None
    assert (mine.server == "primary") == permit.is_after(now)


@pytest.mark.parametrize(
    ("permit", "serves"),
    [
        (Moment(1000.1, BOOT), True),
        (Moment(1000.0, BOOT), False),
        (Moment(999.9, BOOT), False),
        (Moment(9999.0, "of the last boot"), False),
        (None, False),
    ],
)
def test_the_moment_at_which_a_permit_ends(permit: Moment | None, *, serves: bool) -> None:
    """It counts up to its end and not at it; one of another boot, or none, never does."""
    got = answer(view(), NOW, permits={"primary": permit}, ttl=TTL)
    assert ("primary" if serves else None) == got.server
    assert serves or "the arbiter's word that primary may serve" in got.waiting_for


def test_the_peer_is_told_of_without_its_permit() -> None:
    """What this server does not know is left to the peer; what is said of it here counts for one lease."""
    got = answer(view("resilience"), NOW, permits={"primary": None}, ttl=TTL)
    assert ("secondary", Moment(1060.0, BOOT)) == (got.server, got.until)


def test_a_service_that_was_never_served_is_served_by_nobody() -> None:
    """Before the first start there is no server to use."""
    assert answer(fresh_view("voicemail", "primary"), NOW).server is None


@pytest.mark.parametrize(
    ("note", "moment"),
    [
        ({"until": 12.5, "boot": BOOT}, Moment(12.5, BOOT)),
        ({"until": 12, "boot": BOOT, "more": 1}, Moment(12.0, BOOT)),
        ({"until": True, "boot": BOOT}, None),
        ({"until": "12", "boot": BOOT}, None),
        ({"until": 12.5}, None),
        ({}, None),
        (None, None),
        ([12.5, BOOT], None),
    ],
)
def test_a_permit_is_read_from_its_note(note: object, moment: Moment | None) -> None:
    """What is no permit is none: a server that cannot read its own does not serve."""
    assert moment == moment_of(note)
