"""The roles under simulation: both daemons' own loops, turn by turn, with an arbiter or without one."""
