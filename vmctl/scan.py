"""Finds what people and the voicemail application changed in a store since the last scan, and puts it in the index.

A file is unchanged when its size, mtime, ctime and inode are. A file that a person made is read only when it has
stood still for `settle` seconds. A file that is gone counts as deleted only at a second look, `settle` seconds after
the first, and not when so much is gone that a fault is more likely than a wish. A change made here by hand is stamped
with its file's mtime. Nothing is written to the store.
"""

from __future__ import annotations

import hashlib
import stat
from collections import deque
from typing import TYPE_CHECKING, Any

from vmctl import beneath
from vmctl.absence import Absences, Missing
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
from vmctl.setback import Listing, older, set_back
from vmctl.store.format import Format, Walk, look_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from vmctl.clock import Clock
    from vmctl.index import Index

# A directory changed as lately as this before it was listed may change again without a new mtime.
_RACY_NS = 2_000_000_000
_LITTER_SECONDS = 60
PART = 500  # records: a mail of them


class Scanner:
    """Looks at one store, again and again; remembers between two looks what was absent at the first."""

    def __init__(self, store: Format, index: Index, clock: Clock, settle: float) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._settle = settle
        self.edits = Edits(index, clock)
        self._absences = Absences(store, index, clock, settle)
        self._findings = Findings(store, index, clock)
        self._set_back: dict[str, str] = {}
        self._listings: dict[str, tuple[int, dict[str, os.stat_result] | None]] = {}
        self._judged_late = False  # whether others may have changed the store since it was looked at as a whole
        self._plain_pin = False
        self._at_once = False  # what is complete need not have stood still
        self._young: set[str] = set()  # what was taken so
        self._report = self._findings.report

    def scan(self, *, full: bool = False, accept_deletions: bool = False) -> Report:
        """One look at the whole store, in one transaction of the index."""
        for _ in self.parts(full=full, accept_deletions=accept_deletions):
            pass
        return self._report

    @property
    def report(self) -> Report:
        """What the newest look has found so far."""
        return self._report

    def parts(self, *, full: bool, accept_deletions: bool, size: float = float("inf")) -> Iterator[None]:
        """The same in parts, each of so many records that are found: others may change the store before the next one.

        Each is a transaction. What is gone is judged in the last one. Between them nothing else may be asked of this scanner.
        """
        report = self._report = self._findings.begin()
        self._listings.clear()
        self._judged_late = False
        walk: Walk | None = None
        while True:
            with self._index.transaction():
                if walk is None:
                    walk, listed, waiting = self._begin(full=full, accept_deletions=accept_deletions)
                while waiting and len(self.edits.changed) < size:
                    with beneath.holding():
                        self._message_folder(walk, waiting.popleft())
                if not waiting:
                    self._end(walk, listed, full=full, accept_deletions=accept_deletions)
                self._findings.keep_new()
            report.changed += self.edits.changed
            self.edits.changed = []
            if not waiting:
                return
            yield
            self._listings.clear()  # they are of before
            self._judged_late = True

    def _begin(self, *, full: bool, accept_deletions: bool) -> tuple[Walk, set[str], deque[str]]:
        """Look at all but the message folders; those in which something may be gone, and those to look into."""
        self._findings.remember_faults()
        listed_before = {} if full else self._index.looks.listed()
        looked = self._clock.wall() * 1000

        def known_names(folder: str, status: os.stat_result) -> list[str] | None:
            before = listed_before.get(folder)
            return None if before is None or _changed(status, before[0]) else before[1]

        walk = self._store.walk(known_names)
        for path, why in {**walk.odd, **walk.unread}.items():
            self._findings.fault(path, why, "move it out of the store, or mend its name or permissions")
        folders = self._folders_to_list(walk, full=full)
        known = self._index.looks.files(walk.files)
        self._hold({} if accept_deletions else set_back(self._store, self._index, walk, known, self._listed(folders)))
        for path, (key, look) in walk.files.items():
            if path in self._set_back:
                continue
            if path not in known or known[path][0] != look or (full and self._settled(look)):
                self._hand_file(key, path, look)
        self._remember_listed(walk, looked, listed_before)
        listed = {*folders, *(self._index.looks.folders().keys() - walk.folders.keys())}
        return walk, listed, deque(folders)

    def _end(self, walk: Walk, listed: set[str], *, full: bool, accept_deletions: bool) -> None:
        """Judge what is gone, now that all has been looked at."""
        distrust = bool(self._set_back)
        self._missing(self._absences.look(walk, listed, accept=accept_deletions, distrust=distrust))
        for fault in self.edits.clashes():
            self._findings.fault(*fault)
        self._findings.forget_mended(walk, listed)
        if full:
            self._index.set_meta("full_scan", str(self._clock.wall()))
        if self._index.is_new and self._index.meta("full_scan", "0") != "0":
            # a file that this scan could not read, or that had not stood still, is looked at by each until it is known
            self._index.set_meta("seen_all", str(int(not walk.unread and not self._is_old_unsettled())))

    def _remember_listed(
        self, walk: Walk, looked: int, before: dict[str, tuple[tuple[int, int, int, int], list[str]]]
    ) -> None:
        """Remember the folders that need not be listed again: those of which all is known as it is."""
        looks = self._index.looks
        for folder, (status, names) in walk.listed.items():
            look = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            if folder in before and before[folder][0][:3] == look and not _changed(status, before[folder][0]):
                continue
            files = [f"{folder}/{name}" for name in names if f"{folder}/{name}" in walk.files]
            if names and all(
                (known := looks.file(path)) is not None and known[0] == walk.files[path][1] for path in files
            ):
                looks.set_listed(folder, (*look, looked), names)
            elif folder in before:
                looks.drop_listed(folder)
        for folder in before.keys() - walk.listed.keys():
            looks.drop_listed(folder)

    def scan_folders(self, folders: Iterable[str]) -> Report | None:
        """One look at some message folders, into which somebody has put something; what is complete need not have stood still.

        None, and nothing done, where it takes a look at all of the store to tell what that means: something is gone, or
        older than before, or cannot be read.
        """
        self._report = self._findings.begin()
        with self._index.transaction():
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
                    well = self._messages(self._store.mailbox_of(folder), folder, there)
                finally:
                    self._at_once = False
                self._index.looks.set_folder(folder, look.mtime, look.ctime, look.inode, looked if well else 0)
            self._findings.keep_new()
        return self._reported()

    def look_at(self, key: str) -> Report:
        """One look at the file of one record, before a command or the peer changes it."""
        self._report = self._findings.begin()
        if key in (self._index.note("set_back") or []):
            return self._reported()  # it waits for a person's word, and is named by the scan
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
                        self._hand_file(key, path, look)
            self._findings.keep_new()
        return self._reported()

    def recall(self) -> None:
        """Take the tombs into an index that does not know them, so that nothing of it comes back."""
        with self._index.transaction():
            graves = Graves(self._store)
            for path, key in graves.tombs():
                try:
                    dead = graves.read(path, key)
                except (RecordError, StoreError) as error:
                    self._findings.fault(path, error.words, "put it back from a backup, or remove it")
                    continue
                if dead is not None:
                    self.edits.recall(dead)

    # Files that people edit

    def _hand_file(self, key: str, path: str, look: Look) -> None:
        if not self._settled(look):
            self._report.unsettled.add(path)
            return
        self._report.opened += 1
        try:
            document, digest = self._read(key, path)
        except (RecordError, StoreUnusable) as error:
            self._findings.fault(path, error.words, error.hint)
            return
        if self._store.look(path) != look:
            self._report.unsettled.add(path)
            return
        self.edits.found(key, self._index.get(key), document, look.mtime // 1000)
        if self._plain_pin:
            self.edits.hide_pin(key)
        self._findings.seen(path, look, digest, self._index.looks.file(path))

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

    def _folders_to_list(self, walk: Walk, *, full: bool) -> list[str]:
        known = self._index.looks.folders()
        return [folder for folder, (_, status) in walk.folders.items() if full or _changed(status, known.get(folder))]

    def _listed(self, folders: list[str]) -> Iterator[Listing]:
        """List folders for a first look. What is in them is kept for the second, where there is anything to be looked at."""
        for folder in folders:
            looked = self._clock.wall() * 1000
            try:
                there = self._store.messages(folder)
            except StoreUnusable:  # the second look will name it
                continue
            known = self._index.looks.files_in(folder)
            yield Listing(folder, there, known)
            quiet = self._is_quiet(self._store.mailbox_of(folder), there, known)
            self._listings[folder] = looked, None if quiet else there

    def _is_quiet(self, extension: str, there: dict[str, os.stat_result], known: dict[str, tuple[Look, str]]) -> bool:
        """Whether all that lies in a folder is known as it is."""
        if there.keys() != set(map(_name, known)):
            return False
        parts = [part for path in known if (part := self._store.part_of(path)) is not None and part.form is None]
        return all(self._unchanged(message_key(extension, part.ident), there, known) for part in parts)

    def _message_folder(self, walk: Walk, folder: str) -> None:
        extension, status = walk.folders[folder]
        looked = self._clock.wall() * 1000
        try:
            if folder in self._listings:
                looked, found = self._listings.pop(folder)
            else:
                found = self._store.messages(folder)
            late = self._set_back_since(folder, found)
            self._report.unsettled |= late
            well = not late and (found is None or self._messages(extension, folder, found))
        except StoreUnusable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return  # it went since the walk: the next one sees what that means
            walk.unread[folder], well = error.words, False
            self._findings.fault(folder, error.words, error.hint)
        self._index.looks.set_folder(
            folder, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, looked if well else 0
        )

    def _set_back_since(self, folder: str, found: dict[str, os.stat_result] | None) -> set[str]:
        """What was put back from a backup after this scan had looked for that: the next one is to judge it, with all else."""
        if not self._judged_late or found is None or self._index.is_new:
            return set()
        listing = Listing(folder, found, self._index.looks.files_in(folder))
        return older(self._store, self._index, listing).keys() - self._set_back.keys()

    def _messages(self, extension: str, folder: str, found: dict[str, os.stat_result]) -> bool:
        """Look at each message of a folder; tells whether all was well, so that it need not be listed again."""
        there = {name: status for name, status in found.items() if stat.S_ISREG(status.st_mode)}
        known = self._index.looks.files_in(folder)
        for name in found.keys() - there.keys():
            self._findings.fault(
                f"{folder}/{name}", "it is no plain file; symbolic links are not followed", "move it away"
            )
        before = self._findings.unwell
        young = False
        for name, status in there.items():
            path = f"{folder}/{name}"
            part = self._store.part_of(path)
            if part is None:
                self._findings.fault(
                    path, "its name or format is not one that vmctl keeps here", "move it out of the store"
                )
            elif part.form is not None:
                if self._document_of(part.ident, extension) in there or path in known:
                    continue
                if self._is_litter(status):
                    self._findings.fault(path, "a recording without its message", "move it away, or write its document")
                else:
                    young = True  # its message may be on its way
            elif path in self._set_back:
                young = True  # to be listed again, until somebody says what it is
            elif not self._unchanged(message_key(extension, part.ident), there, known):
                self._message(message_key(extension, part.ident), there, known)
        return not young and before == self._findings.unwell

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
        self._report.opened += 1
        try:
            data = self._store.read(path)
            document, state = self._store.parse(key, data, path)
            entry = self._index.get(key)
            if entry is None:
                self._only_one(key, state)
            young = state is None and not self._settled(look)
            counted: dict[str, tuple[Look, str]] = {}
            if young and not (self._at_once and self._is_complete(key, document, there, counted)):
                self._report.unsettled.add(path)
                return
            audio = self._sound(key, document, there, known, counted)
        except (RecordError, StoreError) as error:
            if not self._settled(look):
                self._report.unsettled.add(path)
            else:
                self._findings.fault(path, error.words, error.hint)
            return
        named = audio_of(document)
        if audio is None and (named is None or not self._is_ours(key, named, state)):
            return
        whole = audio is not None
        self.edits.found(key, entry, document | {"audio": audio or named}, look.mtime // 1000, state, whole=whole)
        self._findings.seen(path, look, hashlib.sha256(data).hexdigest(), known.get(path))
        if audio is None:
            self.edits.lacks_audio(key)
        if young:
            self._report.unsettled.add(path)  # its writer may not have closed it: it is not written again yet
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
            if not self._settled(look):
                self._report.unsettled.add(path)
                return None
            facts = inspect(self._store.root / path, formats=self._store.formats, longest=float("inf"))
            document.setdefault("seconds", facts.seconds)
            self._findings.seen(path, look, facts.sha256, known.get(path))
            return facts.as_field()
        counted_before = counted.get(path) or known.get(path)
        same = counted_before is not None and counted_before[0] == look
        digest = counted_before[1] if counted_before and same else digest_of(f"{self._store.root}/{path}")[0]
        if digest != named["sha256"]:
            self._damage(key, path, "its recording has other bytes than the message says")
            return None
        self._findings.seen(path, look, digest, known.get(path))
        return named

    def _damage(self, key: str, path: str, why: str) -> None:
        """Damage is never a deletion or an edit: the recording is to be put back, from the pool or from the peer."""
        self._report.damaged.append(key)
        self._findings.fault(
            path, why, "'vmctl sync' fetches it from the other server; if that has lost it too, delete the message"
        )

    def _is_old_unsettled(self) -> bool:
        """Whether a file that has not stood still was there before this index."""
        born = int(self._index.meta("born", "0"))
        looks = (self._store.look(path) for path in self._report.unsettled)
        return any(look is not None and look.mtime // 1000 < born for look in looks)

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

    def _hold(self, found: dict[str, str]) -> None:
        """What was put back from a backup is not read: it would undo on both servers what was done since."""
        self._set_back = found
        self._report.held = sorted(found.values())
        if self._report.held != (self._index.note("set_back") or []):
            self._index.set_note("set_back", self._report.held)
        for path in found:
            why = f"older than what was here before, as {len(found) - 1} others are: was it put back from a backup?"
            mend = "'vmctl reindex' joins it with the other server, 'vmctl sync --accept-deletions' takes it as an edit"
            self._findings.fault(path, why, mend)

    def _missing(self, missing: Missing) -> None:
        self._report.absent = missing.again
        self._report.held += missing.held
        for key in missing.held:
            why = f"gone, with {len(missing.held) - 1} more at once: its deletion waits for a person's word"
            self._findings.fault(
                self._store.path(key),
                why,
                "put it back, or 'vmctl reindex' for the other server's, or 'vmctl sync --accept-deletions'",
            )
        self.edits.gone(missing.gone)
        for box in [parse_key(key).name for key in missing.gone if parse_key(key).kind == MAILBOX]:
            self.edits.bring_back(box, missing.again | set(missing.held))

    def _reported(self) -> Report:
        self._report.changed, self.edits.changed = self.edits.changed, []
        return self._report

    def may_be_open(self, path: str) -> bool:
        """Whether a file was taken before it had stood still, and has not since. Raises StoreUnusable."""
        if path in self._young and ((look := self._store.look(path)) is None or self._settled(look)):
            self._young.discard(path)
        return path in self._young

    def _settled(self, look: Look) -> bool:
        age = self._clock.wall() * 1000 - look.ctime
        return age >= self._settle * 1e9 or age < -self._settle * 1e9

    def _is_litter(self, status: os.stat_result) -> bool:
        return self._clock.wall() * 1000 - status.st_mtime_ns > _LITTER_SECONDS * 1e9


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _changed(status: os.stat_result, before: tuple[int, int, int, int] | None) -> bool:
    """Whether a folder is another than at the last look, or may have changed at that very moment."""
    mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
    return before is None or before[:3] != (mtime, ctime, status.st_ino) or before[3] - max(mtime, ctime) <= _RACY_NS
