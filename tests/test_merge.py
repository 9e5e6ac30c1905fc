"""The merge is a join, and presence follows the rule: a concurrent save or restore outlives a delete, a mark does not."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.entry import Entry
from vmctl.merge import DELETED, KEPT, conflicts, holds, merge, merge_fields
from vmctl.model import (
    ABSENT,
    Field,
    Record,
    Stamp,
    Tick,
    created,
    deleted,
    dominates,
    edited,
    join,
    parse_key,
    purged,
    restored,
)
from vmctl.outbox import record_for

KEY = "message/201/m1"
# Few of each, so that equal stamps with other values, equal vectors and ties are common.
WHO = st.sampled_from(["p1", "p2", "s1", "s2"])
COUNT = st.integers(0, 4)
VALUE = st.just(ABSENT) | st.sampled_from([None, 0, 1, 1.0, True, "x", [1], [True], {"a": 1}, {"a": 1.0}])
VECTOR = st.dictionaries(WHO, COUNT, max_size=4)
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b", "__x", ""]), st.builds(Field, VALUE, st.builds(Stamp, COUNT, WHO, COUNT))
)
RECORDS = st.builds(Record, st.just(KEY), st.builds(Tick, COUNT, WHO), FIELDS, VECTOR, VECTOR, VECTOR, VECTOR)


def same(one, other):
    """Whether two records are equal, 1 and true not being so."""
    return one.version == other.version


def message():
    """A message that both servers hold."""
    return created(KEY, {"status": "new", "urgent": False}, Tick(10, "p1"), 1000)


def mark(record, tick):
    """The message marked as heard."""
    return edited(record, {"status": "old"}, tick, 2000)


def save(record, tick):
    """The message saved."""
    return edited(record, {"status": "saved"}, tick, 2000)


# The join


@given(RECORDS, RECORDS)
def test_the_order_of_two_does_not_matter(one, other):
    """Both servers merge to the same, also where equal stamps stand over other values."""
    assert same(merge(one, other), merge(other, one))


@given(RECORDS, RECORDS, RECORDS)
def test_the_order_of_three_does_not_matter(one, other, third):
    """Mails may be lost, doubled and reordered: how the versions are grouped does not show."""
    assert same(merge(merge(one, other), third), merge(one, merge(other, third)))


@given(RECORDS, RECORDS)
def test_merging_again_changes_nothing(one, other):
    """What was merged in once is contained, whichever side it is merged from again."""
    both = merge(one, other)
    assert same(one, merge(one, one))
    assert same(both, merge(both, one))
    assert same(both, merge(other, both))


@given(RECORDS, RECORDS)
def test_a_merge_raises_no_counter_and_makes_no_value(one, other):
    """Every number and every field of the result was in one of the two."""
    both = merge(one, other)
    for part in ("vector", "kept", "deleted", "purged"):
        assert join(getattr(one, part), getattr(other, part)) == getattr(both, part)
    assert dominates(both.vector, one.vector)
    assert dominates(both.vector, other.vector)
    for name, field in both.fields.items():
        assert any(field is source.fields.get(name) for source in (one, other))
        assert all(field.stamp >= source.fields[name].stamp for source in (one, other) if name in source.fields)
    assert both.born == max(one.born, other.born)


@given(RECORDS, RECORDS)
def test_a_part_gives_its_fields_and_not_its_vector(mine, part):
    """Who lacks the base of a delta takes the fields and the presence, but claims nothing that he did not see."""
    whole, merged = merge(mine, part), merge_fields(mine, part)
    assert same(replace(whole, vector=mine.vector), merged)


@given(RECORDS, RECORDS, RECORDS)
def test_parts_may_come_in_any_order_and_again(mine, one, other):
    """Parts without their base add up like versions do, and the whole record that comes in the end hides them."""
    both = merge_fields(merge_fields(mine, one), other)
    assert same(both, merge_fields(merge_fields(mine, other), one))
    assert same(both, merge_fields(both, one))
    assert same(merge(mine, one), merge(merge_fields(mine, one), one))
    assert same(merge(merge(mine, one), other), merge(both, merge(one, other)))


# A world of two servers: random local changes, random deliveries, then everything is delivered.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mark", "save", "urgent", "drop", "delete", "restore", "purge", "send"]),
        st.sampled_from(["p1", "s1"]),
        st.integers(0, 3000),
    ),
    max_size=14,
)
CHANGES = {
    "mark": {"status": "old"},
    "save": {"status": "saved"},
    "urgent": {"urgent": True},
    "drop": {"urgent": ABSENT},
}


def after(step, record, tick, at):
    """The record after a local change; what cannot be done to it changes nothing."""
    if step == "restore":
        return record if record.lives or record.is_purged else restored(record, tick)
    if step == "purge":
        return record if record.lives else purged(record, tick)
    if not record.lives:
        return record
    return deleted(record, tick) if step == "delete" else edited(record, CHANGES[step], tick, at)


@given(STEPS)
def test_two_servers_end_alike_whatever_happened(steps):
    """After any changes and deliveries, one exchange makes both hold the same, whoever's clock is wrong."""
    here = {"p1": message(), "s1": message()}
    for number, (step, who, at) in enumerate(steps, 11):
        other = "s1" if who == "p1" else "p1"
        if step == "send":
            here[other] = merge(here[other], here[who])
        else:
            before = here[who]
            here[who] = after(step, before, Tick(number, who), at)
            assert same(here[who], merge(here[who], before)), "a later version does not contain the earlier one"
            assert same(here[who], merge(before, here[who]))
    one, other = merge(here["p1"], here["s1"]), merge(here["s1"], here["p1"])
    assert same(one, other)


