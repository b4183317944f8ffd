"""Ranking metrics of ordered candidate lists, such as NDCG.

A list holds the candidates of one request or one user; each row is one candidate. The predictions of several tasks are
fused into one score per row, and each prediction is raised to an exponent first. A setting is one choice of these
exponents. It orders every list by descending score, and all metrics are computed for many settings at once.

A place is the index of a row in its ordered list, from 0, and y_r is the label of the row at place r. A user sees the
rows at the first k places, the seen places; in a list with fewer than k rows, all places are seen. A positive is a row
with a label above 0, a negative a row with label 0.

These metrics have a value for each list, and the metric is the mean of these values:

    gauc      share of the list's (positive, negative) pairs in which the positive has the higher score
    ndcg@k    sum_{r<k} y_r / log2(r + 2), divided by the largest value that any order of the list reaches
    map@k     (1 / min(k, positives)) sum_{r<k} y_r (positives at places <= r) / (r + 1)
    hit@k     1 if a positive is at a place < k, else 0
    mean@k    (1 / min(k, rows)) sum_{r<k} y_r, the mean label of the seen rows

The mean for gauc weights each list by its number of rows; the other means weight all lists equally. A mean leaves out
the lists on which the metric is undefined: gauc needs a positive and a negative; ndcg, map and hit need a positive;
mean is defined on every list. The order of a list with k rows or fewer changes neither hit@k nor mean@k.

value@k is no mean over lists. It is one ratio of sums over the seen rows of all lists:

    value@k   sum_{lists} sum_{r<k} w_r y_r / sum_{lists} sum_{r<k} w_r

`counterfactual.py` computes the weights w, and explains what value@k estimates.

Rows of a list with equal scores are tied. gauc counts one half for a tied pair. For all other metrics, tied rows get a
random order, which is the same for every setting (`lists.py`). gauc, map and hit need labels of 0 and 1, and ndcg needs
labels of 0 or more.

Shape suffixes: N rows, L lists, W settings, P seen places of all lists.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.words import spelling_hint
from ple_rec.errors import UserError
from ple_rec.ranking.lists import CandidateLists, Floats, Order

KINDS = ("gauc", "ndcg", "map", "hit", "mean", "value")
# These kinds need labels of 0 and 1.
_BINARY_KINDS = ("gauc", "map", "hit")
_NAME = re.compile(r"(?P<task>[A-Za-z_][A-Za-z0-9_]*)\.(?P<kind>[a-z]+)(@(?P<places>[0-9]+))?")


@dataclass(frozen=True)
class MetricName:
    """Name of a metric, such as `TASK.gauc` or `TASK.ndcg@10`.

    Args:
        task: Name of the task whose labels the metric uses.
        kind: Kind of the metric, one of `KINDS`.
        places: Number k of seen places of a list; 0 for gauc, which has no k.
    """

    task: str
    kind: str
    places: int

    @classmethod
    def parse(cls, text: str, tasks: dict[str, str], place: str) -> MetricName:
        """Parse the text of a name, such as `like.ndcg@10`.

        Args:
            text: Text of the name.
            tasks: Kind of each task, such as "binary", by task name.
            place: Option or file in which the user wrote the text, for messages.

        Raises:
            UserError: The text names no metric, or the metric needs labels of 0 and 1 and the task is not binary.
        """
        match = _NAME.fullmatch(text)
        rule = "it is TASK.gauc, TASK.ndcg@K, TASK.map@K, TASK.hit@K, TASK.mean@K or TASK.value@K"
        if match is None or match["kind"] not in KINDS or (match["kind"] == "gauc") != (match["places"] is None):
            raise UserError(place, f'got "{text}"', rule, _suggested(text, tasks))
        task, kind, places = match["task"], match["kind"], int(match["places"] or 0)
        if task not in tasks:
            raise UserError(place, f'got "{text}"', f"the tasks are {', '.join(tasks)}", _suggested(text, tasks))
        if match["places"] is not None and places == 0:
            raise UserError(place, f'got "{text}"', "K places are seen, one or more", f"for example {task}.{kind}@10")
        if tasks[task] != "binary" and kind in _BINARY_KINDS:
            raise UserError(
                place, f'got "{text}"', f"{kind} needs labels of 0 and 1", f"use {task}.ndcg@10 or {task}.mean@10"
            )
        return cls(task, kind, places)

    def __str__(self) -> str:
        return f"{self.task}.{self.kind}" + (f"@{self.places}" if self.places else "")


def _suggested(text: str, tasks: dict[str, str]) -> str:
    """Return a fix for a message: the metric's name that is most similar to the text, or else an example of a name."""
    places = text.partition("@")[2]
    seen = places if places.isdecimal() and int(places) else "10"
    pairs = [(task, kind) for task in tasks for kind in KINDS if tasks[task] == "binary" or kind not in _BINARY_KINDS]
    names = [f"{task}.{kind}" if kind == "gauc" else f"{task}.{kind}@{seen}" for task, kind in pairs]
    return spelling_hint(text, names) or f"for example {next(iter(tasks))}.ndcg@10"


