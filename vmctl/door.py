"""The one way in: a mail from the wire, a pipe or a Maildir is unsealed, checked, and put into the spool.

It needs neither the index nor the store's lock, so several may stand at it at once. What lies in the spool was signed by
the peer for this server, or is a report on one of its mails; nothing else gets there.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import threading
from typing import TYPE_CHECKING

from vmctl import durable, identity, keys, reports
from vmctl.errors import MailError, MailForged, MailGarbage, SpoolFull, StoreError, StoreUnusable
from vmctl.mail import parse
from vmctl.mail_sealed import unwrap
from vmctl.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmctl.clock import Clock, Deadline
    from vmctl.config import Config
    from vmctl.mail import SyncMail

_REPORT = ".report"  # no packet id has a dot
log = logging.getLogger("vmctl.door")

_LATER = 60.0  # seconds until a mail in the Maildir that cannot be taken now is looked at again
_MOST_REPORTS = 100  # that wait; there are more of them where somebody makes them up
_MOST_AT_HAND, _RECORD = 16_000_000, 8000  # bytes of mails; and of a record, when it was read, besides
_ADDED = 1 << 20  # bytes that servers on the way may add, besides doubling all of it


class _AtHand:
    """The mails that came last, as they were read: most are taken a moment later, and need not be read again."""

    def __init__(self) -> None:
        self._mails: dict[Path, tuple[SyncMail, int]] = {}
        self._lock = threading.Lock()
        self._size = 0

    def put(self, path: Path, mail: SyncMail, size: int) -> None:
        """Keep a mail that takes so many bytes, while there is room."""
        with self._lock:
            if self._size + size <= _MOST_AT_HAND:
                self._mails[path] = mail, size
                self._size += size

    def take(self, path: Path) -> SyncMail | None:
        """A mail that was kept, which is kept no longer. What waits in front of it was taken by somebody else."""
        with self._lock:
            mail, _ = self._mails.pop(path, (None, 0))
            self._mails = {one: kept for one, kept in self._mails.items() if one > path}
            self._size = sum(size for _, size in self._mails.values())
            return mail


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
        self._later: dict[str, float] = {}
        self._at_hand = _AtHand()

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
        if not self._spool.holds(content, mail.packet):
            path = self._spool.put(content, mail.packet, self._clock.wall())
            self._at_hand.put(path, mail, len(content) + _RECORD * len(mail.records))

    def waiting(self, path: Path) -> SyncMail:
        """A mail that waits in the spool: as it was read when it came, where that is still at hand. Raises as `read` does."""
        return self._at_hand.take(path) or self.read(self._spool.read(path))

    def read(self, content: bytes) -> SyncMail:
        """The mail of the peer that lies in the spool. Raises MailError."""
        identities = self._peer.identities(self._clock.wall())

        def verify(signature: bytes, data: bytes) -> bool:
            return any(keys.verify(identity, signature, data) for identity in identities)

        return parse(content, network=self._config.network, me=self._server.name, peer=self._peer.name, verify=verify)

    def pick_up(self, refused: Callable[[MailError], None], deadline: Deadline | None) -> bool:
        """Take what a mail server has put into the Maildir, until the deadline; tells whether there is more.

        What can never be taken is `refused` and stays there, in `cur`. What cannot be taken now is looked at again later,
        and keeps nothing behind it. Raises StoreUnusable where nothing can be read there.
        """
        if self._server.maildir is None:
            return False
        now = self._clock.steady()
        waiting = [path for path in _new_mails(self._server.maildir) if self._later.get(path.name, 0.0) <= now]
        for count, path in enumerate(waiting):
            if count and deadline is not None and deadline.over:
                return True
            if not self._pick_up_one(path, refused):
                self._later[path.name] = now + _LATER
        self._later = {name: when for name, when in self._later.items() if when > now}
        return False

    def _pick_up_one(self, path: Path, refused: Callable[[MailError], None]) -> bool:
        """Take one mail out of the Maildir; tells whether it is done with."""
        try:
            raw = _content(path, self.largest)
            if raw is not None:
                self.take(raw)
                durable.remove(path)
        except MailError as error:
            refused(error)
            return not error.retry and self._set_aside(path)
        except StoreError as error:  # of this host, not of the mail
            log.warning("the mail %s is left for later: %s", path, error.words)
            return False
        return True

    @staticmethod
    def _set_aside(path: Path) -> bool:
        """Move a mail that can never be taken to `cur`; tells whether that could be done."""
        try:
            durable.move(path, path.parent.parent / "cur" / f"{path.name.partition(':')[0]}:2,S")
        except StoreError as error:  # it must keep nothing behind it
            log.warning("the mail %s cannot be set aside: %s", path, error.words)
            return False
        return True

    def _take_report(self, raw: bytes) -> None:
        report = reports.read(raw)
        self._check_store()
        if sum(is_of_report(path) for path in self._spool.waiting()) >= _MOST_REPORTS:
            raise SpoolFull(f"{_MOST_REPORTS} reports of mail servers wait to be read")
        self._spool.put(reports.written(report), secrets.token_hex(8) + _REPORT, self._clock.wall())

    def _check_store(self) -> None:
        identity.read(self._root, self._config.network, self._server.name)

    def _unsealed(self, raw: bytes) -> bytes:
        sealed = unwrap(raw)
        if sealed is None:
            return raw
        assert self._server.key is not None, "the config has a key for every server that is here"  # noqa: S101
        if self._key is None:
            self._key = keys.load_private(self._server.key)
        content = self._key.open(sealed)
        if content is None:  # a running process may not have heard of new keys
            self._key = keys.load_private(self._server.key)
            content = self._key.open(sealed)
        if content is None:
            raise MailForged("a mail came that is sealed for another key, or was altered", why="it cannot be opened")
        return content


def is_of_report(path: Path) -> bool:
    """Whether a file of the spool holds a report."""
    return path.stem.endswith(_REPORT)


def _new_mails(maildir: Path) -> list[Path]:
    """The files in `new`, in the order of their names; none where no mail has come yet. Raises StoreUnusable."""
    try:
        return sorted((maildir / "new").iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreUnusable(
            f"cannot read the Maildir {maildir}", why=error.strerror or str(error),
            hint="let the user that runs vmctl read and write it, or correct 'maildir' in vmctl.yaml",
        ) from error  # fmt: skip


def _content(path: Path, largest: int) -> bytes | None:
    """The bytes of a mail in a Maildir, where anybody may have put anything; None where it is gone.

    Raises MailGarbage for what is no file, StoreUnusable where it cannot be read now.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise _no_file(path) from error
        raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _no_file(path)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(largest + 1)
    except OSError as error:
        raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error
    finally:
        os.close(fd)


def _no_file(path: Path) -> MailGarbage:
    return MailGarbage("something in the Maildir is no file", why=path.name)
