"""Errors: the tree that people read is the one that programs meet, and each exit code means one thing."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from vmctl import errors
from vmctl.errors import VmctlError

CLASSES = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, VmctlError)
]  # fmt: skip
LEAVES = [one for one in CLASSES if not one.__subclasses__()]
_LINE = re.compile(r"(?P<lead>[ |]*(?:\+-- )?)(?P<name>[A-Z]\w+) +(?P<code>\d+(?:\.\.\d+)?)(?P<retry>  \(try again\))?")


def drawn():
    """The tree of the docstring: for each name its base's name, its code or range, and whether trying again helps."""
    found, path = {}, []
    for line in errors.__doc__.splitlines():
        match = _LINE.match(line.removeprefix("    "))
        if not line.startswith("    ") or not match:
            continue
        level = len(match["lead"]) // 4
        path[level:] = [match["name"]]
        found[match["name"]] = (path[level - 1] if level else None, match["code"], match["retry"] is not None)
    return found


def test_the_drawn_tree_is_the_tree_of_the_classes():
    """Name, base, exit code and retry mark of each class stand in the docstring, in order, and no others."""
    tree = drawn()
    assert [one.__name__ for one in CLASSES] == list(tree)
    for one in CLASSES:
        base, code, retry = tree[one.__name__]
        assert base == (None if one is VmctlError else one.__base__.__name__), one
        assert str(one.exit_code) == code.partition("..")[0], one
        assert one.retry == retry, one


def test_each_code_is_one_error():
    """Apart from bases, which share their first leaf's, no code is used twice; 0 and 2 are taken by the shell's use."""
    codes = [one.exit_code for one in LEAVES]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2} & set(codes)
    assert max(codes) < 126


def test_each_code_lies_in_its_bases_ten():
    """A script can tell the subject from the tens."""
    for name, (base, code, _) in drawn().items():
        first, _, last = drawn()[base][1].partition("..") if base else (code, "", "")
        if last:
            assert int(first) <= int(code) <= int(last), name


@pytest.mark.parametrize("one", CLASSES, ids=lambda one: one.__name__)
def test_each_error_tells_what_it_is(one):
    """One sentence on what happened, and words that survive into JSON."""
    words = [[]] if "faults" in inspect.signature(one).parameters else []
    error = one("it broke", *words, why="because")
    assert (one.__doc__ or "").strip().endswith(".")
    assert str(error) == "it broke"
    value = json.loads(json.dumps(error.as_json()))
    assert value["error"] == one.__name__
    assert (value["what"], value["why"], value["exit_code"], value["retry"]) == (
        "it broke",
        "because",
        one.exit_code,
        one.retry,
    )


@pytest.mark.parametrize("one", LEAVES, ids=lambda one: one.__name__)
def test_each_error_says_what_to_do(one):
    """Only names and values, whose checks give their own, leave the hint to the place that raises."""
    own = one.hint != VmctlError.hint
    assert own or one in {errors.BadName, errors.BadValue}


def test_a_hint_of_its_own_goes_before():
    """Who raises an error may know better than its class; the class stays as it was."""
    assert errors.NotFound("x", hint="look elsewhere").hint == "look elsewhere"
    assert errors.NotFound("x").hint == errors.NotFound.hint
    assert errors.NotFound("x", hint="").hint == ""


def test_errors_with_faults_list_them():
    """A config or a callflow with faults carries them all to JSON."""
    faults = [{"key": "a", "why": "b"}]
    for one in (errors.ConfigFaults, errors.CallflowFaults):
        assert one("x", faults, hint="h").as_json()["faults"] == faults


def test_replies_to_mail_are_smtp_replies():
    """What may be sent again is a 4xx, what never will be taken a 5xx, each with its enhanced code (RFC 3463)."""
    for one in errors.MailError, *errors.MailError.__subclasses__():
        code, enhanced = one.smtp_reply.split()
        assert code[0] == enhanced[0] == ("4" if one.retry else "5")
        assert re.fullmatch(r"[45]\d\d", code)
        assert re.fullmatch(r"[45]\.\d{1,3}\.\d{1,3}", enhanced)
