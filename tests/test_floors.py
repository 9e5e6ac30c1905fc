"""The floors of the house: every import runs downward, and each foreign package enters by its own door.

A new module fails here until it has a place in FLOORS: put it on the lowest floor that is above all that it imports and
that its noun fits. What is imported for types only (under TYPE_CHECKING) does not count, except at the doors.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import vmctl

ROOT = Path(vmctl.__file__).parent

# From the ground up. A module may import what stands on lower lines only, never its neighbours.
FLOORS = (
    "vmctl cli store",  # the packages themselves, empty but for a version
    # the ground: what went wrong, what time it is
    "errors clock",
    "beneath",
    "rights",
    "names lines pace durable volumes database certificates sealing backoff bell program reach supervisor ranges refusals rare checkpoints lamp_list seen letters",
    # values and what opens them, each knowing the ground only
    "replies fault_list model view together arbiter leases pin audio identity spool contact faults trouble schedule ways mail_parts yamltext keys watch deferrals probes",
    # what is computed from values, and where they are kept
    "merge delta fields callflow evidence routing chain entry config_values mail_json mail_words store.pool sender conversation link tombstones clocks permits moves gate",
    "receiver history housekeeping shelf looks tampering journal_words waiting orders notice hooks webhooks",
    "journal roles index config_keys config_parts mail_content store.documents store.format",
    "mail_sealed reports strays agreement recap telling config_checks config_text mail store.native edits doubt graves",
    "failover",
    # the way of the data: scan, ship, take in, apply
    "config at_work gone leaving placing proof recordings removing replacing setback findings",
    "absence overruled door config_edit",
    "scan recovery",
    "apply parked sweep",
    "asking packing rollback",
    "writing",
    "outbox",
    "answers",
    "network inbox",
    "rejoin",
    "replica knowledge routes_file",
    # one server at work: what commands do, what it tells
    "access carriage carrier",
    "desk status post purge reindex lamps lookout",
    "undo desk_mailboxes enrol",
    # both servers
    "end",
    "apart",
    "round daemon demo",
    "inquiry join overwrite demo_standby demo_dual",
    # the command line: its frame, then the commands
    "cli.output",
    "cli.session",
    "cli.acting cli.recordings cli.changes cli.overwriting",
    "cli.app",
    "cli.agreeing cli.ordering cli.callflows cli.conflicts cli.demo cli.greetings cli.history cli.housekeeping cli.joining cli.journal cli.keys cli.messages cli.network cli.parked cli.prompts cli.receiving cli.roles cli.routes cli.settings cli.sync",
    "cli.mailboxes",
    "__main__",
)
# Each foreign package, and the parts of the standard library that are a border of their own, with the rooms that may
# import them. "cli" stands for all rooms of the command line.
DOORS = {
    "typer": {"cli"},
    "rich": {"cli"},
    "yaml": {"yamltext"},
    "deepdiff": {"delta"},
    "watchdog": {"watch"},
    "aiosmtpd": {"conversation"},
    "cryptography": {"keys", "certificates", "sealing"},
    "sqlite3": {"database"},
    "smtplib": {"sender"},
    "subprocess": {"program", "demo"},
    "etcd3gw": {"arbiter"},
    "urllib": {"webhooks", "arbiter"},
}
# Never: these run what they read, or were taken out of the standard library.
BARRED = {
    "pickle",
    "pickletools",
    "marshal",
    "shelve",
    "dbm",
    "code",
    "codeop",
    "pty",
    "runpy",
    "tarfile",
    "zipfile",
    "xml",
    "crypt",
    "random",
    "commands",
    "dill",
    "joblib",
    "asyncore",
    "asynchat",
    "smtpd",
    "telnetlib",
    "cgi",
    "imp",
    "click",
}


CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.fork", "os.forkpty", "tempfile.mktemp",
    "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all",
    "subprocess.getoutput", "subprocess.getstatusoutput", "hashlib.md5", "hashlib.sha1", "hashlib.new",
}  # fmt: skip
# One of these, in no more than the rooms that have it: what calls into C, or takes a directory tree away.
RARE = {
    "ctypes": {"apart", "beneath", "durable"},
    "shutil": {"network", "session", "demo", "cli"},
    "tempfile": {"demo"},
    "importlib": {"cli.app"},
}


class Import(NamedTuple):
    """One import: what is imported, on which line, and whether for types only."""

    name: str
    line: int
    types_only: bool


def name_of(path):
    """The short name of a module: without `vmctl.`, a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "vmctl"


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
FLOOR = {module: number for number, line in enumerate(FLOORS) for module in line.split()}


