"""The direct link between the two servers: TLS 1.3 (RFC 8446), each end pinned to the other one's identity.

No authority, host name or date counts: the only certificate that is accepted is one that the identity in vmctl.yaml
issued. There is no way to talk less than that; plain text on loopback is another setting, and needs nothing of this.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from vmctl import certificates, keys
from vmctl.errors import KeyMissing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def receiving(key: Path, pinned: Iterable[str]) -> ssl.SSLContext:
    """For who is called: `key` is the own private key, `pinned` what identities may call. Raises KeyMissing, KeyExposed."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, key, pinned)
    context.num_tickets = 0  # connections are kept, not resumed
    return context


def calling(key: Path, pinned: Iterable[str]) -> ssl.SSLContext:
    """For who calls, likewise."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, key, pinned)


def _context(side: int, key: Path, pinned: Iterable[str]) -> ssl.SSLContext:
    keys.load_private(key)  # that it is private, and whole
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the identity is pinned, whatever its host is called
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_cert_chain(key)
    except (OSError, ssl.SSLError) as error:
        raise KeyMissing(f"the TLS certificate in {key} cannot be used", why=str(error)) from error
    anchors = "".join(certificates.anchor(keys.parse_public(identity)) for identity in pinned)
    if anchors:
        context.load_verify_locations(cadata=anchors)
    return context


def to_relay(ca: Path | None, *, verified: bool) -> ssl.SSLContext:
    """For a mail server on the way: its certificate and host name are checked by `ca`, or by the system's certificates."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise KeyMissing(f"cannot use the certificates {ca}", why=str(error), hint="correct 'relay.ca'") from error
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
