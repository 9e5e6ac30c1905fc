"""Callflows: the faults that are told, each with its place, and the promise of a faultless one."""

from __future__ import annotations

import copy
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vmctl import schedule, yamltext
from vmctl.callflow import CALENDAR_RULE, NODES, SCHEMA, TOP, WEEK_RULE, check, is_checked

DOCS = (Path(__file__).parent.parent / "docs" / "callflows.md").read_text(encoding="utf-8")
PROMPTS = {"welcome", "menu", "closed", "goodbye"}
MAILBOXES = {"2001", "2006"}
TEXTS = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
EXAMPLES = [yamltext.load(text, "callflows.md") for text in TEXTS]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars | st.sampled_from([*NODES, "a", "b", "default", "mon-fri", "09:00-17:30", "12-25", "Europe/London"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def faults(document: Any) -> list[dict[str, str]]:
    """The faults of a callflow among the prompts and mailboxes of these tests."""
    return check(document, prompts=PROMPTS, mailboxes=MAILBOXES)


def keys(document: Any) -> list[str]:
    """The places of the faults."""
    return [fault["key"] for fault in faults(document)]


def flow(**nodes: Any) -> dict[str, Any]:
    """A callflow that begins at its first node."""
    return {"schema": SCHEMA, "start": {"default": next(iter(nodes), "end")}, "nodes": nodes}


def hours(**parts: Any) -> dict[str, Any]:
    """A callflow with one schedule and one end."""
    node = {"type": "schedule", "zone": "Europe/London", **parts}
    return flow(hours=node, end={"type": "hangup"})


def week(*rules: tuple[Any, list[Any]]) -> list[dict[str, Any]]:
    """Rules of the week: days and hours."""
    return [{"days": days, "hours": times, "next": "end"} for days, times in rules]


def dates(*rules: list[str]) -> list[dict[str, Any]]:
    """Rules of the calendar."""
    return [{"dates": days, "next": "end"} for days in rules]


END = {"type": "hangup"}
PLAY = {"type": "play", "prompt": "welcome", "next": "end"}
MENU = {"type": "menu", "prompt": "menu", "choices": {"1": "end"}, "otherwise": "end"}
RECORD = {"type": "record", "mailbox": "2001"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_docs_are_faultless(example: dict[str, Any]) -> None:
    """Both worked examples pass their own check."""
    assert faults(example) == []
    assert is_checked(example)


def test_the_docs_have_two_examples() -> None:
    """A lost code fence would make the test above pass over nothing; a reader of YAML 1.1 finds the same values."""
    assert [yaml.safe_load(text) for text in TEXTS] == EXAMPLES
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("kind", NODES)
def test_docs_table_of_each_node_is_the_code_s(kind: str) -> None:
    """The docs list each key of each node, and say rightly whether it must be there."""
    section = DOCS.split(f"### `{kind}`:")[1].split("\n#")[0].split("A rule has the keys")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", section, re.MULTILINE))
    assert {name: "yes" if part.must else "no" for name, part in NODES[kind].items()} == rows


def test_docs_tables_of_the_document_and_of_rules_are_the_code_s() -> None:
    """The docs list each key of the document and of a schedule's rules."""
    whole = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", DOCS.split("## Nodes")[0], re.MULTILINE))
    rules = re.findall(r"^\| `(\w+)` \|", DOCS.split("A rule has the keys")[1].split("How it decides")[0], re.MULTILINE)
    assert {name: "yes" if part.must else "no" for name, part in TOP.items()} == whole
    assert {*WEEK_RULE, *CALENDAR_RULE} == set(rules)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"schema": "vmctl/1"}, True),
        ({"schema": "vmctl/2"}, True),
        ({"schema": "other"}, False),
        ({"schema": 1}, False),
        ({}, False),
        ([], False),
    ],
)
def test_only_a_callflow_that_claims_a_schema_of_vmctl_is_checked(document: Any, expected: bool) -> None:
    """Files of other applications are never judged; a typo in our own schema is."""
    assert expected == is_checked(document)


