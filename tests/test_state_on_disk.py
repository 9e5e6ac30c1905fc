"""docs/store.md tells the state on disk as it is: each entry under `.vmctl`, and the order in which files are written."""

import re
from pathlib import Path

import pytest

from vmctl import durable, reindex
from vmctl.failover import Failover
from vmctl.index import Index
from vmctl.journal import Journal

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/store.md").read_text("utf-8")
ACTS = (
    "write",
    "create",
    "exchange",
    "move",
    "copy",
    "write_at",
    "append",
    "remove",
    "remove_all",
    "keep",
    "stage",
    "take_place",
    "replace",
    "discard",
    "keep_open",
    "keep_file",
    "keep_names",
    "keep_disk",
    "link",
)
MANY = {"keep": "sync", "remove_all": "remove"}  # acts on any number of files
WORDS = dict.fromkeys(("keep_open", "keep_file", "keep_names", "keep_disk"), "sync")
PLACES = (
    (r"\.vmctl/spool/\d+-[0-9a-z]+\.eml", ".vmctl/spool/MAIL"),
    (r"\.vmctl/replaced/.+", ".vmctl/replaced/FILE"),
    (r"\.vmctl/placing/\.vmctl-tmp-\w+", "the new file"),
    (r"\.vmctl/placing/.+", ".vmctl/placing/FILE"),
    (r"(?<=journal-)\d+", "N"),
    (r"[0-9a-f]{64}", "SHA256"),
    (r"(?<=messages/)[\w-]+(?=\.)", "ID"),
    (r"/\S+/recording-\d+\.wav", "/the/recording"),
)


def place(path):
    """A path with a word for what differs each time."""
    for pattern, word in PLACES:
        path = re.sub(pattern, word, path)
    return path


@pytest.fixture
def steps(wire, monkeypatch):
    """What a server writes, in order: each change of a file, and each commit of the index."""
    wire.desk().create_mailbox("2001", {"name": "Ada"})
    wire.in_step()
    told = []

    def tell(line):
        if line not in told[-1:]:
            told.append(line)

    def inside(path):
        return place(str(path).removeprefix(f"{wire.root('secondary')}/"))

    def watched(name, act):
        def take(*values, **words):
            paths = list(values[0]) if name in MANY else [one for one in values if isinstance(one, str | Path)]
            if name == "keep":
                paths = [values[1] / one for one in paths]
            if name == "stage":
                paths = [f"{values[0]}/FILE"]
            if name == "discard" and "/placing/" in str(paths[0]):
                paths = []  # a mark, or what has taken no place
            if any(str(path).startswith(str(wire.root("secondary"))) for path in paths):
                paths = [inside(path) for path in sorted(paths)] if name in MANY else list(map(inside, paths))
                word = MANY.get(name) or WORDS.get(name, name.replace("_", " "))
                tell(f"{word} {' -> '.join(paths)}")
            return act(*values, **words)

        return take

    run = Index._run

    def committed(index, query, *values):
        if index is wire.b.index and (
            query == "COMMIT" or (not index.in_transaction and query.startswith(("INSERT", "DELETE", "UPDATE")))
        ):
            tell("commit the index")
        return run(index, query, *values)

    for name in ACTS:
        monkeypatch.setattr(durable, name, watched(name, getattr(durable, name)))
    monkeypatch.setattr(Index, "_run", committed)
    return told


def block(heading):
    """The steps that the page tells under a heading."""
    section = PAGE.partition(f"#### {heading}\n")[2].partition("\n#")[0]
    return section.partition("```\n")[2].partition("```")[0].splitlines()


def sent(wire, act):
    """What the primary did is under way."""
    act(wire.desk())
    wire.send("primary")


def comes(wire, steps):
    """The mail arrives and is taken in."""
    steps.clear()
    wire.deliver(take=False)
    steps.append("say 250")
    wire.b.take()


def test_a_mail_with_a_new_message(wire, steps, recording):
    """The spool, the recording, the index, the spool again, then recording and document in their places."""
    sent(wire, lambda desk: desk.leave("2001", recording()))
    comes(wire, steps)
    assert block("A mail with a new message comes") == steps


def test_a_mail_with_an_edit_of_a_mailbox(wire, steps):
    """The index says what the file is about to be, the old file goes aside, the new one takes its place."""
    wire.desk().set_mailbox("2001", {"name": "Bob"})  # the first edit of all makes the folder for what is replaced
    wire.in_step()
    sent(wire, lambda desk: desk.set_mailbox("2001", {"name": "Eve"}))
    comes(wire, steps)
    assert block("A mail with an edit of a mailbox comes") == steps


def test_a_mail_with_a_deletion(wire, steps, recording):
    """What can be restored is put away before the message's document goes."""
    ident = wire.desk().leave("2001", recording())
    wire.in_step()
    sent(wire, lambda desk: desk.delete_message("2001", ident))
    comes(wire, steps)
    assert block("A mail with a deletion comes") == steps


