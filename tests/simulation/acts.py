"""What can happen: one small function an act. Each draws from `world.chance` only, and tells the ledger what it did.

An act takes the world and the name of a server, and gives a few words for the story. Register a new one with `@act`;
`kind` is what a profile enables or leaves out as a whole.
"""

import errno
import functools
import hashlib
import io
import json
import os
import random
import shutil
import wave

from vmctl.clock import rfc3339
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.model import ABSENT as GONE
from vmctl.model import parse_key
from vmctl.overwrite import remember, set_back
from vmctl.purge import Housekeeper
from vmctl.undo import Undo

from .files import has_file, is_there, is_torn, read_document, yaml_text
from .learning import dropped_in, learn
from .ledger import ABSENT, Violation, plain
from .world import NAMES, SETTLE

ACTS = {}
BOXES = ("200", "201", "202")
GREETING_NAMES = ("busy", "name")
FLOWS = ("day", "night")
REFUSED = {"NotFound", "AlreadyExists", "BadValue"}  # what a command says that has done nothing
BIRTHS = ("leave", "dropped in")  # of messages, as acts
SERVICE = "voicemail"  # which the config names, and every new mailbox gets


class Deed:
    """An act, how often it comes, and the kind of trouble that it belongs to."""

    def __init__(self, do, kind, weight):
        self.do, self.kind, self.weight = do, kind, weight
        self.name = do.__name__


def act(kind, weight=1.0):
    """Register an act."""

    def register(do):
        ACTS[do.__name__] = Deed(do, kind, weight)
        return do

    return register


# What acts share


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


# Callers and users


@act("use", 4)
def leave(world, name):
    """A caller leaves a message."""
    there = boxes(world, name) if world.machines[name].post else []
    if not there:
        return make_mailbox(world, name)
    box = world.chance.choice(there)
    data = sound(world)
    path = source(world, data)
    ident = f"m{world.number()}"
    key = f"message/{box}/{ident}"
    fields = {"status": "new", "audio": sha(data)}

    def note(*, maybe, keys):
        file = world.machines[name].root / f"mailboxes/{box}/messages/{ident}.json"
        if maybe is None and not file.exists():
            return
        world.ledger.note(name, key, "leave", keeps=True, writes=fields, maybe=maybe is not False)

    call = lambda desk: desk.leave(box, path, ident=ident)  # noqa: E731
    return ordered(world, name, f"leave {key} ({len(data)} bytes)", [key], call, note)


def _some_message(world, name):
    there = messages(world, name)
    return world.chance.choice(there) if there and world.machines[name].post else None


@act("use", 2)
def mark(world, name):
    """A user listens to a message, or saves it."""
    found = _some_message(world, name)
    if found is None:
        return "mark: nothing is there"
    box, ident = found
    status = world.chance.choice(("new", "old", "saved", "saved"))
    key = f"message/{box}/{ident}"
    note = simple(world, name, f"mark {status}", keeps=status == "saved", writes={"status": status})
    return ordered(world, name, f"mark {key} {status}", [key], lambda desk: desk.mark(box, ident, status), note)


@act("use", 2)
def delete(world, name):
    """A user deletes a message."""
    found = _some_message(world, name)
    if found is None:
        return "delete: nothing is there"
    box, ident = found
    key = f"message/{box}/{ident}"
    note = simple(world, name, "delete", deletes=True)
    return ordered(world, name, f"delete {key}", [key], lambda desk: desk.delete_message(box, ident), note)


@act("use", 1)
def restore(world, name):
    """A user wants a deleted message back."""
    keys = [key for key in world.ledger.keys("message/") if world.ledger.must_be_gone(key, [name])]
    if not keys or not world.start(name):
        return "restore: nothing is deleted"
    key = world.chance.choice(keys)
    _, box, ident = key.split("/")
    both = [key, f"mailbox/{box}"]
    note = simple(world, name, "restore", keeps=True)
    before = world.versions(name, both)

    def noted(*, maybe, keys):
        if maybe is False:  # the mailbox only if it was deleted
            after = world.versions(name, both)
            keys = [one for one in both if before.get(one) != after.get(one)]
        note(maybe=maybe, keys=keys)

    call = lambda desk: desk.restore_message(box, ident)  # noqa: E731
    return ordered(world, name, f"restore {key}", both, call, noted, reads=())


# Mailboxes, settings, callflows, greetings


@act("records", 1)
def make_mailbox(world, name):
    """A mailbox is made, or made again."""
    box = world.chance.choice(BOXES)
    key = f"mailbox/{box}"
    document = {"name": f"n{world.number()}", "quota": 1000 + world.number()}
    known = dict.fromkeys(world.ledger.fields(key, name), ABSENT)
    note = simple(world, name, "create", keeps=True, writes=known | document | {"service": SERVICE})
    return ordered(world, name, f"create {key}", [key], lambda desk: desk.create_mailbox(box, dict(document)), note)


