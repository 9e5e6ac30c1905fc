"""What lies between two servers on loopback: the way that mails take to each of them, and the gateway of each.

A way can be cut (connections are reset), or be a hole (connections are taken, and no byte gets through; what was under
way comes late). A gateway is reached, or is not: its queue is full.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading

_LOOK = 50  # milliseconds
_QUEUE = 8  # connections that fill the queue of a gateway: it has room for one
_LONGEST = 20_000  # milliseconds until the kernel has let the first of them in


class Way:
    """A TCP proxy at `address`, before the receiver that listens at `to`."""

    def __init__(self, to: tuple[str, int], at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._to = to
        self._whole = True
        self._flows = threading.Event()
        self._flows.set()
        self._ends: set[socket.socket] = set()
        self._socket = socket.create_server(at)
        self.address: tuple[str, int] = self._socket.getsockname()
        self._run(self._accept)

    def open(self) -> None:
        """Everything gets through, also what a hole has kept."""
        self._whole = True
        self._flows.set()

    def cut(self) -> None:
        """Connections end, and new ones do so at once."""
        self._whole = False
        self._flows.set()
        self._reset()

    def hole(self) -> None:
        """No byte gets through, and nobody is told."""
        self._flows.clear()

    def close(self) -> None:
        """End it."""
        self.cut()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self, work: object, *args: object) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                self._run(self._join, near)

    def _join(self, near: socket.socket) -> None:
        self._ends.add(near)
        self._flows.wait()
        far = None
        with contextlib.suppress(OSError):
            if self._whole:
                far = socket.create_connection(self._to)
        if far is None:
            self._end(near)
            return
        self._ends.add(far)
        self._run(self._carry, near, far)
        self._carry(far, near)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        self._flows.wait()
        self._end(source)
        self._end(sink)

    def _reset(self) -> None:
        for end in list(self._ends):
            self._end(end)

    def _end(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes who waits for it in another thread
        end.close()
        self._ends.discard(end)


class Gateway:
    """A place in a server's own network at `address`."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._queue: list[socket.socket] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.address: tuple[str, int] = self._socket.getsockname()
        self.up()

    def up(self) -> None:
        """It takes connections."""
        for sock in self._queue:
            sock.close()
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._accept, daemon=True)
            self._thread.start()

    def down(self) -> None:
        """It answers nobody: its queue is full, and nobody looks at it."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._queue = [socket.socket() for _ in range(_QUEUE)]
        for sock in self._queue:
            sock.setblocking(False)
            sock.connect_ex(self.address)
        assert self._ready(_LONGEST)

    def close(self) -> None:
        """End it."""
        self.up()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _ready(self, within: int) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(within))

    def _accept(self) -> None:
        while not self._stop.is_set():
            if self._ready(_LOOK):
                self._socket.accept()[0].close()
