"""Prediction of every row of an input, in batches, written in parts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.load import fingerprint
from ple_rec.config.run import RunConfig
from ple_rec.data.ahead import read_ahead
from ple_rec.errors import Option, UserError
from ple_rec.inference.predict.batches import InputBatch, batches_of
from ple_rec.inference.predict.counts import IdCounter, shares_of
from ple_rec.inference.predict.inputs import PredictionInput, features_only
from ple_rec.inference.predict.output import Output, PartNote, PartWriter
from ple_rec.inference.predict.score import SCORE, PredictionColumns
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.preflight import check_run

# Number of batches that are prepared while the model computes.
AHEAD = 4


@dataclass
class RowCounts:
    """Counts over the rows so far.

    Args:
        ids_S3: Counts of `IdCounter`.
        clipped: Number of values at a bound, for each factor of the score.
        rows: Number of rows.
    """

    ids_S3: np.ndarray[Any, np.dtype[np.int64]]
    clipped: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def add(self, ids_S3: np.ndarray[Any, np.dtype[np.int64]], clipped: Mapping[str, int], rows: int) -> None:
        """Add the counts of more rows."""
        self.ids_S3 += ids_S3
        self.clipped = {name: self.clipped.get(name, 0) + count for name, count in clipped.items()}
        self.rows += rows


def checkpoint_of(config: RunConfig, run_dir: Location, name: str) -> dict[str, str]:
    """Return values that differ from those of any other checkpoint, without loading it.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        name: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: There is no such checkpoint.
    """
    path = CheckpointStore(checkpoint_place(config, run_dir)).require(name)
    digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    return {"name": path.name, "manifest_sha256": digest, "config_fingerprint": fingerprint(check_run(run_dir))}


@torch.no_grad()
def predict(
    context: EvaluationContext,
    source: PredictionInput,
    columns: PredictionColumns,
    output: Output,
    *,
    part_rows: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write the missing parts and `_SUCCESS`, and return the summary.

    Args:
        context: Context of an evaluation with the checkpoint's weights.
        source: Input whose rows are predicted.
        columns: Columns of the output.
        output: Directory of the output.
        part_rows: Largest number of rows of a part; a part has whole batches, and at least one.
        advance: Function that is called with the position up to which rows are predicted.

    Raises:
        UserError: Two id columns have one name, or the disk is full.
        DataError: Rows cannot be read or predicted.
    """
    selection = features_only(context.selection)
    names = [feature.name for feature in selection.sparse]
    counter = IdCounter(selection, context.dataset.schema)
    total = RowCounts(np.zeros((len(names), 3), np.int64))
    for note in output.done:
        total.add(np.array([note.ids[name] for name in names]).reshape(-1, 3), note.clipped, note.rows)
    before, started = total.rows, time.perf_counter()
    context.model.eval()
    device, first = context.ranks.device, output.next

    def batches() -> Generator[InputBatch]:
        for section in source.sections(first):
            yield from batches_of(section, selection, context.batch_size, pin=device.type == "cuda")

    schema = None
    with closing(read_ahead(batches(), AHEAD)) as prepared:
        while first < source.rows or not output.done:
            part = islice(prepared, max(part_rows // context.batch_size, 1))
            head = next(part, None)
            if head is None or (output.done and not head.batch.rows):
                break
            schema = schema or _schema(head, columns)
            with output.writing_part(schema) as writer:
                counts = RowCounts(np.zeros_like(total.ids_S3))
                rows: InputBatch | None = head
                while rows is not None:
                    _write(rows, context, columns, counter, writer, counts)
                    first = rows.next
                    advance(first)
                    rows = next(part, None)
                ids = dict(zip(names, counts.ids_S3.tolist(), strict=True))
                writer.finish(PartNote(first, counts.rows, ids, counts.clipped))
            total.add(counts.ids_S3, counts.clipped, counts.rows)
    source.check_unchanged()
    seconds = time.perf_counter() - started
    summary = {
        "rows": total.rows,
        "rows_left_out": source.rows - total.rows,
        "parts": len(output.done),
        "rows_predicted_now": total.rows - before,
        "seconds": seconds,
        "rows_per_second": (total.rows - before) / max(seconds, 1e-9),
        "device": str(device),
        "ids": shares_of(names, total.ids_S3),
        "clipped": {name: count / max(total.rows, 1) for name, count in total.clipped.items()},
    }
    output.finish(summary)
    return summary


def _schema(rows: InputBatch, columns: PredictionColumns) -> pa.Schema:
    """Return the schema of the output, with plain types for dictionary columns, since parts differ in dictionaries."""
    ids = []
    for column in _id_columns(rows, columns).schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        ids.append(pa.field(column.name, kind))
    tasks = [pa.field(name, pa.float32()) for name in columns.names]
    return pa.schema([*ids, *tasks, pa.field(SCORE, pa.float64())])


def _id_columns(rows: InputBatch, columns: PredictionColumns) -> pa.Table:
    """Return the id columns of the output; one with the name of a prediction becomes `input_<name>`.

    Raises:
        UserError: Two columns have the same name after that.
    """
    table = rows.ids()
    names = [f"input_{name}" if name in (*columns.names, SCORE) else name for name in table.column_names]
    if twice := [name for name in names if names.count(name) > 1]:
        rule = f"a column with the name of a prediction becomes {twice[0]}"
        raise UserError(Option.IDS, f'got "{twice[0]}"', rule, "leave one of the two out")
    return table.rename_columns(names)


def _write(
    rows: InputBatch,
    context: EvaluationContext,
    columns: PredictionColumns,
    counter: IdCounter,
    writer: PartWriter,
    counts: RowCounts,
) -> None:
    if not rows.batch.rows:
        return
    logits_BK = context.model(rows.batch.to(context.ranks.device))[0]
    predictions, clipped = columns.of_batch(rows, logits_BK)
    ids = _id_columns(rows, columns)
    writer.write(pa.table(dict(zip(ids.column_names, ids.columns, strict=True)) | predictions))
    ids_S3 = sum(counter.count(chunk.columns, chunk.missing, start, stop) for chunk, start, stop in rows.pieces)
    counts.add(np.asarray(ids_S3), clipped, rows.batch.rows)
