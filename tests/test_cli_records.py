"""Commands on mailboxes, messages, greetings, prompts, callflows and settings."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from running import Commands

from vmctl import network, pin
from vmctl.errors import (
    AlreadyExists,
    BadAudio,
    BadName,
    BadValue,
    BrokenFile,
    CallflowFaults,
    MailboxFull,
    NotFound,
    StoreUnusable,
)

USAGE = 2
FLOW = "schema: vmctl/1  # kept\nstart: {default: bye}\nnodes:\n  bye: {type: hangup}\n"


@pytest.fixture
def vmctl(tmp_path):
    """Commands in a new network, whose files settle at once."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    return Commands(tmp_path / "net")


@pytest.fixture
def box(vmctl):
    """The same with mailbox 2001."""
    vmctl("mailbox", "create", "2001", "--name", "Ada Byron")
    return vmctl


@pytest.fixture
def wav(tmp_path):
    """Half a second of sound."""
    with wave.open(str(tmp_path / "hello.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\x01\x02" * 4000)
    return tmp_path / "hello.wav"


def leave(vmctl, wav, *more):
    """The id of a message that was left for 2001."""
    return vmctl("message", "leave", "2001", "--audio", str(wav), *more).stdout.strip()


# Mailboxes


def test_a_mailbox_with_everything(vmctl):
    """Each option of `mailbox create` becomes a field; a PIN is shown as set, never itself or its hash."""
    vmctl(
        "mailbox", "create", "2001", "--name", "Ada Byron", "--pin-stdin", "--service", "voicemail",
        "--email", "ada@example.org", "--language", "en-GB", "--timezone", "Europe/London", "--quota", "7",
        "--greeting", "busy", "--list", "sales=2001,2002", "--list", "ops=2003", "--timer", "new=24", "--timer", "old=0",
        stdin="040506\n",
    )  # fmt: skip
    result = vmctl("mailbox", "show", "2001", "--json")
    expected = {
        "extension": "2001", "name": "Ada Byron", "pin": {"set": True}, "service": "voicemail",
        "email": "ada@example.org", "language": "en-GB", "timezone": "Europe/London", "quota": 7, "greeting": "busy",
        "lists": {"sales": ["2001", "2002"], "ops": ["2003"]}, "timers": {"new": 24, "old": 0},
        "messages": {"new": 0, "unopened": 0, "old": 0, "saved": 0}, "greetings": [],
    }  # fmt: skip
    assert expected == json.loads(result.stdout)
    text = (vmctl.store / "mailboxes/2001/mailbox.yaml").read_text()
    stored = next(line for line in text.splitlines() if line.startswith("pin: ")).removeprefix("pin: ").strip('"')
    assert pin.matches(stored, "040506")
    for shown in (result.stdout, vmctl("mailbox", "show", "2001").stdout):
        assert "scrypt" not in shown
        assert "040506" not in shown


def test_what_is_not_set_is_null(box):
    """JSON has every field of a mailbox; those without a value are null."""
    value = box.json("mailbox", "show", "2001")
    assert {"set": False} == value["pin"]
    assert [None] * 4 == [value[name] for name in ("email", "quota", "lists", "timers")]


def test_set_and_unset(box):
    """`mailbox set` changes what is named and nothing else; lists and timers go one by one."""
    box("mailbox", "set", "2001", "--list", "a=1", "--list", "b=2", "--quota", "5", "--email", "a@b.c")
    box("mailbox", "set", "2001", "--list", "a=", "--list", "c=3", "--unset", "email")
    value = box.json("mailbox", "show", "2001")
    assert {"b": ["2"], "c": ["3"]} == value["lists"]
    assert (5, None, "Ada Byron") == (value["quota"], value["email"], value["name"])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--unset", "quota", "--quota", "3"),
        ("--list", "2001"),
        ("--timer", "new=soon"),
        ("--pin",),
        ("--pin", "--pin-stdin"),
    ],
)
def test_set_refuses_what_it_cannot_read(box, words):
    """Nothing to set, a field both set and removed, a pair without '=', a PIN without a terminal: usage errors."""
    box("mailbox", "set", "2001", *words, code=USAGE)