@act("records", 2)
def set_mailbox(world, name):
    """A field of a mailbox is set."""
    there = boxes(world, name)
    if not there:
        return make_mailbox(world, name)
    box = world.chance.choice(there)
    key = f"mailbox/{box}"
    field = world.chance.choice(("name", "quota", "email"))
    value = {"name": f"n{world.number()}", "quota": 1000 + world.number(), "email": f"e{world.number()}@example.com"}[
        field
    ]
    if field == "email" and world.chance.random() < 0.3:
        value = ABSENT
    change = {field: GONE if value == ABSENT else value}

    def note(*, maybe, keys):
        writes = {} if value == ABSENT and field not in world.ledger.fields(key, name) else {field: value}
        simple(world, name, f"set {field}", keeps=True, writes=writes)(maybe=maybe, keys=keys)

    return ordered(world, name, f"set {key} {field}={value}", [key], lambda desk: desk.set_mailbox(box, change), note)


@act("records", 0.5)
def delete_mailbox(world, name):
    """A mailbox is deleted with all that is in it."""
    there = boxes(world, name)
    if not there or not world.start(name):
        return "delete mailbox: nothing is there"
    box = world.chance.choice(there)
    inside = [
        entry.record.key
        for entry in world.machines[name].index.in_mailbox(box)
        if entry.record.lives and entry.shown is not None
    ]
    keys = [*inside, f"mailbox/{box}"]
    shown = {key: world.shown(name, key) for key in keys}  # where a file lags behind, only what it shows was seen
    known = {key: set(world.ledger.know(name, key)) for key in keys}
    loose = {key for key in keys if world.hand[name].get(key, {}).get("loose") or _says_all(world, name, key)}

    def note(*, maybe, keys):
        if maybe is not None:
            for key in keys:
                world.ledger.note(
                    name,
                    key,
                    "delete mailbox",
                    deletes=True,
                    maybe=maybe,
                    seen=shown[key] | (world.ledger.know(name, key) - known[key]),
                    also=known[key] if key in loose else (),
                )

    return ordered(world, name, f"delete mailbox/{box} with {len(inside)}", keys, lambda d: d.delete_mailbox(box), note)


def _says_all(world, name, key):
    """Whether a file says all that its record does although it lags behind, or a person's edit was not judged yet."""
    entry = world.machines[name].index.get(key)
    if entry is None or not entry.shown:
        return False
    return entry.shown.document == entry.record.document and (entry.todo or key in world.hand[name])


@act("records", 1)
def set_setting(world, name):
    """A setting is set."""
    field = world.chance.choice(("defaults.language", "voice.volume", "voice.speed"))
    value = f"v{world.number()}"
    gone = world.ledger.must_be_gone("settings", [name])  # made anew: none of what was there before comes back
    known = dict.fromkeys(world.ledger.fields("settings", name), ABSENT) if gone else {}
    note = simple(world, name, f"set {field}", keeps=True, writes=known | {field: value})
    return ordered(world, name, f"set {field}={value}", ["settings"], lambda d: d.set_settings({field: value}), note)


@act("records", 1)
def set_callflow(world, name):
    """A callflow is put."""
    flow = world.chance.choice(FLOWS)
    text = f"steps: {world.number()}\n"
    note = simple(world, name, "put", keeps=True, writes={"text": text})
    call = lambda desk: desk.set_callflow(flow, text)  # noqa: E731
    return ordered(world, name, f"callflow {flow} {text.strip()}", [f"callflow/{flow}"], call, note)


@act("records", 0.4)
def delete_callflow(world, name):
    """A callflow is deleted."""
    flow = world.chance.choice(FLOWS)
    note = simple(world, name, "delete", deletes=True)
    call = lambda desk: desk.delete_callflow(flow)  # noqa: E731
    return ordered(world, name, f"delete callflow {flow}", [f"callflow/{flow}"], call, note)


@act("records", 1)
def set_greeting(world, name):
    """A greeting is recorded."""
    there = boxes(world, name)
    if not there:
        return make_mailbox(world, name)
    box, which = world.chance.choice(there), world.chance.choice(GREETING_NAMES)
    data = sound(world)
    path = source(world, data)
    note = simple(world, name, "record", keeps=True, writes={"audio": sha(data)})
    call = lambda desk: desk.set_greeting(box, which, path)  # noqa: E731
    return ordered(world, name, f"greeting {box}/{which}", [f"greeting/{box}/{which}"], call, note)


@act("records", 0.4)
def delete_greeting(world, name):
    """A greeting is deleted."""
    there = boxes(world, name)
    if not there:
        return "delete greeting: no mailbox"
    box, which = world.chance.choice(there), world.chance.choice(GREETING_NAMES)
    note = simple(world, name, "delete", deletes=True)
    call = lambda desk: desk.delete_greeting(box, which)  # noqa: E731
    return ordered(world, name, f"delete greeting {box}/{which}", [f"greeting/{box}/{which}"], call, note)


@act("records", 0.5)
def set_prompt(world, name):
    """A prompt is put."""
    data = sound(world)
    path = source(world, data)
    note = simple(world, name, "record", keeps=True, writes={"audio": sha(data)})
    return ordered(world, name, "prompt menu", ["prompt/menu"], lambda desk: desk.set_prompt("menu", path), note)


# The main path


@act("path", 6)
def turn(world, name):
    """One turn of a server's loop."""
    how = {"scan": world.chance.random() < 0.8, "send": world.chance.random() < 0.8}
    how |= {"full": world.chance.random() < 0.1, "anew": world.chance.random() < 0.15}
    return f"turn of {name}: {world.turn(name, **how)}"


