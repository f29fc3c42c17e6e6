"""Learning a correction of the difficulty from votes on local answers (``gateway router train --from-ledger``).

A ridge regression of what local answers lacked, less the shipped difficulty. Where a band of difficulty has no votes
nothing changes, so that praise for easy answers does not make proofs easy. Two fits lie on top of each other:

- one shared by all, in which a tenant counts for 100 votes at most against a penalty that bounds what these can do:
  with rows of length √2 at most and votes that are off by 1.2 at most, adding a tenant moves no difficulty by more than
  100 · 2 · 1.2 / penalty (the normal equations gain a matrix that is positive semi-definite);
- a tenant's own votes, on top of the shared fit, for its own requests. Its penalty is chosen by cross-validation over
  these votes alone, and the shared fit stays where they show nothing better.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.dial import Dial
from gateway.policy.feedback import VOTES_MAX, VOTES_READ, Label, Tenant, weighed
from gateway.policy.taught import BANDS, INPUTS, Artefact, between, corrected, described, shipped_form
from gateway.types import Features, Frozen

Values: TypeAlias = NDArray[np.float64]

MOVED_MAX = 0.1
"""What one tenant can move the difficulty of another's requests by."""
OWN_VOTES = 30
"""Fewer votes than these are not fitted apart."""
FOLDS = 5

_SHARED_PENALTY = VOTES_MAX * 2 * 1.2 / MOVED_MAX
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
_LEAST_GAIN = 0.02


class Example(Frozen, frozen=True, kw_only=True):
    """A label of a local answer as it is learned from; ``prompt``: the last user turn, where it was kept."""

    label: Label
    prompt: str | None = None


class Traffic(NamedTuple):
    """A request: its shipped difficulty, and what hangs on where it goes, in nano-dollars."""

    features: Features
    prior: float
    cost_nano: int


class Fit(Frozen, frozen=True, kw_only=True):
    """A trained artefact and what it is worth: the mean squared error of difficulty as the chance of a bad answer, over
    held-back votes of tenants with a fit of their own, before and after; NaN where there is none.
    """

    artefact: Artefact
    tenants: int
    before: float
    after: float


def fit(examples: Sequence[Example], scorer: str, traffic: Iterable[Traffic] = (), seed: int = 0) -> Fit:
    """Learn from labels of local answers, in the order of time; ``scorer`` is what their ``prior`` comes from.

    ``traffic``: what the dial is measured on; what a prompt says is left out of it.
    """
    kept = _lately(examples)
    form = any(one.prompt for one in kept)
    votes = [one.label for one in kept]
    x = np.array([_row(one, form) for one in kept])
    y = np.array([1 - vote.good - vote.decided.prior for vote in votes])
    weight = np.array(weighed(votes))
    shared = _Ridge(x, y, weight)(_SHARED_PENALTY)
    own: list[Values] = []
    tenants: dict[str, int] = {}
    errors: list[Values] = []
    for rows in _by_tenant(votes).values():
        found = _penalty(x[rows], y[rows], weight[rows], seed) if len(rows) >= OWN_VOTES else None
        if found is not None:
            penalty, before, after = found
            tenants |= dict.fromkeys((votes[row].key_id for row in rows), len(own))
            own.append(shared + _Ridge(x[rows], y[rows] - x[rows] @ shared, weight[rows])(penalty))
            errors.append(np.array([before, after]))
    before, after = np.mean(errors, axis=0).tolist() if errors else (math.nan, math.nan)
    artefact = Artefact(
        scorer=scorer,
        ranks=_measured(list(traffic), shared, own, tenants, form).ranks,
        inputs=INPUTS,
        shared=_rounded(shared),
        own=tuple(_rounded(one) for one in own),
        tenants=tenants,
        form=shipped_form() if form else "",
        labels=len(kept),
    )
    return Fit(artefact=artefact, tenants=len(_by_tenant(votes)), before=before, after=after)


def _lately(examples: Sequence[Example]) -> list[Example]:
    counts: dict[str, int] = defaultdict(int)
    kept = []
    for one in reversed(examples):
        counts[one.label.key_id] += 1
        if counts[one.label.key_id] <= VOTES_READ:
            kept.append(one)
    return kept[::-1]


def _measured(
    traffic: list[Traffic], shared: Values, own: list[Values], tenants: Mapping[str, int], form: bool
) -> Dial:
    """The dial over the difficulties that this traffic would have by now."""
    found = []
    for one in traffic:
        place = tenants.get(one.features.key)
        bands = (shared if place is None else own[place]).reshape(BANDS, -1)
        inputs = described(one.features, "" if form else None)
        found.append(min(1.0, max(0.0, one.prior + corrected(bands, one.prior, inputs))))
    return Dial.measured(found, (one.cost_nano for one in traffic))


def _row(example: Example, form: bool) -> Values:
    decided = example.label.decided
    inputs = described(decided.features, (example.prompt or "") if form else None)
    row = np.zeros((BANDS, len(inputs)))
    below, share = between(decided.prior)
    row[below], row[below + 1] = (1 - share) * inputs, share * inputs
    return row.ravel()


def _by_tenant(votes: Sequence[Label]) -> dict[Tenant, list[int]]:
    found: dict[Tenant, list[int]] = defaultdict(list)
    for row, vote in enumerate(votes):
        found[vote.tenant].append(row)
    return found


def _penalty(x: Values, y: Values, weight: Values, seed: int) -> tuple[float, float, float] | None:
    """The best one for a tenant's own fit, with the held-back errors without and with it; None where none is better.

    From its own votes alone: others must not be able to tip the choice.
    """
    folds = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    before = float(np.average(y**2, weights=weight))
    errors = np.zeros(len(_PENALTIES))
    for fold in range(FOLDS):
        own = folds == fold
        ridge = _Ridge(x[~own], y[~own], weight[~own])
        away = [(y[own] - x[own] @ ridge(penalty)) ** 2 for penalty in _PENALTIES]
        errors += np.array(away) @ weight[own] / weight.sum()
    best = int(np.argmin(errors))
    if errors[best] > before * (1 - _LEAST_GAIN):
        return None
    return _PENALTIES[best], before, float(errors[best])


class _Ridge:
    """Weighted ridge regression around zero, solved in the smaller of the two spaces."""

    def __init__(self, x: Values, y: Values, weight: Values) -> None:
        root = np.sqrt(weight)
        self._x, self._y = x * root[:, None], y * root
        self._dual = len(y) < x.shape[1]
        self._gram = self._x @ self._x.T if self._dual else self._x.T @ self._x

    def __call__(self, penalty: float) -> Values:
        gram = self._gram.copy()
        gram[np.diag_indices_from(gram)] += penalty
        if self._dual:
            return np.asarray(self._x.T @ np.linalg.solve(gram, self._y))
        return np.asarray(np.linalg.solve(gram, self._x.T @ self._y))


def _rounded(values: Values) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
