"""`ple-rec predict`: its arguments and what it calls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ple_rec.cli_words import add_set, positive, size
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
_EPILOG = """\
--data is a dataset directory (its schema.toml tells), or raw logs: a Parquet or CSV file, a folder or a glob. Raw logs
go through the expressions of the prep.toml of the run's dataset, and through its vocabularies; labels are not needed.

examples:
  ple-rec predict tencent-ple --out predictions
  ple-rec predict tencent-ple --data data/feed-9 --split valid test --out predictions --ids group video_id
  ple-rec predict tencent-ple --data logs/day=9 --from logs --out predictions

The same command goes on where it was stopped. docs/predict.md explains all of it.
"""


def add_predict(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec predict`."""
    verb.description = (
        "Predict every row of an input: ids, every task's prediction and one fused score (Eq. 1) as Parquet parts\n"
        "in --out, in the order of the input. Memory does not grow with the input."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("run", metavar="RUN", help="run directory, or its name under runs/")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    verb.add_argument("--data", metavar="PATH", help="dataset directory or raw logs; default: the run's dataset")
    verb.add_argument("--split", nargs="+", choices=_SPLITS, metavar="SPLIT", help="of a dataset; default: test")
    verb.add_argument(
        "--from", dest="source", metavar="DIR", help="of raw logs: where the files of side tables lie; default: here"
    )
    verb.add_argument("--checkpoint", default="best", help="best (default), latest or step-<n>")
    verb.add_argument(
        "--fusion",
        type=Path,
        metavar="FILE",
        help="of the score; default: RUN/fusion/fusion.toml, else exponents 1",
    )
    verb.add_argument(
        "--ids",
        nargs="*",
        metavar="COLUMN",
        help="columns of the input to carry along, as it has them; default: the group, and features named like a user "
        "or video",
    )
    verb.add_argument("--all-rows", action="store_true", help="of raw logs: those that log.where leaves out, too")
    verb.add_argument(
        "--batch-size", type=positive, metavar="N", help="default: the run's, which gives evaluation's very bits"
    )
    verb.add_argument("--part-rows", type=positive, default=1 << 20, metavar="N", help="of a part; default 1048576")
    verb.add_argument("--memory", type=size, default=MEMORY, metavar="SIZE", help="to read raw logs; default 2GiB")
    verb.add_argument("--overwrite", action="store_true", help="replace predictions of something else")
    verb.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_set(verb, "override a configuration key that an evaluation may change, e.g. runtime.device=cpu (repeatable)")


def predict(args: argparse.Namespace) -> str:
    """Run the verb; what it prints.

    Raises:
        UserError: there is no such run or input, or what is asked does not fit them.
        DataError: a damaged checkpoint, or rows that cannot be read.
    """
    from data_prep.progress import standard
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.plain import json_text
    from ple_rec.data.dataset import Dataset
    from ple_rec.serve.fusion_lookup import fusion_of
    from ple_rec.serve.model_dir import check_no_model
    from ple_rec.serve.predict.output import claimed
    from ple_rec.serve.predict.predict import checkpoint_of, metrics_of
    from ple_rec.serve.predict.score import Scorer
    from ple_rec.serve.predict.text import format_summary
    from ple_rec.train.checks import select
    from ple_rec.train.run import check_run
    from ple_rec.train.trained import of_one_process, trained_checkpoint

    check_no_model(args.run)
    run_dir = named_run(args.run)
    raw = _is_raw(args)
    _check_flags(args, raw)
    overrides = list(args.overrides)
    if args.data is not None and not raw:
        overrides.append(f"data.path={args.data}")
    config = of_one_process(check_run(run_dir, overrides), metrics_of(run_dir))
    if args.batch_size is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": args.batch_size})})
    dataset = Dataset(config.data.path)
    trained_checkpoint(config, run_dir, args.checkpoint, dataset)
    selection = select(config, dataset)
    fusion, file = fusion_of(run_dir, args.fusion, selection)
    fused_by = "exponent 1 for every task" if file is None else str(file)
    scorer = Scorer(selection.tasks, [feature.name for feature in selection.dense], fusion)
    progress = standard(run_dir.name)
    progress.say(f"score: {fused_by}")
    with claimed(args.out) as output, _opened_input(args, raw, dataset, selection, progress) as (source, ids, told):
        asked: dict[str, Any] = {
            "format": 1,
            "run": run_dir.name,
            "checkpoint": checkpoint_of(config, run_dir, args.checkpoint),
            "vocabularies": dataset.schema.fingerprint,
            "input": source.identity() | told,
            "fusion": fusion.model_dump(mode="json"),
            "ids": ids,
            "batch_size": config.train.batch_size,
            "precision": config.train.precision,
            "part_rows": args.part_rows,
        }
        output.begin(asked, overwrite=args.overwrite, say=progress.say)
        summary, again = output.finished, output.finished is not None
        if summary is None:
            summary = asked | _predicted(args, config, run_dir, source, scorer, output, progress)
    if args.json:
        return json_text(summary | {"out": str(args.out), "already_there": again})
    return format_summary(summary, args.out, fused_by, told=told, input_rows=source.rows, again=again)


def check_predict(args: argparse.Namespace) -> None:
    """Refuse what the verb would before it opens the run, where torch need not load.

    Raises:
        UserError: no run of that name, an override that is wrong, or flags that do not go together.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    places = (Path(args.run), Path("runs") / args.run)
    file = next((path / "config.toml" for path in places if (path / "config.toml").is_file()), None)
    if file is None:
        raise UserError(args.run, "no such run", "a run directory has a config.toml", "`ple-rec runs` lists them")
    load_config(RunConfig, file, args.overrides)
    _check_flags(args, _is_raw(args))


def _is_raw(args: argparse.Namespace) -> bool:
    """Whether the input is raw logs."""
    return args.data is not None and not (Path(args.data) / "schema.toml").is_file()


def _predicted(
    args: argparse.Namespace,
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
    with opened(config, run_dir, args.checkpoint) as job:
        load_checkpoint(job, run_dir, args.checkpoint)
        with progress.running({"predict": 1.0}, source.rows):
            progress.phase("predict")
            progress.reach(output.next, source.rows)

            def advance(position: int) -> None:
                progress.reach(position, source.rows)

            return predict(job, source, scorer, output, part_rows=args.part_rows, advance=advance)


def _check_flags(args: argparse.Namespace, raw: bool) -> None:
    if raw:
        _check_no_split(args.data)
    if raw and args.split:
        raise UserError("--split", f"--data {args.data} are raw logs", "a dataset directory has splits", "leave it out")
    of_raw = {"--from": args.source is not None, "--all-rows": args.all_rows}
    if not raw and (given := [flag for flag, there in of_raw.items() if there]):
        raise UserError(given[0], "--data is a dataset directory", "raw logs take it", "leave it out")


def _check_no_split(data: str) -> None:
    """Refuse a split of a dataset, or a part of one: its columns are not those of raw logs."""
    for folder in (Path(data), Path(data).parent):
        if folder.name in _SPLITS and (folder.parent / "schema.toml").is_file():
            rule = "its rows are no raw logs; --data takes the dataset, --split says which of its splits"
            fix = f"--data {folder.parent} --split {folder.name}"
            raise UserError("--data", f"{data} is a split of a prepared dataset, or lies in one", rule, fix)


@contextmanager
def _opened_input(
    args: argparse.Namespace, raw: bool, dataset: Dataset, selection: Selection, progress: Progress
) -> Iterator[tuple[Input, list[str], dict[str, Any]]]:
    """The input, the columns that are carried along, and what else is said of it."""
    from ple_rec.serve.predict.dataset_input import DatasetInput
    from ple_rec.serve.predict.inputs import default_ids, of_inputs

    inputs = of_inputs(selection)
    ids = default_ids(dataset.schema) if args.ids is None else list(dict.fromkeys(args.ids))
    if not raw:
        yield DatasetInput(dataset, inputs, args.split or ["test"], ids), ids, {"kind": "dataset"}
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
        data=args.data,
        source=args.source or ".",
        features=(*(feature.name for feature in inputs.sparse), *(number.name for number in inputs.dense)),
        ids=tuple(ids),
        if_there=args.ids is None,
        all_rows=args.all_rows,
        memory=args.memory,
    )
    described = file if file.is_file() else dataset.path / SCHEMA_FILE
    with open_inputs(prep, str(described), asked, args.out / WORK, progress) as rows:
        told = {"kind": "raw logs", "left_out": rows.left_out}
        yield RawInput(rows, Encoder(dataset.path, inputs.sparse), inputs), list(rows.ids), told
