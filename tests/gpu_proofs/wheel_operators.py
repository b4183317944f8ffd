"""Operators that training on a GPU calls, and those for which the installed wheels have a kernel for CUDA.

    python -m tests.gpu_proofs.wheel_operators FOLDER

The program needs the CUDA builds of torch and FBGEMM, a stub of libnvidia-ml.so.1, and no GPU. It prints one JSON
object: `operators` has the called operators by part of the configuration, `kernels` those with a kernel for CUDA. The
calls are recorded, not listed:

- Lookups of tables, by kernel, data type and optimizer: our planner and `shard`, TorchRec and FBGEMM run on fake
  tensors of a CUDA device, whose operators compute shapes alone.
- Everything else in a step, an evaluation and a save: trainings of two ranks on the CPU, with the operators of a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import torch
import torch.distributed as dist
import torchrec.distributed.embeddingbag as sharded_collections
import torchrec.sparse.jagged_tensor as jagged_tensor
from pydantic import TypeAdapter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec import KeyedJaggedTensor
from torchrec.distributed.types import ShardingEnv

from ple_rec.config.model import ModelConfig
from ple_rec.config.plan_table import Dtype, Kernel, TableOptimizer
from ple_rec.config.run import DenseOptimizerConfig, EmbeddingsConfig, ExchangePrecision, RunConfig
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sharding import shard
from tests.gpu_proofs.device_path import device_path
from tests.planning.samples import cluster, module_of
from tests.training.small import on_ranks, small_config, train_small, write_small
from tests.training.test_every_variant import MODELS, TOWER

GPU = torch.device("cuda", 0)
H100 = SimpleNamespace(name="NVIDIA H100 80GB HBM3", multi_processor_count=132, warp_size=32, total_memory=80 << 30)


_BOOKKEEPING = ("prim", "profiler")  # Namespaces of operators that ask a tensor for its device, or mark a region.


class OperatorRecorder(TorchDispatchMode):
    """Mode that records the dispatcher's name of each operator that is called, such as aten::add.Tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in _BOOKKEEPING:
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_gpu() -> Iterator[OperatorRecorder]:
    """Make tensors of a CUDA device without data, and record the operators that are called on them."""
    # TorchRec reads its ranks from real tensors, and numbers of ids from the device: ten for each feature.
    environment = ShardingEnv.from_process_group(dist.group.WORLD)
    with (
        patch.object(FakeTensorMode, "avoid_device_init", property(lambda mode: True)),
        patch.multiple(
            torch.cuda,
            is_available=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: 0,
            current_stream=lambda device=None: None,
            get_device_properties=lambda device=None: H100,
            get_device_capability=lambda device=None: (9, 0),
        ),
        patch.object(ShardingEnv, "from_process_group", lambda *args: environment),
        patch.object(sharded_collections, "validate_keyed_jagged_tensor", lambda *args: None),
        patch.object(jagged_tensor, "_safe_tolist", lambda tensor: [10] * tensor.numel()),
        FakeTensorMode(allow_non_fake_inputs=True),
        OperatorRecorder() as recorder,
    ):
        yield recorder


def table_operators(kernel: Kernel, dtype: Dtype, optimizer: TableOptimizer, *, prefetched: bool) -> set[str]:
    """Return the operators that build two tables on a GPU, look up rows and update them."""
    embeddings = EmbeddingsConfig(dim=16, kernel=kernel, dtype=dtype, sharding="table_wise")
    host = cluster("h100", hosts=1, ranks=1)
    module = module_of({"a": 1000, "b": 2000}, embeddings, optimizer, host)
    plan = make_plan(module, PlanningInputs(embeddings, optimizer, host, 4, {}))
    with fake_gpu() as recorder:
        ranks = Ranks(0, 1, 1, GPU, 1)
        model: Any = shard(module, plan, ranks, init_scale=1.0, seed=0, prefetched=prefetched)
        collection = model.module["embeddings"]
        lookups = [module for lookup in collection._lookups for module in lookup.modules()]
        for lookup in lookups:
            if hasattr(lookup, "iter_cpu"):
                lookup.iter_cpu = torch.tensor([1])  # FBGEMM reads it on the host, so it needs a value.
        for weights in (None, torch.empty(20, device=GPU)):
            values, lengths = (
                torch.empty(20, dtype=torch.int64, device=GPU),
                torch.empty(8, dtype=torch.int32, device=GPU),
            )
            ids = KeyedJaggedTensor(["f_a", "f_b"], values, lengths=lengths, weights=weights, length_per_key=[10, 10])
            context = collection.create_context()
            received = collection.input_dist(context, ids).wait().wait()
            if prefetched:
                collection.prefetch(ctx=context, dist_input=received, forward_stream=None)
            rows_BD = collection.compute_and_output_dist(context, received).wait().values()
            _run_backward(lookups, rows_BD)
    return recorder.names


