from __future__ import annotations

import errno
import json
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import prepare
from data_prep.census import NEVER_MARRIED, NOMINAL, NOMINAL_MIN_COUNT, NUMBER_MIN_COUNT, NUMBERS, RICH, TRAIN
from data_prep.pipeline import build_vocabularies, encode_split, prepare_source
from data_prep.recipe import DenseRole, Recipe, SparseRole
from data_prep.writer import write_part
from ple_rec.config.schema import FINGERPRINT_KEY, DatasetSchema, Task
from ple_rec.errors import DataError, UserError
from tests.data_prep.census_slice import Rows, column, in_valid, make_rows, make_source, raw_value, write_raw
from tests.data_prep.conftest import Slice


def read_schema(out: Path) -> DatasetSchema:
    return DatasetSchema.model_validate_json(json.dumps(tomllib.loads((out / "schema.toml").read_text())))


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def split_rows(census: Slice) -> dict[str, Rows]:
    halves = {True: [], False: []}  # type: dict[bool, Rows]
    for position, row in enumerate(census.test):
        halves[in_valid(position)].append(row)
    return {"train": census.train, "valid": halves[True], "test": halves[False]}


def test_every_id_maps_back_to_its_raw_value(census: Slice, tmp_path: Path) -> None:
    out = tmp_path / "d"
    summary = prepare_source(census.source, out, source=census.raw)
    features = {name: (name, NOMINAL_MIN_COUNT) for name in NOMINAL}
    features |= {f"{name}_id": (name, NUMBER_MIN_COUNT) for name in NUMBERS}
    unseen = 0
    for feature, (name, min_count) in features.items():
        counts = Counter(raw_value(name, cell) for cell in column(census.train, name))
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
            raw = [raw_value(name, cell) for cell in column(rows, name)]
            assert [kept[i - 1] if i else None for i in ids.to_pylist()] == [v if v in kept else None for v in raw]
            stats = summary.stats["columns"][feature][split]
            assert stats["oov"] == sum(v not in kept for v in raw)
            assert stats["oov_rate"] == stats["oov"] / len(rows)
            unseen += sum(v not in counts for v in raw)
    assert unseen > 0  # some value is in the official test set alone: row 0


def test_numbers_labels_and_statistics(census: Slice, tmp_path: Path) -> None:
    out = tmp_path / "d"
    summary = prepare_source(census.source, out, source=census.raw)
    for split, rows in split_rows(census).items():
        table = pq.read_table(out / split)
        for name in NUMBERS:
            assert table[name].type == pa.float32()
            assert table[name].to_pylist() == [float(cell) for cell in column(rows, name)]
        for task, name, positive in (("income", "income", RICH), ("never_married", "marital_status", NEVER_MARRIED)):
            labels = [float(cell == positive) for cell in column(rows, name)]
            assert table[task].type == pa.float32()
            assert table[task].to_pylist() == labels
            stats = summary.stats["tasks"][task][split]
            assert (stats["samples"], stats["positives"]) == (len(rows), sum(labels))
        assert sorted(table.column_names) == sorted(summary.schema.columns())
    ages = np.array([float(cell) for cell in column(census.train, "age")])
    stats = summary.stats["columns"]["age"]["train"]
    assert len(stats["quantiles"]) == 1001
    assert (stats["mean"], stats["std"]) == (pytest.approx(ages.mean()), pytest.approx(ages.std()))
    np.testing.assert_allclose(stats["quantiles"], np.quantile(ages, np.linspace(0, 1, 1001)))


