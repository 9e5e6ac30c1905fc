"""Attacks by somebody who may write into a store, but not into what vmctl may: symbolic links put where files belong.

Each test is named for its attack. What lies outside of the store must be as it was, and nothing of it may be shipped.
"""

import contextlib
import os
import shutil

import pytest
from wire import SETTLE, Wire, one_of_each

from vmctl import beneath, durable
from vmctl.errors import StoreError, StoreUnusable, VmctlError
from vmctl.index import Index
from vmctl.rights import Rights
from vmctl.together import Together
from vmctl.watch import Watcher

SECRET = b"name: root-secret-4711\n"
FOLDERS = ("mailboxes", "mailboxes/2001", "mailboxes/2001/messages", "mailboxes/2001/greetings", "callflows", "prompts")
FILES = ("settings.yaml", "mailboxes/2001/mailbox.yaml", "mailboxes/2001/greetings/busy.wav", "callflows/main.yaml",
         "prompts/welcome.wav", "message.json", "message.wav")  # fmt: skip
OWN = ("audio", "spool", "deleted", "replaced", "placing", "parked", "refused")


@pytest.fixture
def wire(tmp_path):
    """Two replicas in step, with one record of each kind."""
    made = Wire(tmp_path / "net")
    yield made
    made.close()


@pytest.fixture
def ident(wire, recording):
    """The message in mailbox 2001; beside it one record of each kind."""
    found = one_of_each(wire, recording)
    wire.in_step()
    return found


def plant(wire, tmp_path, path):
    """Put a link in the place of something; what was there, and a secret beside it, lies outside. Gives the outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    place = wire.root() / path
    place.rename(outside / "real")
    place.symlink_to(outside / "real")
    if (outside / "real").is_dir():
        (outside / "real" / "secret.yaml").write_bytes(SECRET)
        for box in (outside / "real").rglob("mailbox.yaml"):
            box.write_bytes(SECRET)
    return outside


def put_back(wire, outside, path):
    """End the attack."""
    place = wire.root() / path
    if place.is_symlink():
        place.unlink()
        (outside / "real").rename(place)


def seen(folder):
    """Everything in a folder: names, bytes and modes."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def everything(wire, name):
    """All bytes that a server holds, its index and its pool among them."""
    wire.servers[name].index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return b"".join(path.read_bytes() for path in sorted(wire.root(name).rglob("*")) if path.is_file())


def work(wire, ident, recording):
    """What the peer, a person and the application may have done to each kind of record; refusals are its right."""
    there = wire.desk("secondary")
    acts = [
        lambda: there.set_mailbox("2001", {"name": "Eve"}),
        lambda: there.set_settings({"defaults.quota": 60}),
        lambda: there.set_greeting("2001", "busy", recording()),
        lambda: there.set_greeting("2001", "name", recording()),
        lambda: there.set_callflow("main", "greet: bye\n"),
        lambda: there.set_prompt("welcome", recording()),
        lambda: there.leave("2001", recording()),
        lambda: there.mark("2001", ident, "saved"),
        wire.exchange,
        lambda: there.delete_message("2001", ident),
        lambda: there.delete_greeting("2001", "name"),
        wire.exchange,
        lambda: wire.desk().leave("2001", recording()),
        lambda: wire.desk().set_mailbox("2001", {"email": "ada@example.com"}),
        lambda: wire.desk().set_greeting("2001", "busy", recording()),
        lambda: wire.desk().set_callflow("main", "greet: again\n"),
        lambda: wire.desk().set_prompt("welcome", recording()),
        wire.exchange,
    ]
    for act in acts:
        with contextlib.suppress(VmctlError):
            act()
        wire.clock.advance(SETTLE + 0.1)
        for name in ("primary", "secondary"):
            with contextlib.suppress(VmctlError):
                wire.scan(name, full=True)


@pytest.mark.parametrize("path", [*FOLDERS, *FILES])
def test_symlink_planting_in_the_place_of_a_record(wire, ident, recording, tmp_path, path):
    """It is named; nothing is read, shipped, written or removed through it, and nothing counts as deleted."""
    path = f"mailboxes/2001/messages/{ident}.{path.partition('.')[2]}" if path.startswith("message.") else path
    outside = plant(wire, tmp_path, path)
    before = seen(outside)
    wire.clock.advance(SETTLE + 0.1)
    for _ in range(3):
        wire.scan(full=True)
        wire.clock.advance(SETTLE + 0.1)
    assert path in {fault["path"] for fault in wire.a.index.faults.all()}
    wire.exchange()
    assert [] == [key for key in ("mailbox/2001", "settings", "callflow/main", "prompt/welcome", "greeting/2001/busy",
                                  f"message/2001/{ident}") if not wire.lives(key, "secondary")]  # fmt: skip
    work(wire, ident, recording)
    assert (wire.root() / path).is_symlink()
    assert before == seen(outside)
    assert b"root-secret-4711" not in everything(wire, "secondary")
    put_back(wire, outside, path)


