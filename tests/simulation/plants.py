"""Deliberate bugs, each planted by replacing one function of the product: the simulation has to find every one of them.

A plant tells which corner suits it, as a profile: a bug of the disk shows where power is cut, one of the mail where mail
is lost. It must be found by a promise that breaks, or by what a person would see, not by an accident of the plant.
"""

import contextlib
from dataclasses import dataclass, replace
from unittest import mock

from vmctl import apply, desk, durable, edits, identity, inbox, merge, model, outbox, rollback, scan, spool
from vmctl.absence import Absences
from vmctl.answers import Answers
from vmctl.errors import StoreError
from vmctl.gone import file_of
from vmctl.index import Index
from vmctl.purge import Housekeeper
from vmctl.replica import Replica
from vmctl.together import Together

from .schedule import Profile

LOSSY = {"direct": 2.0, "lost": 1.0, "relay": 2.0, "doubled": 1.0, "unanswered": 1.0, "broken": 1.0}
CALM = {"direct": 1.0}
PLANTS = {}


@dataclass(frozen=True)
class Plant:
    """One bug: what it is, where it goes, and where to look for it.

    `seeds` are looked through from `first` on, one at which it is known to be found: that of 0 may lie far before it.
    """

    name: str
    words: str
    places: tuple  # (owner, name, what stands there instead)
    profile: Profile
    seeds: int
    first: int = 0


def plant(owner, name, kinds, *, fates=None, power=0.5, acts=30, seeds=150, first=0, also=(), **how):
    """Register a bug: the decorated function stands in the place of `owner.name`."""

    def register(bug):
        profile = Profile(tuple(kinds.split()), dict(fates or CALM), power=power, acts=acts, **how)
        wrapped = property(bug) if isinstance(getattr(owner, name), property) else bug
        places = tuple((room, attribute, wrapped) for room, attribute in ((owner, name), *also))
        PLANTS[bug.__name__] = Plant(bug.__name__, bug.__doc__, places, profile, seeds, first)
        return bug

    return register


# The disk


@plant(durable, "_fill_new", "crash", power=1.0)
def renamed_without_fsync(path, data, rights, *, waits=True, kept=None):
    """A new file is renamed into its place before its bytes are durable."""
    fd = durable._open(path, durable.os.O_WRONLY | durable.os.O_CREAT | durable.os.O_EXCL, rights.mode)
    durable._write(fd, data)
    durable.os.close(fd) if kept is None else kept.append(fd)


@plant(durable, "fsync_directory", "crash", power=1.0)
def folder_not_synced(path):
    """The names in a folder are not made durable."""


@plant(spool.Spool, "put", "crash net", power=1.0, fates={"direct": 2.0, "unanswered": 1.0}, first=2)
def answered_before_fsync(self, raw, packet, wall):
    """250 is said while the mail is only in the page cache."""
    durable.make_directory(self._folder)
    path = self._folder / f"{wall:016d}-{packet}.eml"
    fd = durable._open(path, durable.os.O_WRONLY | durable.os.O_CREAT, 0o600)
    durable._write(fd, raw)
    durable.os.close(fd)
    return path


@plant(durable, "keep", "hand crash", power=1.0, first=7)
def scanned_before_durable(_paths, _root):
    """What an application or a person wrote counts as accepted before it is durable."""


@plant(Replica, "_take_one", "crash", power=0.0, first=22)
def spool_removed_early(self, path):
    """A mail leaves the spool before what it brought is committed."""
    mail = self.door.read(self.spool.read(path))
    self.spool.done(path)
    return self._merge(mail, again=False)


@plant(Together, "settle", "crash", power=1.0)
def names_before_bytes(_self):
    """Many new files take their places before their bytes are durable."""


@plant(Together, "close", "crash", power=1.0)
def names_not_waited_for(_self):
    """Many new files are noted before their names are durable."""


# Records and merge


@plant(merge, "_later", "records net", fates=LOSSY)
def stamp_ignored(one, other):
    """Of two values a server keeps its own."""
    return one or other


@plant(model.Record, "lives", "records net", fates=LOSSY, first=20)
def delete_wins_by_time(self):
    """Whether a record lives is decided by what was last, not by what its deleter had seen."""
    return max(self.kept.values(), default=0) > max(self.deleted.values(), default=0)


@plant(desk, "deleted", "records net", fates=LOSSY, also=((edits, "deleted"),), first=3)
def deletes_more_than_was_seen(record, tick):
    """A deletion removes also what its author had not seen."""
    far = dict.fromkeys({*record.vector, *record.kept, "primary", "secondary"}, 2**52)
    seen = model.join(record.deleted, far)
    return replace(record, vector=model.join(record.vector, {tick.by: tick.number}), deleted=seen)


@plant(inbox, "conflicts", "records net", more={"set_mailbox": 5.0})
def conflicts_not_listed(_mine, _other):
    """What lost against a concurrent edit is thrown away."""
    return []


@plant(Index, "put", "net crash", fates=LOSSY)
def tombstone_dropped(self, entry, wall):
    """What is deleted and has no file any more is forgotten at once."""
    _put(self, entry, wall)
    if not entry.record.lives and entry.shown is None and entry.record.kind == "message":
        self._run("DELETE FROM records WHERE key = ?", (entry.record.key,))