@act("path", 3)
def mail(world, name):
    """What is under way arrives, and both speak."""
    ends = []
    world.network.deliver_due()
    for one in (name, world.other(name)):
        ends.append(world.turn(one, scan=False, always=True))
    return f"mail: {ends}"


@act("path", 2)
def look(world, name):
    """Two scans, the second after everything has stood still."""
    ends = [world.turn(name, send=False)]
    world.now += int((SETTLE + 0.05) * 1e6)
    ends.append(world.turn(name, send=False, full=world.chance.random() < 0.2, accept=world.chance.random() < 0.3))
    return f"look at {name}: {ends}"


@act("path", 2)
def wait(world, _name):
    """Time passes."""
    seconds = world.chance.choice((0.001, 0.3, 1.1, 3, 40, 4000, 90_000))
    world.now += int(seconds * 1_000_000)
    return f"{seconds} s pass; {world.network.deliver_due()} mails arrive"


# Faults


@act("crash", 2)
def crash(world, name):
    """The process of a server is killed between two steps, or the power goes."""
    if world.machines[name].post is None:
        return "crash: it is down"
    world.crash(name, power=world.chance.random() < world.profile.power)
    return f"crash of {name}"


@act("crash", 5)
def crash_within(world, name):
    """The process of a server is killed at some step of what it does."""
    return within(world, name, world.chance.choice(PRODUCT))


def within(world, name, what):
    """An act whose process is killed at a step that chance gives."""
    side = world.machines[name].side
    if world.machines[name].post is None and not world.start(name):
        return "crash within: it is down"
    steps = world.chance.choice((3, 8, 20, 60))
    side.crash_at = side.steps + world.chance.randrange(1, steps)
    try:
        words = ACTS[what].do(world, name)
    finally:
        if side.crash_at is not None:
            side.crash_at = None
    return f"crash within {words}"


PRODUCT = (
    "turn", "turn", "turn", "mail", "mail", "look", "leave", "mark", "delete", "restore", "set_mailbox",
    "make_mailbox", "delete_mailbox", "set_greeting", "set_callflow", "set_setting", "start",
)  # fmt: skip


@act("crash", 2)
def start(world, name):
    """A server starts."""
    return f"start of {name}: {world.start(name)}"


@act("disk", 1.5)
def sick_disk(world, name):
    """The disk of a server is full, read-only or broken, for a few steps or for a while."""
    side = world.machines[name].side
    side.fault = world.chance.choice((errno.ENOSPC, errno.ENOSPC, errno.EROFS, errno.EIO))
    side.fault_steps = world.chance.choice((1, 2, 5, None))
    world.count("disk " + errno.errorcode[side.fault])
    return f"the disk of {name} says {errno.errorcode[side.fault]} ({side.fault_steps or 'until it is mended'})"


@act("disk", 1.5)
def mend_disk(world, name):
    """The disk of a server is well again."""
    world.machines[name].side.fault = None
    return f"the disk of {name} is mended"


@act("net", 1)
def partition(world, name):
    """Mail of a server does not arrive any more; or that of both."""
    which = {name} if world.chance.random() < 0.4 else set(NAMES)
    world.network.blocked |= which
    world.count("partition")
    return f"mail of {sorted(which)} is cut"


@act("net", 1.5)
def heal(world, _name):
    """The network is whole again."""
    world.network.blocked.clear()
    return "the network is whole"


@act("clock", 1)
def jump(world, name):
    """The wall clock of a server is set."""
    clock = world.machines[name].clock
    seconds = world.chance.choice((-3600, -2, 2, 90, 86_400, -86_400, 3 * 365 * 86_400))
    clock.offset += seconds * 1_000_000
    world.count("clock jump")
    return f"the clock of {name} jumps by {seconds} s"


# People and applications at the files


def _mailbox_file(world, name):
    there = [box for box in boxes(world, name) if f"mailbox/{box}" not in world.removed[name]]
    if not there:
        return None
    box = world.chance.choice(there)
    return f"mailbox/{box}", world.machines[name].root / f"mailboxes/{box}/mailbox.yaml"


def _callflow_file(world, name):
    there = sorted((world.machines[name].root / "callflows").glob("*.yaml"))
    there = [path for path in there if f"callflow/{path.stem}" not in world.removed[name]]
    path = world.chance.choice(there) if there else None
    return path and (f"callflow/{path.stem}", path)


@act("hand", 2)
def edit(world, name):
    """A person edits a mailbox, a callflow or the settings."""
    key, path, document, change = _edit(world, name)
    if key is None:
        return "edit: nothing is there"
    how = world.chance.choice(("replace", "inplace"))
    sync = world.chance.random() < 0.6
    _edited(world, name, key, path, document, change, how, sync)
    return f"edit of {key} at {name}: {change} ({how}{', synced' if sync else ''})"


def _edit(world, name):
    nothing = (None, None, None, None)
    if world.machines[name].unmounted:
        return nothing
    which = world.chance.choice(("mailbox", "mailbox", "settings", "callflow"))
    root = world.machines[name].root
    if which == "mailbox":
        found = _mailbox_file(world, name)
        if found is None:
            return nothing
        (key, path), field = found, world.chance.choice(("name", "quota", "email"))
        values = {
            "name": f"n{world.number()}",
            "quota": 1000 + world.number(),
            "email": f"e{world.number()}@example.com",
        }
        change = {field: values[field]}
    elif which == "settings":
        key, path = "settings", root / "settings.yaml"
        change = {world.chance.choice(("defaults.language", "voice.volume")): f"v{world.number()}"}
    else:
        flow = world.chance.choice(FLOWS)
        key, path = f"callflow/{flow}", root / f"callflows/{flow}.yaml"
        change = {"text": f"steps: {world.number()}\n"}
    if key in world.removed[name]:
        return nothing
    before = read_document(path) if path.exists() else {}
    if before is None or (key in world.hand[name] and is_torn(world.hand[name][key])):
        return nothing
    return key, path, before | change, change


