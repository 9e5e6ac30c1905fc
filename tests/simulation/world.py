"""Two whole servers on simulated disks, clocks and mail, in one process: everything that happens comes from one seed."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import random
import secrets
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vmctl import config as config_room
from vmctl import database, network, outbox, pin
from vmctl import desk as desk_room
from vmctl import index as index_room
from vmctl.at_work import DAEMON
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.errors import MailRefused, PeerUnreachable, RecordError, StoreError, SyncError, VmctlError
from vmctl.post import Post
from vmctl.replica import Replica

from .disk import Crash, Disk, Side
from .files import is_torn, read_document
from .learning import brought_back, learn
from .ledger import ABSENT, Ledger, Violation
from .network import Network

NAMES = ("primary", "secondary")
SETTLE = 1.0
START = 1_767_225_600_000_000  # 2026-01-01, microseconds
ROOM = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


class SimClock(Clock):
    """The clocks of one server: a wall clock that may be wrong, drift and jump, and a steady one that does not."""

    def __init__(self, world, chance):
        self._world = world
        self.offset = chance.choice(
            (0, 0, 0, chance.randrange(-5_000_000, 5_000_000), chance.randrange(-(10**13), 10**15))
        )
        self.rate = chance.choice((1.0, 1.0, 1.0001, 0.9999))
        self._booted = 0.0
        self._boots = 0

    def wall(self):
        return START + int(self._world.now * self.rate) + self.offset

    def steady(self):
        return self._world.now / 1e6 - self._booted + 10

    def boot(self):
        return f"boot-{self._boots}"

    def reboot(self):
        """The machine starts again."""
        self._boots += 1
        self._booted = self._world.now / 1e6

    def pass_time(self, seconds):
        """Time passes, for everybody."""
        self._world.now += int(seconds * 1_000_000)


class Machine:
    """One server: its disk, its clock, and its process while it runs."""

    def __init__(self, name, side, clock):
        self.name, self.side, self.clock = name, side, clock
        self.post = None
        self.unmounted = None  # where the store is, while it is not in its place

    @property
    def root(self):
        """The directory of the store."""
        return self.side.root

    @property
    def index(self):
        """The open index."""
        return self.post.replica.index


class Carriage:
    """Stands in the place of the one that speaks SMTP."""

    def __init__(self, world, name):
        self._world, self._name = world, name

    def carry(self, parcel):
        """Hand over a mail."""
        self._world.network.hand_over(self._name, parcel.raw, self._world.leaving)

    def close(self):
        """Nothing is open."""


class World:
    """The two servers and all around them."""

    clock = SimClock

    def __init__(self, directory, seed, profile):
        self.directory = Path(directory)
        self.profile = profile
        self.now = 0  # microseconds since the beginning
        self.chance = random.Random(f"{seed} world")
        self.counts = Counter()
        self.trace = hashlib.sha256()
        self.story = []
        self.disk = Disk()
        self.ledger = Ledger(NAMES)
        self.network = Network(self, profile.fates)
        self.machines = {}
        self.leaving = None
        self.hand = {name: {} for name in NAMES}  # what people wrote into files and no scan has seen yet
        self.removed = {name: {} for name in NAMES}  # files that people removed and no scan has judged yet
        self.dropped = {name: {} for name in NAMES}  # messages that an application put there
        self.damaged = {}  # key -> servers where its recording was destroyed by hand
        self.rolled = {}  # name -> the incarnation that a rolled-back server has not left yet
        self.forgot = set()  # the servers that lost their memory: what only that memory held may be gone
        self.settled = set()  # records of which a person is done with a conflict
        self.purged = set()  # what cannot be restored any more
        self.backups = {}
        self.unique = 0
        self.config = template(profile.mode, profile.settings, self.directory)
        for name in NAMES:
            clock = self.clock(self, self.chance)
            side = Side(name, self.directory / name, clock)
            self.disk.adopt(side)
            self.machines[name] = Machine(name, side, clock)

    # The frame around everything

    @contextlib.contextmanager
    def running(self):
        """The disk, chance and time of this world stand behind the product's."""
        source = Chance(self)
        commit = index_room.Index._run
        world = self

        def run(index, query, values=()):
            if query == "COMMIT":
                world.commit_step(index)
            return commit(index, query, values)

        with contextlib.ExitStack() as stack:
            stack.enter_context(self.disk.installed())
            for name in ("token_hex", "token_bytes", "randbelow"):
                stack.enter_context(mock.patch.object(secrets, name, getattr(source, name)))
            stack.enter_context(mock.patch.object(desk_room, "time", source))
            stack.enter_context(mock.patch.object(index_room.Index, "_run", run))
            stack.enter_context(mock.patch.object(pin, "_COST", 2))
            if self.profile.narrow:  # what was done in one act comes in many mails
                stack.enter_context(mock.patch.object(outbox, "MOST_RECORDS", 2))
            try:
                yield self
            finally:
                for machine in self.machines.values():
                    self.end(machine)

    def commit_step(self, index):
        """A commit of an index is a durable step, too."""
        machine = next((one for one in self.machines.values() if index._path.is_relative_to(one.root)), None)
        if machine is None:
            return
        try:
            if machine.side.step("commit"):
                raise Crash
        except OSError as error:
            raise database.ours(sqlite3.OperationalError("database or disk is full")) from error

    def reseed(self, seed):
        """Everything that is drawn from now on comes from this seed: one act does not change the chances of the next."""
        self.chance = random.Random(seed)
        random.seed(seed)

    def count(self, what):
        """Count a fault that was injected."""
        self.counts["fault: " + what] += 1

    def tell(self, text):
        """A line of the story, for people and for the digest of the run."""
        self.story.append(text)
        self.trace.update(text.encode() + b"\n")

    @staticmethod
    def other(name):
        """The peer's name."""
        return NAMES[name == NAMES[0]]

    def number(self):
        """A number that no other act uses."""
        self.unique += 1
        return self.unique

    # Processes

    def start(self, name):
        """The process of a server starts, unless it runs; tells whether it runs now."""
        machine = self.machines[name]
        if machine.post is not None:
            return True

        def begin():
            post = Post(self.config, name, machine.clock, role=DAEMON, wake=lambda: None)
            post.__enter__()
            machine.post = post
            post._carriage = Carriage(self, name)
            self.refresh_rolled(machine)
            self.take(machine)
            post.start()

        self.product(name, begin)
        return machine.post is not None

    def end(self, machine, *, killed=True):
        """The process of a server ends; `killed` lets it do nothing more."""
        post, machine.post = machine.post, None
        if post is None:
            return
        with contextlib.suppress(sqlite3.Error):
            post.replica.index._db.close()
        os.close(post._lock)

    def _note_what_is_torn(self, name):
        """A part of what somebody saved, and did not sync, may be read as a whole that lacks the rest."""
        for key, how in self.hand[name].items():
            left = read_document(how["path"]) if is_torn(how) and how["path"].exists() else None
            if left is not None:
                lacks = dict.fromkeys(set(self.ledger.fields(key, name)) - left.keys(), ABSENT)
                self.ledger.note(name, key, "torn", writes=lacks, maybe=True, keeps=True)

    def crash(self, name, *, power=False):
        """The process is killed, and with `power` the machine loses what was not synced."""
        machine = self.machines[name]
        self.end(machine)
        machine.side.dead = False
        machine.side.crash_at = None
        if power and not machine.unmounted:
            self.count("power cut")
            for pending in (self.hand, self.removed, self.dropped):
                for how in pending[name].values():
                    how["power"] = True
            lost = self.disk.power_cut(machine.side, self.chance)
            machine.clock.reboot()
            self._note_what_is_torn(name)
            self.tell(f"  the power of {name} is cut: {lost} unsynced changes are lost")
        else:
            self.count("crash")
            self.tell(f"  {name} is killed")

    def product(self, name, call):
        """Run something of the product at a server; gives how it ended. Raises Violation for what is a bug."""
        machine = self.machines[name]
        try:
            call()
        except Crash:
            power = self.chance.random() < self.profile.power
            self.crash(name, power=power)
            return "crash"
        except VmctlError as error:
            self.suspicious(error)
            if isinstance(error, StoreError) and not isinstance(error, RecordError):
                self.count("error " + type(error).__name__)
            if type(error).__name__ in {"StoreExchanged", "StoreMissing"}:
                self.end(machine)
            return type(error).__name__
        return "ok"

    def suspicious(self, error):
        """Only some errors are answers to what happens here; others are bugs."""
        if (
            isinstance(error, (RecordError, PeerUnreachable, MailRefused))
            or error.__class__.__module__ == "vmctl.errors"
        ):
            if isinstance(error, VmctlError) and type(error).__name__ in {
                "IndexDamaged",
                "StoreDamaged",
                "JournalBroken",
            }:
                raise Violation(f"{type(error).__name__}: {error.what} {error.why}") from error
            return
        raise error

    # The main path

    def turn(self, name, *, scan=True, send=True, full=False, accept=False, always=False, anew=False):
        """One turn of a server's loop."""
        if not self.start(name):
            return "down"
        machine = self.machines[name]

        def go():
            self.take(machine)
            if scan:
                machine.post.replica.scan(full=full, accept_deletions=accept)
                machine.post.tick(automatic=False)
            if send:
                self.send(machine, always=always, anew=anew)
            machine.post.note_step()

        return self.product(name, go)

    def take(self, machine):
        """A server takes in what its spool holds."""
        machine.post.take()
        self.refresh_rolled(machine)
        life = machine.index.meta("incarnation")
        self.ledger.take_spool(machine.name, None if machine.name in self.rolled else life)
        brought_back(self, machine)

    def send(self, machine, *, always=False, anew=False, most=1000):
        """A server sends what is due, as its loop does; gives how many mails left."""
        count = 0
        learn(self, machine)
        for parcel in machine.post.parcels(always=always, anew=anew):
            sure = self.rolled.get(machine.name) is None
            to = machine.index.meta("peer_incarnation")
            self.leaving = (self.ledger.snapshot(machine.name, parcel.versions), sure, to)
            self.counts["mails"] += 1
            self.sent_bytes = len(parcel.raw)
            try:
                count += machine.post.deliver(parcel)
            except SyncError:
                break
            if count >= most:
                break
        return count

    def receive(self, machine, raw):
        """The receiver of a server takes a mail, in its thread; a crash there is one of the server."""
        try:
            machine.post._receive(raw)
        except Crash:
            self.crash(machine.name, power=self.chance.random() < self.profile.power)
            return "nobody answers"
        return "250 taken"

    def answered(self, to, brought, reply):
        """250 was said: what the mail brings is durable. Without an answer it may be in the spool all the same."""
        what, sure, life = brought
        if not reply.startswith("5"):
            self.ledger.memory[to].spooled.append((what, sure and reply.startswith("250"), life))

    def refresh_rolled(self, machine):
        """A rolled-back server that has taken a new incarnation speaks for itself again."""
        before = self.rolled.get(machine.name)
        if before is not None and machine.index.meta("incarnation") != before:
            del self.rolled[machine.name]

    # Looking at it from outside

    def versions(self, name, keys):
        """The versions of records in a server's index, read from the file."""
        path = self.machines[name].root / ".vmctl/index.db"
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(path)) as db:
            try:
                return {
                    key: row[0]
                    for key in keys
                    if (row := db.execute("SELECT version FROM records WHERE key = ?", (key,)).fetchone())
                }
            except sqlite3.DatabaseError:
                return {}

    def documents(self, name, keys):
        """The values of living records in a server's index, as the ledger has them, read from the file."""
        path = self.machines[name].root / ".vmctl/index.db"
        found = {}
        if not path.exists():
            return found
        with contextlib.closing(sqlite3.connect(path)) as db:
            for key in keys:
                row = db.execute("SELECT state FROM records WHERE key = ? AND lives", (key,)).fetchone()
                if row is not None:
                    fields = json.loads(row[0])["fields"]
                    values = {field: value["is"] for field, value in fields.items() if "is" in value}
                    audio = values.get("audio")
                    found[key] = values | ({"audio": audio["sha256"]} if isinstance(audio, dict) else {})
        return found

    def is_unnoted(self, name, key):
        """Whether a server's index has a record and does not know of a file that shows it."""
        path = self.machines[name].root / ".vmctl/index.db"
        if not path.exists():
            return False
        with contextlib.closing(sqlite3.connect(path)) as db:
            row = db.execute("SELECT shown FROM records WHERE key = ?", (key,)).fetchone()
            return row is not None and row[0] is None

    def aged(self, name):
        """Housekeeping was cut off: what it had deleted by then."""
        for key in self.ledger.keys("message/"):
            if self.ledger.must_live(key, [name]) and key not in self.documents(name, [key]):
                self.ledger.note(name, key, "aged", deletes=True, maybe=True)

    def shown(self, name, key):
        """The acts that a record's file shows at a server."""
        machine = self.machines[name]
        if machine.post is None:
            return self.ledger.shown(name, key)
        entry = machine.index.get(key)
        if entry is None or entry.todo or key in self.removed[name] or key in self.hand[name]:
            return self.ledger.shown(name, key)
        return frozenset(self.ledger.know(name, key))

    def desk(self, name):
        """The desk of a server's process."""
        return Desk(self.machines[name].post.replica)

    @contextlib.contextmanager
    def command(self, name):
        """A command beside the daemon, with a desk of its own."""
        with Replica.open(self.config, name, self.machines[name].clock) as replica:
            yield Desk(replica)

    def digest(self):
        """A digest of all that happened, for comparing two runs."""
        return self.trace.hexdigest()