def test_a_bad_value_and_an_unknown_field(box):
    """What a field cannot hold is refused with what it could; a field that is none is named."""
    assert "BCP 47" in box("mailbox", "set", "2001", "--language", "?", code=BadValue.exit_code).stderr
    assert "emial" in box("mailbox", "set", "2001", "--unset", "emial", code=NotFound.exit_code).stderr
    box("mailbox", "set", "2001", "--pin-stdin", stdin="12\n", code=BadValue.exit_code)
    box("mailbox", "set", "2001", "--pin-stdin", stdin="", code=BadValue.exit_code)


def test_mailboxes_are_listed(box, wav):
    """`mailbox list` has a line for each with the number of its messages; a broken one is named on stderr."""
    leave(box, wav)
    box("mailbox", "create", "2002", "--name", "Mary")
    (box.store / "mailboxes/2002/mailbox.yaml").write_text("name: [")
    result = box("mailbox", "list", "--json")
    expected = {"extension": "2001", "name": "Ada Byron", "service": "voicemail", "email": None, "messages": 1}
    assert [expected] == json.loads(result.stdout)
    assert "mailbox 2002 is left out" in result.stderr
    assert "Ada Byron" in box("mailbox", "list").stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("mailbox", "list"), "mailbox create"),
        (("prompt", "list"), "prompt set"),
        (("callflow", "list"), "callflow set"),
    ],
)
def test_an_empty_list(vmctl, words, hint):
    """Nothing there is an empty list in JSON, no data as text, and a friendly line on stderr."""
    result = vmctl(*words)
    assert result.stdout == ""
    assert hint in result.stderr
    assert [] == vmctl.json(*words)


def test_deleting_a_mailbox(box, wav):
    """It wants --yes where nobody can be asked; then the mailbox and what was in it are gone."""
    leave(box, wav)
    box("mailbox", "delete", "2001", code=USAGE)
    assert {"extension": "2001", "deleted": 1} == box.json("mailbox", "delete", "2001", "--yes")
    assert [] == box.json("mailbox", "list")
    box("mailbox", "show", "2001", code=NotFound.exit_code)
    assert len(box.json("message", "list", "2001", "--deleted")) == 1


def test_a_mailbox_twice(box):
    """A mailbox that is there is not made again."""
    box("mailbox", "create", "2001", "--name", "Eve", code=AlreadyExists.exit_code)


@pytest.mark.parametrize("name", ["../x", "", "a" * 300, "x\ny"])
@pytest.mark.parametrize(
    "words",
    [
        ("mailbox", "create", "{}", "--name", "n"),
        ("mailbox", "show", "{}"),
        ("mailbox", "delete", "{}", "--yes"),
        ("message", "list", "{}"),
        ("message", "list", "{}", "--deleted"),
        ("message", "show", "2001", "{}"),
        ("message", "export", "2001", "{}", "-"),
        ("message", "delete", "2001", "{}"),
        ("greeting", "export", "2001", "{}", "-"),
        ("greeting", "list", "{}"),
        ("prompt", "delete", "{}"),
        ("prompt", "export", "{}", "-"),
        ("callflow", "show", "{}"),
    ],
)
def test_a_bad_name_is_no_path(shared_box, words, name):
    """A name that could leave its folder is refused by every command."""
    shared_box(*(word.format(name) for word in words), code=BadName.exit_code)


@pytest.fixture(scope="module")
def shared_box(tmp_path_factory):
    """A network that no test changes."""
    directory = tmp_path_factory.mktemp("shared") / "net"
    network.make(directory, settings={"scan.settle": "10ms"})
    commands = Commands(directory)
    commands("mailbox", "create", "2001", "--name", "Ada")
    return commands


