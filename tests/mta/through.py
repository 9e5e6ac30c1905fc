"""Two hosts whose only way to each other is mail servers, set up by the recipes of docs/mail-servers.md."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from mta import host, place, postfix
from mta.chain import PASSWORD, USER, Office
from mta.place import account, give
from mta.recipes import CONFIG, PROGRAM, recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mta.hop import Hop
    from mta.host import Host
    from mta.postfix import Postfix

SENDING = "/etc/vmctl/vmctl.yaml: sending through the mail server of this host"
WITH_PASSWORD = "/etc/vmctl/vmctl.yaml: sending through a provider, with a password"
NO_LISTENER = "/etc/vmctl/vmctl.yaml: mail comes through a mail server only"
FROM_MAILDIR = "/etc/vmctl/vmctl.yaml: picking mail up from a Maildir"


@contextlib.contextmanager
def an_office() -> Iterator[Office]:
    """Mail servers that end with the test."""
    postfix.require()
    with place.ground() as root:
        made = Office(root)
        try:
            yield made
        finally:
            made.close()


class Post:
    """Two hosts, a Postfix for each, and a hop each way between these."""

    def __init__(self, office: Office, there: Hop, back: Hop, **settings: str) -> None:
        self.office = office
        self.one, self.other = host.make(office.root, **settings)
        self.hosts = (self.one, self.other)
        self.near, self.far = (office.postfix(each.server) for each in self.hosts)
        self.servers = (self.near, self.far)
        self.there, self.back = there, back
        for each, server, out, to in zip(self.hosts, self.servers, (there, back), (self.far, self.near), strict=True):
            out.to = to.port
            office.sends_to(server, out.port)
            each.set(NO_LISTENER, *own(each))
            office.to_program(server, each.server, each.program, each.config)
        self.with_password(self.one, self.near)
        self.other.set(SENDING, ("127.0.0.1:25", self.far.address))

    def with_password(self, each: Host, server: Postfix) -> None:
        """A host hands its mail over by STARTTLS and AUTH."""
        password = each.root / "relay.password"
        password.write_text(f"{PASSWORD}\n")
        password.chmod(0o600)
        give(password)
        each.set(
            WITH_PASSWORD,
            ("mail.example.net:587", f"localhost:{server.submission}"),
            ("user: vmctl", f"user: {USER}\n  ca: {self.office.authority.path}"),
            ("/etc/vmctl/relay.password", str(password)),
        )

    def start(self) -> None:
        """Start both mail servers."""
        for server in self.servers:
            server.start()

    def sync(self) -> None:
        """Both hosts do what their crons do."""
        sync(*self.hosts)


def sync(*hosts: Host) -> None:
    """What the line for cron says is run on both hosts at the same time; both end in step."""
    who, runs = account(), []
    for each in hosts:
        line = recipe(
            "/etc/cron.d/vmctl: a round every minute", (PROGRAM, str(each.program)), (CONFIG, str(each.config))
        )
        *_, user, command = line.strip().split(maxsplit=6)
        assert user == "vmctl"
        runs.append(
            subprocess.Popen(
                ["/bin/sh", "-c", command],  # as cron does
                env={"PATH": "/usr/bin:/bin"}, user=who.pw_uid, group=who.pw_gid, extra_groups=[], cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    done = [run.communicate(timeout=100)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], done


def own(each: Host) -> tuple[tuple[str, str], ...]:
    return (("secondary", each.server),) if each.server != "secondary" else ()
