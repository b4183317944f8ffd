"""Raw columns, predict and the dataset give the model the same inputs, bit by bit, for every kind of column."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.inputs.raw_form import build_raw_form
from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.run import Options, prepare
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PrepConfig
from ple_rec.config.raw_form import RawForm
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.encode import Encoder, RawKind
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.inference.raw_request import RawReader
from ple_rec.inference.request import ModelRequest, RequestReader
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.signature import Signature, build_signature

TOML = """
name = "kinds"
group = "user_id"

[log]
files = ["log.parquet"]

[sides.video]
files = ["video.parquet"]
on = {key = "video_id"}

[time]
value = "at"
unit = "timestamp"
utc_offset = "+05:30"

[derived]
twice = "2 * small"

[split]
by = "hash"
value = "row"
valid = 0.3
test = 0.3

[tables.city]
min_count = 2
overflow = "hash"
hash_rows = 3
capacity = 30

[[sparse]]
name = "user_id"

[[sparse]]
name = "city"
value = "lower(trim(city))"

[[sparse]]
name = "weekday"
value = "time.weekday"

[[sparse]]
name = "hour"
value = "time.hour"

[[sparse]]
name = "flag"

[[sparse]]
name = "kind"
value = "if(small > 100, concat('s', small), 'other')"

[[sparse]]
name = "price_bin"
value = "price"
edges = [0, 1.5, 20]

[[sparse]]
name = "parts"
value = "split(text, '|')"
bag = true
max_length = 3

[[sparse]]
name = "numbers"
bag = true
max_length = 4
keep = "first"
weights = "weights"

[[sparse]]
name = "tags"
value = "video.tags"
bag = true

[[dense]]
name = "price"

[[dense]]
name = "single"

[[dense]]
name = "ratio"
value = "x / nullif(twice, 0)"

[[dense]]
name = "quotient"
value = "user_id // 7 + small % 5"

[[dense]]
name = "cube"
value = "small * small * small"

[[dense]]
name = "plays"
value = "coalesce(video.plays, -1)"

[[dense]]
name = "words"
value = "length(text)"

[[sparse]]
name = "cents"
value = "units(price, '0.01')"

[[sparse]]
name = "month"
value = "month(at)"

[[sparse]]
name = "first_number"
value = "element(numbers, 1)"

[[sparse]]
name = "is_number"
value = "contains(numbers, small)"

[[dense]]
name = "age"
value = "days(time, '2024-05-01')"

[[dense]]
name = "video_age"
value = "days(time, video.uploaded)"

[[dense]]
name = "since_born"
value = "hours(seen, born)"

[[sparse]]
name = "net"
value = "json(context, '$.net.type')"

[[dense]]
name = "mbps"
value = "cast(json(context, '$.net.mbps') as double)"

[[sparse]]
name = "slot"
value = "cast(json(context, '$.slots[1]') as int)"

[[vectors]]
name = "spot"
width = 2

[[vectors]]
name = "content"
value = "video.content"
width = 3

[carry]
row = "row"