def _run_backward(lookups: list[Any], rows_BD: Any) -> None:
    """Run the backward pass of the lookup, the only node of the graph on one rank, without autograd's engine.

    The engine would look for a real device.
    """
    gradient_BD = torch.empty_like(rows_BD)
    for lookup in lookups:
        for hook in lookup._backward_pre_hooks.values():
            hook(lookup, (gradient_BD,))
    node = rows_BD.grad_fn
    while "BackwardHookFunction" in type(node).__name__:
        node = node.next_functions[0][0]
    node(gradient_BD)


def every_table() -> dict[str, set[str]]:
    """Return the operators of the tables, by every kernel, data type and optimizer that the configuration permits."""
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    operators = {}
    for choice in itertools.product(get_args(Kernel), get_args(Dtype), get_args(TableOptimizer)):
        operators[" ".join(choice)] = table_operators(*choice, prefetched=choice[0] == "fused_uvm_caching")
    dist.destroy_process_group()
    return operators


def trainings(data: Path) -> dict[str, RunConfig]:
    """Return small configurations by name: models, dense optimizers and bf16; exchanges and shardings."""
    dense_optimizers = itertools.cycle(get_args(DenseOptimizerConfig.model_fields["kind"].annotation))
    configs = {}
    for variant, fields in MODELS.items():
        model = TypeAdapter(ModelConfig).validate_python({"variant": variant, "tower": TOWER, **fields}, strict=False)
        dense = {"kind": next(dense_optimizers), "clip_norm": 1.0}
        config = small_config(data, {"dense_optimizer": dense, "train": {"precision": "bf16", "steps": 2}})
        configs[variant] = config.model_copy(update={"model": model})
    for precision, sharding in itertools.product(get_args(ExchangePrecision), ("table_wise", "row_wise")):
        exchange = {"forward_precision": precision, "backward_precision": precision}
        embeddings = {"sharding": sharding, "dim": 32, "pooling": "mean", "qcomms": exchange}
        configs[f"{precision} {sharding}"] = small_config(data, {"embeddings": embeddings, "train": {"steps": 2}})
    return configs


def record_trainings(rank: int, world_size: int, folder: Path) -> dict[str, set[str]]:
    """Return the operators of each training on this rank; a collective."""
    operators = {}
    for name, config in trainings(folder / "data").items():
        with device_path(), OperatorRecorder() as recorder:
            train_small(rank, world_size, config, folder / name.replace(" ", "-"))
        operators[name] = recorder.names
    return operators


def inner_operators(names: Iterable[str]) -> set[str]:
    """Return the operators that FBGEMM's C++ code calls inside of recorded ones, where no mode sees them.

    A `_pt2_wrapper` calls the operator with the kernel, whose name differs from its own in the end.
    """
    wrapper, inner = "_pt2_wrapper", set()
    for name in names:
        if name.endswith(wrapper):
            inner.add(name.removesuffix(wrapper) + ("_exact_cuda" if "_backward_" in name else "_cuda"))
    return inner


def operators_with_kernels() -> list[str]:
    """Return the names of all operators for which the dispatcher has a kernel on a CUDA device."""
    names = torch._C._dispatch_get_all_op_names()
    return [name for name in names if torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")]


def main() -> None:
    """Print the operators and the kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="empty folder for a dataset and runs")
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    operators = every_table()
    write_small(folder / "data")
    for rank_operators in on_ranks(record_trainings, 2, folder):
        for name, names in rank_operators.items():
            operators.setdefault(name, set()).update(names)
    called = {name: sorted(names | inner_operators(names)) for name, names in operators.items()}
    json.dump({"operators": called, "kernels": operators_with_kernels()}, sys.stdout)


if __name__ == "__main__":
    main()
