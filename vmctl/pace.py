"""How fast each address may do what costs us much: so many at once, and then so many a second (a token bucket)."""

from __future__ import annotations

import ipaddress
from typing import Final

BURST: Final = 50.0
A_SECOND: Final = 5.0
_MOST: Final = 4096  # addresses that are remembered; a network of IPv6 counts as one


class Pace:
    """What the addresses have left; those that have all of it are forgotten."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # by address: what it had left, and when

    def allows(self, address: str, now: float) -> bool:
        """Whether an address may do it once more, at a steady time; one of this host always may."""
        whose = _network(address)
        if whose is None:
            return True
        left, before = self._left.pop(whose, (BURST, now))
        left = min(BURST, left + (now - before) * A_SECOND)
        if len(self._left) >= _MOST:
            del self._left[next(iter(self._left))]  # the one that did nothing for the longest time
        self._left[whose] = max(0.0, left - 1.0), now
        return left >= 1.0


def _network(address: str) -> str | None:
    """The address, or the network of 64 bits that an IPv6 address is one of; None for loopback and what is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return _network(str(parsed.ipv4_mapped))
        return None if parsed.is_loopback else str(ipaddress.ip_network((parsed, 64), strict=False))
    return None if parsed.is_loopback else str(parsed)
