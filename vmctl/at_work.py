"""Which process is at work on a store, and how to make it look up: by signals, as it holds a lock with its number."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

from vmctl import durable, identity

if TYPE_CHECKING:
    from pathlib import Path

DAEMON: Final = "vmctl serve"
ROUND: Final = "vmctl sync"
LOCK: Final = "serve.lock"  # in the store's `.vmctl`


def who_serves(store: Path) -> tuple[str, int] | None:
    """What runs on a store (`vmctl serve` or `vmctl sync`) and its process, or None."""
    holder = durable.lock_holder(store / identity.DIRECTORY / LOCK)
    if holder is None:
        return None
    role, _, number = holder.partition(", process ")
    return role, int(number) if number.isdigit() else 0


def wake(store: Path) -> None:
    """Mail has come into the spool: its daemon, if one runs, looks there at once, not only with its next turn."""
    runs = who_serves(store)
    if runs is not None and runs[0] == DAEMON and runs[1] > 0:
        with contextlib.suppress(OSError, OverflowError):
            os.kill(runs[1], signal.SIGUSR2)
