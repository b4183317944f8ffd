"""Measurements of this host for `ple-rec plan --calibration FILE`: steps, tables, matrix products, copies, loader.

    python -m benchmarks.calibrate --device cpu|cuda --data DIR --out FILE [--recipe tencent-ple] [--ranks N]
        [--samples N N ...] [--timings N]

`ple_rec.config.calibration.Calibration` is the format of the file. Times are medians after a warm-up; the sizes of a
measurement take turns, so that another program on the machine slows all of them alike. With `--ranks`, all-to-alls and
steps of N processes are measured too. Each rank has its share of the usable cores as threads, whatever OMP_NUM_THREADS
is, since a plan divides the peak of a CPU host in the same way. At the end, the measured steps are printed beside those
that the plan estimates from the file. The file has all sizes, but the figures follow from the smallest and the largest
size of each measurement, so only the sizes between these are predictions.

Shape suffixes: B batch, D width of the model's input, M rows, K inner dimension and N columns of a matrix product.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.call_times import device_times, kernel_ms, time_by_turns
from benchmarks.harness import describe_machine, say
from ple_rec.config.calibration import (
    CALIBRATION_VERSION,
    Calibration,
    ExchangeTimes,
    GemmTime,
    StepTime,
    TablesTime,
    TransferTime,
    dump_calibration,
)
from ple_rec.config.cluster import PRESETS, Cluster, TopologyConfig
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.process_group import Ranks, process_group
from ple_rec.models.weighting import task_weights
from ple_rec.planning.calibrate import calibrated
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.runtime.host import usable_cores
from ple_rec.text import align_columns
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step

# Samples of a rank in the measured steps, by device. The smallest one leaves a GPU nearly idle.
SAMPLES: Mapping[str, tuple[int, ...]] = {"cpu": (64, 512, 2048, 4096), "cuda": (64, 4096, 16384, 65536)}
# Bytes of the copies and of the collectives.
_BYTES = (1 << 16, 1 << 20, 1 << 24)
# Number of timings of which the median counts.
_TIMINGS = 9
# Number of different batches that a step is measured on.
_BATCHES = 4
_LOADER_SECONDS = 3.0
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu")
# The contexts make some steps only, so nothing of a run may end, evaluate, save or look like a hang.
_SETTINGS = (
    "train.batch_size=",
    "train.epochs=",
    "train.steps=1000000000",
    "train.evaluate_every=1000000000",
    "checkpoint.every_minutes=1000000000",
    "runtime.timeout_seconds=86400.0",
)


def measure(
    device: Literal["cpu", "cuda"],
    data: Path,
    out: Path | None = None,
    recipe: str = "tencent-ple",
    *,
    ranks: int = 1,
    samples: Sequence[int] = (),
    timings: int = _TIMINGS,
    overrides: Sequence[str] = (),
) -> Calibration:
    """Measure this host, write the calibration file, and return its content. It opens a process group of one rank.

    Args:
        device: Device of the steps.
        data: Dataset directory that fits the recipe.
        out: File to write; None to write none.
        recipe: Recipe, or path of a configuration, whose model is measured.
        ranks: Number of processes whose all-to-alls and steps are measured; 1 to measure one rank only.
        samples: Samples of a rank in the measured steps, two sizes or more; empty for those of `SAMPLES`.
        timings: Number of timings of which the median counts.
        overrides: Further overrides `key=value` of the configuration.
    """
    sizes = tuple(samples) or SAMPLES[device]
    settings = [f"data.path={data}", f"runtime.device={device}", *_SETTINGS, *overrides]
    exchanges = _measure_exchanges(recipe, settings, sizes, ranks, timings) if ranks > 1 else None
    settings.append(_threads(1))
    with process_group(_config(recipe, settings, sizes[0]).runtime) as group:
        contexts = [build_context(_config(recipe, settings, size), group) for size in sizes]
        context = contexts[-1]
        say("steps")
        steps = measure_steps(contexts, timings)
        say("tables")
        tables = measure_tables(contexts, timings)
        say("matrix products and copies")
        products = measure_products(context, timings)
        copies = measure_copies(group.device, timings) if device == "cuda" else ()
        say("loader beside training")
        rows = measure_loader(context)
        hardware = context.plan.cluster.hardware
        calibration = Calibration(
            version=CALIBRATION_VERSION,
            device=hardware.device,
            device_name=torch.cuda.get_device_name() if device == "cuda" else describe_machine(),
            host=describe_machine(),
            versions={name: _version(name) for name in _PACKAGES},
            measured_at=time.strftime("%Y-%m-%d %H:%M"),
            recipe=recipe,
            precision=context.precision.name,
            flops_per_sample=context.unwrapped_model.flops_per_sample(),
            steps=steps,
            tables=tables,
            gemms=products,
            copies=copies,
            loader_rows_per_s=rows,
            exchanges=exchanges,
        )
    if out is not None:
        out.write_text(dump_calibration(calibration), encoding="utf-8")
    return calibration


def _config(recipe: str, settings: Sequence[str], samples: int) -> RunConfig:
    shards = min(16, samples)
    sizes = (f"train.batch_size_per_rank={samples}", f"data.virtual_shards={shards}")
    return load_config(RunConfig, recipe, [*settings, *sizes])


def _threads(ranks: int) -> str:
    """Return the override that gives each rank of this host its share of the usable cores."""
    return f"runtime.threads={max(1, usable_cores() // ranks)}"


def _version(package: str) -> str:
    """Return the version of a package; empty if it is installed under another name."""
    names = [name for name in importlib.metadata.packages_distributions().get(package.replace("-", "_"), [])]
    return importlib.metadata.version(names[0]) if names else ""


def measure_steps(contexts: Sequence[TrainContext], timings: int) -> tuple[StepTime, ...]:
    """Return the times of whole training steps, with the copy of the batch to the device and without the loader."""
    device = contexts[0].ranks.device
    calls = [training_step(context) for context in contexts]
    times = time_by_turns(calls, device, timings)
    return tuple(
        StepTime(
            samples=context.batch_size_per_rank,
            ms=timing.ms,
            host_ms=timing.host_ms,
            device_ms=kernel_ms(call) if device.type == "cuda" else None,
        )
        for context, call, timing in zip(contexts, calls, times, strict=True)
    )


def training_step(context: TrainContext) -> Callable[[], object]:
    """Return a function that makes a training step on one of a few batches."""
    guard = NonFiniteGuard([task.name for task in context.selection.tasks], context.ranks.device)
    batches, weights_K = cycle(read_batches(context)), task_weights(context.tasks, 0)
    context.model.train()

    def step() -> None:
        train_step(context, guard, next(batches).to(context.ranks.device), 0, weights_K)

    return step


def read_batches(context: TrainContext) -> list[Batch]:
    """Return the first batches of an epoch; a dataset that is too small has fewer."""
    with closing(context.loader.epoch(0)) as batches:
        return list(islice(batches, _BATCHES))


def measure_tables(contexts: Sequence[TrainContext], timings: int) -> tuple[TablesTime, ...]:
    """Return the times of all tables: the model's input, and its backward pass, which updates the rows."""
    device = contexts[0].ranks.device
    forward = [_look_up(context, backward=False) for context in contexts]
    both = [_look_up(context, backward=True) for context in contexts]
    times = device_times([*forward, *both], device, timings)
    return tuple(
        _tables_time(context, times[index], times[len(contexts) + index]) for index, context in enumerate(contexts)
    )


