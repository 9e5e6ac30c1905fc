"""Mails that a server puts off each time (4xx): what goes around them, what is tried again, and what is named."""

import random

import pytest
from running import Net, judging, wav
from test_parked import parked, read, spam
from wire import OffsetClock

from vmctl.at_work import ROUND
from vmctl.deferrals import LONG, TIMES, Deferrals
from vmctl.errors import MailPutOff, PeerUnreachable
from vmctl.post import Post
from vmctl.refusals import BARE, Version

HOUR = 3600.0
LATER = "451 4.7.1 try again later"


def things(count):
    """So many records."""
    return tuple(Version(f"message/2001/{number:03}", "v") for number in range(count))


def find(deferrals, late, group, *, hours):
    """Send mails for so long, the suspects' and bare ones only; gives what was named, what was taken, and how many went."""
    named, taken, mails, now = set(), set(), 1, 0.0
    deferrals.put_off(group, now)
    while now < hours * HOUR:
        if deferrals.asks_for_a_bare_mail:
            named |= {thing for thing, _ in deferrals.taken(BARE, now, now)}
        elif (due := deferrals.next(now)) is None:
            now += 1.0
            continue
        elif set(due) & late:
            deferrals.put_off(due, now)
        else:
            deferrals.taken(due, now, now)
            taken |= set(due)
        mails += 1
    return named, taken, mails


