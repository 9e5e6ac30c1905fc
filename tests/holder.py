"""A process that holds a service as long as it can: `python holder.py SERVER NETWORK TTL MARGIN URL...`.

It prints what it may. Each line: the steady clock's reading before it asked itself, the permit in seconds, the epoch's number.
"""

from __future__ import annotations

import sys
import threading

from vmctl import config
from vmctl.arbiter import Arbiter
from vmctl.clock import Clock
from vmctl.leases import Leases

_TURN = 0.02
_TIMEOUT = 0.6


def main(server: str, network: str, ttl: str, margin: str, *urls: str) -> None:
    """Hold `main` until killed."""
    clock, woken = Clock(), threading.Event()
    arbiter = Arbiter(config.Arbiter(urls, "/vmctl"), network, timeout=_TIMEOUT)
    leases = Leases(arbiter, server, clock, ttl=float(ttl), margin=float(margin), wake=woken.set)
    number = 0
    while True:
        leases.tick({"main": number})
        now = clock.steady()
        permit = leases.permit("main")
        number = max(number, leases.number("main"))
        sys.stdout.write(f"{now:.6f} {permit:.6f} {leases.number('main')}\n")
        sys.stdout.flush()
        woken.wait(_TURN)
        woken.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
