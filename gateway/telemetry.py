"""OpenTelemetry: one trace a request and metrics by the semantic conventions for generative AI, sent by OTLP/HTTP.

Off unless gateway.yaml (``telemetry.otlp``) or the environment (``OTEL_EXPORTER_OTLP_ENDPOINT``) says where to; then
the SDK is imported, and its own ``OTEL_*`` variables hold as everywhere. Spans are made when a request is settled, from
what was measured on its way, and sent by the SDK's own thread. Names: https://opentelemetry.io/docs/specs/semconv/gen-ai/

Nothing of a prompt or an answer is in them unless ``telemetry.content`` asks for it, and of a local-only request not
even then. Who asked (key, end user, tags) stays in the books.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.types import NANO, Attempt, LedgerEntry

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Tracer

    from gateway.config import TelemetryConfig

SCOPE = "gateway"
CLOSE_S = 3.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TOKENS = tuple(float(4**power) for power in range(14))
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_PROVIDERS = {"local": "llama_cpp", "litellm": "litellm", "cache": "gateway.cache"}

Attributes = dict[str, Any]


class Step(msgspec.Struct, frozen=True):
    """One step of the pipeline; ``began`` and ``ended`` are ``time.perf_counter()``."""

    name: str
    began: float
    ended: float
    error: str = ""


class Content(msgspec.Struct, frozen=True):
    """What was asked and answered, as JSON, for whoever wants that in traces."""

    messages: str
    answer: str


class Measured(msgspec.Struct, kw_only=True):
    """A request on its way, as far as a trace needs it. ``parent``: the client's ``traceparent`` and ``tracestate``."""

    began: float
    parent: Mapping[str, str]
    steps: list[Step] = msgspec.field(default_factory=list)
    content: Content | None = None


def wanted(config: TelemetryConfig, env: Mapping[str, str] = os.environ) -> bool:
    """Whether anything is to be exported."""
    disabled = env.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and bool(config.otlp or any(env.get(name) for name in _ENDPOINTS))


class Telemetry:
    """What one worker tells OpenTelemetry."""

    def __init__(self, traces: TracerProvider, metrics: MeterProvider, *, content: bool = False) -> None:
        self.content = content
        self._traces, self._metrics = traces, metrics
        self._tracer: Tracer = traces.get_tracer(SCOPE)
        self._make_instruments()

    @classmethod
    def start(cls, config: TelemetryConfig, worker: str) -> Telemetry:
        """Exporting from now on; ``worker`` names this process among the gateway's."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        base = config.otlp.rstrip("/") if config.otlp else None
        spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces" if base else None)
        numbers = OTLPMetricExporter(endpoint=f"{base}/v1/metrics" if base else None)
        reader = PeriodicExportingMetricReader(numbers)
        return cls.to(BatchSpanProcessor(spans), reader, worker=worker, content=config.content)

    @classmethod
    def to(cls, spans: SpanProcessor, metrics: MetricReader, *, worker: str, content: bool = False) -> Telemetry:
        """Telemetry that goes to these two."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = {"service.instance.id": worker}
        resource = Resource.create(named if _named() else named | {"service.name": "farthing"})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(spans)
        return cls(provider, MeterProvider([metrics], resource=resource, shutdown_on_exit=False), content=content)

    async def close(self) -> None:
        """Send what is waiting, for at most ``CLOSE_S``: a collector that is away holds up no restart."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._traces.shutdown()
            self._metrics.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.set)

        # Not an executor's thread: the interpreter waits for those when it exits.
        threading.Thread(target=shut_down, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), CLOSE_S)

    def request(self, entry: LedgerEntry, measured: Measured, *, local_only: bool) -> None:
        """A settled request: its trace and its measurements."""
        ended = time.perf_counter()
        self._count(entry)
        self._trace(entry, measured, ended, local_only=local_only)

    def _make_instruments(self) -> None:
        meter = self._metrics.get_meter(SCOPE)
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a request.", explicit_bucket_boundaries_advisory=_TOKENS
        )
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "From the request's first byte to the answer's last.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From the request's first byte to the answer's first.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._each = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Between two tokens of a streamed answer.",
            explicit_bucket_boundaries_advisory=_PER_TOKEN,
        )
        self._cost = meter.create_counter("gateway.cost", "{USD}", "What was spent.")
        # A dearer answer than the baseline's takes back some of what was saved.
        self._saved = meter.create_up_down_counter(
            "gateway.saved", "{USD}", "The baseline's cost, less what was spent."
        )

    def _count(self, entry: LedgerEntry) -> None:
        about = _about(entry)
        served = about | {"gateway.cache": entry.cache, "gateway.served": entry.served}
        if entry.usage_source != "none":
            self._usage.record(entry.prompt_tokens, about | {"gen_ai.token.type": "input"})
            self._usage.record(entry.completion_tokens, about | {"gen_ai.token.type": "output"})
        failed = {"error.type": _error_type(entry)} if entry.status != "ok" else {}
        self._duration.record(entry.duration_ms / 1000, served | failed)
        if entry.ttft_ms is not None and entry.status == "ok":
            self._first.record(entry.ttft_ms / 1000, served)
        if entry.tokens_per_s:
            self._each.record(1 / entry.tokens_per_s, served)
        self._cost.add(max(0, entry.cost_nano) / NANO, about)
        self._saved.add(entry.saved_nano / NANO, about)

    def _trace(self, entry: LedgerEntry, measured: Measured, ended: float, *, local_only: bool) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        clock = _Clock()
        attributes = _root_attributes(entry)
        if self.content and measured.content is not None and not local_only:
            attributes["gen_ai.input.messages"] = measured.content.messages
            attributes["gen_ai.output.messages"] = measured.content.answer
        root = self._tracer.start_span(
            f"{_operation(entry)} {entry.model or 'auto'}",
            _parent(measured.parent),
            SpanKind.SERVER,
            attributes,
            start_time=clock(measured.began),
        )
        inside = set_span_in_context(root)
        for step in measured.steps:
            span = self._tracer.start_span(step.name, inside, start_time=clock(step.began))
            if step.error:
                _fail(span, step.error)
            if step.name == "call":
                self._attempts(entry, set_span_in_context(span))
            span.end(clock(step.ended))
        if entry.status != "ok":
            _fail(root, _error_type(entry))
        root.end(clock(ended))

    def _attempts(self, entry: LedgerEntry, within: Context) -> None:
        """Each call to a target, as the client of it that this gateway is."""
        from opentelemetry.trace import SpanKind

        attempts: Iterable[Attempt] = entry.detail.get("attempts") or ()
        operation = _operation(entry)
        for attempt in attempts:
            began = attempt.started_ms * 1_000_000
            about: Attributes = {"gen_ai.operation.name": operation, "gen_ai.request.model": attempt.model}
            if attempt.status is not None:
                about["http.response.status_code"] = attempt.status
            span = self._tracer.start_span(
                f"{operation} {attempt.model}", within, SpanKind.CLIENT, about, start_time=began
            )
            if attempt.error:
                _fail(span, _code(attempt.error))
            span.end(began + int(attempt.duration_ms * 1_000_000))


class _Clock:
    """From ``time.perf_counter()`` to nanoseconds since the epoch, fixed at one moment for one trace."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - int(time.perf_counter() * 1e9)

    def __call__(self, moment: float) -> int:
        return int(moment * 1e9) + self._offset


