"""Crash points by hand: `python -m crash_points [STORY...]`."""

import argparse

from crash_points.run import crash
from crash_points.scenarios import STORIES


def main():
    asked = argparse.ArgumentParser(prog="crash_points", description="Kill a process at each step of each story.")
    asked.add_argument("stories", nargs="*", choices=[[], *STORIES], metavar="STORY", help="all, unless some are named")
    asked.add_argument("--list", action="store_true", help="only name the steps")
    asked.add_argument("--everywhere", action="store_true", help="also while the disk is waited for")
    asked.add_argument("--point", type=int, action="append", default=[], help="only at this step")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args()
    for name in given.stories or STORIES:
        report = crash(STORIES[name], everywhere=given.everywhere, seed=given.seed, only=given.point)
        print(name, report.killed, report.seconds)
        if given.list:
            for step in report.steps:
                print(*step)
        for failure in report.failures:
            print({k: v for k, v in failure.items() if k != "problems"})
            for p in failure["problems"]:
                print("   ", p)


main()
