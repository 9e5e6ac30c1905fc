"""Message-waiting lamps: what is told of whom, when, by which server, and what it costs when nothing changed."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import Net, until, wav
from wire import Wire, tone

from vmctl import lamps, network, program
from vmctl.lamp_list import Count
from vmctl.lamps import Lamps, body
from vmctl.routing import Answer
from vmctl.view import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmctl.desk import Desk

SCRIPT = """cat > lines.new
cat lines.new >> lines
echo run >> runs
while test -f hold; do sleep 0.02; done
test -f fails && exit 7
exit 0
"""
SERVICES = {"primary": "primary", "secondary": "secondary"}


class Phones:
    """The lamps of one server, and what its program was told; time passes as a test says."""

    def __init__(self, wire: Wire, server: str = "primary") -> None:
        self.wire = wire
        self.server = server
        self.folder = wire.directory
        self.epoch = Epoch(1, "primary")
        self.ended = threading.Event()
        self.open()

    def open(self) -> None:
        """A new process of the server."""
        self.lamps = Lamps(self.wire.servers[self.server], self.ended.set)

    @property
    def desk(self) -> Desk:
        """The desk of the server."""
        return self.wire.desk(self.server)

    def answers(self, serving: str | None = "me", **others: str | None) -> dict[str, Answer]:
        """The answer for each service: who serves it."""
        found = {}
        for name, service in self.wire.config.services.items():
            server = others.get(name, self.server if serving == "me" else serving)
            found[name] = Answer(name, server, service.home, "normal", self.epoch, 1)
        return found

    def turn(self, serving: str | None = "me", **others: str | None) -> None:
        """One turn of the loop; a run that it starts is waited for, and not settled."""
        self.ended.clear()
        self.lamps.turn(self.answers(serving, **others))
        if self.lamps._thread is not None:
            assert self.ended.wait(30)

    def settle(self, serving: str | None = "me", **others: str | None) -> list[dict[str, Any]]:
        """Turns until there is nothing more to tell; what was told."""
        before = len(self.told())
        self.turn(serving, **others)
        for _ in range(50):
            if self.lamps._thread is None:
                return self.told()[before:]
            self.turn(serving, **others)
        raise AssertionError("it never ends")

    def told(self) -> list[dict[str, Any]]:
        """All lines that the program was ever given."""
        path = self.folder / "lines"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    @property
    def runs(self) -> int:
        """How often it was run."""
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def leave(self, extension: str = "2001", **how: Any) -> str:
        """A message more."""
        return self.desk.leave(extension, tone(self.folder / "x.wav", frames=10), **how)

    def fail(self, *, fails: bool = True) -> None:
        """From now on the program fails, or does not any more."""
        (self.folder / "fails").touch()
        if not fails:
            (self.folder / "fails").unlink()

    def statements(self, serving: str | None = "me") -> list[str]:
        """What one turn asks the index."""
        asked: list[str] = []
        db = self.wire.servers[self.server].index._db
        db.set_trace_callback(asked.append)
        self.turn(serving)
        db.set_trace_callback(None)
        return asked


def brief(lines: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Mailbox and counts of lines."""
    return [(line["mailbox"], line["new"], line["old"]) for line in lines]


def made(directory: Path, mode: str = "active-standby") -> Wire:
    """A network with the program."""
    script = directory / "script"
    script.write_text(SCRIPT)
    network.make(directory / "net", mode=mode, settings={"hooks.on_waiting": ["/bin/sh", str(script)]})
    return Wire(directory / "net")


@pytest.fixture
def phones(tmp_path: Path, no_fsync: None) -> Iterator[Phones]:
    """The lamps of a primary with mailbox 2001."""
    wire = made(tmp_path)
    found = Phones(wire)
    found.desk.create_mailbox("2001", {"name": "Ada"})
    yield found
    wire.close()


# What is told


