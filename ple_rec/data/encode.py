"""Encoding of raw values of sparse features as rows of tables, for raw logs and for requests.

It gives the rows that data preparation gave:

    a feature with a vocabulary        row of the value (ple_rec.data.lookup)
    a feature cut into buckets         1 + number of edges that are at most the value
    a table without a vocabulary       the value itself, which is a row already

A missing value is row 0, and a missing bag is empty. An unknown value is row 0 too, or one of the rows that unknown
values share; it is never an error.

Shapes: N values, V items of all bags after truncation.
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
    """Sparse feature and the kind of its raw values.

    Args:
        feature: Sparse feature of the dataset.
        kind: Kind of a value, or of the items of a bag; "number" if edges cut it into buckets.
        spec: Entry of the feature in `prep.toml`, or None if the dataset has no such file.
        table: Table that the feature reads.
    """

    feature: SparseFeature
    kind: RawKind
    spec: SparseSpec | None
    table: Table


class Encoder:
    """Encoder of some sparse features. Features of one table share its vocabulary.

    Args:
        folder: Dataset directory or its address, or an export, which contains `schema.toml`, `prep.toml` and `vocab/`.
        features: Features to encode.
        sealed: True if nothing may be written to the folder, as in a version of a model; missing indices of
            vocabularies are then built in the cache.

    Raises:
        DataError: A vocabulary, `schema.toml` or `prep.toml` is damaged, or is not the one that was prepared.
        UserError: There is no room for the index of a vocabulary.
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
        """Copy the vocabularies into the memory of this process, so that later changes of files do not affect it."""
        for vocabulary in self._vocabularies.values():
            vocabulary.read_into_memory()

    def rows(self, name: str, values: pa.Array | pa.ChunkedArray, place: str) -> pa.Array:
        """Return the table row of each value.

        Args:
            name: Name of the feature.
            values: Integers, texts or numbers, by the kind in `features`, or lists of them for a bag.
            place: File and column, for messages.

        Returns:
            int32 without nulls, or for a bag a large list of rows, empty if the bag is missing.

        Raises:
            DataError: The values are of another kind.
        """
        raw = self.features[name]
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if not raw.feature.bag:
            return self._rows(raw, array, place)
        if pa.types.is_null(array.type):
            return pa.LargeListArray.from_arrays(pa.array(np.zeros(len(array) + 1, np.int64)), _no_rows())
        if not hasattr(array, "value_lengths"):
            raise DataError(place, f"values of type {array.type}", f"{name} is a bag: lists of values", "give lists")
        offsets_N, positions_V = truncate_bags(raw.spec, array)
        items = array.flatten()
        rows = self._rows(raw, items if positions_V is None else items.take(pa.array(positions_V)), place)
        return pa.LargeListArray.from_arrays(pa.array(offsets_N), rows)

    def cut(self, name: str, array: pa.Array) -> pa.Array:
        """Truncate lists as the bags of a feature are, and return their items one after the other.

        Args:
            name: Name of the feature.
            array: Lists, each as long as the bag of its row, for example weights.
        """
        _, positions_V = truncate_bags(self.features[name].spec, array)
        return array.flatten() if positions_V is None else array.flatten().take(pa.array(positions_V))

    def values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return, for each row, a raw value whose encoding it is, or None for row 0.

        The value of a row that unknown values share is an invented one.

        Args:
            name: Name of the feature.
            rows: Rows of the feature's table.
        """
        raw = self.features[name]
        if raw.kind == "number":
            assert raw.spec is not None
            assert raw.spec.edges is not None
            edges = raw.spec.edges
            # A bucket begins at its lower edge, which belongs to it; the first bucket is below all edges.
            examples = [edges[0] - max(1.0, abs(edges[0])), *edges]
            return [examples[row - 1] if row else None for row in rows]
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
        return _plain_ids(raw, array, place)


def truncate_bags(spec: SparseSpec | None, array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Select the first or last `max_length` items of each bag, or all items if it has no limit.

    Args:
        spec: Entry of the bag in `prep.toml`, with `max_length` and `keep`, or None if there is no such file.
        array: Bags as lists, some of which may be null.

    Returns:
        Offsets of the bags after truncation, (N + 1,), and the positions of their items in `array.flatten()`; None
        instead of positions if all items stay.
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


def _plain_ids(raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
    if not pa.types.is_integer(array.type):
        rule = f"table {raw.table.name} has no vocabulary, so values of {raw.feature.name} are its rows"
        raise DataError(place, f"values of type {array.type}", rule, "give integers")
    x_N = (array.fill_null(0) if array.null_count else array).to_numpy(zero_copy_only=False)
    return pa.array((x_N * ((x_N > 0) & (x_N < raw.table.allocated))).astype(np.int32))


def _no_rows() -> pa.Array:
    return pa.array([], pa.int32())
