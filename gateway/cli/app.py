"""The commands in one place, and what becomes of their errors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import (
    alerts,
    books,
    cache,
    experiment,
    keys,
    models,
    policies,
    prices,
    privacy,
    reconcile,
    replay,
    router,
)
from gateway.cli.options import Config, Problem, settings
from gateway.errors import ConfigError, GatewayError, RedisAway

app = typer.Typer(
    name="gateway",
    help="Answers each request at the lowest cost that meets the quality asked for, and proves what it spent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(config: Config = None) -> None:
    """Start everything: Redis, the local models, the background process and the gateway's workers."""
    from rich.console import Console

    from gateway.supervisor.serve import serve as run

    raise typer.Exit(run(settings(config), Console()))


app.add_typer(keys.app, name="keys", help="API keys: what each may spend, and how fast")
app.add_typer(models.app, name="models", help="Local models: what there is, what fits this machine")
app.add_typer(alerts.app, name="alerts", help="Alerts: what has been told, and whether telling works")
app.add_typer(prices.app, name="prices", help="What models cost, and where those prices come from")
app.add_typer(cache.app, name="cache", help="Stored answers: what there is, and how well they are judged")
app.add_typer(router.app, name="router", help="How hard prompts are, and what a local model can do")
app.add_typer(experiment.app, name="experiment", help="Policies side by side, and what of their differences is real")
app.command()(policies.check)
app.command()(policies.explain)
app.command()(replay.replay)
app.command()(books.report)
app.command()(reconcile.reconcile)
app.command()(privacy.export)
app.command()(privacy.erase)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; never a traceback for what a user can mend."""
    from gateway.supervisor.errors import SupervisorError

    try:
        app(prog_name="gateway")
    except (ConfigError, GatewayError, RedisAway, SupervisorError, Problem) as error:
        typer.echo(f"gateway: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a file or folder that cannot be read or written; a pipe that closes is typer's
        named = f"{error.filename}: " if error.filename else ""
        typer.echo(f"gateway: {named}{error.strerror or error}", err=True)
        sys.exit(1)
