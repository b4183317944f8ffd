"""The recipes `kuairand` and `kuairand-six-days`, on made-up files in the public layout and on the real feed logs."""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep import Options, Summary, prepare
from data_prep.run import prepare_config, read_recipe
from data_prep.transforms.resolve import resolve
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import PREP_FILE
from tests.conftest import feed_log_folder
from tests.data_prep.datasets.kuairand_files import CHINA, Row, as_public, users, videos, write_public
from tests.data_prep.feed_logs import folder_of, only

PER_DAY = 30
DAYS: dict[Split, tuple[date, date]] = {
    "train": (date(2022, 4, 8), date(2022, 5, 4)),
    "valid": (date(2022, 5, 5), date(2022, 5, 6)),
    "test": (date(2022, 5, 7), date(2022, 5, 8)),
}
FEATURES = ("sparse", "dense", "derived")
OUTCOMES = {
    *("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms"),
    *("profile_stay_time", "comment_stay_time", "is_profile_enter"),
}


def read(out: Path, split: Split) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(out / split).to_pydict()
    return columns


def shown(row: Row) -> datetime:
    return datetime.fromtimestamp(row["time_ms"] / 1000, CHINA)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, dict[Split, list[Row]]]:
    """A dataset directory of files in the public layout, and the raw rows of each split in the order of its parts."""
    root = tmp_path_factory.mktemp("kuairand")
    rows = write_public(root / "KuaiRand-Pure", PER_DAY)
    summary = prepare("kuairand", root / "out", Options(source=str(root / "KuaiRand-Pure")))
    splits = {split: [row for row in rows if DAYS[split][0] <= shown(row).date() <= DAYS[split][1]] for split in SPLITS}
    for split in ("valid", "test"):
        splits[split].sort(key=lambda row: row["user_id"])
    return summary, splits


@pytest.mark.parametrize("split", SPLITS)
def test_the_public_files_as_downloaded(public: tuple[Summary, dict[Split, list[Row]]], split: Split) -> None:
    summary, splits = public
    rows, found = splits[split], read(folder_of(summary), split)
    assert len(rows) == PER_DAY * ((DAYS[split][1] - DAYS[split][0]).days + 1)
    assert found["group"] == [row["user_id"] for row in rows]
    assert found["is_rand"] == [0] * len(rows)  # the random log is not read unless it is asked for
    columns = {"like": "is_like", "follow": "is_follow", "share": "is_forward", "comment": "is_comment"}
    columns |= {"click": "is_click"}
    for task, column in columns.items():
        assert found[f"label_{task}"] == [row[column] for row in rows]
    spaces = {task.name: task.space for task in summary.schema.tasks}
    assert [spaces["like"], spaces["follow"]] == [None, None]
    assert spaces["share"] == spaces["comment"]
    assert found[spaces["share"] or ""] == [row["is_click"] == 1 for row in rows]
    known = [row["duration_ms"] > 0 for row in rows]
    assert found[spaces["completion"] or ""] == found[spaces["valid_view"] or ""] == known
    assert not all(known)
    ratios = [min(row["play_time_ms"] / (row["duration_ms"] or 1), 1) for row in rows]
    assert [x for x, at in zip(found["label_completion"], known, strict=True) if at] == pytest.approx(
        [x for x, at in zip(ratios, known, strict=True) if at]
    )
    threshold = tomllib.loads((summary.out / PREP_FILE).read_text())["found"]["thresholds"]["valid_view"]
    limits = [threshold["values"][bisect_right(threshold["edges"], row["duration_ms"])] for row in rows]
    views = [row["play_time_ms"] > limit for row, limit in zip(rows, limits, strict=True)]
    assert [x for x, at in zip(found["label_valid_view"], known, strict=True) if at] == [
        x for x, at in zip(views, known, strict=True) if at
    ]


