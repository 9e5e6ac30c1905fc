"""The journal: what is appended is found again, and whatever is done to the file shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmctl import chain, durable, journal, volumes
from vmctl.errors import DiskFull, JournalBroken
from vmctl.evidence import Evidence, Policy
from vmctl.journal import Journal
from vmctl.journal_words import words
from vmctl.roles import decide
from vmctl.view import ORDER, SILENCE, Epoch, Last, View, fresh_view

AT = 1_790_000_000_123_000
HOMES = {"voicemail": "primary"}
POLICY = Policy(180.0, True, 60.0, "graceful", "completed", 60.0, 3600.0)


@pytest.fixture
def book(tmp_path):
    """An empty journal."""
    return Journal(tmp_path / "journal.jsonl")


def filled(book, count=5):
    """A journal with some events; gives its lines."""
    for number in range(count):
        book.append("event", at=AT + number * 1_000_000, server="primary", event=f"thing {number}")
    return book.path.read_bytes().splitlines(keepends=True) if count else []


def failover(book, at=AT):
    """Journal that the backup takes over; gives the decision's transition."""
    normal = View("voicemail", "primary", "primary", "normal", Epoch(3, "primary"), AT, SILENCE)
    seen = Evidence("secondary", "primary", silent_for=200.0, started_for=900.0)
    move = decide(normal, seen, POLICY, at).transition
    book.transition(move, seen, at=at, server="secondary")
    return move


def test_an_empty_journal_holds_nothing_and_is_sound(book):
    """No file is a journal without lines; reading makes none."""
    assert list(book.entries()) == []
    assert book.verify() == []
    assert book.length_and_hash() == (0, "")
    assert book.views(HOMES) == {"voicemail": fresh_view("voicemail", "primary")}
    assert not book.path.exists()


def test_an_event_that_cannot_be_journalled_keeps_nobody_from_his_work(book):
    """It is told in the log, and nothing is added to a journal that was edited."""
    assert 1 == book.tell("one", at=AT, server="primary", count=3)["seq"]
    book.path.write_bytes(book.path.read_bytes().replace(b"one", b"two"))
    before = book.path.read_bytes()
    assert book.tell("another", at=AT, server="primary") is None
    assert before == book.path.read_bytes()


def test_lines_are_numbered_chained_and_dated(book):
    """Each line names the hash of the one before, the first none; times are RFC 3339."""
    one = book.append("event", at=AT, server="primary", event="one")
    two = book.append("event", at=AT, server="primary", service="voicemail", event="two", count=3)
    assert list(book.entries()) == [one, two]
    assert (one["seq"], one["prev"], one["at"], one["v"]) == (1, "", "2026-09-21T14:13:20.123Z", 1)
    assert (two["seq"], two["prev"], two["service"], two["count"]) == (2, one["hash"], "voicemail", 3)
    assert book.length_and_hash() == (2, two["hash"])
    assert book.verify() == []
    assert book.path.stat().st_mode & 0o777 == 0o600


def test_another_process_may_append_between(tmp_path):
    """Two journals on one file go on with one chain: nothing is remembered between calls."""
    one, other = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    for number in range(6):
        (one, other)[number % 2].append("event", at=AT, server="primary", event=str(number))
    assert one.verify() == []
    assert [entry["event"] for entry in other.entries()] == list("012345")


def test_facts_cannot_take_the_journals_own_names(book):
    """A fact called `seq` would forge the chain."""
    with pytest.raises(ValueError, match="seq"):
        book.append("event", at=AT, server="primary", seq=9)


def test_an_entry_that_is_too_long_is_not_written(book):
    """What could not be read back is refused before it is on disk."""
    with pytest.raises(ValueError, match="too long"):
        book.append("event", at=AT, server="primary", event="x" * volumes.LONGEST)
    assert not book.path.exists()


