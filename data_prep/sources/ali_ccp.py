r"""Conversion of the files of Ali-CCP, as downloaded, to Parquet: `raw_tables` returns a log and its side table.

A line of a skeleton is one impression. A line of common features holds features that many impressions share. The files
and their columns are

    sample_skeleton_{train,test}.csv   sample_id,click,buy,common_feature_index,feature_num,feature_list
    common_features_{train,test}.csv   common_feature_index,feature_num,feature_list

A feature list has `feature_num` entries with \x01 between them. An entry is `field_id \x02 feature_id \x03 value`
without the blanks. A field with at most one entry in a line becomes an integer column such as `f101`, which is null if
a line lacks the field. A field with several entries becomes a column with lists of feature ids, such as `f210`, and one
with their values, `f210_weights`; both lists are empty if a line lacks the field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from data_prep.sources.columns import table_schema
from data_prep.sources.csv_files import add_source_key, as_raw_file, is_conversion_of, make_staging, write_conversion
from data_prep.sources.find import FoundFile, find_one
from data_prep.sources.footers import Meter, identify
from data_prep.sources.table import RawFile, RawTable, raw_table, refuse_changes
from data_prep.sources.text import CountingStream, TextSource, open_text
from ple_rec.errors import DataError

SPLITS = ("train", "test")
KEY = "common_feature_index"  # The side table `common` is joined by this column and `split`.
BLOCK_BYTES = 1 << 24  # Bytes that are read and parsed at a time.
_VERSION = 1  # Version of the format of conversions. A conversion of another version is made again.
_ENTRY = re.compile(r"([^\x01-\x03]+)\x02(-?[0-9]{1,18})\x03([^\x01-\x03]+)")
_NOT_SEPARATORS = bytes(byte for byte in range(256) if byte not in b"\x01\x02\x03")
_ENTRY_TO_LINE = bytes.maketrans(b"\x01\x02\x03", b"\n,,")  # Turns an entry and the \x01 after it into a line of CSV.


@dataclass(frozen=True)
class _FileKind:
    """Kind of a file: skeleton or common features.

    Args:
        name_prefix: Beginning of the file names.
        columns: Columns before the feature list, with their types.
        copied_columns: Names of those columns that are copied to the Parquet file.
        single_fields: Fields with at most one entry in a line.
        list_fields: Fields that may have several entries in a line.
    """

    name_prefix: str
    columns: tuple[tuple[str, pa.DataType], ...]
    copied_columns: tuple[str, ...]
    single_fields: tuple[str, ...]
    list_fields: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.single_fields, *self.list_fields)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the Parquet file: copied columns, the split, then the columns of the fields."""
        kinds = dict(self.columns)
        lists = [
            field
            for name in self.list_fields
            for field in ((f"f{name}", pa.list_(pa.int64())), (f"f{name}_weights", pa.list_(pa.float32())))
        ]
        copied = [(name, kinds[name]) for name in self.copied_columns]
        return pa.schema(
            [*copied, ("split", pa.string()), *((f"f{name}", pa.int64()) for name in self.single_fields), *lists]
        )


SKELETON = _FileKind(
    "sample_skeleton",
    (
        ("sample_id", pa.string()),
        ("click", pa.int64()),
        ("buy", pa.int64()),
        (KEY, pa.string()),
        ("feature_num", pa.int32()),
    ),
    ("click", "buy", KEY),
    # Item, its category, its shop, its brand, the scene.
    ("205", "206", "207", "216", "301"),
    # Intentions of the item; then the lists of the user's history (109_14, 110_14, 127_14, 150_14), crossed with the
    # category, the shop, the brand and the intentions of the item, in this order.
    ("210", "508", "509", "702", "853"),
)
COMMON = _FileKind(
    "common_features",
    ((KEY, pa.string()), ("feature_num", pa.int32())),
    (KEY,),
    # User, two profile categories, group, gender, age, two levels of consumption, occupation, geography.
    ("101", "121", "122", "124", "125", "126", "127", "128", "129"),
    # Categories, shops, brands and intentions of the user's history, with counts.
    ("109_14", "110_14", "127_14", "150_14"),
)


