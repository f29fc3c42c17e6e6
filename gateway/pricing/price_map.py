"""The price map inside the litellm wheel, or another file of that format, read as data: litellm is not imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import ConfigError
from gateway.pricing.sheet import STANDARD, Sheet, cells, decimal, tier_named

if TYPE_CHECKING:
    from gateway.config import ModelConfig

MAP_PATTERN = "model_prices_and_context_window*.json"

_MILLION = 1_000_000
_CLASS_OF = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_image_token": "image_output",
}
_KEY = re.compile(
    rf"(?P<stem>{'|'.join(sorted(_CLASS_OF, key=len, reverse=True))})"
    r"(?:_above_(?P<above>\d+)(?P<thousands>k?)_tokens)?"
    r"(?:_(?P<tier>batches|flex|priority|balanced|ultrafast))?"
)
# Billed by the second of the call, as litellm reads them.
_PER_SECOND = ("cost_per_second", "input_cost_per_second", "output_cost_per_second")
# Some entries of these leave out that they have no output to pay for.
_WITHOUT_OUTPUT = frozenset({"embedding", "moderation"})
# Providers that bill a prompt of exactly the threshold as a long one (docs.x.ai: "reaches").
_INCLUSIVE = frozenset({"xai"})


class PriceMap:
    """Entries by model name; one is decoded when it is asked for. ``source`` and ``dated`` say where from."""

    def __init__(self, raw: Mapping[str, msgspec.Raw], source: str, dated: date | None) -> None:
        self._raw, self.source, self.dated = raw, source, dated

    @classmethod
    def installed(cls, released: Mapping[str, date]) -> PriceMap:
        """Empty where litellm is not installed; ``find_spec`` of a top-level package does not execute it."""
        spec = importlib.util.find_spec("litellm")
        folders = (spec and spec.submodule_search_locations) or ()
        files = [file for folder in folders for file in sorted(Path(folder).glob(MAP_PATTERN))]
        if not files:
            return cls({}, "", None)
        version = metadata.version("litellm")
        return cls.read(files[0], f"litellm {version}", released.get(version))

    @classmethod
    def read(cls, file: Path, source: str, dated: date | None = None) -> PriceMap:
        """A file of litellm's format.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            raw = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"not a price map: {error}", file=str(file)) from None
        return cls(raw, source, dated)

    @property
    def names(self) -> Iterator[str]:
        return iter(self._raw)

    def find(self, model: ModelConfig) -> dict[str, Any]:
        """The entry of a hosted model; {} where it has none."""
        if model.is_local or model.kind == "openai_compatible":
            return {}
        return self.named(model.upstream_name)

    def named(self, name: str) -> dict[str, Any]:
        """The entry of ``name``, of ``provider/name`` under ``name``, or of OpenAI's model of that name."""
        provider, _, rest = name.partition("/")
        for key, owner in ((name, ""), (rest, provider), (f"openai/{name}", "openai")):
            found = self._decode(key)
            if found and (not owner or found.get("litellm_provider") == owner):
                return found
        return {}

    def sheet(self, known: Mapping[str, Any]) -> Sheet | None:
        """An entry as a sheet; None where it does not say what a call costs."""
        given = _given(known)
        per_second = sum((_number(known.get(key)) for key in _PER_SECOND), Decimal(0))
        per_request = _number(known.get("input_cost_per_request"))
        standard = given.get((STANDARD, 0), {})
        if "input" in standard and known.get("mode") in _WITHOUT_OUTPUT:
            standard.setdefault("output", Decimal(0))
        priced = {"input", "output"} <= standard.keys()
        if not (priced or per_second):
            return None
        return Sheet(
            source=self.source,
            dated=self.dated,
            cells=cells(given),
            per_request=per_request,
            per_second=per_second,
            inclusive=known.get("litellm_provider") in _INCLUSIVE,
        )

    def _decode(self, key: str) -> dict[str, Any]:
        raw = self._raw.get(key)
        if raw is None:
            return {}
        found = msgspec.json.Decoder(float_hook=Decimal).decode(raw)
        return found if isinstance(found, dict) else {}


def _given(known: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Decimal]]:
    """Prices per million tokens by tier and threshold."""
    given: dict[tuple[str, int], dict[str, Decimal]] = {}
    for key, value in known.items():
        found = _KEY.fullmatch(key)
        if found and value is not None:
            above = int(found["above"] or 0) * (1000 if found["thousands"] else 1)
            tier = tier_named(found["tier"] or STANDARD)
            given.setdefault((tier, above), {})[_CLASS_OF[found["stem"]]] = decimal(value) * _MILLION
    for step in known.get("tiered_pricing") or ():
        above = int(step["range"][0]) if step.get("range") else 0
        prices = {_CLASS_OF[key]: decimal(value) * _MILLION for key, value in step.items() if key in _CLASS_OF}
        given.setdefault((STANDARD, above), {}).update(prices)
    return given


def _number(value: Any) -> Decimal:
    return Decimal(0) if value is None else decimal(value)
