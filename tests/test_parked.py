"""Mails that are refused for good, too large, or held back: what is parked, what goes on, and what a person can order."""

import dataclasses
from pathlib import Path

import pytest

from vmctl.errors import MailRefused, MailTooLarge, NotFound
from vmctl.mail import parse
from vmctl.parked import listing, matching

TURNS = 40


def read(wire, name, parcel):
    """A mail as its recipient reads it."""
    other = wire.other(name)
    return parse(parcel.raw, network=wire.config.network, me=other, peer=name, verify=lambda _signature, _data: True)


def ship(wire, name="primary", refuse=lambda _mail: None, **how):
    """Hand over what a server has to say to a server that refuses what `refuse` gives a reason for; the mails taken."""
    outbox = wire.servers[name].outbox
    taken = []
    for parcel in outbox.parcels(**how):
        mail = read(wire, name, parcel)
        error = refuse(mail)
        if error is None:
            outbox.left(parcel)
            wire.under_way.append((wire.other(name), parcel.raw))
            taken.append(mail)
        elif isinstance(error, MailTooLarge):
            if not outbox.too_large(parcel, error.limit, error.why):
                break
        elif not outbox.refused(parcel, error):
            break
    return taken


def exchange(wire, refuse, rounds=6):
    """Both ship and take in; what the primary sends is judged."""
    for _ in range(rounds):
        ship(wire, refuse=refuse, always=True)
        ship(wire, "secondary", always=True)
        wire.deliver()
        wire.clock.advance(2.5)


def named(part):
    """Refuses every mail with a record whose key has this in it."""
    return lambda mail: "554 no" if any(part in record["key"] for record in mail.records) else None


def spam(at, reply):
    """A filter that says `reply` to every mail with the piece of a recording that has this byte, unless it is the last piece."""

    def refuse(mail):
        hit = any(sound.offset <= at < sound.offset + len(sound.data) < sound.size for sound in mail.audio)
        return reply if hit else None

    return refuse


def parked(wire, name="primary"):
    """What is parked at a server."""
    return listing(wire.servers[name].index, wire.servers[name].spool)


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def test_what_is_refused_alone_is_parked_and_all_else_goes_on(wire, box, recording):
    """Of thirty messages one is refused for good: it is named with the reply, and the others arrive."""
    idents = [wire.desk().leave(box, recording()) for _ in range(30)]
    exchange(wire, named(idents[11]))
    (one,) = parked(wire)
    assert ("out", f"message/2001/{idents[11]}", "554 no") == (one["direction"], one["record"], one["reply"])
    assert sorted(set(idents) - {idents[11]}) == sorted(wire.messages(box, "secondary"))
    assert 1 == wire.a.index.pending_count()


def test_what_is_parked_is_not_sent_again_and_keeps_its_mail(wire, box, recording):
    """No mail brings it any more, also after a restart, an hour later; the refused mail lies there to be looked at."""
    ident = wire.desk().leave(box, recording())
    exchange(wire, named(ident))
    wire.crash("primary")
    wire.clock.advance(3600)
    assert [] == [record for mail in ship(wire, always=True, anew=True) for record in mail.records]
    (one,) = parked(wire)
    assert ident.encode() in Path(one["mail"]).read_bytes()


def test_a_newer_version_is_sent_by_itself(wire, box):
    """What is parked is a version: the next edit travels, and nothing is parked any more."""
    wire.desk().set_mailbox(box, {"name": "Bob"})
    exchange(wire, named("mailbox/2001"))
    assert ["mailbox/2001"] == [one["record"] for one in parked(wire)]
    wire.desk().set_mailbox(box, {"name": "Cleo"})
    wire.in_step()
    assert ([], "Cleo") == (parked(wire), wire.b.store.document("mailbox/2001")["name"])


def test_nothing_is_parked_while_every_mail_is_refused(wire, box, recording):
    """A wrong key refuses heartbeats, too: nobody is accused, and all goes when the link is mended."""
    for _ in range(5):
        wire.desk().leave(box, recording())
    for _ in range(TURNS):
        assert [] == ship(wire, refuse=lambda _mail: "550 wrong key", always=True)
        wire.clock.advance(10)
    assert [] == parked(wire)
    wire.in_step()


def test_a_link_that_is_mended_between_two_mails_accuses_nobody(wire, box, recording):
    """Each mail is refused or taken by chance of the link, not of what it brings: in the end all of it has arrived."""
    wire.desk().leave(box, recording())
    for turn in range(TURNS):
        ship(wire, refuse=lambda _mail, turn=turn: "550 no" if turn % 4 < 3 else None, always=True)
        wire.clock.advance(60)
    assert [] == parked(wire)
    wire.in_step()


