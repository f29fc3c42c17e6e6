"""What deploy/k8s promises: every name in it leads somewhere, and what it starts, starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from gateway import config
from local_models.chat.metrics import Metrics
from tests.support import models

K8S = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((K8S / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    each for name in KUSTOMIZATION["resources"] for each in yaml.safe_load_all((K8S / name).read_text())
]
SECRETS = set(re.findall(r"--from-literal=(\w+)", (K8S / "kustomization.yaml").read_text()))


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [each for each in OBJECTS if each["kind"] in kinds]


WORKLOADS = {each["metadata"]["name"]: each["spec"] for each in of_kind("Deployment", "StatefulSet")}
SERVICES = {each["metadata"]["name"]: each["spec"] for each in of_kind("Service")}


def container(workload: str) -> dict[str, Any]:
    [only] = WORKLOADS[workload]["template"]["spec"]["containers"]
    return dict(only)


def settings() -> config.Settings:
    return config.load(K8S / "config.yaml", env=environment())


def environment() -> dict[str, str]:
    """As the kubelet makes it: a variable in a value is filled in where it stands before it."""
    made: dict[str, str] = {}
    for each in container("gateway")["env"]:
        value = each.get("value", "hunter2")
        made[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: made.get(found[1], found[0]), value)
    return {**dict.fromkeys(SECRETS, "hunter2"), **made}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        yield from itertools.chain.from_iterable(map(walk, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(walk, value))


def test_every_file_is_used() -> None:
    used = {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    used |= {each.partition("=")[2] for made in KUSTOMIZATION["configMapGenerator"] for each in made["files"]}
    assert {file.name for file in K8S.glob("*.yaml")} == used


def test_the_gateway_gets_all_that_its_configuration_names() -> None:
    named = set(re.findall(r"\$\{(\w+)\}", (K8S / "config.yaml").read_text()))
    assert named <= environment().keys()
    found = settings()
    config.require_admin_key(found)
    assert found.warnings == ()
    assert found.config.ledger.url == "postgresql+asyncpg://farthing:hunter2@postgres:5432/farthing"


def test_addresses_lead_to_services_and_services_to_pods() -> None:
    local = next(model for model in settings().config.models if model.is_local)
    for url in (settings().config.redis.url, settings().config.ledger.url, local.url):
        parts = urlsplit(str(url))
        assert parts.port in {port["port"] for port in SERVICES[str(parts.hostname)]["ports"]}
    for service in SERVICES.values():
        [workload] = [each for each in WORKLOADS if WORKLOADS[each]["selector"]["matchLabels"] == service["selector"]]
        assert WORKLOADS[workload]["template"]["metadata"]["labels"] == service["selector"]
        assert {port["targetPort"] for port in service["ports"]} == {
            each["name"] for each in container(workload)["ports"]
        }


def test_references_name_what_is_there() -> None:
    maps = {made["name"] for made in KUSTOMIZATION["configMapGenerator"]}
    for each in itertools.chain.from_iterable(map(walk, OBJECTS)):
        if "secretKeyRef" in each:
            assert each["secretKeyRef"]["key"] in SECRETS
        if "configMap" in each:
            assert each["configMap"]["name"] in maps
        if "scaleTargetRef" in each:
            assert each["scaleTargetRef"]["name"] in WORKLOADS
    for spec in WORKLOADS.values():
        pod, [only] = spec["template"]["spec"], spec["template"]["spec"]["containers"]
        volumes = {each["name"] for each in pod.get("volumes", [])}
        volumes |= {each["metadata"]["name"] for each in spec.get("volumeClaimTemplates", [])}
        assert {each["name"] for each in only["volumeMounts"]} == volumes
        ports = {each["name"] for each in only["ports"]}
        probes = [only[name] for name in only if name.endswith("Probe")]
        assert {each[how]["port"] for each in probes for how in ("httpGet", "tcpSocket") if how in each} <= ports


@pytest.mark.parametrize("name", WORKLOADS)
def test_nothing_runs_as_root_or_without_bounds(name: str) -> None:
    pod, only = WORKLOADS[name]["template"]["spec"], container(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert only["resources"]["limits"]["memory"]
    assert only["image"] == "farthing" or re.search(r":[^:]*\d", only["image"])


def test_a_pod_has_time_to_drain() -> None:
    pod = WORKLOADS["gateway"]["template"]["spec"]
    leaving = float(container("gateway")["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > leaving + settings().config.server.drain_seconds


def test_the_engine_starts_as_written_and_scales_by_a_metric_it_has() -> None:
    arguments = dict(each.removeprefix("--").split("=", 1) for each in container("engine")["args"])
    model = settings().config.models[0]
    assert arguments["name"] == model.local
    assert Path(arguments["model"]).name == models.chat_model().name
    here = {**arguments, "model": str(models.chat_model()), "host": "127.0.0.1"}
    del here["port"]
    command = container("engine")["command"][-1]
    with models.served(command, *(f"--{name}={value}" for name, value in here.items())) as url:
        assert httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == model.local
    scaled = yaml.safe_load((K8S / "keda" / "engine.yaml").read_text())["spec"]
    assert scaled["scaleTargetRef"]["name"] in WORKLOADS
    [trigger] = scaled["triggers"]
    [metric] = re.findall(r"\b(engine_\w+)\{", trigger["metadata"]["query"])
    assert metric.encode() in Metrics().render(None)
