"""What greetings, prompts and messages share on the command line: recordings, listed and written out."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmctl import beneath, durable
from vmctl.audio import inspect
from vmctl.cli.output import emit, note, report, say, table
from vmctl.errors import AlreadyExists, BadAudio, NotFound, StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmctl.cli.session import Session

STDOUT = "-"


def show(session: Session, keys: Mapping[str, str], empty: str) -> None:
    """Print the recordings that lie under `keys` (by name), or the words `empty` on stderr if there are none."""
    found = []
    for name, key in keys.items():
        path = session.store.audio(key)
        if path is None:
            continue
        try:
            found.append({"name": name, **_description(session, path)})
        except (BadAudio, StoreUnusable) as error:
            note(f"vmctl: {path} is left out: {error.what}" + (f" ({error.why})" if error.why else ""))
    if not found:
        note(empty)
    rows = [(each["name"], each["seconds"], each["audio"]["size"], each["audio"]["format"]) for each in found]
    emit(session, found, table(rows, ("name", "seconds", "bytes", "format")))


def export(session: Session, path: str | None, target: str, *, force: bool, what: str) -> None:
    """Write a recording of the store (`path`, relative) to the file `target`, or to stdout for `-`.

    Raises NotFound without a recording, AlreadyExists where something is at the target and `force` is not given, or it
    is no plain file; StoreUnusable, DiskFull.
    """
    if path is None or session.store.look(path) is None:
        raise NotFound(f"there is no recording of {what} here", hint="if the peer has it, 'vmctl sync' brings it")
    data = _read(session.store.root / path)
    if target == STDOUT:
        say(data, newline=False)
        return
    _write(Path(target), data, force=force)
    report(session, {"file": target, "size": len(data)}, f"{what} is in {target}")


def _description(session: Session, path: str) -> dict[str, Any]:
    file = session.store.root / path
    _check_plain(file, beneath.status(file).st_mode)
    recording = inspect(file, formats=session.store.formats, longest=math.inf)
    return {"seconds": recording.seconds, "audio": recording.as_field()}


def _read(path: Path) -> bytes:
    try:
        fd = beneath.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            _check_plain(path, os.fstat(fd).st_mode)
            return file.read()
    except OSError as error:
        raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error


def _check_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise StoreUnusable(f"{path} is no plain file", why="symbolic links are not followed")


def _write(target: Path, data: bytes, *, force: bool) -> None:
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise AlreadyExists(f"{target} is no plain file", hint="name a file, or '-' for the standard output")
    if force:
        durable.write(target, data)
    elif not durable.create(target, data):
        raise AlreadyExists(f"{target} is there already", hint="name another file, or replace it with --force")
