"""What a gateway learned from its own traffic: a correction of the shipped difficulty (``gateway router train
--from-ledger``), kept in a file that gateway.yaml names.

Difficulty is what a local answer is expected to lack. The correction is a ridge regression of that, less the shipped
difficulty, on the form of the request, in nine bands of the shipped difficulty: where a band has no labels nothing
changes, so that praise for easy answers does not make proofs easy. Two fits lie on top of each other:

- one shared by all, in which a tenant counts for 100 votes at most against a penalty that bounds what these can do:
  with rows of length √2 at most and votes that are off by 1.2 at most, adding a tenant moves no difficulty by more than
  100 · 2 · 1.2 / penalty (the normal equations gain a matrix that is positive semi-definite);
- a tenant's own votes, on top of the shared fit, for its own requests. Its penalty is chosen by cross-validation over
  these votes alone, and the shared fit stays where they show nothing better.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.errors import ConfigError
from gateway.policy import learned
from gateway.policy.dial import Dial, Dialled
from gateway.policy.feedback import TAUGHT, TAUGHT_BY, VOTES_MAX, Label, Tenant, compares, weighed
from gateway.types import Features, Frozen, Score

if TYPE_CHECKING:
    from gateway.protocols import Scorer

Values: TypeAlias = NDArray[np.float64]

MOVED_MAX = 0.1
"""What one tenant can move the difficulty of another's requests by."""
OWN_VOTES = 30
"""Fewer votes than these are not fitted apart."""
BANDS = 9
FOLDS = 5
INPUTS = (
    "even", "words", "prompt", "system", "conversation", "code", "maths", "constraints", "foreign", "asks", "explains",
    "needs", "about_now",
)  # fmt: skip

_SHARED_PENALTY = VOTES_MAX * 2 * 1.2 / MOVED_MAX
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
_LEAST_GAIN = 0.02
_NEWEST = 20_000
_ASKS, _EXPLAINS = frozenset(("what", "who", "whom", "whose", "where", "when", "which")), frozenset(("why", "how"))


class Artefact(Frozen, frozen=True, kw_only=True):
    """``shared`` and each of ``own`` are corrections of shape (BANDS, inputs), row by row, those of ``own`` whole and
    not on top; ``tenants`` gives the place in ``own`` for an API key's id. ``scorer``: the one that is corrected.
    ``form``: the digest of the shipped artefact whose view of the prompt is read as well; '' where none is.
    ``ranks``: of the :class:`gateway.policy.dial.Dial` over the corrected difficulties of the traffic.
    """

    scorer: str
    inputs: tuple[str, ...]
    shared: tuple[float, ...]
    own: tuple[tuple[float, ...], ...] = ()
    tenants: Mapping[str, int] = {}
    form: str = ""
    ranks: tuple[float, ...] = Dial().ranks
    labels: int = 0

    def encoded(self) -> bytes:
        """The file: the same artefact makes the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"


class Example(Frozen, frozen=True, kw_only=True):
    """A label of a local answer as it is learned from; ``prompt``: the last user turn, where it was kept."""

    label: Label
    prompt: str | None = None


class Traffic(NamedTuple):
    """A request: its shipped difficulty, and what hangs on where it goes, in nano-dollars."""

    features: Features
    prior: float
    cost_nano: int


class Taught:
    """A :class:`gateway.protocols.Scorer` that corrects another one's difficulty by an artefact."""

    def __init__(self, scorer: Scorer, artefact: Artefact, digest: str) -> None:
        """``digest``: shown with every score."""
        self._scorer, self._digest = scorer, digest
        self._of, self._tenants, self._form = artefact.scorer, artefact.tenants, bool(artefact.form)
        shape = (BANDS, -1)
        self._shared = np.array(artefact.shared).reshape(shape)
        self._own = [np.array(one).reshape(shape) for one in artefact.own]

    def wants_embedding(self, features: Features) -> bool:
        """As the scorer that is corrected."""
        return self._scorer.wants_embedding(features)

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """Where the other scorer speaks of something else than at the time of the training, it is left alone."""
        found = self._scorer.score(features, embedding)
        if not compares(found.scorer, found.difficulty, self._of):
            return found
        own = self._tenants.get(features.key)
        bands = self._shared if own is None else self._own[own]
        inputs = described(features, features.last_user_text if self._form else None)
        after = min(1.0, max(0.0, found.difficulty + corrected(bands, found.difficulty, inputs)))
        change = round(round(after, 3) - found.difficulty, 3)
        parts = (*found.contributions, *(((TAUGHT, change),) if change else ()))
        return msgspec.structs.replace(
            found,
            difficulty=round(found.difficulty + change, 3),
            contributions=tuple(sorted(parts, key=lambda part: -abs(part[1]))),
            scorer=f"{found.scorer}{TAUGHT_BY}{self._digest}",
        )


