"""The contract of a store's format: whatever format it is, a store passes all of this.

It runs on two servers with stores of that format. What people and the application do to files comes from the format's
hand (`tests/hands.py`); what vmctl makes of it is asked of the store and the index. A new format gets a hand and a line
in FORMATS (`tests/contract.py`), and no test of its own here. Here is what a format itself says; what a scan makes of
its files, and how they are written, are suites of their own: `test_store_contract_scan.py`, `..._writing.py`.
"""

import contextlib
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from contract import Pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import SETTLE, tone

from vmctl import durable
from vmctl.audio import digest_of
from vmctl.entry import Entry
from vmctl.errors import RecordError, StoreUnusable
from vmctl.model import (
    ABSENT,
    CALLFLOW,
    GREETING,
    MAILBOX,
    MESSAGE,
    PROMPT,
    SETTINGS,
    SETTINGS_KEY,
    Field,
    Key,
    Record,
    Stamp,
    Tick,
    canonical,
    greeting_key,
    mailbox_key,
    message_key,
)  # fmt: skip
from vmctl.names import GREETINGS
from vmctl.store.format import STATE

# Where a record lies

EXTENSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
KEYS = (
    st.just(SETTINGS_KEY)
    | st.builds(lambda kind, name: str(Key(kind, None, name)), st.sampled_from([CALLFLOW, PROMPT]), NAMES)
    | st.builds(mailbox_key, EXTENSIONS)
    | st.builds(greeting_key, EXTENSIONS, st.sampled_from(GREETINGS))
    | st.builds(message_key, EXTENSIONS, NAMES)
)


def a_store(layout, root=Path("/nowhere")):
    """A store, wherever."""
    return layout.store(root, ("wav", "mp3"), 4096)


@given(KEYS, KEYS)
def test_two_records_never_share_a_file(layout, one, other):
    """Other records lie in other files, inside of the store and outside of vmctl's own part of it."""
    store = a_store(layout)
    paths = [{store.path(key), store.audio_path(key, "wav"), store.audio_path(key, "mp3")} for key in (one, other)]
    if one != other:
        assert set() == paths[0] & paths[1]
    for path in paths[0]:
        parts = path.split("/")
        assert not {"", ".", "..", STATE} & set(parts)


@given(EXTENSIONS, NAMES, st.sampled_from(["wav", "mp3"]))
def test_a_message_folder_tells_what_is_in_it(layout, extension, ident, form):
    """From a file's path come the mailbox, the message, and whether it is a document or a recording."""
    store = a_store(layout)
    key = message_key(extension, ident)
    path, audio = store.path(key), store.audio_path(key, form)
    folder = store.folder(extension)
    assert extension == store.mailbox_of(folder)
    assert {folder} == {path.rpartition("/")[0], audio.rpartition("/")[0]}
    assert [(ident, None), (ident, form)] == [store.part_of(path), store.part_of(audio)]


@given(st.text(max_size=40).map(lambda name: name.replace("/", "")))
def test_any_name_in_a_message_folder_is_a_part_or_nothing(layout, name):
    """Whatever a file is called, it is the document or a recording of the message that lies there, or nothing."""
    store = a_store(layout)
    path = f"{store.folder('2001')}/{name}"
    part = store.part_of(path)
    if part is not None:
        key = message_key("2001", part.ident)
        assert path == (store.path(key) if part.form is None else store.audio_path(key, part.form))


@given(KEYS)
def test_what_a_record_leaves_is_inside_of_the_store(layout, key):
    """The folders that may go with a record lie below the store, inner ones first, and none twice is outside."""
    store = a_store(layout)
    folders = list(store.emptied(store.path(key)))
    assert not {"", ".", STATE} & set(folders)
    assert all(not inner.startswith(f"{outer}/") for n, outer in enumerate(folders) for inner in folders[n + 1 :]), (
        folders
    )


def test_a_kind_without_a_file_has_no_path(layout):
    """Conflicts are kept in the index alone."""
    with pytest.raises(ValueError, match="conflict"):
        a_store(layout).path("conflict/0123456789abcdef")


