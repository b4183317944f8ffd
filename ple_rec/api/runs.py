"""Training run in its directory: `load_run` and `Run`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_choice,
    check_count,
    check_list,
    check_location,
    check_log_source,
    check_number,
    check_path,
    check_text,
    errors_name_arguments,
    override_texts,
)
from ple_rec.api.datasets import Dataset, open_dataset
from ple_rec.api.frames import ColumnSelection, write_rows
from ple_rec.api.html import Page, block, display_path, line
from ple_rec.api.models import Model, load_model
from ple_rec.api.predictions import PredictOptions, ids_and_tasks, predict_run, with_labels
from ple_rec.api.results import Gates, Metrics, metrics_tables, read_history
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.storage import Location, is_address, location
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from ple_rec.config.choices import AskedPrecision, TablePrecision
    from ple_rec.config.schema import Task
    from ple_rec.runs.record import RunRecord, Status

# Name of the temporary file to which `Run.predict` writes rows in memory, to read them as raw logs.
_ROWS_FILE = "rows.parquet"


class Run:
    """Training run in its directory, finished or not. `train` and `load_run` make it.

    A run keeps no model in memory; each method reads from the directory whatever it needs.

    Attributes:
        path: Path of the run directory.
    """

    path: Location

    def __init__(self, path: Location) -> None:
        self.path = path.absolute()

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return self.path.name

    @property
    @errors_name_arguments
    def config(self) -> RunConfig:
        """Configuration of the run."""
        from ple_rec.config.load import load_config
        from ple_rec.runs.layout import CONFIG

        return load_config(RunConfig, self.path / CONFIG)

    @property
    def status(self) -> Status:
        """State of the run: "finished", "running" in some process, "interrupted" or "failed to start".

        Raises:
            UserError: The run directory is gone.
        """
        return self._record().status

    @property
    @errors_name_arguments
    def dataset(self) -> Dataset:
        """Dataset that the run was trained on.

        Raises:
            UserError: The dataset is gone, or another one has taken its place.
            DataError: The dataset is damaged.
        """
        from ple_rec.runs.record import read_record

        dataset = open_dataset(self.config.data.path)
        trained_on = read_record(self.path).metrics.get("dataset_fingerprint")
        if trained_on is not None and trained_on not in dataset.schema.lineage():
            rule = f"{display_path(self.path)} was trained on dataset {trained_on}, whose ids mean something else"
            fix = "put that dataset back; `ple_rec.open_dataset` opens the one that is there"
            raise UserError(display_path(dataset.path), f"is dataset {dataset.fingerprint}", rule, fix)
        return dataset

    @property
    @errors_name_arguments
    def metrics(self) -> Metrics:
        """Content of `metrics.json`: metrics of the best checkpoint on the `evaluation.splits`, steps and times.

        Raises:
            UserError: The run has not finished.
            DataError: The file is damaged.
        """
        from ple_rec.runs.layout import METRICS

        record, place = self._record(), display_path(self.path / METRICS)
        if METRICS in record.damaged:
            raise DataError(place, "damaged", "it is JSON", "call `run.evaluate(split)`, which computes them anew")
        if not record.metrics:
            fix = "wait for its end" if record.status == "running" else "train it again with resume=True"
            raise UserError(place, f"the run is {record.status}", "a finished run has metrics", fix)
        return Metrics(record.metrics)

    @property
    def history(self) -> pa.Table:
        """Log of the training with a row for each record.

        A record of split "train" covers the steps since the record before; a record of "valid" is an evaluation. The
        columns are `split`, `step`, `epoch`, `samples`, `seconds`, `loss`, `samples_per_second`, ..., and for each task
        `<task>.loss`, `<task>.auc`, ... A value that a record lacks is null.

        Raises:
            UserError: The run directory is gone.
        """
        self._record()
        return read_history(self.path)

    @errors_name_arguments
    def evaluate(self, split: Split = "test", checkpoint: str = "best", *, overrides: Overrides = ()) -> Metrics:
        """Evaluate a checkpoint, as `ple-rec evaluate` does in one process.

        Args:
            split: Split to evaluate: "train", "valid" or "test".
            checkpoint: Name of the checkpoint: "best", "latest" or "step-<n>".
            overrides: Changes of configuration keys that an evaluation may change, such as `{"runtime.device": "cpu"}`,
                `{"evaluation.slices": [...]}`, or `{"data.path": ...}` for a dataset that descends from the run's.

        Raises:
            UserError: There is no such checkpoint or split, or an override contradicts the training.
            DataError: The checkpoint or the dataset is damaged.
        """
        check_choice("split", split, SPLITS)
        check_text("checkpoint", checkpoint)
        texts = override_texts(overrides)
        with preserve_torch_state():
            from ple_rec.training.run import evaluate_run

            return Metrics(evaluate_run(self.path, splits=[split], checkpoint=checkpoint, overrides=texts))

    @errors_name_arguments
    def predict(
        self,
        data: Dataset | PathLike | pa.Table | Any | None = None,
        split: Split | Sequence[Split] | None = None,
        *,
        checkpoint: str = "best",
        ids: Sequence[str] | None = None,
        no_group: bool = False,
        labels: bool = False,
        source: PathLike | None = None,
        fusion: PathLike | None = None,
        all_rows: bool = False,
        batch_size: int | None = None,
        overrides: Overrides = (),
    ) -> pa.Table:
        """Predict every row of a dataset or of raw logs, as `ple-rec predict` does.

        Args:
            data: Dataset, or the path of its directory; raw logs as a file, a folder or a glob of Parquet or CSV, or
                as a `pyarrow.Table`, a DataFrame, a list of dicts or anything else that `pyarrow.table` takes. None for
                the run's dataset. Raw logs go through the expressions and vocabularies of the run's dataset, and need
                no labels.
            split: Split or splits of a dataset; None for "test".
            checkpoint: Name of the checkpoint: "best", "latest" or "step-<n>".
            ids: Columns of the input to copy to the output unchanged, after the group; None for the features named like
                a user, video, photo, item, ad or request (`user`, `user_id`, ...). A column with the name of a
                prediction is renamed to `input_<name>`.
            no_group: True to leave out the group, such as the user. Otherwise it is copied, unless raw logs lack it.
            labels: True to add the labels, for metrics of your own. A dataset has labels, raw logs have none.
            source: Folder of the side tables, with which raw logs are joined; None for the working directory.
            fusion: TOML file with the exponents of the fused score; None for that of the run, or exponent 1 for every
                task if the run has none.
            all_rows: True to predict also the rows of raw logs that `log.where` leaves out.
            batch_size: Number of rows of a batch; None for that of the run, with which predictions are identical to the
                bit with those of an evaluation.
            overrides: Changes of configuration keys that an evaluation may change, such as `{"runtime.device": "cpu"}`.

        Returns:
            A row for each row of the input, in the same order: ids, a float32 column for each task (a probability, or
            the prediction of a regression), and `score`, float64, the logarithm of the fused score. With several
            splits, there is a column `split`. With `labels`, there is a column `label_<task>` for each task, and
            `in_space_<task>` for a task with a sample space, True if the row is in the space, so that its label counts.
            The table is in memory; `ple-rec predict` writes Parquet files for more rows than fit.

        Raises:
            UserError: There is no such checkpoint, split or column, or the data is of another dataset.
            DataError: Rows cannot be read, or the checkpoint is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        splits = () if split is None else [split] if isinstance(split, str) else check_list("split", split)
        for each in splits:
            check_choice("split", each, SPLITS)
        check_text("checkpoint", checkpoint)
        texts = override_texts(overrides)
        columns = None if ids is None else check_list("ids", ids)
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder, preserve_torch_state():
            from ple_rec.training.preflight import load_run_config

            config = load_run_config(self.path, texts)
            selection = ColumnSelection(columns or (), config.data.drop, all_rows)
            options = PredictOptions(
                out=Path(folder) / "predictions",
                data=_prediction_input(data, Path(folder), location(config.data.path), selection),
                splits=splits,
                source=None if source is None else check_log_source("source", source),
                checkpoint=checkpoint,
                fusion=None if fusion is None else check_location("fusion", fusion),
                ids=columns,
                no_group=no_group,
                all_rows=all_rows,
                batch_size=None if batch_size is None else check_count("batch_size", batch_size),
                overrides=texts,
            )
            own_ids: Sequence[str] = ()
            tasks: Sequence[Task] = ()
            if labels:
                own_ids, tasks = ids_and_tasks(config, options)
                label_columns = (name for task in tasks for name in (task.label, task.space) if name is not None)
                options = replace(options, ids=list(dict.fromkeys([*own_ids, *label_columns])), no_group=True)
            try:
                predictions = predict_run(self.path, options, notes=False)
            # Rows in memory are read from a temporary file, which means nothing to the caller.
            except PleRecError as error:
                rows = str(Path(folder) / _ROWS_FILE)
                raise error.reworded(lambda part: part.replace(rows, "the table")) from error.__cause__
            tables = [pq.read_table(str(file), memory_map=False) for file in predictions.parts]
            table = pa.concat_tables(tables).replace_schema_metadata()
            return with_labels(table, own_ids, options.ids or (), tasks) if labels else table

    @errors_name_arguments
    def embeddings(self, table: str, *, checkpoint: str = "best") -> tuple[pa.Array, NDArray[np.float32]]:
        """Return the trained embeddings of a table, such as those of users or videos.

        Args:
            table: Name of the table, or of a sparse feature that reads it.
            checkpoint: Name of the checkpoint: "best", "latest" or "step-<n>".

        Returns:
            N raw ids of the logs, and their embeddings, float32 (N, D), in the same order. Ids that are too rare to
            have a row of their own are missing, as are rows of ids that have expired, and row 0, which is for missing
            and unknown ids. For a table without
            a vocabulary, such as that of a feature in buckets, the ids are row numbers from 1.

        Raises:
            UserError: The run reads no such table, or there is no such checkpoint.
            DataError: The checkpoint or the vocabulary is damaged.
        """
        check_text("table", table)
        check_text("checkpoint", checkpoint)
        # One table is read and nothing is computed, so no GPU is needed.
        overrides = ["runtime.device=cpu"]
        with preserve_torch_state():
            from ple_rec.data.vocabulary_index import raw_ids
            from ple_rec.training.preflight import load_run_config
            from ple_rec.training.trained import load_table_rows

            config = load_run_config(self.path, overrides)
            schema = self.dataset.schema
            table_of_feature = {each.name: each.table for each in schema.sparse}
            tables = {each.name: each for each in schema.tables}
            name = table if table in tables else table_of_feature.get(table, table)
            # The R rows are row 0, those of the N ids, and rows that are allocated but not used.
            rows_RD = load_table_rows(config, self.path, checkpoint, name)
            ids = raw_ids(location(config.data.path), tables[name])
            embeddings_RD = rows_RD[1 : 1 + len(ids)].numpy().copy()
            in_use_R = ids.is_valid()
            return ids.filter(in_use_R), embeddings_RD[in_use_R.to_numpy(zero_copy_only=False)]

    @errors_name_arguments
    def gates(self, split: Split = "test") -> Gates:
        """Return the mean weight of each expert in each gate over a split.

        If the metrics of the run lack the split, its best checkpoint is evaluated on it first.

        Args:
            split: Split to average over: "train", "valid" or "test".

        Raises:
            UserError: The run has no checkpoint, or its dataset no such split.
            DataError: The checkpoint or the dataset is damaged.
        """
        from ple_rec.analysis.utilisation import compute_utilisation, read_gate_levels
        from ple_rec.runs.metrics import split_tasks
        from ple_rec.runs.record import read_record

        check_choice("split", split, SPLITS)
        metrics: Mapping[str, Any] = read_record(self.path).metrics
        if split not in metrics:
            metrics = self.evaluate(split)
        return Gates(
            split, compute_utilisation(read_gate_levels(metrics, split), list(split_tasks(metrics, split))).gates
        )

    @errors_name_arguments
    def report(self) -> Page:
        """Write `report.html` of the run, finished or not, and return the page.

        Raises:
            UserError: The page cannot be written.
        """
        from ple_rec.reports.run.page import write_report
        from ple_rec.runs.directory import hold_to_add

        with hold_to_add(self.path):
            return Page(write_report(self.path))

    @errors_name_arguments
    def export(
        self,
        out: PathLike,
        *,
        precision: TablePrecision = "fp32",
        dense: AskedPrecision = "fp32",
        fusion: PathLike | None = None,
        user_features: Sequence[str] | None = None,
        checkpoint: str = "best",
        version: str | None = None,
        licence: str | None = None,
        examples: int = 0,
        onnx: bool = False,
        tolerance: float | None = None,
        auc_loss: float | None = None,
        tables: Sequence[str] = (),
        source: PathLike | None = None,
        delta: str | None = None,
        delta_share: float = 0.25,
        overrides: Overrides = (),
    ) -> Model:
        """Write a self-contained model, check it against the run, and load it, as `ple-rec export` does.

        Args:
            out: Folder of the model's versions, or its address, such as "s3://bucket/model". It is created if it does
                not exist; its `latest` will name the new version.
            precision: Precision of the tables: "fp32", "fp16", "int8" or "int4".
            dense: Precision of matrix products in serving: "fp32", "bf16" or "auto".
            fusion: TOML file with the exponents of the fused score; None for that of the run, or exponent 1 for every
                task if the run has none.
            user_features: Features that the items of a request share; None for `data.request_features`, or if there are
                none, for those that are constant within the groups of the held-out rows.
            checkpoint: Name of the checkpoint: "best", "latest" or "step-<n>".
            version: Name of the version, "v<N>"; None for the one after the last.
            licence: Licence of the model, for the model card; None if it is not stated.
            examples: Number of held-out users whose rows, which are real data, are stored with the model.
            onnx: True to write the dense part of the model as ONNX, too.
            tolerance: Largest allowed difference of a score from that of the run; None for the default of `precision`
                and `dense`.
            auc_loss: Largest allowed loss of AUC; None for the default of `precision` and `dense`.
            tables: Names of the side tables of `prep.toml` that are published with the model, so that requests may have
                keys in place of their columns.
            source: Folder of the raw files of the side tables; None without `tables`.
            delta: Name of the version from which the new one differs: only the rows, ids and layers that have changed
                are written, which needs int8 or int4. None for a whole version.
            delta_share: Largest number of bytes that a server may hold of all deltas since the last whole version, as a
                share of the bytes of its tables and vocabularies.
            overrides: Changes of configuration keys that an evaluation may change.

        Raises:
            UserError: The run has not finished, an argument does not fit it, scores differ too much, or more has
                changed than `delta_share` allows.
            DataError: The checkpoint or the dataset is damaged.
        """
        from ple_rec.inference.export_options import ExportOptions
        from ple_rec.inference.model_dir import check_model_dir

        folder = check_location("out", out)
        check_choice("precision", precision, ("fp32", "fp16", "int8", "int4"))
        check_choice("dense", dense, ("fp32", "bf16", "auto"))
        texts = {"checkpoint": checkpoint, "version": version, "licence": licence, "delta": delta}
        for name, text in texts.items():
            if text is not None:
                check_text(name, text)
        options = ExportOptions(
            precision=precision,
            dense=dense,
            fusion=None if fusion is None else check_location("fusion", fusion),
            user_features=None if user_features is None else check_list("user_features", user_features),
            checkpoint=checkpoint,
            version=version,
            licence=licence,
            onnx=onnx,
            tolerance=None if tolerance is None else check_number("tolerance", tolerance),
            auc_loss=None if auc_loss is None else check_number("auc_loss", auc_loss),
            examples=check_count("examples", examples, 0),
            tables=tuple(check_list("tables", tables)),
            source=None if source is None else str(check_location("source", source)),
            delta=delta,
            delta_share=check_number("delta_share", delta_share),
        )
        options.check_delta_share()
        check_model_dir(folder)
        with preserve_torch_state(), print_messages():
            from data_prep.inputs.raw_form import build_raw_form
            from data_prep.inputs.side_tables import read_side_table
            from ple_rec.analysis.finished import load_finished_run
            from ple_rec.inference.export import export
            from ple_rec.training.trained import single_process_config

            config, metrics = load_finished_run(self.path, override_texts(overrides))
            with print_messages("stderr"):
                single_process = single_process_config(config, metrics)
                done = export(single_process, metrics, self.path, folder, options, build_raw_form, read_side_table)
        return load_model(str(done.version))

    def _record(self) -> RunRecord:
        """Return the record of the run from its directory.

        Raises:
            UserError: The directory is gone.
        """
        from ple_rec.runs.record import read_record

        if not self.path.is_dir():
            raise UserError(str(self.path), "no such directory", "the run is read from it", "load it where it is now")
        return read_record(self.path)

    def _record_and_status(self) -> tuple[RunRecord, str]:
        """Return the record and a text about the status, without an error if the run directory is gone or damaged.

        A notebook can therefore always show the run.
        """
        from ple_rec.runs.record import read_record

        record = read_record(self.path)
        damaged = f", but {' and '.join(record.damaged)} is damaged" if record.damaged else ""
        return record, f"{record.status}{damaged}" if self.path.is_dir() else "its directory is gone"

    def __repr__(self) -> str:
        """Return the path and the status, and the metrics of a finished run."""
        record, status = self._record_and_status()
        text = f"Run({display_path(self.path)!r}: {status})"
        return f"{text}\n{Metrics(record.metrics)!r}" if record.metrics else text

    def _repr_html_(self) -> str:
        record, status = self._record_and_status()
        steps = "" if record.step is None else f"step {record.step:,}"
        rate = record.samples_per_second
        speed = "" if rate is None else f"{rate:,.0f} samples/s"
        head = line(self.name, status, record.variant or "", steps, speed, display_path(self.path))
        return block(head, *metrics_tables(Metrics(record.metrics)))


