"""Parsers that turn the JSON values of an inference request into the columns that the model reads.

The values of one feature, for example one for each item to be ranked, become a column. The column of a dense feature
has fp32 numbers. The column of a sparse feature has ids: indices of rows in the feature's embedding table. A value that
is a list, with or without weights, is a bag.

Each parser also returns the JSON schema of the values that it accepts, and a test checks that parser and schema agree.

A null is a missing value, and a value that is not in the feature's vocabulary is unknown; neither is an error. For
integers and dense features, true counts as 1 and false as 0. A client may send an integer as text, since JavaScript
cannot represent all integers above 2^53 - 1.

Shape suffixes: N values that are parsed together, which are the rows of the column (`offsets_N` has N + 1 entries);
V ids in all rows together (V = N for a feature without bags).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.data.encode import Encoder
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.inference.request_error import RequestError, require_object
from ple_rec.inference.signature import InputFeature
from ple_rec.inference.value_types import NULL, VALUE_TYPES, FieldOf, Schema, ValueType, check_types

# Largest number of values that one bag may have.
MAX_BAG = 1000
# Largest number of values that all bags of a request may have together. A parser checks it for its feature, and
# `RequestReader` for all features together.
MAX_VALUES = 20_000
# Largest number of components that all vectors of a request may have together, including those looked up by keys.
MAX_VECTOR_NUMBERS = 1 << 22
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class FeatureIds:
    """Column of a sparse feature.

    Args:
        values_V: Indices of rows in the embedding table, bag after bag.
        offsets_N: Index in `values_V` at which each bag begins, and at last the end of the last bag, so N + 1 numbers;
            None for a feature with single values.
        weights_V: Weights of the values; None for a feature without weights.
    """

    values_V: NDArray[np.int32]
    offsets_N: NDArray[np.int64] | None = None
    weights_V: NDArray[np.float32] | None = None

    def take(self, index_N: NDArray[np.int64]) -> FeatureIds:
        """Return a column of some of the rows.

        Args:
            index_N: Indices of the rows, in the order of the result; an index may occur several times.
        """
        if self.offsets_N is None:
            return FeatureIds(self.values_V[index_N])
        lengths_N = np.diff(self.offsets_N)[index_N]
        offsets_N = np.zeros(len(index_N) + 1, np.int64)
        np.cumsum(lengths_N, out=offsets_N[1:])
        places_V = np.repeat(self.offsets_N[:-1][index_N] - offsets_N[:-1], lengths_N) + np.arange(offsets_N[-1])
        weights_V = None if self.weights_V is None else self.weights_V[places_V]
        return FeatureIds(self.values_V[places_V], offsets_N, weights_V)


@dataclass(frozen=True)
class HistoryIds:
    """Column of a history: lists of table rows, which have the same lengths.

    Args:
        columns: Lists of table rows by name, those of each item of an event and those of the ages.
    """

    columns: Mapping[str, FeatureIds]

    @property
    def offsets_N(self) -> NDArray[np.int64]:
        """Index of the first event of each row, and at last the number of all events."""
        offsets_N = next(iter(self.columns.values())).offsets_N
        assert offsets_N is not None
        return offsets_N

    def take(self, index_N: NDArray[np.int64]) -> HistoryIds:
        """Return a column of some of the rows, by their indices; an index may occur several times."""
        return HistoryIds({name: ids.take(index_N) for name, ids in self.columns.items()})


# Values of one feature in all rows. In the column of a dense feature (N,) and of a vector (N, width), NaN stands for a
# missing value.
Column = FeatureIds | HistoryIds | NDArray[np.float32]


class FeatureParser(ABC):
    """Base class of a parser, which parses the values of one feature.

    Args:
        feature: Input feature of the model.
    """

    def __init__(self, feature: InputFeature) -> None:
        self.feature = feature

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """JSON schema of the feature's value in one row."""

    @abstractmethod
    def parse(self, values: Sequence[Any], field_of: FieldOf) -> Column:
        """Return the column of some values of the feature.

        Args:
            values: JSON values of the feature, one for each row of the column.
            field_of: Function that returns the path of a row's value in the request.

        Raises:
            RequestError: A value has the wrong type or size.
        """


class DenseParser(FeatureParser):
    """Parser of a dense feature, whose values are numbers in the range of fp32."""

    @property
    def schema(self) -> Schema:
        """JSON schema of a number."""
        return {"type": ["number", "boolean", "null"], "minimum": -_LARGEST, "maximum": _LARGEST}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> NDArray[np.float32]:
        """Return the numbers, with NaN for missing ones."""
        types = set(map(type, values))
        check_types(values, types, {int, float, bool, NULL}, "a number, or null where it is missing", field_of)
        try:
            numbers = [math.nan if value is None else value for value in values] if NULL in types else values
            x_N = np.array(numbers, np.float64)
        except OverflowError:
            # Python integers beyond the range of float64 raise this error. Mark the values that are too large.
            x_N = np.array([math.inf if isinstance(value, int) and abs(value) > _LARGEST else 0.0 for value in values])
        if (large_N := np.abs(x_N) > _LARGEST).any():
            i = int(large_N.argmax())
            raise RequestError(field_of(i), values[i], "a number that fp32 can hold")
        return x_N.astype(np.float32)


