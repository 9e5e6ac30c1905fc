"""Nasty scenarios of servers that both serve, come back or are restored, and of mail that is not the peer's: the data.

Whoever serves, what callers left is on both servers in the end, and what was deleted is on neither. The numbers are those
of the list in docs/promises.md. The roles are the product's own; who may serve is tested with them, in `test_roles.py`.
"""

import contextlib
import email
import email.message
import email.policy
import random
import shutil

import pytest
from pair import Roles

from vmctl.errors import MailError, MailForged, MailGarbage, MailMisdirected, PeerUnreachable, RoleError

HOUR = 3600


@pytest.fixture
def pair(tmp_path, no_fsync):
    """Two servers in normal operation, with mailbox 2001."""
    made = Roles(tmp_path / "net")
    made.desk().create_mailbox("2001", {"name": "Ada"})
    for _ in range(4):
        made.turn()
    made.in_step()
    assert ["primary", "primary"] == [made.serving(name) for name in made.servers]
    yield made
    made.close()


def there(pair):
    """The messages that both servers hold; fails where one lacks some."""
    one, other = (pair.messages("2001", name) for name in pair.servers)
    assert one == other
    return set(one)


def test_scenario_7_a_restored_journal_says_that_it_serves(pair, recording, tmp_path):
    """Yesterday's snapshot of the server that served then: calls before the first contact and all since are kept."""
    old, gone = (pair.desk().leave("2001", recording()) for _ in range(2))
    pair.in_step()
    pair.a.close()
    shutil.copytree(pair.root(), tmp_path / "snapshot", symlinks=True)
    pair.open("primary")
    since = [pair.desk().leave("2001", recording())]
    pair.in_step()
    pair.split()
    since.append(pair.desk("secondary").leave("2001", recording()))
    pair.desk("secondary").delete_message("2001", gone)
    pair.settle()
    pair.a.close()
    shutil.rmtree(pair.root())
    shutil.copytree(tmp_path / "snapshot", pair.root(), symlinks=True)
    pair.open("primary")
    assert "primary" == pair.serving("primary")
    pair.start("primary")
    since.append(pair.desk().leave("2001", recording()))
    pair.desk().mark("2001", old, "saved")
    pair.settle()
    assert {old, *since} == there(pair)
    assert "saved" == pair.b.store.document(f"message/2001/{old}")["status"]


@pytest.mark.parametrize("seed", range(8))
def test_scenario_9_a_handover_among_lost_mails_and_crashes(pair, recording, seed):
    """Orders are given, mails lost and both servers killed at every turn: no call that was taken is missing."""
    chance = random.Random(seed)
    taken, gone = set(), set()
    for number in range(24):
        name = chance.choice(list(pair.servers))
        taken.add(pair.desk(name).leave("2001", recording()))
        if number % 8 == 2:
            away = pair.serving("secondary") == "secondary"
            with contextlib.suppress(PeerUnreachable, RoleError):
                pair.roles[chance.choice(list(pair.servers))].order(
                    "voicemail", "failback" if away else "failover", "ada"
                )
        if number % 5 == 4:
            box = sorted(set(pair.messages("2001", name)) - gone)
            gone.add(box[0])
            pair.desk(name).delete_message("2001", box[0])
        pair.turn(mail=chance.random() < 0.5)
        if chance.random() < 0.4:
            for each in pair.servers if chance.random() < 0.3 else (name,):
                pair.crash(each)
    pair.settle()
    assert taken - gone == there(pair)


def test_scenario_10_both_serve_for_a_day(pair, recording):
    """The old server is alive and cut off: a day of calls at both, then all of them at both."""
    common = [pair.desk().leave("2001", recording()) for _ in range(4)]
    pair.in_step()
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    pair.split()
    left = {name: [] for name in pair.servers}
    for hour in range(24):
        for name, idents in left.items():
            idents.append(pair.desk(name).leave("2001", recording()))
            if hour % 3 == 2:
                pair.desk(name).delete_message("2001", idents.pop(0))
        pair.clock.advance(HOUR)
        pair.turn(mail=False)
    pair.desk("primary").mark("2001", common[0], "saved")
    pair.desk("secondary").delete_message("2001", common[0])
    pair.desk("secondary").delete_message("2001", common[1])
    pair.desk("primary").set_mailbox("2001", {"name": "Home"})
    pair.desk("secondary").set_mailbox("2001", {"quota": 90})
    assert pair.both_serve()
    pair.settle()
    assert {common[0], *common[2:], *left["primary"], *left["secondary"]} == there(pair)
    assert {"name": "Home", "quota": 90, "service": "voicemail"} == pair.b.store.document("mailbox/2001")


