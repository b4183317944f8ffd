"""Vectors of a log and of a side table, as a preparation writes them, and the lists that it refuses."""

from __future__ import annotations

import json
import math
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.output.split_writer import column_count, query_column_count
from data_prep.output.summary import Summary
from data_prep.pipeline import fingerprint
from data_prep.run import Options, prepare
from data_prep.sources.table import RawTables
from data_prep.stats.vectors import ExactSums
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PrepConfig
from ple_rec.config.problems import ConfigError
from ple_rec.data.verify import dataset_problems
from ple_rec.errors import DataError, PleRecError
from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import DAY_ROWS, TOML, Logs, with_column
from tests.data_prep.vector_logs import (
    LOG_WIDTH,
    VECTORS,
    VIDEOS,
    WIDTH,
    content,
    taste,
    vector_day,
    vector_logs,
    write_videos,
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    logs = vector_logs(tmp_path_factory.mktemp("vectors"))
    logs.prepare()
    return logs


def frozen(folder: Path, name: str = "content") -> pa.Table:
    return pq.read_table(folder / "vectors" / f"{name}.parquet")


def test_vectors_of_the_log_are_fixed_size_lists_of_float32(logs: Logs) -> None:
    rows = read(logs.out, "train")
    assert rows.schema.field("taste").type == pa.list_(pa.float32(), LOG_WIDTH)
    # Rows of train keep the order of the log.
    assert rows["taste"].to_pylist() == [taste(row) for row in range(2 * DAY_ROWS)]


def test_a_frozen_table_has_every_key_with_a_vector_in_the_order_of_the_side_table(logs: Logs) -> None:
    table = frozen(logs.out)
    expected = [video for video in VIDEOS if video is not None and content(video) is not None]
    assert table["key_id"].to_pylist() == expected == ["v9", "v3", "v0", "v2"]
    assert table["vector"].to_pylist() == [content(video) for video in expected]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), WIDTH)
    feature = load_schema(logs.out).vectors[1]
    assert feature.table is not None
    assert (feature.table.keys, feature.table.rows, feature.table.dated) == (("id",), 4, False)


@pytest.mark.parametrize("split", SPLITS)
def test_parts_have_the_row_of_each_vector_and_0_for_none(split: str, logs: Logs) -> None:
    vocabulary = pq.read_table(logs.out / "vocab" / "video_id.parquet").to_pydict()
    videos = dict(zip(vocabulary["row"], vocabulary["raw"], strict=True))
    row_of = {key: i for i, key in enumerate(frozen(logs.out)["key_id"].to_pylist(), 1)}
    rows = read(logs.out, split)
    assert rows.schema.field("content").type == pa.int32()
    assert rows["content"].to_pylist() == [row_of.get(videos[video], 0) for video in rows["video_id"].to_pylist()]
    assert 0 in rows["content"].to_pylist()


def test_missing_vectors_are_counted_and_statistics_are_exact(logs: Logs) -> None:
    columns = json.loads((logs.out / "stats.json").read_text())["columns"]
    for split in SPLITS:
        rows = read(logs.out, split)
        for name, missing in (("taste", rows["taste"].null_count), ("content", rows["content"].to_pylist().count(0))):
            assert columns[name][split]["missing"] == missing > 0
            assert columns[name][split]["rows"] == len(rows)
    assert "mean" not in columns["taste"]["train"]
    # Statistics of a frozen table are those of its rows.
    by_number = list(zip(*frozen(logs.out)["vector"].to_pylist(), strict=True))
    means = [sum(map(Fraction, values)) / len(values) for values in by_number]
    variances = [
        sum((Fraction(x) - mean) ** 2 for x in values) / len(values)
        for values, mean in zip(by_number, means, strict=True)
    ]
    assert columns["content"]["train"]["mean"] == [float(mean) for mean in means]
    assert columns["content"]["train"]["std"] == [math.sqrt(variance) for variance in variances]
    assert columns["content"]["train"]["std"][1] == 0  # This number is 1 in every vector.


