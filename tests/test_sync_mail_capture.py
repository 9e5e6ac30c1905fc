"""A sync mail as it comes over the wire, read as any mail reader would: with the standard library alone."""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
import hashlib
import io
import json
import math
import socketserver
import threading
import wave
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from running import Net, wav

from vmctl import errors
from vmctl.clock import Clock
from vmctl.desk import Desk
from vmctl.replica import Replica

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

PIN = "48151623"


class Captured(NamedTuple):
    """A mail as it came: who handed it over for whom, and its bytes."""

    sender: str
    recipient: str
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        """The mail as the standard library reads it."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    def part(self, name: str) -> Any:
        """The content of the part of this file name."""
        (found,) = [part for part in self.message.iter_attachments() if part.get_filename() == name]
        return found.get_content()

    @property
    def changes(self) -> dict[str, Any]:
        """What counts."""
        value: dict[str, Any] = json.loads(self.part("changes.json"))
        return value

    def attached(self, kind: str) -> list[EmailMessage]:
        """The attachments of a kind."""
        return [part for part in self.message.iter_attachments() if part.get_content_type() == kind]


class _Talk(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as a mail needs."""

    timeout = 20.0

    def handle(self) -> None:
        self._say("220 sink")
        sender = recipient = ""
        while line := self.rfile.readline():
            verb, _, rest = line.decode("ascii").strip().partition(" ")
            verb = verb.upper()
            if verb == "MAIL":
                sender = rest.partition("<")[2].partition(">")[0]
            elif verb == "RCPT":
                recipient = rest.partition("<")[2].partition(">")[0]
            elif verb == "DATA":
                self._say("354 go on")
                self.server.mails.append(Captured(sender, recipient, self._data()))  # type: ignore[attr-defined]
            self._say("221 bye" if verb == "QUIT" else "250 fine")
            if verb == "QUIT":
                return

    def _data(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            assert line.endswith(b"\r\n"), "the connection ended in a mail"
            assert len(line) <= 1000, "a line is longer than RFC 5321 allows"
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _Sink(socketserver.ThreadingTCPServer):
    """A mail server that takes everything and keeps it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Talk)
        self.mails: list[Captured] = []


def send_away(net: Net) -> None:
    """The secondary is on another host from now on."""
    text = (net.root / "vmctl.yaml").read_text()
    for line in ("    store: secondary\n", "    key: keys/secondary.pem\n"):
        assert line in text
        text = text.replace(line, "")
    (net.root / "vmctl.yaml").write_text(text)


def ship(net: Net, seconds: float = 1.0) -> list[Captured]:
    """What one `vmctl sync` sends to a peer that takes every mail and never answers."""
    address = net.config.servers["secondary"].address
    with _Sink((address.host, address.port)) as sink:
        thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            done = net.run("sync", "--timeout", str(seconds), "--server", "primary")
        finally:
            sink.shutdown()
            thread.join()
    assert errors.NotInStep.exit_code == done.returncode, done.stderr
    assert sink.mails, "nothing was sent"
    return sink.mails


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The recordings that are put into the store, by name."""
    folder = tmp_path_factory.mktemp("recordings")
    levels = {"one": 1, "two": 200, "busy": 3000, "welcome": 4000}
    return {
        name: wav(folder / f"{name}.wav", frames=1000 + level, level=level).read_bytes()
        for name, level in levels.items()
    }


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, left: dict[str, bytes]) -> tuple[Net, Captured]:
    """The first mail of a server that has a bit of everything."""
    root = tmp_path_factory.mktemp("capture")
    net = Net.make(root / "net", link__plain=True, mail__seal="never")
    files = {name: root / f"{name}.wav" for name in left}
    for name, path in files.items():
        path.write_bytes(left[name])
    with Replica.open(net.config, "primary", Clock()) as replica:
        desk = Desk(replica)
        desk.create_mailbox("2001", {"name": "Ada Býron", "pin": PIN, "language": "en-GB"})
        for name in ("one", "two"):
            desk.leave("2001", files[name], caller="+442079460123", ident=f"m-{name}")
        desk.set_greeting("2001", "busy", files["busy"])
        desk.set_prompt("welcome", files["welcome"])
        desk.set_settings({"defaults.quota": 50})
    send_away(net)
    return net, ship(net)[0]


def test_the_headers_say_what_they_should(captured: tuple[Net, Captured]) -> None:
    """From whom, for whom, when, what it brings; no auto-reply to it; an id of its own."""
    net, mail = captured
    message = mail.message
    assert [] == message.defects
    addresses = [net.config.servers[name].mail for name in ("primary", "secondary")]
    assert addresses == [mail.sender, mail.recipient]
    assert addresses == [email.utils.parseaddr(message[name])[1] for name in ("From", "To")]
    assert "1.0" == message["MIME-Version"]
    assert "auto-generated" == message["Auto-Submitted"]
    assert "voice-message" == message["Message-Context"]
    assert mail.changes["packet"] == message["X-Vmctl-Packet"]
    assert message["Subject"].startswith("vmctl primary to secondary: ")
    assert "2 messages for 2001" in message["Subject"]
    sent = message["Date"].datetime
    assert timedelta(0) == sent.utcoffset()
    assert abs(datetime.now(UTC) - sent) < timedelta(minutes=5)
    ident, at, host = message["Message-ID"].strip("<>").partition("@")
    assert (ident.isalnum(), "@", addresses[0].partition("@")[2]) == (True, at, host)
    assert len(message.keys()) == len({name.lower() for name in message.keys()})  # noqa: SIM118 - a mapping with doubles


