"""The journal in several files: the chain goes on over all of them, and no crash and no hand breaks it unseen."""

from __future__ import annotations

import errno
import itertools
import json
import shutil

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from vmctl import chain, durable
from vmctl.errors import DiskFull, JournalBroken
from vmctl.evidence import Evidence
from vmctl.journal import BOUND, Journal
from vmctl.journal_words import words
from vmctl.roles import Transition
from vmctl.view import ORDER, Epoch, Last, View
from vmctl.volumes import older_path

AT = 1_790_000_000_123_000
HOMES = {"voicemail": "primary"}
SMALL = 1000  # bytes: some three events


@pytest.fixture
def book(tmp_path):
    """An empty journal whose files are short."""
    return Journal(tmp_path / "journal.jsonl", SMALL)


def add(book, number):
    """An event that says its number."""
    return book.append("event", at=AT + number * 1_000_000, server="primary", event=f"thing {number}")


def fill(book, files=3):
    """Add events until there are so many files; how many events there are."""
    for count in range(100):
        if len(paths(book)) >= files and len(book.path.read_bytes().splitlines()) >= 3:
            return count
        add(book, count)
    raise AssertionError("no new file is begun")


def paths(book):
    """The files in their order."""
    return [*sorted(book.path.parent.glob("journal-*.jsonl")), book.path]


def told(book):
    """The events that the journal tells."""
    return [entry["event"] for entry in book.entries() if entry["kind"] == "event"]


def number_of(path):
    """The number in the name of an older file."""
    return int(path.stem.rpartition("-")[2])


# A new file


def test_a_file_that_is_full_is_followed_by_another_and_the_chain_goes_on(book):
    """Older files are named for their last entry and sort by that; numbers and hashes run through all of them."""
    count = fill(book)
    *older, newest = paths(book)
    assert [path.name for path in older] == [f"journal-{number_of(path):09d}.jsonl" for path in older]
    for path in older:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert lines[-1]["seq"] == number_of(path)
        assert SMALL < path.stat().st_size < 2 * SMALL
    assert newest.stat().st_size <= 2 * SMALL
    entries = list(book.entries())
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert all(two["prev"] == one["hash"] for one, two in itertools.pairwise(entries))
    assert told(book) == [f"thing {number}" for number in range(count)]
    assert [entry["kind"] for entry in entries].count("rotation") == len(older)
    assert book.verify() == []
    assert book.length_and_hash() == (len(entries), entries[-1]["hash"])
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths(book))


def test_without_a_bound_from_a_config_a_file_may_be_long(tmp_path):
    """Who only reads need not know the bound, and who appends without one begins no file after every few lines."""
    book = Journal(tmp_path / "journal.jsonl")
    for number in range(50):
        add(book, number)
    assert len(paths(book)) == 1
    assert BOUND > 1_000_000


def test_numbers_above_nine_digits_still_sort(tmp_path):
    """By their value, not by their text."""
    path = tmp_path / "journal.jsonl"
    assert older_path(path, 1234).name == "journal-000001234.jsonl"
    for number in (999_999_999, 1_000_000_000, 7):
        older_path(path, number).write_bytes(b"")
    (tmp_path / "journal-12.jsonl").write_bytes(b"")
    (tmp_path / "journal-000000003.jsonl.torn-4").write_bytes(b"")
    found = [number for number, _ in Journal(path)._volumes.older()]
    assert found == [7, 999_999_999, 1_000_000_000]


def moved(number, state="resilience", serving="secondary"):
    """A transition to an epoch of this number."""
    before = View("voicemail", "primary", "primary", "normal", Epoch(number - 1, "primary"), AT, ORDER)
    after = View("voicemail", "primary", serving, state, Epoch(number, "primary"), AT, ORDER)
    return Transition(before, after, "because", "vmctl")


