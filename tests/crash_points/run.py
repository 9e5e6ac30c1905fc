"""Tells one story to its end, then once for each of its steps: a forked process is killed there and started again.

A fork of a process that has everything imported costs milliseconds; a Python start for each point would cost minutes.
"""

import json
import logging
import os
import random
import shutil
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import cryptography.hazmat.primitives.serialization  # noqa: F401 - it is imported late, in each life anew

from crash_points.points import SYNC, Points, Step, die
from crash_points.restart import restart, start_once_more
from crash_points.story import Story

_FAST = Path("/dev/shm")  # waiting for a disk would take long, and no power is cut here
_STEPS_OF_A_START = 40


@dataclass
class Report:
    """What came of one story: its steps, at how many points a process was killed, and what did not hold after which."""

    story: str
    steps: list[Step] = field(default_factory=list)
    killed: int = 0
    starts_killed: int = 0
    failures: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self):
        return json.dumps(asdict(self))


class _Left(NamedTuple):
    """What a killed process leaves: its directory, what it had promised, and how far its clocks were ahead (seconds)."""

    directory: Path
    promises: list[list]
    ahead: float


def crash(story, *, everywhere=False, most=None, seed=0, only=(), until_found=False):
    """Kill a process at each point of a story, or `only` at some; with `everywhere` also where it waits for the disk.

    `most` of them at most, which `seed` chooses; with `until_found` not after the first failure.
    Waiting changes nothing that outlives a killed process: the point is that of the next step. At one point in three,
    `everywhere` at each, the start after the crash is killed, too, at a step that `seed` chooses.
    """
    began = time.monotonic()
    report = Report(story.name)
    report.steps = _life(story, 0, 0, report)
    if not report.failures:
        points = [step.number for step in report.steps if everywhere or step.name != SYNC] + [len(report.steps) + 1]
        if most is not None and len(points) > most:
            points = sorted(random.Random(f"{seed} {story.name}").sample(points, most))
        for point in only or points:
            if until_found and report.failures:
                break
            chance = random.Random(f"{seed} {story.name} {point}")
            start = chance.randint(1, _STEPS_OF_A_START) if everywhere or chance.random() < 1 / 3 else 0
            _life(story, point, start, report)
            report.killed += 1
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _life(story, kill_at, kill_start_at, report):
    """One life, killed at a step (0: not at all), and the starts after it; its steps. Failures go into the report."""
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=_FAST if os.access(_FAST, os.W_OK) else None))
    said = _in_process(lambda pipe: _live(story, directory, pipe, kill_at))
    promised = [line for line in said if isinstance(line, list)]
    left = _Left(directory, _newest(promised), max((ahead for *_, ahead in promised), default=0.0))
    rest = next((line for line in said if isinstance(line, dict)), {})
    problems = rest.get("problems", [])
    if not problems and kill_start_at:
        words = _in_process(lambda pipe: _start(story, left, pipe, kill_start_at))
        report.starts_killed += not words
    if not problems:
        problems = _problems(lambda pipe: _start(story, left, pipe, 0))
    if not problems:
        problems = _problems(lambda pipe: _start_once_more(left, pipe))
    if problems:
        report.failures.append({"point": kill_at, "start": kill_start_at, "kept": str(directory), "problems": problems})
    else:
        shutil.rmtree(directory)
    return [Step(*step) for step in rest.get("steps", [])]


def _live(story, directory, pipe, kill_at):
    points = Points(directory, kill_at)
    points.install()
    acts = story.tell(Story(directory / "net", pipe, story.settings))
    next(acts)  # up to here nothing is counted
    points.armed = True
    next(acts, None)
    points.armed = False
    if kill_at:
        die()
    _say(pipe, {"steps": points.steps})


def _start(story, left, pipe, kill_at):
    points = Points(left.directory, kill_at)
    points.install()
    points.armed = kill_at > 0
    if story.first:
        story.first(left.directory)
    problems = restart(left.directory / "net", left.promises, left.ahead)
    _say(pipe, {"problems": problems + (story.also(left.directory) if story.also else [])})


def _start_once_more(left, pipe):
    points = Points(left.directory)
    points.install()
    _say(pipe, {"problems": start_once_more(left.directory / "net", points, left.ahead)})


def _problems(act):
    return next((line["problems"] for line in _in_process(act)), ["the process ended without a word"])


def _in_process(act):
    """Run `act` in a process of its own, with a pipe to speak through; the lines that it said before it ended."""
    hear, speak = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(hear)
            logging.disable()
            act(speak)
        except BaseException:  # noqa: BLE001 - whatever it is, it goes into the report
            _say(speak, {"problems": [traceback.format_exc()]})
        finally:
            os._exit(0)
    os.close(speak)
    with os.fdopen(hear) as said:
        lines = [json.loads(line) for line in said]
    os.waitpid(process, 0)
    return lines


def _say(pipe, value):
    os.write(pipe, json.dumps(value).encode() + b"\n")


def _newest(promises):
    """Of what was promised of one field, the newest word counts."""
    return list({(key, field): [key, field, value, at] for key, field, value, at, _ in promises}.values())
