"""When an act of a person at a file begins to count: when a scan has taken it into the index."""

from vmctl.model import parse_key

from .files import is_torn, read_document
from .ledger import ABSENT, require


def learn(world, machine):
    """What people did to files is an act from the moment when a scan has taken it in."""
    if machine.unmounted:  # nothing can be seen of its files
        return
    name, ledger = machine.name, world.ledger
    lives = _lives(machine)
    for key, how in list(world.dropped[name].items()):
        if lives.get(key):
            dropped_in(ledger, name, key, how["writes"])
            del world.dropped[name][key]
        elif not (machine.root / machine.post.replica.store.path(key)).exists():
            require(how["power"] and not how["sync"], f"{name}: the file of {key} went before a scan saw it")
            del world.dropped[name][key]
    brought_back(world, machine)
    for key, removed in list(world.removed[name].items()):
        entry = machine.index.get(key)
        if entry is not None and (not entry.record.lives or entry.shown is None):  # what nobody had seen may keep it
            if key.startswith("mailbox/"):
                _mailbox_gone(world, name, key, lives)
            told = {"seen": removed["seen"], "also": removed["also"], "maybe": removed["overruled"]}
            ledger.note(name, key, "rm", deletes=True, **told)
            del world.removed[name][key]
        elif any(path.exists() for path in removed["paths"]):
            # a power cut brought it back; or it was deleted, and written again for what nobody had seen
            ledger.note(name, key, "rm", deletes=True, seen=removed["seen"], also=removed["also"], maybe=True)
            del world.removed[name][key]
    for key, hand in list(world.hand[name].items()):
        _learn_edit(world, machine, key, hand)
    for key, numbers in world.ledger.maybe.items():
        if lives.get(key) and not any(
            act.keeps for act in ledger.of(ledger.know(name, key) | ledger.perhaps(name, key))
        ):
            births = {number for number in numbers if ledger.acts[number].keeps and ledger.acts[number].server == name}
            ledger.know(name, key).update(births)
            numbers -= births


def dropped_in(ledger, name, key, writes):
    """A scan has found a message that was put there. After a rollback another one finds the same file again.

    Whether who deletes it then has seen what the other life had found may go either way.
    """
    former = {
        act.number for act in ledger.acts.values() if act.key == key and act.server == name and act.what == "dropped in"
    }
    ledger.doubt(key, former)
    ledger.note(name, key, "dropped in", keeps=True, writes=writes, seen=())


def _lives(machine):
    """Which records an index has, and whether they live."""
    return {key: bool(alive) for key, alive in machine.index._db.execute("SELECT key, lives FROM records")}


def brought_back(world, machine):
    """A message or greeting that nobody had seen brings its deleted mailbox back, with it what the mailbox was."""
    name, ledger, lives = machine.name, world.ledger, _lives(machine)
    for key in ledger.keys("mailbox/"):
        if not lives.get(key) or not ledger.must_be_gone(key, [name]):
            continue
        inner = f"/{parse_key(key).name}/"
        if any(alive and inner in other and _excuses(world, name, key, other) for other, alive in lives.items()):
            ledger.note(name, key, "brought back", keeps=True)


def _excuses(world, name, box, inner):
    """Whether what lives in a deleted mailbox may bring it back: none who deleted that had deleted this, too, before.

    Its deletion would be on its way then. Who has lost its memory since may have lost that, too.
    """
    ledger = world.ledger
    ends = [act for act in ledger.of(ledger.know(name, box)) if act.deletes and act.server not in world.forgot]
    last = {act.server: act.number for act in ends}
    gone = {
        number
        for act in ledger.acts.values()
        if act.key == inner and act.deletes and act.number < last.get(act.server, 0)
        for number in act.seen | act.perhaps
    }
    return any(act.keeps for act in ledger.of((ledger.know(name, inner) | ledger.perhaps(name, inner)) - gone))


def _mailbox_gone(world, name, key, lives):
    """Whoever removed a mailbox has removed what he saw in it; told before the mailbox itself is."""
    box = parse_key(key).name
    for inner in world.ledger.keys():
        if parse_key(inner).mailbox == box and lives.get(inner) is False and inner not in world.removed[name]:
            world.ledger.note(name, inner, "rm of its mailbox", deletes=True, seen=world.ledger.shown(name, inner))


def _learn_edit(world, machine, key, hand):
    name, path = machine.name, hand["path"]
    taken = [_is_known(machine, key, field, value) for field, value in hand["writes"].items() if value != ABSENT]
    if all(taken) and is_torn(hand):  # what is left of it says all the same: its writer will look at it again
        hand["loose"] = True
        return
    if all(taken):
        seen = hand["seen"]
        loose = hand.get("loose", False)
        entry = machine.index.get(key)
        # what came to life while its new file waited for a scan is only added to
        added_to = hand["anew"] & entry.record.document.keys() if entry is not None and hand["anew"] else ()
        writes = {field: value for field, value in hand["writes"].items() if field not in added_to}
        world.ledger.note(name, key, "edit", keeps=True, writes=writes, seen=seen, maybe=loose)
        del world.hand[name][key]
        return
    there = read_document(path) if path.exists() else None
    if there is not None and all(
        there.get(field) == value for field, value in hand["writes"].items() if value != ABSENT
    ):
        return  # it waits for a scan
    if is_torn(hand):
        return  # a power cut tore it: it waits for its writer to look at it again
    if hand["power"] and not hand["sync"] and hand["former"]:
        # the power cut took the last save, and perhaps the one before
        world.hand[name][key] = hand["former"]
        hand["former"]["power"] = True
        if hand.get("inplace"):  # saved over what was there: of a file that was synced before, neither may be left
            hand["former"]["sync"] = False
        _learn_edit(world, machine, key, hand["former"])
        return
    require(
        hand["power"] and not hand["sync"],
        f"{name}: a person's edit of {key} was overwritten: {hand['writes']}, the file holds {there}",
    )
    del world.hand[name][key]


def _is_known(machine, key, field, value):
    """Whether the index has a value that a person wrote: as the present one, an earlier one, or in a conflict."""
    entry = machine.index.get(key)
    if entry is not None and entry.record.document.get(field) == value:
        return True
    for conflict in machine.index.entries("kind = 'conflict'"):
        document = conflict.record.document
        if document.get("record") == key and document.get("field") == field:
            if value in (document["won"].get("is"), document["lost"].get("is")):
                return True
    return False
