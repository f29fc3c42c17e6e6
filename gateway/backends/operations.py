"""What answers requests that are no chat: for each operation the models that may, and their targets.

Vectors of two models cannot be compared and verdicts are not alike, so that here is no next target: a request is
answered by the model it names.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gateway.backends.fleet import OPENAI_URL, Fleet, Target, missing, server, through_litellm
from gateway.backends.litellm_unary import LiteLLMUnary
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.replicas import Replicas
from gateway.backends.resilient import Resilient
from gateway.backends.unary import Operation, read_unary
from gateway.config import ModelConfig, Settings, socket_path
from gateway.errors import InvalidRequest, NotFound
from gateway.pricing.helpers import embedder_model
from gateway.pricing.modes import UNKNOWN, mode_of

if TYPE_CHECKING:
    from gateway.pricing import PriceBook

MODES: Mapping[Operation, str] = {"embeddings": "embedding", "moderations": "moderation"}
"""What models that do it are called in the price map."""
_REFUSALS: Mapping[Operation, str] = {
    "embeddings": "not_an_embedding_model",
    "moderations": "not_a_moderation_model",
}


class Able(NamedTuple):
    """Who may be asked for one operation. ``default``: for requests that name no model, None where there is none."""

    targets: Mapping[str, Target]
    fleet: Fleet
    default: str | None


class Operations:
    """All operations of one configuration. A reload builds new ones and then drains and closes the old.

    ``modes``: what each configured model does, the embedder among them; "" where nobody has said.
    """

    def __init__(self, able: Mapping[Operation, Able], modes: Mapping[str, str]) -> None:
        self._able, self.modes = able, modes

    @classmethod
    def build(cls, settings: Settings, prices: PriceBook, previous: Operations | None = None) -> Operations:
        """Connects to nothing. What ``previous`` knows about the health of unchanged models is taken over."""
        modes = {model.name: mode_of(model, prices) for model in settings.config.models}
        if embedder := embedder_model(settings.config):
            modes[embedder.name] = MODES["embeddings"]
        able = {
            operation: _of(operation, settings, modes, previous._able[operation].targets if previous else {})
            for operation in MODES
        }
        return cls(able, modes)

    def model(self, operation: Operation, name: str | None) -> ModelConfig:
        """The model of that name; None: the first that is known to do this.

        Raises:
            NotFound: there is none.
            InvalidRequest: it does something else.
        """
        able, kind = self._able[operation], MODES[operation]
        if name is None and able.default is None:
            message = f"no {kind} model is configured: add one to `models` in gateway.yaml"
            raise NotFound(message, code="model_not_found", param="model")
        name = name or able.default or ""
        if name in able.targets:
            return able.targets[name].config
        if name in self.modes:
            message = f"the model '{name}' is configured, and is no {kind} model"
            raise InvalidRequest(message, code=_REFUSALS[operation], param="model")
        raise NotFound(f"the model '{name}' does not exist", code="model_not_found", param="model")

    def fleet(self, operation: Operation) -> Fleet:
        """The targets of all models that may do this."""
        return self._able[operation].fleet

    def unavailable(self, name: str) -> str | None:
        """Why a model that does one of these cannot be asked now; None also where it does none."""
        fleets = (able.fleet for able in self._able.values() if name in able.targets)
        return next(filter(None, (fleet.unavailable(name) for fleet in fleets)), None)

    def resume(self) -> None:
        """As `Fleet.resume`."""
        for able in self._able.values():
            able.fleet.resume()

    async def close(self, drain_s: float = 0.0) -> None:
        """As `Fleet.close`."""
        await asyncio.gather(*(able.fleet.close(drain_s) for able in self._able.values()))


def _of(operation: Operation, settings: Settings, modes: Mapping[str, str], before: Mapping[str, Target]) -> Able:
    """Models known to do it, the embedder before them, and those of which nobody has said what they do."""
    embedder = embedder_model(settings.config) if operation == "embeddings" else None
    models = settings.config.models
    known = [model for model in models if modes[model.name] == MODES[operation]]
    known = [embedder, *known] if embedder else known
    perhaps = [model for model in models if modes[model.name] == UNKNOWN]
    targets = {model.name: _target(operation, model, settings, before.get(model.name)) for model in (*known, *perhaps)}
    return Able(targets, Fleet(targets.values()), known[0].name if known else None)


def _target(operation: Operation, model: ModelConfig, settings: Settings, before: Target | None) -> Target:
    socket = str(socket_path(settings.data_dir, "embed")) if model.is_local else None
    backend = _backend(operation, model, socket)
    known = before.backend if before and before.config == model else None
    resilient = Resilient(
        model.name,
        backend,
        max_retries=model.max_retries,
        probe=backend.reachable if backend.probed else None,
        breaker=known.breaker if known else None,
    )
    return Target(model, resilient, missing(model, settings), socket)


def _backend(operation: Operation, model: ModelConfig, socket: str | None) -> OpenAIBackend | LiteLLMUnary | Replicas:
    if model.kind == "litellm":
        return through_litellm(functools.partial(LiteLLMUnary, operation), model)
    urls = ("http://local/v1",) if model.is_local else model.base_urls or (OPENAI_URL,)
    servers = [server(model, url, socket, path=f"/{operation}", read=read_unary) for url in urls]
    return servers[0] if len(servers) == 1 else Replicas(servers)
