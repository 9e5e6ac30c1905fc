"""`vmctl route` as those meet it who have to send callers somewhere: one name on stdout, or a code that says why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from running import Commands, Net, until, wav

from vmctl import network
from vmctl.clock import Clock
from vmctl.config import load
from vmctl.errors import BadName, JournalBroken, NobodyServes, NoSuchService, NotFound, StoreMissing
from vmctl.failover import Failover
from vmctl.replica import Replica

if TYPE_CHECKING:
    from pathlib import Path

MEMBERS = {
    "services.primary.extensions": ["2001"],
    "services.primary.trunks": ["pstn"],
    "services.secondary.extensions": ["3001", "3002"],
    "services.secondary.trunks": ["mobile"],
    "services.secondary.expansions": ["annex"],
    "services.secondary.applications": ["fax"],
}
USAGE = 2


@pytest.fixture
def vmctl(tmp_path: Path, no_fsync: None) -> Commands:
    """Commands in a network in which both servers serve, by the journals of both; nothing runs."""
    network.make(tmp_path / "net", mode="dual-active", settings=MEMBERS | {"scan.settle": "10ms"})
    made = Commands(tmp_path / "net")
    made("sync")
    return made


def replica(vmctl: Commands, name: str = "primary") -> Replica:
    """A server of the network."""
    return Replica.open(load(vmctl.directory / "vmctl.yaml"), name, Clock())


@pytest.mark.parametrize(
    ("words", "server"),
    [
        ("2001", "primary"),
        ("3001", "secondary"),
        ("--trunk pstn", "primary"),
        ("--trunk mobile", "secondary"),
        ("--expansion annex", "secondary"),
        ("--application fax", "secondary"),
        ("--service primary", "primary"),
        ("--service secondary", "secondary"),
        ("3001 --server primary", "secondary"),
    ],
)
def test_the_name_of_the_server_is_all_that_is_printed(vmctl: Commands, words: str, server: str) -> None:
    """For each way to ask, stdout has the one name and its line end; --json names the same one, and its address."""
    assert f"{server}\n" == vmctl("route", *words.split()).stdout
    value = vmctl.json("route", *words.split())
    config = load(vmctl.directory / "vmctl.yaml")
    assert (server, server) == (value["serving"], value["service"])
    assert str(config.servers[server].address) == value["address"]
    assert value["until"] is None


def test_a_mailbox_says_itself_whose_it_is(vmctl: Commands) -> None:
    """An extension that vmctl.yaml does not list belongs to the service that its mailbox names, and follows it."""
    vmctl("mailbox", "create", "4001", "--name", "Ada", "--service", "secondary")
    assert "secondary\n" == vmctl("route", "4001").stdout
    vmctl("mailbox", "set", "4001", "--service", "primary")
    assert "primary\n" == vmctl("route", "4001").stdout
    vmctl("mailbox", "delete", "4001", "--yes")
    assert "4001" in vmctl("route", "4001", code=NotFound.exit_code).stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("9999", NotFound.exit_code),
        ("../x", BadName.exit_code),
        ("--trunk nowhere", NotFound.exit_code),
        ("--expansion nowhere", NotFound.exit_code),
        ("--application nowhere", NotFound.exit_code),
        ("--service nowhere", NoSuchService.exit_code),
        ("", USAGE),
        ("2001 --trunk pstn", USAGE),
        ("--all --service primary", USAGE),
    ],
)
def test_what_nobody_has_is_no_name(vmctl: Commands, words: str, code: int) -> None:
    """An unknown extension, trunk or service, and a question that is none, print nothing on stdout."""
    assert "" == vmctl("route", *words.split(), code=code).stdout


def test_nobody_serves(vmctl: Commands) -> None:
    """While a server starts nobody serves its service: code 54, no name, and in words and JSON what is awaited."""
    with replica(vmctl) as here, replica(vmctl, "secondary") as there:
        for each in (there, here):
            Failover(each).start()
            Failover(each).tick()
    done = vmctl("route", "2001", "--json", code=NobodyServes.exit_code)
    value = json.loads(done.stderr.partition("\n{")[1] + done.stderr.partition("\n{")[2])
    assert ("", "NobodyServes", "primary") == (done.stdout, value["error"], value["service"])
    assert any("answer from" in words for words in value["waiting_for"])
    words = vmctl("route", "2001", code=NobodyServes.exit_code).stderr
    assert value["waiting_for"][0] in words
    assert "nobody" in vmctl("route", "--all").stdout


def test_a_network_that_was_never_served(tmp_path: Path) -> None:
    """Right after `vmctl init` nobody serves, and that is no bug."""
    network.make(tmp_path / "net")
    done = Commands(tmp_path / "net")("route", "--service", "voicemail", code=NobodyServes.exit_code)
    assert "nobody serves" in done.stderr


def test_all_of_them(vmctl: Commands) -> None:
    """--all has a line for each service with what belongs to it; its JSON has every member."""
    text = vmctl("route", "--all").stdout
    assert "3001, 3002" in text
    one, other = vmctl.json("route", "--all")
    assert (["2001"], ["pstn"], [], []) == tuple(
        one[part] for part in ("extensions", "trunks", "expansions", "applications")
    )
    assert ("secondary", "secondary", ["annex"]) == (other["service"], other["serving"], other["expansions"])


def test_with_an_arbiter_only_a_permit_counts(tmp_path: Path, no_fsync: None) -> None:
    """By its journal the primary serves; it is told of only while the note of its permit says so, in this boot."""
    settings = {"arbiter.endpoints": ["http://127.0.0.1:9"], "scan.settle": "10ms"}
    network.make(tmp_path / "net", settings=settings)
    vmctl, clock = Commands(tmp_path / "net"), Clock()
    with replica(vmctl) as here:
        Failover(here).start()
        assert here.journal.views({"voicemail": "primary"})["voicemail"].state == "starting"
    _serve(vmctl)
    words = vmctl("route", "--service", "voicemail", code=NobodyServes.exit_code).stderr
    assert "the arbiter's word that primary may serve" in words
    with replica(vmctl) as here, here.index.transaction():
        until = {"until": clock.steady() + 600, "boot": clock.boot()}
        here.index.set_note("permits", {"voicemail": until})
    value = vmctl.json("route", "--service", "voicemail")
    assert ("primary", until["until"]) == (value["serving"], value["until"]["steady"])
    with replica(vmctl) as here, here.index.transaction():
        here.index.set_note("permits", {"voicemail": until | {"boot": "another"}})
    vmctl("route", "--service", "voicemail", code=NobodyServes.exit_code)


def _serve(vmctl: Commands) -> None:
    """The primary takes its service, as a person orders while the other server is away."""
    with replica(vmctl) as here:
        view = Failover(here).views()["voicemail"]
        after = view.__class__(
            view.service, view.home, "primary", "normal", view.epoch.__class__(1, "primary"), 1, "start"
        )
        here.journal.append(
            "transition", at=here.clock.wall(), server="primary", service=view.service, reason="a test", by="vmctl",
            evidence={}, **{"from": view.as_json(), "to": after.as_json()},
        )  # fmt: skip


def damage(journal: Path) -> None:
    """Somebody edited the journal."""
    journal.write_text(journal.read_text().replace('"normal"', '"resilience"'))


def test_of_two_journals_one_is_enough(vmctl: Commands) -> None:
    """Where one journal of this host is damaged the other one answers."""
    damage(vmctl.store / ".vmctl/journal.jsonl")
    assert "secondary\n" == vmctl("route", "3001").stdout


def test_a_damaged_journal_is_an_error_and_no_answer(tmp_path: Path, no_fsync: None) -> None:
    """Where no other store and no mail tells who serves, the command fails with the damage, and prints no name."""
    network.make(tmp_path / "net")
    vmctl = Commands(tmp_path / "net")
    _serve(vmctl)
    words = ("route", "--service", "voicemail", "--server", "primary")
    assert "primary\n" == vmctl(*words).stdout
    damage(vmctl.store / ".vmctl/journal.jsonl")
    assert "" == vmctl(*words, code=JournalBroken.exit_code).stdout


def test_a_store_that_is_not_mounted(vmctl: Commands) -> None:
    """The other store of this host answers; without any it fails, and says that it is missing."""
    for name in ("secondary", "primary"):
        (vmctl.directory / name / ".vmctl/identity.json").rename(vmctl.directory / f"{name}.away")
        if name == "secondary":
            assert "secondary\n" == vmctl("route", "3001").stdout
    vmctl("route", "3001", code=StoreMissing.exit_code)


# Of a file


@pytest.fixture
def file(vmctl: Commands) -> Path:
    """The routes.json that the round of the fixture left."""
    return vmctl.store / ".vmctl/routes.json"


@pytest.mark.parametrize(
    ("words", "server"),
    [("2001", "primary"), ("3001", "secondary"), ("7777", "primary"), ("--trunk mobile", "secondary")],
)
def test_a_file_answers_alike(vmctl: Commands, file: Path, words: str, server: str) -> None:
    """--file needs neither a store nor a config, and gives what the file says; what it does not list is the default's."""
    words_ = ("route", "--file", str(file), *words.split(), "--config", "/nowhere")
    assert f"{server}\n" == vmctl(*words_).stdout
    assert server == vmctl.json(*words_)["serving"]


