"""`ple-rec <verb>`: parse, check, call. Modules that need torch are imported by the verb that needs them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec import __version__
from ple_rec.errors import DivergedError, PleRecError, UserError

if TYPE_CHECKING:
    from ple_rec.config.run import RunConfig

_EPILOG = """\
exit codes: 0 done; 1 a bug (traceback); 2 your input is wrong; 3 data refused; 4 training diverged;
            5 some runs of several failed

a first run:
  ple-rec doctor
  ple-rec prep census --out data/census
  ple-rec train --config census-ple --ranks 2
"""
_SOME_FAILED = 5
_PEER_GRACE_SECONDS = 3.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="ple-rec",
        description="Multi-task recommenders on sharded embedding tables: prepare logs, train, evaluate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"ple-rec {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    doctor = verbs.add_parser("doctor", help="check this machine: versions that fit, kernels, devices, speed")
    doctor.set_defaults(call=_doctor)

    prep = verbs.add_parser("prep", help="raw logs -> dataset directory")
    prep.add_argument("name", help="what to prepare: census (Census-Income, KDD; fetched unless --from is given)")
    prep.add_argument("--out", type=Path, required=True, metavar="DIR", help="dataset directory to write")
    prep.add_argument("--from", type=Path, dest="source", metavar="DIR", help="your copy of the raw files")
    prep.add_argument("--overwrite", action="store_true", help="replace the dataset that is there")
    prep.set_defaults(call=_prep)

    train = verbs.add_parser(
        "train",
        help="train a model, evaluate it, write a report",
        description="Train the model of a configuration on a dataset directory. Writes runs/<name>/: config.toml, "
        "plan.json, train.jsonl, checkpoints/, metrics.json, report.html.",
        epilog=_train_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(train)
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name of the configuration>")
    train.add_argument("--resume", action="store_true", help="go on from the run directory's latest checkpoint")
    train.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    train.add_argument("--help-config", action="store_true", help="list every configuration key, then stop")
    _add_ranks(train)
    train.set_defaults(call=_train)

    evaluate = verbs.add_parser("evaluate", help="evaluate a checkpoint of a run")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test", help="default: test")
    evaluate.add_argument("--checkpoint", default="best", help="best (default), latest or step-<n>")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_set(evaluate)
    _add_ranks(evaluate)
    evaluate.set_defaults(call=_evaluate)

    repeat = verbs.add_parser(
        "repeat",
        help="train with several seeds; mean and standard deviation of every metric",
        description="Train each configuration with seeds 0 to N-1 and print mean and sample standard deviation on the "
        "test split. Runs lie in DIR/<name>/seed-<n>; finished ones are reused.",
    )
    repeat.add_argument(
        "--config", metavar="FILE|NAME", action="append", required=True, help="configuration or recipe (repeatable)"
    )
    _add_set(repeat)
    repeat.add_argument("--seeds", type=_positive, default=5, metavar="N", help="number of seeds; default 5")
    repeat.add_argument("--runs", type=Path, default=Path("runs/repeat"), metavar="DIR", help="default: runs/repeat")
    _add_ranks(repeat)
    repeat.set_defaults(call=_repeat)
    return top


def _add_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--config", metavar="FILE|NAME", help="a TOML file, or the name of a recipe")
    _add_set(verb)


def _add_set(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a configuration key, e.g. train.epochs=2 (repeatable)",
    )


def _add_ranks(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--ranks", type=_positive, default=1, metavar="N", help="processes on this host (one per GPU); default 1"
    )


def _positive(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive int")
    return value


def _train_epilog() -> str:
    from ple_rec.config.recipes import recipe_names

    return f"recipes: {', '.join(recipe_names())}\n\nseveral hosts: torchx run launch/components.py:train --help"


def _doctor(args: argparse.Namespace) -> int:
    from ple_rec.doctor import run

    return run()


def _prep(args: argparse.Namespace) -> int:
    from data_prep import prepare

    print(prepare(args.name, args.out, source=args.source, overwrite=args.overwrite))
    return 0


def _load(args: argparse.Namespace) -> RunConfig:
    from ple_rec.config.load import load_config
    from ple_rec.config.recipes import recipe_names
    from ple_rec.config.run import RunConfig

    if args.config is None:
        raise UserError(
            "--config", "missing", "it names a TOML file or a recipe", f"give one, e.g. --config {recipe_names()[0]}"
        )
    return load_config(RunConfig, args.config, args.overrides)


def _run_dir(args: argparse.Namespace, config: RunConfig) -> Path:
    return args.run_dir or Path("runs") / config.name


def _check_train(args: argparse.Namespace, world_size: int) -> None:
    from ple_rec.train.run import check

    if args.resume and args.overwrite:
        raise UserError("--resume --overwrite", "both given", "one keeps the run, the other removes it", "choose one")
    config = _load(args)
    check(config, _run_dir(args, config), resume=args.resume, overwrite=args.overwrite, world_size=world_size)


def _check_evaluate(args: argparse.Namespace, world_size: int) -> None:
    from ple_rec.train.run import check_run

    check_run(args.run_dir, args.overrides)


_CHECKS: dict[str, Callable[[argparse.Namespace, int], None]] = {"train": _check_train, "evaluate": _check_evaluate}


def check_input(argv: Sequence[str], world_size: int) -> int:
    """Check a distributed verb's input before its ranks start; its exit code."""
    args = parser().parse_args(argv)
    _need_torch()
    return _guarded(lambda: _CHECKS[args.verb](args, world_size) if args.verb in _CHECKS else None)


