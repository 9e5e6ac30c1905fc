"""Writes the parts of the docs that are taken from the code.

Commands, exit codes, config keys, the table of roles, the table of concurrent edits, a whole sync mail.

python docs/generate.py           writes them
python docs/generate.py --check   says what would change, and exits with 1 if anything would
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import re
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["COLUMNS"] = "100"  # before Typer reads it: help is as wide everywhere
sys.path.append(str(Path(__file__).parent))

import pairs
from typer.main import get_command
from typer.testing import CliRunner

from vmctl import errors, keys, mail, model, roles, view
from vmctl.cli import app as frame
from vmctl.clock import rfc3339
from vmctl.config import reference
from vmctl.entry import Entry
from vmctl.mail_content import as_json
from vmctl.outbox import record_for

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent
_NOW = 1_790_000_000_000_000  # microseconds: a day in September 2026
_ME, _PEER = "primary-0f1e2d3c4b5a", "secondary-5a4b3c2d1e0f"
_WIDTH = 110


def commands() -> str:
    """The page of all commands: what `--help` prints."""
    root = get_command(frame.app)
    lines = ["# Commands", "", "Generated from `--help`.", "", _block("vmctl"), ""]
    for part, table in frame.COMMANDS.items():
        lines += [f"## {part}", ""]
        for name in table:
            found = root.commands[name]  # type: ignore[attr-defined]
            lines += [f"### vmctl {name}", "", _block(f"vmctl {name}"), ""]
            for below in list(getattr(found, "commands", {})):
                lines += [f"#### vmctl {name} {below}", "", _block(f"vmctl {name} {below}"), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(words: str) -> str:
    done = CliRunner().invoke(frame.app, [*words.split()[1:], "--help"], prog_name="vmctl", terminal_width=100)
    if done.exit_code:
        raise SystemExit(f"'{words} --help' exited with {done.exit_code}: {done.output}")
    text = "\n".join(line.rstrip() for line in done.output.strip("\n").splitlines())
    return f"```text\n{text}\n```"


def exit_codes() -> str:
    """The page of exit codes."""
    lines = [
        "# Exit codes",
        "",
        "Generated from `vmctl/errors.py`. 0 is done, 1 a bug in vmctl, 2 a command typed wrong, 130 an interrupt (Ctrl-C).",
        "Treat a code that is not listed as a failure. `vmctl verify` exits with 0 only when the stores are equal.",
        "",
        "| code | error | what happened | try again? | what to do |",
        "|--:|---|---|---|---|",
    ]
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.VmctlError)]
    raised = [
        one for one in found if not one.__subclasses__() or (one.retry and "hint" in vars(one))
    ]  # the others are families
    for one in sorted(raised, key=lambda one: one.exit_code):
        words = inspect.getdoc(one) or ""
        hint = one.hint.replace("|", "or")
        lines.append(f"| {one.exit_code} | `{one.__name__}` | {words} | {'yes' if one.retry else 'no'} | {hint} |")
    return "\n".join(lines) + "\n"


# A whole sync mail


def example_key() -> tuple[str, Callable[[bytes], bytes]]:
    """Who signs the example, and how: its key is 32 times the letter k."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    return keys.public_text(key.public_key().public_bytes_raw()), key.sign


def example() -> tuple[mail.SyncMail, bytes]:
    """A mail that brings a mailbox and its first message, and its bytes."""
    sound = _tone()
    digest = hashlib.sha256(sound).hexdigest()
    audio = {"sha256": digest, "size": len(sound), "format": "wav"}
    left = {"from": "+442079460123", "received": rfc3339(_NOW + 9_000_000), "seconds": 0.002, "status": "new"}
    box = _record(model.mailbox_key("2001"), {"name": "Ada Byron", "service": "voicemail"}, _NOW + 5_000_000)
    ident = "20260921T141329000000-3f2a9c10d4e7"
    message = _record(model.message_key("2001", ident), left | {"audio": audio}, _NOW + 9_000_000)
    sent = mail.SyncMail(
        packet="9d1c04b7f25e8a3360b1c7de",
        network="example",
        sender="primary",
        recipient="secondary",
        sent=_NOW + 9_250_000,
        incarnation=_ME,
        peer_incarnation=_PEER,
        checkpoint=_checkpoint(_ME, _NOW + 9_250_000) | {
            "before": [_number_and_nonce(_NOW + 2_000_000)], "since": _NOW, "known": [_number_and_nonce(_NOW)],
        },
        echo_checkpoint={"incarnation": _PEER, "checkpoints": [[*_number_and_nonce(_NOW + 2_100_000), _NOW]]},
        challenge="58ad1f20c3b79e64",
        echo="e4017c95ab36d82f",
        config="77aa0192bcde34f5",
        journal=(2, hashlib.sha256(b"the journal of the primary").hexdigest()),
        records=[record_for(Entry(box)), record_for(Entry(message))],
        status=_status(box, message),
        request={},
        audio=[
            mail.Audio(
                sha256=digest, size=len(sound), offset=0, data=sound, format="wav",
                filename=f"message-2001-{ident}.wav", seconds=0.002,
            )
        ],
    )  # fmt: skip
    identity, sign = example_key()
    subject, summary = mail.describe(sent)
    raw = mail.compose(
        sent,
        sender_address="vmctl@primary.example",
        recipient_address="vmctl@secondary.example",
        message_id="<0b6f1d8e27c94a53b0e2f7a1964c3d58@primary.example>",
        sign=lambda data: [(identity, sign(data))],
        summary=summary,
        subject=subject,
    )
    return sent, raw


