"""The matrix. One row: what is done to whom, and what is decided then.

A step does something (a verb of `stage`, with its words), and names the decisions that must follow before the next step:
who decides, the state, the cause, as a regular expression; several are divided by a comma. `then` is for a service whose
home is the primary, and in active-standby for all; `other` for one whose home is the secondary. Nothing else may be
decided in a row, and at its end there must be normal operation, by itself.
"""

from __future__ import annotations

from typing import NamedTuple

ACTIVE, DUAL = "active-standby", "dual-active"


class Step(NamedTuple):
    """Something is done; then these decisions follow."""

    does: str
    then: str = ""
    other: str = ""


class Row(NamedTuple):
    """A line of the matrix.

    `both` tells that two servers may serve at one moment, as nobody can know better. `apart`: `other` counts in
    active-standby, too. `modes` are those in which it is played; `spaces` that it is also for network namespaces.
    """

    name: str
    steps: tuple[Step, ...]
    both: bool = False
    apart: bool = False
    modes: tuple[str, ...] = (ACTIVE, DUAL)
    spaces: bool = False


S_TAKES, P_TAKES = "secondary resilience silence", "primary resilience silence"
S_RETURNS = "secondary recovering return, secondary normal gate"
P_RETURNS = "primary recovering return, primary normal gate"

PLAIN = (
    Row("the primary is cut off from everything, and comes back", (
        Step("isolate primary", S_TAKES),
        Step("rejoin primary", S_RETURNS),
    ), both=True, spaces=True),
    Row("the secondary is cut off from everything, and comes back", (
        Step("isolate secondary", "", P_TAKES),
        Step("awaited secondary as it is cut off itself"),
        Step("rejoin secondary", "", P_RETURNS),
    ), both=True, spaces=True),
    Row("both are cut off, and the primary comes back first", (
        Step("isolate primary secondary"),
        Step("awaited secondary as it is cut off itself"),
        Step("rejoin primary", "", P_TAKES),
        Step("rejoin secondary", "", P_RETURNS),
    ), both=True, spaces=True),
    Row("both are cut off, and the secondary comes back first", (
        Step("isolate secondary primary"),
        Step("awaited secondary as it is cut off itself"),
        Step("rejoin secondary", S_TAKES),
        Step("rejoin primary", S_RETURNS),
    ), both=True, spaces=True),
    Row("both are cut off, and come back together", (
        Step("isolate primary secondary"),
        Step("awaited secondary as it is cut off itself"),
        Step("rejoin primary secondary"),
    ), spaces=True),
    Row("the link between them is cut", (
        Step("cut", S_TAKES, P_TAKES),
        Step("mend", S_RETURNS, P_RETURNS),
    ), both=True),
    Row("nothing that the primary sends arrives", (
        # the primary may still hear that the secondary serves, and take the service back when it is silent
        Step("swallow secondary", f"{S_TAKES}.*", P_TAKES),
        Step("mend", ".*(primary normal silence|secondary normal gate).*", P_RETURNS),
    ), both=True),
    Row("nothing that the secondary sends arrives", (
        Step("cut primary", S_TAKES, f"{P_TAKES}.*"),
        Step("mend", S_RETURNS, ".*(secondary normal silence|primary normal gate).*"),
    ), both=True),
    Row("the primary's daemon is killed, and started", (
        Step("kill primary", S_TAKES),
        Step("start primary", S_RETURNS),
    )),
    Row("the secondary's daemon is killed, and started", (
        Step("kill secondary", "", P_TAKES),
        Step("unheard primary"),
        Step("start secondary", "", P_RETURNS),
    )),
    Row("both daemons are killed, and started together", (
        Step("kill primary secondary"),
        Step("start primary secondary", r"primary normal \w+", r"secondary normal \w+"),
    )),
    Row("both daemons are killed, and the primary's is started first", (
        Step("kill secondary primary"),
        Step("start primary", r"primary normal \w+", P_TAKES),
        Step("start secondary", "", P_RETURNS),
    )),
    Row("both daemons are killed, and the secondary's is started first", (
        Step("kill primary secondary"),
        Step("start secondary", S_TAKES, r"secondary normal \w+"),
        Step("start primary", S_RETURNS),
    )),
    Row("the primary's store is unmounted, and mounted again", (
        Step("unmount primary", S_TAKES),
        Step("mount primary", S_RETURNS),
    ), both=True),
    Row("the secondary's store is unmounted, and mounted again", (
        Step("unmount secondary", "", P_TAKES),
        Step("unheard primary"),
        Step("mount secondary", "", P_RETURNS),
    ), both=True),
    Row("the primary's application is dead, and well again", (
        Step("sicken primary", "primary resilience unwell"),
        Step("cure primary", S_RETURNS),
    )),
    Row("the secondary's application is dead, and well again", (
        Step("sicken secondary", "", "secondary resilience unwell"),
        Step("cure secondary", "", P_RETURNS),
    )),
    Row("a call in progress holds the failback", (
        Step("kill primary", S_TAKES),
        Step("call secondary"),
        Step("start primary", "secondary recovering return"),
        Step("awaited secondary calls in progress to end"),
        Step("hangup secondary", "secondary normal gate"),
    )),
    Row("the primary's daemon is frozen, and goes on", (
        Step("freeze primary", S_TAKES),
        Step("thaw primary", S_RETURNS),
    ), both=True),
    Row("the secondary's daemon is frozen, and goes on", (
        Step("freeze secondary", "", P_TAKES),
        Step("unheard primary"),
        Step("thaw secondary", "", P_RETURNS),
    ), both=True),
    Row("the server that serves crashes in the middle of a failback", (
        Step("kill primary", S_TAKES),
        Step("call secondary"),
        Step("start primary", "secondary recovering return"),
        Step("kill secondary", "primary normal silence", P_TAKES),
        Step("hangup secondary"),
        Step("start secondary", "", P_RETURNS),
    )),
    Row("the home crashes in the middle of a failback", (
        Step("kill primary", S_TAKES),
        Step("call secondary"),
        Step("start primary", "secondary recovering return"),
        Step("kill primary", S_TAKES),
        Step("hangup secondary"),
        Step("start primary", S_RETURNS),
    )),
    Row("the service is handed over and back under a stream of messages", (
        Step("stream"),
        Step("command secondary failover --all --timeout 60", "primary resilience order", "secondary resilience order"),
        Step("command primary failback --all --timeout 60",
             "secondary recovering failback, secondary normal failback", "primary recovering failback, primary normal failback"),
        Step("dam"),
    )),
    Row("roles are paused, and the primary's daemon is killed", (
        Step("command primary pause"),
        Step("kill primary"),
        Step("awaited secondary vmctl resume"),
        Step("command secondary resume --timeout 0", S_TAKES),
        Step("start primary", S_RETURNS),
    )),
    Row("the mode is set to dual-active and back under a stream of messages", (
        Step("stream"),
        Step("command primary mode set dual-active", "",
             "primary resilience mode, primary recovering failback, primary normal failback"),
        Step("command secondary mode set active-standby", "",
             "secondary resilience mode, secondary recovering failback, secondary normal failback"),
        Step("dam"),
    ), apart=True, modes=(ACTIVE,)),
    Row("the mode is set to active-standby and back under a stream of messages", (
        Step("stream"),
        Step("command primary mode set active-standby", "",
             "secondary resilience mode, secondary recovering failback, secondary normal failback"),
        Step("command secondary mode set dual-active", "",
             "primary resilience mode, primary recovering failback, primary normal failback"),
        Step("dam"),
    ), modes=(DUAL,)),
)  # fmt: skip

