"""Roles that move, and a network that is made."""

import shutil

from crash_points.stories.registry import story
from vmctl import config, network
from vmctl.clock import Clock
from vmctl.errors import NotEmpty
from vmctl.failover import Failover
from vmctl.replica import Replica


@story
def roles_move(it):
    """A start, the first to serve, a failover by order; each line of the journal that was written stays."""
    it.in_step()
    yield
    roles = {name: Failover(replica) for name, replica in it.servers.items()}
    for name, role in roles.items():
        role.start()
        it.holds(f"journal/{name}", "length", it.servers[name].journal.length_and_hash()[0], name)
    for turn in range(4):
        if turn == 2:
            roles["primary"].order("voicemail", "failover", "somebody")
        for name, role in roles.items():
            for parcel in it.servers[name].outbox.parcels(always=True, status=role.facts):
                it.servers[it.other(name)].receive(parcel.raw)
                it.servers[name].outbox.left(parcel)
            for taken in it.servers[it.other(name)].take().taken:
                roles[it.other(name)].hear_orders(taken.status.get("orders"))
        for name, role in roles.items():
            role.tick()
            it.holds(f"journal/{name}", "length", it.servers[name].journal.length_and_hash()[0], name)


@story(settings={"journal.max": "4kB"})
def a_journal_goes_on_in_a_new_file(it):
    """Each line that was written stays, and so does what both servers agree on, which only the new file tells."""
    book = it.a.journal
    book.agree("mode", {"number": 1}, at=it.clock.wall(), server="primary", by="vmctl")
    while book.path.stat().st_size <= it.config.journal.max:
        book.append("event", at=it.clock.wall(), server="primary", event="test")
    it.holds("agreed/primary", "mode", {"number": 1})
    it.holds("journal/primary", "length", book.length_and_hash()[0])
    yield
    for _ in range(2):
        book.append("event", at=it.clock.wall(), server="primary", event="test")
        it.holds("journal/primary", "length", book.length_and_hash()[0])
    it.begins("agreed/primary", field="mode")
    book.agree("mode", {"number": 2}, at=it.clock.wall(), server="primary", by="vmctl")
    it.holds("agreed/primary", "mode", {"number": 2})


def made_whole_or_not_at_all(directory):
    """A directory where `vmctl init` was killed: it is a network, or it is refused until somebody has cleared it."""
    new = directory / "new"
    for _ in range(2):
        try:
            made = network.make(new)
        except NotEmpty:
            if not (new / config.FILE).exists():
                shutil.rmtree(new)
                continue
            made = config.load(new / config.FILE)
        for name in made.servers:
            Replica.open(made, name, Clock()).close()
        return []
    return ["no network can be made there"]


@story(also=made_whole_or_not_at_all)
def a_network_is_made(it):
    """With its keys and two stores."""
    yield
    network.make(it.directory.parent / "new")
    it.holds("network/new", None, True, "nobody")