def test_the_body_is_that_of_the_rfc() -> None:
    """Three lines with CRLF: whether anything is new, whose mailbox it is, and the counts with the urgent ones among them."""
    expected = "Messages-Waiting: yes\r\nMessage-Account: sip:2001@example.org\r\nVoice-Message: 4/8 (1/2)\r\n"
    assert expected == body("2001@example.org", Count(4, 8, 1, 2))
    assert body("2001@example.org", Count(0, 3)).startswith("Messages-Waiting: no\r\n")


def test_what_counts_as_what(phones: Phones) -> None:
    """New and announced messages are new, heard and saved ones old, each with the urgent ones; deleted ones are none."""
    for status, urgent in (("new", True), ("new", False), ("unopened", False), ("old", True), ("saved", False)):
        ident = phones.leave(urgent=urgent)
        if status != "new":
            phones.desk.mark("2001", ident, status)
    phones.desk.delete_message("2001", phones.leave(urgent=True))
    (line,) = phones.settle()
    home = phones.wire.config.servers["primary"].mail.partition("@")[2]
    assert line == {
        "mailbox": "2001", "service": "voicemail", "waiting": True, "new": 3, "old": 2, "urgent_new": 1, "urgent_old": 1,
        "body": f"Messages-Waiting: yes\r\nMessage-Account: sip:2001@{home}\r\nVoice-Message: 3/2 (1/1)\r\n",
    }  # fmt: skip


def test_the_account_is_the_same_at_both_servers(tmp_path: Path, no_fsync: None) -> None:
    """It names the mail domain of the service's home, whichever server tells: a phone sees no other account."""
    wire = made(tmp_path)
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    (one,), (other,) = (Phones(wire, server).settle() for server in ("primary", "secondary"))
    assert one == other
    wire.close()


def test_a_mailbox_is_told_of_when_its_counts_change(phones: Phones) -> None:
    """At first all of them, then each with the counts after its change; what changes no count is not told."""
    assert [("2001", 0, 0)] == brief(phones.settle())
    ident = phones.leave()
    assert [("2001", 1, 0)] == brief(phones.settle())
    phones.desk.mark("2001", ident, "old")
    assert [("2001", 0, 1)] == brief(phones.settle())
    phones.desk.mark("2001", ident, "saved")
    phones.desk.set_mailbox("2001", {"name": "Grace"})
    assert [] == phones.settle()
    phones.desk.delete_message("2001", ident)
    assert [("2001", 0, 0)] == brief(phones.settle())
    phones.desk.restore_message("2001", ident)
    assert [("2001", 0, 1)] == brief(phones.settle())


def test_a_deleted_mailbox_is_told_of_once(phones: Phones) -> None:
    """With nothing in it, so that its lamp goes out; and again with what it has when it is brought back."""
    phones.leave()
    phones.settle()
    phones.desk.delete_mailbox("2001")
    (line,) = phones.settle()
    assert ("2001", 0, 0, False, "voicemail") == (*brief([line])[0], line["waiting"], line["service"])
    assert [] == phones.settle()
    phones.epoch = Epoch(9, "secondary")
    assert [] == phones.settle()
    phones.desk.create_mailbox("2002", {"name": "Eve"})
    phones.desk.delete_mailbox("2002")
    assert [] == phones.settle(), "nobody was ever told of it"


