"""`vmctl demo` as a process: the whole story, each step of it true, and nothing left behind but what was asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import SERVERS, Net, environment, run, until

from vmctl import config
from vmctl.errors import NotEmpty

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAPTERS = [
    "A network of two voicemail servers",
    "Normal operation: the primary is active, the secondary stands by",
    "A caller leaves a message at the primary",
    "The primary is killed (SIGKILL)",
    "Resilience: a caller leaves a message at the secondary",
    "The primary comes back: first the stores, then the role",
    "Nothing was lost",
]
SLOW_START = 40.0  # seconds: a machine that runs all other tests, too

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A directory for the demo's temporary files, which also marks its processes; none outlives the test."""
    made = tmp_path / "temporary"
    made.mkdir()
    yield made
    for number in processes(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def marked(temporary: Path) -> dict[str, str]:
    """The environment of a demo that keeps its temporary files there; its children inherit it."""
    return environment() | {"TMPDIR": str(temporary)}


def processes(temporary: Path) -> dict[int, str]:
    """The processes that were started with this mark and still run, with their command lines."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if f"TMPDIR={temporary}\0".encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has ended meanwhile
    return found


def chapters(text: str) -> list[str]:
    """The chapters that were told, in order."""
    return [line.strip("= ") for line in text.splitlines() if line.startswith("== ")]


@needs_proc
def test_the_story_is_told_in_order_and_leaves_nothing(temporary: Path, tmp_path: Path) -> None:
    """It exits 0 after all chapters, prints plain text into a pipe, and leaves no process and no file."""
    done = run("demo", cwd=tmp_path, env=marked(temporary))
    assert (0, "") == (done.returncode, done.stderr)
    assert CHAPTERS == chapters(done.stdout)
    assert "every step was checked and true" in done.stdout.splitlines()[-1]
    assert {"\n"} == {char for char in done.stdout if not char.isprintable()}, "escape codes"
    assert {} == processes(temporary)
    assert [] == list(temporary.iterdir())
    assert [temporary] == list(tmp_path.iterdir())


@needs_proc
def test_a_network_that_is_kept_can_be_played_with(temporary: Path, tmp_path: Path) -> None:
    """`--keep DIR` leaves a whole network in step without a daemon; a second demo there is refused and changes nothing."""
    place = tmp_path / "kept"
    done = run("demo", "--keep", str(place), cwd=tmp_path, env=marked(temporary))
    assert (0, CHAPTERS) == (done.returncode, chapters(done.stdout)), done.stderr
    assert str(place) in done.stdout.splitlines()[-1]
    assert {} == processes(temporary)
    net = Net(place, config.load(place / "vmctl.yaml"))
    status = net.read("status")
    assert status["in_step"]
    assert [False, False] == [status["servers"][name]["daemon"] for name in SERVERS]
    assert net.read("verify")["equal"]
    assert 2 == len(net.read("message", "list", "2001", "--server", "secondary"))
    before = sorted((path, path.stat().st_mtime_ns) for path in place.rglob("*"))
    done = run("demo", "--keep", str(place), cwd=tmp_path, env=marked(temporary))
    assert NotEmpty.exit_code == done.returncode
    assert str(place) in done.stderr
    assert before == sorted((path, path.stat().st_mtime_ns) for path in place.rglob("*"))


def test_a_directory_with_a_file_in_it_is_refused(tmp_path: Path) -> None:
    """Not even a hidden file is put at risk: the code is that of NotEmpty, and the file is named."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.notes").write_text("hi")
    done = run("demo", "--keep", "mine", cwd=tmp_path)
    assert NotEmpty.exit_code == done.returncode
    assert ".notes" in done.stderr
    assert [tmp_path / "mine/.notes"] == list((tmp_path / "mine").iterdir())


@needs_proc
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM],
)
def test_a_demo_that_is_stopped_stops_its_daemons(temporary: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Stopped in the middle it takes both daemons and its temporary directory with it."""
    with (tmp_path / "told").open("wb") as told, subprocess.Popen(
        [sys.executable, "-m", "vmctl", "demo"], cwd=tmp_path, env=marked(temporary), stdout=told, stderr=told
    ) as demo:  # fmt: skip
        until(lambda: "serve --server secondary" in (tmp_path / "told").read_text(), what="a daemon", within=SLOW_START)
        until(lambda: len(processes(temporary)) > 1, what="its process")
        demo.send_signal(number)
        demo.wait(timeout=20)
    assert demo.returncode != 0
    until(lambda: not processes(temporary), within=5.0, what="no process left")
    assert [] == list(temporary.iterdir())
