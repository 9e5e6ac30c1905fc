"""The two servers on two hosts: each host's vmctl.yaml names one store, and nothing is shared but the wire."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from running import Net, judging, until, wav

from vmctl import config, errors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Net, Net]:
    """A network made in one place and divided: the primary's host and the secondary's."""
    whole = Net.make(tmp_path / "whole")
    made = []
    for mine, other in (("primary", "secondary"), ("secondary", "primary")):
        root = tmp_path / f"host-of-{mine}"
        root.mkdir()
        shutil.move(whole.root / mine, root / mine)
        (root / "keys").mkdir()
        shutil.copy2(whole.root / "keys" / f"{mine}.pem", root / "keys")
        text = (whole.root / "vmctl.yaml").read_text()
        text = re.sub(rf"^ +store: {other}\n", "", text, flags=re.MULTILINE)
        text = re.sub(rf"^ +key: keys/{other}.pem\n", "", text, flags=re.MULTILINE)
        (root / "vmctl.yaml").write_text(text)
        made.append(Net(root, config.load(root / "vmctl.yaml")))
    return made[0], made[1]


def test_a_round_with_the_peer_s_daemon(hosts: tuple[Net, Net], tmp_path: Path) -> None:
    """`sync` on one host talks to the daemon on the other, both ways, and `verify` proves both stores equal."""
    one, other = hosts
    one.do("mailbox", "create", "2001", "--name", "Ada")
    other.do("mailbox", "create", "3001", "--name", "Grace")
    with other.daemon("secondary"):
        until(lambda: " serves " in other.log("secondary"), what="the daemon")
        ident = one.leave("primary", "2001", wav(tmp_path / "a.wav"))
        assert one.read("sync")["by"] == {"primary": "vmctl sync"}
        assert other.path("secondary", f"mailboxes/2001/messages/{ident}.wav").exists()
        assert one.path("primary", "mailboxes/3001/mailbox.yaml").exists()
        proof = one.read("verify")
        assert proof["equal"] is True
        assert proof["servers"]["secondary"]["files"] == proof["servers"]["primary"]["files"] == 4


def test_verify_names_what_differs_on_the_other_host(hosts: tuple[Net, Net], tmp_path: Path) -> None:
    """A recording that rotted on the other host is found by the reading of its daemon, and named by its mailbox."""
    one, other = hosts
    one.do("mailbox", "create", "2001", "--name", "Ada")
    with one.daemon("primary"), other.daemon("secondary"):
        ident = one.leave("primary", "2001", wav(tmp_path / "a.wav"))
        audio = other.path("secondary", f"mailboxes/2001/messages/{ident}.wav")
        until(audio.with_suffix(".json").exists, what="the message")
        until(lambda: one.status()["in_step"], what="in step")
        assert one.run("verify").returncode == 0
        data = bytearray(audio.read_bytes())
        data[-1] ^= 1
        with audio.open("r+b") as file:
            file.write(data)
        done = one.run("verify")
        # the daemon may notice the damage and mend it before it is asked
        assert done.returncode == 0 or "mailbox/2001: differs" in done.stdout


def test_a_peer_that_is_not_there(hosts: tuple[Net, Net]) -> None:
    """Without anybody on the other host `sync` says so with the code for trying again, and keeps what is pending."""
    one, _ = hosts
    one.do("mailbox", "create", "2001", "--name", "Ada")
    done = one.run("sync")
    assert done.returncode == errors.PeerUnreachable.exit_code
    assert one.status()["servers"]["primary"]["pending"] == 1
    assert one.status()["in_step"] is False


def test_a_peer_that_takes_mail_and_says_nothing(hosts: tuple[Net, Net]) -> None:
    """Both were in step, and now only its mail server is there: `sync` ends when its time is over, and does not say in step."""
    one, other = hosts
    one.do("mailbox", "create", "2001", "--name", "Ada")
    with other.daemon("secondary"):
        until(lambda: " serves " in other.log("secondary"), what="the daemon")
        one.do("sync")
    with judging(other, "550 never said"):
        done = one.run("sync", "--timeout", "1")
    assert done.returncode == errors.NotInStep.exit_code
    assert "secondary did not answer" in done.stderr


def test_roles_between_two_hosts(hosts: tuple[Net, Net]) -> None:
    """Each host's status names the same server, before and after an order that is typed at the server that waits."""
    one, other = hosts
    with one.daemon("primary"), other.daemon("secondary"):
        for net in hosts:
            until(lambda net=net: net.service()["serving"] == "primary", what="the primary serves")
        other.do("failover")
        for net in hosts:
            until(lambda net=net: net.service()["serving"] == "secondary", what="the secondary serves")
        one.do("failback")
        for net in hosts:
            until(lambda net=net: net.service()["state"] == "normal", what="normal operation")
            assert net.status()["servers"]["secondary"]["role"] == "standby"


def test_an_overwrite_writes_again_what_is_gone_on_the_other_host(hosts: tuple[Net, Net], tmp_path: Path) -> None:
    """The winner's mails say that it overwrote: the files that vanished there, and waited for a word, are back."""
    one, other = hosts
    one.do("mailbox", "create", "2001", "--name", "Ada")
    with other.daemon("secondary"):
        until(lambda: " serves " in other.log("secondary"), what="the daemon")
        ident = one.leave("primary", "2001", wav(tmp_path / "a.wav"))
        one.do("sync")
        shutil.rmtree(other.path("secondary", "mailboxes/2001"))
        until(lambda: other.status()["servers"]["secondary"]["faults"], what="the deletion is held")
        assert "mailbox/2001: something in it differs" in one.do("sync", "--overwrite-from", "primary", "--dry-run")
        one.do("sync", "--overwrite-from", "primary", "--yes")
        for path in ("mailbox.yaml", f"messages/{ident}.json", f"messages/{ident}.wav"):
            assert other.path("secondary", f"mailboxes/2001/{path}").exists()
        until(lambda: [] == other.status()["servers"]["secondary"]["faults"], what="no fault")
        assert one.read("verify")["equal"]
