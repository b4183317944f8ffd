r"""Ali-CCP as downloaded: `sample_skeleton_{train,test}.csv` and `common_features_{train,test}.csv`, to Parquet files.

A line of a skeleton is one impression. A line of common features has the features that many impressions share:

    sample_id,click,buy,common_feature_index,feature_num,feature_list
    common_feature_index,feature_num,feature_list

A feature list is `feature_num` entries with \x01 between them, each `field_id \x02 feature_id \x03 value`, without the
blanks. A field with at most one entry in a line becomes an integer column such as `f101`, null if a line lacks it. A
field with several entries becomes a column of lists such as `f210` and one of their values, `f210_weights`; both are
empty if a line lacks it.
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
from data_prep.sources.csv_files import is_conversion, make_staging, raw_file_of, with_source, write_conversion
from data_prep.sources.find import FoundFile, find_one
from data_prep.sources.footers import Meter, identify
from data_prep.sources.table import RawFile, RawTable, raw_table, refuse_changes
from data_prep.sources.text import CountingStream, TextSource, open_text
from ple_rec.errors import DataError

SPLITS = ("train", "test")
KEY = "common_feature_index"  # The side table `common` is joined by this column and `split`.
BLOCK_BYTES = 1 << 24
_VERSION = 1  # Version of the format of conversions. A conversion of another version is made again.
_ENTRY = re.compile(r"([^\x01-\x03]+)\x02(-?[0-9]{1,18})\x03([^\x01-\x03]+)")
_NOT_SEPARATORS = bytes(byte for byte in range(256) if byte not in b"\x01\x02\x03")
_ENTRY_TO_LINE = bytes.maketrans(b"\x01\x02\x03", b"\n,,")


@dataclass(frozen=True)
class _Kind:
    """One of the two kinds of files.

    Args:
        file: Beginning of the file names.
        columns: Columns before the feature list, with their types.
        copied: Those of these columns that the Parquet file has, too.
        single: Fields that stand in a line at most once.
        several: Fields that may stand in a line several times.
    """

    file: str
    columns: tuple[tuple[str, pa.DataType], ...]
    copied: tuple[str, ...]
    single: tuple[str, ...]
    several: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.single, *self.several)

    @property
    def schema(self) -> pa.Schema:
        kinds = dict(self.columns)
        lists = [
            field
            for name in self.several
            for field in ((f"f{name}", pa.list_(pa.int64())), (f"f{name}_weights", pa.list_(pa.float32())))
        ]
        copied = [(name, kinds[name]) for name in self.copied]
        return pa.schema([*copied, ("split", pa.string()), *((f"f{name}", pa.int64()) for name in self.single), *lists])


SKELETON = _Kind(
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
    # Intentions of the item; the user's history (109_14, 110_14, 127_14, 150_14), each list crossed with the item's
    # category, shop, brand and intentions.
    ("210", "508", "509", "702", "853"),
)
COMMON = _Kind(
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
    longest: Mapping[str, int] = MappingProxyType({}),
) -> tuple[RawTable, RawTable]:
    """Return the log, and the side table `common` that it joins on `common_feature_index` and `split`.

    Args:
        root: Folder, or address of a store, that holds the four files at any depth, with `.gz` or without.
        staging: Folder for Parquet files; a later run finds them there.
        progress: Function that gets a line of text, at most twice a second.
        longest: Number of first entries that are read of a field, by field: `{"109_14": 32}`. Histories make up most
            of a line, and the join repeats them beside every impression of their user.

    Raises:
        UserError: A file is missing.
        DataError: A line is malformed, or a file has changed while it was read.
    """
    log, common = (
        [find_one("ali-ccp", f"{kind.file}_{split}.csv", root) for split in SPLITS] for kind in (SKELETON, COMMON)
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
        for name, kind, files in (("log", SKELETON, log), ("common", COMMON, common)):
            conversions = [
                _convert(kind, split, file, digest[file.path], staging, meter, longest)
                for split, file in zip(SPLITS, files, strict=True)
            ]
            conversions.sort(key=lambda file: file.shown)
            tables.append(raw_table(name, conversions, table_schema(conversions)))
    return tables[0], tables[1]


def _convert(
    kind: _Kind, split: str, file: FoundFile, digest: str, staging: Path, meter: Meter, longest: Mapping[str, int]
) -> RawFile:
    longest = {name: longest[name] for name in kind.several if name in longest}
    how = [_VERSION, kind.file, split, digest, longest]
    source = hashlib.sha256(json.dumps(how).encode()).hexdigest()
    target = staging / f"{source}.parquet"
    if not is_conversion(target, source):
        with open_text(file) as stream:
            tables = (
                _shorten(_table(kind, split, file, block, line), longest)
                for block, line in _blocks(stream, file, meter)
                if block.strip()
            )
            write_conversion(target, with_source(kind.schema, source), tables, lambda rows: None)
    return raw_file_of(file, target, digest, TextSource(file))


def _shorten(table: pa.Table, longest: Mapping[str, int]) -> pa.Table:
    """Return the table with lists cut to their first entries."""
    for name, most in longest.items():
        for column in (f"f{name}", f"f{name}_weights"):
            index = table.schema.get_field_index(column)
            short = pc.list_slice(table[column], 0, most, return_fixed_size_list=False)
            table = table.set_column(index, table.schema.field(index), short)
    return table


def _blocks(stream: CountingStream, file: FoundFile, meter: Meter) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of whole lines, with the number of their first line, counted from 1."""
    line, done, rest = 1, 0, b""
    while data := stream.read(BLOCK_BYTES):
        meter.add(stream.done() - done)
        done = stream.done()
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > 8 * BLOCK_BYTES:
                raise DataError(
                    f"{file.shown}, line {line}", "the line does not end", "lines are short", "copy it again"
                )
            continue
        block, rest = rest + data[:end], data[end:]
        yield block, line
        line += block.count(b"\n")
    yield rest, line


