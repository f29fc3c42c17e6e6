"""Local models for the parts: fetched beside the loop, given up without holding anything up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.supervisor import models
from gateway.supervisor.children import State, Unavailable
from local_models import fetch
from tests.support.waiting import until

Said = list[tuple[State, str]]


@pytest.fixture
def said() -> Said:
    return []


async def ensured(name: str, folder: Path, said: Said) -> Path:
    return await models.ensured(name, folder, lambda state, detail: said.append((state, detail)))


async def test_a_model_at_hand_is_found_at_once(tmp_path: Path, said: Said) -> None:
    (tmp_path / "smollm2-135m-instruct-Q4_0.gguf").touch()
    assert await ensured("smollm2-135m-instruct", tmp_path, said) == tmp_path / "smollm2-135m-instruct-Q4_0.gguf"
    assert said == []


def test_a_model_drafts_for_another_where_the_catalogue_says_so_and_it_has_been_pulled(tmp_path: Path) -> None:
    assert models.draft("smollm2-1.7b-instruct", tmp_path) == ()
    small = tmp_path / "smollm2-135m-instruct-Q4_0.gguf"
    small.touch()
    assert models.draft("smollm2-1.7b-instruct", tmp_path) == ("--draft", str(small))
    assert models.draft("smollm2-135m-instruct", tmp_path) == ()


async def test_only_a_pull_goes_to_a_hub(tmp_path: Path, said: Said) -> None:
    with pytest.raises(Unavailable, match="gateway models pull qwen3"):
        await ensured("qwen3-0.6b", tmp_path, said)
    assert not (tmp_path / ".downloads").exists()


async def test_a_name_that_nobody_knows_is_a_reason(tmp_path: Path, said: Said) -> None:
    with pytest.raises(Unavailable, match="did you mean"):
        await ensured("smolm2-135m-instruct", tmp_path, said)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A download that says it is at a half and then hangs until told to go on; set ``broken`` when it was cancelled."""
    go_on, broken = threading.Event(), threading.Event()

    def ensure(name: str, folder: Path, progress: fetch.Progress) -> Path:
        progress("download", 50, 100)
        go_on.wait(30)
        try:
            progress("download", 51, 100)
        except Exception:
            broken.set()
            raise
        return folder / name

    monkeypatch.setattr(fetch, "ensure", ensure)
    yield go_on
    go_on.set()
    assert broken.wait(30)


async def test_progress_is_said_and_a_stop_breaks_it_off(tmp_path: Path, said: Said, stalled: threading.Event) -> None:
    task = asyncio.create_task(ensured("smollm2-135m-instruct", tmp_path, said))
    await until(lambda: said)
    assert said == [("fetching", "download 50 %")]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_sampling_comes_from_the_catalogue() -> None:
    assert models.sampling("smollm2-135m-instruct") == '{"temperature":0.2,"top_p":0.9}'
