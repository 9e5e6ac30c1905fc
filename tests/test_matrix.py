"""The matrix of failures in active-standby: each row once, on two real daemons with something of ours between them."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import etcd
import pytest
from matrix.hosts import LONG, TESTED, wait
from matrix.player import Player
from matrix.rows import ACTIVE, LENT, PLAIN, Row
from matrix.seen import Sampler, Span, nobody, together
from matrix.wires import Gateway, Way
from running import SERVERS

from vmctl.clock import Clock, Deadline
from vmctl.config import Address
from vmctl.reach import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matrix.hosts import Kind


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind, Row], None]]:
    """Plays a row on the network of its kind."""
    players = {kind: Player(kind, lambda: tmp_path_factory.mktemp("matrix")) for kind in TESTED}

    def run(kind: Kind, row: Row) -> None:
        players[kind].play(row)

    yield run
    for player in players.values():
        player.close()


@pytest.mark.parametrize("row", [row for row in PLAIN if ACTIVE in row.modes], ids=lambda row: row.name)
def test_without_an_arbiter(on: Callable[[Kind, Row], None], row: Row) -> None:
    """What is done leads to what the row says, no message is lost, and normal operation comes back by itself."""
    on(TESTED[0], row)


@pytest.mark.parametrize("row", LENT, ids=lambda row: row.name)
def test_with_an_arbiter(on: Callable[[Kind, Row], None], row: Row) -> None:
    """Likewise; and the routes.json of the two servers never name two servers at one moment."""
    etcd.program()
    on(TESTED[1], row)


# What the matrix itself relies on


def test_who_served_when_is_counted_right() -> None:
    """Times with two servers and times with none are found, and what lies in between is neither."""
    spans = [Span("primary", 0, 40), Span("secondary", 30, 60), Span("primary", 70, 100)]
    assert together(spans) == 10
    assert nobody(spans, 0, 110) == 20
    assert together(spans[1:]) == 0


def test_two_routes_files_that_name_two_servers_are_seen(tmp_path: Path) -> None:
    """The sampler names a moment at which both count, and none of a file that has expired."""
    files = {name: tmp_path / f"{name}.json" for name in SERVERS}
    past = {"boot": Clock().boot(), "steady": 0.0, "wall": "2026-01-31T08:15:00.000Z"}

    def write(server: str, until: object) -> None:
        beside = tmp_path / "new"
        beside.write_text(json.dumps({"v": 1, "valid_until": until, "services": {"main": {"serving": server}}}))
        beside.rename(files[server])

    write("primary", None)
    write("secondary", past)
    with contextlib.closing(Sampler(files)) as sampler:
        wait(lambda: sampler.looks > 2, "some looks")
        assert sampler.twice == []
        write("secondary", None)
        wait(lambda: sampler.twice, "two servers at one moment")


def test_a_way_can_be_cut_and_be_a_hole() -> None:
    """What is sent into a hole comes when it is open again; a cut way ends its connections, and takes no new one."""
    with socket.create_server(("127.0.0.1", 0)) as far, contextlib.closing(Way(far.getsockname())) as way:
        near = socket.create_connection(way.address)
        there, _ = far.accept()
        with near, there:
            near.sendall(b"1")
            assert there.recv(9) == b"1"
            way.hole()
            near.sendall(b"2")
            there.settimeout(0.2)
            with pytest.raises(TimeoutError):
                there.recv(9)
            there.settimeout(LONG)
            way.open()
            assert there.recv(9) == b"2"
            way.cut()
            assert there.recv(9) == b""
        with socket.create_connection(way.address) as near:
            assert near.recv(9) == b""


def test_a_gateway_is_reached_or_not() -> None:
    """As a probe of the product sees it, back and forth."""
    with contextlib.closing(Gateway()) as gateway:
        for _ in range(2):
            assert reach(Address(*gateway.address), Deadline(Clock(), LONG)) == ""
            gateway.down()
            assert reach(Address(*gateway.address), Deadline(Clock(), 0.2)) != ""
            gateway.up()
