"""Memory-mapped hash index of a vocabulary, which finds the table row of a raw value. It is built once, on disk.

DIR/vocab/<table>.parquet, the vocabulary of a table, has the columns `raw` (integers or text) and `row` (1, 2, ...).
Row 0 of the table, for missing and unknown values, is not in it. A freed row, whose value has expired, keeps its place
in the file with a null `raw`; only a file with the column `day` (`row_assignments.py`) may have one. The index is a
folder of plain arrays in DIR/vocab. If nothing may be written there, as in a version of a model, the folder is in
`vocab` of the cache (`~/.cache/ple_rec`). The index of a vocabulary in a store lies beside the vocabulary's copy in the
cache.

    <table>.<digest of the vocabulary>.index/  slots.i4  keys.i8       and for texts  offsets.i8  text.u1

The folder is renamed to this name when it is complete. The name has the digest of the vocabulary, so an index is never
stale.

Shape suffixes: M slots, R = 1 + rows of the vocabulary, since row 0 counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.schema import VOCAB_DAY, VOCAB_DIR, Table
from ple_rec.data import hash_index
from ple_rec.data.hash_index import Bytes, Keys, Rows
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
from ple_rec.storage.cache import cache_folder

Kind = Literal["int", "text"]

# Version of the format of the index. It is part of the digest in the folder's name.
VERSION = b"1"
# Number of rows of a vocabulary that are read at a time.
_READ_ROWS = 1 << 20
_FIX = f"copy the dataset again, or prepare it again with {Option.OVERWRITE}"
_TYPES = {"slots": np.int32, "keys": np.int64, "offsets": np.int64, "text": np.uint8}


@dataclass(frozen=True)
class VocabularyIndex:
    """Open index of a vocabulary. Its arrays are mapped from the files, so processes share their memory.

    Args:
        kind: Kind of the raw values.
        slots_M: Row in each slot of the hash table, 0 for an empty slot (`hash_index.py`).
        keys_R: Key of each row in the hash table: the integer itself, or the hash of the text. No slot has a freed row.
        texts_R: Raw text of each row as a binary value, empty for a freed row; None for integers.
    """

    kind: Kind
    slots_M: Rows
    keys_R: Keys
    texts_R: pa.Array | None

    def max_text_bytes(self) -> int:
        """Return the number of bytes of the longest raw text; 0 for integers."""
        if self.texts_R is None:
            return 0
        offsets = text_buffers(self.texts_R)[0]
        pieces = (offsets[begin : begin + _READ_ROWS + 1] for begin in range(0, len(offsets) - 1, _READ_ROWS))
        return max(int(np.diff(piece).max()) for piece in pieces)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the arrays."""
        texts = 0 if self.texts_R is None else self.texts_R.nbytes
        return int(self.slots_M.nbytes + self.keys_R.nbytes + texts)

    def find(self, keys_N: Keys, texts_N: pa.Array | None = None) -> Rows:
        """Return the row of each value, or 0 if the vocabulary does not have it.

        Args:
            keys_N: Key of each value: the integer itself, or the hash of the text.
            texts_N: Texts as large binary values; None for integers. A null is never found.
        """
        if texts_N is None:
            return hash_index.find(self.slots_M, self.keys_R, keys_N)

        def equal_values(positions: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
            assert self.texts_R is not None
            equal = pc.equal(texts_N.take(pa.array(positions)), self.texts_R.take(pa.array(rows)))
            return equal.fill_null(False).to_numpy(zero_copy_only=False)

        return hash_index.find(self.slots_M, self.keys_R, keys_N, equal_values)

    def in_memory(self) -> VocabularyIndex:
        """Return a copy in the memory of this process."""
        texts = self.texts_R
        if texts is not None:
            copies = [None, *(pa.py_buffer(np.copy(np.frombuffer(buffer, np.uint8))) for buffer in texts.buffers()[1:])]
            texts = pa.LargeBinaryArray.from_buffers(texts.type, len(texts), copies)
        return VocabularyIndex(self.kind, np.copy(self.slots_M), np.copy(self.keys_R), texts)


def is_text(arrow_type: pa.DataType) -> bool:
    """Return True if Arrow values of this type are texts."""
    return any(test(arrow_type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def to_binary(texts: pa.Array) -> pa.Array:
    """Return texts as large binary values."""
    return texts.cast(pa.large_string()).cast(pa.large_binary())


def text_buffers(texts: pa.Array) -> tuple[Keys, Bytes]:
    """Return the offsets, beginning with 0, and the bytes of large binary values. The bytes of a null are arbitrary."""
    _, offsets_buffer, text_buffer = texts.buffers()
    if not len(texts):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    offsets = np.frombuffer(offsets_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    text = np.empty(0, np.uint8) if text_buffer is None else np.frombuffer(text_buffer, np.uint8)
    return offsets - offsets[0], text[offsets[0] : offsets[-1]]


def open_index(file: Path, *, sealed: bool = False) -> VocabularyIndex:
    """Return the index of a vocabulary, and build it first if there is none.

    Args:
        file: Vocabulary file.
        sealed: True if nothing may be written beside the file, as in a version of a model.

    Raises:
        DataError: The vocabulary is damaged, has other columns, rows that are not 1, 2, ..., a value twice, or a null
            although it has no days.
        UserError: The index cannot be written.
    """
    with explain_damage(file):
        kind, count = _read_schema(file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.sha256(VERSION)).hexdigest()[:16]
    name = f"{file.stem}.{digest}.index"
    cache = _cache()
    folders = (file.parent, cache)
    for folder in folders:
        if (index := _open_folder(folder / name, kind, count)) is not None:
            return index
    parent = cache
    try:
        # `sealed` leaves out the first folder.
        building = _new_folder(f".{file.stem}.{uuid4().hex}", folders[sealed:])
        parent = building.parent
        return _build(building, file, name, kind, count)
    except OSError as error:
        raise UserError(
            f"the index of {file}",
            f"cannot be written into {parent} ({error})",
            f"it is written beside the vocabulary, or into {cache} if that is not allowed",
            f"free some space there{', or set PLE_REC_CACHE to another folder' if parent == cache else ''}",
        ) from error


def index_in_memory(values: pa.Array) -> VocabularyIndex:
    """Return an index of some values, whose rows are 1, 2, ..., without files.

    Args:
        values: Integers (int64) or texts, without nulls.

    Raises:
        ValueError: A value occurs twice.
    """
    texts_R = None
    if is_text(values.type):
        texts_R = pa.concat_arrays([pa.array([b""], pa.large_binary()), to_binary(values)])
        keys_R = hash_index.text_keys(*text_buffers(texts_R))
    else:
        keys_R = np.append(np.int64(0), values.to_numpy())

    def equal_texts(positions: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
        assert texts_R is not None
        equal = pc.equal(texts_R.take(pa.array(positions + 1)), texts_R.take(pa.array(rows)))
        return equal.to_numpy(zero_copy_only=False)

    slots_M = np.zeros(hash_index.slot_count(len(values)), np.int32)
    rows_N = np.arange(1, len(values) + 1, dtype=np.int32)
    duplicate = hash_index.insert(slots_M, keys_R, rows_N, None if texts_R is None else equal_texts)
    if duplicate is not None:
        raise ValueError(f"the value {values[duplicate - 1].as_py()!r} is repeated")
    return VocabularyIndex("int" if texts_R is None else "text", slots_M, keys_R, texts_R)


def raw_ids(dataset: Location, table: Table) -> pa.Array:
    """Return the raw values of a table's rows, in the order of the rows from row 1 on; null for a freed row.

    Without a vocabulary, the raw value of a row is its number, for every row of the table.

    Args:
        dataset: Dataset directory.
        table: Table of the dataset.

    Raises:
        DataError: The vocabulary is damaged.
    """
    file = dataset / VOCAB_DIR / f"{table.name}.parquet"
    if not file.is_file():
        return pa.array(np.arange(1, table.rows))
    pieces = [raw for _, raw in _read_pieces(file)]
    return pa.concat_arrays(pieces) if pieces else pa.array([], pa.int64())


def check_vocabulary(file: Location) -> None:
    """Read a vocabulary and check it as `open_index` does, except that a value may occur twice.

    Raises:
        DataError: The vocabulary is damaged, has other columns, rows that are not 1, 2, ..., or a null although it has
            no days.
    """
    with explain_damage(file):
        _read_schema(file)
    for _ in _read_pieces(file):
        pass


@contextmanager
def explain_damage(file: Location) -> Iterator[None]:
    """Raise a DataError about a vocabulary in place of an error of the block by which it cannot be read."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(str(file), f"unreadable ({error})", "a vocabulary is a Parquet file", _FIX) from error


def _read_schema(file: Location) -> tuple[Kind, int]:
    """Check the columns of a vocabulary, and return the kind and the number of its raw values."""
    with open_parquet(file) as parquet:
        footer = parquet.metadata
    schema = footer.schema.to_arrow_schema()
    for column in ("raw", "row"):
        if column not in schema.names:
            raise DataError(str(file), f"no column {column}", "a vocabulary has the columns raw and row", _FIX)
    raw, row = schema.field("raw").type, schema.field("row").type
    if not pa.types.is_integer(row):
        raise DataError(str(file), f"column 'row' is {row}", "it must contain the numbers 1, 2, ...", _FIX)
    if footer.num_rows >= 1 << 31:
        raise DataError(str(file), f"{footer.num_rows} values", "table rows are int32", "prepare with fewer values")
    if is_text(raw):
        return "text", footer.num_rows
    if not pa.types.is_integer(raw) or pa.types.is_uint64(raw):
        raise DataError(str(file), f"column 'raw' is {raw}", "raw values must be int64 or text", _FIX)
    return "int", footer.num_rows


def _cache() -> Path:
    return cache_folder() / "vocab"


def _open_folder(folder: Path, kind: Kind, count: int) -> VocabularyIndex | None:
    """Return the index in a folder; None if it is missing or incomplete."""
    sizes: dict[str, int | None] = {"slots": hash_index.slot_count(count), "keys": count + 1}
    if kind == "text":
        sizes |= {"offsets": count + 2, "text": None}
    arrays = {}
    for name, size in sizes.items():
        try:
            arrays[name] = np.asarray(np.memmap(_file(folder, name), _TYPES[name], "r"))
        except (OSError, ValueError):
            return None
        if size not in (None, len(arrays[name])):
            return None
    texts = None
    if kind == "text":
        buffers = [None, pa.py_buffer(arrays["offsets"]), pa.py_buffer(arrays["text"])]
        texts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), count + 1, buffers)
    return VocabularyIndex(kind, arrays["slots"], arrays["keys"], texts)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.{np.dtype(_TYPES[name]).str[1:]}"


def _build(building: Path, file: Path, name: str, kind: Kind, count: int) -> VocabularyIndex:
    """Build the index in an empty folder, then give the folder its final name."""
    try:
        _fill(building, file, kind, count)
        target = building.parent / name
        index = None
        while index is None:
            try:
                building.rename(target)
            except OSError:
                # The name exists: another process has built the index meanwhile, or the folder is an incomplete one.
                if _open_folder(target, kind, count) is None:
                    shutil.rmtree(target)
                    continue
            index = _open_folder(target, kind, count)
        return index
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _new_folder(name: str, parents: Sequence[Path]) -> Path:
    """Create a folder in the first of several parents in which that is possible.

    Raises:
        OSError: No parent can be written to.
    """
    for parent in parents:
        folder = parent / name
        try:
            folder.mkdir(parents=True)
        except OSError:
            # The dataset directory, which is the first parent, may be read-only.
            if parent == parents[-1]:
                raise
        else:
            break
    return folder


def _fill(folder: Path, file: Path, kind: Kind, count: int) -> None:
    """Write the arrays of the index, reading `_READ_ROWS` rows of the vocabulary at a time."""
    slots_M: Rows = _new_array(folder, "slots", hash_index.slot_count(count))
    keys_R: Keys = _new_array(folder, "keys", count + 1)
    # `texts` is the writer of the texts; None for integers.
    with _TextWriter(folder, count) if kind == "text" else nullcontext() as texts:
        for first, raw in _read_pieces(file):
            filled = raw.fill_null(0 if texts is None else "")
            keys = filled.cast(pa.int64()).to_numpy() if texts is None else texts.add(first, to_binary(filled))
            keys_R[first : first + len(raw)] = keys
            rows_N = (first + raw.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]).astype(np.int32)
            equal_values = None if texts is None else texts.compare_values_of(rows_N)
            if (duplicate := hash_index.insert(slots_M, keys_R, rows_N, equal_values)) is not None:
                # `duplicate` is a row of the table. The message names the row of the file, which counts from 0.
                place, value = f"{file}, column 'raw', row {duplicate - 1}", raw[duplicate - first].as_py()
                raise DataError(place, f"{value!r} is repeated", "a value has one row", _FIX)


def _new_array(folder: Path, name: str, size: int) -> NDArray[Any]:
    """Return an array of zeros mapped from a new file. Its disk space is allocated now, so later writes cannot fail."""
    dtype = np.dtype(_TYPES[name])
    with _file(folder, name).open("wb+") as file:
        os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
        return np.asarray(np.memmap(file, dtype, "r+", shape=(size,)))


def _read_pieces(file: Location) -> Iterator[tuple[int, pa.Array]]:
    """Read a vocabulary piece by piece; check each piece, and yield its first row and its raw values."""
    first = 1
    with explain_damage(file), open_parquet(file) as parquet:
        may_have_freed_rows = VOCAB_DAY in parquet.schema_arrow.names
        for batch in parquet.iter_batches(_READ_ROWS, columns=["raw", "row"], use_threads=False):
            raw, row = batch.column("raw"), batch.column("row").cast(pa.int64()).fill_null(0).to_numpy()
            _check_piece(file, first, raw, row, may_have_freed_rows=may_have_freed_rows)
            yield first, raw
            first += len(row)


def _check_piece(
    file: Location, first: int, raw: pa.Array, row: NDArray[np.int64], *, may_have_freed_rows: bool
) -> None:
    # Rows of the table count from 1. Messages name the row of the file, which counts from 0.
    expected = np.arange(first, first + len(row))
    if (bad := row != expected).any():
        i = int(bad.argmax())
        place = f"{file}, column 'row', row {first - 1 + i}"
        raise DataError(place, f"got {row[i]}", f"rows are 1, 2, ..., so it must be {expected[i]}", _FIX)
    if raw.null_count and not may_have_freed_rows:
        place = f"{file}, column 'raw', row {first - 1 + pc.index(raw.is_null(), True).as_py()}"
        raise DataError(place, "null", "missing values have row 0, which is not in the vocabulary", _FIX)


class _TextWriter:
    """Context manager that writes the texts of an index. The text of row 0 is empty."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.offsets: Keys = _new_array(folder, "offsets", count + 2)
        self.file = _file(folder, "text").open("wb")

    def __enter__(self) -> _TextWriter:
        return self

    def __exit__(self, *error: object) -> None:
        # One byte more than the texts, since an empty file cannot be mapped.
        self.file.write(bytes(1))
        self.file.close()

    def add(self, first: int, texts: pa.Array) -> Keys:
        """Append the texts of the rows from `first` on, and return their keys."""
        offsets, text = text_buffers(texts)
        self.offsets[first + 1 : first + 1 + len(texts)] = self.offsets[first] + offsets[1:]
        self.file.write(text.tobytes())
        return hash_index.text_keys(offsets, text)

    def compare_values_of(self, rows_N: Rows) -> hash_index.EqualValues:
        """Return the function (positions, rows) by which `hash_index.insert` compares texts with equal keys.

        It compares, pair by pair, the text of the row at a position of `rows_N` with the text of another row. Equal
        keys are rare, so it reads each text from the file.
        """

        def equal_values(positions: NDArray[np.intp], rows: Rows) -> NDArray[np.bool_]:
            return np.array(
                [self._text(int(rows_N[i])) == self._text(int(row)) for i, row in zip(positions, rows, strict=True)]
            )

        return equal_values

    def _text(self, row: int) -> bytes:
        self.file.flush()
        begin, end = (int(offset) for offset in self.offsets[row : row + 2])
        with _file(self.folder, "text").open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)
