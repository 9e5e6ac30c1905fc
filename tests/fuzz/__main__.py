"""`python -m fuzz`: gives each target inputs for some time and prints a table. Run it from `tests`.

    python -m fuzz [--target NAME ...] [--seconds 60]   all targets, or those named; 1 where something was found
    python -m fuzz --target NAME --replay FILE          one input again, with its story
    python -m fuzz --keep                               put a part of what was learnt into fuzz/corpus

Coverage leads where atheris is installed, else Hypothesis draws. What is learnt and found stays below `--state`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from fuzz import corpus, grounds, unguided
from fuzz.targets import TARGETS

_EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")
_COVERED = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


class Figures(NamedTuple):
    """What came of the run of one target; coverage and corpus only where coverage led."""

    executions: int
    seconds: float
    coverage: int | None
    corpus: int | None
    findings: list[str]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzzes every entrance of vmctl.")
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--state", type=Path, default=Path("../.fuzz"), help="where the work is kept (../.fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input again")
    parser.add_argument("--keep", action="store_true", help="put a part of what was learnt into fuzz/corpus")
    parser.add_argument("--unguided", action="store_true", help="by Hypothesis also where atheris is installed")
    given = parser.parse_args()
    names = given.target or list(TARGETS)
    state: Path = given.state.resolve()
    state.mkdir(exist_ok=True)
    if given.replay is not None:
        finding = TARGETS[names[0]].judge(given.replay.read_bytes())
        print(finding.story if finding else "nothing was found")
        return 1 if finding else 0
    if given.keep:
        return _keep(names, state)
    guided = importlib.util.find_spec("atheris") is not None and not given.unguided
    print(f"Led by {'coverage (atheris)' if guided else 'chance (Hypothesis)'}, {given.seconds:g} s for each target.\n")
    print("| target | what is given | executions | a second | edges reached | inputs kept | findings |")
    print("|---|---|--:|--:|--:|--:|--:|", flush=True)
    found: list[str] = []
    for name in names:
        figures = (_guided if guided else _unguided)(name, given.seconds, state)
        print(_row(name, figures), flush=True)
        found += figures.findings
    for one in found:
        print(f"found: {one}", file=sys.stderr)
    return 1 if found else 0


def _row(name: str, figures: Figures) -> str:
    rate = figures.executions / max(figures.seconds, 0.001)
    rest = ("" if one is None else f"{one:,}" for one in (figures.coverage, figures.corpus))
    cells = (
        f"`{name}`",
        TARGETS[name].words,
        f"{figures.executions:,}",
        f"{rate:,.0f}",
        *rest,
        str(len(figures.findings)),
    )
    return f"| {' | '.join(cells)} |"


def _guided(name: str, seconds: float, state: Path) -> Figures:
    """A process of its own for each target, as libFuzzer ends the one that it runs in."""
    began = time.monotonic()
    said = _child(name, state, f"{seconds:.0f}")
    executed, covered = _EXECUTED.search(said), _COVERED.findall(said)
    (state / f"{name}.log").write_text(said)
    findings = _findings(name, state, since=time.time() - (time.monotonic() - began) - 1)
    if executed is None:
        findings.append(f"{name}: the run broke off, see {state / name}.log")
    return Figures(
        int(executed[1]) if executed else 0,
        time.monotonic() - began,
        int(covered[-1][0]) if covered else None,
        int(covered[-1][2]) if covered else None,
        findings,
    )


def _child(name: str, state: Path, *words: str) -> str:
    scratch = tempfile.mkdtemp(prefix="vmctl-fuzz-", dir=grounds.memory())
    env = os.environ | {grounds.SCRATCH: scratch}
    order = [sys.executable, "-m", "fuzz.guided", name, words[0], str(state), *words[1:]]
    try:
        done = subprocess.run(order, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.stdout.decode("utf-8", "replace")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _findings(name: str, state: Path, since: float) -> list[str]:
    folder = state / "found" / name
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(str(path) for path in there if path.suffix != ".txt" and path.stat().st_mtime >= since)


def _unguided(name: str, seconds: float, state: Path) -> Figures:
    began = time.monotonic()
    executions, found = unguided.run(TARGETS[name], seconds)
    folder = state / "found" / name
    folder.mkdir(parents=True, exist_ok=True)
    for words, (data, finding) in found.items():
        (folder / words).write_bytes(data)
        (folder / f"{words}.txt").write_text(finding.story, "utf-8", "backslashreplace")
    return Figures(executions, time.monotonic() - began, None, None, [str(folder / words) for words in sorted(found)])


def _keep(names: list[str], state: Path) -> int:
    """Of what was learnt, the inputs that together reach all that is reached."""
    for name in names:
        small = state / "small" / name
        shutil.rmtree(small, ignore_errors=True)
        small.mkdir(parents=True)
        _child(name, state, "0", "--merge", str(small))
        print(f"{name}: {corpus.keep(name, small)} of {sum(1 for _ in small.iterdir())} inputs are kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