_put = Index.put


@plant(inbox, "holds", "records memory", fates=LOSSY, seeds=300, first=121)
def base_taken_as_held(_mine, _vector, _version):
    """A delta is taken although the version that it builds upon is not here."""
    return True


@plant(Answers, "_acks", "use records net", fates={"direct": 1.0, "relay": 3.0})
def ack_covers_a_later_version(self, acks):
    """An acknowledgement is taken for the version that is here now, whatever it names."""
    acked = []
    for key, _ in acks or []:
        entry = self._index.get(str(key))
        if entry is not None:
            self._index.put(replace(entry, base=entry.record), self._clock.wall())
            self._outbox.acknowledged(str(key))
            acked.append(str(key))
    return acked


@plant(outbox.Outbox, "left", "records net", fates=LOSSY)
def sent_is_held(self, parcel):
    """What left counts as held by the peer."""
    _left(self, parcel)
    with self._index.transaction():
        for key in parcel.versions:
            entry = self._index.get(key)
            if entry is not None:
                self._index.put(replace(entry, base=entry.record), self._clock.wall())


_left = outbox.Outbox.left


@plant(
    inbox.Inbox, "_record_or_hold", "records net memory", fates={"direct": 1.0, "relay": 3.0}, acts=45,
    more={"lose_index": 4.0, "make_mailbox": 2.0, "set_callflow": 2.0},
    first=270,
)  # fmt: skip
def former_life_believed(self, value, taken, *, current):
    """What a former life of the peer sent counts as held by the present one."""
    return _record_or_hold(self, value, taken, current=True)


_record_or_hold = inbox.Inbox._record_or_hold


@plant(
    inbox.Inbox, "_holds_up_to", "records net", fates={"direct": 2.0, "relay": 1.0, "lost": 2.0}, narrow=True, acts=40,
    more={"delete_mailbox": 10.0, "make_mailbox": 3.0, "turn": 2.0},
    first=115,
)  # fmt: skip
def mailbox_back_too_early(_self, _change):
    """A deleted mailbox is brought back by what was deleted with it, and is still on its way."""
    return True


@plant(Housekeeper, "_purge", "age", seeds=300, more={"delete": 3.0, "keep_house": 3.0, "days_pass": 2.0}, first=18)
def purge_not_replicated(self, kept):
    """What is purged at one server can be restored at the other for ever."""
    with self._index.transaction():
        for key in kept.purged:
            entry = self._index.get(key)
            gone = model.purged(entry.record, self._tick())
            self._index.put(replace(entry, record=gone, base=gone), self._replica.clock.wall())


# Files that people and applications have their hands on


@plant(Absences, "look", "hand records", acts=40, more={"away_for_a_moment": 10.0, "set_callflow": 3.0}, first=80)
def absent_at_the_first_look(self, *values, **words):
    """A file that is away for a moment counts as deleted."""
    self._settle = 0.0
    return _look(self, *values, **words)


_look = Absences.look


@plant(scan.Scanner, "settled", "hand", more={"half_an_edit": 20.0}, first=8)
def settle_ignored(self, _look):
    """A file is read while somebody writes it."""
    return True


@plant(Absences, "_is_there", "unreadable", more={"unreadable": 5.0})
def unreadable_is_absent(self, key, _walk):
    """A file that cannot be looked at counts as one that is not there."""
    try:
        return self._store.look(file_of(self._store, key, self._index.get(key))) is not None
    except StoreError:
        return False


@plant(apply.Applier, "_as_last_seen", "hand records", first=84)
def person_overwritten(self, _key):
    """The peer's edit is written over what a person has just saved."""
    return True


@plant(scan.Scanner, "_sound", "damage")
def recording_unchecked(self, key, document, there, known, counted):
    """The bytes of a recording are not compared with the digest that its message names."""
    if (document.get("audio") or {}).get("sha256") is None:
        return _sound(self, key, document, there, known, counted)
    return document["audio"]


_sound = scan.Scanner._sound


# Memory


@plant(rollback.Rollback, "rolled_back_here", "memory records net", seeds=300, first=7)
def rollback_not_noticed(self, mail):
    """A server that was put back from a backup goes on as if nothing had happened."""
    return False


@plant(identity, "renew", "memory records", seeds=300, first=2)
def incarnation_not_renewed(root, network, server):
    """A server that lost its memory keeps the name of its former life."""
    return identity.read(root, network, server)


@plant(identity, "read", "mount", seeds=200)
def missing_store_is_used(root, network, server):
    """A folder without its identity counts as an empty store."""
    path = root / ".vmctl/identity.json"
    if path.exists():
        return _read(root, network, server)
    durable.make_directory(root / ".vmctl")
    return identity.create(root, network, server)


_read = identity.read


@contextlib.contextmanager
def planted(bug):
    """A bug stands in the product."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, stands in bug.places:
            stack.enter_context(mock.patch.object(owner, attribute, stands))
        yield


def hunt(kind, name):
    """Run seeds until one breaks, and give what came of it; None where the bug hides."""
    bug = kind.plants[name]
    with planted(bug):
        for seed in range(bug.first, bug.first + bug.seeds):
            outcome = kind.run(kind.schedule_of(f"{name} {seed}", bug.profile))
            if outcome.failure:
                return outcome
    return None
