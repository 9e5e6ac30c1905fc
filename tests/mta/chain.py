"""Hosts with mail servers between them, which stand as the recipes of docs/mail-servers.md say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mta import recipes
from mta.certificates import Authority
from mta.exim import Exim
from mta.place import ACCOUNT, give, give_folder, group
from mta.postfix import Postfix
from mta.recipes import recipe

if TYPE_CHECKING:
    from pathlib import Path

# What Debian's /etc/exim4 has for these
_FORWARD = """\
aliases:
  driver = redirect
  local_parts = vmsync
  data = {account}
userforward:
  driver = redirect
  check_local_user
  file = {path}
  no_verify
  check_ancestor
  directory_transport = address_directory
  pipe_transport = address_pipe
"""
_ADDRESSES = """\
address_pipe:
  driver = pipe
  return_fail_output
address_directory:
  driver = appendfile
  envelope_to_add = true
  return_path_add = true
  check_string = ""
  message_prefix = ""
  message_suffix = ""
  maildir_format
"""
USER, PASSWORD = "vmctl", "a long word for tests"


def domain(server: str) -> str:
    """The mail domain of a server, which is also the name of its host."""
    return f"{server}.example"


def address(server: str) -> str:
    """The mail address of a server."""
    return f"vmsync@{domain(server)}"


def of(server: str) -> tuple[tuple[str, str], ...]:
    """What is replaced in recipes that are written for the secondary."""
    return (("secondary", server),) if server != "secondary" else ()


def command(program: Path, config: Path, server: str) -> tuple[tuple[str, str], ...]:
    """What is replaced in a recipe with the command in it."""
    return ((recipes.PROGRAM, str(program)), (recipes.CONFIG, str(config)), *of(server))


class Office:
    """The mail servers of one test: a directory, an authority, and what ends them all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority(root / "ca")
        self.servers: list[Postfix | Exim] = []

    def close(self) -> None:
        """End all, and print their logs: pytest shows them where the test failed."""
        for server in self.servers:
            server.kill()
            print(f"--- the log of {server.root.name}\n{server.log()[-20_000:]}")  # noqa: T201

    def postfix(self, server: str) -> Postfix:
        """The Postfix of a server's host, with a certificate and an account for who hands mail over."""
        host = domain(server)
        made = Postfix(self.root / f"postfix-of-{server}", host)
        cert, key = self.authority.issue(host)
        own = (("mail.example.net", host),)
        made.main += recipe(
            "/etc/postfix/main.cf: a certificate, and accounts",
            ("/etc/ssl/certs/mail.example.net.pem", str(cert)), ("/etc/ssl/private/mail.example.net.key", str(key)), *own,
        )  # fmt: skip
        made.main += recipe("/etc/postfix/main.cf: mails as large as vmctl makes them")
        made.master += recipe(
            "/etc/postfix/master.cf: where programs hand mail over",
            ("submission", f"127.0.0.1:{made.submission}"),
        )
        made.use_sasl(recipe("/etc/postfix/sasl/smtpd.conf: accounts are in /etc/sasldb2"))
        made.add_account(USER, PASSWORD)
        self.servers.append(made)
        return made

    def to_program(self, made: Postfix, server: str, program: Path, config: Path) -> None:
        """Mail for a server goes to `vmctl receive` as its recipe says."""
        made.main += recipe("/etc/postfix/main.cf: mail for vmctl goes to a program", *of(server))
        made.master += recipe(
            "/etc/postfix/master.cf: the program",
            ("user=vmctl", f"user={ACCOUNT}"), *command(program, config, server),
        )  # fmt: skip

    def by_forward(self, made: Postfix, head: str, *names: tuple[str, str]) -> None:
        """Mail for vmsync goes where a `.forward` of the account says."""
        folder = give_folder(made.root / "home")
        path = folder / ".forward"
        path.write_text(recipe(head, *names))
        give(path)
        made.main += f"alias_maps = inline:{{ vmsync={ACCOUNT} }}\nforward_path = {path}\n"

    def sends_to(self, made: Postfix, port: int) -> None:
        """What is for elsewhere goes to a port, in plain text, as to a relay of one's own."""
        made.main += f"relayhost = [127.0.0.1]:{port}\n"

    def sends_safely_to(self, made: Postfix, other: Postfix) -> None:
        """What is for elsewhere goes to another Postfix, over TLS with its certificate checked."""
        made.main += recipe(
            "/etc/postfix/main.cf: what is for elsewhere goes through one server",
            ("mail.example.net]:587", f"localhost]:{other.port}"),
            ("/etc/ssl/certs/ca-certificates.crt", str(self.authority.path)),
        )  # fmt: skip

    def exim(self, server: str, program: Path, config: Path, to: Postfix | None = None) -> Exim:
        """The Exim of a server's host: mail for the server goes to `vmctl receive`, other mail to a Postfix if given."""
        routers = recipe(
            "/etc/exim4/conf.d/router/180_vmctl: mail for vmctl goes to a program", *of(server)
        )  # fmt: skip
        transports = recipe(
            "/etc/exim4/conf.d/transport/30_vmctl: the program",
            ("user = vmctl", f"user = {ACCOUNT}\n  group = {group()}"), *command(program, config, server),
        )  # fmt: skip
        if to is not None:
            routers += recipe(
                "/etc/exim4/conf.d/router/190_smarthost: what is for elsewhere goes through one server",
                # both are on one host here, which Exim would take for a loop
                ("mail.example.net::587 byname", f"localhost::{to.port} byname\n  self = send"),
            )
            transports += recipe(
                "/etc/exim4/conf.d/transport/30_smarthost: over TLS, with a name that is checked",
                ("/etc/ssl/certs/ca-certificates.crt", str(self.authority.path)),
            )
        made = Exim(self.root / f"exim-of-{server}", domain(server), routers=routers, transports=transports)
        self.servers.append(made)
        return made

    def exim_with_forward(self, server: str, head: str, *names: tuple[str, str]) -> Exim:
        """An Exim that reads a `.forward` of the account, as Debian's config does; vmsync is an alias of that."""
        folder = give_folder(self.root / "home")
        path = folder / ".forward"
        path.write_text(recipe(head, *names))
        give(path)
        made = Exim(
            self.root / f"exim-of-{server}", domain(server),
            routers=_FORWARD.format(account=ACCOUNT, path=path), transports=_ADDRESSES,
        )  # fmt: skip
        self.servers.append(made)
        return made
