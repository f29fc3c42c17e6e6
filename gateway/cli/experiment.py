"""``gateway experiment``: policies side by side, and what of their differences is real."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.ledger import opened, period
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.experiments.report import Arm, Report
    from gateway.ledger.store import SqlStore
    from gateway.policy.experiments import Declared, State

app = typer.Typer(no_args_is_help=True)
_COLUMNS = ("arm", "share", "requests", "units", "$ a request", "saved $", "hit rate", "errors")
_TIMES = ("p50 ms", "p95 ms", "rated", "rating")


@app.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """The experiments that the policies declare, and what each arm gets now."""
    chosen = settings(config)
    found = _declared(chosen)
    states = asyncio.run(_shares(chosen)) if found else {}
    if as_json:
        from gateway.http.experiments import shown

        print_json([shown(one, one.state(states)) for one in found])
        return
    rows = [row for one in found for row in _listed(one, one.state(states))]
    print_table(("experiment", "by", "arm", "share", ""), rows, right=("share",))


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="The experiment")],
    config: Config = None,
    since: Annotated[str, typer.Option(metavar="24h|7d", help="Only this long; default: since the run began")] = "",
    as_json: AsJson = False,
) -> None:
    """What the arms came to, and what of their differences is real: it may be looked at as often as one likes."""
    chosen = settings(config)
    of = _named(_declared(chosen), name)
    told = asyncio.run(_report(chosen, of, period(since).since_ms if since else None))
    if as_json:
        print_json(_told(told))
    else:
        _print(told)


def _declared(chosen: Settings) -> list[Declared]:
    from gateway.policy.experiments import read_folder

    return list(read_folder(chosen.policies_dir).values())


def _named(found: list[Declared], name: str) -> Declared:
    from gateway.yamlfile import did_you_mean

    for one in found:
        if one.name == name:
            return one
    raise Problem(f"no experiment is called '{name}'{did_you_mean(name, [one.name for one in found])}")


async def _states(store: SqlStore) -> dict[str, State]:
    """As the ledger has them, which also tells while nothing is serving."""
    from gateway.policy.experiments import states_in

    kept = await store.definitions()
    return states_in({field.encode(): value.encode() for field, value in kept.items()})


async def _shares(chosen: Settings) -> dict[str, State]:
    if not _served(chosen):
        return {}
    async with opened(chosen) as store:
        return await _states(store)


async def _report(chosen: Settings, of: Declared, since_ms: int | None) -> Report:
    from gateway.experiments.report import report as make

    if not _served(chosen):
        raise Problem("nothing has been served yet: there is no ledger")
    async with opened(chosen) as store:
        return await make(store, of, of.state(await _states(store)), int(time.time() * 1000), since_ms)


def _served(chosen: Settings) -> bool:
    """Whether there is a ledger; one in PostgreSQL is taken to be there."""
    return chosen.config.ledger.url is not None or (chosen.data_dir / "ledger.sqlite3").exists()


def _listed(of: Declared, state: State) -> list[tuple[str, ...]]:
    shares = of.shares_now(state)
    rows: list[tuple[str, ...]] = []
    for name, label in of.labels:
        why = state.stopped.get(name)
        told = f"stopped: {why.reason}" if why else "control" if name == of.control else ""
        rows.append((of.name, of.by, label, f"{shares[name]:.1%}", told))
    return rows


def _told(told: Report) -> dict[str, Any]:
    import msgspec

    arms = [
        msgspec.to_builtins(arm) | {"cost_per_request_nano": arm.cost_per_request_nano, "verdict": arm.verdict}
        for arm in told.arms
    ]
    return {**msgspec.to_builtins(told), "arms": arms}


def _print(told: Report) -> None:
    from gateway.dashboard.words import utc

    since = f"{utc(told.since_ms)[:16]} UTC" if told.arms[0].requests else "now"
    typer.echo(f"{told.name}: {told.control} against others, by {told.by}, run {told.run}, since {since}")
    columns = tuple(f"{told.by}s" if column == "units" else column for column in (*_COLUMNS, *_TIMES))
    print_table(columns, [_row(arm) for arm in told.arms], right=columns[1:])
    for warning in told.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for arm in told.arms[1:]:
        typer.echo(f"\n{arm.name}: {arm.verdict}")


def _row(arm: Arm) -> tuple[str, ...]:
    from gateway.types import NANO

    each = arm.cost_per_request_nano
    return (
        arm.label,
        f"{arm.share:.1%}",
        f"{arm.requests:,}",
        f"{arm.units:,}",
        "–" if each is None else f"{each / NANO:.9f}",
        f"{arm.saved_nano / NANO:.6f}",
        "–" if arm.hit_rate is None else f"{arm.hit_rate:.1%}",
        f"{arm.errors / arm.requests:.2%}" if arm.requests else "–",
        *("–" if time_ is None else f"{time_:,.0f}" for time_ in (arm.p50_ms, arm.p95_ms)),
        f"{arm.rated:,}",
        "–" if arm.rating is None else f"{arm.rating:+.2f}",
    )
