"""The collection equals one metric per task; it never waits for the device; ranks add up."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from ple_rec.errors import DivergedError, UserError
from ple_rec.metrics import MetricCollection, Result, State, TaskCurves
from tests.metrics.groups import exactly, rows_of, truth
from tests.metrics.one_task import OneTask
from tests.metrics.samples import TASKS, samples
from tests.rank_processes import run_ranks

ROWS = 900
LIMITS = (0, 500, 10_000)  # histogram; exact on one rank of several but not together; exact
SHARES = {1: (900,), 2: (0, 900), 3: (480, 0, 420)}  # rows of each rank


def _approx(value: object) -> object:
    """The same structure with floats to 12 digits."""
    if isinstance(value, dict):
        return {key: _approx(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_approx(item) for item in value]
    return pytest.approx(value, rel=1e-12, abs=1e-15) if isinstance(value, float) else value


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_collection_equals_one_metric_per_task(limit: int, weighted: bool) -> None:
    data = samples(ROWS)
    weight = data.weight if weighted else None
    collection = MetricCollection(TASKS, "cpu", exact_limit=limit)
    collection.update(data.logits, data.labels, data.in_space, weight)
    results, curves = collection.compute(), collection.curves()
    assert list(results) == list(curves) == [task.name for task in TASKS]
    for k, task in enumerate(TASKS):
        one = OneTask(task.kind, limit)
        one.update(data.logits[:, k], data.labels[:, k], weight, data.in_space[:, k])
        assert results[task.name] == _approx(one.compute())
        assert curves[task.name] == _approx(one.curves())
    assert results["share"]["samples"] == int(data.in_space[:, 3].sum())


@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_update_never_asks_the_device_for_a_value(limit: int, dtype: torch.dtype) -> None:
    """Tensors on `meta` have no values: whatever would wait for one raises."""
    collection = MetricCollection(TASKS, "meta", exact_limit=limit)
    for _ in range(3):  # into the buffer, and past its limit
        logits = torch.empty(64, 4, dtype=dtype, device="meta")
        collection.update(logits, logits.float(), logits > 0, logits[:, 0].float())
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        collection.compute()


def test_shapes_name_the_tasks() -> None:
    with pytest.raises(
        ValueError, match=r"labels: got shape \(5, 3\); expected \(batch, 4\), .* \['click', 'like', 's"
    ):
        MetricCollection(TASKS, "cpu").update(torch.zeros(5, 4), torch.zeros(5, 3), torch.ones(5, 4), None)
    with pytest.raises(ValueError, match=r"weight: got shape \(4,\); expected \(5,\) for tasks"):
        MetricCollection(TASKS, "cpu").update(torch.zeros(5, 4), torch.zeros(5, 4), torch.ones(5, 4), torch.ones(4))


def test_gauc_stands_beside_the_other_metrics_of_binary_tasks() -> None:
    data = samples(ROWS)
    groups = torch.arange(ROWS) // 30
    collection = MetricCollection(TASKS, "cpu", gauc=True)
    collection.update(*data.part(slice(0, 450)), groups[:450])
    collection.update(*data.part(slice(450, ROWS)), groups[450:])
    plain, results = data.feed(MetricCollection(TASKS, "cpu")).compute(), collection.compute()
    for task, column in (("click", 0), ("like", 1), ("share", 3)):
        rows = rows_of(groups, data.logits[:, column], data.labels[:, column], data.weight, data.in_space[:, column])
        assert results[task] == _approx(plain[task]) | exactly(truth(rows))  # type: ignore[operator]
    assert results["seconds"] == _approx(plain["seconds"])
    collection.reset()
    assert "gauc" not in collection.compute()["click"]
    assert _approx(data.feed(collection).compute()) == plain  # no groups, no GAUC
    regression = MetricCollection(TASKS[2:3], "cpu", gauc=True)
    regression.update(data.logits[:, 2:3], data.labels[:, 2:3], data.in_space[:, 2:3], data.weight, groups)
    assert regression.compute() == {"seconds": _approx(plain["seconds"])}


def test_r2_stands_beside_the_other_metrics_of_regressions() -> None:
    from sklearn.metrics import r2_score  # not above, for every rank imports this file

    data = samples(ROWS)
    plain = data.feed(MetricCollection(TASKS, "cpu")).compute()
    results = data.feed(MetricCollection(TASKS, "cpu", r2=True)).compute()
    kept = data.in_space[:, 2].bool()
    y, p, w = (x[kept].double().numpy() for x in (data.labels[:, 2], data.logits[:, 2], data.weight))
    r2 = pytest.approx(r2_score(y, p, sample_weight=w), rel=1e-9)
    assert results == plain | {"seconds": plain["seconds"] | {"r2": r2}}


@pytest.mark.parametrize("label", [0.0, 0.1, 1e6])
def test_r2_of_equal_labels_is_undefined(label: float) -> None:
    metrics = MetricCollection(TASKS[2:3], "cpu", r2=True)
    for _ in range(1000):
        metrics.update(torch.zeros(7, 1), torch.full((7, 1), label), torch.ones(7, 1), torch.full((7,), 0.3))
    assert metrics.compute()["seconds"]["r2"] is None
    metrics.reset()
    assert metrics.compute()["seconds"]["r2"] is None


def test_a_collection_with_gauc_refuses_to_be_saved() -> None:
    collection = MetricCollection(TASKS, "cpu", gauc=True)
    state = MetricCollection(TASKS, "cpu").state_dict()
    with pytest.raises(ValueError, match=r"gauc of the tasks \['click', .* has no state to save"):
        collection.state_dict()
    with pytest.raises(ValueError, match="has no state to save: it depends on the order of rows"):
        collection.merge_state_dict(state)


def test_state_round_trip_reset_and_refusal() -> None:
    data = samples(ROWS)
    first = data.feed(MetricCollection(TASKS, "cpu"))
    second = MetricCollection(TASKS, "cpu")
    second.merge_state_dict(first.state_dict())
    assert second.compute() == first.compute()
    first.reset()
    assert first.compute() == MetricCollection(TASKS, "cpu").compute()
    assert data.feed(first).compute() == second.compute()

    other = MetricCollection(TASKS[:3], "cpu")
    with pytest.raises(UserError, match=r"metric state, sums: shape \(7, 3\); 2 tasks \(click, like\) need a tensor"):
        other.merge_state_dict(second.state_dict())
    assert other.compute()["click"]["samples"] == 0
    two_regressions = MetricCollection((TASKS[0], TASKS[1], TASKS[3], TASKS[2], TASKS[2]), "cpu")
    with pytest.raises(UserError, match=r"2 tasks \(seconds, seconds\)"):
        two_regressions.merge_state_dict(second.state_dict())
    assert two_regressions.compute()["click"]["samples"] == 0  # nothing was taken by halves


Answer = dict[int, tuple[dict[str, Result], dict[str, TaskCurves], State]]


def _share_of(rank: int, world_size: int) -> slice:
    start = sum(SHARES[world_size][:rank])
    return slice(start, start + SHARES[world_size][rank])


def _on_a_rank(rank: int, world_size: int) -> tuple[Answer, int, str]:
    """The metrics at every limit, the all-reduces that one `compute` took, the error after rank 0 fed a NaN."""
    data = samples(ROWS).part(_share_of(rank, world_size))
    answer: Answer = {}
    for limit in LIMITS:
        metrics = data.feed(MetricCollection(TASKS, "cpu", exact_limit=limit))
        answer[limit] = metrics.compute(), metrics.curves(), metrics.state_dict()
    with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as counted:
        metrics.compute()
    if rank == 0:
        metrics.update(torch.full((1, 4), torch.nan), torch.zeros(1, 4), torch.ones(1, 4), None)
    try:
        metrics.compute()
    except DivergedError as error:
        return answer, counted.call_count, str(error)
    return answer, counted.call_count, "no error"


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_ranks_with_unequal_shares_get_what_one_process_gets(world_size: int) -> None:
    answers = run_ranks(_on_a_rank, world_size)
    for limit in LIMITS:
        alone = samples(ROWS).feed(MetricCollection(TASKS, "cpu", exact_limit=limit))
        results, curves = alone.compute(), alone.curves()
        assert (results["like"]["auc_error_bound"] == 0.0) == (limit == 10_000)
        merged = MetricCollection(TASKS, "cpu", exact_limit=limit)
        for answer, _, _ in answers:
            assert answer[limit][0] == _approx(results)
            assert answer[limit][1] == _approx(curves)
            assert answer[limit][0] == answers[0][0][limit][0]  # bit for bit the same on every rank
            state = answer[limit][2]
            assert limit == 10_000 or len(torch.as_tensor(state["binary.buffer"])) == 0  # dropped: of no use any more
            merged.merge_state_dict(state)
        assert merged.compute() == _approx(results)
    assert {calls for _, calls, _ in answers} == {0 if world_size == 1 else 2}
    assert {error.split(";")[0] for _, _, error in answers} == {
        "metrics of click: 1 of 901 rows of its sample space hold a prediction, label or weight that is not finite, "
        "or a negative weight"
    }


def _in_a_subgroup(rank: int, world_size: int) -> int | float | None:
    """Ranks 0 and 2 count together, rank 1 takes no part."""
    group = dist.new_group([0, 2])
    if rank == 1:
        return None
    metrics = samples(10 + rank).feed(MetricCollection(TASKS, "cpu"))
    return metrics.compute(group)["click"]["samples"]


def test_a_subgroup_counts_its_own_ranks() -> None:
    assert run_ranks(_in_a_subgroup, 3) == [22, None, 22]
