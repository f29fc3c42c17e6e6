"""Requantising a GGUF file with llama.cpp, in a process of its own: its asserts abort the process they happen in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from local_models import gguf
from local_models.download import Progress, silent
from local_models.native import load_llama, physical_cores
from local_models.prune import prune


class QuantizeError(RuntimeError):
    """The file could not be quantised; the message says why."""


def quantize(
    source: Path,
    target: Path,
    kind: str,
    progress: Progress = silent,
    verbose: bool = False,
    dropped: frozenset[int] = frozenset(),
) -> Path:
    """Write `source` as `target` in a llama.cpp type (`Q4_0`, `Q8_0`, `Q4_K_M` …); atomic: a rename at the end.

    Already quantised sources are allowed (`allow_requantize`). `dropped`: layers to leave out, from 0. Raises NotGGUF,
    PruneError, QuantizeError.
    """
    gguf.check(source)
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    pruned = staged.with_suffix(".pruned")
    try:
        if dropped:
            source = prune(source, pruned, dropped)
        command = [sys.executable, "-m", "local_models", "quantize", str(source), str(staged), "--type", kind]
        _run([*command, *(["--verbose"] if verbose else [])], staged, source.stat().st_size, progress)
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)
        pruned.unlink(missing_ok=True)
    return target


def _run(command: list[str], staged: Path, about: int, progress: Progress) -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as child:
        try:
            while True:
                try:
                    _, complaint = child.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    # How far it is can only be seen from outside, by the file that grows.
                    progress("quantize", staged.stat().st_size if staged.exists() else 0, about)
        finally:
            # Whoever is interrupted does not wait for it: llama.cpp hears no signal before it is through.
            child.kill()
    if child.returncode != 0:
        raise QuantizeError(complaint.strip() or f"llama.cpp ended with status {child.returncode}")
    progress("quantize", about, about)


def quantize_here(source: Path, target: Path, kind: str, verbose: bool = False) -> None:
    """Quantise in this process, straight to `target`. QuantizeError when llama.cpp refuses the file or the type."""
    llama = load_llama(verbose)
    ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}", None)
    if ftype is None:
        raise QuantizeError(f"unknown quantisation type {kind!r}; for example Q4_0, Q8_0, Q4_K_M")
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = ftype, physical_cores(), True
    if llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), params) != 0:
        raise QuantizeError(f"llama.cpp cannot quantise {source.name} to {kind}")
