"""Two daemons of one network at work, each a process of its own, as `vmctl serve` starts them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from running import environment, until

from vmctl.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.stores import Site


class Serving:
    """One daemon."""

    def __init__(self, site: Site, server: str) -> None:
        self._store = site.root / server
        command = [sys.executable, "-m", "vmctl", "--config", str(site.root), "--server", server, "serve"]
        with (site.root / f"{server}.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def memory(self) -> float:
        """Its greatest memory so far, in MB."""
        return self._status("VmHWM") / 1024

    def forget_peak(self) -> None:
        """Have its greatest memory be that from now on (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def memory_now(self) -> float:
        """Its memory, in MB."""
        return self._status("VmRSS") / 1024

    @property
    def processor(self) -> float:
        """Seconds of the processor that its threads have used."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(one.read_text().split()[0]) for one in threads) / 1_000_000_000

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    def pending(self) -> int:
        """How much its peer lacks; how many files it has to write itself."""
        with contextlib.closing(Index.open(self._store / ".vmctl/index.db")) as index:
            return index.pending_count() + index.unwritten() + int(index.meta("full_scan", "0") == "0")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def serving(site: Site) -> Iterator[tuple[Serving, Serving]]:
    """The daemons of both servers, from their start until nothing is pending to the end."""
    with contextlib.ExitStack() as stack:
        both = Serving(site, "primary"), Serving(site, "secondary")
        for one in both:
            stack.callback(one.stop)
        until(lambda: all((site.root / each.name / ".vmctl/index.db").exists() for each in (site.primary, site.secondary)),
              what="the indexes")  # fmt: skip
        until(lambda: not any(one.pending() for one in both), within=3600, what="in step")
        yield both
