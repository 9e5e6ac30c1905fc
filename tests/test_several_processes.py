"""Several processes on one store at once: a daemon, cron, commands and a person with an editor."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from running import Net, environment, until, wav

from vmctl import durable, errors, yamltext
from vmctl.replica import store_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = float(os.environ.get("VMCTL_CROWD", "12"))
START = {"language": [None]}
PRIMARY = ("--server", "primary")
LONGEST = 60.0  # of one command: who waits longer waits for ever


class Crowd:
    """Acts that run at the same time, each in a thread of its own, until the time is over; what fails is kept."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._threads: list[threading.Thread] = []
        self.troubles: list[str] = []
        self.done: dict[str, int] = {}

    def start(self, name: str, act: Callable[[int], None], pause: float) -> None:
        """Run `act(0)`, `act(1)`, ... with a pause of up to so many seconds in between."""
        chance = random.Random(name)

        def run() -> None:
            turn = 0
            while time.monotonic() < self._until and not self.troubles:
                try:
                    act(turn)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test is to show it
                    self.troubles.append(f"{name}, turn {turn}: {type(error).__name__}: {error}")
                turn += 1
                self.done[name] = turn
                threading.Event().wait(chance.random() * pause)

        self._threads.append(threading.Thread(target=run, name=name))
        self._threads[-1].start()

    def end(self) -> None:
        """Wait for all of them."""
        for thread in self._threads:
            thread.join(timeout=2 * LONGEST)
            assert not thread.is_alive(), f"{thread.name} has not ended"


