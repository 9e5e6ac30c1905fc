"""Enrolment, trust, rotation: no private key leaves its host, and both keys count for a while."""

from __future__ import annotations

import json
import shutil
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from running import FIXTURES, Net, free_ports, until
from typer.testing import CliRunner

from vmctl import config, enrol, errors, keys, link
from vmctl.cli.app import app
from vmctl.clock import Clock
from vmctl.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Host:
    """A directory with a vmctl.yaml, and vmctl run there, in this process."""

    root: Path

    def run(self, *words: str, code: int = 0, stdin: str | None = None) -> Any:
        """Run a command, which must exit with `code`; its result."""
        done = CliRunner(env={"VMCTL_CONFIG": str(self.root)}).invoke(app, words, input=stdin)
        assert code == done.exit_code, f"vmctl {' '.join(words)} exited {done.exit_code}: {done.output}"
        return done

    def json(self, *words: str) -> Any:
        """Run a command with --json; the value."""
        return json.loads(self.run(*words, "--json").stdout)

    @property
    def config(self) -> config.Config:
        """Its config, as it is now."""
        return config.load(self.root / "vmctl.yaml")

    def events(self, server: str) -> list[str]:
        """What the journal of a server says happened, of keys."""
        entries = Journal(self.root / server / ".vmctl" / "journal.jsonl").entries()
        return [entry["event"] for entry in entries if "key" in entry.get("event", "")]


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Host, Host]:
    """Two hosts: the primary's has a new network, the secondary's an empty directory."""
    one, other = Host(tmp_path / "one"), Host(tmp_path / "other")
    ports = free_ports(2)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    words = ("--network", "net", "--primary", addresses[0], "--secondary", addresses[1])
    done = CliRunner().invoke(app, ["init", str(one.root), *words, "--server", "primary"])
    assert done.exit_code == 0, done.output
    other.root.mkdir()
    return one, other


def enrolled(hosts: tuple[Host, Host]) -> tuple[Host, Host]:
    """Both hosts belong to the network: the config went one way, the code of the keys the other."""
    one, other = hosts
    shutil.copy(one.root / "vmctl.yaml", other.root)
    code = other.json("join", "--server", "secondary")["code"]
    one.run("keys", "trust", code, "--yes")
    return one, other


def test_init_for_one_server(hosts: tuple[Host, Host]) -> None:
    """Only that server's store and keys are made; the other one is known by name and address alone."""
    one, _ = hosts
    servers = one.config.servers
    assert (one.root / "primary" / ".vmctl" / "identity.json").exists()
    assert not (one.root / "secondary").exists()
    assert ["primary.pem"] == [path.name for path in (one.root / "keys").iterdir()]
    assert (None, None, None) == (servers["secondary"].store, servers["secondary"].public_key, servers["secondary"].key)
    one.run("mailbox", "create", "2001", "--name", "Ada")  # the host goes on alone
    assert errors.PeerUntrusted.exit_code == one.run("sync", "--timeout", "1", code=48).exit_code
    assert "does not say yet who secondary is" in one.run("sync", "--timeout", "1", code=48).output


def test_two_hosts_are_enrolled_and_no_private_key_leaves_its_own(hosts: tuple[Host, Host]) -> None:
    """With the vmctl.yaml carried one way and a code the other both trust each other, and show the same fingerprints."""
    one, other = enrolled(hosts)
    assert ["primary.pem"] == [path.name for path in (one.root / "keys").iterdir()]
    assert ["secondary.pem"] == [path.name for path in (other.root / "keys").iterdir()]
    shown = one.json("keys", "fingerprint")
    assert shown == other.json("keys", "fingerprint")
    assert None not in shown.values()
    assert ["primary"] == [server.name for server in one.config.here()]
    assert ["secondary"] == [server.name for server in other.config.here()]
    assert one.config.digest == other.config.digest
    assert ["keys trusted"] == one.events("primary")
    for host in hosts:
        assert {"good", None} == {each["file"] for each in host.json("keys", "show")}


