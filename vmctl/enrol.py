"""Who may belong to a network: keys are made where they stay, shown as a code, trusted, exchanged and retired.

A private key never leaves its host. What one host knows of the other one's server stands in its vmctl.yaml, and gets there
as a code that a person brings over, and whose fingerprint two persons can compare.
"""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import config_edit, durable, keys
from vmctl.clock import rfc3339
from vmctl.errors import BadValue, KeyMissing, KeyPresent, KeyUnknown, StoreError
from vmctl.identity import DIRECTORY
from vmctl.journal import Journal
from vmctl.keys import Public
from vmctl.names import is_name
from vmctl.replica import store_lock

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config, Server

log = logging.getLogger("vmctl.enrol")

_MARK = "vmctl-keys"
_IDENTITY = 32  # bytes


class Code(NamedTuple):
    """The public keys of one server of one network."""

    network: str
    server: str
    public: Public

    def __str__(self) -> str:
        """One word, to be copied."""
        raw = keys.parse_public(self.public.identity) + keys.parse_seal(self.public.seal)
        return ".".join((_MARK, self.network, self.server, base64.urlsafe_b64encode(raw).decode("ascii")))

    @classmethod
    def read(cls, text: str) -> Code:
        """The code in a text, wherever it was broken into lines. Raises BadValue."""
        word = "".join(text.split())
        try:
            mark, network, server, last = word.split(".")
            raw = base64.urlsafe_b64decode(last.encode("ascii"))
            seal = keys.SEAL_PREFIX + base64.b64encode(raw[_IDENTITY:]).decode("ascii")
            keys.parse_seal(seal)
            code = cls(network, server, Public(keys.public_text(raw[:_IDENTITY]), seal))
            keys.check_public(code.public)
        except ValueError as error:
            raise _no_code(word) from error
        if mark != _MARK or not is_name(network) or not is_name(server) or str(code) != word:
            raise _no_code(word)
        return code


def public_of(server: Server) -> Public:
    """What vmctl.yaml says of a server. Raises KeyUnknown."""
    if server.public_key is None or server.seal_key is None:
        raise KeyUnknown(f"vmctl.yaml does not say yet who {server.name} is")
    return Public(server.public_key, server.seal_key)


def code_of(config: Config, name: str) -> Code:
    """The code of a server. Raises KeyUnknown."""
    return Code(config.network, name, public_of(config.servers[name]))


def trust(config: Config, code: Code, clock: Clock, window: float) -> Config | None:
    """Pin a server's keys in vmctl.yaml; those before count as well for `window` seconds. None where they are pinned already.

    Raises BadValue for the code of another network, or of a server that is here and has other keys, and as `config_edit`.
    """
    if code.network != config.network or code.server not in config.servers:
        raise BadValue(
            f"this is the code of {code.server} of network {code.network}",
            why=f"here it is network {config.network}", hint="bring the code of this network's other server",
        )  # fmt: skip
    server = config.servers[code.server]
    before = (server.public_key, server.seal_key)
    if before == code.public:
        return None
    if server.key is not None and code.public != keys.load_private(server.key).public:
        raise BadValue(
            f"{code.server} is here, and has other keys", hint="give this code on the other host: there it is needed"
        )
    with config_edit.turn(config.path):
        made = _pin(config, code, clock, window)
    _tell_exchange(made, code, clock, first=before[0] is None)
    return made


def rotate(config: Config, name: str, clock: Clock, window: float) -> Config:
    """Give a server that is here new keys; those before count as well for `window` seconds.

    Cut off at any moment, it is done again. Raises KeyPresent while the last rotation lasts, unless this one is to end
    it, and as `load_private` and `config_edit`.
    """
    path, me = _key_of(config, name), config.servers[name]
    with config_edit.turn(config.path):
        config_edit.check(config.path, name)
        _clear_leftovers(path.parent)
        key = keys.load_private(path)
        if key.public.identity == me.public_key:  # else the file has its new keys already
            if window > 0 and key.former is not None and clock.wall() < me.former_until:
                raise KeyPresent(
                    f"the last exchange of {name}'s keys lasts until {rfc3339(me.former_until)}",
                    hint=f"'vmctl keys retire --server {name}' ends it, once the other host trusts the present ones",
                )
            key = keys.rotate(path, name)
        code = Code(config.network, name, key.public)
        made = _pin(config, code, clock, window)
        if window <= 0:
            keys.retire(path, name)
    _tell_exchange(made, code, clock, first=False)
    return made