@errors_name_arguments
def load_run(path: PathLike) -> Run:
    """Open a run directory.

    Args:
        path: Path of the directory, its address in a store, or its name under `runs/`.

    Raises:
        UserError: There is no such run, or its store cannot be read.
    """
    from ple_rec.inference.model_dir import refuse_exported_model
    from ple_rec.runs.find import find_run

    text = str(check_location("path", path))
    refuse_exported_model(text)
    return Run(find_run(text))


def _prediction_input(data: object, folder: Path, dataset: Location, selection: ColumnSelection) -> str | None:
    """Return the path or address of the input of a prediction, or None for the run's dataset.

    Rows in memory are written to a file.

    Args:
        data: Argument of `Run.predict`.
        folder: Folder for the file of rows in memory.
        dataset: Directory of the dataset that the model was trained on.
        selection: Choice of the columns that the prediction reads.

    Raises:
        UserError: The argument is the name of a split, or is neither a path, nor an address, nor rows.
    """
    if data is None:
        return None
    if isinstance(data, Dataset):
        return str(data.path)
    if isinstance(data, str) and data in SPLITS and not Path(data).exists():
        raise UserError("data", f"got {data!r}", "a split is an argument of its own", f"give split={data!r}")
    if isinstance(data, str) and is_address(data):
        return data
    if isinstance(data, str | os.PathLike):
        return str(check_path("data", data))
    write_rows(data, folder / _ROWS_FILE, dataset, selection)
    return str(folder / _ROWS_FILE)
