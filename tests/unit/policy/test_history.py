"""What the policies were: kept, listed, put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import NotFound
from gateway.policy import history
from gateway.policy.history import History, read_files, write_files


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    clock = iter(range(1, 1_000))
    monkeypatch.setattr("gateway.policy.history.time.time", lambda: float(next(clock)))
    return History(tmp_path / "history")


def test_the_newest_is_first_and_the_same_files_are_one_version(kept: History) -> None:
    one = kept.record({"default.yaml": "name: default"}, ("default@1",))
    two = kept.record({"default.yaml": "name: default # changed"}, ("default@1",))
    assert [version.id for version in kept.versions()] == [two.id, one.id]
    again = kept.record({"default.yaml": "name: default"}, ("default@1",))
    assert again.id == one.id
    assert [version.id for version in kept.versions()] == [one.id, two.id]


def test_only_the_newest_are_kept(kept: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    made = [kept.record({"default.yaml": str(number)}, ()) for number in range(5)]
    assert [version.id for version in kept.versions()] == [version.id for version in made[:1:-1]]
    with pytest.raises(NotFound):
        kept.get(made[0].id)


def test_a_version_that_was_cut_short_is_passed_over(kept: History, tmp_path: Path) -> None:
    made = kept.record({"default.yaml": "x"}, ())
    (tmp_path / "history" / "broken.json").write_text('{"id": "bro')
    assert [version.id for version in kept.versions()] == [made.id]


def test_a_folder_is_made_to_hold_exactly_these_files(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "default.yaml").write_text("new")
    (tmp_path / "added.yaml").write_text("added")
    (tmp_path / "notes.txt").write_text("not a policy")
    write_files(tmp_path, {"default.yaml": "old", "cases/default.yaml": "cases"})
    assert read_files(tmp_path) == {"default.yaml": "old", "cases/default.yaml": "cases"}
    assert (tmp_path / "notes.txt").read_text() == "not a policy"
