"""Histories in the files, statistics and reports of a dataset."""

from __future__ import annotations

import json
import shutil
import uuid
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.output.stage import STATE_FILE
from data_prep.run import Options, prepare
from ple_rec.config.base import SPLITS
from ple_rec.config.schema import LOG_TIME, SUCCESS_FILE
from ple_rec.data.integrity import Digests
from ple_rec.storage import Location, Remote
from ple_rec.storage.store import objects_at
from tests.data_prep.feed_logs import digests
from tests.data_prep.oracle_logs import OFFSET_MS, prepared, random_rows, rows_of, stored
from tests.data_prep.plain_logs import LIKED, Logs
from tests.data_prep.plain_logs import TOML as PLAIN


def test_the_statistics_count_events(tmp_path: Path) -> None:
    folder = prepared(tmp_path, random_rows(0))
    lengths = {row: len(events) for row, events in stored(folder)["liked"].items()}
    stats = json.loads((folder / "stats.json").read_text())["columns"]["liked"]
    assert sum(stats[split]["events"] for split in SPLITS) == sum(lengths.values())
    assert sum(stats[split]["empty"] for split in SPLITS) == list(lengths.values()).count(0)
    train = rows_of(folder, "train")["row"].to_pylist()
    assert stats["train"]["mean_length"] == sum(lengths[row] for row in train) / len(train)


def test_rows_have_their_times_in_seconds(tmp_path: Path) -> None:
    rows = random_rows(0)
    columns = rows_of(prepared(tmp_path, rows)).select(["row", LOG_TIME]).to_pydict()
    times = {row["row"]: (row["ms"] - OFFSET_MS) // 1000 for row in rows}
    assert columns[LOG_TIME] == [times[row] for row in columns["row"]]


def test_the_files_of_events(tmp_path: Path) -> None:
    folder = prepared(tmp_path, random_rows(3))
    names = sorted(str(file.relative_to(folder)) for file in (folder / "histories").rglob("*.*"))
    assert names == [
        *("histories/liked.parquet", "histories/liked/author.npy", "histories/liked/log_time.npy"),
        *("histories/liked/price.npy", "histories/liked/video_id.npy", "histories/seen.parquet"),
        *("histories/seen/log_time.npy", "histories/seen/user_id.npy"),
    ]
    raw = pq.read_table(folder / "histories" / "liked.parquet")
    assert {field.name: str(field.type) for field in raw.schema} == {
        **{"key": "int64", "time": "int64"},
        **{"item_video_id": "string", "item_author": "string", "item_price": "double"},
    }
    places = list(zip(raw["key"].to_pylist(), raw["time"].to_pylist(), strict=True))
    assert places == sorted(places)
    times, prices = (np.load(folder / "histories" / "liked" / f"{name}.npy") for name in (LOG_TIME, "price"))
    assert (times.dtype, prices.dtype) == (np.int64, np.int32)
    assert times.tolist() == [time // 1000 for _, time in places]
    assert [price == 0 for price in prices] == [price is None for price in raw["item_price"].to_pylist()]
    assert set(names) < Digests.read(folder).files.keys()
    np.save(folder / "histories" / "liked" / "video_id.npy", prices)
    (change,) = Digests.read(folder).find_changes()
    assert change.place == str(folder / "histories" / "liked" / "video_id.npy")


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
