"""The one table of metrics is true of what is computed, of the choice of checkpoints and of their page in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ple_rec.config.metrics import GAUCS, METRICS, Metric, is_higher_better, needs_both_classes, selection_metrics
from ple_rec.config.run import RuntimeConfig
from ple_rec.config.schema import Task
from ple_rec.distributed.process_group import process_group
from ple_rec.metrics import MetricCollection
from ple_rec.training.validation import checkpoint_score

TASKS = (Task(name="click", kind="binary", label="click"), Task(name="watch", kind="regression", label="watch"))
# Numbers beside the metrics: what a figure is over, or how far it may be off.
OTHERS = {
    "positives",
    "mean_label",
    "mean_prediction",
    "auc_error_bound",
    *(
        f"{gauc}_{key}"
        for gauc in GAUCS
        for key in ("groups", "excluded_groups", "oversized_groups", "ungrouped", "exact", "interval")
    ),
}


def test_the_table_has_every_metric_of_each_kind_that_is_computed() -> None:
    collection = MetricCollection(TASKS, "cpu", gauc=True, r2=True)
    labels = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 3.0], [0.0, 0.5]])
    with process_group(RuntimeConfig(device="cpu")):
        collection.update(torch.rand(4, 2), labels, torch.ones(4, 2), None, *2 * [torch.tensor([0, 0, 1, 1])])
        computed = collection.compute()
    for task in TASKS:
        assert set(computed[task.name]) - OTHERS == {metric.key for metric in METRICS if task.kind in metric.task_kinds}


def test_the_table_knows_what_one_class_leaves_undefined() -> None:
    collection = MetricCollection(TASKS[:1], "cpu", gauc=True)
    with process_group(RuntimeConfig(device="cpu")):
        groups = torch.zeros(4, dtype=torch.long)
        collection.update(torch.rand(4, 1), torch.ones(4, 1), torch.ones(4, 1), None, groups, groups)
        computed = collection.compute()["click"]
    assert {key for key, value in computed.items() if value is None} - OTHERS == {
        metric.key for metric in METRICS if metric.needs_both_classes
    }
    assert needs_both_classes("auc")
    assert not needs_both_classes("loss")


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric.can_select], ids=lambda metric: metric.key)
def test_the_best_checkpoint_and_a_comparison_agree(metric: Metric) -> None:
    found = [checkpoint_score(f"click.{metric.key}", {"click": {metric.key: value}}, 0.0) for value in (0.25, 0.75)]
    scores = [score for score in found if score is not None]
    assert [metric.rank_key(value) for value in (0.25, 0.75)] == [-score for score in scores]
    assert scores == sorted(scores, reverse=not is_higher_better(f"mean.{metric.key}"))


def test_a_kind_is_judged_by_its_own_metrics() -> None:
    assert selection_metrics("binary") == ["auc", "gauc", "subgroup_gauc", "ne", "logloss"]
    assert selection_metrics("regression") == ["mse", "rmse", "mae"]
    assert not is_higher_better("loss")


def test_the_docs_have_every_metric(repository: Path) -> None:
    page = (repository / "docs" / "metrics.md").read_text()
    assert [metric.key for metric in METRICS if f"`{metric.key}`" not in page] == []
