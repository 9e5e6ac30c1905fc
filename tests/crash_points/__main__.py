"""`make crash`: the stories, a process killed at each point of them, and the figures."""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from running import ROOT, environment

from crash_points import faults
from crash_points.run import Report, crash
from crash_points.stories import STORIES

_FAULTS = {plant.__name__: plant for plant in faults.FAULTS}


def main():
    asked = argparse.ArgumentParser(prog="crash_points", description="Kill a process at each durable step of a story.")
    asked.add_argument("stories", nargs="*", metavar="STORY", help="all, unless some are named")
    asked.add_argument("--list", action="store_true", help="name the steps")
    asked.add_argument(
        "--everywhere", action="store_true", help="also where it waits for the disk; kill each start, too"
    )
    asked.add_argument("--point", type=int, action="append", default=[], help="at this step only")
    asked.add_argument("--most", type=int, help="at so many points of a story at most, which the seed chooses")
    asked.add_argument("--seed", type=int, default=0, help="chooses points, and where a start is killed (0)")
    asked.add_argument("--jobs", type=int, default=2, help="stories at once (2)")
    asked.add_argument("--plant", choices=_FAULTS, help="with a deliberate fault; ends where it is found")
    asked.add_argument("--json", action="store_true", help="the report of one story")
    given = asked.parse_args()
    if unknown := set(given.stories) - STORIES.keys():
        asked.error(f"there is no story {min(unknown)}: they are {', '.join(STORIES)}")
    if not given.json:
        return _all(given)
    if given.plant:
        _FAULTS[given.plant]()
    story = STORIES[given.stories[0]]
    how = {"everywhere": given.everywhere, "most": given.most, "seed": given.seed, "only": given.point}
    print(crash(story, **how, until_found=bool(given.plant)).as_json())
    return 0


def _all(given):
    began = time.monotonic()
    how = [f"--point={point}" for point in given.point] + ["--everywhere"] * given.everywhere
    how += [f"--most={given.most}"] * bool(given.most)
    how += [f"--seed={given.seed}"] + [f"--plant={given.plant}"] * bool(given.plant)
    with ThreadPoolExecutor(given.jobs) as pool:
        reports = list(pool.map(lambda name: _shown(report_of(name, *how), given), given.stories or STORIES))
    failures = sum(len(report.failures) for report in reports)
    print(
        f"{len(reports)} stories, {sum(len(report.steps) for report in reports)} durable steps, a process killed at "
        f"{sum(report.killed for report in reports)} points, its start after that at "
        f"{sum(report.starts_killed for report in reports)}, {failures} failures, {time.monotonic() - began:.0f} s"
    )
    return 1 if failures else 0


def report_of(name, *how):
    """The report of a story that a process of its own has told; its failure where that process gave none."""
    command = [sys.executable, "-W", "error", "-m", "crash_points", "--json", *how, name]
    env = environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        return Report(name, failures=[{"point": 0, "start": 0, "kept": "", "problems": [done.stderr]}])
    return Report(**json.loads(done.stdout))


def _shown(report, given):
    words = [f"{report.story}: {len(report.steps)} steps, {report.killed} points, {report.seconds} s"]
    words += ["  {:4} {:14} {}".format(*step) for step in report.steps if given.list]
    words += told(report)
    print("\n".join(words), flush=True)
    return report


def told(report):
    """The failures of a report, in lines for people, and how to see each again."""
    lines = []
    for failure in report.failures:
        again = f", and its start at step {failure['start']}" if failure["start"] else ""
        lines.append(f"  killed at point {failure['point']}{again}; what is left is in {failure['kept']}")
        lines += [f"    {problem}" for problem in failure["problems"]]
    return lines


if __name__ == "__main__":
    sys.exit(main())
