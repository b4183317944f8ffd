"""Warnings of lists that are written as text, if nothing cuts them, or `split` cuts them at wrong places."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from data_prep.sources.list_texts import structured_text
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.table import RawFile, shown_value
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import SparseSpec

logger = logging.getLogger(__name__)

_ODD = r"""^[\[\s"']"""
_MANY = 0.01  # Up to this share of values may begin so without a warning, since a plain text may, too.
_CELLS = 1_000  # The first cells of a column show whether they are lists.


def warn_of_pieces(feature: SparseSpec, values: pa.Array) -> None:
    """Warn if pieces of a `split` begin with a bracket, a quote or a blank, as those of a list written as text do.

    Args:
        feature: Sparse feature; nothing is checked unless it is a bag that `split` cuts.
        values: Values of the bag, or of its table.
    """
    if not feature.bag or not re.search(r"\bsplit\s*\(", feature.source) or not pt.is_string(values.type):
        return
    odd = values.filter(pc.match_substring_regex(values, _ODD))
    if len(odd) > _MANY * len(values):
        logger.warning(
            "sparse feature %s: %s of %s values begin with a bracket, a quote or a blank, such as %r, which `%s` makes "
            "part of an id. Fix: take these out by replace before, see docs/prep.md#files",
            feature.name,
            f"{len(odd):,}",
            f"{len(values):,}",
            odd[0].as_py(),
            feature.source,
        )


def warn_of_lists(resolved: Resolved) -> None:
    """Warn of sparse features that take each list, or JSON object, in a text column for one id.

    Args:
        resolved: Configuration with the files of its tables.
    """
    readers: dict[str, dict[str, int]] = {name: {} for name in resolved.tables}
    for i, feature in enumerate(resolved.config.sparse):
        source = None if feature.bag or feature.bucketised else resolved.bare_column(f"sparse[{i}].value")
        if source is not None:
            table, column = source
            readers[table.name].setdefault(column, i)
    for name, columns in readers.items():
        table = resolved.tables[name]
        file = next((file for file in table.files if file.rows), table.files[0])
        for column, texts in _first_texts(file, table.schema, columns).items():
            structure = structured_text(texts)
            if structure is None:
                continue
            feature = resolved.config.sparse[columns[column]]
            fix = structure.other_way(feature.source)
            if structure.cut is not None:
                value = json.dumps(structure.cut.expression(feature.source), ensure_ascii=False)
                fix = f"cut them: value = {value}, with bag = true"
            logger.warning(
                "%s, column %r: cells such as %s are %s as text, and sparse feature %s takes each for one id. Fix: %s",
                file.shown,
                column,
                shown_value(structure.example),
                "lists" if structure.kind == "list" else "JSON",
                feature.name,
                fix,
            )


def _first_texts(file: RawFile, schema: pa.Schema, columns: Iterable[str]) -> dict[str, pa.Array]:
    """Return the first texts of those columns of a file that are text, without nulls."""
    names = [name for name in columns if pt.is_string(schema.field(name).type) and name not in file.partitions]
    if not names:
        return {}
    try:
        with open_raw_parquet(file.path) as parquet:
            batch = next(parquet.iter_batches(_CELLS, columns=names), None)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return {}  # The engine reads the file next, and reports the damage.
    if batch is None:
        return {}
    return {name: batch[name].cast(pa.string()).drop_null() for name in names}
