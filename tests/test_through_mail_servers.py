"""Two servers on two hosts whose only way to each other is real mail servers, set up by the recipes of docs/mail-servers.md."""

from __future__ import annotations

import base64
import email
import itertools
import quopri
import re
from typing import TYPE_CHECKING

import pytest
from mta import damage, host
from mta.chain import address
from mta.clients import smtp_source, swaks
from mta.place import find
from mta.recipes import CONFIG, MAILDIR, PROGRAM
from mta.through import FROM_MAILDIR, NO_LISTENER, SENDING, own, sync
from running import Net, until, wav

from vmctl import errors
from vmctl.mail_sealed import SUBJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mta.chain import Office
    from mta.through import Post


def test_cron_alone(post: Post, tmp_path: Path) -> None:
    """`vmctl sync` on both hosts, as cron runs it, brings both in step with no daemon and no way but Postfix."""
    post.start()
    post.one.do("mailbox", "create", "2001", "--name", "Ada")
    post.other.do("mailbox", "create", "3001", "--name", "Grace")
    ours = post.one.leave("2001", wav(post.office.root / "a.wav"))
    theirs = post.other.leave("3001", wav(post.office.root / "b.wav", level=2000))
    post.sync()
    assert all(each.has("2001", ours) and each.has("3001", theirs) for each in post.hosts)


def test_what_servers_do_to_mail_changes_nothing(post: Post) -> None:
    """Doubled, greylisted, rewrapped, with a footer, re-encoded, as a part of another mail: what was left is at the other host."""
    post.start()
    post.one.do("mailbox", "create", "2001", "--name", "Ada")
    for way in (post.there, post.back):
        way.copies, way.greylist = 2, 1
        way.changes = [
            _one_after_the_other(damage.rewrapped, damage.with_footer, damage.quoted, damage.with_text_behind)
        ]
    ours = post.one.leave("2001", wav(post.office.root / "a.wav"))
    post.sync()
    assert post.other.has("2001", ours)
    assert (post.other.messages("2001") / f"{ours}.wav").read_bytes() == (post.office.root / "a.wav").read_bytes()
    assert all("450 4.2.0 greylisted" in server.log() for server in post.servers)
    assert min(len(way.passed) for way in (post.there, post.back)) >= 4, "not every kind of damage was done each way"
    for each in post.hosts:
        # a mail that came twice changes nothing, and is no stranger's; nothing else came
        assert set(each.about()["strays"]) <= {"repeated"}, each.about()["strays"]


