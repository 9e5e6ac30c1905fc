"""The docs are a test subject: what they take from the code is as the code has it, and nothing is left out."""

from __future__ import annotations

import functools
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import FIXTURES
from typer.testing import CliRunner
from wire import Wire

from vmctl import keys, lamps, network, routes_file, view
from vmctl.cli.app import COMMANDS, app
from vmctl.clock import Clock
from vmctl.failover import Failover
from vmctl.lamp_list import Count
from vmctl.mail import SyncMail, parse
from vmctl.routing import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@functools.cache
def generate() -> dict[str, Any]:
    """What docs/generate.py defines."""
    return runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="generate")


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / name).read_text()


def test_generated_pages_are_up_to_date() -> None:
    """Commands, exit codes, config keys, the role table and the mail in docs/ are as the code has them (`make docs`)."""
    for name, text in generate()["pages"]().items():
        assert (ROOT / "docs" / name).read_text() == text, f"{name} is stale: run 'make docs'"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a page names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_room_has_its_place_in_the_flow() -> None:
    """docs/flow.md names each module of the package, so that a stranger finds any line's room."""
    text = (ROOT / "docs" / "flow.md").read_text()
    rooms = {path.stem for path in (ROOT / "vmctl").glob("*.py")} - {"__init__", "__main__"}
    assert {room for room in rooms if f"`{room}`" not in text} == set()


def test_commands_in_the_docs_exist() -> None:
    """Every `vmctl ...` that a page shows is a command there is."""
    known = {name for part in COMMANDS.values() for name in part}
    for path in PAGES:
        if path.name == "limits.md":  # tells what is not there yet
            continue
        text = path.read_text()
        shown = re.findall(r"(?:`|\$ |'|&& )vmctl ([a-z]+)", text)
        shown += re.findall(r"(?<=\n)vmctl ([a-z]+)(?= (?:-|[A-Z&]|[a-z]+ (?:\d|-)))", text)
        assert set(shown) - known == set(), path.name


# The sync mail


def shown_mail() -> bytes:
    """The mail of docs/sync-mail.md, with the line ends that it has on the wire."""
    found = re.findall(r"```eml\n(.*?)```", page("sync-mail.md"), re.DOTALL)
    assert len(found) == 1
    return str(found[0]).replace("\n", "\r\n").encode("ascii")


def parsed(raw: bytes, public: str, name: str) -> SyncMail:
    """A mail of a primary to its secondary."""
    return parse(raw, network=name, me="secondary", peer="primary", verify=functools.partial(keys.verify, public))


@pytest.fixture
def example(tmp_path: Path, no_fsync: None) -> Iterator[Wire]:
    """Two servers of a network of which the mail on the page might be."""
    made = Wire(tmp_path / "example", {"servers.primary.public_key": generate()["example_key"]()[0]})
    yield made
    made.close()


def test_the_mail_on_the_page_is_one(example: Wire) -> None:
    """The page's mail parses, and a secondary of such a network takes it: the message and its recording are there."""
    mail = parsed(shown_mail(), example.config.servers["primary"].public_key, "example")
    assert generate()["example"]()[0] == mail
    example.b.receive(shown_mail())
    intake = example.b.take()
    brought = [record["key"] for record in mail.records]
    assert [brought] == [taken.changed for taken in intake.taken]
    assert sorted(brought) == sorted(intake.applied.written)
    ident = brought[-1].rpartition("/")[2]
    assert [ident] == example.b.store.names("message", "2001")
    sound = example.root("secondary") / example.b.store.audio_path(brought[-1], "wav")
    assert mail.audio[0].data == sound.read_bytes()
    assert {(record["key"], record["version"]) for record in mail.records} <= {
        ack[:2] for ack in example.b.index.replies.acks()
    }


def test_the_page_says_what_is_sent(wire: Wire) -> None:
    """The page's mail has the members that a server sends, neither more nor fewer, and the page has a word on each."""
    wire.desk().create_mailbox("2001", {"name": "Ada Byron"})
    Failover(wire.a).start()
    raw = wire.send("primary", always=True)[0]
    sent = parsed(raw, wire.config.servers["primary"].public_key, wire.config.network)
    mail = generate()["example"]()[0]
    assert sent.status.keys() | Failover(wire.a).facts().keys() == mail.status.keys()
    assert sent.records[0].keys() == mail.records[0].keys()
    assert (sent.checkpoint or {}).keys() == mail.checkpoint.keys()
    tables, _, _ = page("sync-mail.md").partition("## A whole mail")
    before = view.fresh_view("voicemail", "primary").as_json()
    made = (mail.status, mail.records[0], mail.checkpoint, mail.status["wants"], mail.status["moves"][0], before)
    for name in sorted({name for value in made for name in value}):
        assert re.search(rf"[`\"]{name}[`\"]", tables), f"docs/sync-mail.md does not tell of {name}"


# Programs on the pages


