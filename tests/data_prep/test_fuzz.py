"""Damaged and odd Parquet files: never a traceback, a hang, a crash or a wrong number of rows."""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_prep.plain_logs import DAY_ROWS, TOML, Logs, day_of, with_column

ROWS = 4 * DAY_ROWS
SECONDS = 60  # that one run may take, of which it needs less than one
LENIENT = (
    'on_bad_row = "drop"\nmax_bad_fraction = 0.9\n'
    + TOML
    + '\n[[sparse]]\nname = "tags"\nbag = true\nmax_length = 2\nweights = "tag_weights"\n'
)
SERVER = """
import json, shutil, sys, traceback
from pathlib import Path
from data_prep.run import Options, prepare
from ple_rec.errors import PleRecError
for line in sys.stdin:
    toml, raw, out = json.loads(line)
    try:
        options = Options(source=raw, threads=2, memory=1 << 30)
        stats = prepare(toml, Path(out), options).stats
        rows = sum(stats["rows"].values()) + sum(each["rows"] for each in stats["dropped"])
        answer = {"rows": rows}
        shutil.rmtree(out)
    except PleRecError as error:
        answer = {"refused": error.exit_code, "said": str(error)}
    except BaseException:
        answer = {"traceback": traceback.format_exc()}
    sys.__stdout__.write(json.dumps(answer) + "\\n")
    sys.__stdout__.flush()
"""


class Runs:
    """Runs in a child, which is started again when a file has killed it."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None

    def __call__(self, logs: Logs) -> dict[str, Any]:
        if self.child is None:
            self.child = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        ask, answers = cast(TextIO, self.child.stdin), cast(TextIO, self.child.stdout)
        ask.write(json.dumps([str(logs.toml), str(logs.raw), str(logs.out)]) + "\n")
        ask.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(answers, selectors.EVENT_READ)
            line = answers.readline() if ready.select(SECONDS) else "hangs"
        if line in ("", "hangs"):
            code = self.close()
            return {"hangs": True} if line else {"killed": code}
        return cast(dict[str, Any], json.loads(line))

    def close(self) -> int:
        """End the child."""
        child, self.child = self.child, None
        if child is None:
            return 0
        if child.poll() is None:
            child.kill()
        code = child.wait()
        for stream in (child.stdin, child.stdout):
            cast(TextIO, stream).close()
        return code


@pytest.fixture(scope="module")
def run() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.close()


def check(answer: dict[str, Any], rows: int, what: str) -> bool:
    """Whether the run took the file; it counted every row, or else refused it by a message."""
    if "refused" in answer:
        assert answer["refused"] in (2, 3), what
        assert ". Fix: " in answer["said"], what
        return False
    assert answer == {"rows": rows}, f"{what}: {answer}"
    return True


STYLES: tuple[dict[str, Any], ...] = (
    {"compression": "none", "use_dictionary": False},
    {"compression": "snappy"},
    {"compression": "zstd", "data_page_version": "2.0"},
    {"compression": "none", "write_statistics": False, "write_page_index": False},
    {"compression": "gzip", "use_dictionary": False, "write_page_checksum": True},
    {"compression": "none", "column_encoding": "DELTA_BINARY_PACKED", "use_dictionary": False},
)
INTEGERS = ("user_id", "time_ms", "duration_ms", "is_like")


def wider(day: int, rows: int = DAY_ROWS) -> pa.Table:
    """A day with bags: of none, one, two and three items."""
    lengths = [row % 4 for row in range(rows)]
    tags = pa.array([[f"t{i}" for i in range(n)] for n in lengths], pa.list_(pa.string()))
    weights = pa.array([[i / 2 for i in range(n)] for n in lengths], pa.list_(pa.float64()))
    return day_of(day, rows).append_column("tags", tags).append_column("tag_weights", weights)


def two_logs(root: Path) -> tuple[Logs, Logs]:
    """Logs whose bad rows are refused, and logs with bags whose bad rows are dropped."""
    both = Logs(root / "strict"), Logs(root / "lenient", LENIENT)
    for logs in both:
        for day in range(1, 5):
            logs.write(day, wider(day))
    return both


def damaged(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A file with some bytes changed, moved, left out or put in; and what was done, for messages."""
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    begin, end = chance.choice(((0, len(data)), (footer, len(data)), (4, footer)))
    size = chance.choice((1, 1, 2, 8, 60))
    at = chance.randrange(begin, max(begin + 1, end - size))
    how = chance.choice(("flip", "flip", "flip", "bits", "zero", "ones", "cut", "shorten", "insert", "swap", "repeat"))
    piece = data[at : at + size]
    if how == "flip":
        piece = bytes(chance.randrange(256) for _ in piece)
    elif how == "bits":
        piece = bytes(byte ^ (1 << chance.randrange(8)) for byte in piece)
    elif how in ("zero", "ones"):
        piece = (b"\0" if how == "zero" else b"\xff") * len(piece)
    what = f"{how} {size} at {at} of {len(data)}, footer at {footer}"
    if how == "cut":
        return data[:at], what
    if how == "shorten":
        return data[:at] + data[at + size :], what
    if how == "insert":
        return data[:at] + chance.randbytes(size) + data[at:], what
    if how == "swap":
        other = chance.randrange(begin, max(begin + 1, end - size))
        first, second = sorted((at, other))
        if second - first < size:
            return data[:at] + data[at : at + size][::-1] + data[at + size :], what
        return (
            data[:first]
            + data[second : second + size]
            + data[first + size : second]
            + data[first : first + size]
            + data[second + size :],
            f"{what}, with {second}",
        )
    if how == "repeat":
        return data[: at + size] + data[at:], what
    return data[:at] + piece + data[at + size :], what


