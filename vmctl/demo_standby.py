"""The story of active-standby: a message, a killed primary, a takeover, a recovery, the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.demo import AUDIO, Demo, shows
from vmctl.errors import DemoFailed
from vmctl.status import gather

if TYPE_CHECKING:
    from pathlib import Path

    from vmctl.config import Config


class ActiveStandby(Demo):
    """One server serves everybody, the other one stands by."""

    def _story(self) -> None:
        config = self._network()
        self._normal_operation(config)
        first = self._message_at_primary(config)
        self._primary_dies(config)
        second = self._message_at_secondary(config)
        self._primary_returns(config)
        self._proof(config, {first: AUDIO / "before.wav", second: AUDIO / "during.wav"})

    def _network(self) -> Config:
        config = self._made("active-standby", {"2001": ("Ada Byron", "primary")})
        self._vmctl(
            "greeting", "set", "2001", "unavailable", "--audio", str(AUDIO / "greeting.wav"), "--server", "primary"
        )
        return config

    def _normal_operation(self, config: Config) -> None:
        self.say("chapter", "Normal operation: the primary is active, the secondary stands by")
        self._start("primary")
        self._start("secondary")
        self._until(config, "the primary serves", serving="primary", state="normal")
        took = self._wait("the mailbox is at the secondary", lambda: shows(config, "secondary", "mailbox/2001"))
        self.say("good", f"the mailbox and its greeting came to the secondary over SMTP ({took:.2f} s)")
        self._vmctl("status")

    def _message_at_primary(self, config: Config) -> str:
        self.say("chapter", "A caller leaves a message at the primary")
        ident = self._leave("primary", "before.wav", "+442079460123", "Charles Babbage")
        took = self._wait(
            "the message is at the secondary", lambda: shows(config, "secondary", f"message/2001/{ident}")
        )
        self.say("good", f"the secondary has it {took:.2f} s later")
        self._vmctl("message", "list", "2001", "--server", "secondary")
        return ident

    def _primary_dies(self, config: Config) -> None:
        self.say("chapter", "The primary is killed (SIGKILL)")
        self._kill("primary")
        took = self._until(config, "the secondary serves", serving="secondary", state="resilience")
        self.say("good", f"the secondary heard nothing for failover.after and took over ({took:.1f} s)")
        self._vmctl("status", "--server", "secondary")

    def _message_at_secondary(self, config: Config) -> str:
        self.say("chapter", "Resilience: a caller leaves a message at the secondary")
        ident = self._leave("secondary", "during.wav", "+442079460456", "Mary Somerville")
        if shows(config, "primary", f"message/2001/{ident}"):
            raise DemoFailed("the dead primary holds the message that was left at the secondary")
        self.say("good", "the primary knows nothing of it yet")
        return ident

    def _primary_returns(self, config: Config) -> None:
        self.say("chapter", "The primary comes back: first the stores, then the role")
        self._start("primary")
        took = self._until(config, "the servers re-synchronize", serving="secondary", state="recovering")
        self.say("good", f"the secondary goes on serving while the two re-synchronize ({took:.1f} s)")
        took = self._until(config, "the primary serves again", serving="primary", state="normal")
        self.say("good", f"everything is acknowledged in both directions: the role went home ({took:.1f} s)")
        self._wait("both are in step", lambda: gather(config, Clock())["in_step"])
        self._vmctl("status")

    def _proof(self, config: Config, left: dict[str, Path]) -> None:
        self.say("chapter", "Nothing was lost")
        self._prove(config, "2001", left)
        self.say("good", "both servers hold both messages, and the recordings are the same to the byte")
        self._vmctl("message", "list", "2001", "--server", "primary")
        self._vmctl("verify")
        self._vmctl("journal", "--server", "secondary")
        self._vmctl("journal", "--server", "secondary", "--verify")
        for name in list(self.daemons):
            self._stop(name)
        self.say("good", "both daemons stopped when they were told to")
