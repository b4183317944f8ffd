"""Columns of every type and keys of several columns come from a side table as a request would send them."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inputs.raw_form import build_raw_form
from data_prep.inputs.side_tables import read_side_table
from data_prep.run import Options, prepare
from ple_rec.config.raw_form import RAW_FILE, RawForm
from ple_rec.errors import DataError
from ple_rec.inference.key_index import NULL_KEY, UNKNOWN
from ple_rec.inference.raw_columns import Cells, RowSet, SideLookup
from ple_rec.inference.raw_query import QueryEngine
from ple_rec.inference.raw_values import to_array
from ple_rec.inference.side_table import TableSources, load_table, publish_tables

TOML = """
name = "types"
[log]
files = ["log.parquet"]
[sides.both]
files = ["both.parquet"]
on = {user = "abs(user_id)", "vid eo" = "video_id"}
[split]
by = "column"
value = "part"
[[sparse]]
name = "tags"
value = "both.tags"
bag = true
[[vectors]]
name = "content"
value = "both.embedding"
width = 2
[[tasks]]
name = "like"
kind = "binary"
label = "like"
"""
# Values of a column of each type as Python, and as JSON of a request; the last row is null.
MOMENT = datetime(2024, 5, 8, 12, 30, 0, 250_000)
VALUES: dict[str, tuple[pa.DataType, list[Any], list[Any]]] = {
    "tags": (pa.list_(pa.string()), [["a", "b"], []], [["a", "b"], []]),
    "small": (pa.int8(), [-5, 127], [-5, "127"]),
    "large": (pa.uint64(), [2**63 - 1, 0], [str(2**63 - 1), 0]),
    "half": (pa.float32(), [0.1, 2.5], [0.1, 2.5]),
    "number": (pa.float64(), [0.1, 1e30], [0.1, 1e30]),
    "text": (pa.string(), ["é", ""], ["é", ""]),
    "flag": (pa.bool_(), [True, False], [True, False]),
    "day": (pa.date32(), [date(2024, 5, 8), date(1969, 1, 1)], ["2024-05-08", "1969-01-01"]),
    "moment": (pa.timestamp("ns"), [MOMENT, datetime(1970, 1, 1)], ["2024-05-08T12:30:00.25", "1970-01-01T00:00:00"]),
    "zoned": (
        pa.timestamp("ms", "UTC"),
        [MOMENT.replace(tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)],
        ["2024-05-08T20:30:00.25+08:00", "1970-01-01T00:00:00Z"],
    ),
    "price": (pa.decimal128(10, 2), [Decimal("12.50"), Decimal("-0.01")], ["12.5", -0.01]),
    "embedding": (pa.list_(pa.float64()), [[0.5, -1.0], [1e-3, 2.0]], [[0.5, -1.0], [1e-3, 2.0]]),
    "counts": (pa.list_(pa.int32()), [[1, 2], [None]], [[1, 2], [None]]),
}
USERS, VIDEOS = [7, 7, 2**62], ["v1", "v2", "v1"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with as much of a model as the publication of side tables reads."""
    log = {"user_id": [7, -7, 3], "video_id": ["v1", "v2", None], "like": [0, 1, 0], "part": ["train", "valid", "test"]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    columns = {name: pa.array([*values, None], kind) for name, (kind, values, _) in VALUES.items()}
    pq.write_table(pa.table({"user": USERS, "vid eo": VIDEOS, **columns}), tmp_path / "both.parquet")
    reads = {
        "small": "both.small", "large": "both.large", "half": "both.half", "number": "both.number",
        "flag": "if(both.flag, 1, 0)", "text": "if(both.text = '', 1, 0)", "day": "if(both.day is null, 1, 0)",
        "moment": "if(both.moment is null, 1, 0)", "zoned": "if(both.zoned is null, 1, 0)", "price": "both.price",
        "counts": "length(both.counts)",
    }  # fmt: skip
    dense = "".join(
        f"[[dense]]\nname = {json.dumps(name)}\nvalue = {json.dumps(text)}\n" for name, text in reads.items()
    )
    (tmp_path / "types.toml").write_text(TOML + dense)
    prepare(str(tmp_path / "types.toml"), tmp_path / "data", Options(source=str(tmp_path), threads=1))
    version = tmp_path / "model/versions/v1"
    version.mkdir(parents=True)
    (version / "prep.toml").write_text((tmp_path / "data/prep.toml").read_text())
    form = build_raw_form(version, [*VALUES, "content"], [])
    assert form is not None
    (version / RAW_FILE).write_text(form.model_dump_json())
    (tmp_path / "model/latest").write_text("v1\n")
    return tmp_path / "model"


def test_values_and_keys(model: Path, tmp_path: Path) -> None:
    (published,) = publish_tables(model, (), TableSources(str(tmp_path)), read_side_table)
    form = RawForm.model_validate_json((model / "versions/v1" / RAW_FILE).read_text())
    table = load_table(published.folder, published.info.name)
    assert list(table.info.columns) == ["user", "vid eo", *(form.sides[0].columns)]
    assert set(form.sides[0].columns) == set(VALUES)
    columns = {column.name: column for column in form.columns}
    lookup = SideLookup(form, {"both": table}, QueryEngine())
    assert lookup.key_columns == {"user_id", "video_id"}
    # The key of the table is an expression, the absolute value.
    users, videos = [7, -7, -(2**62), 7, None, 3], ["v1", "v2", "v1", "v3", "v1", None]
    keys: dict[str, list[Any]] = {"user_id": users, "video_id": videos}
    cells = {name: Cells(keys.get(name, [None]), str, range(6 if name in keys else 0)) for name in columns}
    rows = RowSet(columns, cells, 6, ["item"], lookup)
    for name, (_, _, sent) in VALUES.items():
        array = rows.array(f"both.{name}")
        expected = to_array(columns[f"both.{name}"].type, [*sent, None, None, None, None], str)
        assert array.type == expected.type
        assert array.equals(expected), name
    assert rows.unknown() == {"both": 1 / 6}
    arrays = {name: rows.array(name) for name in keys}
    found = lookup.find_rows(form.sides[0], {name: cells[name] for name in keys}, arrays)
    assert (found[3:] == [UNKNOWN, NULL_KEY, NULL_KEY]).all()
    assert np.unique(found[:3]).tolist() == [0, 1, 2]


def replace_column(folder: Path, name: str, values: list[Any], kind: pa.DataType) -> None:
    table = pq.read_table(folder / "both.parquet")
    column = pa.array(values, kind)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), folder / "both.parquet")