class ListMetric(ABC):
    """Metric of a task's labels in ordered lists.

    Every metric is a ratio, and both its numerator and its denominator are sums over the lists on which it is defined.
    Each such list adds one term to the numerator and one to the denominator.

    Attributes:
        defined_L: Flag of each list, True if the metric is defined on it.
        weighted_rows: Number of rows that the metric weights by inverse propensity; None if the metric does not.
    """

    defined_L: NDArray[np.bool_]
    weighted_rows: int | None = None

    @abstractmethod
    def sums(self, ordered: Order) -> tuple[Floats, Floats]:
        """Return the terms of the numerator and those of the denominator, each with shape (W, lists with the metric).

        Args:
            ordered: Order of the rows under each setting.
        """

    @abstractmethod
    def mean(self, ordered: Order) -> Floats:
        """Return the metric under each setting, the ratio of the two sums, with shape (W,)."""

    def effective(self, ordered: Order) -> Floats | None:
        """Return Kish's effective number of rows, (sum w)^2 / sum w^2, under each setting, with shape (W,).

        A metric without inverse propensities returns None.
        """
        return None


class _Mean(ListMetric):
    """Weighted mean of one value per list.

    Attributes:
        weight_L: Weights of the lists on which the metric is defined, without the other lists.
    """

    weight_L: Floats

    @abstractmethod
    def per_list(self, ordered: Order) -> Floats:
        """Return the value of every list on which the metric is defined, with shape (W, lists with the metric)."""

    def sums(self, ordered: Order) -> tuple[Floats, Floats]:
        value_WL = self.per_list(ordered) * self.weight_L
        return value_WL, np.broadcast_to(self.weight_L, value_WL.shape)

    def mean(self, ordered: Order) -> Floats:
        return np.asarray(self.per_list(ordered) @ (self.weight_L / self.weight_L.sum()))


class _Places:
    """Seen places of all lists, list by list.

    Args:
        lists: Lists of candidates.
        places: Number k of seen places of a list.

    Attributes:
        top_P: Index of each seen place in an array of all rows, list by list, such as a row of `Order.row_WN`.
        place_P: Place in its list, 0 to k - 1.
        seen_L: Number of seen places of each list.
        begin_L: Index of each list's first seen place among all P.
        by_place: Pair for each place r that some list has, below k. It holds the index of the first list with a row at
            place r, and the index of place r of this list and of each later list in an array of all rows.
    """

    def __init__(self, lists: CandidateLists, places: int) -> None:
        self.top_P = np.flatnonzero(lists.place_N < places)
        self.place_P = lists.place_N[self.top_P]
        self.seen_L = np.minimum(lists.size_L, places)
        self.begin_L = np.cumsum(self.seen_L) - self.seen_L
        # Lists are sorted by length, shortest first. So if list `begin` is the first with a row at some place, all
        # lists after it have a row there, too.
        first = np.searchsorted(lists.size_L, np.arange(self.seen_L[-1]), side="right").tolist()
        self.by_place = [(begin, lists.start_L[begin:] + place) for place, begin in enumerate(first)]

    def of(self, values_N: Floats, ordered: Order) -> Floats:
        """Return the values of the rows that each setting puts at the seen places, with shape (W, P).

        Args:
            values_N: Value of each row, in the order of `CandidateLists.row_N`.
            ordered: Order of the rows under each setting.
        """
        return np.asarray(values_N.take(ordered.row_WN.take(self.top_P, axis=1)))

    def sums_WL(self, values_WP: Floats) -> Floats:
        """Return the sums of values over the seen places of each list."""
        return np.asarray(np.add.reduceat(values_WP, self.begin_L, axis=1))


