"""Files that people and programs write: vmctl.yaml, YAML, messages, identities, recordings, and a whole store of them."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from typing import TYPE_CHECKING, Any

from wire import lose_index

from fuzz import grounds, mutate
from fuzz.target import Target
from fuzz.targets.changes import MORE
from vmctl import audio, config, enrol, identity, keys, yamltext
from vmctl.config_keys import KEYS
from vmctl.errors import (
    BadAudio,
    BadValue,
    BrokenFile,
    CallflowFaults,
    ConfigFaults,
    StoreDamaged,
    StoreForeign,
    StoreNewer,
)
from vmctl.model import CALLFLOW, MAILBOX, SETTINGS
from vmctl.replica import Replica
from vmctl.store import documents

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

_YAML = (
    b"\n", b": ", b"- ", b"  ", b"? ", b"|\n", b">-\n", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!str ", b"!!int ", b"!!python/object:os.system ", b"!<tag> ", b"! ", b"%YAML 1.2\n",
    b"---\n", b"...\n", b"#", b"'", b'"', b"\\x00", b"\\ud800", b"\\U0010ffff", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"\t", b"\r", b"null", b"~", b"true", b"no", b".inf",
    b".nan", b"1e999", b"0x10", b"0o7", b"1_000", b"12:30:00", b"2026-01-01", b"<<: ", b"=", b"- - - - ", b"{a: {a: {a: ", b"[[[[[[[[",
)  # fmt: skip


def _words(*more: str) -> tuple[bytes, ...]:
    return (*_YAML, *(word.encode() for word in more))


def _blind(tokens: tuple[bytes, ...], data: bytes, chance: Random, longest: int) -> bytes:
    """Another text: by its lines, or blindly."""
    if chance.random() < 0.6:
        return mutate.of_bytes(data, chance, longest, tokens)
    return b"".join(mutate.of_pieces(data.splitlines(keepends=True), chance))[:longest]


# vmctl.yaml

_CONFIG_WORDS = _words(
    *{part for key in KEYS for part in key.path.split(".")}, "active-standby", "dual-active", "primary", "secondary", "1s", "10m", "30d", "0.5 s", "1e3s", "64kB", "16MB", "999999999999GiB",
    "127.0.0.1:2525", "[::1]:25", "[::1%eth0]:25", "0.0.0.0:25", "localhost:1", "ed25519:", "../x", "~/x", "/", "https://x/", "http://[::1]:1/y", "a@b", "service-2:", "webhooks:", "'*'",
)  # fmt: skip


def configs() -> list[bytes]:
    """The vmctl.yaml of a new network with and without its comments, in both modes, and one with what most leave out."""
    made = grounds.network().config.path.read_bytes()
    bare = b"".join(
        each for each in made.splitlines(keepends=True) if each.strip() and not each.lstrip().startswith(b"#")
    )
    small = b"".join(each for each in bare.splitlines(keepends=True) if b"seal_key" not in each)
    more = small
    for plain, rich in _MORE_OF_CONFIG.items():
        more = more.replace(plain, rich)
    return [made, bare, small.replace(b"active-standby", b"dual-active"), more]


_MORE_OF_CONFIG = {
    b"webhooks:\n": b"webhooks:\n  portal:\n    url: http://portal.example/told\n",
    b"  endpoints: []\n": b"  endpoints: [http://127.0.0.1:2379]\n",
    b"hooks:\n  timeout": b"hooks:\n  on_active: [/bin/true, x]\n  timeout",
    b"relay:\n": b"relay:\n  address: mail.example:587\n  user: ada\n",
    b"    extensions: []\n": b"    extensions: [2001, '0201']\n",
}


def run_config(data: bytes) -> None:
    """A config, or all that is wrong with it, each fault with the key and its mend; the same each time."""
    path = grounds.scratch() / "vmctl.yaml"
    try:
        made = config.parse(data, path)
    except ConfigFaults as error:
        told = json.dumps(error.as_json()).encode()
        assert error.faults, "it is refused, and nothing says why"
        for fault in error.faults:
            assert set(fault) == {"file", "key", "why", "mend"}
            assert fault["why"], fault
            assert fault["mend"], fault
        assert len(told) < 1000 + 40 * len(data) + 2000 * len(error.faults)
        return
    assert config.parse(data, path) == made
    assert made.differing(made.digests) == []
    json.dumps(made.shared)
    for service in made.services.values():
        for extension in service.extensions:
            assert made.service_of(extension, None) == service.name


# YAML


def yamls() -> list[bytes]:
    """The YAML of the fixtures' stores."""
    files = sorted(grounds.FIXTURES.rglob("*.yaml"))
    return [path.read_bytes() for path in files if path.parent.name != "dual-active"]


