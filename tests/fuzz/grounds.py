"""Where the product's own things are built for the targets, each at one place, and the good inputs that they give."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import itertools
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from wire import Wire, tone

from vmctl import durable, identity, keys, mail_sealed, writing
from vmctl import mail as mail_room
from vmctl.errors import RoleError
from vmctl.failover import Failover
from vmctl.mail_content import as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmctl.config import Config
    from vmctl.mail import SyncMail

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
LIVES = {"primary": "primary-00000000000a", "secondary": "secondary-00000000000b"}  # the same in every process
SCRATCH = "VMCTL_FUZZ_SCRATCH"  # names the directory of a process that cannot clear up after itself


def memory() -> Path | None:
    """A disk in memory, where there is one."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK) else None


@functools.cache
def scratch() -> Path:
    """A directory that goes with the process."""
    if SCRATCH in os.environ:
        return Path(os.environ[SCRATCH])
    made = Path(tempfile.mkdtemp(prefix="vmctl-fuzz-", dir=memory()))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextlib.contextmanager
def disk_in_memory() -> Iterator[None]:
    """Nobody here cuts the power, so no disk is waited for."""
    with mock.patch.object(durable, "_fsync"), mock.patch.object(durable, "_sync"):
        yield


class Network:
    """Two servers in use, with a bit of everything in their stores, and the mails that they have said."""

    def __init__(self) -> None:
        self.root = scratch() / "net"
        self.mails: list[SyncMail] = []
        self.raw: list[bytes] = []
        self.facts: dict[str, Any] = {}  # what the primary's mails say of the roles besides
        count = itertools.count(1)
        with (
            disk_in_memory(),
            mock.patch.object(identity, "new_incarnation", LIVES.__getitem__),
            mock.patch.object(secrets, "token_hex", lambda size: f"{next(count):0{2 * size}x}"),
            self.heard(),
        ):
            self.wire = Wire(self.root)
            self._fill()
            self.wire.close()
        self.config: Config = self.wire.config
        self.snapshot = scratch() / "snapshot"
        shutil.copytree(self.root, self.snapshot)

    def _fill(self) -> None:
        wire = self.wire
        sound = tone(scratch() / "sound.wav", frames=40, seed=1)
        store = FIXTURES / "active-standby/store"
        shutil.copy(store / "settings.yaml", wire.root() / "settings.yaml")
        shutil.copy(store / "callflows/legacy.yaml", wire.root() / "callflows/legacy.yaml")
        desk = wire.desk()
        desk.set_prompt("welcome", sound)
        desk.create_mailbox("2001", {"name": "Ada", "quota": 5})
        desk.create_mailbox("2002", {"name": "Bob"})
        desk.leave("2001", sound, ident="m-1")
        desk.leave("2002", sound, ident="m-2")
        desk.set_greeting("2001", "busy", sound)
        wire.start_roles()
        wire.in_step()
        desk.mark("2001", "m-1", "saved")
        desk.delete_message("2002", "m-2")
        desk.set_mailbox("2001", {"name": "Ada Byron"})
        wire.desk("secondary").set_mailbox("2001", {"name": "Ada King"})
        for name in wire.servers:
            with contextlib.suppress(RoleError):
                Failover(wire.servers[name]).order(next(iter(wire.config.services)), "failover", "fuzz")
            Failover(wire.servers[name]).tick()
        wire.exchange()
        desk.delete_mailbox("2002")
        desk.set_prompt("welcome", tone(scratch() / "other.wav", frames=60, seed=2))
        wire.send("primary", always=True)
        wire.send("secondary", always=True)
        roles = Failover(wire.a)
        roles.pause("fuzz", on=True, seconds=60.0)
        roles.set_mode("active-standby", "fuzz")
        self.facts = roles.facts()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Keep every mail that is composed."""
        compose = writing.compose

        def listening(mail: SyncMail, **how: Any) -> bytes:
            raw = compose(mail, **how)
            self.mails.append(mail)
            self.raw.append(raw)
            return raw

        with mock.patch.object(writing, "compose", listening):
            yield

    def again(self) -> Wire:
        """The same two servers, as they were; nothing that was done to them since is left."""
        for replica in self.wire.servers.values():
            with contextlib.suppress(Exception):
                replica.close()
        shutil.rmtree(self.root)
        shutil.copytree(self.snapshot, self.root)
        self.wire.under_way = []
        self.wire.clock.ahead = self.wire.clock.wall_ahead = 0.0
        for name in self.wire.servers:
            self.wire.open(name)
        return self.wire


@functools.cache
def network() -> Network:
    """The network of this process."""
    return Network()


def sample() -> list[bytes]:
    """The JSON of some mails of the primary, the smallest and the richest."""
    mails = sorted((one for one in network().mails if one.sender == "primary"), key=lambda mail: len(mail.records))
    return [json.dumps(as_json(mail)).encode() for mail in (mails[0], mails[len(mails) // 2], mails[-1])]


def parse(raw: bytes, *, believed: bool) -> SyncMail:
    """The mail as the secondary parses it."""
    words = {"network": network().config.network, "me": "secondary", "peer": "primary"}
    return mail_room.parse(raw, **words, verify=lambda _signature, _data: believed)


@functools.cache
def key() -> keys.PrivateKey:
    """The primary's."""
    path = network().config.servers["primary"].key
    assert path is not None
    return keys.load_private(path)


def compose(mail: SyncMail) -> bytes:
    """The mail as the primary writes it."""
    subject, summary = mail_room.describe(mail)
    return mail_room.compose(
        mail,
        sender_address="vmctl@primary.example",
        recipient_address="vmctl@secondary.example",
        message_id="<1.a@primary.example>",
        sign=lambda data: key().signatures(data, former=False),
        summary=summary,
        subject=subject,
    )


def sealed(content: bytes) -> bytes:
    """A mail that carries another one sealed for the secondary."""
    server = network().config.servers["secondary"]
    return mail_sealed.wrap(
        content,
        sender_address="vmctl@primary.example",
        recipient_address=server.mail,
        message_id="<2.a@primary.example>",
        sent=10**15,
        seal=lambda data: keys.seal(data, server.seal_key),
    )


def wav(frames: int = 40) -> bytes:
    """A recording."""
    import wave

    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(range(256)) * 2 * (frames // 256 + 1))
    return sound.getvalue()
