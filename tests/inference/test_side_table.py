"""A request that has keys is answered as one that has the columns of side tables, bit by bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ple_rec
from data_prep.inputs.side_tables import read_side_table
from ple_rec.cli import main
from ple_rec.errors import DataError, UserError
from ple_rec.inference.load_version import load_ranker, load_side_tables
from ple_rec.inference.manifest import MANIFEST, write_manifest
from ple_rec.inference.model_dir import latest_table, latest_version
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.raw_columns import MAX_TABLE_VALUES
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.side_table import PublishedTable, TableSources, load_table, publish_tables
from ple_rec.storage import Location, location
from tests.inference.exported import export_run
from tests.inference.feed import FIRST_USER
from tests.inference.side_feed import TIME, USER, VIDEO_COLUMNS, city_of, columns_of_video, describe_table, rank, score
from tests.object_store import put_folder


def publish(model: Location, source: Path, *names: str) -> list[PublishedTable]:
    return publish_tables(model, names, TableSources(str(source)), read_side_table)


def load(model: Location) -> Ranker:
    version = latest_version(model)
    ranker, misfits = load_side_tables(load_ranker(version, 1), version)
    assert misfits == []
    return ranker


@pytest.fixture(scope="module")
def model(feed: Path, feed_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the feed with both side tables; who changes it copies."""
    folder = tmp_path_factory.mktemp("tables") / "model"
    shutil.copytree(feed_model, folder)
    publish(folder, feed / "raw")
    return folder


@pytest.fixture(scope="module")
def by_id(model: Path) -> Ranker:
    return load(model)


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


def test_keys_are_answered_as_the_columns_are(feed: Path, ranker: Ranker, by_id: Ranker) -> None:
    videos = ["v3", "v1", None, "v7", "v15", "v4"]  # A null key, a video without a length, ones without tags.
    items = [{"video_id": video, "price": i / 4, **TIME} for i, video in enumerate(videos)]
    whole = [item | columns_of_video(feed, video) for item, video in zip(items, videos, strict=True)]
    expected = rank(ranker, {"user_id": USER, "users.city": city_of(USER)}, whole, explain=True)
    answer = rank(by_id, {"user_id": USER}, items, explain=True)
    assert "unknown" not in answer
    assert answer == expected
    assert answer["missing"] == ["history"]
    empty = [item | columns_of_video(feed, None) for item in items]
    assert rank(by_id, {"user_id": USER, "users.city": None}, empty)["items"] != answer["items"]

    rows = [item | {"user_id": USER + i} for i, item in enumerate(items)]
    whole = [row | whole[i] | {"users.city": city_of(USER + i)} for i, row in enumerate(rows)]
    assert score(by_id, rows) == score(ranker, whole)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert score(by_id, columns) == score(ranker, {name: [row[name] for row in whole] for name in whole[0]})


def test_what_a_request_gives_wins(feed: Path, ranker: Ranker, by_id: Ranker) -> None:
    sent: list[dict[str, Any]] = [
        {"video_id": "v3", "videos.length": None},
        {"video_id": "v3", "videos.length": 7.0},
        {"video_id": "v3"},
        {"video_id": "v3", "videos.tags": ["t1"], "videos.tag_weights": [2.0]},
    ]
    whole = [columns_of_video(feed, "v3") | each for each in sent]
    user: dict[str, Any] = {**TIME, "user_id": USER, "users.city": "city 1"}
    assert rank(by_id, user, sent) == rank(ranker, user, whole)
    for shared in (7.0, None):  # A value of `user` holds for the items that have none of their own.
        user |= {"videos.length": shared}
        whole = [columns_of_video(feed, "v3") | {"videos.length": shared} | each for each in sent]
        assert rank(by_id, user, sent) == rank(ranker, user, whole)
    user |= {"users.city": None}
    assert rank(by_id, user, sent)["items"] == rank(ranker, user, whole)["items"]


def test_keys_without_a_row_are_told(by_id: Ranker) -> None:
    items = [{"video_id": video, **TIME} for video in ("v3", "new", None, "newer")]
    answer = rank(by_id, {"user_id": 1}, items)
    assert answer["unknown"] == {"users": 1.0, "videos": 0.5}
    assert answer["missing"] == ["price", "history"]
    complete = items[1] | {"videos.length": 1.0, "videos.tags": None, "videos.tag_weights": None}
    assert rank(by_id, {"user_id": USER}, [*items[:1], complete])["items"]
    assert "unknown" not in rank(by_id, {"user_id": None}, [*items[:1], complete])
    # Without keys, the columns of the tables are missing because the keys are.
    assert rank(by_id, {}, [TIME])["missing"] == ["video_id", "user_id", "price", "history"]
    rows = [item | {"user_id": user} for item, user in zip(items, (USER, 1, 2, None), strict=True)]
    assert score(by_id, rows)["unknown"] == {"users": 0.5, "videos": 0.5}


