"""What `/metrics` says about the engine: `gen_ai_*` where OpenTelemetry's conventions have a name, else `engine_*`.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from local_models.chat.schedule import LANES, Lane

if TYPE_CHECKING:
    from local_models.chat.engine import Load
    from local_models.chat.task import Task

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """A registry of its own; `render` gives Prometheus' text."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by_lane = ("lane",)

        def seconds(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, by_lane, registry=registry, buckets=buckets)

        self._first = seconds("gen_ai_server_time_to_first_token_seconds", "From arrival to the first token")
        self._between = seconds(
            "gen_ai_server_time_per_output_token_seconds", "Between one token and the next", _TOKEN_SECONDS
        )
        self._whole = seconds("gen_ai_server_request_duration_seconds", "From arrival to the last token")
        self._queued = seconds("engine_queue_seconds", "From arrival to a slot")
        self._requests = Counter(
            "engine_requests", "Requests by how they ended", (*by_lane, "outcome"), registry=registry
        )
        self._tokens = Counter(
            "engine_tokens", "Tokens of prompts, computed and reused, and of answers", ("kind",), registry=registry
        )
        self._drafts = Counter("engine_draft_tokens", "Drafted tokens", ("outcome",), registry=registry)
        self._busy = Counter("engine_busy_seconds", "Time spent on steps", registry=registry)
        self._steps = Counter("engine_steps", "Steps computed", registry=registry)
        self._slots = Gauge("engine_slots", "Slots", ("state",), registry=registry)
        self._waiting = Gauge("engine_waiting_requests", "Requests waiting for a slot", by_lane, registry=registry)
        self._cells = Gauge(
            "engine_kv_cells", "KV cells; used counts those that are shared", ("state",), registry=registry
        )
        self._wait = Gauge("engine_predicted_wait_seconds", "Until one more request has a slot", registry=registry)
        self._rate = Gauge("engine_predicted_tokens_per_second", "What one more stream would get", registry=registry)
        self._loaded = Gauge("engine_load_seconds", "How long the last load of the model took", registry=registry)

    def loaded(self, seconds: float) -> None:
        """The model is there."""
        self._loaded.set(seconds)

    def refused(self, lane: Lane) -> None:
        """A request got a 503."""
        self._requests.labels(lane, "refused").inc()

    def started(self, lane: Lane, waited: float) -> None:
        """A request got a slot after so many seconds."""
        self._queued.labels(lane).observe(waited)

    def drew(self, task: Task, tokens: int, now: float) -> None:
        """A task drew tokens in the step that ends now."""
        if not task.first_at:
            task.first_at = now
            self._first.labels(task.lane).observe(now - task.queued_at)
            self._tokens.labels("prompt_cached").inc(task.cached)
            self._tokens.labels("prompt_computed").inc(len(task.generation.prompt) - task.cached)
        else:
            for _ in range(tokens):
                self._between.labels(task.lane).observe((now - task.last_at) / tokens)
        task.last_at = now
        self._tokens.labels("completion").inc(tokens)

    def drafted(self, drafted: int, accepted: int) -> None:
        """A draft was checked."""
        self._drafts.labels("accepted").inc(accepted)
        self._drafts.labels("rejected").inc(drafted - accepted)

    def stepped(self, seconds: float) -> None:
        """A step was computed."""
        self._steps.inc()
        self._busy.inc(seconds)

    def finished(self, task: Task, now: float) -> None:
        """A request was answered."""
        self._requests.labels(task.lane, "finished").inc()
        self._whole.labels(task.lane).observe(now - task.queued_at)

    def cancelled(self, lane: Lane) -> None:
        """A running request's client left."""
        self._requests.labels(lane, "cancelled").inc()

    def failed(self, lane: Lane) -> None:
        """A request broke off."""
        self._requests.labels(lane, "failed").inc()

    def render(self, load: Load | None) -> bytes:
        """Prometheus' text, with the gauges as `load` has them; None: no model is loaded."""
        if load:
            busy = sum(load.running.values())
            self._slots.labels("busy").set(busy)
            self._slots.labels("free").set(load.slots - busy)
            for lane in LANES:
                self._waiting.labels(lane).set(load.waiting[lane])
            self._cells.labels("used").set(load.kv_cells_used)
            self._cells.labels("total").set(load.kv_cells)
            self._wait.set(load.predicted_wait_seconds)
            self._rate.set(load.tokens_per_second)
        return bytes(generate_latest(self._registry))
