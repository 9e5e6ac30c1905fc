"""Writes one sync mail: what it brings, and what every mail says of its sender besides; signed, and ready to leave."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl.errors import JournalError
from vmctl.mail import SyncMail, compose, describe
from vmctl.model import canonical
from vmctl.overruled import overwritten
from vmctl.rollback import Rollback

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.contact import Contact
    from vmctl.index import Index
    from vmctl.journal import Journal
    from vmctl.keys import PrivateKey
    from vmctl.packing import Load


class Written(NamedTuple):
    """A mail: its bytes, the id of what it brings, its subject, and its Message-ID."""

    raw: bytes
    packet: str
    subject: str
    message_id: str


class Writer:
    """Writes the mails of one server."""

    def __init__(
        self, config: Config, server: str, index: Index, contact: Contact, journal: Journal, clock: Clock
    ) -> None:
        self._config = config
        self._me = config.servers[server]
        self._peer = config.peer_of(server)
        self._index = index
        self._contact = contact
        self._journal = journal
        self._clock = clock
        self._rollback = Rollback(index)
        self._key: PrivateKey | None = None

    def status(self) -> dict[str, Any]:
        """What the peer needs to know to tell whether both are in step.

        `settled` and `pending` count everything that the peer has not acknowledged; `passed` and `parked` tell how much
        of it will come by itself.
        """
        last, pending = self._index.last_number, self._index.pending_count()
        owed, oldest = self._index.shelf.owed()
        number = overwritten(self._index, self._clock.wall())
        return {
            "last": last,
            "settled": self._index.settled,
            "passed": last if oldest is None else oldest - 1,
            "pending": pending,
            "parked": pending - owed,
            "todo": self._index.unwritten(),
            "digest": self._index.digest,
            "journal_seen": self._index.note("peer_journal"),
            **({} if number is None else {"overwritten": number}),
            **({"relayed": True} if self._config.relayed(self._me.name) else {}),
        }

    def write(self, load: Load, facts: dict[str, Any], request: dict[str, Any]) -> Written:
        """A mail. Its checkpoint is durable when this returns."""
        incarnation = self._index.meta("incarnation")
        with self._index.transaction():
            checkpoint = self._rollback.next_checkpoint(self._clock.wall(), secrets.token_hex(8))
            mail = SyncMail(
                packet=_packet(load, incarnation),
                network=self._config.network,
                sender=self._me.name,
                recipient=self._peer.name,
                sent=self._clock.wall(),
                incarnation=incarnation,
                peer_incarnation=self._index.meta("peer_incarnation") or None,
                checkpoint=checkpoint,
                echo_checkpoint=self._rollback.to_echo(),
                challenge=self._contact.challenge(),
                echo=self._contact.echo(),
                config=self._config.digest,
                journal=self._journal_end(),
                records=load.records,
                status=self.status() | facts,
                request=request,
                audio=load.audio,
            )
        key = self._private_key()
        subject, summary = describe(mail)
        message_id = f"<{secrets.token_hex(16)}@{self._me.mail.rpartition('@')[2]}>"
        raw = compose(
            mail,
            sender_address=self._me.mail,
            recipient_address=self._peer.mail,
            message_id=message_id,
            sign=lambda data: key.signatures(data, former=self._former_counts(key)),
            summary=summary,
            subject=subject,
            binary=True,
            records=load.texts,
        )
        return Written(raw, mail.packet, subject, message_id)

    def _former_counts(self, key: PrivateKey) -> bool:
        """Whether the former key is to sign, too: for its time, and where vmctl.yaml still names it as the present one."""
        cut_off = key.former is not None and key.former.identity == self._me.public_key
        return cut_off or self._clock.wall() < self._me.former_until

    def _journal_end(self) -> tuple[int, str] | None:
        try:
            return self._journal.length_and_hash()
        except JournalError:
            return None  # stores are kept in step whatever the journal of the roles looks like

    def _private_key(self) -> PrivateKey:
        if self._key is None:
            from vmctl import keys

            assert self._me.key is not None  # noqa: S101 - the config has a key for every server that is here
            self._key = keys.load_private(self._me.key)
        return self._key


def _packet(load: Load, incarnation: str) -> str:
    """The id of what a mail brings: the same when the same is sent again, random where it brings nothing."""
    if not load:
        return secrets.token_hex(12)
    brings = [incarnation, sorted(load.versions.items()), [list(piece) for piece in load.pieces]]
    return hashlib.sha256(canonical(brings)).hexdigest()[:24]