def test_unknown_keys_get_the_defaults_of_a_table(own: Path, feed: Path, ranker: Ranker) -> None:
    describe_table(own / "tables/videos/v1", defaults={"length": 45.0}, as_of="2022-04-29", utc_offset="+08:00")
    by_id = load(own)
    videos = ["v3", "new", None, "v7"]  # Video v7 has no length.
    items = [{"video_id": video, **TIME} for video in videos]
    sent = [columns_of_video(feed, video) | item for video, item in zip(videos, items, strict=True)]
    sent[1] |= {"videos.length": 45.0}
    answer = rank(by_id, {"user_id": USER}, items)
    assert answer["items"] == rank(ranker, {"user_id": USER, "users.city": city_of(USER)}, sent)["items"]
    assert answer["unknown"] == {"videos": 0.25}
    assert answer["rates_as_of"] == "2022-04-29"
    assert "rates_as_of" not in rank(by_id, {"user_id": USER}, sent)
    (info,) = (table.info for table in by_id.side_tables.values() if table.info.name == "videos")
    midnight = 1_651_161_600  # 2022-04-28 16:00 UTC
    assert [info.age_days(midnight + s) for s in (-1, 0, 86_399, 86_400)] == [-1, 0, 0, 1]


def test_a_long_unknown_text_costs_nothing(by_id: Ranker) -> None:
    assert rank(by_id, {"user_id": USER}, [{"video_id": "v" * (1 << 20), **TIME}])["unknown"] == {"videos": 1.0}


def test_a_table_with_wrong_values_is_named(own: Path, feed: Path, tmp_path: Path) -> None:
    videos = pq.read_table(feed / "raw/videos.parquet")
    index = videos.column_names.index("tag_weights")
    weights = pa.array([[1.0]] * videos.num_rows)
    pq.write_table(videos.set_column(index, "tag_weights", weights), tmp_path / "videos.parquet")
    publish(own, tmp_path, "videos")
    ranker = load(own)
    fits = {"videos.tags": ["t1"], "videos.tag_weights": [1.0]}
    items = [{"video_id": "v1", **TIME}, {"video_id": "v2", **fits, **TIME}, {"video_id": "v0", **TIME}]
    stored = "the side table videos has videos.tag_weights = [1.0] for this key"
    with pytest.raises(RequestError, match=re.escape(stored)) as error:
        rank(ranker, {"user_id": USER}, items)
    assert (error.value.field, error.value.value) == ("items[2].video_id", '"v0"')
    with pytest.raises(RequestError, match=re.escape(stored)) as error:
        rank(ranker, {"user_id": USER, "video_id": "v0"}, [TIME, TIME])
    assert (error.value.field, error.value.value) == ("user.video_id", '"v0"')
    with pytest.raises(RequestError) as error:
        rank(ranker, {"user_id": USER}, [items[1], items[1] | {"videos.tag_weights": []}])
    assert error.value.field == "items[1].videos.tag_weights"
    assert "side table" not in error.value.rule


