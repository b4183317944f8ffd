"""A vocabulary with changes gives the rows of the newer vocabulary that was written whole, over chains of changes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.data.lookup import VocabularyLookup
from ple_rec.data.vocabulary_changes import VocabularyChanges, VocabularyOverlay


def write(file: Path, raw: list[Any], kind: pa.DataType) -> Path:
    days = pa.array([None if each is None else 19_000 for each in raw], pa.int32())
    pq.write_table(pa.table({"raw": pa.array(raw, kind), "row": np.arange(1, len(raw) + 1), "day": days}), file)
    return file


def compare(before: list[Any], after: list[Any], kind: pa.DataType) -> VocabularyChanges:
    rows = [i for i in range(len(after)) if i >= len(before) or before[i] != after[i]]
    before = before + [None] * (len(after) - len(before))
    columns = (pa.array([each[i] for i in rows], kind) for each in (after, before))
    return VocabularyChanges(np.array(rows, np.int32) + np.int32(1), *columns)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(s.data(), s.booleans(), s.sampled_from([0, 3]))
def test_rows_are_those_of_the_whole_vocabulary(data: s.DataObject, text: bool, hash_rows: int) -> None:
    values: list[Any] = ["", "a", "b\0", "12345678", "\xe9" * 30] if text else [0, -1, 2**63 - 1, 5, 7]
    kind = pa.string() if text else pa.int64()
    capacity = 8 + hash_rows
    versions: list[list[Any]] = []
    for _ in range(4):
        chosen = data.draw(s.lists(s.sampled_from(values), unique=True, max_size=5))
        rows = max(len(chosen), len(versions[-1]) if versions else 0)
        free = data.draw(s.integers(0, 7 - rows))
        versions.append(list(data.draw(s.permutations([*chosen, *[None] * (rows - len(chosen) + free)]))))
    asked = pa.array([*values, "x" * 100 if text else 99, None], kind)
    with tempfile.TemporaryDirectory() as folder:
        lookup = VocabularyLookup(
            write(Path(folder) / "0.parquet", versions[0], kind), capacity=capacity, hash_rows=hash_rows
        )
        for i in range(1, len(versions)):
            before, rows_before = lookup, lookup.rows(asked, "column")
            lookup = lookup.with_changes(compare(versions[i - 1], versions[i], kind))
            assert before.rows(asked, "column") == rows_before
            file = write(Path(folder) / f"{i}.parquet", versions[i], kind)
            whole = VocabularyLookup(file, capacity=capacity, hash_rows=hash_rows)
            assert lookup.rows(asked, "column") == whole.rows(asked, "column")
            assert lookup.values(range(capacity)) == whole.values(range(capacity))
            assert (lookup.kind, lookup.overlay_bytes > 0) == (whole.kind, True)


def test_a_short_vocabulary_finds_a_long_new_text(tmp_path: Path) -> None:
    lookup = VocabularyLookup(write(tmp_path / "t.parquet", ["a"], pa.string()), capacity=4)
    newer = lookup.with_changes(compare(["a"], ["a", "long " * 20], pa.string()))
    assert newer.rows(pa.array(["long " * 20, "a"]), "column").to_pylist() == [2, 1]
    assert (len(newer), len(lookup)) == (2, 1)


def test_changes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lookup = VocabularyLookup(write(tmp_path / "t.parquet", ["a", "b"], pa.string()), capacity=4)
    one, more = pa.array([None], pa.string()), pa.array([None, None], pa.string())
    with pytest.raises(ValueError, match="values of type int replace values of type text"):
        lookup.with_changes(compare([], [7], pa.int64()))
    with pytest.raises(ValueError, match="row 4 is beyond the 4 rows"):
        lookup.with_changes(VocabularyChanges(np.array([3, 4], np.int32), pa.array(["c", "d"]), more))
    with pytest.raises(ValueError, match="the 1 new rows do not follow row 2 one by one"):
        VocabularyLookup(lookup.file, capacity=9).with_changes(VocabularyChanges(np.array([4], np.int32), one, one))
    with pytest.raises(ValueError, match="'c' is repeated"):
        VocabularyOverlay(VocabularyChanges(np.array([1, 2], np.int32), pa.array(["c", "c"]), pa.array(["a", "b"])))
    # The difference of the last two rows is beyond int32.
    for rows in ([0], [2, 2], [2, 1], [2, 2**31 - 1, -(2**31)]):
        values = pa.array(["c", "d", "e"][: len(rows)])
        with pytest.raises(ValueError, match="do not ascend"):
            VocabularyChanges(np.array(rows, np.int32), values, values)
    with pytest.raises(ValueError, match="raw is large_string, and previous is int64"):
        VocabularyChanges(np.array([1], np.int32), pa.array(["c"]), pa.array([1]))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("row", "raw", "previous", "why"),
    [
        (1, 9, None, "row 1 had None before the changes, but here it has {5}"),
        (1, 9, 7, "row 1 had {7} before the changes, but here it has {5}"),
        (2, 9, 0, "row 2 had {0} before the changes, but here it has None"),
        (4, 9, 0, "row 4 had {0} before the changes, but here it has None"),
        (1, 7, 5, "{7} gets another row, but still has row 3"),
        (2, 7, None, "{7} gets another row, but still has row 3"),
    ],
)
def test_changes_of_another_vocabulary_are_refused(
    tmp_path: Path, text: bool, row: int, raw: int, previous: int | None, why: str
) -> None:
    kind = pa.string() if text else pa.int64()

    def array(*values: int | None) -> pa.Array:
        return pa.array(values, pa.int64()).cast(kind)

    file = write(tmp_path / "t.parquet", array(5, None, 7).to_pylist(), kind)
    why = why.format(*(repr(value) for value in array(*range(8)).to_pylist()))
    changes = VocabularyChanges(np.array([row], np.int32), array(raw), array(previous))
    lookup = VocabularyLookup(file, capacity=9)
    with pytest.raises(ValueError, match=re.escape(why)):
        lookup.with_changes(changes)
    # The second delta of a chain is compared with the version after the first one, in which all values are changed.
    first = VocabularyChanges(np.arange(1, 4, dtype=np.int32), array(5, None, 7), array(6, 5, None))
    older = VocabularyLookup(write(tmp_path / "older.parquet", array(6, 5, None).to_pylist(), kind), capacity=9)
    with pytest.raises(ValueError, match=re.escape(why)):
        older.with_changes(first).with_changes(changes)
