"""A program that vmctl.yaml names is run for a bounded time, with bounded output, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest
from running import until
from surroundings import HandClock, gone, no_trace, open_files, pid_in, script

from vmctl.clock import Clock, Deadline
from vmctl.program import LINE, STOPPED, Ended, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = 60.0


def ended(cwd: Path, *words: str, deadline: Deadline | None = None, given: bytes = b"", **facts: str) -> Ended:
    """Run a program to its end; how it ended, which is told once."""
    told: list[Ended] = []
    deadline = deadline or Deadline(Clock(), LONG)
    run(words, told.append, config=cwd / "vmctl.yaml", facts=facts, deadline=deadline, given=given)
    (how,) = told
    return how


def shell(cwd: Path, *lines: str, given: bytes = b"", **facts: str) -> Ended:
    """Run a script to its end."""
    return ended(cwd, str(script(cwd / "script", *lines)), given=given, **facts)


@contextlib.contextmanager
def typed(text: str) -> Iterator[None]:
    """This process has something to read on its stdin."""
    with tempfile.TemporaryFile("w+") as file:
        file.write(text)
        file.seek(0)
        kept = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(kept, 0)
            os.close(kept)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("echo three; echo trunks", ""),
        ("exit 3", "exit code 3"),
        ("echo one; echo two; exit 3", "exit code 3: two"),
        ("echo two; echo; echo ' '; exit 3", "exit code 3: two"),
        ("printf 'no line end'; exit 1", "exit code 1: no line end"),
        ("echo one; echo two >&2; exit 1", "exit code 1: two"),
        ("echo one >&2; echo two; exit 1", "exit code 1: one"),
        ("echo one; echo >&2; exit 1", "exit code 1: one"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("kill -40 $$", "killed by signal 40"),
        (r"printf '\033[31mred\033[0m \001a\tb\r\n'; exit 1", "exit code 1: red a b"),
        (r"printf 'a\342\200\256b\377\n'; exit 1", "exit code 1: a b\N{REPLACEMENT CHARACTER}"),
        ("printf '%0500d' 0; exit 1", "exit code 1: " + "0" * LINE),
        ("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end; exit 1", "exit code 1: end"),
        ("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2; exit 1", "exit code 1: end"),
        ("exec >&- 2>&-; sleep 0.1; exit 4", "exit code 4"),
    ],
)
def test_it_says_how_a_program_ended(tmp_path: Path, line: str, why: str) -> None:
    """Exit code 0 is no reason; anything else is one, with the last line of stderr, else of stdout, printable and cut."""
    assert why == shell(tmp_path, line).why


def test_the_first_line_is_that_of_stdout(tmp_path: Path) -> None:
    """What is printed on stderr before it does not disturb it."""
    assert Ended("", "12") == shell(tmp_path, "echo warning >&2", "echo 12", "echo more")
    assert Ended("exit code 1: warning", "12") == shell(tmp_path, "echo warning >&2; echo 12; exit 1")
    assert Ended("", "") == shell(tmp_path, "echo; echo 12")


def test_a_program_that_cannot_be_started_has_ended(tmp_path: Path) -> None:
    """No such program, no right to run it, no program at all, no such directory: it is told why, and no more."""
    (tmp_path / "plain").write_text("echo")
    (tmp_path / "empty").touch(mode=0o755)
    assert "it cannot be run: No such file or directory: ./none" == ended(tmp_path, "./none").why
    assert "it cannot be run: Permission denied: ./plain" == ended(tmp_path, "./plain").why
    assert "it cannot be run: Permission denied: /" == ended(tmp_path, "/").why
    assert "it cannot be run: Exec format error: ./empty" == ended(tmp_path, "./empty").why
    assert f"it cannot be run: No such file or directory: {tmp_path / 'none'}" == ended(tmp_path / "none", "true").why


def test_no_shell_reads_the_words(tmp_path: Path) -> None:
    """Each word arrives as it stands in the config."""
    words = "$(touch owned) ; > owned *"
    assert words == ended(tmp_path, "printf", "%s", words).first
    assert [] == list(tmp_path.iterdir())


def test_a_path_counts_from_the_config(tmp_path: Path) -> None:
    """A program that is named with a slash lies beside vmctl.yaml, wherever vmctl itself runs."""
    script(tmp_path / "here", "echo found")
    assert "found" == ended(tmp_path, "./here").first


def test_it_runs_where_and_as_it_is_told(tmp_path: Path) -> None:
    """In the directory of vmctl.yaml, with the variables of this process and its own, in a session of its own."""
    lines = (
        '[ "$(pwd -P)" = "$(cd "$VMCTL_WHERE" && pwd -P)" ] || echo elsewhere', '[ "$VMCTL_CONFIG" = "$VMCTL_WHERE/vmctl.yaml" ] || echo another config',
        '[ "$(cut -d " " -f 6 /proc/$$/stat)" = $$ ] || echo no session', 'echo "$PATH"', "exit 1",
    )  # fmt: skip
    assert Ended(f"exit code 1: {os.environ['PATH'][:LINE]}", os.environ["PATH"][:LINE]) == shell(
        tmp_path, *lines, where=str(tmp_path)
    )


def test_it_reads_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    """Far more than a pipe holds arrives whole; without it there is nothing to read, also if this process has something."""
    lines = b"".join(b"%d\n" % number for number in range(100_000))
    assert "" == shell(tmp_path, "cat > read", given=lines).why
    assert lines == (tmp_path / "read").read_bytes()
    with typed("a line\n"):
        assert "" == shell(tmp_path, "cat > read").why
    assert b"" == (tmp_path / "read").read_bytes()


def test_one_that_does_not_read_it_is_well(tmp_path: Path) -> None:
    """Whether it reads what it is given is its own affair."""
    assert Ended("") == shell(tmp_path, "exit 0", given=b"x" * 1_000_000)


class Running:
    """A program that runs in a thread, with five seconds on a clock by hand."""

    def __init__(self, cwd: Path, *lines: str) -> None:
        self.clock = HandClock()
        self.stop = threading.Event()
        self.told: list[Ended] = []
        deadline = Deadline(self.clock, 5, self.stop.is_set)
        words = [str(script(cwd / "script", *lines))]
        how = {"config": cwd / "vmctl.yaml", "facts": {}, "deadline": deadline}
        self.thread = threading.Thread(target=run, args=(words, self.told.append), kwargs=how)
        self.thread.start()

    def over(self) -> Ended:
        """How it ended, once nothing of it is left."""
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        (how,) = self.told
        return how


def test_when_its_time_is_over_it_is_killed_with_its_children(tmp_path: Path) -> None:
    """It, its children and theirs, whatever they do with signals; not before its time; its last words are told."""
    running = Running(
        tmp_path, "trap '' TERM HUP INT", "sh -c 'sleep 1000 & echo $! > child; wait' &", "echo $$ > own",
        "echo waiting", "wait",
    )  # fmt: skip
    own, child = pid_in(tmp_path / "own"), pid_in(tmp_path / "child")
    running.clock.advance(4.9)
    assert not gone(own)
    assert [] == running.told
    running.clock.advance(0.1)
    assert Ended("it did not end within 5 s: waiting", "waiting") == running.over()
    assert no_trace(own)
    until(lambda: gone(child), what="the end of its child")


def test_a_program_that_is_stopped_is_killed(tmp_path: Path) -> None:
    """A frozen one answers no more than a slow one, and is gone after its time."""
    path = script(tmp_path / "script", "echo $$ > own", "kill -STOP $$")
    assert "it did not end within 0.2 s" == ended(tmp_path, str(path), deadline=Deadline(Clock(), 0.2)).why
    assert no_trace(pid_in(tmp_path / "own"))


def test_what_it_leaves_running_is_killed(tmp_path: Path) -> None:
    """A program that ended in time leaves nothing in its group, even though that holds the pipes."""
    assert Ended("", "done") == shell(tmp_path, "sleep 1000 &", "echo $! > child", "echo done")
    child = pid_in(tmp_path / "child")
    until(lambda: gone(child), what="the end of its child")


@pytest.mark.parametrize(
    ("last", "why"), [("exit 1", "exit code 1: done"), ("wait", "it did not end within 5 s: done")]
)
def test_a_daemon_that_keeps_the_pipes_open_is_not_waited_for(tmp_path: Path, last: str, why: str) -> None:
    """A grandchild in a session of its own lives on, and is no reason to read for ever."""
    running = Running(
        tmp_path, "setsid sh -c 'echo $$ > new; mv new child; exec sleep 1000' &",
        "while [ ! -e child ]; do sleep 0.01; done", "echo done", "touch ready", last,
    )  # fmt: skip
    child = pid_in(tmp_path / "child")
    try:
        until((tmp_path / "ready").exists)
        running.clock.advance(5 if last == "wait" else 0)
        assert why == running.over().why
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("where", ["", ">&2"])
def test_one_that_prints_without_an_end_is_killed_when_its_time_is_over(tmp_path: Path, where: str) -> None:
    """How much it prints neither ends it before nor keeps it from ending then, and little of it is kept."""
    running = Running(
        tmp_path, f"yes on and on | head -c 3000000 {where}", "echo $$ > own", f"exec yes on and on {where}"
    )
    own = pid_in(tmp_path / "own")
    assert [] == running.told
    running.clock.advance(5)
    assert running.over().why.startswith("it did not end within 5 s: ")
    assert no_trace(own)


def test_a_daemon_that_prints_without_an_end_is_not_listened_to(tmp_path: Path) -> None:
    """What a grandchild in a session of its own floods the pipes with keeps nobody from hearing that the program has ended."""
    lines = ("setsid sh -c 'echo $$ > new; mv new child; exec yes' &", "while [ ! -e child ]; do sleep 0.01; done")
    try:
        assert "" == shell(tmp_path, *lines).why
    finally:
        os.kill(pid_in(tmp_path / "child"), signal.SIGKILL)


@pytest.mark.parametrize("line", ["sleep 0.5", "exec >&- 2>&-; sleep 0.5"])
def test_waiting_is_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """A program that says nothing, or has closed its pipes, is looked at now and then, not all the time."""
    looks, waitid = [], os.waitid

    def look(*how: int) -> os.waitid_result | None:
        looks.append(how)
        return waitid(*how)

    monkeypatch.setattr(os, "waitid", look)
    assert "" == shell(tmp_path, line).why
    assert len(looks) < 50


def test_a_stop_ends_it(tmp_path: Path) -> None:
    """Who stops the deadline ends the program and its children, whatever the clock says, and that is told from a failure."""
    running = Running(tmp_path, "sleep 1000 & echo $! > child", "echo $$ > own", "echo waiting", "wait")
    own, child = pid_in(tmp_path / "own"), pid_in(tmp_path / "child")
    running.stop.set()
    assert STOPPED == running.over().why
    assert no_trace(own)
    until(lambda: gone(child), what="the end of its child")


def test_one_that_may_not_be_killed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of another user, as by sudo, is late all the same when it is; it is left alone, and waited for."""
    monkeypatch.setattr("vmctl.program.os.killpg", forbidden)
    running = Running(tmp_path, "echo $$ > own", "exec sleep 1000")
    own = pid_in(tmp_path / "own")
    running.clock.advance(5)
    until(lambda: running.told, what="the word that it is late")
    assert [Ended("it did not end within 5 s")] == running.told
    assert not gone(own)
    os.kill(own, signal.SIGKILL)
    running.over()


def forbidden(_group: int, _signal: int) -> None:
    """What the system says of the processes of others."""
    raise PermissionError


def test_nothing_is_left_of_many_runs(tmp_path: Path) -> None:
    """Two hundred runs that end well, badly, late, not at all: as many open files as before, and no zombie."""
    quick = script(tmp_path / "quick", "echo $$ >> own", "echo 1", "exit $1")
    slow = script(tmp_path / "slow", "echo $$ >> own", "sleep 1000 & wait")
    flood = script(tmp_path / "flood", "echo $$ >> own", "exec yes")
    before = open_files()
    for _ in range(49):
        assert Ended("", "1") == ended(tmp_path, str(quick), "0")
        assert Ended("exit code 2: 1", "1") == ended(tmp_path, str(quick), "2", given=b"x")
        assert ended(tmp_path, "./none").why
        assert ended(tmp_path, str(quick), "1").why
    for path in (slow, flood, slow, flood):
        assert ended(tmp_path, str(path), deadline=Deadline(Clock(), 0.2)).why
    assert before == open_files()
    pids = [int(line) for line in (tmp_path / "own").read_text().split()]
    assert 3 * 49 + 4 == len(pids)
    assert [] == [pid for pid in pids if not no_trace(pid)]
