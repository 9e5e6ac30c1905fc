"""The mails: self-sufficient, bounded, in the right order, sent until they are acknowledged; recordings in pieces."""

import dataclasses
import hashlib
import random

import pytest

from vmctl.mail import parse


def read(wire, raw, to="secondary"):
    """A mail as its recipient reads it, without looking at the signature."""
    name = wire.other(to)
    return parse(raw, network=wire.config.network, me=to, peer=name, verify=lambda _signature, _data: True)


def mails(wire, name="primary", **how):
    """What a server sends, as its peer reads it."""
    return [read(wire, raw, wire.other(name)) for raw in wire.send(name, **how)]


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada", "language": "en-GB"})
    wire.in_step()
    return "2001"


def test_only_the_changed_fields_travel(wire, box):
    """A record that the peer holds is shipped as the fields that changed since then, with the base they belong to."""
    wire.desk().set_mailbox(box, {"quota": 5})
    (mail,) = mails(wire)
    (record,) = mail.records
    assert (["quota"], False) == (list(record["fields"]), record["base"] is None)


def test_a_delta_without_its_base_asks_for_the_whole(wire, box):
    """Deltas out of order on a server that lost its base corrupt nothing: it does not acknowledge, and gets it whole."""
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.send("primary")
    wire.lose()
    with wire.b.index.transaction():
        wire.b.index._run("DELETE FROM records")
        wire.b.index._digest = 0
        wire.b.index.set_meta("digest", "0" * 32)
    wire.send("primary", anew=True)
    wire.deliver()
    (answer,) = mails(wire, "secondary")
    assert ([], ["mailbox/2001"]) == (answer.status["acks"], answer.status["wants"]["records"])
    wire.deliver()
    (whole,) = mails(wire)
    assert (None, ["language", "name", "quota", "service"]) == (
        whole.records[0]["base"],
        sorted(whole.records[0]["fields"]),
    )


def test_an_ack_does_not_cover_a_later_edit(wire, box):
    """An acknowledgement of the version before leaves the newer one pending."""
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.send("primary")
    wire.deliver()
    wire.desk().set_mailbox(box, {"quota": 6})
    wire.send("secondary")
    wire.deliver()
    assert 1 == wire.a.index.pending_count()
    wire.in_step()
    assert 6 == wire.b.store.document("mailbox/2001")["quota"]


def test_what_is_not_acknowledged_leaves_again(wire, box):
    """A lost mail's changes are sent again after `sync.resend`, not before, under the same packet id."""
    wire.desk().set_mailbox(box, {"quota": 5})
    (first,) = mails(wire)
    wire.lose()
    assert [] == mails(wire)
    assert 0 < wire.a.outbox.next_resend() <= wire.config.sync.resend
    wire.clock.advance(wire.config.sync.resend)
    (again,) = mails(wire)
    assert [first.records] == [again.records]
    assert first.packet == again.packet
    wire.deliver()
    wire.send("secondary")
    wire.deliver()
    assert (0, None) == (wire.a.index.pending_count(), wire.a.outbox.next_resend())


def test_an_acknowledgement_that_was_lost_is_given_again(wire, box):
    """The peer acknowledges a doubled record once more, and nothing else changes there."""
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.send("primary")
    wire.deliver()
    digest = wire.b.index.digest
    wire.send("secondary")
    wire.lose()
    wire.send("primary", anew=True)
    wire.deliver()
    wire.send("secondary")
    wire.deliver()
    assert (0, digest) == (wire.a.index.pending_count(), wire.b.index.digest)


def test_acknowledgements_are_never_acknowledged(wire, box):
    """After one exchange both are silent."""
    wire.desk().set_mailbox(box, {"quota": 5})
    for name in ("primary", "secondary"):
        wire.send(name)
        wire.deliver()
    assert [[], []] == [wire.send(name) for name in wire.servers]


def test_urgent_records_and_the_newest_messages_go_first(narrow, recording):
    """Mailboxes before messages, then the newest; the fourth mail of a backlog takes the oldest."""
    desk = narrow.desk()
    desk.create_mailbox("2001", {})
    idents = [desk.leave("2001", recording(frames=1_900)) for _ in range(24)]
    desk.create_mailbox("2002", {})
    sent = [[record["key"].rpartition("/")[2] for record in mail.records] for mail in mails(narrow)]
    flat = [name for names in sent for name in names]
    assert {"2001", "2002"} == set(flat[:2])
    assert idents[-1] == flat[2]
    assert (True, idents[0]) == (len(sent) > 3, sent[3][0])
    assert sorted(idents) == sorted(flat[2:])


