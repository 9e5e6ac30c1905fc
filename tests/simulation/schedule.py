"""A schedule is a list of acts, each with a seed of its own: so that one can be left out without changing the others."""

import dataclasses
import json
import random
import shutil
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from .acts import ACTS
from .disk import Crash
from .invariants import check_step, come_to_rest
from .ledger import Violation
from .world import NAMES, ROOM, World

KINDS = (
    "records",
    "crash",
    "disk",
    "net",
    "clock",
    "hand",
    "damage",
    "memory",
    "mount",
    "unreadable",
    "undo",
    "boxes",
    "age",
    "overwrite",
)
RARE = {
    "memory": 0.25, "mount": 0.2, "unreadable": 0.2, "damage": 0.3, "age": 0.25, "overwrite": 0.15, "undo": 0.3, "boxes": 0.3,
}  # fmt: skip
CALM = {"direct": 1.0}


@dataclass(frozen=True)
class Profile:
    """Which corner of what can happen a schedule explores."""

    kinds: tuple = KINDS
    fates: dict = field(default_factory=lambda: dict(CALM))
    power: float = 0.5  # the chance that a crash is a power cut
    narrow: bool = False
    acts: int = 25
    more: dict = field(default_factory=dict)  # acts that are to come more often: how many times

    mode = "active-standby"

    @property
    def settings(self):
        """What vmctl.yaml says otherwise than by default, as pairs."""
        return (("mail.max", "64kB"), ("limits.document", "4kB")) if self.narrow else ()

    def at_rest(self):
        """The same without chance faults."""
        return dataclasses.replace(self, fates=dict(CALM))


def profile_of(chance):
    """A random corner: each kind of trouble is on or off."""
    kinds = tuple(kind for kind in KINDS if chance.random() < RARE.get(kind, 0.55))
    fates = {"direct": 4.0}
    if chance.random() < 0.75:
        for fate in ("unanswered", "broken", "relay", "relay", "lost", "doubled", "altered", "cut", "refused", "busy"):
            if chance.random() < 0.5:
                fates[fate] = fates.get(fate, 0) + chance.choice((0.3, 1.0, 4.0))
    return Profile(
        kinds, fates, chance.choice((0.0, 0.5, 1.0)), chance.random() < 0.25, chance.choice((12, 20, 30, 45))
    )


@dataclass(frozen=True)
class Schedule:
    """A profile, and acts as (name of the act, server, seed)."""

    seed: str
    profile: Profile
    steps: tuple

    def as_json(self):
        """For a file."""
        return json.dumps(
            {"seed": self.seed, "profile": dataclasses.asdict(self.profile), "steps": self.steps}, indent=1
        )

    @classmethod
    def from_json(cls, text, profile=Profile):
        """From a file; `profile` is the sort of its profile."""
        value = json.loads(text)
        words = value["profile"] | {"kinds": tuple(value["profile"]["kinds"])}
        return cls(value["seed"], profile(**words), tuple(map(tuple, value["steps"])))


def schedule_of(seed, profile=None):
    """The schedule of a seed."""
    chance = random.Random(f"{seed} schedule")
    profile = profile or profile_of(chance)
    deeds = [deed for deed in ACTS.values() if deed.kind in {"use", "path", *profile.kinds}]
    weights = [deed.weight * chance.choice((0.3, 1, 1, 2)) * profile.more.get(deed.name, 1) for deed in deeds]
    first = [("make_mailbox", "primary"), ("leave", "primary"), ("turn", "primary"), ("mail", "secondary")]
    names = [(deed.name, chance.choice(NAMES)) for deed in chance.choices(deeds, weights, k=profile.acts)]
    steps = tuple((name, server, chance.getrandbits(48)) for name, server in [*first, *names])
    return Schedule(str(seed), profile, steps)


@dataclass
class Outcome:
    """What a schedule gave."""

    schedule: Schedule
    failure: str | None
    story: list
    counts: dict
    digest: str
    kind: str = ""


def run(schedule, directory=None):
    """Run a schedule from its beginning; a violation, and whatever else the product raises, is its failure."""
    return played(schedule, World, _play, directory)


def played(schedule, world_of, play, directory=None):
    """What came of playing a schedule in a new world of such a kind."""
    directory = Path(directory or own_directory())
    world = world_of(directory, schedule.seed, schedule.profile)
    failure, kind = None, ""
    with world.running():
        try:
            play(world, schedule)
        except Violation as error:
            failure, kind = str(error), "violation"
        except (Exception, Crash) as error:  # noqa: BLE001 - whatever it is, it is the product's or the simulation's bug
            failure, kind = "".join(traceback.format_exception(error)), "bug"
    if failure:
        world.tell(f"FAILED: {failure}")
    return Outcome(schedule, failure, world.story, dict(world.counts), world.digest(), kind)


def _play(world, schedule):
    for number, (name, server, seed) in enumerate(schedule.steps):
        world.reseed(f"{schedule.seed} {seed}")
        world.counts["act: " + name] += 1
        world.now += 10_000
        words = ACTS[name].do(world, server)
        world.tell(f"{number:3} {world.now / 1e6:12.3f} {server:9} {words}")
        world.now += 20_000
        check_step(world)
    world.reseed(f"{schedule.seed} rest")
    come_to_rest(world)
    world.tell("at rest")


def own_directory():
    """A directory of this process, in memory if possible."""
    import os

    return ROOM / f"vmctl-sim-{os.getpid()}"


def remove_directory():
    """Remove it."""
    shutil.rmtree(own_directory(), ignore_errors=True)
