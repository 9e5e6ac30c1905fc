"""Two replicas of one network, and the mails between them: handed over in memory, lost, doubled, late or disordered."""

import dataclasses
import random
import secrets
import shutil
import struct
import time
import wave
import zlib

from vmctl import config, network, proof
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.failover import Failover
from vmctl.purge import Housekeeper
from vmctl.replica import Replica

SETTLE = 1.0
_MOST_ROUNDS = 30


class OffsetClock(Clock):
    """The real clocks, moved on by as much as a test says: files have real times, so both must agree."""

    def __init__(self):
        self.ahead = self.wall_ahead = 0.0

    def advance(self, seconds):
        """Let time pass at once."""
        self.ahead += seconds
        self.wall_ahead += seconds

    def as_files(self):
        """The wall clock goes as that of the files again, so that one written now is a new one."""
        self.wall_ahead = 0.0

    def wall(self):
        return super().wall() + int(self.wall_ahead * 1_000_000)

    def steady(self):
        return super().steady() + self.ahead


class OwnClock(Clock):
    """The clock of one server: another's, and off from it by so many seconds of wall time."""

    def __init__(self, base):
        self.base = base
        self.off = 0.0

    def wall(self):
        return self.base.wall() + int(self.off * 1_000_000)

    def steady(self):
        return self.base.steady()


class Wire:
    """Two servers, `primary` and `secondary`, with a desk at each, and what is under way between them."""

    def __init__(self, directory, settings=None):
        there = (directory / config.FILE).exists()
        made = config.load(directory / config.FILE) if there else network.make(directory, settings=settings)
        self.config = dataclasses.replace(made, scan=made.scan._replace(settle=SETTLE))
        self.clock = OffsetClock()
        self.clocks = {}
        self.directory = directory
        self.servers = {}
        self.under_way = []
        for name in ("primary", "secondary"):
            self.open(name)

    def open(self, name):
        """Open a server's store, as its process does at its start."""
        replica = Replica.open(self.config, name, self.clocks.get(name, self.clock))
        replica.index._db.execute("PRAGMA synchronous=OFF")  # no power is cut here, and waiting for a disk takes long
        self.servers[name] = replica
        return replica

    def crash(self, name):
        """The process of a server ends at once; a new one comes up."""
        self.servers[name].index._db.close()
        return self.open(name)

    def own_clocks(self):
        """From now on each server has a clock of its own: by name, each with `off` seconds that a test sets."""
        self.clocks = {name: OwnClock(self.clock) for name in self.servers}
        for name in self.clocks:
            self.crash(name)
        return self.clocks

    def close(self):
        """Close what is open."""
        for replica in self.servers.values():
            replica.close()

    @property
    def a(self):
        return self.servers["primary"]

    @property
    def b(self):
        return self.servers["secondary"]

    def desk(self, name="primary"):
        """The desk of a server."""
        return Desk(self.servers[name])

    def other(self, name):
        """The peer's name."""
        return "secondary" if name == "primary" else "primary"

    def root(self, name="primary"):
        """The directory of a server's store."""
        return self.servers[name].store.root

    def scan(self, name="primary", **how):
        """A scan with the looks that it owes, after everything stood still for long enough."""
        self.tick()
        self.clock.advance(SETTLE + 0.01)
        return self.servers[name].scan_settled(self.clock.advance, **how)

    def tick(self):
        """Wait until the file system's clock shows another time, a few milliseconds."""
        probe = self.directory / "probe"
        probe.write_bytes(b"")
        before = after = probe.stat().st_mtime_ns
        while after == before:
            time.sleep(0.0005)  # to leave the processor to others
            probe.write_bytes(b"")
            after = probe.stat().st_mtime_ns

    def send(self, name, *, always=False, anew=False):
        """Put what a server has to say on the wire; gives the mails."""
        mails = []
        for parcel in self.servers[name].outbox.parcels(always=always, anew=anew):
            mails.append(parcel.raw)
            self.servers[name].outbox.left(parcel)
        self.under_way += [(self.other(name), raw) for raw in mails]
        return mails

    def deliver(self, *, take=True):
        """Everything that is under way arrives, in order."""
        mails, self.under_way = self.under_way, []
        for to, raw in mails:
            self.servers[to].receive(raw)
        if take:
            for name in {to for to, _ in mails}:
                self.servers[name].take()

    def lose(self):
        """Everything that is under way is lost."""
        self.under_way = []

    def disturb(self, chance: random.Random):
        """Some of the mails under way are lost, doubled, late or out of order; the rest arrives."""
        mails = [mail for mail in self.under_way for _ in range(chance.choice((0, 1, 1, 2)))]
        chance.shuffle(mails)
        late = len(mails) // 3
        self.under_way = mails[late:]
        self.deliver()
        self.under_way += mails[:late]

    def exchange(self, rounds=_MOST_ROUNDS):
        """Send and deliver until both have nothing more to say."""
        for turn in range(rounds):
            said = [mail for name in self.servers for mail in self.send(name, always=turn < 2, anew=turn == 0)]
            self.deliver()
            if turn > 1 and not said:
                break
            self.clock.advance(2.5)  # what is missing is asked for after a moment

    def apart(self):
        """What keeps both servers from being in step; an empty list when they are."""
        found = []
        for name, replica in self.servers.items():
            index = replica.index
            if index.pending_count():
                found.append(f"{name} has to ship {list(index.pending())}")
            if index.todo():
                found.append(f"{name} has to write {index.todo()}")
            reading = proof.read_store(replica.store)
            found += [f"{name} cannot read {path}: {why}" for path, why in reading.faults.items()]
        if self.a.index.digest != self.b.index.digest:
            found.append("the digests differ")
        one, other = (proof.read_store(replica.store).digests for replica in (self.a, self.b))
        return found + [f"they differ: {difference}" for difference in proof.compare(one, other)]

    def drop(self, box, ident):
        """An application puts a message that names no recording into a mailbox at the primary, beside its recording."""
        folder = self.root() / f"mailboxes/{box}/messages"
        folder.mkdir(exist_ok=True)
        shutil.move(tone(self.directory / "dropped.wav", seed=zlib.crc32(ident.encode())), folder / f"{ident}.wav")
        words = '{"from": "+4930123", "received": "2026-06-01T12:00:00Z", "status": "new"}\n'
        (folder / f"{ident}.json").write_text(words)
        return folder

    def in_step(self):
        """Scan both, exchange until there is nothing left to say, and check that both hold the same."""
        for name in self.servers:
            self.scan(name)
        self.exchange()
        for name in self.servers:
            self.scan(name)
        self.exchange()
        assert [] == self.apart()

    def faults(self, name="primary"):
        """The paths of what is wrong with a server's store."""
        return {fault["path"] for fault in self.servers[name].index.faults.all()}

    def start_roles(self):
        """Both servers have started; nobody answers, so the home serves what is its own."""
        for replica in self.servers.values():
            Failover(replica).start()
        self.clock.advance(self.config.failover.after + 1)
        Failover(self.a).tick()

    def keep(self, name="primary", **how):
        """One run of a server's housekeeping; tells what it did."""
        return Housekeeper(self.servers[name]).run(**how)

    def night(self, days=0.0):
        """So much time passes; then both keep house and exchange until nothing is left to do."""
        self.clock.advance(days * 86_400)
        self.exchange()
        for _ in range(3):
            for name in self.servers:
                self.keep(name)
            self.exchange()

    def messages(self, extension, name="primary"):
        """The ids of the messages that lie in a server's mailbox."""
        return self.servers[name].store.names("message", extension)

    def lives(self, key, name="primary"):
        """Whether a server's index has a record alive."""
        entry = self.servers[name].index.get(key)
        return entry is not None and entry.record.lives


