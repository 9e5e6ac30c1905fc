"""What is told to whom, in which order, how often: at one server, with its own journal and index."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portal import Portal, noted, noting, script
from running import free_ports, until
from wire import Wire

from vmctl import durable, hooks, notice
from vmctl.config import Webhook
from vmctl.evidence import Evidence
from vmctl.failover import Failover
from vmctl.roles import Transition
from vmctl.telling import Teller
from vmctl.view import Epoch, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmctl.config import Config
    from vmctl.journal import Journal
    from vmctl.replica import Replica

PAGE = Path(__file__).parent.parent / "docs/hooks.md"
HERE, THERE = {"voicemail": True}, {"voicemail": False}


class Server:
    """The primary of a network, whose service is moved by a word; the tellers of its lives."""

    def __init__(self, wire: Wire, **told: Any) -> None:
        self.wire = wire
        # by the clock here seconds pass at each look, so a program gets many
        self.told = {"tries": 3, "timeout": 3600.0, **told}
        self.webhooks: dict[str, Webhook] = {}
        self.more_services: tuple[str, ...] = ()
        self.teller: Teller | None = None

    @property
    def replica(self) -> Replica:
        return self.wire.a

    @property
    def journal(self) -> Journal:
        return self.replica.journal

    @property
    def config(self) -> Config:
        made = self.wire.config
        services = {name: made.services["voicemail"]._replace(name=name) for name in ("voicemail", *self.more_services)}
        hooked = made.hooks._replace(**self.told)
        return dataclasses.replace(made, hooks=hooked, webhooks=self.webhooks, services=services)

    def begin(self, *, anew: bool = True) -> Teller:
        """A new life."""
        self.end()
        self.teller = Teller(
            self.config, "primary", self.journal, self.replica.index, self.wire.clock,
            locked=self.replica.locked, wake=lambda: None, anew=anew,
        )  # fmt: skip
        return self.teller

    def end(self) -> None:
        if self.teller is not None:
            self.teller.close()
        self.teller = None

    def move(self, *, by: str = "vmctl") -> str:
        """A transition, to the server that does not serve; the id under which it is told."""
        before = self.journal.views({"voicemail": "primary"})["voicemail"]
        away = before.serving != "secondary"
        after = View(
            "voicemail", "primary", "secondary" if away else "primary", "resilience" if away else "normal",
            Epoch(before.epoch.number + 1, "primary"), self.wire.clock.wall(), "order" if away else "gate",
        )  # fmt: skip
        move = Transition(before, after, f"move {after.epoch.number}", by)  # type: ignore[arg-type]
        with self.replica.locked():
            line = self.journal.transition(
                move, Evidence("primary", "secondary"), at=self.wire.clock.wall(), server="primary"
            )
        return f"net-primary-{line['seq']}-{line['hash'][:12]}"

    def tick_until(self, so: Any, serving: dict[str, bool] | None = None, what: str = "it") -> None:
        """Ticks until something is so; time that is to be waited passes at once."""
        assert self.teller is not None

        def turn() -> bool:
            self.wire.clock.advance(1.0)
            self.teller.tick(serving or {})
            return bool(so())

        until(turn, what=what)

    def tick_through(self, serving: dict[str, bool]) -> None:
        """One tick, and the end of all that it began; no time passes by the clock here but that of the tick."""
        assert self.teller is not None
        self.teller.tick(serving)
        for thread in self.teller._threads.values():
            thread.join()

    def is_quiet(self) -> bool:
        """Whether nobody is being told anything."""
        assert self.teller is not None
        return not any(channel.busy for channel in self.teller._channels)

    @property
    def untold(self) -> list[dict[str, Any]]:
        """What the status shows."""
        return notice.untold(self.replica.index.note(notice.NOTE))


@pytest.fixture
def server(wire: Wire) -> Iterator[Server]:
    made = Server(wire)
    Failover(wire.a).start()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def ids(path: Path) -> list[str]:
    """The ids that a hook noted."""
    return [words[3] for words in noted(path)]


# Transitions


def test_transitions_are_told_in_order_one_at_a_time(server: Server, tmp_path: Path) -> None:
    """A hook gets every transition once, in the journal's order, and no second one while one runs."""
    hook = noting(tmp_path / "h", "mkdir running || echo twice >> twice", "sleep 0.05", "rmdir running")
    server.told["on_transition"] = hook
    server.begin()
    moved = [server.move() for _ in range(4)]
    server.tick_until(lambda: len(ids(tmp_path / "h")) == 4, what="four tellings")
    server.tick_until(server.is_quiet, what="the end of the last")
    assert ids(tmp_path / "h") == moved
    assert not (server.config.path.parent / "twice").exists()
    assert [words[:3] for words in noted(tmp_path / "h")][:2] == [
        ["on_transition", "voicemail", "resilience"], ["on_transition", "voicemail", "normal"]
    ]  # fmt: skip