@given(STEPS, st.sampled_from(sorted(CHANGES)), st.integers(0, 3000))
def test_a_change_to_what_was_seen_wins(steps, step, at):
    """Who merges the other's version and then changes a field has his value stand, with whatever clock."""
    record = message()
    for number, (earlier, who, when) in enumerate(steps, 11):
        if earlier not in {"send", "delete"}:
            record = after(earlier, record, Tick(number, who), when)
    for who in ("p1", "s1"):
        final = merge(record, edited(record, CHANGES[step], Tick(99, who), at))
        for name, value in CHANGES[step].items():
            if value is not ABSENT or name in record.fields:
                assert value is final.fields[name].value or value == final.fields[name].value


@given(STEPS)
def test_who_had_seen_a_value_and_set_another_wins(steps):
    """Whatever the clocks say, the value that stands in the end was replaced by nobody who had seen it."""
    here = {"p1": message(), "s1": message()}
    seen = {"p1": set(), "s1": set()}
    sets = []  # who set which field, and what its author had seen
    for number, (step, who, at) in enumerate(steps, 11):
        other = "s1" if who == "p1" else "p1"
        if step == "send":
            here[other] = merge(here[other], here[who])
            seen[other] |= seen[who]
            continue
        before = here[who]
        here[who] = after(step, before, Tick(number, who), at)
        for name in CHANGES.get(step, {}):
            if here[who] is not before and before.fields.get(name) != here[who].fields.get(name):
                sets.append((name, frozenset(seen[who])))
                seen[who].add((name, number))
    final = merge(here["p1"], here["s1"])
    for name, field in final.fields.items():
        assert all((name, field.stamp.number) not in before for each, before in sets if each == name)


@given(STEPS)
def test_no_value_is_lost_unlisted(steps):
    """A value that does not stand in the end is listed, or was replaced by somebody who had seen it, or one equal to it."""
    here = {"p1": message(), "s1": message()}
    seen = {"p1": frozenset(), "s1": frozenset()}
    sets, listed = [], set()
    turns = [*steps, ("send", "p1", 0), ("send", "s1", 0)]
    for number, (step, who, at) in enumerate(turns, 11):
        other = "s1" if who == "p1" else "p1"
        before = here[who]
        if step == "send":
            found = conflicts(here[other], before)
            listed |= {(one.document["field"], one.document["lost"]["at"][2]) for one in found}
            here[other], seen[other] = merge(here[other], before), seen[other] | seen[who]
            continue
        if step == "urgent" and before.lives:  # no two of these are equal
            here[who] = edited(before, {"urgent": number}, Tick(number, who), at)
        else:
            here[who] = after(step, before, Tick(number, who), at)
        for name, field in here[who].fields.items():
            if field != before.fields[name]:
                sets.append((name, number, field.value, seen[who]))
                seen[who] |= {(name, number)}
    told = {
        (name, repr(value))
        for name, number, value, _ in sets
        if here["p1"].fields[name].stamp.number == number
        or (name, number) in listed
        or any((name, number) in had_seen for each, _, _, had_seen in sets if each == name)
    }
    assert {(name, repr(value)) for name, _, value, _ in sets} == told


