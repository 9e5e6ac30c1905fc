"""A hook: what it is told, as variables and on its standard input. How a program is run is in test_program."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from surroundings import script

from vmctl import hooks
from vmctl.clock import Clock, Deadline

if TYPE_CHECKING:
    from pathlib import Path

FACTS = {"hook": "on_transition", "service": "voicemail", "serving": None, "epoch": 4, "more": [1], "well": True}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "vmctl.yaml"


def run(config: Path, *lines: str, facts: dict | None = None) -> str | None:
    """Run a hook of these lines of the shell; why it failed."""
    command = [str(script(config.with_name("hook"), *lines))]
    told: list[str | None] = []
    hooks.run(command, FACTS if facts is None else facts, told.append, config=config, deadline=Deadline(Clock(), 60.0))
    (why,) = told
    return why


def test_the_facts_come_twice(config: Path) -> None:
    """A hook has the facts as variables and, all of them, as JSON on its standard input."""
    assert run(config, "env -0 > env", "cat > stdin") is None
    variables = dict(line.split("=", 1) for line in (config.parent / "env").read_text().split("\0") if line)
    told = {name: value for name, value in variables.items() if name.startswith("VMCTL_") and name not in os.environ}
    assert told == {
        "VMCTL_HOOK": "on_transition", "VMCTL_SERVICE": "voicemail", "VMCTL_SERVING": "", "VMCTL_EPOCH": "4",
        "VMCTL_WELL": "true", "VMCTL_CONFIG": str(config),
    }  # fmt: skip
    assert json.loads((config.parent / "stdin").read_bytes()) == FACTS


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text() | st.none() | st.integers(), max_size=4)
)
def test_no_text_is_too_odd_for_a_variable(facts: dict) -> None:
    """Whatever a fact holds, its variable can be given to a process: printable, one line, no longer than a bound."""
    for text in hooks.variables(facts).values():
        assert text == "" or text.isprintable()
        assert len(text) <= 4000


def test_odd_and_large_facts_arrive(config: Path) -> None:
    """A reason with line ends and NUL, and a document of a megabyte, keep no hook from running."""
    facts = {"reason": "a\nb\0c é", "evidence": {"much": "x" * (1 << 20)}}
    assert run(config, 'printf "%s" "$VMCTL_REASON" > reason', "cat > stdin", facts=facts) is None
    assert config.with_name("reason").read_text() == "a?b?c é"
    assert json.loads(config.with_name("stdin").read_bytes()) == facts


def test_it_is_said_why_a_hook_failed(config: Path) -> None:
    """The exit code, and the last line of its standard error; words on it are no failure by themselves."""
    assert run(config, "echo first >&2", "echo the disk is full >&2", "exit 1") == "exit code 1: the disk is full"
    assert run(config, "echo odd >&2") is None
