"""Makes another input of one: of bytes, of JSON values, of lines. Bytes alone would never get past the first check.

Everything is drawn from the Random that is given, so that the same seed makes the same input again.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_NUMBER = re.compile(rb"\d+")
NUMBERS = (0, 1, -1, 2, 127, 255, 256, 65_535, 65_536, 2**31 - 1, 2**32, 2**53 - 2**50, 2**53 - 1, 2**53, 2**63, 10**30)
ODD: tuple[Any, ...] = (
    None, True, False, "", "0", "x", "\0", "\r\n", "\ud800", "é", "\u2028", "a" * 65, "a" * 300, "..", "../../x", "/etc/x",
    "-", ".", "message/2001/m-1", "mailbox/2001", "settings", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+23:59",
    *NUMBERS, -(2**63), 0.5, -0.0, 1e15, 1.7e308, 5e-324, {}, [], [[]], {"": ""}, [None], [0, "x"], ["x", 0], [0, 0], [1, "primary-1", 1],
    {"is": 1}, {"is": None, "at": [1, "x", 1]}, {"absent": True, "at": [2**52, "x", 1]},
)  # fmt: skip


def of_bytes(data: bytes, chance: Random, longest: int, tokens: Sequence[bytes] = ()) -> bytes:
    """Another one by a few blind steps."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        _step(made, chance, longest, tokens)
    return bytes(made[:longest])


def _step(made: bytearray, chance: Random, longest: int, tokens: Sequence[bytes]) -> None:
    size = len(made)
    at = chance.randrange(size + 1)
    end = min(size, at + chance.choice((1, 1, 2, 4, 8, 40, 400)))
    match chance.randrange(10):
        case 0 if size:
            made[min(at, size - 1)] ^= 1 << chance.randrange(8)
        case 1 if size:
            made[min(at, size - 1)] = chance.choice(b"\0\t\n\r \"'.:;,-=<>@[]{}\\/%#0aZ\x7f\x80\xff")
        case 2:
            del made[at:end]
        case 3:
            made[at:at] = made[at:end]
        case 4 if tokens:
            made[at:at] = chance.choice(tokens)
        case 5 if tokens:
            made[at:end] = chance.choice(tokens)
        case 6:
            there = chance.randrange(size + 1)
            piece = bytes(made[at:end])
            made[there:there] = piece
        case 7 if (found := list(_NUMBER.finditer(made))) and (number := chance.choice(found)):
            made[number.start() : number.end()] = b"%d" % chance.choice(NUMBERS)
        case 8 if chance.random() < 0.2:
            piece = bytes(made[at:end]) or b"a"
            made[at:at] = piece * chance.choice((3, 70, 1000, max(1, (longest - size) // len(piece))))
        case _:
            made[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 1, 2, 5))))


def of_json(value: Any, chance: Random, words: Sequence[str] = ()) -> Any:
    """Another value by a few steps, each at some place in it."""
    box = [json.loads(json.dumps(value))]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(box, chance, words)
    return box[0]


def _change(box: list[Any], chance: Random, words: Sequence[str]) -> None:
    places = _places(box)
    holder, name = chance.choice(places)
    other = chance.choice(places)
    match chance.randrange(9):
        case 0 | 1:
            holder[name] = chance.choice(ODD)
        case 2 if holder is not box:
            del holder[name]
        case 3:
            holder[name] = _copy(other[0][other[1]])
        case 4 if isinstance(holder[name], list):
            holder[name] += _copy(holder[name][: chance.choice((1, 2, 50))])
        case 5 if isinstance(holder, dict):
            holder[chance.choice((*words, "", "x", "a" * 65, *list(holder)))] = holder.pop(name)
        case 6 if isinstance(holder[name], dict):
            holder[name][chance.choice((*words, "x"))] = _copy(other[0][other[1]])
        case 7 if isinstance(holder[name], str) and holder[name].isascii():
            holder[name] = of_bytes(holder[name].encode(), chance, 400).decode("latin-1")
        case 8 if type(holder[name]) is int:
            holder[name] = holder[name] + chance.choice((1, -1, 1000, -1000, 10**12, -(10**12)))
        case _:
            deep = chance.choice((1, 2, 20, 40, 70))
            for _ in range(deep):
                holder[name] = [holder[name]] if chance.random() < 0.5 else {"x": holder[name]}


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(box: list[Any]) -> list[tuple[Any, Any]]:
    """Every place at which a value stands: its holder, and its name or number there."""
    found: list[tuple[Any, Any]] = []
    todo: list[Any] = [box]
    while todo and len(found) < 3000:
        holder = todo.pop()
        names = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, name) for name in names]
        todo += [holder[name] for name in names if isinstance(holder[name], dict | list)]
    return found


def of_json_bytes(
    data: bytes, chance: Random, longest: int, tokens: Sequence[bytes] = (), words: Sequence[str] = ()
) -> bytes:
    """Another JSON text; now and then by blind steps, as where it is no JSON."""
    try:
        value = json.loads(data)
        if chance.random() < 0.9:
            made = json.dumps(of_json(value, chance, words), ensure_ascii=chance.random() < 0.5, separators=(",", ":"))
            return made.encode("utf-8", "surrogatepass")[:longest]
    except (ValueError, RecursionError):
        pass
    return of_bytes(data, chance, longest, tokens)


def of_pieces(pieces: list[bytes], chance: Random) -> list[bytes]:
    """The same pieces in another way: one left out, doubled, moved."""
    made = list(pieces)
    if not made:
        return made
    at, to = chance.randrange(len(made)), chance.randrange(len(made))
    match chance.randrange(3):
        case 0:
            del made[at]
        case 1:
            made.insert(to, made[at])
        case 2:
            made.insert(to, made.pop(at))
    return made
