"""`python -m simulation`: soak, replay a seed or a schedule's file, shrink a seed. Run it from `tests`.

The order of sets of texts must not differ between two runs, so it starts itself again with PYTHONHASHSEED=0.
"""

import argparse
import os
import sys
from pathlib import Path

from . import soak
from .schedule import Schedule, remove_directory, run, schedule_of
from .shrink import shrink, way_of
from .world import clean


def main():
    """The command line."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
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
    given = parser.parse_args()
    try:
        if given.order == "soak":
            return soak.soak(given.state, given.seeds, given.first, given.jobs, given.seconds)
        schedule = _schedule(given.what)
        return _shrink(schedule, given.what) if given.order == "shrink" else _tell(schedule)
    finally:
        remove_directory()
        clean()


def _schedule(what):
    return Schedule.from_json(Path(what).read_text()) if Path(what).is_file() else schedule_of(what)


def _tell(schedule):
    outcome = run(schedule)
    print("\n".join(outcome.story))
    print(f"trace {outcome.digest}")
    return 1 if outcome.failure else 0


def _shrink(schedule, what):
    small = shrink(schedule)
    status = _tell(small)
    path = Path(".soak") / f"{Path(what).stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(small.as_json())
    print(f"{len(small.steps)} of {len(schedule.steps)} acts are left; it {way_of(run(small).failure)}: {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
