"""routes.json: the answers of one server, for programs that cannot run vmctl; docs/routing.md is its contract.

It is written whole whenever an answer changed, and with an arbiter again when half of the time is over for which the
last one counts. Of the extensions it holds those that vmctl.yaml lists, and those whose mailbox names another service
than the first: what is not among them belongs to `default`. So it is small where there is one service.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from vmctl import durable
from vmctl.clock import parse_rfc3339, rfc3339
from vmctl.errors import BrokenFile, NotFound, StoreError, StoreNewer
from vmctl.routing import PARTS, Answer, Moment
from vmctl.view import STATES, Epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.index import Index

log = logging.getLogger("vmctl.routes")

NAME: Final = "routes.json"
VERSION: Final = 1
_MODE: Final = 0o644
_FAULT: Final = "vmctl:routes"
_NEVER: Final = float("inf")


class RoutesFile:
    """The file as one server writes it. For one thread: it reads the index."""

    def __init__(
        self,
        config: Config,
        server: str,
        index: Index,
        clock: Clock,
        state: Path,
        *,
        mode: Callable[[], str] | None = None,
    ) -> None:
        """`state` is where the server keeps what is its own; there the file is unless `routes.file` names another place."""
        self.path = config.routes.file or state / NAME
        self._config = config
        self._server = server
        self._mode = mode or (lambda: config.mode)
        self._index = index
        self._clock = clock
        self._default = next(iter(config.services))
        self._listed = {ext: service.name for service in config.services.values() for ext in service.extensions}
        self._named: dict[str, str] = {}
        self._seen = 0  # the number up to which changes of mailboxes are in `_named`
        self._body: dict[str, Any] | None = None
        self._until: Moment | None = None
        self._again = _NEVER
        self._failing = True  # what an earlier process left is looked at once

    @property
    def due(self) -> float:
        """When (steady seconds) it should be written again though no answer changed."""
        return self._again

    def tell(self, answers: Mapping[str, Answer]) -> bool:
        """Write the file if that is due; tells whether it was. One that cannot be written is named in `vmctl status`.

        Where there is none yet, none is made to say that nobody serves.
        """
        if self._body is None and not any(each.server for each in answers.values()) and not self.path.exists():
            return False
        now = Moment(self._clock.steady(), self._clock.boot())
        until = min((each.until for each in answers.values() if each.until), key=lambda end: end.steady, default=None)
        named_anew = self._take_names()
        body = self._services(answers)
        if body == self._body and not named_anew and not self._counts_longer(now, until):
            return False
        text = json.dumps(self._document(body, now, until), indent=1, ensure_ascii=False)
        try:
            durable.write(self.path, text.encode() + b"\n", mode=_MODE)
        except StoreError as error:
            self._body = None  # it is tried again with the next turn
            self._name(f"{self.path} cannot be written: {error.words}")
            return False
        self._name(None)
        self._body, self._until = body, until
        self._again = _NEVER if until is None else now.steady + (until.steady - now.steady) / 2
        return True

    def _counts_longer(self, now: Moment, until: Moment | None) -> bool:
        """Whether it is time to tell that the same answers count for longer."""
        return until is not None and now.steady >= self._again and (self._until is None or until.is_after(self._until))

    def _take_names(self) -> bool:
        """Take in which service each mailbox names that was changed since; tells whether that differs."""
        newest = self._index.last_number
        if newest == self._seen or len(self._config.services) == 1:
            return False
        before = len(self._named)
        changed = False
        for extension, lives, named in self._index.mailbox_services(self._seen):
            service = self._config.service_of(extension, named)
            if lives and service != self._default and extension not in self._listed:
                changed = changed or self._named.get(extension) != service
                self._named[extension] = service
            else:
                self._named.pop(extension, None)
        self._seen = newest
        return changed or len(self._named) != before

    def _services(self, answers: Mapping[str, Answer]) -> dict[str, Any]:
        return {
            name: {
                "serving": each.server,
                "state": each.state,
                "home": each.home,
                "epoch": list(each.epoch),
                "since": rfc3339(each.since) if each.since else None,
            }
            for name, each in answers.items()
        }

    def _document(self, body: dict[str, Any], now: Moment, until: Moment | None) -> dict[str, Any]:
        config, wall = self._config, self._clock.wall()
        members = {
            part: {name: service.name for service in config.services.values() for name in getattr(service, part)}
            for part in PARTS
        }
        return {
            "v": VERSION,
            "network": config.network,
            "server": self._server,
            "mode": self._mode(),
            "written": rfc3339(wall),
            "valid_until": until_as_json(until, now, wall),
            "services": body,
            "default": self._default,
            **members,
            "extensions": {**self._named, **self._listed},
            "servers": {name: {"address": str(one.address), "mail": one.mail} for name, one in config.servers.items()},
        }

    def _name(self, why: str | None) -> None:
        if why is None and not self._failing:
            return
        if why is None:
            self._index.faults.drop(_FAULT)
        elif self._index.faults.set(
            _FAULT, why, "make its folder, and let vmctl write there; it is tried again by itself", self._clock.wall()
        ):
            log.error("%s", why)
        self._failing = why is not None


def until_as_json(until: Moment | None, now: Moment, wall: int) -> dict[str, Any] | None:
    """Until when something counts, by both clocks; `wall` is the wall time now in microseconds."""
    if until is None:
        return None
    end = wall + int((until.steady - now.steady) * 1_000_000)
    return {"boot": until.boot, "steady": until.steady, "wall": rfc3339(end)}


# Reading it, as any program would


def read(path: Path) -> dict[str, Any]:
    """What a routes.json holds. Raises NotFound without one, BrokenFile for what is none, StoreNewer."""
    try:
        document = json.loads(path.read_bytes())
        version = document["v"]
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}", hint="'vmctl serve' writes it; name the file with --file") from error
    except OSError as error:
        raise BrokenFile(
            f"cannot read {path}", why=error.strerror or str(error), hint="let this user read it"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken(path, error) from error
    if version != VERSION:
        raise StoreNewer(f"{path} has format {version}, this vmctl knows {VERSION}")
    return dict(document)


def answers_of(path: Path, document: Mapping[str, Any], now: Moment) -> dict[str, Answer]:
    """The answers in a routes.json that `read` gave, by service; of one that counts no more, that nobody serves.

    Raises BrokenFile.
    """
    try:
        end = document["valid_until"]
        until = None if end is None else Moment(float(end["steady"]), str(end["boot"]))
        over = until is not None and not until.is_after(now)
        awaited = (f"{document['server']}: what it wrote into {path} counted until {end['wall']}",) if over else ()
        return {
            name: Answer(
                name, None if over else one["serving"], one["home"], _state(one["state"]), Epoch(*one["epoch"]),
                parse_rfc3339(one["since"]) if one["since"] else 0, until, awaited,
            )
            for name, one in document["services"].items()
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(path, error) from error


def _state(text: Any) -> Any:
    if text not in STATES:
        raise ValueError(f"{text!r} is no state")
    return text


def _broken(path: Path, error: Exception) -> BrokenFile:
    return BrokenFile(
        f"{path} is no routes.json", why=f"{type(error).__name__}: {error}", hint="'vmctl serve' writes it"
    )
