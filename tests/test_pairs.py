"""The table of concurrent edits: each of its rows is what two real servers come to, and no pair is left out."""

import sys
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from running import ROOT
from wire import tone

from vmctl import pin
from vmctl.model import ABSENT, Tick, purged

sys.path.append(str(ROOT / "docs"))
import pairs

SERVERS = pairs.SIDES
MESSAGE, BOX = pairs.MESSAGE_KEY, "2001"
PINS = {whose: pin.hashed(digits) for whose, digits in (("former", "1111"), ("primary", "2222"), ("secondary", "3333"))}


def sound(wire, name):
    """A recording of a server's own."""
    return tone(wire.directory / f"{name}.wav", seed=name)


def purge(wire, name):
    """Let go of the deleted message for good, as a server does when its time is over."""
    replica = wire.servers[name]
    with replica.index.transaction():
        entry = replica.index.get(MESSAGE)
        tick = Tick(replica.index.next_number(wire.clock.wall()), replica.index.meta("incarnation"))
        replica.index.put(replace(entry, record=purged(entry.record, tick)), wire.clock.wall())
    replica.pool.drop(entry.record.document["audio"]["sha256"])
    (wire.root(name) / ".vmctl/deleted" / replica.store.path(MESSAGE)).unlink()


def leave(wire, name, ident):
    """Leave a message."""
    wire.desk(name).leave(BOX, sound(wire, f"{name}-{ident}"), ident=ident)


def message(wire):
    """A mailbox with a message."""
    wire.desk().create_mailbox(BOX, {"name": "Ada"})
    leave(wire, "primary", "m1")


def deleted_message(wire):
    """A mailbox with a message that was deleted when both had it."""
    message(wire)
    wire.in_step()
    wire.desk().delete_message(BOX, "m1")


def mailbox(wire):
    """A mailbox with all that the acts change, and an old message."""
    wire.desk().create_mailbox(BOX, {"name": "Ada", "quota": 3, "pin": PINS["former"]})
    leave(wire, "primary", "old")


def make_anew(wire, name):
    """Delete the mailbox, and make one of the same extension."""
    wire.desk(name).delete_mailbox(BOX)
    wire.desk(name).create_mailbox(BOX, {"name": f"new {name}"})


def both(*acts):
    """One act after the other."""
    return lambda wire, name: [act(wire, name) for act in acts]


def delete_message(wire, name):
    """Delete the message."""
    wire.desk(name).delete_message(BOX, "m1")


def restore_message(wire, name):
    """Restore the message."""
    wire.desk(name).restore_message(BOX, "m1")


def set_greeting(wire, name):
    """Put a greeting of this server's own."""
    wire.desk(name).set_greeting(BOX, "busy", sound(wire, name))


def set_prompt(wire, name):
    """Put a prompt of this server's own."""
    wire.desk(name).set_prompt("hello", sound(wire, name))


def set_callflow(wire, name):
    """Put a callflow of this server's own."""
    wire.desk(name).set_callflow("main", f"by: {name}\n")


def greeting(wire):
    """A mailbox with a greeting."""
    wire.desk().create_mailbox(BOX, {"name": "Ada"})
    wire.desk().set_greeting(BOX, "busy", sound(wire, "base"))


