"""`python -m fuzz.guided TARGET SECONDS STATE [--merge TO]`: one target, led by coverage; started by `python -m fuzz`.

atheris looks which lines and branches of the product an input reaches, and goes on from those that reach new ones. What
is found is kept below STATE, and the run goes on: a fault that is known must not hide the next one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

INSTRUMENTED = ["vmctl", "aiosmtpd", "smtplib", "email", "wave"]
_HANG = 60  # seconds, where even the signal of `target.bounded` is not heard
_MOST_RESIDENT = 2048  # MB


def main(name: str, seconds: str, state: Path, merge_to: str | None) -> None:
    """Run until the time is over; libFuzzer ends the process and tells its figures."""
    with atheris.instrument_imports(include=INSTRUMENTED):  # until the end: much is imported where it is needed first
        from fuzz import corpus
        from fuzz.targets import TARGETS

        target = TARGETS[name]
        seen, found = state / "corpus" / name, state / "found" / name
        seen.mkdir(parents=True, exist_ok=True)
        found.mkdir(parents=True, exist_ok=True)
        for data in [*target.seeds, *corpus.kept(name), *corpus.wounds(name).values()]:
            corpus.add(seen, data)

        def bears(data: bytes) -> None:
            finding = target.judge(data)
            if finding is not None and not (found / f"{finding.name}.txt").exists():
                (found / finding.name).write_bytes(data)
                (found / f"{finding.name}.txt").write_text(finding.story, "utf-8", "backslashreplace")
                sys.stderr.write(f"found: {finding.name}\n")

        def mutate(data: bytes, longest: int, seed: int) -> bytes:
            chance = Random(seed)
            if chance.random() < 0.2:
                return atheris.Mutate(data, longest)
            return target.mutate(data or chance.choice(target.seeds), chance, min(longest, target.longest))

        words = state / f"{name}.dict"
        words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens or (b"{",)))
        options = [
            f"-timeout={_HANG}", f"-report_slow_units={_HANG}", f"-rss_limit_mb={_MOST_RESIDENT}", f"-max_len={target.longest}", "-print_final_stats=1",
            f"-artifact_prefix={found}/", "-len_control=0", f"-dict={words}",
        ]  # fmt: skip
        how = ["-merge=1", merge_to, str(seen)] if merge_to else [f"-max_total_time={seconds}", str(seen)]
        atheris.Setup([sys.argv[0], *options, *how], bears, custom_mutator=mutate)
        atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[5] if "--merge" in sys.argv else None)
