"""What the documents of mailboxes and messages may hold: one table for each, with a check for each field.

A field that the table does not know is kept and passed on: a later version may know it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vmctl import pin
from vmctl.clock import parse_rfc3339
from vmctl.errors import BadValue
from vmctl.names import GREETINGS, is_extension, is_name

if TYPE_CHECKING:
    from collections.abc import Callable

# Neither announced nor heard; announced, not heard; heard; to be kept.
STATUSES = ("new", "unopened", "old", "saved")
TIMERS = (*STATUSES, "deleted")
_LINE = 128
_MOST_HOURS = 24 * 365 * 100
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", re.ASCII)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", re.ASCII)
_MAIL = re.compile(r"[^\s@<>\",;]{1,64}@[A-Za-z0-9.-]{1,255}", re.ASCII)
_CALLER = re.compile(r"[+0-9A-Za-z*#.@_-]{1,64}", re.ASCII)

Check = tuple["Callable[[Any], bool]", str]


def _line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LINE and value.isprintable()


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _match(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _lists(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_name(name) and isinstance(members, list) and all(map(is_extension, members))
        for name, members in value.items()
    )


def _timers(value: Any) -> bool:
    hours = _whole(0, _MOST_HOURS)
    return isinstance(value, dict) and all(name in TIMERS and hours(number) for name, number in value.items())


def _time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_rfc3339(value) > 0
    except (ValueError, OverflowError):
        return False


MAILBOX_FIELDS: dict[str, Check] = {
    "name": (_line, f"one line of 1 to {_LINE} characters"),
    "pin": (pin.is_hash, "4 to 15 digits"),
    "service": (is_name, "the name of a service"),
    "email": (_match(_MAIL), "an address such as ada@example.org"),
    "language": (_match(_LANGUAGE), "a language tag such as en-GB (BCP 47)"),
    "timezone": (_match(_ZONE), "a time zone such as Europe/London (IANA)"),
    "quota": (_whole(1, 100_000), "a number of messages from 1 to 100000"),
    "greeting": (lambda value: value in GREETINGS, "one of " + ", ".join(GREETINGS)),
    "lists": (_lists, "a mapping of names to lists of extensions"),
    "timers": (_timers, f"a mapping of {', '.join(TIMERS)} to hours (0 = never)"),
}

MESSAGE_FIELDS: dict[str, Check] = {
    "from": (_match(_CALLER), "a number or address of up to 64 characters, or 'unknown'"),
    "name": (_line, f"one line of 1 to {_LINE} characters"),
    "received": (_time, "a time with its zone such as 2026-01-31T08:15:00Z (RFC 3339)"),
    "seconds": (_seconds, "a number of seconds"),
    "status": (lambda value: value in STATUSES, "one of " + ", ".join(STATUSES)),
    "urgent": (lambda value: isinstance(value, bool), "true or false"),
}


def check_mailbox(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a mailbox, its PIN hashed. Raises BadValue with every field that is wrong."""
    strange = [name for name in document if name != "pin" and name.lower() == "pin"]
    if strange:
        raise BadValue(f"a mailbox's PIN is called 'pin', not {strange[0]!r}", hint="rename the field: so it is hashed")
    if "pin" in document and not pin.is_hash(document["pin"]):
        document = document | {"pin": pin.hashed(document["pin"])}
    _check(document, MAILBOX_FIELDS, "mailbox")
    return document


def check_message(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a message. Raises BadValue with every field that is wrong or missing."""
    _check(document, MESSAGE_FIELDS, "message")
    missing = [name for name in ("received", "status") if name not in document]
    if missing:
        raise BadValue(f"the message has no {' and no '.join(missing)}", hint="add it to the message's JSON file")
    return document


def two_things(settings: dict[str, Any]) -> list[str]:
    """The names that settings have both as a value and as a section: merged from two servers, each of which set one."""
    sections = {name.partition(".")[0] for name in settings if "." in name}
    return sorted(name for name in sections if name in settings and not isinstance(settings[name], dict))


def _check(document: dict[str, Any], table: dict[str, Check], what: str) -> None:
    wrong = [
        f"{name} must be {words}"
        for name, (fits, words) in table.items()
        if name in document and not fits(document[name])
    ]
    if wrong:
        raise BadValue(f"a {what}'s {'; its '.join(wrong)}", hint="correct the value and try again")
