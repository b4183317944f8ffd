"""A sample of whole groups by their hashes: the same for any order of rows and any number of ranks, in bounded memory.

Shapes: N rows, C candidates (groups), L levels, W ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics.collectives import all_reduce, gathered, joined, rank_and_world
from ple_rec.metrics.group_auc import LEVELS, GroupRows, concatenated, in_level, no_rows, rows_at_level

SHARE = 8  # a group that would take more than this part of the sample is oversized


class Sampled(NamedTuple):
    """The sample of all ranks.

    Args:
        rows: All of them on every rank, on the host, in ascending order of their groups.
        level: The sample holds a group with probability 2^-level.
        oversized: Groups of that level that are left out.
        complete: Nothing is left out.
    """

    rows: GroupRows
    level: int
    oversized: int
    complete: bool


class GroupSample:
    """Rows of the groups whose 63-bit hash begins with l zeros, at the least level l at which they fit.

    With n_g the rows of group g over all ranks and S the rows that fit:

        l = 0 where sum_g n_g <= S, else the least with sum_(g of level l) min(n_g, S / 8) <= S

    In the second case a group of more than S / 8 rows is oversized: it counts when the level is chosen, as S / 8 rows,
    so that no single group can push all others out, and it is not in the sample.

    A rank decides by its own rows, of which min(n_g, S / 8) only grows: it never goes beyond the level of all ranks,
    and what it forgets of a group of more than S / 8 own rows is oversized everywhere. It holds at most S rows, and up
    to 8 oversized groups by name.

    Args:
        tasks: K.
        device: Of the rows.
        most_rows: S.
    """

    def __init__(self, tasks: int, device: torch.device, most_rows: int) -> None:
        self.most_rows, self.most_of_group = most_rows, max(1, most_rows // SHARE)
        self.level = 0
        self._tasks, self._device = tasks, device
        self._parts: list[GroupRows] = []
        self._oversized = no_rows(tasks, device).group_N

    def __len__(self) -> int:
        """Rows that are held."""
        return sum(len(part) for part in self._parts)

    def add(self, rows: GroupRows) -> None:
        """Take the rows of the sample's level, and raise it where they do not fit."""
        rows = rows.where(in_level(rows.group_N, self.level))
        if len(self._oversized):
            rows = rows.where(~torch.isin(rows.group_N, self._oversized))
        self._parts.append(rows)
        if len(self) + self.most_of_group * len(self._oversized) > self.most_rows:
            self._shrink()

    def _shrink(self) -> None:
        whole = concatenated(self._parts)
        group_C, rows_C = whole.group_N.unique(return_counts=True)
        found = group_C[rows_C > self.most_of_group]
        whole = whole.where(~torch.isin(whole.group_N, found))
        self._oversized = torch.cat([self._oversized, found])
        rows_L = rows_at_level(whole.group_N) + self.most_of_group * rows_at_level(self._oversized)
        self.level = self._fitting(rows_L.tolist(), self.level)
        self._oversized = self._oversized[in_level(self._oversized, self.level)]
        self._parts = [whole.where(in_level(whole.group_N, self.level))]

    def _fitting(self, rows_L: Sequence[int], least: int) -> int:
        """The smallest level, from `least` on, whose rows fit."""
        return next((level for level in range(least, LEVELS) if rows_L[level] <= self.most_rows), LEVELS)

    def gathered(self, group: ProcessGroup | None) -> Sampled:
        """The sample of all ranks, equal on every rank; a collective."""
        whole = concatenated([no_rows(self._tasks, self._device), *self._parts])
        own = torch.tensor([self.level, len(self._oversized), len(whole)], device=self._device)
        levels, oversized, lengths = gathered(own, group).T.tolist()
        if not any(levels) and not any(oversized) and sum(lengths) <= self.most_rows:
            return Sampled(joined_rows(whole, group).by_group(), 0, 0, complete=True)
        group_C = self._oversized_of_all(whole.group_N, max(levels), group)
        whole = whole.where(~torch.isin(whole.group_N, group_C))
        rows_L = all_reduce(rows_at_level(whole.group_N), group)
        level = self._fitting((rows_L + self.most_of_group * rows_at_level(group_C)).tolist(), max(levels))
        rows = joined_rows(whole.where(in_level(whole.group_N, level)), group).by_group()
        return Sampled(rows, level, int(in_level(group_C, level).sum()), complete=False)

    def _oversized_of_all(self, group_N: Tensor, level: int, group: ProcessGroup | None) -> Tensor:
        """The oversized groups of a level: of each, some rank has over S / 8W rows, as it has of 8 W groups at most."""
        world = rank_and_world(group)[1]
        own_C, rows_C = group_N[in_level(group_N, level)].unique(return_counts=True)
        forgotten = self._oversized[in_level(self._oversized, level)]
        candidates = torch.cat([forgotten, own_C[rows_C * world > self.most_of_group]])
        group_C: Tensor = joined(candidates, _lengths(candidates, group), group).unique()
        counted_C = (self.most_of_group + 1) * torch.isin(group_C, forgotten)
        if len(own_C):
            place_C = torch.searchsorted(own_C, group_C).clamp(max=len(own_C) - 1)
            counted_C += rows_C[place_C] * (own_C[place_C] == group_C)
        return group_C.masked_select(all_reduce(counted_C, group) > self.most_of_group)


def joined_rows(rows: GroupRows, group: ProcessGroup | None) -> GroupRows:
    """Return the rows of all ranks, one behind the other, in the host's memory, where sums are the same on each."""
    lengths = _lengths(rows.group_N, group)
    return GroupRows(*(joined(x, lengths, group).cpu() for x in (rows.group_N, rows.logit_NK, rows.signed_NK)))


def _lengths(own_N: Tensor, group: ProcessGroup | None) -> list[int]:
    lengths: list[int] = gathered(torch.tensor(len(own_N), device=own_N.device), group).tolist()
    return lengths
