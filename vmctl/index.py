"""What one server knows of every record: one SQLite file, `.vmctl/index.db`. Everything in it can be built again.

For each record it holds the version that this server has (`record`), the version that the store's file shows
(`shown`), and the version that the peer has acknowledged (`base`). Where `shown` lags behind, a file is to be
written; where `base` does, the record is to be shipped. So a crash at any moment leaves nothing but work to do.

A commit is durable (WAL with synchronous=FULL): promise 1 rests on it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from vmctl import (
    beneath,
    checkpoints,
    database,
    fault_list,
    history,
    lamp_list,
    letters,
    looks,
    ranges,
    replies,
    seen,
    shelf,
    tombstones,
)
from vmctl.clock import tick
from vmctl.entry import Entry, audio_of
from vmctl.errors import DiskFull, IndexDamaged, StoreUnusable
from vmctl.model import CALLFLOW, GREETING, MAILBOX, MESSAGE, PROMPT, SETTINGS, Record, Tick, canonical, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FORMAT: Final = 6
_SAME = "="
# Characters of records, and for each one besides: in memory it is some times as much.
_REMEMBERED, _BESIDES = 2_000_000, 500
# The order of shipping: what a server needs to answer calls at all comes before what callers left.
_RANK = {SETTINGS: 0, CALLFLOW: 0, MAILBOX: 0, PROMPT: 1, GREETING: 1, MESSAGE: 3}
_OTHER_RANK = 2
_RANKS = ", ".join(map(str, sorted({*_RANK.values(), _OTHER_RANK})))  # named, so that numbers are looked up in each

_ENTRY: Final = "key, version, state, shown, base"
_OF_RECORD: Final = {"born", "vector", "kept", "deleted", "purged", "fields"}

# What a message is, and since when: by the clock that said so, but never before this server's numbers got there.
_STATUS = "CASE WHEN json_valid(state) THEN json_extract(state, '$.fields.status.is') END"
_SINCE = (
    "CASE WHEN json_valid(state) "
    "THEN max(json_extract(state, '$.fields.status.at[0]'), json_extract(state, '$.fields.status.at[2]')) END"
)
# The service that a mailbox names.
_SERVICE = (
    "CASE json_type(state, '$.fields.service.is') WHEN 'text' THEN json_extract(state, '$.fields.service.is') END"
)
# Each statement is true again after it was run: a newer vmctl adds what an older one did not make.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, mailbox TEXT, name TEXT NOT NULL, lives INTEGER NOT NULL, rank INTEGER NOT NULL,
    number INTEGER NOT NULL, version TEXT NOT NULL, state TEXT NOT NULL, audio TEXT,
    shown TEXT, base TEXT, todo INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending ON records (rank, number) WHERE base IS NOT '=';
CREATE INDEX IF NOT EXISTS todo ON records (rank, key) WHERE todo;
CREATE INDEX IF NOT EXISTS by_audio ON records (audio) WHERE audio IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_name ON records (name) WHERE kind = 'message';
DROP INDEX IF EXISTS by_mailbox;
CREATE INDEX IF NOT EXISTS inside ON records (mailbox, kind, lives);
CREATE INDEX IF NOT EXISTS changed ON records (kind, number, mailbox);
CREATE TABLE IF NOT EXISTS unacked (key TEXT PRIMARY KEY, above INTEGER NOT NULL, first INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unacked_first ON unacked (first);
CREATE INDEX IF NOT EXISTS unacked_above ON unacked (above);
INSERT OR IGNORE INTO unacked SELECT key, 0, number FROM records WHERE base IS NOT '=';
"""
_AGING = f"CREATE INDEX IF NOT EXISTS aging ON records ({_STATUS}, {_SINCE}) WHERE kind = 'message' AND lives;"
_TABLES = (
    _SCHEMA + _AGING + history.TABLE + tombstones.TABLE + ranges.TABLES + shelf.TABLES + replies.TABLES
    + looks.TABLES + fault_list.TABLE + checkpoints.TABLE + lamp_list.TABLE + seen.TABLES + letters.TABLE
)  # fmt: skip


