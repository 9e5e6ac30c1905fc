"""JSON of a sync mail, read strictly: what one reader would take so and another otherwise is refused.

Refused are NaN and infinity, numbers too great for a float, doubled keys, and nesting deeper than MAX_DEPTH. Unknown
keys are left alone: a later version may have put them there.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from vmctl.mail_parts import garbage

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 64  # of lists and mappings in each other
MAX_TEXT = 256  # characters of a name, an id, a challenge

_SHA256 = re.compile(r"[0-9a-f]{64}")


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, members in their order. Raises ValueError for NaN and infinity."""
    return _compact(value).encode("utf-8", "backslashreplace")  # half a character becomes JSON's own \udxxx


def loads(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises ValueError with what is wrong."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_mapping, parse_float=_float, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - one error for every fault of data
    if _deeper_than(value, MAX_DEPTH):
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return value


def expect(is_right: Callable[[Any], bool], value: dict[str, Any], name: str) -> Any:
    """The member `name`. Raises MailGarbage when it is missing or not `is_right`."""
    if not is_right(value.get(name)):
        raise garbage(f"{name!r} in its JSON cannot be {shown(value.get(name))}")
    return value[name]


def maybe(is_right: Callable[[Any], bool], value: dict[str, Any], name: str) -> Any:
    """The member `name`, or None where it is null or missing. Raises MailGarbage when it is not `is_right`."""
    return None if value.get(name) is None else expect(is_right, value, name)


def is_text(value: Any) -> bool:
    """Whether it is a text of at most MAX_TEXT characters, all of them whole."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and _is_whole(value)


def is_mapping(value: Any) -> bool:
    """Whether it is a JSON object, and every character in it whole: half a one fits neither the index nor a file."""
    return isinstance(value, dict) and _is_whole(value)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0 that every JSON reader can hold (53 bits)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_seconds(value: Any) -> bool:
    """Whether it is a number from 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in small hex digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_records(value: Any) -> bool:
    """Whether it is a list of objects that each have a text `key`."""
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("key"), str) for one in value)


def is_journal(value: Any) -> bool:
    """Whether it is a length and a hash."""
    return isinstance(value, list) and len(value) == 2 and is_count(value[0]) and is_text(value[1])  # noqa: PLR2004


def shown(value: Any) -> str:
    """A value from outside as an error may show it: plain ASCII, short."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004


def _is_whole(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is doubled")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too great")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
