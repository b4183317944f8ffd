"""Stages with whole runs: asynchronous saves, loading, evaluation, fp16 tables, tables in the host's memory."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.loop import REPORT_EVERY, free_memory, open_training, run_overrides, train
from benchmarks.gpu.stage import Deadline, StageLines, StageSettings
from ple_rec.checkpoint.load import find_damage
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import process_group
from ple_rec.training.run import evaluate_run
from ple_rec.training.run import train as train_run

_STEPS, _SAVE_EVERY = 30, 10
# Largest difference between two evaluations of the same weights.
_MAX_DIFFERENCE = 1e-5


def save_and_load(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Save beside training, verify the checkpoints, and load one to evaluate it again.

    Raises:
        DataError: A checkpoint is damaged.
        ValueError: The evaluation differs from that of the training.
    """
    run_dir = settings.out / "asynchronous"
    overrides = (
        "name=asynchronous",
        "checkpoint.asynchronous=true",
        f"checkpoint.every={_SAVE_EVERY}",
        f"train.steps={_STEPS}",
        f"train.evaluate_every={_STEPS}",
        "watch.tensorboard=false",
    )
    config = load_config(RunConfig, "tencent-ple", run_overrides(settings, settings.batch_size, *overrides))
    free_memory(settings)
    started = time.monotonic()
    metrics = train_run(config, run_dir, overwrite=True)
    yield f"- {_STEPS} steps with a save every {_SAVE_EVERY}, tests and report: {time.monotonic() - started:.1f} s"
    with process_group(config.runtime):
        for folder in sorted((run_dir / "checkpoints").glob("step-*")):
            if (damage := find_damage(folder)) is not None:
                raise damage
            yield f"- {folder.name}: not damaged"
    started = time.monotonic()
    evaluated = evaluate_run(run_dir, splits=("test",), checkpoint="best")
    yield f"- load and evaluation: {time.monotonic() - started:.1f} s"
    difference = _largest_difference(metrics["test"], evaluated["test"])
    if difference > _MAX_DIFFERENCE:
        raise ValueError(f"two evaluations of the best checkpoint differ by {difference:.1e}")
    return f"saved and loaded; a second evaluation of the best checkpoint differs by {difference:.1e}"


def _largest_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return the largest difference between the numbers of two results."""
    difference = 0.0
    for key, value in first.items():
        if isinstance(value, Mapping):
            difference = max(difference, _largest_difference(value, second[key]))
        elif isinstance(value, float) and math.isfinite(value):
            difference = max(difference, abs(value - second[key]))
    return difference


def _last_loss(settings: StageSettings, *overrides: str) -> float:
    """Train, and return the loss of the last report."""
    run = run_overrides(settings, settings.batch_size, *overrides)
    with open_training(settings, "tencent-ple", run) as context:
        log = train(context, settings, _STEPS)
    return float(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["loss"])


def train_fp16_tables(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Train with rows in fp16, and compare the loss with that of rows in fp32.

    Raises:
        ValueError: The losses differ by more than a hundredth.
    """
    yield f"The losses are those of steps {_STEPS - REPORT_EVERY + 1} to {_STEPS}."
    full, half = _last_loss(settings), _last_loss(settings, "embeddings.dtype=fp16")
    if not abs(half - full) < 0.01 * full:
        raise ValueError(f"the loss is {half:.5f}, and {full:.5f} with fp32 rows")
    return f"loss {half:.5f}, with fp32 rows {full:.5f}"


def train_uvm_tables(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Train with all tables in the host's memory: read over the bus, cached, and prefetched into the cache.

    Raises:
        ValueError: The losses differ.
    """
    cuda = settings.device == "cuda"
    kernels = {"uvm": ("fused_uvm", "sparse_dist"), "cached": ("fused_uvm_caching", "none")}
    kernels |= {"prefetched": ("fused_uvm_caching", "prefetch")} if cuda else {}
    losses = {}
    for name, (kernel, pipeline) in kernels.items():
        started = time.monotonic()
        losses[name] = _last_loss(
            settings, f"embeddings.kernel={kernel if cuda else 'fused'}", f"train.pipeline={pipeline}"
        )
        yield f"- {name} ({kernel}, {pipeline}): loss {losses[name]:.5f}, {time.monotonic() - started:.1f} s"
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        raise ValueError(f"the losses differ: {losses}")
    return f"{len(losses)} ways to read the tables end in the same loss"
