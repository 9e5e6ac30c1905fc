"""Numbers each durable step of this process, and ends the process with SIGKILL right before one of them.

A step is a call of one of the names through which `vmctl.durable` changes files, the middle of a write, or a commit of
an index. The state after a step is the state before the next one, so there is one more point: after the last.
"""

import functools
import os
import signal
import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from steps import STEPS

from vmctl import database, durable

SYNC, COMMIT = "fsync", "commit"
_CHANGES = {"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER", "PRAGMA"}


class Step(NamedTuple):
    """What was about to be done, counted from 1, and to which file."""

    number: int
    name: str
    path: str


class Points:
    """The steps that are done in `root` while it is `armed`. Only one may be installed in a process."""

    def __init__(self, root, kill_at=0):
        self._root = root
        self._kill_at = kill_at
        self.steps = []
        self.armed = False

    def install(self):
        """Stand between `vmctl` and the disk, for good."""
        # a write is two steps, and to wait for all disks there are makes no file
        for name in sorted(set(STEPS) - {"_write", "_sync"}):
            self._stand_before(name.removeprefix("_"))
        write = durable._write

        def in_two(fd, data):
            half = len(data) // 2
            self.step("write", fd)
            write(fd, data[:half])
            self.step("write the rest", fd)
            write(fd, data[half:])

        durable._write = in_two
        database.sqlite3 = _Counted(self)

    def _stand_before(self, name):
        real = getattr(durable, f"_{name}")

        @functools.wraps(real)
        def counted(*values):
            self.step(
                SYNC if name == "syncfs" else name,
                values[-1] if name in {"rename", "rename_free", "swap", "link"} else values[0],
            )
            return real(*values)

        setattr(durable, f"_{name}", counted)

    def step(self, name, where):
        """The process is about to do something durable to a file, given by its path or descriptor."""
        if self.armed:
            path = Path(f"/proc/self/fd/{where}").readlink() if isinstance(where, int) else Path(where)
            shown = path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)
            self.steps.append(Step(len(self.steps) + 1, name, shown))
            if len(self.steps) == self._kill_at:
                die()

    @property
    def writes(self):
        """The steps that changed files other than an index."""
        return [step for step in self.steps if step.name != COMMIT]


def die():
    """The process ends here, at once."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Counted:
    """The module `sqlite3`, but for connections whose commits are steps."""

    def __init__(self, points):
        self._points = points

    def __getattr__(self, name):
        return getattr(sqlite3, name)

    def connect(self, where, factory=sqlite3.Connection, **how):
        points = self._points
        path = unquote(urlsplit(str(where)).path)

        class Connection(factory):
            def execute(self, query, *values):
                word = query.split(None, 1)[0].upper()
                if word == "COMMIT" or (word in _CHANGES and not self.in_transaction and not _only_asks(query)):
                    points.step(COMMIT, path)
                return super().execute(query, *values)

            def executescript(self, script):
                points.step(COMMIT, path)
                return super().executescript(script)

        return sqlite3.connect(where, factory=Connection, **how)


def _only_asks(query):
    return query.startswith("PRAGMA") and "=" not in query