def test_many_mailboxes_are_few_runs(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run has the lines of many mailboxes; all of them are told, each once."""
    for number in range(7):
        phones.desk.create_mailbox(f"30{number:02d}", {"name": "Ada"})
    monkeypatch.setattr(lamps, "MOST", 3)
    told = [line["mailbox"] for line in phones.settle()]
    assert ["2001", *(f"30{number:02d}" for number in range(7))] == told
    assert 3 == phones.runs


# By whom


def test_a_server_that_does_not_serve_tells_nothing(phones: Phones) -> None:
    """Neither while the other one serves nor while nobody does; not of changes in between, either."""
    phones.leave()
    assert [] == phones.settle("secondary")
    phones.leave()
    assert [] == phones.settle(None)
    assert 0 == phones.runs


def test_all_are_told_of_when_a_service_comes_here(phones: Phones) -> None:
    """After the other server has served, every mailbox is told of, also those whose counts are what was told last."""
    phones.desk.create_mailbox("2002", {"name": "Eve"})
    phones.leave()
    assert [("2001", 1, 0), ("2002", 0, 0)] == brief(phones.settle())
    assert [] == phones.settle("secondary")
    phones.epoch = Epoch(3, "primary")
    assert [("2001", 1, 0), ("2002", 0, 0)] == brief(phones.settle())


@pytest.mark.parametrize(
    ("epoch", "told"),
    [
        (Epoch(1, "primary"), ["2002"]),  # the very same
        (Epoch(2, "primary"), ["2002"]),  # it was started again, and nobody else has served
        (Epoch(2, "secondary"), ["2001", "2002", "2003"]),  # the other one gave it back
        (Epoch(3, "primary"), ["2001", "2002", "2003"]),  # somebody may have served in between
    ],
)
def test_a_restart_tells_what_changed_while_it_was_down(phones: Phones, epoch: Epoch, told: list[str]) -> None:
    """Only that, where this server goes on; all where another one may have told something else."""
    for extension in ("2002", "2003"):
        phones.desk.create_mailbox(extension, {"name": "Eve"})
    phones.settle()
    phones.leave("2002")
    phones.open()
    phones.settle(None)
    phones.epoch = epoch
    assert told == [line["mailbox"] for line in phones.settle()]


def test_nobody_for_a_moment(phones: Phones) -> None:
    """A permit that is missing for a moment loses nothing: what changed meanwhile is told when it is back, and only that."""
    phones.desk.create_mailbox("2002", {"name": "Eve"})
    phones.settle()
    phones.leave()
    assert [] == phones.settle(None)
    assert [("2001", 1, 0)] == brief(phones.settle())


def test_what_changed_is_not_lost_with_the_permit(phones: Phones) -> None:
    """A change that was seen, and not told before the permit ended, is told by the same epoch afterwards."""
    phones.settle()
    phones.fail()
    phones.leave()
    phones.settle()
    phones.fail(fails=False)
    phones.turn(None)
    phones.wire.clock.advance(120)
    assert [] == phones.settle(None)
    assert [("2001", 1, 0)] == brief(phones.settle())


def test_each_service_by_itself(tmp_path: Path, no_fsync: None) -> None:
    """In dual-active each server tells of its own mailboxes; one that moves to the other service is told of there."""
    wire = made(tmp_path, "dual-active")
    for extension, service in (("2001", "primary"), ("3001", "secondary")):
        wire.desk().create_mailbox(extension, {"name": "Ada", "service": service})
    wire.in_step()
    one = Phones(wire)
    assert ["2001"] == [line["mailbox"] for line in one.settle(**SERVICES)]
    wire.desk().set_mailbox("2001", {"service": "secondary"})
    assert [] == one.settle(**SERVICES)
    wire.desk().set_mailbox("2001", {"service": "primary"})
    assert ["2001"] == [line["mailbox"] for line in one.settle(**SERVICES)], (
        "the other one may have told something else"
    )
    one.epoch = Epoch(2, "secondary")
    told = [line["mailbox"] for line in one.settle(primary="primary", secondary="primary")]
    assert ["2001", "3001"] == told
    wire.close()


def test_after_a_split_all_are_told_of(phones: Phones) -> None:
    """While the other server says that it serves too, changes are told; when it says so no more, everything is."""
    phones.desk.create_mailbox("2002", {"name": "Eve"})
    phones.settle()
    contact, index = phones.wire.a.contact, phones.wire.a.index
    with index.transaction():
        nonce = contact.challenge()
        clock = phones.wire.clock
        index.set_note("heard", {"steady": clock.steady(), "boot": clock.boot(), "wall": clock.wall()})
        index.set_note("peer", {"views": {"voicemail": {"serving": "secondary"}}})
    assert nonce
    phones.leave()
    assert [("2001", 1, 0)] == brief(phones.settle())
    index.set_note("peer", {"views": {"voicemail": {"serving": "primary"}}})
    assert [("2001", 1, 0), ("2002", 0, 0)] == brief(phones.settle())
    assert [] == phones.settle()


# A program that fails


def test_no_thread_for_a_run_is_a_failure_of_the_run(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named and made again, and never ends the daemon."""

    def fails(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    phones.leave()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        phones.turn()
    (fault,) = phones.wire.a.index.faults.all()
    assert "can't start new thread" in fault["why"]
    phones.wire.clock.advance(60)
    assert [line["mailbox"] for line in phones.settle()] == ["2001"]


def test_a_failing_program_is_run_again_with_what_is_so_then(phones: Phones) -> None:
    """Not at once, later each time; it is named in the status, and what it is told in the end are the newest counts."""
    phones.settle()
    phones.fail()
    phones.leave()
    phones.turn()
    phones.turn()
    (fault,) = phones.wire.a.index.faults.all()
    assert ("vmctl:lamps", True) == (fault["path"], "exit code 7" in fault["why"])
    assert 2 == phones.runs
    phones.leave()
    phones.turn()
    assert 2 == phones.runs
    assert 0.7 <= phones.lamps.due - phones.wire.clock.steady() <= 1.0
    phones.fail(fails=False)
    phones.wire.clock.advance(1.1)
    phones.settle()
    assert [("2001", 0, 0), ("2001", 1, 0), ("2001", 2, 0)] == brief(phones.told())
    assert [] == phones.wire.a.index.faults.all()


def test_waits_grow_to_a_minute(phones: Phones) -> None:
    """A program that goes on failing is run ever more rarely, up to once a minute."""
    phones.fail()
    waits = []
    for _ in range(9):
        phones.turn()
        phones.lamps.turn(phones.answers())
        waits.append(phones.lamps.due - phones.wire.clock.steady())
        phones.wire.clock.advance(61)
    assert waits[0] <= 1.0
    assert all(45 * 0.99 <= wait <= 60 for wait in waits[-2:])


def test_one_that_was_killed_with_vmctl_is_run_again(phones: Phones) -> None:
    """What a run was telling when the server was killed is told by the next one."""
    phones.leave()
    phones.turn()  # it has run, and nothing is noted of it
    phones.open()
    assert [("2001", 1, 0)] == brief(phones.settle())


@pytest.fixture
def held(phones: Phones) -> Phones:
    """The program of these lamps is at work, and does not end before `let_go`: it was told of 2001 without messages."""
    (phones.folder / "hold").touch()
    phones.lamps.turn(phones.answers())
    until(lambda: phones.runs == 1, what="the program")
    return phones


def let_go(phones: Phones) -> None:
    """The program ends, and all that is to be told is told."""
    (phones.folder / "hold").unlink()
    assert phones.ended.wait(30)
    phones.settle()


def test_a_change_during_a_run_is_told_by_the_next(held: Phones) -> None:
    """The older counts first, then the newer ones: never the other way round, never two programs at once, never one less."""
    held.leave()
    for _ in range(3):
        held.lamps.turn(held.answers())
    assert 1 == held.runs
    let_go(held)
    assert [("2001", 0, 0), ("2001", 1, 0)] == brief(held.told())
    assert 2 == held.runs


def test_a_role_that_goes_and_comes_during_a_run(held: Phones) -> None:
    """What a run was telling when the other server served is told again: that one may have told something else."""
    held.lamps.turn(held.answers("secondary"))
    held.epoch = Epoch(3, "primary")
    held.lamps.turn(held.answers())
    let_go(held)
    assert [("2001", 0, 0), ("2001", 0, 0)] == brief(held.told())
    assert [] == held.settle()


def test_a_program_that_is_at_work_ends_with_vmctl(held: Phones) -> None:
    """It is killed, and what it was telling is told after the next start."""
    held.lamps.stop()
    assert held.ended.wait(30)
    (held.folder / "hold").unlink()
    held.open()
    assert [("2001", 0, 0)] == brief(held.settle())


def test_a_hook_that_is_taken_out_leaves_no_fault(phones: Phones) -> None:
    """What was named of a program is gone with it."""
    phones.fail()
    phones.turn()
    phones.turn()
    assert 1 == len(phones.wire.a.index.faults.all())
    phones.open()
    phones.lamps._command = None
    phones.turn()
    assert [] == phones.wire.a.index.faults.all()


# What it costs


def filled(phones: Phones, mailboxes: int) -> None:
    """So many mailboxes with a message each, all told of."""
    for number in range(mailboxes):
        phones.desk.create_mailbox(f"4{number:03d}", {"name": "Ada"})
        phones.leave(f"4{number:03d}")
    phones.settle()


def test_nothing_is_asked_when_nothing_changed(phones: Phones) -> None:
    """A turn reads the number of the newest change, and who else says that it serves: no record, however many there are."""
    filled(phones, 3)
    asked = phones.statements()
    assert [] == [query for query in asked if "records" in query or "lamps" in query.replace("'lamps'", "")]
    assert len(asked) <= 4


def test_what_is_no_message_is_not_written_down(phones: Phones) -> None:
    """A number that is given for something else, as for each mail, or a prompt, costs no commit, and is not lost count of."""
    filled(phones, 3)
    index = phones.wire.a.index
    phones.desk.set_prompt("hello", tone(phones.folder / "x.wav"))
    with index.transaction():
        index.next_number(phones.wire.clock.wall())
    assert [] == [query for query in phones.statements() if query.startswith(("BEGIN", "INSERT", "UPDATE"))]
    phones.leave()
    assert [("2001", 1, 0)] == brief(phones.settle())


def test_a_change_asks_as_much_of_many_mailboxes_as_of_few(phones: Phones) -> None:
    """One message more costs the same statements among 3 mailboxes and among 40, and looks up the changed one alone."""
    costs = []
    for more in (3, 37):
        filled(phones, more) if more == 3 else [
            phones.desk.create_mailbox(f"5{number:03d}", {"name": "Ada"}) for number in range(more)
        ]
        phones.settle()
        phones.leave()
        costs.append([query.partition("(")[0] for query in phones.statements()])
        phones.settle()
    assert costs[0] == costs[1]
    plan = "EXPLAIN QUERY PLAN SELECT DISTINCT mailbox FROM records WHERE kind IN ('mailbox', 'message') AND number > 5"
    (detail, *_) = [row[3] for row in phones.wire.a.index._db.execute(plan).fetchall()]
    assert "COVERING INDEX changed" in detail


# Whatever happens


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "leave",
                "mark",
                "delete",
                "restore",
                "drop box",
                "make box",
                "exchange",
                "turn",
                "turn",
                "move",
                "crash",
                "fail",
            ]
        ),
        st.sampled_from(["primary", "secondary"]),
        st.sampled_from(["2001", "2002"]),
    ),
    max_size=25,
)