@pytest.mark.parametrize("own", OWN)
def test_symlink_planting_in_the_place_of_a_folder_of_vmctls_own(wire, ident, recording, tmp_path, own):
    """Neither spool, pool, tombs nor marks are written, read or removed through a link."""
    outside, place = tmp_path / "outside", wire.a.store.state / own
    (outside / "mailboxes/2001/messages").mkdir(parents=True)
    for name in ("0000000000000001-a.eml", "0" * 64, f"{'1' * 64}.part", ".vmctl-tmp-0", "a.why", "x.tomb.json"):
        (outside / name).write_bytes(SECRET)
    (outside / f"mailboxes/2001/messages/{ident}.json").write_bytes(SECRET)
    shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(outside)
    before = seen(outside)
    work(wire, ident, recording)
    with contextlib.suppress(VmctlError):
        wire.crash("primary")
    assert before == seen(outside)
    assert place.is_symlink()


@pytest.mark.parametrize(
    "name", ["identity.json", "index.db", "index.db-wal", "journal.jsonl", "lock", "serve.lock", ""]
)
def test_symlink_planting_in_the_place_of_a_file_of_vmctls_own(wire, ident, tmp_path, name):
    """The store is refused, in words; what the link leads to is neither read nor changed."""
    wire.close()
    outside = tmp_path / "outside"
    outside.mkdir()
    place = wire.root() / ".vmctl" / name
    if place.exists():
        place.rename(outside / "real")
    else:
        (outside / "real").write_bytes(b"")
    place.symlink_to(outside / "real")
    before = seen(outside)
    if name == "serve.lock":
        with pytest.raises(StoreUnusable):
            durable.take_lock(place, timeout=0, what="it")
    elif name == "journal.jsonl":
        with pytest.raises(StoreUnusable):
            durable.append(place, b"x")
    else:
        with pytest.raises(StoreError, match=r"symbolic link|cannot|plain file"):
            wire.open("primary")
    assert before == seen(outside)
    place.unlink()
    if name != "index.db-wal":
        (outside / "real").rename(place)
    wire.open("primary")


