"""A process is killed at each durable step of what it does, and started again: nothing accepted is lost, all converges.

`make crash` kills at every point of every story; here it is at no more than so many of each.
"""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from crash_points.__main__ import report_of, told
from crash_points.faults import FAULTS
from crash_points.points import COMMIT, SYNC
from crash_points.stories import STORIES
from running import SERVERS, Net, environment, until, wav

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST, MESSAGES = 6, 20


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_any_step_leaves_nothing_but_work(story: str) -> None:
    """After a plain start what was accepted is there, what was deleted is not, both are the same, and no litter stays."""
    report = report_of(story, f"--most={MOST}")
    assert [] == told(report)
    assert report.killed >= 2, "the story does nothing that could be cut off"


@pytest.mark.parametrize(("plant", "story"), FAULTS.items(), ids=[plant.__name__ for plant in FAULTS])
def test_a_deliberate_fault_is_found(plant: Callable[[], None], story: str) -> None:
    """The story that passes without the fault fails with it, by what was promised and not by a traceback."""
    report = report_of(story, f"--plant={plant.__name__}")
    problems = [problem for failure in report.failures for problem in failure["problems"]]
    assert report.steps
    assert problems
    assert not any("Traceback" in problem for problem in problems), problems


def test_what_is_durable_has_its_number() -> None:
    """A step that were left out of the numbering would not be tested: the commonest story has all of these kinds."""
    report = report_of("a_message_is_left", "--point=1")
    assert [] == told(report)
    found = {step[1] for step in report.steps}
    assert {"mkdir", "open", "write", "write the rest", SYNC, "rename", COMMIT} <= found


def killed_now_and_then(net: Net, server: str, seed: int, stop: threading.Event, kills: list[str]) -> None:
    """Serve, and be killed at a random moment, again and again."""
    chance = random.Random(f"{seed} {server}")
    while not stop.is_set():
        with net.daemon(server):  # which kills it at its end
            stop.wait(chance.uniform(0.2, 2.5))
        kills.append(server)


def test_nothing_that_was_accepted_is_lost_however_often_both_daemons_are_killed(tmp_path: Path) -> None:
    """Messages are left by commands at both servers meanwhile, some of which are killed, too: each id that was given is there."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    seed = secrets.randbelow(1 << 32)
    chance, stop, kills = random.Random(seed), threading.Event(), []
    killers = [threading.Thread(target=killed_now_and_then, args=(net, name, seed, stop, kills)) for name in SERVERS]
    for killer in killers:
        killer.start()
    accepted = set()
    try:
        for number in range(MESSAGES):
            accepted |= left_or_killed(net, chance, number)
    finally:
        stop.set()
        for killer in killers:
            killer.join()
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: all_run(net) and net.status()["in_step"], within=60.0, what=f"in step (seed {seed})")
        net.do("verify")
    for server in SERVERS:
        there = {path.stem for path in net.path(server, "mailboxes/2001/messages").glob("*.json")}
        assert set() == accepted - there, f"seed {seed}, {len(kills)} kills"
        assert net.run("journal", "--verify", "--server", server).returncode == 0
        assert [] == net.status()["servers"][server]["faults"]
    assert len(kills) > 2


def all_run(net: Net) -> bool:
    """Whether both daemons serve."""
    return all(server["daemon"] for server in net.status()["servers"].values())


def left_or_killed(net: Net, chance: random.Random, number: int) -> set[str]:
    """Leave a message at either server; its id if one was given. One command in four is killed at a random moment."""
    source = wav(net.root / f"said-{number}.wav", level=number)
    words = ("message", "leave", "2001", "--audio", str(source), "--server", chance.choice(SERVERS))
    patience = chance.uniform(0.1, 0.5) if chance.random() < 1 / 4 else 60.0
    command = [sys.executable, "-m", "vmctl", *words]
    with subprocess.Popen(command, cwd=net.root, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    return {said.strip()} if process.returncode == 0 else set()
