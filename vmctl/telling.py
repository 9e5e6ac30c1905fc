"""What is still to be told to whom: transitions to hooks and webhooks, and to two hooks who serves now.

The journal is what is told of: it is durable and in order. For each *channel* a note in the index says up to which line
it was told, so that after a crash nothing is left out; something may be told twice. Channels:

- the hook `on_transition` and each webhook: every transition, in order, one at a time;
- for each service `on_active` and `on_standby`: what counts is whether this server serves it now. What is over before
  its hook succeeded is not told any more; a daemon that starts tells once how it is.

A hook is given up after `hooks.tries`, a webhook never. Programs run and posts go out in threads, so that nobody waits
for them; only the thread that calls `tick` touches journal and index.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from vmctl import beneath, hooks, notice, program
from vmctl.backoff import backoff
from vmctl.clock import Deadline
from vmctl.errors import JournalError, StoreError
from vmctl.model import canonical
from vmctl.view import View, fresh_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from vmctl.chain import Entry
    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.index import Index
    from vmctl.journal import Journal

    _Told = Callable[[str | None], None]  # is called with why it failed, or None

log = logging.getLogger("vmctl.telling")

_FIRST_RETRY, _LONGEST_RETRY = 0.5, 300.0
_AHEAD = 50  # transitions that a channel reads at once
_LOOKED_BACK = 500  # lines, for the transition that led to the present state
_GRACE = 3.0  # seconds that hooks have to end when vmctl stops
_DYING = 5.0  # seconds that those have to die which do not; one that cannot be killed is left alone


class _News(NamedTuple):
    """One thing to tell, and the line of the journal after which it was told."""

    document: dict[str, Any]
    seq: int
    digest: str


@dataclass(slots=True)
class _Channel:
    """One who is told one thing at a time. `failure` is what `vmctl status` shows, until something is told again."""

    kind: str  # hook, webhook, or service for the two hooks of one
    name: str
    most: int | None  # tries
    tell: Callable[[dict[str, Any], int, _Told], None]  # a document, the number of the try, what to call at its end
    tries: int = 0
    failure: dict[str, Any] | None = None
    busy: bool = False
    not_before: float = 0.0

    @property
    def key(self) -> str:
        """What it is called among the notes."""
        return f"{self.kind} {self.name}"

    def tried(self, why: str | None, document: dict[str, Any], clock: Clock) -> bool:
        """What became of a try; whether this is over: it was told, or is given up."""
        if why is None:
            self.tries, self.failure = 0, None
            return True
        since = self.failure["since"] if self.failure and self.tries else clock.wall()
        self.tries += 1
        over = self.most is not None and self.tries >= self.most
        about = {name: document[name] for name in ("hook", "service", "id")} | {"webhook": self.kind == "webhook"}
        self.failure = about | {"tries": self.tries, "since": since, "why": why, "given_up": over}
        self.not_before = 0.0 if over else clock.steady() + backoff(_FIRST_RETRY, self.tries, _LONGEST_RETRY)
        if over:
            self.tries = 0
        return over

    def over(self) -> None:
        """This was told, or is given up."""
        raise NotImplementedError


@dataclass(slots=True)
class _Transitions(_Channel):
    """A channel that is told every transition. Up to line `seq` of the journal, whose hash is `digest`, it was told."""

    seq: int = 0
    digest: str = ""
    ahead: deque[_News] = field(default_factory=deque)
    read: tuple[int, str] = (0, "")  # the line up to which `ahead` was read
    looked: object = None  # how the journal was when there was nothing more in it

    def as_note(self) -> dict[str, Any]:
        return {"seq": self.seq, "digest": self.digest, "tries": self.tries, "failure": self.failure}

    def next(self, journal: Journal, state: object, who: notice.Source) -> _News | None:
        """The next transition that is to be told; `state` changes when the journal grows."""
        if not self.ahead and self.looked != state:
            lines = list(islice(_lines_after(journal, *self.read), _AHEAD))
            for entry in lines:
                document = notice.of_transition(entry, who, self.name)
                self.read = (entry.get("seq", self.read[0]), entry.get("hash", self.read[1]))
                if document is not None:
                    self.ahead.append(_News(document, *self.read))
            self.looked = state if len(lines) < _AHEAD else None
        return self.ahead[0] if self.ahead else None

    def over(self) -> None:
        _, self.seq, self.digest = self.ahead.popleft()


@dataclass(slots=True)
class _Role(_Channel):
    """The channel of a service's two hooks. `told` is what the hook said that was begun last; `done` that it ended well."""

    kinds: frozenset[bool] = frozenset()  # whether there is a hook for serving, for not serving
    wanted: bool | None = None
    told: bool | None = None
    done: bool = False

    def as_note(self) -> dict[str, Any]:
        return {"told": self.told, "done": self.done, "tries": self.tries, "failure": self.failure}

    def want(self, active: bool) -> None:
        """How it is now."""
        if active != self.wanted:
            if self.wanted is not None:
                self.tries, self.failure, self.not_before = 0, None, 0.0
            self.wanted = active

    def over(self) -> None:
        self.done = True

    @property
    def due(self) -> bool:
        """Whether a hook is to be run."""
        if self.wanted is None or (self.wanted == self.told and self.done):
            return False
        if self.wanted not in self.kinds:
            self.told, self.done = self.wanted, True
            return False
        return True


