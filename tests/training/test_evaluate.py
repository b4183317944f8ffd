"""Evaluation: padding does not count, gates and histograms over all ranks (that ranks agree: test_equivalence)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from ple_rec.config.base import Split
from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.errors import DivergedError
from ple_rec.modules.routing import GateLabels
from ple_rec.training.context import build_context
from ple_rec.training.evaluate import GateStatistics, evaluate, score_batches
from tests.datasets import set_column
from tests.metrics.groups import Row, exactly, rows_of, truth
from tests.training.small import on_ranks, ranks_of, small_config, write_small

LEGEND = GateLabels(
    mixing="softmax",
    outputs=("a", "b"),
    experts=("a.0", "b.0", "shared.0"),
    edges_OE=((True, False, True), (False, True, True)),
    level=1,
)
TASKS = [Task(name="click", kind="binary", label="click")]


def _gates() -> Tensor:
    """(6, 2, 3); 0 where an output does not read."""
    torch.manual_seed(0)
    return torch.rand(6, 2, 3) * torch.tensor(LEGEND.edges_OE)


def _gate_statistics(rank: int, world_size: int) -> list[dict[str, Any]]:
    statistics = GateStatistics([LEGEND], torch.device("cpu"))
    padding = torch.full((2, 2, 3), float("inf"))
    for part in _gates()[: 4 if rank == 0 else None][0 if rank == 0 else 4 :].split(2):
        statistics.update([torch.cat([part, padding])], len(part))
    return statistics.compute()


def test_gates_are_described_over_the_rows_of_all_ranks() -> None:
    first, second = on_ranks(_gate_statistics, 2)
    assert first == second
    (level,) = first
    assert (level["level"], level["mixing"]) == (1, "softmax")
    assert (level["outputs"], level["experts"]) == (["a", "b"], ["a.0", "b.0", "shared.0"])
    mean, std = _gates().double().mean(0), _gates().double().std(0, correction=0)
    for found, expected in ((level["mean"], mean), (level["std"], std)):
        assert [[value is None for value in row] for row in found] == [[False, True, False], [True, False, False]]
        pairs = zip((v for row in found for v in row), expected.flatten().tolist(), strict=True)
        assert all(value is None or value == pytest.approx(wanted, rel=1e-6) for value, wanted in pairs)


class _Constant(nn.Module):
    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit
        self.modes: list[bool] = []

    def forward(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        self.modes.append(self.training)
        assert not torch.is_grad_enabled()
        return torch.full_like(batch.labels_BK, self.logit), []


def _batches() -> Iterator[Batch]:
    for _ in range(2):  # two rows, one of padding
        yield Batch(
            sparse=None,
            dense_BF=torch.zeros(3, 1),
            labels_BK=torch.tensor([[1.0], [0.0], [0.0]]),
            in_space_BK=torch.tensor([[1.0], [1.0], [0.0]]),
            weight_B=None,
            group_B=None,
            rows=2,
        )


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored_and_padding_does_not_count(training: bool) -> None:
    model = _Constant(0.0).train(training)
    result = evaluate(model, _batches(), TASKS, torch.device("cpu"), exact_limit=100)
    assert (model.training, model.modes) == (training, [False, False])
    assert result.keys() == {"tasks"}
    assert result["tasks"]["click"]["samples"] == 4
    assert not any("gauc" in key for key in result["tasks"]["click"])  # the batches have no groups
    assert result["tasks"]["click"]["logloss"] == pytest.approx(0.6931471805599453)


def test_the_mode_is_restored_where_batches_are_left_unread() -> None:
    model = _Constant(0.0).train()
    with closing(score_batches(model, _batches(), torch.device("cpu"))) as scored:
        batch, logits_BK, gates = next(scored)
        assert torch.is_grad_enabled()  # for who reads them, not for the model
        assert (batch.rows, logits_BK.shape, gates, model.training) == (2, (3, 1), [], False)
    assert (model.training, model.modes) == (True, [False])


def test_predictions_that_are_not_finite_are_no_metrics() -> None:
    with pytest.raises(DivergedError, match=r"metrics of click: 4 of 4 rows of its sample space hold a prediction"):
        evaluate(_Constant(float("nan")), _batches(), TASKS, torch.device("cpu"), exact_limit=100)


def _histogram(rank: int, world_size: int, data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    job = build_context(small_config(data), ranks_of(rank, world_size))
    results = []
    for exact_limit in (1000, 0):
        with closing(job.evaluation_loader("test").epoch(0)) as batches:
            results.append(
                evaluate(
                    job.model,
                    batches,
                    job.selection.tasks,
                    job.ranks.device,
                    exact_limit=exact_limit,
                    gate_labels=job.gate_labels,
                )
            )
    return results[0], results[1]


def test_a_histogram_keeps_its_bound_and_gates_sum_to_one(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    results = on_ranks(_histogram, 2, data)
    assert results[0] == results[1]
    exact, binned = (result["tasks"]["click"] for result in results[0])
    assert exact["auc_error_bound"] == 0
    assert abs(exact["auc"] - binned["auc"]) <= binned["auc_error_bound"] + 1e-12
    assert exact["samples"] == 101
    assert results[0][0].keys() == {"tasks", "curves", "gates"}
    for level in results[0][0]["gates"]:
        for row in level["mean"]:
            assert sum(value for value in row if value is not None) == pytest.approx(1, abs=1e-6)


def _requests(split: Split, table: pa.Table) -> pa.Table:
    """Null requests everywhere; in no order on the test split."""
    requests = table["request"].to_numpy()
    order = np.random.default_rng(0).permutation(len(requests)) if split == "test" else np.arange(len(requests))
    return set_column(table, "request", pa.array(requests[order], pa.int64(), mask=requests % 4 == 1))


def _gauc(
    rank: int, world_size: int, data: Path, prefix: str = "", splits: tuple[Split, ...] = ("valid", "test")
) -> list[tuple[dict[str, Any], list[Row]]]:
    """On each split what evaluation says of `click` by groups, or with a prefix by subgroups, and this rank's rows."""
    job = build_context(small_config(data), ranks_of(rank, world_size))
    answers = []
    for split in splits:
        loader = job.evaluation_loader(split)
        with closing(loader.epoch(0)) as batches:
            result = evaluate(job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000)
        rows = []
        job.model.eval()
        with closing(loader.epoch(0)) as batches, torch.no_grad():
            for batch in batches:
                group_B = batch.subgroup_B if prefix else batch.group_B
                assert group_B is not None
                columns = job.model(batch)[0][:, 0], batch.labels_BK[:, 0], batch.weight_B, batch.in_space_BK[:, 0]
                rows += rows_of(group_B, *columns)
        assert not any("gauc" in key for key in result["tasks"]["watch"])
        found = {k: v for k, v in result["tasks"]["click"].items() if k.startswith(f"{prefix}gauc")}
        answers.append(({key.removeprefix(prefix): value for key, value in found.items()}, rows))
    return answers


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_dataset_with_groups_gets_its_gauc(world_size: int, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data", edit=_requests)
    for ranks in zip(*on_ranks(_gauc, world_size, data), strict=True):
        expected = truth([row for _, rows in ranks for row in rows])
        assert expected.ungrouped > 10
        assert expected.groups > 3
        for found, _ in ranks:
            assert found == exactly(expected)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_dataset_with_subgroups_gets_both_gaucs(world_size: int, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data", subgroup=True)
    values = []
    for prefix in ("", "subgroup_"):
        for ranks in zip(*on_ranks(_gauc, world_size, data, prefix), strict=True):
            expected = truth([row for _, rows in ranks for row in rows])
            assert expected.groups > 3
            assert all(found == exactly(expected) for found, _ in ranks)
            values.append(expected.gauc)
    assert len(set(values)) == 4
