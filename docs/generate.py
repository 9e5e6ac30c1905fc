"""Writes the parts of the docs that are taken from the code: commands, exit codes, config keys, the table of roles.

python docs/generate.py           writes them
python docs/generate.py --check   says what would change, and exits with 1 if anything would
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"  # before Typer reads it: help is as wide everywhere

from typer.main import get_command
from typer.testing import CliRunner

from vmctl import errors, roles
from vmctl.cli import app as frame
from vmctl.config import reference

DOCS = Path(__file__).parent


def commands() -> str:
    """The page of all commands: what `--help` prints."""
    root = get_command(frame.app)
    lines = ["# Commands", "", "Generated from `--help`.", "", _block("vmctl"), ""]
    for part, table in frame.COMMANDS.items():
        lines += [f"## {part}", ""]
        for name in table:
            found = root.commands[name]  # type: ignore[attr-defined]
            lines += [f"### vmctl {name}", "", _block(f"vmctl {name}"), ""]
            for below in list(getattr(found, "commands", {})):
                lines += [f"#### vmctl {name} {below}", "", _block(f"vmctl {name} {below}"), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(words: str) -> str:
    done = CliRunner().invoke(frame.app, [*words.split()[1:], "--help"], prog_name="vmctl", terminal_width=100)
    if done.exit_code:
        raise SystemExit(f"'{words} --help' exited with {done.exit_code}: {done.output}")
    text = "\n".join(line.rstrip() for line in done.output.strip("\n").splitlines())
    return f"```text\n{text}\n```"


def exit_codes() -> str:
    """The page of exit codes."""
    lines = [
        "# Exit codes",
        "",
        "Generated from `vmctl/errors.py`. 0 is done, 1 a bug in vmctl, 2 a command typed wrong, 130 an interrupt (Ctrl-C).",
        "Treat a code that is not listed as a failure. `vmctl verify` exits with 0 only when the stores are equal.",
        "",
        "| code | error | what happened | try again? | what to do |",
        "|--:|---|---|---|---|",
    ]
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.VmctlError)]
    leaves = [one for one in found if not one.__subclasses__()]
    for one in sorted(leaves, key=lambda one: one.exit_code):
        words = inspect.getdoc(one) or ""
        hint = one.hint.replace("|", "or")
        lines.append(f"| {one.exit_code} | `{one.__name__}` | {words} | {'yes' if one.retry else 'no'} | {hint} |")
    return "\n".join(lines) + "\n"


def _between(text: str, begin: str, end: str, body: str) -> str:
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"a page has no part between {begin!r} and {end!r}")
    return pattern.sub(lambda match: match[1] + body + match[2], text, count=1)


def pages() -> dict[str, str]:
    """Every page that is generated in whole or in part, as it should be."""
    config_table = ("<!-- generated from the table in vmctl/config_keys.py -->", "<!-- end of the generated part -->")
    role_table = ("<!-- printed by roles.table_markdown(); do not edit -->", "<!-- end -->")
    role_diagram = ("<!-- printed by roles.diagram_mermaid(); do not edit -->", "<!-- end -->")
    diagram = f"```mermaid\n{roles.diagram_mermaid()}```\n"
    config, role = (_text(name) for name in ("config.md", "roles.md"))
    return {
        "commands.md": commands(),
        "exit-codes.md": exit_codes(),
        "config.md": _between(config, *config_table, reference()),
        "roles.md": _between(_between(role, *role_table, roles.table_markdown()), *role_diagram, diagram),
    }


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def main() -> int:
    """Write, or check."""
    wrong = []
    for name, text in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        wrong.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if wrong:
        print(", ".join(wrong), "would change" if "--check" in sys.argv else "written")  # noqa: T201
    return 1 if wrong and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
