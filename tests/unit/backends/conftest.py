"""What several tests of backends stand on."""

from __future__ import annotations

import pytest

from tests.unit.backends.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
