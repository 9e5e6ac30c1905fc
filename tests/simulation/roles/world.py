"""Two daemons whose loops run turn by turn, in simulated time: their mail, their arbiter and their surroundings are ours."""

import contextlib
import heapq
import itertools
import os
import random
from unittest import mock

from arbiters import FakeArbiter, Line

from simulation.world import NAMES, Carriage, SimClock, World
from vmctl import daemon as daemon_room
from vmctl import moves
from vmctl.at_work import DAEMON
from vmctl.daemon import Daemon
from vmctl.errors import SyncError
from vmctl.journal import Journal
from vmctl.lamps import Lamps
from vmctl.leases import Leases
from vmctl.permits import margin
from vmctl.post import Post
from vmctl.probes import Health

SECOND = 1_000_000  # microseconds
FIELDS = {
    "sync.heartbeat": 10, "failover.after": 45, "failover.start_wait": 25, "failback.hold": 20, "handover.drain": 10,
    "lease.ttl": 30, "failback.timeout": 300,
}  # fmt: skip
HOUR = 400.0  # seconds: the product's hour, within which moves are counted
HEARTBEAT, AFTER, START_WAIT, HOLD, DRAIN, TTL, TIMEOUT = FIELDS.values()


class DriftingClock(SimClock):
    """A steady clock that runs a little faster or slower than the other server's."""

    def __init__(self, world, chance):
        super().__init__(world, chance)
        self._drift = chance.choice((1.0, 1.0, 1.001, 0.999))

    def steady(self):
        return (self._world.now / 1e6 - self._booted) * self._drift + 10


class Bell:
    """Stands in the place of the daemon's events: the loop makes one turn, and says when the next is due."""

    def __init__(self):
        self.over = self.rung = False
        self.rest = 0.0

    def is_set(self):
        """Whether the loop ends."""
        return self.over

    def set(self):
        """The next turn is due at once."""
        self.rung = True

    def clear(self):
        """As for an event: nothing, as the next turn begins only after this."""

    def wait(self, seconds):
        """The loop would rest."""
        self.over, self.rest = True, seconds


class Around:
    """Stands in the place of the probes: what a server finds around itself."""

    def __init__(self):
        self.well, self.cut_off, self.count = True, False, 0

    def tick(self, waiting=()):
        """Nothing is to be asked."""

    @property
    def health(self):
        """The verdict on the application."""
        return Health(self.well, "" if self.well else "it says so", None)

    def calls(self, _service):
        """The calls in progress."""
        return self.count

    def as_json(self):
        """For the status."""
        return {}


class Sender(Carriage):
    """As in any world; what leaves is kept, to be replayed."""

    def carry(self, parcel):
        """Hand over a mail."""
        self._world.mails.append((self._name, parcel.raw))
        super().carry(parcel)


class Wire:
    """Stands in the place of the daemon's carrier thread: a mail is handed over at once."""

    def __init__(self, post):
        self._post, self._done = post, None

    def carry(self, parcel):
        """Hand over a mail."""
        try:
            self._post.carry(parcel)
            error = None
        except SyncError as fault:
            error = fault
        self._done = parcel, error

    def result(self):
        """What became of it."""
        done, self._done = self._done, None
        return done


def _remembered():
    """Reading a journal, quicker: it is read again only when its file is another."""
    read, known = Journal._state, {}

    def state(journal):
        try:
            status = os.stat(journal.path)
        except FileNotFoundError:
            return read(journal)
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if known.get(journal.path, (None,))[0] != stamp:
            known[journal.path] = stamp, read(journal)
        return known[journal.path][1]

    return state