@pytest.mark.parametrize("document", [{}, {"schema": "vmctl/2", "nodes": 7}, {"schema": None}])
def test_unknown_schema_is_the_only_fault(document: Any) -> None:
    """A document of another language is not judged by this one."""
    assert keys(document) == ["schema"]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_mapping_is_one_fault_of_the_whole(document: Any) -> None:
    """The key of the whole document is a dot."""
    assert keys(document) == ["."]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({"schema": SCHEMA}, ["start", "nodes"], id="nothing in it"),
        pytest.param({**flow(end=END), "titel": "x"}, ["titel"], id="unknown top key"),
        pytest.param({**flow(end=END), "title": 7}, ["title"], id="title is no text"),
        pytest.param({**flow(end=END), "title": "x" * 201}, ["title"], id="title too long"),
        pytest.param({**flow(end=END), "start": []}, ["start", "nodes.end"], id="start is a list"),
        pytest.param({**flow(end=END), "start": {"2001": "end"}}, ["start.default"], id="no default"),
        pytest.param(
            {**flow(end=END), "start": {"default": "end", "20 01": "end"}}, ["start.'20 01'"], id="cannot be dialled"
        ),
        pytest.param({**flow(end=END), "nodes": {}}, ["start.default", "nodes"], id="no nodes"),
        pytest.param(flow(end=[]), ["nodes.end"], id="a node is a list"),
        pytest.param(flow(end={}), ["nodes.end.type"], id="no type"),
        pytest.param(flow(end={"type": "hang"}), ["nodes.end.type"], id="unknown type"),
        pytest.param(flow(end={"type": ["hangup"]}), ["nodes.end.type"], id="a list as type"),
        pytest.param(flow(**{"a.b": END}), ["nodes.'a.b'"], id="bad name of a node"),
        pytest.param(flow(a={**PLAY, "prompts": "x"}, end=END), ["nodes.a.prompts"], id="unknown key"),
        pytest.param(flow(a={"type": "play", "next": "end"}, end=END), ["nodes.a.prompt"], id="missing key"),
        pytest.param(flow(a={**PLAY, "prompt": "welcom"}, end=END), ["nodes.a.prompt"], id="unknown prompt"),
        pytest.param(flow(a={**PLAY, "prompt": 4}, end=END), ["nodes.a.prompt"], id="prompt is a number"),
        pytest.param(flow(a={"type": "play", "prompt": "menu"}), ["nodes.a.next"], id="dead end"),
        pytest.param(flow(a={**PLAY, "next": "eend"}, end=END), ["nodes.a.next"], id="goto nowhere"),
        pytest.param(flow(a={**RECORD, "mailbox": "2002"}), ["nodes.a.mailbox"], id="unknown mailbox"),
        pytest.param(flow(a={**RECORD, "mailbox": 2001}), ["nodes.a.mailbox"], id="mailbox is a number"),
        pytest.param(
            flow(a={"type": "greet", "mailbox": "1", "greeting": "bussy", "next": "end"}, end=END),
            ["nodes.a.mailbox", "nodes.a.greeting"],
            id="greeting",
        ),
        pytest.param(flow(a={**RECORD, "longest": 0}), ["nodes.a.longest"], id="too short"),
        pytest.param(flow(a={**RECORD, "longest": True}), ["nodes.a.longest"], id="true is no number"),
        pytest.param(flow(a={**RECORD, "longest": "60"}), ["nodes.a.longest"], id="text is no number"),
        pytest.param(flow(a={**MENU, "choices": {}}, end=END), ["nodes.a.choices"], id="no choices"),
        pytest.param(
            flow(a={**MENU, "choices": {"1": "end", "12": "end", "A": "end", "": "end", "#": "end"}}, end=END),
            ["nodes.a.choices.12", "nodes.a.choices.A", "nodes.a.choices.''"],
            id="digits",
        ),
        pytest.param(flow(a={**MENU, "choices": {1: "end", "1": "end"}}, end=END), ["nodes.a.choices.1"], id="doubled"),
        pytest.param(
            flow(a={"type": "menu", "prompt": "menu", "choices": {"1": "a"}}),
            ["nodes.a.otherwise"],
            id="menu without otherwise",
        ),
        pytest.param(flow(a={"type": "transfer", "to": "+44 20 7946 0100"}), ["nodes.a.to"], id="spaces in a number"),
        pytest.param(flow(a=END, b=END), ["nodes.b"], id="unreachable"),
        pytest.param(flow(a=END, b={**PLAY, "next": "c"}, c={**PLAY, "next": "b"}), ["nodes.b", "nodes.c", "nodes.b"]),
    ],
)
def test_each_fault_is_told_at_its_place(document: Any, expected: list[str]) -> None:
    """One thing wrong gives its fault and no other."""
    assert expected == keys(document)