@pytest.mark.parametrize("name", ["primary", "secondary"])
def test_long_recordings_go_in_pieces_that_may_be_lost(narrow, recording, name):
    """No mail is larger than `mail.max`; pieces lost, doubled and out of order still make the same bytes."""
    narrow.desk(name).create_mailbox("2001", {})
    source = recording(frames=150_000)
    ident = narrow.desk(name).leave("2001", source)
    chance = random.Random(3)
    for _ in range(4):
        for raw in narrow.send(name, anew=True):
            assert len(raw) <= narrow.config.mail.max
        narrow.disturb(chance)
        for raw in narrow.send(narrow.other(name), anew=True):
            assert len(raw) <= narrow.config.mail.max
        narrow.disturb(chance)
    narrow.in_step()
    path = narrow.root(narrow.other(name)) / f"mailboxes/2001/messages/{ident}.wav"
    assert source.read_bytes() == path.read_bytes()
    assert [] == [each.name for each in (narrow.root(narrow.other(name)) / ".vmctl/audio").iterdir()]


def test_only_the_missing_pieces_are_sent_again(narrow, recording):
    """The peer names the byte ranges that it lacks, and only these come."""
    narrow.desk().create_mailbox("2001", {})
    narrow.desk().leave("2001", recording(frames=100_000))
    offsets = [audio.offset for audio in mails(narrow)[-1].audio]
    narrow.under_way.pop()
    narrow.deliver()
    narrow.send("secondary")
    narrow.clock.advance(2.5)
    narrow.send("secondary")
    narrow.deliver()
    assert offsets == [audio.offset for mail in mails(narrow) for audio in mail.audio]
    narrow.deliver()
    narrow.in_step()


@pytest.mark.parametrize("what", ["refused", "put_off"])
def test_a_record_that_is_refused_beside_a_piece_does_not_send_its_recording_anew(narrow, recording, what):
    """What has left of a long recording does not leave again because the record goes a second time and is not taken."""
    narrow.desk().create_mailbox("2001", {})
    narrow.in_step()
    narrow.desk().leave("2001", recording(frames=150_000))
    outbox, offsets, said = narrow.a.outbox, [], 0
    for _ in range(12):
        for parcel in outbox.parcels():
            if parcel.versions and parcel.load.pieces and offsets:
                said += 1
                getattr(outbox, what)(parcel, "no")
                continue
            outbox.left(parcel)
            offsets += [piece.start for piece in parcel.load.pieces]
            if not said:
                break
        narrow.clock.advance(3600)
    assert said
    assert len(offsets) == len(set(offsets)) > 3


def test_a_record_is_acknowledged_when_its_audio_is_here(narrow, recording):
    """The document alone is not enough: no acknowledgement and no file before the last piece."""
    narrow.desk().create_mailbox("2001", {})
    narrow.in_step()
    ident = narrow.desk().leave("2001", recording(frames=100_000))
    narrow.send("primary")
    last = narrow.under_way.pop()
    narrow.deliver()
    assert [] == [ack for mail in mails(narrow, "secondary", always=True) for ack in mail.status["acks"]]
    assert [] == narrow.messages("2001", "secondary")
    narrow.under_way = [last]
    narrow.deliver()
    keys = [ack[0] for mail in mails(narrow, "secondary") for ack in mail.status["acks"]]
    assert [f"message/2001/{ident}"] == keys
    assert [ident] == narrow.messages("2001", "secondary")


def test_an_edit_of_a_message_does_not_send_its_audio_again(wire, box, recording):
    """The peer holds the recording: a mark travels alone."""
    ident = wire.desk().leave(box, recording())
    wire.in_step()
    wire.desk().mark(box, ident, "old")
    assert [[]] == [mail.audio for mail in mails(wire)]


