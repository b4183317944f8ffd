"""GAUC: mean AUC of groups, such as the impressions of one user or request, weighted by their impressions.

A group has an integer id here; an argument with the name `group` is the process group of the ranks. The rows of a
group that is too large are replaced by a histogram of their logits; such a group is called binned. A row counts for a
task if it is in the task's sample space, for example only clicked impressions for a conversion rate.

Shapes: B rows of a batch, N rows, K tasks, S = 5 sums of a task (`GroupAreas.totals`), G groups, H histogram bins
of both classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics import accumulator
from ple_rec.metrics.accumulator import all_reduce, gather
from ple_rec.metrics.group_auc import (
    GroupRows,
    GroupSample,
    concatenate,
    confidence_interval,
    from_histogram,
    group_areas,
    histogram,
    join_group_rows,
    no_rows,
    to_histogram_rows,
)

GroupResult = dict[str, float | int | list[float] | None]

# Group id of the rows whose group is null.
NO_GROUP = -1
# Defaults of `GroupAuc`.
FLUSH_ROWS = 1 << 18
SAMPLE_ROWS = 1 << 20
GROUP_ROWS = 1 << 20


class _RankSummary(NamedTuple):
    """Integers about one rank's rows that other ranks need. Head and tail are the rank's first and last group.

    Args:
        has_groups: 1 if the rank got a batch with groups, else 0.
        unsorted: 1 if the groups are not sorted, else 0.
        first: Group id of the head.
        last: Group id of the tail, or of the head if there is no tail.
        first_outer: Id of the outer group of the head.
        last_outer: Id of the outer group of the last group.
        head_rows: Number of rows of the head, or 0 if the rank has no rows.
        tail_rows: Number of rows of the tail.
        head_is_binned: 1 if the rows of the head are a histogram, else 0.
        tail_is_binned: 1 if the rows of the tail are a histogram, else 0.
    """

    has_groups: int = 0
    unsorted: int = 0
    first: int = 0
    last: int = 0
    first_outer: int = 0
    last_outer: int = 0
    head_rows: int = 0
    tail_rows: int = 0
    head_is_binned: int = 0
    tail_is_binned: int = 0


class GroupAuc:
    """GAUC of K binary tasks over all ranks, in bounded memory.

    Let n_g be the impressions of group g, that is, the sum of sample weights in the task's sample space, and AUC_g the
    AUC of its rows as `BinaryAccumulator` defines it. Over the groups that have positives and negatives:

        gauc = sum_g n_g AUC_g / sum_g n_g

    A group of one class has no AUC. Such groups, and rows whose group is null, are left out; `compute` returns their
    numbers.

    **Exact for sorted groups.** Groups are sorted if their ids never descend in reading order, from rank 0 to the last;
    if groups are parts of outer groups, such as the days of users, the ids of outer groups never descend, nor do those
    of groups inside an outer group. This is checked. A rank then closes a group as soon as the next one begins: it adds
    the group to its sums and drops the rows. It keeps its first and its last group, which may continue on other ranks,
    and `compute` joins their rows. Rows that count for no task are skipped.

    **From a sample otherwise.** Every rank also keeps the rows of a `GroupSample`. If all groups fit into it, GAUC is
    exact; if not, `gauc_interval` is the 95 % interval of `group_auc.confidence_interval`. A group that alone has more
    than an eighth of `sample_rows` is then left out, and neither estimate nor interval includes it; `compute` returns
    the number of such groups.

    Memory per rank, at 8 + 12 K bytes a row: `flush_rows` rows to be sorted, `group_rows` of the first and as many of
    the last group, and `sample_rows` of the sample; and about 200 bytes a row while any of these are sorted. In
    `compute`, every rank also has one sample, or `group_rows` rows at a time of the groups that cross ranks. If a first
    or last group has more than `group_rows` rows, on one rank or on all together, its rows become a histogram of 2^16
    bins over logits in [-16, 16], as in `BinaryAccumulator`, with at most 2^17 rows. Then `gauc_exact` is False, and
    the true GAUC is certainly within `gauc_interval`.

    Args:
        tasks: Number of tasks K.
        device: Device of the batches; the process group must be able to reduce tensors on it.
        flush_rows: Number of rows that are collected before they are sorted.
        sample_rows: Maximum number of rows of the sample.
        group_rows: Maximum number of rows of a group, over all ranks, before they become a histogram.
    """

    def __init__(
        self,
        tasks: int,
        device: torch.device | str,
        *,
        flush_rows: int = FLUSH_ROWS,
        sample_rows: int = SAMPLE_ROWS,
        group_rows: int = GROUP_ROWS,
    ) -> None:
        self.tasks, self.device = tasks, torch.device(device)
        self.flush_rows, self.sample_rows, self.group_rows = flush_rows, sample_rows, group_rows
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        # A tensor that is created in inference mode cannot be updated outside of it.
        with torch.inference_mode(False):
            # Sums over the groups that are complete on this rank.
            self._sums_SK = torch.zeros(5, self.tasks, dtype=torch.float64, device=self.device)
            self._ungrouped_1K = torch.zeros(1, self.tasks, dtype=torch.float64, device=self.device)
        self._has_groups, self._sorted = False, True
        self._pending: list[GroupRows] = []
        self._pending_outer: list[Tensor] = []
        self._pending_rows = 0
        self._head = self._tail = no_rows(self.tasks, self.device)
        # Ids of the outer group and of the group, of the first and of the last row that counts.
        self._first_ids = self._last_ids = (0, 0)
        self._head_is_binned = self._tail_is_binned = False
        self._sample = GroupSample(self.tasks, self.device, self.sample_rows)

    @torch.no_grad()
    def update(
        self,
        logits_BK: Tensor,
        labels_BK: Tensor,
        weight_B: Tensor | None,
        in_space_BK: Tensor,
        group_B: Tensor,
        outer_B: Tensor | None = None,
    ) -> None:
        """Add a batch. It waits for the device only once in `flush_rows` rows.

        Args:
            logits_BK: Logits, compared in float32.
            labels_BK: Labels, 0 or 1.
            weight_B: Sample weights >= 0, or None if all are 1.
            in_space_BK: Flags of the sample spaces, nonzero for a row that counts; other logits and labels are ignored,
                NaN included.
            group_B: Group ids as int64, -1 for null. Those of rows that count for no task are ignored.
            outer_B: Ids of the outer groups, of which the groups are parts; None if rows are sorted by `group_B` alone.

        Raises:
            ValueError: The shape of the groups does not fit.
        """
        if group_B.shape != logits_BK.shape[:1]:
            raise ValueError(f"groups: got shape {tuple(group_B.shape)}; expected {tuple(logits_BK.shape[:1])}")
        inside_BK = in_space_BK.bool()
        signed_BK = 2 * labels_BK.double() - 1
        if weight_B is not None:
            signed_BK = signed_BK * weight_B.double().unsqueeze(1)
        # The tasks' other metrics raise an error for values that are not finite. Here they are only made harmless.
        signed_BK = torch.where(inside_BK, torch.nan_to_num(signed_BK), 0.0)
        self._ungrouped_1K += (inside_BK & (group_B == NO_GROUP).unsqueeze(1)).sum(0)
        group_B = group_B.clone()
        self._pending.append(GroupRows(group_B, torch.nan_to_num(logits_BK.float()), signed_BK))
        self._pending_outer.append(group_B if outer_B is None else outer_B.clone())
        self._pending_rows += group_B.shape[0]
        self._has_groups = True
        if self._pending_rows >= self.flush_rows:
            self._flush()

    def _flush(self) -> None:
        """Add the pending rows to the sample and, as long as groups are sorted, to head, sums and tail."""
        if not self._pending:
            return
        rows, outer_N = concatenate(self._pending), torch.cat(self._pending_outer)
        self._pending, self._pending_outer, self._pending_rows = [], [], 0
        counts_N = (rows.group_N != NO_GROUP) & (rows.signed_NK != 0).any(1)
        rows, outer_N = rows.filter(counts_N), outer_N[counts_N]
        if not len(rows):
            return
        self._sample.add(rows)
        if self._sorted and not self._continues_order(outer_N, rows.group_N):
            self._sorted = False
            self._head = self._tail = no_rows(self.tasks, self.device)
        if self._sorted:
            self._add_in_order(concatenate([self._tail, rows]))

    def _continues_order(self, outer_N: Tensor, group_N: Tensor) -> bool:
        """Return True if rows are sorted by outer group and group and follow the rows before them; note their ends."""
        same_outer = outer_N[1:] == outer_N[:-1]
        descends = (outer_N[1:] < outer_N[:-1]) | (same_outer & (group_N[1:] < group_N[:-1]))
        first, last = ((int(outer_N[i]), int(group_N[i])) for i in (0, -1))
        if not len(self._head):
            self._first_ids = self._last_ids = first
        in_order = first >= self._last_ids and not bool(descends.any())
        self._last_ids = last
        return in_order

    def _add_in_order(self, rows: GroupRows) -> None:
        """Extend the head, close the complete groups after it, and keep the last group as the new tail.

        Args:
            rows: Rows of the tail, followed by new rows, in order.
        """
        group_N = rows.group_N
        first = self._head.group_N[0] if len(self._head) else group_N[0]
        begin = int((group_N == first).sum())
        end = int((group_N != group_N[-1]).sum()) if begin < len(rows) else begin
        if begin:
            self._head, self._head_is_binned = self._limit_rows([self._head, rows[:begin]], self._head_is_binned)
        binned_groups = [int(group_N[0])] if self._tail_is_binned else []
        if end > begin:
            self._sums_SK += group_areas(rows[begin:end], binned_groups).totals()
        tail_continues = self._tail_is_binned and end == begin
        self._tail, self._tail_is_binned = self._limit_rows([rows[end:]], tail_continues)

    def _limit_rows(self, parts: Sequence[GroupRows], is_binned: bool) -> tuple[GroupRows, bool]:
        """Join rows of one group, and replace them by a histogram if there are more than `group_rows`.

        Args:
            parts: Rows of the group.
            is_binned: True if some of them are a histogram already.

        Returns:
            Rows, and a flag that is True if they are a histogram.
        """
        rows = concatenate(parts)
        return (to_histogram_rows(rows), True) if len(rows) > self.group_rows else (rows, is_binned)

    def compute(self, group: ProcessGroup | None = None) -> list[GroupResult]:
        """Return the GAUC of each task over all ranks, equal on every rank. This is a collective.

        Returns:
            For each task: `gauc` (None if no group, or no group of the sample, has both classes), `gauc_groups` (number
            of groups with both classes), `gauc_excluded_groups` (number of groups of one class),
            `gauc_oversized_groups` (number of groups too large for the sample, equal for all tasks), `gauc_ungrouped`
            (number of rows of the sample space whose group is null), `gauc_exact`, and `gauc_interval`: `[low, high]`,
            or None if GAUC is exact or no interval is known. If GAUC is an estimate from a sample, only groups of the
            sample are counted. The list is empty if no rank got a batch with groups.
        """
        self._flush()
        summaries = self._gather_summaries(group)
        if not any(each.has_groups for each in summaries):
            return []
        nonempty = [each for each in summaries if each.head_rows]
        in_order = not any(each.unsorted for each in summaries) and all(
            (a.last_outer, a.last) <= (b.first_outer, b.first) for a, b in pairwise(nonempty)
        )
        shared_groups = {b.first for a, b in pairwise(nonempty) if a.last == b.first} if in_order else set()
        own_sums = torch.cat([self._own_sums(shared_groups), self._ungrouped_1K])
        *sums_SK, ungrouped_K = all_reduce(own_sums, group).cpu()
        if in_order:
            sums = torch.stack(sums_SK) + self._shared_sums(summaries, shared_groups, group)
            results = [_result_of_sums(*values) for values in sums.T.tolist()]
        else:
            results = self._sample_results(group)
        return [
            result | {"gauc_ungrouped": int(rows)} for result, rows in zip(results, ungrouped_K.tolist(), strict=True)
        ]

    def _gather_summaries(self, group: ProcessGroup | None) -> list[_RankSummary]:
        """Return the summary of every rank. This is a collective."""
        own_summary = torch.tensor(self._rank_summary(), dtype=torch.int64, device=self.device)
        return [_RankSummary(*values) for values in gather(own_summary, group).tolist()]

    def _rank_summary(self) -> _RankSummary:
        head_rows, tail_rows = len(self._head), len(self._tail)
        (first_outer, first), (last_outer, last) = self._first_ids, self._last_ids
        return _RankSummary(
            has_groups=self._has_groups,
            unsorted=not self._sorted,
            first=first,
            last=last,
            first_outer=first_outer,
            last_outer=last_outer,
            head_rows=head_rows,
            tail_rows=tail_rows,
            head_is_binned=self._head_is_binned,
            tail_is_binned=self._tail_is_binned,
        )

    def _own_sums(self, shared_groups: set[int]) -> Tensor:
        """Return the sums (5, K) over the groups that are on this rank alone."""
        sums = self._sums_SK.clone()
        for rows, is_binned in ((self._head, self._head_is_binned), (self._tail, self._tail_is_binned)):
            if len(rows) and (group_id := int(rows.group_N[0])) not in shared_groups:
                sums += group_areas(rows, [group_id] if is_binned else []).totals()
        return sums

    def _shared_sums(
        self, summaries: Sequence[_RankSummary], shared_groups: set[int], group: ProcessGroup | None
    ) -> Tensor:
        """Return the sums (5, K) over the groups that cross ranks, equal on every rank.

        Groups are joined in batches, so that no rank has the rows of all of them at once.

        Args:
            summaries: Summary of every rank.
            shared_groups: Ids of the groups that cross ranks.
            group: Process group of the ranks.
        """
        sums, rows_by_group, binned_groups = (
            torch.zeros(5, self.tasks, dtype=torch.float64),
            dict.fromkeys(sorted(shared_groups), 0),
            set(),
        )
        for summary in summaries:
            for group_id, count, is_binned in (
                (summary.first, summary.head_rows, summary.head_is_binned),
                (summary.last, summary.tail_rows, summary.tail_is_binned),
            ):
                if count and group_id in shared_groups:
                    rows_by_group[group_id] += count
                    if is_binned or rows_by_group[group_id] > self.group_rows:
                        binned_groups.add(group_id)
        for group_id in sorted(binned_groups):
            signed_HK = all_reduce(histogram(self._end_rows({group_id})), group).cpu()
            sums += group_areas(from_histogram(group_id, signed_HK), [group_id]).totals()
        for group_ids in _batch_groups(
            {group_id: count for group_id, count in rows_by_group.items() if group_id not in binned_groups},
            self.group_rows,
        ):
            sums += group_areas(join_group_rows(self._end_rows(group_ids), group)).totals()
        return sums

    def _end_rows(self, group_ids: set[int]) -> GroupRows:
        """Return the rows of this rank's first and last group (head and tail) that belong to these groups."""
        ends = [rows for rows in (self._head, self._tail) if len(rows) and int(rows.group_N[0]) in group_ids]
        return concatenate([no_rows(self.tasks, self.device), *ends])

    def _sample_results(self, group: ProcessGroup | None) -> list[GroupResult]:
        """Return the GAUC of each task from the groups of the sample. This is a collective."""
        sample = self._sample.gather(group)
        areas = group_areas(sample.rows)
        oversized_count = {"gauc_oversized_groups": sample.oversized}
        results = [_result_of_sums(*values) | oversized_count for values in areas.totals().T.tolist()]
        if not sample.complete:
            for result, weight_G, auc_G in zip(results, areas.counted_KG, areas.auc_KG, strict=True):
                sample_interval = confidence_interval(weight_G[weight_G > 0], auc_G[weight_G > 0], 2.0**-sample.level)
                result |= {"gauc_exact": False, "gauc_interval": list(sample_interval) if sample_interval else None}
        return results


