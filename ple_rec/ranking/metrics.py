"""Metrics of ordered lists, each for many settings of the exponents at once.

With y_r the label of the row at place r = 0, 1, .. of a list, and k places that are seen:

    gauc      share of (positive, negative) pairs of a list that stand in the right order, a pair of one score as one
              half; lists weighted by their rows
    ndcg@k    sum_{r<k} y_r / log2(r + 2), over the same of the best order
    map@k     (1 / min(k, positives)) sum_{r<k} y_r (positives at places <= r) / (r + 1)
    hit@k     whether a positive stands at a place < k
    mean@k    (1 / min(k, rows)) sum_{r<k} y_r, what a video that is seen brings

each the mean over the lists where it is defined: with positives and negatives (gauc), with a label above 0 (ndcg, map,
hit), all (mean). A list of k rows or fewer is the same in any order for hit and mean. Which of the rows of one score
stands at a place was drawn once (`lists.py`). ndcg takes labels of 0 and more, gauc, map and hit labels of 0 and 1.
And, over the seen places of all lists, with weights w of `counterfactual.py`, which says what it estimates,

    value@k   sum_{lists} sum_{r<k} w_r y_r / sum_{lists} sum_{r<k} w_r

Shape suffixes: N rows, L lists, W settings, P seen places of all lists.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.words import meant
from ple_rec.errors import UserError
from ple_rec.ranking.lists import Floats, Lists, Order

KINDS = ("gauc", "ndcg", "map", "hit", "mean", "value")
_OF_BINARY = ("gauc", "map", "hit")
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
        rule = "it is TASK.gauc, TASK.ndcg@K, TASK.map@K, TASK.hit@K, TASK.mean@K or TASK.value@K"
        if found is None or found["kind"] not in KINDS or (found["kind"] == "gauc") != (found["places"] is None):
            raise UserError(place, f'got "{text}"', rule, _near(text, tasks))
        task, kind, places = found["task"], found["kind"], int(found["places"] or 0)
        if task not in tasks:
            raise UserError(place, f'got "{text}"', f"the tasks are {', '.join(tasks)}", _near(text, tasks))
        if found["places"] is not None and places == 0:
            raise UserError(place, f'got "{text}"', "K places are seen, one or more", f"for example {task}.{kind}@10")
        if tasks[task] != "binary" and kind in _OF_BINARY:
            raise UserError(
                place, f'got "{text}"', f"{kind} needs labels of 0 and 1", f"use {task}.ndcg@10 or {task}.mean@10"
            )
        return cls(task, kind, places)

    def __str__(self) -> str:
        return f"{self.task}.{self.kind}" + (f"@{self.places}" if self.places else "")


def _near(text: str, tasks: dict[str, str]) -> str:
    """The metric that `text` may have meant, or an example of one."""
    places = text.partition("@")[2]
    seen = places if places.isdecimal() and int(places) else "10"
    fitting = [(task, kind) for task in tasks for kind in KINDS if tasks[task] == "binary" or kind not in _OF_BINARY]
    known = [f"{task}.{kind}" if kind == "gauc" else f"{task}.{kind}@{seen}" for task, kind in fitting]
    return meant(text, known) or f"for example {next(iter(tasks))}.ndcg@10"


class ListMetric(ABC):
    """A metric over lists, labels given: the ratio of two sums over the lists.

    Attributes:
        defined_L: Which lists it is defined on.
        weighted_rows: How many rows it weights; None where it weights none.
    """

    defined_L: NDArray[np.bool_]
    weighted_rows: int | None = None

    @abstractmethod
    def sums(self, ordered: Order) -> tuple[Floats, Floats]:
        """What every list that it is defined on adds to both sums, (W, lists) each.

        Args:
            ordered: Of `Lists.ordered`.
        """

    @abstractmethod
    def mean(self, ordered: Order) -> Floats:
        """The ratio of the sums, (W,)."""

    def effective(self, ordered: Order) -> Floats | None:
        """Kish's effective number of the weighted rows, (sum w)^2 / sum w^2, (W,); None where there are none."""
        return None


