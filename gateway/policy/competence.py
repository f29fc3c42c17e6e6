"""How likely a local model is to answer a prompt rightly, from its profile and the questions of the probe like it.

Nadaraya–Watson over the cosine of embeddings, in two ranges: the nearest questions say which skill is asked for, all
questions of that skill how well the model has it. A prompt like none of them has no evidence, and without evidence
a model is not trusted. What counts is a lower bound (Beta posterior, normal approximation).
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.policy import posterior
from gateway.policy.probe import Question
from gateway.policy.profile import Profile, find, set_id
from gateway.types import Frozen, Signals

FILE = Path(__file__).with_name("probe_vectors.npz")
"""Embeddings of the probe's questions."""
PROBED_WITH = "all-MiniLM-L6-v2"
"""The embedder they were made with: no other one's vectors compare with them."""

Vectors: TypeAlias = NDArray[np.float32]

WIDTH = 0.05
"""Of the kernel: a question whose cosine is this much smaller counts 1/e."""
UNLIKE, LIKE = 0.45, 0.65
"""Cosine of the nearest question: from the second on its evidence counts whole, below the first not at all: such a
prompt is far from all that is known."""
SAME_SKILL = 0.6
"""What a question of the same skill counts at least, however far it is."""
PRIOR_RIGHT, PRIOR_WRONG = 0.5, 0.5
USUAL, USUAL_OF_THIS = 4.0, 0.6
"""So many answers, as often right as the model usually is and no more than half of them, are added to what is known of
a skill and of nearly the same question: some skill or other of a bad model looks good by luck.
"""
SIGMAS = 1.0
_LEFT_OUT = -1.0


class Likely(Frozen, frozen=True, kw_only=True):
    """``right``: the posterior mean of a right answer. ``at_least``: its lower bound. ``skill``: the nearest one, and
    how ``sure`` it is (0 … 1) that the prompt asks for it. ``nearest``: the cosine of the question most like it.
    ``of_skill`` and ``of_this``: what the posterior is told, the share that was right of questions of the skill and of
    those that are nearly this one. ``expected``: the chance of a right answer by both; ``at_least`` where the profile
    does not say what they came to.
    """

    right: float
    at_least: float
    skill: str
    sure: float
    nearest: float
    of_skill: float = 0.5
    of_this: float = 0.5
    expected: float = 0.0


@dataclass(frozen=True)
class Asked:
    """The probe as it is compared with: ``vectors`` (questions, dimension) of length 1, and ``of`` (questions,), the
    place of each one's skill in ``skills``. ``id``: :func:`gateway.policy.profile.set_id`. Reading it needs no YAML.
    The thorough set begins with the short one, and so do its vectors.
    """

    id: str
    vectors: Vectors
    skills: tuple[str, ...]
    of: NDArray[np.int64]

    @classmethod
    def made(cls, questions: tuple[Question, ...], vectors: Vectors) -> Asked:
        skills = tuple(sorted({question.skill for question in questions}))
        of = np.array([skills.index(question.skill) for question in questions])
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(set_id(questions), np.asarray(vectors / length, np.float32), skills, of)

    @classmethod
    @functools.cache
    def shipped(cls, thorough: bool = False) -> Asked:
        """The set of :func:`gateway.policy.probe.questions`."""
        with np.load(FILE) as arrays:
            ids, counts = arrays["ids"].tolist(), arrays["counts"].tolist()
            vectors, of = arrays["vectors"][: counts[thorough]].astype(np.float32), arrays["of"][: counts[thorough]]
            return cls(ids[thorough], vectors, tuple(arrays["skills"].tolist()), of)

    @classmethod
    def of_profile(cls, profile: Profile) -> Asked | None:
        """The shipped set that a profile is of, if any."""
        both = (cls.shipped(thorough=True), cls.shipped())
        return next((asked for asked in both if asked.id == profile.questions), None)

    @staticmethod
    def save(file: Path, short: Asked, thorough: Asked) -> None:
        """Raises OSError."""
        ids, counts = [short.id, thorough.id], [len(short.of), len(thorough.of)]
        vectors, skills = thorough.vectors.astype(np.float16), np.array(thorough.skills)
        np.savez_compressed(file, ids=ids, counts=counts, vectors=vectors, skills=skills, of=thorough.of)


