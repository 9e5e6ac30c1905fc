"""Bad input changes nothing: each kind of it, given to the real process, and what the process says and leaves."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email
import email.policy
import errno
import json
import os
import re
import secrets
import shutil
import smtplib
import sqlite3
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from running import ROOT, SERVERS, Net, environment, until, wav
from typer.testing import CliRunner

from vmctl import durable, errors, identity, keys, mail, mail_content, strays
from vmctl.cli.app import app
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.entry import Entry
from vmctl.model import Tick, created, mailbox_key
from vmctl.outbox import record_for
from vmctl.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PRIMARY = ("--server", "primary")
# What every process may touch: locks, and SQLite's own files. What the index holds is compared record by record.
_FLEETING = re.compile(r"\.vmctl/(serve\.lock|lock|index\.db.*)$")


# The network that bad input is given to, and what of it must stay


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network that was in use: 2001 is full with one message, 2002 is empty, each index is there."""
    net = Net.make(tmp_path / "net")
    wav(tmp_path / "hello.wav")
    for server in reversed(SERVERS):
        with Replica.open(net.config, server, Clock()) as replica:
            replica.scan()
            if server == "primary":
                desk = Desk(replica)
                desk.create_mailbox("2001", {"name": "Ada Byron", "quota": 1})
                desk.create_mailbox("2002", {"name": "Bob Example"})
                desk.leave("2001", tmp_path / "hello.wav", ident="m-1")
                desk.set_prompt("welcome", tmp_path / "hello.wav")
    return net


def snapshot(directory: Path) -> dict[str, Any]:
    """Everything below a directory: names, bytes, modes and times; of an index its records and their versions."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name, status = str(path.relative_to(directory)), path.lstat()
        if path.name == "index.db":
            found[name] = records(path)
        if _FLEETING.search(name):
            continue
        if path.is_file():
            found[name] = (path.read_bytes(), status.st_mode, status.st_mtime_ns)
        else:  # files may come and go in a folder, which moves its time
            found[name] = status.st_mode
    return found


def records(index: Path) -> Any:
    """The records of an index with their versions, and the mails that it took; its bytes where it is none."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as db:
            return [db.execute(query).fetchall() for query in ("SELECT key, version, lives FROM records ORDER BY key",)]
    except sqlite3.DatabaseError:
        return index.read_bytes()


# What is done to a network before the command


def nothing(_net: Net) -> None:
    """It is as it should be."""


def config(old: str, new: str) -> Callable[[Net], None]:
    """Another text in vmctl.yaml."""

    def arrange(net: Net) -> None:
        path = net.root / "vmctl.yaml"
        text = path.read_text()
        assert old in text, f"vmctl.yaml has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    return arrange


def peer_elsewhere(net: Net) -> None:
    """The secondary is on another host, where nobody listens."""
    config("    store: secondary\n", "")(net)
    config("    key: keys/secondary.pem\n", "")(net)


def same_address(net: Net) -> None:
    """Both servers have the primary's port."""
    one, other = (str(net.config.servers[name].address.port) for name in SERVERS)
    path = net.root / "vmctl.yaml"
    path.write_text(path.read_text().replace(f":{other}", f":{one}"))


def no_config(net: Net) -> None:
    """No vmctl.yaml."""
    (net.root / "vmctl.yaml").unlink()


def no_store(net: Net) -> None:
    """The store's directory is gone."""
    shutil.rmtree(net.root / "primary")


def no_mount(net: Net) -> None:
    """The store's directory is empty, as that of a file system that is not mounted."""
    no_store(net)
    (net.root / "primary").mkdir()