class _Seen(_Mean):
    """Mean, over equally weighted lists, of a function of the labels at the seen places."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        self.label_N, self.places = label_N, _Places(lists, places)
        self.positives_L = np.add.reduceat(label_N > 0, lists.start_L, dtype=np.int64)

    def define_on(self, defined_L: NDArray[np.bool_]) -> None:
        """Set the lists on which the metric is defined, each with weight 1."""
        self.defined_L = defined_L
        self.weight_L = np.ones(int(defined_L.sum()))


class _Linear(_Seen):
    """Metric whose value for a list is a sum of the labels at its seen places, each times a factor.

    Attributes:
        gain_P: Factor of the label at each seen place. It depends on the place and the list, not on the order.
    """

    gain_P: Floats

    def per_list(self, ordered: Order) -> Floats:
        gain_WP = self.places.of(self.label_N, ordered) * self.gain_P
        return self.places.sums_WL(gain_WP)[:, self.defined_L]

    def mean(self, ordered: Order) -> Floats:
        """Return the mean over lists from one matrix product, which is faster than a value for each list."""
        return np.asarray(self.places.of(self.label_N, ordered) @ (self.gain_P / len(self.weight_L)))


class _Ndcg(_Linear):
    """ndcg@k. The factor of a label is the discount of its place, divided by the largest value of its list."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        seen, discount_P = self.places, 1.0 / np.log2(self.places.place_P + 2.0)
        best_L = seen.sums_WL(seen.of(label_N, lists.ordered(label_N[None, :])) * discount_P)[0]
        self.define_on(best_L > 0)
        scale_L = np.divide(1.0, best_L, out=np.zeros_like(best_L), where=self.defined_L)
        self.gain_P = discount_P * np.repeat(scale_L, seen.seen_L)


class _Map(_Seen):
    """map@k. `most_L` is min(k, positives) of each list on which it is defined."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(self.positives_L > 0)
        self.most_L = np.minimum(self.positives_L, places)[self.defined_L]

    def per_list(self, ordered: Order) -> Floats:
        # A loop over the places, each for all lists at once, is faster than a cumulative sum within each list.
        positives_WL = np.zeros((len(ordered.row_WN), len(self.defined_L)))
        precision_WL = np.zeros_like(positives_WL)
        for place, (begin, row_L) in enumerate(self.places.by_place):
            label_WL = self.label_N.take(ordered.row_WN.take(row_L, axis=1))
            positives_WL[:, begin:] += label_WL
            label_WL *= positives_WL[:, begin:]
            label_WL /= place + 1
            precision_WL[:, begin:] += label_WL
        return np.asarray(precision_WL[:, self.defined_L] / self.most_L)


class _Hit(_Seen):
    """hit@k."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(self.positives_L > 0)

    def per_list(self, ordered: Order) -> Floats:
        labels_WP = self.places.of(self.label_N, ordered)
        return (self.places.sums_WL(labels_WP)[:, self.defined_L] > 0).astype(np.float64)


