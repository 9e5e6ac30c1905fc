"""Where mail servers run: what must be installed, a directory that their accounts can read, and an ordinary account."""

from __future__ import annotations

import atexit
import contextlib
import functools
import grp
import os
import pwd
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import ROOT, until

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIRED = "VMCTL_REQUIRE_MTA"
ACCOUNT = "nobody"  # whom vmctl runs as: mail servers run programs for nobody who has rights
_ADMIN = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postfix/sbin")


def missing(what: str) -> None:
    """The test is skipped, or fails where the environment says VMCTL_REQUIRE_MTA."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(what)


@functools.cache
def find(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_ADMIN))
    if found is None:
        missing(f"{name} is not installed (Debian: {package})")
    return str(found)


@functools.cache
def account() -> pwd.struct_passwd:
    """The ordinary account; only root can start processes of it."""
    if os.geteuid() != 0:
        missing("a mail server that runs programs for other accounts can only be started by root")
    return pwd.getpwnam(ACCOUNT)


def group() -> str:
    """The name of the account's group."""
    return grp.getgrgid(account().pw_gid).gr_name


def give(path: Path, name: str = ACCOUNT) -> Path:
    """A directory or file, and all below, belongs to an account from now on."""
    who = pwd.getpwnam(name)
    for each in (path, *path.rglob("*")):
        os.chown(each, who.pw_uid, who.pw_gid, follow_symlinks=False)
    return path


def as_account(words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as the ordinary account, with nothing of this environment."""
    who = account()
    more = {"capture_output": True, "text": True, "check": False, "timeout": 60, "cwd": "/"} | more
    return subprocess.run(  # noqa: PLW1510 - it is in `more`
        words, env={"PATH": "/usr/bin:/bin"}, user=who.pw_uid, group=who.pw_gid, extra_groups=[], **more
    )


@contextlib.contextmanager
def ground() -> Iterator[Path]:
    """A directory that every account can enter, as pytest's own are for their owner alone; gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="vmctl-mta-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        # what a mail server started may still be at its end
        until(lambda: shutil.rmtree(made, ignore_errors=True) or not made.exists(), what=f"{made} is gone")


def program(root: Path) -> Path:
    """A program `vmctl` in a directory, which runs this checkout's for every account; it stands for the installed one.

    The interpreter may be in a place that only its owner can enter; then the system's runs it with the same packages.
    """
    packages = _packages()
    for python in (sys.executable, "/usr/bin/python3"):
        path = root / "vmctl"
        path.write_text(
            "#!/bin/sh\n"
            "umask 077\n"
            f"PYTHONPATH='{_readable(root)}:{packages}' PYTHONPYCACHEPREFIX='{root}/compiled' PYTHONWARNINGS=error\n"
            "export PYTHONPATH PYTHONPYCACHEPREFIX PYTHONWARNINGS\n"
            f'exec {python} -m vmctl "$@"\n'
        )  # fmt: skip
        path.chmod(0o755)
        give_folder(root / "compiled")
        if as_account([str(path), "--help"]).returncode == 0:
            return path
    missing(f"the account {ACCOUNT} cannot run {sys.executable}, and /usr/bin/python3 is not as new")
    raise AssertionError


def greets(port: int) -> bool:
    """Whether a mail server says hello at a port of this host."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            return sock.recv(100).startswith(b"220 ")
    except OSError:
        return False


def give_folder(path: Path) -> Path:
    """A new directory of the ordinary account."""
    path.mkdir(exist_ok=True)
    return give(path)


@functools.cache
def _packages() -> Path:
    """A directory with what vmctl needs to run that the account can read: that of this interpreter, or a copy."""
    here = Path(sysconfig.get_path("purelib"))
    if as_account(["/usr/bin/test", "-r", str(here / "typer" / "__init__.py")]).returncode == 0:
        return here
    copy = Path(tempfile.mkdtemp(prefix="vmctl-packages-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    left_out = ("mypy*", "ruff*", "pip*", "setuptools*", "hypothesis*", "*pytest*", "xdist*", "__pycache__", "*.pth")
    shutil.copytree(here, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left_out))
    subprocess.run(["/bin/chmod", "-R", "a+rX", str(copy)], check=True)
    return copy


def _readable(root: Path) -> Path:
    """A directory with the package in it, which the account can read."""
    if as_account(["/usr/bin/test", "-r", str(ROOT / "vmctl" / "__init__.py")]).returncode == 0:
        return ROOT
    shutil.copytree(ROOT / "vmctl", root / "package" / "vmctl", dirs_exist_ok=True)
    return root / "package"
