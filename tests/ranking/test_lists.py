"""Orders and metrics of many settings at once, against a plain reading of their definitions, list by list."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ple_rec.errors import UserError
from ple_rec.ranking.lists import Lists
from ple_rec.ranking.metrics import Measured, metric_of

TASKS = {"click": "binary", "watch": "regression"}
GROUPS = np.array([5, 1, 1, 5, 7, 5, -1, 1, 1, 9, 9, 5, 5, -1])
Floats = NDArray[np.float64]


def rows_of(group: int) -> list[int]:
    return [i for i, found in enumerate(GROUPS) if found == group]


def best_first(rows: list[int], scores: NDArray[np.floating]) -> list[int]:
    return sorted(rows, key=lambda i: (-scores[i], i))


@pytest.fixture
def scores() -> Floats:
    found = np.random.default_rng(0).normal(size=(40, len(GROUPS))) * 10.0 ** np.arange(-20, 20)[:, None]
    found[3] = 0.0
    found[4] = -0.0
    return found


def test_rows_without_a_group_and_lists_of_one_are_left_out() -> None:
    lists = Lists.of(GROUPS)
    assert [GROUPS[i] for i in lists.row_N] == [9] * 2 + [1] * 4 + [5] * 5
    assert lists.size_L.tolist() == [2, 4, 5]
    assert lists.place_N.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_every_list_is_sorted_for_every_setting(scores: Floats) -> None:
    lists = Lists.of(GROUPS)
    ordered = lists.row_N[lists.ordered(scores[:, lists.row_N])]
    for row, found in zip(scores, ordered, strict=True):
        expected = [i for group in (9, 1, 5) for i in best_first(rows_of(group), row.astype(np.float32))]
        assert found.tolist() == expected


def plain(kind: str, k: int, labels: list[float]) -> float | None:
    """Of the labels of one list, best first."""
    positives = sum(y > 0 for y in labels)
    if kind == "gauc":
        pairs = [(i, j) for i, a in enumerate(labels) for j, b in enumerate(labels) if a > 0 and b == 0]
        return sum(i < j for i, j in pairs) / len(pairs) if pairs else None
    if kind == "mean":
        return sum(labels[:k]) / min(k, len(labels))
    if not positives:
        return None
    if kind == "hit":
        return float(any(y > 0 for y in labels[:k]))
    if kind == "map":
        found = [sum(labels[: r + 1]) / (r + 1) for r, y in enumerate(labels[:k]) if y]
        return sum(found) / min(k, positives)

    def dcg(values: list[float]) -> float:
        return sum(y / math.log2(r + 2) for r, y in enumerate(values[:k]))

    return dcg(labels) / dcg(sorted(labels, reverse=True))


SEEN = ("click.ndcg", "click.map", "click.hit", "watch.ndcg", "watch.mean")


@pytest.mark.parametrize("name", ["click.gauc", *(f"{metric}@{k}" for metric in SEEN for k in (1, 3, 50))])
def test_metrics_are_those_of_their_definition(name: str, scores: Floats) -> None:
    rng = np.random.default_rng(1)
    label = (rng.random(len(GROUPS)) < 0.5).astype(float) if name.startswith("click") else rng.random(len(GROUPS))
    lists, measured = Lists.of(GROUPS), Measured.parse(name, TASKS, "--target")
    metric = metric_of(measured, lists, label[lists.row_N])
    found = metric.mean(lists.ordered(scores[:, lists.row_N]))
    for row, value in zip(scores, found, strict=True):
        of_lists, weights = [], []
        for group in (9, 1, 5):
            rows = rows_of(group)
            one = plain(measured.kind, measured.places, [label[i] for i in best_first(rows, row.astype(np.float32))])
            if one is not None:
                of_lists.append(one)
                weights.append(len(rows) if measured.kind == "gauc" else 1)
        assert value == pytest.approx(np.average(of_lists, weights=weights), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_a_value_is_a_ratio_over_the_seen_rows_of_all_lists(k: int, scores: Floats) -> None:
    rng = np.random.default_rng(2)
    label, weight = rng.random(len(GROUPS)), rng.exponential(size=len(GROUPS))
    lists = Lists.of(GROUPS)
    metric = metric_of(Measured("watch", "value", k), lists, label[lists.row_N], weight[lists.row_N])
    ordered = lists.ordered(scores[:, lists.row_N])
    above, below = metric.sums(ordered)
    effective = metric.effective(ordered)
    assert effective is not None
    for w, row in enumerate(scores):
        seen = [best_first(rows_of(group), row.astype(np.float32))[:k] for group in (9, 1, 5)]
        rows = [i for own in seen for i in own]
        value = sum(weight[i] * label[i] for i in rows) / sum(weight[i] for i in rows)
        assert metric.mean(ordered)[w] == pytest.approx(value, abs=1e-12)
        assert above[w] == pytest.approx([sum(weight[i] * label[i] for i in own) for own in seen])
        assert below[w] == pytest.approx([sum(weight[i] for i in own) for own in seen])
        assert effective[w] == pytest.approx(sum(weight[i] for i in rows) ** 2 / sum(weight[i] ** 2 for i in rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click", 'got "click"; it is TASK.gauc, TASK.ndcg@K'),
        ("click.gauc@3", "it is TASK.gauc"),
        ("click.ndcg", "it is TASK.gauc"),
        ("click.ndcg@0", "K places are seen, one or more"),
        ("like.gauc", "the tasks are click, watch"),
        ("watch.map@3", "map needs labels of 0 and 1"),
    ],
)
def test_what_is_no_metric_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Measured.parse(text, TASKS, "--target")


def test_a_metric_that_no_list_defines_is_refused() -> None:
    lists = Lists.of(GROUPS)
    with pytest.raises(UserError, match=r"click\.gauc: no list has one; it needs lists with a positive and a negative"):
        metric_of(Measured("click", "gauc", 0), lists, np.ones(len(lists.row_N)))
    with pytest.raises(UserError, match=r"no group has 2 rows or more"):
        Lists.of(np.arange(5))
