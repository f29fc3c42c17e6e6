"""What ``gateway check`` says of a policy that somebody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.policy.history import History, read_files

SHIPPED = Path(__file__).parents[3] / "policies"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of its own with the shipped policies in it."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "policies").mkdir()
    for name in ("default.yaml", "examples/private.yaml"):
        (tmp_path / "policies" / Path(name).name).write_text((SHIPPED / name).read_text())
    (tmp_path / "gateway.yaml").write_text("policies: {dir: policies}\n")
    return tmp_path


def edit(folder: Path, name: str, before: str, after: str) -> None:
    file = folder / "policies" / name
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def checked(folder: Path, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["check", *words, "--config", str(folder / "gateway.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout)["policies"])


def test_of_every_policy_it_says_where_prompts_go(folder: Path) -> None:
    found = checked(folder)

    assert set(found) == {"default", "private"}
    for one in found.values():
        assert sum(row["share"] for row in one["goes"]) == pytest.approx(1, abs=0.001)
        assert one["change"] is None, "as it came with this gateway"
    personal = next(row for row in found["private"]["goes"] if row["rule"] == "personal")
    assert (personal["target"], personal["share"] > 0) == ("local-small", True)


def test_a_change_says_what_is_written_differently_and_what_it_does(folder: Path) -> None:
    edit(folder, "private.yaml", 'when: "difficulty < 0.35"', 'when: "difficulty < 0.5"')
    edit(folder, "private.yaml", "ttl: 8h", "ttl: 1h")

    change = checked(folder, str(folder / "policies" / "private.yaml"))["private"]["change"]

    assert change["since"] == "it came with this gateway"
    assert {"what": "cache.ttl", "was": "8h", "now": "1h"} in change["written"]
    assert {"what": "rules.easy.when", "was": "difficulty < 0.35", "now": "difficulty < 0.5"} in change["written"]
    assert set(change["moves"]) == {"rest (gpt-4o-mini) → easy (local-small)"}
    assert change["moved"] == sum(change["moves"].values()) > 50
    assert 0 < len(change["examples"]) <= 5


def test_what_was_in_force_is_the_measure_where_it_is_known(folder: Path) -> None:
    edit(folder, "private.yaml", "difficulty < 0.35", "difficulty < 0.5")
    History(folder / "data" / "policies-history").record(read_files(folder / "policies"), ("private",))

    assert checked(folder)["private"]["change"] is None

    edit(folder, "private.yaml", "difficulty < 0.5", "difficulty < 0.45")
    change = checked(folder)["private"]["change"]

    assert change["since"].startswith("it was in force on ")
    assert change["written"] == [{"what": "rules.easy.when", "was": "difficulty < 0.5", "now": "difficulty < 0.45"}]


def test_what_a_running_gateway_has_just_taken_up_is_measured_against_what_it_had(folder: Path) -> None:
    history = History(folder / "data" / "policies-history")
    history.record(read_files(folder / "policies"), ("private",))
    edit(folder, "private.yaml", "difficulty < 0.35", "difficulty < 0.5")
    history.record(read_files(folder / "policies"), ("private",))

    change = checked(folder)["private"]["change"]

    assert change["written"] == [{"what": "rules.easy.when", "was": "difficulty < 0.35", "now": "difficulty < 0.5"}]


def test_one_file_is_tried_on_its_own_cases_and_not_on_those_of_its_neighbours(folder: Path) -> None:
    (folder / "policies" / "cases").mkdir()
    for name in ("cases/default.yaml", "examples/cases/private.yaml"):
        (folder / "policies" / "cases" / Path(name).name).write_text((SHIPPED / name).read_text())
    command = ["check", "--config", str(folder / "gateway.yaml"), "--json", str(folder / "policies" / "private.yaml")]

    told = json.loads(CliRunner().invoke(app, command).stdout)
    assert (told["errors"], told["cases_passed"]) == ([], 6)

    edit(folder, "cases/default.yaml", "policy: default", "policy: defualt")
    told = json.loads(CliRunner().invoke(app, command).stdout)
    assert "no policy named 'defualt'" in told["errors"][0]


def test_what_is_kept_of_prompts_is_told_though_nothing_goes_another_way(folder: Path) -> None:
    file = folder / "policies" / "private.yaml"
    file.write_text(file.read_text() + "contents: {keep: redacted}\n")

    change = checked(folder)["private"]["change"]

    assert change["written"] == [{"what": "contents.keep", "was": "none", "now": "redacted"}]
    assert change["moved"] == 0


def test_a_history_of_another_version_is_no_measure(folder: Path) -> None:
    files = {"private.yaml": "name: private\nrules: [{name: a, use: [x], no_such_key: 1}]\n"}
    History(folder / "data" / "policies-history").record(files, ("private",))
    edit(folder, "private.yaml", "difficulty < 0.35", "difficulty < 0.4")

    assert checked(folder)["private"]["change"]["since"] == "it came with this gateway"


def test_a_person_reads_it_too(folder: Path) -> None:
    edit(folder, "default.yaml", "use: [gpt-4o-mini, claude]\non_budget", "use: [claude]\non_budget")

    shown = CliRunner().invoke(app, ["check", "--config", str(folder / "gateway.yaml")]).output

    assert "Changed since it came with this gateway:" in shown
    assert "hard (gpt-4o-mini) → hard (claude)" in shown
    assert shown.splitlines()[-1].startswith("0 errors")
