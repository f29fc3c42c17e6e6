"""The embedding process as its clients see it: a real subprocess and the real MiniLM."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.support.models import EMBED, embed_model, process, served, wait_ready

IDENTITY = f"{EMBED}/mean/384"
SHORT = "What is the capital of France?"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("embed", "--model", str(embed_model()), "--max-queue", "300") as address:
        yield address


def vectors(client: openai.OpenAI, given: str | list[str], **more: Any) -> NDArray[np.float32]:
    reply = client.embeddings.create(model=EMBED, input=given, **more)
    return np.array([item.embedding for item in reply.data], np.float32)


def test_vectors_are_normalised_and_say_where_they_are_from(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model=EMBED, input=[SHORT, "hi"], encoding_format="float")
    assert reply.model == IDENTITY
    assert [item.index for item in reply.data] == [0, 1]
    assert reply.usage.prompt_tokens == 9 + 3
    assert np.linalg.norm([item.embedding for item in reply.data], axis=1) == pytest.approx(1, abs=1e-6)
    assert client.embeddings.create(model=IDENTITY, input="hi").model == IDENTITY


def test_paraphrases_are_closer_than_strangers(client: openai.OpenAI) -> None:
    texts = ["How do I reset my password?", "I forgot my password, how can I change it?", "The cat sat on the mat."]
    asked, paraphrase, stranger = vectors(client, texts)
    assert asked @ paraphrase > 0.7
    assert asked @ stranger < 0.2


def test_similarities_are_those_that_the_models_makers_publish(client: openai.OpenAI) -> None:
    """The sentences and numbers of sentence-transformers' quickstart for this model."""
    first, second, third = vectors(
        client, ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    assert [first @ second, first @ third, second @ third] == pytest.approx([0.6660, 0.1046, 0.1411], abs=2e-3)


def test_neither_padding_nor_neighbours_change_a_vector(client: openai.OpenAI) -> None:
    alone = vectors(client, SHORT)[0]
    mixed = vectors(client, ["x", SHORT, "a much longer text " * 60, "hello there"])[1]
    assert mixed == pytest.approx(alone, abs=1e-5)


def test_base64_holds_the_same_float32(client: openai.OpenAI, address: str) -> None:
    reply = httpx.post(
        f"{address}/v1/embeddings", json={"input": SHORT, "encoding_format": "base64"}, timeout=60.0
    ).json()
    raw = np.frombuffer(base64.b64decode(reply["data"][0]["embedding"]), "<f4")
    assert raw.shape == (384,)
    assert raw == pytest.approx(vectors(client, SHORT, encoding_format="float")[0], abs=1e-6)


async def test_many_callers_get_each_their_own(http: httpx.AsyncClient) -> None:
    texts = [f"{'word ' * (number % 9)}number {number}" for number in range(40)]
    replies = await asyncio.gather(*(http.post("/v1/embeddings", json={"input": text}) for text in texts))
    together = (await http.post("/v1/embeddings", json={"input": texts})).json()["data"]
    for reply, item in zip(replies, together, strict=True):
        assert reply.json()["data"][0]["embedding"] == pytest.approx(item["embedding"], abs=1e-5)


async def test_more_texts_than_may_wait_are_shed(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/embeddings", json={"input": ["x"] * 301})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
    assert reply.headers["retry-after"] == "1"


async def test_the_loop_answers_while_it_computes(http: httpx.AsyncClient) -> None:
    computing = asyncio.create_task(http.post("/v1/embeddings", json={"input": ["a long text " * 80] * 32}))
    answered = 0
    while not computing.done():
        assert (await http.get("/healthz")).status_code == 200
        answered += 1
    assert (await computing).status_code == 200
    assert answered > 10


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "invalid_request"),
        ({"input": None}, "input", "invalid_request"),
        ({"input": ""}, "input[0]", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": ["a", ""]}, "input[1]", "invalid_request"),
        ({"input": ["a"] * 2049}, "input", "invalid_request"),
        ({"input": [1, 2, 3]}, "input", "unsupported"),
        ({"input": [[1, 2], [3]]}, "input", "unsupported"),
        ({"input": "a", "dimensions": 100}, "dimensions", "unsupported"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_request"),
    ],
)
async def test_a_bad_request_is_refused_by_the_name_of_its_field(
    http: httpx.AsyncClient, body: dict[str, Any], param: str, code: str
) -> None:
    reply = await http.post("/v1/embeddings", json=body)
    assert (reply.status_code, reply.json()["error"]["param"], reply.json()["error"]["code"]) == (400, param, code)


async def test_another_model_is_not_here(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/embeddings", json={"input": "a", "model": "text-embedding-3-small"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_while_it_loads_it_says_so_and_it_ends_cleanly(tmp_path: Any) -> None:
    socket = tmp_path / "embed.sock"
    with (
        process("embed", "--model", str(embed_model()), "--name", "mine", "--uds", str(socket)) as child,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://model", timeout=60.0) as http,
    ):
        assert 503 in wait_ready(http, child)
        reply = http.post("/v1/embeddings", json={"input": "a"}).json()
        assert reply["model"] == "mine/mean/384"
        child.terminate()
        assert child.wait(10) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""
