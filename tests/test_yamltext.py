"""YAML as people write it: JSON's types only, bounded, and nothing changed by writing and reading."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vmctl import yamltext
from vmctl.errors import BrokenFile

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ODD_TEXT = st.text(
    st.sampled_from("ab01 \n\t\r\"':#-?|>&*!%@`{}[],~.\x00\x07\x7f\x85\xa0\u2028\ufeff\U0001f600\\"), max_size=12
)
LINES = st.lists(st.text(st.sampled_from("ab:- #\t"), max_size=5), max_size=5).map("\n".join)
STRINGS = (
    TEXT | ODD_TEXT | LINES | st.sampled_from(["0123", "12:30:00", "yes", "2026-01-01", "1e5", "null", "-", "", "0x1F"])
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(STRINGS, below, max_size=4), max_leaves=15
)
PURE = pytest.mark.parametrize("pure", [False, True], ids=["libyaml", "pure"])


def fault_of(text):
    """The error that reading `text` ends with."""
    with pytest.raises(BrokenFile) as caught:
        yamltext.load(text, "some.yaml")
    return caught.value


def same(one, other):
    """Whether two values are equal with their types: 1, 1.0 and true differ."""
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    "text",
    [
        "0123",
        "12:30:00",
        "yes",
        "no",
        "on",
        "2026-01-01",
        "2026-01-01T10:00:00Z",
        ".inf",
        ".nan",
        "0x1F",
        "0o17",
        "1_000",
        "+1",
        "1.",
        ".5",
        "~",
        "Null",
        "TRUE",
        "10s",
        "<<",
        "=",
        "-01",
    ],
)
def test_what_json_does_not_write_is_a_string(text):
    """A plain scalar that JSON has no type for stays the text that was written."""
    assert yamltext.load(f"key: {text}", "f") == {"key": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-7", -7),
        ("1.0", 1.0),
        ("2E3", 2000.0),
        ('"1"', "1"),
        ("'true'", "true"),
        ("!!str 1", "1"),
        ("! 1", "1"),
        ("!!int '7'", 7),
        ("!!float 7", 7),
    ],
)
def test_jsons_types_are_read(text, value):
    """JSON's words and numbers have JSON's types, quoted ones are strings, standard tags decide."""
    assert same({"key": value}, yamltext.load(f"key: {text}", "f"))


def test_a_key_is_its_text():
    """Numbers and words as keys are the text that was written, not another type."""
    assert yamltext.load("1: a\n0123: b\ntrue: c\nnull: d\n", "f") == {"1": "a", "0123": "b", "true": "c", "null": "d"}


def test_merge_keys_do_nothing():
    """`<<` is a key as any other."""
    assert yamltext.load("<<: {a: 1}", "f") == {"<<": {"a": 1}}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_nothing_is_null(text):
    """An empty document is None."""
    assert yamltext.load(text, "f") is None


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1", "second time"),
        ("a: {b: 1, b: 2}", "line 1, column 11", "second time"),
        ("a: &x 1\nb: *x\n", "line 2, column 4", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "line 1, column 4", "is not allowed"),
        ("a: !mine 1", "line 1, column 4", "'!mine' is not allowed"),
        ("a: !!binary aGk=", "line 1, column 4", "is not allowed"),
        ("a: !!int true", "line 1, column 4", "no int"),
        ("a: !!set {b}", "line 1, column 4", "is not allowed"),
        ("? [a]\n: 1\n", "line 1, column 3", "a key must be a word"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1", "second document"),
        ("a: [1\nb: 2\n", "line 2", "while parsing"),
        ("a:\n\t- b\n", "line 2", "cannot start any token"),
        ("a: 1e999", "line 1, column 4", "too large"),
        ("a: " + "9" * 5000, "line 1, column 4", "digits"),
        ("[" * 33 + "]" * 33, "line 1, column 33", "inside one another"),
        ("a: b\nc: \x07\n", "line 2, column 4", "U+0007"),
        ("a: b\nc: \ud800\n", "line 2, column 4", "U+D800"),
        (b"a: b\nc: \xff\n", "line 2", "not UTF-8"),
        ("a: b\n".encode("utf-16"), "line 1", "not UTF-8"),
    ],
)
def test_a_fault_names_its_place(text, place, why):
    """Each fault is a BrokenFile that says the file, the line and what is wrong there."""
    error = fault_of(text)
    assert f"some.yaml {place}" in error.what
    assert why in error.why


def test_size_is_bounded():
    """A file above the limit is refused before it is parsed, as text and as bytes."""
    assert "at most 1048576" in fault_of(b"#" * (yamltext.SIZE + 1)).why
    assert "at most 1048576" in fault_of("é" * (yamltext.SIZE // 2 + 1)).why


def test_hostile_nesting_ends_early():
    """A megabyte of brackets is refused at the bound, without exhausting any stack."""
    for text in ("[" * yamltext.SIZE, "- " * (yamltext.SIZE // 2)):  # PyYAML's own bound may come before ours
        assert fault_of(text).why.endswith(("inside one another", "maximum nesting depth"))
    assert fault_of("? " * (yamltext.SIZE // 2)).why


def test_a_byte_order_mark_is_no_content():
    """The mark that some editors put in front is passed over."""
    assert yamltext.load(b"\xef\xbb\xbfa: 1\n", "f") == {"a": 1}


@PURE
@given(value=VALUES)
def test_dump_and_load_change_nothing(pure, value):
    """Every JSON value comes back as it was, with libyaml and without."""
    loader = yaml.SafeLoader if pure else yamltext._LOADER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamltext, "_LOADER", loader)
        assert same(value, yamltext.load(yamltext.dump(value), "f"))


@given(value=VALUES)
def test_other_readers_see_the_same(value):
    """A reader of YAML 1.1 with its own ideas of types finds the same strings: they are quoted where it matters."""
    keys_and_strings = {"value": [item for item in walk(value) if isinstance(item, str)]}
    assert yaml.safe_load(yamltext.dump(keys_and_strings)) == keys_and_strings


def walk(value):
    """Every scalar and key in a value."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield key
            yield from walk(below)
    elif isinstance(value, list):
        for below in value:
            yield from walk(below)
    else:
        yield value


