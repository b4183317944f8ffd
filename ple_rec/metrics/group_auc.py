"""AUC inside every group at once, and a bounded sample of whole groups that does not depend on the order of rows.

Shapes: N rows, K tasks, G groups, T ties (the rows of one group and one score), H histogram bins. Of the sample:
C candidates (groups), L levels, W ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics.accumulator import all_reduce, gathered, joined, rank_and_world
from ple_rec.metrics.binary import BINS, LOGIT_RANGE

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


LEVELS = 63  # of a hash sample: at level l a group is in it if the leading l of its hash's 63 bits are 0
_HASH_SEED = 0x5851F42D4C957F2D


@dataclass(frozen=True)
class GroupRows:
    """Rows with their groups: 8 + 12 K bytes each.

    Args:
        group_N: int64.
        logit_NK: float32.
        signed_NK: float64, `+w` for a positive, `-w` for a negative, 0 where the row does not count for the task.
    """

    group_N: Tensor
    logit_NK: Tensor
    signed_NK: Tensor

    def __len__(self) -> int:
        """N."""
        return self.group_N.shape[0]

    def __getitem__(self, rows: slice) -> GroupRows:
        """A stretch of the rows, without a copy."""
        return GroupRows(self.group_N[rows], self.logit_NK[rows], self.signed_NK[rows])

    def take(self, index: Tensor) -> GroupRows:
        """The rows of these numbers, in that order."""
        return GroupRows(*(x.index_select(0, index) for x in (self.group_N, self.logit_NK, self.signed_NK)))

    def where(self, mask_N: Tensor) -> GroupRows:
        """The rows that a mask keeps; themselves where it keeps all."""
        index = mask_N.nonzero().squeeze(1)
        return self if len(index) == len(self) else self.take(index)

    def by_group(self) -> GroupRows:
        """The rows in ascending order of their groups."""
        return self.take(self.group_N.argsort(stable=True))


def no_rows(tasks: int, device: torch.device) -> GroupRows:
    """Zero rows of `tasks` tasks."""
    with torch.inference_mode(False):
        return GroupRows(
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros(0, tasks, dtype=torch.float32, device=device),
            torch.zeros(0, tasks, dtype=torch.float64, device=device),
        )


def concatenated(parts: Sequence[GroupRows]) -> GroupRows:
    """The rows of `parts`, one behind the other."""
    return GroupRows(
        torch.cat([part.group_N for part in parts]),
        torch.cat([part.logit_NK for part in parts]),
        torch.cat([part.signed_NK for part in parts]),
    )


class GroupAreas(NamedTuple):
    """Of every task and group: AUC (0 where undefined), how far it can be off, and the weights of its two classes."""

    auc_KG: Tensor
    bound_KG: Tensor
    positive_KG: Tensor
    negative_KG: Tensor

    @property
    def mixed_KG(self) -> Tensor:
        """Groups that have both classes."""
        return (self.positive_KG > 0) & (self.negative_KG > 0)

    @property
    def counted_KG(self) -> Tensor:
        """n_g of groups that have both classes, else 0."""
        return (self.positive_KG + self.negative_KG) * self.mixed_KG

    def totals(self) -> Tensor:
        """(5, K): sums over the groups of n_g AUC_g, n_g, [both classes], [one class] and n_g bound_g."""
        counted_KG, mixed_KG = self.counted_KG, self.mixed_KG
        single_KG = (self.positive_KG + self.negative_KG > 0) & ~mixed_KG
        terms = (counted_KG * self.auc_KG, counted_KG, mixed_KG, single_KG, counted_KG * self.bound_KG)
        return torch.stack([term_KG.sum(1, dtype=torch.float64) for term_KG in terms])


def group_areas(rows: GroupRows, coarse: Sequence[int] = ()) -> GroupAreas:
    """AUC of every group and task, all groups in the same few tensor operations.

        AUC_g = sum over pairs (i positive, j negative) of g w_i w_j [logit_i > logit_j] / (P_g N_g), [equal] = 1/2

    No running sum leaves its group, so a small group behind a heavy one loses no digits.

    Args:
        rows: In ascending order of their groups.
        coarse: Groups whose scores are rounded to the bins of the AUC histogram; the others have a bound of 0.
    """
    group_G, segment_N = torch.unique_consecutive(rows.group_N, return_inverse=True)
    groups = group_G.numel()
    logit_NK, coarse_G = rows.logit_NK, torch.zeros_like(group_G, dtype=torch.bool)
    if coarse:
        coarse_G = torch.isin(group_G, torch.tensor(coarse, device=group_G.device))
        logit_NK = torch.where(coarse_G[segment_N].unsqueeze(1), _middle(_bin(logit_NK)), logit_NK)
    sums_K = [
        _sums_of_task(segment_N, logit_N, signed_N, groups)
        for logit_N, signed_N in zip(logit_NK.unbind(1), rows.signed_NK.unbind(1), strict=True)
    ]
    positive_KG, negative_KG, area_KG, tied_KG = torch.stack(sums_K, dim=1)
    pairs_KG = positive_KG * negative_KG
    pairs_KG = torch.where(pairs_KG > 0, pairs_KG, torch.ones_like(pairs_KG))
    return GroupAreas(area_KG / pairs_KG, tied_KG / pairs_KG * coarse_G, positive_KG, negative_KG)


def _sums_of_task(segment_N: Tensor, score_N: Tensor, signed_N: Tensor, groups: int) -> Tensor:
    """(4, G): weight of positives, of negatives, of pairs in the right order (ties 1/2), and half of the tied pairs."""
    index = signed_N.nonzero().squeeze(1)
    if len(index) < len(signed_N):
        segment_N, score_N, signed_N = (x_N.index_select(0, index) for x_N in (segment_N, score_N, signed_N))
    key_N, order_N = torch.sort((segment_N << 32) | _ascending(score_N))  # one sort, by group and then by score
    signed_N = signed_N[order_N]
    key_T, tie_N = torch.unique_consecutive(key_N, return_inverse=True)
    positive_T = torch.zeros_like(key_T, dtype=torch.float64).index_add_(0, tie_N, signed_N.clamp(min=0))
    negative_T = torch.zeros_like(positive_T).index_add_(0, tie_N, (-signed_N).clamp(min=0))
    segment_T = key_T >> 32
    below_T = _running_sum(negative_T, segment_T) - negative_T / 2
    terms = (positive_T, negative_T, positive_T * below_T, positive_T * negative_T / 2)
    empty_G = positive_T.new_zeros(groups)
    return torch.stack([empty_G.index_add(0, segment_T, term_T) for term_T in terms])


def _ascending(score_N: Tensor) -> Tensor:
    """Integers in [0, 2^32) in the order of float32 scores; equal scores, 0 and -0 among them, get equal integers."""
    bits_N = (score_N + 0.0).view(torch.int32)
    return (bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)).long() + (1 << 31)  # negative floats descend as integers


def _running_sum(value_T: Tensor, segment_T: Tensor) -> Tensor:
    """Inclusive running sums inside each segment, in log2(longest segment) steps of doubling reach."""
    sum_T, step = value_T.clone(), 1
    while step < len(segment_T) and (same := segment_T[step:] == segment_T[:-step]).any():
        sum_T[step:] += sum_T[:-step] * same
        step *= 2
    return sum_T


def compact(rows: GroupRows) -> GroupRows:
    """Rows of one group as at most 2 H rows that stand for the histogram of its scores; twice is as good as once."""
    return binned(int(rows.group_N[0]), histogram(rows))


def histogram(rows: GroupRows) -> Tensor:
    """(2 H, K): signed weights per bin of the score, those of negatives before those of positives; adds up."""
    tasks = rows.logit_NK.shape[1]
    class_NK = (rows.signed_NK > 0).long()
    slot_NK = (class_NK * BINS + _bin(rows.logit_NK)) * tasks + torch.arange(tasks, device=rows.group_N.device)
    signed = rows.signed_NK.new_zeros(2 * BINS * tasks)
    return signed.index_add_(0, slot_NK.flatten(), rows.signed_NK.flatten()).view(2 * BINS, tasks)


def binned(group: int, signed_HK: Tensor) -> GroupRows:
    """The rows of a group that stand for its `histogram`."""
    bin_H = torch.arange(BINS, device=signed_HK.device).repeat(2)
    logit_HK = _middle(bin_H).unsqueeze(1).expand_as(signed_HK)
    return GroupRows(torch.full_like(bin_H, group), logit_HK, signed_HK).where((signed_HK != 0).any(1))


def _bin(logit: Tensor) -> Tensor:
    return ((logit + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).clamp(0, BINS - 1).long()


def _middle(bins: Tensor) -> Tensor:
    """float32 holds it exactly."""
    return ((bins.double() + 0.5) * (2 * LOGIT_RANGE / BINS) - LOGIT_RANGE).float()


def hashes(group_N: Tensor) -> Tensor:
    """63 well mixed bits per group (splitmix64), so that a sample by hash knows nothing of how ids were given."""
    x_N = group_N + _HASH_SEED
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        x_N = (x_N ^ _shifted(x_N, shift)) * factor  # int64 wraps, as unsigned arithmetic would
    return _shifted(x_N ^ _shifted(x_N, 31), 1)


def _shifted(x_N: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; that of int64 repeats the sign."""
    return (x_N >> bits) & ((1 << (64 - bits)) - 1)


