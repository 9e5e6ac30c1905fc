"""A private Postfix: its config, queue and data in a directory of its own, on ports of its own, started by root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from running import free_ports, until

from mta.place import account, find, give, greets, missing

if TYPE_CHECKING:
    from collections.abc import Callable

_OWN = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace")
_MAILS = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")  # where mails are

_MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = {root}/log
maillog_file_prefixes = {root}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = {host}
mydestination = {host}
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_dns_support_level = disabled
smtp_host_lookup = native
alias_maps =
alias_database =
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
transport_retry_time = 1s
maximal_queue_lifetime = 1h
bounce_queue_lifetime = 1h
smtp_connect_timeout = 5s
smtpd_error_sleep_time = 0
in_flow_delay = 0
"""
# As Debian's master.cf, without chroot: /etc is the system's here
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 1 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """The mail server of a host. Write its `main` and `master` before `start`; what is set twice counts the last time."""

    def __init__(self, root: Path, host: str) -> None:
        account()  # skips where it cannot be had
        self._master = find("master", "postfix")
        self._postqueue = find("postqueue", "postfix")
        self.root = root
        self.host = host
        self.port, self.submission = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._lay_out()
        self.main = _MAIN.format(root=root, host=host)
        self.master = _MASTER.format(port=self.port)

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self.port}"

    def _lay_out(self) -> None:
        for part in ("conf/sasl", "data", *(f"queue/{name}" for name in (*_OWN, "pid", "maildrop", "public"))):
            (self.root / part).mkdir(parents=True)
        give(self.root / "data", "postfix")
        for name in (*_OWN, "maildrop", "public"):
            (self.root / "queue" / name).chmod(0o700)
            give(self.root / "queue" / name, "postfix")

    def start(self) -> None:
        """Start it, and wait until it listens; nothing is done where it runs. Raises ChildProcessError when it ends."""
        if self._process is not None:
            return
        for name, text in (("main.cf", self.main), ("master.cf", self.master)):
            (self.root / "conf" / name).write_text(text)
            os.utime(self.root / "conf" / name, (0, 0))  # Postfix waits until nobody writes it any more
        with (self.root / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [self._master, "-c", str(self.root / "conf"), "-d"],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        until(self._listens, what=f"the Postfix of {self.host}")

    def _listens(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            raise ChildProcessError(self.log())
        return greets(self.port)

    def stop(self) -> None:
        """Stop it in order, as an administrator does; what is in its queue stays there."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its processes at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if number == signal.SIGTERM:
            process.terminate()  # it ends the others itself
        else:
            os.killpg(process.pid, number)
        process.wait()
        until(lambda: not _group_runs(process.pid), what="the end of Postfix's processes")

    def queue(self) -> list[dict[str, Any]]:
        """The mails that wait: `queue_name`, `queue_id`, `sender`, `recipients` with `address` and `delay_reason`."""
        words = [self._postqueue, "-c", str(self.root / "conf"), "-j"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def flush(self) -> None:
        """Try all that waits, now (`postqueue -f`)."""
        words = [self._postqueue, "-c", str(self.root / "conf"), "-f"]
        subprocess.run(words, capture_output=True, check=True)

    def files(self) -> list[bytes]:
        """What is in the files of the queue: what whoever has this host can read."""
        found = []
        for path in [path for name in _MAILS for path in (self.root / "queue" / name).rglob("*") if path.is_file()]:
            try:
                found.append(path.read_bytes())
            except FileNotFoundError:  # delivered meanwhile
                continue
        return found

    def log(self) -> str:
        """What it logged, and what it printed before that."""
        names = ("out", "log")
        return "".join((self.root / name).read_text() for name in names if (self.root / name).exists())

    def add_account(self, user: str, password: str) -> None:
        """An account for AUTH in a sasldb of its own; its realm is the host."""
        database = self.root / "conf" / "sasl" / "sasldb2"
        words = [find("saslpasswd2", "sasl2-bin"), "-p", "-c", "-f", str(database), "-u", self.host, user]
        subprocess.run(words, input=password, text=True, check=True, capture_output=True)
        give(database, "postfix")

    def use_sasl(self, text: str) -> None:
        """The smtpd.conf of its SASL; its database is the one of `add_account`."""
        (self.root / "conf" / "sasl" / "smtpd.conf").write_text(f"{text}sasldb_path: {self.root}/conf/sasl/sasldb2\n")


def logged(server: Postfix, words: str, count: int = 1) -> Callable[[], bool]:
    """Asks whether a server has logged some words so often."""
    return lambda: server.log().count(words) >= count


def _group_runs(group: int) -> bool:
    """Whether a process of a group lives; those that nobody has waited for yet do not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its = path.read_text().rpartition(") ")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its) == group and state != "Z":
            return True
    return False


def require() -> None:
    """Skip, or fail, where Postfix and what its tests need cannot be had."""
    account()
    for name, package in (("master", "postfix"), ("postqueue", "postfix"), ("saslpasswd2", "sasl2-bin")):
        find(name, package)
    if not list(Path("/usr/lib").glob("*/sasl2/libplain.so*")):
        missing("the mechanisms of Cyrus SASL are not installed (Debian: libsasl2-modules)")
