"""One rank on a CPU and on a GPU: pipelines, tables in the host's memory, and checkpoints that change the device."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.config.run import RunConfig
from tests.training.devices import devices, in_new_process, losses, trained
from tests.training.small import SGD, relative, small_config, write_small

STEPS, STOP = 18, 7  # two epochs; in the middle of the first
Runs = dict[str, dict[str, Any]]
# What a GPU has beyond a CPU; there, the tables lie in the host's memory anyway.
UVM = {"cuda": "fused_uvm_caching", "cpu": "fused"}
PREFETCH = {"cuda": "prefetch", "cpu": "sparse_dist"}


def _config(data: Path, device: str, *, kernel: str = "fused", pipeline: str = "none", steps: int = STEPS) -> RunConfig:
    """SGD, so that every run ends in the same weights; evaluations and checkpoints between steps of an epoch."""
    train = {"batch_size": 24, "steps": steps, "report_every": 3, "evaluate_every": 5, "pipeline": pipeline}
    tables = {"dim": 8, "kernel": kernel, "cache_load_factor": 0.5}
    changes = {"train": train, "embeddings": tables, "checkpoint": {"every": STOP}}
    return small_config(data, SGD | changes | {"runtime": {"device": device, "threads": 1}})


def _all_runs(device: str, folder: Path) -> Runs:
    data, runs = folder / "data", folder / "runs"
    configs = {
        "cpu": _config(data, "cpu"),
        "none": _config(data, device),
        "sparse_dist": _config(data, device, pipeline="sparse_dist"),
        "uvm": _config(data, device, kernel=UVM[device]),
        "uvm prefetched": _config(data, device, kernel=UVM[device], pipeline=PREFETCH[device]),
    }
    found = {name: trained(config, runs / name) for name, config in configs.items()}
    for name, first, second in (("to the device", "cpu", device), ("from the device", device, "cpu")):
        trained(_config(data, first, steps=STOP), runs / name)
        found[name] = trained(_config(data, second), runs / name, resume=True)
    return found


@pytest.fixture(scope="module", params=devices())
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("devices")
    write_small(folder / "data")
    found = in_new_process(_all_runs, request.param, folder)
    assert {run["device"] for name, run in found.items() if name not in ("cpu", "from the device")} == {request.param}
    return found


def _far(run: dict[str, Any], other: dict[str, Any], most: float) -> dict[str, float]:
    errors = {name: relative(run["after"][name], value) for name, value in other["after"].items()}
    return {name: error for name, error in errors.items() if error > most}


def test_weights_are_those_of_the_cpu(runs: Runs) -> None:
    moved = {name: relative(value, runs["cpu"]["before"][name]) for name, value in runs["cpu"]["after"].items()}
    assert min(moved.values()) > 1e-4, moved
    assert not _far(runs["none"], runs["cpu"], 1e-4)
    assert losses(runs["none"]) == pytest.approx(losses(runs["cpu"]), rel=1e-4)


@pytest.mark.parametrize("name", ["sparse_dist", "uvm", "uvm prefetched"])
def test_neither_pipelines_nor_the_place_of_tables_change_the_result(runs: Runs, name: str) -> None:
    """Evaluations between the steps included: what is prefetched is not taken for their rows."""
    assert all(torch.equal(runs[name]["before"][key], value) for key, value in runs["none"]["before"].items())
    assert not _far(runs[name], runs["none"], 1e-5)
    for record, expected in zip(runs[name]["records"], runs["none"]["records"], strict=True):
        assert (record["split"], record["step"]) == (expected["split"], expected["step"])
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["to the device", "from the device"])
def test_a_run_goes_on_with_another_device(runs: Runs, name: str) -> None:
    assert not _far(runs[name], runs["cpu"], 1e-4)
    assert losses(runs[name])[-3:] == pytest.approx(losses(runs["cpu"])[-3:], rel=1e-4)


def _from_elsewhere(folder: Path) -> Runs:
    """A run that goes on from a checkpoint whose manifest says that a GPU has written it."""
    config, run_dir = _config(folder / "data", "cpu"), folder / "run"
    whole = trained(config, folder / "whole")
    trained(_config(folder / "data", "cpu", steps=STOP), run_dir)
    file = run_dir / "checkpoints" / f"step-{STOP}" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["written_by"]["device"] = "cuda"
    file.write_text(json.dumps(manifest))
    with redirect_stdout(StringIO()) as said:
        resumed = trained(config, run_dir, resume=True)
    return {"whole": whole, "resumed": resumed | {"said": said.getvalue()}}


@pytest.mark.slow
def test_random_states_are_of_one_kind_of_device(tmp_path: Path) -> None:
    write_small(tmp_path / "data")
    runs = in_new_process(_from_elsewhere, tmp_path)
    says = (
        "was written by 1 rank(s) on cuda: the same samples and weights on 1 on cpu; dropout draws other random numbers"
    )
    assert says in runs["resumed"]["said"]
    assert not _far(runs["resumed"], runs["whole"], 0)
