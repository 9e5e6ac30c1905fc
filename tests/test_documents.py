"""Files and what they stand for: what is written reads equal, and no file ends in anything but its own error."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl import pin, yamltext
from vmctl.clock import HIGHEST
from vmctl.errors import BrokenFile, CallflowFaults
from vmctl.fields import MAILBOX_FIELDS
from vmctl.model import ABSENT, CALLFLOW, MAILBOX, SETTINGS, Field, Record, Stamp, Tick, canonical
from vmctl.store.documents import check_callflow, read_message, read_yaml, write_message, write_yaml

KEY = "message/201/m1"
BASE = {"received": "2026-01-31T08:15:00Z", "status": "new"}
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXT, one, max_size=3), max_leaves=8
)
PIN_HASH = "scrypt:16384:8:1:AAECAwQFBgcICQoLDA0ODw==:K/0L5mhkJxngS0LmKCWmcC1HSqTTnHZsbtNMDY1og4w="
WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
UNKNOWN = st.dictionaries(WORDS.map(lambda word: "x" + word), JSON, max_size=3)

COUNTS = st.integers(0, HIGHEST)
AUTHORS = st.sampled_from(["p1", "s1"]) | TEXT
VECTORS = st.dictionaries(AUTHORS, COUNTS, max_size=3)
STAMPS = st.builds(Stamp, COUNTS, AUTHORS, COUNTS)
DOCUMENTS = st.builds(
    lambda unknown, status, urgent: BASE | unknown | {"status": status, "urgent": urgent},
    UNKNOWN,
    st.sampled_from(["new", "old", "saved"]),
    st.booleans(),
)


@st.composite
def messages(draw):
    """A message as the merge may leave it: every field stamped, some removed."""
    fields = {name: Field(value, draw(STAMPS)) for name, value in draw(DOCUMENTS).items()}
    fields |= {f"gone{number}": Field(ABSENT, stamp) for number, stamp in enumerate(draw(st.lists(STAMPS, max_size=2)))}
    return Record(KEY, draw(st.builds(Tick, COUNTS, AUTHORS)), fields, draw(VECTORS), draw(VECTORS), draw(VECTORS))


def text(value):
    """JSON that tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)


def read(value):
    """What a message's JSON file with this value stands for."""
    return read_message(KEY, value if isinstance(value, bytes) else json.dumps(value).encode(), "m1.json")


def broken(value):
    """The error of a message's JSON file, or None where it is sound; its document can then be passed on."""
    try:
        canonical(read(value)[0])
    except BrokenFile as error:
        return error
    return None


# Messages


@given(messages())
def test_a_message_survives_its_file(record):
    """The file alone gives back the document, the birth, all stamps and the presence: no index is needed."""
    document, again = read(write_message(record))
    assert text(record.document) == text(document)
    assert record.version == again.version


@settings(max_examples=10)
@given(messages())
def test_a_message_is_json_that_people_can_read(record):
    """Its id, its fields and then the part for machines."""
    value = json.loads(write_message(record))
    assert list(value) == ["id", *record.document, "sync"]
    assert value["id"] == "m1"


def test_a_message_made_by_hand_has_no_record_yet():
    """Without a sync part the scan makes the record; the id may be missing, too."""
    assert read(BASE) == (BASE, None)
    assert read(BASE | {"id": "m1"}) == (BASE, None)


def test_a_field_that_a_person_added_is_of_the_messages_birth():
    """So it loses against any change, and both servers stamp it alike."""
    record = Record(KEY, Tick(10, "p1"), {n: Field(v, Stamp(9, "p1", 10)) for n, v in BASE.items()}, {}, {}, {})
    value = json.loads(write_message(record)) | {"name": "Ada"}
    _, again = read(value)
    assert again.fields["name"] == Field("Ada", Stamp(10, "p1", 10))


@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(["born", "vector", "kept", "deleted", "stamps"], JSON)))
def test_a_damaged_sync_part_is_a_broken_file(sync):
    """Whatever stands there, the file is broken or, by chance, sound; nothing else ends the scan."""
    error = broken(BASE | {"sync": sync})
    assert error is None or "m1.json has a damaged 'sync' part" in error.what


SOUND = {"born": [1, "p1"], "vector": {}, "kept": {}, "deleted": {}, "stamps": {"status": [1, "p1", 1]}}