def _edited(world, name, key, path, document, change, how, sync):
    new = not path.exists()
    if not new and world.is_unnoted(name, key):  # it may have been put there just before a crash, or by somebody else
        for field, was in (read_document(path) or {}).items():
            world.ledger.note(name, key, "saved with it", writes={field: was}, maybe=True, keeps=True)
    text = yaml_text(key, document)
    pending = world.hand[name].get(key)
    if pending is not None and not is_there(pending):  # a power cut took it before anybody had read it
        pending = pending["former"]
    old = pending["old"] if pending else path.read_bytes() if path.exists() else None
    seen = pending["seen"] if pending else world.shown(name, key) | _evident(world, name, key, path)
    world.disk.put(path, text, how, sync=sync)
    writes = (pending["writes"] if pending else {}) | change
    anew = set(pending["anew"]) if pending else set()
    if new and not world.ledger.must_live(key, [name]):  # else what lives and has no file yet is only added to
        anew |= set(world.ledger.fields(key, name))
        writes = dict.fromkeys(anew, ABSENT) | writes
    synced = sync and (pending is None or pending["sync"])
    world.hand[name][key] = {
        "seen": seen,
        "writes": writes,
        "path": path,
        "sync": synced,
        "power": False,
        "text": text,
        "old": old,
        "former": pending if pending and pending["sync"] else None,
        "anew": anew - change.keys(),
    }
    world.hand[name][key]["loose"] = bool(pending and pending.get("loose"))


def _evident(world, name, key, path):
    """The acts whose values a file shows, whatever a crash left undone, and what those had seen."""
    document = read_document(path) if path.exists() else None
    there = [
        act
        for act in world.ledger.of(world.ledger.know(name, key))
        if act.writes and document and all(plain(document.get(field, ABSENT)) == value for field, value in act.writes)
    ]
    return {number for act in there for number in {act.number, *act.seen}}


@act("hand", 0.7)
def half_an_edit(world, name):
    """A person's editor has written half of a file; a scan looks at it; then the editor writes the rest."""
    key, path, document, change = _edit(world, name)
    if key is None or key == "settings":
        return "half an edit: nothing is there"
    text = yaml_text(key, document)
    world.disk.put(path, text[: world.chance.randrange(len(text))] + b"\n", "inplace", sync=False)
    pending = world.hand[name].pop(key, None)  # what was saved before is in the new text, too
    end = world.turn(name, send=False)
    if pending is not None:
        world.hand[name][key] = pending
    _edited(world, name, key, path, document, change, "inplace", sync=True)
    return f"half an edit of {key} at {name}: {change}, turn {end}"


@act("hand", 1)
def edit_while_it_works(world, name):
    """A person saves a file in the middle of a turn of the server."""
    side = world.machines[name].side
    found = _mailbox_file(world, name)
    if found is None or world.machines[name].post is None or world.machines[name].unmounted:
        return "edit while it works: nothing is there"
    key, path = found
    value = f"n{world.number()}"
    done = []

    def save():
        document = read_document(path) if path.exists() else None
        if document is None:
            return
        text = yaml_text(key, document | {"name": value})
        old = path.read_bytes()
        world.disk.put(path, text, how)
        done.append(True)
        pending = world.hand[name].get(key)
        if pending is not None:  # the turn may have taken it in before
            world.ledger.note(name, key, "saved before", writes=pending["writes"], maybe=True, keeps=True)
        for field, was in document.items():  # which of the peer's changes the person had seen nobody knows
            if field != "name":
                world.ledger.note(name, key, "saved with it", writes={field: was}, maybe=True, keeps=True)
        still = {
            field: was for field, was in (pending or {"writes": {}})["writes"].items() if document.get(field) == was
        }
        world.hand[name][key] = {
            "seen": frozenset(), "writes": still | {"name": value}, "path": path, "sync": True, "power": False, "loose": True,
            "text": text, "old": old, "anew": (), "former": None,
        }  # fmt: skip

    how = world.chance.choice(("replace", "inplace"))
    side.then[side.steps + world.chance.choice((2, 4, 8, 15, 30))] = save
    end = world.turn(name)
    side.then.clear()
    return f"edit of {key} at {name} name={value} {'during' if done else 'not during'} a turn: {end}"


