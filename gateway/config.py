"""``gateway.yaml``: what it may hold, its defaults, and how it is read. Parsing starts nothing."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gateway.config_checks import VARIABLE, check, written_secrets
from gateway.errors import ConfigError
from gateway.yamlfile import Document

_LONGEST_PART = 40
Provider = Literal["openai", "openai_compatible", "litellm", "local"]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of configuration: unknown keys are errors."""


class ServerConfig(Strict, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1)] = 10 * 1024 * 1024
    max_concurrent: Annotated[int, msgspec.Meta(ge=1)] = 2000
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0


class RedisConfig(Strict, frozen=True, kw_only=True):
    url: str | None = None


class LedgerConfig(Strict, frozen=True, kw_only=True):
    """``keep_months``: how many whole months of rows are kept besides the running one; None: all of them.

    ``encryption_keys``: of kept prompts and answers, the newest first (:mod:`gateway.sealing`).
    """

    url: str | None = None
    keep_months: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encryption_keys: tuple[str | None, ...] = ()


class AuthConfig(Strict, frozen=True, kw_only=True):
    admin_key: str | None = "${GATEWAY_ADMIN_KEY}"
    anonymous: Literal["loopback", "deny"] = "loopback"


class PoliciesConfig(Strict, frozen=True, kw_only=True):
    dir: str | None = None
    default: str = "default"


class RouterConfig(Strict, frozen=True, kw_only=True):
    """``artefact``: what ``gateway router train --from-ledger`` has written, relative to this file."""

    artefact: str | None = None


class HelperPriceConfig(Strict, frozen=True, kw_only=True):
    """What a hosted embedder or cross-encoder costs: USD per million tokens, and per call."""

    input: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    per_request: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class EmbedderConfig(Strict, frozen=True, kw_only=True):
    """``model``: a catalog name, served by this machine; ``url``: any OpenAI-compatible /v1 base instead, at ``price``
    (None: that of the price map where it is OpenAI's own, else not known).
    """

    model: str = "all-MiniLM-L6-v2"
    url: str | None = None
    api_key: str | None = None
    price: HelperPriceConfig | None = None
    enabled: bool = True


class JudgeConfig(Strict, frozen=True, kw_only=True):
    """``model``: asked whether two answers say the same; ``usd_per_day``: what that may cost a UTC day."""

    model: str
    usd_per_day: Annotated[float, msgspec.Meta(ge=0)] = 0.5


class CrossEncoderConfig(Strict, frozen=True, kw_only=True):
    """``model``: a folder, or one of that name in models_dir, served by the embedding process; with ``url`` (any /v1
    base that has /rerank), upstream's name, and its ``price``. Asked where the verifier says ``low`` to ``high``, for
    ``timeout_ms``.
    """

    model: str
    url: str | None = None
    api_key: str | None = None
    price: HelperPriceConfig | None = None
    low: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    high: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.995
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)] = 100.0


class CacheConfig(Strict, frozen=True, kw_only=True):
    """``verifier``: a file that ``gateway cache train`` wrote, relative to gateway.yaml; None: the shipped one.
    ``judge``: None: answers are compared by their numbers, names and embeddings alone. ``cross_encoder``: None: of two
    questions the verifier says the last word.
    """

    verifier: str | None = None
    judge: JudgeConfig | None = None
    cross_encoder: CrossEncoderConfig | None = None


class RatesConfig(Strict, frozen=True, kw_only=True):
    """USD per million tokens of each class; what is left out costs what the class it is a part of costs."""

    input: float | None = None
    output: float | None = None
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float | None = None


class TierConfig(RatesConfig, frozen=True, kw_only=True):
    """Prices of a service tier; ``above``: by prompt length, as in PriceConfig."""

    above: dict[int, RatesConfig] = {}


class TiersConfig(Strict, frozen=True, kw_only=True):
    """What a model costs in service tiers other than the standard one."""

    batch: TierConfig | None = None
    flex: TierConfig | None = None
    priority: TierConfig | None = None


class PriceConfig(TierConfig, frozen=True, kw_only=True):
    """A price as written by whoever runs this gateway.

    ``above``: prompt tokens above which the whole request costs these prices. ``since`` (``from`` in the file): the
    first day it holds. ``per_request`` and ``per_second`` (of the call): USD.
    """

    input: float
    output: float
    per_request: float = 0.0
    per_second: float = 0.0
    tiers: TiersConfig = TiersConfig()
    since: date | None = msgspec.field(default=None, name="from")


