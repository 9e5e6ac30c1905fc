"""One server at work in this process: its replica and its roles, the receiver and the courier between it and the peer.

The daemon has one for its life, `vmctl sync` one for a round. Whoever has it holds `.vmctl/serve.lock`, so that a
server has one receiver at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Self

from vmctl import durable, identity
from vmctl.agreement import Agreed
from vmctl.at_work import DAEMON, LOCK, ROUND
from vmctl.carriage import Carriage, check_own_key, pinned, receiver
from vmctl.errors import (
    AlreadyServing,
    JournalError,
    MailPutOff,
    MailRefused,
    MailTooLarge,
    PeerUnreachable,
    StoreBusy,
    StoreError,
    SyncError,
)
from vmctl.failover import Failover
from vmctl.knowledge import Known, answers, notes_of
from vmctl.replica import Replica
from vmctl.routes_file import RoutesFile
from vmctl.routing import Moment
from vmctl.telling import Teller
from vmctl.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.leases import Leases
    from vmctl.outbox import Parcel
    from vmctl.probes import Probes
    from vmctl.receiver import Receiver
    from vmctl.replica import Intake
    from vmctl.routing import Answer

log = logging.getLogger("vmctl.post")

PROOF, ASK_PROOF, ASK_SCAN, LINK = "peer_proof", "ask_proof", "ask_scan", "link"
_PATIENCE_WITH_A_ROUND, _LOOK_AGAIN = 120.0, 0.1
_REFUSALS_REMEMBERED = 3  # heartbeats: the peer tries again within one


class Post:
    """A server that sends and receives. Use it with `with`."""

    def __init__(
        self, config: Config, name: str, clock: Clock, *, role: str, wake: Callable[[], object], patience: float = 0.5,
        probes: Probes | None = None, leases: Leases | None = None,
    ) -> None:  # fmt: skip
        """What `probes` and `leases` find counts for the roles; without them nothing is asked."""
        self._probes, self._leases = probes, leases
        self.config = config
        self.server = config.servers[name]
        self.peer = config.peer_of(name)
        self._clock = clock
        self._role = role
        self._wake = wake
        self._patience = patience
        self._remembered = _REFUSALS_REMEMBERED * config.sync.heartbeat
        self._lock = -1
        self.receiver: Receiver | None = None
        self._known = self.peer.identities(clock.wall())
        self._carriage: Carriage | None = None
        self.asked: set[str] = set()  # by the peer, and not answered yet
        self._noted: float | None = None
        self.journal_trouble: Trouble | None = None
        self.refused_at: float | None = None  # when a mail was last refused for a fault of this server
        self._refusal: Trouble | None = None
        self.to_verify: str | None = None  # the peer asks for a reading of this store, under this nonce
        self.proof: dict[str, Any] | None = None  # the reading, to go with the next mail

    def __enter__(self) -> Self:
        """Take the store for this process. Raises AlreadyServing, StoreMissing, StoreForeign, ..."""
        assert self.server.store is not None, "a post needs a store on this host"  # noqa: S101
        identity.read(self.server.store, self.config.network, self.server.name)
        check_own_key(self.config, self.server.name)
        self._lock = _hold(self.server.store, self.server.name, self._role, self._patience)
        try:
            self.replica = Replica.open(self.config, self.server.name, self._clock)
            self.failover = Failover(self.replica, probes=self._probes, leases=self._leases)
            self.teller = Teller(
                self.config, self.server.name, self.replica.journal, self.replica.index, self._clock,
                locked=self.replica.locked, wake=self._wake, anew=self._role == DAEMON, mode=self._mode,
            )  # fmt: skip
            state = self.replica.store.state
            self.routes = RoutesFile(
                self.config, self.server.name, self.replica.index, self._clock, state, mode=self._mode
            )
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def _mode(self) -> str:
        return self.failover.mode

    def __exit__(self, *exc: object) -> None:
        """Stop receiving and give the store free. A mail that is being taken in is finished first."""
        try:
            self.hang_up()
            if self.receiver is not None:
                self.receiver.stop()
            self.replica.strays.flush()
            self.teller.close()
            with contextlib.suppress(JournalError, StoreError):
                self.failover.permits.note(())  # what is lent goes back to the arbiter next: nobody may rely on it
                self.routes.tell(self.answers())
            self.replica.close()
        finally:
            os.close(self._lock)

    def listen(self, address: tuple[str, int] | None = None) -> int:
        """Receive from now on, at `address` or where the config says; the port, 0 for nowhere. Raises AddressInUse."""
        self.receiver = receiver(
            self.config, self.server.name, self._clock, address, take=self._receive, stray=self.replica.strays.count
        )
        if self.receiver is None:
            return 0
        self.receiver.start()
        return self.receiver.port

    def connect(self, address: tuple[str, int] | None = None) -> None:
        """Send to `address` from now on, or to where the config says; the connection is made with the first mail."""
        self._carriage = Carriage(self.config, self.server.name, self._clock, address)

    def hang_up(self) -> None:
        """Close the connection to the peer; the next mail opens it again."""
        if self._carriage is not None:
            self._carriage.close()

    def _receive(self, raw: bytes, sender: str | None = None) -> None:
        try:
            self.replica.receive(raw, sender)
        except StoreError as error:
            self.refused_at, self._refusal = self._clock.steady(), Trouble.of(error)
            raise
        self._refusal = None
        self._wake()

    @property
    def refusal(self) -> Trouble | None:
        """Why the peer's mails are refused, for as long as it may be trying again; None where they are taken."""
        recent = self.refused_at is not None and self._clock.steady() - self.refused_at < self._remembered
        return self._refusal if recent else None

    def tell(self, trouble: Trouble | None) -> None:
        """Let `vmctl status` see what keeps this server from its work, or that nothing does any more."""
        durable.tell(self._lock, _whose(self._role) + (f"\n{trouble.as_text()}" if trouble else ""))

    def turned(self) -> None:
        """Let `vmctl status` see that this process is at work; who counts as the peer no more is sent away."""
        durable.touch(self._lock)
        known = self.peer.identities(self._clock.wall())
        if known != self._known and self.receiver is not None:
            self.receiver.trust(pinned(self.config, self.server.name, self._clock))
        self._known = known

    def take(self) -> Intake:
        """Take in what the spool holds, and note what the peer asks for or orders."""
        intake = self.replica.take()
        for taken in intake.taken:
            if taken.rolled_back:
                self.failover.was_rolled_back()
            if taken.fresh:
                self.failover.hear_orders(taken.status.get("orders"))
            if not taken.again and isinstance(taken.request.get("round"), str):
                self.asked.add(taken.request["round"])
            if not taken.again and isinstance(taken.request.get("verify"), str):
                self.to_verify = taken.request["verify"]
            if taken.fresh and isinstance(taken.status.get("proof"), dict):
                self._keep_proof(taken.status["proof"])
        return intake

    def _keep_proof(self, proof: dict[str, Any]) -> None:
        with self.replica.index.transaction():
            self.replica.index.set_note(PROOF, proof)
            if self.replica.index.note(ASK_PROOF) == proof.get("nonce"):
                self.replica.index.set_note(ASK_PROOF, None)

    def start(self) -> None:
        """A new start of this server's roles. A journal that cannot be trusted stops them, and nothing else."""
        try:
            self.failover.start()
        except JournalError as error:
            self.journal_trouble = Trouble("JournalBroken", f"no role moves: {error.what}", error.why, error.hint)

    def tick(self, *, automatic: bool) -> bool | None:
        """Let the roles move; tells whether one did. None where the journal cannot be trusted: then none does."""
        try:
            return self.failover.tick(automatic=automatic)
        except JournalError as error:
            self.journal_trouble = Trouble("JournalBroken", f"no role moves: {error.what}", error.why, error.hint)
            return None

    def serving(self) -> dict[str, bool]:
        """By service, whether this server serves it now; nothing where the journal cannot be trusted."""
        try:
            return self.failover.serving()
        except JournalError:
            return {}

    def tell_others(self) -> None:
        """Run the hooks and post to the webhooks that are due, for a process that ends. It is no reason to fail for it."""
        try:
            self.teller.finish(self.serving(), self.config.hooks.timeout)
        except StoreError as error:  # the next one tells it
            log.warning("%s", error.words)

    def answers(self) -> dict[str, Answer]:
        """Who serves each service, as this server knows it now.

        Where the journal cannot be trusted that is what the peer says. Raises JournalError where it says nothing either.
        """
        notes = notes_of(self.replica.index, self.replica.contact)
        try:
            agreed, views = self.failover.agreement.read(), self.failover.views()
            # what the peer says is taken in tick
            known = Known(self.server.name, self._role, views, agreed, notes._replace(said={}))
        except JournalError as error:
            known = Known(self.server.name, self._role, {}, Agreed(self.config, {}), notes, error)
        return answers(self.config, Moment(self._clock.steady(), self._clock.boot()), [known])

    def parcels(
        self, *, always: bool = False, anew: bool = False, eager: bool = False, request: dict[str, Any] | None = None,
        answers: set[str] | None = None,
    ) -> Iterator[Parcel]:  # fmt: skip
        """The mails that are due, with what the peer must know of the roles, and the answers it waits for, these or all of them."""
        answered = sorted(self.asked if answers is None else self.asked & answers)
        self.asked.difference_update(answered)
        proof, self.proof = self.proof, None
        extra = ({"answers": answered} if answered else {}) | ({"proof": proof} if proof else {})
        yield from self.replica.outbox.parcels(
            always=always or bool(extra), anew=anew, eager=eager, request=request,
            status=lambda: self.failover.facts() | extra,
        )  # fmt: skip

    def found(self, above: int) -> Iterator[Parcel]:
        """The mails with what a scan that goes on has found so far: the changes above a number."""
        yield from self.replica.outbox.found(above, self.failover.facts)

    def carry(self, parcel: Parcel) -> None:
        """Hand one mail to the peer's server. Raises PeerUnreachable, MailRefused, MailTooLarge. For one thread at a time."""
        assert self._carriage is not None, "connect first"  # noqa: S101
        self._carriage.carry(parcel)

    def deliver(self, parcel: Parcel) -> bool:
        """Hand one mail to the peer's server and settle it; tells whether it was taken.

        Raises PeerUnreachable, and MailRefused or MailTooLarge where no mail is taken, whatever it brings.
        """
        error: SyncError | None = None
        try:
            self.carry(parcel)
        except SyncError as fault:
            error = fault
        return self.settled(parcel, error)

    def settled(self, parcel: Parcel, error: SyncError | None) -> bool:
        """Settle a mail of which `carry` raised this; as `deliver`."""
        if not self.settle(parcel, error) and error is not None:
            raise error
        return error is None

    def settle(self, parcel: Parcel, error: SyncError | None) -> bool:
        """What became of a mail; tells whether the next may leave at once."""
        outbox = self.replica.outbox
        if error is None:
            outbox.left(parcel)
        again = error is None
        if isinstance(error, MailTooLarge):
            again = outbox.too_large(parcel, error.limit, error.why)
        elif isinstance(error, MailRefused):
            again = outbox.refused(parcel, error.why)
        elif isinstance(error, MailPutOff):
            again = outbox.put_off(parcel, error.why)
        if error is None or not again:
            self._note_link(error)
        return again

    def _note_link(self, error: SyncError | None) -> None:
        """Keep for `vmctl status` why no mail gets through, and since when."""
        index = self.replica.index
        known = index.note(LINK)
        if error is None:
            if known:
                index.set_note(LINK, None)
            return
        refused = not isinstance(error, PeerUnreachable)
        if not known or known["what"] != error.what or known["refused"] != refused:
            words = {"what": error.what, "why": error.why, "refused": refused}
            index.set_note(LINK, words | {"since": known["since"] if known else self._clock.wall()})

    @property
    def in_step(self) -> bool:
        """Whether nothing is pending here, and the peer's newest word says the same of the same records."""
        index = self.replica.index
        facts = self.replica.contact.facts()
        return (
            index.was_scanned
            and index.pending_count() == 0
            and index.unwritten() == 0
            and facts.get("pending") == 0
            and facts.get("digest") == index.digest
        )

    @property
    def peer_todo(self) -> int:
        """How many files the peer has still to write, by its newest word."""
        todo = self.replica.contact.facts().get("todo")
        return todo if type(todo) is int else 0

    @property
    def stuck(self) -> bool:
        """Whether what the two still lack of each other is parked, and nothing more comes by itself."""
        facts, index = self.replica.contact.facts(), self.replica.index
        theirs = int(facts.get("pending", 0))
        owed = index.shelf.owed()[0] + theirs - int(facts.get("parked", 0))
        return owed == 0 and index.pending_count() + theirs > 0

    def note_step(self) -> bool:
        """Keep the time if both are in step now, once a heartbeat; tells whether they are."""
        if not self.in_step:
            self._noted = None
            return False
        now = self._clock.steady()
        if self._noted is not None and now - self._noted < self.config.sync.heartbeat:
            return True
        self._noted = now
        with self.replica.index.transaction():
            self.replica.index.set_meta("in_step_at", str(self._clock.wall()))
        return True


def _whose(role: str) -> str:
    return f"{role}, process {os.getpid()}"


def _hold(store: Path, name: str, role: str, patience: float) -> int:
    path = store / identity.DIRECTORY / LOCK
    if role == DAEMON:  # a round of cron's is over soon; another daemon is not
        deadline = time.monotonic() + _PATIENCE_WITH_A_ROUND
        while (durable.lock_holder(path) or "").startswith(ROUND) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
    try:
        return durable.take_lock(path, timeout=patience, what=f"the server {name}", shared_text=_whose(role))
    except StoreBusy as error:
        raise AlreadyServing(
            f"{name} is served already: {error.what.rpartition(' by ')[2]} has the store {store}"
        ) from error