@pytest.mark.parametrize("name", ["../x", "/etc", "", "a" * 300])
def test_a_bad_name_in_a_process_of_its_own(shared_box, name):
    """The exit code of a bad name reaches the shell, and stderr has no traceback."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("VMCTL_")}
    done = subprocess.run(
        [sys.executable, "-m", "vmctl", "mailbox", "show", name, "--server", "primary"],
        cwd=shared_box.directory, capture_output=True, text=True, check=False,
        env=env | {"PYTHONPATH": str(Path(network.__file__).parent.parent)},
    )  # fmt: skip
    assert BadName.exit_code == done.returncode
    assert done.stdout == ""
    assert done.stderr.startswith("vmctl: ")
    assert "Traceback" not in done.stderr


# Messages


def test_a_message_is_left_and_listed(box, wav):
    """`message leave` prints the id alone; `message list --json` has all fields, numbers as numbers."""
    ident = leave(box, wav, "--from", "+442079460123", "--received", "2026-01-31T08:15:00Z", "--urgent")
    (shown,) = box.json("message", "list", "2001")
    audio = shown.pop("audio")
    expected = {
        "id": ident, "mailbox": "2001", "from": "+442079460123", "name": None, "received": "2026-01-31T08:15:00Z",
        "seconds": 0.5, "status": "new", "urgent": True,
    }  # fmt: skip
    assert expected == shown
    assert (wav.stat().st_size, "wav", 64) == (audio["size"], audio["format"], len(audio["sha256"]))
    assert {**expected, "audio": audio} == box.json("message", "show", "2001", ident)
    assert ident in box("message", "list", "2001").stdout


def test_the_newest_message_comes_first(box, wav):
    """Messages are sorted by when they were received, whatever their zones and ids."""
    for ident, received in (
        ("b", "2026-01-31T08:00:00Z"),
        ("c", "2026-01-31T09:30:00+02:00"),
        ("a", "2026-02-01T00:00:00Z"),
    ):
        leave(box, wav, "--id", ident, "--received", received)
    assert ["a", "b", "c"] == [each["id"] for each in box.json("message", "list", "2001")]


def test_the_life_of_a_message(box, wav):
    """Marked, deleted, found among the deleted, and restored with its status."""
    for ident in ("m1", "m2"):
        leave(box, wav, "--id", ident)
    assert {"mailbox": "2001", "ids": ["m1", "m2"]} == box.json("message", "mark", "2001", "m1", "m2", "--as", "saved")
    assert {"new": 0, "unopened": 0, "old": 0, "saved": 2} == box.json("mailbox", "show", "2001")["messages"]
    box("message", "delete", "2001", "m1")
    assert ["m2"] == [each["id"] for each in box.json("message", "list", "2001")]
    assert ["m1"] == [each["id"] for each in box.json("message", "list", "2001", "--deleted")]
    assert "message restore 2001 m1" in box("message", "show", "2001", "m1", code=NotFound.exit_code).stderr
    assert {"mailbox": "2001", "id": "m1", "here": True} == box.json("message", "restore", "2001", "m1")
    assert "saved" == box.json("message", "show", "2001", "m1")["status"]
    assert [] == box.json("message", "list", "2001", "--deleted")


def test_several_messages_of_which_one_is_not_there(box, wav):
    """The first that cannot be done ends the command; those before it are done and named."""
    leave(box, wav, "--id", "m1")
    result = box("message", "delete", "2001", "m1", "m9", code=NotFound.exit_code)
    assert "message m1 is deleted" in result.stderr
    assert "m9" in result.stderr


def test_a_status_that_is_none(box, wav):
    """--as takes the three statuses that there are."""
    leave(box, wav, "--id", "m1")
    box("message", "mark", "2001", "m1", "--as", "read", code=USAGE)


def test_broken_messages_hide_no_others(box, wav):
    """A message whose file is broken is named on stderr; the others are listed."""
    leave(box, wav, "--id", "m1")
    leave(box, wav, "--id", "m2")
    (box.store / "mailboxes/2001/messages/m1.json").write_text("{")
    result = box("message", "list", "2001", "--json")
    assert ["m2"] == [each["id"] for each in json.loads(result.stdout)]
    assert "message m1 is left out" in result.stderr
    box("message", "show", "2001", "m1", code=BrokenFile.exit_code)


def test_leaving_is_refused_with_a_reason(box, wav, tmp_path):
    """No audio, no file, no mailbox, a full mailbox, a bad time: each has its own code, and prints no id."""
    (tmp_path / "empty.wav").touch()
    for code, words in (
        (BadAudio, ("2001", "--audio", str(tmp_path / "empty.wav"))),
        (BadAudio, ("2001", "--audio", str(tmp_path / "none.wav"))),
        (NotFound, ("2009", "--audio", str(wav))),
        (BadValue, ("2001", "--audio", str(wav), "--received", "yesterday")),
    ):
        assert box("message", "leave", *words, code=code.exit_code).stdout == ""
    box("mailbox", "set", "2001", "--quota", "1")
    leave(box, wav)
    box("message", "leave", "2001", "--audio", str(wav), code=MailboxFull.exit_code)


def test_no_messages(box):
    """An empty mailbox is told on stderr; one that is not there is an error."""
    assert "no messages" in box("message", "list", "2001").stderr
    assert [] == box.json("message", "list", "2001")
    box("message", "list", "2009", code=NotFound.exit_code)


def test_export(box, wav, tmp_path):
    """The recording comes out to the byte; a file that is there stays, but for --force; `-` is stdout."""
    ident, target = leave(box, wav), tmp_path / "out.wav"
    box("message", "export", "2001", ident, str(target))
    assert wav.read_bytes() == target.read_bytes()
    target.write_text("mine")
    box("message", "export", "2001", ident, str(target), code=AlreadyExists.exit_code)
    assert target.read_text() == "mine"
    box("message", "export", "2001", ident, str(target), "--force")
    assert wav.read_bytes() == target.read_bytes()
    assert wav.read_bytes() == box("message", "export", "2001", ident, "-").stdout_bytes


def test_export_replaces_files_only(box, wav, tmp_path):
    """Even with --force a directory or a device is not replaced, and a missing folder is named."""
    ident = leave(box, wav)
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe"):
        box("message", "export", "2001", ident, str(target), "--force", code=AlreadyExists.exit_code)
    box("message", "export", "2001", ident, str(tmp_path / "no" / "out.wav"), code=StoreUnusable.exit_code)


def test_a_recording_that_is_not_here(box, wav):
    """A message whose recording has not come cannot be exported, and says what brings it."""
    ident = leave(box, wav)
    (box.store / f"mailboxes/2001/messages/{ident}.wav").unlink()
    assert "vmctl sync" in box("message", "export", "2001", ident, "-", code=NotFound.exit_code).stderr


def test_a_link_is_not_followed_out_of_the_store(box, wav, tmp_path):
    """A symbolic link in a recording's place is not read."""
    ident = leave(box, wav)
    place = box.store / f"mailboxes/2001/messages/{ident}.wav"
    place.unlink()
    place.symlink_to(tmp_path / "net" / "keys" / "primary.pem")
    assert box("message", "export", "2001", ident, "-", code=StoreUnusable.exit_code).stdout == ""