def test_a_number_beyond_int64_is_refused(model: Path, tmp_path: Path) -> None:
    replace_column(tmp_path, "large", [2**63, 1, 2], pa.uint64())
    with pytest.raises(DataError, match=r"column 'large': got 9223372036854775808; integers are int64"):
        publish_tables(model, (), TableSources(str(tmp_path)), read_side_table)


@pytest.mark.parametrize("vector", [[1.0], [1.0, math.nan], [1.0, None], [1e39, 1.0], []], ids=str)
def test_a_vector_that_prep_would_refuse_is_not_published(
    vector: list[float | None], model: Path, tmp_path: Path
) -> None:
    replace_column(tmp_path, "embedding", [[1.0, 2.0], None, vector], pa.list_(pa.float64()))
    with pytest.raises(DataError) as error:
        publish_tables(model, (), TableSources(str(tmp_path)), read_side_table)
    place = f"{error.value.place}: {error.value.value}"
    assert "both.parquet, row group 0, row 2, column 'embedding': got " in place
    assert error.value.rule == "a vector is missing, or has 2 numbers that are finite in float32 (feature 'content')"
    assert not (model / "tables/both/latest").exists()


@pytest.mark.parametrize(("column", "number"), [("half", math.nan), ("half", math.inf), ("number", 1e39)])
def test_a_dense_value_that_prep_would_refuse_is_not_published(
    column: str, number: float, model: Path, tmp_path: Path
) -> None:
    replace_column(tmp_path, column, [None, number, 1.0], VALUES[column][0])
    with pytest.raises(DataError, match=rf"row group 0, row 1, column '{column}': got .*; a dense value is missing or"):
        publish_tables(model, (), TableSources(str(tmp_path)), read_side_table)
    assert not (model / "tables/both/latest").exists()
