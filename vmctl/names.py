"""Which names may become a path: extensions, names of files, ids of messages, names of services."""

from __future__ import annotations

import re

from vmctl.errors import BadName

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
EXTENSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
GREETINGS = ("name", "unavailable", "busy", "temporary")

_SHOWN = 40
_WORDS = {
    "extension": (EXTENSION, "1 to 32 letters, digits, '-' or '_', the first a letter or digit"),
    "name": (NAME, "1 to 64 letters, digits, '-' or '_', the first a letter or digit"),
}


def is_name(text: object) -> bool:
    """Whether `text` may name a callflow, a prompt, a message or a service."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def is_extension(text: object) -> bool:
    """Whether `text` may name a mailbox."""
    return isinstance(text, str) and EXTENSION.fullmatch(text) is not None


def check_name(text: str, what: str = "name") -> str:
    """The name itself. Raises BadName with the pattern it should have had."""
    return _check(text, what, "name")


def check_extension(text: str) -> str:
    """The extension itself. Raises BadName with the pattern it should have had."""
    return _check(text, "extension", "extension")


def check_greeting(text: str) -> str:
    """The greeting's name itself. Raises BadName with the four that there are."""
    if text not in GREETINGS:
        raise BadName(f"no greeting is called {_shown(text)}", hint="a greeting is one of " + ", ".join(GREETINGS))
    return text


def _check(text: str, what: str, rule: str) -> str:
    pattern, words = _WORDS[rule]
    if not pattern.fullmatch(text):
        raise BadName(f"{_shown(text)} is no {what}", why=f"allowed are {words}", hint=f"choose another {what}")
    return text


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"
