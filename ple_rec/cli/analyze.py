"""`ple-rec analyze`: flags and output; `ple_rec.analysis.analyze` analyses a finished run."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from ple_rec.cli.console import line_width, require_torch, show
from ple_rec.cli.options import EvaluationOverrideFlags, RunName, flag, positive_int, verb_app

app = verb_app(
    "analyze",
    """\
examples:
  ple-rec analyze runs/census-ple
  ple-rec analyze census-ple --by sex --by education
  ple-rec analyze kuairand-ple --by tab --batches 50 --split valid --json

docs/analyze.md explains every figure.
""",
)


@Parameter(name="*")
@dataclass(frozen=True)
class AnalyzeFlags:
    """Flags of `ple-rec analyze`."""

    _: KW_ONLY
    by: Annotated[
        tuple[str, ...],
        flag(
            "column of the test split by whose values gates are compared, besides evaluation.slices (repeatable)",
            "COLUMN",
        ),
    ] = ()
    batches: Annotated[int, flag("number of batches for the gradients; default 20", "N", positive_int)] = 20
    split: Annotated[
        Literal["train", "valid", "test"],
        flag("split of the --batches: the first batches of train (default), or batches spread over another split"),
    ] = "train"
    json: Annotated[bool, flag("print analysis.json instead of tables")] = False
    overrides: EvaluationOverrideFlags = ()


@app.default
def analyze(run: RunName, /, *, options: AnalyzeFlags = AnalyzeFlags()) -> int:
    """Analyze a finished run.

    Measures the share of each expert in each gate over the test split, how differently tasks use shared experts, where
    their gradients conflict, how their labels correlate, and whether gates react to the values of a column. Writes
    analysis.html, analysis.json and test_rows.npz into the run directory.
    """
    require_torch()
    from ple_rec.analysis.analyze import analyze as analyze_run
    from ple_rec.reports.analysis.page import write_analysis
    from ple_rec.reports.analysis.text import format_analysis
    from ple_rec.runs.find import find_run

    run_dir = find_run(run)
    analysis = analyze_run(
        run_dir, by=options.by, batches=options.batches, split=options.split, overrides=options.overrides
    )
    analysis_json, page = write_analysis(analysis, run_dir)
    show(analysis_json if options.json else f"{format_analysis(analysis, line_width())}\n\nanalysis: {page}")
    return 0