def command(net: Net, *words: str, busy: bool = False) -> bool:
    """Run vmctl as a process, to its end; whether it did it. `busy`: it may say that somebody else is at the file."""
    done = subprocess.run(
        [sys.executable, "-m", "vmctl", *words],
        cwd=net.root, env=environment(), capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    fine = {0, errors.StoreBusy.exit_code, errors.BrokenFile.exit_code} if busy else {0}
    assert done.returncode in fine, f"vmctl {' '.join(words)} exited {done.returncode}: {done.stderr}"
    return done.returncode == 0


def edit(path: Path, old: str, new: str, *, in_place: bool) -> None:
    """Save a file as editors do: written over, or a new one renamed into its place."""
    text = path.read_text()
    assert old in text, f"{path} holds {text!r}"
    text = text.replace(old, new)
    if in_place:
        path.write_text(text)
        return
    other = path.with_name(f".{path.name}.swp")
    other.write_text(text)
    other.rename(path)


def test_a_crowd_on_one_store(tmp_path: Path) -> None:
    """A daemon, cron, callers, commands and an editor at once: all ends, no update is lost, no reader sees half a file."""
    net = Net.make(tmp_path / "net")
    for extension in ("2001", "2002", "2003"):
        net.do("mailbox", "create", extension, "--name", f"Name 0 of {extension}", "--server", "primary")
    net.do("sync")
    audio = wav(tmp_path / "a.wav")
    left: list[str] = []
    wrote: dict[str, list[Any]] = {}  # the values that may stand: what was written last, and what may have been since
    box = net.path("primary", "mailboxes/2003/mailbox.yaml")
    crowd = Crowd(SECONDS)

    def note(what: str, value: Any, done: bool) -> None:
        wrote[what] = [value] if done else [*wrote.get(what, START.get(what, ["new"])), value]

    def leave(_: int) -> None:
        left.append(net.do("message", "leave", "2001", "--audio", str(audio), *PRIMARY).strip())

    def mark(turn: int) -> None:
        if left:
            status = ("new", "old", "saved")[turn % 3]
            ident = left[turn % len(left)]
            note(ident, status, command(net, "message", "mark", "2001", ident, "--as", status, *PRIMARY, busy=True))

    def set_quota(turn: int) -> None:
        command(net, "mailbox", "set", "2002", "--quota", str(turn + 1), "--server", "primary")
        note("quota", turn + 1, True)

    def person(turn: int) -> None:
        # a command that saved at the same moment may have put the older name back until what lost is taken in
        until(lambda: f"Name {turn} of 2003" in box.read_text(), what="what was saved last", within=LONGEST)
        edit(box, f"Name {turn} of 2003", f"Name {turn + 1} of 2003", in_place=bool(turn % 2))
        note("name", f"Name {turn + 1} of 2003", True)

    def beside_the_person(turn: int) -> None:
        language = ("fr", "de", "en")[turn % 3]
        note("language", language, command(net, "mailbox", "set", "2003", "--language", language, *PRIMARY, busy=True))

    def read(turn: int) -> None:
        paths = [*net.path("primary", "mailboxes").glob("200[12]/**/*.json"), *net.root.glob("*/mailboxes/2002/*.yaml")]
        for path in paths:
            data = path.read_bytes()
            assert json.loads(data) if path.suffix == ".json" else yamltext.load(data, str(path)), f"{path}: {data!r}"
        if turn % 10 == 0:
            assert json.loads(net.do("mailbox", "show", "2001", *PRIMARY, "--json"))["name"]

    def cron(_: int) -> None:
        command(net, "sync", "--timeout", "45")

    with net.daemon("primary"), net.daemon("secondary"):
        for name in ("primary", "secondary"):
            until(lambda name=name: " serves " in net.log(name), what="the daemon")
        for act, pause in ((leave, 0.3), (mark, 0.3), (set_quota, 0.2), (person, 1.0), (beside_the_person, 0.7),
                           (read, 0.05), (cron, 1.0)):  # fmt: skip
            crowd.start(act.__name__, act, pause)
        crowd.end()
        assert [] == crowd.troubles
        assert min(crowd.done.values()) >= 2, f"too little was done to show anything: {crowd.done}"
        command(net, "sync")
        until(lambda: net.status()["in_step"], what="in step", within=30)
    _check(net, left, wrote)


def _check(net: Net, left: list[str], wrote: dict[str, list[Any]]) -> None:
    """Both stores hold what was written last, everything that was left, and nothing besides."""
    assert net.read("verify")["equal"]
    for server in ("primary", "secondary"):
        boxes = {
            extension: yamltext.load(net.path(server, f"mailboxes/{extension}/mailbox.yaml").read_bytes(), extension)
            for extension in ("2002", "2003")
        }
        assert boxes["2002"]["quota"] in wrote["quota"]
        assert boxes["2003"]["name"] in wrote["name"]
        assert boxes["2003"].get("language") in wrote["language"]
        folder = net.path(server, "mailboxes/2001/messages")
        assert sorted(left) == sorted(path.stem for path in folder.glob("*.json"))
        assert sorted(left) == sorted(path.stem for path in folder.glob("*.wav"))
        for ident in wrote.keys() & set(left):
            assert json.loads((folder / f"{ident}.json").read_text())["status"] in wrote[ident]
    assert [] == [server["faults"] for server in net.status()["servers"].values() if server["faults"]]


# Who waits for whom


def test_who_waits_too_long_is_told_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cannot have the store names who has it, and may be tried again."""
    net = Net.make(tmp_path / "net")
    monkeypatch.setattr("vmctl.replica.LOCK_TIMEOUT", 0.05)
    with store_lock(net.root / "primary"):
        from vmctl.clock import Clock
        from vmctl.replica import Replica

        with pytest.raises(errors.StoreBusy, match=rf"the store .*primary is in use by vmctl, process {os.getpid()}"):
            Replica.open(net.config, "primary", Clock())
    assert errors.StoreBusy.retry


def test_one_round_waits_for_another(tmp_path: Path) -> None:
    """Two `vmctl sync` at once: the second waits until the first is done, and does its own."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "vmctl", "sync"], cwd=net.root, env=environment(), stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=LONGEST)[1] for process in both]
    assert [0, 0] == [process.returncode for process in both], ends
    assert net.read("verify")["equal"]


def test_a_killed_process_leaves_the_store_free(tmp_path: Path) -> None:
    """The lock goes with the process that had it, however that ended."""
    net = Net.make(tmp_path / "net")
    code = f"""
import time
from vmctl.replica import store_lock
from pathlib import Path
with store_lock(Path({str(net.root / "primary")!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert b"held\n" == holder.stdout.readline()
    assert f"vmctl, process {holder.pid}" == durable.lock_holder(net.path("primary", ".vmctl/lock"))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