def test_long_lists_of_a_table_are_cut_and_not_refused(own: Path, feed: Path, tmp_path: Path, ranker: Ranker) -> None:
    videos = pq.read_table(feed / "raw/videos.parquet").to_pylist()
    for video in videos:
        video |= {"tags": ["t0"] * 29_998 + ["t1", "t2"], "tag_weights": [9.0] * 29_998 + [1.0, 2.0]}
    pq.write_table(pa.Table.from_pylist(videos), tmp_path / "videos.parquet")
    publish(own, tmp_path, "videos")
    by_id = load(own)
    keys = [{"video_id": f"v{i}", **TIME} for i in range(MAX_TABLE_VALUES // 30_000)]
    cut = {"videos.tags": ["t1", "t2"], "videos.tag_weights": [1.0, 2.0]}  # `max_length` of the feature is 2.
    whole = [columns_of_video(feed, str(item["video_id"])) | cut | item for item in keys]
    user = {"user_id": USER, "users.city": city_of(USER)}
    assert rank(by_id, user, keys) == rank(ranker, user, whole)
    with pytest.raises(RequestError, match=rf"hold at most {MAX_TABLE_VALUES:,} values for .*; send fewer items"):
        rank(by_id, user, [*keys, keys[0]])


def test_an_export_with_tables_is_loaded_with_them(
    feed: Path, same_program: None, ranker: Ranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_run(feed / "run", tmp_path / "m", "--tables", "users", "--from", str(feed / "raw"))
    assert sorted(path.name for path in (model / "tables").iterdir()) == ["users"]
    assert main(["tables", str(model), "--from", str(feed / "raw")]) == 0
    printed = capsys.readouterr().out
    assert "users: 10 rows, 182 bytes in memory, newest day 2022-04-18: " in printed
    assert f"{model}/tables/videos/v1" in printed
    info = json.loads((model / "tables/users/v2/table.json").read_text())
    assert info == {
        "name": "users",
        "key_columns": ["user_id"],
        "columns": {"user_id": "int64", "city": "string"},
        "rows": 10,
        "latest_day": "2022-04-18",
        "bytes": 182,
    }
    assert (model / "tables/users/latest").read_text() == "v2\n"
    loaded = ple_rec.load_model(model)
    tables = loaded.side_tables.to_pylist()
    assert {each["name"]: each["version"] for each in tables} == {"users": "v2", "videos": "v1"}
    assert ple_rec.load_model(model / "versions/v1").side_tables.to_pylist() == tables
    assert ranker.side_tables == {}
    items = {"video_id": ["v3", "v1"], "time_ms": [TIME["time_ms"]] * 2}
    scores = loaded.rank({"user_id": USER}, items, form="raw")
    sent = items | {name: [columns_of_video(feed, video)[name] for video in ("v3", "v1")] for name in VIDEO_COLUMNS}
    assert scores.equals(loaded.rank({"user_id": USER, "users.city": city_of(USER)}, sent, form="raw"))
    (folder,) = ple_rec.publish_tables(model, ["videos"], source=feed / "raw")
    assert folder == model / "tables/videos/v2"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--tables", "video", "--from", "raw"], "--tables: got 'video'; side tables that the model's features read: "),
        (["--tables", "videos"], "--from: missing; side tables are read from raw files, as prep reads them"),
        (["--tables", "videos", "--from", "nowhere"], "--from: nowhere: no such file or folder"),
    ],
)
def test_wrong_options(
    feed: Path, same_program: None, tmp_path: Path, argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(feed / "raw") if word == "raw" else word for word in argv]
    export_run(feed / "run", tmp_path / "m", *words, code=2)
    assert text in capsys.readouterr().err


def test_names_of_tables_are_checked_before_their_files(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(own), "--tables", "video"]) == 2
    assert "--tables: got 'video'; side tables that the model's features read: " in capsys.readouterr().err
    assert main(["tables", str(own), "--tables", "videos"]) == 2
    assert "--from: missing; side tables are read from raw files" in capsys.readouterr().err


def test_an_unreadable_latest_is_published_again(own: Path, feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest = own / "tables/videos/latest"
    command = f"ple-rec tables {own} --tables videos --from FOLDER"
    latest.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"latest: unreadable \(") as error:
        load(own)
    assert error.value.fix == f"remove it, and publish the table again: {command}"
    latest.unlink()
    latest.mkdir()
    with pytest.raises(DataError, match=r"latest: unreadable \(.*Is a directory") as error:
        load(own)
    assert error.value.fix == f"remove it, and publish the table again: {command}"
    argv = ["tables", str(own), "--tables", "videos", "--from", str(feed / "raw")]
    assert main(argv) == 2
    assert f"{latest}: is a directory; a file is written there. Fix: remove it, and run it" in capsys.readouterr().err
    latest.rmdir()
    assert main(argv) == 0
    load(own)


def test_files_that_do_not_fit_the_model(own: Path, feed: Path, tmp_path: Path) -> None:
    videos = pq.read_table(feed / "raw/videos.parquet")

    def refusal(table: pa.Table) -> str:
        pq.write_table(table, tmp_path / "videos.parquet")
        with pytest.raises(DataError) as error:
            publish(own, tmp_path, "videos")
        return str(error.value)

    text = refusal(videos.set_column(3, "length", videos["length"].cast(pa.string())))
    assert "videos.parquet, column 'length': has the type string; the model's features read double" in text
    text = refusal(videos.set_column(0, "video", pa.array(range(videos.num_rows))))
    assert "`video_id` is string and videos.video is int64; both must be integers or both text" in text
    assert "video = 'v3' occurs 2 times" in refusal(pa.concat_tables([videos, videos.slice(3, 1)]))
    assert "lacks column 'length'" in refusal(videos.drop_columns("length"))
    assert latest_table(own, "videos") == own / "tables/videos/v1"  # Nothing was published.
    pq.write_table(pa.concat_tables([videos, videos.slice(3, 1)]), tmp_path / "videos.parquet")
    prep = own / "versions/v1/prep.toml"
    prep.write_text(prep.read_text().replace("[sides.videos]\n", '[sides.videos]\nkeep = "last"\n'))
    (table,) = publish(own, tmp_path, "videos")
    assert table.info.rows == videos.num_rows


