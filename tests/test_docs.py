"""The docs are a test subject: what they take from the code is as the code has it, and nothing is left out."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_generated_pages_are_up_to_date() -> None:
    """Commands, exit codes, config keys and the role table in docs/ are what the code prints now (`make docs`)."""
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="generate")["pages"]()
    for name, text in generated.items():
        assert (ROOT / "docs" / name).read_text() == text, f"{name} is stale: run 'make docs'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_room_has_its_place_in_the_flow() -> None:
    """docs/flow.md names each module of the package, so that a stranger finds any line's room."""
    text = (ROOT / "docs" / "flow.md").read_text()
    rooms = {path.stem for path in (ROOT / "vmctl").glob("*.py")} - {"__init__", "__main__"}
    assert {room for room in rooms if f"`{room}`" not in text} == set()


def test_commands_in_the_docs_exist() -> None:
    """Every `vmctl ...` that a page shows is a command there is."""
    from vmctl.cli.app import COMMANDS

    known = {name for part in COMMANDS.values() for name in part}
    for page in PAGES:
        if page.name == "limits.md":  # tells what is not there yet
            continue
        text = page.read_text()
        shown = re.findall(r"(?:`|\$ |'|&& )vmctl ([a-z]+)", text)
        shown += re.findall(r"(?<=\n)vmctl ([a-z]+)(?= (?:-|[A-Z&]|[a-z]+ (?:\d|-)))", text)
        assert set(shown) - known == set(), page.name
