"""``gateway prices`` as a user types it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import CLI, environment, write_config

MODELS = [
    {"name": "local-small", "local": "smollm2-135m-instruct", "usd_per_hour": 0.04},
    {"name": "mini", "provider": "openai", "upstream_model": "gpt-4o-mini", "api_key": "${OPENAI_API_KEY}"},
    {"name": "gem", "provider": "litellm", "upstream_model": "gemini/gemini-2.5-pro", "api_key": "${GEMINI_API_KEY}"},
]
DEAR = {"name": "dear", "provider": "openai", "upstream_model": "gpt-4o-mini", "price": {"input": 3, "output": 0.6}}
LATER = {
    "name": "later",
    "provider": "openai",
    "price": [{"input": 1, "output": 2}, {"from": "2027-01-01", "input": 3, "output": 4, "per_request": 0.01}],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, models=MODELS)


def prices(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment(config.parent, GATEWAY_CONFIG=str(config))
    return subprocess.run((*CLI, "prices", *words), capture_output=True, text=True, env=env)


def listed(config: Path, *words: str, status: int = 0) -> Any:
    reply = prices(config, *words, "--json")
    assert reply.returncode == status, reply.stdout + reply.stderr
    return json.loads(reply.stdout)


def test_show_has_every_tier_and_length(config: Path) -> None:
    shown = prices(config, "show", "gem")
    assert shown.returncode == 0
    assert "standard > 200,000" in shown.stdout
    told = listed(config, "show", "gem")
    by_place = {(row["tier"], row["above"]): row for row in told["prices"]}
    assert by_place["", 0]["input"] == "1.25"
    assert by_place["", 200_000]["output"] == "15"
    assert by_place["priority", 200_000]["input"] == "4.5"
    assert told["source"].startswith("litellm ")


def test_show_of_a_day_of_a_local_model_and_of_any_name_in_the_map(tmp_path: Path) -> None:
    config = write_config(tmp_path, models=[*MODELS, LATER])
    assert listed(config, "show", "later", "--at", "2026-12-31")["prices"][0]["input"] == "1"
    later = listed(config, "show", "later", "--at", "2027-01-01")
    assert (later["prices"][0]["input"], later["usd_per_request"], later["from"]) == ("3", "0.01", "2027-01-01")
    assert "$0.01 a request" in prices(config, "show", "later", "--at", "2027-01-01").stdout
    assert "$0.04 an hour" in prices(config, "show", "local-small").stdout
    assert listed(config, "show", "gpt-4o")["prices"][0]["output"] == "10"


def test_what_cannot_be_shown(config: Path) -> None:
    unknown = prices(config, "show", "nobody-knows-it")
    assert (unknown.returncode, "no known price on" in unknown.stderr) == (1, True)
    assert prices(config, "show", "mini", "--at", "tomorrow").returncode == 2
    assert prices(config, "diff", "--all").returncode == 2
    assert prices(config, "diff", "/nowhere.json").returncode == 1


def test_diff_of_what_is_written_and_the_map(tmp_path: Path, config: Path) -> None:
    same = prices(config, "diff")
    assert (same.returncode, same.stdout.strip()) == (0, "no differences")
    written = write_config(tmp_path, models=[*MODELS, DEAR])
    found = {row["what"]: row for row in listed(written, "diff", status=1)}
    assert (found["input"]["ours"], found["input"]["theirs"]) == ("3", "0.15")
    assert "-95%" in prices(written, "diff").stdout


def test_diff_of_the_map_and_a_newer_one(config: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.json"
    entry = {"litellm_provider": "openai", "input_cost_per_token": 3e-7, "output_cost_per_token": 6e-7}
    newer.write_text(json.dumps({"gpt-4o-mini": entry}))
    found = [(row["model"], row["what"], row["change"]) for row in listed(config, "diff", str(newer), status=1)]
    assert ("mini", "input", "+100%") in found
    assert ("gem", "output above 200,000", "gone") in found


def test_check_ends_with_1_where_something_is_wrong(tmp_path: Path, config: Path) -> None:
    assert prices(config, "check").returncode == 0
    wrong = listed(write_config(tmp_path, models=[*MODELS, DEAR]), "check", status=1)
    told = {row["model"]: row["problems"] for row in wrong}
    assert told["mini"] == []
    assert told["dear"] == ["input is $3, which litellm 1.106.2 has at $0.15"]
