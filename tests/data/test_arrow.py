"""Column types that a part may have, and the Arrow layouts that hide values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.data import arrow
from ple_rec.data.arrow import IntArray
from ple_rec.data.columns import Columns, Selection, decode
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.errors import DataError
from tests.data import oracle
from tests.datasets import set_column, write_dataset

TASK = Task(name="t", kind="binary", label="t")
LABEL = pa.array([0, 1, 0, 1], pa.float32())


def read(rows_N: IntArray | None = None, **columns: pa.Array | pa.ChunkedArray) -> Columns:
    """Columns by the role that their name tells, of 4 rows."""
    selection = Selection(
        single=(SparseFeature(name="id", table="ids"),) if "id" in columns else (),
        bags=(SparseFeature(name="bag", table="ids", bag=True, weights="w" if "w" in columns else None),)
        if "bag" in columns
        else (),
        dense=(DenseFeature(name="x"),) if "x" in columns else (),
        tasks=(Task(name="t", kind="binary", label="t", space="s" if "s" in columns else None),),
        table_rows={"ids": 10},
        sample_weight="weight" if "weight" in columns else None,
        group="g" if "g" in columns else None,
    )
    return decode(pa.table({"t": LABEL} | columns), selection, "part, row group 0").arrange(rows_N)


def refusal(**columns: pa.Array | pa.ChunkedArray) -> str:
    with pytest.raises(DataError) as caught:
        read(**columns)
    assert caught.value.exit_code == 3
    return str(caught.value)


IDS = pa.array([3, None, 0, 9])


@pytest.mark.parametrize(
    "column",
    [
        IDS.cast(pa.int8()),
        IDS.cast(pa.int32()),
        IDS,
        IDS.cast(pa.uint8()),
        IDS.cast(pa.uint64()),
        IDS.cast(pa.float32()),
        IDS.cast(pa.int32()).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 2], pa.int8()), pa.array([0, 3, 9], pa.int32())),
        pa.array([7, 3, None, 0, 9, 8])[1:5],
        pa.chunked_array([IDS[:1], IDS[1:1], IDS[1:]]),
        pa.chunked_array([IDS[:2].dictionary_encode(), IDS[2:].dictionary_encode()]),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_of_any_integer_type(column: pa.Array) -> None:
    ids_FN = read(id=column).ids_FN
    assert ids_FN.tolist() == [[3, 0, 0, 9]]
    assert ids_FN.dtype == np.int32


BAG = pa.array([[3, None], None, [], [9]], pa.list_(pa.int64()))


def hidden() -> pa.Array:
    """BAG, with values behind the null list that no table has."""
    offsets = pa.array([0, 2, 5, 5, 6], pa.int32())
    values = pa.array([3, None, 77, -1, 99, 9], pa.int64())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, True, False, False]))


def sliced(array: pa.Array) -> pa.Array:
    """`array`, as a slice of a longer one with ids around it that no table has."""
    outside = pa.array([[50, 60, 70], None, [-5]], pa.list_(pa.int64())).cast(array.type)
    return pa.concat_arrays([outside, array, outside])[3:7]


@pytest.mark.parametrize(
    "column",
    [
        BAG,
        BAG.cast(pa.list_(pa.int32())),
        BAG.cast(pa.large_list(pa.int64())),
        BAG.cast(pa.large_list(pa.int32())),
        pa.array([[3, None], None, [], [9]], pa.list_(pa.int32())).cast(pa.list_(pa.float32())),
        hidden(),
        hidden().cast(pa.list_(pa.int32())),
        hidden().cast(pa.large_list(pa.int64())),
        sliced(BAG),
        sliced(hidden()),
        sliced(hidden()).cast(pa.list_(pa.int32())),
        sliced(BAG.cast(pa.list_(pa.int32()))),
        sliced(BAG.cast(pa.large_list(pa.int32()))),
        pa.chunked_array([BAG[:2], BAG[2:2], BAG[2:]]),
        pa.chunked_array([hidden()[:1], hidden()[1:]]),
        pa.chunked_array([sliced(hidden().cast(pa.list_(pa.int32())))[:3], hidden().cast(pa.list_(pa.int32()))[3:]]),
        pa.ListArray.from_arrays(
            pa.array([0, 2, 2, 2, 3], pa.int32()),
            pa.array([3, None, 9], pa.int32()).dictionary_encode(),
            mask=pa.array([False, True, False, False]),
        ),
        pa.array([[3, None], None, [], [9]], pa.list_view(pa.int32())),
        pa.array([[70], [3, None], None, [], [9], [80]], pa.large_list_view(pa.int32()))[1:5],
    ],
    ids=lambda column: str(column.type),
)
def test_bags_of_any_list_type(column: pa.Array) -> None:
    (bag,) = read(bag=column).bags
    assert bag.offsets.tolist() == [0, 2, 2, 2, 3]
    assert bag.values.tolist() == [3, 0, 9]
    assert bag.weights is None


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
def test_bags_of_one_length(kind: pa.DataType) -> None:
    column = pa.array([[8, 8], [1, 2], None, [3, 4], [5, None], [8, 8]], pa.list_(kind, 2))
    (bag,) = read(bag=column[1:5]).bags
    assert bag.offsets.tolist() == [0, 2, 2, 4, 6]
    assert bag.values.tolist() == [1, 2, 3, 4, 5, 0]


def test_weights_hidden_behind_null_lists_and_slices() -> None:
    offsets = pa.array([0, 1, 3, 4, 4, 4, 5], pa.int32())
    values = pa.array([np.inf, 0.5, None, np.nan, 2.0], pa.float64())
    mask = pa.array([False, False, True, False, False, False])
    weights = pa.ListArray.from_arrays(offsets, values, mask=mask)[1:5]
    for column in (weights, weights.cast(pa.list_(pa.float32())), weights.cast(pa.large_list(pa.float32()))):
        (bag,) = read(bag=pa.array([[1, 2], [], None, []], pa.list_(pa.int32())), w=column).bags
        assert bag.weights is not None
        assert bag.weights.tolist() == [0.5, 1.0]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(s.lists(s.none() | s.lists(s.none() | s.integers(0, 9), max_size=3), min_size=4, max_size=12), s.data())
def test_any_slice_and_chunking_of_bags(lists: list[list[int | None] | None], data: s.DataObject) -> None:
    array = pa.array(lists, data.draw(s.sampled_from([pa.list_(pa.int32()), pa.list_(pa.int64())])))
    array = pa.concat_arrays([array, pa.array([[88]], array.type)])
    start = data.draw(s.integers(0, len(lists) - 4))
    cut = data.draw(s.integers(0, 4))
    part = array[start : start + 4]
    (bag,) = read(bag=pa.chunked_array([part[:cut], part[cut:]])).bags
    found = [bag.values[bag.offsets[i] : bag.offsets[i + 1]].tolist() for i in range(4)]
    assert found == [[i or 0 for i in row or []] for row in lists[start : start + 4]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, None, 0, -2], pa.float32()),
        pa.array([1.5, None, 0, -2], pa.float64()),
        pa.array([1.5, float("nan"), 0, -2], pa.float32()),
        pa.array([9, 1.5, None, 0, -2], pa.float32())[1:],
        pa.array([1.5, None, 0, -2], pa.float32()).dictionary_encode(),
        pa.chunked_array([pa.array([1.5], pa.float32()), pa.array([None, 0, -2], pa.float32())]),
    ],
    ids=lambda column: str(column.type),
)
def test_dense_values(column: pa.Array) -> None:
    dense_ND = read(x=column).dense_ND
    np.testing.assert_array_equal(dense_ND, np.array([[1.5], [np.nan], [0], [-2]], np.float32))
    assert dense_ND.dtype == np.float32


def test_whole_numbers_are_dense_values() -> None:
    assert read(x=pa.array([1, 2, 3, 4], pa.int32())).dense_ND.tolist() == [[1], [2], [3], [4]]
    assert np.isnan(read(x=pa.nulls(4)).dense_ND).all()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, None, False, True]),
        pa.array([False, True, None, False, True])[1:],
        pa.array([True, None, False, True]).dictionary_encode(),
        pa.array([1, None, 0, 1], pa.int8()),
    ],
    ids=lambda column: str(column.type),
)
def test_sample_space_with_nulls(column: pa.Array) -> None:
    columns = read(s=column, t=pa.array([1, None, float("inf"), 0], pa.float32()))
    assert columns.in_space_NK.tolist() == [[1], [0], [0], [1]]
    assert columns.labels_NK.tolist() == [[1], [0], [0], [0]]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.int64(), pa.float64()])
def test_labels_of_any_number_type(kind: pa.DataType) -> None:
    label = pa.array([0, 1, 0, 1]).cast(kind)
    for column in (label, label.dictionary_encode()):
        columns = read(t=column)
        assert columns.labels_NK.tolist() == [[0], [1], [0], [1]]
        assert columns.in_space_NK.tolist() == [[1]] * 4


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5, None, -7, 5], pa.int32()),
        pa.array([5, None, -7, 5], pa.int64()),
        pa.array([5, None, -7, 5], pa.int16()).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_groups(column: pa.Array) -> None:
    group_N = read(g=column).group_N
    assert group_N is not None
    assert group_N.tolist() == [5, -1, -7, 5]
    assert group_N.dtype == np.int64


TEXT = pa.array(["12", "13", None, "12"])


@pytest.mark.parametrize(
    "column",
    [
        TEXT,
        TEXT.cast(pa.large_string()),
        TEXT.cast(pa.string_view()),
        TEXT.cast(pa.binary()),
        TEXT.dictionary_encode(),
        pa.array([1, 2, 3, 4], pa.timestamp("s")),
    ],
    ids=lambda column: str(column.type),
)
def test_text_groups_and_dates_are_refused_even_where_they_look_like_numbers(column: pa.Array) -> None:
    assert refusal(g=column) == (
        f"part, row group 0, column 'g': type {column.type}; it must be int64 or convert to it (only numbers convert). "
        "Fix: prepare the dataset again"
    )


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("id", TEXT, "int64"),
        ("x", TEXT, "float"),
        ("t", TEXT, "float"),
        ("s", TEXT, "bool"),
        ("weight", TEXT, "float"),
        ("id", pa.array([{"a": 1}] * 4), "int64"),
        ("id", BAG, "int64"),
    ],
)
def test_columns_of_another_type_are_refused(name: str, column: pa.Array, kind: str) -> None:
    assert refusal(**{name: column}) == (
        f"part, row group 0, column {name!r}: type {column.type}; it must be {kind} or convert to it "
        "(only numbers convert). Fix: prepare the dataset again"
    )


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.uint64()])
def test_a_number_becomes_the_nearest_float(kind: pa.DataType) -> None:
    """Whatever its type was; beyond 2^24 not every integer is one."""
    values = [1, 2, 3, 2**24 + 3]
    dense_ND = read(x=pa.array(values, kind)).dense_ND
    assert dense_ND[:, 0].tolist() == np.array(values, np.float64).astype(np.float32).tolist() == [1, 2, 3, 2**24 + 4]


@pytest.mark.parametrize(
    ("name", "column", "kind"),
    [
        ("id", pa.array([1, 2, 2.5, 4]), pa.int64()),
        ("id", pa.array([1, 2, 3, 2**63], pa.uint64()), pa.int64()),
        ("g", pa.array([1, 2, float("nan"), 4]), pa.int64()),
    ],
)
def test_values_that_do_not_convert_are_refused(name: str, column: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)) as reason:
        column.cast(kind)
    assert refusal(**{name: column}) == (
        f"part, row group 0, column {name!r}: type {column.type}; it must be {kind} or convert to it ({reason.value}). "
        "Fix: prepare the dataset again"
    )


@pytest.mark.parametrize(
    ("column", "found", "rule"),
    [
        (IDS, "int64", "list<int64> or convert to it (the column has no lists)"),
        (TEXT, "string", "list<int64> or convert to it (the column has no lists)"),
        (pa.array([["1"], [], [], []]), "string", "int64 or convert to it (only numbers convert)"),
        (pa.array([[[1]], [], [], []]), "list<item: int64>", "int64 or convert to it (only numbers convert)"),
    ],
)
def test_bags_of_anything_else_are_refused(column: pa.Array, found: str, rule: str) -> None:
    assert refusal(bag=column) == (
        f"part, row group 0, column 'bag': type {found}; it must be {rule}. Fix: prepare the dataset again"
    )


def test_bags_of_values_that_do_not_convert_are_refused() -> None:
    message = refusal(bag=pa.array([[1], [2.5], [], []]))
    assert message.startswith("part, row group 0, column 'bag': type double; it must be int64 or convert to it (")
    assert message.endswith("). Fix: prepare the dataset again")


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
@pytest.mark.parametrize(("rows", "bad"), [(10, -1), (10, 10), (200, -128), (10, 127)])
def test_ids_outside_the_table_of_any_width(kind: pa.DataType, rows: int, bad: int) -> None:
    """A negative id of one byte is no large one."""
    column, bag = pa.array([0, 9, bad, -3], kind), pa.array([[0], [9, 1], [], [bad, -3]], pa.list_(kind))
    for found, row in ((single(rows, column), 2), (bagged(rows, bag), 3)):
        assert found == (
            f"part, row group 0, column 'id', row {row}: id {bad}; table 't' has rows 0 to {rows - 1}. Fix: prepare "
            "the dataset again, since its schema and its Parquet files do not belong together"
        )


def test_an_id_that_int32_does_not_hold_is_refused() -> None:
    column = pa.array([1, 2**31, 5], pa.int64())
    assert ", row 1: id 2147483648; table 't' has rows 0 to 2147483647. " in single(2**40, column)


def single(rows: int, column: pa.Array) -> str:
    feature = SparseFeature(name="id", table="t")
    source = arrow.RowGroupColumns(pa.table({"id": column}), "part, row group 0")
    with pytest.raises(DataError) as caught:
        arrow.single_ids(source, feature, {"t": rows})
    return str(caught.value)


def bagged(rows: int, column: pa.Array) -> str:
    feature = SparseFeature(name="id", table="t", bag=True)
    with pytest.raises(DataError) as caught:
        arrow.bag_ids(arrow.RowGroupColumns(pa.table({"id": column}), "part, row group 0"), feature, {"t": rows})
    return str(caught.value)


def test_rows_in_another_order() -> None:
    weights = pa.array([[0.5, 2], None, [], [3]])
    taken = read(np.array([3, 1, 0, 2]), id=IDS, bag=BAG, w=weights, x=LABEL, weight=LABEL, g=IDS)
    assert len(taken) == 4
    assert taken.ids_FN.tolist() == [[9, 0, 3, 0]]
    assert taken.bags[0].offsets.tolist() == [0, 1, 1, 3, 3]
    assert taken.bags[0].values.tolist() == [9, 3, 0]
    assert taken.bags[0].weights is not None
    assert taken.bags[0].weights.tolist() == [3, 0.5, 2]
    assert taken.dense_ND.tolist() == taken.labels_NK.tolist() == [[1], [1], [0], [0]]
    assert taken.weight_N is not None
    assert taken.group_N is not None
    assert (taken.weight_N.tolist(), taken.group_N.tolist()) == ([1, 1, 0, 0], [9, -1, 3, 0])
    assert taken.group_N.dtype == np.int64


def test_a_bad_row_is_named_by_its_place_in_the_file() -> None:
    with pytest.raises(DataError, match=r"^part, row group 0, column 'id', row 2: id 77; "):
        read(np.array([2, 3, 0, 1]), id=pa.array([0, 1, 77, 3]))


@pytest.mark.parametrize("layout", [pa.large_list, pa.list_view])
def test_types_survive_parquet(tmp_path: Path, layout: Callable[[pa.DataType], pa.DataType]) -> None:
    """Other list layouts, wide numbers and dictionaries, written and read back, equal the plain columns."""

    def other(split: str, table: pa.Table) -> pa.Table:
        kinds = {"user": pa.int64(), "age": pa.float64(), "request": pa.int32()}
        kinds |= {"history": layout(pa.int64()), "tags": layout(pa.int32()), "tag_weights": layout(pa.float64())}
        for name, kind in kinds.items():
            table = set_column(table, name, pa.array(table[name].to_pylist(), kind))
        for name in ("item", "click"):
            table = set_column(table, name, table[name].combine_chunks().dictionary_encode())
        return table

    def batches(path: Path) -> list[list[bytes]]:
        dataset = DatasetDirectory(path)
        selection = dataset.select(drop=[], tasks=[])
        one = Loader(dataset, "train", selection, batch_size=16, rank=0, world_size=1, virtual_shards=2)
        return [oracle.bits(batch) for batch in one.epoch(0)]

    write_dataset(tmp_path / "plain", rows=96, row_group_rows=40)
    write_dataset(tmp_path / "other", rows=96, row_group_rows=40, edit=other)
    assert pq.read_schema(tmp_path / "other/train/part-00000.parquet").field("tags").type != pa.list_(pa.int32())
    assert batches(tmp_path / "other") == batches(tmp_path / "plain")