class _Mean(ListMetric):
    """Of a value that each list has, weighted."""

    weight_L: Floats  # of the lists that it is defined on

    @abstractmethod
    def per_list(self, ordered: Order) -> Floats:
        """The value on every list that it is defined on, (W, lists)."""

    def sums(self, ordered: Order) -> tuple[Floats, Floats]:
        value_WL = self.per_list(ordered) * self.weight_L
        return value_WL, np.broadcast_to(self.weight_L, value_WL.shape)

    def mean(self, ordered: Order) -> Floats:
        return np.asarray(self.per_list(ordered) @ (self.weight_L / self.weight_L.sum()))


class _Places:
    """The seen places of lists.

    Args:
        lists: Of the rows.
        places: That are seen of each.
    """

    def __init__(self, lists: Lists, places: int) -> None:
        self.top_P = np.flatnonzero(lists.place_N < places)
        self.place_P = lists.place_N[self.top_P]
        self.seen_L = np.minimum(lists.size_L, places)
        self.begin_L = np.cumsum(self.seen_L) - self.seen_L
        # Shorter lists come first: those with a row at a place are all from one on.
        first = np.searchsorted(lists.size_L, np.arange(self.seen_L[-1]), side="right").tolist()
        self.by_place = [(begin, lists.start_L[begin:] + place) for place, begin in enumerate(first)]

    def of(self, values_N: Floats, ordered: Order) -> Floats:
        """The values that stand there, (W, P)."""
        return np.asarray(values_N.take(ordered.row_WN.take(self.top_P, axis=1)))

    def sums_WL(self, values_WP: Floats) -> Floats:
        """Over the seen places of each list."""
        return np.asarray(np.add.reduceat(values_WP, self.begin_L, axis=1))


class _Seen(_Mean):
    """A sum over seen places of a function of the labels there, by a scale of the list; every list counts alike."""

    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        self.label_N, self.places = label_N, _Places(lists, places)
        self.positives_L = np.add.reduceat(label_N > 0, lists.start_L, dtype=np.int64)

    def keep(self, defined_L: NDArray[np.bool_]) -> None:
        self.defined_L = defined_L
        self.weight_L = np.ones(int(defined_L.sum()))


class _Linear(_Seen):
    """A sum over seen places of the labels there, each times a gain of its place and list."""

    gain_P: Floats

    def per_list(self, ordered: Order) -> Floats:
        gained_WP = self.places.of(self.label_N, ordered) * self.gain_P
        return self.places.sums_WL(gained_WP)[:, self.defined_L]

    def mean(self, ordered: Order) -> Floats:
        """Without the sums of the lists."""
        return np.asarray(self.places.of(self.label_N, ordered) @ (self.gain_P / len(self.weight_L)))


class _Ndcg(_Linear):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        seen, discount_P = self.places, 1.0 / np.log2(self.places.place_P + 2.0)
        best_L = seen.sums_WL(seen.of(label_N, lists.ordered(label_N[None, :])) * discount_P)[0]
        self.keep(best_L > 0)
        scale_L = np.divide(1.0, best_L, out=np.zeros_like(best_L), where=self.defined_L)
        self.gain_P = discount_P * np.repeat(scale_L, seen.seen_L)


