"""`python -m matrix`: plays the whole matrix, in both modes, and prints it as Markdown with what was measured.

`--only WORDS` plays the rows whose kind and name hold all of these words, `--rest` those that `make test` does not play.
Rows with etcd need it installed; those in network namespaces need root. Each kind of network is played by a process of
its own, `--jobs` at a time, as most of a row is waiting.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from etcd import REQUIRED

from matrix.hosts import AFTER, HEARTBEAT, HOLD, TESTED, TTL, Kind
from matrix.player import Player
from matrix.rows import ACTIVE, DUAL, LENT, LENT_SPACES, PLAIN, Row

if TYPE_CHECKING:
    from matrix.play import Measured

TIMES = {"sync.heartbeat": HEARTBEAT, "failover.after": AFTER, "lease.ttl": TTL, "failback.hold": HOLD}


def parts(words: list[str], *, rest: bool) -> dict[Kind, tuple[Row, ...]]:
    """The kinds of network that are asked for, each with the rows that are played on it."""
    found: dict[Kind, tuple[Row, ...]] = {}
    for mode in (ACTIVE, DUAL):
        plain = tuple(row for row in PLAIN if mode in row.modes)
        found[Kind(mode)] = plain
        found[Kind(mode, etcd=3)] = LENT
        found[Kind(mode, spaces=True)] = tuple(row for row in plain if row.spaces)
        found[Kind(mode, etcd=3, spaces=True)] = LENT_SPACES
    asked = {
        kind: tuple(row for row in rows if all(word in f"{kind} {row.name}" for word in words))
        for kind, rows in found.items()
        if not (rest and kind in TESTED)
    }
    return {kind: rows for kind, rows in asked.items() if rows}


def run(kind: Kind, rows: tuple[Row, ...]) -> bool:
    """Play rows on one network and print their table; tells whether all were as they should be."""
    print(f"\n## {str(kind).capitalize()}\n")
    print("| what happens | what is decided | failover | failback | nobody served | both served |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    root = Path(tempfile.mkdtemp(prefix="matrix-"))
    player, fine = Player(kind, lambda: Path(tempfile.mkdtemp(dir=root))), True
    try:
        for row in rows:
            print(f"{time.strftime('%H:%M:%S')} {kind}: {row.name}", file=sys.stderr, flush=True)
            try:
                print(line(row, player.play(row)), flush=True)
            except Exception:  # noqa: BLE001 - whatever it is, the other rows are played
                print(f"| {row.name} | **failed** | | | | |", flush=True)
                traceback.print_exc()
                fine = False
    finally:
        player.close()
    if fine:
        shutil.rmtree(root)
    else:
        print(f"what it left is in {root}", file=sys.stderr)
    return fine


def line(row: Row, measured: Measured) -> str:
    """A row of the table."""
    stories = "; ".join(story for story in measured.story if story) or "nothing"
    times = (measured.failover, measured.failback, measured.nobody or None, measured.both or None)
    cells = ["" if time is None else f"{time:.1f} s" for time in times]
    return f"| {row.name} | {stories} | {' | '.join(cells)} |"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="matrix", description="The matrix of failures.")
    parser.add_argument("--only", default="", metavar="WORDS", help="rows whose kind and name hold all these words")
    parser.add_argument("--rest", action="store_true", help="rows that 'make test' does not play")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="kinds of network played at a time")
    parser.add_argument("--kind", default="", help=argparse.SUPPRESS)  # the one that this process plays
    given = parser.parse_args()
    asked = parts(given.only.split(), rest=given.rest)
    if given.kind:
        return 0 if all(run(kind, rows) for kind, rows in asked.items() if str(kind) == given.kind) else 1
    print("Timers: " + ", ".join(f"`{name}` {value:g} s" for name, value in TIMES.items()) + ".", flush=True)
    fine = True
    with ThreadPoolExecutor(given.jobs) as pool:
        for done, table in pool.map(partial(_play_apart, only=given.only), asked):
            print(table, end="", flush=True)
            fine = fine and done
    return 0 if fine else 1


def _play_apart(kind: Kind, only: str) -> tuple[bool, str]:
    """Play a kind in a process of its own: where it is for namespaces, in one that takes all others along when it ends."""
    if kind.etcd and shutil.which("etcd") is None:
        print(f"not played: {kind}, as etcd is not installed (Debian: etcd-server)", file=sys.stderr)
        return not os.environ.get(REQUIRED), ""
    if kind.spaces and not _can_unshare():
        print(f"not played: {kind}, as this is not root", file=sys.stderr)
        return True, ""
    apart = ["unshare", "-n"] if kind.spaces else []
    words = [*apart, sys.executable, "-m", "matrix", "--kind", str(kind), "--only", only]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode == 0, done.stdout


def _can_unshare() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
