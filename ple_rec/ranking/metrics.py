"""Ranking metrics of ordered candidate lists, such as NDCG.

A list holds the candidates of one request or one user; each row is one candidate. The predictions of several tasks are
fused into one score per row, and each prediction is raised to an exponent first. A setting is one choice of these
exponents. Its scores order every list, the highest first. All metrics are computed for many settings at once.

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
the lists on which the metric is undefined: gauc needs a positive and a negative; ndcg@k, map@k and hit@k need a
positive; mean@k is defined on every list. The order of a list with k rows or fewer changes neither hit@k nor mean@k.

value@k is no mean over lists. It is one ratio of sums over the seen rows of all lists:

    value@k   sum_{lists} sum_{r<k} w_r y_r / sum_{lists} sum_{r<k} w_r

`counterfactual.py` computes the weights w, and explains what value@k estimates.

Rows of a list with equal scores are tied. gauc counts one half for a tied pair. For all other metrics, tied rows get a
random order, which is the same for every setting (`lists.py`). gauc, map and hit need labels of 0 and 1, and ndcg needs
labels of 0 or more.

Shape suffixes: N rows, L lists, M lists on which the metric is defined, W settings, P seen places of all lists.
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
_NAME_PATTERN = re.compile(r"(?P<task>[A-Za-z_][A-Za-z0-9_]*)\.(?P<kind>[a-z]+)(@(?P<places>[0-9]+))?")


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
    def parse(cls, text: str, tasks: dict[str, str], source: str) -> MetricName:
        """Parse the text of a name, such as `like.ndcg@10`.

        Args:
            text: Text of the name.
            tasks: Kind of each task, such as "binary", by task name.
            source: Option or file in which the user wrote the text, for messages.

        Raises:
            UserError: The text names no metric, or the metric needs labels of 0 and 1 and the task is not binary.
        """
        match = _NAME_PATTERN.fullmatch(text)
        rule = "it is TASK.gauc, TASK.ndcg@K, TASK.map@K, TASK.hit@K, TASK.mean@K or TASK.value@K"
        if match is None or match["kind"] not in KINDS or (match["kind"] == "gauc") != (match["places"] is None):
            raise UserError(source, f'got "{text}"', rule, _suggestion(text, tasks))
        task, kind, places = match["task"], match["kind"], int(match["places"] or 0)
        if task not in tasks:
            raise UserError(source, f'got "{text}"', f"the tasks are {', '.join(tasks)}", _suggestion(text, tasks))
        if match["places"] is not None and places == 0:
            raise UserError(source, f'got "{text}"', "K places are seen, one or more", f"for example {task}.{kind}@10")
        if tasks[task] != "binary" and kind in _BINARY_KINDS:
            raise UserError(
                source, f'got "{text}"', f"{kind} needs labels of 0 and 1", f"use {task}.ndcg@10 or {task}.mean@10"
            )
        return cls(task, kind, places)

    def __str__(self) -> str:
        return f"{self.task}.{self.kind}" + (f"@{self.places}" if self.places else "")


def _suggestion(text: str, tasks: dict[str, str]) -> str:
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
        weighted_rows: Number of rows that the metric weights by inverse propensity; None for a metric without these
            weights.
    """

    defined_L: NDArray[np.bool_]
    weighted_rows: int | None = None

    @abstractmethod
    def list_terms(self, ordered: Order) -> tuple[Floats, Floats]:
        """Return the terms of the numerator and those of the denominator, one of each per list.

        The shape of either is (W, M).

        Args:
            ordered: Order of the rows under each setting.
        """

    @abstractmethod
    def mean(self, ordered: Order) -> Floats:
        """Return the metric under each setting, the ratio of the sums of these terms, with shape (W,)."""

    def effective_rows(self, ordered: Order) -> Floats | None:
        """Return Kish's effective number of the weighted rows, (sum w)^2 / sum w^2, under each setting, (W,).

        A metric that weights no rows by inverse propensity returns None.
        """
        return None


class _Mean(ListMetric):
    """Weighted mean of one value per list.

    Attributes:
        weight_M: Weights of the lists on which the metric is defined.
    """

    weight_M: Floats

    @abstractmethod
    def per_list(self, ordered: Order) -> Floats:
        """Return the value of every list on which the metric is defined, with shape (W, M)."""

    def list_terms(self, ordered: Order) -> tuple[Floats, Floats]:
        value_WM = self.per_list(ordered) * self.weight_M
        return value_WM, np.broadcast_to(self.weight_M, value_WM.shape)

    def mean(self, ordered: Order) -> Floats:
        return np.asarray(self.per_list(ordered) @ (self.weight_M / self.weight_M.sum()))


