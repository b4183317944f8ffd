"""docs/data.md and docs/examples: the script runs, its dataset trains, and the reference names what there is."""

from __future__ import annotations

import io
import json
import re
import runpy
import tomllib
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from data_prep import write_tables
from ple_rec.analysis.compare.matrix import build_matrix
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import (
    FINGERPRINT_KEY,
    DatasetSchema,
    DenseFeature,
    HistoryFeature,
    HistoryItem,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
    VectorFeature,
    VectorTable,
)
from ple_rec.training.preflight import check_training
from ple_rec.training.run import train
from tests.data_prep.plain_logs import TOML, Logs
from tests.datasets import synthetic_rows

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "data.md").read_text()


def block(page: str, language: str, heading: str) -> str:
    """The one block of a language below a heading."""
    below = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", below, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def example(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the script has run, and what it printed."""
    here, said = tmp_path_factory.mktemp("own"), io.StringIO()
    with chdir(here), redirect_stdout(said):
        runpy.run_path(str(repository / "docs" / "examples" / "own_data.py"), run_name="__main__")
    return here, said.getvalue()


def config_of(repository: Path, here: Path) -> RunConfig:
    changes = [f"data.path={here / 'data' / 'own'}", "train.epochs=1", "runtime.device=cpu", "runtime.threads=1"]
    return load_config(RunConfig, repository / "docs" / "examples" / "own.toml", changes)


def test_the_example_trains(repository: Path, example: tuple[Path, str], tmp_path: Path) -> None:
    here, said = example
    assert said == ("data/own: {'user': 501, 'video': 301}. Next: ple-rec train --config docs/examples/own.toml\n")
    assert len((repository / "docs" / "examples" / "own_data.py").read_text().splitlines()) <= 50
    metrics = train(config_of(repository, here), tmp_path / "run")
    tasks = metrics["test"]["tasks"]
    assert tasks["click"]["auc"] > 0.6
    assert tasks["click"]["samples"] == 1_000
    assert 100 < tasks["watch"]["samples"] < 500  # the clicked rows


def test_the_comparison_of_the_example_has_equal_costs(
    repository: Path, example: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example[0])
    file = repository / "docs" / "examples" / "own_compare.toml"
    found = build_matrix(load_config(CompareConfig, file), file.parent)
    costs = {name: variant.cost.flops_per_sample for name, variant in found.variants.items()}
    told = re.findall(r"^(\w+) +([0-9,]+) +[0-9,]+ +[0-9.]+ k ", (repository / "docs" / "compare.md").read_text(), re.M)
    assert {name: int(flops.replace(",", "")) for name, flops in told} == costs
    assert found.baseline == "single_task"


