"""Where stories are entered, and the scene that most of them begin with.

A story is a generator. What it does before its `yield` makes the scene; every step after it is a point. It says what is
promised when it is promised: `holds`, `begins`, or the acts of `Story` that say so themselves.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple


class Plot(NamedTuple):
    """A story by its name.

    `first` is what a person does after a crash, before the servers start; `also` looks at the directory after the start
    and says what does not hold.
    """

    name: str
    tell: Callable
    settings: dict | None = None
    first: Callable | None = None
    also: Callable | None = None


STORIES = {}


def story(tell=None, **how):
    """Enter a generator function as a story."""
    if tell is None:
        return functools.partial(story, **how)
    STORIES[tell.__name__] = Plot(tell.__name__, tell, **how)
    return tell


def furnished(it):
    """Mailbox 2001 with two messages, the same on both servers; their ids."""
    it.desk().create_mailbox("2001", {"name": "Ada"})
    idents = [it.leave(), it.leave()]
    it.in_step()
    return idents
