"""``gateway alerts``: what has been told, and whether telling works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True)


@app.command("test")
def send(config: Config = None, as_json: AsJson = False) -> None:
    """Send a test message to every channel that is configured."""
    from gateway.alerts.watch import send_test

    outcome = asyncio.run(send_test(settings(config).config.alerts))
    if as_json:
        print_json(outcome)
    else:
        for channel, result in outcome.items():
            typer.echo(f"{channel}: {result}")
    raise typer.Exit(0 if set(outcome.values()) <= {"sent", "not configured"} else 1)


@app.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """What has been told and is not resolved."""
    from redis.exceptions import RedisError

    from gateway.supervisor.embedded_redis import running

    chosen = settings(config)
    with running(chosen):
        try:
            told = asyncio.run(_told(chosen))
        except RedisError as error:
            raise Problem(f"Redis does not answer: {error}") from None
    if as_json:
        print_json(told)
        return
    rows = [(_moment(one["since_ms"]), one["severity"], one["title"], one["text"]) for one in told]
    print_table(("since", "severity", "what", ""), rows)


async def _told(chosen: Settings) -> list[dict[str, Any]]:
    import msgspec

    from gateway.alerts.watch import active
    from gateway.redis_io import Keys, client, redis_url

    redis = client(redis_url(chosen), socket_timeout=5.0)
    try:
        return [{"key": key, **msgspec.to_builtins(one)} for key, one in (await active(redis, Keys())).items()]
    finally:
        await redis.aclose()


def _moment(epoch_ms: int) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(epoch_ms / 1000).astimezone():%Y-%m-%d %H:%M}"