class _SeenPlaces:
    """Seen places of all lists, list by list.

    Lists are sorted by length, shortest first, so the lists that have a place r are the last ones.

    Args:
        lists: Lists of candidates.
        places: Number k of seen places of a list.

    Attributes:
        seen_P: Index of each seen place in the second dimension of `Order.row_WN`, the places of all lists.
        place_P: Place within its list, 0 to k - 1.
        seen_L: Number of seen places of each list.
        begin_L: Index of each list's first seen place among all P.
        by_place: Pair `(begin, place_index)` for each place r < k that a list has. The lists `begin:` have a place r,
            and `place_index` has, for each of them, the index of its place r in the second dimension of `Order.row_WN`.
    """

    def __init__(self, lists: CandidateLists, places: int) -> None:
        self.seen_P = np.flatnonzero(lists.place_N < places)
        self.place_P = lists.place_N[self.seen_P]
        self.seen_L = np.minimum(lists.size_L, places)
        self.begin_L = np.cumsum(self.seen_L) - self.seen_L
        first = np.searchsorted(lists.size_L, np.arange(self.seen_L[-1]), side="right").tolist()
        self.by_place = [(begin, lists.start_L[begin:] + place) for place, begin in enumerate(first)]

    def values_at(self, values_N: Floats, ordered: Order) -> Floats:
        """Return the values of the rows that each setting puts at the seen places, with shape (W, P).

        Args:
            values_N: Value of each row, in the order of `CandidateLists.row_N`.
            ordered: Order of the rows under each setting.
        """
        return np.asarray(values_N.take(ordered.row_WN.take(self.seen_P, axis=1)))

    def sums_WL(self, values_WP: Floats) -> Floats:
        """Return the sums of values over the seen places of each list."""
        return np.asarray(np.add.reduceat(values_WP, self.begin_L, axis=1))


class _SeenMean(_Mean):
    """Mean, over equally weighted lists, of a function of the labels at the seen places."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        self.label_N, self.seen = label_N, _SeenPlaces(lists, places)
        self.positives_L = np.add.reduceat(label_N > 0, lists.start_L, dtype=np.int64)

    def define_on(self, defined_L: NDArray[np.bool_]) -> None:
        """Set the lists on which the metric is defined, each with weight 1."""
        self.defined_L = defined_L
        self.weight_M = np.ones(int(defined_L.sum()))


class _Linear(_SeenMean):
    """Metric whose value for a list is a sum of the labels at its seen places, each times a factor.

    Attributes:
        factor_P: Factor of the label at each seen place. It depends on the place and the list, not on the order, and is
            0 in lists on which the metric is undefined, since `mean` sums over all lists.
    """

    factor_P: Floats

    def per_list(self, ordered: Order) -> Floats:
        product_WP = self.seen.values_at(self.label_N, ordered) * self.factor_P
        return self.seen.sums_WL(product_WP)[:, self.defined_L]

    def mean(self, ordered: Order) -> Floats:
        """Return the mean over lists from one matrix product, which is faster than a value for each list."""
        return np.asarray(self.seen.values_at(self.label_N, ordered) @ (self.factor_P / len(self.weight_M)))


class _Ndcg(_Linear):
    """ndcg@k. The factor of a label is the discount of its place, divided by the best discounted sum of its list."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        seen, discount_P = self.seen, 1.0 / np.log2(self.seen.place_P + 2.0)
        best_L = seen.sums_WL(seen.values_at(label_N, lists.order_rows(label_N[None, :])) * discount_P)[0]
        self.define_on(best_L > 0)
        scale_L = np.divide(1.0, best_L, out=np.zeros_like(best_L), where=self.defined_L)
        self.factor_P = discount_P * np.repeat(scale_L, seen.seen_L)


class _Map(_SeenMean):
    """map@k. `most_M` is min(k, positives) of each list on which the metric is defined."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(self.positives_L > 0)
        self.most_M = np.minimum(self.positives_L, places)[self.defined_L]

    def per_list(self, ordered: Order) -> Floats:
        # A loop over the places, each for all lists at once, is faster than a cumulative sum within each list.
        positives_WL = np.zeros((len(ordered.row_WN), len(self.defined_L)))
        precision_sum_WL = np.zeros_like(positives_WL)
        for place, (begin, place_index) in enumerate(self.seen.by_place):
            label_WL = self.label_N.take(ordered.row_WN.take(place_index, axis=1))
            positives_WL[:, begin:] += label_WL
            label_WL *= positives_WL[:, begin:]
            label_WL /= place + 1
            precision_sum_WL[:, begin:] += label_WL
        return np.asarray(precision_sum_WL[:, self.defined_L] / self.most_M)


class _Hit(_SeenMean):
    """hit@k."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(self.positives_L > 0)

    def per_list(self, ordered: Order) -> Floats:
        labels_WP = self.seen.values_at(self.label_N, ordered)
        return (self.seen.sums_WL(labels_WP)[:, self.defined_L] > 0).astype(np.float64)


