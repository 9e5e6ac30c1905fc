"""How long after a message is there its copy is at the peer: by daemons, in stores that are large already."""

from __future__ import annotations

import os
import smtplib
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiosmtpd.controller import Controller
from running import environment, free_ports

from benchmarks.daemons import serving
from benchmarks.measure import US, Row, timed
from benchmarks.peers import LSYNCD, lsyncd, missing
from benchmarks.rounds import bring_in_step, vmctl
from benchmarks.stores import recording, write_message

if TYPE_CHECKING:
    from benchmarks.stores import Site

_MESSAGES = 100
_DROPPED, _LEFT, _COPIED = 80_000_000, 81_000_000, 82_000_000
_LONGEST = 60.0
_BARE = "bare SMTP"


def rows(site: Site) -> list[Row]:
    """By a file that is dropped in, and by command; the median, and the 99th percentile."""
    bring_in_step(site)
    bare = _bare_round_trips(site.shape.size * 2)
    with serving(site):
        _drop(site, _DROPPED - 1)  # what they do at their start is over
        dropped = [_drop(site, _DROPPED + number) for number in range(_MESSAGES)]
        left = [_leave(site, _LEFT + number) for number in range(_MESSAGES)]
    found = []
    for what, values in (("dropped in", dropped), ("left by command", left)):
        for name, share, most in (("median", 0.5, 50.0), ("99th percentile", 0.99, 150.0)):
            row = Row(f"message {what} to applied at the peer, {site.shape.name}, {name}", unit="ms", most=most)
            row.add(US, _share(values, share) * 1000)
            row.add(_BARE, statistics.median(bare) * 1000)
            found.append(row)
    if LSYNCD not in missing() and not site.shape.alone:
        values = _by_lsyncd(site)
        for row, share in zip(found, (0.5, 0.99), strict=False):
            row.add(LSYNCD, _share(values, share) * 1000)
    return found


def _share(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _folder(store: Path, number: int, boxes: int) -> Path:
    return store / "mailboxes" / str(20_000 + number * 7919 % boxes) / "messages"


def _drop(site: Site, number: int, target: Path | None = None) -> float:
    """Seconds from when both files are there until both are at the peer."""
    folder = _folder(site.primary, number, site.shape.boxes)
    aside = Path(tempfile.mkdtemp(dir=site.root.parent))
    ident = write_message(aside, folder.parent.name, number, site.shape.size, "primary-of-the-application")
    (aside / f"{ident}.wav").rename(folder / f"{ident}.wav")
    (aside / f"{ident}.json").rename(folder / f"{ident}.json")
    began = time.monotonic()
    there = _folder(target or site.secondary, number, site.shape.boxes)
    _seen(there / f"{ident}.json")
    _seen(there / f"{ident}.wav")
    return time.monotonic() - began


def _leave(site: Site, number: int) -> float:
    """Seconds from when `vmctl message leave` has ended until the message is at the peer; 0 where it was there sooner."""
    sound = site.root.parent / "left.wav"
    sound.write_bytes(b"".join(recording(number, site.shape.size)))
    here, there = (_folder(store, number, site.shape.boxes) for store in (site.primary, site.secondary))
    before = set(here.iterdir())
    vmctl(site, "--server", "primary", "message", "leave", here.parent.name, "--audio", str(sound))
    began = time.monotonic()
    name = next(path.name for path in set(here.iterdir()) - before if path.suffix == ".json")
    _seen(there / name)
    return time.monotonic() - began


def _seen(path: Path) -> None:
    deadline = time.monotonic() + _LONGEST
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.0005)


class _Keeps:
    """Keeps each mail durably, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, _server: object, _session: object, envelope: object) -> str:  # noqa: N802
        path = self._folder / "mail"
        with path.open("wb") as file:
            file.write(envelope.content)  # type: ignore[attr-defined]
            file.flush()
            os.fsync(file.fileno())
        fd = os.open(self._folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return "250 OK"


def _bare_round_trips(size: int) -> list[float]:
    """Seconds that a mail of so many bytes takes to a server that keeps it durably, on a connection that is open."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        controller = Controller(_Keeps(Path(folder)), hostname="127.0.0.1", port=free_ports(1)[0])
        controller.start()
        try:
            with smtplib.SMTP("127.0.0.1", controller.port) as smtp:
                mail = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" * (size // 72)
                for _ in range(_MESSAGES):
                    began = time.monotonic()
                    smtp.sendmail("a@example.org", ["b@example.org"], mail)
                    found.append(time.monotonic() - began)
        finally:
            controller.stop()
    return found


def _by_lsyncd(site: Site) -> list[float]:
    target = site.root.with_name("lsyncd.target")
    target.mkdir(exist_ok=True)
    copy = ["rsync", "-a", "--exclude=/.vmctl", f"{site.primary}/", f"{target}/"]
    timed(copy, cwd=site.root.parent, environment=environment())
    with lsyncd(site.primary, target):
        _drop(site, _COPIED, target)  # it copies everything once before it watches
        return [_drop(site, _COPIED + 1 + number, target) for number in range(20)]
