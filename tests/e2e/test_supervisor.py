"""``gateway serve`` as a user sees it: one command up, one Ctrl-C down, and nothing left over."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.support.pace import allowed
from tests.support.serving import (
    BACK_SECONDS,
    Serving,
    answers,
    environment,
    serving,
    until,
    write_config,
)

LOCAL = [{"name": "local-small", "local": "smollm2-135m-instruct"}]
HOSTED = [
    {"name": "far", "provider": "openai_compatible", "base_url": "http://127.0.0.1:1", "api_key": "${UPSTREAM_KEY}"}
]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Everything on: Redis, a chat model, the embedder, the background process and two workers."""
    folder = tmp_path_factory.mktemp("w")
    sections = {"models": LOCAL, "embedder": {"enabled": True}, "server": {"port": 0, "workers": 2}}
    with serving(write_config(folder, **sections)) as gateway:
        yield gateway


def small(folder: Path, **sections: object) -> Path:
    """A configuration without local models, which starts in two seconds."""
    return write_config(folder, **{"models": HOSTED, **sections})


def test_everything_is_started_and_said(whole: Serving) -> None:
    assert set(whole.children()) == {"redis", "chat", "embed", "background", "worker"}
    printed = "\n".join(whole.lines)
    for part in ("redis", "background", "chat-smollm2-135m-instruct", "embed", "worker-1", "worker-2"):
        assert f"{part} " in printed
    assert printed.count("ready in") == 6
    assert answers(whole.url, "/readyz")


def test_the_closing_block_can_be_followed(whole: Serving) -> None:
    dashboard = whole.until_line("dashboard").split()[-1]
    assert httpx.get(dashboard, timeout=60).status_code == 200
    command = whole.until_line(" try ")
    assert f"curl {whole.url}/v1/chat/completions" in command
    import subprocess

    reply = subprocess.run(["sh", "-c", command.split("try", 1)[1]], capture_output=True, text=True, check=True)
    assert "Paris" in reply.stdout


def test_sockets_and_data_are_their_owners_alone(whole: Serving) -> None:
    folders = [whole.folder / "data", *whole.folder.glob("farthing-*")]
    assert len(folders) == 2
    for folder in folders:
        assert folder.stat().st_mode & 0o077 == 0
    assert not any(path.stat().st_mode & 0o077 for path in (whole.folder / "data").rglob("*"))


def test_children_do_not_inherit_the_terminal(whole: Serving) -> None:
    assert all(os.getsid(child.pid) == child.pid for child in whole.children().values())


def test_a_second_serve_on_the_same_data_says_so(whole: Serving) -> None:
    second = Serving(whole.folder / "gateway.yaml")
    assert second.process.wait(timeout=30) == 1
    said = second.rest()
    assert f"already serving {whole.folder / 'data'}: process {whole.process.pid}, {whole.url}" in said
    assert answers(whole.url)


@pytest.mark.parametrize("part", ["chat", "embed", "background", "worker", "redis"])
def test_what_is_killed_comes_back(whole: Serving, part: str) -> None:
    victim = whole.children()[part]
    began = time.monotonic()
    victim.kill()
    whole.until_line("was killed by SIGKILL; again in 0.5 s", BACK_SECONDS)
    whole.until_line("ready in", BACK_SECONDS)
    until(lambda: answers(whole.url, "/readyz"), BACK_SECONDS)
    assert time.monotonic() - began < BACK_SECONDS
    assert not victim.is_running()


def test_the_port_stays_open_while_a_worker_restarts(tmp_path: Path) -> None:
    with serving(small(tmp_path)) as gateway:
        gateway.children()["worker"].kill()
        assert httpx.get(gateway.url + "/healthz", timeout=BACK_SECONDS).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_order_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with serving(small(tmp_path)) as gateway:
        children = list(gateway.children().values())
        assert gateway.stop(number) == 0
        assert gateway.rest().endswith("stopped")
        assert not any(child.is_running() for child in children)
        assert not answers(gateway.url)
    log = (tmp_path / "data" / "logs" / "redis.log").read_text()
    assert "Redis is now ready to exit" in log


def test_a_second_interrupt_is_at_once(tmp_path: Path) -> None:
    with serving(small(tmp_path, server={"port": 0, "drain_seconds": 120})) as gateway:
        children = gateway.children()
        children["worker"].suspend()
        gateway.process.send_signal(signal.SIGINT)
        gateway.until_line("stopping")
        began = time.monotonic()
        gateway.stop(signal.SIGINT)
        assert time.monotonic() - began < 60, "the drain is not waited for"
        assert not any(child.is_running() for child in children.values())


