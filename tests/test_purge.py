"""Housekeeping over two stores: who does it, what stops it, and that nothing comes back or is lost by it."""

import pytest
from wire import Wire

from vmctl.errors import NotFound
from vmctl.failover import Failover

HOUR = 3600.0
DAY = 24 * HOUR
SETTINGS = {"housekeeping.deleted": 48, "tombstones.keep": "10d", "failover.start_wait": "1s"}


@pytest.fixture
def wire(tmp_path, no_fsync):
    """Two servers with a retention of two days, of which the primary serves."""
    made = Wire(tmp_path / "net", SETTINGS)
    made.start_roles()
    yield made
    made.close()


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def pool(wire, name="primary"):
    """How many recordings lie in a server's pool."""
    return sum(1 for _ in wire.servers[name].pool.lying())


def tombs(wire, name="primary"):
    """The files that are left of deleted records."""
    return [path for path in (wire.root(name) / ".vmctl/deleted").rglob("*") if path.is_file()]


# For their age


@pytest.mark.parametrize("status", ["new", "unopened", "old", "saved"])
def test_a_message_goes_when_its_status_is_as_old_as_its_timer(wire, box, recording, status):
    """Counted from when it became what it is; replicated as a deletion; and it can be restored like any other."""
    wire.desk().set_mailbox(box, {"timers": {status: 24}})
    idents = [wire.desk().leave(box, recording()) for _ in range(2)]
    wire.clock.advance(23 * HOUR)
    for ident in idents:
        wire.desk().mark(box, ident, "new" if status != "new" else "old")
    wire.desk().mark(box, idents[0], status)
    wire.in_step()
    wire.clock.advance(23.9 * HOUR)
    assert [] == wire.keep().deleted
    wire.clock.advance(0.2 * HOUR)
    wire.exchange()
    assert [f"message/{box}/{idents[0]}"] == wire.keep().deleted
    wire.in_step()
    assert [idents[1:], idents[1:]] == [wire.messages(box, name) for name in wire.servers]
    wire.desk("secondary").restore_message(box, idents[0])
    wire.in_step()
    assert [idents, idents] == [wire.messages(box, name) for name in wire.servers]


def test_only_who_serves_keeps_house(wire, box, recording):
    """The other server deletes nothing; nor does anybody while nobody is known to serve, or after a failover."""
    wire.desk().set_settings({"housekeeping.new": 24})
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    wire.clock.advance(2 * DAY)
    wire.exchange()
    idle = wire.keep("secondary")
    assert ([], [], None) == (idle.deleted, idle.services, idle.stopped)
    Failover(wire.a).start()
    assert [] == wire.keep().deleted, "nobody serves yet"
    wire.start_roles()
    assert [f"message/{box}/{ident}"] == wire.keep().deleted


def test_a_person_who_saves_it_in_the_last_moment_keeps_it(wire, box, recording):
    """A message's file that was written since the last scan is looked at first."""
    wire.desk().set_settings({"housekeeping.old": 24})
    ident = wire.desk().leave(box, recording())
    wire.desk().mark(box, ident, "old")
    wire.in_step()
    wire.clock.advance(2 * DAY)
    path = wire.root() / f"mailboxes/{box}/messages/{ident}.json"
    beside = path.with_suffix(".tmp")
    beside.write_text(path.read_text().replace('"status": "old"', '"status": "saved"'))
    beside.rename(path)
    assert [] == wire.keep().deleted
    wire.in_step()
    assert "saved" == wire.b.store.document(f"message/{box}/{ident}")["status"]


def test_a_dry_run_tells_and_does_nothing(wire, box, recording):
    """Neither the stores nor the notes change."""
    wire.desk().set_settings({"housekeeping.new": 1})
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    wire.clock.advance(DAY)
    wire.exchange()
    notes = wire.a.index._run("SELECT * FROM meta ORDER BY name").fetchall()
    assert [f"message/{box}/{ident}"] == wire.keep(dry_run=True).deleted
    assert notes == wire.a.index._run("SELECT * FROM meta ORDER BY name").fetchall()
    assert [ident] == wire.messages(box)


