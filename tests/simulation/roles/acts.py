"""What can happen to two daemons: one small function an act. Each draws from `world.chance` only."""

import errno
import shutil

from simulation.acts.common import source, tone
from simulation.ledger import Violation
from simulation.world import NAMES
from vmctl.desk import Desk
from vmctl.errors import VmctlError

ACTS = {}


def act(kind, weight=1.0):
    """Register an act; `kind` is what a profile enables or leaves out as a whole."""

    def register(do):
        ACTS[do.__name__] = do, kind, weight
        return do

    return register


def services(world, name):
    """A service, by chance."""
    return world.chance.choice(sorted(world.config.services))


@act("path", 3)
def wait(_world, _name):
    """Nothing."""
    return "wait"


@act("path", 2)
def leave(world, name):
    """A caller leaves a message, whoever serves."""
    data = tone(world.number(), 37)

    def do(post):
        world.left.add(Desk(post.replica).leave("200", source(world, data)))

    return f"message: {world.command(name, do)}"


# Processes


@act("process", 2)
def crash(world, name):
    """The daemon is killed, or the power goes."""
    if world.machines[name].post is None:
        return start(world, name)
    world.crash(name, power=world.chance.random() < world.profile.power)
    return "crash"


@act("process", 2)
def crash_within(world, name):
    """It is killed at some durable step of its next turns."""
    side = world.machines[name].side
    if world.machines[name].post is None:
        return start(world, name)
    steps = world.chance.randrange(1, world.chance.choice((3, 8, 20)))
    side.crash_at = side.steps + steps
    return f"crash after {steps} steps"


@act("process", 3)
def start(world, name):
    """The daemon starts."""
    return f"start: {world.start(name)}"


@act("process", 1)
def stop(world, name):
    """The daemon is stopped by a person, and mostly started again."""
    world.stop(name)
    if world.chance.random() < 0.7:
        world.run(world.chance.choice((0.1, 5, 40)))
        start(world, name)
    return "stop"


@act("freeze", 2)
def freeze(world, name):
    """The process stands still."""
    seconds = world.chance.choice((8, 35, 60, 150))
    world.freeze(name, seconds)
    return f"stands still for {seconds} s"


@act("freeze", 2)
def freeze_within(world, name):
    """It stands still in the middle of a turn."""
    seconds, steps = world.chance.choice((8, 35, 60, 150)), world.chance.randrange(1, 12)
    world.freeze_within(name, steps, seconds)
    return f"stands still for {seconds} s after {steps} steps"


# Mail


@act("net", 2)
def cut(world, name):
    """Mail of this server is lost; or that of both."""
    which = {name} if world.chance.random() < 0.4 else set(NAMES)
    world.network.blocked = which
    return f"mail of {sorted(which)} is cut"


@act("net", 0.5)
def cut_both(world, _name):
    """No mail arrives."""
    world.network.blocked = set(NAMES)
    return "mail is cut"


@act("net", 2)
def heal(world, _name):
    """The network is whole."""
    world.network.blocked = set()
    return "the network is whole"


@act("replay", 2)
def replay(world, name):
    """Somebody sends old mails of the other server again."""
    mails = [raw for sender, raw in world.mails if sender != name]
    for _ in range(min(len(mails), 12)):
        world.network.put(name, world.chance.choice(mails), None, world.chance.randrange(100_000_000))
    return f"old mails for {name}"


@act("replay", 0.5)
def replay_newest(world, name):
    """Somebody sends the newest mails of the other server again, at once."""
    for raw in [raw for sender, raw in world.mails if sender != name][-20:]:
        world.network.put(name, raw, None, 1000)
    return f"the newest mails for {name}"


# The arbiter


@act("arbiter", 1.5)
def arbiter_down(world, _name):
    """The arbiter is lost altogether."""
    world.arbiter.down = True
    return "the arbiter is down"


@act("arbiter", 1.5)
def arbiter_up(world, _name):
    """It is back."""
    world.arbiter.down = False
    return "the arbiter is up"


@act("arbiter", 2)
def line(world, name):
    """The line to the arbiter loses, or is slow."""
    it = world.machines[name].line
    it.loss, it.delay = world.chance.choice(((0.0, 0.0), (0.0, 4.0), (0.5, 1.0), (1.0, 0.0), (1.0, 0.0)))
    return f"the line of {name} to the arbiter: loss {it.loss}, delay {it.delay}"


@act("arbiter", 0.5)
def no_line(world, name):
    """A server does not reach the arbiter any more."""
    world.machines[name].line.loss = 1.0
    return f"{name} does not reach the arbiter"


# People


@act("orders", 3)
def order(world, name):
    """A person orders."""
    service, verb = services(world, name), world.chance.choice(("failover", "failback"))
    now = world.chance.random() < 0.4

    def do(post):
        world.watch.troubled = world.watch.now if now else world.watch.troubled
        world.watch.ordered[service, verb] = world.watch.ordered.get((service, verb), 0) + 1
        post.failover.order(service, verb, "sim", now=now)

    return f"{verb} {service}{' now' * now}: {world.command(name, do)}"


