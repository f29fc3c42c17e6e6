"""A difficulty corrected by what a gateway learned from its own traffic, and the file that holds it.

Difficulty is what a local answer is expected to lack. The correction is linear in the form of the request, in nine
bands of the shipped difficulty, with one for each tenant that has given votes enough and one for all others: how they
come about is told by :mod:`gateway.policy.teaching`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.errors import ConfigError
from gateway.policy import learned
from gateway.policy.dial import UNMEASURED, Dial, Dialled
from gateway.policy.feedback import TAUGHT, TAUGHT_BY, compares
from gateway.policy.profiled import is_far
from gateway.policy.signals import NAMES
from gateway.types import Features, Frozen, Score

if TYPE_CHECKING:
    from gateway.protocols import Scorer

Values: TypeAlias = NDArray[np.float64]

BANDS = 9
INPUTS = (
    "even", "words", "prompt", "system", "conversation", "code", "maths", "constraints", "foreign", "asks", "explains",
    "needs", "about_now",
)  # fmt: skip

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
        if is_far(found) or not compares(found.scorer, found.difficulty, self._of):
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


def dial(artefact: Path | None) -> Dial:
    """The one in force: measured where there is an artefact. Raises ConfigError."""
    return UNMEASURED if artefact is None else Dial(read(artefact)[0].ranks)


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
    size = BANDS * width(bool(artefact.form))
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
    """What the shipped artefact reads of a prompt: its signals and its topic."""
    inputs = learned.Mixture.shipped().inputs(prompt)[1:].astype(np.float64)
    form, topic = np.split(inputs, [len(NAMES)])
    whole = np.concatenate((form / learned.CLIP / math.sqrt(len(NAMES)), topic / 2))
    return whole if prompt else np.zeros_like(whole)


def width(form: bool) -> int:
    return len(INPUTS) + (len(_form("")) if form else 0)


def corrected(bands: Values, prior: float, inputs: Values) -> float:
    """What is added to a shipped difficulty; ``bands`` of shape (BANDS, inputs)."""
    below, share = between(prior)
    return float((1 - share) * (bands[below] @ inputs) + share * (bands[below + 1] @ inputs))


def between(prior: float) -> tuple[int, float]:
    """The band below a difficulty, and the share that the one above has in it."""
    at = min(1.0, max(0.0, prior)) * (BANDS - 1)
    below = min(int(at), BANDS - 2)
    return below, at - below
