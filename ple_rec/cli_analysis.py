"""The verbs that look at runs which are there: what `runs`, `diff`, `report` and `analyze` call."""

from __future__ import annotations

import argparse

from ple_rec.cli_words import add_set, positive

_WIDTH = 120  # characters of a line that no terminal shows
_EPILOG = """\
examples:
  ple-rec analyze runs/census-ple
  ple-rec analyze census-ple --by sex --by education
  ple-rec analyze kuairand-ple --by tab --batches 50 --split valid --json

docs/analyze.md explains every figure.
"""


def add_analyze(verb: argparse.ArgumentParser) -> None:
    """The arguments of `ple-rec analyze`."""
    verb.description = (
        "Look into a finished run: how much each gate takes of each expert over the test split, how differently tasks "
        "use what they share, where their gradients conflict, how their labels correlate, and whether the gates react "
        "to the values of a column. Writes analysis.html, analysis.json and test_rows.npz into the run directory."
    )
    verb.epilog, verb.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    verb.add_argument("run", metavar="RUN", help="run directory, or its name under runs/")
    verb.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of the test split by whose values the gates are compared, beside those of evaluation.slices "
        "(repeatable)",
    )
    verb.add_argument(
        "--batches", type=positive, default=20, metavar="N", help="batches on which gradients are taken; default 20"
    )
    verb.add_argument(
        "--split",
        choices=["train", "valid", "test"],
        default="train",
        help="of these batches: the first of training (default), or such as are spread over another split",
    )
    verb.add_argument("--json", action="store_true", help="print analysis.json instead of tables")
    add_set(verb, "override a configuration key that an evaluation may change, e.g. data.path=... (repeatable)")


def analyze(args: argparse.Namespace) -> str:
    """Run the verb; what it prints.

    Raises:
        UserError: there is no finished run, or no such column.
        DataError: a damaged checkpoint or dataset.
    """
    from ple_rec.analysis.analyze import analyze as analyze_run
    from ple_rec.analysis.analyze_files import write_analysis
    from ple_rec.analysis.analyze_text import format_analysis
    from ple_rec.analysis.find_runs import named_run

    run_dir = named_run(args.run)
    found = analyze_run(run_dir, by=args.by, batches=args.batches, split=args.split, overrides=args.overrides)
    text, page = write_analysis(found, run_dir)
    return text if args.json else f"{format_analysis(found, _line_width())}\n\nanalysis: {page}"


def runs(args: argparse.Namespace) -> str:
    """Run `ple-rec runs`; what it prints.

    Raises:
        UserError: there is no such folder, or no such column to sort by.
    """
    import time

    from ple_rec.analysis.listing import list_runs, runs_json
    from ple_rec.analysis.runs_text import format_runs

    listing = list_runs(args.directory, text=args.filter, sort=args.sort, split=args.split, now=time.time())
    return runs_json(listing) if args.json else format_runs(listing, _line_width())


def diff(args: argparse.Namespace) -> str:
    """Run `ple-rec diff`; what it prints.

    Raises:
        UserError: there is no such run.
    """
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.analysis.run_diff import compare_runs
    from ple_rec.analysis.run_diff_text import diff_json, format_diff
    from ple_rec.analysis.run_record import read_record

    a, b = (read_record(named_run(name)) for name in (args.a, args.b))
    found = compare_runs(a, b, args.split)
    return diff_json(found) if args.json else format_diff(found, _line_width())


def report(args: argparse.Namespace) -> str:
    """Run `ple-rec report`; what it prints.

    Raises:
        UserError: there is no such run, or the report cannot be written.
    """
    from ple_rec.analysis.find_runs import named_run
    from ple_rec.reports.run.page import write_report

    return f"report: {write_report(named_run(args.run))}"


def _line_width() -> int:
    """Characters that a line of output may have."""
    import shutil

    return shutil.get_terminal_size(fallback=(_WIDTH, 24)).columns
