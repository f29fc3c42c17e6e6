"""When the embedder is away or talks nonsense: an error at once, and no waiting for it again and again."""

import base64
import contextlib
from array import array
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.backends.embedder import HttpEmbedder
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.unit.backends.support import http, saying


def packed(*values: float) -> str:
    return base64.b64encode(array("f", values).tobytes()).decode()


async def embed_from(*embeddings: Any, model: str = "m") -> Any:
    data = [{"index": index, "embedding": embedding} for index, embedding in embeddings]
    async with saying(http(msgspec.json.encode({"data": data, "model": model}))) as url:
        embedder = HttpEmbedder(url, "m")
        try:
            return await embedder.embed(["a", "b"]), embedder.id
        finally:
            await embedder.close()


async def test_asks_in_base64_with_the_key() -> None:
    async with Upstream() as up:
        embedder = HttpEmbedder(up.base_url + "/", "text-embedding-3-small", "sk-1")
        await embedder.embed(["a", "b"])
        await embedder.close()
        (received,) = up.requests
        assert received.json == {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"}
        assert received.header("authorization") == "Bearer sk-1"


async def test_takes_floats_any_order_and_any_length() -> None:
    vectors, identity = await embed_from((1, [0, 5.0]), (0, packed(3, 4)))
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0, 1]]))
    assert identity == "m/hosted/2"


@pytest.mark.parametrize(
    "embeddings",
    [
        [(0, [1.0, 0.0])],
        [(0, [1.0, 0.0]), (1, [1.0])],
        [(0, [0.0, 0.0]), (1, [1.0, 0.0])],
        [(0, packed(float("nan"), 1)), (1, [1.0, 0.0])],
        [(0, "not base64!"), (1, [1.0, 0.0])],
        [(0, {}), (1, [])],
        [],
    ],
)
async def test_a_reply_that_is_not_one_vector_a_text_is_broken(embeddings: list[Any]) -> None:
    with pytest.raises(UpstreamBroken):
        await embed_from(*embeddings)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(), [("reported", 3)]),
        (Plan(prompt_tokens=11), [("reported", 11)]),
        (Plan(usage="missing"), [("estimated", 7)]),
        (Plan(garbage_after=0, garbage=b"<html>"), [("estimated", 7)]),
        (Plan(hang=True), [("estimated", 7)]),
        (Plan(status=500), []),
        (Plan(status=400), []),
        (Plan(drop_connect=True), []),
    ],
)
async def test_it_tells_what_may_be_billed(plan: Plan, told: list[tuple[str, int]]) -> None:
    heard: list[tuple[str, str, int]] = []
    async with Upstream() as up:
        up.enqueue(plan)
        embedder = HttpEmbedder(up.base_url, "m", timeout_s=0.5 if plan.hang else 20)
        with contextlib.suppress(UpstreamError):
            await embedder.embed(
                ["some words", "electroencephalography"],
                lambda helper, usage: heard.append((helper, usage.source, usage.prompt_tokens)),
            )
        await embedder.close()
    assert [(source, tokens) for _, source, tokens in heard] == told
    assert {helper for helper, *_ in heard} <= {"embedder"}


@pytest.mark.parametrize(
    ("plan", "error", "timeout_s"),
    [
        (Plan(status=500), UpstreamUnavailable, 20),
        (Plan(status=401), UpstreamUnavailable, 20),
        (Plan(drop_connect=True), UpstreamUnavailable, 20),
        (Plan(hang=True), UpstreamTimeout, 0.2),
        (Plan(garbage_after=0, garbage=b"<html>"), UpstreamBroken, 20),
    ],
)
async def test_after_a_failure_it_fails_at_once(plan: Plan, error: type[UpstreamError], timeout_s: float) -> None:
    async with Upstream() as up:
        up.enqueue(plan)
        embedder = HttpEmbedder(up.base_url, "m", timeout_s=timeout_s, away_s=60)
        with pytest.raises(error):
            await embedder.embed(["a"])
        with pytest.raises(UpstreamUnavailable, match="away"):
            await embedder.embed(["a"])
        assert up.total == 1
        await embedder.close()


async def test_it_is_asked_again_after_a_while() -> None:
    async with Upstream() as up:
        up.enqueue(Plan(status=500))
        embedder = HttpEmbedder(up.base_url, "m", timeout_s=20, away_s=0.1)
        with pytest.raises(UpstreamUnavailable):
            await embedder.embed(["a"])

        async def back() -> bool:
            try:
                return len(await embedder.embed(["a"])) == 1
            except UpstreamError:
                return False

        await until(back, within_s=20)
        await embedder.close()


async def test_the_texts_own_fault_says_nothing_about_the_embedder() -> None:
    async with Upstream() as up:
        up.enqueue(Plan(status=400))
        embedder = HttpEmbedder(up.base_url, "m")
        with pytest.raises(UpstreamRefused):
            await embedder.embed(["a"])
        assert len(await embedder.embed(["a"])) == 1
        await embedder.close()


async def test_a_process_that_is_not_there(tmp_path: Any) -> None:
    embedder = HttpEmbedder("http://local/v1", "m", uds=str(tmp_path / "none.sock"))
    with pytest.raises(UpstreamUnavailable) as caught:
        await embedder.embed(["a"])
    assert caught.value.connect
    await embedder.close()