@act("hand", 1)
def drop_in(world, name):
    """The voicemail application puts a message into a folder."""
    there = boxes(world, name)
    if not there:
        return "drop in: no mailbox"
    box = world.chance.choice(there)
    ident = f"d{world.number()}"
    folder = world.machines[name].root / f"mailboxes/{box}/messages"
    data = sound(world)
    world.disk.make_folder(folder)
    sync = world.chance.random() < 0.5
    world.disk.put(folder / f"{ident}.wav", data, "inplace", sync=sync)
    if world.chance.random() < 0.3:
        world.turn(name, send=False)
    value = {"received": rfc3339(world.machines[name].clock.wall()), "status": "new", "from": "app"}
    if world.chance.random() < 0.5:
        value["audio"] = {"sha256": sha(data), "size": len(data), "format": "wav"}
    if world.machines[name].root.is_dir() and folder.is_dir():
        world.disk.put(folder / f"{ident}.json", json.dumps(value).encode(), "replace", sync=sync)
        writes = {"status": "new", "audio": sha(data)}
        world.dropped[name][f"message/{box}/{ident}"] = {"writes": writes, "sync": sync, "power": False}
    return f"message/{box}/{ident} is dropped in at {name} ({len(data)} bytes{', synced' if sync else ''})"


@act("hand", 1)
def remove_by_hand(world, name):
    """The application, or a person, removes the files of a message."""
    found = messages(world, name)
    if not found or world.machines[name].unmounted:
        return "remove: nothing is there"
    box, ident = world.chance.choice(found)
    _remove(world, name, f"message/{box}/{ident}", sync=world.chance.random() < 0.5)
    return f"rm of message/{box}/{ident} at {name}"


def _remove(world, name, key, *, sync):
    kind, mailbox, ident = parse_key(key)
    root = world.machines[name].root
    paths = {
        "message": lambda: sorted((root / f"mailboxes/{mailbox}/messages").glob(f"{ident}.*")),
        "mailbox": lambda: [root / f"mailboxes/{ident}/mailbox.yaml"],
        "callflow": lambda: [root / f"callflows/{ident}.yaml"],
        "greeting": lambda: sorted((root / f"mailboxes/{mailbox}/greetings").glob(f"{ident}.*")),
    }[kind]()
    seen = set(world.shown(name, key))
    if kind == "message" and paths:  # whoever removes a file has seen that there was one
        known = world.ledger.know(name, key) | world.ledger.perhaps(name, key)
        seen |= {act.number for act in world.ledger.of(known) if act.what in BIRTHS}
    for path in paths if kind in {"mailbox", "callflow"} else ():
        seen |= _evident(world, name, key, path)
    # what a crash left in the file of a message may be what an act gave it, or another act before
    perhaps = [_evident(world, name, key, path) for path in paths if path.suffix == ".json"]
    if not world.versions(name, [key]):  # a new index has not seen it: what only this file held is gone
        world.ledger.doubt(key, world.ledger.know(name, key) - world.ledger.know(world.other(name), key))
    # else a power cut may leave a torn file of what was never saved for good and removed at once: litter for a person
    sync = sync or not world.hand[name].get(key, {"sync": True})["sync"]
    for path in paths:
        world.disk.take_away(path, sync=sync)
    if kind == "message":  # with the file goes the recording
        lost = world.damaged.setdefault(key, set())
        lost.add(name)
        if not _holds_recording(world, world.other(name), key):
            lost.add(world.other(name))
    world.hand[name].pop(key, None)
    if key in world.dropped[name]:
        del world.dropped[name][key]  # nobody had scanned it: it is gone
    elif key not in world.removed[name]:
        world.removed[name][key] = {
            "seen": seen,
            "also": set().union(*perhaps) - seen,
            "overruled": False,
            "paths": [path for path in paths if kind != "message" or path.suffix == ".json"],
            "power": False,
        }


def _holds_recording(world, name, key):
    """Whether a server has the recording of a message, be it under another extension or aside."""
    root = world.machines[name].root
    wanted = world.ledger.recordings([key])
    places = [*(root / "mailboxes").glob("*/messages/*.wav"), *(root / ".vmctl/audio").glob("*")]
    return any(sha(path.read_bytes()) in wanted for path in places)


@act("hand", 0.4)
def remove_callflow(world, name):
    """A person removes a callflow's file."""
    path = world.machines[name].root / f"callflows/{world.chance.choice(FLOWS)}.yaml"
    if not path.exists():
        return "rm of a callflow: nothing is there"
    _remove(world, name, f"callflow/{path.stem}", sync=world.chance.random() < 0.5)
    return f"rm of {path.name} at {name}"


@act("hand", 0.6)
def away_for_a_moment(world, name):
    """An editor renames a file away, a scan looks, and the file is there again."""
    found = _mailbox_file(world, name) if world.chance.random() < 0.4 else _callflow_file(world, name)
    if found is None or world.machines[name].unmounted:
        return "away for a moment: nothing is there"
    key, path = found
    aside = path.with_name(".away")
    with world.disk.by_hand():
        world.disk.rename(path, aside)
        world.disk.sync_folder(path.parent)
    end = world.turn(name, send=False)
    if aside.exists() and path.exists():  # the other server's came meanwhile: the editor leaves it
        world.hand[name].pop(key, None)
    elif aside.exists():
        with world.disk.by_hand():
            world.disk.rename(aside, path)
            world.disk.sync_folder(path.parent)
        if not world.documents(
            name, [key]
        ):  # deleted meanwhile, by the other server or as it was away at two looks: it is made anew, with all it says
            world.ledger.note(name, key, "away", deletes=True, maybe=True)
            for field, value in (read_document(path) or {}).items():
                world.ledger.note(name, key, "put back", writes={field: value}, maybe=True, keeps=True)
    return f"{key} is away for a moment at {name}: {end}"


