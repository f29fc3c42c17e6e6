"""A cross-encoder over /v1/rerank: what is understood, what is not, and that nobody waits for one that is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.backends.reranker import HttpReranker
from gateway.config import load
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from tests.support.asgi_server import serving


class Served:
    """What it answers next, and what it was asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    async def rerank(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        return Response(self.body, self.status, media_type="application/json")


@pytest.fixture
def upstream() -> Served:
    return Served()


@pytest.fixture
def url(upstream: Served) -> Iterator[str]:
    with serving(Starlette(routes=[Route("/v1/rerank", upstream.rerank, methods=["POST"])])) as address:
        yield f"{address}/v1"


async def scores(url: str, count: int = 2) -> list[float]:
    reranker = HttpReranker(url, "tiny", "secret", timeout_s=10)
    try:
        return await reranker.score("a", ["b"] * count)
    finally:
        await reranker.close()


async def test_scores_come_in_the_order_of_the_documents(url: str, upstream: Served) -> None:
    upstream.body = b'{"results": [{"index": 1, "relevance_score": 0.25}, {"index": 0, "relevance_score": 1}]}'
    assert await scores(url) == [1, 0.25]
    assert upstream.asked == [{"model": "tiny", "query": "a", "documents": ["b", "b"]}]
    assert upstream.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (b'{"total_tokens": 31}', ("reported", 31)),
        (b'{"prompt_tokens": 29, "total_tokens": 29}', ("reported", 29)),
        (b'{"total_tokens": -1}', ("estimated", 4)),
        (b"null", ("estimated", 4)),
    ],
)
async def test_it_tells_what_it_used(url: str, upstream: Served, usage: bytes, told: tuple[str, int]) -> None:
    upstream.body = b'{"results": [{"index": 0, "relevance_score": 0}, {"index": 1, "relevance_score": 0}], "usage": '
    upstream.body += usage + b"}"
    heard = []
    reranker = HttpReranker(url, "tiny", timeout_s=10)
    await reranker.score("a", ["b", "c"], lambda helper, used: heard.append((helper, used.source, used.prompt_tokens)))
    await reranker.close()
    assert heard == [("cross_encoder", *told)]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b'{"results": [{"index": 0, "relevance_score": 0.5}]}',
        b'{"results": [{"index": 0, "relevance_score": 7.5}, {"index": 1, "relevance_score": 0}]}',
    ],
)
async def test_what_is_no_score_for_each_is_refused(url: str, upstream: Served, body: bytes) -> None:
    upstream.body = body
    with pytest.raises(UpstreamBroken):
        await scores(url)


async def test_one_that_failed_is_left_alone_for_a_moment(url: str, upstream: Served) -> None:
    upstream.status, upstream.body = 503, b"{}"
    reranker = HttpReranker(url, "tiny", timeout_s=10)
    with pytest.raises(UpstreamError):
        await reranker.score("a", ["b"])
    with pytest.raises(UpstreamUnavailable, match="away"):
        await reranker.score("a", ["b"])
    assert len(upstream.asked) == 1
    await reranker.close()


async def test_nobody_there_is_an_upstream_error() -> None:
    with pytest.raises(UpstreamError):
        await scores("http://127.0.0.1:9/v1")


def test_it_is_there_only_where_it_is_configured(tmp_path: Any) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("cache: {cross_encoder: {model: tiny}}\n")
    assert isinstance(HttpReranker.of(load(file, {})), HttpReranker)
    assert HttpReranker.of(load(None, {})) is None
