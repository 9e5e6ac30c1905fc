"""One host of a network, where vmctl runs as an ordinary account and mail servers give it its mail."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from running import SERVERS, Net, until

from mta import place
from mta.chain import address
from mta.place import as_account, give
from mta.recipes import recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Every mail starts a process at its end, so heartbeats are rare; retries are not.
SLOW = {
    "sync__heartbeat": "2s",
    "sync__resend": "3s",
    "failover__after": "60s",
    "failover__start_wait": "5s",
    "handover__drain": "60s",
}


@dataclass
class Host:
    """The host of one server: its vmctl.yaml, key and store in `root`, which belong to the account."""

    server: str
    root: Path
    program: Path

    @property
    def config(self) -> Path:
        """Its vmctl.yaml."""
        return self.root / "vmctl.yaml"

    @property
    def peer(self) -> str:
        """The other server."""
        return next(name for name in SERVERS if name != self.server)

    def set(self, head: str, *names: tuple[str, str]) -> None:
        """Its vmctl.yaml says also what a recipe says."""
        value = yaml.safe_load(self.config.read_text())
        _merge(value, yaml.safe_load(recipe(head, *names)))
        self.config.write_text(yaml.safe_dump(value, sort_keys=False))

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run vmctl here, as the account."""
        return as_account([str(self.program), *words, "--config", str(self.config), "--server", self.server], **more)

    def do(self, *words: str) -> str:
        """Run vmctl, which must exit 0; its output."""
        done = self.run(*words)
        assert done.returncode == 0, f"vmctl {' '.join(words)} exited {done.returncode}: {done.stderr}"
        return done.stdout

    def read(self, *words: str) -> Any:
        """Run vmctl with --json; the value."""
        return json.loads(self.do(*words, "--json"))

    def leave(self, extension: str, audio: Path) -> str:
        """Leave a message; its id."""
        return self.do("message", "leave", extension, "--audio", str(audio)).strip()

    def has(self, extension: str, ident: str) -> bool:
        """Whether a message is in the store, with its recording."""
        return all((self.messages(extension) / f"{ident}.{kind}").exists() for kind in ("json", "wav"))

    def messages(self, extension: str) -> Path:
        """Where the messages of a mailbox are."""
        return self.root / self.server / "mailboxes" / extension / "messages"

    def about(self) -> dict[str, Any]:
        """What the status says of this server."""
        value: dict[str, Any] = self.read("status")["servers"][self.server]
        return value

    def service(self) -> dict[str, Any]:
        """What the status says of the service."""
        value: dict[str, Any] = self.read("status")["services"][0]
        return value

    @contextlib.contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """`vmctl serve` as the account; killed at the end."""
        who = place.account()
        path = self.root / "daemon.log"
        before = path.stat().st_size if path.exists() else 0
        with path.open("ab") as log:
            process = subprocess.Popen(
                [str(self.program), "--config", str(self.config), "serve", "--server", self.server],
                env={"PATH": "/usr/bin:/bin"}, user=who.pw_uid, group=who.pw_gid, extra_groups=[], cwd="/",
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            until(lambda: " serves " in path.read_text()[before:] or process.poll() is not None, what="the daemon")
            assert process.poll() is None, path.read_text()
            yield process
        finally:
            process.kill()
            process.wait()
            print(f"--- the log of {self.server}'s daemon\n{path.read_text()[-10_000:]}")  # noqa: T201


def make(root: Path, **settings: str) -> tuple[Host, Host]:
    """A network on two hosts whose addresses are those of mail servers."""
    program = place.program(root)
    mails = {f"servers__{name}__mail": address(name) for name in SERVERS}
    whole = Net.make(root / "whole", **{**SLOW, **mails, **settings})
    made = []
    for mine, other in (SERVERS, SERVERS[::-1]):
        host = root / f"host-of-{mine}"
        host.mkdir()
        shutil.move(whole.root / mine, host / mine)
        (host / "keys").mkdir(mode=0o700)
        shutil.copy2(whole.root / "keys" / f"{mine}.pem", host / "keys")
        text = (whole.root / "vmctl.yaml").read_text()
        for line in (f"store: {other}", f"key: keys/{other}.pem"):
            text = re.sub(rf"^ +{line}\n", "", text, flags=re.MULTILINE)
        (host / "vmctl.yaml").write_text(text)
        made.append(Host(mine, give(host), program))
    return made[0], made[1]


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value
