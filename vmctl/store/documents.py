"""The text of each kind of file, and the document that it stands for. Pure: no disk, no clock."""

from __future__ import annotations

import json
import math
from typing import Any

from vmctl import callflow, yamltext
from vmctl.errors import BadValue, BrokenFile, CallflowFaults
from vmctl.fields import MAILBOX_FIELDS, check_mailbox, check_message, two_things
from vmctl.model import (
    ABSENT,
    CALLFLOW,
    MAILBOX,
    SETTINGS,
    Field,
    Record,
    Stamp,
    check_numbers,
    parse_key,
    stamp_from_json,
)
from vmctl.names import is_name

YAML_HEAD = "# vmctl rewrites this file when its values change on the other server; comments are lost then.\n"
_TWICE = "# {0} was set as a value at one server and as a section at the other: remove the one or the other.\n"
YAML_KINDS = (SETTINGS, CALLFLOW, MAILBOX)


def read_yaml(kind: str, data: bytes, name: str) -> dict[str, Any]:
    """The document of a YAML file. Raises BrokenFile, CallflowFaults or BadValue; `name` is for their words."""
    value = yamltext.load(data, name)
    if kind == SETTINGS and value is None:
        value = {}
    if not isinstance(value, dict):
        raise BrokenFile(f"{name} is not a mapping", why=f"its value is a {type(value).__name__}")
    if kind == CALLFLOW:
        return {"text": data.decode("utf-8")}
    if kind == SETTINGS:
        return _flat(value, name)
    return _as_broken(check_mailbox, value, name)


def check_callflow(text: str | bytes, name: str, prompts: list[str], mailboxes: list[str]) -> None:
    """Check a callflow that asks for it by its schema. Raises BrokenFile, or CallflowFaults with all its faults."""
    document = yamltext.load(text, name)
    if not isinstance(document, dict):
        raise BrokenFile(f"{name} is not a mapping", why=f"its value is a {type(document).__name__}")
    if callflow.is_checked(document):
        faults = callflow.check(document, prompts=prompts, mailboxes=mailboxes)
        if faults:
            first = "; ".join(f"{fault['key']}: {fault['why']}" for fault in faults[:3])
            count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
            raise CallflowFaults(f"{name} has {count}", [dict(fault) for fault in faults], why=first)


def write_yaml(kind: str, document: dict[str, Any]) -> bytes:
    """The file of a document: a callflow's own text, else YAML under a line that says who rewrites it."""
    if kind == CALLFLOW:
        return str(document.get("text", "")).encode()
    value = _nested(document) if kind == SETTINGS else _in_order(document)
    twice = "".join(_TWICE.format(name) for name in two_things(document)) if kind == SETTINGS else ""
    return (YAML_HEAD + twice + (yamltext.dump(value) if value else "{}\n")).encode()


def read_message(key: str, data: bytes, name: str) -> tuple[dict[str, Any], Record | None]:
    """The document of a message's JSON, and its record if the file holds stamps and presence. Raises BrokenFile."""
    try:
        value = _json(data)
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{name} is no JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise BrokenFile(f"{name} is not a mapping")
    ident = value.pop("id", None)
    if ident is not None and ident != parse_key(key).name:
        raise BrokenFile(f"{name} holds the id of another message", why=f"its id is {str(ident)[:80]!r}")
    sync = value.pop("sync", None)
    document = _as_broken(check_message, value, name)
    if sync is None:
        return document, None
    try:
        return document, _record(key, document, sync)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenFile(f"{name} has a damaged 'sync' part", why=str(error)) from error


def write_message(record: Record) -> bytes:
    """The JSON file of a message, a line for each field, then what a new index needs to know."""
    stamps = {name: list(field.stamp) for name, field in record.fields.items()}
    sync = {key: value for key, value in record.as_json().items() if key != "fields"} | {"stamps": stamps}
    value = {"id": parse_key(record.key).name, **record.document, "sync": sync}
    lines = (f" {_as_ascii(name)}: {_as_it_is(part)}" for name, part in value.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _record(key: str, document: dict[str, Any], sync: dict[str, Any]) -> Record:
    fields = {
        name: Field(document.get(name, ABSENT), stamp_from_json(key, stamp)) for name, stamp in sync["stamps"].items()
    }
    record = Record.of_fields(key, sync, fields)
    for name in document.keys() - fields.keys():  # a field that a person added
        fields[name] = Field(document[name], Stamp(record.born.number, record.born.by, record.born.number))
    check_numbers(record)
    return record


def _flat(value: dict[str, Any], name: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for section, part in value.items():
        outer, dot, inner = section.partition(".")
        if dot and not isinstance(value.get(outer, {}), dict):  # as `_nested` writes what is a value as well
            names = [outer, inner]
        else:
            names = [section, *part] if isinstance(part, dict) else [section]
        wrong = [word for word in names if not is_name(word)]
        if wrong:
            raise BrokenFile(
                f"{name} has a bad key {wrong[0][:80]!r}",
                why="keys are letters, digits, '-' and '_', and what belongs to a section stands under it",
            )
        if isinstance(part, dict) and names[0] == section:
            document |= {f"{section}.{key}": item for key, item in part.items()}
        else:
            document[section] = part
    return document


def _in_order(document: dict[str, Any]) -> dict[str, Any]:
    """A mailbox with its fields in the order of their table, as people expect them; unknown ones last."""
    order = list(MAILBOX_FIELDS)
    return dict(
        sorted(document.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))
    )


def _nested(document: dict[str, Any]) -> dict[str, Any]:
    """Sections of keys. What is a value as well can be no section: its keys stand beside it under their whole names."""
    value: dict[str, Any] = {}
    for name in sorted(document):
        section, dot, key = name.partition(".")
        if not dot:
            whole = document[name]
            value[section] = dict(whole) if isinstance(whole, dict) else whole  # a copy: its section may grow below
        elif isinstance(value.get(section, {}), dict):
            value.setdefault(section, {})[key] = document[name]
        else:
            value[name] = document[name]
    return value


def _as_broken(check: Any, value: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        checked: dict[str, Any] = check(value)
    except BadValue as error:
        raise BrokenFile(
            f"{name}: {error.what}", why=error.why, hint="correct the file: it is not shipped until then"
        ) from error
    return checked


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _json(data: bytes) -> Any:
    """The value. Raises ValueError also for what the parser takes and nobody can pass on: 1e999, half a character, endless nesting."""
    coding = json.detect_encoding(data)
    value = _DECODER.decode(data.decode(coding, "surrogatepass"))
    if data.count(b"{") + data.count(b"[") > yamltext.DEPTH and _depth(value) > yamltext.DEPTH:
        raise ValueError(f"more than {yamltext.DEPTH} mappings and lists inside one another")
    if coding != "utf-8" or b"\\u" in data or not data.isascii():
        _as_it_is(value).encode()
    return value


def _depth(value: Any) -> int:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if below is None else 1 + max(map(_depth, below), default=0)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too great a number")
    return value


# Made once: there is one for each message of thousands.
_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_unique)
_as_ascii = json.JSONEncoder().encode
_as_it_is = json.JSONEncoder(ensure_ascii=False).encode
