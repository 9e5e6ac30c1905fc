"""The stories: what is under way when a process is killed."""

from crash_points.stories import commands, mails, memory, people, roles  # noqa: F401 - each enters its own
from crash_points.stories.registry import STORIES

__all__ = ["STORIES"]