def test_they_talk(hosts: tuple[Host, Host]) -> None:
    """After the enrolment a round brings both in step; after each step of a rotation, too, and after its end."""
    one, other = enrolled(hosts)
    net = Net(other.root, other.config)
    one.run("mailbox", "create", "2001", "--name", "Ada")

    def sync() -> None:
        begun = net.log("secondary").count(" serves /") if (net.root / "secondary.log").exists() else 0
        with net.daemon("secondary"):
            until(lambda: net.log("secondary").count(" serves /") > begun, what="the daemon")
            assert one.json("sync")["in_step"]

    sync()
    before = one.json("keys", "fingerprint")["primary"]
    one.run("keys", "rotate", "--window", "1h")
    assert before != one.json("keys", "fingerprint")["primary"]
    sync()  # the other host has not heard of it yet
    other.run("keys", "trust", one.run("keys", "show", "--code").stdout, "--yes")
    sync()  # both keys count there
    one.run("keys", "retire", "--server", "primary")
    other.run("keys", "retire", "--server", "primary")
    sync()  # only the new ones do
    assert keys.load_private(one.root / "keys/primary.pem").former is None
    assert ["keys trusted", "keys exchanged", "former keys retired"] == one.events("primary")
    assert ["keys exchanged", "former keys retired"] == other.events("secondary")


def test_who_has_not_heard_of_a_rotation_in_time_is_told_so(hosts: tuple[Host, Host]) -> None:
    """With the former keys retired too early the other host refuses this one, and both say what to compare."""
    one, other = enrolled(hosts)
    net = Net(other.root, other.config)
    one.run("keys", "rotate", "--window", "0s")
    with net.daemon("secondary"):
        until(lambda: " serves " in net.log("secondary"), what="the daemon")
        done = one.run("sync", "--timeout", "2", code=errors.PeerUntrusted.exit_code)
        assert "vmctl keys fingerprint" in done.output
        until(lambda: net.status()["servers"]["secondary"]["strays"].get("stranger"), what="the count")


def test_join_twice_and_new_keys(hosts: tuple[Host, Host]) -> None:
    """Keys that are there stay; those that vmctl.yaml names and that are lost are made anew only when a person says so."""
    one, other = enrolled(hosts)
    path = other.root / "keys" / "secondary.pem"
    before = path.read_bytes()
    other.run("join", "--server", "secondary", code=errors.AlreadyExists.exit_code)
    assert before == path.read_bytes()
    path.unlink()
    shutil.rmtree(other.root / "secondary")
    done = other.run("join", "--server", "secondary", code=errors.KeyMissing.exit_code)
    assert "--new-keys" in done.output
    code = other.json("join", "--server", "secondary", "--new-keys")["code"]
    shown = one.json("keys", "fingerprint")["secondary"]
    one.run("keys", "trust", code, "--yes", "--window", "0s")
    assert shown != one.json("keys", "fingerprint")["secondary"]
    assert one.config.servers["secondary"].former_key is None