def raw_tables(
    root: Path | str,
    staging: Path,
    progress: Callable[[str], None] | None = None,
    max_lengths: Mapping[str, int] = MappingProxyType({}),
) -> tuple[RawTable, RawTable]:
    """Return the log, and the side table `common` that it joins on `common_feature_index` and `split`.

    The files of both splits are converted to Parquet, unless an earlier run has left the conversions.

    Args:
        root: Folder, or address of a store, that holds the four files at any depth, with `.gz` or without.
        staging: Folder for the Parquet files; it is created.
        progress: Callback that gets a line of text, at most twice a second.
        max_lengths: Number of entries to which the lists of a field are cut, by field: `{"109_14": 32}`. Most of a line
            are lists of the user's history, which the join repeats for every impression of the user.

    Raises:
        UserError: A file is missing.
        DataError: A line is malformed, or a file has changed while it was read.
    """
    log, common = (
        [find_one("ali-ccp", f"{kind.name_prefix}_{split}.csv", root) for split in SPLITS]
        for kind in (SKELETON, COMMON)
    )
    files = [*log, *common]
    total = sum(file.size for file in files)
    make_staging(staging)
    with refuse_changes(files):
        meter = Meter("ali-ccp: digesting 4 files", total, progress)
        with ThreadPoolExecutor(len(files)) as pool:
            digests = pool.map(lambda file: identify(file, meter), files)
        digest = {file.path: identity for file, identity in zip(files, digests, strict=True)}
        meter = Meter("ali-ccp: converting 4 files", total, progress)
        tables = []
        for name, kind, split_files in (("log", SKELETON, log), ("common", COMMON, common)):
            conversions = [
                _find_or_convert(kind, split, file, digest[file.path], staging, meter, max_lengths)
                for split, file in zip(SPLITS, split_files, strict=True)
            ]
            conversions.sort(key=lambda file: file.display_name)
            tables.append(raw_table(name, conversions, table_schema(conversions)))
    return tables[0], tables[1]


def _find_or_convert(
    kind: _FileKind,
    split: str,
    file: FoundFile,
    digest: str,
    staging: Path,
    meter: Meter,
    max_lengths: Mapping[str, int],
) -> RawFile:
    """Return a file converted to Parquet; the conversion is named by a digest of all that determines its content."""
    max_lengths = {name: max_lengths[name] for name in kind.list_fields if name in max_lengths}
    determinants = [_VERSION, kind.name_prefix, split, digest, max_lengths]
    source = hashlib.sha256(json.dumps(determinants).encode()).hexdigest()
    target = staging / f"{source}.parquet"
    if not is_conversion_of(target, source):
        with open_text(file) as stream:
            tables = (
                _cut_lists(_block_to_table(kind, split, file, block, line), max_lengths)
                for block, line in _line_blocks(stream, file, meter)
                if block.strip()
            )
            write_conversion(target, add_source_key(kind.schema, source), tables, lambda rows: None)
    return as_raw_file(file, target, digest, TextSource(file))


def _cut_lists(table: pa.Table, max_lengths: Mapping[str, int]) -> pa.Table:
    """Return the table with lists cut to their first entries."""
    for name, length in max_lengths.items():
        for column in (f"f{name}", f"f{name}_weights"):
            index = table.schema.get_field_index(column)
            short = pc.list_slice(table[column], 0, length, return_fixed_size_list=False)
            table = table.set_column(index, table.schema.field(index), short)
    return table


