"""One target, driven by Hypothesis: no coverage leads it, so it runs wherever the tests do."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from fuzz.target import Finding, Target

_BATCH = 100
_STEPS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5)


class Found(AssertionError):
    """An input did what it should not."""

    def __init__(self, data: bytes, finding: Finding) -> None:
        super().__init__(f"{finding.story}\nthe input:\n{data!r}")
        self.data = data
        self.finding = finding


def examples(target: Target, count: int, batch: int | None = None) -> int:
    """Give a target so many inputs, made from its good ones; raises Found. Without `batch` always the same ones."""
    given_so_far = 0

    @given(st.integers(0, len(target.seeds) - 1), _STEPS)
    @settings(
        max_examples=count, database=None, deadline=None, derandomize=batch is None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def bears(at: int, steps: list[int]) -> None:
        nonlocal given_so_far
        data = target.seeds[at]
        for step in steps:
            data = target.mutate(data, Random(step), target.longest)
        given_so_far += 1
        finding = target.judge(data)
        if finding is not None:
            raise Found(data, finding)

    (bears if batch is None else seed(batch)(bears))()
    return given_so_far


def run(target: Target, seconds: float) -> tuple[int, dict[str, tuple[bytes, Finding]]]:
    """Give it inputs for so long: how many, and what was found, by name."""
    ends, count, found = time.monotonic() + seconds, 0, {}
    batch = time.time_ns()
    while time.monotonic() < ends:
        batch += 1
        try:
            count += examples(target, _BATCH, batch)
        except Found as error:
            count += 1
            found[error.finding.name] = (error.data, error.finding)
    return count, found
