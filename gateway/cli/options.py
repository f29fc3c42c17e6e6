"""What commands share: options, and the two ways of showing a result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.config import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="GATEWAY_CONFIG", metavar="FILE", help="gateway.yaml; without one, the defaults"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


class Problem(Exception):
    """Ends a command with exit status 1 and this message."""


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone; a script has nobody to ask, and has said what it wants.

    Raises:
        typer.Abort: the answer is no.
    """
    if not yes and on_terminal():
        typer.confirm(question, abort=True, err=True)


def settings(config: Path | None) -> Settings:
    """The configuration a command works with. Raises ConfigError."""
    from gateway import config as configuration

    return configuration.load(config)


def print_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = (), err: bool = False
) -> None:
    """Columns named in ``right`` are numbers. ``err``: beside a result that is piped on."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # What is piped somewhere keeps a row on a line.
    Console(width=None if (sys.stderr if err else sys.stdout).isatty() else 200, stderr=err).print(table)
