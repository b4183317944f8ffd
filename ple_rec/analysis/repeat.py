"""Mean and standard deviation of every metric on the test split over several seeds of each configuration.

A finished run of the same configuration and dataset is reused, so an interrupted series goes on with the first run that
has not finished. That run starts anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.analysis.series import check_checkpoints_apart, config_of_run, inspect_run
from ple_rec.config.load import dump_toml, load_schema
from ple_rec.config.metrics import METRICS
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.layout import write_json, write_text, writing
from ple_rec.runs.results import MISSING
from ple_rec.text import aligned
from ple_rec.text.units import mean_sd_text, metric_text

SHOWN = ("auc", "ne", "logloss", "calibration", "mse", "rmse")
_HEADINGS = {metric.key: metric.heading for metric in METRICS}


def repeat(
    configs: Sequence[RunConfig],
    seeds: Sequence[int],
    runs: Path,
    start: Callable[[Path, Path], int],
    *,
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Train every configuration with every seed that has not been trained, and summarise the finished runs.

    Args:
        configs: Configurations of different names; their `seed` is replaced.
        seeds: Seeds of each configuration; the directory of a run is `runs/<name>/seed-<n>`.
        runs: Directory of all runs; `runs/<name>/repeat.json` is a summary.
        start: Function that trains one run from a configuration file into a run directory, replaces the content of
            that directory, and returns an exit code.
        overwrite: True to replace runs of another configuration or dataset.

    Returns:
        A summary per configuration (see `summarise`), and the names of runs that failed, as `<name> seed <n>`.

    Raises:
        UserError: Before any run starts: two configurations have one name, one leaves the test split unread, a dataset
            directory is missing, two runs would keep their checkpoints in one place, or a directory holds a run of
            another configuration or dataset. Later: the disk cannot be written.
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
    check_checkpoints_apart(config_of_run(config, seed) for config in configs for seed in seeds)
    datasets = [load_schema(config.data.path).fingerprint for config in configs]

    def finished(config: RunConfig, dataset: str, seed: int) -> dict[str, Any] | None:
        state = inspect_run(runs / config.name / f"seed-{seed}", config_of_run(config, seed), dataset)
        if not overwrite:
            state.refuse_foreign()
        return state.metrics or None

    for config, dataset in zip(configs, datasets, strict=True):
        for seed in seeds:
            # Foreign runs are refused before the first run starts.
            finished(config, dataset, seed)
    summaries, failed = [], []
    for config, dataset in zip(configs, datasets, strict=True):
        directory = runs / config.name
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        metrics_by_seed: dict[int, dict[str, Any]] = {}
        for seed in seeds:
            metrics = finished(config, dataset, seed)
            if metrics is None:
                file, run_dir = directory / f"seed-{seed}.toml", directory / f"seed-{seed}"
                write_text(file, dump_toml(config_of_run(config, seed)))
                if start(file, run_dir):
                    failed.append(f"{config.name} seed {seed}")
                    continue
                metrics = finished(config, dataset, seed)
                assert metrics is not None, f"{run_dir} ended with 0 but has no metrics of its configuration"
            metrics_by_seed[seed] = metrics
        summaries.append(summarise(config.name, metrics_by_seed))
        write_json(directory / "repeat.json", summaries[-1])
    return summaries, failed


def summarise(name: str, runs: Mapping[int, Mapping[str, Any]], split: str = "test") -> dict[str, Any]:
    """Return mean and sample standard deviation (n - 1) over seeds, per task and metric.

    Args:
        name: Name of the configuration.
        runs: Content of `metrics.json` by seed.
        split: Split that is summarised.

    Returns:
        `{"name", "split", "seeds", "tasks": {task: {metric: {"mean", "sd", "values"}}}, "paper"}`; sd is None for a
        single seed.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for metrics in runs.values():
        for task, values in metrics[split]["tasks"].items():
            for metric in SHOWN:
                if values.get(metric) is not None:
                    tasks.setdefault(task, {}).setdefault(metric, []).append(values[metric])
    return {
        "name": name,
        "split": split,
        "seeds": list(runs),
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
        "paper": next((metrics["paper"] for metrics in runs.values() if "paper" in metrics), {}),
    }


def format_summaries(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a row per configuration and task, and `mean +- sd` per metric, or a note without runs."""
    rows = [(s, task, values) for s in summaries for task, values in s["tasks"].items()]
    if not rows:
        return "no finished runs"
    metrics = [metric for metric in SHOWN if any(metric in values for _, _, values in rows)]
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
    return "\n".join(aligned(cells))