def test_the_present_state_needs_no_older_file(book):
    """Views and agreed values are those from before, with every older file taken away."""
    move = moved(4)
    book.transition(move, Evidence("primary", "secondary"), at=AT, server="primary")
    book.start({"gone": "secondary"}, at=AT, server="primary")
    book.transition(move, Evidence("primary", "secondary"), at=AT, server="primary")
    book.agree("mode", {"number": 7}, at=AT, server="primary", by="vmctl")
    fill(book, 4)
    for path in paths(book)[:-1]:
        path.unlink()
    assert book.views(HOMES) == {"voicemail": move.after}
    assert book.views({"gone": "secondary"})["gone"].state == "starting"
    assert book.agreed() == {"mode": {"number": 7}}
    assert book.verify() == []
    assert add(book, 1)["seq"] == book.newest()


def test_a_new_file_is_no_start(book):
    """Who serves goes on serving; after a start nobody does, in the new file, too."""
    book.transition(moved(4), Evidence("primary", "secondary"), at=AT, server="primary")
    fill(book, 2)
    assert book.views(HOMES)["voicemail"].serving == "secondary"
    book.start(HOMES, at=AT, server="primary")
    fill(book, 4)
    view = book.views(HOMES)["voicemail"]
    assert (view.state, view.last) == ("starting", Last("secondary", ORDER))


def test_what_a_new_file_carries_is_no_reason_for_another(book):
    """Its first line may be longer than the bound: still there is room for more lines than that one."""
    for number in range(3):
        book.agree(f"value-{number}", {"text": "x" * SMALL}, at=AT, server="primary", by="vmctl")
    for number in range(40):
        add(book, number)
    assert len(paths(book)) < 10
    assert book.verify() == []


def test_an_entry_of_any_file_is_found_by_its_number(book):
    """Also the newest before a line that cannot be read; a number that is nowhere is None."""
    fill(book)
    entries = list(book.entries())
    assert [book.find(entry["seq"]) for entry in entries] == entries
    assert [book.find(0), book.find(len(entries) + 1)] == [None, None]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmctl.journal.parsed", lambda raw: seen.append(raw) or chain.parsed(raw))
        book.find(len(entries) + 1)
    assert len(seen) == 1, "it reads on beyond where it would be"
    with book.path.open("ab") as file:
        file.write(b"nonsense\n")
    assert book.newest() == len(entries)
    for path in paths(book)[:-1]:
        path.unlink()
    assert book.find(1) is None


def test_since_and_limit_reach_into_older_files(book):
    """The newest so many, and all after a number, wherever a file ends."""
    fill(book)
    entries = list(book.entries())
    for number in range(len(entries) + 2):
        assert list(book.entries(limit=number)) == entries[max(0, len(entries) - number) :]
        assert list(book.entries(since=number)) == entries[number:]


def test_entries_from_a_time_go_by_what_they_say(book):
    """A clock that was set back hides none; a line that cannot be read goes with the one before it."""
    start = AT + 15 * 1_000_000
    for seconds in (10, 20, 5, 30, 1):
        for _ in range(4):
            book.append("event", at=AT + seconds * 1_000_000, server="primary", event=str(seconds))
    assert len(paths(book)) > 3
    late = ["20"] * 4 + ["30"] * 4
    assert [entry["event"] for entry in book.entries_from(start) if entry["kind"] == "event"] == late
    assert [entry["event"] for entry in book.entries_from(start, 2)] == ["30", "30"]
    older = paths(book)[0]
    early, *_, last = older.read_bytes().splitlines(keepends=True)
    assert (b"13:30" in early, b"13:40" in last) == (True, True)
    older.write_bytes(b"one\n" + early + b"two\n" + last + b"three\n")
    assert [entry["text"] for entry in book.entries_from(start) if "text" in entry] == ["three"]


# A crash, and a disk that refuses


def full_book(folder):
    """A journal of two files whose next entry begins a third; how many events it holds."""
    book = Journal(folder / "journal.jsonl", SMALL)
    count = fill(book, 2)
    while book.path.stat().st_size <= SMALL:
        add(book, count)
        count += 1
    return book, count


