"""What a target of the fuzzers is, and the bounds that hold for every input of every target.

A target is given bytes and looks whether the product bears them. What it expects to be refused it catches itself, by
name: whatever comes out of it is a finding.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random
    from types import FrameType

SECONDS = 5.0  # of processor time for one input: far above what any needs, so a busy machine is no finding
MEMORY = 256 * 1024  # KiB by which one input may raise what the process has ever held


class Hang(BaseException):
    """An input took more processor time than it may; no `except Exception` of the product catches it."""


class Glutton(AssertionError):
    """An input took more memory than it may."""


class Finding(NamedTuple):
    """What an input did: a name that is the same for the same fault, and the whole story."""

    name: str
    story: str


@dataclass(frozen=True)
class Target:
    """One entrance of the product.

    `seeds` are good inputs as the product itself makes them, `mutate` makes another input of one, `tokens` are what
    this entrance has an ear for. No input is longer than `longest` bytes.
    """

    name: str
    words: str
    run: Callable[[bytes], None]
    make_seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Random, int], bytes]
    tokens: tuple[bytes, ...] = ()
    longest: int = 1 << 15

    @cached_property
    def seeds(self) -> list[bytes]:
        """The good inputs."""
        return self.make_seeds()

    def judge(self, data: bytes) -> Finding | None:
        """Give the target an input; what it did that it should not."""
        try:
            with bounded():
                self.run(data)
        except (Exception, Hang) as error:  # noqa: BLE001 - whatever comes out is the finding
            return Finding(_name(error), "".join(traceback.format_exception(error)))
        return None


@contextlib.contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Raise Hang or Glutton where what runs here goes on for too long, or takes too much. For the main thread."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    over = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal over
        over = True
        raise Hang

    former = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)  # again, where somebody took the first one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)
    if over:  # a task of asyncio keeps what it raised to itself
        raise Hang
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > memory:
        raise Glutton(f"it took {grown // 1024} MiB")


def _name(error: BaseException) -> str:
    """The error's class and the place in the product, or in the target, where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/vmctl/" in frame.filename and "/tests/" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__}-{Path(last.filename).stem}-{last.name.strip('<>')}"