def test_all_faults_are_told_at_once() -> None:
    """A fault in each node and two of the way through: all are listed, the way's last."""
    document = flow(
        a={**PLAY, "prompt": "x", "next": "a"},
        b={**MENU, "choices": {"7": "nowhere"}, "otherwise": "end", "wait": 0},
        end=END,
    )
    expected = ["nodes.a.prompt", "nodes.b.choices.7", "nodes.b.wait", "nodes.b", "nodes.end", "nodes.a"]
    assert expected == keys(document)


def test_every_fault_has_a_reason_and_a_mend() -> None:
    """A person can act on each fault."""
    for fault in faults({"schema": SCHEMA, "x": 1, "start": {"": 1}, "nodes": {"a": {"type": "schedule"}}}):
        assert {"key", "why", "mend"} == set(fault)
        assert all(fault.values())


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (flow(a={**PLAY, "next": "message-2001"}, message_2001=RECORD), "did you mean 'message_2001'?"),
        (flow(a={**PLAY, "prompt": "welcom"}, end=END), "did you mean 'welcome'?"),
        (flow(a={"type": "recrod", "mailbox": "2001"}), "did you mean 'record'?"),
        (flow(a={**RECORD, "longst": 60}), "did you mean 'longest'?"),
    ],
)
def test_a_slip_is_guessed_and_stays_one_fault(document: Any, expected: str) -> None:
    """The near name is offered, and what it meant to lead to is not called unreachable as well."""
    assert [expected] == [fault["mend"] for fault in faults(document)]


def test_nodes_named_by_a_node_of_unknown_type_count_as_reached() -> None:
    """A slip in the type does not bring a second fault for every node behind it."""
    assert keys(flow(a={**MENU, "type": "mneu", "choices": {"1": "b"}}, b=END, end=END)) == ["nodes.a.type"]


# Rings.


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(flow(a={**PLAY, "next": "a"}), id="itself"),
        pytest.param(flow(a={**PLAY, "next": "b"}, b={**PLAY, "next": "a"}), id="two"),
        pytest.param(flow(a={**MENU, "otherwise": "a"}, end=END), id="a menu that waits for ever"),
        pytest.param(
            flow(a={**MENU, "choices": {"1": "b"}, "otherwise": "b"}, b={**RECORD, "next": "a"}), id="fills a mailbox"
        ),
        pytest.param(
            flow(
                a={"type": "schedule", "zone": "UTC", "week": week((["mon"], ["00:00-24:00"])), "otherwise": "a"},
                end=END,
            ),
            id="until Monday",
        ),
    ],
)
def test_a_silent_caller_may_not_go_round_for_ever(document: Any) -> None:
    """A ring without a pressed key is one fault, at its first node, and names the ring."""
    found = faults(document)
    assert [fault["key"] for fault in found] == ["nodes.a"]
    assert re.search(r"never leaves: a -> .*a$", found[0]["why"])


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(flow(a={**MENU, "choices": {"1": "a"}}, end=END), id="a key repeats the menu"),
        pytest.param(
            flow(a={**MENU, "otherwise": "b"}, b={"type": "transfer", "to": "0", "otherwise": "a"}, end=END),
            id="somebody may take the call",
        ),
    ],
)
def test_a_ring_with_a_way_out_is_no_fault(document: Any) -> None:
    """A ring that needs a pressed key, or goes through a transfer, is how attendants are built."""
    assert faults(document) == []


