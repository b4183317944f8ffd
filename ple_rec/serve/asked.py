"""The JSON of a request -> table rows and numbers, with an error for whatever is wrong that names its field.

    rank    {"user": {feature: value}, "items": [{feature: value}, ...], "exponents"?, "top"?, "explain"?}
    score   {"rows": [{feature: value}, ...], "exponents"?, "explain"?}

Items and rows may be columns instead, {feature: [value, ...], ...} (`ple_rec.serve.given`).

A missing feature is a missing value, as null is (`ple_rec.serve.values`). A name that is no feature is an error, since
it is a misspelt feature. Texts are whole: the server's parser refuses half of a surrogate pair, as it does NaN.

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.words import meant
from ple_rec.data.encode import Encoder
from ple_rec.serve.given import Form, Given, read_given
from ple_rec.serve.shown import shorten
from ple_rec.serve.signature import OWNERS, Input, Owner, Signature
from ple_rec.serve.values import MAX_VALUES, Columns, Ids, RequestError, as_object, or_default, too_many


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Args:
        kind: Which.
        rows: N, of the items.
        ids: Of every sparse feature: of a user's feature of one user, of all others of N rows.
        dense: Likewise of every dense feature, NaN where it is missing.
        exponents: By factor, those that replace the model's.
        top: How many of a ranking are wanted.
        explain: Whether factors and gates are.
        missing: Features that neither the user nor any row gave, not even as null.
        form: In which rows were given.
    """

    kind: Literal["rank", "score"]
    rows: int
    ids: Mapping[str, Ids]
    dense: Mapping[str, NDArray[np.float32]]
    exponents: Mapping[str, float]
    top: int | None
    explain: bool
    missing: tuple[str, ...] = ()
    form: Form = "rows"


class Reader:
    """Reads the requests of one model.

    Args:
        signature: Of the model.
        encoder: Of its sparse features.
        factors: Names of what is raised to exponents.
    """

    def __init__(self, signature: Signature, encoder: Encoder, factors: Sequence[str]) -> None:
        self._signature, self._factors = signature, tuple(factors)
        self._ordered: dict[Owner, list[str]] = {owner: [each.name for each in signature.of(owner)] for owner in OWNERS}
        self._names: dict[Owner, frozenset[str]] = {owner: frozenset(names) for owner, names in self._ordered.items()}
        self._columns = Columns(signature, encoder)

    def rank(self, document: object) -> Asked:
        """A request for a ranking.

        Raises:
            RequestError: it is wrong.
        """
        body = as_object(document, "body", ("user", "items", "exponents", "top", "explain"))
        user = as_object(or_default(body.get("user"), {}), "user")
        self._known(user, "user", self._names["user"] | self._names["item"])
        items = self._given(body, "items", self._ordered["item"])
        missing = [name for name in self._ordered["user"] if name not in user]
        missing += [name for name in self._ordered["item"] if name not in user and not items.has(name)]

        def column(each: Input) -> Any:
            value = user.get(each.name)
            if each.of == "user":
                return self._columns.of_user(each, value)
            return self._columns.of_items(each, items, value)

        ids, dense = self._read(column, {"user": "user", "item": "items"})
        top = body.get("top")
        if top is not None and (not _integral(top) or top < 1):
            raise RequestError("top", top, "the number of items that are wanted, 1 or more")
        most = None if top is None else int(top)
        exponents, explain = self._exponents(body), self._explain(body)
        return Asked("rank", items.count, ids, dense, exponents, most, explain, tuple(missing), items.form)

    def score(self, document: object) -> Asked:
        """A request for the scores of rows.

        Raises:
            RequestError: it is wrong.
        """
        body = as_object(document, "body", ("rows", "exponents", "explain"))
        names = [each.name for each in self._signature.inputs]
        rows = self._given(body, "rows", names)

        def column(each: Input) -> Any:
            return self._columns.column(each, rows.values(each.name), rows.place)

        ids, dense = self._read(column, {"user": "rows", "item": "rows"})
        missing = tuple(name for name in names if not rows.has(name))
        exponents, explain = self._exponents(body), self._explain(body)
        return Asked("score", rows.count, ids, dense, exponents, None, explain, missing, rows.form)

    def _read(
        self, column: Callable[[Input], Any], places: Mapping[Owner, str]
    ) -> tuple[dict[str, Ids], dict[str, NDArray[np.float32]]]:
        """Return the columns of all sparse, and of all dense features."""
        ids: dict[str, Ids] = {}
        dense: dict[str, NDArray[np.float32]] = {}
        total = 0
        for each in self._signature.inputs:
            found = column(each)
            (dense if each.dense else ids)[each.name] = found
            if each.bag:
                total += len(found.values_V)
                if total > MAX_VALUES:
                    raise too_many(total, f"{places[each.of]}.{each.name}")
        return ids, dense

    def _given(self, body: Mapping[str, Any], key: str, names: Sequence[str]) -> Given:
        return read_given(body, key, names, lambda row, place: self._known(row, place, frozenset(names)))

    def _known(self, row: Mapping[str, Any], place: str, names: frozenset[str]) -> None:
        for name in row:
            if name not in names:
                rule = f"no feature of the model; {meant(shorten(name), sorted(names)) or f'features: {_some(names)}'}"
                if name in self._names["user"]:
                    rule = "a feature of the user stands in `user`"
                raise RequestError(f"{place}.{shorten(name)}", row[name], rule)

    def _exponents(self, body: Mapping[str, Any]) -> dict[str, float]:
        given = as_object(or_default(body.get("exponents"), {}), "exponents")
        for name, value in given.items():
            if name not in self._factors:
                near = f"{meant(shorten(name), self._factors)} ".lstrip()
                raise RequestError(f"exponents.{shorten(name)}", value, f"{near}factors: {', '.join(self._factors)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1000:
                raise RequestError(f"exponents.{name}", value, "a number from -1000 to 1000")
        return {name: float(value) for name, value in given.items()}

    def _explain(self, body: Mapping[str, Any]) -> bool:
        explain = body.get("explain", False)
        if not isinstance(explain, bool):
            raise RequestError("explain", explain, "true or false")
        return explain


def _integral(value: object) -> bool:
    """Whether it is an integer, as JSON has them: 5, 5.0, 1e30."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _some(names: frozenset[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
