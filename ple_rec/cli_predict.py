"""`ple-rec predict`: its arguments and what it calls."""

from __future__ import annotations

import argparse
from pathlib import Path

from ple_rec.api.predictions import MEMORY, PART_ROWS, PredictOptions, predict_run
from ple_rec.cli_words import add_set, positive, size
from ple_rec.config.base import SPLITS
from ple_rec.errors import UserError

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
    verb.add_argument("--split", nargs="+", choices=SPLITS, metavar="SPLIT", help="of a dataset; default: test")
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
    verb.add_argument("--part-rows", type=positive, default=PART_ROWS, metavar="N", help="of a part; default 1048576")
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
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.plain import json_text
    from ple_rec.serve.model_dir import check_no_model
    from ple_rec.serve.predict.text import format_summary

    check_no_model(args.run)
    found = predict_run(named_run(args.run), _options(args))
    if args.json:
        return json_text({**found.summary, "out": str(args.out), "already_there": found.again})
    return format_summary(
        found.summary, args.out, found.fused_by, told=found.described, input_rows=found.input_rows, again=found.again
    )


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
    _options(args).check()


def _options(args: argparse.Namespace) -> PredictOptions:
    return PredictOptions(
        out=args.out,
        data=args.data,
        splits=args.split or (),
        source=args.source,
        checkpoint=args.checkpoint,
        fusion=args.fusion,
        ids=args.ids,
        all_rows=args.all_rows,
        batch_size=args.batch_size,
        part_rows=args.part_rows,
        memory=args.memory,
        overwrite=args.overwrite,
        overrides=args.overrides,
    )
