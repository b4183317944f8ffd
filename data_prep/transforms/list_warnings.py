"""Warnings about text columns whose cells are lists, such as "[1, 2]", if expressions do not split them correctly."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from data_prep.sources.list_texts import StructuredText, structured_text
from data_prep.sources.remote import open_raw_parquet
from data_prep.sources.table import RawFile, shown_value
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.words import locate_word
from ple_rec.config.prep import SparseSpec

logger = logging.getLogger(__name__)

_LIST_START = r"""^[\[\s"']"""
_MAX_SHARE = 0.01  # No warning up to this share of values with such a start, which usual texts may have, too.
_TEXT_FUNCTIONS = ("split", "replace", "json")  # Functions that take apart texts that are lists.
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


@dataclass(frozen=True)
class _Reader:
    """Expression that reads a column as text.

    Args:
        key: Key of the expression in the configuration.
        word: Word by which it names the column.
        feature: Sparse feature for which each cell is one id; None for any other use of the text.
    """

    key: str
    word: str
    feature: SparseSpec | None


def warn_of_lists(resolved: Resolved) -> None:
    """Warn of expressions that read lists as single texts, and of features whose ids are JSON texts.

    There is no warning of an expression that splits the cells or replaces parts of them, since it does so on purpose.
    Only the first cells of the first file with rows are inspected.

    Args:
        resolved: Configuration with the files of its tables.
    """
    for name, readers in _readers_of_texts(resolved).items():
        table = resolved.tables[name]
        file = next((file for file in table.files if file.rows), table.files[0])
        for column, texts in _first_texts(file, table.schema, readers).items():
            structure, reader = structured_text(texts), readers[column]
            if structure is None or (structure.kind == "JSON" and reader.feature is None):
                continue
            use = f"{reader.key} reads each as one text"
            if reader.feature is not None:
                use = f"sparse feature {reader.feature.name} uses each as one id"
            logger.warning(
                "%s, column %r: cells such as %s are %s as text, and %s. Fix: %s",
                file.display_name,
                column,
                shown_value(structure.example),
                "lists" if structure.kind == "list" else "JSON",
                use,
                _list_fix(structure, reader),
            )


def _readers_of_texts(resolved: Resolved) -> dict[str, dict[str, _Reader]]:
    """Return the first expression that reads each column as text, by table and column."""
    readers: dict[str, dict[str, _Reader]] = {name: {} for name in resolved.tables}
    features = {f"sparse[{i}].value": feature for i, feature in enumerate(resolved.config.sparse)}
    for key, expression in resolved.parsed.items():
        feature = features.get(key) if expression.is_column else None
        for word in expression.words_outside(*_TEXT_FUNCTIONS):
            table, column = locate_word(key, word, resolved.config)
            if table in readers and column in resolved.tables[table].schema.names:
                readers[table].setdefault(column, _Reader(key, word, feature))
    return readers


def _list_fix(structure: StructuredText, reader: _Reader) -> str:
    if structure.cut is None:
        return structure.suggest_rewrite(reader.word)
    if reader.feature is None:
        return f"cut them: write {structure.cut.expression(reader.word)} in place of {reader.word}"
    value = json.dumps(structure.cut.expression(reader.feature.source), ensure_ascii=False)
    return f"cut them: value = {value}, with bag = true"


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
