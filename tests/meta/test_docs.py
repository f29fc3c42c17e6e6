"""The documentation says what the code does: settings, commands, files and links."""

from __future__ import annotations

import re
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
import typer.main

from gateway import config
from gateway.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
_ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| (?:`(?P<default>[^`]+)`|(?P<words>[^|]+)) \|", re.MULTILINE)


# Prices inside a price have the keys of a price: listed once, by docs/prices.md told what they mean.
REPEATED = (config.RatesConfig, config.TiersConfig)


def settings_of(struct: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its default, as written in the table: nested structs by dots, lists by ``[]``."""
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        kind, many = _struct_in(hints[field.name])
        key = prefix + field.encode_name
        if kind in REPEATED:
            yield key, None
        elif kind is None or many or field.default is None:
            yield key, field.default
        if kind is not None and kind not in REPEATED:
            yield from settings_of(kind, f"{key}{'[]' if many else ''}.")


def _struct_in(hint: Any) -> tuple[type[Any] | None, bool]:
    if isinstance(hint, type) and issubclass(hint, config.Strict):
        return hint, False
    inner = [_struct_in(part)[0] for part in get_args(hint)]
    found = next((kind for kind in inner if kind), None)
    return found, found is not None and get_origin(hint) not in (types.UnionType, None)


def written(value: Any) -> str:
    if value is None:
        return "unset"
    if value is msgspec.NODEFAULT:
        return "required"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = {row["key"]: (row["default"] or row["words"]).strip() for row in _ROW.finditer(page)}
    known = {key: written(default) for key, default in settings_of(config.GatewayConfig) if key != "models"}
    assert rows.pop("models")
    documented = {key: value for key, value in rows.items() if key in known or "." in key}
    assert documented == known


def test_every_key_of_a_price_is_explained() -> None:
    table = (ROOT / "docs" / "prices.md").read_text().split("## Writing a price")[1].split("## Commands")[0]
    told = {key for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert told == {field.encode_name for field in msgspec.structs.fields(config.PriceConfig)}


def test_the_default_models_are_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for model in config.DEFAULT_MODELS:
        assert f"| `{model.name}` | `{'local' if model.local else 'provider'}: {model.local or model.provider}`" in page


def test_the_example_configurations_can_be_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in [*examples, (ROOT / "deploy" / "gateway.yaml").read_text()]:
        (tmp_path / "gateway.yaml").write_text(example)
        assert config.load(tmp_path / "gateway.yaml", env={}).warnings == ()


def command_lines() -> set[str]:
    """``check``, ``keys create`` …: every command there is."""
    group = typer.main.get_command(app)
    found = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {sub}" for sub in getattr(command, "commands", {})} or {name}
    return found


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert {command for command in command_lines() if f"gateway {command}" not in readme} == set()


@pytest.mark.parametrize("page", NAMES)
def test_no_page_names_a_command_that_does_not_exist(page: str) -> None:
    groups = {command.split()[0] for command in command_lines()}
    for found in re.finditer(r"`gateway (?P<first>[a-z]+)(?: (?P<second>[a-z]+))?[^`]*`", (ROOT / page).read_text()):
        assert found["first"] in groups, found[0]
        if found["first"] not in command_lines() and found["second"]:
            assert f"{found['first']} {found['second']}" in command_lines(), found[0]


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.finditer((ROOT / page).read_text()):
        if "://" not in link["target"]:
            assert ((ROOT / page).parent / link["target"]).exists(), link["target"]


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {link["target"] for link in _LINK.finditer((ROOT / "README.md").read_text())}
    assert set(NAMES) - linked == {"README.md"}


@pytest.mark.parametrize("page", NAMES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", (ROOT / page).read_text())) <= targets


def test_make_help_lists_every_target_people_type() -> None:
    reply = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"serve", "test", "check", "bench", "soak", "help"} <= set(re.findall(r"make ([a-z]+)", reply.stdout))
