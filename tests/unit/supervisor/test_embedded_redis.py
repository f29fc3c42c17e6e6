"""The embedded Redis: what it keeps, who may run it, and what happens where it cannot run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
import redis

from gateway import config
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.supervisor import embedded_redis
from gateway.supervisor.embedded_redis import running
from gateway.supervisor.errors import RedisUnavailable


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "gateway.yaml"
    file.write_text(f"data_dir: {tmp_path / 'data'}\npolicies: {{dir: {tmp_path}}}\n")
    return config.load(file, env={})


def client(settings: Settings) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(config.socket_path(settings.data_dir, "redis")), decode_responses=True)


def test_data_survive_a_restart(settings: Settings) -> None:
    with running(settings), client(settings) as redis_:
        redis_.set("spent", "42")
    with running(settings), client(settings) as redis_:
        assert redis_.get("spent") == "42"


def test_a_file_cut_off_in_the_middle_of_a_write_loses_that_write_only(settings: Settings) -> None:
    with running(settings), client(settings) as redis_:
        redis_.set("first", "kept")
        redis_.set("second", "torn")
    file = settings.data_dir / "redis" / "appendonly.aof"
    os.truncate(file, file.stat().st_size - 3)
    with running(settings), client(settings) as redis_:
        assert redis_.mget("first", "second") == ["kept", None]


def test_it_evicts_nothing_and_is_on_no_port(settings: Settings) -> None:
    with running(settings), client(settings) as redis_:
        wanted = {"maxmemory-policy": "noeviction", "port": "0", "appendfsync": "no", "save": ""}
        assert {name: redis_.config_get(name)[name] for name in wanted} == wanted


def test_it_and_its_folders_are_its_owners_alone(settings: Settings) -> None:
    with running(settings):
        socket = config.socket_path(settings.data_dir, "redis")
        for path in (settings.data_dir, socket.parent, socket):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_server_that_runs_already_is_used_and_left_running(settings: Settings) -> None:
    with running(settings), client(settings) as redis_:
        before = redis_.info("server")["process_id"]
        with running(settings):
            assert redis_.info("server")["process_id"] == before
        assert redis_.ping()


def test_a_configured_url_starts_nothing(settings: Settings) -> None:
    elsewhere = config.load(settings.file, env={})
    url = msgspec.structs.replace(elsewhere.config, redis=config.RedisConfig(url="redis://127.0.0.1:1"))
    with running(msgspec.structs.replace(elsewhere, config=url)):
        assert not settings.data_dir.exists()


def test_two_servers_never_share_a_folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs, or that a killed supervisor left behind, still holds its data."""
    monkeypatch.setattr(embedded_redis, "CLAIM_SECONDS", 0.1)
    with running(settings):
        assert embedded_redis.try_claim(settings) is None
        config.socket_path(settings.data_dir, "redis").unlink()
        with pytest.raises(RedisUnavailable, match="another redis-server"), running(settings):
            pass
    claim = embedded_redis.try_claim(settings)
    assert claim is not None
    os.close(claim)


def test_data_it_cannot_read_are_said(settings: Settings) -> None:
    embedded_redis.private_folder(settings.data_dir)
    (settings.data_dir / "redis").mkdir()
    (settings.data_dir / "redis" / "appendonly.aof").write_text("not what Redis writes\r\n")
    with pytest.raises(RedisUnavailable, match="did not start"), running(settings):
        pass


def test_a_system_redis_is_taken_where_the_wheel_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    installed = tmp_path / "redis-server"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.executable() == str(installed)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RedisUnavailable, match="install Redis"):
        embedded_redis.executable()


def test_the_wheels_own_server_runs() -> None:
    reply = subprocess.run([embedded_redis.executable(), "--version"], capture_output=True, text=True, check=True)
    assert reply.stdout.startswith("Redis server v=")


def test_a_folder_that_others_can_enter_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    embedded_redis.private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_or_someone_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ConfigError, match="no link"):
        embedded_redis.private_folder(tmp_path / "link")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="of the user that runs"):
        embedded_redis.private_folder(tmp_path)
