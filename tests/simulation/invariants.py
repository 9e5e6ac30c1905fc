"""What is checked after every act and when everything has come to rest."""

from vmctl.model import parse_key
from vmctl.parked import listing

from .files import has_file, is_torn, read_store
from .learning import learn
from .ledger import ABSENT, plain, require
from .world import NAMES, SETTLE

MOST_ROUNDS = 80
MOST_MAILS = 400


# After every act


def check_step(world):
    """Each server that runs and owes nothing to its spool knows of every record what it must."""
    for name in NAMES:
        machine = world.machines[name]
        if machine.post is None or machine.unmounted:
            continue
        rows = machine.index._db.execute("SELECT key, lives, todo FROM records").fetchall()
        lives = {key: bool(alive) for key, alive, _ in rows}
        todo = {key for key, _, owed in rows if owed}
        learn(world, machine)
        settled = not world.ledger.memory[name].spooled and not machine.index.is_new
        if settled:  # a new index has not seen the files yet
            _presence(world, name, lives)
            _files_there(world, machine, lives, todo)
        shown = world.ledger.memory[name].shown
        for key in world.ledger.keys():
            if key not in todo and key not in world.removed[name] and key not in world.hand[name]:
                shown[key] = frozenset(world.ledger.know(name, key))


def _presence(world, name, lives):
    ledger = world.ledger
    for key in ledger.keys():
        if key in world.removed[name]:
            continue
        if key not in lives and world.forgot and has_file(world, name, key):
            continue  # to be found by a scan, when it has stood still
        if ledger.must_live(key, [name]):
            require(lives.get(key), f"{name}: {key} is missing: {_history(world, key)}")
        elif ledger.must_be_gone(key, [name]):
            require(not lives.get(key), f"{name}: {key} is back although it was deleted: {_history(world, key)}")


def _files_there(world, machine, lives, todo):
    name = machine.name
    for key, alive in lives.items():
        if (
            not alive
            or key in todo
            or key in world.removed[name]
            or key.startswith(("conflict/", "greeting/", "prompt/"))
        ):
            continue
        path = machine.root / machine.post.replica.store.path(key)
        require(path.exists(), f"{name}: the index says that {path.name} shows {key}, and there is no such file")


def _history(world, key):
    maybe = world.ledger.maybe.get(key, set())
    acts = [act for act in world.ledger.acts.values() if act.key == key]
    words = [
        f"{act.number}{'?' if act.number in maybe else ''} {act.what} at {act.server} seen {sorted(act.seen)}"
        for act in acts
    ]
    known = {name: sorted(world.ledger.know(name, key)) for name in NAMES}
    return "; ".join(words) + f" -- known {known}"


# At rest


def come_to_rest(world):
    """The network is healed, all faults are mended, and both servers run until neither has anything to say."""
    from .acts import ACTS

    world.network.calm = True
    world.network.settle(world.chance)
    world.profile = world.profile.at_rest()
    for name in NAMES:
        machine = world.machines[name]
        machine.side.mend()
        if machine.unmounted:
            ACTS["mount"].do(world, name)
        _mend_torn_files(world, name)
    mails, quiet = world.counts["mails"], 0
    for turn in range(MOST_ROUNDS):
        world.network.deliver_due()
        ends, said = [], world.counts["mails"]
        for name in NAMES:
            accept = turn < 8 or turn % 8 == 0
            ends.append(
                world.turn(
                    name, full=turn in (0, 8), accept=accept, always=turn < 3 or turn % 8 == 5, anew=turn in (0, 4, 9)
                )
            )
            check_step(world)
            if turn % 8 == 3:
                world.product(name, lambda: retry_parked(world.machines[name]))  # noqa: B023 - called at once
        world.now += int((SETTLE + 1.6) * 1_000_000)
        quiet = quiet + 1 if world.counts["mails"] == said and turn > 3 else 0
        if quiet >= 3:
            break
    check_rest(world, ends)
    require(
        world.counts["mails"] - mails < MOST_MAILS,
        f"it took {world.counts['mails'] - mails} mails until nothing was left to say",
    )
    check_quiet(world)


def retry_parked(machine):
    """A person has what was refused for good tried again."""
    if machine.post is None:
        return
    replica = machine.post.replica
    with replica.locked():
        for one in listing(replica.index, replica.spool):
            replica.lot.retry(one["id"])


def _mend_torn_files(world, name):
    """A person looks at the files that a power cut tore because nobody had synced them."""
    machine = world.machines[name]
    for key, how in list(world.dropped[name].items()):
        if how["power"] and not how["sync"] and not world.versions(name, [key]):
            _, box, ident = key.split("/")
            for path in sorted((machine.root / f"mailboxes/{box}/messages").glob(f"{ident}.*")):
                world.disk.take_away(path, sync=True)
            del world.dropped[name][key]
    for key, how in list(world.hand[name].items()):
        if is_torn(how):
            world.disk.put(how["path"], how["text"], "replace")


