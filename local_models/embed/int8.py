"""Int8 for the matrix products of a BERT, calibrated once on the text that ships with this package.

Ranges are fixed beforehand, so that a vector depends on its text alone. Wide channels are evened out with the weights
they meet (SmoothQuant, Xiao et al. 2022, https://arxiv.org/abs/2211.10438), and what rounding shifts on average goes
into the bias. The last product of a layer stays float32: what GELU gives is too unevenly spread for 256 steps.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np

from local_models.embed import graph
from local_models.embed.bert import Bert, session
from local_models.embed.folder import BertFolder, UnknownModel, read
from local_models.embed.graph import Float, Kind, Linear8, Quantised
from local_models.embed.safetensors import NotSafetensors, Weights
from local_models.measure import TEXT
from local_models.native import physical_cores, quick_int8

NAME = "int8.npz"
# Kept only where every piece of the text is at least this near to its float32 vector. Other texts are farther off than
# the ones it was calibrated on; 0.99 is what is promised.
LEAST_COSINE = 0.995
_KINDS: tuple[Kind, ...] = ("qkv", "out", "up")
_SMOOTHING = 0.6
_WINDOW, _STEP = 1100, 900


def load(folder: Path) -> Quantised | None:
    """What `write` left in a model folder; None where it is missing, unreadable or this processor gains nothing."""
    if not quick_int8():
        return None
    try:
        with (folder / NAME).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = {name.rsplit(".", 1)[0] for name in arrays}
        fields = Linear8.__struct_fields__
        found = {_place(name): Linear8(**{field: arrays[f"{name}.{field}"] for field in fields}) for name in names}
        return found or None
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, StopIteration):
        return None


def _place(name: str) -> tuple[int, Kind]:
    layer, kind = name.split(".")
    return int(layer), next(known for known in graph.KINDS if known == kind)


def write(folder: Path) -> float | None:
    """Calibrate, and write `int8.npz` into a model folder; the least cosine to float32 over the text that ships.

    None where the model's kind is not known. Below LEAST_COSINE the file is empty: float32 it stays. Raises OSError.
    """
    try:
        known = read(folder)
        exact = Bert(known, physical_cores())
        quantised = calibrate(known, exact)
    except (UnknownModel, NotSafetensors):
        return None
    texts = sample()
    quick = Bert(known, physical_cores(), quantised)
    least = float(np.sum(exact.embed(texts).vectors * quick.embed(texts).vectors, axis=1).min())
    _save(quantised if least >= LEAST_COSINE else {}, folder / NAME)
    return least


def sample() -> list[str]:
    """Lines and longer pieces of the text that ships with this package."""
    text = TEXT.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines + [text[at : at + _WINDOW] for at in range(0, len(text), _STEP)]


def calibrate(folder: BertFolder, exact: Bert) -> Quantised:
    """Raises NotSafetensors."""
    weights = Weights(folder.path / "model.safetensors")
    prefix = "" if "embeddings.LayerNorm.weight" in weights else "bert."
    model, held = graph.bert(folder.config, weights, prefix, inner=True)
    places = list(product(range(folder.config.num_hidden_layers), _KINDS))
    names = [graph.enters(*place) for place in places]
    runs = session(model, held, physical_cores())
    seen = [runs.run(names, exact.feed([ids])) for ids in exact.tokens(sample())]
    return {
        place: _quantised(np.concatenate([run[at][0] for run in seen]), *graph.linear(weights, prefix, *place))
        for at, place in enumerate(places)
    }


def _quantised(inputs: Float, weight: Float, bias: Float) -> Linear8:
    """One product, from what went into it: float32 (tokens, in), (in, out), (out)."""
    peaks = np.abs(inputs).max(axis=0).clip(1e-5), np.abs(weight).max(axis=1).clip(1e-5)
    factor = peaks[0] ** _SMOOTHING / peaks[1] ** (1 - _SMOOTHING)
    factor /= np.exp(np.log(factor).mean())
    smoothed, rows = inputs / factor, weight * factor[:, None]
    scales = (np.abs(rows).max(axis=0) / 127).clip(1e-12)
    weights = np.ascontiguousarray(np.rint(rows / scales), np.int8)
    low, high = min(0.0, float(smoothed.min())), max(0.0, float(smoothed.max()))
    scale = max((high - low) / 255, 1e-12)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    rounded = (np.clip(np.rint(smoothed / scale) + zero, 0, 255) - zero) * scale
    # Averages over tokens do: the products themselves are far larger.
    shift = smoothed.mean(axis=0) @ rows - rounded.mean(axis=0) @ (weights * scales)
    return Linear8(
        weights=weights,
        scales=scales.astype(np.float32),
        smooth=(1 / factor).astype(np.float32),
        scale=np.array(scale, np.float32),
        zero=np.array(zero, np.uint8),
        bias=(bias + shift).astype(np.float32),
    )


def _save(quantised: Quantised, target: Path) -> None:
    arrays = {
        f"{layer}.{kind}.{field}": value
        for (layer, kind), linear in quantised.items()
        for field, value in msgspec.structs.asdict(linear).items()
    }
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with staged.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(staged, target)
