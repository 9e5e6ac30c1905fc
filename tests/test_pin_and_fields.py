"""PINs are kept as hashes only, and each field of a mailbox and a message has its check."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl import pin
from vmctl.errors import BadValue
from vmctl.fields import MAILBOX_FIELDS, MESSAGE_FIELDS, check_mailbox, check_message

# the hash of 4711, the same in every run: it names tests
HASH = "scrypt:16384:8:1:AAECAwQFBgcICQoLDA0ODw==:K/0L5mhkJxngS0LmKCWmcC1HSqTTnHZsbtNMDY1og4w="
MESSAGE = {"received": "2026-01-31T08:15:00Z", "status": "new"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3), max_leaves=6
)

# PINs


def test_a_pin_matches_its_hash_and_no_other_does():
    """The hash tells nothing of the PIN, and each one has a salt of its own."""
    assert pin.is_hash(HASH)
    assert "4711" not in HASH.split(":")[4:]
    assert pin.matches(HASH, "4711")
    assert not pin.matches(HASH, "4712")
    assert pin.hashed(4711) != HASH


def test_zeros_in_front_count():
    """0042 is not 42, so a PIN is a text."""
    assert pin.matches(pin.hashed("0042"), "0042")
    assert not pin.matches(HASH, "04711")


@pytest.mark.parametrize(
    "value",
    ["", "123", "1" * 16, "12a4", "-1234", "+1234", "1234\n", " 1234", "12.34", "١٢٣٤", 123, -1234, 12.34, True, None, ["1234"],
     HASH],
)  # fmt: skip
def test_what_is_no_pin_is_refused_and_not_shown(value):
    """Four to fifteen digits; the error does not repeat what was typed."""
    with pytest.raises(BadValue, match="4 to 15 digits") as caught:
        pin.hashed(value)
    assert str(value) not in str(caught.value.as_json()) or len(str(value)) < 4


@pytest.mark.parametrize(
    "value",
    ["", "4711", "scrypt", None, 4711, HASH + "\n", " " + HASH, HASH.replace("scrypt", "md5"), HASH[:-20], HASH + ":x"],
)
def test_only_a_whole_hash_is_one(value):
    """A PIN or a piece of a hash is hashed or refused, never kept as it is."""
    assert not pin.is_hash(value)


@pytest.mark.parametrize(
    "value",
    [
        HASH.replace(":16384:", ":16383:"), HASH.replace(":16384:", ":999999:"), HASH.replace(":16384:", ":524288:"),
        HASH.replace(":16384:", ":0:"), HASH.replace(":8:", ":99:"), "scrypt:16384:8:1:" + "=" * 16 + ":" + "=" * 44,
        "scrypt:16384:8:1:" + "A" * 17 + ":" + "A" * 44, "no hash", "",
    ],
)  # fmt: skip
def test_a_hash_that_cannot_be_computed_matches_nothing(value):
    """A hash from outside with odd or greedy parameters locks a mailbox, and stops nothing else."""
    assert pin.matches(value, "4711") is False


@pytest.mark.parametrize("typed", ["", "471", "47110" * 4, "4711\n", "٤٧١١"])
def test_what_is_no_pin_matches_nothing(typed):
    """Odd input is refused before any work is done."""
    assert not pin.matches(HASH, typed)


# Fields

GOOD = {
    "name": "Ada Lovelace (Zoë)",
    "pin": HASH,
    "service": "voicemail",
    "email": "ada@example.org",
    "language": "en-GB",
    "timezone": "America/Argentina/Ushuaia",
    "quota": 100,
    "greeting": "busy",
    "lists": {"team": ["201", "202"], "none": []},
    "timers": {"new": 720, "deleted": 0},
}
BAD = {
    "name": ["", "a" * 129, "two\nlines", "bell\x07", 5, None, ["Ada"]],
    "service": ["", "a b", "../x", 1, None],
    "email": ["", "ada", "ada@", "@b.org", "a b@c.org", "a@b.org\n", "a@b.org,c@d.org", "<a@b.org>", 'x"@b.org', 5],
    "language": ["", "e", "en_GB", "en-", "en-GB\n", "../en", 5],
    "timezone": ["", "Europe/../x", "/etc/x", "Europe/London/", "Europe London", "a/b/c/d", 0],
    "quota": [0, -1, 100_001, True, 1.0, "5", None],
    "greeting": ["loud", "", None, ["busy"], {}],
    "lists": [[], {"a b": []}, {"team": "201"}, {"team": [201]}, {"team": ["../x"]}, {"": []}, None],
    "timers": [[], {"heard": 1}, {"new": -1}, {"new": 1.5}, {"new": True}, {"new": None}, None],
}
BAD_IN_MESSAGES = {
    "from": ["", "a b", "a" * 65, "x\n", 201, None],
    "name": ["", "two\nlines", 1],
    "received": ["", "yesterday", "2026-01-31", "2026-01-31T08:15:00", "1969-12-31T00:00:00Z", 5, None],
    "seconds": [-1, -0.5, True, False, "3", None, float("nan"), float("inf")],
    "status": ["", "deleted", "NEW", None, ["new"], {}],
    "urgent": ["yes", 1, 0, None],
}


def test_a_whole_mailbox_passes_unchanged():
    """Each field of the table with a good value, and one of a later version, is kept."""
    assert GOOD.keys() == MAILBOX_FIELDS.keys()
    document = GOOD | {"later": {"any": [1]}}
    assert check_mailbox(document) == document
    assert check_mailbox({}) == {}


def test_a_plain_pin_is_hashed_in_a_copy():
    """The PIN that a person wrote, quoted or not, is never kept; what was read stays as it was."""
    for plain in ("0042", 4711):
        document = {"pin": plain, "name": "Ada"}
        checked = check_mailbox(document)
        assert document == {"pin": plain, "name": "Ada"}
        assert pin.matches(checked["pin"], str(plain))
        assert checked["name"] == "Ada"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_fields_of_a_mailbox_are_named(name, value):
    """The error names the field and what it must be."""
    with pytest.raises(BadValue, match=f"mailbox's {name} must be "):
        check_mailbox({name: value})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_IN_MESSAGES.items() for value in values]
)
def test_bad_fields_of_a_message_are_named(name, value):
    """The error names the field and what it must be."""
    with pytest.raises(BadValue, match=f"message's {name} must be "):
        check_message(MESSAGE | {name: value})


def test_all_that_is_wrong_is_named_at_once():
    """Nobody mends one field after the other."""
    with pytest.raises(BadValue, match=r"name must be .*quota must be .*timers must be"):
        check_mailbox({"name": "", "quota": 0, "timers": None})


@pytest.mark.parametrize("name", ["received", "status"])
def test_a_message_needs_its_time_and_status(name):
    """Without them it cannot be listed."""
    with pytest.raises(BadValue, match=f"has no {name}"):
        check_message({key: value for key, value in MESSAGE.items() if key != name})


def test_a_whole_message_passes_unchanged():
    """Each field of the table with a good value, and one of a later version, is kept."""
    document = MESSAGE | {"from": "+4930123", "name": "Ada", "seconds": 3.5, "urgent": True, "later": [1]}
    assert document.keys() >= MESSAGE_FIELDS.keys()
    assert check_message(document) == document


@given(st.dictionaries(st.sampled_from([*MAILBOX_FIELDS, *MESSAGE_FIELDS, "later"]), JSON, max_size=5))
def test_no_value_ends_in_another_error(document):
    """Values come from files and from the wire."""
    for check in (check_mailbox, check_message):
        with contextlib.suppress(BadValue):
            check(document)