_Done = tuple[_Channel, dict[str, Any], str | None]


class Teller:
    """Tells hooks and webhooks of one server. Everything but `wake` is called in the thread that made it."""

    def __init__(
        self, config: Config, server: str, journal: Journal, index: Index, clock: Clock,
        *, locked: Callable[[], AbstractContextManager[object]], wake: Callable[[], object], anew: bool = True,
        mode: Callable[[], str] | None = None,
    ) -> None:  # fmt: skip
        """`locked` holds the store's lock; `wake` is called by any thread when something was told, or was not.

        With `anew` it is a server that starts, which tells who serves even if it was told before. Raises StoreError.
        """
        self._config = config
        self._server = server
        self._mode = mode or (lambda: config.mode)
        self._journal = journal
        self._index = index
        self._clock = clock
        self._locked = locked
        self._wake = wake
        self._began = clock.steady()
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._stop = threading.Event()
        self._noted: dict[str, Any] = index.note(notice.NOTE) or {}
        self._transitions = self._transition_channels()
        self._roles = self._role_channels(anew=anew)
        self._views: dict[str, View] = {}
        self._last: dict[str, Entry] = {}
        self._line = 0
        self._seen: object = None
        self._note()

    def _transition_channels(self) -> list[_Transitions]:
        channels = []
        if self._config.hooks.on_transition:
            channels.append(_Transitions("hook", "on_transition", self._config.hooks.tries, self._run))
        channels += [_Transitions("webhook", name, None, self._post) for name in self._config.webhooks]
        for channel in channels:
            known = self._noted.get(channel.key)
            if known is None:  # nobody was told here yet: of what was before nobody need be
                last = next(self._journal.entries(limit=1), {})
                known = {"seq": last.get("seq", 0), "digest": last.get("hash", ""), "tries": 0, "failure": None}
            channel.seq, channel.digest = known["seq"], known["digest"]
            channel.read = (channel.seq, channel.digest)
            channel.tries, channel.failure = known["tries"], known["failure"]
        return channels

    def _role_channels(self, *, anew: bool) -> dict[str, _Role]:
        given = {True: self._config.hooks.on_active, False: self._config.hooks.on_standby}
        kinds = frozenset(active for active, command in given.items() if command)
        channels = {
            name: _Role("service", name, self._config.hooks.tries, self._run, kinds=kinds)
            for name in self._config.services
        }
        for channel in channels.values():
            known = self._noted.get(channel.key)
            if known is not None and not anew:
                channel.told, channel.done = known["told"], known["done"]
                channel.tries, channel.failure = known["tries"], known["failure"]
        return channels if kinds else {}

    @property
    def _channels(self) -> list[_Transitions | _Role]:
        return [*self._transitions, *self._roles.values()]

    # A turn

    def tick(self, serving: Mapping[str, bool]) -> None:
        """Begin to tell what is due, and note what was told. `serving`: by service, whether this server serves it now.

        A service that is not in it stays as it was: nobody knows. Raises StoreError.
        """
        if self._channels:
            self._settle()
            self._begin(serving)
            self._note()

    def _who(self) -> notice.Source:
        return notice.Source(self._config.network, self._mode(), self._server)

    def finish(self, serving: Mapping[str, bool], seconds: float) -> None:
        """Tell what is due now, for a process that ends: nothing is begun after `seconds`, or tried again.

        What is left then is told by the next process. Raises StoreError.
        """
        deadline = self._clock.steady() + seconds
        self.tick(serving)
        while any(channel.busy for channel in self._channels):
            left = deadline + self._config.hooks.timeout - self._clock.steady()  # no hook that was begun takes longer
            try:
                self._take(self._done.get(timeout=max(0.0, left)))
            except queue.Empty:
                break
            if self._clock.steady() < deadline:
                self.tick(serving)
        self._note()

    def close(self) -> None:
        """Stop: hooks that run have a moment to end, and are killed then; they are run again at the next start."""
        deadline = self._clock.steady() + _GRACE
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - self._clock.steady()))
        self._stop.set()
        for channel in self._channels:
            if channel.busy and channel.tell == self._run and channel.key in self._threads:
                self._threads[channel.key].join(_DYING)
        with contextlib.suppress(StoreError):  # then it is told twice
            self._settle()
            self._note()

    # What is due

    def _begin(self, serving: Mapping[str, bool]) -> None:
        now, state = self._clock.steady(), self._state()
        if self._roles:
            self._look(state)
        for channel in self._transitions:
            if not channel.busy and now >= channel.not_before:
                news = channel.next(self._journal, state, self._who())
                if news is not None:
                    self._hand_over(channel, news.document)
        for name, role in self._roles.items():
            view = self._views.get(name) or fresh_view(name, self._config.services[name].home)
            if name in serving and self._is_known(role, view, serving[name]):
                role.want(serving[name])
            if not role.busy and now >= role.not_before and role.due:
                active = role.told = bool(role.wanted)
                role.done = False
                hook = "on_active" if active else "on_standby"
                self._hand_over(role, notice.of_role(view, self._last.get(name), self._who(), hook, active=active))

    def _is_known(self, role: _Role, view: View, active: bool) -> bool:
        """Whether it is known who serves: a server that starts asks first. After its wait nobody serves, for all it knows.

        So it is at once where it was known before: then this server stepped aside.
        """
        waited = self._clock.steady() - self._began >= self._config.failover.start_wait
        return active or view.state != "starting" or role.wanted is not None or waited

    def _state(self) -> object:
        """What changes whenever the journal grows, or is another one."""
        try:
            status = beneath.status(self._journal.path)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _look(self, state: object) -> None:
        """Learn the views, and what led to them, from a journal that changed."""
        if state == self._seen:
            return
        try:
            self._views = self._journal.views({name: one.home for name, one in self._config.services.items()})
        except JournalError:
            return  # who serves is then not known either
        for entry in self._journal.entries(since=self._line, limit=_LOOKED_BACK):
            self._line = entry.get("seq", self._line)
            if entry.get("kind") == "transition" and "service" in entry:
                self._last[entry["service"]] = entry
        self._seen = state

    # Threads

    def _hand_over(self, channel: _Channel, document: dict[str, Any]) -> None:
        channel.busy = True
        attempt = channel.tries + 1

        def told(why: str | None) -> None:
            self._done.put((channel, document, why))
            self._wake()

        def work() -> None:
            try:
                channel.tell(document, attempt, told)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop must hear of it
                told(f"this is a bug: {type(error).__name__}: {error}")

        thread = threading.Thread(target=work, name=f"vmctl {channel.key}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            told(str(error))
        else:
            self._threads[channel.key] = thread

    def _run(self, document: dict[str, Any], _attempt: int, told: _Told) -> None:
        command = getattr(self._config.hooks, document["hook"])
        deadline = Deadline(self._clock, self._config.hooks.timeout, self._stop.is_set)
        hooks.run(command, document, told, config=self._config.path, deadline=deadline)

    def _post(self, document: dict[str, Any], attempt: int, told: _Told) -> None:
        from vmctl import webhooks  # who posts nothing need not load what speaks HTTP

        now = self._clock.wall() // 1_000_000
        told(webhooks.post(self._config.webhooks[document["hook"]], canonical(document), attempt=attempt, now=now))

    # What was told

    def _settle(self) -> None:
        """Take what threads have done."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._done.get_nowait())

    def _take(self, done: _Done) -> None:
        """What became of one try."""
        channel, document, why = done
        channel.busy = False
        if why == program.STOPPED or (isinstance(channel, _Role) and channel.told != channel.wanted):
            return  # the one is told again at the next start, the other is over: what is the case now is told next
        if why is not None:
            log.warning("%s of %s: %s", document["hook"], document["service"], why)
        if not channel.tried(why, document, self._clock):
            return
        if why is not None:
            self._give_up(document, why)
        channel.over()

    def _give_up(self, document: dict[str, Any], why: str) -> None:
        facts = {"hook": document["hook"], "id": document["id"], "tries": self._config.hooks.tries, "why": why}
        with self._locked():
            self._journal.tell(
                "a hook was given up",
                at=self._clock.wall(),
                server=self._server,
                service=document["service"],
                **facts,
            )

    def _note(self) -> None:
        notes = {channel.key: channel.as_note() for channel in self._channels}
        if notes != self._noted:
            with self._index.transaction():
                self._index.set_note(notice.NOTE, notes)
            self._noted = notes


def _lines_after(journal: Journal, seq: int, digest: str) -> Iterator[Entry]:
    """The lines after that one; all of them where the journal does not hold it: then it is another journal."""
    lines = journal.entries(since=max(seq - 1, 0))
    if seq:
        last = next(lines, {})
        if last.get("hash") != digest and last.get("kind") != "unreadable":
            return journal.entries(since=0)
    return lines
