"""Files to a new view: what is right is swapped in whole, what is wrong changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import reload as module
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.policy.competence import Asked
from gateway.policy.profile import SUFFIX, Profile, fingerprint, write
from gateway.reload import Reloader, build_view
from gateway.runtime import Runtime
from tests.support.gateway import EVERYTHING_BIG, write_policies
from tests.support.visits import BIG, settings
from tests.support.waiting import until

OTHER = {"name": "other", "rules": [{"name": "all", "use": ["big"]}]}


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """A worker that is not connected to anything."""
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    monkeypatch.setenv("BIG_KEY", "secret")
    metrics = Metrics()
    made = Runtime(build_view(settings(tmp_path), metrics), metrics, None)
    yield made
    await made.view.fleet.close()
    await made.redis.aclose()


@pytest.fixture
def reloader(runtime: Runtime) -> Reloader:
    return Reloader(runtime)


def rewrite(folder: Path, **sections: Any) -> None:
    """gateway.yaml with these sections changed."""
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | sections))


def rejected(runtime: Runtime) -> bytes:
    lines = runtime.metrics.render()[0].splitlines()
    return next(line for line in lines if line.startswith(b"gateway_config_rejected"))


async def test_a_right_change_is_swapped_in_whole(reloader: Reloader, runtime: Runtime, tmp_path: Path) -> None:
    before = runtime.view
    write_policies(tmp_path, [OTHER])
    rewrite(tmp_path, models=[BIG, {**BIG, "name": "second"}])
    await reloader.reload()
    assert runtime.view.policies.names == ("default", "other")
    assert runtime.view.settings.model("second") is not None
    assert runtime.view.loaded_ms >= before.loaded_ms
    assert (before.policies.names, before.settings.model("second")) == (("default",), None)
    assert reloader.error is None


async def test_an_untouched_target_keeps_its_connections_and_its_cooldown(
    reloader: Reloader, runtime: Runtime, tmp_path: Path
) -> None:
    before = runtime.view.fleet
    write_policies(tmp_path, [OTHER])
    await reloader.reload()
    assert runtime.view.fleet is not before
    assert runtime.view.fleet.unavailable("big") is None


@pytest.mark.parametrize(
    ("file", "text", "line", "reason"),
    [
        ("policies/default.yaml", "name: default\nrules:\n  - {name: a, use: [big], when: 'x ='}\n", 3, "when"),
        ("policies/default.yaml", "name: default\nruels: []\n", 2, "ruels"),
        ("policies/default.yaml", "name: [\n", 2, "YAML"),
        ("policies/default.yaml", "\xff", 0, "read"),
        ("policies/zz.yaml", "name: default\nrules: [{name: a, use: [big]}]\n", 1, "already"),
        ("gateway.yaml", "data_dir: data\nmodels:\n  - {name: big}\n", 3, "provider"),
        ("gateway.yaml", "data_dir: elsewhere\n", 0, "restart"),
    ],
)
async def test_a_wrong_file_changes_nothing_and_is_told_with_its_place(
    reloader: Reloader, runtime: Runtime, tmp_path: Path, file: str, text: str, line: int, reason: str
) -> None:
    before = runtime.view
    kept = (tmp_path / file).read_bytes() if (tmp_path / file).exists() else None
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=reason) as refused:
        await reloader.reload()
    assert refused.value.file.endswith(file)
    assert refused.value.line == line
    assert runtime.view is before
    assert str(reloader.error) == str(refused.value)
    assert rejected(runtime).endswith(b" 1.0")

    if kept is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(kept)
    await reloader.try_reload()
    assert reloader.error is None
    assert runtime.view is not before


async def test_a_policy_that_fails_a_case_is_not_taken(reloader: Reloader, runtime: Runtime, tmp_path: Path) -> None:
    before = runtime.view
    (tmp_path / "policies" / "cases").mkdir()
    (tmp_path / "policies" / "cases" / "all.yaml").write_text(
        yaml.safe_dump(
            {
                "policy": "default",
                "models": [{"name": "big", "provider": "openai"}],
                "cases": [{"name": "goes big", "request": {"prompt": "hi"}, "expect": {"rule": "nothing of the kind"}}],
            }
        )
    )
    with pytest.raises(ConfigError, match="goes big"):
        await reloader.reload()
    assert runtime.view is before


async def test_where_redis_is_changes_only_at_a_restart(reloader: Reloader, tmp_path: Path) -> None:
    rewrite(tmp_path, redis={"url": "redis://elsewhere"})
    with pytest.raises(ConfigError, match="restart"):
        await reloader.reload()


async def test_where_the_books_are_changes_only_at_a_restart(reloader: Reloader, tmp_path: Path) -> None:
    rewrite(tmp_path, ledger={"url": "postgresql+asyncpg://127.0.0.1/books"})
    with pytest.raises(ConfigError, match=r"ledger\.url.*take effect at a restart"):
        await reloader.reload()


async def test_a_bind_that_is_written_down_anew_opens_nothing_to_the_anonymous(
    reloader: Reloader, runtime: Runtime, tmp_path: Path
) -> None:
    bound = runtime.view.settings.config.server
    rewrite(tmp_path, server={"host": "127.0.0.2", "port": 9, "max_concurrent": 7})
    await reloader.reload()
    server = runtime.view.settings.config.server
    assert (server.host, server.port, server.max_concurrent) == (bound.host, bound.port, 7)


async def test_a_changed_file_is_noticed_and_a_broken_one_tried_once(
    reloader: Reloader, runtime: Runtime, tmp_path: Path
) -> None:
    watching = asyncio.create_task(reloader.watch())
    try:
        write_policies(tmp_path, [OTHER])
        await until(lambda: "other" in runtime.view.policies.names)
        (tmp_path / "policies" / "other.yaml").unlink()
        await until(lambda: "other" not in runtime.view.policies.names)
        view = runtime.view
        (tmp_path / "policies" / "default.yaml").write_text("name: [\n")
        await until(lambda: reloader.error is not None)
        error = reloader.error
        await asyncio.sleep(0.15)
        assert reloader.error is error
        assert runtime.view is view
        write_policies(tmp_path, [EVERYTHING_BIG])
        await until(lambda: reloader.error is None)
        (tmp_path / "gateway.yaml").unlink()
        await until(lambda: reloader.error is not None)
        assert not watching.done()
    finally:
        watching.cancel()


async def test_reloads_at_the_same_moment_come_one_after_the_other(reloader: Reloader, runtime: Runtime) -> None:
    await asyncio.gather(*(reloader.reload() for _ in range(4)))
    assert runtime.view.policies.names == ("default",)


@pytest.mark.parametrize("before", [False, True], ids=["after the start", "while the view was built"])
async def test_a_model_that_comes_late_is_taken_by_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """On a first start the model is still on its way while the workers read the configuration."""
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    near = {"name": "near", "local": "m", "usd_per_hour": 0.04}
    chosen = settings(tmp_path, (BIG, near), models_dir=str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    metrics = Metrics()
    runtime = Runtime(build_view(chosen, metrics), metrics, None)
    assert runtime.view.competences == {}

    def comes() -> None:
        (tmp_path / "models" / "m-Q4_0.gguf").write_bytes(b"GGUF" * 1000)
        asked = Asked.shipped()
        digest = fingerprint(tmp_path / "models" / "m-Q4_0.gguf")
        profile = Profile(file="m-Q4_0.gguf", digest=digest, questions=asked.id, right="1" * len(asked.of))
        write(profile, tmp_path / "models" / f"m{SUFFIX}")

    if before:
        comes()
    reloader = Reloader(runtime)
    watching = asyncio.create_task(reloader.watch())
    try:
        if not before:
            comes()
        await until(lambda: "near" in runtime.view.competences)
    finally:
        watching.cancel()
        await runtime.view.fleet.close()
        await runtime.redis.aclose()
