"""What commands print: data on stdout as text or JSON, words and errors on stderr.

JSON holds values for programs: numbers, RFC 3339 times, null. Only text is for people.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from vmctl.errors import OutputClosed, VmctlError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmctl.cli.session import Session


def emit(session: Session, value: Any, text: str) -> None:
    """Print data: `value` as JSON under --json, else `text`, if there is any. Raises OutputClosed."""
    if session.json:
        say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    elif text:
        say(text)


def report(session: Session, value: Any, words: str) -> None:
    """Tell what was done: `value` as JSON on stdout under --json, else `words` on stderr."""
    if session.json:
        emit(session, value, "")
    else:
        note(words)


def say(text: str | bytes, *, newline: bool = True) -> None:
    """Print on stdout and flush. Raises OutputClosed; BrokenPipeError when the reader left."""
    try:
        typer.echo(text, nl=newline)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputClosed("cannot write to the standard output", why=error.strerror or str(error)) from error


def linger(seconds: float) -> None:
    """Let so many seconds pass. Raises BrokenPipeError as soon as nobody reads the standard output any more."""
    import select

    watched = select.poll()
    with contextlib.suppress(OSError, ValueError):  # what is no file cannot be watched
        watched.register(sys.stdout.fileno(), 0)  # nothing is asked for: what is told is that its reader left
    if watched.poll(seconds * 1000):
        raise BrokenPipeError


def note(text: str) -> None:
    """Print words on stderr."""
    typer.echo(text, err=True)


def tell(error: VmctlError, *, as_json: bool) -> None:
    """Print an error on stderr: as one JSON object, or with what, why and what to type in lines of their own."""
    note(json.dumps(error.as_json(), indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(error)))


def table(rows: Iterable[Sequence[Any]], headers: Sequence[str]) -> str:
    """Aligned columns under their headers, numbers to the right; empty for no rows.

    None is shown as `-`, true and false as `yes` and `no`.
    """
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    columns = list(zip(*lines, strict=True))
    right = [_is_numeric(column) for column in columns]
    texts = [list(headers), *([_cell(value) for value in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    aligned = (
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        for line in texts
    )
    return "\n".join(line.rstrip() for line in aligned)


def _is_numeric(column: Sequence[Any]) -> bool:
    numbers = [value for value in column if value is not None]
    return bool(numbers) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _lines(error: VmctlError) -> Iterable[str]:
    faults: list[dict[str, str]] = getattr(error, "faults", [])
    yield f"vmctl: {error.what}"
    if error.why and not faults:  # else the faults are the reason, all of them
        yield f"  why: {error.why}"
    for fault in faults:
        key = f"{fault['key']}: " if fault.get("key") else ""
        mend = f" ({fault['mend']})" if fault.get("mend") else ""
        yield f"  {key}{fault['why']}{mend}"
    if error.hint:
        yield f"  try: {error.hint}"
