"""The frame of the command line: shared options, errors and their exit codes, streams, what is imported."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from vmctl import __version__, network
from vmctl.cli import output
from vmctl.cli.app import COMMANDS, app
from vmctl.cli.session import Session
from vmctl.errors import BadName, CallflowFaults, ConfigMissing, NotEmpty, OutputClosed, ServerUnclear, StoreMissing

USAGE = 2
# What `vmctl status` and `vmctl route` may bring in from outside; everything else costs more time than it takes.
ALLOWED = {"typer", "annotated_doc", "shellingham", "yaml", "_yaml", "cython_runtime"}


@pytest.fixture
def net(tmp_path):
    """The directory of a network with both servers here."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    return tmp_path / "net"


def environment(**more):
    """The environment of a command that no variable of the tester's points elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VMCTL_")}
    return kept | {"PYTHONPATH": str(Path(network.__file__).parent.parent)} | more


def vmctl(*words, cwd, **more):
    """Run a command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vmctl", *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def invoke(*words, **env):
    """Run a command in this process."""
    return CliRunner(env={"VMCTL_SERVER": None, "VMCTL_CONFIG": None, **env}).invoke(app, words)


def test_every_command_has_a_home_and_help():
    """Each command of the table can be imported, and the help of each, and of each below it, has an example."""
    root = get_command(app)
    for name in (name for part in COMMANDS.values() for name in part):
        command = root.commands[name]
        for each in getattr(command, "commands", {name: command}).values():
            text = each.get_help(typer.Context(each, info_name=each.name))
            assert "Example: vmctl " in text, f"{name} {each.name}"
            assert all(option in text for option in ("--config", "--server", "--json")), f"{name} {each.name}"


def test_help_lists_groups_without_importing_commands(tmp_path):
    """`vmctl --help` shows every command under its title, and `vmctl` alone does so as a usage error."""
    shown = invoke("--help")
    assert shown.exit_code == 0
    for title, part in COMMANDS.items():
        assert f"{title}:" in shown.stdout
        assert all(command.line in shown.stdout for command in part.values())
    assert invoke().exit_code == USAGE
    code = "import sys; from vmctl.cli.app import run; run(['--help']); print([m for m in sys.modules if 'cli.' in m])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert ["vmctl.cli.app", "vmctl.cli.output", "vmctl.cli.session"] == sorted(eval(done.stdout.splitlines()[-1]))


def test_version():
    """`vmctl --version` tells the version and does nothing else."""
    assert f"vmctl {__version__}\n" == invoke("--version").stdout


def test_a_mistyped_command_gets_a_suggestion():
    """A word near a command's name is answered with that name, exit 2."""
    result = invoke("mesage")
    assert result.exit_code == USAGE
    assert "'message'" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "--server", "primary", "--config", "{}", "mailbox", "list"),
        ("mailbox", "--json", "--server", "primary", "--config", "{}", "list"),
        ("mailbox", "list", "--json", "--server", "primary", "--config", "{}"),
        ("--config", "{}", "mailbox", "--server=primary", "list", "--json"),
        (
            "--config",
            "/nowhere",
            "--server",
            "secondary",
            "mailbox",
            "list",
            "--json",
            "--server=primary",
            "--config={}",
        ),
    ],
)
def test_shared_options_stand_anywhere(net, words):
    """--config, --server and --json count before, between and after the words of a command; the last one wins."""
    made = invoke("mailbox", "create", "2001", "--name", "Ada", "--server", "primary", "--config", str(net))
    assert made.exit_code == 0, made.stderr
    result = invoke(*(word.format(net) for word in words))
    assert result.exit_code == 0, result.stderr
    assert ["2001"] == [each["extension"] for each in json.loads(result.stdout)]


def test_variables_stand_in_for_options(net):
    """VMCTL_CONFIG and VMCTL_SERVER are used where an option is not given; an option wins."""
    result = invoke("mailbox", "list", "--json", VMCTL_CONFIG=str(net), VMCTL_SERVER="secondary")
    assert (0, "[]\n") == (result.exit_code, result.stdout)
    result = invoke("mailbox", "list", "--server", "primary", VMCTL_CONFIG=str(net), VMCTL_SERVER="third")
    assert result.exit_code == 0
    result = invoke("mailbox", "list", VMCTL_CONFIG=str(net), VMCTL_SERVER="third")
    assert result.exit_code == USAGE
    assert "VMCTL_SERVER" in result.stderr


