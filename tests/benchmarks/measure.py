"""Whole processes are timed, start-up included, and what was measured becomes rows of a table."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Ran(NamedTuple):
    """One process that ended: seconds by the wall, its own and its children's seconds of processor, peak memory in MB."""

    seconds: float
    processor: float
    memory: float


def timed(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end, which must be a good one."""
    log = cwd / "bench.log"
    with log.open("wb") as out:
        began = time.monotonic()
        files = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        there = Path.cwd()
        os.chdir(cwd)
        try:
            pid = os.posix_spawnp(command[0], list(command), dict(environment or os.environ), file_actions=files)
        finally:
            os.chdir(there)
        _, status, used = os.wait4(pid, 0)
        seconds = time.monotonic() - began
    assert os.waitstatus_to_exitcode(status) == 0, f"{' '.join(command)}: {log.read_text()[-2000:]}"
    return Ran(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


@dataclass
class Row:
    """What was measured of one work, by program; `goals` has by program how many times its median may be needed."""

    work: str
    unit: str = "s"
    found: dict[str, list[float]] = field(default_factory=dict)
    goals: dict[str, float] = field(default_factory=dict)
    most: float | None = None  # of vmctl's median

    def add(self, who: str, value: float) -> None:
        """One more measurement."""
        self.found.setdefault(who, []).append(value)

    def median(self, who: str) -> float | None:
        """Of one program; None where it was not measured."""
        values = self.found.get(who)
        return statistics.median(values) if values else None

    def ratio(self, who: str) -> float | None:
        """Vmctl's median against another's."""
        ours, theirs = self.median(US), self.median(who)
        return None if ours is None or not theirs else ours / theirs

    @property
    def is_met(self) -> bool | None:
        """Whether every goal is met; None where there is none, or nothing to compare with."""
        verdicts = [ratio <= goal for who, goal in self.goals.items() if (ratio := self.ratio(who)) is not None]
        if self.most is not None and (ours := self.median(US)) is not None:
            verdicts.append(ours <= self.most)
        return all(verdicts) if verdicts else None

    def as_json(self) -> dict[str, object]:
        """The row for programs: all that was measured, and what it is held against."""
        return {
            "work": self.work, "unit": self.unit, "measured": self.found,
            "medians": {who: self.median(who) for who in self.found},
            "ratios": {who: self.ratio(who) for who in self.found if who != US},
            "goals": self.goals, "most": self.most, "met": self.is_met,
        }  # fmt: skip

    def as_line(self) -> str:
        """The row of a table in Markdown."""
        ours = self.median(US)
        others = "; ".join(
            f"{who} {self._shown(self.median(who))} ({self.ratio(who) or 0:.2f}x)" for who in self.found if who != US
        )
        goals = [f"{goal}x {who}" for who, goal in self.goals.items()]
        goals += [f"{self._shown(self.most)}"] if self.most is not None else []
        verdict = {True: "met", False: "**not met**", None: ""}[self.is_met]
        return f"| {self.work} | {self._shown(ours)} | {others} | {', '.join(goals)} | {verdict} |"

    def _shown(self, value: float | None) -> str:
        return "" if value is None else f"{value:.3g} {self.unit}"


US = "vmctl"
HEAD = "| work | vmctl | others (vmctl / other) | goal | |\n|---|--:|---|---|---|"
