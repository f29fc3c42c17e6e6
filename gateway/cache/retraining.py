"""``gateway cache train``: layers stacked on the shipped verifier, fitted on what own traffic showed, with numpy alone.

Weights begin where they change nothing (log-odds count once, all else not at all) and move as far as the outcomes carry
them: a Gaussian prior worth some twenty outcomes. A tenant counts for at most its share, whatever it sends.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from gateway.cache.lessons import Lesson
from gateway.cache.recalibrated import FORMAT, Floats, HeldBack, Layers, combined
from gateway.cache.verifier import MEASURES, shipped, shipped_digest

TENANT_SHARE = 0.25
"""A tenant's part of the whole weight at most, where there are as many others as it takes."""
ALWAYS = 200
"""So many outcomes of a tenant count whole: a small neighbour is no reason not to learn."""
LEFT_OUT = 8
"""A layer is fitted without each of this many tenants, the largest; the rest weigh too little to matter."""
FOLDS = 5
_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
_CONSTANT, _ODDS, _MEASURE = 2.0, 20.0, 10.0
_LEAST_SPREAD = 0.1
_STEPS = 30
_CLIP = 30.0


def train(found: Sequence[Lesson]) -> Layers:
    """Raises ValueError where there is nothing to learn from."""
    found = [each for each in found if len(each.measures) == len(MEASURES)]
    if not found:
        raise ValueError("nothing was learnt from own traffic yet")
    measures = np.array([each.measures for each in found])
    odds = np.array([shipped().log_odds(row) for row in measures])
    same = np.array([each.same for each in found], dtype=np.float64)
    mean, spread = measures.mean(axis=0), np.maximum(measures.std(axis=0), _LEAST_SPREAD)
    inputs = np.column_stack((np.ones(len(found)), odds, (measures - mean) / spread))
    tenants = [each.tenant for each in found]
    return Layers(
        format=FORMAT,
        verifier=shipped_digest(),
        measures=list(MEASURES),
        mean=mean.tolist(),
        spread=spread.tolist(),
        weights=[layer.tolist() for layer in _layers(inputs, same, tenants)],
        outcomes=len(found),
        wrong=int(len(found) - same.sum()),
        tenants=len(set(tenants)),
        since_ms=min(each.ts_ms for each in found),
        until_ms=max(each.ts_ms for each in found),
        held_back=_held_back(inputs, same, tenants, found),
    )


def weights_of(tenants: Sequence[str]) -> Floats:
    """1 each, less for a tenant that would else have more than its share of the whole."""
    counts = Counter(tenants)
    share = max(TENANT_SHARE, 1 / len(counts))
    most = max(ALWAYS, _cap(sorted(counts.values(), reverse=True), share))
    return np.array([min(1.0, most / counts[tenant]) for tenant in tenants])


def _cap(counts: Sequence[int], share: float) -> float:
    """The largest count a tenant may have so that it is at most ``share`` of what is left when all keep to it."""
    total = float(sum(counts))
    for cut, count in enumerate(counts):
        rest = total - sum(counts[:cut])
        allowed = share * rest / (1 - cut * share) if cut * share < 1 else count
        if count <= allowed:
            return max(float(count), allowed)
    return float(counts[-1])


def _layers(inputs: Floats, same: Floats, tenants: Sequence[str]) -> list[Floats]:
    """Of all, and without each of the largest tenants."""
    names = np.array(tenants)
    kept = [np.ones(len(names), dtype=bool)]
    kept += [names != name for name, _ in Counter(tenants).most_common(LEFT_OUT)]
    return [_layer(inputs[some], same[some], names[some].tolist()) for some in kept]


def _layer(inputs: Floats, same: Floats, tenants: Sequence[str]) -> Floats:
    return fit(inputs, same, weights_of(tenants)) if tenants else _nothing_learnt(inputs.shape[1])


def _nothing_learnt(width: int) -> Floats:
    return np.array([0.0, 1.0, *[0.0] * (width - 2)])


def fit(inputs: Floats, same: Floats, weights: Floats) -> Floats:
    """Maximum a posteriori by Newton's method. ``inputs``: shape (outcomes, width); the others: (outcomes,)."""
    start = _nothing_learnt(inputs.shape[1])
    precision = np.array([_CONSTANT, _ODDS, *[_MEASURE] * (len(start) - 2)])

    def loss(at: Floats) -> float:
        z = inputs @ at
        return float((weights * (np.logaddexp(0, z) - same * z)).sum() + 0.5 * (precision * (at - start) ** 2).sum())

    found, now = start, loss(start)
    for _ in range(_STEPS):
        p = _sigmoid(inputs @ found)
        slope = inputs.T @ (weights * (same - p)) - precision * (found - start)
        curve = (inputs.T * (weights * p * (1 - p))) @ inputs + np.diag(precision)
        step: Floats = np.asarray(np.linalg.solve(curve, slope), dtype=np.float64)
        found, after = _downhill(loss, found, step, now)
        if now - after < 1e-6:
            break
        now = after
    return found


def _downhill(loss: Callable[[Floats], float], start: Floats, step: Floats, now: float) -> tuple[Floats, float]:
    """Newton's step, halved until it leads down."""
    size = 1.0
    while size > 1e-4:
        after = loss(start + size * step)
        if after <= now:
            return start + size * step, after
        size /= 2
    return start, now


def _held_back(inputs: Floats, same: Floats, tenants: Sequence[str], found: Sequence[Lesson]) -> HeldBack:
    """Each fold judged by layers that had not seen it, and by the shipped verifier alone."""
    folds = np.array([_fold(each) for each in found])
    after = inputs[:, 1].copy()
    for fold in range(FOLDS):
        test, seen = folds == fold, folds != fold
        if test.any() and seen.any():
            layers = _layers(inputs[seen], same[seen], [t for t, s in zip(tenants, seen, strict=True) if s])
            after[test] = combined(inputs[test], np.array(layers))
    said = [_sigmoid(inputs[:, 1]), _sigmoid(after)]
    return HeldBack(
        outcomes=len(found),
        log_loss=(_log_loss(said[0], same), _log_loss(said[1], same)),
        brier=(float(((said[0] - same) ** 2).mean()), float(((said[1] - same) ** 2).mean())),
        bins=_bins(said[1], same),
    )


def _fold(lesson: Lesson) -> int:
    """By the measures: the same pair reported twice is never on both sides."""
    digest = hashlib.sha256(repr((lesson.partition, lesson.measures)).encode()).digest()
    return digest[0] % FOLDS


def _bins(said: Floats, same: Floats) -> list[tuple[float, float, int, float, float]]:
    bins = []
    for low, high in pairwise(_EDGES):
        inside = (said >= low) & ((said < high) | (high == _EDGES[-1]))
        if inside.any():
            bins.append((low, high, int(inside.sum()), float(said[inside].mean()), float(same[inside].mean())))
    return bins


def _log_loss(said: Floats, same: Floats) -> float:
    safe = np.clip(said, 1e-6, 1 - 1e-6)
    return float(-(same * np.log(safe) + (1 - same) * np.log(1 - safe)).mean())


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -_CLIP, _CLIP))))
