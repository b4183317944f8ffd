"""Metrics by slice: against scikit-learn on each subset, on one rank and on two, through train and evaluate."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from ple_rec.config.base import Split
from ple_rec.config.load import dump_toml
from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.data.slices import SliceColumn, Slicing
from ple_rec.errors import DataError, UserError
from ple_rec.runs.results import format_results
from ple_rec.training import preflight
from ple_rec.training import slices as slices_module
from ple_rec.training.context import build_context
from ple_rec.training.preflight import check_training
from ple_rec.training.run import _evaluate_split, evaluate_run, train
from ple_rec.training.slices import SliceMetrics, find_slicings
from tests.data.oracle import Row, rows_of
from tests.training.small import on_ranks, ranks_of, resumes, small_config, write_small

pytestmark = pytest.mark.usefixtures("no_charts")

COLUMNS = ["country", "vip", "hour", "tier", "user", "item", "clicked"]
SHOWN = 3
Slices = list[dict[str, Any]]


def _extra(split: Split, table: pa.Table) -> pa.Table:
    """Columns that the schema does not name, in every split but train."""
    if split == "train":
        return table
    n = len(table)
    country = pa.array([None if i % 11 == 0 else "NL" if i % 5 < 2 else "BE" if i % 5 < 4 else "LU" for i in range(n)])
    columns = {
        "country": country,
        "vip": pa.array([i % 4 == 0 for i in range(n)]),
        "hour": pa.array([(i * i) % 7 for i in range(n)], pa.int16()),
        "tier": pa.array(["gold" if i % 9 == 0 else f"t{i % 4}" for i in range(n)]).dictionary_encode(),
        "clicked": table["click"].cast(pa.bool_()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("slices") / "data", edit=_extra)


def _config(data: Path, columns: list[str], **changes: Any) -> Any:
    return small_config(data, {"evaluation": {"slices": columns, "slice_values": SHOWN}} | changes)


def _evaluated(rank: int, world_size: int, data: Path) -> tuple[Slices, Slices, list[list[float]]]:
    """Slices of the test split, exact and by histogram, and the logits, on one rank in file order."""
    job = build_context(_config(data, COLUMNS), ranks_of(rank, world_size))
    found = []
    for limit in (101, 100):  # there are 101 rows
        train = job.config.train.model_copy(update={"exact_auc_limit": limit})
        limited = replace(job, config=job.config.model_copy(update={"train": train}))
        found.append(_evaluate_split(limited, "test")["slices"])
    job.model.eval()
    with torch.no_grad(), closing(job.evaluation_loader("test").epoch(0)) as batches:
        logits = [row for batch in batches for row in job.model(batch)[0][: batch.rows].tolist()]
    return found[0], found[1], logits


@pytest.fixture(scope="module")
def evaluated(data: Path) -> dict[int, tuple[Slices, Slices, list[list[float]]]]:
    results = {}
    for world_size in (1, 2):
        ranks = on_ranks(_evaluated, world_size, data)
        assert all(rank[:2] == ranks[0][:2] for rank in ranks)
        results[world_size] = ranks[0]
    return results


def _named(row: Row, column: str) -> Any:
    """The value of a row as a slice names it; (missing,) where it has none."""
    if column in ("user", "item"):
        return f"{column}-{row[column]}" if row[column] else "out of vocabulary or missing"
    return ("missing",) if row[column] is None else row[column]


def _key(entry: dict[str, Any]) -> Any:
    return next(((flag,) for flag in ("missing", "other") if entry.get(flag)), entry["value"])


def _order(row: Row, column: str) -> Any:
    return row[column] if column in ("user", "item") else _named(row, column)


def _subsets(rows: list[Row], column: str) -> dict[Any, list[int]]:
    """Slice -> its rows, in the order in which they are given."""
    absent = (("missing",), "out of vocabulary or missing")
    counts = Counter((_named(row, column), _order(row, column)) for row in rows)
    ordered = sorted((pair for pair in counts if pair[0] not in absent), key=lambda pair: (-counts[pair], pair[1]))
    keys = [pair[0] for pair in ordered[:SHOWN]]
    subsets: dict[Any, list[int]] = {key: [] for key in (*keys, *absent, ("other",))}
    for i, row in enumerate(rows):
        name = _named(row, column)
        subsets[name if name in subsets else ("other",)].append(i)
    return {key: found for key, found in subsets.items() if found}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("column", COLUMNS)
def test_every_slice_has_the_metrics_of_its_rows(
    data: Path, evaluated: dict[int, Any], column: str, world_size: int
) -> None:
    from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score  # 2 s, which ranks would spend too

    rows, logits = rows_of(DatasetDirectory(data), "test"), torch.tensor(evaluated[1][2], dtype=torch.float64)
    (found,) = [entry for entry in evaluated[world_size][0] if entry["column"] == column]
    subsets = _subsets(rows, column)
    assert [_key(entry) for entry in found["values"]] == list(subsets)
    assert [entry["samples"] for entry in found["values"]] == [len(subset) for subset in subsets.values()]
    assert sum(entry["samples"] for entry in found["values"]) == 101
    for entry, subset in zip(found["values"], subsets.values(), strict=True):
        labels, weights = [rows[i]["click"] for i in subset], [rows[i]["weight"] for i in subset]
        click, watch = entry["tasks"]["click"], entry["tasks"]["watch"]
        assert click["samples"] == len(subset)
        assert click["auc_error_bound"] == (None if len(set(labels)) < 2 else 0)
        expected = None if len(set(labels)) < 2 else roc_auc_score(labels, logits[subset, 0], sample_weight=weights)
        assert click["auc"] == (None if expected is None else pytest.approx(expected, abs=1e-12))
        loss = log_loss(labels, logits[subset, 0].sigmoid(), sample_weight=weights, labels=[0, 1])
        assert click["logloss"] == pytest.approx(loss, rel=1e-5)
        inside = [i for i in subset if rows[i]["watched"]]
        assert watch["samples"] == len(inside)
        if not inside:
            assert watch["mse"] is None
            continue
        error = mean_squared_error(
            [rows[i]["watch_time"] for i in inside],
            logits[inside, 1],
            sample_weight=[rows[i]["weight"] for i in inside],
        )
        assert watch["mse"] == pytest.approx(error, rel=1e-5)


def test_the_columns_together_have_seen_every_case(evaluated: dict[int, Any]) -> None:
    entries = [entry for column in evaluated[1][0] for entry in column["values"]]
    kinds = {type(entry["value"]) for entry in entries}
    assert kinds == {str, bool, int, type(None)}
    assert {"value": None, "missing": True} in [{k: entry.get(k) for k in ("value", "missing")} for entry in entries]
    assert any(entry.get("other") for entry in entries)
    assert {entry["value"] for entry in entries} >= {"out of vocabulary or missing", "user-1", "t1", "NL", False}
    clicked = next(column for column in evaluated[1][0] if column["column"] == "clicked")
    assert [entry["tasks"]["click"]["auc"] for entry in clicked["values"]] == [None, None]  # one class each
    assert [entry["tasks"]["click"]["ne"] for entry in clicked["values"]] == [None, None]


def test_a_split_too_large_for_exact_auc_has_histograms_in_its_slices_too(evaluated: dict[int, Any]) -> None:
    for world_size in (1, 2):
        exact, binned, _ = evaluated[world_size]
        pairs = [
            (a["tasks"]["click"], b["tasks"]["click"])
            for one, other in zip(exact, binned, strict=True)
            for a, b in zip(one["values"], other["values"], strict=True)
        ]
        assert len(pairs) > 20
        assert any(b["auc_error_bound"] for _, b in pairs)
        for a, b in pairs:
            assert {k: v for k, v in a.items() if "auc" not in k} == {k: v for k, v in b.items() if "auc" not in k}
            assert a["auc"] is None or abs(a["auc"] - b["auc"]) <= b["auc_error_bound"] + 1e-12


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_rows_may_be_cut_at_any_time(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(slices_module, "_ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(slices_module, "_ROWS_OF_A_CODE", 0)
    slicing = Slicing(SliceColumn("x", pa.int64()), pa.array([5, 6]))
    task = Task(name="watch", kind="regression", label="watch")
    metrics = SliceMetrics([slicing], [task], torch.device("cpu"), rows=12, exact_limit=0)
    for i in range(4):  # three rows and one of padding; the last value has no row
        codes_BC = torch.tensor([[0], [2], [1 if i else 0], [3]], dtype=torch.int16)
        ones_BK = torch.ones(4, 1)
        batch = Batch(None, torch.zeros(4, 0), ones_BK, ones_BK, None, None, 3, slices_BC=codes_BC)
        metrics.update(batch, torch.tensor([[1.0 + i], [1.5], [3.0], [float("nan")]]))
    (found,) = metrics.compute()
    assert [(entry["value"], entry["samples"]) for entry in found["values"]] == [(5, 5), (6, 3), (None, 4)]
    errors = [entry["tasks"]["watch"]["mse"] for entry in found["values"]]
    assert errors == pytest.approx([(0 + 1 + 4 + 9 + 4) / 5, 4.0, 0.25])


@pytest.mark.parametrize(("values", "rows"), [(2, 65_536), (64, 270_336)])
def test_more_rows_are_held_for_more_codes(values: int, rows: int) -> None:
    slicings = [Slicing(SliceColumn("x", pa.int64()), pa.array(range(v))) for v in (values, 2)]
    task = Task(name="watch", kind="regression", label="watch")
    metrics = SliceMetrics(slicings, [task], torch.device("cpu"), rows=rows, exact_limit=0)
    size = 2048
    codes_BC, ones_BK = torch.zeros(size, 2, dtype=torch.int16), torch.ones(size, 1)
    batch = Batch(None, torch.zeros(size, 0), ones_BK, ones_BK, None, None, size, slices_BC=codes_BC)
    for held in range(size, rows, size):
        metrics.update(batch, ones_BK)
        assert sum(len(part.codes_BC) for part in metrics._pending) == held
    metrics.update(batch, ones_BK)
    assert not metrics._pending


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_group_is_counted_by_one_rank(data: Path, monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    """Each rank in turn; what the others would tell it is left out."""
    dataset, read = DatasetDirectory(data), read_columns
    groups = [(group.file, group.index) for group in dataset.row_groups("test", [])]
    assert len(groups) > world_size
    found: list[list[Any]] = []

    def recorded(group: Any, columns: Any) -> Any:
        found[-1].append((group.file, group.index))
        return read(group, columns)

    def told(tables: list[Any], own: Any) -> None:
        tables[:] = [own] * len(tables)

    monkeypatch.setattr(slices_module, "read_columns", recorded)
    monkeypatch.setattr(dist, "all_gather_object", told)
    for rank in range(world_size):
        found.append([])
        monkeypatch.setattr(slices_module, "rank_and_world", lambda _, rank=rank: (rank, world_size))
        find_slicings(dataset, "test", ["country", "vip"], 2)
    assert sorted(group for read_by_one in found for group in read_by_one) == sorted(groups)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_train_slices_the_final_evaluation_and_a_finished_run_is_sliced_otherwise(data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    metrics = train(_config(data, ["vip"]), run_dir)  # the training split has no such column: it is not read there
    assert json.loads((run_dir / "metrics.json").read_text())["test"]["slices"] == metrics["test"]["slices"]
    assert [column["column"] for column in metrics["valid"]["slices"]] == ["vip"]
    assert "slices" not in (run_dir / "train.jsonl").read_text()

    overrides = ['evaluation.slices=["country","user"]', "evaluation.slice_values=2"]
    other = evaluate_run(run_dir, splits=["test"], checkpoint="best", overrides=overrides)["test"]
    assert [column["column"] for column in other["slices"]] == ["country", "user"]
    assert [_key(entry) for entry in other["slices"][0]["values"]] == ["NL", "BE", ("missing",), ("other",)]
    assert other["tasks"] == metrics["test"]["tasks"]
    assert (
        "slices"
        not in evaluate_run(run_dir, splits=["test"], checkpoint="best", overrides=["evaluation.slices="])["test"]
    )

    again = train(_config(data, ["hour"]), run_dir, resume=True)
    assert [column["column"] for column in again["test"]["slices"]] == ["hour"]
    assert again["test"]["tasks"] == metrics["test"]["tasks"]


def test_a_wrong_column_is_refused_before_anything_starts(data: Path, tmp_path: Path) -> None:
    def refused(columns: list[str], kind: type[Exception] = UserError, of: Path = data) -> str:
        with pytest.raises(kind) as caught:
            check_training(_config(of, columns), tmp_path / "run", resume=False, overwrite=False, world_size=2)
        return str(caught.value)

    known = "user, item, last_item, watched (sample space of watch), request, country, vip, hour, tier, clicked"
    assert refused(["vip", "contry"]) == (
        f"evaluation.slices: got 'contry'; the rows of {data}/valid can be sliced by {known}. Fix: did you mean "
        "'country'?"
    )
    assert refused(["price"]).startswith("evaluation.slices: got 'price', which is float in ")
    assert refused(["tags"]).startswith("evaluation.slices: got 'tags', which is list<element: int32> in ")

    def only_valid(split: Split, table: pa.Table) -> pa.Table:
        return _extra(split, table) if split == "valid" else table

    other = write_small(tmp_path / "other", edit=only_valid)
    assert refused(["vip"], DataError, other) == (
        f"{other}/test/part-00000.parquet: no column vip; evaluation.slices names it. Fix: write the column into every "
        "part of this split, or slice by another one"
    )
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_a_wrong_column_before_the_model_is_built(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text(dump_toml(_config(data, [])))  # and no checkpoint
    monkeypatch.setattr(preflight, "find_trained_checkpoint", lambda *_: None)
    with pytest.raises(UserError, match=r"evaluation\.slices: got 'vipp'.* did you mean 'vip'\?"):
        evaluate_run(tmp_path, splits=["test"], checkpoint="best", overrides=['evaluation.slices=["vipp"]'])


def test_a_run_that_goes_on_may_be_sliced_otherwise(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump_toml(_config(data, ["vip"])))
    resumes(_config(data, ["hour", "tier"], evaluation={"slices": ["hour"], "slice_values": 5}), tmp_path)


def test_slices_stand_below_the_results() -> None:
    def tasks(auc: float | None, mse: float, click: int = 5, watch: int = 3) -> dict[str, Any]:
        return {
            "click": {"auc": auc, "ne": 0.9, "samples": click},
            "watch": {"mse": mse, "rmse": 1.0, "samples": watch},
        }

    values = [
        {"value": True, "samples": 1200, "tasks": tasks(0.75, 0.25, 1200, 1100)},
        {"value": None, "missing": True, "samples": 7, "tasks": tasks(None, 0.5)},
        {"value": None, "other": True, "samples": 3, "tasks": tasks(0.5, 1.0)},
    ]
    run = {"test": {"tasks": tasks(0.7, 0.3), "slices": [{"column": "vip", "values": values}]}}
    assert format_results(run) == (
        "test      AUC      NE  samples\n"
        "click  0.7000  0.9000        5\n"
        "\n"
        "test      MSE    RMSE  samples\n"
        "watch  0.3000  1.0000        3\n"
        "click: few samples; its figures say little\n"
        "watch: few samples; its figures say little\n"
        "\n"
        "by vip     samples  click AUC  watch MSE\n"
        "true         1,200    0.7500     0.2500\n"
        "(missing)        7         -     0.5000*\n"
        "(other)          3    0.5000*    1.0000*\n"
        "* fewer than 100 samples, or than 20 of a class: says little"
    )
