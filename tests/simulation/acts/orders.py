"""What is ordered at a desk: by callers and users with their messages, then of mailboxes, settings and all else."""

from simulation.acts.common import BOXES, FLOWS, boxes, messages, ordered, sha, simple, sound, source
from simulation.acts.registry import act
from simulation.ledger import ABSENT
from vmctl.model import ABSENT as GONE

GREETING_NAMES = ("busy", "name")
SERVICE = "voicemail"  # which the config names, and every new mailbox gets


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
    known = dict.fromkeys(world.ledger.fields(key, name, sure=True), ABSENT)
    rest = dict.fromkeys(world.ledger.fields(key, name) - known.keys() - document.keys() - {"service"}, ABSENT)

    def note(*, maybe, keys):
        simple(world, name, "create", keeps=True, writes=known | document | {"service": SERVICE})(
            maybe=maybe, keys=keys
        )
        if rest:  # what it may know of, it may take away
            simple(world, name, "create", keeps=True, writes=rest)(maybe=None if maybe is None else True, keys=keys)

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