@pytest.mark.parametrize(
    "sync",
    [
        {}, [], "sync", 0, False, 1.5, *({k: v for k, v in SOUND.items() if k != name} for name in SOUND),
        SOUND | {"born": [1]}, SOUND | {"born": "1p"}, SOUND | {"born": ["p1", 1]}, SOUND | {"born": [-1, "p1"]},
        SOUND | {"vector": []}, SOUND | {"kept": {"p1": "1"}}, SOUND | {"deleted": {"p1": -1}},
        SOUND | {"kept": {"p1": True}}, SOUND | {"stamps": []}, SOUND | {"stamps": {"status": 1}},
        SOUND | {"stamps": {"status": [1, "p1"]}}, SOUND | {"stamps": {"status": [2**53, "p1", 1]}},
    ],
)  # fmt: skip
def test_a_sync_part_with_a_piece_missing_or_odd_is_damaged(sync):
    """A message is not taken in with stamps or presence that nobody gave it."""
    assert broken(BASE | {"sync": SOUND}) is None
    with pytest.raises(BrokenFile, match="has a damaged 'sync' part"):
        read(BASE | {"sync": sync})


@settings(max_examples=60)
@given(messages(), st.data())
def test_a_sync_part_damaged_in_one_place_is_broken_or_sound(record, data):
    """One value replaced by another is the likeliest damage; what is taken is a record that can be kept."""
    value = json.loads(write_message(record))
    place = value["sync"]
    while True:
        name = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[name], dict | list) or not place[name] or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = data.draw(JSON | COUNTS)
    try:
        _, again = read(value)
    except BrokenFile:
        return
    assert again is not None
    assert again == Record.from_json(KEY, json.loads(canonical(again.as_json())))


@given(JSON | st.dictionaries(st.sampled_from(["id", "sync", "received", "status", "seconds", "x"]), JSON, max_size=5))
def test_no_json_ends_in_another_error(value):
    """A file is a message or broken."""
    error = broken(value)
    assert error is None or "m1.json" in error.what


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "is not a mapping"),
        (b'{"a": NaN}', "is no JSON"),
        (b'{"a": 1, "a": 2}', "is no JSON"),
        (b'{"a": {"b": 1, "b": 1}}', "is no JSON"),
        (b'{"a": 1e999}', "is no JSON"),
        (b'{"a": -1e999}', "is no JSON"),
        (b'{"a": "\\ud800"}', "is no JSON"),
        (b'{"\\udfff": 1}', "is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"id": "m2"}', "holds the id of another message"),
        (b'{"id": 1}', "holds the id of another message"),
        (b'{"status": "new"}', "has no received"),
    ],
)
def test_what_nobody_could_pass_on_is_a_broken_file(data, why):
    """Odd numbers, half characters, doubled keys and endless nesting stop at the file that holds them."""
    with pytest.raises(BrokenFile, match=why):
        read(data)


# YAML


@given(st.dictionaries(WORDS, st.dictionaries(WORDS, JSON, min_size=1, max_size=3) | JSON, max_size=4))
def test_settings_survive_their_file(nested):
    """Sections are flattened to section.key, and written as sections again."""
    try:
        document = read_yaml(SETTINGS, yamltext.dump(nested).encode(), "settings.yaml")
    except BrokenFile:  # a value that is a mapping with odd keys
        assert any(isinstance(value, dict) for value in nested.values())
        return
    before = copy.deepcopy(document)
    again = read_yaml(SETTINGS, write_yaml(SETTINGS, document), "settings.yaml")
    assert text(document) == text(again)
    assert text(before) == text(document)
    assert all(name.count(".") <= 1 for name in document)


def test_settings_are_flat_in_the_document_and_nested_in_the_file():
    """One field for each key of a section: that is what merges."""
    data = b"audio:\n  longest: 5m\n  formats: [wav]\nlanguage: en\nempty: {}\n"
    document = read_yaml(SETTINGS, data, "settings.yaml")
    assert document == {"audio.longest": "5m", "audio.formats": ["wav"], "language": "en"}
    lines = write_yaml(SETTINGS, document).decode().splitlines()
    assert lines[0].startswith("# vmctl rewrites this file")
    assert lines[1:] == ["audio:", "  formats:", "    - wav", "  longest: 5m", "language: en"]


