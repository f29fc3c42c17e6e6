"""``gateway models``: the catalogue, and bringing a model onto this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import AsJson, Config, Problem, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from local_models.catalog import Entry

app = typer.Typer(no_args_is_help=True)

_BITS = {"Q2": 3.0, "Q3": 3.9, "Q4": 4.9, "Q5": 5.7, "Q6": 6.6, "Q8": 8.5, "IQ": 4.5}
_UNQUANTISED_BITS = {"F16": 16.0, "BF16": 16.0, "F32": 32.0}
_SURROUNDINGS_BYTES = 400_000_000
_CONTEXT_SHARE = 0.15


@app.command("list")
def list_(config: Config = None, as_json: AsJson = False) -> None:
    """What there is, what is on this machine, and what fits its memory."""
    from local_models import catalog

    chosen, memory = settings(config), _machine_memory()
    rows = [_described(entry, chosen, memory) for entry in catalog.load().values()]
    if as_json:
        print_json({"memory_bytes": memory, "models": rows})
        return
    columns = ("name", "kind", "parameters", "type", "context", "licence", "needs", "fits", "here")
    print_table(columns, [_row(row) for row in rows], right=("parameters", "context", "needs"))
    typer.echo(f"\nThis machine has {memory / 1e9:.1f} GB of memory. `gateway models pull NAME` fetches a model.")


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Default: those configured")] = None,
    config: Config = None,
) -> None:
    """Fetch models and quantise them; a broken-off download goes on where it stopped."""
    from local_models import catalog, download, fetch, quantize

    chosen = settings(config)
    mendable = (catalog.UnknownModel, catalog.CatalogError, download.FetchError, quantize.QuantizeError, OSError)
    for name in names or _configured(chosen):
        try:
            with _Bar(name) as bar:
                path = fetch.ensure(name, chosen.models_dir, bar)
        except mendable as error:
            raise Problem(f"{name}: {error.args[0] if error.args else error}") from None
        typer.echo(f"{name}: {path}")


def _configured(chosen: Settings) -> list[str]:
    config = chosen.config
    embedder = [config.embedder.model] if config.embedder.enabled and not config.embedder.url else []
    return list(dict.fromkeys([model.local for model in config.models if model.local and not model.url] + embedder))


def _described(entry: Entry, chosen: Settings, memory: int) -> dict[str, Any]:
    from local_models import fetch

    needed = _bytes_needed(entry)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "family": entry.family,
        "parameters_billions": entry.parameters.total if entry.parameters else None,
        "active_billions": entry.parameters.active if entry.parameters else None,
        "type": entry.type,
        "context": entry.context,
        "licence": entry.licence,
        "source": entry.source,
        "needs_bytes": needed,
        "fits": needed is not None and needed <= memory,
        "here": fetch.ready_path(entry.name, chosen.models_dir).exists(),
    }


def _bytes_needed(entry: Entry) -> int | None:
    """Weights at the type's bits each, the context's share, and the process around them; an estimate."""
    if entry.parameters is None:
        return None
    kind = entry.type or "F32"
    bits = _UNQUANTISED_BITS.get(kind) or _BITS.get(kind[:2], 16.0)
    return int(entry.parameters.total * 1e9 * bits / 8 * (1 + _CONTEXT_SHARE)) + _SURROUNDINGS_BYTES


def _machine_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["kind"],
        f"{row['parameters_billions']:g} B" if row["parameters_billions"] else "",
        row["type"] or "",
        f"{row['context']:,}",
        row["licence"],
        f"{row['needs_bytes'] / 1e9:.1f} GB" if row["needs_bytes"] else "",
        "yes" if row["fits"] else "no",
        "yes" if row["here"] else "",
    )


class _Bar:
    """local_models' progress as a bar; silent where there is no terminal."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._name = name
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.disable = not self._progress.console.is_terminal
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        self._progress.update(self._task, description=f"{self._name}: {stage}", completed=done, total=total)