class Chance:
    """The product's chance and its waiting, from the world's seed."""

    def __init__(self, world):
        self._world = world

    def token_hex(self, count=16):
        return self._world.chance.randbytes(count).hex()

    def token_bytes(self, count=16):
        return self._world.chance.randbytes(count)

    def randbelow(self, below):
        return self._world.chance.randrange(below)

    def monotonic(self):
        return self._world.now / 1e6

    def sleep(self, seconds):
        self._world.now += int(max(seconds, 0.02) * 1_000_000)


_TEMPLATES = {}
_CONFIGS = {}


def template(mode, settings, directory):
    """A network in `directory`: a copy of one that was made once for this process. `settings` are pairs."""
    kind = mode, settings
    if kind not in _TEMPLATES:
        logging.disable(logging.CRITICAL)
        _TEMPLATES[kind] = _made(mode, settings)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(_TEMPLATES[kind], directory, symlinks=True)
    if (kind, directory) not in _CONFIGS:
        config = config_room.load(directory / config_room.FILE)
        _CONFIGS[kind, directory] = dataclasses.replace(config, scan=config.scan._replace(settle=SETTLE))
    return _CONFIGS[kind, directory]


def _made(mode, settings):
    made = Path(tempfile.mkdtemp(prefix="vmctl-template-", dir=ROOM)) / "net"
    chance = random.Random(5)
    with (
        mock.patch.object(secrets, "token_hex", lambda count=16: chance.randbytes(count).hex()),
        mock.patch.object(
            Ed25519PrivateKey, "generate", lambda: Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        ),
    ):
        network.make(
            made,
            mode=mode,
            settings={name: list(value) if isinstance(value, tuple) else value for name, value in settings},
        )
    return made


def clean():
    """Remove the networks that were made for this process."""
    for made in _TEMPLATES.values():
        shutil.rmtree(made.parent, ignore_errors=True)
    _TEMPLATES.clear()
    _CONFIGS.clear()


def as_text(value):
    """A value for the story."""
    return json.dumps(value, sort_keys=True, default=str)