def test_a_delayed_mail_of_a_past_incarnation_says_nothing_of_the_present(wire, box, tmp_path):
    """Its records merge, its acknowledgements do not count."""
    wire.desk("secondary").set_mailbox(box, {"quota": 5})
    late = wire.send("secondary")
    wire.lose()
    wire.b.close()
    for path in (wire.root("secondary") / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("secondary")
    wire.in_step()
    checkpoint = wire.a.index.note("echo_checkpoints")
    wire.a.receive(late[0])
    wire.a.take()
    assert checkpoint == wire.a.index.note("echo_checkpoints")
    wire.in_step()


def test_a_record_of_an_unknown_kind_is_passed_on(wire, box):
    """A record of a kind of a later version is kept in the index and never put on disk."""
    entry = wire.a.index.get("mailbox/2001")
    future = dataclasses.replace(entry.record, key="fax/2001")
    with wire.a.index.transaction():
        wire.a.index.put(dataclasses.replace(entry, record=future, shown=None, base=None), wire.clock.wall())
    wire.exchange()
    assert wire.lives("fax/2001", "secondary")
    assert [] == wire.apart()


def test_a_mail_survives_a_crash_before_it_is_taken(wire, box):
    """250 means durable: what was received is taken by the next process."""
    wire.desk("secondary").set_mailbox(box, {"quota": 5})
    wire.send("secondary")
    wire.deliver(take=False)
    wire.crash("primary")
    assert 1 == len(wire.a.take().taken)
    assert 5 == wire.a.store.document("mailbox/2001")["quota"]
    assert [] == wire.a.spool.waiting()


def test_what_stays_unanswered_leaves_after_longer_and_longer(wire, box):
    """Each time the wait is doubled, up to an hour, less a part that is left to chance; an hour is the most."""
    wire.desk().set_mailbox(box, {"quota": 5})
    waits = []
    for _ in range(12):
        wire.send("primary")
        wire.lose()
        waits.append(wire.a.outbox.next_resend())
        wire.clock.advance(waits[-1] - 0.01)
        assert [] == wire.send("primary")
        wire.clock.advance(0.02)
    first = wire.config.sync.resend
    for times, wait in enumerate(waits):
        whole = min(3600.0, first * 2**times)
        assert 0.75 * whole <= wait <= whole
    wire.in_step()


def test_a_peer_that_is_heard_again_gets_at_once_what_left_in_vain(wire, box):
    """A relay took the mails of hours while the peer was away: its first sign brings them again without the long wait."""
    wire.desk().set_mailbox(box, {"quota": 5})
    for _ in range(8):
        wire.send("primary", always=True)
        wire.lose()
        wire.clock.advance(3600)
    wire.send("primary", always=True)
    wire.lose()
    assert [] == wire.send("primary")
    (challenge,) = wire.send("primary", always=True)
    assert [] == read(wire, challenge).records
    wire.deliver()
    wire.send("secondary", always=True)
    wire.deliver()
    assert ["mailbox/2001"] == [record["key"] for mail in mails(wire) for record in mail.records]


def test_a_peer_with_a_new_index_is_offered_everything_at_once(wire, box):
    """What left to the former one a moment ago does not wait for `sync.resend`."""
    wire.desk().set_mailbox(box, {"quota": 5})
    wire.send("primary")
    wire.lose()
    wire.b.close()
    for path in (wire.root("secondary") / ".vmctl").glob("index.db*"):
        path.unlink()
    wire.open("secondary")
    wire.send("secondary", always=True)
    wire.deliver()
    assert "mailbox/2001" in [record["key"] for mail in mails(wire) for record in mail.records]


def test_the_recording_that_lost_is_asked_for_and_acknowledged_with_its_conflict(narrow, recording, monkeypatch):
    """A conflict has no file; its recording is asked for all the same, and it is not acknowledged before that is here."""
    narrow.desk().create_mailbox("2001", {})
    narrow.in_step()
    lost = recording(frames=60_000)
    narrow.desk("primary").set_greeting("2001", "busy", lost)
    narrow.clock.advance(1)
    narrow.desk("secondary").set_greeting("2001", "busy", recording())
    with monkeypatch.context() as patch:
        patch.setattr(type(narrow.b.inbox), "_sound", lambda *_: None)  # as if every mail with one had been lost
        for _ in range(2):
            narrow.send("primary")
            narrow.deliver()
            narrow.send("secondary")
            narrow.deliver()
    (conflict,) = narrow.b.index.entries("kind = 'conflict'")
    sha256 = conflict.record.document["audio"]["sha256"]
    assert hashlib.sha256(lost.read_bytes()).hexdigest() == sha256
    said = []
    for _ in range(3):
        said += mails(narrow, "secondary", always=True)
        narrow.under_way = []
        narrow.clock.advance(2.5)
    assert conflict.record.key not in [ack[0] for mail in said for ack in mail.status["acks"]]
    assert sha256 in [want["sha256"] for mail in said for want in mail.status["wants"]["audio"]]
    narrow.in_step()
    for replica in narrow.servers.values():
        found = replica.store.root / replica.recordings.find(sha256)
        assert lost.read_bytes() == found.read_bytes()


def test_a_recording_that_goes_before_it_is_acknowledged_is_not(wire, recording):
    """Who acknowledges it says that it is here: it is asked for again, not counted as kept."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    ident = wire.desk().leave("2001", recording())
    wire.send("primary")
    wire.deliver()
    (wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav").unlink()
    words = [parcel.word for parcel in wire.b.outbox.parcels(always=True, anew=True)]
    assert [ack for word in words for ack in word.acks if ident in ack[0]] == []
    assert [want for word in words for want in word.wants["audio"]] != []
    wire.in_step()
    assert (wire.root("secondary") / f"mailboxes/2001/messages/{ident}.wav").exists()
