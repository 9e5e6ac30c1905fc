"""Watches a store for changes on disk. An event is a hint that a scan pays now; the timed scans are the truth."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Self

from vmctl import durable
from vmctl.errors import DiskFull, StoreUnusable, VmctlError
from vmctl.rights import AS_BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("vmctl.watch")

_FOLDERS = ("callflows", "prompts", "mailboxes")


class Debounce:
    """When to scan after events: once they have stopped for `quiet` seconds, but not later than `longest` after the first."""

    def __init__(self, quiet: float, longest: float) -> None:
        self._quiet = quiet
        self._longest = longest
        self._first: float | None = None
        self._last = 0.0

    def hit(self, now: float) -> None:
        """An event came."""
        self._first = now if self._first is None else self._first
        self._last = now

    @property
    def due(self) -> float | None:
        """When to scan, on the clock of `hit`; None without events."""
        if self._first is None:
            return None
        return min(self._last + self._quiet, self._first + self._longest)

    def clear(self) -> None:
        """The scan begins: what comes from now on is new."""
        self._first = None


class Watcher:
    """Calls `hint` from a thread of its own whenever something in the store changes. Use it with `with`.

    It is told the path, relative to the store, of a file that was written or got its name, and whether its writer may be
    done with it; None for all else. Names that begin with a dot are somebody's work in progress.
    """

    def __init__(self, root: Path, hint: Callable[[str | None, bool], object]) -> None:
        self._root = root
        self._hint = hint
        self._observer: _Observer | None = None
        self.watching = False

    def __enter__(self) -> Self:
        from watchdog.events import (
            DirCreatedEvent,
            DirDeletedEvent,
            DirMovedEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileDeletedEvent,
            FileModifiedEvent,
            FileMovedEvent,
            FileSystemEvent,
            FileSystemEventHandler,
        )  # fmt: skip
        from watchdog.observers import Observer

        hint, root = self._hint, f"{self._root}/"

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                source, target = os.fsdecode(event.src_path), os.fsdecode(event.dest_path)
                if isinstance(event, FileMovedEvent) and _is_hidden(source):
                    source, target = target, ""
                if _is_hidden(source):
                    return
                path = source.removeprefix(root)
                if target or not isinstance(
                    event, (FileClosedEvent, FileCreatedEvent, FileModifiedEvent, FileMovedEvent)
                ):
                    hint(None, False)
                else:  # a file that comes from beyond the store, or gets a second name, is told as created
                    hint(path, not isinstance(event, FileModifiedEvent))

        # opened and closed without a write are not among them: a scan reads, and must not wake itself
        kinds: list[type[FileSystemEvent]] = [
            DirCreatedEvent, DirDeletedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileDeletedEvent,
            FileModifiedEvent, FileMovedEvent,
        ]  # fmt: skip
        observer = Observer()
        try:
            # vmctl's own folder is left out: the index changes with every mail
            observer.schedule(Handler(), str(self._root), recursive=False, event_filter=kinds)
            for folder in _FOLDERS:
                durable.make_directory(self._root / folder, mode=AS_BESIDE, needs=self._root)
                observer.schedule(Handler(), str(self._root / folder), recursive=True, event_filter=kinds)
            observer.start()
        except (OSError, StoreUnusable, DiskFull) as error:
            log.error(
                "cannot watch %s (%s): only the timed scans find changes; raise fs.inotify.max_user_watches",
                self._root, error.words if isinstance(error, VmctlError) else error.strerror or error,
            )  # fmt: skip
            observer.unschedule_all()
            return self
        self._observer = observer
        self.watching = True
        return self

    def __exit__(self, *exc: object) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver as _Observer
