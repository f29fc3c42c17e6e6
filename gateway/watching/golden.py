"""The golden prompts, and what of an answer to one is looked at."""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec

from gateway.policy import probe
from gateway.policy.probe import Question
from gateway.types import Frozen
from gateway.watching.conformal import category

PROBE_KEY = "probe"
"""The ``key_id`` and tag of probes."""
FILE = Path(__file__).with_name("golden.yaml")
ANSWER_TOKENS = 48
CHANNELS = ("answer", "right", "length", "reported")
"""What is compared, each by a test of its own: the words, whether they are right, how many tokens, and what the server
says that it is."""


class Observation(Frozen, frozen=True, kw_only=True):
    """One answer. ``reported``: the ``model`` and ``system_fingerprint`` of the reply."""

    text: str
    right: bool
    tokens: int
    reported: str
    latency_ms: float

    def shown(self) -> dict[str, str]:
        """Its category in each channel; the words are kept as a digest only."""
        return {
            "answer": category(" ".join(self.text.split())),
            "right": "right" if self.right else "wrong",
            "length": str(round(2 * math.log2(1 + self.tokens))),
            "reported": category(self.reported),
        }


class _Reply(msgspec.Struct):
    model: Any = None
    system_fingerprint: Any = None


@functools.cache
def prompts() -> tuple[Question, ...]:
    """Always the same, in the same order."""
    return probe.read(FILE)


@functools.cache
def prompts_id() -> str:
    """Changes with any of them: what was learned from others says nothing about these."""
    return hashlib.sha256(msgspec.json.encode(prompts())).hexdigest()[:12]


def observed(question: Question, text: str, body: bytes, tokens: int, latency_ms: float) -> Observation:
    """What an answer shows. ``body``: the whole reply, in OpenAI's format."""
    try:
        told = msgspec.json.decode(body, type=_Reply)
    except msgspec.DecodeError:
        told = _Reply()
    names = [part for part in (told.model, told.system_fingerprint) if isinstance(part, str) and part]
    return Observation(
        text=text,
        right=probe.right(question, text),
        tokens=tokens,
        reported=" ".join(names),
        latency_ms=latency_ms,
    )
