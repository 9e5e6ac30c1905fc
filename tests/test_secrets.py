"""PINs and their hashes, keys, the secrets of others and audio: recognisable ones are planted, and looked for everywhere."""

import base64
import os
import re
import subprocess
import sys
import wave

import pytest
from typer.main import get_command

from vmctl import pin
from vmctl.cli import changes
from vmctl.cli.app import app

PIN, EDITED, BROKEN = "471147114711", "815815815815", "909090909090"
TOKEN, SOUND = "sesame-opens-0815", b"\x5a\xa5\x17\x71" * 600
READING = (
    "status", "status --json", "check", "journal --json", "history list --all --json --server primary",
    "history show mailbox/2001 1 --json --server primary", "history diff mailbox/2001 --json --server primary",
    "history diff mailbox/2001 --server primary", "history show settings 1 --json --server primary",
    "history diff settings --server primary", "history diff settings --json --server primary",
    "conflicts list --json --server primary", "parked list --json --server primary", "diff", "diff --json", "verify --json",
    "mailbox show 2001 --json --server primary", "mailbox list --json --server primary",
    "message list 2001 --json --server primary", "greeting list 2001 --json --server primary", "route --json",
)  # fmt: skip


@pytest.fixture
def recorded(tmp_path):
    """A recording that is known again wherever a part of it turns up."""
    path = tmp_path / "said.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(SOUND)
    return path


def test_nothing_that_vmctl_prints_or_writes_tells_a_secret(tmp_path, recorded):
    """Commands, their JSON, logs, faults, journal, history and index: with VMCTL_DEBUG, and after broken input, too."""
    net, said = tmp_path / "net", []

    def do(words, given=b""):
        done = subprocess.run(
            [sys.executable, "-m", "vmctl", *words.split()], cwd=tmp_path, input=given, capture_output=True,
            check=False, env={**os.environ, "VMCTL_DEBUG": "1", "VMCTL_CONFIG": str(net / "vmctl.yaml")},
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
        return done

    assert 0 == do(f"init {net}").returncode
    assert 0 == do("mailbox create 2001 --name Ada --pin-stdin --server primary", f"{PIN}\n".encode()).returncode
    assert 0 == do("mailbox create 2002 --name Bob --server primary").returncode
    assert 0 == do(f"message leave 2001 --from 1 --audio {recorded} --server primary").returncode
    settings = net / "primary/settings.yaml"
    settings.write_text("web:\n  users: [{name: ada, token: none}]\n")
    assert 0 == do("sync").returncode
    settings.write_text(f"web:\n  users: [{{name: ada, token: {TOKEN}}}]\n")
    box = net / "primary/mailboxes/2001/mailbox.yaml"
    box.write_text(re.sub("pin: .*", f"pin: '{EDITED}'", box.read_text()))
    (net / "primary/mailboxes/2002/mailbox.yaml").write_text(f"name: Bob\npin: [{BROKEN}\n")
    do("sync")
    assert 0 != do("mailbox set 2001 --pin-stdin --server primary", f"{PIN}x\n".encode()).returncode
    for words in READING:
        assert "Traceback" not in do(words).stderr.decode(), words
    (net / "primary/mailboxes/2002/mailbox.yaml").unlink()
    printed = b"\n".join(said)
    written = {path: path.read_bytes() for path in net.rglob("*") if path.is_file()}
    for secret in (PIN, EDITED, BROKEN):
        assert secret.encode() not in printed
        assert [] == [str(path) for path, data in written.items() if secret.encode() in data]
    assert b"scrypt" not in printed
    assert TOKEN.encode() not in printed
    for path, data in written.items():
        if path.parent.name == "keys":
            for line in data.splitlines():
                if b"-----" not in line and line.strip():
                    assert line not in printed
                    assert [] == [str(one) for one, held in written.items() if line in held and one != path]
    for audio in (SOUND[:64], base64.b64encode(SOUND[:63]), SOUND[:64].hex().encode()):
        assert audio not in printed
        assert {".wav", ""} >= {path.suffix for path, data in written.items() if audio in data}


def test_a_secret_is_hidden_however_deep_it_stands():
    """In a list of mappings, in a section, under any of the names that secrets go by."""
    old = {"web.users": [{"name": "ada", "token": "a"}], "sip": {"password": "b", "port": 1}, "pin": "c", "pinned": 1}
    new = {"web.users": [{"name": "ada", "token": "x"}, {"api_secret": "y"}], "sip.passcode": "z", "pinned": 2}
    shown = f"{changes.lines(old, new)} {changes.values(old, new)} {changes.lines({}, new)} {changes.values(old, {})}"
    for value in ("'a'", "'b'", "'c'", "'x'", "'y'", "'z'"):
        assert value not in shown
    assert "pinned: 1 -> 2" in shown
    assert {"port": 1, "password": changes.HIDDEN} == changes.masked((), {"port": 1, "password": "b"})


def commands(command, path=()):
    """Every command with its words."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def test_no_command_takes_a_pin_or_a_secret_on_its_command_line():
    """Everybody on the host sees that: `--pin` asks, `--pin-stdin` reads, and there is nothing else."""
    found = set()
    for path, command in commands(get_command(app)):
        for option in command.params:
            if re.search("pin|secret|password|token|passphrase", " ".join(map(str, (option.name, *option.opts)))):
                assert option.is_flag, path
                found.update(option.opts)
    assert {"--pin", "--pin-stdin"} == found


def test_pins_cost_what_owasp_asks():
    """The work of N=2^17, r=8, p=1, in no less than 32 MiB; its hash says with what it was made."""
    _, cost, block, parallel, _, _ = pin.hashed("4711").split(":")
    assert int(cost) * int(block) * int(parallel) >= 2**17 * 8 * 3 // 4
    assert 128 * int(cost) * int(block) >= 32 * 2**20
    assert 128 * int(cost) * int(block) < pin._MEMORY


def test_a_hash_that_costs_too_much_is_no_hash():
    """A peer's or a person's file must not have a server compute for minutes."""
    salt, digest = base64.b64encode(b"0" * 16).decode(), base64.b64encode(b"0" * 32).decode()
    assert not pin.matches(f"scrypt:65536:8:99:{salt}:{digest}", "4711")
