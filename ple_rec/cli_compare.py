"""`ple-rec compare`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ple_rec.cli_words import add_set, count, positive
from ple_rec.errors import UserError

if TYPE_CHECKING:
    from ple_rec.config.compare import CompareConfig

_SOME_FAILED = 5
_EPILOG = """\
A comparison is a TOML file, or one of the recipes: {recipes}. The smallest:

  name = "mine"
  [variants.single_task]
  base = "census-single-task"       # a recipe or a TOML file of `ple-rec train`
  [variants.ple]
  base = "census-ple"
  overrides = ["model.dropout=0.3"]

examples:
  ple-rec compare --config census-compare --seeds 2 --variants single_task mmoe ple
  ple-rec compare --config mine.toml --match none --set train.epochs=3
  ple-rec compare --config mine.toml --tune 20               # every variant the same number of trials, then its seeds
  ple-rec compare --config census-compare --share 0/4       # on each of four hosts, 0/4 to 3/4, that see one folder
"""


def add_compare(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec compare`."""
    from ple_rec.config.compare import Match
    from ple_rec.config.recipes import COMPARISONS, recipe_names

    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.description = (
        "Train every variant of a comparison with every seed, at equal cost, and say who beats single-task, where\n"
        "tasks hurt each other, and what is noise. Writes DIR/<name>/: compare.toml, compare.json, compare.html,\n"
        "figures/, and <variant>/seed-<n>/, a run directory each; with --tune,\n"
        "<variant>/tune.json and tune/ before them. Finished runs are kept, interrupted ones go on, failed ones are\n"
        "reported (exit code 5) and tried anew the next time."
    )
    verb.epilog = _EPILOG.format(recipes=", ".join(recipe_names(COMPARISONS)))
    verb.add_argument(
        "--config", metavar="FILE|NAME", required=True, help="a TOML file, or the name of a recipe of a comparison"
    )
    add_set(verb, "override a key of every run, e.g. train.epochs=2 (repeatable)")
    verb.add_argument("--seeds", type=positive, metavar="N", help="seeds 0 to N-1; default: of the comparison")
    verb.add_argument("--match", choices=get_args(Match), help="what is made equal; default: of the comparison")
    verb.add_argument(
        "--tune",
        type=count,
        metavar="N",
        help="trials of each variant on the validation split before its runs; default: of the comparison",
    )
    verb.add_argument("--variants", nargs="+", metavar="NAME", help="train only these, and the baseline; default: all")
    verb.add_argument("--runs", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: runs/compare")
    verb.add_argument(
        "--jobs", type=positive, metavar="N", help="runs side by side; default: one a GPU, or one a usable core"
    )
    verb.add_argument(
        "--share",
        type=_share,
        default=(0, 1),
        metavar="I/N",
        help="train only every N-th run from the I-th; with tuning, every N-th variant",
    )
    verb.add_argument(
        "--reuse",
        action="extend",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="take finished runs of the same settings from the directories of other comparisons",
    )
    verb.add_argument("--overwrite", action="store_true", help="remove runs of other settings that lie there")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="say which runs there would be, at what cost, and, by short runs, how long they take, then stop",
    )
    verb.add_argument("--json", action="store_true", help="print compare.json instead of tables")
    verb.add_argument("--help-config", action=_HelpConfig, nargs=0, help="list every key of the TOML file, then stop")


class _HelpConfig(argparse.Action):
    """Lists the keys of a comparison, as `--help` lists flags: nothing else need be given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print them, and end."""
        from ple_rec.config.compare import CompareConfig
        from ple_rec.config.describe import describe

        print("base: a TOML file or a recipe to start from, optional: say only what differs\n")
        print(describe(CompareConfig))
        parser.exit()


def _share(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    if not (index.isdecimal() and of.isdecimal() and int(index) < int(of)):
        raise argparse.ArgumentTypeError(f"got {text!r}; write I/N with I from 0 to N-1, e.g. 0/4")
    return int(index), int(of)


def compare(args: argparse.Namespace) -> int:
    """Run the comparison.

    Raises:
        UserError: the input is wrong; nothing has been trained then.
    """
    from ple_rec.analysis.compare.compare import run_comparison
    from ple_rec.analysis.compare.reuse import check_comparisons
    from ple_rec.text.messages import messages

    asked, folder = _asked(args)
    check_comparisons(args.reuse)

    try:
        with messages("stderr" if args.json else "stdout"):
            done = run_comparison(
                asked,
                folder,
                args.overrides,
                args.runs / asked.name,
                jobs=args.jobs,
                share=args.share,
                overwrite=args.overwrite,
                dry_run=args.dry_run,
                only=args.variants,
                reuse=args.reuse,
            )
    except KeyboardInterrupt:
        print("what has finished is kept; the same command goes on with the rest", file=sys.stderr)
        raise
    if done is None:
        return 0
    if args.json:
        print(done.json)
    if done.failed:
        print(f"ple-rec: failed: {', '.join(done.failed)}; the others are kept, run again to retry", file=sys.stderr)
    return _SOME_FAILED if done.failed else 0


def check_compare(args: argparse.Namespace) -> None:
    """What `compare` would refuse before it trains.

    Raises:
        UserError: the input is wrong.
    """
    from ple_rec.analysis.compare.matrix import matrix_of
    from ple_rec.analysis.compare.reuse import check_comparisons
    from ple_rec.analysis.compare.work import studies_of, work_of

    asked, folder = _asked(args)
    check_comparisons(args.reuse)
    matrix = matrix_of(asked, folder, args.overrides, args.variants)
    root = args.runs / asked.name
    work_of(matrix, studies_of(matrix, asked.tune, root), root, overwrite=args.overwrite)


def _asked(args: argparse.Namespace) -> tuple[CompareConfig, Path]:
    """The comparison as the flags change it, and the folder that its paths start from."""
    from ple_rec.config.compare import CompareConfig
    from ple_rec.config.load import ConfigError, load_config
    from ple_rec.config.recipes import COMPARISONS
    from ple_rec.config.words import suggestion

    try:
        asked = load_config(CompareConfig, args.config, recipes=COMPARISONS)
    except ConfigError as error:
        if _is_of_a_run(error):
            raise UserError(
                args.config,
                "the configuration of a run",
                "a comparison is a file of its own, which names runs in [variants.NAME] tables",
                "write one, with this file as the base of a variant; `ple-rec compare --help` shows the smallest",
            ) from None
        raise
    changes: dict[str, Any] = {key: value for key in ("seeds", "match") if (value := getattr(args, key)) is not None}
    if args.tune is not None:
        changes["tune"] = asked.tune.model_copy(update={"trials": args.tune})
    if args.variants is not None and (unknown := [name for name in args.variants if name not in asked.variants]):
        known = suggestion(unknown[0], list(asked.variants))
        raise UserError("--variants", f'got "{unknown[0]}"', known, f"name variants of {args.config}")
    folder = Path(args.config).parent if Path(args.config).is_file() else Path()
    return asked.model_copy(update=changes), folder


def _is_of_a_run(error: UserError) -> bool:
    """Whether what was read has a model and no variants, by its problems as a comparison."""
    keys = {line.strip().partition(":")[0] for line in error.rule.splitlines()}
    return {"model", "variants"} <= keys
