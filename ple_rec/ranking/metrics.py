"""Metrics of ordered lists, each for many settings of the exponents at once.

With y_r the label of the row at place r = 0, 1, .. of a list, and k places that are seen:

    gauc      share of (positive, negative) pairs of a list that stand in the right order, lists weighted by their rows
    ndcg@k    sum_{r<k} y_r / log2(r + 2), over the same of the best order
    map@k     (1 / min(k, positives)) sum_{r<k} y_r (positives at places <= r) / (r + 1)
    hit@k     whether a positive stands at a place < k
    mean@k    (1 / min(k, rows)) sum_{r<k} y_r, what a video that is seen brings

each the mean over the lists where it is defined: with positives and negatives (gauc), with a label above 0 (ndcg, map,
hit), all (mean). A list of k rows or fewer is the same in any order for hit and mean. ndcg takes labels of 0 and
more, gauc, map and hit labels of 0 and 1.

Shape suffixes: N rows, L lists, W settings, P seen places of all lists.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError
from ple_rec.ranking.lists import Floats, Ints, Lists

KINDS = ("gauc", "ndcg", "map", "hit", "mean")
_NAME = re.compile(r"(?P<task>[A-Za-z_][A-Za-z0-9_]*)\.(?P<kind>[a-z]+)(@(?P<places>[0-9]+))?")


@dataclass(frozen=True)
class Measured:
    """What is measured of an order: `TASK.gauc`, or `TASK.ndcg@10` and so on.

    Args:
        task: Whose labels.
        kind: One of `KINDS`.
        places: k; 0 for gauc.
    """

    task: str
    kind: str
    places: int

    @classmethod
    def parse(cls, text: str, tasks: dict[str, str], place: str) -> Measured:
        """Read one.

        Args:
            text: To be read.
            tasks: Kind of each task.
            place: For messages.

        Raises:
            UserError: it is no metric, or not of this kind of task.
        """
        found = _NAME.fullmatch(text)
        rule = "it is TASK.gauc, TASK.ndcg@K, TASK.map@K, TASK.hit@K or TASK.mean@K"
        if found is None or found["kind"] not in KINDS or (found["kind"] == "gauc") != (found["places"] is None):
            raise UserError(place, f'got "{text}"', rule, "for example vtr.ndcg@10")
        task, kind, places = found["task"], found["kind"], int(found["places"] or 0)
        if task not in tasks:
            raise UserError(place, f'got "{text}"', f"the tasks are {', '.join(tasks)}", "name one of them")
        if found["places"] is not None and places == 0:
            raise UserError(place, f'got "{text}"', "K places are seen, one or more", f"for example {task}.{kind}@10")
        if tasks[task] != "binary" and kind in ("gauc", "map", "hit"):
            raise UserError(
                place, f'got "{text}"', f"{kind} needs labels of 0 and 1", f"use {task}.ndcg@10 or {task}.mean@10"
            )
        return cls(task, kind, places)

    def __str__(self) -> str:
        return f"{self.task}.{self.kind}" + (f"@{self.places}" if self.places else "")


class ListMetric(ABC):
    """A metric over lists, labels given.

    Attributes:
        defined_L: Which lists it is defined on.
        weight_L: Of those lists, what each counts in the mean.
    """

    defined_L: NDArray[np.bool_]
    weight_L: Floats

    @abstractmethod
    def per_list(self, ordered_WN: Ints) -> Floats:
        """Its value on every list that it is defined on, (W, lists).

        Args:
            ordered_WN: Of `Lists.ordered`.
        """

    def mean(self, ordered_WN: Ints) -> Floats:
        """Over the lists, (W,)."""
        return np.asarray(self.per_list(ordered_WN) @ (self.weight_L / self.weight_L.sum()))


class _Seen(ListMetric):
    """A sum over seen places of a function of the labels there, by a scale of the list."""

    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        self.label_N = label_N
        self.top_P = np.flatnonzero(lists.place_N < places)
        self.place_P = lists.place_N[self.top_P]
        self.seen_L = np.minimum(lists.size_L, places)
        self.begin_L = np.cumsum(self.seen_L) - self.seen_L
        self.positives_L = np.add.reduceat(label_N > 0, lists.start_L, dtype=np.int64)

    def keep(self, defined_L: NDArray[np.bool_]) -> None:
        self.defined_L = defined_L
        self.weight_L = np.ones(int(defined_L.sum()))

    def labels_WP(self, ordered_WN: Ints) -> Floats:
        """At the seen places."""
        return np.asarray(self.label_N[ordered_WN[:, self.top_P]])

    def sums_WL(self, values_WP: Floats) -> Floats:
        """Over the seen places of each list."""
        return np.asarray(np.add.reduceat(values_WP, self.begin_L, axis=1))


class _Ndcg(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.discount_P = 1.0 / np.log2(self.place_P + 2.0)
        best = lists.ordered(label_N[None, :])
        self.best_L = self.sums_WL(self.labels_WP(best) * self.discount_P)[0]
        self.keep(self.best_L > 0)

    def per_list(self, ordered_WN: Ints) -> Floats:
        found = self.sums_WL(self.labels_WP(ordered_WN) * self.discount_P)
        return np.asarray(found[:, self.defined_L] / self.best_L[self.defined_L])


class _Map(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(self.positives_L > 0)
        self.most_L = np.minimum(self.positives_L, places)[self.defined_L]

    def per_list(self, ordered_WN: Ints) -> Floats:
        labels_WP = self.labels_WP(ordered_WN)
        so_far_WP = np.cumsum(labels_WP, axis=1)
        before_WL = so_far_WP[:, self.begin_L] - labels_WP[:, self.begin_L]
        precision_WP = (so_far_WP - np.repeat(before_WL, self.seen_L, axis=1)) / (self.place_P + 1.0)
        return np.asarray(self.sums_WL(labels_WP * precision_WP)[:, self.defined_L] / self.most_L)


class _Hit(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(self.positives_L > 0)

    def per_list(self, ordered_WN: Ints) -> Floats:
        return (self.sums_WL(self.labels_WP(ordered_WN))[:, self.defined_L] > 0).astype(np.float64)


class _Mean(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(np.ones(len(lists.size_L), bool))

    def per_list(self, ordered_WN: Ints) -> Floats:
        return np.asarray(self.sums_WL(self.labels_WP(ordered_WN)) / self.seen_L)


class _Gauc(ListMetric):
    """Pairs in the right order, counted by the negatives that stand below each positive."""

    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        self.negative_N, self.start_L, self.size_L = label_N <= 0, lists.start_L, lists.size_L
        negatives_L = np.add.reduceat(self.negative_N, lists.start_L, dtype=np.int64)
        positives_L = lists.size_L - negatives_L
        self.defined_L = (positives_L > 0) & (negatives_L > 0)
        self.negatives_L = negatives_L
        self.pairs_L = (positives_L * negatives_L)[self.defined_L]
        self.weight_L = lists.size_L[self.defined_L].astype(np.float64)

    def per_list(self, ordered_WN: Ints) -> Floats:
        negative_WN = self.negative_N[ordered_WN]
        above_WN = np.cumsum(negative_WN, axis=1, dtype=np.int32)  # over all lists so far
        first_WL = above_WN[:, self.start_L] - negative_WN[:, self.start_L]
        # Of a positive: the negatives of its list, less those above it; summed, the pairs in the right order.
        wrong = np.add.reduceat(np.where(negative_WN, 0, above_WN), self.start_L, axis=1, dtype=np.int64)
        positives_L = self.size_L - self.negatives_L
        wrong_WL = wrong - positives_L * first_WL
        return np.asarray(1.0 - wrong_WL[:, self.defined_L] / self.pairs_L)


_OF_KIND: dict[str, Callable[[Lists, Floats, int], ListMetric]] = {
    "gauc": _Gauc,
    "ndcg": _Ndcg,
    "map": _Map,
    "hit": _Hit,
    "mean": _Mean,
}


def metric_of(measured: Measured, lists: Lists, label_N: Floats) -> ListMetric:
    """The metric of labels that stand in the order of `lists.row_N`.

    Raises:
        UserError: it is defined on no list, or ndcg has a label below 0.
    """
    if measured.kind == "ndcg" and (label_N < 0).any():
        rule = "gains of ndcg are 0 or more"
        raise UserError(str(measured), f"a label of {label_N.min():g}", rule, f"use {measured.task}.mean@K")
    metric = _OF_KIND[measured.kind](lists, label_N, measured.places)
    if not metric.defined_L.any():
        need = "a positive and a negative" if measured.kind == "gauc" else "a label above 0"
        raise UserError(
            str(measured), "no list has one", f"it needs lists with {need}", "measure another task, or more rows"
        )
    return metric
