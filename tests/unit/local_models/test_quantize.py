from __future__ import annotations

import struct
from pathlib import Path

import pytest

from local_models import fetch, gguf
from local_models.gguf import NotGGUF
from local_models.quantize import QuantizeError, quantize
from tests.support.gguf_files import METADATA, gguf_file
from tests.support.models import CHAT, chat_model, models_dir


@pytest.fixture(scope="module")
def pulled() -> Path:
    chat_model()
    return fetch.pull(CHAT, models_dir())


def test_the_requantised_default_is_smaller_and_whole(pulled: Path) -> None:
    gguf.check(chat_model())
    assert 0.8 < chat_model().stat().st_size / pulled.stat().st_size < 1


def test_a_model_is_written_in_another_type_and_progress_told(tmp_path: Path, pulled: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    target = quantize(pulled, tmp_path / "out.gguf", "Q8_0", lambda *step: seen.append(step))
    gguf.check(target)
    assert target.stat().st_size > pulled.stat().st_size
    assert seen[-1] == ("quantize", pulled.stat().st_size, pulled.stat().st_size)
    assert list(tmp_path.iterdir()) == [target]


def test_an_unknown_type_is_refused_and_leaves_nothing(tmp_path: Path, pulled: Path) -> None:
    with pytest.raises(QuantizeError, match="unknown quantisation type 'Q99'"):
        quantize(pulled, tmp_path / "out.gguf", "Q99")
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_off_is_refused_before_llama_cpp_sees_it(tmp_path: Path, pulled: Path) -> None:
    short = tmp_path / "short.gguf"
    with pulled.open("rb") as source:
        short.write_bytes(source.read(5 << 20))
    with pytest.raises(NotGGUF, match="cut off"):
        quantize(short, tmp_path / "out.gguf", "Q8_0")
    assert list(tmp_path.iterdir()) == [short]


def test_what_llama_cpp_refuses_does_no_harm_to_us(tmp_path: Path) -> None:
    strange = tmp_path / "strange.gguf"
    names = {key.replace("llama.", "nonsense."): value for key, value in METADATA.items()}
    strange.write_bytes(gguf_file({**names, "general.architecture": "nonsense"}))
    with pytest.raises(QuantizeError, match="strange"):
        quantize(strange, tmp_path / "out.gguf", "Q8_0")
    assert list(tmp_path.iterdir()) == [strange]


def test_layers_are_left_out_on_the_way(tmp_path: Path, pulled: Path) -> None:
    target = quantize(pulled, tmp_path / "out.gguf", "Q8_0", dropped=frozenset(range(3, 30)))
    assert gguf.read(target).get("block_count") == 3
    assert list(tmp_path.iterdir()) == [target]


def test_llama_cpps_own_log_is_silent_unless_asked_for(
    tmp_path: Path, pulled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize(pulled, tmp_path / "out.gguf", "Q8_0")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (b"GG", "too few"),
        (struct.pack("<4sIQQ", b"GGML", 3, 1, 1) + bytes(64), "starts with b'GGML'"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 1, 1) + bytes(64), "version 1"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1) + bytes(64), "do not fit"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0) + bytes(64), "do not fit"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, head: bytes, complaint: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(head)
    with pytest.raises(NotGGUF, match=complaint):
        gguf.check(path)