class Board:
    """All phones of the office: what the program of either server told last of each mailbox."""

    def __init__(self) -> None:
        self.lit: dict[str, tuple[int, int]] = {}
        self.fails = False

    def run(self, _command: Any, tell: Any, *, given: bytes, **_more: Any) -> None:
        """The program: it may fail before or after it has lit a lamp."""
        if self.fails:
            given = given[: len(given) // 2].rpartition(b"\n")[0]
        for line in given.splitlines():
            value = json.loads(line)
            self.lit[value["mailbox"]] = (value["new"], value["old"])
        tell(program.Ended("it failed" if self.fails else ""))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_in_the_end_each_lamp_shows_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, no_fsync: None, operations: list[tuple[str, str, str]]
) -> None:
    """Whatever is left, deleted, moved or crashes: once it is quiet every lamp shows the counts of its mailbox, 0 if it is gone."""
    board = Board()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "run", board.run)
        wire = made(tmp_path_factory.mktemp("lamps"))
        servers = {name: Phones(wire, name) for name in wire.servers}
        serving, number = "primary", 1
        for name, server, box in operations:
            phones = servers[server]
            phones.epoch = servers[serving].epoch
            if name == "move":
                wire.exchange()
                serving, number = server, number + 1
                for each in servers.values():
                    each.epoch = Epoch(number, serving)
            elif name == "turn":
                phones.turn(serving)
            elif name == "crash":
                phones.open()
            elif name == "fail":
                board.fails = not board.fails
            elif name == "exchange":
                wire.exchange()
            else:
                act(phones, name, box)
        board.fails = False
        wire.exchange()
        for phones in servers.values():
            phones.turn(serving)  # a run that failed is known now, and waits
            wire.clock.advance(120)
            phones.settle(serving)
        expected = {box: counts(wire, serving, box) for box in board.lit}
        assert expected == board.lit
        living = {box for box in ("2001", "2002") if wire.lives(f"mailbox/{box}", serving)}
        assert living <= board.lit.keys()
        wire.close()


