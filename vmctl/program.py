"""Runs a program that vmctl.yaml names: without a shell, for a bounded time. docs/programs.md is what users are told.

It runs in a session of its own. Its process group is killed when its time is over, and also when it has ended: nothing
that it started stays behind, but what went into yet another session, as a daemon does. That one may even keep the
pipes open: they are read as long as the program itself lives, never to their end.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from vmctl.clock import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from vmctl.clock import Deadline

LINE: Final = 200  # characters of a line that are kept
STOPPED: Final = "it was stopped, as vmctl stops"
_KEPT = 4096  # bytes of the beginning and of the end
_CHUNK = 64 * 1024
_LEFT = 64  # reads: more than the pipes hold at once (pipe(7)), and an end where a grandchild goes on printing
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks whether it has ended
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # ECMA-48; 'asterisk -rx' writes them into pipes, too

if sys.version_info < (3, 12):
    # Until 3.12 Python holds its lock over vfork, which ends when the program is loaded: one that lies on a file
    # system that hangs would stop all threads. The manual of subprocess names this switch.
    setattr(subprocess, "_USE_VFORK", False)  # noqa: B010 - final in the eyes of type checkers


class Ended(NamedTuple):
    """How a run ended: `why` it is no success (empty: exit code 0), and the first line that it printed on stdout."""

    why: str
    first: str = ""


def run(
    words: Sequence[str],
    tell: Callable[[Ended], None],
    *,
    config: Path,
    facts: Mapping[str, str],
    deadline: Deadline,
    given: bytes = b"",
) -> None:
    """Run a program, call `tell` once with how it ended, and return when nothing of it is left.

    That may be long after `tell`, or never: a program that waits for a disk that is gone, or runs as another user,
    cannot be killed. One that cannot be started has ended, too. `why` closes with the last line that it printed, on
    stderr or, where there is none, on stdout; for one whose deadline was stopped it is STOPPED.

    It runs in the directory of `config`, finds `given` on its stdin, and each fact, and the path of `config`, as a
    variable `VMCTL_` and its name in capitals.
    """
    try:
        process = _begin(words, config, facts, given)
    except (OSError, ValueError) as error:
        tell(Ended(_not_started(error)))
        return
    with process:  # closes the pipes and waits
        heard = _Heard(pipe for pipe in (process.stdout, process.stderr) if pipe is not None)
        try:
            how = _wait(process.pid, heard, deadline)
        finally:
            # before it is waited for: until then its number, which is the group's, is given to nobody else
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        why = how if how in {"", STOPPED} else ": ".join(filter(None, (how, heard.last)))
        tell(Ended(why, heard.first))


def _begin(words: Sequence[str], config: Path, facts: Mapping[str, str], given: bytes) -> subprocess.Popen[bytes]:
    told = {f"VMCTL_{name.upper()}": value for name, value in facts.items()} | {"VMCTL_CONFIG": str(config)}
    # bytes, because the locale need not have every letter
    names = {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in told.items()}
    with os.fdopen(os.memfd_create("vmctl"), "w+b") as stdin:  # a file: who reads slowly, or nothing, holds nobody up
        stdin.write(given)
        stdin.seek(0)
        return subprocess.Popen(  # noqa: S603 - a list of words that the operator wrote
            words, cwd=config.parent, env={**os.environb, **names}, stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip


def _wait(pid: int, heard: _Heard, deadline: Deadline) -> str:
    """Listen until the program has ended or must end; says why that is no success, in words."""
    step = _SHORTEST
    while True:
        # WNOWAIT: it is not forgotten yet, so that its number stays its own
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            heard.drain()
            return _how(ended)
        if deadline.stopped:
            return STOPPED
        if deadline.over:
            heard.drain()
            return f"it did not end within {duration(deadline.seconds)}"
        step = _SHORTEST if heard.more(step) else min(2 * step, _LONGEST)


def _how(ended: os.waitid_result) -> str:
    if ended.si_code == os.CLD_EXITED:
        return f"exit code {ended.si_status}" if ended.si_status else ""
    try:
        return f"killed by {signal.Signals(ended.si_status).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {ended.si_status}"


def _not_started(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return _line(f"it cannot be run: {error}")
    return _line(": ".join(str(part) for part in ("it cannot be run", error.strerror, error.filename) if part))


class _Heard:
    """What a program has printed so far: how it begins and how it ends."""

    def __init__(self, pipes: Iterable[IO[bytes]]) -> None:
        self._poll = select.poll()
        self._heads: dict[int, bytes] = {}
        self._tails: dict[int, bytes] = {}
        for pipe in pipes:
            self._heads[pipe.fileno()] = self._tails[pipe.fileno()] = b""
            self._poll.register(pipe, select.POLLIN)

    def more(self, seconds: float) -> bool:
        """Read what is there, or what comes first within the time; whether something came, and more may be read."""
        ready = self._poll.poll(seconds * 1000)
        for fd, _ in ready:
            data = os.read(fd, _CHUNK)
            if not data:
                self._poll.unregister(fd)
            self._heads[fd] = (self._heads[fd] + data)[:_KEPT]
            self._tails[fd] = (self._tails[fd] + data)[-_KEPT:]
        return bool(ready)

    def drain(self) -> None:
        """Read what is there."""
        for _ in range(_LEFT):
            if not self.more(0):
                return

    @property
    def first(self) -> str:
        """The first line on stdout."""
        return next(iter(_lines(next(iter(self._heads.values())))), "")

    @property
    def last(self) -> str:
        """The last line that is not blank: stderr's if it has one, else stdout's."""
        return next((line for tail in reversed(self._tails.values()) for line in reversed(_lines(tail)) if line), "")


def _lines(raw: bytes) -> list[str]:
    return [_line(line) for line in raw.decode("utf-8", "replace").splitlines()]


def _line(text: str) -> str:
    """Text in one line of printable characters, cut."""
    plain = "".join(each if each.isprintable() else " " for each in _COLOURS.sub("", text))
    return " ".join(plain.split())[:LINE]
