"""Predictions for every row of an input, written to a directory, and their labels for further metrics.

This module connects the preparation of raw logs with the model, since neither imports the other.
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
    """Return the columns that predictions carry along, and the tasks whose labels are in the dataset.

    Args:
        config: Configuration of the run.
        options: Options of the prediction.

    Raises:
        UserError: The input is raw logs, whose labels are not computed.
    """
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.inference.predict.inputs import default_ids
    from ple_rec.training.checks import select

    if options.raw:
        fix = 'prepare the logs and give the dataset, or carry columns of theirs along, such as ids=["clicked"]'
        raise UserError("labels", "got True for raw logs", "a prediction of raw logs computes no labels", fix)
    dataset = DatasetDirectory(options.data or config.data.path)
    ids = default_ids(dataset.schema) if options.ids is None else options.ids
    return list(dict.fromkeys(ids)), select(config, dataset).tasks


def with_labels(table: pa.Table, ids: Sequence[str], carried: Sequence[str], tasks: Sequence[Task]) -> pa.Table:
    """Return predictions followed by the columns `label_<task>` and `in_space_<task>`.

    Args:
        table: Predictions, which begin with the columns that were carried along.
        ids: Columns that the caller has asked to carry along.
        carried: Columns that were carried along: `ids`, then those of labels and sample spaces.
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


# The engine that reads raw logs uses about this many bytes.
MEMORY = 2 << 30
PART_ROWS = 1 << 20