# With an arbiter two servers never serve at one moment.
LENT = (
    Row("the link is cut: who has the lease goes on", (
        Step("cut"),
        Step("unheard primary"),
        Step("awaited secondary the arbiter's lease"),
        Step("mend"),
    )),
    Row("the primary's daemon is killed, and started: its lease ends", (
        Step("kill primary", S_TAKES),
        Step("start primary", S_RETURNS),
    )),
    Row("the primary's daemon is frozen for longer than its lease, and goes on", (
        Step("freeze primary", S_TAKES),
        Step("thaw primary", "primary starting lease, secondary recovering return, secondary normal gate"),
    )),
    Row("the node of etcd that leads is lost, and comes back", (
        Step("lose leader"),
        Step("outlive primary"),
        Step("restore etcd"),
    )),
    Row("etcd is lost altogether, and comes back", (
        Step("lose all"),
        Step("outlive primary"),
        Step("restore etcd"),
    )),
    Row("etcd is lost altogether while the link is cut: nobody serves", (
        Step("cut"),
        Step("unheard primary"),
        Step("lose all", "primary starting lease", "secondary starting lease"),
        Step("mend", r"primary normal \w+", r"secondary normal \w+"),
        Step("restore etcd"),
    )),
    Row("the service is handed over and back, by the arbiter's word", (
        Step("command secondary failover --all --timeout 60", "primary resilience order", "secondary resilience order"),
        Step("command primary failback --all --timeout 60",
             "secondary recovering failback, secondary normal failback", "primary recovering failback, primary normal failback"),
    )),
)  # fmt: skip

# Where a server can be cut off from the arbiter, too.
LENT_SPACES = (
    Row("the primary is cut off from everything, and comes back", (
        Step("isolate primary", f"primary starting lease, {S_TAKES}"),
        Step("rejoin primary", S_RETURNS),
    ), spaces=True),
    Row("the secondary is cut off from everything, and comes back", (
        Step("isolate secondary", "", f"secondary starting lease, {P_TAKES}"),
        Step("awaited secondary as it is cut off itself"),
        Step("rejoin secondary", "", P_RETURNS),
    ), spaces=True),
    Row("both are cut off, and come back together: nobody serves meanwhile", (
        Step("isolate primary secondary", "primary starting lease", "secondary starting lease"),
        Step("rejoin primary secondary", r"primary normal \w+", r"secondary normal \w+"),
    ), spaces=True),
)  # fmt: skip
