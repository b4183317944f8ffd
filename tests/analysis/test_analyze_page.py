"""`analysis.html` in a real browser, light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.analyze_page import write_page
from tests.train.report.test_browser import BROWSER, SCHEMES, WIDTHS, measure

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser on PATH")


@pytest.fixture(scope="module")
def page(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(analyze(tiny_run, by=["tab"], batches=2), tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_overflows_and_every_text_has_contrast(page: Path, scheme: str) -> None:
    for frame, width in zip(measure(page, scheme), WIDTHS, strict=True):
        assert (frame["width"], frame["page"]) == (width, width)
        assert frame["words"] > 2000
        assert frame["beyond"] == []
        assert frame["faint"] == []
