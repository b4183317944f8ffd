"""The pictures of docs/serve-page.md, from a server that runs: python -m docs.images.serve_page http://127.0.0.1:8000."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.serving.page.browser import Browser, Tab
from tests.serving.page.feeds import READY

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1280, 800


def drag(tab: Tab) -> None:
    """Move two exponents by keys."""
    for k, keys in ((0, ["ArrowLeft"] * 12), (2, ["ArrowRight"] * 10)):
        tab.evaluate(f"document.getElementById('exponent-{k}').focus()")
        tab.press(*keys)
    tab.evaluate("document.activeElement.blur()")
    tab.settle()
    # The feed fades in after it has come.
    time.sleep(0.2)


def main() -> int:
    """Open the page, drag, take both views."""
    (address,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        with browser.tab(address, WIDTH, HEIGHT) as tab:
            tab.wait(READY)
            drag(tab)
            tab.shot(HERE / "serve-page.png")
        with browser.tab(address, WIDTH, HEIGHT, scheme="dark") as tab:
            tab.wait(READY)
            drag(tab)
            tab.evaluate("document.querySelector('input[value=compare]').click()")
            tab.settle()
            tab.shot(HERE / "serve-page-compare.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
