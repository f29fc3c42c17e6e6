"""A cross-encoder beside the embedder: asked where the verifier is unsure, for a moment, and done without when away."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from safetensors.numpy import save_file

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.models import EMBED, embed_model, served
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORED, ASKED = "How do I reset my password?", "How do I change my password?"
SURE = 6.0


def cross_encoder(folder: Path, bias: float) -> Path:
    """A real model of one layer that says the same of every pair: its last weights are zero, the others random."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (embed_model() / name).exists():
            shutil.copy(embed_model() / name, folder / name)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "id2label": {"0": "same"},
        "label2id": {"same": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    last = {"classifier.weight": np.zeros((1, 16), np.float32), "classifier.bias": np.array([bias], np.float32)}
    save_file(last, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = cross_encoder(tmp_path_factory.mktemp("models") / "tiny", SURE)
    with served("embed", "--model", str(embed_model()), "--cross-encoder", str(folder)) as address:
        yield f"{address}/v1"


async def paraphrase(running: Gateway, upstream: Upstream) -> httpx.Response:
    upstream.default = Plan(text="Press the button")
    key, before = await running.key(), running.runtime.semantic.size
    await running.chat(STORED, key=key)
    await until(lambda: running.runtime.semantic.size == before + 1)
    return await running.chat(ASKED, key=key)


@pytest_asyncio.fixture(loop_scope="module")
async def gate(
    request: pytest.FixtureRequest, tmp_path: Path, upstream_server: Upstream, upstream: Upstream, models: str
) -> AsyncIterator[Gateway]:
    url = request.param or models
    sections: dict[str, Any] = {
        "embedder": {"url": models, "model": EMBED},
        "cache": {"cross_encoder": {"model": "tiny", "url": url, "timeout_ms": 5000}},
    }
    async with gateway(tmp_path, [hosted("big", upstream_server.base_url)], **sections) as running:
        yield running


async def test_it_is_served_beside_the_embedder(models: str) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        reply = await http.post(f"{models}/rerank", json={"query": ASKED, "documents": [STORED, "What is a cat?"]})
        scores = {each["index"]: each["relevance_score"] for each in reply.json()["results"]}
        assert scores == {0: pytest.approx(1 / (1 + np.exp(-SURE)), abs=1e-4), 1: pytest.approx(scores[0], abs=1e-4)}
        assert (await http.post(f"{models}/rerank", json={"query": ASKED, "documents": []})).status_code == 400
        assert (await http.post(f"{models}/embeddings", json={"input": "x", "model": EMBED})).status_code == 200


@pytest.mark.parametrize("gate", [None], ids=["served"], indirect=True)
async def test_what_the_verifier_is_not_sure_of_is_served_where_it_is(gate: Gateway, upstream: Upstream) -> None:
    hit = await paraphrase(gate, upstream)
    assert hit.headers["x-gateway-cache"] == "semantic"


@pytest.mark.parametrize("gate", ["http://127.0.0.1:9/v1"], ids=["away"], indirect=True)
async def test_without_it_the_verifier_decides(gate: Gateway, upstream: Upstream) -> None:
    reply = await paraphrase(gate, upstream)
    assert (reply.status_code, reply.headers["x-gateway-cache"]) == (200, "miss")
