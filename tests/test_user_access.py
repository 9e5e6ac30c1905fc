"""Who may change a mailbox where: its user at the server that serves it, an operator everywhere, a caller always."""

from __future__ import annotations

import inspect
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from running import Commands, Net, until, wav

from vmctl import network
from vmctl.clock import Clock
from vmctl.config import load
from vmctl.desk import Desk
from vmctl.desk_mailboxes import MailboxDesk
from vmctl.durable import lock_holder
from vmctl.errors import JournalBroken, NobodyServes, WrongServer
from vmctl.failover import Failover
from vmctl.replica import Replica

if TYPE_CHECKING:
    from pathlib import Path

WRONG, NOBODY = WrongServer.exit_code, NobodyServes.exit_code
AT_SECONDARY = ("--server", "secondary")


class Office(Commands):
    """Commands in a network that the primary serves, in step, with a mailbox and two messages, one of them deleted."""

    def __init__(self, directory: Path, audio: Path) -> None:
        super().__init__(directory)
        self.audio = audio
        self("mailbox", "create", "2001", "--name", "Ada")
        self.ident, self.gone = (self.leave() for _ in range(2))
        self("greeting", "set", "2001", "busy", "--audio", str(audio))
        self("message", "delete", "2001", self.gone)
        self("sync")

    def leave(self, *words: str) -> str:
        """Leave a message; its id."""
        return str(self("message", "leave", "2001", "--audio", str(self.audio), *words).stdout.strip())

    def words(self, text: str) -> list[str]:
        """The words of a command about this mailbox."""
        return text.format(id=self.ident, gone=self.gone, audio=self.audio, out=self.directory / "out.wav").split()

    def files(self, server: str = "secondary") -> dict[str, bytes]:
        """What lies in the mailbox at a server."""
        folder = self.directory / server / "mailboxes/2001"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a network, made once."""
    root = tmp_path_factory.mktemp("office")
    network.make(root / "net", settings={"scan.settle": "10ms"})
    office = Office(root / "net", wav(root / "hello.wav"))
    (root / "idents").write_text(f"{office.ident} {office.gone}")
    return root


@pytest.fixture
def office(made: Path, tmp_path: Path) -> Office:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "root")
    office = Office.__new__(Office)
    Commands.__init__(office, tmp_path / "root/net")
    office.audio = tmp_path / "root/hello.wav"
    office.ident, office.gone = (tmp_path / "root/idents").read_text().split()
    return office


CHANGES = [
    "message mark 2001 {id} --as saved",
    "message delete 2001 {id}",
    "message restore 2001 {gone}",
    "greeting set 2001 unavailable --audio {audio}",
    "greeting delete 2001 busy",
    "mailbox set 2001 --greeting busy",
    "mailbox set 2001 --pin-stdin",
]
READS = [
    "message list 2001",
    "message list 2001 --deleted",
    "message show 2001 {id}",
    "message export 2001 {id} {out}",
    "greeting list 2001",
    "greeting export 2001 busy {out}",
    "mailbox show 2001",
]


@pytest.mark.parametrize("text", CHANGES)
def test_a_user_is_told_the_right_server(office: Office, text: str) -> None:
    """On the server that does not serve the mailbox nothing changes, and the error names the one that does."""
    before = office.files()
    done = office(*office.words(text), "--user", "--json", *AT_SECONDARY, code=WRONG, stdin="4711\n")
    value = json.loads(done.stderr)
    address = load(office.directory / "vmctl.yaml").servers["primary"].address
    assert ("WrongServer", "primary", str(address)) == (value["error"], value["server"], value["address"])
    assert ("voicemail", "") == (value["service"], done.stdout)
    words = office(*office.words(text), "--user", *AT_SECONDARY, code=WRONG, stdin="4711\n").stderr
    assert "served by primary" in words
    assert str(address) in words
    assert before == office.files()


@pytest.mark.parametrize("text", CHANGES)
def test_a_user_at_the_right_server_is_let_in(office: Office, text: str) -> None:
    """Where the mailbox is served the command does what it does without --user, and says nothing of servers."""
    before = office.files("primary")
    done = office(*office.words(text), "--user", stdin="4711\n")
    assert "serve" not in done.stderr
    assert before != office.files("primary")


@pytest.mark.parametrize("text", CHANGES)
def test_an_operator_goes_through_with_one_line(office: Office, text: str) -> None:
    """Without --user the other server takes the change, too; one line on stderr says that it does not serve."""
    before = office.files()
    done = office(*office.words(text), *AT_SECONDARY, stdin="4711\n")
    line = "secondary does not serve mailbox 2001 now: primary does"
    assert 1 == done.stderr.count(line)
    assert before != office.files()
    assert line not in office(*office.words("mailbox set 2001 --name Grace")).stderr


@pytest.mark.parametrize("server", ["primary", "secondary"])
@pytest.mark.parametrize("text", READS)
def test_reading_is_refused_nowhere(office: Office, text: str, server: str) -> None:
    """Every reading command takes --user, at both servers, and prints what it prints without."""
    words = office.words(text)
    plain = office(*words, "--server", server)
    (office.directory / "out.wav").unlink(missing_ok=True)
    asked = office(*words, "--user", "--server", server)
    assert (plain.stdout, plain.stderr) == (asked.stdout, asked.stderr)


@pytest.mark.parametrize("words", [(), ("--user",)])
def test_a_recording_is_taken_wherever_it_lands(office: Office, words: tuple[str, ...]) -> None:
    """`message leave` succeeds at the server that does not serve, with and without --user, and says nothing of that."""
    done = office("message", "leave", "2001", "--audio", str(office.audio), *words, *AT_SECONDARY)
    assert "" == done.stderr
    assert f"messages/{done.stdout.strip()}.json" in office.files()


def starting(office: Office) -> None:
    """Both servers were started a moment ago, and nobody serves yet."""
    for name in ("primary", "secondary"):
        with Replica.open(load(office.directory / "vmctl.yaml"), name, Clock()) as replica:
            Failover(replica).start()


def test_nobody_serves(office: Office) -> None:
    """A user is refused with a code of its own, an operator is told, a caller's recording is taken."""
    starting(office)
    done = office("message", "mark", "2001", office.ident, "--as", "old", "--user", "--json", code=NOBODY)
    assert ("NobodyServes", True) == ((value := json.loads(done.stderr))["error"], value["retry"])
    assert "nobody does" in office("message", "mark", "2001", office.ident, "--as", "old").stderr
    office.leave("--user")