def imports(tree):
    """The imports of a module, in whatever function they stand; `from vmctl import x` imports the room x."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            rooms = [f"{base}.{alias.name}" for alias in node.names]
            names = [room if room.removeprefix("vmctl.") in FILES else base for room in rooms]
        else:
            continue
        found += [Import(name, node.lineno, id(node) in for_types) for name in names]
    return found


TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in FILES.items()}
IMPORTS = {module: imports(tree) for module, tree in TREES.items()}


def ours(module):
    """The rooms that a module imports, for more than types."""
    names = [one for one in IMPORTS[module] if one.name.partition(".")[0] == "vmctl" and not one.types_only]
    return [(one.name.removeprefix("vmctl."), one.line) for one in names]


def test_every_module_has_one_place():
    """Each module of the package stands on one floor, and the table names nothing that is not there."""
    placed = [module for line in FLOORS for module in line.split()]
    assert sorted(set(placed)) == sorted(placed), "a module stands on two floors"
    assert sorted(FILES.keys() - set(placed)) == [], "give these a place in FLOORS"
    assert sorted(set(placed) - FILES.keys()) == [], "take these out of FLOORS"


@pytest.mark.parametrize("module", FILES)
def test_imports_run_downward(module):
    """What a module imports stands strictly lower, also what it imports inside a function: so there is no cycle."""
    for name, line in ours(module):
        assert name in FLOOR, f"{module}, line {line}: there is no room {name}"
        assert FLOOR[name] < FLOOR[module], f"{module}, line {line}: {name} is not below it"


@pytest.mark.parametrize("module", FILES)
def test_imports_are_written_out(module):
    """No relative imports, no stars: a line tells where a name comes from."""
    relative = [one for one in IMPORTS[module] if one.name.startswith(".")]
    assert relative == []
    stars = [
        node.lineno
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    assert stars == []


@pytest.mark.parametrize("module", FILES)
def test_foreign_packages_enter_by_their_doors(module):
    """Whatever is neither ours nor of the standard library has a door, and is imported nowhere else."""
    for name, line, _ in IMPORTS[module]:
        package = name.partition(".")[0]
        if package == "vmctl" or (package in sys.stdlib_module_names and package not in DOORS):
            continue
        assert package in DOORS, f"{module}, line {line}: {package} has no door"
        assert {module, module.partition(".")[0]} & DOORS[package], f"{module}, line {line}: not the door of {package}"


def test_every_door_is_used():
    """A package that nobody imports any more is taken out of DOORS, and out of the dependencies."""
    used = {one.name.partition(".")[0] for found in IMPORTS.values() for one in found}
    assert sorted(DOORS.keys() - used) == []


@pytest.mark.parametrize("module", FILES)
def test_nothing_that_runs_what_it_reads_is_used(module):
    """No pickle and the like, no eval and exec, no shell."""
    assert sorted(one.name for one in IMPORTS[module] if one.name.partition(".")[0] in BARRED) == []
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if (called, module) == ("os.fork", "apart"):
                continue  # where no thread is
            assert called not in CALLS, f"line {node.lineno}: {called}"
            assert not called.startswith(("os.exec", "os.spawn", "os.posix_spawn")), node.lineno
            if called in {"yaml.load", "yaml.load_all"}:
                loaders = [ast.unparse(each) for each in (*node.args[1:], *(key.value for key in node.keywords))]
                assert loaders, node.lineno
                assert not any("Unsafe" in each or "Full" in each for each in loaders), node.lineno
            shells = [key for key in node.keywords if key.arg == "shell" and ast.unparse(key.value) != "False"]
            assert shells == [], node.lineno


@pytest.mark.parametrize("module", FILES)
def test_what_is_rarely_needed_is_used_where_it_is_known(module):
    """ctypes, temporary files and the removal of trees have their rooms; deltas are never deepdiff's own."""
    for name, line, _ in IMPORTS[module]:
        package = name.partition(".")[0]
        if package in RARE:
            assert {module, module.partition(".")[0]} & RARE[package], f"{module}, line {line}: {name}"
        assert name != "deepdiff.Delta"
    assert "Delta(" not in (
        FILES[module].read_text("utf-8") if "deepdiff" in {one.name for one in IMPORTS[module]} else ""
    )


def test_the_reader_of_imports_finds_them_all():
    """Inside functions, as packages' rooms, under other names; for types only where it says so."""
    text = """
from typing import TYPE_CHECKING
import os, vmctl.clock as time
from vmctl import durable, __version__
if TYPE_CHECKING:
    from vmctl.index import Index
def late():
    from vmctl.store import documents
    import yaml.nodes
    from . import near
"""
    found = {(one.name, one.types_only) for one in imports(ast.parse(text))}
    assert found == {
        ("typing", False), ("os", False), ("vmctl.clock", False), ("vmctl.durable", False), ("vmctl", False),
        ("vmctl.index", True), ("vmctl.store.documents", False), ("yaml.nodes", False), (".", False),
    }  # fmt: skip
