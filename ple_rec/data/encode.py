"""Encoding of raw values of sparse features as rows of embedding tables, for predictions from raw logs and requests.

It gives the same rows as the preparation of the dataset:

    a feature with a vocabulary        row of the value (`lookup.py`)
    a feature with edges of buckets    1 + number of edges that are at most the value
    any other feature                  the value itself, which is already a row; 0 if the table has no such row

Row 0 is for missing values. An unknown value also has row 0, or one of the rows that unknown values share; it is never
an error. A bag (a feature with a list of values) that is missing is empty.

Shape suffixes: N bags or single values, V items of all bags after truncation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Sparse feature, with the kind of its raw values.

    Args:
        feature: Sparse feature of the dataset.
        kind: Kind of a value, or of the items of a bag: "number" if edges put it into buckets, else that of the
            vocabulary's values, or "int" without a vocabulary.
        spec: Entry of the feature in `prep.toml`, or None if the dataset has no such file.
        table: Table that the feature reads.
    """

    feature: SparseFeature
    kind: RawKind
    spec: SparseSpec | None
    table: Table


class Encoder:
    """Encoder of some sparse features of a dataset.

    Args:
        folder: Dataset directory or its address, or an exported model, with `schema.toml`, `prep.toml` and `vocab/`.
        features: Features to encode.
        sealed: True if nothing may be written to the folder, as in a version of a model. Missing indices of
            vocabularies are then built in the cache.
        vocabularies: Vocabularies by table; None for those in the folder.

    Attributes:
        vocabularies: Vocabularies by table.

    Raises:
        DataError: A vocabulary, `schema.toml` or `prep.toml` is damaged, or differs from its digest.
        UserError: The index of a vocabulary cannot be written, or the folder cannot be read.
    """

    def __init__(
        self,
        folder: Location,
        features: Sequence[SparseFeature],
        *,
        sealed: bool = False,
        vocabularies: Mapping[str, VocabularyLookup] | None = None,
    ) -> None:
        tables = {table.name: table for table in load_schema(folder).tables}
        digests = Digests.read(folder)
        for name in (SCHEMA_FILE, PREP_FILE):
            digests.check(name)
        file = folder / PREP_FILE
        prep = load_config(PrepConfig, file).with_found_values() if file.exists() else None
        specs = {} if prep is None else {spec.name: spec for spec in prep.sparse}
        with_edges = {spec.name for spec in specs.values() if spec.edges is not None}
        if vocabularies is None:
            names = dict.fromkeys(feature.table for feature in features if feature.name not in with_edges)
            vocabularies = _open_vocabularies(digests, [tables[name] for name in names], sealed=sealed)
        self.vocabularies = vocabularies
        self.features: dict[str, RawFeature] = {}
        for feature in features:
            table = tables[feature.table]
            kind: RawKind = "int"
            if feature.name in with_edges:
                kind = "number"
            elif table.name in vocabularies:
                kind = vocabularies[table.name].kind
            self.features[feature.name] = RawFeature(feature, kind, specs.get(feature.name), table)

    def read_into_memory(self) -> None:
        """Copy the vocabularies into the memory of this process, so that later changes of files do not affect it."""
        for vocabulary in self.vocabularies.values():
            vocabulary.read_into_memory()

    def rows(self, name: str, values: pa.Array | pa.ChunkedArray, place: str) -> pa.Array:
        """Return the table row of each value.

        Args:
            name: Name of the feature.
            values: Integers, texts or numbers, according to the feature's `kind`, or lists of them for a bag.
            place: File and column, for messages.

        Returns:
            Rows as int32 without nulls; for a bag, large lists of them, empty if the bag is missing.

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
            raise DataError(place, f"values of type {array.type}", f"{name} needs lists of values", "give lists")
        offsets, positions_V = truncate_bags(raw.spec, array)
        items = array.flatten()
        rows = self._rows(raw, items if positions_V is None else items.take(pa.array(positions_V)), place)
        return pa.LargeListArray.from_arrays(pa.array(offsets), rows)

    def truncate_items(self, name: str, array: pa.Array) -> pa.Array:
        """Truncate lists in the same way as the bags of a feature, and return the items of all lists in one array.

        Args:
            name: Name of the feature.
            array: Lists of the same lengths as the bags, for example their weights.
        """
        _, positions_V = truncate_bags(self.features[name].spec, array)
        return array.flatten() if positions_V is None else array.flatten().take(pa.array(positions_V))

    def example_values(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return, for each row of a table, a raw value that is encoded as this row; None for row 0.

        For a row that unknown values share, the value is invented, or None if none was found.

        Args:
            name: Name of the feature.
            rows: Rows of the feature's table.
        """
        raw = self.features[name]
        if raw.kind == "number":
            assert raw.spec is not None
            assert raw.spec.edges is not None
            edges = raw.spec.edges
            # The value of a bucket is its lower edge, which belongs to it. The first bucket is below all edges.
            examples = [edges[0] - max(1.0, abs(edges[0])), *edges]
            return [examples[row - 1] if row else None for row in rows]
        if (vocabulary := self.vocabularies.get(raw.table.name)) is not None:
            return vocabulary.values(rows)
        return [row or None for row in rows]

    def _rows(self, raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
        if pa.types.is_null(array.type):
            return pa.array(np.zeros(len(array), np.int32))
        if raw.kind == "number":
            return _bucket(raw, array, place)
        if (vocabulary := self.vocabularies.get(raw.table.name)) is not None:
            return vocabulary.rows(array.cast(pa.int64()) if pa.types.is_boolean(array.type) else array, place)
        return _plain_ids(raw, array, place)


def _open_vocabularies(digests: Digests, tables: Sequence[Table], *, sealed: bool) -> dict[str, VocabularyLookup]:
    """Return the vocabularies of those tables that have one, by table."""
    vocabularies = {}
    for table in tables:
        name = f"{VOCAB_DIR}/{table.name}.parquet"
        if (digests.folder / name).exists():
            vocabularies[table.name] = VocabularyLookup.of_table(digests.local_copy(name), table, sealed=sealed)
    return vocabularies


def truncate_bags(spec: SparseSpec | None, array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Select the first or last `max_length` items of each bag, or all items if there is no limit.

    Args:
        spec: Entry of the bag in `prep.toml`, with `max_length` and `keep`, or None if there is no such file.
        array: Bags as lists, some of which may be null.

    Returns:
        Offsets of the bags after truncation (N + 1), and the positions of their items in `array.flatten()`; None
        instead of the positions if all items stay.
    """
    lengths_N = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    max_length = None if spec is None else spec.max_length
    truncated_N = lengths_N if max_length is None else np.minimum(lengths_N, max_length)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(truncated_N, out=offsets[1:])
    if spec is None or max_length is None or int(lengths_N.max(initial=0)) <= max_length:
        return offsets, None
    starts_N = np.cumsum(lengths_N) - lengths_N + (lengths_N - truncated_N if spec.keep == "last" else 0)
    index_in_bag_V = np.arange(offsets[-1]) - np.repeat(offsets[:-1], truncated_N)
    return offsets, np.repeat(starts_N, truncated_N) + index_in_bag_V


def _bucket(raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
    assert raw.spec is not None
    assert raw.spec.edges is not None
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        rule = f"{raw.feature.name} is put into buckets by edges"
        raise DataError(place, f"values of type {array.type}", rule, "give numbers")
    x_N = array.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    rows_N = np.searchsorted(np.array(raw.spec.edges), x_N, side="right").astype(np.int32) + np.int32(1)
    rows_N[np.isnan(x_N)] = 0
    return pa.array(rows_N)


def _plain_ids(raw: RawFeature, array: pa.Array, place: str) -> pa.Array:
    if not pa.types.is_integer(array.type):
        rule = f"table {raw.table.name} has no vocabulary, so values of {raw.feature.name} must be rows of it"
        raise DataError(place, f"values of type {array.type}", rule, "give integers")
    x_N = (array.fill_null(0) if array.null_count else array).to_numpy(zero_copy_only=False)
    return pa.array((x_N * ((x_N > 0) & (x_N < raw.table.allocated_rows))).astype(np.int32))


def _no_rows() -> pa.Array:
    return pa.array([], pa.int32())
