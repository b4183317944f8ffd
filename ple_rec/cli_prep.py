"""`ple-rec prep`: its arguments and what it calls."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ple_rec.cli_words import add_set, size
from ple_rec.errors import DataError, UserError
from ple_rec.text.suggest import nearest
from ple_rec.text.units import short_bytes

if TYPE_CHECKING:
    from data_prep.run import Options

SYNTHETIC = ("tencent-synthetic", "mmoe-synthetic")
LEAST_MEMORY = 64 << 20  # bytes; the engine gets through small logs with it
_SYNTHETIC_FLAGS = ("rows", "seed", "correlation", "dim", "raw")
_EPILOG = """\
data sets by name:
  census             Census-Income (KDD); fetched unless --from is given
  kuairand           KuaiRand feed logs: --from the folder of the public files
  ali-ccp            Ali-CCP: --from the folder of sample_skeleton_*.csv and common_features_*.csv
  tencent-synthetic  the paper's world: 46.9 M users, 2.7 M videos, 995 M rows of 8 days, or --rows fewer
  mmoe-synthetic     two regressions of a chosen --correlation (the MMoE paper's process)
or a TOML file of your own; `ple-rec prep --help-config` lists its keys and the functions of its expressions.

examples:
  ple-rec prep feed.toml --from logs/ --out data/feed --dry-run
  ple-rec prep feed.toml --from logs/ --out data/feed --memory 8GiB
  ple-rec prep feed.toml --from /shared/logs --out /shared/feed --engine spark --master spark://host:7077
  ple-rec prep feed.toml --from logs/ --out data/feed-9 --append day=9 --parent data/feed
"""


def add_prep(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec prep`."""
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("name", nargs="?", metavar="NAME|FILE", help="a data set by name, or a TOML file")
    verb.add_argument(
        "--from", dest="source", metavar="DIR", help="the raw files: a folder, a file or s3://...; default: here"
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="dataset directory to write")
    verb.add_argument("--overwrite", action="store_true", help="replace the dataset that is there")
    verb.add_argument("--dry-run", action="store_true", help="read schemas and a sample, say what would be done")
    verb.add_argument(
        "--append", metavar="DAY", help="prepare one more day, day=9 or day=2022-05-08, with the ids of --parent"
    )
    verb.add_argument("--parent", type=Path, metavar="DIR", help="dataset directory whose ids are kept")
    verb.add_argument(
        "--engine", choices=["duckdb", "spark"], default="duckdb", help="default: duckdb, in this process"
    )
    verb.add_argument("--master", metavar="URL", help="of Spark; default: a local one")
    verb.add_argument(
        "--memory", metavar="SIZE", type=_memory, help="use about so much, e.g. 4GiB; default: most of it"
    )
    verb.add_argument("--threads", metavar="N", type=_count, help="default: all cores")
    add_set(verb, "override a key of the configuration, e.g. on_bad_row=drop, 'log.files=[\"a\"]' (repeatable)")
    verb.add_argument("--help-config", action="store_true", help="list every key of the TOML file, then stop")
    synthetic = verb.add_argument_group("synthetic data sets")
    synthetic.add_argument("--rows", metavar="N", type=_count, help="rows of all splits together; default: the paper's")
    synthetic.add_argument("--seed", metavar="N", type=int, help="of the world; default 0")
    synthetic.add_argument("--correlation", metavar="P", type=float, help="of mmoe-synthetic's tasks; default 0.5")
    synthetic.add_argument("--dim", metavar="N", type=_count, help="inputs of mmoe-synthetic; default 512")
    synthetic.add_argument(
        "--raw",
        action="store_true",
        help="tencent-synthetic: write raw logs to --out, to be prepared by its own recipe",
    )


def _memory(text: str) -> int:
    bytes_ = size(text)
    if bytes_ < LEAST_MEMORY:
        meant = f"; did you mean {text}GiB?" if text.isdigit() else ""
        raise argparse.ArgumentTypeError(f"got {text!r}; at least 64MiB is needed{meant}")
    return bytes_


def _count(text: str) -> int:
    try:
        value = float(text) if re.fullmatch(r"\d+(\.\d+)?[eE]\d+", text) else int(text.replace("_", ""))
        count = int(value)
    except (ValueError, OverflowError):  # also 1e400, which is infinite
        value = count = 0
    if count < 1 or value != count:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive int")
    return count


def prep(args: argparse.Namespace) -> tuple[str, int]:
    """Run the verb; return what it has to say at its end, and its exit code."""
    from ple_rec.text.messages import messages

    if args.help_config:
        return _help_config(), 0
    _check_words(args)
    with messages("stderr"):
        return (_synthetic(args), 0) if args.name in SYNTHETIC else _files(args)


def check_prep(args: argparse.Namespace) -> None:
    """Refuse what the verb would before it opens a raw file.

    Raises:
        UserError: flags, name, configuration, engine, parent, or raw files that are not there.
    """
    _check_words(args)
    if args.name in SYNTHETIC:
        _check_synthetic(args)
        return
    from data_prep.run import check_before

    check_before(args.name, _options(args))


def _check_words(args: argparse.Namespace) -> None:
    if args.name is not None and args.name not in SYNTHETIC:
        _check_name(args.name)
    missing = [] if args.name is not None else ["NAME|FILE"]
    if args.out is None and not args.dry_run:
        missing.append("--out")
    if missing:
        rule = "it needs both" if len(missing) == 2 else "it needs one"
        raise UserError("ple-rec prep", f"{' and '.join(missing)} missing", rule, "see `ple-rec prep --help`")


def _given(args: argparse.Namespace, names: Sequence[str]) -> str:
    """Those of some flags that stand on the command line."""
    flags = {"source": "--from", "overrides": "--set", "dry_run": "--dry-run"}
    given = [
        name for name in names if (value := getattr(args, name)) is not None and value is not False and value != []
    ]
    return ", ".join(flags.get(name, f"--{name}") for name in given)


def _options(args: argparse.Namespace) -> Options:
    from data_prep.run import Options

    if given := _given(args, _SYNTHETIC_FLAGS):
        raise UserError(f"ple-rec prep {args.name}", f"got {given}", "synthetic data sets take them", "drop it")
    if args.parent is not None and args.append is None:
        raise UserError("--parent", "no --append", "it names what a day is added to", "give --append day=N, or drop it")
    if args.engine != "spark" and args.master is not None:
        raise UserError("--master", f"--engine {args.engine}", "it is Spark's", "add --engine spark")
    return Options(
        source=args.source,
        overwrite=args.overwrite,
        engine=args.engine,
        master=args.master,
        memory=args.memory,
        threads=args.threads,
        append=args.append,
        parent=args.parent,
        overrides=tuple(args.overrides),
    )


def _files(args: argparse.Namespace) -> tuple[str, int]:
    from data_prep.progress import standard
    from data_prep.run import prepare

    options = _options(args)
    if args.dry_run:
        from data_prep.dry_run import dry_run

        found = dry_run(args.name, args.out, options, progress=standard())
        return str(found), DataError.exit_code if found.refused else 0
    with _ending_on_sigterm(args.out):
        return str(prepare(args.name, args.out, options, progress=standard())), 0


@contextmanager
def _ending_on_sigterm(out: Path) -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C: files that are half written are removed, and it is said how to go on."""
    from data_prep.stage import keeps

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        name = signal.Signals(number).name
        then = "the same command goes on from what is finished" if keeps(out) else "nothing was finished"
        sys.stderr.write(f"ple-rec: stopped by {name}; {then}\n")
        raise SystemExit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_name(name: str) -> None:
    """Refuse what is neither a data set nor a file, with what may have been meant."""
    from data_prep.run import recipe_names

    known = sorted((*recipe_names(), *SYNTHETIC))
    if name in known or Path(name).is_file():
        return
    named = name.endswith(".toml") or "/" in name
    value = f"no such file in {Path.cwd()}" if named and not Path(name).is_absolute() else "no such file"
    if Path(f"{name}.toml").is_file():
        near: str | None = f"{name}.toml"
    elif named:
        beside = sorted(file.name for file in Path(name).parent.glob("*.toml"))
        close = nearest(Path(name).name, beside)
        near = None if close is None else str(Path(name).with_name(close))
    else:
        near = nearest(name, known)
    fix = f"did you mean {near!r}?" if near else "name one of them, or the path of a TOML file of your own"
    raise UserError(
        name if named else "prep",
        value if named else f"unknown data set {name!r}",
        f"{'it is a TOML file, or one of' if named else 'known are'} {', '.join(known)}",
        fix,
    )


def _check_synthetic(args: argparse.Namespace) -> None:
    if given := _given(args, ["source", "append", "parent", "master", "overrides"]):
        raise UserError(f"ple-rec prep {args.name}", f"got {given}", "it is generated, not read", "drop it")
    if args.engine == "spark":
        raise UserError(f"ple-rec prep {args.name}", "got --engine spark", "it is generated on one machine", "drop it")
    if args.name != SYNTHETIC[1] and (given := _given(args, ["correlation", "dim"])):
        raise UserError(given, args.name, f"only {SYNTHETIC[1]} has one", "drop it")


def _synthetic(args: argparse.Namespace) -> str:
    from data_prep.progress import standard
    from data_prep.synthetic.oracle import describe
    from data_prep.synthetic.prepare import prepare_synthetic

    _check_synthetic(args)
    if args.raw:
        return _raw(args)
    world: dict[str, Any] = {
        "rows": args.rows,
        "seed": args.seed or 0,
        "correlation": args.correlation,
        "dim": args.dim,
    }
    if args.dry_run:
        from data_prep.dry_run import dry_run_synthetic

        return str(dry_run_synthetic(args.name, **world))
    progress = standard(args.name)

    def reach(done: int, total: int) -> None:
        progress.reach(done, total)
        if done == total:
            progress.phase("describe")

    with progress.running({"generate": 4.0, "describe": 1.0}, 0):
        progress.phase("generate")
        summary = prepare_synthetic(
            args.name,
            args.out,
            **world,
            overwrite=args.overwrite,
            processes=_processes(args),
            memory=args.memory,
            progress=reach,
        )
    last = f"  best reachable on test: {describe(summary.stats['reachable']['test'])}"
    if args.name == SYNTHETIC[1]:
        last += f"; correlation of the labels {summary.stats['correlation']['test'][0]['r']:.4f}"
    return f"{summary}\n{last}"


def _raw(args: argparse.Namespace) -> str:
    from data_prep.progress import standard
    from data_prep.synthetic.tencent import write_raw
    from data_prep.synthetic.world import PAPER_ROWS

    if args.name != SYNTHETIC[0]:
        raise UserError("--raw", args.name, f"only {SYNTHETIC[0]} has raw logs", "drop it")
    if given := _given(args, ["overwrite", "memory", "dry_run"]):
        raise UserError("--raw", f"got {given}", "raw logs are written a block at a time, over nothing", "drop it")
    progress = standard(args.name)
    rows = PAPER_ROWS if args.rows is None else args.rows
    with progress.running({"generate": 1.0}, rows):
        progress.phase("generate")
        files = write_raw(args.out, rows, args.seed or 0, processes=_processes(args), progress=progress.advance)
    return f"{args.out}: {rows:,} rows in {len(files)} files; next: ple-rec prep tencent --from {args.out} --out DIR"


def verify(path: Path) -> tuple[str, int]:
    """Read a dataset directory to its last byte; the lines to print, and the exit code.

    Raises:
        UserError: there is no such directory.
    """
    from ple_rec.data.integrity import Digests
    from ple_rec.data.verify import dataset_problems

    problems = list(dataset_problems(path))
    if problems:
        return "\n".join([f"{path}: DAMAGED", *(f"  {error}" for error in problems)]), DataError.exit_code
    files = Digests.read(path).files
    if not files:
        return f"{path}: every row keeps the rules; it has no digests, so whether bytes changed is not known", 0
    size = short_bytes(sum(file.bytes for file in files.values()))
    return f"{path}: whole: {len(files)} files, {size}, as they were prepared, and every row keeps the rules", 0


def _processes(args: argparse.Namespace) -> int:
    return args.threads or len(os.sched_getaffinity(0))


def _help_config() -> str:
    from data_prep.expressions import describe as functions
    from ple_rec.config.describe import describe
    from ple_rec.config.prep import PrepConfig

    return f"{describe(PrepConfig)}\n\nexpressions\n{functions()}"
