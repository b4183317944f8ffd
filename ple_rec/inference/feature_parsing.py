"""A parser for each feature: from JSON values of rows to a column of table rows or numbers, and the schema of a value.

What a parser accepts and the JSON schema that it shows are written side by side, and a test compares them.

Null is a missing value; an unknown value is one that the vocabulary does not know. Neither is an error.
Of integers and of dense features true and false are 1 and 0. An integer may stand as text too, since JavaScript rounds
what is larger than 2^53 - 1.

Shapes: N rows, V values of bags.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from array import array as int_array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.data.encode import Encoder, RawKind
from ple_rec.inference.request_error import RequestError, require_object
from ple_rec.inference.signature import Input

MAX_BAG = 1000  # values of one bag
MAX_VALUES = 20_000  # values of all bags of a request
_DECIMAL = "-?(0|[1-9][0-9]{0,39})"  # an integer as text, which no parser of JSON rounds
_LARGEST = float(np.finfo(np.float32).max)
_NULL: Final = type(None)
_decimal = re.compile(_DECIMAL).fullmatch
Schema = dict[str, Any]
FieldOf = Callable[[int], str]  # the field of the value at a place, for messages


@dataclass(frozen=True)
class Ids:
    """Table rows of a sparse feature.

    Args:
        values_V: Rows of the table.
        offsets_N: Places where each bag begins, and the end; None for a feature of single values.
        weights_V: Weights of the values; None for a feature without weights.
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


Column = Ids | NDArray[np.float32]  # of a sparse feature, and of a dense one with NaN where a number is missing


class FeatureParser(ABC):
    """Parses the values of one feature.

    Args:
        feature: Feature of the model.
    """

    def __init__(self, feature: Input) -> None:
        self.feature = feature

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """JSON schema of a value."""

    @abstractmethod
    def parse(self, values: Sequence[Any], field_of: FieldOf) -> Column:
        """Return the column of some rows' values.

        Args:
            values: JSON values, one for each row.
            field_of: Function that names the field of a row's value.

        Raises:
            RequestError: A value is none of the feature's.
        """


def parser_of(feature: Input, encoder: Encoder) -> FeatureParser:
    """Return the parser of a feature.

    Args:
        feature: Feature of the model.
        encoder: Encoder that turns raw values of sparse features into table rows.
    """
    if feature.dense:
        return DenseParser(feature)
    if feature.weighted:
        return WeightedBagParser(feature, encoder)
    return BagParser(feature, encoder) if feature.bag else IdParser(feature, encoder)


class DenseParser(FeatureParser):
    """Parses a dense feature: numbers in fp32."""

    @property
    def schema(self) -> Schema:
        """JSON schema of a number."""
        return {"type": ["number", "boolean", "null"], "minimum": -_LARGEST, "maximum": _LARGEST}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> NDArray[np.float32]:
        """Return the numbers, NaN where one is missing."""
        types = set(map(type, values))
        _check_types(values, types, {int, float, bool, _NULL}, "a number, or null where it is missing", field_of)
        try:
            known = [math.nan if value is None else value for value in values] if _NULL in types else values
            x_N = np.array(known, np.float64)
        except OverflowError:  # an integer of hundreds of digits
            x_N = np.array([math.inf if isinstance(value, int) and abs(value) > _LARGEST else 0.0 for value in values])
        if (large_N := np.abs(x_N) > _LARGEST).any():
            i = int(large_N.argmax())
            raise RequestError(field_of(i), values[i], "a number that fp32 can hold")
        return x_N.astype(np.float32)


class IdParser(FeatureParser):
    """Parses a sparse feature of single values.

    Args:
        feature: Feature of the model.
        encoder: Encoder that turns its raw values into table rows.

    Raises:
        ValueError: The encoder, whose vocabulary may be lost, takes values of another type.
    """

    def __init__(self, feature: Input, encoder: Encoder) -> None:
        super().__init__(feature)
        if (kind := encoder.features[feature.name].kind) != feature.type:
            raise ValueError(f"values of {feature.name} are of type {feature.type}, those of its vocabulary of {kind}")
        self._encoder, self._type = encoder, _RAW_TYPES[feature.type]

    @property
    def schema(self) -> Schema:
        """JSON schema of a raw value."""
        return self._type.schema

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> Ids:
        """Return a table row for each value."""
        name = self.feature.name
        return Ids(self._encoder.rows(name, self._type.array(values, field_of), name).to_numpy(zero_copy_only=False))


class BagParser(IdParser):
    """Parses a sparse feature whose values are lists."""

    @property
    def schema(self) -> Schema:
        """JSON schema of a list of raw values."""
        bound = {"maxItems": MAX_BAG, "description": f"all bags of a request have at most {MAX_VALUES:,}"}
        return {"type": ["array", "null"], "items": self._type.schema, **bound}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> Ids:
        """Return the table rows of each list."""
        lengths: list[int] = []
        flat: list[Any] = []
        for i, bag in enumerate(values):
            if bag is not None and not isinstance(bag, list):
                raise RequestError(field_of(i), bag, f"a list, each of it {self._type.rule}")
            if bag is not None and len(bag) > MAX_BAG:
                counted = f"{len(bag):,} values"
                raise RequestError(field_of(i), bag, f"at most {MAX_BAG:,} values", counted=counted)
            lengths.append(len(bag or ()))
            flat += bag or ()
            if len(flat) > MAX_VALUES:
                raise too_many_values(len(flat), field_of(i))
        offsets_N = np.concatenate([[0], np.cumsum(lengths)])

        def field_in_bag(v: int) -> str:
            i = int(np.searchsorted(offsets_N, v, side="right")) - 1
            return f"{field_of(i)}[{v - offsets_N[i]}]"

        raw = pa.LargeListArray.from_arrays(pa.array(offsets_N, pa.int64()), self._type.array(flat, field_in_bag))
        rows = self._encoder.rows(self.feature.name, raw, self.feature.name)
        return Ids(rows.flatten().to_numpy(zero_copy_only=False), rows.offsets.to_numpy(zero_copy_only=False))


