"""Prediction of the rows of an input, in batches, written to the Parquet files (parts) of an output directory.

`ple-rec predict` and `Run.predict` call `predict`, which continues after the parts that are complete already. Rows of
raw logs that the condition `log.where` leaves out are counted, but not predicted.

Id columns are columns of the input that are copied to the output, so that its rows can be recognised. They have nothing
to do with the ids of sparse features, which `ids_S3` counts.

Shape suffixes: B batch, K tasks, S sparse features. The 3 columns of `ids_S3` count all ids, ids without a table row of
their own (unknown and missing values), and missing ids.
"""

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
from ple_rec.inference.predict.batches import InputBatch, make_batches
from ple_rec.inference.predict.counts import IdCounter, compute_shares
from ple_rec.inference.predict.inputs import PredictionInput, features_only
from ple_rec.inference.predict.output import Output, PartNote, PartWriter
from ple_rec.inference.predict.score import SCORE, PredictionColumns
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.storage import Location
from ple_rec.training.context import EvaluationContext
from ple_rec.training.preflight import load_run_config

# Number of batches that are read ahead while the model computes.
PREFETCHED_BATCHES = 4


@dataclass
class RowCounts:
    """Counts over some rows.

    Args:
        ids_S3: Counts of ids (`IdCounter`).
        clipped: Number of rows in which a factor of the score is at one of its bounds, by factor.
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


def identify_checkpoint(config: RunConfig, run_dir: Location, name: str) -> dict[str, str]:
    """Return values that identify a checkpoint, without loading it.

    Args:
        config: Configuration that says where the checkpoints are. The fingerprint is that of the configuration in
            `run_dir`.
        run_dir: Directory of the run.
        name: `best`, `latest` or `step-<n>`.

    Raises:
        UserError: There is no such checkpoint.
    """
    path = CheckpointStore(checkpoint_place(config, run_dir)).require(name)
    digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    return {"name": path.name, "manifest_sha256": digest, "config_fingerprint": fingerprint(load_run_config(run_dir))}


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
    """Write the missing parts, then `_SUCCESS`, and return the summary.

    The file `_SUCCESS` has the description of the prediction that `Output.begin` got, and the summary.

    Args:
        context: Context of an evaluation with the checkpoint's weights.
        source: Input whose rows are predicted.
        columns: Columns of the output.
        output: Directory of the output.
        part_rows: Largest number of rows of a part, rounded down to whole batches, of which it has at least one.
        advance: Function that is called with the position of the input up to which rows are predicted.

    Raises:
        UserError: Two id columns have the same name, or the disk is full.
        DataError: Rows cannot be read or predicted.
    """
    selection = features_only(context.selection)
    names = [feature.name for feature in (*selection.single, *selection.bags)]
    counter = IdCounter(selection, context.dataset.schema)
    total = RowCounts(np.zeros((len(names), 3), np.int64))
    for note in output.complete_parts:
        total.add(np.array([note.ids[name] for name in names]).reshape(-1, 3), note.clipped, note.rows)
    rows_before, started = total.rows, time.perf_counter()
    context.model.eval()
    device, position = context.ranks.device, output.next_position

    def batches() -> Generator[InputBatch]:
        for section in source.sections(position):
            yield from make_batches(section, selection, context.batch_size, pin=device.type == "cuda")

    schema = None
    with closing(read_ahead(batches(), PREFETCHED_BATCHES)) as prefetched:
        # An input without rows gets one part without rows, so that readers find the columns.
        while position < source.rows or not output.complete_parts:
            part_batches = islice(prefetched, max(part_rows // context.batch_size, 1))
            first_batch = next(part_batches, None)
            # A batch has no rows only if all rows that remain are left out; then no further part is needed.
            if first_batch is None or (output.complete_parts and not first_batch.batch.rows):
                break
            schema = schema or _output_schema(first_batch, columns)
            with output.writing_part(schema) as writer:
                counts = RowCounts(np.zeros_like(total.ids_S3))
                input_batch: InputBatch | None = first_batch
                while input_batch is not None:
                    _write(input_batch, context, columns, counter, writer, counts)
                    position = input_batch.next_position
                    advance(position)
                    input_batch = next(part_batches, None)
                ids = dict(zip(names, counts.ids_S3.tolist(), strict=True))
                writer.finish(PartNote(position, counts.rows, ids, counts.clipped))
            total.add(counts.ids_S3, counts.clipped, counts.rows)
    source.check_unchanged()
    seconds = time.perf_counter() - started
    summary = {
        "rows": total.rows,
        "rows_left_out": source.rows - total.rows,
        "parts": len(output.complete_parts),
        "rows_predicted_now": total.rows - rows_before,
        "seconds": seconds,
        "rows_per_second": (total.rows - rows_before) / max(seconds, 1e-9),
        "device": str(device),
        "ids": compute_shares(names, total.ids_S3),
        "clipped": {name: count / max(total.rows, 1) for name, count in total.clipped.items()},
    }
    output.finish(summary)
    return summary


def _output_schema(input_batch: InputBatch, columns: PredictionColumns) -> pa.Schema:
    """Return the schema of the output. Dictionary columns get their value type, since dictionaries differ by part."""
    ids = []
    for column in _id_columns(input_batch, columns).schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        ids.append(pa.field(column.name, kind))
    tasks = [pa.field(name, pa.float32()) for name in columns.names]
    return pa.schema([*ids, *tasks, pa.field(SCORE, pa.float64())])


def _id_columns(input_batch: InputBatch, columns: PredictionColumns) -> pa.Table:
    """Return the id columns of the output; a column with the name of a prediction is renamed to `input_<name>`.

    Raises:
        UserError: Two columns then have the same name.
    """
    table = input_batch.id_columns()
    names = [f"input_{name}" if name in (*columns.names, SCORE) else name for name in table.column_names]
    if duplicates := [name for name in names if names.count(name) > 1]:
        rule = f"a column with the name of a prediction is renamed to {duplicates[0]}"
        raise UserError(Option.IDS, f'got "{duplicates[0]}"', rule, "leave one of the two out")
    return table.rename_columns(names)


def _write(
    input_batch: InputBatch,
    context: EvaluationContext,
    columns: PredictionColumns,
    counter: IdCounter,
    writer: PartWriter,
    counts: RowCounts,
) -> None:
    """Predict a batch, write its rows to a part, and add its counts."""
    if not input_batch.batch.rows:
        return
    logits_BK = context.model(input_batch.batch.to(context.ranks.device))[0]
    predictions, clipped = columns.from_logits(input_batch, logits_BK)
    ids = _id_columns(input_batch, columns)
    writer.write(pa.table(dict(zip(ids.column_names, ids.columns, strict=True)) | predictions))
    ids_S3 = sum(counter.count(chunk.columns, chunk.missing, start, stop) for chunk, start, stop in input_batch.pieces)
    counts.add(np.asarray(ids_S3), clipped, input_batch.batch.rows)
