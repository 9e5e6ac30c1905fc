"""People and applications who take files away, be it for a moment, and files that cannot be read or are spoilt."""

from simulation.acts.common import FLOWS, boxes, messages, sha
from simulation.acts.registry import act
from simulation.acts.writing import evident, mailbox_file
from simulation.files import read_document
from simulation.world import SETTLE
from vmctl.model import parse_key

BIRTHS = ("leave", "dropped in")  # of messages, as acts


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
        seen |= evident(world, name, key, path)
    # what a crash left in the file of a message may be what an act gave it, or another act before; and so may what came
    # in a mail that the server had reason to leave
    perhaps = [evident(world, name, key, path, perhaps=True) for path in paths if path.suffix in {".json", ".yaml"}]
    unseen = not world.versions(name, [key])
    if (
        unseen
    ):  # a new index has not seen it: what only this file held is gone, and nobody knows that somebody removed it
        world.ledger.doubt(key, world.ledger.know(name, key) - world.ledger.know(world.other(name), key))
    # else a power cut may leave a torn file of what was never saved for good and removed at once: litter for a person
    sync = sync or not world.hand[name].get(key, {"sync": True})["sync"]
    for path in paths:
        world.disk.take_away(path, sync=sync)
    if kind == "message":  # with the file goes the recording
        lost = world.damaged.setdefault(key, set())
        lost.add(name)
        if not holds_recording(world, world.other(name), key):
            lost.add(world.other(name))
    world.hand[name].pop(key, None)
    if key in world.dropped[name]:
        del world.dropped[name][key]  # nobody had scanned it: it is gone
    elif key not in world.removed[name]:
        world.removed[name][key] = {
            "seen": seen,
            "also": set().union(*perhaps) - seen,
            "overruled": unseen,
            "paths": [path for path in paths if kind != "message" or path.suffix == ".json"],
            "power": False,
        }


def holds_recording(world, name, key):
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


def _callflow_file(world, name):
    there = sorted((world.machines[name].root / "callflows").glob("*.yaml"))
    there = [path for path in there if f"callflow/{path.stem}" not in world.removed[name]]
    path = world.chance.choice(there) if there else None
    return path and (f"callflow/{path.stem}", path)


@act("hand", 0.6)
def away_for_a_moment(world, name):
    """An editor renames a file away, a scan looks, and the file is there again."""
    found = mailbox_file(world, name) if world.chance.random() < 0.4 else _callflow_file(world, name)
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
