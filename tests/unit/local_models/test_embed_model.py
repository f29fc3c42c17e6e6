"""The quick route beside sentence-transformers, on the real model and on small ones made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from local_models.embed.bert import Bert, passes
from local_models.embed.folder import UnknownModel, read
from local_models.embed.model import load
from local_models.embed.reference import Reference
from local_models.embed.safetensors import NotSafetensors, Weights
from tests.support.models import embed_model

TEXTS = [
    "hi",
    "What is the capital of France?",
    "WHAT IS  THE\tcapital of France ?",
    "Ünïcode, naïve café, Straße, 東京 and Москва 🙂 \u200b\x00 [SEP] [MASK]",
    "1,234.5 × 10⁻³ != 1234.5; def f(x): return x**2  # square",
    "word " * 254,
    "A sentence that is much longer than the model reads. " * 60,
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(embed_model(), 2)


@pytest.fixture(scope="module")
def quick() -> Bert:
    return Bert(read(embed_model()), 2)


def test_the_default_model_is_computed_as_sentence_transformers_does(reference: Reference, quick: Bert) -> None:
    theirs, ours = reference.embed(TEXTS), quick.embed(TEXTS)
    assert ours.tokens == theirs.tokens
    assert max(ours.tokens) == 256
    assert ours.vectors == pytest.approx(theirs.vectors, abs=2e-6)
    assert (quick.pooling, quick.dimension) == (reference.pooling, reference.dimension) == ("mean", 384)


def test_a_vector_does_not_depend_on_its_neighbours(quick: Bert) -> None:
    together = quick.embed([*TEXTS, *TEXTS[:3] * 30]).vectors
    alone = np.concatenate([quick.embed([text]).vectors for text in TEXTS])
    assert together[: len(TEXTS)] == pytest.approx(alone, abs=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_other_berts_are_computed_alike(pooling: Any, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "tiny", pooling)
    ours, theirs = Bert(read(folder), 1), Reference(folder, 1)
    assert ours.embed(TEXTS).vectors == pytest.approx(theirs.embed(TEXTS).vectors, abs=2e-6)
    assert ours.embed(TEXTS).tokens == theirs.embed(TEXTS).tokens
    assert (ours.pooling, ours.dimension) == (theirs.pooling, theirs.dimension) == (pooling, 32)


def test_a_model_the_quick_route_does_not_know_is_left_to_sentence_transformers(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "tiny", "mean_sqrt_len_tokens")
    model = load(folder, 1)
    assert isinstance(model, Reference)
    assert model.embed(["a", "b c"]).vectors.shape == (2, 32)
    assert model.pooling == "mean_sqrt_len_tokens"


def test_the_quick_route_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from pathlib import Path; from local_models.embed.model import load;"
        "load(Path(sys.argv[1])).embed(['a']);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(embed_model())]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("file", "change", "why"),
    [
        ("modules.json", lambda modules: [*modules, {"path": "3", "type": "x.Dense"}], "modules"),
        ("config.json", lambda config: config | {"model_type": "roberta"}, "config.json"),
        ("config.json", lambda config: config | {"hidden_act": "relu"}, "config.json"),
        ("config.json", lambda config: config | {"position_embedding_type": "relative_key"}, "config.json"),
        ("config.json", lambda config: config | {"max_position_embeddings": 200}, "256 tokens"),
        ("1_Pooling/config.json", lambda config: config | {"pooling_mode_cls_token": True}, "pooling"),
        ("1_Pooling/config.json", lambda config: {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("1_Pooling/config.json", lambda config: {}, "pooling"),
        ("tokenizer_config.json", lambda config: config | {"do_lower_case": False}, "lower case"),
        ("sentence_bert_config.json", lambda config: config | {"query_length": 32}, "lengths"),
        ("config_sentence_transformers.json", lambda config: config | {"default_prompt_name": "query"}, "prompt"),
        ("tokenizer.json", lambda config: config | {"model": {"type": "Unigram"}}, "tokenizer.json"),
        ("sentence_bert_config.json", lambda config: None, "sentence_bert_config.json"),
    ],
)
def test_what_would_be_computed_differently_is_not_taken(
    file: str, change: Callable[[Any], Any], why: str, tmp_path: Path
) -> None:
    folder = described(tmp_path / "model")
    assert read(folder).max_tokens == 256
    (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
    with pytest.raises(UnknownModel, match=why):
        read(folder)


@pytest.mark.parametrize("missing", ["modules.json", "config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_not_taken(missing: str, tmp_path: Path) -> None:
    folder = described(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(UnknownModel, match=missing):
        read(folder)


def test_the_longest_text_is_what_the_files_say(tmp_path: Path) -> None:
    folder = described(tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text("{}")
    assert read(folder).max_tokens == 512
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 77}))
    assert read(folder).max_tokens == 77


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0{",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (7).to_bytes(8, "little") + b'{"a":1}',
    ],
)
def test_a_broken_weights_file_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(NotSafetensors):
        Weights(file)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
    ],
)
def test_a_tensor_outside_its_file_is_refused(tensor: dict[str, Any], tmp_path: Path) -> None:
    header = json.dumps({"a": tensor}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    weights = Weights(file)
    with pytest.raises(NotSafetensors, match="tensor"):
        weights["a"]


def test_passes_hold_alike_lengths_and_every_text_once() -> None:
    lengths = [256, 3, 12, 12, 13, 256, 250, 4, 100] * 7
    batches = list(passes(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    padded = sum(len(batch) * max(lengths[place] for place in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    assert len(batches) < len(lengths)
    assert list(passes([])) == []


def described(folder: Path) -> Path:
    """A copy of the default model's folder, its weights empty."""
    shutil.copytree(embed_model(), folder, ignore=shutil.ignore_patterns("*.safetensors", "vocab.txt"))
    (folder / "model.safetensors").touch()
    return folder


def tiny_bert(folder: Path, pooling: Any) -> Path:
    """A BERT of two layers with random weights, saved by sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    tokenizer = AutoTokenizer.from_pretrained(embed_model())
    base = folder.with_name("base")
    # A wide spread of weights, so that a wrong step shows in the vectors.
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.5, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(base)
    tokenizer.save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=48), Pooling(32, pooling_mode=pooling)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder
