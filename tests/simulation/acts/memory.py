"""Memory lost: indexes removed, stores put back from a backup, and stores that are away."""

import json
import os
import shutil

from simulation.acts.registry import act
from simulation.acts.removing import holds_recording
from simulation.files import has_file, read_document
from simulation.ledger import ABSENT, Violation
from simulation.world import NAMES
from vmctl.model import parse_key


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
    found = (read_document(path) if path.exists() else None) or {}
    if any(act_.deletes for act_ in world.ledger.acts.values() if act_.key == key):
        # what is younger than its deletion, by the clocks, was made anew: it never had what it lacks
        found = dict.fromkeys(world.ledger.fields(key), ABSENT) | found
    for field, value in found.items():
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
    held = [key for key in world.ledger.keys("message/") if holds_recording(world, name, key)]
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
    for key in held:  # what was never shipped, or was deleted before it was
        if not any(holds_recording(world, one, key) for one in NAMES):
            world.damaged[key] = set(NAMES)
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
