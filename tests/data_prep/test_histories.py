"""Histories of rows with side tables, rates and hashed values: a reference, both engines, files of the dataset."""

from __future__ import annotations

import json
import shutil
import uuid
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.output.stage import STATE_FILE
from data_prep.run import EngineName, Options, prepare
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import LOG_TIME, SUCCESS_FILE
from ple_rec.data.integrity import Digests
from ple_rec.storage import Location, Remote
from ple_rec.storage.store import objects_at
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.history_logs import HISTORIES, LIKED, TOML, encoded, random_log, reference, stored, write
from tests.data_prep.plain_logs import TOML as PLAIN
from tests.data_prep.plain_logs import Logs


def prepared(
    root: Path, log: pd.DataFrame, *, engine: EngineName = "duckdb", threads: int = 1, files: int = 3, toml: str = TOML
) -> Path:
    """Write a log and its configuration, prepare them, and return the dataset directory."""
    write(root, log, files, toml)
    options = Options(source=str(root / "raw"), threads=threads, engine=engine)
    prepare(str(root / "histories.toml"), root / "out", options)
    return root / "out"


def rows_of(folder: Path, *splits: str) -> pa.Table:
    """Return the rows of some splits, by default of all, in the order of the log."""
    return pa.concat_tables(read(folder, split) for split in splits or SPLITS).sort_by("row")


@pytest.mark.parametrize("seed", range(2))
def test_histories_are_those_of_a_reference(tmp_path: Path, seed: int) -> None:
    log = random_log(seed)
    folder = prepared(tmp_path, log, files=1 + seed)
    rows = rows_of(folder)
    assert rows.num_rows > 60
    times = log.set_index("row")["time_ms"] // 1000
    assert rows[LOG_TIME].to_pylist() == times.loc[rows["row"].to_pylist()].tolist()
    lengths = {}
    for name in HISTORIES:
        expected, actual = encoded(rows, reference(log, name), name), stored(folder, rows, name)
        assert actual == {row: expected[row] for row in rows["row"].to_pylist()}
        lengths[name] = [len(each) for each in actual.values()]
    assert set(lengths["liked"]) == {0, 1, 2, 3}
    assert len(set(lengths["seen_in_city"])) > 9
    stats = json.loads((folder / "stats.json").read_text())["columns"]["liked"]
    assert sum(stats[split]["events"] for split in SPLITS) == sum(lengths["liked"])
    assert sum(stats[split]["empty"] for split in SPLITS) == lengths["liked"].count(0)
    train = stored(folder, rows_of(folder, "train"), "liked").values()
    assert stats["train"]["mean_length"] == sum(map(len, train)) / len(train)


def test_conditions_may_read_rates(tmp_path: Path) -> None:
    """`popular` has the rows of a user whose video had a count above 0, at least six hours before."""
    log = random_log(2)
    folder = prepared(tmp_path, log)
    counts = {row["row"]: row["video_like_count"] for row in rows_of(folder).to_pylist()}
    times = pd.Series(log["time_ms"].to_numpy(), log["row"]).to_dict()
    users = pd.Series(log["user_id"].to_numpy(), log["row"]).to_dict()
    popular = {row for row, count in counts.items() if count is not None and count > 0}
    checked = 0
    for row, events in stored(folder, rows_of(folder, "test"), "popular").items():
        earlier = sorted(
            times[event] // 1000
            for event in popular
            if users[event] is not pd.NA and users[event] == users[row] and times[event] < times[row] - 6 * 3_600_000
        )
        # Rows of the days before the split are events, too; only those of the split are known here.
        assert set(earlier[-2:]) <= {time for time, _ in events}
        checked += len(earlier) > 1
    assert checked > 3


@pytest.mark.spark
@pytest.mark.slow
def test_both_engines_write_the_same_bytes(tmp_path: Path) -> None:
    engines: tuple[EngineName, ...] = ("duckdb", "spark")
    folders = [prepared(tmp_path / name, random_log(5, rows=12), engine=name, files=2) for name in engines]
    assert digests(folders[0]) == digests(folders[1])
    assert "histories/liked/price.npy" in digests(folders[0])


