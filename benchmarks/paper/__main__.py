"""`python -m benchmarks.paper`: prepare the datasets, estimate the time, run the comparisons, and write paper.html.

Runs that have finished are kept, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.paper import figure7
from benchmarks.paper.page import FinishedPart, write_paper
from benchmarks.paper.parts import FIGURE7_SIZE, PaperComparison, PaperPart, all_parts, quick_parts, select_parts
from ple_rec.analysis.compare.compare import create_workers, jobs_and_devices, run_comparison
from ple_rec.analysis.compare.estimate import Bounds, Pace, estimate_seconds, measure_paces
from ple_rec.analysis.compare.matrix import build_matrix
from ple_rec.analysis.compare.reuse import find_reusable_runs, without_runs
from ple_rec.analysis.compare.runs import COMPARISON_FILE
from ple_rec.analysis.compare.work import create_studies, read_work
from ple_rec.config.choices import COMPARISON_CONFIGS
from ple_rec.config.compare import CompareConfig
from ple_rec.config.load import load_config
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import UserError
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.runtime.exits import PREEMPTED, SOME_FAILED, end_process, run_reporting_errors
from ple_rec.text.messages import print_messages
from ple_rec.text.progress import print_line


def _parser(parts: Sequence[PaperPart]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="few runs on little data: minutes, to see that it works")
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help=f"of {', '.join(part.name for part in parts)}, or comparisons of these by the name of their folder; "
        "default: all",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="HOURS",
        help="start no run after this time; the page shows what has finished, and the next call goes on",
    )
    parser.add_argument(
        "--seeds", type=positive_int, metavar="N", help="seeds of each variant; default: those of the part"
    )
    parser.add_argument(
        "--fig7-size",
        type=_parse_size,
        metavar="ROWSxINPUTS",
        help="size of each dataset of Fig. 7; default: {}x{}".format(*FIGURE7_SIZE),
    )
    parser.add_argument(
        "--jobs", type=positive_int, metavar="N", help="runs side by side; default: one per GPU or core"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), metavar="DIR", help="default: runs/paper")
    parser.add_argument("--overwrite", action="store_true", help="remove existing runs with other settings")
    parser.add_argument("--dry-run", action="store_true", help="prepare, print the estimate, then stop")
    return parser


def positive_int(text: str) -> int:
    """Parse a positive int of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive int")
    return int(text)


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected samples and inputs, such as 200000x128")
    return int(match[1]), int(match[2])


def chosen_parts(args: argparse.Namespace) -> list[PaperPart]:
    """Return the parts and comparisons that the arguments select.

    Raises:
        UserError: No part has such a name, or options exclude each other.
    """
    if args.quick and args.fig7_size is not None:
        raise UserError("--fig7-size", "given with --quick", "--quick sets the size itself", "leave one of them out")
    parts = quick_parts() if args.quick else all_parts(args.fig7_size or FIGURE7_SIZE)
    chosen = parts if args.parts is None else select_parts(parts, args.parts)
    if args.seeds is None:
        return chosen
    return [replace(p, comparisons=tuple(replace(c, seeds=args.seeds) for c in p.comparisons)) for p in chosen]


def make_paper(args: argparse.Namespace) -> int:
    """Make the chosen parts of the paper and write their page.

    Returns:
        Exit code: `SOME_FAILED` if a run has failed, else `PREEMPTED` if a signal has stopped runs, else 0.

    Raises:
        UserError: An argument or a dataset is wrong.
    """
    chosen = chosen_parts(args)
    if args.budget is not None and not 0 < args.budget < math.inf:
        raise UserError("--budget", f"got {args.budget}", "hours are positive", "give for example --budget 2")
    deadline = None if args.budget is None else time.monotonic() + args.budget * 3600
    if unprepared := {c.data: None for part in chosen for c in part.comparisons if c.prepare and not _has_dataset(c)}:
        print_line(f"{len(unprepared)} dataset(s) to prepare, then the estimate: {', '.join(map(str, unprepared))}")
    ready = [(part, [c for c in part.comparisons if _ensure_dataset(c)]) for part in chosen]
    _print_estimate(ready, args)
    if args.dry_run:
        return 0
    finished, failed, stopped = [], [], []
    for part, comparisons in ready:
        results: dict[str, dict[str, Any]] = {}
        for comparison in comparisons:
            print_line(f"\n== {part.title}: {comparison.name}")
            compare = _comparison_config(comparison)
            with print_messages():
                comparison_result = run_comparison(
                    compare,
                    Path(),
                    comparison.overrides,
                    RunDirectory(args.out / comparison.name, args.out / comparison.name),
                    report=report_comparison,
                    jobs=args.jobs,
                    overwrite=args.overwrite,
                    deadline=deadline,
                    reuse=comparisons_on_same_data(comparison, args.out),
                )
            assert comparison_result is not None, "not a dry run"
            results[comparison.name] = json.loads(comparison_result.json)
            failed += [f"{comparison.name}: {run}" for run in comparison_result.failed]
            stopped += comparison_result.stopped
        missing = [c.name for c in part.comparisons if c.name not in results]
        finished.append(FinishedPart(part, results, missing))
        if part.correlations and results:
            points = finished[-1].points
            print_line(f"\n{figure7.mse_table(points)}\n\n{figure7.summary(points)}")
    page = write_paper(finished, args.out)
    print_line(f"\npaper: {page}")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}; the others are kept, run again to retry\n")
        return SOME_FAILED
    return PREEMPTED if stopped else 0


