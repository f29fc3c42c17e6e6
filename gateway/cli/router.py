"""``gateway router``: how hard prompts are, how well that was told, and what a local model can do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from gateway.cli import learning, router_eval, watching
from gateway.cli.embedding import embedder, embedder_here
from gateway.cli.ledger import Since
from gateway.cli.model_work import Bar, mending
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.policy.competence import Competence
    from gateway.policy.probe import Question
    from gateway.policy.profile import Profile

GENERIC = "generic"

app = typer.Typer(no_args_is_help=True)
app.command("eval")(router_eval.evaluate)
app.command()(learning.calibrate)
app.command("watch")(watching.watch)


class _Line(msgspec.Struct):
    prompt: str


@app.command()
def score(
    profile: Annotated[
        str, typer.Option(help="A local model's name, or 'generic': any small and large model")
    ] = GENERIC,
    config: Config = None,
) -> None:
    """Read one JSON object {"prompt": …} a line, write {"difficulty": …, "quality": {class: probability}} for each."""
    from gateway.policy.learned import Mixture
    from gateway.policy.signals import stem

    mixture = Mixture.shipped()
    competence = None if profile == GENERIC else _competence(profile, config)
    embed = embedder_here(config) if competence is None else embedder(config)
    for prompt in _prompts():
        meaning = embed if mixture.wants_embedding(prompt) else None
        found = mixture.estimate(prompt, None if meaning is None else meaning([stem(prompt)])[0])
        quality, difficulty = {"small": found.small, "large": found.large}, found.lost
        if competence is not None and embed is not None:
            likely = competence.likely(embed([prompt])[0])
            quality[profile], difficulty = likely.right, 1 - likely.expected
        rounded = {name: round(value, 5) for name, value in quality.items()}
        sys.stdout.buffer.write(msgspec.json.encode({"difficulty": round(difficulty, 6), "quality": rounded}) + b"\n")
        sys.stdout.buffer.flush()


def _prompts() -> Iterator[str]:
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield decoder.decode(line).prompt
        except msgspec.MsgspecError as error:
            raise Problem(f"line {number}: {error}") from None


def _competence(name: str, config: Path | None) -> Competence:
    from gateway.policy.competence import Competence

    found = Competence.of_model(settings(config).models_dir, name)
    if found is None:
        raise Problem(f"there is no profile of '{name}': gateway router probe {name}")
    return found


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="A model of the catalogue, or a GGUF file")],
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Ask 2,700 instead of 400: more of what it knows stays here")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Ask a local model the shipped checkable prompts, and write down beside it what it got right."""
    from gateway.policy.competence import weighed
    from gateway.policy.probe import ANSWER_TOKENS, questions
    from gateway.policy.profile import SUFFIX, graded, write
    from gateway.types import Signals
    from local_models import asking, fetch

    asked = questions(thorough)
    with mending(model), Bar(Path(model).name) as bar:
        file = Path(model) if model.endswith(".gguf") else fetch.ensure(model, settings(config).models_dir, bar)
        prompts = [question.prompt for question in asked]
        said = asking.answers(file, prompts, ANSWER_TOKENS, lambda done, of: bar("probe", done, of))
        signals = [msgspec.convert(one.confidence, Signals, from_attributes=True) for one in said]
        found = weighed(graded(file, asked, [one.text for one in said], signals))
        target = file.with_name((file.stem if model.endswith(".gguf") else model) + SUFFIX)
        write(found, target)
    _report(found, asked, target, as_json)


def _report(found: Profile, asked: Sequence[Question], target: Path, as_json: bool) -> None:
    domains, confidence = _by_domain(found, asked), _reliability(found, asked)
    if as_json:
        print_json({"path": str(target), "digest": found.digest, "domains": domains, "confidence": confidence})
        return
    rows = [
        (name, str(one["right"]), str(one["asked"]), f"{one['right'] / one['asked']:.0%}")
        for name, one in domains.items()
    ]
    print_table(("domain", "right", "asked", "share"), rows, right=("right", "asked", "share"))
    typer.echo("\nConfidence against what was right, on questions held out of the fit:\n")
    errors = [(name, f"{one['ece']:.3f}", f"{one['brier']:.3f}") for name, one in confidence.items()]
    print_table(("confidence", "ECE", "Brier"), errors, right=("ECE", "Brier"))
    typer.echo(f"\nKept: {target}")


def _reliability(found: Profile, asked: Sequence[Question]) -> dict[str, dict[str, float]]:
    from gateway.policy.calibration import cross_validated
    from gateway.policy.competence import evidence
    from gateway.policy.posterior import held_out
    from gateway.types import Signals

    signals, right = [Signals(*one) for one in found.signals], [outcome == "1" for outcome in found.right]
    reliability = cross_validated(signals, right, [question.skill for question in asked])
    told = {name: msgspec.structs.asdict(one) for name, one in msgspec.structs.asdict(reliability).items()}
    likely = evidence(found)
    return told | ({"posterior": msgspec.structs.asdict(held_out(likely, signals, right))} if likely else {})


def _by_domain(found: Profile, asked: Sequence[Question]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for question, outcome in zip(asked, found.right, strict=True):
        one = counts.setdefault(question.domain, {"right": 0, "asked": 0})
        one["right"] += outcome == "1"
        one["asked"] += 1
    return counts


@app.command()
def train(
    data: Annotated[
        Path | None, typer.Argument(help="A folder with mmlupro, llmrouter and gsm8k_train_steps (.jsonl.gz)")
    ] = None,
    from_ledger: Annotated[bool, typer.Option("--from-ledger", help="Learn from votes in the ledger instead")] = False,
    since: Since = "90d",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --from-ledger writes; default: learned.json")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Learn from votes on local answers (--from-ledger), or make the shipped scorer again from graded ones.

    The artefact of the former is used where gateway.yaml names it. The latter prints the digests of what it read; the
    same rows make the same files.
    """
    if from_ledger == (data is not None) or (out is not None and not from_ledger):
        raise typer.BadParameter("give either DATA, or --from-ledger with or without --out FILE")
    if from_ledger:
        learning.from_ledger(settings(config), since, out or Path("learned.json"), as_json)
    if data is not None:
        _make_again(data, config)


def _make_again(data: Path, config: Path | None) -> None:
    import hashlib

    import numpy as np

    from gateway.policy import competence, learned
    from gateway.policy import train as training
    from gateway.policy.probe import questions
    from local_models import fetch

    chosen = settings(config)
    name = chosen.config.embedder.model
    with mending(name):
        folder = fetch.ensure(name, chosen.models_dir)
        arrays = training.train(data, folder, embedder(config))
    np.savez_compressed(learned.FILE, **arrays)  # type: ignore[arg-type]
    short, thorough = questions(), questions(thorough=True)
    vectors = embedder(config)([question.prompt for question in thorough])
    of_short = competence.Asked.made(short, vectors[: len(short)])
    competence.Asked.save(competence.FILE, of_short, competence.Asked.made(thorough, vectors))
    for file in (*sorted(data.glob("*.jsonl.gz")), learned.FILE, competence.FILE):
        typer.echo(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")