def bytes_are_damaged(run: Runs, root: Path, seed: int, cases: int) -> int:
    """How many of some damaged files were taken all the same."""
    chance = random.Random(seed)
    strict, lenient = two_logs(root)
    taken = 0
    for case in range(cases):
        style = STYLES[case % len(STYLES)]
        if "column_encoding" in style:
            style = style | {"column_encoding": dict.fromkeys(INTEGERS, style["column_encoding"])}
        logs = chance.choice((strict, lenient))
        logs.write(2, wider(2), **style)
        data, what = logs.file(2).read_bytes(), f"seed {seed}, case {case}"
        for _ in range(chance.choice((1, 1, 3))):
            data, how = damaged(data, chance)
            what += f"; {how}"
            if len(data) < 16:
                break
        logs.file(2).write_bytes(data)
        taken += check(run(logs), ROWS, what)
    return taken


def test_damaged_bytes(run: Runs, tmp_path: Path) -> None:
    taken = bytes_are_damaged(run, tmp_path, seed=1, cases=16)
    assert 0 < taken < 14


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_damaged_bytes_at_length(seed: int, run: Runs, tmp_path: Path) -> None:
    assert bytes_are_damaged(run, tmp_path, seed, cases=120) > 10


def odd(chance: random.Random) -> tuple[pa.Table, dict[str, Any], str]:
    """A day with another schema: types, names, nulls, columns that stand twice or not at all, rows, row groups."""
    table, options = wider(2, chance.choice((DAY_ROWS, DAY_ROWS, DAY_ROWS, 1, 0))), dict[str, Any]()
    said = [f"{table.num_rows} rows"]
    for _ in range(chance.choice((0, 1, 1, 2))):
        name = chance.choice(table.column_names)
        kind = chance.choice(list(KINDS))
        index = table.column_names.index(name)
        table = table.set_column(index, name, KINDS[kind](table.num_rows, table[name].combine_chunks()))
        said.append(f"{name} as {kind}")
    what = chance.choice(("", "", "drop", "twice", "rename", "upper", "extra", "reorder"))
    name = chance.choice(table.column_names)
    index = table.column_names.index(name)
    if what == "drop":
        table = table.remove_column(index)
    elif what == "twice":
        table = table.append_column(name, table[name])
    elif what in ("rename", "upper"):
        other = name.upper() if what == "upper" else chance.choice(("", "a.b", "x\ny", "__x", '"', "v\u00e9", "__part"))
        table = table.rename_columns([other if each == name else each for each in table.column_names])
    elif what == "extra":
        table = table.append_column("__split", table[name])
    elif what == "reorder":
        table = table.select(sorted(table.column_names, key=lambda _: chance.random()))
    options["row_group_size"] = chance.choice((1, 7, 1 << 20))
    return table, options, ", ".join([*said, f"{what} {name}" if what else "", str(options)])


Kind = Callable[[int, pa.Array], pa.Array]