def run_yaml(data: bytes) -> None:
    """A value that comes back the same when it is written, or BrokenFile; and likewise each kind of file."""
    try:
        value = yamltext.load(data, "x.yaml")
    except BrokenFile as error:
        _check_words(error)
        value = None
    else:
        text = yamltext.dump(value)
        if len(text.encode()) <= yamltext.SIZE:
            assert _same(yamltext.load(text, "x.yaml"), value), "a value is another one when it is written"
    for kind in (SETTINGS, CALLFLOW, MAILBOX):
        try:
            document = documents.read_yaml(kind, data, "x.yaml")
        except (BrokenFile, BadValue, CallflowFaults) as error:
            _check_words(error)
            continue
        written = documents.write_yaml(kind, document)
        if len(written) <= yamltext.SIZE:
            again = documents.read_yaml(kind, written, "x.yaml")
            assert _same(again, document), f"a {kind} is another one when it is written"
    try:
        documents.check_callflow(data, "x.yaml", ["welcome", "menu"], ["2001", "2003"])
    except CallflowFaults as error:
        json.dumps(error.as_json()).encode()
    except BrokenFile as error:
        _check_words(error)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are alike, their types too: 1 is not 1.0, and -0.0 is not 0.0. The order of keys does not count."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _check_words(error: BrokenFile | BadValue | CallflowFaults) -> None:
    assert "\n" not in error.words, error.words
    assert len(error.words) < 1500, error.words
    json.dumps(error.as_json()).encode()


# A message


def messages() -> list[bytes]:
    """The message files of a store in use, one that another program wrote, and one without recording."""
    found = sorted(grounds.network().snapshot.rglob("messages/*.json"))
    bare = {"id": "m-1", "from": "+442079460123", "received": "2026-01-31T08:15:00Z", "status": "new"}
    return [*(path.read_bytes() for path in found), json.dumps(bare).encode()]


def run_message(data: bytes) -> None:
    """A document, and a record that comes back the same when it is written; or BrokenFile."""
    key = "message/2001/m-1"
    try:
        document, record = documents.read_message(key, data, "m-1.json")
    except BrokenFile as error:
        _check_words(error)
        return
    if record is not None:
        assert record.document == document
        written = documents.write_message(record)
        assert documents.read_message(key, written, "m-1.json") == (document, record)


# identity.json


def identities() -> list[bytes]:
    """That of a store."""
    return [(grounds.network().snapshot / "primary/.vmctl/identity.json").read_bytes()]


@functools.cache
def _bare() -> Path:
    made = grounds.scratch() / "bare"
    (made / ".vmctl").mkdir(parents=True)
    return made


def run_identity(data: bytes) -> None:
    """Whose store it is, in names that may become paths; or that it cannot be told."""
    store = _bare()
    (store / ".vmctl/identity.json").write_bytes(data)
    try:
        whose = identity.read(store, grounds.network().config.network, "primary")
    except (StoreDamaged, StoreNewer, StoreForeign) as error:
        json.dumps(error.as_json()).encode()
        return
    assert (whose.network, whose.server) == (grounds.network().config.network, "primary")


# Recordings

_CHUNKS = (
    b"RIFF",
    b"WAVE",
    b"fmt ",
    b"data",
    b"LIST",
    b"fact",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\1\0",
    b"\xfe\xff",
    b"\6\0",
    b"RIFX",
    b"RF64",
)


def recordings() -> list[bytes]:
    """A short one, one with another chunk before its sound, and one in ulaw."""
    plain = grounds.wav()
    listed = plain[:12] + b"LIST" + struct.pack("<I", 4) + b"INFO" + plain[12:]
    law = plain[:20] + struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8) + plain[36:]
    return [plain, listed, law]


def change_recording(data: bytes, chance: Random, longest: int) -> bytes:
    """Another one: a number in its head, or blindly."""
    if len(data) < 44 or chance.random() < 0.5:
        return mutate.of_bytes(data, chance, longest, _CHUNKS)
    form, offset = chance.choice(
        (("<I", 4), ("<I", 16), ("<H", 20), ("<H", 22), ("<I", 24), ("<I", 28), ("<H", 32), ("<H", 34), ("<I", 40))
    )
    number = chance.choice(mutate.NUMBERS) % (1 << 8 * struct.calcsize(form))
    return data[:offset] + struct.pack(form, number) + data[offset + struct.calcsize(form) :]


def run_recording(data: bytes) -> None:
    """How long it plays, not longer than is allowed; or BadAudio."""
    path = grounds.scratch() / "x.wav"
    path.write_bytes(data)
    try:
        found = audio.inspect(path, formats=("wav",), longest=600.0)
    except BadAudio as error:
        json.dumps(error.as_json()).encode()
        return
    assert found.seconds is not None
    assert 0 <= found.seconds <= 600
    assert found.size == len(data)


# The code of a server's keys


def codes() -> list[bytes]:
    """That of a server, as it is printed and as a mail reader may break it."""
    code = str(enrol.code_of(grounds.network().config, "primary")).encode()
    return [code, b"\n".join(code[at : at + 70] for at in range(0, len(code), 70))]


