"""What ``gateway check`` says of a policy besides errors: where prompts go, and what a change of the file changes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import print_table
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.config import Settings
    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.loader import PolicySet
    from gateway.policy.split import Moved, Went

EXAMPLES = 5
LOOKED_AT = 5
LATELY = timedelta(hours=1)


def told(chosen: Settings, policies: PolicySet) -> dict[str, dict[str, Any]]:
    """By policy: ``goes`` (rule, target, share of the sample prompts), and ``change`` against the version that was last
    in force, else the one of that name that came with this gateway; None where that is the same or there is none.
    """
    from gateway.policy.split import samples, shares, went

    found = {}
    for name, policy in policies.policies.items():
        each = list(went(policy, samples()))
        rows = [{"rule": rule, "target": target, "share": round(share, 4)} for rule, target, share in shares(each)]
        found[name] = {"prompts": len(each), "goes": rows, "change": _change(chosen, policy, each)}
    return found


def _change(chosen: Settings, now: CompiledPolicy, each: Sequence[Went]) -> dict[str, Any] | None:
    from gateway.policy.split import altered, moved, samples, went

    for since, was in _before(chosen, now):
        if was.policy == now.policy:
            return None
        flips = moved(list(went(was, samples())), each)
        written = [
            {"what": what, "was": before, "now": after} for what, before, after in altered(was.policy, now.policy)
        ]
        return {
            "since": since,
            "written": written,
            "moved": len(flips),
            "moves": _moves(flips),
            "examples": _few(flips),
        }
    return None


def _before(chosen: Settings, now: CompiledPolicy) -> Iterable[tuple[str, CompiledPolicy]]:
    """What the policy may have been, the likeliest first, each with when that was."""
    from gateway.config import packaged_policies

    yield from _in_force(chosen, now)
    for folder in (packaged_policies(), packaged_policies() / "examples"):
        files = [path for path in sorted(folder.glob("*.yaml")) if path.resolve() != Path(now.document.file).resolve()]
        texts = {str(path): path.read_text(encoding="utf-8") for path in files}
        yield from _named(chosen, now.name, texts, "it came with this gateway")


def _in_force(chosen: Settings, now: CompiledPolicy) -> Iterable[tuple[str, CompiledPolicy]]:
    """The version last in force. Where that is the policy itself, taken up lately by a gateway that runs, the one
    before: somebody has saved the file and wants to know what that did.
    """
    from gateway.policy.history import History

    live: list[tuple[str, CompiledPolicy]] = []
    for version in History(chosen.data_dir / "policies-history").versions()[:LOOKED_AT]:
        texts = {name: text for name, text in version.files.items() if "/" not in name}
        at = datetime.fromtimestamp(version.used_ms / 1000, UTC)
        found = list(_named(chosen, now.name, texts, f"it was in force on {at:%Y-%m-%d %H:%M} UTC"))
        if all(was.policy != now.policy for _, was in found) or datetime.now(UTC) - at > LATELY:
            yield from found
            return
        live = live or found
    yield from live


def _named(chosen: Settings, name: str, texts: Mapping[str, str], since: str) -> Iterable[tuple[str, CompiledPolicy]]:
    from gateway.policy.loader import compile_documents
    from gateway.pricing import PriceBook
    from gateway.yamlfile import Document

    models = chosen.config.models
    try:
        documents = [Document(text, file) for file, text in texts.items()]
        found = compile_documents(documents, models, PriceBook.load(models)).get(name)
    except ConfigError:  # of another version of this gateway, say: then it is no measure for what is new
        return
    if found is not None:
        yield since, found


def _moves(flips: Sequence[Moved]) -> dict[str, int]:
    named = (f"{f.was.rule} ({f.was.target}) → {f.now.rule} ({f.now.target})" for f in flips)
    return dict(Counter(named).most_common())


def _few(flips: Sequence[Moved]) -> list[str]:
    """Spread over all of them, not the first ones, which are alike."""
    step = max(1, len(flips) // EXAMPLES)
    return [flip.now.prompt for flip in flips[::step][:EXAMPLES]]


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print it for a person."""
    for name, one in found.items():
        typer.echo(f"\n{name}: of {one['prompts']:,} sample prompts")
        rows = [(row["rule"], row["target"], f"{row['share']:.1%}") for row in one["goes"]]
        print_table(("rule", "goes to", "prompts"), rows, right=("prompts",))
        if one["change"] is not None:
            _show_change(one["change"], one["prompts"])


def _show_change(change: dict[str, Any], prompts: int) -> None:
    typer.echo(f"\nChanged since {change['since']}:")
    print_table(("", "was", "now"), [(row["what"], row["was"], row["now"]) for row in change["written"]])
    typer.echo(f"{change['moved']:,} of the {prompts:,} prompts go another way:")
    for move, count in change["moves"].items():
        typer.echo(f"  {count:>5,}  {move}")
    for prompt in change["examples"]:
        typer.echo(f"         such as: {prompt[:90]}")
