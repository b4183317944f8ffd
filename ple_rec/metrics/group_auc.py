"""AUC of all groups at once, and a sample of groups in bounded memory that does not depend on the order of rows.

`GroupAuc` computes GAUC, the mean AUC of groups weighted by their impressions, from both. A group has an integer id,
such as a user's; `group: ProcessGroup` is the process group of the ranks. All rows of a group are in the sample, or
none.

Shapes: N rows, K tasks, G groups, T ties (the rows of one group and one score), H histogram bins of both classes. In
the sample: C candidates (groups), L levels, W ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics.accumulator import all_reduce, gather, join_rows, rank_and_world
from ple_rec.metrics.binary import BINS, LOGIT_RANGE

# A group is oversized if it has more than 1 / `OVERSIZED_DIVISOR` of the rows that the sample may have (`max_rows`).
OVERSIZED_DIVISOR = 8


class GlobalSample(NamedTuple):
    """Sample over all ranks, equal on every rank.

    Args:
        rows: Rows of the sample in the host's memory, in ascending order of their groups.
        level: Level of the sample (see `GroupSample`); a group is in it with probability 2^-level.
        oversized: Number of oversized groups of that level, which are left out.
        complete: True if no group is left out.
    """

    rows: GroupRows
    level: int
    oversized: int
    complete: bool


class GroupSample:
    """Rows of a pseudo-random sample of groups: those of level l, for the smallest l whose rows fit.

    A group is of level l if the 63-bit hash of its id begins with l zeros; so half of the groups of a level are of the
    next one too. With n_g the number of rows of group g over all ranks and S the limit:

        l = 0 if sum_g n_g <= S, else the smallest l with sum_(g of level l) min(n_g, S / 8) <= S

    In the second case, a group of more than S / 8 rows is oversized. It is not in the sample, but counts as S / 8 rows
    in the choice of the level; otherwise a single group could displace all others.

    While rows are added, a rank chooses its level by its own rows. Since min(n_g, S / 8) only grows with more rows,
    that level is never above the final level of all ranks. A group of more than S / 8 rows on one rank is oversized on
    all, so its rows may be dropped. A rank has at most S rows, and the ids of up to 8 oversized groups.

    Args:
        tasks: Number of tasks K.
        device: Device of the rows.
        max_rows: Limit S of the number of rows.
    """

    def __init__(self, tasks: int, device: torch.device, max_rows: int) -> None:
        self.max_rows, self.max_group_rows = max_rows, max(1, max_rows // OVERSIZED_DIVISOR)
        self.level = 0
        self._tasks, self._device = tasks, device
        self._parts: list[GroupRows] = []
        self._oversized = no_rows(tasks, device).group_N

    def __len__(self) -> int:
        """Return the number of rows on this rank."""
        return sum(len(part) for part in self._parts)

    def add(self, rows: GroupRows) -> None:
        """Add those rows whose groups are of the sample's level, and raise the level if they do not fit."""
        rows = rows.filter(is_in_level(rows.group_N, self.level))
        if len(self._oversized):
            rows = rows.filter(~torch.isin(rows.group_N, self._oversized))
        self._parts.append(rows)
        if len(self) + self.max_group_rows * len(self._oversized) > self.max_rows:
            self._shrink()

    def _shrink(self) -> None:
        own_rows = concatenate(self._parts)
        group_C, rows_C = own_rows.group_N.unique(return_counts=True)
        oversized = group_C[rows_C > self.max_group_rows]
        own_rows = own_rows.filter(~torch.isin(own_rows.group_N, oversized))
        self._oversized = torch.cat([self._oversized, oversized])
        rows_L = count_rows_by_level(own_rows.group_N) + self.max_group_rows * count_rows_by_level(self._oversized)
        self.level = self._lowest_fitting_level(rows_L.tolist(), self.level)
        self._oversized = self._oversized[is_in_level(self._oversized, self.level)]
        self._parts = [own_rows.filter(is_in_level(own_rows.group_N, self.level))]

    def _lowest_fitting_level(self, rows_L: Sequence[int], lowest: int) -> int:
        """Return the smallest level, `lowest` or above, whose rows fit."""
        return next((level for level in range(lowest, LEVELS) if rows_L[level] <= self.max_rows), LEVELS)

    def gather(self, group: ProcessGroup | None) -> GlobalSample:
        """Return the sample over all ranks, equal on every rank. This is a collective."""
        own_rows = concatenate([no_rows(self._tasks, self._device), *self._parts])
        own_counts = torch.tensor([self.level, len(self._oversized), len(own_rows)], device=self._device)
        levels, oversized, lengths = gather(own_counts, group).T.tolist()
        if not any(levels) and not any(oversized) and sum(lengths) <= self.max_rows:
            return GlobalSample(join_group_rows(own_rows, group).sorted_by_group(), 0, 0, complete=True)
        group_C = self._global_oversized_groups(own_rows.group_N, max(levels), group)
        own_rows = own_rows.filter(~torch.isin(own_rows.group_N, group_C))
        rows_L = all_reduce(count_rows_by_level(own_rows.group_N), group)
        level = self._lowest_fitting_level(
            (rows_L + self.max_group_rows * count_rows_by_level(group_C)).tolist(), max(levels)
        )
        rows = join_group_rows(own_rows.filter(is_in_level(own_rows.group_N, level)), group).sorted_by_group()
        return GlobalSample(rows, level, int(is_in_level(group_C, level).sum()), complete=False)

    def _global_oversized_groups(self, group_N: Tensor, level: int, group: ProcessGroup | None) -> Tensor:
        """Return the oversized groups of a level over all ranks. This is a collective.

        Some rank has more than S / (8 W) rows of an oversized group. A rank has at most 8 W such groups, so ranks only
        exchange these candidates.
        """
        world = rank_and_world(group)[1]
        own_C, rows_C = group_N[is_in_level(group_N, level)].unique(return_counts=True)
        own_oversized = self._oversized[is_in_level(self._oversized, level)]
        candidates = torch.cat([own_oversized, own_C[rows_C * world > self.max_group_rows]])
        group_C: Tensor = join_rows(candidates, _lengths(candidates, group), group).unique()
        # A rank that has dropped the rows of an oversized group counts one row more than the limit for it.
        counted_C = (self.max_group_rows + 1) * torch.isin(group_C, own_oversized)
        if len(own_C):
            index_C = torch.searchsorted(own_C, group_C).clamp(max=len(own_C) - 1)
            counted_C += rows_C[index_C] * (own_C[index_C] == group_C)
        return group_C.masked_select(all_reduce(counted_C, group) > self.max_group_rows)