def _look_up(context: TrainContext, *, backward: bool) -> Callable[[], object]:
    device, model = context.ranks.device, context.unwrapped_model
    batches = cycle([batch.to(device) for batch in read_batches(context)])

    def look_up() -> None:
        x_BD = model.inputs(next(batches))
        if backward:
            x_BD.backward(torch.ones_like(x_BD))

    return look_up


def _tables_time(context: TrainContext, forward_ms: float, both_ms: float) -> TablesTime:
    tables = context.plan.tables
    return TablesTime(
        samples=context.batch_size_per_rank,
        tables=len(tables),
        rows=sum(table.rows for table in tables),
        dim=tables[0].dim,
        ids=sum(sum(table.ids_per_sample) for table in tables),
        forward_ms=forward_ms,
        # On a busy machine the difference of two medians may be below 0.
        backward_ms=max(both_ms - forward_ms, 1e-6),
    )


def measure_products(context: TrainContext, timings: int) -> tuple[GemmTime, ...]:
    """Return the times of the matrix products of the model's layers, each shape once, at the context's batch size."""
    device, dtype = context.ranks.device, _DTYPES[context.precision.name]
    shapes = sorted({tuple(w.shape[-2:]) for w in _dense_weights(context.unwrapped_model)})
    rows_M = context.batch_size_per_rank
    calls = []
    for n, k in shapes:
        a_MK = torch.rand(rows_M, k, device=device, dtype=dtype)
        w_NK = torch.rand(n, k, device=device, dtype=dtype)
        calls.append(lambda a_MK=a_MK, w_NK=w_NK: nn.functional.linear(a_MK, w_NK))
    times = device_times(calls, device, timings)
    return tuple(GemmTime(m=rows_M, k=k, n=n, ms=ms) for (n, k), ms in zip(shapes, times, strict=True))


