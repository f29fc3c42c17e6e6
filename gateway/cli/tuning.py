"""``gateway models quantize`` and ``bench``: another type of a model, what it costs in quality, how quick it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.model_work import Bar, mending
from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from local_models.choose import Variant
    from local_models.measure import Measured, Quality

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model of the catalogue, or a .gguf file")]
Type = Annotated[str, typer.Option("--type", help="Q4_0, Q4_K_M, Q6_K, Q8_0 …")]
Best = Annotated[bool, typer.Option("--best", help="Try several types and keep the fastest within --max-loss")]
MaxLoss = Annotated[float, typer.Option(min=0.0, help="Divergence from the source allowed, in nats per token")]
PruneLayers = Annotated[str, typer.Option(metavar="N-M", help="Leave these layers out, from 0: 20-23 or 4,20-23")]


def quantize(
    name: Name,
    kind: Type = "",
    best: Best = False,
    max_loss: MaxLoss = 0.1,
    prune_layers: PruneLayers = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write a model in another type, and say what that does to its size, speed and quality (takes minutes)."""
    from local_models import choose, measure, prune

    if best == bool(kind):
        raise typer.BadParameter("one of --type and --best is needed")
    folder = settings(config).models_dir
    with mending(name), Bar(Path(name).name) as bar:
        dropped = prune.layers(prune_layers) if prune_layers else frozenset()
        source = _source(name, folder, bar)
        wanted = choose.CANDIDATES if best else (kind.upper(),)
        names = {each: _filename(name, source, each, prune_layers) for each in wanted}
        names = {each: file for each, file in names.items() if (folder / file).resolve() != source.resolve()}
        if not names:
            raise Problem(f"{source.name} is of this type already")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".quantize-") as scratch:
            made = [choose.variant(source, Path(scratch) / file, each, dropped, bar) for each, file in names.items()]
            kept = choose.best(made, max_loss) if best else made[0]
            if kept:
                os.replace(kept.path, folder / kept.path.name)
            bar("measure the source", 0, None)
            before = measure.measure(source)
    where = folder / kept.path.name if kept else None
    _report(before, made, kept, where, as_json)
    if kept is None:
        raise Problem(f"every type loses more than {max_loss:g} nats per token; --max-loss allows more")


def bench(name: Name, config: Config = None, as_json: AsJson = False) -> None:
    """How quick a model is here, through the chat engine's own socket with 1, 4 and 16 streams (takes a minute)."""
    from local_models import bench as engine
    from local_models import fetch

    with mending(name), Bar(Path(name).name) as bar:
        path = Path(name) if name.endswith(".gguf") else fetch.ensure(name, settings(config).models_dir, bar)
        bar("bench", 0, None)
        found = engine.bench(path, path.stem)
    if as_json:
        print_json(found)
        return
    rows = [(f"{count} at once", at) for count, at in found["streams"].items()]
    rows.append(("1, speculating", found["speculative"]["1"]))
    numbers = ("tokens/s", "first token ms")
    cells = [(label, f"{at['tokens_per_second']:,.0f}", f"{at['ttft_ms']:,.0f}") for label, at in rows]
    print_table(("streams", *numbers), cells, right=numbers)
    typer.echo(f"\nReads prompts at {found['prefill_tokens_per_second']:,.0f} tokens/s.")


def _source(name: str, folder: Path, bar: Bar) -> Path:
    from local_models import fetch

    return Path(name) if name.endswith(".gguf") else fetch.pull(name, folder, bar)


def _filename(name: str, source: Path, kind: str, pruned: str) -> str:
    from local_models import catalog

    stem = source.stem if name.endswith(".gguf") else catalog.entry(name).name
    without = f"-without-{pruned.replace(' ', '')}" if pruned else ""
    return f"{stem}{without}-{kind}.gguf"


def _report(source: Measured, made: list[Variant], kept: Variant | None, where: Path | None, as_json: bool) -> None:
    if as_json:
        import msgspec

        variants = [{"type": each.type, "kept": each is kept, **msgspec.to_builtins(each.measured)} for each in made]
        print_json({"source": msgspec.to_builtins(source), "made": variants, "path": str(where) if where else None})
        return
    show(source, {each.type: each.measured for each in made})
    if where:
        typer.echo(f"Kept: {where}\nServe it with `local: file:{where}` in gateway.yaml.")


def show(source: Measured, made: Mapping[str, Measured]) -> None:
    """Print a row for the source and one for each type that was made of it."""
    numbers = ("MB", "prefill", "1", "4", "16 streams", "divergence", "same choice", "perplexity")
    lost = [each.quality for each in made.values() if each.quality]
    rows = [("source", *_speeds(source), "", "", _perplexity(lost[0].source_perplexity) if lost else "")]
    rows += [(kind, *_speeds(each), *_losses(each.quality)) for kind, each in made.items()]
    print_table(("type", *numbers), rows, right=numbers)
    typer.echo(
        "\nSpeeds in tokens/s; divergence from the source in nats per token, on the text that ships with Farthing."
    )


def _speeds(measured: Measured) -> tuple[str, ...]:
    speeds = measured.speeds
    rates = (f"{rate:,.0f}" for rate in (speeds.prefill_tokens_per_second, *speeds.streams.values()))
    return (f"{measured.bytes / 1e6:,.0f}", *rates)


def _losses(quality: Quality | None) -> tuple[str, ...]:
    if quality is None:
        return ("", "", "")
    return (f"{quality.divergence:.4f}", f"{quality.same_choice:.1%}", _perplexity(quality.perplexity))


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 10_000 else f"{value:.1e}"
