"""The main job from the command line: two stores, real SMTP on loopback, real files."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from running import Net, run, wav

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net.make(tmp_path / "net")


def test_the_first_five_minutes(tmp_path: Path) -> None:
    """init, create, leave, sync as the README types them; the message is at the secondary, the same to the byte."""
    hello = wav(tmp_path / "hello.wav")
    assert run("init", "net", cwd=tmp_path).returncode == 0
    net = tmp_path / "net"
    for words in (
        ("mailbox", "create", "2001", "--name", "Ada Byron", "--server", "primary"),
        ("message", "leave", "2001", "--from", "+442071234567", "--audio", "../hello.wav", "--server", "primary"),
        ("sync",),
    ):
        done = run(*words, cwd=net)
        assert done.returncode == 0, done.stderr
    shown = json.loads(run("message", "list", "2001", "--server", "secondary", "--json", cwd=net).stdout)
    assert [(message["from"], message["status"]) for message in shown] == [("+442071234567", "new")]
    audio = net / "secondary/mailboxes/2001/messages" / f"{shown[0]['id']}.wav"
    assert audio.read_bytes() == hello.read_bytes()


def test_edits_on_both_sides_between_two_rounds(net: Net, tmp_path: Path) -> None:
    """An edit in an editor, a mark here and a delete there between two rounds leave two equal stores."""
    net.do("mailbox", "create", "2001", "--name", "Ada Byron", "--server", "primary")
    kept, gone = (net.leave("primary", "2001", wav(tmp_path / f"{n}.wav", level=n)) for n in (1, 2))
    net.do("sync")
    yaml = net.path("primary", "mailboxes/2001/mailbox.yaml")
    edited = yaml.with_name("mailbox.yaml.new")
    edited.write_text(yaml.read_text() + "language: en-GB\n")
    edited.replace(yaml)
    net.do("message", "mark", "2001", kept, "--as", "old", "--server", "primary")
    net.do("message", "delete", "2001", gone, "--server", "secondary")
    net.do("sync")
    assert net.run("verify").returncode == 0
    for server in ("primary", "secondary"):
        assert [(m["id"], m["status"]) for m in net.read("message", "list", "2001", "--server", server)] == [
            (kept, "old")
        ]
        assert net.read("mailbox", "show", "2001", "--server", server)["language"] == "en-GB"


def test_all_six_kinds_of_record_travel_both_ways(net: Net, tmp_path: Path) -> None:
    """Settings, callflows, prompts, mailboxes, greetings and messages made on either side are on both after a round."""
    for server, number in (("primary", "1"), ("secondary", "2")):
        audio = wav(tmp_path / f"{number}.wav", level=int(number))
        flow = tmp_path / f"{number}.yaml"
        flow.write_text(f"# mine\nname: flow {number}\n")
        at = ("--server", server)
        net.do("settings", "set", f"defaults.made{number}", "true", *at)
        net.do("callflow", "set", f"flow{number}", str(flow), *at)
        net.do("prompt", "set", f"prompt{number}", "--audio", str(audio), *at)
        net.do("mailbox", "create", f"200{number}", "--name", f"Box {number}", *at)
        net.do("greeting", "set", f"200{number}", "busy", "--audio", str(audio), *at)
        net.leave(server, f"200{number}", audio)
    net.do("sync")
    assert net.run("verify").returncode == 0
    for number in ("1", "2"):
        for server in ("primary", "secondary"):
            assert net.path(server, f"callflows/flow{number}.yaml").read_text() == f"# mine\nname: flow {number}\n"
            assert net.path(server, f"prompts/prompt{number}.wav").exists()
            assert net.path(server, f"mailboxes/200{number}/greetings/busy.wav").exists()
            assert len(net.read("message", "list", f"200{number}", "--server", server)) == 1


def test_a_round_with_nothing_to_do_ships_nothing(net: Net) -> None:
    """The second of two rounds ships no record and leaves every file as it was."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    yaml = net.path("secondary", "mailboxes/2001/mailbox.yaml")
    before = yaml.stat()
    outcome = net.read("sync")
    assert {name: server["shipped"] for name, server in outcome["servers"].items()} == {"primary": 0, "secondary": 0}
    assert yaml.stat() == before


def test_a_dry_run_changes_nothing(net: Net) -> None:
    """`sync --dry-run` and `diff` name a hand edit and leave stores and indexes as they were."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    yaml = net.path("primary", "mailboxes/2001/mailbox.yaml")
    yaml.write_text(yaml.read_text() + "pin: '4711'\nlanguage: de\n")
    for words in (("sync", "--dry-run"), ("diff",)):
        shown = net.do(*words)
        assert "mailbox/2001" in shown
        assert "language" in shown
        assert "4711" not in shown
    assert "4711" in yaml.read_text()
    assert net.status()["servers"]["primary"]["pending"] == 0


def test_verify_names_what_differs(net: Net) -> None:
    """`verify` exits with its own code and names a record that one server changed and no round has shipped."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    net.do("mailbox", "set", "2001", "--language", "fr", "--server", "secondary")
    done = net.run("verify")
    assert done.returncode == 42
    assert "mailbox/2001" in done.stdout + done.stderr


