"""``gateway router watch``: has a target become another model, and does routing still fit."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.watching.drift import Report
    from gateway.watching.probes import Target


def watch(config: Config = None, as_json: AsJson = False) -> None:
    """What golden prompts say of targets, and the last day of routing beside the week before it."""
    from redis.exceptions import RedisError

    from gateway.supervisor.embedded_redis import running

    chosen = settings(config)
    with running(chosen):
        try:
            found, told = asyncio.run(_read(chosen))
        except RedisError as error:
            raise Problem(f"Redis does not answer: {error}") from None
    if as_json:
        import msgspec

        print_json({"probes": msgspec.to_builtins(found), "routing": msgspec.to_builtins(told)})
        return
    _print_targets(found)
    typer.echo()
    _print_routing(told)


async def _read(chosen: Settings) -> tuple[list[Target], Report | None]:
    from gateway.redis_io import Keys, client, redis_url
    from gateway.watching.probes import targets
    from gateway.watching.routing import latest

    redis, keys = client(redis_url(chosen), socket_timeout=5.0), Keys()
    try:
        return await targets(redis, keys), await latest(redis, keys)
    finally:
        await redis.aclose()


def _print_targets(found: list[Target]) -> None:
    if not found:
        typer.echo("No target is asked golden prompts: name some in probes.targets.")
        return
    columns = ("target", "rounds", "asked", "right", "usually", "evidence", "changed", "")
    rows = [
        (
            target.name,
            str(target.rounds),
            _moment(target.last_ms),
            f"{target.last.right:.0%}" if target.last else "–",
            f"{target.usual.right:.0%}" if target.usual else "–",
            f"{target.evidence:.2g}",
            _moment(target.changed.at_ms) if target.changed else "never",
            target.skipped,
        )
        for target in found
    ]
    print_table(columns, rows, right=("rounds", "right", "usually", "evidence"))


def _print_routing(told: Report | None) -> None:
    if told is None:
        typer.echo("Routing has not been counted yet: the background process does so every ten minutes.")
        return
    typer.echo(f"{told.requests} requests in the last day, {told.requests_before} in the week before.")
    figures = (
        ("calibration error", _figure(told.calibration_error)),
        ("escalation rate", _figure(told.escalation_rate)),
        ("regret", _figure(told.regret)),
    )
    print_table(("figure", "value"), figures, right=("value",))
    rows = [
        (shift.what, _figure(shift.psi), shift.most, f"{shift.before:.0%}", f"{shift.now:.0%}") for shift in told.shifts
    ]
    print_table(("mix", "psi", "most changed", "before", "now"), rows, right=("psi", "before", "now"))


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000).astimezone():%Y-%m-%d %H:%M}" if epoch_ms else "never"
