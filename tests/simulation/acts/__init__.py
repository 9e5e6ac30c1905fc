"""What can happen: one small function an act. Each draws from `world.chance` only, and tells the ledger what it did.

An act takes the world and the name of a server, and gives a few words for the story. Register a new one with `@act`;
`kind` is what a profile enables or leaves out as a whole.
"""

# In this order the acts come in ACTS, and a seed's schedule depends on it. A room imports only from those before it.
# isort: off
from simulation.acts import orders, machines, writing, removing, memory, operators  # noqa: F401 - each enters its own
from simulation.acts.registry import ACTS

__all__ = ["ACTS"]
