"""The layers of the code, kept by reading its imports: a module knows only what lies below it."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the ground up. Modules of one layer may know each other, except the stages of a request.
FOUNDATION = {"types", "errors", "protocols", "yamlfile", "yamlnodes", "key_definition"}
SUPPORT = {
    "config",
    "config_checks",
    "pricing",
    "features",
    "metrics",
    "log",
    "redis_io",
    "stability",
    "events",
    "privacy",
    "redaction",
    "sealing",
    "tokenizer",
    "tokens",
    "prompt_bound",
    "recency",
    "telemetry",
}
STAGES = {"auth", "budget", "cache", "policy", "backends", "ledger"}
PASSED_ALONG = {"visit", "billing", "entry", "helped", "books", "storing", "reply", "trials", "warmth", "keeping"}
PIPELINE = {
    *("pipeline", "view", "reuse", "deciding", "reserving", "delivery", "settling"),
    *("story", "costs", "tracing", "routing", "shadows", "cascade", "held", "arbiter", "unattended", "upkeep"),
    "unary",
}
RUNTIME = {"runtime", "reload"}
HOUSE = {"batches", "economics", "reconcile", "alerts", "erase", "experiments", "export", "watching"}
SURFACE = {"http", "dashboard"}
TOP = {"supervisor", "background", "cli"}
LAYERS = (FOUNDATION, SUPPORT, STAGES, PASSED_ALONG, PIPELINE, RUNTIME, HOUSE, SURFACE, TOP)
APART = (STAGES,)
MAY_KNOW_LOCAL_MODELS = {"supervisor", "cli"}
NEVER_IN_A_WORKER = (
    *("torch", "llama_cpp", "litellm", "faiss", "sqlalchemy", "sentence_transformers", "transformers"),
    "tiktoken",
)


def modules(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")))


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(path, node)
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    return found


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parent.parts
    return ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))


def unit(dotted: str) -> str:
    """``gateway.cache.exact.find`` → ``cache``; empty for the package itself and for what is not ours."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "gateway" and len(parts) > 1 else ""


def layer(name: str) -> int:
    found = [level for level, names in enumerate(LAYERS) if name in names]
    assert found, f"{name} has no layer yet: give it one here and in docs/architecture.md"
    return found[0]


def breaches(package: Path) -> list[str]:
    """Imports that go up, or sideways between stages."""
    found = []
    for path in sorted(package.rglob("*.py")):
        own = unit(".".join(path.relative_to(package.parent).with_suffix("").parts))
        for other in {unit(name) for name in imported(path)} - {"", own, "__version__"}:
            if not own or own == "__init__":
                found.append(f"{path}: the package itself imports {other}")
            elif layer(other) > layer(own) or (layer(other) == layer(own) and LAYERS[layer(own)] in APART):
                found.append(f"{path}: {own} imports {other}")
    return found


def test_every_module_has_its_layer() -> None:
    there = {
        path.stem for path in (ROOT / "gateway").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - set().union(*LAYERS) == {"__init__"}


def test_the_architecture_names_every_module_and_none_that_is_not_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layers = page.split("## Layers")[1].split("\n## ")[0]
    assert set().union(*LAYERS) - set(re.findall(r"`(\w+)`", layers)) == set()
    places = re.findall(r"`([\w/]+\.py)`", page)
    gone = [place for place in places if not any((ROOT / root / place).exists() for root in ("", "gateway"))]
    assert gone == []


def test_imports_go_downwards_only() -> None:
    assert breaches(ROOT / "gateway") == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cache/exact.py", "from gateway.policy import model"),
        ("cache/exact.py", "from gateway import pipeline"),
        ("errors.py", "def late():\n    import gateway.config"),
        ("http/chat.py", "from ..supervisor import serve"),
        ("budget/limits.py", "import importlib\nimportlib.import_module('gateway.ledger.store')"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str
) -> None:
    target = tmp_path / "gateway" / file
    target.parent.mkdir(parents=True)
    target.write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(breaches(tmp_path / "gateway")) == 1


def test_local_models_knows_nothing_of_the_gateway() -> None:
    guilty = [
        str(path) for path in modules("local_models") if any(n.split(".")[0] == "gateway" for n in imported(path))
    ]
    assert guilty == []


def test_only_the_supervisor_and_the_command_line_know_local_models() -> None:
    knowing = {
        path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")
        for path in modules("gateway")
        if any(name.split(".")[0] == "local_models" for name in imported(path))
    }
    assert knowing == MAY_KNOW_LOCAL_MODELS


def test_litellm_is_imported_in_one_file_and_only_when_needed() -> None:
    files = [path for path in modules("gateway") if any(name.split(".")[0] == "litellm" for name in imported(path))]
    assert [path.name for path in files] == ["litellm_hosted.py"]
    outside_functions = [
        node for node in ast.parse(files[0].read_text()).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert not any(
        "import_module" in ast.unparse(node) or "import litellm" in ast.unparse(node) for node in outside_functions
    )


def test_a_worker_starts_without_the_heavy_libraries() -> None:
    script = "import json, sys, gateway.http.worker; print(json.dumps(sorted(sys.modules)))"
    reply = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT, text=True)
    loaded = {name.split(".")[0] for name in json.loads(reply.stdout)}
    assert loaded.isdisjoint(NEVER_IN_A_WORKER)
