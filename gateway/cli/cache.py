"""``gateway cache``: what is stored, and how well stored answers are judged."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import cache_eval, cache_train
from gateway.cli.keys import seconds, with_redis
from gateway.cli.options import AsJson, Config, Problem, confirmed, print_json, print_table, settings
from gateway.types import DAY_MS

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cache.purge import Purged
    from gateway.cache.stats import CacheStats, Checked, Kept
    from gateway.ledger.answers import Measures

app = typer.Typer(no_args_is_help=True)
app.command()(cache_eval.simulate)
app.command()(cache_eval.pairs)
app.command()(cache_train.train)

_WEEK_MS = 7 * DAY_MS
_BAR = 40


@app.callback()
def _group() -> None:
    """Stored answers: what there is, what to remove, and how a stream of requests would have been served."""


@app.command()
def stats(config: Config = None, as_json: AsJson = False) -> None:
    """Hits by tier, what they saved, how similar they were, and what the cache holds. Of the last seven days."""
    import msgspec

    from gateway.cache import stats as cache_stats

    now_ms = int(time.time() * 1000)
    held = with_redis(config, lambda redis: cache_stats.stats(redis, now_ms))
    audited = with_redis(config, cache_stats.checked)
    tiers = asyncio.run(_tiers(config, now_ms))
    if as_json:
        shown = msgspec.to_builtins(held) | {"drifts": held.drifts, "audit": msgspec.to_builtins(audited)}
        print_json(shown | {"tiers": [_tier(name, each, tiers) for name, each in tiers.items()]})
        return
    _print(held, audited, tiers)


async def _tiers(config: Path | None, now_ms: int) -> dict[str, Measures]:
    """What the requests of the week come to by what the cache said of them; {} where there is no ledger yet."""
    from gateway.ledger.answers import Period
    from gateway.ledger.errors import LedgerAway
    from gateway.ledger.store import SqlStore
    from gateway.ledger.where import ledger_url

    store = SqlStore.reader(ledger_url(settings(config)))
    try:
        found = await store.breakdown(Period(now_ms - _WEEK_MS, now_ms + 1), "cache", order="requests")
        return {group.name: group.measures for group in found.groups}
    except LedgerAway:
        return {}
    finally:
        await store.close()


def _tier(name: str, measures: Measures, tiers: dict[str, Measures]) -> dict[str, Any]:
    total = sum(each.requests for each in tiers.values())
    share = measures.requests / total if total else 0.0
    return {"tier": name, "requests": measures.requests, "share": share, "saved_nano": measures.saved_nano}


def _print(held: CacheStats, audited: Checked, tiers: dict[str, Measures]) -> None:
    from gateway.cache.stats import bounds
    from gateway.ledger.reports import usd

    typer.echo(f"{held.entries:,} entries, {held.bytes / 1e6:,.1f} MB; {held.rejected:,} said to be wrong this week")
    if audited.checked:
        share, between = audited.wrong / audited.checked, f"{audited.low:.2%} to {audited.high:.2%}"
        typer.echo(f"{share:.2%} of {audited.checked:,} semantic hits that were checked were wrong (95 %: {between})")
    for title, some in (("policy", audited.promises), ("partition", audited.partitions)):
        if some:
            typer.echo()
            columns = (title, "mode", "budget", "checked", "wrong", "95 %", "kept")
            print_table(columns, [_promise(one) for one in some], right=("budget", "checked", "wrong"))
    if tiers:
        rows = [_tier(name, each, tiers) for name, each in tiers.items()]
        shown = [(r["tier"], f"{r['requests']:,}", f"{r['share']:.1%}", usd(r["saved_nano"])) for r in rows]
        typer.echo()
        print_table(("tier", "requests", "share", "saved $"), shown, right=("requests", "share", "saved $"))
    if most := max(held.similarity):
        typer.echo("\nsimilarity of semantic hits")
        for number, count in enumerate(held.similarity):
            if count:
                low, high = bounds(number)
                typer.echo(f"  {low:.3f}–{high:.3f} {'█' * max(1, round(count / most * _BAR))} {count:,}")
    if any(held.said) or any(audited.afresh):
        typer.echo()
        titles = ("said to be right", "served", "answered afresh", "was the same")
        print_table(titles, _posterior(held, audited), right=titles[1:])
    if held.psi is not None:
        typer.echo(f"shift since last week (PSI): {held.psi:.3f}{', a drift' if held.drifts else ''}")
    if held.top:
        typer.echo()
        top = [(one.entry, f"{one.hits:,}", usd(one.saved_nano), one.model, one.prompt[:60]) for one in held.top]
        print_table(("entry", "hits", "saved $", "model", "question"), top, right=("hits", "saved $"))


def _promise(one: Kept) -> tuple[str, ...]:
    between = f"{one.low:.2%} to {one.high:.2%}" if one.checked else ""
    kept = "no" if one.exceeded else "yes" if one.checked else "not checked yet"
    closed = f"; closed in {one.closed} of {one.partitions}" if one.closed else ""
    name = one.partition[:12] or one.policy
    return name, one.mode, f"{one.budget:.2%}", f"{one.checked:,}", f"{one.wrong:,}", between, kept + closed


def _posterior(held: CacheStats, audited: Checked) -> list[tuple[str, ...]]:
    from gateway.cache.stats import posterior

    return [
        (f"{low:g} – {high:g}", f"{served:,}", f"{afresh:,}", f"{same / afresh:.1%}" if afresh else "")
        for low, high, served, afresh, same in posterior(held, audited)
    ]


@app.command()
def purge(
    config: Config = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Made for this API key")] = None,
    tag: Annotated[str | None, typer.Option(help="Made for a request with this tag")] = None,
    entry: Annotated[str | None, typer.Option(metavar="ID", help="This one, as x-gateway-cache-entry names it")] = None,
    older_than: Annotated[
        float | None, typer.Option(parser=seconds, metavar="30d", help="Stored longer ago than this")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every stored answer")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove stored answers, on every worker: those that are all of what is given, or --all."""
    from gateway.cache import purge as purging

    before = None if older_than is None else int((time.time() - older_than) * 1000)
    which = purging.Which(key=key, tag=tag, entry=entry, before_ms=before)
    if everything == (which != purging.Which()):
        raise typer.BadParameter("give one or more of --key, --tag, --entry, --older-than, or else --all")
    if not (dry_run or yes):
        found = with_redis(config, lambda redis: purging.purge(redis, which, dry_run=True))
        if not found.entries and not everything:
            raise Problem("nothing stored is that")
        confirmed(f"Remove {_words(found)}?", yes=yes)
    _show(with_redis(config, lambda redis: purging.purge(redis, which, dry_run=dry_run)), as_json)


def _words(purged: Purged) -> str:
    return f"{purged.entries:,} entries of {purged.bytes / 1e6:,.1f} MB"


def _show(purged: Purged, as_json: bool) -> None:
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(purged))
        return
    typer.echo(f"{'there are' if purged.dry_run else 'removed'} {_words(purged)}")
