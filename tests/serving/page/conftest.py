"""One server for all tests of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.http.running import Running, running
from tests.serving.page.browser import Browser, Tab
from tests.serving.page.feeds import READY


@pytest.fixture(scope="session")
def server(feed_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """It answers with a model whose requests have a user, texts, lists, weights and missing values."""
    with running(feed_model, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, server: Running) -> Iterator[Tab]:
    """The page with the first user's feed, which in the end has complained of nothing and asked nobody else."""
    with browser.tab(server.url) as tab:
        tab.wait(READY)
        yield tab
        assert tab.complaints() == []
        assert [url for url in tab.asked() if not url.startswith((server.url, "data:"))] == []


@pytest.fixture(scope="session")
def script(browser: Browser, server: Running) -> Iterator[Callable[..., Any]]:
    """Evaluates JavaScript that has the modules `fusion`, `items` and `pasted`, and `given`."""
    with browser.tab(f"{server.url}/static/fusion.js") as tab:

        def run(expression: str, **given: Any) -> Any:
            modules = ", ".join(f"import('/static/{name}.js')" for name in ("fusion", "items", "pasted"))
            made = f"(fusion, items, pasted, given) => ({expression})"
            return tab.evaluate(f"Promise.all([{modules}]).then(all => ({made})(...all, {json.dumps(given)}))")

        yield run
