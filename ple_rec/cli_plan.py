"""`ple-rec plan`: its arguments and what it calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec.cli_words import positive
from ple_rec.config.cluster import DEVICES, current_preset_name
from ple_rec.config.words import either
from ple_rec.errors import UserError
from ple_rec.text.units import parse_count

if TYPE_CHECKING:
    from ple_rec.planning.options import Options

_GPUS = 8  # of a host
_EPILOG = """\
examples:
  ple-rec plan --config tencent-ple --hosts 8 --gpus-per-host 8 --device h100 --out plan.json
  ple-rec plan --config tencent-ple --hosts 2 --ranks-per-host 4 --device cpu --set embeddings.sharding=row_wise
  ple-rec plan --config tencent-ple --device a100-80 --set embeddings.dim=512 --find
  ple-rec plan --config tencent-ple --device h100 --find --samples-per-second 50e6
  ple-rec plan --config tencent-ple --device h100 --rows user_id=300e6 --samples 5e9
  ple-rec plan --compare a.json b.json
  ple-rec train --config tencent-ple --plan plan.json

docs/planning.md explains every figure.
"""


def add_plan(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec plan`; those of the configuration are the caller's."""
    verb.description = (
        "Decide which rank holds which rows of which table, by TorchRec's planner and cost model; needs neither the "
        "hosts nor a GPU. Prints tables, ranks and the estimated step; writes plan.json and its page. Where the tables "
        "do not fit, says which breaks which limit, and up to three changes that were tried and fit."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("--hosts", type=positive, metavar="N", help="number of hosts; default 1")
    verb.add_argument(
        "--gpus-per-host",
        "--ranks-per-host",
        dest="ranks_per_host",
        type=positive,
        metavar="N",
        help=f"ranks of each host, one a GPU; default {_GPUS}, and 1 on CPUs",
    )
    verb.add_argument(
        "--device",
        type=current_preset_name,
        choices=DEVICES,
        help="kind of the hosts; for another kind take the nearest, and give its figures in [topology]",
    )
    verb.add_argument(
        "--schema",
        metavar="FILE|NAME",
        help="rows of the tables: a schema.toml, or tencent; default: of the dataset directory, else data.described_by",
    )
    verb.add_argument(
        "--rows",
        action="append",
        type=_table_rows,
        default=[],
        metavar="TABLE=N",
        help="rows of a table in the place of the schema's, e.g. user_id=300e6 (repeatable)",
    )
    verb.add_argument(
        "--samples", type=_count, metavar="N", help="samples of an epoch in the place of the schema's, e.g. 5e9"
    )
    verb.add_argument("--out", type=Path, metavar="FILE", help="write plan.json there, and plan.html beside it")
    verb.add_argument("--find", action="store_true", help="look for the fewest hosts on which the tables fit")
    verb.add_argument(
        "--samples-per-second",
        type=_number,
        metavar="N",
        help="with --find: the fewest that reach this rate, e.g. 20e6",
    )
    verb.add_argument("--all", action="store_true", help="print every table and every rank")
    verb.add_argument(
        "--roofline", action="store_true", help="print what bounds a step on GPUs at their peaks too: FLOPs, bytes"
    )
    verb.add_argument("--json", action="store_true", help="print the plan as JSON instead of tables")
    verb.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="say how two plans differ, then stop")


def plan(args: argparse.Namespace, need_torch: Callable[[], None]) -> int:
    """Run the verb.

    Args:
        args: Of the command line.
        need_torch: Called before torch is needed.

    Raises:
        UserError: flags that do not go together, and as planning says.
    """
    if args.compare is not None:
        return _compare(args)
    options = options_of(args)
    need_torch()
    from ple_rec.planning import run
    from ple_rec.text.messages import messages

    with messages("stderr" if args.json else "stdout"):
        return run.plan(options)


def options_of(args: argparse.Namespace) -> Options:
    """What is to be planned; needs no torch.

    Raises:
        UserError: flags that do not go together, a configuration that is wrong, a file that cannot be written.
    """
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig
    from ple_rec.planning.options import Options, check_out, cluster_from

    if args.config is None:
        raise UserError(
            "--config", "missing", "it names a TOML file or a recipe", "give one, e.g. --config tencent-ple"
        )
    if args.samples_per_second is not None and not args.find:
        raise UserError(
            "--samples-per-second",
            f"{args.samples_per_second:g} without --find",
            "it is what --find is to reach",
            "add --find, or leave it out; a plan says its rate",
        )
    if args.roofline and args.json:
        raise UserError("--roofline", "with --json", "it is text beside the plan's tables", "leave one of them out")
    if args.find and args.hosts is not None:
        raise UserError("--find", f"with --hosts {args.hosts}", "it looks for the number of hosts", "leave out --hosts")
    config = load_config(RunConfig, args.config, args.overrides)
    device = args.device or (config.topology.device if config.topology is not None else None)
    ranks = args.ranks_per_host or (1 if device == "cpu" else _GPUS)
    cluster = cluster_from(config, args.config, args.hosts or 1, ranks, args.device)
    if args.roofline and not cluster.cuda:
        raise UserError(
            "--roofline",
            f"for {cluster.describe()}",
            "it is of GPUs",
            f"give --device {either([device for device in DEVICES if device != 'cpu'])}, or leave it out",
        )
    if args.out is not None:
        check_out(args.out)
    return Options(
        config=config,
        cluster=cluster,
        schema=args.schema,
        rows=dict(args.rows),
        samples=args.samples,
        out=args.out,
        find=args.find,
        samples_per_second=args.samples_per_second,
        everything=args.all,
        roofline=args.roofline,
        json=args.json,
    )


def _compare(args: argparse.Namespace) -> int:
    from ple_rec.config.plan_file import load_plan
    from ple_rec.planning.compare import format_comparison

    names = ("config", "device", "hosts", "out", "find", "all", "roofline", "json", "schema", "rows", "samples")
    flags = {f"--{name}": getattr(args, name) for name in names}
    flags |= {"--set": args.overrides, "--gpus-per-host": args.ranks_per_host}
    flags |= {"--samples-per-second": args.samples_per_second}
    if odd := [flag for flag, value in flags.items() if value]:
        raise UserError(
            f"--compare {odd[0]}", "both given", "--compare reads two plans and says how they differ", "leave one out"
        )
    a, b = args.compare
    sys.stdout.write(format_comparison(load_plan(a), load_plan(b), (str(a), str(b))) + "\n")
    return 0


def _number(text: str) -> float:
    value = parse_count(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"got {text!r}; a number above 0 reads 20e6 or 20M")
    return value


def _count(text: str) -> int:
    value = round(_number(text))
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected 1 or more")
    return value


def _table_rows(text: str) -> tuple[str, int]:
    table, _, rows = text.partition("=")
    if not table or not rows:
        raise argparse.ArgumentTypeError(f"got {text!r}; rows read TABLE=N, e.g. user_id=300e6")
    return table, _count(rows)