def test_a_file_that_counts_no_more_is_nobody(vmctl: Commands, file: Path) -> None:
    """An expired file names no server, whatever stands in it."""
    value: dict[str, Any] = json.loads(file.read_bytes())
    value["valid_until"] = {"boot": Clock().boot(), "steady": Clock().steady() - 1, "wall": "2026-01-31T08:15:00.000Z"}
    file.write_text(json.dumps(value))
    done = vmctl("route", "2001", "--file", str(file), code=NobodyServes.exit_code)
    assert ("", True) == (done.stdout, "2026-01-31T08:15:00.000Z" in done.stderr)
    assert "nobody" in vmctl("route", "--all", "--file", str(file)).stdout


def test_a_file_that_is_not_there(vmctl: Commands, tmp_path: Path) -> None:
    """A wrong path is an error and no answer."""
    vmctl("route", "2001", "--file", str(tmp_path / "none.json"), code=NotFound.exit_code)


# With daemons


def test_the_answer_follows_the_role(tmp_path: Path) -> None:
    """Two daemons: the command and both files name the primary; it is killed, and both say secondary; after its return primary."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")

    def told(server: str) -> Any:
        path = net.path(server, ".vmctl/routes.json")
        return json.loads(path.read_bytes())["services"]["voicemail"]["serving"] if path.exists() else None

    with net.daemon("secondary"):
        with net.daemon("primary") as primary:
            until(lambda: (told("primary"), told("secondary")) == ("primary", "primary"), what="the files")
            assert ("primary\n", "") == ((done := net.run("route", "2001")).stdout, done.stderr)
            primary.kill()
        until(lambda: told("secondary") == "secondary", what="the failover in the file")
        assert "secondary" == net.do("route", "2001").strip()
        net.leave("secondary", "2001", wav(tmp_path / "a.wav"))
        with net.daemon("primary"):
            until(
                lambda: (told("primary"), told("secondary")) == ("primary", "primary"), what="the failback in the files"
            )
            assert "primary" == net.do("route", "2001").strip()
    assert "nothing runs" in net.run("route", "2001").stderr


def test_a_daemon_that_starts_says_nobody_first(tmp_path: Path) -> None:
    """The file of a server that is started again names nobody until it has asked, though it served before."""
    net = Net.make(tmp_path / "net", failover__start_wait="2400ms")
    path = net.path("primary", ".vmctl/routes.json")

    def told() -> Any:
        return json.loads(path.read_bytes())["services"]["voicemail"]["serving"] if path.exists() else "no file"

    with net.daemon("primary"):
        until(lambda: told() == "primary", what="its service")
    assert "primary" == told()
    with net.daemon("primary"):
        until(lambda: told() is None, what="a start")
        until(lambda: told() == "primary", what="its service again")