[[tasks]]
name = "like"
kind = "binary"
label = "flag"
"""
OF_USER = ("user_id", "city", "weekday", "hour", "parts", "spot")
MOST_SMALL = 2_097_151  # The largest number whose cube int64 can hold.
START = datetime(2024, 5, 1)
WORDS = st.sampled_from(["", "a|b|c||d|e", "Ä|ß|Z", " Berlin ", "berlin", "ROMA", "x" * 40, "1e3", "null", '"', "\\"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
NUMBERS: st.SearchStrategy[Any] = st.integers() | FLOATS | st.sampled_from(["1e3", 1e3, True, None, [], {}])
CONTEXTS = st.sampled_from(
    ["", "{", "null", "[]", '{"net": {"mbps": 1e3}, "net": {"mbps": 2}}', "{'net': 1}"]
) | st.builds(
    json.dumps,
    st.fixed_dictionaries(
        {},
        optional={
            "net": NUMBERS | st.fixed_dictionaries({"type": st.text(max_size=3) | NUMBERS, "mbps": NUMBERS}),
            "slots": NUMBERS | st.lists(NUMBERS, max_size=3),
        },
    ),
)
ROWS = st.fixed_dictionaries(
    {
        "user_id": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 20),
        "video_id": st.none() | st.integers(0, 12),
        "small": st.none() | st.integers(0, MOST_SMALL) | st.integers(0, 200),
        "x": st.none() | FLOATS,
        "single": st.none() | FLOATS,
        "city": st.none() | WORDS,
        "text": st.none() | WORDS | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12),
        "flag": st.none() | st.booleans(),
        "price": st.none() | st.decimals(-(10**7), 10**7, places=2),
        "at": st.datetimes(datetime(2000, 1, 3), datetime(2099, 12, 30)),
        "born": st.none() | st.dates(date(1890, 1, 1), date(3010, 1, 1)),
        "seen": st.none() | st.datetimes(datetime(1900, 1, 2), datetime(2999, 12, 30)),
        "context": st.none() | CONTEXTS,
        "spot": st.none() | st.lists(FLOATS, min_size=2, max_size=2),
        "numbers": st.none() | st.lists(st.none() | st.integers(0, 9), max_size=6),
    }
)
SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "user_id": pa.int64(),
        "video_id": pa.int32(),
        "small": pa.uint32(),
        "x": pa.float64(),
        "single": pa.float32(),
        "city": pa.string(),
        "text": pa.large_string(),
        "flag": pa.bool_(),
        "price": pa.decimal128(10, 2),
        "at": pa.timestamp("us", "UTC"),
        "born": pa.date32(),
        "seen": pa.timestamp("us"),
        "context": pa.string(),
        "spot": pa.list_(pa.float32()),
        "numbers": pa.list_(pa.int64()),
        "weights": pa.list_(pa.float64()),
    }
)
VIDEO = pa.table(
    {
        "key": pa.array(range(8), pa.int64()),
        "plays": [None, *(i * 10**9 for i in range(7))],
        "uploaded": [None, *(date(2024, 1 + i, 28) for i in range(7))],
        "content": [None, *([i / 3, -1e-30 * i, float(i)] for i in range(7))],
        "tags": [None, [], ["a"], ["a", None, "b"], ["b"] * 5, ["c"], ["d"], ["ä"]],
    }
)


def log_table(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows as the log has them; a weighted bag has as many weights as items."""
    weighted = [
        row | {"row": i, "weights": None if row["numbers"] is None else [k / 3 for k in range(len(row["numbers"]))]}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(weighted, SCHEMA)


def random_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    cities = ["Berlin", "berlin", "ROMA", "Oslo", None]
    return [
        {
            "user_id": int(rng.integers(0, 20)),
            "video_id": int(rng.integers(0, 12)),
            "small": int(rng.integers(0, 200)),
            "x": float(rng.normal()),
            "single": float(np.float32(rng.normal())),
            "city": cities[int(rng.integers(0, 5))],
            "text": "|".join("abcde"[k] for k in rng.integers(0, 5, int(rng.integers(0, 5)))),
            "flag": bool(rng.integers(0, 2)),
            "price": Decimal(int(rng.integers(-500, 4000))) / 100,
            "at": START + timedelta(minutes=int(rng.integers(0, 20_000))),
            "born": date(1990, 1, 1) + timedelta(days=int(rng.integers(0, 9000))),
            "seen": START + timedelta(seconds=int(rng.integers(0, 10**6))),
            "context": json.dumps(
                {"net": {"type": "wifi", "mbps": float(rng.normal())}, "slots": [1, int(rng.integers(9))]}
            ),
            "spot": [float(x) for x in rng.normal(size=2).astype(np.float32)],
            "numbers": [int(k) for k in rng.integers(0, 9, int(rng.integers(0, 6)))],
        }
        for _ in range(count)
    ]


@dataclass
class Prepared:
    """A prepared dataset, and readers of requests for a model that has all of its features."""

    folder: Path
    config: PrepConfig
    signature: Signature
    encoder: Encoder
    form: RawForm
    reader: RequestReader


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("kinds")
    pq.write_table(log_table(random_rows(400)), folder / "log.parquet")
    pq.write_table(VIDEO, folder / "video.parquet")
    (folder / "kinds.toml").write_text(TOML)
    prepare(folder / "kinds.toml", folder / "data", Options(source=str(folder)))
    data = folder / "data"
    config, schema = load_config(PrepConfig, data / "prep.toml"), load_schema(data)
    encoder = Encoder(data, schema.sparse)
    names = [each.name for each in schema.sparse]
    vectors: dict[str, tuple[int, RawKind]] = {"spot": (2, "number"), "content": (3, "int")}
    signature = build_signature(names, encoder.features, schema.dense, {"like": "binary"}, OF_USER, vectors)
    form = build_raw_form(data, [each.name for each in signature.inputs], OF_USER)
    assert form is not None
    form = RawForm.model_validate_json(form.model_dump_json())
    lookups = {"content": VectorLookup(DatasetDirectory(data).vector_tables["content"])}
    reader = RequestReader(signature, encoder, ["like"], lookups, RawReader(form, signature, encoder))
    return Prepared(folder, config, signature, encoder, form, reader)


def json_value(value: Any) -> Any:
    """A value as a client would send it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | date) else value


def raw_columns(prepared: Prepared, log: pa.Table) -> dict[str, list[Any]]:
    """The columns of a raw request, joined with the side table by hand, after a round trip through JSON."""
    videos = {video["key"]: video for video in VIDEO.to_pylist()}
    columns: dict[str, list[Any]] = {}
    for column in filter(lambda each: each.features, prepared.form.columns):
        side, _, name = column.name.rpartition(".")
        if side:
            keys = log["video_id"].to_pylist()
            columns[column.name] = [json_value(videos.get(key, {}).get(name)) for key in keys]
        else:
            columns[name] = [json_value(value) for value in log[name].to_pylist()]
    parsed: dict[str, list[Any]] = json.loads(json.dumps(columns))
    return parsed


def feature_columns(prepared: Prepared, rows: pa.Table) -> dict[str, list[Any]]:
    """The features of rows that prep has read, as a client would send them."""
    columns: dict[str, list[Any]] = {}
    for feature in prepared.signature.inputs:
        if feature.dense or feature.vector is not None:
            columns[feature.name] = rows[feature.name].to_pylist()
            continue
        values = columns[feature.name] = rows[f"raw__{feature.name}"].to_pylist()
        if feature.weighted:
            weights = rows[f"weights__{feature.name}"].to_pylist()
            columns[feature.name] = [
                None if bag is None else {"values": bag, "weights": each}
                for bag, each in zip(values, weights, strict=True)
            ]
    return columns


def predicted_inputs(prepared: Prepared, log: pa.Table, folder: Path) -> pa.Table:
    """The rows as predict reads them, before look-ups."""
    pq.write_table(log, folder / "new.parquet")
    options = InputOptions(
        data=str(folder / "new.parquet"),
        source=str(prepared.folder),
        features=tuple(each.name for each in prepared.signature.inputs),
        ids=(),
    )
    with open_inputs(prepared.config, "prep.toml", options, folder / "work", Progress()) as inputs:
        return pa.concat_tables(list(inputs.batches()))


def assert_same_inputs(prepared: Prepared, request: ModelRequest, rows: pa.Table) -> None:
    """Compare the inputs of a request with raw values that prep has read: table rows, bags, weights, numbers."""
    for feature in prepared.signature.sparse:
        expected = prepared.encoder.rows(feature.name, rows[f"raw__{feature.name}"], feature.name)
        actual = request.ids[feature.name]
        if feature.bag:
            assert actual.offsets_N is not None
            np.testing.assert_array_equal(actual.offsets_N, expected.offsets.to_numpy())
            expected = expected.flatten()
        np.testing.assert_array_equal(actual.values_V, expected.to_numpy(), err_msg=feature.name)
        if feature.weighted:
            weights = rows[f"weights__{feature.name}"].combine_chunks().flatten().to_numpy()
            np.testing.assert_array_equal(actual.weights_V, weights)
    for number in prepared.signature.dense:
        expected = rows[number.name].to_numpy().astype(np.float32)
        np.testing.assert_array_equal(request.dense[number.name], expected, err_msg=number.name)
    for vector in prepared.signature.vectors:
        lists = rows[vector.name].to_pylist()
        expected = np.array([[math.nan] * (vector.vector or 0) if each is None else each for each in lists], np.float32)
        np.testing.assert_array_equal(request.dense[vector.name], expected, err_msg=vector.name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_a_raw_request_has_the_inputs_of_predict(
    prepared: Prepared, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = log_table(rows)
    read = predicted_inputs(prepared, log, tmp_path_factory.mktemp("predict"))
    request = prepared.reader.read_score({"form": "raw", "rows": raw_columns(prepared, log)})
    assert request.missing == ()
    assert_same_inputs(prepared, request, read)
    assert_same_inputs(prepared, prepared.reader.read_score({"rows": feature_columns(prepared, read)}), read)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=12), in_columns=st.booleans(), shared=st.booleans())
def test_a_ranking_has_the_inputs_of_its_rows(
    prepared: Prepared, rows: list[dict[str, Any]], in_columns: bool, shared: bool
) -> None:
    """The values of `user` count for all items, also those of items' columns that no item has."""
    columns = raw_columns(prepared, log_table(rows))
    reader = prepared.reader
    assert reader._raw is not None
    of_items = [name for name in reader._raw.names("item") if not (shared and name == "text")]
    user = {name: values[0] for name, values in columns.items() if name not in of_items}
    items = {name: columns[name] for name in of_items}
    listed = [dict(zip(items, row, strict=True)) for row in zip(*items.values(), strict=True)]
    ranked = reader.read_rank({"form": "raw", "user": user, "items": items if in_columns else listed})
    whole = items | {name: [value] * len(rows) for name, value in user.items()}
    scored = reader.read_score({"form": "raw", "rows": whole})
    first = np.zeros(len(rows), np.int64)
    for feature in prepared.signature.inputs:
        has_numbers = feature.dense or feature.vector is not None
        actual: Any = (ranked.dense if has_numbers else ranked.ids)[feature.name]
        expected: Any = (scored.dense if has_numbers else scored.ids)[feature.name]
        if feature.of == "user":
            actual = actual[first] if has_numbers else actual.take(first)
        if has_numbers:
            np.testing.assert_array_equal(actual, expected)
        else:
            np.testing.assert_array_equal(actual.values_V, expected.values_V)


def test_an_integer_beyond_int64_names_its_row_and_no_other_request_fails(prepared: Prepared) -> None:
    good = {"small": [1, 2, 3], "at": ["2024-05-01T10:00:00Z"] * 3}
    bad = good | {"small": [1, 2, MOST_SMALL + 1]}
    with pytest.raises(RequestError, match="an integer exceeds 64 bits") as error:
        prepared.reader.read_score({"form": "raw", "rows": bad})
    assert (error.value.field, error.value.value) == ("rows.small[2]", str(MOST_SMALL + 1))
    assert prepared.reader.read_score({"form": "raw", "rows": good}).dense["cube"].tolist() == [1, 8, 27]


def test_numbers_of_vectors_count_as_characters_however_they_are_written(prepared: Prepared) -> None:
    times = ["2024-05-01T10:00:00Z"] * 2000
    for number in (0, 0.0):
        vectors = {"spot": [[number] * 2] * 2000, "video.content": [[number] * 3] * 2000}
        bags = {"numbers": [[1] * 5] * 2000, "weights": [[number] * 5] * 2000}
        request = prepared.reader.read_score({"form": "raw", "rows": {"at": times} | vectors | bags})
        assert request.dense["content"].shape == (2000, 3)


AT = {"at": "2024-05-01T10:00:00Z"}


@pytest.mark.parametrize(
    ("row", "field", "rule"),
    [
        (AT | {"small": 2.5}, "small", "an integer of 64 bits"),
        (AT | {"small": 2**63}, "small", "an integer of 64 bits"),
        (AT | {"small": True}, "small", "an integer of 64 bits"),
        (AT | {"small": "12a"}, "small", "an integer of 64 bits"),
        (AT | {"small": "\u0663"}, "small", "an integer of 64 bits"),
        (AT | {"user_id": -9223372036854775809.0}, "user_id", "an integer of 64 bits"),
        (AT | {"user_id": 9007199254740993.0}, "user_id", "an integer of 64 bits"),
        (AT | {"price": 1234567.1234567891}, "price", "more than 15 digits as text"),
        (AT | {"price": "\u0663.\u0665"}, "price", "a decimal number"),
        (AT | {"x": "1.5"}, "x", "a number"),
        (AT | {"x": True}, "x", "a number"),
        (AT | {"x": 10**400}, "x", "a number"),
        (AT | {"x": math.inf}, "x", "a number"),
        (AT | {"single": 1e39}, "single", "a number that fp32 can hold"),
        (AT | {"x": 1e300, "small": 1}, "small", "a finite float32; it is computed from small, x"),
        (AT | {"city": 3}, "city", "a text"),
        (AT | {"city": "\ud800"}, "city", "a text"),
        (AT | {"flag": 1}, "flag", "true or false"),
        (AT | {"price": "1.234"}, "price", "at most 10 digits, 2 of them"),
        (AT | {"price": "1e9"}, "price", "at most 10 digits, 2 of them"),
        (AT | {"price": "NaN"}, "price", "a decimal number"),
        (AT | {"price": [1]}, "price", "a decimal number"),
        (AT | {"numbers": 3}, "numbers", "a list, with each value an integer"),
        (AT | {"numbers": [1, "x"]}, "numbers[1]", "an integer of 64 bits"),
        (AT | {"numbers": [1] * 1001}, "numbers", "at most 1,000 values"),
        (AT | {"numbers": [1, 2], "weights": [1]}, "weights", "as many weights"),
        ({"at": "2024-05-01T10:00:00"}, "at", "a time with an offset"),
        ({"at": "2024-05-01"}, "at", "a time with an offset"),
        ({"at": "2024-02-30T10:00:00Z"}, "at", "a time with an offset"),
        ({"at": 1714557600}, "at", "a time with an offset"),
        ({"at": "1999-01-01T10:00:00Z"}, "at", "between 2000-01-01 and 2099-12-31"),
        ({}, "at", "every row needs a value; as timestamp it must lie between 2000-01-01 and 2099-12-31"),
        (AT | {"hour": 3}, "hour", 'it is a feature; a request with features has "form": "features"'),
        (AT | {"smal": 3}, "smal", 'no raw column of the model; did you mean "small"?'),
        (AT | {"plays": 3}, "plays", '"form": "features"'),
        (AT | {"video.play": 3}, "video.play", 'did you mean "video.plays"?'),
        (AT | {"video_id": 3}, "video_id", "no raw column"),
    ],
)
def test_a_wrong_value_names_its_row_and_rule(prepared: Prepared, row: dict[str, Any], field: str, rule: str) -> None:
    good = {"at": "2024-05-01T10:00:00+05:30", "numbers": [1], "weights": [0.5]}
    with pytest.raises(RequestError) as error:
        prepared.reader.read_score({"form": "raw", "rows": [good, row]})
    assert error.value.field == f"rows[1].{field}"
    assert rule in error.value.rule


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"form": "rows", "items": [AT]}, "form", '"features", the default, or "raw"'),
        ({"form": None, "items": [AT]}, "form", '"features", the default, or "raw"'),
        ({"items": [AT]}, "items[0].at", 'it is a raw column; a request with raw columns has "form": "raw"'),
        ({"form": "raw", "items": [{"city": "Oslo"}], "user": AT}, "items[0].city", "belongs in `user`"),
        ({"form": "raw", "items": [{}], "user": {"city": "x" * 2**22 + "y"} | AT}, "user.city", "4,194,304 characters"),
        (
            {"form": "raw", "items": [{}] * 2000, "user": {"text": "x" * 3000} | AT},
            "user.text",
            "one in `user` counts once per item",
        ),
        (
            {"form": "raw", "items": [{}] * 2000, "user": {"numbers": [1] * 20, "weights": [1] * 20} | AT},
            "user.numbers",
            "20,000 values",
        ),
        ({"form": "raw", "items": [], "user": AT}, "items", "a list of 1 to 2,000 objects"),
        ({"form": "raw", "items": {"small": [1], "x": [1, 2]}, "user": AT}, "items.x", "as many values as items.small"),
    ],
)
def test_a_wrong_body_names_its_field(prepared: Prepared, body: Any, field: str, rule: str) -> None:
    with pytest.raises(RequestError) as error:
        prepared.reader.read_rank(body)
    assert error.value.field == field
    assert rule in error.value.rule


