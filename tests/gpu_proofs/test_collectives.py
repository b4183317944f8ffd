"""Collectives of a training on 8 and 64 ranks: all ranks call the same ones, and a step sends the bytes of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ple_rec.config.cluster import PRESETS, Cluster
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import Shard, TablePlan, shard_memory
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.data.batch import Batch
from ple_rec.distributed import layouts
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.process_group import Ranks
from ple_rec.errors import DivergedError, PreemptedError, UserError
from ple_rec.models.embeddings import embedding_collection
from ple_rec.training import loop, run
from ple_rec.training.context import TrainContext
from ple_rec.training.preemption import Preemption
from ple_rec.training.step import train_step
from ple_rec.training.validation import validate
from tests.datasets import write_dataset
from tests.gpu_proofs.device_path import device_path
from tests.gpu_proofs.thread_ranks import Collective, MismatchError, Recorder, run_thread_ranks
from tests.reports.without_charts import without_charts
from tests.training.small import small_config

SAMPLES = 6  # of a rank in a step
STEPS = 4
RANKS_PER_HOST = 8
# Function of a rank, its phase and the number of its steps, by which a test chooses where something happens.
Place = Callable[[int, str, int], bool]
FEATURES = {"user": ("user",), "item": ("item", "last_item", "history")}
THREADS = ("rank 0", "checkpoint")  # The second one saves beside the training.
MIXED = {"user": "row_wise", "item": "column_wise", "tag": "table_wise"}


def _write(path: Path, world_size: int, **changes: Any) -> Path:
    """Write a dataset whose splits have enough row groups for the ranks."""
    write_dataset(path, rows=24 * world_size, row_group_rows=(7, 3), parts=3, **changes)
    return path


def _config(
    data: Path, world_size: int, shardings: Mapping[str, str] | None = None, changes: dict[str, Any] | None = None
) -> RunConfig:
    tables = {table: {"sharding": sharding} for table, sharding in (shardings or {}).items()}
    defaults: dict[str, Any] = {
        "data": {"virtual_shards": world_size},
        "embeddings": {"dim": 8, "tables": tables},
        "train": {"batch_size": SAMPLES * world_size, "steps": STEPS, "report_every": 2, "evaluate_every": 3},
        "checkpoint": {"every": 2},
    }
    for section, values in (changes or {}).items():
        defaults[section] = defaults.get(section, {}) | values
    return small_config(data, defaults)


@dataclass
class _Training:
    """Training on ranks that are threads, with the collectives of all ranks.

    Args:
        recorder: Collectives of all ranks.
        results: Return value of `train` on each rank, or the error that it raised.
        steps: Collectives of each rank at each step, by rank.
        plans: Sharding plan and number of dense parameters, by rank.
        ids: Number of ids of each feature at each step, by rank.
    """

    recorder: Recorder
    results: list[Any] = field(default_factory=list)
    steps: dict[int, list[list[Collective]]] = field(default_factory=dict)
    plans: dict[int, tuple[PlanFile, int]] = field(default_factory=dict)
    ids: dict[int, list[dict[str, int]]] = field(default_factory=dict)


class _EnoughError(Exception):
    pass


def _never(rank: int, phase: str, step: int) -> bool:
    return False


def _train(
    config: RunConfig,
    run_dir: Path,
    world_size: int,
    *,
    stops: Place = _never,
    diverges: Place = _never,
    most_steps: int = STEPS,
    **options: Any,
) -> _Training:
    """Train as `ple-rec train` does, on ranks that are threads.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        world_size: Number of ranks.
        stops: Function that returns True if a rank has received a stop signal.
        diverges: Function that returns True if the labels of a rank's batch are not finite.
        most_steps: Number of steps after which all ranks raise an `_EnoughError`.
        options: Further arguments of `train`.
    """
    training = _Training(Recorder(world_size))
    recorder, local_world_size = training.recorder, min(RANKS_PER_HOST, world_size)

    @contextmanager
    def process_group(_: Any) -> Iterator[Ranks]:
        yield Ranks(dist.get_rank(), world_size, local_world_size, torch.device("cpu"), 1)

    def step_of_rank(context: TrainContext, guard: Any, batch: Batch, step: int, *args: Any, **kwargs: Any) -> Any:
        if step == most_steps:
            raise _EnoughError
        rank = context.ranks.rank
        if diverges(rank, "step", step + 1):
            batch = replace(batch, labels_BK=torch.full_like(batch.labels_BK, torch.nan))
        training.plans[rank] = context.plan, context.unwrapped_model.dense_parameters()
        assert batch.sparse is not None
        counts = dict(zip(batch.sparse.keys(), batch.sparse.length_per_key(), strict=True))
        training.ids.setdefault(rank, []).append(counts)
        first = len(recorder.calls[rank])
        kwargs["stop"] = stops(rank, "step", step + 1)
        with recorder.phase("step"):
            output = train_step(context, guard, batch, step, *args, **kwargs)
        training.steps.setdefault(rank, []).append(recorder.calls[rank][first:])
        return output

    def in_phase(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with recorder.phase(name):
                return function(*args, **kwargs)

        return wrapper

    signal = PropertyMock(side_effect=lambda: stops(dist.get_rank(), recorder.current_phase(), 0))
    with ExitStack() as stack:
        for target, name, value in (
            (run, "process_group", process_group),
            (loop, "train_step", step_of_rank),
            (loop, "validate", in_phase("evaluation", validate)),
            (loop, "save_checkpoint", in_phase("save", loop.save_checkpoint)),
            (loop.Trainer, "_report", in_phase("report", loop.Trainer._report)),
            (Preemption, "is_stop_requested", signal),
        ):
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(device_path())
        stack.enter_context(without_charts())
        training.results = run_thread_ranks(
            lambda rank: run.train(config, run_dir, **options), recorder, local_world_size=RANKS_PER_HOST
        )
    return training


def _assert_finished(training: _Training) -> None:
    for result in training.results:
        if isinstance(result, BaseException):
            raise result
        assert result["steps"] == STEPS


def _assert_same_sequences(training: _Training, *phases: str) -> None:
    """Check that all ranks have called the same collectives in each group, and that these phases have some."""
    sequences: dict[str, list[Any]] = {}
    for rank in range(training.recorder.world_size):
        for group, calls in training.recorder.calls_by_group(rank).items():
            sequences.setdefault(group, []).append(calls)
    assert len(sequences["0"]) == training.recorder.world_size
    for of_ranks in sequences.values():
        assert all(calls == of_ranks[0] for calls in of_ranks)
    assert {call.phase for call in training.recorder.calls[0]} >= set(phases)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("collectives") / "data", 8)


def test_a_whole_training_of_8_ranks(data: Path, tmp_path: Path) -> None:
    training = _train(_config(data, 8, MIXED), tmp_path / "run", 8)
    _assert_finished(training)
    _assert_same_sequences(training, "step", "report", "evaluation", "save")


def test_a_stop_on_one_rank_and_the_run_that_goes_on(data: Path, tmp_path: Path) -> None:
    """With pipelined exchanges and a save in the background, whose thread has a group of its own."""
    changes = {
        "train": {"pipeline": "sparse_dist", "evaluate_every": STEPS},
        "checkpoint": {"every": 1, "asynchronous": True},
    }
    config = _config(data, 8, MIXED, changes)

    def stops(rank: int, phase: str, step: int) -> bool:
        return (rank, phase, step) == (3, "step", 2)

    training = _train(config, tmp_path / "run", 8, stops=stops)
    assert [type(result) for result in training.results] == [PreemptedError] * 8
    assert "asked to stop at step 2 of 4" in str(training.results[0])
    # The thread that saves runs beside the steps, so the phase of its collectives depends on time.
    _assert_same_sequences(training, "step")
    groups = {thread: {c.group for c in training.recorder.calls[0] if c.thread == thread} for thread in THREADS}
    assert groups["checkpoint"]
    assert not groups["checkpoint"] & groups["rank 0"]
    training = _train(config, tmp_path / "run", 8, resume=True)
    _assert_finished(training)
    assert len(training.steps[0]) == STEPS - 2
    _assert_same_sequences(training, "step", "evaluation")


def test_a_stop_on_one_rank_during_an_evaluation(data: Path, tmp_path: Path) -> None:
    config = _config(data, 8, changes={"train": {"evaluate_every": 1}})
    training = _train(config, tmp_path / "run", 8, stops=lambda rank, phase, _: (rank, phase) == (5, "evaluation"))
    assert [type(result) for result in training.results] == [PreemptedError] * 8
    _assert_same_sequences(training, "step", "evaluation", "save")


@pytest.mark.parametrize("spoilt_step", [1, 2])
def test_a_loss_that_is_not_finite_on_one_rank(spoilt_step: int, data: Path, tmp_path: Path) -> None:
    """The flag travels with the counts of the next step, or before a report or a save, by an all-reduce of its own."""
    training = _train(
        _config(data, 8), tmp_path / "run", 8, diverges=lambda rank, _, step: (rank, step) == (5, spoilt_step)
    )
    assert [type(result) for result in training.results] == [DivergedError] * 8
    assert str(training.results[0]).startswith(f"step {spoilt_step}: the loss")
    _assert_same_sequences(training, "step")


@pytest.mark.slow
def test_a_whole_training_of_64_ranks(tmp_path: Path) -> None:
    data = _write(tmp_path / "data", 64, capacity=1024)
    config = _config(data, 64, {"user": "row_wise", "item": "table_row_wise", "tag": "table_wise"})
    training = _train(config, tmp_path / "run", 64)
    _assert_finished(training)
    _assert_same_sequences(training, "step", "report", "evaluation", "save")


def _batch_bytes(plan: PlanFile, table: TablePlan, shard: Shard, ids_per_sample: float) -> int:
    """Return the bytes that a step exchanges for a shard by the plan: its ids, and the pooled rows of all ranks."""
    features = len(table.ids_per_sample)
    return shard_memory(
        rows=shard.rows,
        columns=shard.columns,
        dtype=table.dtype,
        ids_per_sample=(ids_per_sample / features,) * features,
        sharding=table.sharding,
        kernel=table.kernel,
        cache_load_factor=None,
        optimizer=plan.optimizer,
        cluster=plan.cluster,
        batch_size_per_rank=plan.batch_size_per_rank,
    ).batch


def _pooled_bytes(plan: PlanFile, shards: Sequence[tuple[TablePlan, Shard]]) -> int:
    return sum(_batch_bytes(plan, table, shard, 0.0) for table, shard in shards)


def _check_bytes(training: _Training) -> None:
    """Compare the collectives of the first step with the plan.

    An all-to-all of int64 sends counts of ids, and one of floats sends pooled rows, or in the backward pass, their
    gradients. For each sharding there is one of int32 with the lengths of bags, and one with the ids; the datasets of
    these tests have no weights of ids. Pooled rows of tables that are cut by rows are summed by a reduce-scatter, and
    their gradients come by an all-gather; if only the ranks of a host share a table, all-to-all operations with the
    other hosts follow, in groups of their own.
    """
    plan, dense_parameters = training.plans[0]
    world_size, samples, task_count = plan.cluster.world_size, plan.batch_size_per_rank, 2
    calls = [training.steps[rank][0] for rank in range(world_size)]
    shards = [(table, shard) for table in plan.tables for shard in table.shards(plan.cluster)]

    def exchanges(dtype: str, rank: int) -> list[Collective]:
        return [c for c in calls[rank] if c.sent is not None and c.dtype == dtype and c.group == "0"]

    def first_half(values: list[Collective]) -> list[Collective]:
        return values[: len(values) // 2]

    ids = lengths = 0
    for rank in range(world_size):
        own = [pair for pair in shards if pair[1].rank == rank]
        cut_by_rows = [pair for pair in own if pair[0].sharding in ("row_wise", "table_row_wise")]
        pooled_bytes = _pooled_bytes(plan, [pair for pair in own if pair not in cut_by_rows])
        for name in ("ReduceScatter SUM", "AllGather"):
            assert sum(c.bytes for c in calls[rank] if c.name == name) == _pooled_bytes(plan, cut_by_rows)
        assert sum(sum(c.sent or ()) for c in first_half(exchanges("float32", rank))) == pooled_bytes
        gradients = [exchanges("float32", r)[len(exchanges("float32", r)) // 2 :] for r in range(world_size)]
        assert sum((c.sent or ())[rank] for of_rank in gradients for c in of_rank) == pooled_bytes
        reduced = [(c.dtype, c.bytes) for c in calls[rank] if c.name == "AllReduce SUM"]
        # The guard sums counts of the tasks, flags of their losses and of the gradients, and two requests.
        assert sorted(reduced) == [("float32", 4 * dense_parameters), ("float64", 8 * (2 * task_count + 1 + 2))]
        assert {c.name for c in calls[rank]} <= {"AllToAllBase", "AllReduce SUM", "ReduceScatter SUM", "AllGather"}
        assert len(exchanges("int64", rank)) == len({table.sharding for table, _ in shards})
        lengths += sum(sum(c.sent or ()) for c in exchanges("int32", rank)[0::2])
        ids += sum(sum(c.sent or ()) for c in exchanges("int32", rank)[1::2])
    assert lengths == sum(4 * samples * world_size * len(table.ids_per_sample) for table, _ in shards)
    planned_ids = 0
    for table, shard in shards:
        count = sum(training.ids[rank][0][name] for rank in range(world_size) for name in FEATURES[table.table])
        mean = count / (samples * world_size)
        planned_ids += _batch_bytes(plan, table, shard, mean) - _batch_bytes(plan, table, shard, 0.0)
    # The plan counts 8 bytes an id, as TorchRec does; the loader's ids have 4. It rounds up for each shard.
    assert 0 <= planned_ids - 2 * ids <= len(shards)


@pytest.mark.parametrize(
    ("world_size", "shardings"),
    [
        (8, {"user": "row_wise", "item": "column_wise"}),
        (16, {"user": "table_row_wise", "item": "table_wise"}),
        (64, {"user": "table_row_wise", "item": "row_wise"}),
    ],
)
def test_a_step_exchanges_the_bytes_of_the_plan(world_size: int, shardings: dict[str, str], tmp_path: Path) -> None:
    data = _write(tmp_path / "data", world_size, capacity=1024, weighted_bag=False)
    training = _train(_config(data, world_size, shardings), tmp_path / "run", world_size, most_steps=1)
    assert [type(result) for result in training.results] == [_EnoughError] * world_size
    _assert_same_sequences(training, "step")
    assert {table.table: table.sharding for table in training.plans[0][0].tables} == shardings
    _check_bytes(training)


def _idle_ranks(plan: PlanFile) -> list[str]:
    """Return a line for each rank that would exchange pooled rows of a table of which it has none."""
    return [
        f"rank {shard.rank} has no rows of table {table.table}"
        for table in plan.tables
        for shard in table.shards(plan.cluster)
        if shard.rows == 0
    ]


@pytest.mark.parametrize("world_size", [8, 64])
def test_a_rank_without_rows_of_a_table(world_size: int, tmp_path: Path) -> None:
    """No plan has one, and a plan that has one, with the refusals of the layouts taken away, is reported."""
    cluster = Cluster(hosts=world_size // RANKS_PER_HOST, ranks_per_host=RANKS_PER_HOST, hardware=PRESETS["h100"])
    rows = {"user": 2000, "item": 65, "tag": world_size + 1}

    def plan(**shardings: str) -> PlanFile:
        tables = {table: {"sharding": sharding} for table, sharding in shardings.items()}
        embeddings = EmbeddingsConfig.model_validate({"dim": 8, "tables": tables})
        features = [SparseFeature(name=table, table=table) for table in rows]
        collection = embedding_collection(embeddings, features, rows, torch.device("meta"))
        assert collection is not None
        return make_plan(nn.ModuleDict({"tables": collection}), PlanningInputs(embeddings, "sgd", cluster, 64, {}))

    assert _idle_ranks(plan()) == []
    with pytest.raises(UserError, match="leave the last rank without rows"):
        plan(tag="row_wise")
    with patch.object(layouts, "_leaves_empty_shard", lambda *_: False):
        assert f"rank {world_size - 1} has no rows of table tag" in _idle_ranks(plan(tag="row_wise"))


def _mismatch(calls: Callable[[int], object]) -> str:
    """Return the error of three ranks that do what `calls` says, which do not call the same collectives."""
    with pytest.raises(MismatchError) as caught:
        run_thread_ranks(calls, Recorder(3))
    return str(caught.value)


def test_other_collectives_and_other_sizes_are_told_apart() -> None:
    def other_size(rank: int) -> None:
        dist.all_reduce(torch.zeros(2 if rank == 1 else 3))

    def other_operation(rank: int) -> None:
        (dist.all_reduce if rank == 1 else partial(dist.broadcast, src=0))(torch.zeros(3))

    def rank_zero_alone(rank: int) -> None:
        if rank == 0:
            dist.all_reduce(torch.zeros(3))

    assert "AllReduce SUM of 8 bytes" in _mismatch(other_size)
    assert "AllReduce SUM of 12 bytes" in _mismatch(other_operation)
    assert "rank 0 waits in AllReduce SUM of 12 bytes (float32, group 0, )" in _mismatch(rank_zero_alone)
