"""Faults that a hard look found once: each test is named for one, and holds the rule that keeps it from coming back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import SERVERS, Net, until, wav
from wire import Wire

from vmctl import durable
from vmctl.apply import Applier
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.errors import DeletionsHeld, JournalBroken, NotInStep
from vmctl.replacing import Replacing
from vmctl.replica import Replica, store_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3600 * 1_000_000
NOTE = {"from": "+441", "received": "2026-01-31T08:15:00Z", "status": "new"}


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def box(wire: Wire) -> str:
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def messages(root: Path, extension: str = "2001") -> Path:
    """The message folder of a mailbox."""
    return root / f"mailboxes/{extension}/messages"


# A clock that is set back


class OwnClock(Clock):
    """The clock of one server: that of the wire, but for a wall clock that is wrong by some microseconds."""

    def __init__(self, shared: Clock) -> None:
        self._shared = shared
        self.wrong_by = 0

    def wall(self) -> int:
        return self._shared.wall() + self.wrong_by

    def steady(self) -> float:
        return self._shared.steady()


class TwoClocks(Wire):
    """Two servers with a wall clock each."""

    def __init__(self, directory: Path) -> None:
        self.clocks: dict[str, OwnClock] = {}
        super().__init__(directory)

    def open(self, name: str) -> Replica:
        clock = self.clocks.setdefault(name, OwnClock(self.clock))
        self.servers[name] = Replica.open(self.config, name, clock)
        return self.servers[name]


@pytest.fixture
def clocks(tmp_path: Path, no_fsync: None) -> Iterator[TwoClocks]:
    """Two servers of a new network whose clocks may differ."""
    made = TwoClocks(tmp_path / "net")
    yield made
    made.close()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("name", SERVERS)
def test_a_clock_set_back_an_hour_silences_nobody(clocks: TwoClocks, name: str, restarted: bool) -> None:
    """Both go on hearing each other, know each other's newest word, and the later edit wins on both."""
    clocks.clocks[name].wrong_by = HOUR
    clocks.desk(name).create_mailbox("2001", {"name": "Ada"})
    clocks.exchange()
    clocks.clocks[name].wrong_by = 0
    if restarted:
        clocks.crash(name)
        clocks.a.contact.forget()
    long = clocks.config.failover.after * 2
    began = clocks.clock.steady()
    while clocks.clock.steady() - began < long:
        clocks.exchange(2)
        clocks.clock.advance(20)
        assert [True, True] == [replica.contact.heard for replica in clocks.servers.values()]
    for editor, wanted in ((name, "Eve"), (clocks.other(name), "Grace"), (name, "Mary")):
        clocks.desk(editor).set_mailbox("2001", {"name": wanted})
        clocks.exchange()
        assert [wanted] * 2 == [replica.store.document("mailbox/2001")["name"] for replica in clocks.servers.values()]
    clocks.exchange(2)  # the last word of each
    for replica in clocks.servers.values():
        facts = replica.contact.facts()
        assert (0, replica.index.digest) == (facts["pending"], facts["digest"])
    assert [] == clocks.apart()


# A message that is taken away by hand, while the peer changes it


@pytest.mark.parametrize("gone", ["both", "json"])
@pytest.mark.parametrize("when", ["before the first look", "between two looks", "while it was down"])
def test_a_message_removed_by_hand_stays_deleted_whatever_the_peer_marks(
    wire: Wire, box: str, recording: Any, when: str, gone: str
) -> None:
    """A mark of the peer that comes before the absence is decided does not write the message anew."""
    ident, *others = (wire.desk().leave(box, recording()) for _ in range(5))
    wire.in_step()
    for suffix in ("json", "wav") if gone == "both" else ("json",):
        (messages(wire.root()) / f"{ident}.{suffix}").unlink()
    wire.desk("secondary").mark(box, ident, "old")
    if when == "between two looks":
        assert wire.a.scan().absent
    if when == "while it was down":
        wire.send("secondary")
        wire.deliver(take=False)
        wire.crash("primary")
        wire.a.take()
    wire.exchange()
    wire.in_step()
    assert [sorted(others)] * 2 == [sorted(wire.messages(box, name)) for name in SERVERS]
    assert not wire.lives(f"message/{box}/{ident}", "secondary")
    assert not (messages(wire.root()) / f"{ident}.wav").exists()


