"""Prometheus metrics of a gateway process, all of a request's from its one ledger row.

With ``PROMETHEUS_MULTIPROC_DIR`` set before the process starts (the supervisor does), ``render`` on any worker covers
all of them. A row is tallied in plain Python and reaches Prometheus' own counters (2–5 µs each where they are memory
mapped) within ``FLUSH_S``. Labels are bounded: models and rules come from configuration, the rest from
:mod:`gateway.types`; whatever else turns up counts as ``other``. Own names begin with ``gateway_``; duration and time
to first token stand once more under OpenTelemetry's names for generative AI, from the same numbers.
"""

from __future__ import annotations

import asyncio
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.types import NANO, CacheTier, LedgerEntry, Status, Where

FLUSH_S = 0.25
OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_OVERHEAD = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)
_KINDS = ("prompt", "completion", "cached", "cache_write", "reasoning")
_OWN_RULES = ("pinned", "cache", "embeddings", "moderations")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_CODES_MAX = 60
_SERIES_MAX = 5000
_ENUMS = (get_args(CacheTier), get_args(Where), get_args(Status))
_OTEL = {
    "gateway_request_duration_seconds": "gen_ai_server_request_duration_seconds",
    "gateway_time_to_first_token_seconds": "gen_ai_server_time_to_first_token_seconds",
}
_OTEL_LABELS = {"model": "gen_ai_request_model", "served": "gateway_served"}

_Names = tuple[str, str, str, str, str]