def _table(kind: _Kind, split: str, file: FoundFile, block: bytes, line: int) -> pa.Table:
    """Return the rows of a block of lines."""
    try:
        table = _parse(kind, split, block)
    except pa.ArrowInvalid as error:
        table = None
        reason = " ".join(str(error).split())[:200]
    else:
        reason = "counts do not fit"
    if table is None:
        raise _malformed_error(kind, file, block, line, reason)
    return table


def _parse(kind: _Kind, split: str, block: bytes) -> pa.Table | None:
    """Return the rows of a block, or None if a number of entries is wrong. A malformed cell raises ArrowInvalid."""
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
    entries = _entries(features, pc.sum(counts).as_py() or 0)
    codes = pc.index_in(entries["field"], value_set=pa.array(kind.fields)) if entries is not None else None
    if entries is None or codes is None or codes.null_count:
        return None
    ends = _with_zero(pc.cumulative_sum(counts))
    columns = [*(lines[name] for name in kind.copied), pa.repeat(pa.scalar(split), lines.num_rows)]
    for code, name in enumerate(kind.fields):
        mask = pc.equal(codes, code)
        offsets = pc.take(_with_zero(pc.cumulative_sum(mask.cast(pa.int32()))), ends)
        ids = entries["id"].filter(mask)
        if name in kind.several:
            columns += [pa.ListArray.from_arrays(offsets, of) for of in (ids, entries["value"].filter(mask))]
            continue
        first, sizes = offsets[:-1], pc.subtract(offsets[1:], offsets[:-1])
        if pc.greater(pc.max(sizes), 1).as_py():
            return None
        columns.append(pc.take(ids, pc.if_else(pc.equal(sizes, 1), first, None)))
    return pa.table(columns, schema=kind.schema)


def _entries(features: pa.Array, count: int) -> dict[str, pa.Array] | None:
    """Return all entries of feature lists as columns, in order, or None if a list is malformed.

    A feature list becomes CSV if its separators are replaced by commas and line ends.
    """
    listed = pc.binary_join_element_wise(features.filter(pc.not_equal(features, "")), "", "\x01")
    text = b"".join(chunk.buffers()[2].to_pybytes() for chunk in [listed] if len(chunk))
    text = text[: pc.sum(pc.binary_length(listed)).as_py() or 0]
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


def _with_zero(ends: pa.Array) -> pa.Array:
    return pa.concat_arrays([pa.array([0], ends.type), ends])


def _malformed_error(kind: _Kind, file: FoundFile, block: bytes, line: int, reason: str) -> DataError:
    """Return the error about the first malformed line of a block. It may be slow, since it ends the run."""
    columns = [*(name for name, _ in kind.columns), "feature_list"]
    for number, raw in enumerate(block.splitlines(), start=line):
        place = f"{file.shown}, line {number}"
        try:
            cells = raw.decode().split(",")
        except UnicodeDecodeError:
            return DataError(place, f"reads {raw[:80]!r}", "text is UTF-8", "download it again")
        value, rule = _problem(kind, cells, columns)
        if rule:
            return DataError(place, value, rule, "download it again, or mend the line")
    return DataError(f"{file.shown}, lines {line} and below", reason, "not in Ali-CCP's format", "download it again")


def _problem(kind: _Kind, cells: Sequence[str], columns: Sequence[str]) -> tuple[str, str]:
    """Return the wrong value of a line and the rule that it breaks; both are empty if the line is sound."""
    if len(cells) != len(columns):
        return f"{len(cells)} cells", f"a line reads {','.join(columns)}"
    for (name, of), cell in zip(kind.columns, cells, strict=False):
        if of != pa.string() and not re.fullmatch(r"-?[0-9]{1,9}", cell):
            return f"{name} is {cell[:40]!r}", "it is an integer"
    entries = cells[-1].split("\x01") if cells[-1] else []
    if len(entries) != int(cells[-2]):
        return f"{len(entries)} features, but feature_num is {cells[-2]}", "a line counts its features"
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
            return f"field {field!r}", f"the fields of {kind.file} are {', '.join(kind.fields)}"
        if field in seen and field in kind.single:
            return f"field {field} stands twice", f"only {', '.join(kind.several)} have several values"
        seen.add(field)
    return "", ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