class EngineConfig(Strict, frozen=True, kw_only=True):
    """How a local model's chat process runs; 0: chosen there by what the machine has. ``idle_unload`` in seconds;
    ``keep_bytes``: what conversations may take on disk, 0: none are kept there.
    """

    slots: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    context: Annotated[int, msgspec.Meta(ge=0)] = 0
    default_max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] = 0
    max_queue: Annotated[int, msgspec.Meta(ge=1)] = 32
    load: Literal["eager", "lazy"] = "eager"
    idle_unload: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class ModelConfig(Strict, frozen=True, kw_only=True):
    """One target. ``local`` names a catalog model (``url``: where it is served, if not by this supervisor);
    else ``provider`` says how to reach it. Several ``base_url``: equal servers of one model. ``knowledge_cutoff``: the
    day its training data ends.
    """

    name: str
    local: str | None = None
    url: str | None = None
    provider: Literal["openai", "openai_compatible", "litellm"] | None = None
    upstream_model: str | None = None
    base_url: str | tuple[str, ...] | None = None
    api_key: str | None = None
    price: PriceConfig | tuple[PriceConfig, ...] | None = None
    usd_per_hour: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    engine: EngineConfig = EngineConfig()
    context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    knowledge_cutoff: date | None = None
    supports: tuple[Literal["tools", "vision", "json"], ...] | None = None
    connect_timeout: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    first_byte_timeout: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    max_retries: Annotated[int, msgspec.Meta(ge=0)] = 2

    @property
    def is_local(self) -> bool:
        return self.local is not None

    @property
    def kind(self) -> Provider:
        return "local" if self.is_local else (self.provider or "openai")

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Where its servers are; empty where the provider is known by its name."""
        given = self.base_url or ()
        return (given,) if isinstance(given, str) else given

    @property
    def prices(self) -> tuple[PriceConfig, ...]:
        """The prices written for this model, as they stand in the file."""
        given = self.price or ()
        return given if isinstance(given, tuple) else (given,)

    @property
    def upstream_name(self) -> str:
        """The model name upstream knows."""
        return self.upstream_model or self.local or self.name


class EmailConfig(Strict, frozen=True, kw_only=True):
    """A mail server, and who is written to."""

    host: str
    to: tuple[str, ...]
    sender: str = "farthing@localhost"
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: str | None = None


class AlertsConfig(Strict, frozen=True, kw_only=True):
    """Whom to tell and when. ``budgets``: shares of a budget; ``spike``: times the average hour; see docs/alerts.md."""

    webhook: str | None = None
    email: EmailConfig | None = None
    budgets: tuple[float, ...] = (0.8, 1.0)
    month_usd: float | None = None
    spike: float = 4.0
    spike_usd: float = 1.0
    error_rate: float = 0.2
    repeat_hours: float = 24.0


class ProbesConfig(Strict, frozen=True, kw_only=True):
    """Golden prompts: which ``targets`` are asked them, how often, and what that may cost a UTC day, all together."""

    targets: tuple[str, ...] = ()
    every_hours: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    usd_per_day: Annotated[float, msgspec.Meta(ge=0)] = 0.05


class MonitoringConfig(Strict, frozen=True, kw_only=True):
    """When routing no longer fits: the last day against the week before. ``requests`` and ``labels``: the least of each
    that a figure is told of; see docs/monitoring.md.
    """

    psi: float = 0.25
    calibration_error: float = 0.15
    escalation_rate: float = 0.5
    regret: float = 0.15
    requests: Annotated[int, msgspec.Meta(ge=1)] = 500
    labels: Annotated[int, msgspec.Meta(ge=1)] = 100


class TelemetryConfig(Strict, frozen=True, kw_only=True):
    """``otlp``: base URL of an OTLP/HTTP collector; ``content``: prompts and answers in traces, unless local-only."""

    otlp: str | None = None
    content: bool = False


class GatewayConfig(Strict, frozen=True, kw_only=True):
    server: ServerConfig = ServerConfig()
    data_dir: str = "~/.local/share/farthing"
    models_dir: str = "~/.local/share/farthing/models"
    redis: RedisConfig = RedisConfig()
    ledger: LedgerConfig = LedgerConfig()
    auth: AuthConfig = AuthConfig()
    policies: PoliciesConfig = PoliciesConfig()
    router: RouterConfig = RouterConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    cache: CacheConfig = CacheConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    alerts: AlertsConfig = AlertsConfig()
    probes: ProbesConfig = ProbesConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    plan_price: float | None = None
    models: tuple[ModelConfig, ...] = ()


DEFAULT_MODELS = (
    ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.04),
    ModelConfig(name="gpt-4o-mini", provider="openai", api_key="${OPENAI_API_KEY}"),
    ModelConfig(
        name="claude",
        provider="litellm",
        upstream_model="anthropic/claude-sonnet-4-5",
        api_key="${ANTHROPIC_API_KEY}",
    ),
)


class Settings(Strict, frozen=True, kw_only=True):
    """A read configuration: every path absolute, every ``${NAME}`` filled in (None where the variable is unset).

    ``keyless``: models whose ``api_key`` is written as a variable that is unset.
    """

    config: GatewayConfig
    file: str
    data_dir: Path
    models_dir: Path
    policies_dir: Path
    router_artefact: Path | None = None
    verifier: Path | None = None
    keyless: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def model(self, name: str) -> ModelConfig | None:
        for model in self.config.models:
            if model.name == name:
                return model
        return None


def load(path: str | Path | None = None, env: dict[str, str] | None = None) -> Settings:
    """Read ``path`` (or ``$GATEWAY_CONFIG``, or the defaults where there is neither).

    Raises:
        ConfigError: with file, line, path and reason.
    """
    env = dict(os.environ) if env is None else env
    chosen = path or env.get("GATEWAY_CONFIG")
    if not chosen:
        return _settings(GatewayConfig(models=DEFAULT_MODELS), "", env, ())
    file = Path(chosen).expanduser().resolve()
    document = Document.read(file)
    config = document.convert(GatewayConfig, document.value or {})
    check(config, document, known={model.name for model in config.models or DEFAULT_MODELS})
    if not config.models:
        config = msgspec.structs.replace(config, models=DEFAULT_MODELS)
    return _settings(config, str(file), env, tuple(written_secrets(document.value or {}, document)))


def _settings(config: GatewayConfig, file: str, env: dict[str, str], warnings: tuple[str, ...]) -> Settings:
    filled: GatewayConfig = msgspec.convert(_fill(msgspec.to_builtins(config), env), GatewayConfig)
    base = Path(file).parent if file else Path.cwd()
    policies = filled.policies.dir or ("policies" if (base / "policies").is_dir() else None)
    return Settings(
        config=filled,
        file=file,
        data_dir=_absolute(env.get("GATEWAY_DATA_DIR") or filled.data_dir, base),
        models_dir=_absolute(env.get("GATEWAY_MODELS_DIR") or filled.models_dir, base),
        policies_dir=_absolute(policies, base) if policies else packaged_policies(),
        router_artefact=_absolute(filled.router.artefact, base) if filled.router.artefact else None,
        verifier=_absolute(filled.cache.verifier, base) if filled.cache.verifier else None,
        keyless=tuple(
            written.name
            for written, model in zip(config.models, filled.models, strict=True)
            if written.api_key and not model.api_key
        ),
        warnings=warnings,
    )


def packaged_policies() -> Path:
    """The policies that come with the package: beside it in a checkout, a package of data where it is installed."""
    beside = Path(__file__).resolve().parents[1] / "policies"
    if (beside / "default.yaml").is_file():
        return beside
    spec = importlib.util.find_spec("farthing_policies")
    found = spec.submodule_search_locations if spec else None
    if not found:
        raise ConfigError("the packaged policies are missing: install farthing-gateway again, or set policies.dir")
    return Path(next(iter(found)))


def _absolute(path: str, base: Path) -> Path:
    return (base / Path(path).expanduser()).resolve()


def _fill(value: Any, env: dict[str, str]) -> Any:
    """Replace ``${NAME}``; a string that is nothing but an unset variable becomes None."""
    if isinstance(value, dict):
        return {key: _fill(item, env) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, env) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = VARIABLE.fullmatch(value)
    if whole:
        return env.get(whole["name"]) or None
    return VARIABLE.sub(lambda found: env.get(found["name"], ""), value)


def is_loopback(host: str) -> bool:
    """Whether a bind address or peer is this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_admin_key(settings: Settings) -> None:
    """A bind beyond loopback without an admin key refuses to start.

    Raises:
        ConfigError
    """
    if not is_loopback(settings.config.server.host) and not settings.config.auth.admin_key:
        raise ConfigError(
            f"server.host {settings.config.server.host} is reachable from other machines: "
            "set auth.admin_key (or GATEWAY_ADMIN_KEY) first",
            file=settings.file,
        )


def runtime_dir(data_dir: Path) -> Path:
    """The 0700 folder of this data folder's sockets, short enough for macOS (a socket path ends at 104 bytes)."""
    import hashlib
    import tempfile

    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())
    return Path(base) / f"farthing-{os.getuid()}-{digest}"


def socket_path(data_dir: Path, part: str) -> Path:
    """Where a part listens: ``redis``, ``embed``, ``chat-<catalog model>`` (or ``chat-hf:owner/repo/file``)."""
    import hashlib

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", part)
    if name != part or len(name) > _LONGEST_PART:
        name = f"{name[:_LONGEST_PART]}-{hashlib.sha256(part.encode()).hexdigest()[:8]}"
    return runtime_dir(data_dir) / f"{name}.sock"