def exchanged(net: Net) -> None:
    """The two stores stand in each other's place."""
    one, other, aside = net.root / "primary", net.root / "secondary", net.root / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def identified(**values: Any) -> Callable[[Net], None]:
    """Another word in the store's identity."""

    def arrange(net: Net) -> None:
        path = net.path("primary", ".vmctl/identity.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return arrange


def newer_index(net: Net) -> None:
    """The index was written by a later vmctl."""
    with contextlib.closing(sqlite3.connect(net.path("primary", ".vmctl/index.db"))) as db:
        db.execute("PRAGMA user_version = 99")


def file(path: str, content: str | bytes) -> Callable[[Net], None]:
    """A file in the network's directory."""

    def arrange(net: Net) -> None:
        target = net.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        old = time.time() - 60  # it stands still
        os.utime(target, (old, old))

    return arrange


def dropped_in(net: Net) -> None:
    """Somebody put the message m-1 of 2001 into 2002, too, without a command."""
    for path in net.path("primary", "mailboxes/2001/messages").iterdir():
        target = net.path("primary", f"mailboxes/2002/messages/{path.name.replace('m-1', 'm-2')}")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes().replace(b'"id": "m-1"', b'"id": "m-2"'))


def wave_file(*, said: int, there: int, rate: int = 8000) -> bytes:
    """A WAV of 16 bit with one channel whose header says `said` bytes of sound where `there` are."""
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + said, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return head + struct.pack("<4sI", b"data", said) + bytes(there)


# The table


class Case(NamedTuple):
    """A bad input: the error that it gets, the command, what must be said, and what comes before."""

    error: type[errors.VmctlError]
    words: tuple[str, ...]
    said: str
    before: Callable[[Net], None] = nothing