def add_with_a_fault(book, count, step, nth):
    """Add an event while call `nth` of a durable step finds no room; whether it did."""
    calls, real = itertools.count(), getattr(durable, step)

    def full(*values):
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, step, full)
        try:
            add(book, count)
        except DiskFull:
            return True
    assert next(calls) <= nth, "a fault was not told"
    return False


@pytest.mark.parametrize("step", ["_open", "_write", "_fsync", "_link", "_rename"])
def test_a_fault_at_any_step_of_a_new_file_loses_nothing(tmp_path, step):
    """The chain is whole at once and afterwards, and the next append goes on as if nothing had been."""
    for nth in itertools.count():
        folder = tmp_path / str(nth)
        folder.mkdir()
        book, count = full_book(folder)
        before = list(book.entries())
        if not add_with_a_fault(book, count, step, nth):
            break
        assert book.verify() == []
        assert list(book.entries())[: len(before)] == before
        assert [entry["kind"] for entry in list(book.entries())[len(before) :]] in ([], ["rotation"])
        add(book, count)
        assert told(book) == [f"thing {number}" for number in range(count + 1)]
        assert book.verify() == []
        assert len(paths(book)) == 3
        assert [path.name for path in folder.glob(f"{durable.TEMP_PREFIX}*")] == []
    assert nth > 0, "no such step is done"


