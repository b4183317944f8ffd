"""Rows of embedding tables that belong to other values in the dataset of a run than in that of a loaded checkpoint.

A dataset to which a day was appended gives rows to new values: free rows, and rows whose values have expired. A
checkpoint of an earlier day has no trained weights of the new values. A warm start therefore resets these rows, and an
evaluation reads the row of unknown values in their place, as a model that was exported on the earlier day does.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.row_assignments import rows_assigned_after
from ple_rec.data.unknown_rows import rows_of_unknown
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.table_overwrite import RowSources, copy_rows, reset_rows
from ple_rec.distributed.table_rows import TableOrigin
from ple_rec.training.context import EvaluationContext

logger = logging.getLogger(__name__)


def reset_new_rows(
    context: EvaluationContext, state: Mapping[str, Any], fingerprint: str, origins: Mapping[str, TableOrigin]
) -> None:
    """Reset the rows that were assigned after a dataset to their initial weights, without optimizer state.

    This is a collective. Only rank 0 reads the vocabularies.

    Args:
        context: Context of the run whose dataset says which rows these are.
        state: Loaded state of model and optimizers, before it is loaded into them.
        fingerprint: Fingerprint of the dataset on which the loaded checkpoint was trained.
        origins: Origin of each table of the model by its name.

    Raises:
        DataError: A vocabulary is damaged.
    """
    rows = broadcast(run_on_rank_zero(lambda: _new_rows(context.dataset, fingerprint, origins))) or {}
    reset_rows(state["model"], state["optimizer"]["state"], rows, origins)
    if rows and context.ranks.is_main:
        logger.info(
            f"initial weights for rows of values that dataset {fingerprint[:12]} does not have: {_counts(rows)}"
        )


def read_new_rows_as_unknown(context: EvaluationContext, state: Mapping[str, Any], fingerprint: str) -> None:
    """Overwrite the rows that were assigned after a dataset by the row that each value has if it is unknown.

    This is a collective. Only rank 0 reads the vocabularies.

    Args:
        context: Context of the evaluation whose dataset says which rows these are.
        state: Loaded state of the model, before it is loaded into the model.
        fingerprint: Fingerprint of the dataset on which the loaded checkpoint was trained.

    Raises:
        DataError: A vocabulary is damaged.
    """
    dims = {table.table: table.dim for table in context.plan.tables}
    sources = broadcast(run_on_rank_zero(lambda: unknown_sources(context.dataset, fingerprint, dims))) or {}
    copy_rows(state["model"], sources, dims, context.ranks.device)
    if sources and context.ranks.is_main:
        counts = _counts({table: row_R for table, (row_R, _) in sources.items()})
        logger.info(f"rows read as unknown, since dataset {fingerprint[:12]} does not have their values: {counts}")


def unknown_sources(dataset: DatasetDirectory, fingerprint: str, tables: Collection[str]) -> dict[str, RowSources]:
    """Return the rows that were assigned after a dataset, with the row that each value has if it is unknown.

    Args:
        dataset: Dataset with the vocabularies.
        fingerprint: Fingerprint of the dataset itself, or of an ancestor.
        tables: Names of the tables that are needed.

    Raises:
        DataError: A vocabulary is damaged.
    """
    schemas = {table.name: table for table in dataset.schema.tables}
    return {
        table: RowSources(row_R, rows_of_unknown(dataset, schemas[table], row_R))
        for table, row_R in _new_rows(dataset, fingerprint, tables).items()
    }


def _new_rows(dataset: DatasetDirectory, fingerprint: str, tables: Collection[str]) -> dict[str, NDArray[np.int32]]:
    return {table: row_R for table, row_R in rows_assigned_after(dataset, fingerprint).items() if table in tables}


def _counts(rows: Mapping[str, NDArray[np.int32]]) -> str:
    return ", ".join(f"{table} {len(row_R):,}" for table, row_R in rows.items())
