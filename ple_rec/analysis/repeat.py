"""Training of configurations with several seeds, and mean and standard deviation of their metrics (`ple-rec repeat`).

A finished run of the same configuration and dataset is reused, so a second call goes on with the first run that has not
finished. That run is trained from its start.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.analysis.series import check_checkpoints_apart, inspect_run, with_seed
from ple_rec.config.load import dump_toml, load_schema
from ple_rec.config.metrics import GAUCS, METRICS
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.layout import explain_write_errors, write_json, write_text
from ple_rec.runs.results import MISSING
from ple_rec.text import align_columns
from ple_rec.text.units import mean_sd_text, metric_text

SUMMARISED_METRICS = ("auc", *GAUCS, "ne", "logloss", "calibration", "mse", "rmse")
_HEADINGS = {metric.key: metric.heading for metric in METRICS}


def repeat(
    configs: Sequence[RunConfig],
    seeds: Sequence[int],
    runs: Path,
    train_run: Callable[[Path, Path], int],
    *,
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Train every configuration with every seed, unless that run has finished, and summarise the finished runs.

    Args:
        configs: Configurations with different names; their `seed` is replaced.
        seeds: Seeds of each configuration; the directory of a run is `runs/<name>/seed-<n>`.
        runs: Directory of all runs; the summary of a configuration is written to `runs/<name>/repeat.json`.
        train_run: Function that trains a run from a configuration file into a run directory, whose content it
            replaces, and returns an exit code.
        overwrite: True to replace runs of another configuration or dataset. Finished runs of the same configuration and
            dataset are still reused.

    Returns:
        A summary of each configuration (see `summarise`), and the names of runs that failed, as `<name> seed <n>`.

    Raises:
        UserError: Before any run starts: two configurations have the same name, one does not evaluate the test split, a
            dataset directory is missing, two runs would keep their checkpoints in one place, or a directory holds a run
            of another configuration or dataset. Later: a file cannot be written.
    """
    names = [config.name for config in configs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            "--config",
            f"{names.count(duplicates[0])} configurations are named {duplicates[0]!r}",
            f"the runs of each lie in {runs}/<name>",
            "give each a `name` of its own",
        )
    for config in configs:
        if "test" not in config.evaluation.splits:
            raise UserError(
                "evaluation.test",
                f"got false in {config.name}",
                "a summary has metrics on the test split",
                "leave it out",
            )
    check_checkpoints_apart(with_seed(config, seed) for config in configs for seed in seeds)
    datasets = [load_schema(config.data.path).fingerprint for config in configs]

    def finished_metrics(config: RunConfig, dataset: str, seed: int) -> dict[str, Any] | None:
        state = inspect_run(runs / config.name / f"seed-{seed}", with_seed(config, seed), dataset)
        if not overwrite:
            state.refuse_foreign()
        return state.metrics or None

    for config, dataset in zip(configs, datasets, strict=True):
        for seed in seeds:
            # This call raises the error about a run of other settings before the first run starts.
            finished_metrics(config, dataset, seed)
    summaries, failed = [], []
    for config, dataset in zip(configs, datasets, strict=True):
        directory = runs / config.name
        with explain_write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        metrics_by_seed: dict[int, dict[str, Any]] = {}
        for seed in seeds:
            metrics = finished_metrics(config, dataset, seed)
            if metrics is None:
                file, run_dir = directory / f"seed-{seed}.toml", directory / f"seed-{seed}"
                write_text(file, dump_toml(with_seed(config, seed)))
                if train_run(file, run_dir):
                    failed.append(f"{config.name} seed {seed}")
                    continue
                metrics = finished_metrics(config, dataset, seed)
                assert metrics is not None, f"{run_dir} ended with 0 but has no metrics of its configuration"
            metrics_by_seed[seed] = metrics
        summaries.append(summarise(config.name, metrics_by_seed))
        write_json(directory / "repeat.json", summaries[-1])
    return summaries, failed


def summarise(name: str, metrics_by_seed: Mapping[int, Mapping[str, Any]], split: str = "test") -> dict[str, Any]:
    """Return mean and sample standard deviation (n - 1) over seeds, per task and metric.

    Args:
        name: Name of the configuration.
        metrics_by_seed: Content of `metrics.json` by seed.
        split: Split whose metrics are summarised.

    Returns:
        `{"name", "split", "seeds", "tasks": {task: {metric: {"mean", "sd", "values"}}}, "paper"}`. `sd` is None for a
        single value. `paper` has the metrics that the PLE paper reports for this dataset, by task; empty if it reports
        none.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for metrics in metrics_by_seed.values():
        for task, values in metrics[split]["tasks"].items():
            for metric in SUMMARISED_METRICS:
                if values.get(metric) is not None:
                    tasks.setdefault(task, {}).setdefault(metric, []).append(values[metric])
    return {
        "name": name,
        "split": split,
        "seeds": list(metrics_by_seed),
        "tasks": {
            task: {
                metric: {
                    "mean": statistics.fmean(values),
                    "sd": statistics.stdev(values) if len(values) > 1 else None,
                    "values": values,
                }
                for metric, values in metrics.items()
            }
            for task, metrics in tasks.items()
        },
        "paper": next((metrics["paper"] for metrics in metrics_by_seed.values() if "paper" in metrics), {}),
    }


def format_summaries(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return a table as text: a row per configuration and task, `mean +- sd` per metric. Without runs, it is a note."""
    rows = [(s, task, values) for s in summaries for task, values in s["tasks"].items()]
    if not rows:
        return "no finished runs"
    metrics = [metric for metric in SUMMARISED_METRICS if any(metric in values for _, _, values in rows)]
    paper = any(s["paper"] for s in summaries)
    cells = [["", "task", *(_HEADINGS[metric] for metric in metrics), *(["paper's AUC"] if paper else [])]]
    for summary, task, values in rows:
        seeds, published = len(summary["seeds"]), summary["paper"].get(task, {}).get("auc")
        cells.append(
            [
                f"{summary['name']} ({seeds} seed{'s' if seeds > 1 else ''})",
                task,
                *(mean_sd_text(v["mean"], v["sd"]) if (v := values.get(metric)) else MISSING for metric in metrics),
                *([metric_text(published) if published is not None else MISSING] if paper else []),
            ]
        )
    return "\n".join(align_columns(cells))
