"""What a peer that is not as it should be signs: one value of it stops nothing else, now or at the next start."""

import dataclasses
import json
from contextlib import suppress

import pytest

from vmctl import writing
from vmctl.clock import HIGHEST
from vmctl.errors import MailGarbage
from vmctl.mail import Audio
from vmctl.undo import Undo


@pytest.fixture
def filled(wire):
    """The primary has settings, a callflow, a mailbox and a message; the secondary has nothing yet."""
    desk = wire.desk()
    desk.create_mailbox("2001", {"name": "Ada"})
    (wire.root() / "settings.yaml").write_text("x:\n  y: 1\n")
    (wire.root() / "callflows/main.yaml").write_text("a: 1\n")
    wire.scan()
    return wire


def deliver_altered(wire, monkeypatch, alter):
    """All that the primary has to say reaches the secondary, altered before it was signed."""
    compose = writing.compose
    with monkeypatch.context() as patch:
        patch.setattr(writing, "compose", lambda mail, **how: compose(alter(mail), **how | {"records": None}))
        wire.send("primary", always=True)
    wire.deliver()


def with_records(kind, change):
    """Alters the records of one kind in a mail."""

    def alter(mail):
        records = [change(one) if one["key"].startswith(kind) else one for one in mail.records]
        return dataclasses.replace(mail, records=records)

    return alter


def goes_on(wire):
    """Nothing of the secondary stands still: it takes, scans, ships everything anew, and starts again."""
    wire.exchange(6)
    wire.scan("secondary", full=True)
    with wire.b.index.transaction():
        wire.b.index.forget_bases()
    wire.b.outbox.forget_sent()
    wire.exchange(6)
    wire.crash("secondary")
    wire.desk().create_mailbox("2009", {})
    wire.exchange(6)
    assert ([], []) == (wire.b.spool.waiting(), wire.b.spool.refused())
    assert "2009" in wire.b.store.names("mailbox")


def field(name, value):
    """A record with another field, set when another one of it was."""

    def change(record):
        at = next(iter(record["fields"].values()))["at"]
        return record | {"fields": record["fields"] | {name: {"is": value, "at": at}}}

    return change


def stamped(at):
    """A record whose fields were all set at a time."""
    return lambda record: (
        record | {"fields": {name: one | {"at": [at, *one["at"][1:]]} for name, one in record["fields"].items()}}
    )


def nested(depth):
    """A list in a list, and so on."""
    return [nested(depth - 1)] if depth else 1


