"""Hosted helpers as models of the price book: an embedder and a cross-encoder answer no request, and still send bills.

One on this machine costs its machine's time, which no request is charged for: it has no entry here.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from gateway.config import GatewayConfig, HelperPriceConfig, ModelConfig, PriceConfig
from gateway.protocols import Helper

_OPENAI = "api.openai.com"  # the price map knows what its models cost; elsewhere a name says nothing


def hosted_helpers(config: GatewayConfig) -> dict[Helper, ModelConfig]:
    """Those that have a ``url``."""
    found: dict[Helper, ModelConfig] = {}
    embedder, cross_encoder = config.embedder, config.cache.cross_encoder
    if embedder.enabled and embedder.url:
        found["embedder"] = _as_model("embedder", embedder.url, embedder.model, embedder.price)
    if cross_encoder is not None and cross_encoder.url:
        found["cross_encoder"] = _as_model(
            "cache.cross_encoder", cross_encoder.url, cross_encoder.model, cross_encoder.price
        )
    return found


def embedder_model(config: GatewayConfig) -> ModelConfig | None:
    """The embedder as a model that can be asked for by its name; None where it is off, or a model has that name.

    One on this machine costs nothing by the hour, as where it helps to decide.
    """
    embedder = config.embedder
    if not embedder.enabled or any(model.name == embedder.model for model in config.models):
        return None
    if embedder.url is None:
        return ModelConfig(name=embedder.model, local=embedder.model)
    hosted = _as_model(embedder.model, embedder.url, embedder.model, embedder.price)
    return msgspec.structs.replace(hosted, api_key=embedder.api_key)


def _as_model(name: str, url: str, upstream: str, price: HelperPriceConfig | None) -> ModelConfig:
    return ModelConfig(
        name=name,
        provider="openai" if urlsplit(url).hostname == _OPENAI else "openai_compatible",
        base_url=url,
        upstream_model=upstream,
        price=PriceConfig(input=price.input, output=0, per_request=price.per_request) if price else None,
    )
