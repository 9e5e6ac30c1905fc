"""The servers' keys: Ed25519 (RFC 8032) in PEM files, one for each server; the only door to cryptography.

A private key is PKCS8 PEM (RFC 5958) that only its owner may read. A public key is the text `ed25519:` and the base64
of its 32 bytes, as it stands in vmctl.yaml.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from vmctl import durable
from vmctl.errors import AlreadyExists, KeyExposed, KeyMissing

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX: Final = "ed25519:"
_RAW = 32  # bytes of a public key
_LARGEST_FILE = 16_384


class PrivateKey:
    """One server's private key; it shows only its public half."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: Final = public_text(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """The public half."""
        return f"PrivateKey({self.public})"

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`: 64 bytes."""
        return self._key.sign(data)


def generate(path: Path) -> str:
    """Write a new private key to `path`, mode 0600, and return the public one as text.

    Raises AlreadyExists: a key is never replaced, as the peer would refuse what the new one signs.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    durable.make_directory(path.parent)
    if not durable.create(path, pem, mode=0o600):
        raise AlreadyExists(
            f"there is a file at {path} already", hint="keep that key, or move the file away to make another"
        )
    return PrivateKey(key).public


def load_private(path: Path) -> PrivateKey:
    """The private key in `path`.

    Raises KeyMissing when it is absent, unreadable or no Ed25519 key, KeyExposed when group or others have any access.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_private(path)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyMissing(f"{path} holds no private key that can be read", why=str(error).partition("\n")[0]) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyMissing(f"{path} holds no Ed25519 key", why=f"it is a {type(key).__name__}")
    return PrivateKey(key)


def verify(public: str, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` is by the owner of `public`. Raises ValueError when that is no public key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(parse_public(public))
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def parse_public(text: str) -> bytes:
    """The 32 bytes of a public key written as `ed25519:<base64>`. Raises ValueError for anything else."""
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX).encode("ascii"), validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _RAW or text != public_text(raw):
        raise ValueError(f"it is not '{PREFIX}' and the base64 of {_RAW} bytes")
    return raw


def public_text(raw: bytes) -> str:
    """The public key of these 32 bytes as vmctl.yaml holds it."""
    return PREFIX + base64.b64encode(raw).decode("ascii")


def fingerprint(public: str) -> str:
    """A public key in a form to read out: the first 16 hex digits of its SHA-256, in fours. Raises ValueError."""
    digits = hashlib.sha256(parse_public(public)).hexdigest()
    return "-".join(digits[at : at + 4] for at in range(0, 16, 4))


def read_private(path: Path, what: str = "the key") -> bytes:
    """The content of a file that is for its owner only. Raises KeyMissing, KeyExposed.

    What is open is what is judged, so that nobody can swap it in between. At most 16 KiB are read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise KeyMissing(f"cannot read {what} {path}", why=getattr(error, "strerror", None) or str(error)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeyMissing(f"{what} {path} is no file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyExposed(
                f"others can use {what} {path}",
                why=f"its mode is {mode:04o}",
                hint=f"take the permission away with 'chmod 600 {path}', and make a new one if others had a login here",
            )
        return os.read(fd, _LARGEST_FILE)
    finally:
        os.close(fd)
