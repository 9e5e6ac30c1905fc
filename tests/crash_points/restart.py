"""The start after a crash, as `vmctl serve` starts, and what must hold then."""

from wire import Wire

from crash_points.story import try_parked_again
from vmctl import config, durable
from vmctl.at_work import DAEMON
from vmctl.audio import digest_of
from vmctl.errors import VmctlError
from vmctl.model import GREETING, MESSAGE, PROMPT, parse_key
from vmctl.post import Post

_A_MOMENT, _LONG = 30.0, 7200.0


class Restarted(Wire):
    """Both servers, opened by a new process."""

    def __init__(self, directory, ahead, *, roles=True):
        self._posts = []
        self._roles = roles
        self._ahead = ahead + _A_MOMENT  # the clocks go on while a server is down
        super().__init__(directory)

    def open(self, name):
        """Open a server's store as its daemon does: first the spool, then the roles."""
        self.clock.advance(max(0.0, self._ahead - self.clock.ahead))
        post = Post(self.config, name, self.clock, role=DAEMON, wake=lambda: None).__enter__()
        self._posts.append(post)
        self.servers[name] = post.replica
        post.replica.take()
        if self._roles:
            post.start()
        return post.replica

    def close(self):
        for post in self._posts:
            post.__exit__()


def restart(directory, promises, ahead):
    """Start both servers, let them talk until they are in step; what does not hold, in words.

    Their clocks are `ahead` of the real one by so many seconds.
    """
    again = Restarted(directory, ahead)
    problems = []
    for name in again.servers:
        again.scan(name)
        problems += broken(again, name, [promise for promise in promises if promise[3] == name], "alone")
    try_parked_again(again)
    again.exchange()
    again.clock.advance(_LONG)
    for name in again.servers:
        again.scan(name)  # a full one, as it is due
    again.exchange()
    problems += again.apart()
    problems += gone_for_good(again, promises)
    for name, replica in again.servers.items():
        problems += broken(again, name, promises, "in step")
        problems += [f"{name} names {fault['path']}: {fault['why']}" for fault in replica.index.faults.all()]
        problems += [f"the journal of {name}: {fault}" for fault in replica.journal.verify()]
    problems += litter(directory)
    again.close()
    return problems


def start_once_more(directory, points, ahead):
    """A second start changes nothing: the steps that it did all the same, in words."""
    points.armed = True
    again = Restarted(directory, ahead + _LONG, roles=False)
    before = [(replica.index.digest, replica.index.last_number) for replica in again.servers.values()]
    for name in again.servers:
        again.scan(name, full=True)
    after = [(replica.index.digest, replica.index.last_number) for replica in again.servers.values()]
    points.armed = False
    again.close()
    found = [f"a second start did: {step.name} {step.path}" for step in points.writes]
    return found + ["a second start found something new"] * (before != after)


def broken(wire, name, promises, when):
    """The promises that a server does not keep."""
    found = []
    for key, field, value, _ in promises:
        try:
            now = None if value is None else _now(wire, name, key, field)
        except VmctlError as error:
            now = error.what
        if value is not None and not _kept(key, now, value):
            found.append(f"{name}, {when}: {key}{f' {field}' if field else ''} should be {value!r} and is {now!r}")
    return found


def gone_for_good(wire, promises):
    """The deleted messages whose recordings are on neither server any more, so that nobody can restore them."""
    found = []
    for key in (
        key for key, field, value, _ in promises if field is None and value is False and parse_key(key).kind == MESSAGE
    ):
        entry = wire.a.index.get(key)
        if entry is None or entry.record.is_purged:
            continue
        audio = entry.record.document["audio"]
        if not any(replica.recordings.find(audio["sha256"]) for replica in wire.servers.values()):
            found.append(f"{key} cannot be restored: its recording is gone")
    return found


def _kept(key, now, value):
    return isinstance(now, int) and now >= value if key.startswith("journal/") else now == value


def _now(wire, name, key, field):
    """What there is of a record at a server: whether its file is there, a field of it, the digest of its recording.

    Of a journal it is the length, or a value that both servers agree on; of a conflict the values listed for a field.
    """
    replica = wire.servers[name]
    kind, _, rest = key.partition("/")
    if kind == "journal":
        return wire.servers[rest].journal.length_and_hash()[0]
    if kind == "agreed":
        return wire.servers[rest].journal.agreed().get(field)
    if kind == "network":
        return (wire.directory.parent / rest / config.FILE).exists()
    if kind == "conflict":
        listed = [entry.record.document for entry in replica.index.entries("kind = 'conflict' AND lives")]
        values = [
            one[which]["is"]
            for one in listed
            if (one["record"], one["field"]) == (rest, field)
            for which in ("won", "lost")
        ]
        return sorted(values)
    if kind in {GREETING, PROMPT} or field == "sha256":
        path = _audio(replica.store, key, kind)
        return digest_of(replica.store.root / path)[0] if path and field else path is not None
    document = replica.store.document(key)
    return document is not None if field is None else (document or {}).get(field)


def _audio(store, key, kind):
    if kind != MESSAGE:
        return store.audio(key)
    document = store.document(key)
    return document and store.audio_path(key, document["audio"]["format"])


def litter(directory):
    """What a crash left half-written, or put aside, and no start has cleared away."""
    patterns = (f"**/{durable.TEMP_PREFIX}*", "*/.vmctl/replaced/*", "*/.vmctl/placing/*", "*/.vmctl/spool/*")
    found = sorted(path for pattern in patterns for path in directory.glob(pattern))
    return [f"left over: {path.relative_to(directory)}" for path in found]