def test_a_great_part_of_the_store_waits_for_a_word(wire, box, recording):
    """Named as a fault, nothing deleted; with the word all that was due goes, and the fault with it."""
    idents = [wire.desk().leave(box, recording(frames=8)) for _ in range(21)]
    wire.in_step()
    wire.desk().set_settings({"housekeeping.new": 1})
    wire.clock.advance(DAY)
    wire.exchange()
    kept = wire.keep()
    assert (21, []) == (kept.held, kept.deleted)
    assert ["vmctl:housekeeping"] == [fault["path"] for fault in wire.a.index.faults.all()]
    wire.scan()
    assert ["vmctl:housekeeping"] == [fault["path"] for fault in wire.a.index.faults.all()]
    assert idents == wire.messages(box)
    assert 21 == len(wire.keep(accept=True).deleted)
    wire.keep()
    wire.in_step()
    assert ([], []) == (wire.messages(box, "secondary"), wire.a.index.faults.all())


@pytest.mark.parametrize("leap", [3 * 365 * DAY, -3 * DAY])
def test_a_clock_that_leaps_deletes_nothing(wire, box, recording, leap):
    """Named, until the clock is back or a person says that it is right."""
    wire.desk().set_settings({"housekeeping.new": 24})
    wire.desk().leave(box, recording())
    gone = wire.desk().leave(box, recording())
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.keep()
    wire.clock.wall_ahead += leap
    wire.exchange()
    kept = wire.keep()
    assert "the clock was set" in kept.stopped
    assert ([], []) == (kept.deleted, kept.purged)
    assert ["vmctl:housekeeping"] == [fault["path"] for fault in wire.a.index.faults.all()]
    wire.clock.wall_ahead -= leap
    assert wire.keep().stopped is None
    assert [] == wire.a.index.faults.all()
    wire.clock.wall_ahead += leap
    assert wire.keep(trust_clock=True).stopped is None
    assert wire.keep().stopped is None


def test_two_clocks_that_differ_delete_nothing(wire, box, recording):
    """While the servers' clocks are further apart than clock.skew neither deletes nor purges for an age."""
    wire.desk().set_settings({"housekeeping.new": 24})
    wire.desk().leave(box, recording())
    wire.in_step()
    clocks = wire.own_clocks()
    wire.start_roles()
    clocks["primary"].off = 2 * DAY
    wire.exchange()
    assert "the peer's clock is" in wire.keep(trust_clock=True).stopped
    assert 1 == len(wire.messages(box))


# Purge


def test_what_was_deleted_long_ago_is_purged(wire, box, recording):
    """After the retention it cannot be restored on either server; its files are gone, its tombstone is not."""
    gone, kept = wire.desk().leave(box, recording()), wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.night(1.9)
    assert [1, 1] == [pool(wire, name) for name in wire.servers]
    wire.desk("secondary").restore_message(box, gone)
    wire.desk("secondary").delete_message(box, gone)
    wire.in_step()
    wire.night(2.1)
    assert [(0, []), (0, [])] == [(pool(wire, name), tombs(wire, name)) for name in wire.servers]
    for name in wire.servers:
        with pytest.raises(NotFound, match="cannot be restored any more"):
            wire.desk(name).restore_message(box, gone)
        assert wire.servers[name].index.get(f"message/{box}/{gone}").record.is_purged
    wire.in_step()
    assert [[kept], [kept]] == [wire.messages(box, name) for name in wire.servers]


