"""The configured embedding model in a command's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from gateway.cli.model_work import Bar, mending
from gateway.cli.options import settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]
    Embed: TypeAlias = Callable[[list[str]], Vectors]

_AT_ONCE = 256


def embedder(config: Path | None) -> Embed:
    """Texts to vectors, one a row. The model is fetched where it is missing."""
    from local_models import fetch
    from local_models.embed.model import load

    chosen = settings(config)
    name = chosen.config.embedder.model
    with mending(name):
        model = load(fetch.ensure(name, chosen.models_dir))
    return lambda texts: model.embed(texts).vectors


def embedder_here(config: Path | None) -> Embed | None:
    """The same where it is the model that the shipped scorer reads, and on this machine: nothing is fetched."""
    from gateway.policy.competence import PROBED_WITH
    from local_models import fetch

    chosen = settings(config)
    name = chosen.config.embedder.model
    there = name == PROBED_WITH and fetch.ready_path(name, chosen.models_dir).exists()
    return embedder(config) if there else None


def with_progress(embed: Embed, texts: Sequence[str]) -> Vectors:
    """Many texts, with a bar on a terminal."""
    import numpy as np

    parts = []
    with Bar("embedding") as bar:
        for begin in range(0, len(texts), _AT_ONCE):
            parts.append(embed(list(texts[begin : begin + _AT_ONCE])))
            bar("texts", begin + len(parts[-1]), len(texts))
    return np.concatenate(parts)
