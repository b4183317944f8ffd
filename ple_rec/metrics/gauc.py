"""GAUC: AUC inside groups (the impressions of one user or request), weighted by the groups' impressions.

Shapes: B batch, N rows, K tasks, W ranks, S sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics import accumulator
from ple_rec.metrics.accumulator import all_reduce, gathered
from ple_rec.metrics.group_auc import (
    GroupRows,
    GroupSample,
    binned,
    compact,
    concatenated,
    group_areas,
    histogram,
    interval,
    joined_rows,
    no_rows,
)

GroupResult = dict[str, float | int | list[float] | None]

NO_GROUP = -1  # the group of rows whose group is null
FLUSH_ROWS = 1 << 18
SAMPLE_ROWS = 1 << 20
GROUP_ROWS = 1 << 20


class _Span(NamedTuple):
    """What the other ranks need to know of one rank's rows; head and tail are its first and its last group."""

    fed: int = 0  # [it saw a batch with groups]
    unsorted: int = 0  # [a group came back]
    first: int = 0  # group of the head
    last: int = 0  # group of the tail; of the head where there is no tail
    head_rows: int = 0  # 0: no rows
    tail_rows: int = 0
    head_coarse: int = 0
    tail_coarse: int = 0


class GroupAuc:
    """GAUC of K binary tasks over all ranks, in bounded memory.

    With n_g the impressions of group g (the sum of sample weights in the task's space) and AUC_g as `BinaryAccumulator`
    defines it on the rows of g, both over the groups that have positives and negatives:

        gauc = sum_g n_g AUC_g / sum_g n_g

    A group of one class has no AUC: it is left out and counted. So are rows whose group is null.

    **Exact where groups stand together**: a rank closes a group as soon as a greater one begins, adds it to the sums
    and forgets its rows. It keeps its first and its last group to the end, for they may go on on other ranks; those
    that do are put together there. That holds for ids that never descend in reading order, from rank 0 to the last,
    and is checked; rows that count for no task are skipped.

    **From a sample elsewhere**: every rank also keeps the rows of the groups of a `GroupSample`. Where all groups fit,
    GAUC is exact; otherwise `gauc_interval` is the 95 % interval of `group_auc.interval`. A group that alone has more
    than an eighth of `sample_rows` is then left out and counted; neither estimate nor interval speak of it.

    Memory per rank, at 8 + 12 K bytes a row: `flush_rows` rows to be sorted, `group_rows` of the first and as many of
    the last group, `sample_rows` of the sample; and about 200 bytes a row while any of these are sorted. To compute,
    every rank holds one sample, or `group_rows` rows of the groups that cross ranks at a time. A first or last group of
    more than `group_rows` rows, on one rank or on all together, becomes a histogram of 2^16 bins over logits in
    [-16, 16], as in `BinaryAccumulator`, at most 2^17 rows: then `gauc_exact` is False, and the truth lies surely
    within `gauc_interval`.

    Args:
        tasks: K.
        device: Where batches are; its process group must be able to reduce tensors there.
        flush_rows: Rows that are collected before they are sorted.
        sample_rows: At most this many in the sample.
        group_rows: At most this many of a group one by one, over all ranks.
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
        """Forget every sample."""
        with torch.inference_mode(False):  # as in `Accumulator`
            self._sums_SK = torch.zeros(5, self.tasks, dtype=torch.float64, device=self.device)  # of closed groups
            self._ungrouped_1K = torch.zeros(1, self.tasks, dtype=torch.float64, device=self.device)
        self._fed, self._sorted = False, True
        self._pending: list[GroupRows] = []
        self._pending_rows = 0
        self._head = self._tail = no_rows(self.tasks, self.device)
        self._head_coarse = self._tail_coarse = False
        self._sample = GroupSample(self.tasks, self.device, self.sample_rows)

    @torch.no_grad()
    def update(
        self, logits_BK: Tensor, labels_BK: Tensor, weight_B: Tensor | None, in_space_BK: Tensor, group_B: Tensor
    ) -> None:
        """Add a batch; waits for the device every `flush_rows` rows only.

        Args:
            logits_BK: Logits, compared in float32.
            labels_BK: 0 or 1.
            weight_B: Sample weights >= 0; None for 1.
            in_space_BK: Nonzero where the row counts. Elsewhere logit and label are ignored, NaN included.
            group_B: int64, -1 where the group is null; ignored where a row counts for no task.

        Raises:
            ValueError: if the groups' shape differs.
        """
        if group_B.shape != logits_BK.shape[:1]:
            raise ValueError(f"groups: got shape {tuple(group_B.shape)}; expected {tuple(logits_BK.shape[:1])}")
        inside_BK = in_space_BK.bool()
        signed_BK = 2 * labels_BK.double() - 1
        if weight_B is not None:
            signed_BK = signed_BK * weight_B.double().unsqueeze(1)
        # What is not finite inside a space is refused by the tasks' other metrics; here it must only do no harm.
        signed_BK = torch.where(inside_BK, torch.nan_to_num(signed_BK), 0.0)
        self._ungrouped_1K += (inside_BK & (group_B == NO_GROUP).unsqueeze(1)).sum(0)
        self._pending.append(GroupRows(group_B.clone(), torch.nan_to_num(logits_BK.float()), signed_BK))
        self._pending_rows += group_B.shape[0]
        self._fed = True
        if self._pending_rows >= self.flush_rows:
            self._flush()

    def _flush(self) -> None:
        """Put the pending rows where they belong."""
        if not self._pending:
            return
        rows = concatenated(self._pending)
        self._pending, self._pending_rows = [], 0
        rows = rows.where((rows.group_N != NO_GROUP) & (rows.signed_NK != 0).any(1))
        if not len(rows):
            return
        self._sample.add(rows)
        if self._sorted:
            self._add_in_order(concatenated([self._tail, rows]))

    def _add_in_order(self, rows: GroupRows) -> None:
        """Close the groups between head and tail of the rows that begin with the tail."""
        group_N = rows.group_N
        first = self._head.group_N[0] if len(self._head) else group_N[0]
        if bool((group_N[1:] < group_N[:-1]).any() | (group_N[0] < first)):
            self._sorted = False
            self._head = self._tail = no_rows(self.tasks, self.device)
            return
        begin = int((group_N == first).sum())
        end = int((group_N != group_N[-1]).sum()) if begin < len(rows) else begin
        if begin:
            self._head, self._head_coarse = self._bounded([self._head, rows[:begin]], self._head_coarse)
        coarse = [int(group_N[0])] if self._tail_coarse else []
        if end > begin:
            self._sums_SK += group_areas(rows[begin:end], coarse).totals()
        goes_on = self._tail_coarse and end == begin
        self._tail, self._tail_coarse = self._bounded([rows[end:]], goes_on)

    def _bounded(self, parts: Sequence[GroupRows], coarse: bool) -> tuple[GroupRows, bool]:
        """Rows of one group, and whether they are a histogram, which they become when they are too many."""
        rows = concatenated(parts)
        return (compact(rows), True) if len(rows) > self.group_rows else (rows, coarse)

    def compute(self, group: ProcessGroup | None = None) -> list[GroupResult]:
        """Per task the GAUC over all ranks of `group`, equal on every rank; a collective.

        Returns:
            `gauc` (None where no group, or none of the sample, has both classes), `gauc_groups` (groups that have),
            `gauc_excluded_groups` (of one class), `gauc_oversized_groups` (too large for the sample, whatever task
            their rows count for), `gauc_ungrouped` (rows of the space whose group is null), `gauc_exact`, and
            `gauc_interval`: `[low, high]` where it is not exact, None where it is or where nothing can be said. With
            an inexact GAUC from a sample, groups are those of the sample. Empty where no rank saw a group column.
        """
        self._flush()
        spans = self._spans(group)
        if not any(span.fed for span in spans):
            return []
        filled = [span for span in spans if span.head_rows]
        in_order = not any(span.unsorted for span in spans) and all(a.last <= b.first for a, b in pairwise(filled))
        shared = {b.first for a, b in pairwise(filled) if a.last == b.first} if in_order else set()
        own = torch.cat([self._own_sums(shared), self._ungrouped_1K])
        *sums_SK, ungrouped_K = all_reduce(own, group).cpu()
        if in_order:
            sums = torch.stack(sums_SK) + self._shared_sums(spans, shared, group)
            results = [_certain(*values) for values in sums.T.tolist()]
        else:
            results = self._sampled(group)
        return [
            result | {"gauc_ungrouped": int(rows)} for result, rows in zip(results, ungrouped_K.tolist(), strict=True)
        ]

    def _spans(self, group: ProcessGroup | None) -> list[_Span]:
        """The span of every rank."""
        own = torch.tensor(self._span(), dtype=torch.int64, device=self.device)
        return [_Span(*span) for span in gathered(own, group).tolist()]

    def _span(self) -> _Span:
        head, tail = len(self._head), len(self._tail)
        return _Span(
            fed=self._fed,
            unsorted=not self._sorted,
            first=int(self._head.group_N[0]) if head else 0,
            last=int((self._tail if tail else self._head).group_N[0]) if head else 0,
            head_rows=head,
            tail_rows=tail,
            head_coarse=self._head_coarse,
            tail_coarse=self._tail_coarse,
        )

    def _own_sums(self, shared: set[int]) -> Tensor:
        """(5, K): sums over the groups that stand on this rank alone."""
        sums = self._sums_SK.clone()
        for rows, coarse in ((self._head, self._head_coarse), (self._tail, self._tail_coarse)):
            if len(rows) and (only := int(rows.group_N[0])) not in shared:
                sums += group_areas(rows, [only] if coarse else []).totals()
        return sums

    def _shared_sums(self, spans: Sequence[_Span], shared: set[int], group: ProcessGroup | None) -> Tensor:
        """(5, K): sums over the groups that cross ranks, the same on every rank, which never holds all of them."""
        sums, rows, coarse = torch.zeros(5, self.tasks, dtype=torch.float64), dict.fromkeys(sorted(shared), 0), set()
        for span in spans:
            for own, count, is_coarse in (
                (span.first, span.head_rows, span.head_coarse),
                (span.last, span.tail_rows, span.tail_coarse),
            ):
                if count and own in shared:
                    rows[own] += count
                    if is_coarse or rows[own] > self.group_rows:
                        coarse.add(own)
        for number in sorted(coarse):
            signed_HK = all_reduce(histogram(self._ends({number})), group).cpu()
            sums += group_areas(binned(number, signed_HK), [number]).totals()
        for numbers in _batches({own: count for own, count in rows.items() if own not in coarse}, self.group_rows):
            sums += group_areas(joined_rows(self._ends(numbers), group)).totals()
        return sums

    def _ends(self, numbers: set[int]) -> GroupRows:
        """The rows of this rank's first and last group, as far as they are of these groups."""
        ends = [rows for rows in (self._head, self._tail) if len(rows) and int(rows.group_N[0]) in numbers]
        return concatenated([no_rows(self.tasks, self.device), *ends])

    def _sampled(self, group: ProcessGroup | None) -> list[GroupResult]:
        """GAUC of the groups of the sample."""
        sample = self._sample.gathered(group)
        areas = group_areas(sample.rows)
        left_out = {"gauc_oversized_groups": sample.oversized}
        results = [_certain(*values) | left_out for values in areas.totals().T.tolist()]
        if not sample.complete:
            for result, weight_G, auc_G in zip(results, areas.counted_KG, areas.auc_KG, strict=True):
                found = interval(weight_G[weight_G > 0], auc_G[weight_G > 0], 2.0**-sample.level)
                result |= {"gauc_exact": False, "gauc_interval": list(found) if found else None}
        return results


def _batches(rows: dict[int, int], most: int) -> list[set[int]]:
    """Groups taken together in order as long as they have at most `most` rows, which none exceeds alone."""
    batches: list[set[int]] = [set()]
    held = 0
    for number, count in rows.items():
        if held + count > most:
            batches.append(set())
            held = 0
        batches[-1].add(number)
        held += count
    return [batch for batch in batches if batch]


def _certain(area: float, weight: float, groups: float, excluded: float, bound: float) -> GroupResult:
    """A task's GAUC from sums over all its groups; inexact where a group is a histogram."""
    gauc = accumulator.ratio(area, weight)
    span = None
    if gauc is not None and bound:
        span = [max(0.0, gauc - bound / weight), min(1.0, gauc + bound / weight)]
    return {
        "gauc": gauc,
        "gauc_groups": int(groups),
        "gauc_excluded_groups": int(excluded),
        "gauc_oversized_groups": 0,
        "gauc_exact": span is None,
        "gauc_interval": span,
    }