# What the scenes of the table are at real servers: how they begin, and what each act is there.
REAL = {
    "message": (
        message,
        {
            "mark it old": lambda wire, name: wire.desk(name).mark(BOX, "m1", "old"),
            "save it": lambda wire, name: wire.desk(name).mark(BOX, "m1", "saved"),
            "delete it": delete_message,
            "delete and restore it": both(delete_message, restore_message),
            "delete and purge it": both(delete_message, purge),
        },
    ),
    "deleted message": (deleted_message, {"restore it": restore_message, "purge it": purge}),
    "mailbox": (
        mailbox,
        {
            "set its name": lambda wire, name: wire.desk(name).set_mailbox(BOX, {"name": name}),
            "set its quota": lambda wire, name: wire.desk(name).set_mailbox(BOX, {"quota": len(name)}),
            "set its PIN": lambda wire, name: wire.desk(name).set_mailbox(BOX, {"pin": PINS[name]}),
            "delete it": lambda wire, name: wire.desk(name).delete_mailbox(BOX),
            "delete it and make it anew": make_anew,
            "leave a message in it": lambda wire, name: leave(wire, name, name),
            "set a greeting": set_greeting,
        },
    ),
    "callflow": (
        lambda wire: wire.desk().set_callflow("main", "former: 1\n"),
        {"edit it": set_callflow, "delete it": lambda wire, name: wire.desk(name).delete_callflow("main")},
    ),
    "greeting": (
        greeting,
        {"set it": set_greeting, "delete it": lambda wire, name: wire.desk(name).delete_greeting(BOX, "busy")},
    ),
    "prompt": (
        lambda wire: wire.desk().set_prompt("hello", sound(wire, "base")),
        {"set it": set_prompt, "delete it": lambda wire, name: wire.desk(name).delete_prompt("hello")},
    ),
    "settings": (
        lambda wire: wire.desk().set_settings({"a.key": 0, "b.other": 0}),
        {
            "set a key": lambda wire, name: wire.desk(name).set_settings({"a.key": name}),
            "set another key": lambda wire, name: wire.desk(name).set_settings({"b.other": name}),
            "unset the key": lambda wire, name: wire.desk(name).set_settings({"a.key": ABSENT}),
        },
    ),
    "nothing yet": (
        lambda wire: None,
        {
            "make a mailbox": lambda wire, name: wire.desk(name).create_mailbox(BOX, {"name": name}),
            "put a callflow": set_callflow,
            "put a prompt": set_prompt,
        },
    ),
}
ROWS = [(name, *pair) for name, scene in pairs.SCENES.items() for pair in pairs.pairs(scene)]


def records(wire, name):
    """What a server holds, by key."""
    return {entry.record.key: entry.record for entry in wire.servers[name].index.entries()}


def names(value):
    """A row's name in the output of pytest."""
    return "-".join(value.values()) if isinstance(value, dict) else None


@pytest.mark.parametrize(
    ("scene", "row", "acts", "later"),
    [(name, row, acts, later) for name, *row in ROWS for acts, later in pairs.orders(*row)],
    ids=names,
)
def test_two_servers_come_to_what_the_table_says(wire, scene, row, acts, later):
    """Done at both before either hears of the other: both end alike, with the values and the conflicts of the row."""
    begin, real = REAL[scene]
    begin(wire)
    wire.in_step()
    base = records(wire, "primary")
    after = {}
    for name in (wire.other(later), later):
        wire.clock.advance(1)
        real[acts[name]](wire, name)
        after[name] = records(wire, name)
    wire.in_step()
    expected = pairs.outcome(pairs.SCENES[scene], *row)
    assert [expected, expected] == [pairs.told(base, after, records(wire, name), later) for name in SERVERS]
    assert records(wire, "primary").keys() == records(wire, "secondary").keys()


def test_no_pair_is_missing():
    """Each act of a scene has its row with each act, itself among them; and each is done at real servers, too."""
    page = pairs.table_markdown()
    for name, scene in pairs.SCENES.items():
        _, _, part = page.partition(f"### Of {scene.title}\n")
        lines = [line.split(" | ") for line in part.partition("###")[0].splitlines() if line.startswith("| ")][1:]
        rows = {frozenset({cells[0].removeprefix("| "), cells[1]} - {"the same"}) for cells in lines}
        assert {frozenset(pair) for pair in combinations_with_replacement(scene.acts, 2)} == rows
        assert scene.acts.keys() == REAL[name][1].keys()
    assert pairs.SCENES.keys() == REAL.keys()
