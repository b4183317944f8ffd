"""The pipeline on a slice of Census-Income: every id, label and statistic against plain Python; and its directory."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import Options, Summary, prepare, recipe_names
from data_prep.datasets.census import NUMBER_COLUMNS, RICH, TRAIN
from data_prep.pipeline import fingerprint
from data_prep.run import prepare_config
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.config.schema import FINGERPRINT_KEY, DatasetSchema
from ple_rec.errors import DataError, UserError
from tests.data_prep.datasets.census_slice import (
    BIN_EDGES,
    NEVER_MARRIED,
    NOMINAL,
    Rows,
    Slice,
    bin_of,
    census_config,
    column,
    few_features,
    in_valid,
    make_rows,
    make_source,
    prepare_slice,
    raw_value,
    write_raw,
)
from tests.data_prep.feed_logs import folder_of

NOMINAL_MIN_COUNT, NUMBER_MIN_COUNT = 5, 10


def read_schema(out: Path) -> DatasetSchema:
    return DatasetSchema.model_validate_json(json.dumps(tomllib.loads((out / "schema.toml").read_text())))


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def digests_of(name: str, content: bytes) -> dict[str, object]:
    """What `_SUCCESS` says of a file: size, SHA-256, and that of a Parquet file's footer, whose length ends it."""
    found: dict[str, object] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if name.endswith(".parquet"):
        footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
        found["footer"] = hashlib.sha256(footer).hexdigest()
    return found


def split_rows(census: Slice) -> dict[str, Rows]:
    halves: dict[bool, Rows] = {True: [], False: []}
    for position, row in enumerate(census.test):
        halves[in_valid(position)].append(row)
    return {"train": census.train, "valid": halves[True], "test": halves[False]}


def test_every_id_maps_back_to_its_raw_value(prepared: tuple[Summary, Slice]) -> None:
    summary, census = prepared
    out = summary.out
    features = {name: (name, NOMINAL_MIN_COUNT) for name in NOMINAL}
    features |= {f"{name}_id": (name, NUMBER_MIN_COUNT) for name in NUMBER_COLUMNS}
    features |= {f"{name}_bin": (name, NUMBER_MIN_COUNT) for name in BIN_EDGES}
    unseen = 0
    for feature, (name, min_count) in features.items():
        value = partial(bin_of, name) if feature.endswith("_bin") else partial(raw_value, name)
        counts = Counter(value(cell) for cell in column(census.train, name))
        kept = sorted((raw for raw in counts if counts[raw] >= min_count), key=lambda raw: (-counts[raw], raw))
        vocabulary = pq.read_table(out / "vocab" / f"{feature}.parquet").to_pydict()
        assert vocabulary == {
            "raw": kept,
            "row": list(range(1, len(kept) + 1)),
            "count": [counts[raw] for raw in kept],
        }
        assert summary.schema.table_rows()[feature] == len(kept) + 1
        for split, rows in split_rows(census).items():
            ids = pq.read_table(out / split, columns=[feature])[feature]
            assert ids.type == pa.int32()
            raw = [value(cell) for cell in column(rows, name)]
            assert [kept[i - 1] if i else None for i in ids.to_pylist()] == [v if v in kept else None for v in raw]
            stats = summary.stats["columns"][feature][split]
            assert stats["oov"] == sum(v not in kept for v in raw)
            assert stats["oov_rate"] == stats["oov"] / len(rows)
            unseen += sum(v not in counts for v in raw)
    assert unseen > 0  # some value is in the official test set alone: row 0


def test_numbers_labels_and_statistics(prepared: tuple[Summary, Slice]) -> None:
    summary, census = prepared
    out = summary.out
    for split, rows in split_rows(census).items():
        table = pq.read_table(out / split)
        for name in NUMBER_COLUMNS:
            assert table[name].type == pa.float32()
            assert table[name].to_pylist() == [float(cell) for cell in column(rows, name)]
        for task, name, positive in (("income", "income", RICH), ("never_married", "marital_status", NEVER_MARRIED)):
            labels = [float(cell == positive) for cell in column(rows, name)]
            assert table[f"label_{task}"].type == pa.float32()
            assert table[f"label_{task}"].to_pylist() == labels
            stats = summary.stats["tasks"][task][split]
            assert (stats["samples"], stats["positives"]) == (len(rows), sum(labels))
        assert table.column_names == list(summary.schema.columns())
    ages = np.array([float(cell) for cell in column(census.train, "age")])
    stats = summary.stats["columns"]["age"]["train"]
    assert len(stats["quantiles"]) == 1001
    assert (stats["mean"], stats["std"]) == (pytest.approx(ages.mean()), pytest.approx(ages.std()))
    np.testing.assert_allclose(stats["quantiles"], np.quantile(ages, np.linspace(0, 1, 1001)))