@dataclass(frozen=True)
class PredictOptions:
    """Input, model and output of a prediction.

    Args:
        out: Directory of the predictions, or its address.
        data: Dataset directory or raw logs; None for the run's dataset.
        splits: Splits of a dataset; an empty sequence for `test`.
        source: Folder of the files of side tables, for raw logs; None for the working directory.
        checkpoint: Name of the checkpoint: `best`, `latest` or `step-<n>`.
        fusion: File of the score's fusion; None for the run's own, else exponent 1 for every task.
        ids: Columns of the input to carry along; None for the group and features named like a user or video.
        all_rows: True to predict rows of raw logs that `log.where` leaves out.
        batch_size: Number of rows of a batch; None for that of the run, with which the bits are those of an evaluation.
        part_rows: Largest number of rows of a part.
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
    all_rows: bool = False
    batch_size: int | None = None
    part_rows: int = PART_ROWS
    memory: int = MEMORY
    overwrite: bool = False
    overrides: Sequence[str] = ()

    @property
    def raw(self) -> bool:
        """Flag that the input is raw logs."""
        return self.data is not None and not _is_dataset(self.data)

    def check(self) -> None:
        """Refuse options that contradict each other, without importing torch.

        Raises:
            UserError: An option does not fit the kind of the input.
        """
        if self.raw:
            _check_no_split(str(self.data))
        if self.raw and self.splits:
            value = f"{self.data} are raw logs"
            raise UserError(Option.SPLIT, value, "a dataset directory has splits", "leave it out")
        raw_only = {Option.SOURCE: self.source is not None, Option.ALL_ROWS: self.all_rows}
        if not self.raw and (wrong := [flag for flag, is_set in raw_only.items() if is_set]):
            raise UserError(wrong[0], "the input is a dataset directory", "raw logs take it", "leave it out")


@dataclass(frozen=True)
class Predictions:
    """Predictions in their directory.

    Args:
        summary: Content of `_SUCCESS`.
        fused_by: Exponents of the score and their file, in words.
        described: Kind of the input, and the rows that are left out of raw logs.
        input_rows: Number of rows of the input.
        again: True if all predictions existed before.
        parts: Files of the predictions, in the order of the input.
    """

    summary: Mapping[str, Any]
    fused_by: str
    described: Mapping[str, Any]
    input_rows: int
    again: bool
    parts: Sequence[Location]


def predict_run(run_dir: Location, options: PredictOptions, *, notes: bool = True) -> Predictions:
    """Predict every row of an input; an interrupted prediction is resumed.

    Args:
        run_dir: Directory of the run.
        options: Input, checkpoint and output of the prediction.
        notes: False to print only the progress of long steps on standard error.

    Raises:
        UserError: Options, run and input do not fit each other.
        DataError: The checkpoint is damaged, or rows cannot be read.
    """
    from data_prep.progress import standard
    from ple_rec.config.words import toml_value
    from ple_rec.data.dataset import DatasetDirectory
    from ple_rec.inference.fusion_lookup import fusion_of
    from ple_rec.inference.predict.output import locked_output
    from ple_rec.inference.predict.predict import checkpoint_of
    from ple_rec.inference.predict.score import PredictionColumns
    from ple_rec.ranking.fusion import exponents_text
    from ple_rec.runs.read import RunFiles
    from ple_rec.training.checks import select
    from ple_rec.training.preflight import check_run
    from ple_rec.training.trained import single_process_config, trained_checkpoint

    options.check()
    overrides = list(options.overrides)
    if options.data is not None and not options.raw:
        overrides.append(f"data.path={toml_value(options.data)}")
    config = single_process_config(check_run(run_dir, overrides), RunFiles(run_dir).metrics)
    if options.batch_size is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": options.batch_size})})
    dataset = DatasetDirectory(config.data.path)
    trained_checkpoint(config, run_dir, options.checkpoint, dataset)
    selection = select(config, dataset)
    fusion, file = fusion_of(run_dir, options.fusion, selection)
    fused_by = "every exponent 1: the run has no fusion"
    if file is not None:
        fused_by = f"{file}; exponents {exponents_text(fusion)}"
    columns = PredictionColumns(selection.tasks, [feature.name for feature in selection.dense], fusion)
    progress = standard(run_dir.name, notes=notes)
    progress.say(f"score: {fused_by}")
    with (
        locked_output(options.out) as output,
        _opened_input(options, dataset, selection, output.work, progress) as (source, ids, described),
    ):
        head: dict[str, Any] = {
            "format": 1,
            "run": run_dir.name,
            "checkpoint": checkpoint_of(config, run_dir, options.checkpoint),
            "vocabularies": dataset.schema.fingerprint,
            "input": source.identity() | described,
            "fusion": fusion.model_dump(mode="json"),
            "ids": ids,
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
            "part_rows": options.part_rows,
        }
        output.begin(head, overwrite=options.overwrite)
        summary, again = output.finished, output.finished is not None
        if summary is None:
            summary = head | _predict_rest(options, config, dataset, run_dir, source, columns, output, progress)
        parts = [output.part(i) for i in range(len(output.done))]
        return Predictions(summary, fused_by, described, source.rows, again, parts)


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
    """Open the run, write the missing predictions, and return their part of the summary."""
    from ple_rec.inference.predict.predict import predict
    from ple_rec.training.trained import load_checkpoint, open_trained_run

    if output.done:
        rows = sum(note.rows for note in output.done)
        progress.say(f"going on behind {len(output.done)} part(s) with {rows:,} rows")
    with open_trained_run(config, run_dir, options.checkpoint, dataset) as job:
        load_checkpoint(job, run_dir, options.checkpoint)
        with progress.running({"predict": 1.0}, source.rows):
            progress.phase("predict")
            progress.reach(output.next, source.rows)

            def advance(position: int) -> None:
                progress.reach(position, source.rows)

            return predict(job, source, columns, output, part_rows=options.part_rows, advance=advance)


def _is_dataset(data: str) -> bool:
    """Return True if a dataset directory is at a path or an address; an address may be a pattern of raw logs."""
    if is_address(data) and set(data) & set("*?[]"):
        return False
    folder = location(data)
    with explain_errors(folder):
        return (folder / "schema.toml").is_file()


def _check_no_split(data: str) -> None:
    """Refuse a split of a dataset, or a part of a split, whose columns are not those of raw logs."""
    from ple_rec.config.base import SPLITS

    for folder in (data, data.rpartition("/")[0]):
        above, _, name = folder.rpartition("/")
        if name in SPLITS and _is_dataset(above or "."):
            rule = f"its rows are no raw logs; {Option.DATA} takes the dataset, {Option.SPLIT} says which of its splits"
            fix = f"give {Option.DATA.to(above or '.', quoted=True)}, and {Option.SPLIT.to(name, quoted=True)}"
            raise UserError(Option.DATA, f"{data} is a split of a prepared dataset, or lies in one", rule, fix)


def preparation_of(dataset: Location) -> tuple[PrepConfig, str]:
    """Return the configuration of a dataset's preparation, and its file.

    A dataset that was written without logs has no `prep.toml`; each of its features is a column of the same name.

    Args:
        dataset: Directory of the dataset.
    """
    from data_prep.inputs.columns import plain_config
    from ple_rec.config.load import load_config, load_schema
    from ple_rec.config.prep import PREP_FILE, PrepConfig
    from ple_rec.config.schema import SCHEMA_FILE

    file = dataset / PREP_FILE
    if file.is_file():
        prep: PrepConfig = load_config(PrepConfig, file)
        return prep, str(file)
    return plain_config(load_schema(dataset)), str(dataset / SCHEMA_FILE)


@contextmanager
def _opened_input(
    options: PredictOptions, dataset: DatasetDirectory, selection: Selection, work: Path, progress: Progress
) -> Iterator[tuple[PredictionInput, list[str], dict[str, Any]]]:
    """Yield the input, the columns that are carried along, and what the summary says of it."""
    from ple_rec.inference.predict.inputs import DatasetInput, default_ids, features_only

    inputs = features_only(selection)
    ids = default_ids(dataset.schema) if options.ids is None else list(dict.fromkeys(options.ids))
    if not options.raw:
        yield DatasetInput(dataset, inputs, options.splits or ["test"], ids), ids, {"kind": "dataset"}
        return
    from data_prep.inputs.read import InputOptions, open_inputs
    from ple_rec.data.encode import Encoder
    from ple_rec.inference.predict.inputs import RawInput

    prep, place = preparation_of(dataset.path)
    options_of_rows = InputOptions(
        data=str(options.data),
        source=options.source or ".",
        features=(*(feature.name for feature in inputs.sparse), *(number.name for number in inputs.dense)),
        ids=tuple(ids),
        if_there=options.ids is None,
        all_rows=options.all_rows,
        memory=options.memory,
    )
    with open_inputs(prep, place, options_of_rows, work, progress) as rows:
        described = {"kind": "raw logs", "left_out": rows.left_out}
        yield RawInput(rows, Encoder(dataset.path, inputs.sparse), inputs), list(rows.ids), described
