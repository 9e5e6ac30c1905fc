"""A store that is unmounted in the middle of any step of the work on it, and is back later."""

import contextlib
import itertools

from wire import SETTLE

from vmctl import beneath
from vmctl.errors import VmctlError
from vmctl.store import native

MOST_STEPS = 2_000


def steps(wire, monkeypatch, work):
    """Do a piece of work again and again; the primary's store goes before its first, second, third, ... look at the disk."""
    root, away, left = wire.root(), wire.directory / "away", [0]

    def counted(look):
        def looking(path):
            left[0] -= 1
            if left[0] == 0:
                root.rename(away)
            return look(path)

        return looking

    monkeypatch.setattr(beneath, "reach", counted(beneath.reach))
    monkeypatch.setattr(native, "_peek", counted(native._peek))
    for step in range(1, MOST_STEPS):
        left[0] = step
        with contextlib.suppress(VmctlError):
            work()
        gone = away.exists()
        assert not (gone and root.exists()), f"something was made in place of the store, at step {step}"
        left[0] = 0
        if not gone:
            return step
        away.rename(root)
    raise AssertionError("the work never came to its end")


def test_a_scan_may_lose_the_store_at_any_step(wire, monkeypatch):
    """It ends with an error of ours, makes nothing in the store's place, deletes nothing, and the next one goes on."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    (wire.root() / "callflows/sales.yaml").write_text("greet: hello\n")
    wire.in_step()
    (wire.root() / "callflows/support.yaml").write_text("greet: hello\n")
    (wire.root() / "callflows/sales.yaml").unlink()
    wire.clock.advance(SETTLE + 1)

    def look():
        wire.a.scan(full=True)
        wire.desk().set_mailbox("2001", {"name": f"Ada {next(count)}"})
        wire.a.scan()

    count = itertools.count()
    assert steps(wire, monkeypatch, look) > 20
    wire.in_step()
    assert wire.b.store.document("mailbox/2001")["name"] == f"Ada {next(count) - 1}"
    assert wire.b.store.document("callflow/support") == {"text": "greet: hello\n"}
    assert wire.b.store.document("callflow/sales") is None


def test_what_comes_may_lose_the_store_at_any_step(wire, monkeypatch, recording):
    """It ends with an error of ours and makes nothing in the store's place; what came is lost to nobody."""
    wire.desk("secondary").create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    idents = []

    def work():
        idents.append(wire.desk("secondary").leave("2001", recording()))
        wire.send("secondary", always=True)
        wire.deliver()

    assert steps(wire, monkeypatch, work) > 20
    wire.in_step()
    assert wire.a.store.names("message", "2001") == sorted(idents)
