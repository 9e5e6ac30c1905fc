"""The mail servers of the tests are real ones, and do what mail servers do; the recipes of docs/mail-servers.md work."""

from __future__ import annotations

import email
import email.policy
import smtplib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml
from mta import place, recipes
from mta.chain import PASSWORD, USER, Office, address
from mta.clients import smtp_source, swaks
from mta.hop import hop
from mta.place import give_folder
from mta.recipes import recipe
from running import Net, until

from vmctl import config

if TYPE_CHECKING:
    from mta.exim import Exim
    from mta.postfix import Postfix

ONE, OTHER = "primary", "secondary"
_KEEP = """\
#!/bin/sh
# keeps each mail with its sender, and exits as it is told
umask 022
mine=$(mktemp {root}/kept/XXXXXXXX)
{{ echo "$* / SENDER=${{SENDER-unset}}"; cat; }} > "$mine"
mv "$mine" "$mine.eml"
exit $(cat {root}/code)
"""


class Kept(NamedTuple):
    """What a mail server gave to a program."""

    words: str
    raw: bytes


class Keeper:
    """A program in the place of vmctl that keeps what mail servers give to it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "keep"
        self._root = root
        give_folder(root / "kept")
        self.path.write_text(_KEEP.format(root=root))
        self.path.chmod(0o755)
        self.exits(0)

    def exits(self, code: int) -> None:
        """From now on it exits with this code."""
        (self._root / "code").write_text(f"{code}\n")

    def kept(self) -> list[Kept]:
        """What it was given, the oldest first."""
        paths = sorted((self._root / "kept").glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
        parts = [path.read_bytes().partition(b"\n") for path in paths]
        return [Kept(words.decode(), raw) for words, _, raw in parts]

    def wait(self, count: int = 1) -> list[Kept]:
        """What it was given, when that is so much."""
        return until(lambda: len(found := self.kept()) >= count and found, what=f"{count} mails")  # type: ignore[no-any-return]


@pytest.fixture
def keeper(office: Office) -> Keeper:
    """The program that they give mail to."""
    return Keeper(office.root)


def send(port: int, sender: str = address(ONE), recipient: str = address(OTHER), text: str = "some words") -> None:
    """Hand a mail to a server."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
        raw = f"From: <{sender}>\r\nTo: <{recipient}>\r\nMessage-ID: <{abs(hash(text))}@test.example>\r\n\r\n{text}\r\n"
        smtp.sendmail(sender, [recipient], raw.encode())


def to_keeper(office: Office, keeper: Keeper, server: str) -> Postfix:
    """A Postfix whose mail for vmctl goes to the program that keeps it."""
    made = office.postfix(server)
    office.to_program(made, server, keeper.path, office.root / "vmctl.yaml")
    return made


def test_postfix_gives_a_mail_to_a_program(office: Office, keeper: Keeper) -> None:
    """A mail comes out of Postfix at the program of the recipe: with LF, the sender as it was, also none, and as words."""
    server = to_keeper(office, keeper, OTHER)
    server.start()
    send(server.port, '"a\' b;$(id)"@primary.example')
    (one,) = keeper.wait()
    send(server.port, "")
    none = keeper.wait(2)[1]
    start = f"--config {office.root}/vmctl.yaml receive --server secondary --sender="
    assert one.words.partition(" / ")[0] == f'{start}"a\' b;$(id)"@primary.example'
    assert none.words.partition(" / ")[0] == start
    assert one.raw.endswith(b"\n\nsome words\n")
    assert b"\r" not in one.raw
    assert one.raw.startswith(b"Received: ")


