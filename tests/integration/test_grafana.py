"""Dashboards and alert rules ask for metrics that a running worker exports, with labels that those have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway import gateway, hosted
from tests.support.upstream import Plan, Upstream

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
_METRIC = re.compile(r"\b(?:gateway|gen_ai_client|gen_ai_server)_[a-z_]+")
_SELECTOR = re.compile(r"(?P<metric>\b(?:gateway|gen_ai_client|gen_ai_server)_[a-z_]+)\{(?P<labels>[^}]*)\}")
_BY = re.compile(r"by \((?P<labels>[^)]*)\) \((?:rate|increase|delta)\((?P<metric>[a-z_]+)")


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


@pytest.fixture
async def exported(tmp_path: Path, upstream: Upstream) -> dict[str, set[str]]:
    """The samples of a worker that has served, refused and retried: their names, with the labels they have."""
    target = hosted("big", upstream.base_url, max_retries=1)
    async with gateway(tmp_path, [target]) as running:
        upstream.enqueue(Plan(status=500), Plan())
        assert (await running.chat("hello")).status_code == 200
        assert (await running.chat("hello", key="fg-unknown")).status_code == 401
        await running.rows(1)
        runtime = running.runtime
        runtime.metrics.cel_error("all")
        text = (await running.admin("GET", "/metrics")).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_every_metric_that_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    asked = {(where, name) for where, text in expressions() for name in _METRIC.findall(text)}
    assert len(asked) > 20
    assert {(where, name) for where, name in asked if name not in exported} == set()


async def test_every_label_that_is_asked_for_exists(exported: dict[str, set[str]]) -> None:
    wrong = []
    for where, text in expressions():
        pairs = [(found["metric"], re.findall(r"(\w+)\s*[=!]", found["labels"])) for found in _SELECTOR.finditer(text)]
        pairs += [(found["metric"], re.findall(r"\w+", found["labels"])) for found in _BY.finditer(text)]
        wrong += [
            (where, metric, label) for metric, labels in pairs for label in labels if label not in exported[metric]
        ]
    assert wrong == []


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