# Greetings and prompts


def test_greetings(box, wav, tmp_path):
    """A greeting is set, listed with its length, exported and deleted."""
    assert "greeting set" in box("greeting", "list", "2001").stderr
    box("greeting", "set", "2001", "busy", "--audio", str(wav))
    (shown,) = box.json("greeting", "list", "2001")
    assert ("busy", 0.5, wav.stat().st_size) == (shown["name"], shown["seconds"], shown["audio"]["size"])
    assert ["busy"] == box.json("mailbox", "show", "2001")["greetings"]
    box("greeting", "export", "2001", "busy", str(tmp_path / "out.wav"))
    assert wav.read_bytes() == (tmp_path / "out.wav").read_bytes()
    box("greeting", "delete", "2001", "busy")
    assert [] == box.json("greeting", "list", "2001")
    box("greeting", "delete", "2001", "busy", code=NotFound.exit_code)
    box("greeting", "export", "2001", "busy", "-", code=NotFound.exit_code)


def test_greetings_have_four_names(box, wav):
    """Another name is refused with the four; so is a mailbox that is not there."""
    assert "temporary" in box("greeting", "set", "2001", "x", "--audio", str(wav), code=BadName.exit_code).stderr
    box("greeting", "set", "2009", "busy", "--audio", str(wav), code=NotFound.exit_code)
    box("greeting", "list", "2009", code=NotFound.exit_code)