def test_a_network_that_nobody_has_served_yet(tmp_path: Path) -> None:
    """Before the first start an operator sets up mailboxes and hears nothing of servers; a user is not let in."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    vmctl = Commands(tmp_path / "net")
    assert "serve" not in vmctl("mailbox", "create", "2001", "--name", "Ada").stderr
    vmctl("mailbox", "set", "2001", "--name", "Grace", "--user", code=NOBODY)


def test_a_new_mailbox_is_asked_for_by_its_own_service(tmp_path: Path) -> None:
    """Made at the secondary for the secondary's service it earns no line; for the primary's it does."""
    network.make(tmp_path / "net", mode="dual-active", settings={"scan.settle": "10ms"})
    vmctl = Commands(tmp_path / "net")
    vmctl("sync")
    assert "serve" not in vmctl("mailbox", "create", "3001", "--name", "Ada", *AT_SECONDARY).stderr
    words = ("--name", "Ada", "--service", "primary", *AT_SECONDARY)
    assert "does not serve mailbox 3002" in vmctl("mailbox", "create", "3002", *words).stderr
    vmctl("mailbox", "set", "3001", "--name", "Eve", "--user", *AT_SECONDARY)
    vmctl("sync")
    vmctl("mailbox", "set", "3001", "--name", "Eve", "--user", code=WRONG)


def test_with_an_arbiter_the_permit_counts(tmp_path: Path) -> None:
    """A server whose permit is over does not serve its users, whatever its journal says; a new one lets them in."""
    network.make(tmp_path / "net", settings={"scan.settle": "10ms"})
    vmctl = Commands(tmp_path / "net")
    vmctl("mailbox", "create", "2001", "--name", "Ada")
    vmctl("sync")
    text = (tmp_path / "net/vmctl.yaml").read_text()
    (tmp_path / "net/vmctl.yaml").write_text(text.replace("endpoints: []", "endpoints: ['http://127.0.0.1:9']"))
    change = ("mailbox", "set", "2001", "--name", "Grace", "--user")
    vmctl(*change, code=NOBODY)
    clock = Clock()
    for until_, code in ((clock.steady() + 600, 0), (clock.steady() - 1, NOBODY)):
        with Replica.open(load(tmp_path / "net/vmctl.yaml"), "primary", clock) as replica, replica.index.transaction():
            replica.index.set_note("permits", {"voicemail": {"until": until_, "boot": clock.boot()}})
        vmctl(*change, code=code)


def test_a_damaged_journal_lets_no_user_in(office: Office) -> None:
    """Nobody can say who serves: a user is refused with that, an operator goes on."""
    for name in ("primary", "secondary"):
        journal = office.directory / name / ".vmctl/journal.jsonl"
        journal.write_text(journal.read_text().replace('"normal"', '"resilience"'))
        with Replica.open(load(office.directory / "vmctl.yaml"), name, Clock()) as replica, replica.index.transaction():
            replica.contact.forget()
    office("mailbox", "set", "2001", "--name", "Grace", "--user", code=JournalBroken.exit_code)
    office("mailbox", "set", "2001", "--name", "Grace")


# One place


class Refused(Exception):
    """What the check below raises."""


class Doorkeeper:
    """A check that refuses everybody, and sees whether the store is held meanwhile."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.held: list[bool] = []

    def check(self, _extension: str, _service: str) -> None:
        self.held.append(lock_holder(self.replica.store.state / "lock") is not None)
        raise Refused