# A crash between a file and its note in the index


def crash_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
    """The next call of a function ends the process, before it has done anything or after all."""
    real = getattr(owner, name)

    def crash(*values: Any, **more: Any) -> None:
        monkeypatch.setattr(owner, name, real)
        if after:
            real(*values, **more)
        raise Crash

    monkeypatch.setattr(owner, name, crash)


def test_a_crash_after_a_message_s_file_does_not_outlive_the_peer_s_delete(
    wire: Wire, box: str, recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, the index does not know it, and the peer's delete is in the spool: it stays deleted."""
    ident = wire.desk().leave(box, recording())
    wire.send("primary")
    wire.deliver(take=False)
    crash_once(monkeypatch, Applier, "_shown", after=False)
    with pytest.raises(Crash):
        wire.b.take()
    assert [ident] == wire.messages(box, "secondary")
    wire.desk().delete_message(box, ident)
    wire.send("primary", anew=True)
    wire.deliver(take=False)
    wire.crash("secondary")
    wire.b.take()
    wire.in_step()
    assert [[], []] == [wire.messages(box, name) for name in SERVERS]
    assert not wire.lives(f"message/{box}/{ident}")


@pytest.mark.parametrize("looked", [False, True])
def test_a_crash_after_an_exchange_does_not_undo_the_peer_s_newer_edit(
    wire: Wire, box: str, monkeypatch: pytest.MonkeyPatch, looked: bool
) -> None:
    """The older edit is in the file, the newer one in the spool: the newer one stays, and nothing is in conflict."""
    wire.desk().set_mailbox(box, {"name": "ONE"})
    wire.send("primary")
    wire.deliver(take=False)
    if looked:  # at what was replaced; the process ends before the commit
        crash_once(monkeypatch, Replacing, "_merge_late", after=True)
    else:
        crash_once(monkeypatch, durable, "exchange", after=True)
    with pytest.raises(Crash):
        wire.b.take()
    assert "ONE" in (wire.root("secondary") / f"mailboxes/{box}/mailbox.yaml").read_text()
    wire.desk().set_mailbox(box, {"name": "TWO"})
    wire.send("primary", anew=True)
    wire.deliver(take=False)
    wire.crash("secondary")
    wire.b.take()
    wire.in_step()
    assert ["TWO", "TWO"] == [wire.servers[name].store.document(f"mailbox/{box}")["name"] for name in SERVERS]
    assert 0 == wire.b.index.count("kind = 'conflict'")
    assert [] == list((wire.root("secondary") / ".vmctl/replaced").iterdir())


# A document that fits into no mail

LARGE = f"greet: '{'a' * 60_000}'\n"  # fits into a store, and into no mail of 64 kB


@pytest.fixture
def tight(narrow: Wire) -> Wire:
    """Two servers whose documents may be larger than their mails: a config that `vmctl` refuses, but a limit may change."""
    narrow.config = dataclasses.replace(narrow.config, limits=narrow.config.limits._replace(document=64_000))
    for name in SERVERS:
        narrow.crash(name)
    return narrow


def test_a_document_that_fits_no_mail_keeps_nothing_else_back(tight: Wire, recording: Any) -> None:
    """It is named with what would mend it, all else is shipped both ways, and made shorter it is shipped, too."""
    tight.desk().create_mailbox("2001", {"name": "Ada"})
    tight.in_step()
    (tight.root() / "callflows/large.yaml").write_text(LARGE)
    tight.scan()
    left = {name: tight.desk(name).leave("2001", recording()) for name in SERVERS}
    tight.exchange()
    assert [sorted(left.values())] * 2 == [sorted(tight.messages("2001", name)) for name in SERVERS]
    assert ["callflow/large"] == [key for key, *_ in tight.a.index.pending()]
    fault = next(fault for fault in tight.a.index.faults.all() if fault["path"] == "vmctl:callflow/large")
    assert "mail.max" in fault["mend"]
    tight.desk().set_callflow("large", "greet: hello\n")
    tight.in_step()
    assert [] == tight.a.index.faults.all()


# With both daemons


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network with one mailbox."""
    net = Net.make(tmp_path / "net")
    with desk(net, "primary") as primary:
        primary.create_mailbox("2001", {"name": "Ada"})
    return net


@contextlib.contextmanager
def desk(net: Net, server: str) -> Iterator[Desk]:
    """The desk of a server, in this process, as each command opens it."""
    with Replica.open(net.config, server, Clock()) as replica:
        yield Desk(replica)


def leave(net: Net, server: str, number: int = 1, extension: str = "2001") -> str:
    """Leave a message at a server; its id."""
    with desk(net, server) as there:
        return there.leave(extension, wav(net.root / "said.wav", level=number))


@contextlib.contextmanager
def both(net: Net) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Both daemons, in normal operation."""
    with net.daemon("primary") as primary, net.daemon("secondary") as secondary:
        for server in SERVERS:
            until(lambda server=server: f"{server} serves " in net.log(server), what=f"the daemon of {server}")
        until(lambda: net.service()["state"] == "normal" and net.status()["in_step"], what="normal operation")
        yield {"primary": primary, "secondary": secondary}


def in_step_again(net: Net) -> None:
    """Wait until both hold the same, and prove it."""
    until(lambda: net.status()["in_step"], what="in step")
    net.do("verify")


def is_there(net: Net, server: str, ident: str) -> bool:
    """Whether a message of mailbox 2001 lies on a server."""
    return (messages(net.root / server) / f"{ident}.json").exists()


def fault_paths(net: Net, server: str) -> set[str]:
    """The paths of a server's faults."""
    return {fault["path"] for fault in net.status()["servers"][server]["faults"]}


def test_held_deletions_go_with_a_word_to_the_daemons(net: Net) -> None:
    """`sync` and `sync --full` say that deletions are held; with --accept-deletions the daemons let them go."""
    with desk(net, "primary") as primary:
        primary.create_mailbox("2002", {"name": "Bob"})
    for extension in ("2001", "2002"):
        leave(net, "primary", extension=extension)
    with both(net):
        for extension, how in (("2001", ()), ("2002", ("--full",))):
            shutil.rmtree(net.path("primary", f"mailboxes/{extension}"))
            done = net.run("sync", *how)
            assert DeletionsHeld.exit_code == done.returncode, done.stderr
            assert net.path("secondary", f"mailboxes/{extension}/mailbox.yaml").exists()
            net.do("sync", *how, "--accept-deletions")
            assert not net.path("secondary", f"mailboxes/{extension}").exists()
            assert not net.path("primary", f"mailboxes/{extension}").exists()
        assert set() == fault_paths(net, "primary")
        in_step_again(net)


def test_held_deletions_where_one_server_has_a_daemon(net: Net) -> None:
    """A round that does the other server's work itself says and orders the same."""
    net.do("sync")
    with net.daemon("primary"):
        until(lambda: "primary serves " in net.log("primary"), what="the daemon")
        shutil.rmtree(net.path("primary", "mailboxes/2001"))
        assert DeletionsHeld.exit_code == net.run("sync").returncode
        net.do("sync", "--accept-deletions")
        assert not net.path("secondary", "mailboxes/2001").exists()


def stop(net: Net, daemon: subprocess.Popen[str]) -> None:
    """Stop the primary's daemon where it holds neither the store nor the index: it must keep nobody from them."""
    root = net.root / "primary"
    index = sqlite3.connect(root / ".vmctl/index.db", isolation_level=None)
    with contextlib.closing(index), store_lock(root):
        index.execute("BEGIN IMMEDIATE")
        os.kill(daemon.pid, signal.SIGSTOP)
        until(lambda: ") T " in Path(f"/proc/{daemon.pid}/stat").read_text(), what="it is stopped")


def test_a_word_that_nobody_waits_for_any_more_is_void(net: Net) -> None:
    """`--accept-deletions` of a command that gave up lets nothing go that vanishes later, whatever wakes the daemon."""
    net.do("sync")
    with both(net) as daemons:
        stop(net, daemons["primary"])  # it hears the command only after that has given up
        assert net.run("sync", "--accept-deletions", "--timeout", "0.5").returncode == NotInStep.exit_code
        os.kill(daemons["primary"].pid, signal.SIGCONT)
        shutil.rmtree(net.path("primary", "mailboxes/2001"))
        until(lambda: "mailboxes/2001/mailbox.yaml" in fault_paths(net, "primary"), what="the deletion is held")
        os.kill(daemons["primary"].pid, signal.SIGUSR1)
        assert DeletionsHeld.exit_code == net.run("sync").returncode
        assert net.path("secondary", "mailboxes/2001/mailbox.yaml").exists()


def test_a_full_sync_makes_the_daemons_open_everything(net: Net) -> None:
    """A recording that was overwritten in place changes no folder's time: `sync --full` finds and mends it."""
    ident = leave(net, "primary")
    sound = messages(net.root / "primary") / f"{ident}.wav"
    folder = sound.parent.stat()
    os.utime(sound.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns - 10**10))
    net.do("sync")  # the folder is known with its time now, which is not a recent one
    before = sound.read_bytes()
    with both(net):
        with sound.open("r+b") as file:
            file.write(b"noise")
        net.do("sync", "--full", "--timeout", "6")
        assert before == sound.read_bytes()
        in_step_again(net)


