"""A run over a dataset in an object store: its bits are those of a disk, and a store that fails ends it on every rank.

pytest -m slow tests/training/test_remote_data.py     the same over Ceph's gateway; as root, on Debian
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.storage import location, write_bytes
from ple_rec.training.run import train as train_run
from tests.object_store import object_store, use_store
from tests.tiny import environment, write_tiny
from tests.training.small import TIMES, on_ranks

SECONDS = 120


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the tiny dataset and its configuration."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def upload(folder: Path, address: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            write_bytes(location(f"{address}/{file.relative_to(folder)}"), file.read_bytes())


def train(data: str, run: str, *more: str) -> list[str]:
    settings = [word for setting in (f"data.path={data}", *more) for word in ("--set", setting)]
    return [sys.executable, "-m", "ple_rec", "train", "--config", "tiny.toml", "--run-dir", run, *settings]


def results(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and log of a run, without its times and the fingerprint of its configuration, which names the data."""
    metrics = json.loads((run / "metrics.json").read_text())
    log = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    for record in (metrics, *log):
        for name in (*TIMES, "config_fingerprint"):
            record.pop(name, None)
    return metrics, log


def _train(_rank: int, _world_size: int, config: RunConfig, data: str, run: Path) -> None:
    train_run(config.model_copy(update={"data": config.data.model_copy(update={"path": data})}), run)


def test_metrics_and_log_are_those_of_a_disk(folder: Path, address: str) -> None:
    upload(folder / "data", address)
    config = load_config(RunConfig, "tiny.toml", ["train.report_every=2"])
    for data, run in (("data", "near"), (address, "far")):
        on_ranks(_train, 2, config, data, folder / run, init=False)
    assert results(folder / "far") == results(folder / "near")


def test_a_store_that_goes_away_ends_the_run_on_every_rank(
    folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store("bucket") as endpoint:
        use_store(endpoint, monkeypatch)
        S3FileSystem.clear_instance_cache()
        upload(folder / "data", "s3://bucket/tiny")
        command = [*train("s3://bucket/tiny", "run", "train.epochs=100000", "train.report_every=1"), "--ranks", "2"]
        run = subprocess.Popen(
            command, env=environment(repository), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert run.stdout is not None
        any(re.match(r"step +20/", line) for line in run.stdout)  # behind the first epoch
    _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 2, said
    found = re.findall(
        r"^ple-rec: (rank 1: )?s3://bucket/tiny/\w+/part-00000\.parquet: cannot be reached \(.*AWS Error "
        r"NETWORK_CONNECTION .*\); ",
        said,
        re.MULTILINE,
    )
    assert found, said
