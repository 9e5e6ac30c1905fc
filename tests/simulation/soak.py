"""Many schedules, one seed after the other, from where the last run stopped; tells what was run, injected and found."""

import json
import multiprocessing
import queue
import signal
import time
from collections import Counter

from .kinds import DATA, ROLES
from .schedule import remove_directory
from .shrink import way_of
from .world import clean

_BATCH = 5


def soak(kind, state, seeds, first=None, jobs=2, seconds=float("inf"), *, show=print):
    """Run so many seeds for at most so long; gives the exit code: 1 where a schedule failed.

    `kind` is what is simulated. `state` is a directory: `next` holds the first seed that was not run, `<seed>.json` a schedule that failed. One that
    is interrupted tells what it has found so far, and the next one goes on from there.
    """
    state.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = first if first is not None else _next(state)
    began, counts, failures, done = time.monotonic(), Counter(), {}, 0
    todo = iter(range(start, start + seeds, _BATCH))
    last = start + seeds
    work, results = multiprocessing.Queue(), multiprocessing.Queue()
    workers = [multiprocessing.Process(target=_work, args=(kind.flag, work, results), daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    under_way, highest = set(), start
    try:
        while True:
            while (
                len(under_way) < jobs + 1
                and time.monotonic() - began < seconds
                and (batch := next(todo, None)) is not None
            ):
                work.put((batch, min(batch + _BATCH, last)))
                under_way.add(batch)
            if not under_way:
                break
            try:
                begin, stop, found, bad = results.get(timeout=1)
            except queue.Empty:
                if not all(worker.is_alive() for worker in workers):
                    raise RuntimeError("a worker died") from None
                continue
            under_way.remove(begin)
            done, highest = done + stop - begin, max(highest, stop)
            counts.update(found)
            for seed, (failure, schedule) in bad.items():
                failures[seed] = failure
                (state / f"{seed}.json").write_text(schedule)
                show(f"seed {seed}: {failure.strip().splitlines()[-1][:300]}")
    except KeyboardInterrupt:
        show("interrupted")
        for worker in workers:
            worker.terminate()
    finally:
        for _ in workers:
            work.put(None)
        for worker in workers:
            worker.join(10)
    if first is None:
        (state / "next").write_text(str(min(under_way, default=highest)))
    _report(kind, start, highest, done, time.monotonic() - began, counts, failures, show)
    return 1 if failures else 0


def _next(state):
    path = state / "next"
    return int(path.read_text()) if path.exists() else 0


def _work(flag, work, results):
    kind = {each.flag: each for each in (DATA, ROLES)}[flag]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the one who waits for the results
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while (batch := work.get()) is not None:
        counts, bad = Counter(), {}
        for seed in range(*batch):
            schedule = kind.schedule_of(seed)
            outcome = kind.run(schedule)
            counts.update(outcome.counts)
            if outcome.failure:
                bad[seed] = (outcome.failure, schedule.as_json())
        results.put((*batch, counts, bad))
    remove_directory()
    clean()


def _report(simulated, start, stop, done, took, counts, failures, show):
    show(f"{done} schedules, seeds {start} to {stop - 1}, in {took:.0f} s: {done / max(took, 0.001):.1f} a second")
    show(f"{counts.pop('mails', 0)} mails; {len(failures)} schedules failed")
    for kind in ("fault", "act"):
        found = {name.removeprefix(f"{kind}: "): n for name, n in counts.items() if name.startswith(f"{kind}: ")}
        show(f"{sum(found.values())} {kind}s: " + ", ".join(f"{name} {n}" for name, n in sorted(found.items())))
    if failures:
        show("ways: " + json.dumps(Counter(way_of(failure) for failure in failures.values())))
        show("failed: " + " ".join(map(str, sorted(failures))))
        show(
            f"replay one:  cd tests && python -m simulation {simulated.flag}replay SEED     (shrink SEED makes it small)"
        )
