"""Slice columns: every type, codes against plain Python, the most frequent values, names, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.base import Split
from ple_rec.data import slices as slices_module
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from ple_rec.data.slice_columns import slice_columns
from ple_rec.data.slices import ROW_ZERO, SliceColumn, Slicing, ValueCounts, comparison_type, raw_values
from ple_rec.errors import DataError, PleRecError, UserError
from tests.datasets import numbered, write_dataset

MISSING, OTHER = {"value": None, "missing": True}, {"value": None, "other": True}
FEW = st.none() | st.integers(-2, 3)

# type, some values of it, and how the most frequent one reads
TYPES: list[tuple[pa.DataType, list[Any], Any]] = [
    (pa.int8(), [3, -1, 3, None], 3),
    (pa.int64(), [2**62, 5, 2**62, None], 2**62),
    (pa.uint64(), [2**64 - 1, 5, 2**64 - 1, None], 2**64 - 1),
    (pa.bool_(), [False, True, False, None], False),
    (pa.string(), ["b", "a", "b", None], "b"),
    (pa.large_string(), ["b", "", "b", None], "b"),
    (pa.string_view(), ["b", "a", "b", None], "b"),
    (pa.dictionary(pa.int8(), pa.string()), ["b", "a", "b", None], "b"),
    (pa.dictionary(pa.int32(), pa.int64()), [7, 5, 7, None], 7),
    (pa.date32(), [date(2024, 5, 2), date(2024, 5, 1), date(2024, 5, 2), None], "2024-05-02"),
    (pa.date64(), [date(2024, 5, 2), date(2024, 5, 1), date(2024, 5, 2), None], "2024-05-02"),
]


def sliced(column: SliceColumn, *groups: pa.Array, shown: int) -> Slicing:
    counts = ValueCounts(column)
    for group in groups:
        counts.add(pa.table({column.name: group}))
    return counts.slicing(shown)


@pytest.mark.parametrize(
    ("kind", "values", "first"), TYPES, ids=lambda value: str(value) if isinstance(value, pa.DataType) else ""
)
def test_every_type_of_column(kind: pa.DataType, values: list[Any], first: Any) -> None:
    found = comparison_type(kind)
    assert found is not None
    column, rows = SliceColumn("x", found), pa.array(values, kind)
    one = sliced(column, rows, shown=1)
    assert one.entries() == [{"value": first}, MISSING, OTHER]
    assert [type(entry["value"]) for entry in one.entries()[:1]] == [type(first)]
    assert one.row_codes(pa.table({"x": rows})).tolist() == [0, 2, 0, 1]
    assert sliced(column, rows, shown=9).row_codes(pa.table({"x": rows})).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.float32(), pa.float64(), pa.float16(), pa.decimal128(5, 2), pa.timestamp("us"), pa.binary()),
        *(pa.list_(pa.int32()), pa.struct([("a", pa.int32())]), pa.dictionary(pa.int8(), pa.float32())),
    ],
    ids=str,
)
def test_types_without_slices(kind: pa.DataType) -> None:
    assert comparison_type(kind) is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(FEW, max_size=12), min_size=1, max_size=4), st.integers(1, 3), st.randoms())
def test_codes_are_those_of_plain_python(groups: list[list[int | None]], shown: int, random: Any) -> None:
    column = SliceColumn("x", pa.int64())
    rows = [value for group in groups for value in group]
    counts = Counter(value for value in rows if value is not None)
    expected = sorted(counts, key=lambda value: (-counts[value], value))[:shown]
    arrays = [pa.array(group, pa.int16()) for group in groups]
    found = sliced(column, *arrays, shown=shown)
    assert found.values.to_pylist() == expected
    codes = [len(expected) if v is None else expected.index(v) if v in expected else len(expected) + 1 for v in rows]
    assert [code for array in arrays for code in found.row_codes(pa.table({"x": array})).tolist()] == codes
    random.shuffle(rows)  # and merged from ranks, whichever rows they read
    total = ValueCounts(column)
    for part in (rows[::2], rows[1::2]):
        own = ValueCounts(column)
        own.add(pa.table({"x": pa.array(part, pa.int64())}))
        total.merge(own.table)
    assert total.slicing(shown).values.equals(found.values)


def test_memory_for_a_column_of_many_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "MAX_COUNTED", 50)
    counts = ValueCounts(SliceColumn("x", pa.int64()))
    for i in range(20):
        counts.add(pa.table({"x": [7, 7, 7, 3, 3, *range(1000 * i, 1000 * i + 60)]}))
        assert len(counts.table) <= 50
    assert counts.slicing(2).values.to_pylist() == [7, 3]
    assert counts.table.to_pylist()[0] == {"value": 7, "count": 61}


def test_text_that_is_no_utf8_reads_somehow() -> None:
    one = sliced(SliceColumn("x", pa.large_string()), _text(b"\xffa"), shown=1)
    assert one.entries()[0] == {"value": "\N{REPLACEMENT CHARACTER}a"}


def _text(content: bytes) -> pa.Array:
    offsets = pa.array([0, len(content)], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(content))


def _extra(split: Split, table: pa.Table) -> pa.Table:
    """Columns that the schema does not name."""
    n, table = len(table), numbered(split, table)
    text = pa.array([None if i % 7 == 0 else "abc"[i % 3] for i in range(n)])
    table = table.append_column("country", text).append_column("vip", pa.array([i % 3 == 0 for i in range(n)]))
    return table.append_column("never", pa.nulls(n))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A dataset of 4 row groups of 8 rows in 2 parts; valid and test have 2 row groups."""
    write_dataset(tmp_path / "data", rows=32, row_group_rows=8, parts=2, edit=_extra)
    return tmp_path / "data"