def test_the_files_of_events(tmp_path: Path) -> None:
    folder = prepared(tmp_path, random_log(3))
    names = sorted(str(file.relative_to(folder)) for file in (folder / "histories").rglob("*.*"))
    assert names == [
        *("histories/liked.parquet", "histories/liked/log_time.npy", "histories/liked/price.npy"),
        *("histories/liked/tab.npy", "histories/liked/video_id.npy", "histories/popular.parquet"),
        *("histories/popular/log_time.npy", "histories/popular/tab.npy", "histories/seen_in_city.parquet"),
        *("histories/seen_in_city/log_time.npy", "histories/seen_in_city/video_id.npy"),
    ]
    raw = pq.read_table(folder / "histories" / "liked.parquet")
    assert {field.name: str(field.type) for field in raw.schema} == {
        **{"key": "int64", "time": "int64"},
        **{"item_video_id": "string", "item_price": "double", "item_tab": "int64"},
    }
    places = list(zip(raw["key"].to_pylist(), raw["time"].to_pylist(), strict=True))
    assert places == sorted(places)
    times, prices = (np.load(folder / "histories" / "liked" / f"{name}.npy") for name in (LOG_TIME, "price"))
    assert (times.dtype, prices.dtype) == (np.int64, np.int32)
    assert times.tolist() == [time // 1000 for _, time in places]
    assert [price == 0 for price in prices] == [price is None for price in raw["item_price"].to_pylist()]
    assert set(names) < Digests.read(folder).files.keys()
    np.save(folder / "histories" / "liked" / "tab.npy", prices)
    (change,) = Digests.read(folder).find_changes()
    assert change.place == str(folder / "histories" / "liked" / "tab.npy")


@pytest.mark.parametrize("missing", ["train/part-00000.parquet", "histories/liked/video_id.npy"])
def test_complete_files_of_a_stopped_run_are_not_written_again(tmp_path: Path, missing: str) -> None:
    logs = Logs(tmp_path, PLAIN + LIKED)
    logs.prepare()
    expected = digests(logs.out)
    stage = tmp_path / ".out.partial"
    recipe = json.loads((logs.out / SUCCESS_FILE).read_text())["recipe"]
    shutil.move(logs.out, stage)
    (stage / STATE_FILE).write_text(json.dumps({"fingerprint": recipe}))
    (stage / SUCCESS_FILE).unlink()
    (stage / missing).unlink()
    before = (stage / "histories" / "liked.parquet").stat().st_ino
    logs.prepare()
    assert digests(logs.out) == expected
    is_same = (logs.out / "histories" / "liked.parquet").stat().st_ino == before
    assert is_same == missing.startswith("train")


def test_a_dataset_in_a_store_has_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    logs = Logs(tmp_path / "logs", PLAIN + LIKED)
    out = Remote(f"memory://{uuid.uuid4().hex}")

    def prepare_at(place: Location, *overrides: str) -> None:
        prepare(str(logs.toml), place, Options(str(logs.raw), threads=1, overwrite=True, overrides=overrides))

    for overrides in ((), ("histories[0].length=2",)):
        prepare_at(out, *overrides)
        prepare_at(logs.out, *overrides)
        remote = {entry.name: sha256((out / entry.name).read_bytes()).hexdigest() for entry in objects_at(out)}
        assert remote == digests(logs.out)


def test_a_dry_run_tells_of_events(tmp_path: Path) -> None:
    logs = Logs(tmp_path, PLAIN + LIKED)
    report = str(dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1)))
    assert f"  {'liked':24} history, at most the last 3 events; 32 events in all, about" in report
    # 5 videos and row 0, nine buckets of ages and row 0.
    assert "  tables       2, with about 16 rows in all" in report


def test_the_summary_and_the_page_show_histories(tmp_path: Path) -> None:
    logs = Logs(tmp_path, PLAIN + LIKED)
    summary = str(logs.prepare())
    train = json.loads((logs.out / "stats.json").read_text())["columns"]["liked"]["train"]
    line = f"liked {train['mean_length']:.1f} of at most 3, none in {train['empty'] / 48:.1%} of rows"
    assert f"  events in histories of train: {line}\n" in summary
    page = (logs.out / "stats.html").read_text()
    assert '<td class="text">video_id</td><td>32</td><td>3</td>' in page
