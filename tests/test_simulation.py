"""Two whole servers under simulated disks, mail, clocks and people: nothing is lost, nothing comes back, both agree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCHEDULES = 40  # in one test: about half a minute


def simulation(*words, check=True):
    """Run `python -m simulation`; gives what it printed."""
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "simulation", *map(str, words)]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert not (check and done.returncode), f"{' '.join(command)}\n{done.stdout[-20000:]}{done.stderr[-5000:]}"
    return done.stdout


@pytest.mark.parametrize("first", [0, SCHEDULES])
def test_no_schedule_breaks_a_promise(first, tmp_path):
    """Known schedules all keep the promises; one that does not is named with its replay. New ones are for `make soak`."""
    said = simulation("soak", "--state", tmp_path, "--from", first, "--jobs", 1, "--seeds", SCHEDULES)
    assert SCHEDULES == int(re.match(r"\d+", said)[0])


def test_the_same_seed_gives_the_same_run():
    """A run in another process makes the same trace, step by step."""
    one, other = (simulation("replay", 7) for _ in range(2))
    assert one == other
    assert "trace " in one


def test_a_schedule_can_be_kept_in_a_file(tmp_path):
    """What a soak writes down for a failing seed replays as the seed does."""
    from simulation.schedule import schedule_of

    path = tmp_path / "7.json"
    path.write_text(schedule_of(7).as_json())
    assert simulation("replay", 7) == simulation("replay", path)


def test_an_act_left_out_does_not_change_the_chances_of_the_others():
    """Each act has a seed of its own, so that a schedule can be made small."""
    from simulation.schedule import schedule_of

    steps = schedule_of(7).steps
    assert len(steps) == len({seed for _, _, seed in steps})