class RoleWorld(World):
    """The two daemons, and the arbiter if the profile has one."""

    clock = DriftingClock

    def __init__(self, directory, seed, profile):
        super().__init__(directory, seed, profile)
        self._order = itertools.count()
        self._later = []
        self.arbiter = FakeArbiter(lambda: self.now / 1e6, linger=lambda: self.chance.choice((0.0, 0.0, 1.0)))
        self.frozen = {}  # name -> until when (microseconds)
        self.held_back = {name: [] for name in NAMES}  # what came for the process of a frozen server
        self.busy = set()  # servers in the middle of a turn
        self.mails = []  # sender and bytes of all that left, to be replayed
        self.left = set()  # messages that were taken
        self.put_back = set()  # servers whose store was
        self.lacks = {name: set() for name in NAMES}  # what such a server does not hold again yet
        self.paused = dict.fromkeys(NAMES)  # the pause as each journal has it
        self.watch = lambda: None
        for name, machine in self.machines.items():
            machine.around, machine.bell, machine.due, machine.daemon, machine.leases = Around(), Bell(), 0, None, None
            machine.line = Line(
                self.arbiter, self.later, lambda seconds, do, name=name: self.later(seconds, lambda: self._hears(name, do)),
                random.Random(f"{seed} {name} line"), TTL / 6,
            )  # fmt: skip

    @contextlib.contextmanager
    def running(self):
        """As in any world; an hour is shorter, and a server that nothing wakes rests for longer."""
        with (
            mock.patch.object(moves, "HOUR", HOUR),
            mock.patch.object(daemon_room, "_LONGEST_WAIT", self.profile.pace),
            mock.patch.object(Journal, "_state", _remembered()),
            super().running(),
        ):
            yield self

    def reseed(self, seed):
        """See World.reseed."""
        super().reseed(seed)
        for name, machine in self.machines.items():
            machine.line._chance.seed(f"{seed} {name}")

    def count(self, what):
        """Count a fault that was injected; mail does not get through as it should."""
        super().count(what)
        self.watch.troubled = self.now / 1e6

    def later(self, seconds, do):
        """Something happens after so many seconds."""
        heapq.heappush(self._later, (self.now + int(seconds * SECOND), next(self._order), do))

    def _hears(self, name, do):
        """An answer comes to the process of a server; one that stands still hears it when it goes on."""
        if name in self.frozen or name in self.busy:
            self.held_back[name].append(do)
        else:
            do()

    # Processes

    def start(self, name):
        """The daemon of a server starts, unless it runs; tells whether it runs now."""
        machine = self.machines[name]
        if machine.post is None:
            self.product(name, lambda: self._begin(machine))
        return machine.post is not None

    def _begin(self, machine):
        name, bell = machine.name, Bell()
        machine.bell, machine.due = bell, self.now
        machine.asks_until = self.now + int((START_WAIT - 1) * SECOND)
        daemon = Daemon(self.config, name, machine.clock)
        daemon._wake = daemon._stop = bell
        if self.config.arbiter.endpoints:
            machine.leases = Leases(
                self.arbiter, name, machine.clock, ttl=self.config.lease.ttl, margin=margin(self.config), wake=bell.set,
                run=machine.line,
            )  # fmt: skip
        post = Post(
            self.config, name, machine.clock, role=DAEMON, wake=bell.set, probes=machine.around, leases=machine.leases
        )
        post.__enter__()
        machine.post = post
        post._carriage = Sender(self, name)
        daemon._probes, daemon._carrier = machine.around, Wire(post)
        daemon._lamps = Lamps(post.replica, bell.set)
        self.take(machine)
        post.start()
        machine.daemon = daemon

    def take(self, machine):
        """A server takes in what its spool holds."""
        machine.post.take()

    def stop(self, name):
        """The daemon of a server ends as on SIGTERM."""
        machine = self.machines[name]

        def stop():
            post, leases = machine.post, machine.leases
            post.__exit__(None, None, None)
            machine.post = machine.daemon = None
            if leases is not None:
                leases.close(0.0)

        if machine.post is not None and name not in self.frozen:
            self.product(name, stop)

    def end(self, machine, *, killed=True):
        """See World.end."""
        super().end(machine)
        machine.line.cut()
        machine.leases, machine.daemon = None, None
        self.frozen.pop(machine.name, None)
        self.held_back[machine.name].clear()

    def turn(self, name, **_how):
        """One turn of a daemon's loop."""
        machine = self.machines[name]
        bell = machine.bell
        bell.over = bell.rung = False
        self.busy.add(name)
        try:
            end = self.product(name, lambda: machine.daemon._loop(machine.post))
        finally:
            self.busy.discard(name)
        for do in self.held_back[name]:
            self.later(0, lambda do=do: self._hears(name, do))
        self.held_back[name].clear()
        machine.due = self.now + int((0.001 if bell.rung else max(bell.rest, 0.05)) * SECOND)
        if not bell.over and machine.post is not None:  # the store is another one: it is opened again
            self.end(machine)
            self.start(name)
        return end

    # Time

    def run(self, seconds, until=lambda: False):
        """Let so many seconds pass, or fewer if that comes true before."""
        end = self.now + int(seconds * SECOND)
        while self.now < end and not until():
            self._step(end)

    def _step(self, end):
        moments = [end, *(due for due, *_ in self._later[:1]), *(due for due, *_ in self.network._under_way[:1])]
        moments += [self.machines[name].due for name in NAMES if self._works(name)] + list(self.frozen.values())
        self.now = max(self.now, min(moments))
        for name in [name for name, thaws in self.frozen.items() if thaws <= self.now and name not in self.busy]:
            del self.frozen[name]
            self.machines[name].bell.set()
        while self._later and self._later[0][0] <= self.now:
            heapq.heappop(self._later)[2]()
        self.network.deliver_due()
        for name in NAMES:
            machine = self.machines[name]
            if self._works(name) and (machine.due <= self.now or machine.bell.rung):
                self.turn(name)
        self.watch()

    def _works(self, name):
        return self.machines[name].post is not None and name not in self.frozen and name not in self.busy

    def freeze(self, name, seconds):
        """The process of a server stands still for so long."""
        if self.machines[name].post is not None:
            self.frozen[name] = self.now + int(seconds * SECOND)

    def freeze_within(self, name, steps, seconds):
        """It stands still in the middle of a turn, after so many durable steps of it."""
        side = self.machines[name].side

        def stand_still():
            if name in self.busy and self.machines[name].post is not None:
                self.freeze(name, seconds)
                self.run(seconds)
                self.frozen.pop(name, None)

        side.then[side.steps + steps] = stand_still

    # Mail

    def receive(self, machine, raw):
        """The receiver of a server takes a mail; a process that stands still does not answer."""
        if machine.name in self.frozen or machine.name in self.busy:
            return "421 nobody answers"
        return super().receive(machine, raw)

    def answered(self, to, brought, reply):
        """Nothing of it is counted here."""

    # Looking at it from outside

    def command(self, name, do):
        """A person's command at a server, done with what its daemon has open."""
        machine = self.machines[name]
        if machine.post is None or name in self.frozen or name in self.busy:
            return f"{name} does not answer"
        machine.bell.set()
        return self.product(name, lambda: do(machine.post))