def test_since_and_limit_choose_the_newest_in_order(book):
    """`since` is the number of the last line already seen, `limit` keeps the newest."""
    filled(book, 8)
    assert [entry["seq"] for entry in book.entries(since=5)] == [6, 7, 8]
    assert [entry["seq"] for entry in book.entries(limit=2)] == [7, 8]
    assert [entry["seq"] for entry in book.entries(since=2, limit=3)] == [6, 7, 8]
    assert list(book.entries(limit=0)) == []
    assert list(book.entries(since=8)) == []


# Views


def test_the_present_view_is_that_of_the_newest_transition(book):
    """What was journalled is what the role is."""
    move = failover(book)
    filled(book)
    assert book.views(HOMES) == {"voicemail": move.after}
    entry = next(book.entries())
    assert (entry["by"], entry["from"], entry["to"]) == ("vmctl", move.before.as_json(), move.after.as_json())
    assert entry["evidence"]["silent_for"] == 200.0


def test_a_start_remembers_who_served_and_a_second_start_still_does(book):
    """A server that starts serves nobody, and knows whom it served however often it starts."""
    move = failover(book)
    for _ in range(2):
        views = book.start(HOMES, at=AT + 5_000_000, server="secondary")
        assert views == book.views(HOMES)
        after = views["voicemail"]
        assert (after.state, after.serving, after.epoch) == ("starting", None, move.after.epoch)
        assert (after.last, after.since) == (Last("secondary", SILENCE), AT + 5_000_000)


def test_a_service_that_leaves_the_config_and_returns_keeps_its_epoch(book):
    """A start line carries the views of all services that were ever known."""
    move = failover(book)
    book.start({"other": "secondary"}, at=AT, server="secondary")
    book.start({"other": "secondary"}, at=AT, server="secondary")
    assert book.views(HOMES)["voicemail"].epoch == move.after.epoch


def test_each_service_has_its_own_view(book):
    """Two services, one moved after the start: each line counts for its own."""
    homes = {**HOMES, "sales": "secondary"}
    book.start(homes, at=AT, server="secondary")
    move = failover(book)
    assert book.views(homes)["voicemail"] == move.after
    assert book.views(homes)["sales"].state == "starting"


def test_the_views_are_found_without_reading_the_whole_journal(book, monkeypatch):
    """Status reads the tail back to the last start, not years of lines."""
    filled(book, 40)
    book.start(HOMES, at=AT, server="secondary")
    monkeypatch.setattr(volumes, "_BLOCK", 512)
    seen = []
    block_before = volumes._block_before
    monkeypatch.setattr(
        volumes, "_block_before", lambda file, position: seen.append(position) or block_before(file, position)
    )
    book.views(HOMES)
    assert sum(512 for _ in seen) < book.path.stat().st_size / 2


def test_a_transition_without_a_view_is_named(book):
    """A chain that holds over an entry that makes no sense still stops the roles, and says which entry."""
    book.append("transition", at=AT, server="primary", service="voicemail", to={"state": "asleep"})
    with pytest.raises(JournalBroken, match="entry 1"):
        book.views(HOMES)


# Agreed values


def test_of_the_values_that_both_agree_on_the_newest_of_each_name_counts(book):
    """No line is no value; a value is as it was given, whatever else is journalled."""
    assert book.agreed() == {}
    one = book.agree("mode", {"mode": "dual-active", "number": 1}, at=AT, server="primary", by="operator ada")
    book.agree("pause", {"on": True, "until": None}, at=AT, server="primary", by="vmctl")
    book.agree("mode", {"mode": "active-standby", "number": 2}, at=AT, server="primary", by="peer")
    failover(book)
    assert (one["kind"], one["name"], one["by"]) == ("agreed", "mode", "operator ada")
    assert book.agreed() == {
        "mode": {"mode": "active-standby", "number": 2},
        "pause": {"on": True, "until": None},
    }


def test_a_start_carries_the_agreed_values(book):
    """They outlive any number of starts, and what is agreed after one counts above what it carries."""
    book.agree("mode", {"number": 1}, at=AT, server="primary", by="vmctl")
    book.agree("pause", {"number": 5}, at=AT, server="primary", by="vmctl")
    for _ in range(2):
        book.start(HOMES, at=AT, server="primary")
    assert next(book.entries(limit=1))["agreed"] == book.agreed() == {"mode": {"number": 1}, "pause": {"number": 5}}
    book.agree("mode", {"number": 2}, at=AT, server="primary", by="vmctl")
    assert book.agreed() == {"mode": {"number": 2}, "pause": {"number": 5}}