@pytest.fixture
def cut_off(tmp_path, monkeypatch):
    """A journal of which a process was killed when the full file had its second name; its events."""
    book, count = full_book(tmp_path)

    def killed(*_values, **_words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            add(book, count)
    assert len(paths(book)) == 3
    return book, count


def test_between_two_files_each_line_is_read_once(cut_off):
    """The file with two names counts once, for every way of reading."""
    book, count = cut_off
    events = [f"thing {number}" for number in range(count)]
    assert told(book) == events
    assert [entry["event"] for entry in book.entries(limit=2)] == events[-2:]
    assert book.verify() == []
    assert book.length_and_hash()[0] == book.newest()


@pytest.mark.parametrize("bound", [SMALL, BOUND])
def test_a_new_file_that_was_cut_off_is_begun_by_the_next_entry(cut_off, bound):
    """Whatever the bound is by then: the name that the old file has already must stay true."""
    book, count = cut_off
    book = Journal(book.path, bound)
    add(book, count)
    assert told(book) == [f"thing {number}" for number in range(count + 1)]
    assert book.verify() == []
    assert len(paths(book)) == 3
    assert len(book.path.read_bytes().splitlines()) == 2


def test_a_copy_of_a_store_that_was_made_in_that_moment_goes_on(cut_off):
    """There the two names are two files that hold the same: the next entry begins the new one all the same."""
    book, count = cut_off
    older = older_path(book.path, book.newest())
    older.unlink()
    shutil.copy(book.path, older)
    add(book, count)
    assert book.verify() == []
    assert told(book) == [f"thing {number}" for number in range(count + 1)]


def test_a_torn_line_at_the_end_of_a_full_file_is_set_aside_first(tmp_path):
    """An older file ends with a whole line."""
    book, count = full_book(tmp_path)
    with book.path.open("ab") as file:
        file.write(b'{"v":1,')
    add(book, count)
    assert book.verify() == []
    kinds = [entry.get("event", entry["kind"]) for entry in book.entries(limit=3)]
    assert kinds == ["an incomplete last line was set aside", "rotation", f"thing {count}"]


def test_a_reader_sees_each_line_once_while_files_are_begun(book):
    """Whoever reads on over several new files misses nothing of what was there when he began."""
    count = fill(book, 2)
    reading = book.entries()
    first = next(reading)
    backward = book._volumes.backward()
    newest = next(backward).file.read()
    for number in range(count, count + 30):
        add(book, number)
    rest = [first, *reading]
    assert [entry["seq"] for entry in rest] == list(range(1, len(rest) + 1))
    older = [volume.file.read() for volume in backward]
    assert [json.loads(line)["seq"] for data in (*older[::-1], newest) for line in data.splitlines()] == list(
        range(1, newest.count(b"\n") + sum(data.count(b"\n") for data in older) + 1)
    )


# What people do to the files


def test_the_oldest_files_may_be_taken_away(book):
    """One after the other, from the oldest on: the chain is whole from there on."""
    fill(book, 4)
    for path in paths(book)[:-1]:
        path.unlink()
        assert book.verify() == []
        assert next(book.entries())["kind"] == "rotation"
    add(book, 9)
    assert book.verify() == []


def test_a_file_that_is_missing_in_the_middle_is_named(book):
    """With the entries that were in it."""
    fill(book, 4)
    first, second, third, _ = paths(book)
    second.unlink()
    gone = f"{second.name} is missing: the entries {number_of(first) + 1} to {number_of(second)} are not there"
    assert book.verify() == [gone]
    third.unlink()
    (problem,) = book.verify()
    assert problem.startswith(f"{third.name} is missing: the entries {number_of(first) + 1} to ")


@pytest.mark.parametrize("how", ["removed", "emptied", "torn"])
def test_without_the_file_that_grows_nothing_is_known(book, how):
    """Who served last week is no answer to who serves: the roles stand still, and nothing is added."""
    fill(book)
    if how == "removed":
        book.path.unlink()
    else:
        book.path.write_bytes(b"" if how == "emptied" else b'{"v":1')
    assert "journal.jsonl holds no entry" in book.verify()[0]
    before = {path: path.read_bytes() for path in paths(book) if path.exists()}
    for act in (lambda: add(book, 1), lambda: book.views(HOMES), book.agreed, book.length_and_hash):
        with pytest.raises(JournalBroken, match="holds no entry"):
            act()
    assert before == {path: path.read_bytes() for path in paths(book) if path.exists()}
    assert book.tell("one", at=AT, server="primary") is None
    assert "thing 0" in told(book)


def test_no_file_is_written_over(tmp_path):
    """Another file under the name that the full one is to get stops the journal, and stays."""
    book, count = full_book(tmp_path)
    stray = older_path(book.path, book.newest())
    stray.write_bytes(b"somebody's\n")
    with pytest.raises(JournalBroken) as caught:
        add(book, count)
    assert stray.name in caught.value.why
    assert stray.read_bytes() == b"somebody's\n"
    assert any(stray.name in problem for problem in book.verify())


def put_together(older, newest):
    """One file instead of two, with all lines that were in them."""
    newest.write_bytes(older.read_bytes() + newest.read_bytes())
    older.unlink()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda older, newest: older.write_bytes(older.read_bytes()[:-1]), "incomplete"),
        (lambda older, newest: older.write_bytes(older.read_bytes() + b"x"), "incomplete"),
        (lambda older, newest: older.write_bytes(b""), "holds no entry: it was emptied"),
        (lambda older, newest: older.write_bytes(b"".join(older.read_bytes().splitlines(True)[:-1])), "by its name"),
        (lambda older, newest: older.rename(older_path(newest, number_of(older) + 1)), "by its name"),
        (lambda older, newest: shutil.copy(older, older_path(newest, number_of(older) + 1)), "by its name"),
        (lambda older, newest: newest.write_bytes(older.read_bytes() + newest.read_bytes()), "moved"),
        (lambda older, newest: older.write_bytes(newest.read_bytes()) and newest.write_bytes(b""), "emptied"),
        (put_together, "holds no second one"),
    ],
)
def test_what_is_done_to_a_whole_file_is_named(book, change, problem):
    """Cut, emptied, renamed, copied, or put together with the next."""
    fill(book)
    *_, older, newest = paths(book)
    change(older, newest)
    named = [one for one in book.verify() if problem in one]
    assert named, book.verify()
    assert "journal" in named[0]


