"""The programs that vmctl is compared with, each as its users run it; one that is not installed is named as missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from running import free_ports, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RSYNC, UNISON, LSYNCD = "rsync", "unison", "lsyncd"


def missing() -> list[str]:
    """Those that are not installed."""
    return [name for name in (RSYNC, UNISON, LSYNCD) if shutil.which(name) is None]


class Rsync:
    """Copies one way to an rsync daemon on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    @classmethod
    @contextlib.contextmanager
    def serving(cls, target: Path) -> Iterator[Rsync]:
        """With a daemon whose module is `target`."""
        port = free_ports(1)[0]
        conf = target.with_name(f"{target.name}.rsyncd.conf")
        conf.write_text(
            f"port = {port}\naddress = 127.0.0.1\nuse chroot = no\npid file = {conf}.pid\nlog file = {conf}.log\n"
            f"[store]\npath = {target}\nread only = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        )
        command = [RSYNC, "--daemon", "--no-detach", f"--config={conf}"]
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            listing = [RSYNC, f"rsync://127.0.0.1:{port}/"]
            until(lambda: subprocess.run(listing, capture_output=True, check=False).returncode == 0, what="rsyncd")
            yield cls(port)
        finally:
            daemon.terminate()
            daemon.wait()

    def command(self, source: Path, *options: str) -> list[str]:
        """The command that copies what is in `source`."""
        return [RSYNC, "-a", *options, "--exclude=/.vmctl", f"{source}/", f"rsync://127.0.0.1:{self._port}/store/"]


class Unison:
    """Synchronizes two local roots both ways."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.environment = {**os.environ, "UNISON": str(home)}

    def command(self, one: Path, other: Path) -> list[str]:
        """The command that brings both in step without questions; of two edits the newer one wins."""
        options = ("-batch", "-auto", "-silent", "-times", "-prefer", "newer", "-confirmbigdel=false", "-ignore")
        return [UNISON, str(one), str(other), *options, "Path .vmctl"]

    def forget(self) -> None:
        """As if it had never seen the two."""
        shutil.rmtree(self._home, ignore_errors=True)  # a few files
        self._home.mkdir()


@contextlib.contextmanager
def lsyncd(source: Path, target: Path) -> Iterator[None]:
    """Lsyncd at work with no delay, which is the best that it can do."""
    conf = target.with_name(f"{target.name}.lsyncd.lua")
    conf.write_text(
        "settings { nodaemon = true, maxDelays = 1 }\n"
        f'sync {{ default.rsync, source = "{source}", target = "{target}", delay = 0, exclude = {{ "/.vmctl" }},'
        " rsync = { archive = true } }\n"
    )
    with conf.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([LSYNCD, str(conf)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