def test_a_start_of_an_earlier_version_has_no_agreed_values(book):
    """Its line has no such member: that means none, and the views are read as ever."""
    move = failover(book)
    book.append("start", at=AT, server="secondary", views={"voicemail": move.after.as_json()})
    assert book.agreed() == {}
    assert book.views(HOMES)["voicemail"].last == Last("secondary", SILENCE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("", {}), ("a b", {}), ("mode", {"x": float("nan")}), ("mode", {"x": "y" * journal.LONGEST_VALUE})],
)
def test_a_value_that_cannot_be_kept_is_refused_before_it_is_written(book, name, value):
    """A name that is none, what is not JSON, what every start would have to repeat at length."""
    with pytest.raises(ValueError, match=r"name|long|JSON"):
        book.agree(name, value, at=AT, server="primary", by="vmctl")
    assert not book.path.exists()


@pytest.mark.parametrize("facts", [{}, {"name": "mode"}, {"name": "mode", "value": 5}, {"name": [], "value": {}}])
def test_an_agreed_line_that_makes_no_sense_is_named(book, facts):
    """As with a transition: no role is decided on what cannot be read."""
    book.append("agreed", at=AT, server="primary", **facts)
    for read in (book.agreed, lambda: book.views(HOMES)):
        with pytest.raises(JournalBroken, match="entry 1"):
            read()


# A crash


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_torn_last_line_is_left_out_then_set_aside_and_told(book, lines):
    """After a power cut the next line starts clean, and nothing that was there is thrown away."""
    filled(book, lines)
    with book.path.open("ab") as file:
        file.write(b'{"v":1,"seq":')
    assert len(list(book.entries())) == len(list(book.entries(limit=99))) == lines
    assert any("incomplete" in problem for problem in book.verify())
    book.append("event", at=AT, server="primary", event="next")
    *_, told, last = book.entries()
    assert (told["seq"], told["bytes"], last["event"]) == (lines + 1, 13, "next")
    assert (book.path.parent / told["file"]).read_bytes() == b'{"v":1,"seq":'
    assert told["file"] == f"journal.jsonl.torn-{lines + 1}"
    assert book.verify() == []


@pytest.mark.parametrize("step", ["_write", "_fsync", "_rename"])
def test_a_fault_while_a_torn_line_is_set_aside_loses_nothing(book, monkeypatch, step):
    """Whichever step fails, the journal is as it was, and the next append mends it."""
    filled(book, 2)
    with book.path.open("ab") as file:
        file.write(b"half")
    before = book.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, step, full)
        with pytest.raises(DiskFull):
            book.append("event", at=AT, server="primary", event="next")
    assert book.path.read_bytes() == before
    book.append("event", at=AT, server="primary", event="next")
    assert book.verify() == []
    assert [entry["seq"] for entry in book.entries()] == [1, 2, 3, 4]