def text_of(array: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())


def of(value: Any, kind: pa.DataType) -> Kind:
    return lambda rows, _: pa.array([value] * rows, kind)


KINDS: dict[str, Kind] = {
    "nulls": lambda rows, array: pa.nulls(rows, array.type),
    "null type": lambda rows, _: pa.nulls(rows),
    "dictionary": lambda _, array: (text_of(array) if pa.types.is_nested(array.type) else array).dictionary_encode(),
    "text": lambda _, array: text_of(array),
    "large text": lambda _, array: text_of(array).cast(pa.large_string()),
    "text view": lambda _, array: text_of(array).cast(pa.string_view()),
    "bytes": of(b"v1", pa.binary()),
    "fixed bytes": of(b"abcd", pa.binary(4)),
    "int8": of(1, pa.int8()),
    "uint32": of(2**32 - 1, pa.uint32()),
    "uint64": of(2**64 - 1, pa.uint64()),
    "least int64": of(-(2**63), pa.int64()),
    "float16": lambda rows, _: pa.array([1.0] * rows).cast(pa.float16()),
    "NaN": of(float("nan"), pa.float64()),
    "infinity": of(float("inf"), pa.float32()),
    "bool": of(True, pa.bool_()),
    "decimal": lambda rows, _: pa.array([1] * rows).cast(pa.decimal128(19, 0)),
    "wide decimal": lambda rows, _: pa.array([1] * rows).cast(pa.decimal256(50, 2)),
    "timestamp": of(1_650_000_000_000, pa.timestamp("ms")),
    "timestamp of a zone": of(1_650_000_000_000_000_000, pa.timestamp("ns", "Asia/Shanghai")),
    "date": of(19_000, pa.date32()),
    "time": of(5, pa.time32("ms")),
    "duration": of(5, pa.duration("ms")),
    "list": of([1, None], pa.list_(pa.int64())),
    "list of texts": of(["a", None], pa.large_list(pa.string())),
    "empty lists": of([], pa.list_(pa.float64())),
    "list of lists": of([[1], []], pa.list_(pa.list_(pa.int32()))),
    "fixed list": of([1, 2], pa.list_(pa.int64(), 2)),
    "struct": of({"a": 1}, pa.struct([("a", pa.int64())])),
    "map": of([("a", 1)], pa.map_(pa.string(), pa.int64())),
    "long texts": of("x" * 100_000, pa.string()),
}


def schemas_are_odd(run: Runs, root: Path, seed: int, cases: int) -> int:
    """How many of some odd files were taken."""
    chance = random.Random(seed)
    strict, lenient = two_logs(root)
    taken = 0
    for case in range(cases):
        logs = chance.choice((strict, lenient))
        for day in range(1, 5):
            logs.write(day, wider(day))
        table, options, what = odd(chance)
        everywhere = chance.random() < 0.5
        rows = (4 if everywhere else 1) * table.num_rows + (0 if everywhere else 3 * DAY_ROWS)
        for day in range(1, 5) if everywhere else (2,):
            moved = table
            if everywhere and "time_ms" in table.column_names and table.column_names.count("time_ms") == 1:
                time = table["time_ms"]
                if pa.types.is_int64(time.type) and time.null_count == 0 and len(time) and time[0].as_py() > 0:
                    moved = with_column(
                        table, "time_ms", pa.array([t + (day - 2) * 86_400_000 for t in time.to_pylist()])
                    )
            logs.write(day, moved, **options)
        assert pq.read_metadata(logs.file(2)).num_rows == table.num_rows
        taken += check(run(logs), rows, f"seed {seed}, case {case}: {what}, everywhere: {everywhere}")
    return taken


def test_odd_schemas(run: Runs, tmp_path: Path) -> None:
    taken = schemas_are_odd(run, tmp_path, seed=1, cases=16)
    assert 0 < taken < 14


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_odd_schemas_at_length(seed: int, run: Runs, tmp_path: Path) -> None:
    assert schemas_are_odd(run, tmp_path, seed, cases=120) > 10


def test_zero_row_groups(run: Runs, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    with pq.ParquetWriter(logs.raw / "log" / "none.parquet", day_of(1).schema):
        pass
    assert pq.read_metadata(logs.raw / "log" / "none.parquet").num_row_groups == 0
    assert check(run(logs), ROWS, "a file without row groups")
