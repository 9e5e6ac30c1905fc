"""The text of a new vmctl.yaml, and the table of its keys for the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmctl import yamltext
from vmctl.config_keys import KEYS, OPTIONAL, REQUIRED, SECTIONS, Key

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = (
    "# One network of two voicemail servers. Both hosts need the same text; only 'store', 'key', 'listen', 'scan' and the",
    "# sections that say so may differ. Durations end in ms, s, m, h or d, sizes in B, kB, MB, GB, KiB, MiB or GiB.",
)
_WIDTH = 118


def template(values: Mapping[str, Any]) -> str:
    """The text of a new vmctl.yaml with every key in it, each under its comment.

    `values` holds what is known by concrete path (`servers.primary.mail`), in the form that the file holds; the names
    of servers and services are taken from its keys. Other keys get their defaults; a key that has none is there as a
    comment. Raises ValueError for a required key without a value.
    """
    _check_paths(values)
    lines = list(_HEAD)
    section = ""
    for at, key in enumerate(KEYS):
        head, _, rest = key.path.partition(".")
        if rest and head != section:
            section = head
            lines += ["", f"# {SECTIONS[head]}", f"{head}:"]
            if "*" in key.path:
                group = [row for row in KEYS[at:] if row.path.startswith(f"{head}.*.")]
                lines += _named(head, group, values)
        if "*" not in key.path:
            lines += _entry(key, key.path, values, "" if not rest else "  ", blank=not rest)
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The table of keys as Markdown, for the docs."""
    lines: list[str] = []
    section = None
    for key in KEYS:
        head, dot, _ = key.path.partition(".")
        if (head if dot else "") != section:
            section = head if dot else ""
            lines += ["", f"### {section}", "", SECTIONS[section]] if section else ["### The network"]
            lines += ["", "| key | written as | default | meaning |", "|---|---|---|---|"]
        path = key.path.replace("*", "NAME")
        lines.append(f"| `{path}` | {key.kind.words} | {_default_words(key)} | {key.meaning} |")
    return "\n".join(lines) + "\n"


def _named(head: str, group: list[Key], values: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys(path.split(".")[1] for path in values if path.startswith(f"{head}."))
    lines = []
    for at, name in enumerate(names):
        lines.append(f"  {name}:")
        for key in group:
            shown = key if at == 0 else key._replace(meaning="")  # comments stand once, at the first of the two
            lines += _entry(shown, key.path.replace("*", name), values, "    ")
    if not names:
        lines.append("  # NAME:")
        for key in group:  # to be filled in by whoever wants one
            lines += _entry(key._replace(default=OPTIONAL), key.path, {}, "    ")
    return lines


def _check_paths(values: Mapping[str, Any]) -> None:
    known = {key.path for key in KEYS}
    for path in values:
        head, last = path.partition(".")[0], path.rpartition(".")[2]
        if path not in known and f"{head}.*.{last}" not in known:
            raise ValueError(f"there is no key {path}")


def _entry(key: Key, path: str, values: Mapping[str, Any], pad: str, *, blank: bool = False) -> list[str]:
    name = path.rpartition(".")[2]
    value = values.get(path, key.default)
    if value is REQUIRED:
        raise ValueError(f"{path} has no value")
    lines = [""] if blank else []
    if key.meaning:
        default = "" if key.default in (REQUIRED, OPTIONAL) else f"; default {_default_text(key)}"
        words = f"{key.meaning} ({key.kind.short}{default})"
        lines += [f"{pad}# {line}" for line in _wrapped(words, _WIDTH - len(pad) - 2)]
    if value is None:
        return [*lines, f"{pad}# {name}:"]
    return [*lines, f"{pad}{name}: {_line(value)}"]


def _line(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_line, value)) + "]"
    return yamltext.dump(value).rstrip("\n")


def _default_text(key: Key) -> str:
    return _line(key.default)


def _default_words(key: Key) -> str:
    if key.default is OPTIONAL:
        return ""
    return "*required*" if key.default is REQUIRED else f"`{_default_text(key)}`"


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