def test_the_directory(prepared: tuple[Summary, Slice]) -> None:
    summary, census = prepared
    out = folder_of(summary)
    schema = read_schema(out)
    assert schema == summary.schema
    assert {path.name for path in out.iterdir()} == {
        *("schema.toml", "prep.toml", "stats.json", "stats.html", "_SUCCESS", "vocab", "train", "valid", "test")
    }
    for split, info in schema.splits.items():
        file = pq.ParquetFile(out / split / "part-00000.parquet")
        assert file.schema_arrow.metadata[FINGERPRINT_KEY].decode() == schema.fingerprint
        assert (file.metadata.num_rows, file.metadata.num_row_groups) == (info.rows, info.row_groups)
    assert schema.fingerprint == fingerprint(census_config(), census.source.known_tables(), None)
    mark = json.loads((out / "_SUCCESS").read_text())
    assert (mark["recipe"], mark["fingerprint"]) == (schema.fingerprint, schema.fingerprint)
    contents = {name: content for name, content in files_of(out).items() if name != "_SUCCESS"}
    assert mark["files"] == {name: digests_of(name, content) for name, content in contents.items()}
    saved = load_config(PrepConfig, out / "prep.toml")
    assert saved.found.columns["log"]["age"] == "int64"
    assert saved.model_copy(update={"found": census_config().found}) == census_config()
    assert sorted(path.name for path in out.parent.iterdir()) == ["d", "raw"]


@pytest.fixture(scope="module")
def few(prepared: tuple[Summary, Slice], tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Slice]:
    """The same slice with `few_features`, by two threads; not to be changed."""
    census = prepared[1]
    out = tmp_path_factory.mktemp("few") / "d"
    return prepare_slice(census.source, out, census.raw, threads=2, config=few_features()), census


def test_fewer_features_are_the_same_features(prepared: tuple[Summary, Slice], few: tuple[Summary, Slice]) -> None:
    whole, part = prepared[0], few[0]
    for split in ("train", "valid", "test"):
        table = pq.read_table(part.out / split).replace_schema_metadata()
        assert table.num_columns == 4 + 2 + 2
        assert table.equals(pq.read_table(whole.out / split, columns=table.column_names).replace_schema_metadata())
    for feature in part.schema.sparse:
        name = f"{feature.name}.parquet"
        assert (part.out / "vocab" / name).read_bytes() == (whole.out / "vocab" / name).read_bytes()


def test_nothing_from_the_test_set_reaches_vocabularies_or_training_rows(
    few: tuple[Summary, Slice], tmp_path: Path
) -> None:
    summary, census = few
    test = make_rows(90, 7)
    raw = write_raw(tmp_path / "raw", census.train, test)
    other = prepare_slice(make_source(census.train, test), tmp_path / "d", raw, config=few_features())
    one, two = files_of(folder_of(summary)), files_of(folder_of(other))
    vocabularies = [name for name in one if name.startswith("vocab/")]
    assert len(vocabularies) == len(summary.schema.tables) == 4
    assert all(one[name] == two[name] for name in vocabularies)
    assert pq.read_table(summary.out / "train").equals(pq.read_table(other.out / "train"))
    assert summary.schema.fingerprint != other.schema.fingerprint


def test_threads_do_not_change_a_byte_of_many_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = 150_000  # more than the engine gives to one thread
    raw = pa.table(
        {
            "user": rng.zipf(1.3, rows) % 50_000,
            "seconds": rng.exponential(size=rows),
            "like": rng.integers(0, 2, rows),
            "split": rng.choice(["train", "valid", "test"], rows, p=[0.9, 0.05, 0.05]),
        }
    )
    pq.write_table(raw, tmp_path / "log.parquet", row_group_size=20_000)
    fields: dict[str, Any] = {
        "name": "many",
        "log": {"files": ["log.parquet"]},
        "split": {"by": "column", "value": "split"},
        "sparse": [{"name": "user"}],
        "tables": {"user": {"min_count": 2}},
        "dense": [{"name": "seconds", "normaliser": "log"}],
        "tasks": [{"name": "like", "kind": "binary"}],
        "output": {"part_rows": 50_000},
    }
    config = PrepConfig.model_validate_json(json.dumps(fields))
    made = []
    for threads in (1, 4):
        options = Options(source=str(tmp_path), threads=threads)
        made.append(files_of(folder_of(prepare_config(config, "many.toml", tmp_path / f"{threads}", options))))
    assert made[1] == made[0]
    assert sum(name.startswith("train/") for name in made[0]) == 3
    train = raw.filter(pa.array(raw["split"].to_numpy(zero_copy_only=False) == "train"))
    written = pq.read_table(tmp_path / "1" / "train")
    assert written["label_like"].to_pylist() == train["like"].to_pylist()
    np.testing.assert_array_equal(written["seconds"].to_numpy(), train["seconds"].to_numpy().astype(np.float32))