def test_a_parked_record_is_retried_by_order(wire, box, recording):
    """`retry` sends it again at once, and when it arrives it is parked no more."""
    ident = wire.desk().leave(box, recording())
    exchange(wire, named(ident))
    (one,) = parked(wire)
    wire.a.lot.retry(one["id"])
    assert [] == parked(wire)
    wire.in_step()
    assert [ident] == wire.messages(box, "secondary")


def test_a_record_that_was_given_up_is_not_offered_and_stays_here(wire, box, recording):
    """`drop` keeps it from being offered, even to a peer with a new index; the stores differ, and say so."""
    ident = wire.desk().leave(box, recording())
    exchange(wire, named(ident))
    (one,) = parked(wire)
    wire.a.lot.drop(one["id"])
    wire.b.close()
    for path in (wire.root("secondary") / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("secondary")
    wire.exchange()
    assert [True] == [each["given_up"] for each in parked(wire)]
    assert ([ident], []) == (wire.messages(box), wire.messages(box, "secondary"))
    assert wire.a.index.digest != wire.b.index.digest
    wire.desk().mark(box, ident, "saved")
    wire.in_step()
    assert [] == parked(wire)


def test_a_piece_that_is_always_refused_is_parked_and_the_rest_goes_on(narrow, recording):
    """One piece of a long recording is rejected as spam: it is named by its bytes, all other pieces and records arrive."""
    narrow.desk().create_mailbox("2001", {})
    source = recording(frames=60_000)
    ident = narrow.desk().leave("2001", source)
    narrow.desk().leave("2001", recording())
    at = 50_000

    exchange(narrow, spam(at, "554 5.7.1 looks like spam"), rounds=12)
    (one,) = parked(narrow)
    start, stop = one["bytes"]
    assert f"message/2001/{ident}" == one["record"]
    assert start <= at < stop
    (sha256,) = narrow.b.index.parts.recordings()
    size = source.stat().st_size
    assert [(0, start), (stop, size)] == narrow.b.index.parts.of(sha256)
    assert 1 == len(narrow.messages("2001", "secondary"))
    narrow.a.lot.retry(one["id"])
    narrow.in_step()
    path = narrow.root("secondary") / f"mailboxes/2001/messages/{ident}.wav"
    assert source.read_bytes() == path.read_bytes()


def limited(size, *, named=True):
    """A server that takes mails of so many bytes only, and says so or not; and the sizes that it took."""
    taken = []

    def judge(mail):
        weight = sum(len(sound.data) for sound in mail.audio) * 1.37 + 3_000
        if weight > size:
            return MailTooLarge("too large", size if named else None, why="552 5.3.4 too big")
        taken.append(weight)
        return None

    return judge, taken


@pytest.mark.parametrize("named", [True, False])
def test_mails_become_as_small_as_the_peer_takes_them(tmp_path, no_fsync, recording, named):
    """A server that names a small SIZE, or answers 552, gets long recordings in more pieces; nothing is parked."""
    from wire import Wire

    wire = Wire(tmp_path / "other", {"mail.max": "1MB", "limits.document": "4kB"})
    try:
        wire.desk().create_mailbox("2001", {})
        source = recording(frames=1_000_000)
        ident = wire.desk().leave("2001", source)
        judge, taken = limited(200_000, named=named)
        exchange(wire, judge)
        assert ([], True) == (parked(wire), max(taken) <= 200_000)
        path = wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav"
        assert source.read_bytes() == path.read_bytes()
        wire.in_step()
    finally:
        wire.close()


def test_pieces_of_different_sizes_fit_together(tmp_path, no_fsync, recording):
    """Half of a recording comes in large pieces, then the bound shrinks, and the rest comes in small ones."""
    from wire import Wire

    wire = Wire(tmp_path / "other", {"mail.max": "1MB", "limits.document": "4kB"})
    try:
        wire.desk().create_mailbox("2001", {})
        source = recording(frames=1_000_000)
        ident = wire.desk().leave("2001", source)
        for parcel in wire.a.outbox.parcels():
            if parcel.load.pieces and parcel.load.pieces[0].start > 600_000:
                break
            wire.a.outbox.left(parcel)
            wire.b.receive(parcel.raw)
        wire.b.take()
        judge, _ = limited(100_000)
        exchange(wire, judge)
        path = wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav"
        assert source.read_bytes() == path.read_bytes()
        wire.in_step()
    finally:
        wire.close()


@pytest.mark.parametrize("how", ["a day", "retry"])
def test_a_record_that_fits_no_mail_is_a_fault_and_keeps_nothing_back(wire, box, how):
    """A document above what a server on the way takes is named, and what comes behind it goes; a larger mail is tried later."""
    wire.desk().set_callflow("huge", "# " + "x" * 60_000 + "\nname: huge\n")
    wire.desk().set_mailbox(box, {"name": "Bob"})
    judge, _ = limited(64_000)

    def refuse(mail):
        large = sum(len(str(record)) for record in mail.records) > 40_000
        return MailTooLarge("too large", 64_000, why="552") if large else judge(mail)

    exchange(wire, refuse)
    (fault,) = wire.a.index.faults.all()
    assert "vmctl:callflow/huge" == fault["path"]
    assert ["callflow/huge"] == [one["record"] for one in parked(wire)]
    assert "Bob" == wire.b.store.document("mailbox/2001")["name"]
    if how == "a day":
        wire.clock.advance(86_400)
    else:
        wire.a.lot.retry(parked(wire)[0]["id"])
    wire.in_step()
    assert ([], []) == (parked(wire), wire.a.index.faults.all())


def held_by(wire, key, name="secondary"):
    """What a server says that it holds back of a record."""
    return [one for mail in ship(wire, name, always=True) for one in mail.status.get("held", []) if one[0] == key]


def test_a_record_that_cannot_be_read_is_held_back_by_name(wire, box):
    """The peer takes the mail, says which record it cannot take and why, and takes all others."""
    strange = dataclasses.replace(wire.a.index.get("mailbox/2001").record, key="message/no")
    with wire.a.index.transaction():
        wire.a.index._run(
            "INSERT INTO records SELECT ?, kind, mailbox, name, lives, rank, number, ?, state, audio, shown, NULL, 0"
            " FROM records WHERE key = 'mailbox/2001'",
            (strange.key, strange.version),
        )
    wire.desk().set_mailbox(box, {"name": "Bob"})
    ship(wire)
    wire.deliver()
    ((key, version, reason),) = held_by(wire, "message/no")
    wire.deliver()
    (one,) = parked(wire)
    assert (key, True) == (one["record"], reason in one["reply"])
    assert strange.version == version
    assert "Bob" == wire.b.store.document("mailbox/2001")["name"]
    assert [] == [record for mail in ship(wire, always=True, anew=True) for record in mail.records]


def test_a_record_that_cannot_be_merged_keeps_no_other_back(wire, box, monkeypatch):
    """A fault in the merge of one record holds that one back; the mail is taken and not set aside."""
    from vmctl import inbox

    merge = inbox.merge

    def broken(mine, part):
        if part.key == "mailbox/2001":
            raise LookupError("a bug")
        return merge(mine, part)

    monkeypatch.setattr(inbox, "merge", broken)
    wire.desk().set_mailbox(box, {"name": "Bob"})
    wire.desk().create_mailbox("2002", {})
    ship(wire)
    wire.deliver()
    assert ([], True) == (wire.b.spool.refused(), wire.lives("mailbox/2002", "secondary"))
    assert 1 == len(held_by(wire, "mailbox/2001"))
    wire.deliver()
    assert ["mailbox/2001"] == [one["record"] for one in parked(wire)]
    monkeypatch.undo()
    wire.a.lot.retry(parked(wire)[0]["id"])
    wire.in_step()


def test_a_recording_that_is_on_neither_server_is_held_back(wire, box, recording):
    """The message is named as parked with that reason, the peer is not asked without end, and the gate is not held."""
    ident = wire.desk().leave(box, recording())
    (wire.root() / f"mailboxes/2001/messages/{ident}.wav").unlink()
    for _ in range(8):
        wire.send("primary", always=True)
        wire.send("secondary", always=True)
        wire.deliver()
        wire.clock.advance(5)
    (one,) = parked(wire)
    assert (f"message/2001/{ident}", True) == (one["record"], "neither" in one["reply"])
    assert (0, None) == wire.a.index.shelf.owed()
    facts = wire.b.contact.facts()
    assert (1, 1, True) == (facts["pending"], facts["parked"], facts["passed"] == facts["last"])
    asked = 0
    for _ in range(100):
        wire.clock.advance(10)
        asked += sum(bool(mail.status["wants"]["audio"]) for mail in ship(wire, "secondary", always=True))
        wire.deliver()
    assert 1 <= asked <= 12


def test_a_recording_that_is_found_again_arrives_after_all(wire, box, recording):
    """What was held back for its lost recording is taken when a person puts the recording back."""
    ident = wire.desk().leave(box, recording())
    path = wire.root() / f"mailboxes/2001/messages/{ident}.wav"
    data = path.read_bytes()
    path.unlink()
    for _ in range(8):
        wire.send("primary", always=True)
        wire.send("secondary", always=True)
        wire.deliver()
        wire.clock.advance(5)
    assert 1 == len(parked(wire))
    path.write_bytes(data)
    wire.clock.as_files()
    wire.in_step()
    assert ([], [ident]) == (parked(wire), wire.messages(box, "secondary"))


def test_a_mail_that_came_in_and_cannot_be_taken_is_listed_and_can_be_taken_up(wire, box, monkeypatch):
    """It is in the same list as `in` with the reason; retry puts it back into the spool, drop removes it."""
    wire.desk().set_mailbox(box, {"name": "Bob"})
    ship(wire)
    with monkeypatch.context() as broken:
        broken.setattr(type(wire.b.contact), "take", lambda *_: 1 / 0 if False else {}["no"])
        wire.deliver()
    (one,) = parked(wire, "secondary")
    assert ("in", None, True) == (one["direction"], one["record"], "KeyError" in one["reply"])
    wire.b.lot.retry(one["id"])
    wire.b.take()
    assert ([], "Bob") == (parked(wire, "secondary"), wire.b.store.document("mailbox/2001")["name"])
    wire.b.spool.refuse(wire.b.spool.put(b"no mail", "abc", 7), "nonsense")
    wire.b.lot.drop(parked(wire, "secondary")[0]["id"])
    assert ([], []) == (parked(wire, "secondary"), list((wire.root("secondary") / ".vmctl/refused").iterdir()))
    with pytest.raises(NotFound):
        wire.b.lot.drop("no-such")


def test_only_so_many_refused_mails_are_kept(wire):
    """The oldest go: the folder of parked mails is bounded."""
    for number in range(30):
        wire.a.spool.park(b"mail", f"packet{number}", number)
    kept = sorted(path.name for path in (wire.root() / ".vmctl/parked").iterdir())
    assert [f"{number:016d}-packet{number}.eml" for number in range(10, 30)] == kept
    assert wire.a.spool.parked("packet9") is None


def test_an_id_may_be_shortened_but_not_be_unclear():
    """The beginning of an id is enough where one only begins so."""
    found = [{"id": "abc"}, {"id": "abd"}]
    assert {"id": "abc"} == matching("abc", found)
    for ident in ("ab", "x", ""):
        with pytest.raises(NotFound):
            matching(ident, found)
    assert issubclass(MailRefused, Exception)


# Too large for a server on the way


def refusals_of_size(wire, limit):
    """Ship all that is due to a server that answers 552 to what is larger, and does not say how large; how often it did."""
    outbox, count = wire.a.outbox, 0
    for parcel in outbox.parcels(anew=True):
        if len(parcel.raw) <= limit:
            outbox.left(parcel)
            continue
        count += 1
        assert outbox.too_large(parcel, None, "552 too large")
    return count


def test_how_small_mails_have_to_be_is_known_to_the_next_process(wire, box, recording):
    """Each `vmctl sync` of cron is a process of its own; after a day a larger mail is tried, with another `mail.max` at once."""
    limit = 150_000
    for _ in range(2):
        wire.desk().leave(box, recording(frames=300_000))
    assert refusals_of_size(wire, limit) > 1
    for _ in range(2):
        wire.crash("primary")
        assert 0 == refusals_of_size(wire, limit)
    wire.clock.advance(86_400)
    assert refusals_of_size(wire, limit) > 0
    assert 0 == refusals_of_size(wire, limit)
    wire.config = dataclasses.replace(wire.config, mail=wire.config.mail._replace(max=10_000_000))
    wire.crash("primary")
    assert refusals_of_size(wire, limit) > 0
    secondary = wire.config.servers["secondary"]
    moved = secondary._replace(address=secondary.address._replace(host="127.0.0.9"))
    wire.config = dataclasses.replace(wire.config, servers=wire.config.servers | {"secondary": moved})
    wire.crash("primary")
    assert refusals_of_size(wire, limit) > 0
