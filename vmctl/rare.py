"""Tables that nearly always are empty: whether one is, is asked once in a transaction, not once for each record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Rare:
    """One such table; `run` executes SQL. Outside of a transaction another process may fill it at any moment."""

    def __init__(self, run: Callable[..., Any], table: str) -> None:
        self._run = run
        self._query = f"SELECT EXISTS (SELECT 1 FROM {table})"  # noqa: S608 - our own words
        self._lasts = False
        self._known: bool | None = None

    def begin(self) -> None:
        """A transaction begins: from now on nobody else changes anything."""
        self._lasts, self._known = True, None

    def end(self) -> None:
        """It is over."""
        self._lasts, self._known = False, None

    def filled(self) -> None:
        """A row was added."""
        if self._lasts:
            self._known = True

    def __bool__(self) -> bool:
        """Whether there may be a row."""
        if self._known is not None:
            return self._known
        known = bool(self._run(self._query).fetchone()[0])
        if self._lasts:
            self._known = known
        return known
