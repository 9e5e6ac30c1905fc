"""What can be simulated: the data of two stores, or the roles of two daemons."""

from typing import Any, NamedTuple

from . import plants, schedule
from .roles import plants as role_plants
from .roles import schedule as role_schedule


class Kind(NamedTuple):
    """How a schedule is made of a seed and run, the sort of its profile, and the bugs that are planted for it."""

    flag: str  # of `python -m simulation`
    schedule_of: Any
    run: Any
    profile: Any
    plants: dict


DATA = Kind("", schedule.schedule_of, schedule.run, schedule.Profile, plants.PLANTS)
ROLES = Kind("--roles ", role_schedule.schedule_of, role_schedule.run, role_schedule.RoleProfile, role_plants.PLANTS)
