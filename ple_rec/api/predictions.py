"""Prediction of every row of a dataset or of raw logs, for `ple-rec predict` and `Run.predict`.

`predict_run` writes Parquet files to a directory. It connects the preparation of raw logs (`data_prep`) with the model
(`ple_rec.inference`), neither of which imports the other. `with_labels` adds labels to predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ple_rec.errors import Option, UserError
from ple_rec.storage import Location, explain_errors, is_address, location

if TYPE_CHECKING:
    import pyarrow as pa

    from data_prep.progress import Progress
    from ple_rec.config.prep import PrepConfig
    from ple_rec.config.run import RunConfig
    from ple_rec.config.schema import Task
    from ple_rec.data.columns import Selection
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.inference.predict.inputs import PredictionInput
    from ple_rec.inference.predict.output import Output
    from ple_rec.inference.predict.score import PredictionColumns


def ids_and_tasks(config: RunConfig, options: PredictOptions) -> tuple[Sequence[str], Sequence[Task]]:
    """Return what a prediction with labels needs: names of the columns to copy to the output, and tasks of the run.

    `Run.predict(labels=True)` calls this, and `with_labels` adds the labels of these tasks.

    Args:
        config: Configuration of the run.
        options: Options of the prediction.

    Raises:
        UserError: The input is raw logs, whose labels are not computed.
    """
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.inference.predict.inputs import output_ids
    from ple_rec.training.checks import select_run_columns

    if options.is_raw:
        fix = 'prepare the logs and give the dataset, or copy columns of the logs by ids, such as ids=["clicked"]'
        raise UserError("labels", "got True for raw logs", "a prediction of raw logs computes no labels", fix)
    dataset = DatasetDirectory(options.data or config.data.path)
    return output_ids(dataset.schema, options.ids, no_group=options.no_group), select_run_columns(config, dataset).tasks


def with_labels(table: pa.Table, ids: Sequence[str], carried: Sequence[str], tasks: Sequence[Task]) -> pa.Table:
    """Return predictions followed by the columns `label_<task>`, and `in_space_<task>` for tasks with a sample space.

    Copied columns that the caller has not asked for are dropped, and a column that `ids` names is not added again.

    Args:
        table: Predictions, whose first columns are those of `carried`.
        ids: Names of the columns that the caller has asked to copy from the input.
        carried: Names of all columns that were copied from the input: `ids`, then those of labels and sample spaces.
        tasks: Tasks of the run.
    """
    columns = {name: table.column(i) for i, name in enumerate(carried)}
    table = table.select([i for i in range(table.num_columns) if not len(ids) <= i < len(carried)])
    for task in tasks:
        named = {f"label_{task.name}": columns[task.label]}
        if task.space is not None:
            named[f"in_space_{task.name}"] = columns[task.space].cast("bool")
        for name, column in named.items():
            if name not in ids:
                table = table.append_column(name, column)
    return table


# Defaults of `PredictOptions.memory` in bytes, and of `PredictOptions.part_rows`.
MEMORY = 2 << 30
PART_ROWS = 1 << 20


@dataclass(frozen=True)
class PredictOptions:
    """Input, model and output of a prediction.

    Args:
        out: Directory of the predictions, or its address.
        data: Dataset directory or raw logs; None for the run's dataset.
        splits: Splits of a dataset to predict; empty for `test`.
        source: Folder of the files that raw logs are joined with (side tables); None for the working directory.
        checkpoint: Name of the checkpoint: `best`, `latest` or `step-<n>`.
        fusion: TOML file with the exponents of the fused score; None for that of the run, or exponent 1 for every task
            if the run has none.
        ids: Columns of the input to copy to the output, after the group; None for the features with one value and a
            name like `user_id`, `video` or `request`.
        no_group: True to leave out the group, such as the user. Otherwise it is copied, unless raw logs lack it.
        all_rows: True to predict also the rows of raw logs that `log.where` leaves out.
        batch_size: Number of rows of a batch; None for that of the run, with which predictions are bit-identical to
            those of an evaluation.
        part_rows: Largest number of rows of an output file.
        memory: Approximate number of bytes for the engine that reads raw logs.
        overwrite: True to replace predictions of another input or model.
        overrides: Texts `key=value` for configuration keys that an evaluation may change.
    """

    out: Location
    data: str | None = None
    splits: Sequence[Literal["train", "valid", "test"]] = ()
    source: str | None = None
    checkpoint: str = "best"
    fusion: Location | None = None
    ids: Sequence[str] | None = None
    no_group: bool = False
    all_rows: bool = False
    batch_size: int | None = None
    part_rows: int = PART_ROWS
    memory: int = MEMORY
    overwrite: bool = False
    overrides: Sequence[str] = ()

    @property
    def is_raw(self) -> bool:
        """True if the input is raw logs."""
        return self.data is not None and not _is_dataset(self.data)

    def check(self) -> None:
        """Refuse options that contradict each other, without importing torch.

        Raises:
            UserError: An option does not fit the kind of the input.
        """
        if self.is_raw:
            _check_no_split(str(self.data))
        if self.is_raw and self.splits:
            value = f"{self.data} are raw logs"
            raise UserError(Option.SPLIT, value, "a dataset directory has splits", "leave it out")
        raw_only = {Option.SOURCE: self.source is not None, Option.ALL_ROWS: self.all_rows}
        if not self.is_raw and (wrong := [flag for flag, is_set in raw_only.items() if is_set]):
            raise UserError(wrong[0], "the input is a dataset directory", "raw logs take it", "leave it out")


@dataclass(frozen=True)
class Predictions:
    """Predictions that were written to a directory.

    Args:
        summary: Content of `_SUCCESS`.
        fusion_text: Text about the fused score: its file and exponents, or that every exponent is 1.
        input_description: Kind of the input (key `kind`). For raw logs, the key `left_out` has the condition
            `log.where` that rows must meet to be read; None if all rows are read.
        input_rows: Number of rows of the input.
        existed_before: True if the directory had all predictions before the call.
        parts: Files of the predictions, in the order of the input.
    """

    summary: Mapping[str, Any]
    fusion_text: str
    input_description: Mapping[str, Any]
    input_rows: int
    existed_before: bool
    parts: Sequence[Location]


def predict_run(run_dir: Location, options: PredictOptions, *, notes: bool = True) -> Predictions:
    """Write predictions for every row of an input. An interrupted prediction is resumed, a complete one is kept.

    Args:
        run_dir: Directory of the run.
        options: Input, checkpoint and output of the prediction.
        notes: False to print no notes on standard error, only the progress of long steps.

    Raises:
        UserError: Options, run and input do not fit each other.
        DataError: The checkpoint is damaged, or rows cannot be read.
    """
    from data_prep.progress import stderr_progress
    from ple_rec.config.words import toml_value
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.inference.fusion_lookup import find_fusion
    from ple_rec.inference.predict.output import locked_output
    from ple_rec.inference.predict.predict import identify_checkpoint
    from ple_rec.inference.predict.score import PredictionColumns
    from ple_rec.ranking.fusion import exponents_text
    from ple_rec.runs.read import RunFiles
    from ple_rec.training.checks import select_run_columns
    from ple_rec.training.preflight import load_run_config
    from ple_rec.training.trained import find_trained_checkpoint, single_process_config

    options.check()
    overrides = list(options.overrides)
    if options.data is not None and not options.is_raw:
        overrides.append(f"data.path={toml_value(options.data)}")
    config = single_process_config(load_run_config(run_dir, overrides), RunFiles(run_dir).metrics)
    if options.batch_size is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": options.batch_size})})
    dataset = DatasetDirectory(config.data.path)
    # Called for its errors: the checkpoint does not exist or does not fit the dataset.
    find_trained_checkpoint(config, run_dir, options.checkpoint, dataset)
    selection = select_run_columns(config, dataset)
    fusion, file = find_fusion(run_dir, options.fusion, selection)
    fusion_text = "every exponent 1: the run has no fusion"
    if file is not None:
        fusion_text = f"{file}; exponents {exponents_text(fusion)}"
    columns = PredictionColumns(selection.tasks, [feature.name for feature in selection.dense], fusion)
    progress = stderr_progress(run_dir.name, notes=notes)
    progress.say(f"score: {fusion_text}")
    with (
        locked_output(options.out) as output,
        _open_input(options, dataset, selection, output.work, progress) as (source, ids, described),
    ):
        # Description of this prediction. Only a prediction with the same description is resumed.
        head: dict[str, Any] = {
            "format": 1,
            "run": run_dir.name,
            "checkpoint": identify_checkpoint(config, run_dir, options.checkpoint),
            "vocabularies": dataset.schema.fingerprint,
            "input": source.identity() | described,
            "fusion": fusion.model_dump(mode="json"),
            "ids": ids,
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
            "part_rows": options.part_rows,
        }
        output.begin(head, overwrite=options.overwrite)
        summary, existed_before = output.success_record, output.success_record is not None
        if summary is None:
            summary = head | _predict_rest(options, config, dataset, run_dir, source, columns, output, progress)
        parts = [output.part(i) for i in range(len(output.complete_parts))]
        return Predictions(summary, fusion_text, described, source.rows, existed_before, parts)


def _predict_rest(
    options: PredictOptions,
    config: RunConfig,
    dataset: DatasetDirectory,
    run_dir: Location,
    source: PredictionInput,
    columns: PredictionColumns,
    output: Output,
    progress: Progress,
) -> dict[str, Any]:
    """Write the predictions that are missing in the output, and return the summary of `predict`."""
    from ple_rec.inference.predict.predict import predict
    from ple_rec.training.trained import load_trained_weights, open_trained_run

    if output.complete_parts:
        rows = sum(note.rows for note in output.complete_parts)
        progress.say(f"resuming after {len(output.complete_parts)} part(s) with {rows:,} rows")
    with open_trained_run(config, run_dir, options.checkpoint, dataset) as context:
        load_trained_weights(context, run_dir, options.checkpoint)
        with progress.running({"predict": 1.0}, source.rows):
            progress.begin_phase("predict")
            progress.set_done(output.next_position, source.rows)

            def advance(position: int) -> None:
                progress.set_done(position, source.rows)

            return predict(context, source, columns, output, part_rows=options.part_rows, advance=advance)


def _is_dataset(data: str) -> bool:
    """Return True if a dataset directory is at a path or an address; an address may be a pattern of raw logs."""
    if is_address(data) and set(data) & set("*?[]"):
        return False
    folder = location(data)
    with explain_errors(folder):
        return (folder / "schema.toml").is_file()


def _check_no_split(data: str) -> None:
    """Refuse the folder of a split of a prepared dataset, or a Parquet file in that folder, as raw logs."""
    from ple_rec.config.base import SPLITS

    for folder in (data, data.rpartition("/")[0]):
        above, _, name = folder.rpartition("/")
        if name in SPLITS and _is_dataset(above or "."):
            rule = f"its rows are no raw logs; {Option.DATA} takes the dataset, and {Option.SPLIT} one of its splits"
            fix = (
                f"give {Option.DATA.with_value(above or '.', quoted=True)}, "
                f"and {Option.SPLIT.with_value(name, quoted=True)}"
            )
            raise UserError(Option.DATA, f"{data} is a split of a prepared dataset, or lies in one", rule, fix)


def load_preparation(dataset: Location) -> tuple[PrepConfig, str]:
    """Return the configuration with which a dataset was prepared, and the name of its file for messages.

    A dataset that was not prepared from logs has no `prep.toml`. Then each feature is a column of the same name.

    Args:
        dataset: Directory of the dataset.
    """
    from data_prep.inputs.columns import config_from_schema
    from ple_rec.config.load import load_config, load_schema
    from ple_rec.config.prep import PREP_FILE, PrepConfig
    from ple_rec.config.schema import SCHEMA_FILE

    file = dataset / PREP_FILE
    if file.is_file():
        prep: PrepConfig = load_config(PrepConfig, file)
        return prep, str(file)
    return config_from_schema(load_schema(dataset)), str(dataset / SCHEMA_FILE)


@contextmanager
def _open_input(
    options: PredictOptions, dataset: DatasetDirectory, selection: Selection, work: Path, progress: Progress
) -> Iterator[tuple[PredictionInput, list[str], dict[str, Any]]]:
    """Yield the input, the names of its columns that are copied to the output, and its description for the summary.

    Raw logs are read by an engine, whose temporary files are in the folder `work`.
    """
    from ple_rec.inference.predict.inputs import DatasetInput, features_only, output_ids

    inputs = features_only(selection)
    ids = output_ids(dataset.schema, options.ids, no_group=options.no_group)
    if not options.is_raw:
        yield DatasetInput(dataset, inputs, options.splits or ["test"], ids), ids, {"kind": "dataset"}
        return
    from data_prep.inputs.read import InputOptions, open_inputs
    from ple_rec.data.encode import Encoder
    from ple_rec.inference.predict.inputs import RawInput, without_frozen_tables

    prep, place = load_preparation(dataset.path)
    options_of_rows = InputOptions(
        data=str(options.data),
        dataset=dataset.path,
        source=options.source or ".",
        features=tuple(inputs.features()),
        ids=tuple(ids),
        optional_ids=tuple(name for name in ids if name not in (options.ids or ())),
        all_rows=options.all_rows,
        memory=options.memory,
    )
    with open_inputs(prep, place, options_of_rows, work, progress) as rows:
        described = {"kind": "raw logs", "left_out": rows.filter_condition}
        yield (
            RawInput(rows, Encoder(dataset.path, inputs.sparse), without_frozen_tables(inputs)),
            list(rows.ids),
            described,
        )
