"""``gateway keys``: kept in Redis, which is started for the duration of the command where it is not running."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.auth import KeyStore
    from gateway.http.definitions import Stores

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<count>[1-9][0-9]{0,5})(?P<unit>[mhd])")

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it")]


def seconds(text: str | float) -> float:
    """typer parses a value twice where it has a default, so a number is let through."""
    if isinstance(text, float):
        return text
    found = _DURATION.fullmatch(text)
    if not found:
        raise typer.BadParameter("write 90m, 24h or 30d")
    return float(int(found["count"]) * _UNITS[found["unit"]])


Seconds = Annotated[float | None, typer.Option(parser=seconds, metavar="30d", help="How long it is good for")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for")],
    config: Config = None,
    organisation: Annotated[str, typer.Option(help="Whose it is")] = "default",
    team: Annotated[str, typer.Option(help="Whose it is there")] = "",
    project: Annotated[str, typer.Option(help="What its rows are booked under")] = "",
    role: Annotated[str, typer.Option(help="user, viewer (reads /admin) or admin")] = "user",
    model: Annotated[list[str] | None, typer.Option(help="May be asked, as gpt-4o*; repeatable; none: all")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="May be asked for; repeatable; none: all")] = None,
    allow_tag: Annotated[list[str] | None, typer.Option(help="May be in x-gateway-tags; repeatable")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Put on each request; repeatable")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="What it may spend in all")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at a time")] = None,
    expires_in: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once; only its hash is kept."""
    limits: dict[str, Any] = {
        "organisation": organisation,
        "team": team,
        "project": project,
        "role": role,
        "models": tuple(model or ()),
        "policies": tuple(policy or ()),
        "allowed_tags": tuple(allow_tag or ()),
        "tags": tuple(tag or ()),
        "budget_usd": budget_usd,
        "rpm": rpm,
        "tpm": tpm,
        "concurrency": concurrency,
        "expires_in_s": expires_in,
    }
    _show_key(_with_store(config, lambda store: store.create(name, **limits)), as_json)


@app.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """Every key, without the secret part."""
    found = _with_store(config, lambda store: store.list())
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "begins", "team", "tags", "budget", "rpm", "tpm", "at a time", "state")
    print_table(columns, [_row(key) for key in found], right=("budget", "rpm", "tpm", "at a time"))


@app.command()
def rotate(
    key_id: Id,
    config: Config = None,
    overlap: Annotated[
        float | None, typer.Option(parser=seconds, metavar="24h", help="How long the old one still works")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A new key with the same id, limits and budget."""
    _show_key(_with_store(config, lambda store: store.rotate(key_id, overlap or 0.0)), as_json)


@app.command()
def revoke(key_id: Id, config: Config = None, as_json: AsJson = False) -> None:
    """Refuse a key from now on."""
    revoked = _with_store(config, lambda store: store.revoke(key_id))
    if as_json:
        print_json(revoked)
        return
    typer.echo(f"revoked {revoked['id']} ({revoked['name']})")


@app.command()
def budget(
    scope: Annotated[str, typer.Argument(help="organisation, team, key, user, tag or model")],
    subject: Annotated[str, typer.Argument(help="Which one; '*': each of them this much")],
    config: Config = None,
    usd: Annotated[float | None, typer.Option(help="What it may spend in a window")] = None,
    window: Annotated[str, typer.Option(help="hour, day, week, month, total, or rolling: 24h, 30d")] = "total",
    time_zone: Annotated[str, typer.Option(help="Whose calendar, as Europe/Berlin")] = "UTC",
    organisation: Annotated[str, typer.Option(help="Whose team, user, tag or model it is")] = "default",
    soft: Annotated[bool, typer.Option("--soft", help="Only tell, refuse nothing")] = False,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at a time")] = None,
    as_json: AsJson = False,
) -> None:
    """Limit an organisation, team, key, user, tag or model, beside whatever else limits it."""
    fields: dict[str, Any] = {
        "scope": scope,
        "subject": subject,
        "organisation": organisation,
        "limit_usd": usd,
        "window": window,
        "time_zone": time_zone,
        "hard": not soft,
        "rpm": rpm,
        "tpm": tpm,
        "concurrency": concurrency,
    }
    made = _with_stores(config, lambda stores: stores.budgets.create(**fields))
    if as_json:
        print_json(made)
    else:
        typer.echo(made["id"])


@app.command()
def budgets(config: Config = None, as_json: AsJson = False) -> None:
    """What each budget holds in its present window."""
    found = _with_stores(config, lambda stores: stores.states())
    if as_json:
        print_json(found)
        return
    columns = ("id", "scope", "subject", "window", "limit", "spent", "reserved", "left")
    rows = [(one["id"], one["scope"], one["subject"], one["window"] or "total", *_amounts(one)) for one in found]
    print_table(columns, rows, right=("limit", "spent", "reserved", "left"))


@app.command()
def export(config: Config = None) -> None:
    """Organisations, teams, keys (as hashes) and budgets as JSON, for `keys import`."""
    print_json(_with_stores(config, lambda stores: stores.exported()))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `keys export` printed", exists=True, dir_okay=False)],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take over definitions; what is there already is replaced, nothing is taken away."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{file}: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Problem(f"{file}: not an export of this gateway")
    count = _with_stores(config, lambda stores: stores.restored(given))
    if as_json:
        print_json(count)
    else:
        typer.echo(", ".join(f"{number} {what}" for what, number in count.items()))


def _with_stores(config: Path | None, ask: Callable[[Stores], Awaitable[T]]) -> T:
    from gateway.http.definitions import Stores

    return with_redis(config, lambda redis: ask(Stores.on(redis)))


def _with_store(config: Path | None, ask: Callable[[KeyStore], Awaitable[T]]) -> T:
    from gateway.auth import KeyStore

    return with_redis(config, lambda redis: ask(KeyStore(redis)))


def with_redis(config: Path | None, ask: Callable[[Redis], Awaitable[T]]) -> T:
    from redis.exceptions import RedisError

    from gateway.redis_io import redis_url
    from gateway.supervisor.embedded_redis import running

    chosen = settings(config)
    with running(chosen):
        try:
            return asyncio.run(_ask(redis_url(chosen), ask))
        except RedisError as error:
            raise Problem(f"Redis does not answer: {error}") from None


async def _ask(url: str, ask: Callable[[Redis], Awaitable[T]]) -> T:
    from gateway.redis_io import client

    redis = client(url, socket_timeout=5.0)
    try:
        return await ask(redis)
    finally:
        await redis.aclose()


def _amounts(state: dict[str, Any]) -> list[str]:
    from gateway.reply import usd

    return [f"${usd(state[f'{name}_nano'])}" for name in ("limit", "spent", "reserved", "left")]


def _show_key(created: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(created)
        return
    typer.echo(created["key"])
    typer.echo(f"id {created['id']}; this is the only time the key is shown", err=True)


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    def words(field: str) -> str:
        return "–" if key[field] is None else f"{key[field]}"

    budget = "–" if key["budget_usd"] is None else f"${key['budget_usd']:,.2f}"
    numbers = (budget, words("rpm"), words("tpm"), words("concurrency"))
    begins = f"{key['prefix']}…"
    return (key["id"], key["name"], begins, key["team"], ", ".join(key["tags"]), *numbers, _state(key))


def _state(key: dict[str, Any]) -> str:
    import time

    if key["revoked_ms"] is not None:
        return "revoked"
    if key["expires_ms"] is not None and key["expires_ms"] <= time.time() * 1000:
        return "expired"
    return "good"
