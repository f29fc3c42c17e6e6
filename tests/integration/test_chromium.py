"""A browser that stops answering fails the test that looks through it, and none after it."""

import psutil
import pytest
from playwright.sync_api import Error

from tests.support.chromium import Chromium


@pytest.mark.browser
def test_a_browser_that_hangs_is_killed_and_replaced() -> None:
    with Chromium() as chromium:
        page = chromium.context().new_page()
        with pytest.raises(Error, match="has been closed"), chromium.bounded(1.0):
            page.evaluate("() => { while (true) {} }")
        with chromium.bounded():
            page = chromium.context().new_page()
            assert page.evaluate("1 + 1") == 2
    assert not [process for process in psutil.Process().children(recursive=True) if "chrom" in process.name()]