def test_verify_trusts_no_index(net: Net, tmp_path: Path) -> None:
    """A recording whose bytes changed under the same size and times is found."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    ident = net.leave("primary", "2001", wav(tmp_path / "a.wav"))
    net.do("sync")
    audio = net.path("secondary", f"mailboxes/2001/messages/{ident}.wav")
    status = audio.stat()
    data = bytearray(audio.read_bytes())
    data[-1] ^= 1
    with audio.open("r+b") as file:
        file.write(data)
    os.utime(audio, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert net.run("verify").returncode == 42


def test_a_damaged_recording_comes_back_from_the_peer(net: Net, tmp_path: Path) -> None:
    """A recording that was overwritten is fetched from the other server, and never taken for an edit."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    hello = wav(tmp_path / "a.wav")
    ident = net.leave("primary", "2001", hello)
    net.do("sync")
    audio = net.path("primary", f"mailboxes/2001/messages/{ident}.wav")
    audio.write_bytes(b"noise")
    net.do("sync", "--full")
    assert audio.read_bytes() == hello.read_bytes()
    assert net.run("verify").returncode == 0


def test_a_broken_file_is_named_and_stays(net: Net) -> None:
    """A YAML file that does not parse is named by sync and status, is not shipped, and travels once it is mended."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    yaml = net.path("primary", "mailboxes/2001/mailbox.yaml")
    yaml.write_text("name: Ada\nname: Lovelace\n")
    done = net.run("sync")
    assert done.returncode == 0
    assert "mailboxes/2001/mailbox.yaml" in done.stderr
    assert yaml.read_text() == "name: Ada\nname: Lovelace\n"
    assert [fault["path"] for fault in net.status()["servers"]["primary"]["faults"]] == ["mailboxes/2001/mailbox.yaml"]
    assert "Lovelace" not in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()
    yaml.write_text("name: Ada Lovelace\n")
    net.do("sync")
    assert "Ada Lovelace" in net.path("secondary", "mailboxes/2001/mailbox.yaml").read_text()
    assert net.status()["servers"]["primary"]["faults"] == []


def test_a_store_dropped_in_by_hand(net: Net) -> None:
    """The fixtures, copied into an empty store, travel as they are; plain PINs are hashed on the way."""
    source = __import__("running").FIXTURES / "active-standby" / "store"
    shutil.copytree(source, net.root / "primary", dirs_exist_ok=True)
    net.do("sync")
    assert net.run("verify").returncode == 0
    boxes = net.read("mailbox", "list", "--server", "secondary")
    assert len(boxes) == len(list((source / "mailboxes").iterdir()))
    pins = [path.read_text() for path in net.root.glob("*/mailboxes/*/mailbox.yaml") if "pin:" in path.read_text()]
    assert pins
    assert all("scrypt:" in text for text in pins)


def test_an_index_that_was_removed_is_built_again(net: Net, tmp_path: Path) -> None:
    """Without its index a server offers everything anew: nothing is lost, doubled or brought back."""
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    kept, gone = (net.leave("primary", "2001", wav(tmp_path / f"{n}.wav", level=n)) for n in (1, 2))
    net.do("message", "delete", "2001", gone, "--server", "primary")
    net.do("sync")
    for path in (net.root / "primary/.vmctl").glob("index.db*"):
        path.unlink()
    net.do("sync")
    assert net.run("verify").returncode == 0
    for server in ("primary", "secondary"):
        assert [message["id"] for message in net.read("message", "list", "2001", "--server", server)] == [kept]


def test_another_format_that_the_config_names(tmp_path: Path) -> None:
    """A recording of a format named under `audio.formats` is left, shipped and verified as it is; others are refused."""
    net = Net.make(tmp_path / "net")
    config = net.root / "vmctl.yaml"
    text = config.read_text()
    assert "formats: [wav]" in text
    config.write_text(text.replace("formats: [wav]", "formats: [wav, gsm]"))
    gsm = tmp_path / "a.gsm"
    gsm.write_bytes(bytes(range(33)) * 50)
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    ident = net.leave("primary", "2001", gsm)
    net.do("sync")
    assert net.path("secondary", f"mailboxes/2001/messages/{ident}.gsm").read_bytes() == gsm.read_bytes()
    assert net.run("verify").returncode == 0
    net.do("message", "delete", "2001", ident, "--server", "secondary")
    net.do("sync")
    assert not net.path("primary", f"mailboxes/2001/messages/{ident}.gsm").exists()
    net.do("message", "restore", "2001", ident, "--server", "primary")
    net.do("sync")
    assert net.path("secondary", f"mailboxes/2001/messages/{ident}.gsm").read_bytes() == gsm.read_bytes()
    other = tmp_path / "a.mp3"
    other.write_bytes(b"x")
    assert net.run("message", "leave", "2001", "--audio", str(other), "--server", "primary").returncode == 34
