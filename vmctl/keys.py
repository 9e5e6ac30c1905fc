"""The servers' keys: who a server is (Ed25519, RFC 8032), and how to write to it in confidence (HPKE, RFC 9180).

A server's private keys are in one PEM file (PKCS8, RFC 5958) that only its owner may read: the key and certificate of
its TLS connections, its identity, which signs its mails and issues that certificate, and the two halves of its sealing
key, ML-KEM-768 (FIPS 203) and X25519. While a rotation lasts the former identity and sealing key stand behind them.
The public keys are texts as they stand in vmctl.yaml: `ed25519:` and the base64 of 32 bytes, `mlkem768-x25519:` and
that of 1184 and 32 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmctl import durable
from vmctl.errors import AlreadyExists, KeyExposed, KeyMissing

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PREFIX: Final = "ed25519:"
SEAL_PREFIX: Final = "mlkem768-x25519:"
_RAW = 32  # bytes of an identity's public key
_SEAL_RAW = 1184 + 32
_LARGEST_FILE = 16_384
_BLOCK = re.compile(rb"-----BEGIN (PRIVATE KEY|CERTIFICATE)-----\n[A-Za-z0-9+/=\n]{1,8000}\n-----END \1-----\n")
_MOST_LIVES = 2  # an identity, and the former one


class Public(NamedTuple):
    """The public half of a server's keys, as vmctl.yaml pins it."""

    identity: str
    seal: str


class _Life(NamedTuple):
    """The private keys of a server from one rotation to the next."""

    identity: Ed25519PrivateKey
    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    @property
    def public(self) -> Public:
        raw = self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()
        return Public(public_text(self.identity.public_key().public_bytes_raw()), _text(SEAL_PREFIX, raw))

    def pem(self) -> bytes:
        return b"".join(map(_pem, self))


class Signature(NamedTuple):
    """A signature (64 bytes), and the public key that it is checked with."""

    public: str
    signature: bytes


class PrivateKey:
    """One server's private keys; it shows only their public half."""

    __slots__ = ("_former", "former", "present", "public")

    def __init__(self, life: _Life, former: _Life | None = None) -> None:
        self.present: Final = life
        self._former = former
        self.public: Final = life.public
        self.former: Final = former.public if former else None

    def __repr__(self) -> str:
        """The public half."""
        return f"PrivateKey({self.public.identity})"

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`: 64 bytes."""
        return self.present.identity.sign(data)

    def signatures(self, data: bytes, *, former: bool) -> list[Signature]:
        """The signature of `data`, and with `former` that of the former identity, too, where there is one."""
        lives = [self.present, *([self._former] if former and self._former else [])]
        return [Signature(life.public.identity, life.identity.sign(data)) for life in lives]

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed for this server, under its sealing key or the former one; None where neither opens it."""
        from vmctl import sealing

        for life in (self.present, *([self._former] if self._former else [])):
            content = sealing.opened(sealed, life.mlkem, life.x25519)
            if content is not None:
                return content
        return None


def generate(path: Path, server: str) -> Public:
    """Write new private keys for `server` to `path`, mode 0600, and return the public ones.

    Raises AlreadyExists: keys are never replaced by the way, as the peer would refuse what new ones sign.
    """
    from vmctl import certificates

    life = _new_life()
    durable.make_directory(path.parent)
    if not durable.create(path, certificates.issue(life.identity, server) + life.pem(), mode=0o600):
        raise AlreadyExists(
            f"there is a file at {path} already", hint="keep that key, or move the file away to make another"
        )
    return life.public


def rotate(path: Path, server: str) -> PrivateKey:
    """Make new private keys in `path`; the present ones stay behind them as the former. Raises as `load_private` does."""
    from vmctl import certificates

    former = load_private(path).present
    life = _new_life()
    word = certificates.vouch(former.identity, life.identity.public_key())
    _replace(path, certificates.issue(life.identity, server) + word + life.pem() + former.pem())
    return PrivateKey(life, former)


def retire(path: Path, server: str) -> Public | None:
    """Take the former keys out of `path`; the public half of what went, or None. Raises as `load_private` does."""
    from vmctl import certificates

    key = load_private(path)
    if key.former is not None:
        _replace(path, certificates.issue(key.present.identity, server) + key.present.pem())
    return key.former


def load_private(path: Path) -> PrivateKey:
    """The private keys in `path`.

    Raises KeyMissing when the file is absent, unreadable or does not hold all of them, KeyExposed when group or others
    have any access.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_private(path)
    found: dict[str, list[Any]] = {}
    try:
        for block in _BLOCK.finditer(pem):
            if block[1] == b"PRIVATE KEY":
                key = load_pem_private_key(block[0], password=None)
                found.setdefault(type(key).__name__, []).append(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyMissing(
            f"{path} holds a private key that cannot be read", why=str(error).partition("\n")[0]
        ) from error
    kinds = [found.get(name, []) for name in ("Ed25519PrivateKey", "MLKEM768PrivateKey", "X25519PrivateKey")]
    counts = {len(keys) for keys in kinds}
    if len(counts) != 1 or not 1 <= len(kinds[0]) <= _MOST_LIVES or not found.get("ECPrivateKey"):
        raise KeyMissing(
            f"{path} does not hold the keys of a server",
            why="that is a TLS key with its certificate, an Ed25519 key, an ML-KEM-768 key and an X25519 key",
        )
    lives = [_Life(*keys) for keys in zip(*kinds, strict=True)]
    return PrivateKey(*lives)


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
    """The 32 bytes of an identity written as `ed25519:<base64>`. Raises ValueError for anything else."""
    return _parsed(PREFIX, _RAW, text)


def parse_seal(text: str) -> bytes:
    """The 1216 bytes of a sealing key written as `mlkem768-x25519:<base64>`. Raises ValueError for anything else."""
    return _parsed(SEAL_PREFIX, _SEAL_RAW, text)


def check_public(public: Public) -> None:
    """Raises ValueError where these are no keys that can be used."""
    verify(public.identity, bytes(64), b"")
    seal(b"", public.seal)


def seal(content: bytes, public: str) -> bytes:
    """`content`, to be read only by the owner of a sealing key. Raises ValueError when that is no public key."""
    from vmctl import sealing

    return sealing.sealed(content, parse_seal(public))


def public_text(raw: bytes) -> str:
    """The identity of these 32 bytes as vmctl.yaml holds it."""
    return _text(PREFIX, raw)


def fingerprint(public: Public) -> str:
    """Public keys in a form to read out: the first 32 hex digits of the SHA-256 of both, in fours. Raises ValueError."""
    digits = hashlib.sha256(parse_public(public.identity) + parse_seal(public.seal)).hexdigest()
    return "-".join(digits[at : at + 4] for at in range(0, 32, 4))


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


def _replace(path: Path, pem: bytes) -> None:
    before = path.stat()
    durable.write(path, pem, mode=0o600)
    durable.keep_owner(path, before)  # else the server could not read its keys after root's command


def _new_life() -> _Life:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _Life(Ed25519PrivateKey.generate(), MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def _text(prefix: str, raw: bytes) -> str:
    return prefix + base64.b64encode(raw).decode("ascii")


def _parsed(prefix: str, length: int, text: str) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(prefix).encode("ascii"), validate=True)
    except ValueError:
        raw = b""
    if len(raw) != length or text != _text(prefix, raw):
        raise ValueError(f"it is not '{prefix}' and the base64 of {length} bytes")
    return raw