def test_the_comparison_that_the_page_shows_can_be_written_so(
    repository: Path, example: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(example[0])
    shown = re.findall(r"^```toml\n(.*?)^```$", (repository / "docs" / "compare.md").read_text(), re.M | re.S)[0]
    (tmp_path / "mine.toml").write_text(shown)
    (tmp_path / "my-ple.toml").write_text((repository / "docs" / "examples" / "own.toml").read_text())
    found = build_matrix(load_config(CompareConfig, tmp_path / "mine.toml"), tmp_path)
    assert list(found.variants) == ["single_task", "ple"]


def test_sixteen_ranks_can_read_the_example(repository: Path, example: tuple[Path, str], tmp_path: Path) -> None:
    config = config_of(repository, example[0])
    check_training(config, tmp_path / "run", resume=False, overwrite=False, world_size=16)


def test_the_page_shows_the_script(repository: Path, page: str) -> None:
    script = (repository / "docs" / "examples" / "own_data.py").read_text()
    for piece in block(page, "python", "Your own data").split("\n\n"):
        assert piece.strip() in script


def test_raw_values_are_looked_up_as_the_page_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = '[[sparse]]\nname = "user_id"\ntable = "user"\n'
    buckets = '[[sparse]]\nname = "a_bin"\nvalue = "duration_ms"\nquantiles = 4\n'  # a table without a vocabulary
    logs = Logs(tmp_path, TOML + buckets + user)
    logs.spoil(1, "user_id", {0: 17})
    logs.prepare()
    (tmp_path / "data").mkdir()
    logs.out.rename(tmp_path / "data" / "feed")
    monkeypatch.chdir(tmp_path)
    found: dict[str, pa.Array] = {}
    exec(block(page, "python", "Raw values to rows"), found)
    rows = found["rows"].to_pylist()
    assert found["rows"].type == pa.int32()
    assert rows[0] > 0
    assert rows[1:] == [0, 0]


def test_the_reference_has_every_key(page: str, tmp_path: Path) -> None:
    text = block(page, "toml", "What the directory holds")
    (tmp_path / "schema.toml").write_text(text)
    (tmp_path / "_SUCCESS").touch()
    load_schema(tmp_path)
    raw = tomllib.loads(text)
    shown: list[tuple[type[BaseModel], list[dict[str, object]]]] = [
        (DatasetSchema, [raw]),
        (Table, raw["tables"]),
        (SparseFeature, raw["sparse"]),
        (DenseFeature, raw["dense"]),
        (VectorFeature, raw["vectors"]),
        (HistoryFeature, raw["histories"]),
        (HistoryItem, [item for history in raw["histories"] for item in history["items"]]),
        (VectorTable, [vector["table"] for vector in raw["vectors"] if "table" in vector]),
        (Task, raw["tasks"]),
        (SplitInfo, list(raw["splits"].values())),
    ]
    for model, tables in shown:
        assert {key for table in tables for key in table} == set(model.model_fields)
        for key, info in model.model_fields.items():
            if key in ("tables", "sparse", "dense", "vectors", "histories", "items", "tasks", "splits"):
                continue
            if model is VectorFeature and key == "table":  # A section of its own.
                continue
            marks = re.findall(rf"^{key} = .*# (required|optional)\b", text, re.MULTILINE)
            assert ("required" if info.is_required() else "optional") in marks, f"{model.__name__}.{key}: {marks}"
    assert f"`{FINGERPRINT_KEY.decode()}`" in page


def test_a_directory_by_hand(repository: Path, page: str, tmp_path: Path) -> None:
    """Nothing but what the reference says: its schema, its statistics, an empty `_SUCCESS`, no vocabularies."""
    data, text = tmp_path / "data" / "own", block(page, "toml", "What the directory holds")
    raw, rng = tomllib.loads(text), np.random.default_rng(0)
    for split, info in raw["splits"].items():
        n = info["rows"]
        lengths = rng.integers(0, 4, n)
        clicked = rng.random(n) < 0.5
        columns = {
            "user": pa.array(rng.integers(0, 501, n), pa.int32()),
            "video": pa.array(rng.integers(0, 301, n), pa.int32()),
            "history": pa.array([[7] * length for length in lengths], pa.list_(pa.int32())),
            "recency": pa.array([[0.5] * length for length in lengths], pa.list_(pa.float32())),
            "age": pa.array(rng.normal(31.5, 9.2, n), pa.float32()),
            "price": pa.array(rng.exponential(20, n), pa.float32()),
            "query": pa.array([[1.0, 2.0, 3.0, 4.0]] * n, pa.list_(pa.float32(), 4), mask=clicked),
            "content": pa.array(rng.integers(0, 301, n), pa.int32()),
            "click": pa.array(clicked).cast(pa.float32()),
            "watch_ratio": pa.array(rng.random(n), pa.float32(), mask=~clicked),
            "clicked": pa.array(clicked),
            "weight": pa.array(rng.random(n), pa.float32()),
            "user_group": pa.array(np.arange(n) // 8),
            "session": pa.array(np.arange(n) // 4),
            "liked_begin": pa.array(np.arange(n) % 1_000),
            "liked_end": pa.array(np.arange(n) % 1_000 + lengths),
            "log_time": pa.array(np.full(n, 1_700_000_000)),
        }
        table = pa.table(columns).replace_schema_metadata({"ple_rec.fingerprint": raw["fingerprint"]})
        (data / split).mkdir(parents=True)
        pq.write_table(table, data / split / "rows.parquet", row_group_size=n // 16)
    (data / "vectors").mkdir()
    vectors = pa.array(rng.normal(size=(300, 8)).tolist(), pa.list_(pa.float32(), 8))
    pq.write_table(
        pa.table({"key_video_id": [f"v{i}" for i in range(300)], "vector": vectors}),
        data / "vectors" / "content.parquet",
    )
    (events,) = (history["events"] for history in raw["histories"])
    (data / "histories" / "liked").mkdir(parents=True)
    np.save(data / "histories" / "liked" / "log_time.npy", 1_700_000_000 - rng.integers(0, 10**6, events))
    np.save(data / "histories" / "liked" / "video.npy", rng.integers(0, 301, events).astype(np.int32))
    (data / "schema.toml").write_text(text)
    (statistics,) = re.findall(r"^    (\{.*\})$", page, re.MULTILINE)
    (data / "stats.json").write_text(statistics)
    (data / "_SUCCESS").touch()
    metrics = train(config_of(repository, tmp_path), tmp_path / "run")
    assert metrics["dataset_fingerprint"] == raw["fingerprint"]
    assert metrics["test"]["tasks"]["click"]["samples"] == 1_000


def test_the_keys_of_the_statistics_are_those_in_the_file(page: str, tmp_path: Path) -> None:
    rows = {"rows": 64, "seed": (1,), "single": True, "shared_table": False, "bag": False, "weighted_bag": False}
    roles = dict.fromkeys(("binary", "regression", "space", "sample_weight", "group"), False) | {"binary": True}
    table = synthetic_rows(**rows, dense=True, **roles)  # type: ignore[arg-type]
    write_tables(
        tmp_path / "d",
        name="d",
        splits={"train": table, "valid": table, "test": table},
        sparse=[SparseFeature(name="user", table="user")],
        dense=[DenseFeature(name="age")],
        tasks=[Task(name="click", kind="binary", label="click")],
    )
    train_age = json.loads((tmp_path / "d" / "stats.json").read_text())["columns"]["age"]["train"]
    for line in re.findall(r"^\| `(?:standard|log|quantile)` \| (.*) \|$", page, re.MULTILINE):
        keys = re.findall(r"`(?:columns\.<name>\.train)?\.(\w+)`", line)
        assert keys
        assert set(keys) <= train_age.keys()
