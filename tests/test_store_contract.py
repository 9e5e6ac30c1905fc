"""The contract of a store's format: whatever format it is, a store passes all of this.

It runs on two servers with stores of that format. What people and the application do to files comes from the format's
hand (`tests/hands.py`); what vmctl makes of it is asked of the store and the index. A new format gets a hand and a line
in FORMATS, and no test of its own here.
"""

import contextlib
import functools
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hands import WAYS_TO_SAVE, NativeHand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import SETTLE, Wire, tone

from vmctl import durable
from vmctl.audio import digest_of
from vmctl.entry import Entry, audio_of
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

FORMATS = {"native": NativeHand}
STEPS = ("_open", "_write", "_truncate", "_fsync", "_rename", "_link", "_unlink", "_mkdir", "_rmdir", "_sync")


class Pair(Wire):
    """Two servers whose stores are of one layout, with a hand at each."""

    def __init__(self, directory, hand):
        super().__init__(directory)
        self.hands = {name: hand(self.root(name)) for name in self.servers}
        self.hand = self.hands["primary"]
        self.store = self.a.store

    def faults(self, name="primary"):
        """What is wrong of a server's store, by path; `in_step` of the wire asks for what keeps both apart."""
        return {fault["path"] for fault in self.servers[name].index.faults.all()}

    def in_step(self):
        for name in self.servers:
            self.scan(name)
        self.exchange()
        for name in self.servers:
            self.scan(name)
        self.exchange()
        assert [] == super().faults()


@pytest.fixture(params=FORMATS, scope="session")
def layout(request):
    """The hand of a format."""
    return FORMATS[request.param]


@pytest.fixture
def pair(tmp_path, no_fsync, layout):
    """Two servers with mailbox 2001, in step."""
    made = Pair(tmp_path / "net", layout)
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.in_step()
    yield made
    made.close()


@pytest.fixture
def sound(recording):
    """Makes the bytes of a recording that is like no other."""
    return lambda **how: recording(**how).read_bytes()


def shown(path):
    """A path as a fault shows it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def there(pair, name="secondary"):
    """The messages of mailbox 2001 at a server."""
    return pair.messages("2001", name)


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


@pytest.fixture(scope="session")
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
        lone.a.pool.put((lone.directory / "one.wav").read_bytes(), digest)
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


# A scan

_touched = None


def _watch(event, args):
    if _touched is not None and event in {"open", "os.scandir", "os.listdir"} and not isinstance(args[0], int):
        _touched.append(os.fsdecode(args[0]))


@functools.cache
def _watching():
    sys.addaudithook(_watch)  # for good: Python has no way to take one out


@pytest.fixture
def touched():
    """Tells what a piece of work opens and lists under a folder, vmctl's own files left out."""

    def watch(act, root):
        global _touched  # noqa: PLW0603 - an audit hook has no other place
        _watching()
        _touched = []
        try:
            act()
        finally:
            paths, _touched = _touched, None
        below = [path.removeprefix(f"{root}/") for path in paths if path.startswith(f"{root}/")]
        return [path for path in below if not path.startswith(STATE)]

    return watch


def test_a_scan_of_an_untouched_store_opens_nothing(pair, recording, touched):
    """No file is opened, and no message folder listed, when nothing changed since the last scan."""
    desk = pair.desk()
    desk.set_callflow("main", "greet: hello\n")
    desk.set_prompt("welcome", recording())
    desk.set_greeting("2001", "busy", recording())
    desk.leave("2001", recording())
    pair.in_step()
    pair.clock.advance(5)
    pair.scan()
    root, store = pair.root(), pair.store
    paths = touched(pair.a.scan, root)
    assert [] == [path for path in paths if (root / path).is_file()]
    assert store.folder("2001") not in paths
    pair.tick()
    pair.hand.leave("2001", "m1", recording().read_bytes())
    pair.clock.advance(SETTLE + 0.01)
    paths = touched(pair.a.scan, root)
    assert {store.path("message/2001/m1"), store.folder("2001")} <= set(paths)  # so it would have been seen
    assert store.path("mailbox/2001") not in paths