def test_features_of_time_user_and_video(public: tuple[Summary, dict[Split, list[Row]]]) -> None:
    summary, splits = public
    rows, found = splits["train"], read(folder_of(summary), "train")

    def raw_of(table: str) -> dict[int, Any]:
        vocabulary = pq.read_table(summary.out / "vocab" / f"{table}.parquet").to_pydict()
        return {0: None} | dict(zip(vocabulary["row"], vocabulary["raw"], strict=True))

    def decoded(feature: str) -> list[Any]:
        raw = raw_of(feature)
        return [raw[i] for i in found[feature]]

    user, video = users(), videos()
    assert decoded("hour") == [shown(row).hour for row in rows]
    assert decoded("weekday") == [shown(row).weekday() for row in rows]
    assert decoded("tab") == [row["tab"] for row in rows]
    assert decoded("user_active_degree") == [user[row["user_id"]]["user_active_degree"] for row in rows]
    feat4 = [user[row["user_id"]]["onehot_feat4"] for row in rows]
    assert decoded("onehot_feat4") == [None if value == "" else int(value) for value in feat4]
    tags = raw_of("tags")
    assert [sorted(tags[i] for i in bag) for bag in found["tags"]] == [
        sorted(video[row["video_id"]]["tag"].split(",")) if video[row["video_id"]]["tag"] else [] for row in rows
    ]
    assert found["height_to_width"] == pytest.approx([1280 / 720] * len(rows))


@pytest.mark.parametrize("name", ["kuairand", "kuairand-six-days", "kuairand-six-days-rates"])
def test_no_feature_reads_an_outcome_of_the_impression(name: str) -> None:
    config, place, _ = read_recipe(name)
    resolved = resolve(config, place)
    inputs = {key: set(value.columns) for key, value in resolved.parsed.items() if key.startswith(FEATURES)}
    assert len(inputs) > 30
    assert {key: columns for key, columns in inputs.items() if OUTCOMES & columns} == {}
    assert set(resolved.side_columns) == {"user", "video"}  # no statistics of the same month


@pytest.mark.data
def test_the_real_feed_logs(tmp_path: Path) -> None:
    """Their rows, labels and days; all features are those of the public files above, and of the slow test below."""
    config, place, source = read_recipe("kuairand-six-days")
    options = Options(source=str(feed_log_folder()))
    real = prepare_config(only(config, "user_id", "hour"), place, tmp_path / "out", options, source)
    rows = {split: info.rows for split, info in real.schema.splits.items()}
    assert rows == {"train": 57_714, "valid": 15_889, "test": 21_040}
    assert real.stats["dropped"] == [{"split": None, "rows": 141, "reason": "in no split"}]  # shown on 24 April

    def total(task: str, *, outside: bool) -> int:
        counts = [real.stats["tasks"][task][split] for split in SPLITS]
        return sum(count["outside"]["positives"] if outside else count["positives"] for count in counts)

    assert [total(task, outside=False) for task in ("like", "follow", "share", "comment")] == [1_623, 128, 72, 216]
    assert [total(task, outside=True) for task in ("like", "follow", "share", "comment")] == [0, 0, 4, 4]
    assert sum(real.stats["tasks"]["completion"][split]["outside"]["rows"] for split in SPLITS) == 1_663
    assert real.stats["tasks"]["valid_view"]["train"]["mean"] == pytest.approx(0.5, abs=0.001)
    assert real.oov_rates("test")["user_id"] == pytest.approx(0.468, abs=0.001)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_feed_logs_as_csv_give_the_same_rows(feed_logs: Path, tmp_path: Path) -> None:
    real = prepare("kuairand-six-days", tmp_path / "real", Options(source=str(feed_logs)))
    as_public(feed_logs, tmp_path / "KuaiRand-Pure")
    again = prepare("kuairand-six-days", tmp_path / "out", Options(source=str(tmp_path / "KuaiRand-Pure")))
    assert again.schema.fingerprint != real.schema.fingerprint  # other files
    for split in SPLITS:
        assert pq.read_table(again.out / split).equals(pq.read_table(real.out / split))
    assert again.stats["correlation"] == real.stats["correlation"]
