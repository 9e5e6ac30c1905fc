"""Random schedules for the model of roles, what must hold in each, and the story of one.

    python tests/role_schedules.py [--arbiter] SEED [--without 3,5]     tell a schedule, or what is left of it
    python tests/role_schedules.py [--arbiter] FIRST-LAST                run many
    python tests/role_schedules.py [--arbiter] --shrink SEED

Each step has a seed of its own, so that one can be left out without changing the others.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, replace

from role_model import HEARTBEAT, HOUR, NAMES, PATIENT, PROMISE, TTL, Pair
from simulation.ledger import Violation, require
from simulation.roles.judge import Made, judge
from simulation.shrink import shrink, way_of

SETTLED = (
    int(PATIENT.start_wait + PATIENT.after) + TTL + PROMISE + 20
)  # after the faults, until one serves, and both know
AT_HOME = HOUR + 2 * int(PATIENT.hold) + 10 * HEARTBEAT  # after that, until the home serves
ACTS = (
    "cut", "cut", "heal", "crash", "up", "freeze", "thaw", "order", "now", "pause", "resume", "mode", "unfit", "fit",
    "cut off", "calls", "replay",
)  # fmt: skip
ARBITER = ("etcd cut", "etcd heal", "etcd slow")


@dataclass(frozen=True)
class Schedule:
    """What happens: steps as (act, server, seconds until the next, seed)."""

    seed: str
    arbitrated: bool
    pace: int
    delay: int
    lossy: bool
    steps: tuple[tuple[str, str, int, int], ...]


@dataclass
class Outcome:
    """What came of a schedule: the promise that broke, if one did, and the story."""

    failure: str | None
    story: list[str]


def schedule_of(seed, *, arbitrated, acts=()):
    """The schedule of a seed; of these acts only, if some are named."""
    chance = random.Random(f"{seed} {arbitrated}")
    names = acts or ACTS + ARBITER * arbitrated
    steps = tuple(
        (chance.choice(names), chance.choice(NAMES), chance.choice((1, 5, 30, 100, 300)), chance.getrandbits(32))
        for _ in range(chance.randrange(3, 14))
    )
    pace, delay, lossy = chance.choice((2, 3, 5)), chance.choice((2, 5, 5, 30)), chance.random() < 0.5
    return Schedule(str(seed), arbitrated, pace, delay, lossy, steps)


def run(schedule):
    """Play a schedule to its end and beyond, until all is at rest."""
    pair = Pair(
        random.Random(schedule.seed), schedule.delay, schedule.arbitrated, lossy=schedule.lossy, pace=schedule.pace
    )
    watch = _Watch(pair)
    failure = None
    try:
        for number, (act, name, seconds, seed) in enumerate(schedule.steps):
            pair.rng.seed(seed)
            watch.tell(f"{number:2} {act} {name}: {_do(pair, act, name)}")
            watch.troubled = pair.now
            watch.run(seconds)
        _rest(pair, watch)
    except (Violation, AssertionError) as error:
        failure = str(error)
        watch.tell(f"FAILED: {failure}")
    return Outcome(failure, watch.story)


def _do(pair, act, name):
    """One act; gives words for the story."""
    one, rng = pair.servers[name], pair.rng
    if act == "crash":
        one.up = False
    elif act == "up" and not one.up:
        one.restart(pair.now)
    elif act in {"freeze", "thaw"}:
        one.frozen = act == "freeze" and one.up
    elif act in {"order", "now"}:
        verb = rng.choice(("failover", "failback"))
        pair.order(name, verb, now=act == "now")
        return verb
    elif act in {"pause", "resume"} and one.up:
        pair.agree(name, paused=act == "pause")
    elif act == "mode" and one.up:
        pair.agree(name, home=rng.choice(NAMES))
        return one.agreed[2]
    elif act in {"unfit", "fit"}:
        one.unfit = act == "unfit"
    elif act == "cut off":
        one.cut_off = not one.cut_off
    elif act == "calls":
        one.calls = rng.choice((0, 2))
    else:
        _do_between(pair, act)
    return f"cut {sorted(pair.cut)}, etcd cut {sorted(pair.etcd_cut)}"


def _do_between(pair, act):
    """One act on the mail or the arbiter."""
    rng = pair.rng
    if act in {"cut", "heal"}:
        pair.cut = set(rng.sample(NAMES, rng.choice((1, 2, 2)))) if act == "cut" else set()
    elif act == "replay" and pair.sent:
        pair.flying += [(pair.now + rng.randrange(300), rng.choice(pair.sent)) for _ in range(20)]
    elif act in {"etcd cut", "etcd heal"}:
        pair.etcd_cut = set(rng.sample(NAMES, rng.choice((1, 2, 2)))) if act == "etcd cut" else set()
    elif act == "etcd slow":
        pair.etcd_delay = rng.choice((2, 20, 90))


def _rest(pair, watch):
    """The faults stop: one serves soon, and the home when the limit of moves lets it."""
    pair.cut, pair.etcd_cut, pair.etcd_delay, pair.lossy, pair.delay, pair.flying = set(), set(), 2, False, 3, []
    for one in pair.servers.values():
        one.frozen = one.unfit = one.cut_off = False
        one.calls, one.order, one.woken = 0, None, True
        if not one.up:
            one.restart(pair.now)
    pair.agree(max(NAMES, key=lambda name: pair.servers[name].agreed), paused=False)
    watch.tell("the faults stop")
    watch.troubled = pair.now
    watch.run(SETTLED, until=pair.at_rest)
    require(len(pair.serving()) == 1, f"after the faults nobody comes to serve alone: {pair.serving()}")
    watch.run(AT_HOME, until=pair.at_rest)
    views = [one.view for one in pair.servers.values()]
    if views[0].cause == "order" and views[0].state == "resilience":  # what a person moved, a person moves back
        pair.order(views[0].serving, "failback")
        watch.run(AT_HOME, until=pair.at_rest)
    require(pair.at_rest(), f"the home does not serve again: {[one.view for one in pair.servers.values()]}")


class _Watch:
    """Lets time pass and looks at every second of it."""

    def __init__(self, pair):
        self._pair = pair
        self.story = []
        self._seen = dict.fromkeys(NAMES, 0)
        self._moves = {name: [] for name in NAMES}
        self._well = dict.fromkeys(NAMES, 0)  # when something last kept a server from taking the service
        self.troubled = 0  # when something last kept mail from getting through both ways, or a person gave an order

    def tell(self, words):
        """A line of the story."""
        self.story.append(f"{self._pair.now:6} {words}")

    def run(self, seconds, until=lambda: False):
        """Let so many seconds pass, or fewer if that comes true before."""
        pair = self._pair
        for _ in range(seconds):
            if until():
                return
            both = len(pair.both)
            pair.run(1)
            self._look_at_moves()
            one, other = pair.servers.values()
            if pair.cut or pair.lossy or not (one.up and other.up) or one.frozen or other.frozen:
                self.troubled = pair.now
            self._look_for_nobody()
            if len(pair.both) > both:
                require(not pair.arbitrated, f"two serve at {pair.now} although there is an arbiter")
                # a challenge, its echo, and the view that the next mail brings
                heard = 3 * (HEARTBEAT + pair.pace + pair.delay + 1)
                require(pair.now - self.troubled <= heard, f"two serve at {pair.now} although they hear each other")

    def _look_for_nobody(self):
        """Somebody serves whenever some server is well and may; nobody does at once after its start."""
        pair = self._pair
        serving = pair.serving()
        for name, one in pair.servers.items():
            may = not pair.arbitrated or (not pair.etcd_cut and pair.etcd_delay == 2)
            free = not one.agreed[3] and sum(pair.now - at < HOUR for at in one.moves) < PATIENT.most_moves
            if serving or not (one.up and not one.frozen and not one.unfit and not one.cut_off and may and free):
                self._well[name] = pair.now
            asked = one.echoed is not None or pair.now - one.start >= PATIENT.start_wait or one.lease_until > pair.now
            require(name not in serving or asked, f"{name} serves at once after its start")
        require(
            pair.now - min(self._well.values()) <= SETTLED, f"nobody serves at {pair.now} although {self._well} may"
        )

    def _look_at_moves(self):
        for name, one in self._pair.servers.items():
            for at, before, after, by, reason, seen in one.made[self._seen[name] :]:
                made = Made(name, at, before, after, by, reason, seen.as_json())
                self.tell(f"  {made.words}")
                judge(made, PATIENT)
                if made.counts:
                    self._moves[name] = [then for then in self._moves[name] if at - then < HOUR] + [at]
                    require(
                        len(self._moves[name]) <= PATIENT.most_moves or before.state == "starting",
                        f"moved too often: {made.words}",
                    )
            self._seen[name] = len(one.made)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds")
    parser.add_argument("--arbiter", action="store_true")
    parser.add_argument("--without", default="")
    parser.add_argument("--shrink", action="store_true")
    given = parser.parse_args()
    if "-" in given.seeds:
        first, last = map(int, given.seeds.split("-"))
        bad = {}
        for seed in range(first, last + 1):
            if failure := run(schedule_of(seed, arbitrated=given.arbiter)).failure:
                bad[seed] = failure
                print(seed, failure, flush=True)
        print(f"{len(bad)} of {last - first + 1} failed")
        return 1 if bad else 0
    schedule = schedule_of(given.seeds, arbitrated=given.arbiter)
    if given.shrink:
        schedule = shrink(schedule, trial=run, plainer=lambda small, way: small)
    left_out = {int(number) for number in given.without.split(",") if number}
    steps = tuple(step for number, step in enumerate(schedule.steps) if number not in left_out)
    outcome = run(replace(schedule, steps=steps))
    print(schedule.pace, schedule.delay, schedule.lossy, *outcome.story, sep="\n")
    if outcome.failure:
        print(f"it {way_of(outcome.failure)}")
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    sys.exit(main())