def test_a_person_is_asked(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """The fingerprint is shown before anything is trusted; no, or nothing, changes nothing. A file and stdin will do."""
    one, other = hosts
    shutil.copy(one.root / "vmctl.yaml", other.root)
    code = other.json("join", "--server", "secondary")["code"]
    shown = other.json("keys", "fingerprint")["secondary"]
    before = (one.root / "vmctl.yaml").read_text()
    for answer in ("n\n", ""):
        done = one.run("keys", "trust", code, code=1, stdin=answer)
        assert shown in done.output
    assert before == (one.root / "vmctl.yaml").read_text()
    (tmp_path / "code").write_text("\n".join(code[at : at + 76] for at in range(0, len(code), 76)))
    one.run("keys", "trust", str(tmp_path / "code"), stdin="y\n")
    assert "already" in one.run("keys", "trust", "-", "--yes", stdin=code).output
    assert shown == one.json("keys", "fingerprint")["secondary"]


def test_codes_that_are_none(hosts: tuple[Host, Host]) -> None:
    """A cut, altered, foreign or made-up code is refused with what is wrong, and so is another key for a server that is here."""
    one, other = enrolled(hosts)
    code = one.run("keys", "show", "--code").stdout.strip()
    mark, network, server, last = code.split(".")
    for bad in (
        "",
        "x",
        code[:-1],
        code[:-8],
        code + "A",
        f"other.{network}.{server}.{last}",
        f"{mark}.a!b.{server}.{last}",
        "/dev/null",
    ):
        with pytest.raises(errors.BadValue, match="is no code of keys"):
            enrol.Code.read(bad)
    for bad in (f"{mark}.foreign.{server}.{last}", f"{mark}.{network}.third.{last}"):
        done = other.run("keys", "trust", bad, "--yes", code=errors.BadValue.exit_code)
        assert "network net" in done.output
    broken = f"{mark}.{network}.{server}.{last[: 2000 - 1500]}{'_' * 1100}{last[1600:]}"
    with pytest.raises(errors.BadValue):
        enrol.Code.read(broken)
    mine = other.run("keys", "show", "--code").stdout.strip()
    done = other.run("keys", "trust", mine.replace("secondary", "primary"), "--yes", code=errors.ConfigFaults.exit_code)
    assert "primary's key too" in done.output
    other.run("keys", "trust", code.replace("primary", "secondary"), "--yes", code=errors.BadValue.exit_code)


def test_a_rotation_that_was_cut_off_is_finished(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the key file and vmctl.yaml, it goes on with the keys that the file holds; no third ones are made."""
    one, other = enrolled(hosts)
    path = one.root / "keys" / "primary.pem"
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(enrol.config_edit, "change", killed)
        with pytest.raises(KeyboardInterrupt):
            enrol.rotate(one.config, "primary", Clock(), 60.0)
    held = keys.load_private(path)
    assert held.former is not None
    assert one.config.servers["primary"].public_key == held.former.identity
    net = Net(other.root, other.config)
    with net.daemon("secondary"):  # meanwhile nothing stops
        until(lambda: " serves /" in net.log("secondary"), what="the daemon")
        assert one.json("sync")["in_step"]
    (path.parent / ".vmctl-tmp-0123").write_bytes(b"half a key")
    one.run("keys", "rotate")
    assert held.public == keys.load_private(path).public
    assert one.config.servers["primary"].public_key == held.public.identity
    assert ["primary.pem"] == [each.name for each in path.parent.iterdir()]
    one.run("keys", "rotate", code=errors.KeyPresent.exit_code)


def test_what_cannot_be_done_whole_is_not_begun(hosts: tuple[Host, Host]) -> None:
    """In a vmctl.yaml of another form, or with a window that is none, no key is touched, and the words say what to do."""
    one, _ = enrolled(hosts)
    path, file = one.root / "keys/primary.pem", one.root / "vmctl.yaml"
    before = path.read_bytes()
    for window in ("366d", "99999999d", "-1d", "soon"):
        assert 2 == one.run("keys", "rotate", "--window", window, code=2).exit_code
    text = file.read_text()
    file.write_text(text.replace("  primary:\n", '  "primary":\n', 1))
    done = one.run("keys", "rotate", code=errors.NotEdited.exit_code)
    assert "each key on a line of its own" in done.output
    assert before == path.read_bytes()
    file.write_text(text)
    one.run("join", "--new-keys", code=2)


def test_back_to_the_keys_of_before(hosts: tuple[Host, Host]) -> None:
    """A code of before is trusted again like any other, with a window and without one."""
    one, other = enrolled(hosts)
    first = one.run("keys", "show", "--code").stdout
    one.run("keys", "rotate", "--window", "1h")
    second = one.run("keys", "show", "--code").stdout
    for window in ("1h", "0s"):
        other.run("keys", "trust", second, "--yes", "--window", window)
        other.run("keys", "trust", first, "--yes", "--window", window)
        assert str(enrol.code_of(other.config, "primary")) == first.strip()
    assert other.config.servers["primary"].former_key is None


def test_a_forgotten_server(hosts: tuple[Host, Host]) -> None:
    """`join` without --server on the second host says what was probably meant, before it says how to make new keys."""
    one, other = hosts
    shutil.copy(one.root / "vmctl.yaml", other.root)
    done = other.run("join", code=errors.KeyMissing.exit_code)
    assert "if this is the host of secondary, say 'vmctl join --server secondary'" in done.output
    assert not (other.root / "keys").exists()


def test_no_former_key_counts_after_an_exchange_without_a_window(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Whoever has the keys of before, or of before them, is nobody to the other host: neither by TLS, either way, nor by mail."""
    one, other = enrolled(hosts)
    stolen = {}
    for name, window in (("first", "7d"), ("second", "0s")):
        stolen[name] = tmp_path / f"{name}.pem"
        shutil.copy(one.root / "keys/primary.pem", stolen[name])
        one.run("keys", "rotate", "--window", window)
        other.run("keys", "trust", one.run("keys", "show", "--code").stdout, "--yes", "--window", window)
    for host in (one, other):
        server = host.config.servers["primary"]
        assert (None, 0) == (server.former_key, server.former_until)
        assert (server.public_key,) == server.identities(0)
    assert keys.load_private(one.root / "keys/primary.pem").former is None
    mine = other.root / "keys/secondary.pem"
    pinned = other.config.servers["primary"].identities(0)
    secondary = [one.config.servers["secondary"].public_key]
    assert shaken(link.calling(one.root / "keys/primary.pem", secondary), link.receiving(mine, pinned))
    for path in stolen.values():
        assert not shaken(link.calling(path, secondary), link.receiving(mine, pinned))
        assert not shaken(link.calling(mine, pinned), link.receiving(path, secondary))
        signature = keys.load_private(path).sign(b"x")
        assert not any(keys.verify(key, signature, b"x") for key in pinned)


def shaken(calling: ssl.SSLContext, called: ssl.SSLContext) -> bool:
    """Whether two ends come to talk to each other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one, other = calling.wrap_bio(back, there), called.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for end in (one, other):
            try:
                end.do_handshake()
                end.read(1)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return one.version() == other.version() == "TLSv1.3"


def test_a_busy_store_keeps_no_exchange_from_its_end(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal comes last: that it cannot be written takes nothing back, and leaves no former key in the file."""
    one, _ = enrolled(hosts)

    def busy(*_: Any) -> None:
        raise errors.StoreBusy("busy")

    monkeypatch.setattr(enrol, "store_lock", busy)
    one.run("keys", "rotate", "--window", "0s")
    held = keys.load_private(one.root / "keys/primary.pem")
    assert (None, one.config.servers["primary"].public_key) == (held.former, held.public.identity)


def test_a_key_file_of_another_server(hosts: tuple[Host, Host]) -> None:
    """A key file that is not the one that vmctl.yaml names keeps the server from its work, and says so."""
    one, _ = enrolled(hosts)
    path = one.root / "keys" / "primary.pem"
    path.unlink()
    keys.generate(path, "primary")
    done = one.run("sync", "--timeout", "1", code=errors.KeyMissing.exit_code)
    assert "does not hold the keys of primary that vmctl.yaml names" in done.output
    assert {"holds other keys", None} == {each["file"] for each in one.json("keys", "show")}


def test_both_in_one_directory(tmp_path: Path) -> None:
    """For trying out one command makes both servers' keys, and one rotates them: nothing is to be carried."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    net.here("keys", "rotate", "--server", "secondary")
    net.do(
        "message", "leave", "2001", "--server", "secondary", "--audio", str(next((FIXTURES / "audio").glob("*.wav")))
    )
    net.do("sync")
    assert net.status()["in_step"]
