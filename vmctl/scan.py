"""Looks at files of a store: finds what people and the voicemail application changed, and puts it in the index.

A file is unchanged when its size, mtime, ctime and inode are. A file that a person made is read only when it has
stood still for `settle` seconds. A change made here by hand is stamped with its file's mtime. Nothing is written to the
store. What a look at all of it takes besides is in `sweep`.
"""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING, Any

from vmctl import beneath
from vmctl.audio import digest_of, inspect
from vmctl.edits import Edits
from vmctl.entry import Look, audio_of
from vmctl.errors import BadAudio, BrokenFile, RecordError, StoreError, StoreUnusable
from vmctl.findings import Findings, Report
from vmctl.graves import Graves
from vmctl.model import (
    CALLFLOW,
    MAILBOX,
    MESSAGE,
    Record,
    message_key,
    parse_key,
)  # fmt: skip
from vmctl.setback import Listing, older
from vmctl.store.format import Format, look_of

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    from vmctl.clock import Clock
    from vmctl.index import Index

_LITTER_SECONDS = 60


class Scanner:
    """Looks at the files of one store. What it finds is in the `findings` of the look that goes on: each begins with its own."""

    def __init__(self, store: Format, index: Index, clock: Clock, settle: float) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._settle = settle
        self.edits = Edits(index, clock)
        self.findings = Findings(store, index, clock)
        self.set_back: dict[str, str] = {}  # path and key of what is older than what was there: it is not read
        self._plain_pin = False
        self._at_once = False  # what is complete need not have stood still
        self._young: set[str] = set()  # what was taken so

    def begin(self) -> Findings:
        """A new look begins."""
        self.findings = Findings(self._store, self._index, self._clock)
        return self.findings

    def reported(self) -> Report:
        """What this look has found up to now."""
        report = self.findings.report
        report.changed += self.edits.changed
        self.edits.changed = []
        return report

    def scan_folders(self, folders: Collection[str]) -> Report | None:
        """One look at some message folders, into which somebody has put something; what is complete need not have stood still.

        None, and nothing done, where it takes a look at all of the store to tell what that means: something is gone, or
        older than before, or cannot be read.
        """
        self.begin()
        with self._index.transaction():
            self.findings.remember_faults()
            listings: list[tuple[Listing, Look, int]] = []
            for folder in folders:
                looked = self._clock.wall() * 1000
                try:
                    look = self._store.look(folder)
                    if look is None:
                        return None
                    listing = Listing(folder, self._store.messages(folder), self._index.looks.files_in(folder))
                except StoreUnusable:
                    return None
                if not set(map(_name, listing.known)) <= listing.there.keys() or older(
                    self._store, self._index, listing
                ):
                    return None
                listings.append((listing, look, looked))
            for (folder, there, _), look, looked in listings:
                self._at_once = True
                try:
                    with beneath.holding():
                        well = self.messages(self._store.mailbox_of(folder), folder, there)
                finally:
                    self._at_once = False
                self._index.looks.set_folder(folder, look.mtime, look.ctime, look.inode, looked if well else 0)
            self.findings.forget_mended(folders.__contains__)
            self.findings.keep_new()
        return self.reported()

    def look_at(self, key: str) -> Report:
        """One look at the file of one record, before a command or the peer changes it."""
        self.begin()
        if key in (self._index.note("set_back") or []):
            return self.reported()  # it waits for a person's word, and is named by the scan
        with self._index.transaction():
            parts = parse_key(key)
            if parts.kind == MESSAGE:
                there = self._store.beside(key)
                if _name(self._store.path(key)) in there:
                    folder = self._store.folder(str(parts.mailbox))
                    paths = [f"{folder}/{name}" for name in there]
                    files = {one: seen for one in paths if (seen := self._index.looks.file(one)) is not None}
                    self._message(key, there, files)
            else:
                path = self._file_of(key)
                look = None if path is None else self._store.look(path)
                if path is not None and look is not None:
                    known = self._index.looks.file(path)
                    if known is None or known[0] != look:
                        self.hand_file(key, path, look)
            self.findings.keep_new()
        return self.reported()

    def recall(self) -> None:
        """Take the tombs into an index that does not know them, so that nothing of it comes back."""
        with self._index.transaction():
            graves = Graves(self._store)
            for path, key in graves.tombs():
                try:
                    dead = graves.read(path, key)
                except (RecordError, StoreError) as error:
                    self.findings.fault(path, error.words, "put it back from a backup, or remove it")
                    continue
                if dead is not None:
                    self.edits.recall(dead)

    # Files that people edit

    def hand_file(self, key: str, path: str, look: Look) -> None:
        """Look at a file that people edit, and that looked so a moment ago."""
        if not self.settled(look):
            self.findings.report.unsettled.add(path)
            return
        self.findings.report.opened += 1
        try:
            document, digest = self._read(key, path)
            moves = self._store.look(path) != look
        except (RecordError, StoreUnusable) as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self.findings.report.unsettled.add(path)  # it went since the walk: the next one sees what that means
            else:
                self.findings.fault(path, error.words, error.hint)
            return
        if moves:
            self.findings.report.unsettled.add(path)
            return
        self.edits.found(key, self._index.get(key), document, look.mtime // 1000)
        if self._plain_pin:
            self.edits.hide_pin(key)
        self.findings.seen(path, look, digest, self._index.looks.file(path))

    def _read(self, key: str, path: str) -> tuple[dict[str, Any], str]:
        kind = parse_key(key).kind
        self._plain_pin = False
        if self._store.is_edited(kind):
            data = self._store.read(path)
            document = self._store.parse(key, data, path)[0]
            if kind == CALLFLOW:
                self._store.check_callflow(data, path)
            self._plain_pin = kind == MAILBOX and "pin" in document and document["pin"].encode() not in data
            return document, hashlib.sha256(data).hexdigest()
        recording = inspect(self._store.root / path, formats=self._store.formats, longest=float("inf"))
        return {"audio": recording.as_field()}, recording.sha256

    def _file_of(self, key: str) -> str | None:
        return self._store.path(key) if self._store.is_edited(parse_key(key).kind) else self._store.audio(key)

    # Messages, which machines write

    def is_quiet(self, extension: str, there: dict[str, os.stat_result], known: dict[str, tuple[Look, str]]) -> bool:
        """Whether all that lies in a folder is known as it is."""
        if there.keys() != set(map(_name, known)):
            return False
        parts = [part for path in known if (part := self._store.part_of(path)) is not None and part.form is None]
        return all(self._unchanged(message_key(extension, part.ident), there, known) for part in parts)

    def messages(self, extension: str, folder: str, found: dict[str, os.stat_result]) -> bool:
        """Look at each message of a folder; tells whether all was well, so that it need not be listed again."""
        there = {name: status for name, status in found.items() if stat.S_ISREG(status.st_mode)}
        known = self._index.looks.files_in(folder)
        for name in found.keys() - there.keys():
            self.findings.fault(
                f"{folder}/{name}", "it is no plain file; symbolic links are not followed", "move it away"
            )
        before = self.findings.unwell
        young = False
        for name in beneath.in_turn(f"{self._store.root}/{folder}", there, set(map(_name, known))):
            path = f"{folder}/{name}"
            part = self._store.part_of(path)
            if part is None:
                self.findings.fault(
                    path, "its name or format is not one that vmctl keeps here", "move it out of the store"
                )
            elif part.form is not None:
                if self._document_of(part.ident, extension) in there or path in known:
                    continue
                if self._is_litter(there[name]):
                    self.findings.fault(path, "a recording without its message", "move it away, or write its document")
                else:
                    young = True  # its message may be on its way
            elif path in self.set_back:
                young = True  # to be listed again, until somebody says what it is
            elif not self._unchanged(message_key(extension, part.ident), there, known):
                self._message(message_key(extension, part.ident), there, known)
        return not young and before == self.findings.unwell and found.keys() >= set(map(_name, known))

    def _document_of(self, ident: str, extension: str) -> str:
        return _name(self._store.path(message_key(extension, ident)))

    def _unchanged(self, key: str, there: dict[str, os.stat_result], known: dict[str, tuple[Look, str]]) -> bool:
        path = self._store.path(key)
        if path not in known or known[path][0] != look_of(there[_name(path)]):
            return False
        sounds = [path for form in self._store.formats if (path := self._store.audio_path(key, form)) in known]
        return bool(sounds) and all(
            _name(path) in there and known[path][0] == look_of(there[_name(path)]) for path in sounds
        )

    def _message(self, key: str, there: dict[str, os.stat_result], known: dict[str, tuple[Look, str]]) -> None:
        path = self._store.path(key)
        look = look_of(there[_name(path)])
        self.findings.report.opened += 1
        try:
            data = self._store.read(path)
            document, state = self._store.parse(key, data, path)
            entry = self._index.get(key)
            if entry is None:
                self._only_one(key, state)
            young = state is None and not self.settled(look)
            counted: dict[str, tuple[Look, str]] = {}
            if young and not (self._at_once and self._is_complete(key, document, there, counted)):
                self.findings.report.unsettled.add(path)
                return
            audio = self._sound(key, document, there, known, counted)
        except (RecordError, StoreError) as error:
            if not self.settled(look):
                self.findings.report.unsettled.add(path)
            else:
                self.findings.fault(path, error.words, error.hint)
            return
        named = audio_of(document)
        if audio is None and (named is None or not self._is_ours(key, named, state)):
            return
        whole = audio is not None
        self.edits.found(key, entry, document | {"audio": audio or named}, look.mtime // 1000, state, whole=whole)
        self.findings.seen(path, look, hashlib.sha256(data).hexdigest(), known.get(path))
        if audio is None:
            self.edits.lacks_audio(key)
        if young:
            self.findings.report.unsettled.add(path)  # its writer may not have closed it: it is not written again yet
            self._young.add(path)

    def _is_complete(
        self, key: str, document: dict[str, Any], there: dict[str, os.stat_result], counted: dict[str, tuple[Look, str]]
    ) -> bool:
        """Whether a document names its recording, and all of that is there; its digest is `counted` then."""
        named = audio_of(document)
        if named is None or named["format"] not in self._store.formats:
            return False
        path = self._store.audio_path(key, named["format"])
        status = there.get(_name(path))
        if status is None or status.st_size != named["size"]:
            return False
        counted[path] = look_of(status), digest_of(f"{self._store.root}/{path}")[0]
        return counted[path][1] == str(named["sha256"])

    def _is_ours(self, key: str, named: dict[str, Any], state: Record | None) -> bool:
        """Whether a message without its recording is one that was whole once: its document counts, then."""
        entry = self._index.get(key)
        return state is not None if entry is None else audio_of(entry.record.document) == named

    def _sound(
        self,
        key: str,
        document: dict[str, Any],
        there: dict[str, os.stat_result],
        known: dict[str, tuple[Look, str]],
        counted: dict[str, tuple[Look, str]],
    ) -> dict[str, Any] | None:
        """The `audio` field, checked against the file; None where the recording is damaged or still being written."""
        named = audio_of(document)
        forms = (named["format"],) if named else self._store.formats
        paths = [self._store.audio_path(key, form) for form in forms]
        path = next((path for path in paths if _name(path) in there), None)
        if path is None:
            if named is None:
                raise BadAudio(
                    f"{self._store.path(key)} has no recording beside it", hint=f"put {_name(paths[0])} beside it"
                )
            self._damage(key, paths[0], "its recording is gone")
            return None
        look = look_of(there[_name(path)])
        if named is None:
            if not self.settled(look):
                self.findings.report.unsettled.add(path)
                return None
            facts = inspect(self._store.root / path, formats=self._store.formats, longest=float("inf"))
            document.setdefault("seconds", facts.seconds)
            self.findings.seen(path, look, facts.sha256, known.get(path))
            return facts.as_field()
        counted_before = counted.get(path) or known.get(path)
        same = counted_before is not None and counted_before[0] == look
        digest = counted_before[1] if counted_before and same else digest_of(f"{self._store.root}/{path}")[0]
        if digest != named["sha256"]:
            self._damage(key, path, "its recording has other bytes than the message says")
            return None
        self.findings.seen(path, look, digest, known.get(path))
        return named

    def _damage(self, key: str, path: str, why: str) -> None:
        """Damage is never a deletion or an edit: the recording is to be put back, from the pool or from the peer."""
        self.findings.report.damaged.append(key)
        self.findings.fault(
            path, why, "'vmctl sync' fetches it from the other server; if that has lost it too, delete the message"
        )

    def _only_one(self, key: str, state: Record | None) -> None:
        """Raises BrokenFile for a copy of another message. One with a birth of its own is none: its mailbox was renumbered."""
        for other in self._index.keys("kind = 'message' AND name = ? AND lives", (parse_key(key).name,)):
            if self._store.look(self._store.path(other)) is None:
                continue
            entry = self._index.get(other)
            if state is None or entry is None or entry.record.born == state.born:
                raise BrokenFile(
                    f"a message of this id is there twice: {key} and {other}",
                    hint="give the copy an id of its own: rename both its files and mend 'id' in its JSON",
                )

    def may_be_open(self, path: str) -> bool:
        """Whether a file was taken before it had stood still, and has not since. Raises StoreUnusable."""
        if path in self._young and ((look := self._store.look(path)) is None or self.settled(look)):
            self._young.discard(path)
        return path in self._young

    def settled(self, look: Look) -> bool:
        """Whether a file has stood still for long enough."""
        age = self._clock.wall() * 1000 - look.ctime
        return age >= self._settle * 1e9 or age < -self._settle * 1e9

    def _is_litter(self, status: os.stat_result) -> bool:
        return self._clock.wall() * 1000 - status.st_mtime_ns > _LITTER_SECONDS * 1e9


def _name(path: str) -> str:
    return path.rpartition("/")[2]