@pytest.mark.parametrize("save", WAYS_TO_SAVE)
def test_an_edit_is_seen_however_it_is_saved(pair, save):
    """Of the same size and with the same times, or bit by bit: what a person saved is at the peer."""
    path = pair.hand.mailbox_file("2001")
    before = pair.hand.mailbox_text(name="Ada", service="voicemail")
    path.write_bytes(before)
    pair.in_step()
    after = before.replace(b"Ada", b"Eve")
    assert len(before) == len(after)
    save(path, after)
    pair.in_step()
    assert "Eve" == pair.b.store.document("mailbox/2001")["name"]


def test_a_half_written_document_is_no_edit(pair):
    """Whatever part of a file is on disk when a scan comes, only what stood still is taken."""
    path = pair.hand.mailbox_file("2001")
    whole = pair.hand.mailbox_text(name="Augusta", language="en-GB", quota=40)
    pair.clock.as_files()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        assert [] == pair.a.scan().changed
    path.write_bytes(whole)
    pair.in_step()
    assert "Augusta" == pair.b.store.document("mailbox/2001")["name"]
    assert 0 == pair.a.index.count("kind = 'conflict'")


def test_a_broken_document_is_named_stays_and_ships_nothing(pair):
    """A file that is none is a fault with its path, stays as it is byte for byte, and its cure is taken."""
    path = pair.hand.mailbox_file("2001")
    for text in pair.hand.broken_texts():
        path.write_bytes(text)
        pair.scan()
        assert {pair.store.path("mailbox/2001")} == pair.faults(), text
        assert text == path.read_bytes()
        assert 0 == pair.a.index.pending_count()
    path.write_bytes(pair.hand.mailbox_text(name="Bob"))
    pair.in_step()
    assert set() == pair.faults()
    assert "Bob" == pair.b.store.document("mailbox/2001")["name"]


def test_a_huge_document_is_named_and_not_read(pair, touched):
    """A file beyond the limit is a fault: it is not taken, and the memory that it would need is not asked for."""
    path = pair.hand.mailbox_file("2001")
    with path.open("ab") as file:
        file.truncate(1 << 40)
    pair.scan()
    assert {pair.store.path("mailbox/2001")} == pair.faults()
    assert 0 == pair.a.index.pending_count()
    with path.open("ab") as file:
        file.truncate(0)
    path.write_bytes(pair.hand.mailbox_text(name="Bob"))
    pair.in_step()


def test_a_document_absent_for_a_moment_is_not_deleted(pair):
    """Gone at one look and there at the next: nothing happened. Gone at both: deleted, on both servers."""
    path = pair.hand.callflow_file("main")
    path.parent.mkdir(exist_ok=True)
    path.write_text("greet: hello\n")
    pair.in_step()
    away = pair.directory / "away"
    path.rename(away)
    assert [] == pair.a.scan().changed
    away.rename(path)
    pair.in_step()
    assert ["main"] == pair.b.store.names(CALLFLOW)
    path.unlink()
    pair.in_step()
    assert [] == pair.b.store.names(CALLFLOW)


def test_a_message_of_the_application_is_taken_marked_and_deleted(pair, sound):
    """Left, marked and removed by the application alone: each is at the peer after a scan."""
    audio = sound()
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    assert audio == pair.hands["secondary"].recording("2001", "m1")
    pair.hand.mark("2001", "m1", "saved")
    pair.in_step()
    assert "saved" == pair.b.store.document("message/2001/m1")["status"]
    pair.hand.remove("2001", "m1")
    pair.in_step()
    assert [] == there(pair)
    assert [] == there(pair, "primary")


def test_a_message_is_taken_when_all_of_it_is_there(pair, sound):
    """Its recording alone, or its document alone, is nothing yet, and nothing wrong at once."""
    audio = sound()
    for ident, halves in {
        "m1": (lambda: pair.hand.begin("2001", "m1", audio), lambda: pair.hand.finish("2001", "m1")),
        "m2": (lambda: pair.hand.finish("2001", "m2"), lambda: pair.hand.begin("2001", "m2", audio)),
    }.items():
        pair.clock.as_files()
        halves[0]()
        assert [] == pair.a.scan().changed
        assert set() == pair.faults()
        assert not pair.lives(f"message/2001/{ident}")
        halves[1]()
        pair.in_step()
        assert ident in there(pair)