def _whole(path: Path, split: Split) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((path / split).glob("*.parquet"))])


def slicings(path: Path, split: Split, names: Sequence[str], shown: int = 12) -> tuple[Slicing, ...]:
    found = []
    for column in slice_columns(DatasetDirectory(path), split, names):
        counts = ValueCounts(column)
        counts.add(_whole(path, split))
        found.append(counts.slicing(shown))
    return tuple(found)


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_the_codes_of_their_rows_where_they_are_asked_for(path: Path, shuffle: bool) -> None:
    dataset, names = DatasetDirectory(path), ["user", "country", "vip", "watched", "never", "country"]
    found = slicings(path, "train", names, shown=2)
    assert [one.column.name for one in found] == names[:-1]  # named twice, sliced once
    plain = dataset.select(drop=["user"], tasks=["click"])
    whole = _whole(path, "train")
    codes_NC = list(zip(*(one.row_codes(whole).tolist() for one in found), strict=True))
    seen = set()
    for selection in (plain, replace(plain, slices=found)):
        loader = Loader(
            dataset, "train", selection, batch_size=12, rank=0, world_size=1, virtual_shards=2, shuffle=shuffle
        )
        for batch in loader.epoch(0):
            if selection is plain:
                assert batch.slices_BC is None
                continue
            assert batch.slices_BC is not None
            assert batch.slices_BC.shape == (12, 5)
            assert batch.group_B is not None
            for row, codes in zip(batch.group_B[: batch.rows].tolist(), batch.slices_BC.tolist(), strict=False):
                assert tuple(codes) == codes_NC[row]
                seen.add(row)
    assert seen == set(range(32))


def test_rows_of_a_table_are_named_by_the_vocabulary(path: Path) -> None:
    (found,) = slicings(path, "train", ["user"], shown=3)
    rows = found.values.to_pylist()
    assert 0 not in rows
    assert found.entries() == [*({"value": f"user-{row}"} for row in rows), {"value": ROW_ZERO}, OTHER]
    ids = pa.table({"user": pa.array([0, None, rows[1], 23 if 23 not in rows else 22], pa.int32())})
    assert found.row_codes(ids).tolist() == [3, 3, 1, 4]
    (path / "vocab/user.parquet").unlink()
    assert found.entries() == [*({"value": row} for row in rows), {"value": ROW_ZERO}, OTHER]


def test_raw_values_of_any_type_and_rows_without_an_entry(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"raw": [10, 20, 30], "row": pa.array([1, 2, 3], pa.int32()), "count": [9, 8, 7]}), file)
    assert raw_values(file, [3, 1, 99]) == {1: 10, 3: 30}
    pq.write_table(pa.table({"raw": [0.5, 1.5], "row": [1, 2]}), file)
    assert raw_values(file, [1]) == {1: "0.5"}
    assert raw_values(tmp_path / "none.parquet", [1]) == {}


def refusal(call: Callable[[], Any], kind: type[PleRecError]) -> str:
    with pytest.raises(PleRecError) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


