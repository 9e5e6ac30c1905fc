"""Two daemons under simulated mail, arbiter, clocks, disks and people: who serves is right at every step.

Tests of the table against many more schedules are in tests/test_role_model.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from simulation.roles.plants import PLANTS
from test_simulation import simulation

if TYPE_CHECKING:
    from pathlib import Path

SCHEDULES = 3  # in one test: about ten seconds
QUICK = [name for name, bug in PLANTS.items() if bug.profile.script]  # `make plants` finds them all


@pytest.mark.parametrize("first", [0, SCHEDULES])
def test_no_schedule_breaks_a_promise(first: int, tmp_path: Path) -> None:
    """Known schedules all keep the promises; one that does not is named with its replay. New ones are for `make soak`."""
    said = simulation("--roles", "soak", "--state", tmp_path, "--from", first, "--jobs", 1, "--seeds", SCHEDULES)
    assert SCHEDULES == int(re.match(r"\d+", said)[0])  # type: ignore[index]


def test_the_same_seed_gives_the_same_run() -> None:
    """A run in another process makes the same trace, step by step."""
    one, other = (simulation("--roles", "replay", 2) for _ in range(2))
    assert one == other
    assert "at rest" in one


@pytest.mark.parametrize("name", QUICK)
def test_the_simulation_finds(name: str) -> None:
    """A promise breaks within a bounded number of seeds, and with the same seed it holds where the bug is not planted."""
    said = simulation("--roles", "plant", name, check=False)
    assert re.match(rf"{name}: a promise breaks at seed \d+", said), said
    assert "without it the same seed holds" in said
