"""``gateway cache``: what is stored, and how well stored answers are judged."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Stored answers: what there is, what to remove, and how a stream of requests would have been served."""