def act(phones: Phones, name: str, box: str) -> None:
    """Something that a person does, where it can be done."""
    index = phones.wire.servers[phones.server].index
    there = phones.wire.lives(f"mailbox/{box}", phones.server)
    messages = [entry.record for entry in index.in_mailbox(box)]
    living = [record.key.rpartition("/")[2] for record in messages if record.lives]
    dead = [record.key.rpartition("/")[2] for record in messages if not record.lives]
    if name == "make box" and not there:
        phones.desk.create_mailbox(box, {"name": "Ada"})
    elif name == "leave" and there:
        phones.leave(box)
    elif name == "mark" and there and living:
        phones.desk.mark(box, living[0], "old")
    elif name == "delete" and there and living:
        phones.desk.delete_message(box, living[0])
    elif name == "restore" and there and dead:
        phones.desk.restore_message(box, dead[0])
    elif name == "drop box" and there:
        phones.desk.delete_mailbox(box)


def counts(wire: Wire, server: str, box: str) -> tuple[int, int]:
    """How many new and old messages a mailbox holds."""
    if not wire.lives(f"mailbox/{box}", server):
        return 0, 0
    entries = [entry.record.document["status"] for entry in wire.servers[server].index.living_in(box)]
    return entries.count("new"), entries.count("old")


