"""`write_tables`: what it writes reads back, and what the reader would refuse is refused before."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep.stats
from data_prep import Summary, write_tables
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.load import load_schema
from ple_rec.config.schema import (
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
    VectorFeature,
    VectorTable,
)
from ple_rec.data.dataset import DatasetDirectory, read_row_group
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, PleRecError, UserError

SPARSE = (
    SparseFeature(name="user", table="user"),
    SparseFeature(name="video", table="video"),
    SparseFeature(name="history", table="video", bag=True, weights="recency"),
)
DENSE = (DenseFeature(name="price", normaliser="log"), DenseFeature(name="age"))
TASKS = (
    Task(name="click", kind="binary", label="click"),
    Task(name="watch", kind="regression", label="watch", space="click"),
    Task(name="like", kind="binary", label="like", space="seen"),
)
COLUMNS: dict[str, list[Any]] = {
    "user": [1, None, 3, 0],
    "video": [2, 2, 1, 4],
    "history": [[1, 5], None, [], [None]],
    "recency": [[1.0, None], None, [], [0.5]],
    "price": [1.0, None, float("nan"), 3.0],
    "age": [20, 30, 40, None],
    "click": [True, False, True, False],
    "watch": [0.5, None, 1.5, float("nan")],
    "like": [1, 0, 7, None],
    "seen": [1, 1, 0, None],
    "weight": [1, 2, 0, 0.5],
    "request": [7, 7, None, 9],
    "unused": ["a", "b", "c", "d"],
}


def splits(changes: Mapping[str, Any] | None = None, split: Split = "train") -> dict[Split, pa.Table]:
    """Four rows a split; in one of them, columns are changed, or left out by None."""
    changed = {name: value for name, value in (COLUMNS | dict(changes or {})).items() if value is not None}
    return {each: pa.table(changed if each == split else COLUMNS) for each in SPLITS}


def write(out: Path, parts: Mapping[Any, pa.Table] | None = None, **changes: Any) -> DatasetSchema:
    arguments: dict[str, Any] = {
        "name": "own",
        "splits": splits() if parts is None else parts,
        "sparse": SPARSE,
        "dense": DENSE,
        "tasks": TASKS,
        "sample_weight": "weight",
        "group": "request",
    }
    return write_tables(out, **arguments | changes)


def test_it_reads_back(tmp_path: Path) -> None:
    schema = write(tmp_path / "d")
    assert load_schema(tmp_path / "d") == schema
    assert schema.tables == (Table(name="user", rows=4), Table(name="video", rows=6))
    assert schema.splits["train"] == SplitInfo(rows=4, row_groups=4)
    dataset = DatasetDirectory(tmp_path / "d")
    selection = dataset.select(drop=[], tasks=[])
    for split in SPLITS:
        groups = dataset.row_groups(split, selection.column_names())
        rows = [read_row_group(group, selection).arrange() for group in groups]
        if split != "train":  # in the order of the groups, of which the third row has none
            rows = [rows[1], rows[2], rows[0], rows[3]]
        assert np.concatenate([row.ids_FN for row in rows], axis=1).tolist() == [[1, 0, 3, 0], [2, 2, 1, 4]]
        assert [row.bags[0].values.tolist() for row in rows] == [[1, 5], [], [], [0]]
        weights = [row.bags[0].weights for row in rows]
        assert [None if w is None else w.tolist() for w in weights] == [[1.0, 1.0], [], [], [0.5]]
        dense_ND = np.concatenate([row.dense_ND for row in rows])
        np.testing.assert_array_equal(dense_ND, [[1, 20], [np.nan, 30], [np.nan, 40], [3, np.nan]])
        assert np.concatenate([row.labels_NK for row in rows]).tolist() == [
            [1, 0.5, 1],
            [0, 0, 0],
            [1, 1.5, 0],
            [0] * 3,
        ]
        in_space = np.concatenate([row.in_space_NK for row in rows]).tolist()
        assert in_space == [[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]]
        assert [row.weight_N.tolist() for row in rows if row.weight_N is not None] == [[1], [2], [0], [0.5]]
        assert [row.group_N.tolist() for row in rows if row.group_N is not None] == [[7], [7], [-1], [9]]


def test_statistics(tmp_path: Path) -> None:
    write(tmp_path / "d", splits({"price": [1.0, None, float("nan"), np.expm1(2.0)]}))
    stats = json.loads((tmp_path / "d" / "stats.json").read_text())
    price = stats["columns"]["price"]["train"]
    assert (price["rows"], price["nulls"], price["min"]) == (4, 2, 1.0)
    assert price["log_mean"] == pytest.approx((np.log(2) + 2) / 2)
    assert len(price["quantiles"]) == 1001
    assert stats["columns"]["age"]["valid"]["mean"] == pytest.approx(30)
    top = [[0, 2, 0.5], [1, 1, 0.25], [3, 1, 0.25]]
    assert stats["columns"]["user"]["train"] == {"rows": 4, "oov": 2, "oov_rate": 0.5, "hit": 3, "top": top}
    bags = {"ids": 3, "mean_length": 0.75, "empty": 2}
    assert stats["columns"]["history"]["test"] == {"rows": 4, "oov": 1, "oov_rate": 1 / 3, "hit": 3} | bags
    none = {"rows": 0, "positives": 0}
    assert stats["tasks"]["click"]["train"] == {"samples": 4, "mean": 0.5, "positives": 2, "outside": none}
    spread = {"std": 0.5, "max": 1.5}
    assert stats["tasks"]["watch"]["train"] == {"samples": 2, "mean": 1.0} | spread | {"outside": none | {"rows": 2}}
    outside = {"rows": 2, "positives": 1}
    assert stats["tasks"]["like"]["train"] == {"samples": 2, "mean": 0.5, "positives": 1, "outside": outside}
    assert "out of vocabulary or missing in train: at most 50.00% (user)" in str(Summary.read(tmp_path / "d", False))


@pytest.mark.parametrize("column", ["click", "watch", "weight", "request"])
def test_a_space_counts_the_same_whatever_else_its_column_is(column: str, tmp_path: Path) -> None:
    """A label, weights or a group: rows are inside where it is there and not 0."""
    inside = [value is not None and value == value and value != 0 for value in COLUMNS[column]]
    rows = pa.table(COLUMNS | {"inside": inside, "seconds": [20, 30, 40, 50]})
    found = []
    for name, space in (("itself", column), ("apart", "inside")):
        tasks = [*TASKS, Task(name="seconds", kind="regression", label="seconds", space=space)]
        write(tmp_path / name, dict.fromkeys(SPLITS, rows), tasks=tasks)
        found.append(json.loads((tmp_path / name / "stats.json").read_text()))
    for key in ("tasks", "correlation", "slices"):
        assert found[0][key] == found[1][key]
    assert found[0]["tasks"]["seconds"]["train"]["samples"] == sum(inside)


def test_the_page_and_every_key_are_there(tmp_path: Path) -> None:
    write(tmp_path / "d", splits({"watch": [float("inf"), 0.3, 1.5, None], "click": [0, 1, 1, 0]}))
    stats = json.loads((tmp_path / "d" / "stats.json").read_text(), parse_constant=pytest.fail)
    assert list(stats) == documented_keys()
    assert {name for name in stats["drift"]} == {"user", "video", "history", "price", "age"}
    page = (tmp_path / "d" / "stats.html").read_text()
    assert all(f'id="{section}"' in page for section in ("tasks", "correlation", "sparse", "dense", "drift"))
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == sorted(
        ["_SUCCESS", "schema.toml", "stats.html", "stats.json", "test", "train", "valid", "vocab"]
    )


def documented_keys() -> list[str]:
    """The first words of the lines of the package's table that are not indented further."""
    assert data_prep.stats.__doc__ is not None
    lines = re.findall(r"^    (\w+)[ .]", data_prep.stats.__doc__, re.MULTILINE)
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 100, 1_000])
def test_sixteen_ranks_can_read_a_split_of_sixteen_rows(rows: int, tmp_path: Path) -> None:
    table = pa.table({"user": range(rows), "click": [0] * rows})
    parts = dict.fromkeys(SPLITS, table)
    arguments = {"dense": (), "sparse": SPARSE[:1], "tasks": TASKS[:1], "sample_weight": None, "group": None}
    schema = write(tmp_path / "d", parts, **arguments, row_group_rows=20)
    metadata = pq.read_metadata(tmp_path / "d" / "train" / "part-00000.parquet")
    assert metadata.num_row_groups == schema.splits["train"].row_groups >= min(16, rows)
    assert metadata.row_group(0).num_rows <= 20
    assert pq.read_table(tmp_path / "d" / "train")["user"].to_pylist() == list(range(rows))


