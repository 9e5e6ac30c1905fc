"""What is looked at after every step: who is told to serve what, and each line that the journals have gained."""

from simulation.ledger import Violation, require
from simulation.roles.judge import BY_ITSELF, Made, judge
from simulation.roles.world import DRAIN, HEARTBEAT, HOLD, HOUR, START_WAIT, TIMEOUT, TTL
from simulation.world import NAMES
from vmctl import routes_file
from vmctl.errors import RecordError
from vmctl.evidence import Policy
from vmctl.journal import Journal
from vmctl.routing import Moment
from vmctl.view import View

MOST_MOVES = 3
AT_HOME = HOUR + 2 * HOLD + 6 * HEARTBEAT  # and then until it is the home


class Watch:
    """The eyes on a world of roles."""

    def __init__(self, world):
        profile = world.profile
        self._world = world
        after = world.config.failover.after
        self.settled = (
            START_WAIT + 2 * after + TTL + 2 * HEARTBEAT
        )  # seconds after the faults until one serves each service
        self._policy = Policy(
            after, True, START_WAIT, profile.failback, profile.gate, HOLD, TIMEOUT, DRAIN, MOST_MOVES, HEARTBEAT
        )
        self._arbitrated = bool(world.config.arbiter.endpoints)
        self._read = dict.fromkeys(NAMES, 0)  # lines of the journal
        self._sizes = dict.fromkeys(NAMES, 0)
        self._routes = dict.fromkeys(NAMES, (None, None))
        self._moves = {}
        self._carried_out = {}
        self._well = {}  # service -> server -> when something last kept it from taking the service
        self.ordered = {}  # (service, verb) -> how often a person ordered it
        self.troubled = 0  # when something last kept mail from getting through both ways, or a person moved a role

    @property
    def now(self):
        """Seconds."""
        return self._world.now / 1e6

    def __call__(self):
        """Look. Raises Violation."""
        world = self._world
        for name in NAMES:
            self._read_journal(name)
        served = {name: self.told(name) for name in NAMES}
        if self._is_troubled():
            self.troubled = self.now
        for service in world.config.services:
            serving = [name for name in NAMES if service in served[name]]
            if len(serving) > 1:
                self._two(service)
            self._look_for_nobody(service, serving)
        for name in NAMES:
            self._look_at_a_start(name, served[name])
            self._look_at_rolled_back(name, served[name])

    def _is_troubled(self):
        world = self._world
        return bool(
            world.network.blocked
            or world.frozen
            or world.busy
            or any(each.post is None for each in world.machines.values())
        )

    def forget(self, name):
        """The store of a server is another one now."""
        self._sizes[name] = 0
        self._read[name] = max((entry["seq"] for entry in self._journal(name).entries(limit=1)), default=0)
        self._moves = {key: value for key, value in self._moves.items() if key[0] != name}

    # Who is told to serve

    def told(self, name):
        """The services of which programs are told at this moment that this server serves them."""
        machine = self._world.machines[name]
        found = set()
        if machine.post is not None or self._arbitrated:  # of a dead one only what an arbiter bounds is believed
            found |= self._by_file(machine)
        if machine.post is not None and name not in self._world.frozen and name not in self._world.busy:
            found |= {service for service, serves in machine.post.serving().items() if serves}
        return found

    def _by_file(self, machine):
        path = machine.root / ".vmctl/routes.json"
        try:
            status = path.stat()
            stamp = status.st_ino, status.st_mtime_ns
            if self._routes[machine.name][0] != stamp:
                self._routes[machine.name] = stamp, routes_file.read(path)
            now = Moment(machine.clock.steady(), machine.clock.boot())
            answers = routes_file.answers_of(path, self._routes[machine.name][1], now)
        except (OSError, RecordError):
            return set()
        return {service for service, answer in answers.items() if answer.server == machine.name}

    def _two(self, service):
        require(not self._arbitrated, f"two serve {service} at {self.now:.1f} although there is an arbiter")
        bound = 3 * (HEARTBEAT + self._world.profile.pace + 1)  # a challenge, its echo, and the view that comes next
        heard = f"two serve {service} at {self.now:.1f} although they hear each other since {self.troubled:.1f}"
        require(self.now - self.troubled <= bound, heard)

    def _look_for_nobody(self, service, serving):
        """Somebody serves whenever some server is well and may."""
        world = self._world
        since = self._well.setdefault(service, dict.fromkeys(NAMES, 0.0))
        for name in NAMES:
            machine, around = world.machines[name], world.machines[name].around
            works = machine.post is not None and name not in world.frozen and name not in world.busy
            well = works and around.well and not around.cut_off and machine.side.fault is None
            reaches = not self._arbitrated or (
                not world.arbiter.down and not machine.line.loss and not machine.line.delay
            )
            free = works and not self.is_paused(name) and len(self._lately(name, service)) < MOST_MOVES
            if serving or not (well and reaches and free and not world.lacks[name]):
                since[name] = self.now
        nobody = f"nobody serves {service} at {self.now:.1f} although a server may since {min(since.values()):.1f}"
        require(self.now - min(since.values()) <= self.settled, nobody)

    def _look_at_a_start(self, name, served):
        machine = self._world.machines[name]
        if machine.post is None or not served or name in self._world.busy or machine.asks_until <= self._world.now:
            return
        asked = machine.post.replica.contact.silent_for() is not None
        for service in served:
            leased = self._arbitrated and machine.leases.permit(service) > 0
            require(asked or leased, f"{name} serves {service} at {self.now:.1f}, at once after its start")

    def _look_at_rolled_back(self, name, served):
        """A server that was put back serves nobody before it holds again what the other holds, while that one can."""
        world = self._world
        machine = world.machines[name]
        if machine.post is None or name in world.busy:
            return
        world.lacks[name] = {key for key in world.lacks[name] if machine.index.get(key) is None}
        other = world.machines[world.other(name)]
        can = other.post is not None and other.around.well and not world.lacks[other.name]
        free = not self.is_paused(name) and all(len(self._lately(name, service)) < MOST_MOVES for service in served)
        if served and world.lacks[name] and can and free and machine.post.replica.contact.heard:
            raise Violation(
                f"{name} serves at {self.now:.1f} although it was put back and lacks {sorted(world.lacks[name])}"
            )

    # The journals

    def _journal(self, name):
        return Journal(self._world.machines[name].root / ".vmctl/journal.jsonl")

    def is_paused(self, name):
        """Whether a person's pause without an end is on, as a server knows it."""
        pause = self._world.paused[name]
        return bool(pause and pause["on"] and pause["seconds"] is None)

    def _read_journal(self, name):
        machine = self._world.machines[name]
        path = machine.root / ".vmctl/journal.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size == self._sizes[name] or name in self._world.busy:
            return
        self._sizes[name] = size
        if machine.post is not None and machine.post.journal_trouble is not None:
            raise Violation(f"{name}: {machine.post.journal_trouble}")
        for entry in self._journal(name).entries(since=self._read[name]):
            self._read[name] = entry["seq"]
            if entry["kind"] == "agreed" and entry["name"] == "pause":
                self._world.paused[name] = entry["value"]
            if entry["kind"] == "transition":
                self._transition(name, entry)

    def _transition(self, name, entry):
        before, after = View.from_json(entry["from"]), View.from_json(entry["to"])
        by = entry["by"].partition(" ")[0]
        made = Made(name, self.now, before, after, by, entry["reason"], entry["evidence"])
        self._world.tell(f"    {self.now:9.3f} {made.words}")
        judge(made, self._policy)
        lately = self._lately(name, before.service)
        if made.moved and after.cause in BY_ITSELF:
            lately.append(self.now)
        if made.counts:
            self._judge_by_what_is_so(made, lately)
        if by == "operator":
            verb = "failover" if after.serving != after.home and after.state == "resilience" else "failback"
            key = name, before.service, verb
            self._carried_out[key] = self._carried_out.get(key, 0) + 1
            often = f"one order was carried out twice: {made.words}"
            require(self._carried_out[key] <= self.ordered.get(key[1:], 0), often)

    def _judge_by_what_is_so(self, made, lately):
        """What the journal gives as evidence may be wrong: this looks at the world itself."""
        machine = self._world.machines[made.server]
        starts = made.before.state == "starting"
        require(starts or not self.is_paused(made.server), f"moved in a pause: {made.words}")
        require(starts or len(lately) <= MOST_MOVES, f"moved too often: {made.words}")
        if made.after.cause == "silence":
            require(machine.around.well, f"took over while it is unwell: {made.words}")
            require(not machine.around.cut_off, f"took over while it is cut off: {made.words}")
        if made.after.cause == "gate":
            require(machine.around.count == 0, f"cut a call: {made.words}")
        if made.after.cause in {"gate", "failback"} and self._policy.gate == "completed":
            owed = machine.index.shelf.owed()
            require(
                owed[1] is None or machine.clock.wall() - owed[1] < 10_000_000, f"went home, owing {owed}: {made.words}"
            )

    def _lately(self, name, service):
        moves = self._moves.setdefault((name, service), [])
        moves[:] = [at for at in moves if self.now - at < HOUR]
        return moves

    def verify(self):
        """The chains of both journals."""
        for name in NAMES:
            require(not (faults := self._journal(name).verify()), f"the journal of {name}: {faults}")