# With daemons


def test_lamps_at_work(tmp_path: Path) -> None:
    """The primary tells of a message that comes; after its death the secondary tells of every mailbox, and of new messages."""
    script = tmp_path / "script"
    script.write_text('cat | sed "s/^/$VMCTL_SERVER /" >> told\n')
    net = Net.make(tmp_path / "net", hooks__on_waiting=["/bin/sh", str(script)])  # type: ignore[arg-type]
    for extension in ("2001", "2002"):
        net.do("mailbox", "create", extension, "--name", "Ada", "--server", "primary")

    def told(server: str) -> list[tuple[str, int, int]]:
        path = net.root / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return brief([json.loads(line.partition(" ")[2]) for line in lines if line.startswith(server)])

    audio = wav(tmp_path / "a.wav")
    with net.daemon("secondary"):
        with net.daemon("primary") as primary:
            until(lambda: set(told("primary")) == {("2001", 0, 0), ("2002", 0, 0)}, what="the first lamps")
            net.leave("primary", "2001", audio)
            until(lambda: ("2001", 1, 0) in told("primary"), what="the lamp of 2001")
            until(lambda: net.status()["in_step"], what="in step")
            assert [] == told("secondary")
            primary.kill()
        until(lambda: set(told("secondary")) == {("2001", 1, 0), ("2002", 0, 0)}, what="all lamps after the failover")
        net.leave("secondary", "2002", audio)
        until(lambda: ("2002", 1, 0) in told("secondary"), what="the lamp of 2002")
    assert 3 == len(told("primary"))