class Competence:
    """One model's."""

    def __init__(self, profile: Profile, asked: Asked) -> None:
        self._vectors, self._skills, self._of = asked.vectors, asked.skills, asked.of
        self.dimension = asked.vectors.shape[1]
        self._right = np.array([outcome == "1" for outcome in profile.right], np.float32)
        self._usual = min(0.5, float(self._right.mean()))
        self._calibration, self._posterior = profile.calibration, profile.posterior
        self._left_out: int | None = None

    @classmethod
    def of_model(cls, models_dir: Path, name: str) -> Competence | None:
        """Of a catalogue model as it lies in ``models_dir``; None where it has no profile."""
        profile = best(models_dir, name)
        asked = None if profile is None else Asked.of_profile(profile)
        return None if profile is None or asked is None else cls(profile, asked)

    def without(self, place: int) -> Competence:
        """The same as if one of the probe's questions had not been asked."""
        rest = copy.copy(self)
        rest._left_out = place
        return rest

    def likely(self, vector: Vectors) -> Likely:
        """For a prompt with this embedding, of length 1."""
        cosine = self._vectors @ vector
        if self._left_out is not None:
            cosine[self._left_out] = _LEFT_OUT
        return self._by(cosine)

    def of_each(self) -> list[Likely]:
        """For every question of the probe, as if that one had not been asked."""
        cosines = self._vectors @ self._vectors.T
        np.fill_diagonal(cosines, _LEFT_OUT)
        return [self._by(cosine) for cosine in cosines]

    def _by(self, cosine: Vectors) -> Likely:
        nearest = float(cosine.max())
        like = np.exp((cosine - nearest) / WIDTH)
        mass = np.bincount(self._of, like)
        skill = int(mass.argmax())
        sure = float(mass[skill] / mass.sum()) * min(1.0, max(0.0, (nearest - UNLIKE) / (LIKE - UNLIKE)))
        weight = sure * np.where((self._of == skill) & (cosine > _LEFT_OUT), np.maximum(like, SAME_SKILL), like)
        count = float(weight.sum())
        counted = float(weight @ self._right)
        right = (PRIOR_RIGHT + counted) / (PRIOR_RIGHT + PRIOR_WRONG + count)
        spread = math.sqrt(right * (1 - right) / (count + PRIOR_RIGHT + PRIOR_WRONG + 1))
        at_least = max(0.0, right - SIGMAS * spread)
        likely = Likely(
            right=right,
            at_least=at_least,
            skill=self._skills[skill],
            sure=sure,
            nearest=nearest,
            of_skill=(USUAL * self._usual + counted) / (USUAL + count),
            of_this=self._of_this(cosine),
            expected=at_least,
        )
        if self._posterior is None:
            return likely
        return msgspec.structs.replace(likely, expected=self._posterior.expected(likely))

    def _of_this(self, cosine: Vectors) -> float:
        weight = np.exp((cosine - 1) / WIDTH)
        return (USUAL_OF_THIS * self._usual + float(weight @ self._right)) / (USUAL_OF_THIS + float(weight.sum()))

    def answered(self, signals: Signals, vector: Vectors | None) -> float | None:
        """The chance that an answer of these signals is right, to a prompt with this embedding, if there is one.

        None where the profile tells nothing of confidence.
        """
        if self._calibration is None:
            return None
        if vector is None or len(vector) != self.dimension:
            return self._calibration.right(signals)
        likely = self.likely(vector)
        if self._posterior is not None:
            return self._posterior.right(likely, signals)
        return self._calibration.right(signals, likely.skill, likely.sure)


def best(models_dir: Path, name: str) -> Profile | None:
    """The profile of a catalogue model as it lies in ``models_dir``: a thorough one before a short one."""
    found = (find(models_dir, name, asked.id) for asked in (Asked.shipped(thorough=True), Asked.shipped()))
    return next((profile for profile in found if profile is not None), None)


def evidence(profile: Profile) -> list[Likely]:
    """What each question of a profile would be expected to come to by all others; none where the set is not shipped."""
    asked = Asked.of_profile(profile)
    if asked is None:
        return []
    return Competence(profile, asked).of_each()


def weighed(profile: Profile) -> Profile:
    """The profile with its posterior, where its set is shipped and it tells how sure the model was."""
    likely = evidence(profile) if profile.signals else []
    if not likely:
        return profile
    signals = [Signals(*one) for one in profile.signals]
    found = posterior.fit(likely, signals, [outcome == "1" for outcome in profile.right])
    return msgspec.structs.replace(profile, posterior=found)