def test_an_unknown_server_is_a_usage_error(net):
    """--server takes the two names that there are."""
    assert invoke("mailbox", "list", "--server", "third", "--config", str(net)).exit_code == USAGE


def test_a_value_that_is_none_of_the_choices_is_told_plainly(net):
    """The value and the choices, and no word of the package that compares them."""
    result = CliRunner(env={"VMCTL_CONFIG": str(net)}).invoke(app, ["mode", "set", "triple"])
    assert result.exit_code == USAGE
    assert "'MODE': 'triple' is not one of 'active-standby', 'dual-active'" in result.output


def test_two_stores_and_no_server(net):
    """With two stores here the command asks which is meant, and names the choice."""
    result = invoke("mailbox", "list", "--config", str(net))
    assert ServerUnclear.exit_code == result.exit_code
    assert "--server primary" in result.stderr
    assert result.stdout == ""


def test_one_store_needs_no_server(net):
    """With one store here its owner is meant; naming the other is refused, and nothing is made for it."""
    text = (net / "vmctl.yaml").read_text()
    lines = [line for line in text.splitlines() if line.strip() not in {"store: secondary", "key: keys/secondary.pem"}]
    (net / "vmctl.yaml").write_text("\n".join(lines) + "\n")
    session = Session(config_path=net)
    assert session.server == "primary"
    result = invoke("mailbox", "list", "--server", "secondary", "--config", str(net))
    assert StoreMissing.exit_code == result.exit_code
    assert "--server primary" in result.stderr


def test_a_store_without_identity_is_missing(net):
    """A reading command refuses a directory that is no store, as an unmounted one would be."""
    (net / "primary" / ".vmctl" / "identity.json").unlink()
    result = invoke("mailbox", "list", "--server", "primary", "--config", str(net))
    assert StoreMissing.exit_code == result.exit_code


def test_reading_needs_no_index(net):
    """A reading command makes no index."""
    assert invoke("mailbox", "list", "--server", "primary", "--config", str(net)).exit_code == 0
    assert not (net / "primary" / ".vmctl" / "index.db").exists()


@pytest.mark.parametrize("words", [("--json", "mailbox", "list"), ("mailbox", "list", "--json")])
def test_errors_as_json(tmp_path, words):
    """Under --json an error is one JSON object on stderr, and stdout stays empty."""
    result = invoke(*words, "--config", str(tmp_path / "none"))
    value = json.loads(result.stderr)
    assert ConfigMissing.exit_code == result.exit_code == value["exit_code"]
    assert "ConfigMissing" == value["error"]
    assert result.stdout == ""


def test_errors_in_words(capsys):
    """An error is told as what, why and what to type, each in a line of its own."""
    output.tell(BadName("'/' is no name", why="it is a slash", hint="choose another"), as_json=False)
    assert "vmctl: '/' is no name\n  why: it is a slash\n  try: choose another\n" == capsys.readouterr().err


def test_faults_are_listed(capsys):
    """An error with faults lists each with its key and its mend."""
    faults = [{"key": "a.b", "why": "it is odd", "mend": "make it even"}, {"key": "", "why": "no", "mend": ""}]
    output.tell(CallflowFaults("main has 2 faults", faults, why="both", hint="mend"), as_json=False)
    expected = "vmctl: main has 2 faults\n  a.b: it is odd (make it even)\n  no\n  try: mend\n"
    assert expected == capsys.readouterr().err


@pytest.fixture
def broken(monkeypatch):
    """A command that raises what it is told to."""

    def breaking(error):
        def list_(*_):
            raise error

        monkeypatch.setattr(Session, "store", property(list_))
        return invoke("mailbox", "list", "--server", "primary")

    return breaking


def test_a_bug_is_one_line(broken):
    """What nobody expected is told as a bug in a line, without a traceback, exit 1."""
    result = broken(KeyError("x"))
    assert result.exit_code == 1
    assert result.stderr.startswith("vmctl: this is a bug: KeyError: 'x'\n")
    assert "Traceback" not in result.stderr