@given(STEPS)
def test_no_deletion_is_outlived_unlisted(steps):
    """Where a deleted message lives in the end, one of its deletions was taken back by who had seen it, or is listed."""
    here = {"p1": message(), "s1": message()}
    seen = {"p1": frozenset(), "s1": frozenset()}
    deletions, taken_back, listed = set(), set(), set()
    for number, (step, who, at) in enumerate([*steps, ("send", "p1", 0), ("send", "s1", 0)], 11):
        other = "s1" if who == "p1" else "p1"
        before = here[who]
        if step == "send":
            found = conflicts(here[other], before)
            listed |= {one.document["lost"]["at"][1] for one in found if one.document["field"] is None}
            here[other], seen[other] = merge(here[other], before), seen[other] | seen[who]
            continue
        here[who] = after(step, before, Tick(number, who), at)
        if step == "delete" and before.lives:
            deletions.add(number)
            seen[who] |= {number}
        if step == "restore" and not before.lives and here[who].lives:
            taken_back |= seen[who]
    if here["p1"].lives and deletions:
        assert listed or deletions & taken_back


@given(STEPS, st.integers(0, 14))
def test_a_delta_on_its_base_is_the_record(steps, cut):
    """What travels for a base makes of it, or of whatever contains it, the same as the whole record would."""
    here = {"p1": message(), "s1": message()}
    base = message()
    for number, (step, who, at) in enumerate(steps, 11):
        other = "s1" if who == "p1" else "p1"
        if step == "send":
            here[other] = merge(here[other], here[who])
        else:
            here[who] = after(step, here[who], Tick(number, who), at)
        if number - 11 == cut:
            base = here["p1"]
    record = here["p1"]
    value = record_for(Entry(record, base=base))
    part = Record.from_json(record.key, json.loads(json.dumps(value)))
    later = merge(base, here["s1"])
    assert holds(base, value["base"]["vector"], value["base"]["version"])
    assert (record.version, record.version) == (value["version"], merge(base, part).version)
    assert same(merge(later, record), merge(later, part))
    assert [one.version for one in conflicts(later, record)] == [one.version for one in conflicts(later, part)]


# Presence

SAVES = {
    "a save": save,
    "a save, then a mark": lambda record, tick: mark(save(record, tick), Tick(tick.number + 1, tick.by)),
}


@pytest.mark.parametrize("how", SAVES.values(), ids=SAVES)
def test_a_save_that_the_deleter_had_not_seen_outlives_the_delete(how):
    """The message lives on both servers and holds what its keeper last made of it."""
    kept = how(message(), Tick(20, "p1"))
    gone = deleted(mark(message(), Tick(29, "s1")), Tick(30, "s1"))
    for both in (merge(kept, gone), merge(gone, kept)):
        assert both.lives
    assert same(merge(kept, gone), merge(gone, kept))


def test_a_save_then_a_mark_against_a_delete_converges():
    """Both servers hold the same, alive, however often each takes the other's version and in whatever order."""
    saved = save(message(), Tick(20, "p1"))
    marked = mark(saved, Tick(21, "p1"))
    gone = deleted(message(), Tick(30, "s1"))
    ends = set()
    for order in itertools.permutations([saved, marked, gone, saved]):
        state = message()
        for one in order:
            state = merge(state, one)
        ends.add(state.version)
        assert state.lives
        assert state.document["status"] == "old"
    assert len(ends) == 1


def test_a_mark_that_the_deleter_had_not_seen_does_not_outlive_the_delete():
    """Hearing a message that somebody else deletes is no wish to keep it."""
    marked = mark(message(), Tick(20, "p1"))
    gone = deleted(message(), Tick(30, "s1"))
    assert not merge(marked, gone).lives
    assert not merge(gone, marked).lives


