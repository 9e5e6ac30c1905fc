"""Words from outside, in one line that can be shown."""

from __future__ import annotations

import re

_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def one_line(text: str, limit: int = 200) -> str:
    """Text without control characters, line ends and halves of characters, cut to `limit` characters."""
    line = _NOT_SHOWN.sub(" ", text).strip()
    return line if len(line) <= limit else line[: limit - 3] + "..."
