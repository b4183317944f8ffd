"""Raw values of every kind of feature become the rows that data preparation gave them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as s

from data_prep import Options, prepare
from ple_rec.config.load import load_schema
from ple_rec.config.prep_columns import SparseSpec
from ple_rec.config.schema import SparseFeature
from ple_rec.data.encode import Encoder, truncate_bags
from ple_rec.data.lookup import VocabularyLookup
from ple_rec.errors import DataError
from tests.data_prep.feed_logs import read, write_logs, write_toml
from tests.tiny import USERS, write_tiny

BAG = SparseFeature(name="history", table="video", bag=True)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    source = write_logs(folder / "logs")
    prepare(write_toml(folder / "feed.toml"), folder / "data", Options(source=str(source)))
    return folder


@pytest.fixture(scope="module")
def encoder(logs: Path) -> Encoder:
    return Encoder(logs / "data", load_schema(logs / "data").sparse)


def test_rows_are_those_of_the_training_split(logs: Path, encoder: Encoder) -> None:
    files = sorted((logs / "logs/log").glob("shard=0/*.parquet"))  # the two days of training, in the order of the parts
    raw = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    users = pq.read_table(logs / "logs/users.parquet").to_pydict()
    age = dict(zip(users["user_id"], users["age"], strict=True))
    raw = raw.append_column("age", pa.array([age.get(user) for user in raw["user_id"].to_pylist()]))
    hours = [ms // 3_600_000 % 24 for ms in raw["time_ms"].to_pylist()]
    raw = raw.append_column("hour", pa.array(hours)).append_column("folder", pa.array([0] * len(raw)))
    raw = raw.append_column("duration_bucket", raw["duration_ms"])
    parts = read(logs / "data", "train")
    assert len(parts) == len(raw)
    for name in encoder.features:
        found = encoder.rows(name, raw[name], name)
        assert found.to_pylist() == parts[name].to_pylist(), name
    assert max(map(len, raw["history"].to_pylist())) > 3  # the bags were cut


def test_every_row_has_a_value_that_becomes_it(logs: Path, encoder: Encoder) -> None:
    parts = read(logs / "data", "test")
    for name, raw in encoder.features.items():
        rows = parts[name].to_pylist()[:50]
        flat = [row for bag in rows for row in bag] if raw.feature.bag else rows
        values = encoder.example_values(name, flat)
        assert any(flat) is any(value is not None for value in values)
        wrapped = pa.array([[value] for value in values]) if raw.feature.bag else pa.array(values)
        found = encoder.rows(name, wrapped, name)
        assert (found.flatten() if raw.feature.bag else found).to_pylist() == flat, name


def test_rows_that_unknown_values_share_have_one_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"raw": ["a", "b"], "row": [1, 2]}), tmp_path / "t.parquet")
    lookup = VocabularyLookup(tmp_path / "t.parquet", capacity=10, hash_rows=5)
    values = lookup.values(range(10))
    assert values[:5] == [None, "a", "b", None, None]
    assert lookup.rows(pa.array(values[5:]), "x").to_pylist() == [5, 6, 7, 8, 9]


def test_missing_and_unknown_values(encoder: Encoder) -> None:
    assert encoder.rows("user_id", pa.array([None, -5]), "x").to_pylist() == [0, 0]
    assert encoder.rows("age", pa.array([None, "nobody", "a1"]), "x").to_pylist()[:2] == [0, 0]
    assert encoder.rows("duration_bucket", pa.array([None, float("nan"), -1e30, 1e30]), "x").to_pylist() == [0, 0, 1, 5]
    for empty in (pa.array([None, None]), pa.array([None, []], pa.list_(pa.string()))):
        assert encoder.rows("history", empty, "x").to_pylist() == [[], []]


def test_values_of_a_table_without_a_vocabulary_are_its_rows(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    encoder = Encoder(tmp_path / "data", load_schema(tmp_path / "data").sparse)
    assert encoder.features["user"].kind == "int"
    values = pa.array([None, -1, 0, 1, USERS - 1, USERS, 1 << 40])
    assert encoder.rows("user", values, "x").to_pylist() == [0, 0, 0, 1, USERS - 1, 0, 0]
    with pytest.raises(DataError, match="no vocabulary, so values of user must be rows of it"):
        encoder.rows("user", pa.array(["a"]), "x")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("age", pa.array([3]), "give text"),
        ("user_id", pa.array(["3"]), "give integers"),
        ("duration_bucket", pa.array(["3"]), "give numbers"),
        ("history", pa.array(["v3"]), "give lists"),
    ],
)
def test_values_of_another_kind_name_place_and_fix(encoder: Encoder, name: str, values: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=f"{re.escape('row 3')}.*{message}"):
        encoder.rows(name, values, "row 3")


@given(
    s.lists(s.none() | s.lists(s.integers(0, 9), max_size=6), max_size=8),
    s.integers(1, 4),
    s.sampled_from(["first", "last"]),
)
def test_bags_are_cut_at_the_right_end(bags: list[list[int] | None], most: int, keep: Literal["first", "last"]) -> None:
    array = pa.array(bags, pa.list_(pa.int64()))
    offsets, places = truncate_bags(SparseSpec(name="b", bag=True, max_length=most, keep=keep), array)
    items = array.flatten().to_numpy()
    items = items if places is None else items[places]
    found = [part.tolist() for part in np.split(items, offsets[1:-1])] if bags else []
    wanted = [(bag or [])[:most] if keep == "first" else (bag or [])[-most:] for bag in bags]
    assert found == wanted
