"""Posting one JSON document to one webhook, signed; the only door to urllib.

The signature is the header `Vmctl-Signature: t=UNIX,v1=HEX`: HMAC (RFC 2104) with SHA-256 over the time `t` in seconds
since 1970, a dot, and the body, under the secret of the webhook. Any answer of 2xx (RFC 9110) means that it was told.
Redirects are not followed: whoever answers with one has not taken it. Certificates are checked as the system has them.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

from vmctl import __version__
from vmctl.errors import KeyFault, KeyMissing
from vmctl.keys import read_private

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Webhook

SIGNATURE: Final = "Vmctl-Signature"
ATTEMPT: Final = "Vmctl-Attempt"
_TIMEOUT = 10.0  # seconds for each step: to connect, to send, to be answered


def post(webhook: Webhook, body: bytes, *, attempt: int, now: int) -> str | None:
    """Post a JSON document, as the attempt of this number (1 and up) at `now` (seconds since 1970).

    None when it was told, else why not, in words without the secret and without the URL. The file with the secret is
    read each time, so that it can be changed while vmctl runs.
    """
    headers = {"Content-Type": "application/json", "User-Agent": f"vmctl/{__version__}", ATTEMPT: str(attempt)}
    try:
        if webhook.secret is not None:
            headers[SIGNATURE] = signature(secret(webhook.secret), body, now)
        request = urllib.request.Request(webhook.url, body, headers, method="POST")  # noqa: S310 - http or https, by the config
        with _opener().open(request, timeout=_TIMEOUT):
            return None
    except KeyFault as error:
        return error.words
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code} {error.reason}".rstrip()
    except urllib.error.URLError as error:
        why = error.reason
        return f"it does not answer: {getattr(why, 'strerror', None) or why}"
    except (OSError, http.client.HTTPException, ValueError) as error:  # it closed too early, or does not speak HTTP
        return f"it does not answer as a web server does: {error or type(error).__name__}"


def signature(key: bytes, body: bytes, now: int) -> str:
    """The value of the header for a body that is posted at `now` (seconds since 1970)."""
    signed = b"%d.%b" % (now, body)
    return f"t={now},v1={hmac.new(key, signed, hashlib.sha256).hexdigest()}"


def secret(path: Path) -> bytes:
    """The secret in a file, without white space around it. Raises KeyMissing, KeyExposed when others have any access."""
    found = read_private(path, "the webhook secret").strip()
    if not found:
        raise KeyMissing(f"the webhook secret {path} is empty")
    return found


def _opener() -> urllib.request.OpenerDirector:
    """What opens http and https by the system's proxies, and nothing else: no files, no redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
