"""Plays the rows of one kind of network, one after the other, on a network that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matrix.play import play, was_fair
from matrix.spaces import Spaces
from matrix.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matrix.hosts import Kind
    from matrix.play import Measured
    from matrix.rows import Row

_TRIES = 3


class Player:
    """Rows follow each other on its network; after one that failed it is a new one."""

    def __init__(self, kind: Kind, place: Callable[[], Path]) -> None:
        """`place` makes an empty directory for a network."""
        self._kind = kind
        self._place = place
        self._stage: Stage | None = None

    def play(self, row: Row) -> Measured:
        """Play a row. Raises AssertionError with what was not as the row says.

        A row that failed while the machine kept processes waiting for a second has shown nothing of vmctl, and is
        played again.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._once(row)
            except BaseException as error:
                stage = self.close()
                if not left or stage is None or was_fair(stage) or not isinstance(error, AssertionError):
                    raise
        raise AssertionError("the last try returned or raised")

    def _once(self, row: Row) -> Measured:
        if self._stage is None:
            self._stage = (Spaces if self._kind.spaces else Stage)(self._place(), self._kind)
            self._stage.open()
        return play(self._stage, row)

    def close(self) -> Stage | None:
        """End the network; it, where there was one."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.close()
        return stage
