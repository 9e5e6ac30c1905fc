"""Bugs put into the product on purpose: the simulation finds each. One that finds nothing proves nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.plants import PLANTS

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", PLANTS)
def test_the_simulation_finds(name):
    """A promise breaks within a bounded number of seeds, and with the same seed it holds where the bug is not planted."""
    done = subprocess.run(
        [sys.executable, "-m", "simulation", "plant", name],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert re.match(rf"{name}: a promise breaks at seed \d+", done.stdout), done.stdout + done.stderr
    assert "without it the same seed holds" in done.stdout
