from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.output.summary import Summary
from data_prep.stats.correlation import shift
from ple_rec.config.schema import Task
from tests.data_prep.stats.conftest import described
from tests.data_prep.stats.feed import Feed, write_feed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Feed, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("summary")
    feed = write_feed(folder / "d", more_sparse=24, more_dense=5)
    engine = DuckEngine(folder, memory=1 << 30, threads=2)
    dropped = [
        {"split": "train", "rows": 5 + i, "reason": f"checks.rule_{i} does not hold; " + "x" * 90} for i in range(9)
    ]
    stats = described(engine, feed, dropped=dropped)
    engine.close()
    return feed, stats


def test_it_says_the_essentials(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    text = str(Summary(Path("data/feed"), feed.schema, stats, reused=False))
    assert text.startswith("data/feed: prepared, fingerprint 0123456789ab\n")
    assert "  train            6,000           2  7: 2022-04-25 to 2022-05-01\n" in text
    assert "  valid              700           2  2022-05-02\n" in text
    share = stats["tasks"]["share"]
    outside = sum(found["outside"]["positives"] for found in share.values())
    assert f"  share        {share['train']['mean']:.4f}" in text
    assert f"  {share['train']['positives']:,}; {outside} outside\n" in text
    assert "  correlation of click and watch shifts by " in text
    assert "between values of tab\n" in text
    assert f"in test: at most {stats['columns']['feature_00']['test']['oov_rate']:.2%} (feature_00)\n" in text
    assert f"drift: PSI {stats['drift']['video']['psi']:.3f} (video)" in text
    assert "  left out of train: 13 rows, checks.rule_8 does not hold; xxx" in text
    assert text.endswith("  and 45 rows for other reasons")
    again = Summary(Path("data/feed"), feed.schema.model_copy(update={"parent": "feed" * 5}), stats, reused=True)
    assert str(again).startswith("data/feed: already prepared, fingerprint 0123456789ab, parent feedfeedfeed\n")


def test_it_fits_a_screen(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    tasks = tuple(Task(name=f"task_with_a_long_name_{i:02}", kind="binary", label="click") for i in range(20))
    many = {task.name: stats["tasks"]["click"] for task in tasks}
    for schema, tally in ((feed.schema, stats["tasks"]), (feed.schema.model_copy(update={"tasks": tasks}), many)):
        lines = str(Summary(Path("data/feed"), schema, stats | {"tasks": tally}, reused=False)).splitlines()
        assert len(lines) <= 25


def test_statistics_without_days_slices_and_drift_do(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    tasks = {
        task: {split: {key: value for key, value in each.items() if key != "outside"} for split, each in splits.items()}
        for task, splits in stats["tasks"].items()
    }
    bare = {"version": 2, "rows": stats["rows"], "columns": stats["columns"], "tasks": tasks, "dropped": []}
    text = str(Summary(Path("d"), feed.schema, bare, reused=False))
    assert "  train            6,000           2\n" in text
    assert "shifts by" not in text
    assert "drift" not in text


def test_a_shift_that_the_number_of_comparisons_explains_is_not_told(made: tuple[Feed, dict[str, Any]]) -> None:
    """Of two values with r of 0 and .13, of 1,000 samples each: surely apart alone, and not among forty columns."""
    feed, stats = made
    entries = [{"a": "click", "b": "watch", "samples": 1000, "r": r, "fewest": 500} for r in (0.0, 0.13)]
    values = [{"value": i, "correlation": [entry]} for i, entry in enumerate(entries)]
    column = {"column": "tab", "values": values, "shift": [shift(values, "click", "watch")]}
    alone = str(Summary(Path("d"), feed.schema, stats | {"slices": [column]}, reused=False))
    assert "shifts by 0.130 (0.04" in alone
    many = str(Summary(Path("d"), feed.schema, stats | {"slices": [column] * 40}, reused=False))
    assert "  no correlation of labels shifts significantly between values of a column\n" in many


def test_a_label_of_a_large_spread_is_named(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    text = str(Summary(Path("d"), feed.schema, stats, reused=False))
    watch = stats["tasks"]["watch"]["train"]
    assert f"  sd {watch['std']:.4g}, at most {watch['max']:.4g}\n" in text
    assert "drown" not in text
    large = {
        task: {split: found | ({"std": 30.5} if "std" in found else {}) for split, found in splits.items()}
        for task, splits in stats["tasks"].items()
    }
    text = str(Summary(Path("d"), feed.schema, stats | {"tasks": large}, reused=False))
    line = (
        "  their squared losses may dominate the other losses: watch, rating; scale the label, see docs/prep.md#tasks\n"
    )
    assert line in text
    assert len(text.splitlines()) <= 25
    alone = feed.schema.model_copy(update={"tasks": tuple(t for t in feed.schema.tasks if t.name == "watch")})
    assert "drown" not in str(Summary(Path("d"), alone, stats | {"tasks": large}, reused=False))