def test_a_half_written_message_loses_and_changes_nothing(pair, sound):
    """Half of a document that was whole is a fault: the message stays at the peer, and its cure is no change."""
    pair.hand.leave("2001", "m1", sound())
    pair.in_step()
    whole = pair.hand.cut_off("2001", "m1")
    pair.scan()
    pair.exchange()
    assert {pair.store.path("message/2001/m1")} == pair.faults()
    assert ["m1"] == there(pair)
    pair.hand.mend("2001", "m1", whole)
    pair.in_step()
    assert set() == pair.faults()


@pytest.mark.parametrize("harm", ["lose_recording", "spoil_recording"])
def test_a_harmed_recording_is_damage_and_comes_back(pair, sound, harm):
    """Gone, or with other bytes under the same size and times: no deletion and no edit, and the peer's is fetched."""
    audio = sound()
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    number = pair.a.index.last_number
    getattr(pair.hand, harm)("2001", "m1")
    assert ["message/2001/m1"] == pair.scan(full=True).damaged
    assert 1 == len(pair.faults())
    assert number == pair.a.index.last_number
    pair.in_step()
    assert [audio, audio] == [hand.recording("2001", "m1") for hand in pair.hands.values()]
    assert set() == pair.faults()


def test_a_copied_message_harms_neither(pair, sound):
    """Files copied to another mailbox are a message of their own or named; the first stays what it was."""
    audio = sound()
    pair.desk().create_mailbox("2002", {})
    pair.hand.leave("2001", "m1", audio)
    pair.in_step()
    pair.hand.copy("2001", "m1", "2002")
    pair.scan()
    pair.exchange()
    assert ["m1"] == there(pair)
    assert audio == pair.hands["secondary"].recording("2001", "m1")
    copied = pair.messages("2002", "secondary")
    assert bool(copied) != bool(pair.faults())


def test_litter_is_named_and_left_alone(pair):
    """What belongs to nothing is named, whatever it is called, and neither shipped, changed nor removed."""
    paths = pair.hand.litter()
    before = {path: (pair.root() / path).lstat() for path in paths}
    pair.scan()
    pair.clock.advance(61)
    pair.scan(full=True)
    assert {shown(path) for path in paths} == pair.faults()
    assert 0 == pair.a.index.pending_count()
    pair.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    pair.exchange()
    pair.scan()
    after = {path: (pair.root() / path).lstat() for path in paths}
    assert [(one.st_ino, one.st_size, one.st_mtime_ns) for one in before.values()] == [
        (one.st_ino, one.st_size, one.st_mtime_ns) for one in after.values()
    ]


def test_links_pipes_and_folders_are_named_and_never_followed(pair):
    """What is no plain file is neither read, waited for nor written through."""
    secret = pair.directory / "secret"
    secret.mkdir()
    (secret / "mailbox.yaml").write_text("name: secret\n")
    paths = pair.hand.no_plain_files(secret)
    pair.scan()
    assert paths == pair.faults()
    assert 0 == pair.a.index.pending_count()
    for name in ("linked", "pipe", "folder"):
        pair.desk("secondary").set_callflow(name, "greet: hello\n")
    pair.exchange()
    pair.scan()
    assert ["mailbox.yaml"] == [path.name for path in secret.iterdir()]
    assert paths <= pair.faults()


@pytest.mark.parametrize("which", ["messages", "all"])
def test_a_folder_that_cannot_be_read_deletes_nothing(pair, sound, monkeypatch, which):
    """Its records count as there, it is named, all else goes on, and when it can be read again all is well."""
    pair.desk().create_mailbox("2002", {})
    pair.hand.leave("2001", "m1", sound())
    pair.in_step()
    closed = str(pair.hand.message_folder("2001") if which == "messages" else pair.root())

    def refusing(act):
        def listing(path="."):
            if str(path) == closed:
                raise PermissionError(13, "Permission denied")
            return act(path)

        return listing

    with monkeypatch.context() as patch:
        for name in ("scandir", "listdir"):
            patch.setattr(os, name, refusing(getattr(os, name)))
        pair.hand.mailbox_file("2002").write_bytes(pair.hand.mailbox_text(name="Bob"))
        report = pair.scan(full=True)
        assert ([], []) == (report.held, sorted(report.absent))
        assert ["mailbox/2002"] == report.changed
        assert 1 == len(pair.faults())
    pair.in_step()
    assert ["m1"] == there(pair)
    assert set() == pair.faults()


# Writing


