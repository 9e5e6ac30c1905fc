"""One post to one webhook: what goes out, what counts as told, and how a receiver checks that it is genuine."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from portal import Portal
from running import free_ports

from vmctl import webhooks
from vmctl.config import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = b'{"id":"net-primary-7-3f2a","serving":null}'
PAGE = Path(__file__).parent.parent / "docs/hooks.md"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def portal() -> Iterator[Portal]:
    with Portal().open() as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "portal.secret"
    path.write_bytes(b"open sesame\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def is_genuine() -> Callable[..., bool]:
    """The receiver's check, as docs/hooks.md shows it."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 1
    names: dict[str, Any] = {}
    exec(found[0], names)
    return names["is_genuine"]


def post(webhook: Webhook, attempt: int = 1, now: int | None = None) -> str | None:
    return webhooks.post(webhook, BODY, attempt=attempt, now=int(time.time()) if now is None else now)


def test_what_goes_out(portal: Portal, secret: Path) -> None:
    """The body as it is, its type, the number of the attempt and the signature; no answer of 2xx is a failure."""
    for number, answer in enumerate((200, 202, 204), 1):
        portal.answer = answer
        assert post(Webhook(portal.url, secret), attempt=number) is None
        sent = portal.posts[-1]
        assert (sent.path, sent.body) == ("/vmctl", BODY)
        assert sent.headers["Content-Type"] == "application/json"
        assert sent.headers["Vmctl-Attempt"] == str(number)
        assert re.fullmatch(r"t=\d+,v1=[0-9a-f]{64}", sent.headers["Vmctl-Signature"])
    assert len(portal.posts) == 3


def test_without_a_secret_nothing_is_signed(portal: Portal) -> None:
    """A webhook without a secret gets no signature, rather than one that everybody could make."""
    assert post(Webhook(portal.url)) is None
    assert "Vmctl-Signature" not in portal.posts[0].headers


@pytest.mark.parametrize("answer", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(portal: Portal, answer: int) -> None:
    """Whoever answers with a redirect has not taken it; what it names gets nothing."""
    portal.answer = answer
    with Portal().open() as other:
        portal.location = other.url
        assert (post(Webhook(portal.url)) or "").startswith(f"it answered {answer}")
        assert other.posts == []
    assert len(portal.posts) == 1


@pytest.mark.parametrize("answer", [400, 401, 404, 410, 429, 500, 503])
def test_a_refusal_is_not_told(portal: Portal, answer: int) -> None:
    """Every answer but 2xx is a failure, which names the code and neither the URL nor the secret."""
    portal.answer = answer
    why = post(Webhook(f"{portal.url}?token=hidden"))
    assert (why or "").startswith(f"it answered {answer}")
    assert "hidden" not in (why or "")


def answering(words: bytes) -> tuple[int, threading.Thread]:
    """A server that says these words to one connection and closes it; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(words)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize("words", [b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 2", b"HTTP/1.1 two hundred\r\n\r\n"])
def test_what_is_no_web_server(words: bytes) -> None:
    """A server that closes early or speaks something else is a failure in words."""
    port, thread = answering(words)
    assert "does not answer" in (post(Webhook(f"http://127.0.0.1:{port}/")) or "")
    thread.join()


def test_nobody_listens() -> None:
    """A closed port and a name that means nothing are failures in words."""
    assert post(Webhook(f"http://127.0.0.1:{free_ports(1)[0]}/")) == "it does not answer: Connection refused"
    assert "it does not answer: " in (post(Webhook("http://none-such.invalid/")) or "")


def test_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing is a failure after the time limit."""
    monkeypatch.setattr(webhooks, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert "timed out" in (post(Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/")) or "")


# Signatures


def test_the_receiver_of_the_docs_finds_what_is_not_genuine(
    portal: Portal, secret: Path, is_genuine: Callable[..., bool]
) -> None:
    """It takes what was posted, and refuses another body, secret, time or signature, and one that is too old."""
    now = int(time.time())
    post(Webhook(portal.url, secret), now=now)
    sent = portal.posts[0]
    mark = sent.headers["Vmctl-Signature"]
    assert is_genuine(mark, sent.body, b"open sesame")
    assert not is_genuine(mark, sent.body + b" ", b"open sesame")
    assert not is_genuine(mark, sent.body, b"open barley")
    assert not is_genuine(mark.replace(f"t={now}", f"t={now + 1}"), sent.body, b"open sesame")
    assert not is_genuine(mark[:-1] + ("0" if mark[-1] != "0" else "1"), sent.body, b"open sesame")
    old = webhooks.signature(b"open sesame", BODY, now - 301)
    assert not is_genuine(old, BODY, b"open sesame")
    assert is_genuine(old, BODY, b"open sesame", tolerance=3600)


@example("t=" + 400 * "9" + ",v1=00")
@given(st.text(max_size=80) | st.from_regex(r"t=\d{1,12},v1=[0-9a-f]{0,64}", fullmatch=True))
def test_the_receiver_of_the_docs_takes_any_header(is_genuine: Callable[..., bool], header: str) -> None:
    """Whatever a stranger writes into the header is refused, not an error."""
    assert is_genuine(header, BODY, b"open sesame") is False


def test_a_secret_that_others_may_read_is_refused(portal: Portal, secret: Path) -> None:
    """Nothing is posted with a secret that is missing, empty, or open to others; the words name the file, not its content."""
    for mode in (0o640, 0o604, 0o620):
        secret.chmod(mode)
        why = post(Webhook(portal.url, secret)) or ""
        assert f"others can use the webhook secret {secret} (its mode is {mode:04o})" == why
    secret.chmod(0o600)
    secret.write_bytes(b" \n")
    assert post(Webhook(portal.url, secret)) == f"the webhook secret {secret} is empty"
    secret.unlink()
    assert "cannot read the webhook secret" in (post(Webhook(portal.url, secret)) or "")
    secret.mkdir()
    assert "is no file" in (post(Webhook(portal.url, secret)) or "")
    assert portal.posts == []


def test_a_secret_is_read_each_time(portal: Portal, secret: Path, is_genuine: Callable[..., bool]) -> None:
    """A secret that was changed signs the next post."""
    post(Webhook(portal.url, secret))
    secret.write_bytes(b"open barley")
    post(Webhook(portal.url, secret))
    for sent, word in zip(portal.posts, (b"open sesame", b"open barley"), strict=True):
        assert is_genuine(sent.headers["Vmctl-Signature"], sent.body, word)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "portal.example")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "portal.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(pem))
    return path


def test_certificates_are_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate nobody vouches for gets nothing; one that the system trusts is told."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Portal(tls=tls).open() as portal:
        assert "certificate verify failed" in (post(Webhook(portal.url)) or "")
        assert portal.posts == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert post(Webhook(portal.url)) is None
        assert json.loads(portal.posts[0].body) == json.loads(BODY)
