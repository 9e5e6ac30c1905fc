"""docs/promises.md names for each promise, rule, scenario and pain the tests that hold it: each of them is there, and is run."""

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs/promises.md"
HEADING = re.compile(r"## (Promise|Rule|Scenario|Pain) (\d+): .+")
LINE = re.compile(r"- `(test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)")


def entries():
    """What the page says: (kind, number) -> the tests that are named there, as file::name."""
    found, current = {}, []
    for line in PAGE.read_text("utf-8").splitlines():
        if heading := HEADING.fullmatch(line):
            current = found.setdefault((heading[1], int(heading[2])), [])
        elif line.startswith("- "):
            named = LINE.fullmatch(line)
            assert named, f"not as a line of tests is written: {line}"
            current += [f"{named[1]}::{name}" for name in re.findall(r"`(\w+)`", named[2])]
    return found


@pytest.fixture(scope="module")
def collected():
    """The tests that there are, without their parameters: pytest finds each function of a test file that is called so."""
    return {
        f"{path.name}::{node.name}"
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_promise_rule_scenario_and_pain_has_its_tests():
    """Promises 1 to 9, rules 1 to 29, scenarios 1 to 15, pains 1 to 12: all there, in order, and none without a test."""
    counts = {"Promise": 9, "Rule": 29, "Scenario": 15, "Pain": 12}
    expected = [(kind, n + 1) for kind, last in counts.items() for n in range(last)]
    found = entries()
    assert expected == list(found)
    assert [] == [entry for entry, tests in found.items() if not tests]
    assert [] == [entry for entry, tests in found.items() if len(set(tests)) != len(tests)]


def test_every_test_that_is_named_is_run(collected):
    """A test that was renamed or taken out is not a promise kept."""
    named = {test for tests in entries().values() for test in tests}
    assert set() == named - collected


def test_a_scenario_has_the_tests_that_bear_its_number():
    """A test of the nasty scenarios that is named for one is among those of that one."""
    named = entries()
    for path in sorted(Path(__file__).parent.glob("test_nasty_scenarios_*.py")):
        for name, number in re.findall(r"^def (test_(?:scenario_)?(\d+)_\w+)", path.read_text("utf-8"), re.MULTILINE):
            assert f"{path.name}::{name}" in named["Scenario", int(number)], f"name it under scenario {number}"
