"""Whether a transition was right, by what was known to who made it. Nothing here asks the table's own questions."""

from typing import NamedTuple

from simulation.ledger import require
from vmctl.evidence import Policy
from vmctl.view import View, newer

BY_ITSELF = {"silence", "unwell", "gate", "timeout"}


class Made(NamedTuple):
    """A transition that a server made: when (seconds), on what (the evidence as the journal has it), and who caused it."""

    server: str
    at: float
    before: View
    after: View
    by: str
    reason: str
    seen: dict

    @property
    def words(self):
        """For the story."""
        before, after = self.before, self.after
        return (
            f"{self.server}: {before.service} {before.state} -> {after.state}, {after.serving or 'nobody'} serves, "
            f"epoch {after.epoch.number} {after.epoch.server}, {after.cause}: {self.reason}"
        )

    @property
    def moved(self):
        """Whether another server serves than served last."""
        claim = self.before.claim
        return claim is not None and self.after.serving not in {None, claim.server}

    @property
    def counts(self):
        """Whether it is a move that a service makes by itself."""
        return self.moved and self.by == "vmctl" and self.after.cause in BY_ITSELF and not self.was_given

    @property
    def was_given(self):
        """Whether the other server gave it here before, and was started again."""
        theirs = self.seen["peer_view"] if self.seen["heard"] else None
        claim = View.from_json(theirs).claim if theirs else None
        home = self.before.home
        return claim is not None and claim.server == self.server and newer(claim.epoch, self.before.epoch, home)


def judge(made: Made, policy: Policy):
    """Raises Violation for a transition that must not be."""
    before, after, seen = made.before, made.after, made.seen
    old, new = before.epoch, after.epoch
    words = made.words
    homes = {old.server, before.home, after.home, seen.get("home")}  # of equal numbers the home's is the higher
    rises = new.number > old.number or (new.number == old.number and new.server in homes)
    require(rises, f"the epoch fell from {old.number} {old.server}: {words}")
    if made.by == "peer" or after.serving is None:
        return
    require(new.number > old.number, f"the epoch did not rise: {words}")
    if after.serving == made.server:
        require(seen["permit"] is None or seen["permit"] > 0, f"took the service without a permit: {words}")
    if made.was_given:
        return
    if (before.state, after.state) == ("recovering", "normal") and after.cause in {"gate", "failback"}:
        completed = seen["gate_completed"] if policy.gate == "completed" else seen["gate_restarted"]
        require(seen["heard"] and completed, f"went home before the gate: {words}")
    if after.cause == "mode" and before.serving == made.server:
        require(after.serving == made.server, f"a change of the mode moved the service: {words}")
    if after.cause == "gate" and made.moved:
        require(seen["in_state_for"] >= policy.hold, f"went home before the hold-down: {words}")
        require(seen["calls"] == 0, f"cut a call: {words}")
    if after.cause == "order" and made.moved:
        require(seen["gate_completed"], f"handed over what was not drained: {words}")
    if after.cause == "silence" and made.moved:
        silent = seen["started_for"] if seen["silent_for"] is None else seen["silent_for"]
        require(not seen["heard"] and silent >= policy.after, f"took from who is heard: {words}")
        require(not seen["cut_off"], f"took over while it is cut off: {words}")
        require(not seen["unfit"], f"took over while it is unwell: {words}")
    if before.state == "starting" and after.serving == made.server and made.by == "vmctl":
        asked = seen["heard"] or seen["leased"] or seen["started_for"] >= policy.start_wait
        require(asked, f"served at once after its start: {words}")
    if made.counts:
        # a server that starts and is not fit gives the service also in a pause: nobody would serve well
        require(not seen["paused"] or before.state == "starting", f"moved in a pause: {words}")
