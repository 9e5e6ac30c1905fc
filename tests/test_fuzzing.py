"""Every entrance bears what once wounded it, what is known to reach far into it, and a few inputs made by chance."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
from fuzz import corpus, mutate, target, unguided
from fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

WOUNDS = [(name, wound) for name in TARGETS for wound in corpus.wounds(name)]
SLOW = {"changes": 40, "store": 40}  # inputs; each is a server at work for a while
MANY = 200


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the product says of bad inputs is not kept: there is much of it."""
    with caplog.at_level("CRITICAL"):
        yield


@pytest.mark.parametrize(("name", "wound"), WOUNDS, ids=map("-".join, WOUNDS))
def test_a_wound_stays_healed(name: str, wound: str) -> None:
    """An input that once did harm does none any more."""
    finding = TARGETS[name].judge(corpus.wounds(name)[wound])
    assert finding is None, finding.story if finding else ""


@pytest.mark.parametrize("name", TARGETS)
def test_what_reaches_far_does_no_harm(name: str) -> None:
    """Good inputs as the product makes them, and those that the fuzzers kept."""
    for data in [*TARGETS[name].seeds, *corpus.kept(name)]:
        finding = TARGETS[name].judge(data)
        assert finding is None, f"{finding.story}\n{data!r}" if finding else ""


@pytest.mark.parametrize("name", TARGETS)
def test_what_chance_makes_does_no_harm(name: str) -> None:
    """A few inputs, the same ones each time: `make fuzz` draws others."""
    assert unguided.examples(TARGETS[name], SLOW.get(name, MANY)) > 0


# What the fuzzers themselves rely on


def test_a_fault_is_found_and_named_for_its_place() -> None:
    """An exception that a target did not expect is a finding, with the input."""

    def breaks(data: bytes) -> None:
        if data != b"good":
            raise KeyError(data)

    broken = replace(
        TARGETS["config"],
        run=breaks,
        make_seeds=lambda: [b"good"],
        mutate=mutate.of_bytes,
    )
    with pytest.raises(unguided.Found) as caught:
        unguided.examples(broken, 20)
    assert caught.value.finding.name == "KeyError-test_fuzzing-breaks"
    assert caught.value.data != b"good"


def test_what_does_not_end_is_a_finding() -> None:
    """Also where everything that is an Exception is caught on the way."""

    def turns(_data: bytes) -> None:
        for _ in itertools.count():
            try:
                sum(range(10))
            except Exception:  # noqa: BLE001
                continue

    with pytest.raises(target.Hang), target.bounded(seconds=0.05):
        turns(b"")


def test_what_takes_all_memory_is_a_finding() -> None:
    """Also where it gives it back."""
    with pytest.raises(target.Glutton), target.bounded(memory=1024):
        bytearray(512 << 20)[::4096] = b"x" * (512 << 8)


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_chance_makes_the_same_input(name: str) -> None:
    """A seed can be told to others."""
    one = TARGETS[name]
    for number, data in enumerate(one.seeds * 3):
        assert one.mutate(data, Random(number), one.longest) == one.mutate(data, Random(number), one.longest)
