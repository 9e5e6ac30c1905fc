"""Who may change a mailbox at this server: its user only where it is served now, an operator everywhere.

Reading is never refused, nor is a caller's recording: it is taken where it lands, and replicated. The answer is that
of `vmctl route`, and is asked for under the store's lock, together with the change: roles move under the same lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl import knowledge
from vmctl.errors import JournalError, NobodyServes, WrongServer
from vmctl.routing import Moment
from vmctl.view import NO_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmctl.clock import Clock
    from vmctl.config import Config
    from vmctl.routing import Answer


class Access:
    """The check of one command at one server; `say` takes a line for an operator who goes on all the same."""

    def __init__(self, config: Config, server: str, clock: Clock, *, user: bool, say: Callable[[str], object]) -> None:
        self._config = config
        self._server = server
        self._clock = clock
        self._user = user
        self._say = say
        self._said: set[str] = set()

    def check(self, extension: str, service: str) -> None:
        """Raises WrongServer, NobodyServes or JournalBroken for a user; tells an operator once of a mailbox. Lock the store."""
        now = Moment(self._clock.steady(), self._clock.boot())
        try:
            here = knowledge.look_at_all(self._config, self._clock)
            answer = knowledge.answers(self._config, now, here)[service]
        except JournalError:
            if self._user:
                raise
            return  # 'vmctl status' names it; an operator goes on
        if answer.server == self._server:
            return
        if self._user:
            raise self._refusal(extension, answer)
        if extension not in self._said and (answer.server is not None or answer.epoch != NO_EPOCH):
            self._said.add(extension)
            self._say(f"{self._server} does not serve mailbox {extension} now: {answer.server or 'nobody'} does")

    def _refusal(self, extension: str, answer: Answer) -> WrongServer | NobodyServes:
        if answer.server is None:
            return NobodyServes(f"nobody serves mailbox {extension} now", answer.service, answer.waiting_for)
        address = self._config.servers[answer.server].address
        return WrongServer(
            f"mailbox {extension} is served by {answer.server} now, not by {self._server}",
            answer.service, answer.server, str(address),
            hint=f"give the command on {answer.server}, whose receiver is at {address}; nothing was changed",
        )  # fmt: skip
