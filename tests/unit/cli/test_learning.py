"""``gateway router calibrate`` and ``train --from-ledger``, from a ledger with votes to what is served."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.options import Problem
from gateway.config import load
from gateway.errors import ConfigError
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.metrics import Metrics
from gateway.policy.profile import SUFFIX, fingerprint, write
from gateway.reload import build_view
from gateway.types import Content, LedgerEntry, Principal
from tests.support.votes import voted
from tests.unit.policy.support import features
from tests.unit.policy.test_profile import profile

CONFIG = """
data_dir: data
models_dir: models
policies: {dir: policies}
models:
  - {name: local-small, local: smollm2-135m-instruct, usd_per_hour: 0.04}
  - {name: big, provider: openai_compatible, base_url: "http://127.0.0.1:9/v1", price: {input: 2.5, output: 10}}
"""
POLICY = """\
name: default
baseline: big
rules:
  - {name: easy, when: "difficulty < 0.35", use: [local-small, big]}
  - {name: hard, use: [big]}
"""
HOUR_MS = 3_600_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GATEWAY_DATA_DIR", "GATEWAY_MODELS_DIR", "GATEWAY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(POLICY)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    book(tmp_path, ())
    return tmp_path


def book(home: Path, rows: Iterable[LedgerEntry], contents: Iterable[Content] = ()) -> None:
    async def put() -> None:
        settings = load(home / "gateway.yaml", env={})
        settings.data_dir.mkdir(exist_ok=True)
        store = SqlStore(ledger_url(settings))
        try:
            await store.migrate()
            await store.append(list(rows))
            await store.put_contents(list(contents))
        finally:
            await store.close()

    asyncio.run(put())


def run(*arguments: str) -> Any:
    """``router`` with a command of its, or a command."""
    words = 2 if arguments[0] == "router" else 1
    return CliRunner().invoke(app, [*arguments[:words], "--config", "gateway.yaml", *arguments[words:]])


def now() -> int:
    return int(time.time() * 1000) - HOUR_MS


def traffic(count: int, *, good: Callable[[float], float], key: str = "k1", seed: int = 0) -> list[LedgerEntry]:
    """Requests of every difficulty, answered here below 0.5 and voted on; ``good``: the chance of praise."""
    draw = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        difficulty = round(float(draw.random()), 3)
        here = difficulty < 0.5
        vote = 1.0 if draw.random() < (good(difficulty) if here else 0.98) else -1.0
        model = "local-small" if here else "big"
        row = voted(f"{key}-{seed}-{n}", key=key, difficulty=difficulty, vote=vote, model=model, ts_ms=now())
        rows.append(msgspec.structs.replace(row, cost_nano=10_000 if here else 1_500_000, busy_us=10_000))
    return rows


def test_a_policy_is_calibrated_and_the_diff_applies(home: Path) -> None:
    book(home, traffic(900, good=lambda difficulty: 1 - 1.2 * difficulty**2))

    done = run("router", "calibrate", "--target-quality", "0.97", "--json")

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (threshold,) = told["thresholds"]
    assert (told["evidence"], threshold["rule"], threshold["was"]) == ("ledger", "easy", 0.35)
    assert 0.35 < threshold["now"] <= 0.51
    held = threshold["held"]
    assert held["quality"]["low"] <= held["quality"]["mean"] <= held["quality"]["high"]
    assert held["cost"]["mean"] < threshold["before"]["cost"]["mean"] < 1
    assert 350 < held["requests"] < 550, "one half"
    assert (home / "policies" / "default.yaml").read_text() == POLICY, "nothing switches itself on"

    done = run("router", "calibrate", "--target-quality", "0.97", "--out", "change.diff")
    assert done.exit_code == 0, done.output
    assert (home / "change.diff").read_text() == told["diff"]
    subprocess.run(["git", "apply", "change.diff"], check=True, cwd=home)
    assert f"difficulty < {threshold['now']:g}" in (home / "policies" / "default.yaml").read_text()
    assert run("check").exit_code == 0


def test_a_file_that_cannot_be_written_is_named(home: Path) -> None:
    book(home, traffic(450, good=lambda difficulty: 1 - difficulty))

    for words in (("calibrate", "--target-cost", "0.7"), ("train", "--from-ledger")):
        done = run("router", *words, "--out", "none/out")
        assert isinstance(done.exception, Problem)
        assert "none/out cannot be written" in str(done.exception)


def test_the_diff_alone_is_on_stdout(home: Path) -> None:
    book(home, traffic(450, good=lambda difficulty: 1 - difficulty))

    done = run("router", "calibrate", "--target-cost", "0.85", "--policy", "default")

    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("--- a/policies/default.yaml\n+++ b/policies/default.yaml\n")
    assert "quality kept" in done.stderr
    assert "votes in the ledger" in done.stderr


def test_what_holds_now_is_told_at_the_policy_s_place_on_the_dial(home: Path) -> None:
    book(home, traffic(450, good=lambda difficulty: 1 - difficulty))
    kept = []
    for place in (5, 8):
        (home / "policies" / "default.yaml").write_text(POLICY + f"cost_quality: {place}\n")
        told = json.loads(run("router", "calibrate", "--target-quality", "0.9", "--json").stdout)
        kept.append(told["thresholds"][0]["before"]["local"])
        assert ("+cost_quality: 5" in told["diff"]) == (place != 5)

    assert kept[1] == pytest.approx(0.4 * kept[0], abs=0.04)


def test_too_few_rows_say_so(home: Path) -> None:
    book(home, traffic(60, good=lambda _: 1.0))

    done = run("router", "calibrate", "--target-quality", "0.95")

    assert done.exit_code == 1
    assert isinstance(done.exception, Problem)
    assert "votes on local answers are too few" in str(done.exception)
    assert "gateway router probe smollm2-135m-instruct" in str(done.exception)


def test_without_votes_the_profile_speaks(home: Path) -> None:
    model = home / "models" / "m-Q4_0.gguf"
    model.parent.mkdir()
    model.write_bytes(b"GGUF" * 1_000)
    found = profile(right={"capitals", "opposites"})
    digest = fingerprint(model)
    beside = model.with_name(f"smollm2-135m-instruct{SUFFIX}")
    write(msgspec.structs.replace(found, file=model.name, digest=digest), beside)

    done = run("router", "calibrate", "--target-quality", "0.95", "--json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["evidence"]) == (0, "profile"), done.output
    assert told["thresholds"][0]["held"]["quality"]["mean"] > 0.85


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "one of --target-quality and --target-cost"),
        (("--target-quality", "0.9", "--target-cost", "0.5"), "one of --target-quality and --target-cost"),
        (("--target-quality", "0.9", "--since", "soon"), "is not a period"),
        (("--target-quality", "1.5"), "less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(home: Path, words: tuple[str, ...], reason: str) -> None:
    done = run("router", "calibrate", *words)

    assert done.exit_code == 2
    assert reason in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"policy": "other"}, "no policy named 'other'"),
        ({"rules": "difficulty >= 0.35"}, "no rule of policy 'default'"),
    ],
)
def test_a_policy_without_a_threshold_is_named(home: Path, change: dict[str, str], reason: str) -> None:
    now = POLICY.replace("difficulty < 0.35", change.get("rules", "difficulty < 0.35"))
    (home / "policies" / "default.yaml").write_text(now)

    done = run("router", "calibrate", "--target-quality", "0.9", "--policy", change.get("policy", "default"))

    assert isinstance(done.exception, Problem)
    assert reason in str(done.exception)


def test_what_was_learned_is_used_where_it_is_named(home: Path) -> None:
    """From votes in the ledger to another decision, with the artefact's digest in it."""
    sad = traffic(300, good=lambda _: 0.1, key="sad")
    book(home, sad)

    done = run("router", "train", "--from-ledger", "--out", "learned.json", "--json")

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["scorer"], told["tenants"], told["fitted_apart"]) == ("rules", 1, 1)
    assert told["error_after"] < told["error_before"]

    def decided(key: str) -> Any:
        view = build_view(load(home / "gateway.yaml", env={}), Metrics())
        asked = msgspec.structs.replace(features("What is the capital of France?", principal=Principal(key_id=key)))
        score = view.scorer.score(asked)
        return view.policies.policies["default"].decide(asked, score, unavailable=lambda _: None)

    assert decided("sad").targets[0] == "local-small", "not before it is named"
    with (home / "gateway.yaml").open("a") as config:
        config.write("router: {artefact: learned.json}\n")
    assert decided("sad").targets[0] == "big"
    assert decided("sad").scorer == f"rules+ledger@{told['digest']}"
    assert decided("another").targets[0] == "local-small"
    story = json.loads(run("explain", "What is the capital of France?", "--json").stdout)
    assert story["scorer"].endswith(told["digest"])
    assert run("check").exit_code == 0


