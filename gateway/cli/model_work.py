"""What commands on local models share: a bar for their progress, and what their user can mend."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from gateway.cli.options import Problem


@contextmanager
def mending(name: str) -> Iterator[None]:
    """Turn whatever the user of a command can mend into a Problem that names the model; SIGTERM ends it tidily."""
    from local_models import bench, catalog, download, gguf, measure, prune, quantize

    mendable = (
        catalog.UnknownModel, catalog.CatalogError, download.FetchError, gguf.NotGGUF, quantize.QuantizeError,
        prune.PruneError, measure.MeasureError, bench.BenchError, OSError,
    )  # fmt: skip
    with _unwinding():
        try:
            yield
        except mendable as error:
            raise Problem(f"{name}: {error.args[0] if len(error.args) == 1 else error}") from None


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: children are stopped, and unfinished files go."""

    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Bar:
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

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        self._progress.update(self._task, description=f"{self._name}: {stage}", completed=done, total=total)