class VectorParser(FeatureParser):
    """Parser of a vector feature. A value is a list of numbers, or a key of the feature's frozen table if it has one.

    Args:
        feature: Input feature of the model.
        width: Number of numbers of a vector.
        lookup: Look-up of vectors by key; None if a value is always a list.
    """

    def __init__(self, feature: InputFeature, width: int, lookup: VectorLookup | None) -> None:
        super().__init__(feature)
        self.width, self._lookup = width, lookup
        self._key_type = None if lookup is None else VALUE_TYPES[lookup.kind]

    @property
    def schema(self) -> Schema:
        """JSON schema of a list of numbers, or of a key."""
        number = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
        numbers = {"items": number, "minItems": self.width, "maxItems": self.width}
        if self._key_type is None:
            return {"type": ["array", "null"]} | numbers
        key = self._key_type.schema
        description = f"{self.width} numbers, or a key of the table of vectors"
        return key | {"type": ["array", *key["type"]], "description": description} | numbers

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> NDArray[np.float32]:
        """Return the vectors (N, width), with NaN for missing ones and for unknown keys."""
        if values:
            check_vector_numbers(len(values) * self.width, field_of(0))
        vectors_NW = np.full((len(values), self.width), np.nan, np.float32)
        lists = [i for i, value in enumerate(values) if isinstance(value, list)]
        for i in lists:
            vectors_NW[i] = self._numbers(values[i], field_of(i))
        is_list = set(lists)
        keys = [None if i in is_list else value for i, value in enumerate(values)]
        if self._lookup is not None and self._key_type is not None:
            if len(lists) < len(values):
                looked_up_NW = self._lookup.vectors(self._key_type.to_array(keys, field_of))
                key_rows = np.array([i for i in range(len(values)) if i not in is_list])
                vectors_NW[key_rows] = looked_up_NW[key_rows]
        else:
            check_types(keys, set(map(type, keys)), {NULL}, f"a list of {self.width} numbers, or null", field_of)
        return vectors_NW

    def _numbers(self, value: list[Any], field: str) -> NDArray[np.float32]:
        if len(value) != self.width:
            raise RequestError(field, value, f"a list of {self.width} numbers", counted=f"{len(value):,} values")
        if set(map(type, value)) <= {int, float}:
            # An integer beyond float64 raises an OverflowError; the code below names it.
            with suppress(OverflowError):
                numbers = np.array(value, np.float64)
                if (np.abs(numbers) <= _LARGEST).all():
                    return numbers.astype(np.float32)
        j = next(j for j, x in enumerate(value) if type(x) not in (int, float) or not abs(x) <= _LARGEST)
        raise RequestError(f"{field}[{j}]", value[j], "a number that fp32 can hold")


def check_vector_numbers(count: int, field: str) -> None:
    """Refuse a request whose vectors have more than `MAX_VECTOR_NUMBERS` numbers.

    Args:
        count: Number of numbers so far.
        field: Path of the vector with which the limit was exceeded.
    """
    if count > MAX_VECTOR_NUMBERS:
        rule = f"the vectors of a request have at most {MAX_VECTOR_NUMBERS:,} numbers, also if keys stand for them"
        raise RequestError(field, None, rule, counted=f"{count:,} numbers up to here")


def value_type(encoder: Encoder, name: str, kind: str) -> ValueType:
    """Return the type of the raw values of a sparse feature.

    Args:
        encoder: Encoder of the feature.
        name: Name of the feature.
        kind: Kind of its raw values according to the signature.

    Raises:
        ValueError: The encoder expects values of another kind.
    """
    if (encoded := encoder.features[name].kind) != kind:
        raise ValueError(f"{name} has the type {kind}, but its vocabulary has values of type {encoded}")
    return VALUE_TYPES[encoded]


class IdParser(FeatureParser):
    """Parser of a sparse feature that has a single value in each row.

    Args:
        feature: Input feature of the model.
        encoder: Encoder that maps the raw values of the feature to ids.

    Raises:
        ValueError: The encoder expects values of another type than the feature's.
    """

    def __init__(self, feature: InputFeature, encoder: Encoder) -> None:
        super().__init__(feature)
        self._encoder, self._type = encoder, value_type(encoder, feature.name, feature.type)

    @property
    def schema(self) -> Schema:
        """JSON schema of a raw value."""
        return self._type.schema

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> FeatureIds:
        """Return the ids of the values."""
        name = self.feature.name
        return FeatureIds(
            self._encoder.rows(name, self._type.to_array(values, field_of), name).to_numpy(zero_copy_only=False)
        )


