"""What the rest of vmctl asks of a store's format: where records lie, how they look, and what their files mean.

A format reads; `vmctl.apply` writes what it is told the bytes of a file are. Nothing here says how many folders a store
has or what its files are called: paths are texts relative to the store, with '/', and mean something to the format
alone. `tests/test_store_contract*.py` are the suites that every format must pass.

What is asked of all of it:
- Reading changes nothing, and follows no symbolic link.
- A fault of the disk is StoreUnusable or stands in `Walk.unread`; it is never told as absence.
- What belongs to nothing is told as odd, whatever its name is made of, and never raises.
- `.vmctl` in the store's directory is vmctl's own in every format: see docs/store.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from vmctl.entry import Look

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from vmctl.model import Record

STATE = ".vmctl"


class Part(NamedTuple):
    """What a file of a message folder is: the document of the message `ident`, or its recording in a `form`."""

    ident: str
    form: str | None  # None: it is the document


@dataclass(slots=True)
class Walk:
    """What is in a store: files that people edit, message folders, and what belongs to nothing."""

    files: dict[str, tuple[str, Look]] = field(default_factory=dict)  # path -> key, look
    folders: dict[str, tuple[str, Look]] = field(default_factory=dict)  # path -> extension, look
    odd: dict[str, str] = field(default_factory=dict)  # path -> why
    unread: dict[str, str] = field(default_factory=dict)  # what could not be looked at or into -> why
    listed: dict[str, tuple[Look, list[str]]] = field(default_factory=dict)  # folders that may be left out next


def look_of(status: os.stat_result) -> Look:
    """What stat says of a file or folder, as the index keeps it."""
    return Look(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


Known = Callable[[str, Look], "list[str] | None"]


class Format(Protocol):
    """One store on disk, in whatever format."""

    name: ClassVar[str]  # what `identity.json` and the config call the format
    root: Path
    formats: tuple[str, ...]  # of recordings, the preferred one first: "wav", ...

    @property
    def state(self) -> Path:
        """The directory of vmctl's own files."""

    # Where a record lies: for one that is not there, where it is to be put. Pure: no file need exist.

    def path(self, key: str, audio_format: str = "wav") -> str:
        """The file whose being there makes the record: its document, or its recording where it is nothing else.

        For a given store, `path` of two keys is never the same. Raises ValueError for a kind that has no file.
        """

    def audio_path(self, key: str, audio_format: str) -> str:
        """The file of a record's recording; beside the document of a message, `path` of all else."""

    def folder(self, extension: str) -> str:
        """The folder of a mailbox's messages: its own times tell whether a message came, went or was renamed."""

    def mailbox_of(self, folder: str) -> str:
        """The extension whose message folder it is: `mailbox_of(folder(x)) == x`."""

    def folder_of(self, path: str) -> str | None:
        """The message folder that a file lies in by its path; None for any other file."""

    def part_of(self, path: str) -> Part | None:
        """What a file of a message folder is by its name; None for one that vmctl keeps nothing in."""

    def emptied(self, path: str) -> Iterator[str]:
        """The folders that may go when the file `path` has gone, if they are empty; inner ones first."""

    # How it looks. None opens a file.

    def walk(self) -> Walk:
        """Everything in the store but the insides of message folders; never raises for what is in the store."""

    def walking(self, known: Known | None = None) -> Generator[None, None, Walk]:
        """The same, in steps of a mailbox. After each it may be left for a while: things are as they were at their step.

        `known(folder, look)` gives the names in a folder that looks as it did when it was listed last, or None: then it
        need not be listed again. `Walk.listed` has those that were, with their names, and that hold nothing odd.
        """

    def messages(self, folder: str) -> dict[str, os.stat_result]:
        """Names and stats of a message folder's files, without what editors hide. Raises StoreUnusable."""

    def beside(self, key: str) -> dict[str, os.stat_result]:
        """As `messages`, of one message's own files only, and without listing the folder. Raises StoreUnusable."""

    def names(self, kind: str, mailbox: str | None = None) -> list[str]:
        """The names of the callflows, prompts, mailboxes, or of a mailbox's greetings or messages, in order.

        Raises StoreUnusable.
        """

    def audio(self, key: str) -> str | None:
        """The file of a prompt's or greeting's recording in whatever form it is there; None without one."""

    def look(self, path: str) -> Look | None:
        """How a file looks; None where there is none. Raises StoreUnusable, so that a fault is no absence."""

    def look_now(self, path: str) -> Look:
        """How a file looks that was written a moment ago. Raises StoreUnusable."""

    def file_systems(self) -> dict[str, int]:
        """The file system (st_dev) of the store, `.`, and of each of its folders that is there. Raises StoreUnusable."""

    def tombs(self) -> Iterator[tuple[str, str]]:
        """Path and key of what is left of each deleted message under `.vmctl/deleted`."""

    # What the files mean. `parse(key, text(record), ...)` is the document of the record, and for one that the format
    # can hold stamps of, the record itself.

    def is_edited(self, kind: str) -> bool:
        """Whether a document of this kind is text that people edit; else a machine writes it, or it is audio alone."""

    def read(self, path: str) -> bytes:
        """The bytes of a document. Raises BrokenFile where it is too large, no plain file, or cannot be read."""

    def parse(self, key: str, data: bytes, path: str) -> tuple[dict[str, Any], Record | None]:
        """The document in the bytes of `path(key)`, and the record with its stamps and presence if they hold it.

        Raises RecordError (BrokenFile, CallflowFaults, BadValue), and nothing else on any bytes; `path` is for words.
        """

    def text(self, record: Record) -> bytes:
        """The bytes of the file that shows this record. Not for a record that is audio alone.

        Raises BadValue, and nothing else on any record: its values may be the peer's, of which no file was ever read.
        """

    def document(self, key: str) -> dict[str, Any] | None:
        """The document of settings, a callflow, a mailbox or a message, straight from its file; None without one."""

    def check_mailbox(self, extension: str) -> None:
        """Raises NotFound unless the mailbox is there, and BadName."""

    def check_callflow(self, text: str | bytes, name: str) -> None:
        """Check a callflow against the prompts and mailboxes that are here. Raises BrokenFile, CallflowFaults."""
