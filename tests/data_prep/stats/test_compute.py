"""Every figure of stats.json against NumPy on the same rows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.stats import dense, ids, together
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import Task
from tests.data_prep.stats.conftest import DROPPED, SOURCE, described
from tests.data_prep.stats.feed import FIRST_DAY, ROWS, TABS, Feed, write_feed

Stats = dict[str, Any]


def column(feed: Feed, split: Split, name: str) -> Any:
    """A column as float64, nulls as NaN."""
    return feed.tables[split][name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def inside(feed: Feed, split: Split, task: Task) -> Any:
    return np.ones(ROWS[split], bool) if task.space is None else feed.tables[split][task.space].to_numpy()


def test_it_is_json_of_version_2(stats: Stats) -> None:
    keys = "version rows days columns tasks correlation slices drift values dropped overflow source"
    assert " ".join(json.loads(json.dumps(stats, allow_nan=False))) == keys
    assert (stats["version"], stats["rows"]) == (2, ROWS)
    assert (stats["dropped"], stats["source"]) == (DROPPED, SOURCE)


@pytest.mark.parametrize("name", ["price", "age"])
@pytest.mark.parametrize("split", SPLITS)
def test_dense(stats: Stats, feed: Feed, split: Split, name: str) -> None:
    found, x = stats["columns"][name][split], column(feed, split, name)
    known = x[~np.isnan(x)]
    log = np.sign(known) * np.log1p(np.abs(known))
    assert (found["rows"], found["nulls"], found["bits"]) == (len(x), len(x) - len(known), None)
    assert (found["min"], found["max"]) == (known.min(), known.max())
    expected = [known.mean(), known.std(), log.mean(), log.std()]
    assert [found[k] for k in ("mean", "std", "log_mean", "log_std")] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(found["quantiles"], np.quantile(known, np.linspace(0, 1, 1001)), rtol=1e-12)


@pytest.mark.parametrize("split", SPLITS)
def test_sparse(stats: Stats, feed: Feed, split: Split) -> None:
    for name in ("user", "tab", "video"):
        found, x = stats["columns"][name][split], feed.tables[split][name].to_pylist()
        counts = Counter(x)
        expected: Stats = {"rows": len(x), "oov": counts[0], "oov_rate": counts[0] / len(x), "hit": len(counts)}
        if split == "train":
            top = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
            expected["top"] = [[row, count, count / len(x)] for row, count in top]
        assert found == expected


def test_a_bag_counts_its_ids(stats: Stats, feed: Feed) -> None:
    lists = feed.tables["valid"]["history"].to_pylist()
    every = [row for each in lists for row in each or ()]
    assert stats["columns"]["history"]["valid"] == {
        "rows": len(lists),
        "ids": len(every),
        "mean_length": len(every) / len(lists),
        "empty": sum(not each for each in lists),
        "oov": every.count(0),
        "oov_rate": every.count(0) / len(every),
        "hit": len(set(every)),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_tasks_and_what_their_spaces_leave_out(stats: Stats, feed: Feed, split: Split) -> None:
    for task in feed.schema.tasks:
        found, y, within = stats["tasks"][task.name][split], column(feed, split, task.label), inside(feed, split, task)
        assert found["samples"] == within.sum()
        assert found["mean"] == pytest.approx(y[within].mean(), abs=8 * 2.0**-25)  # labels are at most 8
        assert found["outside"] == {"rows": (~within).sum(), "positives": (np.nan_to_num(y[~within]) > 0).sum()}
        assert found.get("positives") == (None if task.kind == "regression" else (y[within] == 1).sum())
        if task.kind == "regression":
            assert found["std"] == pytest.approx(y[within].std(), rel=1e-6)
            assert found["max"] == y[within].max()
    assert stats["tasks"]["share"]["train"]["outside"]["positives"] > 0


@pytest.mark.parametrize("split", SPLITS)
def test_correlation_on_the_rows_in_both_spaces(stats: Stats, feed: Feed, split: Split) -> None:
    tasks = feed.schema.tasks
    pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    assert [(e["a"], e["b"]) for e in stats["correlation"][split]] == [(a.name, b.name) for a, b in pairs]
    for (a, b), found in zip(pairs, stats["correlation"][split], strict=True):
        both = inside(feed, split, a) & inside(feed, split, b)
        x, y = column(feed, split, a.label)[both], column(feed, split, b.label)[both]
        assert found["samples"] == both.sum()
        if x.std() == 0:  # everything in the space of share is a click
            assert (found["r"], found["fewest"]) == (None, 0)
        else:
            assert found["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-7)


def test_slices_see_the_shift(stats: Stats, feed: Feed) -> None:
    assert [column["column"] for column in stats["slices"]] == ["tab", "video"]
    tab = np.asarray(feed.tables["train"]["tab"])
    slices = stats["slices"][0]
    assert sum(value["samples"] for value in slices["values"]) == ROWS["train"]
    r = {}
    for value in slices["values"]:
        kept = tab == value["value"]
        click, watch = (column(feed, "train", name)[kept] for name in ("click", "watch"))
        r[value["value"]] = np.corrcoef(click, watch)[0, 1]
        assert value["samples"] == kept.sum()
        assert value["means"]["watch"] == pytest.approx(watch.mean(), abs=2.0**-25)
        assert value["correlation"][0]["r"] == pytest.approx(r[value["value"]], abs=1e-7)
    found = next(s for s in slices["shift"] if (s["a"], s["b"]) == ("click", "watch"))
    assert (found["low"], found["high"]) == (3, 1)  # the negative and the strongest correlation of the feed
    assert found["shift"] == pytest.approx(r[1] - r[3], abs=1e-7)
    assert 0.5 < found["interval"][0] < found["shift"] < found["interval"][1] < 1.2
    assert stats["values"]["tab"] == {str(row): text for row, text in enumerate(TABS, start=1)}


def test_days(stats: Stats, feed: Feed) -> None:
    assert [day["day"] for day in stats["days"]] == [f"2022-04-{day}" for day in range(25, 31)] + [
        "2022-05-01",
        "2022-05-02",
    ]
    for number, found in enumerate(stats["days"]):
        assert date(1970, 1, 1) + timedelta(days=FIRST_DAY + number) == date.fromisoformat(found["day"])
        kept = {split: np.asarray(feed.tables[split]["log_day"]) == FIRST_DAY + number for split in SPLITS}
        assert found["rows"] == {split: rows.sum() for split, rows in kept.items() if rows.any()}
        share = feed.schema.tasks[2]
        labels = np.concatenate([column(feed, s, "share")[kept[s] & inside(feed, s, share)] for s in SPLITS])
        expected = {"samples": len(labels), "mean": labels.mean(), "positives": labels.sum()}
        assert found["tasks"]["share"] == pytest.approx(expected)


def test_drift_finds_the_column_that_drifts(stats: Stats) -> None:
    found = stats["drift"]
    assert found["video"]["psi"] > 0.25
    later = [stats["columns"]["video"][split] for split in ("valid", "test")]
    assert found["video"]["oov"] == sum(each["oov"] for each in later) / sum(each["rows"] for each in later)
    assert max(found[name]["psi"] for name in ("tab", "price", "age")) < 0.05
    assert 0 < found["price"]["ks"] < 0.08


@pytest.mark.parametrize("small", [0, 20])
@pytest.mark.parametrize("counts", ["whole", "absent", "of other rows"])
def test_large_tables_give_the_same_figures(
    small: int, counts: str, stats: Stats, duck: DuckEngine, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above `SMALL` rows of a table the train split is counted by a vocabulary whose counts are those of its rows."""
    files = dict(feed.vocabularies)
    if counts != "whole":
        for name, file in files.items():
            table = pq.read_table(file)
            files[name] = tmp_path / file.name
            if counts == "of other rows":
                more = pa.chunked_array([pc.add(table["count"], 1).combine_chunks()])
                pq.write_table(table.set_column(2, "count", more), files[name])
    monkeypatch.setattr(ids, "MAX_CELLS", 0)
    monkeypatch.setattr(ids.lookups, "__defaults__", (small,))
    found = described(duck, feed, vocabularies=files)
    named = {"values": stats["values"]}  # raw values of a vocabulary that is there
    assert json.dumps(found | named) == json.dumps(stats | named)