def test_the_directory(census: Slice, tmp_path: Path) -> None:
    out = tmp_path / "d"
    summary = prepare_source(census.source, out, source=census.raw)
    schema = read_schema(out)
    assert schema == summary.schema
    assert {path.name for path in out.iterdir()} == {
        *("schema.toml", "stats.json", "_SUCCESS", "vocab", "train", "valid", "test")
    }
    for split, info in schema.splits.items():
        file = pq.ParquetFile(out / split / "part-00000.parquet")
        assert file.schema_arrow.metadata[FINGERPRINT_KEY].decode() == schema.fingerprint
        assert (file.metadata.num_rows, file.metadata.num_row_groups) == (info.rows, info.row_groups)
    assert json.loads((out / "_SUCCESS").read_text()) == {
        "recipe": census.source.recipe().digest(),
        "fingerprint": schema.fingerprint,
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_from_the_test_set_reaches_vocabularies_or_training_rows(census: Slice, tmp_path: Path) -> None:
    prepare_source(census.source, tmp_path / "a", source=census.raw)
    other = make_rows(90, 7)
    raw = write_raw(tmp_path / "raw2", census.train, other)
    prepare_source(make_source(census.train, other), tmp_path / "b", source=raw)
    one, two = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    vocabularies = [name for name in one if name.startswith("vocab/")]
    assert len(vocabularies) == 39
    assert all(one[name] == two[name] for name in vocabularies)
    tables = [pq.read_table(tmp_path / name / "train") for name in "ab"]
    assert tables[0].equals(tables[1])
    assert read_schema(tmp_path / "a").fingerprint != read_schema(tmp_path / "b").fingerprint


def test_the_fingerprint_follows_the_content(census: Slice, tmp_path: Path) -> None:
    base = prepare_source(census.source, tmp_path / "a", source=census.raw).schema.fingerprint
    again = prepare_source(census.source, tmp_path / "b", source=census.raw).schema.fingerprint
    small = prepare_source(replace(census.source, row_group_rows=32), tmp_path / "c", source=census.raw)
    assert base == again
    assert base != small.schema.fingerprint


def test_threads_do_not_change_a_byte(census: Slice, tmp_path: Path) -> None:
    for threads in (1, 2):
        prepare_source(census.source, tmp_path / str(threads), source=census.raw, threads=threads)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_threads_do_not_change_a_byte_of_many_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = 300_000  # more than the engine gives to one thread
    raw = pa.table(
        {
            "position": rng.permutation(rows),
            "user": rng.zipf(1.3, rows) % 50_000,
            "seconds": rng.exponential(size=rows),
            "like": rng.integers(0, 2, rows),
        }
    )
    recipe = Recipe(
        name="many",
        version=1,
        source_sha256="",
        sparse=(SparseRole("user", "user", 2),),
        dense=(DenseRole("seconds", "seconds", "log"),),
        tasks=(Task(name="like", kind="binary", label="like"),),
        row_group_rows=65_536,
    )
    for threads in (1, 2, 4):
        connection = ibis.duckdb.connect(threads=threads)
        vocabularies = build_vocabularies(connection, recipe, raw)
        write_part(tmp_path / f"{threads}", encode_split(connection, recipe, raw, vocabularies), "f", 65_536)
        write_part(tmp_path / f"{threads}-user", vocabularies["user"], "f", 65_536)
    for threads in (2, 4):
        assert (tmp_path / f"{threads}").read_bytes() == (tmp_path / "1").read_bytes()
        assert (tmp_path / f"{threads}-user").read_bytes() == (tmp_path / "1-user").read_bytes()
    order = np.argsort(raw["position"].to_numpy())
    assert pq.read_table(tmp_path / "1")["like"].to_pylist() == raw["like"].to_numpy()[order].tolist()


def test_a_second_run_reads_no_raw_file(census: Slice, tmp_path: Path) -> None:
    first = prepare_source(census.source, tmp_path / "d", source=census.raw)
    second = prepare_source(census.source, tmp_path / "d", source=tmp_path / "gone")
    assert (first.reused, second.reused) == (False, True)
    assert second.schema == first.schema
    assert (
        str(second).splitlines()[0]
        == f"{tmp_path / 'd'}: already prepared, fingerprint {first.schema.fingerprint[:12]}"
    )


def test_another_recipe_needs_overwrite(census: Slice, tmp_path: Path) -> None:
    out = tmp_path / "d"
    prepare_source(census.source, out, source=census.raw)
    other = replace(census.source, row_group_rows=32)
    with pytest.raises(UserError) as caught:
        prepare_source(other, out, source=census.raw)
    was, now = (source.recipe().digest()[:12] for source in (census.source, other))
    assert str(caught.value) == (
        f"{out}: was prepared by another recipe ({was}, now {now}); a dataset directory is replaced on request only. "
        "Fix: pass --overwrite, or name another --out"
    )
    assert read_schema(out).splits["train"].row_groups == 7
    assert not prepare_source(other, out, source=census.raw, overwrite=True).reused
    assert read_schema(out).splits["train"].row_groups == 13


def test_an_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare("cencus", tmp_path)
    assert str(caught.value) == "prep: unknown data set 'cencus'; known are census. Fix: did you mean 'census'?"


def test_a_full_disk_leaves_nothing(census: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table = pq.write_table

    def full_after_the_parts(table: pa.Table, path: Path, **options: object) -> None:
        if path.parent.name == "vocab":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path, **options)

    monkeypatch.setattr(pq, "write_table", full_after_the_parts)
    out = tmp_path / "there" / "d"
    with pytest.raises(UserError, match=r"there/d: could not be written \(No space left on device\)"):
        prepare_source(census.source, out, source=census.raw)
    assert list(out.parent.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(census: Slice, tmp_path: Path) -> None:
    path = census.raw / TRAIN.name
    path.write_bytes(path.read_bytes().replace(b"Widowed", b"Divorced", 1))
    out = tmp_path / "there" / "d"
    with pytest.raises(
        DataError, match=r"raw: census-income\.data: content checksum [0-9a-f]{64}; it must be [0-9a-f]{64}"
    ):
        prepare_source(census.source, out, source=census.raw)
    assert not out.parent.exists()


def test_the_summary_fits_a_screen(census: Slice, tmp_path: Path) -> None:
    summary = prepare_source(census.source, tmp_path / "d", source=census.raw)
    lines = str(summary).splitlines()
    assert len(lines) <= 24
    train = next(line for line in lines if line.startswith("  train"))
    income = summary.stats["tasks"]["income"]["train"]["mean"]
    assert train.split()[:4] == ["train", "400", "7", f"{income:.4f}"]
    assert sum("out of vocabulary or missing in" in line for line in lines) == 3
    assert any(line.startswith("  39 sparse features, 7 dense") for line in lines)