def _has_dataset(comparison: PaperComparison) -> bool:
    return (comparison.data / SUCCESS_FILE).exists()


def _ensure_dataset(comparison: PaperComparison) -> bool:
    """Prepare the dataset of a comparison if it is missing, and return True; return False if only the user can make it.

    Raises:
        UserError: The preparation fails.
    """
    if _has_dataset(comparison):
        return True
    if not comparison.prepare:
        print_line(
            f"{comparison.name}: left out, since {comparison.data} is not there; docs/paper.md says how to make it"
        )
        return False
    print_line(f"preparing {comparison.data}")
    command = [sys.executable, "-m", "ple_rec", "prep", *comparison.prepare]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            str(comparison.data), done.stderr.strip(), "the part needs this dataset", "see above, or leave the part out"
        )
    return True


def comparisons_on_same_data(comparison: PaperComparison, out: Path) -> list[Path]:
    """Return the folders of other comparisons on the same dataset, whose runs with equal settings are reused."""
    on_its_data = [other.name for part in all_parts() for other in part.comparisons if other.data == comparison.data]
    return [out / name for name in on_its_data if name != comparison.name and (out / name / COMPARISON_FILE).is_file()]


def _comparison_config(comparison: PaperComparison) -> CompareConfig:
    recipe = load_config(CompareConfig, comparison.recipe, kind=COMPARISON_CONFIGS)
    variants = {n: v for n, v in recipe.variants.items() if not comparison.variants or n in comparison.variants}
    tune = recipe.tune.model_copy(update={"trials": comparison.tune})
    changes: dict[str, Any] = {"name": comparison.name, "seeds": comparison.seeds, "variants": variants, "tune": tune}
    return recipe.model_copy(update=changes | ({"match": comparison.match} if comparison.match else {}))


def _print_estimate(ready: Sequence[tuple[PaperPart, Sequence[PaperComparison]]], args: argparse.Namespace) -> None:
    """Print the estimated time of each part, from short test runs of its first comparison that has runs to train."""
    total = Bounds(0.0, 0.0)
    for part, comparisons in ready:
        seconds, runs, left, trials = Bounds(0.0, 0.0), 0, 0, 0
        paces: list[Pace] = []
        for comparison in comparisons:
            compare, root = _comparison_config(comparison), args.out / comparison.name
            matrix = build_matrix(compare, Path(), comparison.overrides)
            work = read_work(matrix, create_studies(matrix, compare.tune, root), root, overwrite=args.overwrite)
            work = without_runs(work, find_reusable_runs(work, comparisons_on_same_data(comparison, args.out)))
            runs, left, trials = runs + len(work.runs), left + len(work.unfinished_runs), trials + work.trials_left
            jobs, devices = jobs_and_devices(matrix, args.jobs)
            if workers := create_workers(work, jobs, devices):
                paces = paces or measure_paces(work.variants_left, workers, len(matrix.tasks))
                seconds = seconds.plus(estimate_seconds(work, jobs, paces))
        total = total.plus(seconds)
        tuning = f" and {trials} trials before them" if trials else ""
        print_line(f"{part.name}: {part.title}: {left} of {runs} runs to train{tuning}, {seconds}")
    print_line(f"in all {total}, if this machine stays as busy as now; finished runs correct the estimate")


def main() -> None:
    """Run the command line."""
    args = _parser(all_parts()).parse_args()
    end_process(run_reporting_errors(lambda: make_paper(args)))


if __name__ == "__main__":
    main()
