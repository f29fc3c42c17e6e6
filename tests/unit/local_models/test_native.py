from __future__ import annotations

import os

import pytest

from local_models.native import calm_openmp, physical_cores


def test_idle_threads_spin_briefly_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    calm_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    calm_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_wait_policy_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    calm_openmp()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_threads_are_never_more_than_the_cores_at_hand() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
