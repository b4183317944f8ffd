"""Raw logs give the very predictions of the dataset directory that was prepared from them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.sources.table import RawTable
from tests.inference.feed import FIRST_USER, LABELS, LAST, TASKS, day_of, log_of, predict, raw, same


@pytest.fixture(scope="module")
def of_dataset(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return predict(feed, tmp_path_factory.mktemp("dataset") / "out")


def kept(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["spam"], 0))


def test_raw_logs_without_labels_give_the_bits_of_the_dataset(
    feed: Path, tmp_path: Path, of_dataset: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    day = day_of(LAST).drop_columns([*LABELS])
    pq.write_table(day, tmp_path / "new.parquet", row_group_size=9)
    found = raw(feed, tmp_path / "out", tmp_path / "new.parquet")
    rows = kept(day)
    assert same(found, of_dataset)
    assert found["user_id"].equals(rows["user_id"])
    assert found["video_id"].equals(rows["video_id"])
    assert found.column_names == ["user_id", "video_id", *TASKS]  # the group is user_id, too
    said = capsys.readouterr().out
    left_out = len(day) - len(rows)
    assert f"left out    {left_out} of {len(day)} rows, not spam = 0 (log.where; --all-rows includes them)" in said
    assert json.loads((tmp_path / "out/_SUCCESS").read_text())["rows_left_out"] == left_out > 0
    new = [user for user in rows["user_id"].to_pylist() if user >= FIRST_USER + 9]
    assert f"user_id {len(new) / len(rows):.2%}" in next(line for line in said.splitlines() if "unknown" in line)


def test_every_row_is_predicted_where_that_is_asked_for(feed: Path, tmp_path: Path) -> None:
    names = ["spam", "time_ms", "videos.length", "city"]
    found = raw(feed, tmp_path / "out", log_of(feed, LAST), "--all-rows", "--ids", *names)
    day = day_of(LAST)
    assert found["spam"].equals(day["spam"])
    assert found["time_ms"].equals(day["time_ms"])
    assert found.column_names == ["user_id", *names, *TASKS]
    assert found["user_id"].equals(day["user_id"])
    assert {"city 0", None} <= set(found["city"].to_pylist())
    assert 30.0 in found["videos.length"].to_pylist()


def test_the_group_and_times_have_the_names_and_zones_of_the_log(feed: Path, tmp_path: Path) -> None:
    kind = pa.timestamp("ms", "+08:00")
    day = day_of(LAST).append_column("at", day_of(LAST)["time_ms"].cast(pa.timestamp("ms", "UTC")).cast(kind))
    pq.write_table(day, tmp_path / "new.parquet")
    found = raw(feed, tmp_path / "out", tmp_path / "new.parquet", "--ids", "group", "at", "user_id")
    assert found.column_names == ["user_id", "at", *TASKS]
    assert found.schema.field("at").type == kind
    assert found["at"].combine_chunks().equals(kept(day)["at"].combine_chunks())
    raw(feed, tmp_path / "out", tmp_path / "new.parquet", "--ids", "user_id", "at")  # the same: nothing to do


def test_parts_and_files_change_no_bit(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = raw(feed, tmp_path / "whole", feed / "raw" / "log")
    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 50)
    monkeypatch.setattr(RawTable, "locate", lambda *given: pytest.fail("a sound row is looked for"))  # slow, in CSV
    out = tmp_path / "parts"
    cut = raw(feed, out, feed / "raw" / "log", "--part-rows", "48")
    assert cut.equals(whole)
    parts = [pq.read_metadata(file).num_rows for file in sorted(out.glob("*.parquet"))]
    assert parts[:-1] == [48] * (len(parts) - 1)
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == len(whole)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("part-")) == [
        "_SUCCESS",
        "_lock",
        "_predict.json",
    ]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "price",
            float("inf"),
            "new.parquet, row group 0, row 30: dense[0].value `price` is inf; a dense value is missing",
        ),
        ("time_ms", 5, "row 30: time.value `time_ms` is 5; as ms it must lie between"),
        ("price", None, None),
        ("video_id", "never seen", None),
    ],
)
def test_a_row_that_no_training_could_have_seen_is_refused(
    feed: Path, tmp_path: Path, column: str, value: object, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    day = day_of(LAST).drop_columns([*LABELS])
    values = day[column].to_pylist()
    row = day["spam"].to_pylist().index(0, 30)
    values[row] = value
    place = day.column_names.index(column)
    pq.write_table(day.set_column(place, column, pa.array(values, day[column].type)), tmp_path / "new.parquet")
    found = raw(feed, tmp_path / "out", tmp_path / "new.parquet", code=0 if message is None else 3)
    if message is None:
        assert len(found) == len(kept(day))
    else:
        assert message.replace("row 30", f"row {row}") in capsys.readouterr().err
        assert not list((tmp_path / "out").glob("*.parquet*"))


def test_missing_columns_and_damaged_files_are_named(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.parquet"
    pq.write_table(day_of(LAST).rename_columns({"history": "histories"}), file)
    raw(feed, tmp_path / "out", file, code=3)
    said = capsys.readouterr().err
    prep = feed / "data" / "prep.toml"
    assert (
        f"new.parquet: lacks column 'history'; a prediction reads what training read ({prep}): 'history' for feature "
        "history. Fix: if 'histories' is meant, rename it; else write what is lacking into every file" in said
    )
    content = bytearray(log_of(feed, LAST).read_bytes())
    content[200:1200] = bytes(1000)
    file.write_bytes(content)
    raw(feed, tmp_path / "out", file, code=3)
    said = capsys.readouterr().err
    assert "new.parquet, row group 0, column " in said
    assert "the page is damaged" in said
    predict(feed, tmp_path / "out", "--data", str(log_of(feed, LAST)), "--from", str(tmp_path), code=2)
    assert "--from: sides.videos.files: nothing matches 'videos.parquet'" in capsys.readouterr().err
    raw(feed, tmp_path / "out", log_of(feed, LAST), "--ids", "vidoe_id", code=2)
    assert '--ids: got "vidoe_id"; it is a column of the raw logs' in capsys.readouterr().err
    raw(feed, tmp_path / "out", log_of(feed, LAST), "--split", "test", code=2)
    assert "a dataset directory has splits" in capsys.readouterr().err
    predict(feed, tmp_path / "out", "--data", str(tmp_path / "nowhere"), code=2)
    assert "nowhere' below" in capsys.readouterr().err