class BagParser(IdParser):
    """Parser of a sparse feature whose values are lists of raw values (bags)."""

    @property
    def schema(self) -> Schema:
        """JSON schema of a list of raw values."""
        limits = {"maxItems": MAX_BAG, "description": f"all bags of a request have at most {MAX_VALUES:,}"}
        return {"type": ["array", "null"], "items": self._type.schema, **limits}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> FeatureIds:
        """Return the ids of all bags. A null is an empty bag; the encoder truncates bags as data preparation does."""
        lengths: list[int] = []
        flat: list[Any] = []
        for i, bag in enumerate(values):
            if bag is not None and not isinstance(bag, list):
                raise RequestError(field_of(i), bag, f"a list, with each value {self._type.rule}")
            if bag is not None and len(bag) > MAX_BAG:
                count = f"{len(bag):,} values"
                raise RequestError(field_of(i), bag, f"at most {MAX_BAG:,} values", counted=count)
            lengths.append(len(bag or ()))
            flat += bag or ()
            if len(flat) > MAX_VALUES:
                raise too_many_values(len(flat), field_of(i))
        offsets_N = np.concatenate([[0], np.cumsum(lengths)])

        def field_in_bag(v: int) -> str:
            """Return the path of value v of all bags together, for example `items[2].tags[0]`."""
            i = int(np.searchsorted(offsets_N, v, side="right")) - 1
            return f"{field_of(i)}[{v - offsets_N[i]}]"

        raw = pa.LargeListArray.from_arrays(pa.array(offsets_N, pa.int64()), self._type.to_array(flat, field_in_bag))
        rows = self._encoder.rows(self.feature.name, raw, self.feature.name)
        return FeatureIds(rows.flatten().to_numpy(zero_copy_only=False), rows.offsets.to_numpy(zero_copy_only=False))


class WeightedBagParser(BagParser):
    """Parser of a sparse feature whose values are objects {"values": [...], "weights": [...]}, bags with weights."""

    @property
    def schema(self) -> Schema:
        """JSON schema of the object. JSON schemas cannot require two lists of equal length; `parse` checks it."""
        number = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
        weights = {"type": ["array", "null"], "items": number, "maxItems": MAX_BAG, "description": "as many as values"}
        return object_schema({"values": super().schema, "weights": weights}) | {"type": ["object", "null"]}

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> FeatureIds:
        """Return the ids and the weights of all bags. A null is an empty bag."""
        bags: list[Any] = []
        weights: list[list[float]] = []
        total = 0
        for i, value in enumerate(values):
            field = field_of(i)
            weighted_bag = require_object({} if value is None else value, field, ("values", "weights"))
            bag, bag_weights = (
                [] if weighted_bag.get(key) is None else weighted_bag[key] for key in ("values", "weights")
            )
            if not isinstance(bag, list) or not isinstance(bag_weights, list) or len(bag) != len(bag_weights):
                raise RequestError(field, value, '{"values": [...], "weights": [...]}, as many weights as values')
            total += len(bag_weights)
            if total > MAX_VALUES:
                raise too_many_values(total, field)
            for j, weight in enumerate(bag_weights):
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= _LARGEST:
                    raise RequestError(f"{field}.weights[{j}]", weight, "a finite number")
            bags.append(bag)
            # The weights become floats here, since Arrow refuses to convert integers above 2^24 to fp32.
            weights.append(list(map(float, bag_weights)))
        ids = super().parse(bags, lambda i: f"{field_of(i)}.values")
        # The encoder has truncated long bags, so their weights are truncated in the same way.
        weights_V = self._encoder.truncate_items(self.feature.name, pa.array(weights, pa.list_(pa.float32())))
        return replace(ids, weights_V=weights_V.to_numpy(zero_copy_only=False))


def too_many_values(count: int, field: str) -> RequestError:
    """Return the error of a request whose bags have more than `MAX_VALUES` values.

    Args:
        count: Number of values in the bags so far, including the bag with which the limit was exceeded.
        field: Path of that bag in the request.
    """
    rule = (
        f"the bags of a request have at most {MAX_VALUES:,} values, and an event of a history is one value; a bag in "
        "`user` counts once per item that gets it"
    )
    return RequestError(field, None, rule, counted=f"{count:,} values up to here")


def object_schema(properties: dict[str, Schema]) -> Schema:
    """Return the JSON schema of an object that may have these properties and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}