def one_of_each(wire, recording):
    """The primary has one record of each kind; the id of the message, which is in mailbox 2001."""
    desk = wire.desk()
    desk.create_mailbox("2001", {"name": "Ada"})
    desk.set_greeting("2001", "busy", recording())
    desk.set_callflow("main", "greet: hello\n")
    desk.set_prompt("welcome", recording())
    desk.set_settings({"defaults.quota": 50})
    return desk.leave("2001", recording())


def lose_index(wire, name):
    """The index of a server is gone; its process starts anew."""
    wire.servers[name].close()
    for path in (wire.root(name) / ".vmctl").glob("index.db*"):
        path.unlink()
    return wire.open(name)


def back_up(wire, name, to):
    """A copy of a server's whole store, as a snapshot makes it."""
    wire.servers[name].close()
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(wire.root(name), to, symlinks=True)
    return wire.open(name)


def put_back(wire, name, backup):
    """The store of a server is again what it was at the backup."""
    wire.servers[name].close()
    shutil.rmtree(wire.root(name))
    shutil.copytree(backup, wire.root(name), symlinks=True)
    return wire.open(name)


def tone(path, frames=400, seed=None):
    """A WAV file of 8000 Hz, 16 bit; no two are alike unless they have the same seed."""
    noise = random.Random(secrets.token_hex(8) if seed is None else seed)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(struct.pack(f"<{frames}h", *(noise.randrange(-9000, 9000) for _ in range(frames))))
    return path
