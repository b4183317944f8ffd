"""`train.precision = "auto"`: decided by what a probe measures, alike on all ranks, and kept by the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.config.choices import faster_precision
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.training import precision as module
from ple_rec.training.precision import Precision, Shape, choose_precision, layer_speeds, saved_precision
from ple_rec.training.run import evaluate_run, train
from tests.training.small import on_ranks, ranks_of, small_config, write_small

FAST, SLOW = (194.0, 740.0), (326.0, 168.0)  # GFLOP/s in fp32 and bf16, of two machines
AUTO: dict[str, Any] = {
    "train": {"batch_size": 36, "steps": 4, "report_every": 2, "precision": "auto"},
    "embeddings": {"dim": 8},
}


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(*FAST, "bf16"), (*SLOW, "fp32"), (100, 130, "bf16"), (100, 129, "fp32"), (100, 0, "fp32")],
)
def test_bf16_is_for_those_who_gain_by_it(fp32: float, bf16: float, expected: str) -> None:
    assert faster_precision(fp32, bf16) == expected


def _settled(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Any]:
    """What a rank decides whose speeds are not those of the other."""
    config, ranks = small_config(data, AUTO), ranks_of(rank, world_size)
    asked: list[Shape] = []

    def probe(device: torch.device, shape: Shape) -> tuple[float, float]:
        asked.append(shape)
        return (FAST, SLOW)[rank]

    mixed = choose_precision(config, ranks, (12, 30, 64), None, probe)
    both = choose_precision(config, ranks, (12, 30, 64), None, lambda *_: (100.0, 200.0 + rank))
    kept = choose_precision(config, ranks, (12, 30, 64), Precision("auto", "bf16"), probe)
    plain = choose_precision(small_config(data), ranks, (12, 30, 64), None, probe)
    return {"mixed": mixed.record(), "both": both.record(), "kept": kept, "plain": plain.record(), "asked": asked}


def test_ranks_agree_on_what_the_slowest_to_gain_has_measured(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    one, other = on_ranks(_settled, 2, data, tmp_path)
    assert one == other
    assert one["mixed"] == {"asked": "auto", "used": "fp32", "gflops": {"fp32": SLOW[0], "bf16": SLOW[1]}}
    assert one["both"] == {"asked": "auto", "used": "bf16", "gflops": {"fp32": 100.0, "bf16": 200.0}}
    assert one["kept"] == Precision("auto", "bf16")
    assert one["plain"] == {"asked": "fp32", "used": "fp32"}
    assert one["asked"] == [(12, 30, 64)], "a run that goes on, and one that does not ask, measure nothing"


def _life(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Any]:
    """A run on a machine that is fast in bf16, resumed and evaluated on one that is not; one that never moved."""
    probed: list[Shape] = []

    def speeds(device: torch.device, shape: Shape, found: tuple[float, float]) -> tuple[float, float]:
        probed.append(shape)
        return found

    config, longer = small_config(data, AUTO), small_config(data, AUTO | {"train": AUTO["train"] | {"steps": 8}})
    module.layer_speeds = lambda device, shape: speeds(device, shape, FAST)
    train(config, folder / "moved")
    whole = train(longer, folder / "whole")
    module.layer_speeds = lambda device, shape: speeds(device, shape, SLOW)
    resumed = train(longer, folder / "moved", resume=True)
    evaluated = evaluate_run(folder / "moved", splits=("test",), checkpoint="best")
    fp32 = evaluate_run(folder / "moved", splits=("test",), checkpoint="best", overrides=["train.precision=fp32"])
    return {"whole": whole, "resumed": resumed, "evaluated": evaluated, "fp32": fp32, "probed": probed}


def test_a_run_keeps_its_precision_on_another_machine(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    found = on_ranks(_life, 1, data, tmp_path, init=False)[0]
    # Samples of a step; 5 features of 8 columns and 4 dense ones; 3 experts of 8.
    assert found["probed"] == [(36, 44, 24), (36, 44, 24)]
    record = {"asked": "auto", "used": "bf16", "gflops": {"fp32": FAST[0], "bf16": FAST[1]}}
    assert found["whole"]["precision"] == found["resumed"]["precision"] == record
    assert found["resumed"]["test"] == found["whole"]["test"] == found["evaluated"]["test"] != found["fp32"]["test"]
    assert json.loads((tmp_path / "moved" / "metrics.json").read_text())["precision"] == record
    assert 'precision = "auto"' in (tmp_path / "moved" / "config.toml").read_text()
    assert (
        "<strong>bf16 (auto, fp32 194 GFLOP/s, bf16 740 GFLOP/s)</strong>"
        in (tmp_path / "moved" / "report.html").read_text()
    )


def test_the_introduction_says_why() -> None:
    both = {"fp32": 194.2, "bf16": 740.1}
    assert Precision("auto", "bf16", both, 0.95).describe() == (
        "precision: bf16, since matrix products ran at 740 GFLOP/s in it and at 194 in fp32 (probe of 0.9 s)"
    )
    assert Precision("auto", "fp32", {"fp32": 82.0, "bf16": 1.24}, 1.04).describe() == (
        "precision: fp32, since matrix products ran at 82 GFLOP/s in it and at 1.2 in bf16, which is not 1.3 times as "
        "fast (probe of 1.0 s)"
    )
    assert Precision("auto", "bf16", both).describe() == "precision: bf16, with which the run began"
    assert Precision("bf16", "bf16").describe() == ""


def test_what_a_checkpoint_does_not_say_is_measured() -> None:
    speeds = {"fp32": 1.0, "bf16": 0.0}
    said = {"precision": {"used": "bf16", "gflops": speeds}}
    assert saved_precision(said) == Precision("auto", "bf16", speeds)
    assert saved_precision({}) is saved_precision({"precision": {"used": "fp8"}}) is None


def test_the_probe_measures_this_device() -> None:
    fp32, bf16 = layer_speeds(torch.device("cpu"), (64, 32, 32))
    assert fp32 > 0
    assert bf16 > 0


def test_another_word_is_refused() -> None:
    with pytest.raises(UserError, match=r'train.precision: got "fp16"; .*\(known: fp32, bf16, auto\)'):
        load_config(RunConfig, "census-ple", ["train.precision=fp16"])
