"""`.vmctl/identity.json` makes a directory a store: which network and server it belongs to, and which life of it.

An unmounted store looks like an empty one, so a directory without this file is missing, never empty: nothing is read
from it, written to it or made in it. The incarnation names one life of a server's memory. A store whose memory was
lost or rolled back takes a new one, which tells the peer to start over with it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import beneath, durable
from vmctl.errors import AlreadyExists, StoreDamaged, StoreForeign, StoreMissing, StoreNewer, StoreUnusable
from vmctl.names import is_name

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1  # version of this file
DIRECTORY = ".vmctl"
_FILE = "identity.json"
_LARGEST_FILE = 65_536


class Identity(NamedTuple):
    """Whose store it is; `format` is how its files are laid out (`native`, `asterisk`)."""

    v: int
    network: str
    server: str
    incarnation: str
    format: str


def new_incarnation(server: str) -> str:
    """A name for one life of a server's memory: `<server>-<12 hex digits>`, never used before."""
    return f"{server}-{os.urandom(6).hex()}"


def create(store: Path, network: str, server: str, format: str = "native") -> Identity:  # noqa: A002 - the file's word
    """Make the directory `store` a store, with what is missing of it. Raises AlreadyExists when it is one."""
    identity = Identity(FORMAT, network, server, new_incarnation(server), format)
    beneath.fence(store)
    durable.make_directory(store / DIRECTORY, mode=0o700)
    if not durable.create(_path(store), _encoded(identity)):
        raise AlreadyExists(f"{store} is a store already", hint="use it as it is, or name another directory")
    return identity


def read(store: Path, network: str, server: str) -> Identity:
    """Whose store it is, if it is that server's of that network. It makes and changes nothing.

    Raises StoreMissing, StoreForeign, StoreNewer, StoreDamaged or StoreUnusable.
    """
    identity = look(store)
    if (identity.network, identity.server) != (network, server):
        raise StoreForeign(
            f"{store} belongs to server {identity.server} of network {identity.network}",
            why=f"vmctl.yaml says that it is the store of server {server} of network {network}",
        )
    return identity


def look(store: Path) -> Identity:
    """Whose store it is, whoever it is. Raises StoreMissing, StoreNewer, StoreDamaged or StoreUnusable."""
    return _decoded(_content(store), _path(store))


def renew(store: Path, network: str, server: str) -> Identity:
    """Give the store a new incarnation. Raises as `read` does."""
    identity = read(store, network, server)._replace(incarnation=new_incarnation(server))
    durable.write(_path(store), _encoded(identity))
    return identity


def _path(store: Path) -> Path:
    return store / DIRECTORY / _FILE


def _encoded(identity: Identity) -> bytes:
    return (json.dumps(identity._asdict(), indent=2) + "\n").encode()


def _content(store: Path) -> bytes:
    path = _path(store)
    beneath.fence(store)
    try:
        with beneath.file(path) as file:
            return file.read(_LARGEST_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        if store.is_dir():
            raise StoreMissing(
                f"{store} is there, but {DIRECTORY}/{_FILE} is not", why="without it a directory is no store"
            ) from error
        raise StoreMissing(f"the store {store} is not there") from error
    except OSError as error:
        raise StoreUnusable(f"cannot read {path}", why=error.strerror or str(error)) from error


def _decoded(content: bytes, path: Path) -> Identity:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON: {error}") from error
    if not isinstance(value, dict) or type(value.get("v")) is not int:
        raise _damaged(path, "it does not say its version, 'v'")
    if value["v"] > FORMAT:
        raise StoreNewer(f"{path} has version {value['v']}", why=f"this vmctl knows versions up to {FORMAT}")
    words: dict[str, Any] = {name: value.get(name) for name in ("network", "server", "incarnation", "format")}
    for name, word in words.items():
        if not is_name(word):
            raise _damaged(path, f"its {name!r} is missing or no name")
    return Identity(value["v"], **words)


def _damaged(path: Path, why: str) -> StoreDamaged:
    return StoreDamaged(f"{path} is damaged", why=why)
