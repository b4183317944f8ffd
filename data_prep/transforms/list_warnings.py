"""Warnings about text columns whose cells are lists, such as "[1, 2]", if a feature does not split them correctly."""

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

_LIST_START = r"""^[\[\s"']"""
_MAX_SHARE = 0.01  # No warning up to this share of values with such a start, which usual texts may have, too.
_CELLS = 1_000  # Number of cells of a column that are inspected.


def warn_of_pieces(feature: SparseSpec, values: pa.Array) -> None:
    """Warn if more than 1 % of the results of `split` begin with a bracket, a quote or a blank.

    Then a list that was written as text, with its brackets and quotes, has probably been split.

    Args:
        feature: Sparse feature; only a bag whose expression calls `split` is checked.
        values: Ids of the bag, or of its embedding table.
    """
    if not feature.bag or not re.search(r"\bsplit\s*\(", feature.source) or not pt.is_string(values.type):
        return
    suspicious = values.filter(pc.match_substring_regex(values, _LIST_START))
    if len(suspicious) > _MAX_SHARE * len(values):
        logger.warning(
            "sparse feature %s: %s of %s values begin with a bracket, a quote or a blank, such as %r, which `%s` makes "
            "part of an id. Fix: remove these by replace first, see docs/prep.md#files",
            feature.name,
            f"{len(suspicious):,}",
            f"{len(values):,}",
            suspicious[0].as_py(),
            feature.source,
        )


def warn_of_lists(resolved: Resolved) -> None:
    """Warn of sparse features that use each cell of a text column as one id although the cells are lists or JSON.

    Only the first cells of the first file with rows are inspected.

    Args:
        resolved: Configuration with the files of its tables.
    """
    # By table and column: index of the first such feature that is the column itself.
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
            fix = structure.suggest_rewrite(feature.source)
            if structure.cut is not None:
                value = json.dumps(structure.cut.expression(feature.source), ensure_ascii=False)
                fix = f"cut them: value = {value}, with bag = true"
            logger.warning(
                "%s, column %r: cells such as %s are %s as text, and sparse feature %s uses each as one id. Fix: %s",
                file.display_name,
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