@pytest.mark.parametrize("number", [5, 30], ids=["slow clock", "fast clock"])
def test_a_save_that_the_deleter_had_seen_does_not_bring_it_back(number):
    """Who deletes a saved message deletes it for good, whatever change numbers the deleter is at."""
    saved = save(message(), Tick(20, "p1"))
    gone = deleted(merge(message(), saved), Tick(number, "s1"))
    assert not merge(saved, gone).lives
    assert not merge(merge(gone, message()), saved).lives


def test_a_restore_that_a_second_deleter_had_not_seen_outlives_it():
    """Deleted on both sides and restored on one, the message lives."""
    gone = deleted(message(), Tick(20, "p1"))
    back = restored(gone, Tick(21, "p1"))
    again = deleted(message(), Tick(30, "s1"))
    assert merge(back, again).lives
    assert merge(again, back).lives
    assert not merge(back, deleted(merge(again, back), Tick(31, "s1"))).lives


def test_a_stale_copy_never_brings_a_deleted_message_back():
    """Every earlier version merged into the deleted one leaves it deleted."""
    versions = [message()]
    versions.append(mark(versions[-1], Tick(11, "s1")))
    versions.append(save(versions[-1], Tick(12, "p1")))
    gone = deleted(versions[-1], Tick(13, "s1"))
    for stale in versions:
        assert not merge(gone, stale).lives
        assert not merge(stale, gone).lives


@pytest.mark.parametrize("key", ["mailbox/201", "settings", "callflow/main", "greeting/201/busy"])
def test_an_edit_of_what_is_no_message_outlives_a_concurrent_delete(key):
    """Somebody who edits a mailbox or a callflow wants it."""
    base = created(key, {"name": "x"}, Tick(10, "p1"), 1000)
    edit = edited(base, {"name": "y"}, Tick(11, "p1"), 1000)
    assert merge(edit, deleted(base, Tick(30, "s1"))).lives


# What a server holds


def test_a_base_is_held_when_all_of_it_was_seen():
    """A delta applies on its base or on a later version of it, and never on an earlier or a concurrent one."""
    base = message()
    later = mark(base, Tick(11, "s1"))
    beside = mark(base, Tick(11, "p1"))
    assert holds(base, base.vector, base.version)
    assert holds(later, base.vector, base.version)
    assert holds(None, {}, "") is False
    assert not holds(base, later.vector, later.version)
    assert not holds(beside, later.vector, later.version)


def test_the_same_vector_over_other_content_is_not_held():
    """After a rollback that nobody noticed a delta must not be built on the wrong base."""
    base = message()
    other = replace(base, fields=base.fields | {"status": Field("old", Stamp(1000, "p1", 10))})
    assert base.vector == other.vector
    assert not holds(other, base.vector, base.version)


# Conflicts


@given(RECORDS, RECORDS)
def test_both_servers_list_the_same_conflicts(one, other):
    """The records of what lost are equal, key and content, whichever side makes them; each key is a sound one."""
    mine, theirs = conflicts(one, other), conflicts(other, one)
    assert [record.key for record in mine] == [record.key for record in theirs]
    assert all(map(same, mine, theirs))
    assert all(parse_key(record.key).kind == "conflict" and record.lives for record in mine)
    assert len({record.key for record in mine}) == len(mine)


def test_what_was_set_on_both_sides_unseen_is_listed_with_both_values():
    """The conflict names the record and the field, what won and what lost."""
    base = created("mailbox/201", {"name": "Ada", "email": "a@example.org"}, Tick(10, "p1"), 1000)
    here = edited(base, {"name": "Ada L."}, Tick(20, "p1"), 2000)
    there = edited(base, {"name": "Ada B.", "email": ABSENT}, Tick(20, "s1"), 3000)
    (found,) = conflicts(here, there)
    assert found.document == {
        "record": "mailbox/201",
        "field": "name",
        "won": {"is": "Ada B.", "at": [3000, "s1", 20]},
        "lost": {"is": "Ada L.", "at": [2000, "p1", 20]},
    }
    assert merge(here, there).document == {"name": "Ada B."}


