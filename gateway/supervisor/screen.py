"""What ``gateway serve`` shows: a line per part, live on a terminal, one line per change elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gateway.supervisor.children import State

_MARKS: dict[State, tuple[str, str]] = {
    "ready": ("✓", "green"),
    "restarting": ("↻", "yellow"),
    "unavailable": ("–", "yellow"),
    "failed": ("✗", "red"),
    "stopped": ("·", "dim"),
}

_QUIET = ("starting", "stopped")


@dataclass(slots=True)
class _Row:
    state: State = "waiting"
    detail: str = ""
    said: str = ""


class Screen:
    """Shows the start as one block; what happens later is a line with its time."""

    def __init__(self, console: Console, parts: list[str]) -> None:
        self.console = console
        self._rows = {name: _Row() for name in parts}
        self._spinner = Spinner("dots")
        self._width = max(map(len, parts), default=0)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._table)
        self._starting = True
        if console.is_terminal:
            self._live.start()

    def said(self, name: str, state: State, detail: str) -> None:
        """A part's state has changed."""
        row = self._rows[name]
        row.state, row.detail = state, detail
        if self._starting and self.console.is_terminal:
            self.refresh()
        elif state not in _QUIET and not self._is_repetition(row):
            clock = "" if self._starting else time.strftime("%H:%M:%S ")
            self.line(f"{clock}{name.ljust(self._width)}  {_words(row)}")

    def refresh(self) -> None:
        """Move the spinners on."""
        if self._live.is_started:
            self._live.refresh()

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def settled(self) -> None:
        """The start is over: leave the block as it stands."""
        self.refresh()
        self._live.stop()
        self._starting = False

    def _is_repetition(self, row: _Row) -> bool:
        """Progress is said once for each tenth, everything else when it changes."""
        stage, _, share = row.detail.removesuffix(" %").rpartition(" ")
        saying = f"{row.state} {stage} {int(share) // 10}" if share.isdigit() else f"{row.state} {row.detail}"
        repeated, row.said = saying == row.said, saying
        return repeated

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, row in self._rows.items():
            mark, style = _MARKS.get(row.state, ("", ""))
            table.add_row(Text(mark, style=style) if mark else self._spinner, name, Text(_words(row), style=style))
        return table


def _words(row: _Row) -> str:
    return (
        f"{row.state} {row.detail}".rstrip()
        if row.state == "ready"
        else ": ".join(filter(None, (row.state, row.detail)))
    )