def test_scenario_11_the_old_server_powers_up_while_mail_is_down(pair, recording):
    """Forced over while it was off, it knows nothing of that and takes calls: nothing of either is lost or undone."""
    old, gone = (pair.desk().leave("2001", recording()) for _ in range(2))
    pair.in_step()
    pair.a.close()
    pair.clock.advance(pair.config.failover.after + 1)
    pair.roles["secondary"].order("voicemail", "failover", "ada")
    assert pair.roles["secondary"].tick()
    at_backup = [pair.desk("secondary").leave("2001", recording()) for _ in range(3)]
    pair.desk("secondary").delete_message("2001", gone)
    pair.open("primary")
    pair.start("primary")
    assert pair.serving("primary") is None  # it has served, and waits for an answer
    at_home = [pair.desk().leave("2001", recording()) for _ in range(2)]
    pair.desk().mark("2001", gone, "old")
    for _ in range(3):
        pair.turn(mail=False)
    pair.settle()
    assert {old, *at_backup, *at_home} == there(pair)


def test_scenario_12_both_are_forced_in_the_same_minute(pair, recording):
    """Both were restarted with mail down; two people take the service to where each of them sits: both serve.

    Afterwards both hold everything.
    """
    for name in pair.servers:
        pair.crash(name)
    for name, verb in (("primary", "failback"), ("secondary", "failover")):
        assert "taken" == pair.roles[name].order("voicemail", verb, "ada")
    pair.clock.advance(pair.config.failover.start_wait + 1)
    taken = set()
    for _ in range(3):
        taken |= {pair.desk(name).leave("2001", recording()) for name in pair.servers}
        pair.turn(mail=False)
    assert pair.both_serve()
    pair.settle()
    assert taken == there(pair)


# 14: mail that is not what it seems


def bounced(raw):
    """A report of a relay that the mail could not be delivered, with the mail in it."""
    report = email.message.EmailMessage(email.policy.SMTP)
    report["From"], report["To"], report["Subject"] = "MAILER-DAEMON@relay", "vmctl@primary", "Undelivered Mail"
    report.set_content("I'm sorry to have to inform you that your message could not be delivered.")
    report.add_attachment(b"Final-Recipient: rfc822; x@y\r\nAction: failed\r\nStatus: 5.1.1\r\n", "message", "plain")
    report.add_attachment(email.message_from_bytes(raw, policy=email.policy.SMTP))
    return report.as_bytes()


def holiday(raw):
    """An automatic answer that quotes nothing."""
    answer = email.message.EmailMessage(email.policy.SMTP)
    answer["Auto-Submitted"], answer["Subject"] = "auto-replied", "Out of office"
    answer["In-Reply-To"] = email.message_from_bytes(raw)["Message-ID"]
    answer.set_content("I am away until Monday.")
    return answer.as_bytes()


def listed(raw):
    """The mail as a mailing list passes it on: another subject, and a footer."""
    mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
    mail.replace_header("Subject", f"[all] {mail['Subject']}")
    mail["List-Id"] = "<all.example.org>"
    mail.attach(email.message_from_string("Content-Type: text/plain\n\nTo unsubscribe ...\n"))
    return mail.as_bytes()


def altered(raw):
    """The mail with another word in what it says of the roles, under the old signature."""
    mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
    part = next(part for part in mail.walk() if part.get_filename() == "changes.json")
    text = part.get_payload(decode=True).decode()
    assert '"serving":"primary"' in text.replace(" ", "")
    part.set_content(text.replace("primary", "secondary").encode(), "application", "json", filename="changes.json")
    return mail.as_bytes()