def test_what_was_before_the_first_start_is_not_told(server: Server, tmp_path: Path) -> None:
    """A new index, and a hook that is new in the config, begin at the journal's present end; others go on where they were."""
    server.move()
    server.told["on_transition"] = noting(tmp_path / "h")
    server.begin()
    told = [server.move()]
    server.tick_until(lambda: ids(tmp_path / "h"), what="the first")
    with Portal().open() as portal:
        server.end()
        told.append(server.move())
        server.webhooks["portal"] = Webhook(portal.url)
        server.begin()
        told.append(server.move())
        server.tick_until(lambda: len(ids(tmp_path / "h")) == 3 and portal.told, what="the last")
    assert ids(tmp_path / "h") == told
    assert [document["id"] for document in portal.told] == told[2:]


def test_a_hook_that_fails_is_tried_again_then_given_up(server: Server, tmp_path: Path) -> None:
    """It is run `hooks.tries` times, shown with its last words, given up in the journal, and the next is told."""
    bad = 'case "$VMCTL_REASON" in *1) echo no such lamp >&2; exit 4;; esac'
    server.told["on_transition"] = noting(tmp_path / "h", bad)
    server.begin()
    first = server.move()
    server.tick_until(lambda: server.untold, what="the failure")
    assert server.untold[0] | {"tries": 0, "since": 0} == {
        "hook": "on_transition", "webhook": False, "service": "voicemail", "id": first, "tries": 0, "since": 0,
        "why": "exit code 4: no such lamp", "given_up": False,
    }  # fmt: skip
    row = next(line for line in PAGE.with_name("status.md").read_text().splitlines() if "servers.*.untold`" in line)
    assert set(server.untold[0]) <= set(re.findall(r"`(\w+)`", row)), "docs/status.md tells of each"
    server.tick_until(lambda: server.untold[0]["given_up"], what="the end of patience")
    assert ids(tmp_path / "h") == [first] * 3
    assert server.untold[0]["tries"] == 3
    line = list(server.journal.entries())[-1]
    assert (line["event"], line["hook"], line["id"]) == ("a hook was given up", "on_transition", first)
    assert (line["tries"], line["why"]) == (3, "exit code 4: no such lamp")
    assert server.journal.verify() == []
    second = server.move()
    server.tick_until(lambda: not server.untold, what="the next one")
    assert ids(tmp_path / "h") == [first] * 3 + [second]


def test_tries_are_counted_over_restarts(server: Server, tmp_path: Path) -> None:
    """A hook that fails is not tried for ever because the daemon is restarted in between."""
    server.told["on_transition"] = noting(tmp_path / "h", "exit 1")
    server.begin()
    server.move()
    for tries in (1, 2):
        server.tick_until(lambda tries=tries: server.untold and server.untold[0]["tries"] >= tries, what="a try")
        server.begin()
    server.tick_until(lambda: server.untold[0]["given_up"], what="the end of patience")
    assert len(noted(tmp_path / "h")) == 3


