"""`python -m benchmarks`: measures vmctl beside rsync, unison and lsyncd, in turn, and prints a table in Markdown.

`--rows first,later` measures some rows only, `--part 0.1` with stores that are so much smaller, `--large` also with C, where
nothing but vmctl runs. `--json FILE` keeps all that was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from itertools import chain
from pathlib import Path

from benchmarks import latency, memory, rounds
from benchmarks.measure import HEAD, Row
from benchmarks.peers import missing
from benchmarks.stores import A, B, C, Site, smaller

ROWS = {
    A: ("first-a", "latency"),
    B: ("first", "later", "start", "latency", "memory", "rest"),
    C: ("first", "later", "latency"),
}


def machine() -> str:
    """What it runs on, in a line."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024**2
    words = [
        f"{os.cpu_count()} cores ({model.partition(':')[2].strip()})",
        f"{memory} GiB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(words)


def measured(name: str, site: Site, runs: int) -> list[Row]:
    """Some rows of one store."""
    return {
        "first-a": lambda: rounds.first(site, runs, durable=True),
        "first": lambda: rounds.first(site, runs, durable=False),
        "later": lambda: rounds.later(site, runs),
        "start": lambda: rounds.start(site, runs),
        "latency": lambda: latency.rows(site),
        "memory": lambda: memory.rows(site),
        "rest": lambda: memory.at_rest(site),
    }[name]()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default=",".join(dict.fromkeys(chain(*ROWS.values()))))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--where", type=Path, help="a folder on the file system that is measured")
    asked = parser.parse_args()
    chosen = asked.rows.split(",")
    print(f"{machine()}\n")
    if absent := missing():
        print(f"not installed, so not compared: {', '.join(absent)}\n")
    print(HEAD, flush=True)
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=asked.where))
    found: list[Row] = []

    def show(rows: list[Row]) -> None:
        for row in rows:
            print(row.as_line(), flush=True)
        found.extend(rows)

    try:
        for shape in (A, B, C) if asked.large else (A, B):
            rows = [name for name in ROWS[shape] if name in chosen]
            if rows:
                site = Site.build(root / shape.name.lower(), smaller(shape, asked.part))
                for name in rows:
                    show(measured(name, site, 1 if shape.alone else asked.runs))
        if asked.json is not None:
            asked.json.write_text(
                json.dumps({"machine": machine(), "rows": [row.as_json() for row in found]}, indent=1)
            )
    finally:
        shutil.rmtree(root)


main()
