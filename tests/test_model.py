"""Records, keys and stamps: what goes in comes out again, and a later change is always above what it replaces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.model import (
    ABSENT,
    Field,
    Key,
    Record,
    Stamp,
    Tick,
    canonical,
    created,
    deleted,
    dominates,
    edited,
    field_as_json,
    field_from_json,
    greeting_key,
    join,
    mailbox_key,
    message_key,
    parse_key,
    restored,
)

TEXT = st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXT, one, max_size=3), max_leaves=8
)
COUNTS = st.integers(0, 2**53 - 1)
AUTHORS = st.sampled_from(["p1", "p2", "s1", ""]) | TEXT
VECTORS = st.dictionaries(AUTHORS, COUNTS, max_size=3)
STAMPS = st.builds(Stamp, COUNTS, AUTHORS, COUNTS)
FIELDS = st.dictionaries(TEXT, st.builds(Field, JSON | st.just(ABSENT), STAMPS), max_size=4)
KEYS = st.sampled_from(["settings", "mailbox/201", "message/201/m1", "callflow/main"])
RECORDS = st.builds(Record, KEYS, st.builds(Tick, COUNTS, AUTHORS), FIELDS, VECTORS, VECTORS, VECTORS)

# What a record may be mangled into on the wire: near misses are likelier to slip through than noise.
ODD_STAMPS = st.lists(SCALARS | COUNTS, max_size=4) | JSON
ODD_FIELDS = st.dictionaries(
    TEXT, st.fixed_dictionaries({}, optional={"is": JSON, "absent": SCALARS, "at": ODD_STAMPS}) | JSON, max_size=3
)
ODD_VECTORS = st.dictionaries(TEXT, COUNTS | SCALARS, max_size=3) | JSON
ODD_RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "born": ODD_STAMPS, "vector": ODD_VECTORS, "kept": ODD_VECTORS, "deleted": ODD_VECTORS, "fields": ODD_FIELDS | JSON,
    },
)  # fmt: skip

MESSAGE = "message/201/m1"


def message(**document):
    """A message made by the primary in its change 10."""
    return created(MESSAGE, {"status": "new"} | document, Tick(10, "p1"), 1000)


# Keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("settings", Key("settings", None, "")),
        ("callflow/main-menu", Key("callflow", None, "main-menu")),
        ("prompt/welcome", Key("prompt", None, "welcome")),
        ("mailbox/201", Key("mailbox", None, "201")),
        ("greeting/201/busy", Key("greeting", "201", "busy")),
        ("message/201/20260131T0815Z-ab", Key("message", "201", "20260131T0815Z-ab")),
        ("conflict/0a1b", Key("conflict", None, "0a1b")),
        ("fax/201/x", Key("fax", None, "201/x")),
    ],
)
def test_a_key_falls_into_its_parts_and_back(text, key):
    """Each kind has its own number of parts; a kind of a later version keeps its name as it is."""
    assert parse_key(text) == key
    assert str(key) == text


def test_the_makers_of_keys_make_keys_that_parse():
    """A mailbox, a message and a greeting are found again under the key made for them."""
    assert parse_key(mailbox_key("201")) == Key("mailbox", None, "201")
    assert parse_key(message_key("201", "m1")) == Key("message", "201", "m1")
    assert parse_key(greeting_key("201", "name")) == Key("greeting", "201", "name")


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "settings/x", "settings/", "mailbox", "mailbox/", "mailbox/..", "mailbox/../etc", "mailbox/a/b",
        "mailbox/201\n", "mailbox/" + "9" * 33, "message/201", "message/201/..", "message/201/.vmctl", "message/201/a/b",
        "message//m1", "message/201/m\x00", "greeting/201/loud", "greeting/201/../name", "callflow/a.yaml", "callflow/-x",
        "callflow/" + "a" * 65, "prompt/a b", "fax", "fax/", "fax/..", "../x", "/etc/passwd", "mailbox/२०१", "Ümlaut/x",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(text):
    """Keys come from the wire and become paths: dots, slashes, other alphabets and long names never do."""
    with pytest.raises(ValueError, match="is no key of a record"):
        parse_key(text)


@given(st.text(max_size=30) | st.from_regex(r"(message|mailbox|fax)(/[./\w-]{0,9}){0,3}", fullmatch=True))
def test_a_key_that_parses_can_be_no_way_out_of_the_store(text):
    """Whatever parses is made of whitelisted parts only, and gives its text back."""
    try:
        key = parse_key(text)
    except ValueError:
        return
    assert str(key) == text
    assert text.isascii()
    assert all(part.replace("-", "a").replace("_", "a").isalnum() for part in text.split("/"))


# JSON


@given(RECORDS)
def test_a_record_survives_its_json(record):
    """Text of JSON and back gives an equal record of the same version."""
    again = Record.from_json(record.key, json.loads(json.dumps(record.as_json())))
    assert record == again
    assert record.version == again.version


@given(JSON | ODD_RECORDS)
def test_odd_json_gives_a_sound_record_or_a_value_error(value):
    """No value from the wire gets past the checks and none ends in another exception."""
    try:
        record = Record.from_json(MESSAGE, value)
    except ValueError:
        return
    assert record == Record.from_json(MESSAGE, json.loads(json.dumps(record.as_json())))


@pytest.mark.parametrize(
    "field",
    [
        None, [], {}, {"at": [1, "p1", 1]}, {"is": 1}, {"is": 1, "absent": True, "at": [1, "p1", 1]},
        {"absent": False, "at": [1, "p1", 1]}, {"is": 1, "at": [1, "p1"]}, {"is": 1, "at": [1, "p1", 1, 1]},
        {"is": 1, "at": [True, "p1", 1]}, {"is": 1, "at": [1.0, "p1", 1]}, {"is": 1, "at": [-1, "p1", 1]},
        {"is": 1, "at": [2**53, "p1", 1]}, {"is": 1, "at": [1, 1, 1]}, {"is": 1, "at": [1, "p1", "1"]},
        {"is": 1, "at": "1p1"},
    ],
)  # fmt: skip
def test_a_field_without_a_value_or_a_sound_stamp_is_refused(field):
    """A field has either a value or is absent, and a stamp of two counts and an author."""
    with pytest.raises(ValueError, match=r"message/201/m1"):
        field_from_json(MESSAGE, field)


def test_a_removed_field_is_not_a_field_of_null():
    """ABSENT and null are two values, in JSON and in the document."""
    stamp = Stamp(1, "p1", 1)
    assert field_from_json("k", field_as_json(Field(None, stamp))) == Field(None, stamp)
    assert field_from_json("k", field_as_json(Field(ABSENT, stamp))) == Field(ABSENT, stamp)
    record = edited(message(name=None, seconds=3), {"seconds": ABSENT}, Tick(11, "p1"), 2000)
    assert record.document == {"status": "new", "name": None}
    assert "seconds" in record.fields


@given(JSON, JSON)
def test_canonical_bytes_are_equal_for_equal_values_only(one, other):
    """Kinds count: 1, 1.0 and true are three values; the order of keys does not count."""

    def same(left, right):
        if type(left) is not type(right):
            return False
        if isinstance(left, dict):
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        if isinstance(left, list):
            return len(left) == len(right) and all(map(same, left, right))
        return repr(left) == repr(right)

    assert same(one, other) == (canonical(one) == canonical(other))
    if isinstance(one, dict):
        assert canonical(one) == canonical(dict(reversed(one.items())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_canonical_refuses_what_json_has_not(value):
    """NaN and infinity have no JSON, so no digest may be made of them."""
    with pytest.raises(ValueError, match="JSON"):
        canonical(value)


def test_the_version_tells_apart_whatever_differs():
    """Key, birth, each field's value and stamp, vector and presence are all in the digest."""
    record = message()
    others = [
        created("message/201/m2", {"status": "new"}, Tick(10, "p1"), 1000),
        created(MESSAGE, {"status": "new"}, Tick(10, "s1"), 1000),
        created(MESSAGE, {"status": "new"}, Tick(10, "p1"), 1001),
        created(MESSAGE, {"status": "old"}, Tick(10, "p1"), 1000),
        created(MESSAGE, {"status": "new", "name": None}, Tick(10, "p1"), 1000),
        deleted(record, Tick(11, "p1")),
        restored(record, Tick(11, "p1")),
        edited(record, {}, Tick(11, "p1"), 1000),
    ]
    versions = {one.version for one in [record, *others]}
    assert len(others) + 1 == len(versions)
    assert {32} == {len(version) for version in versions}