def test_a_webhook_is_never_given_up(server: Server) -> None:
    """One that is down for long gets everything in order when it is back, with the number of the attempt; others do not wait."""
    port = free_ports(1)[0]
    with Portal().open() as well:
        server.webhooks = {"down": Webhook(f"http://127.0.0.1:{port}/"), "well": Webhook(well.url)}
        server.begin()
        moved = [server.move() for _ in range(3)]
        server.tick_until(lambda: server.untold and server.untold[0]["tries"] > 5, what="some tries")
        assert [document["id"] for document in well.told] == moved
    assert (server.untold[0]["hook"], server.untold[0]["webhook"]) == ("down", True)
    assert server.untold[0]["why"] == "it does not answer: Connection refused"
    with Portal(port).open() as back:
        back.answer = 503
        server.tick_until(lambda: back.posts, what="a post")
        back.answer = 200
        server.tick_until(lambda: len(back.told) == 3, what="all of them")
        server.tick_until(lambda: not server.untold, what="no complaint")
    assert [document["id"] for document in back.told] == moved
    attempts = [int(post.headers["Vmctl-Attempt"]) for post in back.posts]
    assert attempts[0] > 6
    assert attempts[-2:] == [1, 1]
    assert len({post.body for post in back.posts}) == 3, "a document is the same each time"


