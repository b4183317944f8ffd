"""Health of tables: rows that no batch held, quantiles of norms exact and from a histogram, shares of lookups."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from ple_rec.checkpoint.load import load_state
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.base import Split
from ple_rec.distributed.table_rows import RowBlock
from ple_rec.runs.layout import CHECKPOINTS
from ple_rec.training import table_health as health
from ple_rec.training.context import build_context
from ple_rec.training.run import train
from ple_rec.training.table_health import PERCENTS, concentration, row_health, table_health
from tests.datasets import TABLES, set_column
from tests.training.small import SGD, on_ranks, ranks_of, small_config, train_small, whole_tables, write_small

FEATURES = {"user": ["user"], "item": ["item", "last_item"], "tag": ["tags"]}
CASES: dict[str, dict[str, Any]] = {
    "row_wise sgd": SGD | {"embeddings": {"dim": 4, "sharding": "row_wise"}},
    "table_wise adagrad": {"embeddings": {"dim": 4, "sharding": "table_wise", "init_scale": 0.5}},
    "half adagrad": {"embeddings": {"dim": 4, "dtype": "fp16", "sharding": "row_wise"}},
}
NAMES = [f"{percent / 100:g}" for percent in PERCENTS]
BIN = 2**-8  # half a bin, relative


def _few_ids(split: Split, table: pa.Table) -> pa.Table:
    """Every third row of `user` and `item` alone is ever looked up; of `tag` rows 0 to 5."""
    for name in ("user", "item", "last_item"):
        table = set_column(table, name, table[name].to_numpy() // 3 * 3)
    tags = table["tags"].combine_chunks()
    kept = pa.ListArray.from_arrays(tags.offsets, pc.bit_wise_and(tags.values, 5), mask=tags.is_null())
    return set_column(table, "tags", kept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("health")
    write_small(folder / "data", edit=_few_ids)
    return folder


def _config(data: Path, changes: dict[str, Any]) -> Any:
    whole_epoch = {"batch_size": 24, "steps": 9, "report_every": 9}
    return small_config(
        data,
        {"data": {"path": str(data), "drop": ["history"], "virtual_shards": 12}} | changes | {"train": whole_epoch},
    )


Trained = dict[str, tuple[Any, Any, dict[str, Tensor]]]  # exact figures, those from a histogram, and the tables


def _trained(rank: int, world_size: int, data: Path, runs: Path) -> Trained:
    results = {}
    for name, changes in CASES.items():
        job = train_small(rank, world_size, _config(data, changes), runs / f"{world_size} {name}")
        exact = table_health(job)
        health.EXACT_ROWS = 0
        results[name] = exact, table_health(job), whole_tables(job.model)
        health.EXACT_ROWS = 1 << 20
    return results


class _OnOne(NamedTuple):
    """What one rank finds, all in one process: to start one takes longer."""

    trained: Trained
    quantiles: list[dict[str, Any]]
    checkpoints: dict[str, Any]


class _OnTwo(NamedTuple):
    """What each of two ranks finds."""

    trained: Trained
    quantiles: list[dict[str, Any]]
    untrained: list[Any]


def _on_two(rank: int, world_size: int, folder: Path) -> _OnTwo:
    untrained = [
        table_health(build_context(small_config(folder / name), ranks_of(rank, world_size)))
        for name in ("plain", "dense")
    ]
    trained = _trained(rank, world_size, folder / "data", folder / "runs")
    return _OnTwo(trained, _quantiles(rank, world_size), untrained)


@pytest.fixture(scope="module")
def on_two(folder: Path) -> list[_OnTwo]:
    write_small(folder / "plain")
    (folder / "plain" / "vocab" / "item.parquet").unlink()
    write_small(folder / "dense", single=False, shared_table=False, bag=False, weighted_bag=False)
    return on_ranks(_on_two, 2, folder)


@pytest.fixture(scope="module")
def whole_run(folder: Path) -> list[dict[str, Any]]:
    """What two ranks return from a run whose best checkpoint is not its last."""
    return on_ranks(_whole_run, 2, folder / "data", folder / "run", init=False)


def _on_one(rank: int, world_size: int, folder: Path) -> _OnOne:
    trained = _trained(rank, world_size, folder / "data", folder / "runs")
    return _OnOne(trained, _quantiles(rank, world_size), _of_checkpoints(folder / "data", folder / "run"))


@pytest.fixture(scope="module")
def on_one(folder: Path, whole_run: list[dict[str, Any]]) -> _OnOne:
    (found,) = on_ranks(_on_one, 1, folder)
    return found


@pytest.fixture(scope="module")
def trained(on_one: _OnOne, on_two: list[_OnTwo]) -> dict[int, list[Trained]]:
    return {1: [on_one.trained], 2: [found.trained for found in on_two]}


def _looked_up(data: Path) -> dict[str, set[int]]:
    rows = pa.concat_tables([pq.read_table(file) for file in sorted((data / "train").glob("*.parquet"))])
    columns = {name: rows[name].combine_chunks() for names in FEATURES.values() for name in names}
    ids = {n: c.flatten() if pa.types.is_list(c.type) else c for n, c in columns.items()}
    return {table: {row for name in names for row in ids[name].to_pylist()} for table, names in FEATURES.items()}


def test_rows_that_no_batch_held_were_never_touched(trained: dict[int, Any], folder: Path) -> None:
    seen = _looked_up(folder / "data")
    expected = {table: len(set(range(1, rows)) - seen[table]) for table, rows in TABLES.items()}
    assert expected == {"user": 16, "item": 26, "tag": 8}
    for results in trained.values():
        for result in results:
            for name in CASES:
                for figures in result[name][:2]:
                    assert {t["table"]: t["never_touched"] for t in figures} == expected, name
                    assert [(t["rows"], t["dim"]) for t in figures] == [(TABLES[t["table"]], 4) for t in figures]


def test_norms_are_those_of_the_whole_tables(trained: dict[int, Any]) -> None:
    for results in trained.values():
        for name in CASES:
            exact, coarse, whole = results[0][name]
            for fine, rough in zip(exact, coarse, strict=True):
                norm_N = whole[fine["table"]].double().norm(dim=1)
                expected = torch.quantile(norm_N, torch.tensor(PERCENTS, dtype=torch.float64) / 100).tolist()
                assert fine["norms"] == dict(zip(NAMES, (pytest.approx(v, rel=1e-6) for v in expected), strict=True))
                assert rough["norms"] == dict(zip(NAMES, (pytest.approx(v, rel=BIN) for v in expected), strict=True))
                assert (rough["norms"]["0"], rough["norms"]["1"]) == (fine["norms"]["0"], fine["norms"]["1"])
                assert rough["norms"] != fine["norms"]  # so the histogram was there


def test_every_rank_has_the_same_result(trained: dict[int, Any]) -> None:
    first, second = trained[2]
    for name in CASES:
        assert first[name][:2] == second[name][:2]


def test_lookups_are_the_vocabularys(trained: dict[int, Any], folder: Path) -> None:
    for entry in trained[2][1]["row_wise sgd"][0]:
        counts = pq.read_table(folder / "data" / "vocab" / f"{entry['table']}.parquet")["count"].to_pylist()
        assert entry["lookups"] == sum(counts) > 0
        assert entry["top_share"] == max(counts) / sum(counts)  # 1 % of 11, 23 and 39 rows: one row


def _whole_run(rank: int, world_size: int, data: Path, run_dir: Path) -> dict[str, Any]:
    too_fast = SGD | {"dense_optimizer": {"kind": "sgd", "learning_rate": 20.0}}
    config = small_config(data, too_fast | {"train": {"batch_size": 24, "steps": 2, "evaluate_every": 1}})
    return train(config, run_dir)


def _of_checkpoints(data: Path, run_dir: Path) -> dict[str, Any]:
    job = build_context(small_config(data, SGD), ranks_of(0, 1))
    found = {}
    for which in ("best", "latest"):
        state = {"model": job.model.state_dict()}
        path = CheckpointStore(run_dir / CHECKPOINTS).find(which)
        assert path is not None
        load_state(path, state)
        job.model.load_state_dict(state["model"])
        found[which] = table_health(job)
    return found


def test_a_run_stores_the_figures_of_its_best_checkpoint(
    folder: Path, whole_run: list[dict[str, Any]], on_one: _OnOne
) -> None:
    (first, second), expected = whole_run, on_one.checkpoints
    assert first["best_step"] < first["steps"]
    stored = json.loads((folder / "run" / "metrics.json").read_text())
    assert stored["table_health"] == first["table_health"] == second["table_health"]
    assert stored["table_health"] == expected["best"] != expected["latest"]


def test_without_training_vocabulary_or_tables(on_two: list[_OnTwo]) -> None:
    first, second = (found.untrained for found in on_two)
    assert first == second
    found, without_tables = first
    assert without_tables == []
    by_table = {entry["table"]: entry for entry in found}
    assert {name: entry["never_touched"] for name, entry in by_table.items()} == {
        name: rows - 1 for name, rows in TABLES.items()
    }
    assert (by_table["item"]["top_share"], by_table["item"]["lookups"]) == (None, None)
    assert by_table["user"]["lookups"] > 0


def _spread() -> Tensor:
    """5001 squared norms over 24 decades, some 0."""
    exponent_N = torch.linspace(-12, 12, 5001, dtype=torch.float64)
    norm_N = 10 ** exponent_N[torch.randperm(5001, generator=torch.Generator().manual_seed(0))]
    norm_N[::50] = 0
    return norm_N.square()


def _quantiles(rank: int, world_size: int) -> list[dict[str, Any]]:
    """With gathered norms, and from the histogram."""
    cases = {
        "spread": _spread(),
        "one": torch.tensor([4.0], dtype=torch.float64),
        "zero": torch.zeros(9, dtype=torch.float64),
        "ends badly": torch.tensor([1.0, 4.0, math.nan, math.inf, 1e80], dtype=torch.float64),
    }
    results = []
    usual = health.EXACT_ROWS
    for health.EXACT_ROWS in (usual, 0):
        found = {}
        for name, square_N in cases.items():
            moved_N = torch.arange(len(square_N)) % 5 == 1
            first, last = (len(square_N) * part // world_size for part in (rank, rank + 1))
            edges = [*range(first, last, 700), last]
            blocks = [RowBlock(a, square_N[a:b], moved_N[a:b]) for a, b in pairwise(edges)]
            found[name] = row_health(blocks, len(square_N), torch.device("cpu"))
        results.append(found)
    health.EXACT_ROWS = usual
    return results


@pytest.mark.parametrize("path", [0, 1], ids=["gathered", "histogram"])
def test_quantiles_of_given_norms(path: int, on_one: _OnOne) -> None:
    found, tolerance = on_one.quantiles[path], (1e-6, BIN)[path]
    norms = np.quantile(_spread().sqrt().numpy(), [percent / 100 for percent in PERCENTS]).tolist()
    expected = dict(zip(NAMES, (pytest.approx(v, rel=tolerance, abs=0) for v in norms), strict=True))
    assert found["spread"]["norms"] == expected
    assert found["one"]["norms"] == dict.fromkeys(NAMES, 2.0)
    assert found["zero"]["norms"] == dict.fromkeys(NAMES, 0.0)
    bad = found["ends badly"]["norms"]
    assert bad["0"] == 1.0
    assert bad["0.1"] == pytest.approx(1.4, rel=tolerance)
    assert [bad[name] for name in ("0.5", "0.9", "0.99", "1")] == [None] * 4
    never = {name: figures["never_touched"] for name, figures in found.items()}
    assert never == {"spread": 5000 - 1000, "one": 0, "zero": 8 - 2, "ends badly": 4 - 1}


def test_quantiles_do_not_depend_on_the_number_of_ranks(on_one: _OnOne, on_two: list[_OnTwo]) -> None:
    for found in on_two:
        assert found.quantiles == on_one.quantiles


@pytest.mark.parametrize("batch", [2, 3, 1000])
def test_the_most_frequent_rows_of_a_vocabulary(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_VOCABULARY_BATCH", batch)
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"raw": list("abcdefgh"), "count": [5, 9, None, 1, 7, 9, 2, 6]}), file, row_group_size=5)
    assert [concentration(file, top) for top in (0, 1, 2, 3, 4, 100)] == [
        (0, 39),
        (9, 39),
        (18, 39),
        (25, 39),
        (31, 39),
        (39, 39),
    ]


@pytest.mark.parametrize(("rows", "top"), [(2, 1), (101, 1), (102, 2), (301, 3), (302, 4)])
def test_one_row_in_a_hundred_is_at_the_top(rows: int, top: int, tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    counts = [rows - i for i in range(rows - 1)]
    pq.write_table(pa.table({"count": counts}), tmp_path / "vocab" / "t.parquet")
    assert health._lookup_counts(tmp_path, "t", rows) == {
        "top_share": sum(counts[:top]) / sum(counts),
        "lookups": sum(counts),
    }


def test_a_vocabulary_without_lookups_has_no_share(tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    pq.write_table(pa.table({"count": pa.array([0, 0], pa.int64())}), tmp_path / "vocab" / "t.parquet")
    assert health._lookup_counts(tmp_path, "t", 3) == {"top_share": None, "lookups": 0}


def test_a_vocabulary_that_tells_nothing_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vocab").mkdir()
    file = tmp_path / "vocab" / "t.parquet"
    said = []
    for table in (pa.table({"raw": ["a"], "row": [1]}), pa.table({"count": ["many"]}), None):
        if table is None:
            file.write_bytes(b"no Parquet")
        else:
            pq.write_table(table, file)
        assert health._lookup_counts(tmp_path, "t", 2) == {"top_share": None, "lookups": None}
        said.append(capsys.readouterr().out)
    head = f"table t: the counts of lookups in {file} cannot be read ("
    assert all(text.startswith(head) and text.count("\n") == 1 for text in said)
    assert said[0] == f"{head}its columns are raw, row; there is no 'count')\n"
    assert "many" in said[1]
    assert "Parquet" in said[2]