HALF = "\ud800"  # half a character
RECORDS = {
    "half a character in a mailbox": ("mailbox", field("name", HALF)),
    "half a character as a field": ("mailbox", field(HALF, 1)),
    "half a character in a callflow": ("callflow", field("text", HALF)),
    "half a character in settings": ("settings", field("x.z", HALF)),
    "half a character in a message": ("message", field("from", HALF)),
    "half a character as a key": ("mailbox", lambda record: record | {"key": f"mailbox/{HALF}"}),
    "half a character as a version": ("mailbox", lambda record: record | {"version": HALF}),
    "half a character in a vector": ("mailbox", lambda record: record | {"vector": {HALF: 1}}),
    "deeper than YAML is read": ("mailbox", field("name", nested(50))),
    "a callflow that is no text": ("callflow", field("text", [5])),
    "a status that is none": ("message", field("status", {"a": [1]})),
    "a recording larger than SQLite counts": ("message", field("audio", {"sha256": "a" * 64, "size": 10**30, "format": "wav"})),
    "a change of the year 2255": ("mailbox", lambda record: record | {"vector": {"primary-a": 2**53 - 1}}),
    "a value set in the year 2255": ("mailbox", stamped(2**53 - 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDS)
def test_a_strange_record_stops_nothing(filled, recording, monkeypatch, case):
    """It is taken, held back or named; all other records come, and so does what is done after it."""
    filled.desk().leave("2001", recording())
    kind, change = RECORDS[case]
    deliver_altered(filled, monkeypatch, with_records(kind, change))
    goes_on(filled)
    edit = "settings.yaml" if kind != "settings" else "callflows/main.yaml"
    assert (filled.root("secondary") / edit).exists()


def test_a_record_that_no_file_can_show_is_named(filled, monkeypatch):
    """It is kept and merged, its file waits, and says why; a value that can be written ends it."""
    deliver_altered(filled, monkeypatch, with_records(*RECORDS["deeper than YAML is read"]))
    (fault,) = [one for one in filled.b.index.faults.all() if one["path"] == "mailboxes/2001/mailbox.yaml"]
    assert "mailbox/2001 cannot be written" in fault["why"]
    assert not filled.b.applier.unfinished
    filled.desk().set_mailbox("2001", {"name": "Bob"})
    filled.in_step()
    assert "Bob" == filled.b.store.document("mailbox/2001")["name"]


CONFLICT = {
    "record": "mailbox/2001", "field": None, "won": {"is": "kept", "at": [1, "a", 1]},
    "lost": {"is": "deleted", "at": [1, "a", 1]},
}  # fmt: skip


@pytest.mark.parametrize(
    "change", [{}, {"record": "no/such kind"}, {"field": [5]}, {"won": 5}, {"lost": {"is": 1}}, {"lost": None}]
)
def test_a_conflict_that_nobody_can_show_is_held_back(filled, monkeypatch, change):
    """What is listed can be shown and taken back; anything else is named to the peer, and all other conflicts show."""
    document = CONFLICT | change

    def altered(record):
        at = next(iter(record["fields"].values()))["at"]
        fields = {name: {"is": value, "at": at} for name, value in document.items()}
        return record | {"key": "conflict/c1", "fields": fields}

    deliver_altered(filled, monkeypatch, with_records("mailbox", altered))
    listed = Undo(filled.b, filled.desk("secondary")).listed()
    assert ([] if change else ["conflict/c1"]) == [record.key for record in listed]
    held = filled.b.index.shelf.holds(5)
    assert (["conflict/c1"] if change else []) == [row[0] for row in held]
    goes_on(filled)


MAILS = {
    "an incarnation that is no name": lambda mail: {"incarnation": 'primary-"x'},
    "a checkpoint that is no number": lambda mail: {"checkpoint": mail.checkpoint | {"number": "x", "before": []}},
    "checkpoints before it that are none": lambda mail: {
        "checkpoint": mail.checkpoint | {"before": "x", "since": -(2**70), "known": {"x": 5}}
    },
    "an echo of nothing": lambda mail: {"echo_checkpoint": {"incarnation": [5], "checkpoints": [5]}},
    "an echo of nonsense": lambda mail: {
        "echo_checkpoint": {
            "incarnation": mail.peer_incarnation,
            "checkpoints": [5, [2**70, "x", 5], [5, "x", -(2**70)]],
        }
    },
    "acks of half a character": lambda mail: {"status": mail.status | {"acks": [[5, [6]], ["x", 5]]}},
    "numbers that nobody counts to": lambda mail: {
        "status": mail.status | dict.fromkeys(("last", "settled", "passed", "pending", "todo", "overwritten"), 10**30)
    },
    "a piece that lies where no file reaches": lambda mail: {
        "audio": [Audio(sha256="b" * 64, size=2**53 - 1, offset=2**53 - 5, data=b"abcd", format="wav", filename="x")]
    },
}


@pytest.mark.parametrize("case", MAILS)
def test_a_strange_mail_stops_nothing(filled, monkeypatch, case):
    """Neither when it comes, nor when one of the life that it named comes again later, nor after a start."""
    filled.exchange()
    filled.desk().set_mailbox("2001", {"name": "Bob"})
    with suppress(MailGarbage):  # refused at the door: the peer's server is told so
        deliver_altered(filled, monkeypatch, lambda mail: dataclasses.replace(mail, **MAILS[case](mail)))
    filled.exchange(6)
    with suppress(MailGarbage):
        deliver_altered(filled, monkeypatch, lambda mail: dataclasses.replace(mail, **MAILS[case](mail)))
    goes_on(filled)


def test_a_message_s_file_of_centuries_ahead_is_named(filled, recording):
    """What its `sync` part says would carry this server's own numbers to where nobody reads them."""
    ident = filled.desk().leave("2001", recording())
    path = filled.root() / f"mailboxes/2001/messages/{ident}.json"
    value = json.loads(path.read_bytes())
    value["sync"]["vector"]["elsewhere-1"] = HIGHEST + 1
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").rename(path)
    filled.scan()
    (fault,) = [one for one in filled.a.index.faults.all() if one["path"].endswith(f"{ident}.json")]
    assert "2219" in fault["why"]
    filled.desk().set_mailbox("2001", {"name": "Bob"})
    filled.exchange(6)
    assert "Bob" == filled.b.store.document("mailbox/2001")["name"]