def _one_after_the_other(*changes: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The first mail is changed in the first way, the next one in the second, and so on, round and round."""
    ways = itertools.cycle(changes)
    return lambda raw: next(ways)(raw)  # noqa: PLW0108 - another one each time


def test_a_bounce_is_read_and_not_answered(post: Post) -> None:
    """What the next server refuses comes back as a report of Postfix, is named in the status, and arrives once it is taken."""
    post.start()
    post.one.do("mailbox", "create", "2001", "--name", "Ada")
    post.there.reply = "554 5.7.1 not from you"
    ours = post.one.leave("2001", wav(post.office.root / "a.wav"))
    assert post.one.run("sync", "--timeout", "0.5").returncode == errors.NotInStep.exit_code
    until(lambda: "delivered via vmctl" in post.near.log(), within=60, what="the report of Postfix")
    post.one.run("sync", "--timeout", "0.5")
    told = post.one.about()["bounces"]
    assert told, "no bounce is told of"
    assert told[0]["action"] == "failed"
    assert "not from you" in told[0]["why"]
    assert {mail.sender for mail in post.there.passed} == {address("primary")}  # nothing is sent for a report
    post.there.reply = None
    post.sync()
    assert post.other.has("2001", ours)
    assert post.one.about()["bounces"] == []


def test_daemons_through_stops_and_kills(post: Post) -> None:
    """Both ways, with daemons: a full sync, failover and failback, while the mail servers stop, start and are killed."""
    one, other = post.hosts
    post.start()
    one.do("mailbox", "create", "2001", "--name", "Ada")
    with one.daemon() as first, other.daemon():
        until(lambda: other.service()["serving"] == "primary", within=60, what="the primary serves")
        until((other.messages("2001").parent / "mailbox.yaml").exists, within=60, what="the mailbox")
        post.far.stop()
        ours = one.leave("2001", wav(post.office.root / "a.wav"))
        theirs = other.leave("2001", wav(post.office.root / "b.wav", level=2000))
        until(lambda: any(mail["queue_name"] == "deferred" for mail in post.near.queue()), within=60, what="a queue")
        post.near.kill()
        post.start()
        until(lambda: other.has("2001", ours) and one.has("2001", theirs), within=60, what="the messages")
        other.do("failover", "--timeout", "60")
        for each in post.hosts:
            until(lambda each=each: each.service()["serving"] == "secondary", within=60, what="the secondary serves")
        first.kill()
        first.wait()
        post.far.kill()
        late = other.leave("2001", wav(post.office.root / "c.wav", level=3000))
        post.start()
    with one.daemon(), other.daemon():
        until(lambda: one.has("2001", late), within=60, what="the message of the time without the primary")
        until(lambda: one.service()["serving"] == "secondary", within=60, what="the primary knows who serves")
        one.do("failback", "--timeout", "60")
        for each in post.hosts:
            until(lambda each=each: each.service()["state"] == "normal", within=60, what="normal operation")
            assert each.service()["serving"] == "primary"
        until(lambda: one.read("status")["in_step"], within=60, what="in step")
    assert set(one.about()["strays"]) | set(other.about()["strays"]) <= {"repeated"}


def test_by_a_maildir_and_a_forward(office: Office) -> None:
    """One host picks its mail up from a Maildir, the other runs vmctl by a `.forward`; `vmctl sync` brings both in step."""
    one, other = host.make(office.root)
    near, far = office.postfix("primary"), office.postfix("secondary")
    office.sends_to(near, far.port)
    office.sends_to(far, near.port)
    maildir = one.root / "mail"
    office.by_forward(near, "~/.forward: a Maildir", (MAILDIR, str(maildir)))
    office.by_forward(far, "~/.forward: a program", (PROGRAM, str(other.program)), (CONFIG, str(other.config)))
    one.set(FROM_MAILDIR, (MAILDIR, str(maildir)), *own(one))
    other.set(NO_LISTENER)
    for each, server in ((one, near), (other, far)):
        each.set(SENDING, ("127.0.0.1:25", server.address))
        server.start()
    one.do("mailbox", "create", "2001", "--name", "Ada")
    ours = one.leave("2001", wav(office.root / "a.wav"))
    sync(one, other)
    assert other.has("2001", ours)
    assert one.read("status")["in_step"]
    assert list((maildir / "cur").iterdir()) == []


def test_through_exim(office: Office) -> None:
    """The primary's host has Exim, which sends by a Postfix with its certificate checked: `vmctl sync` works both ways."""
    one, other = host.make(office.root)
    far = office.postfix("secondary")
    near = office.exim("primary", one.program, one.config, to=far)
    office.to_program(far, "secondary", other.program, other.config)
    office.sends_to(far, near.port)
    for each, server in ((one, near), (other, far)):
        each.set(NO_LISTENER, *own(each))
        each.set(SENDING, ("127.0.0.1:25", server.address))
        server.start()
    one.do("mailbox", "create", "2001", "--name", "Ada")
    ours = one.leave("2001", wav(office.root / "a.wav"))
    sync(one, other)
    assert other.has("2001", ours)


def test_a_third_party_sees_addresses_sizes_and_times(post: Post) -> None:
    """Of a mailbox, its PIN, a message and a move of the roles neither queue files nor the wire show a word or a byte."""
    one = post.one
    post.near.start()
    secrets = ("Ada Byron", "ada.byron@office.example", "+442079460123", "2001", "48151623", "strictly-between-us")
    one.do("mailbox", "create", "2001", "--name", secrets[0], "--email", secrets[1])
    audio = wav(post.office.root / "a.wav", frames=4000)
    ident = one.do("message", "leave", "2001", "--audio", str(audio), "--from", secrets[2]).strip()
    one.do("settings", "set", f"defaults.note={secrets[5]}")
    one.run("sync", "--timeout", "0.5")
    until(lambda: (len(post.near.queue()) and not post.there.passed) or post.there.passed, what="a mail")
    wire = [mail.raw for mail in post.there.passed]
    post.near.stop()
    queued = post.near.files()
    assert wire
    assert queued, "the far server was not there, so the mail waits"
    words = {
        *secrets, ident, "RIFF", "WAVE", "changes.json", "signature.json", "records", "incarnation", "checkpoint", "mailbox",
        "message/", "settings", "scrypt", "audio/wav", '"v":', "network", "challenge", "sha256", "primary to secondary",
    }  # fmt: skip
    for raw in (*wire, *queued):
        for word in (*(word.encode() for word in words), audio.read_bytes()[200:260]):
            assert _shows(raw, word) is None, f"{word!r} is to be seen {_shows(raw, word)}"
    for message in map(email.message_from_bytes, wire):
        assert message["Subject"] == SUBJECT
        assert set(message.keys()) <= {
            "Received", "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
        }  # fmt: skip


def _shows(raw: bytes, secret: bytes) -> str | None:
    """How some bytes are to be seen in a mail: plainly, or in a transfer encoding.

    Short ones are not looked for in base64: of four letters that is found by chance, once in some hundred mails.
    """
    flat = re.sub(rb"[\r\n]", b"", raw)
    plain = _without_base64(raw)
    if secret in plain or quopri.encodestring(secret) in plain or secret.hex().encode() in flat:
        return "plainly"
    parts = email.message_from_bytes(raw).walk()
    contents = [data for part in parts if isinstance(data := part.get_payload(decode=True), bytes)]
    if any(
        secret in _without_base64(data) for data in contents
    ):  # a queue's file is no mail, and nothing of it decoded
        return "in a part"
    for shift, before in enumerate((0, 2, 3)):  # in base64 it looks different at each third place
        coded = base64.b64encode(b"\0" * shift + secret)[before : (shift + len(secret)) * 8 // 6]
        if len(coded) > 7 and coded in flat:
            return "in base64"
    return None


def _without_base64(data: bytes) -> bytes:
    return re.sub(rb"[A-Za-z0-9+/=]{60,}", b"", data)


def test_what_is_looked_for_would_be_found() -> None:
    """A secret is seen plainly, in hex, in a part in base64, and in base64 that is no part of a mail."""
    secret = b"strictly-between-us"
    for at in range(3):
        coded = base64.encodebytes(b"x" * at + secret + b"and more of it" * 10)
        mail = b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n" + coded
        assert _shows(mail, secret) == "in a part"
        assert _shows(b"N\x46" + coded, secret) == "in base64"
    assert _shows(b"\n\n" + secret, secret) == _shows(secret.hex().encode(), secret) == "plainly"
    assert _shows(b"\n\nnothing", secret) is None
    assert _shows(b"a queue's file\n\n" + b"glPBkiQ4e1U9WAVE" * 5, b"WAVE") is None
    assert _shows(b"\n\nRIFF....WAVEfmt ", b"WAVE") == "plainly"


# Foreign clients at vmctl's own receiver


@pytest.fixture(params=["pinned", "plain"])
def receiving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    """A daemon that waits for its peer, over the pinned link, or in plain text on loopback."""
    find("swaks", "swaks")
    net = Net.make(tmp_path / "net", link__plain=request.param == "plain", mail__max="64kB", limits__document="4kB")
    with net.daemon("secondary"):
        until(lambda: " serves " in net.log("secondary"), what="the daemon")
        yield net


@pytest.mark.parametrize("receiving", ["plain"], indirect=True)
def test_a_foreign_client_is_refused(receiving: Net) -> None:
    """Swaks gets what docs/sync-mail.md says: another sender, another recipient, no sync mail, one that is too large."""
    me, peer = (receiving.config.servers[name] for name in ("secondary", "primary"))
    port = me.address.port
    assert swaks(port, "--from", "a@b.example", "--to", me.mail)[-2].startswith("550 5.7.1")
    assert swaks(port, "--from", peer.mail, "--to", "a@b.example")[-2].startswith("550 5.1.1")
    assert swaks(port, "--from", peer.mail, "--to", me.mail, "--body", "hello")[-2].startswith("554 5.6.0")
    assert swaks(port, "--from", "<>", "--to", me.mail, "--body", "hello")[-2].startswith("550 5.7.1")
    large = receiving.root / "large"
    large.write_text("To: x\n\n" + "0123456789\n" * 10_000)
    assert any(
        reply.startswith("552") for reply in swaks(port, "--from", peer.mail, "--to", me.mail, "--data", f"@{large}")
    )
    until(lambda: receiving.status()["servers"]["secondary"]["strays"], what="the count, with the next turn")


@pytest.mark.parametrize("receiving", ["pinned"], indirect=True)
def test_a_foreign_client_gets_no_further_than_starttls(receiving: Net, tmp_path: Path) -> None:
    """Swaks and smtp-source are told 530, and have no key to come in with; the peer's mail gets through meanwhile."""
    me, peer = (receiving.config.servers[name] for name in ("secondary", "primary"))
    port = me.address.port
    assert any(reply.startswith("530") for reply in swaks(port, "--from", peer.mail, "--to", me.mail))
    replies = swaks(port, "--tls", "--from", peer.mail, "--to", me.mail)
    assert not [reply for reply in replies if reply.startswith(("250 2", "354"))], replies
    done = smtp_source(port, "-f", peer.mail, "-t", me.mail, "-m", "5", "-s", "5")
    assert done.returncode != 0
    assert "530" in done.stderr
    receiving.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    with receiving.daemon("primary"):
        until(receiving.path("secondary", "mailboxes/2001/mailbox.yaml").exists, what="the peer's mail")
    until(lambda: receiving.status()["servers"]["secondary"]["strays"], what="the count, with the next turn")
