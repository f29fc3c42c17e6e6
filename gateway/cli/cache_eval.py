"""``gateway cache simulate`` and ``pairs``: what would have been served from the cache, and was it right to."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import typer

from gateway.cli.options import Config, Problem, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gateway.cache.trial import Decider
    from gateway.cache.verifier import Verifier

Row = TypeVar("Row")
MaxWrongRate = Annotated[float, typer.Option(min=0.0, max=1.0, help="Of what is served semantically")]


def simulate(
    stream: Annotated[Path, typer.Argument(metavar="STREAM.jsonl", help="prompt and class_id a line; may be gzipped")],
    out: Annotated[
        Path, typer.Option(metavar="DECISIONS.jsonl", help="hit_of a line: an earlier line's number, or null")
    ],
    mode: Annotated[Literal["question", "faq"], typer.Option(help="faq: an intent decides")] = "question",
    max_wrong_rate: MaxWrongRate = 0.01,
    baseline: Annotated[str, typer.Option(metavar="cosine:T", help="Instead, a static threshold")] = "",
    seed: Annotated[int, typer.Option(help="Of the draw of what is checked")] = 0,
    config: Config = None,
) -> None:
    """Which requests of a stream would have been answered from the cache. Equal class_id: the same answer serves.

    Rows may have a history (any JSON): requests of different histories share nothing.
    """
    from gateway.cache.trial import Partitions, judge

    rows = list(_rows(stream, _Request))
    if baseline:
        _baseline(baseline)
    vectors = _embedded([row.prompt for row in rows], config)
    decider = (
        partial(_baseline, baseline) if baseline else partial(judge, mode, max_wrong_rate, seed, _verifier(config))
    )
    partitions = Partitions(decider, vectors.shape)
    with _opened(out, "wt") as file:
        for number, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
            history = msgspec.json.encode(row.history, order="sorted")
            hit = partitions.ask(history, number, row.prompt, str(row.class_id), vector)
            file.write(msgspec.json.encode({"hit_of": hit}).decode() + "\n")


def pairs(
    file: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="a and b a line; may be gzipped")],
    max_wrong_rate: MaxWrongRate = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of words")] = False,
    config: Config = None,
) -> None:
    """Whether the answer to ``b`` would be served to ``a``, by a cache that knows nothing yet: a line for each pair.

    Rows may have a_history and b_history (any JSON): where they differ, nothing is shared.
    """
    from gateway.cache.trial import opinions

    rows = list(_rows(file, _Pair))
    vectors = _embedded([text for row in rows for text in (row.a, row.b)], config)
    similarities = (vectors[0::2] * vectors[1::2]).sum(axis=1).tolist()
    found = opinions([(row.a, row.b) for row in rows], similarities, max_wrong_rate, _verifier(config))
    for row, opinion in zip(rows, found, strict=True):
        if row.a_history != row.b_history:
            opinion = msgspec.structs.replace(opinion, guard="history", accept=False)
        if as_json:
            typer.echo(msgspec.json.encode(opinion).decode())
        else:
            said = "accept" if opinion.accept else "no"
            typer.echo(f"{said:<7} p_same {opinion.p_same:.4f}  {opinion.guard or ''}".rstrip())


class _Request(msgspec.Struct, frozen=True):
    prompt: str
    class_id: int | str
    history: Any = None


class _Pair(msgspec.Struct, frozen=True):
    a: str
    b: str
    a_history: Any = None
    b_history: Any = None


def _opened(path: Path, how: Literal["rt", "wt"]) -> Any:
    try:
        return gzip.open(path, how, encoding="utf-8") if path.suffix == ".gz" else path.open(how, encoding="utf-8")
    except OSError as error:
        raise Problem(str(error)) from None


def _rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    with _opened(path, "rt") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield msgspec.json.decode(line, type=kind)
            except msgspec.DecodeError as error:
                raise Problem(f"{path}:{number}: {error}") from None


def _baseline(named: str) -> Decider:
    from gateway.cache.trial import Threshold

    kind, _, least = named.partition(":")
    try:
        if kind == "cosine":
            return Threshold(float(least))
    except ValueError:
        pass
    raise typer.BadParameter("a baseline is cosine:T, such as cosine:0.95")


def _verifier(config: Path | None) -> Verifier | None:
    """The one that gateway.yaml names; None: the shipped one. Raises ConfigError."""
    from gateway.reload import build_verifier

    return build_verifier(settings(config))


def _embedded(texts: Sequence[str], config: Path | None) -> NDArray[Any]:
    """Shape (texts, dimension), by the module of the local embedding process; every text once."""
    import numpy as np

    if not texts:
        return np.empty((0, 1), dtype=np.float32)

    from gateway.cli.model_work import Bar, mending
    from local_models import fetch
    from local_models.embed.model import load

    chosen = settings(config)
    different = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    name = chosen.config.embedder.model
    with mending(name), Bar(name) as bar:
        vectors = load(fetch.ensure(name, chosen.models_dir, bar)).embed(list(different)).vectors
    return np.asarray(vectors[[different[text] for text in texts]])
