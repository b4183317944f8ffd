"""Raw values -> rows: every Arrow layout against a dict, wrong kinds, and an index that is never stale or half."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as s

from ple_rec.config.schema import Table
from ple_rec.data import hash_index, vocabulary_index
from ple_rec.data.lookup import VocabularyLookup
from ple_rec.errors import DataError, UserError

INT64 = s.integers(-(2**63), 2**63 - 1) | s.integers(-3, 40)
TEXT = s.text(max_size=20) | s.sampled_from(["", "a", "a\0", "12345678", "123456789", "\0" * 8, "\0" * 9, "\xe9" * 30])


def write(file: Path, raw: Sequence[Any] | pa.Array, kind: pa.DataType | None = None, /, **changes: Any) -> Path:
    array = raw if isinstance(raw, pa.Array) else pa.array(raw, kind)
    rows = pa.array(range(1, len(array) + 1), pa.int32())
    columns = {"raw": array, "row": rows, "count": pa.array(np.ones(len(array), np.int64))} | changes
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), file)
    return file


def expected(value: Any, rows: dict[Any, int], capacity: int, hash_rows: int) -> int:
    if value is None:
        return 0
    if value in rows:
        return rows[value]
    digits = hashlib.md5(str(value).encode()).hexdigest()[:7]
    return capacity - hash_rows + int(digits, 16) % hash_rows if hash_rows else 0


@settings(deadline=None, derandomize=True, max_examples=20)
@given(s.data(), s.booleans(), s.sampled_from([0, 3]))
def test_no_value_has_a_freed_row(data: s.DataObject, text: bool, hash_rows: int) -> None:
    """The values 0 and "", which stand for a freed row in the arrays of the index, may have a row of their own."""
    value: s.SearchStrategy[Any] = s.sampled_from(["", "a", "b", "c"]) if text else s.integers(-1, 3)
    values = data.draw(s.lists(value, unique=True, max_size=4))
    raw = data.draw(s.permutations([*values, *[None] * data.draw(s.integers(1, 3))]))
    kind = pa.string() if text else pa.int64()
    with tempfile.TemporaryDirectory() as folder:
        days = pa.array([None if each is None else 19_000 for each in raw], pa.int32())
        (Path(folder) / "vocab").mkdir()
        file = write(Path(folder) / "vocab" / "t.parquet", raw, kind, day=days)
        lookup = VocabularyLookup(file, capacity=len(raw) + 1 + hash_rows, hash_rows=hash_rows)
        assert lookup.values(range(len(raw) + 1)) == [None, *raw]
        rows = {each: row for row, each in enumerate(raw, 1) if each is not None}
        wanted = ["", "a", "d", None] if text else [0, 1, 9, None]
        found = lookup.rows(pa.array(wanted, kind), "column").to_pylist()
        assert found == [expected(each, rows, len(raw) + 1 + hash_rows, hash_rows) for each in wanted]
        table = Table(name="t", rows=len(raw) + 1)
        assert vocabulary_index.raw_ids(Path(folder), table).to_pylist() == raw


@settings(deadline=None, derandomize=True, max_examples=30)
@given(s.data(), s.booleans(), s.sampled_from([0, 0, 1, 7]))
def test_rows_are_those_of_a_dict(data: s.DataObject, text: bool, hash_rows: int) -> None:
    value: s.SearchStrategy[Any] = TEXT if text else INT64
    kind = pa.string() if text else pa.int64()
    raw = data.draw(s.lists(value, unique=True, max_size=30))
    wanted = data.draw(s.lists(s.none() | value | (s.sampled_from(raw) if raw else value), max_size=30))
    lists = data.draw(s.lists(s.none() | s.lists(s.sampled_from([*wanted, None]), max_size=4), max_size=6))
    capacity = len(raw) + 1 + hash_rows + data.draw(s.integers(0, 3))
    rows = {each: i + 1 for i, each in enumerate(raw)}
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "t.parquet", raw, kind)
        lookup = VocabularyLookup(file, capacity=capacity, hash_rows=hash_rows)
        assert len(lookup) == len(raw)
        row = [expected(each, rows, capacity, hash_rows) for each in wanted]
        plain = pa.array(wanted, kind)
        start = data.draw(s.integers(0, len(wanted)))
        layouts = [plain, plain.dictionary_encode(), pa.chunked_array([plain[:start], plain[start:]])]
        layouts += [plain.cast(pa.large_string()), plain.cast(pa.string_view())] if text else []
        for array in layouts:
            found = lookup.rows(array, "column")
            assert found.type == pa.int32()
            assert found.to_pylist() == row
        assert lookup.rows(plain[start:], "column").to_pylist() == row[start:]
        nested = [None if bag is None else [expected(x, rows, capacity, hash_rows) for x in bag] for bag in lists]
        for layout in (pa.list_, pa.large_list, pa.list_view):
            array = pa.array(lists, layout(kind))
            assert lookup.rows(array, "column").to_pylist() == nested
            assert lookup.rows(array[1:], "column").to_pylist() == nested[1:]
        encoded = pa.array(lists, pa.list_(kind))
        offsets = encoded.offsets
        bags = pa.ListArray.from_arrays(offsets, encoded.values.dictionary_encode(), mask=encoded.is_null())
        assert lookup.rows(bags, "column").to_pylist() == nested


@settings(deadline=None, derandomize=True, max_examples=20)
@given(s.lists(TEXT, unique=True, max_size=30), s.lists(TEXT, max_size=30))
def test_texts_whose_keys_collide_are_told_apart(raw: list[str], others: list[str]) -> None:
    def weak(offsets: hash_index.Keys, text: hash_index.Bytes) -> hash_index.Keys:
        return np.diff(offsets) % 3

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "text_keys", weak)
        lookup = VocabularyLookup(write(Path(folder) / "t.parquet", raw, pa.string()))
        rows = {each: i + 1 for i, each in enumerate(raw)}
        wanted = raw + others
        found = lookup.rows(pa.array([*wanted, None], pa.string()), "column")
    assert found.to_pylist() == [*(rows.get(each, 0) for each in wanted), 0]


def test_keys_of_texts_differ() -> None:
    texts = [text[:n] for text in ("\0" * 40, "a" * 40, "".join(map(chr, range(40)))) for n in range(1, 41)]
    offsets, text = vocabulary_index.text_buffers(vocabulary_index.to_binary(pa.array(texts)))
    keys = hash_index.text_keys(offsets, text)
    assert len(set(keys.tolist())) == len(set(texts)) == 119  # "\0" begins two of them
    for i, one in enumerate(texts):  # of its bytes alone, wherever it stands
        alone = vocabulary_index.text_buffers(vocabulary_index.to_binary(pa.array(["xyz" * (i % 5), one]))[1:])
        assert hash_index.text_keys(*alone).tolist() == [keys[i]]


@pytest.mark.parametrize("hash_rows", [0, 5])
@pytest.mark.parametrize("piece", [1, 2, 1 << 20])
def test_a_text_longer_than_the_longest_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_rows: int, piece: int
) -> None:
    monkeypatch.setattr(vocabulary_index, "_READ_ROWS", piece)
    raw = ["", "a", "abcdefghijk", "b"]
    file = write(tmp_path / "t.parquet", raw)
    lookup = VocabularyLookup(file, capacity=5 + hash_rows, hash_rows=hash_rows)
    rows = {each: i + 1 for i, each in enumerate(raw)}
    wanted = [*raw, None, "c", "abcdefghijkl", "abcdefghijk" * 1000, "", None, "\xe9" * 6]
    looked_at: list[int] = []
    text_keys = hash_index.text_keys

    def watched(offsets: hash_index.Keys, text: hash_index.Bytes) -> hash_index.Keys:
        looked_at.append(len(text))
        return text_keys(offsets, text)

    monkeypatch.setattr(hash_index, "text_keys", watched)
    for _ in range(2):
        for array in (pa.array(wanted), pa.array(["x", *wanted]).slice(1), pa.array(wanted).dictionary_encode()):
            found = lookup.rows(array, "t").to_pylist()
            assert found == [expected(each, rows, 5 + hash_rows, hash_rows) for each in wanted]
        lookup.read_into_memory()  # which changes no row
    assert max(looked_at) < 20


def test_many_more_values_than_are_sought_at_once(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).permutation(300_000) * 7 - 1_000_000
    lookup = VocabularyLookup(write(tmp_path / "t.parquet", pa.array(raw)))
    assert lookup.rows(pa.array(raw), "column").to_pylist() == list(range(1, 300_001))
    assert not lookup.rows(pa.array(raw + 1), "column").to_numpy().any()


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
def test_integers_of_any_width(tmp_path: Path, kind: pa.DataType) -> None:
    lookup = VocabularyLookup(write(tmp_path / "t.parquet", [5, -1, 100]))
    values = [100, 5, None, 7] + ([] if pa.types.is_unsigned_integer(kind) else [-1])
    assert lookup.rows(pa.array(values, kind), "column").to_pylist() == [3, 1, 0, 0, 2][: len(values)]


def test_an_unsigned_number_is_no_negative_one(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", [-1, 3])
    values = pa.array([2**64 - 1, 3], pa.uint64())
    assert VocabularyLookup(file).rows(values, "column").to_pylist() == [0, 2]
    shared = int(hashlib.md5(b"18446744073709551615").hexdigest()[:7], 16) % 4
    assert VocabularyLookup(file, capacity=9, hash_rows=4).rows(values, "column").to_pylist() == [5 + shared, 2]


def test_a_column_of_nulls(tmp_path: Path) -> None:
    lookup = VocabularyLookup(write(tmp_path / "t.parquet", ["a"]), capacity=9, hash_rows=4)
    assert lookup.rows(pa.nulls(3), "column").to_pylist() == [0, 0, 0]
    assert lookup.rows(pa.array([[None], [], None]), "column").to_pylist() == [[0], [], None]


@pytest.mark.parametrize(
    ("raw", "values", "found", "wanted"),
    [
        ([1, 2], pa.array(["1"]), "string", "integers"),
        ([1, 2], pa.array([1.0]), "double", "integers"),
        ([1, 2], pa.array([True]), "bool", "integers"),
        ([1, 2], pa.array(["1"]).dictionary_encode(), "string", "integers"),
        ([1, 2], pa.array([["1"]]), "string", "integers"),
        (["1", "2"], pa.array([1], pa.int32()), "int32", "text"),
        (["1", "2"], pa.array([b"1"]), "binary", "text"),
        (["1", "2"], pa.array([{"a": "1"}]), "struct<a: string>", "text"),
    ],
)
def test_values_of_another_kind_are_refused(
    tmp_path: Path, raw: list[Any], values: pa.Array, found: str, wanted: str
) -> None:
    file = write(tmp_path / "t.parquet", raw)
    with pytest.raises(DataError) as caught:
        VocabularyLookup(file).rows(values, "log.parquet, column 'user'")
    assert str(caught.value) == (
        f"log.parquet, column 'user': values of type {found}; {file} has {wanted}. Fix: give {wanted}, as in the "
        "logs from which the dataset was prepared"
    )


AGAIN = "copy the dataset again, or prepare it again with --overwrite"


@pytest.mark.parametrize(
    ("raw", "changes", "place", "message"),
    [
        ([1, 2], {"raw": None}, "", f"no column raw; a vocabulary has the columns raw and row. Fix: {AGAIN}"),
        ([1, 2], {"row": None}, "", f"no column row; a vocabulary has the columns raw and row. Fix: {AGAIN}"),
        ([0.5], {}, "", f"column 'raw' is double; raw values must be int64 or text. Fix: {AGAIN}"),
        ([1], {"row": ["1"]}, "", f"column 'row' is string; it must contain the numbers 1, 2, .... Fix: {AGAIN}"),
        (
            [4, 5, 6],
            {"row": [1, 3, 2]},
            ", column 'row', row 1",
            f"got 3; rows are 1, 2, ..., so it must be 2. Fix: {AGAIN}",
        ),
        (
            [4, None, 6],
            {},
            ", column 'raw', row 1",
            f"null; missing values have row 0, which is not in the vocabulary. Fix: {AGAIN}",
        ),
        ([4, 5, 4], {}, ", column 'raw', row 2", f"4 is repeated; a value has one row. Fix: {AGAIN}"),
        (["a", "b", "a"], {}, ", column 'raw', row 2", f"'a' is repeated; a value has one row. Fix: {AGAIN}"),
    ],
)
def test_vocabularies_that_are_refused(
    tmp_path: Path, raw: list[Any], changes: dict[str, Any], place: str, message: str
) -> None:
    file = write(tmp_path / "t.parquet", raw, **changes)
    with pytest.raises(DataError) as caught:
        VocabularyLookup(file)
    assert str(caught.value) == f"{file}{place}: {message}"
    assert names(tmp_path) == ["t.parquet"]  # nothing half is left


def test_a_damaged_or_lost_vocabulary(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", [1])
    file.write_bytes(file.read_bytes()[:40])
    for damaged in (file, tmp_path / "lost.parquet"):
        with pytest.raises(DataError) as caught:
            VocabularyLookup(damaged)
        assert str(caught.value).startswith(f"{damaged}: unreadable (")
        assert str(caught.value).endswith(f"); a vocabulary is a Parquet file. Fix: {AGAIN}")


def test_a_vocabulary_larger_than_its_table(tmp_path: Path) -> None:
    file = write(tmp_path / "user.parquet", [7, 8, 9])
    (tmp_path / "vocab").mkdir()
    file = file.rename(tmp_path / "vocab/user.parquet")
    assert len(VocabularyLookup.of_table(file, Table(name="user", rows=4))) == 3
    hashing = VocabularyLookup.of_table(file, Table(name="user", rows=4, capacity=6, hash_rows=2))
    assert hashing.rows(pa.array([9, 1]), "column").to_pylist() == [3, expected(1, {}, 6, 2)]
    with pytest.raises(DataError) as caught:
        VocabularyLookup.of_table(file, Table(name="user", rows=3))
    assert str(caught.value) == (
        f"{tmp_path}/vocab/user.parquet: 3 values; schema.toml has 2 rows for them in the table. Fix: use the "
        "vocabulary and the schema.toml of the same dataset"
    )


def test_no_room_for_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    cache = tmp_path / "cache/ple_rec"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    file = write(tmp_path / "t.parquet", [1])
    for sealed, parent, fix in (
        (False, tmp_path, "free some space there"),
        (True, cache / "vocab", "free some space there, or set PLE_REC_CACHE to another folder"),
    ):
        with pytest.raises(UserError) as caught:
            VocabularyLookup(file, sealed=sealed)
        assert str(caught.value) == (
            f"the index of {file}: cannot be written into {parent} ([Errno 28] No space left on device); it is written "
            f"beside the vocabulary, or into {cache}/vocab if that is not allowed. Fix: {fix}"
        )
    assert names(tmp_path) == ["cache", "t.parquet"]
    assert names(cache / "vocab") == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def indices(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index"))


def test_an_index_is_built_once_and_for_one_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    fill = vocabulary_index._fill

    def recorded(folder: Path, *args: Any) -> None:
        built.append(folder)
        fill(folder, *args)

    monkeypatch.setattr(vocabulary_index, "_fill", recorded)
    file = write(tmp_path / "t.parquet", ["a", "b"])
    for _ in range(2):
        assert VocabularyLookup(file).rows(pa.array(["b", "c"]), "column").to_pylist() == [2, 0]
    before = file.stat()
    write(file, ["b", "c"])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size  # neither size nor time tells
    assert VocabularyLookup(file).rows(pa.array(["b", "c"]), "column").to_pylist() == [1, 2]
    assert len(built) == 2
    assert len(indices(tmp_path)) == 2
    assert names(tmp_path) == sorted(["t.parquet", *(index.name for index in indices(tmp_path))])


@pytest.mark.parametrize("name", ["slots.i4", "keys.i8", "offsets.i8", "text.u1"])
@pytest.mark.parametrize("cut", [True, False])
def test_an_index_that_is_not_whole_is_built_again(tmp_path: Path, name: str, cut: bool) -> None:
    file = write(tmp_path / "t.parquet", ["a", "bc", "d"])
    VocabularyLookup(file)
    (index,) = indices(tmp_path)
    part = index / name
    if cut:
        part.write_bytes(b"" if name == "text.u1" else part.read_bytes()[:-8])
    else:
        part.unlink()
    assert VocabularyLookup(file).rows(pa.array(["bc", "d", "x"]), "column").to_pylist() == [2, 3, 0]
    assert indices(tmp_path) == [index]
    assert (index / name).stat().st_size > 0


def test_a_dataset_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab, cache = tmp_path / "vocab", tmp_path / "cache"
    vocab.mkdir()
    file = write(vocab / "t.parquet", [3, 1])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    mkdir = Path.mkdir

    def refused(self: Path, *args: Any, **kwargs: Any) -> None:
        """As on a read-only file system; to its owner or to root, a folder's mode forbids nothing."""
        if self.parent == vocab:
            raise PermissionError(30, "Read-only file system")
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refused)
    assert VocabularyLookup(file).rows(pa.array([1]), "column").to_pylist() == [2]
    assert names(vocab) == ["t.parquet"]
    (index,) = indices(cache / "ple_rec/vocab")
    changed = index.stat().st_mtime_ns
    assert VocabularyLookup(file).rows(pa.array([1]), "column").to_pylist() == [2]
    assert index.stat().st_mtime_ns == changed


def _open(file: Path) -> list[int]:
    rows: list[int] = VocabularyLookup(file).rows(pa.array([40_000, 7, -1]), "column").to_pylist()
    return rows


def test_processes_that_build_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", range(50_000), pa.int64())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_open, [file] * 2, chunksize=1) == [[40_001, 8, 0]] * 2
    (index,) = indices(tmp_path)
    assert names(tmp_path) == sorted(["t.parquet", index.name])


def test_an_index_is_the_same_bytes_again(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", [f"{i * i}" for i in range(1000)])
    found = []
    for _ in range(2):
        VocabularyLookup(file)
        (index,) = indices(tmp_path)
        found.append({part.name: part.read_bytes() for part in index.iterdir()})
        shutil.rmtree(index)
    assert found[0] == found[1]
