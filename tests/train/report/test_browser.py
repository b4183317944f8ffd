"""The page in a real browser: light, dark, print, narrow. What a person would see at a glance, measured.

The page allows no script, so it is measured from outside: a page of our own holds it in frames of several widths.
"""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from ple_rec.train.report.page import write_report
from tests.train.report.rich import gates_of_every_kind, write_rich_run

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs a browser: none of {', '.join(BROWSERS)} on PATH")

WIDTHS = (400, 1100)
SCHEMES = {"dark": 0, "light": 1}  # Blink's preferredColorScheme

# Per frame: its width, the page's, and every text whose contrast with what lies behind it is below WCAG's AA.
MEASURE = """
const rgb = text => { const n = text.match(/[\\d.e+-]+/g).map(Number);
  return (text.startsWith('color(') ? n.map((v, i) => i < 3 ? 255 * v : v) : n); };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = (view, node) => { for (; node; node = node.parentElement) {
  const color = rgb(view.getComputedStyle(node).backgroundColor); if (color.length < 4 || color[3] > 0) return color; }
  return rgb(view.getComputedStyle(view.document.documentElement).backgroundColor); };
const faults = view => { const found = new Set();
  const texts = view.document.createTreeWalker(view.document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) { const node = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
    if (!words || node.closest('title, style')) continue;
    const style = view.getComputedStyle(node), ink = node.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(rgb(ink)), light(behind(view, node))].sort((a, b) => b - a), ratio = (a + .05) / (b + .05);
    if (!(ratio >= 4.5)) found.add(`${words.slice(0, 30)}: ${ratio.toFixed(2)} (${ink})`); }
  return [...found]; };
onload = () => { document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
  const view = frame.contentWindow, root = view.document.documentElement;
  view.document.querySelectorAll('details').forEach(fold => fold.open = true);
  const beyond = [...view.document.querySelectorAll('body *')].filter(node => !node.closest('.scroll, pre') &&
    node.getBoundingClientRect().right > frame.clientWidth + 1).map(node => node.tagName + '.' + node.className);
  return {width: frame.clientWidth,
    cut: [...view.document.querySelectorAll('#results .scroll, #slices .scroll')]
      .filter(node => node.scrollWidth > node.clientWidth).map(node => node.innerText.slice(0, 60)),
    inline: [...view.document.querySelectorAll('.panels.square small')].filter(node => node.offsetLeft >
      node.parentElement.offsetLeft + 1).map(node => node.innerText),
    words: view.document.body.innerText.length, page: root.scrollWidth, beyond, faint: faults(view)}; })); };
"""


def browse(page: Path, *options: str) -> str:
    """Open a page; what the browser would print of it, and no word on the console, as from a refused resource."""
    assert BROWSER is not None
    base = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--enable-logging=stderr")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, "--headless", *base, profile, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said == []
    return done.stdout


def measure(page: Path, scheme: str, widths: Sequence[int] = WIDTHS) -> list[dict[str, Any]]:
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe srcdoc="{source}" style="width:{width}px;height:900px;border:0"></iframe>' for width in widths
    )
    wrapper = page.with_name(f"measure-{scheme}.html")
    wrapper.write_text(
        f'<meta name="color-scheme" content="light dark"><script>{MEASURE}</script>{frames}', encoding="utf-8"
    )
    dump = browse(wrapper, f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dump)
    assert title, "the wrapper did not run"
    measured: list[dict[str, Any]] = json.loads(html.unescape(title.group(1)))
    return measured


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("browser") / "run"
    return write_report(write_rich_run(run, gates=gates_of_every_kind()))


@pytest.mark.parametrize(("scheme", "darkest", "lightest"), [("light", 245, 255), ("dark", 0, 40)])
def test_the_page_follows_the_scheme_of_the_screen(page: Path, scheme: str, darkest: int, lightest: int) -> None:
    shot = page.with_name(f"{scheme}.png")
    scheme_option = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    browse(page, scheme_option, "--window-size=1200,900", f"--screenshot={shot}")
    pixels = (matplotlib.image.imread(shot)[..., :3] * 255).round()
    assert pixels.shape == (900, 1200, 3)
    for corner in (pixels[2, 2], pixels[-3, 2], pixels[2, -3]):
        assert (corner >= darkest).all()
        assert (corner <= lightest).all()
    assert np.ptp(pixels.mean(axis=2)) > 150  # there is ink on it


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_overflows_and_every_text_has_contrast(page: Path, scheme: str) -> None:
    for frame, width in zip(measure(page, scheme), WIDTHS, strict=True):
        assert (frame["width"], frame["page"]) == (width, width)
        assert frame["words"] > 5000
        assert frame["beyond"] == []
        assert frame["faint"] == []
        assert frame["inline"] == []
        assert width < 1000 or frame["cut"] == []


def test_it_prints_on_a_handful_of_pages(page: Path) -> None:
    paper = page.with_name("report.pdf")
    browse(page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF-")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 14


def test_what_the_policy_refuses_would_be_noticed(page: Path) -> None:
    leaky = page.with_name("leaky.html")
    leaky.write_text(page.read_text(encoding="utf-8").replace("</body>", '<script src="x.js"></script></body>'))
    with pytest.raises(AssertionError, match="Loading the script"):
        browse(leaky, "--dump-dom")
