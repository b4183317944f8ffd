"""Values of a feature, as JSON has them -> table rows and numbers, with an error that names whatever is wrong.

Null is a missing value; an unknown value is one that the vocabulary does not know. Neither is an error.
Of integers and of dense features true and false are 1 and 0. An integer may stand as text too, since JavaScript rounds
what is larger than 2^53 - 1.

A few bytes of a request take little time: what the user has for all items is encoded once, and the bags of a request
hold `MAX_VALUES` in all.

Shapes: N rows, V values of bags.
"""

from __future__ import annotations

import math
import re
from array import array as int_array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.data.encode import Encoder
from ple_rec.errors import DataError
from ple_rec.serve.shown import shorten, shown
from ple_rec.serve.signature import Input, Signature

if TYPE_CHECKING:
    from ple_rec.serve.given import Given

MAX_BAG = 1000  # values of one bag
MAX_VALUES = 20_000  # values of all bags of a request
DECIMAL = "-?(0|[1-9][0-9]{0,39})"  # an integer as text, which no parser of JSON rounds
LARGEST = float(np.finfo(np.float32).max)
_REMEMBERED, _SHORT = 4096, 64  # values of users' features; characters of one that is
_ARROW = {"int": pa.int64(), "text": pa.string(), "number": pa.float64()}
_NOTHING = type(None)
_NUMBERS = {int, float, bool, _NOTHING}  # of dense features
_TYPES: Mapping[str, set[type]] = {"int": {int, _NOTHING}, "text": {str, _NOTHING}, "number": {int, float, _NOTHING}}
_WANTED = {"int": 'an integer (5, "5", or true for 1)', "text": "a text", "number": "a number"}
_decimal = re.compile(DECIMAL).fullmatch
Place = Callable[[int, str], str]  # of a row and a feature


class RequestError(Exception):
    """A request that is wrong.

    Args:
        field: Where, as in "items[3].video_id".
        value: JSON value that stands there.
        rule: What belongs there.
        counted: Number of things that stand there, in words, where the value is wrong by that.
    """

    def __init__(self, field: str, value: object, rule: str, *, counted: str | None = None) -> None:
        self.field, self.rule = field, rule
        self.value = shown(value) if counted is None else counted
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

    def take(self, index_N: NDArray[np.int64]) -> Ids:
        """Return the rows at these places."""
        if self.offsets_N is None:
            return Ids(self.values_V[index_N])
        lengths_N = np.diff(self.offsets_N)[index_N]
        offsets_N = np.zeros(len(index_N) + 1, np.int64)
        np.cumsum(lengths_N, out=offsets_N[1:])
        places_V = np.repeat(self.offsets_N[:-1][index_N] - offsets_N[:-1], lengths_N) + np.arange(offsets_N[-1])
        weights_V = None if self.weights_V is None else self.weights_V[places_V]
        return Ids(self.values_V[places_V], offsets_N, weights_V)


class Columns:
    """Makes columns of what a model reads.

    Args:
        signature: Of the model.
        encoder: Of its sparse features.
    """

    def __init__(self, signature: Signature, encoder: Encoder) -> None:
        self._encoder = encoder
        self._of_user = _remembering(signature, encoder)

    def of_user(self, each: Input, value: object) -> Any:
        """`column` of the user's one value."""
        if each.dense or each.bag or not _is_short(value):
            return self.column(each, [value], _user_place)
        return self._of_user(each.name, value)

    def column(self, each: Input, values: Sequence[Any], place: Place) -> Any:
        """`Ids` of a sparse feature, numbers of a dense one in fp32 with NaN where one is missing.

        Args:
            each: The feature.
            values: Of the rows.
            place: For messages.

        Raises:
            RequestError: a value that is none of the feature's.
        """
        if each.dense:
            return _numbers(each.name, values, place)
        if each.weighted:
            return self._weighted(each, values, place)
        return _encoded(self._encoder, each, _array(each, values, place))

    def of_items(self, each: Input, items: Given, default: object) -> Any:
        """Return `column` of a feature of the items, some of which may have what the user has for all.

        Args:
            each: Feature.
            items: Items of the request.
            default: Value of the user; None: there is none.

        Raises:
            RequestError: a value is none of the feature's, that of the user too where every item has its own.
        """
        if default is None:
            return self.column(each, items.values(each.name), items.place)
        found = self.of_user(each, default)
        places, values = items.own(each.name)

        def place(i: int, name: str) -> str:
            return items.place(places[i], name) if i < len(places) else _user_place(0, name)

        if len(places):
            found = self.column(each, [*values, default], place)  # the default last
        index_N = np.full(items.count, len(places))
        index_N[list(places)] = np.arange(len(places))
        if each.dense:
            return found[index_N]
        if each.bag:
            total = int(np.diff(found.offsets_N)[index_N].sum())
            if total > MAX_VALUES:
                raise too_many(total, _user_place(0, each.name))
        return found.take(index_N)

    def _weighted(self, each: Input, values: Sequence[Any], place: Place) -> Ids:
        """Bags as {"values": [...], "weights": [...]}."""
        bags: list[Any] = []
        weights: list[list[float]] = []
        total = 0
        for i, value in enumerate(values):
            at = place(i, each.name)
            bag = as_object({} if value is None else value, at, ("values", "weights"))
            items, own = or_default(bag.get("values"), []), or_default(bag.get("weights"), [])
            if not isinstance(items, list) or not isinstance(own, list) or len(items) != len(own):
                raise RequestError(at, value, '{"values": [...], "weights": [...]}, as many weights as values')
            total += len(own)
            if total > MAX_VALUES:
                raise too_many(total, at)
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