class _MeanLabel(_Linear):
    """mean@k. The factor of a label is 1 / min(k, rows of its list)."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(np.ones(len(lists.size_L), bool))
        self.gain_P = 1.0 / np.repeat(self.places.seen_L, self.places.seen_L)


class _Value(ListMetric):
    """value@k: mean of the labels of all seen rows, weighted by inverse propensity (`counterfactual.py`)."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int, weight_N: Floats) -> None:
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
    """GAUC: share of a list's (positive, negative) pairs in the right order, averaged over lists by their rows.

    The number of rows below each positive, summed over the positives of a list, counts the pairs in the right order and
    also every pair of two positives. A list with p positives has p (p - 1) / 2 pairs of positives in any order, so this
    constant is subtracted.

    Attributes:
        gain_N: Number of rows below each place of each list, divided by the list's (positive, negative) pairs.
        positive_pairs_L: Number p (p - 1) / 2 with the same divisor, for the lists on which gauc is defined.
        weighted_gain_N: Product of `gain_N` and the number of rows of the list.
    """

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        self.positive_N, self.start_L = (label_N > 0).astype(np.float64), lists.start_L
        positives_L = np.add.reduceat(self.positive_N, lists.start_L)
        pairs_L = positives_L * (lists.size_L - positives_L)
        self.defined_L = pairs_L > 0
        self.weight_L = lists.size_L[self.defined_L].astype(np.float64)
        scale_L = np.divide(1.0, pairs_L, out=np.zeros_like(pairs_L), where=self.defined_L)
        self.positive_pairs_L = (positives_L * (positives_L - 1) / 2 * scale_L)[self.defined_L]
        self.gain_N = (np.repeat(lists.size_L, lists.size_L) - 1 - lists.place_N) * np.repeat(scale_L, lists.size_L)
        self.weighted_gain_N = self.gain_N * np.repeat(lists.size_L, lists.size_L)

    def per_list(self, ordered: Order) -> Floats:
        pairs_WL = np.add.reduceat(self._labels(ordered) * self.gain_N, self.start_L, axis=1)
        return np.asarray(pairs_WL[:, self.defined_L] - self.positive_pairs_L)

    def mean(self, ordered: Order) -> Floats:
        """Return the mean over lists from one matrix product, which is faster than a value for each list."""
        pairs_W = self._labels(ordered) @ self.weighted_gain_N - self.positive_pairs_L @ self.weight_L
        return np.asarray(pairs_W / self.weight_L.sum())

    def _labels(self, ordered: Order) -> Floats:
        """Return the labels in this order, where each tied row gets the mean label of its tie.

        The pairs of a tie then count one half each.
        """
        return ordered.averaged(self.positive_N.take(ordered.row_WN))


_METRICS: dict[str, Callable[[CandidateLists, Floats, int], ListMetric]] = {
    "gauc": _Gauc,
    "ndcg": _Ndcg,
    "map": _Map,
    "hit": _Hit,
    "mean": _MeanLabel,
}


def metric_of(name: MetricName, lists: CandidateLists, label_N: Floats, weight_N: Floats | None = None) -> ListMetric:
    """Build the metric that a name stands for.

    Args:
        name: Name of the metric.
        lists: Lists of candidates.
        label_N: Labels of the metric's task, in the order of `lists.row_N`.
        weight_N: Inverse propensities as weights above 0, in the same order. Only value@k uses them, and it needs them.

    Raises:
        UserError: The metric is defined on no list, or it is ndcg and a label is below 0.
    """
    if name.kind == "value":
        assert weight_N is not None, "value@K needs the propensities of the log"
        return _Value(lists, label_N, name.places, weight_N)
    if name.kind == "ndcg" and (label_N < 0).any():
        rule = "gains of ndcg are 0 or more"
        raise UserError(str(name), f"a label of {label_N.min():g}", rule, f"use {name.task}.mean@K")
    metric = _METRICS[name.kind](lists, label_N, name.places)
    if not metric.defined_L.any():
        need = "a positive and a negative" if name.kind == "gauc" else "a label above 0"
        raise UserError(
            str(name), "no list has one", f"it needs lists with {need}", "measure another task, or more rows"
        )
    return metric