def test_prompts(vmctl, wav):
    """A prompt is set, listed, exported and deleted; a broken file in its folder is named and left out."""
    vmctl("prompt", "set", "welcome", "--audio", str(wav))
    (vmctl.store / "prompts/noise.wav").write_text("no sound")
    result = vmctl("prompt", "list", "--json")
    assert ["welcome"] == [each["name"] for each in json.loads(result.stdout)]
    assert "noise.wav is left out" in result.stderr
    assert wav.read_bytes() == vmctl("prompt", "export", "welcome", "-").stdout_bytes
    vmctl("prompt", "delete", "welcome")
    vmctl("prompt", "delete", "welcome", code=NotFound.exit_code)


# Callflows


def test_callflows(vmctl, tmp_path):
    """A callflow's text comes back as it was given, comments and all; JSON has the document too."""
    (tmp_path / "main.yaml").write_text(FLOW)
    vmctl("callflow", "set", "main", str(tmp_path / "main.yaml"))
    vmctl("callflow", "set", "other", "-", stdin="title: Ours\nanything: [1, 2]")
    assert FLOW == vmctl("callflow", "show", "main").stdout
    assert "title: Ours\nanything: [1, 2]" == vmctl("callflow", "show", "other").stdout
    shown = vmctl.json("callflow", "show", "main")
    assert ("main", FLOW, True) == (shown["name"], shown["text"], shown["checked"])
    assert {"type": "hangup"} == shown["document"]["nodes"]["bye"]
    expected = [
        {"name": "main", "title": None, "schema": "vmctl/1"},
        {"name": "other", "title": "Ours", "schema": None},
    ]
    assert expected == vmctl.json("callflow", "list")
    vmctl("callflow", "delete", "other")
    vmctl("callflow", "show", "other", code=NotFound.exit_code)


def test_a_callflow_with_faults_is_refused(vmctl):
    """All faults are told at once, as words and as JSON, and nothing is stored."""
    text = FLOW.replace("hangup", "hang").replace("default: bye", "default: hello")
    result = vmctl("callflow", "set", "main", "-", stdin=text, code=CallflowFaults.exit_code)
    assert "nodes.bye.type: " in result.stderr
    assert "start.default: " in result.stderr
    result = vmctl("callflow", "set", "main", "-", "--json", stdin=text, code=CallflowFaults.exit_code)
    assert {"start.default", "nodes.bye.type"} <= {fault["key"] for fault in json.loads(result.stderr)["faults"]}
    assert [] == vmctl.json("callflow", "list")


