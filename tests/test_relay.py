"""A mail server on the way, as vmctl.yaml names it: STARTTLS, its certificate, AUTH; and that what it gets is sealed."""

from __future__ import annotations

import contextlib
import email
import os
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from running import Net, free_ports
from test_arbiter import certificates

from vmctl import config, errors
from vmctl.carriage import Carriage
from vmctl.clock import Clock
from vmctl.config_values import Address
from vmctl.outbox import Parcel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "a secret"


class Relay:
    """A mail server that keeps what it gets, and who logged in."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.logins: list[LoginPassword] = []
        self.port = 0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """The end of a mail."""
        self.mails.append(envelope)
        return "250 queued"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        """Somebody logs in."""
        self.logins.append(data)
        return AuthResult(success=data == LoginPassword(b"vm", PASSWORD.encode()), handled=False)

    @contextlib.contextmanager
    def open(self, tls: ssl.SSLContext | None = None, **words: Any) -> Iterator[Relay]:
        """Listen on a free port of 127.0.0.1."""
        (self.port,) = free_ports(1)
        controller = Controller(
            self, hostname="127.0.0.1", port=self.port, tls_context=tls, require_starttls=tls is not None,
            authenticator=self.authenticate, auth_exclude_mechanism=["LOGIN"], **words,
        )  # fmt: skip
        controller.start()
        try:
            yield self
        finally:
            controller.stop()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CA, and a certificate of 127.0.0.1 with its key."""
    return certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tls(certified: dict[str, Path]) -> ssl.SSLContext:
    """What the relay shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified["cert"], certified["key"])
    return context


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """A network."""
    return Net.make(tmp_path / "net", failover__after="90s")  # a third of it is the patience with an answer


def carry(net: Net, relay: Relay, **words: Any) -> None:
    """Let the primary hand a mail to the relay; with what vmctl.yaml says of it."""
    said = config.Relay(**{"tls": "verified", "address": Address("127.0.0.1", relay.port), **words})
    changed = net.config.__class__(**{**vars_of(net.config), "relay": said})
    carriage = Carriage(changed, "primary", Clock())
    with contextlib.closing(carriage):
        carriage.carry(
            Parcel(
                b"Subject: 1 message for extension 2001\r\n\r\nwhat Ada Byron said\r\n", "p", "s", "<1@primary.example>"
            )
        )


def vars_of(made: config.Config) -> dict[str, Any]:
    """The fields of a config."""
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def test_what_leaves_is_sealed(net: Net, tls: ssl.SSLContext, certified: dict[str, Path]) -> None:
    """The relay gets the mail between the two servers' addresses, and nothing in it that it could read."""
    with Relay().open(tls) as relay:
        carry(net, relay, ca=certified["ca"])
    (envelope,) = relay.mails
    assert net.config.servers["primary"].mail == envelope.mail_from
    assert [net.config.servers["secondary"].mail] == envelope.rcpt_tos
    assert b"extension 2001" not in envelope.content  # less might be in what is sealed, by chance
    assert b"Ada Byron" not in envelope.content
    assert "vmctl: a sealed sync mail" == email.message_from_bytes(envelope.content)["Subject"]


