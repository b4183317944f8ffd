"""`ple-rec predict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ple_rec.cli.console import require_torch, show
from ple_rec.cli.help import verb
from ple_rec.cli.options import Checkpoint, EvaluationSet, Run, flag, positive, size
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from data_prep.progress import Progress
    from ple_rec.config.run import RunConfig
    from ple_rec.data.columns import Selection
    from ple_rec.data.dataset import Dataset
    from ple_rec.serve.predict.inputs import Input
    from ple_rec.serve.predict.output import Output
    from ple_rec.serve.predict.score import Scorer

MEMORY = 2 << 30  # bytes; of the engine that reads raw logs
_SPLITS = ("train", "valid", "test")

app = verb(
    "predict",
    """\
--data is a dataset directory (its schema.toml tells), or raw logs: a Parquet or CSV file, a folder or a glob. Raw logs
go through the expressions of the prep.toml of the run's dataset, and through its vocabularies; labels are not needed.

examples:
  ple-rec predict tencent-ple --out predictions
  ple-rec predict tencent-ple --data data/feed-9 --split valid test --out predictions --ids group video_id
  ple-rec predict tencent-ple --data logs/day=9 --from logs --out predictions

The same command goes on where it was stopped. docs/predict.md explains all of it.
""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Flags of `ple-rec predict`."""

    _: KW_ONLY
    out: Annotated[Path, flag("directory to write", "DIR")]
    data: Annotated[str | None, flag("dataset directory or raw logs; default: the run's dataset", "PATH")] = None
    split: Annotated[
        tuple[Literal["train", "valid", "test"], ...] | None,
        flag("splits of a dataset: train, valid, test; default: test", "SPLIT [SPLIT ...]", consume_multiple=1),
    ] = None
    source: Annotated[
        str | None, flag("of raw logs: where the files of side tables lie; default: here", "DIR", name="--from")
    ] = None
    checkpoint: Checkpoint = "best"
    fusion: Annotated[
        Path | None, flag("fusion of the score; default: RUN/fusion/fusion.toml, else exponents 1", "FILE")
    ] = None
    ids: Annotated[
        tuple[str, ...] | None,
        flag(
            "columns of the input to carry along, as it has them; default: the group, and features named like a "
            "user or video",
            "[COLUMN ...]",
            consume_multiple=True,
        ),
    ] = None
    all_rows: Annotated[bool, flag("of raw logs: those that log.where leaves out, too")] = False
    batch_size: Annotated[int | None, flag("default: the run's, which gives evaluation's very bits", "N", positive)] = (
        None
    )
    part_rows: Annotated[int, flag("rows of a part; default 1048576", "N", positive)] = 1 << 20
    memory: Annotated[int, flag("memory to read raw logs; default 2GiB", "SIZE", size)] = MEMORY
    overwrite: Annotated[bool, flag("replace predictions of something else")] = False
    json: Annotated[bool, flag("print JSON instead of text")] = False
    overrides: Annotated[
        EvaluationSet,
        flag("override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)"),
    ] = ()


@app.default
def predict(run: Run, /, *, options: Options) -> int:
    """Predict every row of an input.

    Ids, every task's prediction and one fused score (Eq. 1) as Parquet parts in --out, in the order of the input.
    Memory does not grow with the input.
    """
    require_torch()
    from data_prep.progress import standard
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.plain import json_text
    from ple_rec.data.dataset import Dataset
    from ple_rec.serve.fused_by import fusion_of
    from ple_rec.serve.model_dir import check_no_model
    from ple_rec.serve.predict.output import claimed
    from ple_rec.serve.predict.predict import checkpoint_of, metrics_of
    from ple_rec.serve.predict.score import Scorer
    from ple_rec.serve.predict.text import format_summary
    from ple_rec.train.checks import select
    from ple_rec.train.run import check_run
    from ple_rec.train.trained import of_one_process, trained_checkpoint

    check_no_model(run)
    run_dir = named_run(run)
    raw = _raw_logs(options)
    _check_flags(options, raw)
    overrides = list(options.overrides)
    if options.data is not None and raw is None:
        overrides.append(f"data.path={options.data}")
    config = of_one_process(check_run(run_dir, overrides), metrics_of(run_dir))
    if options.batch_size is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": options.batch_size})})
    dataset = Dataset(config.data.path)
    trained_checkpoint(config, run_dir, options.checkpoint, dataset)
    selection = select(config, dataset)
    fusion, file = fusion_of(run_dir, options.fusion, selection)
    fused_by = "exponent 1 for every task" if file is None else str(file)
    scorer = Scorer(selection.tasks, [feature.name for feature in selection.dense], fusion)
    progress = standard(run_dir.name)
    progress.say(f"score: {fused_by}")
    with (
        claimed(options.out) as output,
        _opened_input(options, raw, dataset, selection, progress) as (source, ids, told),
    ):
        asked: dict[str, Any] = {
            "format": 1,
            "run": run_dir.name,
            "checkpoint": checkpoint_of(config, run_dir, options.checkpoint),
            "vocabularies": dataset.schema.fingerprint,
            "input": source.identity() | told,
            "fusion": fusion.model_dump(mode="json"),
            "ids": ids,
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
            "part_rows": options.part_rows,
        }
        output.begin(asked, overwrite=options.overwrite)
        summary, again = output.finished, output.finished is not None
        if summary is None:
            summary = asked | _predicted(options, config, run_dir, source, scorer, output, progress)
    if options.json:
        show(json_text(summary | {"out": str(options.out), "already_there": again}))
    else:
        show(format_summary(summary, options.out, fused_by, told=told, input_rows=source.rows, again=again))
    return 0


def check(run: str, /, *, options: Options) -> None:
    """Refuse what the verb would before it opens the run, where torch need not load.

    Raises:
        UserError: no run of that name, an override that is wrong, or flags that do not go together.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    places = (Path(run), Path("runs") / run)
    file = next((path / "config.toml" for path in places if (path / "config.toml").is_file()), None)
    if file is None:
        raise UserError(run, "no such run", "a run directory has a config.toml", "`ple-rec runs` lists them")
    load_config(RunConfig, file, options.overrides)
    _check_flags(options, _raw_logs(options))


