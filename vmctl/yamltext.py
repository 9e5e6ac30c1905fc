"""What people write: YAML with JSON's types only, read through PyYAML's events; the only door to it.

YAML's own types surprise: `0123` would be 83, `12:30:00` 45000, `no` false, and the second of two equal keys would win
silently. So a plain scalar is `null` (or nothing at all), `true`, `false`, a number as JSON writes it, or else a
string; a mapping's key is its text. Aliases, tags of one's own, doubled keys and a second document are faults, and
size and nesting are bounded, so that no file can eat the machine.

`dump` needs no library: JSON values in block style are a page of code, and come out the same wherever vmctl runs.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import yaml

from vmctl.errors import BrokenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 20  # bytes of one file, as UTF-8
DEPTH = 32  # mappings and lists inside one another

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "null": None, "true": True, "false": False}
_TAGGED: dict[str, tuple[type, ...]] = {
    "null": (type(None),), "bool": (bool,), "int": (int,), "float": (float, int), "str": (str,),
}  # fmt: skip
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1, 5.1
_STANDARD = "tag:yaml.org,2002:"

# A string that no reader of YAML, old or new, takes for anything else: words, or a count with its unit.
_PLAIN = re.compile(r"[^\W\d][\w./@+()'!?,;%&=-]*(?:[ :][\w./@+()'!?,;%&=-]+)*|[1-9][0-9]*[A-Za-z]+")
_LIKE_OTHERS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_SHORT_KEY = 1000  # libyaml finds the ':' of a longer key only behind a '?'
_LAST_OF_FOUR_DIGITS = 0xFFFF


def load(text: str | bytes, name: str) -> Any:
    """The value of a YAML document; None for an empty one.

    `name` is the file for the reader of an error. Raises BrokenFile with the line and column of the fault.
    """
    source = _source(text, name)
    try:
        return _document(yaml.parse(source, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = ": ".join(part for part in (error.context, error.problem) if part)
        raise _broken(name, place, why) from error
    except yaml.YAMLError as error:
        raise _broken(name, "", str(error)) from error


def dump(value: Any) -> str:
    """The value as YAML in block style, keys in their order: `load(dump(value)) == value` for every JSON value.

    Raises ValueError for what is no JSON value (NaN, infinity, lone surrogates, keys that are no strings) or is nested
    deeper than DEPTH.
    """
    return _node(value, "", 0).lstrip("\n ") + "\n"


def _source(text: str | bytes, name: str) -> str:
    if isinstance(text, bytes):
        _bound(len(text), name)
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise _broken(name, f" line {line}", f"byte {error.start + 1} of the file is not UTF-8") from error
    if bad := _FORBIDDEN.search(text):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        raise _broken(
            name, f" line {line}, column {column}", f"the character U+{ord(bad[0]):04X} is not allowed in YAML"
        )
    _bound(len(text.encode()), name)
    return text.removeprefix("\ufeff")


def _bound(size: int, name: str) -> None:
    if size > SIZE:
        raise _broken(name, "", f"it has {size} bytes, at most {SIZE} are read")


def _broken(name: str, place: str, why: str) -> BrokenFile:
    return BrokenFile(f"{name}{place} cannot be read as YAML", why=why)


def _document(events: Iterator[yaml.Event]) -> Any:
    value, documents = None, 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _fault("a second document begins here: one file holds one", event)
            value = _value(next(events), events, 0)
    return value


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.AliasEvent):
        raise _fault(f"the alias *{str(event.anchor)[:40]} stands here: aliases are not allowed, write it out", event)
    if depth == DEPTH:
        raise _fault(f"more than {DEPTH} mappings and lists inside one another", event)
    if isinstance(event, yaml.MappingStartEvent):
        _check_tag(event, "map")
        return _mapping(events, depth)
    _check_tag(event, "seq")
    values = []
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        values.append(_value(event, events, depth + 1))
    return values


def _mapping(events: Iterator[yaml.Event], depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise _fault("a key must be a word or a string", event)
        _check_tag(event, "str", "int", "float", "bool", "null")
        key: str = event.value
        if key in values:
            raise _fault(f"the key {key[:80]!r} stands here for the second time", event)
        values[key] = _value(next(events), events, depth + 1)
    return values


def _scalar(event: yaml.ScalarEvent) -> Any:
    kind = _check_tag(event, "str", "int", "float", "bool", "null")
    text: str = event.value
    plain = event.style in {None, ""} and event.implicit[0]
    value = text if kind == "str" or not (plain or kind) else _resolved(text, event)
    if kind and type(value) not in _TAGGED[kind]:
        raise _fault(f"{text[:80]!r} is no {kind}", event)
    return value


def _check_tag(event: Any, *allowed: str) -> str:
    """The short name of an explicit tag: empty for none, `str` for the bare `!`."""
    if event.tag is None or (event.tag == "!" and allowed[0] != "str"):
        return ""
    kind = "str" if event.tag == "!" else str(event.tag).removeprefix(_STANDARD)
    if kind not in allowed:
        raise _fault(f"the tag {str(event.tag)[:80]!r} is not allowed here", event)
    return kind


def _resolved(text: str, event: yaml.Event) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.fullmatch(text)
    if not match:
        return text
    try:
        value = float(text) if match[1] or match[2] else int(text)
    except ValueError as error:  # Python's own bound on digits
        raise _fault(f"a number with {len(text)} digits", event) from error
    if isinstance(value, float) and math.isinf(value):
        raise _fault(f"the number {text[:80]} is too large", event)
    return value


def _fault(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _node(value: Any, pad: str, depth: int) -> str:
    """What follows a `-` or a `key:`; it begins with a space, or with a new line for a mapping or a list."""
    if isinstance(value, (dict, list)) and depth == DEPTH:
        raise ValueError(f"more than {DEPTH} mappings and lists inside one another")
    if isinstance(value, dict) and value:
        return "".join(f"\n{pad}{_key(key, pad)}{_node(below, pad + '  ', depth + 1)}" for key, below in value.items())
    if isinstance(value, list) and value:
        return "".join(f"\n{pad}-{_item(below, pad + '  ', depth + 1)}" for below in value)
    if isinstance(value, str) and pad and _is_literal(value):
        lines = "".join(f"\n{pad}{line}" if line else "\n" for line in value.removesuffix("\n").split("\n"))
        return (" |" if value.endswith("\n") else " |-") + lines
    return " " + _flat(value)


def _item(value: Any, pad: str, depth: int) -> str:
    text = _node(value, pad, depth)
    return " " + text[1 + len(pad) :] if text.startswith("\n") else text  # the first key stands behind the dash


def _key(key: Any, pad: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"the key {key!r} is no string")  # noqa: TRY004 - one error for every value that is not JSON
    text = _string(key)
    return f"{text}:" if len(text) <= _SHORT_KEY else f"? {text}\n{pad}:"


def _flat(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if value in ({}, []):
        return "{}" if value == {} else "[]"
    raise ValueError(f"{value!r} is no JSON value")


def _string(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _LIKE_OTHERS and text.isprintable():
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    if char == "\n":
        return "\\n"
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 - the surrogates
        raise ValueError(f"the lone surrogate U+{code:04X} is no character")
    return f"\\u{code:04x}" if code <= _LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


def _is_literal(text: str) -> bool:
    """Whether several lines can stand as they are under a `|`, and stay so if an editor trims the ends of lines."""
    lines = text.removesuffix("\n").split("\n")
    tidy = all(line.isprintable() and not line.endswith(" ") for line in lines)
    return "\n" in text and tidy and lines[0][:1] not in {"", " "} and lines[-1] != ""
