"""A browser that stops answering fails the test that looks through it, and none after it."""

import contextlib

import psutil
import pytest
from playwright.sync_api import Error

from tests.support.chromium import Chromium
from tests.support.serving import until


@pytest.mark.browser
def test_a_browser_that_hangs_is_killed_and_replaced() -> None:
    with Chromium() as chromium:
        page = chromium.context().new_page()
        with pytest.raises(Error, match="has been closed"), chromium.bounded(1.0):
            page.evaluate("() => { while (true) {} }")
        with chromium.bounded():
            page = chromium.context().new_page()
            assert page.evaluate("1 + 1") == 2
    until(lambda: not browsers())


def browsers() -> list[str]:
    """Those among this process's descendants; what has just ended may be there for a moment."""
    names = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
    return [name for name in names if "chrom" in name]