def test_every_attempt_has_an_id_of_its_own(captured: tuple[Net, Captured]) -> None:
    """The same changes, sent again, go under another Message-ID, and under the same packet id."""
    net, mail = captured
    again = ship(net, 0.3)[0]
    assert {record["key"] for record in mail.changes["records"]} == {
        record["key"] for record in again.changes["records"]
    }
    assert mail.message["Message-ID"] != again.message["Message-ID"]
    assert mail.message["X-Vmctl-Packet"] == again.message["X-Vmctl-Packet"]


def test_the_summary_is_for_people(captured: tuple[Net, Captured]) -> None:
    """The mail's text names every record and recording in words, and no PIN; it is plain text that comes first."""
    _, mail = captured
    first = next(mail.message.iter_parts())
    text = mail.message.get_body().get_content()
    assert "text/plain" == first.get_content_type()
    assert text == first.get_content()
    for words in (
        "from primary to secondary, network net", "name = Ada Býron", "- message 2001/m-one:", "- message 2001/m-two:",
        "- greeting 2001/busy:", "- prompt welcome:", "defaults.quota = 50", "+442079460123", mail.message["X-Vmctl-Packet"],
        "4 recordings",
    ):  # fmt: skip
        assert words in text
    assert PIN.encode() not in mail.raw
    assert PIN not in mail.part("changes.json").decode()
    assert "scrypt" not in text


def test_the_changes_are_json(captured: tuple[Net, Captured]) -> None:
    """changes.json is one object: who speaks to whom in which network, and each record with its fields."""
    net, mail = captured
    changes = mail.changes
    assert (1, "primary", "secondary", net.config.network) == tuple(
        changes[name] for name in ("v", "sender", "recipient", "network")
    )
    records = {record["key"]: record for record in changes["records"]}
    assert set(records) == {
        "settings", "mailbox/2001", "greeting/2001/busy", "prompt/welcome", "message/2001/m-one", "message/2001/m-two",
    }  # fmt: skip
    assert "Ada Býron" == records["mailbox/2001"]["fields"]["name"]["is"]
    assert records["mailbox/2001"]["fields"]["pin"]["is"].startswith("scrypt:")
    message = records["message/2001/m-one"]["fields"]
    assert ("+442079460123", "new") == (message["from"]["is"], message["status"]["is"])


def test_each_recording_plays(captured: tuple[Net, Captured], left: dict[str, bytes]) -> None:
    """Each audio/wav attachment is the file that was left, byte for byte; it opens as a WAV, and its record names it."""
    _, mail = captured
    parts = mail.attached("audio/wav")
    assert sorted(left.values()) == sorted(part.get_content() for part in parts)
    for part in parts:
        data = part.get_content()
        digest = hashlib.sha256(data).hexdigest()
        with wave.open(io.BytesIO(data)) as file:
            seconds = math.ceil(file.getnframes() / file.getframerate())
            assert data.endswith(file.readframes(file.getnframes()))
        assert f"<{digest}@vmctl>" == part["Content-ID"]
        assert "attachment" == part.get_content_disposition()
        assert part.get_filename().endswith(".wav")
        (listed,) = [each for each in mail.changes["audio"] if each["sha256"] == digest]
        message = data in {left["one"], left["two"]}  # whose length is known; a greeting's is not
        assert (str(seconds) if message else None) == part["Content-Duration"]
        assert (len(data), 0, part.get_filename()) == (listed["size"], listed["offset"], listed["filename"])
    named = {
        record["fields"]["audio"]["is"]["sha256"] for record in mail.changes["records"] if "audio" in record["fields"]
    }
    assert named == {hashlib.sha256(data).hexdigest() for data in left.values()}


def test_the_signature_is_as_documented(captured: tuple[Net, Captured]) -> None:
    """signature.json holds an Ed25519 signature over a prefix and the bytes of changes.json, by the key of vmctl.yaml."""
    net, mail = captured
    proof = json.loads(mail.part("signature.json"))
    assert ("Ed25519", net.config.servers["primary"].public_key) == (proof["algorithm"], proof["key"])
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(proof["key"].removeprefix("ed25519:")))
    signed = b"vmctl sync mail 1\n" + mail.part("changes.json")
    key.verify(base64.b64decode(proof["signature"]), signed)  # raises if it is not


def test_a_long_recording_comes_in_pieces(tmp_path: Path) -> None:
    """A recording that is longer than a mail may be goes in several mails; its pieces, joined, are the recording."""
    net = Net.make(tmp_path / "net", mail__max="64kB", limits__document="4kB", link__plain=True, mail__seal="never")
    data = wav(tmp_path / "long.wav", frames=30_000).read_bytes()
    with Replica.open(net.config, "primary", Clock()) as replica:
        desk = Desk(replica)
        desk.create_mailbox("2001", {"name": "Ada"})
        desk.leave("2001", tmp_path / "long.wav", ident="m-1")
    send_away(net)
    mails = ship(net)
    pieces = {}
    for mail in mails:
        assert len(mail.raw) <= 64_000
        listed = {each["part_sha256"]: each for each in mail.changes["audio"]}
        for part in mail.attached("application/octet-stream"):
            piece = part.get_content()
            entry = listed[hashlib.sha256(piece).hexdigest()]
            assert (hashlib.sha256(data).hexdigest(), len(data), len(piece)) == (
                entry["sha256"], entry["size"], entry["length"],
            )  # fmt: skip
            pieces[entry["offset"]] = piece
    assert len(pieces) > 1
    assert data == b"".join(pieces[offset] for offset in sorted(pieces))