def test_those_that_are_put_off_are_found_and_all_others_go():
    """Of a mail that is put off each time it is found out what it was, and each other thing is taken, in few mails."""
    chance = random.Random(5)
    for count in (1, 2, 7, 40, 500):
        group = things(count)
        late = set(chance.sample(group, 1 + count // 40))
        named, taken, mails = find(Deferrals(), late, group, hours=0.2)
        assert (late, set(group) - late) == (named, taken)
        assert mails < 60 * len(late)


def test_nothing_is_divided_before_it_was_put_off_for_a_while():
    """What is put off once or twice, or often within a moment, is tried again as it was."""
    deferrals, group = Deferrals(), things(4)
    deferrals.put_off(group, 0.0)
    for _ in range(TIMES + 2):
        assert [] == deferrals.taken(BARE, 0.0, 0.0)
        assert group == deferrals.next(HOUR)
        deferrals.put_off(group, LONG / 2)
    deferrals.taken(BARE, 0.0, LONG)
    assert group[:2] == deferrals.next(HOUR)


def test_a_server_that_puts_off_everything_accuses_nobody():
    """The mail after the first is a bare one, and so are all others until one is taken; then all is tried as it was."""
    deferrals, group = Deferrals(), things(8)
    assert deferrals.put_off(group, 0.0)
    for turn in range(100):
        assert deferrals.asks_for_a_bare_mail
        assert not deferrals.put_off(BARE, 10.0 * turn)
    assert [] == deferrals.taken(BARE, 1000.0, 1000.0)
    assert (False, group) == (deferrals.asks_for_a_bare_mail, deferrals.next(1000.0))
    assert [] == deferrals.taken(group, 1000.0, 1000.0)
    assert (None, set()) == (deferrals.next(HOUR), deferrals.suspects())


def test_what_stands_alone_is_tried_for_ever_up_to_an_hour_apart():
    """In a day it is tried some thirty times and in the next day about as often as there are hours."""
    deferrals, group = Deferrals(), things(1)
    _, _, first = find(deferrals, set(group), group, hours=24)
    deferrals.taken(BARE, 0.0, 0.0)
    tried = (first - 1) // 2
    assert 24 <= tried <= 24 / 0.75 + 10
    assert set(group) == deferrals.suspects() == deferrals.named()


def ship(wire, name="primary", refuse=lambda _mail: None, **how):
    """Hand over what a server has to say to a server that puts off what `refuse` says; the mails taken, and how many were not."""
    outbox = wire.servers[name].outbox
    taken, put_off = [], 0
    for parcel in outbox.parcels(**how):
        mail = read(wire, name, parcel)
        if (reply := refuse(mail)) is None:
            outbox.left(parcel)
            wire.under_way.append((wire.other(name), parcel.raw))
            taken.append(mail)
        else:
            put_off += 1
            if not outbox.put_off(parcel, reply):
                break
    return taken, put_off


def exchange(wire, refuse, seconds=300):
    """Both ship and take in for so long, with a heartbeat every ten seconds; how many mails of the primary were put off."""
    count = 0
    for _ in range(0, seconds, 10):
        count += ship(wire, refuse=refuse, always=True)[1]
        ship(wire, "secondary", always=True)
        wire.deliver()
        wire.clock.advance(10)
    return count


def holding(part):
    """Puts off every mail with a record whose key has this in it."""
    return lambda mail: "451 4.7.1 later" if any(part in record["key"] for record in mail.records) else None


@pytest.fixture
def box(wire):
    """Mailbox 2001, the same on both servers."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    return "2001"


def test_what_comes_later_goes_around_what_is_put_off(wire, box, recording):
    """A new message does not wait for one that was put off a moment ago."""
    first = wire.desk().leave(box, recording())
    ship(wire, refuse=holding(first), always=True)
    other = wire.desk().leave(box, recording())
    ship(wire, refuse=holding(first), always=True)
    wire.deliver()
    assert [other] == wire.messages(box, "secondary")


def test_of_many_one_is_put_off_for_ever_and_all_others_arrive(wire, box, recording):
    """It is named as put off, with the server's words; it holds no gate, and arrives when the server takes it."""
    idents = [wire.desk().leave(box, recording()) for _ in range(30)]
    late = idents[11]
    exchange(wire, holding(late))
    (one,) = parked(wire)
    assert (f"message/2001/{late}", "451 4.7.1 later", True) == (one["record"], one["reply"], one["put_off"])
    assert sorted(set(idents) - {late}) == sorted(wire.messages(box, "secondary"))
    assert (1, (0, None)) == (wire.a.index.pending_count(), wire.a.index.shelf.owed())
    exchange(wire, holding(late))
    assert one["tries"] < parked(wire)[0]["tries"]
    wire.clock.advance(HOUR)
    exchange(wire, lambda _mail: None, seconds=30)
    assert ([], sorted(idents)) == (parked(wire), sorted(wire.messages(box, "secondary")))
    wire.in_step()


def test_a_server_that_puts_off_everything_is_the_link(wire, box, recording):
    """Nothing is divided or named, there is one try for each heartbeat, and all arrives when it takes mail again."""
    idents = [wire.desk().leave(box, recording()) for _ in range(5)]
    turns = 60
    assert exchange(wire, lambda _mail: "452 4.3.1 full", seconds=10 * turns) <= turns + 1
    assert [] == parked(wire)
    (_, mail), _ = ship(wire, always=True)
    assert 5 == len(mail.records)
    wire.deliver()
    assert sorted(idents) == sorted(wire.messages(box, "secondary"))
    wire.in_step()


def test_a_piece_that_is_put_off_stands_alone_in_the_end(narrow, recording):
    """All other pieces of the recording arrive, and the message is whole when the piece is taken."""
    narrow.desk().create_mailbox("2001", {})
    source = recording(frames=60_000)
    ident = narrow.desk().leave("2001", source)
    narrow.desk().leave("2001", recording())
    at = 50_000

    exchange(narrow, spam(at, "451 4.7.1 looks like spam"))
    (one,) = parked(narrow)
    start, stop = one["bytes"]
    assert (f"message/2001/{ident}", True) == (one["record"], one["put_off"])
    assert start <= at < stop
    (sha256,) = narrow.b.index.parts.recordings()
    assert [(0, start), (stop, source.stat().st_size)] == narrow.b.index.parts.of(sha256)
    narrow.clock.advance(HOUR)
    exchange(narrow, lambda _mail: None, seconds=30)
    assert [] == parked(narrow)
    narrow.in_step()


def test_what_was_found_out_outlives_the_process(wire, box, recording):
    """Who syncs by cron is a new process each time: it is found out all the same, and tried again by the next one."""
    idents = [wire.desk().leave(box, recording()) for _ in range(4)]
    for _ in range(12):
        exchange(wire, holding(idents[2]), seconds=10)
        wire.crash("primary")
        wire.clock.advance(50)
    assert [f"message/2001/{idents[2]}"] == [one["record"] for one in parked(wire)]
    assert sorted({*idents} - {idents[2]}) == sorted(wire.messages(box, "secondary"))
    exchange(wire, lambda _mail: None, seconds=10)
    assert [] == parked(wire)
    wire.in_step()


def test_a_person_may_hurry_it_or_give_it_up(wire, box, recording):
    """`retry` sends it at once, `drop` never again; a new version goes by itself."""
    ident = wire.desk().leave(box, recording())
    exchange(wire, holding(ident))
    wire.a.lot.retry(parked(wire)[0]["id"])
    (mail, *_), _ = ship(wire, always=True)
    assert [f"message/2001/{ident}"] == [record["key"] for record in mail.records]
    wire.lose()
    wire.clock.advance(HOUR)
    exchange(wire, holding(ident))
    wire.a.lot.drop(parked(wire)[0]["id"])
    wire.clock.advance(3 * HOUR)
    assert [] == [record for mail in ship(wire, always=True, anew=True)[0] for record in mail.records]
    wire.desk().mark(box, ident, "saved")
    wire.in_step()
    assert [] == parked(wire)


def turns(post, clock, seconds):
    """A heartbeat every ten seconds, as a daemon has it; the errors that ended one."""
    errors = []
    for _ in range(0, seconds, 10):
        try:
            for parcel in post.parcels(always=True):
                post.deliver(parcel)
        except PeerUnreachable as error:
            errors.append(error)
        clock.advance(10)
    return errors


def test_a_filter_that_puts_one_message_off_holds_up_nothing_else(tmp_path):
    """Over real SMTP: the other messages arrive, the one is named in `vmctl status` with the filter's words, and no link is blamed."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    idents = [net.leave("primary", "2001", wav(tmp_path / f"{level}.wav", level=level)) for level in range(4)]
    clock = OffsetClock()
    with judging(net, LATER) as judge, Post(net.config, "primary", clock, role=ROUND, wake=lambda: None) as post:
        judge.unwanted = idents[1]
        post.connect()
        assert [] == turns(post, clock, 200)
        assert {f"message/2001/{ident}" for ident in idents if ident != idents[1]} <= set(judge.taken)
        one = net.status()["servers"]["primary"]
        assert (None, [f"message/2001/{idents[1]}"]) == (one["link"], [each["record"] for each in one["parked"]])
        assert LATER in one["parked"][0]["reply"]
        assert f"put off: message/2001/{idents[1]}" in net.do("status")
        judge.unwanted = "none such"
        clock.advance(HOUR)
        turns(post, clock, 10)
        assert f"message/2001/{idents[1]}" in judge.taken
        assert [] == net.status()["servers"]["primary"]["parked"]


def test_a_server_that_puts_everything_off_gets_one_mail_for_each_heartbeat(tmp_path):
    """Over real SMTP: greylisting is the fault of the link, the status says so, and nothing is accused or divided."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    clock = OffsetClock()
    with judging(net, LATER) as judge, Post(net.config, "primary", clock, role=ROUND, wake=lambda: None) as post:
        judge.everything = True
        post.connect()
        errors = turns(post, clock, 300)
        assert (30, True) == (len(errors), all(isinstance(error, MailPutOff) for error in errors))
        assert judge.mails <= len(errors) + 1
        one = net.status()["servers"]["primary"]
        assert ([], False) == (one["parked"], one["link"]["refused"])
        judge.everything = False
        assert [] == turns(post, clock, 10)
        assert "mailbox/2001" in judge.taken
