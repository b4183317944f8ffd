"""The page of a plan in a real browser: it is as wide as its window, whatever its head and its tables hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.config.plan import Plan
from ple_rec.planning.page import write_page
from tests.planning.test_page import MIXED, SMALL, many
from tests.train.report.test_browser import BROWSER, measure

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: no Chromium on PATH")
WIDTHS = (400, 1000, 1200, 1600)
PLACE = f"the schema tencent (data/{'a-long-name' * 20} is not there), but 300,000,000 for user_id"


@pytest.mark.parametrize("made", [SMALL, MIXED, many(3)], ids=["small", "mixed", "1024 ranks"])
def test_only_tables_and_charts_scroll_sideways(made: Plan, tmp_path: Path) -> None:
    write_page(tmp_path / "plan.html", made.model_copy(update={"rows_of": PLACE}), "a plan")
    for frame, width in zip(measure(tmp_path / "plan.html", "light", WIDTHS), WIDTHS, strict=True):
        assert (frame["width"], frame["page"]) == (width, width)
        assert frame["beyond"] == []
