"""Bad rows are left out and counted where the configuration says so, and no number is taken of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_prep.vocabulary.build
import data_prep.vocabulary.numbering
import data_prep.vocabulary.plan
from data_prep.output.parent import Parent
from data_prep.output.summary import Summary
from ple_rec.errors import DataError
from tests.data_prep.bad_logs import INF, NAN, everywhere
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import DAY_ROWS, TOML, Logs, day_of, with_column

DROP = ("on_bad_row=drop", "max_bad_fraction=0.5")
CORRECT = 'Fix: correct the log or the configuration, or drop such rows: on_bad_row = "drop"'


def test_uint64_that_fits_is_as_good_as_int64(tmp_path: Path) -> None:
    signed, unsigned = Logs(tmp_path / "a"), Logs(tmp_path / "b")
    users = list(range(DAY_ROWS))
    everywhere("user_id", users)(signed)
    everywhere("user_id", users, pa.uint64())(unsigned)
    for logs in (signed, unsigned):
        logs.prepare("carry.user=user_id")
    for split in ("train", "valid", "test"):
        one, other = (pq.read_table(logs.out / split) for logs in (signed, unsigned))
        assert one.equals(other)


def balance(logs: Logs, summary: Summary) -> dict[tuple[str | None, str], int]:
    """What was left out, by split and reason; every row of the log is in a split or among them."""
    dropped = {(each["split"], each["reason"]): each["rows"] for each in summary.stats["dropped"]}
    written = {split: pq.read_table(logs.out / split).num_rows for split in ("train", "valid", "test")}
    assert written == summary.stats["rows"]
    assert sum(written.values()) + sum(dropped.values()) == summary_rows(logs)
    return dropped


def summary_rows(logs: Logs) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (logs.raw / "log").iterdir())


def spoil_all(logs: Logs) -> None:
    """Seven bad rows, one of them for two reasons, and a day that is in no split."""
    logs.spoil(1, "price", {2: NAN, 3: INF, 4: 1e300})
    logs.write(2, with_column(with_column(day_of(2), "is_like", {5: 7}), "price", {5: NAN}))
    logs.spoil(3, "duration_ms", {0: -1, 1: -1})
    logs.spoil(4, "time_ms", {0: 5})
    logs.write(5, day_of(5))


DENSE = "dense[0].value: a dense value is missing or a finite float32"
DURATION = "checks.duration: duration_ms: it must hold: duration_ms >= 0"
WIDE = "column 'user_id': integers are int64, at most 2^63 - 1"
TIME = "time.value: as ms it must lie between 2000-01-01 and 2099-12-31"


def test_bad_rows_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    spoil_all(logs)
    dropped = balance(logs, logs.prepare(*DROP))
    assert dropped == {
        ("train", DENSE): 4,
        ("valid", DURATION): 2,
        (None, TIME): 1,
        (None, "in no split"): DAY_ROWS,
    }
    prices = pq.read_table(logs.out / "train")["price"].to_pylist()
    assert prices == [i / 4 for i in range(2 * DAY_ROWS) if i not in (2, 3, 4, DAY_ROWS + 5)]


def test_rows_that_where_leaves_out_are_counted_too_and_not_judged(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    spoil_all(logs)
    dropped = balance(logs, logs.prepare(*DROP, "log.where=user_id <> 4 and user_id <> 2"))
    left_out = sum(i % 7 in (2, 4) for i in range(5 * DAY_ROWS))
    assert dropped[None, "not log.where: user_id <> 4 and user_id <> 2"] == left_out
    assert dropped["train", DENSE] == 2  # rows 3 and 29; 2 and 4 are left out
    assert ("train", "tasks[0].label: a binary label is 0 or 1") not in dropped


def test_a_row_without_a_verdict_of_where_is_left_out(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.spoil(1, "price", {0: None, 1: NAN})
    dropped = balance(logs, logs.prepare("log.where=price >= 0"))
    assert dropped == {(None, "not log.where: price >= 0"): 2}


def test_several_reasons_are_told_together_and_the_ceiling_holds(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    spoil_all(logs)
    also = (
        "log/day 1.parquet, row group 0, row 2: dense[0].value `price` is nan; a dense value is missing or a finite "
        "float32 (4 rows)\n"
        "  also log/day 3.parquet, row group 0, row 0: checks.duration: duration_ms is -1; it must hold: duration_ms "
        ">= 0 (2 rows)\n"
        "  also log/day 4.parquet, row group 0, row 0: time.value `time_ms` is 5; as ms it must lie between 2000-01-01 "
        "and 2099-12-31 (1 row)"
    )
    assert logs.refusal() == f"{also}. {CORRECT}"
    assert logs.refusal("on_bad_row=drop", "max_bad_fraction=0.05") == (
        f"{also}\n  7 of 120 rows are bad, more than max_bad_fraction = 0.05. Fix: correct the log or the "
        "configuration, or raise max_bad_fraction"
    )
    assert logs.prepare("on_bad_row=drop", "max_bad_fraction=0.0584").stats["rows"]["valid"] == DAY_ROWS - 2


def test_a_vocabulary_beyond_int32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(tmp_path)
    for module in (data_prep.vocabulary.build, data_prep.vocabulary.numbering, data_prep.vocabulary.plan):
        monkeypatch.setattr(module, "MAX_ROWS", 5)
    assert logs.refusal() == (
        "vocabulary of table 'video_id': more than 4 values in train; ids are int32, so a table has at most 5 "
        'rows. Fix: set tables.video_id.min_count, or capacity with overflow = "hash"'
    )
    for module in (data_prep.vocabulary.build, data_prep.vocabulary.numbering, data_prep.vocabulary.plan):
        monkeypatch.setattr(module, "MAX_ROWS", 6)
    assert logs.prepare().schema.table_rows() == {"video_id": 6}


THRESHOLD = TOML.replace(
    'label = "is_like"',
    'label = "duration_ms > threshold"\nthreshold = {value = "duration_ms", quantile = 0.5, by = "price", bins = 2}',
)


def test_no_number_is_taken_of_a_row_that_is_dropped(tmp_path: Path) -> None:
    logs, clean = Logs(tmp_path / "bad", THRESHOLD), Logs(tmp_path / "clean", THRESHOLD)
    table = with_column(day_of(2), "price", {5: NAN, 6: NAN})
    logs.write(2, with_column(table, "duration_ms", {7: -10_000}))
    clean.write(2, day_of(2).filter(pa.array([row not in (5, 6, 7) for row in range(DAY_ROWS)])))
    with pytest.raises(DataError) as caught:
        logs.prepare("dense=[]")
    assert "tasks[0].threshold.by `price` is nan; a number or nothing is needed, no NaN (2 rows)" in str(caught.value)
    for each in (logs, clean):
        each.prepare(*DROP)
    one, other = (Parent.read(each.out).config.tasks[0].threshold for each in (logs, clean))
    assert one == other
    assert pq.read_table(logs.out / "train").equals(pq.read_table(clean.out / "train"))


@pytest.mark.spark
@pytest.mark.slow
def test_both_engines_drop_the_same_rows(tmp_path: Path) -> None:
    engines = [Logs(tmp_path / name, THRESHOLD) for name in ("duckdb", "spark")]
    for logs in engines:
        spoil_all(logs)
        logs.write(5, with_column(day_of(5), "user_id", range(DAY_ROWS), pa.uint64()))
        for day in (1, 2, 4):
            table = pq.read_table(logs.file(day))
            logs.write(day, with_column(table, "user_id", table["user_id"].to_pylist(), pa.uint64()))
        table = with_column(day_of(3), "user_id", [*range(DAY_ROWS - 1), 2**63 + 5], pa.uint64())
        logs.write(3, with_column(table, "duration_ms", {0: -1, 1: -1}))
    engines[0].prepare(*DROP, "carry.user=user_id")
    engines[1].prepare(*DROP, "carry.user=user_id", engine="spark", threads=2)
    assert balance(engines[1], engines[1].prepare(*DROP, "carry.user=user_id"))["valid", WIDE] == 1
    assert digests(engines[0].out) == digests(engines[1].out)