def _batch_groups(rows_by_group: dict[int, int], max_rows: int) -> list[set[int]]:
    """Divide groups, in order, into batches of at most `max_rows` rows.

    Args:
        rows_by_group: Number of rows of each group, none above `max_rows`.
        max_rows: Maximum number of rows of a batch.
    """
    batches: list[set[int]] = [set()]
    rows_in_batch = 0
    for group_id, count in rows_by_group.items():
        if rows_in_batch + count > max_rows:
            batches.append(set())
            rows_in_batch = 0
        batches[-1].add(group_id)
        rows_in_batch += count
    return [batch for batch in batches if batch]


def _result_of_sums(area: float, weight: float, groups: float, excluded: float, bound: float) -> GroupResult:
    """Return a task's GAUC from the sums over all its groups (`GroupAreas.totals`), inexact if `bound` is not 0."""
    gauc = accumulator.ratio(area, weight)
    error_interval = None
    if gauc is not None and bound:
        error_interval = [max(0.0, gauc - bound / weight), min(1.0, gauc + bound / weight)]
    return {
        "gauc": gauc,
        "gauc_groups": int(groups),
        "gauc_excluded_groups": int(excluded),
        "gauc_oversized_groups": 0,
        "gauc_exact": error_interval is None,
        "gauc_interval": error_interval,
    }