def odd_files(folder: Path, known: str, outside: Path) -> set[str]:
    """Put what is no plain file into a message folder; the names of those files that a scan must complain of."""
    for name in ("pipe", "folder", "link", "dangling"):
        (folder / f"{name}.json").write_text(json.dumps(NOTE))
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "link.wav").symlink_to(outside)
    (folder / "dangling.wav").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe-2.json")
    (folder / "folder-2.json").mkdir()
    (folder / "link-2.json").symlink_to(outside)
    (folder / f"{known}.wav").unlink()
    os.mkfifo(folder / f"{known}.wav")
    return {f"{name}.wav" for name in ("pipe", "folder", "link", "dangling", known)} | {
        f"{name}-2.json" for name in ("pipe", "folder", "link")
    }


def test_odd_files_in_a_message_folder_stop_nothing(net: Net, tmp_path: Path) -> None:
    """Pipes, folders and links are named and neither opened nor followed; the daemon ships all else and stops when told."""
    known, other = (leave(net, "primary", number) for number in (1, 2))
    folder = messages(net.root / "primary")
    secret = wav(tmp_path / "secret.wav", level=3)
    with both(net) as daemons:
        odd = {f"mailboxes/2001/messages/{name}" for name in odd_files(folder, known, secret)}
        for kind in ("prompts/welcome.wav", "callflows/main.yaml", "settings.yaml"):
            os.mkfifo(net.path("primary", kind))
            odd.add(kind)
        until(lambda: odd <= fault_paths(net, "primary"), what="a fault for each")
        ident = leave(net, "primary", 4)
        until(lambda: is_there(net, "secondary", ident), what="the message")
        with desk(net, "secondary") as secondary:
            secondary.delete_message("2001", other)
        until(lambda: not is_there(net, "primary", other), what="the delete")
        assert {known, ident} == {path.stem for path in messages(net.root / "secondary").glob("*.json")}
        assert {known, ident} <= {
            message["id"] for message in net.read("message", "list", "2001", "--server", "primary")
        }
        assert net.run("verify").returncode in {0, 42}  # it says what it finds, and does not hang
        for daemon in daemons.values():
            daemon.send_signal(signal.SIGTERM)
        assert [0, 0] == [daemon.wait(timeout=10) for daemon in daemons.values()]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_odd_file_where_the_peer_s_message_belongs(wire: Wire, box: str, recording: Any, make: Any) -> None:
    """It is named and left; everything behind that message is written, and it itself once the odd file is gone."""
    ident, other = (wire.desk("secondary").leave(box, recording()) for _ in range(2))
    messages(wire.root()).mkdir(exist_ok=True)
    odd = messages(wire.root()) / f"{ident}.json"
    make(odd)
    wire.exchange()
    wire.scan()
    assert (messages(wire.root()) / f"{other}.json").is_file()
    assert f"mailboxes/{box}/messages/{ident}.json" in {fault["path"] for fault in wire.a.index.faults.all()}
    shutil.rmtree(odd) if odd.is_dir() else odd.unlink()
    wire.in_step()
    assert sorted([ident, other]) == sorted(wire.messages(box))