def test_an_append_that_fails_leaves_the_journal_as_it_was(book, monkeypatch):
    """A full disk: the error is raised, and no half line stays."""
    filled(book, 2)
    before = book.path.read_bytes()

    def full(_fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_fsync", full)
        with pytest.raises(DiskFull):
            book.append("event", at=AT, server="primary", event="next")
    assert book.path.read_bytes() == before


# Tampering


def rechained(line, **changes):
    """A line altered by somebody who knows how its hash is made."""
    entry = {**json.loads(line), **changes}
    return chain.line({**entry, "hash": chain.hash_of(entry)})


def unordered(line):
    """The same values in another order of keys."""
    return json.dumps(dict(reversed(json.loads(line).items()))).encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a, b, c, d, e: [a, b.replace(b"thing 1", b"thing 7"), c, d, e], "line 2 of journal.jsonl was edited"),
        (lambda a, b, c, d, e: [a, rechained(b, event="other"), c, d, e], "line 3 of journal.jsonl does not follow"),
        (lambda a, b, c, d, e: [a, c, d, e], "1 entry is missing before line 2"),
        (lambda a, b, c, d, e: [d, e], "3 entries are missing before line 1"),
        (lambda a, b, c, d, e: [a, b, b, c, d, e], "line 3 of journal.jsonl is doubled"),
        (lambda a, b, c, d, e: [a, c, b, d, e], "line 3 of journal.jsonl was moved"),
        (lambda a, b, c, d, e: [a, b"nonsense\n", c, d, e], "line 2 of journal.jsonl cannot be read"),
        (lambda a, b, c, d, e: [a, b"\n", b, c, d, e], "line 2 of journal.jsonl cannot be read"),
        (lambda a, b, c, d, e: [a, b"[" * 100_000 + b"\n", c, d, e], "line 2 of journal.jsonl cannot be read"),
        (lambda a, b, c, d, e: [a, unordered(b), c, d, e], "line 2 of journal.jsonl was edited"),
        (lambda a, b, c, d, e: [rechained(a, prev=["x"]), b, c, d, e], "line 1 of journal.jsonl does not follow"),
        (lambda a, b, c, d, e: [a, b, c, d, rechained(e, seq=7)], "2 entries are missing before line 5"),
    ],
)
def test_whatever_is_done_to_a_line_is_named_with_its_number(book, change, problem):
    """Cut, edited, moved, doubled, replaced: a sentence names the line."""
    book.path.write_bytes(b"".join(change(*filled(book))))
    assert problem in "; ".join(book.verify())


@pytest.mark.parametrize("line", [-1, -2])
def test_nothing_is_added_to_a_journal_whose_end_was_touched(book, line):
    """A forged tail is not covered by new lines that vouch for it."""
    lines = filled(book)
    lines[line] = lines[line].replace(b"thing", b"think")
    book.path.write_bytes(b"".join(lines))
    before = book.path.read_bytes()
    with pytest.raises(JournalBroken, match=f"line {len(lines) + 1 + line} of journal.jsonl was edited"):
        book.append("event", at=AT, server="primary", event="next")
    with pytest.raises(JournalBroken):
        book.length_and_hash() if line == -1 else book.views(HOMES)
    assert book.path.read_bytes() == before


def test_a_damaged_line_does_not_hide_the_others(book):
    """At three in the morning the rest of the journal is still shown."""
    lines = filled(book)
    lines[2] = b"\xff\xfe broken \x1b[31m\n"
    book.path.write_bytes(b"".join(lines))
    for shown in (list(book.entries()), list(book.entries(limit=9))):
        assert [entry["kind"] for entry in shown] == ["event", "event", "unreadable", "event", "event"]
        assert "cannot be read" in words(shown[2])
        assert "\x1b" not in words(shown[2])


def test_a_cut_tail_is_seen_by_its_length_and_hash_only(book):
    """The chain of what is left holds: the peer's memory of length and hash is what tells."""
    lines = filled(book)
    known = book.length_and_hash()
    book.path.write_bytes(b"".join(lines[:-2]))
    assert book.verify() == []
    assert book.length_and_hash()[0] == known[0] - 2


@settings(deadline=None, max_examples=80)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_byte_can_be_changed_unseen(tmp_path_factory, where, flip):
    """Any changed byte is a problem, except those that are not there any more."""
    book = Journal(tmp_path_factory.mktemp("book") / "journal.jsonl")
    filled(book, 3)
    data = bytearray(book.path.read_bytes())
    data[int(where * len(data))] ^= flip
    book.path.write_bytes(data)
    assert book.verify() != []