@act("unreadable", 2)
def unreadable(world, name):
    """A folder of the store cannot be read for a while."""
    side = world.machines[name].side
    folders = sorted((side.root / "mailboxes").glob("*/messages")) + sorted((side.root / "mailboxes").glob("*"))
    if not folders or world.machines[name].unmounted:
        return "unreadable: no folder is there"
    folder, what = str(world.chance.choice(folders)), world.chance.choice((("list",), ("stat",), ("list", "stat")))
    side.unreadable[folder] = what
    world.count("folder unreadable")
    ends = []
    for _ in range(3):
        ends.append(world.turn(name, send=False, full=True))
        world.now += int((SETTLE + 0.1) * 1_000_000)
    side.unreadable.clear()
    return f"a folder of {name} cannot be read: {ends}"


@act("hand", 0.3)
def remove_many(world, name):
    """Somebody removes all that is in a mailbox."""
    there = boxes(world, name)
    if not there or world.machines[name].unmounted:
        return "mass rm: nothing is there"
    box = world.chance.choice(there)
    for other, ident in messages(world, name):
        if other == box:
            _remove(world, name, f"message/{box}/{ident}", sync=True)
    if world.chance.random() < 0.5:
        _remove(world, name, f"mailbox/{box}", sync=True)
    return f"rm of all in mailbox {box} at {name}"


@act("damage", 0.5)
def lose_recording(world, name):
    """A recording is removed or spoilt at one server, where the other has it too."""
    other = world.machines[world.other(name)].root
    found = [
        (box, ident)
        for box, ident in messages(world, name)
        if (other / f"mailboxes/{box}/messages/{ident}.wav").exists()
        and f"message/{box}/{ident}" not in world.dropped[name]
    ]
    found = [(b, i) for b, i in found if f"message/{b}/{i}" not in world.dropped[world.other(name)]]
    found = [(b, i) for b, i in found if not world.damaged.get(f"message/{b}/{i}", set()) - {name}]
    if not found or world.machines[name].unmounted or world.machines[world.other(name)].unmounted:
        return "damage: nothing is there"
    box, ident = world.chance.choice(found)
    path = world.machines[name].root / f"mailboxes/{box}/messages/{ident}.wav"
    if not path.exists():
        return "damage: it is gone already"
    world.damaged.setdefault(f"message/{box}/{ident}", set()).add(name)
    world.count("recording destroyed")
    if world.chance.random() < 0.5:
        world.disk.take_away(path, sync=True)
    else:
        world.disk.put(path, bytes(len(path.read_bytes())), "inplace")
    return f"the recording of message/{box}/{ident} is destroyed at {name}"


# Memory lost


def _down(world, name):
    """A planned end of a server's process."""
    world.end(world.machines[name])


@act("memory", 0.5)
def lose_index(world, name):
    """The index of a server is removed."""
    if world.machines[name].unmounted:
        return "lost index: the store is away"
    _forget(world, name)
    for path in (world.machines[name].root / ".vmctl").glob("index.db*"):
        path.unlink()
    world.count("index lost")
    return f"the index of {name} is lost; start: {world.start(name)}"


def _forget(world, name):
    """What only a server's index held may be gone."""
    machine = world.machines[name]
    world.forgot.add(name)
    ledger = world.ledger
    if machine.post is not None:
        lagging = {*machine.index.todo(), *machine.index.tombstones.unburied()}
    else:
        lagging = {key for key in ledger.keys() if ledger.know(name, key) != ledger.shown(name, key)}
    _down(world, name)
    for key in ledger.keys():
        known = ledger.know(name, key)
        there = has_file(world, name, key)
        if key.startswith("message/"):
            lost = known - ledger.shown(name, key) if key in lagging and there else set() if there else set(known)
        elif there and key not in lagging and not has_file(world, name, key, tombs=False):
            lost = set()  # a tombstone says all that there was
        else:  # of YAML only the values are left, and of greetings the bytes: who made them when is forgotten
            lost = set(known)
            if there:
                _found_again(world, name, key)
        ledger.doubt(key, lost - ledger.know(world.other(name), key))
        if lost and (key.startswith("message/") or not there):
            ledger.perhaps(name, key).update(lost)
            known -= lost
    for key, removed in world.removed[name].items():  # a new index cannot know that there was anything
        ledger.note(name, key, "rm, forgotten", deletes=True, seen=removed["seen"], maybe=True)
        ledger.doubt(key, ledger.know(name, key) - ledger.know(world.other(name), key))
    world.removed[name].clear()
    for hand in world.hand[name].values():  # or that a file is another than it was
        hand["loose"] = True
    for brought, *_ in ledger.memory[name].spooled:  # what is based on what was lost is left and asked for anew
        ledger.absorb(name, brought, sure=False)
    ledger.memory[name].spooled.clear()
    world.rolled.pop(name, None)


