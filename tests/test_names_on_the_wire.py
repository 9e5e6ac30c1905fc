"""Path traversal in every name on the wire: what a peer signs as a name becomes no path that is not a record's own."""

import copy
import dataclasses
import re
from contextlib import suppress

import pytest
from test_peer_values import deliver_altered
from wire import one_of_each

from vmctl.errors import VmctlError
from vmctl.model import KINDS, parse_key

HOSTILE = (
    "..", ".", "../../outside", "../.vmctl/identity", "/etc/passwd", "a/b", "a\\b", "a\0b", "", " ", ".vmctl", ".vmctl-tmp-0",
    "-rf", "~", "a" * 300, "é", "\uff12\uff10\uff10\uff11", "a\u202eb", "CON", "a.yaml", "a.wav/../../x", "%2e%2e", "a%b", "a\nb",
    "mailbox.yaml", "messages", "identity.json", "\ud800",
)  # fmt: skip
FINE = {"CON", "messages", "a/b"}  # names as good as any other here; the last one is a message in a mailbox
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
OURS = re.compile(
    rf"settings\.yaml|callflows(/{NAME}\.yaml)?|prompts(/{NAME}\.wav)?|"
    rf"mailboxes(/{NAME}(/mailbox\.yaml|/greetings(/(name|unavailable|busy|temporary)\.wav)?|/messages(/{NAME}\.(json|wav))?)?)?|"
    r"\.vmctl(/(identity\.json|index\.db(-wal|-shm)?|journal\.jsonl|lock|serve\.lock|routes\.json|strays\.json|strays\.lock))?|"
    rf"\.vmctl/spool(/[0-9]{{16}}-{NAME}\.eml)?|\.vmctl/(refused|parked)(/[0-9]{{16}}-{NAME}\.(eml|why))?|"
    r"\.vmctl/audio(/[0-9a-f]{64}(\.part)?)?|\.vmctl/(placing|replaced)|"
    rf"\.vmctl/deleted(/(settings|callflows|prompts|mailboxes)?[A-Za-z0-9_/-]*(\.(yaml|json|wav))?(\.tomb\.json)?)?"
)


@pytest.fixture
def filled(wire, recording):
    """The primary has one record of each kind; the secondary has nothing yet."""
    one_of_each(wire, recording)
    return wire


def outside(wire):
    """All that is in no store, with its bytes."""
    stores = [wire.root(name) for name in wire.servers]
    return {
        path: path.read_bytes() if path.is_file() else b""
        for path in wire.directory.parent.rglob("*")
        if not any(path.is_relative_to(root) for root in stores) and path.name != "probe"
    }


def strange(wire):
    """What lies in a store under a name that no record and nothing of vmctl's has; what is fine travels home again."""
    found = [
        path.relative_to(wire.root(name)).as_posix() for name in wire.servers for path in wire.root(name).rglob("*")
    ]
    return sorted(name for name in found if not OURS.fullmatch(name))


def everywhere(value, hostile):
    """Copies of a JSON value, each with another one of its texts, or of the names in it, replaced."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {**{other: each for other, each in value.items() if other != name}, hostile: inner}
            for each in everywhere(inner, hostile):
                yield {**value, name: each}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            for each in everywhere(inner, hostile):
                yield [*value[:place], each, *value[place + 1 :]]
    elif isinstance(value, str):
        yield hostile


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_path_traversal_in_the_names_of_records(filled, monkeypatch, hostile):
    """In each part of each key: it is refused by name, and nothing is made where it points to."""
    wire, before = filled, outside(filled)

    def alter(mail):
        found = []
        for record in mail.records:
            parts = record["key"].split("/")
            for place in range(len(parts)):
                key = "/".join([*parts[:place], hostile, *parts[place + 1 :]])
                found.append(record | {"key": key, "version": "0" * 32})
        return dataclasses.replace(mail, records=[*mail.records, *found])

    with suppress(VmctlError, ValueError):
        deliver_altered(wire, monkeypatch, alter)
    wire.exchange(4)
    wire.scan("secondary", full=True)
    assert [] == strange(wire)
    assert before == outside(wire)
    if hostile not in FINE:
        for kind in (*KINDS[1:], "conflict"):
            with pytest.raises(ValueError, match="is no key"):
                parse_key(f"{kind}/{hostile}")


@pytest.mark.parametrize(
    "hostile", ["../../outside", "/tmp/outside", "..", "a\0b", ".vmctl", "json", "yaml", "x" * 300], ids=ascii
)
def test_path_traversal_in_every_other_name_of_a_mail(filled, monkeypatch, hostile):
    """Digests, formats, file names, packets, incarnations, versions, fields, acknowledgements: one after the other."""
    wire, before = filled, outside(filled)

    def alter(mail):
        records = []
        for record in mail.records:
            records += list(everywhere({name: each for name, each in record.items() if name != "key"}, hostile))
            records[-1] |= {"key": record["key"]}
        records = [one | {"key": mail.records[at % len(mail.records)]["key"]} for at, one in enumerate(records)]
        status = copy.deepcopy(mail.status) | {
            "acks": [[hostile, hostile]], "wants": [hostile], "want_audio": [hostile], "held": {hostile: hostile},
            "missing": {hostile: [[0, 1]]}, "overwritten": [hostile], "answers": [hostile], "settled": hostile,
            "challenges": [hostile], "views": {hostile: {}}, "orders": [hostile], "have": [hostile],
        }  # fmt: skip
        return dataclasses.replace(mail, records=records, status=status, request={hostile: [hostile]})

    with suppress(VmctlError, ValueError):
        deliver_altered(wire, monkeypatch, alter)
    for name in ("packet", "incarnation", "peer_incarnation", "challenge", "echo", "config"):
        with suppress(VmctlError, ValueError):
            deliver_altered(wire, monkeypatch, lambda mail, name=name: dataclasses.replace(mail, **{name: hostile}))
    for name in ("format", "filename", "sha256"):

        def altered(mail, name=name):
            return dataclasses.replace(mail, audio=[dataclasses.replace(one, **{name: hostile}) for one in mail.audio])

        with suppress(VmctlError, ValueError):
            deliver_altered(wire, monkeypatch, altered)
    with suppress(VmctlError):
        wire.exchange(4)
    with suppress(VmctlError):
        wire.crash("secondary")
    wire.scan("secondary", full=True)
    assert [] == strange(wire)
    assert before == outside(wire)


def test_a_deleted_record_of_a_hostile_format_takes_no_other_file_with_it(filled, monkeypatch):
    """A recording in the format `json` or `yaml` would have the name of a document: that is not what is removed."""
    wire = filled
    wire.in_step()
    for form in ("json", "yaml"):
        wire.desk().set_greeting("2001", "name", wire.root() / "prompts/welcome.wav")

        def alter(mail, form=form):
            records = copy.deepcopy(mail.records)
            for record in records:
                if "audio" in record["fields"]:
                    record["fields"]["audio"].get("is", {})["format"] = form
            return dataclasses.replace(mail, records=records)

        deliver_altered(wire, monkeypatch, alter)
        wire.desk().delete_greeting("2001", "name")
        deliver_altered(wire, monkeypatch, alter)
    wire.in_step()
    assert [] == strange(wire)
    assert wire.b.store.document("mailbox/2001")["name"] == "Ada"
    assert 1 == len(wire.messages("2001", "secondary"))
