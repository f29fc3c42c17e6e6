"""What kind of call a model answers: by the price map, else by what it charges for."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import ModelConfig
    from gateway.pricing.book import PriceBook

CHAT = "chat"
UNKNOWN = ""


def mode_of(model: ModelConfig, prices: PriceBook) -> str:
    """``chat``, ``embedding``, ``moderation`` or another mode of the price map; ``""`` where nobody has said.

    A name is looked up in the price map wherever the model is served: there it says nothing of its price, but what it
    is. Whoever charges for output generates text.
    """
    if model.is_local:
        return CHAT
    known = prices.price_map.named(model.upstream_name).get("mode")
    if isinstance(known, str):
        return known
    price = prices.price(model.name)
    return CHAT if price is not None and Decimal(price.output) > 0 else UNKNOWN