def leave(*, audio: str = "../hello.wav", to: str = "2002", more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The words that leave a message."""
    return ("message", "leave", *PRIMARY, "--audio", audio, *more, "--", to)


MAILBOXES = ("mailbox", "list", *PRIMARY)
SYNC = ("sync", "--timeout", "5")
LONG = "1" * 300
CASES = {
    # what people wrote in vmctl.yaml
    "no config": Case(errors.ConfigMissing, ("status",), "vmctl.yaml", no_config),
    "no config where it is named": Case(
        errors.ConfigMissing, ("status", "--config", "/no/where.yaml"), "/no/where.yaml"
    ),
    "broken YAML": Case(errors.ConfigFaults, ("status",), "vmctl.yaml", file("vmctl.yaml", "network: [n1\nmode: {\n")),
    "a config that is no text": Case(
        errors.ConfigFaults, ("status",), "vmctl.yaml", file("vmctl.yaml", b"\xff\x00\xfe")
    ),
    "a config that is a list": Case(errors.ConfigFaults, ("status",), "vmctl.yaml", file("vmctl.yaml", "- 1\n")),
    "an unknown key": Case(errors.ConfigFaults, ("status",), "'failover'", config("failover:", "failovr:")),
    "a doubled key": Case(
        errors.ConfigFaults, ("status",), "for the second time", config("mode: ", "mode: dual-active\nmode: ")
    ),
    "one store for both": Case(
        errors.ConfigFaults, SYNC, "servers.secondary.store", config("store: secondary", "store: primary")
    ),
    "one port for both": Case(errors.ConfigFaults, SYNC, "servers.secondary.address", same_address),
    "a value of another type": Case(
        errors.ConfigFaults, ("status",), "failover.after", config("after: 2500ms", "after: [soon]")
    ),
    "no server named": Case(errors.ServerUnclear, ("mailbox", "list"), "--server primary"),
    # names that must not become paths
    **{
        f"{words[0]} {name[:6]!r}": Case(errors.BadName, words, "allowed are")
        for name in ("../x", "/etc", "", LONG)
        for words in (("mailbox", "create", *PRIMARY, "--name", "X", "--", name), leave(to=name))
    },
    "mailbox of odd digits": Case(errors.BadName, ("mailbox", "show", *PRIMARY, "\uff12\uff10"), "allowed are"),
    "mailbox of two lines": Case(errors.BadName, ("mailbox", "delete", *PRIMARY, "2001\n"), "allowed are"),
    "greeting in /etc": Case(
        errors.BadName, ("greeting", "set", *PRIMARY, "--audio", "../hello.wav", "--", "/etc", "busy"), "allowed are"
    ),
    "greeting ../x": Case(
        errors.BadName, ("greeting", "set", *PRIMARY, "--audio", "../hello.wav", "2001", "../x"), "temporary"
    ),
    "prompt ../x": Case(errors.BadName, ("prompt", "set", *PRIMARY, "--audio", "../hello.wav", "../x"), "allowed are"),
    "callflow ../x": Case(
        errors.BadName, ("callflow", "set", *PRIMARY, "../x", "f.yaml"), "allowed are", file("f.yaml", "a: 1\n")
    ),
    "list of ../x": Case(errors.BadName, ("message", "list", *PRIMARY, "--", "../x"), "allowed are"),
    "message ../../x": Case(errors.BadName, ("message", "delete", *PRIMARY, "2001", "../../x"), "allowed are"),
    "a message's own id ../x": Case(errors.BadName, leave(more=("--id", "../x")), "allowed are"),
    # recordings
    "text for audio": Case(errors.BadAudio, leave(audio="a.wav"), "a.wav", file("a.wav", "hello\n")),
    "nothing for audio": Case(errors.BadAudio, leave(audio="a.wav"), "empty", file("a.wav", "")),
    "no file for audio": Case(errors.BadAudio, leave(audio="none.wav"), "none.wav"),
    "a directory for audio": Case(errors.BadAudio, leave(audio="dir.wav"), "dir.wav", file("dir.wav/x", "x")),
    "a format that is not allowed": Case(errors.BadAudio, leave(audio="a.mp3"), "audio.formats", file("a.mp3", "ID3")),
    "a WAV without frames": Case(
        errors.BadAudio, leave(audio="a.wav"), "without a single frame", file("a.wav", wave_file(said=0, there=0))
    ),
    "a header that promises more": Case(
        errors.BadAudio,
        leave(audio="a.wav"),
        "its header says 4000 frames",
        file("a.wav", wave_file(said=8000, there=90)),
    ),
    "a header that promises 4 GB": Case(
        errors.BadAudio, leave(audio="a.wav"), "a.wav", file("a.wav", wave_file(said=0xFFFFFFF0 - 36, there=90))
    ),
    "a header with no rate": Case(
        errors.BadAudio, leave(audio="a.wav"), "a.wav", file("a.wav", wave_file(said=90, there=90, rate=0))
    ),
    "a header cut off": Case(
        errors.BadAudio, leave(audio="a.wav"), "a.wav", file("a.wav", wave_file(said=90, there=90)[:30])
    ),
    "an hour and more": Case(
        errors.BadAudio, leave(audio="a.wav"), "audio.longest", file("a.wav", wave_file(said=9000, there=9000, rate=1))
    ),
    "a greeting that is no audio": Case(
        errors.BadAudio, ("greeting", "set", *PRIMARY, "--audio", "a.wav", "2001", "busy"), "a.wav", file("a.wav", "x")
    ),
    # records
    "a full mailbox": Case(errors.MailboxFull, leave(to="2001"), "its quota is 1"),
    "no such mailbox": Case(errors.NotFound, leave(to="2999"), "2999"),
    "a time without its zone": Case(errors.BadValue, leave(more=("--received", "2026-01-31T08:15:00")), "RFC 3339"),
    "one extension twice": Case(
        errors.AlreadyExists, ("mailbox", "create", *PRIMARY, "--name", "X", "2001"), "vmctl mailbox set"
    ),
    "one id twice": Case(errors.AlreadyExists, leave(more=("--id", "m-1")), "message/2001/m-1"),
    "one id twice, dropped in": Case(errors.AlreadyExists, leave(more=("--id", "m-2")), "m-2", dropped_in),
    "a doubled key in a mailbox": Case(
        errors.BrokenFile,
        ("mailbox", "set", *PRIMARY, "--language", "de", "2002"),
        "for the second time",
        file("primary/mailboxes/2002/mailbox.yaml", "name: Bob\nname: Eve\n"),
    ),
    "a doubled key in a setting": Case(
        errors.BadValue, ("settings", "set", *PRIMARY, "a={x: 1, x: 2}"), "for the second time"
    ),
    "a doubled key in a callflow": Case(
        errors.BrokenFile,
        ("callflow", "set", *PRIMARY, "main", "f.yaml"),
        "for the second time",
        file("f.yaml", "a: 1\na: 2\n"),
    ),
    "a callflow with faults": Case(
        errors.CallflowFaults,
        ("callflow", "set", *PRIMARY, "main", "f.yaml"),
        "nodes.here",
        file("f.yaml", "schema: vmctl/1\nstart: {default: here}\nnodes: {here: {type: play, prompt: nope}}\n"),
    ),
    # stores
    **{
        f"{words[0]}: {what}": Case(error, words, "primary", before)
        for error, what, before, commands in (
            (errors.StoreMissing, "no store", no_store, (leave(), SYNC)),
            (errors.StoreMissing, "a store not mounted", no_mount, (leave(), SYNC, ("status",), ("serve", *PRIMARY))),
            (
                errors.StoreForeign,
                "another server's",
                exchanged,
                (leave(), SYNC, MAILBOXES, ("failover",), ("verify",)),
            ),
            (errors.StoreForeign, "another network's", identified(network="other"), (leave(), SYNC)),
            (errors.StoreNewer, "of a later version", identified(v=2), (leave(), SYNC)),
        )
        for words in commands
    },
    "an identity that is broken": Case(
        errors.StoreDamaged, leave(), "identity.json", file("primary/.vmctl/identity.json", "{}")
    ),
    "an index of a newer version": Case(errors.StoreNewer, leave(), "has format 99", newer_index),
    "an index that is none": Case(
        errors.IndexDamaged, leave(), "index.db", file("primary/.vmctl/index.db", "this is no database, it is a letter")
    ),
    "a directory that is not empty": Case(errors.NotEmpty, ("init", "."), "is not empty"),
    "a directory that is a file": Case(errors.NotEmpty, ("init", "vmctl.yaml"), "is a file"),
    # the two servers together
    "a peer that is not there": Case(errors.PeerUnreachable, SYNC, "does not answer", peer_elsewhere),
    "a peer that is not there to verify": Case(
        errors.PeerUnreachable, ("verify", "--timeout", "5"), "does not answer", peer_elsewhere
    ),
    "a service that does not exist": Case(errors.NoSuchService, ("failover", "--service", "fax"), "voicemail"),
    "a mailbox of no service": Case(
        errors.BadValue, ("mailbox", "set", *PRIMARY, "--service", "fax", "2001"), "voicemail"
    ),
    "a key that is gone": Case(
        errors.KeyMissing, SYNC, "primary.pem", lambda net: (net.root / "keys/primary.pem").unlink()
    ),
    "a key that all may read": Case(
        errors.KeyExposed, SYNC, "chmod 600", lambda net: (net.root / "keys/primary.pem").chmod(0o644)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(net: Net, name: str) -> None:
    """Bad input gets the error of its class, in words and as JSON, with a documented code, and changes nothing."""
    case = CASES[name]
    case.before(net)
    before = snapshot(net.root.parent)

    done = net.run(*case.words)
    assert case.error.exit_code == done.returncode, done.stderr
    assert "" == done.stdout
    check_words(done.stderr, case.said)
    assert_unchanged(before, net)

    code, out, err = as_json(net, case.words)
    assert case.error.exit_code == code, err
    assert "" == out
    check_object(err, case.error, case.said)
    assert_unchanged(before, net)


def as_json(net: Net, words: tuple[str, ...]) -> tuple[int, str, str]:
    """The same with --json: code, stdout, stderr. In this process, which is quicker, but for the daemon."""
    if words[0] == "serve":
        done = net.run("--json", *words)
        return done.returncode, done.stdout, done.stderr
    result = invoke(net, "--json", *words)
    return result.exit_code, result.stdout, result.stderr


def invoke(net: Net, *words: str) -> Any:
    """Run a command in this process, in the network's directory."""
    with contextlib.chdir(net.root):
        return CliRunner(env={"VMCTL_SERVER": None, "VMCTL_CONFIG": None}).invoke(app, words)


def check_words(text: str, said: str) -> None:
    """An error in words: what, why or the faults, and what to type; no traceback and no call for a bug report."""
    assert "Traceback" not in text
    what, *lines = text.splitlines()
    assert what.startswith("vmctl: ")
    assert lines, "there is nothing but what"
    assert all(line.startswith("  ") for line in lines)
    assert lines[-1].startswith("  try: ")
    assert "bug" not in text
    assert said in text


def check_object(text: str, error: type[errors.VmctlError], said: str) -> None:
    """An error as JSON: one object with the class and its code, the same as the page of exit codes has it."""
    value = json.loads(text)
    assert (error.__name__, error.exit_code, error.retry) == (value["error"], value["exit_code"], value["retry"])
    assert value["what"]
    assert value["hint"]
    assert said in " ".join([*map(str, value.values()), *(" ".join(each.values()) for each in value.get("faults", []))])
    retry = "yes" if error.retry else "no"
    row = rf"\| {error.exit_code} \| `{error.__name__}` \|.*\| {retry} \|"
    assert re.search(row, (ROOT / "docs/exit-codes.md").read_text())


def assert_unchanged(before: dict[str, Any], net: Net) -> None:
    """Every name, byte, mode and time is as it was."""
    assert {} == differences(before, snapshot(net.root.parent))


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What changed between two snapshots: the names, with what was and what is there."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def test_a_store_in_use_is_named(net: Net) -> None:
    """A store that another process has locked is `try again`, and the process is named."""
    with durable.lock(
        net.path("primary", ".vmctl/serve.lock"), timeout=1, what="it", shared_text="vmctl sync, process 1"
    ):
        before = snapshot(net.root.parent)
        done = net.run("sync", "--timeout", "0.2")
        assert errors.AlreadyServing.exit_code == done.returncode, done.stderr
        check_words(done.stderr, "vmctl sync, process 1")
        assert_unchanged(before, net)


def test_a_closed_output(net: Net) -> None:
    """With a closed stdout the id of a message could not be told, so the message is not taken."""
    before = snapshot(net.root.parent)
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m vmctl "$@" >&-', sys.executable, *leave()],
        cwd=net.root, env=environment(), stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert errors.OutputClosed.exit_code == done.returncode
    check_words(done.stderr, "standard output is closed")
    assert_unchanged(before, net)


# Failback in normal operation


def test_failback_when_normal(net: Net) -> None:
    """A service that its home serves is not moved, and neither journal gets a line."""
    with net.daemon("primary"), net.daemon("secondary"):
        for server in SERVERS:
            book = net.path(server, ".vmctl/journal.jsonl")
            until(lambda book=book: '"state":"normal"' in book.read_text(), what=f"normal operation of {server}")
        books = [net.path(server, ".vmctl/journal.jsonl").read_bytes() for server in SERVERS]
        for words in (("failback",), ("failback", *PRIMARY, "--json")):
            done = net.run(*words)
            assert errors.NothingToFailBack.exit_code == done.returncode, done.stderr
            assert "" == done.stdout
        check_object(done.stderr, errors.NothingToFailBack, "primary")
        assert books == [net.path(server, ".vmctl/journal.jsonl").read_bytes() for server in SERVERS]
        assert net.service()["state"] == "normal"


# A full disk


def test_a_full_disk(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room while a message is written: `try again`, and no trace of the message."""

    def full(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "_write", full)
    before = snapshot(net.root.parent)
    result = invoke(net, *leave())
    assert errors.DiskFull.exit_code == result.exit_code, result.stderr
    assert "" == result.stdout
    check_words(result.stderr, "No space left on device")
    assert_unchanged(before, net)


@pytest.fixture
def small_disk(net: Net) -> Iterator[Path]:
    """The primary's store on a file system of one megabyte."""
    store, aside = net.root / "primary", net.root / "aside"
    store.rename(aside)
    store.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", store], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount")
    try:
        shutil.copytree(aside, store, dirs_exist_ok=True)
        shutil.rmtree(aside)
        yield store
    finally:
        subprocess.run(["umount", "--lazy", store], check=True)


def test_a_disk_that_fills_up(net: Net, small_disk: Path) -> None:
    """Whatever room is left, a message is whole or, with `try again`, not there; with room again it is taken."""
    wav(net.root / "long.wav", frames=20_000)
    codes = []
    for room in (0, 8, 40, 48, 60, 80, 100, 120, 140, 160, 200):  # kB
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / ".ballast").write_bytes(bytes(free - room * 1024))
        before = snapshot(small_disk)
        done = net.run(*leave(audio="long.wav"))
        codes.append(done.returncode)
        if done.returncode == 0:
            audio = small_disk / f"mailboxes/2002/messages/{done.stdout.strip()}.wav"
            assert audio.read_bytes() == (net.root / "long.wav").read_bytes()
        else:
            assert errors.DiskFull.exit_code == done.returncode, (room, done.stderr)
            assert done.stdout == ""
            check_words(done.stderr, "")
            assert {} == differences(before, snapshot(small_disk)), room
        (small_disk / ".ballast").unlink()
        for ident in done.stdout.split():
            net.do("message", "delete", *PRIMARY, "2002", ident)
    assert {0, errors.DiskFull.exit_code} == set(codes)


