"""Sealed bytes (HPKE, RFC 9180, single-shot base mode): what only the owner of a sealing key can read.

The suite is ML-KEM-768 with X25519 as key encapsulation, HKDF-SHA256, AES-256-GCM: what somebody records today is not
to be read by a quantum computer later. Who sealed it does not show: what is inside is signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

INFO: Final = b"vmctl sealed mail 1\n"  # binds what is sealed to this use
OVERHEAD: Final = 1136  # bytes: the encapsulated key (1120) and the tag (16)
_MLKEM = 1184  # bytes of the first half of a public key


def sealed(content: bytes, public: bytes) -> bytes:
    """`content` for the owner of a sealing key (1216 bytes); each time other bytes. Raises ValueError for no such key."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

    key = MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_MLKEM]), X25519PublicKey.from_public_bytes(public[_MLKEM:])
    )
    return _suite().encrypt(content, key, info=INFO)


def opened(content: bytes, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> bytes | None:
    """What was sealed for these keys; None for what was not, or was altered."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

    try:
        return _suite().decrypt(content, MLKEM768X25519PrivateKey(mlkem, x25519), info=INFO)
    except (InvalidTag, ValueError):
        return None


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