class WeightedBagParser(BagParser):
    """Parses a sparse feature whose values are {"values": [...], "weights": [...]}."""

    @property
    def schema(self) -> Schema:
        """JSON schema of such an object; it cannot say that the lists are of one length."""
        number = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
        weights = {"type": ["array", "null"], "items": number, "maxItems": MAX_BAG, "description": "as many as values"}
        return object_schema({"values": super().schema, "weights": weights}) | {"type": ["object", "null"]}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> Ids:
        """Return the table rows and the weights of each object."""
        bags: list[Any] = []
        weights: list[list[float]] = []
        total = 0
        for i, value in enumerate(values):
            field = field_of(i)
            both = require_object({} if value is None else value, field, ("values", "weights"))
            bag, own = ([] if both.get(key) is None else both[key] for key in ("values", "weights"))
            if not isinstance(bag, list) or not isinstance(own, list) or len(bag) != len(own):
                raise RequestError(field, value, '{"values": [...], "weights": [...]}, as many weights as values')
            total += len(own)
            if total > MAX_VALUES:
                raise too_many_values(total, field)
            for j, weight in enumerate(own):
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= _LARGEST:
                    raise RequestError(f"{field}.weights[{j}]", weight, "a finite number")
            bags.append(bag)
            weights.append(list(map(float, own)))  # Arrow makes no fp32 of integers above 2^24
        ids = super().parse(bags, lambda i: f"{field_of(i)}.values")
        kept = self._encoder.cut(self.feature.name, pa.array(weights, pa.list_(pa.float32())))
        return replace(ids, weights_V=kept.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class _RawType:
    """A type of the raw values of sparse features.

    Args:
        rule: Value that belongs there, in words.
        schema: JSON schema of a value.
        array: Function that makes an Arrow array of values, or names the field of one that has another type.
    """

    rule: str
    schema: Schema
    array: Callable[[Sequence[Any], FieldOf], pa.Array]


def _integers(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    # Of integers and truth values alone this takes half as long as Arrow; a null or a text costs it the attempt.
    with suppress(TypeError, OverflowError):
        return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(int_array("q", values))])
    if not set(map(type, values)) <= {int, _NULL}:
        whole = list(map(_integer, values))
        _check_raw("int", whole, {int, _NULL}, field_of)
        values = whole
    try:
        return pa.array(values, pa.int64())
    except (pa.ArrowException, OverflowError):  # an integer that no vocabulary can know is a missing one
        return pa.array([v if v is not None and -(2**63) <= v < 2**63 else None for v in values], pa.int64())


def _texts(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    _check_raw("text", values, {str, _NULL}, field_of)
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:  # half of a surrogate pair, which the server's own reader of JSON refuses
        i = values.index(error.object)
        raise RequestError(field_of(i), ascii(error.object), "a text of whole characters") from None


def _numbers(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    _check_raw("number", values, {int, float, _NULL}, field_of)
    try:
        return pa.array(values, pa.float64())
    except (pa.ArrowException, OverflowError):  # an integer that Arrow makes no double of
        return pa.array([None if value is None else _double(value) for value in values], pa.float64())


_RAW_TYPES: dict[RawKind, _RawType] = {
    "int": _RawType(
        'an integer (5, "5", or true for 1)',
        {
            "type": ["integer", "string", "boolean", "null"],
            "pattern": f"^{_DECIMAL}$",
            "description": "true is 1; text, where a client's numbers have 53 bits",
        },
        _integers,
    ),
    "text": _RawType("a text", {"type": ["string", "null"]}, _texts),
    "number": _RawType("a number", {"type": ["number", "null"]}, _numbers),
}


def _check_raw(kind: RawKind, values: Sequence[Any], permitted: set[type], field_of: FieldOf) -> None:
    rule = f"{_RAW_TYPES[kind].rule}, or null where it is missing"
    _check_types(values, set(map(type, values)), permitted, rule, field_of)


def _check_types(values: Sequence[Any], types: set[type], permitted: set[type], rule: str, field_of: FieldOf) -> None:
    if not types <= permitted:
        i = next(i for i, value in enumerate(values) if type(value) not in permitted)
        raise RequestError(field_of(i), values[i], rule)


def _integer(value: Any) -> Any:
    """Return the integer that a value stands for, or the value where it stands for none."""
    if isinstance(value, str):
        return int(value) if _decimal(value) else value
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def too_many_values(count: int, field: str) -> RequestError:
    """Return the error of a request whose bags hold more than `MAX_VALUES` values.

    Args:
        count: Number of values up to a bag.
        field: Field of that bag.
    """
    rule = f"the bags of a request hold at most {MAX_VALUES:,} values; what the user has counts for every item"
    return RequestError(field, None, rule, counted=f"{count:,} values up to here")


def object_schema(properties: dict[str, Schema]) -> Schema:
    """Return the JSON schema of an object that may have these properties and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}
