"""What wakes the daemon: from any thread, from a signal handler, and at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
from running import environment

from vmctl.bell import Bell

# Rings from a handler some thousand times while the same thread waits and clears: each may fall anywhere into that.
RINGING = """
import signal, sys, threading, time
from vmctl.bell import Bell
bell = {bell}()
signal.signal(signal.SIGALRM, lambda *_: bell.set())
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
end = time.monotonic() + 1
while time.monotonic() < end:
    bell.set()
    bell.wait(0.0001)
    bell.is_set()
    bell.clear()
signal.setitimer(signal.ITIMER_REAL, 0)
print("alive")
"""


def rings(bell: str, seconds: float) -> str:
    """What a process prints that does so with a kind of bell; nothing if it stands still, or falls over itself."""
    command = [sys.executable, "-c", RINGING.format(bell=bell)]
    try:
        return subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=seconds, check=False
        ).stdout
    except subprocess.TimeoutExpired:
        return ""


def test_a_signal_handler_may_ring_at_any_moment() -> None:
    """Also while its own thread waits, looks or clears; in an event of `threading` it waits for ever for its own thread."""
    assert rings("Bell", 60) == "alive\n"
    assert rings("threading.Event", 8) == ""


def test_who_waits_is_woken_by_a_signal() -> None:
    """At once, not when the time is over; a signal that rings nothing wakes nobody."""
    bell = Bell()
    before = signal.signal(signal.SIGALRM, lambda *_: bell.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert bell.wait(60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert bell.is_set()


@pytest.mark.parametrize("rung", [1, 200_000])
def test_it_rings_until_it_is_cleared(rung: int) -> None:
    """However often it was rung; it can be rung from another thread."""
    bell = Bell()
    assert not bell.is_set()
    assert not bell.wait(0.0)
    thread = threading.Thread(target=lambda: [bell.set() for _ in range(rung)])
    thread.start()
    assert bell.wait(60)
    thread.join()
    assert bell.is_set()
    bell.clear()
    assert not bell.is_set()
