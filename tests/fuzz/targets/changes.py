"""Changes: whatever the peer signs, in one mail or in several, a server takes it, goes on, and starts again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fuzz import grounds, mutate
from fuzz.target import Target
from fuzz.targets.mails import WORDS
from vmctl import mail_json, status
from vmctl.errors import BadAudio, BadValue, MailGarbage
from vmctl.mail_content import as_json, from_json
from vmctl.model import KINDS, Record, parse_key
from vmctl.post import DAEMON, Post
from vmctl.purge import Housekeeper
from vmctl.view import Epoch, View

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from wire import Wire

    from vmctl.mail import SyncMail

MORE = (
    *WORDS, "acks", "held", "wants", "missing", "lost", "answers", "orders", "views", "agreed", "proof", "groups", "settled", "passed", "pending", "parked", "last", "asks",
    "moves", "digest", "overwritten", "main", "verb", "by", "now", "reason", "id", "epoch", "serving", "state", "since", "cause", "number", "nonce", "before", "known", "known",
    "round", "verify", "mailbox/2001", "mailbox/2009", "message/2001/m-9", "settings", "callflow/new", "prompt/new", "greeting/2001/name", "conflict/x", "later/x", "audio", "text",
    "from", "name", "received", "status", "quota", "pin", "lists", "service", *grounds.LIVES.values(),
)  # fmt: skip
VERSION, BASE = "@version", "@base"  # stand for that of the record as it is, and for the one that the secondary has
_PLACE = re.compile(r"@(\d{1,4})([+-]\d{1,15})?", re.ASCII)
CHALLENGE = "@challenge"  # stands for one that the secondary has issued, so that the mail is fresh


def seeds() -> list[bytes]:
    """The mails of the primary of a network in use, some together, and one that says all that a status can say."""
    network = grounds.network()
    mails = [_plain(mail) for mail in network.mails if mail.sender == "primary"]
    rich = sorted(mails, key=lambda mail: -len(json.dumps(mail)))
    full = {
        **mails[-1],
        "status": {**mails[-1]["status"], **network.facts, **_more()},
        "request": {"round": "r1", "verify": "v1"},
    }
    chosen = ([rich[0]], rich[1:3], [mails[-1]], mails[-2:], [full], [full, mails[-1]])
    return [json.dumps(one, separators=(",", ":")).encode() for one in chosen]


def _more() -> dict[str, Any]:
    """What a status holds now and then."""
    service = next(iter(grounds.network().config.services))
    order = {"id": "o1", "verb": "failover", "by": "ada", "reason": "work", "now": False}
    view = View(service, "primary", "primary", "normal", Epoch(3, "primary"), 10**15, "silence")
    pause = grounds.network().facts["agreed"]["pause"]
    return {
        "views": {service: view.as_json()},
        "agreed": {"mode": {"mode": "active-standby", "number": 2, "server": "primary"}, "pause": pause},
        "acks": [["mailbox/2001", "0" * 32]],
        "held": [["mailbox/2001", "0" * 32, "it cannot be read"]],
        "wants": {"records": ["mailbox/2001"], "audio": [{"sha256": "0" * 64, "missing": [[0, 10]]}]},
        "lost": ["0" * 64],
        "answers": ["r0"],
        "orders": {service: order},
        "asks": [service],
        "moves": [],
        "promises": {service: 5.0},
        "proof": {"nonce": "v1", "digests": {"mailbox": "0" * 32}, "faults": {}},
        "groups": {"after": "", "upto": None, "of": {"mailbox/2001": "0" * 32}, "asks": True},
        "overwritten": 1,
        "behind": True,
        "relayed": True,
        "fit": True,
    }


def _plain(mail: SyncMail) -> dict[str, Any]:
    whole = as_json(mail)
    for audio, part in zip(mail.audio, whole["audio"], strict=True):
        part["data"] = audio.data.hex()
    records = [_unversioned(record) for record in whole["records"]]
    return _ranked({**whole, "records": records, "echo": CHALLENGE})


def _unversioned(record: dict[str, Any]) -> dict[str, Any]:
    base = record.get("base")
    return {**record, "version": VERSION, **({"base": {**base, "version": BASE}} if base else {})}


@functools.cache
def _numbers() -> list[int]:
    """Every reading of a clock in what the primary said, in order: inputs name them by their places here."""
    found: set[int] = set()
    for mail in grounds.network().mails:
        found |= {int(one) for one in re.findall(r"\b1\d{15}\b", json.dumps(as_json(mail)))}
    return sorted(found)


def _ranked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _ranked(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_ranked(one) for one in value]
    return f"@{_numbers().index(value)}" if type(value) is int and value in _numbers() else value


def _real(value: Any) -> Any:
    """The same with the numbers of this process in it."""
    if isinstance(value, dict):
        return {name: _real(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_real(one) for one in value]
    if isinstance(value, str) and (place := _PLACE.fullmatch(value)):
        numbers = _numbers()
        return numbers[min(int(place[1]), len(numbers) - 1)] + int(place[2] or 0)
    return value


def change(data: bytes, chance: Random, longest: int) -> bytes:
    """Another list of mails."""
    try:
        mails = json.loads(data)
        if isinstance(mails, list) and len(mails) < 4 and chance.random() < 0.1:
            return json.dumps(mutate.of_pieces(mails, chance), separators=(",", ":")).encode()[:longest]
    except (ValueError, RecursionError):
        pass
    return mutate.of_json_bytes(data, chance, longest, (), MORE)


def run(data: bytes) -> None:
    """A server at work takes the mails; its roles turn, it scans, answers, tells its status, keeps house, starts again."""
    told = list(_mails(data))
    if not told:
        return
    with grounds.disk_in_memory():
        wire = grounds.network().again()
        wire.b.close()
        store = wire.config.servers["secondary"].store
        assert store is not None
        with _post(wire) as post:
            post.start()
            faults = _unreadable(post)
            for mail in told:
                _tell(wire, post, mail)
                _turn(wire, post)
            new = {path: why for path, why in _unreadable(post).items() if path not in faults}
            named = {
                post.replica.store.path(record["key"]) for mail in told for record in mail.records if _has_file(record)
            }
            named.add("vmctl:clock")  # mails that were kept are older each day
            assert new.keys() <= named, f"what the peer said of others made files that cannot be read: {new}"
            digest = post.replica.index.digest
            _tell(wire, post, told[-1])
            assert post.replica.index.digest == digest, "a mail that came twice changed something the second time"
            Housekeeper(post.replica).run()
        wire.open("secondary")
        wire.desk().create_mailbox("2009", {"name": "Cy"})
        wire.exchange(8)
        assert "2009" in wire.b.store.names("mailbox"), "a mailbox made after it did not come through"
        _nothing_outside(store)


def _post(wire: Wire) -> Post:
    return Post(wire.config, "secondary", wire.clock, role=DAEMON, wake=lambda: None)


def _mails(data: bytes) -> Iterator[SyncMail]:
    """Those of the mails that a signed one can hold; the rest is for the target `mail`."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return
    for value in whole[:3] if isinstance(whole, list) else ():
        mail = _mail(value)
        if mail is not None:
            yield mail