# What a file means

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS, max_size=12)
LINE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXT, one, max_size=3),
    max_leaves=6,
)
WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
UNKNOWN = st.dictionaries(WORDS.map(lambda word: "x" + word), JSON, max_size=3)
DOCUMENTS = {
    SETTINGS: st.dictionaries(st.builds("{}.{}".format, WORDS, WORDS), JSON, max_size=4),
    CALLFLOW: st.dictionaries(WORDS, LINE, min_size=1).map(
        lambda value: {"text": "".join(f"{name}: {canonical(text).decode()}  # why\n" for name, text in value.items())}
    ),
    MAILBOX: st.builds(
        lambda unknown, known: unknown | known,
        UNKNOWN,
        st.fixed_dictionaries({}, optional={"name": LINE, "quota": st.integers(1, 99), "language": st.just("en-GB")}),
    ),
    MESSAGE: st.builds(
        lambda unknown, known: {"received": "2026-01-31T08:15:00Z", "status": "new"} | unknown | known,
        UNKNOWN,
        st.fixed_dictionaries(
            {}, optional={"name": LINE, "status": st.sampled_from(["old", "saved"]), "urgent": st.booleans()}
        ),
    ),
}
KEY_OF = {SETTINGS: SETTINGS_KEY, CALLFLOW: "callflow/main", MAILBOX: "mailbox/2001", MESSAGE: "message/2001/m1"}


def a_record(key, document, number=7, by="primary-0123456789ab"):
    """A record with this document, made by one author at one time."""
    fields = {name: Field(value, Stamp(number, by, number)) for name, value in document.items()}
    return Record(key, Tick(number, by), fields, {by: number}, {by: number}, {})


@pytest.mark.parametrize("kind", DOCUMENTS)
@given(data=st.data())
def test_the_text_of_a_record_means_the_record(layout, kind, data):
    """What `text` writes `parse` reads: the document value for value, and of a message its stamps and presence."""
    store = a_store(layout)
    record = a_record(KEY_OF[kind], data.draw(DOCUMENTS[kind]))
    if kind == MESSAGE:
        record = replace(record, fields=record.fields | {"gone": Field(ABSENT, Stamp(8, "x", 8))}, deleted={"x": 3})
    document, state = store.parse(record.key, store.text(record), "here")
    assert canonical(record.document) == canonical(document)
    assert state is None or state.version == record.version
    assert store.text(record) == store.text(record)
    assert store.is_edited(kind) == (kind != MESSAGE)


@pytest.mark.parametrize("kind", DOCUMENTS)
@given(data=st.data())
def test_no_bytes_end_in_anything_but_a_fault(layout, kind, data):
    """Whatever a file holds, it is a document that can be passed on, or a fault of that file."""
    store = a_store(layout)
    whole = store.text(a_record(KEY_OF[kind], data.draw(DOCUMENTS[kind])))
    cut = data.draw(st.integers(0, len(whole)))
    bytes_ = data.draw(st.binary(max_size=40) | st.just(whole[:cut]) | st.just(whole[:cut] + b"\xff" + whole[cut:]))
    with contextlib.suppress(RecordError):
        canonical(store.parse(KEY_OF[kind], bytes_, "here")[0])