class _Map(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(self.positives_L > 0)
        self.most_L = np.minimum(self.positives_L, places)[self.defined_L]

    def per_list(self, ordered: Order) -> Floats:
        """Place by place through all lists, which takes less time than a running sum within each."""
        so_far_WL = np.zeros((len(ordered.row_WN), len(self.defined_L)))
        found_WL = np.zeros_like(so_far_WL)
        for place, (begin, row_L) in enumerate(self.places.by_place):
            label_WL = self.label_N.take(ordered.row_WN.take(row_L, axis=1))
            so_far_WL[:, begin:] += label_WL
            label_WL *= so_far_WL[:, begin:]
            label_WL /= place + 1
            found_WL[:, begin:] += label_WL
        return np.asarray(found_WL[:, self.defined_L] / self.most_L)


class _Hit(_Seen):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(self.positives_L > 0)

    def per_list(self, ordered: Order) -> Floats:
        labels_WP = self.places.of(self.label_N, ordered)
        return (self.places.sums_WL(labels_WP)[:, self.defined_L] > 0).astype(np.float64)


class _MeanLabel(_Linear):
    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.keep(np.ones(len(lists.size_L), bool))
        self.gain_P = 1.0 / np.repeat(self.places.seen_L, self.places.seen_L)


class _Value(ListMetric):
    """Of the seen rows of all lists, their labels weighted (`counterfactual.py`)."""

    def __init__(self, lists: Lists, label_N: Floats, places: int, weight_N: Floats) -> None:
        self.places, self.weight_N, self.weighted_N = _Places(lists, places), weight_N, weight_N * label_N
        self.defined_L, self.weighted_rows = np.ones(len(lists.size_L), bool), len(self.places.top_P)

    def sums(self, ordered: Order) -> tuple[Floats, Floats]:
        weighted, weight = (self.places.of(values_N, ordered) for values_N in (self.weighted_N, self.weight_N))
        return self.places.sums_WL(weighted), self.places.sums_WL(weight)

    def mean(self, ordered: Order) -> Floats:
        row_WP = ordered.row_WN.take(self.places.top_P, axis=1)
        return np.asarray(self.weighted_N.take(row_WP).sum(axis=1) / self.weight_N.take(row_WP).sum(axis=1))

    def effective(self, ordered: Order) -> Floats:
        weight_WP = self.places.of(self.weight_N, ordered)
        return np.asarray(weight_WP.sum(axis=1) ** 2 / (weight_WP**2).sum(axis=1))


class _Gauc(_Mean):
    """Pairs in the right order: of each positive the rows that stand below it, less the pairs of two positives."""

    def __init__(self, lists: Lists, label_N: Floats, places: int) -> None:
        self.positive_N, self.start_L = (label_N > 0).astype(np.float64), lists.start_L
        positives_L = np.add.reduceat(self.positive_N, lists.start_L)
        pairs_L = positives_L * (lists.size_L - positives_L)
        self.defined_L = pairs_L > 0
        self.weight_L = lists.size_L[self.defined_L].astype(np.float64)
        scale_L = np.divide(1.0, pairs_L, out=np.zeros_like(pairs_L), where=self.defined_L)
        self.of_two_L = (positives_L * (positives_L - 1) / 2 * scale_L)[self.defined_L]
        self.gain_N = (np.repeat(lists.size_L, lists.size_L) - 1 - lists.place_N) * np.repeat(scale_L, lists.size_L)
        self.weighted_gain_N = self.gain_N * np.repeat(lists.size_L, lists.size_L)

    def per_list(self, ordered: Order) -> Floats:
        gained_WL = np.add.reduceat(self._labels(ordered) * self.gain_N, self.start_L, axis=1)
        return np.asarray(gained_WL[:, self.defined_L] - self.of_two_L)

    def mean(self, ordered: Order) -> Floats:
        """Without the sums of the lists."""
        gained_W = self._labels(ordered) @ self.weighted_gain_N - self.of_two_L @ self.weight_L
        return np.asarray(gained_W / self.weight_L.sum())

    def _labels(self, ordered: Order) -> Floats:
        """That stand there; of tied rows their mean, by which half of the pairs among them are in the right order."""
        return ordered.averaged(self.positive_N.take(ordered.row_WN))


_OF_KIND: dict[str, Callable[[Lists, Floats, int], ListMetric]] = {
    "gauc": _Gauc,
    "ndcg": _Ndcg,
    "map": _Map,
    "hit": _Hit,
    "mean": _MeanLabel,
}


def metric_of(measured: Measured, lists: Lists, label_N: Floats, weight_N: Floats | None = None) -> ListMetric:
    """The metric of labels that stand in the order of `lists.row_N`.

    Args:
        measured: Which.
        lists: Of the rows.
        label_N: Of the rows.
        weight_N: For value@K, what each row counts there, above 0.

    Raises:
        UserError: it is defined on no list, or ndcg has a label below 0.
    """
    if measured.kind == "value":
        assert weight_N is not None, "it is asked for together with how rows were shown"
        return _Value(lists, label_N, measured.places, weight_N)
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
