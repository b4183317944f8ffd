"""Every page in a real browser: light, dark, print, narrow. What a person would see at a glance, measured."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.reports.looks import BEYOND, CUT, FAINT, INLINE, UNFOLD
from tests.reports.samples import HOSTILE, PAGES
from tests.serving.page.browser import Browser

WIDTHS = (400, 1100, 1200)
SCHEMES = {"light": (245, 255), "dark": (0, 40)}  # darkest and lightest corner
Written = Callable[[str], Path]


@pytest.fixture(scope="module")
def written(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Write a page once, by its name in `PAGES`."""

    @cache
    def write(name: str) -> Path:
        return PAGES[name](tmp_path_factory.mktemp("pages") / "page")

    return write


@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_and_every_text_has_contrast(name: str, browser: Browser, written: Written) -> None:
    with browser.tab(written(name).as_uri()) as tab:
        tab.evaluate(UNFOLD)
        for scheme in SCHEMES:
            for width in WIDTHS:
                tab.screen(width, 900, scheme)
                tab.settle()
                at = f"{name}, {scheme}, {width}"
                assert tab.evaluate("document.documentElement.scrollWidth") == width, at
                assert tab.evaluate(BEYOND) == [], at
                assert tab.evaluate(INLINE) == [], at
                assert name != "run" or width < 1000 or tab.evaluate(CUT) == [], at
            assert tab.evaluate(FAINT) == [], scheme
        assert tab.evaluate("document.querySelectorAll('script').length") == 0
        assert (HOSTILE in tab.evaluate("document.documentElement.textContent")) is ("hostile" in name)
        assert tab.complaints() == []
        assert len(tab.asked()) == 1  # the page itself


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_follows_the_scheme_of_the_screen(
    scheme: str, browser: Browser, written: Written, tmp_path: Path
) -> None:
    with browser.tab(written("run").as_uri(), 1200, 900, scheme=scheme) as tab:
        tab.shot(tmp_path / "shot.png")
    pixels = (matplotlib.image.imread(tmp_path / "shot.png")[..., :3] * 255).round()
    assert pixels.shape == (900, 1200, 3)
    darkest, lightest = SCHEMES[scheme]
    for corner in (pixels[2, 2], pixels[-3, 2], pixels[2, -3]):
        assert (corner >= darkest).all()
        assert (corner <= lightest).all()
    assert np.ptp(pixels.mean(axis=2)) > 150  # there is ink on it


@pytest.mark.parametrize("name", ["run", "statistics, hostile"])
def test_it_prints_on_a_handful_of_sheets(name: str, browser: Browser, written: Written) -> None:
    with browser.tab(written(name).as_uri()) as tab:
        content = base64.b64decode(tab.call("Page.printToPDF")["data"])
    assert content.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 14


def test_what_the_policy_refuses_would_be_noticed(browser: Browser, written: Written, tmp_path: Path) -> None:
    leaky = tmp_path / "leaky.html"
    leaky.write_text(written("run").read_text().replace("</body>", '<script src="x.js"></script></body>'))
    with browser.tab(leaky.as_uri()) as tab:
        assert "Loading the script" in str(tab.complaints())