def _named() -> bool:
    """Whether the environment names the service: that wins."""
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )


def _parent(carrier: Mapping[str, str]) -> Context | None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carrier) if carrier else None


def _fail(span: Any, error: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error)
    span.set_status(StatusCode.ERROR)


def _error_type(entry: LedgerEntry) -> str:
    return _code(entry.error) or entry.status


def _code(error: str) -> str:
    """The stable code before the colon: what follows may quote a provider, and that may quote the prompt."""
    code = error.partition(":")[0]
    return code if code.replace("_", "").isalnum() and len(code) <= 60 else "other"


def _operation(entry: LedgerEntry) -> str:
    """``chat``, unless the row says another: ``embeddings`` is the conventions' own word as well."""
    return str(entry.detail.get("operation", "chat"))


def _about(entry: LedgerEntry) -> Attributes:
    return {
        "gen_ai.operation.name": _operation(entry),
        "gen_ai.provider.name": _PROVIDERS.get(entry.provider, entry.provider or "none"),
        "gen_ai.request.model": entry.model or entry.requested_model,
    }


def _root_attributes(entry: LedgerEntry) -> Attributes:
    usage: Attributes = {}
    if entry.usage_source != "none":
        usage = {
            "gen_ai.usage.input_tokens": entry.prompt_tokens,
            "gen_ai.usage.output_tokens": entry.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": entry.cached_tokens,
            "gen_ai.usage.cache_creation.input_tokens": entry.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": entry.reasoning_tokens,
        }
    first = {} if entry.ttft_ms is None else {"gen_ai.response.time_to_first_chunk": entry.ttft_ms / 1000}
    return {
        "gen_ai.operation.name": _operation(entry),
        "gen_ai.provider.name": _PROVIDERS.get(entry.provider, entry.provider or "none"),
        "gen_ai.request.model": entry.requested_model,
        "gen_ai.response.model": entry.model,
        "gen_ai.request.stream": entry.stream,
        "http.response.status_code": entry.http_status,
        "gateway.request.id": entry.request_id,
        "gateway.policy": entry.policy,
        "gateway.route": entry.rule,
        "gateway.cache": entry.cache,
        "gateway.served": entry.served,
        "gateway.degraded": entry.degraded,
        "gateway.cost_usd": entry.cost_nano / NANO,
        "gateway.saved_usd": entry.saved_nano / NANO,
        "gateway.usage_source": entry.usage_source,
        **usage,
        **first,
    }
