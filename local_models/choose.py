"""The best quantisation type of a model for this processor: the fastest that loses no more than is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from local_models.download import Progress, silent
from local_models.measure import Measured, measure
from local_models.quantize import quantize

# What people use, from small to large. The odd ones below four bits lose too much at the sizes that run here.
CANDIDATES = ("Q4_0", "IQ4_NL", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")


class Variant(msgspec.Struct, frozen=True):
    """A file that was made of a source, and what was measured of it."""

    type: str
    path: Path
    measured: Measured

    @property
    def loss(self) -> float:
        """Mean divergence from the source, in nats per token."""
        return self.measured.quality.divergence if self.measured.quality else 0.0


def variant(
    source: Path, target: Path, kind: str, dropped: frozenset[int] = frozenset(), progress: Progress = silent
) -> Variant:
    """Quantise and measure. Raises NotGGUF, PruneError, QuantizeError, MeasureError."""
    path = quantize(source, target, kind, progress, dropped=dropped)
    progress("measure", 0, None)
    return Variant(kind, path, measure(path, source))


def best(variants: Iterable[Variant], most_loss: float) -> Variant | None:
    """The fastest overall of those that lose at most `most_loss` nats per token; None where all lose more."""
    good = [each for each in variants if each.loss <= most_loss]
    return max(good, key=lambda each: each.measured.speeds.overall, default=None)