def _line_blocks(stream: CountingStream, file: FoundFile, meter: Meter) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of whole lines, each with the number of its first line, counted from 1; the last may be empty."""
    line, bytes_read, rest = 1, 0, b""
    while data := stream.read(BLOCK_BYTES):
        meter.add(stream.bytes_read() - bytes_read)
        bytes_read = stream.bytes_read()
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > 8 * BLOCK_BYTES:
                raise DataError(
                    f"{file.display_name}, line {line}",
                    "the line does not end",
                    "a line is far shorter than 128 MiB",
                    "copy it again",
                )
            continue
        block, rest = rest + data[:end], data[end:]
        yield block, line
        line += block.count(b"\n")
    yield rest, line


def _block_to_table(kind: _FileKind, split: str, file: FoundFile, block: bytes, line: int) -> pa.Table:
    """Return the rows of a block of lines, of which `line` is the number of the first; refuse a malformed line."""
    try:
        table = _parse(kind, split, block)
    except pa.ArrowInvalid as error:
        table = None
        reason = " ".join(str(error).split())[:200]
    else:
        reason = "a number of features is wrong"
    if table is None:
        raise _malformed_error(kind, file, block, line, reason)
    return table


def _parse(kind: _FileKind, split: str, block: bytes) -> pa.Table | None:
    """Return the rows of a block; None if a feature list is wrong. A malformed cell raises `pa.ArrowInvalid`.

    A list is wrong if it is malformed, has another number of entries than `feature_num`, has an unknown field, or has a
    single-valued field twice.
    """
    lines = pacsv.read_csv(
        pa.BufferReader(block),
        read_options=pacsv.ReadOptions(column_names=[*(name for name, _ in kind.columns), "features"]),
        parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            column_types={**dict(kind.columns), "features": pa.string()}, null_values=[], strings_can_be_null=False
        ),
    )
    features = lines["features"].combine_chunks()
    counts = pc.if_else(pc.equal(features, ""), 0, pc.add(pc.count_substring(features, "\x01"), 1)).cast(pa.int32())
    if not counts.equals(lines["feature_num"].combine_chunks()):
        return None
    entries = _parse_entries(features, pc.sum(counts).as_py() or 0)
    codes = pc.index_in(entries["field"], value_set=pa.array(kind.fields)) if entries is not None else None
    if entries is None or codes is None or codes.null_count:
        return None
    # Line i has the entries from line_offsets[i] up to, but without, line_offsets[i + 1].
    line_offsets = _prepend_zero(pc.cumulative_sum(counts))
    columns = [*(lines[name] for name in kind.copied_columns), pa.repeat(pa.scalar(split), lines.num_rows)]
    for code, name in enumerate(kind.fields):
        mask = pc.equal(codes, code)
        # As `line_offsets`, but over the entries of this field alone.
        offsets = pc.take(_prepend_zero(pc.cumulative_sum(mask.cast(pa.int32()))), line_offsets)
        ids = entries["id"].filter(mask)
        if name in kind.list_fields:
            columns += [pa.ListArray.from_arrays(offsets, items) for items in (ids, entries["value"].filter(mask))]
            continue
        first, sizes = offsets[:-1], pc.subtract(offsets[1:], offsets[:-1])
        if pc.greater(pc.max(sizes), 1).as_py():
            return None
        columns.append(pc.take(ids, pc.if_else(pc.equal(sizes, 1), first, None)))
    return pa.table(columns, schema=kind.schema)


def _parse_entries(features: pa.Array, count: int) -> dict[str, pa.Array] | None:
    """Return all entries of feature lists as columns `field`, `id` and `value`, in order; None if a list is malformed.

    A feature list becomes CSV if its separators are replaced by commas and line ends.

    Args:
        features: Feature lists, each as text.
        count: Number of entries of all lists together.
    """
    listed = pc.binary_join_element_wise(features.filter(pc.not_equal(features, "")), "", "\x01")
    text = b"".join(chunk.buffers()[2].to_pybytes() for chunk in [listed] if len(chunk))
    text = text[: pc.sum(pc.binary_length(listed)).as_py() or 0]  # The buffer may be longer than the texts.
    if text.translate(None, _NOT_SEPARATORS) != b"\x02\x03\x01" * count:
        return None
    if not count:
        kinds = (("field", pa.string()), ("id", pa.int64()), ("value", pa.float32()))
        return {name: pa.array([], kind) for name, kind in kinds}
    table = pacsv.read_csv(
        pa.BufferReader(text.translate(_ENTRY_TO_LINE)),
        read_options=pacsv.ReadOptions(column_names=["field", "id", "value"]),
        parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            column_types={"field": pa.string(), "id": pa.int64(), "value": pa.float32()}, null_values=[]
        ),
    )
    return {name: table[name].combine_chunks() for name in table.column_names} if table.num_rows == count else None


def _prepend_zero(ends: pa.Array) -> pa.Array:
    return pa.concat_arrays([pa.array([0], ends.type), ends])


def _malformed_error(kind: _FileKind, file: FoundFile, block: bytes, line: int, reason: str) -> DataError:
    """Return the error about the first malformed line of a block, which Python parses again line by line.

    Args:
        kind: Kind of the file.
        file: File of the block.
        block: Lines, at least one of which is malformed.
        line: Number of the first line, counted from 1.
        reason: Reason for the message if no malformed line is found.
    """
    columns = [*(name for name, _ in kind.columns), "feature_list"]
    for number, raw in enumerate(block.splitlines(), start=line):
        place = f"{file.display_name}, line {number}"
        try:
            cells = raw.decode().split(",")
        except UnicodeDecodeError:
            return DataError(place, f"reads {raw[:80]!r}", "text is UTF-8", "download it again")
        value, rule = _find_problem(kind, cells, columns)
        if rule:
            return DataError(place, value, rule, "download it again, or correct the line")
    return DataError(
        f"{file.display_name}, lines {line} and below",
        reason,
        "the lines are not in Ali-CCP's format",
        "download it again",
    )


def _find_problem(kind: _FileKind, cells: Sequence[str], columns: Sequence[str]) -> tuple[str, str]:
    """Return the wrong value of a line and the rule that it breaks; both are empty if the line is sound."""
    if len(cells) != len(columns):
        return f"{len(cells)} cells", f"a line reads {','.join(columns)}"
    for (name, cell_type), cell in zip(kind.columns, cells, strict=False):
        if cell_type != pa.string() and not re.fullmatch(r"-?[0-9]{1,9}", cell):
            return f"{name} is {cell[:40]!r}", "it is an integer"
    entries = cells[-1].split("\x01") if cells[-1] else []
    if len(entries) != int(cells[-2]):
        return (
            f"{len(entries)} features, but feature_num is {cells[-2]}",
            "feature_num is the number of features of the line",
        )
    seen = set()
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match is None or not _is_number(match[3]):
            return (
                f"feature {entry[:60]!r}",
                r"a feature reads field_id \x02 feature_id \x03 value, the last two numbers",
            )
        field = match[1]
        if field not in kind.fields:
            return f"field {field!r}", f"the fields of {kind.name_prefix} are {', '.join(kind.fields)}"
        if field in seen and field in kind.single_fields:
            return f"field {field} occurs twice", f"only {', '.join(kind.list_fields)} have several values"
        seen.add(field)
    return "", ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