@pytest.mark.parametrize("left", [0, 1])
def test_what_was_cut_from_an_older_file_is_told_of_that_file_only(book, left):
    """The one after it is held against what stood there, and is as it was."""
    fill(book)
    *_, older, _ = paths(book)
    older.write_bytes(b"".join(older.read_bytes().splitlines(keepends=True)[:left]))
    (problem,) = book.verify()
    assert problem.startswith(f"{older.name} ")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The lines of a journal of four files, by file."""
    book = Journal(tmp_path_factory.mktemp("sample") / "journal.jsonl", SMALL)
    book.agree("mode", {"number": 7}, at=AT, server="primary", by="vmctl")
    book.start(HOMES, at=AT, server="primary")
    fill(book, 4)
    return {path.name: path.read_bytes().splitlines(keepends=True) for path in paths(book)}


def written(folder, files):
    """A journal in a new directory that holds these lines."""
    for name, lines in files.items():
        (folder / name).write_bytes(b"".join(lines))
    return Journal(folder / "journal.jsonl", SMALL)


def edited(draw, line, *, rechained):
    """A line that says something else; `rechained`: by somebody who knows how its hash is made."""
    entry = json.loads(line)
    name = draw(st.sampled_from(sorted(entry.keys() - {"hash"})), label="member")
    new = draw(st.none() | st.booleans() | st.integers() | st.text(max_size=5), label="value")
    if new == entry[name] and type(new) is type(entry[name]):
        return None
    entry[name] = new
    try:
        return chain.line({**entry, "hash": chain.hash_of(entry)} if rechained else entry)
    except UnicodeEncodeError:
        return None


def tampered(draw, files):
    """The files after one change to whole lines, or None where it changes nothing, or is only a cut tail."""
    flat = [(name, line) for name, lines in files.items() for line in lines]
    what = draw(st.sampled_from(["edit", "forge", "cut", "swap", "double"]), label="what")
    event(what)
    at = draw(st.integers(0, len(flat) - 1), label="at")
    upto = draw(st.integers(at + 1, len(flat)), label="up to")
    name, line = flat[at]
    if what in {"edit", "forge"}:
        new = edited(draw, line, rechained=what == "forge")
        if new is None or new == line or (what == "forge" and at == len(flat) - 1):  # what follows it tells
            return None
        flat[at] = (name, new)
    elif what == "cut":
        if upto == len(flat) and name == "journal.jsonl" and at > 0 and flat[at - 1][0] == name:
            return None
        del flat[at:upto]
    elif what == "swap":
        other = draw(st.integers(0, len(flat) - 1), label="with")
        if other == at:
            return None
        flat[at], flat[other] = (name, flat[other][1]), (flat[other][0], line)
    else:
        flat.insert(upto, (flat[min(upto, len(flat) - 1)][0], line))
    return {name: [line for of, line in flat if of == name] for name in files}


@settings(deadline=None, max_examples=400)
@given(data=st.data(), taken_away=st.integers(0, 2))
def test_no_line_is_edited_cut_swapped_or_doubled_unseen(tmp_path_factory, sample, data, taken_away):
    """In whichever file, also where the oldest were taken away; every sentence names a file. Only a cut tail does not show."""
    files = dict(list(sample.items())[taken_away:])
    changed = tampered(data.draw, files)
    if changed is None:
        return
    book = written(tmp_path_factory.mktemp("book"), changed)
    problems = book.verify()
    assert problems != []
    assert all(".jsonl" in problem for problem in problems), problems
    assert all(words(entry) for entry in book.entries())


@pytest.mark.parametrize("taken_away", [0, 1, 2, 3])
def test_only_the_last_lines_of_the_file_that_grows_can_be_cut_unseen(tmp_path, sample, taken_away):
    """What is left is a whole chain: length and hash, which the peer keeps, are what tells."""
    files = dict(list(sample.items())[taken_away:])
    for count in range(1, len(files["journal.jsonl"])):
        folder = tmp_path / str(count)
        folder.mkdir()
        book = written(folder, files | {"journal.jsonl": files["journal.jsonl"][:-count]})
        assert book.verify() == []
        assert book.length_and_hash()[0] == Journal(written(tmp_path, files).path).length_and_hash()[0] - count