def _raw_logs(options: Options) -> str | None:
    """Return the raw logs that are the input; of a dataset directory None."""
    is_dataset = options.data is None or (Path(options.data) / "schema.toml").is_file()
    return None if is_dataset else options.data


def _predicted(
    options: Options,
    config: RunConfig,
    run_dir: Path,
    source: Input,
    scorer: Scorer,
    output: Output,
    progress: Progress,
) -> dict[str, Any]:
    """Open the run and write what is missing."""
    from ple_rec.serve.predict.predict import predict
    from ple_rec.train.trained import load_checkpoint, opened

    if output.done:
        rows = sum(note.rows for note in output.done)
        progress.say(f"going on behind {len(output.done)} part(s) with {rows:,} rows")
    with opened(config, run_dir, options.checkpoint) as job:
        load_checkpoint(job, run_dir, options.checkpoint)
        with progress.running({"predict": 1.0}, source.rows):
            progress.phase("predict")
            progress.reach(output.next, source.rows)

            def advance(position: int) -> None:
                progress.reach(position, source.rows)

            return predict(job, source, scorer, output, part_rows=options.part_rows, advance=advance)


def _check_flags(options: Options, raw: str | None) -> None:
    if raw is not None:
        _check_no_split(raw)
        if options.split:
            raise UserError("--split", f"--data {raw} are raw logs", "a dataset directory has splits", "leave it out")
        return
    flags = {"--from": options.source is not None, "--all-rows": options.all_rows}
    for name in (name for name, present in flags.items() if present):
        raise UserError(name, "--data is a dataset directory", "raw logs take it", "leave it out")


def _check_no_split(data: str) -> None:
    """Refuse a split of a dataset, or a part of one: its columns are not those of raw logs."""
    for folder in (Path(data), Path(data).parent):
        if folder.name in _SPLITS and (folder.parent / "schema.toml").is_file():
            rule = "its rows are no raw logs; --data takes the dataset, --split says which of its splits"
            fix = f"--data {folder.parent} --split {folder.name}"
            raise UserError("--data", f"{data} is a split of a prepared dataset, or lies in one", rule, fix)


@contextmanager
def _opened_input(
    options: Options, raw: str | None, dataset: Dataset, selection: Selection, progress: Progress
) -> Iterator[tuple[Input, list[str], dict[str, Any]]]:
    """Yield the input, the columns that are carried along, and what else is said of it."""
    from ple_rec.serve.predict.dataset_input import DatasetInput
    from ple_rec.serve.predict.inputs import default_ids, of_inputs

    inputs = of_inputs(selection)
    ids = default_ids(dataset.schema) if options.ids is None else list(dict.fromkeys(options.ids))
    if raw is None:
        yield DatasetInput(dataset, inputs, options.split or ["test"], ids), ids, {"kind": "dataset"}
        return
    from data_prep.input_columns import plain_config
    from data_prep.inputs import Asked, open_inputs
    from ple_rec.config.load import load_config
    from ple_rec.config.prep import PREP_FILE, PrepConfig
    from ple_rec.config.schema import SCHEMA_FILE
    from ple_rec.data.encode import Encoder
    from ple_rec.serve.predict.own_files import WORK
    from ple_rec.serve.predict.raw_input import RawInput

    file = dataset.path / PREP_FILE
    prep = load_config(PrepConfig, file) if file.is_file() else plain_config(dataset.schema)
    asked = Asked(
        data=raw,
        source=options.source or ".",
        features=(*(feature.name for feature in inputs.sparse), *(number.name for number in inputs.dense)),
        ids=tuple(ids),
        if_there=options.ids is None,
        all_rows=options.all_rows,
        memory=options.memory,
    )
    described = file if file.is_file() else dataset.path / SCHEMA_FILE
    with open_inputs(prep, str(described), asked, options.out / WORK, progress) as rows:
        told = {"kind": "raw logs", "left_out": rows.left_out}
        yield RawInput(rows, Encoder(dataset.path, inputs.sparse), inputs), list(rows.ids), told
