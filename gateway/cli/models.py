"""``gateway models``: the catalogue, bringing a model onto this machine, and tuning it to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import tuning
from gateway.cli.model_work import Bar, mending
from gateway.cli.options import AsJson, Config, print_json, print_table, settings

if TYPE_CHECKING:
    from gateway.config import Settings
    from local_models.catalog import Entry

app = typer.Typer(no_args_is_help=True)

app.command("quantize")(tuning.quantize)
app.command("bench")(tuning.bench)


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
    from local_models import fetch

    chosen = settings(config)
    for name in names or _configured(chosen):
        with mending(name), Bar(name) as bar:
            path = fetch.ensure(name, chosen.models_dir, bar)
        typer.echo(f"{name}: {path}")


def _configured(chosen: Settings) -> list[str]:
    config = chosen.config
    embedder = [config.embedder.model] if config.embedder.enabled and not config.embedder.url else []
    return list(dict.fromkeys([model.local for model in config.models if model.local and not model.url] + embedder))


def _described(entry: Entry, chosen: Settings, memory: int) -> dict[str, Any]:
    from local_models import fetch

    needed = entry.memory_bytes
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
