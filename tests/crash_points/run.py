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
    failures: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self):
        return json.dumps(asdict(self))


def crash(story, *, everywhere=False, seed=0, only=()):
    """Kill a process at each point of a story, or `only` at some; with `everywhere` also while it waits for the disk.

    Waiting changes nothing that outlives a killed process: it is the state of the next step. At one point in three the
    start after the crash is killed, too, at a step that `seed` gives.
    """
    began = time.monotonic()
    report = Report(story.name)
    report.steps, problems = _life(story, 0, 0, report)
    if not problems:
        points = [step.number for step in report.steps if everywhere or step.name != SYNC] + [len(report.steps) + 1]
        for point in only or points:
            chance = random.Random(f"{seed} {story.name} {point}")
            again = chance.randint(1, _STEPS_OF_A_START) if chance.random() < 1 / 3 else 0
            _life(story, point, again, report)
            report.killed += 1
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _life(story, kill_at, kill_start_at, report):
    """One life, killed at a step (0: not at all), and the starts after it; its steps, and what did not hold."""
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=_FAST if os.access(_FAST, os.W_OK) else None))
    said = _in_process(lambda pipe: _live(story, directory, pipe, kill_at))
    promises = _newest(line for line in said if isinstance(line, list))
    rest = next((line for line in said if isinstance(line, dict)), {})
    problems = rest.get("problems", [])
    if not problems and kill_start_at:
        _in_process(lambda pipe: _start(story, directory, promises, pipe, kill_start_at))
    if not problems:
        problems = _problems(lambda pipe: _start(story, directory, promises, pipe, 0))
    if not problems:
        problems = _problems(lambda pipe: _start_once_more(directory, pipe))
    if problems:
        killed = {"point": kill_at, "start killed at": kill_start_at}
        report.failures.append(killed | {"kept": str(directory), "problems": problems})
    else:
        shutil.rmtree(directory)
    return [Step(*step) for step in rest.get("steps", [])], problems


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


def _start(story, directory, promises, pipe, kill_at):
    points = Points(directory, kill_at)
    points.install()
    points.armed = kill_at > 0
    problems = restart(directory / "net", promises)
    _say(pipe, {"problems": problems + (story.also(directory) if story.also else [])})


def _start_once_more(directory, pipe):
    points = Points(directory)
    points.install()
    _say(pipe, {"problems": start_once_more(directory / "net", points)})


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
        except BaseException:
            _say(speak, {"problems": [traceback.format_exc()]})
        finally:
            os._exit(0)
    os.close(speak)
    with open(hear) as said:
        lines = [json.loads(line) for line in said]
    os.waitpid(process, 0)
    return lines


def _say(pipe, value):
    os.write(pipe, json.dumps(value).encode() + b"\n")


def _newest(promises):
    """Of what was promised of one field, the newest word counts."""
    return list({(key, field): [key, field, value, at] for key, field, value, at in promises}.values())
