"""The changes between two versions of a document, computed with deepdiff; the only door to it.

deepdiff takes a quarter of a second to import and a third of a millisecond for each record even where nothing
differs, so it is imported on the first use and sees only two versions of one record that are known to differ. Its
own `Delta` is never used: paths from the wire must not be applied by it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vmctl.model import ABSENT, canonical


class Line(NamedTuple):
    """One difference for people: where it is, what was there, what is there now (ABSENT for nothing)."""

    path: tuple[str | int, ...]
    old: Any
    new: Any


def changed_fields(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The top-level keys whose values differ, with their new values; a removed key has the value ABSENT."""
    names = {line.path[0] for line in differences(old, new)}
    return {str(name): new.get(str(name), ABSENT) for name in sorted(map(str, names))}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Line]:
    """The differences between two documents of JSON values, down to the leaves, in the order of their paths.

    A list in which only 1 became 1.0 or true is one line for its whole field: to deepdiff those are equal there.
    """
    if old == new and canonical(old) == canonical(new):
        return []
    from deepdiff import DeepDiff
    from deepdiff.helper import NotPresent

    lines = []
    # the threshold of 0: else two documents with hardly a key in common are one difference, which has no path
    for changes in DeepDiff(old, new, view="tree", ignore_private_variables=False, threshold_to_diff_deeper=0).values():
        for change in changes:
            before = ABSENT if isinstance(change.t1, NotPresent) else change.t1
            after = ABSENT if isinstance(change.t2, NotPresent) else change.t2
            lines.append(Line(tuple(change.path(output_format="list")), before, after))
    found = {line.path[0] for line in lines}
    unseen = (old.keys() & new.keys()) - found
    lines += [Line((name,), old[name], new[name]) for name in unseen if canonical(old[name]) != canonical(new[name])]
    return sorted(lines, key=lambda line: [str(step) for step in line.path])
