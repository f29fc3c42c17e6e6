"""From a GGUF file to a running engine: sizes from the memory at hand, a warm-up that measures, the engine's thread."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import psutil

from local_models.chat.context import Context, Piece, Shape
from local_models.chat.cost import StepCost
from local_models.chat.drafting import Drafter, check_vocabulary
from local_models.chat.engine import Engine, Options
from local_models.chat.metrics import Metrics
from local_models.chat.model import Model
from local_models.chat.speculate import LONGEST_DRAFT
from local_models.chat.store import Store, fingerprint
from local_models.native import physical_cores

DEFAULT_CONTEXT, DEFAULT_SLOTS = 8192, 16
# An answer that nobody bounds: twice what a policy assumes of one. A small model that finds no end is cut after about
# a minute on two cores with every slot taken, not after four at the end of the context; see docs/engine.md.
DEFAULT_MAX_TOKENS = 2048
# Tokens a step at most: a prompt alone is computed in pieces of this size, and leaving is noticed between two.
BATCH = 256
# KV cells for each slot where memory allows, and the part of free memory that may go to them.
_CELLS_A_SLOT, _LEAST_CELLS_A_SLOT, _MEMORY_SHARE = 1024, 256, 0.25
# Tokens whose keys and values are kept for reuse, beside the cache.
_IDLE_CELLS = 4096
_Q8_0_BYTES = 34 / 32
_WARM_SIZES, _WARM_SECONDS = (1, 2, 4, 8, 16, 32, 64, BATCH), 1.5
# A thread back from llama.cpp needs the interpreter's lock at once, not after the usual 5 ms.
_SWITCH_SECONDS = 0.0005


class Wanted(msgspec.Struct, frozen=True):
    """What the command line asked for; 0 means: chosen here. `draft`: a smaller model.

    `keep`: a folder for conversations, of at most `keep_bytes`.
    """

    path: Path
    context: int = 0
    threads: int = 0
    slots: int = 0
    gpu_layers: int = 0
    max_queue: int = 32
    max_batch_queue: int = 4096
    patience: float = 60.0
    stall: float = 2.0
    default_max_tokens: int = 0
    template: str | None = None
    draft: Path | None = None
    keep: Path | None = None
    keep_bytes: int = 1 << 30
    verbose: bool = False


def build(wanted: Wanted, metrics: Metrics) -> Engine:
    """Load, warm up and start. Raises NotGGUF, LoadError."""
    started = time.perf_counter()
    sys.setswitchinterval(_SWITCH_SECONDS)
    model = Model(wanted.path, wanted.gpu_layers, wanted.template, wanted.verbose)
    context = min(wanted.context or DEFAULT_CONTEXT, model.trained_context)
    slots, cells = sizes(context, wanted.slots, cell_bytes(model), psutil.virtual_memory().available)
    shape = Shape(
        cells=cells,
        sequences=slots,
        batch=BATCH,
        outputs=min(BATCH, 2 * slots + LONGEST_DRAFT + 1),
        threads=wanted.threads or physical_cores(),
    )
    made = Context(model, shape, gpu=wanted.gpu_layers != 0)
    cost = StepCost(_warm_up(made))
    options = Options(
        slots=slots,
        context=min(context, cells),
        idle_cells=min(_IDLE_CELLS, cells // 2),
        max_queue=wanted.max_queue,
        max_batch_queue=wanted.max_batch_queue,
        patience=wanted.patience,
        stall=wanted.stall,
        default_max_tokens=wanted.default_max_tokens or DEFAULT_MAX_TOKENS,
    )
    metrics.loaded(time.perf_counter() - started)
    kind = "q8_0" if made.invariant else "other"
    store = Store(wanted.keep, wanted.keep_bytes, fingerprint(wanted.path, kind)) if wanted.keep else None
    return Engine(model, made, options, cost, metrics, store, _drafter(model, wanted, shape))


def _drafter(model: Model, wanted: Wanted, shape: Shape) -> Drafter | None:
    if not wanted.draft:
        return None
    small = Model(wanted.draft, wanted.gpu_layers, template="{# it is never asked anything #}", verbose=wanted.verbose)
    check_vocabulary(model, small)
    return Drafter(small, shape.cells, shape.sequences, shape.threads)


def sizes(context: int, slots: int, cell: int, available: int) -> tuple[int, int]:
    """Slots and KV cells for a context of so many tokens; `cell` and `available` memory in bytes.

    One sequence can always have its whole context. More cells than that, and more slots, only where there is memory.
    """
    affordable = int(available * _MEMORY_SHARE) // cell
    wanted = slots or DEFAULT_SLOTS
    cells = max(context, min(affordable, wanted * _CELLS_A_SLOT))
    return slots or max(1, min(wanted, cells // _LEAST_CELLS_A_SLOT)), cells


def cell_bytes(model: Model) -> int:
    """Memory of one token's keys and values, about."""
    llama, handle = model.llama, model.handle
    head = llama.llama_model_n_embd(handle) / max(1, llama.llama_model_n_head(handle))
    return max(1, int(2 * llama.llama_model_n_layer(handle) * llama.llama_model_n_head_kv(handle) * head * _Q8_0_BYTES))


def _warm_up(context: Context) -> dict[int, float]:
    """Seconds of steps by their tokens, the better of two runs each; stops where the model is too slow to go on."""
    points: dict[int, float] = {}
    begun = time.perf_counter()
    for size in _WARM_SIZES:
        if points and time.perf_counter() - begun > _WARM_SECONDS:
            break
        points[size] = min(_timed(context, size) for _ in range(2))
    return points


def _timed(context: Context, size: int) -> float:
    started = time.perf_counter()
    context.decode([Piece(0, 0, [1] * size, 1)])
    seconds = time.perf_counter() - started
    context.clear()
    return seconds