def run_code(data: bytes) -> None:
    """The keys of a server that can be pinned and checked with; or BadValue."""
    try:
        code = enrol.Code.read(data.decode("utf-8", "surrogateescape"))
    except BadValue as error:
        json.dumps(error.as_json()).encode()
        assert len(error.words) < 400, error.words
        return
    assert enrol.Code.read(str(code)) == code
    keys.fingerprint(code.public)
    with contextlib.suppress(ValueError):  # of the right length, and no point of the curve
        keys.verify(code.public.identity, b"s" * 64, b"")
    with contextlib.suppress(ValueError):
        keys.seal(b"x", code.public.seal)


# A store

_PLACES = (
    b"settings.yaml", b"callflows/legacy.yaml", b"callflows/new.yaml", b"mailboxes/2001/mailbox.yaml", b"mailboxes/2001/messages/m-1.json", b"mailboxes/2001/messages/m-3.json",
    b"mailboxes/2001/messages/m-1.wav", b"mailboxes/2001/greetings/busy.wav", b"prompts/welcome.wav", b"prompts/new.wav",
    b".vmctl/deleted/mailboxes/2002/mailbox.yaml.tomb.json", b".vmctl/deleted/mailboxes/2002/messages/m-2.json", b".vmctl/deleted/mailboxes/2002/mailbox.yaml",
)  # fmt: skip


def stores() -> list[bytes]:
    """Each kind of file of a store in use, after a line that says where it lies."""
    root = grounds.network().snapshot / "primary"
    return [
        place + b"\n" + (root / place.decode()).read_bytes() for place in _PLACES if (root / place.decode()).exists()
    ]


def change_store(data: bytes, chance: Random, longest: int) -> bytes:
    """Another file, or the same one at another place."""
    place, _, body = data.partition(b"\n")
    if chance.random() < 0.05:
        place = chance.choice(_PLACES)
    if place.endswith(b".json"):
        body = mutate.of_json_bytes(body, chance, longest, (), MORE)
    elif place.endswith(b".wav"):
        body = change_recording(body, chance, longest)
    else:
        body = _blind(_words(*MORE), body, chance, longest)
    return (place + b"\n" + body)[:longest]


def run_store(data: bytes) -> None:
    """A scan takes the file or names its fault and leaves it as it is; all else goes on, and the peer takes what is said.

    Of a file below `.vmctl` this is asked of a server that has lost its index.
    """
    place, _, body = data.partition(b"\n")
    if place not in _PLACES:
        return
    with grounds.disk_in_memory():
        wire = grounds.network().again()
        path = wire.root() / place.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        if place.startswith(b".vmctl"):  # what is left of the dead is read where the index was lost
            lose_index(wire, "primary")
        wire.clock.advance(5.0)
        wire.a.scan_settled(wire.clock.advance, full=True)
        faulty = [fault for fault in wire.a.index.faults.all() if fault["path"] == place.decode()]
        json.dumps(wire.a.index.faults.all()).encode()
        if faulty and place != b"mailboxes/2001/messages/m-1.wav":  # such a recording is put back from the pool
            assert path.read_bytes() == body, f"a file that cannot be read was changed: {faulty} {path.read_bytes()!r}"
        wire.desk().create_mailbox("2009", {"name": "Cy"})
        wire.exchange(8)
        for server in wire.servers.values():
            assert not server.spool.refused(), "the peer refused a mail"
        assert "2009" in wire.b.store.names("mailbox"), "what else was changed did not come through"
        assert not wire.b.index.faults.all(), f"the peer cannot read what it wrote: {wire.b.index.faults.all()}"
        wire.a.close()
        Replica.open(wire.config, "primary", wire.clock).close()


CONFIG = Target("config", "vmctl.yaml", run_config, configs, functools.partial(_blind, _CONFIG_WORDS), _CONFIG_WORDS)
YAML = Target(
    "yaml",
    "YAML of settings, mailboxes and callflows",
    run_yaml,
    yamls,
    functools.partial(_blind, _words(*MORE)),
    _words("schema: vmctl/1", "type: ", "menu", "schedule", "week:", "calendar:", "days: [mon-sun]", "hours: ['00:00-24:00']", "dates: ['02-29']", "'2026-01-01/2027-01-01'",
    "zone: UTC", "zone: ../x", "next: ", "otherwise: ", "choices:", "start:", "nodes:", "default:", "hangup", "transfer", "record", "greet", "play", "pin:", "quota:", "lists:"),
)  # fmt: skip
MESSAGE = Target(
    "message",
    "the JSON file of a message",
    run_message,
    messages,
    functools.partial(mutate.of_json_bytes, words=(*MORE, "stamps", "sync")),
)
IDENTITY = Target("identity", "identity.json", run_identity, identities, mutate.of_json_bytes, longest=4096)
RECORDING = Target("recording", "a WAV file", run_recording, recordings, change_recording, _CHUNKS, longest=1 << 13)
CODE = Target(
    "code",
    "the code of a server's keys",
    run_code,
    codes,
    functools.partial(_blind, (b"vmctl-keys", b".", b"=", b"==")),
    longest=8192,
)
STORE = Target("store", "one file of a store that is scanned and shipped", run_store, stores, change_store)
