"""Files below a store: read whole however they are made, and reached without a way where a folder stays open."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from vmctl import beneath

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A fenced folder with one file in a folder of it."""
    root = tmp_path / "store"
    (root / "inner").mkdir(parents=True)
    (root / "inner/file").write_bytes(b"one")
    beneath.fence(root)
    return root


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders to which a way is walked from now on."""
    walked: list[str] = []
    real = beneath._into

    def into(folder: str, cut: tuple[str, str], path: Path | str) -> int:
        walked.append(folder)
        return real(folder, cut, path)

    monkeypatch.setattr(beneath, "_into", into)
    return walked


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_a_file_is_read_whole_in_blocks_of_any_size(store: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes, no more and no less, be it larger than a block, as large, or empty."""
    monkeypatch.setattr(beneath, "_BLOCK", 10)
    data = bytes(range(size))
    (store / "inner/file").write_bytes(data)
    assert data == beneath.read(store / "inner/file")
    assert data == b"".join(beneath.blocks(store / "inner/file", 7))
    assert data[:12] == beneath.read(store / "inner/file", 12)[:12]


def test_what_a_file_grows_by_while_it_is_read_is_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read to its end, and not to where that was at first."""
    path, read = store / "inner/file", os.read

    def grows(fd: int, most: int) -> bytes:
        if path.stat().st_size == 3:
            path.write_bytes(b"one, two")
        return read(fd, most)

    monkeypatch.setattr(os, "read", grows)
    assert b"one, two" == beneath.read(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_read(store: Path, make: Callable[[Path], None]) -> None:
    """A pipe does not make the reader wait, and nothing stays open."""
    make(store / "odd")
    before = descriptors()
    with pytest.raises(OSError, match="no plain file") as refused:
        beneath.read(store / "odd")
    assert (errno.EINVAL, before) == (refused.value.errno, descriptors())


def test_a_folder_that_stays_open_is_walked_to_once(store: Path, ways: list[str]) -> None:
    """However often a file in it is looked at; afterwards nothing is open that was not."""
    before = descriptors()
    with beneath.holding():
        for _ in range(5):
            assert 3 == beneath.status(store / "inner/file").st_size
    assert [str(store / "inner")] == ways
    beneath.status(store / "inner/file")
    assert (2, before) == (len(ways), descriptors())


def test_no_more_than_some_folders_stay_open(store: Path) -> None:
    """Whoever looks into hundreds needs no hundreds of descriptors."""
    for number in range(50):
        (store / str(number)).mkdir()
    before = descriptors()
    with beneath.holding():
        for number in range(50):
            beneath.is_there(store / str(number) / "file")
        assert descriptors() <= before + beneath._MOST_HELD
    assert before == descriptors()


def test_another_thread_does_not_use_what_stays_open(store: Path, ways: list[str]) -> None:
    """It may be closed at any moment: each thread walks its own way."""
    with beneath.holding():
        beneath.status(store / "inner/file")
        other = threading.Thread(target=beneath.status, args=(store / "inner/file",))
        other.start()
        other.join()
    assert 2 == len(ways)


def test_a_link_in_the_way_is_refused_where_folders_stay_open(store: Path, tmp_path: Path) -> None:
    """The first way to a folder is walked as always, and a file that is a link is none."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"secret")
    (store / "linked").symlink_to(tmp_path / "outside")
    (store / "inner/link").symlink_to(tmp_path / "outside/file")
    with beneath.holding():
        beneath.status(store / "inner/file")
        for path in (store / "linked/file", store / "inner/link"):
            with pytest.raises(OSError, match="link"):
                beneath.read(path)


def test_what_is_asked_of_the_disk_ahead_raises_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Neither for what has gone, nor for a link, which is not followed; the names come in order, known or not."""
    asked: list[Path] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: asked.append(Path(f"/proc/self/fd/{fd}").readlink()))
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    (store / "inner/link").symlink_to(outside)
    (store / "inner/known").write_bytes(b"two")
    names = ["link", "known", "gone", "file"]
    before = descriptors()
    assert sorted(names) == list(beneath.in_turn(store / "inner", names, {"known"}))
    assert [store / "inner/file"] == asked
    assert before == descriptors()


def test_a_file_that_goes_while_its_folder_is_listed_hides_no_other(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """It is not among the entries, and all others are."""
    (store / "inner/going").write_bytes(b"two")
    scandir = os.scandir

    def going(fd: int) -> os._ScandirIterator[str]:
        monkeypatch.setattr(os, "scandir", scandir)
        found = scandir(fd)
        entries = list(found)
        found.close()
        (store / "inner/going").unlink()
        return cast("os._ScandirIterator[str]", contextlib.nullcontext(entries))

    monkeypatch.setattr(os, "scandir", going)
    assert ["file"] == [name for name, _ in beneath.entries(store / "inner")]
