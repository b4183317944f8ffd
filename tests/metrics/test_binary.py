"""Binary metrics against scikit-learn, their edges, and the error bound of the histogram AUC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from ple_rec.errors import DivergedError, UserError
from tests.metrics.one_task import OneTask


def _fed(logits: Tensor, labels: Tensor, weight: Tensor | None = None, *, limit: int = 1 << 20) -> OneTask:
    metrics = OneTask("binary", limit)
    for rows in torch.arange(len(logits)).split(100):
        metrics.update(logits[rows], labels[rows], None if weight is None else weight[rows], torch.ones(len(rows)))
    return metrics


def _draw(rows: int, rate: float, step: float, scale: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in steps of `step` (0: none), higher for positives; both classes occur."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=generator) < rate).float()
    labels[0], labels[1] = 0, 1
    logits = scale * (torch.randn(rows, generator=generator) + labels)
    if step:
        logits = (logits / step).round() * step
    return logits, labels, torch.rand(rows, generator=generator) + 0.01


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_all_values_equal_scikit_learn(weighted: bool, step: float) -> None:
    logits, labels, weight = _draw(1000, 0.2, step, 2.0, seed=1)
    result = _fed(logits, labels, weight if weighted else None).compute()
    y, w = labels.numpy(), weight.numpy().astype(float) if weighted else np.ones(1000)
    p = logits.double().sigmoid().numpy()
    mean = np.average(y, weights=w)
    expected_loss = log_loss(y, p, sample_weight=w)
    assert result == {
        "samples": 1000,
        "positives": int(y.sum()),
        "auc": pytest.approx(roc_auc_score(y, logits.numpy(), sample_weight=w), rel=1e-12),
        "auc_error_bound": 0.0,
        "ne": pytest.approx(expected_loss / log_loss(y, np.full(1000, mean), sample_weight=w), rel=1e-12),
        "logloss": pytest.approx(expected_loss, rel=1e-12),
        "calibration": pytest.approx(np.average(p, weights=w) / mean, rel=1e-12),
        "mean_label": pytest.approx(mean, rel=1e-12),
        "mean_prediction": pytest.approx(np.average(p, weights=w), rel=1e-12),
    }


def test_ne_is_in_nats_relative_to_the_mean_label() -> None:
    """p = 1/4 for labels 1, 0, 0, 0 has NE 1: it is the mean label; p = 1/2 costs log 2 a sample."""
    labels = torch.tensor([1.0, 0, 0, 0])
    assert _fed(torch.full((4,), math.log(1 / 3)), labels).compute()["ne"] == pytest.approx(1, rel=1e-7)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert _fed(torch.zeros(4), labels).compute()["ne"] == pytest.approx(math.log(2) / entropy, rel=1e-12)


def test_a_tie_counts_half_and_the_order_of_feeding_does_not_matter() -> None:
    logits, labels = torch.tensor([2.0, 0.5, 0.5, -1.0]), torch.tensor([1.0, 1, 0, 0])
    assert _fed(logits, labels).compute()["auc"] == 0.875
    assert _fed(logits.flip(0), labels.flip(0)).compute()["auc"] == 0.875


def test_log_loss_keeps_its_digits_where_the_probability_rounds_to_one() -> None:
    logits, labels = torch.tensor([50.0, -50.0, 200.0]), torch.tensor([1.0, 0, 0])
    assert _fed(logits[:2], labels[:2]).compute()["logloss"] == pytest.approx(math.exp(-50), rel=1e-12)
    assert _fed(logits, labels).compute()["logloss"] == pytest.approx(200 / 3, rel=1e-12)
    wrong = _fed(torch.tensor([21.0]), torch.tensor([0.0])).compute()["logloss"]
    assert wrong == pytest.approx(21 + math.log1p(math.exp(-21)), rel=1e-12)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([0.003, 0.05, 0.5, 0.99]),
    step=st.sampled_from([0.0, 1e-4, 3e-3, 1.0]),
    scale=st.sampled_from([1e-4, 1e-2, 1.0, 30.0]),
    rows=st.integers(2, 800),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_truth_lies_within_the_error_bound(
    rate: float, step: float, scale: float, rows: int, weighted: bool, seed: int
) -> None:
    logits, labels, weight = _draw(rows, rate, step, scale, seed)
    if not weighted:
        weight = torch.ones(rows)
    result = _fed(logits, labels, weight, limit=0).compute()
    truth = roc_auc_score(labels.numpy(), logits.numpy(), sample_weight=weight.numpy().astype(float))
    auc, bound = result["auc"], result["auc_error_bound"]
    assert auc is not None
    assert bound is not None
    assert abs(auc - truth) <= bound + 1e-12
    assert _fed(logits, labels, weight).compute()["auc"] == pytest.approx(truth, rel=1e-12)


def test_the_error_bound_is_reached_and_small_for_spread_logits() -> None:
    """One bin for two separable classes: the bound is all there is. Spread over the range: below 1e-4."""
    close = _fed(torch.tensor([0.0, 1e-4]), torch.tensor([0.0, 1.0]), limit=0).compute()
    assert (close["auc"], close["auc_error_bound"]) == (0.5, 0.5)
    beyond = _fed(torch.tensor([17.0, 900.0]), torch.tensor([0.0, 1.0]), limit=0).compute()
    assert (beyond["auc"], beyond["auc_error_bound"]) == (0.5, 0.5)
    logits, labels, _ = _draw(20_000, 0.3, 0.0, 1.0, seed=3)
    bound = _fed(logits, labels, limit=0).compute()["auc_error_bound"]
    assert bound is not None
    assert 0 < bound < 1e-4


def test_auc_is_exact_up_to_the_limit_and_memory_is_bounded_beyond() -> None:
    logits, labels, weight = _draw(1001, 0.3, 0.0, 1.0, seed=5)
    inside = _fed(logits[:1000], labels[:1000], weight[:1000], limit=1000)
    beyond = _fed(logits, labels, weight, limit=1000)
    assert inside.compute()["auc_error_bound"] == 0.0
    assert beyond.compute() == _fed(logits, labels, weight, limit=0).compute()
    assert beyond.compute()["auc_error_bound"] != 0.0
    states = inside.collection.state_dict(), beyond.collection.state_dict()
    sizes = [{key: len(torch.as_tensor(state[f"binary.{key}"])) for key in ("buffer", "histogram")} for state in states]
    assert sizes == [{"buffer": 1000, "histogram": 0}, {"buffer": 0, "histogram": 1}]
    grown = _fed(logits[:300], labels[:300]).collection.state_dict()[
        "binary.buffer"
    ]  # a buffer doubles: 100, 200, 400 rows
    assert isinstance(grown, Tensor)
    assert grown.untyped_storage().nbytes() == 300 * 8  # what a checkpoint would write


@pytest.mark.parametrize("limit", [0, 100])
def test_rows_outside_the_space_count_nothing_whatever_they_hold(limit: int) -> None:
    logits, labels = torch.tensor([1.0, torch.nan, -1.0, torch.inf]), torch.tensor([1.0, 0.0, 0.0, torch.nan])
    weight, in_space = torch.tensor([1.0, 5.0, 2.0, torch.nan]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    kept = torch.tensor([0, 2])
    masked, zeros = OneTask("binary", limit), OneTask("binary", limit)
    masked.update(logits, labels, weight, in_space)
    clean_logits, clean_labels, clean_weight = (column.where(in_space > 0, 0.0) for column in (logits, labels, weight))
    zeros.update(clean_logits, clean_labels, clean_weight, in_space)
    assert masked.compute() == zeros.compute()
    assert masked.compute()["samples"] == 2
    assert masked.curves() == zeros.curves()
    alone = _fed(logits[kept], labels[kept], weight[kept], limit=limit).compute()
    # Two rows and four may be computed by other instructions.
    assert masked.compute() == {key: pytest.approx(value, rel=1e-12) for key, value in alone.items()}


@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_and_no_ne(limit: int, label: float) -> None:
    result = _fed(torch.tensor([0.0, 1.0]), torch.full((2,), label), limit=limit).compute()
    assert (result["auc"], result["auc_error_bound"], result["ne"]) == (None, None, None)
    assert (result["samples"], result["positives"], result["mean_label"]) == (2, 2 * label, label)
    assert result["logloss"] is not None
    assert (result["calibration"] is None) == (label == 0)


@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize("rows", [0, 2])
def test_without_weight_all_is_undefined(limit: int, rows: int) -> None:
    metrics = _fed(torch.ones(rows), torch.arange(float(rows)), torch.zeros(rows), limit=limit)
    result = metrics.compute()
    assert (result.pop("samples"), result.pop("positives")) == (rows, rows // 2)
    assert set(result.values()) == {None}
    assert metrics.curves() == {"calibration": [], "roc": []}


@pytest.mark.parametrize(
    ("logits", "weight"), [([torch.nan, 1.0], [1.0, 1.0]), ([-torch.inf, 1.0], [1.0, 1.0]), ([0.0, 1.0], [-1.0, 1.0])]
)
def test_a_value_in_the_space_that_is_not_finite_is_an_error(logits: list[float], weight: list[float]) -> None:
    metrics = _fed(torch.tensor(logits), torch.tensor([0.0, 1.0]), torch.tensor(weight))
    with pytest.raises(DivergedError) as caught:
        metrics.compute()
    assert str(caught.value) == (
        "metrics of task: 1 of 2 rows of its sample space hold a prediction, label or weight that is not "
        "finite, or a negative weight; a metric over them would mean nothing. Fix: lower the learning rate or clip "
        "gradients; if it happens at the first step, check the data"
    )
    metrics.collection.reset()
    assert metrics.compute()["samples"] == 0


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: got shape \(1, 1\); expected \(3, 1\) for tasks \('task',\)"):
        OneTask("binary").update(torch.zeros(3), torch.zeros(1), None, torch.ones(3))
    with pytest.raises(ValueError, match=r"exact_limit: got -1; must be >= 0"):
        OneTask("binary", -1)


@pytest.mark.parametrize("limit", [0, 250, 1000])
def test_merging_states_equals_feeding_everything(limit: int) -> None:
    """250: the first part fits in the buffer, the whole does not."""
    logits, labels, weight = _draw(400, 0.3, 0.25, 2.0, seed=7)
    whole = _fed(logits, labels, weight, limit=limit)
    first = _fed(logits[:200], labels[:200], weight[:200], limit=limit)
    second = _fed(logits[200:], labels[200:], weight[200:], limit=limit)

    resumed = OneTask("binary", limit).merged(first)
    assert resumed.compute() == first.compute()
    for rows in torch.arange(200, 400).split(100):
        resumed.update(logits[rows], labels[rows], weight[rows], torch.ones(100))
    assert resumed.compute() == whole.compute()
    assert first.compute() == OneTask("binary", limit).merged(first).compute()  # updates did not reach into the state

    merged, expected = first.merged(second).compute(), whole.compute()
    assert merged == {key: pytest.approx(value, rel=1e-12) for key, value in expected.items()}
    assert (merged["auc_error_bound"] == 0) == (limit == 1000)


def test_auc_from_a_state_without_its_samples_is_not_called_exact() -> None:
    """The saved run kept a histogram; a larger limit cannot bring its samples back."""
    logits, labels, _ = _draw(400, 0.3, 0.0, 1.0, seed=9)
    metrics = OneTask("binary", 1000).merged(_fed(logits, labels, limit=100))
    assert metrics.compute() == _fed(logits, labels, limit=0).compute()


def test_a_state_of_another_shape_is_refused() -> None:
    metrics = OneTask("binary").collection
    state = metrics.state_dict()
    with pytest.raises(UserError) as caught:
        metrics.merge_state_dict(state | {"binary.sums": torch.zeros(7, 3)})
    assert str(caught.value) == (
        "metric state, sums: shape (7, 3); 1 tasks (task) need a tensor whose last dimensions are (7, 1). "
        "Fix: load a state that was saved with the same tasks by the same version"
    )
    with pytest.raises(UserError, match=r"metric state, histogram: missing; 1 tasks"):
        metrics.merge_state_dict({key: value for key, value in state.items() if key != "binary.histogram"})
    with pytest.raises(UserError, match=r"metric state, rows: None; it is the number of rows, an int"):
        metrics.merge_state_dict({key: value for key, value in state.items() if key != "binary.rows"})


@pytest.mark.parametrize("limit", [0, 10_000])
def test_curves_follow_the_samples(limit: int) -> None:
    logits, labels, weight = _draw(5000, 0.2, 0.0, 2.0, seed=11)
    metrics = _fed(logits, labels, weight, limit=limit)
    curves, result = metrics.curves(), metrics.compute()
    bins = curves["calibration"]
    total = sum(bin["weight"] for bin in bins)
    assert len(bins) == 20
    assert total == pytest.approx(float(weight.double().sum()), rel=1e-12)
    assert all(bin["weight"] == pytest.approx(total / 20, rel=0.02) for bin in bins)
    assert sum(bin["observed"] * bin["weight"] for bin in bins) / total == pytest.approx(
        result["mean_label"], rel=1e-12
    )
    assert sum(bin["predicted"] * bin["weight"] for bin in bins) / total == pytest.approx(
        result["mean_prediction"], abs=6.2e-5
    )
    assert [bin["predicted"] for bin in bins] == sorted(bin["predicted"] for bin in bins)

    roc = np.array(curves["roc"])
    assert 100 < len(roc) <= 200
    assert roc[0].tolist() == [0, 0]
    assert roc[-1].tolist() == [1, 1]
    assert (np.diff(roc, axis=0) >= 0).all()
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(result["auc"], abs=2e-3)


def test_tied_predictions_share_one_calibration_bin() -> None:
    labels = torch.tensor([1.0, 0, 0, 0] * 25)
    (only,) = _fed(torch.zeros(100), labels).curves()["calibration"]
    assert only == {"predicted": pytest.approx(0.5, abs=6.2e-5), "observed": 0.25, "weight": 100.0}


def test_metrics_built_under_inference_mode_can_be_used_outside_of_it() -> None:
    with torch.inference_mode():
        metrics = OneTask("binary", 4)
        metrics.update(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), None, torch.ones(2))
    metrics.update(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0]), None, torch.ones(3))
    assert metrics.compute()["samples"] == 5