def test_the_deepest_value_comes_back():
    """What is nested to the bound can be written and read; one deeper can neither."""
    value = {"text": "two\nlines\n"}
    for _ in range(yamltext.DEPTH - 1):
        value = [value]
    assert yamltext.load(yamltext.dump(value), "f") == value
    with pytest.raises(ValueError, match="inside one another"):
        yamltext.dump([value])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1: 2}, (1,), b"x", {"a": {3}}])
def test_what_is_not_json_is_refused(value):
    """No YAML is made of what JSON has no form for."""
    with pytest.raises(ValueError, match=r".+"):
        yamltext.dump(value)


def test_long_keys_come_back():
    """A key beyond what fits before a ':' is written in the long form."""
    value = {"k" * 3000: {"x y " * 900: [1]}, "b": 2}
    assert yamltext.load(yamltext.dump(value), "f") == value


def test_the_block_style():
    """People get one key a line, in the order given, with lines of text kept as lines."""
    value = {
        "extension": "0123",
        "name": "Zoë Q. (desk)",
        "after": "180s",
        "quota": 100,
        "empty": {},
        "none": [],
        "steps": [{"say": "hello", "then": ["a", "b"]}, "end"],
        "text": "two\n\nlines\n",
        "answer": "yes",
    }
    expected = """\
extension: "0123"
name: Zoë Q. (desk)
after: 180s
quota: 100
empty: {}
none: []
steps:
  - say: hello
    then:
      - a
      - b
  - end
text: |
  two

  lines
answer: "yes"
"""
    assert expected == yamltext.dump(value)
