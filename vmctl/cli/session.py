"""What every command shares: the options --config, --server and --json, and what is opened for them when it is needed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Self

import typer

from vmctl.cli.output import note
from vmctl.errors import ServerUnclear, StoreMissing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmctl.access import Access
    from vmctl.config import Config
    from vmctl.desk import Desk
    from vmctl.desk_mailboxes import MailboxDesk
    from vmctl.index import Index
    from vmctl.replica import Replica
    from vmctl.store.native import NativeStore
    from vmctl.undo import Undo

SERVER_VARIABLE = "VMCTL_SERVER"

# For the front ends of users; on reading commands it changes nothing, so that they can give it with all of them.
User = Annotated[
    bool,
    typer.Option("--user", help="For the mailbox's user: refused on a server that does not serve the mailbox now."),
]
Reader = Annotated[bool, typer.Option("--user", help="For the mailbox's user; reading is refused nowhere.")]


@dataclass
class Session:
    """One command's surroundings. Nothing is read before it is asked for."""

    config_path: Path | None = None
    server_name: str | None = None
    json: bool = False

    @classmethod
    def of(cls, context: typer.Context) -> Self:
        """The session of a running command: one for all its levels, so that the end of every error knows it too."""
        return context.find_root().ensure_object(cls)

    @cached_property
    def config(self) -> Config:
        """The network's vmctl.yaml. Raises ConfigMissing, ConfigFaults."""
        from vmctl import config

        return config.load(config.find(self.config_path, os.environ))

    @property
    def named_server(self) -> str | None:
        """The server that --server or VMCTL_SERVER names; None where neither is given."""
        return self.server_name or self._server_of_environment()

    @cached_property
    def server(self) -> str:
        """The server that the command is about; its store is on this host. Raises ServerUnclear, StoreMissing."""
        here = [server.name for server in self.config.here()]
        name = self.named_server
        if name is None and len(here) == 1:
            return here[0]
        if name is None:
            raise ServerUnclear(
                "it is not said which server is meant", why=f"the stores of {' and '.join(here)} are on this host"
            )
        if name not in here:
            raise StoreMissing(
                f"the store of {name} is not on this host",
                why=f"{self.config.path} names no store for it",
                hint=f"run it where {name} is, or say --server {here[0]}",
            )
        return name

    @cached_property
    def store(self) -> NativeStore:
        """The server's store, for reading: no index is needed. Raises StoreMissing, StoreForeign, ..."""
        from vmctl import identity
        from vmctl.store.native import NativeStore

        root = self.config.servers[self.server].store
        assert root is not None, "`server` is one that is here"  # noqa: S101 - for the type checker
        identity.read(root, self.config.network, self.server)
        return NativeStore(root, self.config.audio.formats, self.config.limits.document)

    @contextlib.contextmanager
    def index(self) -> Iterator[Index | None]:
        """The server's index, for reading; None in a store that never had one. Works on a full or read-only disk, too.

        Raises IndexDamaged where it is gone: that nothing is known must not read as if nothing had been there.
        """
        from vmctl.journal import Journal
        from vmctl.rejoin import to_read

        index = to_read(self.store.state / "index.db", Journal(self.store.state / "journal.jsonl"), self.server)
        if index is None:
            yield None
            return
        if index.as_it_is:
            note(f"the index of {self.server} is read as it is: its disk is full or cannot be written to")
        try:
            yield index
        finally:
            index.close()

    def check_mailbox(self, extension: str) -> None:
        """Raises NotFound without a mailbox, DeletionsHeld where its files are gone and wait for a word, and BadName."""
        from vmctl.errors import NotFound
        from vmctl.model import mailbox_key

        try:
            self.store.check_mailbox(extension)
        except NotFound:
            self.refuse_gone(mailbox_key(extension))
            raise

    def refuse_gone(self, key: str) -> None:
        """Raises DeletionsHeld where the file of a record is gone and waits for a word; an index that is bad tells nothing."""
        from vmctl.errors import StoreError
        from vmctl.gone import refuse_gone

        with contextlib.suppress(StoreError), self.index() as index:
            if index is not None:
                refuse_gone(self.store, index, key)

    @contextlib.contextmanager
    def replica(self) -> Iterator[Replica]:
        """The server's store with its index, for changing."""
        from vmctl.at_work import wake
        from vmctl.clock import Clock
        from vmctl.replica import Replica

        with Replica.open(self.config, self.server, Clock()) as replica:
            before = replica.index.last_number
            yield replica
            if replica.index.last_number != before:
                wake(replica.store.root)  # what is in the index already need not be found on disk

    def access(self, *, user: bool = False) -> Access:
        """The check whether a mailbox may be changed at this server, by its user or by an operator."""
        from vmctl.access import Access
        from vmctl.clock import Clock

        return Access(self.config, self.server, Clock(), user=user, say=note)

    @contextlib.contextmanager
    def desk(self, *, user: bool = False) -> Iterator[Desk]:
        """What commands do to the server's store; `user`: for the user of a mailbox, not for an operator."""
        from vmctl.desk import Desk

        with self.replica() as replica:
            yield Desk(replica, self.access(user=user))

    @contextlib.contextmanager
    def mailbox_desk(self) -> Iterator[MailboxDesk]:
        """What brings whole mailboxes back, and renumbers them."""
        from vmctl.desk_mailboxes import MailboxDesk

        with self.replica() as replica:
            yield MailboxDesk(replica, self.access())

    @contextlib.contextmanager
    def undo(self) -> Iterator[Undo]:
        """What takes back earlier versions and values that lost. Raises IndexDamaged where they went with the index."""
        from vmctl.desk import Desk
        from vmctl.undo import Undo

        with self.index():
            pass  # a new one, built by the way, would say that there is nothing to take back
        with self.replica() as replica:
            yield Undo(replica, Desk(replica, self.access()))

    def _server_of_environment(self) -> str | None:
        name = os.environ.get(SERVER_VARIABLE) or None
        if name is not None and name not in self.config.servers:
            raise typer.BadParameter(
                f"{name[:40]!r} is not one of {', '.join(self.config.servers)}.", param_hint=SERVER_VARIABLE
            )
        return name
