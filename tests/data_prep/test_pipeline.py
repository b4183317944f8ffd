from __future__ import annotations

import errno
import json
import shutil
import tomllib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import Summary, prepare
from data_prep.census import (
    BIN_EDGES,
    NEVER_MARRIED,
    NOMINAL,
    NOMINAL_MIN_COUNT,
    NUMBER_MIN_COUNT,
    NUMBERS,
    RICH,
    TRAIN,
)
from data_prep.pipeline import build_vocabularies, encode_splits, prepare_source
from data_prep.recipe import DenseRole, Recipe, SparseRole
from data_prep.writer import write_part
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import FINGERPRINT_KEY, DatasetSchema, Task
from ple_rec.errors import DataError, UserError
from tests.data_prep.census_slice import (
    Rows,
    Slice,
    bin_of,
    column,
    in_valid,
    make_rows,
    make_source,
    raw_value,
    write_raw,
)


def read_schema(out: Path) -> DatasetSchema:
    return DatasetSchema.model_validate_json(json.dumps(tomllib.loads((out / "schema.toml").read_text())))


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def split_rows(census: Slice) -> dict[str, Rows]:
    halves: dict[bool, Rows] = {True: [], False: []}
    for position, row in enumerate(census.test):
        halves[in_valid(position)].append(row)
    return {"train": census.train, "valid": halves[True], "test": halves[False]}


def test_every_id_maps_back_to_its_raw_value(prepared: tuple[Summary, Slice]) -> None:
    summary, census = prepared
    out = summary.out
    features = {name: (name, NOMINAL_MIN_COUNT) for name in NOMINAL}
    features |= {f"{name}_id": (name, NUMBER_MIN_COUNT) for name in NUMBERS}
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


def test_the_directory(prepared: tuple[Summary, Slice]) -> None:
    summary, census = prepared
    out = summary.out
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
    assert sorted(path.name for path in out.parent.iterdir()) == ["d", "raw"]


def test_nothing_from_the_test_set_reaches_vocabularies_or_training_rows(
    prepared: tuple[Summary, Slice], tmp_path: Path
) -> None:
    summary, census = prepared
    test = make_rows(90, 7)
    raw = write_raw(tmp_path / "raw", census.train, test)
    other = prepare_source(make_source(census.train, test), tmp_path / "d", source=raw)
    one, two = files_of(summary.out), files_of(other.out)
    vocabularies = [name for name in one if name.startswith("vocab/")]
    assert len(vocabularies) == len(summary.schema.tables) == 45
    assert all(one[name] == two[name] for name in vocabularies)
    assert pq.read_table(summary.out / "train").equals(pq.read_table(other.out / "train"))
    assert summary.schema.fingerprint != other.schema.fingerprint


def test_threads_do_not_change_a_byte(prepared: tuple[Summary, Slice], tmp_path: Path) -> None:
    summary, census = prepared
    single = prepare_source(census.source, tmp_path / "d", source=census.raw, threads=1)
    assert files_of(single.out) == files_of(summary.out)


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
        splits: dict[Split, pa.Table] = {"train": raw, "valid": raw.slice(0, 10), "test": raw.slice(0, 0)}
        parts = encode_splits(connection, recipe, splits, vocabularies)
        assert [parts[split].num_rows for split in SPLITS] == [rows, 10, 0]
        write_part(tmp_path / f"{threads}", parts["train"], "f", 65_536)
        write_part(tmp_path / f"{threads}-user", vocabularies["user"], "f", 65_536)
    for threads in (2, 4):
        assert (tmp_path / f"{threads}").read_bytes() == (tmp_path / "1").read_bytes()
        assert (tmp_path / f"{threads}-user").read_bytes() == (tmp_path / "1-user").read_bytes()
    order = np.argsort(raw["position"].to_numpy())
    assert pq.read_table(tmp_path / "1")["like"].to_pylist() == raw["like"].to_numpy()[order].tolist()


def test_a_second_run_reads_no_raw_file(prepared: tuple[Summary, Slice], tmp_path: Path) -> None:
    first, census = prepared
    second = prepare_source(census.source, first.out, source=tmp_path / "gone")
    assert (first.reused, second.reused) == (False, True)
    assert (second.schema, second.stats) == (first.schema, first.stats)
    head = f"{first.out}: already prepared, fingerprint {first.schema.fingerprint[:12]}"
    assert str(second).splitlines()[0] == head


def test_another_recipe_needs_overwrite(prepared: tuple[Summary, Slice], tmp_path: Path) -> None:
    summary, census = prepared
    out = tmp_path / "d"
    shutil.copytree(summary.out, out)
    other = replace(census.source, row_group_rows=32)
    with pytest.raises(UserError) as caught:
        prepare_source(other, out, source=census.raw)
    was, now = (source.recipe().digest()[:12] for source in (census.source, other))
    assert str(caught.value) == (
        f"{out}: was prepared by another recipe ({was}, now {now}); a dataset directory is replaced on request only. "
        "Fix: pass --overwrite, or name another --out"
    )
    assert files_of(out) == files_of(summary.out)
    again = prepare_source(other, out, source=census.raw, overwrite=True)
    assert not again.reused
    assert [summary.schema.splits["train"].row_groups, again.schema.splits["train"].row_groups] == [7, 13]
    assert again.schema.fingerprint != summary.schema.fingerprint


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


def test_the_summary_fits_a_screen(prepared: tuple[Summary, Slice]) -> None:
    summary, _ = prepared
    lines = str(summary).splitlines()
    assert len(lines) <= 24
    train = next(line for line in lines if line.startswith("  train"))
    income = summary.stats["tasks"]["income"]["train"]["mean"]
    assert train.split()[:4] == ["train", "400", "7", f"{income:.4f}"]
    assert sum("out of vocabulary or missing in" in line for line in lines) == 3
    assert any(line.startswith("  45 sparse features, 7 dense") for line in lines)
