"""The command line as a user types it: what it prints, and with which status it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pace import allowed
from tests.support.serving import CLI, Serving, environment, serving, until, write_config

HOSTED = {"name": "gpt-4o-mini", "provider": "openai", "api_key": "${OPENAI_API_KEY}"}
POLICY = """\
name: default
rules:
  - {name: private, when: "'confidential' in tags", use: [local-small], local_only: true}
  - {name: everything, use: [gpt-4o-mini]}
"""

Reply = subprocess.CompletedProcess[str]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two models, one policy, nothing running."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(POLICY)
    return write_config(tmp_path, models=[{"name": "local-small", "local": "smollm2-135m-instruct"}, HOSTED])


def gateway(config: Path | None, *words: str, **env: str) -> Reply:
    where = {"GATEWAY_CONFIG": str(config)} if config else {}
    folder = config.parent if config else Path("/tmp")
    return subprocess.run((*CLI, *words), capture_output=True, text=True, env=environment(folder, **where, **env))


def fine(config: Path | None, *words: str, **env: str) -> str:
    reply = gateway(config, *words, **env)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    return reply.stdout


def listed(config: Path, *words: str, **env: str) -> Any:
    return json.loads(fine(config, *words, "--json", **env))


class TestUsage:
    def test_help_lists_the_commands_at_once(self) -> None:
        fine(None, "--help")
        before = os.times()
        shown = fine(None, "--help")
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        assert spent < allowed(1.5)
        for command in ("serve", "check", "explain", "keys", "models", "report", "prices"):
            assert command in shown

    def test_help_loads_nothing_heavy(self) -> None:
        script = "import sys, gateway.cli; print(sorted(sys.modules))"
        loaded = subprocess.run((CLI[0], "-c", script), capture_output=True, text=True, check=True).stdout
        for heavy in ("aiohttp", "redis", "sqlalchemy", "torch", "llama_cpp", "litellm", "faiss", "psutil"):
            assert f"'{heavy}'" not in loaded

    def test_version(self) -> None:
        assert fine(None, "--version").strip() == "0.1.0"

    @pytest.mark.parametrize(
        "words", [["wat"], ["keys", "create"], ["serve", "--port", "1"], ["report", "--since", "1y"]]
    )
    def test_wrong_usage_is_2(self, config: Path, words: list[str]) -> None:
        reply = gateway(config, *words)
        assert reply.returncode == 2
        assert "Usage" in reply.stderr

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        reply = gateway(None, "check", "--config", str(tmp_path / "none.yaml"))
        assert reply.returncode == 1
        assert reply.stderr.startswith(f"gateway: {tmp_path / 'none.yaml'}: cannot be read")

    @pytest.mark.parametrize(
        "words",
        [
            ("keys", "list"),
            ("serve",),
            ("cache", "purge", "--all", "--yes"),
        ],
    )
    def test_a_data_folder_that_cannot_be_is_said(self, config: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
        (tmp_path / "file").write_text("not a folder")
        reply = gateway(config, *words, GATEWAY_DATA_DIR=str(tmp_path / "file"))
        assert (reply.returncode, reply.stdout) == (1, "")
        assert reply.stderr.startswith(f"gateway: {tmp_path / 'file'}")
        assert len(reply.stderr.splitlines()) == 1


class TestCheck:
    def test_a_good_configuration(self, config: Path) -> None:
        assert "0 errors" in fine(config, "check")

    def test_the_policies_that_come_with_it(self) -> None:
        assert "0 errors, 0 warnings" in fine(None, "check")

    def test_a_secret_written_out_is_an_error(self, config: Path) -> None:
        config.write_text(config.read_text() + "auth: {admin_key: hunter2}\n")
        reply = gateway(config, "check")
        assert reply.returncode == 1
        line = len(config.read_text().splitlines())
        assert f"error: {config}:{line}: admin_key is written out" in reply.stderr

    def test_a_model_that_does_not_exist_is_a_warning(self, config: Path) -> None:
        policy = config.parent / "policies" / "default.yaml"
        policy.write_text(POLICY.replace("gpt-4o-mini", "gpt-9"))
        found = listed(config, "check")
        assert found["errors"] == []
        assert any("gpt-9" in warning for warning in found["warnings"])

    def test_a_bad_policy_is_told_with_its_line(self, config: Path) -> None:
        policy = config.parent / "policies" / "default.yaml"
        policy.write_text(POLICY.replace("'confidential' in tags", "difficulty > 0.5"))
        reply = gateway(config, "check", "--json")
        assert reply.returncode == 1
        assert json.loads(reply.stdout)["errors"][0].startswith(f"{policy}:3: ")

    def test_a_case_that_fails(self, config: Path) -> None:
        cases = config.parent / "policies" / "cases"
        cases.mkdir()
        case = (
            "policy: default\n"
            "models:\n  - {name: local-small, local: smollm2-135m-instruct}\n"
            "cases:\n  - {name: wrong, prompt: hello, expect: {rule: private}}\n"
        )
        (cases / "default.yaml").write_text(case)
        reply = gateway(config, "check")
        assert reply.returncode == 1
        assert "default.yaml:" in reply.stderr

    def test_one_file_alone(self, config: Path, tmp_path: Path) -> None:
        draft = tmp_path / "draft.yaml"
        draft.write_text(POLICY.replace("name: default", "name: draft"))
        assert "0 errors" in fine(config, "check", str(draft))
        draft.write_text("name: draft\nrules: [{name: all, when: 'nonsense(', use: [gpt-4o-mini]}]\n")
        reply = gateway(config, "check", str(draft))
        assert reply.returncode == 1
        assert f"{draft}:2: " in reply.stderr


class TestExplain:
    def test_where_a_prompt_would_go_and_why(self, config: Path) -> None:
        story = listed(config, "explain", "What is the capital of France?", OPENAI_API_KEY="sk-test")
        assert (story["rule"], story["model"]) == ("everything", "gpt-4o-mini")
        assert {row["model"] for row in story["alternatives"]} == {"local-small", "gpt-4o-mini"}

    def test_for_people(self, config: Path) -> None:
        shown = fine(config, "explain", "What is the capital of France?", OPENAI_API_KEY="sk-test")
        for part in ("everything", "gpt-4o-mini", "difficulty", "prompt_tokens", "not taken", "private"):
            assert part in shown

    def test_a_tag_changes_the_rule(self, config: Path) -> None:
        reply = gateway(config, "explain", "hello", "--tag", "confidential", OPENAI_API_KEY="sk-test")
        assert reply.returncode == 1
        assert "local-small" in reply.stderr

    def test_an_unknown_policy(self, config: Path) -> None:
        reply = gateway(config, "explain", "hello", "--policy", "none", OPENAI_API_KEY="sk-test")
        assert (reply.returncode, reply.stderr) == (1, "gateway: no policy named 'none'\n")


class TestKeys:
    def test_a_life(self, config: Path) -> None:
        """Redis is started for each command and keeps the key between them."""
        created = listed(config, "keys", "create", "ci", "--budget-usd", "5", "--rpm", "60", "--tag", "a", "--tag", "b")
        assert created["key"].startswith("fg-")
        assert (created["budget_usd"], created["rpm"], created["tags"]) == (5.0, 60, ["a", "b"])
        rotated = listed(config, "keys", "rotate", created["id"])
        assert rotated["id"] == created["id"]
        assert rotated["key"] != created["key"]
        assert "revoked" in fine(config, "keys", "revoke", created["id"])
        assert {key["id"] for key in listed(config, "keys", "list")} == {created["id"]}
        shown = fine(config, "keys", "list")
        assert "ci" in shown
        assert "$5.00" in shown
        assert "good" not in shown

    def test_the_key_alone_is_printed(self, config: Path) -> None:
        """So that KEY=$(gateway keys create ci) works."""
        reply = gateway(config, "keys", "create", "ci", "--expires-in", "30d")
        assert reply.stdout.startswith("fg-")
        assert len(reply.stdout.split()) == 1
        assert "only time" in reply.stderr
        assert "good" in fine(config, "keys", "list")

    def test_what_cannot_be(self, config: Path) -> None:
        assert "no API key with id" in gateway(config, "keys", "revoke", "key_0").stderr
        assert "rpm" in gateway(config, "keys", "create", "ci", "--rpm", "0").stderr
        assert gateway(config, "keys", "create", "ci", "--expires-in", "soon").returncode == 2

    def test_definitions_move(self, config: Path, tmp_path: Path) -> None:
        words = ("team", "red", "--usd", "50", "--window", "month", "--time-zone", "Europe/Berlin")
        budget_id = fine(config, "keys", "budget", *words).strip()
        key = listed(config, "keys", "create", "ci", "--team", "red", "--model", "gpt-4o*", "--role", "viewer")
        assert (key["models"], key["role"]) == (["gpt-4o*"], "viewer")
        [held] = listed(config, "keys", "budgets")
        assert (held["id"], held["limit_nano"], held["spent_nano"]) == (budget_id, 50 * 10**9, 0)
        assert "$50" in fine(config, "keys", "budgets")
        refused = gateway(config, "keys", "budget", "team", "red", "--usd", "1", "--window", "year")
        assert (refused.returncode, "window" in refused.stderr) == (1, True)

        taken = tmp_path / "taken.json"
        taken.write_text(fine(config, "keys", "export"))
        assert key["key"] not in taken.read_text()
        other = tmp_path / "b"  # short: a socket path ends at 107 bytes
        other.mkdir()
        elsewhere = write_config(other, models=[HOSTED])
        assert "1 keys, 1 budgets" in fine(elsewhere, "keys", "import", str(taken))
        assert listed(elsewhere, "keys", "list") == listed(config, "keys", "list")
        taken.write_text("no json")
        assert "not JSON" in gateway(elsewhere, "keys", "import", str(taken)).stderr

    def test_a_redis_that_is_away(self, config: Path) -> None:
        config.write_text(config.read_text() + "redis: {url: 'redis://127.0.0.1:1'}\n")
        reply = gateway(config, "keys", "list")
        assert reply.returncode == 1
        assert "Redis does not answer" in reply.stderr


class TestModels:
    def test_list_says_what_fits_and_what_is_here(self, config: Path) -> None:
        found = listed(config, "models", "list")
        models = {model["name"]: model for model in found["models"]}
        assert found["memory_bytes"] > 1e9
        assert models["smollm2-135m-instruct"]["here"]
        assert models["smollm2-135m-instruct"]["fits"]
        assert models["qwen3-8b"]["needs_bytes"] > 4e9
        assert "smollm2-135m-instruct" in fine(config, "models", "list")

    def test_pull_of_what_is_here_is_quick_and_offline(self, config: Path) -> None:
        assert "smollm2-135m-instruct-Q4_0.gguf" in fine(config, "models", "pull", HTTPS_PROXY="http://127.0.0.1:1")

    def test_pull_of_an_unknown_model(self, config: Path) -> None:
        reply = gateway(config, "models", "pull", "smolm2-135m")
        assert reply.returncode == 1
        assert "did you mean smollm2-135m-instruct" in reply.stderr

    def test_pull_from_a_file_shows_a_bar_on_a_terminal(self, config: Path, tmp_path: Path) -> None:
        from tests.support.models import chat_model

        leader, follower = pty.openpty()
        env = environment(tmp_path, GATEWAY_MODELS_DIR=str(tmp_path / "models"), TERM="xterm")
        command = (*CLI, "models", "pull", f"file:{chat_model()}", "--config", str(config))
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=follower) as process:
            os.close(follower)
            shown = b""
            while chunk := _read(leader):
                shown += chunk
        os.close(leader)
        assert process.returncode == 0
        assert b"MB" in shown
        assert list((tmp_path / "models").glob("*.gguf"))


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:
        return b""


class TestPrices:
    def test_check_says_where_each_comes_from(self, config: Path) -> None:
        rows = {row["model"]: row for row in listed(config, "prices", "check")}
        assert rows["gpt-4o-mini"]["price"]["source"].startswith("litellm")
        assert "gpt-4o-mini" in fine(config, "prices", "check")

    def test_an_unknown_price_is_a_problem(self, config: Path) -> None:
        config.write_text(config.read_text().replace("name: gpt-4o-mini", "name: gpt-nobody-knows"))
        reply = gateway(config, "prices", "check")
        assert reply.returncode == 1
        assert "no known price" in reply.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway that has answered one request, by its local model."""
    folder = tmp_path_factory.mktemp("report")
    with serving(write_config(folder, models=[{"name": "local-small", "local": "smollm2-135m-instruct"}])) as gateway:
        body = {"model": "local-small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        reply = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        yield gateway


class TestReport:
    def test_counts_what_was_served(self, served: Serving) -> None:
        config = served.folder / "gateway.yaml"
        until(lambda: listed(config, "report")["total"]["requests"] == 1)
        assert "1 requests, 0 errors" in fine(config, "report", "--since", "24h")
        assert "verified" in fine(config, "report", "--verify")
        assert listed(config, "report", "--verify")["wrong"] == []

    def test_keys_are_made_in_the_redis_that_runs(self, served: Serving) -> None:
        key = fine(served.folder / "gateway.yaml", "keys", "create", "ci").strip()
        headers = {"authorization": f"Bearer {key}"}
        until(lambda: httpx.get(f"{served.url}/v1/models", headers=headers, timeout=60.0).status_code == 200)

    @pytest.mark.parametrize("words", [("report", "--html"), ("export", "--out")])
    def test_what_cannot_be_written_is_said(self, served: Serving, words: tuple[str, ...]) -> None:
        nowhere = served.folder / "none" / "out"
        reply = gateway(served.folder / "gateway.yaml", *words, str(nowhere))
        assert (reply.returncode, reply.stderr) == (1, f"gateway: {nowhere}: No such file or directory\n")

    def test_rollups_that_are_wrong_are_found(self, served: Serving) -> None:
        import sqlite3

        config = served.folder / "gateway.yaml"
        until(lambda: listed(config, "report")["total"]["requests"] == 1)
        with sqlite3.connect(served.folder / "data" / "ledger.sqlite3") as database:
            database.execute("UPDATE rollup_hour SET requests = requests + 1")
        reply = gateway(config, "report", "--verify")
        assert reply.returncode == 1
        assert "rows say" in reply.stdout

    def test_no_books_yet(self, config: Path) -> None:
        reply = gateway(config, "report")
        assert reply.returncode == 1
        assert "the ledger cannot be read" in reply.stderr
