"""Time: numbers only go up, texts and readings turn into each other exactly."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl import clock
from vmctl.clock import Clock, duration, parse_duration, parse_rfc3339, rfc3339, tick

READINGS = st.integers(0, 2**53 - 1)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001 - the bounds have none


@given(READINGS, READINGS)
def test_a_tick_is_above_the_last_and_not_below_the_wall(last, wall):
    """Whatever the wall clock does, no number is given twice."""
    assert tick(last, wall) > last
    assert tick(last, wall) in {last + 1, wall}
    assert tick(last, wall) >= wall


@given(READINGS)
def test_a_reading_survives_its_text(micros):
    """RFC 3339 with milliseconds, in UTC, loses what is below the millisecond and nothing else."""
    text = rfc3339(micros)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert parse_rfc3339(text) == micros // 1000 * 1000


@given(MOMENTS)
def test_every_zone_and_every_year_is_read_exactly(moment):
    """A time means the same in each zone, to the microsecond."""
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert exact == parse_rfc3339(moment.isoformat())


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000),
        ("2026-01-31T08:15:00Z", 1_769_847_300_000_000),
        ("2026-01-31t08:15:00z", 1_769_847_300_000_000),
        ("2026-01-31 09:15:00+01:00", 1_769_847_300_000_000),
        ("2026-01-31T08:15:00.1234567Z", 1_769_847_300_123_456),
    ],
)
def test_times_as_others_write_them(text, micros):
    """RFC 3339 allows small letters, a blank, offsets and any number of digits."""
    assert micros == parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-01-31", "2026-01-31T08:15:00", "2026-01-31T08:15Z", "2026-01-31T08Z", "20260131T081500Z",
        "2026-W05-6T08:15:00Z", "2026-01-31T08:15:00,5Z", "2026-01-31x08:15:00Z", "2026-01-31T08:15:00+01",
        "2026-01-31T08:15:00+00:00:30", "2026-02-30T08:15:00Z", "2026-01-31T25:15:00Z", "2026-01-31T08:15:00+25:00",
        "٢٠٢٦-01-31T08:15:00Z", "2026-01-31T08:15:00Z\n", " 2026-01-31T08:15:00Z", "0000-01-01T00:00:00Z", "2" * 10_000,
        "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+00:01",
    ],
)  # fmt: skip
def test_what_is_no_rfc_3339_is_a_value_error(text):
    """A time that another reader would take otherwise, or not at all, is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - some are refused by Python, with its words
        parse_rfc3339(text)


@given(st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_no_text_ends_in_another_exception(text):
    """Times come from the wire and from people."""
    with contextlib.suppress(ValueError):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("10s", 10.0), ("3m", 180.0), ("3min", 180.0), ("1h", 3600.0), ("30d", 2_592_000.0),
        ("1.5h", 5400.0), (" 10 s ", 10.0), ("0s", 0.0),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(text, seconds):
    """A number and its unit."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", "10", "s", "-1s", "1 year", "1h30m", "1e3s", ".5s", "1.s", "٣s", "nan s", "inf", "1" * 400 + "s", "10S"],
)
def test_what_is_no_duration_is_a_value_error(text):
    """No unit is guessed, and no number is so long that it becomes infinite."""
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (4, "4 s"), (0.25, "0.25 s"), (119, "119 s"), (120, "2 min"), (180, "3 min"), (9000, "2.5 h"),
        (172_800, "2 days"), (86400 * 9, "9 days"), (86400 * 99.9, "99.9 days"), (86400 * 400, "400 days"),
        (86400 * 1234, "1234 days"), (86400 * 36500, "36500 days"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds, words):
    """The unit fits the size, and no length of time is told in powers of ten."""
    assert words == duration(seconds)


def test_the_machine_has_its_clocks():
    """The wall reads microseconds of this age, steady goes on, and the boot stays the same."""
    clock = Clock()
    assert 2020 < datetime.fromtimestamp(clock.wall() / 1e6, UTC).year < 2255
    before = clock.steady()
    assert 0 < before <= clock.steady()
    assert clock.boot() == clock.boot() != ""


def test_a_boot_that_could_not_be_told_once_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that could open no file for a moment must not take itself to be of another boot for ever."""

    def refused(*_: Any, **__: Any) -> str:
        raise OSError(24, "Too many open files")

    clock._boot.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        assert Clock().boot() == "unknown"
    assert Clock().boot() not in {"unknown", ""}
