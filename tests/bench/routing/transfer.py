"""``python -m tests.bench.routing transfer DATA``: the shipped scorer's recipe on sets that were held out of it whole.

Each graded set in turn: the recipe of ``gateway router train`` without it, then its APGR on it, beside the length of
the prompt and the rules. Of GSM8K the graded problems are left out of the word problems as well; MMLU-Pro is left out
with its options and without. Some minutes, most of them embedding. Names of sets after DATA: only these.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cli.embedding import embedder
from gateway.cli.options import settings
from gateway.cli.router_eval import by_rules
from gateway.policy.curve import intervals, split
from gateway.policy.graded import LARGE, SMALL, Row, rows_of, stories_of
from gateway.policy.learned import FULL_SCALE, Mixture
from gateway.policy.material import Material
from gateway.policy.stages import Scored, Stages
from gateway.policy.train import fit
from gateway.types import Frozen
from local_models import fetch

Vectors: TypeAlias = NDArray[np.float32]

SUMS = "gsm8k"
TOGETHER = dict.fromkeys(("mmlupro", "mmlupro-open"), ("mmlupro", "mmlupro-open"))
SETS = (
    SUMS, "mmlupro", "mmlupro-open", "arc_challenge", "openbook_qa", "commonsense_qa", "mmlu", "mbpp", "human_eval",
    "math",
)  # fmt: skip


class HeldOut(Frozen, frozen=True, kw_only=True):
    """A set, how well its order was told by whom (name: APGR and its 95 % interval), and what the stages did there."""

    name: str
    rows: int
    scores: dict[str, tuple[float, float, float]]
    stages: Stages


class _Graded(msgspec.Struct):
    prompt: str
    domain: str
    quality: dict[str, float]


def main(arguments: Sequence[str]) -> None:
    """Print a line for each set as it is done."""
    for found in held_out(Path(arguments[0]), arguments[1:] or SETS):
        cells = (f"{name} {area:.3f} ({low:.2f}-{high:.2f})" for name, (area, low, high) in found.scores.items())
        print(f"{found.name:<15} {found.rows:>5}  " + "  ".join(cells), end="  ")
        print(f"embedding useful {found.stages.useful:.0%}, in the band {found.stages.in_band:.0%}", flush=True)


def held_out(data: Path, names: Sequence[str]) -> Iterator[HeldOut]:
    """One after the other."""
    sums, chosen = list(graded_sums(data)), settings(None)
    folder = fetch.ensure(chosen.config.embedder.model, chosen.models_dir)
    material = Material([*rows_of(data), *sums], stories_of(data), folder, embedder(None))
    sources = np.array([row.source for row in material.rows])
    asked = {_spaced(row.prompt) for row in sums}
    others = np.array([_spaced(story.prompt) not in asked for story in material.stories])
    for name in names:
        learned_from = ~np.isin(sources, (*TOGETHER.get(name, (name,)), SUMS))
        mixture = Mixture(fit(material, learned_from, others if name == SUMS else None))
        own = np.flatnonzero(sources == name)
        vectors = (material.meaning[own] / FULL_SCALE).astype(np.float32)
        yield judged(name, mixture, [material.rows[place] for place in own], vectors)


def _spaced(prompt: str) -> str:
    return " ".join(prompt.split())


def graded_sums(data: Path) -> Iterator[Row]:
    """LLMRouter's GSM8K, which the recipe does not read."""
    with gzip.open(data / "llmrouter.jsonl.gz", "rb") as lines:
        for one in msgspec.json.Decoder(_Graded).decode_lines(lines.read()):
            if one.domain == SUMS:
                small, large = (
                    float(np.mean([got for model, got in one.quality.items() if model in of])) for of in (SMALL, LARGE)
                )
                yield Row(prompt=one.prompt, source=SUMS, small=small, lost=large - small)


def judged(name: str, mixture: Mixture, rows: Sequence[Row], vectors: Vectors) -> HeldOut:
    """``vectors``: of what the rows ask."""
    prompts = [row.prompt for row in rows]
    weak = np.array([row.small for row in rows])
    strong = weak + np.array([row.lost for row in rows])
    scored = Scored.by(mixture, prompts, vectors)
    scores = {
        "length": np.array([float(len(prompt)) for prompt in prompts]),
        "rules": np.array([by_rules(prompt) for prompt in prompts]),
        "first stage": scored.first,
        "both": scored.both,
    }
    areas = {who: (split(strong, weak, score).apgr, *intervals(strong, weak, score)) for who, score in scores.items()}
    return HeldOut(name=name, rows=len(rows), scores=areas, stages=scored.stages(strong, weak))
