"""Changes values in a vmctl.yaml that people write, and nothing else in it: comments, order and layout stay.

Only what stands in block style below `servers` is changed, which is how `vmctl init` writes it. What comes out is read
again before it is kept: where anything else would change, nothing does, and the person is told what to write.
"""

from __future__ import annotations

import contextlib
import copy
import re
from typing import TYPE_CHECKING, Any

from vmctl import config, durable, yamltext
from vmctl.errors import BrokenFile, ConfigMissing, NotEdited

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vmctl.config import Config

_PATIENCE = 10.0  # seconds
Changes = dict[str, str | None]  # by key of a server; None takes a key out


def change(path: Path, changes: Mapping[str, Changes]) -> Config:
    """Change keys of servers (by name) in the file, durably; the config as it is then.

    Where it is a link, what that leads to is changed. Raises NotEdited where the file is of another form, ConfigFaults
    where it would not be a good one, ConfigMissing.
    """
    try:
        there = path.resolve(strict=True)
        before, text = there.stat(), there.read_bytes().decode("utf-8")  # as bytes: line ends stay what they are
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigMissing(f"cannot read {path}", why=str(error)) from error
    changed = edited(text, changes)
    if changed is None:
        raise NotEdited(f"{path} has a form that vmctl does not change", hint=_by_hand(changes))
    made = config.parse(changed, path)
    durable.write(there, changed.encode(), mode=before.st_mode & 0o777)
    durable.keep_owner(there, before)
    return made


def check(path: Path, server: str) -> None:
    """Raises NotEdited where keys of a server cannot be changed in the file: before anything is done that asks for it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigMissing(f"cannot read {path}", why=str(error)) from error
    if edited(text, {server: {"public_key": "x", "seal_key": "x", "former_key": "x", "former_until": "x"}}) is None:
        raise NotEdited(
            f"{path} has a form that vmctl does not change", why=f"what is below servers.{server} is not one key a line",
            hint="write it as 'vmctl init' does: each key on a line of its own, indented; then give the command again",
        )  # fmt: skip


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Change the file, and what goes with it, while nobody else does. Raises StoreBusy, StoreUnusable."""
    with durable.lock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE, what=str(path)):
        yield


def edited(text: str, changes: Mapping[str, Changes]) -> str | None:
    """The text with these changes and no others; None where it is of another form than `vmctl init` writes."""
    try:
        wanted = copy.deepcopy(yamltext.load(text, "vmctl.yaml"))
        lines = text.splitlines(keepends=True)
        for name, keys in changes.items():
            for key, value in keys.items():
                if not _change_line(lines, name, key, value):
                    return None
                _change_value(wanted["servers"][name], key, value)
        changed = "".join(lines)
        return changed if yamltext.load(changed, "vmctl.yaml") == wanted else None
    except (BrokenFile, KeyError, TypeError):
        return None


def _change_value(server: dict[str, Any], key: str, value: str | None) -> None:
    if value is None:
        server.pop(key, None)
    else:
        server[key] = value


def _change_line(lines: list[str], name: str, key: str, value: str | None) -> bool:
    block = _block(lines, 0, len(lines), "servers", least=0)
    server = _block(lines, *block, name, least=1) if block else None
    if server is None:
        return False
    first, end = server
    pad = _indent(next((line for line in lines[first:end] if _counts(line)), "    x"))
    end_of_line = "\r\n" if lines[first - 1].endswith("\r\n") else "\n"
    line = (f"{pad}# {key}:" if value is None else f"{pad}{key}: {yamltext.dump(value).strip()}") + end_of_line
    for pattern in (rf"{pad}{key}\s*:(\s.*)?$", rf"{pad}#\s*{key}\s*:\s*$"):
        for at in range(first, end):
            if re.match(pattern, lines[at]):
                lines[at] = line
                return True
    if value is not None:
        lines.insert(first, line)
    return True


def _block(lines: list[str], start: int, end: int, name: str, *, least: int) -> tuple[int, int] | None:
    """From the line behind `name:`, indented by `least` at least, to the end of what stands below it; None without one."""
    for at in range(start, end):
        found = re.match(rf"( *){re.escape(name)}\s*:\s*(#.*)?$", lines[at])
        if found and (len(found[1]) >= least if least else not found[1]):
            below = range(at + 1, end)
            last = next((n for n in below if _counts(lines[n]) and len(_indent(lines[n])) <= len(found[1])), end)
            return at + 1, last
    return None


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]


def _by_hand(changes: Mapping[str, Changes]) -> str:
    lines = ["write by hand, below servers:"]
    for name, keys in changes.items():
        lines.append(f"  {name}:")
        lines += [f"    {key}: {value}" if value is not None else f"    (no {key})" for key, value in keys.items()]
    return "\n".join(lines)
