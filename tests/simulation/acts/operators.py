"""What operators do: they take back, move whole mailboxes, let old things go, and say which side wins."""

from simulation.acts.common import BOXES, boxes, by_outcome, ordered, simple
from simulation.acts.orders import make_mailbox
from simulation.acts.registry import act
from simulation.learning import learn
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.model import parse_key
from vmctl.overwrite import remember, set_back
from vmctl.purge import Housekeeper
from vmctl.undo import Undo


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
    field = conflict.document["field"]
    sets = {(key, field)} if field is not None else ()
    note = by_outcome(world, name, "take what lost", world.documents(name, keys), sets=sets)
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