def test_two_rings_through_one_node_are_two_faults() -> None:
    """Mending one of them is not enough, so both are told."""
    document = flow(
        a={"type": "schedule", "zone": "UTC", "week": week((["mon"], ["00:00-12:00"])), "otherwise": "c"},
        b={**PLAY, "next": "a"},
        c={**PLAY, "next": "a"},
    )
    document["nodes"]["a"]["week"][0]["next"] = "b"
    assert keys(document) == ["nodes.a", "nodes.a"]


# Schedules.


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(hours(otherwise="end"), ["nodes.hours.week"], id="no rule"),
        pytest.param(hours(week=[], otherwise="end"), ["nodes.hours.week"], id="empty"),
        pytest.param(hours(week=week((["mon-sun"], ["00:00-24:00"]))), [], id="the whole week"),
        pytest.param(hours(week=week((["sat-fri"], ["00:00-12:00", "12:00-24:00"]))), [], id="past the week's end"),
        pytest.param(hours(week=week((["mon-sun"], ["00:00-23:59"]))), ["nodes.hours.otherwise"], id="a minute short"),
        pytest.param(hours(calendar=dates(["12-25"])), ["nodes.hours.otherwise"], id="dates only"),
        pytest.param(hours(week=week((["mon"], ["24:00-09:00"])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(hours(week=week((["mon"], ["9:00-17:00"])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(hours(week=week((["mon"], ["09:60-17:00"])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(hours(week=week((["mon"], ["09:00-25:00"])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(hours(week=week((["mon"], ["24:00-24:01"])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(hours(week=week((["Mon"], ["09:00-17:00"])), otherwise="end"), ["nodes.hours.week.0.days.0"]),
        pytest.param(hours(week=week(("mon", ["09:00-17:00"])), otherwise="end"), ["nodes.hours.week.0.days"]),
        pytest.param(hours(week=week((["mon"], [540])), otherwise="end"), ["nodes.hours.week.0.hours.0"]),
        pytest.param(
            hours(week=week((["mon-fri"], ["09:00-17:00"]), (["fri-sat"], ["16:59-20:00"])), otherwise="end"),
            ["nodes.hours.week.1"],
            id="overlap of a minute",
        ),
        pytest.param(
            hours(week=week((["mon-fri"], ["09:00-17:00"]), (["fri-sat"], ["17:00-20:00"])), otherwise="end"),
            [],
            id="ends touch",
        ),
        pytest.param(
            hours(calendar=dates(["2026-02-29"]), otherwise="end"),
            ["nodes.hours.calendar.0.dates.0"],
            id="no leap year",
        ),
        pytest.param(hours(calendar=dates(["02-29"]), otherwise="end"), [], id="leap day each year"),
        pytest.param(hours(calendar=dates(["02-30"]), otherwise="end"), ["nodes.hours.calendar.0.dates.0"]),
        pytest.param(hours(calendar=dates(["20261225"]), otherwise="end"), ["nodes.hours.calendar.0.dates.0"]),
        pytest.param(
            hours(calendar=dates(["2026-12-26/2026-12-24"]), otherwise="end"), ["nodes.hours.calendar.0.dates.0"]
        ),
        pytest.param(
            hours(calendar=dates(["2026-01-01/2027-01-02"]), otherwise="end"), ["nodes.hours.calendar.0.dates.0"]
        ),
        pytest.param(
            hours(calendar=dates(["2026-12-24/2027-01-02"], ["2027-01-02/2027-01-03"]), otherwise="end"),
            ["nodes.hours.calendar.1"],
            id="two ranges share a day",
        ),
        pytest.param(
            hours(calendar=dates(["2026-12-24/2027-01-02"], ["01-01"]), otherwise="end"),
            ["nodes.hours.calendar.1"],
            id="a yearly day in a range",
        ),
        pytest.param(hours(calendar=dates(["12-25"], ["12-25"]), otherwise="end"), ["nodes.hours.calendar.1"]),
        pytest.param(hours(calendar=dates(["12-25"], ["2026-12-26", "01-01"]), otherwise="end"), []),
        pytest.param(
            hours(calendar=dates(["02-29"], ["2026-01-01/2026-12-31"]), otherwise="end"), [], id="no such day"
        ),
        pytest.param(
            hours(
                calendar=[
                    {"dates": ["12-24"], "hours": ["00:00-12:00"], "next": "end"},
                    {"dates": ["2026-12-24"], "hours": ["12:00-24:00"], "next": "end"},
                ],
                otherwise="end",
            ),
            [],
            id="one day in two parts",
        ),
    ],
)
def test_schedules_are_unambiguous_and_whole(document: Any, expected: list[str]) -> None:
    """Bad times, overlaps and gaps are told at their rule; times that only touch are fine."""
    assert expected == keys(document)


def test_an_overlap_names_its_first_minute() -> None:
    """A person sees when two rules hold."""
    found = faults(hours(week=week((["mon"], ["09:00-17:00"]), (["mon"], ["16:30-20:00"])), otherwise="end"))
    assert found[0]["why"] == "at mon 16:30 an earlier rule of the week holds too"


@pytest.mark.parametrize("zone", ["Europe/London", "UTC", "America/Argentina/Ushuaia", "Etc/GMT+5"])
def test_zones_of_the_database_are_known(zone: str) -> None:
    """IANA names are taken."""
    assert keys(hours(zone=zone, calendar=dates(["12-25"]), otherwise="end")) == []


@pytest.mark.parametrize(
    "zone",
    ["Europe/Londn", "Europe", "../../etc/passwd", "/etc/localtime", "localtime", "", "A" * 5000, "UTC\0", 7, None],
)
def test_zones_that_are_none_are_a_fault(zone: Any) -> None:
    """Nothing that is not a plain name is looked up, and what is not there is told."""
    assert keys(hours(zone=zone, calendar=dates(["12-25"]), otherwise="end")) == ["nodes.hours.zone"]


def test_a_machine_without_a_zone_database_takes_well_formed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package on this machine is no fault of the callflow."""
    monkeypatch.setattr(schedule, "_in_database", lambda _name: False)
    assert schedule.is_zone("Europe/London")
    assert not schedule.is_zone("../etc/passwd")


# Any value, any size.


@given(values)
def test_nothing_raises_on_any_value(value: Any) -> None:
    """Whatever stands in a file, the check answers with faults."""
    for document in (value, {"schema": SCHEMA, "start": value, "nodes": {"a": value, "b": END}}):
        assert all(isinstance(word, str) and word for fault in faults(document) for word in fault.values())


@given(st.sampled_from([*NODES, "week", "calendar"]), st.data())
def test_nothing_raises_on_any_value_of_any_key(kind: str, data: st.DataObject) -> None:
    """Each key of each node takes any value without harm."""
    if kind in NODES:
        node = {name: data.draw(values) for name in NODES[kind]} | {"type": kind}
    else:
        table = WEEK_RULE if kind == "week" else CALENDAR_RULE
        node = {"type": "schedule", kind: [{name: data.draw(values) for name in table}]}
    assert faults(flow(a=node))


@given(st.integers(0, 60), st.data())
def test_a_broken_example_tells_where(place: int, data: st.DataObject) -> None:
    """One value of the attendant replaced by rubbish: the fault's path begins where it was, or its node is cut off."""
    document = copy.deepcopy(EXAMPLES[1])
    name = sorted(document["nodes"])[place % len(document["nodes"])]
    key = sorted(document["nodes"][name])[place % len(document["nodes"][name])]
    document["nodes"][name][key] = data.draw(st.integers(10**6) | st.just([]) | st.just("!"))
    assert any(fault["key"].startswith(f"nodes.{name}.{key}") for fault in faults(document))


@given(st.data())
def test_in_a_faultless_callflow_a_silent_caller_comes_to_an_end(data: st.DataObject) -> None:
    """Walked by a caller who presses nothing, at any hour, every faultless graph ends."""
    names = [f"n{number}" for number in range(data.draw(st.integers(1, 6)))]
    pick = st.sampled_from(names)
    nodes = {name: data.draw(st.sampled_from([END, RECORD, PLAY, MENU, "schedule", "transfer"])) for name in names}
    for name, node in nodes.items():
        if node == "schedule":
            rules = [{"days": ["mon"], "next": data.draw(pick)}]
            nodes[name] = {"type": "schedule", "zone": "UTC", "week": rules, "otherwise": data.draw(pick)}
        elif node == "transfer":
            nodes[name] = {"type": "transfer", "to": "0", "otherwise": data.draw(pick)}
        elif node is not END and node is not RECORD:
            nodes[name] = {**node, ("next" if node is PLAY else "otherwise"): data.draw(pick)}
            if node is MENU:
                nodes[name]["choices"] = {"1": data.draw(pick)}
    document = flow(**nodes)
    document["start"] = {"default": "n0"} | {str(place): name for place, name in enumerate(names)}
    rings = [fault for fault in faults(document) if "never leaves" in fault["why"]]
    assert faults(document) == rings
    assert (not rings) == all(_ends(nodes, name, len(names)) for name in names)


def _ends(nodes: dict[str, Any], name: str, steps: int) -> bool:
    """Whether every silent walk from a node ends; a walk with more steps than nodes goes round."""
    node = nodes[name]
    follow = {
        "play": [node.get("next")],
        "menu": [node.get("otherwise")],
        "schedule": [*(rule["next"] for rule in node.get("week", [])), node.get("otherwise")],
    }.get(node["type"], [])
    return all(steps > 0 and _ends(nodes, target, steps - 1) for target in follow)


def test_more_nodes_than_allowed_is_one_fault() -> None:
    """A thousand nodes pass, one more does not."""
    line = {f"n{number}": {**PLAY, "next": f"n{number + 1}"} for number in range(999)}
    assert keys(flow(**line, n999=END)) == []
    assert keys(flow(**line, n999=PLAY, end=END)) == ["nodes"]


def test_more_dates_than_allowed_is_told() -> None:
    """Dates are compared with each other, so their number is bounded."""
    days = [
        f"{year}-{month:02d}-{day:02d}" for year in range(2026, 2030) for month in range(1, 13) for day in range(1, 25)
    ]
    assert keys(hours(calendar=dates(*[[day] for day in days[:1000]]), otherwise="end")) == []
    assert keys(hours(calendar=dates(*[[day] for day in days]), otherwise="end")) == ["nodes.hours.calendar.1000"]


def test_deep_and_long_values_are_named_in_a_few_words() -> None:
    """Neither a tower of lists nor a number of many digits nor a long name gets into the words."""
    tower: list[Any] = []
    for _ in range(100_000):
        tower = [tower]
    document = flow(a={**RECORD, "longest": 10**5000, "mailbox": tower, "x" * 9999: 1, "\ud800\n": 2})
    assert all(len(word) < 300 and word.isprintable() for fault in faults(document) for word in fault.values())


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(flow(**{f"n{at}": {**PLAY, "next": f"x{at}", "prompt": "wel"} for at in range(1000)}), id="slips"),
        pytest.param(flow(**{f"n{at}": {**PLAY, "next": f"n{at}"} for at in range(1000)}), id="rings"),
        pytest.param(flow(a=dict.fromkeys(map(str, range(50_000)), 1) | {"type": "play"}), id="unknown keys"),
        pytest.param(
            hours(calendar=dates(*[["2026-01-01/2026-12-31"] for _ in range(1000)]), otherwise="end"), id="overlaps"
        ),
    ],
)
def test_a_hostile_document_is_judged_in_bounded_time(document: Any) -> None:
    """The worst that fits into a file takes a moment, not minutes."""
    began = time.process_time()
    assert faults(document)
    assert time.process_time() - began < 10
