"""`ple-rec compare`: flags, input checks and exit codes; `ple_rec.analysis.compare` runs the comparison."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ple_rec.cli.console import log, require_torch, show_keys
from ple_rec.cli.options import (
    ConfigSource,
    HelpConfig,
    OverrideFlags,
    flag,
    last_list,
    location_flag,
    names_text,
    non_negative_int,
    positive_int,
    verb_app,
)
from ple_rec.config.choices import COMPARISON_CONFIGS, Match, recipe_names
from ple_rec.errors import UserError
from ple_rec.runtime.exits import PREEMPTED, SOME_FAILED
from ple_rec.storage import Location, is_remote

if TYPE_CHECKING:
    from ple_rec.config.compare import CompareConfig

app = verb_app(
    "compare",
    f"""\
{names_text("recipes", recipe_names(COMPARISON_CONFIGS))}

A comparison is one of the recipes, or a TOML file. The smallest:

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
""",
    usage="ple-rec compare --config FILE|NAME [OPTIONS]",
)


_DEFAULT_FOLDER = Path("runs/compare")


def _parse_share(text: str) -> tuple[int, int]:
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise ValueError(f"got {text!r}; write I/N with I from 0 to N-1, e.g. 0/4")
    return int(index), int(number)


@Parameter(name="*")
@dataclass(frozen=True)
class CompareFlags:
    """Flags of `ple-rec compare`."""

    _: KW_ONLY
    config: Annotated[
        ConfigSource,
        flag("TOML file, or name of a recipe of a comparison", completer=lambda _: recipe_names(COMPARISON_CONFIGS)),
    ] = None
    overrides: Annotated[OverrideFlags, flag("override a key of every run, e.g. train.epochs=2 (repeatable)")] = ()
    seeds: Annotated[int | None, flag("train seeds 0 to N-1; default: from the comparison", "N", positive_int)] = None
    match: Annotated[Match | None, flag("cost that is made equal; default: from the comparison")] = None
    tune: Annotated[
        int | None,
        flag(
            "trials of each variant on the validation split before its runs; default: from the comparison",
            "N",
            non_negative_int,
        ),
    ] = None
    variants: Annotated[
        tuple[str, ...] | None,
        flag(
            "train only these, and the baseline; default: all",
            "NAME [NAME ...]",
            consume_multiple=1,
            converter=last_list,
        ),
    ] = None
    runs: Annotated[
        Location, location_flag("folder of comparisons, or an address, s3://...; default: runs/compare", "DIR")
    ] = _DEFAULT_FOLDER
    jobs: Annotated[
        int | None, flag("concurrent runs; default: one per GPU, or per usable core", "N", positive_int)
    ] = None
    share: Annotated[
        tuple[int, int],
        flag(
            "train the I-th of N shares of the runs, counted from 0; with tuning, of the variants",
            "I/N",
            _parse_share,
            n_tokens=1,
        ),
    ] = (0, 1)
    reuse: Annotated[
        tuple[Path, ...],
        flag(
            "copy finished runs with the same settings from directories of other comparisons",
            "DIR [DIR ...]",
            consume_multiple=1,
        ),
    ] = ()
    overwrite: Annotated[bool, flag("replace existing runs with other settings")] = False
    dry_run: Annotated[
        bool, flag("print the variants with their cost, estimate the time of the runs by short ones, then stop")
    ] = False
    json: Annotated[bool, flag("print compare.json instead of tables")] = False
    help_config: HelpConfig = False


@app.default
def compare(*, options: CompareFlags = CompareFlags()) -> int:
    """Train every variant of a comparison with every seed, at equal cost.

    Shows which variants beat single-task, where tasks hurt each other, and which differences are noise. Writes to
    DIR/<name>/: compare.toml, compare.json, compare.html, figures/, and run directories <variant>/seed-<n>/; with
    --tune, also <variant>/tune.json and tune/. Finished runs are kept, interrupted ones are resumed, and failed ones
    are reported (exit code 5) and tried again the next time. Runs that were asked to stop (exit code 75)
    go on the next time, too.
    """
    if options.help_config:
        from ple_rec.config.compare import CompareConfig

        show_keys(CompareConfig)
        return 0
    comparison, folder = read_comparison(options)
    require_torch()
    from ple_rec.analysis.compare.compare import run_comparison
    from ple_rec.analysis.compare.in_store import hold_comparison
    from ple_rec.analysis.compare.reuse import check_comparisons
    from ple_rec.reports.compare.page import report_comparison
    from ple_rec.text.messages import print_messages

    check_comparisons(options.reuse)
    _check_share(options)
    comparison_dir = options.runs / comparison.name
    try:
        with (
            print_messages("stderr" if options.json else "stdout"),
            hold_comparison(comparison_dir, read_only=options.dry_run) as directory,
        ):
            outcome = run_comparison(
                comparison,
                folder,
                options.overrides,
                directory,
                report=report_comparison,
                jobs=options.jobs,
                share=options.share,
                overwrite=options.overwrite,
                dry_run=options.dry_run,
                trained_variants=options.variants,
                reuse=options.reuse,
            )
    except KeyboardInterrupt:
        log("finished runs are kept; the same command resumes the others")
        raise
    if outcome is None:
        return 0
    if options.json:
        print(outcome.json)
    if outcome.failed:
        log(
            f"ple-rec: failed: {', '.join(outcome.failed)}; the other runs are kept, run again to retry the failed ones"
        )
        return SOME_FAILED
    return PREEMPTED if outcome.stopped else 0


def check(*, options: CompareFlags) -> None:
    """Check comparison, directories of `--reuse` and existing runs, as `compare` does before it trains.

    Raises:
        UserError: One of them is wrong.
    """
    from ple_rec.analysis.compare.in_store import hold_comparison
    from ple_rec.analysis.compare.matrix import build_matrix
    from ple_rec.analysis.compare.reuse import check_comparisons
    from ple_rec.analysis.compare.work import create_studies, read_work

    _check_share(options)
    comparison, folder = read_comparison(options)
    check_comparisons(options.reuse)
    matrix = build_matrix(comparison, folder, options.overrides, options.variants)
    with hold_comparison(options.runs / comparison.name, read_only=True) as directory:
        root = directory.folder
        read_work(matrix, create_studies(matrix, comparison.tune, root), root, overwrite=options.overwrite)


def _check_share(options: CompareFlags) -> None:
    if is_remote(options.runs) and options.share != (0, 1):
        rule = "shares of a comparison write into one folder at the same time"
        raise UserError("--share --runs", f"got {options.runs}", rule, "give --runs on a disk that the hosts share")


def read_comparison(options: CompareFlags) -> tuple[CompareConfig, Path]:
    """Return the comparison, with the flags but `--set` applied, and the folder to which its paths are relative.

    Raises:
        UserError: The comparison is missing or wrong.
    """
    from ple_rec.analysis.compare.load import load_comparison

    if options.config is None:
        fix = "give one, e.g. --config census-compare"
        raise UserError("--config", "missing", "it names a TOML file or a recipe of a comparison", fix)
    return load_comparison(
        options.config, seeds=options.seeds, match=options.match, trials=options.tune, variants=options.variants
    )
