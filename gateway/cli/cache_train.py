"""``gateway cache train``: the verifier, recalibrated on what own traffic showed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.keys import seconds, with_redis
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.cache.lessons import Lesson
    from gateway.cache.recalibrated import Layers


def train(
    from_ledger: Annotated[
        bool, typer.Option("--from-ledger", help="Learn from own traffic, which is all there is to learn from")
    ] = False,
    since: Annotated[
        float | None, typer.Option(parser=seconds, metavar="30d", help="Only what is younger; default: all of it")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where it goes; gateway.yaml's cache.verifier names it")
    ] = Path("verifier-own.json"),
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Stack on the shipped verifier what fresh answers, feedback and rejections have shown; nothing is switched on."""
    import msgspec

    from gateway.cache import retraining

    if not from_ledger:
        raise typer.BadParameter("give --from-ledger: the shipped verifier is trained by gateway.cache.training")
    since_ms = 0 if since is None else int((time.time() - since) * 1000)
    found = with_redis(config, lambda redis: _lessons(redis, since_ms))
    try:
        layers = retraining.train(found)
    except ValueError as error:
        raise Problem(str(error)) from None
    try:
        out.write_bytes(msgspec.json.encode(layers))
    except OSError as error:
        raise Problem(str(error)) from None
    if as_json:
        told = {"outcomes": layers.outcomes, "wrong": layers.wrong, "tenants": layers.tenants, "out": str(out)}
        print_json(told | {"sources": _sources(found), "held_back": msgspec.to_builtins(layers.held_back)})
        return
    _print(layers, _sources(found), out)


async def _lessons(redis: Redis, since_ms: int) -> list[Lesson]:
    from gateway.cache.lessons import lessons
    from gateway.redis_io import Keys

    return [lesson async for lesson in lessons(redis, Keys(), since_ms)]


def _sources(found: list[Lesson]) -> dict[str, int]:
    return dict(Counter(lesson.source for lesson in found).most_common())


def _print(layers: Layers, sources: dict[str, int], out: Path) -> None:
    held = layers.held_back
    said = ", ".join(f"{count:,} {name}" for name, count in sources.items())
    typer.echo(f"{layers.outcomes:,} outcomes of {layers.tenants} keys, {layers.wrong:,} of them different: {said}")
    rows = [(f"{low:g} – {high:g}", f"{n:,}", f"{p:.3f}", f"{was:.3f}") for low, high, n, p, was in held.bins]
    print_table(("said", "held back", "mean said", "were the same"), rows, right=("held back", "mean said"))
    before, after = held.log_loss
    typer.echo(f"log loss of what was held back: {before:.4f} as shipped, {after:.4f} with this")
    if after >= before:
        typer.echo("this is no better than the shipped one: leave it out", err=True)
    typer.echo(f"written to {out}; in force once gateway.yaml says  cache: {{verifier: {out}}}")