def check_rest(world, ends):
    """Both hold the same, and what they hold is what must be there."""
    require(ends == ["ok", "ok"], f"the servers do not come to rest: {ends}")
    lost = lost_recordings(world)
    for name in NAMES:
        index = world.machines[name].index
        pending = [key for key, _, _ in index.pending() if key not in lost]
        todo = [key for key in index.todo() if key not in lost]
        require(not pending, f"{name} still has to ship {pending}")
        require(not todo, f"{name} still has to write {todo}")
        left = index.deleted_with_content()
        require(not left, f"{name}: something lives in the deleted mailboxes {left}")
        events = [entry.get("event") for entry in world.machines[name].post.replica.journal.entries()]
        require(
            "the stores differ" not in events,
            f"{name} took the stores for equal while they were not, and mended that by comparing digests",
        )
    a, b = (world.machines[name].index for name in NAMES)
    require(a.digest == b.digest, f"the digests of the indexes differ: {_differences(a, b)}")
    (one, faults_one), (other, faults_other) = (read_store(world.machines[name].root) for name in NAMES)
    for faults in (faults_one, faults_other):
        bad = {path: why for path, why in faults.items() if not any(_is_about(path, key) for key in lost)}
        require(not bad, f"files cannot be read: {bad}")
    differ = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key) and key not in lost)
    require(not differ, f"the stores differ in {[(key, one.get(key), other.get(key)) for key in differ]}")
    for key in world.ledger.keys():
        if key not in lost or world.ledger.must_be_gone(key, NAMES):
            _final(world, key, one.get(key))


def _final(world, key, document):
    ledger = world.ledger
    if ledger.must_live(key, NAMES):
        require(document is not None, f"{key} is lost: {_history(world, key)}")
    elif ledger.must_be_gone(key, NAMES):
        require(document is None, f"{key} was deleted and is there: {_history(world, key)}")
    if document is None:
        return
    for field in sorted(ledger.fields(key)):
        must, may = ledger.values(key, field, NAMES)
        values = [act.value(field) for act in must]
        allowed = [*values, *(act.value(field) for act in may)]
        if world.forgot == set(NAMES):  # nobody knows any more when what was set: a late mail may win over a file
            allowed += [act.value(field) for act in ledger.acts.values() if act.key == key and act.sets(field)]
        value = plain(document.get(field, ABSENT))
        if must:
            require(value in allowed, f"{key}: {field} is {value}, it must be one of {allowed}: {_history(world, key)}")
        if value in values and not may and not world.forgot and key not in world.settled:
            gone = ledger.deleted(key, NAMES)
            winners = [act for act in must if act.value(field) == value]
            seen = {number for act in winners for number in act.seen | act.perhaps}
            equal = {ledger.acts[number].value(field) for number in seen if ledger.acts[number].sets(field)}
            losers = {act.value(field) for act in must if act.number not in gone} - equal
            _conflicts_listed(world, key, field, value, sorted(losers, key=str))


def _conflicts_listed(world, key, field, value, values):
    """What was set without knowing the value that won is listed, on both servers."""
    for lost in values:
        if lost == value:
            continue
        for name in NAMES:
            index = world.machines[name].index
            documents = [entry.record.document for entry in index.entries("kind = 'conflict'")]
            listed = [d for d in documents if d.get("record") == key and d.get("field") == field]
            require(
                any(lost == _as_written(field, d["lost"]) for d in listed),
                f"{name}: {key}: {field} = {lost} lost against {value} and is in no conflict: {_history(world, key)}",
            )


def _as_written(field, lost):
    """A value in a conflict, as the ledger has it."""
    value = lost.get("is", ABSENT)
    return value["sha256"] if field == "audio" and isinstance(value, dict) else plain(value)


def check_quiet(world):
    """Servers that are in step say nothing but heartbeats."""
    if lost_recordings(world):
        return
    world.now += 600_000_000
    for name in NAMES:
        said = world.counts["mails"]
        world.turn(name)
        require(world.counts["mails"] == said, f"{name} is in step and sends {world.counts['mails'] - said} mails")


def lost_recordings(world):
    """Messages whose recording people destroyed on both servers: nobody can bring those back."""
    lost = {key for key, servers in world.damaged.items() if servers == set(NAMES)}
    recordings = world.ledger.recordings(lost)
    return lost | {  # a message that was renumbered has the recording that it had before
        act.key for act in world.ledger.acts.values() if act.sets("audio") and act.value("audio") in recordings
    }


def _is_about(path, key):
    kind = parse_key(key)
    return kind.mailbox is not None and f"mailboxes/{kind.mailbox}/" in path and f"/{kind.name}." in path


def _differences(a, b):
    one, other = ({entry.record.key: entry.record.as_json() for entry in index.entries()} for index in (a, b))
    return [
        (key, one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]