def busy(pair, recording):
    """Both servers hold a record of each kind; gives the id of the message."""
    desk = pair.desk()
    desk.set_settings({"defaults.quota": 20})
    desk.set_callflow("main", "greet: hello\n")
    desk.set_prompt("welcome", recording())
    desk.set_greeting("2001", "busy", recording())
    ident = desk.leave("2001", recording())
    pair.in_step()
    return ident


def from_the_peer(pair, act):
    """What the peer did is in the spool."""
    act(pair.desk("secondary"))
    pair.send("secondary")
    pair.deliver(take=False)


def inodes(root):
    """Each file of a store by its inode: a file written anew has another."""
    return {
        path: path.stat().st_ino
        for path in root.rglob("*")
        if path.is_file() and STATE not in path.relative_to(root).parts
    }


def test_writing_again_writes_nothing(pair, recording, monkeypatch):
    """A second application finds nothing to do, and takes no step that changes a file."""
    busy(pair, recording)
    before = inodes(pair.root())
    steps = []
    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, lambda *_words, name=name: steps.append(name))
        with pair.b.index.transaction():
            assert [] == pair.b.applier.apply_all().written
        assert [] == pair.a.applier.apply_all().written
    assert [] == steps
    assert before == inodes(pair.root())


def test_what_was_written_before_a_crash_is_not_written_again(pair, recording):
    """The index forgets that the files show its records: they are found as meant, none is touched, none is an edit."""
    busy(pair, recording)
    before, number = inodes(pair.root()), pair.a.index.last_number
    with pair.a.index.transaction():
        for entry in list(pair.a.index.entries("lives")):
            pair.a.index.put(replace(entry, shown=None), pair.clock.wall())
    assert 6 == len(pair.a.index.todo())
    pair.crash("primary")
    assert [] == pair.a.index.todo()
    assert before == inodes(pair.root())
    assert [] == pair.scan(full=True).changed
    assert number == pair.a.index.last_number


def test_an_edit_in_between_is_merged_and_not_written_over(pair):
    """Saved by a person before the peer's change is written: both are there, on both servers."""
    pair.hand.mailbox_file("2001").write_bytes(pair.hand.mailbox_text(name="Eve", service="voicemail"))
    from_the_peer(pair, lambda desk: desk.set_mailbox("2001", {"language": "en-GB"}))
    pair.a.take()
    pair.in_step()
    expected = {"name": "Eve", "language": "en-GB", "service": "voicemail"}
    assert [expected, expected] == [replica.store.document("mailbox/2001") for replica in pair.servers.values()]


def test_an_edit_at_the_very_rename_is_merged(pair, monkeypatch):
    """Saved into the old file while it is being replaced: both are there, on both servers."""
    path = pair.hand.mailbox_file("2001")
    from_the_peer(pair, lambda desk: desk.set_mailbox("2001", {"language": "en-GB"}))
    late, rename = [pair.hand.mailbox_text(name="Eve", service="voicemail")], os.rename

    def at_the_last_moment(source, target):
        if late and target == path:
            path.write_bytes(late.pop())
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_rename", at_the_last_moment)
        pair.a.take()
    assert [] == late
    pair.in_step()
    expected = {"name": "Eve", "language": "en-GB", "service": "voicemail"}
    assert [expected, expected] == [replica.store.document("mailbox/2001") for replica in pair.servers.values()]


def test_a_file_of_equal_values_is_left_as_it_is(pair):
    """The peer came to the same values by itself: what a person wrote stays, byte for byte and in its place."""
    path = pair.hand.mailbox_file("2001")
    path.write_bytes(pair.hand.mailbox_text(name="Eve", service="voicemail") + pair.hand.comment())
    before = (path.read_bytes(), path.stat().st_ino)
    pair.scan()
    version = pair.a.index.get("mailbox/2001").record.version
    pair.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    pair.in_step()
    assert version != pair.a.index.get("mailbox/2001").record.version
    assert before == (path.read_bytes(), path.stat().st_ino)