# Mails that are not the peer's


def sync_mail(net: Net, key: keys.PrivateKey, **changes: Any) -> bytes:
    """A mail of the secondary that makes a mailbox at the primary, but for what is changed in it."""
    tick = Tick(Clock().wall(), identity.read(net.root / "secondary", net.config.network, "secondary").incarnation)
    record = created(mailbox_key("2003"), {"name": "Eve"}, tick, tick.number)
    said = mail_content.SyncMail(
        packet=f"p-{secrets.token_hex(8)}", network=net.config.network, sender="secondary", recipient="primary",
        sent=tick.number, incarnation=tick.by, challenge="c-1", config=net.config.digest, records=[record_for(Entry(record))],
    )  # fmt: skip
    return mail.compose(
        dataclasses.replace(said, **changes),
        sender_address=net.config.servers["secondary"].mail,
        recipient_address=net.config.servers["primary"].mail,
        message_id=f"<{secrets.token_hex(8)}@example.org>",
        sign=lambda data: key.signatures(data, former=False),
        summary="A mailbox.",
        subject="a mailbox",
    )


def altered(raw: bytes) -> bytes:
    """The mail with another mailbox in it, under the old signature."""
    message = email.message_from_bytes(raw)
    part = next(part for part in message.walk() if part.get_filename() == "changes.json")
    part.set_payload(base64.encodebytes(part.get_payload(decode=True).replace(b"2003", b"2004")).decode())
    return message.as_bytes(policy=email.policy.SMTP)


