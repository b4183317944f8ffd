"""Orders and metrics of many settings at once, against a plain reading of their definitions, list by list."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ple_rec.errors import UserError
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.metrics import MetricName, build_metric

TASKS = {"click": "binary", "watch": "regression"}
GROUPS = np.array([5, 1, 1, 5, 7, 5, -1, 1, 1, 9, 9, 5, 5, -1])
Floats = NDArray[np.float64]


def rows_of(group: int) -> list[int]:
    """In the order that ties are broken by."""
    return [i for i in CandidateLists.from_groups(GROUPS).row_N.tolist() if GROUPS[i] == group]


def best_first(rows: list[int], scores: NDArray[np.floating]) -> list[int]:
    return sorted(rows, key=lambda i: -scores[i])


@pytest.fixture
def scores() -> Floats:
    """Of a wide range; some are tied, 0 with -0 too."""
    found = np.random.default_rng(0).normal(size=(40, len(GROUPS))) * 10.0 ** np.arange(-20, 20)[:, None]
    found[3] = 0.0
    found[4, ::2] = -0.0
    found[15:25] = np.random.default_rng(1).normal(size=(10, len(GROUPS))).round()
    return found


def test_rows_without_a_group_and_lists_of_one_are_left_out() -> None:
    lists = CandidateLists.from_groups(GROUPS)
    assert [GROUPS[i] for i in lists.row_N] == [9] * 2 + [1] * 4 + [5] * 5
    assert lists.size_L.tolist() == [2, 4, 5]
    assert lists.place_N.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_every_list_is_sorted_for_every_setting(scores: Floats) -> None:
    lists = CandidateLists.from_groups(GROUPS)
    ordered = lists.row_N[lists.order_rows(scores[:, lists.row_N]).row_WN]
    for row, found in zip(scores, ordered, strict=True):
        expected = [i for group in (9, 1, 5) for i in best_first(rows_of(group), row.astype(np.float32))]
        assert found.tolist() == expected


def many(*labels: int) -> tuple[CandidateLists, Floats]:
    """4,000 lists with these labels, in the order of the log; and the labels of the rows of lists."""
    lists = CandidateLists.from_groups(np.repeat(np.arange(4_000), len(labels)))
    return lists, np.tile(np.array(labels, float), 4_000)[lists.row_N]


@pytest.mark.parametrize("labels", [(1, 1, 0, 0), (0, 0, 1, 1), (1, 0, 0, 1)])
def test_rows_of_one_score_do_not_stand_in_the_order_of_the_log(labels: tuple[int, ...]) -> None:
    lists, label_N = many(*labels)
    ordered = lists.order_rows(np.zeros((2, len(lists.row_N))))
    assert (ordered.row_WN[0] == ordered.row_WN[1]).all()  # for every fusion the same
    assert (lists.row_N == CandidateLists.from_groups(np.repeat(np.arange(4_000), 4)).row_N).all()
    by_chance = {"mean@2": 1 / 2, "hit@1": 1 / 2, "hit@2": 5 / 6, "ndcg@1": 1 / 2, "map@1": 1 / 2}  # of all 6 orders
    for name, expected in by_chance.items():
        found = build_metric(MetricName.parse(f"click.{name}", TASKS, "--target"), lists, label_N).mean(ordered)
        assert found == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(4_000))


@pytest.mark.parametrize("labels", [(1, 1, 0, 0), (0, 0, 1, 1), (1, 0, 0)])
def test_tied_pairs_count_one_half(labels: tuple[int, ...]) -> None:
    lists, label_N = many(*labels)
    metric = build_metric(MetricName("click", "gauc", 0), lists, label_N)
    zeros = np.zeros((1, len(lists.row_N)))
    for scores_WN in (zeros, -zeros, np.where(label_N > 0, 0.0, -0.0)[None]):
        assert metric.mean(lists.order_rows(scores_WN)) == pytest.approx(0.5, abs=1e-12)
    assert metric.mean(lists.order_rows(label_N[None])) == pytest.approx(1.0, abs=1e-12)
    assert metric.mean(lists.order_rows(-label_N[None])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 30, None], ids=str)
def test_gauc_is_the_mean_of_sklearns_auc_by_rows(steps: int | None) -> None:
    rng = np.random.default_rng(2)
    group, label = rng.integers(0, 40, 600), (rng.random(600) < 0.1).astype(float)  # some lists have no positive
    scores = rng.normal(size=(5, 600)) + label
    if steps is not None:
        scores = np.floor(scores * steps / 4)
    lists = CandidateLists.from_groups(group)
    metric = build_metric(MetricName("click", "gauc", 0), lists, label[lists.row_N])
    ordered = lists.order_rows(scores[:, lists.row_N])
    above, below = metric.list_terms(ordered)
    for w, row in enumerate(scores.astype(np.float32)):
        of_lists, sizes = [], []
        for own in np.split(lists.row_N, lists.start_L[1:]):
            if 0 < label[own].sum() < len(own):
                of_lists.append(roc_auc_score(label[own], row[own]))
                sizes.append(len(own))
        assert metric.mean(ordered)[w] == pytest.approx(np.average(of_lists, weights=sizes), abs=1e-12)
        assert below[w].tolist() == sizes
        assert above[w] / below[w] == pytest.approx(np.array(of_lists), abs=1e-12)


def plain(kind: str, k: int, labels: list[float]) -> float | None:
    """Of the labels of one list, best first."""
    positives = sum(y > 0 for y in labels)
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


@pytest.mark.parametrize("name", [f"{metric}@{k}" for metric in SEEN for k in (1, 3, 50)])
def test_metrics_are_those_of_their_definition(name: str, scores: Floats) -> None:
    rng = np.random.default_rng(1)
    label = (rng.random(len(GROUPS)) < 0.5).astype(float) if name.startswith("click") else rng.random(len(GROUPS))
    lists, measured = CandidateLists.from_groups(GROUPS), MetricName.parse(name, TASKS, "--target")
    metric = build_metric(measured, lists, label[lists.row_N])
    found = metric.mean(lists.order_rows(scores[:, lists.row_N]))
    for row, value in zip(scores, found, strict=True):
        orders = [best_first(rows_of(group), row.astype(np.float32)) for group in (9, 1, 5)]
        of_lists = [plain(measured.kind, measured.places, [label[i] for i in order]) for order in orders]
        assert value == pytest.approx(np.mean([one for one in of_lists if one is not None]), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_a_value_is_a_ratio_over_the_seen_rows_of_all_lists(k: int, scores: Floats) -> None:
    rng = np.random.default_rng(2)
    label, weight = rng.random(len(GROUPS)), rng.exponential(size=len(GROUPS))
    lists = CandidateLists.from_groups(GROUPS)
    metric = build_metric(MetricName("watch", "value", k), lists, label[lists.row_N], weight[lists.row_N])
    ordered = lists.order_rows(scores[:, lists.row_N])
    above, below = metric.list_terms(ordered)
    effective = metric.effective_rows(ordered)
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
        ("clik.gauc", r'the tasks are click, watch\. Fix: did you mean "click\.gauc"\?'),
        ("click.men@3", r'TASK\.value@K\. Fix: did you mean "click\.mean@3"\?'),
        ("watch.mp@3", r'Fix: did you mean "watch\.'),
        ("x", r"Fix: for example click\.ndcg@10"),
        ("watch.map@3", "map needs labels of 0 and 1"),
    ],
)
def test_what_is_no_metric_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MetricName.parse(text, TASKS, "--target")


def test_a_metric_that_no_list_defines_is_refused() -> None:
    lists = CandidateLists.from_groups(GROUPS)
    with pytest.raises(
        UserError, match=r"click\.gauc: is defined on no list; it needs lists with a positive and a negative"
    ):
        build_metric(MetricName("click", "gauc", 0), lists, np.ones(len(lists.row_N)))
    with pytest.raises(UserError, match=r"valid, lists by page: no list has 2 rows or more"):
        CandidateLists.from_groups(np.arange(5), "valid, lists by page")