def state(pair, name="secondary"):
    """What a server holds and believes: files, digest, and when it heard the peer."""
    root = pair.root(name)
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".vmctl" not in path.parts}
    replica = pair.servers[name]
    return files, replica.index.digest, replica.index.note("heard"), replica.index.note("peer"), pair.serving(name)


@pytest.mark.parametrize("made", [bounced, holiday, altered])
def test_scenario_14_mail_that_is_not_the_peers_changes_nothing(pair, recording, made):
    """Reports, automatic answers and forged words are refused for good, and not even heard."""
    pair.desk().leave("2001", recording())
    raw = pair.send("primary", always=True)[0]
    pair.lose()
    before = state(pair)
    with pytest.raises((MailGarbage, MailForged, MailMisdirected)) as caught:
        pair.b.receive(made(raw))
    assert caught.value.smtp_reply.startswith("55")
    assert [] == pair.b.spool.waiting()
    pair.b.take()
    assert before == state(pair)
    pair.settle()


def test_scenario_14_our_own_mail_come_back_changes_nothing(pair, recording):
    """A report or a loop brings this server its own mail: it is refused, and acknowledges nothing."""
    ident = pair.desk().leave("2001", recording())
    raw = pair.send("primary", always=True)[0]
    pair.lose()
    for mail in (raw, bounced(raw), listed(raw)):
        with pytest.raises((MailGarbage, MailMisdirected, MailForged)):
            pair.a.receive(mail)
    assert pair.a.index.get(f"message/2001/{ident}").pending
    pair.settle()
    assert {ident} == there(pair)


def test_scenario_14_a_mailing_list_is_refused_or_harmless(pair, recording):
    """What a list adds is not signed and never read: the mail is the peer's or is refused, once and once again."""
    ident = pair.desk().leave("2001", recording())
    mails = pair.send("primary", always=True)
    pair.lose()
    for _ in range(2):
        for raw in mails:
            try:
                pair.b.receive(listed(raw))
            except MailError as error:
                assert error.smtp_reply.startswith("55")  # noqa: PT017 - either will do
        pair.b.take()
        assert set(pair.messages("2001", "secondary")) <= {ident}
    pair.settle()
    assert {ident} == there(pair)


def test_scenario_14_an_old_mail_of_the_peer_played_again_undoes_nothing(pair, recording):
    """Everything that the peer ever said, signed as it was, a day later and in any order: no change is undone."""
    kept, gone = (pair.desk().leave("2001", recording()) for _ in range(2))
    record = pair.send("primary", always=True, anew=True)
    pair.deliver()
    pair.in_step()
    pair.desk().mark("2001", kept, "saved")
    pair.desk().delete_message("2001", gone)
    pair.desk().set_mailbox("2001", {"name": "Eve"})
    record += pair.send("primary", always=True)
    pair.deliver()
    pair.settle()
    pair.clock.advance(24 * HOUR)
    files, digest, heard, peer, serving = state(pair)
    for order in (record, record[::-1], record * 2):
        for raw in order:
            pair.b.receive(raw)
        pair.b.take()
        pair.roles["secondary"].tick(automatic=False)
        assert (files, digest, heard, serving) == (*state(pair)[:3], state(pair)[4])
        assert peer == state(pair)[3], "an old word was taken for the peer's newest"
    pair.settle()
    assert {kept} == there(pair)
    assert 0 == pair.b.index.count("kind = 'conflict'")


def test_scenario_14_the_mail_of_another_pair_changes_nothing(pair, recording, tmp_path, no_fsync):
    """Another network of the same names, even with the same keys, is not this one."""
    for path in pair.directory.joinpath("keys").iterdir():
        (tmp_path / "keys").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "keys")
    other = Roles(tmp_path / "other")
    try:
        other.desk().create_mailbox("2002", {"name": "Eve"})
        raw = other.send("primary", always=True)[0]
        before = state(pair)
        with pytest.raises((MailForged, MailMisdirected)):
            pair.b.receive(raw)
        assert before == state(pair)
    finally:
        other.close()
