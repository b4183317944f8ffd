"""Fixes that messages of prep propose: each is applied as its text says, until prep accepts logs and configuration.

`test_expression_fixes.py` and `test_fixes.py` do this for expressions and for the types of keys.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data_prep.fix_logs import (
    BASE,
    BY_COLUMN,
    BY_DATE,
    BY_DAY,
    BY_HASH,
    DATED_SIDE,
    FILES,
    GROUP,
    LABEL,
    NAME,
    TIME,
    Case,
    Run,
    append,
    apply_text,
    both_formats,
    carry,
    cell,
    column,
    csv,
    csv_with_empty_column,
    csv_with_offsets,
    csv_without_header,
    empty_days,
    folder_without_value,
    named_parquet,
    options,
    other_out,
    out_with_files,
    packed,
    packed_named_parquet,
    prepared,
    rename,
    row,
    typed,
    users,
    whole_days,
    without_dry_run,
)
from tests.data_prep.plain_logs import SIDE, Logs, day_of

NO_HEADER = "[log.csv]\nheader = false\n" + (
    'columns = ["user_id", "video_id", "time_ms", "duration_ms", "price", "is_like"]\n'
)
FEATURE = '[[sparse]]\nname = "extra"\nvalue = "user_id"\n'
TAGS = FEATURE.replace("user_id", "tags") + 'bag = true\nweights = "user_id"\n'
VECTOR = '[[vectors]]\nname = "extra"\nwidth = 2\n'
ONE_VALUE = FEATURE.replace("user_id", "user_id * 0") + "quantiles = 3\n"
THRESHOLD = 'label = "price > threshold"\nthreshold = {value = "extra", quantile = 0.5}\n'
BINS = 'label = "price > threshold"\nthreshold = {value = "nullif(extra, 1)", quantile = 0.5, by = "extra", bins = 2}\n'
SAMPLING = '[sampling]\nkeep = "is_like = 1"\nrate = 0.5\nhash = ["extra"]\n'
RATE = SAMPLING.replace("is_like = 1", "is_like = 2").replace("extra", "time_ms").replace("0.5", "0.00001")
SHARED = "".join(
    FEATURE.replace("extra", name).replace("user_id", value) + 'table = "shared"\n'
    for name, value in (("a", "user_id"), ("b", "video_id"))
)
WHERE = FILES + 'where = "time.hour < 20"\n'
DROP = NAME + 'on_bad_row = "drop"\n'
ALL_BAD = DROP + "max_bad_fraction = 0.9\n"
BY_USER = "case when user_id < 3 then 'train' when user_id < 5 then 'valid' else 'test' end"
TYPING_ERROR = BY_USER.replace("else", "when user_id < 6 then 'test' else").replace("'test' end", "'tst' end")
CSV_SIDE = SIDE.replace("users.parquet", "users.csv")
DENSE = 'name = "price"\n'


def users_csv(run: Run) -> None:
    (run.logs.raw / "users.csv").write_text("user_id,age\n007,30\n")


CASES: dict[str, Case] = {
    # The order in which values are computed
    "time word": Case("add [time]", {TIME: "", BY_DAY: BY_HASH, **carry("time.day")}),
    "where": Case(
        "use only columns of the log in it; or", {FILES: WHERE}, steps=({"time.hour < 20": "user_id < 5"},)
    ),
    "where as a check": Case(
        'or remove such rows by a rule in [checks], with on_bad_row = "drop" and a max_bad_fraction',
        {FILES: WHERE},
        steps=({WHERE: FILES, NAME: ALL_BAD, "[checks]\n": '[checks]\nhour = "time.hour < 20"\n'},),
    ),
    "join key": Case(
        "use only columns of the log in it",
        {"": SIDE.replace('"user_id"}', '"user"}') + '[derived]\nuser = "user_id + 0"\n'},
        users(1, 2),
        ({'"user"': '"user_id"'},),
    ),
    "time of a side table": Case(
        "take the time from the log",
        {'value = "time_ms"': 'value = "users.age"', "": DATED_SIDE},
        users(1, 2),
        ({'value = "users.age"': 'value = "time_ms"'},),
    ),
    "time of a derived column": Case(
        "use only columns of the log in it",
        {'value = "time_ms"': 'value = "moment"', "": '[derived]\nmoment = "time_ms"\n'},
        steps=({'"moment"': '"time_ms"'},),
    ),
    "derived from itself": Case(
        "choose another name, e.g. derived.extra_2, and use it wherever",
        {"": '[derived]\nextra = "extra + 1"\n', 'name = "price"\n': 'name = "price"\nvalue = "extra"\n'},
        column("extra", float),
        ({"\nextra =": "\nextra_2 =", '"extra"': '"extra_2"'},),
    ),
    "derived like a column": Case(
        "choose another name, e.g. derived.price_2",
        {"": '[derived]\nprice = "user_id"\n'},
        steps=({"\nprice =": "\nprice_2 =", 'name = "price"\n': 'name = "price"\nvalue = "price_2"\n'},),
    ),
    "order of derived": Case(
        "write derived.first above derived.second",
        {"": '[derived]\nsecond = "first + 1"\nfirst = "price"\n'},
        steps=({'second = "first + 1"\nfirst = "price"\n': 'first = "price"\nsecond = "first + 1"\n'},),
    ),
    # Names of columns
    "similar name": Case("did you mean 'price'?", carry("pric")),
    "similar name with a blank": Case(
        "did you mean 'odd name'?; in an expression this name stands in double quotes",
        carry("odd_name"),
        column("odd name", int),
        ({'"odd_name"': "'\"odd name\"'"},),
    ),
    "hour in quotes": Case(
        "leave the double quotes out: time.hour", {"": "[carry]\nextra = '\"time.hour\"'\n"},
        steps=({"'\"time.hour\"'": '"time.hour"'},),
    ),
    "side column in quotes": Case(
        "leave the double quotes out: users.age", {"": SIDE + "[carry]\nextra = '\"users.age\"'\n"}, users(1, 2),
        ({"'\"users.age\"'": '"users.age"'},),
    ),
    "similar side column in quotes": Case(
        "leave the double quotes out if users.ag means a column of the side table",
        {"": SIDE + "[carry]\nextra = '\"users.ag\"'\n"},
        users(1, 2),
        ({"'\"users.ag\"'": '"users.ag"'}, {'"users.ag"': '"users.age"'}),
    ),
    "text in double quotes": Case(
        "write a text in single quotes: 'v1'", {LABEL: "label = 'video_id = \"v1\"'\n"},
        steps=({"'video_id = \"v1\"'": "\"video_id = 'v1'\""},),
    ),
    "name like no other": Case("use one of user_id, video_id", carry("zzzzzzzz"), steps=({"zzzzzzzz": "user_id"},)),
    "several names": Case(
        "correct each of them", {"": '[carry]\na = "pric"\nb = "duration_s"\n'},
        steps=({'"pric"': '"price"', '"duration_s"': '"duration_ms"'},),
    ),
    "empty column of CSV": Case(
        "write it with a type, or for CSV files set csv.types", carry("extra"), csv_with_empty_column,
        ({"": '[log.csv.types]\nextra = "double"\n'},),
    ),
    # Times
    "unit of no row": Case('as ms it is 2022-04-15: set time.unit = "ms"', {'unit = "ms"': 'unit = "s"'}),
    "unit too fine": Case('as ms it is 2022-04-15: set time.unit = "ms"', {'unit = "ms"': 'unit = "us"'}),
    "unit of most rows": Case(
        'as ms it is 2022-04-15: set time.unit = "ms"', {'"ms"': '"s"', BY_DAY: BY_HASH}, without_dry_run
    ),
    "time of a bad row": Case(
        'correct the log or the configuration, or drop such rows: on_bad_row = "drop"',
        {BY_DAY: BY_HASH, NAME: NAME + "max_bad_fraction = 0.05\n"},
        row(1, "time_ms", 1_650_000_000),
    ),
    "bounds": Case(
        "correct [time]", {TIME: TIME + 'earliest = "2023-01-01"\n'}, steps=({'earliest = "2023-01-01"\n': ""},)
    ),
    "unit of timestamps": Case(
        'for integers set time.unit to "s", "ms", "us" or "ns"', {'"ms"': '"timestamp"'},
        steps=({'"timestamp"': '"ms"'},),
    ),
    "offset of times": Case(
        'set time.utc_offset = "+08:00"', {GROUP: "", '"ms"': '"timestamp"'}, csv_with_offsets
    ),
    # Rows and splits
    "missing label": Case('say where it exists: tasks[0].space = "is_like is not null"', raw=row(1, "is_like", None)),
    "missing value of a label": Case(
        'say where it exists: tasks[0].space = "(1 - is_like) is not null"', {LABEL: 'label = "1 - is_like"\n'},
        row(1, "is_like", None),
    ),
    "missing label in a space": Case(
        'say where it exists: tasks[0].space = "(user_id < 7) and is_like is not null"',
        {LABEL: LABEL + 'space = "user_id < 7"\n'},
        row(1, "is_like", None),
    ),
    "bad row": Case(
        'drop such rows: on_bad_row = "drop"', raw=row(1, "duration_ms", -1),
        steps=(None, {NAME: NAME + "max_bad_fraction = 0.05\n"}),
    ),
    "day without rows": Case(
        "list the day in split.empty_days", raw=lambda run: run.logs.file(2).unlink(),
        steps=({"train = [1, 2]": 'train = [1, 2]\nempty_days = ["2022-04-16"]'},),
    ),
    "missing range": Case(
        "give the missing files, correct the range", raw=lambda run: run.logs.file(2).unlink(),
        steps=({"train = [1, 2]": "train = [1, 1]"},),
    ),
    "day of bad rows": Case(
        'correct the rule or the rows; on_bad_row = "refuse" names both',
        {NAME: ALL_BAD},
        lambda run: run.logs.spoil(2, "duration_ms", [-1] * 24),
        (None, {"duration_ms >= 0": "duration_ms >= -1"}),
    ),
    "empty split": Case("correct [split]", {BY_DAY: BY_HASH.replace("valid = 0.2", "valid = 0.00001")},
                        steps=({"0.00001": "0.2"},)),
    "split without sampled rows": Case(
        "correct the rule, or the rows", {BY_DAY: BY_HASH, "": RATE}, steps=({"0.00001": "0.5"},)
    ),
    "no row": Case("give more of the log", raw=empty_days, steps=(whole_days,)),
    "type of a split": Case(
        "use case when ... end", {BY_DAY: BY_COLUMN}, steps=({'value = "price"': f'value = "{BY_USER}"'},)
    ),
    "value of a split": Case(
        'correct the log or the configuration, or drop such rows: on_bad_row = "drop"',
        {BY_DAY: BY_COLUMN.replace("price", TYPING_ERROR)},
        steps=({"tst": "test"},),
    ),
    "sampling": Case(
        "add a column to sampling.hash that differs between such rows, e.g. the time", {"": SAMPLING},
        column("extra", lambda i: i if i % 2 else None), ({'["extra"]': '["extra", "time_ms"]'},),
    ),
    "overflow": Case(
        "correct the value, or compute in floats: cast(x as double)",
        {DENSE: DENSE + 'value = "duration_ms * 9223372036854775807"\n'},
        without_dry_run,
        steps=({"duration_ms *": "cast(duration_ms as double) *"},),
    ),
    # Quantiles and thresholds
    "edges": Case("or give `edges` in place of `quantiles`", {"": ONE_VALUE},
                  steps=({"quantiles = 3": "edges = [1.0]"},)),
        "feature without edges": Case("remove the feature", {"": ONE_VALUE}, steps=({ONE_VALUE: ""},)),
    "fewer quantiles": Case("configure fewer bins", {"": FEATURE + "quantiles = 10\n"}, steps=({"= 10": "= 7"},)),
    "threshold": Case(
        "write the number itself into the label's expression", {LABEL: THRESHOLD},
        column("extra", lambda i: None, pa.int64()), ({THRESHOLD: 'label = "price > 3"\n'},),
    ),
    "threshold by bins": Case(
        "write the number itself into the label's expression, or set fewer bins", {LABEL: BINS},
        column("extra", lambda i: i % 2), ({"bins = 2": "bins = 1"},),
    ),
    # Side tables
    "first row of a key": Case('or choose one of them: sides.users.keep = "first" or "last"', {"": SIDE}, users(1, 1)),
    "last row of a key": Case(
        "or choose one of them", {"": SIDE}, users(1, 1), ({"[sides.users]\n": '[sides.users]\nkeep = "last"\n'},)
    ),
    "row of a key and a day": Case("or choose one of them", {"": DATED_SIDE}, users(1, 1)),
    "one row of a key": Case("remove the repeated rows", {"": SIDE}, users(1, 1), (users(1),)),
    "second key": Case(
        "add a column in which they differ to `on`", {"": SIDE}, users(1, 1),
        ({'"user_id"}': '"user_id", age = "duration_ms"}'},),
    ),
    "dated side table without a time": Case("add [time]", {TIME: "", BY_DAY: BY_HASH, "": DATED_SIDE}, users(1, 2)),
    "side row without a day": Case(
        "correct or remove the row", {"": DATED_SIDE}, users(1, 2, seen={1: None}), (users(1, 2),)
    ),
    "number of a side table": Case(
        "write it as text, or correct the row", {"": SIDE}, users(1, 2, age=pa.array([1, 2**63], pa.uint64())),
        (users(1, 2, age=["1", str(2**63)]),),
    ),
    "type of a key": Case("write cast(user_id as string)", {"": CSV_SIDE}, users_csv),
    "type of a key in CSV": Case(
        "or declare the type of a CSV column (csv.types)", {"": CSV_SIDE}, users_csv,
        ({"": '[sides.users.csv.types]\nuser_id = "int64"\n'},),
    ),
    # Features
    "bag of a number": Case(
        "remove bag = true, max_length and keep", {"": FEATURE + 'bag = true\nmax_length = 3\nkeep = "last"\n'},
        steps=({'bag = true\nmax_length = 3\nkeep = "last"\n': ""},),
    ),
    "weights": Case(
        "or remove `weights`", {"": TAGS}, column("tags", lambda i: ["a"]), ({'weights = "user_id"\n': ""},)
    ),
    "edges of a number": Case(
        "give a number edges or quantiles", {"": FEATURE.replace("user_id", "price")},
        steps=({"": "edges = [1.0]\n"},),
    ),
    "quantiles of a number": Case(
        "give a number edges or quantiles", {"": FEATURE.replace("user_id", "price")}, steps=({"": "quantiles = 3\n"},)
    ),
    "dense number": Case(
        "or make it a dense feature", {"": FEATURE.replace("user_id", "price")},
        steps=({'sparse]]\nname = "extra"': 'dense]]\nname = "extra"'},),
    ),
    "types of a shared table": Case(
        "cast one of them, e.g. cast(x as string)", {"": SHARED},
        steps=({'"user_id"\ntable': '"cast(user_id as string)"\ntable'},),
    ),
    "vectors of texts": Case(
        "write the vectors as lists of numbers", {"": VECTOR}, column("extra", lambda i: ["1", "2"]),
        (column("extra", lambda i: [1.0, 2.0]),),
    ),
    "width of a vector": Case(
        'or drop such rows: on_bad_row = "drop"', {"": VECTOR, NAME: NAME + "max_bad_fraction = 0.5\n"},
        column("extra", lambda i: [1.0] * (2 if i else 3)),
    ),
    # CSV
    "type of no column": Case("did you mean 'price'?", {"": '[log.csv.types]\npric = "double"\n'}, csv(str)),
    "two names": Case(
        "or set log.csv.header = false and log.csv.columns", raw=csv_without_header, steps=({"": NO_HEADER},)
    ),
    "column without a name": Case(
        "correct the line", raw=csv(lambda text: text.replace("price", "", 1)), steps=(csv(str),)
    ),
    "empty CSV file": Case(
        "remove it", raw=csv(lambda text: "", 2),
        steps=(lambda run: run.logs.file(2).with_suffix(".csv").unlink(), {"train = [1, 2]": "train = [1, 1]"}),
    ),
    "decimal in a column of integers": Case(
        'set log.csv.types.duration_ms = "double"', raw=cell("duration_ms", "1.5", 3)
    ),
    "text in a column of integers": Case('set log.csv.types.user_id = "string"', raw=cell("user_id", "x", 3)),
    "text in a column of floats": Case(
        'set log.csv.types.price = "string"', raw=cell("price", "x", 3),
        steps=(None, {"": '[log.csv]\nnulls = ["", "x"]\n'}, None),
    ),
    "mark of a missing value": Case(
        "or add it to log.csv.nulls if it means a missing value", raw=cell("price", "NA", 3),
        steps=({"": '[log.csv]\nnulls = ["", "NA"]\n'},),
    ),
    "cell that makes a column text": Case(
        "or add it to log.csv.nulls if it means a missing value", raw=cell("price", "NA"),
        steps=({"": '[log.csv]\nnulls = ["", "NA"]\n'},),
    ),
    "cell of a declared type": Case(
        'set log.csv.types.duration_ms = "double"', {"": '[log.csv.types]\nduration_ms = "int64"\n'},
        cell("duration_ms", "1.5"),
    ),
    "cell of a number": Case("correct the row", raw=cell("price", "1,5"), steps=(cell("price", "1.5"),)),
    "open quote": Case("correct the row", raw=cell("video_id", '"v'), steps=(cell("video_id", "v"),)),
    # Files
    "similar folder": Case("did you mean 'log'?", {'["log"]': '["lgo"]'}),
    "folder like no other": Case("correct the pattern or --from", {'["log"]': '["zzzz"]'}, steps=({"zzzz": "log"},)),
    "files that are not read": Case("convert them, or correct the pattern", raw=rename(".txt"), steps=(csv(str),)),
    "name without a format": Case(
        'set log.format = "parquet" or "csv"', {'["log"]': '["log/*.data"]'}, rename(".data")
    ),
    "two formats": Case('or read one kind only: log.format = "csv"', raw=both_formats),
    "CSV named like Parquet": Case("rename it to end in .csv", raw=named_parquet, steps=(rename(".csv"),)),
    "CSV by its format": Case(
        'or set format = "csv" and name the files themselves: files = ["folder/*"]', raw=named_parquet,
        steps=({FILES: 'files = ["log/*"]\nformat = "csv"\n'},),
    ),
    "gzip named like Parquet": Case(
        "or let its name end in .csv.gz if it holds CSV", raw=packed_named_parquet, steps=(rename(".csv.gz"),)
    ),
    "gzip named like CSV": Case("rename it, or unpack it", raw=packed, steps=(rename(".csv.gz"),)),
    "folder that names no value": Case(
        "leave the folder out of the pattern", carry("extra"), folder_without_value,
        ({'["log"]': '["log/extra=1"]'},),
    ),
    # Appended days and options
    "no day": Case("count days from 1, or give a date", raw=append("tomorrow"), steps=(options(append="day=3"),)),
    "date for a day": Case("count days from 1, or give a date", raw=append("x"), steps=(options(append="2022-04-17"),)),
    "day of train": Case("name a day after 2022-04-16", raw=append("day=1"), steps=(options(append="2022-04-17"),)),
    "number of a day": Case(
        "name the date; the day after its last one is day=2022-04-19", raw=append("day=3", {BY_DAY: BY_DATE}),
        steps=(None, lambda run: run.logs.write(5, day_of(5))),
    ),
    "no group to hold out": Case(
        "prepare the first days again with `group`", toml={GROUP: ""}, raw=append("day=3", {}),
        steps=({NAME: NAME + GROUP}, append(toml={})),
    ),
    "column of another meaning": Case(
        "use the configuration of the first days", {'name = "price"\n': 'name = "price"\nvalue = "user_id"\n'},
        append("day=3"), ({'value = "user_id"\n': ""},),
    ),
    "nothing held out": Case(
        "hold more out of the day by append.valid", {"valid = 0.3": "valid = 0.00001"}, append("day=3"),
        ({"0.00001": "0.3"},),
    ),
    "split that takes no day": Case(
        "prepare the whole log", {BY_DAY: BY_HASH}, append("day=3", {}),
        (lambda run: run.options.clear(),),
    ),
    "parent without a day": Case("give --append day=N", raw=append(), steps=(options(append="day=3"),)),
    "parent of no day": Case("or drop it", raw=append(), steps=(lambda run: run.options.clear(),)),
    "day without a parent": Case("name it: --parent DIR", raw=options(append="day=3"), steps=(append(),)),
    "files in the way": Case("name another --out", raw=out_with_files, steps=(other_out,)),
    "other dataset": Case("pass --overwrite", raw=prepared, steps=(options(overwrite=True),)),
}  # fmt: skip
# Types that prep does not read, with a fix that leads to the second type.
UNREADABLE = {
    "write it with fewer digits": (Decimal(1), pa.decimal256(40, 2), pa.decimal128(10, 2)),
    "or as text": (Decimal(1), pa.decimal256(40, 2), pa.string()),
    "write it as float": (np.float16(1), pa.float16(), pa.float32()),
    "write it as a string": (b"a", pa.binary(), pa.string()),
    "write it as an integer": (timedelta(1), pa.duration("s"), pa.int64()),
    "write it as one of these": ([True], pa.list_(pa.bool_()), pa.list_(pa.int64())),
}
CASES |= {
    f"type of column {kind}: {fix}": Case(fix, carry("extra"), typed(value, kind), (typed(value, kind, readable),))
    for fix, (value, kind, readable) in UNREADABLE.items()
}


@pytest.fixture(scope="module")
def first_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = Logs(tmp_path_factory.mktemp("first"), BASE)
    logs.prepare()
    return logs.out


# These prepare the whole log, change nothing but files, or have a faster case of the same message.
SLOW = {
    "overflow", "nothing held out", "last row of a key", "one row of a key", "row of a key and a day",
    "missing label in a space", "quantiles of a number", "dense number", "date for a day", "unit of most rows",
    "other dataset", "files in the way", "no group to hold out", "split that takes no day", "number of a day",
    *(name for name in CASES if name.startswith("type of column")),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_a_proposed_fix_is_accepted(
    name: str, tmp_path: Path, first_days: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case, run = CASES[name], Run(tmp_path, first_days)
    run.edit(case.toml)
    if case.raw is not None:
        case.raw(run)
    message = run.message(caplog)
    assert message is not None
    assert case.fix in message.partition("Fix: ")[2], message
    for step in case.steps:
        assert message is not None
        if step is None:
            apply_text(run, message)
        elif callable(step):
            step(run)
        else:
            run.edit(step)
        message = run.message(caplog)
    assert message is None
