"""Whether anything answers at an address, told by the beginning of a TCP connection."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

from vmctl.clock import duration

if TYPE_CHECKING:
    from vmctl.clock import Deadline
    from vmctl.config_values import Address

# A refusal is the answer of a host that is there: an RST (RFC 9293, 3.10.7.1) or a port unreachable (RFC 1122, 3.2.2.1).
_ANSWERS = frozenset({0, errno.ECONNREFUSED, errno.ECONNRESET})
_STEP = 50  # milliseconds between two looks at the deadline


def reach(address: Address, deadline: Deadline) -> str:
    """Why nothing answered at the address until the deadline; empty where something did, or refused.

    All addresses of a name are tried side by side. Finding them has no bound but the resolver's own.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"its name is not found: {error.strerror}"
    except UnicodeError:
        return "its name is none"
    with contextlib.ExitStack() as stack:
        codes: list[int] = []
        trying: dict[int, socket.socket] = {}
        for family, kind, protocol, _, where in found:
            try:
                sock = stack.enter_context(socket.socket(family, kind, protocol))
            except OSError as error:  # no IPv6 here, say
                codes.append(error.errno or errno.EAFNOSUPPORT)
                continue
            sock.setblocking(False)
            codes.append(sock.connect_ex(where))
            if codes[-1] == errno.EINPROGRESS:
                trying[sock.fileno()] = sock
        if not _ANSWERS.intersection(codes):
            codes = _listen(trying, deadline) if trying else codes
    if _ANSWERS.intersection(codes):
        return ""
    return os.strerror(codes[0]) if codes else f"no answer within {duration(deadline.seconds)}"


def _listen(trying: dict[int, socket.socket], deadline: Deadline) -> list[int]:
    """What became of the connections, up to the first answer; nothing while one is still open at the deadline."""
    poll = select.poll()
    for sock in trying.values():
        poll.register(sock, select.POLLOUT)
    codes: list[int] = []
    while trying:
        for fd, _ in poll.poll(_STEP):
            codes.append(trying.pop(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            poll.unregister(fd)
        if _ANSWERS.intersection(codes):
            break
        if deadline.over:  # after the look: this process may have stood still meanwhile
            return []
    return codes
