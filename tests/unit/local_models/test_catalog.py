from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from local_models import catalog
from local_models.catalog import CatalogError, FileSource, HubSource, UnknownModel, WheelSource


def test_the_catalogue_lists_the_usual_families_with_their_facts() -> None:
    entries = catalog.load()
    chat = [entry for entry in entries.values() if entry.kind == "chat"]
    assert {"smollm2", "qwen2.5", "qwen3", "llama3", "gemma2", "gemma3", "phi3", "phi4"} <= {e.family for e in chat}
    for entry in chat:
        assert entry.parameters is not None
        assert 0.1 <= entry.parameters.active <= entry.parameters.total <= 9
        assert entry.context >= 8192
        assert entry.licence
        assert entry.sampling.temperature is not None


def test_every_source_reads_and_hub_entries_invent_no_digest() -> None:
    for entry in catalog.load().values():
        source = catalog.parse_source(entry.source)
        if isinstance(source, HubSource):
            assert source.file.endswith(".gguf")
            assert entry.sha256 is None
        else:
            assert isinstance(source, WheelSource)
            assert entry.archive_sha256


def test_the_default_models_are_requantised_and_a_folder() -> None:
    assert catalog.entry("smollm2-135m-instruct").filename == "smollm2-135m-instruct-Q4_0.gguf"
    assert catalog.entry("smollm2-135m-instruct").source_filename == "smollm2-135m-instruct-Q4_1.gguf"
    assert catalog.entry("all-MiniLM-L6-v2").filename == "all-MiniLM-L6-v2"


def test_memory_is_about_the_weights_and_a_little_more() -> None:
    assert 0.3e9 < (catalog.entry("smollm2-135m-instruct").memory_bytes or 0) < 0.6e9
    assert 5.5e9 < (catalog.entry("llama-3.1-8b-instruct").memory_bytes or 0) < 7e9
    assert catalog.entry("file:/models/bar.F16.gguf").memory_bytes is None


def test_case_of_a_name_does_not_matter() -> None:
    assert catalog.entry("ALL-minilm-l6-V2").name == "all-MiniLM-L6-v2"


def test_an_unknown_name_gets_suggestions() -> None:
    with pytest.raises(UnknownModel, match=r"did you mean smollm2-135m-instruct"):
        catalog.entry("smollm2-135m")
    with pytest.raises(UnknownModel, match=r"known: smollm2-135m-instruct, "):
        catalog.entry("gpt-9000-ultra-xxl")


def test_a_source_written_out_needs_no_entry() -> None:
    entry = catalog.entry("hf:someone/Foo-1.5B-GGUF/Foo-1.5B-Q5_K_M.gguf")
    assert (entry.name, entry.type, entry.filename) == ("Foo-1.5B", "Q5_K_M", "Foo-1.5B-Q5_K_M.gguf")
    assert catalog.entry("file:/models/bar.F16.gguf").filename == "bar-F16.gguf"
    assert catalog.entry("file:/models/plain.gguf").filename == "plain-GGUF.gguf"


@pytest.mark.parametrize(
    "source", ["hf:owner/repo/weights.bin", "wheel:x==1/y.gguf", "file:/models/with blank.gguf", "hf:just-one-part"]
)
def test_a_source_written_out_that_cannot_be_served_is_refused(source: str) -> None:
    with pytest.raises(CatalogError, match="source"):
        catalog.entry(source)


def test_sources_are_read_into_their_parts() -> None:
    assert catalog.parse_source("wheel:a-b==1.2.post1/c/d.gguf") == WheelSource("a-b", "1.2.post1", "c/d.gguf")
    assert catalog.parse_source("hf:own/rep/sub/f.gguf") == HubSource("own/rep", "sub/f.gguf")
    assert catalog.parse_source("file:/x/y.gguf") == FileSource(Path("/x/y.gguf"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- {name: a, kind: chat, source: 'http://x', type: Q4_0, source_type: Q4_0}", "expected wheel:"),
        ("- {name: a, kind: chat, source: 'hf:a/b/c.gguf'}", "needs type and source_type"),
        ("- {name: a, kind: embed, source: 'wheel:a==1/b'}", "needs archive_sha256"),
        ("- {name: a, kind: chat, source: 'hf:a/b/c.gguf', type: F16, source_type: F16, draft: b}", "its draft 'b'"),
        ("- {name: a, kind: chat, source: 'hf:a/b/c.gguf', type: F16, source_type: F16, draft: a}", "its draft 'a'"),
        ("- {name: a, kind: chat, source: x, colour: red}", "unknown field `colour`"),
        ("- {name: '../a', kind: chat, source: x}", r"name"),
        ("- {name: a, kind: chat, source: x, parameters: {total: 0, active: 1}}", r"parameters\.total"),
        ("- [", "while parsing"),
    ],
)
def test_a_bad_catalogue_says_which_file_and_what(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError, match=complaint) as caught:
        catalog.load(path)
    assert str(path) in str(caught.value)


def test_threads_that_read_it_for_the_first_time_at_once_do_not_end_the_process() -> None:
    """As those that fetch the chat model and the embedder at a start do."""
    code = """
import sys, threading
from local_models import catalog
sys.setswitchinterval(1e-5)
together = threading.Barrier(4)
def read():
    together.wait()
    catalog.load()
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert [subprocess.run([sys.executable, "-c", code]).returncode for _ in range(8)] == [0] * 8
