"""A disk that is full, read-only or refuses a file: nothing is lost, it is said, and work goes on when it is well again."""

import errno
import os
import shutil
import subprocess

import pytest
from running import SERVERS, Net, until, wav

from vmctl import beneath, durable, errors
from vmctl.audio import digest_of
from vmctl.conversation import refusal
from vmctl.errors import DiskFull, StoreError, StoreUnusable
from vmctl.index import Index
from vmctl.trouble import Trouble, from_text, probe

STEPS = ("_open", "_write", "_fsync", "_rename", "_swap", "_link", "_unlink", "_mkdir")
REFUSALS = {
    errno.ENOSPC: (DiskFull, "452"),
    errno.EDQUOT: (DiskFull, "452"),
    errno.EROFS: (StoreUnusable, "451"),
    errno.EIO: (StoreUnusable, "451"),
    errno.EACCES: (StoreUnusable, "451"),
}


def refusing(number):
    """A step that the disk refuses."""

    def step(*_values, **_words):
        raise OSError(number, os.strerror(number))

    return step


# Over the wire, each refusal of each step


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_mail_that_cannot_be_kept_is_refused_for_now(wire, recording, monkeypatch, number):
    """452 for no room and 451 for all else, never 250 and never for good; later it is taken."""
    error, reply = REFUSALS[number]
    wire.desk().create_mailbox("2001", {})
    ident = wire.desk().leave("2001", recording())
    mails = wire.send("primary")
    for step in ("_open", "_write", "_fsync", "_rename", "_mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(durable, step, refusing(number))
            with pytest.raises(error) as caught:
                wire.b.receive(mails[0])
        assert refusal(caught.value).startswith(f"{reply} 4.3.")
        assert [] == [path for path in wire.b.spool.waiting() if path.suffix == ".eml"]
        shutil.rmtree(wire.root("secondary") / ".vmctl/spool", ignore_errors=True)
    wire.deliver()
    wire.in_step()
    assert [ident] == wire.messages("2001", "secondary")


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_refuses_a_step_for_a_while_is_only_a_delay(wire, recording, monkeypatch, number, step):
    """Scans, mails taken in and commands end in errors of theirs or wait; afterwards all is there on both."""
    desk = wire.desk()
    desk.create_mailbox("2001", {"name": "Ada"})
    desk.set_greeting("2001", "busy", recording())
    gone = desk.leave("2001", recording())
    wire.in_step()
    peer = wire.desk("secondary")
    peer.set_mailbox("2001", {"language": "en-GB"})
    peer.set_greeting("2001", "busy", recording())
    peer.delete_message("2001", gone)
    came = peer.leave("2001", recording())
    wire.send("secondary")
    wire.deliver(take=False)
    left = []
    with monkeypatch.context() as patch:
        patch.setattr(durable, step, refusing(number))
        for act in (wire.a.take, wire.scan, lambda: left.append(desk.leave("2001", recording())), wire.a.take):
            try:
                act()
            except StoreError as error:
                assert isinstance(error, REFUSALS[number][0]), error  # noqa: PT017 - it may pass, too
    wire.a.take()
    wire.in_step()
    assert sorted([came, *left]) == wire.messages("2001") == wire.messages("2001", "secondary")
    assert "en-GB" == wire.a.store.document("mailbox/2001")["language"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_a_file_that_cannot_be_opened_is_named_and_stops_nothing_else(wire, recording, monkeypatch, number):
    """A document and a recording that the disk does not give: two faults, no deletion, no edit, and all else goes on."""
    desk = wire.desk()
    for extension in ("2001", "2002"):
        desk.create_mailbox(extension, {"name": "Ada"})
    ident = desk.leave("2001", recording())
    desk.set_greeting("2001", "busy", recording())
    wire.in_step()
    number_before = wire.a.index.last_number
    closed = {
        "mailboxes/2001/mailbox.yaml",
        f"mailboxes/2001/messages/{ident}.wav",
        "mailboxes/2001/greetings/busy.wav",
    }
    opened = beneath.open

    def refused(path, *words, **more):
        if str(path).removeprefix(f"{wire.root()}/") in closed:
            raise OSError(number, os.strerror(number))
        return opened(path, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(beneath, "open", refused)
        for path in closed:
            os.utime(wire.root() / path)
        wire.scan(full=True)
        assert closed - {f"mailboxes/2001/messages/{ident}.wav"} <= {
            fault["path"] for fault in wire.a.index.faults.all()
        }
        assert 3 == len(wire.a.index.faults.all())
        assert number_before == wire.a.index.last_number
        wire.desk("secondary").set_mailbox("2002", {"name": "Bob"})
        wire.desk("secondary").set_mailbox("2001", {"name": "Eve"})
        wire.exchange(6)
        assert "Bob" == wire.a.store.document("mailbox/2002")["name"]
    wire.in_step()
    assert [] == wire.a.index.faults.all()
    assert "Eve" == wire.a.store.document("mailbox/2001")["name"]
    assert [ident] == wire.messages("2001", "secondary")


def test_a_recording_that_cannot_be_read_is_not_shipped_and_not_lost(wire, recording, monkeypatch):
    """Where the disk does not give the bytes of a recording, its message waits; with a well disk it goes."""
    wire.desk().create_mailbox("2001", {})
    ident = wire.desk().leave("2001", recording())
    audio = wire.root() / f"mailboxes/2001/messages/{ident}.wav"
    opened = beneath._plain

    def refused(path):
        if os.fspath(path) == os.fspath(audio):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(beneath, "_plain", refused)
        wire.exchange(4)
        assert [] == wire.messages("2001", "secondary")
        assert wire.a.index.get(f"message/2001/{ident}").pending
    wire.in_step()
    assert [ident] == wire.messages("2001", "secondary")


# What is said of it


def test_a_trouble_travels_in_the_lock(tmp_path):
    """What a daemon says is read back while it runs, and is nobody's word afterwards; half of it is none."""
    said = Trouble("DiskFull", "no room", "é" * 100, "make room", 7)
    fd = durable.take_lock(tmp_path / "lock", timeout=0, what="it", shared_text="vmctl serve, process 1")
    assert durable.tell(fd, f"vmctl serve, process 1\n{said.as_text()}")
    assert "vmctl serve, process 1" == durable.lock_holder(tmp_path / "lock")
    told = durable.lock_told(tmp_path / "lock").partition("\n")[2]
    assert said == from_text(told)
    assert None is from_text(told[:-1])
    assert [None] * 5 == [from_text(text) for text in ("", "{}", "[]", '["a", "b", "c", 4]', "\xff")]
    durable.tell(fd, "vmctl serve, process 1")
    assert "" == durable.lock_told(tmp_path / "lock").partition("\n")[2]
    os.close(fd)
    assert None is durable.lock_told(tmp_path / "lock")


def test_a_well_disk_is_no_trouble(tmp_path):
    """A disk with room that takes writes has nothing to be said of; one that is gone has."""
    assert None is probe(tmp_path)
    assert "StoreUnusable" == probe(tmp_path / "gone").error


def test_an_index_is_read_as_it_is_where_it_cannot_be_opened(tmp_path, monkeypatch):
    """Refused by the disk it is read all the same; of another format, or gone, the refusal stands."""
    index = Index.open(tmp_path / "index.db", create=True)
    index.set_meta("incarnation", "primary-1")
    index.close()
    for fault in (DiskFull("no room"), StoreUnusable("read-only")):

        def refused(*_words, fault=fault, **_more):
            raise fault

        monkeypatch.setattr(Index, "open", refused)
        index = Index.to_read(tmp_path / "index.db")
        assert index.as_it_is
        assert "primary-1" == index.meta("incarnation")
        with pytest.raises(StoreError):
            index.set_meta("incarnation", "primary-2")
        index.close()
    (tmp_path / "other").write_bytes(b"")
    for path in (tmp_path / "other", tmp_path / "gone"):
        with pytest.raises(StoreUnusable, match="read-only"):
            Index.to_read(path)


# A real disk


def mount(*words):
    """Mount something."""
    done = subprocess.run(["mount", *words], check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


def unmount(place):
    """Take the newest mount at a place away."""
    subprocess.run(["umount", "--lazy", place], check=True)


def read_only_over(store, elsewhere):
    """Let everybody who opens a file of a store from now on find it on a read-only disk.

    Made elsewhere: what is open for writing keeps a mount from becoming read-only.
    """
    elsewhere.mkdir()
    mount("--bind", str(store), str(elsewhere))
    mount("-o", "remount,bind,ro", str(elsewhere))
    mount("--bind", str(elsewhere), str(store))


@pytest.fixture
def net(tmp_path):
    """A network with mailbox 2001 and a recording, both stores in step; the primary's on a disk of its own."""
    made = Net.make(tmp_path / "net")
    store, aside = made.root / "primary", made.root / "aside"
    shutil.copytree(store, aside)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", store], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        shutil.copytree(aside, store, dirs_exist_ok=True)
        made.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
        made.leave("primary", "2001", wav(made.root / "r.wav"))
        made.do("sync")
        yield made
    finally:
        for place in (store / ".vmctl/spool", store, made.root / "bound"):
            while os.path.ismount(place):
                unmount(place)


def fill(store):
    """Take all room that is left."""
    fd = os.open(store / ".ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError as error:
        assert errno.ENOSPC == error.errno  # noqa: PT017 - the loop has no other end
    finally:
        os.close(fd)


def trouble(net, server="primary"):
    """What the status says is wrong of a server."""
    return net.status()["servers"][server]["trouble"]


def check_reading(net, *, as_it_is):
    """Each reading command works on the primary's store, and says where it reads the index as it is."""
    said = net.run("status")
    assert 0 == said.returncode, said.stderr
    assert "primary CANNOT WORK" in said.stdout
    for words in (("message", "list", "2001"), ("mailbox", "list"), ("settings", "show"), ("journal", "--verify")):
        net.do(*words, "--server", "primary")
    for words in (("conflicts", "list"), ("history", "list", "--all")):
        done = net.run(*words, "--server", "primary")
        assert (0, as_it_is) == (done.returncode, "read as it is" in done.stderr), done.stderr
    value = net.read("status")["servers"]["primary"]
    assert {"error", "what", "why", "hint", "since"} == value["trouble"].keys()
    assert 2 <= value["records"]
    return value["trouble"]


def test_the_status_of_a_full_disk_without_a_daemon(net):
    """Not a byte is left: status and all reading commands answer, and a changing one says what to do."""
    fill(net.path("primary", ""))
    said = check_reading(net, as_it_is=True)
    assert ("DiskFull", None) == (said["error"], said["since"])
    done = net.run("message", "leave", "2001", "--audio", str(net.root / "r.wav"), "--server", "primary")
    assert errors.DiskFull.exit_code == done.returncode
    net.path("primary", ".ballast").unlink()
    assert None is trouble(net)
    net.do("sync")


def test_a_reindex_without_room_puts_the_former_index_back(net):
    """Nothing is lost and all is as before: the history and the conflicts are still there; with room it is done."""
    store = net.path("primary", "")
    net.do("mailbox", "set", "2001", "--quota", "7", "--server", "primary")
    before = net.read("history", "list", "--all", "--server", "primary")
    identity = (store / ".vmctl/identity.json").read_bytes()
    fill(store)
    done = net.run("reindex", "--server", "primary")
    assert errors.DiskFull.exit_code == done.returncode, done.stderr
    assert "the former one is in its place again" in done.stderr
    assert [] == list(store.glob(".vmctl/index.db.aside-*"))
    assert before == net.read("history", "list", "--all", "--server", "primary")
    assert identity == (store / ".vmctl/identity.json").read_bytes()
    (store / ".ballast").unlink()
    net.do("sync")
    assert before == net.read("history", "list", "--all", "--server", "primary")
    net.do("reindex", "--server", "primary")
    net.do("sync")
    assert net.read("verify")["equal"]


def test_a_reindex_that_ends_for_want_of_room_half_way_puts_the_former_index_back(net):
    """There is room for an index, not for what is to be in it: the former one knows that it is not of this life."""
    store = net.path("primary", "")
    for number in range(2100, 2140):
        box = store / f"mailboxes/{number}"
        box.mkdir()
        (box / "mailbox.yaml").write_text(f"note: {'n' * 3500}\n")
    net.do("sync")
    before = net.read("history", "list", "--all", "--server", "primary")
    fill(store)
    identity = (store / ".vmctl/identity.json").read_bytes()
    os.truncate(store / ".ballast", (store / ".ballast").stat().st_size - 320 * 1024)
    done = net.run("reindex", "--server", "primary")
    assert errors.DiskFull.exit_code == done.returncode, done.stderr
    assert "the former one is in its place again" in done.stderr
    assert [] == list(store.glob(".vmctl/index.db.aside-*"))
    assert identity != (store / ".vmctl/identity.json").read_bytes()  # the new index had begun a life of its own
    (store / ".ballast").unlink()
    net.do("sync")
    assert before == net.read("history", "list", "--all", "--server", "primary")
    assert net.read("verify")["equal"]


def test_what_comes_under_a_wrong_mount_is_there_when_it_is_gone(net):
    """An empty disk lies over the mailboxes: nothing is put on it, the sync says what waits, and nothing is lost."""
    place = net.path("primary", "mailboxes")
    mount("-t", "tmpfs", "-o", "size=1m", "none", str(place))
    try:
        ident = net.leave("secondary", "2001", wav(net.root / "other.wav", level=77))
        done = net.run("sync", "--timeout", "5")
        assert errors.NotInStep.exit_code == done.returncode, done.stderr
        assert "not in step after 5 s" not in done.stderr  # the time that it took: nothing comes by itself
        assert "wait for your word" in done.stderr
        assert "put the files back" in done.stderr
        done = net.run("message", "leave", "2001", "--audio", str(net.root / "r.wav"), "--server", "primary")
        assert errors.DeletionsHeld.exit_code == done.returncode
        assert [] == list(place.iterdir())
    finally:
        unmount(place)
    net.do("sync")
    for server in SERVERS:
        assert net.path(server, f"mailboxes/2001/messages/{ident}.wav").exists()
    assert net.read("verify")["equal"]


def test_a_read_only_disk_without_a_daemon(net):
    """Reading commands answer, changing ones and the daemon say that the disk is read-only; then all goes on."""
    store = str(net.path("primary", ""))
    mount("-o", "remount,ro", store)
    said = check_reading(net, as_it_is=True)
    assert ("StoreUnusable", None) == (said["error"], said["since"])
    assert "read-only" in said["what"]
    leave = ("message", "leave", "2001", "--audio", str(net.root / "r.wav"), "--server", "primary")
    for words in (leave, ("serve", "--server", "primary"), ("sync",)):
        done = net.run(*words)
        assert errors.StoreUnusable.exit_code == done.returncode, (words, done.stderr)
        assert "Read-only file system" in done.stderr
    mount("-o", "remount,rw", store)
    assert None is trouble(net)
    net.do(*leave)
    net.do("sync")
    net.do("verify")


@pytest.mark.parametrize("fault", ["full", "read-only", "no spool"])
def test_a_serving_daemon_says_so_and_goes_on_by_itself(net, fault):
    """The peer's mail is put off, `status` names the trouble and since when, and with a well disk all of it arrives."""
    store = net.path("primary", "")
    reply = {"full": "452 4.3.1"}.get(fault, "451 4.3.0")
    place = store / ".vmctl/spool" if fault == "no spool" else store  # without it all goes on, but for taking mails
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: all(" serves " in net.log(server) for server in SERVERS), what="both daemons")
        until(lambda: "normal" == net.service()["state"], what="normal operation")
        until(lambda: net.status()["in_step"], what="both in step")
        assert None is trouble(net)
        if fault == "full":
            fill(store)
        else:
            read_only_over(place, net.root / "bound")
        try:
            ident = net.leave("secondary", "2001", wav(net.root / "new.wav", frames=9000, level=3))
            until(lambda: reply in net.log("secondary"), what=reply)
            said = until(lambda: (said := trouble(net)) and said["since"] and said, what="the trouble in the status")
            assert {"full": "DiskFull"}.get(fault, "StoreUnusable") == said["error"]
            assert said["hint"]
            assert None is trouble(net, "secondary")
            check_reading(net, as_it_is=False)
        finally:
            if fault == "full":
                (store / ".ballast").unlink()
            else:
                unmount(place)
        arrived = net.path("primary", f"mailboxes/2001/messages/{ident}.wav")
        until(arrived.exists, what="the message at the primary")
        assert digest_of(arrived) == digest_of(net.root / "new.wav")
        until(lambda: None is trouble(net), what="well again")
    for server in SERVERS:
        assert "Traceback" not in net.log(server)
