"""What commands do to a store: each change goes into the index and its file under the store's lock, whole or not at all.

A file that a person saved a moment ago is taken in first; one that is broken is named and not overwritten.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vmctl.audio import inspect
from vmctl.clock import rfc3339
from vmctl.entry import Entry
from vmctl.errors import (
    AlreadyExists,
    BadValue,
    BrokenFile,
    MailboxFull,
    NotFound,
    StoreBusy,
)
from vmctl.fields import STATUSES, check_mailbox, check_message
from vmctl.gone import check_mailbox as check_mailbox_there
from vmctl.gone import check_takes, refuse_elsewhere, refuse_gone
from vmctl.leaving import all_or_nothing
from vmctl.merge import merge
from vmctl.model import (
    ABSENT,
    CALLFLOW,
    GREETING,
    MAILBOX,
    MESSAGE,
    PROMPT,
    SETTINGS_KEY,
    Key,
    Record,
    Tick,
    created,
    deleted,
    edited,
    greeting_key,
    mailbox_key,
    message_key,
    parse_key,
    restored,
)  # fmt: skip
from vmctl.names import check_extension, check_greeting, check_name, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vmctl.access import Access
    from vmctl.replica import Replica

_PATIENCE = 1.0


class Desk:
    """The changes that a person, a script or the voicemail application orders at one server."""

    def __init__(self, replica: Replica, access: Access | None = None) -> None:
        """`access` refuses whoever may not change a mailbox here now; without it nobody is refused."""
        self._replica = replica
        self._index = replica.index
        self._store = replica.store
        self._access = access

    @contextlib.contextmanager
    def _locked(self, key: str, service: str | None = None) -> Iterator[None]:
        """Hold the store for a change of a record by whoever may make it. Raises WrongServer, NobodyServes.

        `service` is that of a mailbox which is not there yet.
        """
        with self._replica.locked():
            parts = parse_key(key)
            extension = parts.name if parts.kind == MAILBOX else parts.mailbox
            if self._access is not None and extension is not None:
                named = service or self._known(mailbox_key(extension)).get("service")
                self._access.check(extension, self._replica.config.service_of(extension, named))
            yield

    # Mailboxes

    def create_mailbox(self, extension: str, document: dict[str, Any]) -> None:
        """Make a mailbox. Raises AlreadyExists, BadName, BadValue."""
        key = mailbox_key(check_extension(extension))
        document = check_mailbox({"service": self._home_service()} | document)
        self._check_service(document)

        def act(entry: Entry | None, tick: Tick, at: int) -> Record:
            if entry is not None and entry.record.lives:
                refuse_gone(self._store, self._index, key)
                raise AlreadyExists(f"mailbox {extension} is there already", hint="change it with 'vmctl mailbox set'")
            if self._index.count("kind = 'mailbox' AND lives") >= self._replica.config.limits.mailboxes:
                raise BadValue("there are as many mailboxes as limits.mailboxes allows")
            return created(key, document, tick, at, before=entry.record if entry else None)

        self.change(key, act, service=document["service"])

    def set_mailbox(self, extension: str, changes: dict[str, Any]) -> None:
        """Set fields of a mailbox, or remove those that are ABSENT. Raises NotFound, BadValue."""
        key = mailbox_key(check_extension(extension))
        removed = {name: value for name, value in changes.items() if value is ABSENT}
        checked = check_mailbox({name: value for name, value in changes.items() if value is not ABSENT})
        self._check_service(checked)
        self.change(key, self._editing(f"mailbox {extension}", checked | removed))

    def delete_mailbox(self, extension: str) -> int:
        """Delete a mailbox with its greetings and messages; tells how many of those. They can be restored."""
        key = mailbox_key(check_extension(extension))
        with self._locked(key):
            self._ready(key)
            self._alive(key, f"mailbox {extension}")
            inside = self._index.in_mailbox(extension)
            keys = [inner.record.key for inner in inside if inner.record.lives and inner.shown is not None]
            with self._index.transaction():
                tick = self._tick()  # one for all: by it 'mailbox restore' knows what went in this act
                for each in [*keys, key]:
                    entry = self._index.get(each)
                    if entry is not None:
                        seen = entry.shown or entry.record
                        self._put(replace(entry, record=merge(entry.record, deleted(seen, tick))))
            for each in [*keys, key]:
                self._replica.applier.apply(each)
        return len(keys)

    # Messages

    def leave(
        self, extension: str, source: Path, *, caller: str = "unknown", name: str | None = None,
        received: str | None = None, urgent: bool = False, ident: str | None = None,
    ) -> str:  # fmt: skip
        """Leave a message; when this returns its id, no crash loses it.

        `received` is RFC 3339. No role refuses it: a recording is taken where it lands. A mailbox that lives takes it also where its files are gone. Raises BadAudio, NotFound,
        MailboxFull, AlreadyExists, DeletionsHeld, DiskFull; then nothing changed.
        """
        check_extension(extension)
        audio = self._replica.config.audio
        recording = inspect(source, formats=audio.formats, longest=audio.longest)
        wall = self._replica.clock.wall()
        document: dict[str, Any] = {"from": caller, "received": received or rfc3339(wall), "status": "new"}
        document |= {"name": name} if name else {}
        document |= {"urgent": True} if urgent else {}
        document |= {"seconds": recording.seconds} if recording.seconds is not None else {}
        document = check_message(document | {"audio": recording.as_field()})
        ident = new_id(wall) if ident is None else check_name(ident, "message id")
        with self._replica.locked():
            check_takes(self._store, self._index, extension)
            self._check_quota(extension)
            self._check_unused(message_key(extension, ident), ident)
            self._leave(message_key(extension, ident), document, source)
        return ident

    def _leave(self, key: str, document: dict[str, Any], source: Path) -> None:
        # The message's own file says all that the index needs, so it may come first: then a fault takes all back.
        here, audio = self._replica, document["audio"]
        with all_or_nothing(here.store, here.index, here.pool, key, audio):
            here.pool.copy_in(source, audio["sha256"])
            self._put(Entry(created(key, document, self._tick(), here.clock.wall())))
            here.applier.apply(key)

    def mark(self, extension: str, ident: str, status: str) -> None:
        """Set a message's status: new, old or saved. Raises NotFound, BadValue."""
        if status not in STATUSES:
            raise BadValue(f"{status[:40]!r} is no status", hint="a status is one of " + ", ".join(STATUSES))
        key = self._message(extension, ident)
        self.change(key, self._editing(f"message {ident} in mailbox {extension}", {"status": status}))

    def delete_message(self, extension: str, ident: str) -> None:
        """Delete a message; it can be restored. Raises NotFound."""
        self._delete(self._message(extension, ident), f"message {ident} in mailbox {extension}")

    def restore_message(self, extension: str, ident: str) -> bool:
        """Bring a deleted message back; tells whether its recording is here, or has to come from the peer first."""
        key = self._message(extension, ident)
        self._know_all()
        with self._locked(key):
            entry = self._index.get(key)
            if entry is None:
                raise NotFound(
                    f"no message {ident} of mailbox {extension} is known",
                    why="it was never there, or nothing is left of it: what is purged is forgotten in the end",
                    hint=f"'vmctl message list {extension} --deleted' shows what can be restored",
                )
            if entry.record.lives:
                raise AlreadyExists(f"message {ident} in mailbox {extension} is not deleted", hint="nothing to do")
            refuse_purged(entry.record, f"message {ident} in mailbox {extension}")
            self._refuse_moved(key)
            with self._index.transaction():
                self._put(replace(entry, record=restored(entry.record, self._tick())))
                box = self._index.get(mailbox_key(extension))
                if box is not None and not box.record.lives:
                    self._put(replace(box, record=restored(box.record, self._tick())))
            self._replica.applier.apply(mailbox_key(extension))
            return self._replica.applier.apply(key)

    def _know_all(self) -> None:
        """Have a new index look at all that is there: what is to be brought back may be there under another extension."""
        if self._index.is_new:
            self._replica.scan(full=True)

    def _refuse_moved(self, key: str) -> None:
        """An id belongs to one message: one that lives in another mailbox, as after a renumber, is not brought back here."""
        name = parse_key(key).name
        for other in self._index.keys("kind = 'message' AND lives AND name = ? AND key <> ?", (name, key)):
            box = parse_key(other).mailbox
            raise AlreadyExists(
                f"message {name} is in mailbox {box} now",
                hint=f"it was moved there: 'vmctl message list {box}' shows it",
            )

    # Greetings, prompts, callflows, settings

    def set_greeting(self, extension: str, name: str, source: Path) -> None:
        """Put a greeting into a mailbox. Raises NotFound, BadName, BadAudio."""
        key = greeting_key(check_extension(extension), check_greeting(name))
        check_mailbox_there(self._store, self._index, extension)
        self._set_audio(key, source)

    def delete_greeting(self, extension: str, name: str) -> None:
        """Delete a greeting. Raises NotFound."""
        key = greeting_key(check_extension(extension), check_greeting(name))
        self._delete(key, f"greeting {name} of mailbox {extension}")

    def set_prompt(self, name: str, source: Path) -> None:
        """Put a prompt. Raises BadName, BadAudio."""
        self._set_audio(str(Key(PROMPT, None, check_name(name))), source)

    def delete_prompt(self, name: str) -> None:
        """Delete a prompt. Raises NotFound."""
        self._delete(str(Key(PROMPT, None, check_name(name))), f"prompt {name}")

    def set_callflow(self, name: str, text: str) -> None:
        """Put a callflow. Raises BrokenFile, CallflowFaults; then nothing changed."""
        key = str(Key(CALLFLOW, None, check_name(name)))
        self._store.check_callflow(text, f"callflow {name}")
        self.change(key, self._setting(key, {"text": text}))

    def delete_callflow(self, name: str) -> None:
        """Delete a callflow. Raises NotFound."""
        self._delete(str(Key(CALLFLOW, None, check_name(name))), f"callflow {name}")

    def set_settings(self, changes: dict[str, Any]) -> None:
        """Set settings by `section.key`, or remove those that are ABSENT. Raises BadValue, NotFound."""
        for name in changes:
            if not (1 <= len(name.split(".")) <= 2 and all(map(is_name, name.split(".")))):  # noqa: PLR2004
                raise BadValue(f"{name[:80]!r} names no setting", hint="write it as section.key")
        document = {name: value for name, value in changes.items() if value is not ABSENT}
        removed = sorted(changes.keys() - document.keys())

        def act(entry: Entry | None, tick: Tick, at: int) -> Record:
            known = entry.record.document if entry is not None and entry.record.lives else {}
            for name in removed:
                if name not in known:
                    raise NotFound(f"there is no setting {name}", hint="'vmctl settings show' lists them")
            if entry is None or not entry.record.lives:
                return created(SETTINGS_KEY, document, tick, at, before=entry.record if entry else None)
            for name in document:
                check_section(name, entry.record.document)
            return edited(entry.record, changes, tick, at)

        self.change(SETTINGS_KEY, act)

    # One change

    def _set_audio(self, key: str, source: Path) -> None:
        audio = self._replica.config.audio
        recording = inspect(source, formats=audio.formats, longest=audio.longest)
        with self._locked(key):  # what is no store now gets no file
            self._replica.pool.copy_in(source, recording.sha256)
        self.change(key, self._setting(key, {"audio": recording.as_field()}))

    def _delete(self, key: str, what: str) -> None:
        def act(entry: Entry | None, tick: Tick, _at: int) -> Record:
            return deleted(_living(entry, what), tick)

        self.change(key, act)

    def _editing(self, what: str, changes: dict[str, Any]) -> Callable[[Entry | None, Tick, int], Record]:
        return lambda entry, tick, at: edited(_living(entry, what), changes, tick, at)

    def _setting(self, key: str, document: dict[str, Any]) -> Callable[[Entry | None, Tick, int], Record]:
        def act(entry: Entry | None, tick: Tick, at: int) -> Record:
            if entry is None or not entry.record.lives:
                return created(key, document, tick, at, before=entry.record if entry else None)
            return edited(entry.record, document, tick, at)

        return act

    def change(
        self,
        key: str,
        act: Callable[[Entry | None, Tick, int], Record],
        *,
        settles: str | None = None,
        service: str | None = None,
    ) -> None:
        """One change of one record: `act` makes it of the entry, the number of the change and the time.

        In the same transaction the conflict of the key `settles` is done with; `service` is that of a mailbox which is
        not there yet. Raises WrongServer, NobodyServes where its user may not change it, BrokenFile, StoreBusy, and
        DeletionsHeld where the file is gone and waits for a person's word; to delete the record is one.
        """
        with self._locked(key, service):
            self._ready(key)
            with self._index.transaction():
                entry = self._index.get(key)
                record = act(entry, self._tick(), self._replica.clock.wall())
                if record.lives:
                    refuse_gone(self._store, self._index, key)
                self._put(replace(entry, record=record) if entry else Entry(record))
                if settles is not None:
                    self._settle(settles)
            if not self._replica.applier.apply(key) and record.lives:
                refuse_elsewhere(self._store, self._index, key)
                raise StoreBusy(
                    f"the file of {key} is being edited",
                    hint="the change is kept: it is written when the file stands still",
                )

    def rehearse(self, key: str, act: Callable[[Entry | None, Tick, int], Record]) -> None:
        """What `change` would do as far as it can fail, without keeping anything of it."""
        with self._replica.locked(), self._index.transaction(rollback=True):
            self._ready(key)
            act(self._index.get(key), self._tick(), self._replica.clock.wall())

    def settle(self, conflict: str) -> None:
        """A conflict is done with, on both servers: what lost was taken back, or is not wanted any more."""
        with self._replica.locked(), self._index.transaction():
            self._settle(conflict)

    def _settle(self, conflict: str) -> None:
        entry = self._index.get(conflict)
        if entry is not None and entry.record.lives:
            self._put(replace(entry, record=deleted(entry.record, self._tick())))

    def _ready(self, key: str) -> None:
        """Take in what a person saved into the file before; refuse to go on over a broken one."""
        audio_only = parse_key(key).kind in {PROMPT, GREETING}
        path = (self._store.audio(key) or self._store.path(key)) if audio_only else self._store.path(key)
        deadline = time.monotonic() + self._replica.config.scan.settle + _PATIENCE
        while True:
            report = self._replica.scanner.look_at(key)
            if not report.unsettled or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        look, known = self._store.look(path), self._index.looks.file(path)
        if look is not None and (known is None or known[0] != look):
            fault = next((fault for fault in self._index.faults.all() if fault["path"] == path), None)
            if fault is not None:
                raise BrokenFile(fault["why"], hint=fault["mend"])
            raise StoreBusy(f"{path} is being edited at this moment", hint="save it, then try again")

    def _alive(self, key: str, what: str) -> Record:
        return _living(self._index.get(key), what)

    def _put(self, entry: Entry) -> None:
        self._index.put(entry, self._replica.clock.wall())

    def _tick(self) -> Tick:
        return self._index.next_tick(self._replica.clock.wall())

    def _message(self, extension: str, ident: str) -> str:
        return message_key(check_extension(extension), check_name(ident, "message id"))

    def _check_quota(self, extension: str) -> None:
        config = self._replica.config
        quota: Any = config.limits.quota
        with contextlib.suppress(BrokenFile):  # a broken file must not cost a caller's message
            settings = self._store.document(SETTINGS_KEY) or {}
            mailbox = self._store.document(mailbox_key(extension)) or self._known(mailbox_key(extension))
            quota = mailbox.get("quota", settings.get("defaults.quota", quota))
        there = len(self._store.names(MESSAGE, extension))
        if isinstance(quota, int) and there >= quota:
            raise MailboxFull(f"mailbox {extension} is full", why=f"it holds {there} messages, its quota is {quota}")

    def _known(self, key: str) -> dict[str, Any]:
        entry = self._index.get(key)
        return entry.record.document if entry is not None else {}

    def _check_unused(self, key: str, ident: str) -> None:
        same = self._index.keys("kind = 'message' AND name = ?", (ident,))
        if not same and self._store.look(self._store.path(key)) is not None:  # put there a moment ago, and not scanned
            same = [key]
        if same:
            raise AlreadyExists(f"there is a message of the id {ident} already: {same[0]}", hint="leave the id out")

    def _check_service(self, document: dict[str, Any]) -> None:
        service = document.get("service")
        services = self._replica.config.services
        if service is not None and service not in services:
            raise BadValue(f"there is no service {service[:40]!r}", hint="a service is one of " + ", ".join(services))

    def _home_service(self) -> str:
        services = self._replica.config.services.values()
        mine = [service.name for service in services if service.home == self._replica.server.name]
        return (mine or [service.name for service in services])[0]


def new_id(wall: int) -> str:
    """An id for a message: it sorts by time (`wall`, microseconds) and is unique across both servers."""
    moment = datetime.fromtimestamp(wall / 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{wall % 1_000_000:06d}-{secrets.token_hex(6)}"


def _living(entry: Entry | None, what: str) -> Record:
    if entry is None or not entry.record.lives:
        raise NotFound(f"there is no {what}", why="" if entry is None else "it was deleted")
    return entry.record


def refuse_purged(record: Record, what: str) -> None:
    """Raises NotFound where a deleted record cannot be restored any more."""
    if record.is_purged:
        raise NotFound(
            f"{what} cannot be restored any more",
            why="it was deleted, and the time was over for which that is kept (timer 'deleted')",
            hint="a backup of the store may have it: put its files back into the mailbox",
        )


def check_section(name: str, document: dict[str, Any]) -> None:
    """Raises BadValue where a setting of this name would make a value and a section of one name."""
    section, dot, _ = name.partition(".")
    clash = section in document if dot else any(other.startswith(f"{name}.") for other in document)
    if clash:
        raise BadValue(f"{section} cannot be both a value and a section", hint="unset the one before setting the other")
