"""Requests to a model, read from their JSON bodies by `RequestReader`, and the JSON schemas of these bodies.

    rank    {"user": {feature: value}, "items": [{feature: value}, ...], "form"?, "exponents"?, "top"?, "explain"?}
    score   {"rows": [{feature: value}, ...], "form"?, "exponents"?, "explain"?}

Items and rows may be columns instead, {feature: [value, ...], ...} (`ple_rec.inference.request_rows`). If "form" is
"raw", a request has raw columns of the log in place of features (`ple_rec.inference.raw_request`).

A feature that is left out is a missing value, as null is (`ple_rec.inference.feature_parsing`). A name that is no
feature is an error, since it is probably misspelt. `user` may also have features of items: their values hold for all
items that have none of their own. The server's JSON parser refuses NaN and half of a surrogate pair.

`exponents` replace those of the model's fusion, which combines factors (the predictions of the tasks, and the length of
the item if the fusion uses it) to one score.

A short body must not cost much time, so a value in `user` is encoded once for all items, and the bags of a request have
at most `MAX_VALUES` values in all.

Shapes: N items or rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType, NoneType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.raw_form import RawColumn
from ple_rec.config.side_table import SideTableInfo
from ple_rec.config.words import spelling_hint
from ple_rec.data.encode import Encoder
from ple_rec.data.vector_lookup import VectorLookup
from ple_rec.inference.feature_parsing import (
    MAX_VALUES,
    Column,
    FeatureIds,
    FeatureParser,
    HistoryIds,
    IdParser,
    check_vector_numbers,
    object_schema,
    too_many_values,
)
from ple_rec.inference.parsers import make_parser
from ple_rec.inference.raw_request import FeatureColumns, RawReader
from ple_rec.inference.request_error import RequestError, require_object, shorten
from ple_rec.inference.request_rows import Form, RequestRows, read_rows, rows_schema
from ple_rec.inference.side_table import SideTable
from ple_rec.inference.signature import OWNERS, Owner, Signature
from ple_rec.inference.value_types import Schema

InputKind = Literal["feature", "raw column"]
_MAX_EXPONENT = 1000
# Number of parsed values of users' features in the cache, and the largest number of characters of such a value.
_CACHE_SIZE, _MAX_CACHED_CHARACTERS = 4096, 64


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Request for the scores of rows.

    Args:
        rows: Number of rows, N.
        ids: Table rows of every sparse feature, and of every column of a history.
        dense: Numbers of every dense feature (N,) and of every vector (N, width), with NaN for missing ones.
        exponents: Exponents that replace those of the model, by factor.
        explain: True to return the factors of the score and the gate weights too.
        missing: Names of the features, or raw columns, that neither a part of the request, as null or otherwise, nor a
            side table has.
        unknown: Share of the rows whose values are missing, or a default, because a side table does not have their key,
            by table.
        rates_as_of: Day, YYYY-MM-DD, for whose rows the rates of side tables hold; None if no rate was looked up.
        events_as_of: Day, YYYY-MM-DD, before which the events are that were looked up; None if no history was.
        form: Form of the rows in the body.
    """

    rows: int
    ids: Mapping[str, FeatureIds]
    dense: Mapping[str, NDArray[np.float32]]
    exponents: Mapping[str, float] = field(default_factory=dict)
    explain: bool = False
    missing: tuple[str, ...] = ()
    unknown: Mapping[str, float] = field(default_factory=dict)
    rates_as_of: str | None = None
    events_as_of: str | None = None
    form: Form = "rows"


@dataclass(frozen=True, kw_only=True)
class RankRequest(ModelRequest):
    """Request to rank N items for a user, whose features have one row.

    Args:
        top: Number of items in the answer; None for all.
    """

    top: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(ModelRequest):
    """Request for the scores of N rows, each of which has all features."""