def test_content_makes_the_fingerprint(tmp_path: Path) -> None:
    first = write(tmp_path / "d")
    chunked = {split: pa.concat_tables([t[:1], t[1:]]) for split, t in splits().items()}
    assert write(tmp_path / "again", chunked).fingerprint == first.fingerprint
    other = {
        "a value": splits({"price": [1.5, None, None, 3.0]}),
        "an id of a bag": splits({"history": [[1, 4], None, [], [None]]}, "test"),
        "another cut of bags": splits({"history": [[1], [5], [], [None]], "recency": [[1.0], [None], [], [0.5]]}),
    }
    found = {what: write(tmp_path / what, parts).fingerprint for what, parts in other.items()}
    found["tables"] = write(tmp_path / "tables", tables={"user": 9}).fingerprint
    assert len({first.fingerprint, *found.values()}) == 5


def test_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "d"
    first = write(out)
    written = (out / "_SUCCESS").stat().st_mtime_ns
    assert write(out) == first
    assert (out / "_SUCCESS").stat().st_mtime_ns == written
    with pytest.raises(UserError) as caught:
        write(out, tables={"user": 9})
    assert str(caught.value) == (
        f"{out}: holds another dataset; a dataset directory is replaced on request only. "
        "Fix: pass overwrite=True, or name another folder"
    )
    assert write(out, tables={"user": 9}, overwrite=True).table_rows() == {"user": 9, "video": 6}
    assert load_schema(out).table_rows()["user"] == 9
    (out / "stats.json").write_text("{}")  # damage, of which the fingerprint does not tell
    write(out, tables={"user": 9}, overwrite=True)
    assert list(Digests.read(out).find_changes()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def refusal(out: Path, kind: type[PleRecError], parts: Mapping[Any, pa.Table] | None = None, **changes: Any) -> str:
    with pytest.raises(PleRecError) as caught:
        write(out, parts, **changes)
    assert isinstance(caught.value, kind)
    assert not out.exists()
    return str(caught.value)


INF = float("inf")
OUTSIDE = "Fix: set ids outside the table to 0, or raise its number of rows in `tables`"
BAD = [
    ({"user": [1, 2, 9, 0]}, f"column 'user', row 2: id 9; table 'user' has rows 0 to 4. {OUTSIDE}"),
    ({"user": [1, -2, 9, 0]}, f"column 'user', row 1: id -2; table 'user' has rows 0 to 4. {OUTSIDE}"),
    (
        {"history": [[1, 5], None, [], [-1]]},
        f"column 'history', row 3: id -1; table 'video' has rows 0 to 2147483646. {OUTSIDE}",
    ),
    (
        {"click": [0, 1, 2, 0]},
        "column 'click', row 2: got 2.0; a binary label is 0 or 1 (task 'click'). Fix: correct the logs",
    ),
    (
        {"like": [1, None, 0, 0]},
        "column 'like', row 1: got None; a binary label is 0 or 1 where 'seen' is true (task 'like'). "
        "Fix: correct the logs",
    ),
    (
        {"watch": [INF, 0, 0, 0]},
        "column 'watch', row 0: got inf; a regression label is finite where 'click' is true (task 'watch'). "
        "Fix: correct the logs",
    ),
    ({"age": [1, 2, INF, 0]}, "column 'age', row 2: got inf; values must be finite or null. Fix: correct the logs"),
    (
        {"recency": [[1, 1], None, [], [INF]]},
        "column 'recency', row 3: got [inf]; values must be finite or null. Fix: correct the logs",
    ),
    (
        {"recency": [[1, 1], [1], [], [1]]},
        "column 'recency', row 1: got [1.0]; a weighted bag has one weight per id of 'history'. Fix: correct the logs",
    ),
    (
        {"weight": [1, -1, 1, 1]},
        "column 'weight', row 1: got -1.0; a sample weight is finite and at least 0. Fix: correct the logs",
    ),
    (
        {"weight": [1, 1, None, 1]},
        "column 'weight', row 2: got None; a sample weight is finite and at least 0. Fix: correct the logs",
    ),
    (
        {"user": ["u1", "u2", "u3", "u4"]},
        "column 'user': type string; it must be int32 or convert to it. Fix: map raw values to table rows first",
    ),
    (
        {"history": [["1"], [], [], []]},
        "column 'history': type list<item: string>; it must be list<item: int32> or convert to it. "
        "Fix: map raw values to table rows first",
    ),
    (
        {"user": pa.array(["1", "2", "3", "4"]).dictionary_encode()},
        "column 'user': type dictionary<values=string, indices=int32, ordered=0>; it must be int32 or convert to it. "
        "Fix: map raw values to table rows first",
    ),
    (
        {"age": ["1", "2", "3", "4"]},
        "column 'age': type string; it must be float or convert to it. Fix: convert it",
    ),
    (
        {"user": [1.5, 2, 3, 4]},
        "column 'user': type double; it must be int32 or convert to it (Float value 1.500000 was truncated "
        "converting to int32). Fix: convert it",
    ),
]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_value_that_is_refused(changes: dict[str, Any], message: str, split: Split, tmp_path: Path) -> None:
    found = refusal(tmp_path / "d", DataError, splits(changes, split), tables={"user": 5})
    assert found == f"splits[{split!r}], {message}"


def test_columns_and_names_that_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "d"
    assert refusal(out, UserError, splits({"price": None, "prices": [1, 2, 3, 4]}, "valid")) == (
        "splits['valid']: no column 'price'; a feature, a task or another argument names it. "
        "Fix: did you mean 'prices'?"
    )
    assert refusal(out, UserError, splits({"seen": None})) == (
        "splits['train']: no column 'seen'; a feature, a task or another argument names it. "
        "Fix: add the column, or leave out what names it"
    )
    twice = splits()["train"].append_column("user", pa.array([1, 2, 3, 4]))
    assert refusal(out, UserError, splits() | {"train": twice}) == (
        "splits['train']: 2 columns 'user'; a table has one column of a name. Fix: rename one"
    )
    for rows in (0, -3, 5.5, 1e300, 2**40):
        assert refusal(out, UserError, tables={"video": rows}) == (
            f"tables: 'video' has {rows!r} rows; a table has 1 to 2,147,483,647 rows, including row 0. "
            "Fix: give such an integer"
        )
    assert refusal(out, UserError, tables={"vidoe": 9}) == (
        "tables: got 'vidoe'; sparse features read user, video. Fix: did you mean 'video'?"
    )
    assert refusal(out, UserError, dense=(*DENSE, DenseFeature(name="like"))) == (
        "write_tables: 1 problem\n  column 'like' is both a feature and a label; a model must not read it"
    )


def test_splits_that_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "d"
    rule = "train, valid and test each need rows, since training reads all three"
    fix = "give it rows of the logs, with the latest rows in test"
    parts = splits()
    assert (
        refusal(out, UserError, parts | {"test": parts["test"][:0]}) == f"splits['test']: no rows; {rule}. Fix: {fix}"
    )
    assert refusal(out, UserError, {"train": parts["train"]}) == f"splits['valid']: no rows; {rule}. Fix: {fix}"
    assert refusal(out, UserError, {"trian": parts["train"]}) == (
        "splits: got 'trian'; there are train, valid and test. Fix: did you mean 'train'?"
    )


def test_a_folder_of_something_else_is_spared(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a dataset directory"):
        write(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_groups_stand_together_where_they_are_evaluated(tmp_path: Path) -> None:
    group = pa.array([3, 1, None, 3, 2, 1, None, 2] * 3, pa.int64())
    rows = pa.table({"group": group, "dense": pa.array(range(24), pa.float32()), "y": pa.array([0.0, 1.0] * 12)})
    schema = write_tables(
        tmp_path / "data",
        name="grouped",
        splits=dict.fromkeys(("train", "valid", "test"), rows),
        sparse=[],
        dense=[DenseFeature(name="dense")],
        tasks=[Task(name="y", kind="binary", label="y")],
        group="group",
    )
    assert schema.group == "group"
    read = {split: pq.read_table(tmp_path / "data" / split) for split in ("train", "valid", "test")}
    assert read["train"]["dense"].to_pylist() == rows["dense"].to_pylist()
    for split in ("valid", "test"):
        groups, order = read[split]["group"].to_pylist(), read[split]["dense"].to_pylist()
        assert groups == [None] * 6 + [1] * 6 + [2] * 6 + [3] * 6
        assert all(order[i : i + 6] == sorted(order[i : i + 6]) for i in range(0, 24, 6))
        assert sorted(order) == list(range(24))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_numbers_become_the_nearest_float(kind: pa.DataType, tmp_path: Path) -> None:
    rows = pa.table({"x": pa.array([1, 2, 2**24 + 3], kind), "y": [0.0, 1.0, 1.0]})
    write_tables(
        tmp_path / "d",
        name="d",
        splits=dict.fromkeys(SPLITS, rows),
        sparse=[],
        dense=[DenseFeature(name="x")],
        tasks=[Task(name="y", kind="binary", label="y")],
    )
    assert pq.read_table(tmp_path / "d/train")["x"].to_pylist() == [1, 2, 2**24 + 4]


VECTORS = (VectorFeature(name="content", width=2, normaliser="standard"),)


def test_vectors_are_lists_of_one_width(tmp_path: Path) -> None:
    lists = [[1, 2], None, [3.0, 6.0], [5.0, -2.0]]
    schema = write(tmp_path / "d", splits_with(lists), vectors=VECTORS)
    assert schema.vectors == load_schema(tmp_path / "d").vectors == VECTORS
    rows = pq.read_table(tmp_path / "d" / "train" / "part-00000.parquet")
    assert rows["content"].type == pa.list_(pa.float32(), 2)
    assert rows["content"].to_pylist() == lists
    stats = json.loads((tmp_path / "d" / "stats.json").read_text())["columns"]["content"]["train"]
    assert stats == {
        "rows": 4,
        "missing": 1,
        "mean": [3.0, 2.0],
        "std": [pytest.approx((8 / 3) ** 0.5), pytest.approx((32 / 3) ** 0.5)],
    }
    other = [[1, 2], None, [3.0, 6.0], [5.0, -2.5]]
    assert write(tmp_path / "e", splits_with(other), vectors=VECTORS).fingerprint != schema.fingerprint


def splits_with(lists: list[Any]) -> dict[Split, pa.Table]:
    """The rows of `splits` with vectors in every split."""
    return {each: part.append_column("content", pa.array(lists)) for each, part in splits().items()}


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1, 2], [1], None, None], "column 'content': type list<item: int64>; it must be fixed_size_list"),
        ([[1, 2], None, [1, None], None], "column 'content', row 2: got [1.0, None]; a vector is missing, or all its "),
        ([[1.0, 2.0], [float("nan"), 0.0], None, None], "column 'content', row 1: got [nan, 0.0]"),
        ([[1.0, 1e39], None, None, None], "column 'content', row 0: got [1.0, inf]"),
        ([["a", "b"]] * 4, "column 'content': type list<item: string>; it must be"),
    ],
)
def test_bad_vectors_are_refused(lists: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write(tmp_path / "d", splits_with(lists), vectors=VECTORS)
    assert words in str(caught.value)


def test_frozen_tables_are_refused(tmp_path: Path) -> None:
    frozen = VECTORS[0].model_copy(update={"table": VectorTable(keys=("id",), rows=3)})
    with pytest.raises(UserError, match="'content' has a frozen table; the columns of the tables hold the vectors"):
        write(tmp_path / "d", splits(), vectors=(frozen,))
