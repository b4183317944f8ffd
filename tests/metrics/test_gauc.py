"""GAUC against the definition, group by group: exact where sorted, on any number of ranks; an interval elsewhere."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ple_rec.metrics.gauc import GroupAuc, GroupResult
from ple_rec.metrics.group_auc import (
    LEVELS,
    GroupRows,
    GroupSample,
    confidence_interval,
    count_rows_by_level,
    hash_groups,
    is_in_level,
)
from tests.metrics.groups import Data, exactly, made, outer_of, parts_of

TOP = 2**63 - 1


@st.composite
def _any_rows(draw: st.DrawFn) -> Data:
    """A few rows of a few groups, null among them, of two tasks; scores and weights of so few values that they tie."""
    count = draw(st.integers(1, 40))

    def column(values: st.SearchStrategy[float], width: int) -> Tensor:
        drawn = draw(st.lists(values, min_size=count * width, max_size=count * width))
        return torch.tensor(drawn).view(count, width)

    ids = st.sampled_from([-TOP - 1, -2, -1, 0, 1, 5, TOP])
    groups = torch.tensor(draw(st.lists(ids, min_size=count, max_size=count)))
    return Data(
        logits=column(st.sampled_from([-40.0, -1.0, -0.0, 0.0, 1e-30, 0.5, 3.0]), 2),
        labels=column(st.sampled_from([0.0, 1.0]), 2),
        weight=column(st.sampled_from([0.0, 0.1, 1.0, 7.0]), 1)[:, 0],
        in_space=column(st.sampled_from([0.0, 1.0, 1.0]), 2),
        groups=groups,
    )


@settings(max_examples=80, deadline=None)
@given(_any_rows(), st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_any_rows_in_any_batches_give_what_the_definition_gives(
    data: Data, batch: int, flush_rows: int, in_order: bool
) -> None:
    if in_order:
        data = data.part(data.groups.argsort(stable=True))
    metric = data.feed(GroupAuc(2, "cpu", flush_rows=flush_rows, sample_rows=0 if in_order else 40), batch)
    expected = [exactly(data.truth(task)) for task in (0, 1)]
    assert metric.compute() == expected
    assert metric.compute() == expected  # nothing is used up


@pytest.mark.parametrize("flush_rows", [7, 40, 1000])
def test_parts_of_groups_are_exact_where_they_are_sorted_inside_their_group(flush_rows: int) -> None:
    data = parts_of(made([8, 30, 5, 60, 1, 40]))
    truth = [exactly(data.truth(task)) for task in (0, 1)]
    outer = outer_of(data)
    for rows, in_order in ((slice(None), True), (torch.arange(len(outer)).flip(0), False)):
        metric, shown = GroupAuc(2, "cpu", flush_rows=flush_rows, sample_rows=0), data.part(rows)
        for start in range(0, len(outer), 20):
            batch = slice(start, start + 20)
            metric.update(*shown.part(batch), outer[rows][batch])
        assert (metric.compute() == truth) == in_order


def test_a_single_group_is_scikit_learns_auc() -> None:
    data = made([500], tasks=1)
    expected = roc_auc_score(data.labels[:, 0], data.logits[:, 0], sample_weight=data.weight)
    assert data.feed(GroupAuc(1, "cpu")).compute()[0]["gauc"] == pytest.approx(expected, rel=1e-12)
    assert data.truth(0).gauc == pytest.approx(expected, rel=1e-12)


def test_a_small_light_group_keeps_its_digits_among_heavy_ones() -> None:
    data = made([3, 2000, 4, 900, 5, 1, 60], tasks=1)
    heavy = data.groups % 2 == 1
    data = data._replace(weight=torch.where(heavy, data.weight * 1e6, data.weight * 1e-3))
    data = data.part(data.groups != 1)  # what counts is the sum over the light ones
    light = data.part(data.groups % 2 == 0)
    assert data.feed(GroupAuc(1, "cpu", sample_rows=0)).compute() == [exactly(data.truth(0))]
    assert light.feed(GroupAuc(1, "cpu", sample_rows=0)).compute() == [exactly(light.truth(0))]


def test_padding_and_rows_of_no_space_do_not_break_the_order() -> None:
    data = made([20] * 12)
    outside = Data(*(torch.full_like(tensor[:7], torch.nan) for tensor in data[:3]), *(x[:7] * 0 for x in data[3:]))
    metric = GroupAuc(2, "cpu", flush_rows=16, sample_rows=0)
    for start in range(0, 240, 60):
        data.part(slice(start, start + 60)).feed(metric)
        metric.update(*outside._replace(weight=torch.zeros(7)))  # group 0, as a loader pads
    assert metric.compute() == [exactly(data.truth(0)), exactly(data.truth(1))]


@pytest.mark.parametrize("ids", [(5, 3, 5), (3, 5, 3), (3, 5, 4), (-3, -5, -3)])
def test_a_group_that_comes_back_is_one_group(ids: tuple[int, int, int]) -> None:
    data = made([10, 10, 10])
    data = data._replace(groups=torch.tensor(ids).repeat_interleave(10))
    metric = data.feed(GroupAuc(2, "cpu", flush_rows=10), batch=10)
    assert metric.compute() == [exactly(data.truth(0)), exactly(data.truth(1))]


def test_a_batch_may_be_overwritten_once_it_is_fed() -> None:
    data, metric = made([20] * 12), GroupAuc(2, "cpu")
    reused = data.part(slice(0, 60))
    reused = Data(*(tensor.clone() for tensor in reused))
    for start in range(0, 240, 60):
        for mine, tensor in zip(reused, data.part(slice(start, start + 60)), strict=True):
            mine.copy_(tensor)
        metric.update(*reused)
    assert metric.compute() == [exactly(data.truth(0)), exactly(data.truth(1))]


def test_what_was_never_fed_or_forgotten_is_not_there() -> None:
    metric = GroupAuc(2, "cpu", flush_rows=8, sample_rows=16)
    assert metric.compute() == []
    data = made([9] * 20)
    data.part(torch.randperm(180)).feed(metric)
    metric.reset()
    assert metric.compute() == []
    assert data.feed(metric).compute() == [exactly(data.truth(0)), exactly(data.truth(1))]


def test_a_batch_waits_for_nothing_until_rows_are_sorted() -> None:
    """Tensors on `meta` have no values: whatever would wait for one raises."""
    metric = GroupAuc(2, "meta", flush_rows=100)
    x_BK = torch.empty(40, 2, device="meta")
    groups = torch.empty(40, dtype=torch.int64, device="meta")
    for _ in range(2):
        metric.update(x_BK, x_BK, x_BK[:, 0], x_BK > 0, groups)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        metric.update(x_BK, x_BK, x_BK[:, 0], x_BK > 0, groups)
    with pytest.raises(ValueError, match=r"groups: got shape \(3,\); expected \(40,\)"):
        metric.update(x_BK, x_BK, None, x_BK, groups[:3])


# More rows than fit


@pytest.mark.parametrize("sizes", [[700, 30, 30], [30, 700, 700, 30], [20, 20, 700], [700]])
def test_a_group_of_too_many_rows_becomes_a_histogram_that_bounds_the_error(sizes: list[int]) -> None:
    data = made(sizes, step=1e-6)
    metric = data.feed(GroupAuc(2, "cpu", flush_rows=128, sample_rows=64, group_rows=100))
    for task, result in enumerate(metric.compute()):
        expected = data.truth(task)
        assert (result["gauc_exact"], result["gauc_groups"]) == (False, expected.groups)
        assert isinstance(result["gauc_interval"], list)
        low, high = result["gauc_interval"]
        assert expected.gauc is not None
        assert low <= expected.gauc <= high <= low + 2e-3
        assert result["gauc"] == pytest.approx((low + high) / 2, abs=1e-12)


def test_a_histogram_of_scores_that_its_bins_tell_apart_is_as_good_as_exact() -> None:
    data = made([900, 900], step=0.25)
    metric = data.feed(GroupAuc(2, "cpu", flush_rows=20, group_rows=100), batch=20)
    held = len(metric._head), len(metric._tail)
    for task, result in enumerate(metric.compute()):
        assert result["gauc_exact"] is False
        assert result["gauc"] == pytest.approx(data.truth(task).gauc, abs=1e-12)
    assert max(held) <= 100  # a row for each of 29 bins and 2 classes, and what came since


def _estimate(seed: int) -> tuple[GroupAuc, GroupResult, float]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (2 + torch.rand(500, generator=generator) ** 3 * 40).long().tolist()  # a few large groups, many small ones
    data = made(sizes, seed, tasks=1)
    data = data.part(torch.randperm(len(data.groups), generator=generator))
    metric = data.feed(GroupAuc(1, "cpu", flush_rows=512, sample_rows=1500), 256)
    expected = data.truth(0).gauc
    assert expected is not None
    return metric, metric.compute()[0], expected


def test_the_interval_of_a_sample_covers_the_truth() -> None:
    covered, widths = 0, []
    for seed in range(60):
        metric, result, expected = _estimate(seed)
        assert metric._sample.level >= 2
        assert len(metric._sample) <= 1500
        assert result["gauc_exact"] is False
        assert isinstance(result["gauc_interval"], list)
        low, high = result["gauc_interval"]
        covered += low <= expected <= high
        widths.append(high - low)
    assert covered >= 52  # 57 of 60 are expected
    assert max(widths) < 0.2


def test_two_giants_that_alternate_leave_nothing_to_say() -> None:
    data = made([400, 400])
    order = torch.arange(800).view(2, 400).T.flatten()
    for result in data.part(order).feed(GroupAuc(2, "cpu", flush_rows=64, sample_rows=100)).compute():
        assert (result["gauc"], result["gauc_interval"], result["gauc_exact"]) == (None, None, False)
        assert (result["gauc_groups"], result["gauc_oversized_groups"]) == (0, 2)


@pytest.mark.parametrize("giant", [3, 564867])  # the hash of the second begins with 21 zeros
def test_a_giant_does_not_push_the_others_out_of_the_sample(giant: int) -> None:
    data = made([10] * 600, tasks=1, step=1e-6)
    small = Data(*(torch.cat([tensor] * 2) for tensor in data))._replace(groups=torch.cat([data.groups] * 2) + 10**7)
    giants = made([6000], tasks=1)._replace(groups=torch.full((6000,), giant))
    both = Data(*(torch.cat(pair) for pair in zip(small, giants, strict=True)))
    shuffled = both.part(torch.randperm(18_000, generator=torch.Generator().manual_seed(0)))
    (result,) = shuffled.feed(GroupAuc(1, "cpu", flush_rows=512, sample_rows=4096), 256).compute()
    expected = small.truth(0).gauc
    assert expected is not None
    assert result["gauc"] == pytest.approx(expected, abs=0.05)
    assert isinstance(result["gauc_interval"], list)
    low, high = result["gauc_interval"]
    assert low <= expected <= high
    assert isinstance(result["gauc_groups"], int)
    assert result["gauc_groups"] >= 100
    assert result["gauc_oversized_groups"] == (giant != 3)  # of those in the sample, as `gauc_groups`


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(16, 400), st.integers(1, 50), st.randoms())
def test_a_sample_is_what_its_definition_says_in_any_order(
    sizes: list[int], most: int, batch: int, random: Random
) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(groups)
    sample = GroupSample(1, torch.device("cpu"), most)
    for start in range(0, len(groups), batch):
        part = torch.tensor(groups[start : start + batch])
        sample.add(GroupRows(part, torch.zeros(len(part), 1), torch.ones(len(part), 1).double()))
        assert len(sample) + most // 8 * len(sample._oversized) <= most
    found = sample.gather(None)
    cap, level, bits = most // 8, 0, hash_groups(torch.arange(len(sizes))).tolist()
    if fits := sum(sizes) <= most:
        cap = most
    while sum(min(size, cap) for size, own in zip(sizes, bits, strict=True) if own < 1 << (LEVELS - level)) > most:
        level += 1
    inside = [group for group, own in enumerate(bits) if own < 1 << (LEVELS - level)]
    assert (found.level, found.complete) == (level, fits)
    assert found.rows.group_N.tolist() == [g for g in inside if sizes[g] <= cap for _ in range(sizes[g])]
    assert found.oversized == sum(sizes[group] > cap for group in inside)


def test_levels_are_nested_halves_of_the_groups() -> None:
    for groups in (torch.arange(100_000), torch.arange(100_000) * 4096 - TOP, torch.randint(-TOP, TOP, (100_000,))):
        rows_L = count_rows_by_level(groups)
        masks = [is_in_level(groups, level) for level in range(6)]
        assert rows_L[:6].tolist() == [int(mask.sum()) for mask in masks]
        for level, (outer, inner) in enumerate(pairwise(masks)):
            assert not bool((inner & ~outer).any())
            assert int(rows_L[level + 1]) == pytest.approx(100_000 * 0.5 ** (level + 1), rel=0.05)
    assert len(rows_L) == LEVELS + 1


def test_the_interval_is_the_linearised_one() -> None:
    weight, auc = torch.tensor([2.0, 1.0, 1.0, 4.0]).double(), torch.tensor([0.5, 0.9, 0.7, 0.6]).double()
    mean = (1.0 + 0.9 + 0.7 + 2.4) / 8  # 0.625
    spread = (2 * 0.125) ** 2 + 0.275**2 + 0.075**2 + (4 * 0.025) ** 2
    half = 3.1824463 * ((1 - 0.25) * 4 / 3 * spread) ** 0.5 / 8  # t of 3 degrees of freedom
    assert confidence_interval(weight, auc, 0.25) == pytest.approx((mean - half, mean + half))
    assert confidence_interval(weight, auc, 1.0) == pytest.approx((mean, mean))
    assert confidence_interval(weight[:2], torch.tensor([0.0, 1.0]).double(), 0.0) == (0.0, 1.0)
    assert confidence_interval(weight[:1], auc[:1], 0.5) is None


@pytest.mark.parametrize(("groups", "quantile"), [(2, 12.7062047), (3, 4.3026527), (11, 2.2281389)])
def test_the_interval_of_few_groups_has_the_quantile_of_a_table(groups: int, quantile: float) -> None:
    auc = 0.5 + 0.001 * torch.arange(groups).double()
    low, high = confidence_interval(torch.ones(groups).double(), auc, 0.0) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(quantile * float(auc.std()) / groups**0.5)