@settings(deadline=None, max_examples=150)
@given(
    data=st.binary(max_size=300) | st.lists(st.sampled_from([b"\n", b"{}", b'{"seq":1}', b"0", b"[]"])).map(b"".join)
)
def test_garbage_is_named_and_never_another_exception(tmp_path_factory, data):
    """Whatever the file holds: problems in words, or JournalBroken."""
    book = Journal(tmp_path_factory.mktemp("book") / "journal.jsonl")
    book.path.write_bytes(data)
    assert bool(book.verify()) == bool(data)
    assert [words(entry) for entry in book.entries()] == [words(entry) for entry in book.entries(limit=999)]
    if b"\n" in data:
        with pytest.raises(JournalBroken):
            book.append("event", at=AT, server="primary", event="next")


@settings(deadline=None, max_examples=60)
@given(
    block=st.integers(1, 40), lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=9)
)
def test_reading_backward_gives_what_reading_forward_gives(tmp_path_factory, block, lines):
    """Wherever a block ends, between lines or within one."""
    path = Path(tmp_path_factory.mktemp("book")) / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + b"torn")
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(volumes, "_BLOCK", block)
        assert list(volumes.lines_back(file))[::-1] == [raw for _, raw in volumes.lines(file)] == lines
        assert volumes.torn(file) == b"torn"


# Words


def test_an_entry_reads_as_one_line(book):
    """When, which service, from what to what, why, by whom."""
    failover(book)
    book.start(HOMES, at=AT, server="secondary")
    moved, started = map(words, book.entries())
    assert moved == (
        "    1  2026-09-21T14:13:20.123Z  voicemail: normal (primary) -> resilience (secondary), epoch 4: "
        "primary has not been heard for 3.33 min [by vmctl]"
    )
    assert started == "    2  2026-09-21T14:13:20.123Z  secondary was started"


@pytest.mark.parametrize(
    ("name", "value", "by", "said"),
    [
        ("mode", {"mode": "dual-active", "number": 3, "server": "primary"}, "operator ada",
         "the mode is dual-active [by operator ada]"),
        ("pause", {"on": True, "until": "2026-01-31T08:15:00Z", "number": 1, "server": "primary", "by": "ada"},
         "operator ada", "paused until 2026-01-31T08:15:00Z [by operator ada]"),
        ("pause", {"on": True, "until": None, "number": 1, "server": "primary", "by": "ada"},
         "peer", "paused until a person says 'vmctl resume' [by peer, first by ada]"),
        ("pause", {"on": False, "until": None, "number": 2, "server": "primary", "by": "vmctl"},
         "vmctl", "resumed [by vmctl]"),
        ("later", {"b": [1], "a": None}, "vmctl", 'later is {"a": null, "b": [1]} [by vmctl]'),
    ],
)  # fmt: skip
def test_an_agreed_value_reads_as_a_sentence(book, name, value, by, said):
    """The mode, a pause and its end, and whatever a later version agrees on."""
    assert words(book.agree(name, value, at=AT, server="primary", by=by)).endswith(f"Z  {said}")


def test_an_order_names_the_operator_and_control_characters_do_not_reach_the_terminal(book):
    """Who gave the order is kept as given; shown it cannot move the cursor."""
    normal = View("voicemail", "primary", "primary", "normal", Epoch(3, "primary"), AT, SILENCE)
    seen = Evidence("primary", "secondary", heard=True, silent_for=1.0, order="failover", gate_completed=True)
    decision = decide(normal, seen, POLICY, AT)
    entry = book.transition(decision.transition, seen, at=AT, server="primary", operator="eve\x1b[2J\n")
    assert entry["by"] == "operator eve\x1b[2J\n"
    assert entry["to"]["cause"] == ORDER
    assert words(entry).isprintable()
    assert "by operator eve?[2J?" in words(entry)


@pytest.mark.parametrize(
    "entry",
    [
        {}, {"kind": "transition"}, {"kind": "later"}, {"kind": "event", "seq": None}, {"kind": "agreed"},
        {"kind": "agreed", "name": "pause", "value": {"on": "yes"}}, {"kind": "agreed", "name": ["x"], "value": "mode"},
        {"kind": ["x"]}, {"kind": "rotation"}, {"kind": "start"},
    ],
)  # fmt: skip
def test_words_never_fail(entry):
    """An entry of a later version, or a broken one, still gives a line."""
    assert words(entry)