def _found_again(world, name, key):
    """The file of a record, found by an index that does not know it: its values may win over all that is known."""
    for field in world.ledger.fields(key):
        shown = [act for act in world.ledger.of(world.shown(name, key)) if act.sets(field)]
        covered = {number for act in shown for number in act.seen}
        for act_ in shown:
            if act_.number not in covered:
                world.ledger.note(
                    name, key, "found again", writes={field: act_.value(field)}, maybe=True, keeps=True, seen=()
                )
    kind, _, ident = parse_key(key)
    files = {
        "settings": "settings.yaml",
        "callflow": f"callflows/{ident}.yaml",
        "mailbox": f"mailboxes/{ident}/mailbox.yaml",
    }
    path = (world.machines[name].unmounted or world.machines[name].root) / files.get(kind, "none")
    for field, value in ((read_document(path) if path.exists() else None) or {}).items():
        world.ledger.note(name, key, "found again", writes={field: value}, maybe=True, keeps=True, seen=())
    world.ledger.note(name, key, "found again", maybe=True, keeps=True, seen=())


@act("memory", 0.3)
def lose_both_indexes(world, name):
    """Both indexes are removed."""
    return lose_index(world, name) + "; " + lose_index(world, world.other(name))


@act("memory", 1)
def back_up(world, name):
    """A snapshot of a server's whole store."""
    machine = world.machines[name]
    if machine.unmounted or machine.side.fault:
        return "backup: not now"
    _down(world, name)
    to = world.directory / f"backup-{name}"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(machine.root, to, symlinks=True)
    pending = {
        kind: {k: dict(v) for k, v in getattr(world, kind)[name].items()} for kind in ("hand", "removed", "dropped")
    }
    world.backups[name] = (world.disk.looks(machine.root), world.ledger.memory[name].copy(), pending)
    return f"backup of {name}"


@act("memory", 0.7)
def put_back(world, name):
    """The store of a server is again what it was at the snapshot."""
    machine = world.machines[name]
    if name not in world.backups or machine.unmounted:
        return "put back: there is no backup"
    looks, memory, pending = world.backups[name]
    _down(world, name)
    world.disk.forget(machine.root)
    shutil.rmtree(machine.root)
    shutil.copytree(world.directory / f"backup-{name}", machine.root, symlinks=True)
    if world.chance.random() < 0.5:  # rsync keeps only the mtimes, a snapshot of the disk all
        looks = {path: (mtime, None, None) for path, (mtime, _, _) in looks.items()}
    world.disk.adopt(machine.side, looks=looks)
    world.forgot.add(name)
    world.ledger.memory[name], lost = memory.copy(), world.ledger.memory[name]
    for key in world.ledger.keys():
        known = lost.known.get(key, set()) | {
            number for brought, *_ in lost.spooled for numbers in brought.get(key, ()) for number in numbers
        }
        gone = known - world.ledger.know(name, key) - world.ledger.know(world.other(name), key)
        world.ledger.doubt(key, gone)
    for kind, values in pending.items():
        getattr(world, kind)[name] = {key: dict(value) for key, value in values.items()}
    for key in [key for key, servers in world.damaged.items() if servers != {name}]:
        world.damaged[key].add(name)  # the other copy may have gone with the disk
    world.rolled[name] = json.loads((machine.root / ".vmctl/identity.json").read_bytes())["incarnation"]
    world.count("store rolled back")
    return f"the backup of {name} is put back"


@act("mount", 0.5)
def unmount(world, name):
    """The store of a server is not there, or an empty folder is in its place."""
    machine = world.machines[name]
    if machine.unmounted:
        return "unmount: it is unmounted"
    away = world.directory / f"away-{name}"
    os.rename(machine.root, away)
    machine.unmounted = away
    if world.chance.random() < 0.5:
        machine.root.mkdir()
    world.count("unmounted")
    ends = [world.turn(name) for _ in range(world.chance.randrange(3))]
    return f"the store of {name} is unmounted: {ends}"


@act("mount", 1)
def mount(world, name):
    """The store of a server is back."""
    machine = world.machines[name]
    if not machine.unmounted:
        return "mount: it is mounted"
    if machine.root.exists():
        found = list(machine.root.rglob("*"))
        if found:
            raise Violation(f"something was written where no store is: {found}")
        machine.root.rmdir()
    os.rename(machine.unmounted, machine.root)
    machine.unmounted = None
    return f"the store of {name} is back"


# Taking back, whole mailboxes, and that side wins: what the index has afterwards is what was done


def by_outcome(world, name, what, before):
    """Tells the ledger what an order did, by the documents before and after."""
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
            if was == now and not (now is None and key in there and not has_file(world, name, key, tombs=False)):
                continue
            values, former = now or {}, was or {}
            changed = {field for field in values.keys() | former.keys() if values.get(field) != former.get(field)}
            if was is None:  # it is as it is now in every field, whatever was known of it
                changed |= world.ledger.fields(key, name)
            writes = {field: values.get(field, ABSENT) for field in changed} if now is not None else {}
            keeps = now is not None and (
                was is None or not key.startswith("message/") or writes.get("status") == "saved"
            )
            world.ledger.note(name, key, what, keeps=keeps, deletes=now is None, writes=writes, maybe=maybe)

    return note


@act("undo", 2)
def restore_version(world, name):
    """A person sets a record back to what it was."""
    if not world.start(name):
        return "history: it is down"
    index = world.machines[name].index
    keys = [key for key in world.ledger.keys() if not key.startswith("message/") and index.history.of(key)]
    if not keys:
        return "history: there is none"
    key = world.chance.choice(keys)
    version = world.chance.choice(index.history.of(key)).number
    note = by_outcome(world, name, "set back", world.documents(name, [key]))
    return ordered(
        world, name, f"{key} back to {version}", [key], lambda d: Undo(d._replica, d).restore(key, version), note
    )