# Not REPLACE: that would write the row anew in every index, also where nothing of it has changed there.
_PUT = """INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key) DO UPDATE SET
    lives = excluded.lives, rank = excluded.rank, number = excluded.number, version = excluded.version,
    state = excluded.state, audio = excluded.audio, shown = excluded.shown, base = excluded.base, todo = excluded.todo"""


_compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class _Codec:
    """Records as the index holds them. The same one is read and written many times in a row: the last ones are remembered."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        self._texts: dict[str, str] = {}  # by version
        self._size = 0

    def dump(self, record: Record) -> str:
        """The JSON of a record, in ASCII: SQLite takes no half characters."""
        version = record.version
        text = self._texts.get(version)
        if text is None:
            text = _compact(record.as_json())
            self._remember(text, record)
            self._texts[version] = text
        return text

    def dump_other(self, record: Record | None, version: str) -> str | None:
        """Of what a file shows or the peer holds: only what differs from the version that is here."""
        if record is None:
            return None
        return _SAME if record.version == version else self.dump(record)

    def entry(self, row: tuple[str, str, str, str | None, str | None]) -> Entry:
        """The entry of a row. Raises IndexDamaged."""
        key, version, state, shown, base = row
        record = self.record(key, state, version)
        return Entry(record, self._other(record, shown), self._other(record, base))

    def _other(self, record: Record, text: str | None) -> Record | None:
        if text is None:
            return None
        return record if text == _SAME else self.record(record.key, text)

    def record(self, key: str, text: str, version: str = "") -> Record:
        """The record that was dumped, and whose `version` was counted then. Raises IndexDamaged."""
        known = self._records.get((key, text))
        if known is not None:
            return known
        try:
            record = Record.from_json(key, json.loads(text))
        except ValueError as error:
            raise IndexDamaged(f"the index holds an unreadable record {key}", why=str(error)) from error
        if version:
            record.know_version(version)
            self._texts[version] = text
        self._remember(text, record)
        return record

    def _remember(self, text: str, record: Record) -> None:
        if self._size > _REMEMBERED:
            self._records.clear()
            self._texts.clear()
            self._size = 0
        self._records[record.key, text] = record
        self._size += _BESIDES + len(text)


class Index:
    """The open index of one store. Not shared between threads; processes share the file."""

    def __init__(self, connection: database.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self.as_it_is = False
        self._inode = beneath.status(path).st_ino
        self._last = self._began = 0
        self._digest = 0
        self._depth = 0
        self._notes: dict[str, str | None] = {}  # as they are in this transaction: nobody else changes one
        self._codec = _Codec()
        self.history = history.History(self._run)
        self.parts, self.offers = ranges.Ranges(self._run, "parts"), ranges.Ranges(self._run, "offers")
        self.shelf = shelf.Shelf(self._run)
        self.replies = replies.Replies(self._run)
        self.seen, self.letters = seen.Seen(self._run), letters.Letters(self._run)
        self.checkpoints = checkpoints.Checkpoints(self._run, self.meta, self.set_meta)
        self.looks = looks.Looks(self._run, self._run_many, lambda sha256: self.replies.came([sha256]))
        self.faults = fault_list.Faults(self._run)
        self.lamps = lamp_list.Lamps(self._run, _SERVICE)
        self.tombstones = tombstones.Tombstones(self._run, self.note, self.set_note)
        self._rare = (*self.replies.rare, *self.tombstones.rare, self.faults.rare)

    @property
    def is_there(self) -> bool:
        """Whether the file that is open still has its name: one that was removed goes on without anybody seeing it."""
        try:
            return beneath.status(self._path).st_ino == self._inode
        except OSError:
            return False

    @property
    def is_new(self) -> bool:
        """Whether no scan has been able to look at all of the store yet: what is in it need not be new."""
        return not int(self.meta("seen_all", self.meta("full_scan", "0")))  # an older vmctl noted only the time

    @property
    def was_scanned(self) -> bool:
        """Whether a scan has gone through all of the store, yet: before, there may be anything in it that nobody has told of."""
        return self.meta("full_scan", "0") != "0"

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open the index, or make an empty one. Raises StoreUnusable, IndexDamaged or StoreNewer."""
        if not create and not beneath.is_there(path):
            raise StoreUnusable(f"there is no index at {path}", hint="run 'vmctl sync': it builds the index anew")
        return cls(database.connect(path, _TABLES, FORMAT, create=create), path)

    @classmethod
    def to_read(cls, path: Path) -> Self:
        """Open an index that is there, for reading: as `open` does, and also on a disk that is full or read-only.

        There SQLite cannot make what it needs beside the file, so it is read `as_it_is`: what was committed last may
        be missing, where its writer was killed. Raises as `open` does.
        """
        try:
            return cls.open(path)
        except (DiskFull, StoreUnusable):
            db = database.as_it_is(path, FORMAT)
            if db is None:
                raise
            index = cls(db, path)
            index.as_it_is = True
            return index

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        """All or nothing, durable at its end. `rollback` throws everything away instead: for a dry run.

        One transaction inside another is part of the outer one.
        """
        if self._depth:
            yield
            return
        self._run("BEGIN IMMEDIATE")
        self._depth = 1
        self.looks.begin()
        for table in self._rare:
            table.begin()
        try:
            self._last = self._began = int(self.meta("last", "0"))
            self._digest = int(self.meta("digest", "0"), 16)
            before = (self._last, self._digest)
            yield
            if rollback:
                self._db.execute("ROLLBACK")
                return
            if before != (self._last, self._digest):
                self.set_meta("last", str(self._last))
                self.set_meta("digest", f"{self._digest:032x}")
            self.looks.write()
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0
            self._notes.clear()
            self.looks.end()
            for table in self._rare:
                table.end()

    def _run_many(self, query: str, rows: Iterable[tuple[Any, ...]]) -> None:
        try:
            self._db.executemany(query, rows)
        except database.Fault as error:
            raise database.ours(error) from error

    def _run(self, query: str, values: tuple[Any, ...] = ()) -> database.Rows:
        try:
            return self._db.execute(query, values)
        except database.Fault as error:
            raise database.ours(error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, so that nothing is durable yet."""
        return self._depth > 0

    # Numbers and notes

    def next_number(self, wall: int) -> int:
        """The number of a new change; only inside a transaction."""
        assert self._depth, "numbers are given inside a transaction"  # noqa: S101
        self._last = tick(self._last, wall)
        return self._last

    def next_tick(self, wall: int) -> Tick:
        """The number of a new change with this server's incarnation; only inside a transaction."""
        return Tick(self.next_number(wall), self.meta("incarnation"))

    def witness(self, number: int) -> None:
        """Raise the clock above a reading of the peer's; only inside a transaction."""
        self._last = max(self._last, number)

    @property
    def last_number(self) -> int:
        """The number of the newest change here."""
        return self._last if self._depth else int(self.meta("last", "0"))

    @property
    def digest(self) -> str:
        """A digest over the versions of all records: equal on both servers when they hold the same.

        Tombstones do not count: each server drops them in its own time.
        """
        return f"{self._digest:032x}" if self._depth else self.meta("digest", "0" * 32)

    def meta(self, name: str, default: str = "") -> str:
        """A note by its name."""
        if name in self._notes:
            value = self._notes[name]
        else:
            row = self._run("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            value = None if row is None else str(row[0])
            if self._depth:
                self._notes[name] = value
        return default if value is None else value

    def set_meta(self, name: str, value: str) -> None:
        """Set a note."""
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        if self._depth:
            self._notes[name] = value

    def note(self, name: str) -> Any:
        """A note that holds JSON, or None."""
        text = self.meta(name)
        return json.loads(text) if text else None

    def set_note(self, name: str, value: Any) -> None:
        """Set a note that holds JSON."""
        self.set_meta(name, canonical(value).decode())

    # Records

    def get(self, key: str) -> Entry | None:
        """The entry of a record."""
        row = self._run(f"SELECT {_ENTRY} FROM records WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our own words; values are parameters
        return None if row is None else self._codec.entry(row)

    def text(self, record: Record, value: dict[str, Any]) -> bytes:
        """The JSON of a record as it is kept here, with what else `value` has; more bytes than need be where it is not ASCII."""
        more = {name: one for name, one in value.items() if name not in _OF_RECORD}
        return f"{self._codec.dump(record)[:-1]},{_compact(more)[1:]}".encode()

    def put(self, entry: Entry, wall: int) -> None:
        """Store an entry; a version that is new here gets the next change number."""
        record = entry.record
        old = self._run("SELECT version, number FROM records WHERE key = ?", (record.key,)).fetchone()
        version = record.version
        if old is None or old[0] != version:
            number = self.next_number(wall)
            counted = old is not None and not self.tombstones.is_purged(record.key)
            self._digest ^= (int(old[0], 16) if counted else 0) ^ (0 if record.is_purged else int(version, 16))
            self.tombstones.take(record, wall)
        else:
            number = old[1]
        key = parse_key(record.key)
        audio = audio_of(record.document)
        base = self._codec.dump_other(entry.base, version)
        if key.kind in history.KINDS and (old is None or old[0] != version):
            former = None if old is None else self.get(record.key)
            self.history.take(record, number, former.record if former else None)
        self._run(
            _PUT,
            (
                record.key, key.kind, key.name if key.kind == MAILBOX else key.mailbox, key.name, record.lives,
                _RANK.get(key.kind, _OTHER_RANK), number, version, self._codec.dump(record),
                audio["sha256"] if audio else None, self._codec.dump_other(entry.shown, version), base, entry.todo,
            ),
        )  # fmt: skip
        self._note_unacked(record.key, base, number, new=old is None or number != old[1])

    def show(self, entry: Entry, wall: int) -> None:
        """The file of a record shows the version that is here."""
        row = entry.record.key, entry.record.version
        if self._run("UPDATE records SET shown = '=', todo = 0 WHERE key = ? AND version = ?", row).rowcount == 0:
            self.put(replace(entry, shown=entry.record), wall)

    def acknowledge(self, key: str, version: str) -> bool:
        """The peer holds a version of a record; tells whether that is the one that is here."""
        row = key, version
        here = self._run("UPDATE records SET base = '=' WHERE key = ? AND version = ?", row).rowcount > 0
        if here:
            self._run("DELETE FROM unacked WHERE key = ?", (key,))
        return here

    def _note_unacked(self, key: str, base: str | None, number: int, *, new: bool) -> None:
        """Keep of what the peer lacks since which change it does: all that it lacks of it is `above` a number.

        The change itself has one of the numbers that were given in this transaction. Of a version that is not new, and
        is asked for again, it may lack anything.
        """
        if base == _SAME:
            self._run("DELETE FROM unacked WHERE key = ?", (key,))
        else:
            self._run("INSERT OR IGNORE INTO unacked VALUES (?, ?, ?)", (key, self._began if new else 0, number))

    def entries(self, where: str = "1", values: tuple[Any, ...] = ()) -> Iterator[Entry]:
        """The entries that a condition selects, by key."""
        rows = self._run(f"SELECT {_ENTRY} FROM records WHERE {where} ORDER BY key", values)  # noqa: S608 - our own words; values are parameters
        return map(self._codec.entry, rows.fetchall())

    def keys(self, where: str = "1", values: tuple[Any, ...] = ()) -> list[str]:
        """The keys that a condition selects, in order."""
        query = f"SELECT key FROM records WHERE {where} ORDER BY key"  # noqa: S608 - our own words; values are parameters
        return [row[0] for row in self._run(query, values)]

    def count(self, where: str = "1", values: tuple[Any, ...] = ()) -> int:
        """How many records a condition selects."""
        return int(self._run(f"SELECT count(*) FROM records WHERE {where}", values).fetchone()[0])  # noqa: S608 - our own words; values are parameters

    def in_mailbox(self, extension: str) -> list[Entry]:
        """The entries of a mailbox's greetings and messages."""
        return list(self.entries("mailbox = ? AND kind IN ('greeting', 'message')", (extension,)))

    def deleted_with_content(self) -> list[str]:
        """The extensions of deleted mailboxes that something lives in."""
        query = """SELECT substr(key, 9) FROM dead WHERE key > 'mailbox/' AND key < 'mailbox0' AND EXISTS (
            SELECT 1 FROM records WHERE mailbox = substr(dead.key, 9) AND kind IN ('greeting', 'message') AND lives)"""
        return [row[0] for row in self._run(query)]

    def living_in(self, extension: str) -> list[Entry]:
        """Of these the living ones."""
        return list(self.entries("mailbox = ? AND kind IN ('greeting', 'message') AND lives", (extension,)))

    def with_audio(self, sha256: str) -> list[Entry]:
        """The entries that name a recording."""
        return list(self.entries("audio = ?", (sha256,)))

    def named_audio(self, recordings: set[str]) -> set[str]:
        """Of these those that an entry names."""
        query = "SELECT audio FROM records WHERE audio IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._run(query, (json.dumps(sorted(recordings)),))}

    def needs_audio(self, sha256: str, *, besides: str = "") -> bool:
        """Whether something besides one record names a recording: what lives or can be restored, lost in a conflict, or was.

        What was purged names it until it is swept.
        """
        query = """SELECT 1 FROM records LEFT JOIN dead USING (key)
            WHERE audio = ? AND key <> ? AND NOT ifnull(swept, 0) AND (lives OR kind <> 'conflict')"""
        return self._run(query, (sha256, besides)).fetchone() is not None or self.history.names_audio(sha256)

    def aging(self, status: str, before: int) -> list[tuple[str, str, int]]:
        """Key and mailbox of each living message that has had a status since before a time, and since when."""
        query = f"""SELECT key, mailbox, {_SINCE} FROM records
            WHERE kind = 'message' AND lives AND {_STATUS} = ? AND {_SINCE} < ? ORDER BY 3"""  # noqa: S608 - our own words; values are parameters
        return [(row[0], row[1], row[2]) for row in self._run(query, (status, before))]

    def mailboxes(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """The mailboxes that are or were: extension, the service that each names, its own timers."""
        timers = "'$.fields.timers.is'"
        query = f"""SELECT name, {_SERVICE},
            CASE json_type(state, {timers}) WHEN 'object' THEN json_extract(state, {timers}) ELSE '{{}}' END
            FROM records WHERE key > 'mailbox/' AND key < 'mailbox0'"""  # noqa: S608 - our own words; values are parameters
        return [(name, service, json.loads(timers)) for name, service, timers in self._run(query)]

    def mailbox_services(self, above: int = 0) -> list[tuple[str, bool, str | None]]:
        """Of each mailbox that was changed above a number: its extension, whether it lives, the service that it names."""
        query = f"SELECT name, lives, {_SERVICE} FROM records WHERE kind = '{MAILBOX}' AND number > ?"  # noqa: S608 - our own words; values are parameters
        return [(name, bool(lives), service) for name, lives, service in self._run(query, (above,))]

    def newest_by(self, incarnation: str) -> int:
        """The number of the newest change of an incarnation in all records; 0 where there is none."""
        query = "SELECT max(value) FROM records, json_each(state, '$.vector') AS one WHERE one.key = ?"
        return int(self._run(query, (incarnation,)).fetchone()[0] or 0)

    def todo(self) -> list[str]:
        """The keys whose files are to be written, the most needed first."""
        return [row[0] for row in self._run("SELECT key FROM records WHERE todo ORDER BY rank, key")]

    def unwritten(self) -> int:
        """How many files are to be written by themselves: what is gone and waits for a person's word is not."""
        held = set(self.note("held") or [])
        return sum(key not in held for key in self.todo()) if held else self.count("todo")

    def writable(self) -> list[str]:
        """Of these keys those whose recording is not awaited."""
        query = f"SELECT key FROM records WHERE todo AND NOT {replies.WAITS} ORDER BY rank, key"  # noqa: S608 - our own words; values are parameters
        return [row[0] for row in self._run(query)]

    def pending(self, above: int = -1) -> Iterator[tuple[str, str, str]]:
        """Key, kind and version of what the peer lacks: settings, callflows and mailboxes first, then the newest.

        Of the changes `above` a number only. Nothing may be changed before the last one is had.
        """
        query = f"""SELECT key, kind, version FROM records WHERE base IS NOT '=' AND rank IN ({_RANKS}) AND number > ?
            ORDER BY rank, number DESC"""  # noqa: S608 - our own words
        yield from self._run(query, (above,))

    def pending_count(self) -> int:
        """How many records the peer lacks."""
        return int(self._run("SELECT count(*) FROM unacked").fetchone()[0])

    def oldest_pending(self) -> int | None:
        """The change number (a clock reading, microseconds) of the oldest change that the peer lacks."""
        value = self._run("SELECT min(first) FROM unacked").fetchone()[0]
        return None if value is None else int(value)

    @property
    def settled(self) -> int:
        """The number up to which the peer has acknowledged every change of this server."""
        above = self._run("SELECT min(above) FROM unacked").fetchone()[0]
        return self.last_number if above is None else int(above)

    def forget_bases(self) -> None:
        """The peer's acknowledgements are void: everything is offered again, by both."""
        self._run("UPDATE records SET base = NULL")
        self._run("INSERT OR REPLACE INTO unacked SELECT key, 0, number FROM records")
        self._run("DELETE FROM offers")
        self.replies.drop_wants()
        self.shelf.clear()

    def offer_again(self, group: str) -> None:
        """The peer's acknowledgements of one group are void: `mailbox/EXT`, or a kind of records outside of mailboxes."""
        kind, _, mailbox = group.partition("/")
        where, value = ("mailbox = ?", mailbox) if mailbox else ("mailbox IS NULL AND kind = ?", kind)
        self._run(f"UPDATE records SET base = NULL WHERE {where}", (value,))  # noqa: S608 - our own words; values are parameters
        self._run(f"INSERT OR REPLACE INTO unacked SELECT key, 0, number FROM records WHERE {where}", (value,))  # noqa: S608 - our own words; values are parameters

    def versions(self) -> Iterator[tuple[str, str | None, str]]:
        """Kind, mailbox and version of every record that the digest counts."""
        yield from self._run(
            "SELECT kind, mailbox, version FROM records WHERE key NOT IN (SELECT key FROM dead WHERE purged)"
        )

    def recount_digest(self) -> bool:
        """Count the digest again from all records; tells whether it was wrong. Only inside a transaction."""
        before, self._digest = self._digest, 0
        for _, _, version in self.versions():
            self._digest ^= int(version, 16)
        return before != self._digest

    def remember_records(self) -> None:
        """Keep every record as it is now, until `forget_records`, to tell later what has changed; in a transaction."""
        self.forget_records()
        self._run("CREATE TABLE remembered (key TEXT PRIMARY KEY, version TEXT, state TEXT) WITHOUT ROWID")
        self._run("INSERT INTO remembered SELECT key, version, state FROM records")

    def remembered_otherwise(self) -> Iterator[tuple[str, Record | None]]:
        """The keys of the records that are not as they were remembered, and what they were then (None: not there)."""
        if not self._run("SELECT 1 FROM sqlite_master WHERE name = 'remembered'").fetchone():
            return
        rows = self._run(
            "SELECT records.key, remembered.state FROM records LEFT JOIN remembered USING (key)"
            " WHERE remembered.version IS NOT records.version ORDER BY records.key"
        )
        for key, state in rows.fetchall():
            yield key, None if state is None else self._codec.record(key, state)

    def forget_records(self) -> None:
        """Nothing is remembered any more."""
        self._run("DROP TABLE IF EXISTS remembered")
