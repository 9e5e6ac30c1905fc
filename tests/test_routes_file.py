"""routes.json: what a server writes for other programs, when it is written anew, and who may believe it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from wire import OffsetClock

from vmctl import network, routes_file
from vmctl.clock import parse_rfc3339
from vmctl.desk import Desk
from vmctl.errors import BrokenFile, NotFound, StoreNewer
from vmctl.replica import Replica
from vmctl.routes_file import RoutesFile
from vmctl.routing import Answer, Moment
from vmctl.view import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmctl.config import Config


class Writer:
    """The file of the primary of a network, and time that passes as a test says."""

    def __init__(self, config: Config) -> None:
        self.clock = OffsetClock()
        self.replica = Replica.open(config, "primary", self.clock)
        self.file = RoutesFile(config, "primary", self.replica.index, self.clock, self.replica.store.state)

    @property
    def now(self) -> Moment:
        """The moment it is."""
        return Moment(self.clock.steady(), self.clock.boot())

    def answers(self, *servers: str | None, lasting: float | None = None, epoch: int = 1) -> dict[str, Answer]:
        """Who serves each service; the answers count for so many seconds."""
        until = None if lasting is None else Moment(self.now.steady + lasting, self.now.boot)
        names = list(self.replica.config.services)
        return {
            name: Answer(name, server, "primary", "normal", Epoch(epoch, "primary"), 1_790_000_000_000_000, until)
            for name, server in zip(names, servers, strict=True)
        }

    def value(self) -> dict[str, Any]:
        """What the file holds."""
        value: dict[str, Any] = json.loads(self.file.path.read_bytes())
        return value

    def who(self, service: str = "voicemail") -> str | None:
        """Who serves, as a reader of the file takes it now."""
        path = self.file.path
        return routes_file.answers_of(path, routes_file.read(path), self.now)[service].server


@pytest.fixture
def writer(tmp_path: Path, no_fsync: None) -> Iterator[Writer]:
    """The primary of a network with one service, which lists two extensions and a trunk."""
    members = {"extensions": ["2001", "2002"], "trunks": ["pstn"], "expansions": ["annex"], "applications": ["fax"]}
    settings = {f"services.voicemail.{part}": names for part, names in members.items()}
    made = Writer(network.make(tmp_path / "net", settings=settings))
    yield made
    made.replica.close()


@pytest.fixture
def dual(tmp_path: Path, no_fsync: None) -> Iterator[Writer]:
    """The primary of a network in which each server serves its own; extension 3001 is listed."""
    settings = {"services.secondary.extensions": ["3001"]}
    made = Writer(network.make(tmp_path / "net", mode="dual-active", settings=settings))
    yield made
    made.replica.close()


def test_what_is_in_it(writer: Writer) -> None:
    """Every name of the contract, everybody may read it, and without an arbiter it counts until it is written anew."""
    assert writer.file.tell(writer.answers("primary"))
    value = writer.value()
    assert abs(parse_rfc3339(value.pop("written")) - writer.clock.wall()) < 60_000_000
    servers = {
        name: {"address": str(one.address), "mail": one.mail} for name, one in writer.replica.config.servers.items()
    }
    since = "2026-09-21T14:13:20.000Z"
    service = {"serving": "primary", "state": "normal", "home": "primary", "epoch": [1, "primary"], "since": since}
    assert value == {
        "v": 1, "network": "net", "server": "primary", "mode": "active-standby", "valid_until": None,
        "services": {"voicemail": service}, "default": "voicemail",
        "extensions": {"2001": "voicemail", "2002": "voicemail"}, "trunks": {"pstn": "voicemail"},
        "expansions": {"annex": "voicemail"}, "applications": {"fax": "voicemail"}, "servers": servers,
    }  # fmt: skip
    assert 0o644 == writer.file.path.stat().st_mode & 0o777
    assert writer.replica.store.state / "routes.json" == writer.file.path


def test_it_is_written_when_an_answer_changed_and_not_otherwise(writer: Writer) -> None:
    """The same answers leave the file alone, for any time; another server, or epoch, is written at once."""
    assert writer.file.tell(writer.answers("primary"))
    inode = writer.file.path.stat().st_ino
    writer.clock.advance(86_400)
    assert not writer.file.tell(writer.answers("primary"))
    assert inode == writer.file.path.stat().st_ino
    assert writer.file.tell(writer.answers(None))
    assert writer.who() is None
    assert writer.file.tell(writer.answers("primary", epoch=2))
    assert "primary" == writer.who()


def test_a_new_process_writes_it_anew(writer: Writer) -> None:
    """What an earlier life of the server left is not believed to be up to date."""
    writer.file.tell(writer.answers("primary"))
    here = writer.replica
    again = RoutesFile(here.config, "primary", here.index, writer.clock, here.store.state)
    assert again.tell(writer.answers("primary"))


def test_with_an_arbiter_it_is_written_again_before_it_expires(writer: Writer) -> None:
    """When half of its time is over, and not before; a reader never finds it expired while it is renewed."""
    writer.file.tell(writer.answers("primary", lasting=60))
    assert writer.file.due - writer.clock.steady() == pytest.approx(30, abs=1)
    writer.clock.advance(29)
    assert not writer.file.tell(writer.answers("primary", lasting=60))
    writer.clock.advance(2)
    assert writer.file.tell(writer.answers("primary", lasting=60))
    for _ in range(20):
        writer.clock.advance(31)
        assert "primary" == writer.who()
        assert writer.file.tell(writer.answers("primary", lasting=60))


def test_a_permit_that_is_not_renewed_is_not_told_as_longer(writer: Writer) -> None:
    """The same end is not written twice; when it comes, readers take it as nobody although nothing was written."""
    until = writer.answers("primary", lasting=60)
    writer.file.tell(until)
    writer.clock.advance(40)
    assert not writer.file.tell(until)
    assert "primary" == writer.who()
    writer.clock.advance(21)
    assert writer.who() is None


def test_the_shortest_answer_is_the_files(dual: Writer) -> None:
    """Of two services that count for different times the file counts for the shorter one."""
    long, short = dual.answers("primary", "secondary", lasting=60), dual.answers("primary", "secondary", lasting=20)
    dual.file.tell(long | {"primary": short["primary"]})
    assert dual.value()["valid_until"]["steady"] == pytest.approx(dual.now.steady + 20, abs=1)
    dual.clock.advance(21)
    assert dual.who("secondary") is None


def test_an_expired_file_is_nobody_also_after_a_reboot(writer: Writer) -> None:
    """The steady clock of another boot says nothing: such a file counts no more, whatever its numbers are."""
    writer.file.tell(writer.answers("primary", lasting=10**9))
    value = writer.value()
    assert "primary" == writer.who()
    value["valid_until"]["boot"] = "another"
    writer.file.path.write_text(json.dumps(value))
    path = writer.file.path
    (answer,) = routes_file.answers_of(path, routes_file.read(path), writer.now).values()
    assert answer.server is None
    assert "counted until" in answer.waiting_for[0]


def test_mailboxes_name_their_service(dual: Writer) -> None:
    """Those that name another service than the first are in the file, and leave it when they go or name it no more."""
    desk = Desk(dual.replica)
    answers = dual.answers("primary", "secondary")
    dual.file.tell(answers)
    assert {"3001": "secondary"} == dual.value()["extensions"]
    desk.create_mailbox("2001", {"name": "Ada"})
    assert not dual.file.tell(answers)  # it names the first service, which is the default
    for extension in ("4001", "4002"):
        desk.create_mailbox(extension, {"name": "Grace", "service": "secondary"})
    desk.create_mailbox("3001", {"name": "Eve", "service": "primary"})  # listed: what it says itself does not count
    assert dual.file.tell(answers)
    assert {"3001": "secondary", "4001": "secondary", "4002": "secondary"} == dual.value()["extensions"]
    desk.delete_mailbox("4001")
    desk.set_mailbox("4002", {"service": "primary"})
    desk.set_mailbox("2001", {"service": "secondary"})
    assert dual.file.tell(answers)
    assert {"3001": "secondary", "2001": "secondary"} == dual.value()["extensions"]
    assert not dual.file.tell(answers)
    assert "primary" == dual.value()["default"]


def test_one_service_needs_no_look_at_mailboxes(writer: Writer) -> None:
    """With one service a change of a mailbox asks the index nothing."""
    writer.file.tell(writer.answers("primary"))
    Desk(writer.replica).create_mailbox("2003", {"name": "Ada"})
    asked: list[str] = []
    writer.replica.index._db.set_trace_callback(asked.append)
    assert not writer.file.tell(writer.answers("primary"))
    assert [] == [query for query in asked if "records" in query]


def test_a_file_that_cannot_be_written_is_named_and_tried_again(tmp_path: Path, writer: Writer) -> None:
    """It is a fault in the status, the server goes on, and the file comes when its folder is there again."""
    folder = tmp_path / "run"
    config = dataclasses.replace(
        writer.replica.config, routes=writer.replica.config.routes._replace(file=folder / "routes.json")
    )
    file = RoutesFile(config, "primary", writer.replica.index, writer.clock, writer.replica.store.state)
    assert not file.tell(writer.answers("primary"))
    (fault,) = writer.replica.index.faults.all()
    assert str(folder) in fault["why"]
    folder.mkdir()
    assert file.tell(writer.answers("primary"))
    assert [] == writer.replica.index.faults.all()
    shutil.rmtree(folder)
    assert not file.tell(writer.answers("primary", epoch=2))
    assert 1 == len(writer.replica.index.faults.all())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"v": 1}',
        '{"v": 1, "valid_until": null, "services": []}',
        '{"v": 1, "valid_until": {"steady": 1}, "services": {}, "server": "primary"}',
        '{"v": 1, "valid_until": null, "services": {"a": {"serving": "primary", "home": "x", "state": "?"}}}',
    ],
)
def test_what_is_no_routes_file_is_refused(tmp_path: Path, text: str) -> None:
    """A reader that cannot read it has no answer: that is an error, and never a server's name."""
    path = tmp_path / "routes.json"
    path.write_text(text)
    with pytest.raises(BrokenFile):
        routes_file.answers_of(path, routes_file.read(path), Moment(0.0, "x"))


def test_a_file_that_is_not_there_or_too_new(tmp_path: Path) -> None:
    """Each is an error of its own."""
    path = tmp_path / "routes.json"
    with pytest.raises(NotFound):
        routes_file.read(path)
    path.write_text('{"v": 2}')
    with pytest.raises(StoreNewer):
        routes_file.read(path)
