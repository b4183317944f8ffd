"""Several ranks, each with a device of its own: where tables lie and how they travel changes nothing but last bits."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.run import RunConfig
from tests.training.devices import Weights, command, devices, in_new_process, trained, trained_by_ranks
from tests.training.small import SGD, relative, small_config, write_small

RANKS = 2
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "row_wise": {"embeddings": {"sharding": "row_wise"}},
    "table_row_wise": {"embeddings": {"sharding": "table_row_wise"}},
    "bf16": {
        "embeddings": {
            "sharding": "row_wise",
            "tables": {"item": {"sharding": "table_wise"}},
            "qcomms": {"forward_precision": "bf16", "backward_precision": "bf16"},
        }
    },
    "sparse_dist": {"train": {"pipeline": "sparse_dist"}},
    "prefetch": {
        "embeddings": {"sharding": "row_wise", "kernel": "fused_uvm_caching"},
        "train": {"pipeline": "prefetch"},
    },
}
ON_GPUS = ("table_row_wise", "prefetch")
FAR = {"bf16": (1e-6, 1e-3)}  # at least, at most; relative to the largest value
SAME = (-1.0, 1e-4)


def _config(data: Path, device: str, changes: dict[str, dict[str, Any]]) -> RunConfig:
    train = {"batch_size": 24, "steps": 12, "report_every": 3, "evaluate_every": 5} | changes.get("train", {})
    tables = {"dim": 8} | changes.get("embeddings", {})
    return small_config(data, SGD | {"train": train, "embeddings": tables, "runtime": {"device": device, "threads": 1}})


def _one_rank(device: str, data: Path, run_dir: Path) -> Weights:
    weights: Weights = trained(_config(data, device, {}), run_dir)["after"]
    return weights


@pytest.mark.parametrize("device", devices(RANKS))
def test_two_ranks_end_in_the_weights_of_one(device: str, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    expected = in_new_process(_one_rank, device, data, tmp_path / "one")
    names = TABLES if device == "cuda" else [name for name in TABLES if name not in ON_GPUS]
    configs = {name: _config(data, device, TABLES[name]) for name in names}
    for name, found in trained_by_ranks(configs, tmp_path, RANKS).items():
        assert found.keys() == expected.keys()
        far = max(relative(found[key], value) for key, value in expected.items())
        least, most = FAR.get(name, SAME)
        assert least < far < most, (name, far)


@pytest.mark.parametrize("device", devices(RANKS))
def test_a_rank_that_raises_ends_the_wait_of_its_peers(device: str) -> None:
    agent = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}")
    done = command(*agent, "-m", "tests.runtime.raising_rank", device, timeout=120)
    ended = time.time()
    assert done.returncode == 1
    assert "part-0: a; b. Fix: c" in done.stderr
    together = re.search(r"together ([\d.]+)", done.stdout)
    assert together is not None, done.stderr
    assert ended - float(together[1]) < 30
