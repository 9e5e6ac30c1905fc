"""The native store on disk: which file holds which record, and what is there. It reads; `vmctl.apply` writes.

    settings.yaml
    callflows/<name>.yaml                      prompts/<name>.wav
    mailboxes/<extension>/mailbox.yaml
    mailboxes/<extension>/greetings/<name>.wav
    mailboxes/<extension>/messages/<id>.wav, <id>.json
    .vmctl/                                    index, journal, spool, pool: never replicated

Paths are texts relative to the store, with '/'. Symbolic links are never followed: they are named as odd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, ClassVar

from vmctl import beneath
from vmctl.durable import TEMP_PREFIX
from vmctl.errors import BadValue, BrokenFile, NotFound, StoreUnusable
from vmctl.model import (
    CALLFLOW,
    GREETING,
    MAILBOX,
    MESSAGE,
    PROMPT,
    SETTINGS,
    SETTINGS_KEY,
    Key,
    greeting_key,
    mailbox_key,
    message_key,
    parse_key,
)  # fmt: skip
from vmctl.names import GREETINGS, check_extension, is_extension, is_name
from vmctl.store import documents
from vmctl.store.format import STATE, Known, Part, Walk, look_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from vmctl.entry import Look
    from vmctl.model import Record

FOLDERS = ("callflows", "prompts", "mailboxes")
_YAML, _JSON = ".yaml", "json"


_lstat, _names_in = beneath.status, beneath.listing
# Of what is in a folder that was reached by the way that follows no link, a moment before or some steps. Who exchanges it
# for a link since makes what is in it look changed, or gone: it is opened, or looked at again, by that way.
_peek = os.lstat


def _nothing_known(_folder: str, _look: Look) -> None:
    """Every folder is listed."""


def _listed(folder: Path) -> list[tuple[str, os.stat_result]]:
    return [each for each in beneath.entries(folder) if _ours(each[0])]


class NativeStore:
    """One store of the native format: see `vmctl.store.format` for what each method promises."""

    name: ClassVar[str] = "native"

    def __init__(self, root: Path, formats: tuple[str, ...], document_limit: int) -> None:
        beneath.fence(root)
        self.root = root
        self._place = os.fspath(root)
        self.formats = formats
        self._limit = document_limit

    @property
    def state(self) -> Path:
        """The directory of vmctl's own files."""
        return self.root / STATE

    def path(self, key: str, audio_format: str = "wav") -> str:
        """The file that holds a record: its document, or its audio where it is nothing but audio."""
        kind, mailbox, name = parse_key(key)
        if kind == SETTINGS:
            return "settings.yaml"
        if kind == CALLFLOW:
            return f"callflows/{name}{_YAML}"
        if kind == PROMPT:
            return f"prompts/{name}.{audio_format}"
        if kind == MAILBOX:
            return f"mailboxes/{name}/mailbox{_YAML}"
        if kind == GREETING:
            return f"mailboxes/{mailbox}/greetings/{name}.{audio_format}"
        if kind == MESSAGE:
            return f"{self.folder(str(mailbox))}/{name}.{_JSON}"
        raise ValueError(f"records of kind {kind!r} have no file")

    def folder(self, extension: str) -> str:
        """The folder of a mailbox's messages."""
        return f"mailboxes/{extension}/messages"

    def mailbox_of(self, folder: str) -> str:
        """The extension whose message folder it is."""
        return folder.split("/")[1]

    def folder_of(self, path: str) -> str | None:
        """The message folder that a file lies in by its path; None for any other file."""
        extension, _, rest = path.removeprefix("mailboxes/").partition("/")
        folder = self.folder(extension)
        return folder if is_extension(extension) and path == f"{folder}/{rest.rpartition('/')[2]}" else None

    def part_of(self, path: str) -> Part | None:
        """What a file of a message folder is by its name; None for one that vmctl keeps nothing in."""
        ident, _, suffix = path.rpartition("/")[2].rpartition(".")
        if not is_name(ident) or (suffix != _JSON and suffix not in self.formats):
            return None
        return Part(ident, None if suffix == _JSON else suffix)

    def emptied(self, path: str) -> Iterator[str]:
        """The folders that a deleted mailbox leaves; never the store's own."""
        folder = path.rpartition("/")[0]
        while "/" in folder:
            yield from (f"{folder}/{inner}" for inner in ("messages", "greetings"))
            yield folder
            folder = folder.rpartition("/")[0]

    def audio_path(self, key: str, audio_format: str) -> str:
        """The file that holds a record's audio."""
        path = self.path(key, audio_format)
        return path.removesuffix(".json") + "." + audio_format if parse_key(key).kind == MESSAGE else path

    def look(self, path: str) -> Look | None:
        """How a file looks, None where there is none. Raises StoreUnusable, so that a fault is no absence."""
        status = self._status(path)
        return None if status is None else look_of(status)

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return _lstat(f"{self._place}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnusable(f"cannot look at {path}", why=error.strerror or str(error)) from error

    def file_systems(self) -> dict[str, int]:
        """The file system (st_dev) of the store and of each of its folders that is there. Raises StoreUnusable.

        What is mounted or unmounted in its place shows by it.
        """
        found = {}
        for folder in (".", *FOLDERS):
            try:
                status = _lstat(
                    f"{self.root}/." if folder == "." else self.root / folder
                )  # links to the store are followed
            except FileNotFoundError as error:
                if folder == ".":  # it went this very moment
                    raise StoreUnusable(f"the store {self.root} is not there") from error
                continue
            except OSError as error:
                raise StoreUnusable(f"cannot look at {folder}", why=error.strerror or str(error)) from error
            if stat.S_ISDIR(status.st_mode):
                found[folder] = status.st_dev
        return found

    def look_now(self, path: str) -> Look:
        """How a file looks that was written a moment ago. Raises StoreUnusable: somebody may have removed it."""
        try:
            return look_of(_lstat(f"{self._place}/{path}"))
        except OSError as error:
            raise StoreUnusable(f"cannot look at {path}", why=error.strerror or str(error)) from error

    def read(self, path: str) -> bytes:
        """The bytes of a document. Raises BrokenFile where it is too large or no plain file."""
        try:
            data = beneath.read(f"{self._place}/{path}", self._limit + 1)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise BrokenFile(f"{path} is no plain file", why="folders and pipes are not read") from error
            raise BrokenFile(f"{path} cannot be read", why=error.strerror or str(error)) from error
        if len(data) > self._limit:
            raise BrokenFile(f"{path} is larger than limits.document", why=f"the limit is {self._limit} bytes")
        return data

    def document(self, key: str) -> dict[str, Any] | None:
        """The document of settings, a callflow, a mailbox or a message, straight from its file; None without one."""
        path = self.path(key)
        if self.look(path) is None:
            return None
        return self.parse(key, self.read(path), path)[0]

    def is_edited(self, kind: str) -> bool:
        """Whether a document of this kind is text that people edit."""
        return kind in documents.YAML_KINDS

    def parse(self, key: str, data: bytes, path: str) -> tuple[dict[str, Any], Record | None]:
        """The document in the bytes of a file, and a message's record if they hold it. Raises RecordError."""
        kind = parse_key(key).kind
        if kind == MESSAGE:
            return documents.read_message(key, data, path)
        return documents.read_yaml(kind, data, path), None

    def text(self, record: Record) -> bytes:
        """The bytes of the file that shows a record. Raises BadValue."""
        try:
            if record.kind == MESSAGE:
                return documents.write_message(record)
            return documents.write_yaml(record.kind, record.document)
        except (ValueError, RecursionError) as error:
            raise BadValue(
                f"{record.key} cannot be written as a file",
                why=str(error),
                hint="set it to another value, or delete it",
            ) from error

    def check_mailbox(self, extension: str) -> None:
        """Raises NotFound unless the mailbox has its file, and BadName."""
        if self.look(self.path(mailbox_key(check_extension(extension)))) is None:
            raise NotFound(f"there is no mailbox {extension}", hint="'vmctl mailbox list' shows what is there")

    def check_callflow(self, text: str | bytes, name: str) -> None:
        """Check a callflow against the prompts and mailboxes that are here. Raises BrokenFile, CallflowFaults."""
        documents.check_callflow(text, name, self.names(PROMPT), self.names(MAILBOX))

    def audio(self, key: str) -> str | None:
        """The file of a prompt's or greeting's audio in whatever format it is there; None without one."""
        paths = (self.path(key, form) for form in self.formats)
        return next((path for path in paths if self.look(path) is not None), None)

    def names(self, kind: str, mailbox: str | None = None) -> list[str]:
        """The names of what has a file: callflows, prompts, mailboxes, or a mailbox's greetings and messages."""
        if kind == MAILBOX:
            return [
                name
                for name in self._names("mailboxes")
                if is_extension(name) and self.look(f"mailboxes/{name}/mailbox.yaml")
            ]
        folders = {
            CALLFLOW: ("callflows", (_YAML,)),
            PROMPT: ("prompts", tuple(f".{form}" for form in self.formats)),
            GREETING: (f"mailboxes/{mailbox}/greetings", tuple(f".{form}" for form in self.formats)),
            MESSAGE: (f"mailboxes/{mailbox}/messages", (".json",)),
        }
        folder, suffixes = folders[kind]
        found = {os.path.splitext(name)[0] for name in self._names(folder) if name.endswith(suffixes)}  # noqa: PTH122
        return sorted(name for name in found if (name in GREETINGS if kind == GREETING else is_name(name)))

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(_names_in(f"{self._place}/{folder}"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreUnusable(f"cannot read {folder}", why=error.strerror or str(error)) from error

    def walk(self) -> Walk:
        """Everything in the store but the insides of message folders."""
        steps = self.walking()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                walk: Walk = end.value
                return walk

    def walking(self, known: Known | None = None) -> Generator[None, None, Walk]:
        """The same, a mailbox at each step."""
        walk = Walk()
        for name, status in self._entries("", walk):
            if name == "settings.yaml":
                self._file(walk, name, SETTINGS_KEY, status)
            elif name not in {STATE, *FOLDERS}:
                walk.odd[name] = "vmctl keeps nothing of this name here"
        for name, status in self._entries("callflows", walk):
            stem = name.removesuffix(_YAML)
            key = str(Key(CALLFLOW, None, stem)) if name.endswith(_YAML) and is_name(stem) else None
            self._file(walk, f"callflows/{name}", key, status)
        for name, status in self._entries("prompts", walk):
            self._file(walk, f"prompts/{name}", self._audio_key(Key(PROMPT, None, ""), name), status)
        yield
        for name, status in self._mailboxes(walk):
            if is_extension(name) and stat.S_ISDIR(status.st_mode):
                self._mailbox(walk, name, look_of(status), known or _nothing_known)
            else:
                walk.odd[f"mailboxes/{name}"] = "only folders named by an extension belong here"
            yield
        return walk

    def _mailboxes(self, walk: Walk) -> Iterator[tuple[str, os.stat_result]]:
        """Names and stats as of `_entries`; each is looked at in its turn, as there may be very many."""
        folder = f"{self._place}/mailboxes"
        names: list[str] = []
        with _unread(walk, "mailboxes"):
            names = sorted(filter(_ours, _names_in(folder)))
        for name in names:
            with _unread(walk, f"mailboxes/{name}"):
                yield name, _peek(f"{folder}/{name}")

    def _mailbox(self, walk: Walk, extension: str, there: Look, known: Known) -> None:
        base = f"mailboxes/{extension}"
        odd = len(walk.odd)
        found = self._inside(base, there, known, walk)
        for name, status in found:
            if name == "mailbox.yaml":
                self._file(walk, f"{base}/{name}", mailbox_key(extension), status)
            elif name == "messages" and stat.S_ISDIR(status.st_mode):
                walk.folders[f"{base}/{name}"] = (extension, look_of(status))
            elif name == "greetings" and stat.S_ISDIR(status.st_mode):
                self._greetings(walk, extension, look_of(status), known)
            else:
                walk.odd[f"{base}/{name}"] = "vmctl keeps nothing of this name here"
        if odd == len(walk.odd):
            walk.listed[base] = there, [name for name, _ in found]

    def _greetings(self, walk: Walk, extension: str, there: Look, known: Known) -> None:
        base = f"mailboxes/{extension}/greetings"
        odd = len(walk.odd)
        found = self._inside(base, there, known, walk)
        for name, status in found:
            key = self._audio_key(Key(GREETING, extension, ""), name)
            self._file(walk, f"{base}/{name}", key, status)
        if odd == len(walk.odd):
            walk.listed[base] = there, [name for name, _ in found]

    def _inside(self, folder: str, there: Look, known: Known, walk: Walk) -> list[tuple[str, os.stat_result]]:
        """What is in a folder: each by its own stat where the names are known, else by listing it."""
        names = known(folder, there)
        if names is not None:
            with contextlib.suppress(OSError):  # then it is listed
                return [(name, _peek(f"{self._place}/{folder}/{name}")) for name in names]
        return list(self._entries(folder, walk))

    def _audio_key(self, kind: Key, name: str) -> str | None:
        stem, _, form = name.rpartition(".")
        if form not in self.formats:
            return None
        if kind.kind == GREETING:
            return greeting_key(str(kind.mailbox), stem) if stem in GREETINGS else None
        return str(kind._replace(name=stem)) if is_name(stem) else None

    def _file(self, walk: Walk, path: str, key: str | None, status: os.stat_result) -> None:
        if key is None:
            walk.odd[path] = "its name or format is not one that vmctl keeps here"
        elif not stat.S_ISREG(status.st_mode):
            walk.odd[path] = "it is no plain file; symbolic links are not followed"
        else:
            walk.files[path] = (key, look_of(status))

    def _entries(self, folder: str, walk: Walk) -> Iterator[tuple[str, os.stat_result]]:
        """Names and stats in a folder; leaves out our own temporary files and what editors hide."""
        found: list[tuple[str, os.stat_result]] = []
        with _unread(walk, folder or "."):
            found = sorted(_listed(self.root / folder if folder else self.root))
        yield from found

    def tombs(self) -> Iterator[tuple[str, str]]:
        """Path and key of what is left of each deleted message: its JSON, with stamps and presence."""
        graves = self.state / "deleted" / "mailboxes"
        for extension in filter(is_extension, beneath.names(graves)):
            for name in beneath.names(graves / extension / "messages"):
                ident, dot, suffix = name.rpartition(".")
                if dot and suffix == _JSON and is_name(ident):
                    yield f"{STATE}/deleted/{self.folder(extension)}/{name}", message_key(extension, ident)

    def messages(self, folder: str) -> dict[str, os.stat_result]:
        """Names and stats of a message folder's files. Raises StoreUnusable."""
        try:
            return dict(_listed(self.root / folder))
        except OSError as error:
            raise StoreUnusable(f"cannot read {folder}", why=error.strerror or str(error)) from error

    def beside(self, key: str) -> dict[str, os.stat_result]:
        """Names and stats of one message's own files, without listing its folder. Raises StoreUnusable."""
        paths = (self.path(key), *(self.audio_path(key, form) for form in self.formats))
        found = ((path.rpartition("/")[2], self._status(path)) for path in paths)
        return {name: status for name, status in found if status is not None}


@contextlib.contextmanager
def _unread(walk: Walk, path: str) -> Iterator[None]:
    """What is not there is left out; of any other fault of the disk the walk says that the path could not be read."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        walk.unread[path] = error.strerror or str(error)


def _ours(name: str) -> bool:
    # a name that begins with a dot or ends with a tilde is an editor's or rsync's work in progress
    return name == STATE or not (name.startswith((".", TEMP_PREFIX)) or name.endswith(("~", ".swp", ".tmp")))
