"""Schedules of roles: acts with a seed and a pause of their own, then faults end and each service goes home."""

import random
from dataclasses import dataclass

from simulation.ledger import require
from simulation.roles.acts import ACTS, first
from simulation.roles.watch import AT_HOME, Watch
from simulation.roles.world import AFTER, FIELDS, RoleWorld
from simulation.schedule import Profile, Schedule, played
from simulation.world import NAMES

KINDS = (
    "process",
    "freeze",
    "net",
    "replay",
    "arbiter",
    "orders",
    "pause",
    "mode",
    "around",
    "clock",
    "disk",
    "memory",
)
RARE = {"disk": 0.2, "memory": 0.25, "clock": 0.3, "replay": 0.3, "mode": 0.8}
LOSSY = {"direct": 6.0, "lost": 1.0, "doubled": 1.0, "unanswered": 0.5, "broken": 0.5, "relay": 0.5}


@dataclass(frozen=True)
class RoleProfile(Profile):
    """Which corner of what can happen to roles a schedule explores."""

    kinds: tuple = KINDS
    acts: int = 10
    arbiter: bool = False
    dual: bool = False
    pace: float = 10.0  # seconds that a daemon rests which nothing wakes
    after: int = AFTER
    script: tuple = ()  # acts (name, server, seconds until the next) that come first
    gate: str = "completed"
    failback: str = "graceful"

    @property
    def mode(self):
        """The mode that vmctl.yaml names."""
        return "dual-active" if self.dual else "active-standby"

    @property
    def settings(self):
        """See Profile.settings."""
        values = [(name, f"{value}s") for name, value in (FIELDS | {"failover.after": self.after}).items()]
        values += [("failback.gate", self.gate), ("failback.policy", self.failback), ("scan.every", "10m")]
        return (*values, *([("arbiter.endpoints", ("http://127.0.0.1:9",))] if self.arbiter else []))


def profile_of(chance):
    """A random corner."""
    kinds = tuple(kind for kind in KINDS if chance.random() < RARE.get(kind, 0.6))
    return RoleProfile(
        kinds, dict(LOSSY if chance.random() < 0.4 else {"direct": 1.0}), chance.choice((0.0, 0.5, 1.0)),
        acts=chance.choice((6, 10, 16)), arbiter=chance.random() < 0.6, dual=chance.random() < 0.3,
        pace=chance.choice((3.0, 10.0, 10.0)), gate=chance.choice(("completed", "completed", "restarted")),
        failback=chance.choice(("graceful", "graceful", "automatic")),
    )  # fmt: skip


def schedule_of(seed, profile=None):
    """The schedule of a seed."""
    chance = random.Random(f"{seed} roles")
    profile = profile or profile_of(chance)
    deeds = [(name, weight * chance.choice((0.3, 1, 1, 2)) * profile.more.get(name, 1)) for name, (_, kind, weight)
             in ACTS.items() if kind in {"path", *profile.kinds} and (profile.dual or kind != "mode")
             and (profile.arbiter or kind != "arbiter")]  # fmt: skip
    names = chance.choices([name for name, _ in deeds], [weight for _, weight in deeds], k=profile.acts)
    scripted = tuple((name, server, chance.getrandbits(48), seconds) for name, server, seconds in profile.script)
    steps = tuple((name, chance.choice(NAMES), chance.getrandbits(48)) for name in names)
    return Schedule(str(seed), profile, scripted + steps)


def run(schedule, directory=None):
    """Run a schedule from its beginning; what breaks is its failure."""
    return played(schedule, RoleWorld, _play, directory)


def _play(world, schedule):
    world.reseed(f"{schedule.seed} first")
    world.watch = Watch(world)
    first(world)
    for number, (name, server, seed, *rest) in enumerate(schedule.steps):
        world.reseed(f"{schedule.seed} {seed}")
        world.counts["act: " + name] += 1
        words = ACTS[name][0](world, server)
        world.tell(f"{number:3} {world.now / 1e6:9.3f} {server:9} {name}: {words}")
        drawn = world.chance.choice((0.2, 4, 30, 70, 110))
        world.run(*(rest or [drawn]))
    world.reseed(f"{schedule.seed} rest")
    _come_to_rest(world)
    world.tell("at rest")


def _come_to_rest(world):
    """The faults stop: one serves each service soon, and its home when the limit of moves lets it."""
    world.network.calm, world.network.blocked, world.arbiter.down = True, set(), False
    world.network.settle(world.chance)
    for name, machine in world.machines.items():
        machine.side.mend()
        machine.around.well, machine.around.cut_off, machine.around.count = True, False, 0
        machine.line.loss = machine.line.delay = 0.0
        if name in world.frozen:
            world.frozen[name] = world.now
        world.start(name)
    world.tell(f"    {world.now / 1e6:9.3f} the faults stop")
    world.run(30)
    for name in NAMES:
        world.command(name, lambda post: post.failover.pause("sim", on=False))
    world.run(world.watch.settled, until=lambda: _at_home(world))
    served = sorted(service for name in NAMES for service in world.watch.told(name))
    require(served == sorted(world.config.services), f"after the faults not one serves each: {served}")
    for _ in range(2):  # what a person moved, a person moves back
        world.run(AT_HOME, until=lambda: _at_home(world))
        for name in NAMES:
            world.command(name, lambda post: _order_home(world, post))
    views = [machine.post.failover.views() for machine in world.machines.values()]
    require(_at_home(world), f"the home does not serve again: {views}")
    world.watch.verify()
    world.run(200, until=lambda: all(machine.post.in_step for machine in world.machines.values()))
    for machine in world.machines.values():
        lost = [ident for ident in world.left if machine.index.get(f"message/200/{ident}") is None]
        require(not lost or world.put_back, f"messages are lost at {machine.name}: {lost}")


def _order_home(world, post):
    for service, view in post.failover.views().items():
        if view.state == "resilience" and view.cause == "order" and view.serving == post.server.name:
            key = service, "failback"
            world.watch.ordered[key] = world.watch.ordered.get(key, 0) + 1
            post.failover.order(service, "failback", "sim")


def _at_home(world):
    if any(machine.post is None for machine in world.machines.values()):
        return False
    one, other = (machine.post.failover.views() for machine in world.machines.values())
    return one == other and {view.state for view in one.values()} == {"normal"} and all(
        sum(service in world.watch.told(name) for name in NAMES) == 1 for service in one
    )  # fmt: skip