def join_group_rows(rows: GroupRows, group: ProcessGroup | None) -> GroupRows:
    """Return the rows of all ranks one after the other, on the CPU, where later sums have equal bits on all ranks."""
    lengths = _lengths(rows.group_N, group)
    return GroupRows(*(join_rows(x, lengths, group).cpu() for x in (rows.group_N, rows.logit_NK, rows.signed_NK)))


def _lengths(own_N: Tensor, group: ProcessGroup | None) -> list[int]:
    lengths: list[int] = gather(torch.tensor(len(own_N), device=own_N.device), group).tolist()
    return lengths


# Number of bits of a hash; a group is of level l if the first l of them are 0.
LEVELS = 63
_HASH_SEED = 0x5851F42D4C957F2D


@dataclass(frozen=True)
class GroupRows:
    """Rows with their groups, of 8 + 12 K bytes each.

    Args:
        group_N: Group id of each row as int64.
        logit_NK: Logits as float32.
        signed_NK: Signed weights as float64: `+w` for a positive, `-w` for a negative, 0 if the row does not count for
            the task.
    """

    group_N: Tensor
    logit_NK: Tensor
    signed_NK: Tensor

    def __len__(self) -> int:
        """Return the number of rows N."""
        return self.group_N.shape[0]

    def __getitem__(self, rows: slice) -> GroupRows:
        """Return a slice of the rows without a copy."""
        return GroupRows(self.group_N[rows], self.logit_NK[rows], self.signed_NK[rows])

    def take(self, index: Tensor) -> GroupRows:
        """Return the rows with these indices, in this order."""
        return GroupRows(*(x.index_select(0, index) for x in (self.group_N, self.logit_NK, self.signed_NK)))

    def filter(self, mask_N: Tensor) -> GroupRows:
        """Return the rows for which the mask is True, without a copy if these are all rows."""
        index = mask_N.nonzero().squeeze(1)
        return self if len(index) == len(self) else self.take(index)

    def sorted_by_group(self) -> GroupRows:
        """Return the rows in ascending order of their groups."""
        return self.take(self.group_N.argsort(stable=True))


def no_rows(tasks: int, device: torch.device) -> GroupRows:
    """Return zero rows for `tasks` tasks."""
    # A tensor that is created in inference mode cannot be updated outside of it.
    with torch.inference_mode(False):
        return GroupRows(
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros(0, tasks, dtype=torch.float32, device=device),
            torch.zeros(0, tasks, dtype=torch.float64, device=device),
        )


def concatenate(parts: Sequence[GroupRows]) -> GroupRows:
    """Return the rows of all parts one after the other."""
    return GroupRows(
        torch.cat([part.group_N for part in parts]),
        torch.cat([part.logit_NK for part in parts]),
        torch.cat([part.signed_NK for part in parts]),
    )


