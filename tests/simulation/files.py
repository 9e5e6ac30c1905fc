"""Reads stores with eyes of its own: plain YAML and JSON, and the bytes of recordings."""

import hashlib
import json

import yaml

from vmctl.model import parse_key


def yaml_text(key, document):
    """The file of a document as a person writes it, in bytes."""
    if key.startswith("callflow/"):
        return document["text"].encode()
    if key == "settings":
        nested = {}
        for name, value in sorted(document.items()):
            section, _, field = name.partition(".")
            nested.setdefault(section, {})[field] = value
        document = nested
    return yaml.safe_dump(document).encode()


def is_there(hand):
    """Whether what a person wrote is still to be found: no power cut took it before it was synced."""
    if hand["sync"] or not hand["power"]:
        return True
    return hand["path"].exists() and hand["path"].read_bytes() == hand["text"]


def is_torn(hand):
    """Whether a power cut left a part of what a person wrote, and did not sync: neither that nor what was there before."""
    if hand["sync"] or not hand["power"]:
        return False
    there = hand["path"].read_bytes() if hand["path"].exists() else None
    if there in (hand["text"], hand["old"]):
        return False
    return there is None or hand["text"].startswith(there) or not there.strip(b"\0")


def read_document(path):
    """The document in a YAML file as the ledger has it; None where it cannot be read."""
    data = path.read_bytes()
    if path.parent.name == "callflows":
        return {"text": data.decode()}
    try:
        value = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return None
    if value is None:
        return {}
    if not isinstance(value, dict):
        return None
    if path.name == "settings.yaml":
        flat = {}
        for section, part in value.items():  # of a torn file a section may have lost what was in it
            flat |= (
                {f"{section}.{name}": item for name, item in part.items()}
                if isinstance(part, dict)
                else {section: part}
            )
        return flat
    return value


def read_store(root):
    """Every record of a store by key: its values, with the SHA-256 of a recording; and what cannot be read."""
    found, faults = {}, {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if parts[0] == ".vmctl" or path.is_dir() or path.name.startswith("."):
            continue
        try:
            _read(found, path, parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults["/".join(parts)] = f"{type(error).__name__}: {error}"
    return found, faults


def _read(found, path, parts):
    match parts:
        case ["settings.yaml"]:
            found["settings"] = _document(path)
        case ["callflows", name]:
            found[f"callflow/{name.removesuffix('.yaml')}"] = _document(path)
        case ["prompts", name]:
            found[f"prompt/{name.removesuffix('.wav')}"] = {"audio": _sha(path)}
        case ["mailboxes", box, "mailbox.yaml"]:
            found[f"mailbox/{box}"] = _document(path)
        case ["mailboxes", box, "greetings", name]:
            found[f"greeting/{box}/{name.removesuffix('.wav')}"] = {"audio": _sha(path)}
        case ["mailboxes", box, "messages", name] if name.endswith(".json"):
            value = json.loads(path.read_bytes())
            value.pop("sync", None)
            named = value["audio"]["sha256"]
            there = _sha(path.with_suffix("." + value["audio"]["format"]))
            if there != named:
                raise ValueError(f"the recording has other bytes than the message says: {there[:8]}, not {named[:8]}")
            found[f"message/{box}/{name.removesuffix('.json')}"] = value | {"audio": there}
        case ["mailboxes", _, "messages", _]:
            return  # of a message above, or litter that a crash left: it is named and left alone
        case _:
            raise ValueError("nothing of this name belongs here")


def _document(path):
    document = read_document(path)
    if document is None:
        raise ValueError("it cannot be read as YAML")
    return document


def _sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def has_file(world, name, key, *, tombs=True):
    """Whether a store has a file that tells a new index of a record: its own, or its tombstone."""
    kind, mailbox, ident = parse_key(key)
    base = world.machines[name].unmounted or world.machines[name].root
    paths = {
        "settings": ["settings.yaml"],
        "callflow": [f"callflows/{ident}.yaml"],
        "prompt": [f"prompts/{ident}.wav"],
        "mailbox": [f"mailboxes/{ident}/mailbox.yaml"],
        "greeting": [f"mailboxes/{mailbox}/greetings/{ident}.wav"],
        "message": [
            f"{under}mailboxes/{mailbox}/messages/{ident}.json" for under in ("", ".vmctl/deleted/")[: 1 + tombs]
        ],
    }[kind]
    paths += [f".vmctl/deleted/{path}.tomb.json" for path in paths if kind != "message" and tombs]
    return any((base / path).exists() for path in paths)