def test_many_tasks_are_counted_in_blocks(duck: DuckEngine, feed: Feed, stats: Stats) -> None:
    copies = [task.model_copy(update={"name": f"{task.name}_{i}"}) for i in range(2) for task in feed.schema.tasks]
    many = Feed(feed.folder, feed.schema.model_copy(update={"tasks": tuple(copies)}), feed.tables)
    found = described(duck, many)
    for task in ("click", "watch", "share", "rating"):
        assert found["tasks"][f"{task}_1"] == stats["tasks"][task]
    r = {(e["a"], e["b"]): e["r"] for e in found["correlation"]["train"]}
    assert len(r) == 28
    assert r["click_0", "watch_1"] == stats["correlation"]["train"][0]["r"]
    assert r["watch_0", "watch_1"] == pytest.approx(1.0)


def test_slices_by_a_carried_column_and_by_one_of_many_values(duck: DuckEngine, feed: Feed) -> None:
    found = described(duck, feed, slices=["place", "user"])["slices"]
    assert sorted(value["value"] for value in found[0]["values"]) == ["a", "b", "c d"]
    counts = Counter(feed.tables["train"]["user"].to_pylist())
    top = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:64]
    assert {value["value"]: value["samples"] for value in found[1]["values"]} == dict(top)


def test_slices_of_many_rows_take_every_third_of_each_part(duck: DuckEngine, feed: Feed, stats: Stats) -> None:
    found = described(duck, feed, slice_stride=3)
    half = ROWS["train"] // 2
    rows = [row for start in (0, half) for row in range(start, start + half, 3)]
    counts = Counter(feed.tables["train"].take(rows)["tab"].to_pylist())
    assert {value["value"]: value["samples"] for value in found["slices"][0]["values"]} == dict(counts)
    assert {key: each for key, each in found.items() if key not in ("slices", "values")} == {
        key: each for key, each in stats.items() if key not in ("slices", "values")
    }


