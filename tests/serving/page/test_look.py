"""How the page looks: light and dark, on a desk and on a phone; what a person would see at a glance, measured."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.reports.looks import FAINT
from tests.serving.http.running import Running
from tests.serving.page.browser import Browser
from tests.serving.page.feeds import READY

BEYOND = """[...document.querySelectorAll('body *')].filter(node =>
  !node.closest('.scroll, pre, svg, .skip, .hidden') && node.getBoundingClientRect().right > innerWidth + 1
  ).map(node => node.tagName + '.' + node.className)"""


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
@pytest.mark.parametrize(("scheme", "darkest", "lightest"), [("light", 240, 255), ("dark", 0, 45)])
def test_nothing_overflows_and_every_text_has_contrast(
    browser: Browser, server: Running, tmp_path: Path, width: int, height: int, scheme: str, darkest: int, lightest: int
) -> None:
    with browser.tab(server.url, width, height, scheme=scheme) as tab:
        tab.wait(READY)
        tab.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        tab.evaluate("document.getElementById('exponent-0').focus()")
        tab.press("Home")
        assert tab.evaluate("document.querySelectorAll('#feed button .did').length") > 0
        tab.evaluate("document.querySelector('#feed button:has(.did)').click()")
        for view in ("feed", "compare"):
            tab.evaluate(f"document.querySelector('input[value={view}]').click()")
            tab.settle()
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert tab.evaluate(BEYOND) == []
            assert tab.evaluate(FAINT) == []
        tab.shot(tmp_path / "page.png")
        pixels = (matplotlib.image.imread(tmp_path / "page.png")[..., :3] * 255).round()
        assert pixels.shape == (height, width, 3)
        assert darkest <= np.median(pixels[:3]) <= lightest
        assert np.ptp(pixels.mean(axis=2)) > 150


# However slow the machine is: an animation that has ended counts.
COUNT_ANIMATIONS = """(() => {
  const { animate } = Element.prototype;
  window.animated = 0;
  Element.prototype.animate = function (...words) {
    window.animated += this.tagName === "LI";
    return animate.apply(this, words);
  };
})()"""


def test_rows_move_unless_motion_is_unwelcome(browser: Browser, server: Running) -> None:
    for calm in (True, False):
        with browser.tab(server.url, calm=calm) as tab:
            tab.wait(READY)
            tab.settle()  # the height of a row, by which one travels, is measured after the first frame
            tab.evaluate(COUNT_ANIMATIONS)
            tab.evaluate("document.getElementById('exponent-0').focus()")
            tab.press("Home")
            if calm:
                tab.settle()
                assert tab.evaluate("window.animated") == 0
            else:
                tab.wait("window.animated")


def test_nothing_of_the_page_is_made_of_markup(repository: Path) -> None:
    folder = repository / "ple_rec" / "serving" / "page"
    scripts = "\n".join(file.read_text() for file in folder.glob("*.js"))
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", scripts)
    markup = (folder / "index.html").read_text()
    assert not re.findall(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|(?:src|href)=\"(?:https?:)?//", markup)
    loaded = {Path(name).name for name in re.findall(r'(?:src|href)="/static/([^"]+)"', markup)}
    assert loaded == {"house.css", *(file.name for file in folder.iterdir() if file.suffix in (".js", ".css"))}
