"""Inputs that are worth keeping: those that wounded the product once, and some that reach much of it.

`wounds/TARGET/` holds one file for each wound, with its name. `corpus/TARGET.json` is a list of texts, each character a
byte: `python -m fuzz --keep` writes it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
_LARGEST, _MOST = 3000, 25  # bytes of an input that is kept, and inputs of a target


def kept(name: str) -> list[bytes]:
    """The inputs of a target that reach much."""
    path = HERE / "corpus" / f"{name}.json"
    return [text.encode("latin-1") for text in json.loads(path.read_text("ascii"))] if path.exists() else []


def wounds(name: str) -> dict[str, bytes]:
    """The inputs that wounded the product at this target, by their names."""
    folder = HERE / "wounds" / name
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def add(folder: Path, data: bytes) -> None:
    """Put an input into a folder, named for what it holds."""
    (folder / hashlib.sha256(data).hexdigest()[:24]).write_bytes(data)


def keep(name: str, folder: Path) -> int:
    """Keep the small ones of the inputs in a folder, spread over all sizes; how many."""
    found = sorted((path.read_bytes() for path in folder.iterdir()), key=lambda data: (len(data), data))
    small = [data for data in found if len(data) <= _LARGEST]
    chosen = small[:: -(-len(small) // _MOST) or 1]
    (HERE / "corpus").mkdir(exist_ok=True)
    text = json.dumps([data.decode("latin-1") for data in chosen], indent=0)
    (HERE / "corpus" / f"{name}.json").write_text(text + "\n", "ascii")
    return len(chosen)
