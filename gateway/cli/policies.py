"""``gateway check`` and ``gateway explain``: what the configuration says, before anyone is served by it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import changes
from gateway.cli.options import AsJson, Config, print_json, print_table, settings
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from gateway.config import Settings
    from gateway.policy.competence import Vectors
    from gateway.policy.loader import PolicySet

_ARM = ("share", "policy", "rule", "goes to")


def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[POLICY…]", help="Policy files; default: those configured")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Read the configuration and the policies, and run the policies' cases. Secrets written out are errors here.

    Says of each policy where sample prompts would go, and of a changed one what that changes.
    """
    from gateway.policy.loader import keyless
    from gateway.sealing import seal_of

    chosen = settings(config)
    errors, warnings, passed = list(chosen.warnings), [], 0
    goes: dict[str, dict[str, Any]] = {}
    try:
        policies = _only(chosen, files) if files else _configured(chosen)
        errors += (without := keyless(policies.policies.values(), chosen))
        warnings = [warning for warning in policies.warnings if warning not in without]
        seal_of(chosen)
        folders = dict.fromkeys(file.resolve().parent for file in files) if files else [chosen.policies_dir]
        for folder in folders:
            right, wrong = _cases(folder / "cases", policies, _names(folder) if files else ())
            passed += right
            errors += wrong
        goes = changes.told(chosen, policies)
    except ConfigError as error:
        errors.append(str(error))
    _say_checked(errors, warnings, passed, goes, as_json)
    raise typer.Exit(1 if errors else 0)


def _configured(chosen: Settings) -> PolicySet:
    from gateway.policy.loader import load_policies
    from gateway.policy.taught import read
    from gateway.reload import build_verifier

    if chosen.router_artefact is not None:
        read(chosen.router_artefact)
    build_verifier(chosen)
    return load_policies(chosen)


def _only(chosen: Settings, files: list[Path]) -> PolicySet:
    """These files alone, whatever folder they are in, against the configured models."""
    from gateway.policy.loader import PolicySet, compile_documents
    from gateway.pricing import PriceBook
    from gateway.yamlfile import Document

    models, folders = chosen.config.models, [*(file.parent for file in files), chosen.policies_dir]
    beside = [path for folder in dict.fromkeys(folders) for path in sorted(folder.glob("*.yaml")) if path not in files]
    found = compile_documents(map(Document.read, files), models, PriceBook.load(models), beside=beside)
    return PolicySet(found, next(iter(found)))


def _names(folder: Path) -> set[str]:
    """The policies of a folder, as far as their files can be read."""
    from gateway.policy.model import read_policy
    from gateway.yamlfile import Document

    found = set()
    for path in folder.glob("*.yaml"):
        with contextlib.suppress(ConfigError):
            found.add(read_policy(Document.read(path)).name)
    return found


def _cases(folder: Path, policies: PolicySet, others: Container[str]) -> tuple[int, list[str]]:
    from gateway.policy.cases import run_cases

    results = run_cases(folder, policies, others)
    wrong = [f"{r.file}:{r.line}: case '{r.name}' fails: {r.reason}" for r in results if not r.passed]
    return len(results) - len(wrong), wrong


def _say_checked(
    errors: list[str], warnings: list[str], passed: int, goes: dict[str, dict[str, Any]], as_json: bool
) -> None:
    if as_json:
        print_json({"errors": errors, "warnings": warnings, "cases_passed": passed, "policies": goes})
        return
    changes.show(goes)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    typer.echo(f"{len(errors)} errors, {len(warnings)} warnings, {passed} cases passed")


def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would ask")],
    config: Config = None,
    policy: Annotated[str, typer.Option(help="Default: what `auto` means")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="As in x-gateway-tags; repeatable")] = None,
    quality: Annotated[int | None, typer.Option(min=0, max=10, help="0 cheapest … 10 best")] = None,
    as_json: AsJson = False,
) -> None:
    """Where a prompt would go, why, and what it would cost elsewhere. Nothing is called, nothing is charged."""
    from gateway.metrics import Metrics
    from gateway.reload import build_view
    from gateway.story import explain as tell

    view = build_view(settings(config), Metrics())
    story = tell(view, prompt, policy=policy, tags=tuple(tag or ()), quality=quality, embed=_embedding(config))
    if as_json:
        print_json(story)
    else:
        _print_story(story)


def _embedding(config: Path | None) -> Callable[[str], Vectors]:
    """One prompt's, by the local embedder, which is loaded when it is asked."""
    from gateway.cli.embedding import embedder

    return lambda prompt: embedder(config)([prompt])[0]


def _print_story(story: dict[str, Any]) -> None:
    facts = [
        ("policy", story["policy"]),
        ("rule", story["rule"]),
        ("difficulty", "–" if story["difficulty"] is None else f"{story['difficulty']:.3f}"),
        ("dial", _dial(story)),
        ("goes to", ", then ".join(story["targets"])),
        ("degraded", story["degraded"] or "no"),
        ("local only", "yes" if story["local_only"] else "no"),
    ]
    print_table(("", ""), facts)
    _print_section("difficulty is made of", ("what", "adds"), [(n, f"{v:+.3f}") for n, v in story["contributions"]])
    _print_section("features", ("feature", "value"), [(name, _plain(v)) for name, v in story["features"].items()])
    not_taken = [(row["model"], row["reason"]) for row in (*story["unmatched"], *story["rejected"])]
    _print_section("not taken", ("what", "why"), not_taken)
    if (experiment := story.get("experiment")) is not None:
        rows = [(f"{arm['share']:.1%}", arm["policy"], arm["rule"], arm["model"]) for arm in experiment["arms"]]
        _print_section(f"experiment {experiment['name']}, by {experiment['by']}", _ARM, rows)
    expected = [(row["model"], _dollars(row["cold_usd"]), _dollars(row["warm_usd"])) for row in story["expected"]]
    _print_section("it is expected to cost", ("model", "USD", "cached there"), expected)
    costs = [(row["model"], _dollars(row["cost_usd"])) for row in story["alternatives"]]
    _print_section("at most it would cost", ("model", "USD"), costs)


def _dial(story: dict[str, Any]) -> str:
    neutral = story.get("neutral_difficulty")
    moved = neutral is not None and neutral != story["difficulty"]
    return f"{story['features']['quality']}" + (f" (difficulty {neutral:.3f} at 5)" if moved else "")


def _print_section(title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    if rows:
        typer.echo(f"\n{title}")
        print_table(columns, rows)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _dollars(cost: float | None) -> str:
    return "no known price" if cost is None else f"{cost:.9f}"