def test_the_columns_say_their_type_owner_and_readers(prepared: Prepared) -> None:
    columns = {column.name: column for column in prepared.form.columns}
    assert {name: column.type for name, column in columns.items()} == {
        "user_id": "int64",
        "city": "string",
        "at": "timestamptz",
        "small": "int64",
        "flag": "bool",
        "price": "decimal(10, 2)",
        "text": "string",
        "numbers": "list<int64>",
        "weights": "list<double>",
        "single": "float",
        "x": "double",
        "video.tags": "list<string>",
        "video.plays": "int64",
        "video.uploaded": "date",
        "video.content": "list<double>",
        "spot": "list<float>",
        "born": "date",
        "seen": "timestamp",
        "context": "string",
        "video_id": "int64",
    }
    assert {name for name, column in columns.items() if column.of == "user"} == {
        "user_id",
        "city",
        "at",
        "text",
        "spot",
    }
    assert {name for name, column in columns.items() if column.required} == {"at"}
    assert columns["small"].features == ("kind", "is_number", "ratio", "quotient", "cube")
    assert columns["video_id"].features == ()
    assert all("read_parquet" not in query.sql for query in (prepared.form.user, prepared.form.item) if query)


def test_a_raw_request_has_the_inputs_of_the_dataset(prepared: Prepared) -> None:
    """Every row of valid and test, whose order is that of the users."""
    log = pq.read_table(prepared.folder / "log.parquet")
    for split in ("train", "valid", "test"):
        part = pq.read_table(prepared.folder / "data" / split)
        assert len(part)
        order = part["row"].to_pylist()
        request = prepared.reader.read_score({"form": "raw", "rows": raw_columns(prepared, log.take(order))})
        for feature in prepared.signature.sparse:
            column = part[feature.name].combine_chunks()
            expected = column.flatten() if feature.bag else column
            np.testing.assert_array_equal(request.ids[feature.name].values_V, expected.to_numpy())
        for number in prepared.signature.dense:
            expected_N = part[number.name].fill_null(math.nan).to_numpy()
            np.testing.assert_array_equal(request.dense[number.name], expected_N)
        spots = np.stack(part["spot"].to_numpy(zero_copy_only=False))
        np.testing.assert_array_equal(request.dense["spot"], spots)
        table = DatasetDirectory(prepared.folder / "data").vector_tables["content"]
        np.testing.assert_array_equal(request.dense["content"], table.values_RW[part["content"].to_numpy()])


def test_a_server_needs_duckdb_and_no_other_part_of_data_preparation(feed_model: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('ibis', 'sqlglot', 'data_prep'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from ple_rec.inference.ranker import Ranker, latest_version\n"
        "ranker = Ranker(latest_version(Path(sys.argv[1])), threads=1)\n"
        "rows = {'time_ms': [1714550400000], 'videos.length': [90]}\n"
        "print(ranker.read_score({'form': 'raw', 'rows': rows}).dense['minutes'][0])\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(feed_model)], capture_output=True, text=True, check=True)
    assert result.stdout == "1.5\n"
