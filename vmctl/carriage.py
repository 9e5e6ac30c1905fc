"""How one server's mails leave and come in, as vmctl.yaml says: over the direct link, or through a mail server.

What does not go over the pinned direct link is sealed at the moment when it leaves.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from vmctl import keys, link
from vmctl.errors import KeyFault, KeyMissing, KeyUnknown, LoginRefused, PeerUnreachable, PeerUntrusted
from vmctl.keys import Public
from vmctl.mail_parts import in_base64
from vmctl.mail_sealed import wrap
from vmctl.receiver import Receiver
from vmctl.sender import Courier

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.config import Config, Relay
    from vmctl.errors import MailError
    from vmctl.outbox import Parcel

_SECRETS: dict[str, str] = {}  # what was in the environment of this process
_ANSWER_TIMEOUT, _SHORTEST_TIMEOUT = 30.0, 2.0  # seconds


class Carriage:
    """Takes the mails of a server that is here to its peer. For one thread at a time; `close` it in the end."""

    def __init__(self, config: Config, name: str, clock: Clock, address: tuple[str, int] | None = None) -> None:
        """To `address`, or to where the config says. Raises KeyMissing, KeyExposed."""
        self._config = config
        self._clock = clock
        self._me = config.servers[name]
        self._peer = config.peer_of(name)
        self._relay = config.relay if address is None and config.relay.address is not None else None
        place = address or config.relay.address or self._peer.address
        self._where = (place[0], place[1])
        self._known = self._peer.identities(clock.wall())
        if config.relay.password_env is not None:
            _from_environment(config.relay.password_env)  # before any program is run
        self._courier = self._made()

    def carry(self, parcel: Parcel) -> None:
        """Hand one mail over. Raises PeerUnreachable, MailRefused, MailTooLarge."""
        try:
            known = self._peer.identities(self._clock.wall())
            if known != self._known:  # the time of a former key is over: who has it is nobody from now on
                self._courier.close()
                self._courier, self._known = self._made(), known
            raw = self._as_it_leaves(parcel)
            self._courier.send(raw, self._me.mail, self._peer.mail, as_text=None if self._config.sealed else in_base64)
        except KeyFault as error:
            raise PeerUnreachable(error.what, why=error.why, hint=error.hint) from error

    def close(self) -> None:
        """Close the connection."""
        self._courier.close()

    def _made(self) -> Courier:
        return Courier(
            self._where,
            helo=_domain(self._me.mail),
            # a peer that hangs must not keep the heartbeats from the roles for long
            timeout=max(_SHORTEST_TIMEOUT, min(_ANSWER_TIMEOUT, self._config.failover.after / 3)),
            mail_max=self._config.mail.max,
            **(self._pinned() if self._relay is None else _to_relay(self._relay)),
        )

    def _pinned(self) -> dict[str, Any]:
        if self._config.link.plain:
            return {"tls": None}
        assert self._me.key is not None, "the config has a key for every server that is here"  # noqa: S101
        return {"tls": link.calling(self._me.key, self._peer.identities(self._clock.wall()))}

    def _as_it_leaves(self, parcel: Parcel) -> bytes:
        if not self._peer.identities(self._clock.wall()):
            raise PeerUntrusted(f"vmctl.yaml does not say yet who {self._peer.name} is", hint=KeyUnknown.hint)
        if not self._config.sealed:
            return parcel.raw
        to = self._peer.seal_key
        if to is None:
            raise PeerUntrusted(
                f"vmctl.yaml has no 'seal_key' of {self._peer.name}, so nothing is sent through others",
                hint=KeyUnknown.hint,
            )
        return wrap(
            parcel.raw, sender_address=self._me.mail, recipient_address=self._peer.mail, message_id=parcel.message_id,
            sent=self._clock.wall(), seal=lambda content: self._sealed(content, to),
        )  # fmt: skip

    def _sealed(self, content: bytes, to: str) -> bytes:
        try:
            return keys.seal(content, to)
        except ValueError as error:
            raise PeerUntrusted(
                f"'seal_key' of {self._peer.name} in vmctl.yaml is no key", why=str(error), hint=KeyUnknown.hint
            ) from error


def receiver(
    config: Config, name: str, clock: Clock, address: tuple[str, int] | None, *,
    take: Callable[[bytes, str], None], stray: Callable[[MailError, str], None],
) -> Receiver | None:  # fmt: skip
    """What listens at `address`, or where the config says; None where that is nowhere. Raises KeyMissing, KeyExposed."""
    me, peer = config.servers[name], config.peer_of(name)
    where = address or me.listen
    if where is None:
        return None
    return Receiver(
        (where[0], where[1]),
        hostname=_domain(me.mail),
        mail_max=config.mail.max,
        mine=me.mail,
        peer=peer.mail,
        take=take,
        stray=stray,
        peer_host=peer.address.host,
        tls=pinned(config, name, clock),
    )


def pinned(config: Config, name: str, clock: Clock) -> ssl.SSLContext | None:
    """What a server that is here is called with by its peer, as it is known now; None where the link is plain."""
    me = config.servers[name]
    assert me.key is not None, "the config has a key for every server that is here"  # noqa: S101
    return None if config.link.plain else link.receiving(me.key, config.peer_of(name).identities(clock.wall()))


def check_own_key(config: Config, name: str) -> None:
    """Raises KeyMissing where the key file of a server that is here holds other keys than vmctl.yaml names."""
    me = config.servers[name]
    assert me.key is not None, "the config has a key for every server that is here"  # noqa: S101
    key = keys.load_private(me.key)
    held = [public for public in (key.public, key.former) if public is not None]
    if me.public_key is not None and Public(me.public_key, me.seal_key or "") not in held:
        raise KeyMissing(
            f"{me.key} does not hold the keys of {name} that vmctl.yaml names",
            why="the other server would refuse all that it signs",
            hint="put the right key file back, or correct 'public_key' and 'seal_key' on both hosts: 'vmctl keys show'",
        )


def _to_relay(relay: Relay) -> dict[str, Any]:
    tls = None if relay.tls == "off" else link.to_relay(relay.ca, verified=relay.tls == "verified")
    return {"tls": tls, "login": None if relay.user is None else lambda: _login(relay)}


def _login(relay: Relay) -> tuple[str, str]:
    """The name and the password. Raises LoginRefused, KeyMissing, KeyExposed."""
    assert relay.user is not None  # noqa: S101 - else nobody asks
    if relay.password_file is not None:
        with contextlib.suppress(UnicodeDecodeError):
            return relay.user, keys.read_private(relay.password_file, "the password file").decode().rstrip("\r\n")
        raise LoginRefused(f"the password in {relay.password_file} is no UTF-8")
    password = _from_environment(relay.password_env or "")
    if not password:
        raise LoginRefused(f"the environment variable {relay.password_env} with the relay's password is not set")
    return relay.user, password


def _from_environment(name: str) -> str | None:
    """The value of a variable, which is taken out: programs that vmctl runs inherit the environment."""
    if name in os.environ:
        _SECRETS[name] = os.environ.pop(name)
    return _SECRETS.get(name)


def _domain(mail: str) -> str:
    return mail.rpartition("@")[2]