def test_the_engine_counts_columns_of_many_rows_alike(
    duck: DuckEngine, feed: Feed, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ids, dense, together):
        monkeypatch.setattr(module, "MAX_CELLS", 0)
    assert described(duck, feed) == stats


def test_columns_of_few_rows_come_together_and_alike(
    duck: DuckEngine, feed: Feed, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MAX_CELLS", 3 * sum(ROWS.values()))
    assert described(duck, feed) == stats


def test_without_days_and_names(duck: DuckEngine, tmp_path: Any) -> None:
    found = described(duck, write_feed(tmp_path / "d", days=0), vocabularies={}, names={"tab": {1: "first"}})
    assert found["days"] == []
    assert found["values"] == {"tab": {"1": "first"}}
    assert found["tasks"]["click"]["train"]["samples"] == ROWS["train"]


def test_a_vocabulary_that_has_grown_is_not_asked_for_counts(
    duck: DuckEngine, stats: Stats, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts are those of another day, though they may add up to the rows of this one."""
    monkeypatch.setattr(ids, "MAX_CELLS", 0)
    monkeypatch.setattr(ids.lookups, "__defaults__", (0,))
    turned = {}
    for name, file in feed.vocabularies.items():
        table = pq.read_table(file)
        counts = pa.chunked_array([table["count"].combine_chunks()[::-1]])
        turned[name] = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(2, "count", counts), turned[name])
    own = described(duck, feed, vocabularies=turned)
    assert own["columns"]["tab"] != stats["columns"]["tab"]
    grown = replace(feed, schema=feed.schema.model_copy(update={"parent": "0" * 12}))
    assert described(duck, grown, vocabularies=turned)["columns"] == stats["columns"]
