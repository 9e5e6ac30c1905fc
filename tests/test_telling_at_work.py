"""Hooks and webhooks of real servers: told over kills, in order, while the roles move on whatever the hooks do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from portal import Portal, noted, noting, script
from running import Net, free_ports, until

from vmctl.journal import Journal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def served(net: Net) -> Any:
    """Who serves."""
    return net.service()["serving"]


@contextlib.contextmanager
def both(net: Net) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Both daemons, in normal operation."""
    with net.daemon("primary") as primary, net.daemon("secondary") as secondary:
        until(lambda: net.service()["state"] == "normal", what="normal operation")
        until(lambda: net.moves("secondary")[-1:] == ["normal"], what="normal operation at the secondary")
        yield primary, secondary


def transitions(net: Net, server: str) -> list[str]:
    """The ids of the transitions in a server's journal."""
    lines = Journal(net.path(server, ".vmctl/journal.jsonl")).entries()
    name = net.config.network
    return [f"{name}-{server}-{e['seq']}-{e['hash'][:12]}" for e in lines if e["kind"] == "transition"]


def untold(net: Net, server: str) -> list[dict[str, Any]]:
    """What the status says could not be told."""
    found: list[dict[str, Any]] = net.status()["servers"][server]["untold"]
    return found


def processes(word: str) -> list[int]:
    """The processes that have this in their environment and have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_all_is_told_in_order_over_kills(tmp_path: Path) -> None:
    """Whenever a daemon is killed, its hook and its webhook get every transition, each for the first time in order."""
    hold = tmp_path / "hold-primary"
    hook = noting(tmp_path / "h", f'while [ -e {tmp_path}/hold-"$VMCTL_SERVER" ]; do sleep 0.05; done')
    with Portal().open() as portal:
        net = Net.make(tmp_path / "net", hooks__on_transition=hook, webhooks__portal__url=portal.url)

        def told(server: str) -> tuple[list[str], list[str]]:
            ids = [words[3] for words in noted(tmp_path / "h")], [document["id"] for document in portal.told]
            hooked, posted = ([ident for ident in found if f"-{server}-" in ident] for found in ids)
            return hooked, posted

        with net.daemon("secondary"):
            for life in range(4):
                before = len(net.moves("primary"))
                hold.touch()
                with net.daemon("primary") as primary:
                    until(lambda before=before: len(net.moves("primary")) > before, what="a transition", within=40.0)
                    if life % 2:  # while the hook runs; else right after the role has moved
                        until(lambda: processes("VMCTL_SERVER=primary"), what="a hook")
                    primary.kill()
                hold.unlink()
            before = len(net.moves("primary"))
            with net.daemon("primary"):
                until(lambda: len(net.moves("primary")) > before, what="the last transition", within=40.0)
                until(lambda: net.service()["state"] == "normal", what="normal operation", within=40.0)
                for server in ("primary", "secondary"):
                    moved = transitions(net, server)
                    until(
                        lambda s=server, m=moved: all(set(m) <= set(found) for found in told(s)), what="all of it told"
                    )
                    for found in told(server):
                        assert list(dict.fromkeys(found))[: len(moved)] == moved
    assert len(net.moves("primary")) >= 5


def test_a_hook_that_hangs_keeps_nobody(tmp_path: Path) -> None:
    """The role moves while a hook hangs; it is killed with its children, shown, given up, and the next is told."""
    hang = 'case "$VMCTL_STATE" in resilience) echo lamp 7 is dark >&2; sleep 1000 & wait;; esac'
    net = Net.make(
        tmp_path / "net", hooks__on_transition=noting(tmp_path / "h", hang), hooks__timeout="600ms", hooks__tries=2
    )
    with both(net):
        net.do("failover")
        assert served(net) == "secondary"
        until(lambda: untold(net, "primary"), what="the failure in the status")
        text = net.do("status")
        assert re.search(
            r"primary: the hook on_transition of voicemail FAILED \d times since .*, and is .*: it did not end within "
            r"0.6 s: lamp 7 is dark",
            text,
        )
        net.do("failback")
        assert served(net) == "primary"
        until(lambda: {"normal"} < {words[2] for words in noted(tmp_path / "h")[1:]}, what="the next one")
        until(lambda: not untold(net, "primary"), what="no complaint")
        until(lambda: not processes("VMCTL_STATE=resilience"), what="the end of what hung")
    events = [entry for entry in net.read("journal", "--server", "primary") if entry["kind"] == "event"]
    assert [entry["hook"] for entry in events if entry["event"] == "a hook was given up"] == ["on_transition"]
    assert net.run("journal", "--verify", "--server", "primary").returncode == 0


def test_who_serves_is_told_to_the_one_that_does(tmp_path: Path) -> None:
    """At a start, a failover by order and the failback each server runs the hook that fits it, in this order."""
    record = f'echo "$VMCTL_SERVER $VMCTL_ROLE" >> {tmp_path}/roles'
    hook = [str(script(tmp_path / "hook", record))]
    patient = {"failover__after": "40s", "failover__start_wait": "30s"}  # nobody is to serve before both have spoken
    net = Net.make(tmp_path / "net", hooks__on_active=hook, hooks__on_standby=hook, **patient)

    def told(server: str) -> list[str]:
        path = tmp_path / "roles"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(server)]

    with both(net):
        until(lambda: (told("primary"), told("secondary")) == (["active"], ["standby"]), what="the start")
        net.do("failover")
        until(lambda: (told("primary")[1:], told("secondary")[1:]) == (["standby"], ["active"]), what="the failover")
        net.do("failback")
        until(lambda: (told("primary")[2:], told("secondary")[2:]) == (["active"], ["standby"]), what="the failback")


def test_a_webhook_that_is_down_is_shown_and_gets_all_later(tmp_path: Path) -> None:
    """While nobody listens the roles move and the status says so; afterwards everything comes, in order, once."""
    port = free_ports(1)[0]
    net = Net.make(tmp_path / "net", webhooks__portal__url=f"http://127.0.0.1:{port}/vmctl")
    with both(net):
        net.do("failover")
        until(lambda: untold(net, "primary"), what="the failure in the status")
        assert "the webhook portal of voicemail FAILED" in net.do("status")
        assert "it does not answer: Connection refused" in net.do("status")
        with Portal(port).open() as portal:
            for server in ("primary", "secondary"):
                moved = transitions(net, server)
                until(lambda server=server: not untold(net, server), what="no complaint", within=40.0)
                until(
                    lambda server=server, moved=moved: (
                        {d["id"] for d in portal.told if d["server"] == server} >= set(moved)
                    ),
                    what="all of it",
                )
                assert [d["id"] for d in portal.told if d["server"] == server] == moved


def test_a_secret_that_others_may_read(tmp_path: Path) -> None:
    """Nothing is posted, and the status names the file and its mode, until the permission is taken away."""
    secret = tmp_path / "secret"
    secret.write_text("open sesame")
    secret.chmod(0o644)
    with Portal().open() as portal:
        net = Net.make(tmp_path / "net", webhooks__portal__url=portal.url, webhooks__portal__secret=str(secret))
        with both(net):
            words = f"others can use the webhook secret {secret} (its mode is 0644)"
            until(lambda: any(words in one["why"] for one in untold(net, "primary")), what="the words")
            assert words in net.do("status")
            assert portal.posts == []
            secret.chmod(0o600)
            until(lambda: portal.told, what="the post")
            assert portal.posts[0].headers["Vmctl-Signature"].startswith("t=")


def test_nothing_is_left_of_hooks(tmp_path: Path) -> None:
    """After many hooks and posts the daemon has no more open than before, and at its end no process of theirs lives."""
    hook = noting(tmp_path / "h")
    fail = [str(script(tmp_path / "fail", "exit 1"))]
    with Portal().open() as portal:
        net = Net.make(
            tmp_path / "net", webhooks__portal__url=portal.url, webhooks__down__url="http://127.0.0.1:1/",
            hooks__on_transition=hook, hooks__on_active=fail, hooks__on_standby=fail, hooks__tries=2,
        )  # fmt: skip
        with both(net) as (primary, secondary):

            def count() -> int:
                return len(list(Path(f"/proc/{primary.pid}/fd").iterdir()))

            net.do("failover")
            net.do("failback")
            until(lambda: not processes(f"VMCTL_CONFIG={net.config.path}"), what="quiet")
            before = count()
            for _ in range(2):
                net.do("failover")
                net.do("failback")
            last = transitions(net, "primary")[-1]
            until(lambda: last in [document["id"] for document in portal.told], what="the last one")
            until(lambda: last in [words[3] for words in noted(tmp_path / "h")], what="the last one")
            until(lambda: count() <= before, what="as little open as before")
            net.do("failover")
            for daemon in (primary, secondary):
                daemon.send_signal(signal.SIGTERM)
            assert [daemon.wait(timeout=30) for daemon in (primary, secondary)] == [0, 0]
            until(lambda: not processes(f"VMCTL_CONFIG={net.config.path}"), what="the end of all hooks")


def test_a_daemon_that_stops_does_not_wait_for_a_hook(tmp_path: Path) -> None:
    """A hook that hangs is killed with the daemon's end, is no failure, and is told again by the next daemon."""
    net = Net.make(tmp_path / "net", hooks__on_transition=noting(tmp_path / "h", "sleep 1000"))
    with net.daemon("primary") as daemon:
        until(lambda: noted(tmp_path / "h"), what="the hook", within=40.0)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert not processes(f"VMCTL_CONFIG={net.config.path}")
    assert untold(net, "primary") == []
    with net.daemon("primary"):
        until(lambda: len(noted(tmp_path / "h")) > 1, what="the hook again")
    assert len({words[3] for words in noted(tmp_path / "h")[:2]}) == 1
    for pid in processes(f"VMCTL_CONFIG={net.config.path}"):  # that daemon was killed: nobody ended its hook
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# Without a daemon


