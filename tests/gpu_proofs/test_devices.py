"""Trainings on a CUDA device that is not there: where they wait for it or mix devices, and what they compute.

A process of its own (`fake_cuda`) trains whole runs and all variants. Each place at which the host would wait for a
GPU, or at which an operator has tensors of two devices, is on a list below with its reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_proofs.fake_cuda.library import find_problem
from tests.project_files import REPOSITORY
from tests.training.small import write_small

Result = dict[str, Any]

# Places in a step.
STEP = {
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard._read": "flags of the step before, which are on their way",
    "backward pass": "FBGEMM's kernels take the learning rate as a tensor on the CPU",
    "fbgemm_gpu/split_table_batched_embeddings_ops_training.py: SplitTableBatchedEmbeddingBagsCodegen.forward": (
        "the number of steps, at the first step"
    ),
    "torchrec/distributed/sharding/rw_sharding.py: RwSparseFeaturesDist.__init__": "at the first step",
    "torchrec/distributed/dist_data.py: PooledEmbeddingsAllToAll.__init__": "at the first step",
    "torchrec/sparse/jagged_tensor_validator.py: _validate_lengths": "check of the first batch",
    "torchrec/sparse/jagged_tensor_validator.py: _validate_feature_range": "check of the first batch",
    "torchrec/sparse/jagged_tensor.py: _cuda_to_cpu_safe": "numbers of ids of each feature, if tables are row-wise",
    "torchrec/distributed/dist_data.py: _get_recat": "order of the features of all ranks",
}
# Places in a report, which reads its figures.
REPORT = {
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard.synchronize": "flags of the last step",
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard._read": "the same flags",
    "ple_rec/training/progress.py: ReportWindow.report": "losses, weights and times of the window",
    "ple_rec/metrics/accumulator.py: compute": "sums of the metrics",
    "ple_rec/metrics/binary.py: BinaryAccumulator._aucs": "histogram of the logits",
}
# Places in an evaluation beside those of a step: metrics are computed once, and GAUC once in many batches.
EVALUATION = {
    "ple_rec/metrics/accumulator.py: compute": "sums of the metrics",
    "ple_rec/metrics/accumulator.py: curves": "histogram of the logits",
    "ple_rec/metrics/binary.py: BinaryAccumulator._aucs": "buffer or histogram of the logits",
    "ple_rec/metrics/collection.py: MetricCollection._column_index": "columns of a kind of task, before the batches",
    "ple_rec/metrics/gauc.py: GroupAuc._add_in_order": "ends of groups, once in 2^18 rows",
    "ple_rec/metrics/gauc.py: GroupAuc._continues_order": "order of groups, once in 2^18 rows",
    "ple_rec/metrics/gauc.py: GroupAuc._continues_order.<locals>.<genexpr>": "order of groups, once in 2^18 rows",
    "ple_rec/metrics/gauc.py: GroupAuc._flush": "rows that count, once in 2^18 rows",
    "ple_rec/metrics/gauc.py: GroupAuc._gather_summaries": "ends of the groups of all ranks",
    "ple_rec/metrics/gauc.py: GroupAuc._own_sums": "groups that no other rank has",
    "ple_rec/metrics/gauc.py: GroupAuc.compute": "sums of all groups",
    "ple_rec/metrics/group_auc.py: GroupRows.filter": "rows that count, once in 2^18 rows",
    "ple_rec/metrics/group_auc.py: _running_sum": "length of the longest group, once in 2^18 rows",
    "ple_rec/metrics/group_auc.py: _sums_of_task": "rows that count, once in 2^18 rows",
    "ple_rec/metrics/group_auc.py: group_areas": "number of groups, once in 2^18 rows",
    "ple_rec/training/early_stopping.py: broadcast_score": "score of rank 0",
    "ple_rec/training/evaluate.py: _mask_unread": "means of gate weights",
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard.__init__": "empty flags, before the batches",
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard._read": "stop requests of the batch before",
    "ple_rec/training/slices.py: SliceMetrics.compute": "numbers of rows",
    "torchrec/sparse/jagged_tensor.py: _cuda_to_cpu_safe": "numbers of ids of each feature, if tables are row-wise",
    "torchrec/distributed/dist_data.py: _get_recat": "order of the features of all ranks",
}
# Places in a save.
SAVE = {
    "ple_rec/training/finite.py: check_finite": "flags of all weights",
    "ple_rec/checkpoint/store.py: CheckpointStore._write": "weights, if training waits for the save",
    "ple_rec/checkpoint/background.py: Stager.stage": "copies of all weights, if it does not",
}
# Places of the project before the first step and after the last.
OTHER = {
    "ple_rec/models/build.py: build_model": "initial weights",
    "ple_rec/checkpoint/load.py: _load": "weights of a checkpoint",
    "ple_rec/checkpoint/store.py: CheckpointStore._write": "the thread of a save, which waits for itself alone",
    "ple_rec/metrics/collection.py: MetricCollection._column_index": "columns of a kind of task",
    "ple_rec/distributed/table_rows.py: TableRows.__init__": "shards of all ranks",
    "ple_rec/training/non_finite_guard.py: NonFiniteGuard.__init__": "empty flags",
    "ple_rec/training/table_health.py: _AllNorms.order_statistics": "norms of rows",
    "ple_rec/training/table_health.py: row_health": "rows that training did not change",
}
PLACES = {"step": STEP, "report": REPORT, "evaluation": EVALUATION, "save": SAVE, "other": OTHER}


# Places in a step on several ranks, beside those above.
SEVERAL_RANKS = {
    "ple_rec/models/embeddings.py: ColumnOrder.__init__.<locals>.index": "at the first step",
    "torchrec/distributed/embeddingbag.py: ShardedEmbeddingBagCollection._create_input_dist": "at the first step",
    "torchrec/distributed/dist_data.py: KJTAllToAllSplitsAwaitable.__init__": "numbers of ids that ranks exchange",
    "torchrec/distributed/dist_data.py: KJTAllToAllSplitsAwaitable.__init__.<locals>.<listcomp>": "the same numbers",
}


def run(folder: Path, *options: str) -> None:
    """Run the scenarios in new processes, which write their results into the folder."""
    if problem := find_problem():
        pytest.skip(problem)
    command = [sys.executable, "-W", "ignore", *options, "-m", "tests.gpu_proofs.fake_cuda", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("fake_cuda")
    run(folder)
    outcome: Result = json.loads((folder / "result.json").read_text())
    return outcome


@pytest.mark.parametrize("phase", PLACES)
def test_a_training_waits_for_the_device_or_mixes_devices_at_listed_places_only(result: Result, phase: str) -> None:
    events = [event for name in ("everything", "requests") for event in result["events"][name]]
    places = {event["place"] for event in events if event["phase"] == phase}
    if phase == "other":
        places = {place for place in places if place.startswith("ple_rec/")}
    assert sorted(places) == sorted(PLACES[phase])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_dense_layers_of_no_variant_wait_or_mix_devices(result: Result, precision: str) -> None:
    events = {name: events for name, events in result["events"].items() if name.endswith(f" {precision}")}
    assert len(events) == 10
    assert [event for each in events.values() for event in each if event["phase"] == "step"] == []


def test_runs_on_the_device_have_the_results_of_the_cpu(result: Result) -> None:
    """Runs on the device were interrupted and resumed, those on the CPU were not."""
    assert len(result["cpu"]) == 22
    for name, expected in result["cpu"].items():
        assert result["cuda"][name] == expected, name


def test_the_fake_device_sees_what_a_gpu_would_wait_for(result: Result) -> None:
    for code, (expected, outcome) in result["operations"].items():
        assert outcome == expected, code


@pytest.mark.slow
def test_two_ranks_wait_or_mix_devices_at_listed_places_only(tmp_path: Path) -> None:
    write_small(tmp_path / "data", subgroup=True)
    run(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    results = [json.loads((tmp_path / f"result-{rank}.json").read_text()) for rank in range(2)]
    assert results[0]["metrics"] == results[1]["metrics"]
    for result in results:
        places = {event["place"] for event in result["events"] if event["phase"] == "step"}
        assert {*SEVERAL_RANKS} <= places <= {*STEP, *SEVERAL_RANKS}
