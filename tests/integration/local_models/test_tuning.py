"""`gateway models quantize` and `bench` as a user runs them, on two layers of the real model: quick, bad at speech."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from local_models import choose
from local_models.bench import BenchError, bench
from local_models.choose import Variant
from local_models.measure import Measured, MeasureError, Quality, Speeds, measure
from local_models.prune import prune
from tests.support.gguf_files import METADATA, gguf_file
from tests.support.models import chat_model
from tests.support.serving import CLI
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prune(chat_model(), tmp_path_factory.mktemp("m") / "two.gguf", frozenset(range(1, 29)))


def gateway(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = (*CLI, "models", *words)
    return subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True)


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"GATEWAY_MODELS_DIR": str(folder), "GATEWAY_DATA_DIR": str(folder), "COLUMNS": "200"}


def test_a_type_is_written_and_what_it_costs_is_said(two_layers: Path, tmp_path: Path) -> None:
    done = gateway(tmp_path, "quantize", str(two_layers), "--type", "q8_0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == str(tmp_path / "two-Q8_0.gguf")
    made = found["made"][0]
    assert (made["type"], made["kept"], made["bytes"]) == ("Q8_0", True, (tmp_path / "two-Q8_0.gguf").stat().st_size)
    assert 0 <= made["quality"]["divergence"] < 0.1
    assert made["quality"]["same_choice"] > 0.8
    assert made["quality"]["tokens"] > 1000
    assert found["source"]["quality"] is None
    for measured in (found["source"], made):
        assert set(measured["speeds"]["streams"]) == {"1", "4", "16"}
        assert min(*measured["speeds"]["streams"].values(), measured["speeds"]["prefill_tokens_per_second"]) > 0
    assert sorted(file.name for file in tmp_path.glob("*.gguf")) == ["two-Q8_0.gguf"]
    assert not list(tmp_path.glob(".quantize-*"))


def test_leaving_layers_out_costs_more_than_another_type_does(two_layers: Path, tmp_path: Path) -> None:
    done = gateway(tmp_path, "quantize", str(two_layers), "--type", "Q8_0", "--prune-layers", "1")
    assert done.returncode == 0, done.stderr
    assert "two-without-1-Q8_0.gguf" in done.stdout
    divergence = float(next(line for line in done.stdout.splitlines() if line.startswith("Q8_0")).split()[6])
    assert divergence > 0.1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_neither_files_nor_processes(
    number: signal.Signals, two_layers: Path, tmp_path: Path
) -> None:
    command = (*CLI, "models", "quantize", str(two_layers), "--best")
    # A shell that runs the tests in its background has SIGINT ignored, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL, preexec_fn=heard) as run:
        asyncio.run(until(lambda: list(tmp_path.glob(".quantize-*/.*.tmp")), within_s=60))
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(number)
        assert run.wait(30) != 0
    assert children
    assert not psutil.wait_procs(children, 10)[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("two.gguf",), "one of --type and --best"),
        (("two.gguf", "--best", "--type", "Q4_0"), "one of --type and --best"),
        (("missing.gguf", "--type", "Q4_0"), "missing.gguf"),
        (("no-such-model", "--type", "Q4_0"), "no model 'no-such-model'"),
        (("{two}", "--type", "Q99"), "unknown quantisation type 'Q99'"),
        (("{two}", "--type", "Q8_0", "--prune-layers", "7"), "layers 0 to 1"),
        (("{two}", "--type", "Q8_0", "--prune-layers", "x"), "expected layers"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    words: tuple[str, ...], complaint: str, two_layers: Path, tmp_path: Path
) -> None:
    done = gateway(tmp_path, "quantize", *(word.format(two=two_layers) for word in words))
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.gguf"))


def test_the_type_a_model_comes_in_is_not_made_of_it_again(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m-instruct-Q4_1.gguf").touch()
    done = gateway(tmp_path, "quantize", "smollm2-135m-instruct", "--type", "q4_1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "smollm2-135m-instruct-Q4_1.gguf is of this type already" in done.stderr


def test_the_best_is_the_fastest_of_those_that_lose_little() -> None:
    def made(kind: str, loss: float, speed: float) -> Variant:
        speeds = Speeds({"1": speed, "4": speed, "16": speed}, speed)
        return Variant(kind, Path(kind), Measured(1, speeds, Quality(loss, 1.0, 1.0, 1.0, 1)))

    variants = [made("Q4_0", 0.3, 900), made("Q5_K_M", 0.05, 300), made("Q8_0", 0.01, 500)]
    assert [choose.best(variants, loss) for loss in (1.0, 0.1, 0.001)] == [variants[0], variants[2], None]


def test_speeds_count_alike_in_the_comparison() -> None:
    assert Speeds({"1": 10, "4": 40}, 100).overall == pytest.approx(math.prod([10, 40, 100]) ** (1 / 3))


def test_the_bench_reports_through_the_engines_socket(two_layers: Path, tmp_path: Path) -> None:
    done = gateway(tmp_path, "bench", str(two_layers), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert set(found) == {"streams", "prefill_tokens_per_second", "speculative"}
    assert set(found["streams"]) == {"1", "4", "16"}
    for level in (*found["streams"].values(), found["speculative"]["1"]):
        assert set(level) == {"tokens_per_second", "ttft_ms"}
        assert min(level.values()) > 0
    assert found["prefill_tokens_per_second"] > 0


def test_a_model_that_cannot_be_run_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "strange.gguf"
    names = {key.replace("llama.", "nonsense."): value for key, value in METADATA.items()}
    file.write_bytes(gguf_file({**names, "general.architecture": "nonsense"}))
    with pytest.raises(BenchError, match="cannot load"):
        bench(file, "strange")
    with pytest.raises(MeasureError, match="cannot load"):
        measure(file)
