"""The door: whatever comes as a mail is in the spool as its sender wrote it, or nothing on the disk is another for it."""

from __future__ import annotations

import functools
import re
import shutil
from typing import TYPE_CHECKING

from fuzz import grounds, mutate
from fuzz.target import Target
from fuzz.targets import mails
from vmctl import identity, reports
from vmctl.clock import Clock
from vmctl.conversation import refusal
from vmctl.door import Door, is_of_report
from vmctl.errors import MailError, MailReport
from vmctl.lines import one_line

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

TOKENS = (
    *mails.TOKENS, b"multipart/report", b"report-type=delivery-status", b"message/delivery-status", b"text/rfc822-headers", b"message/rfc822", b"Action: failed\r\n", b"Status: 5.3.4\r\n",
    b"Diagnostic-Code: smtp; 552 too large\r\n", b"Final-Recipient: rfc822; vmctl@secondary.example\r\n", b"Message-ID: <1.a@primary.example>\r\n", b"sealed.bin", b"application/octet-stream",
    b"Auto-Submitted: auto-replied\r\n", b"\xef\xbb\xbf", b"From: =?utf-8?q?=0A?=\r\n",
)  # fmt: skip
REPORT = b"""\
From: MAILER-DAEMON@relay.example\r
Subject: Undelivered Mail Returned to Sender\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status; boundary="cut"\r
\r
--cut\r
Content-Type: text/plain\r
\r
It did not arrive.\r
--cut\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; relay.example\r
\r
Final-Recipient: rfc822; vmctl@secondary.example\r
Action: failed\r
Status: 5.3.4\r
Diagnostic-Code: smtp; 552 5.3.4 too large\r
\r
--cut\r
Content-Type: text/rfc822-headers\r
\r
Message-ID: <1.a@primary.example>\r
Subject: a sealed sync mail\r
\r
--cut--\r
"""


def seeds() -> list[bytes]:
    """A mail in the open, one that is sealed, and a report on one."""
    small = min((raw for raw in _from_primary()), key=len)
    return [small, grounds.sealed(small), REPORT, grounds.sealed(REPORT)]


def _from_primary() -> list[bytes]:
    network = grounds.network()
    return [raw for mail, raw in zip(network.mails, network.raw, strict=True) if mail.sender == "primary"]


def change(data: bytes, chance: Random, longest: int) -> bytes:
    """Another mail: what is sealed in it, its parts, or blindly."""
    if chance.random() < 0.1:
        return grounds.sealed(mails.change(data, chance, longest // 2))[:longest]
    if chance.random() < 0.4:
        return mutate.of_bytes(data, chance, longest, TOKENS)
    return mails.change(data, chance, longest)


@functools.cache
def _store() -> tuple[Door, Path]:
    """The secondary's door, and the place where it puts things, which nothing else has touched."""
    network = grounds.network()
    network.again()
    store = network.config.servers["secondary"].store
    assert store is not None
    return Door(network.config, "secondary", Clock()), store / identity.DIRECTORY


def run_door(data: bytes) -> None:
    """What is taken lies in the spool and nowhere else; what is refused leaves nothing, and says so in one SMTP reply."""
    door, state = _store()
    if not state.is_dir():  # another target was here
        _store.cache_clear()
        door, state = _store()
    for sender in (None, "vmctl@primary.example", ""):
        shutil.rmtree(state / "spool", ignore_errors=True)
        before = {path.name for path in state.iterdir()}
        with grounds.disk_in_memory():
            try:
                door.take(data, sender)
            except MailError as error:
                reply = refusal(error)
                assert str(state.parent) not in reply, reply
                assert re.fullmatch(r"[45]\d\d [45]\.\d+\.\d+ .+", one_line(reply, 5000)), reply
                assert len(reply) < 700, reply
                assert not (state / "spool").exists(), "a mail was refused, and something is in the spool"
                continue
            finally:
                assert {path.name for path in state.iterdir()} <= before | {"spool"}
        (path,) = (state / "spool").iterdir()
        assert re.fullmatch(r"\d{16}-[A-Za-z0-9][A-Za-z0-9_-]{0,80}(\.report)?\.eml", path.name), path.name
        if not is_of_report(path):
            door.read(path.read_bytes())


def run_report(data: bytes) -> None:
    """What a server says of a mail, in one line and by a Message-ID that cannot be more than one; or MailReport."""
    reports.is_report(data)
    try:
        told = reports.read(data)
    except MailReport as error:
        assert len(error.why) < 400, error.why
        return
    for text in told:
        assert text == one_line(text, 1000), text
        text.encode()
    assert re.fullmatch(r"<[!-;=?-~]{1,500}>", told.message_id), told.message_id


DOOR = Target("door", "a mail at the door: in the open, sealed, or a report", run_door, seeds, change, TOKENS, 1 << 16)
BOUNCE = Target(
    "report",
    "a report of a mail server on a mail",
    run_report,
    lambda: [REPORT, REPORT.replace(b"\r\n", b"\n")],
    change,
    TOKENS,
)