def test_it_logs_in(
    net: Net, tls: ssl.SSLContext, certified: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the password from a file or from the environment; a wrong or missing one is named, and no mail leaves."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    monkeypatch.setenv("VMCTL_TEST_PASSWORD", PASSWORD)
    with Relay().open(tls) as relay:
        carry(net, relay, ca=certified["ca"], user="vm", password_file=secret)
        carry(net, relay, ca=certified["ca"], user="vm", password_env="VMCTL_TEST_PASSWORD")
        assert len(relay.mails) == 2
        assert "VMCTL_TEST_PASSWORD" not in os.environ  # or programs that vmctl runs would inherit it
        with pytest.raises(errors.LoginRefused, match="does not let eve log in"):
            carry(net, relay, ca=certified["ca"], user="eve", password_env="VMCTL_TEST_PASSWORD")
        with pytest.raises(errors.LoginRefused, match="is not set"):
            carry(net, relay, ca=certified["ca"], user="vm", password_env="VMCTL_NO_SUCH")
        secret.chmod(0o644)
        with pytest.raises(errors.PeerUnreachable, match="the password file"):
            carry(net, relay, ca=certified["ca"], user="vm", password_file=secret)
    assert len(relay.mails) == 2
    with Relay().open() as open_relay, pytest.raises(errors.LoginRefused):
        carry(net, open_relay, tls="off", user="vm", password_env="VMCTL_TEST_PASSWORD")


def test_a_password_goes_to_no_stranger(
    net: Net, tls: ssl.SSLContext, certified: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay whose certificate nobody vouches for, is another host's, or that offers no TLS, gets neither password nor mail."""
    monkeypatch.setenv("VMCTL_TEST_PASSWORD", PASSWORD)
    login = {"user": "vm", "password_env": "VMCTL_TEST_PASSWORD"}
    with Relay().open(tls) as relay:
        with pytest.raises(errors.PeerUntrusted):
            carry(net, relay, **login)
        with pytest.raises(errors.PeerUntrusted):
            carry(net, relay, ca=certified["ca"], address=Address("localhost", relay.port), **login)
        carry(net, relay, tls="unverified")  # as a person may say, without a password
        assert [] == relay.logins
        assert len(relay.mails) == 1
    with Relay().open() as plain, pytest.raises(errors.PeerUntrusted, match="does not offer TLS"):
        carry(net, plain, ca=certified["ca"], **login)
    assert ([], []) == (plain.mails, plain.logins)


@pytest.mark.parametrize("missing", ["seal_key", "public_key"])
def test_without_the_peers_key_nothing_leaves(
    net: Net, tls: ssl.SSLContext, certified: dict[str, Path], missing: str
) -> None:
    """What cannot be sealed is not sent, and the error says what to do."""
    servers = dict(net.config.servers)
    servers["secondary"] = servers["secondary"]._replace(**{missing: None})
    unknown = Net(net.root, net.config.__class__(**{**vars_of(net.config), "servers": servers}))
    with Relay().open(tls) as relay, pytest.raises(errors.PeerUntrusted) as caught:
        carry(unknown, relay, ca=certified["ca"])
    assert "vmctl keys trust" in caught.value.hint
    assert [] == relay.mails


@pytest.mark.parametrize(
    ("seal", "plain", "relay", "sealed"),
    [
        ("auto", False, False, False), ("auto", True, False, True), ("auto", False, True, True), ("always", False, False, True),
        ("never", True, True, False),
    ],
)  # fmt: skip
def test_when_mails_are_sealed(tmp_path: Path, seal: str, plain: bool, relay: bool, sealed: bool) -> None:
    """By default wherever they do not go over the pinned link; always, or never, where a person says so."""
    settings = {"mail.seal": seal, "link.plain": plain} | ({"relay.address": "127.0.0.1:25"} if relay else {})
    from vmctl import network

    assert sealed == network.make(tmp_path / "net", settings=settings).sealed


def test_a_plain_link_works_and_is_sealed(tmp_path: Path) -> None:
    """Plain text on loopback: the stores come in step all the same, and nobody who listens there reads voicemail."""
    net = Net.make(tmp_path / "net", link__plain=True)
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    net.do("sync")
    assert net.path("secondary", "mailboxes/2001/mailbox.yaml").exists()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"link.plain": True, "servers.secondary.address": "192.0.2.1:25"}, "link.plain"),
        ({"link.plain": True, "servers.primary.listen": "0.0.0.0:2525"}, "link.plain"),
        ({"relay.user": "vm"}, "relay.address"),
        ({"relay.address": "a:25", "relay.user": "vm"}, "relay.password_file"),
        ({"relay.address": "a:25", "relay.password_env": "X"}, "relay.user"),
        (
            {"relay.address": "a:25", "relay.user": "v", "relay.password_env": "X", "relay.password_file": "p"},
            "relay.password_env",
        ),
        (
            {"relay.address": "a:25", "relay.user": "v", "relay.password_env": "X", "relay.tls": "unverified"},
            "relay.tls",
        ),
        ({"relay.address": "a:25", "relay.user": "v", "relay.password_env": "X", "relay.tls": "off"}, "relay.tls"),
        ({"relay.password_env": "no name"}, "relay.password_env"),
        ({"servers.primary.former_key": "ed25519:" + "A" * 43 + "="}, "servers.primary.former_until"),
        ({"servers.primary.former_until": "2026-01-01T00:00:00Z"}, "servers.primary.former_key"),
    ],
)
def test_what_would_give_something_away_is_a_fault(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    """A password for nobody who was checked, plain text off the host, half a setting: each is named before anything is sent."""
    from vmctl import network

    with pytest.raises(errors.ConfigFaults) as caught:
        network.make(tmp_path / "net", settings=settings)
    assert key in {fault["key"] for fault in caught.value.faults}
