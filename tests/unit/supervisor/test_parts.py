"""What the parts' command lines say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import config
from gateway.supervisor.parts import all_parts

MODEL = "smollm2-135m-instruct"


async def chat_command(folder: Path, engine: str) -> str:
    (folder / "models").mkdir()
    (folder / "models" / f"{MODEL}-Q4_0.gguf").touch()
    file = folder / "gateway.yaml"
    file.write_text(f"models: [{{name: small, local: {MODEL}, engine: {engine}}}]\n")
    settings = config.load(file, {"GATEWAY_DATA_DIR": str(folder), "GATEWAY_MODELS_DIR": str(folder / "models")})
    (part,) = (part for part in all_parts(settings, 0, 0) if part.name.startswith("chat-"))
    return " ".join((await part.launch(lambda *_: None)).command)


async def test_a_chat_engine_is_told_only_what_was_configured(tmp_path: Path) -> None:
    command = await chat_command(tmp_path, "{slots: 4, default_max_tokens: 4000}")
    assert "--slots 4" in command
    assert "--default-max-tokens 4000" in command
    assert not any(option in command for option in ("--keep", "--ctx", "--lazy", "--draft"))


@pytest.mark.parametrize("size", [1, 1 << 30])
async def test_conversations_are_kept_in_the_data_folder_where_they_may_take_bytes(tmp_path: Path, size: int) -> None:
    command = await chat_command(tmp_path, f"{{load: lazy, keep_bytes: {size}}}")
    assert f"--keep {tmp_path / 'kv' / MODEL} --keep-bytes {size}" in command
    assert command.endswith("--lazy")
