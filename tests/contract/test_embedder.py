"""What every Embedder does: this machine's own process and a hosted service are one class, two real servers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.backends.embedder import HttpEmbedder
from gateway.protocols import Embedder
from tests.support.models import EMBED, embed_model, process, wait_ready
from tests.support.upstream import Upstream

IDS = {"local": f"{EMBED}/mean/384", "hosted": f"{EMBED}/hosted/384"}


@pytest.fixture(scope="module")
def local_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("embed") / "embed.sock"
    with process("embed", "--model", str(embed_model()), "--uds", str(path)) as child:
        with httpx.Client(base_url="http://local", transport=httpx.HTTPTransport(uds=str(path)), timeout=60.0) as http:
            wait_ready(http, child)
        yield path


@pytest.fixture(params=["local", "hosted"])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    async with Upstream() as up:
        made = (
            HttpEmbedder("http://local/v1", EMBED, uds=str(request.getfixturevalue("local_socket")))
            if request.param == "local"
            else HttpEmbedder(up.base_url, EMBED, "sk-1")
        )
        assert made.id is None
        yield made
        await made.close()


async def test_rows_are_unit_vectors_in_the_order_of_the_texts(
    embedder: Embedder, request: pytest.FixtureRequest
) -> None:
    texts = ["the capital of France", "a recipe for bread", "the capital of France"]
    vectors = await embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.5
    assert embedder.id == IDS[request.node.callspec.params["embedder"]]


async def test_likeness_of_meaning_is_likeness_of_vectors(embedder: Embedder) -> None:
    one, near, far = await embedder.embed(["the capital of France", "what is the capital of France", "bake bread"])
    assert one @ near > one @ far


async def test_calls_run_beside_each_other(embedder: Embedder) -> None:
    batches = await asyncio.gather(*(embedder.embed([f"text {number}"]) for number in range(16)))
    assert all(batch.shape == (1, 384) for batch in batches)