@act("undo", 2)
def take_conflict(world, name):
    """A person takes what lost, or is done with a conflict."""
    if not world.start(name):
        return "conflict: it is down"
    machine = world.machines[name]
    found = Undo(machine.post.replica, world.desk(name)).listed()
    if not found:
        return "conflict: there is none"
    conflict = world.chance.choice(found)
    key, ident = conflict.document["record"], conflict.key.partition("/")[2]
    world.settled.add(key)
    if world.chance.random() < 0.3:
        return f"conflict of {key} dropped: {world.product(name, lambda: Undo(machine.post.replica, world.desk(name)).drop(ident))}"
    keys = [other for other in world.ledger.keys() if other == key or f"/{parse_key(key).name}/" in other]
    note = by_outcome(world, name, "take what lost", world.documents(name, keys))
    return ordered(world, name, f"take what lost of {key}", keys, lambda d: Undo(d._replica, d).take(ident), note)


@act("boxes", 1)
def restore_mailbox(world, name):
    """A deleted mailbox comes back with all that went with it."""
    gone = [key for key in world.ledger.keys("mailbox/") if world.ledger.must_be_gone(key, [name])]
    if not gone:
        return "restore mailbox: none is deleted"
    key = world.chance.choice(gone)
    box = parse_key(key).name
    keys = [other for other in world.ledger.keys() if other == key or parse_key(other).mailbox == box]
    note = by_outcome(world, name, "restore mailbox", world.documents(name, keys))
    call = lambda desk: MailboxDesk(desk._replica).restore_mailbox(box)  # noqa: E731
    return ordered(world, name, f"restore {key}", keys, call, note)


@act("boxes", 1)
def renumber(world, name):
    """A mailbox gets another extension."""
    there = boxes(world, name)
    if not there or not world.start(name):
        return "renumber: no mailbox"
    old, new = world.chance.choice(there), world.chance.choice((*BOXES, "203"))
    keys = [key for key in world.ledger.keys() if old in (parse_key(key).mailbox, parse_key(key).name)]
    keys += [f"mailbox/{new}"]
    keys += [f"{key.partition('/')[0]}/{new}/{parse_key(key).name}" for key in keys if parse_key(key).mailbox == old]
    pending = [key for key in world.dropped[name] if parse_key(key).mailbox == old]
    if pending or any(key in world.hand[name] or key in world.removed[name] for key in keys):
        return "renumber: somebody is at its files"
    keys = sorted(set(keys))
    note = by_outcome(world, name, "renumber", world.documents(name, keys))
    call = lambda desk: MailboxDesk(desk._replica).renumber(old, new)  # noqa: E731
    return ordered(world, name, f"mailbox {old} becomes {new}", keys, call, note)


@act("age", 1)
def set_timers(world, name):
    """A mailbox gets timers."""
    there = boxes(world, name)
    if not there:
        return make_mailbox(world, name)
    box = world.chance.choice(there)
    key = f"mailbox/{box}"
    value = {kind: world.chance.choice((0, 24, 240)) for kind in ("new", "old", "saved")} | {"deleted": 720}
    note = simple(world, name, "set timers", keeps=True, writes={"timers": value})
    return ordered(
        world, name, f"timers of {key} {value}", [key], lambda d: d.set_mailbox(box, {"timers": value}), note
    )


@act("age", 3)
def keep_house(world, name):
    """What is due for its age goes."""
    if not world.start(name):
        return "housekeeping: it is down"
    done = []
    learn(world, world.machines[name])
    end = world.product(name, lambda: done.append(Housekeeper(world.machines[name].post.replica).run()))
    if not done:
        world.aged(name)  # what a crash left of it
        return f"housekeeping at {name}: {end}"
    for key in done[0].deleted:
        world.ledger.note(name, key, "aged", deletes=True)
    world.purged.update(done[0].purged)
    return f"housekeeping at {name}: {done[0]}"


@act("age", 1.5)
def days_pass(world, _name):
    """Days pass."""
    days = world.chance.choice((1.1, 11, 31, 62, 410))
    world.now += int(days * 86_400_000_000)
    return f"{days} days pass; {world.network.deliver_due()} mails arrive"


@act("overwrite", 1)
def overwrite(world, name):
    """An operator says that this side wins: what it holds now is what both hold in the end."""
    if world.machines[name].unmounted or world.machines[world.other(name)].unmounted:
        return "overwrite: a store is away"
    ends = [world.turn(name)]
    if world.machines[name].post is None:
        return f"overwrite from {name}: {ends}"
    ends.append(world.product(name, lambda: remember(world.machines[name].post.replica)))
    for one in (world.other(name), name) * 3:
        ends.append(world.turn(one, always=True, anew=True))
        world.now += 2_600_000
    if world.machines[name].post is None or ends[1] != "ok":
        return f"overwrite from {name}: {ends}"
    learn(world, world.machines[name])
    keys = world.ledger.keys()
    note = by_outcome(world, name, "overwrite", world.documents(name, keys))
    call = lambda desk: set_back(desk._replica, "operator")  # noqa: E731
    for removed in world.removed[world.other(name)].values():  # where that waits for a word it is to be written again
        removed["overruled"] = True
    return f"{ends} " + ordered(world, name, f"overwrite from {name}", keys, call, note)
