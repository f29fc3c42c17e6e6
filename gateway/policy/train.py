"""How the shipped scorer is made (``gateway router train``) from the rows of :mod:`gateway.policy.graded`.

Ridge regressions and a logistic regression with nothing but numpy, held so tight that only what many rows agree on is
left: what is wanted is an order that holds in sets of prompts never seen. Nothing is drawn at random: the same rows and
vectors make the same file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.graded import Row, Story, rows_of, stories_of
from gateway.policy.learned import CLIP, FULL, FULL_SCALE, Mixture
from gateway.policy.material import Arrays, Embed, Material, Values
from gateway.policy.signals import NAMES

_FORM_PENALTY, _TOPIC_PENALTY = 20_000.0, 60_000.0
_WRITTEN_WEIGHT = {"anchor": 3.0, "subject": 3.0}
_BAND_EVERY = 10
_DUST = 1e-12

_LOADS = (
    "log_words", "log_characters", "log_numbers", "distinct_numbers", "counting_words", "multiples", "rates",
    "remainders", "conditions", "rare_words", "rare_share", "long_words", "sentence_length", "sentences", "commas",
    "negations", "units", "word_length",
)  # fmt: skip
"""Signals of which more is never easier: a story's expert may give none of them a negative weight."""
_MOST_STEPS, _LENGTH_COUNTS, _LOAD_PENALTY, _LOAD_ROUNDS = 8.0, 2.0, 0.1, 200
_STORY_SMALL, _STORY_LOST, _STORY_SPREAD = 0.5, 0.4, 0.1
"""What a small model gets and loses on a word problem of average load, and how much a standard deviation changes it."""

_TELLS_A_STORY = (
    "log_words", "options", "rare_share", "code_marks", "formulas", "units", "sentences", "lines", "blank",
    "code_words", "maths_words", "creative", "open_ended", "word_length", "long_words", "how_many", "capitals",
)  # fmt: skip
_GATE_DECAY, _GATE_ROUNDS, _GATE_SHARPNESS = 1e-3, 12, 4.0

Chosen: TypeAlias = NDArray[np.bool_]


def train(data: Path, embedder: Path, embed: Embed) -> Arrays:
    """The artefact's arrays from the rows in ``data``, a MiniLM folder with its token vectors, and what embeds with it.

    Raises OSError, msgspec.MsgspecError.
    """
    return fit(Material(rows_of(data), stories_of(data), embedder, embed))


def fit(material: Material, rows: Chosen | None = None, stories: Chosen | None = None) -> Arrays:
    """The same of some of the ``rows`` and ``stories``, for judging by the others; of all, where it is not said."""
    form, story_form = material.form, material.story_form
    both = np.concatenate((form, story_form))
    mean, spread = both.mean(axis=0), both.std(axis=0) + 1e-3
    form, story_form = (np.clip((one - mean) / spread, -CLIP, CLIP) for one in (form, story_form))
    kept = np.ones(len(form), bool) if rows is None else rows
    told = np.ones(len(story_form), bool) if stories is None else stories
    graded = [row for row, keep in zip(material.rows, kept, strict=True) if keep]
    listed = [story for story, keep in zip(material.stories, told, strict=True) if keep]
    arrays = {
        "mean": mean,
        "spread": spread,
        "gate": gate(graded, form[kept], story_form[told]),
        **_named("story_", story_expert(listed, story_form[told], material.story_form[told])),
        **_named("", expert(graded, form[kept], material.topic[kept])),
        **_named(FULL, expert(graded, form[kept], material.meaning[kept])),
        "band": np.zeros(()),
    }
    found: Arrays = {**material.vocabulary, **{name: _without_dust(array) for name, array in arrays.items()}}
    found["band"] = _band(found, [row.prompt for row in graded[::_BAND_EVERY]], material.meaning[kept][::_BAND_EVERY])
    return found


def _named(prefix: str, slopes: tuple[Values, Values]) -> dict[str, Values]:
    return dict(zip((prefix + "small", prefix + "lost"), slopes, strict=True))


def _without_dust(array: Values) -> NDArray[np.float32]:
    """What is zero but for rounding would hang on the number of threads."""
    return np.where(np.abs(array) < _DUST, 0.0, array).astype(np.float32)


def _band(arrays: Arrays, prompts: Sequence[str], meaning: Values) -> NDArray[np.float32]:
    """How far apart the stages are in 19 of 20 prompts, rounded up to a thousandth."""
    mixture, vectors = Mixture(arrays), (meaning / FULL_SCALE).astype(np.float32)
    apart = [
        abs(mixture.estimate(prompt, vector).lost - mixture.estimate(prompt).lost)
        for prompt, vector in zip(prompts, vectors, strict=True)
    ]
    return np.array(np.ceil(1000 * np.quantile(apart, 0.95)) / 1000, np.float32)