@pytest.fixture(scope="module")
def lone(tmp_path_factory, layout):
    """Two servers that many examples share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "_fsync", lambda _fd: None)
        made = Pair(tmp_path_factory.mktemp("lone") / "net", layout)
        made.desk().create_mailbox("2001", {"name": "Ada"})
        yield made
        made.close()


@pytest.mark.parametrize("kind", DOCUMENTS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_kind_of_document_that_is_written_is_read_back_equal(lone, layout, kind, data):
    """Applied to the store it is there value for value, in a plain file, and no scan takes it for an edit."""
    index, store = lone.a.index, lone.store
    document = data.draw(DOCUMENTS[kind])
    if kind == MESSAGE:
        digest, size = digest_of(tone(lone.directory / "one.wav", seed=1))
        lone.a.pool.hold((lone.directory / "one.wav").read_bytes(), digest)
        lone.a.pool.put_down()
        document["audio"] = {"sha256": digest, "size": size, "format": "wav"}
    entry = index.get(KEY_OF[kind])
    with index.transaction():
        number = index.next_number(lone.clock.wall())
        record = a_record(KEY_OF[kind], document, number, index.meta("incarnation"))
        index.put(Entry(record, entry.shown if entry else None), lone.clock.wall())
    with lone.a.locked():
        assert [record.key] == lone.a.applier.apply_all().written or not index.todo()
    assert canonical(document) == canonical(store.document(record.key) or {})
    path = store.root / store.path(record.key)
    assert not path.exists() or stat.S_ISREG(path.lstat().st_mode)
    lone.clock.advance(SETTLE + 0.01)
    assert [] == lone.a.scan(full=True).changed


def test_recordings_arrive_byte_for_byte(pair, sound, recording):
    """A greeting, a prompt and a message are the same bytes at the peer, whatever their format and however odd."""
    desk = pair.desk()
    for number, source in enumerate([recording(frames=1), recording(frames=7919), recording(frames=70_001)]):
        desk.set_greeting("2001", GREETINGS[number], source)
        desk.set_prompt(f"p{number}", source)
        ident = desk.leave("2001", source)
        pair.in_step()
        keys = (greeting_key("2001", GREETINGS[number]), f"prompt/p{number}", message_key("2001", ident))
        for store in (pair.a.store, pair.b.store):
            for key in keys:
                assert source.read_bytes() == (store.root / store.audio_path(key, "wav")).read_bytes()


def test_the_names_are_those_of_the_walk(pair, recording):
    """Two ways to ask what is there agree, for every kind, and count nothing that is odd."""
    desk = pair.desk()
    desk.create_mailbox("2000", {})
    desk.set_greeting("2001", "busy", recording())
    desk.set_prompt("welcome", recording())
    desk.set_callflow("main", "greet: hello\n")
    ident = desk.leave("2001", recording())
    pair.hand.litter()
    store = pair.store
    assert [["2000", "2001"], ["main"], ["welcome"]] == [store.names(kind) for kind in (MAILBOX, CALLFLOW, PROMPT)]
    assert [["busy"], [ident]] == [store.names(kind, "2001") for kind in (GREETING, MESSAGE)]
    assert [[], []] == [store.names(kind, "2999") for kind in (GREETING, MESSAGE)]
    walk = store.walk()
    assert len(list(store.walking())) > len(store.names(MAILBOX))
    keys = {"mailbox/2000", "mailbox/2001", "callflow/main", "prompt/welcome", "greeting/2001/busy"}
    assert keys == {key for key, _ in walk.files.values()} - {SETTINGS_KEY}
    assert {"2001"} <= {extension for extension, _ in walk.folders.values()} <= {"2000", "2001"}
    assert all(store.look(path) == look for path, (_, look) in walk.files.items())


def test_a_fault_of_the_disk_is_no_absence(pair):
    """What cannot be looked at is not `not there`: an absence would become a deletion."""
    too_long = pair.store.path("callflow/main").replace("main", "x" * 5000)
    with pytest.raises(StoreUnusable):
        pair.store.look(too_long)
    assert pair.store.look(pair.store.path("callflow/main")) is None


def test_the_files_of_one_message_are_those_of_its_folder(pair, sound):
    """They are told with the same looks as in a listing, and of a message that is not there there are none."""
    for ident in ("m1", "m10"):
        pair.hand.leave("2001", ident, sound())
    store = pair.store
    folder = store.messages(store.folder("2001"))
    found = [store.beside(f"message/2001/{ident}") for ident in ("m1", "m10")]
    assert folder == found[0] | found[1]
    assert not found[0].keys() & found[1].keys()
    assert {} == store.beside("message/2001/m2") == store.beside("message/2999/m1")