def _dense_weights(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the matrices of the dense layers; a bank of experts has one for each, in its last two dimensions."""
    for name, module in model.named_children():
        if name in ("extraction", "towers"):
            yield from (parameter for parameter in module.parameters() if parameter.dim() >= 2)


def measure_copies(device: torch.device, timings: int) -> tuple[TransferTime, ...]:
    """Return the times of copies from pinned memory to a GPU."""
    pairs = [
        (torch.empty(count, dtype=torch.uint8, pin_memory=True), torch.empty(count, dtype=torch.uint8, device=device))
        for count in _BYTES
    ]
    calls = [lambda a=a, b=b: b.copy_(a, non_blocking=True) for a, b in pairs]
    times = device_times(calls, device, timings)
    return tuple(TransferTime(bytes=count, ms=ms) for count, ms in zip(_BYTES, times, strict=True))


def measure_loader(context: TrainContext) -> float:
    """Return the rows a second that the loader reads while another thread trains."""
    step, stop = training_step(context), threading.Event()

    def train() -> None:
        if context.ranks.device.type == "cuda":
            torch.cuda.set_device(context.ranks.device)
        while not stop.is_set():
            step()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        rows, start, epoch = 0, time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < _LOADER_SECONDS:
            with closing(context.loader.epoch(epoch)) as batches:
                for batch in batches:
                    rows += batch.rows
                    if time.perf_counter() - start > _LOADER_SECONDS:
                        break
            epoch += 1
    finally:
        stop.set()
        trainer.join()
    return rows / seconds


def _measure_exchanges(
    recipe: str, settings: Sequence[str], sizes: Sequence[int], ranks: int, timings: int
) -> ExchangeTimes:
    """Return the times of all-to-alls, and of steps with all tables table-wise, on several processes of this host."""
    say(f"collectives and steps of {ranks} ranks")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="ple-rec-bench-") as folder:
        file = Path(folder, "exchanges.json")
        of_ranks = [*settings, _threads(ranks), "embeddings.sharding=table_wise"]
        arguments = (ranks, store.port, recipe, of_ranks, sizes, timings, file)
        torch.multiprocessing.spawn(_exchange_rank, arguments, nprocs=ranks)
        return ExchangeTimes.model_validate_json(file.read_text(encoding="utf-8"))


def _exchange_rank(
    rank: int,
    ranks: int,
    port: int,
    recipe: str,
    settings: Sequence[str],
    sizes: Sequence[int],
    timings: int,
    file: Path,
) -> None:
    """Measure as one of the processes; rank 0 writes the times."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    with process_group(_config(recipe, settings, sizes[0]).runtime) as group:
        all_to_all = measure_exchange(group, timings)
        contexts = [build_context(_config(recipe, settings, size), group) for size in sizes]
        steps = measure_steps(contexts, timings)
        if group.is_main:
            times = ExchangeTimes(ranks=ranks, all_to_all=all_to_all, steps=steps)
            file.write_text(json.dumps(times.model_dump(mode="json", exclude_none=True)), encoding="utf-8")


def measure_exchange(group: Ranks, timings: int) -> tuple[TransferTime, ...]:
    """Return the times of all-to-alls of several sizes."""
    tensors = [torch.ones(count // 4, device=group.device) for count in _BYTES]
    outputs = [torch.empty_like(tensor) for tensor in tensors]
    calls = [lambda a=a, b=b: dist.all_to_all_single(b, a) for a, b in zip(tensors, outputs, strict=True)]
    times = time_by_turns(calls, group.device, timings)
    return tuple(TransferTime(bytes=count, ms=t.ms) for count, t in zip(_BYTES, times, strict=True))


def estimated_steps(
    calibration: Calibration, data: Path, overrides: Sequence[str] = ()
) -> list[tuple[int, int, float, float]]:
    """Return for each measured step: ranks, samples of a rank, its milliseconds, and those that a plan estimates.

    The estimate leaves the loader out, as the measured steps do.

    Args:
        calibration: Measurements of this host.
        data: Dataset directory of the measurements.
        overrides: Further overrides of the configuration that was measured.
    """
    measured = [(1, step) for step in calibration.steps]
    if calibration.exchanges is not None:
        measured += [(calibration.exchanges.ranks, step) for step in calibration.exchanges.steps]
    rows = []
    for ranks, step in measured:
        settings = [f"data.path={data}", f"train.precision={calibration.precision}", *_SETTINGS, *overrides]
        config = _config(calibration.recipe, [*settings, "embeddings.sharding=table_wise"], step.samples)
        preset = Cluster(hosts=1, ranks_per_host=ranks, hardware=PRESETS[calibration.device])
        no_loader = TopologyConfig(loader_rows_per_s=1e12)
        cluster = calibrated(
            preset.model_copy(update={"hardware": no_loader.apply_to(preset.hardware)}), calibration, "", no_loader
        )
        estimate = plan_run(config, describe_dataset(config), cluster).estimate
        assert estimate is not None  # `plan_run` gives every plan an estimate.
        rows.append((ranks, step.samples, step.ms, estimate.step_ms))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset directory")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="calibration file to write")
    parser.add_argument("--recipe", default="tencent-ple", metavar="NAME", help="recipe or file; default tencent-ple")
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="measure N ranks of this host, too; default 1"
    )
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[], metavar="N", help="samples of a step, two or more numbers"
    )
    parser.add_argument("--timings", type=int, default=_TIMINGS, metavar="N", help=f"of a median; default {_TIMINGS}")
    args = parser.parse_args(arguments)
    if len(set(args.samples)) == 1:
        parser.error("--samples: one size; a line needs two sizes. Fix: name another size")
    calibration = measure(
        args.device,
        args.data,
        args.out,
        args.recipe,
        ranks=args.ranks,
        samples=sorted(args.samples),
        timings=args.timings,
    )
    rows = [("ranks", "samples a rank", "ms measured", "ms estimated", "ratio")]
    for ranks, samples, ms, estimate in estimated_steps(calibration, args.data):
        rows.append((str(ranks), f"{samples:,}", f"{ms:.2f}", f"{estimate:.2f}", f"{estimate / ms:.2f}"))
    sys.stdout.write(
        "\n".join([*align_columns(rows, left_columns=()), "", f"ple-rec plan --calibration {args.out}"]) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