def _mail(value: Any) -> SyncMail | None:
    try:
        contents = {}
        parts = value.get("audio")
        for part in parts if isinstance(parts, list) else ():
            found = (
                bytes.fromhex(part.pop("data")) if isinstance(part, dict) and isinstance(part.get("data"), str) else b""
            )
            contents[hashlib.sha256(found).hexdigest()] = found
        network = grounds.network().config.network
        value = _real(value)
        value["records"] = [_versioned(record) for record in value["records"]]
        said = {**value, "network": network, "sender": "primary", "recipient": "secondary"}
        mail = from_json(mail_json.loads(mail_json.dumps(said)), contents)
        grounds.compose(mail)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, MailGarbage, BadValue, BadAudio):
        return None
    return mail


def _versioned(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    made = dict(record)
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        if made.get("version") == VERSION:
            made["version"] = Record.from_json(made["key"], made).version
        base = made.get("base")
        if isinstance(base, dict) and base.get("version") == BASE:
            made["base"] = {**base, "version": _held().get(made["key"], "none")}
    return made


@functools.cache
def _held() -> dict[str, str]:
    """The versions that the secondary has before anything is told."""
    wire = grounds.network().again()
    keys = {record["key"] for mail in grounds.network().mails for record in mail.records}
    return {key: entry.record.version for key in keys if (entry := wire.b.index.get(key)) is not None}


def _tell(wire: Wire, post: Post, mail: SyncMail) -> None:
    if mail.echo == CHALLENGE:
        with post.replica.locked(), post.replica.index.transaction():
            mail = replace(mail, echo=post.replica.contact.challenge())
        wire.clock.advance(0.01)
    post.replica.receive(grounds.compose(mail))
    post.take()
    assert not post.replica.spool.waiting(), "a mail stayed in the spool"
    refused = post.replica.spool.refused()
    assert not refused, f"a mail was refused whole: {post.replica.spool.why(refused[0])}"


def _turn(wire: Wire, post: Post) -> None:
    wire.clock.advance(1.5)
    post.tick(automatic=True)
    assert post.journal_trouble is None, post.journal_trouble
    post.replica.scan(full=True)
    for parcel in post.parcels(always=True):
        assert len(parcel.raw) <= wire.config.mail.max
        post.replica.outbox.left(parcel)
    _ = (post.in_step, post.stuck, post.peer_todo, post.note_step())
    post.answers()
    json.dumps(status.gather(wire.config, wire.clock), allow_nan=False).encode()
    assert not post.replica.journal.verify()


def _unreadable(post: Post) -> dict[str, str]:
    post.replica.scan(full=True)
    found = {fault["path"]: fault["why"] for fault in post.replica.index.faults.all()}
    return {path: why for path, why in found.items() if not path.startswith("vmctl:")}  # such as a clock that is off


def _has_file(record: dict[str, Any]) -> bool:
    with contextlib.suppress(ValueError):
        return parse_key(record["key"]).kind in KINDS
    return False


def _nothing_outside(store: Path) -> None:
    there = {path.name for path in store.parent.iterdir()}
    assert there <= _NEIGHBOURS | {"probe"}, f"something was made outside of the store: {there - _NEIGHBOURS}"
    for path in store.rglob("*"):
        assert not path.is_symlink(), path
    assert {path.name for path in store.iterdir()} <= _INSIDE, "something was made that no store has"


_NEIGHBOURS = {"vmctl.yaml", "keys", "primary", "secondary", ".gitignore", "README.md"}
_INSIDE = {".vmctl", "settings.yaml", "callflows", "prompts", "mailboxes"}

CHANGES = Target("changes", "the JSON of signed mails, taken by a server at work", run, seeds, change)
