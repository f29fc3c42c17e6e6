"""What a call costs: one price book with provenance. ``Decimal`` and integers in here, integer nano-dollars out.

A model's price is the first of: its own ``price`` in gateway.yaml; a dated override in ``gateway/prices.yaml``; the
price map inside the installed litellm wheel. An openai_compatible server may call its models what it likes, so the map
says nothing about those. A local model costs its busy time. The price that counts is the one of the request's time.
"""

from gateway.pricing.book import PriceBook
from gateway.pricing.check import PriceCheck, check

__all__ = ["PriceBook", "PriceCheck", "check"]