def test_statistics_of_the_log_are_those_of_train(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    logs.prepare("vectors[0].normaliser='standard'")
    train = json.loads((logs.out / "stats.json").read_text())["columns"]["taste"]["train"]
    vectors = np.array([v for row in range(2 * DAY_ROWS) if (v := taste(row)) is not None])
    assert train["mean"] == pytest.approx(vectors.mean(0).tolist(), rel=1e-14)
    assert train["std"] == pytest.approx(vectors.std(0).tolist(), rel=1e-14)


def test_exact_sums_do_not_depend_on_the_order_and_hold_extreme_numbers() -> None:
    generator = np.random.default_rng(0)
    values = (generator.normal(size=(5000, 3)) * 10.0 ** generator.integers(-38, 38, (5000, 3))).astype(np.float32)
    values[:4, 0] = [3.4028235e38, -3.4028235e38, 1e-45, -1e-45]
    values[4:, 0] = 1e-45

    def mean_std(rows: Any) -> tuple[list[float], list[float]]:
        sums = ExactSums(3)
        for part in np.array_split(rows, 7):
            sums.add(part)
        return sums.mean_std()

    exact = [[Fraction(float(x)) for x in column] for column in values.T]
    means = [sum(column) / len(column) for column in exact]
    expected = [float(mean) for mean in means]
    assert mean_std(values) == mean_std(values[::-1]) == mean_std(generator.permutation(values))
    assert mean_std(values)[0] == expected
    squares = [sum((x - mean) ** 2 for x in column) / len(column) for column, mean in zip(exact, means, strict=True)]
    assert mean_std(values)[1] == [math.sqrt(square) for square in squares]


def test_the_page_and_the_summary_name_the_vectors(logs: Logs) -> None:
    page = (logs.out / "stats.html").read_text()
    assert "<h2" in page
    assert 'id="vectors"' in page
    assert "2 vectors" in str(Summary.read(logs.out, reused=True))


def test_digests_cover_the_frozen_table(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    logs.prepare()
    assert list(dataset_problems(logs.out)) == []
    file = logs.out / "vectors" / "content.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert [problem.place for problem in dataset_problems(logs.out)] == [str(file)]


def test_a_dataset_without_vectors_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Versions before vectors hashed a configuration that has no such key."""
    logs = Logs(tmp_path)
    config = load_config(PrepConfig, logs.toml)
    assert "vectors" in config.model_dump()

    class NoVectors(PrepConfig):
        """Configuration of such a version."""

        def model_dump(self, **options: Any) -> dict[str, Any]:
            return {key: value for key, value in super().model_dump(**options).items() if key != "vectors"}

    raw = RawTables(log=_NoFiles(), sides={})  # type: ignore[arg-type]
    before = NoVectors.model_validate(config.model_dump())
    assert fingerprint(config, raw, None) == fingerprint(before, raw, None)
    with_vector = config.model_copy(update={"vectors": load_config(PrepConfig, _write(tmp_path, VECTORS)).vectors})
    assert fingerprint(with_vector, raw, None) != fingerprint(config, raw, None)


class _NoFiles:
    def digest(self) -> str:
        return ""


def _write(folder: Path, toml: str) -> Path:
    (folder / "vectors.toml").write_text(toml)
    return folder / "vectors.toml"


def test_the_last_vector_of_a_repeated_key_is_kept(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path, VECTORS.replace("[[vectors]]", 'keep = "last"\n\n[[vectors]]', 1))
    write_videos(logs, [{"id": "v0", "embedding": [float(i)] * WIDTH} for i in range(3)])
    logs.prepare()
    assert frozen(logs.out).to_pylist() == [{"key_id": "v0", "vector": [2.0] * WIDTH}]


def test_a_dated_frozen_table_has_the_vectors_of_every_day(tmp_path: Path) -> None:
    toml = VECTORS.replace("[[vectors]]", 'day = "day"\n\n[[vectors]]', 1)
    logs = vector_logs(tmp_path, toml)
    days = ("2022-04-15", "2022-04-17", "2022-04-18")
    write_videos(logs, [{"id": "v0", "day": day, "embedding": [float(i)] * WIDTH} for i, day in enumerate(days, 1)])
    logs.prepare()
    table = frozen(logs.out)
    assert table.column_names == ["key_id", "day", "vector"]
    assert table["day"].to_pylist() == [19097, 19099, 19100]
    vocabulary = dict(pq.read_table(logs.out / "vocab" / "video_id.parquet").select(["raw", "row"]).to_pandas().values)
    for split, row in (("train", 1), ("valid", 2), ("test", 3)):
        rows = read(logs.out, split)
        is_v0 = [video == vocabulary["v0"] for video in rows["video_id"].to_pylist()]
        assert rows["content"].to_pylist() == [row if v0 else 0 for v0 in is_v0]


def test_an_appended_day_has_the_table_of_its_own_side_files(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path, VECTORS.replace("[checks]", "[append]\nvalid = 0.3\ntest = 0.3\n\n[checks]"))
    logs.prepare()
    logs.write(5, vector_day(5))
    write_videos(logs, [{"id": "v1", "embedding": [7.0] * WIDTH}])
    options = Options(source=str(logs.raw), threads=1, append="day=5", parent=logs.out)
    prepare(str(logs.toml), tmp_path / "child", options)
    assert frozen(tmp_path / "child").to_pylist() == [{"key_id": "v1", "vector": [7.0] * WIDTH}]
    # The ids of videos are those of the parent.
    vocabulary = {row["raw"]: row["row"] for row in pq.read_table(logs.out / "vocab" / "video_id.parquet").to_pylist()}
    rows = read(tmp_path / "child", "train")
    is_v1 = [int(video == vocabulary["v1"]) for video in rows["video_id"].to_pylist()]
    assert rows["content"].to_pylist() == is_v1
    with pytest.raises(PleRecError, match=r"vectors = .*, now"):
        prepare(str(logs.toml), tmp_path / "other", Options(**{**vars(options), "overrides": ("vectors=[]",)}))


BAD: dict[str, Any] = {
    "shorter": [1.0, 2.0],
    "longer": [1.0, 2.0, 3.0, 4.0],
    "empty": [],
    "NaN": [1.0, math.nan, 3.0],
    "infinite": [1.0, 2.0, -math.inf],
    "beyond float32": [1e39, 2.0, 3.0],
    "null among the numbers": [1.0, None, 3.0],
}


@pytest.mark.parametrize("vector", BAD.values(), ids=BAD)
def test_a_bad_vector_of_the_log_is_a_bad_row(vector: list[float | None], tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    logs.write(2, with_column(vector_day(2), "taste", {7: vector}))
    message = logs.refusal()
    assert message.startswith("log/day 2.parquet, row group 0, row 7: vectors[0].value `taste` is ")
    assert "; a vector is missing, or has 3 numbers that are finite in float32" in message
    summary = logs.prepare("on_bad_row='drop'", "max_bad_fraction=0.1")
    assert read(logs.out, "train").num_rows == 2 * DAY_ROWS - 1
    assert "a vector is missing, or has 3 numbers" in str(summary)


@pytest.mark.parametrize("vector", [v for name, v in BAD.items() if name != "longer"])
def test_a_bad_vector_of_a_side_table_is_refused(vector: list[float | None], tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    rows: list[dict[str, Any]] = [{"id": "v0", "embedding": content("v0")}, {"id": "v1", "embedding": vector}]
    write_videos(logs, rows)
    message = logs.refusal()
    with pytest.raises(DataError, match=re.escape(message)):
        dry_run(str(logs.toml), logs.out, Options(source=str(logs.raw), threads=1))
    assert message.startswith("videos.parquet, row group 0, row 1, column 'embedding': got ")
    assert "; a vector is missing, or has 4 numbers that are finite in float32 (feature 'content')" in message


@pytest.mark.parametrize("value", [7.0, ["a", "b"]])
def test_a_side_column_of_another_type_is_refused_by_the_dry_run_too(value: Any, tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    write_videos(logs, [{"id": "v0", "embedding": value}])
    message = logs.refusal()
    assert "a vector is a list of numbers" in message
    with pytest.raises(DataError, match=re.escape(message)):
        dry_run(str(logs.toml), logs.out, Options(source=str(logs.raw), threads=1))


def test_random_widths_leave_the_rows_that_fit(tmp_path: Path) -> None:
    """Lists of any length and number, of which those of the right width are kept."""
    generator = random.Random(4)
    logs = vector_logs(tmp_path)
    kept: list[list[float] | None] = []
    for day in range(1, 5):
        vectors: list[list[float | None] | None] = []
        for _ in range(DAY_ROWS):
            numbers = [
                generator.choice([0.5, -2.0, 1e30, None, math.nan]) for _ in range(generator.choice([0, 2, 3, 3, 4]))
            ]
            choices: list[list[float | None] | None] = [None, numbers, [1.0, 2.0, 3.0]]
            vectors.append(generator.choice(choices))
        logs.write(day, with_column(vector_day(day), "taste", vectors, pa.list_(pa.float64())))
        good = [v for v in vectors if v is None or (len(v) == LOG_WIDTH and all(x is not None and x == x for x in v))]
        kept += good if day <= 2 else []  # type: ignore[arg-type]
    logs.prepare("on_bad_row='drop'", "max_bad_fraction=0.9")
    expected = pa.array(kept, pa.list_(pa.float32(), LOG_WIDTH))
    assert read(logs.out, "train")["taste"].combine_chunks() == expected
    assert 0 < len(kept) < 2 * DAY_ROWS


REFUSED = {
    "list of texts": (
        {"taste": pa.array([["a"]] * DAY_ROWS)},
        (),
        "a vector is a list of numbers",
    ),
    "no list": ({"taste": pa.array([1.0] * DAY_ROWS)}, (), "a vector is a list of numbers"),
    "no column": (
        {},
        ("vectors[0].value='tast'",),
        "vectors[0].value `tast` needs it in every file. Fix: did you mean 'taste'?",
    ),
}


@pytest.mark.parametrize(("columns", "overrides", "words"), REFUSED.values(), ids=REFUSED)
def test_other_columns_are_refused(
    columns: dict[str, pa.Array], overrides: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    logs = vector_logs(tmp_path)
    for day in range(1, 5):
        table = vector_day(day)
        for name, values in columns.items():
            table = with_column(table, name, values)
        logs.write(day, table)
    with pytest.raises(DataError) as caught:
        logs.prepare(*overrides)
    assert words in str(caught.value)


def test_a_side_column_that_does_not_exist_is_named(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    with pytest.raises(DataError) as caught:
        logs.prepare("vectors[1].value='videos.embeding'")
    assert "'embeding'" in str(caught.value)
    assert "embedding" in caught.value.fix


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("vectors[0].normaliser='units'", 'got "units"; expected "none", "unit" or "standard"; did you mean `unit`?'),
        ("vectors[0].width=0", "vectors[0].width: got 0; must be > 0"),
        ("vectors[0].name='video_id'", "'video_id' names two columns of the dataset"),
        ("vectors[0].name='content'", "'content' names two columns of the dataset"),
        ("vectors[0].name='group'", "the column is the group; use another name"),
        ("vectors[0].name='label_like'", "the column is the label of task 'like'; use another name"),
    ],
)
def test_configurations_are_refused(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        vector_logs(tmp_path).prepare(override)
    assert words.partition(";")[0] in str(caught.value)


def test_vectors_alone_are_enough_for_a_dataset(tmp_path: Path) -> None:
    logs = vector_logs(
        tmp_path, VECTORS.replace('[[sparse]]\nname = "video_id"\n', "").replace('[[dense]]\nname = "price"\n', "")
    )
    logs.prepare()
    assert load_schema(logs.out).features() == ["taste", "content"]


def test_an_expression_over_a_side_table_is_a_vector_of_each_row(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path, VECTORS.replace('"videos.embedding"', '"coalesce(videos.embedding, videos.other)"'))
    write_videos(
        logs,
        [
            {"id": "v0", "embedding": None, "other": [1.0, 2.0, 3.0, 4.0]},
            {"id": "v1", "embedding": [0.5] * 4, "other": None},
        ],
    )
    logs.prepare()
    assert not (logs.out / "vectors").exists()
    rows = read(logs.out, "train")
    assert [v for v in rows["content"].to_pylist() if v is not None][:2] == [[1.0, 2.0, 3.0, 4.0], [0.5] * 4]


def test_a_dry_run_says_what_the_columns_become(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    said = str(dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1)))
    assert "taste                    vector of 3 numbers, unit" in said
    assert "content                  vector of 4 numbers, standard, stored once for each row of videos" in said


def test_without_vectors_nothing_is_added(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML)
    logs.prepare()
    assert not (logs.out / "vectors").exists()
    assert 'id="vectors"' not in (logs.out / "stats.html").read_text()


def test_columns_are_counted_for_memory_and_for_queries(tmp_path: Path) -> None:
    """The numbers of a vector take memory in each row, unless a frozen table has them; a query has one column."""
    one = load_config(PrepConfig, _write(tmp_path, VECTORS))
    none = one.model_copy(update={"vectors": ()})
    wide = one.model_copy(update={"vectors": tuple(v.model_copy(update={"width": 500}) for v in one.vectors)})
    assert column_count(one) - column_count(none) == LOG_WIDTH + 1
    assert column_count(wide) - column_count(none) == 500 + 1
    assert query_column_count(wide) == query_column_count(one) == column_count(none) + 2
