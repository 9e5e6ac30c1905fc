"""Plays one row on a stage and judges it by the journals, the stores, and what the servers tell others."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple

from matrix.hosts import AFTER, HOLD, wait
from matrix.rows import DUAL, Row, Step
from matrix.seen import Decision, nobody, together
from vmctl.clock import parse_rfc3339, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matrix.stage import Stage


class Measured(NamedTuple):
    """What a row took, in seconds; None where there was none.

    `failover` counts from the last echo until a server takes the service, `failback` from the end of the hold-down (or
    of the last call) until the home has the service again: no later than that the gate opens.
    """

    story: tuple[str, ...]
    failover: float | None
    failback: float | None
    nobody: float
    both: float


def play(stage: Stage, row: Row) -> Measured:
    """Play it from normal operation to normal operation.

    Raises AssertionError with what was not as the row says, and an account of what was done and decided when.
    """
    done: list[tuple[int, str]] = []
    stage.pulse.longest = 0.0
    try:
        return _play(stage, row, done)
    except BaseException as error:
        error.add_note(account(stage, done))
        raise


def was_fair(stage: Stage) -> bool:
    """Whether the machine kept nobody waiting for so long that silence may have been its own."""
    return stage.pulse.longest < AFTER / 4


def account(stage: Stage, done: list[tuple[int, str]]) -> str:
    """What was done and what the journals say since the row began, a line each."""
    lines = list(done)
    for name, host in stage.hosts.items():
        for entry in host.book.entries():
            view, seen = entry.get("to") or {}, entry.get("evidence") or {}
            words = [str(entry.get(word)) for word in ("kind", "service", "by", "reason")]
            words += [f"{word}={view.get(word)}" for word in ("serving", "state", "cause", "epoch")]
            words += [
                f"{word}={seen.get(word)}" for word in ("heard", "silent_for", "started_for", "cut_off", "permit")
            ]
            lines.append((parse_rfc3339(entry["at"]), f"  {name}: {' '.join(words)}"))
    return "\n".join(f"{rfc3339(at)[11:23]} {words}" for at, words in sorted(lines))


def _play(stage: Stage, row: Row, done: list[tuple[int, str]]) -> Measured:
    began = stage.clock.wall()
    for host in stage.hosts.values():
        host.book.mark()
        host.gone.clear()
        host.ends.clear()
    stage.calls.clear()
    with _watching(stage):
        stage.leave()
        for at, step in enumerate(row.steps):
            done.append((stage.clock.wall(), step.does))
            stage.do(step.does)
            _follows(stage, row, row.steps[: at + 1])
            if _quiet(step) and at + 1 < len(row.steps) and not stage.streams:
                stage.leave()
        done.append((stage.clock.wall(), "normal operation is awaited"))
        stage.normal()
        stage.leave()
        stage.normal()
    ended = stage.clock.wall()
    _judge_journals(stage, row)
    assert stage.lost() == []
    verified = stage.hosts["primary"].net.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    _judge_routes(stage)
    return _measure(stage, row, began, ended)


def _quiet(step: Step) -> bool:
    """Whether a message is left after it: not where nothing was done to anybody."""
    return step.does.split()[0] not in {"unheard", "outlive", "call", "hangup", "stream", "dam", "command"}


@contextlib.contextmanager
def _watching(stage: Stage) -> Iterator[None]:
    """With an arbiter, routes.json never names two servers at one moment."""
    if not stage.kind.etcd:
        yield
        return
    sampler = stage.sampler()
    try:
        yield
    finally:
        sampler.close()
    assert sampler.looks > 0
    assert sampler.twice == [], "two servers said at one moment that they serve"


def decisions(stage: Stage, service: str) -> list[Decision]:
    """What both servers decided of a service in this row, in the order of time."""
    found = [one for host in stage.hosts.values() for one in host.book.decisions() if one.service == service]
    return sorted(found, key=lambda one: one.at)


def _expected(stage: Stage, row: Row, steps: tuple[Step, ...], service: str) -> str:
    """A regular expression for all that is to be decided of a service."""
    other = service == "secondary" and (stage.kind.mode == DUAL or row.apart)
    parts = [step.other if other else step.then for step in steps]
    return ", ".join(part for part in parts if part)


def _follows(stage: Stage, row: Row, steps: tuple[Step, ...]) -> None:
    for service in stage.hosts["primary"].net.config.services:
        expected = _expected(stage, row, steps, service)

        def so(service: str = service, expected: str = expected) -> bool:
            return re.fullmatch(expected, _story(stage, service)) is not None

        def more(service: str = service, expected: str = expected) -> str:
            return f"{service} went: {_story(stage, service)}; expected: {expected}; now {stage.told()}"

        wait(so, f"what follows '{steps[-1].does}'", more)


def _story(stage: Stage, service: str) -> str:
    return ", ".join(one.words for one in decisions(stage, service))


def _judge_journals(stage: Stage, row: Row) -> None:
    """Both are whole, tell of the same views, and adopted nothing that nobody decided."""
    for name, host in stage.hosts.items():
        assert host.book.verify() == [], f"the journal of {name}"
    one, other = (host.book.views() for host in stage.hosts.values())
    for service, view in one.items():
        assert (view.epoch, view.serving) == (other[service].epoch, other[service].serving)
        found = decisions(stage, service)
        assert re.fullmatch(_expected(stage, row, row.steps, service), _story(stage, service)), _story(stage, service)
        made = {(tuple(each.entry["to"]["epoch"]), each.entry["to"]["serving"]) for each in found}
        before = [host.book.before[service] for host in stage.hosts.values()]
        for name, host in stage.hosts.items():
            for entry in host.book.transitions():
                view_of = (tuple(entry["to"]["epoch"]), entry["to"]["serving"])
                if entry["service"] == service and entry["by"] == "peer":
                    assert view_of in made or view_of[1] in before, f"{name} adopted {entry}, which nobody decided"
    if stage.calls:
        homeward = [one.at for one in decisions(stage, "primary") if one.words.endswith("normal gate")]
        assert all(at >= stage.calls[-1] for at in homeward), "a call in progress was cut"


def _judge_routes(stage: Stage) -> None:
    """At the end `vmctl route` names the home of each service, on both hosts."""
    homes = stage.hosts["primary"].net.config.homes(stage.mode)
    for host in stage.hosts.values():
        told = json.loads(host.net.do("route", "--all", "--json"))
        assert {one["service"]: one["serving"] for one in told} == homes


def _measure(stage: Stage, row: Row, began: int, ended: int) -> Measured:
    services = list(stage.hosts["primary"].net.config.services)
    alone, shared = 0, 0
    for service in services:
        spans = []
        for host in stage.hosts.values():
            gone = [(begin or began, end or ended) for begin, end in host.gone]
            spans += host.book.spans(service, began, ended, ends=host.ends, gone=gone)
        alone = max(alone, nobody(spans, began, ended))
        shared = max(shared, together(spans))
        assert row.both or together(spans) == 0 or stage.kind.etcd, f"two servers served {service}: {spans}"
    found = [one for service in services for one in decisions(stage, service)]
    told = _story(stage, services[0]), _story(stage, services[1])
    held = any(step.does.endswith(" pause") for step in row.steps)  # then a person decides how long it takes
    return Measured(
        tuple(dict.fromkeys(told)),
        max((late for one in found if (late := _failover(one)) is not None and not held), default=None),
        max((late for one in found if (late := _failback(stage, one)) is not None), default=None),
        alone / 1e6,
        shared / 1e6,
    )


def _failover(one: Decision) -> float | None:
    before, after, seen = (one.entry[name] for name in ("from", "to", "evidence"))
    if after["cause"] != "silence" or before["serving"] == after["serving"] or before["state"] == "starting":
        return None
    return float(seen["silent_for"]) if seen["silent_for"] is not None else AFTER


def _failback(stage: Stage, one: Decision) -> float | None:
    if one.words.split()[1:] != ["normal", "gate"] or one.entry["from"]["state"] != "recovering":
        return None
    home = one.entry["to"]["home"]
    taken = [
        parse_rfc3339(entry["at"])
        for entry in stage.hosts[home].book.transitions()
        if entry["service"] == one.service and entry["to"]["epoch"] == one.entry["to"]["epoch"]
    ]
    opened = max([one.at - int((one.entry["evidence"]["in_state_for"] - HOLD) * 1e6), *stage.calls])
    return (taken[0] - opened) / 1e6 if taken else None
