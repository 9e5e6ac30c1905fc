"""The mail between two servers: lost, doubled, late, cut off, altered, refused, or one way only."""

import heapq
import itertools

from vmctl.conversation import refusal
from vmctl.errors import MailRefused, PeerUnreachable

HOUR = 3_600_000_000  # microseconds
FATES = ("direct", "unanswered", "broken", "relay", "lost", "doubled", "altered", "cut", "refused", "busy")


class Network:
    """What is under way, and what happens to the next mail."""

    def __init__(self, world, weights):
        self._world = world
        self._weights = weights
        self._count = itertools.count()
        self._under_way = []
        self.blocked = set()  # names of servers whose mail does not arrive
        self.calm = False

    def fate(self):
        """What happens to the next mail."""
        if self.calm:
            return "direct"
        names = [name for name in FATES if self._weights.get(name)]
        return self._world.chance.choices(names, [self._weights[name] for name in names])[0]

    def hand_over(self, sender, raw, brought):
        """One mail leaves a server. Raises PeerUnreachable or MailRefused, as the courier does."""
        world = self._world
        to = world.other(sender)
        if sender in self.blocked:
            raise PeerUnreachable("the network is cut")
        fate = self.fate()
        if fate != "direct":
            world.count("mail " + fate)
        if fate == "broken":
            raise PeerUnreachable("the connection broke before the end of the mail")
        if fate == "busy":
            raise PeerUnreachable("451 try again later")
        if fate == "refused":
            raise MailRefused("554 no", why="somebody does not like it")
        if fate == "lost":
            return
        if fate in {"relay", "doubled"}:
            for _ in range(2 if fate == "doubled" else 1):
                late = world.chance.choice((5_000_000, 60_000_000, HOUR, 30 * HOUR))
                self.put(to, raw, brought, world.chance.randrange(1000, late))
            return
        if fate in {"altered", "cut"}:
            self._spoil(to, raw, brought, fate)
            return
        if fate == "unanswered":  # the mail arrives and its sender does not hear so
            self.arrive(to, raw, brought)
            raise PeerUnreachable("the connection broke before the answer")
        reply = self.arrive(to, raw, brought)
        if reply.startswith("5"):
            raise MailRefused("refused", why=reply)
        if not reply.startswith("2"):
            raise PeerUnreachable("the peer cannot take mail now", why=reply)

    def _spoil(self, to, raw, brought, fate):
        """A mail server in between took it, and passes on something else."""
        at = self._world.chance.randrange(len(raw))
        spoilt = (
            raw[:at]
            if fate == "cut"
            else raw[:at] + bytes([raw[at] ^ 1 << self._world.chance.randrange(7)]) + raw[at + 1 :]
        )
        reply = self.arrive(to, spoilt, brought)
        if reply.startswith("2"):
            self._world.count("spoilt mail taken")  # the summary is for people: its bytes are not signed

    def put(self, to, raw, brought, late):
        """A mail is on its way for so many microseconds."""
        heapq.heappush(self._under_way, (self._world.now + late, next(self._count), to, raw, brought))

    def arrive(self, to, raw, brought):
        """A mail is at the peer's door; gives the reply of its receiver."""
        machine = self._world.machines[to]
        if machine.post is None:
            return "421 nobody is here"
        if self.blocked >= {self._world.other(to)} and not self.calm:
            return "421 the network is cut"
        try:
            reply = self._world.receive(machine, raw)
        except Exception as error:  # noqa: BLE001 - as the receiver does it
            self._world.suspicious(error)
            reply = refusal(error)
        self._world.answered(to, brought, reply)
        return reply

    def deliver_due(self):
        """What has been under way for long enough arrives; gives how many."""
        count = 0
        while self._under_way and self._under_way[0][0] <= self._world.now:
            _, _, to, raw, brought = heapq.heappop(self._under_way)
            reply = self.arrive(to, raw, brought)
            count += 1
            if reply.startswith("4") and self._world.chance.random() < 0.8:
                self.put(to, raw, brought, 300_000_000)  # a mail server in between tries again
        return count

    def settle(self, chance):
        """The network is healed; of what was under way some is lost for good, the rest arrives now."""
        self.blocked.clear()
        rest, self._under_way = sorted(self._under_way), []
        for _, _, to, raw, brought in rest:
            if chance.random() < 0.7:
                self.put(to, raw, brought, 0)