def story_expert(stories: Sequence[Story], form: Values, counted: Values) -> tuple[Values, Values]:
    """Slopes (1 + signals,) for the small model's quality and what is lost, by a load to which steps and length add."""
    steps = np.array([min(_MOST_STEPS, story.steps) for story in stories])
    wanted = _standard(steps) + _LENGTH_COUNTS * _standard(counted[:, NAMES.index("log_words")])
    chosen = [NAMES.index(name) for name in _LOADS]
    centre = form[:, chosen].mean(axis=0)
    slopes = np.zeros(form.shape[1])
    slopes[chosen] = not_negative(form[:, chosen] - centre, wanted)
    spread = (form @ slopes).std() + 1e-9
    slopes *= _STORY_SPREAD / spread
    away = centre @ slopes[chosen]
    return np.array([_STORY_SMALL + away, *-slopes]), np.array([_STORY_LOST - away, *slopes])


def not_negative(x: Values, y: Values) -> Values:
    """Ridge regression with no slope below zero, by coordinate descent."""
    normal = x.T @ x + _LOAD_PENALTY * len(x) * np.eye(x.shape[1])
    wanted, slopes = x.T @ y, np.zeros(x.shape[1])
    for _ in range(_LOAD_ROUNDS):
        for place in range(len(slopes)):
            rest = wanted[place] - normal[place] @ slopes + normal[place, place] * slopes[place]
            slopes[place] = max(0.0, rest / normal[place, place])
    return slopes


def _standard(values: Values) -> Values:
    return np.asarray((values - values.mean()) / (values.std() + 1e-9))


def gate(rows: Sequence[Row], form: Values, story_form: Values) -> Values:
    """Slopes (1 + signals,) of a logistic regression, by Newton's method: stories and passages against all else."""
    chosen = [NAMES.index(name) for name in _TELLS_A_STORY]
    told = np.array([row.passage for row in rows] + [True] * len(story_form))
    sources = [*_sources(rows), *["story"] * len(story_form)]
    weight = _by_source(sources)
    for kind in (told, ~told):
        weight[kind] /= 2 * max(weight[kind].sum(), 1e-9)
    x = np.concatenate((form, story_form))[:, chosen]
    x = np.hstack([np.ones((len(x), 1)), x])
    found = np.zeros(x.shape[1])
    for _ in range(_GATE_ROUNDS):
        likely = 1 / (1 + np.exp(-x @ found))
        slope = x.T @ (weight * (likely - told)) + _GATE_DECAY * found
        bend = (x * (weight * likely * (1 - likely))[:, None]).T @ x + _GATE_DECAY * np.eye(len(found))
        found = found - np.linalg.solve(bend, slope)
    slopes = np.zeros(1 + len(NAMES))
    slopes[[0, *(1 + place for place in chosen)]] = found * _GATE_SHARPNESS
    return slopes


def expert(rows: Sequence[Row], form: Values, topic: Values) -> tuple[Values, Values]:
    """Slopes (1 + signals + topic,) for the small model's quality and what is lost, from all but the passages.

    Of graded sets the differences within each count: between them the form of grading would. What was written for this
    project gives the level, and is one source.
    """
    kept = np.array([not row.passage for row in rows])
    sources = np.array(_sources(rows))[kept]
    weight = _by_source(sources.tolist())
    written = np.isin(sources, list(_WRITTEN_WEIGHT))
    sources = np.where(written, "written", sources)
    x = np.hstack([form, topic])[kept]
    away = x.copy()
    for source in np.unique(sources):
        own = sources == source
        away[own] -= weight[own] @ x[own] / weight[own].sum()
    penalties = np.full(x.shape[1], _FORM_PENALTY)
    penalties[form.shape[1] :] = _TOPIC_PENALTY * (topic**2).mean()
    normal = (away * weight[:, None]).T @ away
    normal[np.diag_indices_from(normal)] += penalties * weight.mean()

    def slopes(y: Values) -> Values:
        found = np.linalg.solve(normal, (away * weight[:, None]).T @ y)
        return np.concatenate(([np.mean(y[written] - x[written] @ found) if written.any() else 0.0], found))

    small, lost = (np.array([getattr(row, what) for row in rows])[kept] for what in ("small", "lost"))
    return slopes(small), slopes(lost)


def _sources(rows: Sequence[Row]) -> list[str]:
    return [row.source.split(":")[0] for row in rows]


def _by_source(sources: list[str]) -> Values:
    """A source counts by the root of its size, what was written for this project more."""
    counts = Counter(sources)
    return np.array([_WRITTEN_WEIGHT.get(source, 1.0) / np.sqrt(counts[source]) for source in sources])
