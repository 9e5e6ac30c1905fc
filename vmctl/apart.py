"""The end of a round in a process of its own, so that two servers on one host have a processor each.

The process is forked before any store is open, has the same `End` as there would be here, and is told each step through
a socket. What it says comes back as it was raised or returned. It ends with the process that forked it, however that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any, Self

from vmctl import errors
from vmctl.end import End
from vmctl.errors import NotInStep, VmctlError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from vmctl.bell import Bell
    from vmctl.clock import Clock
    from vmctl.config import Config

_LENGTH = 8  # bytes before each message
_DONE, _FAILED, _PROGRESS, _ENOUGH = "done", "failed", "progress", "enough"
_STOPS = (signal.SIGINT, signal.SIGUSR1)  # from a terminal; from the one that forked it
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def can_fork() -> bool:
    """Whether a process may be forked here: with threads, what they hold at that moment would be held for ever there."""
    return threading.active_count() == 1


class Apart:
    """An end in another process, from `with` to its end. What a step raises there is raised here."""

    def __init__(self, config: Config, name: str, clock: Clock, progress: Callable[[str, int, int], object]) -> None:
        self.name = name
        self._words = config, name, clock
        self._progress = progress
        self._asked = False
        self._answer: tuple[str, Any] | None = None

    def __enter__(self) -> Self:
        """Fork. Raises OSError where there can be no further process."""
        self._socket, theirs = socket.socketpair()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # until each of the two is ready for it
        try:
            self._process = os.fork()
            if self._process == 0:
                self._socket.close()
                _live(theirs, parent, *self._words)
        except OSError:
            self._socket.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            raise
        finally:
            theirs.close()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        except KeyboardInterrupt:  # it came meanwhile
            self._end(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Have it close, at once where it is in the middle of a step, and wait until it has ended.

        What ended the work here is told rather than what goes wrong then.
        """
        with contextlib.suppress(*(() if kind is None else (Exception,))):
            self._end(at_once=self._asked)

    def _end(self, *, at_once: bool) -> None:
        try:
            if at_once:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process, signal.SIGUSR1)
            else:
                self.do("close")
        finally:
            self._socket.close()
            with contextlib.suppress(ChildProcessError):  # who started this has its children reaped by the system
                os.waitpid(self._process, 0)

    def begin(self, step: str, *words: Any, **how: Any) -> None:
        """Have it begin a step: a method of `End`."""
        self._asked = True
        with contextlib.suppress(ConnectionError):  # who waits for the answer is told
            _send(self._socket, (step, words, how))

    def finish(self) -> Any:
        """Wait for the end of the step, and what came of it."""
        while self._answer is None:
            self._read()
        (kind, value), self._answer = self._answer, None
        self._asked = False
        if kind == _FAILED:
            raise _as_raised(value)
        return value

    def do(self, step: str, *words: Any, **how: Any) -> Any:
        """One step from its begin to its end."""
        self.begin(step, *words, **how)
        return self.finish()

    def enough(self) -> None:
        """What it is to take until this moment has all been sent."""
        with contextlib.suppress(ConnectionError):
            _send(self._socket, _ENOUGH)

    def has_finished(self, bell: Bell) -> bool:
        """Wait until the bell rings or the step has ended; tells whether it has."""
        while self._answer is None:
            said, rings = _first_of(self._socket, bell)
            if said:
                self._read()
            if rings:
                break
        return self._answer is not None

    def _read(self) -> None:
        said = _receive(self._socket)
        if said is None:
            ended = NotInStep(f"the process at work for {self.name} has ended early", hint="run the command again")
            said = _FAILED, _as_told(ended)
        kind, value = said
        if kind == _PROGRESS:
            self._progress(*value)
        else:
            self._answer = kind, value


# In the other process


def _live(asked: socket.socket, parent: int, config: Config, name: str, clock: Clock) -> None:
    """All that the other process ever does."""
    try:
        for number in _STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell has jobs in the background ignore Ctrl-C
                signal.signal(number, _interrupt_once)
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        with End(config, name, clock, lambda *how: _tell(asked, how)) as end:
            while (request := _receive(asked)) is not None:
                if request != _ENOUGH:  # else it comes late, for a step that has failed
                    _send(asked, _answer(asked, end, *request))
    except (KeyboardInterrupt, ConnectionError):
        pass
    except Exception:  # noqa: BLE001 - whatever it is, nobody waits for it any more
        traceback.print_exc()
    finally:
        os._exit(0)


def _answer(asked: socket.socket, end: End, step: str, words: tuple[Any, ...], how: dict[str, Any]) -> tuple[str, Any]:
    if step in {End.scan.__name__, End.take_until.__name__}:
        how |= {"over": lambda bell: _is_enough(asked, bell)}
    try:
        return _DONE, end.do(step, *words, **how)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where somebody waits for the step
        return _FAILED, _as_told(error)


def _is_enough(asked: socket.socket, bell: Bell) -> bool:
    said, _ = _first_of(asked, bell)
    if said:
        _receive(asked)
    return said


def _interrupt_once(_by: int, _frame: FrameType | None) -> None:
    """A terminal interrupts both processes, and then the first one interrupts this: the way out is gone only once."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Have Linux end this process when its parent is killed; elsewhere it ends with its step."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it was killed a moment ago
        os._exit(0)


def _first_of(source: socket.socket, bell: Bell) -> tuple[bool, bool]:
    """Wait for what comes first; whether something is said, and whether it rings."""
    poll = select.poll()
    for fd in (source.fileno(), bell.fileno()):
        poll.register(fd, select.POLLIN)
    ready = dict(poll.poll())
    return source.fileno() in ready, bell.fileno() in ready


# What is said: a length, and JSON


def _send(to: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    to.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def _tell(to: socket.socket, progress: tuple[str, int, int]) -> None:
    """Say how far it is, unless nobody has listened for long: who scans listens later."""
    poll = select.poll()
    poll.register(to.fileno(), select.POLLOUT)
    if poll.poll(0):
        _send(to, (_PROGRESS, progress))


def _receive(source: socket.socket) -> Any:
    """What is said next; None where nobody is there any more."""
    with contextlib.suppress(ConnectionError):
        head = source.recv(_LENGTH, socket.MSG_WAITALL)
        size = int.from_bytes(head, "big")
        data = source.recv(size, socket.MSG_WAITALL) if len(head) == _LENGTH else b""
        if data and len(data) == size:
            return json.loads(data)
    return None


def _as_told(error: Exception) -> tuple[str, dict[str, Any]]:
    """An error by the name of its class, and all that it holds."""
    if isinstance(error, VmctlError):
        return type(error).__name__, vars(error)
    return "", {"what": "".join(traceback.format_exception(error))}


def _as_raised(told: list[Any]) -> Exception:
    """The error that was told: what has no name of ours is a fault of vmctl, and has its traceback as its words."""
    name, holds = told
    if not name:
        return RuntimeError(holds["what"])
    kind: type[VmctlError] = getattr(errors, name)
    error = kind.__new__(kind, holds["what"])
    vars(error).update(holds)
    return error
