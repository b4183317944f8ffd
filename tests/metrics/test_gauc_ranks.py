"""GAUC over real ranks: groups that cross their borders, samples, histograms.

Without scikit-learn and hypothesis, for every rank imports this file.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from ple_rec.metrics import gauc, group_auc
from ple_rec.metrics.gauc import GroupAuc, GroupResult
from ple_rec.metrics.group_auc import GroupRows
from tests.metrics.groups import Data, exactly, made, outer_of, parts_of
from tests.rank_processes import run_ranks

EVEN = [55, 90, 5, 1, 90, 59]  # groups 1 and 4 cross the borders of three ranks of 100 rows
MANY = [*[15] * 30, *[9] * 30]  # 15 rows are more than an eighth of a sample of 100 rows, but not on one of three ranks
SIZES = [50, 40, 300, *[11] * 30]  # group 2 has rows 90 to 390
CUTS = {  # rows of each rank, by world size
    1: {"whole": [720]},
    2: {"whole": [0, 720], "at a border": [90, 630], "early": [130, 590], "late": [350, 370]},
    3: {"over three": [150, 100, 470], "an empty one between": [200, 0, 520], "two borders": [95, 30, 595]},
}


def _cases(rank: int, cuts: list[int]) -> dict[str, Any]:
    data, mixed, many = made(SIZES), made(SIZES, step=1e-6), made(MANY)
    edges = [0, *accumulate(cuts)]
    own = slice(edges[rank], edges[rank + 1])
    shuffled = torch.randperm(720, generator=torch.Generator().manual_seed(1))
    other = len(cuts) - 1 - rank  # then rows are in order on every rank, but not over their borders

    parts = parts_of(data)

    def fed_parts() -> list[GroupResult]:
        metric = GroupAuc(2, "cpu", flush_rows=32, sample_rows=0)
        metric.update(*parts.part(own), outer_of(parts)[own])
        return metric.compute()

    def fed(data: Data, **limits: int) -> list[GroupResult]:
        return data.feed(GroupAuc(2, "cpu", flush_rows=32, **limits)).compute()

    return {
        "sorted": fed(data.part(own), sample_rows=0),
        "parts": fed_parts(),
        "coarse": fed(mixed.part(own), sample_rows=0, group_rows=80),
        "coarse together": fed(mixed.part(own), sample_rows=0, group_rows=299),
        "all sampled": fed(data.part(shuffled).part(own), sample_rows=720),
        "sampled": fed(data.part(shuffled).part(own), sample_rows=100),
        "oversized together": fed(many.part(shuffled).part(own), sample_rows=100),
        "reversed": fed(data.part(slice(edges[other], edges[other + 1])), sample_rows=720),
    }


def _on_a_rank(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    return {name: _cases(rank, cuts) for name, cuts in CUTS[world_size].items()}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_get_what_one_process_gets(world_size: int) -> None:
    data, mixed = made(SIZES), made(SIZES, step=1e-6)
    expected = [exactly(data.truth(task)) for task in (0, 1)]
    alone = _cases(0, [720])
    sampled = alone["sampled"]
    assert (sampled[0]["gauc_exact"], sampled[0]["gauc_excluded_groups"]) == (False, 0)
    assert sampled[0]["gauc_oversized_groups"] == 1
    assert alone["oversized together"][0]["gauc_oversized_groups"] > 1
    assert alone["oversized together"][0]["gauc"] is not None
    answers = run_ranks(_on_a_rank, world_size)
    assert all(answer == answers[0] for answer in answers)  # bit for bit
    for cases in answers[0].values():
        assert [cases[name] for name in ("sorted", "all sampled", "reversed")] == [expected] * 3
        assert cases["parts"] == [exactly(parts_of(data).truth(task)) for task in (0, 1)]
        for name in ("sampled", "oversized together"):
            for found, of_one in zip(cases[name], alone[name], strict=True):
                assert found == {key: _approx(value) for key, value in of_one.items()}
        for task, found in [*enumerate(cases["coarse"]), *enumerate(cases["coarse together"])]:
            low, high = found["gauc_interval"] or (found["gauc"], found["gauc"])
            true = mixed.truth(task).gauc
            assert true is not None
            assert low - 1e-12 <= true <= high + 1e-12
            assert high - low < 2e-3
    for name in ("coarse", "coarse together"):
        assert {case[name][0]["gauc_exact"] for case in answers[0].values()} == {False}


def _joined_at_once(rank: int, world_size: int) -> tuple[list[int], list[list[GroupResult]]]:
    """Rows of all ranks that a rank holds at once; and results."""
    held, join = [], group_auc.join_group_rows

    def counted(rows: GroupRows, group: ProcessGroup | None) -> GroupRows:
        found = join(rows, group)
        held.append(len(found))
        return found

    vars(gauc)["join_group_rows"] = counted
    data = made(EVEN)
    own = data.part(slice(100 * rank, 100 * rank + 100))
    return held, [own.feed(GroupAuc(2, "cpu", sample_rows=0, group_rows=n)).compute() for n in (89, 90, 180)]


def test_no_rank_ever_holds_more_rows_of_the_groups_that_cross_ranks_than_of_one_group() -> None:
    data = made(EVEN)
    expected = [exactly(data.truth(task)) for task in (0, 1)]
    answers = run_ranks(_joined_at_once, 3)
    assert all(answer == answers[0] for answer in answers)
    held, (coarse, one_by_one, together) = answers[0]
    assert held == [90, 90, 180]
    assert [result["gauc_exact"] for result in coarse] == [False, False]
    assert one_by_one == together == expected


def _approx(value: object) -> object:
    return pytest.approx(value, rel=1e-12) if isinstance(value, float | list) else value


def _by_others(rank: int, world_size: int) -> tuple[list[GroupResult], list[GroupResult] | None]:
    """All rows on rank 1, and then on ranks 0 and 2, which count together."""
    data, one, two = made(SIZES), GroupAuc(2, "cpu"), GroupAuc(2, "cpu")
    group = dist.new_group([0, 2])
    alone = (data.feed(one) if rank == 1 else one).compute()
    data.part({0: slice(200), 1: slice(0), 2: slice(200, None)}[rank]).feed(two)
    return alone, None if rank == 1 else two.compute(group)


def test_ranks_without_rows_take_part_and_a_subgroup_counts_its_own() -> None:
    data = made(SIZES)
    expected = [exactly(data.truth(task)) for task in (0, 1)]
    assert run_ranks(_by_others, 3) == [(expected, expected), (expected, None), (expected, expected)]