FITTING = "user, item, last_item, watched (sample space of watch), request, country, vip, never"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "contry",
            "evaluation.slices: got 'contry'; the rows of {path}/test can be sliced by {fitting}. Fix: did you mean "
            "'country'?",
        ),
        (
            "zzz",
            "evaluation.slices: got 'zzz'; the rows of {path}/test can be sliced by {fitting}. Fix: use one of these",
        ),
        (
            "history",
            "evaluation.slices: got 'history', which is list<element: int32> in {path}/test/part-00000.parquet; a row "
            "belongs to one slice, so the column must have one integer, bool, date or text per row. Fix: write one of "
            "its values into another column, or use one of {fitting}",
        ),
        (
            "age",
            "evaluation.slices: got 'age', which is float in {path}/test/part-00000.parquet; a row belongs to "
            "one slice, so the column must have one integer, bool, date or text per row. Fix: write its bins, as "
            "integers or text, into another column, or use one of {fitting}",
        ),
    ],
)
def test_a_column_that_cannot_slice(path: Path, name: str, message: str) -> None:
    found = refusal(lambda: slice_columns(DatasetDirectory(path), "test", ["user", name]), UserError)
    assert found == message.format(path=path, fitting=FITTING)


def test_a_column_of_bins_is_near(path: Path) -> None:
    for file in (path / "test").iterdir():
        _rewrite(file, lambda table: table.append_column("age_bin", pa.array([3] * len(table))))
    found = refusal(lambda: slice_columns(DatasetDirectory(path), "test", ["age"]), UserError)
    assert found.endswith(
        "Fix: did you mean 'age_bin'? else write its bins, as integers or text, into another column, or use one "
        f"of {FITTING}, age_bin"
    )


def _rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(file)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file, row_group_size=8)


def test_a_column_that_a_part_lacks(path: Path) -> None:
    file = path / "test/part-00000.parquet"
    _rewrite(file, lambda table: table.drop_columns("country"))
    message = (
        f"{file}: no column country; evaluation.slices names it. Fix: write the column into every part of this split, "
        "or slice by another one"
    )
    assert refusal(lambda: slice_columns(DatasetDirectory(path), "test", ["country"]), DataError) == message
    (column,) = slice_columns(DatasetDirectory(path), "valid", ["country"])
    assert column == SliceColumn("country", pa.large_string())
    later = path / "train/part-00001.parquet"
    _rewrite(later, lambda table: table.drop_columns("country"))
    message = message.replace(str(file), str(later))
    assert refusal(lambda: slice_columns(DatasetDirectory(path), "train", ["country"]), DataError) == message


def test_a_name_is_unknown_where_the_other_splits_cannot_tell(path: Path) -> None:
    _rewrite(path / "test/part-00000.parquet", lambda table: table.drop_columns("country"))
    for split in ("train", "valid"):
        for file in (path / split).iterdir():
            file.write_bytes(b"damaged")
    found = refusal(lambda: slice_columns(DatasetDirectory(path), "test", ["country"]), UserError)
    assert found.startswith(f"evaluation.slices: got 'country'; the rows of {path}/test can be sliced by user, ")


def test_parts_of_other_types(path: Path) -> None:
    first, second = path / "train/part-00000.parquet", path / "train/part-00001.parquet"

    def with_country(kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
        return lambda t: t.drop_columns("country").append_column("country", pa.array([None] * len(t), kind))

    _rewrite(second, with_country(pa.dictionary(pa.int8(), pa.string())))
    _rewrite(first, with_country(pa.null()))  # every row of the part is missing
    assert slice_columns(DatasetDirectory(path), "train", ["country"]) == (SliceColumn("country", pa.large_string()),)
    _rewrite(first, with_country(pa.int32()))
    assert refusal(lambda: slice_columns(DatasetDirectory(path), "train", ["country"]), DataError) == (
        f"{second}: column 'country' is dictionary<values=string, indices=int8, ordered=0>; in {first} it is int64. "
        "Fix: write one type into every part, or slice by another column"
    )


@pytest.mark.parametrize("damage", ["cut", "columns"])
def test_a_damaged_vocabulary_is_refused_before_the_run(path: Path, damage: str) -> None:
    file = path / "vocab/user.parquet"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:50])
    else:
        pq.write_table(pq.read_table(file).drop_columns("raw"), file)
    found = refusal(lambda: slice_columns(DatasetDirectory(path), "test", ["user"]), DataError)
    value = "unreadable (" if damage == "cut" else "no column raw"
    assert found.startswith(f"{file}: {value}")
    assert found.endswith(
        "; a vocabulary has the columns raw and row, which give the slices their names. "
        "Fix: copy it again, or remove it, so that slices are named by ids"
    )
    assert len(slice_columns(DatasetDirectory(path), "test", ["country", "item"])) == 2
