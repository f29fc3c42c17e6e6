"""What is deployed: the Dockerfile, the compose file and the systemd unit say what they promise."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway import config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PINNED = re.compile(r"^[a-z0-9./-]+:[a-z0-9.-]*[0-9][a-z0-9.-]*$")


@pytest.fixture(scope="module")
def smoke() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke", DEPLOY / "smoke.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stages(smoke: ModuleType) -> list[list[Any]]:
    return list(smoke.parse((DEPLOY / "Dockerfile").read_text()))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


def one(stage: list[Any], name: str) -> str:
    return str(next(step.rest for step in stage if step.name == name))


def test_steps_are_read_as_docker_reads_them(smoke: ModuleType) -> None:
    text = "FROM a AS b\n# a comment\nRUN one && \\\n    two\n\nFROM c\nCOPY --from=b /x /x\n"
    assert smoke.parse(text) == [
        [("FROM", "a AS b"), ("RUN", "one && two")],
        [("FROM", "c"), ("COPY", "--from=b /x /x")],
    ]


def test_every_instruction_is_one_that_docker_knows(stages: list[list[Any]]) -> None:
    known = {
        "ARG",
        "CMD",
        "COPY",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
    assert {step.name for stage in stages for step in stage} <= known


def test_the_image_is_small_unprivileged_and_watched(stages: list[list[Any]]) -> None:
    last = stages[-1]
    assert len(stages) == 2
    assert one(last, "USER") == "farthing"
    assert "g++" not in " ".join(step.rest for step in last)
    assert "/healthz" in one(last, "HEALTHCHECK")
    assert json.loads(one(last, "CMD")) == ["gateway", "serve"]
    assert all(PINNED.match(step.rest.split()[0]) for stage in stages for step in stage if step.name == "FROM")


def test_what_is_copied_is_there(stages: list[list[Any]]) -> None:
    for step in (step for stage in stages for step in stage if step.name == "COPY" and "--from" not in step.rest):
        for source in step.rest.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_what_is_installed_is_what_is_locked_and_tested(stages: list[list[Any]]) -> None:
    script = "\n".join(step.rest for step in stages[0])
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes -r requirements.lock" in script
    torch = re.search(r"torch==[0-9.]+", makefile)
    assert torch
    assert torch[0] in script
    assert f'"{torch[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_every_package_and_data_file_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"gateway": "gateway", "local_models": "local_models", "farthing_policies": "policies"}
    there = {
        ".".join(file.relative_to(ROOT).parent.parts) for name in folders for file in (ROOT / name).rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == there | {"farthing_policies"}
    for name, folder in folders.items():
        installed = {file for pattern in setuptools["package-data"][name] for file in (ROOT / folder).glob(pattern)}
        files = {file for file in (ROOT / folder).rglob("*.*") if file.is_file() and file.suffix not in (".py", ".pyc")}
        assert files - installed == set()


def test_every_locked_release_has_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / name).read_text()):
            if "==" in entry:
                assert "--hash=sha256:" in entry, entry


def test_the_configuration_of_the_image_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"GATEWAY_ADMIN_KEY": "secret", "GATEWAY_REDIS_URL": "redis://redis:6379/0"}
    settings = config.load(DEPLOY / "gateway.yaml", env=env)
    config.require_admin_key(settings)
    assert settings.config.redis.url == env["GATEWAY_REDIS_URL"]
    assert settings.config.ledger.url is None
    assert settings.warnings == ()


def test_compose_gives_the_gateway_what_its_configuration_names(services: dict[str, Any]) -> None:
    named = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "gateway.yaml").read_text()))
    assert named <= set(services["gateway"]["environment"])
    assert services["gateway"]["depends_on"].keys() <= services.keys()


def test_compose_closes_what_need_not_be_open(services: dict[str, Any]) -> None:
    assert services["gateway"]["read_only"] is True
    assert services["gateway"]["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert all(PINNED.match(service["image"]) for service in services.values() if "image" in service)
    assert "noeviction" in services["redis"]["command"]


def test_everyone_waits_longer_than_the_gateway_drains(services: dict[str, Any]) -> None:
    assert int(services["gateway"]["stop_grace_period"].removesuffix("s")) > config.ServerConfig().drain_seconds
    assert float(unit()["Service"]["TimeoutStopSec"]) > config.ServerConfig().drain_seconds


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / "farthing.service")
    return parser


def test_the_unit_stops_the_supervisor_and_not_its_parts() -> None:
    assert unit()["Service"]["KillMode"] == "mixed"
    assert unit()["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "farthing.service").read_text()
    (tmp_path / "farthing.service").write_text(text.replace("/opt/farthing/bin/gateway", "/bin/true"))
    reply = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "farthing.service")], capture_output=True, text=True
    )
    assert "farthing.service" not in reply.stderr, reply.stderr


@pytest.mark.parametrize("script", ["deploy/lock.sh", ".ci/run"])
def test_scripts_parse_and_can_be_run(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert os.access(ROOT / script, os.X_OK) or script.endswith(".sh")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("docker"), reason="no docker client here")
def test_docker_compose_accepts_the_file() -> None:
    env = os.environ | {"GATEWAY_ADMIN_KEY": "a", "POSTGRES_PASSWORD": "b"}
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker has no compose here")
    reply = subprocess.run(command, capture_output=True, text=True, env=env)
    assert reply.returncode == 0, reply.stderr
