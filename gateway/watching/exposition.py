"""What is watched, for Prometheus: the same on every worker, since it is read from Redis. Labels are bounded: targets
are those that are configured, and mixes those that are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.watching.drift import Report
from gateway.watching.probes import Target


class _Watched(Collector):
    def __init__(self, targets: Sequence[Target], told: Report | None) -> None:
        self._targets, self._told = targets, told

    def collect(self) -> Iterator[Metric]:
        yield from _of_targets(self._targets)
        if self._told is not None:
            yield from _of_routing(self._told)


def render(targets: Sequence[Target], told: Report | None) -> bytes:
    """In Prometheus' text format. A figure that is not known is left out."""
    registry = CollectorRegistry()
    registry.register(_Watched(targets, told))
    return generate_latest(registry)


def _of_targets(targets: Sequence[Target]) -> Iterator[Metric]:
    rounds = GaugeMetricFamily(
        "gateway_probe_rounds", "Rounds of golden prompts since the last change.", labels=["model"]
    )
    changes = CounterMetricFamily(
        "gateway_probe_changes", "Times that a target was found to answer as another model.", labels=["model"]
    )
    evidence = GaugeMetricFamily("gateway_probe_evidence", "Of a change; 1 is an alarm.", labels=["model"])
    right = GaugeMetricFamily("gateway_probe_right", "Share of right answers in the last round.", labels=["model"])
    asked = GaugeMetricFamily(
        "gateway_probe_last_timestamp_seconds", "When the last round was asked; 0: never.", labels=["model"]
    )
    for target in targets:
        labels = [target.name]
        rounds.add_metric(labels, target.rounds)
        changes.add_metric(labels, target.changes)
        evidence.add_metric(labels, target.evidence)
        asked.add_metric(labels, target.last_ms / 1000)
        if target.last is not None:
            right.add_metric(labels, target.last.right)
    yield from (rounds, changes, evidence, right, asked)


def _of_routing(told: Report) -> Iterator[Metric]:
    psi = GaugeMetricFamily(
        "gateway_routing_psi", "How the last day's requests differ from the week before.", labels=["mix"]
    )
    for shift in told.shifts:
        if shift.psi is not None:
            psi.add_metric([shift.what], shift.psi)
    yield psi
    for name, help_, value in (
        ("calibration_error", "Predicted and observed quality of local answers.", told.calibration_error),
        ("escalation_rate", "Local tries of the last day that were given up.", told.escalation_rate),
        ("regret", "How much better hosted answers are rated than local ones.", told.regret),
    ):
        gauge = GaugeMetricFamily(f"gateway_routing_{name}", help_)
        if value is not None:
            gauge.add_metric([], value)
        yield gauge