class _MeanLabel(_Linear):
    """mean@k. The factor of a label is 1 / min(k, rows of its list)."""

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        super().__init__(lists, label_N, places)
        self.define_on(np.ones(len(lists.size_L), bool))
        self.factor_P = 1.0 / np.repeat(self.seen.seen_L, self.seen.seen_L)


class _Value(ListMetric):
    """value@k: mean of the labels of all seen rows, weighted by inverse propensity (`counterfactual.py`).

    Attributes:
        weight_N: Weight of each row.
        weighted_N: Product of the weight and the label of each row.
    """

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int, weight_N: Floats) -> None:
        self.seen, self.weight_N, self.weighted_N = _SeenPlaces(lists, places), weight_N, weight_N * label_N
        self.defined_L, self.weighted_rows = np.ones(len(lists.size_L), bool), len(self.seen.seen_P)

    def list_terms(self, ordered: Order) -> tuple[Floats, Floats]:
        weighted, weight = (self.seen.values_at(values_N, ordered) for values_N in (self.weighted_N, self.weight_N))
        return self.seen.sums_WL(weighted), self.seen.sums_WL(weight)

    def mean(self, ordered: Order) -> Floats:
        row_WP = ordered.row_WN.take(self.seen.seen_P, axis=1)
        return np.asarray(self.weighted_N.take(row_WP).sum(axis=1) / self.weight_N.take(row_WP).sum(axis=1))

    def effective_rows(self, ordered: Order) -> Floats:
        weight_WP = self.seen.values_at(self.weight_N, ordered)
        return np.asarray(weight_WP.sum(axis=1) ** 2 / (weight_WP**2).sum(axis=1))


class _Gauc(_Mean):
    """GAUC: share of a list's (positive, negative) pairs in the right order. A list has its number of rows as weight.

    The number of rows below each positive, summed over the positives of a list, counts the pairs in the right order and
    also every pair of two positives. A list with p positives has p (p - 1) / 2 pairs of positives in any order, so this
    constant is subtracted.

    Attributes:
        below_N: Number of rows below each place of each list, divided by the list's (positive, negative) pairs.
        positive_pairs_M: p (p - 1) / 2 with the same divisor, for the lists on which gauc is defined.
        weighted_below_N: Product of `below_N` and the number of rows of the list.
    """

    def __init__(self, lists: CandidateLists, label_N: Floats, places: int) -> None:
        self.positive_N, self.start_L = (label_N > 0).astype(np.float64), lists.start_L
        positives_L = np.add.reduceat(self.positive_N, lists.start_L)
        pairs_L = positives_L * (lists.size_L - positives_L)
        self.defined_L = pairs_L > 0
        self.weight_M = lists.size_L[self.defined_L].astype(np.float64)
        scale_L = np.divide(1.0, pairs_L, out=np.zeros_like(pairs_L), where=self.defined_L)
        self.positive_pairs_M = (positives_L * (positives_L - 1) / 2 * scale_L)[self.defined_L]
        self.below_N = (np.repeat(lists.size_L, lists.size_L) - 1 - lists.place_N) * np.repeat(scale_L, lists.size_L)
        self.weighted_below_N = self.below_N * np.repeat(lists.size_L, lists.size_L)

    def per_list(self, ordered: Order) -> Floats:
        pairs_WL = np.add.reduceat(self._labels(ordered) * self.below_N, self.start_L, axis=1)
        return np.asarray(pairs_WL[:, self.defined_L] - self.positive_pairs_M)

    def mean(self, ordered: Order) -> Floats:
        """Return the mean over lists from one matrix product, which is faster than a value for each list."""
        pairs_W = self._labels(ordered) @ self.weighted_below_N - self.positive_pairs_M @ self.weight_M
        return np.asarray(pairs_W / self.weight_M.sum())

    def _labels(self, ordered: Order) -> Floats:
        """Return the labels in the order of each setting, where each tied row gets the mean label of its tie.

        The pairs of a tie then count one half each.
        """
        return ordered.average_ties(self.positive_N.take(ordered.row_WN))


_METRICS: dict[str, Callable[[CandidateLists, Floats, int], ListMetric]] = {
    "gauc": _Gauc,
    "ndcg": _Ndcg,
    "map": _Map,
    "hit": _Hit,
    "mean": _MeanLabel,
}


def build_metric(
    name: MetricName, lists: CandidateLists, label_N: Floats, weight_N: Floats | None = None
) -> ListMetric:
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
            str(name), "is defined on no list", f"it needs lists with {need}", "measure another task, or more rows"
        )
    return metric
