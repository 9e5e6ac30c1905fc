"""PINs: four to fifteen digits, kept as a scrypt hash (RFC 7914) and never shipped or shown plain."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Any

from vmctl.errors import BadValue

_PIN = re.compile(r"[0-9]{4,15}", re.ASCII)
_HASH = re.compile(r"scrypt:([0-9]{1,6}):([0-9]{1,2}):([0-9]{1,2}):([A-Za-z0-9+/=]{16,64}):([A-Za-z0-9+/=]{40,64})")
# As OWASP's Password Storage Cheat Sheet has it where 128 MiB for each hash are too much (N=2^17, r=8, p=1): as much work
# in 32 MiB. A PIN of four digits is found all the same by whoever has its hash: so that is nobody's to see, either.
_COST, _BLOCK, _PARALLEL = 2**15, 8, 3
_MEMORY = 64 * 1024 * 1024
_MOST_WORK = 4 * _COST * _BLOCK * _PARALLEL  # of a hash that somebody else made: it must not hold a server up


def is_hash(value: Any) -> bool:
    """Whether a `pin` field is hashed already."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def hashed(value: Any) -> str:
    """The hash of a PIN that a person wrote, as text or number. Raises BadValue."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _PIN.fullmatch(text):
        raise BadValue("a PIN must be 4 to 15 digits", hint="quote one that begins with 0 or +, and use digits only")
    salt = secrets.token_bytes(16)
    return ":".join(
        (
            "scrypt",
            str(_COST),
            str(_BLOCK),
            str(_PARALLEL),
            _b64(salt),
            _b64(_scrypt(text, salt, _COST, _BLOCK, _PARALLEL)),
        )
    )


def matches(value: str, pin: str) -> bool:
    """Whether a PIN is the hashed one; no PIN matches a hash that cannot be computed."""
    parts = _HASH.fullmatch(value)
    if not parts or not _PIN.fullmatch(pin):
        return False
    cost, block, parallel = (int(parts[number]) for number in (1, 2, 3))
    if cost * block * parallel > _MOST_WORK:
        return False
    try:
        salt, kept = base64.b64decode(parts[4]), base64.b64decode(parts[5])
        return hmac.compare_digest(_scrypt(pin, salt, cost, block, parallel), kept)
    except ValueError:  # bad base64, or parameters that scrypt refuses or that want more memory than is allowed
        return False


def _scrypt(pin: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=_MEMORY, dklen=32)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