class GroupAreas(NamedTuple):
    """AUC of every task and group.

    Args:
        auc_KG: AUC, or 0 if it is undefined.
        bound_KG: Bound of the error of `auc_KG`.
        positive_KG: Weight of the positives.
        negative_KG: Weight of the negatives.
    """

    auc_KG: Tensor
    bound_KG: Tensor
    positive_KG: Tensor
    negative_KG: Tensor

    @property
    def mixed_KG(self) -> Tensor:
        """Flags of the groups with both classes."""
        return (self.positive_KG > 0) & (self.negative_KG > 0)

    @property
    def counted_KG(self) -> Tensor:
        """Impressions n_g (sums of weights) of the groups with both classes, or 0 for the others."""
        return (self.positive_KG + self.negative_KG) * self.mixed_KG

    def totals(self) -> Tensor:
        """Return the sums (5, K) over the groups of n_g AUC_g, n_g, [both classes], [one class] and n_g bound_g."""
        counted_KG, mixed_KG = self.counted_KG, self.mixed_KG
        single_KG = (self.positive_KG + self.negative_KG > 0) & ~mixed_KG
        terms = (counted_KG * self.auc_KG, counted_KG, mixed_KG, single_KG, counted_KG * self.bound_KG)
        return torch.stack([term_KG.sum(1, dtype=torch.float64) for term_KG in terms])


def group_areas(rows: GroupRows, binned_groups: Sequence[int] = ()) -> GroupAreas:
    """Compute the AUC of every group and task, with few tensor operations for all groups together.

        AUC_g = sum over pairs (i positive, j negative) of g w_i w_j [logit_i > logit_j] / (P_g N_g), [equal] = 1/2

    Running sums start again at each group; otherwise a group of small weight after one of large weight would lose
    digits.

    Args:
        rows: Rows in ascending order of their group ids.
        binned_groups: Ids of the groups whose scores are rounded to the bins of the AUC histogram; the error bound of
            the others is 0.
    """
    group_G, segment_N = torch.unique_consecutive(rows.group_N, return_inverse=True)
    groups = group_G.numel()
    logit_NK, is_binned_G = rows.logit_NK, torch.zeros_like(group_G, dtype=torch.bool)
    if binned_groups:
        is_binned_G = torch.isin(group_G, torch.tensor(binned_groups, device=group_G.device))
        logit_NK = torch.where(is_binned_G[segment_N].unsqueeze(1), _bin_centre(_bin_index(logit_NK)), logit_NK)
    sums_K = [
        _sums_of_task(segment_N, logit_N, signed_N, groups)
        for logit_N, signed_N in zip(logit_NK.unbind(1), rows.signed_NK.unbind(1), strict=True)
    ]
    positive_KG, negative_KG, area_KG, tied_KG = torch.stack(sums_K, dim=1)
    pairs_KG = positive_KG * negative_KG
    pairs_KG = torch.where(pairs_KG > 0, pairs_KG, torch.ones_like(pairs_KG))
    return GroupAreas(area_KG / pairs_KG, tied_KG / pairs_KG * is_binned_G, positive_KG, negative_KG)


def _sums_of_task(segment_N: Tensor, score_N: Tensor, signed_N: Tensor, groups: int) -> Tensor:
    """Return (4, G): weights of the positives, the negatives, the pairs in the right order, and half the tied pairs.

    A tied pair counts 1/2 among the pairs in the right order.
    """
    index = signed_N.nonzero().squeeze(1)
    if len(index) < len(signed_N):
        segment_N, score_N, signed_N = (x_N.index_select(0, index) for x_N in (segment_N, score_N, signed_N))
    # One sort orders the rows by group and then by score.
    key_N, order_N = torch.sort((segment_N << 32) | _ascending(score_N))
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
    """Map float32 scores to integers in [0, 2^32) of the same order; equal scores, and 0 and -0, get equal integers."""
    # Adding 0.0 turns -0 into 0.
    bits_N = (score_N + 0.0).view(torch.int32)
    # As integers, negative floats descend, so their lower bits are flipped.
    return (bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)).long() + (1 << 31)


def _running_sum(value_T: Tensor, segment_T: Tensor) -> Tensor:
    """Return inclusive running sums inside each segment, in log2(longest segment) steps of doubling distance."""
    sum_T, step = value_T.clone(), 1
    while step < len(segment_T) and (same_segment := segment_T[step:] == segment_T[:-step]).any():
        sum_T[step:] += sum_T[:-step] * same_segment
        step *= 2
    return sum_T


