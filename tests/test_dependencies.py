"""The least versions that are allowed: docs/dependencies.md says why, and above which advisories they are."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from least import least  # noqa: E402

LEAST = least((ROOT / "pyproject.toml").read_text("utf-8"))
LINES = [
    [cell.strip(" `") for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/dependencies.md").read_text("utf-8").splitlines()
    if line.startswith("| `")
]


def numbers(version):
    """A version as numbers that compare."""
    return tuple(map(int, version.split(".")))


def test_the_table_says_what_pyproject_says():
    """Each package that vmctl is installed with has its line, with the least version that is allowed."""
    assert {line[0]: line[1] for line in LINES} == LEAST


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_no_least_version_is_below_the_mend_of_an_advisory(line):
    """What is listed as fixed in a version is fixed in the least one; each advisory is named by its id."""
    fixed = re.findall(r"fixed in ([0-9.]*[0-9])", line[3])
    assert all(numbers(version) <= numbers(line[1]) for version in fixed)
    assert bool(fixed) == bool(re.search(r"(CVE|GHSA|PYSEC)-", line[3]))
    assert fixed or line[3].startswith("none known")
