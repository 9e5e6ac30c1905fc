"""Opening hours of a callflow: days of the week, hours of the day, dates and the time zone they are meant in.

A set of minutes is one integer with bit n for minute n, so "do these overlap" is `&` and "is all covered" is `==`.
Nothing here reads a clock; only `is_zone` looks at the machine's time zone database.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import NamedTuple

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 1440
WHOLE_DAY = (1 << DAY_MINUTES) - 1
WHOLE_WEEK = (1 << DAY_MINUTES * len(DAYS)) - 1
LONGEST_RANGE = timedelta(days=365)  # between the first and the last day: one year, also a leap year

_HOURS = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_DATES = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:/([0-9]{4}-[0-9]{2}-[0-9]{2}))?")
_YEARLY = re.compile(r"[0-9]{2}-[0-9]{2}")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}")
_LONGEST_ZONE = 64
_LEAP_YEAR = 2000  # stands for every year, so that 02-29 is a date


class Dates(NamedTuple):
    """The days from `first` to `last`, both included; `yearly` is one day that comes again each year."""

    first: date
    last: date
    yearly: bool


def parse_days(text: str) -> list[int]:
    """The days, 0 for Monday, of `mon` or `mon-fri` (both included; `sat-mon` goes over the weekend's end).

    Raises ValueError that tells the form.
    """
    names = text.split("-")
    if len(names) > 2 or any(name not in DAYS for name in names):  # noqa: PLR2004 - first and last
        raise ValueError("is no day such as 'sat' and no range such as 'mon-fri'")
    first, last = DAYS.index(names[0]), DAYS.index(names[-1])
    return [day % len(DAYS) for day in range(first, last + 1 if last >= first else last + 1 + len(DAYS))]


def parse_hours(text: str) -> int:
    """The minutes of a day in `09:00-17:30`: the first is included, the last is not, `24:00` ends the day.

    Raises ValueError that tells what is wrong.
    """
    match = _HOURS.fullmatch(text)
    if not match:
        raise ValueError("is no range of hours such as '09:00-17:30'")
    first, last = _minute(match[1], match[2]), _minute(match[3], match[4])
    if first >= last:
        raise ValueError("ends before it begins; for a night say '22:00-24:00' here and '00:00-06:00' on the next day")
    return (1 << last) - (1 << first)


def parse_dates(text: str) -> Dates:
    """The days of `2026-12-25`, `2026-12-24/2027-01-01` (both included, a year at the most) or `12-25` (each year).

    Raises ValueError that tells what is wrong.
    """
    if _YEARLY.fullmatch(text):
        day = _date(f"{_LEAP_YEAR}-{text}")
        return Dates(day, day, yearly=True)
    match = _DATES.fullmatch(text)
    if not match:
        raise ValueError("is no date such as '2026-12-25', '2026-12-24/2027-01-01' or '12-25'")
    first, last = _date(match[1]), _date(match[2] or match[1])
    if not timedelta() <= last - first <= LONGEST_RANGE:
        raise ValueError("ends before it begins or is longer than a year")
    return Dates(first, last, yearly=False)


def share_a_day(one: Dates, other: Dates) -> bool:
    """Whether some day is in both."""
    if one.yearly and other.yearly:
        return one.first == other.first
    if one.yearly or other.yearly:
        day, span = (one.first, other) if one.yearly else (other.first, one)
        return any(span.first <= again <= span.last for again in _again(day, span))
    return one.first <= other.last and other.first <= one.last


def on_days(days: list[int], minutes: int) -> int:
    """The minutes of a week, from Monday 00:00 on, that are `minutes` of one of the days."""
    week = 0
    for day in days:
        week |= minutes << day * DAY_MINUTES
    return week


def first_minute(week: int) -> str:
    """The first minute of a set that is not empty, for people: `mon 09:00`."""
    day, minute = divmod((week & -week).bit_length() - 1, DAY_MINUTES)
    return f"{DAYS[day]} {minute // 60:02d}:{minute % 60:02d}"


def is_zone(text: str) -> bool:
    """Whether `text` names an IANA time zone such as `Europe/London` that this machine's database knows.

    On a machine without any database every well-formed name is taken.
    """
    if len(text) > _LONGEST_ZONE or not _ZONE.fullmatch(text) or text == "localtime":
        return False  # a zone is looked up as a file; what is local differs between the servers
    return _in_database(text) or not _in_database("UTC")


def _in_database(text: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # not there, not a zone's file, a directory such as "Europe"
        return False
    return True


def _minute(hour: str, minute: str) -> int:
    value = int(hour) * 60 + int(minute)
    if int(minute) >= 60 or value > DAY_MINUTES:  # noqa: PLR2004 - minutes of an hour
        raise ValueError("names a time that no day has")
    return value


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("names a day that no calendar has") from None


def _again(day: date, span: Dates) -> list[date]:
    found = []
    for year in range(span.first.year, span.last.year + 1):
        try:
            found.append(day.replace(year=year))
        except ValueError:  # 29 February
            continue
    return found
