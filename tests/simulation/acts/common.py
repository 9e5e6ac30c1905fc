"""What acts share: recordings, what a store shows, and how a command is given and told to the ledger."""

import functools
import hashlib
import io
import random
import wave

from simulation.files import has_file, is_there
from simulation.learning import dropped_in
from simulation.ledger import ABSENT

BOXES = ("200", "201", "202")
FLOWS = ("day", "night")
REFUSED = {"NotFound", "AlreadyExists", "BadValue"}  # what a command says that has done nothing


@functools.lru_cache(maxsize=256)
def tone(seed, frames):
    """The bytes of a WAV: 8000 Hz, 8 bit."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(8000)
        out.writeframes(random.Random(seed).randbytes(frames))
    return file.getvalue()


def sound(world):
    """A new recording: mostly short, of odd sizes, and now and then one that needs several mails."""
    frames = world.chance.choice((1, 37, 400, 401, 2000, 120_000 if world.profile.narrow else 9001))
    return tone(world.number(), frames)


def source(world, data):
    """A recording as a file outside of the stores."""
    path = world.directory / "source.wav"
    path.write_bytes(data)
    return path


def sha(data):
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def boxes(world, name):
    """The mailboxes that a server's store shows."""
    folder = world.machines[name].root / "mailboxes"
    return sorted(path.parent.name for path in folder.glob("*/mailbox.yaml"))


def messages(world, name):
    """Mailbox and id of the messages that a server's store shows."""
    folder = world.machines[name].root / "mailboxes"
    return sorted((path.parent.parent.name, path.stem) for path in folder.glob("*/messages/*.json"))


def ordered(world, name, words, keys, call, note, *, reads=None):
    """A command: what it did counts if it said so, or if the index says so after a failure. `note` tells the ledger.

    `reads` are the keys whose files it takes in first; all of them, if nothing is said.
    """
    if not world.start(name):
        return f"{words}: {name} is down"
    before = world.versions(name, keys)
    doubtful = any(key in world.hand[name] or key in world.dropped[name] for key in keys)
    saved = [
        key for key in (keys if reads is None else reads) if key in world.hand[name] and is_there(world.hand[name][key])
    ]
    if world.chance.random() < 0.2:  # a process of its own beside the daemon

        def do():
            with world.command(name) as desk:
                call(desk)
    else:

        def do():
            call(world.desk(name))

    end = world.product(name, do)
    found = {key for key in keys if key in world.dropped[name]}
    for key in world.versions(name, found) if found else ():  # the command took it in before it changed it
        how = world.dropped[name].pop(key)
        dropped_in(world.ledger, name, key, how["writes"])
    if end == "ok":
        _taken_before(world, name, saved)
        note(maybe=False, keys=keys)
    else:
        after = world.versions(name, keys)
        _taken_before(world, name, [key for key in saved if before.get(key) != after.get(key)])
        done = [key for key in keys if before.get(key) != after.get(key)]
        if done and end not in REFUSED:  # else what changed is what the command looked at
            note(maybe=doubtful, keys=done)
        else:
            note(maybe=None, keys=keys)
    return f"{words}: {end}"


def _taken_before(world, name, keys):
    """A command first takes in what a person saved into the file."""
    for key in keys:
        hand = world.hand[name].pop(key, None)
        if hand is not None:
            world.ledger.note(
                name, key, "edit", keeps=True, writes=hand["writes"], seen=hand["seen"], maybe=hand.get("loose", False)
            )


def simple(world, name, what, **how):
    """Tells the ledger of one act for each key that was changed."""

    def note(*, maybe, keys):
        if maybe is not None:
            for key in keys:
                world.ledger.note(name, key, what, maybe=maybe, **how)

    return note


def by_outcome(world, name, what, before, *, sets=()):
    """Tells the ledger what an order did, by the documents before and after.

    `sets` are the (key, field) that it sets whatever their values were: also to what they are.
    """
    for key, hand in world.hand[name].items():  # taken in first
        if key in before and is_there(hand):
            values = before[key] | hand["writes"]
            before[key] = {field: value for field, value in values.items() if value != ABSENT}
    there = {
        key for key in world.ledger.keys() if has_file(world, name, key, tombs=False)
    }  # a new index may not know of it yet

    def note(*, maybe, keys):
        for key in sorted(keys, key=lambda key: key.startswith("mailbox/")) if maybe is not None else ():
            was, now = before.get(key), world.documents(name, [key]).get(key)
            anyhow = {field for other, field in sets if other == key and now is not None}
            gone = now is None and key in there and not has_file(world, name, key, tombs=False)
            if was == now and not anyhow and not gone:
                continue
            values, former = now or {}, was or {}
            changed = {field for field in values.keys() | former.keys() if values.get(field) != former.get(field)}
            changed |= anyhow
            if was is None:  # it is as it is now in every field, whatever was known of it
                changed |= world.ledger.fields(key, name)
            writes = {field: values.get(field, ABSENT) for field in changed} if now is not None else {}
            keeps = now is not None and (
                was is None or not key.startswith("message/") or writes.get("status") == "saved"
            )
            world.ledger.note(name, key, what, keeps=keeps, deletes=now is None, writes=writes, maybe=maybe)

    return note
