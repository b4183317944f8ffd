"""The JSON of a request -> table rows and numbers, with an error for whatever is wrong that names its field.

    rank    {"user": {feature: value}, "items": [{feature: value}, ...], "exponents"?, "top"?, "explain"?}
    score   {"rows": [{feature: value}, ...], "exponents"?, "explain"?}

A missing feature, and null, is a missing value; an unknown value is one that the vocabulary does not know. Neither is
an error. A name that is no feature is one, since it is a misspelt feature.
Where logs have integers, true and false are 1 and 0. An integer may stand as text too, since JavaScript rounds what is
larger than 2^53 - 1. Texts are whole: the server's parser refuses half of a surrogate pair, as it does NaN.

Shapes: N items, U users (1), V values of bags.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.words import meant
from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError
from ple_rec.serve.signature import Input, Owner, Signature

MAX_ITEMS = 2000
MAX_BAG = 1000  # values of one bag
_REMEMBERED, _SHORT = 4096, 64  # values of users' features; characters of one that is
_SHOWN = 80  # characters of a value in a message
_ARROW = {"int": pa.int64(), "text": pa.string(), "number": pa.float64()}
_NOTHING = type(None)
_TYPES: Mapping[str, set[type]] = {"int": {int, _NOTHING}, "text": {str, _NOTHING}, "number": {int, float, _NOTHING}}
_WANTED = {"int": 'an integer (5, "5", or true for 1)', "text": "a text", "number": "a number"}
DECIMAL = "-?(0|[1-9][0-9]{0,39})"  # an integer as text, which no parser of JSON rounds
LARGEST = float(np.finfo(np.float32).max)


class RequestError(Exception):
    """A request that is wrong.

    Args:
        field: Where, as in "items[3].video_id".
        value: What stands there, shortened.
        rule: What belongs there.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field, self.rule = field, rule
        shown = repr(value) if not isinstance(value, str | dict | list) else _shown(value)
        self.value = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
        super().__init__(f"{field}: got {self.value}; {rule}")


