"""A private Exim that is unpacked and not installed: Debian lets a host have one mail server only.

It needs no rights: it runs as the ordinary account, which is also whom it delivers as. But Debian's looks at its start
for an account of its own name, so it is given, in a mount namespace, an /etc/passwd that has one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from running import free_ports, until

from mta.place import ROOT, account, find, give_folder, greets, missing

UNPACKED = ROOT / ".exim" / "usr" / "sbin" / "exim4"  # `make exim`
_NAME = "Debian-exim"

_CONFIG = """\
exim_path = {binary}
spool_directory = {root}/spool
log_file_path = {root}/spool/log-%slog
primary_hostname = {host}
domainlist local_domains = {host}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts =
keep_environment =
deliver_drop_privilege = true
never_users =
acl_smtp_rcpt = accept
begin routers
{routers}
begin transports
{transports}
begin retry
* * F,1h,1s
"""


class Exim:
    """The mail server of a host, with routers and transports as they stand in a config of Exim."""

    def __init__(self, root: Path, host: str, *, routers: str, transports: str) -> None:
        found = binary()
        self.root = root
        self.host = host
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)
        self._binary = shutil.copy(found, root / "exim4")  # it runs itself again, from where the account can enter
        give_folder(root / "spool")
        names = {"binary": self._binary, "root": root, "host": host, "port": self.port}
        (root / "exim.conf").write_text(_CONFIG.format(routers=routers, transports=transports, **names))
        self._lay_accounts()

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self.port}"

    def _lay_accounts(self) -> None:
        who = account()
        users = Path("/etc/passwd").read_text().replace(f":{who.pw_dir}:{who.pw_shell}\n", f":/:{who.pw_shell}\n")
        (self.root / "passwd").write_text(f"{users}{_NAME}:x:{who.pw_uid}:{who.pw_gid}::/:/bin/false\n")
        (self.root / "group").write_text(f"{Path('/etc/group').read_text()}{_NAME}:x:{who.pw_gid}:\n")

    def start(self) -> None:
        """Start it, and wait until it listens. Raises ChildProcessError when it ends."""
        who = account()
        with (self.root / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [
                    "unshare", "--mount", "sh", "-ec",
                    'mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group; shift; exec "$@"',
                    "sh", str(self.root), "setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups",
                    "--bounding-set=-all", "--inh-caps=-all",
                    self._binary, "-C", str(self.root / "exim.conf"), "-bdf", "-q1s",
                ],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        until(self._listens, what=f"the Exim of {self.host}")

    def _listens(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            raise ChildProcessError(self.log())
        return greets(self.port)

    def stop(self) -> None:
        """End it; what is in its spool stays there."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()

    def kill(self) -> None:
        """End it and its processes at once."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def queue(self) -> list[str]:
        """The ids of the mails that wait."""
        return sorted(path.name.removesuffix("-H") for path in (self.root / "spool").glob("input/**/*-H"))

    def files(self) -> list[bytes]:
        """What is in the files of the spool."""
        return [path.read_bytes() for path in (self.root / "spool" / "input").rglob("*-[HD]")]

    def log(self) -> str:
        """What it logged, and what it printed before that."""
        names = ("out", "spool/log-mainlog", "spool/log-paniclog")
        return "".join((self.root / name).read_text() for name in names if (self.root / name).exists())


def binary() -> str:
    """The Exim to run; skips, or fails, where there is none, or where it cannot be run."""
    account()
    unpacked = str(UNPACKED) if UNPACKED.exists() else shutil.which("exim4", path="/usr/sbin")
    if unpacked is None:
        missing("Exim is not there (make exim)")
    for name in ("unshare", "setpriv"):
        find(name, "util-linux")
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        missing("Exim needs a mount namespace of its own, which is not allowed here")
    return str(unpacked)