def test_nothing_is_purged_before_the_peer_knows_that_it_is_deleted(wire, box, recording):
    """The last copy is not given up on the word of one server."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.clock.advance(30 * DAY)
    assert [] == wire.keep().purged
    assert 1 == pool(wire)


def test_the_recording_stays_until_the_peer_knows_of_the_purge(wire, box, recording):
    """A restore that the purge had not seen outlives it, and finds the recording on both."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.clock.advance(3 * DAY)
    assert [f"message/{box}/{gone}"] == wire.keep().purged
    wire.keep()
    assert 1 == pool(wire)
    wire.desk("secondary").restore_message(box, gone)
    wire.in_step()
    wire.night()
    assert [[gone], [gone]] == [wire.messages(box, name) for name in wire.servers]


def test_a_restore_whose_recording_was_swept_fetches_it(wire, box, recording):
    """The restorer's server has it, and ships it."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.clock.advance(3 * DAY)
    wire.keep()
    wire.desk("secondary").restore_message(box, gone)
    sha256 = wire.a.index.get(f"message/{box}/{gone}").record.document["audio"]["sha256"]
    wire.a.pool.drop(sha256)
    wire.in_step()
    assert [[gone], [gone]] == [wire.messages(box, name) for name in wire.servers]


def test_a_recording_that_something_else_names_stays(wire, box, recording):
    """Two messages of one recording, of which one is purged; and a greeting's earlier version."""
    sound = recording()
    gone, kept = wire.desk().leave(box, sound), wire.desk().leave(box, sound)
    wire.desk().delete_message(box, kept)
    wire.desk().set_greeting(box, "busy", recording())
    wire.desk().set_greeting(box, "busy", recording())
    wire.in_step()
    wire.night(1.5)
    wire.desk().restore_message(box, kept)
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.night(3)
    wire.desk().delete_message(box, kept)
    wire.desk().restore_message(box, kept)
    wire.in_step()
    assert [[kept], [kept]] == [wire.messages(box, name) for name in wire.servers]
    for replica in wire.servers.values():
        versions = replica.index.history.of(f"greeting/{box}/busy")
        assert all(replica.recordings.find(version.document["audio"]["sha256"]) for version in versions)


def test_what_nothing_names_any_more_goes(wire, box, recording):
    """A recording whose last version was trimmed goes as late as a deleted message does."""
    wire.a.index.history.keep = 1
    for _ in range(4):
        wire.desk().set_greeting(box, "busy", recording())
    assert 3 == pool(wire)
    wire.in_step()
    wire.night(3)
    assert 1 == pool(wire)


def test_a_mailbox_is_purged_with_all_that_was_in_it(wire, box, recording):
    """Greetings, messages and the mailbox itself, at its own timer; the history goes, too."""
    wire.desk().set_mailbox(box, {"timers": {"deleted": 5}})
    wire.desk().leave(box, recording())
    wire.desk().set_greeting(box, "busy", recording())
    wire.in_step()
    wire.desk().delete_mailbox(box)
    wire.in_step()
    wire.night(0.3)
    for name, replica in wire.servers.items():
        assert 0 == replica.index.count("key LIKE '%2001%' AND key NOT IN (SELECT key FROM dead WHERE purged)")
        assert (0, [], []) == (pool(wire, name), tombs(wire, name), replica.index.history.of(f"mailbox/{box}"))
    wire.desk().create_mailbox(box, {"name": "Bob"})
    wire.in_step()
    assert "Bob" == wire.b.store.document(f"mailbox/{box}")["name"]


