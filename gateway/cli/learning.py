"""``gateway router calibrate`` and ``train --from-ledger``: what one's own traffic teaches. Nothing is switched on."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gateway.cli.ledger import Since, opened, period
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config import Settings
    from gateway.ledger.answers import Period
    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.evidence import Known
    from gateway.policy.feedback import Label
    from gateway.policy.teaching import Example, Fit
    from gateway.policy.thresholds import Aim, Estimate, Fitted, Threshold
    from gateway.pricing import PriceBook
    from gateway.sealing import Seal
    from gateway.types import Content, LedgerEntry

LABELS_MIN = 50
"""Fewer votes than these make no artefact."""

_ROWS_MAX = 50_000


def calibrate(
    target_quality: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of the quality of sending everything away to keep")
    ] = None,
    target_cost: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of the cost of sending everything away to spend")
    ] = None,
    policy: Annotated[str, typer.Option(help="Default: what `auto` means")] = "",
    since: Since = "30d",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the diff there")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Set the thresholds of a policy (difficulty < X) by votes in the ledger, else by the local model's profile.

    Fitted on half of the requests, judged on the others. Writes a diff to look at; nothing is switched on.
    """
    if (target_quality is None) == (target_cost is None):
        raise typer.BadParameter("one of --target-quality and --target-cost is needed")
    aim: Aim = "cost" if target_quality is None else "quality"
    target = (target_cost if target_quality is None else target_quality) or 0.0
    chosen = settings(config)
    compiled, prices = _policy(chosen, policy)
    among, rows = _among(chosen, compiled), asyncio.run(_rows(chosen, period(since)))
    known, source = _known(chosen, compiled, among, rows, prices)
    fitted, unfit = _fit(among, known, target, aim)
    if not fitted:
        raise Problem("; ".join(unfit))
    change = _diff(compiled, fitted)
    if out is not None:
        _write(out, change.encode())
    _show(fitted, [*unfit, *_missed(fitted, target, aim)], source, change, out, as_json)


def _missed(fitted: Sequence[Fitted], target: float, aim: Aim) -> list[str]:
    """Thresholds that do not reach on held-back requests what they were set for."""
    return [
        f"rule '{one.rule}': held-back requests surely miss the target, look twice"
        for one in fitted
        if (one.held.quality.high < target if aim == "quality" else one.held.cost.low > target)
    ]


def _policy(chosen: Settings, name: str) -> tuple[CompiledPolicy, PriceBook]:
    from gateway.policy.loader import load_policies
    from gateway.pricing import PriceBook

    prices = PriceBook.load(chosen.config.models)
    policies = load_policies(chosen, prices=prices)
    found = policies.get(name or policies.default)
    if found is None:
        raise Problem(f"no policy named '{name}' (found: {', '.join(policies.names)})")
    return found, prices


def _among(chosen: Settings, policy: CompiledPolicy) -> list[Threshold]:
    from gateway.policy.taught import dial
    from gateway.policy.thresholds import thresholds

    found = thresholds(policy, dial(chosen.router_artefact))
    if not found:
        raise Problem(f"no rule of policy '{policy.name}' begins with a local model and has one 'difficulty < X'")
    return found


async def _rows(chosen: Settings, over: Period) -> list[LedgerEntry]:
    """Of a period the newest rows with a vote, of each key, and the newest without one; oldest first."""
    from gateway.policy.feedback import VOTES_READ, says_something

    rated: dict[str, deque[LedgerEntry]] = defaultdict(lambda: deque(maxlen=VOTES_READ))
    others: deque[LedgerEntry] = deque(maxlen=_ROWS_MAX)
    async with opened(chosen) as store:
        async for some in store.scan(over):
            for row in some:
                (rated[row.key_id] if says_something(row) else others).append(row)
    return sorted(chain(others, *rated.values()), key=lambda row: (row.ts_ms, row.request_id))


def _known(
    chosen: Settings,
    policy: CompiledPolicy,
    among: Sequence[Threshold],
    rows: list[LedgerEntry],
    prices: PriceBook,
) -> tuple[Mapping[str, Known], str]:
    """What the thresholds are set by, and where that comes from."""
    from gateway.policy.competence import best
    from gateway.policy.evidence import of_ledger, of_profile
    from gateway.policy.feedback import labels, latest
    from gateway.policy.probe import questions
    from gateway.policy.profile import set_id
    from gateway.policy.replay import cost_of, seen
    from gateway.policy.thresholds import VOTES_MIN

    found, scorer = latest(rows)
    rates, votes = seen(rows), labels(found, _local(chosen))
    known = of_ledger(policy, among, found, votes, lambda name, row: cost_of(name, row, prices, rates))
    if any(one.local_votes >= VOTES_MIN for one in known.values()):
        return known, "ledger"
    local = next((model.local for model in chosen.config.models if model.local and not model.url), None)
    profile = best(chosen.models_dir, local) if local else None
    count = sum(one.local_votes for one in known.values())
    if profile is None:
        reason = f"{count} votes on local answers are too few (at least {VOTES_MIN} are needed)"
        raise Problem(f"{reason}, and the local model has no profile: gateway router probe {local or 'MODEL'}")
    asked = questions(thorough=profile.questions != set_id(questions()))
    nothing = {rule: type(one)() for rule, one in known.items()}
    traffic = known if scorer == "profile" else nothing
    return of_profile(policy, among, profile, asked, traffic, int(time.time() * 1000)), "profile"


def _local(chosen: Settings) -> frozenset[str]:
    return frozenset(model.name for model in chosen.config.models if model.is_local)


