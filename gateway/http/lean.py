"""Imported before anything else in a worker: two libraries, without what they import for uses that a worker has not.

redis imports OpenTelemetry where that is installed, cel its interactive shell (prompt_toolkit, pygments): together a
third of what a worker would import. Whoever wants them can still import them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def _in_place_of(name: str, module: ModuleType | None) -> Iterator[None]:
    """Who imports ``name`` inside the block gets ``module``; None: an ImportError."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _in_place_of("opentelemetry", None):  # redis goes on without
    importlib.import_module("redis.asyncio")
with _in_place_of("cel.cli", ModuleType("cel.cli")):  # cel does not
    importlib.import_module("cel")
