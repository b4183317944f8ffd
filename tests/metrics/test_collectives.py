"""The gathers that all metrics share: values and rows of every rank, in the order of the ranks, equal on each."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.metrics.accumulator import gather, join_rows
from tests.rank_processes import run_ranks

ROWS = (2, 0, 3)  # of each rank


def _own(rank: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(ROWS[rank]) + 10 * rank
    return rows, (rows + 0.5).double()[:, None].expand(-1, 2)


def _on_a_rank(rank: int, world_size: int) -> tuple[list[list[int]], list[int], list[list[float]], list[list[int]]]:
    some = dist.new_group([0, 2])
    numbers, pairs = _own(rank)
    lengths = gather(torch.tensor([rank, len(numbers)]), None)
    rows_W = lengths[:, 1].tolist()
    own = [] if rank == 1 else gather(torch.tensor([rank]), some).tolist()
    return lengths.tolist(), join_rows(numbers, rows_W, None).tolist(), join_rows(pairs, rows_W, None).tolist(), own


def test_every_rank_has_the_values_and_the_rows_of_all() -> None:
    answers = run_ranks(_on_a_rank, 3)
    expected = [torch.cat(parts).tolist() for parts in zip(*map(_own, range(3)), strict=True)]
    for rank, (lengths, numbers, pairs, own) in enumerate(answers):
        assert lengths == [[0, 2], [1, 0], [2, 3]]
        assert [numbers, pairs] == expected
        assert own == ([] if rank == 1 else [[0], [2]])


def test_one_process_has_its_own() -> None:
    numbers, pairs = _own(2)
    assert gather(torch.tensor([7]), None).tolist() == [[7]]
    assert join_rows(numbers, [3], None) is numbers
    assert join_rows(pairs, [3], None) is pairs
