"""Side tables with bags, lists and texts that are cut, dated and not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.run import EngineName, Options, prepare
from data_prep.transforms import side_bags
from ple_rec.errors import DataError
from tests.data_prep.feed_logs import digests

SPARK = pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])
DAYS, USERS = ("2024-05-01", "2024-05-02", "2024-05-03"), 6
FILES = """\
[log]
files = ["log.parquet"]

[sides.video]
files = ["videos.parquet"]
on = { video = "video" }
day = "day"

[sides.user]
files = ["users.parquet"]
on = { user = "user" }

[time]
value = "day"
unit = "date"

[split]
by = "day"
train = [1, 1]
valid = [2, 2]
test = [3, 3]"""
TOML = f"""\
name = "sides"

{FILES}

[[sparse]]
name = "tags"
value = "video.tags"
bag = true
weights = "video.weights"
max_length = 2

[[sparse]]
name = "likes"
value = "split(user.likes, '|')"
bag = true

[[sparse]]
name = "level"
value = "video.level"

[[tasks]]
name = "click"
kind = "binary"
label = "click"

[carry]
known = "coalesce(length(video.tags), 0)"
"""


def tags(video: int, day: int) -> list[int]:
    """Of a video since a day; video 3 has no row, and no video one before the second day but 0 and 1."""
    return [10 * video + day, 7, 100 + video][: video + 1]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of raw files and configuration, not to be changed."""
    folder = tmp_path_factory.mktemp("sides")
    pairs = [(day, user) for day in range(3) for user in range(USERS)]
    log = {
        "day": [DAYS[day] for day, _ in pairs],
        "user": [user for _, user in pairs],
        "video": [user % 4 for _, user in pairs],
        "click": [user % 2 for _, user in pairs],
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    videos = [(video, day) for video in range(3) for day in ((0, 2) if video < 2 else (1,))]
    columns = {
        "video": [video for video, _ in videos],
        "day": [DAYS[day] for _, day in videos],
        "tags": [tags(*each) for each in videos],
        "weights": [[float(tag) for tag in tags(*each)] for each in videos],
        "level": [video + 5 for video, _ in videos],
    }
    pq.write_table(pa.table(columns), folder / "videos.parquet")
    users = {"user": list(range(USERS - 1)), "likes": ["a|b", "b", None, "", "c|a"]}
    pq.write_table(pa.table(users), folder / "users.parquet")
    (folder / "sides.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module", params=["duckdb", SPARK])
def once(raw: Path, request: pytest.FixtureRequest) -> tuple[Path, EngineName]:
    """A dataset directory, and the engine that made it."""
    out = raw / request.param
    prepare(str(raw / "sides.toml"), out, Options(source=str(raw), engine=request.param, threads=2))
    return out, request.param


def test_a_row_meets_the_bags_of_its_side_rows(once: tuple[Path, EngineName]) -> None:
    out = once[0]

    def value_of(table: str) -> dict[int, Any]:
        vocabulary = pq.read_table(out / "vocab" / f"{table}.parquet").to_pydict()
        return {0: None} | dict(zip(vocabulary["row"], vocabulary["raw"], strict=True))

    tag_of, like_of = value_of("tags"), value_of("likes")
    known = {0, 1, 7, 10}  # tags of the training day, the last two of each video
    for day, split in enumerate(("train", "valid", "test")):
        rows = pq.read_table(out / split).to_pydict()
        for user in range(USERS):
            video = user % 4
            since = {True: 0 if day < 2 else 2, False: 1}[video < 2]
            there = video < 2 or (video == 2 and day >= 1)
            met = tags(video, since)
            assert rows["known"][user] == (len(met) if there else 0)
            assert rows["tags_weights"][user] == ([float(tag) for tag in met[-2:]] if there else [])
            ids = [tag_of[i] for i in rows["tags"][user]]
            assert ids == ([tag if tag in known else None for tag in met[-2:]] if there else [])
        likes = [[like_of[i] for i in bag] for bag in rows["likes"]]
        assert likes == [["a", "b"], ["b"], [], [], ["c", "a"], []]


def tables_of(out: Path) -> dict[str, pa.Table]:
    files = [*out.glob("vocab/*.parquet"), *out.glob("*/part-*.parquet")]
    return {str(file.relative_to(out)): pq.read_table(file).replace_schema_metadata() for file in files}


@pytest.mark.parametrize("keep", ["first", "last"])
def test_one_of_several_rows_of_a_key_counts(
    raw: Path, once: tuple[Path, EngineName], tmp_path: Path, keep: str
) -> None:
    """The first or the last one in the order of the files, of a key and of a key and day; the others leave no trace."""
    out, engine = once
    for name in ("log", "videos", "users"):
        (tmp_path / f"{name}.parquet").symlink_to(raw / f"{name}.parquet")
    for table, others in (("videos", {"level": 99, "tags": [5], "weights": [5.0]}), ("users", {"likes": "z"})):
        rows = pq.read_table(raw / f"{table}.parquet")
        changed = [row | others for row in rows.to_pylist()]
        name = {"first": f"{table}_later", "last": f"{table}-before"}[keep]  # by name after or before the others
        pq.write_table(pa.Table.from_pylist([*changed, *changed], rows.schema), tmp_path / f"{name}.parquet")
    files = [f"sides.{side}.files=['{side}s*.parquet']" for side in ("video", "user")]
    overrides = (*files, *(f"sides.{side}.keep={keep}" for side in ("video", "user")))
    options = Options(source=str(tmp_path), engine=engine, threads=2, overrides=overrides)
    prepare(str(raw / "sides.toml"), tmp_path / "kept", options)
    assert tables_of(tmp_path / "kept") == tables_of(out)


DATED = """\
name = "dated"
log = { files = ["log.csv"] }
time = { value = "at", unit = "timestamp", utc_offset = "+08:00" }
split = { by = "day", train = [1, 1], valid = [2, 2], test = [3, 3] }
sides = { video = { files = ["videos.*"], on = { video = "video" }, day = "day" } }
sparse = [{ name = "plays", value = "video.plays" }]
tasks = [{ name = "click", kind = "binary" }]
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_day_with_a_time_zone_is_refused_for_it_would_leak_the_next_one(kind: str, tmp_path: Path) -> None:
    """A row dated d has what was known when d began; its midnight in Shanghai lies in d - 1 of UTC."""
    zone = ZoneInfo("Asia/Shanghai")
    midnights = [datetime.fromisoformat(day).replace(tzinfo=zone) for day in DAYS]
    log = [f"{midnight.replace(hour=9).isoformat(' ')},1,{i % 2}" for midnight in midnights for i in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(["at,video,click", *log]))
    if kind == "csv":
        rows = [f"1,{midnight.isoformat(' ')},{n}" for n, midnight in enumerate(midnights)]
        (tmp_path / "videos.csv").write_text("\n".join(["video,day,plays", *rows]))
    else:
        days = pa.array(midnights, pa.timestamp("us", "Asia/Shanghai"))
        pq.write_table(pa.table({"video": [1, 1, 1], "day": days, "plays": [0, 1, 2]}), tmp_path / "videos.parquet")
    (tmp_path / "dated.toml").write_text(DATED)

    def prepared(*overrides: str) -> None:
        prepare(str(tmp_path / "dated.toml"), tmp_path / "out", Options(source=str(tmp_path), overrides=overrides))

    fix = {"csv": 'set sides.video.csv.types.day = "string"', "parquet": r"write date\(day\)"}
    rule = "it is a point in time, whose date depends on the time zone"
    with pytest.raises(DataError, match=f"{rule} .* Fix: {fix[kind]}"):
        prepared()
    if kind == "csv":
        prepared('sides.video.csv.types={day="string"}')
        assert pq.read_table(tmp_path / "out/vocab/plays.parquet")["raw"].to_pylist() == [0]


# Each bag twice: read of the side table alone, and beside a column of the log, so that it is taken once a log row.
TWICE = f"""\
name = "twice"
on_bad_row = "drop"
max_bad_fraction = 0.5

{FILES}

[sampling]
keep = "click = 1"
rate = 0.5
hash = ["user", "row"]

[tables.tags]
min_count = 3

[tables.tags_mixed]
min_count = 3

[[sparse]]
name = "tags"
value = "video.tags"
bag = true
weights = "video.weights"
max_length = 2

[[sparse]]
name = "tags_mixed"
value = "case when row >= 0 then video.tags end"
bag = true
weights = "case when row >= 0 then video.weights end"
max_length = 2

[[sparse]]
name = "likes"
value = "split(coalesce(user.likes, 'none|else'), '|')"
bag = true

[[sparse]]
name = "likes_mixed"
value = "split(case when row >= 0 then coalesce(user.likes, 'none|else') end, '|')"
bag = true

[[sparse]]
name = "last"
table = "shared"
value = "log_tags"
bag = true

[[sparse]]
name = "first"
table = "shared"
value = "video.tags"
bag = true
max_length = 1
keep = "first"

[[tasks]]
name = "click"
kind = "binary"
label = "click"

[carry]
row = "row"
"""
ROWS = 240
LIKES = {0: ["a", "b"], 1: ["b"], 3: [], 4: ["c", "a"]}


def log_row(row: int) -> dict[str, Any]:
    """A row of a log of `ROWS`: users 5 and 6 and the videos 4 and 5 have no side row; one row in 6 is clicked."""
    return {
        "day": DAYS[row % 3],
        "row": row,
        "user": row % 7,
        "video": row // 3 % 6,
        "click": int(row % 6 == 0),
        "log_tags": [row % 4, 7],
    }


def video_of(row: int) -> dict[str, Any] | None:
    """The side row that a row of the log meets: video 0 is a bad one until the last day, 2 has an empty bag."""
    video, day = row // 3 % 6, row % 3
    if video > 3 or (video == 3 and day < 1):
        return None
    since = 1 if video == 3 else day - day % 2
    tags = [] if video == 2 else [10 * video, 7, 7, 100 + video + since // 2]
    weights = [float(tag) for tag in tags[video == 0 and since < 2 :]]
    return {"video": video, "day": DAYS[since], "tags": tags, "weights": weights}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of raw files and configuration."""
    root = tmp_path_factory.mktemp("twice")
    pq.write_table(pa.Table.from_pylist([log_row(row) for row in range(ROWS)]), root / "log.parquet")
    videos = {(each["video"], each["day"]): each for row in range(ROWS) if (each := video_of(row)) is not None}
    unmet = {"video": 9, "day": DAYS[0], "tags": [1, 2], "weights": [1.0, 2.0]}
    kinds = pa.schema(
        {"video": "int64", "day": "string", "tags": pa.list_(pa.uint64()), "weights": pa.list_(pa.float64())}
    )
    pq.write_table(pa.Table.from_pylist([*videos.values(), unmet], kinds), root / "videos.parquet")
    users = {"user": list(range(5)), "likes": ["a|b", "b", None, "", "c|a"]}
    scores: list[list[float]] = [[0.5, 0.25], [1.0], [2.0, 4.0], [], [0.5, 8.0]]
    pq.write_table(pa.table(users | {"scores": scores}), root / "users.parquet")
    (root / "twice.toml").write_text(TWICE)
    return root


def prepare_twice(root: Path, out: Path, engine: EngineName = "duckdb") -> Path:
    prepare(str(root / "twice.toml"), out, Options(source=str(root), engine=engine, threads=2))
    return out


@pytest.fixture(scope="module")
def prepared(twice: Path) -> Path:
    """By DuckDB."""
    return prepare_twice(twice, twice / "out")


def vocabulary(out: Path, table: str) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(out / "vocab" / f"{table}.parquet").to_pydict()
    return columns


@pytest.mark.parametrize("engine", ["duckdb", SPARK])
def test_a_bag_is_the_same_whether_it_is_taken_once_a_side_row_or_once_a_log_row(
    twice: Path, prepared: Path, tmp_path: Path, engine: EngineName
) -> None:
    out = prepared if engine == "duckdb" else prepare_twice(twice, tmp_path / "out", engine)
    assert digests(out) == digests(prepared)
    for name in ("tags", "likes"):
        assert vocabulary(out, name) == vocabulary(out, f"{name}_mixed")
    for split in ("train", "valid", "test"):
        rows = pq.read_table(out / split).to_pydict()
        assert rows["likes"] == rows["likes_mixed"]
        assert rows["tags"] == rows["tags_mixed"]
        met = [video_of(row) for row in rows["row"]]
        assert rows["tags_weights"] == [[] if video is None else video["weights"][-2:] for video in met]
        assert None in met  # and an empty bag
        assert [] in [video["tags"] for video in met if video is not None]


def test_values_count_as_often_as_training_rows_meet_them(prepared: Path) -> None:
    kept = pq.read_table(prepared / "train").to_pydict()["row"]
    days = [row for row in range(ROWS) if row % 3 == 0]
    bad = {row for row in days if (video := video_of(row)) and len(video["tags"]) > len(video["weights"])}
    assert bad
    assert bad & set(kept) == set()
    assert 0 < len(kept) < len(set(days) - bad)  # sampled out
    bags = [[] if (video := video_of(row)) is None else video["tags"] for row in kept]
    expected = {
        "tags": Counter(tag for bag in bags for tag in bag[-2:]),
        "shared": Counter(tag for row, bag in zip(kept, bags, strict=True) for tag in (*bag[:1], row % 4, 7)),
        "likes": Counter(like for row in kept for like in LIKES.get(row % 7, ["none", "else"])),
    }
    for table, counts in expected.items():
        found = vocabulary(prepared, table)
        ordered = sorted((-count, raw) for raw, count in counts.items() if count >= (3 if table == "tags" else 1))
        assert list(zip(found["raw"], found["count"], strict=True)) == [(raw, -count) for count, raw in ordered]


def test_side_rows_in_pieces_give_the_same_bytes(
    twice: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, ir.Table] = {}
    keep = DuckEngine.materialize

    def watched(engine: DuckEngine, name: str, rows: ir.Table) -> ir.Table:
        kept[name] = keep(engine, name, rows)
        return kept[name]

    monkeypatch.setattr(DuckEngine, "materialize", watched)
    rows_of_a_piece = 3
    encode: Callable[..., Any] = side_bags.encoded_bags
    monkeypatch.setattr(side_bags, "encoded_bags", lambda *arguments: encode(*arguments[:-1], rows_of_a_piece))
    assert digests(prepare_twice(twice, tmp_path / "pieces")) == digests(prepared)
    pieces = [name for name in kept if name.startswith("bags_video_")]
    assert pieces == ["bags_video_0", "bags_video_3", "bags_video_6"]
    assert {name for piece in pieces for name in kept[piece].columns} == {
        *("__position", "tags", "tags_weights", "first"),  # and no mixed one
    }


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((), "0: sparse[0].weights `video.weights` is [7.0, 7.0, 100.0]; as many weights as 'tags' has items ("),
        # where no side row is, either, the items being those of coalesce
        (
            ("sparse[2].weights=user.scores",),
            "5: sparse[2].weights `user.scores` is missing; as many weights as 'likes' ",
        ),
    ],
)
def test_a_broken_rule_of_a_side_row_is_told_of_the_log_row_that_meets_it(
    twice: Path, tmp_path: Path, weights: tuple[str, ...], message: str
) -> None:
    options = Options(source=str(twice), overrides=("on_bad_row=refuse", *weights))
    with pytest.raises(DataError, match=re.escape(f"log.parquet, row group 0, row {message}")):
        prepare(str(twice / "twice.toml"), tmp_path / "out", options)
