"""`ple-rec bench loader`: every contender reads all rows; what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ple_rec.bench.feed import feed_rows, feed_schema, write_feed
from ple_rec.bench.figures import spreads, values
from ple_rec.bench.loader import dataloader, dataloader_of_rows, our_loader, plain_pyarrow
from ple_rec.bench.report import format_lines, race_figures, race_headline, race_lines
from ple_rec.bench.torch_datasets import RowGroups, Rows
from ple_rec.data.dataset import Dataset
from ple_rec.data.loader import Loader

ROWS = 70_000  # two row groups


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "feed"
    write_feed(path, ROWS)
    return path


def test_the_feed_has_the_schema_of_the_goal(data: Path) -> None:
    dataset = Dataset(data)
    selection = dataset.select(drop=[], tasks=[])
    assert (len(selection.single), len(selection.dense), len(selection.tasks)) == (24, 8, 4)
    assert len(selection.column_names()) == 37
    groups = dataset.row_groups("train", selection.column_names())
    assert [group.rows for group in groups] == [65_536, ROWS - 65_536]
    footer = groups[0].footer
    encoded = {footer.row_group(0).column(i).path_in_schema: footer.row_group(0).column(i).encodings for i in range(37)}
    assert "RLE_DICTIONARY" in encoded["id_10"]
    assert "RLE_DICTIONARY" not in encoded["user"]
    assert footer.row_group(0).column(0).compression == "ZSTD"
    assert sum(file.stat().st_size for file in (data / "train").iterdir()) / ROWS < 60


def test_the_feed_is_a_function_of_its_seed() -> None:
    schema = feed_schema(100)
    assert feed_rows(schema, 100, (0, 0)).equals(feed_rows(schema, 100, (0, 0)))
    assert not feed_rows(schema, 100, (0, 0)).equals(feed_rows(schema, 100, (0, 1)))


def test_every_contender_reads_the_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of this process, which goes on
    assert our_loader(data, 4096, 16)() == ROWS
    assert plain_pyarrow(data)() == ROWS
    assert dataloader(data, 4096, 0)() == ROWS
    assert dataloader_of_rows(data, 4096)() == 16_384


def test_torch_datasets_hold_what_the_loader_gives(data: Path) -> None:
    dataset = Dataset(data)
    selection = dataset.select(drop=[], tasks=[])
    loader = Loader(dataset, "train", selection, batch_size=256, rank=0, world_size=1, virtual_shards=1, shuffle=False)
    batches = loader.epoch(0)
    batch = next(batches)
    batches.close()
    rows = Rows(data, 1000)
    assert len(rows) == 1000
    assert batch.sparse is not None
    assert torch.equal(rows.columns["ids"][:256].T.reshape(-1), batch.sparse.values().long())
    assert torch.equal(rows.columns["dense"][:256].nan_to_num(9), batch.dense_BF.nan_to_num(9))
    assert torch.equal(rows[3]["label"][:2], batch.labels_BK[3, :2])
    shuffled = torch.cat([each["ids"] for each in RowGroups(data, 4096)])
    everything = Rows(data, ROWS).columns["ids"]
    assert not torch.equal(shuffled, everything)
    assert torch.equal(shuffled.sort(dim=0).values, everything.sort(dim=0).values)


MEASURED = {"pinned": True, "workers": 0, "rates": [1.0], "cpu_rates": [1.0], "idle_bytes": 1 << 20}
RESULTS = {
    "subject": "loader",
    "unit": "rows",
    "limit": "pyarrow",
    "data": {"rows": 1_000_000, "bytes_per_row": 49.96},
    "settings": {"batch_size": 4096},
    "conditions": {
        "cpu": "Fast 3000",
        "cores": 2,
        "threads": None,
        "load_before": [0.5, 0.25, 0.125],
        "memory_bytes": 8 << 30,
        "kernel": "6.1",
        "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    },
    "measured": {
        "loader": MEASURED
        | {"title": "ours", "median": 3e6, "min": 2.9e6, "max": 3.1e6, "cpu_median": 3.2e6, "peak_bytes": 5 << 20},
        "pyarrow": MEASURED
        | {"title": "limit", "median": 6e6, "min": 5e6, "max": 7e6, "cpu_median": 6e6, "peak_bytes": 2 << 20}
        | {"pinned": False},
    },
}


def test_the_table_and_the_lines() -> None:
    figures = race_figures(RESULTS)
    assert format_lines(RESULTS | {"values": values(figures)}, race_lines(RESULTS)) == (
        "       cores     rows/s        min        max  of the limit  rows/CPU s  MiB idle  MiB peak\n"
        "ours       1  3,000,000  2,900,000  3,100,000         0.500   3,200,000         1         5\n"
        "limit    all  6,000,000  5,000,000  7,000,000         1.000   6,000,000         1         2\n"
        "\n"
        "1,000,000 rows, 50.0 bytes per row\n"
        "batch size 4096\n"
        "Fast 3000, 2 cores, 8 GiB, threads as the table says, load before 0.50 0.25 0.12\n"
        "python 3.11.7, numpy 2.4.6\n"
        "\n"
        "loader_rows_per_second=3000000\n"
        "loader_rows_per_cpu_second=3200000\n"
        "loader_peak_bytes=5242880\n"
        "loader_share_of_limit=0.5\n"
        "pyarrow_rows_per_second=6000000\n"
        "pyarrow_rows_per_cpu_second=6000000\n"
        "pyarrow_peak_bytes=2097152\n"
        "pyarrow_share_of_limit=1.0"
    )
    assert spreads(figures)["loader_rows_per_second"] == [2_900_000, 3_100_000]
    line = race_headline(RESULTS, "loader", "reading").record()
    assert (line["measured"]["high"], line["limit"], line["fraction"]) == (3.1e6, 6e6, 0.5)


@pytest.mark.slow
def test_the_verb(data: Path, repository: Path) -> None:
    verb = [sys.executable, "-m", "ple_rec", "bench", "loader", "--data", str(data), "--repeats", "1"]
    done = subprocess.run([*verb, "--json"], capture_output=True, text=True, cwd=repository, check=True)
    found = json.loads(done.stdout)
    assert list(found["measured"]) == ["loader", "pyarrow", "dataloader_0", "dataloader_2", "dataloader_rows"]
    assert all(measured["median"] > 0 for measured in found["measured"].values())
    assert found["data"]["rows"] == ROWS
    refused = subprocess.run(
        [*verb, "--batch-size", "100"], capture_output=True, text=True, cwd=repository, check=False
    )
    assert refused.returncode == 2
    assert "ple-rec: train.batch_size: got 100 samples over all ranks with data.virtual_shards = 16;" in refused.stderr
