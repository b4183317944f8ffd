"""Budget of a training step: transfers for which the host would wait on a GPU, and collectives, by plan and pipeline.

The numbers are exact, so that a library or a change of ours that adds one is seen. All transfers that are left belong
to TorchRec's exchange of ids, and nearly all cost one for each kind of sharding in the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ple_rec.config.plan_table import Sharding
from ple_rec.training.batch_feeder import PipelinedFeeder
from ple_rec.training.loop import Trainer
from tests.gpu_proofs.transfers import Transfers, counted_transfers
from tests.training.small import on_ranks, small_config, train_small, write_small

LAYOUTS: dict[str, Any] = {
    "table-wise": {"sharding": "table_wise"},
    "row-wise": {"sharding": "row_wise"},
    "mixed": {"sharding": "row_wise", "tables": {"item": {"sharding": "table_wise"}}},
}
PIPELINES = ("none", "sparse_dist")
# A step in the middle of a run, when every cache is filled and two later batches are prepared.
COUNTED_STEP, STEPS = 4, 8

# Measurement of one rank: transfers of a step, and for each kind of sharding, True if the rank has rows of its tables.
Counted = tuple[Transfers, dict[Sharding, bool]]


def _counted(rank: int, world_size: int, data: Path, runs: Path) -> dict[tuple[str, str], Counted]:
    """Return the measurement of this rank for each layout and pipeline."""
    results = {}
    for layout, embeddings in LAYOUTS.items():
        for pipeline in PIPELINES:
            train = {"batch_size": 24, "steps": STEPS, "report_every": 100, "pipeline": pipeline}
            config = small_config(data, {"embeddings": embeddings, "train": train})
            with _counted_step() as counts:
                context = train_small(rank, world_size, config, runs / f"{layout}-{pipeline}")
            shardings: dict[Sharding, bool] = {}
            for table in context.plan.tables:
                has_rows = any(shard.rank == rank for shard in table.shards(context.plan.cluster))
                shardings[table.sharding] = shardings.get(table.sharding, False) or has_rows
            results[layout, pipeline] = (counts[0], shardings)
    return results


@contextmanager
def _counted_step() -> Iterator[list[Transfers]]:
    """Return a context in which the counted step of a training adds its transfers to the list."""
    counts: list[Transfers] = []
    train_one_step = Trainer._step

    def step(trainer: Trainer, epoch: int) -> None:
        if trainer.state.step != COUNTED_STEP:
            train_one_step(trainer, epoch)
            return
        feeder = trainer._feeder
        with counted_transfers(feeder._streams if isinstance(feeder, PipelinedFeeder) else None) as transfers:
            train_one_step(trainer, epoch)
        counts.append(transfers)

    with patch.object(Trainer, "_step", step):
        yield counts


def _budget(shardings: dict[Sharding, bool], world_size: int) -> dict[str, Counter[str]]:
    """Return the transfers that a step may make, by kind.

    Args:
        shardings: Kinds of sharding in the plan, with True for those of which this rank has rows.
        world_size: Number of ranks.
    """
    kinds, own_kinds = len(shardings) * (world_size > 1), sum(shardings.values())
    row_wise = "row_wise" in shardings
    return {
        "reads": Counter(
            {
                # TorchRec reads the numbers of ids to receive, and those to send, which it needs for a check alone.
                "SplitsAllToAllAwaitable._wait_impl": 2 * kinds,
                # It reads the number of ids of each feature that have arrived, and, of row-wise tables, that it sends.
                "_maybe_compute_length_per_key": own_kinds * (world_size > 1) + row_wise,
            }
        ),
        "copies": Counter(
            {
                # Numbers of lengths, ids and weights to send to each rank, and the batch size.
                "KJTAllToAllSplitsAwaitable.__init__": 4 * kinds,
                # Order of the features that have arrived; on one rank TorchRec does not use it.
                "_get_recat": own_kinds,
            }
        ),
        # Weights of the tasks in the loss.
        "pinned_copies": Counter({"train_step": 1}),
        "reads_of_host_tensors": Counter(
            {
                "NonFiniteGuard._read": 1,
                "SplitTableBatchedEmbeddingBagsCodegen.forward": 3 * own_kinds,
                "SplitTableBatchedEmbeddingBagsCodegen._generate_vbe_metadata": own_kinds,
            }
        ),
        "collectives": Counter(
            {
                # Counts and flags of the guard; on several ranks also the gradients of the dense layers.
                "allreduce": 1 + (world_size > 1),
                # Numbers, lengths, ids and weights.
                "alltoall_base": 4 * kinds + 2 * ("table_wise" in shardings) * (world_size > 1),
                # Pooled rows and their gradients.
                "reduce_scatter_base": row_wise * (world_size > 1),
                "allgather_base": row_wise * (world_size > 1),
            }
        ),
    }


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_transfers_of_a_step(tmp_path: Path, world_size: int) -> None:
    for results in on_ranks(_counted, world_size, write_small(tmp_path / "data"), tmp_path / "runs"):
        for (layout, pipeline), (transfers, shardings) in results.items():
            budget = _budget(shardings, world_size)
            for kind, expected in budget.items():
                assert getattr(transfers, kind) == expected, (layout, pipeline, kind)
            # Ids are exchanged on a stream of their own, so the host never waits for the model's stream.
            waits = transfers.reads.total() + transfers.copies.total()
            assert transfers.streams == {"default" if pipeline == "none" else "exchange": waits}, (layout, pipeline)
            if layout == "mixed":
                for sharding in shardings:
                    one_type = _budget({sharding: True}, world_size)
                    assert transfers.reads != one_type["reads"] or transfers.copies != one_type["copies"]