def to_histogram_rows(rows: GroupRows) -> GroupRows:
    """Replace rows of one group by at most H rows, one for each nonzero bin of their histogram.

    Applied to its own result, it changes nothing.
    """
    return from_histogram(int(rows.group_N[0]), histogram(rows))


def histogram(rows: GroupRows) -> Tensor:
    """Return the sums of signed weights (H, K) by bin of the logit: `BINS` bins of negatives, then those of positives.

    The histograms of the rows of several ranks add up to the histogram of all these rows.
    """
    tasks = rows.logit_NK.shape[1]
    class_NK = (rows.signed_NK > 0).long()
    slot_NK = (class_NK * BINS + _bin_index(rows.logit_NK)) * tasks + torch.arange(tasks, device=rows.group_N.device)
    signed = rows.signed_NK.new_zeros(2 * BINS * tasks)
    return signed.index_add_(0, slot_NK.flatten(), rows.signed_NK.flatten()).view(2 * BINS, tasks)


def from_histogram(group_id: int, signed_HK: Tensor) -> GroupRows:
    """Return rows of a group that have a given `histogram`, one for each nonzero bin."""
    bin_H = torch.arange(BINS, device=signed_HK.device).repeat(2)
    logit_HK = _bin_centre(bin_H).unsqueeze(1).expand_as(signed_HK)
    return GroupRows(torch.full_like(bin_H, group_id), logit_HK, signed_HK).filter((signed_HK != 0).any(1))


def _bin_index(logit: Tensor) -> Tensor:
    return ((logit + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).clamp(0, BINS - 1).long()


def _bin_centre(bin_index: Tensor) -> Tensor:
    """Return the logit at the centre of each bin, which float32 represents exactly."""
    return ((bin_index.double() + 0.5) * (2 * LOGIT_RANGE / BINS) - LOGIT_RANGE).float()


def hash_groups(group_N: Tensor) -> Tensor:
    """Return a 63-bit hash of each group (SplitMix64), so that a sample by hash does not depend on the order of ids."""
    x_N = group_N + _HASH_SEED
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        # The product of int64 values wraps to the same bits as that of unsigned values.
        x_N = (x_N ^ _shift_right(x_N, shift)) * factor
    return _shift_right(x_N ^ _shift_right(x_N, 31), 1)


def _shift_right(x_N: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros; the shift of int64 would repeat the sign bit."""
    return (x_N >> bits) & ((1 << (64 - bits)) - 1)


def count_rows_by_level(group_N: Tensor) -> Tensor:
    """Return (L,), the number of rows whose groups are of each level 0 .. `LEVELS`, as int64; all are of level 0."""
    powers = torch.ones((), dtype=torch.int64, device=group_N.device) << torch.arange(LEVELS, device=group_N.device)
    # A hash with b significant bits begins with `LEVELS` - b zeros.
    bits_N = torch.bucketize(hash_groups(group_N), powers, right=True)
    return torch.bincount(bits_N, minlength=LEVELS + 1).cumsum(0).flip(0)


def is_in_level(group_N: Tensor, level: int) -> Tensor:
    """Return a flag of each row, True if its group is of `level`, which has probability 2^-level."""
    return hash_groups(group_N) < (1 << (LEVELS - level)) if level else torch.ones_like(group_N, dtype=torch.bool)


def confidence_interval(weight_G: Tensor, auc_G: Tensor, sampled_share: float) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of GAUC over all groups from a sample of groups.

    GAUC is the ratio R = sum n_g AUC_g / sum n_g. With m groups in the sample, R computed from the sample, and
    d_g = n_g (AUC_g - R), the linearised variance of a ratio estimate (Cochran, Sampling Techniques, chapter 6) is

        Var R = (1 - f) m / (m - 1) sum d_g^2 / (sum n_g)^2,  f the sampled share of the groups

    The half width is its root times the 97.5 % quantile of Student's t with m - 1 degrees of freedom.

    Args:
        weight_G: Impressions n_g > 0 of the sampled groups with both classes.
        auc_G: AUC_g of the same groups.
        sampled_share: Share of all groups that are in the sample, f, in [0, 1].

    Returns:
        (low, high) within [0, 1], or None for fewer than 2 groups.
    """
    # The import takes a quarter of a second, and few runs need it.
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    groups, total = weight_G.numel(), float(weight_G.sum())
    if groups < 2:
        return None
    mean = float((weight_G * auc_G).sum()) / total
    spread = float((weight_G * (auc_G - mean)).square().sum())
    deviation = math.sqrt((1 - sampled_share) * groups / (groups - 1) * spread) / total
    half_width = float(stdtrit(groups - 1, 0.975)) * deviation
    return max(0.0, mean - half_width), min(1.0, mean + half_width)