def test_the_program_s_exit_code_decides(office: Office, keeper: Keeper) -> None:
    """75: the mail waits in the queue; 0 at a later try: it is gone from there."""
    server = to_keeper(office, keeper, OTHER)
    server.start()
    keeper.exits(75)
    send(server.port)
    # it is tried again each second, and has no reason then
    (mail,) = until(
        lambda: [mail for mail in server.queue() if "delay_reason" in mail["recipients"][0]], what="a deferred mail"
    )
    assert mail["sender"] == address(ONE)
    assert "temporary failure" in mail["recipients"][0]["delay_reason"]
    keeper.exits(0)
    server.flush()
    until(lambda: not server.queue(), what="an empty queue")
    assert {kept.raw.rpartition(b"\n\n")[2] for kept in keeper.wait(2)} == {b"some words\n"}


def test_a_dsn_comes_back(office: Office, keeper: Keeper) -> None:
    """65: Postfix returns the mail with a report of RFC 3464 from nobody, which reaches the sender's program."""
    server = to_keeper(office, keeper, OTHER)
    home = to_keeper(office, Keeper(give_folder(office.root / "home")), ONE)
    office.sends_to(server, home.port)
    server.start()
    home.start()
    keeper.exits(65)
    send(server.port)
    (report,) = Keeper.wait(_keeper_in(office.root / "home"))
    message = email.message_from_bytes(report.raw, policy=email.policy.default)
    assert "--sender= /" in report.words
    assert message.get_content_type() == "multipart/report"
    assert message["Auto-Submitted"] == "auto-replied"
    status = next(part for part in message.walk() if part.get_content_type() == "message/delivery-status")
    fields = status.get_payload()[1]  # type: ignore[index]
    assert (fields["Action"], fields["Status"]) == ("failed", "5.6.0")  # type: ignore[call-overload,index]
    assert server.queue() == []


def _keeper_in(root: Path) -> Keeper:
    made = Keeper.__new__(Keeper)
    made._root = root
    return made


def test_a_chain_with_a_password_and_tls(office: Office, keeper: Keeper) -> None:
    """Over STARTTLS, with a password, through two Postfixes of which the first checks the second's certificate."""
    first, second = office.postfix(ONE), to_keeper(office, keeper, OTHER)
    office.sends_safely_to(first, second)
    first.start()
    second.start()
    context = ssl.create_default_context(cafile=str(office.authority.path))
    with smtplib.SMTP("localhost", first.submission, timeout=20) as smtp:
        assert smtp.docmd("MAIL", "FROM:<a@b.example>")[0] == 530  # STARTTLS first
        smtp.starttls(context=context)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(USER, "another word")
        smtp.login(USER, PASSWORD)
        smtp.sendmail(address(ONE), [address(OTHER)], b"Subject: x\r\n\r\nthrough two\r\n")
    (kept,) = keeper.wait()
    assert kept.raw.count(b"Received: ") == 2


def test_a_queue_outlives_stop_and_kill(office: Office, keeper: Keeper) -> None:
    """A mail that waits is still there, and readable in a file, after a stop and after a kill; it arrives when that can be."""
    first, second = office.postfix(ONE), to_keeper(office, keeper, OTHER)
    office.sends_to(first, second.port)
    first.start()
    send(first.port, text="words in a queue")
    until(lambda: [mail for mail in first.queue() if mail["queue_name"] == "deferred"], what="a deferred mail")
    first.stop()
    assert any(b"words in a queue" in file for file in first.files())
    first.start()
    first.kill()
    assert any(b"words in a queue" in file for file in first.files())
    first.start()
    second.start()
    assert b"words in a queue" in keeper.wait()[0].raw
    until(lambda: not first.files(), what="an empty queue")


@pytest.mark.parametrize("server", ["postfix", "exim"])
def test_a_forward_runs_a_program(office: Office, keeper: Keeper, server: str) -> None:
    """The `.forward` of the recipe gives the mail to its program, and the sender in SENDER."""
    head = "~/.forward: a program"
    names = ((recipes.PROGRAM, str(keeper.path)), (recipes.CONFIG, "/none"))
    made: Postfix | Exim
    if server == "postfix":
        made = office.postfix(OTHER)
        office.by_forward(made, head, *names)
    else:
        made = office.exim_with_forward(OTHER, head, *names)
    made.start()
    send(made.port)
    (one,) = keeper.wait()
    send(made.port, "")
    none = keeper.wait(2)[1]
    assert one.words == f"--config /none receive --server secondary / SENDER={address(ONE)}"
    assert none.words in {
        f"--config /none receive --server secondary / SENDER={nobody}" for nobody in ("", "MAILER-DAEMON")
    }
    assert one.raw.startswith(b"From ")  # as in a mailbox file
    assert b"\n\nsome words\n" in one.raw