POISON = {
    "a lone surrogate": '{"note": "\\ud800"}',
    "no finite number": '{"note": 1e400}',
    "a number of 5000 digits": '{"note": ' + "9" * 5000 + "}",
    "a time before all times": '{"received": "0001-01-01T00:00:00+14:00"}',
    "a NUL": '{"note": "a\\u0000b", "\\u0000": 1}',
    "a recording elsewhere": '{"audio": {"sha256": "../../../x", "size": -1, "format": "../../etc"}}',
    "stamps of no kind": '{"sync": {"born": [1, "x"], "vector": {"x": 1}, "kept": {"x": 1}, "stamps": {"from": [1]}}}',
    "deep nesting": '{"note": ' + "[" * 3000 + "]" * 3000 + "}",
    "not even JSON": '{"note": ',
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_message_s_json_of_whatever_content_stops_nothing(wire: Wire, box: str, recording: Any, poison: str) -> None:
    """It is taken or named; what comes after it travels, and both servers hold the same."""
    messages(wire.root()).mkdir()
    shutil.copy(recording(), messages(wire.root()) / "odd.wav")
    text = poison if poison.endswith(": ") else json.dumps(NOTE)[:-1] + ", " + poison[1:]
    (messages(wire.root()) / "odd.json").write_text(text)
    wire.scan()
    faults = {fault["path"] for fault in wire.a.index.faults.all()}
    assert (f"mailboxes/{box}/messages/odd.json" in faults) != wire.lives(f"message/{box}/odd")
    ident = wire.desk().leave(box, recording())
    wire.exchange()
    assert ident in wire.messages(box, "secondary")
    assert 0 == wire.a.index.pending_count()
    assert wire.a.index.digest == wire.b.index.digest


def test_stamps_from_the_end_of_time_do_not_stop_the_numbers(wire: Wire, box: str, recording: Any) -> None:
    """A message's file whose stamps were set to the highest number that fits: changes are numbered and taken as before."""
    first = wire.desk().leave(box, recording())
    path = messages(wire.root()) / f"{first}.json"

    def raised(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: raised(each) for name, each in value.items()}
        if isinstance(value, list):
            return [raised(each) for each in value]
        return 2**63 - 2 if type(value) is int and value > 10**12 else value

    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"id": "late", "sync": raised(document["sync"])}))
    path.rename(path.with_stem("late"))
    path.with_suffix(".wav").rename(path.with_name("late.wav"))
    wire.scan()
    ident = wire.desk().leave(box, recording())
    wire.desk().set_mailbox(box, {"name": "Eve"})
    wire.exchange()
    assert ident in wire.messages(box, "secondary")
    assert "Eve" == wire.b.store.document(f"mailbox/{box}")["name"]
    assert wire.a.index.last_number < 2**53


