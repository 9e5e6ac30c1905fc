"""The units in systemd/: what they promise of the watchdog and the end, and how systemd rates their hardening."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmctl import network

UNITS = Path(__file__).parent.parent / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
WORST = 2.0


def settings(unit):
    """The last value of each setting of a unit."""
    lines = (line.partition("=") for line in unit.read_text().splitlines() if line and line[0] not in "#[")
    return {name: value for name, _, value in lines}


def test_the_watchdog_is_over_before_a_lease_is(tmp_path):
    """A daemon that stands still is killed while it may still serve; what runs then tells the application."""
    unit = settings(UNITS / "vmctl@.service")
    assert "notify" == unit["Type"]
    assert float(unit["WatchdogSec"]) < network.make(tmp_path / "net").lease.ttl
    assert unit["ExecStopPost"].startswith("-/")
    assert "always" == unit["Restart"]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_units_run_as_an_ordinary_user_without_any_right_of_root(unit):
    """No root, no capability, no way to get one, and nothing that others may read."""
    found = settings(unit)
    assert found["User"] not in {"", "root"}
    assert ("", "", "yes", "0077", "strict") == tuple(
        found[name]
        for name in ("CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "UMask", "ProtectSystem")
    )


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_systemd_rates_the_units_as_ok(unit):
    """`systemd-analyze security` gives less than 2.0, and knows every line."""
    words = [ANALYZE, "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    rated = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert rated, done.stdout + done.stderr
    assert float(rated[1]) < WORST
    assert not re.search("Unknown|Failed to parse|invalid|ignoring", done.stderr, re.IGNORECASE), done.stderr