def test_a_tombstone_is_dropped_when_it_is_old(wire, box, recording):
    """Not before tombstones.keep, and without the two servers differing at any time."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.night(3)
    wire.night(9)
    assert wire.a.index.get(f"message/{box}/{gone}") is not None
    wire.clock.advance(2 * DAY)
    assert 1 == wire.keep().dropped
    assert wire.a.index.digest == wire.b.index.digest
    assert 1 == wire.keep("secondary").dropped
    wire.in_step()


def test_a_crash_after_the_purge_leaves_no_files(wire, box, recording, monkeypatch):
    """What was purged and not swept is swept by the next run of the next process."""
    gone = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().delete_message(box, gone)
    wire.in_step()
    wire.clock.advance(3 * DAY)
    wire.keep()
    wire.exchange()
    monkeypatch.setattr("vmctl.store.pool.Pool.drop", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        wire.keep()
    monkeypatch.undo()
    wire.crash("primary")
    wire.keep()
    assert (0, []) == (pool(wire), tombs(wire))


# Recordings of which not all has come


@pytest.fixture
def slim(tmp_path, no_fsync):
    """Two servers as above, whose mails are as small as the config allows."""
    made = Wire(tmp_path / "slim", SETTINGS | {"mail.max": "64kB", "limits.document": "4kB"})
    made.start_roles()
    made.desk().create_mailbox("2001", {"name": "Ada"})
    made.in_step()
    yield made
    made.close()


def half_sent(wire, source):
    """Leave a long message of which the record and one piece arrive, and no more; its id."""
    ident = wire.desk().leave("2001", source)
    for parcel in wire.a.outbox.parcels():
        wire.a.outbox.left(parcel)
        wire.b.receive(parcel.raw)
        if parcel.load.pieces:
            break
    wire.b.take()
    return ident


def unfinished(wire, name="secondary"):
    """The recordings of which a server has a part only: by their files, and by its index."""
    replica = wire.servers[name]
    files = [path.name.removesuffix(".part") for path in (replica.store.state / "audio").glob("*.part")]
    return sorted(files), replica.index.parts.recordings()


def quiet(wire, days):
    """So many days pass in which mails say what was decided and bring no recording."""
    wire.clock.advance(days * DAY)
    for _ in range(4):
        for name in wire.servers:
            for parcel in wire.servers[name].outbox.parcels(always=True):
                wire.servers[name].outbox.left(parcel)
                if not parcel.load.audio:
                    wire.under_way.append((wire.other(name), parcel.raw))
        wire.deliver()
    for name in wire.servers:
        wire.keep(name)


def test_parts_of_a_recording_that_nobody_wants_any_more_go(slim, recording):
    """As long as the message can be restored its part stays; purged, it goes, with what is known of it on both sides."""
    ident = half_sent(slim, recording(frames=90_000))
    files, known = unfinished(slim)
    assert 1 == len(files)
    assert (files, files) == (known, slim.a.index.offers.recordings())
    slim.desk().delete_message("2001", ident)
    quiet(slim, 1.5)
    assert (files, files) == unfinished(slim)
    for _ in range(3):
        quiet(slim, 1)
    assert ([], []) == unfinished(slim)
    assert [] == slim.a.index.offers.recordings()


def test_parts_of_a_recording_that_is_awaited_stay(slim, recording):
    """However long the rest takes: what came of it need not come again, and the message is whole in the end."""
    source = recording(frames=90_000)
    ident = half_sent(slim, source)
    before = unfinished(slim)
    for _ in range(3):
        quiet(slim, 2)
    assert before == unfinished(slim)
    slim.in_step()
    assert ([], []) == unfinished(slim)
    path = slim.root("secondary") / f"mailboxes/2001/messages/{ident}.wav"
    assert source.read_bytes() == path.read_bytes()


def test_a_part_that_came_lately_stays_and_one_whose_recording_is_here_goes(slim, recording):
    """Pieces may overtake the record that names them; what came whole in another way needs no part."""
    stray, source = "a" * 64, recording()
    slim.desk("secondary").leave("2001", source)
    (whole,) = slim.b.index._run("SELECT audio FROM records WHERE kind = 'message'").fetchone()
    for sha256 in (stray, whole):
        slim.b.pool.put_part(sha256, 0, b"part")
        with slim.b.index.transaction():
            slim.b.index.parts.add(sha256, 0, 4)
    slim.clock.advance(0.9 * DAY)
    slim.exchange()
    slim.keep("secondary")
    assert (sorted((stray, whole)), sorted((stray, whole))) == unfinished(slim)
    slim.clock.advance(0.2 * DAY)
    slim.exchange()
    slim.keep("secondary")
    assert ([], []) == unfinished(slim)
