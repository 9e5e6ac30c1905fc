"""`python -m simulation [--roles]`: soak, replay a seed or a schedule's file, shrink it, plant bugs. Run it from `tests`.

The order of sets of texts must not differ between two runs, so it starts itself again with PYTHONHASHSEED=0.
"""

import argparse
import os
import sys
from pathlib import Path

from . import plants, soak
from .kinds import DATA, ROLES
from .schedule import Schedule, remove_directory
from .shrink import shrink, way_of
from .world import clean


def main():
    """The command line."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"}
        )
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--roles", action="store_true", help="two daemons and who serves, instead of two stores")
    orders = parser.add_subparsers(required=True, dest="order")
    soaking = orders.add_parser("soak", help="run many seeds, from where the last run stopped")
    soaking.add_argument("--seeds", type=int, default=10**9)
    soaking.add_argument("--from", type=int, dest="first")
    soaking.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    soaking.add_argument("--seconds", type=float, default=float("inf"))
    soaking.add_argument("--state", type=Path, default=Path(".soak"))
    for name, words in (("replay", "run one again and tell its story"), ("shrink", "make it small and tell its story")):
        order = orders.add_parser(name, help=words)
        order.add_argument("what", help="a seed, or the file of a schedule")
    planting = orders.add_parser("plant", help="put bugs into the product, and tell which seed finds each")
    planting.add_argument("names", nargs="*", help="all of them, if none is named")
    given = parser.parse_args()
    kind = ROLES if given.roles else DATA
    try:
        if given.order == "soak":
            return soak.soak(kind, given.state, given.seeds, given.first, given.jobs, given.seconds)
        if given.order == "plant":
            return max(_plant(kind, name) for name in given.names or kind.plants)
        schedule = _schedule(kind, given.what)
        return _shrink(kind, schedule, given.what) if given.order == "shrink" else _tell(kind, schedule)
    finally:
        remove_directory()
        clean()


def _schedule(kind, what):
    if Path(what).is_file():
        return Schedule.from_json(Path(what).read_text(), kind.profile)
    return kind.schedule_of(what)


def _tell(kind, schedule):
    outcome = kind.run(schedule)
    print("\n".join(outcome.story))
    print(f"trace {outcome.digest}")
    return 1 if outcome.failure else 0


def _plant(kind, name):
    bug = kind.plants[name]
    found = plants.hunt(kind, name)
    if found is None or found.kind != "violation":
        print(f"{name}: {'nothing' if found is None else found.kind} in {bug.seeds} seeds: {bug.words}")
        return 1
    holds = kind.run(found.schedule).failure is None
    print(f"{name}: a promise breaks at seed {found.schedule.seed.split()[-1]}: {bug.words}")
    print(f"  it {way_of(found.failure)}; {'without it the same seed holds' if holds else 'without it, too'}")
    return 0 if holds else 1


def _shrink(kind, schedule, what):
    small = shrink(schedule, trial=kind.run)
    status = _tell(kind, small)
    path = Path(".soak") / f"{Path(what).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(small.as_json())
    print(f"{len(small.steps)} of {len(schedule.steps)} acts are left; it {way_of(kind.run(small).failure)}: {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