def test_checking_callflows(vmctl, tmp_path):
    """`callflow check` takes a name or a path, changes nothing, and says when there was nothing to check."""
    (tmp_path / "good.yaml").write_text(FLOW)
    (tmp_path / "bad.yaml").write_text(FLOW.replace("hangup", "hang"))
    assert {"checked": True, "faults": []}.items() <= vmctl.json(
        "callflow", "check", str(tmp_path / "good.yaml")
    ).items()
    vmctl("callflow", "check", str(tmp_path / "bad.yaml"), code=CallflowFaults.exit_code)
    vmctl("callflow", "set", "main", str(tmp_path / "good.yaml"))
    assert "has no fault" in vmctl("callflow", "check", "main").stderr
    vmctl("callflow", "set", "free", "-", stdin="a: 1")
    assert "nothing more was checked" in vmctl("callflow", "check", "free").stderr
    vmctl("callflow", "check", "none", code=NotFound.exit_code)
    vmctl("callflow", "check", "./none.yaml", code=NotFound.exit_code)


def test_a_callflow_that_cannot_be_read(vmctl, tmp_path):
    """What is no text, no YAML, too large or a directory is refused, each with its reason."""
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    assert "UTF-8" in vmctl("callflow", "set", "x", str(tmp_path / "latin.yaml"), code=BrokenFile.exit_code).stderr
    vmctl("callflow", "set", "x", "-", stdin="a: [", code=BrokenFile.exit_code)
    (tmp_path / "large.yaml").write_bytes(b"#" * 20_000_000)
    vmctl("callflow", "set", "x", str(tmp_path / "large.yaml"), code=BrokenFile.exit_code)
    vmctl("callflow", "set", "x", str(tmp_path), code=StoreUnusable.exit_code)


def test_a_broken_callflow_is_still_shown(vmctl):
    """A callflow that somebody broke by hand is printed as it is, and left out of the list by name."""
    (vmctl.store / "callflows/odd.yaml").write_text("a: [")
    assert vmctl("callflow", "show", "odd").stdout == "a: ["
    result = vmctl("callflow", "list", "--json")
    assert (0, "[]\n") == (result.exit_code, result.stdout)
    assert "callflow odd is left out" in result.stderr


# Settings


def test_settings(vmctl):
    """Values are YAML, several are set in one change, and each can be shown alone."""
    vmctl("settings", "set", "defaults.quota", "50")
    vmctl("settings", "set", "site.name=Main: house".replace(": ", " "), "site.days=[mon, tue]", "site.open=true")
    expected = {"defaults.quota": 50, "site.days": ["mon", "tue"], "site.name": "Main house", "site.open": True}
    assert expected == vmctl.json("settings", "show")
    assert {"defaults.quota": 50} == vmctl.json("settings", "show", "defaults.quota")
    assert vmctl("settings", "show", "site.name").stdout == "Main house\n"
    assert ["site.days", "site.name", "site.open"] == list(vmctl.json("settings", "show", "site"))
    vmctl("settings", "unset", "site.open", "site.days")
    assert ["defaults.quota", "site.name"] == list(vmctl.json("settings", "show"))
    vmctl("settings", "show", "site.open", code=NotFound.exit_code)
    vmctl("settings", "unset", "site.open", code=NotFound.exit_code)


def test_a_section_is_set_by_a_mapping(vmctl):
    """A mapping for a section sets its keys, as a person who edits the file would."""
    vmctl("settings", "set", "defaults", "{quota: 5, language: en}")
    assert {"defaults.language": "en", "defaults.quota": 5} == vmctl.json("settings", "show")


@pytest.mark.parametrize("words", [("a.b",), ("a.b", "1", "2"), ("a.b", ""), ("a.b=",), ("a", "{}")])
def test_a_setting_without_a_value(vmctl, words):
    """A name without its value is a usage error."""
    vmctl("settings", "set", *words, code=USAGE)


def test_bad_settings(vmctl):
    """A name that is none and a value that is no YAML are refused, and nothing is set."""
    for words in (("../x", "1"), ("a.b.c", "1"), ("a.b=1", "c.d=["), ("a.b", "*x")):
        vmctl("settings", "set", *words, code=BadValue.exit_code)
    assert {} == vmctl.json("settings", "show")
    assert "settings set" in vmctl("settings", "show").stderr