# Vectors


@given(VECTORS, VECTORS)
def test_a_join_is_the_smallest_vector_above_both(one, other):
    """The join contains both, and nothing that neither had."""
    both = join(one, other)
    assert dominates(both, one)
    assert dominates(both, other)
    assert both.keys() == one.keys() | other.keys()
    assert all(number in {one.get(by), other.get(by)} for by, number in both.items())


@given(VECTORS, VECTORS)
def test_vectors_that_dominate_each_other_say_the_same(one, other):
    """Domination is an order: both ways means equal, an unmentioned incarnation counting 0."""
    both_ways = dominates(one, other) and dominates(other, one)
    nonzero = [{by: number for by, number in vector.items() if number} for vector in (one, other)]
    assert both_ways == (nonzero[0] == nonzero[1])


# Local changes


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(["p1", "s1"]))
def test_a_stamp_is_above_the_one_it_replaces(first, second, by):
    """Whoever changes what he saw wins over it, even with a clock that is behind."""
    record = created(MESSAGE, {"status": "new", "name": "Ada"}, Tick(10, "p1"), first)
    after = edited(record, {"status": "old"}, Tick(11, by), second)
    assert after.fields["status"].stamp > record.fields["status"].stamp
    assert after.fields["status"].stamp.at >= second
    assert after.fields["name"] == record.fields["name"]
    assert dominates(after.vector, record.vector)
    assert after.vector[by] == 11