def test_a_deletion_keeps_what_can_be_restored(pair, recording):
    """The peer's deletion empties the store of the message; restored, it is what it was, byte for byte, on both."""
    ident = busy(pair, recording)
    audio, document = pair.hand.recording("2001", ident), pair.store.document(message_key("2001", ident))
    pair.desk("secondary").delete_message("2001", ident)
    pair.in_step()
    assert [[], []] == [there(pair, name) for name in pair.servers]
    assert not [path for path in pair.root().rglob(f"*{ident}*") if STATE not in path.relative_to(pair.root()).parts]
    assert [message_key("2001", ident)] == [key for _, key in pair.store.tombs()]
    pair.desk().restore_message("2001", ident)
    pair.in_step()
    assert [audio, audio] == [hand.recording("2001", ident) for hand in pair.hands.values()]
    assert document == pair.b.store.document(message_key("2001", ident))
    assert [] == list(pair.store.tombs())


def test_a_deleted_mailbox_leaves_nothing_but_litter(pair, recording):
    """The folders of a deleted mailbox go with it, unless they hold what vmctl never knew."""
    pair.desk().create_mailbox("2002", {})
    for box in ("2001", "2002"):
        pair.desk().leave(box, recording())
    pair.in_step()
    keepsake = pair.hand.message_folder("2002") / "keepsake"
    keepsake.write_text("mine")
    for box in ("2001", "2002"):
        pair.desk("secondary").delete_mailbox(box)
    pair.exchange()
    assert [] == pair.store.names(MAILBOX)
    assert not pair.hand.message_folder("2001").parent.exists()
    assert "mine" == keepsake.read_text()


def whole(store):
    """Read every record of a store as an application that comes by does: what is there must be whole. Gives the keys."""
    keys = []
    for box in store.names(MAILBOX):
        store.document(mailbox_key(box))
        for ident in store.names(MESSAGE, box):
            key = message_key(box, ident)
            audio = audio_of(store.document(key))
            assert audio is not None, f"{key} is there without its recording"
            path = store.root / store.audio_path(key, audio["format"])
            assert path.exists(), f"{key} is there before its recording"
            assert audio["sha256"] == digest_of(path)[0], f"{key} is there with a recording that is not all there"
            keys.append(key)
        keys += [greeting_key(box, name) for name in store.names(GREETING, box)]
    for name in store.names(CALLFLOW):
        store.check_callflow(store.read(store.path(f"callflow/{name}")), name)
    store.document(SETTINGS_KEY)
    return keys


ACTS = {
    "a message comes": lambda desk, ident, new: desk.leave("2001", new),
    "a message is marked": lambda desk, ident, new: desk.mark("2001", ident, "saved"),
    "a message is deleted": lambda desk, ident, new: desk.delete_message("2001", ident),
    "a greeting is replaced": lambda desk, ident, new: desk.set_greeting("2001", "busy", new),
    "a greeting is deleted": lambda desk, ident, new: desk.delete_greeting("2001", "busy"),
    "a callflow is replaced": lambda desk, ident, new: desk.set_callflow("main", "greet: hello\nthen: goodbye\n"),
    "settings are changed": lambda desk, ident, new: desk.set_settings({"defaults.quota": 21, "a.b": "c" * 900}),
    "a mailbox is changed": lambda desk, ident, new: desk.set_mailbox("2001", {"name": "Eve"}),
    "a mailbox is deleted": lambda desk, ident, new: desk.delete_mailbox("2001"),
}


@pytest.mark.parametrize("act", ACTS)
def test_at_every_step_what_is_there_is_whole(pair, recording, monkeypatch, act):
    """Whoever reads the store before or after any step of writing finds whole records only."""
    ident = busy(pair, recording)
    from_the_peer(pair, lambda desk: ACTS[act](desk, ident, recording(frames=3000)))
    seen = []

    def watched(step, name):
        def take(*values, **words):
            whole(pair.store)
            done = step(*values, **words)
            seen.append((name, whole(pair.store)))
            return done

        return take

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, watched(getattr(durable, name), name))
        pair.a.take()
    assert {"_rename", "_fsync"} <= {name for name, _ in seen}
    pair.in_step()


def test_a_restored_message_is_whole_at_every_step(pair, recording, monkeypatch):
    """A message comes back in one step: it is not there, or there with its recording."""
    ident = busy(pair, recording)
    pair.desk().delete_message("2001", ident)
    pair.in_step()
    seen = []

    def watched(step):
        def take(*values, **words):
            done = step(*values, **words)
            seen.append(message_key("2001", ident) in whole(pair.store))
            return done

        return take

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(durable, name, watched(getattr(durable, name)))
        pair.desk().restore_message("2001", ident)
    assert seen == sorted(seen)
    assert {False, True} == set(seen)
