"""``gateway replay``: what another policy would have made of yesterday's requests, before it is switched on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.ledger import Since, opened, period
from gateway.cli.options import AsJson, Config, Problem, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.answers import Period
    from gateway.ledger.store import SqlStore
    from gateway.policy.comparing import Bound, Difference
    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.replay import Told
    from gateway.types import LedgerEntry


def replay(
    policy: Annotated[Path, typer.Option(metavar="FILE", help="The policy to try")],
    config: Config = None,
    since: Since = "7d",
    prompts: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Prompts instead of the ledger: {prompt} or {messages} a line")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(metavar="BOUND", help="Exit 1 if e.g. cost>+5%; also flips, refused, latency, quality"),
    ] = None,
    flips: Annotated[int, typer.Option(min=0, help="How many requests that change are listed")] = 20,
    as_json: AsJson = False,
) -> None:
    """Decide logged requests again under another policy: what would change in cost, latency, quality and targets.

    Nobody is called and nothing is switched on.
    """
    from gateway.policy.comparing import Bound

    try:
        bounds = [Bound.read(text) for text in fail_if or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fail-if") from None
    chosen = settings(config)
    if prompts is not None:
        difference, told = _of_prompts(chosen, policy, prompts, flips)
    else:
        difference, told = asyncio.run(_of_ledger(chosen, policy, period(since), flips))
    _show(difference, told, as_json)
    _fail(bounds, difference)


async def _of_ledger(chosen: Settings, file: Path, over: Period, flips: int) -> tuple[Difference, list[Told]]:
    """Two passes: what is known of the targets, then the decisions."""
    from gateway.policy.comparing import Comparison
    from gateway.policy.replay import replay as decide_again
    from gateway.policy.replay import seen
    from gateway.policy.taught import dial
    from gateway.pricing import PriceBook

    prices, turned = PriceBook.load(chosen.config.models), dial(chosen.router_artefact)
    compiled = _compiled(chosen, file, prices)
    async with opened(chosen) as store:
        rates = seen([row async for row in _answered(store, over)])
        comparison = Comparison(rates, flips)
        async for some in store.scan(over, batch=2_000):
            for told in decide_again(compiled, some, prices, rates, turned):
                comparison.add(told)
    return comparison.result(), comparison.flips


async def _answered(store: SqlStore, over: Period, most: int = 20_000) -> AsyncIterator[LedgerEntry]:
    """The newest rows of a period: enough to know how its targets do."""
    after: str | None = None
    count = 0
    while count < most:
        page = await store.rows(over, after=after, limit=1_000)
        for row in page.rows:
            yield row
        count += len(page.rows)
        after = page.next
        if after is None:
            return


def _compiled(chosen: Settings, file: Path, prices: Any) -> CompiledPolicy:
    from gateway.policy.loader import compile_documents
    from gateway.yamlfile import Document

    folders = dict.fromkeys((file.resolve().parent, chosen.policies_dir))
    beside = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path.resolve() != file.resolve()]
    (compiled,) = compile_documents([Document.read(file)], chosen.config.models, prices, beside=beside).values()
    return compiled


def _of_prompts(chosen: Settings, file: Path, prompts: Path, flips: int) -> tuple[Difference, list[Told]]:
    """The policy of the same name, or the default one, against the new one, on prompts that nobody has asked yet."""
    from gateway.metrics import Metrics
    from gateway.policy.comparing import Comparison
    from gateway.reload import build_view
    from gateway.story import compare

    view = build_view(chosen, Metrics())
    compiled = _compiled(chosen, file, view.prices)
    comparison = Comparison({}, flips)
    for told in compare(view, compiled, _lines(prompts)):
        comparison.add(told)
    return comparison.result(), comparison.flips


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    import msgspec

    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            yield msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Problem(f"{path}:{number}: not a JSON object: {error}") from None


def _show(difference: Difference, told: Sequence[Told], as_json: bool) -> None:
    import msgspec

    from gateway.ledger.reports import dollars

    if as_json:
        flips = [msgspec.to_builtins(one) for one in told]
        shown = dollars({**msgspec.to_builtins(difference), "flips": flips})
        typer.echo(msgspec.json.Encoder(decimal_format="number").encode(shown).decode())
        return
    print_table(("", ""), _facts(difference), right=("",))
    _print("moves", ("from → to", "requests"), [(move, f"{count:,}") for move, count in difference.moves.items()])
    for name, sums in (("team", difference.teams), ("key", difference.keys)):
        rows = [(who or "–", *map(_usd, pair), _percent(*pair)) for who, pair in sums.items() if pair[0] != pair[1]]
        _print(f"by {name}", (name, "was, USD", "would be", "change"), rows)
    listed = [(one.request_id, one.was, one.now or "refused", one.rule_was, one.rule_now) for one in told]
    _print("requests that change", ("request", "was", "would be", "rule", "new rule"), listed)


def _facts(all_: Difference) -> list[tuple[str, str]]:
    facts = [
        ("requests decided again", f"{all_.requests:,}"),
        ("go elsewhere", f"{all_.flipped:,}"),
        ("refused", f"{all_.refused:,}"),
        ("stored answers no longer used", f"{all_.hits_lost:,}"),
        ("cost, USD", f"{_usd(all_.cost_was_nano)} → {_usd(all_.cost_nano)}"),
        ("", _percent(all_.cost_was_nano, all_.cost_nano)),
    ]
    if all_.unpriced:
        facts.append(("without a known price", f"{all_.unpriced:,}"))
    if all_.latency_was_ms is not None and all_.latency_ms is not None:
        facts.append(("mean time, ms", f"{all_.latency_was_ms:.0f} → {all_.latency_ms:.0f}"))
    if all_.quality is not None:
        mean, low, high = all_.quality
        facts.append(("predicted quality", f"{mean:+.4f} ({low:+.4f} … {high:+.4f})"))
    return facts


def _print(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        typer.echo(f"\n{title}")
        print_table(columns, rows, right=columns[1:] if title != "requests that change" else ())


def _usd(nano: int) -> str:
    from gateway.ledger.reports import usd

    return usd(nano)


def _percent(was: int, now: int) -> str:
    return f"{(now - was) / was:+.1%}" if was else "–"


def _fail(bounds: Iterable[Bound], difference: Difference) -> None:
    broken = [bound.text for bound in bounds if bound.broken(difference)]
    for text in broken:
        typer.echo(f"gateway: {text}", err=True)
    if broken:
        raise typer.Exit(1)
