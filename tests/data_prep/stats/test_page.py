"""The page: what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.stats import write_page
from data_prep.stats.drift import LARGE, verdict
from data_prep.stats.page.columns import ticks
from data_prep.stats.page.tasks import tasks
from data_prep.stats.page.view import View, figure, percent, signed
from ple_rec.errors import UserError
from tests.data_prep.stats.conftest import described
from tests.data_prep.stats.feed import Feed, write_feed
from tests.reports.runs import Page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, stats: dict[str, Any], feed: Feed) -> Path:
    path = tmp_path_factory.mktemp("page") / "stats.html"
    write_page(stats, feed.schema, path)
    return path


def words(path: Path) -> str:
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", path.read_text("utf-8"), flags=re.DOTALL).split())


def test_it_says_what_the_statistics_say(page: Path, stats: dict[str, Any], feed: Feed) -> None:
    text = words(page)
    lost = sum(found["outside"]["positives"] for found in stats["tasks"]["share"].values())
    inside = sum(found["positives"] for found in stats["tasks"]["share"].values())
    assert f"share : {lost} of {lost + inside} positives" in text
    assert "outside its space, clicked , and are not trained on" in text
    assert "no one mixture of shared experts suits every sample: this is why PLE gives each task experts" in text
    assert "nearby &amp; &lt;near&gt;" in text
    assert "Train 6.00 k 78.9 %, 2022-04-25 to 2022-05-01" in text
    assert re.search(rf"video [0-9. ]*PSI 0\.\d+ {stats['drift']['video']['psi']:.4f} 0\.\d+ large 2\d\.\d\d %", text)
    assert "play_ms &lt;= 2 * duration_ms does not hold train 12 0.20 %" in text
    assert "3 files 3,000 96.7 KiB" in text


def test_a_space_is_told_by_its_condition(stats: dict[str, Any], feed: Feed, tmp_path: Path) -> None:
    """Its column bears the name of the first task that has it, which says nothing beside another one."""
    write_page(stats, feed.schema, tmp_path / "page.html", {"clicked": "is_click = 1"})
    text = words(tmp_path / "page.html")
    assert "outside its space, is_click = 1 , and are not trained on" in text
    assert "binary, where is_click = 1" in text
    assert "clicked" not in text


def test_a_task_says_its_kind_if_only_one_split_has_rows(stats: dict[str, Any], feed: Feed) -> None:
    view = View(stats | {"rows": {"train": stats["rows"]["train"]}}, feed.schema, {})
    details = {row["name"]: row["detail"] for row in tasks(view)["rows"]}
    assert details["click"] == "binary, all rows"
    assert details["share"] == "binary, where clicked"


def test_it_is_well_formed_and_loads_nothing(page: Path) -> None:
    content = page.read_text("utf-8")
    Page(content)
    assert "default-src 'none'" in content
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|nan|None", content)


def test_equal_statistics_give_equal_bytes(page: Path, stats: dict[str, Any], feed: Feed, tmp_path: Path) -> None:
    write_page(stats, feed.schema, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    with pytest.raises(UserError, match=r"cannot be written \(Is a directory\)"):
        write_page(stats, feed.schema, tmp_path)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, duck: DuckEngine) -> Path:
    """Two tasks, fifty columns, no days."""
    folder = tmp_path_factory.mktemp("wide")
    feed = write_feed(folder / "d", more_sparse=34, more_dense=12, days=0)
    tasks = (feed.schema.tasks[0], feed.schema.tasks[3])
    feed = Feed(feed.folder, feed.schema.model_copy(update={"tasks": tasks, "parent": "fedcba"}), feed.tables)
    write_page(described(duck, feed), feed.schema, folder / "stats.html")
    return folder / "stats.html"


def test_without_days_there_is_no_such_section(wide: Path) -> None:
    text = words(wide)
    assert "By day" not in text
    assert "Of all 38 columns" in text
    assert "parent fedcba" in text


def test_numbers_as_people_read_them() -> None:
    assert [percent(x) for x in (None, 0.0, 0.5, 1e-5, 1.0)] == [
        "\u2013",
        "0.00 %",
        "50.00 %",
        "1.0e-03 %",
        "100.00 %",
    ]
    assert [figure(x) for x in (None, 0.0, -2.5, 1234.5, 1e-5, 3e7)] == [
        "\u2013",
        "0",
        "\u22122.5",
        "1,234",
        "1e-05",
        "3e+07",
    ]
    assert [signed(x) for x in (None, -0.25, -0.0001, 0.5)] == ["\u2013", "\u22120.250", "0.000", "0.500"]
    assert [ticks(*ends) for ends in ((0.0, 1.0), (-0.2, 0.31), (10.0, 90.0))] == [
        pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0]),
        pytest.approx([-0.2, 0.0, 0.2]),
        pytest.approx([20.0, 40.0, 60.0, 80.0]),
    ]


def test_drift_that_chance_explains_is_none() -> None:
    assert [verdict(psi, 0.001) for psi in (0.09, 0.1, LARGE)] == ["stable", "moderate", "large"]
    assert verdict(0.3, 0.2) == "stable"