def retire(config: Config, name: str, clock: Clock) -> bool:
    """End the exchange of a server's keys: the former count no more here, and are destroyed where they are here.

    Tells whether there were any.
    """
    server = config.servers[name]
    with config_edit.turn(config.path):
        if server.key is not None:
            _clear_leftovers(server.key.parent)
        went = server.key is not None and keys.retire(server.key, name) is not None
        if server.former_key is None:
            return went
        config_edit.change(config.path, {name: {"former_key": None, "former_until": None}})
    _tell(config, clock, "former keys retired", of=name)
    return True


def settle_here(config: Config, name: str) -> Config:
    """Let a vmctl.yaml that came from the other host say that the store of `name` is here, and the other one only if it is."""
    other = config.peer_of(name)
    changes: dict[str, config_edit.Changes] = {name: {"store": name, "key": f"keys/{name}.pem"}}
    if other.store is not None and not (other.store / DIRECTORY).exists():
        changes[other.name] = {"store": None, "key": None}
    return config_edit.change(config.path, changes)


def make_keys(config: Config, name: str, *, anew: bool = False) -> tuple[Config, bool]:
    """See to it that a server that is here has keys, and that vmctl.yaml names them; tells whether they were made.

    Keys that vmctl.yaml names and that are not here are made anew only with `anew`. Raises KeyMissing, and as
    `config_edit`.
    """
    path, me = _key_of(config, name), config.servers[name]
    made = False
    if not path.exists():
        if me.public_key is not None and not anew:
            other = config.peer_of(name).name
            raise KeyMissing(
                f"there is no {path}, and vmctl.yaml names keys of {name}",
                hint=f"if this is the host of {other}, say 'vmctl join --server {other}'; else put the key file back, or "
                f"where it is lost make new ones with 'vmctl join --server {name} --new-keys'",
            )
        keys.generate(path, name)
        made = True
    public = keys.load_private(path).public
    if (me.public_key, me.seal_key) != public and (made or me.public_key is None):
        config = config_edit.change(config.path, {name: {"public_key": public.identity, "seal_key": public.seal}})
    return config, made


def _key_of(config: Config, name: str) -> Path:
    path = config.servers[name].key
    assert path is not None, "the config has a key for every server that is here"  # noqa: S101
    return path


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed command left half-written: it may hold keys. Nobody else writes there in this turn."""
    for path in folder.glob(f"{durable.TEMP_PREFIX}*"):
        durable.discard(path)


def _pin(config: Config, code: Code, clock: Clock, window: float) -> Config:
    """Without a window nothing but these keys counts from now on: neither those before nor any before them."""
    before = config.servers[code.server].public_key
    changes: config_edit.Changes = {"public_key": code.public.identity, "seal_key": code.public.seal}
    if before != code.public.identity:
        kept = before is not None and window > 0
        until = rfc3339(clock.wall() + int(window * 1_000_000))
        changes |= {"former_key": before if kept else None, "former_until": until if kept else None}
    return config_edit.change(config.path, {code.server: changes})


def _tell_exchange(config: Config, code: Code, clock: Clock, *, first: bool) -> None:
    until = config.servers[code.server].former_until
    facts = {"former_until": rfc3339(until)} if until else {}
    event = "keys trusted" if first else "keys exchanged"
    _tell(config, clock, event, of=code.server, fingerprint=keys.fingerprint(code.public), **facts)


def _tell(config: Config, clock: Clock, event: str, **facts: Any) -> None:
    """Into the journal of each server that is here and has a store. It is done already: a fault here takes nothing back."""
    for server in config.here():
        root = server.store
        if root is None or not (root / DIRECTORY).is_dir():
            continue
        try:
            with store_lock(root):
                journal = Journal(root / DIRECTORY / "journal.jsonl", config.journal.max)
                journal.tell(event, at=clock.wall(), server=server.name, **facts)
        except StoreError as error:
            log.warning("%s could not be journalled at %s: %s", event, server.name, error.words)


def _no_code(word: str) -> BadValue:
    return BadValue(
        f"{word[:40]!r} is no code of keys", why=f"one begins with '{_MARK}.' and is one long word",
        hint="copy all of what 'vmctl keys show --code' prints on the other host",
    )  # fmt: skip
