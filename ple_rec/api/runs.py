"""What comes of a training: `load_run` and `Run`."""

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
    check_number,
    check_text,
    errors_name_arguments,
    override_texts,
    path_of,
    place_of,
    source_of_logs,
)
from ple_rec.api.datasets import Dataset, open_dataset
from ple_rec.api.frames import Reads, write_rows
from ple_rec.api.html import Page, block, line, shown_path
from ple_rec.api.models import Model, load_model
from ple_rec.api.predictions import PredictOptions, ids_and_tasks, predict_run, with_labels
from ple_rec.api.results import Gates, Metrics, history_of, metrics_tables
from ple_rec.api.torch_state import torch_undisturbed
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.storage import Location, is_address, location
from ple_rec.text.messages import messages

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from ple_rec.config.choices import AskedPrecision, TablePrecision
    from ple_rec.config.schema import Task
    from ple_rec.runs.record import RunRecord, Status

_ROWS = "rows.parquet"  # a table in memory, as a file of raw logs


class Run:
    """A training run in its directory, finished or not. `train` and `load_run` make it.

    It holds no model in memory: each method reads what it needs, and lets it go.

    Attributes:
        path: The run directory.
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
        """Configuration that the run was trained with."""
        from ple_rec.config.load import load_config
        from ple_rec.runs.layout import CONFIG

        return load_config(RunConfig, self.path / CONFIG)

    @property
    def status(self) -> Status:
        """How far it is: "finished", "running" in some process, "interrupted" or "failed to start".

        Raises:
            UserError: its directory is gone.
        """
        return self._record().status

    @property
    @errors_name_arguments
    def dataset(self) -> Dataset:
        """Dataset that the run was trained on.

        Raises:
            UserError: another one lies there now.
        """
        from ple_rec.runs.record import read_record

        dataset = open_dataset(self.config.data.path)
        trained_on = read_record(self.path).metrics.get("dataset_fingerprint")
        if trained_on is not None and trained_on not in dataset.schema.lineage():
            rule = f"{shown_path(self.path)} was trained on dataset {trained_on}, whose ids mean something else"
            fix = "put that dataset back; `ple_rec.open_dataset` opens the one that is there"
            raise UserError(shown_path(dataset.path), f"is dataset {dataset.fingerprint}", rule, fix)
        return dataset

    @property
    @errors_name_arguments
    def metrics(self) -> Metrics:
        """Final metrics of the best checkpoint on the splits of `evaluation`, and how the run went: `metrics.json`.

        Raises:
            UserError: the run has not finished.
            DataError: the file is damaged.
        """
        from ple_rec.runs.layout import METRICS

        record, place = self._record(), shown_path(self.path / METRICS)
        if METRICS in record.damaged:
            raise DataError(place, "damaged", "it is JSON", "call `run.evaluate(split)`, which computes them anew")
        if not record.metrics:
            fix = "wait for its end" if record.status == "running" else "train it again with resume=True"
            raise UserError(place, f"the run is {record.status}", "a finished run has metrics", fix)
        return Metrics(record.metrics)

    @property
    def history(self) -> pa.Table:
        """Log of the training, a row for each record: of split "train" over the steps since the last one, or "valid".

        Columns: `split`, `step`, `epoch`, `samples`, `seconds`, `loss`, `samples_per_second`, ..., and for each task
        `<task>.loss`, `<task>.auc`, ...; null where a record has no such value.

        Raises:
            UserError: the run directory is gone.
        """
        from ple_rec.runs.layout import LOG

        self._record()
        return history_of(self.path / LOG)

    @errors_name_arguments
    def evaluate(self, split: Split = "test", checkpoint: str = "best", *, overrides: Overrides = ()) -> Metrics:
        """Evaluate a checkpoint, as `ple-rec evaluate` does in one process.

        Args:
            split: "train", "valid" or "test".
            checkpoint: "best", "latest" or "step-<n>".
            overrides: Changes that an evaluation may make: `{"data.path": ...}` for a dataset that descends from the
                run's, `{"evaluation.slices": [...]}`, `{"runtime.device": "cpu"}`.

        Raises:
            UserError: there is no such checkpoint or split, or an override changes what was trained.
            DataError: the checkpoint or the dataset is damaged.
        """
        check_choice("split", split, SPLITS)
        check_text("checkpoint", checkpoint)
        texts = override_texts(overrides)
        with torch_undisturbed():
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
                as a `pyarrow.Table`, a DataFrame, a list of dicts or whatever `pyarrow.table` takes. None for the run's
                dataset. Raw logs go through the expressions and vocabularies of the run's dataset; labels are not
                needed.
            split: Splits of a dataset; None for "test".
            checkpoint: "best", "latest" or "step-<n>".
            ids: Columns of the input to carry along, as it has them; None for the group, and features named like a
                user, video, item or request. One that has the name of a prediction becomes `input_<name>`.
            labels: True to add the labels, which a dataset has and raw logs have not, for a metric of your own.
            source: Folder of the side tables of raw logs; None for the working directory.
            fusion: File of the fusion that makes `score`; None for the run's own, else exponent 1 for every task.
            all_rows: True to keep rows of raw logs that `log.where` leaves out.
            batch_size: Rows of a batch; None for the run's, which gives the bits of an evaluation.
            overrides: Changes that an evaluation may make, such as `{"runtime.device": "cpu"}`.

        Returns:
            A row for each one of the input, in its order: ids, a float32 column for each task (a probability, or the
            prediction of a regression), and `score`, float64, the logarithm of the fused score. With `labels`, a column
            `label_<task>` for each task, and `in_space_<task>` for a task with a sample space: True where the row is
            in it, and its label counts. It is in memory; for more rows than that, `ple-rec predict` writes Parquet.

        Raises:
            UserError: there is no such checkpoint, split or column, or the data is of another dataset.
            DataError: rows that cannot be read, or a damaged checkpoint.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        splits = () if split is None else [split] if isinstance(split, str) else check_list("split", split)
        for each in splits:
            check_choice("split", each, SPLITS)
        check_text("checkpoint", checkpoint)
        texts = override_texts(overrides)
        columns = None if ids is None else check_list("ids", ids)
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder, torch_undisturbed():
            from ple_rec.training.preflight import check_run

            config = check_run(self.path, texts)
            reads = Reads(columns or (), config.data.drop, all_rows)
            options = PredictOptions(
                out=Path(folder) / "predictions",
                data=_input_of(data, Path(folder), location(config.data.path), reads),
                splits=splits,
                source=None if source is None else source_of_logs("source", source),
                checkpoint=checkpoint,
                fusion=None if fusion is None else place_of("fusion", fusion),
                ids=columns,
                all_rows=all_rows,
                batch_size=None if batch_size is None else check_count("batch_size", batch_size),
                overrides=texts,
            )
            own_ids: Sequence[str] = ()
            tasks: Sequence[Task] = ()
            if labels:
                own_ids, tasks = ids_and_tasks(config, options)
                of_tasks = (name for task in tasks for name in (task.label, task.space) if name is not None)
                options = replace(options, ids=list(dict.fromkeys([*own_ids, *of_tasks])))
            try:
                predictions = predict_run(self.path, options, notes=False)
            except PleRecError as error:  # of a table in memory, callers know no file
                rows = str(Path(folder) / _ROWS)
                raise error.reworded(lambda part: part.replace(rows, "the table")) from error.__cause__
            tables = [pq.read_table(str(file), memory_map=False) for file in predictions.parts]
            table = pa.concat_tables(tables).replace_schema_metadata()
            return with_labels(table, own_ids, options.ids or (), tasks) if labels else table

    @errors_name_arguments
    def embeddings(self, table: str, *, checkpoint: str = "best") -> tuple[pa.Array, NDArray[np.float32]]:
        """Return the embeddings of a table: what the model has learnt of each user, video, ...

        Args:
            table: Table, or a sparse feature that reads it.
            checkpoint: "best", "latest" or "step-<n>".

        Returns:
            N raw ids, as the logs have them, and their embeddings, float32 (N, D), in the same order. Ids that training
            saw too rarely to give them a row are not among them. Of a table without a vocabulary, such as that of a
            feature in buckets, ids are the numbers of its rows, from 1.

        Raises:
            UserError: the run reads no such table, or there is no such checkpoint.
            DataError: the checkpoint or the vocabulary is damaged.
        """
        check_text("table", table)
        check_text("checkpoint", checkpoint)
        overrides = ["runtime.device=cpu"]  # one table is read, and nothing computed
        with torch_undisturbed():
            from ple_rec.data.vocabulary_index import raw_ids
            from ple_rec.training.preflight import check_run
            from ple_rec.training.trained import table_rows

            config = check_run(self.path, overrides)
            schema = self.dataset.schema
            of_feature = {each.name: each.table for each in schema.sparse}
            known = {each.name: each for each in schema.tables}
            name = table if table in known else of_feature.get(table, table)
            rows_RD = table_rows(config, self.path, checkpoint, name)
            ids = raw_ids(location(config.data.path), known[name])
            return ids, rows_RD[1 : 1 + len(ids)].numpy().copy()

    @errors_name_arguments
    def gates(self, split: Split = "test") -> Gates:
        """Return how much each gate takes of each expert, over a split; it is evaluated unless the run did so.

        Args:
            split: "train", "valid" or "test".

        Raises:
            UserError: the run has no checkpoint, or its dataset no such split.
        """
        from ple_rec.analysis.utilisation import recorded_gates, utilisation
        from ple_rec.runs.record import read_record
        from ple_rec.runs.results import split_tasks

        check_choice("split", split, SPLITS)
        metrics: Mapping[str, Any] = read_record(self.path).metrics
        if split not in metrics:
            metrics = self.evaluate(split)
        return Gates(split, utilisation(recorded_gates(metrics, split), list(split_tasks(metrics, split))).gates)

    @errors_name_arguments
    def report(self) -> Page:
        """Write `report.html` of the run, finished or not, and return the page.

        Raises:
            UserError: the page cannot be written.
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
        overrides: Overrides = (),
    ) -> Model:
        """Write a self-contained model, check it against the run, and load it, as `ple-rec export` does.

        Args:
            out: Folder of the model's versions, new or not, or an address such as "s3://bucket/model"; its `latest`
                will name the new one.
            precision: Precision of the tables: "fp32", "fp16", "int8" or "int4".
            dense: Precision of matrix products when it serves: "fp32", "bf16" or "auto".
            fusion: File of the fusion of the score; None for the run's own, else exponent 1 for every task.
            user_features: Features that the items of a request share; None for `data.request_features`, else those
                that are constant within the groups of the held-out rows.
            checkpoint: "best", "latest" or "step-<n>".
            version: Name of the version, "v<N>"; None for the one after the last.
            licence: Line of the model card.
            examples: Number of held-out users whose rows the model shall hold; they are real data.
            onnx: True to write the dense program as ONNX too.
            tolerance: Largest difference of a score from the run's; None for that of the precisions.
            auc_loss: Largest loss of AUC; None for that of the precisions.
            overrides: Changes that an evaluation may make.

        Raises:
            UserError: the run has not finished, what is wanted does not fit it, or scores differ by too much.
            DataError: a damaged checkpoint or dataset.
        """
        from ple_rec.inference.export_options import ExportOptions
        from ple_rec.inference.model_dir import check_out

        folder = place_of("out", out)
        check_choice("precision", precision, ("fp32", "fp16", "int8", "int4"))
        check_choice("dense", dense, ("fp32", "bf16", "auto"))
        for name, text in (("checkpoint", checkpoint), ("version", version), ("licence", licence)):
            if text is not None:
                check_text(name, text)
        options = ExportOptions(
            precision=precision,
            dense=dense,
            fusion=None if fusion is None else place_of("fusion", fusion),
            user_features=None if user_features is None else check_list("user_features", user_features),
            checkpoint=checkpoint,
            version=version,
            licence=licence,
            onnx=onnx,
            tolerance=None if tolerance is None else check_number("tolerance", tolerance),
            auc_loss=None if auc_loss is None else check_number("auc_loss", auc_loss),
            examples=check_count("examples", examples, 0),
        )
        check_out(folder)
        with torch_undisturbed(), messages():
            from ple_rec.analysis.finished import finished_run
            from ple_rec.inference.export import export
            from ple_rec.training.trained import single_process_config

            config, metrics = finished_run(self.path, override_texts(overrides))
            with messages("stderr"):
                done = export(single_process_config(config, metrics), metrics, self.path, folder, options)
        return load_model(str(done.version))

    def _record(self) -> RunRecord:
        """Return what the directory says of the run.

        Raises:
            UserError: it is gone.
        """
        from ple_rec.runs.record import read_record

        if not self.path.is_dir():
            raise UserError(str(self.path), "no such directory", "a run is read there", "load it where it is now")
        return read_record(self.path)

    def _shown(self) -> tuple[RunRecord, str]:
        """Return what the directory says, and the status in words; nothing raises, for a notebook shows it."""
        from ple_rec.runs.record import read_record

        record = read_record(self.path)
        damaged = f", but {' and '.join(record.damaged)} is damaged" if record.damaged else ""
        return record, f"{record.status}{damaged}" if self.path.is_dir() else "its directory is gone"

    def __repr__(self) -> str:
        """Return place and status, and the metrics of a run that has finished."""
        record, status = self._shown()
        text = f"Run({shown_path(self.path)!r}: {status})"
        return f"{text}\n{Metrics(record.metrics)!r}" if record.metrics else text

    def _repr_html_(self) -> str:
        record, status = self._shown()
        steps = "" if record.step is None else f"step {record.step:,}"
        rate = record.samples_per_second
        speed = "" if rate is None else f"{rate:,.0f} samples/s"
        head = line(self.name, status, record.variant or "", steps, speed, shown_path(self.path))
        return block(head, *metrics_tables(Metrics(record.metrics)))


@errors_name_arguments
def load_run(path: PathLike) -> Run:
    """Open a run directory.

    Args:
        path: The directory, or its name under `runs/`.

    Raises:
        UserError: there is no such run.
    """
    from ple_rec.inference.model_dir import check_no_model
    from ple_rec.runs.find import named_run

    text = str(place_of("path", path))
    check_no_model(text)
    return Run(named_run(text))


def _input_of(data: object, folder: Path, dataset: Location, reads: Reads) -> str | None:
    """Return the path of what is to be predicted; rows in memory are written to a folder first.

    Args:
        data: Argument of `Run.predict`.
        folder: Folder for the file of rows in memory.
        dataset: Directory of the dataset that the model was trained on.
        reads: Columns that the prediction reads.
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
        return str(path_of("data", data))
    write_rows(data, folder / _ROWS, dataset, reads)
    return str(folder / _ROWS)
