"""Raw values of features -> rows of tables, as data preparation made them: for raw logs and for requests.

    vocabulary   the value's row                    (ple_rec.data.lookup)
    edges        1 + how many edges x reaches       of a bucketised feature
    rows         the value itself                   of a table without a vocabulary, where ids are rows already

A missing value is row 0, and a missing bag empty. An unknown value is row 0 too, or one of the rows that unknown values
share; it is never an error.

Shapes: N values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PREP_FILE, PrepConfig
from ple_rec.config.prep_columns import SparseSpec
from ple_rec.config.schema import SCHEMA_FILE, VOCAB_DIR, SparseFeature, Table
from ple_rec.data.integrity import Digests
from ple_rec.data.lookup import VocabularyLookup
from ple_rec.errors import DataError
from ple_rec.storage import Location

RawKind = Literal["int", "text", "number"]


@dataclass(frozen=True)
class RawFeature:
    """What the raw values of a sparse feature are.

    Args:
        feature: Of the dataset.
        kind: Of a value, or of the values of a bag: "number" where edges cut it into buckets.
        spec: Of `prep.toml`; None where the dataset has none.
        table: That it reads.
    """

    feature: SparseFeature
    kind: RawKind
    spec: SparseSpec | None
    table: Table


class Encoder:
    """Of some sparse features. Features of one table share its vocabulary.

    Args:
        folder: A dataset directory or its address, or what an export holds of one: `schema.toml`, `prep.toml`,
            `vocab/`.
        features: Which.
        sealed: Flag that nothing may be written to the folder, as to a version of a model: an index that it lacks is
            then built in the cache.

    Raises:
        DataError: a vocabulary, a schema or a `prep.toml` that is damaged, or is not the one that was prepared.
        UserError: no room for the index of a vocabulary.
    """

    def __init__(self, folder: Location, features: Sequence[SparseFeature], *, sealed: bool = False) -> None:
        tables = {table.name: table for table in load_schema(folder).tables}
        digests = Digests.read(folder)
        for name in (SCHEMA_FILE, PREP_FILE):
            digests.check(name)
        file = folder / PREP_FILE
        prep = load_config(PrepConfig, file).filled() if file.exists() else None
        specs = {} if prep is None else {spec.name: spec for spec in prep.sparse}
        self._vocabularies: dict[str, VocabularyLookup] = {}
        self.features: dict[str, RawFeature] = {}
        for feature in features:
            table, spec = tables[feature.table], specs.get(feature.name)
            kind: RawKind = "int"
            if spec is not None and spec.edges is not None:
                kind = "number"
            elif (folder / VOCAB_DIR / f"{table.name}.parquet").exists():
                if table.name not in self._vocabularies:
                    vocabulary = digests.local_copy(f"{VOCAB_DIR}/{table.name}.parquet")
                    self._vocabularies[table.name] = VocabularyLookup.of_table(vocabulary, table, sealed=sealed)
                kind = self._vocabularies[table.name].kind
            self.features[feature.name] = RawFeature(feature, kind, spec, table)

    def read_into_memory(self) -> None:
        """Copy the vocabularies into the memory of this process, which files that change later cannot harm."""
        for vocabulary in self._vocabularies.values():
            vocabulary.read_into_memory()

    def rows(self, name: str, values: pa.Array | pa.ChunkedArray, place: str) -> pa.Array:
        """The rows of each value.

        Args:
            name: Of the feature.
            values: Integers, text or numbers as `features` says; of a bag lists of these.
            place: File and column, for messages.

        Returns:
            int32 without nulls; of a bag a large list of these, empty where it is missing.

        Raises:
            DataError: values of another kind.
        """
        raw = self.features[name]
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if not raw.feature.bag:
            return self._rows(raw, array, place)
        if pa.types.is_null(array.type):
            return pa.LargeListArray.from_arrays(pa.array(np.zeros(len(array) + 1, np.int64)), _no_rows())
        if not hasattr(array, "value_lengths"):
            raise DataError(place, f"values of type {array.type}", f"{name} is a bag: lists of values", "give lists")
        offsets_N, places_V = kept(raw.spec, array)
        items = array.flatten()
        rows = self._rows(raw, items if places_V is None else items.take(pa.array(places_V)), place)
        return pa.LargeListArray.from_arrays(pa.array(offsets_N), rows)

    def cut(self, name: str, array: pa.Array) -> pa.Array:
        """What stays of lists that stand beside the bags of a feature, one after the other.

        Args:
            name: Of the feature.
            array: Lists, each as long as its bag.
        """
        _, places_V = kept(self.features[name].spec, array)
        return array.flatten() if places_V is None else array.flatten().take(pa.array(places_V))

    def values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """A raw value that becomes each row, made up where unknown values share it; None of row 0.

        Args:
            name: Of the feature.
            rows: Of its table.
        """
        raw = self.features[name]
        if raw.kind == "number":
            assert raw.spec is not None
            assert raw.spec.edges is not None
            edges = raw.spec.edges
            inside = [edges[0] - max(1.0, abs(edges[0])), *edges]
            return [inside[row - 1] if row else None for row in rows]
        if (vocabulary := self._vocabularies.get(raw.table.name)) is not None:
            return vocabulary.values(rows)
        return [row or None for row in rows]

    def _rows(self, raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
        if pa.types.is_null(array.type):
            return pa.array(np.zeros(len(array), np.int32))
        if raw.kind == "number":
            return _bucket(raw, array, place)
        if (vocabulary := self._vocabularies.get(raw.table.name)) is not None:
            return vocabulary.rows(array.cast(pa.int64()) if pa.types.is_boolean(array.type) else array, place)
        return _themselves(raw, array, place)


def kept(spec: SparseSpec | None, array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Which items of bags stay: all, or the first or last `max_length`.

    Args:
        spec: Of the bag.
        array: Lists, of which some may be null.

    Returns:
        Offsets of what stays, (N + 1,), and its places in `array.flatten()`; None: all.
    """
    lengths_N = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    most = None if spec is None else spec.max_length
    own_N = lengths_N if most is None else np.minimum(lengths_N, most)
    offsets_N = np.zeros(len(array) + 1, np.int64)
    np.cumsum(own_N, out=offsets_N[1:])
    if spec is None or most is None or int(lengths_N.max(initial=0)) <= most:
        return offsets_N, None
    starts_N = np.cumsum(lengths_N) - lengths_N + (lengths_N - own_N if spec.keep == "last" else 0)
    within_V = np.arange(offsets_N[-1]) - np.repeat(offsets_N[:-1], own_N)
    return offsets_N, np.repeat(starts_N, own_N) + within_V


def _bucket(raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
    assert raw.spec is not None
    assert raw.spec.edges is not None
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        rule = f"{raw.feature.name} is cut into buckets by edges"
        raise DataError(place, f"values of type {array.type}", rule, "give numbers")
    x_N = array.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    rows_N = np.searchsorted(np.array(raw.spec.edges), x_N, side="right").astype(np.int32) + np.int32(1)
    rows_N[np.isnan(x_N)] = 0
    return pa.array(rows_N)


def _themselves(raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
    if not pa.types.is_integer(array.type):
        rule = f"table {raw.table.name} has no vocabulary, so values of {raw.feature.name} are its rows"
        raise DataError(place, f"values of type {array.type}", rule, "give integers")
    x_N = (array.fill_null(0) if array.null_count else array).to_numpy(zero_copy_only=False)
    return pa.array((x_N * ((x_N > 0) & (x_N < raw.table.allocated))).astype(np.int32))


def _no_rows() -> pa.Array:
    return pa.array([], pa.int32())