def serving(scorer: Scorer, artefact: Path | None) -> Scorer:
    """The scorer that decides: corrected by the artefact where there is one, then moved by the dial.

    Raises:
        ConfigError: the artefact cannot be used.
    """
    if artefact is None:
        return Dialled(scorer)
    found, digest = read(artefact)
    return Dialled(Taught(scorer, found, digest), Dial(found.ranks))


def read(path: Path) -> tuple[Artefact, str]:
    """An artefact and its digest (12 hex digits).

    Raises:
        ConfigError: it cannot be read, is none, or was made for another version.
    """
    try:
        content = path.read_bytes()
        artefact = msgspec.json.decode(content, type=Artefact)
    except OSError as error:
        raise ConfigError(f"the router's artefact cannot be read: {error.strerror}", file=str(path)) from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"not an artefact of 'gateway router train --from-ledger': {error}", file=str(path)) from None
    size = BANDS * _width(bool(artefact.form))
    fits = all(len(one) == size for one in (artefact.shared, *artefact.own))
    places = all(0 <= place < len(artefact.own) for place in artefact.tenants.values())
    if artefact.inputs != INPUTS or not fits or not places or artefact.form not in ("", shipped_form()):
        raise ConfigError("made by another version: train again, or take router.artefact out", file=str(path))
    return artefact, hashlib.sha256(content).hexdigest()[:12]


def shipped_form() -> str:
    """The digest of the artefact that reads the form of prompts."""
    return hashlib.sha256(learned.FILE.read_bytes()).hexdigest()[:12]


def described(features: Features, prompt: str | None) -> Values:
    """The inputs of a correction, float64 of shape (inputs,): 1, then numbers of length 1 at most altogether.

    ``prompt``: None where none is read; '' where it is read and was not kept, which says nothing.
    """
    known = [
        math.log1p(features.words) / 8,
        math.log1p(features.prompt_tokens) / 12,
        math.log1p(features.system_tokens) / 12,
        min(1.0, features.turns / 10),
        float(features.code),
        float(features.maths),
        min(1.0, features.constraints / 10),
        float(features.language not in ("en", "und")),
        float(features.question in _ASKS),
        float(features.question in _EXPLAINS),
        float(bool(features.needs)),
        float(features.about_now),
    ]
    rest = np.array(known) / 2
    if prompt is not None:
        rest = np.concatenate((rest, _form(prompt)))
    length = float(np.sqrt(rest @ rest))
    return np.concatenate(([1.0], rest / max(1.0, length)))


def _form(prompt: str) -> Values:
    mixture = learned.Mixture.shipped()
    if not prompt:
        return np.zeros(_form_width())
    inputs = mixture.inputs(prompt)[1:].astype(np.float64)
    form, topic = np.split(inputs, [len(mixture.mean)])
    return np.concatenate((form / learned.CLIP / math.sqrt(len(form)), topic / 2))


def _form_width() -> int:
    return int(learned.Mixture.shipped().lost.shape[1]) - 1


def _width(form: bool) -> int:
    return len(INPUTS) + (_form_width() if form else 0)


def corrected(bands: Values, prior: float, inputs: Values) -> float:
    """What is added to a shipped difficulty; ``bands`` of shape (BANDS, inputs)."""
    below, share = _between(prior)
    return float((1 - share) * (bands[below] @ inputs) + share * (bands[below + 1] @ inputs))


def _between(prior: float) -> tuple[int, float]:
    at = min(1.0, max(0.0, prior)) * (BANDS - 1)
    below = min(int(at), BANDS - 2)
    return below, at - below


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
    kept = list(examples)[-_NEWEST:]
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
    below, share = _between(decided.prior)
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
