"""Tells the service manager that started this process how it is: sd_notify(3) of systemd, where it asked for that.

A daemon that stands still says nothing more, and the manager's watchdog ends it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
ALIVE: Final = "WATCHDOG=1"
STOPPING: Final = "STOPPING=1"
_VARIABLE: Final = "NOTIFY_SOCKET"


def notify(state: str) -> None:
    """Send a state to the socket that NOTIFY_SOCKET names ('@' begins an abstract one); without it do nothing."""
    name = os.environ.get(_VARIABLE, "")
    if not name.startswith(("/", "@")):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    # a manager that is gone or does not read is no reason to stop
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode("ascii"), address)