def _tone() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 1, 8000, 0, "NONE", ""))
        sound.writeframes(bytes([128] * 16))
    return file.getvalue()


def _record(key: str, document: dict[str, Any], at: int) -> model.Record:
    return model.created(key, document, model.Tick(at, _ME), at)


def _checkpoint(incarnation: str, number: int) -> dict[str, Any]:
    nonce = hashlib.sha256(incarnation.encode()).hexdigest()[:16]
    return {"incarnation": incarnation, "number": number, "nonce": nonce}


def _number_and_nonce(number: int) -> list[Any]:
    return [number, hashlib.sha256(str(number).encode()).hexdigest()[:16]]


def _status(*records: model.Record) -> dict[str, Any]:
    """What a server says that has nothing but these records, none of them acknowledged, and serves the one service."""
    numbers = [record.vector[_ME] for record in records]
    digest = 0
    for record in records:
        digest ^= int(record.version, 16)
    before = view.fresh_view("voicemail", "primary")
    now = view.View("voicemail", "primary", "primary", "normal", view.Epoch(1, "primary"), _NOW + 1_000_000, view.START)
    move = {"service": "voicemail", "from": before.as_json(), "to": now.as_json()}
    reason = {"reason": "nobody has served before and primary is the home", "at": rfc3339(_NOW + 1_000_000)}
    return {
        "last": _NOW + 9_250_000,
        "settled": min(numbers) - 1,
        "passed": min(numbers) - 1,
        "pending": len(records),
        "parked": 0,
        "todo": 0,
        "digest": f"{digest:032x}",
        "journal_seen": [2, hashlib.sha256(b"the journal of the secondary").hexdigest()],
        "views": {"voicemail": now.as_json()},
        "orders": {},
        "agreed": {},
        "fit": True,
        "behind": False,
        "config_keys": {},
        "asks": [],
        "promises": {},
        "moves": [move | reason],
        "acks": [],
        "wants": {"records": [], "audio": []},
    }


def _example_words() -> str:
    sent, raw = example()
    changes = json.loads(_laid_out(as_json(sent)))
    assert changes == as_json(sent)  # noqa: S101 - what the page shows is what is signed
    whole = raw.decode("ascii").replace("\r\n", "\n")
    return (
        f"```json\n{_laid_out(changes)}\n```\n\nThat is its `changes.json`, with white space for this page. "
        f"The mail itself:\n\n```eml\n{whole}```\n"
    )


def _laid_out(value: Any, indent: int = 0) -> str:
    """JSON with a line for each member of what does not fit into one line."""
    compact = json.dumps(value)
    if len(compact) + indent <= _WIDTH or not isinstance(value, dict | list):
        return compact
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(name)}: {_laid_out(part, indent + 2)}" for name, part in value.items()]
    else:
        lines = [inner + _laid_out(part, indent + 2) for part in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(lines) + f"\n{' ' * indent}{closing}"


def _between(text: str, begin: str, end: str, body: str) -> str:
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"a page has no part between {begin!r} and {end!r}")
    return pattern.sub(lambda match: match[1] + body + match[2], text, count=1)


def pages() -> dict[str, str]:
    """Every page that is generated in whole or in part, as it should be."""
    config_table = ("<!-- generated from the table in vmctl/config_keys.py -->", "<!-- end of the generated part -->")
    role_table = ("<!-- printed by roles.table_markdown(); do not edit -->", "<!-- end -->")
    role_diagram = ("<!-- printed by roles.diagram_mermaid(); do not edit -->", "<!-- end -->")
    pair_tables = ("<!-- printed by docs/pairs.py; do not edit -->", "<!-- end -->")
    whole_mail = ("<!-- written by docs/generate.py; do not edit -->", "<!-- end -->")
    diagram = f"```mermaid\n{roles.diagram_mermaid()}```\n"
    config, role = (_text(name) for name in ("config.md", "roles.md"))
    return {
        "commands.md": commands(),
        "exit-codes.md": exit_codes(),
        "conflicts.md": _between(_text("conflicts.md"), *pair_tables, pairs.table_markdown()),
        "config.md": _between(config, *config_table, reference()),
        "sync-mail.md": _between(_text("sync-mail.md"), *whole_mail, _example_words()),
        "roles.md": _between(_between(role, *role_table, roles.table_markdown()), *role_diagram, diagram),
    }


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def main() -> int:
    """Write, or check."""
    wrong = []
    for name, text in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        wrong.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if wrong:
        print(", ".join(wrong), "would change" if "--check" in sys.argv else "written")  # noqa: T201
    return 1 if wrong and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
