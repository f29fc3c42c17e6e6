"""Dashboards and alert rules ask for metrics that a running worker exports, with labels that those have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import MonitoringConfig
from gateway.runtime import Runtime
from gateway.types import HOUR_MS
from gateway.watching import drift
from gateway.watching.hours import Hour
from gateway.watching.probes import Target
from tests.support.gateway import gateway, hosted
from tests.support.loop_thread import LoopThread
from tests.support.upstream import Plan, Upstream

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
_METRIC = re.compile(r"\b(?:gateway|gen_ai_client|gen_ai_server)_[a-z_]+")
_SELECTOR = re.compile(r"(?P<metric>\b(?:gateway|gen_ai_client|gen_ai_server)_[a-z_]+)\{(?P<labels>[^}]*)\}")
_BY = re.compile(r"by \((?P<labels>[^)]*)\) \((?:rate|increase|delta)\((?P<metric>[a-z_]+)")


Exported = dict[str, dict[str, set[str]]]
"""By metric: its labels, with the values that were seen."""


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression there is, with where it stands."""
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        for variable in board["templating"]["list"]:
            yield file.name, variable["definition"]
        for panel in board["panels"]:
            yield from ((f"{file.name}: {panel['title']}", target["expr"]) for target in panel["targets"])
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        yield from ((f"alerts.yml: {rule['alert']}", rule["expr"]) for rule in group["rules"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The samples of a worker that has served, refused and retried."""
    with Upstream.in_thread() as upstream, LoopThread() as thread:
        return thread.run(_exported(tmp_path_factory.mktemp("grafana"), upstream), timeout=120)


async def _exported(folder: Path, upstream: Upstream) -> Exported:
    target = hosted("big", upstream.base_url, max_retries=1)
    async with gateway(folder, [target]) as running:
        upstream.enqueue(Plan(status=500), Plan())
        assert (await running.chat("hello")).status_code == 200
        assert (await running.chat("hello", key="fg-unknown")).status_code == 401
        await running.rows(1)
        runtime = running.runtime
        runtime.metrics.cel_error("all")
        await _watch(runtime)
        text = (await running.admin("GET", "/metrics")).text
    found: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


async def _watch(runtime: Runtime) -> None:
    """What the background process would have kept."""
    target = Target(
        name="big",
        rounds=1,
        since_ms=0,
        last_ms=0,
        evidence=0.0,
        changes=0,
        skipped="",
        usual=None,
        last=None,
        changed=None,
    )
    prefix, now = runtime.keys.prefix, drift.LATELY_HOURS * HOUR_MS
    hours = [Hour(start_ms=0, mixes={"language": {"en": 9}}), Hour(start_ms=now, mixes={"language": {"en": 9}})]
    told = drift.report(hours, now, MonitoringConfig(requests=1))
    await runtime.redis.hset(f"{prefix}probes:told", "big", msgspec.json.encode(target))
    await runtime.redis.set(f"{prefix}routing:report", msgspec.json.encode(told))


def test_every_metric_that_is_asked_for_is_exported(exported: Exported) -> None:
    asked = {(where, name) for where, text in expressions() for name in _METRIC.findall(text)}
    assert len(asked) > 20
    assert {(where, name) for where, name in asked if name not in exported} == set()


def test_every_label_that_is_asked_for_exists(exported: Exported) -> None:
    wrong = []
    for where, text in expressions():
        pairs = [(found["metric"], re.findall(r"(\w+)\s*[=!]", found["labels"])) for found in _SELECTOR.finditer(text)]
        pairs += [(found["metric"], re.findall(r"\w+", found["labels"])) for found in _BY.finditer(text)]
        wrong += [
            (where, metric, label) for metric, labels in pairs for label in labels if label not in exported[metric]
        ]
    assert wrong == []


def test_a_bucket_that_is_asked_for_is_one_there_is(exported: Exported) -> None:
    asked = [
        (found["metric"], bound)
        for _, text in expressions()
        for found in _SELECTOR.finditer(text)
        for bound in re.findall(r'\ble="([^"]+)"', found["labels"])
    ]
    assert asked
    assert [(metric, bound) for metric, bound in asked if bound not in exported[metric]["le"]] == []


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    reply = subprocess.run(["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
    assert reply.returncode == 0, reply.stdout + reply.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")
def test_promtool_accepts_what_the_dashboards_ask(tmp_path: Path) -> None:
    values = {"$__rate_interval": "5m", "$__range": "1h", "$model": ".*"}
    rules = []
    for number, (where, text) in enumerate(expressions()):
        for variable, value in values.items():
            text = text.replace(variable, value)
        if "label_values(" not in text:
            rules.append({"record": f"asked:{number}", "expr": text, "labels": {"where": where}})
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    reply = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert reply.returncode == 0, reply.stdout + reply.stderr


def test_dashboards_can_be_told_apart_and_their_panels_do_not_overlap() -> None:
    boards: list[Any] = [json.loads(file.read_text()) for file in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells
            assert panel["datasource"]["uid"] == "prometheus"


def test_compose_hands_prometheus_its_files_and_the_key() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    job = scrape["scrape_configs"][0]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in compose["services"]
    assert any(mapping.endswith(f":{port}") for mapping in compose["services"][host]["ports"])
    secret = Path(job["authorization"]["credentials_file"]).name
    assert secret in compose["services"]["prometheus"]["secrets"]
    assert compose["secrets"][secret] == {"environment": "GATEWAY_ADMIN_KEY"}
    assert all((DEPLOY / "prometheus" / name).is_file() for name in scrape["rule_files"])
    for name in ("prometheus", "grafana"):
        for volume in compose["services"][name]["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
