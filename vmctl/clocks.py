"""Whether this server's clock can be trusted to tell how old something is: it is compared with what does not jump.

Within one boot that is CLOCK_BOOTTIME; over a reboot it is the peer's clock. What a wrong clock would delete for its
age waits until both agree again, or a person says that the clock is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from vmctl.clock import duration

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.index import Index

_FAULT: Final = "vmctl:clock"
_OFF_FOR_LONG: Final = 14 * 86_400.0  # seconds: a server that was off for longer needs the peer's word for the time


class Reading(NamedTuple):
    """Both clocks at one moment: wall in microseconds, steady in seconds since that boot."""

    wall: int
    steady: float
    boot: str

    @classmethod
    def now(cls, clock: Clock) -> Self:
        """The clocks at this moment."""
        return cls(clock.wall(), clock.steady(), clock.boot())

    @classmethod
    def of_note(cls, note: Any) -> Self | None:
        """The reading that was noted as a list, None where there is none."""
        match note:
            case [int(wall), float(steady) | int(steady), str(boot)]:
                return cls(wall, float(steady), boot)
            case _:
                return None


def why_untrusted(
    last: Reading | None, now: Reading, *, limit: float, skew: float | None, witnessed: bool
) -> str | None:
    """Why nothing may be deleted for its age, in words; None where the clock can be trusted.

    `last` is the reading of the last run. `skew` is how far the peer's clock is off this one, in seconds, None where
    that is unknown; `witnessed` says that the peer runs on a clock of its own and was heard just now. `limit` is
    `clock.skew` in seconds.
    """
    if skew is not None and abs(skew) > limit:
        return f"the peer's clock is {words(skew)} this one's"
    if last is None or (witnessed and skew is not None):
        return None
    gone = (now.wall - last.wall) / 1_000_000
    if last.boot == now.boot:
        moved = gone - (now.steady - last.steady)
        return f"the clock was set {words(moved, past=True)} since the last run" if abs(moved) > limit else None
    if gone < -limit:
        return f"the clock is {duration(-gone)} before the last run, which was before a reboot"
    if gone > _OFF_FOR_LONG:
        return f"the last run was {duration(gone)} ago, before a reboot, and nobody confirms the time"
    return None


def watch(index: Index, skew: float | None, *, limit: float, peer: str, at: int) -> str | None:
    """Name the fault when the peer's clock is off by more than `limit` seconds; tells in words what is new.

    Call inside a transaction of the index; `at` is the wall time in microseconds.
    """
    off = skew is not None and abs(skew) > limit
    if skew is None or off == bool(index.note("skewed")):
        return None
    index.set_note("skewed", off)
    if not off:
        index.faults.drop(_FAULT)
        return f"the clock of {peer} is right again"
    why = f"the clock of {peer} is {words(skew)} this server's: nothing is deleted for its age"
    index.faults.set(_FAULT, why, "set the clock that is wrong; nothing is lost by it", at)
    return f"the clock of {peer} is off"


def words(seconds: float, *, past: bool = False) -> str:
    """How far a clock is off: `3 h ahead of`, `5 min behind`; for one that was set: `3 h forward`, `5 min back`."""
    ahead, behind = ("forward", "back") if past else ("ahead of", "behind")
    return f"{duration(abs(seconds))} {ahead if seconds > 0 else behind}"
