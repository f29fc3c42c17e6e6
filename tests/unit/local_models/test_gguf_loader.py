"""Files that pass the check, in llama.cpp itself: in a process of its own, since what it asserts ends the process."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import RUNNABLE, SHAPES, runnable_file


class Loader:
    """llama.cpp behind a pipe; started anew after it has died."""

    def __init__(self, folder: Path) -> None:
        self._path, self._log = folder / "model.gguf", folder / "log"
        self._child: subprocess.Popen[str] | None = None

    def ask(self, content: bytes) -> str:
        """How far it got. Fails where the process ended over it."""
        self._path.write_bytes(content)
        child = self._child = self._child or self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        print(self._path, file=child.stdin, flush=True)
        for line in child.stdout:
            if line.startswith("answer: "):
                return line.removeprefix("answer: ").strip()
        self.close()
        raise AssertionError(f"the process ended: {self._log.read_text(errors='replace')[-600:]}")

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.gguf_loader"]
        with self._log.open("wb") as log:
            pipe = subprocess.PIPE
            environ = os.environ | {"GGML_NO_BACKTRACE": "1"}
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environ)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        self._child = None


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    loader = Loader(tmp_path_factory.mktemp("gguf"))
    yield loader
    loader.close()


def test_the_whole_file_is_loaded_and_decoded_with(loader: Loader) -> None:
    assert loader.ask(runnable_file()) == "decoded 0"


@pytest.mark.parametrize(
    "changed",
    [
        {"general.alignment": 1},
        {"general.alignment": 8, "general.name": "x"},
        {"llama.attention.head_count": "x"},
        {"llama.attention.head_count": [4] * 600},
        {"llama.attention.layer_norm_rms_epsilon": -1.0},
        {"llama.attention.layer_norm_rms_epsilon": math.inf},
        {"llama.expert_count": 3},
        {"llama.expert_count": 3, "llama.expert_used_count": 4},
        {"llama.expert_count": 1 << 20, "llama.expert_used_count": 2},
        {"llama.expert_count": "x"},
        {"llama.expert_used_count": 1},
        {"llama.expert_used_count": [1, 2]},
        {"llama.rope.scaling.type": "x"},
        {"llama.nextn_predict_layers": 3},
        {"tokenizer.ggml.model": "bert"},
        {"tokenizer.ggml.model": "no_vocab"},
        {"tokenizer.ggml.model": "none"},
    ],
)
def test_what_llama_cpp_would_abort_on_is_refused_before(changed: dict[str, Any], loader: Loader) -> None:
    assert loader.ask(runnable_file(changed)) == "NotGGUF"


KEYS = [
    *RUNNABLE,
    *(f"llama.{key}" for key in ("expert_count", "expert_used_count", "nextn_predict_layers", "rope.freq_base",
    "attention.key_length", "attention.value_length", "attention.sliding_window", "attention.sliding_window_pattern",
    "rope.scaling.type", "rope.scaling.factor", "rope.freq_scale", "attention.clamp_kqv", "attention.max_alibi_bias",
    "attention.causal", "pooling_type", "leading_dense_block_count", "rope.dimension_sections", "logit_scale",
    "expert_feed_forward_length", "attention.scale", "attention.group_norm_groups")),
    *(f"tokenizer.ggml.{key}" for key in ("merges", "pre", "precompiled_charsmap", "add_bos_token", "bos_token_id",
    "padding_token_id", "eot_token_id", "token_type_count", "unknown_token_id")),
    "general.alignment", "general.type", "general.file_type", "split.count", "split.no", "split.tensors.count",
]  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.integers(0, 70),
    st.sampled_from([0, 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]),
    st.sampled_from([-1.0, 0.0, 1e-30, 1e30, math.inf, -math.inf, math.nan]),
    st.sampled_from(["", "x", "yarn", "llama", "gpt2", "t5", "rwkv", "plamo2", "bert", "qwen2", "gemma2", "mamba"]),
    st.lists(st.integers(0, 70), min_size=1, max_size=3),
    st.lists(st.sampled_from(["", "a", "b b", "▁"]), min_size=1, max_size=3),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda number: struct.pack("<Iq", 11, number)),
    st.integers(0, 255).map(lambda byte: struct.pack("<IB", 7, byte)),
)
SIZES = st.lists(st.sampled_from([1, 2, 16, 31, 32, 33, 64, 263, 264]), min_size=1, max_size=2) | st.sampled_from(
    [[32, 32, 2], [32, 16, 1, 1], [1, 1, 1, 1], [64, 2, 32]]
)


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    changed=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    shapes=st.dictionaries(st.sampled_from([*SHAPES, "rope_freqs.weight", "output.weight"]), SIZES, max_size=1),
)
def test_nothing_that_passes_ends_llama_cpp(
    changed: dict[str, Any], shapes: dict[str, list[int]], loader: Loader
) -> None:
    assert loader.ask(runnable_file(changed, shapes))
