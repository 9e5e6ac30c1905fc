"""Foreign clients: swaks, and smtp-source of Postfix."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from mta.place import find


def swaks(port: int, *words: str, **more: Any) -> list[str]:
    """What a server on loopback answered in a talk with swaks: each reply's first line."""
    done = subprocess.run(
        [find("swaks", "swaks"), "--server", f"127.0.0.1:{port}", "--timeout", "20", *words],
        capture_output=True, text=True, check=False, timeout=60, **more,
    )  # fmt: skip
    return re.findall(r"^<[-~*~*]+ +(\d{3}[ -].*)$", done.stdout, re.MULTILINE)


def smtp_source(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Mails by smtp-source; its words are those of smtp-source(1)."""
    return subprocess.run(
        [find("smtp-source", "postfix"), *words, f"127.0.0.1:{port}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
