"""A folder of policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import DEFAULT_MODELS, Settings, load
from gateway.errors import ConfigError
from gateway.policy.loader import load_policies

MINIMAL = "name: {}\nrules:\n  - {{name: all, use: [{}]}}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "policies").mkdir()
    (tmp_path / "gateway.yaml").write_text("policies: {dir: policies}\n")
    return load(tmp_path / "gateway.yaml", env={})


def write(settings: Settings, file: str, text: str) -> None:
    path = settings.policies_dir / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_every_file_directly_in_the_folder(settings: Settings) -> None:
    write(settings, "default.yaml", MINIMAL.format("default", "claude"))
    write(settings, "b.yaml", MINIMAL.format("second", "gpt-5"))
    write(settings, "examples/c.yaml", MINIMAL.format("third", "claude"))
    write(settings, "notes.txt", "not a policy")
    found = load_policies(settings)
    assert set(found.names) == {"default", "second"}
    assert found.default == "default"
    second = found.get("second")
    assert second is not None
    assert second.label.startswith("second@")
    assert found.get("third") is None
    assert [warning for warning in found.warnings if "gpt-5" in warning]


def test_the_default_must_be_there(settings: Settings) -> None:
    write(settings, "a.yaml", MINIMAL.format("other", "claude"))
    with pytest.raises(ConfigError, match=r"no policy named 'default' \(found: other\)"):
        load_policies(settings)


def test_one_name_twice(settings: Settings) -> None:
    write(settings, "a.yaml", MINIMAL.format("default", "claude"))
    write(settings, "b.yaml", MINIMAL.format("default", "claude"))
    with pytest.raises(ConfigError, match=r"b\.yaml:1: name: policy 'default' is already defined in .*a\.yaml"):
        load_policies(settings)


def test_one_wrong_file_stops_all(settings: Settings) -> None:
    write(settings, "a.yaml", MINIMAL.format("default", "claude"))
    write(settings, "b.yaml", "name: [")
    with pytest.raises(ConfigError, match=r"b\.yaml:1"):
        load_policies(settings)


def test_the_shipped_policies_suit_the_default_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    found = load_policies(load(env={}), DEFAULT_MODELS)
    assert found.names == ("default",)
    assert found.warnings == ()