def test_a_section_that_is_also_a_value_leaves_the_document_alone():
    """Merged from two files, one with a value and one with a section: the file shows both, and nothing is altered."""
    document = {"voicemail": {"a": 1}, "voicemail.b": 2, "x": 1, "x.y": 2, "x.z": {"deep": 3}}
    before = copy.deepcopy(document)
    data = write_yaml(SETTINGS, document)
    assert b"# x was set as a value at one server and as a section at the other" in data
    again = read_yaml(SETTINGS, data, "settings.yaml")
    assert document == before
    assert again == {"voicemail.a": 1, "voicemail.b": 2, "x": 1, "x.y": 2, "x.z": {"deep": 3}}


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"{}\n"])
def test_empty_settings_are_no_settings(data):
    """An empty file is a mapping without keys, and written as one."""
    assert read_yaml(SETTINGS, data, "settings.yaml") == {}
    assert read_yaml(SETTINGS, write_yaml(SETTINGS, {}), "settings.yaml") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"a.b: 1\n",
        b"a:\n  b.c: 1\n",
        b"'': 1\n",
        b"a b: 1\n",
        b"a:\n  ../x: 1\n",
        b"a: {c: 1}\na.b: 1\n",
        b"a: 1\na.b.c: 1\n",
    ],
)
def test_odd_keys_of_settings_are_a_broken_file(data):
    """A dot would make two keys one field."""
    with pytest.raises(BrokenFile, match="has a bad key"):
        read_yaml(SETTINGS, data, "settings.yaml")


GOOD = {
    "name": st.sampled_from(["Ada", "no", "0123", "Zoë: x", "- a", "#"]),
    "pin": st.just(PIN_HASH),
    "service": st.just("voicemail"),
    "email": st.just("ada@example.org"),
    "language": st.sampled_from(["en", "no"]),
    "timezone": st.just("Europe/London"),
    "quota": st.integers(1, 100_000),
    "greeting": st.just("busy"),
    "lists": st.dictionaries(WORDS, st.lists(st.sampled_from(["201", "0042", "1e3"]), max_size=2), max_size=2),
    "timers": st.dictionaries(st.sampled_from(["new", "old"]), st.integers(0, 720)),
}


@given(st.fixed_dictionaries({}, optional=GOOD), UNKNOWN)
def test_a_mailbox_survives_its_file(known, unknown):
    """What is written reads equal, unknown fields too; the known ones stand first, in the order of their table."""
    document = unknown | dict(reversed(known.items()))
    data = write_yaml(MAILBOX, document)
    assert text(document) == text(read_yaml(MAILBOX, data, "mailbox.yaml"))
    assert list(yamltext.load(data, "mailbox.yaml")) == [
        *[name for name in MAILBOX_FIELDS if name in known], *sorted(unknown),
    ]  # fmt: skip
    assert data == write_yaml(MAILBOX, dict(sorted(document.items())))


@pytest.mark.parametrize("plain", ['"0042"', "4711", "0042"])
def test_a_plain_pin_is_hashed_when_it_is_read(plain):
    """The document never holds the PIN that a person wrote."""
    document = read_yaml(MAILBOX, f"name: Ada\npin: {plain}\n".encode(), "mailbox.yaml")
    assert pin.matches(document["pin"], plain.strip('"'))


@pytest.mark.parametrize("data", [b"pin: 12\n", b"quota: many\n", b"- a\n", b"just text\n", b"", b"a: [\n", b"\xff\n"])
def test_a_bad_mailbox_is_a_broken_file_with_a_mend(data):
    """Whatever is wrong, the file is named and stays as it is."""
    with pytest.raises(BrokenFile, match=r"mailbox\.yaml") as caught:
        read_yaml(MAILBOX, data, "mailbox.yaml")
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"# mine\nstart: a   # here\n",
        "prompt: 'Grüße'\n".encode(),
        b"\xef\xbb\xbfa: 1\r\n",
        b"a: 1",
        b"schema: other/9\n",
    ],
)
def test_a_callflow_is_its_text(data):
    """Comments, blanks and line ends travel as they are."""
    document = read_yaml(CALLFLOW, data, "main.yaml")
    assert list(document) == ["text"]
    assert data == write_yaml(CALLFLOW, document)


def test_a_callflow_that_asks_for_checks_is_checked():
    """All faults are listed; one of another schema is left alone, and one that is no mapping is broken."""
    with pytest.raises(CallflowFaults, match=r"main\.yaml has ") as caught:
        check_callflow("schema: vmctl/1\nstart: nowhere\n", "main.yaml", [], [])
    assert caught.value.faults
    assert caught.value.why
    check_callflow("schema: other/9\nstart: nowhere\n", "main.yaml", [], [])
    with pytest.raises(BrokenFile, match="is not a mapping"):
        check_callflow("- a\n", "main.yaml", [], [])