def test_a_model_without_side_tables(own: Path, feed: Path) -> None:
    raw = own / "versions/v1/raw.json"
    form = json.loads(raw.read_text())
    raw.write_text(json.dumps(form | {"sides": []}))
    with pytest.raises(UserError, match="the model's features read no side table"):
        publish(own, feed / "raw", "videos")
    raw.unlink()
    with pytest.raises(UserError, match=r"has no raw\.json; .* Fix: prepare the dataset again, train and export"):
        publish(own, feed / "raw", "videos")


def test_a_damaged_table_is_refused(own: Path) -> None:
    file = own / "tables/videos/v1/table.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.parquet: has the SHA-256 .* Fix: publish the table again with `ple-"):
        load(own)
    shutil.rmtree(file.parent)
    with pytest.raises(DataError, match=r"tables/videos/latest: names 'v1'; it names a folder videos/v<N>"):
        load(own)


@pytest.mark.parametrize(
    ("old", "new"), [('"string"', '"int64"'), ('"length"', '"seconds"'), ('"list<double>"', '"list<float>"'), ("1", "")]
)
def test_files_of_a_table_that_do_not_fit_each_other(own: Path, old: str, new: str) -> None:
    folder = own / "tables/videos/v1"
    info = folder / "table.json"
    info.write_text(info.read_text().replace(old, new, 1))
    (folder / MANIFEST).unlink()
    write_manifest(folder)
    with pytest.raises(DataError, match=r"tables/videos/v1: cannot be loaded \(.* Fix: publish the table again with"):
        load(own)


def test_a_table_that_does_not_fit_the_model_is_not_used(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = own / "versions/v1/raw.json"
    raw.write_text(raw.read_text().replace('"length"', '"seconds"').replace("videos.length", "videos.seconds"))
    (own / "versions/v1" / MANIFEST).unlink()
    write_manifest(own / "versions/v1")
    version = latest_version(own)
    ranker, misfits = load_side_tables(load_ranker(version, 1), version)
    assert list(ranker.side_tables) == ["users"]
    (misfit,) = misfits
    assert "the model reads the column seconds as double, and it has no such column. Fix: ple-rec tables " in misfit
    ple_rec.load_model(own)
    assert misfit in caplog.text


def test_a_model_in_a_store_has_its_tables_there(address: str, feed: Path, feed_model: Path, by_id: Ranker) -> None:
    put_folder(feed_model, address.removeprefix("s3://"))
    model = location(address)
    (table,) = publish(model, feed / "raw", "videos")
    assert str(table.folder) == f"{address}/tables/videos/v1"
    publish(model, feed / "raw", "users")
    items = [{"video_id": video, **TIME} for video in ("v3", "v1")]
    assert rank(load(model), {"user_id": USER}, items) == rank(by_id, {"user_id": USER}, items)
    (table,) = publish(model, feed / "raw", "videos")
    assert latest_table(model, "videos") == table.folder
    assert load_table(table.folder, table.info.name).info == table.info


def test_users_of_a_dated_table_have_their_newest_row(own: Path, tmp_path: Path) -> None:
    lines = [f"{FIRST_USER},2022-05-09,city 2", f"{FIRST_USER},2022-04-01,city 0", ",2022-04-02,city 1"]
    (tmp_path / "users.csv").write_text("\n".join(["user_id,since,city", *lines]) + "\n")
    (table,) = publish(own, tmp_path, "users")
    assert (table.info.rows, table.info.latest_day) == (1, "2022-05-09")  # A row without a key is left out.
    ranker = load(own)
    with_city = rank(ranker, {"user_id": FIRST_USER, "users.city": "city 2"}, [TIME])
    assert rank(ranker, {"user_id": FIRST_USER}, [TIME]) == with_city


def test_the_request_of_the_page(repository: Path, by_id: Ranker) -> None:
    section = (repository / "docs/serve.md").read_text().split("## Keys in place of columns\n")[1].split("\n## ")[0]
    request = json.loads(section.split("```json\n")[2].split("```")[0])
    answer = by_id.answer([by_id.read_rank(request)])[0]
    (line,) = (line for line in section.splitlines() if line.startswith("    {"))
    told = json.loads(line.replace("[...]", "0").replace("...", "0"))
    assert list(answer) == list(told)
    assert (answer["missing"], answer["unknown"]) == (told["missing"], told["unknown"])
