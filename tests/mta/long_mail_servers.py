"""What takes minutes (`make mta`): mail servers that stop and die at random, and a failover that nobody orders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from typing import TYPE_CHECKING

from running import until, wav

from mta import damage
from mta.hop import hop
from mta.through import Post

if TYPE_CHECKING:
    from mta.chain import Office
    from mta.host import Host

_SEED = int(os.environ.get("VMCTL_MTA_SEED", "1"))
_SECONDS = float(os.environ.get("VMCTL_MTA_SECONDS", "120"))


def test_mail_servers_stop_and_die_at_random(post: Post) -> None:
    """For two minutes messages are left on both sides, servers stop and die, mail is doubled, late and refused: all arrives."""
    chance = random.Random(_SEED)
    ends = time.monotonic() + _SECONDS
    post.start()
    post.one.do("mailbox", "create", "2001", "--name", "Ada")
    left = []
    with post.one.daemon(), post.other.daemon():
        until((post.other.messages("2001").parent / "mailbox.yaml").exists, within=60, what="the mailbox")
        while time.monotonic() < ends:
            server, way = chance.choice(post.servers), chance.choice((post.there, post.back))
            chance.choice((server.stop, server.kill, lambda: None))()
            way.copies = chance.choice((1, 1, 2, 3))
            way.reply = chance.choice((None, None, "451 4.3.0 later", "554 5.7.1 never"))
            way.changes = chance.choice(
                ([], [damage.rewrapped], [damage.with_footer], [damage.quoted, damage.with_text_behind])
            )
            audio = wav(post.office.root / "a.wav", level=1000 + len(left))
            left.append(chance.choice(post.hosts).leave("2001", audio))
            post.start()
        for way in (post.there, post.back):
            way.reply, way.copies = None, 1
        for each in post.hosts:  # else what was lost waits as long again as it has waited
            each.run("sync", "--timeout", "100", timeout=150)
        for ident in left:
            until(lambda ident=ident: all(each.has("2001", ident) for each in post.hosts), within=300, what=ident)
        for each in post.hosts:
            until(lambda each=each: _in_step(each), within=300, what="in step")
            assert set(each.about()["strays"]) <= {"repeated"}
            assert each.about()["parked"] == []
    print(f"{len(left)} messages, {len(post.there.passed)} mails there, {len(post.back.passed)} back")  # noqa: T201


def _in_step(each: Host) -> bool:
    """Whether a host says that both are in step; else what it says is printed, for when that never comes."""
    value = each.read("status")
    if not value["in_step"]:
        print(json.dumps({"bounces": len(value["servers"][each.server].pop("bounces")), **value}))  # noqa: T201
    return bool(value["in_step"])


def test_a_failover_by_itself(office: Office) -> None:
    """With `failover.through_relays` the secondary takes over from a host that died, and gives back when it is there again."""
    settings = {
        "failover__through_relays": True,
        "failover__after": "40s",
        "failover__start_wait": "30s",
        "sync__heartbeat": "4s",
    }
    with contextlib.ExitStack() as stack:
        ways = stack.enter_context(hop()), stack.enter_context(hop())
        made = Post(office, *ways, **settings)
        made.start()
        made.one.do("mailbox", "create", "2001", "--name", "Ada")
        with made.other.daemon():
            with made.one.daemon():
                until(lambda: made.other.service()["serving"] == "primary", within=60, what="the primary serves")
                until((made.other.messages("2001").parent / "mailbox.yaml").exists, within=60, what="the mailbox")
            made.near.kill()
            until(lambda: made.other.service()["serving"] == "secondary", within=120, what="the failover")
            ident = made.other.leave("2001", wav(office.root / "a.wav"))
            made.near.start()
            with made.one.daemon():
                until(lambda: made.one.service()["serving"] == "secondary", within=60, what="the primary knows of it")
                until(lambda: made.one.service()["state"] == "normal", within=120, what="normal operation")
                assert made.one.service()["serving"] == "primary"
                assert made.one.has("2001", ident)
