"""What a service that is not in normal operation waits for, in words, and for how long where that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmctl.clock import duration
from vmctl.view import FAILBACK, MODE, ORDER

if TYPE_CHECKING:
    from vmctl.evidence import Situation


COUNT: Final = "the count of calls in progress"


def waiting(s: Situation) -> tuple[str, ...]:
    """What the service waits for at this server; nothing in normal operation."""
    if s.view.state == "starting":
        return _at_start(s)
    if not s.serving:
        return _aside(s)
    if s.seen.order == "failover" and s.view.state == "normal":
        lacks = s.seen.waiting_gate or ("the other server to hold everything",)
        left = _left(s.policy.drain, s.seen.ordered_for)
        return (*lacks, f"which the ordered handover awaits for another {left} before it is called off")
    if s.view.state == "normal":
        return _unwell(s)
    if s.view.state == "resilience":
        return _in_resilience(s)
    return _to_go_home(s)


def _at_start(s: Situation) -> tuple[str, ...]:
    if s.said is not None:
        return _at_start_together(s)
    if not s.may and s.claimed_by_me and s.waited:
        return _permit(s)
    answer = f"an answer from {s.seen.peer}"
    if s.seen.heard:
        answer = f"{s.seen.peer} to name this service: compare vmctl.yaml on both servers"
    if s.claimed_by_me:
        return (f"{answer}; without one {s.seen.me} serves in {_left(s.policy.start_wait, s.seen.started_for)}",)
    if s.policy.automatic or s.seen.cut_off or (s.at_home and s.claim is None):
        limit = s.policy.start_wait + s.policy.after
        return _or_held(s, f"{answer}; without one {s.seen.me} serves in {_left(limit, s.seen.started_for)}", answer)
    return (f"{answer}, or a person's 'vmctl {'failback' if s.at_home else 'failover'}' on {s.seen.me}",)


def _at_start_together(s: Situation) -> tuple[str, ...]:
    """What a server waits for that starts and hears the other one."""
    if s.peer_serves:
        return (f"{s.seen.peer} to confirm that it serves, at an epoch newer than the one known here",)
    if not _mine_to_take(s):
        return (f"{s.seen.peer} to take the service, as it was the last to serve or is the home",)
    return _permit(s)


def _mine_to_take(s: Situation) -> bool:
    return s.claimed_by_me or (s.claim is None and s.at_home)


def _aside(s: Situation) -> tuple[str, ...]:
    """What a server waits for that knows that the other one serves."""
    if s.seen.heard:
        if s.peer_newer and s.said is not None and s.said.serving == s.seen.me and not s.may:
            return _permit(s)
        return () if s.view.state == "normal" else _away(s)
    order = "failback" if s.at_home else "failover"
    if s.policy.automatic or s.seen.cut_off:
        taking = f"{s.seen.peer} to be heard; {s.seen.me} takes the service in {_left(s.policy.after, s.quiet_for)}"
        return _or_held(s, taking, f"{s.seen.peer} to be heard")
    return (f"{s.seen.peer} to be heard, or a person's 'vmctl {order}' on {s.seen.me}",)


def _away(s: Situation) -> tuple[str, ...]:
    """What the home waits for that is well, and does not serve: it may be a person."""
    if s.view.state == "resilience" and s.view.cause == ORDER and s.seen.order is None:
        return (f"a person's 'vmctl failback', as a person ordered it to {s.view.serving}",)
    held = s.seen.paused and s.view.cause not in {FAILBACK, MODE}
    return (f"{s.view.serving} to give the service back", *(("a person's 'vmctl resume'",) if held else ()))


def _or_held(s: Situation, taking: str, heard: str) -> tuple[str, ...]:
    """What this server will do by itself, or what keeps it from that."""
    if s.takes_over or (s.view.state == "starting" and s.at_home and s.claim is None and s.may):
        return (taking,)
    if s.seen.unfit:
        return (f"{heard}, or for {s.seen.me} to be fit: {s.seen.unfit}",)
    if s.seen.cut_off:
        return (f"{heard}; {s.seen.me} takes nothing over, as it is cut off itself",)
    if not s.free:
        return (heard, *_idle(s))
    return (heard, *_permit(s))


def _permit(s: Situation) -> tuple[str, ...]:
    return () if s.may else (f"the arbiter's lease, or {s.seen.peer}'s promise to take nothing",)


def _idle(s: Situation, *, home: bool = False) -> tuple[str, ...]:
    """Why nothing moves by itself."""
    if s.seen.paused:
        return ("a person's 'vmctl resume'",)
    if not (s.free_to_return if home else s.free):
        return (f"an hour without {s.seen.moves} moves, or a person's order, as the service moved too often",)
    return ()


def _unwell(s: Situation) -> tuple[str, ...]:
    if s.fit:
        return ()
    if not s.seen.peer_fit or not s.seen.heard:
        return (f"a server that is fit, as {s.seen.unfit}",)
    return _idle(s)


def _in_resilience(s: Situation) -> tuple[str, ...]:
    if s.view.cause == ORDER:
        return ("a person's 'vmctl failback', as a person ordered it here", *_unwell(s))
    if not s.returned:
        return (f"{s.view.home} to be heard again",)
    if not s.seen.peer_fit:
        return _unfit_home(s)
    return _idle(s)


def _unfit_home(s: Situation) -> tuple[str, ...]:
    mute = s.said is None and s.seen.waiting_gate  # it says nothing of this service
    return mute or (f"{s.view.home} to be fit to serve again",)


def _to_go_home(s: Situation) -> tuple[str, ...]:
    if not s.seen.heard:
        return (f"{s.view.home} to be heard again",)
    words = () if s.gate else s.seen.waiting_gate
    if not s.seen.peer_fit:
        words = _unfit_home(s)
    elif not s.gate and not words:
        words = (f"synchronization to be {s.policy.gate}",)
    if s.view.cause in {FAILBACK, MODE}:
        return words
    if s.policy.failback == "manual":
        return (*words, "a person's 'vmctl failback'")
    if s.seen.in_state_for < s.policy.hold:
        words = (*words, f"the hold-down, for another {_left(s.policy.hold, s.seen.in_state_for)}")
    if not s.calm:
        count = COUNT if s.seen.calls is None else f"{s.seen.calls} calls in progress to end"
        words = (*words, count)
    if s.policy.failback == "automatic" and not (s.gate and s.calm):
        words = (*words, f"or for failback.timeout, in {_left(s.policy.timeout, s.seen.in_state_for)}")
    return (*words, *_idle(s, home=True))


def _left(limit: float, passed: float) -> str:
    return duration(max(0.0, limit - passed))
