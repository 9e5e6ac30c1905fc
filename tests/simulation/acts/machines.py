"""Servers at work and in trouble: turns and mails, then crashes, sick disks, cut mail and clocks that jump."""

import errno

from simulation.acts.registry import ACTS, act
from simulation.world import NAMES, SETTLE

# The main path


@act("path", 6)
def turn(world, name):
    """One turn of a server's loop."""
    how = {"scan": world.chance.random() < 0.8, "send": world.chance.random() < 0.8}
    how |= {"full": world.chance.random() < 0.1, "anew": world.chance.random() < 0.15}
    return f"turn of {name}: {world.turn(name, **how)}"


@act("path", 3)
def mail(world, name):
    """What is under way arrives, and both speak."""
    ends = []
    world.network.deliver_due()
    for one in (name, world.other(name)):
        ends.append(world.turn(one, scan=False, always=True))
    return f"mail: {ends}"


@act("path", 2)
def look(world, name):
    """Two scans, the second after everything has stood still."""
    ends = [world.turn(name, send=False)]
    world.now += int((SETTLE + 0.05) * 1e6)
    ends.append(world.turn(name, send=False, full=world.chance.random() < 0.2, accept=world.chance.random() < 0.3))
    return f"look at {name}: {ends}"


@act("path", 2)
def wait(world, _name):
    """Time passes."""
    seconds = world.chance.choice((0.001, 0.3, 1.1, 3, 40, 4000, 90_000))
    world.now += int(seconds * 1_000_000)
    return f"{seconds} s pass; {world.network.deliver_due()} mails arrive"


# Faults


@act("crash", 2)
def crash(world, name):
    """The process of a server is killed between two steps, or the power goes."""
    if world.machines[name].post is None:
        return "crash: it is down"
    world.crash(name, power=world.chance.random() < world.profile.power)
    return f"crash of {name}"


@act("crash", 5)
def crash_within(world, name):
    """The process of a server is killed at some step of what it does."""
    return within(world, name, world.chance.choice(PRODUCT))


def within(world, name, what):
    """An act whose process is killed at a step that chance gives."""
    side = world.machines[name].side
    if world.machines[name].post is None and not world.start(name):
        return "crash within: it is down"
    steps = world.chance.choice((3, 8, 20, 60))
    side.crash_at = side.steps + world.chance.randrange(1, steps)
    try:
        words = ACTS[what].do(world, name)
    finally:
        if side.crash_at is not None:
            side.crash_at = None
    return f"crash within {words}"


PRODUCT = (
    "turn", "turn", "turn", "mail", "mail", "look", "leave", "mark", "delete", "restore", "set_mailbox",
    "make_mailbox", "delete_mailbox", "set_greeting", "set_callflow", "set_setting", "start",
)  # fmt: skip


@act("crash", 2)
def start(world, name):
    """A server starts."""
    return f"start of {name}: {world.start(name)}"


@act("disk", 1.5)
def sick_disk(world, name):
    """The disk of a server is full, read-only or broken, for a few steps or for a while."""
    side = world.machines[name].side
    side.fault = world.chance.choice((errno.ENOSPC, errno.ENOSPC, errno.EROFS, errno.EIO))
    side.fault_steps = world.chance.choice((1, 2, 5, None))
    world.count("disk " + errno.errorcode[side.fault])
    return f"the disk of {name} says {errno.errorcode[side.fault]} ({side.fault_steps or 'until it is mended'})"


@act("disk", 1.5)
def mend_disk(world, name):
    """The disk of a server is well again."""
    world.machines[name].side.fault = None
    return f"the disk of {name} is mended"


@act("net", 1)
def partition(world, name):
    """Mail of a server does not arrive any more; or that of both."""
    which = {name} if world.chance.random() < 0.4 else set(NAMES)
    world.network.blocked |= which
    world.count("partition")
    return f"mail of {sorted(which)} is cut"


@act("net", 1.5)
def heal(world, _name):
    """The network is whole again."""
    world.network.blocked.clear()
    return "the network is whole"


@act("clock", 1)
def jump(world, name):
    """The wall clock of a server is set."""
    clock = world.machines[name].clock
    seconds = world.chance.choice((-3600, -2, 2, 90, 86_400, -86_400, 3 * 365 * 86_400))
    clock.offset += seconds * 1_000_000
    world.count("clock jump")
    return f"the clock of {name} jumps by {seconds} s"