def rows_at_level(group_N: Tensor) -> Tensor:
    """(`LEVELS` + 1,) int64: how many rows the sample of every level holds; all of them at level 0."""
    powers = torch.ones((), dtype=torch.int64, device=group_N.device) << torch.arange(LEVELS, device=group_N.device)
    bits_N = torch.bucketize(hashes(group_N), powers, right=True)  # how many of a hash's bits are in use
    return torch.bincount(bits_N, minlength=LEVELS + 1).cumsum(0).flip(0)


def in_level(group_N: Tensor, level: int) -> Tensor:
    """Whether each row's group is in the sample of `level`, which holds a group with probability 2^-level."""
    return hashes(group_N) < (1 << (LEVELS - level)) if level else torch.ones_like(group_N, dtype=torch.bool)


def interval(weight_G: Tensor, auc_G: Tensor, share: float) -> tuple[float, float] | None:
    """95 % interval of R = sum n_g AUC_g / sum n_g over all groups, from a sample of them.

    With m groups in the sample, d_g = n_g (AUC_g - R) and R of the sample, the linearised variance of the ratio is

        Var R = (1 - share) m / (m - 1) sum d_g^2 / (sum n_g)^2

    and the half width is its root times the 97.5 % quantile of Student's t with m - 1 degrees of freedom.

    Args:
        weight_G: n_g > 0 of the sampled groups that have both classes.
        auc_G: AUC_g.
        share: Of the groups that are in the sample.

    Returns:
        (low, high) within [0, 1]; None for fewer than 2 groups.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # a quarter of a second that few runs need

    groups, total = weight_G.numel(), float(weight_G.sum())
    if groups < 2:
        return None
    mean = float((weight_G * auc_G).sum()) / total
    spread = float((weight_G * (auc_G - mean)).square().sum())
    deviation = math.sqrt((1 - share) * groups / (groups - 1) * spread) / total
    half = float(stdtrit(groups - 1, 0.975)) * deviation
    return max(0.0, mean - half), min(1.0, mean + half)