def test_a_later_meeting_lists_the_same_conflict_under_the_same_key():
    """A doubled mail, or a change elsewhere in the record, makes no second record of one conflict."""
    base = created("mailbox/201", {"name": "Ada", "quota": 3}, Tick(10, "p1"), 1000)
    here = edited(base, {"name": "Ada L."}, Tick(20, "p1"), 2000)
    there = edited(base, {"name": "Ada B."}, Tick(20, "s1"), 3000)
    more = edited(here, {"quota": 4}, Tick(21, "p1"), 4000)
    assert [one.key for one in conflicts(here, there)] == [one.key for one in conflicts(more, there)]
    assert same(conflicts(here, there)[0], conflicts(there, more)[0])


def test_no_conflict_where_one_side_had_seen_the_other():
    """Neither a later edit of what was seen, nor equal values, nor other fields, nor merging again is a conflict."""
    base = created("mailbox/201", {"name": "Ada", "quota": 3}, Tick(10, "p1"), 1000)
    here = edited(base, {"name": "Ada L."}, Tick(20, "p1"), 2000)
    equal = edited(base, {"name": "Ada L."}, Tick(20, "s1"), 3000)
    beside = edited(base, {"quota": 4}, Tick(20, "s1"), 3000)
    assert conflicts(here, base) == []
    assert conflicts(here, edited(here, {"name": "x"}, Tick(20, "s1"), 1)) == []
    assert conflicts(here, equal) == []
    assert conflicts(here, beside) == []
    lost = edited(base, {"name": "Ada B."}, Tick(20, "s1"), 3000)
    assert conflicts(merge(here, lost), lost) == []


def lost_deletions(one, other):
    """The deletions that lost between two versions: what won, who deleted, and when."""
    found = conflicts(one, other)
    assert [record.version for record in found] == [record.version for record in conflicts(other, one)]
    told = [record.document for record in found if record.document["field"] is None]
    assert all(each["lost"]["is"] == DELETED for each in told)
    return [(each["won"]["is"], each["lost"]["at"][1], each["lost"]["at"][0]) for each in told]


def test_a_deletion_that_lost_is_listed_once_however_often_its_record_is_kept():
    """One save, or a save and a restore and another save: the conflict is that of the deletion."""
    gone = deleted(message(), Tick(30, "s1"))
    saved = save(message(), Tick(20, "p1"))
    again = save(restored(saved, Tick(40, "p1")), Tick(41, "p1"))
    assert [(KEPT, "s1", 30)] == lost_deletions(saved, gone) == lost_deletions(gone, again)
    (one,), (other,) = conflicts(saved, gone), conflicts(gone, again)
    assert one.key == other.key
    assert same(merge(one, other), merge(other, one))
    assert [] == conflicts(one, other)


def test_a_deletion_is_told_from_the_mark_that_came_after_it():
    """The deleter took in a mark of the other's before he heard of the save: he is listed, not the other."""
    gone = deleted(message(), Tick(30, "s1"))
    marked = mark(message(), Tick(40, "p1"))
    assert [(KEPT, "s1", 30)] == lost_deletions(merge(gone, marked), save(marked, Tick(50, "p1")))


def test_no_deletion_is_listed_that_won_or_was_taken_back():
    """Against a mark, against a save that its author had seen, and against a restore by somebody who had seen it."""
    gone = deleted(message(), Tick(30, "s1"))
    saved = save(message(), Tick(20, "p1"))
    assert [] == lost_deletions(mark(message(), Tick(20, "p1")), gone)
    assert [] == lost_deletions(saved, deleted(saved, Tick(30, "s1")))
    assert [] == lost_deletions(gone, restored(gone, Tick(40, "p1")))
    assert [] == lost_deletions(merge(gone, saved), saved)


def test_one_and_true_are_other_values():
    """A conflict between 1 and true is one, though Python takes them for equal."""
    base = created("settings", {"x": 0}, Tick(10, "p1"), 1000)
    found = conflicts(edited(base, {"x": 1}, Tick(20, "p1"), 2000), edited(base, {"x": True}, Tick(20, "s1"), 2000))
    assert [one.document["field"] for one in found] == ["x"]
