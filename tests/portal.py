"""A web server on loopback that is told of transitions, and a script that is."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path


class Post(NamedTuple):
    """One post as it came, and what was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    answer: int

    @property
    def document(self) -> dict[str, Any]:
        """What it tells."""
        value: dict[str, Any] = json.loads(self.body)
        return value


class Portal:
    """It answers every post with `answer`, and keeps it."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answer = 204
        self.location: str | None = None
        self.posts: list[Post] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/vmctl"

    @property
    def told(self) -> list[dict[str, Any]]:
        """The documents that it took, in order."""
        return [post.document for post in self.posts if post.answer < 300]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        portal = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = portal.answer
                portal.posts.append(Post(self.path, dict(self.headers), body, answer))
                self.send_response(answer)
                if portal.location:
                    self.send_header("Location", portal.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - for a redirect that is followed

            def log_message(self, *_words: object) -> None:
                pass

        return Handler

    @contextlib.contextmanager
    def open(self) -> Iterator[Portal]:
        """It answers meanwhile."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def script(path: Path, *lines: str) -> Path:
    """A program of the shell."""
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def noting(path: Path, *more: str) -> list[str]:
    """The command of a hook that writes what it is told into `path`.log, a line each: hook, service, state and id."""
    line = f'echo "$VMCTL_HOOK $VMCTL_SERVICE $VMCTL_STATE $VMCTL_ID" >> {path}.log'
    return [str(script(path.with_name(f"{path.name}-{secrets.token_hex(4)}"), line, *more))]


def noted(path: Path) -> list[list[str]]:
    """The words of each line that such a hook wrote."""
    log = path.with_name(f"{path.name}.log")
    return [line.split(" ") for line in log.read_text().splitlines()] if log.exists() else []
