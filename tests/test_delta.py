"""Deltas: exactly the top-level keys that differ, whatever their names and however equal their values look."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl.delta import Line, changed_fields, differences
from vmctl.model import ABSENT, Tick, created, edited

NAMES = st.sampled_from(
    ["a", "b", "__x", "__class__", "a.b", "root['a']", "", "é", "\U0001f600", "'", '"', "0", "[0]"]
) | st.text(max_size=4)
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 0.0, -0.0, 1.0, "", "1", "x", "x\ny", 2**53, float(2**53)]
) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=4) | st.dictionaries(NAMES, one, max_size=3), max_leaves=8
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)


@st.composite
def pairs(draw):
    """Two documents; the second is most often the first one a little changed, as in life."""
    old = draw(DOCUMENTS)
    if not old or draw(st.booleans()):
        return old, draw(DOCUMENTS)
    new = copy.deepcopy(old)
    for name in draw(st.lists(st.sampled_from(sorted(new)), max_size=2)):
        value = new.get(name)
        if isinstance(value, list):
            value.insert(draw(st.integers(0, len(value))), draw(SCALARS))
        elif isinstance(value, dict):
            value[draw(NAMES)] = draw(SCALARS)
        elif draw(st.booleans()):
            new[name] = draw(SCALARS)
        else:
            new.pop(name, None)
    return old, new


def text(value):
    """JSON that tells 1, 1.0, true and -0.0 apart."""
    return json.dumps(value, sort_keys=True)


def by_hand(old, new):
    """The reference: each key looked at, without any library."""
    changed = {name: value for name, value in new.items() if name not in old or text(old[name]) != text(value)}
    return changed | {name: ABSENT for name in old if name not in new}


def comparable(changes):
    """The changes with ABSENT and the kinds of numbers made visible."""
    return {name: "absent" if value is ABSENT else text(value) for name, value in changes.items()}


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_the_changed_fields_are_those_that_differ(documents):
    """No more and no fewer than a look at each key finds, with the new values."""
    old, new = documents
    assert comparable(by_hand(old, new)) == comparable(changed_fields(old, new))


@settings(max_examples=80, deadline=None)
@given(pairs())
def test_the_changes_applied_to_the_old_give_the_new(documents):
    """A record edited with the changes holds the new document."""
    old, new = documents
    record = created("settings", old, Tick(1, "p1"), 1)
    assert text(new) == text(edited(record, changed_fields(old, new), Tick(2, "p1"), 2).document)


@settings(max_examples=50, deadline=None)
@given(DOCUMENTS)
def test_a_document_has_no_difference_from_its_copy(document):
    """Equal values in another order of keys are no change."""
    again = json.loads(text(document))
    assert changed_fields(document, again) == {}
    assert differences(document, again) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1], [True]), ([1, 2], [True, 2]), ([0, "x"], [False, "x"]), ([[1], [2]], [[1.0], [2]]),
        ({"x": [0]}, {"x": [False]}), (0.0, -0.0), (1, 1.0), (1, True), ("1", 1), (None, False), ([], {}), ({}, None),
    ],
)  # fmt: skip
def test_a_change_of_kind_only_is_a_change(old, new):
    """1, 1.0 and true are three values, also deep inside lists where they compare equal."""
    assert comparable({"f": new}) == comparable(changed_fields({"f": old}, {"f": new}))
    assert differences({"f": old}, {"f": new}) != []


@pytest.mark.parametrize("name", ["__x", "__class__", "a.b", "root['a']", "", "é", "'\"", "0"])
def test_no_name_of_a_key_is_special(name):
    """Dunder names, dots, quotes and the empty string are names like any other."""
    assert changed_fields({name: 1}, {name: 2}) == {name: 2}
    assert changed_fields({name: 1}, {}) == {name: ABSENT}
    assert changed_fields({}, {name: None}) == {name: None}
    assert changed_fields({"f": {name: 1}}, {"f": {name: 2}}) == {"f": {name: 2}}


def test_the_documents_are_left_as_they_were():
    """Comparing changes neither of the two."""
    old, new = {"a": [1, {"b": 2}], "c": 1}, {"a": [{"b": 3}, 1], "d": None}
    before = text([old, new])
    changed_fields(old, new)
    assert before == text([old, new])


def test_differences_go_down_to_the_leaves_in_order():
    """People read where it is, what was there and what is there now."""
    old = {"name": "Ada", "timers": {"new": 24, "old": 48}, "lists": {"team": ["201", "202"]}}
    new = {"name": "Ada L.", "timers": {"new": 24, "old": 72}, "lists": {"team": ["201"]}, "quota": 5}
    assert differences(old, new) == [
        Line(("lists", "team", 1), "202", ABSENT),
        Line(("name",), "Ada", "Ada L."),
        Line(("quota",), ABSENT, 5),
        Line(("timers", "old"), 48, 72),
    ]


def test_deepdiff_is_loaded_for_a_difference_only():
    """Importing the module, and comparing equal documents, costs nothing of a quarter of a second."""
    code = (
        "import sys; from vmctl.delta import changed_fields; changed_fields({'a': [1]}, {'a': [1]});"
        "early = 'deepdiff' in sys.modules; changed_fields({'a': 1}, {'a': 2}); print(early, 'deepdiff' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