def program(name: str) -> str:
    """The one Python program of a page."""
    found = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_reader_of_routes_on_the_page(tmp_path: Path) -> None:
    """The page's example file is read by the page's reader: a name while it counts, nobody when it is over or of another boot."""
    text = re.findall(r"```json\n(\{\n \"v\".*?)```", page("routing.md"), re.DOTALL)[0]
    value, clock, path = json.loads(text), Clock(), tmp_path / "routes.json"
    (tmp_path / "reader.py").write_text(program("routing.md"))

    def read(extension: str, seconds: float, boot: str) -> tuple[int, str]:
        end = {"boot": boot, "steady": clock.steady() + seconds, "wall": "2026-01-31T08:16:00.000Z"}
        path.write_text(json.dumps(value | {"valid_until": end}))
        words = [sys.executable, "-W", "ignore", "reader.py", str(path), extension]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        answers = routes_file.answers_of(path, routes_file.read(path), Moment(clock.steady(), clock.boot()))
        server = answers[value["extensions"].get(extension, value["default"])].server
        assert (done.stdout.strip() or None) == server, done.stderr
        return done.returncode, done.stdout

    assert (0, "primary\n") == read("2001", 600, clock.boot())
    assert (1, "") == read("3001", 600, clock.boot())
    assert (1, "") == read("2001", -1, clock.boot())
    assert (1, "") == read("2001", 600, "another")


def test_the_program_for_lamps_on_the_page(tmp_path: Path) -> None:
    """The page's example line, given to the page's program, lights the lamp of its mailbox; its body is the one of its counts."""
    line = re.findall(r"```json\n(\{\"mailbox\".*?)\n```", page("lamps.md"))[0]
    words = [sys.executable, "-c", program("lamps.md")]
    subprocess.run(words, cwd=tmp_path, input=f"{line}\n", text=True, check=True)
    assert "on" == (tmp_path / "lamps/2001").read_text()
    value = json.loads(line)
    count = Count(*(value[name] for name in Count._fields))
    assert lamps.body("2001@primary.office.example", count) == value["body"]


# What the commands print


def test_every_cause_is_told() -> None:
    """docs/status.md has each word that a service's `cause` may be."""
    causes = {
        view.START, view.SILENCE, view.ORDER, view.FORCED, view.RETURN, view.FAILBACK, view.GATE, view.TIMEOUT,
        view.UNWELL, view.LEASE, view.MODE,
    }  # fmt: skip
    table = page("status.md").partition("| `cause` |")[2].partition("\n\n")[0]
    assert causes == set(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE))


def test_every_name_in_the_json_is_told(tmp_path: Path) -> None:
    """Each name that a command prints under --json stands on docs/status.md, under the heading or row of the command."""
    made = network.make(tmp_path / "net", settings={"scan.settle": "50ms"})
    sound = str(next(iter(sorted((FIXTURES / "audio").glob("*.wav")))))
    missing = []
    for words in (
        "mailbox create 2001 --name Ada", "mailbox set 2001 --email a@b.example", f"message leave 2001 --audio {sound}",
        f"greeting set 2001 busy --audio {sound}", f"prompt set hello --audio {sound}", "settings set a.b=1",
        "diff", "sync", "verify", "route 2001", "route --all", "journal --last 1", "journal --verify", "status",
        "mailbox list", "mailbox show 2001", "message list 2001", "greeting list 2001", "prompt list", "callflow list",
        "settings show", "conflicts list", "conflicts take --all", "conflicts drop --all", "history list --all",
        "history list mailbox/2001", "history show settings 1", "history diff mailbox/2001",
        "history restore mailbox/2001 1", "mailbox delete 2001 --yes",
    ):  # fmt: skip
        here = () if words in {"sync", "verify", "diff", "status"} else ("--server", "primary")
        done = CliRunner().invoke(app, [*words.split(), *here, "--json", "--config", str(made.path)])
        assert 0 == done.exit_code, f"{words}: {done.exception!r}"
        told = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`[^`]+`", _part(words)))))
        missing += [f"{words}: {name}" for name in _names(json.loads(done.stdout)) if name not in told]
    assert [] == missing


def _part(words: str) -> str:
    """What docs/status.md says of a command: its section, or its row with the lines below the table."""
    text = page("status.md")
    section = re.search(
        rf"^## [^\n]*`vmctl {words.split(maxsplit=1)[0]} .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    if section:
        return section[0]
    noun, verb = words.split()[:2]
    rows = [line for line in text.splitlines() if line.startswith("|") and f"{noun} " in line and f"{verb}`" in line]
    assert rows, f"docs/status.md does not tell of 'vmctl {noun} {verb}'"
    below = [line for line in text.splitlines() if line.startswith(("`audio`", "| `vmctl message show`"))]
    fields = page("store.md").partition("## mailbox.yaml")[2].partition("## ")[0] if noun == "mailbox" else ""
    return "\n".join([*rows, *below, fields])


def _names(value: Any) -> set[str]:
    """The names in a JSON value, but those of servers, settings and services."""
    if isinstance(value, list):
        return {name for part in value for name in _names(part)}
    if not isinstance(value, dict):
        return set()
    named = {name for name in value if name not in {"primary", "secondary", "voicemail"} and "." not in name}
    return named.union(*map(_names, value.values()))