@dataclass(frozen=True)
class Ids:
    """Table rows of a sparse feature.

    Args:
        values_V: Rows of the table.
        offsets_N: Where each bag begins, and the end; None: one value each.
        weights_V: Of the values, where the feature has weights.
    """

    values_V: NDArray[np.int32]
    offsets_N: NDArray[np.int64] | None = None
    weights_V: NDArray[np.float32] | None = None


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
    """

    kind: Literal["rank", "score"]
    rows: int
    ids: Mapping[str, Ids]
    dense: Mapping[str, NDArray[np.float32]]
    exponents: Mapping[str, float]
    top: int | None
    explain: bool
    missing: tuple[str, ...] = ()


class Reader:
    """Reads the requests of one model.

    Args:
        signature: Of the model.
        encoder: Of its sparse features.
        factors: Names of what is raised to exponents.
    """

    def __init__(self, signature: Signature, encoder: Encoder, factors: Sequence[str]) -> None:
        self._signature, self._encoder, self._factors = signature, encoder, tuple(factors)
        self._ordered: dict[Owner, list[str]] = {
            owner: [each.name for each in signature.of(owner)] for owner in ("user", "item")
        }
        self._names: dict[Owner, frozenset[str]] = {owner: frozenset(names) for owner, names in self._ordered.items()}
        self._of_user = _remembering(signature, encoder)

    def rank(self, document: object) -> Asked:
        """A request for a ranking.

        Raises:
            RequestError: it is wrong.
        """
        body = _object(document, "body", ("user", "items", "exponents", "top", "explain"))
        user = _object(_default(body.get("user"), {}), "user")
        self._known(user, "user", self._names["user"] | self._names["item"])
        items, whole = self._list(body, "items", self._ordered["item"], self._names["item"])
        missing = _absent(self._ordered["user"], [user]) + _absent(self._ordered["item"], [user, *items], whole)
        ids: dict[str, Ids] = {}
        dense: dict[str, NDArray[np.float32]] = {}
        for each in self._signature.inputs:
            if each.of == "user":
                found = self._one(each, user.get(each.name))
            else:
                if (default := user.get(each.name)) is not None:  # wrong even where every item has its own
                    self._column(each, [default], _user_place)
                values = whole[each.name] if whole else [item.get(each.name, default) for item in items]
                found = self._column(each, values, lambda i, name: f"items[{i}].{name}")
            (dense if each.dense else ids)[each.name] = found
        top = body.get("top")
        if top is not None and (not _integral(top) or top < 1):
            raise RequestError("top", top, "the number of items that are wanted, 1 or more")
        most = None if top is None else int(top)
        exponents, explain = self._exponents(body), self._explain(body)
        return Asked("rank", len(items), ids, dense, exponents, most, explain, tuple(missing))

    def score(self, document: object) -> Asked:
        """A request for the scores of rows.

        Raises:
            RequestError: it is wrong.
        """
        body = _object(document, "body", ("rows", "exponents", "explain"))
        names = [each.name for each in self._signature.inputs]
        rows, whole = self._list(body, "rows", names, self._names["user"] | self._names["item"])
        ids: dict[str, Ids] = {}
        dense: dict[str, NDArray[np.float32]] = {}
        for each in self._signature.inputs:
            values = whole[each.name] if whole else [row.get(each.name) for row in rows]
            found = self._column(each, values, lambda i, name: f"rows[{i}].{name}")
            (dense if each.dense else ids)[each.name] = found
        missing = tuple(_absent(names, rows, whole))
        return Asked("score", len(rows), ids, dense, self._exponents(body), None, self._explain(body), missing)

    def _list(
        self, body: Mapping[str, Any], key: str, ordered: Sequence[str], names: frozenset[str]
    ) -> tuple[list[dict[str, Any]], Mapping[str, Sequence[Any]]]:
        """The rows; and the values of each name, where every row has just these names, else nothing."""
        rule = f"a list of 1 to {MAX_ITEMS:,} objects, each of them feature: value"
        if key not in body:
            raise RequestError(key, None, f"it is missing; {rule}")
        rows = body[key]
        if not isinstance(rows, list):
            raise RequestError(key, rows, rule)
        if not 1 <= len(rows) <= MAX_ITEMS:
            raise RequestError(key, f"{len(rows):,} objects", rule)
        if whole := _columns(rows, ordered):
            return rows, whole
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise RequestError(f"{key}[{i}]", row, "an object, feature: value")
            if not row.keys() <= names:
                self._known(row, f"{key}[{i}]", names)
        return rows, {}

    def _known(self, row: Mapping[str, Any], place: str, names: frozenset[str]) -> None:
        for name in row:
            if name not in names:
                rule = f"no feature of the model; {meant(_shown(name), sorted(names)) or f'features: {_some(names)}'}"
                if name in self._names["user"]:
                    rule = "a feature of the user stands in `user`"
                raise RequestError(f"{place}.{_shown(name)}", row[name], rule)

    def _exponents(self, body: Mapping[str, Any]) -> dict[str, float]:
        given = _object(_default(body.get("exponents"), {}), "exponents")
        for name, value in given.items():
            if name not in self._factors:
                raise RequestError(f"exponents.{_shown(name)}", value, f"factors: {', '.join(self._factors)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1000:
                raise RequestError(f"exponents.{name}", value, "a number from -1000 to 1000")
        return {name: float(value) for name, value in given.items()}

    def _explain(self, body: Mapping[str, Any]) -> bool:
        explain = body.get("explain", False)
        if not isinstance(explain, bool):
            raise RequestError("explain", explain, "true or false")
        return explain

    def _one(self, each: Input, value: object) -> Any:
        """Of the user."""
        if each.dense or each.bag or not _is_short(value):
            return self._column(each, [value], _user_place)
        return self._of_user(each.name, value)

    def _column(self, each: Input, values: Sequence[Any], place: Any) -> Any:
        if each.dense:
            return _numbers(each.name, values, place)
        if each.weighted:
            return self._weighted(each, values, place)
        return _encoded(self._encoder, each, _array(each, values, place))

    def _weighted(self, each: Input, values: Sequence[Any], place: Any) -> Ids:
        """Bags as {"values": [...], "weights": [...]}."""
        bags: list[Any] = []
        weights: list[list[float]] = []
        for i, value in enumerate(values):
            at = place(i, each.name)
            bag = _object({} if value is None else value, at, ("values", "weights"))
            items, own = _default(bag.get("values"), []), _default(bag.get("weights"), [])
            if not isinstance(items, list) or not isinstance(own, list) or len(items) != len(own):
                raise RequestError(at, value, '{"values": [...], "weights": [...]}, as many weights as values')
            for j, weight in enumerate(own):
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= LARGEST:
                    raise RequestError(f"{at}.weights[{j}]", weight, "a finite number")
            bags.append(items)
            weights.append(list(map(float, own)))  # Arrow makes no fp32 of integers above 2^24
        array = _array(each, bags, lambda i, name: f"{place(i, name)}.values")
        kept = self._encoder.cut(each.name, pa.array(weights, pa.list_(pa.float32())))
        found = _encoded(self._encoder, each, array)
        return Ids(found.values_V, found.offsets_N, kept.to_numpy(zero_copy_only=False))


def _remembering(signature: Signature, encoder: Encoder) -> Callable[[str, object], Ids]:
    """The column of one value, by name and value: of a few ages and cities there are many requests."""
    inputs = {each.name: each for each in signature.inputs}

    @lru_cache(_REMEMBERED, typed=True)  # true is not 1 everywhere
    def of_user(name: str, value: object) -> Ids:
        return _encoded(encoder, inputs[name], _array(inputs[name], [value], _user_place))

    return of_user


def _is_short(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= _SHORT)


def _user_place(_: int, name: str) -> str:
    return f"user.{name}"


def _encoded(encoder: Encoder, each: Input, array: pa.Array) -> Ids:
    try:
        rows = encoder.rows(each.name, array, each.name)
    except DataError as error:  # the types were seen to fit
        raise RequestError(each.name, str(error), _WANTED[each.type]) from error
    if not pa.types.is_large_list(rows.type):
        return Ids(rows.to_numpy(zero_copy_only=False))
    return Ids(rows.flatten().to_numpy(zero_copy_only=False), rows.offsets.to_numpy(zero_copy_only=False))


def _columns(rows: Sequence[Any], names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """The values of each name, where every row is an object of all of them and no other; else nothing."""
    if len(names) < 2:  # of one, itemgetter gives the value alone
        return {}
    if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(names)}:
        return {}
    try:
        return dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
    except KeyError:
        return {}


def _absent(names: list[str], rows: Sequence[Mapping[str, Any]], whole: Mapping[str, Any] = {}) -> list[str]:
    """The names that no row has: none where `whole` has all columns."""
    left = [] if whole else names
    for row in rows:
        if not left:
            break
        left = [name for name in left if name not in row]
    return left


def _object(value: object, place: str, keys: Sequence[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        named = "" if keys is None else f" with {', '.join(keys)}"
        raise RequestError(place, value, f"an object{named}")
    if keys is not None:
        for key in value:
            if key not in keys:
                field = _shown(key) if place == "body" else f"{place}.{_shown(key)}"
                raise RequestError(field, value[key], f"keys: {', '.join(keys)}")
    return value


def _numbers(name: str, values: Sequence[Any], place: Any) -> NDArray[np.float32]:
    if not (types := set(map(type, values))) <= _TYPES["number"]:
        i = next(i for i, value in enumerate(values) if type(value) not in _TYPES["number"])
        raise RequestError(place(i, name), values[i], "a number, or null where it is missing")
    try:
        known = [math.nan if value is None else value for value in values] if _NOTHING in types else values
        x_N = np.array(known, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        x_N = np.array([math.inf if isinstance(value, int) and abs(value) > LARGEST else 0.0 for value in values])
    if (large := np.abs(x_N) > LARGEST).any():
        i = int(large.argmax())
        raise RequestError(place(i, name), values[i], "a number that fp32 can hold")
    return x_N.astype(np.float32)


def _array(each: Input, values: Sequence[Any], place: Any) -> pa.Array:
    kind = _ARROW[each.type]
    if not each.bag:
        return _converted(each.type, kind, values, lambda i: place(i, each.name))
    lengths = []
    flat: list[Any] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, list):
            raise RequestError(place(i, each.name), value, f"a list, each of it {_WANTED[each.type]}")
        if value is not None and len(value) > MAX_BAG:
            raise RequestError(place(i, each.name), f"{len(value):,} values", f"at most {MAX_BAG:,} values")
        lengths.append(len(value or ()))
        flat += value or ()
    offsets_N = np.concatenate([[0], np.cumsum(lengths)])

    def at(v: int) -> str:
        i = int(np.searchsorted(offsets_N, v, side="right")) - 1
        return f"{place(i, each.name)}[{v - offsets_N[i]}]"

    return pa.LargeListArray.from_arrays(pa.array(offsets_N, pa.int64()), _converted(each.type, kind, flat, at))


def _converted(kind: str, arrow: pa.DataType, values: Sequence[Any], place: Any) -> pa.Array:
    if set(map(type, values)) <= _TYPES[kind]:
        try:
            return pa.array(values, arrow)
        except (pa.ArrowException, OverflowError):  # too large an integer
            return pa.array([None if value is None else _fitted(kind, value) for value in values], arrow)
    whole = list(map(_integer, values)) if kind == "int" else values
    for i, value in enumerate(whole):
        if type(value) not in _TYPES[kind]:
            raise RequestError(place(i), value, f"{_WANTED[kind]}, or null where it is missing")
    return _converted(kind, arrow, whole, place)


def _fitted(kind: str, value: Any) -> Any:
    """As near as Arrow can hold it; None: no vocabulary can know it."""
    if kind == "int":
        return value if -(2**63) <= value < 2**63 else None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _default(value: object, default: Any) -> Any:
    """Null stands for what is left out; other values that are false are wrong."""
    return default if value is None else value


def _integral(value: object) -> bool:
    """Whether it is an integer, as JSON has them: 5, 5.0, 1e30."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _integer(value: Any) -> Any:
    """The integer that it stands for; itself where it does for none."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(DECIMAL, value) else value
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _some(names: frozenset[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