def test_nothing_outlives_a_killed_supervisor(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("k")
    config = write_config(folder, models=LOCAL, embedder={"enabled": True})
    gateway = Serving(config, environment(folder))
    gateway.until_ready()
    children = list(gateway.children().values())
    assert len(children) == 5
    gateway.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=BACK_SECONDS)
    assert alive == []
    assert len(gone) == 5
    with serving(small(folder), environment(folder)) as again:  # on the same data
        assert answers(again.url, "/readyz")


def test_data_survive_a_restart(tmp_path: Path) -> None:
    def client() -> redis.Redis:
        return redis.Redis(unix_socket_path=str(next(tmp_path.glob("farthing-*/redis.sock"))))

    with serving(small(tmp_path)), client() as redis_:
        redis_.set("spent", "42")
    with serving(small(tmp_path)), client() as redis_:
        assert redis_.get("spent") == b"42"


def test_a_hangup_reaches_the_workers(tmp_path: Path) -> None:
    """They read their configuration anew: a model that was added is served."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "default.yaml").write_text("name: default\nrules: [{name: all, use: [far]}]\n")
    with serving(small(tmp_path, policies={"dir": str(policies)})) as gateway:
        (policies / "second.yaml").write_text("name: second\nrules: [{name: all, use: [far]}]\n")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: "auto:second" in httpx.get(gateway.url + "/v1/models", timeout=30).text, BACK_SECONDS)
        assert gateway.process.poll() is None


def refused(config: Path, env: dict[str, str] | None = None) -> str:
    """What a start that is refused says; nothing may have been started for it."""
    gateway = Serving(config, env)
    assert gateway.process.wait(timeout=30) == 1
    assert not (config.parent / "data" / "logs").exists()
    return gateway.rest()


def test_a_bind_beyond_loopback_needs_an_admin_key(tmp_path: Path) -> None:
    assert "set auth.admin_key" in refused(small(tmp_path, server={"host": "0.0.0.0", "port": 0}))


def test_a_bad_configuration_is_refused_with_its_line(tmp_path: Path) -> None:
    config = small(tmp_path)
    config.write_text("server: {port: 0}\nsevrer: {}\n")
    assert f"{config}:2: sevrer: unknown key 'sevrer'" in refused(config)


def test_a_bad_policy_is_refused_with_its_line(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "default.yaml").write_text("name: default\nrules:\n  - {name: all, wen: 'true', use: [far]}\n")
    said = refused(small(tmp_path, policies={"dir": str(policies)}))
    assert f"{policies / 'default.yaml'}:3: " in said
    assert "unknown key 'wen'" in said


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = Serving(small(tmp_path, server={"port": port}))
        assert gateway.process.wait(timeout=30) == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in gateway.rest()


def test_a_gateway_that_cannot_answer_says_so_at_once(tmp_path: Path) -> None:
    models = [{"name": "gpt-4o-mini", "provider": "openai", "api_key": "${OPENAI_API_KEY}"}]
    (tmp_path / "policies").mkdir()
    policies = {"dir": str(tmp_path / "policies")}
    (tmp_path / "policies" / "default.yaml").write_text("name: default\nrules: [{name: all, use: [gpt-4o-mini]}]\n")
    with serving(write_config(tmp_path, models=models, policies=policies)) as gateway:
        assert "no model can answer" in gateway.until_line("not ready yet")


def test_a_model_that_cannot_be_had_holds_up_nothing(tmp_path: Path) -> None:
    models = [{"name": "bigger", "local": "qwen2.5-0.5b-instruct"}, *HOSTED]
    gateway = Serving(
        small(tmp_path, models=models), environment(tmp_path, GATEWAY_MODELS_DIR=str(tmp_path / "models"))
    )
    assert "gateway models pull qwen2.5-0.5b-instruct" in gateway.until_line("unavailable")
    gateway.until_line("Farthing answers at")
    assert gateway.stop() == 0


def test_a_redis_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "data" / "redis").mkdir(parents=True)
    (tmp_path / "data" / "redis" / "appendonly.aof").write_text("not what Redis writes\r\n")
    gateway = Serving(small(tmp_path))
    assert gateway.process.wait(timeout=60) == 1
    said = gateway.rest()
    assert "redis | " in said
    assert "Bad file format reading the append only file" in said
    assert "failed: exited with status 1, 3 times in a row" in said


def test_the_lock_of_a_dead_process_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway.lock").write_text('{"pid": 1, "url": "http://127.0.0.1:1"}')
    with serving(small(tmp_path)) as gateway:
        assert answers(gateway.url)


def test_the_worker_starts_fast_and_stays_small(tmp_path: Path) -> None:
    untraced = environment(tmp_path)
    untraced.pop("COVERAGE_PROCESS_CONFIG", None)
    with serving(small(tmp_path), untraced) as gateway:
        worker = gateway.children()["worker"]
        assert worker.memory_info().rss < 300e6
        spent = worker.cpu_times()
        assert spent.user + spent.system < allowed(2.0), "a cold start under 2 s on a quiet core"
