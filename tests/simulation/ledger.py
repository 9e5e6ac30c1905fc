"""What must hold, by a model of its own: which acts each server has seen, and what an act had seen when it was done.

An act on a record may keep it (a birth, a save, a restore; of all but messages any edit), delete it, and set fields. A
delete removes only what its author had seen; a field is that of an act that no other act which set it had seen. The
ledger follows the acts from server to server with the mails that carry them. It knows nothing of stamps or counters.

What a crash left open, or what no server need hold any more, is a `maybe`: it may count or not.
"""

import json
from dataclasses import dataclass, field

ABSENT = "(absent)"


class Violation(AssertionError):
    """Something that must hold does not."""


def require(condition, words):
    """Raises Violation."""
    if not condition:
        raise Violation(words)


def plain(value):
    """A value that can be in a set: mappings and lists as their text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


@dataclass(frozen=True)
class Act:
    """One act on one record, and the acts on it that its author had seen."""

    number: int
    key: str
    server: str
    what: str
    seen: frozenset
    keeps: bool = False
    deletes: bool = False
    writes: tuple = ()
    perhaps: frozenset = frozenset()  # what its author may have seen besides

    def sets(self, name):
        """Whether it set a field."""
        return any(field == name for field, _ in self.writes)

    def value(self, name):
        """The value that it gave to a field."""
        return dict(self.writes)[name]


@dataclass
class Memory:
    """What one server holds: for each record the acts in its index, and those that its file showed last.

    `perhaps` are acts that came in a mail which it may have had reason to leave.
    """

    known: dict = field(default_factory=dict)
    perhaps: dict = field(default_factory=dict)
    shown: dict = field(default_factory=dict)
    spooled: list = field(default_factory=list)  # what mails that were answered with 250 bring

    def copy(self):
        """The same, for a backup."""
        known, perhaps = ({key: set(acts) for key, acts in these.items()} for these in (self.known, self.perhaps))
        return Memory(known, perhaps, dict(self.shown), list(self.spooled))


class Ledger:
    """All acts, and who has seen which."""

    def __init__(self, names):
        self.acts = {}
        self.memory = {name: Memory() for name in names}
        self.maybe = {}  # key -> acts that may count

    def know(self, name, key):
        """The acts on a record that a server has seen."""
        return self.memory[name].known.setdefault(key, set())

    def perhaps(self, name, key):
        """The acts that it may have seen besides."""
        return self.memory[name].perhaps.setdefault(key, set())

    def shown(self, name, key):
        """The acts on a record that its file at a server showed last."""
        return self.memory[name].shown.get(key, frozenset())

    def note(self, name, key, what, *, seen=None, also=(), maybe=False, **how):
        """An act was done at a server, having seen `seen`, or all that is known there, and perhaps `also`."""
        seen = frozenset(self.know(name, key)) if seen is None else frozenset(seen)
        how["writes"] = tuple(
            sorted(((field, plain(value)) for field, value in how.get("writes", {}).items()), key=lambda item: item[0])
        )
        perhaps = frozenset(self.perhaps(name, key) | self._maybe(key) | set(also)) - seen
        act = Act(len(self.acts) + 1, key, name, what, seen, perhaps=perhaps, **how)
        self.acts[act.number] = act
        if maybe:
            self.maybe.setdefault(key, set()).add(act.number)
        else:
            self.know(name, key).add(act.number)
        return act

    def doubt(self, key, numbers):
        """These acts may count or not."""
        self.maybe.setdefault(key, set()).update(numbers)

    # Mails

    def snapshot(self, name, keys):
        """What a mail about these records brings, for sure and perhaps."""
        return {key: (frozenset(self.know(name, key)), frozenset(self.perhaps(name, key))) for key in keys}

    def absorb(self, name, brought, *, sure=True):
        """A server took what a mail brings."""
        for key, (acts, others) in brought.items():
            self.know(name, key).update(acts if sure else ())
            self.perhaps(name, key).update(others if sure else acts | others)
            self.perhaps(name, key).difference_update(self.know(name, key))

    def take_spool(self, name, incarnation):
        """A server took all that it had answered with 250.

        A mail for a former life of its memory may say what changed since a version that it does not hold any more:
        that is left and asked for anew. So may one for a server that was put back from a backup, and does not know yet:
        its present life is None.
        """
        memory = self.memory[name]
        for brought, sure, to in memory.spooled:
            self.absorb(name, brought, sure=sure and to in ("", incarnation))
        memory.spooled.clear()

    # What must be

    def keys(self, prefix=""):
        """The records that anything was done to."""
        return sorted({act.key for act in self.acts.values() if act.key.startswith(prefix)})

    def recordings(self, keys):
        """The recordings (SHA-256) that some records were ever given."""
        return {act.value("audio") for act in self.acts.values() if act.key in keys and act.sets("audio")}

    def of(self, numbers):
        """Acts by their numbers, in order."""
        return [self.acts[number] for number in sorted(numbers)]

    def must_live(self, key, names):
        """Whether a birth, save or restore is there that no deleter can have seen, by what these servers know."""
        known, maybe = self._by(key, names)
        gone = self._perhaps_deleted(known | maybe)
        return any(act.keeps and act.number not in gone for act in self.of(known))

    def must_be_gone(self, key, names):
        """Whether it was deleted, and the deleters had seen every birth, save and restore there may be."""
        known, maybe = self._by(key, names)
        deletes = [act for act in self.of(known) if act.deletes]
        gone = _seen(deletes)
        return bool(deletes) and all(act.number in gone for act in self.of(known | maybe) if act.keeps)

    def deleted(self, key, names):
        """The acts that somebody had seen who deleted the record."""
        known, maybe = self._by(key, names)
        return self._perhaps_deleted(known | maybe)

    def _perhaps_deleted(self, numbers):
        deletes = [act for act in self.of(numbers) if act.deletes]
        return {number for act in deletes for number in act.seen | act.perhaps}

    def values(self, key, name, names):
        """Of a field: the acts of which one must have given its value, and those that may have besides."""
        known, maybe = self._by(key, names)
        sure = [act for act in self.of(known) if act.sets(name)]
        covered = _seen(sure)
        open_ = [act for act in self.of(maybe) if act.sets(name)]
        return [act for act in sure if act.number not in covered], open_

    def _by(self, key, names):
        """The acts that these servers know for sure, and those that may count besides."""
        known = {number for name in names for number in self.know(name, key)}
        maybe = self._maybe(key) | {number for name in names for number in self.perhaps(name, key)}
        return known - self._maybe(key), maybe - (known - self._maybe(key))

    def fields(self, key, name=None, *, sure=False):
        """Every field that was ever set in a record, as far as a server knows or may know; with `sure` what it knows."""
        acts = [act for act in self.acts.values() if act.key == key]
        if name is not None:
            known, maybe = self.know(name, key), self._maybe(key)
            counts = known - maybe if sure else known | maybe | self.perhaps(name, key)
            acts = [act for act in acts if act.number in counts]
        return {field for act in acts for field, _ in act.writes}

    def _maybe(self, key):
        return self.maybe.get(key, set())


def _seen(acts):
    return {number for act in acts for number in act.seen}