def test_orders_and_rounds_without_a_daemon_tell_too(tmp_path: Path) -> None:
    """An order tells at its end what it moved at its server, and a round what is due at both; nothing is told twice."""
    net = Net.make(
        tmp_path / "net", hooks__on_transition=noting(tmp_path / "h"), hooks__on_active=noting(tmp_path / "r"),
        hooks__on_standby=noting(tmp_path / "r"),
    )  # fmt: skip
    net.do("sync")
    before = len(noted(tmp_path / "h")), len(noted(tmp_path / "r"))
    net.do("failover", "--server", "secondary")
    assert [words[3] for words in noted(tmp_path / "h")[before[0] :]] == transitions(net, "secondary")[-1:]
    assert [words[0] for words in noted(tmp_path / "r")[before[1] :]] == ["on_active"]
    net.do("sync")
    assert {words[3] for words in noted(tmp_path / "h")} == {
        *transitions(net, "primary"),
        *transitions(net, "secondary"),
    }
    net.do("sync")
    ids = [words[3] for words in noted(tmp_path / "h")]
    assert sorted(ids) == sorted({*transitions(net, "primary"), *transitions(net, "secondary")})


def test_a_round_whose_hook_fails_is_a_good_round(tmp_path: Path) -> None:
    """`vmctl sync` succeeds all the same; the status shows the failure, and the next round tells it."""
    marker = tmp_path / "mended"
    hook = [str(script(tmp_path / "hook", f"test -e {marker} || {{ echo not yet >&2; exit 1; }}", f"cat >> {marker}"))]
    net = Net.make(tmp_path / "net", hooks__on_transition=hook)
    net.do("sync")
    assert [(one["tries"], one["why"]) for one in untold(net, "secondary")] == [(1, "exit code 1: not yet")]
    net.do("failover", "--server", "secondary")
    assert [one["tries"] for one in untold(net, "secondary")] == [2]
    marker.touch()
    net.do("sync")
    assert untold(net, "secondary") == []
    told = [json.loads(line) for line in re.findall(r"\{.*?\}(?=\{|$)", marker.read_text())]
    assert {document["id"] for document in told} == {*transitions(net, "primary"), *transitions(net, "secondary")}


def test_a_round_ends_whatever_a_hook_does(tmp_path: Path) -> None:
    """A round does not wait for a hook beyond its time limit."""
    net = Net.make(tmp_path / "net", hooks__on_transition=noting(tmp_path / "h", "sleep 1000"), hooks__timeout="300ms")
    net.do("sync")
    net.do("failover", "--server", "secondary")
    assert untold(net, "secondary")[0]["why"] == "it did not end within 0.3 s"
    assert processes(f"VMCTL_CONFIG={net.config.path}") == []
