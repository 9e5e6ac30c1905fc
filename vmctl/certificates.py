"""The certificates of the direct link (X.509, RFC 5280): a server's own, and what the other one checks it with.

A server's identity, an Ed25519 key that vmctl.yaml pins, issues the certificate of a TLS key. The other server makes a
trust anchor of the pinned key by itself, so no certificate ever has to be brought to it. A new identity is vouched for by
the former one while both count. Times are not a means here: a server whose clock is wrong must still reach its peer, and
a key is withdrawn by taking it out of vmctl.yaml; so a certificate is valid from 1970 to 9999 (RFC 5280, 4.1.2.5).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def issue(identity: Ed25519PrivateKey, server: str) -> bytes:
    """A new TLS key and its certificate, in PEM."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    made = _signed(identity, identity.public_key(), f"vmctl {server}", key.public_key(), authority=False)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)


def vouch(former: Ed25519PrivateKey, identity: Ed25519PublicKey) -> bytes:
    """The word of a former identity for the one that follows it, in PEM: who knows only the former accepts both."""
    from cryptography.hazmat.primitives.serialization import Encoding

    made = _signed(former, former.public_key(), _name(identity), identity, authority=True)
    return made.public_bytes(Encoding.PEM)


def anchor(public: bytes) -> str:
    """The trust anchor of an identity (32 bytes), in PEM. Nobody checks by whom an anchor is signed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding

    identity = Ed25519PublicKey.from_public_bytes(public)
    made = _signed(Ed25519PrivateKey.generate(), identity, _name(identity), identity, authority=True)
    return made.public_bytes(Encoding.PEM).decode("ascii")


def _signed(
    signer: Ed25519PrivateKey,
    issuer: Ed25519PublicKey,
    subject: str,
    public: CertificatePublicKeyTypes,
    *,
    authority: bool,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(subject))
        .issuer_name(_named(_name(issuer)))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_usage(authority=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    )
    if not authority:
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(uses, critical=False)
    return builder.sign(signer, algorithm=None)


def _usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=False, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(identity: Ed25519PublicKey) -> str:
    """What an identity is called as an issuer: OpenSSL looks for issuers by their names."""
    return f"vmctl identity {hashlib.sha256(identity.public_bytes_raw()).hexdigest()[:32]}"


def _named(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])
