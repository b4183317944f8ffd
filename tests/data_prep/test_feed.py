"""A whole run on small logs, against the rules of the configuration worked out in plain Python."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.run import Options, prepare
from ple_rec.config.load import load_schema
from ple_rec.config.prep import PREP_FILE
from ple_rec.data.dataset import DatasetDirectory
from tests.data_prep.feed_logs import digests, log_of, read, write_logs, write_toml

DAYS = {"train": (1, 2), "valid": (3,), "test": (4,)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_logs(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toml(tmp_path_factory.mktemp("toml") / "feed.toml")


@pytest.fixture(scope="module")
def out(raw: Path, toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "feed"
    prepare(str(toml), folder, Options(source=str(raw), threads=2))
    return folder


def rows_of(split: str) -> list[dict[str, Any]]:
    """The raw rows of a split, in the order in which its parts hold them."""
    rows = [row for day in DAYS[split] for row in log_of(day).to_pylist()]
    return rows if split == "train" else sorted(rows, key=lambda row: row["user_id"])


def vocabulary(values: list[Any]) -> dict[Any, int]:
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: row for row, value in enumerate(ordered, 1)}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_rows_and_ids_are_those_of_the_raw_rows(out: Path, split: str) -> None:
    train, rows, found = rows_of("train"), rows_of(split), read(out, split)
    users = vocabulary([row["user_id"] for row in train])
    videos = vocabulary([v for row in train for v in (row["video_id"], *row["history"][-3:])])
    ages = vocabulary([f"a{row['user_id'] // 7_919 % 7}" if row["user_id"] < 45 * 7_919 else None for row in train])
    assert found["user_id"].to_pylist() == [users.get(row["user_id"], 0) for row in rows]
    assert found["video_id"].to_pylist() == [videos.get(row["video_id"], 0) for row in rows]
    assert found["history"].to_pylist() == [[videos.get(v, 0) for v in row["history"][-3:]] for row in rows]
    weights = [[pa.scalar(w, pa.float32()).as_py() for w in row["history_weights"][-3:]] for row in rows]
    assert found["history_weights"].to_pylist() == weights
    expected = [f"a{row['user_id'] // 7_919 % 7}" if row["user_id"] < 45 * 7_919 else None for row in rows]
    assert found["age"].to_pylist() == [ages.get(age, 0) for age in expected]
    assert found["group"].to_pylist() == [row["user_id"] for row in rows]
    assert found["tab"].to_pylist() == [row["tab"] for row in rows]
    assert 0 < len(rows) == found.num_rows


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_labels_spaces_and_numbers_follow_the_configuration(out: Path, split: str) -> None:
    rows, found = rows_of(split), read(out, split)
    share = [float(row["is_share"]) for row in rows]
    assert found["label_share"].to_pylist() == share
    assert found["space_share"].to_pylist() == [row["is_click"] == 1 for row in rows]
    completion = [min(row["play_time_ms"] / d, 1.0) if (d := row["duration_ms"]) else None for row in rows]
    assert found["label_completion"].cast(pa.float64()).to_pylist() == [
        None if x is None else pytest.approx(x, rel=1e-7) for x in completion
    ]
    assert found["space_completion"].to_pylist() == [row["duration_ms"] > 0 for row in rows]
    prices = pa.array([row["price"] for row in rows], pa.float64()).cast(pa.float32())
    assert found["price"].combine_chunks().equals(prices)


def edges_of(values: list[int], bins: int) -> list[int]:
    """Return the edges between parts: the first value with its share of the values below it, or else the largest."""
    ordered = sorted(values)
    firsts = [[v for v in ordered if ordered.index(v) * bins >= i * len(ordered)] for i in range(1, bins)]
    return sorted({first[0] if first else ordered[-1] for first in firsts} - {ordered[0]})


def test_a_threshold_is_the_quantile_of_the_training_rows_of_like_duration(out: Path) -> None:
    train = rows_of("train")
    edges = edges_of([row["duration_ms"] for row in train], 4)

    def quantile(values: list[int], share: float) -> int:
        ordered = sorted(values)
        return next(v for i, v in enumerate(ordered, 1) if i >= share * len(ordered))

    def part(row: dict[str, Any]) -> int:
        return sum(row["duration_ms"] >= edge for edge in edges)

    thresholds = [quantile([r["play_time_ms"] for r in train if part(r) == p], 0.7) for p in range(4)]
    for split in DAYS:
        expected = [float(row["play_time_ms"] > thresholds[part(row)]) for row in rows_of(split)]
        assert read(out, split)["label_valid_view"].to_pylist() == expected
    text = (out / PREP_FILE).read_text()
    assert f"{float(thresholds[0])}" in text
    assert 'day_1 = "2022-04-15"' in text


def test_buckets_are_cut_at_quantiles_of_the_training_rows(out: Path) -> None:
    edges = edges_of([row["duration_ms"] for row in rows_of("train")], 5)
    expected = [1 + sum(row["duration_ms"] >= edge for edge in edges) for row in rows_of("test")]
    assert read(out, "test")["duration_bucket"].to_pylist() == expected
    assert load_schema(out).table_rows()["duration_bucket"] == len(edges) + 2


def test_parts_of_valid_and_test_are_cut_between_groups(out: Path) -> None:
    for split in ("valid", "test"):
        ends = []
        for path in sorted((out / split).glob("*.parquet")):
            file = pq.ParquetFile(path)
            ends += [set(file.read_row_group(i)["group"].to_pylist()) for i in range(file.num_row_groups)]
        assert len(ends) > 5
        for i, group in enumerate(ends[1:], 1):
            assert not group & ends[i - 1]


def test_the_reader_takes_the_directory(out: Path) -> None:
    dataset = DatasetDirectory(out)
    assert sum(group.rows for group in dataset.row_groups("train", dataset.schema.columns())) == 600
    assert dataset.label_counts("train")["share"] == (
        sum(row["is_click"] for row in rows_of("train")),
        sum(row["is_share"] for row in rows_of("train")),
    )
    assert load_schema(out).table_rows()["video"] == 100


def test_a_second_run_writes_the_same_bytes_whatever_threads_and_names(raw: Path, toml: Path, out: Path) -> None:
    again = out.parent / "again"
    prepare(str(toml), again, Options(source=str(raw), threads=1, memory=1 << 30))
    assert digests(again) == digests(out)
    before = (out / "_SUCCESS").stat().st_mtime_ns
    assert str(prepare(str(toml), out, Options(source=str(raw)))).startswith(f"{out}: already prepared")
    assert (out / "_SUCCESS").stat().st_mtime_ns == before


def test_ids_do_not_depend_on_how_the_log_is_cut_into_files(raw: Path, tmp_path: Path, toml: Path, out: Path) -> None:
    whole = tmp_path / "whole"
    (whole / "log/shard=0").mkdir(parents=True)
    (whole / "log/shard=1").mkdir(parents=True)
    for shard, days in ((0, (2, 1)), (1, (4, 3))):
        pq.write_table(pa.concat_tables(log_of(day) for day in days), whole / f"log/shard={shard}/all.parquet")
    (whole / "users.parquet").write_bytes((raw / "users.parquet").read_bytes())
    prepare(str(toml), tmp_path / "out", Options(source=str(whole)))
    for table in ("user_id", "video", "age", "hour"):
        assert pq.read_table(tmp_path / f"out/vocab/{table}.parquet").equals(
            pq.read_table(out / f"vocab/{table}.parquet")
        )


def test_another_input_or_configuration_is_refused_until_it_may_replace(toml: Path, tmp_path: Path, out: Path) -> None:
    from ple_rec.errors import UserError

    other = tmp_path / "raw"
    write_logs(other)
    table = pq.read_table(other / "log/shard=0/day 1.parquet", partitioning=None)
    play = table["play_time_ms"].to_pylist()
    play[5] += 1
    changed = table.set_column(table.column_names.index("play_time_ms"), "play_time_ms", pa.array(play))
    pq.write_table(changed, other / "log/shard=0/day 1.parquet", row_group_size=100)
    target = tmp_path / "out"
    shutil.copytree(out, target)
    first = json.loads((target / "_SUCCESS").read_text())["fingerprint"]
    with pytest.raises(UserError, match=r"holds a dataset of another configuration or other raw files .* --overwrite"):
        prepare(str(toml), target, Options(source=str(other)))
    assert json.loads((target / "_SUCCESS").read_text())["fingerprint"] == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    prepare(str(toml), target, Options(source=str(other), overwrite=True))
    assert json.loads((target / "_SUCCESS").read_text())["fingerprint"] != first
    with pytest.raises(UserError, match="another configuration"):
        prepare(str(toml), target, Options(source=str(other), overrides=("tables.video.min_count=2",)))
