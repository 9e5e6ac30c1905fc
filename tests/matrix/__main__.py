"""`python -m matrix`: plays the whole matrix, in both modes, and prints it as Markdown with what was measured.

`--only WORDS` plays the rows whose kind and name hold all of these words. Rows with etcd need it installed; those in
network namespaces need root.
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
from pathlib import Path

from etcd import REQUIRED

from matrix.hosts import AFTER, HEARTBEAT, HOLD, TTL, Kind
from matrix.play import Measured, play
from matrix.rows import ACTIVE, DUAL, LENT, LENT_SPACES, PLAIN, Row
from matrix.spaces import Spaces
from matrix.stage import Stage

INSIDE = "VMCTL_MATRIX_INSIDE"  # set in the namespace in which the hosts' own are made


def parts() -> list[tuple[Kind, tuple[Row, ...]]]:
    """All kinds of network, each with the rows that are played on it."""
    found = []
    for mode in (ACTIVE, DUAL):
        plain = tuple(row for row in PLAIN if mode in row.modes)
        found += [(Kind(mode), plain), (Kind(mode, etcd=3), LENT)]
        found += [
            (Kind(mode, spaces=True), tuple(row for row in plain if row.spaces)),
            (Kind(mode, etcd=3, spaces=True), LENT_SPACES),
        ]
    return found


def run(kind: Kind, rows: tuple[Row, ...]) -> bool:
    """Play rows on one network and print their table; tells whether all were as they should be."""
    print(f"\n## {str(kind).capitalize()}\n")
    print("| what happens | what is decided | failover | failback | nobody served | both served |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    fine, stage = True, None
    for row in rows:
        print(f"{time.strftime('%H:%M:%S')} {kind}: {row.name}", file=sys.stderr)
        try:
            if stage is None:
                stage = (Spaces if kind.spaces else Stage)(Path(tempfile.mkdtemp(prefix="matrix-")), kind)
                stage.open()
            print(line(row, play(stage, row)), flush=True)
        except BaseException as error:
            print(f"| {row.name} | **failed** | | | | |", flush=True)
            traceback.print_exc()
            if stage is not None:
                stage.close()
                print(f"what it left is in {stage.root}", file=sys.stderr)
            fine, stage = False, None
            if not isinstance(error, Exception):
                raise
    if stage is not None:
        stage.close()
        shutil.rmtree(stage.root)
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
    only = parser.parse_args().only.split()
    chosen = []
    for kind, rows in parts():
        some = tuple(row for row in rows if all(word in f"{kind} {row.name}" for word in only))
        chosen += [(kind, some)] if some else []
    inside = bool(os.environ.get(INSIDE))
    if not inside:
        print("Timers: " + ", ".join(f"`{name}` {value:g} s" for name, value in TIMES.items()) + ".")
    fine = True
    for kind, rows in chosen:
        if kind.etcd and shutil.which("etcd") is None:
            print(f"not played: {kind}, as etcd is not installed (Debian: etcd-server)", file=sys.stderr)
            fine = fine and not os.environ.get(REQUIRED)
        elif kind.spaces == inside:
            fine = run(kind, rows) and fine
    if not inside and any(kind.spaces for kind, _ in chosen):
        fine = _in_spaces(only) and fine
    return 0 if fine else 1


TIMES = {"sync.heartbeat": HEARTBEAT, "failover.after": AFTER, "lease.ttl": TTL, "failback.hold": HOLD}


def _in_spaces(only: list[str]) -> bool:
    """Play the rest in a network namespace, which takes all others along when it ends."""
    words = ["unshare", "-n", sys.executable, "-m", "matrix", "--only", " ".join(only)]
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0:
        print("not played: what needs network namespaces, as this is not root", file=sys.stderr)
        return True
    sys.stdout.flush()
    return subprocess.run(words, env={**os.environ, INSIDE: "1"}, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
