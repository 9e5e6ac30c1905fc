"""People and applications who write files: edits, and messages that are dropped in."""

import json

from simulation.acts.common import FLOWS, boxes, sha, sound
from simulation.acts.registry import act
from simulation.files import is_there, is_torn, read_document, yaml_text
from simulation.ledger import ABSENT, plain
from vmctl.clock import rfc3339


def mailbox_file(world, name):
    """One of the mailboxes whose file nobody has removed, and that file; None if there is none."""
    there = [box for box in boxes(world, name) if f"mailbox/{box}" not in world.removed[name]]
    if not there:
        return None
    box = world.chance.choice(there)
    return f"mailbox/{box}", world.machines[name].root / f"mailboxes/{box}/mailbox.yaml"


@act("hand", 2)
def edit(world, name):
    """A person edits a mailbox, a callflow or the settings."""
    key, path, document, change = _edit(world, name)
    if key is None:
        return "edit: nothing is there"
    how = world.chance.choice(("replace", "inplace"))
    sync = world.chance.random() < 0.6
    _edited(world, name, key, path, document, change, how, sync, _unread(world, name, key))
    return f"edit of {key} at {name}: {change} ({how}{', synced' if sync else ''})"


def _edit(world, name):
    nothing = (None, None, None, None)
    if world.machines[name].unmounted:
        return nothing
    which = world.chance.choice(("mailbox", "mailbox", "settings", "callflow"))
    root = world.machines[name].root
    if which == "mailbox":
        found = mailbox_file(world, name)
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


def _unread(world, name, key):
    """What somebody saved before and no scan has seen yet, unless a power cut took it: then what was saved before that."""
    pending = world.hand[name].get(key)
    while pending is not None and not is_there(pending):
        pending = pending["former"]
    return pending


def _edited(world, name, key, path, document, change, how, sync, pending):
    new = not path.exists()
    if not new and world.is_unnoted(name, key):  # it may have been put there just before a crash, or by somebody else
        for field, was in (read_document(path) or {}).items():
            world.ledger.note(name, key, "saved with it", writes={field: was}, maybe=True, keeps=True)
    text = yaml_text(key, document)
    old = pending["old"] if pending else path.read_bytes() if path.exists() else None
    seen = pending["seen"] if pending else world.shown(name, key) | evident(world, name, key, path)
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
        "inplace": how == "inplace",
        "power": False,
        "text": text,
        "old": old,
        "former": pending,
        "anew": anew - change.keys(),
    }
    world.hand[name][key]["loose"] = bool(pending and pending.get("loose"))


def evident(world, name, key, path, *, perhaps=False):
    """The acts whose values a file shows, whatever a crash left undone, and what those had seen.

    With `perhaps` also of those that its server may have reason to know nothing of.
    """
    document = read_document(path) if path.exists() else None
    ledger = world.ledger
    there = [
        act
        for act in ledger.of(ledger.know(name, key) | (ledger.perhaps(name, key) if perhaps else set()))
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
    pending = _unread(world, name, key)  # what was saved before is in the new text, too
    world.hand[name].pop(key, None)
    world.disk.put(path, text[: world.chance.randrange(len(text))] + b"\n", "inplace", sync=False)
    end = world.turn(name, send=False)
    _edited(world, name, key, path, document, change, "inplace", True, pending)
    return f"half an edit of {key} at {name}: {change}, turn {end}"


@act("hand", 1)
def edit_while_it_works(world, name):
    """A person saves a file in the middle of a turn of the server."""
    side = world.machines[name].side
    found = mailbox_file(world, name)
    if found is None or world.machines[name].post is None or world.machines[name].unmounted:
        return "edit while it works: nothing is there"
    key, path = found
    if key in world.hand[name] and is_torn(world.hand[name][key]):
        return "edit while it works: a power cut tore it, and its writer has not looked at it again"
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