def unsigned(raw: bytes) -> bytes:
    """The mail without its signature."""
    return raw.replace(b"signature.json", b"autograph.json")


def replies(net: Net, raw: bytes, *, sender: str = "secondary", recipient: str = "primary") -> str:
    """Give the primary's daemon a mail, as any SMTP client does; the last reply."""
    where = net.config.servers["primary"].listen
    with smtplib.SMTP(where.host, where.port, timeout=10) as smtp:
        smtp.starttls(context=net.calling("secondary"))
        smtp.ehlo()
        for verb, server in ((smtp.mail, sender), (smtp.rcpt, recipient)):
            code, text = verb(net.config.servers[server].mail)
            if code != 250:
                return f"{code} {text.decode()}"
        code, text = smtp.data(raw)
    return f"{code} {text.decode()}"


def test_mails_that_are_not_the_peers(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each such mail gets the reply of its class and a line in the log, and the daemon takes the peer's mail as before."""
    theirs, mine = (keys.load_private(net.root / f"keys/{name}.pem") for name in ("secondary", "primary"))
    keys.generate(tmp_path / "eve.pem", "eve")
    eve = keys.load_private(tmp_path / "eve.pem")
    good = sync_mail(net, theirs)
    with monkeypatch.context() as patch:
        patch.setattr(mail_content, "VERSION", 99)
        later = sync_mail(net, theirs)
    mails = (
        (errors.MailGarbage, "not a whole sync mail", b"Subject: Holiday\r\n\r\nI am away.\r\n"),
        (errors.MailGarbage, "not a whole sync mail", b"\xff\x00\x80" * 99 + b"\r\n"),
        (errors.MailGarbage, "not a whole sync mail", good[: len(good) * 9 // 10]),
        (errors.MailMisdirected, "network is 'other'", sync_mail(net, theirs, network="other")),
        (errors.MailMisdirected, "recipient is 'secondary'", sync_mail(net, theirs, recipient="secondary")),
        (errors.MailMisdirected, "sender is 'primary'", sync_mail(net, theirs, sender="primary")),
        (errors.MailForged, eve.public.identity, sync_mail(net, eve)),
        (errors.MailForged, mine.public.identity, sync_mail(net, mine)),
        (errors.MailForged, theirs.public.identity, altered(good)),
        (errors.MailForged, "no parts named signature.json", unsigned(good)),
        (errors.MailNewer, "format 99", later),
    )
    with net.daemon("primary") as daemon:
        until(lambda: " serves " in net.log("primary"), what="the daemon")
        before = lasting(net)
        for error, said, raw in mails:
            seen = len(net.log("primary"))
            reply = replies(net, raw)
            assert reply.startswith(error.smtp_reply), (said, reply)
            assert said in reply
            until(lambda said=said, seen=seen: said in net.log("primary")[seen:], what=f"{said!r} in the log")
        assert replies(net, good, sender="primary").startswith("550 5.7.1")
        assert replies(net, good, recipient="secondary").startswith("550 5.1.1")
        assert "Traceback" not in net.log("primary")
        counts = {"forged": 4, "garbage": 3, "misdirected": 3, "newer": 1, "stranger": 2}
        until(lambda: counts == counted(net), what="each in the counts")  # which are written a second later
        assert {} == differences(before, lasting(net))
        assert daemon.poll() is None

        with Replica.open(net.config, "secondary", Clock()) as replica:
            Desk(replica).create_mailbox("2010", {"name": "Grace"})
            ident = Desk(replica).leave("2010", tmp_path / "hello.wav")
        net.do("sync")
        assert net.path("primary", f"mailboxes/2010/messages/{ident}.wav").exists()
        assert not net.path("primary", "mailboxes/2003").exists()
        # the same mail without a fault is taken: so each was refused for its fault alone
        assert replies(net, good).startswith("250 ")
        until(net.path("primary", "mailboxes/2003/mailbox.yaml").exists, what="the mailbox")


def counted(net: Net) -> dict[str, int]:
    """How many of each kind the primary has counted."""
    return {kind: each["count"] for kind, each in strays.read(net.path("primary", ".vmctl")).items()}


def lasting(net: Net) -> dict[str, Any]:
    """A snapshot of the primary's store without its journal and its counts, which a daemon goes on writing."""
    goes_on = ("journal.jsonl", "strays.json", "strays.lock")
    return {name: value for name, value in snapshot(net.root / "primary").items() if not name.endswith(goes_on)}
