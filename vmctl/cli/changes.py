"""How a difference between two documents is told to people: a line for each value, a callflow as a diff of its text."""

from __future__ import annotations

import difflib
import re
from typing import Any

_LONGEST = 100  # characters of a value
HIDDEN = "(hidden)"
_NOT_SET = "(not set)"
_SECRET = re.compile(
    r"(?:^|[._-])(?:pins?|password|passwd|passcode|passphrase|secret|token|credentials?)(?:$|[._-])", re.IGNORECASE
)


def lines(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`path: old -> new` for each difference; PINs and their hashes are nobody's to see."""
    from vmctl.delta import differences

    return [
        f"{'.'.join(map(str, line.path))}: {_shown(line.path, line.old)} -> {_shown(line.path, line.new)}"
        for line in differences(old, new)
    ]


def text_lines(old: str, new: str, names: tuple[str, str]) -> list[str]:
    """The unified diff of two texts that are called by these names."""
    return [line.rstrip("\n") for line in difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm="")]


def values(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The differences for programs: `path` (a list of keys and places), `old` and `new`, null for nothing."""
    from vmctl.delta import differences

    return [
        {"path": list(line.path), "old": _plain(line.path, line.old), "new": _plain(line.path, line.new)}
        for line in differences(old, new)
    ]


def is_secret(path: tuple[str | int, ...]) -> bool:
    """Whether a value must not be shown. The hash of a PIN is as good as the PIN: there are ten thousand of four digits."""
    return any(_SECRET.search(str(step)) for step in path)


def masked(path: tuple[str | int, ...], value: Any) -> Any:
    """A value as it may be shown, with what is secret in it hidden, however deep it stands."""
    if is_secret(path):
        return HIDDEN
    if isinstance(value, dict):
        return {name: masked((str(name),), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked((), inner) for inner in value]
    return value


def short(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _shown(path: tuple[str | int, ...], value: Any) -> str:
    from vmctl.model import ABSENT

    return _NOT_SET if value is ABSENT else HIDDEN if is_secret(path) else short(masked(path, value))


def _plain(path: tuple[str | int, ...], value: Any) -> Any:
    from vmctl.model import ABSENT

    return None if value is ABSENT else masked(path, value)