def _changing() -> list[str]:
    found = []
    for name, method in inspect.getmembers(MailboxDesk, inspect.isfunction):
        words = list(inspect.signature(method).parameters)
        if not name.startswith("_") and len(words) > 1 and words[1] in {"extension", "old"}:
            found.append(name)
    return found


@pytest.mark.parametrize("name", _changing())
def test_everything_that_changes_a_mailbox_is_checked_under_the_lock(office: Office, name: str) -> None:
    """No method of the desks that is about a mailbox gets by, but for `leave`; the roles cannot move between check and change."""
    with Replica.open(load(office.directory / "vmctl.yaml"), "primary", Clock()) as replica:
        keeper: Any = Doorkeeper(replica)
        others: dict[str, Any] = {
            "document": {"name": "Ada"}, "changes": {"name": "Eve"}, "source": office.audio, "ident": office.ident,
            "status": "old", "name": "busy", "new": "4711",
        }  # fmt: skip
        method = getattr(MailboxDesk(replica, keeper), name)
        asked = list(inspect.signature(method).parameters.values())[1:]
        words = [
            others[each.name] for each in asked if each.default is each.empty and each.kind is not each.KEYWORD_ONLY
        ]
        extension = "2009" if name == "create_mailbox" else "2001"
        if name == "leave":
            method(extension, *words)
            assert [] == keeper.held
            return
        before = replica.index.last_number
        with pytest.raises(Refused):
            method(extension, *words)
        assert [True] == keeper.held
        assert before == replica.index.last_number


def test_who_gives_no_check_is_not_checked(office: Office) -> None:
    """The server's own work, such as housekeeping, is nobody's access."""
    with Replica.open(load(office.directory / "vmctl.yaml"), "secondary", Clock()) as replica:
        Desk(replica).mark("2001", office.ident, "old")


# With daemons


def test_users_follow_the_role(tmp_path: Path) -> None:
    """After a failover the secondary lets users in, and the primary, back as standby by order, sends them there."""
    net = Net.make(tmp_path / "net")
    net.do("mailbox", "create", "2001", "--name", "Ada", "--server", "primary")
    change = ("mailbox", "set", "2001", "--name", "Grace", "--user", "--server")
    with net.daemon("primary"), net.daemon("secondary"):
        until(lambda: net.service()["state"] == "normal" and net.status()["in_step"], what="normal operation")
        assert (0, WRONG) == (net.run(*change, "primary").returncode, net.run(*change, "secondary").returncode)
        net.do("failover", "--server", "primary")
        until(lambda: net.moves("secondary")[-1] == "resilience", what="the role at the secondary")
        assert (WRONG, 0) == (net.run(*change, "primary").returncode, net.run(*change, "secondary").returncode)
