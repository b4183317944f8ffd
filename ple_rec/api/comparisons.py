"""Comparison of several models, trained with several seeds and usually at equal cost: `compare` and `Comparison`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ple_rec.api.arguments import (
    Overrides,
    PathLike,
    check_choice,
    check_count,
    check_list,
    check_location,
    check_path,
    config_source,
    errors_name_arguments,
    override_texts,
)
from ple_rec.api.html import Page, block, display_path, line, table
from ple_rec.api.torch_state import preserve_torch_state
from ple_rec.config.choices import COMPARISON_CONFIGS, Match
from ple_rec.config.compare import CompareConfig
from ple_rec.storage import Location
from ple_rec.text.messages import print_messages

if TYPE_CHECKING:
    import pyarrow as pa


class Comparison:
    """Results of a comparison. `compare` makes it.

    Attributes:
        path: Directory of the comparison, with a run directory for each variant and seed.
        results: Content of `compare.json`.
        failed: Runs that failed, as "<variant> seed <n>"; the same call tries them again.
        stopped: Trials and runs that SIGTERM stopped, as "<variant>, trial <n>" or "<variant>, seed <n>"; the same call
            resumes them.
    """

    path: Location
    results: Mapping[str, Any]
    failed: list[str]
    stopped: list[str]

    def __init__(
        self, path: Location, results: Mapping[str, Any], failed: Sequence[str], stopped: Sequence[str] = ()
    ) -> None:
        self.path, self.results = path.absolute(), results
        self.failed, self.stopped = list(failed), list(stopped)

    @property
    def verdict(self) -> str:
        """Verdict in sentences: which variants are better than the baseline, worse, or not distinguishable from it."""
        return "\n".join(self.results["verdict"]["sentences"])

    def table(self) -> pa.Table:
        """Return a row for each task and variant.

        Its columns are `task`, `variant`, `metric` ("auc", or "mse" of a regression), `seeds` (their number), `mean`
        and `sd` over the seeds, `gain` over the baseline (above 0 is better; null for the baseline), and the 95 %
        intervals of the gain over seeds and over resampled rows: `seed_low`, `seed_high`, `row_low`, `row_high`. Rows
        of the metrics "gauc" and "subgroup_gauc" follow if the dataset has subgroups.
        """
        import pyarrow as pa

        names = ("task", "variant", "metric", "seeds", "mean", "sd", "gain")
        rows = []
        for task, variant, metric, result in self._all_results():
            gain = result["gain"] or {}
            ends = [end for key in ("seed", "row") for end in gain.get(f"{key}_interval") or (None, None)]
            values = [task, variant, metric, len(result["values"]), result["mean"], result["sd"]]
            rows.append([*values, gain.get("mean"), *ends])
        # Without rows, each of the 11 columns (7 names and 4 ends of intervals) is empty.
        columns = zip(*rows, strict=True) if rows else [()] * 11
        heads = (*names, "seed_low", "seed_high", "row_low", "row_high")
        return pa.table({head: pa.array(column) for head, column in zip(heads, columns, strict=True)})

    def report(self) -> Page:
        """Return the page of the comparison, `compare.html`."""
        return Page(self.path / "compare.html")

    def _all_results(self) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
        """Yield task, variant, metric and result: those of the main metrics, then those of GAUC."""
        for task, about in self.results["tasks"].items():
            for variant, result in self._results_by_variant(task).items():
                yield task, variant, about["metric"], result
        for variant, entry in self.results["variants"].items():
            for task, metrics in entry.get("gauc", {}).items():
                for metric, result in metrics.items():
                    yield task, variant, metric, result

    def _results_by_variant(self, task: str) -> dict[str, Mapping[str, Any]]:
        """Return the results of a task, by variant."""
        variants = self.results["variants"].items()
        return {name: variant["tasks"][task] for name, variant in variants if task in variant["tasks"]}

    def __repr__(self) -> str:
        """Return the path and the verdict."""
        return f"Comparison({display_path(self.path)!r})\n{self.verdict}"

    def _repr_html_(self) -> str:
        from ple_rec.reports.compare.text import interval_text, signed_text
        from ple_rec.text.units import mean_sd_text

        tables = []
        for task, about in self.results["tasks"].items():
            rows = [
                [name, mean_sd_text(result["mean"], result["sd"], "±"), signed_text((result["gain"] or {}).get("mean"))]
                + [interval_text((result["gain"] or {}).get(key)) for key in ("seed_interval", "row_interval")]
                for name, result in self._results_by_variant(task).items()
            ]
            heads = ["", "mean ± sd", "gain", "95 % over seeds", "95 % over rows"]
            tables.append(table(heads, rows, f"{task}, {about['metric'].upper()}"))
        sentences = [line("", sentence) for sentence in self.results["verdict"]["sentences"]]
        head = line(self.results["name"], f"{len(self.results['seeds'])} seeds", display_path(self.path))
        return block(head, *tables, *sentences)


@errors_name_arguments
def compare(
    config: PathLike | Mapping[str, Any] | CompareConfig,
    *,
    runs: PathLike = "runs/compare",
    overrides: Overrides = (),
    seeds: int | None = None,
    match: Match | None = None,
    trials: int | None = None,
    variants: Sequence[str] | None = None,
    jobs: int | None = None,
    reuse: Sequence[PathLike] = (),
    overwrite: bool = False,
) -> Comparison:
    """Train several models with several seeds at equal cost, as `ple-rec compare` does.

    Finished runs are kept and interrupted ones resumed. Each run is a process of its own; several run in parallel.

    Args:
        config: Name of a recipe of a comparison ("census-compare"), path of a TOML file, its content as a dict, or a
            `CompareConfig`; docs/compare.md has its keys. Paths in a dict are relative to the working directory.
        runs: Folder of comparisons; this comparison is written to its folder `<name>`.
        overrides: Changes of every run: `{"train.epochs": 2}`, or texts "key=value".
        seeds: Number of seeds; None for that of the comparison.
        match: Cost that all variants share, "flops", "params" or "none"; None for that of the comparison.
        trials: Number of tuning trials for each variant; None for that of the comparison.
        variants: Names of the variants to train beside the baseline; None for all.
        jobs: Number of parallel runs; None for one per GPU, or on a CPU for as many as its cores allow.
        reuse: Directories of other comparisons, whose finished runs with the same settings are reused.
        overwrite: True to remove existing runs with other settings.

    Raises:
        UserError: The input is invalid, and nothing has been trained.
        KeyboardInterrupt: The user pressed Ctrl-C; finished runs are kept.
    """
    if match is not None:
        check_choice("match", match, ("flops", "params", "none"))
    seeds = None if seeds is None else check_count("seeds", seeds)
    jobs = None if jobs is None else check_count("jobs", jobs)
    if trials is not None:
        trials = check_count("trials", trials, 0)
    names = None if variants is None else check_list("variants", variants)
    others = [check_path("reuse", each) for each in check_list("reuse", reuse)]
    texts = override_texts(overrides)
    with preserve_torch_state(with_group=False), print_messages():
        from ple_rec.analysis.compare.compare import run_comparison
        from ple_rec.analysis.compare.in_store import hold_comparison
        from ple_rec.analysis.compare.load import load_comparison
        from ple_rec.analysis.compare.reuse import check_comparisons
        from ple_rec.reports.compare.page import report_comparison

        check_comparisons(others)
        content = config.model_dump(mode="json", exclude_none=True) if isinstance(config, CompareConfig) else config
        source = config_source(content, CompareConfig, COMPARISON_CONFIGS)
        compare_config, folder = load_comparison(source, seeds=seeds, match=match, trials=trials, variants=names)
        where = check_location("runs", runs) / compare_config.name
        with hold_comparison(where) as directory:
            outcome = run_comparison(
                compare_config,
                folder,
                texts,
                directory,
                report=report_comparison,
                jobs=jobs,
                overwrite=overwrite,
                trained_variants=names,
                reuse=others,
            )
    # Only a dry run returns None.
    assert outcome is not None
    return Comparison(where, json.loads(outcome.json), outcome.failed, outcome.stopped)
