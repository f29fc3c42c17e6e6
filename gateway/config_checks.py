"""What is wrong with a ``gateway.yaml`` that its types cannot say, told with file and line."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from gateway.config import GatewayConfig, ModelConfig
    from gateway.yamlfile import Document

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")

_SECRET_KEYS = {"api_key", "admin_key", "password", "webhook"}
_SECRET_LISTS = {"encryption_keys"}
_LONGEST_NAME = 256
_LOCAL = re.compile(r"\w[\w.-]*|(?:wheel|hf|file):.+")
_HTTP = ("http", "https")
_ADDRESSES = (
    ("redis", "url", ("redis", "rediss", "unix")),
    ("ledger", "url", ("postgresql+asyncpg", "sqlite+aiosqlite")),
    ("embedder", "url", _HTTP),
    ("alerts", "webhook", _HTTP),
    ("telemetry", "otlp", _HTTP),
)


def written_secrets(value: Any, document: Document, path: str = "") -> list[str]:
    """A secret that stands in the file itself, with its line."""
    found: list[str] = []
    if isinstance(value, dict):
        for key, item in value.items():
            secrets = [item] if key in _SECRET_KEYS else item if key in _SECRET_LISTS and isinstance(item, list) else []
            if any(isinstance(secret, str) and not VARIABLE.search(secret) for secret in secrets):
                line = document.line(path, key)
                found.append(f"{document.file}:{line}: {key} is written out; use ${{ENV_NAME}} instead")
            found += written_secrets(item, document, f"{path}.{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += written_secrets(item, document, f"{path}[{index}]")
    return found


def check(config: GatewayConfig, document: Document, known: Collection[str]) -> None:
    """What the types cannot say. ``known``: the names of all models. Raises ConfigError with file and line."""
    seen: set[str] = set()
    for index, model in enumerate(config.models):
        if model.name in seen:
            raise document.error(f"model '{model.name}' is defined twice", f".models[{index}]", "name")
        seen.add(model.name)
        _check_model(model, document, f".models[{index}]")
    for target in config.probes.targets:
        if target not in known:
            raise document.error(f"probes.targets names '{target}', which is no model", ".probes", "targets")
    if config.cache.judge is not None and config.cache.judge.model not in known:
        raise document.error(f"cache.judge names '{config.cache.judge.model}', which is no model", ".cache", "judge")
    _check_helpers(config, document)
    _check_addresses(config, document)
    _check_finite(document.value, document)
    if config.server.workers < 1:
        raise document.error("at least one worker is needed", ".server", "workers")
    if not 0 <= config.server.port <= 65535:
        raise document.error("a port is 0..65535", ".server", "port")


def _check_model(model: ModelConfig, document: Document, at: str) -> None:
    if not 0 < len(model.name) <= _LONGEST_NAME or not model.name.isprintable():
        raise document.error(f"a name has 1 to {_LONGEST_NAME} printable characters", at, "name")
    if model.name == "auto" or model.name.startswith("auto:"):
        raise document.error("'auto' is reserved for policies", at, "name")
    if (model.local is None) == (model.provider is None):
        raise document.error("give either 'local' or 'provider'", at)
    if model.local is not None and not _LOCAL.fullmatch(model.local):
        reason = "'local' is the name of a model of the catalogue, or where one is: hf:OWNER/REPO/FILE, file:/PATH"
        raise document.error(reason, at, "local")
    if model.provider == "openai_compatible" and not model.base_url:
        raise document.error("provider openai_compatible needs 'base_url'", at)
    if model.provider == "litellm" and len(model.base_urls) > 1:
        raise document.error("several servers need provider openai_compatible", at, "base_url")
    if model.provider == "litellm" and not model.upstream_model:
        raise document.error("provider litellm needs 'upstream_model'", at)
    if any(not 0 <= number < math.inf for price in model.prices for number in _numbers(price)):
        raise document.error("a price cannot be negative, infinite or no number", at, "price")
    if len({price.since for price in model.prices}) < len(model.prices):
        raise document.error("two prices hold from the same day: give each a 'from' of its own", at, "price")


def _check_helpers(config: GatewayConfig, document: Document) -> None:
    embedder, cross_encoder = config.embedder, config.cache.cross_encoder
    for at, helper in ((".embedder", embedder), (".cache.cross_encoder", cross_encoder)):
        if helper is not None and helper.price is not None and not helper.url:
            raise document.error("what this machine serves itself has no 'price'", at, "price")
    if cross_encoder is not None and not cross_encoder.url and (embedder.url or not embedder.enabled):
        reason = "cache.cross_encoder is served by the embedding process, and there is none: give it a 'url'"
        raise document.error(reason, ".cache", "cross_encoder")


def _check_addresses(config: GatewayConfig, document: Document) -> None:
    """Addresses that nothing could be reached by; one with a variable in it is seen to when it is used."""
    written = [(f".{part}", key, getattr(getattr(config, part), key), schemes) for part, key, schemes in _ADDRESSES]
    for index, model in enumerate(config.models):
        written += [(f".models[{index}]", "base_url", url, _HTTP) for url in model.base_urls]
        written.append((f".models[{index}]", "url", model.url, _HTTP))
    if (beside := config.cache.cross_encoder) is not None:
        written.append((".cache.cross_encoder", "url", beside.url, _HTTP))
    for at, key, address, schemes in written:
        if address and not VARIABLE.search(address) and address.partition("://")[0] not in schemes:
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise document.error(f"an address begins with {known}", at, key)


def _check_finite(written: Any, document: Document, at: str = "") -> None:
    """YAML also has ``.inf`` and ``.nan``, which nothing can be counted with."""
    if isinstance(written, float) and not math.isfinite(written):
        raise document.error("a number must be finite", at)
    if isinstance(written, dict):
        for key, value in written.items():
            _check_finite(value, document, f"{at}.{key}")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            _check_finite(value, document, f"{at}[{index}]")


def _numbers(written: Any) -> Iterator[float]:
    """Every price in a price, whatever it is for."""
    if isinstance(written, int | float):
        yield written
    elif isinstance(written, dict):
        for value in written.values():
            yield from _numbers(value)
    elif isinstance(written, msgspec.Struct):
        for name in written.__struct_fields__:
            yield from _numbers(getattr(written, name))
