"""`ple-rec plan`: its arguments and what it calls."""

from __future__ import annotations

import argparse
from pathlib import Path

from ple_rec.cli_words import positive
from ple_rec.config.cluster import DEVICES
from ple_rec.errors import UserError

_GPUS = 8  # of a host
_EPILOG = """\
examples:
  ple-rec plan --config tencent-ple --hosts 8 --gpus-per-host 8 --device h100 --out plan.json
  ple-rec plan --config tencent-ple --hosts 2 --ranks-per-host 4 --device cpu --set embeddings.sharding=row_wise
  ple-rec plan --config tencent-ple --device a100 --set embeddings.dim=512 --find
  ple-rec plan --config tencent-ple --device h100 --find --samples-per-second 50e6
  ple-rec plan --compare a.json b.json
  ple-rec train --config tencent-ple --plan plan.json

docs/planning.md explains every figure.
"""


def add_plan(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec plan`; those of the configuration are the caller's."""
    verb.description = (
        "Decide which rank holds which rows of which table, by TorchRec's planner and cost model; needs neither the "
        "hosts nor a GPU. Prints tables, ranks and the estimated step; writes plan.json and its page. Where the tables "
        "do not fit, says which breaks which limit, and three changes that were tried and fit."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("--hosts", type=positive, default=1, metavar="N", help="number of hosts; default 1")
    verb.add_argument(
        "--gpus-per-host",
        "--ranks-per-host",
        dest="ranks_per_host",
        type=positive,
        metavar="N",
        help=f"ranks of each host, one a GPU; default {_GPUS}, and 1 on CPUs",
    )
    verb.add_argument("--device", choices=DEVICES, help="kind of the hosts; [topology] of the configuration changes it")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write plan.json there, and plan.html beside it")
    verb.add_argument("--find", action="store_true", help="look for the fewest hosts on which the tables fit")
    verb.add_argument(
        "--samples-per-second", type=_rate, metavar="N", help="with --find: the fewest that reach this rate, e.g. 20e6"
    )
    verb.add_argument("--all", action="store_true", help="print every table and every rank")
    verb.add_argument("--json", action="store_true", help="print the plan as JSON instead of tables")
    verb.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="say how two plans differ, then stop")


def plan(args: argparse.Namespace) -> int:
    """Run the verb.

    Raises:
        UserError: flags that do not go together, and as planning says.
    """
    from ple_rec.planning import run

    if args.compare is not None:
        return run.compare(*args.compare)
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
    if args.find and args.hosts != 1:
        raise UserError("--find", f"with --hosts {args.hosts}", "it looks for the number of hosts", "leave out --hosts")
    ranks = args.ranks_per_host or (1 if args.device == "cpu" else _GPUS)
    return run.plan(
        run.Options(
            config=args.config,
            overrides=args.overrides,
            hosts=args.hosts,
            ranks_per_host=ranks,
            device=args.device,
            out=args.out,
            find=args.find,
            samples_per_second=args.samples_per_second,
            everything=args.all,
            json=args.json,
        )
    )


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive number")
    return value