def test_a_second_run_reads_no_raw_file(few: tuple[Summary, Slice], tmp_path: Path) -> None:
    first, census = few
    before = files_of(folder_of(first))
    second = prepare_slice(census.source, folder_of(first), tmp_path / "gone", config=few_features())
    assert (first.reused, second.reused) == (False, True)
    assert (second.schema, second.stats) == (first.schema, first.stats)
    head = f"{first.out}: already prepared, fingerprint {first.schema.fingerprint[:12]}"
    assert str(second).splitlines()[0] == head
    assert files_of(folder_of(first)) == before
    assert [path.name for path in folder_of(first).parent.iterdir()] == ["d"]


def test_another_configuration_needs_overwrite(few: tuple[Summary, Slice], tmp_path: Path) -> None:
    summary, census = few
    out = tmp_path / "d"
    shutil.copytree(folder_of(summary), out)
    other = few_features("output.row_group_rows=16")
    with pytest.raises(UserError) as caught:
        prepare_slice(census.source, out, tmp_path / "gone", config=other)  # said before a file is looked for
    was, now = (fingerprint(config, census.source.known_tables(), None)[:12] for config in (few_features(), other))
    assert str(caught.value) == (
        f"{out}: holds a dataset of another configuration or other raw files ({was}, now {now}); configuration: "
        "output.row_group_rows is 16, was 4096; a dataset directory is replaced on request only. Fix: pass "
        "--overwrite, or name another --out"
    )
    assert files_of(out) == files_of(folder_of(summary))
    again = prepare_slice(census.source, out, census.raw, config=other, overwrite=True)
    assert not again.reused
    assert [summary.schema.splits["train"].row_groups, again.schema.splits["train"].row_groups] == [16, 25]
    assert again.schema.fingerprint != summary.schema.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare("cencus", tmp_path)
    known = ", ".join(recipe_names())
    assert "census" in recipe_names()
    assert str(caught.value) == f"prep: unknown data set 'cencus'; known are {known}. Fix: did you mean 'census'?"


def test_a_full_disk_and_another_try(
    few: tuple[Summary, Slice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, census = few
    out = tmp_path / "there" / "d"
    write_table = pq.ParquetWriter.write_table

    def full_after_the_vocabularies(self: pq.ParquetWriter, table: pa.Table, *args: Any, **options: Any) -> None:
        if "label_income" in table.column_names:
            raise OSError(28, "No space left on device")
        write_table(self, table, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full_after_the_vocabularies)
        with pytest.raises(UserError) as caught:
            prepare_slice(census.source, out, census.raw, config=few_features())
    assert "no space left ([Errno 28] No space left on device: " in str(caught.value)
    assert [path.name for path in out.parent.iterdir()] == [".d.partial"]
    partial_ = out.parent / ".d.partial"
    kept = {path: path.stat().st_mtime_ns for path in (partial_ / "vocab").iterdir()}
    assert len(kept) == 4
    assert not any(partial_.rglob("part-*"))
    again = prepare_slice(census.source, out, census.raw, config=few_features())
    assert files_of(out) == files_of(folder_of(summary))
    assert {path.stat().st_mtime_ns for path in (out / "vocab").iterdir()} == set(kept.values())
    assert not again.reused
    assert [path.name for path in out.parent.iterdir()] == ["d"]


def test_a_wrong_checksum_leaves_nothing(census: Slice, tmp_path: Path) -> None:
    path = census.raw / TRAIN.name
    path.write_bytes(path.read_bytes().replace(b"Widowed", b"Divorced", 1))
    out = tmp_path / "there" / "d"
    with pytest.raises(
        DataError, match=r"raw: census-income\.data: content checksum [0-9a-f]{64}; it must be [0-9a-f]{64}"
    ):
        prepare_slice(census.source, out, census.raw)
    assert list(out.parent.iterdir()) == []


def test_the_summary_fits_a_screen(prepared: tuple[Summary, Slice]) -> None:
    summary, _ = prepared
    lines = str(summary).splitlines()
    assert len(lines) <= 25
    assert next(line for line in lines if line.startswith("  train")).split()[:3] == ["train", "400", "16"]
    income = summary.stats["tasks"]["income"]["train"]["mean"]
    assert f"{income:.4f}" in next(line for line in lines if line.startswith("  income"))
    assert any("45 sparse features, 7 dense" in line for line in lines)
