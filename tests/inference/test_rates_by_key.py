"""An exported model has the rates of every key, and a request with keys gets those that prep would give its row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ple_rec
from data_prep.inputs.raw_form import build_raw_form
from data_prep.run import Options, prepare
from ple_rec.cli import main
from ple_rec.config.load import load_schema
from ple_rec.data.encode import Encoder
from ple_rec.errors import UserError
from ple_rec.inference.load_version import load_ranker, load_side_tables
from ple_rec.inference.model_dir import latest_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.raw_columns import Cells, RowSet, SideLookup
from ple_rec.inference.raw_query import QueryEngine
from ple_rec.inference.side_table import load_table
from tests.inference.exported import export_run
from tests.inference.feed import LABELS, day_of
from tests.inference.rates_feed import (
    COUNT_FEATURES,
    LAST_DAY,
    RATE_FEATURES,
    TABLES,
    read_features,
)
from tests.inference.side_feed import USER, city_of, rank
from tests.object_store import put_folder

FEATURES = (*RATE_FEATURES, *COUNT_FEATURES, "minutes")
DAY_6 = {"time_ms": 1_650_420_000_000}  # 2022-04-20 10:00 at +08:00


def load(model: Path) -> Ranker:
    version = latest_version(model)
    ranker, misfits = load_side_tables(load_ranker(version, 1), version)
    assert misfits == []
    return ranker


@pytest.fixture
def own(rates_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    shutil.copytree(rates_model, tmp_path / "model")
    return tmp_path / "model"


def requested_day(day: int) -> list[dict[str, Any]]:
    """Rows of a day as a client sends them: without labels, and with keys in place of columns of tables."""
    return day_of(day).drop_columns([*LABELS, "spam"]).to_pylist()


def test_rows_of_the_next_day_have_the_features_of_prep(
    rates_feed: Path, rates_model: Path, rates_child: Path, tmp_path: Path
) -> None:
    day = day_of(LAST_DAY + 1)
    pq.write_table(day.drop_columns([*LABELS]), tmp_path / "day.parquet")
    prepared = read_features(
        rates_feed, rates_child, tmp_path / "day.parquet", [*FEATURES, "like_bin"], tmp_path / "work"
    )
    keep = [i for i, spam in enumerate(day["spam"].to_pylist()) if spam == 0]  # `log.where` of the preparation.
    rows = [row for i, row in enumerate(requested_day(LAST_DAY + 1)) if i in keep]
    ranker = load(rates_model)
    request = ranker.read_score({"form": "raw", "rows": rows})
    for name in FEATURES:
        expected = prepared[name].to_numpy().astype(np.float32)
        assert np.isfinite(expected).sum() > 0
        np.testing.assert_array_equal(request.dense[name], expected, err_msg=name)
    (feature,) = (each for each in load_schema(rates_child).sparse if each.name == "like_bin")
    bins = Encoder(rates_child, [feature]).rows("like_bin", prepared["raw__like_bin"], "like_bin")
    np.testing.assert_array_equal(request.ids["like_bin"].values_V, bins.to_numpy())
    # The parts of the appended day have these values.
    parts = [pq.read_table(rates_child / split) for split in ("train", "valid", "test")]
    for name in FEATURES:
        values = [value for part in parts for value in part[name].to_pylist()]
        assert sorted(map(str, values)) == sorted(map(str, prepared[name].to_pylist()))
    assert request.rates_as_of == "2022-04-20"


def test_keys_without_rows_have_the_mean_and_null_keys_nothing(rates_model: Path) -> None:
    ranker = load(rates_model)
    videos = [{"video_id": "never", **DAY_6}, {"video_id": None, **DAY_6}]
    request = ranker.read_rank({"form": "raw", "user": {"user_id": USER}, "items": videos})
    info = ranker.side_tables["by_video_id"].info
    assert 0 < info.defaults["video_like"] < 1
    np.testing.assert_array_equal(
        request.dense["video_like"], np.array([info.defaults["video_like"], np.nan], np.float32)
    )
    np.testing.assert_array_equal(request.dense["video_like_count"], np.array([0, np.nan], np.float32))
    assert request.unknown["by_video_id"] == 0.5
    # Without a prior, a user without rows has no rate.
    assert ranker.side_tables["by_user_id_time_hour___2"].info.defaults == {"user_watch_count": 0}
    answer = rank(ranker, {"user_id": USER}, videos)
    assert answer["rates_as_of"] == "2022-04-20"


def test_the_export_names_its_rates(rates_model: Path, rates_feed: Path) -> None:
    version = latest_version(rates_model)
    card = json.loads((version / "model.json").read_text())["card"]
    assert [(each["table"], each["as_of"]) for each in card["rates"]] == [(name, "2022-04-20") for name in TABLES]
    assert "- Rates: as of 2022-04-20 at the export: by_video_id (" in (version / "MODEL_CARD.md").read_text()
    tables = {each["name"]: each for each in ple_rec.load_model(rates_model).side_tables.to_pylist()}
    assert {name: tables[name]["as_of"] for name in tables} == dict.fromkeys(TABLES, "2022-04-20") | {
        "users": None,
        "videos": None,
    }
    # Videos that the vocabulary leaves out have rates, too.
    videos = pq.read_table(rates_feed / "data/rates/by_video_id.parquet")["video_id"].unique()
    assert tables["by_video_id"]["rows"] == len(videos) > 16


def test_newer_rates_are_published_without_a_version(
    own: Path, rates_feed: Path, rates_child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load(own)
    assert main(["tables", str(own), "--dataset", str(rates_child)]) == 0
    assert "by_users_city: 4 rows, " in (printed := capsys.readouterr().out)
    assert f"as of 2022-04-21: {own}/tables/by_users_city/v2" in printed
    after = load(own)
    assert {name: table.version for name, table in after.side_tables.items() if table.info.rates} == dict.fromkeys(
        TABLES, "v2"
    )
    rows = requested_day(LAST_DAY + 2)
    pq.write_table(day_of(LAST_DAY + 2).drop_columns([*LABELS]), tmp_path / "day.parquet")
    request = after.read_score({"form": "raw", "rows": rows})
    assert request.rates_as_of == "2022-04-21"
    earlier = before.read_score({"form": "raw", "rows": rows})
    assert not np.array_equal(request.dense["video_like"], earlier.dense["video_like"])
    # A new export of the older dataset keeps the newer rates.
    export_run(rates_feed / "run", own)
    assert load(own).side_tables["by_video_id"].info.as_of == "2022-04-21"
    assert json.loads((own / "versions/v2/model.json").read_text())["card"]["rates"][0]["as_of"] == "2022-04-21"
    (folder,) = ple_rec.publish_tables(own, ["by_video_id"], dataset=rates_child)
    assert folder == own / "tables/by_video_id/v3"
    assert "replace newer ones" not in capsys.readouterr().err
    assert main(["tables", str(own), "--tables", "by_video_id", "--dataset", str(rates_feed / "data")]) == 0
    assert "by_video_id: rates as of 2022-04-20 replace newer ones, as of 2022-04-21. Fix: " in capsys.readouterr().err


def test_a_dataset_that_does_not_fit_is_refused(
    own: Path, rates_feed: Path, rates_child: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", str(own), "--tables", "by_video_id"]) == 2
    assert "--dataset: missing; rates (by_video_id) are read from a dataset. Fix: give" in capsys.readouterr().err
    assert main(["tables", str(own), "--tables", "by_video_id", "--from", str(rates_feed / "raw")]) == 2
    assert "--dataset: missing" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(rates_feed / "raw", other / "raw")
    text = (rates_feed / "feed.toml").read_text()
    (other / "feed.toml").write_text(text.replace('name = "feed"', 'name = "other"', 1))
    with pytest.raises(UserError) as error:
        ple_rec.publish_tables(own, dataset=prepare_other(other))
    assert f"{other / 'data'} has the fingerprint " in error.value.value
    assert "are those of the model's dataset, feed " in error.value.rule
    # Datasets of one lineage have the same rates, unless somebody has changed the model's files.
    raw = own / "versions/v1/raw.json"
    raw.write_text(raw.read_text().replace('"2d"', '"3d"'))
    with pytest.raises(UserError) as error:
        ple_rec.publish_tables(own, ["by_video_id"], dataset=rates_child)
    assert "has the rates video_like (is_like, 2d, delay 0d, prior 3), " in error.value.value
    assert "the model's features read video_like (is_like, 3d, delay 0d, prior 3), " in error.value.rule


def prepare_other(root: Path) -> Path:
    """Prepare the logs below a folder as a dataset of their own."""
    prepare(str(root / "feed.toml"), root / "data", Options(source=str(root / "raw"), threads=1))
    return root / "data"


def test_a_key_may_be_a_column_that_no_feature_reads(rates_model: Path) -> None:
    form = build_raw_form(latest_version(rates_model), ["video_like", "city_click"], ["city_click"])
    assert form is not None
    assert {column.name: (column.of, column.features) for column in form.columns} == {
        "by_video_id.video_like": ("item", ("video_like",)),
        "by_users_city.city_click": ("user", ("city_click",)),
        "video_id": ("item", ()),
        "users.city": ("user", ()),
        "user_id": ("user", ()),
    }
    tables = {side.name: load_table(rates_model / "tables" / side.name / "v1", side.name) for side in form.sides}
    lookup = SideLookup(form, tables, QueryEngine())
    columns = {column.name: column for column in form.columns}
    users = [USER, USER + 1, 1, None]
    cells = {
        name: Cells(users if name == "user_id" else [None], str, range(4 * (name == "user_id"))) for name in columns
    }
    rows = RowSet(columns, cells, 4, ["user"], lookup)
    cities = tables["by_users_city"].find([pa.array([city_of(USER), city_of(USER + 1)])])
    known = tables["by_users_city"].take("city_click", cities).to_pylist()
    assert None not in known
    # The city of an unknown user is missing, and so are its rates.
    assert rows.array("by_users_city.city_click").to_pylist() == [*known, None, None]
    assert rows.unknown() == {"users": 0.25}
    # A city in the request comes first.
    cells["users.city"] = Cells(["city 0", None, "nowhere", "city 0"], str, range(4))
    rates = RowSet(columns, cells, 4, ["user"], lookup).array("by_users_city.city_click").to_pylist()
    assert (rates[1], rates[2]) == (None, tables["by_users_city"].info.defaults["city_click"])
    assert rates[0] == rates[3] != rates[2]


def test_rates_of_a_dataset_in_a_store(own: Path, rates_child: Path, address: str) -> None:
    put_folder(rates_child, address.removeprefix("s3://"))
    (folder,) = ple_rec.publish_tables(own, ["by_video_id"], dataset=address)
    assert folder == own / "tables/by_video_id/v2"
    assert load(own).side_tables["by_video_id"].info.as_of == "2022-04-21"