# A journal that somebody edited


def put(book: Path, data: bytes) -> None:
    """As an editor does, at one moment: a journal that is empty for a moment is begun anew by a daemon that looks just then."""
    beside = book.with_name("edited")
    beside.write_bytes(data)
    beside.rename(book)


def test_an_edited_journal_stops_the_roles_and_not_the_stores(net: Net) -> None:
    """Messages go on travelling both ways and no daemon ends; log, status and `journal --verify` name the journal."""
    book = net.path("primary", ".vmctl/journal.jsonl")
    with both(net) as daemons:
        data = book.read_bytes()
        before, reason, last = data.rpartition(b'"reason":"')
        put(book, before + reason + b"X" + last[1:])
        until(lambda: str(book) in net.log("primary"), what="the complaint")
        for server, there in (SERVERS, SERVERS[::-1]):
            ident = leave(net, server)
            until(lambda there=there, ident=ident: is_there(net, there, ident), what=f"the message of {server}")
        assert [None, None] == [daemon.poll() for daemon in daemons.values()]
        done = net.run("journal", "--verify", "--server", "primary")
        assert JournalBroken.exit_code == done.returncode
        assert "edited" in done.stdout + done.stderr
        assert net.run("journal", "--verify", "--server", "secondary").returncode == 0
        done = net.run("status")
        assert str(book) in done.stdout + done.stderr
        net.do("verify")
        put(book, data)  # as it was
        until(lambda: net.status()["in_step"], what="in step")
        net.do("failover")
        assert net.service()["serving"] == "secondary"


