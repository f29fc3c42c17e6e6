"""``/v1/models``, ``/v1/requests/{id}`` and ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import story
from gateway.backends.operations import MODES
from gateway.errors import NotFound, Unauthenticated
from gateway.http.formats.model_list import listed
from gateway.http.peer import may_look, principal_of
from gateway.http.watching import watched
from gateway.pricing.helpers import embedder_model
from gateway.pricing.modes import CHAT

if TYPE_CHECKING:
    from gateway.config import ModelConfig
    from gateway.runtime import Runtime
    from gateway.types import LedgerEntry
    from gateway.view import View


class Meta:
    """What can be asked about the gateway itself."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def models(self, request: Request) -> Response:
        """Every policy as ``auto`` / ``auto:<policy>`` and each configured model, as OpenAI or Anthropic lists them."""
        await principal_of(self._runtime, request.scope)
        view = self._runtime.view
        names = ["auto", *(f"auto:{name}" for name in view.policies.names)]
        rows = [_policy_row(name, view) for name in names]
        rows += [model_row(model, view) for model in _models(view)]
        if "anthropic-version" in request.headers:
            return JSONResponse(listed(rows))
        return JSONResponse({"object": "list", "data": rows})

    async def model(self, request: Request) -> Response:
        """One of them."""
        await principal_of(self._runtime, request.scope)
        wanted, view = request.path_params["model"], self._runtime.view
        if wanted == "auto" or wanted in [f"auto:{name}" for name in view.policies.names]:
            return JSONResponse(_policy_row(wanted, view))
        model = next((model for model in _models(view) if model.name == wanted), None)
        if model is None:
            raise NotFound(f"the model '{wanted}' does not exist", code="model_not_found", param="model")
        return JSONResponse(model_row(model, view))

    async def request(self, request: Request) -> Response:
        """Why a request went where it went. Own key, own team or admin; to anyone else it does not exist."""
        principal, _ = await principal_of(self._runtime, request.scope)
        request_id = request.path_params["request_id"]
        entry = await self._runtime.find(request_id)
        own = entry is not None and (
            entry.key_id == principal.key_id or principal.admin or bool(principal.team and entry.team == principal.team)
        )
        if entry is None or not own:
            raise NotFound(f"no request '{request_id}'")
        return self._told(entry)

    def _told(self, entry: LedgerEntry) -> Response:
        return JSONResponse(story.of_entry(entry, self._runtime.view))

    async def metrics(self, request: Request) -> Response:
        """Prometheus exposition over all workers; open under the anonymous rule, else with the admin key."""
        if not may_look(self._runtime, request.scope):
            raise Unauthenticated("the admin key is needed: Authorization: Bearer <GATEWAY_ADMIN_KEY>")
        body, content_type = self._runtime.metrics.render()
        body += await watched(self._runtime)
        return Response(body, headers={"content-type": content_type})


def _policy_row(name: str, view: View) -> dict[str, Any]:
    policy = view.policies.get(name.removeprefix("auto:") if ":" in name else view.settings.config.policies.default)
    label = policy.label if policy else ""
    return {"id": name, "object": "model", "created": view.loaded_ms // 1000, "owned_by": "gateway", "policy": label}


def _models(view: View) -> tuple[ModelConfig, ...]:
    """Those of gateway.yaml's ``models``, and its embedder."""
    embedder = embedder_model(view.settings.config)
    return (*view.settings.config.models, *([embedder] if embedder else ()))


def model_row(model: ModelConfig, view: View) -> dict[str, Any]:
    """A configured model: what it does and costs, since when that is known, and why it cannot be asked now, if so."""
    mode = view.operations.modes.get(model.name)
    asked = view.operations if mode in MODES.values() else view.fleet
    price = view.prices.price(model.name)
    shown = None
    if price is not None:
        shown = {
            name: getattr(price, name) for name in ("input", "output", "cached_input", "cache_write", "usd_per_hour")
        }
        shown |= {"source": price.source, "date": price.date}
    return {
        "id": model.name,
        "object": "model",
        "created": view.loaded_ms // 1000,
        "owned_by": model.kind,
        "upstream_model": model.upstream_name,
        "runs": "local" if model.is_local else "hosted",
        "mode": mode or None,
        "context": None if model.is_local and mode != CHAT else view.prices.context(model.name),
        "price": shown,
        "unavailable": asked.unavailable(model.name),
    }