def test_waits_grow_up_to_five_minutes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many failures five minutes pass between two tries, less a random part of a quarter."""
    server.webhooks = {"down": Webhook("http://127.0.0.1:1/")}
    server.begin()
    server.move()
    channel = server.teller._transitions[0]
    channel.tries, tried = 40, []

    def turn() -> bool:
        server.teller.tick({})
        tried.append(channel.tries)
        return channel.tries == 41

    until(turn, what="a try")
    assert 225.0 <= channel.not_before - server.wire.clock.steady() <= 300.0


def test_a_journal_that_was_begun_anew_is_told_from_its_beginning(server: Server, tmp_path: Path) -> None:
    """A damaged journal that a person moved aside is followed by one with the same numbers: all of that is told."""
    server.told["on_transition"] = noting(tmp_path / "h")
    server.begin()
    told = [server.move() for _ in range(3)]
    server.tick_until(lambda: len(ids(tmp_path / "h")) == 3, what="three tellings")
    server.end()
    server.journal.path.rename(tmp_path / "aside")
    told += [server.move() for _ in range(2)]
    server.begin()
    server.tick_until(lambda: len(ids(tmp_path / "h")) == 5, what="the new ones")
    assert ids(tmp_path / "h") == told
    assert len(set(told)) == 5, "ids are not used twice"


def test_a_line_that_cannot_be_read_holds_up_nothing(server: Server, tmp_path: Path) -> None:
    """What else a damaged journal holds is told, and nothing is raised."""
    server.told |= {"on_transition": noting(tmp_path / "h"), "on_active": noting(tmp_path / "r")}
    server.begin()
    told = [server.move() for _ in range(3)]
    lines = server.journal.path.read_bytes().splitlines(keepends=True)
    server.journal.path.write_bytes(b"".join([*lines[:-2], b"{nonsense\n", lines[-1]]))
    server.tick_until(lambda: len(ids(tmp_path / "h")) == 2, what="the others")
    assert ids(tmp_path / "h") == [told[0], told[2]]


def test_what_follows_a_hook_that_is_gone_from_the_config(server: Server, tmp_path: Path) -> None:
    """A hook that was taken out of vmctl.yaml is not shown as failing any more."""
    server.told["on_transition"] = noting(tmp_path / "h", "exit 1")
    server.begin()
    server.move()
    server.tick_until(lambda: server.untold, what="the failure")
    server.told["on_transition"] = None
    server.begin()
    assert server.untold == []


def test_more_than_is_read_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog longer than what a channel reads at once is told whole, with lines between that are no transitions."""
    told: list[str] = []

    def run(_command: object, facts: dict[str, Any], tell: Callable[[str | None], None], **_how: object) -> None:
        told.append(facts["id"])
        tell(None)

    monkeypatch.setattr(hooks, "run", run)
    server.told["on_transition"] = ["true"]
    server.begin()
    moved = []
    for _ in range(60):
        moved.append(server.move())
        with server.replica.locked():
            server.replica.tell("something else")
    server.tick_until(lambda: len(told) == 60, what="all of them")
    assert told == moved


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["move", "event", "tick", "fail", "kill", "end"]), max_size=25))
def test_whatever_happens_all_is_told_in_order(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Over failures, ends and kills between any two steps every transition is told, the first time in the journal's order."""
    told: list[str] = []
    failing: list[bool] = []

    def run(_command: object, facts: dict[str, Any], tell: Callable[[str | None], None], **_how: object) -> None:
        told.append(facts["id"])
        tell("it failed" if failing and failing.pop() else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "_fsync", lambda _fd: None)
        patch.setattr(hooks, "run", run)
        wire = Wire(tmp_path_factory.mktemp("told") / "net")
        server = Server(wire, on_transition=["true"], tries=1000)
        server.begin()
        moved = []
        for step in steps:
            if step == "move":
                moved.append(server.move())
            elif step == "event":
                with server.replica.locked():
                    server.replica.tell("something else")
            elif step == "tick":
                wire.clock.advance(1.0)
                server.teller.tick({})
            elif step == "fail":
                failing.append(True)
            elif step == "end":
                server.begin()
            else:  # killed: what was told a moment ago is not noted
                for thread in server.teller._threads.values():
                    thread.join()
                server.teller = None
                server.begin()
        failing.clear()
        server.tick_until(lambda: not moved or moved[-1] in told, what="the last")
        server.end()
        wire.close()
    assert list(dict.fromkeys(told)) == moved


def test_no_thread_for_a_hook_is_a_failure_of_the_hook(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown and tried again, and never ends the process that asks."""

    def fails(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server.told["on_transition"] = noting(tmp_path / "h")
    server.begin()
    moved = server.move()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        server.tick_until(lambda: server.untold, what="the failure")
        server.teller.close()
    assert server.untold[0]["why"] == "can't start new thread"
    server.tick_until(lambda: ids(tmp_path / "h") == [moved], what="the hook")


# Who serves now


@pytest.fixture
def roles(server: Server, tmp_path: Path) -> Server:
    """A server with both hooks, which note what they are told."""
    server.told |= {"on_active": noting(tmp_path / "r"), "on_standby": noting(tmp_path / "r")}
    return server


def kinds(tmp_path: Path) -> list[str]:
    """Which hooks were run."""
    return [words[0] for words in noted(tmp_path / "r")]


def test_each_change_of_the_role_is_told_once(roles: Server, tmp_path: Path) -> None:
    """`on_active` runs when this server begins to serve, `on_standby` when it ends, and neither at other transitions."""
    roles.begin()
    moved = []
    for number, serving in enumerate((THERE, HERE, THERE), 1):
        moved.append(roles.move())
        roles.tick_until(lambda number=number: len(kinds(tmp_path)) == number, serving, what="a telling")
        for _ in range(3):
            roles.teller.tick(serving)
    assert kinds(tmp_path) == ["on_standby", "on_active", "on_standby"]
    assert ids(tmp_path / "r") == moved


def test_a_start_is_told_once_it_is_known_who_serves(roles: Server, tmp_path: Path) -> None:
    """A daemon that starts tells how it turns out, also if it was so before; while it asks it tells nothing."""
    roles.move()
    roles.move()
    for life in (1, 2):
        Failover(roles.replica).start()
        roles.begin()
        roles.teller.tick(THERE)
        assert len(kinds(tmp_path)) == life - 1
        roles.move()
        roles.move()
        roles.tick_until(lambda life=life: len(kinds(tmp_path)) == life, HERE, what="the start")
    assert kinds(tmp_path) == ["on_active", "on_active"]


def test_a_start_without_an_answer_is_told_as_standby(roles: Server, tmp_path: Path) -> None:
    """When the time is over in which a server only asks, and it serves nobody, `on_standby` says so, in no state to serve."""
    roles.begin()
    roles.wire.clock.advance(roles.config.failover.start_wait - 2)
    roles.teller.tick(THERE)
    assert kinds(tmp_path) == []
    roles.tick_until(lambda: kinds(tmp_path), THERE, what="the end of the wait")
    assert noted(tmp_path / "r") == [["on_standby", "voicemail", "starting", ""]]


def test_a_lease_that_runs_out_is_told_without_a_transition(roles: Server, tmp_path: Path) -> None:
    """What counts is whether this server serves, whatever the journal says; then nobody does, as far as it knows."""
    roles.told["on_standby"] = [str(script(tmp_path / "s", f'echo "[$VMCTL_SERVING] $VMCTL_ROLE" > {tmp_path}/said'))]
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: kinds(tmp_path), HERE, what="on_active")
    roles.tick_until((tmp_path / "said").exists, THERE, what="on_standby")
    until(lambda: (tmp_path / "said").read_text() == "[] standby\n", what="its words")


def test_a_server_that_steps_aside_says_so_at_once(roles: Server, tmp_path: Path) -> None:
    """`on_standby` does not wait for the end of the time in which a server that starts only asks."""
    began = roles.wire.clock.steady()
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_through(HERE)
    before = roles.journal.views({"voicemail": "primary"})["voicemail"]
    aside = Transition(before, before.started(roles.wire.clock.wall(), "lease"), "its lease ran out", "vmctl")
    with roles.replica.locked():
        roles.journal.transition(aside, Evidence("primary", "secondary"), at=roles.wire.clock.wall(), server="primary")
    roles.tick_through(THERE)
    assert kinds(tmp_path) == ["on_active", "on_standby"]
    assert roles.wire.clock.steady() - began < roles.config.failover.start_wait


def test_what_is_not_known_changes_nothing(roles: Server, tmp_path: Path) -> None:
    """A service of which nobody knows who serves it stays as it was told."""
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: kinds(tmp_path), HERE, what="on_active")
    for _ in range(5):
        roles.teller.tick({})
    assert kinds(tmp_path) == ["on_active"]


def test_a_state_that_is_over_is_not_told_any_more(roles: Server, tmp_path: Path) -> None:
    """A failing `on_active` is dropped when the role moves on, `on_standby` is run, and no failure is left to show."""
    roles.told["on_active"] = noting(tmp_path / "r", "exit 1")
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: roles.untold, HERE, what="the failure")
    assert roles.untold[0]["hook"] == "on_active"
    roles.move()
    roles.tick_until(lambda: kinds(tmp_path)[-1] == "on_standby", THERE, what="the new state")
    roles.tick_until(lambda: not roles.untold, THERE, what="no complaint")
    before = len(kinds(tmp_path))
    roles.wire.clock.advance(1000)
    roles.teller.tick(THERE)
    assert len(kinds(tmp_path)) == before


def test_the_next_state_waits_for_the_hook_that_runs(roles: Server, tmp_path: Path) -> None:
    """Both hooks of a service are never run at once; a state that came and went while one ran is not told."""
    gate = tmp_path / "gate"
    roles.told["on_active"] = noting(tmp_path / "r", f"while [ ! -e {gate} ]; do sleep 0.02; done")
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: kinds(tmp_path), HERE, what="on_active")
    roles.teller.tick(THERE)
    roles.teller.tick(HERE)
    roles.teller.tick(THERE)
    assert kinds(tmp_path) == ["on_active"]
    gate.touch()
    roles.tick_until(lambda: len(kinds(tmp_path)) == 2, THERE, what="on_standby")
    assert kinds(tmp_path) == ["on_active", "on_standby"]


def test_a_state_that_ended_while_its_hook_failed_is_no_failure(roles: Server, tmp_path: Path) -> None:
    """A hook that fails when its state is over already is neither shown, nor given up, nor does it delay the next one."""
    gate = tmp_path / "gate"
    roles.told["on_active"] = noting(tmp_path / "r", f"while [ ! -e {gate} ]; do sleep 0.02; done", "exit 1")
    roles.told["tries"] = 1
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: kinds(tmp_path), HERE, what="on_active")
    roles.teller.tick(THERE)
    gate.touch()

    def turn() -> bool:
        roles.teller.tick(THERE)
        return roles.teller._roles["voicemail"].told is False

    until(turn, what="on_standby")
    assert roles.untold == []
    roles.tick_until(roles.is_quiet, THERE, what="the end of on_standby")
    assert "a hook was given up" not in [entry.get("event") for entry in roles.journal.entries()]
    assert kinds(tmp_path) == ["on_active", "on_standby"]


def test_a_hook_for_a_state_is_given_up_too(roles: Server, tmp_path: Path) -> None:
    """After `hooks.tries` it is not run any more for this state; the journal and the status say so, and the next is told."""
    roles.told["on_active"] = noting(tmp_path / "r", "exit 1")
    roles.begin()
    roles.move()
    roles.move()
    roles.tick_until(lambda: roles.untold and roles.untold[0]["given_up"], HERE, what="the end of patience")
    for _ in range(5):
        roles.wire.clock.advance(400)
        roles.teller.tick(HERE)
    assert kinds(tmp_path) == ["on_active"] * 3
    assert list(roles.journal.entries())[-1]["event"] == "a hook was given up"
    roles.tick_until(lambda: kinds(tmp_path)[-1] == "on_standby", THERE, what="the next state")


def test_services_do_not_wait_for_each_other(roles: Server, tmp_path: Path) -> None:
    """While the hook of one service hangs that of another is run, and run again for what changes there."""
    gate = tmp_path / "gate"
    hang = f'while [ "$VMCTL_SERVICE" = voicemail ] && [ ! -e {gate} ]; do sleep 0.02; done'
    roles.told["on_active"] = noting(tmp_path / "r", hang)
    roles.more_services = ("second",)
    roles.begin()
    roles.tick_until(lambda: len(noted(tmp_path / "r")) == 2, HERE | {"second": True}, what="both")
    roles.tick_until(lambda: len(noted(tmp_path / "r")) == 3, HERE | {"second": False}, what="the end of the second")
    assert noted(tmp_path / "r")[2][:2] == ["on_standby", "second"]
    assert roles.teller._roles["voicemail"].busy
    gate.touch()


def test_one_hook_is_enough(server: Server, tmp_path: Path) -> None:
    """With `on_active` alone it runs at each beginning, though nothing is run in between."""
    server.told["on_active"] = noting(tmp_path / "r")
    server.begin()
    for count in (1, 2):
        server.move()
        server.teller.tick(THERE)
        server.move()
        server.tick_until(lambda count=count: len(kinds(tmp_path)) == count, HERE, what="on_active")
        server.tick_until(server.is_quiet, HERE, what="its end")


# The end of a process


def test_a_hook_that_runs_at_the_end_is_run_again(
    roles: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that does not end with the process is killed, is no failure, and is run again in the next life."""
    monkeypatch.setattr("vmctl.telling._GRACE", 0.2)
    roles.told["on_transition"] = noting(tmp_path / "h", "sleep 1000")
    roles.begin()
    moved = roles.move()
    roles.tick_until(lambda: ids(tmp_path / "h"), what="the hook")
    roles.end()
    assert roles.untold == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("vmctl hook")] == []
    roles.told["on_transition"] = noting(tmp_path / "h")
    roles.begin()
    roles.tick_until(lambda: len(ids(tmp_path / "h")) == 2, what="the hook again")
    assert ids(tmp_path / "h") == [moved, moved]


def test_a_hook_that_ends_in_time_is_not_run_again(server: Server, tmp_path: Path) -> None:
    """What a hook did while the process was ending is noted."""
    server.told["on_transition"] = noting(tmp_path / "h", "sleep 0.3")
    server.begin()
    server.move()
    server.tick_until(lambda: ids(tmp_path / "h"), what="the hook")
    server.begin()
    second = server.move()
    server.tick_until(lambda: ids(tmp_path / "h")[-1] == second, what="the next")
    assert len(ids(tmp_path / "h")) == 2


def test_a_process_that_ends_tells_what_is_due(roles: Server, tmp_path: Path) -> None:
    """Without a daemon all that is due is told at the end of a process, and the next tells only what is new."""
    roles.told["on_transition"] = noting(tmp_path / "h")
    roles.begin(anew=False)
    told = [roles.move() for _ in range(4)]
    roles.teller.finish(HERE, 20.0)
    assert ids(tmp_path / "h") == told
    assert kinds(tmp_path) == ["on_active"]
    roles.begin(anew=False)
    roles.teller.finish(HERE, 20.0)
    assert (len(ids(tmp_path / "h")), kinds(tmp_path)) == (4, ["on_active"])
    told.append(roles.move())
    roles.begin(anew=False)
    roles.teller.finish(THERE, 20.0)
    assert ids(tmp_path / "h") == told
    assert kinds(tmp_path) == ["on_active", "on_standby"]


def test_a_process_that_ends_tries_once(server: Server, tmp_path: Path) -> None:
    """What fails then is tried by the next process, counted on, and given up at last; the time limit leaves the rest."""
    server.told["on_transition"] = noting(tmp_path / "h", "exit 1")
    server.begin(anew=False)
    first, second = server.move(), server.move()
    for tries in (1, 2):
        server.begin(anew=False).finish({}, 20.0)
        assert (ids(tmp_path / "h"), server.untold[0]["tries"]) == ([first] * tries, tries)
    server.begin(anew=False).finish({}, 20.0)
    assert ids(tmp_path / "h") == [first] * 3 + [second]
    third = server.move()
    server.told["on_transition"] = noting(tmp_path / "h")
    server.begin(anew=False).finish({}, 0.0)
    assert ids(tmp_path / "h")[4:] == [second]
    server.begin(anew=False).finish({}, 20.0)
    assert ids(tmp_path / "h")[5:] == [third]


def test_nothing_to_tell_costs_nothing(server: Server) -> None:
    """Without hooks and webhooks no note is made and no thread begun."""
    server.begin()
    server.move()
    server.teller.tick(HERE)
    server.teller.finish(HERE, 1.0)
    assert not server.replica.index.note(notice.NOTE)
    assert server.teller._threads == {}


def test_a_lost_index_begins_at_the_end(server: Server, tmp_path: Path) -> None:
    """Who was told what goes with the index: what was before is not told again, what comes is."""
    server.told["on_transition"] = noting(tmp_path / "h")
    server.begin()
    server.move()
    server.tick_until(lambda: ids(tmp_path / "h"), what="the first")
    server.end()
    server.replica.close()
    for path in server.wire.root("primary").glob(".vmctl/index.db*"):
        path.unlink()
    server.wire.open("primary")
    server.begin()
    server.teller.tick({})
    second = server.move()
    server.tick_until(lambda: ids(tmp_path / "h")[-1] == second, what="the next")
    assert len(ids(tmp_path / "h")) == 2


def test_the_document_of_the_docs_has_every_name() -> None:
    """docs/hooks.md shows and explains the names that are told, neither more nor fewer."""
    text = PAGE.read_text()
    shown = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    before = View("voicemail", "primary", "primary", "normal", Epoch(3, "primary"), 0, "gate")
    after = View("voicemail", "primary", "secondary", "resilience", Epoch(4, "secondary"), 0, "silence")
    entry = {
        "kind": "transition", "seq": 7, "hash": "3f2a9c0d1b7e55", "reason": shown["reason"], "by": "vmctl",
        "at": shown["at"], "from": before.as_json(), "to": after.as_json(),
    }  # fmt: skip
    source = notice.Source("net", "active-standby", "secondary")
    assert notice.of_transition(entry, source, "on_transition") == shown
    assert notice.of_role(after, None, source, "on_active", active=True).keys() == shown.keys()
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    for name in shown:
        assert f"`{name}`" in table, f"docs/hooks.md does not tell of {name}"


def test_the_hook_of_the_docs_works(server: Server, tmp_path: Path) -> None:
    """The script of docs/hooks.md keeps one line for each transition, however often it is told."""
    path = tmp_path / "hook"
    path.write_text(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])
    path.chmod(0o755)
    server.told["on_transition"] = [str(path)]
    log = server.config.path.parent / "transitions.log"
    server.begin()
    moved = [server.move(), server.move()]
    note = server.replica.index.note(notice.NOTE)
    server.tick_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2, what="two lines")
    server.end()
    server.replica.index.set_note(notice.NOTE, note)
    server.begin()
    third = server.move()
    server.tick_until(lambda: third in log.read_text(), what="the third")
    assert [line.split()[0] for line in log.read_text().splitlines()] == [*moved, third]
    assert log.read_text().splitlines()[0].endswith("voicemail: starting -> resilience, served by secondary")
