"""Checks a document that a person wrote against tables of its keys, and notes every fault instead of the first.

Nothing raises on any JSON value, and the work is bounded whatever the document holds.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

Fault = dict[str, str]

_PLAIN = re.compile(r"[A-Za-z0-9+*#_-]{1,64}", re.ASCII)
_MOST_GUESSES = 50  # a guess compares with every name there is
_MOST_GUESSED = 2000
_LONGEST_SHOWN = 40


class Part(NamedTuple):
    """One key of a mapping: how its value is checked, whether it must be there, and what is said when it is not.

    `check` gets the sheet, the dotted path and the value; it notes faults and returns what the value means, or None
    for a faulty one.
    """

    check: Callable[[Any, str, Any], Any]
    must: bool
    missing: str = ""


class Sheet:
    """The faults found so far in one document: `{"key": dotted path, "why": ..., "mend": ...}`."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._guesses = 0

    def fault(self, key: str, why: str, mend: str) -> None:
        """Note one fault."""
        self.faults.append({"key": key, "why": why, "mend": mend})

    def mapping(self, path: str, value: Any, parts: dict[str, Part], what: str) -> dict[str, Any] | None:
        """Check a mapping with fixed keys; what its values mean, or None when it is none."""
        if not isinstance(value, dict):
            self.fault(path, f"{what} is a mapping, not {shown(value)}", f"give it keys: {', '.join(parts)}")
            return None
        meant = {}
        for name, inner in value.items():
            if name in parts:
                meant[name] = parts[name].check(self, join(path, name), inner)
            else:
                mend = self.guess(name, parts) or f"remove it; the keys of {what} are {', '.join(parts)}"
                self.fault(join(path, name), f"{what} has no key {shown(name)}", mend)
        for name, part in parts.items():
            if part.must and name not in value:
                self.fault(join(path, name), part.missing or f"{what} needs the key '{name}'", f"add '{name}:'")
        return meant

    def text(self, path: str, value: Any, what: str) -> bool:
        """Whether a value is text; a fault otherwise."""
        if not isinstance(value, str):
            self.fault(path, f"{what} is text, not {shown(value)}", "write text, in quotes if it is a number")
        return isinstance(value, str)

    def items(self, path: str, value: Any, example: str) -> Iterator[tuple[str, Any]]:
        """The paths and values of a list; a fault when it is none or empty."""
        if not isinstance(value, list) or not value:
            self.fault(path, f"{shown(value)} is no list with something in it", f"write a list such as {example}")
            return
        for place, item in enumerate(value):
            yield join(path, place), item

    def nearest(self, name: object, among: Collection[str]) -> str | None:
        """The name that was probably meant. A hostile document cannot ask without end."""
        if not isinstance(name, str) or self._guesses >= _MOST_GUESSES or len(among) > _MOST_GUESSED:
            return None
        self._guesses += 1
        plain = [other for other in among if isinstance(other, str) and _PLAIN.fullmatch(other)]
        return next(iter(difflib.get_close_matches(name[:64], plain, n=1)), None)

    def guess(self, name: object, among: Collection[str]) -> str:
        """Ask `did you mean 'x'?`, or nothing."""
        nearest = self.nearest(name, among)
        return "" if nearest is None else f"did you mean '{nearest}'?"


def join(path: str, step: object) -> str:
    """The dotted path of what is `step` below `path`; the empty path is the document."""
    return f"{path}.{in_path(step)}" if path else in_path(step)


def in_path(step: object) -> str:
    """One step of a dotted path: as it stands if it is plain, else quoted and shortened."""
    return step if isinstance(step, str) and _PLAIN.fullmatch(step) else shown(step)


def shown(value: object) -> str:
    """A value in a few words: it may be long, deeply nested or not printable."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]!r}..."
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    return {dict: "a mapping", list: "a list", int: "a number", float: "a number"}.get(type(value), "something else")