@pytest.mark.parametrize("server", ["postfix", "exim"])
def test_a_forward_fills_a_maildir(office: Office, server: str) -> None:
    """The `.forward` of the recipe puts each mail as a file into `new`, which belongs to the account."""
    maildir = give_folder(office.root / "var") / "mail"
    names = ((recipes.MAILDIR, str(maildir)),)
    made: Postfix | Exim
    if server == "postfix":
        made = office.postfix(OTHER)
        office.by_forward(made, "~/.forward: a Maildir", *names)
    else:
        made = office.exim_with_forward(OTHER, "~/.forward: a Maildir", *names)
    made.start()
    send(made.port)
    (path,) = until(lambda: list((maildir / "new").glob("*")), what="a mail")
    assert path.read_bytes().rstrip().endswith(b"some words")
    assert path.owner() == place.ACCOUNT


def test_a_greylisted_mail_arrives(office: Office, keeper: Keeper) -> None:
    """450 at the first two tries: Postfix keeps the mail and comes again."""
    first, second = office.postfix(ONE), to_keeper(office, keeper, OTHER)
    second.start()
    with hop(second.port) as between:
        between.greylist = 2
        office.sends_to(first, between.port)
        first.start()
        send(first.port)
        keeper.wait()
    assert first.log().count("450 4.2.0 greylisted") == 2


def test_what_is_held_refused_and_doubled(office: Office, keeper: Keeper) -> None:
    """What the hop between two servers is told to do to a mail, it does."""
    server = to_keeper(office, keeper, OTHER)
    server.start()
    with hop(server.port) as between:
        between.copies = 2
        between.changes = [lambda raw: raw.replace(b"some", b"other")]
        send(between.port)
        assert [kept.raw.rpartition(b"\n\n")[2] for kept in keeper.wait(2)] == [b"other words\n"] * 2
        between.reply = "554 5.7.1 no"
        with pytest.raises(smtplib.SMTPDataError):
            send(between.port)
        assert [mail.raw.endswith(b"some words\r\n") for mail in between.passed] == [True, True]


def test_eight_bits_are_downgraded(office: Office, keeper: Keeper) -> None:
    """Where the next server takes 7 bits only, Postfix itself encodes the parts that have 8."""
    first, second = office.postfix(ONE), to_keeper(office, keeper, OTHER)
    second.start()
    with hop(second.port) as between:
        office.sends_to(first, between.port)
        first.start()
        raw = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\ngrün\r\n"
        with smtplib.SMTP("127.0.0.1", first.port, timeout=20) as smtp:
            smtp.sendmail(address(ONE), [address(OTHER)], raw.encode(), mail_options=["BODY=8BITMIME"])
        (kept,) = keeper.wait()
    assert b"gr=C3=BCn" in kept.raw
    assert b"quoted-printable" in kept.raw


def test_a_mail_that_is_too_large(office: Office, keeper: Keeper) -> None:
    """Postfix says how large a mail may be, and refuses a larger one."""
    server = to_keeper(office, keeper, OTHER)
    server.main += "message_size_limit = 2000\n"
    server.start()
    with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as smtp:
        smtp.ehlo()
        assert smtp.esmtp_features["size"] == "2000"
        assert smtp.docmd("MAIL", "FROM:<a@b.example> SIZE=3000")[0] == 552


