"""docs/threat-model.md is held by tests: each line of its tables names one that is there; and what needs a test of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

import vmctl
from vmctl import yamltext
from vmctl.cli.app import app
from vmctl.errors import BrokenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
ROWS = [
    line.strip("|").split("|")
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| attack")
]


def names_there_are() -> set[str]:
    """The names of all test functions, and of the files of tests."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    names = {path.name for path in files}
    for path in files:
        names |= {
            node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
        }
    return names


THERE = names_there_are()


def test_the_page_has_lines() -> None:
    """There are tables, and each line of them has three cells."""
    assert len(ROWS) > 30
    assert {3} == {len(row) for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:50])
def test_each_line_names_its_test(row: list[str]) -> None:
    """The last cell names tests, and all of them are there."""
    named = re.findall(r"`(test_[a-z0-9_.]+)`", row[2])
    assert named
    assert set(named) <= THERE


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "[" * 100_000,
        "- " * 50_000 + "x\n",
        "a: " + "x" * (1 << 21),
        "? " * 10_000 + "x",
        "a: !<tag:yaml.org,2002:binary> AAAA\n",
        "a: 1\n---\nb: 2\n",
        "a: {" + ", ".join(f"k{n}: {n}" for n in range(200_000)) + "}",
    ],
    ids=["aliases", "tags", "flow", "block", "length", "keys", "binary", "documents", "wide"],
)
def test_yaml_bombs(bomb: str) -> None:
    """YAML that would grow, run or not end is a broken file, named with its line; none of it is built."""
    with pytest.raises(BrokenFile):
        yamltext.load(bomb, "x.yaml")


def test_nothing_is_decompressed() -> None:
    """No module that unpacks anything is imported: there is nothing that could grow."""
    unpackers = {"zlib", "gzip", "bz2", "lzma", "zipfile", "tarfile", "zstandard", "brotli"}
    for path in Path(vmctl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & unpackers, path


def test_no_command_takes_a_pin() -> None:
    """No option and no argument of any command takes a PIN: everybody on the host could read it in the list of processes."""
    for words, command in commands(get_command(app)):
        for parameter in command.params:
            named = {parameter.name, *parameter.opts}
            if any("pin" in re.split(r"[-_]", name or "") for name in named):
                assert parameter.is_flag, f"vmctl {words} {parameter.opts}"


def commands(command: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    """All commands, with their words."""
    yield words, command
    for name in getattr(command, "commands", {}):
        yield from commands(command.commands[name], f"{words} {name}".strip())