class RequestReader:
    """Reader of the requests of one model.

    Args:
        signature: Signature of the model.
        encoder: Encoder of its sparse features.
        factors: Names of the factors of the fusion, which have exponents.
        vector_lookups: Look-ups of vectors by key, by name of the feature.
        raw: Reader of requests in the raw form; None if the model does not have this form.
    """

    def __init__(
        self,
        signature: Signature,
        encoder: Encoder,
        factors: Sequence[str],
        vector_lookups: Mapping[str, VectorLookup] = MappingProxyType({}),
        raw: RawReader | None = None,
    ) -> None:
        self._factors, self._raw = tuple(factors), raw
        self._parsers = {feature.name: make_parser(feature, encoder, vector_lookups) for feature in signature.inputs}
        self._names: dict[Owner, list[str]] = {
            owner: [each.name for each in signature.inputs_of(owner)] for owner in OWNERS
        }
        # Many users have the same ages and cities. The cache is typed, since true and 1 may have different ids.
        self._parse_cached = lru_cache(_CACHE_SIZE, typed=True)(_parse_one)

    @property
    def raw_columns(self) -> Mapping[str, RawColumn]:
        """Raw columns that requests may have, by name; empty without the raw form."""
        return {} if self._raw is None else self._raw.columns

    def with_tables(self, tables: Mapping[str, SideTable]) -> RequestReader:
        """Return a reader with other side tables, which shares everything else; the model has the raw form."""
        assert self._raw is not None
        reader = copy(self)
        reader._raw = self._raw.with_tables(tables)
        return reader

    def find_misfit(self, info: SideTableInfo) -> str | None:
        """Return why a side table of the model cannot fill its columns; None if it can."""
        assert self._raw is not None
        return self._raw.find_misfit(info)

    def read_rank(self, document: object) -> RankRequest:
        """Return a request for a ranking.

        Args:
            document: Parsed body.

        Raises:
            RequestError: The body is invalid.
        """
        body = require_object(document, "body", ("user", "items", "exponents", "top", "explain", "form"))
        user = require_object({} if body.get("user") is None else body["user"], "user")
        if (raw := self._read_form(body)) is not None:
            self._check_names(user, "user", set(raw.names()), "raw column")
            items = self._read_rows(body, "items", raw.names("item"), "raw column")
            columns = raw.read_rank(user, items)
        else:
            self._check_names(user, "user", self._parsers.keys())
            items = self._read_rows(body, "items", self._names["item"])
            columns = self._read_rank_features(user, items)
        return RankRequest(
            rows=items.count,
            ids=columns.ids,
            dense=columns.dense,
            top=_read_top(body),
            exponents=self._read_exponents(body),
            explain=_read_explain(body),
            missing=columns.missing,
            unknown=columns.unknown,
            rates_as_of=columns.rates_as_of,
            events_as_of=columns.events_as_of,
            form=items.form,
        )

    def _read_rank_features(self, user: Mapping[str, Any], items: RequestRows) -> FeatureColumns:
        """Return the features of a ranking."""

        def parse(parser: FeatureParser) -> Column:
            value = user.get(parser.feature.name)
            if parser.feature.of == "user":
                return self._parse_user(parser, value)
            return self._parse_items(parser, items, value)

        missing = [name for name in self._names["user"] if name not in user]
        missing += [name for name in self._names["item"] if name not in user and name not in items.columns]
        return FeatureColumns(*self._read_features(parse, {"user": "user", "item": "items"}), tuple(missing))

    def read_score(self, document: object) -> ScoreRequest:
        """Return a request for the scores of rows.

        Args:
            document: Parsed body.

        Raises:
            RequestError: The body is invalid.
        """
        body = require_object(document, "body", ("rows", "exponents", "explain", "form"))
        if (raw := self._read_form(body)) is not None:
            rows = self._read_rows(body, "rows", raw.names(), "raw column")
            columns = raw.read_score(rows)
        else:
            rows = self._read_rows(body, "rows", self._parsers)
            columns = FeatureColumns(
                *self._read_features(lambda parser: _parse_rows(parser, rows), {"user": "rows", "item": "rows"}),
                tuple(name for name in self._parsers if name not in rows.columns),
            )
        return ScoreRequest(
            rows=rows.count,
            ids=columns.ids,
            dense=columns.dense,
            exponents=self._read_exponents(body),
            explain=_read_explain(body),
            missing=columns.missing,
            unknown=columns.unknown,
            rates_as_of=columns.rates_as_of,
            events_as_of=columns.events_as_of,
            form=rows.form,
        )

    def _read_form(self, body: Mapping[str, Any]) -> RawReader | None:
        """Return the reader of raw columns if a body has the raw form, else None.

        Raises:
            RequestError: The form is none of the two, or the model does not have the raw form.
        """
        form = body.get("form", "features")
        if form not in ("features", "raw"):
            raise RequestError("form", form, '"features", the default, or "raw"')
        if form == "features":
            return None
        if self._raw is None:
            rule = (
                "this model has no raw form, since its dataset does not record the types of raw columns; prepare the "
                "dataset again, train and export, or send features"
            )
            raise RequestError("form", form, rule)
        return self._raw

    def schemas(self) -> dict[str, Schema]:
        """Return the JSON schemas of the bodies, "RankRequest" and "ScoreRequest".

        A model with the raw form also has "RawRankRequest" and "RawScoreRequest".
        """
        features = {name: self._parsers[name].schema for owner in OWNERS for name in self._names[owner]}
        schemas = self._body_schemas(features, self._names["item"], "features")
        if self._raw is None:
            return schemas
        raw = self._body_schemas(self._raw.schemas(), self._raw.names("item"), "raw")
        return schemas | {f"Raw{name}": schema for name, schema in raw.items()}

    def _body_schemas(
        self, values: dict[str, Schema], item_names: Sequence[str], form: Literal["features", "raw"]
    ) -> dict[str, Schema]:
        """Return the JSON schemas of the bodies in one form.

        Args:
            values: JSON schemas of the values, by name.
            item_names: Names that belong to items.
            form: Value of the key `form`.
        """
        user = {"type": ["object", "null"], "description": "may also have values of items, for items without them"}
        number = {"type": "number", "minimum": -_MAX_EXPONENT, "maximum": _MAX_EXPONENT}
        exponents = object_schema(dict.fromkeys(self._factors, number)) | {"type": ["object", "null"]}
        top = {"type": ["integer", "null"], "minimum": 1, "description": "number of items in the answer; default: all"}
        explain = {"type": "boolean", "default": False, "description": "return factors, exponents and gate weights too"}
        options = {"exponents": exponents, "explain": explain, "form": {"type": "string", "enum": [form]}}
        rank = {
            "user": object_schema(values) | user,
            "items": rows_schema({name: values[name] for name in item_names}),
            "top": top,
        }
        required = [] if form == "features" else ["form"]
        return {
            "RankRequest": object_schema(rank | options) | {"required": ["items", *required]},
            "ScoreRequest": object_schema({"rows": rows_schema(values)} | options) | {"required": ["rows", *required]},
        }

    def _read_features(
        self, parse: Callable[[FeatureParser], Column], fields: Mapping[Owner, str]
    ) -> tuple[dict[str, FeatureIds], dict[str, NDArray[np.float32]]]:
        """Return the columns of all sparse features and histories, and those of all dense features and vectors.

        Args:
            parse: Function that returns the column of a parser's feature.
            fields: Field of the body with the features of each owner, for messages.
        """
        ids: dict[str, FeatureIds] = {}
        dense: dict[str, NDArray[np.float32]] = {}
        values_in_bags = numbers_in_vectors = 0
        for name, parser in self._parsers.items():
            column = parse(parser)
            if isinstance(column, HistoryIds):
                ids |= column.columns
            elif isinstance(column, FeatureIds):
                ids[name] = column
            else:
                dense[name] = column
                if column.ndim > 1:
                    numbers_in_vectors += column.size
                    check_vector_numbers(numbers_in_vectors, f"{fields[parser.feature.of]}.{name}")
                continue
            if column.offsets_N is not None:
                values_in_bags += int(column.offsets_N[-1])
                if values_in_bags > MAX_VALUES:
                    raise too_many_values(values_in_bags, f"{fields[parser.feature.of]}.{name}")
        return ids, dense

    def _parse_user(self, parser: FeatureParser, value: object) -> Column:
        """Return the column, with one row, of the user's value of a feature."""
        is_short = len(value) <= _MAX_CACHED_CHARACTERS if isinstance(value, str) else isinstance(value, int | NoneType)
        if type(parser) is IdParser and is_short:
            return self._parse_cached(parser, value)
        return _parse_one(parser, value)

    def _parse_items(self, parser: FeatureParser, items: RequestRows, user_value: object) -> Column:
        """Return the column of a feature of the items; an item that lacks it gets `user_value`, unless that is None."""
        if user_value is None:
            return _parse_rows(parser, items)
        name = parser.feature.name
        if indices := items.rows_with(name):
            item_values = items.columns[name]
            values = [user_value, *(item_values[i] for i in indices)]
            column = parser.parse(values, lambda k: items.field(name, indices[k - 1]) if k else f"user.{name}")
        else:
            column = self._parse_user(parser, user_value)
        index_N = np.zeros(items.count, np.int64)
        index_N[indices] = np.arange(1, len(indices) + 1)
        if isinstance(column, FeatureIds | HistoryIds):
            if column.offsets_N is not None:
                # The bag of the user counts once for each item that gets it.
                count = int(np.diff(column.offsets_N)[index_N].sum())
                if count > MAX_VALUES:
                    raise too_many_values(count, f"user.{name}")
            return column.take(index_N)
        # A vector of the user counts once for each item that gets it.
        check_vector_numbers(items.count * column[0].size, f"user.{name}")
        return column[index_N]

    def _read_rows(
        self, body: Mapping[str, Any], key: str, names: Iterable[str], kind: InputKind = "feature"
    ) -> RequestRows:
        permitted = frozenset(names)
        return read_rows(body, key, permitted, lambda values, place: self._check_names(values, place, permitted, kind))

    def _check_names(
        self, values: Mapping[str, Any], place: str, permitted: Set[str], kind: InputKind = "feature"
    ) -> None:
        """Refuse an object with a name that is not permitted in this place.

        Args:
            values: Values by name.
            place: Field of the body with the object.
            permitted: Names that the object may have.
            kind: Kind of these names.
        """
        if values.keys() <= permitted:
            return
        name = next(name for name in values if name not in permitted)
        raw_columns = [] if self._raw is None else self._raw.names()
        other, form = (self._parsers, "features") if kind == "raw column" else (raw_columns, "raw")
        user_names = self._names["user"] if kind == "feature" or self._raw is None else self._raw.names("user")
        if name in user_names:
            rule = f"it is a {kind} of the user, and belongs in `user`"
        elif name in other:
            other_kind: InputKind = "feature" if kind == "raw column" else "raw column"
            rule = f'it is a {other_kind}; a request with {other_kind}s has "form": "{form}"'
        else:
            suggestion = spelling_hint(shorten(name), sorted(permitted)) or f"{kind}s: {_join_names(permitted)}"
            rule = f"no {kind} of the model; {suggestion}"
        raise RequestError(f"{place}.{shorten(name)}", values[name], rule)

    def _read_exponents(self, body: Mapping[str, Any]) -> dict[str, float]:
        exponents = require_object({} if body.get("exponents") is None else body["exponents"], "exponents")
        for name, value in exponents.items():
            if name not in self._factors:
                hint = f"{spelling_hint(shorten(name), self._factors)} ".lstrip()
                raise RequestError(f"exponents.{shorten(name)}", value, f"{hint}factors: {', '.join(self._factors)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_EXPONENT:
                rule = f"a number from -{_MAX_EXPONENT} to {_MAX_EXPONENT}"
                raise RequestError(f"exponents.{name}", value, rule)
        return {name: float(value) for name, value in exponents.items()}


def _read_explain(body: Mapping[str, Any]) -> bool:
    explain = body.get("explain", False)
    if not isinstance(explain, bool):
        raise RequestError("explain", explain, "true or false")
    return explain


def _read_top(body: Mapping[str, Any]) -> int | None:
    top = body.get("top")
    if top is None:
        return None
    # A client may write 5 as 5.0.
    is_integral = isinstance(top, float) and top.is_integer()
    if isinstance(top, bool) or not (is_integral or isinstance(top, int)) or top < 1:
        raise RequestError("top", top, "the number of items in the answer, 1 or more")
    return int(top)


def _parse_one(parser: FeatureParser, value: object) -> Column:
    return parser.parse([value], lambda _: f"user.{parser.feature.name}")


def _parse_rows(parser: FeatureParser, rows: RequestRows) -> Column:
    name = parser.feature.name
    values = rows.columns.get(name) or [None] * rows.count
    return parser.parse(values, lambda i: rows.field(name, i))


def _join_names(names: Set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
