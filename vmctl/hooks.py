"""A hook: a program that is told something. It finds the facts twice: as variables, and as JSON on its standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmctl import program
from vmctl.model import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from vmctl.clock import Deadline

_LONGEST_VALUE = 4000  # characters


def run(
    command: Sequence[str],
    facts: Mapping[str, Any],
    tell: Callable[[str | None], None],
    *,
    config: Path,
    deadline: Deadline,
) -> None:
    """Run a hook as `program.run` does; `tell` is called once, with None when it exited with 0, else why it failed.

    Of the variables null is empty, true and false are words, and lists and mappings are left out.
    """

    def ended(how: program.Ended) -> None:
        tell(how.why or None)

    given = canonical(dict(facts))
    program.run(command, ended, config=config, facts=variables(facts), deadline=deadline, given=given)


def variables(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts as text that a variable can hold: one line, printable, not longer than 4000 characters."""
    return {name: _text(value) for name, value in facts.items() if not isinstance(value, (list, dict))}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "".join(char if char.isprintable() else "?" for char in str(value)[:_LONGEST_VALUE])