def test_a_change_leaves_the_version_before_it_as_it_was():
    """Records are values: no change shows in a version that somebody still holds."""
    record = message(name="Ada")
    text = canonical(record.as_json())
    edited(record, {"name": ABSENT, "status": "saved"}, Tick(11, "p1"), 1000)
    restored(deleted(record, Tick(12, "p1")), Tick(13, "p1"))
    created(record.key, {"x": 1}, Tick(14, "p1"), 1000, record)
    assert text == canonical(record.as_json())


@pytest.mark.parametrize(
    ("key", "changes", "keeps"),
    [
        (MESSAGE, {"status": "saved"}, True),
        (MESSAGE, {"status": "old"}, False),
        (MESSAGE, {"urgent": True}, False),
        ("mailbox/201", {"name": "Ada"}, True),
        ("settings", {"x": 1}, True),
        ("callflow/main", {"text": ""}, True),
    ],
)
def test_a_save_keeps_and_a_mark_does_not(key, changes, keeps):
    """Of a message only a save is a reason to live; of anything else each edit is."""
    record = created(key, {"status": "new"}, Tick(10, "p1"), 1000)
    after = edited(record, changes, Tick(11, "s1"), 1000)
    assert ({"p1": 10, "s1": 11} if keeps else {"p1": 10}) == after.kept


def test_a_record_lives_dies_and_is_restored():
    """A delete removes it, a second one changes nothing of that, a restore brings it back with its fields."""
    record = message(name="Ada")
    assert record.lives
    dead = deleted(deleted(record, Tick(11, "s1")), Tick(12, "p1"))
    assert not dead.lives
    back = restored(dead, Tick(13, "s1"))
    assert back.lives
    assert record.document == back.document
    assert not deleted(back, Tick(14, "p1")).lives


def test_a_new_life_has_none_of_the_former_ones_fields():
    """A mailbox made again begins with its own fields; the removed ones are stamped above the former."""
    first = created("mailbox/201", {"name": "Ada", "email": "ada@example.org"}, Tick(10, "p1"), 5000)
    dead = deleted(first, Tick(11, "p1"))
    second = created("mailbox/201", {"name": "Bob"}, Tick(12, "s1"), 1000, dead)
    assert second.lives
    assert {"name": "Bob"} == second.document
    assert Tick(12, "s1") == second.born
    assert all(second.fields[name].stamp > first.fields[name].stamp for name in first.fields)
    assert dominates(second.vector, dead.vector)


def test_removing_what_is_not_there_changes_no_field():
    """A field that never was gets no stamp of its removal."""
    assert edited(message(), {"name": ABSENT}, Tick(11, "p1"), 1000).fields == message().fields


def test_settings_keep_the_kind_that_their_key_names():
    """The kind of a record is the first part of its key."""
    assert created("settings", {}, Tick(1, "p1"), 1).kind == "settings"
    assert message().kind == "message"
