"""The words of the command line: every verb with its arguments, and their help."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ple_rec import __version__
from ple_rec.cli_analysis import add_analyze
from ple_rec.cli_checkpoint import add_checkpoint
from ple_rec.cli_compare import add_compare
from ple_rec.cli_export import add_export
from ple_rec.cli_plan import add_plan
from ple_rec.cli_predict import add_predict
from ple_rec.cli_prep import add_prep
from ple_rec.cli_ranking import add_fuse
from ple_rec.cli_serving import add_serve
from ple_rec.cli_words import add_set, positive

_EPILOG = """\
exit codes: 0 done; 1 a bug (traceback); 2 your input is wrong; 3 data refused; 4 training diverged;
            5 some runs of several failed; 75 asked to stop (SIGTERM, SIGUSR1), saved, run again to go on;
            130 stopped by Ctrl-C, 143 by SIGTERM before there was a step

a first run:
  ple-rec doctor
  ple-rec prep census --out data/census
  ple-rec train --config census-ple --ranks 2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="ple-rec",
        description="Multi-task recommenders on sharded embedding tables: prepare logs, train, evaluate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"ple-rec {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    top.set_defaults(verbs=verbs.choices)
    add = partial(verbs.add_parser, allow_abbrev=False)

    add("doctor", help="check this machine: versions that fit, kernels, devices, speed")

    add_prep(add("prep", help="raw logs -> dataset directory"))

    verify = add(
        "verify",
        help="read a dataset directory to its last byte",
        description="Hold every file of a dataset directory to the digests that its preparation wrote, and every row "
        "and vocabulary to the rules that training and serving check. Exit code 3 where something is wrong; all of it "
        "is listed.",
    )
    verify.add_argument("dataset", type=Path, metavar="DATA", help="dataset directory, as `ple-rec prep` writes one")

    plan = add("plan", help="where tables go on a cluster that is not there yet, and what a step costs")
    _add_config(plan)
    add_plan(plan)

    train = add(
        "train",
        help="train a model, evaluate it, write a report",
        description="Train the model of a configuration on a dataset directory. Writes runs/<name>/: config.toml, "
        "plan.json, train.jsonl, checkpoints/, metrics.json, report.html; tensorboard/ and mlflow.json where these "
        "watch; init_from.json where it starts from another run; profile/ with --profile.",
        epilog=_train_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(train)
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name of the configuration>")
    train.add_argument("--resume", action="store_true", help="go on from the run directory's latest checkpoint")
    train.add_argument(
        "--auto-resume",
        action="store_true",
        help="go on where the run directory holds this run, begin it where it holds none, end with 0 where it has "
        "finished: one command line for the first start and every one after it",
    )
    train.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    train.add_argument(
        "--init-from",
        metavar="RUN[:CHECKPOINT]",
        help="start from the weights and optimizer state of another run's checkpoint (best, the default, latest or "
        "step-<n>), trained on this dataset or on one that it descends from; steps, schedule, data position, best and "
        "early stopping start anew",
    )
    train.add_argument(
        "--plan", type=Path, metavar="FILE", help="shard the tables by this plan.json (ple-rec plan), or refuse it"
    )
    train.add_argument(
        "--profile",
        action="store_true",
        help="find where the time of a step goes: after 10 steps of warm-up time the parts of 20, trace 3 more, print "
        "the shares and write them, with a trace of every rank, to profile/ of the run directory; train on as always",
    )
    train.add_argument("--help-config", action="store_true", help="list every configuration key, then stop")
    _add_ranks(train)

    evaluate = add("evaluate", help="evaluate a checkpoint of a run")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test", help="default: test")
    evaluate.add_argument("--checkpoint", default="best", help="best (default), latest or step-<n>")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_set(evaluate)
    _add_ranks(evaluate)

    add_checkpoint(add("checkpoint", help="list, verify or show the checkpoints of a run"))

    runs = add(
        "runs",
        help="list runs with their status and metrics",
        description="List the runs below DIR, newest first: status, step, and for every task its AUC (RMSE for a "
        "regression) and GAUC. A run that has not finished shows its last validation record, marked *.",
    )
    runs.add_argument(
        "directory", nargs="?", default="runs", metavar="DIR", help="a path, or a name under runs/; default: runs"
    )
    runs.add_argument(
        "--sort",
        default="age",
        metavar="KEY",
        help="a column, e.g. income.auc, or TASK.METRIC; best first; default: age",
    )
    _add_final_split(runs)
    runs.add_argument(
        "--filter", default="", metavar="TEXT", help="only runs whose name, variant or status contains it"
    )
    runs.add_argument("--json", action="store_true", help="print JSON, with all metrics, instead of a table")

    diff = add(
        "diff",
        help="how two runs differ: configuration, environment, metrics",
        description="Compare two runs: what differs in their configurations, datasets and versions, then their metrics "
        "side by side. Of runs that have not finished, the last validation records are compared.",
    )
    diff.add_argument("a", metavar="RUN_A", help="run directory, or its name under runs/")
    diff.add_argument("b", metavar="RUN_B", help="the same of the other run")
    _add_final_split(diff)
    diff.add_argument("--json", action="store_true", help="print JSON instead of tables")

    report = add(
        "report",
        help="write report.html of a run, finished or not",
        description="Write RUN/report.html from the files of the run. Training does so at its end; of a run that was "
        "stopped, or still goes on, the page shows what there is and names what is missing.",
    )
    report.add_argument("run", metavar="RUN", help="run directory, or its name under runs/")

    add_analyze(add("analyze", help="experts, gradient conflict and gates by sub-population of a finished run"))

    repeat = add(
        "repeat",
        help="train with several seeds; mean and standard deviation of every metric",
        description="Train each configuration with seeds 0 to N-1 and print mean and sample standard deviation on the "
        "test split. Runs lie in DIR/<name>/seed-<n>; finished ones of the same configuration and dataset are reused, "
        "unfinished ones start anew.",
    )
    repeat.add_argument(
        "--config", metavar="FILE|NAME", action="append", required=True, help="configuration or recipe (repeatable)"
    )
    _add_set(repeat)
    repeat.add_argument("--seeds", type=positive, default=5, metavar="N", help="number of seeds; default 5")
    repeat.add_argument("--runs", type=Path, default=Path("runs/repeat"), metavar="DIR", help="default: runs/repeat")
    repeat.add_argument(
        "--overwrite",
        action="store_true",
        help="replace runs of another configuration or dataset that lie there; finished ones of this one are still "
        "reused",
    )
    _add_ranks(repeat)

    add_compare(add("compare", help="train several models with several seeds at equal cost; who gains, who loses"))

    add_fuse(add("fuse", help="exponents by which a run's predictions become one score: the ranked feed (Eq. 1)"))

    add_predict(add("predict", help="a run's predictions of every row of a dataset or of raw logs, as Parquet"))
    add_export(add("export", help="a run -> a self-contained model that serves: tables, program, vocabularies, card"))
    add_serve(add("serve", help="answer requests for ranked feeds over HTTP with an exported model"))

    return top


def _add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--config", metavar="FILE|NAME", help="a TOML file, or the name of a recipe")
    _add_set(verb)


def _add_set(verb: argparse.ArgumentParser) -> None:
    add_set(verb, "override a configuration key, e.g. train.epochs=2 (repeatable)")


def _add_final_split(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--split", choices=["test", "valid"], default="test", help="whose final metrics; default: test")


def _add_ranks(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--ranks",
        type=positive,
        default=1,
        metavar="N",
        help="processes on this host (one per GPU; on one CPU more are slower for a small model); default 1",
    )


def _train_epilog() -> str:
    from ple_rec.config.recipes import recipe_names

    return f"recipes: {', '.join(recipe_names())}\n\nseveral hosts: torchx run launch/components.py:train --help"