# An index that is gone while it is in use


@pytest.mark.parametrize(
    "order", [SERVERS, SERVERS[::-1], ()], ids=["a message there", "a message elsewhere", "no message"]
)
def test_an_index_that_is_removed_while_serving_is_built_again(net: Net, order: tuple[str, ...]) -> None:
    """The daemon opens the store again: nothing is lost, the peer's delete counts, and both come in step."""
    kept, gone = (leave(net, "primary", number) for number in (1, 2))
    with both(net) as daemons:
        for path in net.path("primary", ".vmctl").glob("index.db*"):
            path.unlink()
        idents = [leave(net, server, 3) for server in order[:1]]
        with desk(net, "secondary") as secondary:
            secondary.delete_message("2001", gone)
        until(lambda: net.path("primary", ".vmctl/index.db").exists(), what="a new index", within=5.0)
        idents += [leave(net, server, 4) for server in order[1:]]
        wanted = sorted([kept, *idents])
        for server in SERVERS:
            until(
                lambda server=server: (
                    sorted(path.stem for path in messages(net.root / server).glob("*.json")) == wanted
                ),
                what=f"the messages of {server}",
            )
        in_step_again(net)
        assert [None, None] == [daemon.poll() for daemon in daemons.values()]


# A standby without room


@pytest.fixture
def small(net: Net) -> Iterator[Path]:
    """The secondary's store on a file system of three megabytes."""
    store, aside = net.root / "secondary", net.root / "aside"
    store.rename(aside)
    store.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", store]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        shutil.copytree(aside, store, dirs_exist_ok=True)
        yield store
    finally:
        subprocess.run(["umount", "--lazy", store], check=True)


def test_a_full_standby_takes_over_from_nobody(net: Net, small: Path) -> None:
    """It cannot keep the peer's mails, so it hears nothing: that is its own fault, and the primary goes on serving."""
    with both(net) as daemons:
        ballast = small / ".ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        ident = leave(net, "primary")
        until(lambda: "no room" in net.log("secondary").lower(), what="the complaint")
        long = time.monotonic() + 3 * net.config.failover.after
        until(lambda: time.monotonic() > long or "resilience" in net.moves("secondary"), what="the end of the wait")
        assert [None, None] == [daemon.poll() for daemon in daemons.values()]
        assert "primary" == net.service()["serving"]
        ballast.unlink()
        until(lambda: is_there(net, "secondary", ident), what="the message")
        in_step_again(net)
    for server in SERVERS:
        assert "resilience" not in net.moves(server)