@act("orders", 1)
def take(world, name, *, now=True):
    """A person at the server that does not serve orders the service here, for now."""
    service = services(world, name)

    def do(post):
        verb = "failback" if post.failover.views()[service].home == name else "failover"
        world.watch.troubled = world.watch.now if now else world.watch.troubled
        world.watch.ordered[service, verb] = world.watch.ordered.get((service, verb), 0) + 1
        post.failover.order(service, verb, "sim", now=now)

    return f"take {service}: {world.command(name, do)}"


@act("orders", 0.5)
def ask_for(world, name):
    """The same while both are well: it is forwarded."""
    return take(world, name, now=False)


@act("process", 0.3)
def restart_and_take(world, name):
    """The daemon is killed and started, and a person orders the service there at once."""
    if world.machines[name].post is not None:
        world.crash(name, power=world.chance.random() < world.profile.power)
    return f"start: {world.start(name)}; {take(world, name)}"


@act("pause", 1)
def pause(world, name):
    """Nothing moves by itself, until a person resumes, or for a time."""
    seconds = world.chance.choice((None, None, 60.0))
    return f"pause {seconds}: {world.command(name, lambda post: post.failover.pause('sim', on=True, seconds=seconds))}"


@act("pause", 1)
def resume(world, name):
    """It does again."""
    return f"resume: {world.command(name, lambda post: post.failover.pause('sim', on=False))}"


@act("mode", 1)
def mode(world, name):
    """The mode of the network is changed."""
    to = world.chance.choice(("dual-active", "active-standby"))
    world.watch.troubled = world.watch.now
    return f"mode {to}: {world.command(name, lambda post: post.failover.set_mode(to, 'sim'))}"


# Surroundings


@act("around", 1.5)
def unwell(world, name):
    """The application is unwell, or well again."""
    around = world.machines[name].around
    around.well = not around.well
    return f"the application of {name} is {'well' if around.well else 'unwell'}"


@act("around", 1)
def cut_off(world, name):
    """The server reaches none of its own targets, or does again."""
    around = world.machines[name].around
    around.cut_off = not around.cut_off
    return f"{name} is {'cut off' if around.cut_off else 'not cut off'}"


@act("around", 1)
def calls(world, name):
    """Calls are in progress, or ended; or their count is not known."""
    around = world.machines[name].around
    around.count = world.chance.choice((0, 0, 2, None))
    return f"{around.count} calls at {name}"


@act("clock", 1)
def jump(world, name):
    """The wall clock is set."""
    seconds = world.chance.choice((-3600, -2, 90, 86_400))
    world.machines[name].clock.offset += seconds * 1_000_000
    return f"the clock of {name} jumps by {seconds} s"


@act("disk", 1)
def sick_disk(world, name):
    """The disk is full or broken, for a while."""
    side = world.machines[name].side
    side.fault = world.chance.choice((errno.ENOSPC, errno.EROFS, errno.EIO))
    side.fault_steps = world.chance.choice((1, 5, None))
    return f"the disk of {name} says {errno.errorcode[side.fault]}"


@act("disk", 1)
def mend_disk(world, name):
    """It is well again."""
    world.machines[name].side.fault = None
    return f"the disk of {name} is mended"


@act("memory", 1)
def back_up(world, name):
    """A snapshot of the store of a server whose daemon is stopped for it."""
    machine = world.machines[name]
    runs = machine.post is not None
    world.end(machine)
    shutil.rmtree(world.directory / f"backup-{name}", ignore_errors=True)
    shutil.copytree(machine.root, world.directory / f"backup-{name}", symlinks=True)
    if runs:
        world.start(name)
    return "backup"


@act("memory", 1.5)
def put_back(world, name):
    """The store is again what it was at the snapshot; the daemon is started."""
    machine, other = world.machines[name], world.machines[world.other(name)]
    backup = world.directory / f"backup-{name}"
    if not backup.exists() or machine.side.fault or other.post is None or other.name in world.busy:
        return "put back: not now"
    world.end(machine)
    world.disk.forget(machine.root)
    shutil.rmtree(machine.root)
    shutil.copytree(backup, machine.root, symlinks=True)
    world.disk.adopt(machine.side)
    world.watch.forget(name)
    world.put_back.add(name)
    machine.side.mend()
    held = {row[0] for row in other.index._db.execute("SELECT key FROM records WHERE lives AND kind = 'message'")}
    if not world.start(name):
        raise Violation(f"{name} does not start on its backup")
    world.lacks[name] = {key for key in held if machine.index.get(key) is None}
    return f"the backup is put back; it lacks {len(world.lacks[name])}"


def first(world):
    """Both daemons start, and a mailbox is made."""
    for name in NAMES:
        world.start(name)
    world.run(40)
    try:
        Desk(world.machines["primary"].post.replica).create_mailbox("200", {"name": "n", "quota": 5000})
    except VmctlError as error:
        raise Violation(f"there is no mailbox: {error}") from error
    world.run(20)
