"""``gateway erase`` and ``gateway export``: taking somebody out of the data, and taking data out."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from gateway.cli.ledger import Since, opened, period
from gateway.cli.options import AsJson, Config, Problem, confirmed, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.erase import Report, Who


def erase(
    config: Config = None,
    user: Annotated[str | None, typer.Option(help="An end user, as requests name it in `user`")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="A key's id: its definition goes too")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Take an end user or a key out of Redis, SQL, spool and snapshots. What was spent stays in the books.

    Exit status 1 where the name can still be read somewhere.
    """
    from redis.exceptions import RedisError

    from gateway.ledger.errors import LedgerAway, LedgerRefused
    from gateway.supervisor.embedded_redis import running

    if (user is None) == (key is None):
        raise typer.BadParameter("give one of the two", param_hint="--user, --key")
    who: Who = "user" if user is not None else "key"
    name = user if user is not None else key
    if not name:
        raise typer.BadParameter("an empty name is everybody who gave none", param_hint=f"--{who}")
    confirmed(f"Erase {who} '{name}'? This cannot be undone.", yes=yes)
    chosen = settings(config)
    with running(chosen):
        try:
            report = asyncio.run(_erase(chosen, who, name))
        except (RedisError, LedgerAway, LedgerRefused) as error:
            raise Problem(f"not done, run it again: {error}") from None
    _show(report, as_json)
    raise typer.Exit(1 if report.left else 0)


async def _erase(chosen: Settings, who: Who, name: str) -> Report:
    from gateway.erase import Eraser
    from gateway.ledger.store import SqlStore
    from gateway.ledger.where import ledger_url
    from gateway.redis_io import client, redis_url

    redis, store = client(redis_url(chosen), socket_timeout=30.0), SqlStore(ledger_url(chosen))
    try:
        await store.migrate()
        return await Eraser(redis, store, chosen.data_dir).erase(who, name)
    finally:
        await store.close()
        await redis.aclose()


def _show(report: Report, as_json: bool) -> None:
    import msgspec

    counts = msgspec.to_builtins(report)
    if as_json:
        print_json(counts)
        return
    left = counts.pop("left")
    print_table(("", ""), [(name.replace("_", " "), f"{count:,}") for name, count in counts.items()], right=("",))
    for line in left:
        typer.echo(f"left: {line}", err=True)


def export(
    config: Config = None,
    form: Annotated[
        str, typer.Option("--format", metavar="sft|csv|jsonl", help="sft: messages for fine-tuning")
    ] = "jsonl",
    since: Since = "30d",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: standard output")] = None,
) -> None:
    """Rows that consented to leaving, oldest first; with prompt and answer where those are kept and can be read."""
    from gateway.export import FORMATS, Written, write
    from gateway.sealing import seal_of

    if form not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}", param_hint="--format")
    over, chosen = period(since), settings(config)
    seal = seal_of(chosen)

    async def run(file: IO[str]) -> Written:
        async with opened(chosen) as store:
            return await write(store, over, form, file, seal)

    if out is None:
        written = asyncio.run(run(sys.stdout))
    else:
        with out.open("w", encoding="utf-8", newline="") as file:
            written = asyncio.run(run(file))
    note = f", {written.skipped:,} without a whole, readable prompt and answer left out" if written.skipped else ""
    typer.echo(f"{written.rows:,} rows{note}", err=True)
    for reason, count in written.sealed.items():
        typer.echo(f"{count:,} conversations not read: {reason}", err=True)
