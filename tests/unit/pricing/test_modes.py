"""What a model does is known from the price map, or from what it charges for."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import EmbedderConfig, GatewayConfig, ModelConfig, PriceConfig
from gateway.pricing import PriceBook
from gateway.pricing.helpers import embedder_model
from gateway.pricing.modes import mode_of

VECTORS, TEXT = PriceConfig(input=0.02, output=0), PriceConfig(input=2.5, output=10)
ELSEWHERE: dict[str, Any] = {"provider": "openai_compatible", "base_url": "http://10.0.0.7/v1"}


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ({"provider": "openai", "upstream_model": "text-embedding-3-small"}, "embedding"),
        ({"provider": "openai", "upstream_model": "gpt-4o-mini"}, "chat"),
        ({"provider": "openai", "upstream_model": "omni-moderation-latest"}, "moderation"),
        ({"provider": "litellm", "upstream_model": "mistral/mistral-embed"}, "embedding"),
        ({**ELSEWHERE, "upstream_model": "text-embedding-3-large"}, "embedding"),
        ({**ELSEWHERE, "upstream_model": "gpt-4o", "price": VECTORS}, "chat"),
        ({**ELSEWHERE, "upstream_model": "bge-m3", "price": TEXT}, "chat"),
        ({**ELSEWHERE, "upstream_model": "bge-m3", "price": VECTORS}, ""),
        ({**ELSEWHERE, "upstream_model": "bge-m3"}, ""),
        ({"local": "smollm2-135m-instruct"}, "chat"),
    ],
)
def test_what_a_model_does(model: dict[str, Any], mode: str) -> None:
    config = ModelConfig(name="it", **model)
    assert mode_of(config, PriceBook.load([config])) == mode


def test_an_entry_that_leaves_out_the_price_of_no_output_is_a_price() -> None:
    config = ModelConfig(name="it", provider="litellm", upstream_model="mistral/mistral-embed")
    price = PriceBook.load([config]).price("it")
    assert price is not None
    assert (float(price.input), float(price.output)) == (0.1, 0)


def test_the_embedder_is_a_model() -> None:
    here = embedder_model(GatewayConfig())
    assert here is not None
    assert (here.name, here.kind, here.is_local) == ("all-MiniLM-L6-v2", "local", True)
    price = PriceBook.load([here]).price(here.name)
    assert price is not None
    assert (price.input, price.usd_per_hour) == ("0", "0")
    url = "https://api.openai.com/v1"
    hosted = embedder_model(
        GatewayConfig(embedder=EmbedderConfig(model="text-embedding-3-small", url=url, api_key="k"))
    )
    assert hosted is not None
    assert (hosted.kind, hosted.base_urls, hosted.api_key, hosted.is_local) == ("openai", (url,), "k", False)
    assert PriceBook.load([hosted]).price(hosted.name) is not None


def test_no_embedder_and_one_whose_name_is_taken() -> None:
    assert embedder_model(GatewayConfig(embedder=EmbedderConfig(enabled=False))) is None
    taken = ModelConfig(name="all-MiniLM-L6-v2", **ELSEWHERE)
    assert embedder_model(GatewayConfig(models=(taken,))) is None
