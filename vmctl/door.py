"""The one way in: a mail from the wire, a pipe or a Maildir is unsealed, checked, and put into the spool.

It needs neither the index nor the store's lock, so several may stand at it at once. What lies in the spool was signed by
the peer for this server, or is a report on one of its mails; nothing else gets there.
"""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from vmctl import durable, identity, keys, reports
from vmctl.errors import DiskFull, MailError, MailForged, MailGarbage, StoreUnusable
from vmctl.mail import parse
from vmctl.mail_sealed import unwrap
from vmctl.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.mail import SyncMail

_REPORT = ".report"  # no packet id has a dot
_MOST_REPORTS = 100  # that wait; there are more of them where somebody makes them up
_ADDED = 1 << 20  # bytes that servers on the way may add, besides doubling all of it


class Door:
    """Where the mails of one server that is here come in. For any thread."""

    def __init__(self, config: Config, name: str, clock: Clock) -> None:
        server = config.servers[name]
        assert server.store is not None, "mails come in where a store is"  # noqa: S101
        self._config = config
        self._server = server
        self._peer = config.peer_of(name)
        self._clock = clock
        self._root: Path = server.store
        self._spool = Spool(self._root / identity.DIRECTORY)
        self._key: keys.PrivateKey | None = None

    @property
    def largest(self) -> int:
        """Bytes of the largest mail that is looked at."""
        return 2 * self._config.mail.max + _ADDED

    def take(self, raw: bytes, sender: str | None = None) -> None:
        """Take a mail into the spool; when this returns it is durable. `sender` is the envelope's, where it is known.

        Raises MailError for one that is neither the peer's nor a report, StoreError where it cannot be kept now.
        """
        if len(raw) > self.largest:
            raise MailGarbage("this is not a whole sync mail", why=f"it is longer than {self.largest} bytes")
        if not sender and (sender is not None or reports.is_report(raw)):
            self._take_report(raw)
            return
        content = self._unsealed(raw)
        mail = self.read(content)
        self._check_store()
        self._spool.put(content, mail.packet, self._clock.wall())

    def read(self, content: bytes) -> SyncMail:
        """The mail of the peer that lies in the spool. Raises MailError."""
        identities = self._peer.identities(self._clock.wall())

        def verify(signature: bytes, data: bytes) -> bool:
            return any(keys.verify(identity, signature, data) for identity in identities)

        return parse(content, network=self._config.network, me=self._server.name, peer=self._peer.name, verify=verify)

    def pick_up(self, refused: Callable[[MailError], None]) -> None:
        """Take what a mail server has put into the Maildir. What cannot be taken stays there, in `cur`."""
        if self._server.maildir is None:
            return
        new = self._server.maildir / "new"
        try:
            names = sorted(path.name for path in new.iterdir())
        except OSError as error:
            raise StoreUnusable(
                f"cannot read the Maildir {new}", why=error.strerror or str(error),
                hint="let the user that runs vmctl read and write it, or correct 'maildir' in vmctl.yaml",
            ) from error  # fmt: skip
        for name in names:
            try:
                self.take(_content(new / name, self.largest))
            except MailError as error:
                if not error.retry:
                    refused(error)
                    durable.move(new / name, self._server.maildir / "cur" / f"{name.partition(':')[0]}:2,S")
            else:
                durable.remove(new / name)

    def _take_report(self, raw: bytes) -> None:
        reports.read(raw)
        self._check_store()
        if sum(is_of_report(path) for path in self._spool.waiting()) >= _MOST_REPORTS:
            raise DiskFull("there are too many reports of mail servers that nobody has read yet")
        self._spool.put(raw, secrets.token_hex(8) + _REPORT, self._clock.wall())

    def _check_store(self) -> None:
        identity.read(self._root, self._config.network, self._server.name)

    def _unsealed(self, raw: bytes) -> bytes:
        sealed = unwrap(raw)
        if sealed is None:
            return raw
        if self._key is None:
            assert self._server.key is not None, "the config has a key for every server that is here"  # noqa: S101
            self._key = keys.load_private(self._server.key)
        content = self._key.open(sealed)
        if content is None:
            raise MailForged("a mail came that is sealed for another key, or was altered", why="it cannot be opened")
        return content


def is_of_report(path: Path) -> bool:
    """Whether a file of the spool holds a report."""
    return path.stem.endswith(_REPORT)


def _content(path: Path, largest: int) -> bytes:
    """The bytes of a mail in a Maildir, which anybody may have put there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MailGarbage("a file in the Maildir cannot be read", why=error.strerror or str(error)) from error
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise MailGarbage("something in the Maildir is no file", why=path.name)
        return file.read(largest + 1)
