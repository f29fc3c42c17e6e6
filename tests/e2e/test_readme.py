"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import CLI, Serving, environment, serving

ROOT = Path(__file__).resolve().parents[2]
ADVERTISED = "http://127.0.0.1:8080"

pytestmark = pytest.mark.timeout(180)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def printed(command: str) -> str:
    """What the README shows under ``$ command``."""
    return next(block for block in blocks("console") if block.startswith(f"$ {command}")).split("\n", 1)[1]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The defaults, but for a free port and a data folder of its own."""
    folder = tmp_path_factory.mktemp("readme")
    config = folder / "gateway.yaml"
    config.write_text(f"server: {{port: 0}}\ndata_dir: {folder / 'data'}\n")
    with serving(config, environment(folder)) as running:
        yield running


def test_the_two_commands(gateway: Serving) -> None:
    first, second = blocks("sh")[:2]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make serve", "make test"]
    command = second.strip().replace(ADVERTISED, gateway.url)
    reply = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "Paris" in reply.stdout


def test_the_start_prints_what_is_shown(gateway: Serving) -> None:
    def shape(text: str) -> set[str]:
        return {re.sub(r"[0-9.]+", "N", line).strip() for line in text.splitlines() if line.strip()}

    gateway.until_line("OpenAI client")
    assert shape(printed("make serve")) <= shape("\n".join(gateway.lines))


def test_the_one_line_change(gateway: Serving) -> None:
    script = blocks("python")[0].replace(ADVERTISED, gateway.url)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said[4:] == ["cache", "local-small", "exact", "0"]


def test_explain_says_what_is_shown(gateway: Serving) -> None:
    shown = printed("gateway explain")
    command = (
        *CLI,
        "explain",
        "Prove that there are infinitely many primes",
        "--config",
        str(gateway.folder / "gateway.yaml"),
    )
    env = environment(gateway.folder)
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    wanted = [re.sub(r"@\w+", "@N", line).strip() for line in shown.splitlines() if line.strip()]
    there = {re.sub(r"@\w+", "@N", line).strip() for line in said.splitlines()}
    assert [line for line in wanted if line not in there] == []


def test_the_paths_of_the_table_are_there(gateway: Serving) -> None:
    import httpx

    for path in ("/v1/models", "/dashboard", "/metrics", "/healthz", "/readyz"):
        assert httpx.get(gateway.url + path, timeout=60.0).status_code == 200, path
    assert httpx.get(gateway.url + "/admin/keys", timeout=60.0).status_code in (401, 403)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"):
        assert httpx.post(gateway.url + path, json={}, timeout=60.0).status_code == 400, path
