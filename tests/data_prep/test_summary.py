from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.stats.correlation import shift
from data_prep.summary import Summary
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
    assert f"PSI at most {stats['drift']['video']['psi']:.3f} (video)" in text
    assert "  left out of train: 13 rows, checks.rule_8 does not hold; ...\n" in text  # by whole words
    assert text.endswith("  and 45 rows for 6 more reasons")
    again = Summary(Path("data/feed"), feed.schema.model_copy(update={"parent": "feed" * 5}), stats, reused=True)
    assert str(again).startswith("data/feed: already prepared, fingerprint 0123456789ab, parent feedfeedfeed\n")


def test_a_single_further_reason_is_told(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    text = str(Summary(Path("d"), feed.schema, stats | {"dropped": stats["dropped"][:4]}, reused=False))
    assert "  left out of train: 5 rows, checks.rule_0 does not hold; " in text
    assert "more reasons" not in text


def test_it_fits_a_screen(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    tasks = tuple(Task(name=f"task_with_a_long_name_{i:02}", kind="binary", label="click") for i in range(20))
    many = {task.name: stats["tasks"]["click"] for task in tasks}
    for schema, tally in ((feed.schema, stats["tasks"]), (feed.schema.model_copy(update={"tasks": tasks}), many)):
        lines = str(Summary(Path("data/feed"), schema, stats | {"tasks": tally}, reused=False)).splitlines()
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 100


def test_tables_are_named_as_far_as_a_line_goes(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    names = {table.name: f"{table.name}_of_a_long_name_that_says_it_all" for table in feed.schema.tables}
    tables = [table.model_copy(update={"name": names[table.name]}) for table in feed.schema.tables]
    text = str(Summary(Path("d"), feed.schema.model_copy(update={"tables": tuple(tables)}), stats, reused=False))
    (line,) = [line for line in text.splitlines() if f"  {len(tables)} tables of " in line]
    shown = line.count("_of_a_long_name_that_says_it_all ")
    assert 1 <= shown < 5
    assert line.endswith(f" and {len(tables) - shown} smaller")
    assert len(line) <= 100


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
    assert "  no correlation of labels surely shifts between values of a column\n" in many


def test_the_column_of_a_shift_is_always_named(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    slices = [column | {"column": f"{column['column']}_of_all_sub_populations_there_are"} for column in stats["slices"]]
    text = str(Summary(Path("d"), feed.schema, stats | {"slices": slices}, reused=False))
    assert "between values of\n    tab_of_all_sub_populations_there_are\n" in text


def test_the_rule_for_drift_is_not_cut(made: tuple[Feed, dict[str, Any]]) -> None:
    feed, stats = made
    drift = {"a_name_of_20_letters": {"psi": 1.275, "chance": 0.037, "ks": None}}
    text = str(Summary(Path("d"), feed.schema, stats | {"drift": drift}, reused=False))
    (line,) = [line for line in text.splitlines() if "PSI" in line]
    assert line.endswith("(a_name_of_20_letters), 0.037 by chance; large from 0.25 and twice chance")
    assert len(line) <= 100


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
    line = "  their squared losses may drown the others: watch, rating; scale the label, see docs/prep.md#tasks\n"
    assert line in text
    assert len(text.splitlines()) <= 25
    alone = feed.schema.model_copy(update={"tasks": tuple(t for t in feed.schema.tasks if t.name == "watch")})
    assert "drown" not in str(Summary(Path("d"), alone, stats | {"tasks": large}, reused=False))
