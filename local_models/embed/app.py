"""The embedding process's HTTP side."""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_models.embed.batcher import Batcher, Overloaded
from local_models.embed.model import Embedded, Embedder, Vectors
from local_models.errors import (
    CLIENT_CLOSED_REQUEST,
    ApiError,
    InvalidRequest,
    Unavailable,
    Unsupported,
    json_response,
)
from local_models.serving import ClientGone, Loading, application, read_json, until_gone

MAX_INPUTS = 2048
MAX_DOCUMENTS = 64


class EmbeddingBody(msgspec.Struct, frozen=True):
    """The body of `/v1/embeddings`."""

    input: Any
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class RerankBody(msgspec.Struct, frozen=True):
    """The body of `/v1/rerank`, as vLLM, Jina and others have it."""

    query: str
    documents: list[str]
    model: str | None = None


def create_app(loading: Loading[Batcher], name: str) -> Starlette:
    """The app for one model, asked for as `name` or by its id, which every reply carries."""

    async def embeddings(request: Request) -> Response:
        batcher = loading.get()
        identity = identified(name, batcher.embedder)
        body = await read_json(request, EmbeddingBody)
        if body.model not in (None, name, identity):
            raise ApiError(404, f"no model {body.model!r} here, only {name!r}", "model_not_found", "model")
        if body.dimensions not in (None, batcher.embedder.dimension):
            raise Unsupported(f"this model has {batcher.embedder.dimension} dimensions, and no others", "dimensions")
        try:
            embedded = await until_gone(request.receive, batcher.embed(_texts(body.input)))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Overloaded as error:
            raise Unavailable(str(error), "overloaded", retry_after=1) from error
        return json_response(_reply(embedded, identity, body.encoding_format or "float"))

    async def rerank(request: Request) -> Response:
        pairs = loading.get().pairs
        if pairs is None:
            raise ApiError(404, "no cross-encoder is served here", "model_not_found")
        body = await read_json(request, RerankBody)
        if not body.documents or len(body.documents) > MAX_DOCUMENTS:
            raise InvalidRequest(f"documents must be 1 to {MAX_DOCUMENTS} texts", "documents")
        try:
            scores = await until_gone(request.receive, pairs.score(body.query, body.documents))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Overloaded as error:
            raise Unavailable(str(error), "overloaded", retry_after=1) from error
        results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
        return json_response({"object": "list", "model": body.model or name, "results": results})

    routes = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/rerank", rerank, methods=["POST"]),
    ]
    return application(loading, routes, {"id": name})


def identified(name: str, embedder: Embedder) -> str:
    """`name/pooling/dimension`, with `/int8` where vectors are computed so: other ids, other vectors."""
    return "/".join(filter(None, (name, embedder.pooling, str(embedder.dimension), embedder.precision)))


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest("input must be a string or a list of strings, and not empty", "input")
    if len(texts) > MAX_INPUTS:
        raise InvalidRequest(f"input has {len(texts)} texts, at most {MAX_INPUTS} are taken", "input")
    for place, text in enumerate(texts):
        if isinstance(text, int | list):
            raise Unsupported("token arrays are not supported by this model, send text", "input")
        if not isinstance(text, str) or not text:
            raise InvalidRequest("each input must be a string that is not empty", f"input[{place}]")
    return texts


def _reply(embedded: Embedded, identity: str, encoding: str) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(embedded.vectors)
    ]
    tokens = sum(embedded.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": identity, "usage": usage}


def _encoded(vector: Vectors, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]
