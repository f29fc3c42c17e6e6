"""``gateway router score`` and ``eval``, as a shell would use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.options import Problem
from gateway.policy.learned import DIMENSION

PROMPTS = ["Hello!", "Prove that the square root of 3 is irrational.", "", "日本の首都はどこですか？", "a\nb"]


def run(*arguments: str, given: str = "") -> Any:
    return CliRunner().invoke(app, ["router", *arguments], input=given, catch_exceptions=True)


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GATEWAY_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))


def lines(prompts: list[str]) -> str:
    return "".join(json.dumps({"prompt": prompt, "else": 1}) + "\n" for prompt in prompts)


def test_a_line_for_each_line_in_order() -> None:
    done = run("score", "--profile", "generic", given=lines(PROMPTS))

    scores = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.exit_code, len(scores)) == (0, len(PROMPTS))
    for score in scores:
        assert 0 <= score["difficulty"] <= 1
        assert set(score["quality"]) == {"small", "large"}
        assert all(0 <= value <= 1 for value in score["quality"].values())
    assert scores[0]["difficulty"] < scores[1]["difficulty"]
    alone = json.loads(run("score", given=lines(PROMPTS[1:2])).stdout)
    assert alone == scores[1], "a prompt's score hangs on nothing but the prompt"


@pytest.mark.parametrize("bad", ["{", '{"text": "x"}', '{"prompt": 3}'])
def test_a_bad_line_is_named(bad: str) -> None:
    done = run("score", given=lines(["ok"]) + bad + "\n")

    assert isinstance(done.exception, Problem)
    assert "line 2" in str(done.exception)


def test_a_model_without_a_profile_is_not_guessed_at() -> None:
    done = run("score", "--profile", "smollm2-135m-instruct", given=lines(["x"]))

    assert isinstance(done.exception, Problem)
    assert "gateway router probe smollm2-135m-instruct" in str(done.exception)


def graded(path: Path, rows: int = 240) -> Path:
    """Sums with few and with many steps, of which a weak model gets the short ones right."""
    with path.open("w") as file:
        for at in range(rows):
            steps = 1 + at % 8
            story = " ".join(
                f"Then {3 + (at * step) % 17} more arrive, each with {step + 2} bags." for step in range(steps)
            )
            row = {"prompt": f"{at} people wait. {story} How many are there?", "strong": 1, "weak": int(steps < 4)}
            file.write(json.dumps(row) + "\n")
    return path


def test_what_is_asked_is_embedded_where_the_model_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return np.full((len(texts), DIMENSION), DIMENSION**-0.5, np.float32)

    by_words = run("score", given=lines(PROMPTS)).stdout
    monkeypatch.setattr("gateway.cli.router.embedder_here", lambda config: embed)

    story = "Ann has 12 pens and gives 3 of them to each of her 2 sisters. " * 4 + "How many pens are left?"
    done = run("score", given=lines([*PROMPTS, story, "Which is red?\nA. blood\nB. milk\nAnswer:"]))

    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == len(PROMPTS) + 2
    assert asked == [*PROMPTS, "Which is red?"], "what a story is about does not count"
    assert done.stdout.splitlines()[0] != by_words.splitlines()[0]


def test_scorers_are_judged_beside_each_other(tmp_path: Path) -> None:
    done = run("eval", str(graded(tmp_path / "rows.jsonl")), "--json")

    told = json.loads(done.stdout)
    found = {one["scorer"]: one for one in told["scorers"]}
    assert (told["rows"], told["strong"]) == (240, 1.0)
    assert list(found) == ["random", "length", "rules", "learned"]
    assert found["learned"]["apgr"] > 0.65  # 0.6875 is the best there is
    for one in found.values():
        assert one["apgr_low"] <= one["apgr"] <= one["apgr_high"]
        assert {"cpt50", "cpt80", "saving"} <= set(one)
    assert abs(found["random"]["apgr"] - 0.5) < 0.15


def test_rows_of_ones_own_are_fitted_and_not_judged_by(tmp_path: Path) -> None:
    file = graded(tmp_path / "rows.jsonl")
    first, again = (run("eval", str(file), "--fit-rows", "150", "--seed", "3", "--json").stdout for _ in range(2))

    told = json.loads(first)
    found = {one["scorer"]: one["apgr"] for one in told["scorers"]}
    assert first == again
    assert told["rows"] == 90
    assert found["fitted"] >= found["learned"] - 0.02


def test_what_an_embedding_is_needed_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(texts: list[str]) -> NDArray[np.float32]:
        return np.full((len(texts), DIMENSION), DIMENSION**-0.5, np.float32)

    monkeypatch.setattr("gateway.cli.router_eval.embedder_here", lambda config: embed)
    file = graded(tmp_path / "rows.jsonl", 60)
    questions = [{"prompt": f"Who wrote book {at}?", "strong": 1, "weak": at % 2} for at in range(20)]
    file.write_text(file.read_text() + "".join(json.dumps(row) + "\n" for row in questions))

    told = json.loads(run("eval", str(file), "--json").stdout)
    assert [one["scorer"] for one in told["scorers"]] == ["random", "length", "rules", "first stage", "learned"]
    stages = told["stages"]
    assert 0.25 <= stages["useful"] < 1, "the questions need one, the long stories none"
    assert stages["in_band"] <= stages["useful"]
    assert all(told["weak"] <= stages[f"quality_{name}"] <= told["strong"] for name in ("without", "band", "all"))
    assert "An embedding can change" in run("eval", str(file)).stdout


def test_a_table_names_the_scorers(tmp_path: Path) -> None:
    done = run("eval", str(graded(tmp_path / "rows.jsonl", 40)))

    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("APGR", "CPT80", "random", "rules", "learned", "40 rows"))


@pytest.mark.parametrize("fit_rows", ["40", "39"])
def test_rows_must_be_left_to_judge_by(tmp_path: Path, fit_rows: str) -> None:
    done = run("eval", str(graded(tmp_path / "rows.jsonl", 40)), "--fit-rows", fit_rows)

    assert isinstance(done.exception, Problem)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n')

    for file in (tmp_path / "bad.jsonl", tmp_path / "none.jsonl"):
        assert file.name in str(run("eval", str(file)).exception)