def _fit(
    among: Sequence[Threshold], known: Mapping[str, Known], target: float, aim: Aim
) -> tuple[list[Fitted], list[str]]:
    from gateway.policy.thresholds import Unfit, fit

    fitted, unfit = [], []
    for threshold in among:
        one = known[threshold.rule]
        if not one.cases and not one.votes:
            unfit.append(f"rule '{threshold.rule}' stays as it is: no request would go there if it were easy")
            continue
        try:
            fitted.append(fit(threshold, one.cases, one.votes, target, aim))
        except Unfit as error:
            unfit.append(f"rule '{threshold.rule}' stays as it is: {error}")
    return fitted, unfit


def _diff(policy: CompiledPolicy, fitted: Sequence[Fitted]) -> str:
    from gateway.policy.proposal import diff

    try:
        return diff(policy, fitted)
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"the policy cannot be read: {error}") from None


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise Problem(f"{file} cannot be written: {error.strerror}") from None


def _show(
    fitted: Sequence[Fitted], remarks: Sequence[str], source: str, change: str, out: Path | None, as_json: bool
) -> None:
    if as_json:
        shown = [msgspec.to_builtins(one) | _named(one) for one in fitted]
        print_json({"evidence": source, "thresholds": shown, "remarks": list(remarks), "diff": change})
        return
    columns = ("rule", "difficulty <", "stays local", "quality kept, 95 %", "cost, 95 %", "held back")
    rows = [cells for one in fitted for cells in _cells(one)]
    print_table(columns, rows, right=columns[1:], err=True)
    by = (
        "votes in the ledger" if source == "ledger" else "the local model's profile: its questions are not your traffic"
    )
    typer.echo(f"\nBy {by}. Shares are of sending all of these requests away.", err=True)
    for remark in remarks:
        typer.echo(remark, err=True)
    if out is None:
        typer.echo(change, nl=False)
    typer.echo("Nothing changes: the policy is as it should be." if not change else _advice(out), err=True)


def _advice(out: Path | None) -> str:
    return f"Look at {out or 'the diff'}, apply it with patch -p1, then: gateway check, gateway replay --policy FILE"


def _named(one: Fitted) -> dict[str, Any]:
    """Estimates by name."""
    return {
        side: msgspec.to_builtins(reached) | {name: getattr(reached, name)._asdict() for name in ("quality", "cost")}
        for side, reached in (("before", one.before), ("held", one.held))
    }


def _cells(one: Fitted) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{value:g}",
            f"{reached.local:.0%}",
            _interval(reached.quality),
            _interval(reached.cost),
            f"{reached.requests:,} requests, {reached.votes:,} votes",
        )
        for name, value, reached in (
            (f"{one.rule}, now", one.was, one.before),
            (f"{one.rule}, fitted", one.now, one.held),
        )
    ]


def _interval(found: Estimate) -> str:
    return f"{found.mean:.1%} ({found.low:.1%} to {found.high:.1%})"


def from_ledger(chosen: Settings, since: str, out: Path, as_json: bool) -> None:
    """Learn a correction of the shipped difficulty from votes on local answers, and write it to ``out``."""
    from gateway.policy.feedback import latest
    from gateway.policy.teaching import Traffic, fit
    from gateway.types import SHADOW_KEY

    rows = asyncio.run(_rows(chosen, period(since)))
    found, scorer = latest(rows)
    examples = asyncio.run(_examples(chosen, [label for label in _labels(chosen, found) if label.local]))
    if len(examples) < LABELS_MIN:
        raise Problem(f"{len(examples)} votes on local answers since {since} are too few: {LABELS_MIN} are needed")
    asked = (one for one in found if one.row.key_id != SHADOW_KEY)
    fitted = fit(examples, scorer, [Traffic(one.features, one.prior, one.row.baseline_nano) for one in asked])
    _write(out, fitted.artefact.encoded())
    _told(fitted, out, as_json)


def _labels(chosen: Settings, found: Any) -> list[Label]:
    from gateway.policy.feedback import labels

    return labels(found, _local(chosen))


async def _examples(chosen: Settings, votes: Sequence[Label]) -> list[Example]:
    """With the last user turn where it was kept in readable form."""
    from gateway.policy.teaching import Example
    from gateway.sealing import seal_of

    seal = seal_of(chosen)
    async with opened(chosen) as store:
        return [Example(label=vote, prompt=_last_turn(await store.content(vote.of), seal)) for vote in votes]


def _last_turn(content: Content | None, seal: Seal | None) -> str | None:
    from gateway.keeping import messages
    from gateway.sealing import Sealed, readable

    try:
        said = [] if content is None else messages(readable(content, seal))[:-1]
    except Sealed:
        return None
    turns = [turn.get("content") for turn in said if isinstance(turn, dict) and turn.get("role") == "user"]
    return turns[-1] if turns and isinstance(turns[-1], str) else None


def _told(fitted: Fit, out: Path, as_json: bool) -> None:
    import hashlib

    digest = hashlib.sha256(out.read_bytes()).hexdigest()[:12]
    facts = {
        "path": str(out),
        "digest": digest,
        "scorer": fitted.artefact.scorer,
        "votes": fitted.artefact.labels,
        "tenants": fitted.tenants,
        "fitted_apart": len(fitted.artefact.own),
        "reads_prompts": bool(fitted.artefact.form),
        "error_before": fitted.before,
        "error_after": fitted.after,
    }
    if as_json:
        print_json(facts)
        return
    print_table(("", ""), [(name.replace("_", " "), _plain(value)) for name, value in facts.items()])
    typer.echo(f"\nTo switch it on: router: {{artefact: {out}}} in gateway.yaml, then a reload.")


def _plain(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