def test_a_linked_index_is_not_opened_for_reading_either(wire, tmp_path):
    """SQLite follows links by itself, so it is not asked."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.db").symlink_to(wire.a.store.state / "index.db")
    for opening in (Index.open, Index.to_read):
        with pytest.raises(StoreUnusable, match="no plain file"):
            opening(other / "index.db")


def swapping(monkeypatch, room, name, swap, *, after=False):
    """Have `swap` done once, just before (or after) the step `name` of a room is taken."""
    step, todo = getattr(room, name), [swap]

    def taken(*words, **more):
        if todo and not after:
            todo.pop()()
        given = step(*words, **more)
        if todo:
            todo.pop()()
        return given

    monkeypatch.setattr(room, name, taken)


@pytest.mark.parametrize("step", ["_open", "_rename", "_link", "_mkdir", "_write", "_fsync", "_unlink", "_swap"])
def test_a_folder_exchanged_for_a_link_between_look_and_write(wire, ident, recording, tmp_path, monkeypatch, step):
    """The write ends in the folder that was looked at, or it is refused: never where the link leads."""
    outside, folder = tmp_path / "outside", wire.root() / "mailboxes/2001"
    (outside / "messages").mkdir(parents=True)
    (outside / "greetings").mkdir()
    (outside / f"messages/{ident}.json").write_bytes(SECRET)
    before = seen(outside)
    there = wire.desk("secondary")
    there.leave("2001", recording())
    there.mark("2001", ident, "saved")
    there.set_greeting("2001", "busy", recording())
    there.set_mailbox("2001", {"name": "Eve"})

    def swap():
        folder.rename(tmp_path / "real")
        folder.symlink_to(outside)

    with monkeypatch.context() as patch:
        swapping(patch, durable, step, swap)
        work(wire, ident, recording)
        assert folder.is_symlink()
    assert before == seen(outside)


def test_a_folder_exchanged_for_a_link_while_its_path_is_walked(tmp_path, monkeypatch):
    """Who holds the folder goes on in it, wherever it was moved."""
    root, outside = tmp_path / "store", tmp_path / "outside"
    (root / "mailboxes/2001").mkdir(parents=True)
    outside.mkdir()
    beneath.fence(root)

    def swap():
        (root / "mailboxes").rename(tmp_path / "real")
        (root / "mailboxes").symlink_to(outside)

    with monkeypatch.context() as patch:
        patch.setattr(beneath, "_at_once", None)  # Linux would let nobody in between
        swapping(patch, beneath, "_step", swap, after=True)
        fd = beneath.open(root / "mailboxes/2001/x", os.O_WRONLY | os.O_CREAT)
        os.close(fd)
    assert ["x"] == beneath.names(tmp_path / "real/2001")
    assert [] == beneath.names(outside)


def test_a_recording_exchanged_for_a_link_while_a_piece_of_it_is_read(wire, ident, tmp_path, monkeypatch):
    """A piece of a recording is not checked by a digest before it leaves: so it must not be read from elsewhere."""
    place = wire.root() / f"mailboxes/2001/messages/{ident}.wav"
    entry = wire.a.index.get(f"message/2001/{ident}")
    audio = entry.record.document["audio"]
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET * audio["size"])
    find = wire.a.recordings.find

    def found(sha256, named):
        path = find(sha256, named)
        place.unlink(missing_ok=True)
        place.symlink_to(secret)
        return path

    monkeypatch.setattr(wire.a.recordings, "find", found)
    assert wire.a.outbox._packer._sound(audio["sha256"], 0, 100, [entry]) is None


@pytest.mark.parametrize(
    "act",
    [
        lambda path: durable.write(path, b"x"),
        lambda path: durable.create(path, b"x"),
        lambda path: durable.write_at(path, 0, b"x"),
        lambda path: durable.append(path, b"x"),
        lambda path: durable.exchange(str(path.parent.parent / "own"), str(path), str(path.with_name("aside"))),
        lambda path: durable.stage(str(path.parent), b"x", Rights(0o600)),
        lambda path: durable.take_place(str(path.parent.parent / "own"), str(path)),
        lambda path: Together(path.parent.parent / ".vmctl").write(str(path), b"x"),
        lambda path: durable.copy(path.parent.parent / "own", path),
        lambda path: durable.move(path.parent.parent / "own", path),
        lambda path: durable.link(path.parent.parent / "own", path),
        lambda path: durable.copy(path, path.parent.parent / "copied"),
        lambda path: durable.move(path, path.parent.parent / "moved"),
        lambda path: durable.link(path, path.parent.parent / "linked"),
        durable.remove,
        durable.discard,
        lambda path: durable.remove_all([path]),
        lambda path: durable.make_directory(path / "deeper"),
        lambda path: durable.take_lock(path, timeout=0, what="it"),
        beneath.read,
        lambda path: beneath.entries(path.parent),
        beneath.status,
    ],
)
def test_no_act_of_vmctl_goes_through_a_linked_folder(tmp_path, act):
    """Whatever is done to a file: below a store it is refused where a folder on its way is a link."""
    root, outside = tmp_path / "store", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "there").write_bytes(SECRET)
    (root / "own").write_bytes(b"own")
    (root / "folder").symlink_to(outside)
    beneath.fence(root)
    before = seen(outside)
    with pytest.raises((StoreUnusable, OSError), match=r"link|cannot"):
        act(root / "folder" / "there")
    assert before == seen(outside)
    assert ["folder", "own"] == beneath.names(root)


def test_links_to_a_store_and_above_it_are_followed(tmp_path):
    """Where a store lies is said by whoever writes vmctl.yaml."""
    (tmp_path / "disk/store").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/store")
    beneath.fence(tmp_path / "link")
    durable.make_directory(tmp_path / "link/mailboxes/2001")
    durable.write(tmp_path / "link/mailboxes/2001/x", b"x")
    assert b"x" == (tmp_path / "disk/store/mailboxes/2001/x").read_bytes()


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "./a", "a//b", "a/."])
def test_path_traversal_out_of_a_store(tmp_path, path):
    """A path below a store that climbs is refused before anything is opened."""
    beneath.fence(tmp_path)
    with pytest.raises(OSError, match="does not stay beneath"):
        beneath.open(f"{tmp_path}/{path}", os.O_RDONLY)


def test_a_watcher_does_not_watch_what_a_link_leads_to(tmp_path):
    """A link in the place of a folder would have it watch the whole disk: it says that it watches nothing."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store/mailboxes").symlink_to("/usr")
    beneath.fence(tmp_path / "store")
    with Watcher(tmp_path / "store", lambda _path, _done: None) as watcher:
        assert not watcher.watching


def test_fifo_planting_holds_nobody_up(wire, ident):
    """A pipe in the place of a recording or a document is named, and nobody waits for its writer."""
    for suffix in ("wav", "json"):
        place = wire.root() / f"mailboxes/2001/messages/{ident}.{suffix}"
        place.unlink()
        os.mkfifo(place)
    wire.scan(full=True)
    assert 2 == len(wire.a.index.faults.all())
    with pytest.raises(OSError, match="no plain file"):
        beneath.read(place)
