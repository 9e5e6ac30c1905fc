"""The story of dual-active: each server has callers of its own, and each is the failover of the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.demo import AUDIO, Demo, shows
from vmctl.status import gather

if TYPE_CHECKING:
    from vmctl.config import Config

_BOXES = {"2001": ("Ada Byron", "primary"), "3001": ("Grace Hopper", "secondary")}


class DualActive(Demo):
    """Both servers serve, and one of them dies."""

    def _story(self) -> None:
        config = self._made("dual-active", _BOXES)
        self._each_serves_its_own(config)
        first = self._leave("primary", "before.wav", "+442079460123", "Charles Babbage", "2001")
        second = self._leave("secondary", "before.wav", "+442079460789", "John von Neumann", "3001")
        self._wait("both messages are on both servers", lambda: self._both(config, first, second))
        self.say("good", "each server took a call of its own, and has the message of the other one, too")
        self._secondary_dies(config)
        third = self._leave("primary", "during.wav", "+442079460456", "Mary Somerville", "3001")
        self.say("good", "a call for Grace Hopper is answered by the primary")
        self._secondary_returns(config)
        self._one_for_all(config)
        before, during = AUDIO / "before.wav", AUDIO / "during.wav"
        self.say("chapter", "Nothing was lost")
        self._prove(config, "2001", {first: before})
        self._prove(config, "3001", {second: before, third: during})
        self.say("good", "both servers hold all three messages, and the recordings are the same to the byte")
        self._vmctl("verify")
        self._vmctl("journal", "--server", "primary")
        self._vmctl("journal", "--server", "primary", "--verify")
        for name in list(self.daemons):
            self._stop(name)
        self.say("good", "both daemons stopped when they were told to")

    def _each_serves_its_own(self, config: Config) -> None:
        self.say("chapter", "Normal operation: both are active, each for callers of its own")
        for name in config.servers:
            self._start(name)
        for at, name in enumerate(config.services):
            self._until(config, f"{name} is served at home", at=at, serving=name, state="normal")
        for extension, (_, server) in _BOXES.items():
            there = partial(shows, config, config.peer_of(server).name, f"mailbox/{extension}")
            self._wait("the mailboxes are on both", there)
            self._vmctl("route", extension)
        self._vmctl("status")

    def _both(self, config: Config, first: str, second: str) -> bool:
        there = shows(config, "secondary", f"message/2001/{first}")
        return there and shows(config, "primary", f"message/3001/{second}")

    def _secondary_dies(self, config: Config) -> None:
        self.say("chapter", "The secondary is killed (SIGKILL): the primary serves its callers, too")
        self._kill("secondary")
        took = self._until(config, "the primary serves both", at=1, serving="primary", state="resilience")
        self.say("good", f"the primary heard nothing for failover.after and took over ({took:.1f} s)")
        self._vmctl("route", "3001", "--server", "primary")

    def _secondary_returns(self, config: Config) -> None:
        self.say("chapter", "The secondary comes back: first the stores, then its callers")
        self._start("secondary")
        took = self._until(config, "the secondary serves its own again", at=1, serving="secondary", state="normal")
        self.say("good", f"everything is acknowledged in both directions: its service went home ({took:.1f} s)")

    def _one_for_all(self, config: Config) -> None:
        self.say("chapter", "Maintenance: one server for all callers, and back, without a moment without service")
        self._vmctl("mode", "set", "active-standby")
        took = self._until(config, "the primary serves everybody", at=1, serving="primary", state="normal")
        self.say("good", f"the secondary gave its callers to the primary when that held everything ({took:.1f} s)")
        self._vmctl("mode", "set", "dual-active")
        took = self._until(config, "the secondary serves its own again", at=1, serving="secondary", state="normal")
        self.say("good", f"and got them back ({took:.1f} s)")
        self._wait("both are in step", lambda: gather(config, Clock())["in_step"])
        self._vmctl("status")