def test_a_mail_with_a_deletion_of_a_callflow(wire, steps):
    """What tells a new index of the deletion is there before the file goes."""
    wire.desk().set_callflow("main", "greet: hello\n")
    wire.in_step()
    sent(wire, lambda desk: desk.delete_callflow("main"))
    comes(wire, steps)
    assert block("A mail with a deletion of a callflow comes") == steps


def test_a_message_is_left(wire, steps, recording):
    """The document is the last file, and the command returns after the commit."""
    steps.clear()
    wire.desk("secondary").leave("2001", recording())
    assert block("`vmctl message leave`") == steps


def test_an_edit_by_hand(wire, steps):
    """What a scan takes is durable before the index counts on it."""
    (wire.root("secondary") / "mailboxes/2001/mailbox.yaml").write_text("name: Eve\n")
    steps.clear()
    wire.scan("secondary")
    assert block("A scan finds an edit by hand") == steps


def test_a_mail_leaves(wire, steps):
    """The checkpoint and the challenge are durable before the mail that carries them leaves."""
    steps.clear()
    for _ in wire.b.outbox.parcels(always=True):
        steps.append("send the mail")
    assert block("A mail leaves") == steps


def test_a_role_moves(wire, steps):
    """The journal first: nothing acts on what is not in it."""
    roles = Failover(wire.b)
    roles.start()
    wire.clock.advance(wire.config.failover.start_wait + 1)
    assert "taken" == roles.order("voicemail", "failover", "ada")
    steps.clear()
    assert roles.tick()
    assert block("A role moves") == steps


def test_the_journal_goes_on_in_a_new_file(wire, steps):
    """The full file has its second name before another one takes its first."""
    book = Journal(wire.b.journal.path, 1000)
    while book.path.stat().st_size <= 1000:
        book.append("event", at=wire.clock.wall(), server="secondary", event="test")
    steps.clear()
    book.append("event", at=wire.clock.wall(), server="secondary", event="test")
    assert block("The journal goes on in a new file") == steps


def test_every_entry_is_told(wire, recording, monkeypatch):
    """Whatever appears under `.vmctl`, at any step of anything, has its row on the page; no row is of the past."""
    told = set(re.findall(r"`([\w./-]+)`", "\n".join(re.findall(r"^\| (`[^|]*`) \|", section(), re.MULTILINE))))
    seen = set()

    def look(root):
        state = root / ".vmctl"
        for path in state.rglob("*") if state.exists() else ():
            name = path.relative_to(state).as_posix()
            seen.add(f"{name.partition('/')[0]}/" if "/" in name or path.is_dir() else entry(name))

    def watched(act):
        def take(*values, **words):
            done = act(*values, **words)
            for root in (wire.root(), wire.root("secondary")):
                look(root)
            return done

        return take

    for name in ACTS:
        monkeypatch.setattr(durable, name, watched(getattr(durable, name)))
    desk = wire.desk()
    desk.create_mailbox("2001", {"name": "Ada"})
    ident = desk.leave("2001", recording())
    Failover(wire.a).start()
    with durable.lock(wire.root() / ".vmctl/serve.lock", timeout=0, what="it"):
        wire.in_step()
    wire.desk("secondary").set_mailbox("2001", {"name": "Eve"})
    wire.desk("secondary").delete_message("2001", ident)
    wire.in_step()
    (wire.root() / ".vmctl/spool/0-garbage.eml").write_bytes(b"garbage")
    wire.a.take()
    with (wire.root() / ".vmctl/journal.jsonl").open("ab") as journal:
        journal.write(b"{")
    wire.a.journal.append("event", at=wire.clock.wall(), server="primary", event="test")
    book = Journal(wire.a.journal.path, 1000)
    for _ in range(20):
        book.append("event", at=wire.clock.wall(), server="primary", event="test")
    assert list(book.path.parent.glob("journal-*")) != []
    wire.a.close()
    reindex.rebuild(wire.config, "primary", wire.clock, wire.clock.advance)
    wire.open("primary")
    look(wire.root())
    assert set() == seen - told
    code = "".join(path.read_text("utf-8") for path in (ROOT / "vmctl").rglob("*.py"))
    assert [] == [name for name in told - seen if f'"{name.rstrip("/").partition("-")[0]}' not in code]


def section():
    """The table of what is under `.vmctl`."""
    return PAGE.partition("\n## .vmctl\n")[2].partition("\n## ")[0]


def entry(name):
    """The name of a file as the page has it."""
    for pattern, word in ((r"torn-\d+", "torn-N"), (r"aside-.+", "aside-TIME"), (r"journal-\d+", "journal-N")):
        name = re.sub(pattern, word, name)
    return name
