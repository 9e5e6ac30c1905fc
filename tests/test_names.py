"""Names that may become a path: a whitelist, and nothing that leads anywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import BadName
from vmctl.names import GREETINGS, check_extension, check_greeting, check_name, is_extension, is_name

GOOD = ["a", "0", "201", "main-menu", "Main_Menu", "20260131T081500Z-00ff", "a" * 32]
BAD = [
    "", ".", "..", "../x", "a/b", "/a", "a\\b", "a.b", ".hidden", "-x", "_x", "a b", "a\n", "\na", "a\x00", "a\x00b", "ä",
    "२०१", "a%2e", "~", "$HOME", "*", "a:b", "con.txt", "a\u200b", "\uff41",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_good_names_pass_unchanged(text):
    """Letters, digits, '-' and '_' behind a letter or digit."""
    assert is_name(text)
    assert is_extension(text)
    assert check_name(text) == text
    assert check_extension(text) == text


@pytest.mark.parametrize("text", BAD)
def test_bad_names_are_refused_with_what_is_allowed(text):
    """Nothing with a dot, a slash, a blank, another alphabet or a line end, which a careless `$` would let by."""
    assert not is_name(text)
    assert not is_extension(text)
    for check in (check_name, check_extension):
        with pytest.raises(BadName, match="is no") as caught:
            check(text)
        assert "letters, digits" in caught.value.why
        assert caught.value.hint


def test_names_end_at_their_length():
    """Names have at most 64 characters, extensions 32; a long one is not shown whole."""
    assert is_name("a" * 64)
    assert not is_name("a" * 65)
    assert is_extension("9" * 32)
    assert not is_extension("9" * 33)
    with pytest.raises(BadName) as caught:
        check_name("a" * 10_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [None, 201, True, b"201", ["201"], {"a": 1}])
def test_what_is_no_text_is_no_name(value):
    """Values from JSON may be anything."""
    assert not is_name(value)
    assert not is_extension(value)


@given(st.text(max_size=70))
def test_whatever_passes_is_safe_as_a_file(text):
    """A name that passes is plain ASCII, and no option, hidden file or path."""
    if is_name(text):
        assert text.isascii()
        assert text[0].isalnum()
        assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        assert 1 <= len(text) <= 64
    assert is_name(text) or not is_extension(text)


def test_the_check_says_what_the_name_is_for():
    """The error speaks of the callflow, not of a name."""
    with pytest.raises(BadName, match="'a b' is no callflow"):
        check_name("a b", "callflow")


def test_greetings_have_four_names():
    """Each passes; another one is refused with the four."""
    assert [check_greeting(name) for name in GREETINGS] == ["name", "unavailable", "busy", "temporary"]
    with pytest.raises(BadName, match="no greeting is called 'loud'") as caught:
        check_greeting("loud")
    assert "temporary" in caught.value.hint