def test_exim_gives_a_mail_to_a_program(office: Office, keeper: Keeper) -> None:
    """A mail comes out of Exim at the program of the recipe, without a line before its headers; 75 keeps it in the spool."""
    server = office.exim(OTHER, keeper.path, office.root / "vmctl.yaml")
    server.start()
    send(server.port)
    keeper.wait()
    send(server.port, "")
    kept = keeper.wait(2)
    start = f"--config {office.root}/vmctl.yaml receive --server secondary / SENDER="
    assert [one.words for one in kept] == [f"{start}{address(ONE)}", start]
    assert all(one.raw.startswith(b"Received: ") and one.raw.endswith(b"some words\n") for one in kept)
    until(lambda: not server.queue(), what="an empty spool")
    keeper.exits(75)
    send(server.port, text="more words")
    keeper.wait(3)
    until(lambda: "defer" in server.log(), what="a deferred mail")
    assert len(server.queue()) == 1
    server.stop()
    assert any(b"more words" in file for file in server.files())
    keeper.exits(0)
    server.start()
    until(lambda: not server.queue(), what="an empty spool")


def test_exim_sends_through_a_smarthost_and_returns(office: Office, keeper: Keeper) -> None:
    """Exim hands over by STARTTLS to a Postfix whose certificate it checks; what is to be bounced comes back as a report."""
    far = to_keeper(office, Keeper(give_folder(office.root / "far")), OTHER)
    near = office.exim(ONE, keeper.path, office.root / "vmctl.yaml", to=far)
    office.sends_to(far, near.port)
    far.start()
    near.start()
    send(near.port)
    (kept,) = _keeper_in(office.root / "far").wait()
    assert kept.raw.endswith(b"some words\n")
    assert b"with ESMTPS" in kept.raw
    keeper.exits(65)
    send(near.port, address(OTHER), address(ONE), "to be returned")
    returned = _keeper_in(office.root / "far").wait(2)[1]
    message = email.message_from_bytes(returned.raw, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    assert "--sender= /" in returned.words


def test_foreign_clients(office: Office, keeper: Keeper) -> None:
    """Swaks and smtp-source talk to a server, and their words are read."""
    server = to_keeper(office, keeper, OTHER)
    server.start()
    replies = swaks(server.port, "--from", address(ONE), "--to", address(OTHER), "--body", "from swaks")
    assert [reply[:3] for reply in replies][:1] == ["220"]
    assert "354" in {reply[:3] for reply in replies}
    done = smtp_source(
        server.port, "-f", address(ONE), "-t", address(OTHER), "-m", "3", "-s", "2", "-M", "client.example"
    )
    assert done.returncode == 0, done.stderr
    assert len(keeper.wait(4)) == 4


def test_the_system_s_own_mail_is_left_alone(office: Office, keeper: Keeper) -> None:
    """Nothing of a private server is outside of its directory: neither config, queue, data nor log."""
    server = to_keeper(office, keeper, OTHER)
    folders = [line for line in server.main.splitlines() if "directory" in line or "log" in line]
    assert folders
    assert all(str(office.root) in line for line in folders)


def test_the_recipe_for_patience_is_a_config(tmp_path: Path) -> None:
    """Timers as the page has them for mail servers are within the bounds of vmctl.yaml, all together."""
    net = Net.make(tmp_path / "net")
    value = yaml.safe_load((net.root / "vmctl.yaml").read_text())
    for name, keys in yaml.safe_load(recipe("/etc/vmctl/vmctl.yaml: fewer heartbeats, and more patience")).items():
        value[name] = value.get(name, {}) | keys
    (net.root / "vmctl.yaml").write_text(yaml.safe_dump(value))
    assert config.load(net.root / "vmctl.yaml").sync.heartbeat == 60


def test_every_recipe_is_tried() -> None:
    """Each block of docs/mail-servers.md is asked for, by its first line, where these tests set something up."""
    here = Path(__file__).parent
    texts = "".join(path.read_text() for path in (*(here / "mta").glob("*.py"), Path(__file__)))
    assert {head for head in recipes.blocks() if head not in texts} == set()
