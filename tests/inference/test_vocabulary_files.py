"""Vocabularies of versions: what is read by row through a chain of deltas, compared and written, piece by piece."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.data.vocabulary_index import check_vocabulary
from ple_rec.inference import vocabulary_files
from ple_rec.inference.vocabulary_files import compare_values, read_values, write_vocabulary

Values = list[Any]


@pytest.fixture(autouse=True, params=[1, 7, 1 << 18])
def _piece_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_files, "_PIECE_ROWS", request.param)


def pieces(values: Values, kind: pa.DataType) -> Iterable[pa.Array]:
    size = vocabulary_files._PIECE_ROWS
    yield from (pa.array(values[begin : begin + size], kind) for begin in range(0, max(len(values), 1), size))


def joined(found: Iterable[pa.Array]) -> Values:
    return [value for piece in found for value in piece.to_pylist()]


def next_values(random_: random.Random, values: Values, text: bool, day: int) -> Values:
    """Return a later vocabulary: some rows freed, some of them with another value, and some rows more."""
    later = [None if random_.random() < 0.3 else value for value in values]
    new = iter(range(1000 * day, 1000 * day + 999))
    later = [next(new) if value is None and random_.random() < 0.5 else value for value in later]
    later += [next(new) if random_.random() < 0.8 else None for _ in range(random_.randrange(9))]
    return [f"v{value}" if text and isinstance(value, int) else value for value in later]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_chain_has_the_values_of_its_last_version(tmp_path: Path, seed: int, text: bool) -> None:
    random_, kind = random.Random(seed), pa.string() if text else pa.int64()
    values = next_values(random_, [None] * random_.randrange(20), text, 0)
    file = tmp_path / "whole.parquet"
    changes: list[VocabularyChanges] = []
    write_vocabulary(file, pieces(values, kind))
    for day in range(1, 4):
        later = next_values(random_, values, text, day)
        change = compare_values(pieces(later, kind), read_values(file, changes))
        rows = zip(change.rows_E.tolist(), change.raw_E.to_pylist(), change.previous_E.to_pylist(), strict=True)
        padded = values + [None] * (len(later) - len(values))
        expected = [
            (row, new, old)
            for row, (new, old) in enumerate(zip(later, padded, strict=True), 1)
            if new != old or row > len(values)
        ]
        assert list(rows) == expected
        changes.append(change)
        values = later
        assert joined(read_values(file, changes)) == values
    write_vocabulary(tmp_path / "squashed.parquet", read_values(file, changes))
    write_vocabulary(tmp_path / "again.parquet", pieces(values, kind))
    assert (tmp_path / "squashed.parquet").read_bytes() == (tmp_path / "again.parquet").read_bytes()
    table = pq.read_table(tmp_path / "squashed.parquet")
    assert table.column_names == ["raw", "row", "day"]
    assert table["row"].to_pylist() == list(range(1, len(values) + 1))
    assert table["raw"].to_pylist() == values
    check_vocabulary(tmp_path / "squashed.parquet")
