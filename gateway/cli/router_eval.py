"""``gateway router eval``: how well scorers split a set of graded prompts between a strong and a weak model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gateway.cli.embedding import embedder_here, with_progress
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gateway.policy.curve import Values
    from gateway.policy.stages import Scored, Stages

    Vectors = NDArray[np.float32]


class _Row(msgspec.Struct):
    prompt: str
    strong: float
    weak: float


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="DATA", help='JSON Lines of {"prompt", "strong", "weak"}: qualities')],
    fit_rows: Annotated[int, typer.Option(min=0, help="Fit to this many rows, judge by the others")] = 0,
    seed: Annotated[int, typer.Option(help="Which rows those are")] = 0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """APGR, CPT50, CPT80 and what may stay with the weak model, for the learned scorer beside random, length and rules.

    APGR is RouteLLM's (random 0.5). Intervals are 95 %, bootstrapped over prompts.
    """
    import numpy as np

    rows = _read(file)
    if not 0 <= fit_rows < len(rows) - 1:
        raise Problem(f"{file} has {len(rows)} rows: --fit-rows {fit_rows} leaves none to judge by")
    order = np.random.default_rng(seed).permutation(len(rows))
    fitted, judged = order[:fit_rows], np.sort(order[fit_rows:])
    strong = np.array([row.strong for row in rows])
    weak = np.array([row.weak for row in rows])
    prompts = [row.prompt for row in rows]
    vectors = _vectors(prompts, config)
    scored = None if vectors is None else _by_both(prompts, vectors)
    scores = _scores(prompts, scored, seed)
    if fit_rows:
        scores["fitted"] = _stacked(prompts, vectors, fitted, strong, weak, seed)
    found = [_judge(name, strong[judged], weak[judged], score[judged], seed) for name, score in scores.items()]
    told = None if scored is None else scored.at(judged).stages(strong[judged], weak[judged])
    _report(found, len(judged), float(strong[judged].mean()), float(weak[judged].mean()), told, as_json)


def _read(file: Path) -> list[_Row]:
    try:
        return msgspec.json.Decoder(_Row).decode_lines(file.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise Problem(f"{file}: {error}") from None


def _by_both(prompts: list[str], vectors: Vectors) -> Scored:
    from gateway.policy.learned import Mixture
    from gateway.policy.stages import Scored

    return Scored.by(Mixture.shipped(), prompts, vectors)


def _scores(prompts: list[str], scored: Scored | None, seed: int) -> dict[str, Values]:
    import numpy as np

    from gateway.policy.learned import Mixture

    scores = {
        "random": np.random.default_rng(seed).random(len(prompts)),
        "length": np.array([float(len(prompt)) for prompt in prompts]),
        "rules": np.array([by_rules(prompt) for prompt in prompts]),
    }
    if scored is not None:
        return scores | {"first stage": scored.first, "learned": scored.both}
    mixture = Mixture.shipped()
    return scores | {"learned": np.array([mixture.estimate(prompt).lost for prompt in prompts])}


def by_rules(prompt: str) -> float:
    """The difficulty of a request that is this prompt alone, by the rules."""
    from gateway.features import extract
    from gateway.policy.scorer import RuleScorer
    from gateway.types import ChatRequest, Principal

    request = ChatRequest(id="eval", model="auto", messages=[{"role": "user", "content": prompt}], fields={})
    return RuleScorer().score(extract(request, Principal(key_id="eval"), default_max_tokens=1024)).difficulty


def _vectors(prompts: list[str], config: Path | None) -> Vectors | None:
    """The local embedder's vectors of what is asked; None where it is not on this machine."""
    from gateway.policy.signals import stem

    embed = embedder_here(config)
    return None if embed is None else with_progress(embed, [stem(prompt) for prompt in prompts])


def _stacked(
    prompts: list[str], vectors: Vectors | None, fitted: Any, strong: Values, weak: Values, seed: int
) -> Values:
    import numpy as np

    from gateway.policy.learned import Mixture
    from gateway.policy.signals import NAMES
    from gateway.policy.stack import Stack

    mixture = Mixture.shipped()
    inputs = np.stack([mixture.inputs(prompt)[1:] for prompt in prompts]).astype(np.float64)
    form, topic = inputs[:, : len(NAMES)], inputs[:, len(NAMES) :]
    views = [form, topic if vectors is None else vectors.astype(np.float64)]
    prior = np.array(
        [mixture.values(prompt, None if vectors is None else vectors[at]) for at, prompt in enumerate(prompts)]
    )
    stack = Stack([view[fitted] for view in views], prior[fitted], strong[fitted], weak[fitted], seed)
    return stack.score(views, prior)


def _judge(name: str, strong: Values, weak: Values, score: Values, seed: int) -> dict[str, Any]:
    from gateway.policy.curve import intervals, split

    found = split(strong, weak, score)
    low, high = intervals(strong, weak, score, seed=seed)
    return {"scorer": name, **msgspec.to_builtins(found), "apgr_low": low, "apgr_high": high}


def _report(
    found: list[dict[str, Any]], judged: int, strong: float, weak: float, stages: Stages | None, as_json: bool
) -> None:
    if as_json:
        told = None if stages is None else msgspec.to_builtins(stages)
        print_json({"rows": judged, "strong": strong, "weak": weak, "scorers": found, "stages": told})
        return
    columns = ("scorer", "APGR", "95 %", "CPT50", "CPT80", "saving at 95 %")
    print_table(columns, map(_cells, found), right=columns[1:])
    typer.echo(f"\n{judged} rows; mean quality: strong {strong:.3f}, weak {weak:.3f}.")
    if stages is not None:
        typer.echo(_of_stages(stages))


def _of_stages(stages: Stages) -> str:
    return (
        f"An embedding can change the score of {stages.useful:.0%} of the prompts and, where half of all go to the "
        f"strong model, the decision on {stages.in_band:.0%}.\nMean quality then: {stages.quality_without:.3f} with no "
        f"embedding, {stages.quality_band:.3f} with those, {stages.quality_all:.3f} with all."
    )


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    interval = f"{one['apgr_low']:.3f} to {one['apgr_high']:.3f}"
    rest = (f"{one[name]:.1%}" for name in ("cpt50", "cpt80", "saving"))
    return (one["scorer"], f"{one['apgr']:.3f}", interval, *rest)
