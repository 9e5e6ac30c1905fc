"""The recipes of docs/mail-servers.md, word for word, with the names of a test in the place of those on the page.

A recipe is a block of code whose first line is a comment that names the file and says what for; it is asked for by that
line. What stands for something of the reader's own, such as an account or a path, is in NAMES, and on the page.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "mail-servers.md"
_BLOCK = re.compile(r"^```[a-z]+\n# (.+)\n((?:.*\n)*?)```$", re.MULTILINE)

# What a reader replaces, too
PROGRAM = "/usr/local/bin/vmctl"
CONFIG = "/etc/vmctl/vmctl.yaml"
USER = "user=vmctl"
ADDRESS = "vmsync@secondary.example"
MAILDIR = "/var/lib/vmctl/mail"
SMARTHOST = "mail.example.net"


def blocks() -> dict[str, str]:
    """Each recipe of the page by its first line, without that."""
    found = _BLOCK.findall(PAGE.read_text())
    assert len({head for head, _ in found}) == len(found), "two recipes have one name"
    return dict(found)


def recipe(head: str, *names: tuple[str, str]) -> str:
    """The recipe under this first line, each old name replaced by the new one. What is not in it is a fault."""
    text = blocks()[head]
    for old, new in names:
        assert old in text, f"{old!r} is not in the recipe {head!r}"
        text = text.replace(old, new)
    return text