def test_a_bug_with_its_traceback(broken, monkeypatch):
    """VMCTL_DEBUG=1 shows where a bug is."""
    monkeypatch.setenv("VMCTL_DEBUG", "1")
    assert "Traceback" in broken(KeyError("x")).stderr


def test_an_interrupt(broken):
    """Ctrl-C ends a command with 130."""
    assert broken(KeyboardInterrupt()).exit_code == 130


@pytest.mark.parametrize("words", [("init", "other"), ("--json", "init", "other")])
def test_closed_output_is_refused_before_anything_is_done(tmp_path, words):
    """With a closed stdout nothing is made, and stderr says why."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m vmctl "$@" >&-', sys.executable, *words],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert OutputClosed.exit_code == done.returncode
    assert list(tmp_path.iterdir()) == []
    assert ("--json" in words) == done.stderr.startswith("{")
    assert "standard output is closed" in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("init", "net"), ("init", "--help")])
def test_a_reader_that_left_is_no_error_to_shout_about(tmp_path, words):
    """A pipe whose reader left ends the command quietly with the code of a closed output."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "vmctl", *words],
            cwd=tmp_path,
            env=environment(),
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (OutputClosed.exit_code, b"") == (done.returncode, done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_output_is_told(tmp_path):
    """What cannot be written to stdout is an error, not a success."""
    with Path("/dev/full").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "vmctl", "init", "net"], cwd=tmp_path, env=environment(), stdout=out,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert OutputClosed.exit_code == done.returncode
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"), [(["status", "--json"], "0"), (["route", "--all"], "0"), (["route", "2001"], "30")]
)
def test_what_is_asked_often_imports_little(net, words, expected):
    """`status` and `route` load neither a mail, a key nor a delta library, nor Rich, nor what Typer checks values with."""
    code = (
        f"import sys; before = set(sys.modules); from vmctl.cli.app import run; code = run({words});"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(code, *sorted(names - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=net, env=environment(), capture_output=True, text=True, check=True
    )
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == expected
    assert {"vmctl"} == {name for name in loaded if not name.startswith("_cython")} - ALLOWED


def test_files_are_private(tmp_path):
    """What a command makes is for its user only, whatever the umask."""
    done = vmctl("init", "net", cwd=tmp_path, umask=0o000)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "net", tmp_path / "net/primary", tmp_path / "net/keys/primary.pem"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_init(tmp_path):
    """`vmctl init` makes a network that loads, and tells what was made and what to type next."""
    result = invoke(
        "init", str(tmp_path / "net"), "--network", "n1", "--mode", "dual-active", "--primary", "[::1]:4000"
    )
    assert result.exit_code == 0, result.stderr
    assert "vmctl sync" in result.stdout
    config = Session(config_path=tmp_path / "net").config
    assert ("n1", "dual-active", "[::1]:4000") == (config.network, config.mode, str(config.servers["primary"].address))


def test_init_as_json(tmp_path):
    """Its JSON names the network, the mode, the directory and both servers, and no private key."""
    result = invoke("init", str(tmp_path / "net"), "--json")
    value = json.loads(result.stdout)
    assert ["network", "mode", "directory", "servers"] == list(value)
    assert str(tmp_path / "net") == value["directory"]
    assert ["primary", "secondary"] == list(value["servers"])
    assert "PRIVATE" not in result.stdout


def test_init_refuses(tmp_path):
    """A directory with something in it is left alone; an address that is none is a usage error."""
    (tmp_path / "mine").write_text("x")
    assert NotEmpty.exit_code == invoke("init", str(tmp_path)).exit_code
    assert [tmp_path / "mine"] == list(tmp_path.iterdir())
    assert invoke("init", str(tmp_path / "net"), "--primary", "nonsense").exit_code == USAGE
    assert not (tmp_path / "net").exists()


def test_tables_align():
    """Numbers stand to the right, None is a dash, no rows are no text."""
    assert "name   n\na     10\nbb     -\ncc     1" == output.table([("a", 10), ("bb", None), ("cc", 1)], ("name", "n"))
    assert output.table([], ("name",)) == ""


@pytest.mark.parametrize("module", sorted({command.module for part in COMMANDS.values() for command in part.values()}))
def test_typer_has_one_door(module):
    """No module of commands imports click, which Typer carries inside it."""
    source = Path(importlib.import_module(f"vmctl.cli.{module}").__file__).read_text()
    assert "click" not in source
