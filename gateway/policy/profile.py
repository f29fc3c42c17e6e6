"""What a local model was found to be able to do: the outcome of every question of the probe, for one model file.

It lies beside the model and holds for that very file: another quantisation is another model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.policy.calibration import Calibration, fit
from gateway.policy.posterior import Posterior
from gateway.policy.probe import Question, right
from gateway.types import Frozen, Signals

SUFFIX = ".profile.json"
SHIPPED = Path(__file__).with_name("profiles")

_BLOCKS, _BLOCK = 64, 1 << 16


class Profile(Frozen, frozen=True, kw_only=True):
    """``file`` and ``digest``: whose they are. ``questions``: the set. ``right``: ``0`` or ``1`` each.

    ``signals``: how sure the model was of each answer, in the order of :class:`gateway.types.Signals`. ``calibration``
    and ``posterior``: what follows from them, alone and with what is known of like questions.
    """

    file: str
    digest: str
    questions: str
    right: str
    signals: tuple[tuple[float, float, float, int], ...] = ()
    calibration: Calibration | None = None
    posterior: Posterior | None = None


def set_id(questions: tuple[Question, ...]) -> str:
    """Twelve hex digits that change with any question."""
    return hashlib.sha256(msgspec.json.encode(questions)).hexdigest()[:12]


def graded(
    model: Path, questions: tuple[Question, ...], answers: Sequence[str], signals: Sequence[Signals] = ()
) -> Profile:
    """The profile that these answers make; without signals it says nothing of confidence. Raises OSError."""
    outcomes = [right(question, answer) for question, answer in zip(questions, answers, strict=True)]
    return Profile(
        file=model.name,
        digest=fingerprint(model),
        questions=set_id(questions),
        right="".join("01"[outcome] for outcome in outcomes),
        signals=tuple(_rounded(one) for one in signals),
        calibration=fit(signals, outcomes, [question.skill for question in questions]) if signals else None,
    )


def _rounded(signals: Signals) -> tuple[float, float, float, int]:
    mean, least, share = (round(value, 4) for value in msgspec.structs.astuple(signals)[:3])
    return mean, least, share, signals.tokens


def write(profile: Profile, path: Path) -> None:
    """Whole or not at all. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(profile)) + b"\n")
    scratch.replace(path)


def find(models_dir: Path, name: str, questions: str) -> Profile | None:
    """The profile of a catalogue model as it lies in ``models_dir``: one made here, else one that is shipped.

    None where there is none, or where it is of another file or of another set than ``questions`` (a :func:`set_id`).
    """
    for folder in (models_dir, SHIPPED):
        profile = _read(folder / f"{name}{SUFFIX}")
        if profile is not None and profile.questions == questions and _is_of(profile, models_dir):
            return profile
    return None


def _read(path: Path) -> Profile | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.MsgspecError):
        return None


def _is_of(profile: Profile, models_dir: Path) -> bool:
    try:
        return fingerprint(models_dir / Path(profile.file).name) == profile.digest
    except OSError:
        return False


def fingerprint(path: Path) -> str:
    """SHA-256 over a file's size and 64 blocks spread over it: milliseconds, however large the model.

    Raises OSError.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        for block in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