def _spawn(args: argparse.Namespace, argv: Sequence[str]) -> int:
    from ple_rec.agent import run_ranks

    _CHECKS[args.verb](args, args.ranks)
    at = argv.index("--ranks") if "--ranks" in argv else None
    verb = [*argv[:at], *argv[at + 2 :]] if at is not None else [a for a in argv if not a.startswith("--ranks=")]
    return run_ranks(["--standalone", "--nproc-per-node", str(args.ranks)], verb)


def _train(args: argparse.Namespace) -> int:
    if args.help_config:
        from ple_rec.config.describe import describe
        from ple_rec.config.run import RunConfig

        print(describe(RunConfig))
        return 0
    _need_torch()
    if args.ranks > 1:
        return _spawn(args, args.argv)
    from ple_rec.train.run import train

    if "WORLD_SIZE" not in os.environ:
        _check_train(args, 1)
    config = _load(args)
    train(config, _run_dir(args, config), resume=args.resume, overwrite=args.overwrite)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    _need_torch()
    if args.ranks > 1:
        return _spawn(args, args.argv)
    import json

    from ple_rec.train.results import format_results
    from ple_rec.train.run import check_run, evaluate_run

    check_run(args.run_dir, args.overrides)
    result = evaluate_run(args.run_dir, splits=[args.split], checkpoint=args.checkpoint, overrides=args.overrides)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result, indent=1) if args.json else format_results(result, args.split))
    return 0


def _repeat(args: argparse.Namespace) -> int:
    _need_torch()
    from ple_rec.agent import run_verb
    from ple_rec.analysis.repeat import format_summaries, repeat
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    def start(file: Path, run_dir: Path) -> int:
        verb = ["train", "--config", str(file), "--run-dir", str(run_dir), "--overwrite", "--ranks", str(args.ranks)]
        return run_verb(verb)

    summaries, failed = [], []
    for config in [load_config(RunConfig, source, args.overrides) for source in args.config]:
        summary, lost = repeat(config, range(args.seeds), args.runs / config.name, start)
        summaries.append(summary)
        failed += [f"{config.name} seed {seed}" for seed in lost]
    print(f"\n{format_summaries(summaries)}")
    if failed:
        print(f"ple-rec: failed: {', '.join(failed)}; the others are kept, run again to retry", file=sys.stderr)
    return _SOME_FAILED if failed else 0


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(
            "torch and torchrec",
            f"cannot be loaded ({error})",
            "training and evaluation need them",
            "run `ple-rec doctor`, which says what to install",
        ) from error


def _guarded(call: Callable[[], int | None]) -> int:
    """Run a verb; a user's error becomes its message and exit code, anything else a traceback and 1."""
    rank = os.environ.get("RANK")
    try:
        return call() or 0
    except PleRecError as error:
        if rank in (None, "0") or not isinstance(error, DivergedError):
            print(f"ple-rec: {'' if rank in (None, '0') else f'rank {rank}: '}{error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("ple-rec: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _peer_failed(error, rank)


def _peer_failed(error: Exception, rank: str | None) -> int:
    """Exit code of a rank that lost its peers; any other error goes on as a bug."""
    if rank is None:
        raise error
    from ple_rec.parallel.agree import PeerError
    from ple_rec.parallel.process_group import is_lost_peer

    if isinstance(error, PeerError):
        return error.exit_code
    if not is_lost_peer(error):
        raise error
    # The rank that failed says why; its exit code must reach the agent before this one's does.
    time.sleep(_PEER_GRACE_SECONDS)
    print(f"ple-rec: rank {rank}: stops, since another rank has failed", file=sys.stderr, flush=True)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ple-rec`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(arguments)
    args.argv = arguments
    call: Callable[[argparse.Namespace], int] = args.call
    return _guarded(lambda: call(args))