def _numbers(name: str, values: Sequence[Any], place: Place) -> NDArray[np.float32]:
    if not (types := set(map(type, values))) <= _NUMBERS:
        i = next(i for i, value in enumerate(values) if type(value) not in _NUMBERS)
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


def _array(each: Input, values: Sequence[Any], place: Place) -> pa.Array:
    kind = _ARROW[each.type]
    if not each.bag:
        return _converted(each.type, kind, values, lambda i: place(i, each.name))
    lengths = []
    flat: list[Any] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, list):
            raise RequestError(place(i, each.name), value, f"a list, each of it {_WANTED[each.type]}")
        if value is not None and len(value) > MAX_BAG:
            rule = f"at most {MAX_BAG:,} values"
            raise RequestError(place(i, each.name), value, rule, counted=f"{len(value):,} values")
        lengths.append(len(value or ()))
        flat += value or ()
        if len(flat) > MAX_VALUES:
            raise too_many(len(flat), place(i, each.name))
    offsets_N = np.concatenate([[0], np.cumsum(lengths)])

    def at(v: int) -> str:
        i = int(np.searchsorted(offsets_N, v, side="right")) - 1
        return f"{place(i, each.name)}[{v - offsets_N[i]}]"

    return pa.LargeListArray.from_arrays(pa.array(offsets_N, pa.int64()), _converted(each.type, kind, flat, at))


def _converted(kind: str, arrow: pa.DataType, values: Sequence[Any], place: Callable[[int], str]) -> pa.Array:
    if kind == "int":
        # Of integers and truth values alone this takes half as long as Arrow; a null or a text costs it the attempt.
        with suppress(TypeError, OverflowError):
            return pa.Array.from_buffers(arrow, len(values), [None, pa.py_buffer(int_array("q", values))])
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


def _integer(value: Any) -> Any:
    """The integer that it stands for; itself where it does for none."""
    if isinstance(value, str):
        return int(value) if _decimal(value) else value
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def as_object(value: object, place: str, keys: Sequence[str] | None = None) -> Mapping[str, Any]:
    """A JSON object.

    Args:
        value: That should be one.
        place: For messages.
        keys: That it may have; None: any.

    Raises:
        RequestError: it is none, or has others.
    """
    if not isinstance(value, dict):
        named = "" if keys is None else f" with {', '.join(keys)}"
        raise RequestError(place, value, f"an object{named}")
    if keys is not None:
        for key in value:
            if key not in keys:
                field = shorten(key) if place == "body" else f"{place}.{shorten(key)}"
                raise RequestError(field, value[key], f"keys: {', '.join(keys)}")
    return value


def or_default(value: object, default: Any) -> Any:
    """Null stands for what is left out; other values that are false are wrong."""
    return default if value is None else value


def too_many(values: int, field: str) -> RequestError:
    """Return the error of a request whose bags hold more than `MAX_VALUES` values.

    Args:
        values: Number of values up to a bag.
        field: Place of that bag.
    """
    rule = f"the bags of a request hold at most {MAX_VALUES:,} values; what the user has counts for every item"
    return RequestError(field, None, rule, counted=f"{values:,} values up to here")
