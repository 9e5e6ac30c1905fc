"""Two replicas with their roles, and the mails between them, in one process and on a clock that tests move."""

from arbiters import FakeArbiter
from wire import Wire

from vmctl.failover import Failover
from vmctl.leases import Leases
from vmctl.permits import margin


class Roles(Wire):
    """Two servers with their roles: every mail tells of them, as those of `vmctl serve` do.

    Where `settings` names an arbiter, it is one in memory that answers at once.
    """

    def __init__(self, directory, settings=None):
        self.roles, self.leases = {}, {}
        self.arbiter = FakeArbiter(lambda: self.clock.steady())  # noqa: PLW0108 - there is no clock yet
        super().__init__(directory, settings)
        for name in self.servers:
            self.start(name)

    def open(self, name):
        replica = super().open(name)
        if self.config.arbiter.endpoints:
            self.leases[name] = Leases(
                self.arbiter, name, replica.clock, ttl=self.config.lease.ttl, margin=margin(self.config),
                wake=lambda: None, run=lambda ask, hear: hear(ask()),
            )  # fmt: skip
        self.roles[name] = Failover(replica, leases=self.leases.get(name))
        return replica

    def start(self, name):
        """The process of a server starts."""
        self.roles[name].start()

    def crash(self, name):
        replica = super().crash(name)
        self.start(name)
        return replica

    def send(self, name, *, always=False, anew=False):
        replica, status = self.servers[name], self.roles[name].facts
        mails = []
        for parcel in replica.outbox.parcels(always=always, anew=anew, status=status):
            mails.append(parcel.raw)
            replica.outbox.left(parcel)
        self.under_way += [(self.other(name), raw) for raw in mails]
        return mails

    def deliver(self, *, take=True):
        names = {to for to, _ in self.under_way}
        super().deliver(take=False)
        for name in names if take else ():
            for taken in self.servers[name].take().taken:
                if taken.rolled_back:
                    self.roles[name].was_rolled_back()
                if taken.fresh:
                    self.roles[name].hear_orders(taken.status.get("orders"))

    def turn(self, *, mail=True):
        """A heartbeat of each server; without `mail` nothing of it arrives."""
        for name in self.roles:
            self.tick_roles(name)
            self.send(name, always=True)
        if mail:
            self.deliver()
        else:
            self.lose()
        self.clock.advance(2.5)

    def tick_roles(self, name):
        """What a daemon does in a turn for its roles; before that it looks at a store of which it knows nothing, yet."""
        if not self.servers[name].index.was_scanned:
            self.servers[name].scan()
        self.roles[name].tick()
        self.roles[name].ask_arbiter()

    def turns(self, count, **how):
        """So many heartbeats."""
        for _ in range(count):
            self.turn(**how)

    def view(self, name, service="voicemail"):
        """A service as a server knows it."""
        return self.roles[name].views()[service]

    def serve(self, service="voicemail"):
        """The servers that serve at this moment, each by its own answer."""
        return [name for name, roles in self.roles.items() if roles.serving()[service]]

    def serving(self, name):
        """Who serves, as a server knows it."""
        return self.roles[name].views()["voicemail"].serving

    def both_serve(self):
        """Whether each server believes that it serves."""
        return [self.serving(name) for name in self.servers] == list(self.servers)

    def settle(self):
        """Enough mail: both hold the same, and both say the same of who serves."""
        self.in_step()
        for _ in range(12):
            self.turn()
        self.in_step()
        assert 1 == len({self.serving(name) for name in self.servers})

    def split(self):
        """Mail is down for so long that the backup takes the service over; the home goes on serving."""
        self.clock.advance(self.config.failover.after + 1)
        for _ in range(4):
            self.turn(mail=False)
        assert self.both_serve()
