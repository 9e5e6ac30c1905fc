"""How long to wait before something is tried again."""

from __future__ import annotations

import secrets

_SPREAD = 0.25  # the share of the wait that is left to chance
_STEPS = 1 << 20


def backoff(first: float, tries: int, longest: float) -> float:
    """Seconds to wait after so many tries (1 and up): twice as long each time, from `first` to `longest`.

    Up to a quarter of it is taken off by chance, so that two servers do not knock in step.
    """
    whole = min(longest, first * 2.0 ** min(tries - 1, 60))
    return whole * (1 - _SPREAD * secrets.randbelow(_STEPS) / _STEPS)