class _Distribution:
    """Observations on their way into a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts: dict[int, int] = {}
        self.total = 0.0

    def add(self, value: float) -> None:
        index = bisect_left(self.bounds, value)
        self.counts[index] = self.counts.get(index, 0) + 1
        self.total += value

    def flush(self, into: Histogram) -> None:
        # ``observe`` takes one value a call; the parts it adds to are the same in every release since 0.4.
        if self.counts:
            for index, count in self.counts.items():
                into._buckets[index].inc(count)
            into._sum.inc(self.total)
            self.counts, self.total = {}, 0.0


class _Tally:
    """What was counted for one (model, rule, cache, served, status) since the last flush."""

    __slots__ = ("cost", "duration", "input", "names", "output", "requests", "retries", "saved", "tokens", "ttft")

    def __init__(self, names: _Names) -> None:
        self.names = names
        self.duration, self.ttft = _Distribution(_SECONDS), _Distribution(_SECONDS)
        self.input, self.output = _Distribution(_TOKENS), _Distribution(_TOKENS)
        self.clear()

    def clear(self) -> None:
        self.requests = self.retries = self.cost = self.saved = 0
        self.tokens = [0] * len(_KINDS)

    def add(self, entry: LedgerEntry) -> None:
        self.requests += 1
        self.cost += entry.cost_nano
        self.saved += entry.saved_nano
        self.duration.add(entry.duration_ms / 1000)
        if entry.ttft_ms is not None:
            self.ttft.add(entry.ttft_ms / 1000)
        tries = entry.detail.get("attempts")
        if tries:
            self.retries += len(tries) - 1
        if entry.usage_source != "none":
            self._add_tokens(entry)

    def _add_tokens(self, entry: LedgerEntry) -> None:
        self.input.add(entry.prompt_tokens)
        self.output.add(entry.completion_tokens)
        tokens = self.tokens
        tokens[0] += entry.prompt_tokens
        tokens[1] += entry.completion_tokens
        tokens[2] += entry.cached_tokens
        tokens[3] += entry.cache_write_tokens
        tokens[4] += entry.reasoning_tokens


class InFlight:
    """Requests that are being answered by this process."""

    def __init__(self, metrics: Metrics) -> None:
        self.count = 0
        self._metrics = metrics

    def inc(self) -> None:
        self.count += 1
        self._metrics.changed()

    def dec(self) -> None:
        self.count -= 1
        self._metrics.changed()


class Metrics:
    """Everything one process counts, on a registry of its own. Used from the event loop's thread only."""

    def __init__(self, models: Iterable[str] = (), rules: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self.inflight = InFlight(self)
        self._tallies: dict[_Names, _Tally] = {}
        self._by_raw: dict[_Names, _Tally] = {}
        self._overhead_waiting = _Distribution(_OVERHEAD)
        self._codes: set[str] = set()
        self._arms: set[tuple[str, str]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._make_request_metrics()
        self._make_event_metrics()
        self.configured(models, rules)

    def configured(self, models: Iterable[str], rules: Iterable[str]) -> None:
        """The names that may be labels, anew after each reload. Some are always rules: see `_OWN_RULES`."""
        self._models, self._rules = frozenset(models), frozenset((*rules, *_OWN_RULES))
        self._by_raw.clear()

    def observe(self, entry: LedgerEntry) -> None:
        """Count an admitted request from its row."""
        raw: _Names = (entry.model, entry.rule, entry.cache, entry.served, entry.status)
        tally = self._by_raw.get(raw) or self._tally(raw)
        tally.add(entry)
        self._overhead_waiting.add(entry.overhead_ms / 1000)
        if self._timer is None:
            self.changed()

    def refused(self, code: str) -> None:
        """A request was refused before it was admitted; ``code`` as in the error body."""
        known = code in self._codes or (_CODE.fullmatch(code) is not None and len(self._codes) < _CODES_MAX)
        if known:
            self._codes.add(code)
        self._refused.labels(code if known else OTHER).inc()

    def redis_away(self) -> None:
        """A call to Redis failed, and the request went on without it."""
        self._redis_away.inc()

    def cel_error(self, rule: str) -> None:
        """The ``when`` of a rule could not be evaluated."""
        self._cel_errors.labels(_bounded(rule, self._rules)).inc()

    def config_rejected(self) -> None:
        """A reload was refused; what was there before stays."""
        self._config_rejected.inc()

    def enrolled(self, experiment: str, arm: str) -> None:
        """A request is in an arm of an experiment; both names are those of the configuration."""
        self._enrolled.labels(experiment, arm).inc()

    def experiments(self, shares: Mapping[tuple[str, str], float]) -> None:
        """The share of the requests that each arm (experiment, arm) gets now; arms there are no more get nothing."""
        for names in self._arms - shares.keys():
            self._share.labels(*names).set(0.0)
        for names, share in shares.items():
            self._share.labels(*names).set(share)
        self._arms |= shares.keys()

    def changed(self) -> None:
        """See to it that what was tallied is flushed soon; at once where no event loop runs."""
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Hand what was tallied to Prometheus; also to be called when the process ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._in_flight.set(self.inflight.count)
        self._overhead_waiting.flush(self._overhead)
        for tally in self._tallies.values():
            if tally.requests:
                self._flush(tally)
                tally.clear()

    def render(self) -> tuple[bytes, str]:
        """The exposition of all processes and its content type."""
        self.flush()
        shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        source: Collector = MultiProcessCollector(None) if shared else self.registry  # type: ignore[no-untyped-call]
        shown = CollectorRegistry()
        shown.register(_WithOtelNames(source))
        return generate_latest(shown), CONTENT_TYPE_LATEST

    def _tally(self, raw: _Names) -> _Tally:
        """The tally of a row's names once these are bounded; only what is known word for word is remembered."""
        names: _Names = (
            _bounded(raw[0], self._models),
            _bounded(raw[1], self._rules),
            *(_bounded(value, known) for value, known in zip(raw[2:], _ENUMS, strict=True)),
        )  # type: ignore[assignment]
        if names not in self._tallies and len(self._tallies) >= _SERIES_MAX:
            names = (OTHER,) * 5
        tally = self._tallies.get(names)
        if tally is None:
            tally = self._tallies[names] = _Tally(names)
        if OTHER not in names:
            self._by_raw[raw] = tally
        return tally

    def _flush(self, tally: _Tally) -> None:
        model, served = tally.names[0], tally.names[3]
        self._requests.labels(*tally.names).inc(tally.requests)
        self._cost.labels(model).inc(max(0, tally.cost) / NANO)
        self._saved.labels(model).inc(tally.saved / NANO)
        self._retries.labels(model).inc(max(0, tally.retries))
        for kind, count in zip(_KINDS, tally.tokens, strict=True):
            if count:
                self._tokens.labels(model, kind).inc(count)
        tally.duration.flush(self._duration.labels(model, served))
        tally.ttft.flush(self._ttft.labels(model, served))
        tally.input.flush(self._usage.labels("input", model))
        tally.output.flush(self._usage.labels("output", model))

    def _make_request_metrics(self) -> None:
        to = self.registry
        labels = ("model", "rule", "cache", "served", "status")
        self._requests = Counter("gateway_requests", "Admitted requests.", labels, registry=to)
        self._tokens = Counter("gateway_tokens", "Tokens by kind.", ("model", "kind"), registry=to)
        self._cost = Counter("gateway_cost_usd", "What was spent, in US dollars.", ("model",), registry=to)
        # A gauge: a dearer answer than the baseline's takes back some of what was saved.
        self._saved = Gauge(
            "gateway_saved_usd_total",
            "What the baseline would have cost, less what was spent, in US dollars.",
            ("model",),
            registry=to,
            multiprocess_mode="sum",
        )
        self._retries = Counter("gateway_retries", "Upstream calls beyond the first.", ("model",), registry=to)
        self._duration = Histogram(
            "gateway_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ("model", "served"),
            registry=to,
            buckets=_SECONDS,
        )
        self._ttft = Histogram(
            "gateway_time_to_first_token_seconds",
            "From the request's first byte to the answer's first.",
            ("model", "served"),
            registry=to,
            buckets=_SECONDS,
        )
        self._overhead = Histogram(
            "gateway_overhead_seconds", "Time spent in the gateway itself.", registry=to, buckets=_OVERHEAD
        )
        self._usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request (OpenTelemetry gen_ai.client.token.usage).",
            ("gen_ai_token_type", "gen_ai_request_model"),
            registry=to,
            buckets=_TOKENS,
        )

    def _make_event_metrics(self) -> None:
        to = self.registry
        self._in_flight = Gauge(
            "gateway_in_flight", "Requests being answered.", registry=to, multiprocess_mode="livesum"
        )
        self._refused = Counter("gateway_refused", "Requests refused before admission.", ("code",), registry=to)
        self._redis_away = Counter("gateway_redis_away", "Calls that Redis did not answer.", registry=to)
        self._cel_errors = Counter("gateway_cel_errors", "Rules that failed to evaluate.", ("rule",), registry=to)
        arm = ("experiment", "arm")
        self._enrolled = Counter("gateway_experiment_requests", "Requests in an experiment.", arm, registry=to)
        self._share = Gauge(
            "gateway_experiment_share",
            "The share of its policy's requests that an arm gets now: 0 once it was stopped.",
            arm,
            registry=to,
            multiprocess_mode="livemin",
        )
        self._config_rejected = Counter("gateway_config_rejected", "Reloads that were refused.", registry=to)


class _WithOtelNames(Collector):
    """A collector's metrics, and those that have one once more under OpenTelemetry's name."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for metric in self._source.collect():
            yield metric
            if name := _OTEL.get(metric.name):
                yield _renamed(metric, name)


def _renamed(metric: Metric, name: str) -> Metric:
    renamed = Metric(name, metric.documentation, metric.type)
    for sample in metric.samples:
        labels = {_OTEL_LABELS.get(label, label): value for label, value in sample.labels.items()}
        renamed.add_sample(name + sample.name.removeprefix(metric.name), labels, sample.value)
    return renamed


def _bounded(name: str, known: Iterable[str]) -> str:
    if not name:
        return "none"
    return name if name in known else OTHER