def test_an_artefact_that_is_none_is_refused_with_its_name(home: Path) -> None:
    with (home / "gateway.yaml").open("a") as config:
        config.write("router: {artefact: none.json}\n")

    assert "none.json" in run("check").output
    with pytest.raises(ConfigError, match=r"none\.json"):
        build_view(load(home / "gateway.yaml", env={}), Metrics())


def test_kept_prompts_are_read(home: Path) -> None:
    rows = traffic(200, good=lambda _: 0.5)
    kept = [
        Content(
            request_id=row.request_id,
            ts_ms=row.ts_ms,
            expires_ms=1 << 50,
            prompt=json.dumps([{"role": "user", "content": "Which river?"}]).encode() if n % 2 else b"Which river?",
            answer=b"",
            form="plain" if n % 3 else "encrypted:k",
        )
        for n, row in enumerate(rows)
    ]
    book(home, rows, kept)

    done = run("router", "train", "--from-ledger", "--out", "learned.json")

    assert done.exit_code == 0, done.output
    assert "reads prompts  True" in done.stdout
    assert "router: {artefact: learned.json}" in done.stdout


def test_too_few_votes_train_nothing(home: Path) -> None:
    done = run("router", "train", "--from-ledger", "--out", "learned.json")

    assert isinstance(done.exception, Problem)
    assert "0 votes on local answers since 90d are too few" in str(done.exception)
    assert not (home / "learned.json").exists()


@pytest.mark.parametrize(
    "words", [(), ("folder", "--from-ledger"), ("folder", "--from-ledger", "--out", "x"), ("folder", "--out", "x")]
)
def test_one_source_to_train_from(home: Path, words: tuple[str, ...]) -> None:
    assert run("router", "train", *words).exit_code == 2


def test_a_rule_behind_an_easier_one_keeps_its_threshold(home: Path) -> None:
    """The default policy's two steps: what is easy goes to the first."""
    behind = '  - {name: behind, when: "difficulty < 0.6 && words < 50", use: [local-small, big]}\n  - {name: hard'
    (home / "policies" / "default.yaml").write_text(POLICY.replace("  - {name: hard", behind))
    book(home, traffic(450, good=lambda difficulty: 1 - difficulty))

    told = json.loads(run("router", "calibrate", "--target-cost", "0.85", "--json").stdout or "{}")

    assert [one["rule"] for one in told["thresholds"]] == ["easy"]
    assert told["remarks"] == ["rule 'behind' stays as it is: no request would go there if it were easy"]
